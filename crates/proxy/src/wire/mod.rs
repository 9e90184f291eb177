//! Wire to a backend: one request is sent over it, and its responses are read.
//!
//! A wire promises: the request and the pieces of its body are taken while there is room; what was
//! taken is sent as the backend accepts it; interim responses come as they arrive, then one
//! response, the pieces of its body, and trailers where the protocol has them. All of it is polled,
//! so that both directions move at once.

mod http1;
mod http2;

use std::{
    net::SocketAddr,
    os::fd::RawFd,
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use edgeway_upstreams::{BackendConnection, Lease, Upstream};
use http::{HeaderMap, Method, StatusCode};
use pingora::{
    Error, ErrorType, Result,
    http::{RequestHeader, ResponseHeader},
};

use self::{http1::Http1Wire, http2::Http2Wire};
use crate::{connection::deadline::Watch, grpc::is_call, message::Piece};

pub(crate) use crate::message::ValueMemory;

/// Wire to a backend.
#[expect(
    clippy::large_enum_variant,
    reason = "most requests go over HTTP/1, and a box would cost each of them"
)]
pub(crate) enum Wire {
    Http1(Http1Wire),
    Http2(Box<Http2Wire>),
}

/// State of what was sent to the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SentState {
    /// The backend has everything.
    Flushed,
    /// The connection may still hold some of it.
    Written,
    /// The backend accepts no more: its response says why.
    Refused,
}

/// Calls the same function of either wire.
macro_rules! on_wire {
    ($wire:expr, $name:ident => $call:expr) => {
        match $wire {
            Wire::Http1($name) => $call,
            Wire::Http2($name) => $call,
        }
    };
}

impl Wire {
    /// Connects to the backend of `lease`, within `time`.
    ///
    /// # Errors
    /// When no connection can be made.
    pub(crate) async fn connect(
        upstream: &Upstream,
        lease: &Lease,
        must_be_new: bool,
        time: Duration,
    ) -> Result<Self> {
        if upstream.is_http1() {
            let connection = upstream.connect(lease, must_be_new, time).await?;
            return Ok(Self::Http1(Http1Wire::new(connection)));
        }
        let stream = Box::pin(upstream.open_stream(lease, must_be_new, time)).await?;
        let is_tls = upstream.tls_name().is_some();
        Ok(Self::Http2(Box::new(Http2Wire::new(stream, is_tls))))
    }

    /// Returns true if the connection has carried a request before.
    pub(crate) fn is_reused(&self) -> bool {
        on_wire!(self, wire => wire.is_reused())
    }

    /// Returns the socket and the gateway's own address; `None` if other requests share it.
    pub(crate) fn socket(&self) -> Option<(RawFd, Option<SocketAddr>)> {
        match self {
            Self::Http1(wire) => Some((wire.connection.fd(), wire.connection.local())),
            Self::Http2(_) => None,
        }
    }

    /// Lets `watch` end the request when its time is up. Over HTTP/1 it closes the socket.
    pub(crate) fn watch(&mut self, watch: &Arc<Watch>) {
        if let Self::Http2(wire) = self {
            wire.watch = Some(Arc::clone(watch));
        }
    }

    /// Returns the connection that becomes a tunnel.
    pub(super) fn tunnel(&mut self) -> Result<&mut BackendConnection> {
        match self {
            Self::Http1(wire) => Ok(&mut wire.connection),
            Self::Http2(_) => Err(Error::new_in(ErrorType::Custom("no tunnel over HTTP/2"))),
        }
    }

    /// Returns true unless the backend has seen nothing of the request for sure.
    pub(crate) fn is_begun(&self) -> bool {
        match self {
            Self::Http1(_) => true,
            Self::Http2(wire) => wire.is_begun,
        }
    }

    /// Begins the request, over HTTP/1 with these `lines` behind its headers. Its body, if it has one,
    /// follows in pieces.
    pub(crate) fn start(
        &mut self,
        request: RequestHeader,
        lines: &[u8],
        has_body: bool,
    ) -> Result<()> {
        match self {
            Self::Http1(wire) => wire.start(request, lines, has_body),
            Self::Http2(wire) => wire.start(request, has_body),
        }
    }

    /// Returns true if another piece of the body fits.
    pub(crate) fn has_room(&self) -> bool {
        on_wire!(self, wire => wire.has_room())
    }

    /// Takes a piece of the body. Returns an error if it is not as long as its headers say.
    pub(crate) fn take(&mut self, piece: Option<Bytes>, is_last: bool) -> Result<()> {
        match self {
            Self::Http1(wire) => wire.take(piece, is_last)?,
            Self::Http2(wire) => wire.take(piece, is_last),
        }
        Ok(())
    }

    /// Sends what was taken. Ready with true if something was sent, and with false if there is
    /// nothing to send.
    pub(crate) fn poll_send(&mut self, cx: &mut TaskContext<'_>) -> Poll<bool> {
        on_wire!(self, wire => wire.poll_send(cx))
    }

    pub(super) fn sent(&self) -> SentState {
        on_wire!(self, wire => wire.sent)
    }

    /// Returns true once the end of the body was taken.
    pub(crate) fn has_end(&self) -> bool {
        on_wire!(self, wire => wire.has_end)
    }

    /// Returns true if all of the request was sent to the backend.
    pub(crate) fn is_sent(&self) -> bool {
        match self {
            Self::Http1(wire) => wire.is_sent(),
            Self::Http2(wire) => wire.is_sent(),
        }
    }

    /// Returns true if nothing more will be sent: all of it was, or the backend refuses the rest.
    pub(crate) fn is_over(&self) -> bool {
        self.sent() == SentState::Refused || self.is_sent()
    }

    /// Reads the headers of the next response, which may be an interim one.
    pub(crate) fn poll_response(
        &mut self,
        cx: &mut TaskContext<'_>,
        memory: ValueMemory,
    ) -> Poll<Result<ResponseHeader>> {
        match self {
            Self::Http1(wire) => wire.poll_response(cx, memory),
            Self::Http2(wire) => wire.poll_response(cx),
        }
    }

    /// Prepares for the body of the `response` to a request with this `method`, whose framing headers
    /// are made consistent. Returns false if it has none.
    pub(crate) fn begin_body(
        &mut self,
        method: &Method,
        response: &mut ResponseHeader,
    ) -> Result<bool> {
        on_wire!(self, wire => wire.begin_body(method, response))
    }

    /// Returns true if filters may have a body for the response although its backend has none. Over
    /// HTTP/1 that is a body of length 0.
    pub(super) fn may_get_body(&self, response: &ResponseHeader) -> bool {
        match self {
            Self::Http1(_) => false,
            Self::Http2(wire) => wire.is_empty && !is_call(&response.headers),
        }
    }

    /// Reads what is there of a short body, without waiting: filters do better with the whole.
    pub(super) fn gather(&mut self, cx: &mut TaskContext<'_>) -> Result<()> {
        match self {
            Self::Http1(wire) => wire.gather(cx),
            Self::Http2(_) => Ok(()),
        }
    }

    /// Reads the next piece of the body, with room for at most about `max` bytes.
    pub(crate) fn poll_piece(
        &mut self,
        cx: &mut TaskContext<'_>,
        max: usize,
    ) -> Poll<Result<Piece>> {
        match self {
            Self::Http1(wire) => wire.poll_piece(cx, max),
            Self::Http2(wire) => wire.poll_piece(cx),
        }
    }

    /// Takes the trailers of a response whose body has ended.
    pub(super) fn take_trailers(&mut self) -> Option<HeaderMap> {
        match self {
            Self::Http1(wire) => wire.take_trailers(),
            Self::Http2(wire) => wire.trailers.take(),
        }
    }

    /// Returns true if the body has a length that is known, or ends in its own framing.
    pub(crate) fn is_delimited(&self) -> bool {
        match self {
            Self::Http1(wire) => wire.is_delimited(),
            Self::Http2(_) => true,
        }
    }

    /// Does not use the connection for another request.
    pub(super) fn close(&mut self) {
        if let Self::Http1(wire) = self {
            wire.is_kept = false;
        }
    }

    /// Lets no further request use a connection that others share.
    pub(super) fn retire(&self) {
        if let Self::Http2(wire) = self {
            wire.stream.retire();
        }
    }

    /// Gives the connection back, for the next request, if it may carry one.
    pub(crate) fn finish(self, upstream: &Upstream, lease: &Lease, now: Instant) {
        match self {
            Self::Http1(wire) if wire.is_reusable() => {
                upstream.put_back(lease, wire.connection, now);
            }
            // A stream that is not over is reset.
            Self::Http1(_) | Self::Http2(_) => {}
        }
    }
}

/// Returns true if a response has no body, whatever its headers say (RFC 9112, 6.3).
fn has_no_body(method: &Method, response: &ResponseHeader) -> bool {
    *method == Method::HEAD
        || response.status.is_informational()
        || matches!(
            response.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        )
}
