//! Whether a request's body comes fast enough.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

/// The bounds of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes a second; 0 for none.
    pub rate: u64,
    /// How long a body may lag behind.
    pub grace: Duration,
}

/// How far a body lags behind its rate.
///
/// Only time in which somebody waits for the client counts, so that a slow backend is never
/// held against it. Each second of waiting adds a second; what comes takes off the time that
/// it should have taken. A body that was fast at first earns nothing for later: there would
/// be no bound to how long it may then stand still.
///
/// The reader of the body says what it sees; the task that looks for what has run out does
/// the sums.
#[derive(Debug, Default)]
pub struct Pace {
    received: AtomicU64,
    is_awaited: AtomicBool,
    /// The body has ended, or is bound to no rate.
    is_over: AtomicBool,
    /// The client waits for leave to send it.
    is_held: AtomicBool,
    /// As `received` was when the sums were done last.
    counted: AtomicU64,
    /// Milliseconds.
    lag: AtomicU64,
}

impl Pace {
    /// Another body begins.
    pub fn restart(&self) {
        self.is_awaited.store(false, Ordering::Relaxed);
        self.is_over.store(false, Ordering::Relaxed);
        self.is_held.store(false, Ordering::Relaxed);
        self.lag.store(0, Ordering::Relaxed);
    }

    /// Bytes of it came.
    #[inline]
    pub fn received(&self, bytes: usize) {
        // One task reads: nothing can come between.
        let received = self.received.load(Ordering::Relaxed);
        self.received
            .store(received.wrapping_add(bytes as u64), Ordering::Relaxed);
        self.is_awaited.store(false, Ordering::Relaxed);
        if bytes > 0 && self.is_held.load(Ordering::Relaxed) {
            self.release();
        }
    }

    /// The client may wait until it is told to go on (RFC 9110, 10.1.1): the time until then
    /// is the backend's.
    pub fn hold(&self) {
        self.is_held.store(true, Ordering::Relaxed);
    }

    /// The client was told to go on, or did so by itself.
    pub fn release(&self) {
        self.is_held.store(false, Ordering::Relaxed);
    }

    /// Somebody waits for more of it.
    #[inline]
    pub fn awaited(&self) {
        self.is_awaited.store(true, Ordering::Relaxed);
    }

    /// From here on nothing is expected.
    pub fn over(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    pub fn is_awaited(&self) -> bool {
        self.is_awaited.load(Ordering::Relaxed)
    }

    /// Whether the body has lagged for too long, `elapsed` milliseconds after the last time
    /// that this was asked.
    pub(super) fn is_too_slow(&self, elapsed: u64, is_awaited: bool, bounds: Bounds) -> bool {
        let received = self.received.load(Ordering::Relaxed);
        let counted = self.counted.swap(received, Ordering::Relaxed);
        if bounds.rate == 0 || self.is_over() {
            return false;
        }
        let come = received.wrapping_sub(counted).saturating_mul(1000) / bounds.rate;
        let is_held = self.is_held.load(Ordering::Relaxed);
        let waited = if is_awaited && !is_held { elapsed } else { 0 };
        let lag = self.lag.load(Ordering::Relaxed) + waited;
        let lag = lag.saturating_sub(come);
        self.lag.store(lag, Ordering::Relaxed);
        u128::from(lag) >= bounds.grace.as_millis()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        rate: 1024,
        grace: Duration::from_secs(10),
    };

    /// The second at which a client is too slow that sends `bytes(second)`, within ten
    /// minutes, if it ever is.
    fn ends_at(bytes: impl Fn(u64) -> usize, is_awaited: impl Fn(u64) -> bool) -> Option<u64> {
        let pace = Pace::default();
        (1..600).find(|second| {
            pace.received(bytes(*second));
            (0..10).any(|_| pace.is_too_slow(100, is_awaited(*second), BOUNDS))
        })
    }

    #[test]
    fn a_dripping_body_is_too_slow_after_the_grace() {
        assert_eq!(ends_at(|_| 0, |_| true), Some(10));
        assert_eq!(ends_at(|_| 1, |_| true), Some(10));
        assert_eq!(ends_at(|_| 512, |_| true), Some(20));
        // Twice the rate in one second out of two is no more than the rate.
        assert_eq!(
            ends_at(|s| if s % 2 == 0 { 2048 } else { 0 }, |_| true),
            None
        );
        assert_eq!(ends_at(|_| 1024, |_| true), None);
    }

    #[test]
    fn a_fast_beginning_does_not_pay_for_standing_still() {
        let burst = |second| if second < 5 { 1 << 20 } else { 0 };
        assert_eq!(ends_at(burst, |_| true), Some(14));
    }

    #[test]
    fn the_time_of_a_slow_backend_is_not_the_clients() {
        assert_eq!(ends_at(|_| 0, |_| false), None);
        // Waited for one second in ten.
        assert_eq!(ends_at(|_| 0, |second| second % 10 == 0), Some(100));
    }

    #[test]
    fn a_client_that_waits_for_leave_has_its_time_from_then_on() {
        let pace = Pace::default();
        pace.hold();
        assert!(!pace.is_too_slow(20_000, true, BOUNDS));
        pace.release();
        assert!(!pace.is_too_slow(9_000, true, BOUNDS));
        assert!(pace.is_too_slow(1_000, true, BOUNDS));
        // Whoever does not wait is not waited for.
        pace.restart();
        pace.hold();
        pace.received(1);
        assert!(pace.is_too_slow(20_000, true, BOUNDS));
    }

    #[test]
    fn a_body_that_has_ended_is_never_late() {
        let pace = Pace::default();
        pace.awaited();
        pace.over();
        assert!(!pace.is_too_slow(20_000, true, BOUNDS));
        pace.restart();
        assert!(pace.is_too_slow(20_000, true, BOUNDS));
        let none = Bounds { rate: 0, ..BOUNDS };
        assert!(!pace.is_too_slow(20_000, true, none));
    }
}
