//! The way to an answer that comes from the gateway itself, past Pingora's proxy.
//!
//! Pingora's future for a request has room for all that may happen on the way to a backend
//! and back, and is made, moved and thrown away with each request. One that is answered from
//! the cache, redirected or refused needs none of it. Whether a request is such a one is
//! known only once its filters have run; so what was answered here lately is remembered by a
//! fingerprint of its head, and its like is tried without the proxy first. If it turns out
//! to need the proxy after all it goes there with what it has come to, and nothing is done
//! twice but the reading of its head.

use std::{
    any::Any,
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;

/// What stands for the request line and the host of a request. Zero is nobody's.
pub type Fingerprint = u64;

/// Room for as many of these; a newer one takes the place of another one.
const SLOTS: usize = 16 * 1024;

/// Requests whose like was answered here lately. It is a guess and no more: nothing but
/// the way depends on it.
#[derive(Debug)]
pub struct Lately(Box<[AtomicU64]>);

impl Default for Lately {
    fn default() -> Self {
        Self((0..SLOTS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Lately {
    #[inline]
    pub fn contains(&self, head: Fingerprint) -> bool {
        head != 0 && self.slot(head).load(Ordering::Relaxed) == head
    }

    #[inline]
    pub fn insert(&self, head: Fingerprint) {
        let slot = self.slot(head);
        // Hardly ever new: the line stays in the caches of all processors.
        if head != 0 && slot.load(Ordering::Relaxed) != head {
            slot.store(head, Ordering::Relaxed);
        }
    }

    pub fn remove(&self, head: Fingerprint) {
        if self.contains(head) {
            self.slot(head).store(0, Ordering::Relaxed);
        }
    }

    fn slot(&self, head: Fingerprint) -> &AtomicU64 {
        let [low, high, ..] = head.to_le_bytes();
        &self.0[usize::from(u16::from_le_bytes([low, high])) % SLOTS]
    }
}

/// Answers requests without Pingora's proxy, where that can be. `S`: a connection.
pub trait Shortcut<S>: Send + Sync {
    /// Whether it is worth a try.
    fn suits(&self, head: Fingerprint) -> bool;

    /// Tries it for a `GET` that has no body, and asks for neither another protocol nor a
    /// word in between. Its `head` is what is read next from `stream`.
    fn attempt<'a>(&'a self, stream: S, head: &'a Bytes, keep: Keep) -> BoxFuture<'a, Attempt<S>>;
}

/// Whether a connection may go on after this request.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// How many more requests it may have.
    pub left: u32,
    /// It ends in any case.
    pub is_stopping: bool,
}

/// What came of it.
pub enum Attempt<S> {
    /// The request is over; the connection goes on, or not. Its head may not have been read.
    Over(Option<S>),
    /// It is for the proxy, as one that continues this. Its head was not read.
    GoesOn(S, Option<Box<dyn Any + Send + Sync>>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_is_there_until_another_one_takes_its_place() {
        let lately = Lately::default();
        assert!(!lately.contains(7) && !lately.contains(0));
        lately.insert(0);
        lately.insert(7);
        assert!(lately.contains(7) && !lately.contains(0));
        let other = 7 + SLOTS as u64;
        lately.remove(other);
        assert!(lately.contains(7), "only its own");
        lately.insert(other);
        assert!(lately.contains(other) && !lately.contains(7));
        lately.remove(other);
        assert!(!lately.contains(other));
    }
}
