//! JSON Schema of the YAML, for editors: the model's sections and every filter.

use edgeway_config::model::{
    AcmeConfig, AdminConfig, AuditLogConfig, CacheConfig, DrainConfig, ExtendsConfig,
    FloodGuardConfig, GeoConfig, ListenerConfig, MediaTypesConfig, ProfileConfig, RedisConfig,
    RouteConfig, SiteConfig, TracingConfig, UpstreamConfig, WatchConfig,
};
use edgeway_core::limits::config::LimitConfig;
use edgeway_filters as filters;
use edgeway_routes::values::MapConfig;
use schemars::{Schema, SchemaGenerator, generate::SchemaSettings, json_schema};
use serde_json::{Map, Value, json};

/// Returns the schema as a document (JSON Schema, draft 2020-12).
pub fn document() -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let listener = generator.subschema_for::<ListenerConfig>();
    let admin = generator.subschema_for::<AdminConfig>();
    let audit_log = generator.subschema_for::<AuditLogConfig>();
    let flood_guard = generator.subschema_for::<FloodGuardConfig>();
    let geo = generator.subschema_for::<GeoConfig>();
    let cache = generator.subschema_for::<CacheConfig>();
    let acme = generator.subschema_for::<AcmeConfig>();
    let drain = generator.subschema_for::<DrainConfig>();
    let watch = generator.subschema_for::<WatchConfig>();
    let redis = generator.subschema_for::<RedisConfig>();
    let tracing = generator.subschema_for::<TracingConfig>();
    let upstream = generator.subschema_for::<UpstreamConfig>();
    let limit = generator.subschema_for::<LimitConfig>();
    let map = generator.subschema_for::<MapConfig>();
    let site = generator.subschema_for::<SiteConfig>();
    let media_types = generator.subschema_for::<MediaTypesConfig>();
    let profile = generator.subschema_for::<ProfileConfig>();
    let extends = generator.subschema_for::<ExtendsConfig>();
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
        "properties": {
            "include": {
                "description": "Files to read as well: a path or glob, or a list of them, relative to this file.",
                "anyOf": [
                    { "type": "string" },
                    { "type": "array", "items": { "type": "string" } },
                ],
            },
            "extends": extends,
            "listeners": { "description": "Where clients connect.", "type": "array", "minItems": 1, "items": listener },
            "admin": or_empty(admin.as_value()),
            "trusted_proxies": {
                "description": "Networks whose `X-Forwarded-*` headers are trusted.",
                "type": ["array", "null"],
                "items": { "type": "string" },
            },
            "access_log": access_log,
            "audit_log": or_empty(audit_log.as_value()),
            "flood_guard": or_empty(flood_guard.as_value()),
            "geo": or_empty(geo.as_value()),
            "cache": or_empty(cache.as_value()),
            "profiles": named("Named overrides; `edgeway profile NAME` switches them on.", profile.as_value()),
            "acme": or_empty(acme.as_value()),
            "drain": or_empty(drain.as_value()),
            "watch": or_empty(watch.as_value()),
            "merge_slashes": merge_slashes(),
            "driver": driver(),
            "media_types": or_empty(media_types.as_value()),
            "sites": named("Rules that the routes of a site share.", site.as_value()),
            "redis": or_empty(redis.as_value()),
            "tracing": or_empty(tracing.as_value()),
            "rate_limits": named("Named limits; routes apply them with `rate_limit`.", limit.as_value()),
            "maps": named("Lookup tables; values of `headers` use their results as `{map.NAME}`.", map.as_value()),
            "upstreams": named("Named groups of backends.", &or_removed(upstream.as_value())),
            "defaults": {
                "description": "Filters of every route. A route's own key replaces the one here as a whole.",
                "type": ["object", "null"],
                "additionalProperties": false,
                "properties": filters,
            },
            "routes": {
                "description": "Routes: what they match and what they do. The most specific match wins, in any order.",
                "type": "array",
                "items": route,
            },
        },
    });
    document["if"] = json!({ "not": { "required": ["extends"] } });
    document["then"] = complete_parts();
    let mut definitions = generator.take_definitions(true);
    for name in ["UpstreamConfig", "LimitConfig"] {
        if let Some(definition) = definitions.get_mut(name) {
            without_required(definition);
        }
    }
    definitions.values_mut().for_each(allow_variables);
    allow_variables(&mut document);
    definitions.insert(
        VARIABLE.to_owned(),
        json!({
            "description": "A value of the environment: `${NAME}` or `${NAME:-default}`.",
            "type": "string",
            "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}",
        }),
    );
    document["$defs"] = Value::Object(definitions);
    document
}

fn merge_slashes() -> Value {
    json!({
        "description": "Repeated slashes of a path become one, for routes and for backends; `false` leaves them.",
        "type": ["boolean", "null"],
        "default": true,
    })
}

fn driver() -> Value {
    json!({
        "description": "Caller of the hooks of each request: the `gateway` itself, or Pingora's proxy, which costs more and gives the same responses.",
        "enum": ["gateway", "pingora", null],
        "default": "gateway",
    })
}

/// Allows a mapping from names to items of this schema.
fn named(description: &str, item: &Value) -> Value {
    json!({
        "description": description,
        "type": ["object", "null"],
        "additionalProperties": item,
    })
}

/// Allows `false`, which removes an upstream of a preset.
fn or_removed(schema: &Value) -> Value {
    json!({
        "anyOf": [schema, { "description": "`false` removes this upstream of the preset.", "const": false }],
    })
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

/// Allows an empty section, because all of its content may be commented out.
fn or_empty(schema: &Value) -> Value {
    json!({ "anyOf": [schema, { "type": "null" }] })
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
    filters::all()
        .iter()
        .map(|entry| {
            let own = (entry.schema)(generator);
            let schema = json!({
                "anyOf": [own, { "type": ["boolean", "null"] }, { "const": "off" }],
            });
            (entry.name.to_owned(), schema)
        })
        .collect()
}

/// Returns the schema of a route: its own keys, and the filters besides them.
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
