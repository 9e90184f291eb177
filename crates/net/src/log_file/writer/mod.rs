//! The buffers that threads write log lines into, and the thread that drains them.
//!
//! Each worker thread has its own buffer, so its lock is free except while the log's thread takes
//! the content. A worker waits for that instant, because the lines of one thread keep their order.
//! While lines arrive, the log's thread checks every 50 ms, or when a buffer is half full of one
//! write's worth; after a second without lines it sleeps until the next line wakes it.

#[cfg(test)]
pub(super) mod testkit;

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, LazyLock, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, Thread},
    time::Duration,
};

use edgeway_base::{
    clock::Clock,
    lanes::Lanes,
    metrics::{IntCounter, IntGauge, Metrics},
};
use log::{error, info, warn};
use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

use super::{
    output::{Batch, LineCounts, Output, Target},
    rotation::RotationPolicy,
    stamp::TimestampCache,
};

/// Bytes that may be pending for one target, over all buffers.
const CAPACITY: usize = 8 * 1024 * 1024;

/// Buffer size that wakes the thread.
const WAKE_THRESHOLD: usize = 64 * 1024;

/// Larger buffers release their memory once they are written.
const MAX_KEPT_CAPACITY: usize = 4 * WAKE_THRESHOLD;

/// Time during which lines accumulate before they are written.
const GATHER: Duration = Duration::from_millis(50);

/// Number of checks without a line until the thread sleeps.
const IDLE_CHECKS: u32 = 20;

/// Time between two attempts to write to a failing target.
const RETRY: Duration = Duration::from_secs(1);

/// A kind of log: its name in messages, and the names and help texts of its metrics.
pub struct LogKind {
    /// Name such as `access log`.
    pub name: &'static str,
    pub written: (&'static str, &'static str),
    pub dropped: (&'static str, &'static str),
    pub failing: (&'static str, &'static str),
}

/// Metrics of one kind of log.
#[derive(Clone)]
pub struct LogMetrics {
    kind: &'static str,
    written: IntCounter,
    dropped: IntCounter,
    failing: IntGauge,
}

impl LogMetrics {
    pub fn new(metrics: &Metrics, kind: &LogKind) -> Self {
        Self {
            kind: kind.name,
            written: metrics.counter(kind.written.0, kind.written.1, &[]),
            dropped: metrics.counter(kind.dropped.0, kind.dropped.1, &[]),
            failing: metrics.gauge(kind.failing.0, kind.failing.1, &[]),
        }
    }
}

/// Kind of log and target, which identify a writer.
type Key = (&'static str, Target);

/// The writers of this process. Each reload compiles the logging filters again, one for each route;
/// open files must outlive that and be shared.
static WRITERS: LazyLock<Mutex<HashMap<Key, Arc<Shared>>>> = LazyLock::new(Mutex::default);

/// A log that cannot be written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogFailure {
    /// Kind, such as `access log`.
    pub log: String,
    /// Path of the file, or name of the socket.
    pub target: String,
    pub error: String,
    /// Lines of all logs of this kind that were dropped since the process began.
    pub dropped: u64,
}

/// Returns the logs that cannot be written, sorted by kind and target.
pub fn failing() -> Vec<LogFailure> {
    let writers = WRITERS.lock();
    let failing = writers.iter().filter_map(|((kind, target), shared)| {
        Some(LogFailure {
            log: (*kind).to_owned(),
            target: target.to_string(),
            error: shared.error.lock().clone()?,
            dropped: shared.counts.dropped.get(),
        })
    });
    let mut failing: Vec<_> = failing.collect();
    failing.sort_by(|a, b| (&a.log, &a.target).cmp(&(&b.log, &b.target)));
    failing
}

/// Opens every log file again, after another program has moved it. Does not block.
pub fn reopen() {
    for shared in WRITERS.lock().values() {
        shared.reopen.store(true, Ordering::Release);
        shared.wake();
    }
}

/// Waits until every line logged before this call is written, at most `deadline`; returns true if
/// they all were. Blocks the calling thread.
pub fn flush(deadline: Duration) -> bool {
    let end = Clock::machine().now() + deadline;
    let all: Vec<Arc<Shared>> = WRITERS.lock().values().cloned().collect();
    let wanted: Vec<u64> = all.iter().map(|shared| shared.ask_flush()).collect();
    all.iter()
        .zip(wanted)
        .all(|(shared, wanted)| shared.wait_flushed(wanted, end))
}

/// State shared by logging threads and the log's thread.
struct Shared {
    lanes: Lanes<Buffer>,
    /// Capacity of one lane in bytes.
    lane_capacity: usize,
    counts: LogMetrics,
    thread: OnceLock<Thread>,
    /// Set while the thread waits to be woken. It is set before the thread checks one last time, so
    /// a line that this check misses finds the flag set.
    is_asleep: AtomicBool,
    reopen: AtomicBool,
    /// Number of users, changed only under the lock of [`WRITERS`].
    users: AtomicUsize,
    /// Rotation requested by the last user to join, until the thread takes it.
    rotation: Mutex<Option<RotationPolicy>>,
    /// Last error, while the target fails.
    error: Mutex<Option<String>>,
    flush_wanted: AtomicU64,
    flushed: Mutex<u64>,
    flushed_changed: Condvar,
    retry: Duration,
}

#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    /// Number of lines in `bytes`.
    lines: u64,
    stamp: TimestampCache,
}

/// A handle on the writer of a target; the thread ends when the last handle is dropped and all
/// lines are written.
pub struct WriterHandle {
    shared: Arc<Shared>,
}

impl WriterHandle {
    /// Joins the writer of `target`, starting it if necessary. The writer adopts the caller's
    /// rotation.
    pub fn join(
        target: &Target,
        rotation: RotationPolicy,
        clock: &Clock,
        counts: &LogMetrics,
    ) -> Self {
        Self::join_sized(target, rotation, clock, counts, CAPACITY, RETRY)
    }

    pub fn join_sized(
        target: &Target,
        rotation: RotationPolicy,
        clock: &Clock,
        counts: &LogMetrics,
        capacity: usize,
        retry: Duration,
    ) -> Self {
        let mut writers = WRITERS.lock();
        let key = (counts.kind, target.clone());
        let shared = writers.entry(key).or_insert_with(|| {
            let shared = Arc::new(Shared::new(counts.clone(), capacity, retry));
            *shared.rotation.lock() = Some(rotation.clone());
            WriterThread::start(&shared, target, clock);
            shared
        });
        shared.users.fetch_add(1, Ordering::Relaxed);
        *shared.rotation.lock() = Some(rotation);
        Self {
            shared: Arc::clone(shared),
        }
    }

    /// Adds one line, or counts it as dropped.
    pub fn push(&self, put: impl FnOnce(&mut Vec<u8>, &mut TimestampCache)) {
        let shared = &*self.shared;
        let mut buffer = shared.lanes.own();
        let before = buffer.bytes.len();
        if before >= shared.lane_capacity {
            drop(buffer);
            shared.counts.dropped.inc();
            return;
        }
        let held = &mut *buffer;
        put(&mut held.bytes, &mut held.stamp);
        held.lines += 1;
        let is_full_now = before < WAKE_THRESHOLD && held.bytes.len() >= WAKE_THRESHOLD;
        drop(buffer);
        if is_full_now || shared.is_asleep.load(Ordering::Relaxed) {
            shared.wake();
        }
    }
}

impl Drop for WriterHandle {
    fn drop(&mut self) {
        let _writers = WRITERS.lock();
        if self.shared.users.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.shared.wake();
        }
    }
}

impl Shared {
    fn new(counts: LogMetrics, capacity: usize, retry: Duration) -> Self {
        let lanes = Lanes::new(Buffer::default);
        Self {
            lane_capacity: (capacity / lanes.len()).max(1),
            lanes,
            counts,
            thread: OnceLock::new(),
            is_asleep: AtomicBool::new(false),
            reopen: AtomicBool::new(false),
            users: AtomicUsize::new(0),
            rotation: Mutex::new(None),
            error: Mutex::new(None),
            flush_wanted: AtomicU64::new(0),
            flushed: Mutex::new(0),
            flushed_changed: Condvar::new(),
            retry,
        }
    }

    fn wake(&self) {
        self.is_asleep.store(false, Ordering::Relaxed);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    fn ask_flush(&self) -> u64 {
        let wanted = self.flush_wanted.fetch_add(1, Ordering::AcqRel) + 1;
        self.wake();
        wanted
    }

    fn wait_flushed(&self, wanted: u64, end: std::time::Instant) -> bool {
        let mut flushed = self.flushed.lock();
        while *flushed < wanted {
            if self
                .flushed_changed
                .wait_until(&mut flushed, end)
                .timed_out()
            {
                return *flushed >= wanted;
            }
        }
        true
    }
}

/// State of the log's thread.
struct WriterThread {
    shared: Arc<Shared>,
    target: Target,
    output: Output,
    batch: Batch,
    /// Kind and code of the last error of the target, while it fails.
    failing: Option<(io::ErrorKind, Option<i32>)>,
}

impl WriterThread {
    fn start(shared: &Arc<Shared>, target: &Target, clock: &Clock) {
        let worker = Self {
            shared: Arc::clone(shared),
            target: target.clone(),
            output: Output::new(shared.counts.kind, target.clone(), clock.clone()),
            batch: Batch::default(),
            failing: None,
        };
        let started = thread::Builder::new()
            .name(shared.counts.kind.replace(' ', "-"))
            .spawn(move || worker.run());
        match started {
            Ok(handle) => {
                // Set only here, once, right after the queue was made.
                let _first = shared.thread.set(handle.thread().clone());
            }
            Err(error) => {
                let kind = shared.counts.kind;
                error!(file:% = target, error:%; "cannot start the {kind}'s thread: its lines are dropped");
            }
        }
    }

    fn run(mut self) {
        let mut idle_looks = 0;
        loop {
            let wanted = self.shared.flush_wanted.load(Ordering::Acquire);
            if self.shared.reopen.swap(false, Ordering::AcqRel) {
                self.reopen();
            }
            if let Some(rotation) = self.shared.rotation.lock().take() {
                self.output.set_rotation(rotation);
            }
            let had_lines = self.empty_lanes();
            if self.failing.is_none() {
                self.report_flushed(wanted);
            }
            idle_looks = if had_lines { 0 } else { idle_looks + 1 };
            if self.failing.is_some() {
                if self.retire() {
                    return;
                }
                thread::park_timeout(self.shared.retry);
            } else if idle_looks < IDLE_CHECKS && self.shared.users.load(Ordering::Relaxed) > 0 {
                thread::park_timeout(GATHER);
            } else if self.retire() {
                return;
            } else {
                self.sleep();
                idle_looks = 0;
            }
        }
    }

    fn reopen(&mut self) {
        match self.output.reopen(&mut self.batch) {
            Ok(()) => info!(file:% = self.target; "{} reopened", self.shared.counts.kind),
            Err(error) => self.fail(&error),
        }
    }

    /// Writes the contents of the lanes; returns true if there were any.
    fn empty_lanes(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut had_lines = !self.batch.is_done();
        for lane in shared.lanes.iter() {
            if !self.write_batch() {
                return true;
            }
            if self.batch.capacity() > MAX_KEPT_CAPACITY {
                self.batch = Batch::default();
            }
            let mut lane = lane.lock();
            let Buffer { bytes, lines, .. } = &mut *lane;
            self.batch.refill(bytes, lines);
            drop(lane);
            had_lines |= !self.batch.is_done();
        }
        self.write_batch();
        had_lines
    }

    /// Writes the batch; returns true if it is complete.
    fn write_batch(&mut self) -> bool {
        if self.batch.is_done() {
            return true;
        }
        let mut lines = LineCounts::default();
        let result = self.output.write(&mut self.batch, &mut lines);
        self.shared.counts.written.inc_by(lines.written);
        self.shared.counts.dropped.inc_by(lines.lost);
        match result {
            Ok(()) => {
                if self.failing.take().is_some() {
                    self.shared.counts.failing.dec();
                    *self.shared.error.lock() = None;
                    let kind = self.shared.counts.kind;
                    info!(file:% = self.target; "the {kind} can be written again");
                }
                true
            }
            // A full pipe: its reader is slow, which is not a failure.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                thread::park_timeout(GATHER);
                false
            }
            Err(error) => {
                self.fail(&error);
                false
            }
        }
    }

    /// Records a failure, and logs it if it is new.
    fn fail(&mut self, error: &io::Error) {
        let failure = (error.kind(), error.raw_os_error());
        if self.failing != Some(failure) {
            let kind = self.shared.counts.kind;
            warn!(file:% = self.target, error:%; "cannot write the {kind}: lines are buffered, then dropped");
        }
        *self.shared.error.lock() = Some(error.to_string());
        if self.failing.replace(failure).is_none() {
            self.shared.counts.failing.inc();
        }
    }

    fn report_flushed(&self, wanted: u64) {
        if !self.batch.is_done() {
            return;
        }
        let mut flushed = self.shared.flushed.lock();
        if *flushed < wanted {
            *flushed = wanted;
            self.shared.flushed_changed.notify_all();
        }
    }

    /// Removes this writer if it has no users left; returns true if it did. Lines that cannot be
    /// written then are lost, and counted.
    fn retire(&mut self) -> bool {
        let mut writers = WRITERS.lock();
        if self.shared.users.load(Ordering::Relaxed) > 0 {
            return false;
        }
        // No user can join, nor add a line, while the writers are locked.
        let mut is_empty = self.batch.is_done();
        for lane in self.shared.lanes.iter() {
            is_empty &= lane.lock().bytes.is_empty();
        }
        if !is_empty && self.failing.is_none() {
            return false;
        }
        writers.remove(&(self.shared.counts.kind, self.target.clone()));
        drop(writers);
        let mut lost = self.batch.lines;
        for lane in self.shared.lanes.iter() {
            lost += lane.lock().lines;
        }
        self.shared.counts.dropped.inc_by(lost);
        if self.failing.is_some() {
            self.shared.counts.failing.dec();
        }
        // Releases all flushes, so that none waits for a writer that is gone.
        *self.shared.flushed.lock() = u64::MAX;
        self.shared.flushed_changed.notify_all();
        true
    }

    /// Sleeps until another thread wakes it.
    fn sleep(&mut self) {
        self.shared.is_asleep.store(true, Ordering::Relaxed);
        // No thread noticed a line added before the store, so check once more. The lane's lock
        // orders this: a line added after the check sees the store.
        if !self.empty_lanes() && self.shared.is_asleep.load(Ordering::Relaxed) {
            thread::park();
        }
        self.shared.is_asleep.store(false, Ordering::Relaxed);
    }
}
