//! IO of a client's connection: it passes on the bytes of one request and no more, and buffers
//! writes.
//!
//! A header section is passed on only after it was scanned completely ([`super::head`]), and then as
//! much of a body as the headers announce. Bytes after that wait here for their own scan, so bytes
//! that were not scanned are never parsed as a request.
//!
//! Response headers and body are written separately. With `TCP_NODELAY` each would be a segment and
//! a system call of its own, and with TLS a record of its own.

mod http2;
mod idle;
mod segment;
#[cfg(test)]
mod tests;
mod websocket_close;

use std::{
    any::Any,
    io::{self, IoSlice},
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use edgeway_base::shared_copy::shared_copy;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use self::{http2::Http2Frames, websocket_close::Websocket};
use super::{
    body_remainder::{BodyRemainder, put_no_chunk},
    frames::FrameLimits,
    head::{self, BodyFraming, Head, HeadLimits, ScanResult, Scanner},
    transport::Transport,
};
use crate::{
    connection::{CloseReason, Connection, Stage, refusal::Refusal},
    session::ClientIo,
};

/// Capacity for response headers with a small body. A larger body is written together with the
/// headers in one call.
const WRITE_BUFFER: usize = 4096;
/// Capacity that fits most request heads; a longer one makes the buffer grow.
const READ_BUFFER: usize = 2048;
/// Capacity for the next request of a client whose last one had a longer body than fits there: one
/// read takes its headers and the beginning of its body.
const LONG_READ_BUFFER: usize = READ_BUFFER + 16 * 1024;
/// Limit on bytes of further requests that may wait while one is in flight.
const MAX_PIPELINED: usize = 16 * 1024;
/// Limit on empty lines before a request (RFC 9112, 2.2, requires one).
const EMPTY_LINES: u8 = 2;
/// Time that a client may take to read a response that ends its connection, and to stop sending.
pub(super) const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// Limit on bytes that are still read from a refused client.
const MAX_LINGER_BYTES: usize = 256 * 1024;
/// Connection preface of a client that uses HTTP/2 with prior knowledge (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Connection as a session reads and writes it.
#[derive(Debug)]
pub(super) struct ConnIo {
    transport: Transport,
    /// Bytes that were received and not yet passed on.
    input: BytesMut,
    scanner: Scanner,
    /// Bytes still to come that belong to the current request.
    remainder: BodyRemainder,
    /// Length of the current request's header section, and the framing of its body.
    request: (usize, BodyFraming),
    /// Capacity to read the next header section with.
    room: usize,
    /// Requests that the listener takes on a connection.
    most_requests: u32,
    output: Vec<u8>,
    /// True once a request came before the response to the one before it was sent.
    is_pipelined: bool,
    /// Frames, for HTTP/2 only.
    frames: Option<Box<Http2Frames>>,
    /// Frame state, for a `WebSocket` only.
    websocket: Option<Box<Websocket>>,
    connection: Arc<Connection>,
}

/// Outcome of waiting for a request head.
#[derive(Debug)]
pub(super) enum HeadWait {
    /// A request head that is unambiguous.
    Request,
    /// The client uses HTTP/2.
    Http2,
    /// The client has closed the connection, or was idle for too long.
    Closed,
    Refused(Refusal),
}

impl ConnIo {
    pub(super) fn new(transport: Transport, connection: Arc<Connection>) -> Self {
        connection.socket(transport.socket().fd());
        Self {
            transport,
            input: BytesMut::new(),
            scanner: Scanner::default(),
            remainder: BodyRemainder::Bytes(0),
            request: (0, BodyFraming::None),
            room: READ_BUFFER,
            most_requests: 1,
            output: Vec::new(),
            is_pipelined: false,
            frames: None,
            websocket: None,
            connection,
        }
    }

    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Switches to HTTP/2. From now on frames are counted.
    pub(super) fn set_http2(&mut self, limits: FrameLimits) {
        self.frames = Some(Box::new(Http2Frames::new(limits)));
        self.connection.enter(Stage::Http2);
    }

    /// Waits for the next request head and scans it by the limits that its listener has then.
    /// `takes_http2` allows the client to begin with HTTP/2.
    pub(super) async fn next_head(&mut self, takes_http2: bool) -> HeadWait {
        self.remainder = BodyRemainder::Bytes(0);
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
                    return HeadWait::Http2;
                }
                // The scanner goes on where it was, and a preface is no head: it has seen none of it.
                let scanned = if takes_http2 && PREFACE.starts_with(&self.input) {
                    ScanResult::Partial
                } else {
                    let listener = self.connection.listener.config();
                    self.most_requests = listener.limits.requests_per_connection;
                    let limits = HeadLimits::from(&**listener);
                    self.scanner.scan(&self.input, &limits)
                };
                match scanned {
                    ScanResult::Partial => {}
                    ScanResult::Head(head) => {
                        return match self.begin(&head) {
                            Ok(()) => HeadWait::Request,
                            Err(reason) => self.ended(Some(reason)),
                        };
                    }
                    ScanResult::Refused(refused) => return HeadWait::Refused(refused),
                }
                if self.connection.stage() != Stage::Head {
                    self.connection.enter(Stage::Head);
                }
            }
            match self.read_head().await {
                Ok(0) => return self.ended(self.connection.close_reason()),
                Ok(_) => {}
                Err(error) => {
                    log::debug!(error:%; "client connection failed between requests");
                    // With TLS, closing by the gateway is an error too.
                    return self.ended(self.connection.close_reason());
                }
            }
        }
    }

    /// Returns the outcome if the client sends no more, or was prevented from it.
    fn ended(&self, reason: Option<CloseReason>) -> HeadWait {
        match reason {
            Some(CloseReason::HeaderTimeout) if !self.input.is_empty() => {
                // The response's own log line reports it.
                self.connection.report_close();
                HeadWait::Refused(head::timeout(&self.input))
            }
            _ => HeadWait::Closed,
        }
    }

    fn begin(&mut self, head: &Head) -> Result<(), CloseReason> {
        let length = head.length - self.take_out(&head.dropped);
        self.request = (length, head.body);
        self.connection.begin_request()
    }

    /// Takes the header section of the request that has begun. What is read next is its body.
    pub(super) fn take_head(&mut self) -> Bytes {
        let (length, body) = self.request;
        let head = shared_copy(&self.input[..length]);
        self.input.advance(length);
        self.remainder = BodyRemainder::new(body);
        let rest = match body {
            BodyFraming::None => 0,
            BodyFraming::Length(rest) => rest,
            BodyFraming::Chunked => u64::MAX,
        };
        let is_short = rest == 0 || rest.saturating_add(length as u64) <= READ_BUFFER as u64;
        self.room = if is_short {
            READ_BUFFER
        } else {
            LONG_READ_BUFFER
        };
        head
    }

    /// Returns true if the connection takes no more than `requests`.
    pub(super) fn is_full(&self, requests: u32) -> bool {
        requests >= self.most_requests
    }

    /// Returns true if the current request has a body.
    pub(super) fn has_body(&self) -> bool {
        self.request.1 != BodyFraming::None
    }

    /// Closes the connection. What the client still sends is read first.
    pub(super) async fn close(&mut self) {
        let is_sending = self.is_sending();
        if let Err(error) = AsyncWriteExt::shutdown(self).await {
            log::debug!(error:%; "client connection closed before we closed it");
        } else if is_sending {
            let rest = tokio::time::timeout(LINGER_TIMEOUT, self.linger()).await;
            log::debug!(is_read = matches!(rest, Ok(Ok(()))); "closing after unread bytes");
        }
    }

    /// Tells a client over TLS that nothing follows, if its socket accepts that without waiting.
    pub(super) fn say_end(&mut self) {
        if let Transport::Tls(stream) = &mut self.transport {
            let mut nobody = Context::from_waker(Waker::noop());
            if let Poll::Ready(Err(error)) = Pin::new(&mut **stream).poll_shutdown(&mut nobody) {
                log::debug!(error:%; "client connection closed before its end was sent");
            }
        }
    }

    /// Returns true if bytes of the client are unread, or others are likely to come: the rest of a
    /// body, or further requests (as nginx: `lingering_close on`).
    pub(super) fn is_sending(&self) -> bool {
        let mut nobody = Context::from_waker(Waker::noop());
        let socket = self.transport.socket();
        (self.has_body() && !self.remainder.is_complete())
            || self.is_pipelined
            || !self.input.is_empty()
            || socket.poll_read_ready(&mut nobody).is_ready()
    }

    /// Removes lines from the head, and returns their length in bytes. The bytes before each line
    /// move over it, so that a body after the head stays in place.
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

    /// Marks the connection as idle after a request.
    pub(super) fn idle(&mut self) {
        self.is_pipelined |= !self.input.is_empty();
        self.transport.idle();
        self.connection.enter(Stage::Idle);
    }

    /// Reads the rest of a client's bytes, until it closes or the limit is reached. Closing
    /// with unread bytes resets the connection, and the response is lost (nginx:
    /// `lingering_close`).
    pub(super) async fn linger(&mut self) -> io::Result<()> {
        let mut read = 0;
        while read < MAX_LINGER_BYTES {
            self.input.clear();
            self.input.reserve(READ_BUFFER);
            match self.transport.read_buf(&mut self.input).await? {
                0 => return Ok(()),
                count => read += count,
            }
        }
        Ok(())
    }

    /// Holds further bytes back, because the request is complete. Its session learns only if the
    /// client is still connected.
    fn poll_hold(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Polled on each wake-up of the request, and rarely with anything to read: the socket knows
        // that without going through TLS.
        ready!(self.transport.socket().poll_read_ready(cx))?;
        while self.input.len() < MAX_PIPELINED {
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

    /// Accepts data to write, into the buffer or the socket.
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
        // Headers are buffered and their body is large: one call writes both.
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

    /// Writes the buffered bytes to the socket.
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
    /// Flushes a response that broke off before its first flush: its client must see that it began
    /// and was aborted, not that the connection closed for no reason.
    fn drop(&mut self) {
        self.connection.socket_gone();
        if self.output.is_empty() {
            return;
        }
        // Over TLS this would need a new record, and nothing could wait for the write.
        if let Transport::Plain(socket) = &self.transport
            && let Err(error) = socket.try_write(&self.output)
        {
            log::debug!(error:%; "client connection closed before its response");
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
        if this.remainder.is_complete() && !is_tunnel {
            return this.poll_hold(cx);
        }
        if is_tunnel {
            // They were for header sections, and a tunnel may be silent for hours.
            this.release_buffers();
        }
        if !this.input.is_empty() {
            let here = this.input.len().min(buf.remaining());
            let count = this.remainder.take(&this.input[..here], is_tunnel);
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
            // Nothing waits for the other direction of the tunnel.
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        this.connection.pace.received(came.len());
        let count = this.remainder.take(came, is_tunnel);
        // Bytes beyond the current request wait.
        this.input.extend_from_slice(&came[count.unwrap_or(0)..]);
        buf.set_filled(before + count.unwrap_or(0));
        if count.is_none() {
            put_no_chunk(buf);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ConnIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.frames.is_some() {
            return this.poll_write_frames(cx, &[IoSlice::new(data)]);
        }
        if this.connection.is_websocket() {
            return this.poll_put_frames(cx, data);
        }
        this.poll_put(cx, data)
    }

    /// Writes frames, which `h2` has buffered.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.frames.is_none() {
            let first = slices.iter().find(|slice| !slice.is_empty());
            return self.poll_write(cx, first.map_or(&[], |slice| slice));
        }
        self.poll_write_frames(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.frames.is_some()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_segment(cx))?;
        ready!(self.poll_drain(cx))?;
        // The rest of the response may take hours.
        self.release_buffers();
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }
}

impl ClientIo for ConnIo {
    fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    fn is_request_complete(&self) -> bool {
        self.remainder.is_complete()
            && !self.connection.is_tunnel()
            && self.connection.close_reason().is_none()
    }

    fn take_body(&mut self) -> Option<BytesMut> {
        if self.input.is_empty() || self.remainder.is_complete() || self.connection.is_tunnel() {
            return None;
        }
        let count = self.remainder.take(&self.input, false)?;
        if count == self.input.len() {
            return Some(std::mem::take(&mut self.input));
        }
        Some(self.input.split_to(count))
    }

    fn take_error(&self) -> Option<io::Error> {
        self.transport.socket().take_error()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
