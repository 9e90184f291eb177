//! Socket to a backend, of either family.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    os::fd::{AsRawFd as _, RawFd},
    pin::Pin,
    task::{Context, Poll},
};

use edgeway_base::descriptors;
use pingora::{
    ErrorType, Result,
    protocols::l4::ext::{connect, connect_uds, set_tcp_keepalive},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

use crate::{pool::TCP_KEEPALIVE, target::Target};

#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Calls the same function of either family's socket.
macro_rules! on_socket {
    ($socket:expr, $name:ident => $call:expr) => {
        match $socket {
            Self::Tcp($name) => $call,
            Self::Unix($name) => $call,
        }
    };
}

impl Socket {
    pub(super) async fn connect(target: &Target) -> Result<Self> {
        let address = match target {
            Target::Inet(address) => address,
            Target::Unix(path) => {
                return Ok(Self::Unix(own_if_lacking(connect_uds(path).await)?));
            }
        };
        let socket = own_if_lacking(connect(address, None).await)?;
        // Neither is needed for the request itself.
        if let Err(error) = socket.set_nodelay(true) {
            log::debug!(error:%; "TCP_NODELAY not set for a backend");
        }
        if let Err(error) = set_tcp_keepalive(&socket, &TCP_KEEPALIVE) {
            log::debug!(error:%; "TCP keepalive not set for a backend");
        }
        Ok(Self::Tcp(socket))
    }

    pub(super) fn fd(&self) -> RawFd {
        on_socket!(self, socket => socket.as_raw_fd())
    }

    /// Returns the gateway's own address; `None` on a unix socket.
    pub(super) fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(socket) => socket.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// Reads what is there. This takes a system call only if something has happened, and uses up
    /// nothing of the task's budget, unlike a poll.
    pub(super) fn try_read(&self, room: &mut [u8]) -> io::Result<usize> {
        on_socket!(self, socket => socket.try_read(room))
    }

    /// Writes as much as the socket accepts at once.
    pub(super) fn try_write(&self, data: &[u8]) -> io::Result<usize> {
        on_socket!(self, socket => socket.try_write(data))
    }

    /// Polls for data that may be ready to read.
    pub(super) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_socket!(self, socket => socket.poll_read_ready(cx))
    }

    #[cfg(test)]
    pub(super) async fn readable(&self) -> io::Result<()> {
        on_socket!(self, socket => socket.readable().await)
    }
}

/// Marks an error as the gateway's own if no descriptor was left: it says nothing of the backend.
fn own_if_lacking<T>(connected: Result<T>) -> Result<T> {
    connected.map_err(|mut error| {
        let cause = error.cause.as_ref();
        let cause = cause.and_then(|cause| cause.downcast_ref::<io::Error>());
        if cause.is_some_and(descriptors::are_lacking) {
            error.etype = ErrorType::SocketError;
        }
        error
    })
}

impl AsyncRead for Socket {
    edgeway_base::inner_stream!(on_socket!: poll_read);
}

impl AsyncWrite for Socket {
    edgeway_base::inner_stream!(on_socket!: poll_write, is_write_vectored, poll_shutdown);

    /// Avoids `writev` for a single slice: rustls always writes vectors, and `send` is cheaper.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut filled = slices.iter().filter(|slice| !slice.is_empty());
        if let (Some(only), None) = (filled.next(), filled.next()) {
            return self.poll_write(cx, only);
        }
        on_socket!(self.get_mut(), socket => Pin::new(socket).poll_write_vectored(cx, slices))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // All written bytes are already in the kernel.
        Poll::Ready(Ok(()))
    }
}
