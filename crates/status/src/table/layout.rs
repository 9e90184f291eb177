//! Facts and tables as text no wider than the terminal.

use std::fmt::Write as _;

use edgeway_base::out::printable;

/// Column at which the texts of facts begin.
const FACT: usize = 11;
/// Column at which the cells begin that do not fit beside others.
const CELL: usize = 4;
/// Gap between the columns of a table, and between cells below each other's row.
const GAP: usize = 2;
/// Least width, of which text still gets a part.
const NARROWEST: usize = 20;

/// Text that grows line by line.
pub(super) struct Layout {
    pub(super) text: String,
    width: usize,
    /// Characters of the last line.
    column: usize,
}

impl Layout {
    /// Creates an empty text; without a width its lines are as long as what they say.
    pub(super) fn new(width: Option<usize>) -> Self {
        Self {
            text: String::with_capacity(2048),
            width: width.map_or(usize::MAX, |width| width.max(NARROWEST)),
            column: 0,
        }
    }

    /// Appends a text behind its name.
    pub(super) fn fact(&mut self, name: &str, text: &str) {
        self.put(&format!("{name:<width$}", width = FACT - 1), 0, 0);
        self.item(&printable(text), 1, FACT);
        self.end();
    }

    /// Appends a text on lines of its own.
    pub(super) fn lines(&mut self, text: &str) {
        self.item(&printable(text), 0, 0);
        self.end();
    }

    /// Appends a table after an empty line. Columns that do not fit are written below the others,
    /// each cell behind the title of its column. Without rows nothing is appended.
    pub(super) fn table<const N: usize>(
        &mut self,
        titles: &[&str; N],
        rows: impl Iterator<Item = [String; N]>,
    ) {
        let rows: Vec<[String; N]> = rows.map(|row| row.map(|cell| printable(&cell))).collect();
        if rows.is_empty() {
            return;
        }
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([titles[column].len()]).max().unwrap_or(0)
        };
        let widths: [usize; N] = std::array::from_fn(width);
        let ends = widths.iter().scan(0, |end, width| {
            *end += width + GAP;
            Some(*end - GAP)
        });
        let beside = ends.take_while(|end| *end <= self.width).count();
        self.end();
        self.row(&titles[..beside], &widths);
        for row in &rows {
            let cells: Vec<&str> = row[..beside].iter().map(String::as_str).collect();
            self.row(&cells, &widths);
            let rest = titles.iter().zip(row).skip(beside);
            for (title, cell) in rest.filter(|(_, cell)| !cell.is_empty()) {
                let item = format!("{} {cell}", title.to_lowercase());
                self.item(&item, GAP, CELL);
            }
            if self.column > 0 {
                self.end();
            }
        }
    }

    /// Appends a line of cells, if there are any.
    fn row(&mut self, cells: &[&str], widths: &[usize]) {
        if cells.is_empty() {
            return;
        }
        let start = self.text.len();
        for (cell, width) in cells.iter().zip(widths) {
            // Writing to a String cannot fail.
            let _infallible = write!(self.text, "{cell:<width$}  ");
        }
        self.text
            .truncate(start + self.text[start..].trim_end().len());
        self.end();
    }

    /// Appends a text behind what is in the line, on a line of its own that begins at `indent`, or
    /// on several.
    fn item(&mut self, text: &str, gap: usize, indent: usize) {
        if text.chars().count() <= self.width - indent {
            return self.put(text, gap, indent);
        }
        for (index, word) in text.split(' ').enumerate() {
            self.put(word, if index == 0 { gap } else { 1 }, indent);
        }
    }

    /// Appends a word: to the line, or to a new one where it does not fit.
    fn put(&mut self, word: &str, gap: usize, indent: usize) {
        let wanted = self.column + gap + word.chars().count();
        match self.column {
            0 => self.space(indent),
            column if column > indent && wanted > self.width => self.break_line(indent),
            _ => self.space(gap),
        }
        for c in word.chars() {
            if self.column >= self.width {
                self.break_line(indent);
            }
            self.text.push(c);
            self.column += 1;
        }
    }

    fn break_line(&mut self, indent: usize) {
        self.end();
        self.space(indent);
    }

    fn space(&mut self, count: usize) {
        self.text.extend(std::iter::repeat_n(' ', count));
        self.column += count;
    }

    fn end(&mut self) {
        self.text.push('\n');
        self.column = 0;
    }
}
