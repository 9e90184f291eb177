//! The class of a request, determined from its path and a few headers.

use edgeway_base::{
    http::{values, weighted},
    spelling::is_image,
};
use edgeway_core::chain::Class;
use http::{HeaderName, HeaderValue, Method, header};
use pingora::http::RequestHeader;

static NEXT_ACTION: HeaderName = HeaderName::from_static("next-action");

const API: &[u8] = b"/api";

/// Extensions of files that only a build produces. Not `json`, `xml` or `txt`: apps generate those
/// on demand.
const STATIC_ENDINGS: [&str; 10] = [
    "js", "mjs", "css", "map", "woff", "woff2", "ttf", "otf", "eot", "wasm",
];
const IMAGE_ENDINGS: [&str; 9] = [
    "png", "jpg", "jpeg", "gif", "webp", "avif", "svg", "ico", "bmp",
];

/// Returns the class of a request with this path (in normal form).
///
/// The path takes precedence over headers wherever a client could otherwise choose a class with a
/// wider limit by sending a header: `/api/` stays [`Class::Api`] with a prefetch header too.
pub fn classify(path: &[u8], request: &RequestHeader) -> Class {
    if is_api(path) {
        return Class::Api;
    }
    match request.method {
        Method::GET | Method::HEAD => {}
        Method::POST if action_of(request).is_some() => return Class::Action,
        _ => return Class::Api,
    }
    if path.starts_with(b"/_next/static/") {
        return Class::Static;
    }
    if is_image(path) {
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
    by_headers(request)
}

/// Returns the id of the server action of Next.js that a request calls.
#[inline]
pub fn action_of(request: &RequestHeader) -> Option<&HeaderValue> {
    let is_call = request.method == Method::POST;
    is_call.then(|| values(&request.headers, &NEXT_ACTION).next())?
}

/// Classifies by headers in one pass, which costs less than five lookups.
fn by_headers(request: &RequestHeader) -> Class {
    // A client whose `Accept` contains no page wants data.
    let (mut has_accept, mut accepts_page) = (false, false);
    for (name, value) in &request.headers {
        if *name == header::ACCEPT {
            has_accept = true;
            accepts_page |= names_page(value.as_bytes());
            continue;
        }
        let is_prefetch = match name.as_str().as_bytes() {
            b"next-router-prefetch" | b"next-router-segment-prefetch" => true,
            b"sec-purpose" | b"purpose" => names_prefetch(value.as_bytes()),
            _ => false,
        };
        if is_prefetch {
            return Class::Prefetch;
        }
    }
    if has_accept && !accepts_page {
        Class::Api
    } else {
        Class::Page
    }
}

/// Returns true for `/api` and paths below it, in any spelling that an app may treat as such:
/// another class may have a wider limit.
fn is_api(path: &[u8]) -> bool {
    let (start, rest) = path.split_at(path.len().min(API.len()));
    start.eq_ignore_ascii_case(API) && matches!(rest, [] | [b'/' | b';' | b'%', ..])
}

fn ending(path: &[u8]) -> Option<&[u8]> {
    // Known extensions have at most five bytes, so the rest of the path is irrelevant.
    let tail = &path[path.len().saturating_sub(6)..];
    let dot = tail.iter().rposition(|&b| b == b'.')?;
    let ending = &tail[dot + 1..];
    (!ending.contains(&b'/')).then_some(ending)
}

/// Returns true for `prefetch` and `prefetch;prerender`.
fn names_prefetch(purpose: &[u8]) -> bool {
    purpose
        .get(..8)
        .is_some_and(|start| start.eq_ignore_ascii_case(b"prefetch"))
}

fn names_page(accept: &[u8]) -> bool {
    accept
        .split(|&b| b == b',')
        .filter_map(weighted)
        .any(|(media, weight)| {
            weight.is_wanted()
                && [&b"text/html"[..], b"text/x-component", b"text/*", b"*/*"]
                    .iter()
                    .any(|page| media.eq_ignore_ascii_case(page))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: &str, path: &str, headers: &[(&'static str, &str)], class: Class) {
        let mut request = RequestHeader::build(method, path.as_bytes(), None).unwrap();
        for (name, value) in headers {
            request.append_header(*name, *value).unwrap();
        }
        assert_eq!(
            classify(path.as_bytes(), &request),
            class,
            "{method} {path}"
        );
    }

    #[test]
    fn paths_distinguish_files_and_api() {
        check("GET", "/_next/static/chunks/a.txt", &[], Class::Static);
        check("GET", "/fonts/inter.WOFF2", &[], Class::Static);
        check("HEAD", "/app.js", &[], Class::Static);
        check("GET", "/_next/image", &[], Class::Image);
        check("GET", "/site/_next/image/", &[], Class::Image);
        check("GET", "/api/_next/image", &[], Class::Api);
        check("GET", "/logo.svg", &[], Class::Image);
        check("GET", "/js", &[], Class::Page);
        check("GET", "/a.js/b", &[], Class::Page);
        check("GET", "/sitemap.xml", &[], Class::Page);
        check("GET", "/api", &[], Class::Api);
        check("GET", "/api/x.js", &[], Class::Api);
        check("GET", "/apix", &[], Class::Page);
        check("GET", "/API/x.js", &[], Class::Api);
        check("GET", "/api;a=b/x.js", &[], Class::Api);
        check("GET", "/api%2Fx.js", &[], Class::Api);
        check("GET", "/ap", &[], Class::Page);
    }

    #[test]
    fn headers_distinguish_prefetches_and_actions() {
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
    fn accept_distinguishes_pages_from_data() {
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
        check(
            "GET",
            "/data",
            &[("accept", "application/json, text/html;q=0")],
            Class::Api,
        );
    }
}
