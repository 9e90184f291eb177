//! A part of level 2: the names of its keys, and the purges that are not stamped there yet.

use std::{
    collections::{HashSet, VecDeque},
    sync::atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;

use super::stamps::{self, Digest, Stamp, WriteChange};
use crate::{key::Key, purge::WaitScope};

/// Number of purges that wait for Redis. With more, the whole part will be purged.
const UNSTAMPED: usize = 4096;
/// Number of waiting writes, which any client can cause and which are queued separately. With more,
/// the first ones count.
const MAX_WRITTEN: usize = 1 << 16;
/// Number of writes that are sent in one round.
pub(super) const WRITE_BATCH: usize = 256;
/// Number of waiting purges that a read compares with its key; with more, it does not read.
const LOOKED_AT: usize = 64;

#[derive(Debug, Default)]
struct UnstampedPurge {
    stamps: VecDeque<Stamp>,
    written: HashSet<WriteChange>,
    /// The same in order.
    queue: VecDeque<WriteChange>,
    /// Writes that are being stamped.
    sent: HashSet<WriteChange>,
    /// Number of purges so far.
    came: StampCounts,
    /// Number of stamped purges.
    done: StampCounts,
}

/// Numbers of stamps: of operators, and of writes.
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
    /// Number of stamped purges at the end of the round.
    until: StampCounts,
}

impl StampRound {
    pub(super) fn is_empty(&self) -> bool {
        self.stamps.is_empty() && self.written.is_empty()
    }
}

impl UnstampedPurge {
    fn is_empty(&self) -> bool {
        self.stamps.is_empty() && self.written.is_empty() && self.sent.is_empty()
    }

    fn has(&self, written: &WriteChange) -> bool {
        self.written.contains(written) || self.sent.contains(written)
    }

    fn push_written(&mut self, written: WriteChange) {
        if self.written.len() < MAX_WRITTEN && self.written.insert(written) {
            self.queue.push_back(written);
            self.came.written += 1;
        }
    }

    fn push_stamp(&mut self, stamp: Stamp) {
        self.came.stamps += 1;
        if self.stamps.len() < UNSTAMPED {
            self.stamps.push_back(stamp);
        } else if self.stamps.back() != Some(&Stamp::All) {
            // One above the limit: purges being stamped now stay at the front, and this one gets a
            // later position. While it is being stamped, it is the only one.
            self.stamps.push_back(Stamp::All);
        }
    }
}

#[derive(Debug)]
pub(super) struct PurgePartition {
    /// Prefix of the part's keys.
    pub(super) prefix: String,
    pub(super) stamps: Vec<u8>,
    /// Key of the table with the last writes, by slots.
    pub(super) writes: Vec<u8>,
    unstamped: Mutex<UnstampedPurge>,
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
        if let Stamp::Written(written) = stamp {
            unstamped.push_written(written);
        } else {
            unstamped.push_stamp(stamp);
        }
    }

    /// Returns the count that has to be stamped for a caller that waits from now on.
    pub(super) fn until(&self, awaited: WaitScope) -> StampCounts {
        let came = self.unstamped.lock().came;
        let (stamps, written) = match awaited {
            WaitScope::Own => (0, 0),
            WaitScope::Purges => (came.stamps, 0),
            WaitScope::Writes => (came.stamps, came.written),
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

    /// Returns true if a purge that is not stamped yet may affect entries under this digest: they
    /// must not be read then. Their tags are unknown before.
    pub(super) fn awaits(&self, key: &Key, digest: &Digest) -> bool {
        if !self.is_behind() {
            return false;
        }
        let unstamped = self.unstamped.lock();
        let is_about = |stamp: &Stamp| match stamp {
            Stamp::Url { part, .. } => part == digest,
            _ => true,
        };
        let (stamps, is_written) = (&unstamped.stamps, || {
            let Stamp::Written(one) = Stamp::of_key(key) else {
                return false;
            };
            unstamped.has(&one) || unstamped.has(&WriteChange { url: None, ..one })
        });
        stamps.len() > LOOKED_AT || stamps.iter().any(is_about) || is_written()
    }

    /// Returns the purges to be stamped next: all purges of operators, however many writes wait,
    /// and some of the writes. One round at a time.
    pub(super) fn round(&self) -> StampRound {
        let mut guard = self.unstamped.lock();
        let unstamped = &mut *guard;
        if unstamped.sent.is_empty() {
            let count = unstamped.queue.len().min(WRITE_BATCH);
            for written in unstamped.queue.drain(..count) {
                unstamped.written.remove(&written);
                unstamped.sent.insert(written);
            }
        }
        if unstamped.stamps.len() > UNSTAMPED {
            // None of them is being stamped, so one purge of all has the same effect.
            unstamped.stamps.clear();
            unstamped.stamps.push_back(Stamp::All);
        }
        StampRound {
            stamps: unstamped.stamps.iter().cloned().collect(),
            written: unstamped.sent.iter().copied().collect(),
            until: StampCounts {
                stamps: unstamped.came.stamps,
                written: unstamped.came.written - unstamped.queue.len() as u64,
            },
        }
    }

    /// Records that the purges of operators of a round are stamped.
    pub(super) fn stamped(&self, round: &StampRound) {
        let mut unstamped = self.unstamped.lock();
        let count = round.stamps.len().min(unstamped.stamps.len());
        unstamped.stamps.drain(..count);
        unstamped.done.stamps = round.until.stamps;
        self.tell(&unstamped);
    }

    /// Records that the writes of a round are stamped.
    pub(super) fn stamped_written(&self, round: &StampRound) {
        let mut unstamped = self.unstamped.lock();
        unstamped.sent.clear();
        unstamped.done.written = round.until.written;
        self.tell(&unstamped);
    }

    fn tell(&self, unstamped: &UnstampedPurge) {
        if unstamped.is_empty() {
            self.is_behind.store(false, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{purge::PurgeTarget, tier::stamps::EntrySubject};

    fn key(path: &str) -> Key {
        Key::new("https", "shop", path.as_bytes(), None, b"")
    }

    fn finish(part: &PurgePartition, round: &StampRound) {
        part.stamped(round);
        part.stamped_written(round);
    }

    #[test]
    fn a_write_keeps_back_what_it_is_about_and_nothing_else() {
        let part = PurgePartition::new("edgeway:", 0);
        let awaits = |part: &PurgePartition, path: &str| {
            let key = key(path);
            part.awaits(&key, &EntrySubject::part_of(&key))
        };
        part.push(Stamp::of_key(&key("/a")));
        assert!(part.is_behind());
        assert_eq!((awaits(&part, "/a"), awaits(&part, "/b")), (true, false));
        let round = part.round();
        assert_eq!(round.written.len(), 1);
        assert!(awaits(&part, "/a"), "it is on its way");
        finish(&part, &round);
        assert_eq!((awaits(&part, "/a"), part.is_behind()), (false, false));
        for stamp in Stamp::of(&PurgeTarget::Written("https://shop/c/7".into())) {
            part.push(stamp);
        }
        for (path, is_held) in [("/c/7", true), ("/c/", true), ("/c/8", false), ("/", false)] {
            assert_eq!(awaits(&part, path), is_held, "{path}");
        }
    }

    #[test]
    fn what_may_be_about_anything_keeps_everything_back() {
        let all = [
            PurgeTarget::All,
            PurgeTarget::Tag("t".into()),
            PurgeTarget::Prefix("/c".into()),
            PurgeTarget::Prefix("/c?".into()),
        ];
        let page = key("/a");
        let digest = EntrySubject::part_of(&page);
        for what in all {
            let part = PurgePartition::new("edgeway:", 0);
            part.push(Stamp::of(&what).remove(0));
            assert!(part.awaits(&page, &digest), "{what:?}");
        }
        let part = PurgePartition::new("edgeway:", 0);
        for n in 0..=LOOKED_AT {
            assert!(!part.awaits(&page, &digest), "{n}");
            part.push(Stamp::of(&PurgeTarget::Url(format!("/{n}"))).remove(0));
        }
        assert!(part.awaits(&page, &digest));
    }

    #[test]
    fn too_many_purges_come_to_one_of_all() {
        let part = PurgePartition::new("edgeway:", 0);
        for n in 0..UNSTAMPED + 10 {
            part.push(Stamp::of(&PurgeTarget::Url(format!("/{n}"))).remove(0));
        }
        assert_eq!(part.round().stamps, [Stamp::All]);
    }

    /// Invariant: a caller waits for all purges that came before, for none that comes after, and
    /// for writes only if it is one.
    #[test]
    fn whoever_waits_waits_for_what_came_before_and_for_no_more() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
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
                            0 => random.usize(UNSTAMPED..UNSTAMPED + 3),
                            _ => random.usize(1..3),
                        };
                        for _ in 0..at_once {
                            number += 1;
                            let what = PurgeTarget::Url(format!("/{number}"));
                            part.push(Stamp::of(&what).remove(0));
                        }
                        let what = PurgeTarget::Url(format!("/{number}"));
                        let stamp = Stamp::of(&what).remove(0);
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
                    assert_eq!(is_done, is_stamped, "seed {seed}: {stamp:?}");
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

    /// Invariant: writes to other URLs, however many, do not keep back a stored entry.
    #[test]
    fn no_number_of_writes_comes_to_all() {
        let part = PurgePartition::new("edgeway:", 0);
        for n in 0..MAX_WRITTEN + 1000 {
            part.push(Stamp::of_key(&key(&format!("/{n}"))));
        }
        let page = key("/other");
        assert!(!part.awaits(&page, &EntrySubject::part_of(&page)));
        let mut sent = HashSet::new();
        while part.is_behind() {
            let round = part.round();
            assert!(round.stamps.is_empty() && round.written.len() <= WRITE_BATCH);
            finish(&part, &round);
            sent.extend(round.written);
        }
        assert_eq!(sent.len(), MAX_WRITTEN);
    }
}
