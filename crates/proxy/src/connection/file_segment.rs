//! Part of a file on its way to a client: the response leaves it with the connection, and the
//! connection's IO sends it with the next flush, without reading it.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    task::Poll,
};

use edgeway_files::{Segment, SentSegment};
use parking_lot::Mutex;

/// Length up to which a segment shares its first packet with the headers (`MSG_MORE`). A client that
/// keeps up is woken once, which is worth more than what it costs that the pages of the file then
/// begin inside of packets. Of a longer segment each packet costs half as much with whole pages:
/// 81,920 bytes take 16 and 20 µs together and apart, 100,000 bytes 24 and 20.
const SHORT: u64 = 80 * 1024;

/// Slot for the segment that the next flush sends.
///
/// Only the task of the connection's request uses it; the lock is there because the response and
/// the IO under it share nothing else than the connection.
#[derive(Debug, Default)]
pub struct SegmentSlot {
    segment: Mutex<Option<PendingSegment>>,
    is_taken: AtomicBool,
    is_short: AtomicBool,
}

/// Segment that is being sent.
#[derive(Debug)]
pub struct PendingSegment {
    pub segment: Segment,
    pub sent: SentSegment,
    /// True if the socket accepted no more. Once it does, the segment is over, because the kernel's
    /// cache may have lost the rest of it meanwhile.
    pub is_waiting: bool,
}

impl SegmentSlot {
    /// Leaves `segment` for the next flush.
    pub fn put(&self, segment: Segment) {
        self.is_short
            .store(segment.left() <= SHORT, Ordering::Relaxed);
        *self.segment.lock() = Some(PendingSegment {
            segment,
            sent: SentSegment::default(),
            is_waiting: false,
        });
        self.is_taken.store(true, Ordering::Relaxed);
    }

    /// Returns true if there is a segment to send.
    #[inline]
    pub fn is_taken(&self) -> bool {
        self.is_taken.load(Ordering::Relaxed)
    }

    /// Returns true if the segment goes into one packet with the headers before it.
    pub fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Relaxed)
    }

    /// Continues with the segment, if there is one.
    pub fn poll(
        &self,
        send: impl FnOnce(&mut PendingSegment) -> Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        match self.segment.lock().as_mut() {
            Some(segment) => send(segment),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Takes the segment out, and returns what was sent of it.
    pub fn take(&self) -> SentSegment {
        self.is_taken.store(false, Ordering::Relaxed);
        let segment = self.segment.lock().take();
        segment.map_or_else(SentSegment::default, |segment| segment.sent)
    }
}
