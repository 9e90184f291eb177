//! The problems of a gateway in one list, so that the engineer on call sees at once where to look.

use chrono::{DateTime, TimeDelta, Utc};

use crate::status::snapshot::{CertificateExpiry, Snapshot, UpstreamStatus};

/// Days before its expiry from which a certificate is a problem.
pub(super) const SOON_DAYS: i64 = 14;

/// A problem, and the section of the page with its details.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) section: &'static str,
    pub(super) text: String,
}

/// Finds the problems of a gateway, the most serious first.
pub(super) fn of(status: &Snapshot) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut add = |section, text| found.push(Problem { section, text });
    for reason in &status.not_ready {
        add("summary", format!("Not ready: {reason}"));
    }
    for upstream in &status.upstreams {
        of_upstream(upstream, &mut add);
    }
    for route in &status.routes {
        let rate = route.traffic.server_error_rate;
        if rate > 0.0 {
            let name = &route.name;
            add(
                "routes",
                format!("Route {name}: {rate:.1} responses/s with 5xx"),
            );
        }
    }
    if status.config.last_error.is_some() {
        let text = "The last reload was refused, the configuration before it serves";
        add("reloads", text.to_owned());
    }
    of_certificates(status, &mut add);
    for plugin in &status.plugins {
        for route in plugin.routes.iter().filter(|route| route.left_out) {
            let (plugin, route) = (&plugin.name, &route.route);
            add(
                "plugins",
                format!("Plugin {plugin} failed too often and is left out on {route}"),
            );
        }
    }
    if let Some(redis) = status.redis.as_ref().filter(|redis| !redis.up) {
        add(
            "shared",
            format!("Redis at {} cannot be reached", redis.address),
        );
    }
    let link = status.purges.as_ref().filter(|link| link.shared);
    if link.is_some_and(|link| !link.leased) {
        add(
            "shared",
            "Purges may be complete without this gateway: its lease is lost".to_owned(),
        );
    }
    let is_fine = ["up", "opening", "catching_up", "off"];
    let disk = status.cache_disk.as_ref();
    if let Some(disk) = disk.filter(|disk| !is_fine.contains(&&*disk.state)) {
        add(
            "cache",
            format!("The folder of the cache is not used: {}", disk.state),
        );
    }
    found
}

fn of_upstream(upstream: &UpstreamStatus, add: &mut impl FnMut(&'static str, String)) {
    let name = &upstream.name;
    if upstream.panic {
        add(
            "upstreams",
            format!("Upstream {name}: no backend is healthy, so all are used"),
        );
    }
    for backend in &upstream.backends {
        if matches!(&*backend.state, "down" | "ejected") {
            let (address, state) = (&backend.address, &backend.state);
            add(
                "upstreams",
                format!("Backend {address} of {name} is {state}"),
            );
        }
    }
    if upstream.queue > 0 {
        let count = upstream.queue;
        add(
            "upstreams",
            format!("Upstream {name}: {count} requests wait for a backend"),
        );
    }
}

fn of_certificates(status: &Snapshot, add: &mut impl FnMut(&'static str, String)) {
    for expiry in &status.expiries {
        let (name, listener) = (&expiry.name, &expiry.listener);
        match days_left(status, expiry) {
            Some(days) if days < 0 => {
                add(
                    "certificates",
                    format!("The certificate {name} on {listener} has expired"),
                );
            }
            Some(days) if days < SOON_DAYS => {
                let text = format!("The certificate {name} on {listener} expires in {days} days");
                add("certificates", text);
            }
            _ => {}
        }
    }
    for certificate in status.certificates.iter().filter(|it| it.failures > 0) {
        let (name, failures) = (&certificate.name, certificate.failures);
        let text = format!("The order of the certificate {name} failed {failures} times");
        add("certificates", text);
    }
}

/// Returns the whole days until a certificate expires, below zero afterwards.
pub(super) fn days_left(status: &Snapshot, expiry: &CertificateExpiry) -> Option<i64> {
    let expires = DateTime::parse_from_rfc3339(&expiry.expires).ok()?;
    let left = expires.signed_duration_since(now(status)?);
    Some(
        left.num_seconds()
            .div_euclid(TimeDelta::days(1).num_seconds()),
    )
}

/// Returns the time of a snapshot.
fn now(status: &Snapshot) -> Option<DateTime<Utc>> {
    let started = DateTime::parse_from_rfc3339(&status.started).ok()?;
    let up = TimeDelta::seconds(i64::try_from(status.uptime_seconds).ok()?);
    Some(started.to_utc() + up)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{
        snapshot::{ConfigStatus, RedisStatus, RouteStatus, RouteTraffic},
        table,
    };

    fn texts(status: &Snapshot) -> Vec<String> {
        of(status).into_iter().map(|problem| problem.text).collect()
    }

    #[test]
    fn a_gateway_without_problems_has_none() {
        assert_eq!(of(&Snapshot::default()), []);
    }

    #[test]
    fn each_problem_names_its_section() {
        let status = table::tests::full();
        let found = of(&status);
        let sections: Vec<&str> = found.iter().map(|problem| problem.section).collect();
        assert_eq!(
            sections,
            [
                "upstreams",
                "routes",
                "certificates",
                "plugins",
                "shared",
                "shared",
                "cache"
            ]
        );
        assert_eq!(found[0].text, "Backend 127.0.0.1:3001 of web is ejected");
        let refused = Snapshot {
            config: ConfigStatus {
                last_error: Some("x".to_owned()),
                ..ConfigStatus::default()
            },
            redis: Some(RedisStatus {
                up: true,
                ..RedisStatus::default()
            }),
            routes: vec![RouteStatus {
                name: "api".to_owned(),
                traffic: RouteTraffic {
                    client_error_rate: 9.0,
                    ..RouteTraffic::default()
                },
                ..RouteStatus::default()
            }],
            ..Snapshot::default()
        };
        assert_eq!(
            texts(&refused),
            ["The last reload was refused, the configuration before it serves"]
        );
    }

    #[test]
    fn a_certificate_is_a_problem_from_two_weeks_before_its_end() {
        let at = |expires: &str| {
            let mut status = table::tests::full();
            status.started = "2027-01-01T00:00:00Z".to_owned();
            status.uptime_seconds = 86_400;
            status.expiries[0].expires = expires.to_owned();
            days_left(&status, &status.expiries[0])
        };
        assert_eq!(at("2027-01-16T00:00:00.000Z"), Some(14));
        assert_eq!(at("2027-01-15T23:59:59.000Z"), Some(13));
        assert_eq!(at("2027-01-02T00:00:01.000Z"), Some(0));
        assert_eq!(at("2027-01-01T23:59:59.000Z"), Some(-1));
        assert_eq!(at("soon"), None);
    }
}
