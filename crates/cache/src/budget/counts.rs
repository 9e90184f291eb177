//! Counts and metrics of a render budget.

use super::{Kind, QueueRefusal};
use crate::base::metrics::{IntCounter, IntGauge, Metrics};

/// State of a budget at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
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

#[derive(Clone, Debug)]
pub(super) struct BudgetMetrics {
    in_flight: [IntGauge; Kind::ALL.len()],
    pub(super) waiting: IntGauge,
    pub(super) skipped: IntCounter,
    pub(super) full: IntCounter,
    pub(super) timed_out: IntCounter,
}

impl BudgetMetrics {
    pub(super) fn new(metrics: &Metrics, upstream: &str) -> Self {
        let in_flight = |kind: Kind| {
            metrics.gauge(
                "edgeway_cache_renders",
                "Misses and revalidations in flight; `crawler`: the part caused by crawlers.",
                &[("upstream", upstream), ("kind", kind.label())],
            )
        };
        let refused = |reason| {
            metrics.counter(
                "edgeway_cache_renders_refused_total",
                "Revalidations postponed, and crawlers' misses refused with 503.",
                &[("upstream", upstream), ("reason", reason)],
            )
        };
        Self {
            in_flight: Kind::ALL.map(in_flight),
            waiting: metrics.gauge(
                "edgeway_cache_renders_waiting",
                "Misses of crawlers queued for the render budget.",
                &[("upstream", upstream)],
            ),
            skipped: refused("revalidation_skipped"),
            full: refused(QueueRefusal::Full.reason()),
            timed_out: refused(QueueRefusal::Late.reason()),
        }
    }

    pub(super) fn gauge(&self, kind: Kind) -> &IntGauge {
        &self.in_flight[kind as usize]
    }
}
