//! Metrics of upstreams and backends. Handles are created with the members, so that a request only
//! adds to them.

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
        for name in [EJECTIONS, HEALTHY, IN_FLIGHT, STREAMS, DRAINING] {
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
