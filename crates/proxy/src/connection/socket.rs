//! Operations on a client's socket from outside its owner, under the lock that keeps it open.

use std::{
    os::fd::{BorrowedFd, RawFd},
    time::Duration,
};

use edgeway_base::system;
use parking_lot::MutexGuard;

/// Borrows the socket whose lock is held, unless it is closed.
#[allow(unsafe_code, reason = "its owner lets go of it under this very lock")]
fn open<'l>(socket: &'l MutexGuard<'_, Option<RawFd>>) -> Option<BorrowedFd<'l>> {
    // SAFETY: the owner calls `socket_gone` before it closes the socket, which waits for the lock.
    Some(unsafe { BorrowedFd::borrow_raw((**socket)?) })
}

/// Shuts down the socket whose lock is held, unless it is closed.
pub(super) fn shut_down(socket: &MutexGuard<'_, Option<RawFd>>, how: rustix::net::Shutdown) {
    let Some(fd) = open(socket) else { return };
    if let Err(error) = rustix::net::shutdown(fd, how) {
        log::debug!(error:%; "client left before its connection was closed");
    }
}

/// Resets the connection. RFC 9112, 8: a response that ends with its connection counts as complete,
/// unless the connection ends in an error.
pub(super) fn reset(socket: &MutexGuard<'_, Option<RawFd>>) {
    let Some(fd) = open(socket) else { return };
    if let Err(error) = system::reset(fd) {
        log::debug!(error:%; "cannot reset a client's connection");
        shut_down(socket, rustix::net::Shutdown::Both);
    }
}

/// Bytes that the kernel holds until the peer has acknowledged them.
pub(super) fn unsent(socket: &MutexGuard<'_, Option<RawFd>>) -> Option<u64> {
    system::unsent(open(socket)?)
}

/// Discards unsent data when the socket closes. Otherwise the kernel would retry for minutes, and
/// keep the memory for that long.
pub(super) fn forget_unsent(socket: &MutexGuard<'_, Option<RawFd>>) {
    let Some(fd) = open(socket) else { return };
    if let Err(error) = rustix::net::sockopt::set_socket_linger(fd, Some(Duration::ZERO)) {
        log::debug!(error:%; "cannot discard the unsent data of a client's socket");
    }
}

/// Returns true if the client has sent bytes that nobody has read yet.
pub(super) fn has_unread(socket: &MutexGuard<'_, Option<RawFd>>) -> bool {
    open(socket).is_some_and(|fd| rustix::io::ioctl_fionread(fd).is_ok_and(|unread| unread > 0))
}
