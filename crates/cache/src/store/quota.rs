//! Memory quota of one route.

use std::sync::atomic::{AtomicU64, Ordering};

/// The bytes of one route and their limit, which a reload may change.
#[derive(Debug)]
pub struct Quota {
    /// Number of the eviction queues of the route.
    pub(super) part: usize,
    limit: AtomicU64,
    used: AtomicU64,
}

impl Quota {
    pub(super) fn new(part: usize, limit: u64) -> Self {
        Self {
            part,
            limit: AtomicU64::new(limit),
            used: AtomicU64::new(0),
        }
    }

    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    pub(super) fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Returns the bytes of the route's entries in the store.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Adds to the bytes in use, wrapping: a decrease is added as its complement.
    pub(super) fn add(&self, change: u64) {
        self.used.fetch_add(change, Ordering::Relaxed);
    }
}
