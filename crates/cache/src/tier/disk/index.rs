//! Index of the entries on disk, with the order of eviction: it decides misses without a file
//! access.
//!
//! The index takes about 250 bytes per entry. An entry takes at least 4 KiB of disk, so the size of
//! the tier bounds the index: 512 MiB of small responses have 131,072 entries and 33 MB of index.
//!
//! Names contain digests of host and path and of the URL: the entries that a write has changed are
//! found without reading a file.

use std::collections::{BTreeSet, HashMap};

use lru::LruCache;
use smart_default::SmartDefault;

use super::super::stamps::{self, Digest, WriteChange};
use crate::{key::Key, policy::Variance};

/// Files take up whole blocks.
pub(super) const BLOCK: u64 = 4096;

/// The name of an entry's file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct FileName {
    pub(super) hash: u128,
    pub(super) variance: u128,
    /// Digest of host and path.
    pub(super) place: u64,
    /// Digest of scheme, host, path and query.
    pub(super) url: u64,
}

impl FileName {
    pub(super) fn new(key: &Key, variance: Variance) -> Self {
        Self {
            hash: key.hash(),
            variance: variance.0,
            place: short(&stamps::place(key)),
            url: short(&stamps::origin(key)),
        }
    }

    /// Returns the name for the same key with another variance.
    pub(super) fn with(self, variance: Variance) -> Self {
        Self {
            variance: variance.0,
            ..self
        }
    }

    /// Returns the names of the folder and of the file.
    pub(super) fn file(self) -> (String, String) {
        let (hash, variance) = (self.hash, self.variance);
        let name = format!(
            "{hash:032x}-{variance:032x}-{:016x}-{:016x}",
            self.place, self.url
        );
        (format!("{:02x}", hash >> 120), name)
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let mut next = |len: usize| {
            let text = parts.next()?;
            let is_plain = text.len() == len && !text.starts_with('+');
            is_plain.then(|| u128::from_str_radix(text, 16).ok())?
        };
        let name = Self {
            hash: next(32)?,
            variance: next(32)?,
            place: u64::try_from(next(16)?).ok()?,
            url: u64::try_from(next(16)?).ok()?,
        };
        parts.next().is_none().then_some(name)
    }

    /// Returns true for a name from a version whose names had fewer digests.
    pub(super) fn is_old(text: &str) -> bool {
        let is_hex = |part: &str| part.len() == 32 && part.bytes().all(|b| b.is_ascii_hexdigit());
        text.split_once('-')
            .is_some_and(|(hash, variance)| is_hex(hash) && is_hex(variance))
    }
}

fn short(digest: &Digest) -> u64 {
    digest.first_chunk().copied().map_or(0, u64::from_be_bytes)
}

#[derive(Clone, Copy, Debug)]
struct IndexEntry {
    blocks: u32,
    /// Sequence number: a later write has a higher one.
    number: u64,
}

#[derive(Debug, SmartDefault)]
pub(super) struct Index {
    #[default(LruCache::unbounded())]
    files: LruCache<FileName, IndexEntry>,
    /// Names by the digests of place and URL.
    digests: BTreeSet<(u64, FileName)>,
    /// Number of announced writes, by the digests of place and URL.
    announced: HashMap<u64, u32>,
    blocks: u64,
    // Lower numbers are for entries that were there at the start.
    #[default(1 << 32)]
    numbers: u64,
    /// Number of times the index was cleared.
    pub(super) cleared: u64,
}

impl Index {
    pub(super) fn bytes(&self) -> u64 {
        self.blocks * BLOCK
    }

    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    /// Returns the existing ones among `names`, the last written first.
    pub(super) fn newest(&mut self, names: &[FileName]) -> Vec<FileName> {
        let numbered = names.iter().filter_map(|name| {
            let entry = self.files.get(name)?;
            Some((entry.number, *name))
        });
        let mut numbered: Vec<_> = numbered.collect();
        numbered.sort_unstable_by_key(|(number, _)| std::cmp::Reverse(*number));
        numbered.into_iter().map(|(_, name)| name).collect()
    }

    pub(super) fn insert(&mut self, name: FileName, len: u64) {
        self.numbers += 1;
        self.add(name, len, self.numbers);
    }

    fn add(&mut self, name: FileName, len: u64, number: u64) {
        let blocks = blocks(len);
        self.blocks += u64::from(blocks);
        self.digests.extend([(name.place, name), (name.url, name)]);
        if let Some(before) = self.files.put(name, IndexEntry { blocks, number }) {
            self.blocks -= u64::from(before.blocks);
        }
    }

    /// Inserts an entry that was there at the start: it is evicted before all present ones.
    /// `number` gives the order among such entries.
    pub(super) fn insert_oldest(&mut self, name: FileName, len: u64, number: u64) {
        if self.files.contains(&name) {
            return;
        }
        self.add(name, len, number);
        self.files.demote(&name);
    }

    pub(super) fn remove(&mut self, name: &FileName) {
        if let Some(entry) = self.files.pop(name) {
            self.blocks -= u64::from(entry.blocks);
            self.digests.remove(&(name.place, *name));
            self.digests.remove(&(name.url, *name));
        }
    }

    /// Returns the entries that a write may have changed.
    pub(super) fn changed_by(&self, written: &WriteChange) -> Vec<FileName> {
        let digest = short(&written.digest());
        let least = FileName::default();
        let from = self.digests.range((digest, least)..);
        from.take_while(|(affected, _)| *affected == digest)
            .map(|(_, name)| *name)
            .collect()
    }

    /// Returns true if an existing or announced entry may be changed by a write.
    pub(super) fn has(&self, written: &WriteChange) -> bool {
        let digest = short(&written.digest());
        let mut from = self.digests.range((digest, FileName::default())..);
        let is_there = from.next().is_some_and(|(affected, _)| *affected == digest);
        is_there || self.announced.contains_key(&digest)
    }

    /// Announces an entry that is about to be written: from now on writes that affect the entry
    /// count.
    pub(super) fn announce(&mut self, name: &FileName) {
        for digest in [name.place, name.url] {
            *self.announced.entry(digest).or_default() += 1;
        }
    }

    /// Retracts an announcement, after the entry was written or given up.
    pub(super) fn retract(&mut self, name: &FileName) {
        for digest in [name.place, name.url] {
            if let Some(count) = self.announced.get_mut(&digest) {
                *count -= 1;
                if *count == 0 {
                    self.announced.remove(&digest);
                }
            }
        }
    }

    /// Returns the next entry to evict if `more` bytes would exceed the budget.
    pub(super) fn victim(&self, more: u64, budget: u64) -> Option<FileName> {
        let more = u64::from(blocks(more)) * BLOCK;
        if self.bytes() + more <= budget {
            return None;
        }
        self.files.peek_lru().map(|(name, _)| *name)
    }

    /// Moves an entry that cannot be removed now to the end of the eviction order.
    pub(super) fn spare(&mut self, name: &FileName) {
        self.files.promote(name);
    }

    pub(super) fn clear(&mut self) {
        self.files.clear();
        self.digests.clear();
        self.blocks = 0;
        self.cleared += 1;
    }
}

fn blocks(len: u64) -> u32 {
    u32::try_from(len.div_ceil(BLOCK)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u128) -> FileName {
        FileName {
            hash: number << 120,
            variance: number,
            place: u64::try_from(number).unwrap() / 2,
            url: u64::try_from(number).unwrap() + 1000,
        }
    }

    #[test]
    fn names_are_read_as_they_were_written() {
        let (folder, file) = name(0xab).file();
        assert_eq!(folder, "ab");
        assert_eq!(FileName::parse(&file), Some(name(0xab)));
        let old = &file[..65];
        for wrong in ["", "ab-cd", &file[1..], &format!("{file}.tmp"), "+-+", old] {
            assert_eq!(FileName::parse(wrong), None, "{wrong}");
        }
        assert!(
            FileName::is_old(old) && !FileName::is_old(&file) && !FileName::is_old("probe.tmp")
        );
    }

    #[test]
    fn the_least_recently_used_file_is_evicted_first() {
        let mut index = Index::default();
        for number in 1..=3 {
            index.insert(name(number), 1);
        }
        // From the start, the newest first.
        index.insert_oldest(name(5), 4097, 5);
        index.insert_oldest(name(4), 4096, 4);
        assert_eq!((index.len(), index.bytes()), (5, 6 * BLOCK));
        assert_eq!(
            index.newest(&[name(1), name(9), name(5)]),
            [name(1), name(5)]
        );
        assert_eq!(index.victim(0, 6 * BLOCK), None);
        index.spare(&name(2));
        let order = std::iter::from_fn(|| {
            let victim = index.victim(1, BLOCK)?;
            index.remove(&victim);
            Some(victim)
        });
        assert_eq!(order.collect::<Vec<_>>(), [4, 3, 1, 5, 2].map(name));
        assert_eq!((index.len(), index.bytes()), (0, 0));
    }

    #[test]
    fn entries_changed_by_a_write_are_found() {
        let mut index = Index::default();
        let page = |path: &str, query: Option<&[u8]>| {
            Key::new("http", "a", path.as_bytes(), query, b"extra")
        };
        let of = |key: &Key| FileName::new(key, Variance(7));
        let (one, other) = (of(&page("/a", Some(b"x"))), of(&page("/a/", Some(b"y"))));
        index.insert(one, 1);
        index.insert_oldest(other, 1, 1);
        index.insert(of(&page("/b", None)), 1);
        let exact = stamps::Stamp::of_key(&page("/a", Some(b"x")))
            .written()
            .unwrap();
        let any = WriteChange { url: None, ..exact };
        assert_eq!(index.changed_by(&exact), [one]);
        let mut all = index.changed_by(&any);
        all.sort_unstable_by_key(|name| *name != one);
        assert_eq!(all, [one, other]);
        index.remove(&one);
        assert!(index.has(&any) && !index.has(&exact));
        index.announce(&one);
        index.announce(&one);
        index.retract(&one);
        assert!(index.has(&exact));
        index.retract(&one);
        assert!(!index.has(&exact));
        index.clear();
        assert!(!index.has(&any));
        assert_eq!(index.changed_by(&any), []);
    }

    #[test]
    fn files_written_again_count_once() {
        let mut index = Index::default();
        index.insert(name(1), 10 * BLOCK);
        index.insert(name(1), 1);
        index.insert_oldest(name(1), 9 * BLOCK, 1);
        assert_eq!((index.len(), index.bytes()), (1, BLOCK));
        index.remove(&name(1));
        index.remove(&name(1));
        assert_eq!((index.len(), index.bytes()), (0, 0));
    }
}
