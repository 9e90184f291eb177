//! Bytes that belong to the current request and may be passed to Pingora.

use tokio::io::ReadBuf;

use super::{chunks::Chunks, head::BodyFraming};

/// Bytes passed on in place of an invalid chunk: Pingora refuses them at any position, and
/// responds.
const NO_CHUNK: &[u8] = b"\r\r";

/// Remainder of the current request.
#[derive(Debug)]
pub(super) enum BodyRemainder {
    /// This many bytes.
    Bytes(u64),
    /// This many bytes of a head, then a chunked body.
    Chunks(usize, Chunks),
}

impl BodyRemainder {
    /// Creates the remainder for a head of this length, and its body.
    pub(super) fn of(head: usize, body: BodyFraming) -> Self {
        match body {
            BodyFraming::None => Self::Bytes(head as u64),
            BodyFraming::Length(body) => Self::Bytes((head as u64).saturating_add(body)),
            BodyFraming::Chunked => Self::Chunks(head, Chunks::default()),
        }
    }

    /// Returns true if no further bytes belong to the request.
    #[inline]
    pub(super) fn is_complete(&self) -> bool {
        match self {
            Self::Bytes(length) => *length == 0,
            Self::Chunks(head, chunks) => *head == 0 && chunks.are_complete(),
        }
    }

    /// Returns how many of the next `bytes` belong to the request, and marks them as passed on.
    /// Returns `None` if the next bytes are not a valid chunk.
    #[inline]
    pub(super) fn take(&mut self, bytes: &[u8], is_tunnel: bool) -> Option<usize> {
        match self {
            Self::Bytes(length) if !is_tunnel => {
                let own = usize::try_from(*length).unwrap_or(usize::MAX);
                let count = own.min(bytes.len());
                *length -= count as u64;
                Some(count)
            }
            Self::Chunks(head, chunks) if !is_tunnel => {
                let of_head = bytes.len().min(*head);
                *head -= of_head;
                match of_head + chunks.take(&bytes[of_head..]) {
                    0 if chunks.are_broken() => None,
                    count => Some(count),
                }
            }
            _ => Some(bytes.len()),
        }
    }
}

/// Makes Pingora refuse a body that is no longer valid.
pub(super) fn put_no_chunk(buf: &mut ReadBuf<'_>) {
    buf.put_slice(&NO_CHUNK[..NO_CHUNK.len().min(buf.remaining())]);
}
