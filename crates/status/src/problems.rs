//! The problems of a gateway by its status: the one list that the status page and `edgeway top`
//! show, so that they never disagree.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use edgeway_upstreams::CanaryOutcome;
use serde::Serialize;

use super::{
    latencies::Latencies,
    snapshot::{
        BackendStatus, CertificateExpiry, PluginRouteStatus, PluginStatus, RouteTraffic, Snapshot,
        State, UpstreamStatus,
    },
    table::uptime,
};

/// Days before the end of a certificate from which it is a problem. Renewal is due long before.
const CERTIFICATE_DAYS: i64 = 14;

/// Share of responses with 5xx from which a route is a problem, and the rate below which one
/// failure would be a large share.
const FAILING_SHARE: f64 = 0.05;
const FAILING_RATE: f64 = 0.1;

/// Failed requests in a row from which a backend in rotation is a problem.
const FAILED_IN_A_ROW: u32 = 5;

/// Time for which the rollback of a release is a problem.
const ROLLBACK_IS_SHOWN: Duration = Duration::from_hours(24);

/// A condition that someone should look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub severity: Severity,
    /// Fixed word for what is wrong: `backend_down`.
    pub kind: &'static str,
    /// Name of the backend, route or the like: `web/127.0.0.1:3000`. Empty for the gateway as a
    /// whole.
    pub subject: String,
    /// Sentence for people, with the cause and the figures of the moment.
    pub text: String,
    /// Section of the status page with the details.
    #[serde(skip)]
    pub section: &'static str,
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
pub fn of(status: &Snapshot, at: DateTime<Utc>) -> Vec<Problem> {
    let mut found = Found {
        section: "summary",
        list: Vec::new(),
    };
    found.gateway(status);
    found.section = "upstreams";
    for upstream in &status.upstreams {
        let latencies = Latencies::of(upstream);
        for backend in &upstream.backends {
            found.backend(upstream, backend, &latencies);
            found.memory(upstream, backend);
        }
        found.upstream(upstream);
        found.canary(upstream, at);
    }
    found.section = "routes";
    for route in &status.routes {
        found.route(&route.name, &route.traffic);
    }
    found.shared_state(status);
    found.section = "certificates";
    for expiry in &status.expiries {
        found.expiry(expiry, at);
    }
    found.certificates(status);
    found.section = "plugins";
    for plugin in &status.plugins {
        for route in &plugin.routes {
            found.plugin(plugin, route);
        }
    }
    found.list.sort_by_key(|problem| problem.severity);
    found.list
}

/// Returns the time at which a snapshot was taken. An older gateway does not send it; its start and
/// uptime differ from it by what the wall clock was set, and by suspensions.
pub fn time_of(status: &Snapshot) -> Option<DateTime<Utc>> {
    if let Ok(at) = DateTime::parse_from_rfc3339(&status.at) {
        return Some(at.to_utc());
    }
    let started = DateTime::parse_from_rfc3339(&status.started).ok()?;
    let up = TimeDelta::seconds(i64::try_from(status.uptime_seconds).ok()?);
    Some(started.to_utc() + up)
}

/// Time until a certificate expires, below zero afterwards.
pub fn time_left(expiry: &CertificateExpiry, at: DateTime<Utc>) -> Option<TimeDelta> {
    let expires = DateTime::parse_from_rfc3339(&expiry.expires).ok()?;
    Some(expires.signed_duration_since(at))
}

/// Returns true if a certificate that expires after this time is a problem.
pub fn is_soon(left: TimeDelta) -> bool {
    left < TimeDelta::days(CERTIFICATE_DAYS)
}

/// Returns true if the 5xx of a route are more than now and then.
pub fn is_failing(traffic: &RouteTraffic) -> bool {
    let failed = traffic.server_error_rate;
    failed >= FAILING_RATE && failed >= FAILING_SHARE * traffic.rate
}

/// Returns true for states of the folder of the cache that are no fault: those between two
/// processes, and those that pass by themselves.
pub fn is_disk_fine(state: &str) -> bool {
    ["up", "opening", "busy", "catching_up", "off"].contains(&state)
}

/// Returns true if a backend gets requests.
pub fn is_in_rotation(backend: &BackendStatus) -> bool {
    matches!(&*backend.state, "healthy" | "slow_start")
}

/// Returns how long a backend has been down or ejected, as text.
fn out_for(backend: &BackendStatus) -> Option<String> {
    // Whole seconds are enough, and a negative time is none.
    let out = Duration::try_from_secs_f64(backend.out_for?).ok()?;
    Some(uptime(out.as_secs()))
}

/// Text on a backend out of rotation, behind its state: since when, until when, and why.
pub fn absence(backend: &BackendStatus) -> Option<String> {
    let out = out_for(backend);
    let Some(left) = backend.ejected_for.filter(|_| backend.state == "ejected") else {
        return Some(format!(" for {}", out?));
    };
    let since = out.map_or_else(String::new, |out| format!(" {out} ago"));
    Some(format!(
        "{since}, back in {left:.0}s: {}",
        ejection_cause(backend)
    ))
}

fn ejection_cause(backend: &BackendStatus) -> &str {
    match backend.ejected_because.as_deref() {
        Some("refused") => "connection refused",
        cause => cause.unwrap_or("failures"),
    }
}

/// The problems found so far.
struct Found {
    /// Section of those that are found next.
    section: &'static str,
    list: Vec<Problem>,
}

impl Found {
    fn error(&mut self, kind: &'static str, subject: &str, text: String) {
        self.add(Severity::Error, kind, subject, text);
    }

    fn warn(&mut self, kind: &'static str, subject: &str, text: String) {
        self.add(Severity::Warning, kind, subject, text);
    }

    fn add(&mut self, severity: Severity, kind: &'static str, subject: &str, text: String) {
        self.list.push(Problem {
            severity,
            kind,
            subject: subject.to_owned(),
            text,
            section: self.section,
        });
    }

    fn gateway(&mut self, status: &Snapshot) {
        for reason in &status.not_ready {
            self.error("not_ready", reason, format!("not ready: {reason}"));
        }
        if status.state == State::Draining {
            let text = "the gateway is draining and accepts no connections";
            self.warn("draining", "", text.to_owned());
        }
        if let Some(error) = &status.config.last_error {
            let first = error.lines().next().unwrap_or_default();
            let refused = status
                .reloads
                .iter()
                .filter(|reload| reload.error.is_some());
            let at = refused.map(|reload| &reload.at).max();
            let at = at.map_or_else(String::new, |at| format!(" at {at}"));
            self.section = "reloads";
            let text = format!(
                "the last reload was refused{at}, so the previous configuration stays in use: {first}"
            );
            self.warn("reload_refused", place(first), text);
        }
    }

    fn backend(
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
                let out = out_for(backend).map_or_else(String::new, |out| format!(" for {out}"));
                let text = format!("backend {name} is {state}{out}{cause}{}", left());
                self.error(kind, name, text);
            }
            // Those in rotation, which may be the only one, or never ejected.
            "healthy" | "slow_start"
                if backend.failures_in_a_row >= Some(FAILED_IN_A_ROW)
                    && backend.recent_failures != Some(0) =>
            {
                let count = backend.failures_in_a_row.unwrap_or_default();
                let text = format!(
                    "the last {count} requests to backend {name} failed; it stays in rotation"
                );
                self.error("backend_failing", name, text);
            }
            _ => {
                if let Some(slow) = latencies.slowness(backend) {
                    self.warn("backend_slow", name, format!("backend {name} is {slow}"));
                }
            }
        }
    }

    fn memory(&mut self, upstream: &UpstreamStatus, backend: &BackendStatus) {
        if let Some(excess) = upstream.excess(backend) {
            let name = &format!("{}/{}", upstream.name, backend.address);
            self.warn("backend_memory", name, format!("backend {name}: {excess}"));
        }
    }

    fn upstream(&mut self, upstream: &UpstreamStatus) {
        let name = &upstream.name;
        if upstream.panic {
            let text = format!("no backend of upstream {name} is healthy, so all are used");
            self.error("upstream_down", name, text);
        }
        if upstream.queue > 0 {
            let count = upstream.queue;
            let text = format!("{count} requests wait for upstream {name}");
            self.warn("upstream_queue", name, text);
        }
    }

    fn canary(&mut self, upstream: &UpstreamStatus, at: DateTime<Utc>) {
        let Some(verdict) = &upstream.canary_verdict else {
            return;
        };
        let at = u64::try_from(at.timestamp()).unwrap_or(0);
        let is_recent = at.saturating_sub(verdict.at) < ROLLBACK_IS_SHOWN.as_secs();
        if verdict.outcome == CanaryOutcome::RolledBack && is_recent {
            let name = &upstream.name;
            self.warn(
                "release_rolled_back",
                name,
                format!("upstream {name}: {verdict}"),
            );
        }
    }

    fn plugin(&mut self, plugin: &PluginStatus, on: &PluginRouteStatus) {
        let (name, file, route) = (&plugin.name, &plugin.file, &on.route);
        let why = match &on.last_failure {
            Some(why) => format!(": {why}"),
            None => String::new(),
        };
        let subject = &format!("{name} on {route}");
        if on.left_out {
            let text = format!(
                "plugin {name} ({file}) failed too often on route {route} and is suspended \
                 there{why}"
            );
            self.warn("plugin_suspended", subject, text);
        } else if on.recent_failures > 0 {
            let count = on.recent_failures;
            let plural = if count == 1 { "" } else { "s" };
            let text = format!(
                "plugin {name} ({file}) failed {count} time{plural} on route {route} in the last \
                 minute{why}"
            );
            self.warn("plugin_failing", subject, text);
        }
    }

    fn route(&mut self, name: &str, traffic: &RouteTraffic) {
        if !is_failing(traffic) {
            return;
        }
        let (failed, all) = (traffic.server_error_rate, traffic.rate);
        let percent = 100.0 * (failed / all.max(failed)).min(1.0);
        let text = format!("route {name}: {percent:.0}% of the responses are 5xx");
        let severity = if percent >= 50.0 {
            Severity::Error
        } else {
            Severity::Warning
        };
        self.add(severity, "route_failing", name, text);
    }

    /// Redis, the purge link and the folder of the cache.
    fn shared_state(&mut self, status: &Snapshot) {
        self.section = "shared";
        if let Some(redis) = status.redis.as_ref().filter(|redis| !redis.up) {
            let why = redis.last_error.as_deref().unwrap_or("no reason recorded");
            let since = match &*redis.since {
                "" => String::new(),
                since => format!(" since {since}"),
            };
            let address = &redis.address;
            self.error(
                "redis_down",
                address,
                format!("Redis at {address} is down{since}: {why}"),
            );
        }
        if let Some(link) = &status.purges
            && let Some(since) = link.lost_since.as_ref().filter(|_| link.shared)
        {
            let text = format!("purges of other gateways may not reach this one since {since}");
            self.warn("purge_link", "", text);
        }
        self.section = "cache";
        if let Some(disk) = &status.cache_disk
            && !is_disk_fine(&disk.state)
        {
            let why = disk.last_error.as_deref().unwrap_or("no reason recorded");
            let (folder, state) = (&disk.folder, &disk.state);
            let text = format!("the cache folder {folder} is unused ({state}): {why}");
            self.warn("cache_folder", folder, text);
        }
    }

    fn expiry(&mut self, expiry: &CertificateExpiry, at: DateTime<Utc>) {
        let Some(left) = time_left(expiry, at) else {
            return;
        };
        let (name, listener) = (&expiry.name, &expiry.listener);
        let what = format!("certificate {name} of listener {listener}");
        let (severity, when) = match left.num_days() {
            _ if left.num_seconds() <= 0 => (Severity::Error, "has expired".to_owned()),
            0 => (Severity::Error, "expires within a day".to_owned()),
            1 => (Severity::Error, "expires in 1 day".to_owned()),
            days if is_soon(left) => (Severity::Warning, format!("expires in {days} days")),
            _ => return,
        };
        self.add(
            severity,
            "certificate_expiry",
            name,
            format!("{what} {when}"),
        );
    }

    fn certificates(&mut self, status: &Snapshot) {
        for certificate in status.certificates.iter().filter(|c| c.failures > 0) {
            let (name, count) = (&certificate.name, certificate.failures);
            let why = certificate.problem.as_deref().unwrap_or("unknown reason");
            let plural = if count == 1 {
                "order"
            } else {
                "orders in a row"
            };
            let text = format!("certificate {name}: {count} failed {plural}: {why}");
            self.warn("certificate_order", name, text);
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        snapshot::{CacheDiskStatus, ConfigStatus, RestartAt, RouteStatus},
        table,
    };

    fn found(status: &Snapshot) -> Vec<(&'static str, String)> {
        let at = time_of(status).unwrap_or_default();
        let list = of(status, at).into_iter();
        list.map(|problem| (problem.section, problem.text))
            .collect()
    }

    #[test]
    fn a_plugin_that_fails_now_is_a_problem_with_its_error() {
        let mut status = Snapshot {
            plugins: vec![crate::plugins::example()],
            ..Snapshot::default()
        };
        let plugin = &mut status.plugins[0];
        plugin.routes[0].left_out = false;
        assert_eq!(found(&status), [], "failures of another time are none");
        let plugin = &mut status.plugins[0];
        plugin.routes[1].recent_failures = 25;
        plugin.routes[1].last_failure = Some("Error: no at plugin.js:4:22".to_owned());
        let text = "plugin ab-split (plugins/ab-split/plugin.js) failed 25 times on route web in the \
                    last minute: Error: no at plugin.js:4:22";
        assert_eq!(found(&status), [("plugins", text.to_owned())]);
    }

    #[test]
    fn a_gateway_without_problems_has_none() {
        assert_eq!(found(&Snapshot::default()), []);
    }

    #[test]
    fn a_backend_that_fails_and_stays_is_a_problem_while_it_fails() {
        let mut status = Snapshot::default();
        for (failed, recent, count) in [(4, 4, 0), (5, 5, 1), (5, 0, 0)] {
            let backend = BackendStatus {
                state: "healthy".into(),
                failures_in_a_row: Some(failed),
                recent_failures: Some(recent),
                ..BackendStatus::default()
            };
            status.upstreams = vec![UpstreamStatus {
                backends: vec![backend],
                ..UpstreamStatus::default()
            }];
            assert_eq!(found(&status).len(), count, "{failed} {recent}");
        }
    }

    #[test]
    fn each_problem_names_its_section_and_the_most_serious_come_first() {
        let status = table::testkit::full();
        let list = of(&status, time_of(&status).unwrap());
        assert!(
            list.is_sorted_by_key(|problem| problem.severity),
            "{list:?}"
        );
        let mut sections: Vec<&str> = list.iter().map(|problem| problem.section).collect();
        sections.sort_unstable();
        let expected = [
            "cache",
            "certificates",
            "plugins",
            "shared",
            "shared",
            "upstreams",
        ];
        assert_eq!(sections, expected, "{list:?}");
        let refused = Snapshot {
            config: ConfigStatus {
                last_error: Some("first\nsecond".to_owned()),
                ..ConfigStatus::default()
            },
            ..Snapshot::default()
        };
        let text = "the last reload was refused, so the previous configuration stays in use: first";
        let text = text.to_owned();
        assert_eq!(found(&refused), [("reloads", text)]);
    }

    #[test]
    fn a_refused_reload_is_about_a_place_in_a_file() {
        for (message, expected) in [
            (
                "edgeway.yaml:11:21: error: unknown key `x`",
                "edgeway.yaml:11:21",
            ),
            ("refused: conf/a.yaml:1:2: error", "conf/a.yaml:1:2"),
            ("cannot listen on 127.0.0.1:80: address in use", ""),
            ("", ""),
        ] {
            assert_eq!(place(message), expected, "{message}");
        }
    }

    #[test]
    fn the_wall_clock_of_a_snapshot_counts_and_else_its_uptime() {
        let mut status = table::testkit::full();
        status.uptime_seconds = 60;
        status.at = "2027-03-01T00:00:00.000Z".to_owned();
        assert_eq!(
            time_of(&status).unwrap().to_rfc3339(),
            "2027-03-01T00:00:00+00:00"
        );
        status.at = String::new();
        assert_eq!(
            time_of(&status).unwrap().to_rfc3339(),
            "2027-01-15T08:01:00+00:00"
        );
    }

    #[test]
    fn a_few_failed_responses_are_no_problem_of_a_route() {
        for (rate, failed, is_problem) in [
            (100.0, 0.2, false),
            (100.0, 5.0, true),
            (1.0, 0.09, false),
            (1.0, 0.1, true),
            (0.0, 0.0, false),
        ] {
            let traffic = RouteTraffic {
                rate,
                server_error_rate: failed,
                client_error_rate: 9.0,
                ..RouteTraffic::default()
            };
            let status = Snapshot {
                routes: vec![RouteStatus {
                    traffic,
                    ..RouteStatus::default()
                }],
                ..Snapshot::default()
            };
            assert_eq!(!found(&status).is_empty(), is_problem, "{failed} of {rate}");
        }
    }

    #[test]
    fn an_app_that_has_reached_its_memory_limit_is_a_problem() {
        let mut status = table::testkit::full();
        status.upstreams[0].restart_at = Some(RestartAt {
            rss_bytes: Some(100 << 20),
            heap_bytes: None,
        });
        let text = "backend web/127.0.0.1:3000: `restart_at` reached: rss 180 MiB, limit 100MiB";
        assert!(found(&status).contains(&("upstreams", text.to_owned())));
    }

    #[test]
    fn a_folder_that_another_process_has_is_no_problem() {
        for (state, is_problem) in [
            ("up", false),
            ("busy", false),
            ("catching_up", false),
            ("off", false),
            ("full", true),
            ("slow", true),
        ] {
            let status = Snapshot {
                cache_disk: Some(CacheDiskStatus {
                    state: state.to_owned(),
                    ..CacheDiskStatus::default()
                }),
                ..Snapshot::default()
            };
            assert_eq!(!found(&status).is_empty(), is_problem, "{state}");
        }
    }

    #[test]
    fn a_certificate_is_a_problem_from_two_weeks_before_its_end() {
        let days = |expires: &str| {
            let mut status = table::testkit::full();
            status.at = "2027-01-02T00:00:00Z".to_owned();
            status.expiries[0].expires = expires.to_owned();
            let left = time_left(&status.expiries[0], time_of(&status).unwrap())?;
            Some((left.num_days(), is_soon(left)))
        };
        assert_eq!(days("2027-01-16T00:00:00.000Z"), Some((14, false)));
        assert_eq!(days("2027-01-15T23:59:59.000Z"), Some((13, true)));
        assert_eq!(days("2027-01-01T23:59:59.000Z"), Some((0, true)));
        assert_eq!(days("soon"), None);
    }
}
