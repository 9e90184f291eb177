//! Metrics of Redis.

/// Buckets around the usual deadline, to show whether it was met.
const BUCKETS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.025, 0.05, 0.1, 0.5, 1.0,
];

edgeway_base::enum_table! {
    /// Outcome of a command that was sent.
    #[derive(Clone, Copy, Debug)]
    pub(super) enum Outcome => name {
        Ok = "ok",
        Error = "error",
        Timeout = "timeout",
    }
}

edgeway_base::metric_handles! {
    /// Metrics of a process with Redis; no family exists without it.
    pub(super) struct RedisMetrics() {
        pub(super) up: IntGauge = "edgeway_redis_up",
            "1 if all of Redis is reachable; absent without a `redis` section.";
        pub(super) seconds: [Histogram in BUCKETS; outcome: Outcome::name] =
            "edgeway_redis_command_duration_seconds",
            "Duration of commands to Redis, by outcome: `ok`, `error` or `timeout`. Has buckets around the deadline: 0.015, 0.02, 0.025.";
        /// Commands not sent because Redis was known to be unreachable.
        pub(super) open { kind: "open" },
        pub(super) timeouts { kind: "timeout" },
        pub(super) connection { kind: "connection" },
        pub(super) response { kind: "response" }: IntCounter = "edgeway_redis_errors_total",
            "Failed commands to Redis, by kind: `timeout`, `connection`, `response` (an error), `open` (not sent while Redis is lost).";
    }
}
