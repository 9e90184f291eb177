//! `Cache-Control` of responses to clients, on routes that set a TTL for browsers.

use std::time::Duration;

use http::{HeaderMap, header};

use super::{
    client_lifetimes::{is_kept_from_caches, lifetime, set_cache_control},
    directives::each,
    targeted::Policy,
};
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
    if is_kept_from_caches(headers, &Policy::parse(headers).directives) {
        return;
    }
    let mut text = Vec::with_capacity(64);
    lifetime(&mut text, b"max-age=", Some(ttl.saturating_add(age)));
    let mut shared = None;
    let mut has_shared = false;
    for member in list_of(headers, &header::CACHE_CONTROL) {
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
    lifetime(&mut text, b", s-maxage=", shared.filter(|_| !has_shared));
    set_cache_control(headers, text);
}
