//! Syntax errors of YAML, explained for people who write configurations.

use crate::diagnostic::{Diagnostic, Place};

/// Errors of the parser, in one line each: a part of its message, what is wrong, and the help.
const KNOWN: &str = include_str!("syntax_errors.txt");

/// A text that is not valid YAML.
pub(super) struct SyntaxError<'a> {
    pub(super) text: &'a str,
    pub(super) file: u16,
    /// Offset at which the parser stopped.
    pub(super) at: usize,
    /// Message of the parser; it is matched below, and `syntax_errors_are_explained` notices a
    /// change.
    pub(super) info: &'a str,
    /// The innermost bracket that is still open.
    pub(super) open: Option<u32>,
}

impl SyntaxError<'_> {
    pub(super) fn explain(&self) -> Diagnostic {
        self.tab()
            .or_else(|| self.unclosed())
            .unwrap_or_else(|| self.other())
    }

    fn problem(
        &self,
        start: usize,
        len: usize,
        message: impl Into<String>,
        help: &str,
    ) -> Diagnostic {
        let offset = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let place = Place {
            file: self.file,
            start: offset(start),
            end: offset(start + len),
        };
        Diagnostic::error("edgeway::yaml::syntax", place, message).help(help)
    }

    fn line_start(&self, at: usize) -> usize {
        self.text[..at].rfind('\n').map_or(0, |n| n + 1)
    }

    /// Returns the rest of the line from `at` on.
    fn rest(&self, at: usize) -> &str {
        self.text[at..].lines().next().unwrap_or_default()
    }

    /// Finds a tab in the indentation of this line, or of the next one if the parser means that.
    fn tab(&self) -> Option<Diagnostic> {
        let mut start = self.line_start(self.at);
        if self.info.contains("found a tab") {
            start = self.text[self.at..]
                .find('\n')
                .map_or(start, |n| self.at + n + 1);
        }
        let line = self.rest(start);
        let indent = &line[..line.len() - line.trim_start().len()];
        let tab = start + indent.find('\t')?;
        Some(self.problem(tab, 1, "a tab cannot indent YAML", "use spaces"))
    }

    /// Finds a bracket from an earlier line that was probably forgotten.
    fn unclosed(&self) -> Option<Diagnostic> {
        let open = self.open? as usize;
        let bracket = self.text[open..].chars().next()?;
        let between = self.text.get(open..self.at)?;
        if !between.contains('\n') || self.info.contains("quoted") {
            return None;
        }
        let close = if bracket == '[' { "]" } else { "}" };
        Some(self.problem(
            open,
            1,
            format!("this `{bracket}` is never closed"),
            &format!("add a `{close}`; text that contains brackets needs quotes"),
        ))
    }

    fn other(&self) -> Diagnostic {
        let (at, info) = (self.at, self.info);
        let rest = self.rest(at);
        let first = rest.chars().next();
        let width = first.map_or(0, char::len_utf8);
        let problem = |len: usize, message: &str, help: &str| self.problem(at, len, message, help);
        if self.rest(self.line_start(at)).contains("${") && self.open.is_some() {
            return problem(
                width,
                "`${…}` without quotes cannot stand inside `{ }` and `[ ]`",
                "put quotes round it: `\"${NAME}\"`",
            );
        }
        if info.contains("mapping values are not allowed") {
            return self.second_colon(width);
        }
        if info.contains("simple key expect") {
            return self.no_colon();
        }
        if info.contains("unknown anchor") {
            let word = rest.split([' ', ',', ']', '}']).next().unwrap_or_default();
            return problem(
                word.len(),
                &format!("unknown alias `{word}`"),
                &format!("put quotes round text that begins with `*`: `\"{word}\"`"),
            );
        }
        for line in KNOWN.lines() {
            let mut parts = line.split(" | ");
            if let (Some(part), Some(message), Some(help)) =
                (parts.next(), parts.next(), parts.next())
                && info.contains(part)
            {
                return problem(width, message, help);
            }
        }
        if let Some(mark) = first.filter(|c| "@`%&*!|>".contains(*c)) {
            return problem(
                width,
                &format!("a value without quotes cannot begin with `{mark}`"),
                "put quotes round it",
            );
        }
        problem(
            width,
            &format!("not valid YAML: {info}"),
            "check the indentation, and that each quote and bracket is closed",
        )
    }

    fn second_colon(&self, width: usize) -> Diagnostic {
        let start = self.line_start(self.at);
        let before = &self.text[start..self.at];
        if let Some(colon) = before.find(": ") {
            let value = before[colon + 2..].trim_start();
            let from = self.at - value.len();
            let value = self.rest(from).trim_end();
            return self.problem(
                from,
                value.len(),
                "a value without quotes cannot contain `: `",
                &format!(
                    "put quotes round it, `\"{value}\"`, or begin a new line for the second key"
                ),
            );
        }
        let key = before.trim_start();
        self.problem(
            self.at - key.len(),
            key.len().max(width),
            format!("`{key}:` cannot begin a mapping here"),
            "indent it like the keys beside it, and check that the line above has its `: `",
        )
    }

    /// Reports the last nonempty line before the parser's position.
    fn no_colon(&self) -> Diagnostic {
        let line = self.text[..self.at]
            .lines()
            .rev()
            .find(|line| {
                let line = line.trim();
                !line.is_empty() && !line.starts_with('#')
            })
            .unwrap_or_default();
        let start = line.as_ptr().addr() - self.text.as_ptr().addr();
        let word = line.trim();
        self.problem(
            start + line.len() - line.trim_start().len(),
            word.len(),
            "this line has no `: `",
            "write `key: value`, with a space after the colon",
        )
    }
}
