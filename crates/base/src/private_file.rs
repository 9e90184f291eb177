//! Private files of the gateway: folders are 0700 and files 0600. A file is written under a
//! temporary name and renamed, so that a reader sees all of it or none. Everything here blocks.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

/// Creates a folder, and its missing parents.
pub fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Turns the error that there is no such file into `None`.
pub fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

/// Writes a file so that it survives a crash: it has all of `bytes`, or is unchanged.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_with_mode(path, bytes, 0o600)
}

/// Writes a file like [`write()`], with permissions of its own.
pub fn write_with_mode(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    // The name includes the process id: during an upgrade two processes run.
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}.new", std::process::id()));
    let partial = Path::new(&partial);
    // A file left behind by a crash may have other permissions.
    if_there(fs::remove_file(partial))?;
    let outcome = write_new(partial, bytes, mode).and_then(|()| fs::rename(partial, path));
    if let Err(error) = outcome {
        // The file may not even exist; the error that matters is the one returned.
        let _removed = fs::remove_file(partial);
        return Err(error);
    }
    // The name must survive a power failure as well.
    match path.parent() {
        None => Ok(()),
        Some(folder) if folder.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(folder) => File::open(folder)?.sync_all(),
    }
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn files_are_private_and_complete() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("a/b");
        make_folder(&below).unwrap();
        let path = below.join("c.json");
        let beside = below.join(format!("c.json.{}.new", std::process::id()));
        fs::write(&beside, "left behind").unwrap();
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&below)), (0o600, 0o700));
        assert_eq!(fs::read_dir(&below).unwrap().count(), 1);
        // A name without a folder is of the working folder, which is that of the package.
        let bare = Path::new("private_file.test");
        write(bare, b"three").unwrap();
        assert_eq!(fs::read(bare).unwrap(), b"three");
        fs::remove_file(bare).unwrap();
        // The temporary file is removed if it cannot replace its target.
        fs::create_dir(below.join("d")).unwrap();
        assert!(write(&below.join("d"), b"one").is_err());
        assert_eq!(fs::read_dir(&below).unwrap().count(), 2);
    }
}
