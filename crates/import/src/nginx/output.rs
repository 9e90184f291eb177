//! The configuration as YAML, with the place of each part in comments.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::{Map, Value, json};

use super::{parse::Directive, repeated::RepeatedValues};

/// A part of a list or mapping: its comment, and its value.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) comment: String,
    pub(super) value: Value,
}

impl Part {
    pub(super) fn new(comment: impl Into<String>, value: impl Into<Value>) -> Self {
        Self {
            comment: comment.into(),
            value: value.into(),
        }
    }

    /// Returns a part that stands for a directive.
    pub(super) fn at(directive: &Directive, value: impl Into<Value>) -> Self {
        Self::new(directive.place(), value)
    }
}

/// Sets a key of a mapping, unless the value is none or an empty text, list or mapping.
pub(super) fn put(mapping: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    let value = value.into();
    if ![Value::Null, json!(""), json!([]), json!({})].contains(&value) {
        mapping.insert(key.to_owned(), value);
    }
}

/// Sets a key of a value that is a mapping, unless the new value is an empty text, list or mapping.
pub(super) fn add_to(value: &mut Value, key: &str, new: impl Into<Value>) {
    if let Some(mapping) = value.as_object_mut() {
        put(mapping, key, new);
    }
}

/// A configuration before it is written.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) listeners: Vec<Part>,
    pub(super) trusted_proxies: Vec<String>,
    pub(super) merge_slashes: bool,
    pub(super) rate_limits: Vec<(String, Part)>,
    pub(super) maps: Vec<(String, Part)>,
    pub(super) sites: Vec<(String, Part)>,
    /// Media types of files, if some route has any.
    pub(super) media_types: Option<Value>,
    pub(super) upstreams: Vec<(String, Part)>,
    pub(super) defaults: Map<String, Value>,
    pub(super) routes: Vec<Part>,
}

impl Output {
    /// Returns the texts that may name lookup tables.
    pub(super) fn values(&self) -> String {
        let mut text = String::new();
        let defaults = self.defaults.values();
        let routes = self.routes.iter().map(|part| &part.value);
        let limits = self.rate_limits.iter().map(|(_, part)| &part.value);
        let sites = self.sites.iter().map(|(_, part)| &part.value);
        for value in defaults.chain(routes).chain(limits).chain(sites) {
            text.push_str(&value.to_string());
        }
        text
    }

    /// Writes the configuration: `source` is the name of nginx's file, `folder` the beginning of the
    /// paths of all files beside it.
    pub(super) fn yaml(mut self, source: &str, folder: &str) -> String {
        let hint = if self.refer() {
            ", and `*name` repeats the value behind `&name`"
        } else {
            ""
        };
        let mut text =
            format!("# Made by `edgeway import nginx {source}`. Comments name its lines{hint}.\n");
        text.push_str("listeners:\n");
        for part in &self.listeners {
            commented(&mut text, (&part.comment, folder), |text| {
                item(text, "  ", &part.value);
            });
        }
        if !self.trusted_proxies.is_empty() {
            text.push('\n');
            entry(
                &mut text,
                "",
                "trusted_proxies",
                &json!(self.trusted_proxies),
            );
        }
        if !self.merge_slashes {
            text.push_str("\nmerge_slashes: false\n");
        }
        for (section, parts) in [
            ("rate_limits", &self.rate_limits),
            ("maps", &self.maps),
            ("sites", &self.sites),
            ("upstreams", &self.upstreams),
        ] {
            if !parts.is_empty() {
                let _ = writeln!(text, "\n{section}:");
            }
            for (name, part) in parts {
                commented(&mut text, (&part.comment, folder), |text| {
                    block(text, name, &part.value);
                });
            }
        }
        if let Some(types) = &self.media_types {
            text.push('\n');
            entry(&mut text, "", "media_types", types);
        }
        text.push_str("\ndefaults:\n");
        for (key, value) in &self.defaults {
            entry(&mut text, "  ", key, value);
        }
        text.push_str("\nroutes:\n");
        for part in &self.routes {
            commented(&mut text, (&part.comment, folder), |text| {
                item(text, "  ", &part.value);
            });
        }
        text
    }

    /// Puts references in place of repeated values; returns true if there are any.
    fn refer(&mut self) -> bool {
        let mut repeated = RepeatedValues::default();
        let mut defaults = Value::Object(std::mem::take(&mut self.defaults));
        let mut all: Vec<&mut Value> = Vec::new();
        all.extend(self.listeners.iter_mut().map(|part| &mut part.value));
        for named in [&mut self.sites, &mut self.upstreams] {
            all.extend(named.iter_mut().map(|(_, part)| &mut part.value));
        }
        all.push(&mut defaults);
        all.extend(self.routes.iter_mut().map(|part| &mut part.value));
        for value in &all {
            repeated.count(value);
        }
        for value in all {
            repeated.refer(value);
        }
        if let Value::Object(defaults) = defaults {
            self.defaults = defaults;
        }
        !repeated.names.is_empty()
    }

    /// Moves to `defaults` what most routes have in common.
    pub(super) fn share(&mut self) {
        for (key, absent) in [
            ("response_rewrite", None),
            ("compression", Some(json!(false))),
            ("body_limit", Some(json!("1MiB"))),
        ] {
            let mut counts = BTreeMap::<String, (usize, Value)>::new();
            let mut lacking = 0;
            for part in &self.routes {
                match part.value.get(key) {
                    Some(value) => {
                        let known = counts.entry(value.to_string());
                        known.or_insert((0, value.clone())).0 += 1;
                    }
                    None => lacking += usize::from(absent.is_some()),
                }
            }
            let Some((count, common)) = counts.into_values().max_by_key(|(count, _)| *count) else {
                continue;
            };
            if count < lacking + 2 {
                continue;
            }
            let keys = self.routes.iter_mut();
            for keys in keys.filter_map(|part| part.value.as_object_mut()) {
                match (keys.get(key), &absent) {
                    (Some(value), _) if *value == common => drop(keys.shift_remove(key)),
                    (None, Some(absent)) => drop(keys.insert(key.to_owned(), absent.clone())),
                    _ => {}
                }
            }
            self.defaults.insert(key.to_owned(), common);
        }
    }
}

/// Columns of a line that is not broken.
const WIDTH: usize = 112;

/// Columns of a line with its comment.
const WITH_COMMENT: usize = 144;

/// Writes a part with its comment: behind its first line if there is room, or else above it. Files
/// are named as seen from a folder.
fn commented(text: &mut String, (comment, folder): (&str, &str), write: impl Fn(&mut String)) {
    let comment = if folder.is_empty() {
        comment.to_owned()
    } else {
        comment.replace(folder, "")
    };
    let mut part = String::new();
    write(&mut part);
    let end = part.find('\n').unwrap_or(part.len());
    if end + comment.len() + 3 <= WITH_COMMENT {
        part.insert_str(end, &format!(" # {comment}"));
    } else {
        let _ = writeln!(text, "  # {comment}");
    }
    text.push_str(&part);
}

/// Writes a key with its value: on one line if there is room, or else on as many as it fills.
fn entry(text: &mut String, indent: &str, key: &str, value: &Value) {
    let mut line = format!("{indent}{}: ", scalar(key));
    for piece in flow_with(value, BREAK).split(BREAK) {
        if line.len() + piece.len() > WIDTH && line.trim_end().len() > indent.len() + 4 {
            let _ = writeln!(text, "{}", line.trim_end());
            line = format!("{indent}    ");
        }
        line.push_str(piece);
        line.push(' ');
    }
    let _ = writeln!(text, "{}", line.trim_end());
}

/// Writes an item of a list: on one line if there is room, or else each of its keys on its own.
fn item(text: &mut String, indent: &str, value: &Value) {
    let whole = flow(value);
    // A route of few things is a line of its own.
    let is_short = value.as_object().is_none_or(|keys| keys.len() <= 5);
    if (is_short || value.get("match").is_none()) && indent.len() + whole.len() + 2 <= WIDTH {
        let _ = writeln!(text, "{indent}- {whole}");
        return;
    }
    let dash = text.len() + indent.len();
    for (key, value) in value.as_object().into_iter().flatten() {
        entry(text, &format!("{indent}  "), key, value);
    }
    text.replace_range(dash..=dash, "-");
}

/// Writes a mapping of mappings: the keys of the inner one on lines of their own.
fn block(text: &mut String, name: &str, value: &Value) {
    if name.len() + flow(value).len() + 4 <= WIDTH {
        entry(text, "  ", name, value);
        return;
    }
    let _ = writeln!(text, "  {}:", scalar(name));
    for (key, value) in value.as_object().into_iter().flatten() {
        let row = flow(value);
        match value {
            // Entries of a lookup table, and no value with an anchor.
            Value::Object(entries) if row.starts_with('{') && key.len() + row.len() + 6 > WIDTH => {
                let _ = writeln!(text, "    {key}:");
                for (key, value) in entries {
                    entry(text, "      ", key, value);
                }
            }
            value => entry(text, "    ", key, value),
        }
    }
}

/// Beginning of a text that is an anchor or a reference, which no value has.
pub(super) const REFERENCE: char = '\u{2}';

/// Place at which a line may be broken, which no value has: a text with it is in quotes.
const BREAK: char = '\u{1}';

/// Returns a value on one line.
fn flow(value: &Value) -> String {
    flow_with(value, ' ')
}

/// Returns a value with this character after each comma.
fn flow_with(value: &Value, after: char) -> String {
    let joined = |items: Vec<String>| items.join(&format!(",{after}"));
    match value {
        Value::String(text) => match text.strip_prefix(REFERENCE) {
            Some(reference) => reference.to_owned(),
            None => scalar(text),
        },
        Value::Array(list) => {
            let items = list.iter().map(|item| flow_with(item, after));
            format!("[{}]", joined(items.collect()))
        }
        Value::Object(map) if map.is_empty() => "{}".to_owned(),
        Value::Object(map) if map.keys().all(|key| key.starts_with(REFERENCE)) => {
            let anchored = map.iter().map(|(key, value)| {
                let name = key.trim_start_matches(REFERENCE);
                format!("{name} {}", flow_with(value, after))
            });
            anchored.collect()
        }
        Value::Object(map) => {
            let entry = |(key, value): (&String, &Value)| {
                format!("{}: {}", scalar(key), flow_with(value, after))
            };
            format!("{{ {} }}", joined(map.iter().map(entry).collect()))
        }
        other => other.to_string(),
    }
}

/// Returns a text, in quotes unless every reader of YAML takes it for the same text without.
fn scalar(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/_-.".contains(c);
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let is_word = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
        .iter()
        .any(|word| text.eq_ignore_ascii_case(word));
    let begins_as_unit = text.starts_with(|c: char| c.is_ascii_digit())
        && text.ends_with(|c: char| c.is_ascii_alphabetic())
        && !text.contains(['.', '-'])
        && !text.starts_with("0x")
        && !text[1..].starts_with(['e', 'E']);
    if (begins || begins_as_unit) && !is_word && text.chars().all(is_plain) {
        return text.to_owned();
    }
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use edgeway_config::{diagnostic::Diagnostics, tree};

    #[test]
    fn values_are_written_on_one_line() {
        let value =
            json!({ "a": ["/x", "~ ^/(?<p1>.*)$"], "b": true, "c": "true", "d": "10s", "e": {} });
        assert_eq!(
            flow(&value),
            "{ a: [/x, \"~ ^/(?<p1>.*)$\"], b: true, c: \"true\", d: 10s, e: {} }"
        );
    }

    proptest! {
        #[test]
        fn a_text_reads_back_as_it_was(text in "\\PC{0,12}|[0-9a-z.:_-]{1,6}") {
            let yaml = format!("{{ key: {} }}", scalar(&text));
            let mut diagnostics = Diagnostics::default();
            let node = tree::parse(&yaml, 0, &mut diagnostics).expect("it is YAML");
            let read: Option<std::collections::BTreeMap<String, String>> =
                tree::read(&node, &mut diagnostics);
            let read = read.and_then(|map| map.get("key").cloned());
            prop_assert_eq!(read, Some(text), "{}", yaml);
        }
    }
}
