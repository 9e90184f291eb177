//! The cache: which responses may be stored and for how long ([`policy`]), where they are stored
//! ([`store`]), and how they are purged ([`purge`]). `proxy` decides which requests use it.

mod allocation;
pub mod budget;
mod digest;
mod hit_for_miss;
pub mod key;
pub mod metrics;
pub mod name_set;
pub mod nextjs;
pub mod policy;
pub mod purge;
pub mod route;
pub mod store;
pub mod succession;
pub mod tier;
pub mod unusual_request;

use std::{collections::HashSet, future::pending, panic::resume_unwind, sync::Arc, time::Duration};

use edgeway_base as base;
use edgeway_core::{chain, limits, zones};
use edgeway_net::redis::Redis;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use pingora_cache::lock::{CacheKeyLockImpl, CacheLock};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Semaphore;

pub use self::hit_for_miss::HitForMiss;
use self::{
    key::Key,
    policy::{Lifetime, Variance},
    purge::{
        Position, Purge, PurgeLink, PurgeSource, PurgeTarget, SuccessorPurge, WaitScope,
        stamps::Stamp,
    },
    store::Store,
    tier::{CacheDiskStatus, DiskSettings, Tiers, WaitHistograms},
};
use crate::{
    base::{clock::Clock, encoding::Encoding, metrics::Metrics, net::CidrSet},
    zones::{Zone, Zones},
};

/// Time after which a fill without response headers no longer keeps other requests from the
/// origin.
const MAX_LOCK_AGE: Duration = Duration::from_mins(1);

/// The cache of one configuration: the store, which outlives the configuration, and the settings.
pub struct Cache {
    zone: Arc<CacheZone>,
    pub settings: CacheSettings,
}

/// Settings of the `cache` section.
pub struct CacheSettings {
    /// Memory for stored responses, in bytes.
    pub memory: u64,
    /// Largest response that is stored, in bytes, unless a route sets its own limit.
    pub max_object: u64,
    /// Largest body stored in Redis (`shared: redis`).
    pub shared: Option<u64>,
    pub disk: Option<DiskSettings>,
    /// Clients whose `PURGE` requests are obeyed.
    pub purgers: CidrSet,
    /// `on_purge_link_lost: revalidate`.
    pub validates_what_may_be_purged: bool,
}

/// State that outlives a configuration. The lock and fills need `'static` references, so the state is
/// created once for as long as some configuration has a cache, and emptied with the last.
struct CacheZone {
    store: &'static Store,
    lock: &'static CacheKeyLockImpl,
    passes: HitForMiss,
    link: Arc<PurgeLink>,
    tiers: Arc<Tiers>,
    /// Fetches and encodings in progress.
    claimed: Mutex<HashSet<WorkInFlight>>,
    /// Permits for encoding stored responses.
    coding: Arc<Semaphore>,
}

/// Work that runs once at a time for one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WorkKind {
    /// Requests in the background.
    Fetch,
    Code(Encoding),
    /// The making of a file of the body.
    File,
}

type WorkInFlight = (u128, u128, WorkKind);

/// Right to revalidate or encode one entry, or to make a file of it, held until dropped.
pub struct WorkClaim {
    zone: Arc<CacheZone>,
    work: WorkInFlight,
}

impl Drop for WorkClaim {
    fn drop(&mut self) {
        self.zone.claimed.lock().remove(&self.work);
    }
}

/// State that the next process inherits.
#[derive(Serialize, Deserialize)]
struct Exported {
    /// Position in the log up to which purges are applied here: entries that a successor takes over
    /// from this process are no older.
    #[serde(flatten)]
    position: Option<Position>,
    /// True if some purges were not recorded on disk.
    #[serde(default)]
    owes_disk: bool,
}

impl Zone for CacheZone {
    fn export(&self) -> Option<Value> {
        let exported = Exported {
            position: self.link.position(),
            owes_disk: self.tiers.disk.owes(),
        };
        serde_json::to_value(exported).ok()
    }

    fn import(&self, exported: &Value) {
        let Ok(exported) = Exported::deserialize(exported) else {
            return;
        };
        if exported.owes_disk {
            // It is not known which purges the folder lacks.
            self.tiers.disk.purged(&Stamp::All);
        }
        if let Some(position) = exported.position {
            self.link.resume(position);
        }
    }
}

impl Drop for CacheZone {
    fn drop(&mut self) {
        self.store.forget(&Purge::ALL);
        self.tiers.disk.abandon();
    }
}

impl Cache {
    pub fn new(settings: CacheSettings, zones: &Zones, clock: &Clock, metrics: &Metrics) -> Self {
        let zone = zones.get_or_create("cache", || {
            let store = Store::new(settings.memory, clock.clone(), metrics);
            let tiers = Arc::new(Tiers::new(store, clock, metrics));
            store.set_watch(Arc::<Tiers>::clone(&tiers));
            let caches = Arc::<Tiers>::clone(&tiers);
            CacheZone {
                store,
                lock: Box::leak(CacheLock::new_boxed(MAX_LOCK_AGE)),
                passes: HitForMiss::default(),
                link: Arc::new(PurgeLink::new(&host(), caches, clock, metrics)),
                tiers,
                claimed: Mutex::default(),
                coding: Arc::new(Semaphore::new(1)),
            }
        });
        if settings.shared.is_some() {
            tier::register(metrics);
        }
        if settings.disk.is_some() {
            tier::register_disk(metrics);
        }
        Self { zone, settings }
    }

    /// Runs the background work of this configuration until it stops serving.
    pub async fn supervise(self: Arc<Self>, redis: Option<Arc<Redis>>) {
        let settings = &self.settings;
        self.zone.store.set_budget(settings.memory);
        let CacheZone { tiers, link, .. } = &*self.zone;
        let tiers = tiers.supervise(redis.clone(), settings.shared, settings.disk.clone(), link);
        let link = Arc::clone(link).supervise(redis);
        let ((), ()) = tokio::join!(tiers, link);
    }

    pub fn store(&self) -> &'static Store {
        self.zone.store
    }

    /// Returns the tiers below the store, if this configuration uses any.
    pub fn tiers(&self) -> Option<&Tiers> {
        let are_used = self.settings.shared.is_some() || self.settings.disk.is_some();
        are_used.then_some(&*self.zone.tiers)
    }

    /// Returns the state of the disk tier, if there is one.
    pub fn disk(&self) -> Option<CacheDiskStatus> {
        self.zone.tiers.disk.status()
    }

    /// Releases the disk to another process: this one serves no more requests.
    pub async fn release_disk(&self) {
        self.zone.tiers.disk.release(&self.zone.link).await;
    }

    /// Waits until the disk and Redis have the latest removals (RFC 9111, 4.4), a second at most,
    /// so that no crash brings the removed responses back.
    pub async fn settle(&self) {
        self.zone.tiers.settle(WaitScope::Writes).await;
    }

    /// Returns the metrics of how long a route's requests wait for level 2.
    pub fn waits(&self, metrics: &Metrics, route: &str) -> Option<WaitHistograms> {
        self.settings
            .shared
            .map(|_| WaitHistograms::new(metrics, route))
    }

    pub fn lock(&self) -> &'static CacheKeyLockImpl {
        self.zone.lock
    }

    pub fn passes(&self) -> &HitForMiss {
        &self.zone.passes
    }

    /// Claims work for a variant; `None` while another request holds the claim.
    pub fn claim(&self, key: &Key, variance: Variance, kind: WorkKind) -> Option<WorkClaim> {
        let work = (key.hash(), variance.0, kind);
        let is_first = self.zone.claimed.lock().insert(work);
        is_first.then(|| WorkClaim {
            zone: Arc::clone(&self.zone),
            work,
        })
    }

    /// Returns the semaphore that bounds how many stored responses are encoded at once.
    pub fn coding(&self) -> Arc<Semaphore> {
        Arc::clone(&self.zone.coding)
    }

    /// Returns the link that carries purges to the other gateways.
    pub fn link(&self) -> &Arc<PurgeLink> {
        &self.zone.link
    }

    /// Removes the stored responses for the URL of a key: an unsafe request may have changed the
    /// resource (RFC 9111, 4.4).
    pub fn remove(&self, key: &Key) {
        self.store().remove(key);
        self.link().notes.removed(key);
    }

    /// Applies a purge that the predecessor still receives.
    pub async fn heed(&self, note: SuccessorPurge) {
        match note {
            // The predecessor no longer sends it to the other gateways, so `begin` does.
            SuccessorPurge::Purged(purges) => {
                drop(self.link().begin(purges, PurgeSource::Gateway).await);
            }
            SuccessorPurge::Removed(key) => {
                if let Some(key) = Key::parse(&key) {
                    self.remove(&key);
                }
            }
        }
    }

    /// Returns true if a completed purge may have covered the response without reaching this
    /// gateway. The response is then validated with the origin.
    pub fn must_validate(&self, lifetime: &Lifetime) -> bool {
        self.settings.validates_what_may_be_purged && !self.zone.link.trust().covers(lifetime)
    }
}

/// The caches that purges are applied to: the store, and the tiers below it.
impl purge::Caches for Tiers {
    fn apply<'a>(&'a self, purges: &'a [Purge]) -> BoxFuture<'a, Vec<u64>> {
        Box::pin(async move {
            let purge = |store: &Store, purges: &[Purge]| {
                let objects = purges.iter().map(|purge| store.purge(purge));
                objects.collect()
            };
            // Such a purge covers few responses, and the index finds them.
            let is_quick = |purge: &Purge| {
                matches!(purge.target, PurgeTarget::Url(_) | PurgeTarget::Written(_))
            };
            if purges.iter().all(is_quick) {
                return purge(self.store, purges);
            }
            let (store, purges) = (self.store, purges.to_vec());
            off_the_workers(move || purge(store, &purges)).await
        })
    }

    fn settle(&self, awaited: WaitScope) -> BoxFuture<'_, bool> {
        Box::pin(Self::settle(self, awaited))
    }

    fn forget(&self) -> BoxFuture<'_, u64> {
        let store = self.store;
        Box::pin(async move {
            let objects = off_the_workers(move || store.forget(&Purge::ALL)).await;
            Self::forget(self).await;
            objects
        })
    }
}

/// Runs work on a blocking thread: a purge over a million responses takes a second, and would hold
/// up all connections of a worker.
async fn off_the_workers<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The process ends.
            Err(_) => pending().await,
        },
    }
}

/// Returns the host name of this machine, or `gateway` if it is unknown.
fn host() -> String {
    let system = rustix::system::uname();
    let name = system.nodename().to_str();
    name.unwrap_or("gateway").to_owned()
}

edgeway_base::opaque_debug!(Cache);

#[cfg(test)]
mod tests {
    use std::thread::{self, ThreadId};

    use super::{
        key::Key,
        purge::{Caches as _, PurgeEffect},
        store::{Entry, StoreObserver},
        *,
    };

    /// The threads that purges were applied on.
    #[derive(Debug, Default)]
    struct PurgeThreads(Arc<Mutex<Vec<ThreadId>>>);

    impl StoreObserver for PurgeThreads {
        fn stored(&self, _entry: &Arc<Entry>) {}

        fn purged(&self, _purge: &Purge) {
            self.0.lock().push(thread::current().id());
        }

        fn removed(&self, _key: &Key) {}
    }

    #[tokio::test]
    async fn a_purge_of_many_responses_does_not_block_the_worker() {
        let (clock, metrics) = (Clock::test(), Metrics::default());
        let store = Store::new(1 << 20, clock.clone(), &metrics);
        let threads = Arc::default();
        assert!(store.set_watch(Arc::new(PurgeThreads(Arc::clone(&threads)))));
        let caches = Tiers::new(store, &clock, &metrics);
        let worker = thread::current().id();
        let purge = |target| Purge {
            target,
            effect: PurgeEffect::Hard,
        };
        let applied_here = || {
            let threads = std::mem::take(&mut *threads.lock());
            threads.iter().all(|thread| *thread == worker)
        };
        assert_eq!(
            caches.apply(&[purge(PurgeTarget::Url("/a".into()))]).await,
            [0]
        );
        assert!(applied_here(), "one URL is quick");
        for target in [
            PurgeTarget::All,
            PurgeTarget::Tag("t".into()),
            PurgeTarget::Prefix("/a".into()),
        ] {
            let long = [purge(PurgeTarget::Url("/a".into())), purge(target)];
            assert_eq!(caches.apply(&long).await, [0, 0]);
            assert!(!applied_here(), "{long:?}");
        }
        assert_eq!(purge::Caches::forget(&caches).await, 0);
    }
}
