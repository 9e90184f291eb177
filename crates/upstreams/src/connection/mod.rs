//! Connections to backends, with or without TLS: how they are made, and where those of HTTP/1.1 wait
//! for the next request. Those of HTTP/2 are in [`http2`].

mod http2;
mod idle;
mod secure;
mod socket;
#[cfg(test)]
mod tests;
mod transport;

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    os::fd::RawFd,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use pingora::{Error, ErrorType, Result};
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWrite as _, ReadBuf};

pub use self::http2::BackendStream;
use self::socket::Socket;
pub(super) use self::transport::Transport;
pub(super) use self::{http2::Http2Connections, idle::IdleConnections};
use super::{
    Lease, Protocol, Upstream,
    client_tls::{BackendTls, TlsIdentity},
    target::Target,
};

/// Capacity above which an idle connection releases its buffer.
const MAX_IDLE_BUFFER: usize = 16 * 1024;

/// Connection to a backend, used by one request at a time.
#[derive(Debug)]
pub struct BackendConnection {
    transport: Transport,
    /// Bytes that were received and not used yet.
    pub input: BytesMut,
    /// The gateway's own address, which distinguishes this socket from a later one with its number.
    local: Option<SocketAddr>,
    is_reused: bool,
}

impl BackendConnection {
    async fn new(target: &Target, tls: Option<&BackendTls>) -> Result<Self> {
        let transport = Transport::connect(target, tls).await?;
        Ok(Self {
            local: transport.socket().local(),
            transport,
            input: BytesMut::new(),
            is_reused: false,
        })
    }

    fn socket(&self) -> &Socket {
        self.transport.socket()
    }

    pub fn fd(&self) -> RawFd {
        self.socket().fd()
    }

    pub fn local(&self) -> Option<SocketAddr> {
        self.local
    }

    /// Returns true if the connection has carried a request before.
    pub fn is_reused(&self) -> bool {
        self.is_reused
    }

    /// Reads as much as the input has room for. Returns the number of bytes, 0 at the end.
    pub fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        pin!(self.transport.read_buf(&mut self.input)).poll(cx)
    }

    /// Reads at most about `room` bytes of a body, and waits for them without a buffer: an event
    /// stream may be silent for hours. Returns the number of bytes, 0 at the end.
    pub fn poll_body(&mut self, room: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.input.capacity() == 0 {
            ready!(match &mut self.transport {
                Transport::Plain(socket) => socket.poll_read_ready(cx),
                Transport::Tls(stream) => stream.poll_arrival(cx),
            })?;
        }
        self.input.reserve(room);
        let read = self.poll_input(cx);
        if read.is_pending() && self.input.is_empty() {
            self.input = BytesMut::new();
        }
        read
    }

    /// Reads into `room`, leaving it as it is at the end.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_read(cx, room)
    }

    /// Writes some of `data`. With TLS the backend has it only after a flush.
    pub fn poll_output(
        &mut self,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write_vectored(cx, data)
    }

    /// Hands everything that was written to the system.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    /// Tells the backend that nothing more will be sent.
    pub fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }

    /// Returns true if the backend has neither closed the connection nor sent anything. This takes
    /// a system call only if something has happened.
    fn is_quiet(&mut self) -> bool {
        match &mut self.transport {
            Transport::Plain(socket) => {
                let read = socket.try_read(&mut [0]);
                read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
            }
            Transport::Tls(stream) => stream.is_quiet(),
        }
    }

    /// Returns the settings that the connection was made under; `None` without TLS.
    fn identity(&self) -> Option<&TlsIdentity> {
        self.transport.identity()
    }

    /// Prepares for the next request, and frees memory until then.
    fn idle(&mut self) {
        self.is_reused = true;
        if self.input.capacity() > MAX_IDLE_BUFFER {
            self.input = BytesMut::new();
        }
        if let Transport::Tls(stream) = &mut self.transport {
            stream.idle();
        }
    }
}

impl Upstream {
    /// Returns true if [`Upstream::connect`] can reach the backends: over HTTP/1.1.
    pub fn is_http1(&self) -> bool {
        self.wire.protocol == Protocol::Http1
    }

    /// Returns a connection to the lease's backend: an idle one, or a new one if there is none or
    /// if it must be a new one.
    ///
    /// # Errors
    /// When the backend cannot be connected to in `time`, TLS included.
    pub async fn connect(
        &self,
        lease: &Lease,
        must_be_new: bool,
        time: Duration,
    ) -> Result<BackendConnection> {
        let backend = &lease.backend;
        let tls = backend.tls.as_ref();
        if !must_be_new
            && let identity = tls.map(|tls| &tls.identity)
            && let Some(connection) = backend.state.idle.take(identity, lease.since())
        {
            return Ok(connection);
        }
        // Boxed: most requests find an idle connection, and each would carry the size of this.
        in_time(time, Box::pin(BackendConnection::new(&backend.target, tls))).await
    }

    /// Puts back a connection whose request is over, for the next one.
    pub fn put_back(&self, lease: &Lease, connection: BackendConnection, now: Instant) {
        let state = &lease.backend.state;
        let idle = self.pool.idle(state.keep_alive());
        if !idle.is_zero() {
            let until = now + idle;
            state
                .idle
                .put((connection, lease.since), until, &self.shared.clock);
        }
    }
}

/// Connects to a backend for a check, for at most `time`.
pub(super) async fn connect(
    target: &Target,
    tls: Option<&BackendTls>,
    time: Duration,
) -> Result<Transport> {
    in_time(time, Transport::connect(target, tls)).await
}

/// Waits for a connection for at most `time`.
async fn in_time<T>(time: Duration, connected: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(time, connected)
        .await
        .unwrap_or_else(|_| Error::e_explain(ErrorType::ConnectTimedout, "no connection yet"))
        .map_err(Error::into_up)
}
