//! Lines of the access log as aligned columns for a terminal.

use std::fmt::Write as _;

use edgeway_base::out::printable;
use edgeway_status::logged_request::LoggedRequest;

/// Names of the columns. The last one has any width.
const NAMES: [&str; COLUMNS] = [
    "TIME", "STATUS", "MS", "ROUTE", "BACKEND", "CACHE", "REASON", "CLIENT", "REQUEST",
];
const COLUMNS: usize = 9;
/// Columns of numbers, which end at the same place.
const NUMBERS: [usize; 2] = [1, 2];

/// Columns where there is no room for all.
const NARROW: [usize; 6] = [0, 1, 2, 5, 7, 8];
/// Width from which on there is.
const WIDE: usize = 140;

/// Rows of a table whose columns become wider as needed, and never narrower.
pub(super) struct Rows {
    widths: [usize; COLUMNS],
    is_narrow: bool,
}

impl Rows {
    /// Creates a table for lines of this width, or of any.
    pub(super) fn new(width: Option<usize>) -> Self {
        let is_narrow = width.is_some_and(|width| width < WIDE);
        let mut widths = NAMES.map(str::len);
        // Widths of usual values, so that the first rows are aligned with later ones.
        let time = if is_narrow { 8 } else { 24 };
        for (column, width) in [(0, time), (2, 9), (3, 8), (4, 14), (6, 8), (7, 15)] {
            widths[column] = width;
        }
        Self { widths, is_narrow }
    }

    pub(super) fn header(&self) -> String {
        self.aligned(&NAMES.map(str::to_owned))
    }

    /// Makes the columns wide enough for a line.
    pub(super) fn widen(&mut self, line: &str) {
        for (width, cell) in self.widths.iter_mut().zip(cells(line, self.is_narrow)) {
            *width = (*width).max(cell.chars().count());
        }
    }

    /// Returns a line as a row, safe for a terminal whatever it contains.
    pub(super) fn row(&mut self, line: &str) -> String {
        self.widen(line);
        self.aligned(&cells(line, self.is_narrow))
    }

    fn aligned(&self, cells: &[String; COLUMNS]) -> String {
        let mut row = String::new();
        for (column, (cell, width)) in cells.iter().zip(self.widths).enumerate() {
            if self.is_narrow && !NARROW.contains(&column) {
                continue;
            }
            if column + 1 == COLUMNS {
                row.push_str(cell);
            } else if NUMBERS.contains(&column) {
                let _infallible = write!(row, "{cell:>width$}  ");
            } else {
                let _infallible = write!(row, "{cell:<width$}  ");
            }
        }
        row
    }
}

fn cells(line: &str, is_narrow: bool) -> [String; COLUMNS] {
    let read: LoggedRequest = serde_json::from_str(line).unwrap_or_default();
    let optional =
        |text: &Option<String>| text.as_deref().map_or_else(|| "-".to_owned(), printable);
    let backends = Some(read.backends()).filter(|backends| !backends.is_empty());
    let query = read.query.as_deref();
    let query = query.map_or_else(String::new, |query| format!("?{query}"));
    let (method, scheme, host, path) = (&read.method, &read.scheme, &read.host, &read.path);
    let (time, request) = if is_narrow {
        // The time of day, and the reason where it has no column.
        let reason = read.reason.iter().map(|reason| format!(" ({reason})"));
        let request = format!("{method} {path}{query}{}", reason.collect::<String>());
        (read.time.get(11..19).unwrap_or(&read.time), request)
    } else {
        let request = format!("{method} {scheme}://{host}{path}{query}");
        (&*read.time, request)
    };
    [
        printable(time),
        read.status.to_string(),
        format!("{:.1}", read.total_ms),
        optional(&read.route),
        optional(&backends),
        optional(&read.cache),
        optional(&read.reason),
        printable(&read.client),
        printable(&request),
    ]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn line(path: &str, ms: f64) -> String {
        json!({
            "time": "2027-01-15T08:00:00.012Z", "status": 200, "total_ms": ms, "route": "shop",
            "backend": null, "cache": "HIT", "reason": null, "client": "203.0.113.9",
            "method": "GET", "scheme": "https", "host": "shop.example.com", "path": path,
            "query": "page=2",
        })
        .to_string()
    }

    #[test]
    fn columns_are_aligned() {
        let mut rows = Rows::new(None);
        let text = [
            rows.header(),
            rows.row(&line("/a", 0.04)),
            rows.row(&line("/b", 123_456.7)),
        ];
        insta::assert_snapshot!(text.join("\n"), @r"
        TIME                      STATUS         MS  ROUTE     BACKEND         CACHE  REASON    CLIENT           REQUEST
        2027-01-15T08:00:00.012Z     200        0.0  shop      -               HIT    -         203.0.113.9      GET https://shop.example.com/a?page=2
        2027-01-15T08:00:00.012Z     200   123456.7  shop      -               HIT    -         203.0.113.9      GET https://shop.example.com/b?page=2
        ");
    }

    #[test]
    fn a_narrow_terminal_gets_fewer_columns() {
        let mut rows = Rows::new(Some(80));
        let refused = line("/b", 0.4).replace("\"reason\":null", "\"reason\":\"banned\"");
        let text = [
            rows.header(),
            rows.row(&line("/a", 0.04)),
            rows.row(&refused),
        ];
        insta::assert_snapshot!(text.join("\n"), @r"
        TIME      STATUS         MS  CACHE  CLIENT           REQUEST
        08:00:00     200        0.0  HIT    203.0.113.9      GET /a?page=2
        08:00:00     200        0.4  HIT    203.0.113.9      GET /b?page=2 (banned)
        ");
    }

    proptest! {
        /// Invariant: a row is one line that no terminal obeys.
        #[test]
        fn no_text_of_a_client_is_obeyed(text in "\\PC*|.*", control in any::<u8>()) {
            let path = format!("/{text}{}\u{202e}", char::from(control));
            for width in [None, Some(80)] {
                let row = Rows::new(width).row(&line(&path, 1.0));
                prop_assert!(!row.chars().any(|c| c.is_control() || c == '\u{202e}'), "{row:?}");
            }
        }
    }
}
