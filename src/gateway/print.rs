//! `edgeway check --print`: the configuration with every effective value.

use serde_json::{Map, Value, json};

use super::compile::effective_filters;
use crate::config::model::File;

/// The configuration as YAML, defaults filled in, secrets redacted.
pub fn yaml(file: &File) -> String {
    let document = document(file);
    serde_saphyr::to_string(&document).unwrap_or_else(|error| format!("# cannot be printed: {error}\n"))
}

fn document(file: &File) -> Value {
    let upstreams: Map<String, Value> = file
        .upstreams
        .iter()
        .map(|(key, config)| (key.name.clone(), value(config)))
        .collect();
    let routes: Vec<Value> = file
        .routes
        .iter()
        .map(|route| {
            let mut printed = value(&route.config);
            if let Value::Object(printed) = &mut printed {
                printed.retain(|_, value| !value.is_null());
                printed.extend(effective_filters(file, route));
            }
            printed
        })
        .collect();
    json!({
        "listeners": value(&file.listeners),
        "admin": value(&file.admin),
        "trusted_proxies": value(&file.trusted_proxies),
        "upstreams": upstreams,
        "routes": routes,
    })
}

fn value(section: &impl serde::Serialize) -> Value {
    serde_json::to_value(section).unwrap_or_default()
}
