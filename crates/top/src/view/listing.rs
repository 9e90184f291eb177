//! Lists of the panes: columns, rows, their order and which of them are shown.

use std::cmp::Ordering;

use edgeway_base::out::printable;
use edgeway_status::{
    latencies::{self, Slowness},
    problems,
    snapshot::{BackendStatus, UpstreamStatus},
};

use super::{
    super::{
        alarms::alarms,
        as_number,
        observe::{Observation, name},
        screen::{Choice, Pane},
    },
    overview::tone,
    style::Tone,
    words::{age, bytes, milliseconds, percent, rate},
};

/// Title of the column that routes are sorted by at first.
pub(in super::super) const RATE: &str = "RATE";

/// A list with columns.
pub(in super::super) struct Listing {
    pub columns: Vec<Column>,
    pub rows: Vec<Row>,
    /// The line in place of rows where there are none.
    pub empty: String,
}

/// A column of a list.
pub(in super::super) struct Column {
    pub title: &'static str,
    pub is_number: bool,
    /// Order in which columns are left out where they do not fit: the highest first, zero never.
    pub rank: u8,
}

/// A row of a list.
pub(in super::super) struct Row {
    /// Name that stays the same while the row moves.
    pub key: String,
    pub cells: Vec<Cell>,
    pub tone: Tone,
}

/// A cell of a list.
pub(in super::super) struct Cell {
    pub text: String,
    /// Number to sort by, the highest first; without one, rows are sorted by the text.
    number: Option<f64>,
}

/// A column of a list of `T`, and what it says of each.
type ColumnOf<T> = (Column, fn(&T) -> Cell);

fn text<T>(title: &'static str, rank: u8, cell: fn(&T) -> Cell) -> ColumnOf<T> {
    let column = Column {
        title,
        is_number: false,
        rank,
    };
    (column, cell)
}

fn number<T>(title: &'static str, rank: u8, cell: fn(&T) -> Cell) -> ColumnOf<T> {
    let (mut column, cell) = text(title, rank, cell);
    column.is_number = true;
    (column, cell)
}

impl Cell {
    fn text(text: &str) -> Self {
        Self {
            text: printable(text),
            number: None,
        }
    }

    fn number(number: f64, text: String) -> Self {
        Self {
            text,
            number: Some(number),
        }
    }

    fn count(count: u64) -> Self {
        Self::number(as_number(count), count.to_string())
    }

    /// Formats a value that may be unknown; those come last.
    fn maybe(number: Option<f64>, format: impl FnOnce(f64) -> String) -> Self {
        Self {
            text: number.map_or_else(|| "-".to_owned(), format),
            number: Some(number.unwrap_or(f64::NEG_INFINITY)),
        }
    }

    fn rate(number: f64) -> Self {
        Self::number(number, rate(number))
    }

    fn time(ms: Option<f64>) -> Self {
        Self::maybe(ms, milliseconds)
    }

    fn size(size: Option<u64>) -> Self {
        Self::maybe(size.map(as_number), bytes)
    }

    fn whole(number: Option<f64>) -> Self {
        Self::maybe(number, |number| format!("{number:.0}"))
    }

    fn uptime(seconds: Option<u64>) -> Self {
        Self::maybe(seconds.map(as_number), |_| age(seconds.unwrap_or_default()))
    }

    fn order(&self, other: &Self) -> Ordering {
        match (self.number, other.number) {
            (Some(own), Some(other)) => other.total_cmp(&own),
            _ => self.text.cmp(&other.text),
        }
    }
}

impl Listing {
    /// Makes a list of items, each with its key and its tone.
    fn new<T, const N: usize>(
        items: impl Iterator<Item = (String, Tone, T)>,
        empty: &str,
        columns: [ColumnOf<T>; N],
    ) -> Self {
        let rows = items.map(|(key, tone, item)| Row {
            key,
            cells: columns.iter().map(|(_, cell)| cell(&item)).collect(),
            tone,
        });
        Self {
            rows: rows.collect(),
            columns: columns.into_iter().map(|(column, _)| column).collect(),
            empty: empty.to_owned(),
        }
    }

    /// Keeps the rows that contain the filter's text, and sorts them.
    pub(in super::super) fn arrange(&mut self, choice: &Choice) {
        let filter = choice.filter.to_lowercase();
        let has_filter = |row: &Row| {
            let mut cells = row.cells.iter();
            cells.any(|cell| cell.text.to_lowercase().contains(&filter))
        };
        if !filter.is_empty() {
            self.rows.retain(has_filter);
            self.empty = format!("nothing contains `{}`", printable(&choice.filter));
        }
        let mut columns = self.columns.iter();
        let sorted = columns.position(|column| Some(column.title) == choice.sort);
        if let Some(at) = sorted {
            self.rows.sort_by(|a, b| a.cells[at].order(&b.cells[at]));
        }
        if choice.reversed {
            self.rows.reverse();
        }
    }
}

/// Returns the lists of a pane, in the order of the configuration.
pub(in super::super) fn listings(pane: Pane, observation: &Observation) -> Vec<Listing> {
    match pane {
        Pane::Overview => vec![listed_alarms(observation)],
        Pane::Routes => vec![routes(observation)],
        Pane::Backends => vec![backends(observation)],
        Pane::Instances => vec![instances(observation)],
        Pane::Limits => vec![limits(observation), bans(observation)],
        Pane::More => vec![plugins(observation), certificates(observation)],
    }
}

fn listed_alarms(observation: &Observation) -> Listing {
    let alarms = alarms(observation);
    let rows = alarms.iter().map(|alarm| {
        let key = format!("{} {}", alarm.kind, alarm.subject);
        (key, tone(alarm), alarm)
    });
    Listing::new(
        rows,
        "no alarms",
        [text("ALARM", 0, |alarm| Cell::text(&alarm.line()))],
    )
}

pub(super) fn routes(observation: &Observation) -> Listing {
    let rows = observation.snapshot.routes.iter().map(|route| {
        let failing = route.traffic.server_error_rate > 0.0;
        let tone = if failing { Tone::Bad } else { Tone::Plain };
        (route.name.clone(), tone, route)
    });
    Listing::new(
        rows,
        "the configuration has no routes",
        [
            text("ROUTE", 0, |it| Cell::text(&it.name)),
            text("MATCH", 3, |it| Cell::text(&it.matches)),
            text("ACTION", 5, |it| Cell::text(&it.action)),
            number(RATE, 0, |it| Cell::rate(it.traffic.rate)),
            number("4XX", 4, |it| Cell::rate(it.traffic.client_error_rate)),
            number("FAILED", 0, |it| Cell::rate(it.traffic.server_error_rate)),
            number("P50", 7, |it| Cell::time(it.traffic.p50_ms)),
            number("P95", 1, |it| Cell::time(it.traffic.p95_ms)),
            number("P99", 6, |it| Cell::time(it.traffic.p99_ms)),
            number("HITS", 2, |it| Cell::maybe(it.traffic.hit_ratio, percent)),
        ],
    )
}

pub(super) fn upstreams(observation: &Observation) -> Listing {
    let rows = observation.snapshot.upstreams.iter().map(|upstream| {
        let up = up(upstream);
        let tone = match upstream.backends.len() {
            all if up == 0 && all > 0 => Tone::Bad,
            all if up < all => Tone::Warning,
            _ => Tone::Plain,
        };
        let traffic = upstream.traffic.as_ref();
        (upstream.name.clone(), tone, (upstream, traffic))
    });
    Listing::new(
        rows,
        "the configuration has no upstreams",
        [
            text("UPSTREAM", 0, |(upstream, _)| Cell::text(&upstream.name)),
            number("UP", 0, |(upstream, _)| {
                let (up, all) = (up(upstream), upstream.backends.len());
                Cell::number(as_number(up as u64), format!("{up} of {all}"))
            }),
            number(RATE, 0, |(_, t)| Cell::maybe(t.map(|t| t.rate), rate)),
            number("FAILED TRIES", 1, |(_, t)| {
                Cell::maybe(t.map(|t| t.failure_rate), rate)
            }),
            number("P95", 2, |(_, t)| Cell::time(t.and_then(|t| t.p95_ms))),
            number("P99", 5, |(_, t)| Cell::time(t.and_then(|t| t.p99_ms))),
            number("IN FLIGHT", 3, |(upstream, _)| {
                Cell::count(upstream.backends.iter().map(|b| b.in_flight).sum())
            }),
            number("WAITING", 4, |(upstream, _)| Cell::count(upstream.queue)),
        ],
    )
}

/// Returns the number of backends in rotation.
fn up(upstream: &UpstreamStatus) -> usize {
    let backends = upstream.backends.iter();
    backends.filter(|b| problems::is_in_rotation(b)).count()
}

/// A backend of an upstream, as a row has it.
struct Member<'a> {
    upstream: &'a UpstreamStatus,
    backend: &'a BackendStatus,
    slow: Option<Slowness>,
    /// Attempts per second.
    attempts: Option<f64>,
}

fn backends(observation: &Observation) -> Listing {
    let backends = latencies::backends(&observation.snapshot.upstreams);
    let rows = backends.map(|(upstream, backend, slow)| {
        let key = name(upstream, backend).to_string();
        let tone = match &*backend.state {
            "healthy" if slow.is_some() || upstream.excess(backend).is_some() => Tone::Warning,
            "healthy" => Tone::Plain,
            "slow_start" => Tone::Warning,
            "draining" | "drained" => Tone::Dim,
            _ => Tone::Bad,
        };
        let attempts = observation.backend_rates.get(&key).copied();
        let member = Member {
            upstream,
            backend,
            slow,
            attempts,
        };
        (key, tone, member)
    });
    Listing::new(
        rows,
        "the configuration has no upstreams",
        [
            text("UPSTREAM", 0, |it| Cell::text(&it.upstream.name)),
            text("BACKEND", 0, |it| Cell::text(&it.backend.address)),
            text("STATE", 0, |it| Cell::text(problems::state(it.backend))),
            number("IN FLIGHT", 5, |it| Cell::count(it.backend.in_flight)),
            number(RATE, 1, |it| Cell::maybe(it.attempts, rate)),
            number("REQUESTS", 7, |it| Cell::count(it.backend.requests)),
            number("FAILED TRIES", 6, |it| Cell::count(it.backend.failures)),
            number("LAST MIN", 2, |it| {
                Cell::whole(it.backend.recent_failures.map(as_number))
            }),
            number("AVERAGE", 4, |it| Cell::time(it.backend.ewma_ms)),
            text("NOTES", 3, |it| Cell::text(&notes(it))),
        ],
    )
}

fn notes(of: &Member<'_>) -> String {
    let (upstream, backend, slow) = (of.upstream, of.backend, &of.slow);
    let mut notes: Vec<String> = slow.iter().map(ToString::to_string).collect();
    if let Some(absence) = problems::absence(backend) {
        notes.push(format!("{}{absence}", backend.state));
    }
    notes.extend(problems::untried(backend));
    notes.extend(problems::failures(backend));
    notes.extend(problems::silence(backend));
    match &backend.probe {
        Some(probe) if !probe.passed => notes.push(format!("check: {}", probe.text)),
        _ => {}
    }
    notes.extend(upstream.excess(backend).map(|excess| excess.to_string()));
    notes.extend(backend.node.as_ref().map(ToString::to_string));
    match &backend.release {
        Some(release) => notes.push(format!("release {release}")),
        None if backend.origin == "added" => notes.push("added at run time".to_owned()),
        None => {}
    }
    if upstream.panic {
        notes.push("none is healthy, so all are used".to_owned());
    }
    notes.join(", ")
}

fn instances(observation: &Observation) -> Listing {
    let rows = observation.instances.list.iter().map(|instance| {
        let state = match &*instance.detail {
            "auto-restart" => "restarting",
            _ => &instance.state,
        };
        let tone = match state {
            "active" => Tone::Plain,
            "inactive" => Tone::Dim,
            "failed" | "restarting" => Tone::Bad,
            _ => Tone::Warning,
        };
        (instance.unit.clone(), tone, (instance, state))
    });
    let problem = observation.instances.problem.as_deref();
    let none = "no unit is running: node-app@PORT, those of `scale`, and --unit PATTERN";
    Listing::new(
        rows,
        problem.unwrap_or(none),
        [
            text("UNIT", 0, |(it, _)| Cell::text(&it.unit)),
            text("STATE", 0, |(_, state)| Cell::text(state)),
            number("PID", 6, |(it, _)| Cell::whole(it.pid.map(f64::from))),
            number("CPU", 0, |(it, _)| Cell::maybe(it.cpu, percent)),
            number("MEMORY", 0, |(it, _)| Cell::size(it.memory_bytes)),
            number("LIMIT", 4, |(it, _)| Cell::size(it.memory_limit_bytes)),
            number("RESTARTS", 1, |(it, _)| Cell::count(it.restarts)),
            number("OOM KILLS", 5, |(it, _)| Cell::count(it.oom_kills)),
            number("UP", 2, |(it, _)| Cell::uptime(it.uptime_seconds)),
        ],
    )
}

fn limits(observation: &Observation) -> Listing {
    let limits = observation.snapshot.limits.iter();
    let rows = limits.map(|limit| (format!("limit {}", limit.name), Tone::Plain, limit));
    Listing::new(
        rows,
        "the configuration has no rate limits",
        [
            text("RATE LIMIT", 0, |limit| Cell::text(&limit.name)),
            number("PASSED", 0, |limit| Cell::count(limit.passed)),
            number("DELAYED", 1, |limit| Cell::count(limit.delayed)),
            number("REFUSED", 0, |limit| Cell::count(limit.refused)),
            number("EXEMPT", 2, |limit| Cell::count(limit.exempt)),
            number("WITHOUT REDIS", 3, |limit| Cell::count(limit.without_redis)),
        ],
    )
}

fn plugins(observation: &Observation) -> Listing {
    let plugins = observation.snapshot.plugins.iter();
    let uses = plugins.flat_map(|plugin| plugin.routes.iter().map(move |on| (plugin, on)));
    let rows = uses.map(|(plugin, on)| {
        let key = format!("plugin {} {} {}", plugin.name, plugin.version, on.route);
        let tone = if on.left_out {
            Tone::Bad
        } else if on.recent_failures > 0 {
            Tone::Warning
        } else {
            Tone::Plain
        };
        (key, tone, (plugin, on))
    });
    Listing::new(
        rows,
        "the configuration has no plugins",
        [
            text("PLUGIN", 0, |(plugin, _)| Cell::text(&plugin.name)),
            text("ROUTE", 0, |(_, on)| Cell::text(&on.route)),
            number("CALLS", 3, |(_, on)| Cell::count(on.calls)),
            number("FAILED", 2, |(_, on)| {
                Cell::count(on.failures.values().sum())
            }),
            number("LAST MIN", 0, |(_, on)| Cell::count(on.recent_failures)),
            text("STATE", 0, |(_, on)| {
                Cell::text(if on.left_out { "suspended" } else { "" })
            }),
            text("LAST FAILURE", 1, |(_, on)| {
                Cell::text(on.last_failure.as_deref().unwrap_or_default())
            }),
        ],
    )
}

fn certificates(observation: &Observation) -> Listing {
    let snapshot = &observation.snapshot;
    let time = problems::time_of(snapshot).unwrap_or(observation.at);
    let rows = snapshot.expiries.iter().map(|expiry| {
        let left = problems::time_left(expiry, time);
        let mut orders = snapshot.certificates.iter();
        let order = orders.find(|one| one.name == expiry.name);
        let key = format!("certificate {} {}", expiry.listener, expiry.name);
        let tone = match left {
            Some(left) if left.num_days() < 2 => Tone::Bad,
            Some(left) if problems::is_soon(left) => Tone::Warning,
            _ => Tone::Plain,
        };
        let days = left.map(|left| as_number(left.num_days().max(0).unsigned_abs()));
        let problem = order.and_then(|order| order.problem.as_deref());
        (key, tone, (expiry, days, problem))
    });
    Listing::new(
        rows,
        "no listener has a certificate",
        [
            text("CERTIFICATE", 0, |(expiry, ..)| Cell::text(&expiry.name)),
            text("LISTENER", 2, |(expiry, ..)| Cell::text(&expiry.listener)),
            text("EXPIRES", 0, |(expiry, ..)| Cell::text(&expiry.expires)),
            number("DAYS", 0, |(_, days, _)| Cell::whole(*days)),
            text("LAST ORDER", 1, |(.., problem)| {
                Cell::text(problem.unwrap_or_default())
            }),
        ],
    )
}

fn bans(observation: &Observation) -> Listing {
    let bans = observation.bans.iter();
    let rows = bans.map(|ban| (format!("ban {}", ban.address), Tone::Plain, ban));
    let none = match observation.snapshot.bans.struck {
        0 => "no client is banned".to_owned(),
        struck => format!("no client is banned; {struck} have strikes"),
    };
    Listing::new(
        rows,
        &none,
        [
            text("BANNED", 0, |ban| Cell::text(&ban.address)),
            text("UNTIL", 1, |ban| Cell::text(&ban.until)),
            text("BY", 3, |ban| Cell::text(&ban.by)),
            number("STRIKES", 4, |ban| Cell::count(ban.strikes.into())),
            text("REASON", 2, |ban| Cell::text(&ban.reason)),
        ],
    )
}
