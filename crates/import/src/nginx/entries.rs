//! Entries of a `map`: texts, names with a wildcard and expressions, as values of a lookup table.

use edgeway_routes::values::Pattern;
use serde_json::{Map, Value, json};

use super::output::add_to;

/// Entries of a `map` in the order in which nginx looks at them.
#[derive(Default)]
pub(super) struct Entries {
    exact: Vec<(String, String)>,
    /// Patterns of names with a wildcard, by the length of what is fixed.
    beginnings: Vec<(usize, String, String)>,
    ends: Vec<(usize, String, String)>,
    patterns: Vec<(String, String)>,
    pub(super) default: String,
}

impl Entries {
    pub(super) fn add(
        &mut self,
        key: &str,
        value: String,
        hostnames: bool,
    ) -> Result<(), &'static str> {
        if let Some(regex) = key.strip_prefix('~') {
            let regex = regex.strip_prefix('*').unwrap_or(regex);
            if Pattern::new(regex, false).is_err() {
                return Err("one of its regular expressions has no counterpart");
            }
            self.patterns.push((key.to_owned(), value));
            return Ok(());
        }
        if hostnames {
            if let Some(end) = key.strip_prefix("*.") {
                let pattern = format!("~*^.+\\.{}$", regex::escape(end));
                self.ends.push((end.len(), pattern, value));
                return Ok(());
            }
            if let Some(end) = key.strip_prefix('.') {
                let pattern = format!("~*^(?:.+\\.)?{}$", regex::escape(end));
                self.ends.push((end.len(), pattern, value));
                return Ok(());
            }
            if let Some(beginning) = key.strip_suffix(".*") {
                let pattern = format!("~*^{}\\.", regex::escape(beginning));
                self.beginnings.push((beginning.len(), pattern, value));
                return Ok(());
            }
        }
        let text = key.strip_prefix('\\').unwrap_or(key);
        let text = match text.strip_prefix('~') {
            Some(_) => format!("\\{text}"),
            None => text.to_owned(),
        };
        self.exact.push((text, value));
        Ok(())
    }

    /// Returns `None` if there is nothing but a default.
    pub(super) fn value(mut self, from: &str) -> Option<Value> {
        self.ends.sort_by_key(|(length, ..)| usize::MAX - length);
        self.beginnings
            .sort_by_key(|(length, ..)| usize::MAX - length);
        // nginx looks at expressions only for a value that is not empty.
        let matches_nothing = |key: &str| {
            Pattern::of_text(key)
                .is_some_and(|own| own.is_ok_and(|own| own.is_match("").unwrap_or(true)))
        };
        let has_empty = self.exact.iter().any(|(key, _)| key.is_empty());
        if !has_empty && self.patterns.iter().any(|(key, _)| matches_nothing(key)) {
            self.exact.push((String::new(), self.default.clone()));
        }
        let wildcards = self.ends.into_iter().chain(self.beginnings);
        let wildcards = wildcards.map(|(_, pattern, value)| (pattern, value));
        let all = self.exact.into_iter().chain(wildcards).chain(self.patterns);
        let values: Map<String, Value> = all.map(|(key, value)| (key, value.into())).collect();
        if values.is_empty() {
            return None;
        }
        let mut table = json!({ "from": from, "values": values });
        add_to(&mut table, "default", self.default);
        Some(table)
    }
}
