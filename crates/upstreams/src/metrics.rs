//! Metrics of upstreams and backends. Handles are created with the members, so that a request only
//! adds to them.

use super::NodeStatus;
use crate::base::metrics::{Histogram, IntCounter, IntGauge, Metrics};

/// Counters and gauges of one upstream.
#[derive(Clone, Debug)]
pub(super) struct UpstreamMetrics {
    pub(super) retries: IntCounter,
    pub(super) queue: IntGauge,
    pub(super) panic: IntGauge,
    pub(super) first_byte: Histogram,
}

impl UpstreamMetrics {
    pub(super) fn new(metrics: &Metrics, upstream: &str) -> Self {
        let labels = [("upstream", upstream)];
        Self {
            retries: metrics.counter(
                "edgeway_upstream_retries_total",
                "Retries, each on another backend where there is one.",
                &labels,
            ),
            queue: metrics.gauge(
                "edgeway_upstream_queue",
                "Requests queued for a backend.",
                &labels,
            ),
            panic: metrics.gauge(
                "edgeway_upstream_panic",
                "1 while all backends are out of rotation and therefore all are used.",
                &labels,
            ),
            first_byte: metrics.histogram(
                "edgeway_upstream_first_byte_seconds",
                "Time from the start of an attempt to the headers of its response.",
                &labels,
            ),
        }
    }
}

/// Counters and gauges of one backend.
#[derive(Clone, Debug)]
pub(super) struct BackendMetrics {
    pub(super) ok: IntCounter,
    pub(super) connect_failed: IntCounter,
    pub(super) reset: IntCounter,
    pub(super) timeout: IntCounter,
    pub(super) bad_status: IntCounter,
    pub(super) client_gone: IntCounter,
    pub(super) ejections: IntCounter,
    pub(super) healthy: IntGauge,
    pub(super) in_flight: IntGauge,
    pub(super) streams: IntGauge,
    pub(super) draining: IntGauge,
}

const REQUESTS: &str = "edgeway_upstream_requests_total";
const EJECTIONS: &str = "edgeway_upstream_ejections_total";
const HEALTHY: &str = "edgeway_backend_healthy";
const DRAINING: &str = "edgeway_backend_draining";
const IN_FLIGHT: &str = "edgeway_backend_in_flight";
const STREAMS: &str = "edgeway_backend_streams";
const NODE_UTILISATION: &str = "edgeway_backend_node_utilisation_ratio";
const NODE_DELAY: &str = "edgeway_backend_node_delay_seconds";
const NODE_HEAP: &str = "edgeway_backend_node_heap_bytes";
const NODE_RSS: &str = "edgeway_backend_node_rss_bytes";
const NODE_AGE: &str = "edgeway_backend_node_report_age_seconds";
const OUTCOMES: [&str; 6] = [
    "ok",
    "connect_failed",
    "reset",
    "timeout",
    "bad_status",
    "client_gone",
];

impl BackendMetrics {
    pub(super) fn new(metrics: &Metrics, upstream: &str, backend: &str) -> Self {
        let requests = |outcome| {
            metrics.counter(
                REQUESTS,
                "Attempts by backend and outcome; bad_status is 502, 503 or 504.",
                &[
                    ("upstream", upstream),
                    ("backend", backend),
                    ("outcome", outcome),
                ],
            )
        };
        let labels = [("upstream", upstream), ("backend", backend)];
        let [ok, connect_failed, reset, timeout, bad_status, client_gone] = OUTCOMES.map(requests);
        Self {
            ok,
            connect_failed,
            reset,
            timeout,
            bad_status,
            client_gone,
            ejections: metrics.counter(
                EJECTIONS,
                "Ejections of a backend from rotation after failures.",
                &labels,
            ),
            healthy: metrics.gauge(
                HEALTHY,
                "1 while a backend is in rotation: neither down nor ejected.",
                &labels,
            ),
            in_flight: metrics.gauge(IN_FLIGHT, "Requests in flight to a backend.", &labels),
            streams: metrics.gauge(
                STREAMS,
                "Streams in flight to a backend: WebSockets, event streams and gRPC calls.",
                &labels,
            ),
            draining: metrics.gauge(
                DRAINING,
                "1 while a backend is drained: it gets no new requests.",
                &labels,
            ),
        }
    }

    /// Sets the gauges of an app that reports its load. Only such a backend has these series.
    pub(super) fn publish_node(
        metrics: &Metrics,
        upstream: &str,
        backend: &str,
        node: &NodeStatus,
    ) {
        let labels = [("upstream", upstream), ("backend", backend)];
        let ratio = |name, help, value| metrics.float_gauge(name, help, &labels).set(value);
        ratio(
            NODE_UTILISATION,
            "Part of the time in which a Node app's event loop was busy, by edgeway-node.",
            node.utilisation,
        );
        ratio(
            NODE_DELAY,
            "Delay of a Node app's event loop, by edgeway-node.",
            node.delay_ms / 1e3,
        );
        ratio(
            NODE_AGE,
            "Time since the last report of edgeway-node.",
            node.age,
        );
        let bytes = |name, help, bytes: u64| {
            let value = i64::try_from(bytes).unwrap_or(i64::MAX);
            metrics.gauge(name, help, &labels).set(value);
        };
        bytes(
            NODE_HEAP,
            "Bytes of heap in use by a Node app, by edgeway-node.",
            node.heap_bytes,
        );
        bytes(
            NODE_RSS,
            "Resident memory of a Node app, by edgeway-node.",
            node.rss_bytes,
        );
    }

    /// Drops the time series of a backend that no longer exists.
    pub(super) fn forget(metrics: &Metrics, upstream: &str, backend: &str) {
        for outcome in OUTCOMES {
            metrics.forget(
                REQUESTS,
                &[
                    ("upstream", upstream),
                    ("backend", backend),
                    ("outcome", outcome),
                ],
            );
        }
        let names = [
            EJECTIONS,
            HEALTHY,
            IN_FLIGHT,
            STREAMS,
            DRAINING,
            NODE_UTILISATION,
            NODE_DELAY,
            NODE_HEAP,
            NODE_RSS,
            NODE_AGE,
        ];
        for name in names {
            metrics.forget(name, &[("upstream", upstream), ("backend", backend)]);
        }
    }

    /// Number of attempts that ended, with any outcome.
    pub(super) fn requests(&self) -> u64 {
        self.ok.get() + self.failures() + self.client_gone.get()
    }

    pub(super) fn failures(&self) -> u64 {
        self.connect_failed.get() + self.reset.get() + self.timeout.get() + self.bad_status.get()
    }
}
