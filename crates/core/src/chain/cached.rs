//! Result of the cache for one request, for the response headers, the log and metrics.

use std::time::Duration;

edgeway_base::enum_table! {
    /// Value of `X-Cache-Status`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub enum CacheOutcome => name {
        /// A fresh stored response was used.
        Hit = "HIT",
        /// No stored response matched; the origin sent the response.
        Miss = "MISS",
        /// A stale stored response was used, either while it is revalidated or because the origin
        /// failed.
        Stale = "STALE",
        /// The stored response was stale, and the origin sent a new one.
        Expired = "EXPIRED",
        /// The stored response was stale, and the origin confirmed that it is still valid.
        Revalidated = "REVALIDATED",
        /// The request bypassed the cache.
        #[default]
        Bypass = "BYPASS",
    }
}

impl CacheOutcome {
    /// Returns the name in metrics.
    pub fn label(self) -> String {
        self.name().to_ascii_lowercase()
    }
}

/// Cache facts of a request on a route with a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheFacts {
    pub outcome: CacheOutcome,
    /// Reason for not using a stored response, or for not storing the response: a fixed word.
    pub why: Option<&'static str>,
    /// Seconds until the stored response turns stale; negative once it is stale.
    pub ttl: Option<i64>,
    /// Age of the stored response that was sent.
    pub age: Option<Duration>,
    /// True if the origin's response was stored.
    pub is_stored: bool,
    /// True if the request was collapsed into another request to the origin.
    pub is_collapsed: bool,
    /// Status of the origin's response; 0 if no request was sent to the origin.
    pub origin_status: u16,
}

impl CacheFacts {
    pub fn new(outcome: CacheOutcome) -> Self {
        Self {
            outcome,
            ..Self::default()
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
