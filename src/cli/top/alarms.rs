//! Alarms: the conditions of a gateway that someone should look at, worst first.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{
    as_number,
    observe::{Observation, name},
    units::Instance,
};
use crate::status::snapshot::{
    BackendStatus, CertificateExpiry, RouteStatus, Snapshot, State, UpstreamStatus,
};

/// Days before the end of a certificate from which it is an alarm. Renewal is due long before.
const CERTIFICATE_DAYS: i64 = 14;

/// Share of responses with 5xx from which a route is an alarm, and the rate below which one failure
/// would be a large share.
const FAILING_SHARE: f64 = 0.05;
const FAILING_RATE: f64 = 0.1;

/// Slowness of a backend against the median of the others, and the time that is never slow.
const SLOWER: f64 = 4.0;
const SLOW_MS: f64 = 100.0;

/// Share of a unit's memory limit from which it is likely to be killed soon.
const MEMORY_SHARE: f64 = 0.9;

/// A condition that someone should look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Alarm {
    pub severity: Severity,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Severity {
    /// Requests fail, or soon will.
    Error,
    /// Degraded, still serving.
    Warning,
}

/// Returns the alarms of an observation.
pub(super) fn alarms(observation: &Observation) -> Vec<Alarm> {
    let mut found = Found::default();
    let Observation {
        at,
        snapshot,
        instances,
        ..
    } = observation;
    found.gateway(snapshot);
    for (upstream, backend) in observation.backends() {
        found.backend(upstream, backend);
    }
    for upstream in &snapshot.upstreams {
        found.upstream(upstream);
    }
    for route in &snapshot.routes {
        found.route(route);
    }
    found.shared_state(snapshot);
    for expiry in &snapshot.expiries {
        found.expiry(expiry, *at);
    }
    found.certificates(snapshot);
    for plugin in &snapshot.plugins {
        for route in plugin.routes.iter().filter(|route| route.left_out) {
            let (plugin, route) = (&plugin.name, &route.route);
            found.warn(format!(
                "plugin {plugin} failed too often on route {route} and is suspended there"
            ));
        }
    }
    for instance in &instances.list {
        found.instance(instance);
    }
    found.0.sort_by_key(|alarm| alarm.severity);
    found.0
}

#[derive(Default)]
struct Found(Vec<Alarm>);

impl Found {
    fn error(&mut self, text: String) {
        self.0.push(Alarm {
            severity: Severity::Error,
            text,
        });
    }

    fn warn(&mut self, text: String) {
        self.0.push(Alarm {
            severity: Severity::Warning,
            text,
        });
    }

    fn gateway(&mut self, snapshot: &Snapshot) {
        for reason in &snapshot.not_ready {
            self.error(format!("not ready: {reason}"));
        }
        if snapshot.state == State::Draining {
            self.warn("the gateway is draining and accepts no connections".to_owned());
        }
        if let Some(error) = &snapshot.config.last_error {
            let first = error.lines().next().unwrap_or_default();
            self.warn(format!("the last reload was refused: {first}"));
        }
    }

    fn backend(&mut self, upstream: &UpstreamStatus, backend: &BackendStatus) {
        let name = name(upstream, backend);
        match &*backend.state {
            "down" => {
                let why = match &backend.probe {
                    Some(probe) if !probe.passed => format!(": {}", probe.text),
                    _ => String::new(),
                };
                self.error(format!("backend {name} is down{why}"));
            }
            "ejected" => {
                let because = backend.ejected_because.as_deref().unwrap_or("failures");
                self.error(format!("backend {name} is ejected ({because})"));
            }
            _ => {
                let others = upstream.backends.iter();
                let others = others.filter(|other| other.address != backend.address);
                let usual = median(others.filter_map(|other| other.ewma_ms).collect());
                if let (Some(own), Some(usual)) = (backend.ewma_ms, usual)
                    && own > SLOW_MS
                    && own > SLOWER * usual
                {
                    self.warn(format!(
                        "backend {name} is slow: {own:.0} ms, the others {usual:.0} ms"
                    ));
                }
            }
        }
    }

    fn upstream(&mut self, upstream: &UpstreamStatus) {
        let name = &upstream.name;
        if upstream.panic {
            self.error(format!(
                "no backend of upstream {name} is healthy, so all are used"
            ));
        }
        if upstream.queue > 0 {
            let count = upstream.queue;
            self.warn(format!("{count} requests wait for upstream {name}"));
        }
    }

    fn route(&mut self, route: &RouteStatus) {
        let (failed, all) = (route.traffic.server_error_rate, route.traffic.rate);
        if failed < FAILING_RATE || failed < FAILING_SHARE * all {
            return;
        }
        let percent = 100.0 * (failed / all.max(failed)).min(1.0);
        let text = format!(
            "route {}: {percent:.0}% of the responses are 5xx",
            route.name
        );
        if percent >= 50.0 {
            self.error(text);
        } else {
            self.warn(text);
        }
    }

    /// Redis, the purge link and the folder of the cache.
    fn shared_state(&mut self, snapshot: &Snapshot) {
        if let Some(redis) = snapshot.redis.as_ref().filter(|redis| !redis.up) {
            let why = redis.last_error.as_deref().unwrap_or("no reason recorded");
            self.error(format!("Redis at {} is down: {why}", redis.address));
        }
        if let Some(link) = &snapshot.purges
            && let Some(since) = link.lost_since.as_ref().filter(|_| link.shared)
        {
            self.warn(format!(
                "purges of other gateways may not reach this one since {since}"
            ));
        }
        if let Some(disk) = &snapshot.cache_disk
            && !["up", "opening", "busy", "catching_up", "off"].contains(&&*disk.state)
        {
            let why = disk.last_error.as_deref().unwrap_or("no reason recorded");
            let (folder, state) = (&disk.folder, &disk.state);
            self.warn(format!(
                "the cache folder {folder} is unused ({state}): {why}"
            ));
        }
    }

    fn expiry(&mut self, expiry: &CertificateExpiry, now: DateTime<Utc>) {
        let Ok(end) = DateTime::parse_from_rfc3339(&expiry.expires) else {
            return;
        };
        let (name, listener) = (&expiry.name, &expiry.listener);
        let what = format!("certificate {name} of listener {listener}");
        let left = end.with_timezone(&Utc) - now;
        match left.num_days() {
            _ if left.num_seconds() <= 0 => self.error(format!("{what} has expired")),
            0 => self.error(format!("{what} expires within a day")),
            1 => self.error(format!("{what} expires in 1 day")),
            days if days < CERTIFICATE_DAYS => {
                self.warn(format!("{what} expires in {days} days"));
            }
            _ => {}
        }
    }

    fn certificates(&mut self, snapshot: &Snapshot) {
        for certificate in snapshot.certificates.iter().filter(|c| c.failures > 0) {
            let (name, count) = (&certificate.name, certificate.failures);
            let why = certificate.problem.as_deref().unwrap_or("unknown reason");
            let plural = if count == 1 {
                "order"
            } else {
                "orders in a row"
            };
            self.warn(format!(
                "certificate {name}: {count} failed {plural}: {why}"
            ));
        }
    }

    fn instance(&mut self, instance: &Instance) {
        let unit = &instance.unit;
        match (&*instance.state, &*instance.detail) {
            ("failed", _) => self.error(format!("unit {unit} has failed")),
            (_, "auto-restart") => self.error(format!("unit {unit} ended and is being restarted")),
            _ => {}
        }
        if let (Some(used), Some(limit)) = (instance.memory_bytes, instance.memory_limit_bytes)
            && limit > 0
            && as_number(used) > MEMORY_SHARE * as_number(limit)
        {
            let percent = 100.0 * as_number(used) / as_number(limit);
            self.warn(format!(
                "unit {unit} uses {percent:.0}% of its memory limit"
            ));
        }
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
