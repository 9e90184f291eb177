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

    pub(super) fn add(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn sub(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}
