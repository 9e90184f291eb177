//! Requests of a configuration on trial, compared with those that the configuration before it gets
//! at the same time: has a route become worse?

use std::{collections::HashMap, sync::Arc, time::Duration};

use derive_more::Display;
use edgeway_base::{
    clock::Clock,
    evidence::{CERTAIN, Events, Evidence, MAX_FAILED_ALONE},
    metrics::Metrics,
};

use super::{super::split::TrialSplit, LATENCIES, Latency, Record, RouteCounts, Traffic, share};

/// Error ratio that is tolerated, as a multiple of the one before.
const MAX_ERRORS: f64 = 1.5;
/// The same for the 95th percentile of the latency.
const MAX_P95: f64 = 1.3;
/// Failures of a route below which nothing is worse.
const MIN_FAILED: u64 = 5;
/// Requests of a period, and its shortest duration.
const MIN_REQUESTS: u64 = 30;
const PERIOD: Duration = Duration::from_secs(8);
/// Periods in a row in which a route must be slower: the first requests to new backends, or with
/// new plugins, take long.
const SLOW_PERIODS: u32 = 3;

/// Comparison of two configurations.
#[derive(Debug)]
pub struct Comparison {
    clock: Clock,
    /// Counters of the one on trial, and of the one before it, since the trial began.
    candidate: Metrics,
    earlier: Metrics,
    /// Requests of the minute before the trial, for a route that the earlier one gets too few
    /// requests for.
    before: HashMap<Arc<str>, RouteCounts>,
    periods: HashMap<Arc<str>, Period>,
}

/// Present period of a route.
#[derive(Debug)]
struct Period {
    began: std::time::Instant,
    latency: Latency,
    slow_before: u32,
}

/// A route that has become worse.
#[derive(Clone, Debug, PartialEq, Display)]
#[display("route `{route}` {what}: {now}; with the configuration before: {other}")]
pub struct Worsening {
    pub route: String,
    pub what: WorseFigure,
    /// Requests that it was compared with.
    pub other: RouteFigures,
    pub now: RouteFigures,
}

/// Figure that has become worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Display)]
pub enum WorseFigure {
    #[display("has more errors")]
    Errors,
    #[display("is slower")]
    Latency,
}

/// Requests of a route in a time.
#[derive(Clone, Debug, PartialEq, Display)]
#[display("{error_percent} % of {requests} requests failed, p95 {p95_ms:.1} ms")]
pub struct RouteFigures {
    pub requests: u64,
    /// Requests that failed, in percent.
    pub error_percent: f64,
    pub p95_ms: f64,
}

impl Traffic {
    /// Begins to compare the requests of two configurations.
    pub fn compare(&self, split: &TrialSplit) -> Comparison {
        let [candidate, earlier] = split.metrics();
        self.compare_counters(candidate, earlier)
    }

    fn compare_counters(&self, candidate: &Metrics, earlier: &Metrics) -> Comparison {
        self.record();
        let now = self.now();
        let older = self.before(now.at, LATENCIES);
        let older = older.as_ref().map(|record| &record.routes);
        let before = now.routes.iter().map(|(route, counts)| {
            let then = older.and_then(|older| older.get(route));
            (Arc::clone(route), counts.since(then))
        });
        Comparison {
            clock: self.0.clock.clone(),
            candidate: candidate.clone(),
            earlier: earlier.clone(),
            before: before.collect(),
            periods: HashMap::new(),
        }
    }
}

impl Comparison {
    /// Returns the numbers of requests of the configuration on trial, and of the one before it.
    pub fn requests(&self) -> [u64; 2] {
        [&self.candidate, &self.earlier].map(|counters| {
            let now = self.read(counters);
            now.routes.values().map(|counts| counts.requests).sum()
        })
    }

    fn read(&self, counters: &Metrics) -> Record {
        Record::read(counters, self.clock.now(), None)
    }

    /// Returns the first route that has certainly become worse. Needs to be called each few seconds.
    pub fn look(&mut self) -> Option<Worsening> {
        let [now, beside] = [&self.candidate, &self.earlier].map(|it| self.read(it));
        // Each route, and each bound of a bucket, is a chance to be wrong.
        #[expect(clippy::cast_precision_loss, reason = "there are few routes")]
        let certain = CERTAIN + (now.routes.len().max(1) as f64).ln();
        let mut worse = None;
        let none = RouteCounts::default();
        for (route, counts) in now.routes.iter() {
            let beside = beside.routes.get(route).map(|counts| &**counts);
            let beside = beside.filter(|counts| counts.requests >= MIN_REQUESTS);
            let other = beside.or_else(|| self.before.get(route)).unwrap_or(&none);
            let verdict = if has_more_errors(other, counts, certain) {
                Some(WorseFigure::Errors)
            } else {
                let period = self.periods.entry(Arc::clone(route));
                let period = period.or_insert_with(|| Period::begin(&now, &counts.latency));
                period
                    .is_slow(&now, &counts.latency, &other.latency, certain)
                    .then_some(WorseFigure::Latency)
            };
            if let Some(what) = verdict {
                worse = worse.or(Some(Worsening {
                    route: route.to_string(),
                    what,
                    other: other.figures(),
                    now: counts.figures(),
                }));
            }
        }
        worse
    }
}

fn has_more_errors(before: &RouteCounts, since: &RouteCounts, certain: f64) -> bool {
    let [failed_before, failed] = [before, since].map(|counts| Events {
        requests: counts.requests,
        events: counts.server_errors,
    });
    if failed.events < MIN_FAILED || failed.ratio() <= MAX_ERRORS * failed_before.ratio() {
        return false;
    }
    if before.requests < MIN_REQUESTS {
        // There is too little to compare with.
        let bound = MAX_FAILED_ALONE.max(MAX_ERRORS * failed_before.ratio());
        return failed.log_above(bound) >= certain;
    }
    let mut evidence = Evidence::default();
    evidence.add(failed, failed_before);
    evidence.log() >= certain
}

impl Period {
    fn begin(now: &Record, latency: &Latency) -> Self {
        Self {
            began: now.at,
            latency: latency.clone(),
            slow_before: 0,
        }
    }

    /// Returns true once the route has been slower than before in several periods in a row.
    fn is_slow(&mut self, now: &Record, latency: &Latency, before: &Latency, certain: f64) -> bool {
        let since = latency.since(&self.latency);
        if now.at.duration_since(self.began) < PERIOD || since.count < MIN_REQUESTS {
            return false;
        }
        let slow_before = if since.is_slower_than(before, certain) {
            self.slow_before + 1
        } else {
            0
        };
        *self = Self {
            slow_before,
            ..Self::begin(now, latency)
        };
        slow_before >= SLOW_PERIODS
    }
}

impl RouteCounts {
    pub(super) fn since(&self, earlier: Option<&Arc<Self>>) -> Self {
        let Some(earlier) = earlier else {
            return self.clone();
        };
        Self {
            requests: self.requests.saturating_sub(earlier.requests),
            client_errors: self.client_errors.saturating_sub(earlier.client_errors),
            server_errors: self.server_errors.saturating_sub(earlier.server_errors),
            lookups: self.lookups.saturating_sub(earlier.lookups),
            hits: self.hits.saturating_sub(earlier.hits),
            latency: self.latency.since(&earlier.latency),
        }
    }

    fn figures(&self) -> RouteFigures {
        let errors = share(self.server_errors, self.requests).unwrap_or(0.0);
        RouteFigures {
            requests: self.requests,
            error_percent: (errors * 1e4).round() / 1e2,
            p95_ms: self.latency.quantile_ms(0.95).unwrap_or(0.0),
        }
    }
}

impl Latency {
    /// Returns true if the 95th percentile is certainly above the tolerated multiple of `before`.
    fn is_slower_than(&self, before: &Self, certain: f64) -> bool {
        let [now, then] = [self, before].map(|latency| latency.quantile_ms(0.95));
        let (Some(now), Some(then)) = (now, then) else {
            return false;
        };
        if now <= MAX_P95 * then {
            return false;
        }
        // Certain if so many more requests are above some bound of a bucket.
        (0..self.buckets.len().min(before.buckets.len())).any(|index| {
            let mut evidence = Evidence::default();
            evidence.add(self.above(index), before.above(index));
            evidence.log() >= certain
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeway_base::metrics::Histogram;

    /// A route with drawn requests.
    struct Site {
        /// Counters of the configuration that gets the next requests.
        metrics: Metrics,
        clock: Clock,
        traffic: Traffic,
        random: fastrand::Rng,
    }

    impl Site {
        fn new(seed: u64) -> Self {
            let (metrics, clock) = (Metrics::default(), Clock::test());
            Self {
                traffic: Traffic::new(metrics.clone(), clock.clone()),
                metrics,
                clock,
                random: fastrand::Rng::with_seed(seed),
            }
        }

        fn latency(&self, route: &str) -> Histogram {
            let name = "edgeway_http_first_byte_seconds";
            self.metrics.histogram(name, "d", &[("route", route)])
        }

        /// Two seconds of requests to a route.
        fn serve(&mut self, route: &str, requests: u32, errors: f64, slower: f64) {
            // A series is looked up once, and is not there before its first request.
            let labels = [("route", route), ("method", "GET"), ("status", "200")];
            let counter = |name, labels| self.metrics.counter(name, "r", labels);
            let [mut failed, mut served] = [None, None];
            let mut latency = None;
            for _ in 0..requests {
                if self.random.f64() < errors {
                    let counter = || counter("edgeway_http_failed_total", &labels[..1]);
                    failed.get_or_insert_with(counter).inc();
                }
                let counter = || counter("edgeway_http_requests_total", &labels);
                served.get_or_insert_with(counter).inc();
                let seconds = 0.012 / (1.01 - self.random.f64()).sqrt();
                let latency = latency.get_or_insert_with(|| self.latency(route));
                latency.observe(seconds * slower);
            }
        }

        fn pass(&self) {
            self.clock.advance(Duration::from_secs(2));
            self.traffic.record();
        }

        fn minute(&mut self, errors: f64) {
            for _ in 0..30 {
                self.serve("shop", 100, errors, 1.0);
                self.serve("api", 20, errors, 1.0);
                self.pass();
            }
        }

        /// Begins a trial, whose configuration gets the next requests.
        fn compare(&mut self) -> Comparison {
            self.metrics = Metrics::default();
            self.traffic
                .compare_counters(&self.metrics, &Metrics::default())
        }

        /// Returns what becomes worse within so many seconds, and when. Half of the clients get the
        /// configuration on trial.
        fn watch(&mut self, seconds: u32, errors: f64, slower: f64) -> Option<(Worsening, u32)> {
            let mut comparison = self.compare();
            for second in (0..seconds).step_by(2) {
                for (counters, errors, slower) in [
                    (comparison.earlier.clone(), 0.005, 1.0),
                    (comparison.candidate.clone(), errors, slower),
                ] {
                    self.metrics = counters;
                    self.serve("shop", 100, 0.005, 1.0);
                    self.serve("api", 20, errors, slower);
                }
                self.pass();
                if let Some(worse) = comparison.look() {
                    return Some((worse, second));
                }
            }
            None
        }
    }

    #[test]
    fn a_configuration_that_changes_nothing_is_hardly_ever_worse() {
        let wrong = (0..edgeway_testkit::cases(40, 100)).filter(|seed| {
            let mut site = Site::new(*seed);
            site.minute(0.005);
            site.watch(600, 0.005, 1.0).is_some()
        });
        let wrong = wrong.count();
        assert!(wrong <= 2, "{wrong}");
    }

    #[test]
    fn twice_the_latency_of_a_route_is_found_within_a_minute() {
        for seed in 0..50 {
            let mut site = Site::new(seed);
            site.minute(0.005);
            let found = site.watch(60, 0.005, 2.0);
            let (worse, _) = found.unwrap_or_else(|| panic!("seed {seed}"));
            assert_eq!((&*worse.route, worse.what), ("api", WorseFigure::Latency));
        }
    }

    #[test]
    fn more_errors_of_a_route_are_found_within_a_minute() {
        for seed in 0..50 {
            let mut site = Site::new(seed);
            site.minute(0.005);
            let found = site.watch(60, 0.1, 1.0);
            let (worse, _) = found.unwrap_or_else(|| panic!("seed {seed}"));
            assert_eq!((&*worse.route, worse.what), ("api", WorseFigure::Errors));
        }
    }

    #[test]
    fn routes_without_earlier_requests_have_an_absolute_bound() {
        let mut site = Site::new(1);
        // A route that failed before may go on failing.
        site.serve("old", 10, 1.0, 1.0);
        site.pass();
        let mut comparison = site.compare();
        site.serve("new", 4, 1.0, 1.0);
        site.serve("old", 10, 1.0, 1.0);
        assert_eq!(comparison.requests(), [14, 0]);
        assert_eq!(comparison.look(), None);
        site.serve("new", 4, 1.0, 1.0);
        let worse = comparison.look().expect("there is one");
        assert_eq!((&*worse.route, worse.what), ("new", WorseFigure::Errors));
    }

    /// A database that fails for both, in the middle of a trial.
    #[test]
    fn failures_of_both_configurations_are_not_those_of_one() {
        for seed in 0..50 {
            let mut site = Site::new(seed);
            site.minute(0.005);
            let mut comparison = site.compare();
            let failing = site.random.u32(30..300);
            for (counters, requests) in [
                (comparison.earlier.clone(), 9 * failing),
                (comparison.candidate.clone(), failing),
            ] {
                site.metrics = counters;
                site.serve("api", requests, 1.0, 1.0);
            }
            site.pass();
            assert_eq!(comparison.look(), None, "seed {seed}");
        }
    }

    /// However few requests there were before, and however many come: a route that fails is found.
    #[test]
    fn a_route_whose_requests_all_fail_is_found_beside_any_number_before() {
        for seed in 0..100 {
            let mut site = Site::new(seed);
            let before = site.random.u32(0..60);
            site.serve("api", before, 0.0, 1.0);
            site.pass();
            let mut comparison = site.compare();
            let now = site.random.u32(30..300);
            site.serve("api", now, 1.0, 1.0);
            site.pass();
            let worse = comparison.look();
            let worse = worse.unwrap_or_else(|| panic!("seed {seed}: {before}, {now}"));
            assert_eq!(worse.what, WorseFigure::Errors, "seed {seed}");
        }
    }
}
