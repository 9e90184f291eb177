//! The client's IO under Pingora: a write buffer, and the connection's facts for the hooks.
//!
//! Pingora writes an answer's head and body apart; with `TCP_NODELAY` each would be its
//! own segment and system call. There is no read buffer: Pingora reads into its own.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    os::fd::AsRawFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use async_trait::async_trait;
use pingora::{
    http::ResponseHeader,
    protocols::{
        GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
        TimingDigest, UniqueID, UniqueIDType, l4::socket::SocketAddr as PingoraAddress,
        raw_connect::ProxyDigest,
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpStream, UnixStream},
};

use crate::runtime::connection::Connection;

/// Holds an answer's head and a small body; what is larger goes out with it in one call.
const WRITE_BUFFER: usize = 4096;

/// A connection as Pingora reads and writes it.
#[derive(Debug)]
pub(super) struct ConnIo {
    stream: Socket,
    buffer: Vec<u8>,
    connection: Arc<Connection>,
    digest: Arc<ProxyDigest>,
    socket_digest: Arc<SocketDigest>,
}

/// A client's socket of either family.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl ConnIo {
    pub(super) fn new(stream: Socket, connection: Arc<Connection>) -> Self {
        let socket_digest = SocketDigest::from_raw_fd(stream.fd());
        if !connection.is_unix {
            let peer = SocketAddr::new(connection.peer, connection.peer_port);
            // Fresh cells: nothing has been set before us.
            drop(
                socket_digest
                    .peer_addr
                    .set(Some(PingoraAddress::Inet(peer))),
            );
        }
        let response = ResponseHeader::build(200, Some(0)).expect("200 is a status");
        let digest = ProxyDigest::new(Box::new(response), Some(Box::new(Arc::clone(&connection))));
        Self {
            stream,
            buffer: Vec::new(),
            connection,
            digest: Arc::new(digest),
            socket_digest: Arc::new(socket_digest),
        }
    }

    /// Writes out what is buffered.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.buffer.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let mut written = 0;
        let outcome = loop {
            if written == self.buffer.len() {
                break Poll::Ready(Ok(()));
            }
            match self.stream.poll_write(cx, &self.buffer[written..]) {
                Poll::Ready(Ok(0)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => written += count,
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        if written == self.buffer.len() {
            self.buffer.clear();
        } else {
            self.buffer.drain(..written);
        }
        self.connection.set_blocked(outcome.is_pending());
        outcome
    }
}

impl Drop for ConnIo {
    /// An answer that broke off before its first flush: its client is to see that it
    /// began and was cut, not that the connection closed for no reason.
    fn drop(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let sent = match &self.stream {
            Socket::Tcp(stream) => stream.try_write(&self.buffer),
            Socket::Unix(stream) => stream.try_write(&self.buffer),
        };
        if let Err(error) = sent {
            log::debug!(error:%; "a client's connection was gone before its answer");
        }
    }
}

impl AsyncRead for ConnIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ConnIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.buffer.len() + data.len() <= WRITE_BUFFER {
            if this.buffer.capacity() == 0 {
                this.buffer.reserve_exact(WRITE_BUFFER);
            }
            this.buffer.extend_from_slice(data);
            return Poll::Ready(Ok(data.len()));
        }
        if this.buffer.is_empty() {
            let outcome = this.stream.poll_write(cx, data);
            this.connection.set_blocked(outcome.is_pending());
            return outcome;
        }
        // A head waits and its body is large: both in one call.
        let slices = [IoSlice::new(&this.buffer), IoSlice::new(data)];
        match this.stream.poll_write_vectored(cx, &slices) {
            Poll::Ready(Ok(count)) if count > this.buffer.len() => {
                let from_data = count - this.buffer.len();
                this.buffer.clear();
                this.connection.set_blocked(false);
                Poll::Ready(Ok(from_data))
            }
            Poll::Ready(Ok(count)) => {
                this.buffer.drain(..count);
                ready!(this.poll_drain(cx))?;
                let outcome = this.stream.poll_write(cx, data);
                this.connection.set_blocked(outcome.is_pending());
                outcome
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                this.connection.set_blocked(true);
                Poll::Pending
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_drain(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        match &mut self.stream {
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl Socket {
    fn fd(&self) -> i32 {
        match self {
            Self::Tcp(stream) => stream.as_raw_fd(),
            Self::Unix(stream) => stream.as_raw_fd(),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, data),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, data),
        }
    }

    fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }
}

#[async_trait]
impl Shutdown for ConnIo {
    async fn shutdown(&mut self) {
        if let Err(error) = AsyncWriteExt::shutdown(self).await {
            log::debug!(error:%; "a client's connection was gone before we closed it");
        }
    }
}

impl UniqueID for ConnIo {
    fn id(&self) -> UniqueIDType {
        self.stream.fd()
    }
}

impl Ssl for ConnIo {}

impl GetTimingDigest for ConnIo {
    /// Nobody reads it, and a list would be an allocation with each request.
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }

    fn get_read_pending_time(&self) -> Duration {
        Duration::ZERO
    }
}

impl GetProxyDigest for ConnIo {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(Arc::clone(&self.digest))
    }
}

impl GetSocketDigest for ConnIo {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(&self.socket_digest))
    }
}

#[async_trait]
impl Peek for ConnIo {}

#[cfg(test)]
mod tests {
    use prometheus::IntGauge;
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::runtime::connection::ListenerFacts;

    fn pair() -> (ConnIo, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let listener = Arc::new(ListenerFacts {
            name: "test".into(),
            port: 0,
            open: IntGauge::new("open", "open").unwrap(),
        });
        let connection = Arc::new(Connection::new(listener, None));
        (ConnIo::new(Socket::Unix(ours), connection), theirs)
    }

    #[tokio::test]
    async fn nothing_goes_out_before_the_flush() {
        let (mut io, mut client) = pair();
        io.write_all(b"head").await.unwrap();
        io.write_all(b" body").await.unwrap();
        assert_eq!(
            client.try_read(&mut [0; 16]).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        io.flush().await.unwrap();
        let mut seen = [0; 16];
        let count = client.read(&mut seen).await.unwrap();
        assert_eq!(&seen[..count], b"head body");
    }

    #[tokio::test]
    async fn bytes_keep_their_order_whatever_their_sizes() {
        let (mut io, mut client) = pair();
        let sizes = [1, 100, 4000, 96, 1, 5000, 200_000, 3, 4096, 4097, 70_000];
        let total: usize = sizes.iter().sum();
        let sent: Vec<u8> = (0..total).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let expected = sent.clone();
        let writer = async move {
            let mut at = 0;
            for size in sizes {
                io.write_all(&sent[at..at + size]).await.unwrap();
                at += size;
            }
            AsyncWriteExt::shutdown(&mut io).await.unwrap();
        };
        let reader = async move {
            let mut seen = Vec::new();
            client.read_to_end(&mut seen).await.unwrap();
            seen
        };
        let ((), seen) = tokio::join!(writer, reader);
        assert!(
            seen == expected,
            "{} of {} bytes",
            seen.len(),
            expected.len()
        );
    }
}
