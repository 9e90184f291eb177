//! HTTP/1.1 response that is written directly, without a Pingora session.
//!
//! For a small response from the cache, such a session costs more than everything else: a second
//! map of names, a body writer, and buffers of its own. This module writes the same bytes for the
//! cases that are worth it: a `GET` without a body whose response is stored or a file.

use bytes::Bytes;
use http::{StatusCode, response};
use pingora::{
    ErrorType, OrErr, Result,
    http::{RequestHeader, ResponseHeader},
    protocols::Stream,
};
use pingora_proxy::Session;
use tokio::io::AsyncWriteExt;

use super::reply;
use crate::{
    base::clock::Clock,
    chain::ReadyLines,
    connection::response_header::{ConnectionReuse, PresentHeaders, ResponseHeaderWriter},
};

/// Capacity that fits most header sections.
const HEADER_SECTION: usize = 1024;

/// Client of one request.
pub(super) struct DirectClient<'a> {
    stream: &'a mut Stream,
    pub(super) request: &'a RequestHeader,
    reuse: ConnectionReuse,
    is_chunked: bool,
    /// Number of body bytes sent.
    pub(super) sent: u64,
    /// Status of the response that has begun.
    pub(super) status: Option<StatusCode>,
}

/// Destination of a response's body.
pub(super) trait ResponseSink {
    fn request(&self) -> &RequestHeader;

    async fn piece(&mut self, piece: Option<Bytes>, is_last: bool) -> Result<()>;
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
}

impl<'a> DirectClient<'a> {
    pub(super) fn new(
        stream: &'a mut Stream,
        request: &'a RequestHeader,
        reuse: ConnectionReuse,
    ) -> Self {
        Self {
            stream,
            request,
            reuse,
            is_chunked: false,
            sent: 0,
            status: None,
        }
    }

    /// Writes the status line and headers of the response.
    pub(super) async fn head(
        &mut self,
        head: response::Parts,
        lines: &ReadyLines,
        is_last: bool,
        clock: &Clock,
    ) -> Result<()> {
        let present = PresentHeaders::of(&head.headers);
        self.is_chunked = !is_last && !present.content_length;
        let status = head.status;
        let mut section = Vec::with_capacity(HEADER_SECTION);
        let writer = ResponseHeaderWriter {
            out: &mut section,
            ready_lines: match lines {
                ReadyLines::Given(lines) => Some(lines),
                ReadyLines::Taken | ReadyLines::NotTaken => None,
            },
        };
        let mut head = ResponseHeader::from(head);
        let date = || reply::date(clock);
        writer.write(&mut head, present, self.is_chunked, self.reuse, date);
        self.status = Some(status);
        self.stream
            .write_all(&section)
            .await
            .or_err(WRITE.0, WRITE.1)?;
        if is_last { self.flush().await } else { Ok(()) }
    }

    /// Writes a chunk of the response body.
    pub(super) async fn write(&mut self, piece: Option<Bytes>, is_last: bool) -> Result<()> {
        let piece = piece.unwrap_or_default();
        let written = if self.is_chunked {
            self.chunk(&piece, is_last).await
        } else {
            self.stream.write_all(&piece).await
        };
        written.or_err(WRITE.0, WRITE.1)?;
        self.sent += piece.len() as u64;
        if is_last { self.flush().await } else { Ok(()) }
    }

    /// Writes a chunk as in RFC 9112, 7.1.
    async fn chunk(&mut self, piece: &[u8], is_last: bool) -> std::io::Result<()> {
        if !piece.is_empty() {
            let size = format!("{:X}\r\n", piece.len());
            self.stream.write_all(size.as_bytes()).await?;
            self.stream.write_all(piece).await?;
            self.stream.write_all(b"\r\n").await?;
        }
        if is_last {
            self.stream.write_all(b"0\r\n\r\n").await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        self.stream.flush().await.or_err(WRITE.0, WRITE.1)
    }
}

const WRITE: (ErrorType, &str) = (ErrorType::WriteError, "writing a response");
