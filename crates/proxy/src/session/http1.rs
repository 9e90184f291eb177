//! Client of an HTTP/1 request: its response is written, and its body is read.

use std::{
    any::Any,
    cell::Cell,
    future::poll_fn,
    io::{self, Cursor},
    mem::MaybeUninit,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut, buf::Chain};
use edgeway_base::{clock::Clock, http::decimal};
use edgeway_core::chain::ReadyLines;
use http::{Version, header};
use pingora::{Error, ErrorType, OrErr, Result, http::ResponseHeader};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::{Instant, Sleep},
};

use super::{GONE, WRITE};
use crate::{
    connection::{
        Connection,
        response_header::{
            ConnectionReuse, PresentHeaders, ResponseHeaderWriter, write_informational,
        },
    },
    message::date,
};

/// Capacity that fits most header sections.
const HEADER_SECTION: usize = 1024;
/// Room for a read of a request body.
const ROOM: usize = 16 * 1024;
/// Capacity for bytes that are discarded.
const DISCARDED: usize = 1024;
/// Time between two checks for a client that sends no more.
const CHECK: Duration = Duration::from_millis(100);
/// Number of checks before it is sent an interim response: most responses come sooner.
const CHECKS_BEFORE_INTERIM: u32 = 2;
/// Number of checks after which it counts as gone, where nothing could show that it is there.
const MAX_CHECKS: u32 = 50;
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// Capacity up to which a thread keeps a buffer for its next header section.
const MAX_SPARE: usize = 8 * 1024;

thread_local! {
    /// Buffer for the next header section that this thread writes.
    static SECTION: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Connection of a client: it passes on the bytes of one request and no more.
pub(crate) trait ClientIo: AsyncRead + AsyncWrite + Unpin + Send + Sync + Any {
    fn connection(&self) -> &Arc<Connection>;

    /// Returns true if the client has sent all of its request: it may send no more, and still read.
    fn is_request_complete(&self) -> bool;

    /// Takes the bytes of the request's body that are here, so that they need not be copied. `None`
    /// if there are none, or if they are not valid: then reading shows it.
    fn take_body(&mut self) -> Option<BytesMut>;

    /// Takes the error with which the socket has ended.
    fn take_error(&self) -> Option<io::Error>;

    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

/// Connection of HTTP/1 during one request.
pub(crate) struct Http1Stream {
    pub(super) io: Box<dyn ClientIo>,
    pub(super) reuse: ConnectionReuse,
    /// True while the client may get an interim response: not with HTTP/1.0 (RFC 9110, 15.2), nor
    /// after the final response has begun.
    takes_interim: bool,
    pub(super) is_chunked: bool,
    /// Length of the body that follows, if the headers say it.
    pub(super) announced: Option<u64>,
    /// True if the end of the response is held until [`Self::release`].
    is_held: bool,
    /// `Some` once the client sends no more.
    half_closed: Option<Box<HalfClosed>>,
}

/// Client that has closed its direction of the connection after its request. It may have left, or
/// wait for the response: only what is sent to it shows which.
struct HalfClosed {
    check: Pin<Box<Sleep>>,
    /// Number of checks since the client was sent something.
    checks: u32,
}

/// Piece of a response's body on its way to the client.
pub(crate) struct OutgoingPiece<P> {
    /// The piece, between the lines of its chunk if the body has chunks.
    bytes: Chain<Chain<Cursor<String>, P>, &'static [u8]>,
    pub(super) length: usize,
    pub(super) is_last: bool,
}

impl<P: Buf> OutgoingPiece<P> {
    /// Creates a piece, as a chunk (RFC 9112, 7.1) if the body has them.
    pub(super) fn new(piece: P, is_last: bool, is_chunked: bool) -> Self {
        let length = piece.remaining();
        let (size, end): (_, &[u8]) = match (is_chunked, length, is_last) {
            (false, ..) | (true, 0, false) => (String::new(), b""),
            (true, 0, true) => (String::new(), b"0\r\n\r\n"),
            (true, _, false) => (format!("{length:X}\r\n"), b"\r\n"),
            (true, _, true) => (format!("{length:X}\r\n"), b"\r\n0\r\n\r\n"),
        };
        Self {
            bytes: Buf::chain(Cursor::new(size), piece).chain(end),
            length,
            is_last,
        }
    }

    pub(super) fn piece(&mut self) -> &mut P {
        self.bytes.first_mut().last_mut()
    }
}

impl Http1Stream {
    /// Creates the connection of a request in this `version`.
    pub(super) fn new(io: Box<dyn ClientIo>, version: Version, reuse: ConnectionReuse) -> Self {
        Self {
            io,
            reuse,
            takes_interim: version != Version::HTTP_10,
            is_chunked: false,
            announced: None,
            is_held: false,
            half_closed: None,
        }
    }

    /// Writes the status line and headers of `response`, which may have a reason phrase of its own.
    pub(super) async fn response(
        &mut self,
        mut response: ResponseHeader,
        lines: &ReadyLines,
        is_last: bool,
        clock: &Clock,
    ) -> Result<()> {
        let present = PresentHeaders::from_headers(&response.headers);
        self.is_chunked = !is_last && !present.content_length;
        if !is_last && let Some(length) = response.headers.get(header::CONTENT_LENGTH) {
            self.announced = decimal(length.as_bytes());
        }
        if !std::mem::take(&mut self.takes_interim) {
            self.use_no_chunks(&mut response);
        }
        self.wait_longer();
        let mut section = SECTION.take();
        section.clear();
        section.reserve(HEADER_SECTION);
        let writer = ResponseHeaderWriter {
            out: &mut section,
            ready_lines: lines.bytes(),
        };
        let now = || date(clock);
        writer.write(&mut response, present, self.is_chunked, self.reuse, now);
        let written = self.io.write_all(&section).await;
        written.or_err(WRITE.0, WRITE.1)?;
        if section.capacity() <= MAX_SPARE {
            SECTION.set(section);
        }
        self.end(is_last).await
    }

    /// Removes chunked framing, which HTTP/1.0 does not have (RFC 9112, 6.1). There, a body without
    /// a length ends with its connection.
    #[cold]
    fn use_no_chunks(&mut self, response: &mut ResponseHeader) {
        response.remove_header(&header::TRANSFER_ENCODING);
        if std::mem::take(&mut self.is_chunked) {
            self.reuse = ConnectionReuse::Close;
            self.io.connection().end_body();
        }
    }

    /// Writes the headers of a response with a status of 1xx, and sends them.
    pub(super) async fn informational(
        &mut self,
        response: &ResponseHeader,
        lines: &ReadyLines,
    ) -> Result<()> {
        if !self.takes_interim {
            return Ok(());
        }
        let mut section = Vec::with_capacity(HEADER_SECTION);
        write_informational(&mut section, response, lines.bytes());
        let written = self.io.write_all(&section).await;
        written.or_err(WRITE.0, WRITE.1)?;
        self.flush().await
    }

    /// Reads more of the request body. Returns the number of bytes, 0 at the end of the connection.
    pub(super) fn poll_input(
        &mut self,
        cx: &mut Context<'_>,
        input: &mut BytesMut,
    ) -> Poll<Result<usize>> {
        if input.is_empty()
            && let Some(body) = self.io.take_body()
        {
            *input = body;
            return Poll::Ready(Ok(input.len()));
        }
        input.reserve(ROOM);
        let read = pin!(self.io.read_buf(input)).poll(cx);
        read.map(|read| {
            let read = read.or_err(ErrorType::ReadError, "reading a request body");
            read.map_err(Error::into_down)
        })
    }

    /// Reads what the client sends in a tunnel.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(cx, room);
        read.map(|read| {
            let read = read.or_err(ErrorType::ReadError, "reading a WebSocket");
            read.map_err(Error::into_down)
        })
    }

    /// Writes some of `data` in a tunnel.
    pub(crate) fn poll_output(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, data);
        written.map(|written| written.or_err(WRITE.0, WRITE.1))
    }

    /// Sends what is buffered.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        flushed.map(|flushed| flushed.or_err(WRITE.0, WRITE.1))
    }

    /// Waits until the client has left, from whose request nothing more is wanted. What still comes
    /// of a body is discarded.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Box<Error>> {
        if self.half_closed.is_some() {
            return self.poll_left(cx);
        }
        let mut room = [const { MaybeUninit::uninit() }; DISCARDED];
        let error = loop {
            let mut room = ReadBuf::uninit(&mut room);
            match ready!(Pin::new(&mut self.io).poll_read(cx, &mut room)) {
                Ok(()) if room.filled().is_empty() => {
                    if self.io.is_request_complete() {
                        return self.poll_left(cx);
                    }
                    break Error::explain(ErrorType::ConnectionClosed, GONE);
                }
                Ok(()) => {}
                Err(error) => break Error::because(ErrorType::ReadError, GONE, error),
            }
        };
        Poll::Ready(error.into_down())
    }

    /// Has patience with a client that sends no more and cannot be asked with an interim response, as
    /// in HTTP/1.0: it is sent something, or what it waits for has a bound of its own.
    pub(super) fn wait_longer(&mut self) {
        if let Some(half) = self.half_closed.as_mut().filter(|_| !self.takes_interim) {
            half.checks = 0;
        }
    }

    /// Waits until a client that sends no more has left. One that has sends a reset when it is sent
    /// an interim response, which every client takes (RFC 9110, 15.2), or more of the response.
    #[cold]
    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<Box<Error>> {
        let gone = || Poll::Ready(Error::explain(ErrorType::ConnectionClosed, GONE).into_down());
        let half = self.half_closed.get_or_insert_with(|| {
            Box::new(HalfClosed {
                check: Box::pin(tokio::time::sleep(CHECK)),
                checks: 0,
            })
        });
        while half.check.as_mut().poll(cx).is_ready() {
            if self.io.take_error().is_some() || !self.io.is_request_complete() {
                return gone();
            }
            half.checks += 1;
            if !self.takes_interim && half.checks >= MAX_CHECKS {
                return gone();
            }
            if self.takes_interim && half.checks == CHECKS_BEFORE_INTERIM {
                let io = &mut self.io;
                let written = Pin::new(&mut *io).poll_write(cx, CONTINUE);
                let flushed = Pin::new(io).poll_flush(cx);
                if matches!(written, Poll::Ready(Err(_))) || matches!(flushed, Poll::Ready(Err(_)))
                {
                    return gone();
                }
            }
            half.check.as_mut().reset(Instant::now() + CHECK);
        }
        Poll::Pending
    }

    /// Writes a piece of the response body as the connection accepts it.
    pub(super) fn poll_write<P: Buf>(
        &mut self,
        cx: &mut Context<'_>,
        outgoing: &mut OutgoingPiece<P>,
    ) -> Poll<Result<()>> {
        self.wait_longer();
        let written = pin!(self.io.write_all_buf(&mut outgoing.bytes)).poll(cx);
        ready!(written).or_err(WRITE.0, WRITE.1)?;
        if outgoing.is_last && !self.is_held {
            return self.poll_flush(cx);
        }
        Poll::Ready(Ok(()))
    }

    /// Holds the end of the response, if it is buffered.
    pub(super) fn hold(&mut self) {
        self.is_held = true;
    }

    /// Sends what was held.
    pub(super) async fn release(&mut self) -> Result<()> {
        if std::mem::take(&mut self.is_held) {
            self.flush().await?;
        }
        Ok(())
    }

    async fn end(&mut self, is_last: bool) -> Result<()> {
        if is_last && !self.is_held {
            self.flush().await?;
        }
        Ok(())
    }

    pub(super) async fn flush(&mut self) -> Result<()> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }
}
