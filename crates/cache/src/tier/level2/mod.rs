//! Level 2: entries in the Redis that gateways share.
//!
//! Each URL is one hash in Redis with the variants of its keys. It lies in one of a few parts,
//! selected by path and query. Each part has stamps of purges ([`super::stamps`]). Scripts check
//! them in the same step that reads or writes an entry: an entry requested before a purge that
//! affects it is neither read nor written afterwards, by any gateway. Positions define that order:
//! numbers that one counter in Redis assigns to purges. A gateway notes the highest position that
//! it has seen before it sends a request to an origin, so no two clocks are compared.
//!
//! Writes, which any client can send, leave no stamps: the changed entries are removed, and a table
//! of fixed size keeps out entries that were requested before. All entries of a host and path share
//! a marker; without the marker they do not count.
//!
//! A purge that cannot be stamped now waits here, and until it is stamped, this gateway reads no
//! entry that it may affect ([`PurgePartition`]).

mod send_stamps;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use edgeway_net::redis::{Redis, Script, Signer, Unavailable};
use http::HeaderMap;
use log::{debug, warn};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::timeout};

use super::{
    codec::Decoded,
    lists::{VARIES, names, varies_of},
    metrics::{DiscardReason, LookupOutcome, TierMetrics, WaitHistograms, WriteOutcome},
    partition::PurgePartition,
    queue::BoundedQueue,
    signed,
    stamps::{self, Digest, EntrySubject, Stamp, WriteChange as Write},
    time_to_live,
};
use crate::{
    base::{clock::Clock, http::decimal, units::whole_millis},
    key::Key,
    policy::{Variance, Vary},
    store::{Entry, LogMark, Store, WholeBody},
};

/// Number of parts if keys are spread over several machines.
const PARTS: usize = 64;
/// Maximum number of variants of all keys of one URL.
const VARIANTS: usize = 128;
/// Longest time that an entry is stored.
const MAX_TTL: Duration = Duration::from_hours(7 * 24);
/// Largest difference between the clocks of two gateways.
const SKEW: Duration = Duration::from_mins(1);
/// Minimum time between log lines about unusable entries.
const LOG_INTERVAL: Duration = Duration::from_mins(1);
/// Number of entries that are written between two rounds of stamps.
const WRITE_BATCH: usize = 64;
/// Time between two attempts to stamp waiting purges.
const RETRY: Duration = Duration::from_millis(100);
/// First bit of the epoch in a position, above its own number: it identifies the Redis.
const EPOCH_AT: u32 = 56;

/// Entries in one Redis.
#[derive(Debug)]
pub(super) struct Level2 {
    redis: Arc<Redis>,
    signer: Signer,
    store: &'static Store,
    clock: Clock,
    metrics: TierMetrics,
    /// Tells positions of this Redis from those of another one, which a reload may bring.
    epoch: u64,
    scripts: Scripts,
    parts: Box<[PurgePartition]>,
    queue: BoundedQueue,
    /// Largest body, in bytes, that is written; 0 if entries are neither written nor read, and only
    /// purges are stamped: other gateways may do both.
    max_object: AtomicU64,
    /// Newest first.
    varies: ArcSwap<Vec<Vary>>,
    stamping: tokio::sync::Mutex<()>,
    wake: Notify,
    /// Time of the last log line about unusable entries or lost stamps.
    last_logged: Mutex<Option<Instant>>,
}

#[derive(Debug)]
struct Scripts {
    tick: Script,
    stamp: Script,
    written: Script,
    load: Script,
    store: Script,
}

impl From<Unavailable> for LookupOutcome {
    fn from(_: Unavailable) -> Self {
        Self::Error
    }
}

impl Level2 {
    /// Creates the tier. `epoch` differs for each Redis.
    pub(super) fn new(
        redis: Arc<Redis>,
        store: &'static Store,
        clock: Clock,
        metrics: TierMetrics,
        epoch: u8,
    ) -> Self {
        let count = if redis.is_cluster() { PARTS } else { 1 };
        Self {
            parts: (0..count)
                .map(|number| PurgePartition::new(redis.prefix(), number))
                .collect(),
            signer: redis.settings.signer.clone().unwrap_or_else(Signer::alone),
            redis,
            store,
            clock,
            metrics,
            last_logged: Mutex::new(None),
            epoch: u64::from(epoch) << EPOCH_AT,
            scripts: Scripts {
                tick: Script::new(include_str!("../lua/tick.lua")),
                stamp: Script::new(concat!(
                    include_str!("../lua/common.lua"),
                    include_str!("../lua/stamp.lua")
                )),
                written: Script::new(include_str!("../lua/written.lua")),
                load: Script::new(concat!(
                    include_str!("../lua/common.lua"),
                    include_str!("../lua/load.lua")
                )),
                store: Script::new(concat!(
                    include_str!("../lua/common.lua"),
                    include_str!("../lua/store.lua")
                )),
            },
            queue: BoundedQueue::default(),
            max_object: AtomicU64::new(0),
            varies: ArcSwap::from_pointee(vec![Vary::Nothing]),
            stamping: tokio::sync::Mutex::default(),
            wake: Notify::new(),
        }
    }

    pub(super) fn is_of(&self, redis: &Arc<Redis>) -> bool {
        self.redis.settings == redis.settings
    }

    /// Sets the largest body. With `None`, entries are neither written nor read from now on.
    pub(super) fn set_max_object(&self, max_object: Option<u64>) {
        self.max_object
            .store(max_object.unwrap_or(0), Ordering::Relaxed);
    }

    pub(super) fn is_used(&self) -> bool {
        self.max_object.load(Ordering::Relaxed) != 0
    }

    /// Returns the variance of the request headers under each list that is tried.
    fn guesses(&self, headers: &HeaderMap) -> Vec<(String, Variance)> {
        guesses_of(&self.varies.load(), headers)
    }

    /// Returns a number that is equal for requests with the same key and the same selecting
    /// headers.
    pub(super) fn flight(&self, key: &Key, headers: &HeaderMap) -> u128 {
        let guesses = self.guesses(headers);
        let mix = |mix: u128, (_, variance): &(String, Variance)| mix.rotate_left(1) ^ variance.0;
        guesses.iter().fold(key.hash(), mix)
    }

    /// Loads the entry for a request, if there is one, and adds the time taken to `waits`. The
    /// store's mark has to be taken before.
    pub(super) async fn load(
        &self,
        key: &Key,
        headers: &HeaderMap,
        keeps_private: bool,
        waits: &WaitHistograms,
    ) -> Option<Decoded> {
        let digest = EntrySubject::part_of(key);
        let part = &self.parts[stamps::part(&digest, self.parts.len())];
        if !self.is_used() || part.awaits(key) {
            return None;
        }
        let start = self.clock.now();
        let read = self.read(part, key, headers, keeps_private).await;
        let took = self.clock.now().saturating_duration_since(start);
        let missed = read.as_ref().err().copied();
        waits.waits[missed.unwrap_or(LookupOutcome::Hit)].observe(took.as_secs_f64());
        read.ok()
    }

    /// Reads an entry. An error is the outcome of the lookup.
    async fn read(
        &self,
        part: &PurgePartition,
        key: &Key,
        headers: &HeaderMap,
        keeps_private: bool,
    ) -> Result<Decoded, LookupOutcome> {
        let start = self.clock.now();
        let guesses = self.guesses(headers);
        let mut reply = self.query(part, key, &guesses).await?;
        if reply.first().is_some_and(|kind| kind == b"vary") {
            let varies = reply.get(2).map(Vec::as_slice).unwrap_or_default();
            let decoded = varies_of(varies).ok_or(LookupOutcome::Error)?;
            let guesses = guesses_of(&decoded, headers);
            decoded.iter().rev().for_each(|vary| self.learn(vary));
            // Both lookups together have the deadline of one.
            let passed = self.clock.now().saturating_duration_since(start);
            let left = self.patience().saturating_sub(passed);
            reply = timeout(left, self.query(part, key, &guesses))
                .await
                .map_err(|_elapsed| LookupOutcome::Error)??;
        }
        if reply.first().is_some_and(|kind| kind == b"large") {
            return Err(self.dropped(DiscardReason::Bounds, key));
        }
        let [kind, _, passed, bytes] =
            <[Vec<u8>; 4]>::try_from(reply).map_err(|_| LookupOutcome::Miss)?;
        if kind != b"hit" {
            return Err(LookupOutcome::Miss);
        }
        self.metrics.bytes_read.inc_by(bytes.len() as u64);
        let (bytes, prefix) = (Bytes::from(bytes), self.redis.prefix());
        let mut decoded = signed::decode(&self.signer, prefix, bytes, key, keeps_private)
            .map_err(|why| self.dropped(why, key))?;
        let passed = decimal(&passed).map(Duration::from_millis);
        let passed = passed.ok_or_else(|| self.dropped(DiscardReason::Damaged, key))?;
        // Redis measures the age, since clocks differ; but it is not much below the signed one.
        let now = self.clock.wall();
        let signed = now.duration_since(decoded.lifetime.response_time);
        let passed = passed.max(signed.unwrap_or_default().saturating_sub(SKEW));
        decoded.lifetime.response_time = now.checked_sub(passed).ok_or(LookupOutcome::Miss)?;
        Ok(decoded)
    }

    /// Counts an unusable entry, and logs one now and then.
    fn dropped(&self, why: DiscardReason, key: &Key) -> LookupOutcome {
        self.metrics.dropped[why].inc();
        if self.is_log_due() {
            warn!(reason = why.name(), url = key.url(); "cache entry in redis not used");
        }
        LookupOutcome::Miss
    }

    /// Returns true now and then.
    fn is_log_due(&self) -> bool {
        let now = self.clock.now();
        let mut last_logged = self.last_logged.lock();
        let is_due = last_logged.is_none_or(|at| now.saturating_duration_since(at) >= LOG_INTERVAL);
        if is_due {
            *last_logged = Some(now);
        }
        is_due
    }

    /// Returns the time for a lookup. Timers fire late on a busy machine; the Redis client allows
    /// for that too.
    fn patience(&self) -> Duration {
        self.redis.settings.timeout / 2
    }

    async fn query(
        &self,
        part: &PurgePartition,
        key: &Key,
        guesses: &[(String, Variance)],
    ) -> Result<Vec<Vec<u8>>, Unavailable> {
        let (entry, marker) = (part.key(key), part.marker(&stamps::place(key)));
        let mut args = Vec::with_capacity(2 + 2 * guesses.len());
        let max = self.max_object.load(Ordering::Relaxed);
        let max = max.saturating_add(signed::MAX_OVERHEAD);
        args.push(max.to_string().into_bytes());
        args.push(key.hash().to_be_bytes().to_vec());
        for (names, variance) in guesses {
            args.push(names.clone().into_bytes());
            args.push(variance.0.to_be_bytes().to_vec());
        }
        let keys: [&[u8]; 3] = [&entry, &part.stamps, &marker];
        let script = &self.scripts.load;
        let reply: Vec<Vec<u8>> = self.redis.eval(script, &keys, &args).await?;
        self.saw(part, &reply);
        Ok(reply)
    }

    /// Takes the position of the last purge from the response of a script.
    fn saw(&self, part: &PurgePartition, reply: &[Vec<u8>]) {
        if let Some(last) = reply.get(1).and_then(|last| decimal(last)) {
            self.observe(last);
        } else {
            self.lose(part);
            self.wake.notify_one();
        }
    }

    /// Marks a part whose stamps are gone, or from before Redis was restarted or failed over: no
    /// entry in it counts.
    fn lose(&self, part: &PurgePartition) {
        if part.is_lost.swap(true, Ordering::Relaxed) {
            return;
        }
        self.metrics.resets.inc();
        if self.is_log_due() {
            warn!("redis may have lost purges, all of level 2 of the cache counts as purged");
        }
    }

    fn observe(&self, position: u64) {
        self.store.observe(self.epoch | position);
    }

    /// Moves a list to the front: it is tried first from now on.
    fn learn(&self, vary: &Vary) {
        if self.varies.load().first() == Some(vary) {
            return;
        }
        self.varies.rcu(|varies| {
            let others = varies.iter().filter(|it| *it != vary).cloned();
            let mut new = vec![vary.clone()];
            new.extend(others.take(VARIES - 1));
            new
        });
    }

    /// Queues an entry to be written soon.
    pub(super) fn stored(&self, entry: &Arc<Entry>) {
        let max = self.max_object.load(Ordering::Relaxed);
        let len = entry.body.whole().map(WholeBody::len);
        if len.is_none_or(|len| len > max) || max == 0 || !self.is_worth(entry) {
            return;
        }
        if !self.queue.push(entry) {
            self.metrics.writes[WriteOutcome::QueueFull].inc();
        }
    }

    fn is_worth(&self, entry: &Entry) -> bool {
        let is_known = *entry.vary() != Vary::Everything;
        is_known && self.time_to_live(entry) > Duration::ZERO
    }

    /// Returns the time for which an entry may be of use.
    fn time_to_live(&self, entry: &Entry) -> Duration {
        let now = self.clock.wall();
        time_to_live(&entry.lifetime(), &entry.headers(), now).min(MAX_TTL)
    }

    /// Queues a purge: until it is stamped, no entry that it may affect is read.
    pub(super) fn purged(&self, stamp: &Stamp) {
        let one = match stamp {
            // Only this gateway knows that its entries may be outdated (RFC 9111, 4.4).
            Stamp::Written(Write { url: Some(_), .. }) if !self.is_used() => return,
            Stamp::Written(Write { url: Some(url), .. }) => Some(url.part),
            Stamp::Url { part, .. } => Some(*part),
            Stamp::Written(_)
            | Stamp::Everywhere(_)
            | Stamp::Prefix(_)
            | Stamp::Region(_)
            | Stamp::All => None,
        };
        match one {
            Some(part) => self.parts[stamps::part(&part, self.parts.len())].push(stamp.clone()),
            None => self.parts.iter().for_each(|part| part.push(stamp.clone())),
        }
        self.wake.notify_one();
    }

    fn is_behind(&self) -> bool {
        self.parts.iter().any(PurgePartition::is_behind)
    }

    /// Writes waiting entries and stamps waiting purges for as long as the future is polled.
    /// However many clients write, both make progress.
    pub(super) async fn supervise(&self) {
        loop {
            let done = match self.stamp_some().await {
                Ok(()) if self.is_used() => self.prepare().await,
                outcome => outcome,
            };
            if let Err(error) = done {
                debug!(error:%; "level 2 of the cache waiting for redis");
            }
            let has_more = self.write_some().await;
            let is_done = done.is_ok();
            if is_done && (has_more || self.is_behind()) {
                continue;
            }
            tokio::select! {
                () = self.queue.filled() => {}
                () = self.wake.notified() => {}
                () = tokio::time::sleep(RETRY), if !is_done => {}
            }
        }
    }

    /// Writes some of the waiting entries, before waiting purges are stamped: the stamping removes
    /// them if necessary. Returns true if there may be more.
    async fn write_some(&self) -> bool {
        for _ in 0..WRITE_BATCH {
            let Some(entry) = self.queue.pop() else {
                return false;
            };
            let written = self.write(&entry).await;
            self.metrics.writes[written].inc();
        }
        true
    }

    async fn write(&self, entry: &Arc<Entry>) -> WriteOutcome {
        if self.store.is_outdated(entry) {
            // Redis may have lost the stamp of the purge.
            return WriteOutcome::Purged;
        }
        let time_to_live = self.time_to_live(entry);
        let Some(position) = self.position(entry.mark()) else {
            return WriteOutcome::Error;
        };
        if !self.is_used() || time_to_live.is_zero() {
            return WriteOutcome::Older;
        }
        let bytes = signed::encode(&self.signer, self.redis.prefix(), entry);
        let (Some(names), Some(bytes)) = (names(entry.vary()), bytes) else {
            return WriteOutcome::Error;
        };
        let subject = EntrySubject::new(entry.key(), entry.tags());
        let part = &self.parts[stamps::part(&subject.part, self.parts.len())];
        let (url, authority) = (entry.key().without_scheme(), entry.key().authority());
        let now = self.clock.wall();
        let passed = now
            .duration_since(entry.response_time())
            .unwrap_or_default();
        let text = |number: u64| number.to_string().into_bytes();
        let len = bytes.len() as u64;
        let mut args = vec![
            text(position),
            text(whole_millis(passed)),
            text(whole_millis(time_to_live).max(1)),
            text(VARIANTS as u64),
            entry.variance().0.to_be_bytes().to_vec(),
            names.into_bytes(),
            bytes,
            url.to_vec(),
            // Lua counts from one.
            text(authority.len() as u64 + 1),
            entry.key().hash().to_be_bytes().to_vec(),
        ];
        let slots = stamps::slots(entry.key(), self.slots());
        args.extend(slots.map(|slot| text(u64::from(slot))));
        args.extend(
            subject
                .digests
                .iter()
                .map(|digest: &Digest| digest.to_vec()),
        );
        let (key, marker) = (
            part.key(entry.key()),
            part.marker(&stamps::place(entry.key())),
        );
        let keys: [&[u8]; 4] = [&key, &part.stamps, &marker, &part.writes];
        let reply: Result<Vec<Vec<u8>>, _> =
            self.redis.eval(&self.scripts.store, &keys, &args).await;
        let Ok(reply) = reply else {
            return WriteOutcome::Error;
        };
        self.saw(part, &reply);
        match reply.first().map(Vec::as_slice) {
            Some(b"stored") => {
                self.metrics.bytes_written.inc_by(len);
                self.learn(entry.vary());
                WriteOutcome::Stored
            }
            Some(b"older") => WriteOutcome::Older,
            Some(b"purged") => WriteOutcome::Purged,
            _ => WriteOutcome::Error,
        }
    }

    /// Returns the position of purges known at the request of an entry; `None` if it is from
    /// another Redis.
    fn position(&self, mark: LogMark) -> Option<u64> {
        let mask = (1 << EPOCH_AT) - 1;
        (mark.shared & !mask == self.epoch && mark.shared & mask != 0).then_some(mark.shared & mask)
    }

    /// Retires the tier: entries are no longer taken from the queue.
    pub(super) fn retire(&self) {
        self.set_max_object(None);
        self.queue.clear();
    }
}

/// Returns the variance of the request headers under each list.
fn guesses_of(varies: &[Vary], headers: &HeaderMap) -> Vec<(String, Variance)> {
    let guess = |vary: &Vary| Some((names(vary)?, vary.variance(headers)));
    varies.iter().filter_map(guess).collect()
}
