//! Requests for a response until it is stored: what is asked for once takes no memory.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use smart_default::SmartDefault;

use crate::{base::recent_values::RecentValues, key::Key, policy::Variance, zones::Zone};

/// Number of counts kept at once.
const MAX_COUNTS: usize = 65_536;

/// Time without a request after which counting begins again.
const IDLE: Duration = Duration::from_mins(10);

/// Recent requests for responses that are not stored, counted by key and variant. Routes with the
/// same keys count together.
#[derive(Debug, SmartDefault)]
pub struct UseCounts(#[default(RecentValues::new(MAX_COUNTS))] RecentValues<(u32, Instant)>);

impl Zone for UseCounts {}

/// Number of requests from which on a response is stored.
#[derive(Debug)]
pub struct MinUses {
    number: u32,
    counts: Arc<UseCounts>,
}

impl MinUses {
    pub fn new(number: u32, counts: Arc<UseCounts>) -> Self {
        Self { number, counts }
    }

    pub fn number(&self) -> u32 {
        self.number
    }

    /// Counts a request, and returns true if its response may be stored.
    pub fn reached(&self, key: &Key, variance: Option<Variance>, now: Instant) -> bool {
        let counts = &self.counts.0;
        let variance = variance.unwrap_or_default().0.to_be_bytes();
        let of = counts.fingerprint([key.as_bytes(), &variance[..]]);
        let (count, _) = counts.update(of, |known| {
            let is_recent =
                |(_, last): &(u32, Instant)| now.saturating_duration_since(*last) < IDLE;
            let before = known.filter(is_recent).map_or(0, |(count, _)| count);
            (before.saturating_add(1), now)
        });
        count >= self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;

    #[test]
    fn a_response_is_stored_from_its_nth_request_on() {
        let clock = Clock::test();
        let uses = MinUses::new(3, Arc::default());
        let key = |path: &[u8]| Key::new("http", "a", path, None, b"");
        let (a, b) = (key(b"/a"), key(b"/b"));
        for expected in [false, false, true, true] {
            assert_eq!(uses.reached(&a, None, clock.now()), expected);
        }
        assert!(!uses.reached(&b, None, clock.now()));
        assert!(!uses.reached(&a, Some(Variance(1)), clock.now()));
        clock.advance(IDLE);
        assert!(!uses.reached(&a, None, clock.now()));
    }
}
