//! HTTP/1.1 response that is written directly, without a Pingora session.
//!
//! For a small response from the cache, such a session costs more than everything else: a second
//! map of names, a body writer, and buffers of its own. This module writes the same bytes for the
//! one case that is worth it: a `GET` without a body whose response is stored.

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header, response};
use pingora::{
    ErrorType, OrErr, Result,
    http::{RequestHeader, ResponseHeader},
    protocols::Stream,
};
use tokio::io::AsyncWriteExt;

use super::reply;
use crate::{base::clock::Clock, chain::ReadyLines};

/// Capacity that fits most header sections.
const HEAD: usize = 1024;

/// Client of one request.
pub(super) struct DirectClient<'a> {
    stream: &'a mut Stream,
    pub(super) request: &'a RequestHeader,
    /// True if another request may follow on the connection.
    keeps: bool,
    is_chunked: bool,
    /// Number of body bytes sent.
    pub(super) sent: u64,
    /// Status of the response that has begun.
    pub(super) status: Option<StatusCode>,
}

impl<'a> DirectClient<'a> {
    pub(super) fn new(stream: &'a mut Stream, request: &'a RequestHeader, keeps: bool) -> Self {
        Self {
            stream,
            request,
            keeps,
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
        let present = DirectHeaders::of(&head.headers);
        self.is_chunked = !is_last && !present.has_length;
        let status = head.status;
        let head = self.text(head, &present, lines, clock);
        self.status = Some(status);
        self.stream
            .write_all(&head)
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

    fn text(
        &self,
        mut head: response::Parts,
        present: &DirectHeaders,
        lines: &ReadyLines,
        clock: &Clock,
    ) -> Vec<u8> {
        if present.has_connection {
            // Written below, no matter which value a filter set.
            head.headers.remove(header::CONNECTION);
        }
        let mut text = Vec::with_capacity(HEAD);
        text.extend_from_slice(b"HTTP/1.1 ");
        text.extend_from_slice(head.status.as_str().as_bytes());
        text.push(b' ');
        let phrase = head.status.canonical_reason().unwrap_or_default();
        text.extend_from_slice(phrase.as_bytes());
        text.extend_from_slice(b"\r\n");
        if let ReadyLines::Given(lines) = lines {
            text.extend_from_slice(lines);
        }
        if !present.has_date {
            text.extend_from_slice(b"Date: ");
            text.extend_from_slice(reply::date(clock).as_bytes());
            text.extend_from_slice(b"\r\n");
        }
        if self.is_chunked && !present.has_coding {
            text.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
        ResponseHeader::from(head).header_to_h1_wire(&mut text);
        let connection: &[u8] = if self.keeps {
            b"Connection: keep-alive\r\n\r\n"
        } else {
            b"Connection: close\r\n\r\n"
        };
        text.extend_from_slice(connection);
        text
    }

    async fn flush(&mut self) -> Result<()> {
        self.stream.flush().await.or_err(WRITE.0, WRITE.1)
    }
}

const WRITE: (ErrorType, &str) = (ErrorType::WriteError, "writing a response");

/// Presence of the headers that matter to the connection. One pass over the names costs less than a
/// lookup of each.
#[derive(Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is the presence of a header"
)]
struct DirectHeaders {
    has_length: bool,
    has_coding: bool,
    has_date: bool,
    has_connection: bool,
}

impl DirectHeaders {
    fn of(headers: &HeaderMap) -> Self {
        let mut present = Self::default();
        for name in headers.keys() {
            match *name {
                header::CONTENT_LENGTH => present.has_length = true,
                header::TRANSFER_ENCODING => present.has_coding = true,
                header::DATE => present.has_date = true,
                header::CONNECTION => present.has_connection = true,
                _ => {}
            }
        }
        present
    }
}
