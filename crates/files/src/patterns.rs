//! Patterns of paths: `/assets/*`, `/app.js`, or `~` and a regular expression.

use regex::bytes::{Regex, RegexBuilder};

/// A set of patterns over the path of a file below its root, decoded, with a leading slash.
#[derive(Debug, Default)]
pub(crate) struct Patterns(Vec<Pattern>);

#[derive(Debug)]
enum Pattern {
    /// Prefix that ends with a slash.
    Below(Box<[u8]>),
    Exact(Box<[u8]>),
    Regex(Regex),
}

impl Patterns {
    /// Adds a pattern. The error is the message and the remedy.
    pub(crate) fn add(&mut self, text: &str) -> Result<(), (String, String)> {
        let pattern = if let Some(regex) = text.strip_prefix('~') {
            let compiled = RegexBuilder::new(regex).unicode(false).build();
            Pattern::Regex(compiled.map_err(|error| {
                let error = error.to_string();
                let reason = error.lines().last().unwrap_or_default().trim();
                (
                    format!("invalid regular expression `{regex}`: {reason}"),
                    "the syntax is that of Rust's `regex`: no look-around, no back-references"
                        .to_owned(),
                )
            })?)
        } else if !text.starts_with('/') && !text.contains('*') {
            return Err((
                format!("invalid pattern `{text}`: it does not begin with `/` or `~`"),
                format!("write `/{text}`, `/{text}/*`, or `~` before a regular expression"),
            ));
        } else if let Some(prefix) = text.strip_suffix('*') {
            if !prefix.starts_with('/') || !prefix.ends_with('/') || prefix.contains('*') {
                return Err(star(text));
            }
            Pattern::Below(prefix.as_bytes().into())
        } else if text.contains('*') {
            return Err(star(text));
        } else {
            Pattern::Exact(text.as_bytes().into())
        };
        self.0.push(pattern);
        Ok(())
    }

    /// Adds a pattern that every file matches.
    pub(crate) fn add_all(&mut self) {
        self.0.push(Pattern::Below(b"/".as_slice().into()));
    }

    /// Returns true if a pattern matches the file at `relative`, a path without a leading slash.
    pub(crate) fn have(&self, relative: &[u8]) -> bool {
        self.0.iter().any(|pattern| match pattern {
            Pattern::Below(prefix) => relative.starts_with(&prefix[1..]),
            Pattern::Exact(path) => *relative == path[1..],
            Pattern::Regex(regex) => regex.is_match(&[b"/", relative].concat()),
        })
    }
}

fn star(text: &str) -> (String, String) {
    (
        format!("invalid pattern `{text}`: `*` stands only at the end, after a `/`"),
        "write a prefix such as `/assets/*`, or a regular expression such as `~[.]js$`".to_owned(),
    )
}
