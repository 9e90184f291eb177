//! Response that is written directly, without a Pingora session: one that is stored, a file, a reply
//! of the gateway, or one that is relayed from a backend ([`super::relay`]).

mod http1;
mod http2;

use std::{
    sync::{Arc, OnceLock},
    task::{Context as TaskContext, Poll},
};

use bytes::{Bytes, BytesMut};
use edgeway_base::clock::Clock;
use edgeway_cache::store::Body;
use edgeway_core::chain::{ReadyLines, Reply};
use edgeway_files::{Segment, SentSegment};
use edgeway_filters::error_pages::PageRequest;
use edgeway_gateway::Limits;
use http::{StatusCode, response};
use pingora::{
    Error, ErrorType, Result,
    http::{RequestHeader, ResponseHeader},
    protocols::{Stream, http::v2::server::HttpSession},
};
use pingora_proxy::Session;

pub(super) use self::http1::Http1Stream;
use self::http2::Http2Stream;
use super::{
    context::Context,
    error_page,
    relay::{self, Piece},
    reply,
};
use crate::connection::{
    file_segment::SegmentSlot, response_header::ConnectionReuse, response_queue::ResponseQueue,
};

const GONE: &str = "the client left before its response was complete";
const WRITE: (ErrorType, &str) = (ErrorType::WriteError, "writing a response");

/// Client of one request.
pub(super) struct DirectClient<'a> {
    wire: Wire<'a>,
    pub(super) request: &'a RequestHeader,
    /// Room for the request as another route gets it.
    rerouted: &'a ReroutedRequest,
    /// Number of body bytes sent.
    pub(super) sent: u64,
    /// Status of the response that has begun.
    pub(super) status: Option<StatusCode>,
}

/// Request as another route gets it, if the backend of the first one leads there.
pub(super) type ReroutedRequest = OnceLock<Box<RequestHeader>>;

enum Wire<'a> {
    Http1(Http1Stream<'a>),
    Http2(Http2Stream<'a>),
}

/// Destination of a response's body.
pub(super) trait ResponseSink {
    fn request(&self) -> &RequestHeader;

    async fn piece(&mut self, piece: Option<Bytes>, is_last: bool) -> Result<()>;

    /// Sends a segment of a stored body as it is.
    async fn segment(&mut self, body: &Arc<Body>, at: usize, is_last: bool) -> Result<()> {
        self.piece(body.segment(at), is_last).await
    }
}

impl ResponseSink for Session {
    fn request(&self) -> &RequestHeader {
        self.req_header()
    }

    async fn piece(&mut self, piece: Option<Bytes>, is_last: bool) -> Result<()> {
        self.write_response_body(piece, is_last).await
    }
}

impl ResponseSink for DirectClient<'_> {
    fn request(&self) -> &RequestHeader {
        self.request
    }

    async fn piece(&mut self, piece: Option<Bytes>, is_last: bool) -> Result<()> {
        self.write(piece, is_last).await
    }

    async fn segment(&mut self, body: &Arc<Body>, at: usize, is_last: bool) -> Result<()> {
        let Wire::Http1(stream) = &mut self.wire else {
            return self.piece(body.segment(at), is_last).await;
        };
        // The connection copies it or sends it before it returns, so that nothing has to share it.
        let segment = body.whole().and_then(|whole| whole.segments().nth(at));
        let segment = segment.unwrap_or_default();
        stream.write(segment, is_last).await?;
        self.sent += segment.len() as u64;
        Ok(())
    }
}

impl<'a> DirectClient<'a> {
    /// Creates the client of a `request` that is the next to be read from `stream`.
    pub(super) fn http1(
        stream: &'a mut Stream,
        (request, rerouted): (&'a RequestHeader, &'a ReroutedRequest),
        reuse: ConnectionReuse,
    ) -> Self {
        let stream = Http1Stream::new(stream, request.version, reuse);
        Self::new(Wire::Http1(stream), request, rerouted)
    }

    /// Creates the client of a stream's `request`.
    pub(super) fn http2(
        session: &'a mut HttpSession,
        (request, rerouted): (&'a RequestHeader, &'a ReroutedRequest),
        responses: &'a ResponseQueue,
        limits: &Limits,
    ) -> Self {
        let stream = Http2Stream::new(session, responses, limits.send_timeout);
        Self::new(Wire::Http2(stream), request, rerouted)
    }

    fn new(wire: Wire<'a>, request: &'a RequestHeader, rerouted: &'a ReroutedRequest) -> Self {
        Self {
            wire,
            request,
            rerouted,
            sent: 0,
            status: None,
        }
    }

    /// Makes the request the one that another route gets. Only the page of an error is asked for
    /// after a response of a backend, and it has no page itself.
    pub(super) fn reroute(&mut self, request: RequestHeader) {
        self.request = self.rerouted.get_or_init(|| Box::new(request));
    }

    /// Returns true if bytes of the request that nobody reads do not affect other requests of the
    /// connection.
    pub(super) fn is_http2(&self) -> bool {
        matches!(self.wire, Wire::Http2(_))
    }

    /// Closes the connection after the response. On HTTP/2 the loop of the connection does it.
    pub(super) fn close(&mut self) {
        if let Wire::Http1(stream) = &mut self.wire {
            stream.reuse = ConnectionReuse::Close;
        }
    }

    /// Returns true if the connection may carry another request after the response.
    pub(super) fn is_kept(&self) -> bool {
        match &self.wire {
            Wire::Http1(stream) => stream.reuse == ConnectionReuse::KeepAlive,
            Wire::Http2(_) => true,
        }
    }

    /// Writes the headers of the response.
    pub(super) async fn head(
        &mut self,
        head: response::Parts,
        lines: &ReadyLines,
        is_last: bool,
        clock: &Clock,
    ) -> Result<()> {
        self.response(ResponseHeader::from(head), lines, is_last, clock)
            .await
    }

    /// Writes the headers of `head`, which may have a reason phrase of its own.
    pub(super) async fn response(
        &mut self,
        head: ResponseHeader,
        lines: &ReadyLines,
        is_last: bool,
        clock: &Clock,
    ) -> Result<()> {
        let status = head.status;
        match &mut self.wire {
            Wire::Http1(stream) => stream.response(head, lines, is_last, clock).await?,
            Wire::Http2(stream) => stream.response(head, lines, reply::date(clock), is_last)?,
        }
        self.status = Some(status);
        Ok(())
    }

    /// Sends a reply of the gateway, after the error and the response phase.
    pub(super) async fn reply(&mut self, ctx: &mut Context, mut reply: Reply) -> Result<()> {
        if !reply.is_silent()
            && let Some(page) = reply::plan(self.request, ctx, &mut reply).await
        {
            // Boxed, because otherwise every request's future would be as large.
            Box::pin(self.insert_page(ctx, page, &mut reply)).await;
        }
        self.planned_reply(ctx, reply).await
    }

    /// Puts a page into a reply, asked for with the body that a stream has.
    async fn insert_page(&mut self, ctx: &mut Context, page: PageRequest, reply: &mut Reply) {
        let body = if self.is_http2() && error_page::wants_body(ctx, &page) {
            relay::whole_body(self, ctx).await
        } else {
            None
        };
        error_page::insert(self.request, ctx, page, body, reply).await;
    }

    /// Sends a reply that has passed the error phase, after the response phase.
    pub(super) async fn planned_reply(&mut self, ctx: &mut Context, reply: Reply) -> Result<()> {
        if reply.close || reply.is_silent() {
            self.close();
        }
        if reply.is_silent() {
            reply::withhold(ctx, &reply);
            return Ok(());
        }
        // Lines that are ready belong to a response that never came.
        ctx.facts.lines = ReadyLines::NotTaken;
        let (head, body) = reply::finish(self.request, ctx, reply).await?;
        let clock = &ctx.live().world.clock;
        self.response(head, &ReadyLines::NotTaken, body.is_none(), clock)
            .await?;
        match body {
            Some(body) => self.write(Some(body), true).await,
            None => Ok(()),
        }
    }

    /// Writes an interim response (RFC 9110, 15.2) and sends it. Pingora's HTTP/2 has none.
    pub(super) async fn interim(&mut self, head: &ResponseHeader) -> Result<()> {
        match &mut self.wire {
            Wire::Http1(stream) => stream.informational(head, &ReadyLines::NotTaken).await,
            Wire::Http2(_) => Ok(()),
        }
    }

    /// Returns the connection of an HTTP/1 request.
    pub(super) fn stream(&mut self) -> Result<&mut Http1Stream<'a>> {
        match &mut self.wire {
            Wire::Http1(stream) => Ok(stream),
            Wire::Http2(_) => Err(Error::new_in(ErrorType::Custom("not on HTTP/2"))),
        }
    }

    /// Writes the headers of a `101` and sends them. The connection is then a tunnel.
    pub(super) async fn switch(&mut self, head: &ResponseHeader, lines: &ReadyLines) -> Result<()> {
        self.close();
        self.stream()?.informational(head, lines).await?;
        self.status = Some(head.status);
        Ok(())
    }

    /// Reads the request's header section of `length` bytes, without looking at them.
    pub(super) async fn skip_header_section(&mut self, length: usize) -> Result<()> {
        self.stream()?.skip_header_section(length).await
    }

    /// Reads more of a request body that has framing of its own, as on HTTP/1. Returns the number
    /// of bytes, 0 at the end of the connection.
    pub(super) fn poll_input(
        &mut self,
        cx: &mut TaskContext<'_>,
        input: &mut BytesMut,
    ) -> Poll<Result<usize>> {
        self.stream()?.poll_input(cx, input)
    }

    /// Reads the next piece of a request body that comes in frames, as on HTTP/2.
    pub(super) fn poll_piece(&mut self, cx: &mut TaskContext<'_>) -> Option<Poll<Result<Piece>>> {
        match &mut self.wire {
            Wire::Http1(_) => None,
            Wire::Http2(stream) => Some(stream.poll_piece(cx)),
        }
    }

    /// Sends what is buffered. On HTTP/2 the loop of the connection does it.
    pub(super) fn poll_flush(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<()>> {
        match &mut self.wire {
            Wire::Http1(stream) => stream.poll_flush(cx),
            Wire::Http2(_) => Poll::Ready(Ok(())),
        }
    }

    /// Waits until the client, whose request is complete, has left.
    pub(super) fn poll_gone(&mut self, cx: &mut TaskContext<'_>) -> Poll<Box<Error>> {
        match &mut self.wire {
            Wire::Http1(stream) => stream.poll_gone(cx),
            Wire::Http2(stream) => stream.poll_gone(cx),
        }
    }

    /// Returns true if the body is sent as it is, so that parts of a file can be written without
    /// reading them.
    pub(super) fn takes_segments(&self) -> bool {
        matches!(&self.wire, Wire::Http1(stream) if stream.has_length())
    }

    /// Writes a part of the response body that is a part of a file, without reading it. Returns
    /// what was written when the client's connection accepted no more.
    pub(super) async fn write_segment(
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

    /// Writes a piece of the response body.
    pub(super) async fn write(&mut self, piece: Option<Bytes>, is_last: bool) -> Result<()> {
        let piece = piece.unwrap_or_default();
        let length = piece.len();
        match &mut self.wire {
            Wire::Http1(stream) => stream.write(&piece, is_last).await?,
            Wire::Http2(stream) => stream.write(piece, is_last).await?,
        }
        self.sent += length as u64;
        Ok(())
    }
}
