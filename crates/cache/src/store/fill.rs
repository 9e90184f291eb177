//! Writes a response into the store while it arrives from an origin.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    Entry, EntryDraft, NotStoredReason, Reader, Store,
    body::{next_piece, next_piece_of_unknown},
    filling::{Filling, WINDOW, WriteCondition},
    memory::{MemoryCharge, MemoryLedger},
};
use crate::{base::http::content_length, policy::Vary};

/// Reasons why the transfer of a response has become useless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FillError {
    #[error("received {came} bytes of a body with a Content-Length of {expected}")]
    Length { came: u64, expected: u64 },
    #[error("no client reads a response that is not stored")]
    NoReader,
}

/// Time in which the readers of a response of unknown length may read nothing before it is passed
/// on and no longer stored.
const STALL_TIMEOUT: Duration = Duration::from_secs(2);

/// First wait for a reader to advance. It doubles up to `MAX_CHECK_INTERVAL` while none does.
const MIN_CHECK_INTERVAL: Duration = Duration::from_millis(1);
const MAX_CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// A response being stored. If it is dropped before [`Fill::finish`], it has failed: its readers
/// get an error after the bytes that arrived, and an older stored response stays.
#[derive(Debug)]
pub struct Fill {
    store: &'static Store,
    entry: Arc<Entry>,
    filling: Arc<Filling>,
    expected: Option<u64>,
    /// Bytes of [`MemoryLedger::filling`] that this fill holds.
    reserved: u64,
    passed: Option<NotStoredReason>,
    /// True if the response is stored no faster than it is read.
    keeps_pace: bool,
}

impl Store {
    /// Begins to store a response. From now on readers find it.
    pub fn begin(&'static self, draft: &EntryDraft) -> Fill {
        let store = self;
        let entry = Arc::new(Entry::new(draft, store.ledger));
        let filling = Arc::new(Filling::new(MemoryCharge::new(store.ledger, 0)));
        entry.body.set_filling(Some(Arc::clone(&filling)));
        store.metrics.fills.inc();
        let mut fill = Fill {
            store,
            expected: content_length(&draft.headers),
            entry,
            filling,
            reserved: 0,
            passed: None,
            keeps_pace: false,
        };
        let expected = fill.expected.unwrap_or_default();
        if draft.vary == Vary::Everything {
            fill.pass(NotStoredReason::Vary);
        } else if expected > draft.about.route.max_object {
            fill.pass(NotStoredReason::TooLarge);
        } else if expected > store.ledger.most_filling() {
            fill.pass(NotStoredReason::NoRoom);
        } else if !fill.show() {
            fill.pass(NotStoredReason::Purged);
        }
        store.make_room();
        fill
    }
}

impl Fill {
    /// Returns the entry that readers find.
    pub fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// Slows a response of unknown length to the speed of its fastest reader from now on: a client
    /// waits for it.
    pub fn keep_pace(&mut self) {
        self.keeps_pace = true;
    }

    /// Returns the reader of the request that writes. Other readers hold up the writer. For this
    /// one the writer only slows down, because it is dropped later than the others.
    pub fn own_reader(&self) -> Reader {
        let attached = self.filling.attach(true);
        Reader::open(&self.entry.body, Some(attached))
    }

    /// Returns the reason why the response is not stored; `None` as long as it is.
    pub fn passed(&self) -> Option<NotStoredReason> {
        self.passed
    }

    /// Adds to the body. If the response is not stored, waits until the slowest reader is less than
    /// `WINDOW` behind.
    ///
    /// # Errors
    /// The data exceeds `Content-Length`, or no reader is left.
    pub async fn write(&mut self, data: Bytes) -> Result<(), FillError> {
        if data.is_empty() {
            return Ok(());
        }
        let came = self.filling.len() + data.len() as u64;
        if let Some(expected) = self.expected
            && came > expected
        {
            self.die();
            return Err(FillError::Length { came, expected });
        }
        if self.passed.is_none() {
            let log = &self.store.log;
            if came > self.entry.rules().max_object {
                self.pass(NotStoredReason::TooLarge);
            } else if log.raced(self.entry.mark(), self.entry.key(), self.entry.tags()) {
                self.pass(NotStoredReason::Purged);
            }
        }
        if self.passed.is_none() && self.expected.is_none() {
            self.wait_for_pace().await;
        }
        let data = match self.passed {
            None => self.keep(data),
            Some(_) => data,
        };
        if !data.is_empty() {
            self.room().await?;
            self.filling.push(data);
        }
        Ok(())
    }

    /// Ends the body. Returns the entry if it is stored.
    ///
    /// # Errors
    /// The data falls short of `Content-Length`: readers get an error.
    pub fn finish(mut self) -> Result<Option<Arc<Entry>>, FillError> {
        let came = self.filling.len();
        if let Some(expected) = self.expected
            && came != expected
        {
            self.die();
            return Err(FillError::Length { came, expected });
        }
        let body = &self.entry.body;
        self.filling.finish(|segments, charge| {
            body.complete(segments, charge);
        });
        body.set_filling(None);
        if self.passed.is_some() {
            return Ok(None);
        }
        let store = self.store;
        let mut part = store.shard(self.entry.key().hash()).write();
        let Some(slot) = part.shard.slot_of(&store.hashes, &self.entry.body) else {
            drop(part);
            self.note(NotStoredReason::Purged);
            return Ok(None);
        };
        let (key, tags) = (self.entry.key(), self.entry.tags());
        if store.log.raced(self.entry.mark(), key, tags) {
            let removed = store.take_out(&mut part, slot);
            drop(part);
            drop(removed);
            self.note(NotStoredReason::Purged);
            return Ok(None);
        }
        let removed = store.admit(&mut part, &self.entry);
        store.settle(part, removed, &self.entry);
        store.tell(|watch| watch.stored(&self.entry));
        Ok(Some(Arc::clone(&self.entry)))
    }

    /// Makes the entry visible to readers, unless it is purged already.
    fn show(&self) -> bool {
        let store = self.store;
        let entry = &self.entry;
        let mut part = store.shard(entry.key().hash()).write();
        if store.log.raced(entry.mark(), entry.key(), entry.tags()) {
            return false;
        }
        part.shard.insert(&store.hashes, entry);
        store.charge_shard(&mut part);
        true
    }

    fn hide(&self) {
        self.store.discard(&self.entry.body);
    }

    fn note(&mut self, why: NotStoredReason) {
        self.passed = Some(why);
        self.store.metrics.passes[why].inc();
    }

    fn pass(&mut self, why: NotStoredReason) {
        self.note(why);
        self.hide();
        self.filling.pass();
        self.release();
    }

    fn die(&self) {
        self.hide();
        self.filling.die();
    }

    /// Copies data into memory of our own. Returns the part that there is no room for.
    fn keep(&mut self, mut data: Bytes) -> Bytes {
        while !data.is_empty() {
            let (free, capacity) = self.filling.tail();
            if free > 0 {
                let now = data.split_to(free.min(data.len()));
                self.filling.copy(&now);
                continue;
            }
            let len = self.filling.len();
            // Unknown length: small bodies grow, so that they do not take a large piece.
            let (size, grows) = if let Some(expected) = self.expected {
                let remaining = usize::try_from(expected - len).unwrap_or(usize::MAX);
                (next_piece(remaining), false)
            } else {
                let max = next_piece_of_unknown(len);
                let is_first = len == capacity as u64;
                let needed = (capacity + data.len()).next_power_of_two();
                let size = needed.max(2 * capacity).clamp(4096, max);
                (
                    if is_first { size } else { max },
                    is_first && capacity < max,
                )
            };
            let before = if grows { capacity } else { 0 };
            if !grows {
                self.filling.seal();
            }
            if !self.reserve((size - before) as u64) {
                self.pass(NotStoredReason::NoRoom);
                break;
            }
            self.filling.extend_tail(size, (size - before) as u64);
        }
        data
    }

    /// Reserves bytes for this fill. Returns false if fills may not take that many more.
    fn reserve(&mut self, bytes: u64) -> bool {
        let ledger = self.store.ledger;
        let before = ledger.filling.fetch_add(bytes, Ordering::Relaxed);
        self.reserved += bytes;
        self.store.make_room_for(bytes);
        let budget = MemoryLedger::get(&ledger.budget);
        // Others may be about to drop entries that they evict.
        let slack = budget / 16;
        before + bytes <= ledger.most_filling()
            && MemoryLedger::get(&ledger.live) + bytes <= budget + slack
    }

    fn release(&mut self) {
        let reserved = std::mem::take(&mut self.reserved);
        let filling = &self.store.ledger.filling;
        filling.fetch_sub(reserved, Ordering::Relaxed);
    }

    /// Slows a response of unknown length to the speed of its fastest reader. It may turn out to be
    /// too large to be stored, and bytes that readers have not read by then are kept for them
    /// alone.
    async fn wait_for_pace(&mut self) {
        if !self.keeps_pace {
            return;
        }
        let start = Instant::now();
        let mut interval = MIN_CHECK_INTERVAL;
        while self.filling.are_all_behind() {
            if start.elapsed() >= STALL_TIMEOUT {
                self.pass(NotStoredReason::Slow);
                return;
            }
            self.filling.wait_for_read(interval).await;
            interval = (2 * interval).min(MAX_CHECK_INTERVAL);
        }
    }

    /// Waits until readers have read enough of a response that is not stored.
    async fn room(&self) -> Result<(), FillError> {
        let mut interval = MIN_CHECK_INTERVAL;
        loop {
            match self.filling.room() {
                WriteCondition::Free => return Ok(()),
                WriteCondition::NoReader => return Err(FillError::NoReader),
                WriteCondition::Wait => self.filling.wait_for_readers().await,
                WriteCondition::Slow(behind) => {
                    if self.keeps_pace && behind < 2 * WINDOW {
                        let start = Instant::now();
                        self.filling.wait_for_read(interval).await;
                        self.filling.slowed(start.elapsed());
                        interval = (2 * interval).min(MAX_CHECK_INTERVAL);
                        continue;
                    }
                    let pause = pause(behind);
                    tokio::time::sleep(pause).await;
                    self.filling.slowed(pause);
                    return match self.filling.room() {
                        WriteCondition::NoReader => Err(FillError::NoReader),
                        WriteCondition::Free | WriteCondition::Wait | WriteCondition::Slow(_) => {
                            Ok(())
                        }
                    };
                }
            }
        }
    }
}

/// Returns the pause of the writer per piece. It grows with the lag of its own reader, so that for
/// a client that reads nothing no more than a few MiB are buffered until it is dropped.
fn pause(behind: u64) -> Duration {
    let over = behind.saturating_sub(WINDOW);
    Duration::from_millis(over * 500 / WINDOW)
        .clamp(Duration::from_millis(1), Duration::from_secs(1))
}

impl Drop for Fill {
    fn drop(&mut self) {
        self.release();
        self.store.metrics.fills.dec();
        // A finished fill has no filling any more.
        if self.entry.body.filling().is_some() {
            self.die();
            self.entry.body.set_filling(None);
        }
    }
}
