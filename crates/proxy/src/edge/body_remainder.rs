//! Bytes that belong to the current request and may be passed on.

use tokio::io::ReadBuf;

use super::{chunks::Chunks, head::BodyFraming};

/// Bytes passed on in place of an invalid chunk: no reader of a body accepts them at any position.
const NO_CHUNK: &[u8] = b"\r\r";

/// Remainder of the current request.
#[derive(Debug)]
pub(super) enum BodyRemainder {
    /// This many bytes.
    Bytes(u64),
    /// A chunked body.
    Chunks(Chunks),
}

impl BodyRemainder {
    /// Creates the remainder of a request whose header section was taken.
    pub(super) fn new(body: BodyFraming) -> Self {
        match body {
            BodyFraming::None => Self::Bytes(0),
            BodyFraming::Length(length) => Self::Bytes(length),
            BodyFraming::Chunked => Self::Chunks(Chunks::default()),
        }
    }

    /// Returns true if no further bytes belong to the request.
    #[inline]
    pub(super) fn is_complete(&self) -> bool {
        match self {
            Self::Bytes(length) => *length == 0,
            Self::Chunks(chunks) => chunks.are_complete(),
        }
    }

    /// Returns how many of the next `bytes` belong to the request, and marks them as passed on.
    /// Returns `None` if the next bytes are not a valid chunk.
    #[inline]
    pub(super) fn take(&mut self, bytes: &[u8], is_tunnel: bool) -> Option<usize> {
        match self {
            Self::Bytes(length) if !is_tunnel => {
                let left = usize::try_from(*length).unwrap_or(usize::MAX);
                let count = left.min(bytes.len());
                *length -= count as u64;
                Some(count)
            }
            Self::Chunks(chunks) if !is_tunnel => match chunks.take(bytes) {
                0 if chunks.are_broken() => None,
                count => Some(count),
            },
            _ => Some(bytes.len()),
        }
    }
}

/// Makes the reader refuse a body that is no longer valid.
pub(super) fn put_no_chunk(buf: &mut ReadBuf<'_>) {
    buf.put_slice(&NO_CHUNK[..NO_CHUNK.len().min(buf.remaining())]);
}
