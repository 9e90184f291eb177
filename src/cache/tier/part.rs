//! One part of level 2: where its keys lie, and the purges that are not stamped there yet.

use std::{
    collections::{HashSet, VecDeque},
    sync::atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;

use super::stamps::{self, Digest, Stamp, Written};
use crate::cache::key::Key;

/// Purges that wait for Redis. With more, all of the part will be purged.
const UNSTAMPED: usize = 4096;
/// What writes have changed, which anybody can cause and which waits apart. With more, what
/// comes first is told.
const MAX_WRITTEN: usize = 1 << 16;
/// How many of those go at once.
pub(super) const WRITTEN_AT_ONCE: usize = 256;
/// With more than that, a read does not look for those that are about it.
const LOOKED_AT: usize = 64;

#[derive(Debug, Default)]
struct Unstamped {
    stamps: VecDeque<Stamp>,
    written: HashSet<Written>,
    /// Those of `written` that are on their way.
    sent: HashSet<Written>,
}

impl Unstamped {
    fn is_empty(&self) -> bool {
        self.stamps.is_empty() && self.written.is_empty() && self.sent.is_empty()
    }

    fn has(&self, written: &Written) -> bool {
        self.written.contains(written) || self.sent.contains(written)
    }
}

#[derive(Debug)]
pub(super) struct Part {
    /// What its keys begin with.
    pub(super) prefix: String,
    pub(super) stamps: Vec<u8>,
    /// When something was written to last, by slots.
    pub(super) writes: Vec<u8>,
    unstamped: Mutex<Unstamped>,
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
            writes: format!("{prefix}writes").into_bytes(),
            prefix,
            unstamped: Mutex::default(),
            is_behind: AtomicBool::new(false),
            is_lost: AtomicBool::new(true),
        }
    }

    /// Where all entries of a key's URL lie.
    pub(super) fn key(&self, key: &Key) -> Vec<u8> {
        self.key_of(&stamps::origin(key))
    }

    fn key_of(&self, url: &Digest) -> Vec<u8> {
        format!("{}{:032x}", self.prefix, u128::from_be_bytes(*url)).into_bytes()
    }

    /// What says that there is something of a host and path here. Without it, nothing of that
    /// counts.
    pub(super) fn marker(&self, place: &Digest) -> Vec<u8> {
        format!("{}p{:032x}", self.prefix, u128::from_be_bytes(*place)).into_bytes()
    }

    /// What goes for a write.
    pub(super) fn doomed(&self, written: &Written) -> Vec<u8> {
        match &written.url {
            Some(url) => self.key_of(&url.digest),
            None => self.marker(&written.place),
        }
    }

    pub(super) fn push(&self, stamp: Stamp) {
        let mut unstamped = self.unstamped.lock();
        self.is_behind.store(true, Ordering::SeqCst);
        let stamps = &mut unstamped.stamps;
        if let Stamp::Written(written) = stamp {
            if unstamped.written.len() < MAX_WRITTEN {
                unstamped.written.insert(written);
            }
        } else if stamps.len() < UNSTAMPED {
            stamps.push_back(stamp);
        } else if stamps.back() != Some(&Stamp::All) {
            // One more, so that what is being stamped now is still at the front.
            stamps.push_back(Stamp::All);
        }
    }

    pub(super) fn is_behind(&self) -> bool {
        self.is_behind.load(Ordering::SeqCst)
    }

    /// Whether a purge that is not stamped yet may be about what lies under this digest: it
    /// is not to be read then. Which tags it has is not known before.
    pub(super) fn awaits(&self, key: &Key, digest: &Digest) -> bool {
        if !self.is_behind() {
            return false;
        }
        let unstamped = self.unstamped.lock();
        let is_about = |stamp: &Stamp| match stamp {
            Stamp::Url { part, .. } => part == digest,
            Stamp::Everywhere(_) | Stamp::Prefix(_) | Stamp::All | Stamp::Written(_) => true,
        };
        let (stamps, is_written) = (&unstamped.stamps, || {
            let Stamp::Written(one) = Stamp::of_key(key) else {
                return false;
            };
            unstamped.has(&one) || unstamped.has(&Written { url: None, ..one })
        });
        stamps.len() > LOOKED_AT || stamps.iter().any(is_about) || is_written()
    }

    /// What is to be stamped next.
    pub(super) fn unstamped(&self) -> (Vec<Stamp>, Vec<Written>) {
        let mut unstamped = self.unstamped.lock();
        if unstamped.sent.is_empty() {
            let next = unstamped.written.iter().take(WRITTEN_AT_ONCE);
            let next: HashSet<_> = next.copied().collect();
            unstamped.written.retain(|written| !next.contains(written));
            unstamped.sent = next;
        }
        let stamps = unstamped.stamps.iter().cloned().collect();
        (stamps, unstamped.sent.iter().copied().collect())
    }

    /// The first `count` are stamped, and what writes have changed that was to be stamped
    /// with them.
    pub(super) fn stamped(&self, count: usize) {
        let mut unstamped = self.unstamped.lock();
        let count = count.min(unstamped.stamps.len());
        unstamped.stamps.drain(..count);
        unstamped.sent.clear();
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
        let awaits = |part: &Part, path: &str| {
            let key = key(path);
            part.awaits(&key, &Subject::part_of(&key))
        };
        part.push(Stamp::of_key(&key("/a")));
        assert!(part.is_behind());
        assert_eq!((awaits(&part, "/a"), awaits(&part, "/b")), (true, false));
        assert_eq!(part.unstamped().1.len(), 1);
        assert!(awaits(&part, "/a"), "it is on its way");
        part.stamped(0);
        assert_eq!((awaits(&part, "/a"), part.is_behind()), (false, false));
        for stamp in Stamp::of(&What::Written("https://shop/c/7".into())) {
            part.push(stamp);
        }
        for (path, is_held) in [("/c/7", true), ("/c/", true), ("/c/8", false), ("/", false)] {
            assert_eq!(awaits(&part, path), is_held, "{path}");
        }
    }

    #[test]
    fn what_may_be_about_anything_keeps_everything_back() {
        let all = [
            What::All,
            What::Tag("t".into()),
            What::Prefix("/c".into()),
            What::Prefix("/c?".into()),
        ];
        let page = key("/a");
        let digest = Subject::part_of(&page);
        for what in all {
            let part = Part::new("edgeway:", 0);
            part.push(Stamp::of(&what).remove(0));
            assert!(part.awaits(&page, &digest), "{what:?}");
        }
        let part = Part::new("edgeway:", 0);
        for n in 0..=LOOKED_AT {
            assert!(!part.awaits(&page, &digest), "{n}");
            part.push(Stamp::of(&What::Url(format!("/{n}"))).remove(0));
        }
        assert!(part.awaits(&page, &digest));
    }

    #[test]
    fn too_many_purges_come_to_one_of_all() {
        let part = Part::new("edgeway:", 0);
        for n in 0..UNSTAMPED + 10 {
            part.push(Stamp::of(&What::Url(format!("/{n}"))).remove(0));
        }
        let (unstamped, _) = part.unstamped();
        assert_eq!(unstamped.len(), UNSTAMPED + 1);
        assert_eq!(unstamped.last(), Some(&Stamp::All));
    }

    /// Whatever anybody writes to: what is stored of others is read all the while.
    #[test]
    fn no_number_of_writes_comes_to_all() {
        let part = Part::new("edgeway:", 0);
        for n in 0..MAX_WRITTEN + 1000 {
            part.push(Stamp::of_key(&key(&format!("/{n}"))));
        }
        let page = key("/other");
        assert!(!part.awaits(&page, &Subject::part_of(&page)));
        let mut sent = HashSet::new();
        while part.is_behind() {
            let (stamps, written) = part.unstamped();
            assert!(stamps.is_empty() && written.len() <= WRITTEN_AT_ONCE);
            sent.extend(written);
            part.stamped(0);
        }
        assert_eq!(sent.len(), MAX_WRITTEN);
    }
}
