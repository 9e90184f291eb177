//! Purges caused by writes. Any client can cause them, so a write is recorded only if something
//! stored may be affected by it, and the affected entries are removed soon after.
//!
//! While the folder is walked, its content is unknown. Up to a limit, writes are then recorded
//! without a check. The others are staged up to another limit: they are looked up at the end of the
//! walk, and until then no entry that they may affect is read.

use std::{collections::HashSet, io, mem};

use parking_lot::Mutex;

use super::{
    super::stamps::{self, Digest, Stamp, WriteChange},
    index::FileName,
    object,
    open::{OpenDisk, read_file},
};
use crate::{key::Key, store::Entry};

/// Number of writes that are recorded while it is unknown whether they affect anything.
const MAX_UNSEEN: usize = 10_000;
/// Number of staged writes.
const MAX_STAGED: usize = 1 << 17;

#[derive(Debug)]
pub(super) struct PendingChanges {
    /// Recorded writes whose entries are not removed yet. Changed with the ledger locked.
    noted: Mutex<HashSet<WriteChange>>,
    staged: Mutex<StagedChange>,
}

#[derive(Debug, Default)]
struct StagedChange {
    unseen: usize,
    written: HashSet<WriteChange>,
    digests: HashSet<Digest>,
}

impl PendingChanges {
    /// Starts with the writes that an earlier process recorded.
    pub(super) fn new(noted: impl Iterator<Item = WriteChange>) -> Self {
        Self {
            noted: Mutex::new(noted.collect()),
            staged: Mutex::default(),
        }
    }

    /// Adds a write. Called with the ledger locked.
    pub(super) fn noted(&self, written: &WriteChange) {
        self.noted.lock().insert(*written);
    }

    /// Returns true if a staged write may affect an entry of this key.
    pub(super) fn has_staged(&self, key: &Key) -> bool {
        let staged = self.staged.lock();
        let has = |digest: &Digest| staged.digests.contains(digest);
        !staged.digests.is_empty() && (has(&stamps::place(key)) || has(&stamps::origin(key)))
    }
}

/// Announcement that an entry is about to be written.
pub(super) struct WriteIntent<'a> {
    open: &'a OpenDisk,
    name: FileName,
}

impl Drop for WriteIntent<'_> {
    fn drop(&mut self) {
        self.open.index.lock().retract(&self.name);
    }
}

impl OpenDisk {
    /// Returns true if a purge has to be recorded. Only purges that any client can cause are looked
    /// up: all others are always recorded.
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
        if staged.unseen < MAX_UNSEEN || staged.written.len() >= MAX_STAGED {
            staged.unseen += 1;
            return true;
        }
        staged.written.insert(*written);
        staged.digests.insert(written.digest());
        false
    }

    /// Calls `tell`, which marks the index as complete, and looks up the staged writes.
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

    /// Announces that an entry is about to be written. Writes that affect the entry count until the
    /// announcement is dropped, and after that if the entry exists.
    pub(super) fn announce(&self, entry: &Entry) -> WriteIntent<'_> {
        let name = FileName::new(entry.key(), entry.variance());
        self.index.lock().announce(&name);
        WriteIntent { open: self, name }
    }

    pub(super) fn has_changed(&self) -> bool {
        self.is_walked() && !self.changed.noted.lock().is_empty()
    }

    /// Removes the entries that writes have changed. A write without entries left need not be
    /// remembered, however many clients write.
    pub(super) fn tidy(&self) -> io::Result<()> {
        let (position, noted) = {
            let ledger = self.ledger.lock();
            let noted = mem::take(&mut *self.changed.noted.lock());
            (ledger.purges.position(), noted)
        };
        let outcome = noted.iter().try_for_each(|written| {
            let names = self.index.lock().changed_by(written);
            let mut names = names.into_iter();
            names.try_for_each(|name| self.remove_if_purged(name))
        });
        if outcome.is_err() {
            self.changed.noted.lock().extend(noted);
        } else {
            self.ledger.lock().purges.tidied(position);
        }
        outcome
    }

    fn remove_if_purged(&self, name: FileName) -> io::Result<()> {
        let (file, bytes) = match read_file(&self.path(name), u64::MAX) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return self.discard(name, error),
        };
        let id = self.ledger.lock().id;
        let decoded = bytes.and_then(|bytes| object::decode(id, bytes.into(), None));
        let is_valid = decoded.is_some_and(|(position, decoded)| {
            let ledger = self.ledger.lock();
            !ledger
                .purges
                .is_purged_since(position, &decoded.key, &decoded.tags)
        });
        if is_valid {
            return Ok(());
        }
        self.remove(name, &file)
    }
}
