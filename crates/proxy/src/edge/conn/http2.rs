//! Frames of HTTP/2 between `h2` and the client: counted on their way in, with their header blocks
//! written on their way out.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::ConnIo;
use crate::{
    connection::response_queue::ResponseQueue,
    edge::{
        frames::{FoundFrame, FrameLimits, Frames},
        http2::{FIRST_SETTINGS, FrameWriter},
    },
};

/// State of the frames of one connection.
#[derive(Debug)]
pub(super) struct Http2Frames {
    incoming: Frames,
    limits: FrameLimits,
    outgoing: FrameWriter,
    /// Headers of the responses that are being sent.
    responses: Arc<ResponseQueue>,
    /// True once `h2` has the settings that come before the client's.
    has_settings: bool,
}

impl Http2Frames {
    pub(super) fn new(limits: FrameLimits) -> Self {
        Self {
            incoming: Frames::default(),
            limits,
            outgoing: FrameWriter::default(),
            responses: Arc::default(),
            has_settings: false,
        }
    }
}

impl ConnIo {
    /// Returns the queue for the headers of responses on HTTP/2.
    pub(in crate::edge) fn responses(&self) -> Arc<ResponseQueue> {
        let http2 = self.frames.as_ref();
        http2.map_or_else(Arc::default, |http2| Arc::clone(&http2.responses))
    }

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
        if let Some(http2) = &mut self.frames
            && !http2.has_settings
            && http2.incoming.is_open()
            && buf.remaining() >= FIRST_SETTINGS.len()
        {
            http2.has_settings = true;
            buf.put_slice(&FIRST_SETTINGS);
            return Poll::Ready(Ok(()));
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
        let came = &mut buf.filled_mut()[before..];
        let counted = http2.incoming.feed(came, &http2.limits, streams.now());
        streams.set_header_section(http2.incoming.header_section());
        if let Err(reason) = counted {
            self.connection.close(reason);
            buf.set_filled(before);
            return Poll::Pending;
        }
        for found in http2.incoming.found() {
            match found {
                FoundFrame::Reset(stream) => {
                    streams.set_reset();
                    http2.responses.forget(stream);
                }
                FoundFrame::Settings { at, offset } => {
                    http2.outgoing.settings(&mut came[at], offset);
                }
                FoundFrame::EndOfSettings => http2.outgoing.end_settings(),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes frames of `h2`, and writes long content from where it is. The rest is written before
    /// the next frames are taken, and by a flush.
    pub(super) fn poll_write_frames(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_write_output(cx))?;
        let Some(http2) = self.frames.as_deref_mut() else {
            return Poll::Ready(Ok(0));
        };
        let mut accepted = 0;
        'slices: for slice in slices {
            let mut rest: &[u8] = slice;
            while !rest.is_empty() {
                let long = http2.outgoing.passes(rest);
                if long == 0 {
                    let count = http2.outgoing.take(rest, &http2.responses, cx);
                    accepted += count;
                    rest = &rest[count..];
                    if count == 0 {
                        break 'slices;
                    }
                    continue;
                }
                let output = http2.outgoing.output();
                let both = [IoSlice::new(output), IoSlice::new(&rest[..long])];
                let parts = if output.is_empty() { &both[1..] } else { &both };
                let length = output.len();
                let written = match Pin::new(&mut self.transport).poll_write_vectored(cx, parts) {
                    Poll::Ready(Ok(0)) => {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    Poll::Ready(Ok(written)) => written,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => break 'slices,
                };
                http2.incoming.sent(written, http2.outgoing.take_frames());
                if length > 0 {
                    http2.outgoing.sent(written.min(length));
                }
                let count = written.saturating_sub(length);
                http2.outgoing.passed(count);
                accepted += count;
                rest = &rest[count..];
                if count < long {
                    break 'slices;
                }
            }
        }
        if accepted == 0 && slices.iter().any(|slice| !slice.is_empty()) {
            return Poll::Pending;
        }
        Poll::Ready(Ok(accepted))
    }

    /// Writes the frames that were taken.
    pub(super) fn poll_write_output(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(http2) = self.frames.as_deref_mut() else {
            return Poll::Ready(Ok(()));
        };
        while !http2.outgoing.output().is_empty() {
            let output = http2.outgoing.output();
            match ready!(Pin::new(&mut self.transport).poll_write(cx, output))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => {
                    let frames = http2.outgoing.take_frames();
                    http2.incoming.sent(written, frames);
                    http2.outgoing.sent(written);
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}
