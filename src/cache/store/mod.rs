//! Where answers are kept: a sharded memory with a budget of bytes.
//!
//! There is one store per process. It outlives configurations; a reload changes its budget.
//! A hit takes the read lock of one shard, compares keys, chooses among variants and clones
//! an `Arc`; nothing is moved and no body is copied. Everything else is done when an answer
//! is stored.
//!
//! What happens to an answer: [`Store::begin`] makes it visible to readers at once, who read
//! on while it grows ([`Fill`]). When it is whole it takes the place of an older one; until
//! then that stays, for the case that the origin breaks off. An answer that cannot be kept
//! after all goes on to those who read it, and is kept no longer than they need it.
//!
//! A purge wins over whatever was asked for before it: see [`Store::mark`].
//!
//! Measured with a million answers of 100 bytes with four headers and three tags each
//! (`examples/million.rs`, on a busy machine): each takes 2.0 KB, 203 bytes of which are
//! index; the resident memory is 0.96 × what is counted. A purge by a tag of one answer takes
//! 6 µs, by one of 100 0.1 ms, by one of 1,000 1.6 ms, by one of 100,000 0.3 s. A prefix, which has
//! every answer looked at, takes 0.13 s whatever it finds, and all 1.9 s; no shard is locked
//! for longer than 256 of its answers take.

mod body;
mod entry;
mod evict;
mod fill;
mod filling;
mod lifetimes;
mod look;
mod memory;
mod metrics;
mod purge_log;
mod quota;
mod read;
mod shard;
mod storage;
mod sweep;
mod target;
#[cfg(test)]
mod tests;
mod warmth;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use http::HeaderMap;
use parking_lot::{Mutex, RwLock, RwLockWriteGuard};

use self::{
    body::own_pieces,
    evict::{Queues, Victim},
    memory::{Charge, Ledger},
    metrics::StoreMetrics,
    purge_log::PurgeLog,
    shard::{Hashes, Shard},
};
pub use self::{
    body::{Body, Whole},
    entry::{About, Draft, Entry, Refresh},
    fill::{Client, Fill, FillError},
    filling::Died,
    metrics::Pass,
    purge_log::Mark,
    quota::Quota,
    read::Reader,
    storage::{Wanted, has_ended, leave},
};
pub(in crate::cache) use self::{
    target::{Target, scheme, without_rsc, without_scheme, without_slash},
    warmth::Warmth,
};
use crate::{
    base::{clock::Clock, encoding::Encoding, metrics::Metrics},
    cache::{
        key::Key,
        policy::{Lifetime, SentHeaders, Variance, Vary},
        purge::{How, Purge},
    },
};

/// Shards, by the hash of the key.
const SHARDS: usize = 64;

/// The memory of the cache.
pub struct Store {
    shards: Box<[RwLock<Part>]>,
    hashes: Hashes,
    log: PurgeLog,
    queues: Mutex<(Queues, Charge)>,
    ledger: &'static Ledger,
    clock: Clock,
    metrics: StoreMetrics,
    ids: AtomicU64,
    /// Those under way, found by their number.
    fills: Mutex<HashMap<u64, Weak<Entry>>>,
    quotas: Mutex<HashMap<Arc<str>, Arc<Quota>>>,
    watch: OnceLock<Box<dyn Watch>>,
}

/// A shard and its bytes.
struct Part {
    shard: Shard,
    charge: Charge,
}

/// What a key's entries say to a request.
#[derive(Debug, Default)]
pub struct Found {
    /// The variant for it, fresh or not, whole or under way.
    pub entry: Option<Arc<Entry>>,
    /// What the key's newest answer varies by, if there is one.
    pub vary: Option<Vary>,
    /// Some variants go by headers of which it is not known what the origin would get: they
    /// were passed over.
    pub is_unclear: bool,
}

/// Lower tiers, which are told what happens here. Called without locks, on the task that did
/// it: implementations do no more than put it into a queue.
pub trait Watch: Send + Sync + fmt::Debug {
    /// It is whole, or has another head.
    fn stored(&self, entry: &Arc<Entry>);
    /// A purge is about to be applied: whoever asks for a mark from now on may have to be kept
    /// from what is older.
    fn purged(&self, purge: &Purge);
    /// All variants and route extras of this URL are about to be dropped.
    fn removed(&self, key: &Key);
}

impl Store {
    /// Makes one for the rest of the process' life, as Pingora wants it. `budget` is in bytes.
    pub fn new(budget: u64, clock: Clock, metrics: &Metrics) -> &'static Self {
        let ledger: &'static Ledger = Box::leak(Box::default());
        ledger.budget.store(budget, Ordering::Relaxed);
        let part = || Part {
            shard: Shard::new(),
            charge: Charge::new(ledger, 0),
        };
        let store = Self {
            shards: (0..SHARDS).map(|_| RwLock::new(part())).collect(),
            hashes: Hashes::default(),
            log: PurgeLog::default(),
            queues: Mutex::new((Queues::default(), Charge::new(ledger, 0))),
            ledger,
            clock,
            metrics: StoreMetrics::new(metrics),
            ids: AtomicU64::new(1),
            fills: Mutex::default(),
            quotas: Mutex::default(),
            watch: OnceLock::new(),
        };
        store.metrics.budget.set(to_gauge(budget));
        Box::leak(Box::new(store))
    }

    /// Changes the budget; what does not fit any more goes at once.
    pub fn set_budget(&self, budget: u64) {
        self.ledger.budget.store(budget, Ordering::Relaxed);
        self.metrics.budget.set(to_gauge(budget));
        self.make_room();
    }

    pub fn budget(&self) -> u64 {
        Ledger::get(&self.ledger.budget)
    }

    /// The bytes that it takes now, with fills and with what is read of what has gone.
    pub fn bytes(&self) -> u64 {
        Ledger::get(&self.ledger.live)
    }

    /// What of that finds answers, and says which of them goes next.
    pub fn index_bytes(&self) -> u64 {
        let shards = self.shards.iter();
        let shards: u64 = shards.map(|part| part.read().charge.bytes()).sum();
        shards + self.queues.lock().1.bytes()
    }

    /// How many answers there are, whole or under way.
    pub fn objects(&self) -> usize {
        let shards = self.shards.iter();
        shards.map(|shard| shard.read().shard.len()).sum()
    }

    /// The quota of a route: the same one for the same name, over reloads. At most `limit`
    /// bytes of its answers are kept; beyond, its own go first.
    pub fn quota(&self, route: &str, limit: u64) -> Arc<Quota> {
        let mut quotas = self.quotas.lock();
        let quota = quotas.entry(route.into()).or_insert_with(|| {
            let part = self.queues.lock().0.add_part();
            Arc::new(Quota::new(part, limit))
        });
        quota.set_limit(limit);
        let quota = Arc::clone(quota);
        drop(quotas);
        self.keep_quota(&quota);
        quota
    }

    /// Tells a lower tier of everything from now on; the first one stays.
    pub fn set_watch(&self, watch: Box<dyn Watch>) -> bool {
        self.watch.set(watch).is_ok()
    }

    /// The position in the log of purges, to be taken before an origin (or a lower tier) is
    /// asked: what it answers is stored only if no purge since then is about it.
    pub fn mark(&self) -> Mark {
        self.log.mark()
    }

    /// A position of the tier that gateways share was seen: what is asked for from now on is
    /// newer than every purge up to it.
    pub(in crate::cache) fn observe(&self, shared: u64) {
        self.log.observe(shared);
    }

    /// The same of the purges that the disk remembers.
    pub(in crate::cache) fn observe_disk(&self, position: u64) {
        self.log.observe_disk(position);
    }

    /// What there is for a request. Counts as a hit of the entry.
    pub fn find(&self, key: &Key, headers: SentHeaders<'_>) -> Found {
        let found = self.shard(key.hash()).read();
        let found = found.shard.find(&self.hashes, key, headers);
        if let Some(entry) = &found.entry {
            entry.seat.touch();
        }
        found
    }

    /// Begins to store an answer. From now on readers find it.
    pub fn begin(&'static self, draft: &Draft) -> Fill {
        Fill::begin(self, draft)
    }

    /// Gives an entry another head, as a 304 said, and lets it be found. The body stays.
    ///
    /// `None` if it is not in the store any more or was purged since `mark`.
    pub fn refresh(
        &self,
        old: &Arc<Entry>,
        headers: HeaderMap,
        lifetime: Lifetime,
        vary: Vary,
        variance: Variance,
        mark: Mark,
    ) -> Option<Arc<Entry>> {
        self.refresh_with(&Refresh {
            old: Arc::clone(old),
            headers,
            lifetime,
            vary,
            variance,
            mark,
        })
    }

    /// As [`Store::refresh`].
    pub fn refresh_with(&self, refresh: &Refresh) -> Option<Arc<Entry>> {
        let old = &refresh.old;
        let mut part = self.shard(old.key.hash()).write();
        let at = part.shard.slot_of(&self.hashes, old)?;
        let current = part.shard.at(at)?;
        if !current.is_whole() || self.log.raced(refresh.mark, &old.key, &old.about.tags) {
            return None;
        }
        let entry = Arc::new(current.refreshed(refresh, self.ledger));
        let before = part.shard.replace(at, Arc::clone(&entry));
        self.resize(&entry);
        drop(part);
        drop(before);
        self.make_room();
        self.tell(|watch| watch.stored(&entry));
        Some(entry)
    }

    /// Puts in a whole answer that a lower tier had. Whoever watches is not told. An answer
    /// for the same requests that is here already stays if its head is later.
    ///
    /// `None` if it stays out: it was purged since its mark, is too large, or older than
    /// what is here.
    pub fn insert(&self, draft: &Draft, body: &[Bytes]) -> Option<Arc<Entry>> {
        let len: u64 = body.iter().map(|bytes| bytes.len() as u64).sum();
        let is_too_large = len > draft.about.max_object || len > self.ledger.most_filling();
        if is_too_large || draft.vary == Vary::Everything {
            return None;
        }
        let entry = Arc::new(Entry::new(draft, self.next_id(), self.ledger));
        let charge = Charge::new(self.ledger, 0);
        entry.body.complete(Whole::new(own_pieces(body), charge));
        self.make_room();
        let mut part = self.shard(draft.key.hash()).write();
        if self.log.raced(draft.mark, &draft.key, &draft.about.tags) {
            return None;
        }
        let newer = |(_, it): (u32, &Arc<Entry>)| {
            let is_same = it.vary == entry.vary && it.variance == entry.variance;
            is_same && it.answered() >= entry.answered()
        };
        if part.shard.variants(&self.hashes, &entry.key).any(newer) {
            return None;
        }
        part.shard.insert(&self.hashes, &entry);
        let gone = self.admit(&mut part, &entry);
        self.settle(part, gone, &entry);
        Some(entry)
    }

    /// Keeps a compressed form of a whole entry, until either has to go. `false` if the entry
    /// is not here any more or has that form.
    pub fn add_form(&self, entry: &Arc<Entry>, encoding: Encoding, bytes: &Bytes) -> bool {
        let part = self.shard(entry.key.hash()).read();
        if !entry.is_whole() || part.shard.slot_of(&self.hashes, entry).is_none() {
            return false;
        }
        let Some(is_first) = entry.seat.set_form(self.ledger, encoding, bytes) else {
            return false;
        };
        self.resize(entry);
        if is_first {
            self.queues.lock().0.add_form(&entry.seat);
        }
        drop(part);
        self.make_room();
        self.keep_quota_of(entry);
        true
    }

    /// Takes out, or marks as stale, everything that a purge is about, here and whatever is
    /// on its way here. Gives how many answers that were.
    pub fn purge(&self, purge: &Purge) -> u64 {
        self.foretell(&Target::of(&purge.what));
        self.tell(|watch| watch.purged(purge));
        self.forget(purge)
    }

    /// What is on its way to a lower tier is kept from there before that is asked whether it
    /// has anything that a write may have changed.
    fn foretell(&self, target: &Target) {
        if matches!(target, Target::Written { .. } | Target::Url { .. }) {
            self.log.note(target.clone());
        }
    }

    /// Whether there was a purge since an entry was asked for that is about it.
    pub(in crate::cache) fn is_outdated(&self, entry: &Entry) -> bool {
        self.log.raced(entry.mark, &entry.key, &entry.about.tags)
    }

    /// The same in this memory alone.
    pub fn forget(&self, purge: &Purge) -> u64 {
        let target = Target::of(&purge.what);
        self.log.note(target.clone());
        self.sweep(&target, purge.how)
    }

    /// Takes out what is stored for the URL of a key, in all variants and whatever routes add
    /// to keys: an unsafe method may have changed it (RFC 9111, 4.4). Gives how many
    /// answers that were.
    pub fn remove(&self, key: &Key) -> u64 {
        let target = Target::of_key(key);
        self.foretell(&target);
        self.tell(|watch| watch.removed(key));
        self.log.note(target.clone());
        self.sweep(&target, How::Hard)
    }

    /// Shows every whole entry that is there all the time, in no order; no lock is held
    /// meanwhile.
    pub fn for_each(&self, mut show: impl FnMut(&Arc<Entry>)) {
        let mut batch = Vec::new();
        for shard in &self.shards {
            let mut from = 0;
            loop {
                let part = shard.read();
                let slots = part.shard.slots();
                let until = slots.min(from + sweep::BATCH);
                let entries = (from..until).filter_map(|at| part.shard.at(at));
                batch.extend(entries.filter(|entry| entry.is_whole()).cloned());
                drop(part);
                batch.drain(..).for_each(|entry| show(&entry));
                if until == slots {
                    break;
                }
                from = until;
            }
        }
    }

    fn shard(&self, hash: u128) -> &RwLock<Part> {
        let number = (hash >> 96) as usize % SHARDS;
        &self.shards[number]
    }

    fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    fn tell(&self, what: impl FnOnce(&dyn Watch)) {
        if let Some(watch) = self.watch.get() {
            what(&**watch);
        }
    }

    /// Makes an entry in the shard, which is whole now, count and stay. Gives what goes for
    /// it.
    fn admit(&self, part: &mut Part, entry: &Arc<Entry>) -> Vec<Arc<Entry>> {
        let replaced = part.shard.replaced_by(&self.hashes, entry);
        let gone = replaced.into_iter().map(|at| self.take_out(part, at));
        let gone = gone.collect();
        // Between its end and now somebody may have given it another head, which counted it.
        let bytes = entry.size() + entry.seat.forms_size();
        let before = entry.seat.bytes.swap(bytes, Ordering::Relaxed);
        let change = bytes.wrapping_sub(before);
        self.ledger.stored.fetch_add(change, Ordering::Relaxed);
        if let Some(quota) = &entry.about.quota {
            quota.add(change);
        }
        let mut queues = self.queues.lock();
        queues.0.add(&entry.seat);
        charge_queues(&mut queues);
        gone
    }

    /// What is left to do after [`Store::admit`], without the lock.
    fn settle(&self, part: RwLockWriteGuard<'_, Part>, gone: Vec<Arc<Entry>>, new: &Arc<Entry>) {
        let mut part = part;
        self.charge_shard(&mut part);
        drop(part);
        drop(gone);
        self.make_room();
        self.keep_quota_of(new);
    }

    /// Removes an entry from the shard and from every count. Whoever calls it drops what it
    /// gives when the lock is gone.
    fn take_out(&self, part: &mut Part, at: u32) -> Arc<Entry> {
        let entry = part.shard.remove(&self.hashes, at);
        let seat = &entry.seat;
        let bytes = seat.bytes.swap(0, Ordering::Relaxed);
        seat.drop_forms();
        self.ledger.stored.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(quota) = &entry.about.quota {
            quota.sub(bytes);
        }
        let mut queues = self.queues.lock();
        // Eviction takes it out of the queues first; a fill was never in them.
        let _was_there = queues.0.remove(seat);
        charge_queues(&mut queues);
        drop(queues);
        entry
    }

    /// Counts the bytes of an entry anew, with its shard locked.
    fn resize(&self, entry: &Entry) {
        let seat = &entry.seat;
        let mut queues = self.queues.lock();
        let bytes = entry.size() + seat.forms_size();
        let before = seat.bytes.swap(bytes, Ordering::Relaxed);
        let change = bytes.wrapping_sub(before);
        self.ledger.stored.fetch_add(change, Ordering::Relaxed);
        if let Some(quota) = &entry.about.quota {
            quota.add(change);
        }
        queues.0.resize(seat);
    }

    fn charge_shard(&self, part: &mut Part) {
        if part.shard.is_sparse() {
            let old = std::mem::replace(&mut part.shard, Shard::new());
            part.shard = old.rebuilt(&self.hashes);
        }
        let size = part.shard.size() as u64;
        if size != part.charge.bytes() {
            part.charge.set(size);
        }
    }

    /// Evicts until everything is within the budget again, or nothing is left to evict.
    fn make_room(&self) {
        self.make_room_for(0);
    }

    /// The same with so many bytes more.
    fn make_room_for(&self, bytes: u64) {
        while self.ledger.is_over(bytes) {
            let victim = self.queues.lock().0.victim();
            match victim {
                Some(Victim::Forms(seat)) => {
                    let part = self.shard(seat.hash).read();
                    let at = part.shard.slot_of_seat(&self.hashes, seat.hash, seat.id);
                    if let Some(entry) = at.and_then(|at| part.shard.at(at)) {
                        seat.drop_forms();
                        self.resize(entry);
                    }
                }
                Some(Victim::Entry(seat)) => self.evict(&seat),
                None => break,
            }
        }
        self.metrics.bytes.set(to_gauge(self.bytes()));
        self.metrics
            .objects
            .set(to_gauge(self.queues.lock().0.len() as u64));
    }

    fn keep_quota_of(&self, entry: &Entry) {
        if let Some(quota) = &entry.about.quota {
            self.keep_quota(quota);
        }
    }

    fn keep_quota(&self, quota: &Quota) {
        while quota.used() > quota.limit() {
            let Some(seat) = self.queues.lock().0.victim_of(quota.part) else {
                break;
            };
            self.evict(&seat);
        }
    }

    fn evict(&self, seat: &entry::Seat) {
        let mut part = self.shard(seat.hash).write();
        let at = part.shard.slot_of_seat(&self.hashes, seat.hash, seat.id);
        let gone = at.map(|at| self.take_out(&mut part, at));
        self.charge_shard(&mut part);
        drop(part);
        if gone.is_some() {
            self.metrics.evictions.inc();
        }
    }
}

fn charge_queues((queues, charge): &mut (Queues, Charge)) {
    let size = queues.size() as u64;
    if size != charge.bytes() {
        charge.set(size);
    }
}

fn to_gauge(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("budget", &self.budget())
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}
