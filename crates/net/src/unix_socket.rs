//! Unix sockets that replace one left behind by another process.

use std::{
    collections::HashMap,
    fs::{self, Permissions},
    io,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, fchmod};
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, Socket, Type};

/// Reason why the socket cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("another process listens there")]
    InUse,
    #[error("the file there is not a socket")]
    NoSocket,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<SocketError> for io::Error {
    fn from(error: SocketError) -> Self {
        match error {
            SocketError::InUse | SocketError::NoSocket => {
                Self::new(io::ErrorKind::AddrInUse, error)
            }
            SocketError::Io(error) => error,
        }
    }
}

/// Identity of the file of a socket, which another socket at its path does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketFile {
    device: u64,
    inode: u64,
    /// A file system may use a number again. The time of its creation stays.
    since: (i64, i64),
}

/// Files of unix sockets, by path.
pub type SocketFiles = HashMap<PathBuf, SocketFile>;

impl SocketFile {
    /// Returns the socket that is at `path`.
    pub fn at(path: &Path) -> Option<Self> {
        let metadata = fs::symlink_metadata(path).ok()?;
        metadata.file_type().is_socket().then(|| Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            since: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

/// Listens at `path`. Only users admitted by `mode` can connect, from the first moment on. Up to
/// `backlog` connections may wait.
///
/// # Errors
/// Fails when something else is there, or the folder is not writable.
pub fn bind(path: &Path, mode: u32, backlog: i32) -> Result<UnixListener, SocketError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(SocketError::NoSocket),
        Ok(_) if UnixStream::connect(path).is_ok() => return Err(SocketError::InUse),
        Ok(_) => fs::remove_file(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Linux creates the file with the mode of the socket, less the umask.
    fchmod(&socket, Mode::from_raw_mode(mode)).map_err(io::Error::from)?;
    socket.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKLOG: i32 = 8;

    #[test]
    fn a_socket_has_its_mode_and_takes_the_place_of_a_dead_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        for mode in [0o600, 0o666] {
            let listener = bind(&path, mode, BACKLOG).unwrap();
            let found = fs::symlink_metadata(&path).unwrap().permissions().mode();
            assert_eq!(found & 0o777, mode);
            UnixStream::connect(&path).unwrap();
            assert!(matches!(
                bind(&path, mode, BACKLOG),
                Err(SocketError::InUse)
            ));
            // Dropping the listener leaves the file behind.
            drop(listener);
        }
    }

    #[test]
    fn a_socket_in_place_of_another_has_another_identity() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        assert_eq!(SocketFile::at(&path), None);
        let _one = bind(&path, 0o600, BACKLOG).unwrap();
        let one = SocketFile::at(&path);
        assert!(one.is_some());
        fs::set_permissions(&path, Permissions::from_mode(0o660)).unwrap();
        assert_eq!(SocketFile::at(&path), one);
        fs::remove_file(&path).unwrap();
        let _two = bind(&path, 0o600, BACKLOG).unwrap();
        assert_ne!(SocketFile::at(&path), one);
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        fs::write(&path, "precious").unwrap();
        let error = bind(&path, 0o600, BACKLOG).unwrap_err();
        assert!(matches!(error, SocketError::NoSocket));
        assert_eq!(
            io::Error::from(error).to_string(),
            "the file there is not a socket"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
