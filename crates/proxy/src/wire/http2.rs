//! HTTP/2 to a backend (RFC 9113): one stream of a connection that other requests share.

use std::{
    sync::Arc,
    task::{Context as TaskContext, Poll, ready},
};

use bytes::Bytes;
use edgeway_upstreams::BackendStream;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header, uri};
use pingora::{
    Error, ErrorType, OrErr as _, Result,
    http::{RequestHeader, ResponseHeader},
};

use super::{SentState, has_no_body};
use crate::{
    connection::deadline::Watch,
    grpc::is_call,
    message::{Piece, stated_length},
};

/// Headers of a connection, which HTTP/2 does not have (RFC 9113, 8.2.2).
const OF_CONNECTION: [HeaderName; 5] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Stream of one request.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct Http2Wire {
    pub(super) stream: BackendStream,
    is_tls: bool,
    /// Piece of the body that is being sent.
    piece: Bytes,
    pub(super) has_end: bool,
    /// True once the end of the request was sent.
    is_ended: bool,
    pub(super) sent: SentState,
    /// True once the request was sent.
    pub(super) is_begun: bool,
    /// True if the headers of the response ended it, although it could have a body.
    pub(super) is_empty: bool,
    pub(super) trailers: Option<HeaderMap>,
    /// Deadlines of the request, which wake its task.
    pub(super) watch: Option<Arc<Watch>>,
}

impl Http2Wire {
    pub(super) fn new(stream: BackendStream, is_tls: bool) -> Self {
        Self {
            stream,
            is_tls,
            piece: Bytes::new(),
            has_end: false,
            is_ended: false,
            sent: SentState::Flushed,
            is_begun: false,
            is_empty: false,
            trailers: None,
            watch: None,
        }
    }

    pub(super) fn is_reused(&self) -> bool {
        self.stream.is_reused()
    }

    /// Sends the headers of the request.
    pub(super) fn start(&mut self, mut request: RequestHeader, has_body: bool) -> Result<()> {
        let uri = uri(&request, self.is_tls)?;
        request.remove_header(&header::HOST);
        for name in &OF_CONNECTION {
            request.remove_header(name);
        }
        let mut parts = http::request::Parts::from(request);
        parts.uri = uri;
        parts.version = Version::HTTP_2;
        self.stream
            .send_request(Request::from_parts(parts, ()), !has_body)?;
        self.is_begun = true;
        self.has_end = !has_body;
        self.is_ended = !has_body;
        Ok(())
    }

    pub(super) fn has_room(&self) -> bool {
        self.piece.is_empty()
    }

    pub(super) fn take(&mut self, piece: Option<Bytes>, is_last: bool) {
        self.piece = piece.unwrap_or_default();
        self.has_end = is_last;
    }

    pub(super) fn poll_send(&mut self, cx: &mut TaskContext<'_>) -> Poll<bool> {
        if self.piece.is_empty() && self.has_end == self.is_ended {
            return Poll::Ready(false);
        }
        if let Err(error) = ready!(self.stream.poll_send(cx, &mut self.piece, self.has_end)) {
            log::debug!(error:%; "a backend accepts no more of a request");
            self.sent = SentState::Refused;
        }
        self.is_ended = self.has_end;
        Poll::Ready(true)
    }

    pub(super) fn is_sent(&self) -> bool {
        self.is_ended && self.sent == SentState::Flushed
    }

    pub(super) fn poll_response(
        &mut self,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Result<ResponseHeader>> {
        self.check_time()?;
        let polled = self.stream.poll_response(cx);
        let parts = ready!(self.awaited(cx, polled))?;
        let mut response = ResponseHeader::from(parts);
        response.set_version(Version::HTTP_11);
        Poll::Ready(Ok(response))
    }

    pub(super) fn begin_body(
        &mut self,
        method: &Method,
        response: &mut ResponseHeader,
    ) -> Result<bool> {
        for name in &OF_CONNECTION {
            response.remove_header(name);
        }
        let length = stated_length(response)?;
        if has_no_body(method, response) {
            return Ok(false);
        }
        if !self.stream.is_end_stream() {
            return Ok(true);
        }
        self.is_empty = true;
        // The frame says so; HTTP/1 needs a header (RFC 9110, 8.6).
        if !is_call(&response.headers) && length.is_none() {
            response.insert_header(header::CONTENT_LENGTH, HeaderValue::from(0))?;
        }
        Ok(false)
    }

    pub(super) fn poll_piece(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<Piece>> {
        self.check_time()?;
        let polled = self.stream.poll_data(cx);
        if let Some(bytes) = ready!(self.awaited(cx, polled)) {
            let is_last = self.stream.is_end_stream();
            let bytes = Some(bytes?);
            return Poll::Ready(Ok(Piece { bytes, is_last }));
        }
        let polled = self.stream.poll_trailers(cx);
        self.trailers = ready!(self.awaited(cx, polled))?;
        Poll::Ready(Ok(Piece::END))
    }

    /// Tells the deadlines if the request waits for its backend.
    fn awaited<T>(&self, cx: &TaskContext<'_>, polled: Poll<T>) -> Poll<T> {
        if let Some(watch) = &self.watch {
            if polled.is_pending() {
                watch.awaits(cx.waker());
            } else {
                watch.came();
            }
        }
        polled
    }

    fn check_time(&self) -> Result<()> {
        match &self.watch {
            Some(watch) if watch.expired().is_some() => Err(Error::new_up(ErrorType::ReadTimedout)),
            _ => Ok(()),
        }
    }
}

/// Returns the pseudo-headers of `request` (RFC 9113, 8.3.1).
fn uri(request: &RequestHeader, is_tls: bool) -> Result<Uri> {
    let mut parts = uri::Parts::default();
    parts.scheme = Some(if is_tls {
        uri::Scheme::HTTPS
    } else {
        uri::Scheme::HTTP
    });
    let invalid = "the target or the host of a request is invalid";
    let host = request.headers.get(header::HOST);
    let host = host.map_or(&b""[..], HeaderValue::as_bytes);
    let authority = uri::Authority::try_from(host);
    parts.authority = Some(authority.or_err(ErrorType::InvalidHTTPHeader, invalid)?);
    let path = uri::PathAndQuery::try_from(request.raw_path());
    parts.path_and_query = Some(path.or_err(ErrorType::InvalidHTTPHeader, invalid)?);
    Uri::from_parts(parts).or_err(ErrorType::InvalidHTTPHeader, invalid)
}
