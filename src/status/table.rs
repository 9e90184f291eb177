//! A snapshot as text for a terminal: aligned columns, no colour, data only.

use std::fmt::Write as _;

use super::{
    plugins,
    snapshot::{
        BackendStatus, BanStatus, BansStatus, CacheDiskStatus, CertificateStatus, Predecessor,
        PurgeLinkStatus, RedisStatus, Snapshot, State, UpstreamStatus,
    },
};

/// Renders the whole status as `edgeway status` prints it.
pub(crate) fn render_text(snapshot: &Snapshot) -> String {
    let mut out = String::with_capacity(2048);
    put_head(&mut out, snapshot);
    put_section(
        &mut out,
        &["LISTENER", "ADDRESS", "OPEN", "ACCEPTED"],
        snapshot.listeners.iter().map(|listener| {
            [
                listener.name.clone(),
                listener.address.clone(),
                listener.connections.to_string(),
                listener.accepted.to_string(),
            ]
        }),
    );
    put_section(
        &mut out,
        &["CERTIFICATE", "EXPIRES", "NEXT", "NOTES"],
        snapshot.certificates.iter().map(certificate_row),
    );
    put_section(
        &mut out,
        &["REDIS", "ADDRESS", "STATE", "SINCE", "NOTES"],
        snapshot.redis.iter().map(redis_row),
    );
    put_section(
        &mut out,
        &["GATEWAY", "PURGES", "APPLIED", "NOTES"],
        snapshot.purges.iter().flat_map(gateway_rows),
    );
    put_section(
        &mut out,
        &["CACHE FOLDER", "STATE", "SINCE", "OBJECTS", "USED", "NOTES"],
        snapshot.cache_disk.iter().map(disk_row),
    );
    put_section(
        &mut out,
        &[
            "UPSTREAM",
            "BACKEND",
            "STATE",
            "IN FLIGHT",
            "REQUESTS",
            "FAILED",
            "AVERAGE",
            "NOTES",
        ],
        snapshot
            .upstreams
            .iter()
            .flat_map(|upstream| upstream.backends.iter().map(move |b| (upstream, b)))
            .map(|(upstream, backend)| backend_row(upstream, backend)),
    );
    put_section(
        &mut out,
        &[
            "PLUGIN", "FILE", "VERSION", "LOADED", "ROUTES", "CALLS", "FAILED", "HEAP", "NOTES",
        ],
        snapshot.plugins.iter().map(plugins::row),
    );
    put_section(
        &mut out,
        &["ROUTE", "MATCH", "ACTION", "FILTERS"],
        snapshot.routes.iter().map(|route| {
            [
                route.name.clone(),
                route.matches.clone(),
                route.action.clone(),
                route.filters.join(" "),
            ]
        }),
    );
    out
}

/// Renders the banned clients as `edgeway bans` prints them.
pub(crate) fn render_bans(bans: &[BanStatus]) -> String {
    let mut out = String::with_capacity(80 * bans.len());
    put_section(
        &mut out,
        &["ADDRESS", "UNTIL", "SINCE", "BY", "STRIKES", "REASON"],
        bans.iter().map(|ban| {
            [
                ban.address.clone(),
                ban.until.clone(),
                ban.since.clone(),
                ban.by.clone(),
                ban.strikes.to_string(),
                ban.reason.clone(),
            ]
        }),
    );
    out.trim_start().to_owned()
}

fn put_head(out: &mut String, snapshot: &Snapshot) {
    let state = match snapshot.state {
        State::Starting => "starting",
        State::Serving => "serving",
        State::Draining => "draining",
    };
    let (config, bans) = (&snapshot.config, &snapshot.bans);
    let mut lines = vec![
        (
            "edgeway",
            format!("{} (pid {})", snapshot.version, snapshot.pid),
        ),
        (
            "state",
            format!("{state}, up {}", uptime(snapshot.uptime_seconds)),
        ),
        (
            "config",
            format!(
                "{}, generation {}, loaded {}",
                config.file, config.generation, config.loaded_at
            ),
        ),
    ];
    if let Some(error) = &config.last_error {
        lines.push(("refused", error.clone()));
    }
    for reason in &snapshot.not_ready {
        lines.push(("not ready", reason.clone()));
    }
    if !config.profiles.is_empty() {
        let active = config.profile.as_deref().unwrap_or("none");
        let all = config.profiles.join(", ");
        lines.push(("profile", format!("{active} (there is {all})")));
    }
    for older in &snapshot.predecessors {
        lines.push(("older", predecessor(older)));
    }
    if *bans != BansStatus::default() {
        lines.push(("bans", bans_line(bans)));
    }
    for (name, text) in lines {
        // Writing to a String cannot fail.
        let _infallible = writeln!(out, "{name:<10} {}", printable(&text));
    }
}

fn bans_line(bans: &BansStatus) -> String {
    let plural = if bans.active == 1 { "" } else { "s" };
    format!(
        "{} client{plural} banned, {} refused recently",
        bans.active, bans.struck
    )
}

/// Describes a predecessor that is draining.
fn predecessor(older: &Predecessor) -> String {
    let plural = if older.connections == 1 { "" } else { "s" };
    format!(
        "process {} ({}): {} connection{plural}, draining since {}",
        older.pid, older.version, older.connections, older.since
    )
}

fn certificate_row(certificate: &CertificateStatus) -> [String; 4] {
    let stand_in = certificate.expires.is_none().then_some("stand-in");
    let failed = (certificate.failures > 0).then(|| {
        let problem = certificate
            .problem
            .as_deref()
            .unwrap_or("no reason recorded");
        format!("failed {} times: {problem}", certificate.failures)
    });
    let notes = stand_in.map(str::to_owned).into_iter().chain(failed);
    [
        certificate.name.clone(),
        or_dash(certificate.expires.as_ref()),
        or_dash(certificate.next.as_ref()),
        notes.collect::<Vec<_>>().join(", "),
    ]
}

fn or_dash(text: Option<&String>) -> String {
    text.cloned().unwrap_or_else(|| "-".to_owned())
}

fn redis_row(redis: &RedisStatus) -> [String; 5] {
    let notes = match &redis.last_error {
        Some(error) if redis.up => format!("last error: {error}"),
        Some(error) => error.clone(),
        None => String::new(),
    };
    [
        redis.mode.clone(),
        redis.address.clone(),
        if redis.up { "up" } else { "down" }.to_owned(),
        redis.since.clone(),
        notes,
    ]
}

/// Rows of this gateway and those that share its purges. Empty if there can be no others.
fn gateway_rows(link: &PurgeLinkStatus) -> Vec<[String; 4]> {
    if !link.shared {
        return Vec::new();
    }
    let word = |is_leased| if is_leased { "leased" } else { "lost" }.to_owned();
    let mut notes = vec!["this one".to_owned()];
    if let Some(since) = &link.lost_since {
        notes.push(format!("lost since {since}"));
    }
    notes.extend(link.last_error.clone());
    if link.unsent > 0 {
        notes.push(format!("{} unsent", link.unsent));
    }
    let own = [
        link.gateway.clone(),
        word(link.leased),
        or_dash(link.applied.as_ref()),
        notes.join(", "),
    ];
    let others = link.others.iter().map(|other| {
        let gateway = other.gateway.clone();
        let applied = other.applied.clone();
        [gateway, word(other.leased), applied, String::new()]
    });
    std::iter::once(own).chain(others).collect()
}

fn disk_row(disk: &CacheDiskStatus) -> [String; 6] {
    let notes = match &disk.last_error {
        Some(error) if disk.state == "up" => format!("last error: {error}"),
        Some(error) => error.clone(),
        None => String::new(),
    };
    let mib = |bytes: u64| (bytes + (1 << 19)) >> 20;
    [
        disk.folder.clone(),
        disk.state.clone(),
        disk.since.clone(),
        disk.objects.to_string(),
        format!("{} of {} MiB", mib(disk.bytes), mib(disk.budget_bytes)),
        notes,
    ]
}

fn backend_row(upstream: &UpstreamStatus, backend: &BackendStatus) -> [String; 8] {
    [
        upstream.name.clone(),
        backend.address.clone(),
        backend.state.to_string(),
        backend.in_flight.to_string(),
        backend.requests.to_string(),
        backend.failures.to_string(),
        backend
            .ewma_ms
            .map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}ms")),
        notes(upstream, backend).join(", "),
    ]
}

/// Notes about unusual settings and states.
fn notes(upstream: &UpstreamStatus, backend: &BackendStatus) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(name) = &upstream.tls {
        notes.push(format!("TLS as {name}"));
    }
    if upstream.protocol == "h2" {
        notes.push("HTTP/2".to_owned());
    }
    if backend.origin == "added" {
        notes.push("added at run time".to_owned());
    }
    if backend.weight > 1 {
        notes.push(format!("weight {}", backend.weight));
    }
    if let Some(seconds) = backend.ejected_for {
        let because = backend.ejected_because.as_deref().unwrap_or("failures");
        notes.push(format!("out for {seconds:.0}s ({because})"));
    }
    match &backend.probe {
        Some(probe) if !probe.passed => {
            notes.push(format!("check {:.0}s ago: {}", probe.ago, probe.text));
        }
        _ => {}
    }
    if upstream.queue > 0 {
        notes.push(format!("{} waiting", upstream.queue));
    }
    if upstream.panic {
        notes.push("none is healthy, so all are used".to_owned());
    }
    notes
}

/// Appends a table after an empty line. Without rows it appends nothing.
fn put_section<const N: usize>(
    out: &mut String,
    titles: &[&str; N],
    rows: impl Iterator<Item = [String; N]>,
) {
    let rows: Vec<[String; N]> = rows.map(|row| row.map(|cell| printable(&cell))).collect();
    if rows.is_empty() {
        return;
    }
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .chain([titles[column].len()])
            .max()
            .unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    out.push('\n');
    put_row(out, titles, &widths);
    for row in &rows {
        put_row(out, &row.each_ref().map(String::as_str), &widths);
    }
}

fn put_row<const N: usize>(out: &mut String, cells: &[&str; N], widths: &[usize; N]) {
    let start = out.len();
    for (cell, width) in cells.iter().zip(widths) {
        // Writing to a String cannot fail.
        let _infallible = write!(out, "{cell:<width$}  ");
    }
    out.truncate(start + out[start..].trim_end().len());
    out.push('\n');
}

/// Escapes control characters in `text`, so that no name can control the terminal.
pub(crate) fn printable(text: &str) -> String {
    if !text.contains(char::is_control) {
        return text.to_owned();
    }
    text.chars()
        .flat_map(|c| {
            let (escaped, plain) = if c.is_control() {
                (Some(c.escape_default()), None)
            } else {
                (None, Some(c))
            };
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

/// Formats the two largest units: `3d 4h`, `12min 5s`.
fn uptime(seconds: u64) -> String {
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3_600 % 24, "h"),
        (seconds / 60 % 60, "min"),
        (seconds % 60, "s"),
    ];
    let first = parts.iter().position(|(n, _)| *n > 0).unwrap_or(3);
    parts[first..]
        .iter()
        .take(2)
        .map(|(n, unit)| format!("{n}{unit}"))
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;
    use crate::status::snapshot::{
        CertificateStatus, ConfigStatus, ListenerStatus, OtherGateway, RouteStatus,
    };

    /// Creates a gateway with one of everything.
    pub(crate) fn full() -> Snapshot {
        Snapshot {
            version: "0.1.0".into(),
            pid: 4242,
            started: "2027-01-15T08:00:00Z".into(),
            uptime_seconds: 93_784,
            state: State::Serving,
            not_ready: vec![],
            config: ConfigStatus {
                file: "edgeway.yaml".into(),
                generation: 3,
                loaded_at: "2027-01-16T09:00:00Z".into(),
                last_error: None,
                profile: Some("peak".into()),
                profiles: vec!["calm".into(), "peak".into()],
            },
            bans: BansStatus {
                active: 1,
                struck: 12,
            },
            predecessors: vec![Predecessor {
                pid: 1234,
                version: "0.0.9".into(),
                connections: 3,
                in_flight: [("web/127.0.0.1:3000".to_owned(), 2)].into(),
                since: "2027-01-16T09:59:00Z".into(),
            }],
            listeners: vec![ListenerStatus {
                name: "public".into(),
                address: "127.0.0.1:8080".into(),
                connections: 12,
                accepted: 3400,
            }],
            certificates: vec![
                CertificateStatus {
                    name: "shop.example.com".into(),
                    expires: Some("2027-04-15T08:00:00.000Z".into()),
                    next: Some("2027-03-15T20:10:00.000Z".into()),
                    ..CertificateStatus::default()
                },
                CertificateStatus {
                    name: "www.example.com".into(),
                    next: Some("2027-01-16T10:10:00.000Z".into()),
                    failures: 2,
                    problem: Some("no such host (dns)".into()),
                    ..CertificateStatus::default()
                },
            ],
            redis: Some(RedisStatus {
                mode: "single".into(),
                address: "10.0.0.5:6379".into(),
                up: false,
                since: "2027-01-16T09:30:00.000Z".into(),
                last_error: Some("no response within 20ms".into()),
            }),
            purges: Some(PurgeLinkStatus {
                gateway: "web-1/4f2a91c3".into(),
                shared: true,
                lost_since: Some("2027-01-16T09:30:03.000Z".into()),
                last_error: Some("no response within 20ms".into()),
                applied: Some("1768555000000-0".into()),
                unsent: 2,
                losses: 1,
                others: vec![OtherGateway {
                    gateway: "web-2/90ab33d0".into(),
                    leased: true,
                    applied: "1768555000000-0".into(),
                }],
                ..PurgeLinkStatus::default()
            }),
            cache_disk: Some(CacheDiskStatus {
                folder: "/var/cache/edgeway".into(),
                state: "full".into(),
                since: "2027-01-16T09:31:00.000Z".into(),
                last_error: Some("No space left on device (os error 28)".into()),
                objects: 5120,
                bytes: 1 << 30,
                budget_bytes: 2 << 30,
            }),
            plugins: vec![plugins::example()],
            routes: vec![RouteStatus {
                name: "api".into(),
                matches: "shop.example.com/api/*".into(),
                action: "upstream api".into(),
                filters: vec!["request_id".into(), "access_log".into()],
            }],
            upstreams: vec![
                serde_json::from_value(json!({
                    "name": "web",
                    "balance": "least_conn",
                    "queue": 0,
                    "panic": false,
                    "backends": [
                        {
                            "address": "127.0.0.1:3000", "weight": 1, "state": "healthy",
                            "in_flight": 2, "requests": 3100, "failures": 0, "ewma_ms": 4.25,
                            "probe": { "passed": true, "text": "200", "took_ms": 0.4, "ago": 2.0 },
                        },
                        {
                            "address": "127.0.0.1:3001", "weight": 2, "state": "ejected",
                            "in_flight": 0, "requests": 120, "failures": 9,
                            "ejected_for": 4.2, "ejected_because": "errors",
                            "probe": {
                                "passed": false, "text": "connection refused", "took_ms": 0.1,
                                "ago": 1.0,
                            },
                        },
                    ],
                }))
                .unwrap(),
            ],
        }
    }

    #[test]
    fn columns_line_up() {
        insta::assert_snapshot!(render_text(&full()), @r"
        edgeway    0.1.0 (pid 4242)
        state      serving, up 1d 2h
        config     edgeway.yaml, generation 3, loaded 2027-01-16T09:00:00Z
        profile    peak (there is calm, peak)
        older      process 1234 (0.0.9): 3 connections, draining since 2027-01-16T09:59:00Z
        bans       1 client banned, 12 refused recently

        LISTENER  ADDRESS         OPEN  ACCEPTED
        public    127.0.0.1:8080  12    3400

        CERTIFICATE       EXPIRES                   NEXT                      NOTES
        shop.example.com  2027-04-15T08:00:00.000Z  2027-03-15T20:10:00.000Z
        www.example.com   -                         2027-01-16T10:10:00.000Z  stand-in, failed 2 times: no such host (dns)

        REDIS   ADDRESS        STATE  SINCE                     NOTES
        single  10.0.0.5:6379  down   2027-01-16T09:30:00.000Z  no response within 20ms

        GATEWAY         PURGES  APPLIED          NOTES
        web-1/4f2a91c3  lost    1768555000000-0  this one, lost since 2027-01-16T09:30:03.000Z, no response within 20ms, 2 unsent
        web-2/90ab33d0  leased  1768555000000-0

        CACHE FOLDER        STATE  SINCE                     OBJECTS  USED              NOTES
        /var/cache/edgeway  full   2027-01-16T09:31:00.000Z  5120     1024 of 2048 MiB  No space left on device (os error 28)

        UPSTREAM  BACKEND         STATE    IN FLIGHT  REQUESTS  FAILED  AVERAGE  NOTES
        web       127.0.0.1:3000  healthy  2          3100      0       4.2ms
        web       127.0.0.1:3001  ejected  0          120       9       -        weight 2, out for 4s (errors), check 1s ago: connection refused

        PLUGIN    FILE                        VERSION       LOADED                    ROUTES   CALLS  FAILED  HEAP          NOTES
        ab-split  plugins/ab-split/plugin.js  0f1e2d3c4b5a  2027-01-16T09:00:00.000Z  api web  3400   7       300 KiB in 2  cpu 2, script 5, left out on api

        ROUTE  MATCH                   ACTION        FILTERS
        api    shop.example.com/api/*  upstream api  request_id access_log
        ");
    }

    #[test]
    fn trouble_stands_at_the_top() {
        let mut snapshot = full();
        snapshot.config.last_error = Some("unknown key `lisen`".into());
        snapshot.not_ready = vec!["no backend of `web` is healthy".into()];
        let text = render_text(&snapshot);
        let head: Vec<&str> = text.lines().skip(3).take(2).collect();
        assert_eq!(
            head,
            [
                "refused    unknown key `lisen`",
                "not ready  no backend of `web` is healthy"
            ]
        );
    }

    #[test]
    fn no_name_steers_the_terminal() {
        let mut snapshot = full();
        snapshot.routes[0].name = "a\u{1b}[2Jb".into();
        let text = render_text(&snapshot);
        assert!(text.contains("a\\u{1b}[2Jb"), "{text}");
    }

    #[test]
    fn an_empty_gateway_prints_its_header_only() {
        assert_eq!(render_text(&Snapshot::default()).lines().count(), 3);
    }

    #[test]
    fn uptimes_show_two_parts() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1min 0s"),
            (3_661, "1h 1min"),
            (90_061, "1d 1h"),
        ] {
            assert_eq!(uptime(seconds), text);
        }
    }
}
