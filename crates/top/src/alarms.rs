//! Alarms: the problems of a gateway, and those of the units around it, worst first.

use edgeway_operate::units::Instance;
use edgeway_status::problems;

use super::{as_number, observe::Observation};
pub(super) use edgeway_status::problems::{Problem as Alarm, Severity};

/// Share of a unit's memory limit from which it is likely to be killed soon.
const MEMORY_SHARE: f64 = 0.9;

/// Returns the alarms of an observation.
pub(super) fn alarms(observation: &Observation) -> Vec<Alarm> {
    let snapshot = &observation.snapshot;
    // By the clock of the gateway, as its status page has it.
    let time = problems::time_of(snapshot).unwrap_or(observation.at);
    let mut alarms = problems::find(snapshot, time);
    for instance in &observation.instances.list {
        alarms.extend(of_unit(instance).into_iter().flatten());
    }
    alarms.sort_by_key(|alarm| alarm.severity);
    alarms
}

fn of_unit(instance: &Instance) -> [Option<Alarm>; 2] {
    let unit = &instance.unit;
    // The status page has no section of units.
    let alarm = |severity, kind, text, look: &str| Alarm::new(severity, kind, unit, text, look);
    let state = match (&*instance.state, &*instance.detail) {
        ("failed", _) => Some(format!("unit {unit} has failed")),
        (_, "auto-restart") => Some(format!("unit {unit} ended and is being restarted")),
        _ => None,
    };
    let memory = match (instance.memory_bytes, instance.memory_limit_bytes) {
        (Some(used), Some(limit))
            if limit > 0 && as_number(used) > MEMORY_SHARE * as_number(limit) =>
        {
            let percent = 100.0 * as_number(used) / as_number(limit);
            Some(format!(
                "unit {unit} uses {percent:.0}% of its memory limit"
            ))
        }
        _ => None,
    };
    [
        state.map(|text| {
            let look = format!("`journalctl -u {unit}`");
            alarm(Severity::Error, "unit_state", text, &look)
        }),
        memory.map(|text| {
            let look = "what it keeps, and `MemoryMax` of the unit";
            alarm(Severity::Warning, "unit_memory", text, look)
        }),
    ]
}
