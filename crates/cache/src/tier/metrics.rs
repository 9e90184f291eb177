//! Metrics of the lower tiers.

use std::time::Duration;

use crate::base::metrics::{Histogram, IntCounter, Metrics};

/// Buckets around the usual deadline, to show whether it is met.
const BUCKETS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.025, 0.05, 0.1, 0.5, 1.0,
];

edgeway_base::enum_table! {
    /// Result of a lookup in a tier.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[repr(usize)]
    pub(super) enum LookupOutcome => name {
        Hit = "hit",
        Miss = "miss",
        Error = "error",
    }
}

/// Histograms of the time that requests waited for a tier, by outcome.
#[derive(Debug)]
pub struct WaitHistograms(pub(super) [Histogram; LookupOutcome::ALL.len()]);

impl WaitHistograms {
    /// Creates the histograms of one route, with the configuration.
    pub fn level2(metrics: &Metrics, route: &str) -> Self {
        Self(LookupOutcome::ALL.map(|outcome| {
            metrics.histogram_with(
                "edgeway_cache_level2_lookup_duration_seconds",
                "Time that requests waited for cache entries in Redis, by outcome: `hit`, `miss` \
                 or `error`.",
                &[("route", route), ("result", outcome.name())],
                BUCKETS,
            )
        }))
    }

    pub(super) fn add(&self, outcome: LookupOutcome, took: Duration) {
        self.0[outcome as usize].observe(took.as_secs_f64());
    }
}

edgeway_base::enum_table! {
    /// Outcome of writing an entry to a tier.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[repr(usize)]
    pub(super) enum WriteOutcome => name {
        Stored = "stored",
        /// A purge since its request affects the entry.
        Purged = "purged",
        /// A newer entry is stored.
        Older = "older",
        /// The queue was full.
        QueueFull = "queue_full",
        /// The tier does not work now.
        Error = "error",
    }
}

edgeway_base::enum_table! {
    /// Reasons why an entry that was read is not used.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[repr(usize)]
    pub(crate) enum DiscardReason => name {
        Version = "version",
        /// Not signed with the secret of the fleet.
        Signature = "signature",
        Damaged = "damaged",
        Key = "key",
        Bounds = "bounds",
        /// A shared cache must not store the response.
        Policy = "policy",
    }
}

/// Metrics of one tier.
#[derive(Debug)]
pub(super) struct TierMetrics {
    writes: [IntCounter; WriteOutcome::ALL.len()],
    /// Parts whose entries no longer counted.
    pub(super) resets: IntCounter,
    pub(super) bytes_read: IntCounter,
    pub(super) bytes_written: IntCounter,
    dropped: [IntCounter; DiscardReason::ALL.len()],
}

impl TierMetrics {
    pub(super) fn level2(metrics: &Metrics) -> Self {
        let bytes = |direction| {
            metrics.counter(
                "edgeway_cache_level2_bytes_total",
                "Bytes of entries that were `read` from Redis and `written` to it.",
                &[("direction", direction)],
            )
        };
        Self {
            writes: WriteOutcome::ALL.map(|outcome| {
                metrics.counter(
                    "edgeway_cache_level2_writes_total",
                    "Entries to be written to Redis: `stored`; `purged`; `older` than the stored \
                     one; not written because the queue was full (`queue_full`) or Redis failed \
                     (`error`).",
                    &[("outcome", outcome.name())],
                )
            }),
            resets: metrics.counter(
                "edgeway_cache_level2_resets_total",
                "Resets of level 2: after a restart, a failover or a flush of Redis, all its \
                 entries (in a cluster: of a partition) count as purged.",
                &[],
            ),
            bytes_read: bytes("read"),
            bytes_written: bytes("written"),
            dropped: DiscardReason::ALL.map(|why| {
                metrics.counter(
                    "edgeway_cache_level2_damaged_total",
                    "Entries from Redis that were not used, by reason: `version` (another one), \
                     `signature` (not of the fleet), `damaged`, `key` (another one), `bounds` \
                     (larger than any entry), `policy` (no shared cache may store it).",
                    &[("reason", why.name())],
                )
            }),
        }
    }

    pub(super) fn dropped(&self, why: DiscardReason) {
        self.dropped[why as usize].inc();
    }

    pub(super) fn wrote(&self, written: WriteOutcome) {
        self.writes[written as usize].inc();
    }
}
