//! What status pages and `/metrics` show of an upstream: plain data, taken at one moment.

use std::time::Duration;

use serde::Serialize;

use super::{Scale, Upstream, backend::Backend};
use crate::base::units::millis;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UpstreamSnapshot {
    pub name: String,
    pub balance: String,
    /// `http1` or `h2`.
    pub protocol: &'static str,
    /// The name in the backends' certificates, if TLS is spoken to them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<String>,
    pub backends: Vec<BackendSnapshot>,
    /// How `edgeway scale` starts and stops the apps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<Scale>,
    /// Requests that wait for a place.
    pub queue: u32,
    /// All backends are out of rotation, so all are used.
    pub panic: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BackendSnapshot {
    pub address: String,
    pub weight: u16,
    /// `healthy`, `slow_start`, `ejected` or `down`; `draining` or `drained` while it is to
    /// get no requests.
    pub state: &'static str,
    pub in_flight: u32,
    /// `file`, `dns` or `added`: whether it is written, or who gave it.
    pub origin: &'static str,
    /// What active checks say; true where there are none.
    pub healthy: bool,
    /// Until when it is ejected, in seconds from now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ejected_for: Option<f64>,
    /// `refused` or `errors`, while it is ejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ejected_because: Option<&'static str>,
    /// How much of its share it gets while it comes back, 0.1 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<f64>,
    /// Average time to the first byte, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ewma_ms: Option<f64>,
    /// Tries that ended.
    pub requests: u64,
    pub failures: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeSnapshot>,
}

/// The last check of a backend.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProbeSnapshot {
    pub passed: bool,
    /// Such as `200`, `degraded`, `connection refused`.
    pub text: String,
    pub took_ms: f64,
    /// How long ago it ended, in seconds.
    pub ago: f64,
    /// How many checks have ended so far.
    pub count: u64,
    /// How many of the last passed, without one between that did not.
    pub passed_in_a_row: u64,
    /// Another one is under way.
    pub running: bool,
}

impl Upstream {
    /// How it stands right now.
    pub fn snapshot(&self) -> UpstreamSnapshot {
        let now = self.shared.now();
        let members = self.members.load();
        UpstreamSnapshot {
            name: self.name.to_string(),
            balance: self.balance.name(),
            protocol: self.protocol().as_str(),
            tls: self.tls_name().map(str::to_owned),
            backends: members.list.iter().map(|b| self.look_at(b, now)).collect(),
            scale: self.scale.clone(),
            queue: self.shared.live.queue.len(),
            panic: self.shared.live.in_panic(),
        }
    }

    /// Brings the gauges up to date; called when `/metrics` is read.
    pub fn publish(&self) {
        let now = self.shared.now();
        let members = self.members.load();
        self.judge_panic(&members, now);
        let metrics = &self.shared.metrics;
        metrics.panic.set(self.shared.live.in_panic().into());
        metrics.queue.set(self.shared.live.queue.len().into());
        for backend in &members.list {
            let gauges = &backend.metrics;
            gauges.healthy.set(backend.state.is_up(now).into());
            gauges.in_flight.set(backend.in_flight().into());
            gauges.streams.set(backend.state.streams().into());
            gauges.draining.set(backend.is_drained().into());
        }
    }

    pub(super) fn look_at(&self, backend: &Backend, now: u64) -> BackendSnapshot {
        let state = &backend.state;
        let is_up = state.is_up(now);
        let healthy = state.is_healthy();
        let ejected_until = state.ejected_until(now);
        let share = state.share(self.shared.slow_start, now);
        let is_slow = is_up && share < 1.0;
        let in_flight = state.in_flight();
        let probes = state.probes.lock().clone();
        BackendSnapshot {
            address: state.address.to_string(),
            weight: backend.weight,
            state: match (healthy, ejected_until, is_slow) {
                _ if state.is_drained() && in_flight > 0 => "draining",
                _ if state.is_drained() => "drained",
                (false, _, _) => "down",
                (true, Some(_), _) => "ejected",
                (true, None, true) => "slow_start",
                (true, None, false) => "healthy",
            },
            in_flight,
            origin: backend.origin.as_str(),
            healthy,
            ejected_for: ejected_until.map(|until| seconds(until - now)),
            ejected_because: ejected_until
                .and_then(|_| state.ejection.lock().cause())
                .map(super::eject::Cause::as_str),
            slow_start: is_slow.then_some(share),
            ewma_ms: state.latency.average().map(millis),
            requests: backend.metrics.requests(),
            failures: backend.metrics.failures(),
            probe: probes.last.map(|probe| ProbeSnapshot {
                passed: probe.passed,
                text: probe.text,
                took_ms: millis(probe.took),
                ago: seconds(now.saturating_sub(probe.at)),
                count: probes.count,
                passed_in_a_row: probes.passed_in_a_row,
                running: probes.is_running,
            }),
        }
    }
}

fn seconds(nanos: u64) -> f64 {
    (Duration::from_nanos(nanos).as_secs_f64() * 1e3).round() / 1e3
}
