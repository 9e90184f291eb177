//! Metrics of purges.

use super::{Purge, PurgeEffect, PurgeTarget};
use crate::base::metrics::{Histogram, IntCounter, IntGauge, Metrics};

const KINDS: [&str; 5] = ["url", "prefix", "tag", "all", "written"];

edgeway_base::enum_table! {
    /// Source of a purge at this gateway.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Source => name {
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

/// Counters by source.
type BySource = [IntCounter; Source::ALL.len()];

pub(super) struct PurgeMetrics {
    /// Counters of purges by kind and effect.
    purges: [[BySource; PurgeEffect::ALL.len()]; KINDS.len()],
    objects: BySource,
    pub(super) up: IntGauge,
    pub(super) losses: IntCounter,
    pub(super) gaps: IntCounter,
    pub(super) unsigned: IntCounter,
    pub(super) unsent: IntGauge,
    pub(super) seconds: Histogram,
}

impl PurgeMetrics {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let purges = |kind, effect: PurgeEffect, source: Source| {
            metrics.counter(
                "edgeway_cache_purges_total",
                "Purges that were applied, by kind (`url`, `prefix`, `tag`, `all`, and `written`: \
                 changed by a write), mode (`hard`, `soft`) and source: `admin` (the admin API), \
                 `method` (`PURGE`), `write` (`purge_on_write`), `gateway` (another one).",
                &[
                    ("kind", kind),
                    ("how", effect.name()),
                    ("source", source.name()),
                ],
            )
        };
        let objects = |source: Source| {
            metrics.counter(
                "edgeway_cache_purged_objects_total",
                "Stored responses that purges dropped or marked as stale, by source.",
                &[("source", source.name())],
            )
        };
        Self {
            purges: KINDS.map(|kind| {
                PurgeEffect::ALL
                    .map(|effect| Source::ALL.map(|source| purges(kind, effect, source)))
            }),
            objects: Source::ALL.map(objects),
            up: metrics.gauge(
                "edgeway_cache_purge_link_up",
                "1 while purges wait for this gateway: it holds its lease, or there is no Redis.",
                &[],
            ),
            losses: metrics.counter(
                "edgeway_cache_purge_link_losses_total",
                "Expirations of the lease, after which purges no longer wait for this gateway.",
                &[],
            ),
            gaps: metrics.counter(
                "edgeway_cache_purge_link_gaps_total",
                "Times the whole cache was dropped because the log of purges had lost this \
                 gateway's position.",
                &[],
            ),
            unsigned: metrics.counter(
                "edgeway_cache_purges_unsigned_total",
                "Purges in Redis without a valid signature of the fleet: the whole cache was \
                 dropped for each.",
                &[],
            ),
            unsent: metrics.gauge(
                "edgeway_cache_purges_unsent",
                "Purges not yet sent to the other gateways.",
                &[],
            ),
            seconds: metrics.histogram(
                "edgeway_cache_purge_duration_seconds",
                "Time from the start of a purge until every gateway had applied it or lost its \
                 lease.",
                &[],
            ),
        }
    }

    pub(super) fn count(&self, purge: &Purge, source: Source, objects: u64) {
        let kind = match purge.target {
            PurgeTarget::Url(_) => 0,
            PurgeTarget::Prefix(_) => 1,
            PurgeTarget::Tag(_) => 2,
            PurgeTarget::All => 3,
            PurgeTarget::Written(_) => 4,
        };
        self.purges[kind][purge.effect as usize][source as usize].inc();
        self.objects[source as usize].inc_by(objects);
    }
}
