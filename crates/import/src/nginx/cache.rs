//! The cache of a location.

use serde_json::{Map, Value, json};

use super::{
    filters::Filters,
    output::add_to,
    parse::Directive,
    scope::Scope,
    tables::{header, mark},
    words::{self, Piece, duration, milliseconds, parameter, pieces},
};

/// Statuses without an own line in `proxy_cache_valid` that `any` stands for, besides those that
/// `ttl` is for.
const OTHERS: [u16; 23] = [
    201, 202, 301, 302, 303, 307, 308, 400, 401, 402, 403, 404, 405, 409, 410, 414, 422, 429, 500,
    501, 502, 503, 504,
];

/// Translates `proxy_cache` and what belongs to it.
pub(super) fn convert(scope: &Scope<'_>, filters: &mut Filters) {
    let ignored = ignored(scope);
    let Some(zone) = scope.one("proxy_cache") else {
        return;
    };
    if zone.arg(0) == "off" {
        zone.carried("");
        return;
    }
    let Some(key) = key(zone, scope) else {
        return;
    };
    let mut value = json!({ "mode": "strict", "anonymous_cookies": ["*"], "whole": true, "ranges": "announced", "keep_on_write": true });
    for (name, to) in [
        ("proxy_no_cache", "no_store_if"),
        ("proxy_cache_bypass", "bypass_if"),
    ] {
        match values(name, scope) {
            Some(list) if list.is_empty() => {}
            Some(list) => value[to] = list.into(),
            None => {
                zone.lost(format!("no cache, since `{name}` has no counterpart"));
                return;
            }
        }
    }
    zone.changed(
        "in memory, by RFC 9111: requests with `Authorization` share only responses that say \
         `public`; `X-Accel-Expires` is ignored; responses have `Age`; conditions follow RFC 9110 \
         and 9111: `If-None-Match` overrides `If-Modified-Since`, which is compared with `Date` if \
         there is no `Last-Modified`; a `Range` also applies to responses that announce ranges and \
         are not stored; requests with `If-Match` or `If-Unmodified-Since`, or with ambiguous \
         cookies, reach the backend with their method, `Range` and conditions; a request to \
         upgrade bypasses the cache",
    );
    add_to(&mut value, "key", key);
    add_to(&mut value, "ignore_headers", ignored);
    for slice in scope.nearest("slice") {
        slice.changed("the whole response is stored, and ranges are served from it");
    }
    let forced = scope.one("proxy_force_ranges");
    if forced.is_some_and(Directive::is_on) {
        value["ranges"] = "any".into();
    }
    min_uses(zone, scope, &mut value);
    lifetimes(scope, &mut value);
    stale(scope, &mut value);
    for name in [
        "proxy_cache_lock",
        "proxy_cache_lock_timeout",
        "proxy_cache_lock_age",
        "proxy_cache_revalidate",
        "proxy_cache_background_update",
    ] {
        for directive in scope.nearest(name) {
            directive.carried("always so");
        }
    }
    filters.keys.insert("cache".to_owned(), value);
}

/// Translates `proxy_ignore_headers`, as far as the cache reads these headers.
fn ignored(scope: &Scope<'_>) -> Vec<&'static str> {
    const KNOWN: [&str; 4] = ["cache-control", "expires", "set-cookie", "vary"];
    let mut headers = Vec::new();
    for directive in scope.nearest("proxy_ignore_headers") {
        let mut notes = Vec::new();
        for arg in &directive.args {
            let name = arg.to_ascii_lowercase();
            let known = KNOWN.into_iter().find(|known| *known == name);
            match known {
                Some("set-cookie") => {
                    notes.push(
                        "only the client whose request went to the backend gets `set-cookie`",
                    );
                }
                Some("vary") => notes.push("encoded responses still vary by `Accept-Encoding`"),
                _ => {}
            }
            if let Some(known) = known
                && !headers.contains(&known)
            {
                headers.push(known);
            }
        }
        let has_cache = scope
            .one("proxy_cache")
            .is_some_and(|zone| zone.arg(0) != "off");
        if notes.is_empty() || !has_cache {
            directive.carried("");
        } else {
            directive.changed(notes.join("; "));
        }
    }
    headers
}

/// Returns the key of the cache beside scheme, host, path and query; `None` if responses would be
/// shared that nginx keeps apart.
fn key(zone: &Directive, scope: &Scope<'_>) -> Option<Map<String, Value>> {
    let Some(directive) = scope.one("proxy_cache_key") else {
        zone.changed("the key also has the requested host, and the path is in its normal form");
        return Some(Map::new());
    };
    let mut values = Vec::new();
    let mut has = [false; 4];
    let [scheme, host, path, query] = &mut has;
    let mut notes = vec!["`$request_uri` and `$uri` have the path in its normal form".to_owned()];
    for piece in pieces(directive.arg(0)) {
        let Piece::Variable(name) = piece else {
            continue;
        };
        match name.as_str() {
            "scheme" => *scheme = true,
            "host" | "http_host" | "server_name" => *host = true,
            "request_uri" => (*path, *query) = (true, true),
            "uri" | "document_uri" => *path = true,
            "args" | "query_string" => *query = true,
            // The upstream is a part of each key, and parts are served from the whole response.
            "is_args" | "proxy_host" | "proxy_port" | "slice_range" => {}
            "request_method" => notes.push("`GET` and `HEAD` share responses".to_owned()),
            name => {
                let Some(value) = value_of(&format!("${name}"), scope) else {
                    let note = format!("`${name}` of its `proxy_cache_key` has no counterpart");
                    zone.lost(format!("no cache, since {note}"));
                    directive.lost(note);
                    return None;
                };
                values.extend((!values.contains(&value)).then_some(value));
            }
        }
    }
    notes.extend((*host).then(|| "`$host` has the port that a client names".to_owned()));
    let missing = [(!*scheme, "scheme"), (!*host, "host"), (!*path, "path")];
    let missing: Vec<&str> = missing
        .into_iter()
        .filter_map(|(is_missing, name)| is_missing.then_some(name))
        .collect();
    if !missing.is_empty() {
        notes.push(format!("the key also has: {}", missing.join(", ")));
    }
    let mut key = Map::new();
    if !*query {
        key.insert("query".to_owned(), json!([]));
        key.insert("pass_unkeyed".to_owned(), true.into());
        notes.push(
            "as with nginx, one client can choose parameters for all; without `pass_unkeyed` they \
             do not reach the backend"
                .to_owned(),
        );
    }
    if !values.is_empty() {
        notes.push("a request that has a part of the key twice bypasses the cache".to_owned());
        key.insert("values".to_owned(), values.into());
    }
    directive.changed(notes.join("; "));
    Some(key)
}

/// Returns the values of a directive of which one that is neither empty nor `0` counts; `None` if a
/// variable has no counterpart.
fn values(name: &str, scope: &Scope<'_>) -> Option<Vec<String>> {
    let mut values = Vec::new();
    for directive in scope.nearest(name) {
        for arg in &directive.args {
            let Some(value) = value_of(arg, scope) else {
                directive.lost(format!("`{arg}` has no counterpart"));
                return None;
            };
            mark(directive, &value, scope);
            values.extend((!values.contains(&value)).then_some(value));
        }
    }
    Some(values)
}

/// Returns a value with placeholders. Unlike a header, it may be compared decoded.
fn value_of(value: &str, scope: &Scope<'_>) -> Option<String> {
    let name = value.strip_prefix("$arg_");
    let is_name = |name: &&str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    match name.filter(is_name) {
        Some(name) => Some(format!("{{query.{name}}}")),
        None => header(value, scope),
    }
}

fn min_uses(zone: &Directive, scope: &Scope<'_>, value: &mut Value) {
    let Some(directive) = scope.one("proxy_cache_min_uses") else {
        return;
    };
    let Some(number) = directive.arg(0).parse::<u32>().ok().filter(|n| *n > 0) else {
        directive.lost("this number is not known");
        return;
    };
    value["min_uses"] = number.into();
    let zones = scope.outermost().iter();
    let mut paths = zones.filter(|path| {
        path.name == "proxy_cache_path" && words::zone(path, "keys_zone") == Some(zone.arg(0))
    });
    let inactive = paths.next().and_then(|path| parameter(path, "inactive"));
    if number == 1 {
        directive.carried("");
        return;
    }
    directive.changed(
        "a `HEAD` before that reaches the backend without `if-none-match`, `if-modified-since` and \
         `range`",
    );
    if inactive.is_some_and(|time| milliseconds(time) != Some(600_000)) {
        let note = "counted again after ten minutes without a request; `inactive` has no effect";
        directive.changed(note);
    }
}

/// Translates `proxy_cache_valid`: of the lines for a status, the first counts.
fn lifetimes(scope: &Scope<'_>, value: &mut Value) {
    let mut by_status = Map::new();
    let mut any = None;
    for valid in scope.nearest("proxy_cache_valid") {
        let Some((time, codes)) = valid.args.split_last() else {
            continue;
        };
        let Some(time) = milliseconds(time) else {
            valid.lost("this time is not known");
            continue;
        };
        valid.carried("");
        let time = duration(time);
        let usual = ["200", "301", "302"].map(str::to_owned);
        let codes: &[String] = if codes.is_empty() { &usual } else { codes };
        for code in codes {
            match code.parse::<u16>() {
                _ if any.is_some() => {}
                Err(_) if code == "any" => any = Some(time.clone()),
                Ok(200..=205 | 207..=303 | 305..=599) => {
                    by_status.entry(code).or_insert_with(|| time.clone().into());
                }
                _ => valid.changed(format!("responses of status `{code}` are not stored")),
            }
        }
    }
    if let Some(time) = &any {
        value["ttl"] = time.clone().into();
        for status in OTHERS {
            let entry = by_status.entry(status.to_string());
            entry.or_insert_with(|| time.clone().into());
        }
    } else {
        by_status.retain(|_, time| *time != json!("0s"));
    }
    add_to(value, "by_status", by_status);
}

fn stale(scope: &Scope<'_>, value: &mut Value) {
    let Some(stale) = scope.one("proxy_cache_use_stale") else {
        return;
    };
    let has = |word: &str| stale.args.iter().any(|arg| arg == word);
    let background = scope.one("proxy_cache_background_update");
    if has("updating") && background.is_some_and(Directive::is_on) {
        stale.changed("for one hour");
        value["stale_while_revalidate"] = "1h".into();
    } else if has("updating") {
        // Nobody gets an old response whose request nginx would have made wait for the new one.
        stale.changed(
            "while a response is revalidated, other requests for it wait for the new one (`wait`, \
             5 s) instead of getting the old one",
        );
    }
    let mut others = stale.args.iter();
    if others.any(|arg| arg != "updating" && arg != "off") {
        stale.changed("for one hour");
        value["stale_if_error"] = "1h".into();
    } else {
        stale.carried("");
    }
}
