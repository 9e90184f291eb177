//! Transport of a client's bytes: a TCP or unix socket, with or without TLS.

use std::{
    io::{self, IoSlice},
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use edgeway_base::system;
use rustix::net::RecvFlags;
use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::server::TlsStream;

use crate::connection::{file_segment::PendingSegment, progress::Progress};

/// Limit on unsent bytes in the kernel for each client. Without a limit the kernel buffers
/// megabytes for a client that does not read.
pub(super) const MAX_UNSENT: u32 = 128 * 1024;
/// The same while a file is sent from the kernel's memory: one segment, with the headers.
const MAX_UNSENT_OF_FILES: u32 = (1 << 20) + 4096;

/// Socket of a client, of either family, and the client's progress in reading.
#[derive(Debug)]
pub(super) struct Socket {
    stream: Stream,
    pub(super) progress: Arc<Progress>,
    /// True while the kernel may hold as many unsent bytes as a segment of a file has.
    holds_segments: bool,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Socket, or TLS over it.
#[derive(Debug)]
pub(super) enum Transport {
    Plain(Socket),
    /// Boxed: most of it is rustls's state, and connections without TLS must stay small.
    Tls(Box<TlsStream<Socket>>),
}

/// Calls the same function of either family's socket.
macro_rules! on_stream {
    ($stream:expr, $name:ident => $call:expr) => {
        match $stream {
            Stream::Tcp($name) => $call,
            Stream::Unix($name) => $call,
        }
    };
}

/// Calls the same function of a socket, or of TLS over it.
macro_rules! on_transport {
    ($transport:expr, $name:ident => $call:expr) => {
        match $transport {
            Transport::Plain($name) => $call,
            Transport::Tls($name) => $call,
        }
    };
}

impl Socket {
    pub(super) fn tcp(stream: TcpStream) -> Self {
        Self::new(Stream::Tcp(stream))
    }

    pub(super) fn unix(stream: UnixStream) -> Self {
        Self::new(Stream::Unix(stream))
    }

    fn new(stream: Stream) -> Self {
        Self {
            stream,
            progress: Arc::default(),
            holds_segments: false,
        }
    }

    pub(super) fn fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }

    /// Polls for data that may be ready to read.
    pub(super) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(&self.stream, stream => stream.poll_read_ready(cx))
    }

    /// Takes the error with which the other side has ended the connection.
    pub(super) fn take_error(&self) -> Option<io::Error> {
        let error = on_stream!(&self.stream, stream => stream.take_error());
        error.unwrap_or_else(Some)
    }

    /// Writes as much as the socket accepts at once.
    pub(super) fn try_write(&self, data: &[u8]) -> io::Result<usize> {
        on_stream!(&self.stream, stream => stream.try_write(data))
    }

    /// Writes as much as the socket accepts at once. It may wait for what is written next, to share
    /// a packet with it (`MSG_MORE`).
    pub(super) fn try_write_before_more(&self, data: &[u8]) -> io::Result<usize> {
        let count = self.try_io(|| Ok(rustix::net::send(self, data, system::BEFORE_MORE)?))?;
        self.progress.wrote(&Poll::Ready(Ok(count)));
        Ok(count)
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(&self.stream, stream => stream.poll_write_ready(cx))
    }

    fn try_io<T>(&self, write: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        on_stream!(&self.stream, stream => stream.try_io(Interest::WRITABLE, write))
    }

    /// Lets the kernel hold a whole segment of a file, or no more than of other responses. These
    /// bytes are in its memory in any case, and a client that keeps up gets them in one call.
    pub(super) fn set_holds_segments(&mut self, holds_segments: bool) {
        if self.holds_segments == holds_segments {
            return;
        }
        self.holds_segments = holds_segments;
        if let Stream::Tcp(stream) = &self.stream {
            let unsent = if holds_segments {
                MAX_UNSENT_OF_FILES
            } else {
                MAX_UNSENT
            };
            if let Err(error) = system::limit_unsent(stream, unsent) {
                log::debug!(error:%; "limit on unsent bytes not changed");
            }
        }
    }

    /// Writes as much of a segment as the socket accepts before it has to wait. After a wait it
    /// writes nothing more: the rest of the segment is to be looked for again.
    pub(super) fn poll_write_segment(
        &mut self,
        cx: &mut Context<'_>,
        pending: &mut PendingSegment,
    ) -> Poll<io::Result<()>> {
        if pending.segment.left() > u64::from(MAX_UNSENT) {
            self.set_holds_segments(true);
        }
        let socket = &*self;
        while pending.segment.left() > 0 {
            if pending.is_waiting {
                ready!(socket.poll_write_ready(cx))?;
                // Not the client's time, should the disk be waited for next.
                socket.progress.wrote(&Poll::Ready(Ok(0)));
                break;
            }
            match socket.try_io(|| pending.segment.send(socket)) {
                Ok(Some(count)) => {
                    pending.sent.bytes += count as u64;
                    socket.progress.wrote(&Poll::Ready(Ok(count)));
                }
                Ok(None) => {
                    pending.sent.is_refused = true;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    pending.is_waiting = true;
                    socket.progress.wrote(&Poll::Pending);
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Returns received bytes without consuming them. Waits until there are some.
    pub(super) async fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let look = || {
            let (count, _) = rustix::net::recv(self, &mut *buffer, RecvFlags::PEEK)?;
            Ok(count)
        };
        on_stream!(&self.stream, stream => stream.async_io(Interest::READABLE, look).await)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        on_stream!(&self.stream, stream => stream.as_fd())
    }
}

impl Transport {
    /// Prepares for the next response.
    pub(super) fn idle(&mut self) {
        if let Self::Plain(socket) = self {
            socket.set_holds_segments(false);
        }
    }

    /// Polls for anything to read. Each wake-up of an HTTP/2 connection asks, and mostly there is
    /// nothing: the socket knows that without going through TLS.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            // Otherwise there is decrypted content, or the client has said that nothing follows.
            Self::Tls(stream) if stream.get_ref().1.wants_read() => {
                stream.get_ref().0.poll_read_ready(cx)
            }
            Self::Tls(_) | Self::Plain(_) => Poll::Ready(Ok(())),
        }
    }

    pub(super) fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    /// Waits until there may be bytes to read, without a buffer for them.
    pub(super) fn poll_arrival(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => socket.poll_read_ready(cx),
            // Bytes that were received may still be encrypted, or decrypted already.
            Self::Tls(stream) => Pin::new(&mut **stream).poll_fill_buf(cx).map_ok(|_| ()),
        }
    }
}

impl AsyncRead for Socket {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        on_stream!(&mut self.get_mut().stream, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    #[inline]
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = on_stream!(&mut this.stream, stream => Pin::new(stream).poll_write(cx, data));
        this.progress.wrote(&outcome);
        outcome
    }

    /// Avoids `writev` for a single slice: rustls always writes vectors, and `send` is cheaper.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [one] = slices {
            return self.poll_write(cx, one);
        }
        let this = self.get_mut();
        let outcome = on_stream!(&mut this.stream, stream => Pin::new(stream).poll_write_vectored(cx, slices));
        this.progress.wrote(&outcome);
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // All written bytes are already in the kernel.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(&mut self.get_mut().stream, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

impl AsyncRead for Transport {
    edgeway_base::inner_stream!(on_transport!: poll_read);
}

impl AsyncWrite for Transport {
    edgeway_base::inner_stream!(
        on_transport!: poll_write, poll_write_vectored, is_write_vectored, poll_shutdown
    );

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }
}
