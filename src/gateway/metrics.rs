//! The metrics of requests: handles made with the configuration, counted without a lock.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwap;
use http::Method;

use crate::base::metrics::{Histogram, IntCounter, IntGauge, Metrics};

/// The label values of `method`; whatever else a client writes is `other`.
const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "other",
];

/// The counters of one status.
type ByMethod = Box<[OnceLock<IntCounter>; METHODS.len()]>;

/// One route's requests.
pub struct RouteMetrics {
    metrics: Metrics,
    route: Arc<str>,
    /// By status below 600, then by method; made when first counted, since most of the
    /// five thousand pairs never are.
    requests: Box<[OnceLock<ByMethod>]>,
    pub seconds: Histogram,
    pub first_byte: Histogram,
}

impl RouteMetrics {
    pub fn new(metrics: &Metrics, route: &Arc<str>) -> Self {
        let labels = [("route", &**route)];
        Self {
            requests: std::iter::repeat_with(OnceLock::new).take(600).collect(),
            seconds: metrics.histogram(
                "edgeway_http_request_seconds",
                "From the request's head to the answer's last byte.",
                &labels,
            ),
            first_byte: metrics.histogram(
                "edgeway_http_first_byte_seconds",
                "From the request's head to the answer's first byte.",
                &labels,
            ),
            metrics: metrics.clone(),
            route: Arc::clone(route),
        }
    }

    /// Counts one request that is over.
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
        let Some(row) = self.requests.get(usize::from(status)) else {
            return;
        };
        let row = row.get_or_init(|| Box::new([const { OnceLock::new() }; METHODS.len()]));
        row[method]
            .get_or_init(|| {
                self.metrics.counter(
                    "edgeway_http_requests_total",
                    "Requests by route, method and status (499: the client left first).",
                    &[
                        ("route", &self.route),
                        ("method", METHODS[method]),
                        ("status", &status.to_string()),
                    ],
                )
            })
            .inc();
    }
}

/// The process's requests.
pub struct HttpMetrics {
    metrics: Metrics,
    pub in_flight: IntGauge,
    refused: ArcSwap<HashMap<&'static str, IntCounter>>,
}

impl HttpMetrics {
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            metrics: metrics.clone(),
            in_flight: metrics.gauge("edgeway_http_in_flight", "Requests under way.", &[]),
            refused: ArcSwap::default(),
        }
    }

    /// Counts a request that was refused or failed, by its fixed word.
    pub fn refuse(&self, reason: &'static str) {
        if let Some(counter) = self.refused.load().get(reason) {
            counter.inc();
            return;
        }
        let counter = self.metrics.counter(
            "edgeway_refused_total",
            "Requests refused or failed, by reason.",
            &[("reason", reason)],
        );
        counter.inc();
        self.refused.rcu(|known| {
            let mut known = HashMap::clone(known);
            known.insert(reason, counter.clone());
            known
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_that_nobody_registered_are_other() {
        let metrics = Metrics::default();
        let route = RouteMetrics::new(&metrics, &"r".into());
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
    fn a_reason_is_counted_from_its_first_time() {
        let metrics = Metrics::default();
        let http = HttpMetrics::new(&metrics);
        for _ in 0..3 {
            http.refuse("body_limit");
        }
        let text = String::from_utf8(metrics.text()).unwrap();
        assert!(
            text.contains("edgeway_refused_total{reason=\"body_limit\"} 3"),
            "{text}"
        );
    }
}
