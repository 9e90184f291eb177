//! The client's IO under Pingora: what is handed to it of one request and no more, a write
//! buffer, and the connection's facts for the hooks.
//!
//! Pingora gets a head only after it was scanned whole ([`super::head`]), then the body as
//! far as the head announced one. What follows waits here for its own turn, so bytes that
//! nobody has looked at are never taken for a request.
//!
//! Pingora writes an answer's head and body apart; with `TCP_NODELAY` each would be its
//! own segment and system call, and with TLS its own record.

mod again;
mod farewell;
mod lines;

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora::{
    http::ResponseHeader,
    protocols::{
        GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
        TimingDigest, UniqueID, UniqueIDType, l4::socket::SocketAddr as PingoraAddress,
        raw_connect::ProxyDigest,
    },
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use self::farewell::Websocket;
use super::{
    frames::{FrameLimits, Frames},
    head::{self, Head, HeadLimits, Scanned, Scanner},
    rest::{Rest, put_no_chunk},
    transport::Transport,
};
use crate::runtime::{
    connection::{Connection, Cut, Stage},
    refusal::Refusal,
};

/// Holds an answer's head and a small body; what is larger goes out with it in one call.
const WRITE_BUFFER: usize = 4096;
/// Room for most heads; a longer one makes it grow.
const READ_BUFFER: usize = 2048;
/// How much of the next requests may wait while one is under way.
const HELD: usize = 16 * 1024;
/// As many empty lines may stand before a request (RFC 9112, 2.2, asks for one).
const EMPTY_LINES: u8 = 2;
/// How much of what a refused client still sends is read.
const LINGERED: usize = 256 * 1024;
/// How a client begins that speaks HTTP/2 without asking (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection as Pingora reads and writes it.
#[derive(Debug)]
pub(super) struct ConnIo {
    transport: Transport,
    /// What came and was not handed on.
    input: BytesMut,
    scanner: Scanner,
    /// How much of what comes belongs to the request under way.
    rest: Rest,
    output: Vec<u8>,
    /// HTTP/2 only.
    frames: Option<Box<(Frames, FrameLimits)>>,
    /// Of a `WebSocket` only.
    websocket: Option<Box<Websocket>>,
    connection: Arc<Connection>,
    digest: Arc<ProxyDigest>,
    socket_digest: Arc<SocketDigest>,
}

/// How the wait for a request's head ended.
#[derive(Debug)]
pub(super) enum Next {
    /// A head that can be read in one way only.
    Request,
    /// The client speaks HTTP/2.
    Http2,
    /// The client is gone, or was idle for too long.
    Closed,
    Refused(Refusal),
}

impl ConnIo {
    pub(super) fn new(transport: Transport, connection: Arc<Connection>) -> Self {
        let socket_digest = SocketDigest::from_raw_fd(transport.socket().fd());
        if !connection.is_unix {
            let peer = SocketAddr::new(connection.peer, connection.peer_port);
            // Fresh cells: nothing has been set before us.
            drop(
                socket_digest
                    .peer_addr
                    .set(Some(PingoraAddress::Inet(peer))),
            );
        }
        connection.socket(transport.socket().fd());
        let response = ResponseHeader::build(200, Some(0)).expect("200 is a status");
        let digest = ProxyDigest::new(Box::new(response), Some(Box::new(Arc::clone(&connection))));
        Self {
            transport,
            input: BytesMut::new(),
            scanner: Scanner::default(),
            rest: Rest::Bytes(0),
            output: Vec::new(),
            frames: None,
            websocket: None,
            connection,
            digest: Arc::new(digest),
            socket_digest: Arc::new(socket_digest),
        }
    }

    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// From here on frames of HTTP/2 pass, and are counted.
    pub(super) fn set_http2(&mut self, limits: FrameLimits) {
        self.frames = Some(Box::new((Frames::default(), limits)));
        self.connection.enter(Stage::Http2);
    }

    /// Waits for the next request's head and scans it. `takes_http2`: the client may begin
    /// with HTTP/2.
    pub(super) async fn next_head(&mut self, limits: &HeadLimits, takes_http2: bool) -> Next {
        self.rest = Rest::Bytes(0);
        self.scanner.restart();
        let mut empty_lines = 0;
        loop {
            while empty_lines < EMPTY_LINES && self.input.starts_with(b"\r\n") {
                self.input.advance(2);
                self.scanner.restart();
                empty_lines += 1;
            }
            if !self.input.is_empty() {
                if takes_http2 && self.input.starts_with(PREFACE) {
                    return Next::Http2;
                }
                let is_preface = takes_http2 && PREFACE.starts_with(&self.input);
                match self.scanner.scan(&self.input, limits) {
                    _ if is_preface => {}
                    Scanned::Partial => {}
                    Scanned::Head(head) => {
                        return match self.begin(&head) {
                            Ok(()) => Next::Request,
                            Err(cut) => self.ended(Some(cut)),
                        };
                    }
                    Scanned::Refused(refused) => return Next::Refused(refused),
                }
                if self.connection.stage() != Stage::Head {
                    self.connection.enter(Stage::Head);
                }
            }
            self.input.reserve(READ_BUFFER);
            match self.transport.read_buf(&mut self.input).await {
                Ok(0) => return self.ended(self.connection.was_cut()),
                Ok(_) => {}
                Err(error) => {
                    log::debug!(error:%; "a client's connection failed between requests");
                    // With TLS an end that we made is an error too.
                    return self.ended(self.connection.was_cut());
                }
            }
        }
    }

    /// The client sends no more, or was kept from it.
    fn ended(&self, cut: Option<Cut>) -> Next {
        match cut {
            Some(Cut::HeaderTimeout) if !self.input.is_empty() => {
                // The answer's own line tells it.
                self.connection.tell_cut();
                Next::Refused(head::timeout(&self.input))
            }
            _ => Next::Closed,
        }
    }

    fn begin(&mut self, head: &Head) -> Result<(), Cut> {
        let length = head.length - self.take_out(&head.dropped);
        self.rest = Rest::of(length, head.body);
        self.connection.begin_request(head.fingerprint)
    }

    /// Takes lines out of the head, and says how many bytes those were. What stands before
    /// each moves over it, so that a body behind the head stays where it is.
    fn take_out(&mut self, lines: &[Range<usize>]) -> usize {
        let mut gap = 0;
        for (index, line) in lines.iter().enumerate().rev() {
            gap += line.len();
            let from = index.checked_sub(1).map_or(0, |before| lines[before].end);
            self.input.copy_within(from..line.start, from + gap);
        }
        self.input.advance(gap);
        gap
    }

    /// The request is over.
    pub(super) fn idle(&mut self) {
        if self.input.is_empty() && self.input.capacity() > 2 * READ_BUFFER {
            self.input = BytesMut::new();
        }
        self.connection.enter(Stage::Idle);
    }

    /// Reads what a refused client still sends, until it ends or has sent enough. Closing with
    /// bytes unread resets the connection, and with it the answer (nginx: `lingering_close`).
    pub(super) async fn linger(&mut self) -> io::Result<()> {
        let mut read = 0;
        while read < LINGERED {
            self.input.clear();
            self.input.reserve(READ_BUFFER);
            match self.transport.read_buf(&mut self.input).await? {
                0 => return Ok(()),
                count => read += count,
            }
        }
        Ok(())
    }

    /// The request has had all that is its own: what comes now waits, and Pingora learns
    /// no more than whether the client is still there.
    fn poll_hold(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Asked with each wake-up of the request, and hardly ever with something to read:
        // the socket knows, without TLS being gone through.
        ready!(self.transport.socket().poll_read_ready(cx))?;
        while self.input.len() < HELD {
            self.input.reserve(READ_BUFFER);
            let read = std::pin::pin!(self.transport.read_buf(&mut self.input));
            match ready!(read.poll(cx)) {
                Ok(0) => return Poll::Ready(Ok(())),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Pending
    }

    /// Reads frames. Once the connection is cut nothing more comes, not even its end:
    /// [`super::http2`] looks why, and still has a word to say.
    fn poll_frames(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if self.connection.was_cut().is_some() {
            return Poll::Pending;
        }
        if self.input.is_empty() {
            let read = ready!(Pin::new(&mut self.transport).poll_read(cx, buf));
            if self.connection.was_cut().is_some() {
                buf.set_filled(before);
                return Poll::Pending;
            }
            read?;
        } else {
            // What was read before it turned out to be HTTP/2.
            let count = self.input.len().min(buf.remaining());
            buf.put_slice(&self.input.split_to(count));
            if self.input.is_empty() {
                self.input = BytesMut::new();
            }
        }
        let Some((frames, limits)) = self.frames.as_deref_mut() else {
            return Poll::Ready(Ok(()));
        };
        let streams = &self.connection.streams;
        let seen = frames.feed(&buf.filled()[before..], limits, streams.now());
        streams.set_head(frames.waits());
        if let Err(cut) = seen {
            self.connection.cut(cut);
            buf.set_filled(before);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// What `write` came to, noted.
    fn wrote(&mut self, write: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let (Some(frames), Poll::Ready(Ok(count))) = (&mut self.frames, &write) {
            frames.0.sent(*count);
        }
        write
    }

    /// Takes what is to be written, into the buffer or the socket.
    fn poll_put(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.output.len() + data.len() <= WRITE_BUFFER {
            if self.output.capacity() == 0 {
                self.output.reserve_exact(WRITE_BUFFER);
            }
            self.output.extend_from_slice(data);
            return Poll::Ready(Ok(data.len()));
        }
        if self.output.is_empty() {
            return Pin::new(&mut self.transport).poll_write(cx, data);
        }
        // A head waits and its body is large: both in one call.
        let slices = [IoSlice::new(&self.output), IoSlice::new(data)];
        match Pin::new(&mut self.transport).poll_write_vectored(cx, &slices) {
            Poll::Ready(Ok(count)) if count > self.output.len() => {
                let from_data = count - self.output.len();
                self.output.clear();
                Poll::Ready(Ok(from_data))
            }
            Poll::Ready(Ok(count)) => {
                self.output.drain(..count);
                ready!(self.poll_drain(cx))?;
                Pin::new(&mut self.transport).poll_write(cx, data)
            }
            other => other,
        }
    }

    /// Writes out what is buffered.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.output.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let mut written = 0;
        let outcome = loop {
            if written == self.output.len() {
                break Poll::Ready(Ok(()));
            }
            match Pin::new(&mut self.transport).poll_write(cx, &self.output[written..]) {
                Poll::Ready(Ok(0)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => written += count,
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        if written == self.output.len() {
            self.output.clear();
        } else {
            self.output.drain(..written);
        }
        outcome
    }
}

impl Drop for ConnIo {
    /// An answer that broke off before its first flush: its client is to see that it
    /// began and was cut, not that the connection closed for no reason.
    fn drop(&mut self) {
        self.connection.socket_gone();
        if self.output.is_empty() {
            return;
        }
        // Over TLS a record would have to be made, and its end could not be waited for.
        if let Transport::Plain(socket) = &self.transport
            && let Err(error) = socket.try_write(&self.output)
        {
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
        let this = &mut *self;
        if this.frames.is_some() {
            return this.poll_frames(cx, buf);
        }
        let is_tunnel = this.connection.is_tunnel();
        if is_tunnel
            && this.connection.is_websocket()
            && let Some(gone) = this.poll_going_away(cx)
        {
            return gone.map(Err);
        }
        if this.rest.is_whole() && !is_tunnel {
            return this.poll_hold(cx);
        }
        if !this.input.is_empty() {
            let here = this.input.len().min(buf.remaining());
            let count = this.rest.take(&this.input[..here], is_tunnel);
            let Some(count) = count else {
                put_no_chunk(buf);
                return Poll::Ready(Ok(()));
            };
            buf.put_slice(&this.input[..count]);
            this.input.advance(count);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let Poll::Ready(outcome) = Pin::new(&mut this.transport).poll_read(cx, buf) else {
            this.connection.pace.awaited();
            return Poll::Pending;
        };
        outcome?;
        let came = &buf.filled()[before..];
        if came.is_empty() && is_tunnel && this.connection.is_going_away() {
            // Nobody waits for the other side of it.
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        this.connection.pace.received(came.len());
        let count = this.rest.take(came, is_tunnel);
        // More than the request's own waits for its turn.
        this.input.extend_from_slice(&came[count.unwrap_or(0)..]);
        buf.set_filled(before + count.unwrap_or(0));
        if count.is_none() {
            put_no_chunk(buf);
        }
        Poll::Ready(Ok(()))
    }
}

/// Whether these bytes begin a head of Pingora's that comes before a response.
#[inline]
fn is_interim(data: &[u8]) -> bool {
    const INTERIM: &[u8] = b"HTTP/1.1 1";
    data.starts_with(INTERIM) && !data[INTERIM.len()..].starts_with(b"01")
}

impl AsyncWrite for ConnIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.frames.is_some() {
            let write = Pin::new(&mut this.transport).poll_write(cx, data);
            return this.wrote(write);
        }
        // Lines for a response are none of what comes before it, such as early hints, even if
        // both are written together.
        let lines = if is_interim(data) {
            None
        } else {
            this.connection.take_lines()
        };
        if this.connection.is_websocket() {
            return this.poll_put_frames(cx, data, lines.as_ref());
        }
        if let Some(lines) = lines {
            this.put_head(data, &lines);
            return Poll::Ready(Ok(data.len()));
        }
        this.poll_put(cx, data)
    }

    /// Frames come in buffers of `h2`'s own.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.frames.is_none() {
            let first = slices.iter().find(|slice| !slice.is_empty());
            return self.poll_write(cx, first.map_or(&[], |slice| slice));
        }
        let write = Pin::new(&mut self.transport).poll_write_vectored(cx, slices);
        self.wrote(write)
    }

    fn is_write_vectored(&self) -> bool {
        self.frames.is_some()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.transport).poll_shutdown(cx)
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
        self.transport.socket().fd()
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
    use tokio::net::UnixStream;

    use super::*;
    use crate::{
        edge::transport::Socket,
        runtime::{connection::Entry, listener::ListenerFacts},
    };

    fn pair() -> (ConnIo, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let connection = Connection::new(ListenerFacts::test(), Entry::test());
        let transport = Transport::Plain(Socket::unix(ours));
        (ConnIo::new(transport, Arc::new(connection)), theirs)
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
