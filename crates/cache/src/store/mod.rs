//! In-memory store of responses: sharded, with a budget of bytes.
//!
//! There is one store per process. It outlives configurations; a reload changes its budget. A hit
//! takes the read lock of one shard, compares keys, selects among variants and clones an `Arc`;
//! nothing is moved and no body is copied. All other work is done when a response is stored.
//!
//! Life of a response: [`Store::begin`] makes it visible to readers at once, which read along while
//! it grows ([`Fill`]). A complete response replaces the older one; until then the older one stays,
//! in case the origin aborts. A response that cannot be stored after all is passed on to its
//! readers, and is kept no longer than they need it.
//!
//! A purge wins over every response that was requested before it: see [`Store::mark`].
//!
//! A million responses of 1 KiB with four headers take 1.64 KiB each, 0.1 KiB of which is index; the
//! resident memory is 1.03 × the counted bytes.
//!
//! Measured with a million responses of 100 bytes with three tags each (`examples/million.rs`, on a
//! busy machine): a purge by a tag of one response takes 6 µs, of 100 responses 0.1 ms, of 1,000
//! 1.6 ms, of 100,000 0.3 s. A prefix purge, which looks at every response, takes 0.13 s however
//! many it finds, and a purge of all takes 1.9 s. No shard is locked for longer than it takes to
//! process 256 of its responses.

mod body;
mod body_file;
mod entry;
mod evict;
mod eviction_state;
mod fill;
mod filling;
mod forms;
mod headers;
mod inspect;
mod lifetimes;
mod memory;
mod metrics;
mod purge_log;
mod quota;
mod read;
mod shard;
mod sweep;
#[cfg(test)]
mod tests;
mod warmth;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, OnceLock, atomic::Ordering},
};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock, RwLockWriteGuard};

pub(crate) use self::warmth::HotEntry;
use self::{
    body::own_pieces,
    evict::{Queues, Victim},
    memory::{MemoryCharge, MemoryLedger},
    metrics::StoreMetrics,
    purge_log::PurgeLog,
    shard::{Hashes, Shard},
};
pub use self::{
    body::{Body, WholeBody},
    body_file::may_have_file,
    entry::{Entry, EntryDraft, EntryRules, Refresh, RouteRules},
    fill::{Fill, FillError},
    filling::FillEnd,
    metrics::NotStoredReason,
    purge_log::LogMark,
    quota::Quota,
    read::Reader,
};
use crate::{
    base::{clock::Clock, metrics::Metrics},
    key::Key,
    policy::{SentHeaders, Vary},
    purge::{Purge, PurgeEffect, PurgeMatcher},
};

/// Number of shards; the hash of the key selects one.
const SHARDS: usize = 64;

/// The memory of the cache.
pub struct Store {
    shards: Box<[RwLock<ShardSlot>]>,
    hashes: Hashes,
    log: PurgeLog,
    queues: Mutex<(Queues, MemoryCharge)>,
    ledger: &'static MemoryLedger,
    clock: Clock,
    metrics: StoreMetrics,
    quotas: Mutex<HashMap<Arc<str>, Arc<Quota>>>,
    watch: OnceLock<Arc<dyn StoreObserver>>,
}

/// A shard and the bytes it takes.
struct ShardSlot {
    shard: Shard,
    charge: MemoryCharge,
}

/// Result of a lookup: the entries of a key that matter to a request.
#[derive(Debug, Default)]
pub struct Lookup {
    /// The selected variant, fresh or stale, complete or in flight.
    pub entry: Option<Arc<Entry>>,
    /// The complete variant that would be selected if `entry`, which is in flight, were not stored.
    pub complete: Option<Arc<Entry>>,
    /// `Vary` of the newest response for the key, if there is one.
    pub vary: Option<Vary>,
    /// True if variants were skipped because they depend on headers whose value at the origin is
    /// unknown.
    pub is_unclear: bool,
}

/// Lower tiers, which are notified of changes to the store. Called without locks on the task that
/// made the change: implementations do no more than put it into a queue.
pub trait StoreObserver: Send + Sync + fmt::Debug {
    /// Called when an entry is complete or has new headers.
    fn stored(&self, entry: &Arc<Entry>);
    /// Called when a purge is about to be applied: it may affect older responses for requests that
    /// take a mark from now on.
    fn purged(&self, purge: &Purge);
    /// Called when all variants and route extras of this URL are about to be dropped.
    fn removed(&self, key: &Key);
}

impl Store {
    /// Creates a store for the rest of the process's life, which holds references to it. `budget`
    /// is in bytes.
    pub fn new(budget: u64, clock: Clock, metrics: &Metrics) -> &'static Self {
        let ledger: &'static MemoryLedger = Box::leak(Box::default());
        ledger.budget.store(budget, Ordering::Relaxed);
        let part = || ShardSlot {
            shard: Shard::default(),
            charge: MemoryCharge::new(ledger, 0),
        };
        let store = Self {
            shards: (0..SHARDS).map(|_| RwLock::new(part())).collect(),
            hashes: Hashes::default(),
            log: PurgeLog::default(),
            queues: Mutex::new((Queues::default(), MemoryCharge::new(ledger, 0))),
            ledger,
            clock,
            metrics: StoreMetrics::new(metrics),
            quotas: Mutex::default(),
            watch: OnceLock::new(),
        };
        store.metrics.budget.set(to_gauge(budget));
        Box::leak(Box::new(store))
    }

    /// Changes the budget, and evicts at once if necessary.
    pub fn set_budget(&self, budget: u64) {
        self.ledger.budget.store(budget, Ordering::Relaxed);
        self.metrics.budget.set(to_gauge(budget));
        self.ledger.files.renew();
        self.make_room();
    }

    pub fn budget(&self) -> u64 {
        MemoryLedger::get(&self.ledger.budget)
    }

    /// Returns the bytes in use, with fills and with evicted entries that are still being read.
    pub fn bytes(&self) -> u64 {
        MemoryLedger::get(&self.ledger.live)
    }

    /// Returns the quota of a route: the same one for the same name, across reloads. At most
    /// `limit` bytes of the route's responses are stored; beyond that, its own entries are evicted
    /// first. A quota that exists keeps its limit until [`Store::limit`].
    pub fn quota(&self, route: &str, limit: u64) -> Arc<Quota> {
        let mut quotas = self.quotas.lock();
        let quota = quotas.entry(route.into()).or_insert_with(|| {
            let part = self.queues.lock().0.add_part();
            Arc::new(Quota::new(part, limit))
        });
        Arc::clone(quota)
    }

    /// Changes the limit of a route's quota.
    pub fn limit(&self, quota: &Quota, limit: u64) {
        quota.set_limit(limit);
        self.keep_quota(quota);
    }

    /// Sets the lower tier that is notified of all changes. The first one stays; returns false if
    /// there is one.
    pub fn set_watch(&self, watch: Arc<dyn StoreObserver>) -> bool {
        self.watch.set(watch).is_ok()
    }

    /// Returns the current position in the log of purges. It has to be taken before the request to
    /// an origin or a lower tier: a response is stored only if no purge since then affects it.
    pub fn mark(&self) -> LogMark {
        self.log.mark()
    }

    /// Records a position that was seen in the tier shared by gateways: responses requested from
    /// now on are newer than every purge up to it.
    pub(crate) fn observe(&self, shared: u64) {
        self.log.observe(shared);
    }

    /// Same as [`Store::observe`] for the purges that the disk remembers.
    pub(crate) fn observe_disk(&self, position: u64) {
        self.log.observe_disk(position);
    }

    /// Looks up the stored response for a request. Counts as a hit of the entry.
    pub fn find(&self, key: &Key, headers: SentHeaders<'_>) -> Lookup {
        let lookup = self.shard(key.hash()).read();
        let lookup = lookup.shard.find(&self.hashes, key, headers);
        if let Some(entry) = &lookup.entry {
            entry.body.eviction.touch();
        }
        lookup
    }

    /// Gives an entry the headers of a 304 and makes the result visible. The body stays.
    ///
    /// Returns `None` if the entry is no longer stored or was purged since the mark.
    pub fn refresh(&self, refresh: &Refresh) -> Option<Arc<Entry>> {
        self.replace(refresh, refresh.mark, |_| true)
    }

    /// Replaces an entry, if the one that is stored for its body now `may_go` and was not purged
    /// since `mark`.
    fn replace(
        &self,
        refresh: &Refresh,
        mark: LogMark,
        may_go: impl FnOnce(&Arc<Entry>) -> bool,
    ) -> Option<Arc<Entry>> {
        let old = &refresh.old;
        let mut part = self.shard(old.key().hash()).write();
        let slot = part.shard.slot_of(&self.hashes, &old.body)?;
        let current = part.shard.at(slot)?;
        let is_purged = || self.log.raced(mark, old.key(), old.tags());
        if !current.is_complete() || !may_go(current) || is_purged() {
            return None;
        }
        let entry = Arc::new(current.refreshed(refresh));
        let before = part.shard.replace(slot, Arc::clone(&entry));
        self.resize(&entry);
        drop(part);
        drop(before);
        self.make_room();
        self.tell(|watch| watch.stored(&entry));
        Some(entry)
    }

    /// Inserts a complete response from a lower tier, without notifying lower tiers. A stored
    /// response for the same requests stays if its headers are newer.
    ///
    /// Returns `None` if the response is not inserted: it was purged since its mark, is too large,
    /// or is older than the stored one.
    pub fn insert(&self, draft: &EntryDraft, body: &[Bytes]) -> Option<Arc<Entry>> {
        let len: u64 = body.iter().map(|bytes| bytes.len() as u64).sum();
        let is_too_large = len > draft.about.route.max_object || len > self.ledger.most_filling();
        if is_too_large || draft.vary == Vary::Everything {
            return None;
        }
        let entry = Arc::new(Entry::new(draft, self.ledger));
        let charge = MemoryCharge::new(self.ledger, 0);
        entry.body.complete(own_pieces(body), charge);
        self.make_room();
        let mut part = self.shard(draft.key.hash()).write();
        if self.log.raced(draft.mark, &draft.key, &draft.about.tags) {
            return None;
        }
        let newer = |(_, it): (u32, &Arc<Entry>)| {
            let is_same = it.vary() == entry.vary() && it.variance() == entry.variance();
            is_same && it.response_time() >= entry.response_time()
        };
        if part.shard.variants(&self.hashes, entry.key()).any(newer) {
            return None;
        }
        part.shard.insert(&self.hashes, &entry);
        let removed = self.admit(&mut part, &entry);
        self.settle(part, removed, &entry);
        Some(entry)
    }

    /// Removes, or marks as stale, every stored or arriving response that a purge affects. Returns
    /// the number of responses.
    pub fn purge(&self, purge: &Purge) -> u64 {
        self.foretell(&PurgeMatcher::new(&purge.target));
        self.tell(|watch| watch.purged(purge));
        self.forget(purge)
    }

    /// Records a purge before lower tiers check whether they hold anything that a write may have
    /// changed, so that responses on their way there are kept out.
    fn foretell(&self, target: &PurgeMatcher) {
        if matches!(
            target,
            PurgeMatcher::Written { .. } | PurgeMatcher::Url { .. }
        ) {
            self.log.note(target, self.clock.now());
        }
    }

    /// Returns true if a purge since the request for an entry affects it.
    pub(crate) fn is_outdated(&self, entry: &Arc<Entry>) -> bool {
        let mark = if self.is_stored(entry) {
            self.log.remembered(entry.mark())
        } else {
            entry.mark()
        };
        self.log.raced(mark, entry.key(), entry.tags())
    }

    fn is_stored(&self, entry: &Arc<Entry>) -> bool {
        let part = self.shard(entry.key().hash()).read();
        let slot = part.shard.slot_of(&self.hashes, &entry.body);
        slot.and_then(|at| part.shard.at(at))
            .is_some_and(|it| Arc::ptr_eq(it, entry))
    }

    /// Same as [`Store::purge`] for this memory alone.
    pub fn forget(&self, purge: &Purge) -> u64 {
        let target = PurgeMatcher::new(&purge.target);
        self.log.note(&target, self.clock.now());
        self.sweep(&target, purge.effect)
    }

    /// Removes the stored responses for the URL of a key, in all variants and with all additions of
    /// routes to keys: an unsafe method may have changed it (RFC 9111, 4.4). Returns the number of
    /// responses.
    pub fn remove(&self, key: &Key) -> u64 {
        let target = PurgeMatcher::of_key(key);
        self.foretell(&target);
        self.tell(|watch| watch.removed(key));
        self.log.note(&target, self.clock.now());
        self.sweep(&target, PurgeEffect::Hard)
    }

    /// Calls `show` with every complete entry that stays stored during the call, in no order and
    /// without holding a lock.
    pub fn for_each(&self, mut show: impl FnMut(&Arc<Entry>)) {
        let mut batch = Vec::new();
        for shard in &self.shards {
            let mut from = 0;
            loop {
                let part = shard.read();
                let slots = part.shard.slots();
                let until = slots.min(from + sweep::BATCH);
                let entries = (from..until).filter_map(|at| part.shard.at(at));
                batch.extend(entries.filter(|entry| entry.is_complete()).cloned());
                drop(part);
                batch.drain(..).for_each(|entry| show(&entry));
                if until == slots {
                    break;
                }
                from = until;
            }
        }
    }

    fn shard(&self, hash: u128) -> &RwLock<ShardSlot> {
        let number = (hash >> 96) as usize % SHARDS;
        &self.shards[number]
    }

    fn tell(&self, notify: impl FnOnce(&dyn StoreObserver)) {
        if let Some(watch) = self.watch.get() {
            notify(&**watch);
        }
    }

    /// Adds a complete entry of the shard to the counts and the eviction queues. Returns the
    /// entries that it replaces.
    fn admit(&self, part: &mut ShardSlot, entry: &Arc<Entry>) -> Vec<Arc<Entry>> {
        let replaced = part.shard.replaced_by(&self.hashes, entry);
        let removed = replaced.into_iter().map(|at| self.take_out(part, at));
        let removed: Vec<Arc<Entry>> = removed.collect();
        let before = removed.iter().map(|old| old.popularity()).max();
        entry.body.eviction.succeed(before.unwrap_or_default());
        // The entry may have been refreshed since its end, which has counted it already.
        self.count(entry);
        let mut queues = self.queues.lock();
        let part = entry.quota().map_or(0, |quota| quota.part);
        queues.0.add(&entry.body, part);
        charge_queues(&mut queues);
        removed
    }

    /// Does the rest of the work after [`Store::admit`], without the lock.
    fn settle(
        &self,
        part: RwLockWriteGuard<'_, ShardSlot>,
        removed: Vec<Arc<Entry>>,
        new: &Arc<Entry>,
    ) {
        let mut part = part;
        self.charge_shard(&mut part);
        drop(part);
        drop(removed);
        self.make_room();
        self.keep_quota_of(new);
    }

    /// Removes an entry from the shard and from every count. The caller drops the returned entry
    /// after releasing the lock.
    fn take_out(&self, part: &mut ShardSlot, slot: u32) -> Arc<Entry> {
        let entry = part.shard.remove(&self.hashes, slot);
        let eviction = &entry.body.eviction;
        let change = eviction.count(0);
        eviction.drop_forms();
        self.change_stored(&entry, change);
        let mut queues = self.queues.lock();
        // Eviction removes it from the queues first; a fill was never in them.
        let _was_there = queues.0.remove(&entry.body);
        charge_queues(&mut queues);
        drop(queues);
        entry
    }

    /// Recounts the bytes of an entry, with its shard locked.
    fn resize(&self, entry: &Entry) {
        let mut queues = self.queues.lock();
        self.count(entry);
        queues.0.resize(&entry.body);
    }

    /// Counts the bytes of an entry as stored.
    fn count(&self, entry: &Entry) {
        let eviction = &entry.body.eviction;
        let change = eviction.count(entry.size() + eviction.forms_size());
        self.change_stored(entry, change);
    }

    /// Adds to the stored bytes, wrapping: a decrease is added as its complement.
    fn change_stored(&self, entry: &Entry, change: u64) {
        self.ledger.stored.fetch_add(change, Ordering::Relaxed);
        if let Some(quota) = entry.quota() {
            quota.add(change);
        }
    }

    fn charge_shard(&self, part: &mut ShardSlot) {
        if part.shard.is_sparse() {
            let old = std::mem::take(&mut part.shard);
            part.shard = old.rebuilt(&self.hashes);
        }
        part.charge.set(part.shard.size() as u64);
    }

    /// Evicts until the store is within the budget, or until nothing is left to evict.
    fn make_room(&self) {
        self.make_room_for(0);
    }

    /// Same as [`Store::make_room`] with room for `bytes` more.
    fn make_room_for(&self, bytes: u64) {
        while self.ledger.is_over(bytes) {
            let victim = self.queues.lock().0.victim();
            match victim {
                Some(Victim::Forms(body)) => {
                    let part = self.shard(body.key.hash()).read();
                    let slot = part.shard.slot_of(&self.hashes, &body);
                    if let Some(entry) = slot.and_then(|slot| part.shard.at(slot)) {
                        body.eviction.drop_forms();
                        self.resize(entry);
                    }
                }
                Some(Victim::Entry(body)) => self.evict(&body),
                None => break,
            }
        }
        self.metrics.bytes.set(to_gauge(self.bytes()));
        self.metrics
            .objects
            .set(to_gauge(self.queues.lock().0.len() as u64));
    }

    fn keep_quota_of(&self, entry: &Entry) {
        if let Some(quota) = entry.quota() {
            self.keep_quota(quota);
        }
    }

    fn keep_quota(&self, quota: &Quota) {
        while quota.used() > quota.limit() {
            let Some(body) = self.queues.lock().0.victim_of(quota.part) else {
                break;
            };
            self.evict(&body);
        }
    }

    fn evict(&self, body: &Body) {
        if self.discard(body) {
            self.metrics.evictions.inc();
        }
    }

    /// Removes the entry that a body belongs to. Returns false if there is none any more.
    fn discard(&self, body: &Body) -> bool {
        let mut part = self.shard(body.key.hash()).write();
        let slot = part.shard.slot_of(&self.hashes, body);
        let removed = slot.map(|slot| self.take_out(&mut part, slot));
        self.charge_shard(&mut part);
        drop(part);
        removed.is_some()
    }
}

fn charge_queues((queues, charge): &mut (Queues, MemoryCharge)) {
    charge.set(queues.size() as u64);
}

fn to_gauge(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

edgeway_base::opaque_debug!(Store);
