//! Values that a configuration has several times: the first gets an anchor of YAML, the others
//! refer to it.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::output::REFERENCE;

/// Columns from which a value is worth a name.
const LEAST: usize = 26;

/// Values with a mapping or a list that was met before.
#[derive(Default)]
pub(super) struct RepeatedValues {
    /// Number of times that each value is there, outside of others that are repeated.
    counts: HashMap<String, usize>,
    /// Names of the values that were written.
    pub(super) names: HashMap<String, String>,
}

impl RepeatedValues {
    /// Counts the values within a mapping.
    pub(super) fn count(&mut self, value: &Value) {
        let inner: Vec<&Value> = match value {
            Value::Object(map) => map.values().collect(),
            Value::Array(list) => list.iter().collect(),
            _ => return,
        };
        for value in inner {
            let text = value.to_string();
            if text.len() < LEAST || !(value.is_object() || value.is_array()) {
                continue;
            }
            let count = self.counts.entry(text).or_default();
            *count += 1;
            if *count == 1 {
                self.count(value);
            }
        }
    }

    /// Replaces the values within a mapping by references, and marks the first of each; in the same
    /// order as they were counted.
    pub(super) fn refer(&mut self, value: &mut Value) {
        match value {
            Value::Object(map) => {
                for (key, value) in map.iter_mut() {
                    self.named(key, value);
                }
            }
            Value::Array(list) => {
                for value in list {
                    let keys = value.as_object().and_then(|keys| keys.keys().next());
                    let name = keys.map_or_else(|| "list".to_owned(), Clone::clone);
                    self.named(&name, value);
                }
            }
            _ => {}
        }
    }

    fn named(&mut self, key: &str, value: &mut Value) {
        let text = value.to_string();
        if let Some(name) = self.names.get(&text) {
            *value = format!("{REFERENCE}*{name}").into();
            return;
        }
        let key = if key.starts_with(|c: char| c.is_ascii_alphabetic()) {
            key.replace(|c: char| !c.is_ascii_alphabetic() && c != '_', "-")
        } else {
            "page".to_owned()
        };
        let is_repeated = self.counts.get(&text).is_some_and(|count| *count > 1);
        self.refer(value);
        if is_repeated {
            let all = self.names.values();
            let number = all.filter(|name| name.trim_end_matches(char::is_numeric) == key);
            let name = match number.count() {
                0 => key,
                count => format!("{key}{}", count + 1),
            };
            let marked = format!("{REFERENCE}&{name}");
            self.names.insert(text, name);
            *value = Map::from_iter([(marked, value.take())]).into();
        }
    }
}
