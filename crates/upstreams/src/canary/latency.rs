//! Histogram of latencies with a fixed relative precision.

use std::time::Duration;

use smart_default::SmartDefault;

/// Number of buckets; the last one has no upper bound.
pub(super) const BUCKETS: usize = 76;
/// Upper bound of the first bucket, in microseconds.
const FIRST: f64 = 250.0;
/// Buckets for each doubling: a bound is a fifth above the one before it.
const PER_DOUBLING: f64 = 4.0;

/// Latencies of a number of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, SmartDefault)]
pub(super) struct Latencies(#[default([0; BUCKETS])] pub(super) [u64; BUCKETS]);

/// Returns the bucket of a latency.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "it is bounded on both sides"
)]
pub(super) fn bucket(latency: Duration) -> usize {
    let micros = latency.as_secs_f64() * 1e6;
    let index = ((micros / FIRST).log2() * PER_DOUBLING).ceil();
    index.clamp(0.0, (BUCKETS - 1) as f64) as usize
}

impl Latencies {
    pub(super) fn add(&mut self, more: &Self) {
        for (bucket, more) in self.0.iter_mut().zip(more.0) {
            *bucket += more;
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Returns the upper bound of the bucket that has this quantile; zero without requests.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts of requests are small"
    )]
    pub(super) fn quantile(&self, quantile: f64) -> Duration {
        let rank = (self.count() as f64 * quantile).ceil() as u64;
        let mut passed = 0;
        for (index, count) in self.0.iter().enumerate() {
            passed += count;
            if passed >= rank.max(1) {
                let micros = FIRST * (index as f64 / PER_DOUBLING).exp2();
                return Duration::from_secs_f64(micros / 1e6);
            }
        }
        Duration::ZERO
    }

    /// Returns the number of requests that certainly took longer than `limit`.
    pub(super) fn above(&self, limit: Duration) -> u64 {
        self.0.iter().skip(bucket(limit) + 1).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn from_micros(micros: &[u64]) -> Latencies {
        let mut latencies = Latencies::default();
        for micros in micros {
            latencies.0[bucket(Duration::from_micros(*micros))] += 1;
        }
        latencies
    }

    proptest! {
        #[test]
        fn quantiles_are_a_fifth_too_high_at_most(
            mut micros in proptest::collection::vec(250_u64..60_000_000, 1..200),
            quantile in 0.01_f64..1.0,
        ) {
            let latencies = from_micros(&micros);
            micros.sort_unstable();
            #[expect(
                clippy::cast_precision_loss, clippy::cast_possible_truncation,
                clippy::cast_sign_loss, reason = "there are few"
            )]
            let rank = (micros.len() as f64 * quantile).ceil().max(1.0) as usize;
            let exact = Duration::from_micros(micros[rank - 1]);
            let found = latencies.quantile(quantile);
            prop_assert!(found + Duration::from_micros(1) >= exact, "{found:?} < {exact:?}");
            prop_assert!(found.as_secs_f64() <= exact.as_secs_f64() * 1.2, "{found:?} {exact:?}");
        }

        #[test]
        fn no_faster_request_counts_as_slower(
            micros in proptest::collection::vec(0_u64..70_000_000, 0..200),
            limit in 0_u64..70_000_000,
        ) {
            let slower = micros.iter().filter(|it| **it > limit).count() as u64;
            prop_assert!(from_micros(&micros).above(Duration::from_micros(limit)) <= slower);
        }
    }
}
