//! Counts and metrics of a render budget.

use super::{QueueRefusal, RenderKind};

/// State of a budget at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetCounts {
    /// Maximum of renders in flight, beside people's misses.
    pub renders: u32,
    /// Misses of people in flight.
    pub people: u32,
    /// Revalidations for people in flight.
    pub revalidating: u32,
    /// Misses and revalidations in flight that crawlers caused.
    pub crawling: u32,
    /// Misses of crawlers that wait.
    pub waiting: usize,
}

edgeway_base::metric_handles! {
    /// Metrics of the budget of one upstream.
    #[derive(Clone, Debug)]
    pub(super) struct BudgetMetrics(upstream) {
        pub(super) in_flight: [IntGauge; kind: RenderKind::label] = "edgeway_cache_renders",
            "Misses and revalidations in flight; `crawler`: the part caused by crawlers.";
        pub(super) waiting: IntGauge = "edgeway_cache_renders_waiting",
            "Misses of crawlers queued for the render budget.";
        pub(super) skipped { reason: "revalidation_skipped" },
        pub(super) full { reason: QueueRefusal::Full.reason() },
        pub(super) timed_out { reason: QueueRefusal::Late.reason() }:
            IntCounter = "edgeway_cache_renders_refused_total",
            "Revalidations postponed, and crawlers' misses refused with 503.";
    }
}
