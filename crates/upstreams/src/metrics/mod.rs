//! Metrics of upstreams and backends. Handles are created with the members, so that a request only
//! adds to them.

mod node;
mod server_timing;
mod sessions;

use std::time::Duration;

use http::HeaderMap;

pub(super) use self::node::NodeMetrics;
use self::{server_timing::ServerTiming, sessions::Sessions};
use super::Upstream;
use crate::{
    base::{
        http::is_token_byte,
        metrics::{Metrics, Series},
    },
    chain::CompileContext,
    config::model::UpstreamMetricsConfig,
    zones::Zones,
};

/// Most names of `server_timing`: each is a histogram for each upstream.
const MAX_TIMINGS: usize = 16;

edgeway_base::metric_handles! {
    /// Counters and gauges of one upstream.
    #[derive(Clone, Debug)]
    pub(super) struct UpstreamMetrics(upstream) {
        pub(super) retries: IntCounter = "edgeway_upstream_retries_total",
            "Retries, each on another backend where there is one.";
        pub(super) queue: IntGauge = "edgeway_upstream_queue", "Requests queued for a backend.";
        pub(super) panic: IntGauge = "edgeway_upstream_panic",
            "1 while all backends are out of rotation and therefore all are used.";
        pub(super) ready: IntGauge = "edgeway_upstream_ready",
            "1 while at least one backend is in rotation.";
        pub(super) first_byte: Histogram = "edgeway_upstream_first_byte_seconds",
            "Time from the start of an attempt to the headers of its response.";
        /// Bytes of request bodies to backends.
        pub(super) sent { direction: "sent" },
        /// Bytes of response bodies from backends.
        pub(super) received { direction: "received" }:
            IntCounter = "edgeway_upstream_bytes_total",
            "Bytes of bodies `sent` to backends and `received` from them.";
    }
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

edgeway_base::metric_handles! {
    /// Counters and gauges of one backend.
    #[derive(Clone, Debug)]
    pub(super) struct BackendMetrics(upstream, backend) {
        pub(super) ok { outcome: "ok" },
        pub(super) connect_failed { outcome: "connect_failed" },
        pub(super) reset { outcome: "reset" },
        pub(super) timeout { outcome: "timeout" },
        pub(super) bad_status { outcome: "bad_status" },
        pub(super) client_gone { outcome: "client_gone" },
        pub(super) stale { outcome: "stale" }: IntCounter = "edgeway_upstream_requests_total",
            "Attempts by backend and outcome; bad_status is 502, 503 or 504, stale a connection that had ended.";
        pub(super) ejections: IntCounter = "edgeway_upstream_ejections_total",
            "Ejections of a backend from rotation after failures.";
        pub(super) healthy: IntGauge = "edgeway_backend_healthy",
            "1 while a backend is in rotation: neither down nor ejected.";
        pub(super) in_flight: IntGauge = "edgeway_backend_in_flight",
            "Requests in flight to a backend.";
        pub(super) streams: IntGauge = "edgeway_backend_streams",
            "Streams in flight to a backend: WebSockets, event streams and gRPC calls.";
        pub(super) draining: IntGauge = "edgeway_backend_draining",
            "1 while a backend is drained: it gets no new requests.";
        pub(super) degraded: IntGauge = "edgeway_backend_degraded",
            "1 while a backend's health check passes as `degraded`.";
    }
}

edgeway_base::metric_handles! {
    /// Latency of a backend that has responded.
    pub(super) struct BackendLatency(upstream, backend) {
        pub(super) average: Gauge = "edgeway_backend_latency_seconds",
            "Moving average of the time from the start of an attempt to the headers of its response.";
    }
}

const FIRST_BYTE: &str = "edgeway_backend_first_byte_seconds";

edgeway_base::metric_handles! {
    /// Time to first byte of a backend, if the configuration asks for it.
    #[derive(Clone, Debug)]
    pub(super) struct BackendFirstByte(upstream, backend) {
        pub(super) seconds: Histogram = FIRST_BYTE,
            "Time from the start of an attempt to the headers of its response, with `metrics: { backends: true }`.";
    }
}

/// Drops the time series of a backend that no longer exists.
pub(super) fn forget_backend(metrics: &Metrics, upstream: &str, backend: &str) {
    BackendMetrics::forget(metrics, upstream, backend);
    BackendLatency::forget(metrics, upstream, backend);
    BackendFirstByte::forget(metrics, upstream, backend);
    node::forget(metrics, upstream, backend);
}

impl BackendMetrics {
    /// Creates the handles of a backend, and registers those that it has later.
    pub(super) fn register(metrics: &Metrics, upstream: &str, backend: &str) -> Self {
        // A backend has this series once it has responded. The series of others stay: this may be a
        // configuration that is refused.
        let _handles = BackendLatency::new(metrics, "", "");
        BackendLatency::forget(metrics, "", "");
        Self::new(metrics, upstream, backend)
    }

    /// Number of attempts that ended, with any outcome.
    pub(super) fn requests(&self) -> u64 {
        self.ok.get() + self.failures() + self.client_gone.get() + self.stale.get()
    }

    pub(super) fn failures(&self) -> u64 {
        self.connect_failed.get() + self.reset.get() + self.timeout.get() + self.bad_status.get()
    }
}
