//! The disk below the memory: stored responses survive the process.
//!
//! Entries are written behind requests, one file each ([`object`], [`open`]); [`index`] lists the
//! files that [`walk`] has found. Purges are recorded in a [`journal`], and an entry that was
//! requested before a purge that affects it is neither read nor written ([`ledger`]): a purge
//! counts as settled once the journal holds it durably. One process has the folder ([`folder`]).
//! Its successor in an upgrade waits for it, and purges that reach the old process after that are
//! left for the successor ([`deferred_purges`]). While the disk does not work ([`health`]), the tier behaves
//! as if it were empty.
//!
//! No thread that serves requests touches a file: reads and writes run on a bounded number of
//! threads for blocking work.

mod deferred_purges;
mod folder;
mod health;
mod index;
mod journal;
mod ledger;
mod metrics;
mod object;
mod open;
mod pending_changes;
mod run;
#[cfg(test)]
mod tests;
mod walk;

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use http::HeaderMap;
use log::debug;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, OwnedMutexGuard, Semaphore},
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};

pub use self::health::CacheDiskStatus;
use self::{
    deferred_purges::DeferredPurges,
    health::{Health, State},
    index::FileName,
    metrics::{DiskMetrics, FolderFault, WriteOutcome},
    open::{OpenDisk, ReadOutcome},
};
use super::{
    codec::Decoded, metrics::LookupOutcome, queue::BoundedQueue, stamps::Stamp, time_to_live,
};
use crate::{
    base::{
        clock::{Clock, rfc3339},
        metrics::Metrics,
    },
    key::Key,
    policy::{Variance, Vary},
    purge::ledger::{Kind, Noted as _},
    store::{Entry, Store, WholeBody},
};

/// Time that a request waits for the disk; then the origin is requested.
const READ_TIMEOUT: Duration = Duration::from_millis(250);
/// Maximum number of concurrent reads.
const READS: usize = 16;
/// Number of slow reads in a row after which the disk is left alone for a while.
const MAX_SLOW_READS: u32 = 3;
/// Time that a purge waits for the disk.
const PURGE_TIMEOUT: Duration = Duration::from_secs(1);
/// First bit of the epoch in a position, above its own number: it tells openings of the folder
/// apart. A process that opens a folder every 3 s has epochs for a year.
const EPOCH_AT: u32 = 40;
/// The last epoch.
const EPOCHS: u64 = (1 << (64 - EPOCH_AT)) - 1;

/// Settings of the disk from the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSettings {
    pub folder: PathBuf,
    /// Bytes of files, each rounded up to whole blocks.
    pub size: u64,
    /// Largest body, in bytes, that is written.
    pub max_object: u64,
}

/// Registers the metrics of a configuration with a disk, all at zero.
pub fn register(metrics: &Metrics) {
    let _handles = DiskMetrics::new(metrics);
}

/// The disk of one process, configured or not. It outlives configurations.
#[derive(Debug)]
pub(crate) struct Disk {
    store: &'static Store,
    clock: Clock,
    all_metrics: Metrics,
    /// Metrics, once the disk is configured.
    metrics: OnceLock<DiskMetrics>,
    settings: ArcSwapOption<DiskSettings>,
    open: ArcSwapOption<OpenFolder>,
    /// Number of openings so far.
    epochs: AtomicU64,
    deferred: Arc<DeferredPurges>,
    last: Mutex<Option<LastFolder>>,
    queue: BoundedQueue,
    wake: Notify,
    health: Health,
    /// True once purges made while no process had the folder are known, or cannot be found out.
    is_caught_up: AtomicBool,
    strikes: AtomicU32,
    reads: Arc<Semaphore>,
    flushing: Arc<tokio::sync::Mutex<()>>,
    /// True once this process has let go of the folder for good.
    is_released: AtomicBool,
    /// True while the configuration has no folder.
    is_unused: AtomicBool,
}

/// The folder that is open, or was open last.
#[derive(Debug)]
struct LastFolder {
    folder: PathBuf,
    journal: u128,
    /// True if the folder was closed with all purges in its journal.
    is_complete: bool,
}

/// An open folder, with the epoch that tells its positions from those of other openings.
#[derive(Debug)]
struct OpenFolder {
    open: Arc<OpenDisk>,
    epoch: u64,
}

impl Disk {
    pub(super) fn new(store: &'static Store, clock: &Clock, metrics: &Metrics) -> Self {
        Self {
            store,
            clock: clock.clone(),
            all_metrics: metrics.clone(),
            metrics: OnceLock::new(),
            settings: ArcSwapOption::empty(),
            open: ArcSwapOption::empty(),
            epochs: AtomicU64::new(0),
            deferred: Arc::default(),
            last: Mutex::default(),
            queue: BoundedQueue::default(),
            wake: Notify::new(),
            health: Health::new(clock),
            is_caught_up: AtomicBool::new(false),
            strikes: AtomicU32::new(0),
            reads: Arc::new(Semaphore::new(READS)),
            flushing: Arc::default(),
            is_released: AtomicBool::new(false),
            is_unused: AtomicBool::new(false),
        }
    }

    fn metrics(&self) -> &DiskMetrics {
        let make = || DiskMetrics::new(&self.all_metrics);
        self.metrics.get_or_init(make)
    }

    /// Returns the state of the disk; `None` if no disk is configured.
    pub(crate) fn status(&self) -> Option<CacheDiskStatus> {
        let settings = self.settings.load_full()?;
        let (since, last_error) = self.health.since();
        let open = self.open.load_full();
        let opened = open.as_ref().map(|opened| &opened.open);
        let (objects, bytes) = opened.map_or((0, 0), |open| open.count());
        let budget = opened.map_or(u64::MAX, |open| open.last_budget.load(Ordering::Relaxed));
        Some(CacheDiskStatus {
            folder: settings.folder.display().to_string(),
            state: self.health.state().word().to_owned(),
            since: rfc3339(since),
            last_error,
            objects,
            bytes,
            budget_bytes: budget.min(settings.size),
        })
    }

    fn readable(&self) -> Option<Arc<OpenDisk>> {
        let allows = match self.health.state() {
            State::Up => true,
            State::Down(fault) => fault.allows_reading(),
            State::Off | State::Opening | State::Busy | State::CatchingUp => false,
        };
        let is_readable = allows && self.is_caught_up.load(Ordering::SeqCst);
        let opened = self.open.load_full().filter(|_| is_readable)?;
        Some(Arc::clone(&opened.open))
    }

    /// Returns a number that is equal for requests with the same key and the same selecting
    /// headers.
    pub(super) fn flight(&self, key: &Key, headers: &HeaderMap) -> u128 {
        let Some(open) = self.readable() else {
            return 0;
        };
        let names = names(&open, key, headers);
        let mix = |mix: u128, name: &FileName| mix.rotate_left(1) ^ name.variance;
        names.iter().fold(key.hash(), mix)
    }

    /// Loads the entry for a request, if there is one. The store's mark has to be taken before.
    pub(super) async fn load(&self, key: &Key, headers: &HeaderMap) -> Option<Decoded> {
        let open = self.readable()?;
        let max_object = self.settings.load_full()?.max_object;
        let start = self.clock.now();
        let names = open.candidates(names(&open, key, headers));
        let (looked, decoded) = if names.is_empty() {
            (LookupOutcome::Miss, None)
        } else {
            let reading = self.read(open, names, key.clone(), max_object);
            match timeout(READ_TIMEOUT, reading).await {
                Ok(Some(reading)) => {
                    self.strikes.store(0, Ordering::Relaxed);
                    let metrics = self.metrics();
                    metrics.bytes_read.inc_by(reading.bytes);
                    metrics.dropped_all(&reading.dropped);
                    match reading.decoded {
                        Some(decoded) => (LookupOutcome::Hit, Some(decoded)),
                        None => (LookupOutcome::Miss, None),
                    }
                }
                Ok(None) => (LookupOutcome::Error, None),
                Err(_elapsed) => {
                    self.metrics().errors[FolderFault::Slow].inc();
                    if self.strikes.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_SLOW_READS {
                        let error = "reading took longer than 250 ms";
                        self.set(State::Down(FolderFault::Slow), Some(error.to_owned()));
                    }
                    (LookupOutcome::Error, None)
                }
            }
        };
        let took = self.clock.now().saturating_duration_since(start);
        self.metrics().waits[looked].observe(took.as_secs_f64());
        decoded
    }

    /// Reads the first usable entry; `None` after an error.
    async fn read(
        &self,
        open: Arc<OpenDisk>,
        names: Vec<FileName>,
        key: Key,
        max_object: u64,
    ) -> Option<ReadOutcome> {
        let permit = Arc::clone(&self.reads).acquire_owned().await.ok()?;
        let now = self.clock.wall();
        let read = spawn_blocking(move || {
            let reading = open.read(&names, &key, max_object, now);
            // The caller may be gone: the read holds its permit for as long as it runs.
            drop(permit);
            reading
        });
        match read.await.ok()? {
            Ok(reading) => Some(reading),
            Err(error) => {
                self.failed(&error);
                None
            }
        }
    }

    /// Queues an entry to be written soon.
    pub(super) fn stored(&self, entry: &Arc<Entry>) {
        let Some(settings) = self.settings.load_full() else {
            return;
        };
        if self.is_released.load(Ordering::SeqCst) {
            return;
        }
        let len = entry.body.whole().map(WholeBody::len);
        let is_small = len.is_some_and(|len| len <= settings.max_object);
        let now = self.clock.wall();
        let left = || time_to_live(&entry.lifetime(), &entry.headers(), now);
        if !is_small || *entry.vary() == Vary::Everything || left().is_zero() {
            return;
        }
        match self.health.state() {
            State::Down(_) => self.metrics().writes[WriteOutcome::Error].inc(),
            State::Off | State::Opening | State::Busy => {
                self.metrics().writes[WriteOutcome::Early].inc();
            }
            State::Up | State::CatchingUp => {
                if !self.queue.push(entry) {
                    self.metrics().writes[WriteOutcome::QueueFull].inc();
                }
            }
        }
    }

    /// Records a purge: from now on no older entry that it affects is read.
    pub(crate) fn purged(&self, stamp: &Stamp) {
        let mut waiting = self.deferred.waiting.lock();
        if let Some(opened) = &*self.open.load() {
            if !opened.open.heeds(stamp) {
                // A write that affects nothing stored leaves no record.
                return;
            }
            opened.note(self.store, stamp);
        } else {
            // No folder may ever come, and any client can write: a folder of a later configuration
            // loses the hosts of all writes before it.
            let is_unused = self.is_unused.load(Ordering::SeqCst) && waiting.folder.is_none();
            let is_write = stamp.kind() == Kind::Write;
            let wide = stamp.widened().filter(|_| is_unused && is_write);
            waiting.purges.push(wide.unwrap_or_else(|| stamp.clone()));
        }
        drop(waiting);
        self.wake.notify_one();
    }

    /// Same as [`Disk::purged`] for purges that the log of purges lacks: purges everything. A
    /// folder that is not open has its own position in the log.
    pub(super) fn forget(&self) {
        let waiting = self.deferred.waiting.lock();
        if let Some(opened) = &*self.open.load() {
            opened.note(self.store, &Stamp::All);
        }
        drop(waiting);
        self.wake.notify_one();
    }

    /// Waits until all purges so far are durable in the journal, if the disk takes them.
    pub(crate) async fn settle(&self) {
        if timeout(PURGE_TIMEOUT, self.settled()).await.is_err() {
            debug!("purge waiting for the cache disk");
        }
    }

    async fn settled(&self) {
        if let Some(opened) = self.open.load_full() {
            let open = &opened.open;
            if self.is_responsive() {
                self.flush(open).await;
            } else if !open.is_synced(open.noted())
                && let Ok(turn) = Arc::clone(&self.flushing).try_lock_owned()
            {
                // No purge waits for this flush: it is an attempt, and until one succeeds nothing
                // is read.
                drop(begin_to_flush(open, turn));
            }
        } else if self.deferred.are_left_in_files() {
            // Until the process that has the folder has taken them over.
            while self.leave_deferred().await == Some(false) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Returns true if a flush ends soon, if only with an error.
    fn is_responsive(&self) -> bool {
        match self.health.state() {
            State::Down(fault) => fault.allows_reading(),
            State::Off | State::Opening | State::Busy | State::CatchingUp | State::Up => true,
        }
    }

    /// Writes the recorded purges to the journal. Returns `false` if the disk does not take them.
    async fn flush(&self, open: &Arc<OpenDisk>) -> bool {
        let noted = open.noted();
        if open.is_synced(noted) {
            return true;
        }
        let turn = Arc::clone(&self.flushing).lock_owned().await;
        if open.is_synced(noted) {
            return true;
        }
        match begin_to_flush(open, turn).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                self.failed(&error);
                false
            }
            Err(_ended) => false,
        }
    }

    /// Closes the disk because no configuration has a cache any more. Work in flight ends by
    /// itself, and the lock with it.
    pub(crate) fn abandon(&self) {
        let waiting = self.deferred.waiting.lock();
        self.settings.store(None);
        self.open.store(None);
        drop(waiting);
        self.queue.clear();
    }

    /// Leaves purges for the process that has the folder by now. Returns true if all were taken
    /// over; `None` if they cannot be written.
    async fn leave_deferred(&self) -> Option<bool> {
        let turn = Arc::clone(&self.flushing).lock_owned().await;
        let deferred = Arc::clone(&self.deferred);
        let left = spawn_blocking(move || {
            let left = deferred.write().map(|()| deferred.is_taken_up());
            // The caller may be gone.
            drop(turn);
            left
        });
        match left.await.ok()? {
            Ok(is_taken_up) => Some(is_taken_up),
            Err(error) => {
                self.metrics().errors[FolderFault::classify(&error)].inc();
                None
            }
        }
    }

    /// Returns true if this process knows of purges that the next one will not find in the folder.
    pub(crate) fn owes(&self) -> bool {
        let waiting = self.deferred.waiting.lock();
        if let Some(opened) = &*self.open.load() {
            let open = &opened.open;
            let is_down = matches!(self.health.state(), State::Down(_));
            return is_down && !open.is_synced(open.noted());
        }
        let is_complete = self
            .last
            .lock()
            .as_ref()
            .is_none_or(|last| last.is_complete);
        waiting.folder.is_none() && !waiting.purges.is_empty() || !is_complete
    }

    fn failed(&self, error: &io::Error) {
        // The folder was given away in the meantime.
        if error.kind() == io::ErrorKind::NotConnected {
            return;
        }
        let fault = FolderFault::classify(error);
        self.metrics().errors[fault].inc();
        self.set(State::Down(fault), Some(error.to_string()));
    }

    fn set(&self, state: State, error: Option<String>) {
        let Some(settings) = self.settings.load_full() else {
            return;
        };
        self.health.set(&settings.folder, state, error);
        self.metrics().up.set(i64::from(state == State::Up));
    }
}

/// State of the disk that a process hands to its successor.
impl OpenFolder {
    fn note(&self, store: &Store, stamp: &Stamp) {
        let position = self.open.note(stamp);
        store.observe_disk(self.epoch | position);
    }

    /// Returns the position of purges known at the request of an entry; `None` if it is from
    /// another opening.
    fn position(&self, mark: u64) -> Option<u64> {
        let mask = (1 << EPOCH_AT) - 1;
        (mark & !mask == self.epoch && mark & mask != 0).then_some(mark & mask)
    }
}

fn begin_to_flush(open: &Arc<OpenDisk>, turn: OwnedMutexGuard<()>) -> JoinHandle<io::Result<()>> {
    let open = Arc::clone(open);
    spawn_blocking(move || {
        let outcome = open.flush();
        // The caller may be gone.
        drop(turn);
        outcome
    })
}

/// Returns the possible names of the entry for a request: one for each known list of `Vary` fields.
fn names(open: &OpenDisk, key: &Key, headers: &HeaderMap) -> Vec<FileName> {
    let first = FileName::new(key, Variance::default());
    let mut names = vec![first];
    let varies = open.varies();
    let of = |vary: &Vary| first.with(vary.variance(headers));
    names.extend(varies.iter().rev().map(of));
    names
}
