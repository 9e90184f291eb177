//! Frames of HTTP/2 between `h2` and the client, which are counted on their way and pass as they
//! are.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::ConnIo;
use crate::edge::frames::{FrameLimits, Frames, OutgoingFrames};

/// State of the frames of one connection.
#[derive(Debug)]
pub(super) struct Http2Frames {
    incoming: Frames,
    limits: FrameLimits,
    outgoing: OutgoingFrames,
}

impl Http2Frames {
    pub(super) fn new(limits: FrameLimits) -> Self {
        Self {
            incoming: Frames::default(),
            limits,
            outgoing: OutgoingFrames::default(),
        }
    }
}

impl ConnIo {
    /// Reads frames. Once the connection is to be closed, nothing more is returned, not even its
    /// end: [`crate::edge::http2`] checks the close reason and still has a GOAWAY to send.
    pub(super) fn poll_frames(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if self.connection.close_reason().is_some() {
            return Poll::Pending;
        }
        if self.input.is_empty() {
            ready!(self.transport.poll_readable(cx))?;
            let read = ready!(Pin::new(&mut self.transport).poll_read(cx, buf));
            if self.connection.close_reason().is_some() {
                buf.set_filled(before);
                return Poll::Pending;
            }
            read?;
        } else {
            // Bytes that were read before they turned out to be HTTP/2.
            let count = self.input.len().min(buf.remaining());
            buf.put_slice(&self.input.split_to(count));
            if self.input.is_empty() {
                self.input = BytesMut::new();
            }
        }
        let Some(http2) = self.frames.as_deref_mut() else {
            return Poll::Ready(Ok(()));
        };
        self.connection.listener.activity.touch();
        let streams = &self.connection.streams;
        let came = &buf.filled()[before..];
        let counted = http2.incoming.feed(came, &http2.limits, streams.now());
        streams.set_header_section(http2.incoming.header_section());
        if http2.incoming.has_resets() {
            streams.set_reset();
        }
        if let Err(reason) = counted {
            self.connection.close(reason);
            buf.set_filled(before);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes frames of `h2`.
    pub(super) fn poll_write_frames(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.transport).poll_write_vectored(cx, slices);
        let written = ready!(written)?;
        if let Some(http2) = self.frames.as_deref_mut() {
            let frames = http2.outgoing.feed(slices, written);
            http2.incoming.sent(written, frames);
        }
        Poll::Ready(Ok(written))
    }
}
