//! Response on an HTTP/2 stream, without what Pingora's proxy does around its session.

use std::{
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use edgeway_core::chain::ReadyLines;
use h2::SendStream;
use http::{HeaderValue, StatusCode};
use pingora::{
    Error, ErrorType, OrErr, Result,
    http::ResponseHeader,
    protocols::http::v2::{server::HttpSession, write_body},
};

use super::GONE;
use crate::{
    connection::response_queue::{ResponseHeaders, ResponseQueue},
    relay::Piece,
};

/// Stream of an HTTP/2 connection.
pub(super) struct Http2Stream<'a> {
    session: &'a mut HttpSession,
    /// Headers that wait for the connection.
    responses: &'a ResponseQueue,
    /// Writer of the body, once the response has begun.
    writer: Option<SendStream<Bytes>>,
    is_ended: bool,
    /// Time that a piece may wait for a client that reads only its other streams.
    send_timeout: Duration,
}

impl<'a> Http2Stream<'a> {
    pub(super) fn new(
        session: &'a mut HttpSession,
        responses: &'a ResponseQueue,
        send_timeout: Duration,
    ) -> Self {
        Self {
            session,
            responses,
            writer: None,
            is_ended: false,
            send_timeout,
        }
    }

    /// Begins the response. Its headers wait for the connection, which encodes them: the session
    /// and `h2` get a response without any.
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
        let head = http::response::Parts::from(head);
        let headers = Box::new(ResponseHeaders {
            status: head.status,
            date,
            headers: head.headers,
            lines: match lines {
                ReadyLines::Given(lines) => Some(Arc::clone(lines)),
                ReadyLines::Taken | ReadyLines::NotTaken => None,
            },
        });
        let announced = self.responses.announce();
        let empty = Box::new(ResponseHeader::build_no_case(StatusCode::OK, Some(1))?);
        self.session.write_response_header(empty, is_last)?;
        let writer = self.session.take_response_body_writer();
        let writer = writer.ok_or_else(|| Error::new_in(ErrorType::Custom("no stream")))?;
        announced.publish(writer.stream_id().as_u32(), headers);
        self.writer = Some(writer);
        self.is_ended = is_last;
        Ok(())
    }

    pub(super) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece>> {
        let read = ready!(self.session.poll_read_body_bytes(cx)).transpose();
        let bytes = read
            .or_err(ErrorType::ReadError, "reading a request body")
            .map_err(Error::into_down)?;
        let is_last = bytes.is_none() || self.session.is_body_done();
        Poll::Ready(Ok(Piece { bytes, is_last }))
    }

    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Box<Error>> {
        let reset = match &mut self.writer {
            Some(writer) => {
                let reset = ready!(writer.poll_reset(cx));
                reset.or_err(ErrorType::H2Error, "waiting for the client")
            }
            None => ready!(pin!(self.session.idle()).poll(cx)),
        };
        let error = match reset {
            Ok(reason) => Error::explain(ErrorType::H2Error, format!("{GONE}: {reason}")),
            Err(error) => Error::because(ErrorType::ReadError, GONE, error),
        };
        Poll::Ready(error.into_down())
    }

    pub(super) async fn write(&mut self, piece: Bytes, is_last: bool) -> Result<()> {
        if piece.is_empty() && !is_last || self.is_ended {
            return Ok(());
        }
        let Some(writer) = &mut self.writer else {
            return Err(Error::new_in(ErrorType::Custom("a body without headers")));
        };
        self.is_ended = is_last;
        let mut write = pin!(write_body(writer, piece, is_last, None));
        // Most pieces fit into the client's window, and need no timer.
        let at_once = poll_fn(|cx| Poll::Ready(write.as_mut().poll(cx))).await;
        if let Poll::Ready(written) = at_once {
            return written.map_err(Error::into_down);
        }
        let written = tokio::time::timeout(self.send_timeout, write).await;
        let written = written.unwrap_or_else(|_| {
            let why = "the client does not read the response";
            Err(Error::explain(ErrorType::WriteTimedout, why))
        });
        written.map_err(Error::into_down)
    }
}
