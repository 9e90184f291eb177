//! Ledger of purges, which tells what was purged since a position.
//!
//! Each purge has the next position, and an entry has the position that was known at its request.
//! The number of remembered purges is bounded. With more, a wider purge replaces the oldest, at its
//! position: a purge of everything; or, for a write, which any client can cause, a purge of some
//! hosts. So too much may count as purged, but no purge is lost, and a flood of writes costs the
//! hosts that it goes to.
//!
//! The store has a ledger of its own, the disk keeps one in its journal, and purges that a tier or
//! a successor does not know yet wait in one. In Redis, `lua/stamp.lua` has the same rules.

use std::{
    array, cmp,
    collections::{BTreeMap, HashMap},
    iter,
};

use super::stamps::{Digest, EntrySubject, Stamp};
use crate::key::Key;

/// Kinds of purges, each with a bound of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Purge,
    /// Prefixes, each of which is compared with each entry.
    Prefix,
    /// Purges that any client can cause.
    Write,
}

/// Number of purges of one kind, and of the bytes of their text.
pub(crate) type Bound = (usize, usize);

/// A purge as a ledger keeps it.
pub(crate) trait Noted: Clone {
    /// Bounds of the kinds, in their order.
    const MAX: [Bound; 3];

    /// Returns the purge of everything.
    fn all() -> Self;
    /// Returns a digest that purges of the same have in common; `None` for everything.
    fn id(&self) -> Option<Digest>;
    fn kind(&self) -> Kind;
    /// Returns the bytes of the purge's text.
    fn text(&self) -> usize;
    /// Returns a purge that covers this one and many others; `None` for everything.
    fn widened(&self) -> Option<Self>;
}

/// Purges by position, within bounds.
#[derive(Debug)]
pub(crate) struct PurgeLedger<P = Stamp> {
    position: u64,
    /// Entries below this position count as purged.
    pub(crate) floor: u64,
    /// Position of the last purge of each id.
    last: HashMap<Digest, u64>,
    by_kind: [KindPurges<P>; 3],
    /// Position up to which all entries changed by writes are removed, so that such writes matter
    /// only to entries that are about to be written.
    tidied: u64,
    /// Entries requested before this position are not written.
    unwritable: u64,
}

/// Purges of one kind, the oldest first.
#[derive(Debug)]
struct KindPurges<P> {
    purges: BTreeMap<u64, P>,
    text: usize,
}

impl<P> Default for KindPurges<P> {
    fn default() -> Self {
        Self {
            purges: BTreeMap::new(),
            text: 0,
        }
    }
}

impl<P> Default for PurgeLedger<P> {
    fn default() -> Self {
        Self::starting_at(0, 0)
    }
}

impl<P> PurgeLedger<P> {
    pub(crate) fn starting_at(position: u64, floor: u64) -> Self {
        Self {
            position,
            floor,
            last: HashMap::new(),
            by_kind: array::from_fn(|_| KindPurges::default()),
            tidied: 0,
            unwritable: 0,
        }
    }

    /// Returns the position of the last purge.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Returns the purges of a kind with their positions, the oldest first.
    pub(crate) fn purges(&self, kind: Kind) -> impl Iterator<Item = (u64, &P)> {
        let purges = self.by_kind[kind as usize].purges.iter();
        purges.map(|(position, purge)| (*position, purge))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.floor == 0 && self.by_kind.iter().all(|list| list.purges.is_empty())
    }
}

impl<P: Noted> PurgeLedger<P> {
    /// Records a purge. Returns its position.
    pub(crate) fn note(&mut self, purge: P) -> u64 {
        let position = self.position + 1;
        self.note_at(position, purge);
        position
    }

    /// Records a purge that waits to be taken, unless it waits already.
    pub(crate) fn push(&mut self, purge: P) {
        let waits = purge.id().is_some_and(|id| self.last.contains_key(&id));
        if !waits {
            self.note(purge);
        }
    }

    /// Records a purge that has a position.
    pub(crate) fn note_at(&mut self, position: u64, purge: P) {
        self.position = self.position.max(position);
        let Some(id) = purge.id() else {
            self.floor = self.floor.max(position);
            self.last = HashMap::new();
            self.by_kind = array::from_fn(|_| KindPurges::default());
            return;
        };
        if let Some(old) = self.last.insert(id, position) {
            self.by_kind.iter_mut().for_each(|list| list.remove(old));
        }
        let kind = purge.kind() as usize;
        let list = &mut self.by_kind[kind];
        list.text += purge.text();
        list.purges.insert(position, purge);
        let (number, text) = P::MAX[kind];
        while self.by_kind[kind].purges.len() > number || self.by_kind[kind].text > text {
            self.widen_oldest(kind);
        }
    }

    fn widen_oldest(&mut self, kind: usize) {
        let Some((position, purge)) = self.pop_first(kind) else {
            return;
        };
        if kind == Kind::Write as usize && position <= self.tidied {
            self.unwritable = self.unwritable.max(position);
            return;
        }
        match purge.widened() {
            None => self.floor = self.floor.max(position),
            Some(wide) => {
                let later = wide.id().and_then(|id| self.last.get(&id));
                self.note_at(cmp::max(position, later.copied().unwrap_or(0)), wide);
            }
        }
    }

    fn pop_first(&mut self, kind: usize) -> Option<(u64, P)> {
        let list = &mut self.by_kind[kind];
        let (position, purge) = list.purges.pop_first()?;
        list.text -= purge.text();
        self.last.remove(&purge.id()?);
        Some((position, purge))
    }

    /// Drops the purges up to a position: entries requested before it count as purged.
    pub(crate) fn forget_until(&mut self, position: u64) {
        self.floor = self.floor.max(position);
        for kind in 0..self.by_kind.len() {
            while let Some((oldest, _)) = self.by_kind[kind].purges.first_key_value()
                && *oldest <= position
            {
                self.pop_first(kind);
            }
        }
        // Memory of a flood of purges returns to the system.
        if self.last.capacity() > 4 * self.last.len() + 1024 {
            self.last.shrink_to(2 * self.last.len());
        }
    }

    /// Takes a purge that waits, any write last.
    pub(crate) fn pop(&mut self) -> Option<P> {
        self.pop_purge().or_else(|| self.pop_write())
    }

    /// Takes a purge that is not of a write.
    pub(crate) fn pop_purge(&mut self) -> Option<P> {
        if self.floor > 0 {
            self.floor = 0;
            return Some(P::all());
        }
        let mut kinds = [Kind::Purge, Kind::Prefix].into_iter();
        kinds.find_map(|kind| Some(self.pop_first(kind as usize)?.1))
    }

    /// Takes the oldest write.
    pub(crate) fn pop_write(&mut self) -> Option<P> {
        Some(self.pop_first(Kind::Write as usize)?.1)
    }

    /// Takes all purges that wait.
    pub(crate) fn take(&mut self) -> Vec<P> {
        iter::from_fn(|| self.pop()).collect()
    }
}

impl<P: Noted> KindPurges<P> {
    fn remove(&mut self, position: u64) {
        if let Some(old) = self.purges.remove(&position) {
            self.text -= old.text();
        }
    }
}

impl PurgeLedger {
    /// Returns true if a purge since `position` affects an entry, or may affect it.
    pub(crate) fn is_purged_since(&self, position: u64, key: &Key, tags: &[Box<str>]) -> bool {
        // A position that was never assigned is from a ledger that was restored from a copy.
        if position < self.floor || position > self.position {
            return true;
        }
        if position == self.position || self.last.is_empty() {
            return false;
        }
        let subject = EntrySubject::new(key, tags);
        let is_later = |digest| self.last.get(digest).is_some_and(|at| *at > position);
        let prefixes = self.by_kind[Kind::Prefix as usize]
            .purges
            .range(position + 1..);
        subject.digests.iter().any(is_later)
            || prefixes.map(|(_, stamp)| stamp).any(|stamp| {
                matches!(stamp, Stamp::Prefix(prefix)
                    if key.without_scheme().starts_with(prefix) || key.target().starts_with(prefix))
            })
    }

    /// Returns true if an entry requested at `position` must not be written.
    pub(crate) fn is_unwritable(&self, position: u64, key: &Key, tags: &[Box<str>]) -> bool {
        position < self.unwritable || self.is_purged_since(position, key, tags)
    }

    /// Records that all entries changed by writes up to this position are removed.
    pub(crate) fn tidied(&mut self, position: u64) {
        self.tidied = self.tidied.max(position);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::purge::stamps::WriteChange;

    impl PurgeLedger {
        /// Number of purges that there is memory for.
        pub(crate) fn capacity(&self) -> usize {
            self.last.capacity()
        }
    }

    fn digest(number: usize) -> Digest {
        (number as u128).to_be_bytes()
    }

    fn write(number: usize, region: u8) -> Stamp {
        Stamp::Written(WriteChange {
            place: digest(number),
            region,
            url: None,
        })
    }

    #[test]
    fn a_purge_waits_once_and_writes_wait_behind_the_others() {
        let mut ledger = PurgeLedger::default();
        assert!(ledger.is_empty());
        for stamp in [
            write(1, 0),
            Stamp::Everywhere(digest(2)),
            Stamp::Prefix(b"/a".as_slice().into()),
            Stamp::Everywhere(digest(3)),
        ] {
            ledger.push(stamp.clone());
            ledger.push(stamp);
        }
        let taken = ledger.take();
        assert_eq!(taken[0], Stamp::Everywhere(digest(2)));
        assert_eq!(taken[1], Stamp::Everywhere(digest(3)));
        assert_eq!(taken[3], write(1, 0));
        assert!(taken.len() == 4 && ledger.is_empty());
        ledger.push(write(1, 0));
        ledger.push(Stamp::All);
        assert_eq!(ledger.take(), [Stamp::All]);
    }

    /// Invariant: however many purges come, each is still there, or one that covers it is; and
    /// writes come to purges of their regions at most.
    #[test]
    fn too_many_purges_come_to_wider_ones() {
        let mut ledger = PurgeLedger::default();
        let most = Stamp::MAX.map(|(number, _)| number);
        ledger.push(Stamp::Everywhere(digest(usize::MAX)));
        for number in 0..most[2] + 1000 {
            ledger.push(write(number, if number < 500 { 3 } else { 4 }));
            ledger.push(write(number / 2, 3));
        }
        let taken = ledger.take();
        assert!(!taken.contains(&Stamp::All));
        assert_eq!(taken[0], Stamp::Everywhere(digest(usize::MAX)));
        assert_eq!(taken.len(), 3 + most[2]);
        assert!(taken.contains(&Stamp::Region(3)) && taken.contains(&Stamp::Region(4)));
        for number in 0..=most[0] {
            ledger.push(Stamp::Everywhere(digest(number)));
        }
        let taken = ledger.take();
        assert_eq!((&taken[0], taken.len()), (&Stamp::All, 1 + most[0]));
        assert!(!taken.contains(&Stamp::Everywhere(digest(0))));
        for number in 0..=most[1] {
            let prefix = number.to_string().into_bytes();
            ledger.push(Stamp::Prefix(prefix.into()));
        }
        assert_eq!(ledger.take().len(), 1 + most[1]);
        for number in 0..20 {
            let mut prefix = vec![b'x'; 16 << 10];
            prefix[0] = number;
            ledger.push(Stamp::Prefix(prefix.into()));
        }
        assert_eq!(ledger.take().len(), 1 + 16);
        ledger.push(Stamp::Prefix(vec![b'x'; (16 << 10) + 1].into()));
        assert_eq!(ledger.take(), [Stamp::All]);
    }
}
