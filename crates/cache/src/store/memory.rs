//! Memory accounting of the store: every live byte belongs to a [`MemoryCharge`], which returns it to the
//! account when dropped, wherever that happens.

use std::sync::atomic::{AtomicU64, Ordering};

use super::body_file::FileAccount;

/// The store's account of bytes.
///
/// `live` counts all bytes that have not been dropped: stored entries, fills in flight, and evicted
/// entries that are still being read. `stored` is the part of it that eviction can release,
/// `filling` the part of the fills.
#[derive(Debug, Default)]
pub(super) struct MemoryLedger {
    pub(super) live: AtomicU64,
    pub(super) stored: AtomicU64,
    pub(super) filling: AtomicU64,
    pub(super) budget: AtomicU64,
    pub(super) files: FileAccount,
}

impl MemoryLedger {
    pub(super) fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    /// Returns true if eviction has to go on to make room for `more` bytes. Evicted entries that
    /// readers still hold count, yet slow readers cannot evict more than half of the cache.
    pub(super) fn is_over(&self, more: u64) -> bool {
        let budget = Self::get(&self.budget);
        Self::get(&self.live) + more > budget && Self::get(&self.stored) > budget / 2
    }

    /// Returns the part of the budget that all fills together may take.
    pub(super) fn most_filling(&self) -> u64 {
        Self::get(&self.budget) / 2
    }
}

/// Some bytes of a [`MemoryLedger`].
#[derive(Debug)]
pub(super) struct MemoryCharge {
    ledger: &'static MemoryLedger,
    bytes: u64,
}

impl MemoryCharge {
    pub(super) fn new(ledger: &'static MemoryLedger, bytes: u64) -> Self {
        ledger.live.fetch_add(bytes, Ordering::Relaxed);
        Self { ledger, bytes }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn set(&mut self, bytes: u64) {
        // Wrapping: a decrease is added as its complement.
        let change = bytes.wrapping_sub(self.bytes);
        if change != 0 {
            self.ledger.live.fetch_add(change, Ordering::Relaxed);
            self.bytes = bytes;
        }
    }

    /// Leaves the bytes in the account: their new owner releases them.
    pub(super) fn hand_over(mut self) {
        self.bytes = 0;
    }

    /// Moves all bytes of the charge into a new one.
    pub(super) fn take(&mut self) -> Self {
        Self {
            ledger: self.ledger,
            bytes: std::mem::take(&mut self.bytes),
        }
    }
}

impl Drop for MemoryCharge {
    fn drop(&mut self) {
        self.ledger.live.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_is_released_when_it_is_dropped() {
        let ledger: &'static MemoryLedger = Box::leak(Box::default());
        let mut charge = MemoryCharge::new(ledger, 10);
        charge.set(30);
        charge.set(20);
        let taken = charge.take();
        assert_eq!((charge.bytes(), taken.bytes()), (0, 20));
        assert_eq!(MemoryLedger::get(&ledger.live), 20);
        drop(charge);
        assert_eq!(MemoryLedger::get(&ledger.live), 20);
        drop(taken);
        assert_eq!(MemoryLedger::get(&ledger.live), 0);
    }
}
