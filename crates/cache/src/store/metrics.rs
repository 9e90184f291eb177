//! Metrics of the store.

edgeway_base::metric_handles! {
    /// Metrics of the store of a process.
    #[derive(Clone, Debug)]
    pub(super) struct StoreMetrics() {
        pub(super) bytes: IntGauge = "edgeway_cache_bytes",
            "Bytes of memory that the cache uses, including fills and responses still being read.";
        pub(super) budget: IntGauge = "edgeway_cache_budget_bytes",
            "Bytes of memory that the cache may use.";
        pub(super) objects: IntGauge = "edgeway_cache_objects",
            "Responses in the cache's memory.";
        pub(super) fills: IntGauge = "edgeway_cache_fills",
            "Responses that are being read from an origin for the cache.";
        pub(super) evictions: IntCounter = "edgeway_cache_evictions_total",
            "Responses evicted from the cache's memory to make room.";
        pub(super) passes: [IntCounter; reason: NotStoredReason::name] = "edgeway_cache_not_stored_total",
            "Responses that were forwarded but could not be stored, by reason.";
    }
}

edgeway_base::enum_table! {
    /// Reasons why a response that was to be stored is passed on only.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum NotStoredReason => name {
        /// More bytes than `max_object`.
        TooLarge = "too_large",
        /// Fills in flight take all of their part of the budget.
        NoRoom = "no_room",
        /// A purge arrived between the request and the end of the response.
        Purged = "purged",
        /// `Vary: *`.
        Vary = "vary",
        /// No reader takes anything, and the length is unknown.
        Slow = "slow",
    }
}
