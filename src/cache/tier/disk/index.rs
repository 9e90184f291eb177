//! Which entries there are, so that nobody looks for one in vain, and which go first.
//!
//! About 100 bytes for each entry. An entry takes 4 KiB of the disk at least, so that this is
//! bounded by the size of the tier: 512 MiB of small answers have 131,072 entries, and 13 MB
//! of index.

use lru::LruCache;

use crate::cache::{key::Key, policy::Variance};

/// Files take up whole blocks.
const BLOCK: u64 = 4096;

/// What a file is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Name {
    pub(super) hash: u128,
    pub(super) variance: u128,
}

impl Name {
    pub(super) fn new(key: &Key, variance: Variance) -> Self {
        Self {
            hash: key.hash(),
            variance: variance.0,
        }
    }

    /// As the file is called, and the folder that it is in.
    pub(super) fn file(self) -> (String, String) {
        let Self { hash, variance } = self;
        (
            format!("{:02x}", hash >> 120),
            format!("{hash:032x}-{variance:032x}"),
        )
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let (hash, variance) = text.split_once('-')?;
        let number = |text: &str| {
            let is_plain = text.len() == 32 && !text.starts_with('+');
            is_plain.then(|| u128::from_str_radix(text, 16).ok())?
        };
        Some(Self {
            hash: number(hash)?,
            variance: number(variance)?,
        })
    }
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    blocks: u32,
    /// Later ones were written later.
    number: u64,
}

#[derive(Debug)]
pub(super) struct Index {
    files: LruCache<Name, Kept>,
    blocks: u64,
    numbers: u64,
    /// How often everything went.
    cleared: u64,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            files: LruCache::unbounded(),
            blocks: 0,
            // Below are those that were there at the start.
            numbers: 1 << 32,
            cleared: 0,
        }
    }
}

impl Index {
    pub(super) fn bytes(&self) -> u64 {
        self.blocks * BLOCK
    }

    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    /// Those of `names` that are there, the one that was written last first.
    pub(super) fn newest(&mut self, names: &[Name]) -> Vec<Name> {
        let found = names.iter().filter_map(|name| {
            let kept = self.files.get(name)?;
            Some((kept.number, *name))
        });
        let mut found: Vec<_> = found.collect();
        found.sort_unstable_by_key(|(number, _)| std::cmp::Reverse(*number));
        found.into_iter().map(|(_, name)| name).collect()
    }

    pub(super) fn insert(&mut self, name: Name, len: u64) {
        self.numbers += 1;
        let kept = Kept {
            blocks: blocks(len),
            number: self.numbers,
        };
        self.blocks += u64::from(kept.blocks);
        if let Some(before) = self.files.put(name, kept) {
            self.blocks -= u64::from(before.blocks);
        }
    }

    /// One that was there at the start: it goes before all that is here. `number` says how
    /// it stands among its like.
    pub(super) fn insert_oldest(&mut self, name: Name, len: u64, number: u64) {
        if self.files.contains(&name) {
            return;
        }
        let blocks = blocks(len);
        self.blocks += u64::from(blocks);
        self.files.put(name, Kept { blocks, number });
        self.files.demote(&name);
    }

    pub(super) fn remove(&mut self, name: &Name) {
        if let Some(kept) = self.files.pop(name) {
            self.blocks -= u64::from(kept.blocks);
        }
    }

    /// The one that goes first, if so many bytes more would be over the budget.
    pub(super) fn victim(&self, more: u64, budget: u64) -> Option<Name> {
        let more = u64::from(blocks(more)) * BLOCK;
        if self.bytes() + more <= budget {
            return None;
        }
        self.files.peek_lru().map(|(name, _)| *name)
    }

    /// It cannot go now: others go before it.
    pub(super) fn spare(&mut self, name: &Name) {
        self.files.promote(name);
    }

    pub(super) fn clear(&mut self) {
        self.files.clear();
        self.blocks = 0;
        self.cleared += 1;
    }

    pub(super) fn cleared(&self) -> u64 {
        self.cleared
    }
}

fn blocks(len: u64) -> u32 {
    u32::try_from(len.div_ceil(BLOCK)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u128) -> Name {
        Name {
            hash: number << 120,
            variance: number,
        }
    }

    #[test]
    fn names_are_read_as_they_were_written() {
        let (folder, file) = name(0xab).file();
        assert_eq!(folder, "ab");
        assert_eq!(Name::parse(&file), Some(name(0xab)));
        for wrong in ["", "ab-cd", &file[1..], &format!("{file}.tmp"), "+-+"] {
            assert_eq!(Name::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_one_that_was_not_used_for_longest_goes_first() {
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
    fn what_is_written_again_counts_once() {
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
