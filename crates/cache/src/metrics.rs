//! Metrics of one route's cache.

use crate::chain::{CacheFacts, CacheOutcome};

edgeway_base::metric_handles! {
    /// Metric handles, created with the configuration.
    pub struct RouteCacheMetrics(route) {
        outcomes: [IntCounter; result: CacheOutcome::label] = "edgeway_cache_requests_total",
            "Requests on routes with a cache, by what the cache did: `hit`, `miss`, `stale`, `expired`, `revalidated` or `bypass`.";
        collapsed: IntCounter = "edgeway_cache_collapsed_total",
            "Requests that were collapsed with another request to the origin.";
        pub revalidations: [IntCounter; outcome: Revalidation::name] =
            "edgeway_cache_revalidations_total",
            "Background revalidations of stale responses: `begun`, or `postponed` because the \
             upstream's budget was used up.";
    }
}

edgeway_base::enum_table! {
    /// Outcome of revalidating a stale response in the background.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Revalidation => name {
        /// The revalidation began.
        Begun = "begun",
        /// The upstream's budget had no room for the revalidation: the stale response stays in use.
        Postponed = "postponed",
    }
}

impl RouteCacheMetrics {
    pub fn count(&self, facts: &CacheFacts) {
        self.outcomes[facts.outcome].inc();
        if facts.is_collapsed {
            self.collapsed.inc();
        }
    }
}
