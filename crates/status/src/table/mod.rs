//! A snapshot as text for a terminal: aligned columns, no colour, data only.

mod layout;

use edgeway_base::out::counted;

use self::layout::Layout;
use super::{
    latencies::{self, Slowness},
    plugins, problems,
    snapshot::{
        BackendStatus, BanStatus, BansStatus, CacheDiskStatus, CertificateStatus, Predecessor,
        PurgeLinkStatus, RedisStatus, Snapshot, State, UpstreamStatus,
    },
};

/// Renders the whole status as `edgeway status` prints it, in lines that are no longer than `width`.
pub fn render_text(snapshot: &Snapshot, width: Option<usize>) -> String {
    let mut out = Layout::new(width);
    put_head(&mut out, snapshot);
    out.table(
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
    out.table(
        &["CERTIFICATE", "EXPIRES", "NEXT", "NOTES"],
        (snapshot.certificates.iter().map(certificate_row)).chain(file_rows(snapshot)),
    );
    out.table(
        &["REDIS", "ADDRESS", "STATE", "SINCE", "NOTES"],
        snapshot.redis.iter().map(redis_row),
    );
    out.table(
        &["GATEWAY", "PURGES", "APPLIED", "NOTES"],
        snapshot.purges.iter().flat_map(gateway_rows),
    );
    out.table(
        &["CACHE FOLDER", "STATE", "SINCE", "OBJECTS", "USED", "NOTES"],
        snapshot.cache_disk.iter().map(disk_row),
    );
    out.table(
        &[
            "UPSTREAM",
            "BACKEND",
            "STATE",
            "IN FLIGHT",
            "REQUESTS",
            "FAILED TRIES",
            "LAST MIN",
            "AVERAGE",
            "NOTES",
        ],
        latencies::backends(&snapshot.upstreams)
            .map(|(upstream, backend, slow)| backend_row(upstream, backend, slow))
            .chain(snapshot.upstreams.iter().filter_map(empty_row)),
    );
    out.table(
        &["UPSTREAM", "REPLACED", "ENDED BY"],
        snapshot.upstreams.iter().filter_map(|upstream| {
            let by = format!("process {}", upstream.retiring?);
            let releases = upstream.replaced_releases().join(" ");
            Some([upstream.name.clone(), releases, by])
        }),
    );
    out.table(
        &["UPSTREAM", "CANARY"],
        snapshot
            .upstreams
            .iter()
            .filter_map(|upstream| Some([upstream.name.clone(), upstream.trial_text()?])),
    );
    out.table(
        &[
            "PLUGIN", "FILE", "VERSION", "LOADED", "ROUTES", "CALLS", "FAILED", "HEAP", "NOTES",
        ],
        snapshot.plugins.iter().map(plugins::row),
    );
    out.table(
        &[
            "ROUTE", "MATCH", "ACTION", "RATE", "FAILED", "P95", "P99", "HITS", "FILTERS",
        ],
        snapshot.routes.iter().map(|route| {
            let traffic = &route.traffic;
            [
                route.name.clone(),
                route.matches.clone(),
                route.action.clone(),
                format!("{:.1}/s", traffic.rate),
                format!("{:.1}/s", traffic.server_error_rate),
                milliseconds(traffic.p95_ms),
                milliseconds(traffic.p99_ms),
                traffic
                    .hit_ratio
                    .map(|ratio| format!("{:.0}%", 100.0 * ratio))
                    .unwrap_or_default(),
                route.filters.join(" "),
            ]
        }),
    );
    out.text
}

fn milliseconds(value: Option<f64>) -> String {
    value.map_or_else(String::new, |value| format!("{value:.1}ms"))
}

/// Returns a text in lines that are no longer than `width`.
pub fn wrapped(text: &str, width: usize) -> String {
    let mut out = Layout::new(Some(width));
    out.lines(text);
    out.text
}

/// Renders the banned clients as `edgeway bans` prints them.
pub fn render_bans(bans: &[BanStatus]) -> String {
    let mut out = Layout::new(None);
    out.table(
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
    out.text.trim_start().to_owned()
}

fn put_head(out: &mut Layout, snapshot: &Snapshot) {
    let state = snapshot.state.name();
    let (config, bans) = (&snapshot.config, &snapshot.bans);
    let time = problems::time_of(snapshot).unwrap_or_default();
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
    if let Some(trial) = &config.canary {
        lines.push((
            "trial",
            format!(
                "of this configuration, for {}% of the clients, until {}",
                trial.share, trial.until
            ),
        ));
    }
    for problem in problems::find(snapshot, time) {
        lines.push((problem.severity.name(), problem.line()));
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
        let clients = counted(bans.active, "client");
        lines.push((
            "bans",
            format!("{clients} banned, {} with strikes", bans.struck),
        ));
    }
    for (name, text) in lines {
        out.fact(name, &text);
    }
}

/// Describes a predecessor that is draining.
fn predecessor(older: &Predecessor) -> String {
    let (pid, version, since) = (older.pid, &older.version, &older.since);
    let connections = counted(older.connections, "connection");
    format!("process {pid} ({version}): {connections}, draining since {since}")
}

fn certificate_row(certificate: &CertificateStatus) -> [String; 4] {
    let stand_in = certificate.expires.is_none().then_some("stand-in");
    let failed = (certificate.failures > 0).then(|| {
        let problem = certificate.problem.as_deref();
        let problem = problem.unwrap_or("no reason recorded");
        let orders = counted(certificate.failures, "failed order");
        format!("{orders}: {problem}")
    });
    let notes = stand_in.map(str::to_owned).into_iter().chain(failed);
    [
        certificate.name.clone(),
        or_dash(certificate.expires.as_ref()),
        or_dash(certificate.next.as_ref()),
        notes.collect::<Vec<_>>().join(", "),
    ]
}

/// Rows of the certificates in files: the others have rows of their own.
fn file_rows(snapshot: &Snapshot) -> impl Iterator<Item = [String; 4]> {
    let is_issued = |name: &str| snapshot.certificates.iter().any(|c| c.name == name);
    let files = snapshot.expiries.iter();
    let files = files.filter(move |expiry| !is_issued(&expiry.name));
    files.map(|expiry| {
        let notes = format!("file of listener {}", expiry.listener);
        [
            expiry.name.clone(),
            expiry.expires.clone(),
            "-".to_owned(),
            notes,
        ]
    })
}

fn or_dash(text: Option<&String>) -> String {
    text.cloned().unwrap_or_else(|| "-".to_owned())
}

fn redis_row(redis: &RedisStatus) -> [String; 5] {
    [
        redis.mode.clone(),
        redis.address.clone(),
        redis.state().to_owned(),
        redis.since.clone(),
        last_error(redis.last_error.as_ref(), redis.up),
    ]
}

fn last_error(error: Option<&String>, is_up: bool) -> String {
    match error {
        Some(error) if is_up => format!("last error: {error}"),
        error => error.cloned().unwrap_or_default(),
    }
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
    notes.extend((link.unsent > 0).then(|| format!("{} unsent", link.unsent)));
    let here = [
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
    std::iter::once(here).chain(others).collect()
}

fn disk_row(disk: &CacheDiskStatus) -> [String; 6] {
    [
        disk.folder.clone(),
        disk.state.clone(),
        disk.since.clone(),
        disk.objects.to_string(),
        format!("{} of {} MiB", mib(disk.bytes), mib(disk.budget_bytes)),
        last_error(disk.last_error.as_ref(), disk.state == "up"),
    ]
}

/// Mebibytes, rounded.
fn mib(bytes: u64) -> u64 {
    (bytes + (1 << 19)) >> 20
}

fn backend_row(
    upstream: &UpstreamStatus,
    backend: &BackendStatus,
    slow: Option<Slowness>,
) -> [String; 9] {
    let mut notes = notes(upstream, backend);
    notes.splice(0..0, slow.map(|slow| slow.to_string()));
    [
        upstream.name.clone(),
        backend.address.clone(),
        problems::state(backend).to_owned(),
        backend.in_flight.to_string(),
        backend.requests.to_string(),
        backend.failures.to_string(),
        or_dash(
            backend
                .recent_failures
                .map(|count| count.to_string())
                .as_ref(),
        ),
        backend
            .ewma_ms
            .map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}ms")),
        notes.join(", "),
    ]
}

/// Row of an upstream without backends.
fn empty_row(upstream: &UpstreamStatus) -> Option<[String; 9]> {
    let dashes = || std::array::from_fn(|_| "-".to_owned());
    let mut row: [String; 9] = upstream.backends.is_empty().then(dashes)?;
    row[0].clone_from(&upstream.name);
    "no backend".clone_into(&mut row[8]);
    Some(row)
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
    notes.extend((backend.origin == "added").then(|| "added at run time".to_owned()));
    notes.extend((backend.weight > 1).then(|| format!("weight {}", backend.weight)));
    notes.extend(backend.backup.then(|| "backup".to_owned()));
    notes.extend(backend.release.as_ref().map(|it| format!("release {it}")));
    if let Some(absence) = problems::absence(backend) {
        notes.push(format!("{}{absence}", backend.state));
    }
    notes.extend(problems::untried(backend));
    notes.extend(problems::failures(backend));
    notes.extend(problems::silence(backend));
    match (&backend.node, backend.process_rss_bytes) {
        (Some(node), _) => notes.push(node.to_string()),
        (None, Some(rss)) => notes.push(format!("process rss {} MiB", mib(rss))),
        (None, None) => {}
    }
    if let Some(excess) = upstream.excess(backend) {
        notes.push(excess.to_string());
    }
    match &backend.probe {
        Some(probe) if !probe.passed => {
            notes.push(format!("check {:.0}s ago: {}", probe.ago, probe.text));
        }
        _ => {}
    }
    notes.extend((upstream.queue > 0).then(|| format!("{} waiting", upstream.queue)));
    if upstream.panic {
        notes.push("none is healthy, so all are used".to_owned());
    }
    notes
}

/// Formats the two largest units: `3d 4h`, `12min 5s`.
pub fn uptime(seconds: u64) -> String {
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

#[doc(hidden)]
pub mod testkit;
#[cfg(test)]
mod tests;
