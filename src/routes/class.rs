//! The class of a request, told from its path and a few headers.

use http::{HeaderName, Method, header};
use pingora::http::RequestHeader;

use crate::chain::Class;

static NEXT_ACTION: HeaderName = HeaderName::from_static("next-action");
static PREFETCH: [HeaderName; 2] = [
    HeaderName::from_static("next-router-prefetch"),
    HeaderName::from_static("next-router-segment-prefetch"),
];
static PURPOSE: [HeaderName; 2] = [
    HeaderName::from_static("sec-purpose"),
    HeaderName::from_static("purpose"),
];

/// Endings of files that only a build makes. Not `json`, `xml` or `txt`: apps make those
/// on demand.
const STATIC_ENDINGS: [&str; 10] = [
    "js", "mjs", "css", "map", "woff", "woff2", "ttf", "otf", "eot", "wasm",
];
const IMAGE_ENDINGS: [&str; 9] = [
    "png", "jpg", "jpeg", "gif", "webp", "avif", "svg", "ico", "bmp",
];

/// The class of a request with this path (in normal form).
///
/// The path's say comes before a header's wherever a client could pick a wider limit by
/// a header of its own: `/api/` stays [`Class::Api`] with a prefetch header too.
pub fn classify(path: &[u8], head: &RequestHeader) -> Class {
    if is_at(path, b"/api") {
        return Class::Api;
    }
    match head.method {
        Method::GET | Method::HEAD => {}
        Method::POST if head.headers.contains_key(&NEXT_ACTION) => return Class::Action,
        _ => return Class::Api,
    }
    if path.starts_with(b"/_next/static/") {
        return Class::Static;
    }
    if is_at(path, b"/_next/image") {
        return Class::Image;
    }
    if let Some(ending) = ending(path) {
        let is_one_of = |endings: &[&str]| {
            endings
                .iter()
                .any(|known| known.as_bytes().eq_ignore_ascii_case(ending))
        };
        if is_one_of(&STATIC_ENDINGS) {
            return Class::Static;
        }
        if is_one_of(&IMAGE_ENDINGS) {
            return Class::Image;
        }
    }
    if is_prefetch(head) {
        return Class::Prefetch;
    }
    if wants_data(head) {
        Class::Api
    } else {
        Class::Page
    }
}

/// `prefix` itself or below it.
fn is_at(path: &[u8], prefix: &[u8]) -> bool {
    matches!(path.strip_prefix(prefix), Some([] | [b'/', ..]))
}

fn ending(path: &[u8]) -> Option<&[u8]> {
    // No ending that counts is longer than five bytes, so the rest need not be looked at.
    let tail = &path[path.len().saturating_sub(6)..];
    let dot = tail.iter().rposition(|&b| b == b'.')?;
    let ending = &tail[dot + 1..];
    (!ending.contains(&b'/')).then_some(ending)
}

fn is_prefetch(head: &RequestHeader) -> bool {
    PREFETCH.iter().any(|name| head.headers.contains_key(name))
        || PURPOSE.iter().any(|name| {
            let value = head.headers.get(name).map(http::HeaderValue::as_bytes);
            // `prefetch`, `prefetch;prerender`.
            value.is_some_and(|value| {
                value
                    .get(..8)
                    .is_some_and(|v| v.eq_ignore_ascii_case(b"prefetch"))
            })
        })
}

/// A client that names what it accepts, and no page is among it.
fn wants_data(head: &RequestHeader) -> bool {
    let mut accepts = head.headers.get_all(header::ACCEPT).iter().peekable();
    accepts.peek().is_some()
        && !accepts.any(|accept| {
            accept.as_bytes().split(|&b| b == b',').any(|part| {
                let media = part.split(|&b| b == b';').next().unwrap_or_default();
                [&b"text/html"[..], b"text/x-component", b"text/*", b"*/*"]
                    .iter()
                    .any(|page| media.trim_ascii().eq_ignore_ascii_case(page))
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: &str, path: &str, headers: &[(&'static str, &str)], class: Class) {
        let mut head = RequestHeader::build(method, path.as_bytes(), None).unwrap();
        for (name, value) in headers {
            head.append_header(*name, *value).unwrap();
        }
        assert_eq!(classify(path.as_bytes(), &head), class, "{method} {path}");
    }

    #[test]
    fn paths_tell_files_and_api() {
        check("GET", "/_next/static/chunks/a.txt", &[], Class::Static);
        check("GET", "/fonts/inter.WOFF2", &[], Class::Static);
        check("HEAD", "/app.js", &[], Class::Static);
        check("GET", "/_next/image", &[], Class::Image);
        check("GET", "/logo.svg", &[], Class::Image);
        check("GET", "/js", &[], Class::Page);
        check("GET", "/a.js/b", &[], Class::Page);
        check("GET", "/sitemap.xml", &[], Class::Page);
        check("GET", "/api", &[], Class::Api);
        check("GET", "/api/x.js", &[], Class::Api);
        check("GET", "/apix", &[], Class::Page);
    }

    #[test]
    fn headers_tell_prefetches_and_actions() {
        check("POST", "/form", &[("next-action", "7f")], Class::Action);
        check("POST", "/form", &[], Class::Api);
        check("GET", "/form", &[("next-action", "7f")], Class::Page);
        check(
            "GET",
            "/",
            &[("next-router-prefetch", "1"), ("rsc", "1")],
            Class::Prefetch,
        );
        check(
            "GET",
            "/",
            &[("next-router-segment-prefetch", "/_tree")],
            Class::Prefetch,
        );
        check(
            "GET",
            "/",
            &[("sec-purpose", "prefetch;prerender")],
            Class::Prefetch,
        );
        check("GET", "/", &[("purpose", "Prefetch")], Class::Prefetch);
        check("GET", "/app.js", &[("purpose", "prefetch")], Class::Static);
    }

    #[test]
    fn a_prefetch_header_does_not_lead_out_of_the_api_class() {
        check(
            "GET",
            "/api/x",
            &[("next-router-prefetch", "1")],
            Class::Api,
        );
        check("POST", "/login", &[("purpose", "prefetch")], Class::Api);
        check("POST", "/login.js", &[], Class::Api);
    }

    #[test]
    fn accept_tells_pages_from_data() {
        check(
            "GET",
            "/",
            &[("accept", "text/html,application/xml;q=0.9")],
            Class::Page,
        );
        check("GET", "/", &[("accept", "*/*")], Class::Page);
        check(
            "GET",
            "/",
            &[("accept", "text/x-component"), ("rsc", "1")],
            Class::Page,
        );
        check(
            "GET",
            "/feed",
            &[("accept", "text/event-stream")],
            Class::Api,
        );
        check(
            "GET",
            "/data",
            &[("accept", "application/json")],
            Class::Api,
        );
    }
}
