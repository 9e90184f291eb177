//! Log of recent purges, which keeps a response out of the store if it was requested before a purge
//! that affects it.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use crate::{
    key::Key,
    purge::{PurgeMatcher, ledger::PurgeLedger, stamps::Stamp},
};

/// A position in the log of purges. A response requested at a mark is stored only if no purge since
/// then affects it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogMark {
    position: u64,
    /// Highest position then known of the purges of the shared tier.
    pub(crate) shared: u64,
    /// Highest position then known of the purges that the disk remembers.
    pub(crate) disk: u64,
}

#[derive(Debug, Default)]
pub(super) struct PurgeLog {
    /// Position of the last purge: while there is none, nothing is locked.
    position: AtomicU64,
    /// Highest position seen in a shared tier.
    shared: AtomicU64,
    disk: AtomicU64,
    ledger: RwLock<PurgeLedger>,
}

impl PurgeLog {
    pub(super) fn mark(&self) -> LogMark {
        LogMark {
            shared: self.shared.load(Ordering::Acquire),
            disk: self.disk.load(Ordering::Acquire),
            position: self.position.load(Ordering::Acquire),
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
    pub(super) fn note(&self, target: &PurgeMatcher) {
        let stamps = Stamp::of_target(target);
        let mut ledger = self.ledger.write();
        for stamp in stamps {
            ledger.note(stamp);
        }
        self.position.store(ledger.position(), Ordering::Release);
    }

    /// Returns true if a purge since `mark` affects this response, or may affect it.
    pub(super) fn raced(&self, mark: LogMark, key: &Key, tags: &[Box<str>]) -> bool {
        self.position.load(Ordering::Acquire) != mark.position
            && self.ledger.read().is_purged_since(mark.position, key, tags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::purge::PurgeTarget;

    fn key(path: &str) -> Key {
        Key::new("https", "a", path.as_bytes(), None, b"")
    }

    fn note(log: &PurgeLog, target: &PurgeTarget) {
        log.note(&PurgeMatcher::of(target));
    }

    #[test]
    fn responses_requested_before_their_purge_are_not_stored() {
        let log = PurgeLog::default();
        let before = log.mark();
        assert!(!log.raced(before, &key("/x"), &[]));
        for target in [
            PurgeTarget::Url("/x".into()),
            PurgeTarget::Url("https://a/x".into()),
            PurgeTarget::Written("http://a/x".into()),
            PurgeTarget::Written("http://a/x/7".into()),
        ] {
            let before = log.mark();
            note(&log, &target);
            let after = log.mark();
            assert!(log.raced(before, &key("/x"), &[]), "{target:?}");
            assert!(!log.raced(before, &key("/y"), &[]), "{target:?}");
            assert!(!log.raced(after, &key("/x"), &[]), "{target:?}");
        }
        let long = format!("/{}", "x".repeat(500));
        let before = log.mark();
        note(&log, &PurgeTarget::Written(format!("http://a{long}/7")));
        for path in [&long, &format!("{long}/"), &format!("{long}/7")] {
            assert!(log.raced(before, &key(path), &[]));
        }
        assert!(!log.raced(before, &key(&format!("{long}/8")), &[]));
        let mark = log.mark();
        log.note(&PurgeMatcher::of_key(&Key::new(
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
        note(&log, &PurgeTarget::Tag("t".into()));
        assert!(log.raced(after, &key("/x"), &["t".into()]));
        assert!(!log.raced(after, &key("/x"), &["tt".into()]));
    }

    #[test]
    fn a_mark_older_than_the_log_is_too_old_for_anything() {
        let log = PurgeLog::default();
        let before = log.mark();
        for n in 0..50_000 {
            note(&log, &PurgeTarget::Url(format!("/{n}")));
        }
        assert!(!log.raced(before, &key("/other"), &[]));
        note(&log, &PurgeTarget::Url("/last".into()));
        assert!(log.raced(before, &key("/other"), &[]));
        let mark = log.mark();
        note(&log, &PurgeTarget::Prefix("x".repeat(1 << 20)));
        assert!(log.raced(mark, &key("/other"), &[]));
    }

    /// Invariant: whatever is written to one host, most responses in flight for other hosts are
    /// still stored.
    #[test]
    fn a_flood_of_writes_keeps_next_to_nothing_out() {
        let log = PurgeLog::default();
        let before = log.mark();
        for n in 0..70_000 {
            note(&log, &PurgeTarget::Written(format!("http://flooded/{n}/x")));
        }
        let of = |host: &str| {
            let raced = |n: &u32| {
                let key = Key::new("http", host, format!("/p{n}").as_bytes(), None, b"");
                log.raced(before, &key, &[])
            };
            (0..100).filter(raced).count()
        };
        let excluded: usize = (0..64).map(|n| of(&format!("host{n}"))).sum();
        assert!(excluded < 800, "{excluded} of 6400");
        let written = Key::new("http", "flooded", b"/17/x", Some(b"any"), b"");
        assert!(log.raced(before, &written, &[]));
    }
}
