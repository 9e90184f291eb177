//! HTTP/1.1 to a backend (RFC 9112).

use std::{
    cell::Cell,
    fmt::Write as _,
    io::{self, IoSlice},
    task::{Context as TaskContext, Poll, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use edgeway_base::http::decimal;
use edgeway_upstreams::BackendConnection;
use http::{HeaderMap, Method, header};
use pingora::{
    Error, ErrorType, Result,
    http::{RequestHeader, ResponseHeader},
};

use super::{SentState, ValueMemory};
use crate::message::{Framing, MessageBody, Piece, is_kept_alive, parse_response, write_section};

/// Length up to which pieces are copied into one write with what surrounds them. A longer one is
/// written from where it is.
const SMALL: usize = 4096;
/// Length up to which small pieces are gathered before they are written.
const GATHER: usize = 16 * 1024;
/// Capacity up to which a thread keeps a buffer for its next header section.
const MAX_SPARE: usize = 8 * 1024;
/// Room for the header section of a response and a small body.
const SECTION_ROOM: usize = 8 * 1024;

thread_local! {
    /// Buffer for the next header section that this thread sends.
    static SPARE: Cell<BytesMut> = Cell::new(BytesMut::new());
}

/// Connection of HTTP/1.1, for one request.
pub(crate) struct Http1Wire {
    pub(super) connection: BackendConnection,
    output: OutputBuffer,
    /// True if the backend gets the body in chunks.
    is_chunked: bool,
    /// Bytes of the body still to come, where its length was announced.
    left: Option<u64>,
    pub(super) has_end: bool,
    pub(super) sent: SentState,
    framing: Framing,
    body: MessageBody,
    /// True if the backend keeps the connection after the response.
    pub(super) is_kept: bool,
}

/// Bytes in the order in which they are sent.
#[derive(Debug, Default)]
struct OutputBuffer {
    gathered: BytesMut,
    piece: Bytes,
    /// End of the chunk that `piece` is.
    end: &'static [u8],
}

impl OutputBuffer {
    fn is_empty(&self) -> bool {
        self.gathered.is_empty() && self.piece.is_empty() && self.end.is_empty()
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

impl Drop for OutputBuffer {
    /// Keeps the buffer of small pieces for the next request of this thread.
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.gathered);
        buffer.clear();
        // Of a buffer that was sent to its last byte, nothing is left but what is reclaimed.
        if buffer.try_reclaim(1) && buffer.capacity() <= MAX_SPARE {
            SPARE.set(buffer);
        }
    }
}

impl Http1Wire {
    pub(super) fn new(connection: BackendConnection) -> Self {
        Self {
            connection,
            output: OutputBuffer::default(),
            is_chunked: false,
            left: None,
            has_end: false,
            sent: SentState::Flushed,
            framing: Framing::None,
            body: MessageBody::new(Framing::None),
            is_kept: false,
        }
    }

    pub(super) fn is_reused(&self) -> bool {
        self.connection.is_reused()
    }

    /// Prepares the header section, which is sent with the beginning of the body.
    pub(super) fn start(
        &mut self,
        mut request: RequestHeader,
        lines: &[u8],
        has_body: bool,
    ) -> Result<()> {
        let length = has_body.then(|| request.headers.get(header::CONTENT_LENGTH));
        let length = length.flatten();
        self.left = length.and_then(|length| decimal(length.as_bytes()));
        self.is_chunked = has_body && length.is_none();
        if self.is_chunked {
            request.insert_header(header::TRANSFER_ENCODING, "chunked")?;
        }
        self.output.gathered = SPARE.take();
        write_section(&request, lines, &mut self.output.gathered)?;
        self.has_end = !has_body;
        Ok(())
    }

    pub(super) fn has_room(&self) -> bool {
        let output = &self.output;
        output.piece.is_empty() && output.end.is_empty() && output.gathered.len() < GATHER
    }

    pub(super) fn take(&mut self, piece: Option<Bytes>, is_last: bool) -> Result<()> {
        let bytes = piece.unwrap_or_default();
        if let Some(left) = &mut self.left {
            let rest = left.checked_sub(bytes.len() as u64);
            // The backend would take what is too much for a request, or wait for what is missing.
            let Some(rest) = rest.filter(|rest| !is_last || *rest == 0) else {
                let why = "a request body is not as long as its `Content-Length`";
                return Err(Error::explain(ErrorType::InternalError, why));
            };
            *left = rest;
        }
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
        self.has_end = is_last;
        Ok(())
    }

    pub(super) fn poll_send(&mut self, cx: &mut TaskContext<'_>) -> Poll<bool> {
        if !self.output.is_empty() {
            match ready!(self.connection.poll_output(cx, &self.output.slices())) {
                Ok(count @ 1..) => {
                    self.output.advance(count);
                    if self.has_end && self.output.is_empty() {
                        // While the backend works on its response, others use the buffer.
                        self.output = OutputBuffer::default();
                    }
                    self.sent = SentState::Written;
                }
                written => self.refuse(written.err()),
            }
            return Poll::Ready(true);
        }
        if self.sent == SentState::Written {
            match ready!(self.connection.poll_flush(cx)) {
                Ok(()) => self.sent = SentState::Flushed,
                Err(error) => self.refuse(Some(error)),
            }
            return Poll::Ready(true);
        }
        Poll::Ready(false)
    }

    /// Records that the backend accepts no more.
    fn refuse(&mut self, error: Option<io::Error>) {
        if let Some(error) = error {
            log::debug!(error:%; "a backend accepts no more of a request");
        }
        self.sent = SentState::Refused;
    }

    pub(super) fn is_sent(&self) -> bool {
        self.has_end && self.output.is_empty() && self.sent == SentState::Flushed
    }

    pub(super) fn poll_response(
        &mut self,
        cx: &mut TaskContext<'_>,
        memory: ValueMemory,
    ) -> Poll<Result<ResponseHeader>> {
        loop {
            if !self.connection.input.is_empty()
                && let Some(response) = parse_response(&mut self.connection.input, memory)?
            {
                return Poll::Ready(Ok(response));
            }
            self.connection.input.reserve(SECTION_ROOM);
            if ready!(self.connection.poll_input(cx)).map_err(broken)? == 0 {
                let why = "the backend closed its connection before its response";
                return Poll::Ready(Err(
                    Error::explain(ErrorType::ConnectionClosed, why).into_up()
                ));
            }
        }
    }

    pub(super) fn begin_body(
        &mut self,
        method: &Method,
        response: &mut ResponseHeader,
    ) -> Result<bool> {
        self.is_kept = is_kept_alive(response);
        self.framing = Framing::for_response(method, response)?;
        self.is_kept &= self.framing != Framing::UntilClose;
        self.body = MessageBody::new(self.framing).with_trailers();
        Ok(self.framing != Framing::None)
    }

    pub(super) fn gather(&mut self, cx: &mut TaskContext<'_>) -> Result<()> {
        let Some(length) = self.body.short_length() else {
            return Ok(());
        };
        let connection = &mut self.connection;
        while connection.input.len() < length {
            connection.input.reserve(length - connection.input.len());
            match connection.poll_input(cx) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Err(error)) => return Err(broken(error)),
                // An end is found again by the next read.
                Poll::Ready(Ok(0)) | Poll::Pending => break,
            }
        }
        Ok(())
    }

    pub(super) fn poll_piece(
        &mut self,
        cx: &mut TaskContext<'_>,
        max: usize,
    ) -> Poll<Result<Piece>> {
        loop {
            let result = self.body.take(&mut self.connection.input);
            if let Some(piece) = result.map_err(Error::into_up)? {
                return Poll::Ready(Ok(piece));
            }
            let room = self.body.room().min(max);
            if ready!(self.connection.poll_body(room, cx)).map_err(broken)? == 0 {
                return Poll::Ready(self.body.close().map_err(Error::into_up));
            }
        }
    }

    pub(super) fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.body.take_trailers()
    }

    pub(super) fn is_delimited(&self) -> bool {
        self.framing != Framing::UntilClose
    }

    pub(super) fn is_read(&self) -> bool {
        self.body.is_complete()
    }

    pub(super) fn is_reusable(&self) -> bool {
        self.is_kept && self.is_read() && self.is_sent() && self.connection.input.is_empty()
    }
}

#[cold]
fn broken(error: io::Error) -> Box<Error> {
    Error::because(ErrorType::ReadError, "reading a response", error).into_up()
}
