//! How long a backend takes to its first byte: an average that forgets.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// After this long a sample weighs half.
const MEMORY: Duration = Duration::from_secs(10);

/// An exponentially weighted average of first-byte times.
///
/// It decays towards zero while no sample comes, so that a backend that was slow once
/// gets another try.
#[derive(Debug, Default)]
pub(super) struct Latency {
    /// Nanoseconds; 0 while nothing is known. Not updated in one step with `at`:
    /// two samples at once may count as one, or with the other's time. Each value by
    /// itself is always one that was computed.
    average: AtomicU64,
    /// When `average` was last written, in nanoseconds of the epoch.
    at: AtomicU64,
}

impl Latency {
    pub(super) fn sample(&self, sample: Duration, now: u64) {
        let sample = u64::try_from(sample.as_nanos()).unwrap_or(u64::MAX).max(1);
        let before = self.average.load(Ordering::Relaxed);
        let at = self.at.swap(now, Ordering::Relaxed);
        let average = if before == 0 {
            sample
        } else {
            // A hundred samples a second would otherwise weigh as nothing each.
            let keep = keep(now.saturating_sub(at)).min(0.95);
            mix(before, keep, sample)
        };
        self.average.store(average.max(1), Ordering::Relaxed);
    }

    /// The average as it stands at `now`, in nanoseconds; `None` while nothing is known.
    pub(super) fn nanos(&self, now: u64) -> Option<u64> {
        let average = self.average.load(Ordering::Relaxed);
        if average == 0 {
            return None;
        }
        let age = now.saturating_sub(self.at.load(Ordering::Relaxed));
        Some(mix(average, keep(age), 0))
    }

    /// The average without its decay in nanoseconds, and when it was taken.
    pub(super) fn raw(&self) -> Option<(u64, u64)> {
        let average = self.average.load(Ordering::Relaxed);
        (average != 0).then(|| (average, self.at.load(Ordering::Relaxed)))
    }

    /// Begins with what [`Latency::raw`] gave elsewhere.
    pub(super) fn set_raw(&self, average: u64, at: u64) {
        self.at.store(at, Ordering::Relaxed);
        self.average.store(average, Ordering::Relaxed);
    }

    /// The average without its decay, for people to read.
    pub(super) fn average(&self) -> Option<Duration> {
        let average = self.average.load(Ordering::Relaxed);
        (average != 0).then(|| Duration::from_nanos(average))
    }
}

/// What remains of an old value after `age` nanoseconds: 1 at once, 1/2 after [`MEMORY`].
#[expect(
    clippy::cast_precision_loss,
    reason = "a share needs no more than 52 bits"
)]
fn keep(age: u64) -> f64 {
    let memory = MEMORY.as_nanos() as f64;
    memory / (memory + age as f64)
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between two values that are no less than 0; precise to 52 bits"
)]
fn mix(old: u64, keep: f64, new: u64) -> u64 {
    (old as f64 * keep + new as f64 * (1.0 - keep)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn it_follows_what_it_sees() {
        let latency = Latency::default();
        assert_eq!(latency.nanos(0), None);
        latency.sample(Duration::from_millis(10), 0);
        assert_eq!(latency.average(), Some(Duration::from_millis(10)));
        for tick in 1..=200 {
            latency.sample(Duration::from_millis(100), tick * SECOND / 100);
        }
        let average = latency.average().unwrap();
        assert!(average > Duration::from_millis(95), "{average:?}");
    }

    #[test]
    fn it_forgets_while_nothing_comes() {
        let latency = Latency::default();
        latency.sample(Duration::from_secs(2), 0);
        assert_eq!(latency.nanos(0), Some(2 * SECOND));
        assert_eq!(latency.nanos(10 * SECOND), Some(SECOND));
        assert!(latency.nanos(1000 * SECOND).unwrap() < SECOND / 25);
    }
}
