//! Log of recent purges, which keeps a response out of the store if it was requested before a purge
//! that affects it.
//!
//! Any client can cause purges by writing. They are needed only while a response is in flight that
//! was requested before them, so they are forgotten after some minutes.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use parking_lot::RwLock;

use crate::{
    allocation::allocated,
    key::Key,
    purge::{PurgeMatcher, ledger::PurgeLedger, stamps::Stamp},
};

/// A position in the log of purges. A response requested at a mark is stored only if no purge since
/// then affects it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LogMark {
    position: u64,
    /// Highest position then known of the purges of the shared tier.
    pub(crate) shared: u64,
    /// Highest position then known of the purges that the disk remembers.
    pub(crate) disk: u64,
}

/// A [`LogMark`] as entries keep it: without tiers it has one number.
#[derive(Debug)]
pub(super) struct StoredMark {
    position: u64,
    /// Positions of the shared tier and of the disk, unless both are 0.
    tiers: Option<Box<(u64, u64)>>,
}

impl StoredMark {
    pub(super) fn get(&self) -> LogMark {
        let (shared, disk) = self.tiers.as_deref().copied().unwrap_or_default();
        LogMark {
            position: self.position,
            shared,
            disk,
        }
    }

    /// Returns the bytes in memory beside the mark itself.
    pub(super) fn size(&self) -> usize {
        self.tiers
            .as_ref()
            .map_or(0, |_| allocated(size_of::<(u64, u64)>()))
    }
}

impl From<LogMark> for StoredMark {
    fn from(mark: LogMark) -> Self {
        let tiers = (mark.shared, mark.disk);
        Self {
            position: mark.position,
            tiers: (tiers != (0, 0)).then(|| Box::new(tiers)),
        }
    }
}

/// Time for which a purge is remembered at least. A response that takes longer from its request to
/// its end is not stored if there was any purge meanwhile.
const REMEMBERED: Duration = Duration::from_mins(5);
/// Interval in which purges are forgotten together.
const STEP: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(super) struct PurgeLog {
    /// Position of the last purge: while there is none, nothing is locked.
    position: AtomicU64,
    /// Highest position seen in a shared tier.
    shared: AtomicU64,
    disk: AtomicU64,
    recent: RwLock<RecentPurges>,
}

#[derive(Debug, Default)]
struct RecentPurges {
    ledger: PurgeLedger,
    /// Position up to which purges are forgotten.
    forgotten: u64,
    /// Begins of steps, with the position of the last purge in each, the oldest first.
    steps: VecDeque<(Instant, u64)>,
}

impl RecentPurges {
    fn note(&mut self, stamps: impl IntoIterator<Item = Stamp>, now: Instant) {
        let age = |began: Instant| now.saturating_duration_since(began);
        while let Some((began, last)) = self.steps.front()
            && age(*began) >= REMEMBERED + STEP
        {
            self.forgotten = *last;
            self.steps.pop_front();
        }
        if self.ledger.floor < self.forgotten {
            self.ledger.forget_until(self.forgotten);
        }
        for stamp in stamps {
            self.ledger.note(stamp);
        }
        let position = self.ledger.position();
        match self.steps.back_mut() {
            Some((began, last)) if age(*began) < STEP => *last = position,
            _ => self.steps.push_back((now, position)),
        }
    }
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
    pub(super) fn note(&self, target: &PurgeMatcher, now: Instant) {
        let stamps = Stamp::of_target(target);
        let mut recent = self.recent.write();
        recent.note(stamps, now);
        self.position
            .store(recent.ledger.position(), Ordering::Release);
    }

    /// Returns the mark of an entry that is still stored: purges that are forgotten were applied to
    /// it long ago.
    pub(super) fn remembered(&self, mark: LogMark) -> LogMark {
        let position = mark.position.max(self.recent.read().forgotten);
        LogMark { position, ..mark }
    }

    /// Returns true if a purge since `mark` affects this response, or may affect it.
    pub(super) fn raced(&self, mark: LogMark, key: &Key, tags: &[Box<str>]) -> bool {
        self.position.load(Ordering::Acquire) != mark.position
            && (self.recent.read().ledger).is_purged_since(mark.position, key, tags)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{
        base::clock::Clock,
        purge::{PurgeTarget, ledger::Kind},
    };

    fn key(path: &str) -> Key {
        Key::new("https", "a", path.as_bytes(), None, b"")
    }

    fn note(log: &PurgeLog, target: &PurgeTarget) {
        log.note(&PurgeMatcher::new(target), Clock::machine().now());
    }

    fn written(number: usize) -> PurgeMatcher {
        PurgeMatcher::new(&PurgeTarget::Written(format!("http://a/{number}")))
    }

    #[test]
    fn writes_do_not_pile_up() {
        let (clock, log) = (Clock::test(), PurgeLog::default());
        // An hour of 5 writes a second, each to a URL of its own.
        for number in 0..18_000 {
            clock.advance(Duration::from_millis(200));
            log.note(&written(number), clock.now());
            if number % 100 == 0 {
                let remembered = log.recent.read().ledger.purges(Kind::Write).count();
                let most = 5 * (REMEMBERED + 2 * STEP).as_secs();
                assert!(remembered as u64 <= most, "{remembered}");
            }
        }
        // Nor does the memory of a flood stay.
        for number in 0..20_000 {
            log.note(&written(number), clock.now());
        }
        let full = log.recent.read().ledger.capacity();
        clock.advance(REMEMBERED + STEP);
        log.note(&written(0), clock.now());
        let rest = log.recent.read().ledger.capacity();
        assert!(full >= 20_000 && rest < 5000, "{rest} of {full}");
    }

    #[test]
    fn what_is_stored_outlives_forgotten_purges_and_not_later_ones() {
        let (clock, log) = (Clock::test(), PurgeLog::default());
        log.note(&written(1), clock.now());
        let mark = log.mark();
        log.note(&written(2), clock.now());
        for number in 10..40 {
            clock.advance(STEP);
            log.note(&written(number), clock.now());
        }
        let races = |mark, path: &str| {
            log.raced(
                mark,
                &Key::new("http", "a", path.as_bytes(), None, b""),
                &[],
            )
        };
        // One that is not stored may have been removed by anything since then.
        assert!(races(mark, "/1") && races(mark, "/3"));
        let stored = log.remembered(mark);
        assert!(!races(stored, "/1") && !races(stored, "/2") && races(stored, "/39"));
        note(&log, &PurgeTarget::All);
        assert!(races(log.remembered(mark), "/1"));
    }

    proptest! {
        /// Invariant: a response is kept out by a purge since its request, and while it takes less
        /// than five minutes by no other purge.
        #[test]
        fn a_response_is_kept_out_by_what_was_purged_since(
            steps in vec((0_u64..90, 0_usize..8, 0_usize..8), 1..80),
        ) {
            let (clock, log) = (Clock::test(), PurgeLog::default());
            let mut requests = Vec::new();
            let mut purges = Vec::new();
            for (seconds, purged, asked) in steps {
                clock.advance(Duration::from_secs(seconds));
                requests.push((log.mark(), clock.now(), purges.len()));
                log.note(&written(purged), clock.now());
                purges.push(purged);
                for (mark, at, known) in &requests {
                    let page = Key::new("http", "a", format!("/{asked}").as_bytes(), None, b"");
                    let races = log.raced(*mark, &page, &[]);
                    let is_purged = purges[*known..].contains(&asked);
                    prop_assert!(races || !is_purged);
                    let is_young = clock.now() - *at < REMEMBERED;
                    prop_assert!(!is_young || races == is_purged);
                }
            }
        }
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
        let written = Key::new("https", "a", b"/q", Some(b"b=1&_rsc=2"), b"");
        log.note(&PurgeMatcher::of_key(&written), Clock::machine().now());
        let of = |query: &[u8]| Key::new("https", "a", b"/q", Some(query), b"other");
        assert!(log.raced(mark, &of(b"b=1"), &[]) && log.raced(mark, &of(b"_rsc=3&b=1"), &[]));
        assert!(!log.raced(mark, &of(b"b=2"), &[]) && !log.raced(mark, &key("/q"), &[]));
        let after = log.mark();
        note(&log, &PurgeTarget::Tag("t".into()));
        assert!(log.raced(after, &key("/x"), &["t".into()]));
        assert!(!log.raced(after, &key("/x"), &["tt".into()]));
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
