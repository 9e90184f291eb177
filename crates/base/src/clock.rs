//! The gateway's source of time, which tests can move by hand.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use chrono::{DateTime, SecondsFormat, Utc};

use crate::units::whole_nanos;

/// A source of time: the machine's, or one that a test moves.
///
/// Cloning is cheap and every clone of a test clock moves together.
#[derive(Clone, Debug, Default)]
pub struct Clock(Source);

#[derive(Clone, Debug, Default)]
enum Source {
    #[default]
    Machine,
    Test {
        start: Instant,
        wall: SystemTime,
        moved_nanos: Arc<AtomicU64>,
    },
}

impl Clock {
    /// Creates a clock that shows the machine's time.
    pub fn machine() -> Self {
        Self(Source::Machine)
    }

    /// Creates a clock that stands still until [`Clock::advance`].
    #[expect(clippy::disallowed_methods, reason = "the only reader of the clock")]
    pub fn test() -> Self {
        Self(Source::Test {
            start: Instant::now(),
            wall: SystemTime::UNIX_EPOCH + Duration::from_hours(500_000),
            moved_nanos: Arc::default(),
        })
    }

    #[inline]
    #[expect(clippy::disallowed_methods, reason = "the only reader of the clock")]
    pub fn now(&self) -> Instant {
        match &self.0 {
            Source::Machine => Instant::now(),
            Source::Test {
                start, moved_nanos, ..
            } => *start + Duration::from_nanos(moved_nanos.load(Ordering::Relaxed)),
        }
    }

    #[inline]
    #[expect(clippy::disallowed_methods, reason = "the only reader of the clock")]
    pub fn wall(&self) -> SystemTime {
        match &self.0 {
            Source::Machine => SystemTime::now(),
            Source::Test {
                wall, moved_nanos, ..
            } => *wall + Duration::from_nanos(moved_nanos.load(Ordering::Relaxed)),
        }
    }

    /// Moves a test clock forward; the machine's clock stays as it is.
    pub fn advance(&self, by: Duration) {
        debug_assert!(
            !matches!(self.0, Source::Machine),
            "only a test clock moves"
        );
        if let Source::Test { moved_nanos, .. } = &self.0 {
            moved_nanos.fetch_add(whole_nanos(by), Ordering::Relaxed);
        }
    }
}

/// Formats a time as in RFC 3339, in UTC and with milliseconds.
pub fn rfc3339(time: SystemTime) -> String {
    DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Millis, true)
}
