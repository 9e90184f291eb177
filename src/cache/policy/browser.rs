//! `Cache-Control` towards clients, on routes that give browsers a time of their own.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};

use super::{directives::each, targeted::Policy};
use crate::base::{digits::put_number, http::list_of};

/// Lets browsers keep this answer for `ttl` from now, whatever the origin said for shared
/// caches.
///
/// Browsers count `Age` against `max-age`, and they are right; so the answer's `age` is
/// added to it. Directives for the caches between us and them (`s-maxage`,
/// `stale-while-revalidate`, …) stay; where the origin gave all caches one `max-age`, that
/// becomes the `s-maxage` of shared ones. `Expires` goes, since it says something else to
/// those who read only that.
///
/// An answer with `no-store`, `no-cache` or `private` is as the origin wants it: it is not
/// for browsers to keep, or not without asking, or it is somebody's.
pub fn browser(headers: &mut HeaderMap, ttl: Duration, age: Duration) {
    const CACHE_CONTROL: http::HeaderName = header::CACHE_CONTROL;
    let said = Policy::of(headers).directives;
    let is_closed = ["no-store", "no-cache", "private"]
        .iter()
        .any(|word| crate::base::http::has_token(headers, &CACHE_CONTROL, word));
    if is_closed || said.no_store || said.no_cache.is_whole() {
        return;
    }
    let mut text = Vec::with_capacity(64);
    text.extend_from_slice(b"max-age=");
    put_number(&mut text, ttl.saturating_add(age).as_secs());
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
        put_number(&mut text, shared.as_secs());
    }
    if let Ok(value) = HeaderValue::from_maybe_shared(bytes::Bytes::from(text)) {
        headers.insert(CACHE_CONTROL, value);
        headers.remove(header::EXPIRES);
    }
}
