//! Metrics of Redis.

use std::time::Duration;

use edgeway_base::metrics::{Histogram, IntCounter, IntGauge, Metrics};

/// Buckets around the usual deadline, to show whether it was met.
const BUCKETS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.025, 0.05, 0.1, 0.5, 1.0,
];

const UP: &str = "edgeway_redis_up";
const ERRORS: &str = "edgeway_redis_errors_total";
const WAITS: &str = "edgeway_redis_command_duration_seconds";

/// All families; none of them exists without Redis.
pub(super) const FAMILIES: [&str; 3] = [UP, ERRORS, WAITS];

/// Outcome of a command that was sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome {
    Ok,
    Error,
    Timeout,
}

pub(super) struct RedisMetrics {
    pub(super) up: IntGauge,
    /// Durations by [`Outcome`].
    seconds: [Histogram; 3],
    /// Commands not sent because Redis was known to be unreachable.
    pub(super) open: IntCounter,
    pub(super) timeouts: IntCounter,
    pub(super) connection: IntCounter,
    pub(super) response: IntCounter,
}

impl RedisMetrics {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let seconds = |outcome| {
            metrics.histogram_with(
                WAITS,
                "Duration of commands to Redis, by outcome: `ok`, `error` or `timeout`. Has buckets around the deadline: 0.015, 0.02, 0.025.",
                &[("outcome", outcome)],
                BUCKETS,
            )
        };
        let errors = |kind| {
            metrics.counter(
                ERRORS,
                "Failed commands to Redis, by kind: `timeout`, `connection`, `response` (an error), `open` (not sent while Redis is lost).",
                &[("kind", kind)],
            )
        };
        Self {
            up: metrics.gauge(
                UP,
                "1 if all of Redis is reachable; absent without a `redis` section.",
                &[],
            ),
            seconds: [seconds("ok"), seconds("error"), seconds("timeout")],
            open: errors("open"),
            timeouts: errors("timeout"),
            connection: errors("connection"),
            response: errors("response"),
        }
    }

    pub(super) fn observe(&self, outcome: Outcome, took: Duration) {
        self.seconds[outcome as usize].observe(took.as_secs_f64());
    }
}
