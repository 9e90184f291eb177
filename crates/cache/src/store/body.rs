//! A stored body: a few pieces of memory that hold nothing else, or a fill in flight.

use std::{
    mem::size_of,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    filling::Filling,
    memory::{MemoryCharge, allocated, size_below},
    read::Reader,
};

/// The body of an entry, complete or still growing. A 304 makes a new entry that shares the body of
/// the response it validates.
#[derive(Debug)]
pub struct Body {
    whole: OnceLock<WholeBody>,
    /// The fill that writes the body, until it is complete.
    filling: Mutex<Option<Arc<Filling>>>,
}

/// A body that is complete.
#[derive(Debug)]
pub struct WholeBody {
    segments: Segments,
    len: u64,
    charge: MemoryCharge,
}

#[derive(Debug)]
enum Segments {
    One(Bytes),
    Many(Box<[Bytes]>),
}

impl WholeBody {
    /// Returns the segments of the body in order. No segment is empty; an empty body has none.
    pub fn segments(&self) -> &[Bytes] {
        match &self.segments {
            Segments::One(one) if one.is_empty() => &[],
            Segments::One(one) => std::slice::from_ref(one),
            Segments::Many(many) => many,
        }
    }

    #[expect(
        clippy::len_without_is_empty,
        reason = "a length in bytes, not of a container"
    )]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns the bytes that the body takes in memory.
    pub(super) fn size(&self) -> u64 {
        self.charge.bytes()
    }

    pub(super) fn new(mut segments: Vec<Bytes>, charge: MemoryCharge) -> Self {
        let len = segments.iter().map(|segment| segment.len() as u64).sum();
        let segments = match segments.len() {
            0 => Segments::One(Bytes::new()),
            1 => Segments::One(segments.remove(0)),
            _ => Segments::Many(segments.into()),
        };
        let mut whole = Self {
            segments,
            len,
            charge,
        };
        whole.charge.set(whole.measured());
        whole
    }

    /// `Bytes` made of a `Vec` allocates a control block when first cloned.
    fn measured(&self) -> u64 {
        let segments = self.segments();
        let data = segments.iter().map(|segment| allocated(segment.len()) + 32);
        let list = match &self.segments {
            Segments::One(_) => 0,
            Segments::Many(many) => allocated(size_of::<Bytes>() * many.len()),
        };
        (data.sum::<usize>() + list) as u64
    }
}

impl Body {
    /// Bytes that a `Body` takes in memory, without the data.
    pub(super) const SIZE: usize = allocated(size_of::<Self>() + 16);

    pub(super) fn growing() -> Self {
        Self {
            whole: OnceLock::new(),
            filling: Mutex::new(None),
        }
    }

    pub(super) fn set_filling(&self, filling: Option<Arc<Filling>>) {
        *self.filling.lock() = filling;
    }

    pub(super) fn filling(&self) -> Option<Arc<Filling>> {
        self.filling.lock().clone()
    }

    pub(super) fn complete(&self, whole: WholeBody) {
        let set = self.whole.set(whole);
        debug_assert!(set.is_ok(), "a body is completed once");
    }

    /// Returns the complete body; `None` while it grows, and for good if its fill failed.
    pub fn whole(&self) -> Option<&WholeBody> {
        self.whole.get()
    }

    /// Returns a reader that starts at the first byte and waits for bytes that have yet to arrive.
    pub fn reader(self: &Arc<Self>) -> Reader {
        Reader::new(self)
    }
}

/// Remainders larger than this are split into several pieces, so that no piece wastes much.
const EXACT: usize = 16 * 1024;

/// The largest piece. Freed pieces of this size can be reused; the allocator returns huge ones to
/// the system each time.
const MAX_SEGMENT: usize = 256 * 1024;

/// Returns the size of the next piece of a body that has `remaining` bytes left. The pieces are as
/// few as possible and waste next to nothing.
pub(super) fn next_piece(remaining: usize) -> usize {
    if remaining >= MAX_SEGMENT {
        return MAX_SEGMENT;
    }
    let waste = allocated(remaining) - remaining;
    if remaining <= EXACT || waste * 32 <= remaining {
        return remaining;
    }
    size_below(remaining)
}

/// Same as [`next_piece`] for a body of unknown length of which `len` bytes have arrived.
pub(super) fn next_piece_of_unknown(len: u64) -> usize {
    if len < 1024 * 1024 {
        64 * 1024
    } else {
        MAX_SEGMENT
    }
}

/// Copies foreign segments into pieces of our own.
pub(super) fn own_pieces(segments: &[Bytes]) -> Vec<Bytes> {
    let mut remaining: usize = segments.iter().map(Bytes::len).sum();
    let mut pieces = Vec::new();
    let mut piece = Vec::new();
    for segment in segments {
        let mut rest = &segment[..];
        while !rest.is_empty() {
            if piece.capacity() == 0 {
                piece = Vec::with_capacity(next_piece(remaining));
            }
            let (now, later) = rest.split_at(rest.len().min(piece.capacity() - piece.len()));
            piece.extend_from_slice(now);
            remaining -= now.len();
            rest = later;
            if piece.len() == piece.capacity() {
                pieces.push(Bytes::from(std::mem::take(&mut piece)));
            }
        }
    }
    if !piece.is_empty() {
        piece.shrink_to_fit();
        pieces.push(Bytes::from(piece));
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(mut remaining: usize) -> Vec<usize> {
        let mut pieces = Vec::new();
        while remaining > 0 {
            let piece = next_piece(remaining);
            pieces.push(piece);
            remaining -= piece;
        }
        pieces
    }

    #[test]
    fn pieces_are_few_and_waste_little() {
        assert_eq!(plan(1000), [1000]);
        assert_eq!(plan(65_536), [65_536]);
        assert_eq!(plan(400_000), [262_144, 131_072, 6784]);
        for len in [20_000, 70_000, 100_001, 300_000, 1_000_000, 8_388_607] {
            let pieces = plan(len);
            let taken: usize = pieces.iter().map(|piece| allocated(*piece)).sum();
            assert!(taken - len <= len / 16, "{len}: {pieces:?}");
            assert!(pieces.len() <= 5 + len / MAX_SEGMENT, "{len}: {pieces:?}");
        }
    }

    #[test]
    fn small_slices_of_large_buffers_are_copied() {
        let network = Bytes::from(vec![7; 1_000_000]);
        let slices: Vec<_> = (0..1000).map(|n| network.slice(n..n + 300)).collect();
        let pieces = own_pieces(&slices);
        assert_eq!(pieces.len(), plan(300_000).len());
        assert_eq!(pieces.iter().map(Bytes::len).sum::<usize>(), 300_000);
        assert!(own_pieces(&[]).is_empty());
    }
}
