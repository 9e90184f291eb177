//! Metrics of the lower tiers.

/// Buckets around the usual deadline, to show whether it is met.
const BUCKETS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.025, 0.05, 0.1, 0.5, 1.0,
];

edgeway_base::enum_table! {
    /// Result of a lookup in a tier.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum LookupOutcome => name {
        Hit = "hit",
        Miss = "miss",
        Error = "error",
    }
}

edgeway_base::metric_handles! {
    /// Histograms of the time that requests of one route waited for level 2, by outcome. Created
    /// with the configuration.
    #[derive(Debug)]
    pub struct WaitHistograms(route) {
        pub(super) waits: [Histogram in BUCKETS; result: LookupOutcome::name] =
            "edgeway_cache_level2_lookup_duration_seconds",
            "Time that requests waited for cache entries in Redis, by outcome: `hit`, `miss` or \
             `error`.";
    }
}

edgeway_base::enum_table! {
    /// Outcome of writing an entry to a tier.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

edgeway_base::metric_handles! {
    /// Metrics of level 2.
    #[derive(Debug)]
    pub(super) struct TierMetrics() {
        pub(super) writes: [IntCounter; outcome: WriteOutcome::name] = "edgeway_cache_level2_writes_total",
            "Entries to be written to Redis: `stored`; `purged`; `older` than the stored one; not \
             written because the queue was full (`queue_full`) or Redis failed (`error`).";
        /// Parts whose entries no longer counted.
        pub(super) resets: IntCounter = "edgeway_cache_level2_resets_total",
            "Resets of level 2: after a restart, a failover or a flush of Redis, all its entries \
             (in a cluster: of a partition) count as purged.";
        pub(super) bytes_read { direction: "read" },
        pub(super) bytes_written { direction: "written" }:
            IntCounter = "edgeway_cache_level2_bytes_total",
            "Bytes of entries that were `read` from Redis and `written` to it.";
        pub(super) dropped: [IntCounter; reason: DiscardReason::name] = "edgeway_cache_level2_damaged_total",
            "Entries from Redis that were not used, by reason: `version` (another one), \
             `signature` (not of the fleet), `damaged`, `key` (another one), `bounds` (larger \
             than any entry), `policy` (no shared cache may store it).";
    }
}
