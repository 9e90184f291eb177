//! The cache of a location.

use serde_json::{Map, json};

use super::{
    filters::{Filters, limit_key},
    report::Fates,
    scope::Scope,
    words::{duration, milliseconds},
};

/// Translates `proxy_cache` and what belongs to it.
pub(super) fn of(scope: &Scope<'_>, filters: &mut Filters, fates: &mut Fates) {
    let Some(zone) = scope.one("proxy_cache") else {
        return;
    };
    if zone.arg(0) == "off" {
        fates.carried(zone, "");
        return;
    }
    fates.changed(
        zone,
        "in memory, by RFC 9111: requests with `Authorization` share only responses that say `public`; responses have `Cache-Status`, `X-Cache-Status` and `Age`; requests that bypass the cache, or whose response is not stored, reach the backend with their method, `Range` and conditions (`If-Modified-Since`, `If-None-Match`)",
    );
    let mut value = json!({ "mode": "strict", "anonymous_cookies": ["*"], "whole": true, "keep_on_write": true });
    let mut by_status = Map::new();
    for valid in scope.nearest("proxy_cache_valid") {
        fates.carried(valid, "");
        let (codes, time) = match valid.args.split_last() {
            Some((time, codes)) => (codes, milliseconds(time)),
            None => continue,
        };
        let Some(time) = time else { continue };
        let time = duration(time);
        if codes.is_empty() {
            value["ttl"] = time.into();
            continue;
        }
        for code in codes {
            match code.as_str() {
                "any" | "200" => value["ttl"] = time.clone().into(),
                code if code.parse::<u16>().is_ok() => {
                    by_status.insert(code.to_owned(), time.clone().into());
                }
                _ => fates.lost(valid, format!("the status `{code}` is not known")),
            }
        }
    }
    if !by_status.is_empty() {
        value["by_status"] = by_status.into();
    }
    if let Some(stale) = scope.one("proxy_cache_use_stale") {
        fates.changed(stale, "for one hour");
        if stale.args.iter().any(|arg| arg == "updating") {
            value["stale_while_revalidate"] = "1h".into();
        }
        if stale
            .args
            .iter()
            .any(|arg| arg != "updating" && arg != "off")
        {
            value["stale_if_error"] = "1h".into();
        }
    }
    let mut bypass = Vec::new();
    for name in ["proxy_cache_bypass", "proxy_no_cache"] {
        for directive in scope.nearest(name) {
            for arg in &directive.args {
                let part = limit_key(arg).filter(|part| part.contains(':') && !part.contains('+'));
                match part {
                    Some(part) if !bypass.contains(&part) => bypass.push(part),
                    Some(_) => {}
                    None => fates.lost(directive, format!("`{arg}` has no counterpart")),
                }
            }
            fates.changed(
                directive,
                "for any value of these, `0` too; what bypasses the cache is not stored",
            );
        }
    }
    if !bypass.is_empty() {
        value["bypass"] = bypass.into();
    }
    if let Some(key) = scope.one("proxy_cache_key") {
        fates.changed(
            key,
            "the key is scheme, host, path and query, and the upstream",
        );
    }
    for name in [
        "proxy_cache_lock",
        "proxy_cache_lock_timeout",
        "proxy_cache_lock_age",
        "proxy_cache_revalidate",
        "proxy_cache_background_update",
    ] {
        for directive in scope.nearest(name) {
            fates.carried(directive, "always so");
        }
    }
    filters.keys.insert("cache".to_owned(), value);
}
