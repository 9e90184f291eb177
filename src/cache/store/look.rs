//! Looking at what is stored without using it: for people who ask why.

use std::time::SystemTime;

use super::{Found, Store};
use crate::cache::{key::Key, policy::SentHeaders};

impl Store {
    /// As [`Store::find`], but no hit; with the number of answers for the key.
    pub fn peek(&self, key: &Key, headers: SentHeaders<'_>) -> (Found, usize) {
        let part = self.shard(key.hash()).read();
        let variants = part.shard.variants(&self.hashes, key).count();
        (part.shard.find(&self.hashes, key, headers), variants)
    }

    /// The time that its lifetimes are counted by.
    pub fn now(&self) -> SystemTime {
        self.clock.wall()
    }
}
