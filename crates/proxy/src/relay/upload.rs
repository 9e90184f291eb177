//! Body of a request on its way to a backend, while the response may already be coming.

use std::{
    cell::Cell,
    collections::VecDeque,
    fmt::Write as _,
    future::poll_fn,
    io::{self, IoSlice},
    task::{Context as TaskContext, Poll, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use edgeway_core::chain::{Phase, Verdict};
use edgeway_upstreams::BackendConnection;
use http::{HeaderMap, header};
use pingora::{Error, ErrorType, Result, http::RequestHeader};

use super::{
    body::{MessageBody, Piece},
    response::Framing,
};
use crate::{context::Context, direct::DirectClient, error::Failure, upstream, upstream_request};

/// Limit on content that is kept for another attempt, the same as Pingora's.
const MAX_KEPT: usize = 64 * 1024;
/// Length up to which pieces are copied into one write with what surrounds them. A longer one is
/// written from where it is.
const SMALL: usize = 4096;
/// Length up to which small pieces are gathered before they are written.
const GATHER: usize = 16 * 1024;
/// Room for a read from the client.
const ROOM: usize = 16 * 1024;
/// Capacity that fits most header sections.
const SECTION: usize = 1024;
/// Capacity up to which a thread keeps a buffer for its next header section.
const MAX_SPARE: usize = 8 * 1024;

thread_local! {
    /// Buffer for the next header section that this thread sends.
    static SPARE: Cell<BytesMut> = Cell::new(BytesMut::new());
}

/// Body that is being received from the client and sent to a backend.
#[derive(Debug)]
pub(super) struct Upload {
    /// `None` if the request has no body.
    body: Option<MessageBody>,
    /// Bytes that were received and not used yet.
    input: BytesMut,
    /// Bytes for the backend that were not sent yet.
    output: Output,
    /// True if the backend gets the body in chunks.
    is_chunked: bool,
    /// True once the end of the body is in the output.
    is_framed: bool,
    sent: SentState,
    /// Content so far, for another attempt; `None` if it was too long.
    kept: Option<KeptContent>,
    /// True if the filters have seen all of the client's body, and the backend gets another one.
    is_replaced: bool,
    /// Pieces that this attempt has still to send again.
    again: VecDeque<Piece>,
    /// Number of content bytes received.
    pub(super) received: u64,
}

/// State of what was written to the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SentState {
    /// The backend has everything.
    Flushed,
    /// The connection may still hold some of it, encrypted.
    Written,
    /// The backend accepts no more.
    Refused,
}

/// Content that another attempt may need.
///
/// Pieces share the buffers of their reads, which may be much larger: a small one is copied, and a
/// large one is kept as it is.
#[derive(Debug, Default)]
struct KeptContent {
    large: Vec<Bytes>,
    /// Copies of the small pieces after the last large one.
    small: BytesMut,
    length: usize,
}

impl KeptContent {
    /// Adds a piece; `None` if it is too much.
    fn with(mut self, piece: &Bytes) -> Option<Self> {
        self.length += piece.len();
        if self.length > MAX_KEPT {
            return None;
        }
        if piece.len() <= SMALL {
            self.small.extend_from_slice(piece);
        } else {
            if !self.small.is_empty() {
                self.large.push(self.small.split().freeze());
            }
            self.large.push(piece.clone());
        }
        Some(self)
    }

    /// Returns a whole body, of any length.
    fn of(body: &Bytes) -> Self {
        Self {
            large: Vec::from_iter((!body.is_empty()).then(|| body.clone())),
            ..Self::default()
        }
    }

    fn pieces(&self) -> impl Iterator<Item = Bytes> {
        let small = (!self.small.is_empty()).then(|| Bytes::copy_from_slice(&self.small));
        self.large.iter().cloned().chain(small)
    }
}

/// Bytes in the order in which they are sent.
#[derive(Debug, Default)]
struct Output {
    gathered: BytesMut,
    piece: Bytes,
    /// End of the chunk that `piece` is.
    end: &'static [u8],
}

impl Output {
    /// Keeps the buffer of small pieces for the next request of this thread.
    fn keep_buffer(&mut self) {
        let mut buffer = std::mem::take(&mut self.gathered);
        if (1..=MAX_SPARE).contains(&buffer.capacity()) {
            buffer.clear();
            SPARE.set(buffer);
        }
    }

    fn is_empty(&self) -> bool {
        self.gathered.is_empty() && self.piece.is_empty() && self.end.is_empty()
    }

    /// Returns true if another piece fits.
    fn has_room(&self) -> bool {
        self.piece.is_empty() && self.end.is_empty() && self.gathered.len() < GATHER
    }

    fn slices(&self) -> [IoSlice<'_>; 3] {
        [
            IoSlice::new(&self.gathered),
            IoSlice::new(&self.piece),
            IoSlice::new(self.end),
        ]
    }

    /// Removes `count` bytes that were sent.
    fn advance(&mut self, count: usize) {
        let of_gathered = count.min(self.gathered.len());
        self.gathered.advance(of_gathered);
        let of_piece = (count - of_gathered).min(self.piece.len());
        self.piece.advance(of_piece);
        self.end = &self.end[count - of_gathered - of_piece..];
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.keep_buffer();
    }
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
            output: Output::default(),
            is_chunked: false,
            is_framed: false,
            sent: SentState::Flushed,
            kept: Some(KeptContent::default()),
            is_replaced: false,
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
        self.is_framed && self.output.is_empty() && self.sent == SentState::Flushed
    }

    /// Returns true if nothing more will be sent: all of it was, or the backend refuses the rest.
    pub(super) fn is_over(&self) -> bool {
        self.is_sent() || self.sent == SentState::Refused
    }

    /// Begins an attempt, which sends the header section of `request` first.
    pub(super) fn begin(&mut self, request: &RequestHeader, is_chunked: bool) -> Result<()> {
        self.output = Output::default();
        self.output.gathered = SPARE.take();
        write_section(request, &mut self.output.gathered)?;
        self.is_chunked = is_chunked;
        self.sent = SentState::Flushed;
        self.is_framed = false;
        let (is_read, has_body) = (self.is_read(), self.has_body());
        let kept = self.kept.iter().flat_map(KeptContent::pieces);
        let piece = |bytes| Piece {
            bytes: Some(bytes),
            is_last: false,
        };
        self.again = kept.map(piece).collect();
        match self.again.back_mut() {
            Some(last) => last.is_last = is_read,
            None if is_read && has_body => self.again.push_back(Piece {
                bytes: None,
                is_last: true,
            }),
            None => {}
        }
        Ok(())
    }

    /// Reads the client's body through the filters, for a backend that gets another one.
    pub(super) async fn take_in(
        &mut self,
        client: &mut DirectClient<'_>,
        ctx: &mut Context,
    ) -> Result<()> {
        self.kept = None;
        let clock = ctx.live().world.clock.clone();
        let started = clock.now();
        while !self.is_read() {
            let time = upstream_request::body_time(self.received, ctx);
            let next = poll_fn(|cx| self.poll_piece(cx, client));
            let piece = match time {
                None => next.await?,
                Some(time) => {
                    let left = time.saturating_sub(clock.now() - started);
                    let Ok(piece) = tokio::time::timeout(left, next).await else {
                        ctx.reply = Some(Box::new(Failure::BodyTimeout.reply()));
                        return Err(Error::new_down(ErrorType::Custom("refused")));
                    };
                    piece?
                }
            };
            let Piece { mut bytes, is_last } = piece;
            upstream::sent_body(None, is_last, ctx);
            filter(&mut bytes, is_last, client, ctx)?;
        }
        Ok(())
    }

    /// Replaces the body, all of which was read, for this attempt and those after it.
    pub(super) fn replace(&mut self, own: &Bytes) {
        self.is_replaced = true;
        self.kept = Some(KeptContent::of(own));
        if own.is_empty() {
            self.body = None;
        } else {
            self.body = Some(MessageBody::new(Framing::None));
        }
    }

    /// Reads the rest through the filters. Returns the client's whole body, of at most `most` bytes,
    /// if all of it is still there.
    pub(super) async fn whole(
        &mut self,
        most: usize,
        client: &mut DirectClient<'_>,
        ctx: &mut Context,
    ) -> Option<Bytes> {
        if self.is_replaced {
            return None;
        }
        if !self.has_body() {
            return Some(Bytes::new());
        }
        let mut all = BytesMut::new();
        for piece in self.kept.take()?.pieces() {
            all.extend_from_slice(&piece);
        }
        self.again.clear();
        while !self.is_read() {
            let piece = poll_fn(|cx| self.poll_piece(cx, client)).await.ok()?;
            let Piece { mut bytes, is_last } = piece;
            if filter(&mut bytes, is_last, client, ctx).is_err() {
                // The error has its reply already.
                ctx.reply = None;
                return None;
            }
            all.extend_from_slice(&bytes.unwrap_or_default());
            if all.len() > most {
                return None;
            }
        }
        Some(all.freeze())
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
        while self.sent != SentState::Refused {
            let mut is_client_slow = false;
            while !self.is_framed && self.output.has_room() {
                match self.poll_piece(cx, client) {
                    Poll::Ready(piece) => self.frame(piece?, client, ctx)?,
                    Poll::Pending => {
                        is_client_slow = true;
                        break;
                    }
                }
            }
            if !self.output.is_empty() {
                match ready!(connection.poll_output(cx, &self.output.slices())) {
                    Ok(count @ 1..) => {
                        self.output.advance(count);
                        self.sent = SentState::Written;
                    }
                    written => self.refuse(written.err()),
                }
            } else if self.sent == SentState::Written {
                match ready!(connection.poll_flush(cx)) {
                    Ok(()) => self.sent = SentState::Flushed,
                    Err(error) => self.refuse(Some(error)),
                }
            } else if self.is_framed {
                break;
            } else {
                debug_assert!(is_client_slow, "otherwise there would be output");
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Records that the backend accepts no more.
    fn refuse(&mut self, error: Option<io::Error>) {
        if let Some(error) = error {
            log::debug!(error:%; "a backend accepts no more of a request");
        }
        self.sent = SentState::Refused;
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
        let piece = match client.poll_piece(cx) {
            Some(piece) => {
                let piece = ready!(piece)?;
                if piece.is_last {
                    body.complete();
                }
                piece
            }
            None => ready!(poll_framed(cx, body, &mut self.input, client))?,
        };
        if let Some(content) = &piece.bytes {
            self.received += content.len() as u64;
            self.kept = self.kept.take().and_then(|kept| kept.with(content));
        }
        Poll::Ready(Ok(piece))
    }

    /// Adds a piece to the output, after the filters have seen it.
    fn frame(&mut self, piece: Piece, client: &DirectClient<'_>, ctx: &mut Context) -> Result<()> {
        let Piece { mut bytes, is_last } = piece;
        upstream::sent_body(bytes.as_ref(), is_last, ctx);
        if !self.is_replaced {
            filter(&mut bytes, is_last, client, ctx)?;
        }
        let bytes = bytes.unwrap_or_default();
        let gathered = &mut self.output.gathered;
        if self.is_chunked && !bytes.is_empty() {
            write!(gathered, "{:X}\r\n", bytes.len()).expect("the buffer grows");
        }
        let end: &[u8] = match (self.is_chunked, bytes.is_empty(), is_last) {
            (true, false, false) => b"\r\n",
            (true, false, true) => b"\r\n0\r\n\r\n",
            (true, true, true) => b"0\r\n\r\n",
            (true, true, false) | (false, ..) => b"",
        };
        if bytes.len() <= SMALL {
            gathered.extend_from_slice(&bytes);
            gathered.extend_from_slice(end);
        } else {
            self.output.piece = bytes;
            self.output.end = end;
        }
        self.is_framed = is_last;
        Ok(())
    }
}

/// Passes a piece of the client's body through the filters.
fn filter(
    bytes: &mut Option<Bytes>,
    is_last: bool,
    client: &DirectClient<'_>,
    ctx: &mut Context,
) -> Result<()> {
    let (chain, mut ex) = ctx.exchange(client.request);
    if chain.has(Phase::RequestBody)
        && let Verdict::Reply(refusal) = chain.on_request_body(&mut ex, bytes, is_last)
    {
        ctx.refuse(refusal);
        // The backend is not at fault, and no other backend may get the request.
        return Err(Error::new_down(ErrorType::Custom("refused")));
    }
    Ok(())
}

/// Writes the header section of `request`, as HTTP/1.1 whatever its client speaks. Names have the
/// spelling that Pingora gives them.
pub(crate) fn write_section(request: &RequestHeader, out: &mut BytesMut) -> Result<()> {
    let path = request.raw_path();
    // RFC 9112, 3: these would end the target or the line.
    if path
        .iter()
        .any(|byte| matches!(byte, b'\0' | b'\n' | b'\r' | b' '))
    {
        let why = "the target has bytes that no request line can have";
        return Err(Error::explain(ErrorType::InvalidHTTPHeader, why));
    }
    out.reserve(SECTION);
    out.extend_from_slice(request.method.as_str().as_bytes());
    out.extend_from_slice(b" ");
    out.extend_from_slice(path);
    out.extend_from_slice(b" HTTP/1.1\r\n");
    request.header_to_h1_wire(out);
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Takes the next piece of a body in the framing of HTTP/1 out of what the client sends.
fn poll_framed(
    cx: &mut TaskContext<'_>,
    body: &mut MessageBody,
    input: &mut BytesMut,
    client: &mut DirectClient<'_>,
) -> Poll<Result<Piece>> {
    loop {
        if let Some(piece) = body.take(input).map_err(Error::into_down)? {
            return Poll::Ready(Ok(piece));
        }
        input.reserve(ROOM);
        if ready!(client.poll_input(cx, input))? == 0 {
            return Poll::Ready(body.close().map_err(Error::into_down));
        }
    }
}
