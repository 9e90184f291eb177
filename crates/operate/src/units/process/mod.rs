//! The process of a gateway on this machine, told from one elsewhere with the same number.

use std::{fs, path::Path};

use chrono::DateTime;
use edgeway_status::snapshot::Snapshot;

/// Ticks per second of times below /proc: the same on all machines that Edgeway runs on.
const TICKS: u64 = 100;
/// Time that a gateway may take from the start of its process to the time that it says it started.
const START: u64 = 60;

/// Returns true if the gateway of a snapshot is a process of this machine: one with its number,
/// the name of this program or Edgeway's, and its time of start.
pub(super) fn is_process(processes: &Path, snapshot: &Snapshot) -> bool {
    let read = |file: &str| fs::read_to_string(processes.join(file)).unwrap_or_default();
    let pid = snapshot.pid;
    let name = read(&format!("{pid}/comm"));
    // A gateway with filters of its own has the name of that program, and so has its `top`.
    let is_ours = name.trim_end() == "edgeway" || !name.is_empty() && name == read("self/comm");
    let stat = read(&format!("{pid}/stat"));
    // The name, in parentheses, may have spaces: fields are counted from its end (proc(5)).
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let ticks = after.split_whitespace().nth(19);
    let Some(ticks) = ticks.and_then(|ticks| ticks.parse::<u64>().ok()) else {
        return false;
    };
    let after_boot = ticks / TICKS;
    let machine = read("stat");
    let booted = machine.lines().find_map(|line| line.strip_prefix("btime "));
    let booted = booted.and_then(|at| at.parse::<u64>().ok());
    let says = DateTime::parse_from_rfc3339(&snapshot.started).ok();
    let says = says.and_then(|at| u64::try_from(at.timestamp()).ok());
    let is_near =
        |a: Option<u64>, b: Option<u64>| a.zip(b).is_some_and(|(a, b)| a.abs_diff(b) <= START);
    // Either may be off: the clock is set after the start of many machines, and the gateway's
    // uptime does not count the time in which a machine is suspended.
    let uptime = read("uptime");
    let uptime = uptime
        .split('.')
        .next()
        .and_then(|text| text.parse::<u64>().ok());
    let age = uptime.and_then(|uptime| uptime.checked_sub(after_boot));
    let starts = booted.map(|booted| booted + after_boot);
    is_ours && (is_near(starts, says) || is_near(age, Some(snapshot.uptime_seconds)))
}

#[cfg(test)]
pub(super) mod tests;
