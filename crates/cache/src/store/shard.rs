//! A part of the store: entries by key, with an index by path and an index by tag.
//!
//! The indexes hold no text: they find candidates by hash, and the caller compares them with the
//! data in the entries. All lists are linked through the slots of entries, so that an entry leaves
//! them without a search.

use std::{ptr, sync::Arc};

use ahash::RandomState;
use hashbrown::{HashTable, hash_table::Entry as TableEntry};
use smart_default::SmartDefault;

use super::{Lookup, body::Body, entry::Entry, evict::grow};
use crate::{
    key::Key,
    policy::{SentHeaders, Variance, Vary},
    purge::{self, HostPath, PurgeMatcher, WriteTarget, without_slash},
};

const NONE: u32 = u32::MAX;

/// Maximum number of variants of one key. Without it, `Vary: User-Agent` would fill the store with
/// one page. Each hit looks at all variants.
const MAX_VARIANTS: usize = 64;

/// Seeds of the hashes: a client that knows only keys cannot fill one bucket.
#[derive(Debug, Default)]
pub(super) struct Hashes(RandomState);

/// Hash of a key or of a path. Slots keep it, so that entries of other keys are not read.
type SlotHash = u32;

impl Hashes {
    fn key(&self, hash: u128) -> SlotHash {
        upper_half(self.0.hash_one(hash))
    }

    fn bytes(&self, bytes: &[u8]) -> u64 {
        self.0.hash_one(bytes)
    }

    /// Returns the hash of a path. A long path is hashed by the digest of it without its trailing
    /// slash, since other gateways report no more than that.
    fn path(&self, path: &[u8]) -> SlotHash {
        let digest = purge::long(without_slash(path));
        self.reported_path(digest.as_ref().map_or(path, |digest| digest))
    }

    /// Returns the hash of a path as other gateways report it.
    fn reported_path(&self, path: &[u8]) -> SlotHash {
        upper_half(self.bytes(path))
    }
}

fn upper_half(hash: u64) -> SlotHash {
    SlotHash::try_from(hash >> 32).expect("32 bits are left")
}

/// Returns a hash for a table, which takes the bucket from the lower bits and a mark from the upper
/// ones.
fn spread(hash: SlotHash) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

#[derive(Debug, SmartDefault)]
pub(super) struct Shard {
    slots: Vec<EntrySlot>,
    #[default(NONE)]
    free: u32,
    pub(super) len: usize,
    /// The first slot of each key.
    keys: HashTable<u32>,
    /// The first slot of each hash of a path.
    paths: HashTable<u32>,
    /// The first posting of each tag.
    tags: HashTable<Head>,
    postings: Vec<TagEntry>,
    #[default(NONE)]
    free_posting: u32,
}

#[derive(Debug)]
struct EntrySlot {
    entry: Option<Arc<Entry>>,
    /// The next variant of the key, or the next free slot.
    next: u32,
    path_before: u32,
    path_after: u32,
    /// The first posting of the entry.
    posting: u32,
    key_hash: SlotHash,
    path_hash: SlotHash,
}

#[derive(Clone, Copy, Debug)]
struct Head {
    hash: u64,
    first: u32,
}

/// A tag of an entry.
#[derive(Debug)]
struct TagEntry {
    slot: u32,
    before: u32,
    /// The next posting of the tag, or the next free one.
    after: u32,
    /// The next posting of the entry.
    sibling: u32,
}

impl Shard {
    /// Returns the bytes of the shard in memory, without the entries.
    pub(super) fn size(&self) -> usize {
        self.slots.capacity() * size_of::<EntrySlot>()
            + self.postings.capacity() * size_of::<TagEntry>()
            + self.keys.allocation_size()
            + self.paths.allocation_size()
            + self.tags.allocation_size()
    }

    /// Returns true if most of the shard is empty, so that [`Shard::rebuilt`] releases memory.
    pub(super) fn is_sparse(&self) -> bool {
        self.slots.len() > 4 * self.len.max(64) || (self.len == 0 && !self.slots.is_empty())
    }

    /// Returns a shard with the same entries and no free slots.
    pub(super) fn rebuilt(self, hashes: &Hashes) -> Self {
        let mut new = Self::default();
        for entry in self.slots.into_iter().filter_map(|slot| slot.entry) {
            new.insert(hashes, &entry);
        }
        new
    }

    /// Returns the number of slots, taken or free; [`Shard::at`] takes their numbers.
    pub(super) fn slots(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(NONE)
    }

    pub(super) fn at(&self, slot: u32) -> Option<&Arc<Entry>> {
        self.slots.get(slot as usize)?.entry.as_ref()
    }

    /// Selects the variant for this request: among those that match, one in flight first, then the
    /// one with the latest headers (RFC 9111, 4.1). `vary` is that of the newest variant.
    pub(super) fn find(&self, hashes: &Hashes, key: &Key, request: SentHeaders<'_>) -> Lookup {
        let mut computed: Option<(&Vary, Variance)> = None;
        let mut is_unclear = false;
        // The best one in flight, and the best complete one.
        let mut best: [Option<&Arc<Entry>>; 2] = [None; 2];
        let mut newest: Option<&Arc<Entry>> = None;
        for (_, entry) in self.variants(hashes, key) {
            if newest.is_none_or(|newest| is_before(newest, entry)) {
                newest = Some(entry);
            }
            let best = &mut best[usize::from(entry.is_complete())];
            if best.is_some_and(|best| is_before(entry, best)) {
                continue;
            }
            let variance = match (entry.vary(), computed) {
                (Vary::Everything, _) => continue,
                (Vary::Nothing, _) => Variance::default(),
                (vary, Some((last, variance))) if last == vary => variance,
                (vary, _) => {
                    let Some(variance) = request.variance(vary) else {
                        is_unclear = true;
                        continue;
                    };
                    computed = Some((vary, variance));
                    variance
                }
            };
            if variance == entry.variance() {
                *best = Some(entry);
            }
        }
        let [arriving, complete] = best;
        Lookup {
            entry: arriving.or(complete).cloned(),
            complete: arriving.and(complete).cloned(),
            vary: newest.map(|entry| entry.vary().clone()),
            is_unclear,
        }
    }

    /// Returns all variants of a key, the last one stored first.
    pub(super) fn variants<'a>(
        &'a self,
        hashes: &Hashes,
        key: &Key,
    ) -> impl Iterator<Item = (u32, &'a Arc<Entry>)> + use<'a> {
        self.chain(self.first_of(hashes.key(key.hash()), |entry| entry.key() == key))
    }

    /// Returns the first slot of the key with this hash that `is_wanted`.
    fn first_of(&self, hash: SlotHash, is_wanted: impl Fn(&Entry) -> bool) -> Option<u32> {
        let is_first =
            |at: &u32| self.slots[*at as usize].key_hash == hash && is_wanted(self.entry(*at));
        self.keys.find(spread(hash), is_first).copied()
    }

    fn chain(&self, first: Option<u32>) -> impl Iterator<Item = (u32, &Arc<Entry>)> {
        let after = |slot: &u32| {
            let next = self.slots[*slot as usize].next;
            (next != NONE).then_some(next)
        };
        std::iter::successors(first, after).map(|slot| (slot, self.entry(slot)))
    }

    /// Returns the slot of the entry with this body.
    pub(super) fn slot_of(&self, hashes: &Hashes, body: &Body) -> Option<u32> {
        let address = ptr::from_ref(body).addr();
        self.slot_of_address(hashes, body.key.hash(), address)
    }

    /// Returns the slot of the entry whose body has this address.
    pub(super) fn slot_of_address(
        &self,
        hashes: &Hashes,
        hash: u128,
        address: usize,
    ) -> Option<u32> {
        let first = self.first_of(hashes.key(hash), |entry| entry.key().hash() == hash);
        let mut variants = self.chain(first);
        let variant = variants.find(|(_, it)| Arc::as_ptr(&it.body).addr() == address);
        variant.map(|(at, _)| at)
    }

    /// Returns the entries that a newly completed entry replaces: older ones for the same requests,
    /// and beyond [`MAX_VARIANTS`] the oldest.
    pub(super) fn replaced_by(&self, hashes: &Hashes, entry: &Entry) -> Vec<u32> {
        let mut others: Vec<_> = self
            .variants(hashes, entry.key())
            .filter(|(_, it)| it.is_complete() && !Arc::ptr_eq(&it.body, &entry.body))
            .collect();
        let mut replaced = Vec::new();
        others.retain(|(at, it)| {
            // A response without `Vary` matches the requests of older variants too.
            let is_same = (it.vary() == entry.vary() && it.variance() == entry.variance())
                || *entry.vary() == Vary::Nothing;
            if is_same {
                replaced.push(*at);
            }
            !is_same
        });
        while others.len() >= MAX_VARIANTS {
            let oldest = others.iter().enumerate();
            let oldest = oldest.min_by_key(|(_, (_, it))| it.lifetime().response_time);
            let Some((place, _)) = oldest else { break };
            replaced.push(others.swap_remove(place).0);
        }
        replaced
    }

    pub(super) fn insert(&mut self, hashes: &Hashes, entry: &Arc<Entry>) -> u32 {
        let slot = EntrySlot {
            entry: None,
            next: NONE,
            path_before: NONE,
            path_after: NONE,
            posting: NONE,
            key_hash: hashes.key(entry.key().hash()),
            path_hash: hashes.path(entry.key().path()),
        };
        let index = if self.free == NONE {
            grow(&mut self.slots);
            self.slots.push(slot);
            self.slots() - 1
        } else {
            let index = self.free;
            self.free = self.slots[index as usize].next;
            self.slots[index as usize] = slot;
            index
        };
        self.len += 1;
        self.slots[index as usize].entry = Some(Arc::clone(entry));
        self.link_key(entry.key(), index);
        self.link_path(index);
        for tag in entry.tags() {
            self.link_tag(hashes.bytes(tag.as_bytes()), index);
        }
        index
    }

    /// Replaces an entry by a refreshed one. Key and tags are the same.
    pub(super) fn replace(&mut self, slot: u32, entry: Arc<Entry>) -> Option<Arc<Entry>> {
        self.slots[slot as usize].entry.replace(entry)
    }

    pub(super) fn remove(&mut self, hashes: &Hashes, index: u32) -> Arc<Entry> {
        let entry = Arc::clone(self.entry(index));
        self.unlink_tags(hashes, &entry, index);
        self.unlink_path(index);
        self.unlink_key(entry.key(), index);
        let slot = &mut self.slots[index as usize];
        slot.entry = None;
        slot.next = std::mem::replace(&mut self.free, index);
        self.len -= 1;
        entry
    }

    /// Returns the slots that a target may affect; `None` if all have to be checked.
    pub(super) fn candidates(&self, hashes: &Hashes, target: &PurgeMatcher) -> Option<Vec<u32>> {
        match target {
            PurgeMatcher::Url { path, .. } => Some(self.of_path(hashes, path).collect()),
            PurgeMatcher::Written(WriteTarget { item, list, .. }) => {
                let mut candidates = Vec::new();
                for place in [Some(item), list.as_ref()].into_iter().flatten() {
                    match place {
                        HostPath::Path(path) => {
                            candidates.extend(self.of_path(hashes, path));
                            candidates.extend(self.of_path(hashes, &[path, &b"/"[..]].concat()));
                        }
                        HostPath::Digests { path, .. } => {
                            candidates.extend(self.of_hash(hashes.reported_path(path)));
                        }
                    }
                }
                Some(candidates)
            }
            PurgeMatcher::Tag(tag) => {
                let hash = hashes.bytes(tag.as_bytes());
                let head = self.tags.find(hash, |head| head.hash == hash);
                let after = |at: &u32| {
                    let next = self.postings[*at as usize].after;
                    (next != NONE).then_some(next)
                };
                let postings = std::iter::successors(head.map(|head| head.first), after);
                let slots = postings.map(|at| self.postings[at as usize].slot);
                Some(slots.collect())
            }
            PurgeMatcher::Prefix { .. } | PurgeMatcher::All => None,
        }
    }

    /// Returns the slots of a path, and of other paths with the same hash.
    fn of_path(&self, hashes: &Hashes, path: &[u8]) -> impl Iterator<Item = u32> {
        self.of_hash(hashes.path(path))
    }

    fn of_hash(&self, hash: SlotHash) -> impl Iterator<Item = u32> {
        let is_first = |slot: &u32| self.slots[*slot as usize].path_hash == hash;
        let first = self.paths.find(spread(hash), is_first);
        let after = |slot: &u32| {
            let next = self.slots[*slot as usize].path_after;
            (next != NONE).then_some(next)
        };
        std::iter::successors(first.copied(), after)
    }

    fn entry(&self, slot: u32) -> &Arc<Entry> {
        let entry = self.slots[slot as usize].entry.as_ref();
        entry.expect("what is linked is taken")
    }

    fn link_key(&mut self, key: &Key, index: u32) {
        let Self { slots, keys, .. } = self;
        let hash = slots[index as usize].key_hash;
        let has_key = |index: &u32| {
            let slot = &slots[*index as usize];
            slot.key_hash == hash && slot.entry.as_ref().is_some_and(|it| it.key() == key)
        };
        let hash_of = |index: &u32| spread(slots[*index as usize].key_hash);
        match keys.entry(spread(hash), has_key, hash_of) {
            TableEntry::Occupied(mut first) => {
                let next = std::mem::replace(first.get_mut(), index);
                slots[index as usize].next = next;
            }
            TableEntry::Vacant(place) => {
                place.insert(index);
            }
        }
    }

    fn unlink_key(&mut self, key: &Key, index: u32) {
        let Self { slots, keys, .. } = self;
        let EntrySlot { next, key_hash, .. } = slots[index as usize];
        let has_key = |index: &u32| {
            let slot = &slots[*index as usize];
            slot.key_hash == key_hash && slot.entry.as_ref().is_some_and(|it| it.key() == key)
        };
        let first = keys.find_entry(spread(key_hash), has_key);
        let mut first = first.expect("a linked key is found");
        if *first.get() == index {
            if next == NONE {
                first.remove();
            } else {
                *first.get_mut() = next;
            }
            return;
        }
        let mut before = *first.get();
        while slots[before as usize].next != index {
            before = slots[before as usize].next;
        }
        slots[before as usize].next = next;
    }

    fn link_path(&mut self, slot: u32) {
        let Self { slots, paths, .. } = self;
        let hash = slots[slot as usize].path_hash;
        let is_first = |slot: &u32| slots[*slot as usize].path_hash == hash;
        let hash_of = |slot: &u32| spread(slots[*slot as usize].path_hash);
        match paths.entry(spread(hash), is_first, hash_of) {
            TableEntry::Occupied(mut first) => {
                let after = std::mem::replace(first.get_mut(), slot);
                slots[slot as usize].path_after = after;
                slots[after as usize].path_before = slot;
            }
            TableEntry::Vacant(place) => {
                place.insert(slot);
            }
        }
    }

    fn unlink_path(&mut self, index: u32) {
        let Self { slots, paths, .. } = self;
        let slot = &slots[index as usize];
        let (before, after, hash) = (slot.path_before, slot.path_after, slot.path_hash);
        if after != NONE {
            slots[after as usize].path_before = before;
        }
        if before != NONE {
            slots[before as usize].path_after = after;
            return;
        }
        let first = paths.find_entry(spread(hash), |first| *first == index);
        let mut first = first.expect("the first of a path is found");
        if after == NONE {
            first.remove();
        } else {
            *first.get_mut() = after;
        }
    }

    fn link_tag(&mut self, hash: u64, slot: u32) {
        let index = if self.free_posting == NONE {
            self.postings.len()
        } else {
            self.free_posting as usize
        };
        let number = u32::try_from(index).expect("fewer postings than that have room");
        let after = link(&mut self.tags, hash, number);
        if after != NONE {
            self.postings[after as usize].before = number;
        }
        let sibling = std::mem::replace(&mut self.slots[slot as usize].posting, number);
        let posting = TagEntry {
            slot,
            before: NONE,
            after,
            sibling,
        };
        if index == self.postings.len() {
            grow(&mut self.postings);
            self.postings.push(posting);
        } else {
            self.free_posting = self.postings[index].after;
            self.postings[index] = posting;
        }
    }

    fn unlink_tags(&mut self, hashes: &Hashes, entry: &Entry, slot: u32) {
        let mut index = std::mem::replace(&mut self.slots[slot as usize].posting, NONE);
        // Each posting was put before the one linked earlier.
        for tag in entry.tags().iter().rev() {
            let posting = &self.postings[index as usize];
            let (before, after, sibling) = (posting.before, posting.after, posting.sibling);
            if after != NONE {
                self.postings[after as usize].before = before;
            }
            if before == NONE {
                unlink(&mut self.tags, hashes.bytes(tag.as_bytes()), after);
            } else {
                self.postings[before as usize].after = after;
            }
            self.postings[index as usize].after = std::mem::replace(&mut self.free_posting, index);
            index = sibling;
        }
    }
}

/// Returns true if `b` takes precedence over `a`.
fn is_before(a: &Entry, b: &Entry) -> bool {
    let rank = |entry: &Entry| (!entry.is_complete(), entry.response_time());
    rank(a) < rank(b)
}

/// Puts `first` at the front of a list. Returns the former first element.
fn link(table: &mut HashTable<Head>, hash: u64, first: u32) -> u32 {
    match table.entry(hash, |head| head.hash == hash, |head| head.hash) {
        TableEntry::Occupied(mut head) => std::mem::replace(&mut head.get_mut().first, first),
        TableEntry::Vacant(place) => {
            place.insert(Head { hash, first });
            NONE
        }
    }
}

/// Makes `first` the first element of a list; `NONE` removes the list.
fn unlink(table: &mut HashTable<Head>, hash: u64, first: u32) {
    let head = table.find_entry(hash, |head| head.hash == hash);
    let mut head = head.expect("a list that has members is found");
    if first == NONE {
        head.remove();
    } else {
        head.get_mut().first = first;
    }
}
