//! Requests that a backend has not responded to since it was last heard of.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{eject::nanos, latency::Latency};
use crate::base::units::millis;

/// Silence that every app needs now and then, in seconds.
const USUAL_SILENCE: f64 = 1.0;

/// Silence of a backend. Each word is a value of one moment: two requests at the same time may count
/// as one, which only delays the moment at which the silence shows.
#[derive(Debug, Default)]
pub(super) struct Silence {
    /// Requests that were sent since the backend was last heard of.
    requests: AtomicU32,
    /// Time at which the first of them was sent, in nanoseconds of the upstream's epoch.
    since: AtomicU64,
    /// Average time to the first byte at that time, in nanoseconds; 0 if it was not known.
    usual: AtomicU64,
}

/// Silence of a backend that has requests in flight.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SilenceStatus {
    /// Requests that it has not responded to.
    pub requests: u32,
    /// Time since the first of them was sent.
    pub seconds: f64,
    /// Average time to the first byte before, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usual_ms: Option<f64>,
}

impl Silence {
    /// Records that the whole of a request was sent.
    #[inline]
    pub(super) fn asked(&self, latency: &Latency, now: u64) {
        if self.requests.fetch_add(1, Ordering::Relaxed) == 0 {
            let usual = latency.recent(now).map_or(0, nanos);
            self.usual.store(usual, Ordering::Relaxed);
            self.since.store(now, Ordering::Relaxed);
        }
    }

    /// Records that the backend responds, or refuses a connection.
    #[inline]
    pub(super) fn heard(&self) {
        self.requests.store(0, Ordering::Relaxed);
    }

    /// Returns the silence of a backend that has requests in flight.
    pub(super) fn status(&self, now: u64) -> Option<SilenceStatus> {
        let requests = self.requests.load(Ordering::Relaxed);
        let since = self.since.load(Ordering::Relaxed);
        let usual = Duration::from_nanos(self.usual.load(Ordering::Relaxed));
        let seconds = Duration::from_nanos(now.saturating_sub(since)).as_secs_f64();
        (requests > 0 && seconds >= USUAL_SILENCE).then(|| SilenceStatus {
            requests,
            seconds,
            usual_ms: Some(millis(usual)).filter(|_| !usual.is_zero()),
        })
    }
}
