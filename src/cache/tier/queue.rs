//! Entries on their way to a tier: no more than fit, and none that is worth waiting for.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::cache::store::{Entry, Whole};

/// How many wait at most.
const MOST: usize = 1024;
/// How many bytes of bodies they may have.
const MOST_BYTES: u64 = 32 << 20;

/// A queue with two bounds. What does not fit is left out: it is in memory, and the next who
/// asks for it elsewhere asks the origin.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    entries: VecDeque<(Arc<Entry>, u64)>,
    bytes: u64,
}

impl Queue {
    /// `false` if it is full.
    pub(super) fn push(&self, entry: &Arc<Entry>) -> bool {
        let len = entry.body.whole().map_or(0, Whole::len);
        let mut waiting = self.waiting.lock();
        if waiting.entries.len() >= MOST || waiting.bytes + len > MOST_BYTES {
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

    /// Waits until there may be something.
    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Gives up what waits: nobody takes it any more.
    pub(super) fn clear(&self) {
        let gone = std::mem::take(&mut *self.waiting.lock());
        drop(gone);
    }
}
