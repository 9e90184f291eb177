//! JSON Schema of the YAML, for editors: the model's sections and every filter.

use std::collections::BTreeMap;

use edgeway_config::model::{
    AcmeConfig, AdminConfig, AuditLogConfig, CacheConfig, DrainConfig, ExtendsConfig,
    FloodGuardConfig, GeoConfig, ListenerConfig, MediaTypesConfig, ProfileConfig, RedisConfig,
    RouteConfig, SiteConfig, TracingConfig, UpstreamConfig, WatchConfig,
};
use edgeway_core::limits::config::LimitConfig;
use edgeway_routes::values::MapConfig;
use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema};
use serde_json::{Map, Value, json};

use super::filter_kinds;

// The keys of a file. Those of any type depend on the filters that there are. This is no doc comment:
// the schema would have it.
#[derive(JsonSchema)]
#[schemars(title = "Edgeway configuration", deny_unknown_fields)]
#[allow(dead_code, reason = "only its schema is used")]
struct Document {
    /// Files to read as well: a path or glob, or a list of them, relative to this file.
    #[schemars(schema_with = "paths")]
    include: (),
    extends: ExtendsConfig,
    /// Addresses for clients.
    #[schemars(length(min = 1))]
    listeners: Vec<ListenerConfig>,
    admin: Option<AdminConfig>,
    /// Networks whose `X-Forwarded-*` headers are trusted.
    trusted_proxies: Option<Vec<String>>,
    access_log: Value,
    audit_log: Option<AuditLogConfig>,
    flood_guard: Option<FloodGuardConfig>,
    geo: Option<GeoConfig>,
    cache: Option<CacheConfig>,
    /// Named overrides; `edgeway profile NAME` switches them on.
    profiles: Option<BTreeMap<String, ProfileConfig>>,
    acme: Option<AcmeConfig>,
    drain: Option<DrainConfig>,
    watch: Option<WatchConfig>,
    /// Repeated slashes of a path become one, for routes and for backends; `false` leaves them.
    #[schemars(extend("default" = true))]
    merge_slashes: Option<bool>,
    /// Caller of the hooks of each request: the `gateway` itself, or Pingora's proxy, which costs
    /// more and gives the same responses.
    #[schemars(schema_with = "driver")]
    driver: (),
    media_types: Option<MediaTypesConfig>,
    /// Rules that the routes of a site share.
    sites: Option<BTreeMap<String, SiteConfig>>,
    redis: Option<RedisConfig>,
    tracing: Option<TracingConfig>,
    /// Named limits; routes apply them with `rate_limit`.
    rate_limits: Option<BTreeMap<String, LimitConfig>>,
    /// Lookup tables; values of `headers` use their results as `{map.NAME}`.
    maps: Option<BTreeMap<String, MapConfig>>,
    /// Named groups of backends.
    #[schemars(transform = or_removed)]
    upstreams: Option<BTreeMap<String, UpstreamConfig>>,
    /// Filters of every route. A route's own key replaces the one here as a whole.
    defaults: Value,
    /// Routes: what they match and what they do. The most specific match wins, in any order.
    routes: Value,
}

/// Returns the schema as a document (JSON Schema, draft 2020-12).
pub fn document() -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let mut document = generator.root_schema_for::<Document>().to_value();
    let filters = filters(&mut generator);
    let keys = &mut document["properties"];
    keys["access_log"] = filters["access_log"].clone();
    let route = route(&mut generator, &filters);
    merge(
        &mut keys["routes"],
        json!({ "type": "array", "items": route }),
    );
    merge(
        &mut keys["defaults"],
        json!({
            "type": ["object", "null"],
            "additionalProperties": false,
            "properties": filters,
        }),
    );
    let mut definitions = generator.take_definitions(true);
    for name in ["UpstreamConfig", "LimitConfig"] {
        if let Some(definition) = definitions.get_mut(name) {
            without_required(definition);
        }
    }
    definitions.values_mut().for_each(allow_variables);
    without_required(&mut document);
    allow_variables(&mut document);
    definitions.insert(
        VARIABLE.to_owned(),
        json!({
            "description": "A value of the environment: `${NAME}` or `${NAME:-default}`.",
            "type": "string",
            "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}",
        }),
    );
    merge(
        &mut document,
        json!({
            "if": { "not": { "required": ["extends"] } },
            "then": complete_parts(),
            "$defs": definitions,
        }),
    );
    document
}

/// Adds the keys of a schema to another.
fn merge(schema: &mut Value, more: Value) {
    if let (Some(schema), Value::Object(more)) = (schema.as_object_mut(), more) {
        schema.extend(more);
    }
}

fn paths(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "anyOf": [
            { "type": "string" },
            { "type": "array", "items": { "type": "string" } },
        ],
    })
}

fn driver(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "enum": ["gateway", "pingora", null], "default": "gateway" })
}

/// Allows `false`, which removes an upstream of a preset.
fn or_removed(schema: &mut Schema) {
    if let Some(item) = schema.get_mut("additionalProperties") {
        let removed = "`false` removes this upstream of the preset.";
        *item = json!({ "anyOf": [*item, { "description": removed, "const": false }] });
    }
}

/// Returns the keys that each part of a file has, unless a preset has them.
fn complete_parts() -> Value {
    json!({
        "properties": {
            "routes": { "items": { "required": ["match"] } },
            "upstreams": { "additionalProperties": { "anyOf": [{ "required": ["backends"] }, { "required": ["releases"] }] } },
            "rate_limits": {
                "additionalProperties": {
                    "if": { "type": "object" },
                    "then": { "required": ["rate"] },
                },
            },
        },
    })
}

/// Allows a mapping, in any of its forms, without the keys that it requires.
fn without_required(schema: &mut Value) {
    if let Value::Object(map) = schema {
        map.shift_remove("required");
        if let Some(Value::Array(forms)) = map.get_mut("anyOf") {
            forms.iter_mut().for_each(without_required);
        }
    }
}

/// Definition of the alternative to any single value.
const VARIABLE: &str = "Variable";

/// Allows an environment variable where an editor would not accept free text: for a number, a flag,
/// a duration, or an enumerated word.
fn allow_variables(schema: &mut Value) {
    let variable = json!({ "$ref": format!("#/$defs/{VARIABLE}") });
    if is_closed(schema) {
        let mut closed = std::mem::take(schema);
        let mut wrapper = Map::new();
        for key in ["description", "default"] {
            if let Some(value) = closed.as_object_mut().and_then(|map| map.shift_remove(key)) {
                wrapper.insert(key.to_owned(), value);
            }
        }
        wrapper.insert("anyOf".to_owned(), json!([closed, variable]));
        *schema = Value::Object(wrapper);
        return;
    }
    let Value::Object(schema) = schema else {
        return;
    };
    if let Some(Value::Array(forms)) = schema.get_mut("anyOf") {
        for form in forms.iter_mut().filter(|form| !is_closed(form)) {
            allow_variables(form);
        }
        if forms.iter().any(is_closed) && !forms.iter().any(is_text) {
            forms.push(variable);
        }
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get_mut(key) {
            allow_variables(inner);
        }
    }
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.values_mut().for_each(allow_variables);
    }
}

/// Returns true if the schema accepts single values only, and not arbitrary text.
fn is_closed(schema: &Value) -> bool {
    if let Some(Value::Array(forms)) = schema.get("oneOf") {
        return forms.iter().all(is_closed);
    }
    let is_scalar = ["integer", "number", "boolean", "string"]
        .iter()
        .any(|name| has_type(schema, name));
    schema.get("const").is_some() || schema.get("enum").is_some() || is_scalar && !is_text(schema)
}

/// Returns true if the schema accepts arbitrary text.
fn is_text(schema: &Value) -> bool {
    has_type(schema, "string")
        && ["pattern", "const", "enum"]
            .iter()
            .all(|key| schema.get(key).is_none())
}

fn has_type(schema: &Value, name: &str) -> bool {
    match schema.get("type") {
        Some(Value::Array(types)) => types.iter().any(|own| own == name),
        Some(own) => own == name,
        None => false,
    }
}

/// Returns each filter's key and its allowed values: its own form, or a switch.
fn filters(generator: &mut SchemaGenerator) -> Map<String, Value> {
    filter_kinds()
        .iter()
        .map(|entry| {
            let config = (entry.schema)(generator);
            let schema = json!({
                "anyOf": [config, { "type": ["boolean", "null"] }, { "const": "off" }],
            });
            (entry.name.to_owned(), schema)
        })
        .collect()
}

/// Returns the schema of a route: its own keys, and the filters besides them.
fn route(generator: &mut SchemaGenerator, filters: &Map<String, Value>) -> Schema {
    let schema = generator.root_schema_for::<RouteConfig>();
    for (name, definition) in schema
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
    let mut properties = schema
        .get("properties")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    properties.extend(filters.clone());
    json_schema!({
        "type": "object",
        "additionalProperties": false,
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
