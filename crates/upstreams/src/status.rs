//! Status of an upstream for the admin API and `/metrics`: plain data of one moment.

use std::{borrow::Cow, collections::BTreeSet, sync::atomic::Ordering, time::Duration};

use serde::{Deserialize, Serialize};
use serde_with_macros::skip_serializing_none;

use super::{
    MemoryExcess, NodeStatus, ReleaseSettings, RestartAt, Scale, Upstream,
    backend::Backend,
    canary::{CanaryStatus, CanaryVerdict},
    eject::nanos,
    health::ProbeReport,
    metrics::BackendLatency,
    silence::SilenceStatus,
};
use crate::base::units::millis;

/// Status of an upstream at one moment: what the admin API sends and the command line reads.
///
/// A field that the sender does not know has its default, so that releases understand each other.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpstreamStatus {
    pub name: String,
    pub balance: String,
    /// Protocol: `http1` or `h2`.
    pub protocol: Cow<'static, str>,
    /// Name in the backends' certificates, if the upstream uses TLS.
    pub tls: Option<String>,
    pub backends: Vec<BackendStatus>,
    /// Settings by which `edgeway scale` starts and stops the apps.
    pub scale: Option<Scale>,
    /// Settings by which `edgeway deploy` starts and stops releases.
    pub releases: Option<ReleaseSettings>,
    /// Release that gets the requests that belong to no other.
    pub current_release: Option<String>,
    /// Release on trial.
    pub canary: Option<CanaryStatus>,
    /// Verdict on the last trial.
    pub canary_verdict: Option<CanaryVerdict>,
    /// Releases that the gateway has read, if the upstream has releases.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub known_releases: Vec<String>,
    /// Id of the process that ends replaced releases.
    pub retiring: Option<u32>,
    /// Memory at which `edgeway rollout --watch` restarts the apps.
    pub restart_at: Option<RestartAt>,
    /// Attempts of the last seconds, if they are recorded.
    pub traffic: Option<UpstreamTraffic>,
    /// Requests that wait for a permit.
    pub queue: u64,
    /// True if all backends are out of rotation, so that all are used.
    pub panic: bool,
}

impl UpstreamStatus {
    /// Returns the replaced releases that still have instances.
    pub fn replaced_releases(&self) -> Vec<&str> {
        let current = self.current_release.as_deref();
        let releases = self.backends.iter().filter_map(|it| it.release.as_deref());
        let replaced: BTreeSet<_> = releases.filter(|it| Some(*it) != current).collect();
        replaced.into_iter().collect()
    }

    /// Returns a sentence about the trial of a release, or about the verdict on the last one.
    pub fn trial_text(&self) -> Option<String> {
        let trial = self.canary.as_ref().map(ToString::to_string);
        trial.or_else(|| self.canary_verdict.as_ref().map(ToString::to_string))
    }
}

/// Traffic of an upstream: rates of the last ten seconds, latency of the last minute.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpstreamTraffic {
    /// Attempts per second.
    pub rate: f64,
    /// Failed attempts per second.
    pub failure_rate: f64,
    /// 95th percentile of the time to the headers of the response, in milliseconds.
    pub p95_ms: Option<f64>,
    /// The 99th percentile of the same.
    pub p99_ms: Option<f64>,
}

/// Status of a backend.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BackendStatus {
    pub address: String,
    pub weight: u64,
    /// True if it gets requests only while no other backend can take them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub backup: bool,
    /// State: `healthy`, `slow_start`, `ejected` or `down`; `draining` or `drained` while it gets
    /// no new requests.
    pub state: Cow<'static, str>,
    /// Result of active checks; true without checks.
    pub healthy: bool,
    /// Release of the app that runs there.
    pub release: Option<String>,
    /// Source: `file`, `dns` or `added`.
    pub origin: Cow<'static, str>,
    pub in_flight: u64,
    /// Attempts that ended.
    pub requests: u64,
    pub failures: u64,
    /// Attempts that failed in the last minute, if they are recorded.
    pub recent_failures: Option<u64>,
    /// Attempts that failed since the last one that did not.
    pub failures_in_a_row: Option<u32>,
    /// Refused connections among them, without other failures after them.
    pub refused_in_a_row: Option<u32>,
    /// Silence while requests are in flight.
    pub silence: Option<SilenceStatus>,
    /// Resident memory of the process that listens at the address, where it can be read.
    pub process_rss_bytes: Option<u64>,
    /// Growth of that memory, if it has grown for minutes without a pause.
    pub memory_growth: Option<MemoryGrowth>,
    /// Average time to first byte, in milliseconds. `None` after a minute without any.
    pub ewma_ms: Option<f64>,
    /// Median of the last eight times to first byte, in milliseconds, or the shortest of the last
    /// three if that is longer. `None` below four.
    pub sustained_ms: Option<f64>,
    /// Part of the full share during slow start, 0.1 to 1.
    pub slow_start: Option<f64>,
    /// Time since the backend went down or was ejected, in seconds, if it is, is not drained, and that is known.
    pub out_for: Option<f64>,
    /// Time until the ejection ends, in seconds.
    pub ejected_for: Option<f64>,
    /// Cause of the ejection: `refused` or `errors`.
    pub ejected_because: Option<Cow<'static, str>>,
    pub probe: Option<ProbeStatus>,
    /// Load of the app, if it reports it.
    pub node: Option<NodeStatus>,
}

/// Growth of the memory of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryGrowth {
    pub from_bytes: u64,
    pub to_bytes: u64,
    pub seconds: u64,
}

/// Last active check of a backend.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProbeStatus {
    pub passed: bool,
    /// Result as text, such as `200`, `degraded`, `connection refused`.
    pub text: String,
    pub took_ms: f64,
    /// Time since the check ended, in seconds.
    pub ago: f64,
    /// Number of checks that have ended so far.
    pub count: u64,
    /// Number of checks that passed since the last failure.
    pub passed_in_a_row: u64,
    /// True while another check is running.
    pub running: bool,
}

impl UpstreamStatus {
    /// Returns the memory of a backend's app that has reached `restart_at`, by its last report, or
    /// else as its process shows it.
    pub fn excess(&self, backend: &BackendStatus) -> Option<MemoryExcess> {
        let limits = self.restart_at?;
        let reported = backend.node.as_ref().filter(|node| node.is_fresh());
        match (reported, backend.process_rss_bytes) {
            (Some(node), _) => limits.excess(node),
            (None, Some(rss)) => limits.rss_excess(rss),
            (None, None) => None,
        }
    }
}

impl BackendStatus {
    /// Adds requests in flight in other processes of this gateway.
    pub fn add_in_flight(&mut self, more: u64) {
        self.in_flight += more;
        if more > 0 && self.state == "drained" {
            self.state = "draining".into();
        }
    }
}

impl Upstream {
    /// Returns the present state.
    pub fn snapshot(&self) -> UpstreamStatus {
        let now = self.shared.now();
        let members = self.members.load();
        UpstreamStatus {
            name: self.name.to_string(),
            balance: self.balance.to_string(),
            protocol: self.protocol().as_str().into(),
            tls: self.tls_name().map(str::to_owned),
            backends: members
                .list
                .iter()
                .map(|b| self.backend_status(b, now))
                .collect(),
            scale: self.scale.clone(),
            releases: self.releases.clone(),
            current_release: members.current.as_deref().map(str::to_owned),
            canary: self.canary_status(),
            canary_verdict: self.canary_verdict(),
            known_releases: Vec::new(),
            retiring: None,
            restart_at: self.restart_at,
            traffic: None,
            queue: self.shared.live.queue.len().into(),
            panic: self.shared.live.in_panic(),
        }
    }

    /// Updates the gauges; called when `/metrics` is read.
    pub fn publish(&self) {
        let now = self.shared.now();
        let members = self.members.load();
        self.judge_panic(&members, now);
        let metrics = &self.shared.metrics;
        metrics.panic.set(self.shared.live.in_panic().into());
        metrics.queue.set(self.shared.live.queue.len().into());
        metrics.ready.set(self.is_ready().into());
        if let Some(sessions) = &self.optional_metrics.sessions {
            sessions.publish();
        }
        for backend in &members.list {
            let gauges = &backend.metrics;
            gauges.healthy.set(backend.state.is_up(now).into());
            gauges.in_flight.set(backend.in_flight().into());
            gauges.streams.set(backend.state.streams().into());
            gauges.draining.set(backend.is_drained().into());
            let probed = &backend.state.probes.lock().last;
            let is_degraded = probed.as_ref().is_some_and(ProbeReport::is_degraded);
            gauges.degraded.set(is_degraded.into());
            let (upstream, address) = (&*self.name, &**backend.address());
            let node = backend.state.node.status(now);
            let registry = &self.shared.registry;
            match backend.state.latency.recent(now) {
                Some(average) => BackendLatency::new(registry, upstream, address)
                    .average
                    .set(average.as_secs_f64()),
                None => BackendLatency::forget(registry, upstream, address),
            }
            let of_app = &backend.node_metrics;
            of_app.publish(
                registry,
                (upstream, address),
                node.as_ref(),
                self.restart_at,
            );
        }
    }

    pub(super) fn backend_status(&self, backend: &Backend, now: u64) -> BackendStatus {
        let state = &backend.state;
        let is_up = state.is_up(now);
        let healthy = state.is_healthy();
        let ejected_until = state.ejected_until(now);
        let share = state.share(self.shared.slow_start, now);
        let is_slow = is_up && share < 1.0;
        let in_flight = state.in_flight();
        let probes = state.probes.lock().clone();
        let failed = state.streak.load(Ordering::Relaxed);
        let is_failing = failed > 0;
        let out_for = match ejected_until {
            _ if state.is_drained() => None,
            _ if !healthy => state.health.lock().down_for(now),
            Some(_) => state.ejection.lock().began(now),
            None => None,
        };
        BackendStatus {
            address: state.address.to_string(),
            weight: backend.weight.into(),
            backup: backend.is_backup,
            state: match (healthy, ejected_until, is_slow) {
                _ if state.is_drained() && in_flight > 0 => "draining",
                _ if state.is_drained() => "drained",
                (false, _, _) => "down",
                (true, Some(_), _) => "ejected",
                (true, None, true) => "slow_start",
                (true, None, false) => "healthy",
            }
            .into(),
            in_flight: in_flight.into(),
            release: backend.release.as_deref().map(str::to_owned),
            origin: backend.origin.as_str().into(),
            healthy,
            out_for: out_for.map(|out| seconds(nanos(out))),
            ejected_for: ejected_until.map(|until| seconds(until - now)),
            ejected_because: ejected_until
                .and_then(|_| state.ejection.lock().cause())
                .map(|cause| cause.as_str().into()),
            slow_start: is_slow.then_some(share),
            refused_in_a_row: is_failing.then(|| state.ejection.lock().refused),
            silence: state.silence.status(now).filter(|_| state.requests() > 0),
            process_rss_bytes: None,
            memory_growth: None,
            ewma_ms: state.latency.recent(now).map(millis),
            sustained_ms: state.latency.sustained().map(millis),
            requests: backend.metrics.requests(),
            failures: backend.metrics.failures(),
            recent_failures: None,
            failures_in_a_row: Some(failed).filter(|_| is_failing),
            probe: probes.last.map(|probe| ProbeStatus {
                passed: probe.passed,
                text: probe.text,
                took_ms: millis(probe.took),
                ago: seconds(now.saturating_sub(probe.at)),
                count: probes.count,
                passed_in_a_row: probes.passed_in_a_row,
                running: probes.is_running,
            }),
            node: state.node.status(now),
        }
    }
}

fn seconds(nanos: u64) -> f64 {
    (Duration::from_nanos(nanos).as_secs_f64() * 1e3).round() / 1e3
}
