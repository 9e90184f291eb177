//! A folder that this process has, with all that is in it. Everything here that touches files
//! blocks.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use rustix::fs::OFlags;

use super::{
    super::{coded::Decoded, stamps::Stamp, time_to_live},
    changed::Changed,
    folder::{Folder, OpenError, make},
    index::{Index, Name},
    journal::{AppendError, Found, Journal, Record},
    late,
    ledger::{Ledger, Pending},
    metrics::Dropped,
    object,
    walk::Walk,
};
use crate::cache::{key::Key, policy::Vary, purge::Position, store::Entry};

/// The length of a journal.
const JOURNAL: u64 = 4 << 20;
/// What a head may have beside the body.
const MOST_HEAD: u64 = 1 << 20;
/// Files that go in one go for a smaller budget.
const BATCH: usize = 1024;
/// The clock may have been set back since an answer came. Beyond this nobody knows how old it is.
const AHEAD: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub(super) struct Open {
    folder: Folder,
    journal: Mutex<Journal>,
    pub(super) ledger: Mutex<Ledger>,
    pub(super) index: Mutex<Index>,
    /// What writes have changed.
    pub(super) changed: Changed,
    /// Names in the folder are changed by one at a time.
    pub(super) changing: Mutex<()>,
    /// How many records are in the journal for good, and the last position among them.
    synced: AtomicU64,
    synced_position: AtomicU64,
    /// Everything is purged, and the files are still there.
    pub(super) is_to_be_emptied: AtomicBool,
    pub(super) has_trash: AtomicBool,
    pub(super) walk: Walk,
    /// Those of the ledger, for requests.
    varies: ArcSwap<Vec<Vary>>,
    /// Another process may have the folder by now.
    is_closed: AtomicBool,
}

/// What came of reading.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) decoded: Option<Decoded>,
    pub(super) bytes: u64,
    pub(super) dropped: Vec<Dropped>,
}

impl Open {
    /// Takes the folder, and reads what is remembered of purges. Without that, nothing that
    /// is there counts.
    pub(super) fn take(root: &Path) -> Result<Self, OpenError> {
        let folder = Folder::open(root)?;
        let path = folder.base().join("journal");
        let failed = |what| {
            let path = path.clone();
            move |source| OpenError::Io { what, path, source }
        };
        let known = match Journal::open(&path).map_err(failed("read"))? {
            Found::Whole(journal, records) => Ledger::read(records).map(|it| (journal, it)),
            Found::Lost => None,
        };
        let (journal, ledger) = if let Some(known) = known {
            known
        } else {
            // In this order: what is there is of no journal, even if this ends half way.
            folder
                .discard_objects()
                .map_err(failed("empty the folder of"))?;
            let ledger = Ledger::new(fastrand::u128(..));
            let mut journal =
                Journal::create(&path, JOURNAL, &ledger.records()).map_err(failed("write"))?;
            journal.sync().map_err(failed("write"))?;
            (journal, ledger)
        };
        let open = Self {
            varies: ArcSwap::from_pointee(ledger.varies().to_vec()),
            synced: AtomicU64::new(0),
            synced_position: AtomicU64::new(ledger.position()),
            // What an end between a purge of all and this leaves is purged all the same.
            is_to_be_emptied: AtomicBool::new(false),
            has_trash: AtomicBool::new(false),
            folder,
            journal: Mutex::new(journal),
            index: Mutex::default(),
            changed: Changed::new(ledger.written()),
            ledger: Mutex::new(ledger),
            changing: Mutex::default(),
            walk: Walk::default(),
            is_closed: AtomicBool::new(false),
        };
        open.take_late().map_err(failed("read what is beside"))?;
        Ok(open)
    }

    pub(super) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Lets others have the folder. What is read from now on is not removed.
    pub(super) fn close(&self) {
        if !self.is_closed.swap(true, Ordering::SeqCst) {
            // Who changes something now is waited for.
            let _changing = self.changing.lock();
            let _journal = self.journal.lock();
            self.folder.unlock();
        }
    }

    /// How many entries there are, and the bytes of their files.
    pub(super) fn count(&self) -> (usize, u64) {
        let index = self.index.lock();
        (index.len(), index.bytes())
    }

    pub(super) fn varies(&self) -> Arc<Vec<Vary>> {
        self.varies.load_full()
    }

    /// Of the journal: no other folder has the same.
    pub(super) fn id(&self) -> u128 {
        self.ledger.lock().id()
    }

    /// Of the last purge.
    pub(super) fn position(&self) -> u64 {
        self.ledger.lock().position()
    }

    pub(super) fn followed(&self) -> Option<Position> {
        self.ledger.lock().followed().cloned()
    }

    /// Everything up to this place in the log of purges is noted here.
    pub(super) fn follow(&self, position: Position) {
        self.ledger.lock().follow(position);
    }

    /// A purge begins: from now on nothing older that it is about is read. Gives its position.
    /// Does not block.
    pub(super) fn note(&self, stamp: &Stamp) -> u64 {
        let mut ledger = self.ledger.lock();
        let position = ledger.note(stamp);
        if let Stamp::Written(written) = stamp {
            self.changed.noted(written);
        }
        if *stamp == Stamp::All {
            self.is_to_be_emptied.store(true, Ordering::SeqCst);
        }
        position
    }

    /// How many records have to be in the journal for what was noted so far to survive.
    pub(super) fn noted(&self) -> u64 {
        self.ledger.lock().noted()
    }

    pub(super) fn is_synced(&self, noted: u64) -> bool {
        self.synced.load(Ordering::SeqCst) >= noted
    }

    /// Has everything that was noted survive the end of this process, and of the machine.
    pub(super) fn flush(&self) -> io::Result<()> {
        let mut journal = self.journal.lock();
        if self.is_closed.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let (pending, noted, position) = {
            let mut ledger = self.ledger.lock();
            if self.is_synced(ledger.noted()) {
                return Ok(());
            }
            (ledger.take_pending(), ledger.noted(), ledger.position())
        };
        if let Err(error) = self.put(&mut journal, &pending) {
            self.ledger.lock().give_back(pending);
            return Err(error);
        }
        if let Err(error) = journal.sync() {
            // What the disk has of it nobody knows, nor which of two journals.
            self.ledger.lock().give_back(Pending::WriteAnew(Vec::new()));
            return Err(error);
        }
        drop(journal);
        self.synced.fetch_max(noted, Ordering::SeqCst);
        self.synced_position.fetch_max(position, Ordering::SeqCst);
        Ok(())
    }

    fn put(&self, journal: &mut Journal, pending: &Pending) -> io::Result<()> {
        let all: Vec<Record>;
        let records = match pending {
            Pending::Append(records) => match journal.append(records) {
                Ok(()) => return Ok(()),
                Err(AppendError::Io(error)) => return Err(error),
                Err(AppendError::Full) => {
                    all = self.ledger.lock().records();
                    &all
                }
            },
            Pending::WriteAnew(records) => records,
        };
        match Journal::create(&self.folder.base().join("journal"), JOURNAL, records) {
            Ok(new) => {
                *journal = new;
                Ok(())
            }
            Err(error) => {
                // The old one is still in its place, with room for this: better nothing than
                // what was purged.
                let position = self.note(&Stamp::All);
                journal.append_last(position).map_err(|_| error)
            }
        }
    }

    pub(super) fn may_change(&self) -> io::Result<()> {
        if self.is_closed.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        Ok(())
    }

    pub(super) fn path(&self, name: Name) -> PathBuf {
        let (folder, file) = name.file();
        self.folder.objects().join(folder).join(file)
    }

    /// Those of `names` that may be there, the newest first where that is known.
    pub(super) fn candidates(&self, names: Vec<Name>) -> Vec<Name> {
        if self.is_walked() {
            self.index.lock().newest(&names)
        } else {
            names
        }
    }

    /// The first of `names` that may be used. What may not is removed.
    pub(super) fn read(
        &self,
        names: &[Name],
        key: &Key,
        max_object: u64,
        now: SystemTime,
    ) -> io::Result<Reading> {
        let mut reading = Reading::default();
        for name in names {
            let path = self.path(*name);
            let mut file = match open_for_reading(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.index.lock().remove(name);
                    continue;
                }
                opened => opened?,
            };
            let len = file.metadata()?.len();
            if len > max_object + MOST_HEAD {
                self.remove(*name, &file)?;
                reading.dropped.push(Dropped::Evicted);
                continue;
            }
            let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
            file.read_to_end(&mut bytes)?;
            reading.bytes += bytes.len() as u64;
            match self.judge(bytes.into(), key, now) {
                Ok(decoded) => {
                    // The order of use survives a restart in this way. Where it cannot, it is
                    // that of writing.
                    let _touched = file.set_modified(now);
                    reading.decoded = Some(decoded);
                    return Ok(reading);
                }
                Err(why) => {
                    self.remove(*name, &file)?;
                    reading.dropped.push(why);
                }
            }
        }
        Ok(reading)
    }

    fn judge(&self, bytes: Bytes, key: &Key, now: SystemTime) -> Result<Decoded, Dropped> {
        let id = self.ledger.lock().id();
        let (position, decoded) = object::decode(id, bytes, Some(key)).ok_or(Dropped::Damaged)?;
        let is_purged = |ledger: &Ledger| ledger.is_purged(position, key, &decoded.tags);
        if self.changed.has_staged(key) || is_purged(&self.ledger.lock()) {
            return Err(Dropped::Purged);
        }
        let ahead = decoded.lifetime.answered.duration_since(now);
        if ahead.is_ok_and(|ahead| ahead > AHEAD)
            || time_to_live(&decoded.lifetime, &decoded.headers, now).is_zero()
        {
            return Err(Dropped::Expired);
        }
        Ok(decoded)
    }

    /// Removes what was read, if nothing else has its place by now.
    pub(super) fn remove(&self, name: Name, read: &File) -> io::Result<()> {
        let path = self.path(name);
        let changing = self.changing.lock();
        if self.may_change().is_err() {
            return Ok(());
        }
        let is_same = fs::symlink_metadata(&path).is_ok_and(|found| {
            read.metadata()
                .is_ok_and(|own| (own.dev(), own.ino()) == (found.dev(), found.ino()))
        });
        if !is_same {
            return Ok(());
        }
        let removed = remove_file(&path);
        if removed.is_ok() {
            self.index.lock().remove(&name);
        }
        drop(changing);
        removed
    }

    /// Writes an entry that was asked for at `position`. `false` if a purge since then is
    /// about it; `None` if it cannot be written down.
    pub(super) fn write(
        &self,
        entry: &Entry,
        position: u64,
        budget: u64,
        dropped: &mut Vec<Dropped>,
    ) -> io::Result<Option<Stored>> {
        // A position that a crash could take back might be given to another purge.
        if position > self.synced_position.load(Ordering::SeqCst) {
            self.flush()?;
        }
        let id = {
            let ledger = self.ledger.lock();
            if ledger.is_unwritable(position, &entry.key, &entry.about.tags) {
                return Ok(Some(Stored::Purged));
            }
            ledger.id()
        };
        let Some(bytes) = object::encode(id, position, entry) else {
            return Ok(None);
        };
        let len = bytes.len() as u64;
        let name = Name::new(&entry.key, entry.variance);
        let path = self.path(name);
        let changing = self.changing.lock();
        self.may_change()?;
        if len > budget {
            return Ok(None);
        }
        self.make_room(len, budget, usize::MAX, dropped)?;
        let partial = path.with_extension("tmp");
        let written = write_new(&partial, &bytes).and_then(|()| fs::rename(&partial, &path));
        if let Err(error) = written {
            // The error that matters is the one given.
            let _removed = fs::remove_file(&partial);
            return Err(error);
        }
        self.index.lock().insert(name, len);
        drop(changing);
        self.learn(&entry.vary);
        Ok(Some(Stored::Bytes(len)))
    }

    fn learn(&self, vary: &Vary) {
        if matches!(vary, Vary::Nothing) || self.varies.load().contains(vary) {
            return;
        }
        let mut ledger = self.ledger.lock();
        if ledger.learn(vary) {
            self.varies.store(Arc::new(ledger.varies().to_vec()));
        }
    }

    /// Removes what goes first until so many bytes more are within the budget, which is `true`,
    /// or so many files went.
    fn make_room(
        &self,
        more: u64,
        budget: u64,
        files: usize,
        dropped: &mut Vec<Dropped>,
    ) -> io::Result<bool> {
        for _ in 0..files {
            let victim = self.index.lock().victim(more, budget);
            let Some(name) = victim else {
                return Ok(true);
            };
            let removed = remove_file(&self.path(name));
            let mut index = self.index.lock();
            if removed.is_ok() {
                index.remove(&name);
                dropped.push(Dropped::Evicted);
            } else {
                index.spare(&name);
            }
            drop(index);
            removed?;
        }
        Ok(self.index.lock().victim(more, budget).is_none())
    }

    /// The same for a budget that has become smaller, some files at a time. `true` once it is
    /// done.
    pub(super) fn shrink(&self, budget: u64, dropped: &mut Vec<Dropped>) -> io::Result<bool> {
        let _changing = self.changing.lock();
        self.may_change()?;
        self.make_room(0, budget, BATCH, dropped)
    }

    /// Takes up the purges of a process that had let go of the folder.
    pub(super) fn take_late(&self) -> io::Result<bool> {
        let found = late::read(&self.folder.late())?;
        for stamp in found.iter().flat_map(|(_, stamps)| stamps) {
            if self.heeds(stamp) {
                self.note(stamp);
            }
        }
        if found.is_empty() {
            return Ok(false);
        }
        self.flush()?;
        for (path, _) in &found {
            remove_file(path)?;
        }
        Ok(true)
    }

    /// Whether all works again, so many bytes written included.
    pub(super) fn probe(&self, len: u64) -> io::Result<()> {
        self.flush()?;
        let path = self.folder.objects().join("probe.tmp");
        let written = write_probe(&path, len);
        let removed = remove_file(&path);
        written.and(removed)
    }
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    Bytes(u64),
    Purged,
}

pub(super) fn open_for_reading(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
}

fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let created = match create_new(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(folder) = path.parent() {
                make(folder)?;
            }
            create_new(path)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            remove_file(path)?;
            create_new(path)
        }
        created => created,
    };
    created?.write_all(bytes)
}

fn write_probe(path: &Path, len: u64) -> io::Result<()> {
    remove_file(path)?;
    let mut file = create_new(path)?;
    io::copy(&mut io::repeat(b'x').take(len), &mut file)?;
    file.sync_data()
}

pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
