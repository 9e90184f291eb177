//! Conditional requests of clients against a stored response (RFC 9110, 13; RFC 9111, 4.3.2).
//!
//! The conditions of requests to the origin are the validators of the stored response, unchanged;
//! the client's own are removed (`condition` in `proxy::cache`).

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use crate::base::{http::entity_tags, http_date};

/// Returns true if the client already has this response, so that a 304 is enough.
///
/// `stored` holds the stored response headers. `If-Match`, `If-Unmodified-Since` and `If-Range` are
/// ignored: the first two are for the origin, the last one belongs to range requests.
pub fn not_modified(
    request: &HeaderMap,
    method: &Method,
    status: StatusCode,
    stored: &HeaderMap,
) -> bool {
    // RFC 9110, 13.2.1: conditions apply only if the response would be a success.
    if status != StatusCode::OK || (method != Method::GET && method != Method::HEAD) {
        return false;
    }
    // One pass over the names costs less than a lookup of each.
    let mut names = request.keys();
    if !names.any(|name| matches!(*name, header::IF_NONE_MATCH | header::IF_MODIFIED_SINCE)) {
        return false;
    }
    // RFC 9110, 13.1.3: the date is ignored if `If-None-Match` is present.
    if request.contains_key(header::IF_NONE_MATCH) {
        return request
            .get_all(header::IF_NONE_MATCH)
            .iter()
            .any(|line| matches(line.as_bytes(), stored.get(header::ETAG)));
    }
    let mut dates = request.get_all(header::IF_MODIFIED_SINCE).iter();
    let (Some(since), None) = (dates.next(), dates.next()) else {
        return false;
    };
    // RFC 9111, 4.3.2: `Date` stands in for a missing `Last-Modified`.
    let modified = stored
        .get(header::LAST_MODIFIED)
        .or_else(|| stored.get(header::DATE));
    let modified = modified.and_then(|value| http_date::parse(value.as_bytes()));
    match (http_date::parse(since.as_bytes()), modified) {
        (Some(since), Some(modified)) => modified <= since,
        _ => false,
    }
}

/// Weak comparison (RFC 9110, 8.8.3.2). Also accepts tags without quotes, as Next.js writes those
/// of images: `abc`, `"abc"` and `W/"abc"` are the same.
fn matches(line: &[u8], stored: Option<&HeaderValue>) -> bool {
    let line = line.trim_ascii();
    if line == b"*" {
        return true;
    }
    let Some(stored) = stored.map(|tag| tag.as_bytes().trim_ascii()) else {
        return false;
    };
    // A tag without quotes may contain commas.
    line == stored || entity_tags(line).any(|tag| opaque(tag) == opaque(stored))
}

/// Returns the text between the quotes.
fn opaque(tag: &[u8]) -> &[u8] {
    let tag = match tag {
        [b'W' | b'w', b'/', rest @ ..] => rest,
        _ => tag,
    };
    match tag {
        [b'"', inner @ .., b'"'] => inner,
        _ => tag,
    }
}

pub(super) fn is_weak(tag: &HeaderValue) -> bool {
    matches!(tag.as_bytes(), [b'W' | b'w', b'/', ..])
}

pub(super) fn is_same_tag(a: &HeaderValue, b: &HeaderValue) -> bool {
    opaque(a.as_bytes().trim_ascii()) == opaque(b.as_bytes().trim_ascii())
}

/// Returns true if the stored response can be validated with the origin: it has an `ETag` or a
/// `Last-Modified`.
pub fn has_validator(stored: &HeaderMap) -> bool {
    stored.contains_key(header::ETAG) || stored.contains_key(header::LAST_MODIFIED)
}

/// Turns the response headers into those of a 304: fields that describe the body go, fields that
/// guide the client's cache stay (RFC 9110, 15.4.5).
pub fn to_not_modified(headers: &mut HeaderMap) {
    for name in [
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::CONTENT_ENCODING,
        header::CONTENT_LANGUAGE,
        header::CONTENT_RANGE,
        header::TRANSFER_ENCODING,
        header::ACCEPT_RANGES,
    ] {
        headers.remove(name);
    }
}
