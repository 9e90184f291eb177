//! The JSON Schema of the YAML, for editors: the model's sections and every filter.

use schemars::{Schema, SchemaGenerator, generate::SchemaSettings, json_schema};
use serde_json::{Map, Value, json};

use crate::{
    config::model::{AdminConfig, ListenerConfig, RouteConfig, UpstreamConfig},
    filters::FILTERS,
};

/// The schema as a document (JSON Schema, draft 2020-12).
pub fn document() -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let listener = generator.subschema_for::<ListenerConfig>();
    let admin = generator.subschema_for::<AdminConfig>();
    let upstream = generator.subschema_for::<UpstreamConfig>();
    let filters = filters(&mut generator);
    let route = route(&mut generator, &filters);
    let access_log = filters
        .get("access_log")
        .cloned()
        .unwrap_or(Value::Bool(true));
    let mut document = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Edgeway configuration",
        "type": "object",
        "additionalProperties": false,
        "required": ["listeners", "routes"],
        "properties": {
            "include": {
                "description": "Files to read as well: a path or glob, or a list of them, relative to this file.",
                "anyOf": [
                    { "type": "string" },
                    { "type": "array", "items": { "type": "string" } },
                ],
            },
            "listeners": { "description": "Where clients connect.", "type": "array", "minItems": 1, "items": listener },
            "admin": admin,
            "trusted_proxies": {
                "description": "Networks whose `X-Forwarded-*` headers are believed.",
                "type": "array",
                "items": { "type": "string" },
            },
            "access_log": access_log,
            "upstreams": {
                "description": "Named groups of backends.",
                "type": "object",
                "additionalProperties": upstream,
            },
            "defaults": {
                "description": "The filters of every route that does not say otherwise. A route's own key replaces the one here whole.",
                "type": "object",
                "additionalProperties": false,
                "properties": filters,
            },
            "routes": {
                "description": "What is done with which request. The most specific match wins, whatever the order here.",
                "type": "array",
                "items": route,
            },
        },
    });
    let definitions = generator.take_definitions(true);
    document["$defs"] = Value::Object(definitions);
    document
}

/// Each filter's key and what may stand there: its own form, or a switch.
fn filters(generator: &mut SchemaGenerator) -> Map<String, Value> {
    FILTERS
        .iter()
        .map(|entry| {
            let own = entry.schema(generator);
            let schema = json!({
                "anyOf": [own, { "type": "boolean" }, { "const": "off" }],
            });
            (entry.name.to_owned(), schema)
        })
        .collect()
}

/// A route: its own keys, and the filters beside them.
fn route(generator: &mut SchemaGenerator, filters: &Map<String, Value>) -> Schema {
    let own = generator.root_schema_for::<RouteConfig>();
    for (name, definition) in own
        .get("$defs")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        generator
            .definitions_mut()
            .entry(name.clone())
            .or_insert_with(|| definition.clone());
    }
    let mut properties = own
        .get("properties")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    properties.extend(filters.clone());
    json_schema!({
        "type": "object",
        "additionalProperties": false,
        "required": ["match"],
        "properties": properties,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_has_its_definition() {
        fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(reference)) = map.get("$ref") {
                        found.push(reference);
                    }
                    map.values().for_each(|value| references(value, found));
                }
                Value::Array(list) => list.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        let document = document();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }
}
