//! Response headers that are stored (RFC 9111, 3.1), and their update by a 304 (3.2).

use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{conditional, freshness::date_of, targeted::unkept_fields};
use crate::base::http::list_of;

/// Returns true for hop-by-hop fields and fields for one client only. `Set-Cookie` is among them: a
/// response with it is not stored, and that of a 304 is not merged in.
fn is_never_stored(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authentication-info"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
            | "set-cookie"
            | "set-cookie2"
    )
}

/// Removes response headers that are not stored: hop-by-hop fields and those that `Connection`
/// lists, the fields in `no-cache="x"` and `private="x"`, cookies, and `Age`, which is in the
/// [`super::Lifetime`] and calculated for each client.
pub fn clean(headers: &mut HeaderMap) {
    for name in nominated(headers) {
        headers.remove(name);
    }
    for name in unkept_fields(headers) {
        headers.remove(name);
    }
    let doomed: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_never_stored(name))
        .cloned()
        .collect();
    for name in doomed {
        headers.remove(name);
    }
    headers.remove(header::AGE);
}

/// Returns the fields that [`clean`] removes for the sake of other clients. The client of the
/// original request still gets them (RFC 9111, 5.2.2.4).
pub fn for_the_first(headers: &HeaderMap) -> HeaderMap {
    let hop_by_hop = nominated(headers);
    let mut merged = HeaderMap::new();
    for name in unkept_fields(headers) {
        if is_never_stored(&name) || hop_by_hop.contains(&name) || merged.contains_key(&name) {
            continue;
        }
        for value in headers.get_all(&name) {
            merged.append(name.clone(), value.clone());
        }
    }
    merged
}

/// Adds the cookies of a response that is stored without them, for the client whose request it was.
pub fn cookies_for_the_first(headers: &HeaderMap, first: &mut HeaderMap) {
    for value in headers.get_all(header::SET_COOKIE) {
        first.append(header::SET_COOKIE, value.clone());
    }
}

/// Returns the fields that `Connection` lists.
fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    list_of(headers, &header::CONNECTION)
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        .collect()
}

/// Sets `Date` if it is missing or invalid: the age is calculated from it (RFC 9110, 6.6.1).
pub fn date(headers: &mut HeaderMap, response_time: SystemTime) {
    if date_of(headers).is_none()
        && let Ok(value) = HeaderValue::from_str(&httpdate::fmt_http_date(response_time))
    {
        headers.insert(header::DATE, value);
    }
}

/// Returns true if a 304 selects this stored response (RFC 9111, 4.3.4). A 304 with another `ETag`
/// does not: the stored response stays as old as it is, and the next request validates it again.
pub fn updates(stored: &HeaderMap, not_modified: &HeaderMap) -> bool {
    match (stored.get(header::ETAG), not_modified.get(header::ETAG)) {
        (Some(ours), Some(theirs)) => conditional::is_same_tag(ours, theirs),
        // A strong tag that is not stored identifies another representation.
        (None, Some(theirs)) => conditional::is_weak(theirs),
        (_, None) => true,
    }
}

/// Merges the fields of a 304 into the stored response headers (RFC 9111, 3.2).
///
/// All of them replace stored fields, `Content-Type` included, except hop-by-hop fields, cookies,
/// and fields that the stored body depends on: `Content-Length`, `Content-Encoding`,
/// `Content-Range`. Browsers exclude more fields, since they store a processed body; the gateway
/// stores its bytes.
///
/// `Vary` only grows: the stored body is still one of several variants, even if a 304 omits a
/// field, as those of Next.js omit `Accept-Encoding`. Otherwise one variant would be served to all
/// clients. `Age` and `Date` are those of the 304 or absent, so that the merged headers show the
/// age of the latest validation.
///
/// The result passes through [`super::store`] again, and [`clean`] after that.
pub fn merge(stored: &mut HeaderMap, not_modified: &HeaderMap) {
    let nominated = nominated(not_modified);
    let varied = fields_of_vary(stored);
    stored.remove(header::AGE);
    stored.remove(header::DATE);
    for name in not_modified.keys() {
        if is_never_stored(name) || belongs_to_the_body(name) || nominated.contains(name) {
            continue;
        }
        let mut values = not_modified.get_all(name).iter().cloned();
        let Some(first) = values.next() else {
            continue;
        };
        stored.insert(name.clone(), first);
        for value in values {
            stored.append(name.clone(), value);
        }
    }
    vary_also_by(stored, &varied);
}

/// Returns true for fields that describe the bytes of the stored body. A 304 with another `ETag`
/// does not update it ([`updates`]); one with the same `ETag` differs in spelling at most.
fn belongs_to_the_body(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "content-length"
            | "content-encoding"
            | "content-range"
            | "content-md5"
            | "content-digest"
            | "repr-digest"
            | "digest"
            | "etag"
    )
}

/// Returns the members of `Vary`, as written.
fn fields_of_vary(headers: &HeaderMap) -> Vec<Vec<u8>> {
    list_of(headers, &header::VARY)
        .map(<[u8]>::to_vec)
        .collect()
}

/// Adds those of `fields` that `Vary` does not list, in a line of their own.
fn vary_also_by(headers: &mut HeaderMap, fields: &[Vec<u8>]) {
    let named = fields_of_vary(headers);
    let is_named = |field: &[u8]| {
        let mut named = named.iter();
        named.any(|name| name == b"*" || name.eq_ignore_ascii_case(field))
    };
    let fields = fields.iter().map(Vec::as_slice);
    let missing: Vec<&[u8]> = fields.filter(|field| !is_named(field)).collect();
    // The names come from a header, so they always fit into one.
    if !missing.is_empty()
        && let Ok(line) = HeaderValue::from_bytes(&missing.join(&b", "[..]))
    {
        headers.append(header::VARY, line);
    }
}
