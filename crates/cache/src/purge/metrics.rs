//! Metrics of purges.

use super::{Purge, PurgeEffect, PurgeTarget};
use crate::base::metrics::Metrics;

const KINDS: [&str; 5] = ["url", "prefix", "tag", "all", "written"];

edgeway_base::enum_table! {
    /// Source of a purge at this gateway.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum PurgeSource => name {
        /// The admin API.
        Admin = "admin",
        /// A request with the method `PURGE`.
        Method = "method",
        /// A successful write (`purge_on_write`).
        Write = "write",
        /// Another gateway.
        Gateway = "gateway",
    }
}

edgeway_base::metric_handles! {
    /// Metrics of the link to other gateways, and of the responses that purges affect.
    pub(super) struct LinkMetrics() {
        pub(super) objects: [IntCounter; source: PurgeSource::name] =
            "edgeway_cache_purged_objects_total",
            "Stored responses that purges dropped or marked as stale, by source.";
        pub(super) up: IntGauge = "edgeway_cache_purge_link_up",
            "1 while purges wait for this gateway: it holds its lease, or there is no Redis.";
        pub(super) losses: IntCounter = "edgeway_cache_purge_link_losses_total",
            "Expirations of the lease, after which purges no longer wait for this gateway.";
        pub(super) gaps: IntCounter = "edgeway_cache_purge_link_gaps_total",
            "Times the whole cache was dropped because the log of purges had lost this gateway's \
             position.";
        pub(super) unsigned: IntCounter = "edgeway_cache_purges_unsigned_total",
            "Purges in Redis without a valid signature of the fleet: the whole cache was dropped \
             for each.";
        pub(super) unsent: IntGauge = "edgeway_cache_purges_unsent",
            "Purges not yet sent to the other gateways.";
        pub(super) seconds: Histogram = "edgeway_cache_purge_duration_seconds",
            "Time from the start of a purge until every gateway had applied it or lost its lease.";
    }
}

edgeway_base::metric_handles! {
    /// Counters of the purges of one kind and effect.
    struct PurgesOfKind(kind, how) {
        by_source: [IntCounter; source: PurgeSource::name] = "edgeway_cache_purges_total",
            "Purges that were applied, by kind (`url`, `prefix`, `tag`, `all`, and `written`: \
             changed by a write), mode (`hard`, `soft`) and source: `admin` (the admin API), \
             `method` (`PURGE`), `write` (`purge_on_write`), `gateway` (another one).";
    }
}

/// Counters of purges by kind and effect.
pub(super) struct PurgeCounters([[PurgesOfKind; PurgeEffect::ALL.len()]; KINDS.len()]);

impl PurgeCounters {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let of = |kind, effect: PurgeEffect| PurgesOfKind::new(metrics, kind, effect.name());
        Self(KINDS.map(|kind| PurgeEffect::ALL.map(|effect| of(kind, effect))))
    }

    pub(super) fn count(&self, purge: &Purge, source: PurgeSource) {
        let kind = match purge.target {
            PurgeTarget::Url(_) => 0,
            PurgeTarget::Prefix(_) => 1,
            PurgeTarget::Tag(_) => 2,
            PurgeTarget::All => 3,
            PurgeTarget::Written(_) => 4,
        };
        self.0[kind][purge.effect].by_source[source].inc();
    }
}
