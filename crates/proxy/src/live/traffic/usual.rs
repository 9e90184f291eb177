//! Usual time to the first byte of each route, by its own history, and the routes that are slower now.
//!
//! A pure state machine: it gets the counts of the histogram every few seconds. A route that is slow
//! does not change what is usual for it, until it has been slow for an hour.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use edgeway_base::{
    evidence::{CERTAIN, Events, Evidence},
    metrics::SECONDS,
};
use serde::{Deserialize, Serialize};

use super::{Counts, LATENCIES, Latency, RouteCounts};

/// Requests of a period, and its duration if there are only a few.
const MANY: u64 = 20;
const FEW: u64 = 3;
const PERIOD: Duration = Duration::from_secs(4);
/// Requests of the past without which nothing is usual.
const MIN_PAST: u64 = 20;
/// Time after which the past counts half.
const HALF: Duration = Duration::from_mins(20);
/// Time after which a slow route is usual.
const USUAL: Duration = Duration::from_hours(1);
/// Factor by which the 95th percentile of a slow route is above its usual one, and the time in
/// milliseconds that is never slow.
const SLOWER: f64 = 4.0;
/// The same for a route that is slow already: one period with fewer slow requests does not end it.
const STILL_SLOWER: f64 = 3.0;
const NEVER_SLOW_MS: f64 = 100.0;

/// Usual latencies of all routes.
#[derive(Debug, Default)]
pub(super) struct UsualLatencies(HashMap<Arc<str>, UsualLatency>);

/// Usual latency of a route.
#[derive(Debug)]
struct UsualLatency {
    past: Latency,
    halved: Instant,
    /// Counts at the begin of the present period.
    begin: Latency,
    began: Instant,
    slow: Option<Slow>,
}

#[derive(Debug)]
struct Slow {
    since: Instant,
    seen: Instant,
    now: SlowRoute,
}

/// Route that is slower than its own history; percentiles of the time to the first byte.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SlowRoute {
    pub p95_ms: f64,
    /// The same in the hour before.
    pub usual_p95_ms: f64,
}

impl UsualLatencies {
    /// Adds the requests until now.
    pub(super) fn add(&mut self, routes: &Counts<RouteCounts>, now: Instant) {
        self.0.retain(|name, _| routes.contains_key(name));
        for (name, counts) in routes.iter() {
            if let Some(usual) = self.0.get_mut(name) {
                usual.add(&counts.latency, now);
            } else {
                let usual = UsualLatency::new(&counts.latency, now);
                self.0.insert(Arc::clone(name), usual);
            }
        }
    }

    /// Returns the latency of a route that is slow now.
    pub(super) fn slow(&self, route: &str, now: Instant) -> Option<SlowRoute> {
        let slow = self.0.get(route)?.slow.as_ref()?;
        // Without requests nobody knows.
        let is_recent = now.duration_since(slow.seen) < LATENCIES;
        is_recent.then(|| slow.now.clone())
    }
}

impl UsualLatency {
    fn new(counts: &Latency, now: Instant) -> Self {
        Self {
            // A route that appears between two looks counts from zero.
            begin: Latency::default(),
            past: Latency {
                buckets: vec![0; counts.buckets.len()],
                count: 0,
            },
            halved: now,
            began: now,
            slow: None,
        }
    }

    fn add(&mut self, counts: &Latency, now: Instant) {
        if counts.count == self.begin.count {
            self.began = now;
            return;
        }
        let period = counts.since(&self.begin);
        let lasted = now.duration_since(self.began);
        if period.count < FEW || (period.count < MANY && lasted < PERIOD) {
            return;
        }
        (self.begin, self.began) = (counts.clone(), now);
        let is_usual = |slow: &Slow| now.duration_since(slow.since) >= USUAL;
        if let Some(slow) = self.slowness(&period)
            && !self.slow.as_ref().is_some_and(is_usual)
        {
            let since = self.slow.as_ref().map_or(now, |slow| slow.since);
            let seen = now;
            self.slow = Some(Slow {
                since,
                seen,
                now: slow,
            });
            return;
        }
        if self.slow.take().is_some_and(|slow| is_usual(&slow)) {
            self.past = period;
            return;
        }
        if now.duration_since(self.halved) >= HALF {
            self.halved = now;
            self.past.count /= 2;
            self.past.buckets.iter_mut().for_each(|count| *count /= 2);
        }
        self.past.add(&period);
    }

    /// Returns the latency of a period that is certainly slower than the past.
    fn slowness(&self, period: &Latency) -> Option<SlowRoute> {
        if self.past.count < MIN_PAST {
            return None;
        }
        let [p95_ms, usual_p95_ms] = [period, &self.past].map(|one| one.quantile_ms(0.95));
        let (p95_ms, usual_p95_ms) = (p95_ms?, usual_p95_ms?);
        let slow = SlowRoute {
            p95_ms,
            usual_p95_ms,
        };
        let was_slow = self.slow.is_some();
        let slower = if was_slow { STILL_SLOWER } else { SLOWER };
        if p95_ms < NEVER_SLOW_MS || p95_ms < slower * usual_p95_ms {
            return None;
        }
        if was_slow {
            return Some(slow);
        }
        let bound = (2.0 * usual_p95_ms).max(NEVER_SLOW_MS / 2.0) / 1e3;
        let bucket = SECONDS.iter().position(|upper| *upper >= bound)?;
        let mut evidence = Evidence::default();
        evidence.add(period.above(bucket), self.past.above(bucket));
        // Each period of each route is a chance to be wrong.
        (evidence.log() >= 2.0 * CERTAIN).then_some(slow)
    }
}

impl Latency {
    /// Returns how many requests are above the upper bound of the bucket at `index`.
    pub(super) fn above(&self, index: usize) -> Events {
        Events {
            requests: self.count,
            events: self.count.saturating_sub(self.buckets[index]),
        }
    }

    pub(super) fn add(&mut self, more: &Self) {
        self.count += more.count;
        self.buckets.resize(more.buckets.len(), 0);
        for (bucket, more) in self.buckets.iter_mut().zip(&more.buckets) {
            *bucket += more;
        }
    }
}

#[cfg(test)]
mod tests {
    use edgeway_base::clock::Clock;
    use proptest::prelude::*;

    use super::*;

    /// A route that is looked at every two seconds.
    struct Site {
        random: fastrand::Rng,
        now: Instant,
        counts: RouteCounts,
        usual: UsualLatencies,
    }

    impl Site {
        fn new(seed: u64) -> Self {
            let mut counts = RouteCounts::default();
            counts.latency.buckets = vec![0; SECONDS.len()];
            Self {
                random: fastrand::Rng::with_seed(seed),
                now: Clock::test().now(),
                counts,
                usual: UsualLatencies::default(),
            }
        }

        /// Serves requests of some milliseconds, with a long tail, for two seconds.
        fn serve(&mut self, requests: u64, typical_ms: f64) -> Option<SlowRoute> {
            for _ in 0..requests {
                let seconds = typical_ms / 1e3 * 0.4 / (1.01 - self.random.f64()).sqrt();
                let latency = &mut self.counts.latency;
                latency.count += 1;
                for (bound, count) in SECONDS.iter().zip(&mut latency.buckets) {
                    *count += u64::from(seconds <= *bound);
                }
            }
            self.now += Duration::from_secs(2);
            let routes = [(Arc::from("shop"), Arc::new(self.counts.clone()))];
            self.usual.add(&Arc::new(routes.into()), self.now);
            self.usual.slow("shop", self.now)
        }
    }

    proptest! {
        /// Invariant: a route that becomes fifteen times slower, and noticeably so, is found in the
        /// third period, or with few requests within eight; one that does not is never slow.
        #[test]
        fn a_slower_route_is_found_by_its_own_history(
            seed in 0..10_000_u64, requests in 4..200_u64, typical_ms in 5.0..300.0_f64,
        ) {
            let mut site = Site::new(seed);
            for _ in 0..200 {
                prop_assert_eq!(site.serve(requests, typical_ms), None);
            }
            let slower = (15.0 * typical_ms).max(250.0);
            let periods = if requests < MANY { 8 } else { 3 };
            let latencies: Vec<_> = (0..periods).map(|_| site.serve(requests, slower)).collect();
            let slow = latencies.last().cloned().flatten();
            prop_assert!(slow.is_some(), "{latencies:?}");
            let slow = slow.unwrap_or_default();
            prop_assert!(slow.p95_ms >= STILL_SLOWER * slow.usual_p95_ms);
            // What is slow now does not become usual, and ends.
            for _ in 0..100 {
                site.serve(requests, slower);
            }
            prop_assert!(site.serve(requests, slower).is_some());
            site.serve(requests, typical_ms);
            site.serve(requests, typical_ms);
            site.serve(requests, typical_ms);
            prop_assert_eq!(site.serve(requests, typical_ms), None);
        }
    }

    #[test]
    fn a_route_without_requests_is_not_slow_and_a_slow_hour_is_usual() {
        let mut site = Site::new(1);
        for _ in 0..20 {
            site.serve(10, 10.0);
        }
        for _ in 0..4 {
            site.serve(10, 4_000.0);
        }
        assert!(site.serve(0, 0.0).is_some());
        for _ in 0..30 {
            site.serve(0, 0.0);
        }
        assert_eq!(site.serve(0, 0.0), None);
        let hour = USUAL.as_secs() / 2 + 10;
        let latencies: Vec<_> = (0..hour).map(|_| site.serve(10, 4_000.0)).collect();
        assert!(latencies[100].is_some());
        assert_eq!(latencies.last(), Some(&None));
    }

    #[test]
    fn a_new_route_has_no_history() {
        let mut site = Site::new(2);
        assert_eq!(site.serve(200, 5_000.0), None);
        assert_eq!(site.serve(200, 5_000.0), None);
    }
}
