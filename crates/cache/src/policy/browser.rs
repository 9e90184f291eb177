//! `Cache-Control` of responses to clients, on routes that set a TTL for browsers.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};

use super::{directives::each, targeted::Policy};
use crate::base::http::list_of;

/// Lets browsers store this response for `ttl` from now, whatever the origin sent for shared
/// caches.
///
/// Browsers correctly subtract `Age` from `max-age`, so the response's `age` is added to it.
/// Directives for the caches between gateway and browser (`s-maxage`, `stale-while-revalidate`, …)
/// stay. Where the origin gave all caches one `max-age`, that value becomes the `s-maxage` of
/// shared ones. `Expires` is removed, since it would contradict the TTL for clients that read only
/// that.
///
/// A response with `no-store`, `no-cache` or `private` stays unchanged: browsers must not store it,
/// must validate it first, or it is personal.
pub fn browser(headers: &mut HeaderMap, ttl: Duration, age: Duration) {
    const CACHE_CONTROL: http::HeaderName = header::CACHE_CONTROL;
    let directives = Policy::parse(headers).directives;
    let is_closed = ["no-store", "no-cache", "private"]
        .iter()
        .any(|word| crate::base::http::has_token(headers, &CACHE_CONTROL, word));
    if is_closed || directives.no_store || directives.no_cache.is_whole() {
        return;
    }
    let mut text = Vec::with_capacity(64);
    text.extend_from_slice(b"max-age=");
    text.extend_from_slice(
        itoa::Buffer::new()
            .format(ttl.saturating_add(age).as_secs())
            .as_bytes(),
    );
    let mut shared = None;
    let mut has_shared = false;
    for member in list_of(headers, &CACHE_CONTROL) {
        each(member, |name, argument| {
            if name.eq_ignore_ascii_case(b"max-age") {
                shared = shared.or(argument.seconds());
                return;
            }
            has_shared |= name.eq_ignore_ascii_case(b"s-maxage");
        });
        if !member
            .get(..7)
            .is_some_and(|name| name.eq_ignore_ascii_case(b"max-age"))
        {
            text.extend_from_slice(b", ");
            text.extend_from_slice(member);
        }
    }
    if !has_shared && let Some(shared) = shared {
        text.extend_from_slice(b", s-maxage=");
        text.extend_from_slice(itoa::Buffer::new().format(shared.as_secs()).as_bytes());
    }
    if let Ok(value) = HeaderValue::from_maybe_shared(bytes::Bytes::from(text)) {
        headers.insert(CACHE_CONTROL, value);
        headers.remove(header::EXPIRES);
    }
}
