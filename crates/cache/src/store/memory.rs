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
        self.ledger.live.fetch_add(change, Ordering::Relaxed);
        self.bytes = bytes;
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

/// Returns the bytes that the allocator takes for an allocation of `len` bytes. jemalloc has four
/// sizes between two powers of two, and multiples of 16 up to 128. For other allocators this is an
/// estimate.
pub(crate) const fn allocated(len: usize) -> usize {
    if len == 0 {
        return 0;
    }
    if len <= 128 {
        return len.next_multiple_of(16);
    }
    len.next_multiple_of(1 << ((len - 1).ilog2() - 2))
}

/// Returns the largest allocator size that is no more than `len`, which is above 128.
pub(super) const fn size_below(len: usize) -> usize {
    let step = 1 << (len.ilog2() - 2);
    len / step * step
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_allocator() {
        for (len, size) in [
            (0, 0),
            (1, 16),
            (16, 16),
            (17, 32),
            (129, 160),
            (160, 160),
            (161, 192),
            (256, 256),
            (257, 320),
            (1025, 1280),
            (65_536, 65_536),
            (65_537, 81_920),
            (400_000, 458_752),
        ] {
            assert_eq!(allocated(len), size, "{len}");
        }
        assert_eq!(size_below(137_856), 131_072);
        assert_eq!(size_below(65_536), 65_536);
        assert_eq!(size_below(458_751), 393_216);
    }

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
