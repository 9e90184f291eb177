//! Session of one request: its client, over HTTP/1 or on a stream of HTTP/2, or nobody if the
//! gateway makes the request for itself.
//!
//! A session promises: the headers of the request are parsed; its body can be read in pieces; any
//! number of interim responses and one response can be written; it says when the client has left;
//! and it counts the bytes of both bodies. Pingora's hooks get it as a session of Pingora
//! ([`custom`]).

mod body;
mod custom;
mod http1;
mod http2;

use std::{
    future::poll_fn,
    mem,
    pin::pin,
    sync::Arc,
    task::{Context as TaskContext, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use edgeway_base::clock::Clock;
use edgeway_cache::store::Body;
use edgeway_core::chain::ReadyLines;
use edgeway_files::{Segment, SentSegment};
use futures_util::FutureExt as _;
use http::{HeaderMap, StatusCode, header};
use pingora::{
    Error, ErrorType, Result,
    http::{RequestHeader, ResponseHeader},
};

use self::body::RequestBody;
pub(crate) use self::{
    custom::{ClientSlot, client, for_pingora, reusable, reuse},
    http1::{ClientIo, Http1Stream, OutgoingPiece},
    http2::{DATA as HTTP2_DATA, Http2Stream, SEND_BUFFER},
};
use crate::{
    connection::{
        Connection, file_segment::SegmentSlot, refusal::Refusal, response_header::ConnectionReuse,
    },
    message::{Piece, date, is_kept},
};

const GONE: &str = "the client left before its response was complete";
const WRITE: (ErrorType, &str) = (ErrorType::WriteError, "writing a response");
/// Time that a client may go on sending after the response (nginx: `lingering_time`).
const LINGER_TIME: Duration = Duration::from_secs(30);
/// Time that it may pause in this (nginx: `lingering_timeout`).
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after which a client that sends counts as one that waits.
const PAUSE_BEFORE_END: Duration = Duration::from_millis(300);
/// Length of a body up to which it is read after the response for the sake of the next request.
const MAX_UNREAD: u64 = 1 << 20;

/// Client of one request.
pub(crate) struct Client {
    wire: Wire,
    pub(crate) request: RequestHeader,
    pub(crate) connection: Option<Arc<Connection>>,
    pub(crate) body: RequestBody,
    /// Why the edge refuses the request, if it does.
    pub(crate) refusal: Option<Box<Refusal>>,
    /// Number of body bytes sent.
    pub(crate) sent: u64,
    /// Status of the response that has begun.
    pub(crate) status: Option<StatusCode>,
    /// True once the client has all of its response, but for an end that is held back.
    pub(crate) has_response: bool,
    /// True if the end of the response is held back.
    ends_later: bool,
}

enum Wire {
    Http1(Http1Stream),
    Http2(Box<Http2Stream>),
    /// Nobody waits for the response.
    Nobody,
}

/// Request as it arrives on a connection of HTTP/1.
pub(crate) struct Arrival {
    pub(crate) io: Box<dyn ClientIo>,
    pub(crate) request: RequestHeader,
    pub(crate) has_body: bool,
    /// True if the connection ends with this request, whatever its client wants.
    pub(crate) is_last: bool,
}

impl Wire {
    fn poll_gone(&mut self, cx: &mut TaskContext<'_>) -> Poll<Box<Error>> {
        match self {
            Self::Http1(stream) => stream.poll_gone(cx),
            Self::Http2(stream) => stream.poll_gone(cx),
            Self::Nobody => Poll::Pending,
        }
    }
}

/// Client of a request while its request waits for something.
pub(crate) struct ClientWatch<'a> {
    wire: &'a mut Wire,
    is_watched: bool,
}

impl ClientWatch<'_> {
    /// Runs `work` to its end, or until the client has left.
    pub(crate) async fn during<T>(self, work: impl Future<Output = T>) -> Result<T> {
        let mut work = pin!(work);
        poll_fn(|cx| {
            if let Wire::Http1(stream) = &mut *self.wire {
                stream.wait_longer();
            }
            // First: a client may have left while filters waited.
            if self.is_watched
                && let Poll::Ready(error) = self.wire.poll_gone(cx)
            {
                return Poll::Ready(Err(error));
            }
            work.as_mut().poll(cx).map(Ok)
        })
        .await
    }
}

impl Client {
    /// Creates the client of a request that has arrived on a connection of HTTP/1.
    pub(crate) fn http1(arrival: Arrival) -> Self {
        let request = arrival.request;
        let connection = Arc::clone(arrival.io.connection());
        let reuse = if is_kept(&request) && !arrival.is_last {
            ConnectionReuse::KeepAlive
        } else {
            ConnectionReuse::Close
        };
        let stream = Http1Stream::new(arrival.io, request.version, reuse);
        let body = RequestBody::new(&request.headers, arrival.has_body);
        Self::new(Wire::Http1(stream), request, Some(connection), body)
    }

    /// Creates the client of a stream's request.
    pub(crate) fn http2(
        stream: Box<Http2Stream>,
        request: RequestHeader,
        has_body: bool,
        connection: Arc<Connection>,
    ) -> Self {
        let body = RequestBody::new(&request.headers, has_body);
        Self::new(Wire::Http2(stream), request, Some(connection), body)
    }

    /// Creates the client of a request that the gateway makes for itself.
    pub(crate) fn nobody(request: RequestHeader, connection: Option<Arc<Connection>>) -> Self {
        let body = RequestBody::new(&HeaderMap::new(), false);
        Self::new(Wire::Nobody, request, connection, body)
    }

    fn new(
        wire: Wire,
        request: RequestHeader,
        connection: Option<Arc<Connection>>,
        body: RequestBody,
    ) -> Self {
        Self {
            wire,
            request,
            connection,
            body,
            refusal: None,
            sent: 0,
            status: None,
            has_response: false,
            ends_later: false,
        }
    }

    /// Returns the connection of a request over HTTP/1 that is over, and true if it may carry
    /// another one: not after a body of another length than announced (RFC 9112, 6.3).
    pub(crate) fn into_io(self) -> Option<(Box<dyn ClientIo>, bool)> {
        let is_kept = self.has_response && self.body.is_read() && self.is_kept();
        match self.wire {
            Wire::Http1(stream) => {
                let is_whole = stream.announced.is_none_or(|length| length == self.sent);
                Some((stream.io, is_kept && is_whole))
            }
            Wire::Http2(_) | Wire::Nobody => None,
        }
    }

    /// Returns true if the request has a stream of HTTP/2, so that bytes of it that nobody reads do
    /// not affect other requests of the connection.
    pub(crate) fn is_http2(&self) -> bool {
        matches!(self.wire, Wire::Http2(_))
    }

    /// Closes the connection after the response. On HTTP/2 the loop of the connection does it.
    pub(crate) fn close(&mut self) {
        if let Wire::Http1(stream) = &mut self.wire {
            stream.reuse = ConnectionReuse::Close;
        }
    }

    /// Resets the stream of HTTP/2 with a response that has begun and cannot be completed.
    pub(crate) fn break_off(&mut self) {
        if let Wire::Http2(stream) = &mut self.wire {
            stream.break_off();
        }
    }

    /// Returns true if the connection may carry another request after the response.
    pub(crate) fn is_kept(&self) -> bool {
        match &self.wire {
            Wire::Http1(stream) => stream.reuse == ConnectionReuse::KeepAlive,
            Wire::Http2(_) | Wire::Nobody => true,
        }
    }

    /// Writes the headers of `response`, which may have a reason phrase of its own.
    pub(crate) async fn response(
        &mut self,
        response: ResponseHeader,
        lines: &ReadyLines,
        is_last: bool,
        clock: &Clock,
    ) -> Result<()> {
        let status = response.status;
        match &mut self.wire {
            Wire::Http1(stream) => stream.response(response, lines, is_last, clock).await?,
            Wire::Http2(stream) => stream.response(response, lines, date(clock), is_last)?,
            Wire::Nobody => {}
        }
        self.status = Some(status);
        Ok(())
    }

    /// Writes an interim response (RFC 9110, 15.2) and sends it.
    pub(crate) async fn interim(&mut self, response: &ResponseHeader) -> Result<()> {
        match &mut self.wire {
            Wire::Http1(stream) => {
                let lines = &ReadyLines::NotTaken;
                stream.informational(response, lines).await
            }
            Wire::Http2(stream) => stream.interim(response),
            Wire::Nobody => Ok(()),
        }
    }

    /// Returns the connection of an HTTP/1 request.
    pub(crate) fn stream(&mut self) -> Result<&mut Http1Stream> {
        match &mut self.wire {
            Wire::Http1(stream) => Ok(stream),
            Wire::Http2(_) | Wire::Nobody => Err(Error::new_in(ErrorType::Custom("not HTTP/1"))),
        }
    }

    /// Writes the headers of a `101` and sends them. The connection is then a tunnel.
    pub(crate) async fn switch(
        &mut self,
        response: &ResponseHeader,
        lines: &ReadyLines,
    ) -> Result<()> {
        self.close();
        self.stream()?.informational(response, lines).await?;
        self.status = Some(response.status);
        Ok(())
    }

    /// Reads the next piece of the request's body, from what was read before or from the client.
    pub(crate) fn poll_piece(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<Piece>> {
        let Self { wire, body, .. } = self;
        if let Some(piece) = body.again.pop_front() {
            return Poll::Ready(Ok(piece));
        }
        let Some(framing) = &mut body.framing else {
            return Poll::Ready(Ok(Piece::END));
        };
        let piece = match wire {
            Wire::Http1(stream) => loop {
                if let Some(piece) = framing.take(&mut body.input).map_err(Error::into_down)? {
                    break piece;
                }
                if ready!(stream.poll_input(cx, &mut body.input))? == 0 {
                    break framing.close().map_err(Error::into_down)?;
                }
            },
            Wire::Http2(stream) => {
                let piece = ready!(stream.poll_piece(cx))?;
                if piece.is_last {
                    framing.complete();
                }
                piece
            }
            Wire::Nobody => {
                framing.complete();
                Piece::END
            }
        };
        body.record(&piece);
        Poll::Ready(Ok(piece))
    }

    /// Reads the next piece of the request's body.
    pub(crate) async fn piece(&mut self) -> Result<Piece> {
        poll_fn(|cx| self.poll_piece(cx)).await
    }

    /// Sends what is buffered. On HTTP/2 the loop of the connection does it.
    pub(crate) fn poll_flush(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<()>> {
        match &mut self.wire {
            Wire::Http1(stream) => stream.poll_flush(cx),
            Wire::Http2(_) | Wire::Nobody => Poll::Ready(Ok(())),
        }
    }

    /// Holds the end of a small response until [`Self::release`]: the connection to the backend is
    /// there for the client's next request before the client can send it.
    pub(crate) fn hold(&mut self) {
        if let Wire::Http1(stream) = &mut self.wire {
            stream.hold();
        }
    }

    /// Sends the end of a response that was held.
    pub(crate) async fn release(&mut self) -> Result<()> {
        match &mut self.wire {
            Wire::Http1(stream) => stream.release().await,
            Wire::Http2(_) | Wire::Nobody => Ok(()),
        }
    }

    /// Waits until the client, whose request is complete, has left.
    pub(crate) fn poll_gone(&mut self, cx: &mut TaskContext<'_>) -> Poll<Box<Error>> {
        self.wire.poll_gone(cx)
    }

    /// Returns the request, and what ends a wait if the client leaves.
    pub(crate) fn watched(&mut self) -> (&RequestHeader, ClientWatch<'_>) {
        let watch = ClientWatch {
            // On HTTP/1, only reading the body would tell.
            is_watched: self.body.is_read() || self.is_http2(),
            wire: &mut self.wire,
        };
        (&self.request, watch)
    }

    /// Returns true if the body is sent as it is, so that parts of a file can be written without
    /// reading them.
    pub(crate) fn takes_segments(&self) -> bool {
        matches!(&self.wire, Wire::Http1(stream) if !stream.is_chunked)
    }

    /// Writes a part of the response body that is a part of a file, without reading it. Returns
    /// what was written when the client's connection accepted no more.
    pub(crate) async fn write_segment(
        &mut self,
        slot: &SegmentSlot,
        segment: Segment,
    ) -> Result<SentSegment> {
        let Wire::Http1(stream) = &mut self.wire else {
            return Ok(SentSegment::refused());
        };
        slot.put(segment);
        let flushed = stream.flush().await;
        let sent = slot.take();
        self.sent += sent.bytes;
        flushed?;
        Ok(sent)
    }

    /// Writes a segment of a stored body as it is.
    pub(crate) async fn write_stored(
        &mut self,
        body: &Arc<Body>,
        index: usize,
        is_last: bool,
    ) -> Result<()> {
        let Wire::Http1(stream) = &mut self.wire else {
            return self.write(body.segment(index), is_last).await;
        };
        // The connection copies it or sends it before it returns, so that nothing has to share it.
        let segment = body.whole().and_then(|whole| whole.segments().nth(index));
        let segment = segment.unwrap_or_default();
        let mut outgoing = OutgoingPiece::new(segment, is_last, stream.is_chunked);
        poll_fn(|cx| stream.poll_write(cx, &mut outgoing)).await?;
        self.sent += segment.len() as u64;
        Ok(())
    }

    /// Writes a piece of the response body.
    pub(crate) async fn write(&mut self, piece: Option<Bytes>, is_last: bool) -> Result<()> {
        let mut outgoing = self.outgoing(piece, is_last);
        poll_fn(|cx| self.poll_write(cx, &mut outgoing)).await
    }

    /// Prepares a piece of the response body for [`Self::poll_write`].
    pub(crate) fn outgoing(&self, piece: Option<Bytes>, is_last: bool) -> OutgoingPiece<Bytes> {
        let is_chunked = matches!(&self.wire, Wire::Http1(stream) if stream.is_chunked);
        OutgoingPiece::new(piece.unwrap_or_default(), is_last, is_chunked)
    }

    /// Writes a piece of the response body as the client accepts it.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut TaskContext<'_>,
        outgoing: &mut OutgoingPiece<Bytes>,
    ) -> Poll<Result<()>> {
        match &mut self.wire {
            Wire::Http1(stream) => ready!(stream.poll_write(cx, outgoing))?,
            Wire::Http2(stream) => {
                let is_last = outgoing.is_last;
                ready!(stream.poll_write(cx, outgoing.piece(), is_last))?;
            }
            Wire::Nobody => {}
        }
        self.sent += outgoing.length as u64;
        Poll::Ready(Ok(()))
    }

    /// Ends the response with trailers, which HTTP/1 drops (RFC 9110, 6.5.1).
    pub(crate) fn trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        match &mut self.wire {
            Wire::Http2(stream) => stream.trailers(trailers),
            Wire::Http1(_) | Wire::Nobody => Ok(()),
        }
    }

    /// Reads the rest of the body and forgets it.
    pub(crate) async fn discard(&mut self) -> Result<()> {
        self.body.forget();
        while !self.body.is_read() {
            self.piece().await?;
        }
        Ok(())
    }

    /// Prepares for a response that comes before the end of the request: reads what has arrived of
    /// the body, and closes the connection after the response unless the rest is read soon, as
    /// nginx does.
    pub(crate) fn settle_body(&mut self) {
        if self.body.is_read() || self.is_http2() {
            return;
        }
        // A body that is there already is not in the way of the next request.
        drop(self.discard().now_or_never());
        if !self.body.is_read() && !self.is_soon_read() {
            self.close();
        }
    }

    /// Returns true if what is left of a request is read after its response: the client says how
    /// much it sends, and waits for nothing before it does.
    fn is_soon_read(&self) -> bool {
        let headers = &self.request.headers;
        let length = headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        length.is_some_and(|length| length <= MAX_UNREAD)
            && !headers.contains_key(header::TRANSFER_ENCODING)
            && !headers.contains_key(header::EXPECT)
    }

    /// Reads what is left of the request, which would be in the way of the next one. Closing a
    /// connection with unread bytes resets it, and the response is lost (nginx: `lingering_close`).
    /// On HTTP/2 the stream is reset, and some clients forget a complete response then. Returns
    /// false if the client did not finish in time.
    pub(crate) async fn linger(&mut self) -> bool {
        // A client whose body was too slow is not waited for again.
        let is_slow = self.status == Some(StatusCode::REQUEST_TIMEOUT);
        let limit = if is_slow { LINGER_TIMEOUT } else { LINGER_TIME };
        self.read_rest(limit, LINGER_TIMEOUT).await
    }

    /// Decides whether the end of the response is held back until [`Self::write_end`], and returns
    /// that. Over HTTP/2, some clients take an end that comes while they send for a failure (undici);
    /// others read nothing after the beginning of a success (curl 7.88).
    pub(crate) fn ends_later(&mut self) -> bool {
        let is_early = self.is_http2() && !self.body.is_read();
        let is_success = self.status.is_none_or(|status| status.is_success());
        self.ends_later =
            is_early && !is_success && self.status != Some(StatusCode::REQUEST_TIMEOUT);
        self.ends_later
    }

    /// Sends the end of the response if it is held back. Returns true if it was.
    pub(crate) async fn write_end(&mut self) -> Result<bool> {
        if !mem::take(&mut self.ends_later) {
            return Ok(false);
        }
        self.write(None, true).await.map(|()| true)
    }

    /// Returns the time that a client with all of its response may pause in its request: `grace`,
    /// unless it waits for the end, or was refused and may send no more (Node.js).
    pub(crate) fn pause(&self, grace: Duration) -> Duration {
        match self.status {
            _ if self.ends_later => PAUSE_BEFORE_END,
            Some(status) if status.is_success() => grace,
            _ => grace.min(LINGER_TIMEOUT),
        }
    }

    /// Returns true if there is nothing to do for [`Self::end`].
    pub(crate) fn is_over(&self) -> bool {
        !self.has_response || self.body.is_read() && !self.ends_later
    }

    /// Ends a request that has its log line and has returned its places: sends the end of the
    /// response if that is held back, and reads what is left of the request.
    pub(crate) async fn end(&mut self) {
        if self.ends_later {
            // Some clients send no more and wait for the end (curl): a short pause is enough.
            self.read_rest(LINGER_TIME, PAUSE_BEFORE_END).await;
        }
        // A client that has left sends nothing more.
        if self.write_end().await.is_ok() {
            self.linger().await;
        }
    }

    /// Reads the rest of the body and forgets it, until the `limit` is over or the client pauses.
    /// Returns true if all of it was read.
    async fn read_rest(&mut self, limit: Duration, pause: Duration) -> bool {
        if self.body.is_read() {
            return true;
        }
        self.body.forget();
        let rest = async {
            while !self.body.is_read() {
                let piece = tokio::time::timeout(pause, self.piece()).await;
                if !matches!(piece, Ok(Ok(_))) {
                    break;
                }
            }
        };
        // The client sends less, or the time is up.
        let _elapsed = tokio::time::timeout(limit, rest).await;
        self.body.is_read()
    }

    /// Returns true if the client has sent nothing of a body that it offered (RFC 9110, 10.1.1). With
    /// a response it may not, and what it sends next on the connection could be taken for the body.
    pub(crate) fn waits_for_continue(&self) -> bool {
        !self.body.is_read()
            && self.body.received == 0
            && self.request.headers.contains_key(header::EXPECT)
    }
}
