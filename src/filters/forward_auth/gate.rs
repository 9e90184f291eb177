//! How many questions are under way to one service, and a pause for one that does not answer:
//! a dead service holds up no more requests than it must.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::zones::Zone;

/// Failures in a row after which the service is asked by one request in a while only.
const PATIENCE: u32 = 5;
const WHILE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Gate {
    born: Instant,
    in_flight: AtomicU32,
    /// In a row.
    failures: AtomicU32,
    /// When it may be asked again, in milliseconds since `born`; counts from `PATIENCE`
    /// failures on.
    next: AtomicU64,
}

impl Zone for Gate {}

impl Gate {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            born: now,
            in_flight: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            next: AtomicU64::new(0),
        }
    }

    /// Leave to ask; none while `most` do, or while the service rests.
    pub(super) fn enter(&self, most: u32, now: Instant) -> Option<Slot<'_>> {
        if self.failures.load(Ordering::Relaxed) >= PATIENCE {
            let next = self.next.load(Ordering::Relaxed);
            let now = self.millis(now);
            let after = now + self.millis(self.born + WHILE);
            let is_mine = now >= next
                && self
                    .next
                    .compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok();
            if !is_mine {
                return None;
            }
        }
        let slot = Slot(self);
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        (before < most).then_some(slot)
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.born).as_millis()).unwrap_or(u64::MAX)
    }
}

/// One question under way, also if whoever asks gives up.
#[derive(Debug)]
pub(super) struct Slot<'a>(&'a Gate);

impl Slot<'_> {
    /// The service has said something; whether it had not for a while.
    pub(super) fn answered(&self) -> bool {
        let gate = self.0;
        // Most find it as it is, and write nothing that others read.
        gate.failures.load(Ordering::Relaxed) > 0
            && gate.failures.swap(0, Ordering::Relaxed) >= PATIENCE
    }

    /// It has not; whether it rests from now on.
    pub(super) fn failed(&self, now: Instant) -> bool {
        let gate = self.0;
        let next = gate.millis(now + WHILE);
        gate.next.store(next, Ordering::Relaxed);
        // From far above it would begin anew.
        let step = |failures: u32| Some(failures.saturating_add(1));
        let before = gate
            .failures
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, step);
        before == Ok(PATIENCE - 1)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;

    #[test]
    fn so_many_at_once_and_no_more() {
        let clock = Clock::test();
        let gate = Gate::new(clock.now());
        let first = gate.enter(2, clock.now()).unwrap();
        let second = gate.enter(2, clock.now());
        assert!(second.is_some());
        assert!(gate.enter(2, clock.now()).is_none());
        drop(first);
        assert!(gate.enter(2, clock.now()).is_some());
        drop(second);
        assert_eq!(gate.in_flight.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_service_that_fails_is_asked_once_in_a_while_until_it_answers() {
        let clock = Clock::test();
        let gate = Gate::new(clock.now());
        let ask = || gate.enter(9, clock.now());
        for count in 1..=PATIENCE {
            let rests = ask().unwrap().failed(clock.now());
            assert_eq!(rests, count == PATIENCE);
        }
        assert!(ask().is_none());
        clock.advance(WHILE);
        // One of them, whatever becomes of it.
        let probe = ask().unwrap();
        assert!(ask().is_none());
        assert!(!probe.failed(clock.now()));
        drop(probe);
        assert!(ask().is_none());
        clock.advance(WHILE);
        assert!(ask().unwrap().answered());
        assert!(!ask().unwrap().answered());
        assert!(!ask().unwrap().failed(clock.now()));
        assert!(ask().is_some());
    }
}
