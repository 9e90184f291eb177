//! What is done with all files of a folder at once: which there are is found out, all are taken
//! away, and what was taken away is removed. Everything here blocks.
//!
//! A walk takes a while, and everything may be purged meanwhile: what is not there any more is
//! no error, and none of it comes into the index afterwards.

use std::{
    fs::{self, DirEntry, ReadDir},
    io,
    sync::atomic::{AtomicBool, Ordering},
    time::SystemTime,
};

use super::{
    index::Name,
    open::{Open, remove_file},
};

/// Files that come into the index at once.
const BATCH: usize = 1024;

/// Whether the index is complete.
#[derive(Debug, Default)]
pub(super) struct Walk {
    has_begun: AtomicBool,
    is_done: AtomicBool,
}

impl Open {
    pub(super) fn is_to_be_emptied(&self) -> bool {
        self.is_to_be_emptied.load(Ordering::SeqCst)
    }

    /// Takes all files away at once. What comes in from now on stays.
    pub(super) fn empty(&self) -> io::Result<()> {
        let changing = self.changing.lock();
        self.may_change()?;
        self.folder().discard_objects()?;
        self.index.lock().clear();
        self.is_to_be_emptied.store(false, Ordering::SeqCst);
        self.has_trash.store(true, Ordering::SeqCst);
        drop(changing);
        Ok(())
    }

    /// `true` for whoever is to sweep.
    pub(super) fn begin_to_sweep(&self) -> bool {
        self.has_trash.swap(false, Ordering::SeqCst)
    }

    /// Removes the files that were taken away.
    pub(super) fn sweep(&self) -> io::Result<()> {
        let Some(trash) = there(fs::read_dir(self.folder().trash()))? else {
            return Ok(());
        };
        each(trash, |entry| {
            self.may_change()?;
            there(fs::remove_dir_all(entry.path())).map(drop)
        })
    }

    /// `true` for whoever is to walk.
    pub(super) fn begin_to_walk(&self) -> bool {
        !self.walk.has_begun.swap(true, Ordering::SeqCst)
    }

    pub(super) fn is_walked(&self) -> bool {
        self.walk.is_done.load(Ordering::SeqCst)
    }

    /// Finds out which files there are, and removes what an earlier process left behind.
    /// Nothing may be written meanwhile.
    pub(super) fn walk(&self) -> io::Result<()> {
        let outcome = self.walk_all();
        if outcome.is_err() {
            self.walk.has_begun.store(false, Ordering::SeqCst);
        }
        outcome
    }

    fn walk_all(&self) -> io::Result<()> {
        self.sweep()?;
        let cleared = self.index.lock().cleared();
        let mut found = self.find()?;
        found.sort_unstable_by_key(|(at, _, _)| *at);
        let mut number = found.len() as u64;
        while !found.is_empty() {
            let batch = found.split_off(found.len().saturating_sub(BATCH));
            let mut index = self.index.lock();
            if index.cleared() != cleared {
                // All of it went, and nothing has come since.
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

    /// The files of entries, with the time of their last use and their length.
    fn find(&self) -> io::Result<Vec<(SystemTime, Name, u64)>> {
        let mut found = Vec::new();
        // Only while nothing changes it is sure to be there.
        let changing = self.changing.lock();
        let folders = fs::read_dir(self.folder().objects())?;
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
                if let Some(name) = Name::parse(&text) {
                    if let Some(data) = there(file.metadata())? {
                        found.push((data.modified()?, name, data.len()));
                    }
                } else if text.ends_with(".tmp") || Name::is_old(&text) {
                    let _changing = self.changing.lock();
                    self.may_change()?;
                    remove_file(&file.path())?;
                }
                Ok(())
            })
        })?;
        Ok(found)
    }
}

fn each(entries: ReadDir, mut see: impl FnMut(DirEntry) -> io::Result<()>) -> io::Result<()> {
    for entry in entries {
        // A folder that was removed since it was opened has no more.
        let Some(entry) = there(entry)? else {
            break;
        };
        see(entry)?;
    }
    Ok(())
}

/// `None` for what is not there any more.
fn there<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        outcome => outcome.map(Some),
    }
}
