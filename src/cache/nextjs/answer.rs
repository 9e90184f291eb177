//! What of an answer of Next.js may be kept, and by what its variants differ.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::{RequestShape, shape::Kind};
use crate::{
    base::http::{essence, has_token, list_of},
    cache::policy::{Rules, Vary},
};

/// For how long a 404 or a 307 may be kept at most, where that is asked for at all: a page
/// that is not there now may be there in a minute.
pub const MOST_BRIEFLY: Duration = Duration::from_secs(10);

/// No answer is served stale for longer than this while a new one is made. Next.js asks for
/// a year: a quiet page would show last week's copy first.
pub const MOST_STALE: Duration = Duration::from_mins(1);
const STALE_IF_ERROR: Duration = Duration::from_mins(10);

/// Why an answer is not kept that the app itself is making anew. It says nothing against
/// what is stored already: the next one will do.
pub const STALE_AT_ORIGIN: &str = "stale_at_origin";

const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");
const SURROGATE_CONTROL: HeaderName = HeaderName::from_static("surrogate-control");
const NEXT_CACHE: HeaderName = HeaderName::from_static("x-nextjs-cache");
const NEXT_PRERENDER: HeaderName = HeaderName::from_static("x-nextjs-prerender");
const NEXT_POSTPONED: HeaderName = HeaderName::from_static("x-nextjs-postponed");
const NEXT_REDIRECT: HeaderName = HeaderName::from_static("x-nextjs-redirect");

/// For how long an answer may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreAs {
    /// As its headers say.
    Said,
    /// Fresh for this long at most, and never served stale.
    AtMost(Duration),
}

/// Whether an answer may be kept, or why not. What may be kept still has to pass
/// [`crate::cache::policy`]. After a 304 this is asked of the stored status and the merged
/// headers.
pub fn may_store(
    shape: &RequestShape,
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<StoreAs, &'static str> {
    if let Some(reason) = shape.no_fill() {
        return Err(reason);
    }
    let store_as = by_status(shape, status, headers)?;
    if headers.contains_key(header::SET_COOKIE) {
        return Err("set_cookie");
    }
    if list_of(headers, &header::VARY).any(|member| member == b"*") {
        return Err("vary_any");
    }
    // `private, no-store` counts even beside a CDN's own header: an app that sets that one
    // for all paths does not mean its dynamic pages.
    if has_token(headers, &header::CACHE_CONTROL, "private")
        || has_token(headers, &header::CACHE_CONTROL, "no-store")
    {
        return Err("not_public");
    }
    if !is_permitted(headers) {
        return Err("no_permission");
    }
    if is(headers, &NEXT_CACHE, b"STALE") {
        return Err(STALE_AT_ORIGIN);
    }
    // The body has a hole that was filled for this visitor. `2` marks a prefetch without it.
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
) -> Result<StoreAs, &'static str> {
    match status {
        StatusCode::OK | StatusCode::NON_AUTHORITATIVE_INFORMATION => Ok(StoreAs::Said),
        // A redirect of the router's data names its target elsewhere, which would leave
        // browsers with a redirect to nowhere (GHSA-3g8h-86w9-wvmq).
        _ if status.is_redirection()
            && (headers.contains_key(NEXT_REDIRECT) || !headers.contains_key(header::LOCATION)) =>
        {
            Err("no_location")
        }
        // The router's own: the right `_rsc` for just these headers of a request.
        _ if status.is_redirection() && leads_to_rsc(headers) => Err("rsc_redirect"),
        StatusCode::MOVED_PERMANENTLY | StatusCode::PERMANENT_REDIRECT => Ok(StoreAs::Said),
        // A chunk that is missing here may be on the instance beside.
        StatusCode::NOT_FOUND | StatusCode::TEMPORARY_REDIRECT if shape.kind == Kind::Page => {
            let briefly = shape.briefly.ok_or("status")?;
            Ok(StoreAs::AtMost(briefly.min(MOST_BRIEFLY)))
        }
        _ => Err("status"),
    }
}

/// Whether `Location` has the parameter `_rsc`.
fn leads_to_rsc(headers: &HeaderMap) -> bool {
    headers.get_all(header::LOCATION).iter().any(|location| {
        let query = crate::base::query::query_of(location.as_bytes());
        query.is_some_and(|query| crate::base::query::values(query, b"_rsc").next().is_some())
    })
}

/// What `Content-Type` says must be what the key says: whatever made an app, or something
/// between, answer with the other form, nobody gets it from the store.
fn by_type(shape: &RequestShape, headers: &HeaderMap) -> Result<(), &'static str> {
    let media_type = headers.get(header::CONTENT_TYPE);
    let essence = essence(media_type.map(HeaderValue::as_bytes).unwrap_or_default());
    if essence.eq_ignore_ascii_case(b"text/event-stream") {
        return Err("event_stream");
    }
    match shape.kind {
        Kind::Image { .. } if !shape.forms.take(essence) => Err("image_form"),
        Kind::Image { .. } | Kind::File => Ok(()),
        Kind::Page => {
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

/// Whether the origin says for how long, and longer than not at all.
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
        let (own, value) = member.split_at(end.unwrap_or(member.len()));
        let is_it = own.trim_ascii().eq_ignore_ascii_case(name);
        is_it.then(|| value.get(1..).unwrap_or_default().trim_ascii())
    })
}

/// The least that a directive says; what is no number says nothing, so zero.
fn seconds(headers: &HeaderMap, place: &HeaderName, name: &'static [u8]) -> Option<u64> {
    directive(headers, place, name)
        .map(|value| {
            let bare = value
                .strip_prefix(b"\"")
                .and_then(|value| value.strip_suffix(b"\""))
                .unwrap_or(value);
            if bare.is_empty() || !bare.iter().all(u8::is_ascii_digit) {
                return 0;
            }
            let text = std::str::from_utf8(bare).unwrap_or_default();
            // More digits than fit are longer than anything else.
            text.parse().unwrap_or(u64::MAX)
        })
        .min()
}

fn is(headers: &HeaderMap, name: &HeaderName, word: &[u8]) -> bool {
    list_of(headers, name).any(|value| value.eq_ignore_ascii_case(word))
}

/// Whether an answer was made before anybody asked, so that it is the same whatever page
/// the visitor comes from.
fn is_prerendered(headers: &HeaderMap) -> bool {
    is(headers, &NEXT_PRERENDER, b"1")
        || headers.contains_key(NEXT_CACHE)
        || is(headers, &NEXT_POSTPONED, b"2")
}

/// By what answers to requests of this shape still differ, the key being what it is.
///
/// The store must find variants by this, and answer clients with the origin's own `Vary`.
pub fn effective_vary(shape: &RequestShape, headers: &HeaderMap, vary: Vary) -> Vary {
    let Vary::Fields(fields) = &vary else {
        return vary;
    };
    let is_prerendered = is_prerendered(headers);
    let still = |name: &&HeaderName| match (shape.kind, name.as_str()) {
        (Kind::Page, "rsc" | "next-router-prefetch" | "next-router-segment-prefetch")
        | (Kind::Image { .. }, "accept") => false,
        (Kind::Page, "next-router-state-tree") => !is_prerendered,
        // `next-url` stays: an intercepted route is another page under the same URL, made
        // before or not.
        _ => true,
    };
    let kept: Vec<HeaderName> = fields.iter().filter(still).cloned().collect();
    if kept.is_empty() {
        Vary::Nothing
    } else if kept.len() == fields.len() {
        vary
    } else {
        Vary::Fields(kept.into())
    }
}

/// What the store takes for granted of an app of Next.js.
pub fn rules_for_next() -> Rules {
    Rules {
        explicit_only: true,
        stale_despite_s_maxage: true,
        max_stale_while_revalidate: Some(MOST_STALE),
        stale_if_error: Some(STALE_IF_ERROR),
        ..Rules::default()
    }
}
