//! Filters of a location: limits, access, authentication, headers, compression, cache.

use std::collections::BTreeSet;

use edgeway_base::credential::PasswordHash;
use serde_json::{Map, Value, json};

use super::{
    cache,
    directives::listed,
    headers,
    output::{Part, put},
    parse::Directive,
    scope::Scope,
    tables::header,
    words::{self, Piece, bytes, duration, parameter, part_of_request, pieces, plain, size},
};

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
pub(super) fn convert(
    scope: &Scope<'_>,
    http: &Scope<'_>,
    passes: bool,
    limits: &mut Limits,
) -> Filters {
    let mut filters = Filters::default();
    access_log(scope, &mut filters);
    access(scope, &mut filters);
    basic_auth(scope, &mut filters);
    rate_limits(scope, http, limits, &mut filters);
    connections(scope, http, &mut filters);
    body_limit(scope, &mut filters);
    compression(scope, passes, &mut filters);
    if passes {
        cache::convert(scope, &mut filters);
    }
    headers::convert(scope, (passes, !passes), &mut filters);
    filters
}

/// Keeps requests out of the access log where nginx does.
pub(super) fn access_log(scope: &Scope<'_>, filters: &mut Filters) {
    if let Some(log) = scope.one("access_log").filter(|log| log.arg(0) == "off") {
        log.carried("");
        filters.keys.insert("access_log".to_owned(), false.into());
    }
}

/// Translates `satisfy`, once all filters of the route are known.
pub(super) fn satisfy(scope: &Scope<'_>, keys: &mut Map<String, Value>) {
    let Some(satisfy) = scope.one("satisfy") else {
        return;
    };
    satisfy.carried("");
    let ways = ["access", "basic_auth", "forward_auth"];
    let count = ways.iter().filter(|way| keys.contains_key(**way)).count();
    if satisfy.arg(0) == "any" && count > 1 {
        keys.insert("satisfy".to_owned(), "any".into());
    }
}

/// Reports guards without a counterpart; returns true if there is one, so that what it guards must
/// be closed.
pub(super) fn has_unknown_guard(scope: &Scope<'_>) -> bool {
    let is_on = |one: &&Directive| !["off", "optional", "optional_no_ca"].contains(&one.arg(0));
    let guards = listed("guards").filter_map(|name| scope.one(name));
    let on: Vec<_> = guards.filter(is_on).collect();
    for directive in &on {
        directive.closed("this protection has no counterpart here");
    }
    !on.is_empty()
}

fn access(scope: &Scope<'_>, filters: &mut Filters) {
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
    let why = if is_mixed {
        "the order of these lines has no counterpart"
    } else if !(allow.is_empty() && deny.is_empty()) && has_other_source(scope) {
        "the client's address would come from `X-Forwarded-For`, which a client may choose where its \
         proxy writes another header"
    } else {
        ""
    };
    for rule in &rules {
        match why {
            "" => rule.carried(""),
            why => rule.closed(why),
        }
    }
    if !why.is_empty() {
        filters.is_closed = true;
        return;
    }
    let mut value = Map::new();
    if all == Some(false) {
        if allow.is_empty() {
            // No client has this address.
            allow.push("255.255.255.255".to_owned());
        }
        value.insert("allow".to_owned(), allow.into());
    }
    put(&mut value, "deny", deny);
    put(&mut filters.keys, "access", value);
}

/// Returns true if the address of clients behind proxies comes from a header that the gateway does
/// not read. CDNs write `X-Forwarded-For` beside their own ones.
fn has_other_source(scope: &Scope<'_>) -> bool {
    let name = scope.one("real_ip_header");
    let name = name.map_or("x-real-ip", |header| header.arg(0));
    let known = "cf-connecting-ip proxy_protocol true-client-ip x-forwarded-for";
    let mut known = known.split(' ');
    !known.any(|known| known.eq_ignore_ascii_case(name)) && scope.one("set_real_ip_from").is_some()
}

fn basic_auth(scope: &Scope<'_>, filters: &mut Filters) {
    let Some(realm) = scope.one("auth_basic") else {
        return;
    };
    let file = scope.one("auth_basic_user_file");
    let fixed = || header(realm.arg(0), scope).filter(|text| !text.contains('{'));
    let name = plain(realm.arg(0)).or_else(fixed);
    if name.as_deref() == Some("off") {
        realm.carried("");
        return;
    }
    let Some(file) = file.filter(|file| !file.arg(0).contains('$')) else {
        realm.closed("its file of users cannot be used");
        filters.is_closed = true;
        return;
    };
    let text = std::fs::read_to_string(file.arg(0)).unwrap_or_default();
    let mut lines = text
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    let has_counterpart = |line: &str| {
        let hash = line.split(':').nth(1).unwrap_or_default();
        hash.parse::<PasswordHash>().is_ok()
    };
    let is_empty = text.trim().is_empty();
    if is_empty || !lines.all(has_counterpart) {
        let why = if is_empty {
            "the file of users cannot be read"
        } else {
            "the file of users has unsupported hashes: use argon2, bcrypt, `$apr1$` or `{SHA}` \
             (`edgeway hash password` makes new ones)"
        };
        file.closed(why);
        realm.carried("");
        filters.is_closed = true;
        return;
    }
    realm.changed("`WWW-Authenticate` names the charset UTF-8");
    file.carried("");
    let name = name.unwrap_or_else(|| {
        realm.changed(
            "the realm is `Restricted`, and everybody needs a password, also where the variable is `off`",
        );
        "Restricted".to_owned()
    });
    let value = json!({ "realm": name, "file": file.arg(0), "strip": false });
    filters.keys.insert("basic_auth".to_owned(), value);
}

/// Returns the key of a limit on connections for the key of a zone.
pub(super) fn limit_key(key: &str) -> Option<String> {
    let list = pieces(key);
    let parts = list.iter().map(|piece| match piece {
        Piece::Text(_) => None,
        Piece::Variable(name) => Some(match name.as_str() {
            "binary_remote_addr" | "remote_addr" => "client.ip".to_owned(),
            "host" | "http_host" | "server_name" => "host".to_owned(),
            name => part_of_request(name)?,
        }),
    });
    Some(parts.collect::<Option<Vec<String>>>()?.join("+"))
}

fn rate_limits(scope: &Scope<'_>, http: &Scope<'_>, limits: &mut Limits, filters: &mut Filters) {
    if is_dry(scope, "limit_req") {
        return;
    }
    let mut names = Vec::new();
    let status = scope.one("limit_req_status").and_then(|status| {
        status.carried("");
        status.arg(0).parse::<u16>().ok()
    });
    for using in scope.nearest("limit_req") {
        let zone = parameter(using, "zone").unwrap_or_default();
        let zones = http.own("limit_req_zone").into_iter();
        let mut defined = zones.filter(|one| words::zone(one, "zone") == Some(zone));
        let Some(defined) = defined.next_back() else {
            using.closed("its zone is not there");
            filters.is_closed = true;
            continue;
        };
        if is_always_new(defined.arg(0)) {
            defined.lost(OF_NEW);
            using.lost(OF_NEW);
            continue;
        }
        let rate = parameter(defined, "rate").and_then(rate);
        let key = counted_by(defined.arg(0), scope);
        let (Some((count, unit)), Some((kind, key))) = (rate, key) else {
            defined.lost("its key or rate has no counterpart");
            using.closed("its key or rate has no counterpart");
            filters.is_closed = true;
            continue;
        };
        let number = |name: &str| parameter(using, name)?.parse::<u64>().ok();
        let [burst, at_once] = ["burst", "delay"].map(|name| number(name).unwrap_or(0));
        let passes_at_once = using.args.iter().any(|arg| arg == "nodelay");
        let mut value = json!({ "rate": format!("{count}/{unit}"), kind: key });
        let seconds = if unit == "s" { 1_000 } else { 60_000 };
        if passes_at_once || burst == 0 {
            value["burst"] = (burst + 1).into();
        } else {
            value["burst"] = (at_once.min(burst) + 1).into();
            let wait = (burst - at_once.min(burst)) * seconds / count.max(1);
            value["delay"] = duration(wait.clamp(1, 60_000)).into();
        }
        value["headers"] = "off".into();
        value["status"] = status.unwrap_or(503).into();
        let known = limits
            .iter()
            .find(|(_, part)| part.value == value && part.comment == defined.place());
        let name = if let Some((name, _)) = known {
            name.clone()
        } else {
            let mut name = zone.to_owned();
            while limits.iter().any(|(known, _)| *known == name) {
                using.changed("requests of this zone with another burst are counted separately");
                name.push_str("-b");
            }
            limits.push((name.clone(), Part::at(defined, value)));
            name
        };
        defined.carried("");
        using.changed("refusals have `Retry-After`");
        names.push(name);
    }
    put(&mut filters.keys, "rate_limit", names);
}

/// Returns true if a limit only writes to the log what it would refuse.
fn is_dry(scope: &Scope<'_>, limit: &str) -> bool {
    let dry = scope.one(&format!("{limit}_dry_run"));
    let Some(dry) = dry.filter(|dry| dry.is_on()) else {
        return false;
    };
    dry.changed("nothing is limited, and no log tells what would have been");
    for using in scope.nearest(limit) {
        using.lost("it limits nothing, since `dry_run` is on");
    }
    true
}

/// Note on a limit that counts nothing.
const OF_NEW: &str = "its key is another one for each request: it limits nothing, with nginx too";

/// Returns true if each request has another key.
fn is_always_new(key: &str) -> bool {
    let is_new =
        |piece| matches!(piece, Piece::Variable(name) if ["msec", "request_id"].contains(&&*name));
    pieces(key).into_iter().any(is_new)
}

/// Returns the key of a limit, or the text that it counts by, for the key of a zone.
fn counted_by(key: &str, scope: &Scope<'_>) -> Option<(&'static str, String)> {
    match key {
        "$binary_remote_addr" | "$remote_addr" => Some(("key", "client.ip".to_owned())),
        "$host" | "$http_host" => Some(("key", "host".to_owned())),
        // nginx does not count a request whose key is empty. A client without a proxy is counted by
        // what the gateway says of it.
        key => {
            let text = header(key, scope).filter(|text| !text.is_empty())?;
            Some(("by", text.replace("{proxy.", "{header.")))
        }
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

fn connections(scope: &Scope<'_>, http: &Scope<'_>, filters: &mut Filters) {
    if is_dry(scope, "limit_conn") {
        return;
    }
    let mut value = Map::new();
    for using in scope.nearest("limit_conn") {
        let mut zones = http.own("limit_conn_zone").into_iter();
        let defined = zones.find(|one| words::zone(one, "zone") == Some(using.arg(0)));
        if let Some(defined) = defined.filter(|one| is_always_new(one.arg(0))) {
            defined.lost(OF_NEW);
            using.lost(OF_NEW);
            continue;
        }
        let key = defined.and_then(|defined| limit_key(defined.arg(0)));
        let (Some(defined), Some(key), Ok(most)) = (defined, key, using.arg(1).parse::<u64>())
        else {
            using.closed("its zone has no counterpart");
            filters.is_closed = true;
            continue;
        };
        defined.carried("");
        using.changed("counted for each route");
        if key == "host" {
            value.insert("max".to_owned(), most.into());
        } else {
            value.insert("per_key".to_owned(), most.into());
            value.insert("key".to_owned(), key.into());
        }
    }
    if let Some(status) = scope.one("limit_conn_status") {
        match status.arg(0) {
            "503" => status.carried(""),
            _ => status.changed("the status is 503"),
        }
    }
    put(&mut filters.keys, "in_flight", value);
}

fn body_limit(scope: &Scope<'_>, filters: &mut Filters) {
    let Some(directive) = scope.one("client_max_body_size") else {
        return;
    };
    let value = match bytes(directive.arg(0)) {
        Some(0) => Value::Bool(false),
        Some(bytes) => size(bytes).into(),
        None => {
            directive.lost("this size is not known");
            return;
        }
    };
    directive.carried("");
    filters.keys.insert("body_limit".to_owned(), value);
}

fn compression(scope: &Scope<'_>, passes: bool, filters: &mut Filters) {
    let Some(gzip) = scope.one("gzip") else {
        return;
    };
    // nginx compresses no response whose own type is hidden, whatever `add_header` puts there.
    let hidden = scope.nearest("proxy_hide_header");
    let is_typeless = |one: &&Directive| one.arg(0).eq_ignore_ascii_case("content-type");
    if !gzip.is_on() || passes && hidden.iter().any(is_typeless) {
        gzip.carried("");
        filters.keys.insert("compression".to_owned(), false.into());
        return;
    }
    let note = "backends get `Accept-Encoding: identity`, so that nothing is compressed twice; \
                `Accept-Encoding: *` takes gzip, and a request with `Range` nothing compressed";
    gzip.changed(note);
    let mut types: BTreeSet<String> = ["text/html".to_owned()].into();
    if let Some(written) = scope.one("gzip_types") {
        written.carried("");
        let known = written
            .args
            .iter()
            .filter(|one| *one == "*" || one.contains('/'));
        types.extend(known.cloned());
    }
    if !passes && types.contains("application/javascript") {
        // The type that its files have here.
        types.insert("text/javascript".to_owned());
    }
    let mut value = json!({ "encodings": ["gzip"], "statuses": [200, 403, 404] });
    if !scope.one("gzip_vary").is_some_and(Directive::is_on) {
        value["vary"] = false.into();
    }
    if types.contains("*") {
        types = listed("types").map(|kind| format!("{kind}/*")).collect();
        for written in scope.nearest("gzip_types") {
            written.changed("all types that IANA knows, but no `text/event-stream`");
        }
    }
    value["types"] = types.into_iter().collect::<Vec<_>>().into();
    let least = scope.one("gzip_min_length").map(|least| {
        least.carried("");
        bytes(least.arg(0)).unwrap_or(20)
    });
    value["min_size"] = size(least.unwrap_or(20)).into();
    if let Some(level) = scope.one("gzip_comp_level") {
        level.carried("");
        let level = level.arg(0).parse::<u64>().unwrap_or(1).clamp(1, 9);
        value["levels"] = json!({ "gzip": level });
    }
    if let Some(proxied) = scope.one("gzip_proxied") {
        proxied.changed("responses to requests with `Via` are compressed as well");
    }
    filters.keys.insert("compression".to_owned(), value);
}
