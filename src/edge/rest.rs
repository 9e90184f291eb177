//! How much of what comes belongs to the request under way, and may be handed to Pingora.

use tokio::io::ReadBuf;

use super::{chunks::Chunks, head::Body};

/// Handed over where a chunk should be and none is: Pingora refuses it wherever it stands,
/// and answers.
const NO_CHUNK: &[u8] = b"\r\r";

/// What may be handed to Pingora.
#[derive(Debug)]
pub(super) enum Rest {
    /// This many bytes.
    Bytes(u64),
    /// This many bytes of a head, then a body in chunks.
    Chunks(usize, Chunks),
}

impl Rest {
    /// A head of so many bytes, and its body.
    pub(super) fn of(head: usize, body: Body) -> Self {
        match body {
            Body::None => Self::Bytes(head as u64),
            Body::Length(body) => Self::Bytes((head as u64).saturating_add(body)),
            Body::Chunked => Self::Chunks(head, Chunks::default()),
        }
    }

    /// Whether nothing more of what comes is the request's own.
    #[inline]
    pub(super) fn is_whole(&self) -> bool {
        match self {
            Self::Bytes(rest) => *rest == 0,
            Self::Chunks(head, chunks) => *head == 0 && chunks.are_whole(),
        }
    }

    /// How much of `bytes`, the next ones, is the request's own, and is now handed over.
    /// None if what comes next is no chunk.
    #[inline]
    pub(super) fn take(&mut self, bytes: &[u8], is_tunnel: bool) -> Option<usize> {
        match self {
            Self::Bytes(rest) if !is_tunnel => {
                let own = usize::try_from(*rest).unwrap_or(usize::MAX);
                let count = own.min(bytes.len());
                *rest -= count as u64;
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

/// Makes Pingora refuse a body that is no body any more.
pub(super) fn put_no_chunk(buf: &mut ReadBuf<'_>) {
    buf.put_slice(&NO_CHUNK[..NO_CHUNK.len().min(buf.remaining())]);
}
