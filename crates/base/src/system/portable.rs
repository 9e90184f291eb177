//! Systems other than Linux: what they lack is refused as the kernel refuses it (`NOSYS`), so that
//! callers do what they do on old kernels.

use std::{
    borrow::Cow,
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::Duration,
};

use rustix::{
    fs::OFlags,
    io::{Errno, FdFlags, fcntl_setfd},
    net::{SendFlags, Shutdown, shutdown, sockopt::set_socket_linger},
    process::{Pid, Resource, Signal, getrlimit},
    time::{ClockId, clock_gettime},
};

use super::{NeedsLinux, ProcessCounts};

pub const BEFORE_MORE: SendFlags = SendFlags::empty();
/// `NONBLOCK`, since it may be no folder but a pipe.
pub const PASSING: OFlags = OFlags::RDONLY
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK);

pub fn requires_linux(what: impl Into<Cow<'static, str>>) -> Result<(), NeedsLinux> {
    Err(NeedsLinux(what.into()))
}

pub(crate) fn process_counts() -> ProcessCounts {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(used.tv_sec).unwrap_or(0);
    let nanoseconds = u32::try_from(used.tv_nsec).unwrap_or(0);
    ProcessCounts {
        max_files: getrlimit(Resource::Nofile).current,
        cpu_seconds: Some(Duration::new(seconds, nanoseconds).as_secs_f64()),
        ..ProcessCounts::default()
    }
}

/// Unknown.
pub fn resident_memory() -> Option<u64> {
    None
}

#[allow(unsafe_code, reason = "no crate in use asks how a signal is handled")]
pub fn ignores_hangup() -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action the call only writes the present one to `action`, all of whose
    // bits may be zero.
    unsafe {
        libc::sigaction(libc::SIGHUP, std::ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

/// `None`: threads have no priority of their own here.
pub fn this_thread() -> Option<Pid> {
    None
}

pub fn memory_file(_name: &str) -> io::Result<File> {
    Err(Errno::NOSYS.into())
}

pub fn seal(_file: &File) -> io::Result<()> {
    Err(Errno::NOSYS.into())
}

pub fn reserve(_file: &File, _size: u64) -> Result<(), Errno> {
    Err(Errno::NOSYS)
}

pub fn read_ahead(_file: &OwnedFd, _at: u64, _count: u64) -> Result<(), Errno> {
    Ok(())
}

pub fn read_at_once(_file: &OwnedFd, _buffer: &mut [u8], _at: u64) -> Result<usize, Errno> {
    Err(Errno::NOSYS)
}

pub fn send_file(
    _socket: impl AsFd,
    _file: &OwnedFd,
    _at: &mut u64,
    _count: usize,
) -> Result<usize, Errno> {
    Err(Errno::NOSYS)
}

pub fn open_beneath(
    _folder: &OwnedFd,
    _path: &Path,
    _flags: OFlags,
    _follows: bool,
) -> Result<OwnedFd, Errno> {
    Err(Errno::NOSYS)
}

/// A program that another thread starts at this moment may inherit it.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe()?;
    fcntl_setfd(&read, FdFlags::CLOEXEC)?;
    fcntl_setfd(&write, FdFlags::CLOEXEC)?;
    Ok((read, write))
}

pub fn enlarge_pipe(_pipe: &OwnedFd, _size: usize) -> io::Result<()> {
    Err(Errno::NOSYS.into())
}

/// The reset is sent when the owner closes the socket, which the end of its input makes it do.
pub fn reset(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_socket_linger(socket, Some(Duration::ZERO))?;
    Ok(shutdown(socket, Shutdown::Read)?)
}

/// Unknown.
pub fn unsent(_socket: BorrowedFd<'_>) -> Option<u64> {
    None
}

pub fn ignore_new(_listener: &impl AsFd) -> io::Result<()> {
    Err(Errno::NOSYS.into())
}

pub fn hear_new(_listener: &impl AsFd) {}

pub fn defer_accept(_listener: &impl AsFd, _seconds: i32) -> io::Result<()> {
    Err(Errno::NOSYS.into())
}

/// No limit: the kernel takes what its buffer has room for.
pub fn limit_unsent(_socket: &impl AsFd, _bytes: u32) -> io::Result<()> {
    Ok(())
}

/// There is none: see [`requires_linux`].
#[derive(Debug)]
pub enum ProcessHandle {}

impl ProcessHandle {
    pub fn open(_pid: Pid) -> io::Result<Self> {
        Err(Errno::NOSYS.into())
    }

    pub fn signal(&self, _signal: Signal) -> Result<(), Errno> {
        match *self {}
    }
}

pub mod listening {
    //! Other processes are not looked at.

    use std::collections::HashMap;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ListeningProcess {
        pub pid: i32,
    }

    impl ListeningProcess {
        pub fn name(&self) -> Option<String> {
            None
        }

        pub fn resident_memory(&self) -> Option<u64> {
            None
        }
    }

    pub fn processes(_ports: &[u16]) -> HashMap<u16, Vec<ListeningProcess>> {
        HashMap::new()
    }
}
