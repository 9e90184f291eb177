//! A plugin's `config` as written, with the places of its parts; and values that must not be zero.

use std::borrow::Cow;

use edgeway_base::{
    secret,
    units::{ByteSize, Span},
};
use edgeway_config::{
    diagnostic::Place,
    tree::{Node, Value},
};
use edgeway_script::schema::Step;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Map, Value as Json};

/// A mapping with any keys that the plugin accepts.
#[derive(Debug, Default)]
pub(super) struct PluginSettings {
    pub(super) json: Map<String, Json>,
    /// `None` if it is not written.
    node: Option<Node>,
}

impl PluginSettings {
    pub(super) fn is_empty(&self) -> bool {
        self.json.is_empty()
    }

    /// Returns the place of a value, or of its innermost existing parent.
    pub(super) fn place(&self, steps: &[Step]) -> Option<Place> {
        let mut node = self.node.as_ref()?;
        let mut place = node.place;
        for step in steps {
            let next = match (step, &node.value) {
                (Step::Key(key), Value::Map(_)) => node.entry(key).map(|(key, node)| {
                    // A problem is shown at the value; for a mapping or list, which is long, at its
                    // key.
                    let is_long = matches!(node.value, Value::Map(_) | Value::List(_));
                    let place = if is_long { key.place } else { node.place };
                    (place, node)
                }),
                (Step::Item(index), Value::List(items)) => {
                    items.get(*index).map(|node| (node.place, node))
                }
                _ => None,
            };
            let Some((child_place, inner)) = next else {
                break;
            };
            (place, node) = (child_place, inner);
        }
        Some(place)
    }
}

impl<'de> Deserialize<'de> for PluginSettings {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let node = Node::deserialize(d)?;
        match json(&node) {
            Json::Object(json) => Ok(Self {
                json,
                node: Some(node),
            }),
            _ => Err(de::Error::invalid_type(
                de::Unexpected::Other(&node.kind()),
                &"a mapping",
            )),
        }
    }
}

fn json(node: &Node) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(flag) => (*flag).into(),
        Value::Integer(number) => (*number).into(),
        // JSON cannot represent NaN; it becomes null.
        Value::Float(number) => (*number).into(),
        Value::Text(text) => text.as_str().into(),
        Value::List(items) => items.iter().map(json).collect(),
        Value::Map(entries) => entries
            .iter()
            .map(|(key, node)| (key.name.clone(), json(node)))
            .collect(),
    }
}

impl Serialize for PluginSettings {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut shown = Json::Object(self.json.clone());
        secret::redact_by_name(&mut shown);
        shown.serialize(s)
    }
}

impl JsonSchema for PluginSettings {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        Map::<String, Json>::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Map::<String, Json>::json_schema(generator)
    }
}

/// Reads a time above zero: no hook would ever finish in no time.
pub(super) fn some_time<'de, D: Deserializer<'de>>(d: D) -> Result<Span, D::Error> {
    let span = Span::deserialize(d)?;
    if span.0.is_zero() {
        let why = "the time must be longer than zero; write `5ms`, or remove the key";
        return Err(de::Error::custom(why));
    }
    Ok(span)
}

pub(super) fn some_bytes<'de, D: Deserializer<'de>>(d: D) -> Result<ByteSize, D::Error> {
    let size = ByteSize::deserialize(d)?;
    if size.0 == 0 {
        let why = "the size must be more than zero; write `64KiB`, or remove the key";
        return Err(de::Error::custom(why));
    }
    Ok(size)
}

/// Reads a name that is not empty: logs, metrics and a kv use it.
pub(super) fn some_name<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    let name = Option::<String>::deserialize(d)?;
    if name.as_deref().is_some_and(|name| name.trim().is_empty()) {
        let why = "the name is empty; write one such as `guard`, or remove the key";
        return Err(de::Error::custom(why));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeway_config::{diagnostic::Diagnostics, tree};

    #[test]
    fn mistakes_are_shown_at_their_positions() {
        let yaml = "a: { b: [1, 0x10, x] }\nc: 1.5\n";
        let mut diagnostics = Diagnostics::default();
        let config: PluginSettings = tree::parse(yaml, 0, &mut diagnostics)
            .and_then(|node| tree::read(&node, &mut diagnostics))
            .unwrap_or_else(|| panic!("{diagnostics:?}"));
        let json = serde_json::json!({ "a": { "b": [1, 16, "x"] }, "c": 1.5 });
        assert_eq!(Json::Object(config.json.clone()), json);
        let key = |key: &str| Step::Key(key.to_owned());
        let shown = |at: &[Step]| {
            let place = config.place(at).unwrap();
            &yaml[place.start as usize..place.end as usize]
        };
        assert_eq!(shown(&[key("a"), key("b"), Step::Item(2)]), "x");
        assert_eq!(shown(&[key("c")]), "1.5");
        assert_eq!(shown(&[key("a"), key("b")]), "b", "a list is long");
        assert_eq!(shown(&[key("a"), key("gone")]), "a", "what is above it");
        assert_eq!(PluginSettings::default().place(&[key("a")]), None);
    }

    #[test]
    fn only_mappings_are_accepted() {
        let mut diagnostics = Diagnostics::default();
        let config: Option<PluginSettings> = tree::parse("[1]", 0, &mut diagnostics)
            .and_then(|node| tree::read(&node, &mut diagnostics));
        assert!(config.is_none());
        let message = &diagnostics.list()[0].message;
        assert_eq!(message, "expected a mapping, found a list");
    }
}
