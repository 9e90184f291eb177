//! A folder that this process has locked, with its content. All functions here that touch files
//! block.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use log::debug;
use parking_lot::Mutex;
use rustix::{
    fs::{OFlags, statvfs},
    io::Errno,
};

use super::{
    super::{codec::Decoded, stamps::Stamp, time_to_live},
    deferred_purges,
    folder::{Folder, OpenError, is_at, make},
    index::{BLOCK, FileName, Index},
    journal::{AppendError, Journal, Record},
    ledger::{DiskLedger, Pending},
    metrics::{RemovalReason, WriteOutcome},
    object,
    pending_changes::PendingChanges,
    walk::FolderWalk,
};
use crate::{key::Key, policy::Vary, purge::Position, store::Entry};

/// Length of the journal file.
pub(super) const JOURNAL: u64 = 4 << 20;
/// Bytes that the file of an entry may have in addition to the body.
const MAX_HEAD_LEN: u64 = 1 << 20;
/// Part of the file system's bytes, and of its files, that is left to other programs, and the most bytes
/// that this may be.
const RESERVE_PART: u64 = 20;
const RESERVE: u64 = 1 << 30;
/// Bytes that have to fit at least: with less room, the disk is full.
const PROBE: u64 = 256 << 10;
/// Number of files that are removed in one go after the budget was reduced.
const BATCH: usize = 1024;
/// Tolerance for a clock that was set back since a response arrived. Beyond this its age is
/// unknown.
const MAX_CLOCK_SKEW: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub(super) struct OpenDisk {
    pub(super) folder: Folder,
    journal: Mutex<Journal>,
    pub(super) ledger: Mutex<DiskLedger>,
    pub(super) index: Mutex<Index>,
    /// Purges caused by writes.
    pub(super) changed: PendingChanges,
    /// Held while names in the folder change: one change at a time.
    pub(super) changing: Mutex<()>,
    /// Number of durable records in the journal, and the last position among them.
    synced: AtomicU64,
    synced_position: AtomicU64,
    /// Bytes that entries may take, as of the last look at the file system.
    pub(super) last_budget: AtomicU64,
    /// Set while everything is purged and the files still exist.
    pub(super) is_to_be_emptied: AtomicBool,
    pub(super) has_trash: AtomicBool,
    pub(super) walk: FolderWalk,
    /// Copy of the ledger's lists, for requests.
    varies: ArcSwap<Vec<Vary>>,
    /// Set once another process may have the folder.
    is_closed: AtomicBool,
}

/// Result of reading.
#[derive(Debug, Default)]
pub(super) struct ReadOutcome {
    pub(super) decoded: Option<Decoded>,
    pub(super) bytes: u64,
    pub(super) dropped: Vec<RemovalReason>,
}

impl OpenDisk {
    /// Locks the folder, and reads the record of purges. Without that record no entry in the folder
    /// counts.
    pub(super) fn take(root: &Path) -> Result<Self, OpenError> {
        let folder = Folder::open(root)?;
        let path = folder.base.join("journal");
        let failed = |operation| OpenError::io(operation, &path);
        let existing = Journal::open(&path).map_err(failed("read"))?;
        let existing =
            existing.and_then(|(journal, records)| Some((journal, DiskLedger::read(records)?)));
        let (journal, ledger) = if let Some(existing) = existing {
            existing
        } else {
            // In this order: the entries belong to no journal, even if this is interrupted.
            folder
                .discard_objects()
                .map_err(failed("empty the folder of"))?;
            let ledger = DiskLedger::new(fastrand::u128(..));
            let mut journal =
                Journal::create(&path, JOURNAL, &ledger.records()).map_err(failed("write"))?;
            journal.sync().map_err(failed("write"))?;
            (journal, ledger)
        };
        let open = Self {
            varies: ArcSwap::from_pointee(ledger.varies.clone()),
            synced: AtomicU64::new(0),
            last_budget: AtomicU64::new(u64::MAX),
            synced_position: AtomicU64::new(ledger.purges.position()),
            // Files that a crash between a purge of all and their removal left are purged all the
            // same.
            is_to_be_emptied: AtomicBool::new(false),
            has_trash: AtomicBool::new(false),
            folder,
            journal: Mutex::new(journal),
            index: Mutex::default(),
            changed: PendingChanges::new(ledger.written()),
            ledger: Mutex::new(ledger),
            changing: Mutex::default(),
            walk: FolderWalk::default(),
            is_closed: AtomicBool::new(false),
        };
        open.take_deferred()
            .map_err(failed("read the files beside the journal of"))?;
        Ok(open)
    }

    /// Unlocks the folder for other processes. From now on files that are read are not removed.
    pub(super) fn close(&self) {
        if !self.is_closed.swap(true, Ordering::SeqCst) {
            // Waits for changes in progress.
            let _changing = self.changing.lock();
            let _journal = self.journal.lock();
            self.folder.unlock();
        }
    }

    /// Returns the number of entries, and the bytes of their files.
    pub(super) fn count(&self) -> (usize, u64) {
        let index = self.index.lock();
        (index.len(), index.bytes())
    }

    pub(super) fn varies(&self) -> Arc<Vec<Vary>> {
        self.varies.load_full()
    }

    /// Returns the id of the journal: no other folder has the same.
    pub(super) fn id(&self) -> u128 {
        self.ledger.lock().id
    }

    /// Returns the position of the last purge.
    pub(super) fn position(&self) -> u64 {
        self.ledger.lock().purges.position()
    }

    pub(super) fn followed(&self) -> Option<Position> {
        self.ledger.lock().followed.clone()
    }

    /// Records that all purges up to this position in the log of purges are known.
    pub(super) fn follow(&self, position: Position) {
        self.ledger.lock().follow(position);
    }

    /// Records a purge: from now on no older entry that it affects is read. Returns its position.
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

    /// Returns the number of records that have to be in the journal for all purges so far to
    /// survive.
    pub(super) fn noted(&self) -> u64 {
        self.ledger.lock().noted
    }

    pub(super) fn is_synced(&self, noted: u64) -> bool {
        self.synced.load(Ordering::SeqCst) >= noted
    }

    /// Makes all recorded purges survive the end of this process, and a power failure.
    pub(super) fn flush(&self) -> io::Result<()> {
        let mut journal = self.journal.lock();
        if self.is_closed.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let (pending, noted, position) = {
            let mut ledger = self.ledger.lock();
            if self.is_synced(ledger.noted) {
                return Ok(());
            }
            (
                ledger.take_pending(),
                ledger.noted,
                ledger.purges.position(),
            )
        };
        if let Err(error) = self.put(&mut journal, &pending) {
            self.ledger.lock().give_back(pending);
            return Err(error);
        }
        if let Err(error) = journal.sync() {
            // It is unknown which records the disk has, and which of two journals.
            self.ledger.lock().give_back(Pending::Rewrite(Vec::new()));
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
            Pending::Rewrite(records) => records,
        };
        match Journal::create(&self.folder.base.join("journal"), JOURNAL, records) {
            Ok(new) => {
                *journal = new;
                Ok(())
            }
            Err(error) => {
                // The old journal is still in place, with room for this record: it is better to
                // have no entries than purged ones.
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

    pub(super) fn path(&self, name: FileName) -> PathBuf {
        let (folder, file) = name.file();
        self.folder.objects().join(folder).join(file)
    }

    /// Returns the ones among `names` that may exist, the newest first if that is known.
    pub(super) fn candidates(&self, names: Vec<FileName>) -> Vec<FileName> {
        if self.is_walked() {
            self.index.lock().newest(&names)
        } else {
            names
        }
    }

    /// Returns the first of `names` that may be used. Unusable ones before it are removed.
    pub(super) fn read(
        &self,
        names: &[FileName],
        key: &Key,
        max_object: u64,
        now: SystemTime,
    ) -> io::Result<ReadOutcome> {
        let mut reading = ReadOutcome::default();
        for name in names {
            let (file, bytes) = match read_file(&self.path(*name), max_object + MAX_HEAD_LEN) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.index.lock().remove(name);
                    continue;
                }
                Err(error) => {
                    self.discard(*name, error)?;
                    reading.dropped.push(RemovalReason::Damaged);
                    continue;
                }
            };
            let judged = match bytes {
                Some(bytes) => {
                    reading.bytes += bytes.len() as u64;
                    self.judge(bytes.into(), key, now)
                }
                None => Err(RemovalReason::Evicted),
            };
            match judged {
                Ok(decoded) => {
                    // This makes the order of use survive a restart. If it fails, the order of
                    // writing counts.
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

    /// Removes what has the name of an entry and cannot be read. Returns `error` if that is not the
    /// fault of this file alone.
    pub(super) fn discard(&self, name: FileName, error: io::Error) -> io::Result<()> {
        let path = self.path(name);
        let _changing = self.changing.lock();
        if self.may_change().is_err() {
            return Ok(());
        }
        let is_of_process = [Errno::MFILE, Errno::NFILE, Errno::NOMEM]
            .map(|errno| Some(errno.raw_os_error()))
            .contains(&error.raw_os_error());
        let about = match fs::symlink_metadata(&path) {
            Ok(about) if !is_of_process => about,
            _ => return Err(error),
        };
        debug!(file:% = path.display(), error:%; "cache entry on disk cannot be read");
        let removed = if about.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        // What stays takes its room, and is one miss for each request.
        if removed.is_ok() {
            self.index.lock().remove(&name);
        }
        Ok(())
    }

    fn judge(&self, bytes: Bytes, key: &Key, now: SystemTime) -> Result<Decoded, RemovalReason> {
        let id = self.ledger.lock().id;
        let (position, decoded) =
            object::decode(id, bytes, Some(key)).ok_or(RemovalReason::Damaged)?;
        let is_purged = |ledger: &DiskLedger| {
            let purges = &ledger.purges;
            purges.is_purged_since(position, key, &decoded.tags)
        };
        if self.changed.has_staged(key) || is_purged(&self.ledger.lock()) {
            return Err(RemovalReason::Purged);
        }
        let ahead = decoded.lifetime.response_time.duration_since(now);
        if ahead.is_ok_and(|ahead| ahead > MAX_CLOCK_SKEW)
            || time_to_live(&decoded.lifetime, &decoded.headers, now).is_zero()
        {
            return Err(RemovalReason::Expired);
        }
        Ok(decoded)
    }

    /// Removes a file that was read, unless it has been replaced since.
    pub(super) fn remove(&self, name: FileName, read: &File) -> io::Result<()> {
        let path = self.path(name);
        let changing = self.changing.lock();
        if self.may_change().is_err() {
            return Ok(());
        }
        if !is_at(read, &path) {
            return Ok(());
        }
        let removed = remove_file(&path);
        if removed.is_ok() {
            self.index.lock().remove(&name);
        }
        drop(changing);
        removed
    }

    /// Returns the bytes that entries may take: `size`, or less where the file system would have no
    /// room for others, such as the logs.
    fn budget(&self, size: u64) -> io::Result<u64> {
        let space = statvfs(&self.folder.base)?;
        let bytes = |blocks: u64| blocks.saturating_mul(space.f_frsize);
        let reserve = (bytes(space.f_blocks) / RESERVE_PART).min(RESERVE);
        let mut room = bytes(space.f_bavail).cast_signed() - reserve.cast_signed();
        if space.f_files > 0 {
            let reserve = space.f_files / RESERVE_PART;
            let files = space.f_favail.cast_signed() - reserve.cast_signed();
            room = room.min(files.saturating_mul(BLOCK.cast_signed()));
        }
        let budget = self.count().1.saturating_add_signed(room).min(size);
        self.last_budget.store(budget, Ordering::Relaxed);
        Ok(budget)
    }

    /// Same as [`OpenDisk::budget`], with an error if there is no room for anything.
    fn budget_or_full(&self, size: u64) -> io::Result<u64> {
        let budget = self.budget(size)?;
        if budget < PROBE.min(size) {
            return Err(Errno::NOSPC.into());
        }
        Ok(budget)
    }

    /// Writes an entry that was requested at `position`. Returns the number of bytes, or the outcome
    /// if it was not written: a purge since then affects it, it cannot be encoded, or it is larger
    /// than the budget.
    pub(super) fn write(
        &self,
        entry: &Entry,
        position: u64,
        size: u64,
        dropped: &mut Vec<RemovalReason>,
    ) -> io::Result<Result<u64, WriteOutcome>> {
        // A position that a crash could revert might be assigned to another purge.
        if position > self.synced_position.load(Ordering::SeqCst) {
            self.flush()?;
        }
        let id = {
            let ledger = self.ledger.lock();
            if ledger
                .purges
                .is_unwritable(position, entry.key(), entry.tags())
            {
                return Ok(Err(WriteOutcome::Purged));
            }
            ledger.id
        };
        let Some(bytes) = object::encode(id, position, entry) else {
            return Ok(Err(WriteOutcome::Error));
        };
        let len = bytes.len() as u64;
        let name = FileName::new(entry.key(), entry.variance());
        let path = self.path(name);
        let changing = self.changing.lock();
        self.may_change()?;
        let budget = self.budget_or_full(size)?;
        if len > budget {
            return Ok(Err(WriteOutcome::Error));
        }
        self.make_room(len, budget, usize::MAX, dropped)?;
        let partial = path.with_extension("tmp");
        let written = write_new(&partial, &bytes).and_then(|()| fs::rename(&partial, &path));
        if let Err(error) = written {
            // The error that matters is the returned one.
            let _removed = fs::remove_file(&partial);
            return Err(error);
        }
        self.index.lock().insert(name, len);
        drop(changing);
        self.learn(entry.vary());
        Ok(Ok(len))
    }

    fn learn(&self, vary: &Vary) {
        if matches!(vary, Vary::Nothing) || self.varies.load().contains(vary) {
            return;
        }
        let mut ledger = self.ledger.lock();
        if ledger.learn(vary) {
            self.varies.store(Arc::new(ledger.varies.clone()));
        }
    }

    /// Removes entries in the order of eviction until `more` bytes fit into the budget, or until
    /// this number of files is removed. Returns `true` in the first case.
    fn make_room(
        &self,
        more: u64,
        budget: u64,
        files: usize,
        dropped: &mut Vec<RemovalReason>,
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
                dropped.push(RemovalReason::Evicted);
            } else {
                index.spare(&name);
            }
            drop(index);
            removed?;
        }
        Ok(self.index.lock().victim(more, budget).is_none())
    }

    /// Same as [`OpenDisk::make_room`] after the budget was reduced, some files at a time. Returns
    /// `true` once it is done.
    pub(super) fn shrink(&self, size: u64, dropped: &mut Vec<RemovalReason>) -> io::Result<bool> {
        let _changing = self.changing.lock();
        self.may_change()?;
        self.make_room(0, self.budget(size)?, BATCH, dropped)
    }

    /// Takes over the purges of a process that had let go of the folder. Returns true if there were
    /// any.
    pub(super) fn take_deferred(&self) -> io::Result<bool> {
        let deferred = deferred_purges::read(&self.folder.deferred())?;
        for stamp in deferred.iter().flat_map(|(_, stamps)| stamps) {
            if self.heeds(stamp) {
                self.note(stamp);
            }
        }
        if deferred.is_empty() {
            return Ok(false);
        }
        self.flush()?;
        for (path, _) in &deferred {
            remove_file(path)?;
        }
        Ok(true)
    }

    /// Checks that the disk works again, and has room within `size`.
    pub(super) fn probe(&self, size: u64) -> io::Result<()> {
        self.flush()?;
        self.budget_or_full(size)?;
        let path = self.folder.objects().join("probe.tmp");
        let written = write_probe(&path);
        let removed = remove_file(&path);
        written.and(removed)
    }
}

/// Reads a file, unless it is longer than `max`. An error if it is something else: a pipe would
/// block.
pub(super) fn read_file(path: &Path, max: u64) -> io::Result<(File, Option<Vec<u8>>)> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    let about = file.metadata()?;
    if !about.is_file() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    if about.len() > max {
        return Ok((file, None));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(about.len()).unwrap_or(0));
    file.read_to_end(&mut bytes)?;
    Ok((file, Some(bytes)))
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

fn write_probe(path: &Path) -> io::Result<()> {
    remove_file(path)?;
    let mut file = create_new(path)?;
    io::copy(&mut io::repeat(b'x').take(PROBE), &mut file)?;
    file.sync_data()
}

pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
