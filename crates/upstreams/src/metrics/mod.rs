//! Metrics of upstreams and backends. Handles are created with the members, so that a request only
//! adds to them.

mod node;
mod server_timing;
mod sessions;

use std::time::Duration;

use http::HeaderMap;

use self::{node::NodeMetrics, server_timing::ServerTiming, sessions::Sessions};
use super::Upstream;
use crate::{
    base::{
        http::is_token_byte,
        metrics::{Gauge, Histogram, IntCounter, IntGauge, Metrics, Series},
    },
    chain::CompileContext,
    config::model::UpstreamMetricsConfig,
    zones::Zones,
};

/// Most names of `server_timing`: each is a histogram for each upstream.
const MAX_TIMINGS: usize = 16;

/// Counters and gauges of one upstream.
#[derive(Clone, Debug)]
pub(super) struct UpstreamMetrics {
    pub(super) retries: IntCounter,
    pub(super) queue: IntGauge,
    pub(super) panic: IntGauge,
    pub(super) ready: IntGauge,
    pub(super) first_byte: Histogram,
    /// Bytes of request bodies to backends.
    pub(super) sent: IntCounter,
    /// Bytes of response bodies from backends.
    pub(super) received: IntCounter,
}

/// Metrics that a configuration asks for.
#[derive(Clone, Debug, Default)]
pub(super) struct OptionalMetrics {
    /// True for a histogram of each backend.
    pub(super) backends: bool,
    server_timing: Option<ServerTiming>,
    pub(super) sessions: Option<Sessions>,
}

impl OptionalMetrics {
    /// Checks and compiles the section; problems are reported to `cx`.
    pub(super) fn compile(
        config: &UpstreamMetricsConfig,
        upstream: &str,
        zones: &Zones,
        cx: &mut CompileContext<'_>,
    ) -> Self {
        let mut names: Vec<&str> = Vec::new();
        for name in &config.server_timing {
            let text = name.value.as_str();
            let (message, help) = if text.is_empty() || !text.bytes().all(is_token_byte) {
                (
                    format!("invalid name `{text}` in `server_timing`"),
                    "write a name as the app sends it, such as `db` of `Server-Timing: db;dur=53`",
                )
            } else if names.contains(&text) {
                (
                    format!("`{text}` is listed twice in `server_timing`"),
                    "remove one",
                )
            } else if names.len() == MAX_TIMINGS {
                (
                    format!("more than {MAX_TIMINGS} names in `server_timing`"),
                    "list those that a dashboard or an alert uses; each name is a histogram",
                )
            } else {
                names.push(text);
                continue;
            };
            cx.at(name.place, "edgeway::upstream::server_timing")
                .error(message, help);
        }
        let sessions = config.sessions.as_ref().and_then(|sessions| {
            let (cookie, window) = (&sessions.cookie, &sessions.window);
            if cookie.value.is_empty() || !cookie.value.bytes().all(is_token_byte) {
                let message = format!("invalid cookie name `{}`", cookie.value);
                let help = "write the name of the app's session cookie, such as `connect.sid`";
                return cx
                    .at(cookie.place, "edgeway::upstream::bad_cookie_name")
                    .refuse(message, help);
            }
            if window.value.0 < MIN_WINDOW {
                let message = "`sessions.window` must be at least 1s";
                let help = "write the time after which a session counts as inactive, such as `15m`";
                return cx
                    .at(window.place, "edgeway::upstream::zero")
                    .refuse(message, help);
            }
            let (cookie, window) = (cookie.value.as_str(), window.value.0);
            Some(Sessions::new(
                upstream, cookie, window, zones, cx.clock, cx.metrics,
            ))
        });
        Self {
            backends: config.backends,
            server_timing: (!names.is_empty())
                .then(|| ServerTiming::new(cx.metrics, upstream, &names)),
            sessions,
        }
    }
}

/// Shortest window of sessions.
const MIN_WINDOW: Duration = Duration::from_secs(1);

impl Upstream {
    /// Records the durations that a backend reports in its response, if the configuration asks for
    /// them.
    #[inline]
    pub fn observe_server_timing(&self, headers: &HeaderMap) {
        if let Some(timing) = &self.optional_metrics.server_timing {
            timing.observe(headers);
        }
    }

    /// Counts the session of a request that did not fail, if the configuration asks for it.
    #[inline]
    pub fn observe_session(&self, headers: &HeaderMap) {
        if let Some(sessions) = &self.optional_metrics.sessions {
            sessions.observe(headers);
        }
    }

    /// Counts bytes of a request body that go to a backend.
    #[inline]
    pub fn count_sent(&self, bytes: usize) {
        self.shared.metrics.sent.inc_by(bytes as u64);
    }

    /// Counts bytes of a response body that came from a backend.
    #[inline]
    pub fn count_received(&self, bytes: usize) {
        self.shared.metrics.received.inc_by(bytes as u64);
    }

    /// Returns true if a series with this upstream's name is one that the configuration asks for.
    pub fn has_series(&self, series: Series<'_>) -> bool {
        let asked = &self.optional_metrics;
        match series.family {
            FIRST_BYTE => asked.backends,
            sessions::NAME => asked.sessions.is_some(),
            node::OVER_LIMIT => self.restart_at.is_some(),
            server_timing::NAME => {
                let timing = asked.server_timing.as_ref();
                let name = series.get("metric").unwrap_or_default();
                timing.is_some_and(|timing| timing.has(name))
            }
            _ => true,
        }
    }
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
            ready: metrics.gauge(
                "edgeway_upstream_ready",
                "1 while at least one backend is in rotation.",
                &labels,
            ),
            first_byte: metrics.histogram(
                "edgeway_upstream_first_byte_seconds",
                "Time from the start of an attempt to the headers of its response.",
                &labels,
            ),
            sent: bytes(metrics, upstream, "sent"),
            received: bytes(metrics, upstream, "received"),
        }
    }
}

fn bytes(metrics: &Metrics, upstream: &str, direction: &str) -> IntCounter {
    metrics.counter(
        "edgeway_upstream_bytes_total",
        "Bytes of bodies `sent` to backends and `received` from them.",
        &[("upstream", upstream), ("direction", direction)],
    )
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
    pub(super) stale: IntCounter,
    pub(super) ejections: IntCounter,
    pub(super) healthy: IntGauge,
    pub(super) in_flight: IntGauge,
    pub(super) streams: IntGauge,
    pub(super) draining: IntGauge,
    pub(super) degraded: IntGauge,
    /// Time to first byte, if the configuration asks for it.
    pub(super) first_byte: Option<Histogram>,
    /// Load that a Node app reports.
    pub(super) node: NodeMetrics,
}

const REQUESTS: &str = "edgeway_upstream_requests_total";
const EJECTIONS: &str = "edgeway_upstream_ejections_total";
const HEALTHY: &str = "edgeway_backend_healthy";
const DRAINING: &str = "edgeway_backend_draining";
const IN_FLIGHT: &str = "edgeway_backend_in_flight";
const STREAMS: &str = "edgeway_backend_streams";
const DEGRADED: &str = "edgeway_backend_degraded";
pub(super) const LATENCY: &str = "edgeway_backend_latency_seconds";
const FIRST_BYTE: &str = "edgeway_backend_first_byte_seconds";
const OUTCOMES: [&str; 7] = [
    "ok",
    "connect_failed",
    "reset",
    "timeout",
    "bad_status",
    "client_gone",
    "stale",
];

impl BackendMetrics {
    pub(super) fn new(
        metrics: &Metrics,
        upstream: &str,
        backend: &str,
        optional: &OptionalMetrics,
    ) -> Self {
        let requests = |outcome| {
            metrics.counter(
                REQUESTS,
                "Attempts by backend and outcome; bad_status is 502, 503 or 504, stale a connection that had ended.",
                &[
                    ("upstream", upstream),
                    ("backend", backend),
                    ("outcome", outcome),
                ],
            )
        };
        let labels = [("upstream", upstream), ("backend", backend)];
        let [
            ok,
            connect_failed,
            reset,
            timeout,
            bad_status,
            client_gone,
            stale,
        ] = OUTCOMES.map(requests);
        // Registers the metric; a backend has a series once it has responded. The series of others
        // stay: this may be a configuration that is refused.
        let nobody = [("upstream", ""), ("backend", "")];
        latency_gauge(metrics, &nobody);
        metrics.forget(LATENCY, &nobody);
        Self {
            ok,
            connect_failed,
            reset,
            timeout,
            bad_status,
            client_gone,
            stale,
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
            node: NodeMetrics::default(),
            degraded: metrics.gauge(
                DEGRADED,
                "1 while a backend's health check passes as `degraded`.",
                &labels,
            ),
            first_byte: optional.backends.then(|| {
                metrics.histogram(
                    FIRST_BYTE,
                    "Time from the start of an attempt to the headers of its response, with `metrics: { backends: true }`.",
                    &labels,
                )
            }),
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
        let of_backend = [
            EJECTIONS, HEALTHY, IN_FLIGHT, STREAMS, DRAINING, DEGRADED, LATENCY, FIRST_BYTE,
        ];
        for name in of_backend.into_iter().chain(node::NAMES) {
            metrics.forget(name, &[("upstream", upstream), ("backend", backend)]);
        }
    }

    /// Number of attempts that ended, with any outcome.
    pub(super) fn requests(&self) -> u64 {
        self.ok.get() + self.failures() + self.client_gone.get() + self.stale.get()
    }

    pub(super) fn failures(&self) -> u64 {
        self.connect_failed.get() + self.reset.get() + self.timeout.get() + self.bad_status.get()
    }
}

/// Returns the gauge of the moving average of a backend's times to the first byte.
pub(super) fn latency_gauge(metrics: &Metrics, labels: &[(&'static str, &str)]) -> Gauge {
    metrics.float_gauge(
        LATENCY,
        "Moving average of the time from the start of an attempt to the headers of its response.",
        labels,
    )
}
