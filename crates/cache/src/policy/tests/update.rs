//! RFC 9111, 3.1, 3.2 and 4.3.4.

use super::*;

#[track_caller]
fn check_merge(stored: &str, not_modified: &str, expected: &str) {
    let mut merged = head(stored);
    merge(&mut merged, &head(not_modified));
    let expected = head(expected);
    for name in expected.keys().chain(merged.keys()) {
        let found: Vec<_> = merged.get_all(name).iter().collect();
        let wanted: Vec<_> = expected.get_all(name).iter().collect();
        assert_eq!(found, wanted, "{name} of {stored} and {not_modified}");
    }
}

#[test]
fn fields_of_a_304_replace_those_that_are_stored() {
    for (stored, not_modified, expected) in [
        ("X: 1\nY: 2", "Y: 3\nZ: 4", "X: 1\nY: 3\nZ: 4"),
        ("X: 1\nX: 2", "X: 3", "X: 3"),
        ("X: 1", "X: 2\nX: 3", "X: 2\nX: 3"),
        (
            "Cache-Control: max-age=1",
            "Cache-Control: max-age=60",
            "Cache-Control: max-age=60",
        ),
        (
            "Content-Type: a/b",
            "Content-Type: c/d",
            "Content-Type: c/d",
        ),
        (
            "Content-Location: /a",
            "Content-Location: /b",
            "Content-Location: /b",
        ),
        (
            "Content-Security-Policy: a",
            "Content-Security-Policy: b",
            "Content-Security-Policy: b",
        ),
        ("Content-Foo: a", "Content-Foo: b", "Content-Foo: b"),
        // The same tag in another spelling: the stored one stays.
        ("ETag: W/\"a\"", "ETag: \"a\"", "ETag: W/\"a\""),
        ("Expires: @1", "Expires: @99", "Expires: @99"),
        ("Date: @-50", "Date: @0", "Date: @0"),
        // The age is that of the 304.
        ("Date: @-50\nAge: 9", "X: 1", "X: 1"),
        ("Age: 9", "Age: 3", "Age: 3"),
    ] {
        check_merge(stored, not_modified, expected);
    }
}

#[test]
fn fields_of_the_body_or_of_one_client_are_not_merged() {
    for name in [
        "Content-Length",
        "Content-Encoding",
        "Content-Range",
        "Content-MD5",
        "Transfer-Encoding",
        "Connection",
        "Keep-Alive",
        "Proxy-Authenticate",
        "Proxy-Authentication-Info",
        "Proxy-Authorization",
        "Proxy-Connection",
        "TE",
        "Trailer",
        "Upgrade",
        "Set-Cookie",
        "Set-Cookie2",
    ] {
        check_merge("X: 1", &format!("{name}: 5"), "X: 1");
    }
    check_merge(
        "Content-Length: 5",
        "Content-Length: 0",
        "Content-Length: 5",
    );
    check_merge("A: 1", "Connection: a, b\nA: 2\nB: 3\nC: 4", "A: 1\nC: 4");
}

#[test]
fn vary_only_grows() {
    let with_encoding = "Vary: rsc, Accept-Encoding";
    check_merge(
        with_encoding,
        "Vary: rsc",
        "Vary: rsc\nVary: Accept-Encoding",
    );
    check_merge(
        with_encoding,
        "Vary: accept-encoding",
        "Vary: accept-encoding\nVary: rsc",
    );
    check_merge(with_encoding, "Vary: *", "Vary: *");
    check_merge(with_encoding, "X: 1", &format!("{with_encoding}\nX: 1"));
    check_merge("Vary: rsc", "Vary: other", "Vary: other\nVary: rsc");
    check_merge("Vary: a, b\nVary: C", "Vary: c", "Vary: c\nVary: a, b");
    check_merge("Vary: *", "Vary: a", "Vary: a\nVary: *");
    check_merge("Vary: Cookie", "Connection: vary\nVary: a", "Vary: Cookie");
    check_merge("X: 1", "Vary: other", "X: 1\nVary: other");
}

#[test]
fn a_304_with_another_tag_updates_nothing() {
    for (stored, not_modified, expected) in [
        ("ETag: \"a\"", "ETag: \"a\"", true),
        ("ETag: \"a\"", "ETag: W/\"a\"", true),
        ("ETag: \"a\"", "ETag: a", true),
        ("ETag: \"a\"", "", true),
        ("ETag: \"a\"", "ETag: \"b\"", false),
        ("ETag: W/\"a\"", "ETag: W/\"b\"", false),
        ("Last-Modified: @0", "ETag: \"b\"", false),
        ("Last-Modified: @0", "ETag: W/\"b\"", true),
        ("Last-Modified: @0", "Last-Modified: @0", true),
    ] {
        let found = updates(&head(stored), &head(not_modified));
        assert_eq!(found, expected, "{stored} | {not_modified}");
    }
}

#[test]
fn a_refreshed_response_is_fresh_again() {
    let mut stored = head("Cache-Control: max-age=60\nETag: \"a\"\nDate: @-100");
    merge(&mut stored, &head("Cache-Control: max-age=30"));
    let origin_request = OriginRequest {
        method: &Method::GET,
        headers: &HeaderMap::new(),
        is_named: false,
    };
    let lifetime = store(
        origin_request,
        StatusCode::OK,
        &stored,
        now(),
        &CacheRules::default(),
    )
    .unwrap();
    assert_eq!(lifetime.fresh_left(at(0)), secs(30));
    // A 304 can also make the response unstorable.
    merge(&mut stored, &head("Cache-Control: no-store"));
    let ended = store(
        origin_request,
        StatusCode::OK,
        &stored,
        now(),
        &CacheRules::default(),
    );
    assert_eq!(ended, Err(NotStorable::NoStore));
}

#[test]
fn stored_headers_have_nothing_of_the_connection() {
    for (stored, removed, remaining) in [
        ("Connection: a, b\nA: 1\nB: 2\nC: 3", "connection a b", "c"),
        (
            "Cache-Control: no-cache=\"a\"\nCache-Control: max-age=1\nA: 1\nB: 2",
            "a",
            "b cache-control",
        ),
        (
            "Cache-Control: no-cache=\"a, b\", max-age=1\nA: 1\nB: 2\nC: 3",
            "a b",
            "c",
        ),
        ("Cache-Control: private=\"a\"\nA: 1\nB: 2", "a", "b"),
        (
            "CDN-Cache-Control: no-cache=\"a\"\nA: 1\nB: 2",
            "a",
            "b cdn-cache-control",
        ),
        (
            "CDN-Cache-Control: max-age=1\nCache-Control: private=\"a\"\nA: 1",
            "a",
            "cdn-cache-control",
        ),
        (
            "Cache-Control: no-cache=\"content-type\"\nContent-Type: a/b",
            "",
            "content-type",
        ),
        (
            "Keep-Alive: 1\nProxy-Authenticate: 1\nProxy-Authentication-Info: 1\n\
             Proxy-Authorization: 1\nProxy-Connection: 1\nTE: 1\nTrailer: 1\n\
             Transfer-Encoding: 1\nUpgrade: 1\nSet-Cookie: 1\nAge: 5\nWWW-Authenticate: 1",
            "keep-alive proxy-authenticate proxy-authentication-info proxy-authorization \
             proxy-connection te trailer transfer-encoding upgrade set-cookie age",
            "www-authenticate",
        ),
    ] {
        let mut headers = head(stored);
        clean(&mut headers);
        for name in removed.split_whitespace() {
            assert!(!headers.contains_key(name), "{name} of {stored}");
        }
        for name in remaining.split_whitespace() {
            assert!(headers.contains_key(name), "{name} of {stored}");
        }
    }
}

#[test]
fn a_response_without_a_date_gets_that_of_its_arrival() {
    for (stored, expected) in [("X: 1", "@0"), ("Date: junk", "@0"), ("Date: @-50", "@-50")] {
        let mut headers = head(stored);
        date(&mut headers, at(0));
        let wanted = head(&format!("Date: {expected}"));
        assert_eq!(headers.get("date"), wanted.get("date"), "{stored}");
        assert_eq!(headers.get_all("date").iter().count(), 1);
    }
}
