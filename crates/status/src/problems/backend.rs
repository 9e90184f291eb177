//! Problems of a backend: its state, its failures, its silence, its memory.

use std::time::Duration;

use edgeway_base::out::counted;

use super::{FAILING_RATE, FAILING_SHARE, ProblemList, before, duration};
use crate::{
    latencies::Latencies,
    snapshot::{BackendStatus, UpstreamStatus},
    table::uptime,
};

/// Failed requests in a row from which a backend in rotation is a problem.
const FAILED_IN_A_ROW: u32 = 3;

/// Failed requests of a minute from which a backend among others is one.
const FAILED_OF_A_MINUTE: u64 = 5;

/// Requests from which a silence is that of the backend, and not of a slow request; then in seconds,
/// and as a multiple of the usual time to the first byte, the silence that is a problem.
const SILENCE_OF_MANY: (u32, f64, f64) = (3, 4.0, 8.0);
/// The same for fewer requests.
const SILENCE_OF_FEW: (u32, f64, f64) = (1, 6.0, 50.0);

/// Returns true if a backend gets requests.
pub fn is_in_rotation(backend: &BackendStatus) -> bool {
    matches!(&*backend.state, "healthy" | "slow_start")
}

/// Returns the state of a backend for display: `unknown` if it is in rotation, and neither a request
/// nor a check has ever got a response.
pub fn state(backend: &BackendStatus) -> &str {
    let is_reached = backend.requests > backend.failures
        || backend.ewma_ms.is_some()
        || backend.probe.as_ref().is_some_and(|probe| probe.passed);
    if backend.state == "healthy" && !is_reached {
        "unknown"
    } else {
        &backend.state
    }
}

/// Returns true if a backend gets no new requests on purpose.
pub fn is_drained(backend: &BackendStatus) -> bool {
    matches!(&*backend.state, "draining" | "drained")
}

/// Returns how long a backend has been down or ejected, in seconds.
fn out_for(backend: &BackendStatus) -> Option<u64> {
    // Whole seconds are enough, and a negative time is none.
    let out = Duration::try_from_secs_f64(backend.out_for?).ok()?;
    Some(out.as_secs())
}

/// Text on a backend in rotation that may be dead: nothing is known of it, or nothing since it failed.
pub fn untried(backend: &BackendStatus) -> Option<String> {
    if !is_in_rotation(backend) {
        return None;
    }
    let is_tried = backend.probe.is_some() || backend.requests > 0 || backend.in_flight > 0;
    if !is_tried {
        return Some("neither checked nor used yet".to_owned());
    }
    let is_checked = backend.probe.as_ref().is_some_and(|probe| probe.passed);
    let is_used = backend.recent_failures != Some(0);
    let failed = backend
        .failures_in_a_row
        .filter(|_| !is_checked && !is_used)?;
    Some(match failed {
        1 => "not used since its last request failed".to_owned(),
        _ => format!("not used since its last {failed} requests failed"),
    })
}

/// Text on a backend out of rotation, behind its state: since when, until when, and why.
pub fn absence(backend: &BackendStatus) -> Option<String> {
    let out = out_for(backend).map(uptime);
    let Some(left) = backend.ejected_for.filter(|_| backend.state == "ejected") else {
        return Some(format!(" for {}", out?));
    };
    let since = out.map_or_else(String::new, |out| format!(" {out} ago"));
    let cause = ejection_cause(backend);
    // Each check that fails makes it longer.
    let is_refused = backend.ejected_because.as_deref() == Some("refused");
    let has_failed = backend.probe.as_ref().is_some_and(|probe| !probe.passed);
    Some(if is_refused && has_failed {
        format!("{since}, back once a check passes: {cause}")
    } else {
        format!("{since}, back in {left:.0}s: {cause}")
    })
}

fn ejection_cause(backend: &BackendStatus) -> &str {
    match backend.ejected_because.as_deref() {
        Some("refused") => "connection refused",
        cause => cause.unwrap_or("failures"),
    }
}

/// Text on a backend that has most of the failed attempts of its upstream, if those are many.
fn share_of_failures(upstream: &UpstreamStatus, backend: &BackendStatus) -> Option<String> {
    let failures = backend.recent_failures?;
    let traffic = upstream.traffic.as_ref()?;
    let (failed, all) = (traffic.failure_rate, traffic.rate);
    let worst = upstream
        .backends
        .iter()
        .filter_map(|one| one.recent_failures);
    let is_one = failures >= FAILED_OF_A_MINUTE
        && 2 * failures >= worst.max()?
        && failed >= FAILING_RATE
        && failed >= FAILING_SHARE * all;
    is_one.then(|| {
        let percent = 100.0 * (failed / all).min(1.0);
        format!(
            "{failures} requests failed in the last minute, {percent:.0}% of its upstream's now"
        )
    })
}

/// Text on the last requests to a backend, if they failed.
pub fn failures(backend: &BackendStatus) -> Option<String> {
    let is_recent = backend.recent_failures != Some(0);
    let failed = backend.failures_in_a_row.filter(|_| is_recent);
    let count = failed.filter(|failed| *failed >= FAILED_IN_A_ROW)?;
    Some(match backend.refused_in_a_row {
        Some(refused) if refused >= count => {
            format!("the last {count} connections were refused")
        }
        _ => format!("the last {count} requests failed"),
    })
}

/// Text on a backend that has sent nothing for much longer than it usually takes.
pub fn silence(backend: &BackendStatus) -> Option<String> {
    let silence = backend.silence.as_ref()?;
    let usual = silence.usual_ms.unwrap_or(0.0) / 1e3;
    let is_problem = [SILENCE_OF_MANY, SILENCE_OF_FEW].iter().any(|bound| {
        let (requests, seconds, multiple) = *bound;
        silence.requests >= requests && silence.seconds >= seconds.max(multiple * usual)
    });
    let usual = silence.usual_ms.map(duration);
    let usual = usual.map_or_else(String::new, |usual| format!(", usually within {usual}"));
    let (requests, seconds) = (counted(silence.requests, "request"), silence.seconds);
    is_problem.then(|| format!("no response for {seconds:.0} s to {requests}{usual}"))
}

impl ProblemList {
    pub(super) fn backend(
        &mut self,
        upstream: &UpstreamStatus,
        backend: &BackendStatus,
        latencies: &Latencies,
    ) {
        let name = &format!("{}/{}", upstream.name, backend.address);
        let left = || {
            let backends = upstream.backends.iter();
            let left = backends.filter(|one| is_in_rotation(one)).count();
            format!("; {left} of {} in rotation", upstream.backends.len())
        };
        match &*backend.state {
            state @ ("down" | "ejected") => {
                let probe = backend.probe.as_ref().filter(|probe| !probe.passed);
                let (kind, cause) = match state {
                    "down" => ("backend_down", probe.map(|probe| &*probe.text)),
                    _ => ("backend_ejected", Some(ejection_cause(backend))),
                };
                let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
                let out = out_for(backend);
                let time = out.map_or_else(String::new, |out| format!(" for {}", uptime(out)));
                let text = format!("backend {name} is {state}{time}{cause}{}", left());
                self.error(kind, name, text, "the log of that app, and if it runs");
                self.since(out.and_then(|out| before(self.at, out)));
            }
            _ => self.backend_in_rotation(upstream, backend, latencies),
        }
    }

    /// Finds the problem of a backend that gets requests, if it does.
    fn backend_in_rotation(
        &mut self,
        upstream: &UpstreamStatus,
        backend: &BackendStatus,
        latencies: &Latencies,
    ) {
        if !is_in_rotation(backend) {
            return;
        }
        let name = &format!("{}/{}", upstream.name, backend.address);
        // It may be the only one, or never ejected.
        let failures = failures(backend).or_else(|| share_of_failures(upstream, backend));
        if let Some(failures) = failures {
            let text = format!("backend {name}: {failures}; it stays in rotation");
            let look = match upstream.backends.len() {
                1 => "the log of that app: the only backend is not ejected",
                _ => "the log of that app, and `eject` of the upstream, which can take it out",
            };
            self.error("backend_failing", name, text, look);
        } else if let Some(silence) = silence(backend) {
            let text = format!("backend {name}: {silence}");
            let look = "that process: does it run, or does something block its event loop?";
            self.error("backend_silent", name, text, look);
        } else if let Some(slow) = latencies.slowness(backend) {
            let text = format!("backend {name} is {slow}");
            let look = "the load and the log of that app";
            self.warn("backend_slow", name, text, look);
        }
    }

    pub(super) fn memory(&mut self, upstream: &UpstreamStatus, backend: &BackendStatus) {
        if let Some(excess) = upstream.excess(backend) {
            let name = &format!("{}/{}", upstream.name, backend.address);
            let text = format!("backend {name}: {excess}");
            let look = "its heap for a leak, and `edgeway rollout --watch`, which restarts it";
            self.warn("backend_memory", name, text, look);
        } else if let Some(growth) = &backend.memory_growth {
            let name = &format!("{}/{}", upstream.name, backend.address);
            let text = format!(
                "backend {name}: its process grew from {} to {} MiB in {}, without a pause",
                growth.from_bytes >> 20,
                growth.to_bytes >> 20,
                uptime(growth.seconds)
            );
            let look = "its heap for a leak, and `restart_at`, which restarts it in time";
            self.warn("backend_memory", name, text, look);
        }
    }
}
