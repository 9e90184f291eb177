//! Filters of a location: limits, access, authentication, headers, compression, cache.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{
    cache,
    output::Part,
    parse::Directive,
    report::Fates,
    scope::Scope,
    words::{Piece, bytes, duration, header, milliseconds, parameter, pieces, size},
};

/// Statuses to which nginx adds headers without `always`.
pub(super) const USUAL: [u16; 10] = [200, 201, 204, 206, 301, 302, 303, 304, 307, 308];

/// Headers of `security_headers`.
const SECURITY: [&str; 12] = [
    "content-security-policy",
    "cross-origin-opener-policy",
    "cross-origin-resource-policy",
    "origin-agent-cluster",
    "referrer-policy",
    "strict-transport-security",
    "x-content-type-options",
    "x-dns-prefetch-control",
    "x-download-options",
    "x-frame-options",
    "x-permitted-cross-domain-policies",
    "x-xss-protection",
];

/// Limits that routes use, by name.
pub(super) type Limits = Vec<(String, Part)>;

/// Filters of a route.
#[derive(Debug, Default)]
pub(super) struct Filters {
    pub(super) keys: Map<String, Value>,
    /// True if something that kept requests out is missing: the route must respond with 503.
    pub(super) is_closed: bool,
}

/// Translates the filters of a location. `passes`: the location sends requests to a backend.
pub(super) fn of(
    scope: &Scope<'_>,
    http: &Scope<'_>,
    passes: bool,
    limits: &mut Limits,
    fates: &mut Fates,
) -> Filters {
    let mut filters = Filters::default();
    access(scope, &mut filters, fates);
    basic_auth(scope, &mut filters, fates);
    rate_limits(scope, http, limits, &mut filters, fates);
    connections(scope, http, &mut filters, fates);
    body_limit(scope, &mut filters, fates);
    compression(scope, &mut filters, fates);
    headers(scope, (passes, !passes), &mut filters, fates);
    if passes {
        cache::of(scope, &mut filters, fates);
    }
    if let Some(satisfy) = scope.one("satisfy") {
        if satisfy.arg(0) == "any" {
            fates.changed(satisfy, "all conditions must hold: address and password");
        } else {
            fates.carried(satisfy, "");
        }
    }
    filters
}

fn access(scope: &Scope<'_>, filters: &mut Filters, fates: &mut Fates) {
    let rules = scope.nearest_of(&["allow", "deny"]);
    if rules.is_empty() {
        return;
    }
    let (mut allow, mut deny) = (Vec::new(), Vec::new());
    let mut all = None;
    let mut is_mixed = false;
    for rule in &rules {
        let (name, what) = (rule.name.as_str(), rule.arg(0));
        match (name, what) {
            (_, _) if all.is_some() => {}
            (_, "all") => all = Some(name == "allow"),
            (_, "unix:") => {}
            ("allow", network) => allow.push(network.to_owned()),
            (_, network) => {
                // A network that an earlier line allows in part must stay allowed.
                is_mixed |= !allow.is_empty();
                deny.push(network.to_owned());
            }
        }
    }
    let can = match all {
        Some(false) => !is_mixed,
        _ => allow.is_empty(),
    };
    for rule in &rules {
        if can {
            fates.carried(rule, "");
        } else {
            fates.closed(rule, "the order of these lines has no counterpart");
        }
    }
    if !can {
        filters.is_closed = true;
        return;
    }
    let mut value = Map::new();
    if all == Some(false) {
        // No client has this address.
        let list = if allow.is_empty() {
            vec!["255.255.255.255".to_owned()]
        } else {
            allow
        };
        value.insert("allow".to_owned(), list.into());
    }
    if !deny.is_empty() {
        value.insert("deny".to_owned(), deny.into());
    }
    if !value.is_empty() {
        filters.keys.insert("access".to_owned(), value.into());
    }
}

fn basic_auth(scope: &Scope<'_>, filters: &mut Filters, fates: &mut Fates) {
    let Some(realm) = scope.one("auth_basic") else {
        return;
    };
    let file = scope.one("auth_basic_user_file");
    if realm.arg(0) == "off" {
        fates.carried(realm, "");
        return;
    }
    let Some(file) = file.filter(|file| !file.arg(0).contains('$')) else {
        fates.closed(realm, "its file of users cannot be used");
        filters.is_closed = true;
        return;
    };
    let text = std::fs::read_to_string(file.arg(0)).unwrap_or_default();
    let mut lines = text
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    let is_strong = |line: &str| {
        let hash = line.split(':').nth(1).unwrap_or_default();
        hash.starts_with("$2") || hash.starts_with("$argon2")
    };
    let is_empty = text.trim().is_empty();
    if is_empty || !lines.all(is_strong) {
        let why = if is_empty {
            "the file of users cannot be read"
        } else {
            "the file of users has hashes that are too weak (make new ones with `edgeway hash password`)"
        };
        fates.closed(file, why);
        fates.carried(realm, "");
        filters.is_closed = true;
        return;
    }
    fates.changed(realm, "`WWW-Authenticate` names the charset UTF-8");
    fates.carried(file, "");
    let value = json!({ "realm": realm.arg(0), "file": file.arg(0), "strip": false });
    filters.keys.insert("basic_auth".to_owned(), value);
}

/// Returns the key of a limit for the key of a zone.
pub(super) fn limit_key(key: &str) -> Option<String> {
    let list = pieces(key);
    let parts = list.iter().map(|piece| match piece {
        Piece::Text(_) => None,
        Piece::Variable(name) => Some(match name.as_str() {
            "binary_remote_addr" | "remote_addr" => "client.ip".to_owned(),
            "host" | "http_host" | "server_name" => "host".to_owned(),
            name => {
                let header = name
                    .strip_prefix("http_")
                    .map(|name| format!("header:{}", name.replace('_', "-")));
                let cookie = name
                    .strip_prefix("cookie_")
                    .map(|name| format!("cookie:{name}"));
                let query = name
                    .strip_prefix("arg_")
                    .map(|name| format!("query:{name}"));
                header.or(cookie).or(query)?
            }
        }),
    });
    Some(parts.collect::<Option<Vec<String>>>()?.join("+"))
}

fn rate_limits(
    scope: &Scope<'_>,
    http: &Scope<'_>,
    limits: &mut Limits,
    filters: &mut Filters,
    fates: &mut Fates,
) {
    let mut names = Vec::new();
    let status = scope.one("limit_req_status");
    if let Some(status) = status {
        fates.carried(status, "");
    }
    let status = status
        .and_then(|status| status.arg(0).parse().ok())
        .unwrap_or(503u16);
    for using in scope.nearest("limit_req") {
        let zone = parameter(using, "zone").unwrap_or_default();
        let zones = http.own("limit_req_zone").into_iter();
        let mut defined = zones.filter(|one| {
            parameter(one, "zone").and_then(|zone| zone.split(':').next()) == Some(zone)
        });
        let Some(defined) = defined.next_back() else {
            fates.closed(using, "its zone is not there");
            filters.is_closed = true;
            continue;
        };
        let rate = parameter(defined, "rate").and_then(rate);
        let key = limit_key(defined.arg(0));
        let (Some((count, unit)), Some(key)) = (rate, key) else {
            fates.lost(defined, "its key or rate has no counterpart");
            fates.closed(using, "its key or rate has no counterpart");
            filters.is_closed = true;
            continue;
        };
        let burst: u64 = parameter(using, "burst")
            .and_then(|burst| burst.parse().ok())
            .unwrap_or(0);
        let passes_at_once = using.args.iter().any(|arg| arg == "nodelay");
        let at_once: u64 = parameter(using, "delay")
            .and_then(|n| n.parse().ok())
            .unwrap_or(0);
        let mut value = json!({ "rate": format!("{count}/{unit}"), "key": key });
        let seconds = if unit == "s" { 1_000 } else { 60_000 };
        if passes_at_once || burst == 0 {
            value["burst"] = (burst + 1).into();
        } else {
            value["burst"] = (at_once.min(burst) + 1).into();
            let wait = (burst - at_once.min(burst)) * seconds / count.max(1);
            value["delay"] = duration(wait.clamp(1, 60_000)).into();
        }
        value["headers"] = "off".into();
        value["status"] = status.into();
        let known = limits
            .iter()
            .find(|(_, part)| part.value == value && part.comment == defined.place());
        let name = if let Some((name, _)) = known {
            name.clone()
        } else {
            let mut name = zone.to_owned();
            while limits.iter().any(|(known, _)| *known == name) {
                fates.changed(
                    using,
                    "requests of this zone with another burst are counted separately",
                );
                name.push_str("-b");
            }
            let comment = defined.place();
            limits.push((name.clone(), Part { comment, value }));
            name
        };
        fates.carried(defined, "");
        fates.changed(using, "refusals have `Retry-After`");
        names.push(name);
    }
    if !names.is_empty() {
        filters.keys.insert("rate_limit".to_owned(), names.into());
    }
}

/// Returns count and unit of a rate such as `10r/s`.
fn rate(text: &str) -> Option<(u64, &'static str)> {
    let (count, unit) = text.split_once("r/")?;
    let unit = match unit {
        "s" => "s",
        "m" => "min",
        _ => return None,
    };
    Some((count.parse().ok().filter(|count| *count > 0)?, unit))
}

fn connections(scope: &Scope<'_>, http: &Scope<'_>, filters: &mut Filters, fates: &mut Fates) {
    let mut value = Map::new();
    for using in scope.nearest("limit_conn") {
        let defined = http.own("limit_conn_zone").into_iter().find(|one| {
            parameter(one, "zone").and_then(|zone| zone.split(':').next()) == Some(using.arg(0))
        });
        let key = defined.and_then(|defined| limit_key(defined.arg(0)));
        let (Some(defined), Some(key), Ok(most)) = (defined, key, using.arg(1).parse::<u64>())
        else {
            fates.closed(using, "its zone has no counterpart");
            filters.is_closed = true;
            continue;
        };
        fates.carried(defined, "");
        fates.changed(using, "counted for each route");
        if key == "host" {
            value.insert("max".to_owned(), most.into());
        } else {
            value.insert("per_key".to_owned(), most.into());
            value.insert("key".to_owned(), key.into());
        }
    }
    if let Some(status) = scope.one("limit_conn_status") {
        match status.arg(0) {
            "503" => fates.carried(status, ""),
            _ => fates.changed(status, "the status is 503"),
        }
    }
    if !value.is_empty() {
        filters.keys.insert("in_flight".to_owned(), value.into());
    }
}

fn body_limit(scope: &Scope<'_>, filters: &mut Filters, fates: &mut Fates) {
    let Some(directive) = scope.one("client_max_body_size") else {
        return;
    };
    let value = match bytes(directive.arg(0)) {
        Some(0) => Value::Bool(false),
        Some(bytes) => size(bytes).into(),
        None => {
            fates.lost(directive, "this size is not known");
            return;
        }
    };
    if filters.keys.contains_key("access") || filters.keys.contains_key("basic_auth") {
        fates.changed(directive, "the size is checked after address and password");
    } else {
        fates.carried(directive, "");
    }
    filters.keys.insert("body_limit".to_owned(), value);
}

fn compression(scope: &Scope<'_>, filters: &mut Filters, fates: &mut Fates) {
    let Some(gzip) = scope.one("gzip") else {
        return;
    };
    if !gzip.is_on() {
        fates.carried(gzip, "");
        filters.keys.insert("compression".to_owned(), false.into());
        return;
    }
    fates.changed(
        gzip,
        "backends get `Accept-Encoding: identity`, so that nothing is compressed twice",
    );
    let mut types: BTreeSet<String> = ["text/html".to_owned()].into();
    if let Some(written) = scope.one("gzip_types") {
        fates.carried(written, "");
        let known = written
            .args
            .iter()
            .filter(|one| *one == "*" || one.contains('/'));
        types.extend(known.map(|one| {
            if one == "*" {
                "*/*".to_owned()
            } else {
                one.clone()
            }
        }));
    }
    let mut value = json!({ "encodings": ["gzip"] });
    if types.contains("*/*") {
        types = ["*/*".to_owned()].into();
    }
    value["types"] = types.into_iter().collect::<Vec<_>>().into();
    let least = scope.one("gzip_min_length").map(|least| {
        fates.carried(least, "");
        bytes(least.arg(0)).unwrap_or(20)
    });
    value["min_size"] = size(least.unwrap_or(20)).into();
    if let Some(level) = scope.one("gzip_comp_level") {
        fates.carried(level, "");
        let level = level.arg(0).parse::<u64>().unwrap_or(1).clamp(1, 9);
        value["levels"] = json!({ "gzip": level });
    }
    if let Some(proxied) = scope.one("gzip_proxied") {
        fates.changed(
            proxied,
            "responses to requests with `Via` are compressed as well",
        );
    }
    filters.keys.insert("compression".to_owned(), value);
}

/// Translates changes of headers.
pub(super) fn headers(
    scope: &Scope<'_>,
    (passes, is_files): (bool, bool),
    filters: &mut Filters,
    fates: &mut Fates,
) {
    let (mut add, mut usual) = (Map::new(), Map::new());
    let (mut set, mut usual_set) = (Map::new(), Map::new());
    for directive in scope.nearest("add_header") {
        let (name, value) = (directive.arg(0), directive.arg(1));
        let always = directive.args.iter().any(|arg| arg == "always");
        if value == "$upstream_cache_status" {
            fates.changed(directive, "the gateway's own header is `X-Cache-Status`");
            continue;
        }
        let Some(value) = header(value) else {
            fates.lost(directive, "a variable of its value has no counterpart");
            continue;
        };
        fates.carried(directive, "");
        if value.is_empty() {
            continue;
        }
        // One line in place of the one of `security_headers`.
        let lower = name.to_ascii_lowercase();
        let is_only = is_files && lower == "cache-control" && scope.one("expires").is_none();
        let replaces = is_only || SECURITY.contains(&&*lower);
        let to = match (always, replaces) {
            (true, false) => &mut add,
            (true, true) => &mut set,
            (false, false) => &mut usual,
            (false, true) => &mut usual_set,
        };
        if let Some(known) = to.insert(name.to_owned(), value.clone().into()) {
            to.insert(name.to_owned(), known);
            fates.lost(
                directive,
                format!("`{name}` is there twice; the first one counts"),
            );
        }
    }
    let expires = scope
        .one("expires")
        .and_then(|expires| expiry(expires, fates));
    let mut response = Map::new();
    let mut remove = Vec::new();
    if passes {
        for hidden in scope.nearest("proxy_hide_header") {
            fates.carried(hidden, "");
            remove.push(hidden.arg(0).to_owned());
        }
    }
    if !remove.is_empty() {
        response.insert("remove".to_owned(), remove.into());
    }
    for (key, changes) in [("set", set), ("add", add)] {
        if !changes.is_empty() {
            response.insert(key.to_owned(), changes.into());
        }
    }
    if !usual.is_empty() || !usual_set.is_empty() || expires.is_some() {
        let mut statuses = USUAL.to_vec();
        if is_files {
            // nginx finds that a range is not in the file once the headers are there.
            statuses.push(416);
        }
        let mut value = json!({ "status": statuses });
        if !usual.is_empty() {
            value["add"] = usual.into();
        }
        if let Some([control, date]) = expires {
            usual_set.insert("Cache-Control".to_owned(), control.into());
            usual_set.insert("Expires".to_owned(), date.into());
        }
        if !usual_set.is_empty() {
            value["set"] = usual_set.into();
        }
        response.insert("by_status".to_owned(), json!([value]));
    }
    let mut all = Map::new();
    if passes {
        let request = request_headers(scope, fates);
        if !request.is_empty() {
            all.insert("request".to_owned(), request.into());
        }
    }
    if !response.is_empty() {
        all.insert("response".to_owned(), response.into());
    }
    if !all.is_empty() {
        filters.keys.insert("headers".to_owned(), all.into());
    }
}

/// Returns `Cache-Control` and `Expires` for `expires`.
fn expiry(expires: &Directive, fates: &mut Fates) -> Option<[String; 2]> {
    const EPOCH: &str = "Thu, 01 Jan 1970 00:00:01 GMT";
    let pair = |control: &str, date: &str| Some([control.to_owned(), date.to_owned()]);
    let found = match expires.arg(0) {
        "off" => {
            fates.carried(expires, "");
            return None;
        }
        "max" => pair("max-age=315360000", "Thu, 31 Dec 2037 23:55:55 GMT"),
        "epoch" => pair("no-cache", EPOCH),
        text if text.starts_with('-') => {
            fates.changed(expires, "`Expires` is 1970");
            return pair("no-cache", EPOCH);
        }
        text if expires.args.len() == 1 => milliseconds(text.trim_start_matches('+')).map(|ms| {
            let seconds = ms / 1_000;
            [format!("max-age={seconds}"), format!("{{date+{seconds}s}}")]
        }),
        _ => None,
    };
    match found {
        Some(_) => fates.carried(expires, ""),
        None => fates.lost(expires, "this time has no counterpart"),
    }
    found
}

/// Headers that the gateway sends to every backend, with the values that they may be set to.
const SENT: [(&str, &[&str]); 6] = [
    ("x-real-ip", &["$remote_addr"]),
    (
        "x-forwarded-for",
        &["$proxy_add_x_forwarded_for", "$remote_addr"],
    ),
    ("x-forwarded-proto", &["$scheme"]),
    ("x-forwarded-host", &["$host", "$http_host"]),
    ("x-forwarded-port", &["$server_port"]),
    ("x-request-id", &["$request_id"]),
];

fn request_headers(scope: &Scope<'_>, fates: &mut Fates) -> Map<String, Value> {
    let (mut set, mut remove) = (Map::new(), Vec::new());
    for directive in scope.nearest("proxy_set_header") {
        let (name, value) = (directive.arg(0), directive.arg(1));
        let lower = name.to_ascii_lowercase();
        if ["host", "connection", "upgrade"].contains(&&*lower) {
            continue;
        }
        if let Some((_, values)) = SENT.iter().find(|(sent, _)| *sent == lower) {
            match value {
                value if values.contains(&value) => fates.carried(directive, "sent in any case"),
                _ => fates.lost(directive, "the gateway sets this header itself"),
            }
            continue;
        }
        match header(value) {
            Some(value) if value.is_empty() => {
                fates.carried(directive, "");
                remove.push(name.to_owned());
            }
            Some(_)
                if [
                    "content-length",
                    "te",
                    "transfer-encoding",
                    "keep-alive",
                    "trailer",
                ]
                .contains(&&*lower) =>
            {
                fates.lost(directive, "a header of the connection cannot be changed");
            }
            Some(value) => {
                fates.carried(directive, "");
                set.insert(name.to_owned(), value.into());
            }
            None => fates.lost(directive, "a variable of its value has no counterpart"),
        }
    }
    let mut request = Map::new();
    if !remove.is_empty() {
        request.insert("remove".to_owned(), remove.into());
    }
    if !set.is_empty() {
        request.insert("set".to_owned(), set.into());
    }
    request
}
