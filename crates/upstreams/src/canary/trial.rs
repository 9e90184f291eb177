//! Release on trial: which visitors get it, and what happened to the requests of both releases.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, header};

use super::{
    CanaryDecision, CanaryOutcome,
    judge::{Both, ReleaseCounts},
    latency::{BUCKETS, Latencies, bucket},
};
use crate::{
    balance::hash64,
    base::{metrics::Metrics as Registry, units::Percent},
    config::model::CanarySplit,
};

/// Release on trial with its share of the visitors. The next step is another trial.
#[derive(Debug)]
pub(crate) struct Trial {
    pub(crate) release: Arc<str>,
    pub(super) share: Percent,
    new: TrialArm,
    current: TrialArm,
}

/// Request whose outcome counts for one of the releases.
#[derive(Clone, Debug)]
pub struct TrialRequest {
    trial: Arc<Trial>,
    /// True if the request goes to the release on trial.
    pub is_new: bool,
}

/// Requests of one release since they were last weighed.
#[derive(Debug)]
struct TrialArm {
    requests: AtomicU64,
    failed: AtomicU64,
    latencies: [AtomicU64; BUCKETS],
    /// Times after which clients left that had no response yet.
    left: [AtomicU64; BUCKETS],
    metrics: Option<ArmMetrics>,
}

edgeway_base::metric_handles! {
    /// Counters of the requests that one release got.
    #[derive(Clone, Debug)]
    struct ArmMetrics(upstream, release) {
        ok { outcome: "ok" },
        failed { outcome: "failed" }: IntCounter = "edgeway_canary_requests_total",
            "Requests that were compared while a release was on trial, by release (`new`, \
             `current`) and outcome.";
    }
}

/// Counters of an upstream's canaries; `None` without `releases`.
#[derive(Clone, Debug)]
pub(crate) struct Metrics(Option<Counters>);

#[derive(Clone, Debug)]
struct Counters {
    new: ArmMetrics,
    current: ArmMetrics,
    verdicts: VerdictCounters,
}

edgeway_base::metric_handles! {
    /// Counters of the ends of trials.
    #[derive(Clone, Debug)]
    struct VerdictCounters(upstream) {
        by_outcome: [IntCounter; verdict: CanaryOutcome::as_str] = "edgeway_canary_verdicts_total",
            "Trials of releases by their end: `promoted`, `rolled_back`, or `ended` by an operator.";
    }
}

impl Metrics {
    pub(crate) fn new(registry: &Registry, upstream: &str, has_releases: bool) -> Self {
        Self(has_releases.then(|| Counters {
            new: ArmMetrics::new(registry, upstream, "new"),
            current: ArmMetrics::new(registry, upstream, "current"),
            verdicts: VerdictCounters::new(registry, upstream),
        }))
    }

    pub(super) fn count(&self, outcome: CanaryOutcome) {
        if let Some(counters) = &self.0 {
            counters.verdicts.by_outcome[outcome].inc();
        }
    }
}

impl TrialArm {
    fn new(metrics: Option<ArmMetrics>) -> Self {
        Self {
            requests: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            latencies: std::array::from_fn(|_| AtomicU64::new(0)),
            left: std::array::from_fn(|_| AtomicU64::new(0)),
            metrics,
        }
    }

    fn take(&self) -> ReleaseCounts {
        let take = |counter: &AtomicU64| counter.swap(0, Ordering::Relaxed);
        // Failures first: a request that ends meanwhile may count as a request only.
        let failed = take(&self.failed);
        ReleaseCounts {
            latencies: Latencies(self.latencies.each_ref().map(take)),
            left: Latencies(self.left.each_ref().map(take)),
            requests: take(&self.requests).max(failed),
            failed,
        }
    }
}

impl Trial {
    pub(super) fn new(decision: &CanaryDecision, metrics: &Metrics) -> Arc<Self> {
        let counters = metrics.0.as_ref();
        Arc::new(Self {
            release: Arc::clone(&decision.release),
            share: decision.share,
            new: TrialArm::new(counters.map(|counters| counters.new.clone())),
            current: TrialArm::new(counters.map(|counters| counters.current.clone())),
        })
    }

    /// Chooses one of the two releases for a request.
    pub(crate) fn place(
        self: &Arc<Self>,
        current: &Arc<str>,
        by: CanarySplit,
        client: IpAddr,
        headers: &HeaderMap,
    ) -> (Arc<str>, TrialRequest) {
        let position = match by {
            CanarySplit::Client => visitor_position(&self.release, client, headers),
            CanarySplit::Request => fastrand::f64(),
        };
        let is_new = position * 100.0 < self.share.0;
        let release = if is_new { &self.release } else { current };
        let request = TrialRequest {
            trial: Arc::clone(self),
            is_new,
        };
        (Arc::clone(release), request)
    }

    /// Returns the requests that ended since the last call.
    pub(super) fn take(&self) -> Both {
        Both {
            new: self.new.take(),
            current: self.current.take(),
        }
    }
}

impl TrialRequest {
    fn arm(&self) -> &TrialArm {
        if self.is_new {
            &self.trial.new
        } else {
            &self.trial.current
        }
    }

    /// Counts a request whose client left `after` this time without a response. That is no failure,
    /// but its latency would have been longer.
    pub fn left(&self, after: Duration) {
        self.arm().left[bucket(after)].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the request, which has ended. `latency` is the time to the headers of the backend's
    /// response, if one came.
    pub fn ended(&self, is_failed: bool, latency: Option<Duration>) {
        let arm = self.arm();
        arm.requests.fetch_add(1, Ordering::Relaxed);
        if is_failed {
            arm.failed.fetch_add(1, Ordering::Relaxed);
        } else if let Some(latency) = latency {
            // A failure may be fast, and counts as one.
            arm.latencies[bucket(latency)].fetch_add(1, Ordering::Relaxed);
        }
        if let Some(metrics) = &arm.metrics {
            let counter = if is_failed {
                &metrics.failed
            } else {
                &metrics.ok
            };
            counter.inc();
        }
    }
}

/// Returns the name of a trial that a text stands for.
pub fn trial_name(text: &str) -> String {
    format!("{:016x}", hash64(text.as_bytes()))
}

/// Returns the position of a visitor between 0 and 1: the same on every gateway and in every step
/// of a trial, which has a name, and another one in the next trial.
#[expect(clippy::cast_precision_loss, reason = "53 bits are kept")]
pub fn visitor_position(trial: &str, client: IpAddr, headers: &HeaderMap) -> f64 {
    let agent = headers.get(header::USER_AGENT);
    let agent = agent.map_or(&[][..], |agent| agent.as_bytes());
    let mut key = Vec::with_capacity(24 + trial.len() + agent.len());
    match client.to_canonical() {
        IpAddr::V4(ip) => key.extend(ip.octets()),
        // A household has a network of this size, and its devices change addresses within it.
        IpAddr::V6(ip) => key.extend(&ip.octets()[..8]),
    }
    key.extend(trial.as_bytes());
    key.extend(agent);
    (hash64(&key) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use http::HeaderValue;

    use super::*;

    fn headers(agent: &'static str) -> HeaderMap {
        [(header::USER_AGENT, HeaderValue::from_static(agent))]
            .into_iter()
            .collect()
    }

    #[test]
    fn visitors_are_spread_evenly_and_keep_their_place() {
        let headers = headers("Firefox");
        for share in [0.01, 0.05, 0.5] {
            let is_in = |number: &u32| {
                visitor_position("next", Ipv4Addr::from_bits(*number).into(), &headers) < share
            };
            let count = (0..100_000_u32).filter(is_in).count();
            let expected = 100_000.0 * share;
            let off = (f64::from(u32::try_from(count).unwrap()) - expected).abs();
            assert!(off < 5.0 * expected.sqrt(), "{share}: {count}");
        }
        // Another release has other visitors first.
        let both = (0..10_000_u32).filter(|number| {
            let client = Ipv4Addr::from_bits(*number).into();
            visitor_position("a", client, &headers) < 0.1
                && visitor_position("b", client, &headers) < 0.1
        });
        assert!(both.count() < 200);
    }

    #[test]
    fn a_network_of_ipv6_is_one_visitor() {
        let headers = headers("Firefox");
        let position = |text: &str| visitor_position("next", text.parse().unwrap(), &headers);
        assert!((position("2001:db8::1") - position("2001:db8::ffff:2")).abs() < f64::EPSILON);
        assert!((position("2001:db8::1") - position("2001:db8:0:1::1")).abs() > f64::EPSILON);
        assert!((position("192.0.2.1") - position("::ffff:192.0.2.1")).abs() < f64::EPSILON);
    }
}
