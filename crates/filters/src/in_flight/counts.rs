//! Exact counts of requests in flight: a permit adds to a count, and dropping it subtracts, however
//! its request ends.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use ahash::RandomState;
use edgeway_base::metrics::{IntGauge, Metrics};
use edgeway_core::{
    limits::key::{Hashing, Key},
    zones::Zone,
};
use parking_lot::Mutex;

/// Requests in flight of one route.
pub(super) struct RouteCounts {
    /// Invariant: the number of [`RoutePermit`]s alive.
    route: AtomicU32,
    gauge: IntGauge,
    /// Random, so that no client can make two keys collide.
    seed: (u64, u64),
    /// Invariant: the number of [`KeyPermit`]s alive by key; none is zero, so there are never more
    /// keys than requests.
    keys: [Mutex<HashMap<Key, u32, RandomState>>; SHARDS],
}

/// Number of shards; enough that clients rarely contend for a lock.
const SHARDS: usize = 16;
/// Capacity up to which a shard's table is kept.
const SMALL: usize = 64;

const FAMILY: &str = "edgeway_in_flight_requests";

impl Zone for RouteCounts {}

/// Permit of a request on its route.
pub(super) struct RoutePermit(Arc<RouteCounts>);

/// Permit of a request for its client.
pub(super) struct KeyPermit(Arc<RouteCounts>, Key);

impl RouteCounts {
    pub(super) fn new(metrics: &Metrics, route: &str) -> Self {
        Self {
            route: AtomicU32::new(0),
            gauge: metrics.gauge(
                FAMILY,
                "Requests in flight on routes with `in_flight`.",
                &[("route", route)],
            ),
            seed: (fastrand::u64(..), fastrand::u64(..)),
            keys: std::array::from_fn(|_| Mutex::default()),
        }
    }

    pub(super) fn hashing(&self) -> Hashing {
        Hashing::Seeded(self.seed.0, self.seed.1)
    }

    /// Takes one of `max` permits of the route; `None` if all are taken.
    pub(super) fn enter(this: &Arc<Self>, max: Option<u32>) -> Option<RoutePermit> {
        let max = max.unwrap_or(u32::MAX);
        let order = Ordering::Relaxed;
        let one_more = |now| (now < max).then_some(now + 1);
        this.route.fetch_update(order, order, one_more).ok()?;
        this.gauge.inc();
        Some(RoutePermit(Arc::clone(this)))
    }

    /// Takes one of `max` permits of this key; `None` if all are taken.
    pub(super) fn enter_key(this: &Arc<Self>, key: Key, max: u32) -> Option<KeyPermit> {
        let mut shard = this.shard(key).lock();
        let count = shard.entry(key).or_insert(0);
        if *count >= max {
            // An entry of zero could remain only with a bound of zero, which is refused.
            return None;
        }
        *count += 1;
        drop(shard);
        Some(KeyPermit(Arc::clone(this), key))
    }

    fn shard(&self, key: Key) -> &Mutex<HashMap<Key, u32, RandomState>> {
        // A key is a hash already.
        &self.keys[usize::try_from(key.0 % SHARDS as u128).unwrap_or(0)]
    }

    #[cfg(test)]
    pub(super) fn sizes(&self) -> (u32, usize, usize) {
        let keys = self.keys.iter().map(|shard| shard.lock().len()).sum();
        let room = self.keys.iter().map(|shard| shard.lock().capacity()).sum();
        (self.route.load(Ordering::Relaxed), keys, room)
    }
}

impl Drop for RoutePermit {
    fn drop(&mut self) {
        self.0.gauge.dec();
        self.0.route.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for KeyPermit {
    fn drop(&mut self) {
        let Self(counts, key) = self;
        let mut shard = counts.shard(*key).lock();
        let Some(count) = shard.get_mut(key) else {
            debug_assert!(false, "counted out without having been counted in");
            return;
        };
        *count -= 1;
        if *count == 0 {
            shard.remove(key);
            // A burst of clients is over: free its memory.
            if shard.capacity() > SMALL && shard.len() < shard.capacity() / 8 {
                let room = shard.len() * 2;
                shard.shrink_to(room);
            }
        }
    }
}
