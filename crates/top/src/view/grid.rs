//! Drawing of a list: which columns fit, how wide they are, and which rows are visible.

use ratatui::{
    buffer::Buffer,
    layout::{Constraint, Rect},
    style::{Modifier, Style},
    text::{Line, Span},
    widgets::{self, StatefulWidget, TableState, Widget},
};

use super::{
    super::screen::Choice,
    listing::{Column, Listing},
    style::Tone,
};

/// Space between columns.
const GAP: u16 = 2;

/// Width that a column of text keeps before others are left out.
const ENOUGH: u16 = 22;

/// Draws a list, with a title over each column.
pub(super) fn draw(
    listing: &Listing,
    choice: &Choice,
    has_colour: bool,
    area: Rect,
    buffer: &mut Buffer,
) {
    if area.is_empty() {
        return;
    }
    let shown = columns(listing, area.width);
    let titles = shown.iter().map(|(at, width)| {
        let column = &listing.columns[*at];
        let mark = match choice.sort {
            Some(title) if title == column.title && choice.reversed => "▲",
            Some(title) if title == column.title => "▼",
            _ => "",
        };
        aligned(column, &format!("{}{mark}", column.title), *width)
    });
    let header = widgets::Row::new(titles).style(Style::new().add_modifier(Modifier::BOLD));
    let rows = listing.rows.iter().map(|row| {
        let cells = shown
            .iter()
            .map(|(at, width)| aligned(&listing.columns[*at], &row.cells[*at].text, *width));
        widgets::Row::new(cells).style(row.tone.style(has_colour))
    });
    let selected = choice.selected.as_ref();
    let selected = selected.and_then(|key| listing.rows.iter().position(|row| row.key == *key));
    let visible = usize::from(area.height.saturating_sub(1));
    let last = listing.rows.len().saturating_sub(visible);
    // The selected row stays in the middle, so that the rows on both sides are seen.
    let offset = selected.map_or(0, |at| at.saturating_sub(visible / 2).min(last));
    let mut state = TableState::new()
        .with_offset(offset)
        .with_selected(selected);
    let widths = shown.iter().map(|(_, width)| Constraint::Length(*width));
    let table = widgets::Table::new(rows, widths)
        .header(header)
        .column_spacing(GAP)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    StatefulWidget::render(table, area, buffer, &mut state);
    if listing.rows.is_empty() && area.height > 1 {
        let line = Rect {
            y: area.y + 1,
            height: 1,
            ..area
        };
        Line::styled(
            clipped(&listing.empty, area.width),
            Tone::Dim.style(has_colour),
        )
        .render(line, buffer);
    }
}

/// Returns the width at which nothing of a list is cut off.
pub(super) fn natural_width(listing: &Listing) -> u16 {
    let all = (0..listing.columns.len()).map(|at| natural(listing, at));
    let columns = all.fold(0, |sum: u16, width| sum.saturating_add(width + GAP));
    columns.saturating_sub(GAP).max(width(&listing.empty))
}

fn aligned(column: &Column, text: &str, width: u16) -> Line<'static> {
    let line = Line::raw(clipped(text, width));
    if column.is_number {
        line.right_aligned()
    } else {
        line
    }
}

/// Returns the columns that fit, each with its width.
fn columns(listing: &Listing, available: u16) -> Vec<(usize, u16)> {
    let mut shown: Vec<(usize, u16)> = (0..listing.columns.len())
        .map(|at| (at, natural(listing, at)))
        .collect();
    let least = |(at, natural): &(usize, u16)| {
        if listing.columns[*at].is_number {
            *natural
        } else {
            (*natural).min(ENOUGH)
        }
    };
    let total = |shown: &[(usize, u16)]| {
        let widths = shown.iter().map(|column| u32::from(least(column) + GAP));
        widths.sum::<u32>().saturating_sub(u32::from(GAP))
    };
    while total(&shown) > u32::from(available) {
        let ranks = shown.iter().map(|(at, _)| listing.columns[*at].rank);
        let highest = ranks.max().unwrap_or(0);
        if highest == 0 {
            break;
        }
        shown.retain(|(at, _)| listing.columns[*at].rank != highest);
    }
    // What is left goes to the columns of text, from the left.
    let mut spare = u32::from(available).saturating_sub(total(&shown));
    for column in &mut shown {
        let least = least(column);
        let more = u32::from(column.1 - least).min(spare);
        spare -= more;
        column.1 = least + u16::try_from(more).unwrap_or(0);
    }
    shown
}

/// Returns the width of the widest cell of a column, its title included.
fn natural(listing: &Listing, at: usize) -> u16 {
    // One more for the mark of the sorted column.
    let title = width(listing.columns[at].title) + 1;
    let cells = listing.rows.iter().map(|row| width(&row.cells[at].text));
    cells.fold(title, u16::max).min(u16::MAX / 64)
}

pub(super) fn width(text: &str) -> u16 {
    u16::try_from(Span::raw(text).width()).unwrap_or(u16::MAX)
}

/// Cuts text to a width, with an ellipsis.
pub(super) fn clipped(text: &str, limit: u16) -> String {
    if width(text) <= limit {
        return text.to_owned();
    }
    let mut cut = String::new();
    let mut used = 0;
    for c in text.chars() {
        let more = width(c.encode_utf8(&mut [0; 4]));
        if used + more + 1 > limit {
            break;
        }
        used += more;
        cut.push(c);
    }
    if limit > 0 {
        cut.push('…');
    }
    cut
}
