//! The tiles at the top of the page: four figures of the gateway, each with its last minute and its
//! last hour as lines.

use std::fmt::Write as _;

use super::figures::{milliseconds, per_cent, rate};
use crate::snapshot::{TrafficFigures, TrafficPoint};

/// Width and height of a line, in units of its own.
const WIDTH: f64 = 120.0;
const HEIGHT: f64 = 24.0;
/// Points of a whole line: a minute has one for each two seconds, an hour one for each minute.
const MINUTE: usize = 30;
const HOUR: usize = 60;

/// A figure as the page shows it.
pub(super) struct Tile {
    pub(super) name: &'static str,
    pub(super) text: String,
    pub(super) lines: [TileLine; 2],
}

/// The values of a span of time, with the highest one.
pub(super) struct TileLine {
    pub(super) span: &'static str,
    pub(super) limit: String,
    pub(super) path: String,
}

/// A figure: its name, its values, and the form of a value.
struct Figure {
    name: &'static str,
    value: fn(&TrafficPoint) -> Option<f64>,
    text: fn(Option<f64>) -> String,
    /// Value at the top of a line that stays below it.
    top: f64,
}

const FIGURES: [Figure; 4] = [
    Figure {
        name: "Requests",
        value: |point| Some(point.rate),
        text: |value| value.map_or_else(|| "–".to_owned(), |value| format!("{}/s", rate(value))),
        top: 1.0,
    },
    Figure {
        name: "Failed requests",
        value: |point| point.error_share,
        text: per_cent,
        top: 0.05,
    },
    Figure {
        name: "95th percentile",
        value: |point| point.p95_ms,
        text: |value| {
            value.map_or_else(|| "–".to_owned(), |_| format!("{} ms", milliseconds(value)))
        },
        top: 1.0,
    },
    Figure {
        name: "Cache hits of lookups",
        value: |point| point.hit_ratio,
        text: per_cent,
        top: 1.0,
    },
];

/// Returns the figures as the page shows them.
pub(super) fn tiles(figures: &TrafficFigures) -> [Tile; 4] {
    FIGURES.map(|figure| {
        let now = (figure.value)(&figures.now);
        Tile {
            name: figure.name,
            text: (figure.text)(now),
            lines: [
                line(&figure, "last minute", &figures.minute, MINUTE, now),
                line(&figure, "last hour", &figures.hour, HOUR, None),
            ],
        }
    })
}

/// Returns the line of a `span`; its highest value may be `now`, above those of the points.
fn line(
    figure: &Figure,
    span: &'static str,
    points: &[TrafficPoint],
    whole: usize,
    now: Option<f64>,
) -> TileLine {
    let values: Vec<_> = points.iter().map(figure.value).collect();
    let all = values.iter().copied().chain([now]).flatten();
    let highest = all.reduce(f64::max);
    TileLine {
        span,
        limit: (figure.text)(highest),
        path: path(&values, whole, highest.unwrap_or_default().max(figure.top)),
    }
}

/// Returns the path of a line, the newest value at its right end. Where there is no value it has a
/// gap.
#[allow(clippy::cast_precision_loss, reason = "there are sixty values at most")]
fn path(values: &[Option<f64>], whole: usize, top: f64) -> String {
    let step = WIDTH / (whole.max(2) - 1) as f64;
    let shown = &values[values.len().saturating_sub(whole)..];
    let mut path = String::new();
    let mut is_drawn = false;
    for (index, value) in shown.iter().enumerate() {
        if let Some(value) = value {
            let x = WIDTH - step * (shown.len() - 1 - index) as f64;
            // A line at an edge would be cut in half.
            let y = HEIGHT - 1.0 - (HEIGHT - 2.0) * (value / top).clamp(0.0, 1.0);
            let command = if is_drawn { 'L' } else { 'M' };
            // A single value is a dot.
            let dot = if is_drawn { "" } else { "h.1" };
            write!(path, "{command}{x:.1} {y:.1}{dot}").expect("text grows");
        }
        is_drawn = value.is_some();
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_at_the_right_and_has_gaps() {
        let values = [Some(0.0), None, Some(5.0), Some(20.0)];
        assert_eq!(
            path(&values, 4, 10.0),
            "M0.0 23.0h.1M80.0 12.0h.1L120.0 1.0"
        );
        assert_eq!(path(&values, 2, 10.0), "M0.0 12.0h.1L120.0 1.0");
        assert_eq!(path(&[], 30, 1.0), "");
    }

    #[test]
    fn each_tile_has_its_figure_and_its_lines() {
        let point = |rate, error_share| TrafficPoint {
            rate,
            error_share,
            ..TrafficPoint::default()
        };
        let figures = TrafficFigures {
            now: point(12.0, Some(0.004)),
            minute: vec![point(9.0, Some(0.5)), point(12.0, None)],
            hour: Vec::new(),
        };
        let [requests, failed, percentile, _] = tiles(&figures);
        let limits = |tile: &Tile| tile.lines.each_ref().map(|line| line.limit.clone());
        assert_eq!((&*requests.text, &*failed.text), ("12/s", "0.4 %"));
        assert_eq!(limits(&requests), ["12/s", "–"]);
        assert_eq!(limits(&failed), ["50 %", "–"]);
        assert_eq!(limits(&percentile), ["–", "–"]);
    }
}
