//! Applies purges, shard by shard, and locks each shard only briefly.

use std::sync::Arc;

use parking_lot::RwLock;

use super::{Entry, ShardSlot, Store};
use crate::purge::{PurgeEffect, PurgeMatcher};

/// Number of slots that are checked under one lock of a shard.
pub(super) const BATCH: u32 = 256;

impl Store {
    /// Applies a purge that is already recorded: entries stored from now on were requested later.
    pub(super) fn sweep(&self, target: &PurgeMatcher, effect: PurgeEffect) -> u64 {
        let mut count = 0;
        for shard in &self.shards {
            let candidates = shard.read().shard.candidates(&self.hashes, target);
            count += match candidates {
                None => self.sweep_all(shard, target, effect),
                Some(entries) if entries.is_empty() => 0,
                Some(_) => self.sweep_found(shard, target, effect),
            };
        }
        self.make_room();
        count
    }

    /// Checks every slot. An entry that takes a slot already checked is newer than the purge.
    fn sweep_all(
        &self,
        shard: &RwLock<ShardSlot>,
        target: &PurgeMatcher,
        effect: PurgeEffect,
    ) -> u64 {
        let mut count = 0;
        let mut from = 0;
        loop {
            let mut part = shard.write();
            let slots = part.shard.slots();
            let until = slots.min(from + BATCH);
            let about = |slot: &u32| {
                let entry = part.shard.at(*slot);
                entry.is_some_and(|entry| target.is_about(entry.key(), entry.tags()))
            };
            let entries: Vec<_> = (from..until).filter(about).collect();
            let (removed, purged) = self.apply(&mut part, entries, effect);
            count += purged;
            if until == slots {
                self.charge_shard(&mut part);
            }
            drop(part);
            drop(removed);
            if until == slots {
                return count;
            }
            from = until;
        }
    }

    /// Checks the entries that the index returns.
    fn sweep_found(
        &self,
        shard: &RwLock<ShardSlot>,
        target: &PurgeMatcher,
        effect: PurgeEffect,
    ) -> u64 {
        let part = shard.read();
        let candidates = part.shard.candidates(&self.hashes, target);
        let entries = candidates.into_iter().flatten();
        let entries = entries.filter_map(|at| part.shard.at(at));
        let about = |entry: &&Arc<Entry>| target.is_about(entry.key(), entry.tags());
        let matching: Vec<_> = entries.filter(about).cloned().collect();
        drop(part);
        let mut count = 0;
        for batch in matching.chunks(BATCH as usize) {
            let mut part = shard.write();
            let slot = |entry: &Arc<Entry>| {
                let at = part.shard.slot_of(&self.hashes, &entry.body)?;
                // The entry was refreshed after the purge.
                let is_same = Arc::ptr_eq(part.shard.at(at)?, entry);
                is_same.then_some(at)
            };
            let slots = batch.iter().filter_map(slot).collect();
            let (removed, purged) = self.apply(&mut part, slots, effect);
            count += purged;
            self.charge_shard(&mut part);
            drop(part);
            drop(removed);
        }
        count
    }

    /// Returns the entries to be dropped after the lock is released, and the number of purged
    /// entries.
    pub(super) fn apply(
        &self,
        part: &mut ShardSlot,
        slots: Vec<u32>,
        effect: PurgeEffect,
    ) -> (Vec<Arc<Entry>>, u64) {
        let mut count = 0;
        let mut removed = Vec::new();
        let now = self.clock.wall();
        for slot in slots {
            let entry = part.shard.at(slot);
            // A fill in flight was requested before the purge: no request may join it.
            let stays =
                effect == PurgeEffect::Soft && entry.is_some_and(|entry| entry.is_complete());
            if stays {
                count += u64::from(entry.is_some_and(|entry| entry.make_stale(now)));
            } else {
                removed.push(self.take_out(part, slot));
                count += 1;
            }
        }
        (removed, count)
    }
}
