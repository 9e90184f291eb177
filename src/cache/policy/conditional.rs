//! Conditions of a client's request against a stored answer (RFC 9110, 13; RFC 9111, 4.3.2).
//!
//! Conditions towards the origin are Pingora's: its `filters::upstream::request_filter`
//! writes `If-None-Match` from the stored `ETag` and `If-Modified-Since` from the stored
//! `Last-Modified`, both as they stand in the stored head, and takes away the client's own.

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use crate::base::http_date;

/// Whether the client has this answer already, so that a 304 is all it needs.
///
/// `stored` is the head of the answer; `If-Match`, `If-Unmodified-Since` and `If-Range` are
/// not looked at: the first two are for the origin, the last one goes with ranges.
pub fn not_modified(
    request: &HeaderMap,
    method: &Method,
    status: StatusCode,
    stored: &HeaderMap,
) -> bool {
    // RFC 9110, 13.2.1: conditions count where the answer would be a success.
    if status != StatusCode::OK || (method != Method::GET && method != Method::HEAD) {
        return false;
    }
    // One pass over the names costs less than a lookup of each.
    let mut names = request.keys();
    if !names.any(|name| matches!(*name, header::IF_NONE_MATCH | header::IF_MODIFIED_SINCE)) {
        return false;
    }
    // RFC 9110, 13.1.3: beside `If-None-Match` the date is not looked at.
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
    // RFC 9111, 4.3.2: without `Last-Modified` its `Date` is when it was new.
    let modified = stored
        .get(header::LAST_MODIFIED)
        .or_else(|| stored.get(header::DATE));
    let modified = modified.and_then(|value| http_date::parse(value.as_bytes()));
    match (http_date::parse(since.as_bytes()), modified) {
        (Some(since), Some(modified)) => modified <= since,
        _ => false,
    }
}

/// Weak comparison (RFC 9110, 8.8.3.2), with tags that have no quotes, as Next.js writes
/// those of images: `abc`, `"abc"` and `W/"abc"` are the same.
fn matches(line: &[u8], stored: Option<&HeaderValue>) -> bool {
    let line = line.trim_ascii();
    if line == b"*" {
        return true;
    }
    let Some(stored) = stored.map(|tag| tag.as_bytes().trim_ascii()) else {
        return false;
    };
    // A tag without quotes may have commas in it.
    line == stored || tags(line).any(|tag| opaque(tag) == opaque(stored))
}

/// The members of a list of tags. A `\` escapes nothing in a tag, so that this is not the
/// list of other fields.
fn tags(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut is_quoted = false;
    line.split(move |byte| {
        is_quoted ^= *byte == b'"';
        *byte == b',' && !is_quoted
    })
    .map(<[u8]>::trim_ascii)
    .filter(|tag| !tag.is_empty())
}

/// What stands in the quotes.
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

/// Whether the origin can be asked if this still holds: it has an `ETag` or a
/// `Last-Modified`.
pub fn has_validator(stored: &HeaderMap) -> bool {
    stored.contains_key(header::ETAG) || stored.contains_key(header::LAST_MODIFIED)
}

/// Makes the head of an answer that of a 304: what describes a body goes, what guides the
/// client's cache stays (RFC 9110, 15.4.5).
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
