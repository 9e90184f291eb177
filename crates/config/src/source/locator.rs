//! Places for people: lines and columns of the texts, whose line starts are found once for all.

use super::{Location, OVERLAY, Sources};
use crate::diagnostic::Place;

/// The texts of a configuration with their line starts.
///
/// A file with thousands of problems is reported in the time that its size takes: no text is read
/// from its beginning for each of them.
#[derive(Debug)]
pub(crate) struct Locator<'a> {
    sources: &'a Sources,
    files: Vec<Lines<'a>>,
    overlay: Lines<'a>,
    /// Stands for a file that does not exist.
    none: Lines<'a>,
}

/// A text with the offsets of its lines. Lines end as in YAML.
#[derive(Debug)]
pub(crate) struct Lines<'a> {
    pub(crate) text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Locator<'a> {
    pub(crate) fn new(sources: &'a Sources) -> Self {
        let files = sources.files.iter().map(|(_, text)| Lines::split(text));
        let overlay = sources.overlay.as_ref();
        Self {
            sources,
            files: files.collect(),
            overlay: Lines::split(overlay.map_or("", |overlay| &overlay.text)),
            none: Lines::split(""),
        }
    }

    pub(crate) fn locate(&self, place: Place) -> Location {
        let lines = self.lines(place.file);
        let (line, column) = lines.position(place.start as usize);
        let (end_line, end_column) = lines.position(place.end.max(place.start) as usize);
        Location {
            file: self.sources.file(place.file).map_or_else(
                || "configuration".to_owned(),
                |(path, _)| path.display().to_string(),
            ),
            line,
            column,
            end_line,
            end_column,
        }
    }

    pub(crate) fn lines(&self, file: u16) -> &Lines<'a> {
        match file {
            OVERLAY => &self.overlay,
            file => self.files.get(usize::from(file)).unwrap_or(&self.none),
        }
    }
}

impl<'a> Lines<'a> {
    fn split(text: &'a str) -> Self {
        let bytes = text.as_bytes();
        let is_end = |at: usize| match bytes[at] {
            b'\n' => true,
            // Forms a single line break with the line feed that follows.
            b'\r' => bytes.get(at + 1) != Some(&b'\n'),
            _ => false,
        };
        let ends = (0..bytes.len()).filter(|at| is_end(*at));
        Self {
            text,
            starts: [0].into_iter().chain(ends.map(|end| end + 1)).collect(),
        }
    }

    /// Returns line and column of a byte, from 1; columns count characters.
    pub(crate) fn position(&self, at: usize) -> (usize, usize) {
        let line = self.line(at);
        let start = self.starts[line];
        let before = self.text[start..].char_indices();
        let before = before.take_while(|(index, _)| start + index < at);
        let column = before
            .filter(|(_, c)| !matches!(c, '\r' | '\u{feff}'))
            .count();
        (line + 1, column + 1)
    }

    /// Returns the line of a byte, from 0.
    pub(crate) fn line(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at).max(1) - 1
    }

    /// Returns the offset at which a line starts; that of the end for a line that does not exist.
    pub(crate) fn start(&self, line: usize) -> usize {
        self.starts.get(line).copied().unwrap_or(self.text.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Counts from the beginning of the text.
    fn counted(text: &str, at: usize) -> (usize, usize) {
        let (mut line, mut column) = (1, 1);
        let mut chars = text.char_indices().peekable();
        while let Some((_, c)) = chars.next_if(|(index, _)| *index < at) {
            match c {
                '\r' if chars.peek().is_some_and(|(_, next)| *next == '\n') => {}
                '\r' | '\n' => (line, column) = (line + 1, 1),
                '\u{feff}' => {}
                _ => column += 1,
            }
        }
        (line, column)
    }

    proptest! {
        #[test]
        fn positions_are_those_that_counting_finds(
            text in "[ab:é€\u{1f600}\u{feff}\r\n]{0,30}",
            at in 0..80_usize,
        ) {
            prop_assert_eq!(Lines::split(&text).position(at), counted(&text, at));
        }
    }
}
