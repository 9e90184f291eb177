//! The last purges, so that an answer that was asked for before one is not stored after it.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::RwLock;

use super::target::Target;
use crate::cache::key::Key;

/// A position in the log of purges. What was asked for at a mark is stored only if no purge
/// since then is about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    count: u64,
    /// What was known then of the purges of a tier that gateways share.
    pub(in crate::cache) shared: u64,
    /// The same of the purges that the disk remembers.
    pub(in crate::cache) disk: u64,
}

/// How many purges are remembered. An answer that takes longer than these is not stored.
const MOST: usize = 16 * 1024;

/// How many bytes of text they may have.
const MOST_TEXT: usize = 4 * 1024 * 1024;

#[derive(Debug, Default)]
pub(super) struct PurgeLog {
    /// How many there have been.
    count: AtomicU64,
    /// The highest position of a shared tier that was seen.
    shared: AtomicU64,
    disk: AtomicU64,
    last: RwLock<Last>,
}

#[derive(Debug, Default)]
struct Last {
    targets: VecDeque<Target>,
    text: usize,
}

impl PurgeLog {
    pub(super) fn mark(&self) -> Mark {
        Mark {
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

    /// Notes a purge. Whoever purges does so before looking for entries, and whoever stores
    /// asks [`PurgeLog::raced`] with the shard locked: one of them sees the other.
    pub(super) fn note(&self, target: Target) {
        let mut last = self.last.write();
        last.text += target.text();
        last.targets.push_back(target);
        while last.targets.len() > MOST || last.text > MOST_TEXT {
            let Some(oldest) = last.targets.pop_front() else {
                break;
            };
            last.text -= oldest.text();
        }
        self.count.fetch_add(1, Ordering::Release);
    }

    /// Whether there was a purge since `mark` that is about this answer, or may have been.
    pub(super) fn raced(&self, mark: Mark, key: &Key, tags: &[Box<str>]) -> bool {
        if self.count.load(Ordering::Acquire) == mark.count {
            return false;
        }
        let last = self.last.read();
        let count = self.count.load(Ordering::Acquire);
        let since = usize::try_from(count - mark.count).unwrap_or(usize::MAX);
        let newest = last.targets.iter().rev();
        since > last.targets.len() || newest.take(since).any(|target| target.is_about(key, tags))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::purge::What;

    fn key(path: &str) -> Key {
        Key::new("https", "a", path.as_bytes(), None, b"")
    }

    #[test]
    fn what_was_asked_for_before_a_purge_of_it_is_not_stored() {
        let log = PurgeLog::default();
        let before = log.mark();
        assert!(!log.raced(before, &key("/x"), &[]));
        log.note(Target::of(&What::Url("/x".into())));
        let after = log.mark();
        assert!(log.raced(before, &key("/x"), &[]));
        assert!(!log.raced(before, &key("/y"), &[]));
        assert!(!log.raced(after, &key("/x"), &[]));
        log.note(Target::of(&What::Tag("t".into())));
        assert!(log.raced(after, &key("/x"), &["t".into()]));
        assert!(!log.raced(after, &key("/x"), &["tt".into()]));
    }

    #[test]
    fn a_mark_older_than_the_log_is_too_old_for_anything() {
        let log = PurgeLog::default();
        let before = log.mark();
        for n in 0..MOST {
            log.note(Target::of(&What::Url(format!("/{n}"))));
        }
        assert!(!log.raced(before, &key("/other"), &[]));
        log.note(Target::of(&What::Url("/last".into())));
        assert!(log.raced(before, &key("/other"), &[]));
        let mark = log.mark();
        log.note(Target::of(&What::Prefix("x".repeat(MOST_TEXT))));
        assert!(log.raced(mark, &key("/other"), &[]));
    }
}
