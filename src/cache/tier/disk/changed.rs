//! What writes have changed: anybody can cause that, so it is noted only where there is something
//! that it is about, and what it is about goes for good soon after.
//!
//! While the folder is walked nobody knows what there is. Then some are noted all the same, and
//! the others are staged: they are looked up at the end of the walk, and until then nothing that
//! they may be about is read.

use std::{
    collections::HashSet,
    io::{self, Read},
    mem,
};

use parking_lot::Mutex;

use super::{
    super::stamps::{self, Digest, Stamp, Written},
    index::Name,
    missed::MAX_WRITTEN,
    object,
    open::{Open, open_for_reading},
};
use crate::cache::{key::Key, store::Entry};

/// Noted while it is not known whether they are about anything.
const MAX_UNSEEN: usize = 10_000;

#[derive(Debug)]
pub(super) struct Changed {
    /// Noted and not tidied. Changed with the ledger locked.
    noted: Mutex<HashSet<Written>>,
    staged: Mutex<Staged>,
}

#[derive(Debug, Default)]
struct Staged {
    unseen: usize,
    written: HashSet<Written>,
    digests: HashSet<Digest>,
}

impl Changed {
    /// With those that an earlier process has noted.
    pub(super) fn new(noted: impl Iterator<Item = Written>) -> Self {
        Self {
            noted: Mutex::new(noted.collect()),
            staged: Mutex::default(),
        }
    }

    /// With the ledger locked.
    pub(super) fn noted(&self, written: &Written) {
        self.noted.lock().insert(*written);
    }

    /// Whether an entry of this key may be one of those that are staged.
    pub(super) fn has_staged(&self, key: &Key) -> bool {
        let staged = self.staged.lock();
        let has = |digest: &Digest| staged.digests.contains(digest);
        !staged.digests.is_empty() && (has(&stamps::place(key)) || has(&stamps::origin(key)))
    }
}

/// Says that an entry is about to be written.
pub(super) struct Announced<'a> {
    open: &'a Open,
    name: Name,
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        self.open.index.lock().retract(&self.name);
    }
}

impl Open {
    /// Whether a purge is to be noted. Only what anybody can cause is looked up: all others are
    /// in any case.
    pub(super) fn heeds(&self, stamp: &Stamp) -> bool {
        let Stamp::Written(written) = stamp else {
            return true;
        };
        if self.is_walked() {
            return self.index.lock().has(written);
        }
        let mut staged = self.changed.staged.lock();
        if self.is_walked() {
            drop(staged);
            return self.index.lock().has(written);
        }
        if staged.unseen < MAX_UNSEEN {
            staged.unseen += 1;
            return true;
        }
        if staged.written.len() < MAX_WRITTEN {
            staged.written.insert(*written);
            staged.digests.insert(written.digest());
        }
        false
    }

    /// The index is complete: `tell` says so to everybody else.
    pub(super) fn unstage(&self, tell: impl FnOnce()) {
        let mut staged = self.changed.staged.lock();
        tell();
        for written in mem::take(&mut *staged).written {
            let has = self.index.lock().has(&written);
            if has {
                self.note(&Stamp::Written(written));
            }
        }
    }

    /// An entry is about to be written: writes that are about it count until this is dropped,
    /// and from then on if it is there.
    pub(super) fn announce(&self, entry: &Entry) -> Announced<'_> {
        let name = Name::new(&entry.key, entry.variance);
        self.index.lock().announce(&name);
        Announced { open: self, name }
    }

    pub(super) fn has_changed(&self) -> bool {
        self.is_walked() && !self.changed.noted.lock().is_empty()
    }

    /// Removes what writes have changed. What nothing is left of need not be remembered any
    /// more, however many have written.
    pub(super) fn tidy(&self) -> io::Result<()> {
        let (position, noted) = {
            let ledger = self.ledger.lock();
            let noted = mem::take(&mut *self.changed.noted.lock());
            (ledger.position(), noted)
        };
        let outcome = noted.iter().try_for_each(|written| {
            let names = self.index.lock().of(written);
            let mut names = names.into_iter();
            names.try_for_each(|name| self.remove_if_purged(name))
        });
        if outcome.is_err() {
            self.changed.noted.lock().extend(noted);
        } else {
            self.ledger.lock().tidied(position);
        }
        outcome
    }

    fn remove_if_purged(&self, name: Name) -> io::Result<()> {
        let mut file = match open_for_reading(&self.path(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let id = self.ledger.lock().id();
        let is_kept = object::decode(id, bytes.into(), None).is_some_and(|(position, decoded)| {
            let ledger = self.ledger.lock();
            !ledger.is_purged(position, &decoded.key, &decoded.tags)
        });
        if is_kept {
            return Ok(());
        }
        self.remove(name, &file)
    }
}
