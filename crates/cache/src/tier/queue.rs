//! A bounded queue of entries to be written to a tier. No request waits for room in it.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::store::{Entry, WholeBody};

/// Maximum number of waiting entries.
const MAX_WRITES: usize = 1024;
/// Maximum bytes of the bodies of waiting entries.
const MAX_BYTES: u64 = 32 << 20;

/// A queue with two bounds. An entry that does not fit is skipped: it is in memory, and the next
/// gateway that needs it sends a request to the origin.
#[derive(Debug, Default)]
pub(super) struct BoundedQueue {
    waiting: Mutex<QueuedWrite>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct QueuedWrite {
    entries: VecDeque<(Arc<Entry>, u64)>,
    bytes: u64,
}

impl BoundedQueue {
    /// Adds an entry. Returns `false` if the queue is full.
    pub(super) fn push(&self, entry: &Arc<Entry>) -> bool {
        let len = entry.body.whole().map_or(0, WholeBody::len);
        let mut waiting = self.waiting.lock();
        if waiting.entries.len() >= MAX_WRITES || waiting.bytes + len > MAX_BYTES {
            return false;
        }
        waiting.bytes += len;
        waiting.entries.push_back((Arc::clone(entry), len));
        drop(waiting);
        self.filled.notify_one();
        true
    }

    pub(super) fn pop(&self) -> Option<Arc<Entry>> {
        let mut waiting = self.waiting.lock();
        let (entry, len) = waiting.entries.pop_front()?;
        waiting.bytes -= len;
        Some(entry)
    }

    /// Waits until the queue may have an entry.
    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Drops all waiting entries.
    pub(super) fn clear(&self) {
        let dropped = std::mem::take(&mut *self.waiting.lock());
        drop(dropped);
    }
}
