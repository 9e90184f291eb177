//! Purges that a process knows of while it has no folder open: they wait for one. Once it has let
//! go of its folder for good and still finishes requests in flight, it leaves them in files for the
//! process that has the folder now.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;

use super::open::read_file;
use crate::{
    base::private_file,
    purge::{ledger::PurgeLedger, stamps::Stamp},
};

/// Purges to be recorded in a folder, or left for another process, and files that were left.
#[derive(Debug, Default)]
pub(super) struct DeferredPurges {
    /// Locked while a folder is opened and closed, so that no purge falls between.
    pub(super) waiting: Mutex<WaitingPurges>,
    /// Files that are known and were not taken over yet.
    left: Mutex<Vec<PathBuf>>,
}

#[derive(Debug, Default)]
pub(super) struct WaitingPurges {
    pub(super) purges: PurgeLedger,
    /// Folder for the files, once this process has let go.
    pub(super) folder: Option<PathBuf>,
}

impl DeferredPurges {
    pub(super) fn are_left_in_files(&self) -> bool {
        self.waiting.lock().folder.is_some()
    }

    /// Writes the waiting purges to a file. Purges that cannot be written wait for the next
    /// attempt. Blocks; one call at a time.
    pub(super) fn write(&self) -> io::Result<()> {
        let mut waiting = self.waiting.lock();
        let Some(folder) = waiting.folder.clone() else {
            return Ok(());
        };
        let stamps = waiting.purges.take();
        drop(waiting);
        if stamps.is_empty() {
            return Ok(());
        }
        let left = leave(&folder, &stamps);
        if left.is_err() {
            let waiting = &mut self.waiting.lock().purges;
            for stamp in stamps {
                waiting.push(stamp);
            }
        }
        self.left.lock().push(left?);
        Ok(())
    }

    /// Returns true if all files were taken over. Blocks.
    pub(super) fn is_taken_up(&self) -> bool {
        let mut left = self.left.lock().clone();
        left.retain(|path| !path.exists());
        let taken = left;
        let mut left = self.left.lock();
        left.retain(|path| !taken.contains(path));
        left.is_empty()
    }
}

/// Writes purges to a file. Returns the path; the file exists until another process takes it over.
pub(super) fn leave(folder: &Path, stamps: &[Stamp]) -> io::Result<PathBuf> {
    let path = folder.join(format!("{:032x}", fastrand::u128(..)));
    let payload = postcard::to_allocvec(stamps).expect("stamps are plain data");
    let mut bytes = crc32fast::hash(&payload).to_be_bytes().to_vec();
    bytes.extend_from_slice(&payload);
    private_file::write(&path, &bytes)?;
    Ok(path)
}

/// Reads all files that were left. An unreadable file may have been a purge of anything.
pub(super) fn read(folder: &Path) -> io::Result<Vec<(PathBuf, Vec<Stamp>)>> {
    let mut deferred = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        // The file is still being written; or its writer has died, and with it all that waited for
        // it.
        if path.extension().is_some() {
            continue;
        }
        let bytes = match read_file(&path, u64::MAX) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            // A pipe, for example.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => None,
            read => read?.1,
        };
        let stamps = bytes.and_then(|bytes| decode(&bytes));
        deferred.push((path, stamps.unwrap_or_else(|| vec![Stamp::All])));
    }
    Ok(deferred)
}

fn decode(bytes: &[u8]) -> Option<Vec<Stamp>> {
    let (checksum, payload) = bytes.split_first_chunk()?;
    if u32::from_be_bytes(*checksum) != crc32fast::hash(payload) {
        return None;
    }
    postcard::from_bytes(payload).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purges_that_cannot_be_written_wait() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join("late");
        let deferred = DeferredPurges::default();
        let stamp = |number| Stamp::Everywhere([number; 16]);
        let push = |stamp| deferred.waiting.lock().purges.push(stamp);
        deferred.waiting.lock().folder = Some(folder.clone());
        push(stamp(1));
        assert!(deferred.write().is_err() && deferred.is_taken_up());
        push(stamp(2));
        fs::create_dir(&folder).unwrap();
        deferred.write().unwrap();
        deferred.write().unwrap();
        let found = read(&folder).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].1, [stamp(1), stamp(2)]);
        assert!(!deferred.is_taken_up());
        fs::remove_file(&found[0].0).unwrap();
        assert!(deferred.is_taken_up());
    }

    #[test]
    fn files_left_are_found_and_a_damaged_one_purges_everything() {
        let folder = tempfile::tempdir().unwrap();
        let stamps = vec![
            Stamp::Everywhere([3; 16]),
            Stamp::Prefix(b"/a".as_slice().into()),
        ];
        let path = leave(folder.path(), &stamps).unwrap();
        assert_eq!(read(folder.path()).unwrap(), [(path.clone(), stamps)]);
        let bytes = fs::read(&path).unwrap();
        for len in 0..bytes.len() {
            fs::write(&path, &bytes[..len]).unwrap();
            let found = read(folder.path()).unwrap();
            assert_eq!(found, [(path.clone(), vec![Stamp::All])], "{len}");
        }
        fs::rename(&path, path.with_extension("1.new")).unwrap();
        assert_eq!(read(folder.path()).unwrap(), []);
    }
}
