//! Buckets in memory: one table for each limit, in shards that are locked one at a time.
//!
//! A shard is an array of sets of `SLOTS_PER_SET` slots. A key's hash selects its shard and set, and a
//! slot whose bucket is full again is free: absence and a full bucket mean the same, so no sweep is
//! needed. A shard grows when a set has no free slot. If the shard may not grow, the bucket of the
//! set that is nearest to full is replaced: it loses the least.

#[cfg(test)]
mod tests;

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::{Duration, Instant, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use edgeway_base::units::whole_nanos;
use parking_lot::Mutex;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    gcra::{self, Decision, Quota, Tat},
    key::{Hashing, Key},
};
use crate::{
    base::{clock::Clock, metrics::IntCounter},
    zones::Zone,
};

/// Slots of a set.
const SLOTS_PER_SET: usize = 16;
const SHARDS: usize = 32;

/// Default of `max_keys`.
pub const DEFAULT_MAX_KEYS: usize = 1_000_000;
/// Minimum of `max_keys`: fewer would be less than a set for each shard.
pub const MIN_KEYS: usize = SLOTS_PER_SET * SHARDS;
/// Maximum of `max_keys`: more would be more memory than anyone intends.
pub const MAX_CONFIGURED_KEYS: usize = 100_000_000;

/// Maximum of buckets handed to a successor, the emptiest first: those that hold clients back. All
/// others start full.
const EXPORTED: usize = 100_000;

/// The buckets of one limit.
pub struct BucketTable {
    clock: Clock,
    /// Start of the time in which buckets are counted.
    epoch: Instant,
    /// Seed of the keys' hash; inherited from the predecessor if there is one.
    seed: [AtomicU64; 2],
    /// Maximum number of sets in a shard.
    max_sets: AtomicUsize,
    forgotten: Option<IntCounter>,
    shards: Box<[Mutex<Shard>]>,
}

#[derive(Default)]
struct Shard {
    sets: Vec<SlotSet>,
}

/// Slots stored field by field: the keys are contiguous, and there is no padding.
#[derive(Clone)]
struct SlotSet {
    keys: [u128; SLOTS_PER_SET],
    nanos: [u64; SLOTS_PER_SET],
    fractions: [u32; SLOTS_PER_SET],
}

/// State for a successor.
#[derive(Serialize, Deserialize)]
struct BucketExport {
    /// Time in nanoseconds since 1970.
    at: u64,
    seed: [u64; 2],
    /// Key and time to full of each bucket: 16 and 8 bytes, in base64.
    buckets: String,
}

impl BucketTable {
    /// Creates an empty table for at most `max_keys` keys.
    pub fn new(max_keys: usize, clock: &Clock) -> Self {
        let mut seed = [[0; 8]; 2];
        if SystemRandom::new().fill(seed.as_flattened_mut()).is_err() {
            // Without randomness from the system, a weak seed is better than no limit.
            fastrand::fill(seed.as_flattened_mut());
        }
        Self {
            clock: clock.clone(),
            epoch: clock.now(),
            seed: seed.map(|word| u64::from_ne_bytes(word).into()),
            max_sets: AtomicUsize::new(max_sets(max_keys)),
            forgotten: None,
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }

    /// Sets the counter of buckets that are replaced while they still hold a client back.
    #[must_use]
    pub fn counting(mut self, forgotten: IntCounter) -> Self {
        self.forgotten = Some(forgotten);
        self
    }

    /// Returns the hashing of this table's keys.
    pub fn hashing(&self) -> Hashing {
        let [a, b] = &self.seed;
        Hashing::Seeded(a.load(Ordering::Relaxed), b.load(Ordering::Relaxed))
    }

    /// Takes `cost` from the bucket of `key` at `now`, if the request passes.
    pub fn take(
        &self,
        key: Key,
        quota: &Quota,
        cost: u32,
        max_delay: Duration,
        now: Instant,
    ) -> Decision {
        let now = self.nanos(now);
        let mut shard = self.shard(key).lock();
        let slot = shard.find(key);
        let before = slot.map_or_else(Tat::default, |(set, way)| shard.sets[set].tat(way));
        let (decision, after) = gcra::decide(before, now, quota, cost, max_delay);
        if let Some((set, way)) = slot {
            shard.sets[set].put(way, key, after);
        } else if !is_full(after, now) {
            let max_sets = self.max_sets.load(Ordering::Relaxed);
            if shard.insert(key, after, now, max_sets) {
                self.forgotten.iter().for_each(IntCounter::inc);
            }
        }
        decision
    }

    /// Gives back what [`Self::take`] took at `taken`, for a request that was refused elsewhere.
    pub fn give_back(&self, key: Key, quota: &Quota, cost: u32, taken: Instant, now: Instant) {
        let (taken, now) = (self.nanos(taken), self.nanos(now));
        let mut shard = self.shard(key).lock();
        if let Some((set, way)) = shard.find(key) {
            let before = shard.sets[set].tat(way);
            let after = gcra::give_back(before, taken, now, quota, cost);
            shard.sets[set].put(way, key, after);
        }
    }

    /// Returns the decision that the bucket of `key` would make, without a change.
    pub fn look(&self, key: Key, quota: &Quota, cost: u32, now: Instant) -> Decision {
        let now = self.nanos(now);
        let shard = self.shard(key).lock();
        let slot = shard.find(key);
        let tat = slot.map_or_else(Tat::default, |(set, way)| shard.sets[set].tat(way));
        drop(shard);
        gcra::decide(tat, now, quota, cost, Duration::ZERO).0
    }

    /// Sets the maximum number of keys, and the maximum time for a bucket to fill. If there are
    /// fewer keys, the emptiest buckets stay. Buckets with a slower rate are full within the new
    /// time at the latest.
    pub fn resize(&self, max_keys: usize, longest: Duration) {
        let max_sets = max_sets(max_keys);
        self.max_sets.store(max_sets, Ordering::Relaxed);
        let now = self.clock.now();
        let (now, last) = (self.nanos(now), self.nanos(now + longest));
        for shard in &self.shards {
            let mut shard = shard.lock();
            if shard.sets.len() > max_sets {
                shard.rebuild(max_sets, now);
            }
            for nanos in shard.sets.iter_mut().flat_map(|set| &mut set.nanos) {
                *nanos = last.min(*nanos);
            }
        }
    }

    /// Returns the number of buckets that are not full.
    pub fn len(&self) -> usize {
        let now = self.nanos(self.clock.now());
        let live = |shard: &Mutex<Shard>| shard.lock().live(now).count();
        self.shards.iter().map(live).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the memory of the buckets, in bytes.
    pub fn memory(&self) -> usize {
        let sets = |shard: &Mutex<Shard>| shard.lock().sets.capacity();
        self.shards.iter().map(sets).sum::<usize>() * size_of::<SlotSet>()
    }

    fn shard(&self, key: Key) -> &Mutex<Shard> {
        &self.shards[spread((key.0 >> 96) as u32, SHARDS)]
    }

    /// Returns the time since the epoch. Never zero, so that an unused slot is a full one.
    fn nanos(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.epoch).as_nanos();
        u64::try_from(since).map_or(u64::MAX, |nanos| nanos.saturating_add(1))
    }

    /// Returns the emptiest buckets with their time to full, about [`EXPORTED`] of them.
    fn emptiest(&self, now: u64) -> Vec<(u64, u128)> {
        const SHARE: usize = EXPORTED / SHARDS;
        let mut all = Vec::new();
        for shard in &self.shards {
            // Keys are spread evenly, so the same share of each shard gives about the emptiest of
            // all.
            let mut buckets: Vec<(u64, u128)> = shard
                .lock()
                .live(now)
                .map(|(key, tat)| (time_to_full(tat, now), key))
                .collect();
            if buckets.len() > SHARE {
                buckets.select_nth_unstable_by(SHARE, |a, b| b.cmp(a));
                buckets.truncate(SHARE);
            }
            all.append(&mut buckets);
        }
        all
    }
}

/// Returns true if the bucket is full, which is the same as absent.
fn is_full(tat: Tat, now: u64) -> bool {
    (tat.nanos, tat.fraction) <= (now, 0)
}

/// Returns the time to full in whole nanoseconds, rounded up.
fn time_to_full(tat: Tat, now: u64) -> u64 {
    (tat.nanos - now).saturating_add(u64::from(tat.fraction > 0))
}

fn max_sets(max_keys: usize) -> usize {
    (max_keys / SHARDS / SLOTS_PER_SET).max(1)
}

/// Maps a hash to an index below `length`.
fn spread(hash: u32, length: usize) -> usize {
    // The product is below 2^32 times the length.
    ((u64::from(hash) * length as u64) >> 32) as usize
}

impl Shard {
    #[expect(clippy::cast_possible_truncation, reason = "the low bits are meant")]
    fn set_of(&self, key: u128) -> usize {
        spread(key as u32, self.sets.len())
    }

    fn find(&self, Key(key): Key) -> Option<(usize, usize)> {
        let index = self.set_of(key);
        let set = self.sets.get(index)?;
        let way = set.keys.iter().position(|other| *other == key)?;
        Some((index, way))
    }

    /// Puts a bucket into a free slot; returns true if it replaced another one.
    fn insert(&mut self, key: Key, tat: Tat, now: u64, max_sets: usize) -> bool {
        loop {
            let index = self.set_of(key.0);
            if let Some(set) = self.sets.get_mut(index) {
                let (way, fullest) = set.fullest();
                let is_free = is_full(fullest, now);
                if is_free || self.sets.len() >= max_sets {
                    self.sets[index].put(way, key, tat);
                    return !is_free;
                }
            }
            let more = (self.sets.len() * 2).clamp(1, max_sets);
            self.rebuild(more, now);
        }
    }

    /// Moves all buckets into an array of another length. If a set has too many, those nearest to
    /// full are dropped.
    fn rebuild(&mut self, length: usize, now: u64) {
        let before = std::mem::replace(&mut self.sets, vec![SlotSet::EMPTY; length]);
        for (key, tat) in before.iter().flat_map(|set| set.live(now)) {
            let index = self.set_of(key);
            let (way, fullest) = self.sets[index].fullest();
            if fullest < tat {
                self.sets[index].put(way, Key(key), tat);
            }
        }
    }

    fn live(&self, now: u64) -> impl Iterator<Item = (u128, Tat)> {
        self.sets.iter().flat_map(move |set| set.live(now))
    }
}

impl SlotSet {
    const EMPTY: Self = Self {
        keys: [0; SLOTS_PER_SET],
        nanos: [0; SLOTS_PER_SET],
        fractions: [0; SLOTS_PER_SET],
    };

    fn tat(&self, way: usize) -> Tat {
        Tat {
            nanos: self.nanos[way],
            fraction: self.fractions[way],
        }
    }

    fn put(&mut self, way: usize, Key(key): Key, tat: Tat) {
        self.keys[way] = key;
        self.nanos[way] = tat.nanos;
        self.fractions[way] = tat.fraction;
    }

    /// Returns the slot whose bucket is full first, or already is.
    fn fullest(&self) -> (usize, Tat) {
        (0..SLOTS_PER_SET)
            .map(|way| (way, self.tat(way)))
            .min_by_key(|(_, tat)| *tat)
            .unwrap_or_default()
    }

    fn live(&self, now: u64) -> impl Iterator<Item = (u128, Tat)> {
        (0..SLOTS_PER_SET)
            .map(|way| (self.keys[way], self.tat(way)))
            .filter(move |(_, tat)| !is_full(*tat, now))
    }
}

fn wall_nanos(clock: &Clock) -> u64 {
    let since = clock.wall().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, whole_nanos)
}

impl Zone for BucketTable {
    fn export(&self) -> Option<Value> {
        let now = wall_nanos(&self.clock);
        let buckets = self.emptiest(self.nanos(self.clock.now()));
        if buckets.is_empty() {
            return None;
        }
        let mut bytes = Vec::with_capacity(buckets.len() * 24);
        for (nanos, key) in buckets {
            bytes.extend_from_slice(&key.to_le_bytes());
            bytes.extend_from_slice(&nanos.to_le_bytes());
        }
        let exported = BucketExport {
            at: now,
            seed: self
                .seed
                .each_ref()
                .map(|word| word.load(Ordering::Relaxed)),
            buckets: STANDARD.encode(bytes),
        };
        serde_json::to_value(exported).ok()
    }

    fn import(&self, exported: &Value) {
        let Ok(BucketExport { at, seed, buckets }) = BucketExport::deserialize(exported) else {
            return;
        };
        let Ok(bytes) = STANDARD.decode(buckets) else {
            return;
        };
        for (part, word) in self.seed.iter().zip(seed) {
            part.store(word, Ordering::Relaxed);
        }
        let now = self.nanos(self.clock.now());
        let since = wall_nanos(&self.clock).saturating_sub(at);
        let max_sets = self.max_sets.load(Ordering::Relaxed);
        let (entries, _rest) = bytes.as_chunks::<24>();
        for entry in entries {
            let (key, nanos) = entry.split_at(16);
            let key = Key(u128::from_le_bytes(key.try_into().unwrap_or_default()));
            let debt = u64::from_le_bytes(nanos.try_into().unwrap_or_default());
            let tat = Tat {
                nanos: now.saturating_add(debt.saturating_sub(since)),
                fraction: 0,
            };
            let mut shard = self.shard(key).lock();
            if !is_full(tat, now) && shard.find(key).is_none() {
                shard.insert(key, tat, now, max_sets);
            }
        }
    }
}

edgeway_base::opaque_debug!(BucketTable);
