//! Inspects stored responses without counting as a use, for diagnosis.

use std::time::SystemTime;

use super::{Lookup, Store};
use crate::{key::Key, policy::SentHeaders};

impl Store {
    /// Looks up like [`Store::find`] without counting a hit. Also returns the number of stored
    /// responses for the key.
    pub fn peek(&self, key: &Key, headers: SentHeaders<'_>) -> (Lookup, usize) {
        let part = self.shard(key.hash()).read();
        let variants = part.shard.variants(&self.hashes, key).count();
        (part.shard.find(&self.hashes, key, headers), variants)
    }

    /// Returns the current time of the clock for lifetimes.
    pub fn now(&self) -> SystemTime {
        self.clock.wall()
    }
}
