//! Work on all files of a folder at once: finding them, moving them all to the trash, and removing
//! the trash. All functions here block.
//!
//! A walk takes a while, and everything may be purged in the meantime: a vanished file is no error,
//! and none of the purged files enters the index afterwards.

use std::{
    fs::{self, DirEntry, ReadDir},
    io,
    sync::atomic::{AtomicBool, Ordering},
    time::SystemTime,
};

use super::{
    index::FileName,
    open::{OpenDisk, remove_file},
};

/// Number of files that are added to the index in one go.
const BATCH: usize = 1024;

/// State of the walk; the index is complete once it is done.
#[derive(Debug, Default)]
pub(super) struct FolderWalk {
    has_begun: AtomicBool,
    is_done: AtomicBool,
}

impl OpenDisk {
    pub(super) fn is_to_be_emptied(&self) -> bool {
        self.is_to_be_emptied.load(Ordering::SeqCst)
    }

    /// Moves all files to the trash at once. Files written from now on stay.
    pub(super) fn empty(&self) -> io::Result<()> {
        let changing = self.changing.lock();
        self.may_change()?;
        self.folder.discard_objects()?;
        self.index.lock().clear();
        self.is_to_be_emptied.store(false, Ordering::SeqCst);
        self.has_trash.store(true, Ordering::SeqCst);
        drop(changing);
        Ok(())
    }

    /// Claims the sweep; `true` for the one caller that has to do it.
    pub(super) fn begin_to_sweep(&self) -> bool {
        self.has_trash.swap(false, Ordering::SeqCst)
    }

    /// Removes the files in the trash.
    pub(super) fn sweep(&self) -> io::Result<()> {
        let Some(trash) = there(fs::read_dir(self.folder.trash()))? else {
            return Ok(());
        };
        each(trash, |entry| {
            self.may_change()?;
            there(fs::remove_dir_all(entry.path())).map(drop)
        })
    }

    /// Claims the walk; `true` for the one caller that has to do it.
    pub(super) fn begin_to_walk(&self) -> bool {
        !self.walk.has_begun.swap(true, Ordering::SeqCst)
    }

    pub(super) fn is_walked(&self) -> bool {
        self.walk.is_done.load(Ordering::SeqCst)
    }

    /// Finds all files, and removes leftovers of an earlier process. No entry may be written during
    /// the walk.
    pub(super) fn walk(&self) -> io::Result<()> {
        let outcome = self.walk_all();
        if outcome.is_err() {
            self.walk.has_begun.store(false, Ordering::SeqCst);
        }
        outcome
    }

    fn walk_all(&self) -> io::Result<()> {
        self.sweep()?;
        let cleared = self.index.lock().cleared;
        let mut files = self.find()?;
        files.sort_unstable_by_key(|(at, _, _)| *at);
        let mut number = files.len() as u64;
        while !files.is_empty() {
            let batch = files.split_off(files.len().saturating_sub(BATCH));
            let mut index = self.index.lock();
            if index.cleared != cleared {
                // All of them are gone, and no other entry was added since.
                break;
            }
            for (_, name, len) in batch.into_iter().rev() {
                index.insert_oldest(name, len, number);
                number -= 1;
            }
        }
        self.unstage(|| self.walk.is_done.store(true, Ordering::SeqCst));
        Ok(())
    }

    /// Returns the files of entries, with the time of their last use and their length.
    fn find(&self) -> io::Result<Vec<(SystemTime, FileName, u64)>> {
        let mut entries = Vec::new();
        // The folder certainly exists only while nothing changes.
        let changing = self.changing.lock();
        let folders = fs::read_dir(self.folder.objects())?;
        drop(changing);
        each(folders, |folder| {
            let is_folder = there(folder.file_type())?.is_some_and(|kind| kind.is_dir());
            if !is_folder {
                return Ok(());
            }
            let Some(files) = there(fs::read_dir(folder.path()))? else {
                return Ok(());
            };
            each(files, |file| {
                self.may_change()?;
                let text = file.file_name();
                let text = text.to_string_lossy();
                if let Some(name) = FileName::parse(&text) {
                    if let Some(data) = there(file.metadata())? {
                        entries.push((data.modified()?, name, data.len()));
                    }
                } else if text.ends_with(".tmp") || FileName::is_old(&text) {
                    let _changing = self.changing.lock();
                    self.may_change()?;
                    remove_file(&file.path())?;
                }
                Ok(())
            })
        })?;
        Ok(entries)
    }
}

fn each(entries: ReadDir, mut see: impl FnMut(DirEntry) -> io::Result<()>) -> io::Result<()> {
    for entry in entries {
        // A folder that was removed after it was opened has no more entries.
        let Some(entry) = there(entry)? else {
            break;
        };
        see(entry)?;
    }
    Ok(())
}

/// Returns `None` for a file that no longer exists.
fn there<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        outcome => outcome.map(Some),
    }
}
