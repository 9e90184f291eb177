//! A bounded memory of recently computed values, found by a keyed hash of their inputs.

use std::{collections::HashMap, hash::Hasher as _};

use ahash::RandomState;
use parking_lot::Mutex;
use ring::rand::{SystemRandom, generate};
use siphasher::sip128::{Hasher128, SipHasher24};
use smart_default::SmartDefault;

const SHARDS: usize = 16;

/// A hash of the inputs that a value was computed from.
///
/// The hash has 128 bits and a secret key: two different inputs collide only by chance, and no
/// attacker can search for two that do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(u128);

/// The most recent values. Reading one takes the lock of its shard, one of 16; values not read for
/// two generations are forgotten.
#[derive(derive_more::Debug)]
#[debug("Recent {{ .. }}")]
pub struct RecentValues<V> {
    seed: [u8; 16],
    /// Limit on the values in one generation of one shard.
    max: usize,
    shards: [Mutex<Shard<V>>; SHARDS],
}

#[derive(SmartDefault)]
struct Shard<V> {
    young: HashMap<Fingerprint, V, RandomState>,
    old: HashMap<Fingerprint, V, RandomState>,
}

impl<V: Clone> RecentValues<V> {
    /// Creates a memory that keeps at least half of `max` values and never more than `max`.
    pub fn new(max: usize) -> Self {
        let seed = generate(&SystemRandom::new());
        let seed = seed.expect("the system has randomness: TLS could not do without it either");
        Self {
            seed: seed.expose(),
            max: (max / 2 / SHARDS).max(1),
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }

    /// Returns the fingerprint of these parts, in this memory.
    pub fn fingerprint<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>) -> Fingerprint {
        let mut hasher = SipHasher24::new_with_key(&self.seed);
        for part in parts {
            // Length-prefixed, so that adjacent parts cannot run together.
            hasher.write_u64(part.len() as u64);
            hasher.write(part);
        }
        Fingerprint(hasher.finish128().as_u128())
    }

    pub fn get(&self, of: Fingerprint) -> Option<V> {
        let mut shard = self.shard(of).lock();
        if let Some(value) = shard.young.get(&of) {
            return Some(value.clone());
        }
        let value = shard.old.remove(&of)?;
        self.put(&mut shard, of, value.clone());
        Some(value)
    }

    pub fn insert(&self, of: Fingerprint, value: V) {
        self.put(&mut self.shard(of).lock(), of, value);
    }

    /// Replaces a value by what `change` makes of it, and returns the new one.
    pub fn update(&self, of: Fingerprint, change: impl FnOnce(Option<V>) -> V) -> V {
        let mut shard = self.shard(of).lock();
        let known = match shard.young.get(&of) {
            Some(value) => Some(value.clone()),
            None => shard.old.remove(&of),
        };
        let value = change(known);
        self.put(&mut shard, of, value.clone());
        value
    }

    /// Forgets one value.
    pub fn remove(&self, of: Fingerprint) {
        let mut shard = self.shard(of).lock();
        shard.young.remove(&of);
        shard.old.remove(&of);
    }

    fn put(&self, shard: &mut Shard<V>, of: Fingerprint, value: V) {
        if shard.young.len() >= self.max {
            shard.old = std::mem::take(&mut shard.young);
        }
        shard.young.insert(of, value);
    }

    fn shard(&self, of: Fingerprint) -> &Mutex<Shard<V>> {
        &self.shards[(of.0 as usize) % SHARDS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(recent: &RecentValues<u32>, number: u32) -> Fingerprint {
        recent.fingerprint([&number.to_le_bytes()[..]])
    }

    #[test]
    fn an_update_sees_the_value_before() {
        let recent = RecentValues::new(1024);
        let count = |known: Option<u32>| known.unwrap_or_default() + 1;
        for expected in 1..4 {
            assert_eq!(recent.update(of(&recent, 7), count), expected);
        }
        assert_eq!(recent.update(of(&recent, 8), count), 1);
        assert_eq!(recent.get(of(&recent, 7)), Some(3));
    }

    #[test]
    fn values_in_use_stay_and_others_make_room() {
        let recent = RecentValues::new(1024);
        recent.insert(of(&recent, 0), 0);
        recent.insert(of(&recent, 1), 1);
        for number in 2..20_000 {
            recent.insert(of(&recent, number), number);
            assert_eq!(recent.get(of(&recent, 0)), Some(0), "{number}");
        }
        assert_eq!(recent.get(of(&recent, 1)), None);
        let held: usize = recent
            .shards
            .iter()
            .map(|shard| shard.lock())
            .map(|shard| shard.young.len() + shard.old.len())
            .sum();
        assert!((512..=1024).contains(&held), "{held}");
        recent.remove(of(&recent, 0));
        assert_eq!(recent.get(of(&recent, 0)), None);
    }

    #[test]
    fn a_fingerprint_is_of_all_parts_in_their_frames_and_of_one_memory() {
        let recent = RecentValues::<u32>::new(2);
        let print = |parts: &[&str]| recent.fingerprint(parts.iter().map(|part| part.as_bytes()));
        assert_eq!(print(&["ab", "c"]), print(&["ab", "c"]));
        assert_ne!(print(&["ab", "c"]), print(&["a", "bc"]));
        assert_ne!(print(&["a", ""]), print(&["a"]));
        let other = RecentValues::<u32>::new(2);
        assert_ne!(print(&["a"]), other.fingerprint([&b"a"[..]]));
    }
}
