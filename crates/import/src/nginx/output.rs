//! The configuration as YAML, with the place of each part in comments.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

/// A part of a list or mapping: its comment, and its value.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) comment: String,
    pub(super) value: Value,
}

/// Sets a key of a mapping, unless the value is an empty text, list or mapping.
pub(super) fn put(mapping: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    let value = value.into();
    if ![json!(""), json!([]), json!({})].contains(&value) {
        mapping.insert(key.to_owned(), value);
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

    pub(super) fn yaml(&self, source: &str) -> String {
        let mut text = format!(
            "# Made by `edgeway import nginx {source}`. Comments name the directives that each part \
             stands for.\n"
        );
        text.push_str("listeners:\n");
        for part in &self.listeners {
            let _ = writeln!(text, "  # {}\n  - {}", part.comment, flow(&part.value));
        }
        if !self.trusted_proxies.is_empty() {
            let list = self
                .trusted_proxies
                .iter()
                .cloned()
                .map(Value::from)
                .collect();
            let _ = writeln!(text, "\ntrusted_proxies: {}", flow(&Value::Array(list)));
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
                let _ = writeln!(text, "  # {}", part.comment);
                block(&mut text, name, &part.value);
            }
        }
        if let Some(types) = &self.media_types {
            let _ = writeln!(text, "\nmedia_types: {}", flow(types));
        }
        text.push_str("\ndefaults:\n");
        for (key, value) in &self.defaults {
            let _ = writeln!(text, "  {key}: {}", flow(value));
        }
        text.push_str("\nroutes:\n");
        for part in &self.routes {
            let _ = writeln!(text, "  # {}", part.comment);
            let mut lead = "- ";
            for (key, value) in part.value.as_object().into_iter().flatten() {
                let _ = writeln!(text, "  {lead}{key}: {}", flow(value));
                lead = "  ";
            }
        }
        text
    }
}

/// Writes a mapping of mappings: the keys of the inner one on lines of their own.
fn block(text: &mut String, name: &str, value: &Value) {
    let _ = writeln!(text, "  {}:", scalar(name));
    for (key, value) in value.as_object().into_iter().flatten() {
        match value {
            // Entries of a lookup table.
            Value::Object(entries) if entries.len() > 3 => {
                let _ = writeln!(text, "    {key}:");
                for (key, value) in entries {
                    let _ = writeln!(text, "      {}: {}", scalar(key), flow(value));
                }
            }
            value => {
                let _ = writeln!(text, "    {key}: {}", flow(value));
            }
        }
    }
}

/// Returns a value on one line.
fn flow(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        Value::Array(list) => {
            let items: Vec<String> = list.iter().map(flow).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(map) if map.is_empty() => "{}".to_owned(),
        Value::Object(map) => {
            let entry =
                |(key, value): (&String, &Value)| format!("{}: {}", scalar(key), flow(value));
            let entries: Vec<String> = map.iter().map(entry).collect();
            format!("{{ {} }}", entries.join(", "))
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
