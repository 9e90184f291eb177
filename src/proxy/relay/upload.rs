//! Body of a request on its way to a backend, while the response may already be coming.

use std::{
    collections::VecDeque,
    future::poll_fn,
    task::{Context as TaskContext, Poll, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, header};
use pingora::{Error, ErrorType, Result};

use super::{
    body::{MessageBody, Piece},
    response::Framing,
};
use crate::{
    chain::{Phase, Verdict},
    proxy::{context::Context, direct::DirectClient, upstream},
    upstreams::BackendConnection,
};

/// Limit on content that is kept for another attempt, the same as Pingora's.
const MAX_KEPT: usize = 64 * 1024;
/// Length up to which output is gathered before it is written.
const GATHER: usize = 16 * 1024;
/// Room for a read from the client.
const ROOM: usize = 16 * 1024;

/// Body that is being received from the client and sent to a backend.
#[derive(Debug)]
pub(super) struct Upload {
    /// `None` if the request has no body.
    body: Option<MessageBody>,
    /// Bytes that were received and not used yet.
    input: BytesMut,
    /// Bytes for the backend that were not sent yet.
    output: BytesMut,
    /// True if the backend gets the body in chunks.
    is_chunked: bool,
    /// True once the end of the body is in the output.
    is_framed: bool,
    /// True once the backend accepts no more of it.
    is_refused: bool,
    /// Pieces so far, for another attempt; `None` if there were too many.
    kept: Option<Vec<Piece>>,
    kept_length: usize,
    /// Pieces that this attempt has still to send again.
    again: VecDeque<Piece>,
    /// Number of content bytes received.
    pub(super) received: u64,
}

impl Upload {
    /// Creates the upload of a request with these `headers`, which were checked when they came.
    pub(super) fn new(headers: &HeaderMap, has_body: bool) -> Self {
        let length = headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let framing = match length {
            _ if headers.contains_key(header::TRANSFER_ENCODING) => Framing::Chunked,
            Some(length) => Framing::Length(length),
            None => Framing::Chunked,
        };
        Self {
            body: has_body.then(|| MessageBody::new(framing)),
            input: BytesMut::new(),
            output: BytesMut::new(),
            is_chunked: false,
            is_framed: false,
            is_refused: false,
            kept: Some(Vec::new()),
            kept_length: 0,
            again: VecDeque::new(),
            received: 0,
        }
    }

    pub(super) fn has_body(&self) -> bool {
        self.body.is_some()
    }

    /// Returns true if another attempt can send the same body.
    pub(super) fn is_replayable(&self) -> bool {
        self.kept.is_some()
    }

    /// Returns true if all of it was read from the client.
    pub(super) fn is_read(&self) -> bool {
        self.body.as_ref().is_none_or(MessageBody::is_complete)
    }

    /// Returns true if all of it was sent to the backend.
    pub(super) fn is_sent(&self) -> bool {
        self.is_framed && self.output.is_empty() && !self.is_refused
    }

    /// Begins an attempt, which sends the header `section` first.
    pub(super) fn begin(&mut self, section: BytesMut, is_chunked: bool) {
        self.output = section;
        self.is_chunked = is_chunked;
        self.is_refused = false;
        self.is_framed = false;
        self.again = self.kept.iter().flatten().cloned().collect();
    }

    /// Reads the rest and forgets it.
    pub(super) async fn discard(&mut self, client: &mut DirectClient<'_>) -> Result<()> {
        self.kept = None;
        self.again.clear();
        while !self.is_read() {
            poll_fn(|cx| self.poll_piece(cx, client)).await?;
        }
        Ok(())
    }

    /// Sends what there is. Ready once nothing is left to send, or if the backend refuses more:
    /// then its response says why.
    pub(super) fn poll(
        &mut self,
        cx: &mut TaskContext<'_>,
        client: &mut DirectClient<'_>,
        connection: &mut BackendConnection,
        ctx: &mut Context,
    ) -> Poll<Result<()>> {
        loop {
            let mut is_client_slow = false;
            while !self.is_framed && self.output.len() < GATHER {
                match self.poll_piece(cx, client) {
                    Poll::Ready(piece) => self.frame(piece?, client, ctx)?,
                    Poll::Pending => {
                        is_client_slow = true;
                        break;
                    }
                }
            }
            if self.is_refused || (self.output.is_empty() && self.is_framed) {
                return Poll::Ready(Ok(()));
            }
            if self.output.is_empty() {
                debug_assert!(is_client_slow, "otherwise there would be output");
                return Poll::Pending;
            }
            match ready!(connection.poll_output(cx, &self.output)) {
                Ok(count @ 1..) => self.output.advance(count),
                written => {
                    if let Err(error) = written {
                        log::debug!(error:%; "a backend accepts no more of a request");
                    }
                    self.is_refused = true;
                }
            }
        }
    }

    /// Returns the next piece, from an earlier attempt or from the client.
    fn poll_piece(
        &mut self,
        cx: &mut TaskContext<'_>,
        client: &mut DirectClient<'_>,
    ) -> Poll<Result<Piece>> {
        if let Some(piece) = self.again.pop_front() {
            return Poll::Ready(Ok(piece));
        }
        let Some(body) = &mut self.body else {
            let is_last = true;
            let bytes = None;
            return Poll::Ready(Ok(Piece { bytes, is_last }));
        };
        let piece = loop {
            if let Some(piece) = body.take(&mut self.input).map_err(Error::into_down)? {
                break piece;
            }
            self.input.reserve(ROOM);
            if ready!(client.poll_input(cx, &mut self.input))? == 0 {
                break body.close().map_err(Error::into_down)?;
            }
        };
        let length = piece.bytes.as_ref().map_or(0, Bytes::len);
        self.received += length as u64;
        self.kept_length += length;
        if self.kept_length > MAX_KEPT {
            self.kept = None;
        }
        if let Some(kept) = &mut self.kept {
            kept.push(piece.clone());
        }
        Poll::Ready(Ok(piece))
    }

    /// Adds a piece to the output, after the filters have seen it.
    fn frame(&mut self, piece: Piece, client: &DirectClient<'_>, ctx: &mut Context) -> Result<()> {
        let Piece { mut bytes, is_last } = piece;
        upstream::sent_body(bytes.as_ref(), is_last, ctx);
        let (chain, mut ex) = ctx.exchange(client.request);
        if chain.has(Phase::RequestBody)
            && let Verdict::Reply(refusal) = chain.on_request_body(&mut ex, &mut bytes, is_last)
        {
            ctx.reply = Some(refusal);
            // The backend is not at fault, and no other backend may get the request.
            return Err(Error::new_down(ErrorType::Custom("refused")));
        }
        let bytes = bytes.unwrap_or_default();
        if self.is_chunked && !bytes.is_empty() {
            let size = format!("{:X}\r\n", bytes.len());
            self.output.extend_from_slice(size.as_bytes());
        }
        self.output.extend_from_slice(&bytes);
        if self.is_chunked && !bytes.is_empty() {
            self.output.extend_from_slice(b"\r\n");
        }
        if self.is_chunked && is_last {
            self.output.extend_from_slice(b"0\r\n\r\n");
        }
        self.is_framed = is_last;
        Ok(())
    }
}
