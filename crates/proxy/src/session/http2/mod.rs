//! Request and response on one stream of HTTP/2.

use std::{
    cell::RefCell,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use edgeway_base::http::values;
use edgeway_core::chain::ReadyLines;
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use pingora::{Error, ErrorType, OrErr, Result, http::ResponseHeader};
use tokio::time::{Instant, Sleep, sleep};

use super::{GONE, WRITE};
use crate::message::Piece;

/// Most bytes of a DATA frame: with its frame header it fits into one TLS record of 16 KiB.
pub(crate) const DATA: usize = 16 * 1024 - 9;
/// Bytes of a response that wait for the connection, in addition to those that the backend holds.
pub(crate) const SEND_BUFFER: usize = 2 * DATA;
/// Sets of ready lines that a thread keeps.
const READY_SETS: usize = 64;

/// Headers that belong to a connection, which HTTP/2 does not have (RFC 9113, 8.2.2).
const OF_CONNECTIONS: [HeaderName; 6] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Ready lines, and the fields that they were parsed to.
type ReadySet = (Arc<[u8]>, Arc<HeaderMap>);

thread_local! {
    /// Ready lines that were parsed, the newest last. Holding the lines keeps their address theirs.
    static READY: RefCell<Vec<ReadySet>> = const { RefCell::new(Vec::new()) };
}

/// Stream of an HTTP/2 connection. If it is dropped before its response is complete, it is reset, so
/// that no client takes a part for the whole.
pub(crate) struct Http2Stream {
    respond: SendResponse<Bytes>,
    /// Body of the request.
    body: RecvStream,
    /// True if the request announces that its body is empty.
    is_empty: bool,
    /// Writer of the body, once the response has begun.
    writer: Option<SendStream<Bytes>>,
    is_ended: bool,
    /// Time that a piece may wait for a client that reads only its other streams.
    send_timeout: Duration,
    /// Timer of this, once a piece has waited. It is used again.
    timer: Option<Pin<Box<Sleep>>>,
    is_waiting: bool,
}

impl Http2Stream {
    /// Creates the stream of a request with these headers.
    pub(crate) fn new(
        respond: SendResponse<Bytes>,
        body: RecvStream,
        headers: &HeaderMap,
        send_timeout: Duration,
    ) -> Self {
        let length = values(headers, &header::CONTENT_LENGTH).next();
        Self {
            respond,
            body,
            is_empty: length.is_some_and(|length| length == "0"),
            writer: None,
            is_ended: false,
            send_timeout,
            timer: None,
            is_waiting: false,
        }
    }

    /// Returns true if nothing is left to read of the request.
    pub(crate) fn is_body_done(&self) -> bool {
        self.is_empty || self.body.is_end_stream()
    }

    /// Waits for the end of a body that is announced as empty. Returns false if it does not come, or
    /// there is a body: no backend gets a request that its client did not mean (RFC 9113, 8.1.1).
    pub(crate) async fn is_as_announced(&mut self, patience: Duration) -> bool {
        if !self.is_empty || self.body.is_end_stream() {
            return true;
        }
        let end = async { while let Some(Ok(_)) = self.body.data().await {} };
        // Boxed, because otherwise every request's future would be as large.
        let waited = Box::pin(tokio::time::timeout(patience, end)).await;
        waited.is_ok() && self.body.is_end_stream()
    }

    /// Begins the response. One without a body ends the stream with its headers.
    pub(super) fn response(
        &mut self,
        head: ResponseHeader,
        lines: &ReadyLines,
        date: HeaderValue,
        is_last: bool,
    ) -> Result<()> {
        if head.status.is_informational() || self.writer.is_some() {
            return Ok(());
        }
        let mut head = http::response::Parts::from(head);
        let headers = &mut head.headers;
        remove_of_connections(headers);
        // RFC 9110, 6.6.1: the date of a response that another server has generated is kept.
        headers.entry(header::DATE).or_insert(date);
        let head = Response::from_parts(head, ());
        let writer = match lines {
            ReadyLines::Given(lines) => {
                let fields = ready_fields(lines);
                self.respond.send_response_with(head, fields, is_last)
            }
            ReadyLines::NotTaken | ReadyLines::Taken => self.respond.send_response(head, is_last),
        };
        self.writer = Some(writer.or_err(WRITE.0, WRITE.1).map_err(Error::into_down)?);
        self.is_ended = is_last;
        Ok(())
    }

    /// Sends an interim response (RFC 9110, 15.2), unless the final one has begun.
    pub(super) fn interim(&mut self, head: &ResponseHeader) -> Result<()> {
        // RFC 9113, 8.6: HTTP/2 does not switch protocols.
        if self.writer.is_some() || head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(());
        }
        let mut nobody = Context::from_waker(Waker::noop());
        if self.respond.poll_reset(&mut nobody).is_ready() {
            // Waiting for the client shows that it has left.
            return Ok(());
        }
        let mut interim = Response::new(());
        *interim.status_mut() = head.status;
        interim.headers_mut().clone_from(&head.headers);
        remove_of_connections(interim.headers_mut());
        interim.headers_mut().remove(header::CONTENT_LENGTH);
        let sent = self.respond.send_informational(interim);
        sent.or_err(WRITE.0, WRITE.1).map_err(Error::into_down)
    }

    /// Ends the response with trailers (RFC 9110, 6.5).
    pub(super) fn trailers(&mut self, mut trailers: HeaderMap) -> Result<()> {
        let Some(writer) = self.writer.as_mut().filter(|_| !self.is_ended) else {
            return Ok(());
        };
        self.is_ended = true;
        remove_of_connections(&mut trailers);
        let sent = writer.send_trailers(trailers);
        sent.or_err(WRITE.0, WRITE.1).map_err(Error::into_down)
    }

    /// Resets the stream of an incomplete response, whose client is not the one at fault (RFC 9113, 7):
    /// without this the reset says that the response is not needed any more.
    pub(super) fn break_off(&mut self) {
        if let Some(writer) = self.writer.as_mut().filter(|_| !self.is_ended) {
            writer.send_reset(Reason::INTERNAL_ERROR);
        }
    }

    /// Reads the next piece of the request's body, and lets the client send as much again.
    pub(crate) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece>> {
        let read = ready!(self.body.poll_data(cx)).transpose();
        let released = read.and_then(|bytes| {
            let length = bytes.as_ref().map_or(0, Bytes::len);
            self.body.flow_control().release_capacity(length)?;
            Ok(bytes)
        });
        let bytes = released
            .or_err(ErrorType::ReadError, "reading a request body")
            .map_err(Error::into_down)?;
        let is_last = bytes.is_none() || self.is_body_done();
        Poll::Ready(Ok(Piece { bytes, is_last }))
    }

    /// Waits until the client has reset the stream or closed the connection.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Box<Error>> {
        let reset = match &mut self.writer {
            Some(writer) => writer.poll_reset(cx),
            None => self.respond.poll_reset(cx),
        };
        let error = match ready!(reset) {
            Ok(reason) => Error::explain(ErrorType::H2Error, format!("{GONE}: {reason}")),
            Err(error) => Error::because(ErrorType::ReadError, GONE, error),
        };
        Poll::Ready(error.into_down())
    }

    /// Writes a piece of the response's body as the client's window allows.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        piece: &mut Bytes,
        is_last: bool,
    ) -> Poll<Result<()>> {
        if piece.is_empty() && !is_last || self.is_ended {
            return Poll::Ready(Ok(()));
        }
        loop {
            let mut room = match piece.len() {
                0 => 0,
                length => ready!(self.poll_room(cx, length)).map_err(Error::into_down)?,
            };
            let Some(writer) = &mut self.writer else {
                let why = ErrorType::Custom("a body without headers");
                return Poll::Ready(Err(Error::new_in(why)));
            };
            loop {
                let part = piece.split_to(piece.len().min(room).min(DATA));
                room -= part.len();
                let sent = writer.send_data(part, is_last && piece.is_empty());
                sent.or_err(WRITE.0, WRITE.1).map_err(Error::into_down)?;
                if piece.is_empty() {
                    self.is_ended = is_last;
                    return Poll::Ready(Ok(()));
                }
                if room == 0 {
                    break;
                }
            }
        }
    }

    /// Waits until some of `length` bytes may be sent, and returns how many.
    fn poll_room(&mut self, cx: &mut Context<'_>, length: usize) -> Poll<Result<usize>> {
        let Some(writer) = &mut self.writer else {
            return Poll::Ready(Ok(0));
        };
        let send_timeout = self.send_timeout;
        if !self.is_waiting {
            // No more, since the window of the connection is reserved too.
            writer.reserve_capacity(length.min(SEND_BUFFER));
            let room = writer.capacity();
            if room > 0 {
                // Most pieces fit into the client's window, and need no timer.
                return Poll::Ready(Ok(room));
            }
        }
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep(send_timeout)));
        if !mem::replace(&mut self.is_waiting, true) {
            timer.as_mut().reset(Instant::now() + send_timeout);
        }
        let Poll::Ready(room) = writer.poll_capacity(cx) else {
            ready!(timer.as_mut().poll(cx));
            let why = "the client does not read the response";
            return Poll::Ready(Err(Error::explain(ErrorType::WriteTimedout, why)));
        };
        self.is_waiting = false;
        Poll::Ready(match room {
            Some(room) => room.or_err(ErrorType::H2Error, "waiting for the client"),
            None => Err(Error::explain(ErrorType::H2Error, GONE)),
        })
    }
}

fn remove_of_connections(headers: &mut HeaderMap) {
    if headers.keys().any(|name| OF_CONNECTIONS.contains(name)) {
        for name in &OF_CONNECTIONS {
            headers.remove(name);
        }
    }
}

/// Returns the fields of complete header lines, which each thread parses once.
fn ready_fields(lines: &Arc<[u8]>) -> Arc<HeaderMap> {
    READY.with_borrow_mut(|sets| {
        let position = sets.iter().position(|(own, _)| Arc::ptr_eq(own, lines));
        let position = position.unwrap_or_else(|| {
            if sets.len() == READY_SETS {
                sets.remove(0);
            }
            sets.push((Arc::clone(lines), Arc::new(parse(lines))));
            sets.len() - 1
        });
        Arc::clone(&sets[position].1)
    })
}

/// Parses complete header lines. The gateway has checked and written them itself.
fn parse(lines: &[u8]) -> HeaderMap {
    let lines = lines.split(|byte| *byte == b'\n');
    let fields = lines.filter_map(|line| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
        Some((name, value))
    });
    fields.collect()
}

#[cfg(test)]
mod tests;
