//! Linux.

use std::{
    borrow::Cow,
    fs::File,
    io::{self, IoSliceMut},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use procfs::process::{LimitValue, Process};
use rustix::{
    fs::{FallocateFlags, MemfdFlags, Mode, OFlags, ResolveFlags, SealFlags},
    io::{Errno, ReadWriteFlags},
    net::SendFlags,
    pipe::PipeFlags,
    process::{Pid, PidfdFlags, Signal},
};
use socket2::{SockFilter, SockRef};

use super::{NeedsLinux, ProcessCounts};

pub mod listening;

/// Flag of a write that may wait for what is written next.
pub const BEFORE_MORE: SendFlags = SendFlags::MORE;
/// Flags of a folder that is opened to pass through: this needs no permission to list it.
pub const PASSING: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// Succeeds if this build has `what`.
///
/// # Errors
/// Never on Linux.
pub fn requires_linux(_what: impl Into<Cow<'static, str>>) -> Result<(), NeedsLinux> {
    Ok(())
}

pub(crate) fn process_counts() -> ProcessCounts {
    let Ok(process) = Process::myself() else {
        return ProcessCounts::default();
    };
    let limits = process.limits().ok();
    let mut counts = ProcessCounts {
        open_files: process.fd_count().ok().map(|count| count as u64),
        max_files: limits.and_then(|limits| match limits.max_open_files.soft_limit {
            LimitValue::Value(most) => Some(most),
            LimitValue::Unlimited => None,
        }),
        ..ProcessCounts::default()
    };
    let Ok(stat) = process.stat() else {
        return counts;
    };
    let ticks = procfs::ticks_per_second();
    let booted = procfs::boot_time_secs().ok();
    counts.resident = Some(stat.rss.saturating_mul(procfs::page_size()));
    counts.virtual_memory = Some(stat.vsize);
    counts.threads = u64::try_from(stat.num_threads).ok();
    counts.started = booted.map(|booted| booted + stat.starttime / ticks);
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 ticks")]
    let cpu_seconds = (stat.utime + stat.stime) as f64 / ticks as f64;
    counts.cpu_seconds = Some(cpu_seconds);
    counts
}

/// Returns the resident memory of this process in bytes, if the kernel tells.
pub fn resident_memory() -> Option<u64> {
    let stat = Process::myself().ok()?.stat().ok()?;
    Some(stat.rss.saturating_mul(procfs::page_size()))
}

/// Returns true if this process was started with SIGHUP ignored, as by `nohup`.
pub fn ignores_hangup() -> bool {
    let status = Process::myself().and_then(|own| own.status());
    // SIGHUP is signal 1, the lowest bit.
    status.is_ok_and(|status| status.sigign & 1 == 1)
}

/// Returns the id of this thread, to change its priority.
pub fn this_thread() -> Option<Pid> {
    Some(rustix::thread::gettid())
}

/// Makes an empty file in memory.
///
/// # Errors
/// Fails as `memfd_create` does.
pub fn memory_file(name: &str) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    Ok(rustix::fs::memfd_create(name, flags)?.into())
}

/// Makes a file in memory unchangeable.
///
/// # Errors
/// Fails if it is no file in memory.
pub fn seal(file: &File) -> io::Result<()> {
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    Ok(rustix::fs::fcntl_add_seals(file, seals)?)
}

/// Reserves room for a file.
///
/// # Errors
/// `OPNOTSUPP` or `NOSYS` where that cannot be known.
pub fn reserve(file: &File, size: u64) -> Result<(), Errno> {
    rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size)
}

/// Has the kernel read these bytes of a file in advance.
///
/// # Errors
/// Fails as `posix_fadvise` does.
pub fn read_ahead(file: &OwnedFd, offset: u64, count: u64) -> Result<(), Errno> {
    let count = std::num::NonZeroU64::new(count);
    rustix::fs::fadvise(file, offset, count, rustix::fs::Advice::WillNeed)
}

/// Reads what the kernel has in memory.
///
/// # Errors
/// `AGAIN` if it would have to wait, or another one where it cannot tell.
pub fn read_at_once(file: &OwnedFd, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let mut slices = [IoSliceMut::new(buffer)];
    rustix::io::preadv2(file, &mut slices, offset, ReadWriteFlags::NOWAIT)
}

/// Sends bytes of a file without a copy, and moves `offset` by what it sent.
///
/// # Errors
/// Fails as `sendfile` does.
pub fn send_file(
    socket: impl AsFd,
    file: &OwnedFd,
    offset: &mut u64,
    count: usize,
) -> Result<usize, Errno> {
    rustix::fs::sendfile(socket, file, Some(offset), count)
}

/// Opens a path that the kernel resolves below `folder`.
///
/// # Errors
/// `NOSYS` where the kernel does not.
pub fn open_beneath(
    folder: &OwnedFd,
    path: &Path,
    flags: OFlags,
    follows: bool,
) -> Result<OwnedFd, Errno> {
    let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    if !follows {
        resolve |= ResolveFlags::NO_SYMLINKS;
    }
    rustix::fs::openat2(folder, path, flags, Mode::empty(), resolve)
}

/// Makes a pipe: the reading and the writing end.
///
/// # Errors
/// If too many files are open.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?)
}

/// Makes a pipe hold that many bytes.
///
/// # Errors
/// If the system does not let this user.
pub fn enlarge_pipe(pipe: &OwnedFd, size: usize) -> io::Result<()> {
    Ok(rustix::pipe::fcntl_setpipe_size(pipe, size).map(drop)?)
}

/// Resets a connection.
///
/// # Errors
/// If the socket is not connected.
pub fn reset(socket: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::net::connect_unspec(socket)?)
}

/// Bytes that the kernel holds until the peer has acknowledged them.
#[allow(unsafe_code, reason = "rustix knows no such question")]
pub fn unsent(socket: BorrowedFd<'_>) -> Option<u64> {
    // tcp(7) and unix(7): SIOCOUTQ, which is TIOCOUTQ, writes an int.
    type OutQueue = rustix::ioctl::Getter<0x5411, i32>;
    // SAFETY: the request number belongs to this type, and the kernel writes no more than that.
    let unsent = unsafe { rustix::ioctl::ioctl(socket, OutQueue::new()) };
    unsent.ok()?.try_into().ok()
}

/// Makes a TCP listener ignore the first packet of new connections, until [`hear_new`]. Those whose
/// handshake has begun still get into its queue.
///
/// # Errors
/// If the kernel takes no socket filter.
pub fn ignore_new(listener: &impl AsFd) -> io::Result<()> {
    // Instructions of bpf(4): `ld byte`, `and`, `jeq`, `ret`.
    const LOAD_BYTE: u16 = 0x30;
    const AND: u16 = 0x54;
    const IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    // RFC 9293, 3.1: the flags of a TCP header.
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    let program = [
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS),
        SockFilter::new(AND, 0, 0, SYN | ACK),
        SockFilter::new(IF_EQUAL, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ];
    SockRef::from(listener).attach_filter(&program)
}

/// Ends [`ignore_new`], also that of another process that has the listener.
pub fn hear_new(listener: &impl AsFd) {
    // The only error is that there is no filter.
    let _none = SockRef::from(listener).detach_filter();
}

/// Leaves new connections of a listener to the kernel for so many seconds, or until their first
/// bytes arrive.
///
/// # Errors
/// If it is no TCP listener.
#[allow(unsafe_code, reason = "no crate in use has this socket option")]
pub fn defer_accept(listener: &impl AsFd, seconds: i32) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(&seconds)).unwrap_or_default();
    // SAFETY: tcp(7): the option is an int, which is read during the call only; the socket is open
    // as long as it is borrowed.
    let status = unsafe {
        libc::setsockopt(
            listener.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            std::ptr::from_ref(&seconds).cast(),
            length,
        )
    };
    if status == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

/// Limits the unsent bytes that the kernel takes from a TCP socket.
///
/// # Errors
/// If it is no TCP socket.
pub fn limit_unsent(socket: &impl AsFd, bytes: u32) -> io::Result<()> {
    socket2::SockRef::from(socket).set_tcp_notsent_lowat(bytes)
}

/// A process, even if its number is used again.
#[derive(Debug)]
pub struct ProcessHandle(OwnedFd);

impl ProcessHandle {
    /// Opens the handle of a process.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn open(pid: Pid) -> io::Result<Self> {
        Ok(Self(rustix::process::pidfd_open(pid, PidfdFlags::empty())?))
    }

    /// Sends a signal to the process.
    ///
    /// # Errors
    /// `SRCH` if the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<(), Errno> {
        rustix::process::pidfd_send_signal(&self.0, signal)
    }
}

impl AsFd for ProcessHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
