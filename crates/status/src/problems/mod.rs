//! The problems of a gateway by its status: the one list that the status page, `edgeway top` and
//! `edgeway doctor` show, so that they never disagree.

mod backend;
mod route;
#[cfg(test)]
mod tests;

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use edgeway_base::out::{counted, hints};
use edgeway_upstreams::CanaryOutcome;
use serde::Serialize;

pub use self::backend::{absence, failures, is_drained, is_in_rotation, silence, state, untried};
use super::{
    latencies::Latencies,
    snapshot::{
        CertificateExpiry, LogFailure, PluginRouteStatus, PluginStatus, RouteTraffic, Snapshot,
        State, UpstreamStatus,
    },
};

/// Days before the end of a certificate from which it is a problem. Renewal is due long before.
const CERTIFICATE_DAYS: i64 = 14;

/// Share of failed requests from which a route is a problem, the rate below which one failure
/// would be a large share, and the rate (three in ten seconds) below which it is a warning.
const FAILING_SHARE: f64 = 0.05;
const FAILING_RATE: f64 = 0.1;
const FAILING_FAST: f64 = 0.3;

/// Time for which the rollback of a release is a problem.
const ROLLBACK_IS_SHOWN: Duration = Duration::from_hours(24);

/// Words between the text of a problem and the thing to look at next.
const LOOK: &str = "; look at ";

/// A condition that someone should look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub severity: Severity,
    /// Fixed word for what is wrong: `backend_down`.
    pub kind: &'static str,
    /// Name of the backend, route or the like: `web/127.0.0.1:3000`. Empty for the gateway as a
    /// whole.
    pub subject: String,
    /// Sentence for people: the cause, the figures of the moment, and what to look at.
    pub text: String,
    /// Time at which it began, if that is known; RFC 3339, UTC.
    pub since: Option<String>,
    /// Section of the status page with the details.
    #[serde(skip)]
    pub section: &'static str,
}

impl Problem {
    /// Creates a problem without a section. Its text ends with the thing to `look` at next.
    pub fn new(
        severity: Severity,
        kind: &'static str,
        subject: &str,
        mut text: String,
        look: &str,
    ) -> Self {
        text.push_str(LOOK);
        text.push_str(look);
        Self {
            severity,
            kind,
            subject: subject.to_owned(),
            text: hints(&text).into_owned(),
            since: None,
            section: "",
        }
    }

    /// Returns the text in two parts, the second of which is the thing to look at next.
    pub fn cause_and_look(&self) -> (&str, &str) {
        self.text.rsplit_once(LOOK).unwrap_or((&self.text, ""))
    }

    /// Returns the text, with the time at which the problem began.
    pub fn line(&self) -> String {
        match &self.since {
            None => self.text.clone(),
            Some(since) => {
                let to_the_second = since.get(..19).unwrap_or(since);
                format!("{} (since {to_the_second}Z)", self.text)
            }
        }
    }
}

edgeway_base::enum_table! {
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
    #[serde(rename_all = "lowercase")]
    pub enum Severity => name {
        /// Requests fail, or soon will.
        Error = "error",
        /// Degraded, still serving.
        Warning = "warning",
    }
}

/// Finds the problems of a gateway at a time, the most serious first.
pub fn find(status: &Snapshot, time: DateTime<Utc>) -> Vec<Problem> {
    let mut problems = ProblemList {
        at: time,
        section: "summary",
        list: Vec::new(),
    };
    problems.gateway(status);
    problems.section = "upstreams";
    for upstream in &status.upstreams {
        let latencies = Latencies::new(upstream);
        for backend in &upstream.backends {
            problems.backend(upstream, backend, &latencies);
            problems.memory(upstream, backend);
        }
        problems.upstream(upstream);
        problems.canary(upstream);
    }
    problems.section = "routes";
    for route in &status.routes {
        problems.route(route, &status.upstreams);
    }
    problems.section = "summary";
    for log in &status.failing_logs {
        problems.log(log);
    }
    problems.shared_state(status);
    problems.section = "certificates";
    // A self-signed certificate stands in for one that was not issued yet, and does not end.
    let is_issued = |expiry: &&CertificateExpiry| {
        let mut managed = status.certificates.iter();
        !managed.any(|c| c.expires.is_none() && c.name.eq_ignore_ascii_case(&expiry.name))
    };
    for expiry in status.expiries.iter().filter(is_issued) {
        problems.expiry(expiry);
    }
    problems.certificates(status);
    problems.section = "plugins";
    for plugin in &status.plugins {
        for route in &plugin.routes {
            problems.plugin(plugin, route);
        }
    }
    for problem in problems.list.iter_mut().filter(|it| it.since.is_none()) {
        let mut onsets = status.problem_onsets.iter();
        let onset = onsets.find(|it| it.kind == problem.kind && it.subject == problem.subject);
        problem.since = onset.map(|onset| onset.since.clone());
    }
    problems.list.sort_by_key(|problem| problem.severity);
    problems.list
}

/// Returns the time at which a snapshot was taken. An older gateway does not send it; its start and
/// uptime differ from it by what the wall clock was set, and by suspensions.
pub fn time_of(status: &Snapshot) -> Option<DateTime<Utc>> {
    if let Ok(time) = DateTime::parse_from_rfc3339(&status.at) {
        return Some(time.to_utc());
    }
    let started = DateTime::parse_from_rfc3339(&status.started).ok()?;
    let up = TimeDelta::seconds(i64::try_from(status.uptime_seconds).ok()?);
    Some(started.to_utc() + up)
}

/// Time until a certificate expires, below zero afterwards.
pub fn time_left(expiry: &CertificateExpiry, time: DateTime<Utc>) -> Option<TimeDelta> {
    let expires = DateTime::parse_from_rfc3339(&expiry.expires).ok()?;
    Some(expires.signed_duration_since(time))
}

/// Returns true if a certificate that expires after this time is a problem.
pub fn is_soon(left: TimeDelta) -> bool {
    left < TimeDelta::days(CERTIFICATE_DAYS)
}

/// Returns true if the failures of a route are more than now and then.
pub fn is_failing(traffic: &RouteTraffic) -> bool {
    let failed = traffic.server_error_rate;
    failed >= FAILING_RATE && failed >= FAILING_SHARE * traffic.rate
}

/// Returns true for states of the folder of the cache that are no fault: those between two
/// processes, and those that pass by themselves.
pub fn is_disk_fine(state: &str) -> bool {
    ["up", "opening", "busy", "catching_up", "off"].contains(&state)
}

/// Formats milliseconds for a sentence: `12 ms`, `4.4 s`.
fn duration(milliseconds: f64) -> String {
    if milliseconds < 999.5 {
        format!("{milliseconds:.0} ms")
    } else {
        format!("{:.1} s", milliseconds / 1e3)
    }
}

/// The problems found so far.
struct ProblemList {
    at: DateTime<Utc>,
    /// Section of the problems that are added next.
    section: &'static str,
    list: Vec<Problem>,
}

impl ProblemList {
    fn error(&mut self, kind: &'static str, subject: &str, text: String, look: &str) {
        self.add(Severity::Error, kind, subject, text, look);
    }

    fn warn(&mut self, kind: &'static str, subject: &str, text: String, look: &str) {
        self.add(Severity::Warning, kind, subject, text, look);
    }

    /// Adds a problem of the present section.
    fn add(
        &mut self,
        severity: Severity,
        kind: &'static str,
        subject: &str,
        text: String,
        look: &str,
    ) {
        let mut problem = Problem::new(severity, kind, subject, text, look);
        problem.section = self.section;
        self.list.push(problem);
    }

    /// Records the time at which the problem began that was added last.
    fn since(&mut self, since: Option<String>) {
        if let Some(problem) = self.list.last_mut() {
            problem.since = since.filter(|since| !since.is_empty());
        }
    }

    fn gateway(&mut self, status: &Snapshot) {
        // One stop is one problem.
        let not_ready = status.not_ready.iter();
        for reason in not_ready.filter(|_| status.state != State::Draining) {
            let text = format!("not ready: {reason}");
            self.error(
                "not_ready",
                reason,
                text,
                "the upstreams, and the gateway's log",
            );
        }
        if status.state == State::Draining {
            let text = "the gateway is draining and accepts no connections".to_owned();
            let look = "who stops it: the service manager, or an upgrade";
            self.warn("draining", "", text, look);
        }
        if let Some(why) = &status.unsaved_decisions {
            let text =
                format!("added and drained backends are not saved: {why}; a crash loses them");
            let look = "the folder of the gateway's state: its space (`df`) and permissions";
            self.error("decisions_unsaved", "", text, look);
        }
        if status.process.lacked_descriptors {
            let max = status.process.max_descriptors.unwrap_or_default();
            let text = format!("the process had none of its {max} file descriptors left");
            let look = "`LimitNOFILE` of the unit or `ulimit -Hn`, and the number of clients";
            self.error("no_descriptors", "", text, look);
        }
        if let Some(error) = &status.config.last_error {
            let first = error.lines().next().unwrap_or_default();
            let refused = status
                .reloads
                .iter()
                .filter(|reload| reload.error.is_some());
            let at = refused.map(|reload| &reload.at).max();
            self.section = "reloads";
            let text = format!(
                "the last reload was refused, so the previous configuration stays in use: {first}"
            );
            self.warn("reload_refused", place(first), text, "`edgeway check`");
            self.since(at.cloned());
        }
    }

    fn upstream(&mut self, upstream: &UpstreamStatus) {
        let name = &upstream.name;
        if upstream.panic {
            let text = format!("no backend of upstream {name} is healthy, so all are used");
            self.error("upstream_down", name, text, "the apps, and what they need");
        } else if upstream.backends.is_empty() {
            let text = format!("upstream {name} has no backend, so its requests get 503");
            let look = match upstream.releases {
                Some(_) => {
                    format!("`edgeway deploys {name}`; `edgeway deploy {name} FOLDER` starts one")
                }
                None => "the addresses of its name in DNS".to_owned(),
            };
            self.error("upstream_down", name, text, &look);
        } else if upstream.backends.iter().all(is_drained) {
            let text =
                format!("all backends of upstream {name} are drained, so its requests get 503");
            let look = "who drained them; `edgeway undrain` returns one to rotation";
            self.error("upstream_down", name, text, look);
        }
        if upstream.queue > 0 {
            let count = counted(upstream.queue, "request");
            let text = format!("{count} in the queue of upstream {name}");
            let look = "the times of its backends, and `max_in_flight`";
            self.warn("upstream_queue", name, text, look);
        }
    }

    fn canary(&mut self, upstream: &UpstreamStatus) {
        let Some(verdict) = &upstream.canary_verdict else {
            return;
        };
        let now = u64::try_from(self.at.timestamp()).unwrap_or(0);
        let is_recent = now.saturating_sub(verdict.at) < ROLLBACK_IS_SHOWN.as_secs();
        if verdict.outcome == CanaryOutcome::RolledBack && is_recent {
            let name = &upstream.name;
            let text = format!("upstream {name}: {verdict}");
            self.warn("release_rolled_back", name, text, "the log of that release");
            self.since(before(self.at, now.saturating_sub(verdict.at)));
        }
    }

    fn plugin(&mut self, plugin: &PluginStatus, on: &PluginRouteStatus) {
        let (name, file, route) = (&plugin.name, &plugin.file, &on.route);
        let why = match &on.last_failure {
            Some(why) => format!(": {why}"),
            None => String::new(),
        };
        let subject = &format!("{name} on {route}");
        let look = "the file, and `edgeway logs --problems`";
        if on.left_out {
            let text = format!(
                "plugin {name} ({file}) failed too often on route {route} and is suspended \
                 there{why}"
            );
            self.warn("plugin_suspended", subject, text, look);
        } else if on.recent_failures > 0 {
            let times = counted(on.recent_failures, "time");
            let text = format!(
                "plugin {name} ({file}) failed {times} on route {route} in the last \
                 minute{why}"
            );
            self.warn("plugin_failing", subject, text, look);
        }
    }

    fn log(&mut self, log: &LogFailure) {
        let (name, target, error) = (&log.log, &log.target, &log.error);
        let text = format!(
            "the {name} {target} cannot be written: {error}; lines are kept in memory, and {} were \
             dropped",
            log.dropped
        );
        self.error("log_failing", target, text, where_to_write(error));
    }

    /// Redis, the purge link and the folder of the cache.
    fn shared_state(&mut self, status: &Snapshot) {
        self.section = "shared";
        if let Some(redis) = status.redis.as_ref().filter(|redis| !redis.up) {
            let why = redis.last_error.as_deref().unwrap_or("no reason recorded");
            let address = &redis.address;
            let text = format!("Redis at {address} is down: {why}");
            let is_cluster = ["Moved", "ClusterDown"]
                .iter()
                .any(|kind| why.contains(kind));
            let look = if is_cluster {
                "`nodes` of `redis`: this is a node of a cluster"
            } else {
                "Redis and the network to it; each gateway goes on alone"
            };
            self.error("redis_down", address, text, look);
            self.since(Some(redis.since.clone()));
        }
        if let Some(redis) = &status.redis
            && let Some(why) = &redis.rejection
        {
            let address = &redis.address;
            let text = format!("Redis at {address} rejects commands: {why}");
            let looks = [
                ("read only replica", "which instance is the primary"),
                (
                    "wrong kind of value",
                    "who else writes keys with the gateway's `prefix`",
                ),
                (
                    "no permission",
                    "the commands and keys that its ACL allows the gateway",
                ),
            ];
            let mut looks = looks.into_iter().filter(|(part, _)| why.contains(part));
            let (_, look) = looks.next().unwrap_or((
                "",
                "its memory (`maxmemory`), and the permissions of its user",
            ));
            self.error("redis_rejects", address, text, look);
        }
        if let Some(link) = &status.purges
            && let Some(since) = link.lost_since.as_ref().filter(|_| link.shared)
        {
            let text = "purges of other gateways may not reach this one".to_owned();
            self.warn("purge_link", "", text, "Redis and the network to it");
            self.since(Some(since.clone()));
        }
        self.section = "cache";
        if let Some(disk) = &status.cache_disk
            && !is_disk_fine(&disk.state)
        {
            let why = disk.last_error.as_deref().unwrap_or("no reason recorded");
            let (folder, state) = (&disk.folder, &disk.state);
            let text = format!("the cache folder {folder} is unused ({state}): {why}");
            self.warn("cache_folder", folder, text, where_to_write(why));
            self.since(Some(disk.since.clone()));
        }
    }

    fn expiry(&mut self, expiry: &CertificateExpiry) {
        let Some(left) = time_left(expiry, self.at) else {
            return;
        };
        let (name, listener) = (&expiry.name, &expiry.listener);
        let (severity, when) = match left.num_days() {
            _ if left.num_seconds() <= 0 => (Severity::Error, "has expired".to_owned()),
            0 => (Severity::Error, "expires within a day".to_owned()),
            1 => (Severity::Error, "expires in 1 day".to_owned()),
            days if is_soon(left) => (Severity::Warning, format!("expires in {days} days")),
            _ => return,
        };
        let text = format!("certificate {name} of listener {listener} {when}");
        self.add(severity, "certificate_expiry", name, text, "what renews it");
        if left.num_seconds() <= 0 {
            self.since(Some(expiry.expires.clone()));
        }
    }

    fn certificates(&mut self, status: &Snapshot) {
        for listener in &status.unusable_certificates {
            let text =
                format!("listener {listener}: a certificate on disk is unusable, and not served");
            self.warn(
                "certificate_file",
                listener,
                text,
                "the log, and `edgeway check`",
            );
        }
        for certificate in &status.certificates {
            let (name, count) = (&certificate.name, certificate.failures);
            let why = certificate.problem.as_deref().unwrap_or("unknown reason");
            let look = if why.starts_with("the CA is unreachable") {
                "the network from here to the CA"
            } else {
                "the name in DNS, and the ports 80 and 443 from outside"
            };
            if count > 0 {
                let orders = counted(count, "failed order");
                let text = format!("certificate {name}: {orders}: {why}");
                self.warn("certificate_order", name, text, look);
            } else if certificate.expires.is_none() {
                let text = format!(
                    "certificate {name} was not issued yet, and a self-signed one stands in"
                );
                self.warn("certificate_missing", name, text, look);
            }
        }
    }
}

/// Returns the time that was this many seconds before `time`; RFC 3339, UTC.
fn before(time: DateTime<Utc>, seconds: u64) -> Option<String> {
    let then = time.checked_sub_signed(TimeDelta::try_seconds(seconds.try_into().ok()?)?)?;
    Some(then.to_rfc3339_opts(SecondsFormat::Secs, true))
}

/// Returns the position in a message, such as `edgeway.yaml:3:5`, or nothing.
fn place(message: &str) -> &str {
    let words = message.split(' ').map(|word| word.trim_end_matches(':'));
    let mut places = words.filter(|word| {
        let mut parts = word.rsplit(':').take(2);
        parts.all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
            && word.matches(':').count() >= 2
    });
    places.next().unwrap_or_default()
}

/// Names what to look at where a file cannot be written.
fn where_to_write(error: &str) -> &'static str {
    if error.contains("Too many open files") {
        return "the limit of open files (`LimitNOFILE`, `ulimit -n`)";
    }
    if error.contains("Broken pipe") {
        return "the program that reads it: it has ended";
    }
    "the free space there (`df`), and its permissions"
}
