//! The folder: what is where in it, that it is ours alone, and that one process has it.
//!
//! ```text
//! FOLDER/v1/lock                       held by the process that has the folder
//! FOLDER/v1/journal                    what is remembered of purges
//! FOLDER/v1/objects/ab/HASH-VARIANCE   one entry; with `.tmp` while it is written
//! FOLDER/v1/late/                      purges of a process that has let go already
//! FOLDER/v1/trash/                     what was dropped as a whole, on its way out
//! ```

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, OFlags, flock},
    process::geteuid,
};

use crate::base::private_file;

/// Of everything in it. Another layout has a folder of its own.
const VERSION: &str = "v1";

/// A folder that this process has.
#[derive(Debug)]
pub(super) struct Folder {
    base: PathBuf,
    lock: File,
}

/// Why a folder cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("another process has the folder")]
    Busy,
    #[error("`{}` {why}", path.display())]
    NotOurs { path: PathBuf, why: &'static str },
    #[error("cannot {what} `{}`: {source}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

impl OpenError {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

impl Folder {
    /// Makes the folder where there is none, and takes it.
    pub(super) fn open(root: &Path) -> Result<Self, OpenError> {
        private_file::make_folder(root).map_err(OpenError::io("make", root))?;
        // A link to it is fine: who makes the link could as well write its target.
        let found = fs::metadata(root).map_err(OpenError::io("look at", root))?;
        is_ours(root, &found, 0o022)?;
        let base = root.join(VERSION);
        make(&base).map_err(OpenError::io("make", &base))?;
        let found = fs::symlink_metadata(&base).map_err(OpenError::io("look at", &base))?;
        is_ours(&base, &found, 0o077)?;
        let path = base.join("lock");
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&path)
            .map_err(OpenError::io("open", &path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(OpenError::Busy),
            Err(error) => return Err(OpenError::io("lock", &path)(error.into())),
        }
        let folder = Self { base, lock };
        for below in [folder.objects(), folder.late(), folder.trash()] {
            make(&below).map_err(OpenError::io("make", &below))?;
        }
        // Somebody may have removed the folder since: then the lock is of nothing.
        if folder.is_there() {
            Ok(folder)
        } else {
            Err(OpenError::Io {
                what: "keep",
                path: root.to_owned(),
                source: io::ErrorKind::NotFound.into(),
            })
        }
    }

    /// Where purges are left for whoever has the folder.
    pub(super) fn late_in(root: &Path) -> PathBuf {
        root.join(VERSION).join("late")
    }

    /// Whether it is still the one that was taken.
    pub(super) fn is_there(&self) -> bool {
        let own = self.lock.metadata();
        let found = fs::symlink_metadata(self.base.join("lock"));
        match (own, found) {
            (Ok(own), Ok(found)) => (own.dev(), own.ino()) == (found.dev(), found.ino()),
            _ => false,
        }
    }

    /// Lets another process have it, whoever else has a copy of the lock's descriptor.
    pub(super) fn unlock(&self) {
        // With an error there is nothing that could be done: it ends with the process.
        let _unlocked = flock(&self.lock, FlockOperation::Unlock);
    }

    pub(super) fn base(&self) -> &Path {
        &self.base
    }

    pub(super) fn objects(&self) -> PathBuf {
        self.base.join("objects")
    }

    pub(super) fn late(&self) -> PathBuf {
        self.base.join("late")
    }

    pub(super) fn trash(&self) -> PathBuf {
        self.base.join("trash")
    }

    /// Puts all entries where nobody looks for them. They are there until
    /// somebody sweeps.
    pub(super) fn discard_objects(&self) -> io::Result<()> {
        make(&self.trash())?;
        let to = self.trash().join(format!("{:032x}", fastrand::u128(..)));
        fs::rename(self.objects(), to)?;
        make(&self.objects())
    }
}

/// Makes one folder for our own eyes, if it is not there.
pub(super) fn make(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// What others may write they may fill with answers of theirs. `forbidden` are the bits of
/// others.
fn is_ours(path: &Path, found: &fs::Metadata, forbidden: u32) -> Result<(), OpenError> {
    let not = |why| {
        let path = path.to_owned();
        Err(OpenError::NotOurs { path, why })
    };
    if !found.is_dir() {
        return not("is no folder");
    }
    if found.uid() != geteuid().as_raw() {
        return not("belongs to another user");
    }
    if found.mode() & forbidden != 0 {
        return not("can be used by others: take their rights away (`chmod 700`)");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_has_one_owner_and_is_nobody_elses_business() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("a/b");
        let first = Folder::open(&root).unwrap();
        assert!(matches!(Folder::open(&root), Err(OpenError::Busy)));
        for path in [root.clone(), first.base.clone(), first.objects()] {
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{}", path.display());
        }
        first.unlock();
        let second = Folder::open(&root).unwrap();
        fs::remove_dir_all(&root).unwrap();
        assert!(!second.is_there());
        // Another one of the same name is not the one that was taken.
        let third = Folder::open(&root).unwrap();
        assert!(third.is_there() && !second.is_there());
    }

    #[test]
    fn what_others_may_write_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("a");
        fs::create_dir(&root).unwrap();
        for (mode, is_fine) in [(0o700, true), (0o755, true), (0o775, false), (0o777, false)] {
            fs::set_permissions(&root, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Folder::open(&root).is_ok(), is_fine, "{mode:o}");
        }
        fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).unwrap();
        let below = root.join("v1");
        fs::set_permissions(&below, fs::Permissions::from_mode(0o750)).unwrap();
        assert!(Folder::open(&root).is_err());
        fs::remove_dir_all(&below).unwrap();
        std::os::unix::fs::symlink(temp.path(), &below).unwrap();
        assert!(Folder::open(&root).is_err());
    }
}
