//! Rates and latencies of the last seconds, from the counters that `/metrics` exports.
//!
//! A background task keeps what the counters showed during the last minute. The traffic of a
//! window is the difference between now and the record at its beginning, as in Prometheus' `rate`.
//!
//! Records share what did not change between them, so that routes without requests cost nothing.
//! While the process is quiet nothing is recorded.

mod comparison;
mod figures;
mod quantile;
#[cfg(test)]
mod tests;
mod usual;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use edgeway_base::{
    clock::Clock,
    metrics::{Metrics, SECONDS},
    units::millis,
};
use edgeway_upstreams::UpstreamTraffic;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_with_macros::skip_serializing_none;

pub use self::comparison::Comparison;
pub use self::figures::{TrafficFigures, TrafficPoint};
pub use self::usual::SlowRoute;
use self::{figures::Hour, quantile::quantile, usual::UsualLatencies};
use crate::connection::activity::Activity;

/// Time between two records.
const INTERVAL: Duration = Duration::from_secs(2);
/// Window of rates.
const RATES: Duration = Duration::from_secs(10);
/// Window of latencies, long enough for a 95th percentile of a few requests per second.
const LATENCIES: Duration = Duration::from_mins(1);

/// Recent history of the traffic of a process. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Traffic(Arc<TrafficState>);

#[derive(Debug)]
struct TrafficState {
    metrics: Metrics,
    clock: Clock,
    /// The oldest record first.
    history: Mutex<VecDeque<Arc<Record>>>,
    usual: Mutex<UsualLatencies>,
    hour: Mutex<Hour>,
}

/// Values of the counters at one moment.
#[derive(Debug)]
struct Record {
    at: Instant,
    /// CPU time that the process has used.
    cpu: Duration,
    routes: Counts<RouteCounts>,
    upstreams: Counts<UpstreamCounts>,
}

type Counts<T> = Arc<HashMap<Arc<str>, Arc<T>>>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct RouteCounts {
    requests: u64,
    /// Responses with 4xx, without 499.
    client_errors: u64,
    /// Requests that failed.
    server_errors: u64,
    lookups: u64,
    hits: u64,
    /// Time to the first byte, which neither streams nor slow clients prolong.
    latency: Latency,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct UpstreamCounts {
    attempts: u64,
    failures: u64,
    /// Failures by backend, without zeros: most backends have none.
    failures_of: HashMap<String, u64>,
    latency: Latency,
}

/// Cumulative counts of a histogram with the usual buckets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Latency {
    buckets: Vec<u64>,
    count: u64,
}

/// Traffic of the process in the last seconds.
#[derive(Debug, Default)]
pub struct RecentTraffic {
    /// CPU time per second: 1.0 is one processor in full use.
    pub cpu: f64,
    pub figures: TrafficFigures,
    pub routes: HashMap<String, RouteTraffic>,
    pub upstreams: HashMap<String, UpstreamTraffic>,
    /// Failed attempts of the last minute by upstream and backend, without zeros.
    pub backend_failures: HashMap<String, HashMap<String, u64>>,
}

/// Traffic of a route: rates of the last ten seconds, latencies and hit ratio of the last minute.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RouteTraffic {
    /// Requests since the process began.
    pub requests: u64,
    /// Requests that failed since the process began: with 5xx, or a response that broke off.
    pub server_errors: u64,
    /// Requests per second.
    pub rate: f64,
    /// Responses with 4xx per second, without 499.
    pub client_error_rate: f64,
    /// Requests that failed per second.
    pub server_error_rate: f64,
    /// Share of lookups that the cache served, 0 to 1; `None` without lookups.
    pub hit_ratio: Option<f64>,
    /// Percentiles of the time from the request headers to the first byte, in milliseconds.
    pub p50_ms: Option<f64>,
    pub p95_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    /// Latency, if it is far above the route's own history.
    pub slow: Option<SlowRoute>,
    /// The most frequent error of the last seconds, if some requests failed.
    pub most_errors: Option<String>,
}

impl Traffic {
    pub(super) fn new(metrics: Metrics, clock: Clock) -> Self {
        let traffic = Self(Arc::new(TrafficState {
            metrics,
            clock,
            history: Mutex::default(),
            usual: Mutex::default(),
            hour: Mutex::default(),
        }));
        traffic.record();
        traffic
    }

    /// Records the counters at each interval, until it is dropped.
    pub(super) async fn supervise(self, activity: Arc<Activity>) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // Read before the counters: requests after it are counted when it ends.
            let quiet = activity.quiet();
            let traffic = self.clone();
            // With many routes it takes milliseconds, and this thread has all deadlines.
            let recorded = tokio::task::spawn_blocking(move || traffic.record()).await;
            if let Err(error) = recorded {
                log::warn!(error:%; "cannot record the traffic");
            }
            if let Some(quiet) = quiet {
                activity.sign_after(quiet).await;
                self.catch_up();
                ticks.reset();
            }
        }
    }

    fn record(&self) {
        let last = self.0.history.lock().back().cloned();
        let record = Record::read(&self.0.metrics, self.0.clock.now(), last.as_deref());
        self.0.usual.lock().add(&record.routes, record.at);
        self.push(record);
    }

    /// Repeats the last record for the time since then, in which nothing was counted.
    fn catch_up(&self) {
        let now = self.0.clock.now();
        let last = self.0.history.lock().back().cloned();
        let Some(last) = last else { return };
        let begin = now.checked_sub(LATENCIES).unwrap_or(now);
        let mut time = (last.at + INTERVAL).max(begin);
        while time < now {
            self.push(Record {
                at: time,
                cpu: last.cpu,
                routes: Arc::clone(&last.routes),
                upstreams: Arc::clone(&last.upstreams),
            });
            time += INTERVAL;
        }
    }

    /// Returns the counters of now.
    fn now(&self) -> Record {
        let last = self.0.history.lock().back().cloned();
        Record::read(&self.0.metrics, self.0.clock.now(), last.as_deref())
    }

    fn push(&self, record: Record) {
        let record = Arc::new(record);
        self.0.hour.lock().add(&record);
        let mut history = self.0.history.lock();
        // One record before the longest window stays, to have all of that window.
        while history
            .get(1)
            .is_some_and(|second| record.at.duration_since(second.at) >= LATENCIES)
        {
            history.pop_front();
        }
        history.push_back(record);
    }

    /// Returns the traffic up to now.
    pub fn recent(&self) -> RecentTraffic {
        let now = self.now();
        let (Some(recent), Some(older)) =
            (self.before(now.at, RATES), self.before(now.at, LATENCIES))
        else {
            return RecentTraffic::default();
        };
        let seconds = now.at.duration_since(recent.at).as_secs_f64();
        let rate = |now: u64, then: u64| per_second(now.saturating_sub(then), seconds);
        let usual = self.0.usual.lock();
        let time = now.at;
        let route = |(name, now): (&Arc<str>, &Arc<RouteCounts>)| {
            let then = recent.routes.get(name).cloned().unwrap_or_default();
            let old = older.routes.get(name).cloned().unwrap_or_default();
            let latency = now.latency.since(&old.latency);
            let traffic = RouteTraffic {
                requests: now.requests,
                server_errors: now.server_errors,
                rate: rate(now.requests, then.requests),
                client_error_rate: rate(now.client_errors, then.client_errors),
                server_error_rate: rate(now.server_errors, then.server_errors),
                hit_ratio: share(
                    now.hits.saturating_sub(old.hits),
                    now.lookups.saturating_sub(old.lookups),
                ),
                p50_ms: latency.quantile_ms(0.5),
                p95_ms: latency.quantile_ms(0.95),
                p99_ms: latency.quantile_ms(0.99),
                slow: usual.slow(name, time),
                most_errors: None,
            };
            (name.to_string(), traffic)
        };
        let upstream = |(name, now): (&Arc<str>, &Arc<UpstreamCounts>)| {
            let then = recent.upstreams.get(name).cloned().unwrap_or_default();
            let old = older.upstreams.get(name).cloned().unwrap_or_default();
            let latency = now.latency.since(&old.latency);
            let traffic = UpstreamTraffic {
                rate: rate(now.attempts, then.attempts),
                failure_rate: rate(now.failures, then.failures),
                p95_ms: latency.quantile_ms(0.95),
                p99_ms: latency.quantile_ms(0.99),
            };
            (name.to_string(), traffic)
        };
        let backend_failures = |(name, now): (&Arc<str>, &Arc<UpstreamCounts>)| {
            let then = older.upstreams.get(name).map(|old| &old.failures_of);
            let failures = now.failures_of.iter().map(|(backend, count)| {
                let before = then.and_then(|then| then.get(backend)).unwrap_or(&0);
                (backend.clone(), count.saturating_sub(*before))
            });
            let some = failures.filter(|(_, count)| *count > 0);
            (name.to_string(), some.collect())
        };
        let cpu = now.cpu.saturating_sub(recent.cpu).as_secs_f64();
        RecentTraffic {
            cpu: if seconds > 0.0 { cpu / seconds } else { 0.0 },
            figures: self.figures(&now),
            routes: now.routes.iter().map(route).collect(),
            upstreams: now.upstreams.iter().map(upstream).collect(),
            backend_failures: now.upstreams.iter().map(backend_failures).collect(),
        }
    }

    /// Returns the last record that is at least `window` old, or else the oldest.
    fn before(&self, now: Instant, window: Duration) -> Option<Arc<Record>> {
        let history = self.0.history.lock();
        let is_old = |record: &&Arc<Record>| now.duration_since(record.at) >= window;
        let earlier = history
            .iter()
            .rev()
            .find(is_old)
            .or_else(|| history.front());
        earlier.cloned()
    }
}

impl Record {
    /// Reads the counters, and shares with an earlier record what did not change.
    fn read(metrics: &Metrics, at: Instant, earlier: Option<&Self>) -> Self {
        let mut routes: HashMap<String, RouteCounts> = HashMap::new();
        metrics.each_counter("edgeway_http_requests_total", |series, count| {
            let Some(route) = series.get("route") else {
                return;
            };
            let counts = entry_of(&mut routes, route);
            counts.requests += count;
            match series.get("status").unwrap_or_default().as_bytes() {
                b"499" => {}
                [b'4', ..] => counts.client_errors += count,
                _ => {}
            }
        });
        metrics.each_counter("edgeway_http_failed_total", |series, count| {
            if let Some(route) = series.get("route") {
                entry_of(&mut routes, route).server_errors += count;
            }
        });
        metrics.each_histogram(
            "edgeway_http_first_byte_seconds",
            |series, buckets, count| {
                if let Some(route) = series.get("route") {
                    entry_of(&mut routes, route).latency = Latency::new(buckets, count);
                }
            },
        );
        metrics.each_counter("edgeway_cache_requests_total", |series, count| {
            if let Some(route) = series.get("route") {
                let counts = entry_of(&mut routes, route);
                match series.get("result") {
                    Some("bypass") => {}
                    Some("hit" | "stale" | "revalidated") => {
                        counts.lookups += count;
                        counts.hits += count;
                    }
                    _ => counts.lookups += count,
                }
            }
        });
        let mut upstreams: HashMap<String, UpstreamCounts> = HashMap::new();
        metrics.each_counter("edgeway_upstream_requests_total", |series, count| {
            if let Some(upstream) = series.get("upstream") {
                let counts = entry_of(&mut upstreams, upstream);
                counts.attempts += count;
                // A client that left says nothing about the backend, nor does an old connection.
                if !matches!(series.get("outcome"), Some("ok" | "client_gone" | "stale")) {
                    counts.failures += count;
                    if count > 0
                        && let Some(backend) = series.get("backend")
                    {
                        *entry_of(&mut counts.failures_of, backend) += count;
                    }
                }
            }
        });
        metrics.each_histogram(
            "edgeway_upstream_first_byte_seconds",
            |series, buckets, count| {
                if let Some(upstream) = series.get("upstream") {
                    entry_of(&mut upstreams, upstream).latency = Latency::new(buckets, count);
                }
            },
        );
        let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Self {
            at,
            cpu: Duration::try_from(used).unwrap_or_default(),
            routes: shared(routes, earlier.map(|earlier| &earlier.routes)),
            upstreams: shared(upstreams, earlier.map(|earlier| &earlier.upstreams)),
        }
    }
}

/// Returns `counts` with the entries of an earlier record where they are equal.
fn shared<T: PartialEq>(counts: HashMap<String, T>, earlier: Option<&Counts<T>>) -> Counts<T> {
    let mut is_same = earlier.is_some_and(|earlier| earlier.len() == counts.len());
    let counts = counts.into_iter().map(|(name, counts)| {
        let before = earlier.and_then(|earlier| earlier.get_key_value(name.as_str()));
        match before {
            Some((name, before)) if **before == counts => (Arc::clone(name), Arc::clone(before)),
            Some((name, _)) => {
                is_same = false;
                (Arc::clone(name), Arc::new(counts))
            }
            None => {
                is_same = false;
                (Arc::from(name), Arc::new(counts))
            }
        }
    });
    let counts = counts.collect();
    match earlier {
        Some(earlier) if is_same => Arc::clone(earlier),
        _ => Arc::new(counts),
    }
}

/// Returns the entry of a name, which is allocated only if it is new.
fn entry_of<'a, T: Default>(map: &'a mut HashMap<String, T>, name: &str) -> &'a mut T {
    if !map.contains_key(name) {
        map.insert(name.to_owned(), T::default());
    }
    map.get_mut(name).expect("it was inserted")
}

impl Latency {
    fn new(buckets: &[u64], count: u64) -> Self {
        Self {
            buckets: buckets.to_vec(),
            count,
        }
    }

    /// Returns the counts since an earlier record; all counts if there is none.
    fn since(&self, earlier: &Self) -> Self {
        let earlier_buckets = earlier.buckets.iter().copied().chain(std::iter::repeat(0));
        Self {
            buckets: self
                .buckets
                .iter()
                .zip(earlier_buckets)
                .map(|(now, then)| now.saturating_sub(then))
                .collect(),
            count: self.count.saturating_sub(earlier.count),
        }
    }

    fn quantile_ms(&self, share: f64) -> Option<f64> {
        let seconds = quantile(share, SECONDS, &self.buckets, self.count)?;
        Some(millis(Duration::from_secs_f64(seconds)))
    }
}

#[allow(clippy::cast_precision_loss, reason = "rates show three digits")]
fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 {
        count as f64 / seconds
    } else {
        0.0
    }
}

#[allow(clippy::cast_precision_loss, reason = "shares are shown in per cent")]
fn share(part: u64, all: u64) -> Option<f64> {
    (all > 0).then(|| part as f64 / all as f64)
}
