//! A stored body as a file in memory, which the kernel sends to clients without copying it
//! (`sendfile`).
//!
//! The kernel copies a body that is in the gateway's own memory for each client. For 64 KiB that is
//! half of what such a response costs, and more while other processes use the machine's memory. A
//! file takes memory a second time, and counts as one of the files that the process may open: only
//! bodies that clients without TLS request often have one, and only so many.

use std::{
    io::{self, Write},
    ops::RangeInclusive,
    os::fd::OwnedFd,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use edgeway_base::{descriptors, system};

use super::{body::WholeBody, memory::MemoryLedger};

/// Lengths of the bodies that may have a file. For shorter ones, the further system call costs as
/// much as the copy; longer ones would take most of what all files may take.
const LENGTHS: RangeInclusive<u64> = 48 * 1024..=1024 * 1024;
/// Number of hits after which a file is worthwhile: making it costs as much as some copies.
const MIN_HITS: u32 = 16;
/// Part of the budget that all files together may take.
const SHARE: u64 = 8;
/// Most files, if the process may open enough.
const MAX_FILES: u32 = 4096;
/// Failures in a row after which no more files are made.
const MAX_FAILURES: u32 = 8;
const PAGE: u64 = 4096;

/// Account of the files of a store.
#[derive(Debug, Default)]
pub(super) struct FileAccount {
    files: AtomicU32,
    bytes: AtomicU64,
    /// Failures since a file was made.
    failures: AtomicU32,
}

/// Place of a file in the account. Dropping it gives the place back.
#[derive(Debug)]
struct FilePlace {
    ledger: &'static MemoryLedger,
    bytes: u64,
}

impl Drop for FilePlace {
    fn drop(&mut self) {
        let account = &self.ledger.files;
        account.files.fetch_sub(1, Ordering::Relaxed);
        account.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The file of a body. Nothing can change what it contains.
#[derive(Debug)]
pub(super) struct BodyFile {
    pub(super) file: Arc<OwnedFd>,
    place: FilePlace,
}

impl BodyFile {
    /// Returns the bytes of the file in memory.
    pub(super) fn size(&self) -> u64 {
        self.place.bytes
    }

    /// Makes a file of `body`. `None` if all files together take as much as they may.
    ///
    /// # Errors
    /// The process can open no more files, or this system has no files in memory.
    pub(super) fn make(
        ledger: &'static MemoryLedger,
        body: &WholeBody,
    ) -> io::Result<Option<Self>> {
        let bytes = body.len().next_multiple_of(PAGE);
        let account = &ledger.files;
        let has_room = account.has_room(ledger, bytes);
        account.files.fetch_add(1, Ordering::Relaxed);
        account.bytes.fetch_add(bytes, Ordering::Relaxed);
        let place = FilePlace { ledger, bytes };
        if !has_room {
            return Ok(None);
        }
        let result = write(body);
        match &result {
            Ok(_) => account.failures.store(0, Ordering::Relaxed),
            Err(_) => {
                account.failures.fetch_add(1, Ordering::Relaxed);
            }
        }
        let file = Arc::new(result?);
        Ok(Some(Self { file, place }))
    }
}

/// Returns true if a file for `body`, which has had this many hits, is worthwhile and possible.
pub(super) fn is_wanted(ledger: &MemoryLedger, body: &WholeBody, hits: u32) -> bool {
    hits >= MIN_HITS
        && ledger.files.failures.load(Ordering::Relaxed) < MAX_FAILURES
        && ledger
            .files
            .has_room(ledger, body.len().next_multiple_of(PAGE))
}

/// Returns true if a body of this length may have a file.
pub fn may_have_file(length: u64) -> bool {
    LENGTHS.contains(&length)
}

impl FileAccount {
    /// Returns true if a file for a body of this length is possible. Several that are made at the
    /// same time may exceed the limits by one each.
    fn has_room(&self, ledger: &MemoryLedger, bytes: u64) -> bool {
        let budget = MemoryLedger::get(&ledger.budget);
        self.files.load(Ordering::Relaxed) < *MOST_FILES
            && self.bytes.load(Ordering::Relaxed) + bytes <= budget / SHARE
    }

    /// Forgets failures.
    pub(super) fn renew(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn counted(&self) -> (u32, u64) {
        let bytes = self.bytes.load(Ordering::Relaxed);
        (self.files.load(Ordering::Relaxed), bytes)
    }
}

/// Most files of bodies: a sixteenth of the files that the process may open.
static MOST_FILES: LazyLock<u32> = LazyLock::new(|| descriptors::part(16, MAX_FILES));

fn write(body: &WholeBody) -> io::Result<OwnedFd> {
    let mut file = system::memory_file("edgeway-response")?;
    for segment in body.segments() {
        file.write_all(segment)?;
    }
    system::seal(&file)?;
    Ok(file.into())
}
