//! Minimum rate of request bodies.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use edgeway_config::model::LimitsConfig;

/// Limits of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PaceLimits {
    /// Bytes per second. 0 for no limit.
    pub rate: u64,
    /// Time by which a body may lag behind.
    pub grace: Duration,
}

impl From<&LimitsConfig> for PaceLimits {
    fn from(limits: &LimitsConfig) -> Self {
        Self {
            rate: limits.body_rate.0,
            grace: limits.body_grace.0,
        }
    }
}

/// Lag of a body behind its minimum rate.
///
/// Only time spent waiting for the client counts, so a slow backend is never held against it. Each
/// second of waiting adds a second; received bytes subtract the time that they should have taken. A
/// fast start earns no credit, since it would allow a stall of any length later.
///
/// The reader of the body records events. The task that checks deadlines computes the lag.
#[derive(Debug, Default)]
pub struct Pace {
    received: AtomicU64,
    is_awaited: AtomicBool,
    /// True once the body has ended, or if it has no minimum rate.
    is_over: AtomicBool,
    /// True while the client may wait for `100 Continue` before it sends the body.
    is_held: AtomicBool,
    /// True if the client has not said how long the body is: it may be made while it is sent.
    is_open: AtomicBool,
    /// Value of `received` at the last check.
    counted: AtomicU64,
    /// Milliseconds.
    lag: AtomicU64,
}

impl Pace {
    /// Begins another body.
    pub fn restart(&self) {
        self.is_awaited.store(false, Ordering::Relaxed);
        self.is_over.store(false, Ordering::Relaxed);
        self.is_held.store(false, Ordering::Relaxed);
        self.is_open.store(false, Ordering::Relaxed);
        self.lag.store(0, Ordering::Relaxed);
    }

    /// Marks a body of unknown length, such as a line of a log each few seconds: it may be slow, but
    /// not pause.
    pub fn open(&self) {
        self.is_open.store(true, Ordering::Relaxed);
    }

    /// Records received bytes.
    #[inline]
    pub fn received(&self, bytes: usize) {
        // A single task writes this, so no update is lost.
        let received = self.received.load(Ordering::Relaxed);
        self.received
            .store(received.wrapping_add(bytes as u64), Ordering::Relaxed);
        self.is_awaited.store(false, Ordering::Relaxed);
        if bytes > 0 && self.is_held.load(Ordering::Relaxed) {
            self.release();
        }
    }

    /// Marks that the client may wait for `100 Continue` (RFC 9110, 10.1.1). The time until then is
    /// the backend's.
    pub fn hold(&self) {
        self.is_held.store(true, Ordering::Relaxed);
    }

    /// Marks that `100 Continue` was sent, or that the client did not wait for it.
    pub fn release(&self) {
        self.is_held.store(false, Ordering::Relaxed);
    }

    /// Marks that more of the body is awaited.
    #[inline]
    pub fn awaited(&self) {
        self.is_awaited.store(true, Ordering::Relaxed);
    }

    /// Marks the end: no more of the body is expected.
    pub fn over(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    pub fn is_awaited(&self) -> bool {
        self.is_awaited.load(Ordering::Relaxed)
    }

    /// Returns true while a client may wait for `100 Continue`.
    pub fn is_held(&self) -> bool {
        self.is_held.load(Ordering::Relaxed)
    }

    /// Returns true if the body has lagged for too long, `elapsed` milliseconds after the previous
    /// call.
    pub(super) fn is_too_slow(&self, elapsed: u64, is_awaited: bool, bounds: PaceLimits) -> bool {
        let received = self.received.load(Ordering::Relaxed);
        let counted = self.counted.swap(received, Ordering::Relaxed);
        if bounds.rate == 0 || self.is_over() {
            return false;
        }
        let come = match received.wrapping_sub(counted) {
            1.. if self.is_open.load(Ordering::Relaxed) => u64::MAX,
            bytes => bytes.saturating_mul(1000) / bounds.rate,
        };
        let waited = if is_awaited && !self.is_held() {
            elapsed
        } else {
            0
        };
        let lag = self.lag.load(Ordering::Relaxed) + waited;
        let lag = lag.saturating_sub(come);
        self.lag.store(lag, Ordering::Relaxed);
        u128::from(lag) >= bounds.grace.as_millis()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: PaceLimits = PaceLimits {
        rate: 1024,
        grace: Duration::from_secs(10),
    };

    /// Returns the second at which a client that sends `bytes(second)` is too slow, if that happens
    /// within ten minutes.
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
        // Twice the rate in every other second is no more than the rate.
        assert_eq!(
            ends_at(|s| if s % 2 == 0 { 2048 } else { 0 }, |_| true),
            None
        );
        assert_eq!(ends_at(|_| 1024, |_| true), None);
    }

    #[test]
    fn a_body_may_pause_for_half_a_minute_by_default() {
        for is_open in [false, true] {
            let limits = PaceLimits::from(&LimitsConfig::default());
            let pace = Pace::default();
            if is_open {
                pace.open();
            }
            pace.received(1 << 20);
            assert!(!pace.is_too_slow(0, true, limits));
            assert!(!pace.is_too_slow(29_999, true, limits));
            assert!(pace.is_too_slow(1, true, limits));
        }
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
    fn a_client_that_awaits_100_continue_has_its_time_from_then_on() {
        let pace = Pace::default();
        pace.hold();
        assert!(!pace.is_too_slow(20_000, true, BOUNDS));
        pace.release();
        assert!(!pace.is_too_slow(9_000, true, BOUNDS));
        assert!(pace.is_too_slow(1_000, true, BOUNDS));
        // A client that sends without waiting is held to the rate.
        pace.restart();
        pace.hold();
        pace.received(1);
        assert!(pace.is_too_slow(20_000, true, BOUNDS));
    }

    #[test]
    fn a_body_of_unknown_length_may_be_slow_and_not_pause() {
        let pace = Pace::default();
        pace.open();
        let elapsed = |bytes, time| {
            pace.received(bytes);
            pace.is_too_slow(time, true, BOUNDS)
        };
        assert!((0..100).all(|_| !elapsed(1, 9_000)));
        assert!(elapsed(0, 10_000));
        // The next body on the connection has a length.
        pace.restart();
        pace.received(1);
        assert!(pace.is_too_slow(10_000, true, BOUNDS));
    }

    #[test]
    fn a_body_that_has_ended_never_times_out() {
        let pace = Pace::default();
        pace.awaited();
        pace.over();
        assert!(!pace.is_too_slow(20_000, true, BOUNDS));
        pace.restart();
        assert!(pace.is_too_slow(20_000, true, BOUNDS));
        let none = PaceLimits { rate: 0, ..BOUNDS };
        assert!(!pace.is_too_slow(20_000, true, none));
    }
}
