//! WebSocket after its handshake (RFC 6455): bytes move both ways as they are.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    task::{Context as TaskContext, Poll},
};

use bytes::{Buf as _, BytesMut};
use edgeway_upstreams::BackendConnection;
use pingora::{Error, ErrorType, OrErr as _, Result};
use tokio::io::ReadBuf;

use crate::{context::Context, error, session::Http1Stream, upstream};

/// Room for one read. It is on the stack, so that a silent tunnel holds no buffer.
const ROOM: usize = 8 * 1024;

/// Tunnel between a client and a backend.
#[derive(Debug, Default)]
pub(super) struct Tunnel {
    to_client: Direction,
    to_backend: Direction,
    /// True if the connection to the client holds bytes that wait for a flush.
    is_client_unflushed: bool,
    /// The same for the connection to the backend.
    is_backend_unflushed: bool,
    /// True once the backend knows that the client sends no more.
    is_end_sent: bool,
    /// Number of bytes received from the client, and sent to it.
    pub(super) received: u64,
    pub(super) sent: u64,
}

/// Direction of a tunnel.
#[derive(Debug, Default)]
struct Direction {
    /// Bytes that were read and not written yet.
    waiting: BytesMut,
    has_ended: bool,
}

impl Direction {
    /// Reads if nothing waits to be written. Returns the number of bytes, 0 at the end; `None` if
    /// there is nothing to read.
    fn poll_read(
        &mut self,
        read: impl FnOnce(&mut ReadBuf<'_>) -> Poll<Result<()>>,
    ) -> Result<Option<usize>> {
        if self.has_ended || !self.waiting.is_empty() {
            return Ok(None);
        }
        let mut room = [const { MaybeUninit::uninit() }; ROOM];
        let mut room = ReadBuf::uninit(&mut room);
        let Poll::Ready(outcome) = read(&mut room) else {
            return Ok(None);
        };
        outcome?;
        let came = room.filled();
        self.waiting.extend_from_slice(came);
        self.has_ended = came.is_empty();
        Ok(Some(came.len()))
    }

    /// Writes as many of the waiting bytes as the other side accepts. Returns the number of bytes.
    fn poll_write(&mut self, mut write: impl FnMut(&[u8]) -> Poll<Result<usize>>) -> Result<usize> {
        let mut all = 0;
        while !self.waiting.is_empty()
            && let Poll::Ready(written) = write(&self.waiting)
        {
            let count = written?;
            if count == 0 {
                let error: io::Error = io::ErrorKind::WriteZero.into();
                return Err(Error::because(
                    ErrorType::WriteError,
                    "writing a WebSocket",
                    error,
                ));
            }
            self.waiting.advance(count);
            all += count;
        }
        if self.waiting.is_empty() {
            self.waiting = BytesMut::new();
        }
        Ok(all)
    }
}

impl Tunnel {
    /// Creates a tunnel whose backend has already sent `input`.
    pub(super) fn new(input: BytesMut) -> Self {
        let to_client = Direction {
            waiting: input,
            has_ended: false,
        };
        Self {
            to_client,
            ..Self::default()
        }
    }

    /// Moves what there is. Ready once the backend has ended and the client has all of it.
    pub(super) fn poll(
        &mut self,
        cx: &mut TaskContext<'_>,
        client: &mut Http1Stream,
        backend: &mut BackendConnection,
        ctx: &mut Context,
    ) -> Poll<Result<()>> {
        loop {
            let mut has_moved = self.poll_to_client(cx, client, backend, ctx)?;
            let is_sent = self.to_client.waiting.is_empty() && !self.is_client_unflushed;
            if is_sent && self.to_client.has_ended {
                return Poll::Ready(Ok(()));
            }
            has_moved |= self.poll_to_backend(cx, client, backend, ctx)?;
            if !has_moved {
                return Poll::Pending;
            }
        }
    }

    /// Returns true if it read or wrote anything.
    fn poll_to_client(
        &mut self,
        cx: &mut TaskContext<'_>,
        client: &mut Http1Stream,
        backend: &mut BackendConnection,
        ctx: &mut Context,
    ) -> Result<bool> {
        let came = self.to_client.poll_read(|room| {
            let read = backend.poll_read(cx, room);
            read.map(|read| read.or_err(ErrorType::ReadError, "reading a WebSocket"))
        });
        let came = came.map_err(Error::into_up)?;
        if let Some(count @ 1..) = came {
            if let Some(upstream) = &ctx.upstream {
                upstream.count_received(count);
            }
            upstream::received_body(false, ctx)?;
        }
        let sent = self
            .to_client
            .poll_write(|data| client.poll_output(cx, data));
        let sent = sent.map_err(error::of_client)?;
        self.sent += sent as u64;
        self.is_client_unflushed |= sent > 0;
        if self.is_client_unflushed
            && self.to_client.waiting.is_empty()
            && let Poll::Ready(flushed) = client.poll_flush(cx)
        {
            flushed.map_err(error::of_client)?;
            self.is_client_unflushed = false;
        }
        Ok(came.is_some() || sent > 0)
    }

    /// Returns true if it read or wrote anything.
    fn poll_to_backend(
        &mut self,
        cx: &mut TaskContext<'_>,
        client: &mut Http1Stream,
        backend: &mut BackendConnection,
        ctx: &Context,
    ) -> Result<bool> {
        let came = self
            .to_backend
            .poll_read(|room| client.poll_read(cx, room))?;
        if let Some(count @ 1..) = came {
            self.received += count as u64;
            upstream::sent_bytes(count, ctx);
        }
        let sent = self.to_backend.poll_write(|data| {
            let written = backend.poll_output(cx, &[IoSlice::new(data)]);
            written.map(|written| written.or_err(ErrorType::WriteError, "writing a WebSocket"))
        });
        let sent = sent.map_err(Error::into_up)?;
        self.is_backend_unflushed |= sent > 0;
        if self.is_backend_unflushed
            && self.to_backend.waiting.is_empty()
            && let Poll::Ready(flushed) = backend.poll_flush(cx)
        {
            let flushed = flushed.or_err(ErrorType::WriteError, "writing a WebSocket");
            flushed.map_err(Error::into_up)?;
            self.is_backend_unflushed = false;
        }
        let is_over = self.to_backend.has_ended && self.to_backend.waiting.is_empty();
        if is_over && !self.is_end_sent {
            // An error here is one of the backend's connection, which the next read reports.
            self.is_end_sent = backend.poll_end(cx).is_ready();
        }
        Ok(came.is_some() || sent > 0)
    }
}
