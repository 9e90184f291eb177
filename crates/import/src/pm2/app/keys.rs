//! Keys of an app in an ecosystem file: their values, and why some are not carried over.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

/// Keys that change nothing under systemd, or that have a better place.
const IGNORED: &str = include_str!("ignored_keys.txt");

/// Keys without an effect outside PM2.
const SILENT: &str = "name script exec exec_mode instances merge_logs combine_logs vizion autorestart \
    automation treekill windowsHide pid_file source_map_support";

/// Keys of an app, with those that were read.
pub(super) struct Keys<'a> {
    pub(super) written: &'a Map<String, Value>,
    pub(super) read: Vec<&'a str>,
}

impl<'a> Keys<'a> {
    pub(super) fn value(&mut self, names: &[&str]) -> Option<&'a Value> {
        let written = self.written;
        let entry = names.iter().find_map(|name| written.get_key_value(*name));
        let (key, value) = entry?;
        self.read.push(key);
        (!value.is_null()).then_some(value)
    }

    pub(super) fn text(&mut self, names: &[&str]) -> Option<String> {
        self.value(names).and_then(text)
    }

    pub(super) fn number(&mut self, names: &[&str]) -> Option<u64> {
        self.text(names)?.trim().parse().ok()
    }

    /// Returns a path: PM2 takes `true` for a place of its own, which systemd has none of.
    pub(super) fn path(&mut self, names: &[&str]) -> Option<String> {
        let path = self.value(names)?.as_str()?;
        (!path.is_empty()).then(|| path.to_owned())
    }

    /// Returns a list, or the words of a text.
    pub(super) fn words(&mut self, names: &[&str]) -> Vec<String> {
        match self.value(names) {
            Some(Value::Array(list)) => list.iter().filter_map(text).collect(),
            Some(other) => split(&text(other).unwrap_or_default()),
            None => Vec::new(),
        }
    }

    /// Returns what is not carried over: the keys that were not read.
    pub(super) fn rest(&self, env: &str) -> Vec<String> {
        let mut left = Vec::new();
        for (key, value) in self.written {
            if self.read.contains(&key.as_str()) || SILENT.split(' ').any(|silent| silent == key) {
                continue;
            }
            let mut ignored = IGNORED.lines().filter_map(|line| line.split_once(": "));
            let ignored = ignored.find(|(ignored, _)| ignored == key);
            match ignored {
                // Off is how systemd is.
                Some(_) if matches!(value, Value::Bool(false) | Value::Null) => (),
                Some((_, why)) => left.push(format!("`{key}`: {why}")),
                None if key.starts_with("env_") => {
                    left.push(format!("`{key}`: this is the import for `--env {env}`"));
                }
                None => left.push(format!("`{key}`: unknown to this import")),
            }
        }
        left
    }
}

/// Splits a text at spaces and quotes, as PM2 does: `"a b"` is one word, without its quotes, and
/// so is `name="a b"`, with them.
fn split(text: &str) -> Vec<String> {
    static BETWEEN: LazyLock<Regex> = LazyLock::new(|| {
        let between = r#"([A-Za-z0-9_-]+="[^"]*")|([A-Za-z0-9_-]+='[^']*')|"([^"]*)"|'([^']*)'|\s"#;
        Regex::new(between).expect("it is valid")
    });
    let mut words = Vec::new();
    let mut end = 0;
    for captures in BETWEEN.captures_iter(text) {
        let whole = captures.get_match();
        words.push(&text[end..whole.start()]);
        words.extend(captures.iter().skip(1).flatten().map(|word| word.as_str()));
        end = whole.end();
    }
    words.push(&text[end..]);
    words.retain(|word| !word.trim().is_empty());
    words.into_iter().map(str::to_owned).collect()
}

pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
