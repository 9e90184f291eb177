//! Explains how the cache would handle a request, and what it has stored for it now.

use std::{borrow::Cow, time::SystemTime};

use edgeway_base::units::Span;
use edgeway_cache::{
    nextjs::RequestShape,
    policy::{SentHeaders, Usability, Vary},
    route::Mode,
    store::{Entry, WholeBody},
};
use edgeway_core::chain::{CacheOutcome, Exchange, KeyBuilder};
use edgeway_routes::{Params, Target};
use http::Method;
use serde::{Deserialize, Serialize};

use super::{Gateway, RecognisedRequest, Route, RouteCache};

/// Explanation of a route's cache.
#[derive(Debug, Serialize, Deserialize)]
pub struct ExplainedCache {
    /// Reason for a bypass, if the request bypasses the cache.
    pub past: Option<String>,
    pub key: Option<ExplainedKey>,
    /// Reason why no response would be stored, regardless of the origin's headers.
    pub not_kept: Option<String>,
    /// Rules of the route in addition to the origin's headers.
    pub policy: Vec<String>,
    /// Tags that every response carries, for purges.
    pub tags: Vec<String>,
    /// Current content of the store. Only a gateway that serves has it.
    pub now: Option<StoredLookup>,
}

/// Key that stored responses are found by.
#[derive(Debug, Serialize, Deserialize)]
pub struct ExplainedKey {
    pub url: String,
    /// Other parts of the request that are in the key, one per line.
    pub and: Vec<String>,
}

/// Result of a lookup in the store for the request.
#[derive(Debug, Serialize, Deserialize)]
pub struct StoredLookup {
    /// Same value as in `X-Cache-Status`: `HIT`, `STALE`, `EXPIRED`, `MISS` or `BYPASS`.
    pub outcome: String,
    /// Reason why the outcome is not `HIT`.
    pub why: Option<String>,
    /// Number of stored responses for the key.
    pub variants: usize,
    pub entry: Option<StoredEntry>,
}

/// Stored response.
#[derive(Debug, Serialize, Deserialize)]
pub struct StoredEntry {
    pub status: u16,
    /// Age in seconds.
    pub age: u64,
    /// Seconds that the response stays fresh; below zero, for how long it has been stale.
    pub ttl: i64,
    /// Number of body bytes.
    pub bytes: u64,
    pub hits: u32,
    /// True if the response is still being stored.
    pub under_way: bool,
    /// Seconds since a soft purge.
    pub purged: Option<u64>,
    /// Headers that select the variant.
    pub vary: Vec<String>,
    pub tags: Vec<String>,
}

/// Explains the cache of a route, with its content `now` if that is requested.
pub(super) fn explain(
    route: &Route,
    ex: &mut Exchange<'_>,
    (target, params): (&Target<'_>, &Params),
    (rewritten, ruled): (Option<&str>, Option<&str>),
    now: Option<SystemTime>,
) -> Option<ExplainedCache> {
    let cache = route.cache.as_ref()?;
    let chosen = route.chain.on_route(ex);
    let route_upstream = || Some(&*route.upstream.as_ref()?.name);
    let upstream = chosen.as_deref().or_else(route_upstream);
    let rewritten = rewritten.map(str::as_bytes);
    let seen = cache.recognise(ex, upstream, rewritten, &route.chain);
    let is_nextjs = upstream.is_some_and(|name| cache.nextjs(name).is_some());
    let tag = |tag: &edgeway_cache::route::TagTemplate<_>| {
        tag.render(|slot| params.get(*slot, target.path))
    };
    // Neither are credentials verified here, nor is the request rewritten.
    let by_user = route.chain.proves_identity().then(|| BY_USER.to_owned());
    let by_rules = ruled.map(|target| format!("written: {target}, by a rule"));
    let unknown: Vec<_> = by_user.into_iter().chain(by_rules).collect();
    Some(ExplainedCache {
        policy: policy_lines(cache, is_nextjs),
        tags: cache.tags.iter().map(tag).collect(),
        not_kept: seen.as_ref().ok().and_then(not_kept).map(str::to_owned),
        now: now.filter(|_| unknown.is_empty()).map(|now| match &seen {
            Ok(seen) => stored(cache, seen, ex, now),
            Err(why) => StoredLookup::without_entry(CacheOutcome::Bypass, why, 0),
        }),
        key: seen.as_ref().ok().map(|seen| ExplainedKey {
            url: seen.key.url(),
            and: [parts(seen.key.extra()), unknown.clone()].concat(),
        }),
        past: match seen {
            Ok(ref seen) if seen.is_renewing => Some(RENEWS.to_owned()),
            Ok(_) => None,
            Err(why) => Some(past(why, cache, ex)),
        },
    })
}

const ONLY_IF_CACHED: &str = "only-if-cached: it gets 504";
const BY_USER: &str =
    "the user, and what the filters write for it: known to a running request only";
const HEAD: &str = "head: nothing is stored, and it does not ask for the body";
const RANGE: &str = "range: nothing is stored, and it asks for a part only";
const RENEWS: &str = "route: a value of `bypass_if` is set, so the request goes to the origin";

/// Returns the reason for a bypass with a description. The reason words are those of
/// `Cache-Status`.
fn past(why: &'static str, cache: &RouteCache, ex: &Exchange<'_>) -> String {
    let text = match why {
        "method" => "only `GET` and `HEAD` are served from it",
        "route" => {
            let Some(item) = cache.policy.bypass(ex) else {
                return RENEWS.to_owned();
            };
            return format!("{why}: the request has `{item}`, which `bypass` names");
        }
        "precondition" => "only the origin can evaluate `If-Match` and its like",
        "next_action" => "it calls a server action",
        "internal_header" => "it has an internal header of Next.js",
        "multipart" => "its body is a form",
        "router_headers" => "the request has a header of the router twice, or a very long one",
        "unclear" => "the request has several values of a part of the key, or a very long one",
        "draft" => "it has the draft mode cookie",
        "authorization" => "it has `Authorization`",
        "page_cache_off" => "`pages: off`",
        "written-unknown" => "a plugin may still change the request after the lookup",
        "guarded" => "the app's middleware guards the path",
        "no_build" => "the build of the app is not known, nor the paths that its middleware guards",
        other => return other.to_owned(),
    };
    format!("{why}: {text}")
}

fn not_kept(seen: &RecognisedRequest) -> Option<&'static str> {
    if seen.is_not_stored {
        return Some("route: a value of `no_store_if` is set");
    }
    if let Some(why) = seen.shape.as_ref().and_then(RequestShape::no_fill) {
        return Some(match why {
            "cookies" => "cookies: it has some that may identify the client",
            other => other,
        });
    }
    let personal = &seen.personal;
    if personal.has_cookies {
        Some(
            "cookies: unless the origin says `public` or `s-maxage`, since they may identify the client",
        )
    } else if personal.has_identity {
        Some("authorization: unless the origin says `public`, `s-maxage` or `must-revalidate`")
    } else if personal.has_certificate {
        Some("certificate: unless the origin says `public` or `s-maxage`")
    } else {
        None
    }
}

/// Returns the rules of the route in addition to the origin's headers, one line for each.
fn policy_lines(cache: &RouteCache, is_nextjs: bool) -> Vec<String> {
    let policy = &cache.policy;
    let rules = policy.rules(is_nextjs);
    let mut lines = vec![match (policy.mode, is_nextjs) {
        (Mode::Strict, _) => "RFC 9111 and no more (`mode: strict`)".to_owned(),
        (Mode::App, false) => "RFC 9111".to_owned(),
        (Mode::App, true) => "RFC 9111 and the rules of Next.js".to_owned(),
    }];
    if let Some(ttl) = rules.ttl {
        let unless = if rules.force {
            "whatever the origin says"
        } else {
            "where the origin does not say"
        };
        lines.push(format!("fresh for {}, {unless}", Span(ttl)));
    } else if rules.explicit_only {
        lines.push("kept only with `s-maxage` or `max-age` above 0".to_owned());
    }
    for (status, ttl) in &rules.by_status {
        lines.push(format!("{status}: fresh for {}", Span(*ttl)));
    }
    if let Some(share) = rules.heuristic {
        let percent = (share * 100.0).round();
        lines.push(format!(
            "else for {percent} % of the time since `Last-Modified`"
        ));
    }
    for (window, condition) in [
        (
            rules.stale_while_revalidate,
            "while it is revalidated, where the origin does not say",
        ),
        (
            rules.stale_if_error,
            "if the origin fails, where it does not say",
        ),
    ] {
        if let Some(window) = window {
            lines.push(format!("stale for {} {condition}", Span(window)));
        }
    }
    if let Some(uses) = &policy.min_uses {
        lines.push(format!("stored from request {} on", uses.number()));
    }
    let ignored = rules.ignored;
    for (is_ignored, name) in [
        (ignored.cache_control, "Cache-Control"),
        (ignored.expires, "Expires"),
        (ignored.set_cookie, "Set-Cookie"),
        (ignored.vary, "Vary"),
    ] {
        lines.extend(is_ignored.then(|| format!("`{name}` of the origin is not read")));
    }
    if let Some(ttl) = policy.browser_ttl {
        lines.push(format!("browsers get {}", Span(ttl)));
    }
    lines
}

fn stored(
    cache: &RouteCache,
    seen: &RecognisedRequest,
    ex: &Exchange<'_>,
    now: SystemTime,
) -> StoredLookup {
    let is_partial = ex.head.method == Method::HEAD || seen.is_range;
    if seen.is_renewing {
        return StoredLookup::without_entry(CacheOutcome::Bypass, RENEWS, 0);
    }
    let store = cache.cache.store();
    // There is no connection and nothing is forwarded, so the client's own headers are used.
    let client = SentHeaders::whole(&ex.head.headers);
    let (lookup, variants) = store.peek(&seen.key, client);
    let Some(entry) = lookup.entry else {
        let (outcome, why) = match lookup.vary {
            _ if seen.wants.only_if_cached => (CacheOutcome::Miss, ONLY_IF_CACHED),
            _ if is_partial && !cache.policy.fetches_whole => {
                let is_head = ex.head.method == Method::HEAD;
                (CacheOutcome::Bypass, if is_head { HEAD } else { RANGE })
            }
            Some(_) => (
                CacheOutcome::Miss,
                "vary-miss: only other variants are stored",
            ),
            None => (
                CacheOutcome::Miss,
                "uri-miss: nothing is stored for the key",
            ),
        };
        return StoredLookup::without_entry(outcome, why, variants);
    };
    let lifetime = entry.lifetime();
    let is_for_others = !seen.personal.may_read(&entry);
    let is_fresh = lifetime.is_fresh(now);
    let (outcome, why) = match cache.usable(&lifetime, &seen.wants, now) {
        _ if is_for_others && seen.wants.only_if_cached => {
            (CacheOutcome::Miss, Some(ONLY_IF_CACHED))
        }
        _ if is_for_others => (CacheOutcome::Bypass, Some("authorization")),
        Usability::Fresh => (CacheOutcome::Hit, None),
        Usability::StaleWhileRevalidate => (
            CacheOutcome::Stale,
            Some("stale: it would be revalidated in the background"),
        ),
        Usability::StaleAsAsked => (CacheOutcome::Stale, Some("request: `max-stale`")),
        Usability::GatewayTimeout => (CacheOutcome::Miss, Some(ONLY_IF_CACHED)),
        Usability::Validate if entry.stale_since().is_some() => {
            (CacheOutcome::Expired, Some("stale: it was purged softly"))
        }
        Usability::Validate if is_fresh && lifetime.always_validate => (
            CacheOutcome::Expired,
            Some("stale: `no-cache`, validated each time"),
        ),
        Usability::Validate if is_fresh => (
            CacheOutcome::Expired,
            Some("request: it asks for something newer"),
        ),
        Usability::Validate => (CacheOutcome::Expired, Some("stale")),
    };
    StoredLookup {
        outcome: outcome.name().to_owned(),
        why: why.map(str::to_owned),
        variants,
        entry: Some(StoredEntry::new(&entry, now)),
    }
}

impl StoredLookup {
    fn without_entry(outcome: CacheOutcome, why: &str, variants: usize) -> Self {
        Self {
            outcome: outcome.name().to_owned(),
            why: Some(why.to_owned()),
            variants,
            entry: None,
        }
    }
}

impl StoredEntry {
    fn new(entry: &Entry, now: SystemTime) -> Self {
        let lifetime = entry.lifetime();
        let since = |at| now.duration_since(at).unwrap_or_default().as_secs();
        Self {
            status: entry.status.as_u16(),
            age: lifetime.age(now).as_secs(),
            ttl: lifetime.ttl(lifetime.age(now)),
            bytes: entry.body.whole().map_or(0, WholeBody::len),
            hits: entry.hits(),
            under_way: !entry.is_complete(),
            purged: entry.stale_since().map(since),
            vary: match entry.vary() {
                Vary::Nothing | Vary::Everything => Vec::new(),
                Vary::Fields(names) => names.iter().map(ToString::to_string).collect(),
            },
            tags: entry.tags().iter().map(ToString::to_string).collect(),
        }
    }
}

/// Returns the parts framed in a key besides the URL.
fn parts(extra: &[u8]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for (name, value_bytes) in KeyBuilder::parts(extra) {
        let value = text(value_bytes);
        match (name, lines.last_mut()) {
            (b"by", _) => lines.push(value.into_owned()),
            (b"written", _) => lines.push(format!("written {value}")),
            (b"route", _) => lines.push(format!("route: {}", hex::encode(value_bytes))),
            (b"by none of", _) => lines.push(format!("no {value}")),
            // The value of the previous part.
            (b"=", Some(last)) if value.is_empty() && last.starts_with("no ") => {}
            (b"=", Some(last)) => {
                last.push_str(": ");
                last.push_str(&value);
            }
            (name, _) => lines.push(format!("{}: {value}", text(name))),
        }
    }
    lines
}

/// Returns the bytes as text, or in hexadecimal if they are not text.
fn text(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains(char::is_control) => Cow::Borrowed(text),
        _ => Cow::Owned(hex::encode(bytes)),
    }
}

/// Returns the wall clock of the gateway's cache, if it has one.
pub(super) fn now(gateway: &Gateway) -> Option<SystemTime> {
    gateway.cache.as_ref().map(|cache| cache.store().now())
}
