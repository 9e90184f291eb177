//! Stream of one request on a shared connection.

#![expect(clippy::unnecessary_box_returns, reason = "Pingora's errors are boxed")]

use std::{
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{HeaderMap, Request, response};
use pingora::{Error, ErrorType, Result};

use super::StreamPlace;

/// Stream of one request to a backend. If it is dropped before its end, `h2` resets it.
///
/// Each function is polled by the same task. An error of sending may hide why the backend stopped to
/// read: the response, or its error, tells.
#[derive(Debug)]
pub struct BackendStream {
    /// Present until the request is sent.
    requests: Option<SendRequest<Bytes>>,
    /// Present from there to the final response headers.
    response: Option<ResponseFuture>,
    sending: Option<SendStream<Bytes>>,
    body: Option<RecvStream>,
    local: Option<SocketAddr>,
    is_reused: bool,
    /// The last field, so that `h2` knows that the stream has ended before its place is free.
    place: StreamPlace,
}

impl BackendStream {
    pub(super) fn new(
        requests: SendRequest<Bytes>,
        local: Option<SocketAddr>,
        place: StreamPlace,
        is_reused: bool,
    ) -> Self {
        Self {
            requests: Some(requests),
            response: None,
            sending: None,
            body: None,
            local,
            is_reused,
            place,
        }
    }

    /// Returns true if the connection has carried a request before.
    pub fn is_reused(&self) -> bool {
        self.is_reused
    }

    /// Returns the gateway's own address; `None` on a unix socket.
    pub fn local(&self) -> Option<SocketAddr> {
        self.local
    }

    /// Sends the request headers; there is no body if `end`. To be called once.
    ///
    /// # Errors
    /// [`ErrorType::H2Error`] if the connection has ended meanwhile or the headers cannot be sent.
    /// The backend has seen nothing of the request.
    pub fn send_request(&mut self, request: Request<()>, end: bool) -> Result<()> {
        let Some(mut requests) = self.requests.take() else {
            return Err(misused());
        };
        let (response, sending) = requests
            .send_request(request, end)
            .map_err(|error| failed(ErrorType::H2Error, "while sending a request", error))?;
        self.response = Some(response);
        self.sending = Some(sending);
        Ok(())
    }

    /// Polls for response headers: each interim response (1xx), then the final one.
    pub fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Result<response::Parts>> {
        let Some(pending) = &mut self.response else {
            return Poll::Ready(Err(misused()));
        };
        if let Some(interim) = ready!(pending.poll_informational(cx)) {
            let interim = interim.map_err(no_headers)?;
            return Poll::Ready(Ok(interim.into_parts().0));
        }
        let response = ready!(Pin::new(pending).poll(cx)).map_err(no_headers)?;
        let (parts, body) = response.into_parts();
        self.response = None;
        self.body = Some(body);
        Poll::Ready(Ok(parts))
    }

    /// Polls for a piece of the response body; `None` at its end. The backend may then send as much
    /// again.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let data = ready!(body.poll_data(cx)).transpose().map_err(no_body)?;
        if let Some(data) = &data {
            body.flow_control()
                .release_capacity(data.len())
                .map_err(no_body)?;
        }
        Poll::Ready(data.map(Ok))
    }

    /// Polls for the trailers, after the end of the body.
    pub fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(Ok(None));
        };
        body.poll_trailers(cx).map_err(no_body)
    }

    /// Returns true if the response is complete and all of it was read.
    pub fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_some_and(RecvStream::is_end_stream)
    }

    /// Sends all of `data`, as much at a time as the backend allows, and then the end of the request
    /// if `end`. What is left while it is pending is still in `data`.
    pub fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        data: &mut Bytes,
        end: bool,
    ) -> Poll<Result<()>> {
        let Some(sending) = &mut self.sending else {
            return Poll::Ready(Err(misused()));
        };
        loop {
            let mut room = data.len();
            if room > 0 {
                sending.reserve_capacity(room);
                room = sending.capacity();
                if room == 0 {
                    let Some(more) = ready!(sending.poll_capacity(cx)) else {
                        let why = "the backend reads no more of the request";
                        let error = Error::explain(ErrorType::WriteError, why);
                        return Poll::Ready(Err(error.into_up()));
                    };
                    room = more.map_err(not_sent)?;
                }
            }
            let piece = data.split_to(room.min(data.len()));
            let is_last = end && data.is_empty();
            if is_last || !piece.is_empty() {
                sending.send_data(piece, is_last).map_err(not_sent)?;
            }
            if data.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Takes the connection out of use for new streams. Those that it has go on.
    pub fn retire(&self) {
        let StreamPlace { load, backend, .. } = &self.place;
        backend.state.http2.remove(load);
    }

    /// Polls for the reason for which the backend resets the stream.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reason>> {
        let Some(sending) = &mut self.sending else {
            return Poll::Ready(Err(misused()));
        };
        let reset = ready!(sending.poll_reset(cx));
        let why = "while a stream was open";
        Poll::Ready(reset.map_err(|error| failed(ErrorType::H2Error, why, error)))
    }
}

/// Returns the error of a call that is out of order.
fn misused() -> Box<Error> {
    Error::explain(ErrorType::InternalError, "stream used out of order")
}

fn failed(etype: ErrorType, why: &'static str, error: h2::Error) -> Box<Error> {
    Error::because(etype, why, error).into_up()
}

fn no_headers(error: h2::Error) -> Box<Error> {
    let etype = match error.reason() {
        Some(Reason::HTTP_1_1_REQUIRED) if error.is_remote() => ErrorType::H2Downgrade,
        Some(Reason::PROTOCOL_ERROR) if error.is_go_away() && error.is_library() => {
            ErrorType::InvalidH2
        }
        _ if error.is_io() => ErrorType::ReadError,
        _ => ErrorType::H2Error,
    };
    failed(etype, "while reading response headers", error)
}

fn no_body(error: h2::Error) -> Box<Error> {
    failed(ErrorType::ReadError, "while reading a response", error)
}

fn not_sent(error: h2::Error) -> Box<Error> {
    failed(ErrorType::WriteError, "while sending a request body", error)
}
