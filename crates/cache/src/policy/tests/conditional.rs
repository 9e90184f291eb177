//! RFC 9110, 13, and RFC 9111, 4.3.2.

use super::*;

fn is_304(stored: &str, request: &str) -> bool {
    not_modified(&head(request), &Method::GET, StatusCode::OK, &head(stored))
}

#[test]
fn tags_are_compared_weakly() {
    for (stored, condition, expected) in [
        ("\"a\"", "\"a\"", true),
        ("\"a\"", "W/\"a\"", true),
        ("W/\"a\"", "\"a\"", true),
        ("W/\"a\"", "W/\"a\"", true),
        ("\"a\"", "\"b\"", false),
        ("\"a\"", "\"A\"", false),
        ("\"a\"", "*", true),
        ("\"a\"", "\"a\", \"b\", \"c\"", true),
        ("\"b\"", "\"a\", \"b\", \"c\"", true),
        ("\"c\"", "\"a\", \"b\", W/\"c\"", true),
        ("\"d\"", "\"a\", \"b\", \"c\"", false),
        ("\"a,b\"", "\"x\", \"a,b\"", true),
        ("\"a\\\"", "\"x\", \"a\\\", \"y\"", true),
        ("abc", "abc", true),
        ("abc", "\"abc\"", true),
        ("\"abc\"", "abc", true),
        ("W/\"abc\"", "w/\"abc\"", true),
        ("a,b", "a,b", true),
        ("\"\u{fc}\"", "\"\u{fc}\"", true),
        ("\"\"", "\"\"", true),
        ("\"a\"", "", false),
        ("\"a\"", ",,", false),
        ("\"a\"", "\"", false),
    ] {
        let request = format!("If-None-Match: {condition}");
        assert_eq!(
            is_304(&format!("ETag: {stored}"), &request),
            expected,
            "{stored} | {condition}"
        );
    }
    assert!(is_304(
        "ETag: \"b\"",
        "If-None-Match: \"a\"\nIf-None-Match: \"b\""
    ));
    assert!(!is_304("Last-Modified: @-5", "If-None-Match: \"a\""));
    assert!(
        is_304("Last-Modified: @-5", "If-None-Match: *"),
        "RFC 9110, 13.1.2"
    );
}

#[test]
fn dates_count_in_requests_without_a_tag() {
    for (stored, condition, expected) in [
        ("Last-Modified: @-50", "If-Modified-Since: @-50", true),
        ("Last-Modified: @-50", "If-Modified-Since: @-40", true),
        ("Last-Modified: @-50", "If-Modified-Since: @-60", false),
        ("Last-Modified: @-50", "If-Modified-Since: @50", true),
        (
            "Last-Modified: @-50\nETag: \"a\"",
            "If-Modified-Since: @-50",
            true,
        ),
        (
            "Last-Modified: @-50\nETag: \"a\"",
            "If-Modified-Since: @-50\nIf-None-Match: \"b\"",
            false,
        ),
        (
            "Last-Modified: @-50\nETag: \"a\"",
            "If-Modified-Since: @-99\nIf-None-Match: \"a\"",
            true,
        ),
        ("Date: @-50", "If-Modified-Since: @-50", true),
        ("Date: @-50", "If-Modified-Since: @-60", false),
        (
            "Last-Modified: @-50\nDate: @-10",
            "If-Modified-Since: @-40",
            true,
        ),
        ("ETag: \"a\"", "If-Modified-Since: @-50", false),
        (
            "Last-Modified: junk\nDate: @-50",
            "If-Modified-Since: @-50",
            false,
        ),
        ("Last-Modified: @-50", "If-Modified-Since: junk", false),
        (
            "Last-Modified: @-50",
            "If-Modified-Since: @-50\nIf-Modified-Since: @-50",
            false,
        ),
        ("Last-Modified: @-50", "", false),
        (
            "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT",
            "If-Modified-Since: Sunday, 06-Nov-94 08:49:37 GMT",
            true,
        ),
        (
            "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT",
            "If-Modified-Since: Sun Nov  6 08:49:37 1994",
            true,
        ),
    ] {
        assert_eq!(
            is_304(stored, condition),
            expected,
            "{stored} | {condition}"
        );
    }
}

#[test]
fn conditions_are_for_successful_reads() {
    let (request, stored) = (head("If-None-Match: \"a\""), head("ETag: \"a\""));
    for (method, status, expected) in [
        (Method::GET, 200, true),
        (Method::HEAD, 200, true),
        (Method::POST, 200, false),
        (Method::GET, 404, false),
        (Method::GET, 301, false),
        (Method::GET, 206, false),
    ] {
        let status = StatusCode::from_u16(status).unwrap();
        let found = not_modified(&request, &method, status, &stored);
        assert_eq!(found, expected, "{method} {status}");
    }
}

#[test]
fn a_304_has_the_fields_that_caches_need() {
    let mut headers = head(
        "ETag: \"a\"\nDate: @0\nCache-Control: max-age=5\nVary: a\nExpires: 0\n\
         Content-Location: /a\nLast-Modified: @-5\nX: y\nContent-Length: 5\n\
         Content-Type: text/html\nContent-Encoding: gzip\nContent-Language: de",
    );
    to_not_modified(&mut headers);
    for present in [
        "etag",
        "date",
        "cache-control",
        "vary",
        "expires",
        "content-location",
        "x",
    ] {
        assert!(headers.contains_key(present), "{present}");
    }
    for absent in [
        "content-length",
        "content-type",
        "content-encoding",
        "content-language",
    ] {
        assert!(!headers.contains_key(absent), "{absent}");
    }
}
