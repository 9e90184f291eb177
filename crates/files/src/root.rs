//! The folder whose files are served. Opening a file below it never leaves it, also by symbolic
//! links and when names are exchanged meanwhile.
//!
//! The kernel resolves the path (`openat2` with `RESOLVE_BENEATH`). Where it refuses to, as old
//! kernels and some containers do, each segment is opened by itself, without following links, and
//! links are followed here.

use std::{
    ffi::OsStr,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use edgeway_base::system;
use parking_lot::Mutex;
use rustix::{
    fs::{FileType, Mode, OFlags, fstat, open, openat, readlinkat, stat},
    io::Errno,
};

pub(crate) use crate::config::model::SymlinksConfig as Symlinks;

/// Links that a path may lead through, as in Linux.
const MAX_LINKS: usize = 40;

/// A root folder, opened again when its path leads to another folder.
#[derive(Debug)]
pub(crate) struct Root {
    path: PathBuf,
    symlinks: Symlinks,
    recheck: Duration,
    state: Mutex<State>,
    /// Set once the kernel refused to resolve paths.
    lacks_openat2: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    folder: Option<Folder>,
    checked: Option<Instant>,
}

#[derive(Debug)]
struct Folder {
    fd: Arc<OwnedFd>,
    /// Device and number.
    id: (u64, u64),
}

/// Flags of each file: no wait for the writer of a pipe, and no terminal to control the gateway.
fn flags() -> OFlags {
    OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY
}

impl Root {
    pub(crate) fn new(path: PathBuf, symlinks: Symlinks, recheck: Duration) -> Self {
        Self {
            path,
            symlinks,
            recheck,
            state: Mutex::default(),
            lacks_openat2: AtomicBool::new(false),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Resolves paths without the kernel's help from now on.
    #[cfg(test)]
    pub(crate) fn walk_alone(&self) {
        self.lacks_openat2.store(true, Ordering::Relaxed);
    }

    /// Opens the file or folder at `relative`, which has no `..`. May block.
    pub(crate) fn open(&self, relative: &[u8], now: Instant) -> io::Result<OwnedFd> {
        let folder = self.folder(now)?;
        let relative = if relative.is_empty() { b"." } else { relative };
        let path = Path::new(OsStr::from_bytes(relative));
        if self.symlinks == Symlinks::Follow {
            return Ok(openat(&*folder, path, flags(), Mode::empty())?);
        }
        if !self.lacks_openat2.load(Ordering::Relaxed) {
            match self.open_beneath(&folder, path) {
                // Names are exchanged all the time, or the kernel lacks the call, or the file
                // system refuses this name or file alone.
                Err(
                    error @ (Errno::AGAIN
                    | Errno::NOSYS
                    | Errno::PERM
                    | Errno::INVAL
                    | Errno::TOOBIG),
                ) => {
                    let opened = self.walk(&folder, relative)?;
                    if error != Errno::AGAIN {
                        self.lacks_openat2.store(true, Ordering::Relaxed);
                    }
                    return Ok(opened);
                }
                opened => return Ok(opened?),
            }
        }
        Ok(self.walk(&folder, relative)?)
    }

    fn open_beneath(&self, folder: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
        let follows = self.symlinks != Symlinks::Refuse;
        let mut left = 16;
        loop {
            match system::open_beneath(folder, path, flags(), follows) {
                // Something above was renamed meanwhile.
                Err(Errno::AGAIN) if left > 0 => left -= 1,
                Err(Errno::INTR) => {}
                opened => return opened,
            }
        }
    }

    /// Opens `relative` one segment after the other. Folders that were passed stay open, so that
    /// `..` of a link leads to the one it was entered from, and never above the root.
    fn walk(&self, root: &Arc<OwnedFd>, relative: &[u8]) -> Result<OwnedFd, Errno> {
        let mut folders: Vec<OwnedFd> = Vec::new();
        let mut segments: Vec<Vec<u8>> = split(relative);
        let mut links = 0;
        while let Some(segment) = segments.pop() {
            let is_last = segments.is_empty();
            let folder = folders.last().unwrap_or(root);
            match &*segment {
                b"" | b"." => {}
                b".." => {
                    if folders.pop().is_none() {
                        return Err(Errno::XDEV);
                    }
                }
                name => {
                    let name = OsStr::from_bytes(name);
                    let mut how = flags() | OFlags::NOFOLLOW;
                    if !is_last {
                        how = system::PASSING | OFlags::NOFOLLOW;
                    }
                    let opened = match openat(folder, name, how, Mode::empty()) {
                        // A link, where one was opened for reading.
                        Err(Errno::LOOP) => None,
                        Err(error) => return Err(error),
                        Ok(opened) => match kind(&opened)? {
                            FileType::Symlink => None,
                            FileType::Directory => Some(opened),
                            _ if is_last => Some(opened),
                            // `file/..` leads nowhere.
                            _ => return Err(Errno::NOTDIR),
                        },
                    };
                    match opened {
                        Some(opened) if is_last => return Ok(opened),
                        Some(opened) => folders.push(opened),
                        None => {
                            links += 1;
                            if self.symlinks == Symlinks::Refuse || links > MAX_LINKS {
                                return Err(Errno::LOOP);
                            }
                            let target = readlinkat(folder, name, Vec::new())?;
                            if target.as_bytes().starts_with(b"/") {
                                return Err(Errno::XDEV);
                            }
                            segments.extend(split(target.as_bytes()));
                        }
                    }
                }
            }
        }
        // The path ended with a folder that is open for nothing but passing.
        openat(folders.last().unwrap_or(root), ".", flags(), Mode::empty())
    }

    /// Returns the folder at the path of the root: a deploy may exchange it, or the link to it.
    fn folder(&self, now: Instant) -> io::Result<Arc<OwnedFd>> {
        let mut state = self.state.lock();
        let is_due = state
            .checked
            .is_none_or(|checked| now.saturating_duration_since(checked) >= self.recheck);
        if let Some(folder) = &state.folder
            && !is_due
        {
            return Ok(Arc::clone(&folder.fd));
        }
        state.folder = match state.folder.take() {
            Some(folder) if stat(&self.path).is_ok_and(|at| id(&at) == folder.id) => Some(folder),
            _ => None,
        };
        if let Some(folder) = &state.folder {
            let fd = Arc::clone(&folder.fd);
            state.checked = Some(now);
            return Ok(fd);
        }
        let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = Arc::new(open(&self.path, how, Mode::empty())?);
        let id = id(&fstat(&fd)?);
        state.folder = Some(Folder {
            fd: Arc::clone(&fd),
            id,
        });
        state.checked = Some(now);
        Ok(fd)
    }
}

/// Returns the segments of a path, the last one first.
fn split(path: &[u8]) -> Vec<Vec<u8>> {
    let segments = path.rsplit(|byte| *byte == b'/');
    segments.map(<[u8]>::to_vec).collect()
}

fn kind(fd: &OwnedFd) -> Result<FileType, Errno> {
    Ok(FileType::from_raw_mode(fstat(fd)?.st_mode))
}

#[allow(
    clippy::cast_sign_loss,
    clippy::unnecessary_cast,
    reason = "the types differ between systems"
)]
fn id(stat: &rustix::fs::Stat) -> (u64, u64) {
    (stat.st_dev as u64, stat.st_ino as u64)
}
