//! Figures of the whole gateway over time: those of the last minute, and of the last hour.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use serde_with_macros::skip_serializing_none;

use super::{LATENCIES, RATES, Record, RouteCounts, Traffic, per_second, share};

/// Stretch of time of a point of the hour.
const MINUTE: Duration = Duration::from_mins(1);
/// Number of points of the hour.
const MINUTES: usize = 60;

/// Figures of the whole gateway, the oldest point first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrafficFigures {
    /// Rate and errors of the last ten seconds, latency and hits of the last minute.
    pub now: TrafficPoint,
    /// The last minute, a point for each two seconds.
    pub minute: Vec<TrafficPoint>,
    /// The last hour, a point for each whole minute.
    pub hour: Vec<TrafficPoint>,
}

/// Figures of the whole gateway for one stretch of time.
#[skip_serializing_none]
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrafficPoint {
    /// Requests per second.
    pub rate: f64,
    /// Share of requests that failed, 0 to 1; `None` without requests.
    pub error_share: Option<f64>,
    /// 95th percentile of the time to the first byte, in milliseconds.
    pub p95_ms: Option<f64>,
    /// Share of lookups that the cache served, 0 to 1; `None` without lookups.
    pub hit_ratio: Option<f64>,
}

/// Points of the last hour.
#[derive(Debug, Default)]
pub(super) struct Hour {
    points: VecDeque<TrafficPoint>,
    /// Counters at the beginning of the minute that is not over.
    begin: Option<Arc<Record>>,
}

impl Traffic {
    /// Returns the figures up to the counters of `now`.
    pub(super) fn figures(&self, now: &Record) -> TrafficFigures {
        let since = |window| self.before(now.at, window).map(|then| between(&then, now));
        let recent = since(RATES).unwrap_or_default();
        let minute = since(LATENCIES).unwrap_or_default();
        let records: Vec<_> = self.0.history.lock().iter().cloned().collect();
        TrafficFigures {
            now: TrafficPoint {
                rate: recent.rate,
                error_share: recent.error_share,
                ..minute
            },
            minute: records
                .windows(2)
                .map(|pair| between(&pair[0], &pair[1]))
                .collect(),
            hour: self.0.hour.lock().points.iter().copied().collect(),
        }
    }
}

impl Hour {
    /// Adds a point for each minute that is over at the time of `record`.
    pub(super) fn add(&mut self, record: &Arc<Record>) {
        let Some(begin) = &self.begin else {
            self.begin = Some(Arc::clone(record));
            return;
        };
        let passed = record.at.duration_since(begin.at);
        if passed < MINUTE {
            return;
        }
        let minutes = usize::try_from(passed.as_secs() / MINUTE.as_secs()).unwrap_or(MINUTES);
        // Nothing is recorded while the process is quiet: what was counted came before that.
        let end = if minutes > 1 {
            begin.at + MINUTE
        } else {
            record.at
        };
        self.points.push_back(point(begin, record, end));
        let quiet = minutes.min(MINUTES) - 1;
        self.points
            .extend(std::iter::repeat_n(TrafficPoint::default(), quiet));
        let old = self.points.len().saturating_sub(MINUTES);
        self.points.drain(..old);
        self.begin = Some(Arc::clone(record));
    }
}

fn between(older: &Record, newer: &Record) -> TrafficPoint {
    point(older, newer, newer.at)
}

/// Returns the figures of what was counted between two records, up to the time `end`.
fn point(older: &Record, newer: &Record, end: Instant) -> TrafficPoint {
    let mut all = RouteCounts::default();
    for (name, now) in newer.routes.iter() {
        let then = older.routes.get(name);
        if !then.is_some_and(|then| Arc::ptr_eq(now, then)) {
            all.add(&now.since(then));
        }
    }
    TrafficPoint {
        rate: per_second(all.requests, end.duration_since(older.at).as_secs_f64()),
        error_share: share(all.server_errors, all.requests),
        p95_ms: all.latency.quantile_ms(0.95),
        hit_ratio: share(all.hits, all.lookups),
    }
}

impl RouteCounts {
    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.server_errors += other.server_errors;
        self.lookups += other.lookups;
        self.hits += other.hits;
        self.latency.add(&other.latency);
    }
}
