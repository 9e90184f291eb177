//! The part of a stored response that a 304 leaves as it is: key, tags, body, and state for eviction.
//! The body is a few pieces of memory that hold nothing else, or a fill in flight.

use std::{
    mem::size_of,
    sync::{Arc, OnceLock, atomic::Ordering},
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    eviction_state::EvictionState,
    filling::Filling,
    memory::{MemoryCharge, MemoryLedger},
    read::Reader,
};
use crate::{
    allocation::{allocated, size_below},
    key::Key,
};

/// The body of an entry, complete or still growing, and what else stays the same when a 304 makes a
/// new entry for the response.
///
/// A million of them are in memory: `tests::small_entries_stay_small` pins the size.
#[derive(Debug)]
pub struct Body {
    pub(super) key: Key,
    pub(super) tags: Box<[Box<str>]>,
    whole: OnceLock<WholeBody>,
    /// The fill that writes the body, until it is complete.
    filling: Mutex<Option<Arc<Filling>>>,
    pub(super) eviction: EvictionState,
    pub(super) ledger: &'static MemoryLedger,
}

/// A body that is complete.
#[derive(Debug)]
pub struct WholeBody(Segments);

#[derive(Debug)]
enum Segments {
    /// Readers share it through the [`Body`] ([`OneSegment`]), so that it needs no count of its
    /// own. Empty for an empty body.
    One(Box<[u8]>),
    Many(Box<[Bytes]>),
}

/// A segment up to this length is copied at the end of a fill if readers still hold parts of it.
const MAX_COPIED: usize = 16 * 1024;

impl WholeBody {
    /// Returns the segments of the body in order. No segment is empty; an empty body has none.
    pub fn segments(&self) -> impl Iterator<Item = &[u8]> {
        let (one, many) = match &self.0 {
            Segments::One(one) => (Some(&**one), None),
            Segments::Many(many) => (None, Some(many)),
        };
        let one = one.into_iter().filter(|one| !one.is_empty());
        one.chain(many.into_iter().flatten().map(|segment| &segment[..]))
    }

    #[expect(clippy::len_without_is_empty, reason = "it counts bytes, not items")]
    pub fn len(&self) -> u64 {
        match &self.0 {
            Segments::One(one) => one.len() as u64,
            Segments::Many(many) => many.iter().map(|segment| segment.len() as u64).sum(),
        }
    }

    /// Returns all bytes of the body.
    pub fn concat(&self) -> Vec<u8> {
        let mut all = Vec::with_capacity(usize::try_from(self.len()).unwrap_or_default());
        self.segments()
            .for_each(|segment| all.extend_from_slice(segment));
        all
    }

    fn new(mut segments: Vec<Bytes>) -> Self {
        let is_one = segments.len() == 1
            && segments
                .iter()
                .all(|one| one.len() <= MAX_COPIED || one.is_unique());
        Self(match segments.pop() {
            None => Segments::One(Box::default()),
            Some(one) if is_one => Segments::One(Vec::from(one).into_boxed_slice()),
            Some(last) => {
                segments.push(last);
                Segments::Many(segments.into())
            }
        })
    }

    /// Returns the bytes that the body takes in memory. `Bytes` made of a `Vec` allocates a control
    /// block when first cloned.
    fn size(&self) -> usize {
        match &self.0 {
            Segments::One(one) => allocated(one.len()),
            Segments::Many(many) => {
                let data = many.iter().map(|segment| allocated(segment.len()) + 32);
                data.sum::<usize>() + allocated(size_of::<Bytes>() * many.len())
            }
        }
    }
}

/// The bytes of a body of one segment, for as long as a reader needs them.
struct OneSegment(Arc<Body>);

impl AsRef<[u8]> for OneSegment {
    fn as_ref(&self) -> &[u8] {
        match self.0.whole() {
            Some(WholeBody(Segments::One(one))) => one,
            Some(WholeBody(Segments::Many(_))) | None => &[],
        }
    }
}

impl Body {
    pub(super) fn growing(
        key: Key,
        tags: Box<[Box<str>]>,
        ledger: &'static MemoryLedger,
    ) -> Arc<Self> {
        let body = Self {
            key,
            tags,
            whole: OnceLock::new(),
            filling: Mutex::new(None),
            eviction: EvictionState::default(),
            ledger,
        };
        let size = body.size() as u64;
        ledger.live.fetch_add(size, Ordering::Relaxed);
        Arc::new(body)
    }

    pub(super) fn set_filling(&self, filling: Option<Arc<Filling>>) {
        *self.filling.lock() = filling;
    }

    pub(super) fn filling(&self) -> Option<Arc<Filling>> {
        self.filling.lock().clone()
    }

    /// Completes the body. The bytes of `charge` are released with it.
    pub(super) fn complete(&self, segments: Vec<Bytes>, mut charge: MemoryCharge) {
        let whole = WholeBody::new(segments);
        charge.set(whole.size() as u64);
        let set = self.whole.set(whole);
        debug_assert!(set.is_ok(), "a body is completed once");
        if set.is_ok() {
            charge.hand_over();
        }
    }

    /// Returns the complete body; `None` while it grows, and for good if its fill failed.
    pub fn whole(&self) -> Option<&WholeBody> {
        self.whole.get()
    }

    /// Returns a segment of a complete body.
    pub fn segment(self: &Arc<Self>, index: usize) -> Option<Bytes> {
        match self.whole()? {
            WholeBody(Segments::Many(many)) => many.get(index).cloned(),
            WholeBody(Segments::One(one)) if index == 0 && !one.is_empty() => {
                Some(Bytes::from_owner(OneSegment(Arc::clone(self))))
            }
            WholeBody(Segments::One(_)) => None,
        }
    }

    /// Returns a reader that starts at the first byte and waits for bytes that have yet to arrive.
    /// `None` if some of them are gone: the fill failed, or no longer stores the response. From then
    /// on no request finds the body, but one may have found it before.
    pub fn reader(self: &Arc<Self>) -> Option<Reader> {
        if self.whole().is_some() {
            return Some(Reader::open(self, None));
        }
        let attached = if let Some(filling) = self.filling() {
            Some(filling.attach_to_all()?)
        } else {
            // It ended after the first look, whole or not.
            self.whole()?;
            None
        };
        Some(Reader::open(self, attached))
    }

    /// Returns the bytes in memory, without the compressed forms.
    pub(super) fn size(&self) -> usize {
        let tags = self.tags.iter().map(|tag| allocated(tag.len()));
        // The counts of references.
        allocated(size_of::<Self>() + 16)
            + self.key.size()
            + tags.sum::<usize>()
            + allocated(self.tags.len() * size_of::<Box<str>>())
            + self.whole().map_or(0, WholeBody::size)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let size = self.size() as u64;
        self.ledger.live.fetch_sub(size, Ordering::Relaxed);
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
