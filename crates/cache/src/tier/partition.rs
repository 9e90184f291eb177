//! A part of level 2: the names of its keys, and the purges that are not stamped there yet.

use std::{
    iter,
    sync::atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;

use super::stamps::{self, Digest, Stamp, WriteChange};
use crate::{
    key::Key,
    purge::{
        WaitScope,
        ledger::{Kind, PurgeLedger},
    },
};

/// Number of purges that are sent in one round. With more, the whole part is purged.
const MAX_SENT: usize = 4096;
/// Number of writes that are sent in one round.
pub(super) const WRITE_BATCH: usize = 256;

#[derive(Debug, Default)]
struct UnstampedPurges {
    waiting: PurgeLedger,
    /// Purges that are being stamped.
    sent: PurgeLedger,
    /// Position of the last purge that may affect entries of any URL.
    wide: u64,
    done: StampCounts,
}

/// Positions up to which purges are stamped: those of operators, and those of writes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StampCounts {
    stamps: u64,
    written: u64,
}

/// Purges that are stamped together.
#[derive(Debug, Default)]
pub(super) struct StampRound {
    pub(super) stamps: Vec<Stamp>,
    pub(super) written: Vec<WriteChange>,
    /// Positions of stamped purges at the end of the round.
    until: StampCounts,
}

impl StampRound {
    pub(super) fn is_empty(&self) -> bool {
        self.stamps.is_empty() && self.written.is_empty()
    }
}

#[derive(Debug)]
pub(super) struct PurgePartition {
    /// Prefix of the part's keys.
    pub(super) prefix: String,
    pub(super) stamps: Vec<u8>,
    /// Key of the table with the last writes, by slots.
    pub(super) writes: Vec<u8>,
    unstamped: Mutex<UnstampedPurges>,
    /// Set while some purge is not stamped yet. Changed with the list locked.
    is_behind: AtomicBool,
    /// Set while the part has no stamps, so that no entry in it counts.
    pub(super) is_lost: AtomicBool,
}

impl PurgePartition {
    pub(super) fn new(prefix: &str, number: usize) -> Self {
        let prefix = format!("{prefix}cache:{{{number}}}:");
        Self {
            stamps: format!("{prefix}stamps").into_bytes(),
            writes: format!("{prefix}writes").into_bytes(),
            prefix,
            unstamped: Mutex::default(),
            is_behind: AtomicBool::new(false),
            is_lost: AtomicBool::new(true),
        }
    }

    /// Returns the Redis key of all entries of a key's URL.
    pub(super) fn key(&self, key: &Key) -> Vec<u8> {
        self.key_of(&stamps::origin(key))
    }

    fn key_of(&self, url: &Digest) -> Vec<u8> {
        format!("{}{:032x}", self.prefix, u128::from_be_bytes(*url)).into_bytes()
    }

    /// Returns the Redis key of the marker of a host and path. Without the marker their entries do
    /// not count.
    pub(super) fn marker(&self, place: &Digest) -> Vec<u8> {
        format!("{}p{:032x}", self.prefix, u128::from_be_bytes(*place)).into_bytes()
    }

    /// Returns the Redis key that is removed for a write.
    pub(super) fn doomed(&self, written: &WriteChange) -> Vec<u8> {
        match &written.url {
            Some(url) => self.key_of(&url.digest),
            None => self.marker(&written.place),
        }
    }

    pub(super) fn push(&self, stamp: Stamp) {
        let mut unstamped = self.unstamped.lock();
        self.is_behind.store(true, Ordering::SeqCst);
        let is_wide = !matches!(stamp, Stamp::Url { .. } | Stamp::Written(_));
        unstamped.waiting.push(stamp);
        if is_wide {
            unstamped.wide = unstamped.waiting.position();
        }
    }

    /// Returns the positions that have to be stamped for a caller that waits from now on.
    pub(super) fn until(&self, awaited: WaitScope) -> StampCounts {
        let last = self.unstamped.lock().waiting.position();
        let (stamps, written) = match awaited {
            WaitScope::Own => (0, 0),
            WaitScope::Purges => (last, 0),
            WaitScope::Writes => (last, last),
        };
        StampCounts { stamps, written }
    }

    pub(super) fn is_done(&self, until: &StampCounts) -> bool {
        let done = self.unstamped.lock().done;
        done.stamps >= until.stamps && done.written >= until.written
    }

    pub(super) fn is_behind(&self) -> bool {
        self.is_behind.load(Ordering::SeqCst)
    }

    /// Returns true if a purge that is not stamped yet may affect entries of this key: they must
    /// not be read then. Their tags are unknown before.
    pub(super) fn awaits(&self, key: &Key) -> bool {
        if !self.is_behind() {
            return false;
        }
        let unstamped = self.unstamped.lock();
        let mut ledgers = [&unstamped.waiting, &unstamped.sent].into_iter();
        unstamped.wide > unstamped.done.stamps
            || ledgers.any(|ledger| ledger.is_purged_since(0, key, &[]))
    }

    /// Returns the purges to be stamped next: all purges of operators, however many writes wait,
    /// and some of the writes. One round at a time.
    pub(super) fn round(&self) -> StampRound {
        let mut guard = self.unstamped.lock();
        let unstamped = &mut *guard;
        let (waiting, sent) = (&mut unstamped.waiting, &mut unstamped.sent);
        let stamps = waiting.position();
        while let Some(stamp) = waiting.pop_purge() {
            sent.push(stamp);
        }
        if sent.purges(Kind::Write).next().is_none() {
            let writes = iter::from_fn(|| waiting.pop_write());
            writes.take(WRITE_BATCH).for_each(|stamp| sent.push(stamp));
        }
        let written = waiting.purges(Kind::Write).next();
        let written = written.map_or(stamps, |(position, _)| position - 1);
        let of = |kind| sent.purges(kind).map(|(_, stamp)| stamp);
        let mut round = StampRound {
            stamps: of(Kind::Purge).chain(of(Kind::Prefix)).cloned().collect(),
            written: of(Kind::Write).filter_map(Stamp::written).collect(),
            until: StampCounts { stamps, written },
        };
        if round.written.is_empty() {
            unstamped.done.written = written;
        }
        if sent.floor > 0 || round.stamps.len() > MAX_SENT {
            // They get one position, so one purge of all has the same effect.
            round.stamps = vec![Stamp::All];
        }
        if round.stamps.is_empty() {
            unstamped.done.stamps = stamps;
        }
        round
    }

    /// Records that the purges of operators of a round are stamped.
    pub(super) fn stamped(&self, round: &StampRound) {
        let mut unstamped = self.unstamped.lock();
        while unstamped.sent.pop_purge().is_some() {}
        unstamped.done.stamps = round.until.stamps;
        self.tell(&unstamped);
    }

    /// Records that the writes of a round are stamped.
    pub(super) fn stamped_written(&self, round: &StampRound) {
        let mut unstamped = self.unstamped.lock();
        while unstamped.sent.pop_write().is_some() {}
        unstamped.done.written = round.until.written;
        self.tell(&unstamped);
    }

    fn tell(&self, unstamped: &UnstampedPurges) {
        if unstamped.waiting.is_empty() && unstamped.sent.is_empty() {
            self.is_behind.store(false, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::purge::PurgeTarget;

    fn key(path: &str) -> Key {
        Key::new("https", "shop", path.as_bytes(), None, b"")
    }

    fn finish(part: &PurgePartition, round: &StampRound) {
        part.stamped(round);
        part.stamped_written(round);
    }

    #[test]
    fn a_write_delays_the_responses_it_changes_and_nothing_else() {
        let part = PurgePartition::new("edgeway:", 0);
        let awaits = |part: &PurgePartition, path: &str| {
            let key = key(path);
            part.awaits(&key)
        };
        part.push(Stamp::of_key(&key("/a")));
        assert!(part.is_behind());
        assert_eq!((awaits(&part, "/a"), awaits(&part, "/b")), (true, false));
        let round = part.round();
        assert_eq!(round.written.len(), 1);
        assert!(awaits(&part, "/a"), "it is on its way");
        finish(&part, &round);
        assert_eq!((awaits(&part, "/a"), part.is_behind()), (false, false));
        for stamp in Stamp::for_target(&PurgeTarget::Written("https://shop/c/7".into())) {
            part.push(stamp);
        }
        for (path, is_held) in [("/c/7", true), ("/c/", true), ("/c/8", false), ("/", false)] {
            assert_eq!(awaits(&part, path), is_held, "{path}");
        }
    }

    #[test]
    fn purges_of_unknown_extent_delay_every_response() {
        let all = [
            PurgeTarget::All,
            PurgeTarget::Tag("t".into()),
            PurgeTarget::Prefix("/c".into()),
            PurgeTarget::Prefix("/c?".into()),
        ];
        let page = key("/a");
        for target in all {
            let part = PurgePartition::new("edgeway:", 0);
            part.push(Stamp::for_target(&target).remove(0));
            assert!(part.awaits(&page), "{target:?}");
        }
        let part = PurgePartition::new("edgeway:", 0);
        for n in 0..=MAX_SENT {
            assert!(!part.awaits(&page), "{n}");
            part.push(Stamp::for_target(&PurgeTarget::Url(format!("/{n}"))).remove(0));
        }
        part.push(Stamp::for_target(&PurgeTarget::Url("/a".into())).remove(0));
        assert!(part.awaits(&page));
    }

    #[test]
    fn too_many_purges_come_to_one_of_all() {
        let part = PurgePartition::new("edgeway:", 0);
        for n in 0..MAX_SENT + 10 {
            part.push(Stamp::for_target(&PurgeTarget::Url(format!("/{n}"))).remove(0));
        }
        assert_eq!(part.round().stamps, [Stamp::All]);
    }

    /// Invariant: a caller waits for all purges that came before, for none that comes after, and
    /// for writes only if it is one.
    #[test]
    fn waiters_wait_for_earlier_purges_and_for_no_more() {
        let mut random = fastrand::Rng::with_seed(edgeway_testkit::drawn());
        for _ in 0..20 {
            let part = PurgePartition::new("edgeway:", 0);
            let (mut number, mut waiting) = (0, Vec::new());
            // Positions of rounds, and the last one at which each purge was stamped.
            let (mut position, mut stamped) = (0_u64, Vec::new());
            let mut round: Option<(u64, StampRound)> = None;
            for _ in 0..random.usize(1..300) {
                match random.u8(..20) {
                    0..12 => {
                        number += 1;
                        part.push(Stamp::of_key(&key(&format!("/{number}"))));
                    }
                    12 => {
                        let at_once = match random.u8(..8) {
                            0 => random.usize(MAX_SENT..MAX_SENT + 3),
                            _ => random.usize(1..3),
                        };
                        for _ in 0..at_once {
                            number += 1;
                            let target = PurgeTarget::Url(format!("/{number}"));
                            part.push(Stamp::for_target(&target).remove(0));
                        }
                        let target = PurgeTarget::Url(format!("/{number}"));
                        let stamp = Stamp::for_target(&target).remove(0);
                        let until = part.until(WaitScope::Purges);
                        waiting.push((stamp, position, until));
                    }
                    13 | 14 if round.is_none() => {
                        position += 1;
                        round = Some((position, part.round()));
                    }
                    15..17 => {
                        if let Some((at, round)) = round.take() {
                            finish(&part, &round);
                            let stamps = round.stamps.into_iter();
                            stamped.extend(stamps.map(|stamp| (stamp, at)));
                        }
                    }
                    // It was dropped, or Redis did not respond.
                    17 => drop(round.take()),
                    _ => {}
                }
                waiting.retain(|(stamp, after, until)| {
                    let is_done = part.is_done(until);
                    let mut later = stamped.iter().filter(|(_, at)| at > after);
                    let is_stamped = later.any(|(it, _)| it == stamp || *it == Stamp::All);
                    assert_eq!(is_done, is_stamped, "{stamp:?}");
                    !is_done
                });
                stamped.retain(|(_, at)| waiting.iter().any(|(_, after, _)| at > after));
            }
            // One round is enough, however many writes wait.
            let round = part.round();
            finish(&part, &round);
            assert!(waiting.iter().all(|(.., until)| part.is_done(until)));
        }
    }

    #[test]
    fn writes_are_stamped_in_their_order() {
        let part = PurgePartition::new("edgeway:", 0);
        let write = |n: usize| part.push(Stamp::of_key(&key(&format!("/{n}"))));
        (0..WRITE_BATCH).for_each(write);
        let first = part.until(WaitScope::Writes);
        (0..10 * WRITE_BATCH).for_each(write);
        let second = part.until(WaitScope::Writes);
        assert!(!part.is_done(&first) && part.is_done(&part.until(WaitScope::Own)));
        let mut rounds = 0;
        while !part.is_done(&second) {
            finish(&part, &part.round());
            rounds += 1;
            assert!(part.is_done(&first));
        }
        assert_eq!((rounds, part.is_behind()), (10, false));
    }
}
