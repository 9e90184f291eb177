//! Time to first byte of a backend: an average with decay.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use super::eject::nanos;

/// Time after which a sample weighs half.
const MEMORY: Duration = Duration::from_secs(10);

/// Time without samples after which the average is not shown.
const FORGOTTEN: Duration = Duration::from_mins(1);

/// Samples that are kept, and those from which they are evidence: one slow response is none.
const KEPT: usize = 8;
const EVIDENCE: usize = 4;
/// Last samples that are evidence if all are slow: a slow backend may have one request at a time.
const IN_A_ROW: usize = 3;

/// Exponentially weighted average of times to first byte.
///
/// It decays towards zero while no sample comes, so that a backend that was slow once gets another
/// attempt.
#[derive(Debug, Default)]
pub(super) struct Latency {
    /// Nanoseconds; 0 while nothing is known. Not updated atomically with `at`: two concurrent
    /// samples may count as one, or with the other's time. Each value by itself is always one that
    /// was computed.
    average: AtomicU64,
    /// Time of the last write of `average`, in nanoseconds of the epoch.
    at: AtomicU64,
    /// Last samples in nanoseconds, 0 where there is none, and the number of all.
    last: [AtomicU64; KEPT],
    count: AtomicUsize,
}

impl Latency {
    pub(super) fn sample(&self, sample: Duration, now: u64) {
        let sample = u64::try_from(sample.as_nanos()).unwrap_or(u64::MAX).max(1);
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        self.last[count % KEPT].store(sample, Ordering::Relaxed);
        let before = self.average.load(Ordering::Relaxed);
        let at = self.at.swap(now, Ordering::Relaxed);
        let average = if before == 0 {
            sample
        } else {
            // Otherwise each of a hundred samples a second would weigh next to nothing.
            let keep = keep(now.saturating_sub(at)).min(0.95);
            mix(before, keep, sample)
        };
        self.average.store(average.max(1), Ordering::Relaxed);
    }

    /// Returns the average as of `now`, in nanoseconds; `None` while nothing is known.
    pub(super) fn nanos(&self, now: u64) -> Option<u64> {
        let average = self.average.load(Ordering::Relaxed);
        if average == 0 {
            return None;
        }
        let age = now.saturating_sub(self.at.load(Ordering::Relaxed));
        Some(mix(average, keep(age), 0))
    }

    /// Returns the average without its decay in nanoseconds, and its time.
    pub(super) fn raw(&self) -> Option<(u64, u64)> {
        let average = self.average.load(Ordering::Relaxed);
        (average != 0).then(|| (average, self.at.load(Ordering::Relaxed)))
    }

    /// Starts with the values of [`Latency::raw`] from another instance.
    pub(super) fn set_raw(&self, average: u64, time: u64) {
        self.at.store(time, Ordering::Relaxed);
        self.average.store(average, Ordering::Relaxed);
    }

    /// Returns the average without its decay, for display; `None` once it is too old to say how the
    /// backend is now.
    pub(super) fn recent(&self, now: u64) -> Option<Duration> {
        let age = now.saturating_sub(self.at.load(Ordering::Relaxed));
        self.average().filter(|_| age < nanos(FORGOTTEN))
    }

    /// Returns the time that the last samples have in common: their median, or the shortest of the
    /// last three if that is longer. `None` while they are too few to say anything.
    pub(super) fn sustained(&self) -> Option<Duration> {
        let mut last = self.last.each_ref().map(|one| one.load(Ordering::Relaxed));
        let count = self.count.load(Ordering::Relaxed);
        let in_a_row = (1..=IN_A_ROW).map(|back| last[count.wrapping_sub(back) % KEPT]);
        let in_a_row = in_a_row.min().unwrap_or_default();
        last.sort_unstable();
        let known = &last[last.partition_point(|one| *one == 0)..];
        let median = || known[(known.len() - 1) / 2];
        (known.len() >= EVIDENCE).then(|| Duration::from_nanos(median().max(in_a_row)))
    }

    /// Returns the average without its decay.
    pub(super) fn average(&self) -> Option<Duration> {
        let average = self.average.load(Ordering::Relaxed);
        (average != 0).then(|| Duration::from_nanos(average))
    }
}

/// Returns the weight of an old value after `age` nanoseconds: 1 at once, 1/2 after [`MEMORY`].
#[expect(clippy::cast_precision_loss, reason = "52 bits are enough for a share")]
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
    fn the_average_follows_its_samples() {
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
    fn an_average_of_another_time_is_not_shown() {
        let latency = Latency::default();
        latency.sample(Duration::from_secs(2), 100 * SECOND);
        assert_eq!(latency.recent(159 * SECOND), Some(Duration::from_secs(2)));
        assert_eq!(latency.recent(160 * SECOND), None);
        latency.sample(Duration::from_millis(4), 160 * SECOND);
        assert!(latency.recent(160 * SECOND).is_some());
    }

    #[test]
    fn a_slow_response_or_two_are_no_evidence() {
        for (usual, slow, sustained) in [
            (0, 1, None),
            (2, 1, None),
            (5, 1, Some(20)),
            (20, 2, Some(20)),
            (20, 3, Some(2000)),
            (20, 8, Some(2000)),
        ] {
            let latency = Latency::default();
            let samples = [20].repeat(usual).into_iter().chain([2000].repeat(slow));
            for sample in samples.map(Duration::from_millis) {
                latency.sample(sample, 0);
            }
            assert_eq!(
                latency.sustained(),
                sustained.map(Duration::from_millis),
                "{usual}, then {slow}"
            );
        }
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
