//! Log of recent purges, which keeps a response out of the store if it was requested before a purge
//! that affects it.
//!
//! Most purges are of one URL or of what a write has changed, and any client can cause them: a
//! table of fixed size holds the number of the last such purge in the slot of its host and URL. Two
//! purges that share a slot keep one response too many out of the store, but no stored response is
//! lost to that. All other purges are few and are remembered one by one.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
};

use ahash::RandomState;
use parking_lot::RwLock;

use crate::{
    key::Key,
    purge::{self, HostPath, PurgeMatcher, WriteTarget, without_rsc, without_slash},
};

/// A position in the log of purges. A response requested at a mark is stored only if no purge since
/// then affects it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogMark {
    count: u64,
    /// Highest position then known of the purges of the shared tier.
    pub(crate) shared: u64,
    /// Highest position then known of the purges that the disk remembers.
    pub(crate) disk: u64,
}

/// Number of purges that are remembered one by one. A response that takes longer than these is not
/// stored.
const MAX_ENTRIES: usize = 16 * 1024;

/// Bytes of text that the remembered purges may have.
const MAX_TEXT_LEN: usize = 4 * 1024 * 1024;

/// Number of regions of the table. Each host belongs to one, so that a flood of writes to one host
/// does not affect most others.
const REGIONS: usize = 32;
/// Slots in a region.
const PLACES: usize = 16 * 1024;

#[derive(Debug, Default)]
pub(super) struct PurgeLog {
    /// Number of purges so far.
    count: AtomicU64,
    /// Highest position seen in a shared tier.
    shared: AtomicU64,
    disk: AtomicU64,
    last: RwLock<LastPurge>,
    /// Number of the last purge of each slot; empty before the first one.
    table: RwLock<Vec<u64>>,
    seeds: RandomState,
}

#[derive(Debug, Default)]
struct LastPurge {
    /// Remembered purges with their numbers.
    targets: VecDeque<(u64, PurgeMatcher)>,
    text: usize,
    /// Number of the last purge that was forgotten.
    forgotten: u64,
}

impl PurgeLog {
    pub(super) fn mark(&self) -> LogMark {
        LogMark {
            shared: self.shared.load(Ordering::Acquire),
            disk: self.disk.load(Ordering::Acquire),
            count: self.count.load(Ordering::Acquire),
        }
    }

    pub(super) fn observe(&self, shared: u64) {
        self.shared.fetch_max(shared, Ordering::AcqRel);
    }

    pub(super) fn observe_disk(&self, position: u64) {
        self.disk.fetch_max(position, Ordering::AcqRel);
    }

    /// Records a purge. A purge is recorded before entries are looked up for it, and
    /// [`PurgeLog::raced`] is called before storing, with the shard locked: one of the two always
    /// sees the other.
    pub(super) fn note(&self, target: PurgeMatcher) {
        let places = self.places(&target);
        if places[0].is_none() {
            self.note_one(target);
            return;
        }
        let mut table = self.table.write();
        if table.is_empty() {
            // The system allocates this memory page by page as it is touched.
            *table = vec![0; REGIONS * PLACES];
        }
        let number = self.count.fetch_add(1, Ordering::AcqRel) + 1;
        for place in places.into_iter().flatten() {
            table[place] = number;
        }
    }

    fn note_one(&self, target: PurgeMatcher) {
        let mut last = self.last.write();
        let number = self.count.fetch_add(1, Ordering::AcqRel) + 1;
        last.text += target.text();
        last.targets.push_back((number, target));
        while last.targets.len() > MAX_ENTRIES || last.text > MAX_TEXT_LEN {
            let Some((number, oldest)) = last.targets.pop_front() else {
                break;
            };
            last.text -= oldest.text();
            last.forgotten = number;
        }
    }

    /// Returns true if a purge since `mark` affects this response, or may affect it.
    pub(super) fn raced(&self, mark: LogMark, key: &Key, tags: &[Box<str>]) -> bool {
        if self.count.load(Ordering::Acquire) == mark.count {
            return false;
        }
        let table = self.table.read();
        if !table.is_empty() {
            let query = without_rsc(key.query().unwrap_or_default());
            let url = self.url(key.authority(), key.path(), &query);
            let path = without_slash(key.path());
            let written = match purge::long(path) {
                Some(_) => self.place(key.authority(), &purge::place(key.authority(), path)[..]),
                None => self.place(key.authority(), path),
            };
            let is_later = |place: usize| table[place] > mark.count;
            if is_later(url) || is_later(written) {
                return true;
            }
        }
        drop(table);
        let last = self.last.read();
        let newest = last.targets.iter().rev();
        last.forgotten > mark.count
            || newest
                .take_while(|(number, _)| *number > mark.count)
                .any(|(_, target)| target.is_about(key, tags))
    }

    /// Returns the slots of a purge in the table; none if it is remembered one by one.
    fn places(&self, target: &PurgeMatcher) -> [Option<usize>; 2] {
        match target {
            PurgeMatcher::Url {
                authority: Some(authority),
                path,
                query,
                ..
            } => [Some(self.url(authority, path, query)), None],
            PurgeMatcher::Written(WriteTarget {
                authority,
                item,
                list,
            }) => {
                let place = |place: &HostPath| match place {
                    HostPath::Path(path) => self.place(authority, &**path),
                    HostPath::Digests { place, .. } => self.place(authority, &place[..]),
                };
                [Some(place(item)), list.as_ref().map(place)]
            }
            PurgeMatcher::Url { .. }
            | PurgeMatcher::Prefix { .. }
            | PurgeMatcher::Tag(_)
            | PurgeMatcher::All => [None, None],
        }
    }

    fn url(&self, authority: &[u8], path: &[u8], query: &[u8]) -> usize {
        self.place(authority, (path, query))
    }

    fn place(&self, authority: &[u8], rest: impl std::hash::Hash) -> usize {
        let below =
            |hash: u64, most: usize| usize::from(u16::try_from(hash >> 48).unwrap_or(0)) % most;
        let region = below(self.seeds.hash_one(authority), REGIONS);
        region * PLACES + below(self.seeds.hash_one((authority, rest)), PLACES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::purge::PurgeTarget;

    fn key(path: &str) -> Key {
        Key::new("https", "a", path.as_bytes(), None, b"")
    }

    #[test]
    fn what_was_asked_for_before_a_purge_of_it_is_not_stored() {
        let log = PurgeLog::default();
        let before = log.mark();
        assert!(!log.raced(before, &key("/x"), &[]));
        for what in [
            PurgeTarget::Url("/x".into()),
            PurgeTarget::Url("https://a/x".into()),
            PurgeTarget::Written("http://a/x".into()),
            PurgeTarget::Written("http://a/x/7".into()),
        ] {
            let before = log.mark();
            log.note(PurgeMatcher::of(&what));
            let after = log.mark();
            assert!(log.raced(before, &key("/x"), &[]), "{what:?}");
            assert!(!log.raced(before, &key("/y"), &[]), "{what:?}");
            assert!(!log.raced(after, &key("/x"), &[]), "{what:?}");
        }
        let long = format!("/{}", "x".repeat(500));
        let before = log.mark();
        log.note(PurgeMatcher::of(&PurgeTarget::Written(format!(
            "http://a{long}/7"
        ))));
        for path in [&long, &format!("{long}/"), &format!("{long}/7")] {
            assert!(log.raced(before, &key(path), &[]));
        }
        assert!(!log.raced(before, &key(&format!("{long}/8")), &[]));
        let mark = log.mark();
        log.note(PurgeMatcher::of_key(&Key::new(
            "https",
            "a",
            b"/q",
            Some(b"b=1&_rsc=2"),
            b"",
        )));
        let of = |query: &[u8]| Key::new("https", "a", b"/q", Some(query), b"other");
        assert!(log.raced(mark, &of(b"b=1"), &[]) && log.raced(mark, &of(b"_rsc=3&b=1"), &[]));
        assert!(!log.raced(mark, &of(b"b=2"), &[]) && !log.raced(mark, &key("/q"), &[]));
        let after = log.mark();
        log.note(PurgeMatcher::of(&PurgeTarget::Tag("t".into())));
        assert!(log.raced(after, &key("/x"), &["t".into()]));
        assert!(!log.raced(after, &key("/x"), &["tt".into()]));
    }

    #[test]
    fn a_mark_older_than_the_log_is_too_old_for_anything() {
        let log = PurgeLog::default();
        let before = log.mark();
        for n in 0..MAX_ENTRIES {
            log.note(PurgeMatcher::of(&PurgeTarget::Url(format!("/{n}"))));
        }
        assert!(!log.raced(before, &key("/other"), &[]));
        log.note(PurgeMatcher::of(&PurgeTarget::Url("/last".into())));
        assert!(log.raced(before, &key("/other"), &[]));
        let mark = log.mark();
        log.note(PurgeMatcher::of(&PurgeTarget::Prefix(
            "x".repeat(MAX_TEXT_LEN),
        )));
        assert!(log.raced(mark, &key("/other"), &[]));
    }

    /// Invariant: whatever is written to one host, most responses in flight for other hosts are
    /// still stored.
    #[test]
    fn a_flood_of_writes_keeps_next_to_nothing_out() {
        let log = PurgeLog::default();
        let before = log.mark();
        for n in 0..20_000 {
            let url = format!("http://flooded/{n}/x");
            log.note(PurgeMatcher::of(&PurgeTarget::Written(url)));
        }
        let of = |host: &str| {
            let raced = |n: &u32| {
                let key = Key::new("http", host, format!("/p{n}").as_bytes(), None, b"");
                log.raced(before, &key, &[])
            };
            (0..100).filter(raced).count()
        };
        let kept_out: usize = (0..64).map(|n| of(&format!("host{n}"))).sum();
        assert!(kept_out < 800, "{kept_out} of 6400");
        let written = Key::new("http", "flooded", b"/17/x", Some(b"any"), b"");
        assert!(log.raced(before, &written, &[]));
    }
}
