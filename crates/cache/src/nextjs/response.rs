//! Rules for storing responses of Next.js, and the fields by which their variants differ.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::{RequestShape, shape::PathKind};
use crate::{
    base::http::{essence, has_token, list_of},
    policy::{CDN_CACHE_CONTROL, CacheRules, SURROGATE_CONTROL, Vary, number},
};

/// Maximum time for which a 404 or a 307 may be stored, where that is enabled at all: a page that
/// is missing now may exist in a minute.
pub const MAX_BRIEF_TTL: Duration = Duration::from_secs(10);

/// Maximum time for which a stale response is served during its revalidation. Next.js sets a year:
/// a page with little traffic would then show last week's copy first.
pub const MAX_STALE: Duration = Duration::from_mins(1);
const STALE_IF_ERROR: Duration = Duration::from_mins(10);

/// Reason why a response that the app itself is regenerating is not stored. The stored response
/// stays valid: the next response will replace it.
pub const STALE_AT_ORIGIN: &str = "stale_at_origin";

const NEXT_CACHE: HeaderName = HeaderName::from_static("x-nextjs-cache");
const NEXT_PRERENDER: HeaderName = HeaderName::from_static("x-nextjs-prerender");
const NEXT_POSTPONED: HeaderName = HeaderName::from_static("x-nextjs-postponed");
const NEXT_REDIRECT: HeaderName = HeaderName::from_static("x-nextjs-redirect");

/// Time for which a response may be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageRule {
    /// The lifetime in its headers.
    FromHeaders,
    /// Fresh for at most this long, and never served stale.
    AtMost(Duration),
}

/// Decides if a response may be stored, or returns the reason why not. The response must also pass
/// [`crate::policy`]. After a 304, takes the stored status and the merged headers.
pub fn may_store(
    shape: &RequestShape,
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<StorageRule, &'static str> {
    if let Some(reason) = shape.no_fill() {
        return Err(reason);
    }
    let store_as = by_status(shape, status, headers)?;
    if headers.contains_key(header::SET_COOKIE) {
        return Err("set-cookie");
    }
    if list_of(headers, &header::VARY).any(|member| member == b"*") {
        return Err("vary");
    }
    // `private, no-store` counts even beside a CDN's own header: an app that sets that header for
    // all paths does not mean its dynamic pages.
    if has_token(headers, &header::CACHE_CONTROL, "private")
        || has_token(headers, &header::CACHE_CONTROL, "no-store")
    {
        return Err("not_public");
    }
    if !is_permitted(headers) {
        return Err("not-explicit");
    }
    if is(headers, &NEXT_CACHE, b"STALE") {
        return Err(STALE_AT_ORIGIN);
    }
    // The body has dynamic parts that were rendered for this client. `2` marks a prefetch without
    // them.
    if is(headers, &NEXT_POSTPONED, b"1") {
        return Err("postponed");
    }
    by_type(shape, headers)?;
    Ok(store_as)
}

fn by_status(
    shape: &RequestShape,
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<StorageRule, &'static str> {
    match status {
        StatusCode::OK | StatusCode::NON_AUTHORITATIVE_INFORMATION => Ok(StorageRule::FromHeaders),
        // Redirects of the router's data requests name their target in another header. Browsers
        // would get a redirect without a target (GHSA-3g8h-86w9-wvmq).
        _ if status.is_redirection()
            && (headers.contains_key(NEXT_REDIRECT) || !headers.contains_key(header::LOCATION)) =>
        {
            Err("no_location")
        }
        // The router's own redirect: it holds the right `_rsc` for the headers of this one request.
        _ if status.is_redirection() && leads_to_rsc(headers) => Err("rsc_redirect"),
        StatusCode::MOVED_PERMANENTLY | StatusCode::PERMANENT_REDIRECT => {
            Ok(StorageRule::FromHeaders)
        }
        // A chunk that is missing here may be present on another instance.
        StatusCode::NOT_FOUND | StatusCode::TEMPORARY_REDIRECT if shape.kind == PathKind::Page => {
            let briefly = shape.briefly.ok_or("status")?;
            Ok(StorageRule::AtMost(briefly.min(MAX_BRIEF_TTL)))
        }
        _ => Err("status"),
    }
}

/// Returns true if `Location` has the parameter `_rsc`.
fn leads_to_rsc(headers: &HeaderMap) -> bool {
    headers.get_all(header::LOCATION).iter().any(|location| {
        let query = crate::base::query::query_of(location.as_bytes());
        query.is_some_and(|query| crate::base::query::values(query, b"_rsc").next().is_some())
    })
}

/// Checks that `Content-Type` matches the key: if the app, or a proxy in between, sends the other
/// form for whatever reason, the response is not stored.
fn by_type(shape: &RequestShape, headers: &HeaderMap) -> Result<(), &'static str> {
    let media_type = headers.get(header::CONTENT_TYPE);
    let essence = essence(media_type.map(HeaderValue::as_bytes).unwrap_or_default());
    if essence.eq_ignore_ascii_case(b"text/event-stream") {
        return Err("stream");
    }
    match shape.kind {
        PathKind::Image { .. } if !shape.forms.take(essence) => Err("image_form"),
        PathKind::Image { .. } | PathKind::File => Ok(()),
        PathKind::Page => {
            let is_payload = essence.eq_ignore_ascii_case(b"text/x-component");
            let is_html = essence.eq_ignore_ascii_case(b"text/html");
            if (shape.is_rsc && is_html) || (!shape.is_rsc && is_payload) {
                Err("rsc_mismatch")
            } else {
                Ok(())
            }
        }
    }
}

/// Returns true if the origin sets a lifetime above zero.
fn is_permitted(headers: &HeaderMap) -> bool {
    let places = [CDN_CACHE_CONTROL, SURROGATE_CONTROL, header::CACHE_CONTROL];
    let Some(place) = places.iter().find(|place| headers.contains_key(*place)) else {
        return false;
    };
    let seconds = |name| seconds(headers, place, name);
    seconds(b"s-maxage").or_else(|| seconds(b"max-age")) > Some(0)
}

fn directive<'h>(
    headers: &'h HeaderMap,
    place: &HeaderName,
    name: &'static [u8],
) -> impl Iterator<Item = &'h [u8]> {
    list_of(headers, place).filter_map(move |member| {
        let end = member.iter().position(|byte| *byte == b'=');
        let (word, value) = member.split_at(end.unwrap_or(member.len()));
        let is_it = word.trim_ascii().eq_ignore_ascii_case(name);
        is_it.then(|| value.get(1..).unwrap_or_default().trim_ascii())
    })
}

/// Returns the smallest value of a directive; an invalid number counts as zero.
fn seconds(headers: &HeaderMap, place: &HeaderName, name: &'static [u8]) -> Option<u64> {
    directive(headers, place, name)
        .map(|value| {
            let bare = value
                .strip_prefix(b"\"")
                .and_then(|value| value.strip_suffix(b"\""))
                .unwrap_or(value);
            number(bare).unwrap_or(0)
        })
        .min()
}

fn is(headers: &HeaderMap, name: &HeaderName, word: &[u8]) -> bool {
    list_of(headers, name).any(|value| value.eq_ignore_ascii_case(word))
}

/// Returns true if a response was prerendered, so that it does not depend on the page that the
/// client comes from.
fn is_prerendered(headers: &HeaderMap) -> bool {
    is(headers, &NEXT_PRERENDER, b"1")
        || headers.contains_key(NEXT_CACHE)
        || is(headers, &NEXT_POSTPONED, b"2")
}

/// Returns the fields by which responses to requests of this shape still differ, given the key.
///
/// The store must select variants by these fields, while clients get the origin's own `Vary`.
pub fn effective_vary(shape: &RequestShape, headers: &HeaderMap, vary: Vary) -> Vary {
    let Vary::Fields(fields) = &vary else {
        return vary;
    };
    let is_prerendered = is_prerendered(headers);
    let still = |name: &&HeaderName| match (shape.kind, name.as_str()) {
        (PathKind::Page, "rsc" | "next-router-prefetch" | "next-router-segment-prefetch")
        | (PathKind::Image { .. }, "accept") => false,
        (PathKind::Page, "next-router-state-tree") => !is_prerendered,
        // `next-url` stays: an intercepted route is another page under the same URL, prerendered
        // or not.
        _ => true,
    };
    let remaining: Vec<HeaderName> = fields.iter().filter(still).cloned().collect();
    if remaining.len() == fields.len() {
        return vary;
    }
    Vary::of_fields(remaining)
}

/// Returns the default rules for a Next.js app.
pub fn rules_for_next() -> CacheRules {
    CacheRules {
        explicit_only: true,
        stale_despite_s_maxage: true,
        max_stale_while_revalidate: Some(MAX_STALE),
        stale_if_error: Some(STALE_IF_ERROR),
        ..CacheRules::default()
    }
}
