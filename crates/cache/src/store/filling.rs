//! A body while it is written: the bytes so far and its readers.
//!
//! While the body is *kept*, all bytes stay and no reader holds up another. A body that cannot be
//! stored after all is *passed*: only bytes that the slowest reader has yet to read stay, and the
//! writer waits for that reader.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{body::Body, memory::MemoryCharge, read::BodyPiece};

/// Bytes that the slowest reader of a passed body may be behind.
pub(super) const WINDOW: u64 = 1024 * 1024;

/// Bytes that the writer's own reader may be behind: its task does not read ahead for it alone.
pub(super) const OWN_WINDOW: u64 = 256 * 1024;

/// A reader that the writer waits for must advance by [`MIN_ADVANCE`] bytes in this time, or it is
/// dropped, so that one client cannot hold up all others.
pub(super) const STALL: Duration = Duration::from_secs(10);
const MIN_ADVANCE: u64 = 128 * 1024;

/// Bytes of the unfinished piece that a reader gets at once. They are copied, and a slow reader
/// keeps the copy.
const COPIED: usize = 16 * 1024;

/// Reasons why a reader gets no more bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FillEnd {
    #[error("the response ended early")]
    Writer,
    #[error("the client was too slow for a response that is not stored")]
    TooSlow,
}

#[derive(Debug)]
pub(super) struct Filling {
    state: Mutex<State>,
    /// Notified when bytes or the end arrive.
    grown: Notify,
    /// Notified when a reader advances or leaves.
    read: Notify,
}

#[derive(Debug)]
struct State {
    /// Full pieces; a passed body has lost the first `dropped` ones.
    sealed: VecDeque<Bytes>,
    dropped: usize,
    /// The piece being filled.
    tail: Vec<u8>,
    len: u64,
    end: Option<End>,
    is_passed: bool,
    /// Readers that have not been dropped.
    readers: HashMap<u64, ReadPosition>,
    attached: u64,
    charge: MemoryCharge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Whole,
    Died,
}

/// Position of a reader.
#[derive(Clone, Copy, Debug, Default)]
struct ReadPosition {
    /// All bytes before this offset have been read.
    at: u64,
    /// Number of the current segment, counted from the first of the body.
    segment: usize,
    /// True if the task that writes also reads here; it does not read while it writes.
    is_own: bool,
    /// Offset when the writer began to wait for this reader.
    watched: u64,
    waited: Duration,
}

impl ReadPosition {
    fn is_behind(&self, len: u64) -> bool {
        let window = if self.is_own { OWN_WINDOW } else { WINDOW };
        len - self.at > window
    }
}

/// Condition that the writer has to meet before it may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteCondition {
    Free,
    /// Other readers are behind: one of them has to advance or leave.
    Wait,
    /// The writer's own reader is this far behind. It reads only while the writer does not, so
    /// waiting for it would never end: the writer slows down instead.
    Slow(u64),
    NoReader,
}

impl Filling {
    pub(super) fn new(charge: MemoryCharge) -> Self {
        Self {
            state: Mutex::new(State {
                sealed: VecDeque::new(),
                dropped: 0,
                tail: Vec::new(),
                len: 0,
                end: None,
                is_passed: false,
                readers: HashMap::new(),
                attached: 0,
                charge,
            }),
            grown: Notify::new(),
            read: Notify::new(),
        }
    }

    /// Attaches a reader of all bytes; `None` if some of them are gone already or will not arrive.
    pub(super) fn attach_to_all(self: &Arc<Self>) -> Option<AttachedReader> {
        let reader = self.attach(false);
        let state = self.state.lock();
        let has_all = state.readers.contains_key(&reader.id) && state.end != Some(End::Died);
        drop(state);
        has_all.then_some(reader)
    }

    pub(super) fn attach(self: &Arc<Self>, is_own: bool) -> AttachedReader {
        let mut state = self.state.lock();
        let place = ReadPosition {
            is_own,
            ..ReadPosition::default()
        };
        state.attached += 1;
        let id = state.attached;
        // Bytes that a passed body has dropped can no longer be read.
        if state.dropped == 0 {
            state.readers.insert(id, place);
        }
        drop(state);
        self.read.notify_waiters();
        AttachedReader {
            filling: Arc::clone(self),
            id,
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.state.lock().len
    }

    /// Returns the free bytes of the tail, and its capacity.
    pub(super) fn tail(&self) -> (usize, usize) {
        let state = self.state.lock();
        let capacity = state.tail.capacity();
        (capacity - state.tail.len(), capacity)
    }

    /// Enlarges the tail; `charged` bytes are added to the account. A full tail of its final size
    /// has to be sealed first.
    pub(super) fn extend_tail(&self, capacity: usize, charged: u64) {
        let mut state = self.state.lock();
        let len = state.tail.len();
        state.tail.reserve_exact(capacity - len);
        let bytes = state.charge.bytes() + charged;
        state.charge.set(bytes);
    }

    pub(super) fn seal(&self) {
        self.state.lock().seal();
    }

    /// Appends data that fits into the tail.
    pub(super) fn copy(&self, data: &[u8]) {
        let mut state = self.state.lock();
        debug_assert!(data.len() <= state.tail.capacity() - state.tail.len());
        state.tail.extend_from_slice(data);
        state.len += data.len() as u64;
        drop(state);
        self.grown.notify_waiters();
    }

    /// Appends to a passed body. What is small is copied: it may be a part of a frame that is kept
    /// as a whole for it, and that nobody counts.
    pub(super) fn push(&self, mut data: Bytes) {
        if data.len() < COPIED {
            data = Bytes::copy_from_slice(&data);
        }
        let mut state = self.state.lock();
        state.len += data.len() as u64;
        state.sealed.push_back(data);
        state.trim();
        drop(state);
        self.grown.notify_waiters();
    }

    /// From now on only bytes that a reader has yet to read are kept.
    pub(super) fn pass(&self) {
        let mut state = self.state.lock();
        state.seal();
        state.is_passed = true;
        for place in state.readers.values_mut() {
            place.watched = place.at;
        }
        state.trim();
    }

    /// Ends the body, and passes the parts of a complete one to `complete`. Readers continue there.
    pub(super) fn finish(&self, complete: impl FnOnce(Vec<Bytes>, MemoryCharge)) {
        let mut state = self.state.lock();
        state.tail.shrink_to_fit();
        state.seal();
        if !state.is_passed {
            let segments = std::mem::take(&mut state.sealed).into();
            complete(segments, state.charge.take());
        }
        state.end = Some(End::Whole);
        drop(state);
        self.grown.notify_waiters();
    }

    pub(super) fn die(&self) {
        let mut state = self.state.lock();
        if state.end.is_none() {
            state.end = Some(End::Died);
        }
        drop(state);
        self.grown.notify_waiters();
    }

    pub(super) fn room(&self) -> WriteCondition {
        let state = self.state.lock();
        let mut room = WriteCondition::NoReader;
        for place in state.readers.values() {
            let behind = state.len - place.at;
            let needs = match (place.is_behind(state.len), place.is_own) {
                (false, _) => WriteCondition::Free,
                (true, true) => WriteCondition::Slow(behind),
                (true, false) => return WriteCondition::Wait,
            };
            if room == WriteCondition::NoReader || needs != WriteCondition::Free {
                room = needs;
            }
        }
        room
    }

    /// Waits until a reader advances or leaves, for at most [`STALL`]. Drops the readers that did
    /// not advance in that time.
    pub(super) async fn wait_for_readers(&self) {
        let deadline = tokio::time::Instant::now() + STALL;
        self.watch(false);
        loop {
            let read = self.read.notified();
            tokio::pin!(read);
            read.as_mut().enable();
            if self.room() != WriteCondition::Wait {
                return;
            }
            if tokio::time::timeout_at(deadline, read).await.is_err() {
                break;
            }
        }
        self.drop_slow(|place| !place.is_own);
    }

    /// Returns true if the body has readers and none of them is close behind the writer.
    pub(super) fn are_all_behind(&self) -> bool {
        let state = self.state.lock();
        let len = state.len;
        let mut places = state.readers.values();
        !state.readers.is_empty() && places.all(|place| len - place.at > OWN_WINDOW)
    }

    /// Waits until a reader attaches, advances or leaves, for at most `max`.
    pub(super) async fn wait_for_read(&self, max: Duration) {
        let read = self.read.notified();
        // A timeout is fine too.
        let _elapsed = tokio::time::timeout(max, read).await;
    }

    /// Records that the writer slowed down by this time for its own reader. Drops that reader if it
    /// does not advance.
    pub(super) fn slowed(&self, by: Duration) {
        let mut state = self.state.lock();
        let mut is_over = false;
        for place in state.readers.values_mut().filter(|place| place.is_own) {
            if place.at - place.watched >= MIN_ADVANCE {
                place.watched = place.at;
                place.waited = Duration::ZERO;
            }
            place.waited += by;
            is_over |= place.waited > 3 * STALL;
        }
        drop(state);
        if is_over {
            self.drop_slow(|place| place.is_own);
        }
    }

    fn watch(&self, is_own: bool) {
        let mut state = self.state.lock();
        for place in state.readers.values_mut() {
            if place.is_own == is_own {
                place.watched = place.at;
            }
        }
    }

    fn drop_slow(&self, which: impl Fn(&ReadPosition) -> bool) {
        let mut state = self.state.lock();
        let len = state.len;
        state.readers.retain(|_, place| {
            !(which(place) && place.is_behind(len) && place.at - place.watched < MIN_ADVANCE)
        });
        state.trim();
        drop(state);
        // Dropped readers find out at their next read.
        self.grown.notify_waiters();
    }
}

impl State {
    fn seal(&mut self) {
        if !self.tail.is_empty() {
            let full = std::mem::take(&mut self.tail);
            self.sealed.push_back(Bytes::from(full));
        }
    }

    /// Drops the segments of a passed body that all readers have read.
    fn trim(&mut self) {
        if !self.is_passed {
            return;
        }
        let places = self.readers.values();
        let needed = places.map(|place| place.segment).min();
        let total = self.dropped + self.sealed.len();
        while self.dropped < needed.unwrap_or(total) && self.sealed.pop_front().is_some() {
            self.dropped += 1;
        }
        let retained = self.sealed.iter().map(|segment| segment.len() as u64).sum();
        self.charge.set(retained);
    }
}

/// The attachment of a reader to a body that is being written.
#[derive(Debug)]
pub(super) struct AttachedReader {
    filling: Arc<Filling>,
    id: u64,
}

impl AttachedReader {
    /// Returns the piece at this position, waiting for it if necessary; `None` at the end.
    pub(super) async fn next(
        &self,
        body: &Arc<Body>,
        segment: usize,
        offset: usize,
    ) -> Result<Option<BodyPiece>, FillEnd> {
        loop {
            let grown = self.filling.grown.notified();
            tokio::pin!(grown);
            grown.as_mut().enable();
            if let Some(piece) = self.try_next(body, segment, offset) {
                return piece;
            }
            grown.await;
        }
    }

    fn try_next(
        &self,
        body: &Arc<Body>,
        segment: usize,
        offset: usize,
    ) -> Option<Result<Option<BodyPiece>, FillEnd>> {
        let mut guard = self.filling.state.lock();
        let state = &mut *guard;
        let Some(place) = state.readers.get_mut(&self.id) else {
            return Some(Err(FillEnd::TooSlow));
        };
        let sealed = segment - state.dropped;
        let piece = if let Some(segment) = state.sealed.get(sealed) {
            BodyPiece {
                bytes: segment.slice(offset..),
                is_last: true,
            }
        } else if sealed == state.sealed.len() && state.tail.len() > offset {
            let end = state.tail.len().min(offset + COPIED);
            BodyPiece {
                bytes: Bytes::copy_from_slice(&state.tail[offset..end]),
                is_last: false,
            }
        } else if body.whole().is_some() {
            // The body became complete after the caller looked.
            let next = body.segment(segment).map(|segment| BodyPiece {
                bytes: segment.slice(offset..),
                is_last: true,
            });
            return Some(Ok(next));
        } else {
            return match state.end {
                None => None,
                Some(End::Whole) => Some(Ok(None)),
                Some(End::Died) => Some(Err(FillEnd::Writer)),
            };
        };
        place.at += piece.bytes.len() as u64;
        place.segment = segment + usize::from(piece.is_last);
        state.trim();
        drop(guard);
        self.filling.read.notify_waiters();
        Some(Ok(Some(piece)))
    }
}

impl Drop for AttachedReader {
    fn drop(&mut self) {
        let mut state = self.filling.state.lock();
        state.readers.remove(&self.id);
        state.trim();
        drop(state);
        self.filling.read.notify_waiters();
    }
}
