//! Drawing of the screen: a header, the chosen pane, and a footer with the keys.

mod grid;
pub(super) mod listing;
mod overview;
mod style;
mod words;

use std::fmt::Write as _;

use edgeway_base::out::printable;
use edgeway_status::table::wrapped;
use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Modifier, Style},
    text::{Line, Span, Text},
    widgets::{Block, Clear, Paragraph, Widget},
};

use self::{listing::Listing, style::Tone};
use super::{
    alarms::alarms,
    observe::Observation,
    screen::{Choice, Mode, Pane, Screen},
};

const KEYS: &str = "q quit  Tab pane  ↑↓ select  s sort  r reverse  / filter  d drain  ? help";

/// Lines of a message at most.
const MESSAGE: u16 = 5;

const HELP: &[(&str, &str)] = &[
    ("Tab, ←, →, 1 to 6", "another pane"),
    (
        "↑, ↓, PgUp, PgDn",
        "select a row, or an alarm, and show all of it",
    ),
    ("s", "sort by the next column, at last as configured"),
    ("r", "reverse the order"),
    ("/", "show rows that contain a text; Esc shows all"),
    ("d", "drain the selected backend, or send it requests again"),
    ("Ctrl-L", "draw everything again"),
    ("q, Ctrl-C", "quit"),
    ("HITS", "share of the lookups in the cache"),
];

/// The rows of an area that are still free.
struct FreeRows(Rect);

impl FreeRows {
    /// Takes rows from the top, as many as there are.
    fn top(&mut self, height: u16) -> Rect {
        let height = height.min(self.0.height);
        let rect = Rect { height, ..self.0 };
        self.0.y += height;
        self.0.height -= height;
        rect
    }

    /// Takes rows from the bottom, as many as there are.
    fn bottom(&mut self, height: u16) -> Rect {
        let height = height.min(self.0.height);
        self.0.height -= height;
        Rect {
            y: self.0.y + self.0.height,
            height,
            ..self.0
        }
    }
}

/// Draws the screen, whatever its size.
pub(super) fn draw(screen: &Screen, area: Rect, buffer: &mut Buffer) {
    let mut free = FreeRows(area);
    draw_header(screen, free.top(1), buffer);
    draw_tabs(screen, free.top(1), buffer);
    draw_footer(screen, &mut free, buffer);
    if area.height > 12 {
        free.top(1);
    }
    if screen.pane == Pane::Overview {
        overview::draw(screen, free.0, buffer);
    } else {
        draw_selected(screen, &mut free, buffer);
        draw_listings(screen, free.0, buffer);
    }
    if screen.mode == Mode::Help {
        draw_help(area, buffer);
    }
}

/// Formats everything as text, without escape codes and as wide as it is.
pub(super) fn text(observation: &Observation) -> String {
    let mut text = header(&observation.snapshot);
    for (label, value) in overview::facts(observation) {
        // Writing to a String cannot fail.
        let _infallible = write!(text, "\n{label:<12}{}", printable(&value));
    }
    text.push('\n');
    let alarms = alarms(observation);
    for alarm in &alarms {
        let severity = alarm.severity.name();
        let _infallible = write!(text, "\n{severity}: {}", printable(&alarm.line()));
    }
    if !alarms.is_empty() {
        text.push('\n');
    }
    for pane in Pane::ALL {
        let listings = match pane {
            Pane::Overview => vec![listing::upstreams(observation)],
            _ => listing::listings(pane, observation),
        };
        for listing in listings {
            text.push('\n');
            text.push_str(&plain(&listing));
        }
    }
    text
}

/// Draws a list as text.
fn plain(listing: &Listing) -> String {
    let rows = u16::try_from(listing.rows.len().max(1)).unwrap_or(u16::MAX - 1);
    let area = Rect::new(0, 0, grid::natural_width(listing), rows.saturating_add(1));
    let mut buffer = Buffer::empty(area);
    grid::draw(listing, &Choice::default(), false, area, &mut buffer);
    lines(&buffer)
}

/// Returns the text of a buffer, without spaces at the ends of lines.
fn lines(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area().width).max(1);
    let mut text = String::new();
    for row in buffer.content().chunks(width) {
        let mut line = String::new();
        let mut columns = 0;
        for (column, cell) in row.iter().enumerate() {
            // The cells that a wide character covers are blanks.
            if column >= columns {
                line.push_str(cell.symbol());
                columns = column + usize::from(grid::width(cell.symbol()).max(1));
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn header(snapshot: &edgeway_status::Snapshot) -> String {
    format!(
        "edgeway {}  {}  up {}",
        printable(&snapshot.version),
        snapshot.state.name(),
        words::age(snapshot.uptime_seconds)
    )
}

fn draw_header(screen: &Screen, area: Rect, buffer: &mut Buffer) {
    let observation = &screen.observation;
    if let Some(lost) = &screen.lost {
        let since = lost.since.format("%H:%M:%S");
        let text = format!("no gateway since {since} UTC: {}", printable(&lost.why));
        Line::styled(
            grid::clipped(&text, area.width),
            Tone::Bad.style(screen.has_colour),
        )
        .render(area, buffer);
        return;
    }
    let left = header(&observation.snapshot);
    let right = observation.at.format("%Y-%m-%d %H:%M:%S UTC").to_string();
    let bold = Style::new().add_modifier(Modifier::BOLD);
    Line::styled(grid::clipped(&left, area.width), bold).render(area, buffer);
    if grid::width(&left).saturating_add(grid::width(&right)) < area.width {
        Line::raw(right).right_aligned().render(area, buffer);
    }
}

fn draw_tabs(screen: &Screen, area: Rect, buffer: &mut Buffer) {
    let alarms = alarms(&screen.observation);
    let count = match alarms.len() {
        0 => String::new(),
        1 => "1 alarm".to_owned(),
        more => format!("{more} alarms"),
    };
    let titles = Pane::ALL.map(|pane| grid::width(pane.title()) + 4);
    let is_whole = titles.iter().sum::<u16>() + grid::width(&count) < area.width;
    let spans = Pane::ALL.into_iter().enumerate().map(|(at, pane)| {
        let number = at + 1;
        if pane == screen.pane {
            let reversed = Style::new().add_modifier(Modifier::REVERSED);
            return Span::styled(format!("[{number} {}]", pane.title()), reversed);
        }
        Span::raw(if is_whole {
            format!(" {number} {} ", pane.title())
        } else {
            format!(" {number} ")
        })
    });
    spans.collect::<Line<'_>>().render(area, buffer);
    if let Some(first) = alarms.first() {
        let style = overview::tone(first).style(screen.has_colour);
        Line::styled(count, style)
            .right_aligned()
            .render(area, buffer);
    }
}

fn draw_footer(screen: &Screen, free: &mut FreeRows, buffer: &mut Buffer) {
    let filter = printable(&screen.choice().filter);
    let (text, tone) = match (&screen.mode, &screen.message) {
        (Mode::Filter, _) => (
            format!("/{filter}█  Enter keeps it, Esc shows all"),
            Tone::Plain,
        ),
        (Mode::Question(question), _) => (printable(&question.text), Tone::Warning),
        (_, Some(message)) => (printable(message), Tone::Plain),
        _ if filter.is_empty() => (KEYS.to_owned(), Tone::Dim),
        _ => (
            format!("only rows with `{filter}`, Esc shows all  {KEYS}"),
            Tone::Dim,
        ),
    };
    let style = tone.style(screen.has_colour);
    if tone == Tone::Dim {
        let line = free.bottom(1);
        Line::styled(grid::clipped(&text, line.width), style).render(line, buffer);
        return;
    }
    // The remedy is at the end of a message.
    draw_wrapped(&text, style, free, buffer);
}

/// Draws a text at the bottom, in as many lines as it needs.
fn draw_wrapped(text: &str, style: Style, free: &mut FreeRows, buffer: &mut Buffer) {
    let text = wrapped(text, free.0.width.into());
    let height = u16::try_from(text.lines().count()).unwrap_or(MESSAGE);
    Text::styled(text, style).render(free.bottom(height.min(MESSAGE)), buffer);
}

/// Draws all cells of the selected row, which the list has no room for.
fn draw_selected(screen: &Screen, free: &mut FreeRows, buffer: &mut Buffer) {
    let selected = screen.choice().selected.as_ref();
    for listing in screen.listings() {
        let mut rows = listing.rows.iter();
        let Some(row) = rows.find(|row| Some(&row.key) == selected) else {
            continue;
        };
        let cells = listing.columns.iter().zip(&row.cells);
        let cells = cells.filter(|(_, cell)| !matches!(&*cell.text, "" | "-"));
        let cells = cells.map(|(column, cell)| format!("{} {}", column.title, cell.text));
        let text = cells.collect::<Vec<_>>().join("  ");
        draw_wrapped(&text, Style::new(), free, buffer);
        free.bottom(1);
    }
}

fn draw_listings(screen: &Screen, area: Rect, buffer: &mut Buffer) {
    let mut free = FreeRows(area);
    let listings = screen.listings();
    let mut left = u16::try_from(listings.len()).unwrap_or(1);
    for listing in &listings {
        let rows = u16::try_from(listing.rows.len().max(1)).unwrap_or(u16::MAX);
        // The last one gets all that is left, the others no more than their share.
        let height = if left == 1 {
            free.0.height
        } else {
            rows.saturating_add(2).min(free.0.height / left)
        };
        let mut part = FreeRows(free.top(height));
        if left > 1 {
            part.bottom(1);
        }
        grid::draw(listing, screen.choice(), screen.has_colour, part.0, buffer);
        left -= 1;
    }
}

fn draw_help(area: Rect, buffer: &mut Buffer) {
    let lines = HELP.iter().map(|(key, text)| format!("{key:<19}{text}"));
    let lines: Vec<Line<'_>> = lines.map(Line::raw).collect();
    let width = lines.iter().map(Line::width).max().unwrap_or(0) + 4;
    let width = u16::try_from(width).unwrap_or(u16::MAX).min(area.width);
    let height = u16::try_from(lines.len() + 2)
        .unwrap_or(u16::MAX)
        .min(area.height);
    let place = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    Clear.render(place, buffer);
    let block = Block::bordered().title(" Keys; any key closes ");
    let padding = ratatui::widgets::Padding::horizontal(1);
    Paragraph::new(lines)
        .block(block.padding(padding))
        .render(place, buffer);
}
