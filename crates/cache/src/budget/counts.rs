//! Counts and metrics of a render budget.

use super::Kind;
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
    person: IntGauge,
    revalidation: IntGauge,
    crawl: IntGauge,
    pub(super) waiting: IntGauge,
    pub(super) skipped: IntCounter,
    pub(super) full: IntCounter,
    pub(super) timed_out: IntCounter,
}

impl BudgetMetrics {
    pub(super) fn new(metrics: &Metrics, upstream: &str) -> Self {
        let in_flight = |kind| {
            metrics.gauge(
                "edgeway_cache_renders",
                "Misses and revalidations in flight; `crawler`: the part caused by crawlers.",
                &[("upstream", upstream), ("kind", kind)],
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
            person: in_flight("person"),
            revalidation: in_flight("revalidation"),
            crawl: in_flight("crawler"),
            waiting: metrics.gauge(
                "edgeway_cache_renders_waiting",
                "Misses of crawlers queued for the render budget.",
                &[("upstream", upstream)],
            ),
            skipped: refused("revalidation_skipped"),
            full: refused("render_queue_full"),
            timed_out: refused("render_queue_timeout"),
        }
    }

    pub(super) fn gauge(&self, kind: Kind) -> &IntGauge {
        match kind {
            Kind::Person => &self.person,
            Kind::Revalidation => &self.revalidation,
            Kind::Crawl => &self.crawl,
        }
    }
}
