//! Fast path for requests, without Pingora's proxy.
//!
//! Pingora's future for a request has room for everything that may happen on the way to a backend
//! and back, and is created, moved and dropped with each request. A request that is served from the
//! cache, redirected or refused needs none of it, and the relay takes most of those that go to a
//! backend, but all that is known only once the filters have run. So every request takes this path
//! first if the configuration has routes for the relay. If it has none, only those do that are like
//! one recently served here: they are remembered by a [`Fingerprint`]. A request that turns out to
//! need the proxy continues there with its state, and only its header section is parsed twice. On
//! HTTP/2 it is parsed once, and every request takes this path.

use std::{
    any::Any,
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::{Connection, response_queue::ResponseQueue};

/// Fingerprint of the request line and the host of a request. Zero is reserved.
pub type Fingerprint = u64;

/// Number of slots. A newer fingerprint replaces the one in its slot.
const SLOTS: usize = 16 * 1024;

/// Fingerprints of requests that were recently served here. It is only a guess: nothing but the
/// choice of the path depends on it.
#[derive(Debug)]
pub struct RecentRequests(Box<[AtomicU64]>);

impl Default for RecentRequests {
    fn default() -> Self {
        Self((0..SLOTS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl RecentRequests {
    #[inline]
    pub fn contains(&self, fingerprint: Fingerprint) -> bool {
        fingerprint != 0 && self.slot(fingerprint).load(Ordering::Relaxed) == fingerprint
    }

    #[inline]
    pub fn insert(&self, fingerprint: Fingerprint) {
        let slot = self.slot(fingerprint);
        // Rarely a change, so the cache line stays shared among all processors.
        if fingerprint != 0 && slot.load(Ordering::Relaxed) != fingerprint {
            slot.store(fingerprint, Ordering::Relaxed);
        }
    }

    pub fn remove(&self, fingerprint: Fingerprint) {
        if self.contains(fingerprint) {
            self.slot(fingerprint).store(0, Ordering::Relaxed);
        }
    }

    fn slot(&self, fingerprint: Fingerprint) -> &AtomicU64 {
        let [low, high, ..] = fingerprint.to_le_bytes();
        &self.0[usize::from(u16::from_le_bytes([low, high])) % SLOTS]
    }
}

/// Serves requests without Pingora's proxy, if possible. `S`: a connection of HTTP/1, `H`: a stream
/// of HTTP/2.
pub trait FastPathService<S, H>: Send + Sync {
    /// Returns true if an attempt is worthwhile.
    fn suits(&self, request: RequestOutline) -> bool;

    /// Attempts a request that this suits. Its `head` is the next to be read from `stream`, that of
    /// `connection`.
    fn attempt<'a>(
        &'a self,
        stream: S,
        connection: Arc<Connection>,
        head: &'a Bytes,
        arrival: RequestArrival,
    ) -> BoxFuture<'a, FastPathOutcome<S>>;

    /// Attempts a request on a stream of an HTTP/2 `connection`, which writes the headers that are
    /// put into `responses`. Returns the stream if the proxy must continue the request.
    fn attempt_stream<'a>(
        &'a self,
        stream: H,
        connection: &'a Arc<Connection>,
        responses: &'a ResponseQueue,
    ) -> BoxFuture<'a, Option<(H, CarriedRequest)>>;
}

/// Request that was decided on, on its way to the proxy.
pub type CarriedRequest = Box<dyn Any + Send + Sync>;

tokio::task_local! {
    static CARRIED: Cell<Option<CarriedRequest>>;
}

/// Runs the `work` of the proxy on a stream, whose request the fast path began. A session of HTTP/2
/// can carry nothing itself.
pub async fn carry<T>(begun: CarriedRequest, work: impl Future<Output = T>) -> T {
    CARRIED.scope(Cell::new(Some(begun)), work).await
}

/// Takes the request that this task carries.
pub fn take_carried() -> Option<CarriedRequest> {
    CARRIED.try_with(Cell::take).ok().flatten()
}

/// Properties of a request that are known once its header section was scanned.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestOutline {
    pub fingerprint: Fingerprint,
    pub has_body: bool,
    /// True if the client asks for another protocol.
    pub wants_upgrade: bool,
}

/// Circumstances of a request, and the limits on reusing its connection after it.
#[derive(Clone, Copy, Debug)]
pub struct RequestArrival {
    /// Number of further requests allowed.
    pub left: u32,
    /// True if the connection ends in any case.
    pub is_stopping: bool,
    pub has_body: bool,
}

/// Result of an attempt.
pub enum FastPathOutcome<S> {
    /// The request is complete, and the connection continues or not. Its header section may not
    /// have been read from the stream, a body has.
    Over(Option<S>),
    /// The proxy must continue the request. Its header section was not read from the stream.
    GoesOn(S, Option<CarriedRequest>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_stays_until_another_takes_its_slot() {
        let recent = RecentRequests::default();
        assert!(!recent.contains(7) && !recent.contains(0));
        recent.insert(0);
        recent.insert(7);
        assert!(recent.contains(7) && !recent.contains(0));
        let other = 7 + SLOTS as u64;
        recent.remove(other);
        assert!(recent.contains(7), "only its own");
        recent.insert(other);
        assert!(recent.contains(other) && !recent.contains(7));
        recent.remove(other);
        assert!(!recent.contains(other));
    }
}
