//! What is kept of a head (RFC 9111, 3.1), and how a 304 changes it (3.2).

use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{conditional, freshness::date_of, targeted::unkept_fields};
use crate::base::http::list_of;

/// Fields between two neighbours, and those that are for one client only. `Set-Cookie` is
/// among them: that of an answer keeps it out of the cache, that of a 304 does not get in.
fn is_never_kept(name: &HeaderName) -> bool {
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

/// Takes out of a head what is not kept of it: fields of the connection and those that
/// `Connection` names, the fields in `no-cache="x"` and `private="x"`, cookies, and `Age`,
/// which is in the [`super::Lifetime`] and written anew for each client.
pub fn clean(headers: &mut HeaderMap) {
    for name in nominated(headers) {
        headers.remove(name);
    }
    for name in unkept_fields(headers) {
        headers.remove(name);
    }
    let doomed: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_never_kept(name))
        .cloned()
        .collect();
    for name in doomed {
        headers.remove(name);
    }
    headers.remove(header::AGE);
}

/// The fields that [`clean`] takes out of an answer for the sake of others: who asked for it
/// gets them all the same (RFC 9111, 5.2.2.4).
pub fn for_the_first(headers: &HeaderMap) -> HeaderMap {
    let hop_by_hop = nominated(headers);
    let mut found = HeaderMap::new();
    for name in unkept_fields(headers) {
        if is_never_kept(&name) || hop_by_hop.contains(&name) || found.contains_key(&name) {
            continue;
        }
        for value in headers.get_all(&name) {
            found.append(name.clone(), value.clone());
        }
    }
    found
}

/// What `Connection` names.
fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    const CONNECTION: HeaderName = header::CONNECTION;
    list_of(headers, &CONNECTION)
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        .collect()
}

/// Gives a head a `Date`, if it has none that can be read: an age is counted from it
/// (RFC 9110, 6.6.1).
pub fn date(headers: &mut HeaderMap, answered: SystemTime) {
    if date_of(headers).is_none()
        && let Ok(value) = HeaderValue::from_str(&httpdate::fmt_http_date(answered))
    {
        headers.insert(header::DATE, value);
    }
}

/// Whether a 304 is about this stored answer (RFC 9111, 4.3.4): it is not if it carries
/// another `ETag`. Then the origin is asked again, without conditions.
pub fn updates(stored: &HeaderMap, not_modified: &HeaderMap) -> bool {
    match (stored.get(header::ETAG), not_modified.get(header::ETAG)) {
        (Some(ours), Some(theirs)) => conditional::is_same_tag(ours, theirs),
        // A strong tag that we have not names another representation.
        (None, Some(theirs)) => conditional::is_weak(theirs),
        (_, None) => true,
    }
}

/// Takes the fields of a 304 into the stored head (RFC 9111, 3.2).
///
/// All of them replace what is stored, `Content-Type` included, but for what belongs to the
/// connection, cookies, and the fields without which the stored body is not what it was:
/// `Content-Length`, `Content-Encoding`, `Content-Range`. Browsers leave out more, since
/// they keep what they made of a body; we keep its bytes.
///
/// `Vary` only grows: the stored body is still one of several, whatever a 304 leaves out, as
/// those of Next.js do with `Accept-Encoding`. Else one variant would become everybody's.
/// `Age` and `Date` are those of the 304 or none, so that the merged head tells the age of
/// its newest confirmation.
///
/// What comes of it goes through [`super::store`] again, and [`clean`] after that.
pub fn merge(stored: &mut HeaderMap, not_modified: &HeaderMap) {
    let nominated = nominated(not_modified);
    let varied = fields_of_vary(stored);
    stored.remove(header::AGE);
    stored.remove(header::DATE);
    for name in not_modified.keys() {
        if is_never_kept(name) || belongs_to_the_body(name) || nominated.contains(name) {
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

/// What says of which bytes the stored body is. A 304 that names another `ETag` is not about
/// it ([`updates`]); one with the same has it in another spelling at most.
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

/// What `Vary` names, as it is written.
fn fields_of_vary(headers: &HeaderMap) -> Vec<Vec<u8>> {
    const VARY: HeaderName = header::VARY;
    if !headers.contains_key(VARY) {
        return Vec::new();
    }
    list_of(headers, &VARY).map(<[u8]>::to_vec).collect()
}

/// Adds those of `fields` that `Vary` does not name, in a line of their own.
fn vary_also_by(headers: &mut HeaderMap, fields: &[Vec<u8>]) {
    if fields.is_empty() {
        return;
    }
    let named = fields_of_vary(headers);
    let is_missing = |field: &&[u8]| {
        let mut named = named.iter();
        !named.any(|name| name == b"*" || name.eq_ignore_ascii_case(field))
    };
    let fields = fields.iter().map(Vec::as_slice);
    let missing: Vec<&[u8]> = fields.filter(is_missing).collect();
    if missing.is_empty() {
        return;
    }
    // What could not be written would have come from a header as well.
    if let Ok(line) = HeaderValue::from_bytes(&missing.join(&b", "[..])) {
        headers.append(header::VARY, line);
    }
}
