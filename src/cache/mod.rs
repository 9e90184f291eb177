//! The cache: what may be kept of an answer and for how long ([`policy`]), where it is kept
//! ([`store`]), and how it is taken out again ([`purge`]). How requests come here is the
//! business of `proxy`.

pub mod budget;
mod digest;
pub mod key;
pub mod metrics;
pub mod names;
pub mod nextjs;
mod passes;
pub mod policy;
pub mod purge;
pub mod route;
pub mod store;
pub mod succession;
pub mod tier;
pub mod unusual;

use std::{
    collections::HashSet, fmt, future::pending, panic::resume_unwind, sync::Arc, time::Duration,
};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use pingora_cache::lock::{CacheKeyLockImpl, CacheLock};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Semaphore;

pub use self::passes::Passes;
use self::{
    key::Key,
    policy::Lifetime,
    purge::{Awaited, Link, Note, Position, Purge, Source},
    store::{Entry, Store},
    tier::{DiskSettings, DiskStatus, Tiers, Waits, Watcher},
};
use crate::{
    base::{clock::Clock, encoding::Encoding, metrics::Metrics, net::CidrSet, redis::Redis},
    zones::{Zone, Zones},
};

/// A fill that has not shown a head for so long no longer keeps others from asking the origin.
const LOCK_AGE: Duration = Duration::from_mins(1);

/// The cache of one configuration: the store, which outlives it, and what it says of it.
pub struct Cache {
    kept: Arc<Kept>,
    memory: u64,
    max_object: u64,
    /// The largest body of level 2, if that is used.
    shared: Option<u64>,
    disk: Option<DiskSettings>,
    /// Whose `PURGE` is obeyed.
    pub purgers: CidrSet,
    validates_what_may_be_purged: bool,
}

/// What the section says.
pub struct Settings {
    pub memory: u64,
    pub max_object: u64,
    /// `shared: redis`: the largest body that goes there.
    pub shared: Option<u64>,
    pub disk: Option<DiskSettings>,
    pub purgers: CidrSet,
    /// `on_purge_link_lost: revalidate`.
    pub validates_what_may_be_purged: bool,
}

/// What outlives a configuration. Pingora wants what it is given for ever, so it is made once
/// for as long as there are configurations with a cache, and given up with the last of them.
struct Kept {
    store: &'static Store,
    lock: &'static CacheKeyLockImpl,
    passes: Passes,
    link: Arc<Link>,
    tiers: Arc<Tiers>,
    /// What is being fetched anew.
    claimed: Mutex<HashSet<Work>>,
    /// Who codes stored answers.
    coding: Arc<Semaphore>,
}

/// What is done once at a time for one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum What {
    Fetch,
    Code(Encoding),
}

type Work = (u128, u128, What);

/// One entry is being fetched anew, or coded, by whoever holds this.
pub struct Claim {
    kept: Arc<Kept>,
    work: Work,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.kept.claimed.lock().remove(&self.work);
    }
}

/// What the next process is to know.
#[derive(Serialize, Deserialize)]
struct Exported {
    /// Up to where purges are applied: what it takes over of what is kept here is no older.
    #[serde(flatten)]
    position: Option<Position>,
    /// Purges were not noted in the folder of the disk.
    #[serde(default)]
    owes_disk: bool,
}

impl Zone for Kept {
    fn export(&self) -> Option<Value> {
        let exported = Exported {
            position: self.link.position(),
            owes_disk: self.tiers.owes_disk(),
        };
        serde_json::to_value(exported).ok()
    }

    fn import(&self, exported: &Value) {
        let Ok(exported) = Exported::deserialize(exported) else {
            return;
        };
        if exported.owes_disk {
            self.tiers.inherit_debt();
        }
        if let Some(position) = exported.position {
            self.link.resume(position);
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.store.forget(&Purge::ALL);
        self.tiers.abandon();
    }
}

impl Cache {
    pub fn new(settings: Settings, zones: &Zones, clock: &Clock, metrics: &Metrics) -> Self {
        let kept = zones.get_or_create("cache", || {
            let store = Store::new(settings.memory, clock.clone(), metrics);
            let tiers = Arc::new(Tiers::new(store, clock, metrics));
            store.set_watch(Box::new(Watcher(Arc::clone(&tiers))));
            let below = Arc::clone(&tiers);
            let caches = Arc::new(Caches {
                store,
                tiers: below,
            });
            Kept {
                store,
                lock: Box::leak(CacheLock::new_boxed(LOCK_AGE)),
                passes: Passes::default(),
                link: Arc::new(Link::new(&host(), caches, clock, metrics)),
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
        Self {
            kept,
            memory: settings.memory,
            max_object: settings.max_object,
            shared: settings.shared,
            disk: settings.disk,
            purgers: settings.purgers,
            validates_what_may_be_purged: settings.validates_what_may_be_purged,
        }
    }

    /// What goes on beside requests as long as this configuration serves.
    pub async fn supervise(self: Arc<Self>, redis: Option<Arc<Redis>>) {
        self.kept.store.set_budget(self.memory);
        let Kept { tiers, link, .. } = &*self.kept;
        let tiers = tiers.supervise(redis.clone(), self.shared, self.disk.clone(), link);
        link.set_validates(self.validates_what_may_be_purged);
        let link = Arc::clone(link).supervise(redis);
        let ((), ()) = tokio::join!(tiers, link);
    }

    pub fn store(&self) -> &'static Store {
        self.kept.store
    }

    /// What is below the store, if this configuration has it look there.
    pub fn tiers(&self) -> Option<&Tiers> {
        let are_used = self.shared.is_some() || self.disk.is_some();
        are_used.then_some(&*self.kept.tiers)
    }

    /// How the disk stands, if there is one.
    pub fn disk(&self) -> Option<DiskStatus> {
        self.kept.tiers.disk()
    }

    /// Lets another process have the disk: this one does not serve any more.
    pub async fn release_disk(&self) {
        self.kept.tiers.release_disk(&self.kept.link).await;
    }

    /// Waits until the disk knows what was just taken out (RFC 9111, 4.4), so that no crash
    /// brings it back.
    pub async fn settle_disk(&self) {
        self.kept.tiers.settle_disk().await;
    }

    /// What counts how long a route's requests wait for level 2.
    pub fn waits(&self, metrics: &Metrics, route: &str) -> Option<Waits> {
        self.shared.map(|_| Waits::level2(metrics, route))
    }

    pub fn lock(&self) -> &'static CacheKeyLockImpl {
        self.kept.lock
    }

    pub fn passes(&self) -> &Passes {
        &self.kept.passes
    }

    /// The right to fetch `entry` anew; `None` while somebody does.
    pub fn claim(&self, entry: &Entry) -> Option<Claim> {
        self.claim_work(entry, What::Fetch)
    }

    /// The right to make a coded form of `entry`; `None` while somebody does.
    pub fn claim_form(&self, entry: &Entry, encoding: Encoding) -> Option<Claim> {
        self.claim_work(entry, What::Code(encoding))
    }

    fn claim_work(&self, entry: &Entry, what: What) -> Option<Claim> {
        let work = (entry.key.hash(), entry.variance.0, what);
        let is_first = self.kept.claimed.lock().insert(work);
        is_first.then(|| Claim {
            kept: Arc::clone(&self.kept),
            work,
        })
    }

    /// Whoever codes stored answers takes its turn here.
    pub fn coding(&self) -> Arc<Semaphore> {
        Arc::clone(&self.kept.coding)
    }

    /// How purges reach the other gateways.
    pub fn link(&self) -> &Arc<Link> {
        &self.kept.link
    }

    /// Takes out what is stored for the URL of a key: an unsafe request may have changed it
    /// (RFC 9111, 4.4).
    pub fn remove(&self, key: &Key) {
        self.store().remove(key);
        self.link().notes().removed(key);
    }

    /// Takes out here what the process before this one still takes out.
    pub async fn heed(&self, note: Note) {
        match note {
            // It does not tell the other gateways any more.
            Note::Purged(purges) => drop(self.link().begin(purges, Source::Gateway).await),
            Note::Removed(key) => {
                if let Some(key) = Key::parse(&key) {
                    self.remove(&key);
                }
            }
        }
    }

    /// Whether a purge that is over may have been about an answer without this gateway, and
    /// the origin is to be asked then.
    pub fn must_validate(&self, lifetime: &Lifetime) -> bool {
        self.validates_what_may_be_purged && !self.kept.link.trust().covers(lifetime)
    }

    /// The bytes that answers may take up.
    pub fn memory(&self) -> u64 {
        self.memory
    }

    /// The largest answer that is kept, where a route does not say.
    pub fn max_object(&self) -> u64 {
        self.max_object
    }
}

/// What purges are applied to.
struct Caches {
    store: &'static Store,
    tiers: Arc<Tiers>,
}

impl purge::Caches for Caches {
    fn apply<'a>(&'a self, purges: &'a [Purge]) -> BoxFuture<'a, Vec<u64>> {
        Box::pin(async move {
            let purge = |store: &Store, purges: &[Purge]| {
                let objects = purges.iter().map(|purge| store.purge(purge));
                objects.collect()
            };
            if purges.iter().all(is_quick) {
                return purge(self.store, purges);
            }
            let (store, purges) = (self.store, purges.to_vec());
            off_the_workers(move || purge(store, &purges)).await
        })
    }

    fn settle(&self, awaited: Awaited) -> BoxFuture<'_, bool> {
        Box::pin(self.tiers.settle(awaited))
    }

    fn forget(&self) -> BoxFuture<'_, u64> {
        let store = self.store;
        Box::pin(async move {
            let objects = off_the_workers(move || store.forget(&Purge::ALL)).await;
            self.tiers.forget().await;
            objects
        })
    }
}

/// Whether it is about few answers, and they are found by the index.
fn is_quick(purge: &Purge) -> bool {
    match purge.what {
        purge::What::Url(_) | purge::What::Written(_) => true,
        purge::What::Tag(_) | purge::What::Prefix(_) | purge::What::All => false,
    }
}

/// What takes a second of a million answers would hold up all connections of a worker.
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

/// What people call this machine.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    name.map_or_else(|_| "gateway".to_owned(), |name| name.trim().to_owned())
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("memory", &self.memory)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::thread::{self, ThreadId};

    use super::{
        key::Key,
        purge::{Caches as _, How, What},
        store::Watch,
        *,
    };

    /// The threads that purges were applied on.
    #[derive(Debug, Default)]
    struct Threads(Arc<Mutex<Vec<ThreadId>>>);

    impl Watch for Threads {
        fn stored(&self, _entry: &Arc<Entry>) {}

        fn purged(&self, _purge: &Purge) {
            self.0.lock().push(thread::current().id());
        }

        fn removed(&self, _key: &Key) {}
    }

    #[tokio::test]
    async fn a_purge_that_may_be_about_many_answers_leaves_the_worker_to_others() {
        let (clock, metrics) = (Clock::test(), Metrics::default());
        let store = Store::new(1 << 20, clock.clone(), &metrics);
        let threads = Arc::default();
        assert!(store.set_watch(Box::new(Threads(Arc::clone(&threads)))));
        let tiers = Arc::new(Tiers::new(store, &clock, &metrics));
        let caches = Caches { store, tiers };
        let worker = thread::current().id();
        let purge = |what| Purge {
            what,
            how: How::Hard,
        };
        let applied_here = || {
            let threads = std::mem::take(&mut *threads.lock());
            threads.iter().all(|thread| *thread == worker)
        };
        assert_eq!(caches.apply(&[purge(What::Url("/a".into()))]).await, [0]);
        assert!(applied_here(), "one URL is quick");
        for what in [What::All, What::Tag("t".into()), What::Prefix("/a".into())] {
            let long = [purge(What::Url("/a".into())), purge(what)];
            assert_eq!(caches.apply(&long).await, [0, 0]);
            assert!(!applied_here(), "{long:?}");
        }
        assert_eq!(caches.forget().await, 0);
    }
}
