//! The status as a page for people. Every value is escaped.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::status::snapshot::{
    BackendStatus, CacheDiskStatus, CertificateStatus, ListenerStatus, PluginStatus,
    PurgeLinkStatus, RedisStatus, RouteStatus, Snapshot, State, UpstreamStatus,
};

const STYLE: &str = include_str!("page.css");

/// Renders the whole page.
pub(super) fn status(status: &Snapshot) -> Markup {
    let state = state(status.state);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="refresh" content="5";
                title { "edgeway · " (state) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 {
                    "edgeway " (status.version) ": "
                    (mark(status.state == State::Serving && status.not_ready.is_empty(), state))
                }
                (summary(status))
                h2 { "Listeners" }
                (listeners(&status.listeners))
                @if !status.certificates.is_empty() {
                    h2 { "Certificates by ACME" }
                    (certificates(&status.certificates))
                }
                @if let Some(status) = &status.redis {
                    h2 { "Redis" }
                    (redis(status))
                }
                @if let Some(link) = status.purges.as_ref().filter(|link| link.shared) {
                    h2 { "Gateways that share purges" }
                    (purges(link))
                }
                @if let Some(disk) = &status.cache_disk {
                    h2 { "Cache on disk" }
                    (cache_disk(disk))
                }
                h2 { "Upstreams" }
                (upstreams(&status.upstreams))
                @if !status.plugins.is_empty() {
                    h2 { "Plugins" }
                    (plugins(&status.plugins))
                }
                h2 { "Routes" }
                (routes(&status.routes))
            }
        }
    }
}

fn state(state: State) -> &'static str {
    match state {
        State::Starting => "starting",
        State::Serving => "serving",
        State::Draining => "draining",
    }
}

/// Text in green or red.
fn mark(is_good: bool, text: &str) -> Markup {
    html! { span class=(if is_good { "good" } else { "bad" }) { (text) } }
}

/// A plural's ending.
fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// A table that scrolls sideways on a narrow screen. Columns of numbers begin with `#`.
fn table(columns: &[&str], rows: &Markup) -> Markup {
    html! {
        div class="wide" {
            table {
                tr {
                    @for column in columns {
                        @if let Some(number) = column.strip_prefix('#') {
                            th class="number" { (number) }
                        } @else {
                            th { (column) }
                        }
                    }
                }
                (rows)
            }
        }
    }
}

/// The row of an empty table.
fn none(columns: usize) -> Markup {
    html! { tr { td colspan=(columns) class="soft" { "none" } } }
}

fn summary(status: &Snapshot) -> Markup {
    let (config, bans) = (&status.config, &status.bans);
    html! {
        p class="soft" {
            "pid " (status.pid) ", up " (status.uptime_seconds) " s, started "
            time { (status.started) }
        }
        p class="soft" {
            "configuration " code { (config.file) } ", generation " (config.generation)
            ", loaded " time { (config.loaded_at) }
        }
        @if !config.profiles.is_empty() {
            p class="soft" { "profile " code { (config.profile.as_deref().unwrap_or("none")) } }
        }
        @if let Some(error) = &config.last_error {
            p class="bad" { "The last reload was refused: " (error) }
        }
        @for older in &status.predecessors {
            p class="soft" {
                "Older process " (older.pid) " (" (older.version) "): " (older.connections)
                " connection" (plural(older.connections)) ", draining since "
                time { (older.since) }
            }
        }
        @if bans.active > 0 || bans.struck > 0 {
            p class="soft" {
                (bans.active) " client" (plural(bans.active as u64)) " banned, " (bans.struck)
                " refused recently"
            }
        }
        @for reason in &status.not_ready {
            p class="bad" { "Not ready: " (reason) }
        }
    }
}

fn listeners(listeners: &[ListenerStatus]) -> Markup {
    let rows = html! {
        @for listener in listeners {
            tr {
                td { (listener.name) }
                td { code { (listener.address) } }
                td class="number" { (listener.connections) }
                td class="number" { (listener.accepted) }
            }
        }
        @if listeners.is_empty() { (none(4)) }
    };
    table(&["Name", "Address", "#Open", "#Accepted"], &rows)
}

fn certificates(certificates: &[CertificateStatus]) -> Markup {
    let rows = html! {
        @for certificate in certificates {
            tr {
                td { (certificate.name) }
                td {
                    @match &certificate.expires {
                        Some(expires) => { time { (expires) } }
                        None => { (mark(false, "stand-in")) }
                    }
                }
                td { @if let Some(next) = &certificate.next { time { (next) } } }
                td class="soft" {
                    @if certificate.failures > 0 {
                        (mark(false, &format!("failed {} times", certificate.failures)))
                        ": " (certificate.problem.as_deref().unwrap_or_default())
                    }
                }
            }
        }
    };
    table(&["Name", "Expires", "Next", "Notes"], &rows)
}

/// The last error of something that may have recovered since.
fn last_error(error: Option<&str>, is_up: bool) -> Markup {
    html! {
        @if let Some(error) = error {
            @if is_up { "last error: " }
            (error)
        }
    }
}

fn redis(status: &RedisStatus) -> Markup {
    let rows = html! {
        tr {
            td { (status.mode) }
            td { code { (status.address) } }
            td {
                (mark(status.up, if status.up { "up" } else { "down" }))
                " since " time { (status.since) }
            }
            td class="soft" { (last_error(status.last_error.as_deref(), status.up)) }
        }
    };
    table(&["Mode", "Address", "State", "Notes"], &rows)
}

fn lease(is_held: bool) -> Markup {
    mark(is_held, if is_held { "held" } else { "lost" })
}

fn purges(link: &PurgeLinkStatus) -> Markup {
    let rows = html! {
        tr {
            td { (link.gateway) }
            td {
                (lease(link.leased))
                @if let Some(since) = &link.lost_since { " since " time { (since) } }
            }
            td { code { (link.applied.as_deref().unwrap_or_default()) } }
            td class="soft" {
                "this one"
                @if let Some(error) = &link.last_error { ", " (error) }
                @if link.unsent > 0 { ", " (mark(false, &format!("{} purges unsent", link.unsent))) }
            }
        }
        @for other in &link.others {
            tr {
                td { (other.gateway) }
                td { (lease(other.leased)) }
                td { code { (other.applied) } }
                td {}
            }
        }
    };
    table(&["Gateway", "Lease", "Applied", "Notes"], &rows)
}

#[allow(clippy::cast_precision_loss, reason = "it is rounded to a tenth")]
fn mebibytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1_048_576.0)
}

fn cache_disk(disk: &CacheDiskStatus) -> Markup {
    let is_up = disk.state == "up";
    let rows = html! {
        tr {
            td { code { (disk.folder) } }
            td { (mark(is_up, &disk.state)) " since " time { (disk.since) } }
            td class="number" { (disk.objects) }
            td class="number" { (mebibytes(disk.bytes)) }
            td class="number" { (mebibytes(disk.budget_bytes)) }
            td class="soft" { (last_error(disk.last_error.as_deref(), is_up)) }
        }
    };
    let columns = ["Folder", "State", "#Objects", "#MiB", "#of MiB", "Notes"];
    table(&columns, &rows)
}

fn upstreams(upstreams: &[UpstreamStatus]) -> Markup {
    let rows = html! {
        @for upstream in upstreams {
            @for (index, backend) in upstream.backends.iter().enumerate() {
                tr {
                    td { @if index == 0 { (upstream_name(upstream)) } }
                    (backend_cells(backend))
                }
            }
        }
        @if upstreams.is_empty() { (none(7)) }
    };
    let columns = [
        "Upstream",
        "Backend",
        "State",
        "#In flight",
        "#Requests",
        "#Failed",
        "#Average",
    ];
    table(&columns, &rows)
}

fn upstream_name(upstream: &UpstreamStatus) -> Markup {
    html! {
        (upstream.name) " " span class="soft" { (upstream.balance) }
        @if upstream.queue > 0 { " " (mark(false, &format!("{} waiting", upstream.queue))) }
        @if upstream.panic { " " (mark(false, "none is healthy, so all are used")) }
    }
}

fn backend_cells(backend: &BackendStatus) -> Markup {
    html! {
        td { code { (backend.address) } }
        td {
            (mark(backend.state == "healthy", &backend.state))
            @if let Some(seconds) = backend.ejected_for {
                " for " (format!("{seconds:.0}")) " s ("
                (backend.ejected_because.as_deref().unwrap_or_default()) ")"
            }
            @if let Some(probe) = backend.probe.as_ref().filter(|probe| !probe.passed) {
                br;
                span class="soft" { "check: " (probe.text) }
            }
        }
        td class="number" { (backend.in_flight) }
        td class="number" { (backend.requests) }
        td class="number" { (backend.failures) }
        td class="number" { @if let Some(average) = backend.ewma_ms { (format!("{average:.1} ms")) } }
    }
}

fn plugins(plugins: &[PluginStatus]) -> Markup {
    let rows = html! {
        @for plugin in plugins {
            @for (index, route) in plugin.routes.iter().enumerate() {
                @let is_first = index == 0;
                tr {
                    td { @if is_first { (plugin.name) } }
                    td { @if is_first { code { (plugin.file) } } }
                    td {
                        @if is_first {
                            code { (plugin.version) } " since " time { (plugin.loaded_at) }
                        }
                    }
                    td { (route.route) }
                    td class="number" { (route.calls) }
                    td class="number" { @if is_first { (plugin.heap_bytes.div_ceil(1024)) } }
                    td {
                        @if route.left_out { (mark(false, "left out")) " " }
                        span class="soft" {
                            @for (kind, count) in &route.failures { (kind) " " (count) " " }
                        }
                    }
                }
            }
        }
    };
    let columns = [
        "Name", "File", "Version", "Route", "#Calls", "#KiB", "Failed",
    ];
    table(&columns, &rows)
}

fn routes(routes: &[RouteStatus]) -> Markup {
    let rows = html! {
        @for route in routes {
            tr {
                td { (route.name) }
                td { code { (route.matches) } }
                td { (route.action) }
                td class="soft" { (route.filters.join(" ")) }
            }
        }
        @if routes.is_empty() { (none(4)) }
    };
    table(&["Name", "Match", "Action", "Filters"], &rows)
}
