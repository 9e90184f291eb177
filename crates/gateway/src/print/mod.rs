//! `edgeway check --print`: the configuration with every effective value, as YAML that parses to
//! the same gateway. Secrets are redacted.

use std::borrow::Cow;

use edgeway_base::{secret, units::Span};
use edgeway_config::{
    diagnostic::{Diagnostics, Place},
    model::{
        BackendTarget, CacheConfig, DrainConfig, File, ProfileConfig, RouteNode, StatusSet,
        UpstreamConfig,
    },
    tree::{self, Key, Node, Spanned},
};
use edgeway_core::limits::config::LimitConfig;
use edgeway_routes::Action;
use edgeway_upstreams::Upstream;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use super::{Gateway, ListenAddress, Route, effective, filter_kinds, maps};

/// Filter whose shared settings have a section of their own.
const ACCESS_LOG: &str = "access_log";
/// Filter whose settings are defined by plugins.
const PLUGINS: &str = "plugins";

/// Prints a configuration and the result of compiling it, with defaults filled in.
///
/// Values that are only known while requests run, such as an idle time learned from backends, are
/// shown in comments at the top.
///
/// `hidden`: places of plugin settings that are secrets because of their source or the plugin's
/// schema.
pub fn yaml(file: &File, gateway: &Gateway, hidden: &[Place]) -> String {
    let mut document = json!({
        "listeners": listeners(file, gateway),
        "admin": admin(file, gateway),
        "trusted_proxies": value(&file.trusted_proxies),
        "drain": drain(&file.drain.value),
    });
    if let Some(acme) = &file.acme {
        document["acme"] = value(acme);
        let directory = acme.value.directory.as_ref();
        let directory = directory.map_or("letsencrypt", |written| &written.value);
        document["acme"]["directory"] = directory.into();
    }
    document["watch"] = value(&file.watch);
    document["merge_slashes"] = value(&file.merge_slashes);
    document["driver"] = value(&file.driver);
    document["media_types"] = value(&file.media_types);
    if !file.sites.is_empty() {
        let sites = file
            .sites
            .iter()
            .map(|(key, site)| (key.name.clone(), value(site)));
        document["sites"] = sites.collect::<serde_json::Map<_, _>>().into();
    }
    document["audit_log"] = value(&file.audit_log);
    document["redis"] = value(&file.redis);
    document["tracing"] = value(&file.tracing);
    document["flood_guard"] = value(&file.flood_guard);
    document["geo"] = value(&file.geo);
    if let Some(cache) = &file.cache {
        let max_object = Some(Spanned::nowhere(cache.value.max_object()));
        document["cache"] = value(&CacheConfig {
            max_object,
            ..cache.value.clone()
        });
    }
    if !file.profiles.is_empty() {
        document["profiles"] = named::<ProfileConfig>(&file.profiles).into();
    }
    if !file.rate_limits.is_empty() {
        document["rate_limits"] = named::<LimitConfig>(&file.rate_limits).into();
    }
    if !file.maps.is_empty() {
        document["maps"] = maps::print(file);
    }
    let mut defaults = filters(file, &[], hidden);
    if let Some(access_log) = defaults.remove(ACCESS_LOG) {
        document[ACCESS_LOG] = access_log;
    }
    let mut upstreams = Map::new();
    let mut text = String::new();
    for (key, config) in &file.upstreams {
        let Some(upstream) = gateway.upstreams.get(key.name.as_str()) else {
            continue;
        };
        upstreams.insert(key.name.clone(), self::upstream(config, upstream));
        text.extend(remarks(config, upstream));
    }
    document["upstreams"] = Value::Object(upstreams);
    document["defaults"] = Value::Object(defaults);
    let routes = file.routes.iter().zip(&gateway.routes);
    document["routes"] = routes
        .map(|(node, route)| self::route(file, node, route, hidden))
        .collect();
    tidy(&mut document);
    text + &serde_saphyr::to_string(&document).expect("plain data")
}

/// Returns the items of a section, each with every default filled in.
pub(super) fn named<T: DeserializeOwned + Serialize>(
    section: &[(Key, Node)],
) -> Map<String, Value> {
    let items = section.iter().filter_map(|(key, node)| {
        let config: T = tree::read(node, &mut Diagnostics::default())?;
        Some((key.name.clone(), serde_json::to_value(config).ok()?))
    });
    items.collect()
}

fn listeners(file: &File, gateway: &Gateway) -> Value {
    let listeners = file.listeners.iter().zip(&gateway.listeners);
    listeners
        .map(|(written, listener)| {
            let mut written = written.value.clone();
            let limits = &mut written.limits.value;
            let lengths = (limits.request_line(), limits.headers());
            (limits.request_line, limits.headers) = (Some(lengths.0), Some(lengths.1));
            let mut printed = value(&written);
            printed["name"] = json!(listener.name);
            if let ListenAddress::Unix { mode, .. } = &listener.address {
                printed["mode"] = json!(format!("{mode:04o}"));
            }
            printed
        })
        .collect()
}

fn drain(config: &DrainConfig) -> Value {
    value(&DrainConfig {
        idle: Some(config.idle()),
        ..config.clone()
    })
}

fn admin(file: &File, gateway: &Gateway) -> Value {
    let mut printed = value(&file.admin);
    printed["address"] = match gateway.admin.address {
        Some(address) => json!(address),
        None => json!("off"),
    };
    printed
}

fn upstream(config: &UpstreamConfig, upstream: &Upstream) -> Value {
    let mut printed = value(config);
    if config.balance.is_none() && !is_one_address(config) {
        printed["balance"] = json!(upstream.balance_name());
    }
    if config.pool.idle.is_none() {
        // Shown in the remarks.
        printed["pool"] = Value::Null;
    }
    if config.slow_start.is_none() {
        printed["slow_start"] = value(&Span::secs(0));
    }
    if let Some(health) = &config.health {
        if !health.value.enabled {
            printed["health"] = json!(false);
        } else if health.value.path.is_some() && health.value.expect.is_none() {
            printed["health"]["expect"] = value(&StatusSet::default());
        }
    }
    printed
}

/// Returns true for a single address, which leaves nothing to balance: printing a balancing method
/// would only cause a warning.
fn is_one_address(config: &UpstreamConfig) -> bool {
    let [backend] = &config.backends[..] else {
        return false;
    };
    matches!(backend.value.target, BackendTarget::Address(_))
}

/// Returns remarks about values that change the behaviour when written: without them the gateway
/// determines the value itself.
fn remarks(config: &UpstreamConfig, upstream: &Upstream) -> Vec<String> {
    let name = upstream.name.escape_debug();
    let idle = config.pool.idle.is_none().then(|| {
        let idle = Span(upstream.pool_default());
        format!(
            "# upstreams.{name}.pool.idle: {idle}, or a second less than a backend's own `Keep-Alive: timeout`\n"
        )
    });
    let health = config.health.is_none().then(|| {
        format!(
            "# upstreams.{name}.health: only backends that were ejected are checked, by a TCP connect each second\n"
        )
    });
    idle.into_iter().chain(health).collect()
}

fn route(file: &File, node: &RouteNode, route: &Route, hidden: &[Place]) -> Value {
    let config = &node.config;
    let mut printed = value(config);
    printed["name"] = json!(route.name);
    if let Some(respond) = &config.respond
        && respond.value.status.is_none()
        && let Action::Respond(compiled) = &route.action
    {
        printed["respond"]["status"] = json!(compiled.status.as_u16());
    }
    if let Some(upstream) = &route.upstream {
        let idle = upstream.timeouts.stream_idle;
        match &config.websocket {
            Some(websocket) if websocket.value.enabled => {
                if websocket.value.idle.is_none() {
                    printed["websocket"]["idle"] = value(&idle);
                }
            }
            Some(websocket) if !websocket.value.refuse => printed["websocket"] = json!("ignore"),
            _ => printed["websocket"] = json!(false),
        }
    }
    if let Value::Object(printed) = &mut printed {
        printed.extend(filters(file, &node.filters, hidden));
    }
    printed
}

/// Returns the filters of a route, including those that are off but could be on. Without a route,
/// returns those of the defaults.
fn filters(file: &File, written: &[(Key, Node)], hidden: &[Place]) -> Map<String, Value> {
    let of = |written| effective::filters(file, Place::default(), written);
    let mut on: Map<String, Value> = of(written)
        .filter_map(|(entry, node)| {
            let mut printed = (entry.print)(&node)?;
            if entry.name == PLUGINS {
                hide(&mut printed, &node, hidden);
            }
            Some((entry.name.to_owned(), printed))
        })
        .collect();
    let always = filter_kinds().iter().filter(|entry| entry.on_by_default);
    let shared = of(&[]).map(|(entry, _)| entry).chain(always);
    for entry in shared {
        on.entry(entry.name).or_insert(Value::Bool(false));
    }
    on
}

/// Redacts in `printed` the values that `node` has at secret places.
fn hide(printed: &mut Value, node: &Node, hidden: &[Place]) {
    if hidden.contains(&node.place) {
        secret::redact(printed);
        return;
    }
    match (printed, &node.value) {
        (Value::Object(map), tree::Value::Map(entries)) => {
            for (key, node) in entries {
                if let Some(printed) = map.get_mut(&key.name) {
                    hide(printed, node, hidden);
                }
            }
        }
        (Value::Array(list), tree::Value::List(items)) => {
            for (printed, node) in list.iter_mut().zip(items) {
                hide(printed, node, hidden);
            }
        }
        _ => {}
    }
}

fn value(section: &impl Serialize) -> Value {
    serde_json::to_value(section).expect("a configuration is plain data")
}

/// Removes unset values and redacts what looks like a secret. Escapes `${`, which would otherwise
/// be read as a variable.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(tidy);
        }
        Value::Array(list) => list.iter_mut().for_each(tidy),
        Value::String(text) => {
            if let Cow::Owned(shown) = secret::without_shapes(text) {
                *text = shown;
            }
            if text.contains("${") {
                *text = text.replace("${", "$${");
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests;
