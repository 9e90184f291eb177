//! Snapshot of an upstream for status pages and `/metrics`: plain data of one moment.

use std::time::Duration;

use serde::Serialize;

use super::{Scale, Upstream, backend::Backend};
use crate::base::units::millis;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UpstreamSnapshot {
    pub name: String,
    pub balance: String,
    /// Protocol: `http1` or `h2`.
    pub protocol: &'static str,
    /// Name in the backends' certificates, if the upstream uses TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<String>,
    pub backends: Vec<BackendSnapshot>,
    /// Settings by which `edgeway scale` starts and stops the apps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<Scale>,
    /// Requests that wait for a place.
    pub queue: u32,
    /// True if all backends are out of rotation, so that all are used.
    pub panic: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BackendSnapshot {
    pub address: String,
    pub weight: u16,
    /// State: `healthy`, `slow_start`, `ejected` or `down`; `draining` or `drained` while it gets
    /// no new requests.
    pub state: &'static str,
    pub in_flight: u32,
    /// Source: `file`, `dns` or `added`.
    pub origin: &'static str,
    /// Result of active checks; true without checks.
    pub healthy: bool,
    /// Time until the ejection ends, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ejected_for: Option<f64>,
    /// Cause of the ejection: `refused` or `errors`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ejected_because: Option<&'static str>,
    /// Part of the full share during slow start, 0.1 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<f64>,
    /// Average time to first byte, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ewma_ms: Option<f64>,
    /// Attempts that ended.
    pub requests: u64,
    pub failures: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeSnapshot>,
}

/// Last check of a backend.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProbeSnapshot {
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

impl Upstream {
    /// Returns the present state.
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

    /// Updates the gauges; called when `/metrics` is read.
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
