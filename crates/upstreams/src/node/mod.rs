//! Load that a Node app reports about itself with the module `edgeway-node`, and the share of the
//! requests that a backend deserves by it.
//!
//! Invariant: a report only moves requests between backends. Whatever it contains, it neither takes
//! the last backend out of rotation nor lets one have more than `least_conn` would give it alone.

mod report;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use derive_more::Display;
use serde::{Deserialize, Serialize};

pub use self::report::REPORT_HEADER;
pub(super) use self::report::{MAX_BYTES, NodeReport};

/// Last report of an app, smoothed, and the time since which it is silent.
///
/// Each word is a value that was once computed, so readers need no lock; two concurrent reports may
/// count as one.
#[derive(Debug, Default)]
pub(super) struct NodeState {
    /// Time of the last report, in nanoseconds of the upstream's epoch; 0 before the first.
    at: AtomicU64,
    /// Smoothed [`Load`].
    load: AtomicU64,
    heap_bytes: AtomicU64,
    rss_bytes: AtomicU64,
    /// Time at which the first of the present requests was sent; only with `balance: node`.
    waiting_since: AtomicU64,
}

/// Status of an app that reports.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Display)]
#[serde(default)]
#[display(
    "loop {:.0} % busy, {delay_ms:.0}ms late; heap {} MiB, rss {} MiB",
    utilisation * 100.0,
    mebibytes(*heap_bytes),
    mebibytes(*rss_bytes)
)]
pub struct NodeStatus {
    /// Part of the time in which the event loop was busy, 0 to 1, smoothed.
    pub utilisation: f64,
    /// Longest delay of the event loop, in milliseconds, smoothed.
    pub delay_ms: f64,
    pub heap_bytes: u64,
    pub rss_bytes: u64,
    /// Time since the last report, in seconds.
    pub age: f64,
}

impl NodeStatus {
    /// Age up to which a report is about the process that runs now. An app that has ended sends no
    /// other.
    pub const FRESH: Duration = Duration::from_secs(10);

    /// Returns true if the report is about the process that runs now.
    pub fn is_fresh(&self) -> bool {
        (0.0..Self::FRESH.as_secs_f64()).contains(&self.age)
    }
}

/// Converts to mebibytes, rounded.
pub(super) fn mebibytes(bytes: u64) -> u64 {
    bytes.saturating_add(1 << 19) >> 20
}

/// Utilisation in millionths and delay in microseconds, together one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Load {
    utilisation: u32,
    delay: u32,
}

/// Full share, in thousandths.
pub(super) const FULL_SHARE: u32 = 1000;
/// Share of a backend that is as busy as can be: enough requests to notice that it recovers.
const LEAST_SHARE: u32 = 20;
/// Share of a backend that does not respond at all. The requests that it has are the test.
const SILENT_SHARE: u32 = 5;

/// Utilisation, in millionths, up to which a backend has its full share.
const UNHURRIED: u32 = 800_000;
/// Delay, in microseconds, up to which a backend has its full share. A busy machine delays any
/// process by some milliseconds.
const PROMPT: u32 = 50_000;

/// A millisecond in nanoseconds.
const MILLI: u64 = 1_000_000;
/// Time after which a report weighs half as much as the next one.
const MEMORY: u64 = 500 * MILLI;
/// Silence with requests in flight that costs nothing, and that at which the share is the least.
const QUIET: u64 = 300 * MILLI;
const SILENT: u64 = 1000 * MILLI;
/// Age without requests at which a report begins to be forgotten, and is forgotten.
const AGEING: u64 = 1000 * MILLI;
const FORGOTTEN: u64 = 5000 * MILLI;

impl NodeState {
    /// Records a report. A load that rises counts at least half at once, one that falls gradually.
    pub(super) fn observe(&self, report: &NodeReport, now: u64) {
        let before = self.at.load(Ordering::Relaxed);
        let new = Load {
            utilisation: u32::from(report.utilisation) * 1000,
            delay: report.delay_ms * 1000,
        };
        let load = if before == 0 {
            new
        } else {
            let old = Load::unpack(self.load.load(Ordering::Relaxed));
            old.smoothed(new, now.saturating_sub(before))
        };
        self.load.store(load.pack(), Ordering::Relaxed);
        self.heap_bytes.store(report.heap_bytes, Ordering::Relaxed);
        self.rss_bytes.store(report.rss_bytes, Ordering::Relaxed);
        self.at.store(now.max(1), Ordering::Relaxed);
    }

    /// Records a response without a report. The module reports to each gateway ten times a second,
    /// so an app that responds without one for long does not have it any more.
    pub(super) fn responded_without_report(&self, now: u64) {
        let reported = self.at.load(Ordering::Relaxed);
        if reported != 0 && now.saturating_sub(reported) > FORGOTTEN {
            self.at.store(0, Ordering::Relaxed);
        }
    }

    /// Returns true if the app has ever reported.
    pub(super) fn reports(&self) -> bool {
        self.at.load(Ordering::Relaxed) != 0
    }

    /// Records that a request was sent while no other was in flight.
    pub(super) fn began_to_wait(&self, now: u64) {
        self.waiting_since.store(now, Ordering::Relaxed);
    }

    /// Returns the share of the requests, in thousandths, that the backend deserves. `waits` is
    /// true if it has requests in flight. A backend that never reported has its full share.
    pub(super) fn share(&self, waits: bool, now: u64) -> u32 {
        let at = self.at.load(Ordering::Relaxed);
        if at == 0 {
            return FULL_SHARE;
        }
        let reported = Load::unpack(self.load.load(Ordering::Relaxed)).share();
        // Without requests there are no reports, and an old one says little about the present.
        let since = self.waiting_since.load(Ordering::Relaxed);
        let idle_until = if waits { since } else { now };
        let idle = idle_until.saturating_sub(at);
        let aged = between(idle, (AGEING, reported), (FORGOTTEN, FULL_SHARE));
        if !waits {
            return aged;
        }
        let silence = now.saturating_sub(at.max(since));
        aged.min(between(
            silence,
            (QUIET, FULL_SHARE),
            (SILENT, SILENT_SHARE),
        ))
    }

    /// Returns the status; `None` before the first report.
    pub(super) fn status(&self, now: u64) -> Option<NodeStatus> {
        let reported = self.at.load(Ordering::Relaxed);
        if reported == 0 {
            return None;
        }
        let load = Load::unpack(self.load.load(Ordering::Relaxed));
        let age = Duration::from_nanos(now.saturating_sub(reported)).as_secs_f64();
        Some(NodeStatus {
            utilisation: (f64::from(load.utilisation) / 1e3).round() / 1e3,
            delay_ms: (f64::from(load.delay) / 1e2).round() / 1e1,
            heap_bytes: self.heap_bytes.load(Ordering::Relaxed),
            rss_bytes: self.rss_bytes.load(Ordering::Relaxed),
            age: (age * 1e3).round() / 1e3,
        })
    }
}

impl Load {
    fn unpack(word: u64) -> Self {
        Self {
            // Neither half is larger than its type.
            utilisation: u32::try_from(word >> 32).unwrap_or(u32::MAX),
            delay: u32::try_from(word & u64::from(u32::MAX)).unwrap_or(u32::MAX),
        }
    }

    fn pack(self) -> u64 {
        u64::from(self.utilisation) << 32 | u64::from(self.delay)
    }

    /// Returns the mean of this load and one that was reported `elapsed` nanoseconds later.
    fn smoothed(self, new: Self, elapsed: u64) -> Self {
        let elapsed = elapsed.min(MEMORY * 1000);
        let mean = |old: u32, new: u32| {
            // Of 1024 parts.
            let fresh = elapsed * 1024 / (elapsed + MEMORY);
            let fresh = if new > old { fresh.max(512) } else { fresh };
            let sum = u64::from(old) * (1024 - fresh) + u64::from(new) * fresh;
            u32::try_from(sum / 1024).unwrap_or(u32::MAX)
        };
        Self {
            utilisation: mean(self.utilisation, new.utilisation),
            delay: mean(self.delay, new.delay),
        }
    }

    /// Returns the share for this load, from [`LEAST_SHARE`] to [`FULL_SHARE`].
    fn share(self) -> u32 {
        let idle = 1_000_000_u32.saturating_sub(self.utilisation);
        let unhurried = idle.min(1_000_000 - UNHURRIED);
        // Twice the delay is half the share, as with a queue in front of a single server.
        let by_delay =
            u64::from(FULL_SHARE) * u64::from(PROMPT) / u64::from(self.delay.max(PROMPT));
        let both = by_delay * u64::from(unhurried) / u64::from(1_000_000 - UNHURRIED);
        u32::try_from(both).map_or(FULL_SHARE, |share| share.clamp(LEAST_SHARE, FULL_SHARE))
    }
}

/// Returns the value at `time` on the line between two points; beyond them that of the nearer one.
fn between(time: u64, (from, first): (u64, u32), (to, last): (u64, u32)) -> u32 {
    let part = time.clamp(from, to) - from;
    let (first, last) = (u64::from(first), u64::from(last));
    let moved = last.abs_diff(first) * part / (to - from);
    let value = if last > first {
        first + moved
    } else {
        first - moved
    };
    u32::try_from(value).unwrap_or(FULL_SHARE)
}

#[cfg(test)]
mod tests;
