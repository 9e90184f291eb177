//! One part of level 2: where its keys lie, and the purges that are not stamped there yet.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;

use super::stamps::{Digest, Stamp};
use crate::cache::key::Key;

/// Purges that wait for Redis. With more, all of the part will be purged.
const UNSTAMPED: usize = 4096;
/// With more than that, a read does not look for those that are about it.
const LOOKED_AT: usize = 64;

#[derive(Debug)]
pub(super) struct Part {
    /// What its keys begin with.
    pub(super) prefix: String,
    pub(super) stamps: Vec<u8>,
    unstamped: Mutex<VecDeque<Stamp>>,
    /// Some purge is not stamped yet. Set and reset with the list locked.
    is_behind: AtomicBool,
    /// It has no stamps, so that nothing in it counts.
    pub(super) is_lost: AtomicBool,
}

impl Part {
    pub(super) fn new(prefix: &str, number: usize) -> Self {
        let prefix = format!("{prefix}cache:{{{number}}}:");
        Self {
            stamps: format!("{prefix}stamps").into_bytes(),
            prefix,
            unstamped: Mutex::default(),
            is_behind: AtomicBool::new(false),
            is_lost: AtomicBool::new(true),
        }
    }

    pub(super) fn key(&self, key: &Key) -> Vec<u8> {
        format!("{}{:032x}", self.prefix, key.hash()).into_bytes()
    }

    pub(super) fn push(&self, stamp: Stamp) {
        let mut unstamped = self.unstamped.lock();
        self.is_behind.store(true, Ordering::SeqCst);
        if unstamped.len() < UNSTAMPED {
            unstamped.push_back(stamp);
        } else if unstamped.back() != Some(&Stamp::All) {
            // One more, so that what is being stamped now is still at the front.
            unstamped.push_back(Stamp::All);
        }
    }

    pub(super) fn is_behind(&self) -> bool {
        self.is_behind.load(Ordering::SeqCst)
    }

    /// Whether a purge that is not stamped yet may be about what lies under this digest: it
    /// is not to be read then. Which tags it has is not known before.
    pub(super) fn awaits(&self, digest: &Digest) -> bool {
        if !self.is_behind() {
            return false;
        }
        let unstamped = self.unstamped.lock();
        let is_about = |stamp: &Stamp| match stamp {
            Stamp::Url { part, .. } => part == digest,
            Stamp::Everywhere(_) | Stamp::Prefix(_) | Stamp::All => true,
        };
        unstamped.len() > LOOKED_AT || unstamped.iter().any(is_about)
    }

    pub(super) fn unstamped(&self) -> Vec<Stamp> {
        self.unstamped.lock().iter().cloned().collect()
    }

    /// The first `count` are stamped.
    pub(super) fn stamped(&self, count: usize) {
        let mut unstamped = self.unstamped.lock();
        let count = count.min(unstamped.len());
        unstamped.drain(..count);
        if unstamped.is_empty() {
            self.is_behind.store(false, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{purge::What, tier::stamps::Subject};

    fn key(path: &str) -> Key {
        Key::new("https", "shop", path.as_bytes(), None, b"")
    }

    #[test]
    fn a_write_keeps_back_what_it_is_about_and_nothing_else() {
        let part = Part::new("edgeway:", 0);
        let [one, other] = ["/a", "/b"].map(|path| Subject::part_of(&key(path)));
        part.push(Stamp::of_key(&key("/a")));
        assert!(part.is_behind());
        assert_eq!((part.awaits(&one), part.awaits(&other)), (true, false));
        part.stamped(1);
        assert_eq!((part.awaits(&one), part.is_behind()), (false, false));
    }

    #[test]
    fn what_may_be_about_anything_keeps_everything_back() {
        let all = [
            What::All,
            What::Tag("t".into()),
            What::Prefix("/c".into()),
            What::Prefix("/c?".into()),
        ];
        for what in all {
            let part = Part::new("edgeway:", 0);
            part.push(Stamp::of(&what));
            assert!(part.awaits(&Subject::part_of(&key("/a"))), "{what:?}");
        }
        let part = Part::new("edgeway:", 0);
        for n in 0..=LOOKED_AT {
            assert!(!part.awaits(&Subject::part_of(&key("/a"))), "{n}");
            part.push(Stamp::of_key(&key(&format!("/{n}"))));
        }
        assert!(part.awaits(&Subject::part_of(&key("/a"))));
    }

    #[test]
    fn too_many_purges_come_to_one_of_all() {
        let part = Part::new("edgeway:", 0);
        for n in 0..UNSTAMPED + 10 {
            part.push(Stamp::of_key(&key(&format!("/{n}"))));
        }
        let unstamped = part.unstamped();
        assert_eq!(unstamped.len(), UNSTAMPED + 1);
        assert_eq!(unstamped.last(), Some(&Stamp::All));
    }
}
