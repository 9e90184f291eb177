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
        as_number,
        observe::{Observation, name},
        screen::{Choice, Pane},
    },
    style::Tone,
    words::{age, bytes, milliseconds, percent, rate},
};

/// Title of the column that routes are sorted by at first.
pub(in super::super) const RATE: &str = "RATE";

/// A list with columns.
pub(in super::super) struct Listing {
    pub columns: &'static [Column],
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

const fn text(title: &'static str, rank: u8) -> Column {
    Column {
        title,
        is_number: false,
        rank,
    }
}

const fn number(title: &'static str, rank: u8) -> Column {
    Column {
        title,
        is_number: true,
        rank,
    }
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

    fn uptime(seconds: Option<u64>) -> Self {
        Self {
            text: seconds.map_or_else(|| "-".to_owned(), age),
            number: Some(seconds.map_or(f64::NEG_INFINITY, as_number)),
        }
    }

    fn order(&self, other: &Self) -> Ordering {
        match (self.number, other.number) {
            (Some(own), Some(other)) => other.total_cmp(&own),
            _ => self.text.cmp(&other.text),
        }
    }
}

impl Listing {
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
pub(in super::super) fn of(pane: Pane, observation: &Observation) -> Vec<Listing> {
    match pane {
        Pane::Overview => Vec::new(),
        Pane::Routes => vec![routes(observation)],
        Pane::Backends => vec![backends(observation)],
        Pane::Instances => vec![instances(observation)],
        Pane::Limits => vec![limits(observation), bans(observation)],
        Pane::More => vec![plugins(observation), certificates(observation)],
    }
}

pub(super) fn routes(observation: &Observation) -> Listing {
    let rows = observation.snapshot.routes.iter().map(|route| {
        let traffic = &route.traffic;
        let per_second = |value: f64| Cell::number(value, rate(value));
        let failing = traffic.server_error_rate > 0.0;
        Row {
            key: route.name.clone(),
            cells: vec![
                Cell::text(&route.name),
                Cell::text(&route.matches),
                Cell::text(&route.action),
                per_second(traffic.rate),
                per_second(traffic.client_error_rate),
                per_second(traffic.server_error_rate),
                Cell::maybe(traffic.p50_ms, milliseconds),
                Cell::maybe(traffic.p95_ms, milliseconds),
                Cell::maybe(traffic.p99_ms, milliseconds),
                Cell::maybe(traffic.hit_ratio, percent),
            ],
            tone: if failing { Tone::Bad } else { Tone::Plain },
        }
    });
    Listing {
        columns: const {
            &[
                text("ROUTE", 0),
                text("MATCH", 3),
                text("ACTION", 5),
                number(RATE, 0),
                number("4XX", 4),
                number("5XX", 0),
                number("P50", 7),
                number("P95", 1),
                number("P99", 6),
                number("HITS", 2),
            ]
        },
        rows: rows.collect(),
        empty: "the configuration has no routes".to_owned(),
    }
}

pub(super) fn upstreams(observation: &Observation) -> Listing {
    let rows = observation.snapshot.upstreams.iter().map(|upstream| {
        let all = upstream.backends.len();
        let up = upstream
            .backends
            .iter()
            .filter(|b| problems::is_in_rotation(b))
            .count();
        let traffic = upstream.traffic.as_ref();
        let in_flight = upstream.backends.iter().map(|b| b.in_flight).sum();
        Row {
            key: upstream.name.clone(),
            cells: vec![
                Cell::text(&upstream.name),
                Cell::number(as_number(up as u64), format!("{up} of {all}")),
                Cell::maybe(traffic.map(|t| t.rate), rate),
                Cell::maybe(traffic.map(|t| t.failure_rate), rate),
                Cell::maybe(traffic.and_then(|t| t.p95_ms), milliseconds),
                Cell::maybe(traffic.and_then(|t| t.p99_ms), milliseconds),
                Cell::count(in_flight),
                Cell::count(upstream.queue),
            ],
            tone: match up {
                0 if all > 0 => Tone::Bad,
                _ if up < all => Tone::Warning,
                _ => Tone::Plain,
            },
        }
    });
    Listing {
        columns: const {
            &[
                text("UPSTREAM", 0),
                number("UP", 0),
                number(RATE, 0),
                number("FAILED", 1),
                number("P95", 2),
                number("P99", 5),
                number("IN FLIGHT", 3),
                number("WAITING", 4),
            ]
        },
        rows: rows.collect(),
        empty: "the configuration has no upstreams".to_owned(),
    }
}

fn backends(observation: &Observation) -> Listing {
    let backends = latencies::backends(&observation.snapshot.upstreams);
    let rows = backends.map(|(upstream, backend, slow)| {
        let key = name(upstream, backend).to_string();
        let attempts = observation.backend_rates.get(&key).copied();
        Row {
            cells: vec![
                Cell::text(&upstream.name),
                Cell::text(&backend.address),
                Cell::text(&backend.state),
                Cell::count(backend.in_flight),
                Cell::maybe(attempts, rate),
                Cell::count(backend.requests),
                Cell::count(backend.failures),
                Cell::maybe(backend.recent_failures.map(as_number), |count| {
                    format!("{count:.0}")
                }),
                Cell::maybe(backend.ewma_ms, milliseconds),
                Cell::text(&notes(upstream, backend, slow)),
            ],
            key,
            tone: match &*backend.state {
                "healthy" if slow.is_some() || upstream.excess(backend).is_some() => Tone::Warning,
                "healthy" => Tone::Plain,
                "slow_start" => Tone::Warning,
                "draining" | "drained" => Tone::Dim,
                _ => Tone::Bad,
            },
        }
    });
    Listing {
        columns: const {
            &[
                text("UPSTREAM", 0),
                text("BACKEND", 0),
                text("STATE", 0),
                number("IN FLIGHT", 3),
                number(RATE, 1),
                number("REQUESTS", 6),
                number("FAILED", 5),
                number("LAST MIN", 4),
                number("AVERAGE", 4),
                text("NOTES", 2),
            ]
        },
        rows: rows.collect(),
        empty: "the configuration has no upstreams".to_owned(),
    }
}

fn notes(upstream: &UpstreamStatus, backend: &BackendStatus, slow: Option<Slowness>) -> String {
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
    if backend.origin == "added" {
        notes.push("added at run time".to_owned());
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
        let memory = instance.memory_bytes.map(as_number);
        let limit = instance.memory_limit_bytes.map(as_number);
        Row {
            key: instance.unit.clone(),
            cells: vec![
                Cell::text(&instance.unit),
                Cell::text(state),
                Cell::maybe(instance.pid.map(f64::from), |pid| format!("{pid:.0}")),
                Cell::maybe(instance.cpu, percent),
                Cell::maybe(memory, bytes),
                Cell::maybe(limit, bytes),
                Cell::count(instance.restarts),
                Cell::count(instance.oom_kills),
                Cell::uptime(instance.uptime_seconds),
            ],
            tone: match state {
                "active" => Tone::Plain,
                "inactive" => Tone::Dim,
                "failed" | "restarting" => Tone::Bad,
                _ => Tone::Warning,
            },
        }
    });
    let problem = observation.instances.problem.clone();
    Listing {
        columns: const {
            &[
                text("UNIT", 0),
                text("STATE", 0),
                number("PID", 6),
                number("CPU", 0),
                number("MEMORY", 0),
                number("LIMIT", 4),
                number("RESTARTS", 1),
                number("OOM KILLS", 5),
                number("UP", 2),
            ]
        },
        rows: rows.collect(),
        empty: problem.unwrap_or_else(|| {
            "no unit is running: node-app@PORT, those of `scale`, and --unit PATTERN".to_owned()
        }),
    }
}

fn limits(observation: &Observation) -> Listing {
    let rows = observation.snapshot.limits.iter().map(|limit| Row {
        key: format!("limit {}", limit.name),
        cells: vec![
            Cell::text(&limit.name),
            Cell::count(limit.passed),
            Cell::count(limit.delayed),
            Cell::count(limit.refused),
            Cell::count(limit.exempt),
            Cell::count(limit.without_redis),
        ],
        tone: Tone::Plain,
    });
    Listing {
        columns: const {
            &[
                text("RATE LIMIT", 0),
                number("PASSED", 0),
                number("DELAYED", 1),
                number("REFUSED", 0),
                number("EXEMPT", 2),
                number("WITHOUT REDIS", 3),
            ]
        },
        rows: rows.collect(),
        empty: "the configuration has no rate limits".to_owned(),
    }
}

fn plugins(observation: &Observation) -> Listing {
    let plugins = observation.snapshot.plugins.iter();
    let uses = plugins.flat_map(|plugin| plugin.routes.iter().map(move |on| (plugin, on)));
    let rows = uses.map(|(plugin, on)| {
        let failures = on.failures.values().sum();
        Row {
            key: format!("plugin {} {} {}", plugin.name, plugin.version, on.route),
            cells: vec![
                Cell::text(&plugin.name),
                Cell::text(&on.route),
                Cell::count(on.calls),
                Cell::count(failures),
                Cell::count(on.recent_failures),
                Cell::text(if on.left_out { "suspended" } else { "" }),
                Cell::text(on.last_failure.as_deref().unwrap_or_default()),
            ],
            tone: if on.left_out {
                Tone::Bad
            } else if on.recent_failures > 0 {
                Tone::Warning
            } else {
                Tone::Plain
            },
        }
    });
    Listing {
        columns: const {
            &[
                text("PLUGIN", 0),
                text("ROUTE", 0),
                number("CALLS", 3),
                number("FAILED", 2),
                number("LAST MIN", 0),
                text("STATE", 0),
                text("LAST FAILURE", 1),
            ]
        },
        rows: rows.collect(),
        empty: "the configuration has no plugins".to_owned(),
    }
}

fn certificates(observation: &Observation) -> Listing {
    let snapshot = &observation.snapshot;
    let at = problems::time_of(snapshot).unwrap_or(observation.at);
    let rows = snapshot.expiries.iter().map(|expiry| {
        let left = problems::time_left(expiry, at);
        let order = snapshot
            .certificates
            .iter()
            .find(|one| one.name == expiry.name);
        Row {
            key: format!("certificate {} {}", expiry.listener, expiry.name),
            cells: vec![
                Cell::text(&expiry.name),
                Cell::text(&expiry.listener),
                Cell::text(&expiry.expires),
                Cell::maybe(
                    left.map(|left| as_number(left.num_days().max(0).unsigned_abs())),
                    |days| format!("{days:.0}"),
                ),
                Cell::text(
                    order
                        .and_then(|order| order.problem.as_deref())
                        .unwrap_or_default(),
                ),
            ],
            tone: match left {
                Some(left) if left.num_days() < 2 => Tone::Bad,
                Some(left) if problems::is_soon(left) => Tone::Warning,
                _ => Tone::Plain,
            },
        }
    });
    Listing {
        columns: const {
            &[
                text("CERTIFICATE", 0),
                text("LISTENER", 2),
                text("EXPIRES", 0),
                number("DAYS", 0),
                text("LAST ORDER", 1),
            ]
        },
        rows: rows.collect(),
        empty: "no listener has a certificate".to_owned(),
    }
}

fn bans(observation: &Observation) -> Listing {
    let rows = observation.bans.iter().map(|ban| Row {
        key: format!("ban {}", ban.address),
        cells: vec![
            Cell::text(&ban.address),
            Cell::text(&ban.until),
            Cell::text(&ban.by),
            Cell::count(ban.strikes.into()),
            Cell::text(&ban.reason),
        ],
        tone: Tone::Plain,
    });
    let struck = observation.snapshot.bans.struck;
    Listing {
        columns: const {
            &[
                text("BANNED", 0),
                text("UNTIL", 1),
                text("BY", 3),
                number("STRIKES", 4),
                text("REASON", 2),
            ]
        },
        rows: rows.collect(),
        empty: match struck {
            0 => "no client is banned".to_owned(),
            _ => format!("no client is banned; {struck} were refused recently"),
        },
    }
}
