//! State that another process needs to continue from here: which entries are worth most, and how an
//! entry takes its old place.

use std::{
    ptr,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;

use super::{Body, Entry, EntryDraft, Store, eviction_state::EvictionState};

/// An entry with the number of recent hits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HotEntry {
    hash: u128,
    /// Address of the body: another one at the same place is one for the same key, or is not found.
    body: usize,
    /// Hits as counted for eviction; one more for an entry in the main queue.
    pub(crate) hits: u8,
}

impl HotEntry {
    pub(super) fn for_body(body: &Body, is_main: bool) -> Self {
        let hits = body.eviction.frequency.load(Ordering::Relaxed);
        Self {
            hash: body.key.hash(),
            body: ptr::from_ref(body).addr(),
            hits: if is_main { hits + 1 } else { hits.min(1) },
        }
    }
}

impl Store {
    /// Returns complete entries, the ones that eviction would keep longest first.
    pub(crate) fn warmest_first(&self) -> Vec<HotEntry> {
        let mut all = self.queues.lock().0.warmth();
        // Stable: among equals, the newest first.
        all.sort_by_key(|one| std::cmp::Reverse(one.hits));
        all
    }

    /// Returns the entry; `None` if it is gone.
    pub(crate) fn of_warmth(&self, warmth: &HotEntry) -> Option<Arc<Entry>> {
        let part = self.shard(warmth.hash).read();
        let slot = part
            .shard
            .slot_of_address(&self.hashes, warmth.hash, warmth.body)?;
        part.shard.at(slot).map(Arc::clone)
    }

    /// Same as [`Store::insert`] for an entry that had hits in another process: it keeps their
    /// count.
    pub(crate) fn take_over(&self, draft: &EntryDraft, body: &[Bytes], hits: u8) -> Option<()> {
        let entry = self.insert(draft, body)?;
        let hits = hits.min(EvictionState::MAX_FREQUENCY);
        let frequency = &entry.body.eviction.frequency;
        frequency.fetch_max(hits, Ordering::Relaxed);
        Some(())
    }

    /// Returns true if `bytes` more fit without an eviction.
    pub(crate) fn has_room_for(&self, bytes: u64) -> bool {
        self.bytes() + bytes <= self.budget()
    }
}
