//! State of an upstream for a successor process: health, ejections, what was learned of each
//! backend, operators' decisions, and DNS results.
//!
//! The clocks of the two processes have different origins, so times are sent as spans from now. The
//! processes may be of different versions, so each piece is read on its own, and unreadable pieces
//! are left out.

use std::{collections::HashMap, net::IpAddr, sync::atomic::Ordering, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use serde_with_macros::skip_serializing_none;

use super::{
    backend_state::{BackendState, KeepAlive},
    eject::{EjectionExport, nanos},
    health::{HealthExport, ProbeLog, ProbeReport},
    operator_decisions::OperatorDecisions,
    upstream_zone::UpstreamZone,
};
use crate::zones::Zone;

/// Longest span that is accepted: a longer one is a mistake, and would keep a backend out, or
/// unchecked, for ever.
const MAX_SPAN: Duration = Duration::from_hours(1);
/// Time after which the inherited state of an unused backend is dropped.
const MAX_AGE: Duration = Duration::from_mins(5);

/// Inherited state of backends that have no state here yet: DNS has not returned their addresses so
/// far.
#[derive(Debug, Default)]
pub(super) struct InheritedBackends {
    /// Time at which the state was received.
    at: u64,
    backends: HashMap<String, BackendExport>,
}

/// Backend as a process sends it to its successor.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct BackendExport {
    health: HealthExport,
    ejected_for_ms: Option<u64>,
    ejection: EjectionExport,
    /// Time since the start of a slow start in progress.
    back_for_ms: Option<u64>,
    first_byte: Option<FirstByte>,
    keep_alive: Option<KeepAliveExport>,
    probes: ProbesExport,
}

/// Average of a backend's times to first byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct FirstByte {
    nanos: u64,
    age_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum KeepAliveExport {
    Unsaid,
    Seconds(u64),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct ProbesExport {
    count: u64,
    passed_in_a_row: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<ProbeExport>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct ProbeExport {
    passed: bool,
    text: String,
    took_ms: u64,
    ago_ms: u64,
}

impl Zone for UpstreamZone {
    fn export(&self) -> Option<Value> {
        let now = self.now();
        let backends: Map<String, Value> = self
            .states()
            .into_iter()
            .filter_map(|state| {
                let exported = BackendExport::from_state(&state, now);
                // Plain data with string keys; it can always be written as JSON.
                let value = serde_json::to_value(exported).ok()?;
                Some((state.address.to_string(), value))
            })
            .collect();
        Some(json!({
            "backends": backends,
            "decisions": &*self.decisions(),
            "resolved": self.resolved(),
        }))
    }

    fn import(&self, exported: &Value) {
        if let Some(decisions) = exported.get("decisions") {
            *self.decisions() = OperatorDecisions::from_json(decisions);
        }
        for (name, addresses) in entries(exported, "resolved") {
            if let Ok(addresses) = Vec::<IpAddr>::deserialize(addresses) {
                self.set_resolved(name, &addresses);
            }
        }
        let backends = entries(exported, "backends").filter_map(|(address, export)| {
            let export = BackendExport::deserialize(export).ok()?;
            Some((address.clone(), export))
        });
        *self.inherited.lock() = InheritedBackends {
            at: self.now(),
            backends: backends.collect(),
        };
    }
}

fn entries<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    value
        .get(key)
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
}

impl UpstreamZone {
    /// Restores new state from the previous process.
    pub(super) fn hand_on(&self, state: &BackendState) {
        let mut inherited = self.inherited.lock();
        if inherited.backends.is_empty() {
            return;
        }
        let now = self.now();
        if now.saturating_sub(inherited.at) > nanos(MAX_AGE) {
            inherited.backends.clear();
        }
        if let Some(export) = inherited.backends.remove(&*state.address) {
            export.give(state, inherited.at);
        }
    }
}

impl BackendExport {
    fn from_state(state: &BackendState, now: u64) -> Self {
        let since = |at: u64| millis(now.saturating_sub(at));
        let probes = state.probes.lock().clone();
        Self {
            health: state.health.lock().export(now),
            ejected_for_ms: state.ejected_until(now).map(|until| millis(until - now)),
            ejection: state.ejection.lock().export(now),
            back_for_ms: state.returned_at().map(since),
            first_byte: state.latency.raw().map(|(nanos, at)| FirstByte {
                nanos,
                age_ms: since(at),
            }),
            keep_alive: match state.keep_alive() {
                KeepAlive::Unknown => None,
                KeepAlive::Unannounced => Some(KeepAliveExport::Unsaid),
                KeepAlive::Announced(span) => Some(KeepAliveExport::Seconds(span.as_secs())),
            },
            probes: ProbesExport {
                count: probes.count,
                passed_in_a_row: probes.passed_in_a_row,
                last: probes.last.map(|last| ProbeExport {
                    passed: last.passed,
                    text: last.text,
                    took_ms: millis(nanos(last.took)),
                    ago_ms: since(last.at),
                }),
            },
        }
    }

    /// Applies the export to `state`; `at` is the time at which it was received.
    fn give(self, state: &BackendState, now: u64) {
        let before = |ms| now.saturating_sub(span(ms));
        let health = self.health.import(now);
        state.set_healthy(health.up, now);
        *state.health.lock() = health;
        let ejection = self.ejection.import(now);
        state.streak.store(ejection.streak, Ordering::Relaxed);
        *state.ejection.lock() = ejection;
        if let Some(ms) = self.ejected_for_ms {
            state.eject(now.saturating_add(span(ms)));
        }
        // The return that `set_healthy` recorded was none.
        state.set_returned_at(self.back_for_ms.map(before));
        if let Some(FirstByte { nanos, age_ms }) = self.first_byte {
            state.latency.set_raw(nanos, before(age_ms));
        }
        match self.keep_alive {
            None => {}
            Some(KeepAliveExport::Unsaid) => state.learn_keep_alive(KeepAlive::Unannounced),
            Some(KeepAliveExport::Seconds(seconds)) => {
                state.learn_keep_alive(KeepAlive::Announced(Duration::from_secs(seconds)));
            }
        }
        let probes = self.probes;
        *state.probes.lock() = ProbeLog {
            count: probes.count,
            passed_in_a_row: probes.passed_in_a_row,
            // The other process was ready, or it would not have been replaced.
            has_passed: probes.count > 0,
            is_running: false,
            last: probes.last.map(|last| ProbeReport {
                passed: last.passed,
                text: last.text,
                took: Duration::from_nanos(span(last.took_ms)),
                at: before(last.ago_ms),
            }),
        };
    }
}

/// Nanoseconds in whole milliseconds.
pub(super) fn millis(nanos: u64) -> u64 {
    nanos / 1_000_000
}

/// Converts received milliseconds to nanoseconds, at most [`MAX_SPAN`].
pub(super) fn span(millis: u64) -> u64 {
    nanos(Duration::from_millis(millis).min(MAX_SPAN))
}
