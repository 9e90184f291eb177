//! The first pane: the gateway in a few lines, its alarms, and where the traffic goes.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use edgeway_base::out::{self, printable};
use edgeway_status::{Snapshot, table::wrapped};
use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::Modifier,
    text::{Line, Text},
    widgets::{Sparkline, Widget},
};

use super::{
    super::{
        alarms::{Alarm, Severity, alarms},
        as_number,
        observe::Observation,
        screen::{Choice, Screen},
    },
    FreeRows, grid,
    listing::{self, Listing, Row},
    style::Tone,
    words::{age, bytes, milliseconds, percent, rate},
};

/// Lines of alarms at most, and their share of the pane, so that the rest stays visible.
const ALARMS: u16 = 8;
const ALARMS_SHARE: u16 = 4;

/// Height of the graph, and of the area from which on it is shown.
const GRAPH: u16 = 4;
const TALL: u16 = 26;

/// Returns the facts of the gateway: a label and a text each.
pub(super) fn facts(observation: &Observation) -> Vec<(&'static str, String)> {
    let snapshot = &observation.snapshot;
    let mut facts = vec![
        ("requests", requests(observation)),
        (
            "clients",
            format!(
                "{}, {} in flight at backends",
                out::counted(observation.connections(), "connection"),
                observation.in_flight()
            ),
        ),
        (
            "process",
            format!(
                "CPU {}, memory {}, pid {}",
                percent(snapshot.process.cpu),
                bytes(as_number(snapshot.process.memory_bytes)),
                snapshot.pid
            ),
        ),
    ];
    if let Some(cache) = &snapshot.cache {
        let share = as_number(cache.bytes) / as_number(cache.budget_bytes).max(1.0);
        facts.push((
            "cache",
            format!(
                "{} in {} of {} ({}), {} evicted",
                out::counted(cache.objects, "response"),
                bytes(as_number(cache.bytes)),
                bytes(as_number(cache.budget_bytes)),
                percent(share),
                cache.evictions
            ),
        ));
    }
    facts.push(("config", config(snapshot, observation.at)));
    facts.extend(reload(snapshot, observation.at).map(|text| ("reload", text)));
    facts.extend(redis(snapshot).map(|text| ("redis", text)));
    for older in &snapshot.predecessors {
        let connections = out::counted(older.connections, "connection");
        let (pid, version) = (older.pid, &older.version);
        facts.push((
            "older",
            format!("process {pid} ({version}) drains {connections}"),
        ));
    }
    facts
}

fn requests(observation: &Observation) -> String {
    let rates = observation.rates();
    let mut text = format!(
        "{}, 4xx {}, failed {}",
        rate(rates.requests),
        rate(rates.client_errors),
        rate(rates.server_errors)
    );
    let routes = observation.snapshot.routes.iter();
    let times = routes.filter_map(|route| Some((route.traffic.p95_ms?, &route.name)));
    if let Some((p95, route)) = times.max_by(|(a, _), (b, _)| a.total_cmp(b)) {
        let p95 = milliseconds(p95);
        // Writing to a String cannot fail.
        let _infallible = write!(text, ", p95 up to {p95} ({route})");
    }
    text
}

fn config(snapshot: &Snapshot, now: DateTime<Utc>) -> String {
    let config = &snapshot.config;
    let mut text = format!("{}, generation {}", config.file, config.generation);
    if let Some(ago) = ago(&config.loaded_at, now) {
        let _infallible = write!(text, ", loaded {ago}");
    }
    if let Some(profile) = &config.profile {
        let _infallible = write!(text, ", profile {profile}");
    }
    text
}

/// Describes the last reload, if there was one.
fn reload(snapshot: &Snapshot, now: DateTime<Utc>) -> Option<String> {
    let last = snapshot.reloads.first()?;
    let when = ago(&last.at, now).unwrap_or_default();
    let outcome = match &last.error {
        Some(error) => format!("refused: {}", error.lines().next().unwrap_or_default()),
        None => match last.changes.as_slice() {
            [] => "nothing changed".to_owned(),
            changes => changes.join(", "),
        },
    };
    Some(format!("{when}, {outcome}"))
}

fn redis(snapshot: &Snapshot) -> Option<String> {
    let redis = snapshot.redis.as_ref()?;
    let (state, mode) = (redis.state(), &redis.mode);
    Some(format!("{state}, {mode} {}", redis.address))
}

/// Formats the time since `text`, which is RFC 3339.
fn ago(text: &str, now: DateTime<Utc>) -> Option<String> {
    let then = DateTime::parse_from_rfc3339(text).ok()?;
    let seconds = (now - then.with_timezone(&Utc)).num_seconds();
    let seconds = u64::try_from(seconds).unwrap_or(0);
    Some(format!("{} ago", age(seconds)))
}

pub(super) fn tone(alarm: &Alarm) -> Tone {
    match alarm.severity {
        Severity::Error => Tone::Bad,
        Severity::Warning => Tone::Warning,
    }
}

pub(super) fn draw(screen: &Screen, area: Rect, buffer: &mut Buffer) {
    let observation = &screen.observation;
    let mut free = FreeRows(area);
    let mut say = |free: &mut FreeRows, text: &str, tone: Tone| {
        let line = free.top(1);
        let text = grid::clipped(&printable(text), line.width);
        Line::styled(text, tone.style(screen.has_colour)).render(line, buffer);
    };
    for (label, text) in facts(observation) {
        say(&mut free, &format!("{label:<10}{text}"), Tone::Plain);
    }
    free.top(u16::from(area.height > 16));
    if alarms(observation).is_empty() && screen.lost.is_none() {
        say(&mut free, "no alarms", Tone::Good);
    }
    draw_alarms(
        screen,
        (area.height / ALARMS_SHARE).clamp(2, ALARMS),
        &mut free,
        buffer,
    );
    free.top(u16::from(area.height > 16));
    if area.height >= TALL && screen.history.len() > 1 {
        draw_graph(screen, free.bottom(GRAPH), buffer);
        free.bottom(1);
    }
    let mut routes = listing::routes(observation);
    let busiest = Choice {
        sort: Some(listing::RATE),
        ..Choice::default()
    };
    routes.arrange(&busiest);
    let upstreams = listing::upstreams(observation);
    let half = free.0.height / 2;
    let part = free.top(height(&upstreams).min(half));
    grid::draw(
        &upstreams,
        &Choice::default(),
        screen.has_colour,
        part,
        buffer,
    );
    // Where all routes still fit.
    free.top(u16::from(free.0.height > height(&routes)));
    grid::draw(&routes, &busiest, screen.has_colour, free.0, buffer);
}

/// Draws the alarms from the selected one on, each to its end, in about this many lines.
fn draw_alarms(screen: &Screen, max: u16, free: &mut FreeRows, buffer: &mut Buffer) {
    let listings = screen.listings();
    let alarms = listings.iter().flat_map(|listing| &listing.rows);
    let alarms: Vec<&Row> = alarms.collect();
    let selected = screen.choice().selected.as_ref();
    let is_selected = |alarm: &&Row| Some(&alarm.key) == selected;
    let first = alarms.iter().position(is_selected);
    let top = free.0.y;
    let mut shown = 0;
    for alarm in alarms.iter().skip(first.unwrap_or_default()) {
        let text = format!("! {}", alarm.cells[0].text);
        let text = wrapped(&text, free.0.width.into());
        let height = u16::try_from(text.lines().count()).unwrap_or(u16::MAX);
        if shown > 0 && free.0.y - top + height > max {
            break;
        }
        let mut style = alarm.tone.style(screen.has_colour);
        if is_selected(alarm) {
            style = style.add_modifier(Modifier::REVERSED);
        }
        Text::styled(text, style).render(free.top(height), buffer);
        shown += 1;
    }
    if alarms.len() > shown {
        let more = format!("! and {} more: ↓ shows them", alarms.len() - shown);
        Line::styled(more, Tone::Dim.style(screen.has_colour)).render(free.top(1), buffer);
    }
}

/// Rows that a list takes, with the line over it.
fn height(listing: &Listing) -> u16 {
    u16::try_from(listing.rows.len().max(1) + 1).unwrap_or(u16::MAX)
}

/// Draws the requests per second of the last observations.
fn draw_graph(screen: &Screen, area: Rect, buffer: &mut Buffer) {
    let mut free = FreeRows(area);
    let highest = screen.history.iter().max().copied().unwrap_or(0);
    let title = format!("requests per second, up to {highest}");
    let line = free.top(1);
    Line::styled(
        grid::clipped(&title, line.width),
        Tone::Dim.style(screen.has_colour),
    )
    .render(line, buffer);
    let width = usize::from(free.0.width);
    let skipped = screen.history.len().saturating_sub(width);
    let values = screen.history.iter().skip(skipped).copied();
    Sparkline::default()
        .data(values.collect::<Vec<u64>>())
        .render(free.0, buffer);
}
