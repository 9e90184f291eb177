//! Lines of the access log as aligned columns for a terminal.

use std::fmt::Write as _;

use edgeway_base::out::printable;
use serde::Deserialize;

/// Names of the columns. The last one has any width.
const NAMES: [&str; COLUMNS] = [
    "TIME", "STATUS", "MS", "ROUTE", "BACKEND", "CACHE", "REASON", "CLIENT", "REQUEST",
];
const COLUMNS: usize = 9;
/// Columns of numbers, which end at the same place.
const NUMBERS: [usize; 2] = [1, 2];

/// A line of JSON, as far as it has a column.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ReadLine {
    time: String,
    status: u16,
    total_ms: f64,
    route: Option<String>,
    backend: Option<String>,
    failed_backend: Option<String>,
    cache: Option<String>,
    reason: Option<String>,
    client: String,
    method: String,
    scheme: String,
    host: String,
    path: String,
    query: Option<String>,
}

/// Rows of a table whose columns become wider as needed, and never narrower.
pub(super) struct Rows {
    widths: [usize; COLUMNS],
}

impl Default for Rows {
    fn default() -> Self {
        let mut widths = NAMES.map(str::len);
        // Widths of usual values, so that the first rows are aligned with later ones.
        for (column, width) in [(0, 24), (2, 9), (3, 8), (4, 14), (6, 8), (7, 15)] {
            widths[column] = width;
        }
        Self { widths }
    }
}

impl Rows {
    pub(super) fn header(&self) -> String {
        self.aligned(&NAMES.map(str::to_owned))
    }

    /// Makes the columns wide enough for a line.
    pub(super) fn widen(&mut self, line: &str) {
        for (width, cell) in self.widths.iter_mut().zip(cells(line)) {
            *width = (*width).max(cell.chars().count());
        }
    }

    /// Returns a line as a row, safe for a terminal whatever it contains.
    pub(super) fn row(&mut self, line: &str) -> String {
        self.widen(line);
        self.aligned(&cells(line))
    }

    fn aligned(&self, cells: &[String; COLUMNS]) -> String {
        let mut row = String::new();
        for (column, (cell, width)) in cells.iter().zip(self.widths).enumerate() {
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

fn cells(line: &str) -> [String; COLUMNS] {
    let read: ReadLine = serde_json::from_str(line).unwrap_or_default();
    let optional =
        |text: &Option<String>| text.as_deref().map_or_else(|| "-".to_owned(), printable);
    // As nginx has them in `$upstream_addr`: first the one that failed.
    let backends = match (&read.failed_backend, &read.backend) {
        (Some(failed), Some(last)) => Some(format!("{failed}, {last}")),
        (_, backend) => backend.clone(),
    };
    let query = read.query.as_deref();
    let query = query.map_or_else(String::new, |query| format!("?{query}"));
    let ReadLine {
        method,
        scheme,
        host,
        path,
        ..
    } = &read;
    [
        printable(&read.time),
        read.status.to_string(),
        format!("{:.1}", read.total_ms),
        optional(&read.route),
        optional(&backends),
        optional(&read.cache),
        optional(&read.reason),
        printable(&read.client),
        printable(&format!("{method} {scheme}://{host}{path}{query}")),
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
        let mut rows = Rows::default();
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

    proptest! {
        /// Invariant: a row is one line that no terminal obeys.
        #[test]
        fn no_text_of_a_client_is_obeyed(text in "\\PC*|.*", control in any::<u8>()) {
            let path = format!("/{text}{}\u{202e}", char::from(control));
            let row = Rows::default().row(&line(&path, 1.0));
            prop_assert!(!row.chars().any(|c| c.is_control() || c == '\u{202e}'), "{row:?}");
        }
    }
}
