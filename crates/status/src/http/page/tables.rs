//! The sections of the page: one function for each, with nothing if there is nothing to show.
//! Every value is escaped.

use edgeway_base::out::{counted, program};
use maud::{Markup, PreEscaped, html};

use super::{
    summary,
    view::{PageView, hidden_csrf},
};
use crate::{
    latencies::{Latencies, Slowness},
    problems,
    snapshot::{
        BackendStatus, BanStatus, CacheDiskStatus, CacheStatus, CertificateExpiry,
        CertificateStatus, LimitStatus, ListenerStatus, PurgeLinkStatus, RedisStatus, ReloadStatus,
        Snapshot, State, UpstreamStatus, UpstreamTraffic,
    },
    table,
};

/// Text in green or red.
pub(super) fn mark(is_good: bool, text: &str) -> Markup {
    html! { span class=(if is_good { "good" } else { "bad" }) { (text) } }
}

/// Header of the column of buttons. Their texts say it to those who see them.
const ACTION: &str = "Action";

/// A table that scrolls sideways on a narrow screen, by the keyboard too. Columns of numbers begin
/// with `#`.
pub(super) fn table(columns: &[&str], rows: &Markup) -> Markup {
    html! {
        div class="wide" tabindex="0" data-key=[columns.first()] {
            table {
                tr class="columns" {
                    @for column in columns {
                        @if let Some(number) = column.strip_prefix('#') {
                            th class="number" { (number) }
                        } @else if *column == ACTION {
                            th class="unseen" { span { (column) } }
                        } @else {
                            th { (column) }
                        }
                    }
                }
                (labelled(columns, rows))
            }
        }
    }
}

/// Gives each cell the name of its column, which narrow screens show in place of the header.
pub(super) fn labelled(columns: &[&str], rows: &Markup) -> PreEscaped<String> {
    let mut labelled = String::with_capacity(rows.0.len() * 2);
    let mut rest = rows.0.as_str();
    let mut column = 0;
    // Values are escaped: a tag is one that was written here.
    while let Some(found) = rest.find("<t") {
        let (before, tag) = rest.split_at(found + "<tr".len());
        labelled.push_str(before);
        rest = tag;
        if before.ends_with('r') {
            column = 0;
        } else if before.ends_with('d') {
            let name = columns.get(column).copied().filter(|name| *name != ACTION);
            let name = name.unwrap_or_default().trim_start_matches('#');
            labelled.push_str(" data-label=\"");
            labelled.push_str(name);
            labelled.push('"');
            column += 1;
        }
    }
    labelled.push_str(rest);
    PreEscaped(labelled)
}

/// The row of an empty table.
pub(super) fn none(columns: usize) -> Markup {
    html! { tr { td colspan=(columns) class="soft" { "none" } } }
}

/// Formats a time of RFC 3339 in UTC to the second.
pub(super) fn when(time: &str) -> Markup {
    let short = time.get(..19).map(|text| text.replace('T', " "));
    html! { time datetime=(time) { (short.as_deref().unwrap_or(time)) " UTC" } }
}

/// A number per second, without digits that say nothing.
pub(super) fn rate(rate: f64) -> String {
    match rate {
        0.0 => "0".to_owned(),
        rate if rate < 10.0 => format!("{rate:.1}"),
        rate => format!("{rate:.0}"),
    }
}

pub(super) fn per_cent(share: Option<f64>) -> String {
    match share {
        None => "–".to_owned(),
        Some(share) if share > 0.0 && share < 0.1 => format!("{:.1} %", share * 100.0),
        Some(share) => format!("{:.0} %", share * 100.0),
    }
}

pub(super) fn milliseconds(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(value) if value < 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.0}"),
    }
}

/// A form with one button. `name` says what it acts on to those who do not see its row.
fn button(
    csrf: Option<&str>,
    action: &str,
    fields: &[(&str, &str)],
    (label, name): (&str, &str),
) -> Markup {
    // Focus stays on the same button when the section is replaced.
    let place: Vec<&str> = fields.iter().map(|(_, value)| *value).collect();
    html! {
        form method="post" action={ "/status/act/" (action) } class="inline" {
            (hidden_csrf(csrf))
            @for (name, value) in fields { input type="hidden" name=(name) value=(value); }
            button data-key={ (action) " " (place.join(" ")) } aria-label={ (label) " " (name) } {
                (label)
            }
        }
    }
}

pub(super) fn summary(view: &PageView<'_>) -> Markup {
    let status = view.snapshot;
    let (config, process) = (&status.config, &status.process);
    let at = problems::time_of(status).unwrap_or_default();
    let problems = problems::of(status, at);
    html! {
        h1 {
            "edgeway " (status.version) ": "
            (mark(status.state == State::Serving && status.not_ready.is_empty(), status.state.name()))
            (summary::counts(&problems))
        }
        (summary::list(&problems))
        p class="soft" {
            "pid " (status.pid) ", up " (table::uptime(status.uptime_seconds)) ", started " (when(&status.started))
            ", CPU " (format!("{:.0}", process.cpu * 100.0)) " %, memory "
            (mebibytes(process.memory_bytes)) " MiB"
        }
        p class="soft" {
            "configuration " code { (config.file) } ", generation " (config.generation)
            ", loaded " (when(&config.loaded_at))
            @if !config.profiles.is_empty() {
                ", profile " code { (config.profile.as_deref().unwrap_or("none")) }
            }
        }
        @for older in &status.predecessors {
            p class="soft" {
                "Older process " (older.pid) " (" (older.version) "): "
                (counted(older.connections, "connection")) ", draining since " (when(&older.since))
            }
        }
    }
}

pub(super) fn limits(view: &PageView<'_>) -> Markup {
    let (status, bans) = (view.snapshot, &view.bans);
    html! {
        h2 { "Limits and bans" }
        @if !status.limits.is_empty() { (limit_table(&status.limits)) }
        @if !bans.is_empty() { (ban_table(bans, view.csrf.as_deref())) }
        p class="soft" {
            (counted(status.bans.active, "client")) " banned, " (status.bans.struck)
            " with strikes"
        }
    }
}

fn limit_table(limits: &[LimitStatus]) -> Markup {
    let rows = html! {
        @for limit in limits {
            tr {
                td { (limit.name) }
                td class="number" { (limit.passed) }
                td class="number" { (limit.delayed) }
                td class="number" { (limit.refused) }
                td class="number" { (limit.exempt) }
                td class="number" {
                    @if limit.without_redis > 0 { (mark(false, &limit.without_redis.to_string())) }
                    @else { "0" }
                }
            }
        }
    };
    let columns = [
        "Limit",
        "#Passed",
        "#Delayed",
        "#Refused",
        "#Exempt",
        "#Without Redis",
    ];
    table(&columns, &rows)
}

fn ban_table(bans: &[BanStatus], csrf: Option<&str>) -> Markup {
    /// Bans that are shown. `edgeway bans` lists all.
    const SHOWN: usize = 100;
    let rows = html! {
        @for ban in bans.iter().take(SHOWN) {
            tr {
                td { code { (ban.address) } }
                td { (ban.reason) }
                td { (ban.by) }
                td { (when(&ban.until)) }
                @let address = &*ban.address;
                td { (button(csrf, "unban", &[("address", address)], ("Unban", address))) }
            }
        }
        @if bans.len() > SHOWN {
            tr { td colspan="5" class="soft" { "and " (bans.len() - SHOWN) " more: " code { (program()) " bans" } } }
        }
    };
    table(&["Banned client", "Reason", "By", "Until", ACTION], &rows)
}

pub(super) fn cache(status: &Snapshot) -> Markup {
    html! {
        @if let Some(cache) = &status.cache {
            h2 { "Cache" }
            (cache_memory(cache))
            @if let Some(disk) = &status.cache_disk { (cache_disk(disk)) }
        }
    }
}

fn cache_memory(cache: &CacheStatus) -> Markup {
    let rows = html! {
        tr {
            td { "memory" }
            td class="number" { (cache.objects) }
            td class="number" { (mebibytes(cache.bytes)) }
            td class="number" { (mebibytes(cache.budget_bytes)) }
            td class="number" { (cache.evictions) }
        }
    };
    table(
        &["Tier", "#Responses", "#MiB", "#of MiB", "#Evicted"],
        &rows,
    )
}

pub(super) fn reloads(reloads: &[ReloadStatus]) -> Markup {
    let rows = html! {
        @for reload in reloads {
            tr {
                td { (when(&reload.at)) }
                td class="number" { (reload.generation) }
                td {
                    @if let Some(error) = &reload.error {
                        (mark(false, "refused")) ": " span class="lines" { (error) }
                    } @else if reload.changes.is_empty() {
                        span class="soft" { "nothing changed" }
                    } @else {
                        @for change in &reload.changes { code class="line" { (change) } }
                    }
                }
            }
        }
    };
    html! {
        @if !reloads.is_empty() {
            h2 { "Last reloads" }
            (table(&["Time", "#Generation", "Changes"], &rows))
        }
    }
}

pub(super) fn certificates(status: &Snapshot) -> Markup {
    html! {
        @if !status.expiries.is_empty() || !status.certificates.is_empty() {
            h2 { "Certificates" }
            @if !status.expiries.is_empty() { (expiries(status)) }
            @if !status.certificates.is_empty() { (by_acme(&status.certificates)) }
        }
    }
}

fn expiries(status: &Snapshot) -> Markup {
    let at = problems::time_of(status).unwrap_or_default();
    let row = |expiry: &CertificateExpiry| {
        let left = problems::time_left(expiry, at);
        let is_good = !left.is_some_and(problems::is_soon);
        let text = match left.map(|left| (left.num_seconds(), left.num_days())) {
            None => String::new(),
            Some((..=0, _)) => "expired".to_owned(),
            Some((_, days)) => format!("{} left", counted(days, "day")),
        };
        html! {
            tr {
                td { (expiry.name) }
                td { (expiry.listener) }
                td { (when(&expiry.expires)) }
                td { (mark(is_good, &text)) }
            }
        }
    };
    let rows = html! { @for expiry in &status.expiries { (row(expiry)) } };
    table(&["Certificate", "Listener", "Expires", "Remaining"], &rows)
}

pub(super) fn listeners(listeners: &[ListenerStatus]) -> Markup {
    html! { h2 { "Listeners" } (listener_table(listeners)) }
}

pub(super) fn shared(status: &Snapshot) -> Markup {
    html! {
        @if let Some(status) = &status.redis {
            h2 { "Redis" }
            (redis(status))
        }
        @if let Some(link) = status.purges.as_ref().filter(|link| link.shared) {
            h2 { "Gateways that share purges" }
            (purges(link))
        }
    }
}

fn listener_table(listeners: &[ListenerStatus]) -> Markup {
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

fn by_acme(certificates: &[CertificateStatus]) -> Markup {
    let rows = html! {
        @for certificate in certificates {
            tr {
                td { (certificate.name) }
                td {
                    @match &certificate.expires {
                        Some(expires) => { (when(expires)) }
                        None => { (mark(false, "stand-in")) }
                    }
                }
                td { @if let Some(next) = &certificate.next { (when(next)) } }
                td class="soft" {
                    @if certificate.failures > 0 {
                        (mark(false, &counted(certificate.failures, "failed order")))
                        ": " (certificate.problem.as_deref().unwrap_or_default())
                    }
                }
            }
        }
    };
    table(&["By ACME", "Expires", "Next order", "Notes"], &rows)
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
                (mark(status.state() == "up", status.state()))
                " since " (when(&status.since))
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
                @if let Some(since) = &link.lost_since { " since " (when(since)) }
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
            td {
                @if !is_up && problems::is_disk_fine(&disk.state) { (disk.state) }
                @else { (mark(is_up, &disk.state)) }
                " since " (when(&disk.since))
            }
            td class="number" { (disk.objects) }
            td class="number" { (mebibytes(disk.bytes)) }
            td class="number" { (mebibytes(disk.budget_bytes)) }
            td class="soft" { (last_error(disk.last_error.as_deref(), is_up)) }
        }
    };
    let columns = ["Folder", "State", "#Objects", "#MiB", "#of MiB", "Notes"];
    table(&columns, &rows)
}

pub(super) fn upstreams(view: &PageView<'_>) -> Markup {
    let upstreams = &view.snapshot.upstreams;
    let rows = html! {
        @for upstream in upstreams {
            tr class="group" {
                th colspan="8" scope="rowgroup" { (upstream_name(upstream)) }
            }
            @let latencies = Latencies::of(upstream);
            @for backend in &upstream.backends {
                @let slow = latencies.slowness(backend);
                tr { (backend_cells(upstream, backend, slow, view.csrf.as_deref())) }
            }
        }
        @if upstreams.is_empty() { (none(8)) }
    };
    let columns = [
        "Backend",
        "State",
        "#In flight",
        "#Requests",
        "#Failed tries",
        "#Last minute",
        "#Average",
        ACTION,
    ];
    html! { h2 { "Upstreams" } (table(&columns, &rows)) }
}

fn upstream_name(upstream: &UpstreamStatus) -> Markup {
    html! {
        (upstream.name) " "
        span class="soft" {
            (upstream.balance)
            @if let Some(traffic) = &upstream.traffic { ", " (upstream_traffic(traffic)) }
        }
        @if upstream.queue > 0 { " " (mark(false, &format!("{} waiting", upstream.queue))) }
        @if upstream.panic { " " (mark(false, "none is healthy, so all are used")) }
        @if let Some(trial) = upstream.trial_text() { br; span class="soft" { (trial) } }
    }
}

fn upstream_traffic(traffic: &UpstreamTraffic) -> Markup {
    html! {
        (rate(traffic.rate)) " requests/s"
        @if traffic.failure_rate > 0.0 {
            ", " (mark(false, &format!("{} failed/s", rate(traffic.failure_rate))))
        }
        @if traffic.p95_ms.is_some() {
            ", p95 " (milliseconds(traffic.p95_ms)) " ms, p99 " (milliseconds(traffic.p99_ms)) " ms"
        }
    }
}

fn backend_cells(
    upstream: &UpstreamStatus,
    backend: &BackendStatus,
    slow: Option<Slowness>,
    csrf: Option<&str>,
) -> Markup {
    let place = [
        ("upstream", upstream.name.as_str()),
        ("address", backend.address.as_str()),
    ];
    let name = format!("{} of {}", backend.address, upstream.name);
    html! {
        td {
            code { (backend.address) }
            @if let Some(release) = &backend.release { br; span class="soft" { "release " (release) } }
        }
        td {
            @let state = problems::state(backend);
            (mark(matches!(state, "healthy" | "unknown"), state))
            @if let Some(absence) = problems::absence(backend) { (absence) }
            @if let Some(probe) = backend.probe.as_ref().filter(|probe| !probe.passed) {
                br;
                span class="soft" { "check: " (probe.text) }
            }
            @if let Some(untried) = problems::untried(backend) { br; span class="soft" { (untried) } }
            @if let Some(failures) = problems::failures(backend) { br; (mark(false, &failures)) }
            @if let Some(silence) = problems::silence(backend) { br; (mark(false, &silence)) }
            @if let Some(slow) = slow { br; (mark(false, &slow.to_string())) }
            @if let Some(node) = &backend.node { br; span class="soft" { (node) } }
            @if let Some(excess) = upstream.excess(backend) { br; (mark(false, &excess.to_string())) }
        }
        td class="number" { (backend.in_flight) }
        td class="number" { (backend.requests) }
        td class="number" { (backend.failures) }
        td class="number" {
            @match backend.recent_failures {
                Some(0) => { "0" }
                Some(count) => { (mark(false, &count.to_string())) }
                None => { "–" }
            }
        }
        td class="number" { @if let Some(average) = backend.ewma_ms { (format!("{average:.1} ms")) } }
        td {
            @if problems::is_drained(backend) { (button(csrf, "undrain", &place, ("Undrain", &name))) }
            @else { (button(csrf, "drain", &place, ("Drain", &name))) }
        }
    }
}
