//! Tests of invalidation (RFC 9111, 4.4), `Cache-Status` (RFC 9211), and headers for browsers.

use super::*;
use crate::base::target::{Slashes, normalise};

fn target(path: &str) -> Target {
    let (path, query) = path
        .split_once('?')
        .map_or((path, None), |(path, query)| (path, Some(query)));
    Target {
        path: path.as_bytes().to_vec(),
        query: query.map(|query| query.as_bytes().to_vec()),
    }
}

/// Returns the invalid targets of a shop, their paths in normal form.
fn invalidated(
    method: &Method,
    status: StatusCode,
    base: &Target,
    headers: &HeaderMap,
) -> Vec<Target> {
    let found = invalidates(method, status, "https", "shop.test", base, headers);
    let normal = |Target { path, query }| {
        let path = normalise(&path, Slashes::Keep).unwrap().path.into_owned();
        Target { path, query }
    };
    found.into_iter().map(normal).collect()
}

#[test]
fn unsafe_methods_invalidate_their_target() {
    for (method, status, expected) in [
        ("POST", 200, true),
        ("PUT", 204, true),
        ("DELETE", 200, true),
        ("PATCH", 303, true),
        ("M-SEARCH", 200, true),
        ("POST", 404, false),
        ("POST", 500, false),
        ("GET", 200, false),
        ("HEAD", 200, false),
        ("OPTIONS", 200, false),
        ("TRACE", 200, false),
    ] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let status = StatusCode::from_u16(status).unwrap();
        let found = invalidated(&method, status, &target("/a?b"), &HeaderMap::new());
        let expected = if expected {
            vec![target("/a?b")]
        } else {
            vec![]
        };
        assert_eq!(found, expected, "{method} {status}");
    }
}

#[test]
fn locations_in_the_response_are_invalidated_too() {
    let named = |reference: &str| {
        let headers = head(&format!("Location: {reference}"));
        let base = target("/dir/item?q");
        let mut found = invalidated(&Method::POST, StatusCode::CREATED, &base, &headers);
        assert_eq!(found.remove(0), base);
        found
    };
    for (reference, expected) in [
        ("/b", "/b"),
        ("/b?x=1#y", "/b?x=1"),
        ("b", "/dir/b"),
        ("./b", "/dir/b"),
        ("../b", "/b"),
        ("../../../b", "/b"),
        ("/x/./y/../z/", "/x/z/"),
        ("/x/..", "/"),
        ("?z", "/dir/item?z"),
        ("b:c", ""),
        ("./b:c", "/dir/b:c"),
        ("/a?x:y", "/a?x:y"),
        ("https://shop.test/b", "/b"),
        ("HTTPS://Shop.Test:443/b", "/b"),
        ("https://shop.test", "/"),
        ("https://shop.test?x", "/?x"),
        ("//shop.test/b", "/b"),
        ("/%62", "/b"),
        ("//b", ""),
        ("http://shop.test/b", ""),
        ("https://shop.test:8443/b", ""),
        ("https://other.test/b", ""),
        ("https://shop.test@other.test/b", ""),
        ("https://user@shop.test/b", ""),
        ("https:/b", ""),
        ("mailto:a@shop.test", ""),
    ] {
        let expected: Vec<_> = (!expected.is_empty())
            .then(|| target(expected))
            .into_iter()
            .collect();
        assert_eq!(named(reference), expected, "{reference}");
    }
    assert_eq!(named("/dir/item?q"), [], "each once");
    let both = head("Location: /b\nContent-Location: c");
    let found = invalidated(&Method::PUT, StatusCode::OK, &target("/a"), &both);
    assert_eq!(found, [target("/a"), target("/b"), target("/c")]);
}

#[test]
fn cache_status_reports_the_outcome() {
    let status = |served| CacheStatus::new(served);
    let shown = |status: CacheStatus<'_>| status.value().to_str().unwrap().to_owned();
    let miss = Served::Forward(Forward::UriMiss);
    assert_eq!(shown(status(Served::Hit)), "Edgeway; hit");
    let hit = CacheStatus {
        ttl: Some(-412),
        ..status(Served::Hit)
    };
    assert_eq!(shown(hit), "Edgeway; hit; ttl=-412");
    let all = CacheStatus {
        forward_status: Some(304),
        ttl: Some(i64::MAX),
        is_stored: true,
        is_collapsed: true,
        key: Some("https://a/\"\\\u{e4}\n"),
        detail: Some("no-store"),
        ..status(miss)
    };
    assert_eq!(
        shown(all),
        "Edgeway; fwd=uri-miss; fwd-status=304; ttl=999999999999999; stored; collapsed; \
         key=\"https://a/\\\"\\\\???\"; detail=no-store"
    );
    let parsed: Result<sfv::List, _> = sfv::Parser::new(all.value().as_bytes()).parse();
    assert!(parsed.is_ok(), "it is a structured field");
    for why in Forward::ALL {
        let value = status(Served::Forward(why)).value();
        assert_eq!(value, format!("Edgeway; fwd={}", why.word()));
    }
}

#[test]
fn browsers_get_a_lifetime_of_their_own() {
    for (response, age, expected) in [
        ("", 0, "max-age=60"),
        ("", 500, "max-age=560"),
        ("max-age=10", 0, "max-age=60, s-maxage=10"),
        ("max-age=\"10\"", 0, "max-age=60, s-maxage=10"),
        ("max-age=10, s-maxage=20", 5, "max-age=65, s-maxage=20"),
        (
            "s-maxage=20, stale-while-revalidate=9",
            0,
            "max-age=60, s-maxage=20, stale-while-revalidate=9",
        ),
        (
            "public, max-age=0, must-revalidate",
            0,
            "max-age=60, public, must-revalidate, s-maxage=0",
        ),
        ("x=\"max-age=1, 2\"", 0, "max-age=60, x=\"max-age=1, 2\""),
        ("no-store", 0, "no-store"),
        ("No-Cache", 0, "No-Cache"),
        ("private, max-age=5", 0, "private, max-age=5"),
    ] {
        let mut headers = head(&format!("Cache-Control: {response}\nExpires: @5"));
        browser(&mut headers, secs(60), secs(age));
        assert_eq!(
            headers.get("cache-control").unwrap(),
            expected,
            "{response}"
        );
        let is_as_it_was = response == expected;
        assert_eq!(headers.contains_key("expires"), is_as_it_was, "{response}");
    }
    let mut headers = head("CDN-Cache-Control: max-age=600\nCache-Control: max-age=1");
    browser(&mut headers, secs(60), secs(0));
    assert_eq!(headers.get("cdn-cache-control").unwrap(), "max-age=600");
}
