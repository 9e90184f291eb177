//! Sockets of backends that belong to Pingora, which hands out their numbers only.

use std::{
    collections::HashMap,
    net::SocketAddr,
    os::fd::{AsFd as _, BorrowedFd, RawFd},
};

use parking_lot::Mutex;

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
        reason = "the socket belongs to Pingora, which hands out its number only"
    )]
    pub fn with<T>(self, act: impl FnOnce(BorrowedFd<'_>) -> T) -> Option<T> {
        // SAFETY: Pingora may have closed the socket, and its number may be free or another's. It is
        // used once, for a number of our own: a free one makes that fail, and the address detects
        // another socket.
        let fd = unsafe { BorrowedFd::borrow_raw(self.fd) };
        let own = rustix::io::fcntl_dupfd_cloexec(fd, 0).ok()?;
        let local = rustix::net::getsockname(&own)
            .ok()
            .and_then(|address| SocketAddr::try_from(address).ok());
        (local == self.local).then(|| act(own.as_fd()))
    }
}

/// Connections of Pingora to one backend, with their numbers of requests. It has those that are idle
/// in a pool which nobody else can empty.
#[derive(Debug, Default)]
pub(super) struct PingoraSockets(Mutex<HashMap<RawFd, (Option<SocketAddr>, u32)>>);

impl PingoraSockets {
    /// Records that a request begins to use the socket.
    pub(super) fn begin(&self, socket: &BackendSocket) {
        let mut sockets = self.0.lock();
        let (local, requests) = sockets.entry(socket.fd).or_default();
        if *local != socket.local {
            // The number of one that was closed.
            (*local, *requests) = (socket.local, 0);
        }
        *requests += 1;
    }

    /// Records that a request no longer uses the socket, which is shut down if `is_last`.
    pub(super) fn end(&self, socket: &BackendSocket, is_last: bool) {
        let mut sockets = self.0.lock();
        if let Some((local, requests)) = sockets.get_mut(&socket.fd)
            && *local == socket.local
        {
            *requests -= 1;
            if is_last && *requests == 0 {
                sockets.remove(&socket.fd);
                socket.shut_down();
            }
        }
    }

    /// Shuts down all that no request uses: Pingora then removes them from its pool.
    pub(super) fn close_idle(&self) {
        self.0.lock().retain(|fd, (local, requests)| {
            if *requests == 0 {
                let (fd, local) = (*fd, *local);
                BackendSocket { fd, local }.shut_down();
            }
            *requests > 0
        });
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read as _,
        net::{TcpListener, TcpStream},
        os::fd::AsRawFd as _,
    };

    use super::*;

    /// Returns a connection, its other end, and its name.
    fn pair() -> (TcpStream, TcpStream, BackendSocket) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = BackendSocket {
            fd: ours.as_raw_fd(),
            local: ours.local_addr().ok(),
        };
        let app = listener.accept().unwrap().0;
        app.set_nonblocking(true).unwrap();
        (ours, app, socket)
    }

    /// Returns true once the other end was closed.
    fn is_closed(app: &mut TcpStream) -> bool {
        app.read(&mut [0]).is_ok()
    }

    #[test]
    fn only_idle_connections_are_shut_down() {
        let sockets = PingoraSockets::default();
        let [(_a, mut idle, a), (_b, mut busy, b), (_c, mut kept, c)] = [pair(), pair(), pair()];
        sockets.begin(&a);
        sockets.end(&a, false);
        sockets.begin(&b);
        // The next request may begin before the last one has ended.
        sockets.begin(&c);
        sockets.begin(&c);
        sockets.end(&c, false);
        sockets.close_idle();
        assert!(is_closed(&mut idle) && !is_closed(&mut busy) && !is_closed(&mut kept));
        sockets.end(&b, true);
        sockets.end(&c, false);
        assert!(is_closed(&mut busy) && !is_closed(&mut kept));
    }

    #[test]
    fn another_socket_with_the_number_of_one_is_left_alone() {
        let sockets = PingoraSockets::default();
        let (_ours, mut app, socket) = pair();
        let local = "127.0.0.1:1".parse().ok();
        let closed = BackendSocket { local, ..socket };
        sockets.begin(&closed);
        sockets.end(&closed, false);
        sockets.close_idle();
        closed.shut_down();
        assert!(!is_closed(&mut app));
        // The number now belongs to another one, and the end of the first is not its end.
        sockets.begin(&closed);
        sockets.begin(&socket);
        sockets.end(&closed, true);
        sockets.close_idle();
        assert!(!is_closed(&mut app));
    }
}
