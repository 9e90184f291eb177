//! The folder: its layout, the check that no other user can write to it, and its lock.
//!
//! ```text
//! FOLDER/v1/lock                       held by the process that has the folder
//! FOLDER/v1/journal                    record of purges
//! FOLDER/v1/objects/ab/HASH-…          one entry; with `.tmp` while it is written
//! FOLDER/v1/late/                      purges from a process that has let go of the folder
//! FOLDER/v1/trash/                     entries that were dropped all at once, to be removed
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

/// Version of the whole layout. Another layout has a folder of its own.
const VERSION: &str = "v1";

/// A folder that this process has locked.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) base: PathBuf,
    lock: File,
}

/// Reasons why a folder cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("another process uses the folder")]
    Busy,
    #[error("`{}` {why}", path.display())]
    NotOurs { path: PathBuf, why: &'static str },
    #[error("cannot {operation} `{}`: {source}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

impl OpenError {
    pub(super) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            operation,
            path,
            source,
        }
    }
}

impl Folder {
    /// Locks the folder, after creating it if necessary.
    pub(super) fn open(root: &Path) -> Result<Self, OpenError> {
        private_file::make_folder(root).map_err(OpenError::io("make", root))?;
        // A symbolic link to the folder is fine: its owner could as well write to the target.
        let metadata = fs::metadata(root).map_err(OpenError::io("look at", root))?;
        is_ours(root, &metadata, 0o022)?;
        let base = root.join(VERSION);
        make(&base).map_err(OpenError::io("make", &base))?;
        let metadata = fs::symlink_metadata(&base).map_err(OpenError::io("look at", &base))?;
        is_ours(&base, &metadata, 0o077)?;
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
        for below in [folder.objects(), folder.deferred(), folder.trash()] {
            make(&below).map_err(OpenError::io("make", &below))?;
        }
        // The folder may have been removed since: then the lock protects nothing.
        if folder.is_there() {
            Ok(folder)
        } else {
            Err(OpenError::io("keep", root)(io::ErrorKind::NotFound.into()))
        }
    }

    /// Returns the folder where purges are left for the process that has the lock.
    pub(super) fn deferred_in(root: &Path) -> PathBuf {
        root.join(VERSION).join("late")
    }

    /// Returns true if the folder is still the one that was locked.
    pub(super) fn is_there(&self) -> bool {
        is_at(&self.lock, &self.base.join("lock"))
    }

    /// Unlocks the folder for another process, even if the lock's descriptor was duplicated.
    pub(super) fn unlock(&self) {
        // Nothing can be done about an error: the lock ends with the process.
        let _unlocked = flock(&self.lock, FlockOperation::Unlock);
    }

    pub(super) fn objects(&self) -> PathBuf {
        self.base.join("objects")
    }

    pub(super) fn deferred(&self) -> PathBuf {
        self.base.join("late")
    }

    pub(super) fn trash(&self) -> PathBuf {
        self.base.join("trash")
    }

    /// Moves all entries to the trash, where no lookup finds them. They stay there until a sweep.
    pub(super) fn discard_objects(&self) -> io::Result<()> {
        make(&self.trash())?;
        let to = self.trash().join(format!("{:032x}", fastrand::u128(..)));
        fs::rename(self.objects(), to)?;
        make(&self.objects())
    }
}

/// Returns true if `path` is a name of this open file.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    let inode = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
    let (opened, current) = (file.metadata(), fs::symlink_metadata(path));
    matches!((&opened, &current), (Ok(opened), Ok(current)) if inode(opened) == inode(current))
}

/// Creates a private folder if it does not exist.
pub(super) fn make(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Checks that a folder is ours alone: another user who may write to it could plant responses.
/// `forbidden` are the permission bits that others must not have.
fn is_ours(path: &Path, metadata: &fs::Metadata, forbidden: u32) -> Result<(), OpenError> {
    let not = |why| {
        let path = path.to_owned();
        Err(OpenError::NotOurs { path, why })
    };
    if !metadata.is_dir() {
        return not("is not a folder");
    }
    if metadata.uid() != geteuid().as_raw() {
        return not("belongs to another user");
    }
    if metadata.mode() & forbidden != 0 {
        return not("is accessible to other users: run `chmod 700`");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_has_one_owner_and_private_permissions() {
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
        // A new folder of the same name is not the one that was locked.
        let third = Folder::open(&root).unwrap();
        assert!(third.is_there() && !second.is_there());
    }

    #[test]
    fn folders_writable_by_others_are_refused() {
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
