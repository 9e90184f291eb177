//! What the cache did for one request: for the answer's headers, the log and metrics.

use std::time::Duration;

/// The word of `X-Cache-Status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CacheOutcome {
    /// Answered from the store, fresh.
    Hit,
    /// Nothing fitting was stored; the origin answered.
    Miss,
    /// Answered from the store, past its time: while a new one is fetched, or since the
    /// origin failed.
    Stale,
    /// What was stored is past its time, and the origin gave a new answer.
    Expired,
    /// What was stored is past its time, and the origin said that it still holds.
    Revalidated,
    /// The request went past the cache.
    Bypass,
}

impl CacheOutcome {
    pub const ALL: [Self; 6] = [
        Self::Hit,
        Self::Miss,
        Self::Stale,
        Self::Expired,
        Self::Revalidated,
        Self::Bypass,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Hit => "HIT",
            Self::Miss => "MISS",
            Self::Stale => "STALE",
            Self::Expired => "EXPIRED",
            Self::Revalidated => "REVALIDATED",
            Self::Bypass => "BYPASS",
        }
    }

    /// The same as a metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Stale => "stale",
            Self::Expired => "expired",
            Self::Revalidated => "revalidated",
            Self::Bypass => "bypass",
        }
    }
}

/// What is known of a request on a route with a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheFacts {
    pub outcome: CacheOutcome,
    /// Why the store did not answer, or why the answer is not kept: a fixed word.
    pub why: Option<&'static str>,
    /// Until the stored answer is stale; negative once it is.
    pub ttl: Option<i64>,
    /// Of the stored answer that was sent.
    pub age: Option<Duration>,
    /// The origin's answer went into the store.
    pub is_stored: bool,
    /// The answer came on another request's way to the origin.
    pub is_collapsed: bool,
    /// What the origin answered; 0 if it was not asked.
    pub origin_status: u16,
}

impl CacheFacts {
    pub fn new(outcome: CacheOutcome) -> Self {
        Self {
            outcome,
            why: None,
            ttl: None,
            age: None,
            is_stored: false,
            is_collapsed: false,
            origin_status: 0,
        }
    }

    #[must_use]
    pub fn why(self, why: &'static str) -> Self {
        Self {
            why: Some(why),
            ..self
        }
    }
}
