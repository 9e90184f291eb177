//! The admin socket's place in the file system.

use std::{
    io,
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

/// Why the admin socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("cannot listen on {}: another gateway answers there", .0.display())]
    InUse(PathBuf),
    #[error("cannot listen on {}: there is a file that is no socket", .0.display())]
    NoSocket(PathBuf),
    #[error("cannot listen on {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Listens on a unix socket that only this user may open, taking the place of one that a
/// process left behind.
///
/// # Errors
/// When something else is there, or the folder cannot be written.
pub fn bind_unix(path: &Path) -> Result<UnixListener, SocketError> {
    let fail = |source| SocketError::Io {
        path: path.to_owned(),
        source,
    };
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(SocketError::NoSocket(path.to_owned()));
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            return Err(SocketError::InUse(path.to_owned()));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(fail(error)),
    }
    // Made under another name and moved: at no moment is it open to others, and at no
    // moment is there a socket that nobody listens on.
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}", std::process::id()));
    let draft = PathBuf::from(draft);
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&draft).map_err(fail)?;
    std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o600)).map_err(fail)?;
    std::fs::rename(&draft, path).map_err(fail)?;
    Ok(listener)
}
