//! Quantiles of histograms, as Prometheus' `histogram_quantile` estimates them.

/// Estimates a quantile in the unit of `bounds`, the upper bounds of the buckets. `cumulative` has
/// the count of each bucket with all below it, `total` also counts what is above the last bound.
///
/// Values within a bucket are taken as evenly spread; a quantile above the last bound is the last
/// bound. Returns `None` if nothing was counted.
pub(super) fn quantile(share: f64, bounds: &[f64], cumulative: &[u64], total: u64) -> Option<f64> {
    // A count may rise between the reads of a bucket and of the total.
    let total = cumulative.last().copied().unwrap_or(0).max(total);
    if total == 0 {
        return None;
    }
    #[allow(clippy::cast_precision_loss, reason = "counts of a minute are small")]
    let float = |count: u64| count as f64;
    let rank = share * float(total);
    let Some(bucket) = cumulative.iter().position(|count| float(*count) >= rank) else {
        return bounds.last().copied();
    };
    let below = bucket.checked_sub(1);
    let (low, count_below) = below.map_or((0.0, 0), |at| (bounds[at], cumulative[at]));
    let within = float(cumulative[bucket] - count_below);
    if within == 0.0 {
        return Some(low);
    }
    Some((bounds[bucket] - low).mul_add((rank - float(count_below)) / within, low))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: [f64; 5] = [0.1, 0.2, 0.5, 1.0, 2.0];

    fn counted(values: &[f64]) -> Vec<u64> {
        let below = |bound: &f64| values.iter().filter(|value| *value <= bound).count() as u64;
        BOUNDS.iter().map(below).collect()
    }

    #[test]
    fn the_figures_are_those_of_prometheus() {
        // From `histogram_quantile` over the same buckets.
        let cumulative = [10, 30, 60, 90, 100];
        for (share, wanted) in [(0.0, 0.0), (0.1, 0.1), (0.5, 0.4), (0.95, 1.5), (1.0, 2.0)] {
            let found = quantile(share, &BOUNDS, &cumulative, 100).unwrap();
            assert!((found - wanted).abs() < 1e-9, "{share}: {found}");
        }
        assert_eq!(quantile(0.5, &BOUNDS, &[0; 5], 0), None);
        assert_eq!(quantile(0.99, &BOUNDS, &[1; 5], 100), Some(2.0));
    }

    proptest! {
        /// The estimate lies in the bucket of the true quantile.
        #[test]
        fn an_estimate_is_within_its_bucket(
            mut values in prop::collection::vec(0.001_f64..1.999, 1..200),
            percent in 1_usize..=100,
        ) {
            let share = f64::from(u8::try_from(percent).unwrap()) / 100.0;
            let found = quantile(share, &BOUNDS, &counted(&values), values.len() as u64).unwrap();
            values.sort_by(f64::total_cmp);
            let exact = values[(percent * values.len()).div_ceil(100) - 1];
            let upper = BOUNDS.iter().position(|bound| exact <= *bound).unwrap();
            let lower = upper.checked_sub(1).map_or(0.0, |at| BOUNDS[at]);
            prop_assert!(found >= lower - 1e-9 && found <= BOUNDS[upper] + 1e-9, "{found} {exact}");
        }
    }
}
