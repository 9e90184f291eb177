//! An observation as JSON, for scripts.

use chrono::SecondsFormat;
use edgeway_status::snapshot::UpstreamStatus;
use serde_json::{Value, json};

use super::{
    alarms::alarms,
    observe::{Observation, name},
};

/// Formats everything that the screen shows.
pub(super) fn json(observation: &Observation) -> String {
    let (snapshot, instances) = (&observation.snapshot, &observation.instances);
    let upstreams = snapshot.upstreams.iter();
    let upstreams: Vec<Value> = upstreams.map(|u| upstream(u, observation)).collect();
    let report = json!({
        "at": observation.at.to_rfc3339_opts(SecondsFormat::Millis, true),
        "gateway": {
            "version": snapshot.version,
            "pid": snapshot.pid,
            "state": snapshot.state,
            "not_ready": snapshot.not_ready,
            "started": snapshot.started,
            "uptime_seconds": snapshot.uptime_seconds,
            "cpu": snapshot.process.cpu,
            "memory_bytes": snapshot.process.memory_bytes,
            "connections": observation.connections(),
            "in_flight": observation.in_flight(),
            "config": snapshot.config,
            "last_reload": snapshot.reloads.first(),
            "predecessors": snapshot.predecessors,
        },
        "alarms": alarms(observation),
        "rates": observation.rates(),
        "routes": snapshot.routes,
        "upstreams": upstreams,
        "instances": instances.list,
        "instances_problem": instances.problem,
        "cache": snapshot.cache,
        "redis": snapshot.redis,
        "limits": snapshot.limits,
        "bans": observation.bans,
        "expiries": snapshot.expiries,
    });
    serde_json::to_string_pretty(&report).expect("plain data")
}

/// Formats an upstream as `edgeway status --json` does, with the rate of each backend.
fn upstream(upstream: &UpstreamStatus, observation: &Observation) -> Value {
    let mut json = serde_json::to_value(upstream).expect("plain data");
    let backends = json["backends"].as_array_mut().into_iter().flatten();
    for (json, backend) in backends.zip(&upstream.backends) {
        let name = name(upstream, backend).to_string();
        json["rate"] = observation.backend_rates.get(&name).copied().into();
    }
    json
}
