//! Request metrics: handles are created with the configuration and counted without a lock. Also
//! decides which series exist once a configuration serves.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwap;
use edgeway_base::{
    clock::Clock,
    metrics::{Histogram, IntCounter, Metrics, SECONDS, Series, TracedHistogram},
};
use edgeway_config::model::File;
use edgeway_core::chain::Chain;
use edgeway_net::redis::Redis;
use edgeway_script::report::Reports;
use edgeway_tls::{self as tls, acme::Acme};
use http::Method;

use super::Gateway;

/// Route label of a request that no route took, in metrics and logs.
pub const NO_ROUTE: &str = "(none)";

/// Allows series for the names in `file`, except for listeners.
pub(super) fn admit(file: &File, metrics: &Metrics) {
    for route in &file.routes {
        metrics.admit(ROUTE, &route.name);
    }
    for (key, _) in &file.upstreams {
        metrics.admit(UPSTREAM, &key.name);
    }
    for (key, _) in &file.rate_limits {
        metrics.admit(LIMIT, &key.name);
    }
    for (key, _) in &file.profiles {
        metrics.admit(PROFILE, &key.name);
    }
}

pub(super) const LISTENER: &str = "listener";
const ROUTE: &str = "route";
const UPSTREAM: &str = "upstream";
const LIMIT: &str = "limit";
const PROFILE: &str = "profile";
/// Name of a route's cache among its filters.
const CACHE: &str = "cache";

impl Gateway {
    /// Removes the series of names that this configuration, the one that serves, does not contain:
    /// those of the configuration it replaced, or of one that was refused. Requests in flight on
    /// old handles continue to count, but their series are not exported.
    pub fn forget_stale_metrics(&self, metrics: &Metrics) {
        let names = |names: &mut dyn Iterator<Item = &Arc<str>>| -> HashSet<String> {
            names.map(ToString::to_string).collect()
        };
        let mut routes = names(&mut self.routes.iter().map(|route| &route.name));
        routes.insert(NO_ROUTE.to_owned());
        let listeners = names(&mut self.listeners.iter().map(|listener| &listener.name));
        let known = HashMap::from([
            (ROUTE, routes),
            (LISTENER, listeners),
            (UPSTREAM, names(&mut self.upstreams.keys())),
            (LIMIT, names(&mut self.limits.iter())),
            (PROFILE, names(&mut self.profiles.names())),
        ]);
        let parts = RouteParts::in_gateway(self);
        metrics.retain(known, |series| {
            parts.have_series(series) && self.has_series(series)
        });
        for tls in self.listeners.iter().filter_map(|l| l.tls.as_ref()) {
            tls.publish();
        }
    }

    /// Returns true if a series with known labels belongs to something that exists.
    fn has_series(&self, series: Series<'_>) -> bool {
        if Redis::has_family(series.family) {
            return self.redis.is_some();
        }
        if let Some(upstream) = series
            .get(UPSTREAM)
            .and_then(|name| self.upstreams.get(name))
        {
            return upstream.has_series(series);
        }
        let Some(listener) = series.get(LISTENER) else {
            return Acme::has_series(self.acme.as_deref(), series);
        };
        let mut of_name = self.listeners.iter().filter(|l| *l.name == *listener);
        of_name.any(|listener| tls::Server::has_series(listener.tls.as_deref(), series))
    }
}

/// Parts of routes that have series of their own, by route: filters, the cache, plugins.
struct RouteParts<'g> {
    filters: HashSet<(&'g str, &'g str)>,
    plugins: HashSet<(&'g str, String)>,
}

impl<'g> RouteParts<'g> {
    fn in_gateway(gateway: &'g Gateway) -> Self {
        let mut parts = Self {
            filters: HashSet::new(),
            plugins: HashSet::new(),
        };
        parts.add(NO_ROUTE, &gateway.fallback.chain);
        for route in &gateway.routes {
            parts.add(&route.name, &route.chain);
            if route.cache.is_some() {
                parts.filters.insert((&route.name, CACHE));
            }
        }
        parts
    }

    fn add(&mut self, route: &'g str, chain: &Chain) {
        let names = chain.filters().iter().map(|filter| (route, filter.name));
        self.filters.extend(names);
        let reports = chain.extension::<Reports>();
        for report in reports.iter().flat_map(|reports| reports.ask()) {
            self.plugins.insert((route, report.name.to_string()));
        }
    }

    /// Returns true if the part of a route that counts in a series exists.
    fn have_series(&self, series: Series<'_>) -> bool {
        let (route, plugin) = (series.get(ROUTE), series.get("plugin"));
        match (series.family, route, plugin) {
            // The first ends with the version that it shows.
            ("edgeway_plugin_info", ..) | (_, None, None) => true,
            (_, Some(route), Some(plugin)) => self.plugins.contains(&(route, plugin.to_owned())),
            (_, None, Some(plugin)) => self.plugins.iter().any(|(_, name)| name == plugin),
            (family, Some(route), None) if family.contains("_cache_") => {
                self.filters.contains(&(route, CACHE))
            }
            ("edgeway_in_flight_requests", Some(route), None) => {
                self.filters.contains(&(route, "in_flight"))
            }
            (_, Some(route), None) => series
                .get("filter")
                .is_none_or(|filter| self.filters.contains(&(route, filter))),
        }
    }
}

/// Label values of `method`; any other method is counted as `other`.
const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "other",
];

/// Number of the statuses that HTTP does not define (RFC 9110, 15): they count as `other`.
const OTHER_STATUS: usize = 600;
/// Statuses whose counters are allocated together.
const BLOCK: usize = 10;
const BLOCKS: usize = OTHER_STATUS / BLOCK + 1;

fn status_label(status: usize) -> String {
    if status < OTHER_STATUS {
        status.to_string()
    } else {
        "other".to_owned()
    }
}

/// Counters of one status, by method.
type ByMethod = Box<[OnceLock<IntCounter>; METHODS.len()]>;
/// Counters of ten statuses.
type Block = Box<[OnceLock<ByMethod>; BLOCK]>;

/// Metrics of one route's requests.
///
/// Series are created when they are first counted: most routes of a large configuration are rarely
/// requested, and most of the five thousand pairs of status and method never occur.
pub struct RouteMetrics {
    metrics: Metrics,
    route: Arc<str>,
    clock: Clock,
    counted: OnceLock<Box<CountedRequests>>,
    refused: ArcSwap<HashMap<&'static str, IntCounter>>,
    /// Counters of responses from files, by part.
    files: OnceLock<Box<FileCounters>>,
}

type FileCounters = [OnceLock<IntCounter>; FilePart::ALL.len()];

/// Metrics of a route that was requested.
struct CountedRequests {
    /// Counters by status below 600, then of all others, in blocks.
    requests: [OnceLock<Block>; BLOCKS],
    seconds: TracedHistogram,
    first_byte: Histogram,
    /// Zero from the first request on, so that Prometheus sees the first failure as an increase.
    failed: IntCounter,
    received: OnceLock<IntCounter>,
    sent: OnceLock<IntCounter>,
}

edgeway_base::enum_table! {
    /// Part of a file that a response contains.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum FilePart => label {
        Plain = "plain",
        Compressed = "compressed",
        Range = "range",
        /// Nothing: the client has it already.
        NotModified = "not_modified",
        /// All of the page for 404.
        NotFound = "not_found",
    }
}

impl RouteMetrics {
    pub fn new(metrics: &Metrics, clock: &Clock, route: &Arc<str>) -> Self {
        Self {
            metrics: metrics.clone(),
            route: Arc::clone(route),
            clock: clock.clone(),
            counted: OnceLock::new(),
            refused: ArcSwap::default(),
            files: OnceLock::new(),
        }
    }

    /// Metrics of the requests, which exist from the first one on.
    #[inline]
    fn counted(&self) -> &CountedRequests {
        self.counted.get_or_init(|| {
            Box::new(CountedRequests {
                requests: [const { OnceLock::new() }; BLOCKS],
                seconds: self.metrics.traced_histogram(
                    "edgeway_http_request_duration_seconds",
                    "Time from the request headers to the last byte of the response.",
                    &[("route", &self.route)],
                    SECONDS,
                    &self.clock,
                ),
                first_byte: self.metrics.histogram(
                    "edgeway_http_first_byte_seconds",
                    "Time from the request headers to the first byte of the response, or to the end of a request without one.",
                    &[("route", &self.route)],
                ),
                failed: self.metrics.counter(
                    "edgeway_http_failed_total",
                    "Requests with 5xx that neither client nor configuration asked for, or with a response that broke off.",
                    &[("route", &self.route)],
                ),
                received: OnceLock::new(),
                sent: OnceLock::new(),
            })
        })
    }

    /// Histogram of the time to the last byte.
    #[inline]
    pub fn seconds(&self) -> &TracedHistogram {
        &self.counted().seconds
    }

    /// Records the time from the request headers to the first byte.
    #[inline]
    pub fn observe_first_byte(&self, seconds: f64) {
        self.counted().first_byte.observe(seconds);
    }

    /// Counts a response from a file.
    pub fn count_file(&self, part: FilePart) {
        let counters = self.files.get_or_init(Box::default);
        let counter = counters[part].get_or_init(|| {
            self.metrics.counter(
                "edgeway_http_files_total",
                "Responses from files, by the part of the file that was sent.",
                &[("route", &self.route), ("part", part.label())],
            )
        });
        counter.inc();
    }

    /// Counts the bytes of a finished request's bodies.
    pub fn count_bytes(&self, received: u64, sent: u64) {
        if received > 0 {
            let counted = &self.counted().received;
            let counter = counted.get_or_init(|| self.bytes("received"));
            counter.inc_by(received);
        }
        if sent > 0 {
            let counter = self.counted().sent.get_or_init(|| self.bytes("sent"));
            counter.inc_by(sent);
        }
    }

    fn bytes(&self, direction: &str) -> IntCounter {
        self.metrics.counter(
            "edgeway_http_bytes_total",
            "Bytes of bodies `received` from clients and `sent` to them, counted at the end of a request.",
            &[("route", &self.route), ("direction", direction)],
        )
    }

    /// Counts a request that the gateway or a backend failed.
    pub fn count_failed(&self) {
        self.counted().failed.inc();
    }

    /// Counts a request that was refused or failed, by its reason word.
    pub fn refuse(&self, reason: &'static str) {
        if let Some(counter) = self.refused.load().get(reason) {
            counter.inc();
            return;
        }
        let counter = self.metrics.counter(
            "edgeway_refused_total",
            "Requests and connections refused or failed, by route and reason.",
            &[("route", &self.route), ("reason", reason)],
        );
        counter.inc();
        self.refused.rcu(|known| {
            let mut known = HashMap::clone(known);
            known.insert(reason, counter.clone());
            known
        });
    }

    /// Counts one finished request.
    pub fn count(&self, method: &Method, status: u16) {
        let method = match *method {
            Method::GET => 0,
            Method::HEAD => 1,
            Method::POST => 2,
            Method::PUT => 3,
            Method::DELETE => 4,
            Method::OPTIONS => 5,
            Method::PATCH => 6,
            Method::TRACE => 7,
            _ => 8,
        };
        // A backend may send any number of three digits.
        let status = usize::from(status).min(OTHER_STATUS);
        let block = self.counted().requests[status / BLOCK].get_or_init(Box::default);
        let by_method = block[status % BLOCK].get_or_init(Box::default);
        by_method[method]
            .get_or_init(|| {
                self.metrics.counter(
                    "edgeway_http_requests_total",
                    "Requests by route, method and status (499: client closed the request).",
                    &[
                        ("route", &self.route),
                        ("method", METHODS[method]),
                        ("status", &status_label(status)),
                    ],
                )
            })
            .inc();
    }
}

edgeway_base::metric_handles! {
    /// Request metrics of the process.
    pub struct HttpMetrics() {
        pub in_flight: IntGauge = "edgeway_http_in_flight", "Requests in flight.";
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{World, compile, load_text};

    fn gateway(text: &str, world: &World) -> Option<Gateway> {
        let loaded = load_text("edgeway.yaml", text);
        let problems = format!("{:?}", loaded.diagnostics);
        let file = loaded.file.unwrap_or_else(|| panic!("{problems}"));
        compile(&file, std::path::Path::new("."), world).0
    }

    #[test]
    fn series_go_with_the_names_of_a_configuration() {
        let text = |name: &str| {
            format!(
                "listeners: [{{ address: '127.0.0.1:0', name: l-{name} }}]\n\
                 upstreams: {{ u-{name}: {{ backends: [127.0.0.1:1] }} }}\n\
                 routes: [{{ name: r-{name}, match: {{ path: /* }}, upstream: u-{name} }}]\n"
            )
        };
        let world = World::default();
        let shown = || String::from_utf8(world.metrics.text()).unwrap();
        let old = gateway(&text("old"), &world).unwrap();
        old.forget_stale_metrics(&world.metrics);
        let open = edgeway_base::metrics::Metrics::gauge;
        let gauge = |name: &str| {
            open(
                &world.metrics,
                "edgeway_connections",
                "open",
                &[("listener", name)],
            )
        };
        gauge("l-old").inc();
        old.routes[0].metrics.count(&Method::GET, 200);
        old.fallback.metrics.count(&Method::GET, 404);
        for name in ["l-old", "r-old", "u-old"] {
            assert!(shown().contains(name), "{name}: {}", shown());
        }
        // Refused: the names only in it are gone, and the serving configuration keeps all of its
        // own.
        let refused = text("bad").replace("/*", "no-path");
        assert!(gateway(&refused, &world).is_none());
        assert!(shown().contains("u-bad"), "{}", shown());
        old.forget_stale_metrics(&world.metrics);
        assert!(!shown().contains("-bad"), "{}", shown());
        let before = shown();
        for name in ["l-old", "r-old", "u-old"] {
            assert!(before.contains(name), "{name}: {before}");
        }
        // Replaced: requests in flight on the old one bring no series back.
        let new = gateway(&text("new"), &world).unwrap();
        new.routes[0].metrics.count(&Method::GET, 200);
        new.forget_stale_metrics(&world.metrics);
        old.routes[0].metrics.count(&Method::GET, 200);
        old.routes[0].metrics.count(&Method::GET, 500);
        gauge("l-old").dec();
        assert!(!shown().contains("-old"), "{}", shown());
        let counted =
            "edgeway_http_requests_total{method=\"GET\",route=\"r-new\",status=\"200\"} 1";
        assert!(shown().contains(counted), "{}", shown());
        let fallback =
            "edgeway_http_requests_total{method=\"GET\",route=\"(none)\",status=\"404\"} 1";
        assert!(shown().contains(fallback), "{}", shown());
    }

    #[test]
    fn series_go_with_the_parts_of_a_route() {
        let text = |parts: &str| {
            format!(
                "listeners: [{{ address: '127.0.0.1:0' }}]\n\
                 upstreams: {{ u: {{ backends: [127.0.0.1:1] }} }}\n\
                 routes: [{{ name: r, match: {{ path: /* }}, upstream: u{parts} }}]\n"
            )
        };
        let world = World::default();
        let shown = || String::from_utf8(world.metrics.text()).unwrap();
        let parts =
            ", in_flight: 3, cache: {}, jwt: { keys: 'thirty-two bytes that nobody else knows' }";
        let families = [
            "edgeway_in_flight_requests{",
            "edgeway_cache_requests_total{",
            "edgeway_auth_total{",
        ];
        let old = gateway(&text(parts), &world);
        old.as_ref().unwrap().forget_stale_metrics(&world.metrics);
        // The control: a reload keeps what is there.
        let same = gateway(&text(parts), &world);
        drop(old);
        same.as_ref().unwrap().forget_stale_metrics(&world.metrics);
        for family in families {
            assert!(shown().contains(family), "{family}: {}", shown());
        }
        world.zones.begin();
        let new = gateway(&text(""), &world).unwrap();
        new.routes[0].metrics.count(&Method::GET, 200);
        drop(world.zones.settle());
        drop(same);
        new.forget_stale_metrics(&world.metrics);
        for family in families {
            assert!(!shown().contains(family), "{family}: {}", shown());
        }
        assert!(shown().contains("edgeway_http_requests_total{"));
    }

    #[test]
    fn unregistered_methods_are_counted_as_other() {
        let metrics = Metrics::default();
        let route = RouteMetrics::new(&metrics, &Clock::default(), &"r".into());
        route.count(&Method::GET, 200);
        route.count(&Method::GET, 200);
        route.count(&Method::from_bytes(b"BREW").unwrap(), 405);
        let text = String::from_utf8(metrics.text()).unwrap();
        assert!(
            text.contains(
                "edgeway_http_requests_total{method=\"GET\",route=\"r\",status=\"200\"} 2"
            ),
            "{text}"
        );
        assert!(
            text.contains(
                "edgeway_http_requests_total{method=\"other\",route=\"r\",status=\"405\"} 1"
            ),
            "{text}"
        );
        assert!(!text.contains("BREW"), "{text}");
    }

    #[test]
    fn a_route_without_requests_has_no_series_and_is_small() {
        let metrics = Metrics::default();
        let route = RouteMetrics::new(&metrics, &Clock::default(), &"r".into());
        assert_eq!(metrics.text(), b"");
        assert!(size_of::<RouteMetrics>() <= 160);
        assert!(size_of::<CountedRequests>() <= 1200);
        // The control: each part of a request brings its series.
        let has = |family: &str| {
            let text = String::from_utf8(metrics.text()).unwrap();
            text.contains(&format!("\n{family}"))
        };
        route.count(&Method::GET, 200);
        assert!(has("edgeway_http_requests_total{"));
        assert!(!has("edgeway_http_bytes_total{"));
        route.count_bytes(0, 3);
        route.observe_first_byte(0.1);
        route.seconds().observe_plain(0.1);
        route.count_file(FilePart::Range);
        for family in [
            "edgeway_http_bytes_total{direction=\"sent\"",
            "edgeway_http_first_byte_seconds_sum{",
            "edgeway_http_request_duration_seconds_sum{",
            "edgeway_http_files_total{part=\"range\"",
        ] {
            assert!(has(family), "{family}");
        }
    }

    #[test]
    fn a_reason_is_counted_by_route_from_its_first_time() {
        let metrics = Metrics::default();
        for name in ["r", "s"] {
            let route = RouteMetrics::new(&metrics, &Clock::default(), &name.into());
            for _ in 0..3 {
                route.refuse("body_limit");
            }
        }
        let text = String::from_utf8(metrics.text()).unwrap();
        for name in ["r", "s"] {
            let line = format!("edgeway_refused_total{{reason=\"body_limit\",route=\"{name}\"}} 3");
            assert!(text.contains(&line), "{text}");
        }
    }

    #[test]
    fn statuses_that_http_does_not_define_are_counted_as_other() {
        let metrics = Metrics::default();
        let route = RouteMetrics::new(&metrics, &Clock::default(), &"r".into());
        for status in [599, 600, 799, 999] {
            route.count(&Method::GET, status);
        }
        route.count_bytes(3, 0);
        route.count_bytes(4, 70);
        let text = String::from_utf8(metrics.text()).unwrap();
        for line in [
            "edgeway_http_requests_total{method=\"GET\",route=\"r\",status=\"599\"} 1",
            "edgeway_http_requests_total{method=\"GET\",route=\"r\",status=\"other\"} 3",
            "edgeway_http_bytes_total{direction=\"received\",route=\"r\"} 7",
            "edgeway_http_bytes_total{direction=\"sent\",route=\"r\"} 70",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
