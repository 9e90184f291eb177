//! Traffic since a configuration serves, compared with that of the minute before it: has a route
//! become worse?

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use edgeway_base::evidence::{CERTAIN, Events, Evidence, MAX_FAILED_ALONE};

use super::{Counts, LATENCIES, Latency, Record, RouteCounts, Traffic, share};

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

/// Comparison of the traffic since its begin with that of the minute before.
#[derive(Debug)]
pub struct Comparison {
    traffic: Traffic,
    before: HashMap<Arc<str>, RouteCounts>,
    began: Counts<RouteCounts>,
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
#[derive(Clone, Debug, PartialEq)]
pub struct Worsening {
    pub route: String,
    pub what: WorseFigure,
    pub before: RouteFigures,
    pub now: RouteFigures,
}

/// Figure that has become worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorseFigure {
    Errors,
    Latency,
}

/// Requests of a route in a time.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteFigures {
    pub requests: u64,
    /// Responses with 5xx, in percent.
    pub error_percent: f64,
    pub p95_ms: f64,
}

impl Traffic {
    /// Begins to compare the traffic from now on with that of the last minute.
    pub fn compare(&self) -> Comparison {
        self.record();
        let now = self.now();
        let older = self.before(now.at, LATENCIES);
        let older = older.as_ref().map(|record| &record.routes);
        let before = now.routes.iter().map(|(route, counts)| {
            let then = older.and_then(|older| older.get(route));
            (Arc::clone(route), counts.since(then))
        });
        Comparison {
            traffic: self.clone(),
            before: before.collect(),
            began: Arc::clone(&now.routes),
            periods: HashMap::new(),
        }
    }
}

impl Comparison {
    /// Returns the number of requests since the begin.
    pub fn requests(&self) -> u64 {
        let now = self.traffic.now();
        let routes = now.routes.iter();
        routes
            .map(|(route, counts)| counts.since(self.began.get(route)).requests)
            .sum()
    }

    /// Returns the first route that has certainly become worse. Needs to be called each few seconds.
    pub fn look(&mut self) -> Option<Worsening> {
        let now = self.traffic.now();
        // Each route, and each bound of a bucket, is a chance to be wrong.
        #[expect(clippy::cast_precision_loss, reason = "there are few routes")]
        let certain = CERTAIN + (self.before.len().max(1) as f64).ln();
        let mut worse = None;
        let none = RouteCounts::default();
        for (route, counts) in now.routes.iter() {
            let before = self.before.get(route).unwrap_or(&none);
            let since = counts.since(self.began.get(route));
            let found = if has_more_errors(before, &since, certain) {
                Some(WorseFigure::Errors)
            } else {
                let period = self.periods.entry(Arc::clone(route));
                let period = period.or_insert_with(|| Period::begin(&now, &counts.latency));
                period
                    .is_slow(&now, &counts.latency, &before.latency, certain)
                    .then_some(WorseFigure::Latency)
            };
            if let Some(what) = found {
                worse = worse.or(Some(Worsening {
                    route: route.to_string(),
                    what,
                    before: before.figures(),
                    now: since.figures(),
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
    fn since(&self, earlier: Option<&Arc<Self>>) -> Self {
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
            first_byte: self.first_byte.since(&earlier.first_byte),
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
        let above = |latency: &Self, index: usize| Events {
            requests: latency.count,
            events: latency.count.saturating_sub(latency.buckets[index]),
        };
        (0..self.buckets.len().min(before.buckets.len())).any(|index| {
            let mut evidence = Evidence::default();
            evidence.add(above(self, index), above(before, index));
            evidence.log() >= certain
        })
    }
}

impl fmt::Display for RouteFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            requests,
            error_percent,
            p95_ms,
        } = self;
        write!(
            f,
            "{error_percent} % of {requests} requests failed, p95 {p95_ms:.1} ms"
        )
    }
}

impl fmt::Display for Worsening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let worse = match self.what {
            WorseFigure::Errors => "has more errors",
            WorseFigure::Latency => "is slower",
        };
        let Self {
            route, before, now, ..
        } = self;
        write!(f, "route `{route}` {worse}: {now}; before: {before}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeway_base::{
        clock::Clock,
        metrics::{Histogram, Metrics},
    };

    /// A route with drawn requests.
    struct Site {
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
            let name = "edgeway_http_request_duration_seconds";
            self.metrics.histogram(name, "d", &[("route", route)])
        }

        /// Two seconds of requests to a route.
        fn serve(&mut self, route: &str, requests: u32, errors: f64, slower: f64) {
            // A series is looked up once, and is not there before its first request.
            let counter = |status| {
                let labels = [("route", route), ("method", "GET"), ("status", status)];
                self.metrics
                    .counter("edgeway_http_requests_total", "r", &labels)
            };
            let [mut failed, mut passed] = [None, None];
            let mut latency = None;
            for _ in 0..requests {
                if self.random.f64() < errors {
                    failed.get_or_insert_with(|| counter("500")).inc();
                } else {
                    passed.get_or_insert_with(|| counter("200")).inc();
                }
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

        /// Returns what becomes worse within so many seconds, and when.
        fn watch(&mut self, seconds: u32, errors: f64, slower: f64) -> Option<(Worsening, u32)> {
            let mut comparison = self.traffic.compare();
            for second in (0..seconds).step_by(2) {
                self.serve("shop", 100, 0.005, 1.0);
                self.serve("api", 20, errors, slower);
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
        let wrong = (0..100).filter(|seed| {
            let mut site = Site::new(*seed);
            site.minute(0.005);
            site.watch(600, 0.005, 1.0).is_some()
        });
        let wrong = wrong.count();
        assert!(wrong <= 2, "{wrong} of 100");
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
        assert_eq!(site.watch(60, 0.02, 9.0), None);
        let mut comparison = site.traffic.compare();
        site.serve("new", 4, 1.0, 1.0);
        // A route that failed before may go on failing.
        site.serve("old", 10, 1.0, 1.0);
        assert_eq!(comparison.requests(), 14);
        let mut later = site.traffic.compare();
        site.serve("new", 4, 1.0, 1.0);
        site.serve("old", 10, 1.0, 1.0);
        site.pass();
        assert_eq!(later.look(), None);
        let worse = comparison.look().expect("there is one");
        assert_eq!(worse.what, WorseFigure::Errors);
    }

    /// However few requests there were before, and however many come: a route that fails is found.
    #[test]
    fn a_route_whose_requests_all_fail_is_found_beside_any_number_before() {
        for seed in 0..100 {
            let mut site = Site::new(seed);
            let before = site.random.u32(0..60);
            site.serve("api", before, 0.0, 1.0);
            site.pass();
            let mut comparison = site.traffic.compare();
            let now = site.random.u32(30..300);
            site.serve("api", now, 1.0, 1.0);
            site.pass();
            let worse = comparison.look();
            let worse = worse.unwrap_or_else(|| panic!("seed {seed}: {before}, {now}"));
            assert_eq!(worse.what, WorseFigure::Errors, "seed {seed}");
        }
    }
}
