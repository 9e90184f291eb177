//! WebSocket after its handshake (RFC 6455): bytes move both ways as they are.

use std::{
    io::IoSlice,
    mem::MaybeUninit,
    task::{Context as TaskContext, Poll},
};

use bytes::{Buf as _, BytesMut};
use pingora::{Error, ErrorType, OrErr as _, Result};
use tokio::io::ReadBuf;

use crate::{
    proxy::{context::Context, direct::DirectClient, request_end, upstream},
    upstreams::BackendConnection,
};

/// Room for one read. It is on the stack, so that a silent tunnel holds no buffer.
const ROOM: usize = 8 * 1024;

/// Tunnel between a client and a backend.
#[derive(Debug)]
pub(super) struct Tunnel {
    /// Bytes that were read and not written yet.
    to_client: BytesMut,
    to_backend: BytesMut,
    client: SideState,
    backend: SideState,
    /// True if the client's connection holds bytes that wait for a flush.
    is_unflushed: bool,
    /// Number of bytes received from the client.
    pub(super) received: u64,
}

/// State of what one side sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SideState {
    Open,
    /// End of what this side sends.
    Ended,
    /// End that the other side knows of.
    Reported,
}

impl Tunnel {
    /// Creates a tunnel whose backend has already sent `input`.
    pub(super) fn new(input: BytesMut) -> Self {
        Self {
            to_client: input,
            to_backend: BytesMut::new(),
            client: SideState::Open,
            backend: SideState::Open,
            is_unflushed: false,
            received: 0,
        }
    }

    /// Moves what there is. Ready once the backend has ended and the client has all of it.
    pub(super) fn poll(
        &mut self,
        cx: &mut TaskContext<'_>,
        client: &mut DirectClient<'_>,
        connection: &mut BackendConnection,
        ctx: &mut Context,
    ) -> Poll<Result<()>> {
        loop {
            let mut has_moved = self.poll_to_client(cx, client, connection, ctx)?;
            let is_sent = self.to_client.is_empty() && !self.is_unflushed;
            if is_sent && self.backend == SideState::Ended {
                return Poll::Ready(Ok(()));
            }
            has_moved |= self.poll_to_backend(cx, client, connection, ctx)?;
            if !has_moved {
                return Poll::Pending;
            }
        }
    }

    /// Returns true if it read or wrote anything.
    fn poll_to_client(
        &mut self,
        cx: &mut TaskContext<'_>,
        client: &mut DirectClient<'_>,
        connection: &mut BackendConnection,
        ctx: &mut Context,
    ) -> Result<bool> {
        let mut has_moved = false;
        if self.to_client.is_empty() && self.backend == SideState::Open {
            let mut room = [const { MaybeUninit::uninit() }; ROOM];
            let mut room = ReadBuf::uninit(&mut room);
            if let Poll::Ready(read) = connection.poll_read(cx, &mut room) {
                read.or_err(ErrorType::ReadError, "reading a WebSocket")
                    .map_err(Error::into_up)?;
                let came = room.filled();
                has_moved = true;
                if came.is_empty() {
                    self.backend = SideState::Ended;
                } else {
                    if let Some(upstream) = &ctx.upstream {
                        upstream.count_received(came.len());
                    }
                    upstream::received_body(false, ctx)?;
                    self.to_client.extend_from_slice(came);
                }
            }
        }
        while !self.to_client.is_empty() {
            let Poll::Ready(written) = client.poll_output(cx, &self.to_client) else {
                break;
            };
            self.to_client
                .advance(written.map_err(request_end::of_client)?);
            self.is_unflushed = true;
            has_moved = true;
        }
        if self.to_client.is_empty() {
            self.to_client = BytesMut::new();
            if self.is_unflushed
                && let Poll::Ready(flushed) = client.poll_flush(cx)
            {
                flushed.map_err(request_end::of_client)?;
                self.is_unflushed = false;
            }
        }
        Ok(has_moved)
    }

    /// Returns true if it read or wrote anything.
    fn poll_to_backend(
        &mut self,
        cx: &mut TaskContext<'_>,
        client: &mut DirectClient<'_>,
        connection: &mut BackendConnection,
        ctx: &mut Context,
    ) -> Result<bool> {
        let mut has_moved = false;
        if self.to_backend.is_empty() && self.client == SideState::Open {
            let mut room = [const { MaybeUninit::uninit() }; ROOM];
            let mut room = ReadBuf::uninit(&mut room);
            if let Poll::Ready(read) = client.poll_read(cx, &mut room) {
                read?;
                let came = room.filled();
                has_moved = true;
                if came.is_empty() {
                    self.client = SideState::Ended;
                } else {
                    self.received += came.len() as u64;
                    upstream::sent_bytes(came.len(), ctx);
                    self.to_backend.extend_from_slice(came);
                }
            }
        }
        while !self.to_backend.is_empty() {
            let data = [IoSlice::new(&self.to_backend)];
            let Poll::Ready(written) = connection.poll_output(cx, &data) else {
                break;
            };
            let written = written.or_err(ErrorType::WriteError, "writing a WebSocket");
            self.to_backend.advance(written.map_err(Error::into_up)?);
            has_moved = true;
        }
        if self.to_backend.is_empty() {
            self.to_backend = BytesMut::new();
            if self.client == SideState::Ended && connection.poll_end(cx).is_ready() {
                self.client = SideState::Reported;
            }
        }
        Ok(has_moved)
    }
}
