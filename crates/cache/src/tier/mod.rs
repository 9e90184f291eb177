//! Tiers below the memory: the disk of this gateway, and level 2, in the Redis that gateways share.
//!
//! After a miss in memory a request looks here, for a bounded time; an entry that is found goes
//! into the store as if it had never left. Entries of the store are written here later, beside
//! requests, if a queue has room for them. A tier that fails behaves as if it were empty.

pub(crate) mod codec;
mod disk;
mod flight;
mod level2;
mod lists;
mod metrics;
mod partition;
mod queue;
mod signed;
#[doc(hidden)]
pub mod testkit;
#[cfg(test)]
mod tests;

use std::{
    future::pending,
    sync::{Arc, atomic::AtomicU8, atomic::Ordering},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use edgeway_net::redis::Redis;
use http::HeaderMap;
use log::debug;
use tokio::time::timeout;

use self::{disk::Disk, flight::LookupsInFlight, level2::Level2, metrics::TierMetrics};
pub use self::{
    disk::{CacheDiskStatus, DiskSettings, register as register_disk},
    metrics::WaitHistograms,
};
use super::{
    key::Key,
    policy::{self, Lifetime},
    purge::{
        Purge, PurgeLink, WaitScope,
        stamps::{self, Stamp},
    },
    store::{Entry, EntryRules, Store, StoreObserver},
};
use crate::base::{clock::Clock, metrics::Metrics};

/// Additional time for which a response that can be validated is stored.
const VALIDATION_TTL: Duration = Duration::from_hours(1);
/// Time that a purge waits for a tier.
const PURGE_TIMEOUT: Duration = Duration::from_secs(1);

/// Registers the metrics of a configuration with level 2, all at zero.
pub fn register(metrics: &Metrics) {
    let _handles = TierMetrics::new(metrics);
}

/// The tiers below one store. They outlive configurations.
pub struct Tiers {
    pub(crate) store: &'static Store,
    clock: Clock,
    metrics: Metrics,
    pub(crate) disk: Arc<Disk>,
    level2: ArcSwapOption<Level2>,
    /// Number of Redis instances attached so far.
    epochs: AtomicU8,
    flights: LookupsInFlight,
    /// Held by the supervisor: one at a time.
    running: tokio::sync::Mutex<()>,
}

impl Tiers {
    pub fn new(store: &'static Store, clock: &Clock, metrics: &Metrics) -> Self {
        Self {
            store,
            clock: clock.clone(),
            metrics: metrics.clone(),
            disk: Arc::new(Disk::new(store, clock, metrics)),
            level2: ArcSwapOption::empty(),
            epochs: AtomicU8::new(0),
            flights: LookupsInFlight::default(),
            running: tokio::sync::Mutex::default(),
        }
    }

    /// Looks up a response that the memory does not have: on disk, then in level 2. A response that
    /// is found is inserted into the store. One lookup at a time per key and selecting headers:
    /// other requests wait for it. `here` has the route's settings for its responses; tags come
    /// with the entry. `waits` measures the time that level 2 takes.
    pub async fn load(
        &self,
        key: &Key,
        headers: &HeaderMap,
        here: &EntryRules,
        waits: Option<&WaitHistograms>,
    ) {
        let level2 = self.level2.load_full().filter(|level2| level2.is_used());
        let of_level2 = level2.as_ref().map_or(0, |it| it.flight(key, headers));
        let flight = self.disk.flight(key, headers).rotate_left(64) ^ of_level2 ^ key.hash();
        let Some(_flight) = self.flights.lead(flight).await else {
            return;
        };
        // A purge from here on wins over entries that are read.
        let mark = self.store.mark();
        if let Some(decoded) = self.disk.load(key, headers).await {
            let (draft, body) = decoded.draft(here, mark);
            // Purged in the meantime, too large, or older than the stored one: any of them is fine.
            let _entry = self.store.insert(&draft, &[body]);
            return;
        }
        let Some((level2, waits)) = level2.zip(waits) else {
            return;
        };
        let mark = self.store.mark();
        if let Some(decoded) = level2
            .load(key, headers, here.route.keeps_private, waits)
            .await
        {
            let (draft, body) = decoded.draft(here, mark);
            if let Some(entry) = self.store.insert(&draft, &[body]) {
                self.disk.stored(&entry);
            }
        }
    }

    /// Waits until the reachable tiers know the awaited purges, for a second at most. Returns
    /// `false` if level 2 does not know them in time: until it does, no entry that they may affect
    /// is read here.
    pub async fn settle(&self, awaited: WaitScope) -> bool {
        let level2 = async {
            let Some(level2) = self.level2.load_full() else {
                return true;
            };
            match timeout(PURGE_TIMEOUT, level2.stamp(awaited)).await {
                Ok(Ok(())) => true,
                Ok(Err(error)) => {
                    debug!(error:%; "purge waiting for level 2 of the cache");
                    false
                }
                Err(_elapsed) => {
                    debug!("purge queued for level 2 of the cache");
                    false
                }
            }
        };
        let (is_settled, ()) = tokio::join!(level2, self.disk.settle());
        is_settled
    }

    /// Purges everything that this gateway stores on its disk.
    pub async fn forget(&self) {
        self.disk.forget();
        self.disk.settle().await;
    }

    /// Runs the tiers of a configuration for as long as the future is polled. `max_object` is that
    /// of level 2, if it is used; purges are stamped in Redis in any case, since gateways with
    /// other configurations may use it.
    pub async fn supervise(
        &self,
        redis: Option<Arc<Redis>>,
        max_object: Option<u64>,
        disk: Option<DiskSettings>,
        link: &PurgeLink,
    ) {
        let _alone = self.running.lock().await;
        let disk = self.disk.supervise(disk, link, redis.is_some());
        let ((), ()) = tokio::join!(disk, self.supervise_level2(redis, max_object));
    }

    async fn supervise_level2(&self, redis: Option<Arc<Redis>>, max_object: Option<u64>) {
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
        let metrics = TierMetrics::new(&self.metrics);
        let level2 = Level2::new(redis, self.store, self.clock.clone(), metrics, epoch);
        let level2 = Arc::new(level2);
        if let Some(old) = self.level2.swap(Some(Arc::clone(&level2))) {
            old.retire();
        }
        level2
    }
}

edgeway_base::opaque_debug!(Tiers);

impl StoreObserver for Tiers {
    fn stored(&self, entry: &Arc<Entry>) {
        self.disk.stored(entry);
        if let Some(level2) = &*self.level2.load() {
            level2.stored(entry);
        }
    }

    fn purged(&self, purge: &Purge) {
        // Soft or hard: a stale response may be served from memory, and the tiers can do without
        // it.
        for stamp in Stamp::for_target(&purge.target) {
            self.stamp(&stamp);
        }
    }

    fn removed(&self, key: &Key) {
        self.stamp(&Stamp::of_key(key));
    }
}

impl Tiers {
    fn stamp(&self, stamp: &Stamp) {
        // Level 2 first, before the disk has another position: entries read from level 2 after
        // that count there as newer than this purge.
        if let Some(level2) = &*self.level2.load() {
            level2.purged(stamp);
        }
        self.disk.purged(stamp);
    }
}

/// Returns the time for which a response may be of use outside of memory.
fn time_to_live(lifetime: &Lifetime, headers: &HeaderMap, now: SystemTime) -> Duration {
    let left = lifetime.usable_until().duration_since(now);
    let more = if policy::has_validator(headers) {
        VALIDATION_TTL
    } else {
        Duration::ZERO
    };
    left.unwrap_or_default().saturating_add(more)
}
