//! What is below the memory: level 2, in the Redis that gateways share.
//!
//! A request for which the memory has nothing asks here, for a bounded time; what is found
//! goes into the store as if it had never left it. What comes into the store is written here
//! later, beside requests, as far as there is room for it in a queue. A tier that fails is as
//! good as empty.

pub(in crate::cache) mod coded;
mod flight;
mod level2;
mod metrics;
mod part;
mod queue;
mod stamps;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    future::pending,
    sync::{Arc, atomic::AtomicU8, atomic::Ordering},
};

use arc_swap::ArcSwapOption;
use http::HeaderMap;
use log::debug;

pub use self::metrics::Waits;
use self::{flight::Flights, level2::Level2, metrics::TierMetrics, stamps::Stamp};
use super::{
    key::Key,
    purge::Purge,
    store::{About, Entry, Store, Watch},
};
use crate::base::{clock::Clock, metrics::Metrics, redis::Redis};

/// Makes the metrics known of a configuration that has level 2: from zero on.
pub fn register(metrics: &Metrics) {
    let _handles = TierMetrics::level2(metrics);
}

/// The tiers below one store. They outlive configurations.
pub struct Tiers {
    store: &'static Store,
    clock: Clock,
    metrics: Metrics,
    level2: ArcSwapOption<Level2>,
    /// Redis after Redis.
    epochs: AtomicU8,
    flights: Flights,
    /// Whoever runs them: one at a time.
    running: tokio::sync::Mutex<()>,
}

impl Tiers {
    pub fn new(store: &'static Store, clock: &Clock, metrics: &Metrics) -> Self {
        Self {
            store,
            clock: clock.clone(),
            metrics: metrics.clone(),
            level2: ArcSwapOption::empty(),
            epochs: AtomicU8::new(0),
            flights: Flights::default(),
            running: tokio::sync::Mutex::default(),
        }
    }

    /// Looks for what the memory does not have; if it is found, it is in the store then. For
    /// one question at a time per key and fields: the others wait for it. `here` is what the
    /// route says of its answers; their tags come with them.
    pub async fn load(&self, key: &Key, headers: &HeaderMap, here: &About, waits: &Waits) {
        let Some(level2) = self.level2.load_full() else {
            return;
        };
        let flight = level2.flight(key, headers);
        let Some(_flight) = self.flights.lead(flight).await else {
            return;
        };
        // A purge from here on wins over what is read.
        let mark = self.store.mark();
        if let Some(decoded) = level2.load(key, headers, waits).await {
            let (draft, body) = decoded.draft(here, mark);
            // Purged meanwhile, too large, or not as new as what has come in: all the same.
            let _entry = self.store.insert(&draft, &[body]);
        }
    }

    /// Waits until the tiers know of the purges so far, if they can be reached.
    pub async fn settle(&self) {
        if let Some(level2) = self.level2.load_full()
            && let Err(error) = level2.stamp().await
        {
            debug!(error:%; "a purge waits for level 2 of the cache");
        }
    }

    /// Runs what a configuration says, for as long as it is polled. `max_object` is that of
    /// level 2, if that is used; its purges are noted in Redis in any case, since gateways
    /// with other configurations may use it.
    pub async fn supervise(&self, redis: Option<Arc<Redis>>, max_object: Option<u64>) {
        let _alone = self.running.lock().await;
        let Some(redis) = redis else {
            if let Some(old) = self.level2.swap(None) {
                old.retire();
            }
            return pending().await;
        };
        let level2 = self.attach(redis);
        level2.set_max_object(max_object);
        level2.supervise().await;
    }

    fn attach(&self, redis: Arc<Redis>) -> Arc<Level2> {
        if let Some(same) = self.level2.load_full().filter(|old| old.is_of(&redis)) {
            return same;
        }
        let epoch = self.epochs.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let metrics = TierMetrics::level2(&self.metrics);
        let level2 = Level2::new(redis, self.store, self.clock.clone(), metrics, epoch);
        let level2 = Arc::new(level2);
        if let Some(old) = self.level2.swap(Some(Arc::clone(&level2))) {
            old.retire();
        }
        level2
    }
}

impl fmt::Debug for Tiers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tiers").finish_non_exhaustive()
    }
}

/// What the store tells.
#[derive(Debug)]
pub struct Watcher(pub Arc<Tiers>);

impl Watch for Watcher {
    fn stored(&self, entry: &Arc<Entry>) {
        if let Some(level2) = &*self.0.level2.load() {
            level2.stored(entry);
        }
    }

    fn purged(&self, purge: &Purge) {
        if let Some(level2) = &*self.0.level2.load() {
            // Soft or not: what is stale may be taken from memory, and nobody misses it here.
            level2.purged(&Stamp::of(&purge.what));
        }
    }

    fn removed(&self, key: &Key) {
        if let Some(level2) = &*self.0.level2.load() {
            level2.removed(key);
        }
    }
}
