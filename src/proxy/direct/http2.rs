//! Response on an HTTP/2 stream, without what Pingora's proxy does around its session.

use std::{
    future::poll_fn,
    pin::pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use pingora::{
    Error, ErrorType, OrErr, Result, http::ResponseHeader, protocols::http::v2::server::HttpSession,
};

use super::GONE;
use crate::proxy::relay::Piece;

/// Stream of an HTTP/2 connection.
pub(super) struct Http2Stream<'a> {
    session: &'a mut HttpSession,
    /// Time that a piece may wait for a client that reads only its other streams.
    send_timeout: Duration,
}

impl<'a> Http2Stream<'a> {
    pub(super) fn new(session: &'a mut HttpSession, send_timeout: Duration) -> Self {
        Self {
            session,
            send_timeout,
        }
    }

    pub(super) fn response(&mut self, head: ResponseHeader, is_last: bool) -> Result<()> {
        self.session.write_response_header(Box::new(head), is_last)
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
        let error = match ready!(pin!(self.session.idle()).poll(cx)) {
            Ok(reason) => Error::explain(ErrorType::H2Error, format!("{GONE}: {reason}")),
            Err(error) => Error::because(ErrorType::ReadError, GONE, error),
        };
        Poll::Ready(error.into_down())
    }

    pub(super) async fn write(&mut self, piece: Bytes, is_last: bool) -> Result<()> {
        if piece.is_empty() && !is_last {
            return Ok(());
        }
        let mut write = pin!(self.session.write_body(piece, is_last));
        // Most pieces fit into the client's window, and need no timer.
        let at_once = poll_fn(|cx| Poll::Ready(write.as_mut().poll(cx))).await;
        if let Poll::Ready(written) = at_once {
            return written;
        }
        let written = tokio::time::timeout(self.send_timeout, write).await;
        written.unwrap_or_else(|_| {
            let why = "the client does not read the response";
            Err(Error::explain(ErrorType::WriteTimedout, why).into_down())
        })
    }
}
