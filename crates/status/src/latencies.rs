//! Backends that respond much more slowly than the others of their upstream.

use derive_more::Display;

use super::{
    problems::is_in_rotation,
    snapshot::{BackendStatus, UpstreamStatus},
};

/// Slowness of a backend against the median of the others, and the time that is never slow.
const SLOWER: f64 = 4.0;
const SLOW_MS: f64 = 100.0;

/// Returns all backends with their upstream, and how slow they are.
pub fn backends(
    upstreams: &[UpstreamStatus],
) -> impl Iterator<Item = (&UpstreamStatus, &BackendStatus, Option<Slowness>)> {
    upstreams.iter().flat_map(|upstream| {
        let latencies = Latencies::new(upstream);
        let backends = upstream.backends.iter();
        backends.map(move |backend| (upstream, backend, latencies.slowness(backend)))
    })
}

/// Times to the first byte of all backends of an upstream, the shortest first. Sorted once: an
/// upstream may have thousands of backends.
pub struct Latencies(Vec<f64>);

/// Times, in milliseconds, of a backend that is slow.
#[derive(Clone, Copy, Debug, PartialEq, Display)]
#[display("slow: {time:.0} ms, the others {usual:.0} ms")]
pub struct Slowness {
    time: f64,
    usual: f64,
}

impl Latencies {
    pub fn new(upstream: &UpstreamStatus) -> Self {
        let backends = upstream.backends.iter();
        let mut all: Vec<f64> = backends.filter_map(|backend| backend.ewma_ms).collect();
        all.sort_by(f64::total_cmp);
        Self(all)
    }

    /// Returns the times of a backend that gets requests and is slow, not for a few of them alone.
    pub fn slowness(&self, backend: &BackendStatus) -> Option<Slowness> {
        let time = backend.ewma_ms?;
        let usual = self.median_beside(time)?;
        let least = time.min(backend.sustained_ms?);
        let is_slow = is_in_rotation(backend) && least > SLOW_MS && least > SLOWER * usual;
        is_slow.then_some(Slowness { time, usual })
    }

    /// Returns the median of the others beside a backend with this time.
    fn median_beside(&self, time: f64) -> Option<f64> {
        let place = self.0.binary_search_by(|one| one.total_cmp(&time)).ok()?;
        let middle = (self.0.len() - 1) / 2;
        let skipped = usize::from(middle >= place);
        self.0.get(middle + skipped).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_median_of_the_others_is_that_of_a_list_without_the_backend(
            times in proptest::collection::vec(0..20_u8, 1..12),
        ) {
            let times: Vec<f64> = times.into_iter().map(f64::from).collect();
            let backend = |time: &f64| BackendStatus {
                ewma_ms: Some(*time),
                ..BackendStatus::default()
            };
            let latencies = Latencies::new(&UpstreamStatus {
                backends: times.iter().map(backend).collect(),
                ..UpstreamStatus::default()
            });
            for (index, own) in times.iter().enumerate() {
                let mut others = times.clone();
                others.remove(index);
                others.sort_by(f64::total_cmp);
                let expected = others.get(others.len() / 2).copied();
                prop_assert_eq!(latencies.median_beside(*own), expected);
            }
        }
    }
}
