//! Socket of a backend, as the task that checks deadlines knows it.

use std::{
    net::SocketAddr,
    os::fd::{AsFd as _, BorrowedFd, RawFd},
};

/// A backend's socket, identified by number and by our own address on it, because the number may
/// have been reused.
#[derive(Clone, Copy, Debug)]
pub struct BackendSocket {
    pub fd: RawFd,
    pub local: Option<SocketAddr>,
}

impl BackendSocket {
    /// Shuts the socket down, if it is still the same one.
    pub fn shut_down(self) {
        let both = rustix::net::Shutdown::Both;
        if let Some(Err(error)) = self.with(|fd| rustix::net::shutdown(fd, both)) {
            log::debug!(error:%; "backend's socket closed before it was shut down");
        }
    }

    /// Calls `act` with the socket, if it is still the same one.
    #[allow(
        unsafe_code,
        reason = "the socket belongs to its request, and is known here by its number only"
    )]
    pub fn with<T>(self, act: impl FnOnce(BorrowedFd<'_>) -> T) -> Option<T> {
        // SAFETY: its request may have closed the socket, and its number may be free or another's. It is
        // used once, for a number of our own: a free one makes that fail, and the address detects
        // another socket.
        let fd = unsafe { BorrowedFd::borrow_raw(self.fd) };
        let duplicate = rustix::io::fcntl_dupfd_cloexec(fd, 0).ok()?;
        let local = rustix::net::getsockname(&duplicate)
            .ok()
            .and_then(|address| SocketAddr::try_from(address).ok());
        (local == self.local).then(|| act(duplicate.as_fd()))
    }
}
