//! Metrics of the store.

use crate::base::metrics::{IntCounter, IntGauge, Metrics};

#[derive(Clone, Debug)]
pub(super) struct StoreMetrics {
    pub(super) bytes: IntGauge,
    pub(super) budget: IntGauge,
    pub(super) objects: IntGauge,
    pub(super) fills: IntGauge,
    pub(super) evictions: IntCounter,
    passes: [IntCounter; NotStoredReason::ALL.len()],
}

/// Reasons why a response that was to be stored is passed on only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotStoredReason {
    /// More bytes than `max_object`.
    TooLarge,
    /// Fills in flight take all of their part of the budget.
    NoRoom,
    /// A purge arrived between the request and the end of the response.
    Purged,
    /// `Vary: *`.
    Vary,
    /// No reader takes anything, and the length is unknown.
    Slow,
}

impl NotStoredReason {
    const ALL: [Self; 5] = [
        Self::TooLarge,
        Self::NoRoom,
        Self::Purged,
        Self::Vary,
        Self::Slow,
    ];

    /// Returns the reason as in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::NoRoom => "no_room",
            Self::Purged => "purged",
            Self::Vary => "vary",
            Self::Slow => "slow",
        }
    }
}

impl StoreMetrics {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let gauge = |name, help| metrics.gauge(name, help, &[]);
        Self {
            bytes: gauge(
                "edgeway_cache_bytes",
                "Bytes of memory that the cache uses, including fills and responses still being \
                 read.",
            ),
            budget: gauge(
                "edgeway_cache_budget_bytes",
                "Bytes of memory that the cache may use.",
            ),
            objects: gauge("edgeway_cache_objects", "Responses in the cache's memory."),
            fills: gauge(
                "edgeway_cache_fills",
                "Responses that are being read from an origin for the cache.",
            ),
            evictions: metrics.counter(
                "edgeway_cache_evictions_total",
                "Responses evicted from the cache's memory to make room.",
                &[],
            ),
            passes: NotStoredReason::ALL.map(|pass| {
                metrics.counter(
                    "edgeway_cache_not_stored_total",
                    "Responses that were forwarded but could not be stored, by reason.",
                    &[("reason", pass.name())],
                )
            }),
        }
    }

    pub(super) fn passed(&self, pass: NotStoredReason) {
        self.passes[pass as usize].inc();
    }
}
