//! The status of upstreams, from their snapshots.

use super::snapshot::{BackendStatus, ProbeStatus, ScaleStatus, UpstreamStatus};
use crate::upstreams::{BackendSnapshot, ProbeSnapshot, Scale, UpstreamSnapshot};

impl From<UpstreamSnapshot> for UpstreamStatus {
    fn from(upstream: UpstreamSnapshot) -> Self {
        Self {
            name: upstream.name,
            balance: upstream.balance,
            protocol: upstream.protocol.to_owned(),
            tls: upstream.tls,
            backends: upstream.backends.into_iter().map(Into::into).collect(),
            scale: upstream.scale.map(Into::into),
            queue: upstream.queue.into(),
            panic: upstream.panic,
        }
    }
}

impl From<BackendSnapshot> for BackendStatus {
    fn from(backend: BackendSnapshot) -> Self {
        Self {
            address: backend.address,
            weight: backend.weight.into(),
            state: backend.state.to_owned(),
            healthy: backend.healthy,
            origin: backend.origin.to_owned(),
            in_flight: backend.in_flight.into(),
            requests: backend.requests,
            failures: backend.failures,
            ewma_ms: backend.ewma_ms,
            slow_start: backend.slow_start,
            ejected_for: backend.ejected_for,
            ejected_because: backend.ejected_because.map(str::to_owned),
            probe: backend.probe.map(Into::into),
        }
    }
}

impl From<ProbeSnapshot> for ProbeStatus {
    fn from(probe: ProbeSnapshot) -> Self {
        Self {
            passed: probe.passed,
            text: probe.text,
            took_ms: probe.took_ms,
            ago: probe.ago,
            count: probe.count,
            passed_in_a_row: probe.passed_in_a_row,
            running: probe.running,
        }
    }
}

impl From<Scale> for ScaleStatus {
    fn from(scale: Scale) -> Self {
        Self {
            unit: scale.unit,
            first_port: scale.first_port,
            last_port: scale.last_port,
            manager: scale.manager.to_owned(),
            address: scale.address,
        }
    }
}
