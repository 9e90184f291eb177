//! Adds other forms of a stored body: compressed, and as a file.

use std::{io, sync::Arc};

use bytes::Bytes;

use super::{
    Entry, Store,
    body_file::{BodyFile, is_wanted},
    eviction_state::EvictionState,
};
use crate::base::encoding::Encoding;

impl Store {
    /// Stores a compressed form of a complete entry until either is evicted. Returns `false` if the
    /// entry is no longer stored or already has that form.
    pub fn add_form(&self, entry: &Arc<Entry>, encoding: Encoding, bytes: &Bytes) -> bool {
        self.add(entry, |eviction| {
            eviction.set_form(self.ledger, encoding, bytes)
        })
    }

    /// Returns true if a file of the entry's body is worthwhile and possible, if its length allows
    /// one ([`super::may_have_file`]).
    pub fn wants_file(&self, entry: &Entry) -> bool {
        let body = entry.body.whole();
        body.is_some_and(|body| is_wanted(self.ledger, body, entry.hits()))
    }

    /// Stores the body of a complete entry as a file as well, until either is evicted. Returns
    /// `false` if the entry is no longer stored or already has one, or if all files together take
    /// as much as they may.
    ///
    /// # Errors
    /// The process can open no more files, or this system has no files in memory.
    pub fn add_file(&self, entry: &Arc<Entry>) -> io::Result<bool> {
        let Some(body) = entry.body.whole() else {
            return Ok(false);
        };
        let Some(file) = BodyFile::make(self.ledger, body)? else {
            return Ok(false);
        };
        Ok(self.add(entry, |eviction| eviction.set_file(self.ledger, file)))
    }

    /// Adds a form with `set`, which returns whether it is the first one, or `None` if there is one.
    fn add(&self, entry: &Arc<Entry>, set: impl FnOnce(&EvictionState) -> Option<bool>) -> bool {
        let part = self.shard(entry.key().hash()).read();
        if !entry.is_complete() || part.shard.slot_of(&self.hashes, &entry.body).is_none() {
            return false;
        }
        let Some(is_first) = set(&entry.body.eviction) else {
            return false;
        };
        self.resize(entry);
        if is_first {
            self.queues.lock().0.add_form(&entry.body);
        }
        drop(part);
        self.make_room();
        self.keep_quota_of(entry);
        true
    }
}
