//! Supervises a folder beside requests: opens it, walks it, writes to it, retries after a fault,
//! and lets go of it.

use std::{
    future::pending,
    io,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use log::info;
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::{sleep, timeout},
};

use super::{
    super::stamps::Stamp,
    Disk, DiskSettings, EPOCH_AT, EPOCHS, LastFolder, OpenFolder,
    folder::{Folder, OpenError},
    health::{RETRY_INTERVAL, State},
    metrics::{DiskMetrics, FolderFault, WriteOutcome},
    open::OpenDisk,
};
use crate::{purge::PurgeLink, store::Entry};

/// Longest wait before the next round of work.
const TICK: Duration = Duration::from_millis(100);
/// Time in which a process that has let go of the folder is likely to finish its requests. After
/// that, the purges it leaves are looked up in one of [`SELDOM`] rounds.
const DRAINING: Duration = Duration::from_mins(10);
const SELDOM: u32 = 50;
/// A disk that takes longer for one operation counts as faulty.
const SLOW: Duration = Duration::from_secs(5);
/// Time to wait for purges of other gateways while Redis is down: as long as they wait for this
/// one.
const LEASE: Duration = Duration::from_secs(3);
/// Time to write waiting entries before the folder is given away.
const LAST: Duration = Duration::from_millis(500);
/// Number of entries that are written in one go.
const BATCH: usize = 32;

/// The folder was lost and has to be opened again.
struct FolderLost;

impl Disk {
    /// Runs the disk of a configuration for as long as the future is polled. `link` reports purges
    /// made while this process was not there, if purges are shared.
    pub(in super::super) async fn supervise(
        self: &Arc<Self>,
        settings: Option<DiskSettings>,
        link: &PurgeLink,
        is_shared: bool,
    ) {
        let before = self.settings.load_full();
        let is_same = match (&before, &settings) {
            (Some(before), Some(after)) => before.folder == after.folder,
            (None, None) => true,
            _ => false,
        };
        if !is_same {
            self.let_go(None).await;
        }
        self.settings.store(settings.clone().map(Arc::new));
        self.is_unused.store(settings.is_none(), Ordering::SeqCst);
        let Some(settings) = settings else {
            self.queue.clear();
            if let Some(metrics) = self.metrics.get() {
                metrics.up.set(0);
                metrics.budget.set(0);
                publish(metrics, (0, 0));
            }
            return pending().await;
        };
        self.metrics().budget.set(gauge(settings.size));
        if !is_same {
            self.set(State::Opening, None);
        }
        loop {
            if self.is_released.load(Ordering::SeqCst) {
                return pending().await;
            }
            let opened = match self.open.load_full() {
                Some(opened) => opened,
                None => match self.take(&settings).await {
                    Ok(opened) => opened,
                    Err(pause) => {
                        sleep(pause).await;
                        continue;
                    }
                },
            };
            let FolderLost = self.run(&opened, &settings, link, is_shared).await;
            self.give_up(&opened).await;
        }
    }

    /// Opens the folder. After a failure, returns the time to wait before the next attempt.
    async fn take(&self, settings: &DiskSettings) -> Result<Arc<OpenFolder>, Duration> {
        if self.epochs.load(Ordering::SeqCst) >= EPOCHS {
            let error = "the folder was opened too often: restart the gateway";
            self.set(State::Down(FolderFault::Io), Some(error.to_owned()));
            return Err(RETRY_INTERVAL);
        }
        let root = settings.folder.clone();
        let Some(outcome) = self.job(move || OpenDisk::take(&root)).await else {
            return Err(RETRY_INTERVAL);
        };
        let open = match outcome {
            Ok(open) => open,
            Err(OpenError::Busy) => {
                self.set(State::Busy, None);
                return Err(TICK);
            }
            Err(error) => {
                let fault = match &error {
                    OpenError::Io { source, .. } => FolderFault::classify(source),
                    OpenError::NotOurs { .. } | OpenError::Busy => FolderFault::Permission,
                };
                self.metrics().errors[fault].inc();
                self.set(State::Down(fault), Some(error.to_string()));
                return Err(RETRY_INTERVAL);
            }
        };
        let opened = self.begin(open, settings);
        if self.is_released.load(Ordering::SeqCst) {
            // It was given away while it was opened. Earlier purges are recorded in it by now.
            self.leave(&opened).await;
            return Err(RETRY_INTERVAL);
        }
        Ok(opened)
    }

    /// Makes the folder available to requests and purges.
    pub(super) fn begin(&self, open: OpenDisk, settings: &DiskSettings) -> Arc<OpenFolder> {
        let epoch = self.epochs.fetch_add(1, Ordering::SeqCst) + 1;
        let opened = Arc::new(OpenFolder {
            open: Arc::new(open),
            epoch: epoch << EPOCH_AT,
        });
        self.is_caught_up.store(false, Ordering::SeqCst);
        let mut waiting = self.deferred.waiting.lock();
        for stamp in waiting.purges.take() {
            if opened.open.heeds(&stamp) {
                opened.note(self.store, &stamp);
            }
        }
        let now = LastFolder {
            folder: settings.folder.clone(),
            journal: opened.open.id(),
            is_complete: false,
        };
        let last = self.last.lock().replace(now);
        let is_as_left = |last: &LastFolder| {
            let is_same = last.folder == settings.folder && last.journal == opened.open.id();
            is_same && last.is_complete
        };
        if !last.as_ref().is_none_or(is_as_left) {
            // In the meantime purges were recorded in another folder, or in none.
            opened.note(self.store, &Stamp::All);
        }
        let position = opened.open.position();
        self.store.observe_disk(opened.epoch | position);
        self.open.store(Some(Arc::clone(&opened)));
        opened
    }

    /// Does all work in a folder until it is lost.
    async fn run(
        self: &Arc<Self>,
        opened: &Arc<OpenFolder>,
        settings: &DiskSettings,
        link: &PurgeLink,
        is_shared: bool,
    ) -> FolderLost {
        let open = &opened.open;
        let began = self.clock.now();
        if is_shared {
            match open.followed() {
                // The link continues from there: a purge that it receives twice does no harm.
                Some(place) if link.position().as_ref() != Some(&place) => link.resume(place),
                Some(_) => {}
                // The purges since then are unknown.
                None => self.forget(),
            }
        }
        // Work that an earlier process has left.
        if self.patiently(self.flush(open)).await && self.health.state() != State::Up {
            self.set(State::CatchingUp, None);
        }
        let (mut is_shrunk, mut turn) = (false, 0_u32);
        let mut tidying: Option<JoinHandle<io::Result<()>>> = None;
        loop {
            if self.is_released.load(Ordering::SeqCst) {
                return pending().await;
            }
            if self.health.is_due() && self.retry(open, settings.size).await.is_err() {
                return FolderLost;
            }
            let passed = self.clock.now().saturating_duration_since(began);
            turn = (turn + 1) % SELDOM;
            let looks_for_deferred = passed < DRAINING || turn == 0;
            self.follow(open, link, is_shared, looks_for_deferred).await;
            let is_known =
                !is_shared || link.has_caught_up() || (passed >= LEASE && link.is_unreachable());
            if is_known && self.health.state() == State::CatchingUp {
                self.is_caught_up.store(true, Ordering::SeqCst);
                self.set(State::Up, None);
            }
            if tidying.as_ref().is_none_or(JoinHandle::is_finished) {
                if let Some(done) = tidying.take() {
                    self.done(done.await.ok());
                }
                // This may take any time: nothing waits for it.
                let tidied = Arc::clone(open);
                if open.begin_to_walk() {
                    tidying = Some(spawn_blocking(move || tidied.walk()));
                } else if open.begin_to_sweep() {
                    tidying = Some(spawn_blocking(move || tidied.sweep()));
                }
            }
            let is_full = self.health.state() == State::Down(FolderFault::Full);
            let is_working = !matches!(self.health.state(), State::Down(_));
            // Other programs may have filled the disk meanwhile.
            is_shrunk &= turn != 0 && !is_full;
            let mut has_more = false;
            if (is_working || is_full) && open.is_walked() && !is_shrunk {
                let outcome = self.shrink(open, settings.size).await;
                is_shrunk = outcome == Some(true);
                has_more = outcome == Some(false);
            }
            if is_working && is_shrunk {
                has_more = self.write(opened, settings.size).await;
            } else if !is_working {
                self.drop_queue();
            }
            let budget = open.last_budget.load(Ordering::Relaxed).min(settings.size);
            self.metrics().budget.set(gauge(budget));
            publish(self.metrics(), open.count());
            if !has_more {
                tokio::select! {
                    () = self.queue.filled() => {}
                    () = self.wake.notified() => {}
                    () = sleep(TICK) => {}
                }
            }
        }
    }

    /// Flushes purges of this process, takes over those of the process before, and notes the
    /// position in the log of purges.
    async fn follow(
        &self,
        open: &Arc<OpenDisk>,
        link: &PurgeLink,
        is_shared: bool,
        looks_for_deferred: bool,
    ) {
        // Everything up to here is recorded, and flushed below.
        let place = link
            .position()
            .filter(|_| is_shared && link.has_caught_up());
        if matches!(self.health.state(), State::Down(_)) {
            return;
        }
        if let Some(place) = place {
            open.follow(place);
        }
        if !self.patiently(self.flush(open)).await {
            return;
        }
        if looks_for_deferred {
            let open = Arc::clone(open);
            self.done(self.job(move || open.take_deferred()).await);
        }
        if open.has_changed() {
            // Entries changed by writes are removed for good, so that the writes need not be
            // remembered.
            let tidied = Arc::clone(open);
            self.done(self.job(move || tidied.tidy()).await);
        }
        // Includes positions that no request has observed.
        self.store.observe_disk(self.epoch() | open.position());
        if open.is_to_be_emptied() {
            let emptied = Arc::clone(open);
            self.done(self.job(move || emptied.empty()).await);
        }
    }

    fn epoch(&self) -> u64 {
        self.open.load().as_ref().map_or(0, |opened| opened.epoch)
    }

    /// Reduces the folder to `size`, or to what the file system has room for. Returns `true` once it is small enough; `None` after an
    /// error.
    async fn shrink(&self, open: &Arc<OpenDisk>, size: u64) -> Option<bool> {
        let shrunk = Arc::clone(open);
        let (outcome, dropped) = self
            .job(move || {
                let mut dropped = Vec::new();
                (shrunk.shrink(size, &mut dropped), dropped)
            })
            .await?;
        self.metrics().dropped_all(&dropped);
        self.done(Some(outcome))
    }

    /// Writes a few of the waiting entries. Returns `true` if there may be more.
    async fn write(self: &Arc<Self>, opened: &Arc<OpenFolder>, size: u64) -> bool {
        let entries: Vec<_> = std::iter::from_fn(|| self.queue.pop())
            .take(BATCH)
            .collect();
        if entries.is_empty() {
            return false;
        }
        let (disk, opened) = (Arc::clone(self), Arc::clone(opened));
        let has_more = entries.len() == BATCH;
        let written = self.job(move || disk.write_all(&opened, &entries, size));
        self.done(written.await);
        has_more
    }

    fn write_all(&self, opened: &OpenFolder, entries: &[Arc<Entry>], size: u64) -> io::Result<()> {
        let metrics = self.metrics();
        let mut outcome = Ok(());
        for entry in entries {
            let mut dropped = Vec::new();
            let written = match opened.position(entry.mark().disk) {
                None => Ok(WriteOutcome::Early),
                Some(_) if outcome.is_err() => Ok(WriteOutcome::Error),
                Some(position) => {
                    // From here on this tier counts the writes that affect the entry; the store
                    // knows those before.
                    let announced = opened.open.announce(entry);
                    let written = if self.store.is_outdated(entry) {
                        Ok(Err(WriteOutcome::Purged))
                    } else {
                        opened.open.write(entry, position, size, &mut dropped)
                    };
                    drop(announced);
                    written.map(|written| match written {
                        Ok(len) => {
                            metrics.bytes_written.inc_by(len);
                            WriteOutcome::Stored
                        }
                        Err(outcome) => outcome,
                    })
                }
            };
            metrics.dropped_all(&dropped);
            metrics.writes[*written.as_ref().unwrap_or(&WriteOutcome::Error)].inc();
            outcome = outcome.and(written.map(drop));
        }
        outcome
    }

    fn drop_queue(&self) {
        while self.queue.pop().is_some() {
            self.metrics().writes[WriteOutcome::Error].inc();
        }
    }

    /// Checks a disk that failed a while ago.
    async fn retry(&self, open: &Arc<OpenDisk>, size: u64) -> Result<(), FolderLost> {
        let probed = Arc::clone(open);
        let outcome = self
            .job(move || {
                if probed.folder.is_there() {
                    probed.probe(size).map(|()| true)
                } else {
                    Ok(false)
                }
            })
            .await;
        match outcome {
            Some(Ok(true)) => {
                self.strikes.store(0, Ordering::Relaxed);
                let state = if self.is_caught_up.load(Ordering::SeqCst) {
                    State::Up
                } else {
                    State::CatchingUp
                };
                self.set(state, None);
                Ok(())
            }
            Some(Ok(false)) => Err(FolderLost),
            Some(Err(error)) => {
                self.failed(&error);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Runs blocking work. If it takes too long, the disk is reported as faulty while this waits:
    /// only this task hangs.
    async fn job<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        self.patiently(spawn_blocking(work)).await.ok()
    }

    async fn patiently<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        if let Ok(done) = timeout(SLOW, &mut work).await {
            return done;
        }
        self.metrics().errors[FolderFault::Slow].inc();
        let error = "no operation completed for 5 s".to_owned();
        self.set(State::Down(FolderFault::Slow), Some(error));
        work.await
    }

    fn done<T>(&self, outcome: Option<io::Result<T>>) -> Option<T> {
        match outcome? {
            Ok(done) => Some(done),
            Err(error) => {
                self.failed(&error);
                None
            }
        }
    }

    /// Closes a folder that is no longer the one that was locked.
    async fn give_up(&self, opened: &Arc<OpenFolder>) {
        self.end(opened);
        let open = Arc::clone(&opened.open);
        let _closed = self.job(move || open.close()).await;
    }

    /// Lets go of the folder for good: another process serves, or this one ends. Waiting entries
    /// are written first, for a short while.
    pub(crate) async fn release(self: &Arc<Self>, link: &PurgeLink) {
        self.is_released.store(true, Ordering::SeqCst);
        self.let_go(Some(link)).await;
    }

    async fn let_go(self: &Arc<Self>, link: Option<&PurgeLink>) {
        let Some(opened) = self.open.load_full() else {
            if link.is_some() {
                self.pass_on().await;
            }
            return;
        };
        let is_up = self.health.state() == State::Up;
        if let Some(place) = link.filter(|link| is_up && link.has_caught_up())
            && let Some(place) = place.position()
        {
            opened.open.follow(place);
        }
        let size = self.settings.load_full().map_or(0, |it| it.size);
        let writing =
            async { while is_up && opened.open.is_walked() && self.write(&opened, size).await {} };
        let _in_time = timeout(LAST, writing).await;
        self.leave(&opened).await;
    }

    /// Leaves purges for the process that has had the folder all the time.
    pub(super) async fn pass_on(&self) {
        if self.defers_for_good() {
            let _in_time = timeout(SLOW, self.leave_deferred()).await;
        }
    }

    fn defers_for_good(&self) -> bool {
        let settings = self.settings.load_full();
        // In another state no process may be there to take them over, or the folder is not ours.
        let Some(settings) = settings.filter(|_| self.health.state() == State::Busy) else {
            return false;
        };
        let mut waiting = self.deferred.waiting.lock();
        let has_no_folder = self.open.load().is_none();
        if has_no_folder {
            waiting.folder = Some(Folder::deferred_in(&settings.folder));
        }
        has_no_folder
    }

    pub(super) async fn leave(&self, opened: &Arc<OpenFolder>) {
        self.end(opened);
        let open = Arc::clone(&opened.open);
        let closing = spawn_blocking(move || {
            // The next process has to know all purges up to here.
            let flushed = open.flush();
            open.close();
            flushed
        });
        match timeout(SLOW, closing).await {
            Ok(Ok(Ok(()))) => {
                if let Some(last) = &mut *self.last.lock() {
                    last.is_complete = true;
                }
            }
            Ok(Ok(Err(error))) => self.metrics().errors[FolderFault::classify(&error)].inc(),
            Ok(Err(_)) | Err(_) => {}
        }
        self.queue.clear();
        if let Some(settings) = self.settings.load_full() {
            self.health.set(&settings.folder, State::Off, None);
            let folder = settings.folder.display();
            info!(folder:%; "cache folder released");
        }
        self.metrics().up.set(0);
    }

    /// Ends the use of a folder: purges go elsewhere from now on.
    pub(super) fn end(&self, opened: &OpenFolder) {
        let mut waiting = self.deferred.waiting.lock();
        self.open.store(None);
        if let Some(last) = &mut *self.last.lock() {
            last.is_complete = opened.open.is_synced(opened.open.noted());
        }
        self.is_caught_up.store(false, Ordering::SeqCst);
        if self.is_released.load(Ordering::SeqCst) {
            // From here on purges are left in files for the next process.
            waiting.folder = Some(opened.open.folder.deferred());
        }
    }
}

fn publish(metrics: &DiskMetrics, (objects, bytes): (usize, u64)) {
    metrics.objects.set(gauge(objects as u64));
    metrics.bytes.set(gauge(bytes));
}

fn gauge(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
