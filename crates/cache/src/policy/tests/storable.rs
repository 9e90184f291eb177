//! RFC 9111, 3.

use super::*;

#[test]
fn directives_of_the_origin_forbid() {
    for (response, expected) in [
        ("Cache-Control: no-store", Err("no-store")),
        ("Cache-Control: nO-StOrE, max-age=60", Err("no-store")),
        (
            "Cache-Control: max-age=60\nCache-Control: no-store",
            Err("no-store"),
        ),
        ("Cache-Control: no-store=1, max-age=60", Err("no-store")),
        ("Cache-Control: no-store =1, max-age=60", Err("no-store")),
        ("Cache-Control: no-storex, max-age=60", Ok(60)),
        ("Cache-Control: private, max-age=60", Err("private")),
        (
            "Cache-Control: private=\"x-user\", max-age=60",
            Err("private"),
        ),
        ("Cache-Control: private=x-user, max-age=60", Err("private")),
        ("Cache-Control: private, public, max-age=60", Err("private")),
        ("Cache-Control: private, s-maxage=60", Err("private")),
        (
            "Set-Cookie: a=b\nCache-Control: public, max-age=60",
            Err("set-cookie"),
        ),
        (
            "Set-Cookie2: a=b\nCache-Control: public, max-age=60",
            Err("set-cookie"),
        ),
        ("Vary: *\nCache-Control: max-age=60", Err("vary")),
        ("Vary: accept, *\nCache-Control: max-age=60", Err("vary")),
        ("Vary: a b\nCache-Control: max-age=60", Err("vary")),
        (
            "Content-Type: text/event-stream\nCache-Control: max-age=60",
            Err("stream"),
        ),
        (
            "Content-Type: Text/Event-Stream; charset=utf-8\nCache-Control: max-age=60",
            Err("stream"),
        ),
        (
            "Content-Type: multipart/x-mixed-replace;boundary=x\nCache-Control: max-age=60",
            Err("stream"),
        ),
        ("", Err("no-lifetime")),
        ("ETag: \"a\"\nLast-Modified: @-1000", Err("no-lifetime")),
        ("Cache-Control: public", Err("no-lifetime")),
        ("Cache-Control: max-age=0", Err("not-reusable")),
        ("Cache-Control: max-age=0, stale-while-revalidate=5", Ok(0)),
        ("Cache-Control: max-age=0, stale-if-error=5", Ok(0)),
        ("Cache-Control: max-age=0\nETag: \"a\"", Ok(0)),
        ("Expires: 0\nLast-Modified: @-10", Ok(0)),
        ("Cache-Control: no-cache", Err("not-reusable")),
        ("Cache-Control: no-cache, max-age=60", Err("not-reusable")),
        (
            "Pragma: no-cache\nExpires: @60\nDate: @0",
            Err("not-reusable"),
        ),
    ] {
        assert_eq!(fresh_for(response), expected, "{response}");
    }
}

#[test]
fn responses_that_must_be_validated_are_stored_if_they_have_a_validator() {
    for (response, always) in [
        ("Cache-Control: no-cache", true),
        ("Cache-Control: No-CaChE, max-age=60", true),
        ("Cache-Control: no-cache, no-cache=\"a\", max-age=60", true),
        ("Cache-Control: no-cache=\"a\", no-cache, max-age=60", true),
        ("Cache-Control: no-cache=\"\", max-age=60", true),
        ("Cache-Control: no-cache=\"a b\", max-age=60", true),
        ("Cache-Control: no-cache=a, max-age=60", true),
        (
            "Cache-Control: no-cache=\"content-encoding\", max-age=60",
            true,
        ),
        ("Pragma: no-cache", true),
        ("Cache-Control: no-cache=\"a\", max-age=60", false),
        ("Cache-Control: max-age=60", false),
        ("Pragma: no-cache\nCache-Control: max-age=60", false),
        ("Pragma: other\nExpires: @60", false),
    ] {
        let response = format!("{response}\nETag: \"a\"");
        let lifetime = stored(&response).unwrap();
        assert_eq!(lifetime.always_validate, always, "{response}");
        let verdict = judge(&lifetime, &RequestDirectives::default(), at(0));
        assert_eq!(verdict == Usability::Validate, always, "{response}");
    }
}

#[test]
fn final_statuses_are_stored_with_explicit_freshness_only() {
    for status in [
        200, 201, 203, 204, 299, 300, 301, 302, 303, 307, 308, 400, 403, 404, 410, 451, 499, 500,
        502, 503, 504, 599,
    ] {
        let stored = |response| stored_with(&CacheRules::default(), "", status, response).map(drop);
        assert_eq!(stored("Cache-Control: max-age=60"), Ok(()), "{status}");
        assert_eq!(stored("ETag: \"a\""), Err("no-lifetime"), "{status}");
        // A validator alone is enough for a heuristically cacheable response.
        let no_cache = stored("ETag: \"a\"\nCache-Control: no-cache");
        let is_plain = [200, 203, 204, 300, 301, 308, 404, 410].contains(&status);
        assert_eq!(no_cache.is_ok(), is_plain, "{status}");
    }
    for status in [100, 101, 103, 206, 304] {
        let stored = stored_with(
            &CacheRules::default(),
            "",
            status,
            "Cache-Control: max-age=60",
        );
        assert_eq!(stored.map(drop), Err("status"), "{status}");
    }
}

/// The cause of an error or a redirect may be in one request only.
#[test]
fn the_ttl_of_a_route_is_for_responses_that_are_neither_errors_nor_redirects() {
    for force in [false, true] {
        let rules = CacheRules {
            ttl: Some(Duration::from_mins(1)),
            force,
            by_status: vec![(404, Duration::from_secs(5))],
            ..CacheRules::default()
        };
        for status in 200..600 {
            let stored = |response| stored_with(&rules, "", status, response);
            let is_stored = [200, 203, 204, 300, 404].contains(&status);
            assert_eq!(stored("").is_ok(), is_stored, "{status} {force}");
            // The origin says that it is meant for everybody.
            let public = stored("Cache-Control: public");
            let has_content = ![206, 304].contains(&status);
            assert_eq!(public.is_ok(), has_content, "{status} {force}");
        }
    }
}

#[test]
fn must_understand_overrules_no_store_for_statuses_that_are_understood() {
    let response = "Cache-Control: must-understand, no-store, max-age=60";
    let stored =
        |status, response| stored_with(&CacheRules::default(), "", status, response).map(drop);
    assert_eq!(stored(200, response), Ok(()));
    assert_eq!(stored(404, response), Ok(()));
    assert_eq!(stored(299, response), Err("not-understood"));
    assert_eq!(
        stored(299, "Cache-Control: must-understand, max-age=60"),
        Err("not-understood")
    );
    assert_eq!(
        stored(200, "Cache-Control: must-understand, private, max-age=60"),
        Err("private")
    );
}

#[test]
fn only_get_is_stored() {
    for (method, expected) in [
        (Method::GET, Ok(())),
        (Method::HEAD, Err(NotStorable::Method)),
        (Method::POST, Err(NotStorable::Method)),
        (Method::OPTIONS, Err(NotStorable::Method)),
    ] {
        let origin_request = OriginRequest {
            method: &method,
            headers: &HeaderMap::new(),
            is_named: false,
        };
        let headers = head("Cache-Control: max-age=60");
        let found = store(
            origin_request,
            StatusCode::OK,
            &headers,
            now(),
            &CacheRules::default(),
        );
        assert_eq!(found.map(drop), expected, "{method}");
    }
}

#[test]
fn requests_forbid_too() {
    let stored = |request, response| {
        let response = format!("Cache-Control: {response}");
        stored_with(&CacheRules::default(), request, 200, &response).map(drop)
    };
    assert_eq!(
        stored("Cache-Control: no-store", "max-age=60"),
        Err("request-no-store")
    );
    assert_eq!(stored("Cache-Control: no-cache", "max-age=60"), Ok(()));
    assert_eq!(stored("Cookie: a=b", "max-age=60"), Ok(()));
    // RFC 9111, 3.5.
    for (response, expected) in [
        ("max-age=60", Err("authorization")),
        ("max-age=60, proxy-revalidate", Err("authorization")),
        ("max-age=60, public", Ok(())),
        ("max-age=60, must-revalidate", Ok(())),
        ("s-maxage=60", Ok(())),
        ("public, private, max-age=60", Err("private")),
    ] {
        assert_eq!(
            stored("Authorization: Basic eDp5", response),
            expected,
            "{response}"
        );
    }
    let named = OriginRequest {
        method: &Method::GET,
        headers: &head("Authorization: x"),
        is_named: true,
    };
    let response = head("Cache-Control: max-age=60");
    let found = store(
        named,
        StatusCode::OK,
        &response,
        now(),
        &CacheRules::default(),
    );
    assert_eq!(found.map(drop), Ok(()));
}

#[test]
fn force_overrules_the_origin_but_shares_nothing_personal() {
    let rules = CacheRules {
        ttl: Some(secs(30)),
        force: true,
        by_status: vec![(503, secs(3))],
        explicit_only: true,
        ..CacheRules::default()
    };
    let stored = |request: &str, status, response: &str| {
        let found = stored_with(&rules, request, status, response);
        found.map(|lifetime| {
            (
                lifetime.fresh_left(at(0)).as_secs(),
                lifetime.always_validate,
            )
        })
    };
    for response in [
        "",
        "Cache-Control: no-store",
        "Cache-Control: private",
        "Cache-Control: no-cache",
        "Cache-Control: max-age=0, must-revalidate",
        "Expires: 0",
        "Age: 1000",
        "Date: @-1000",
        "CDN-Cache-Control: no-store",
    ] {
        assert_eq!(stored("", 200, response), Ok((30, false)), "{response}");
    }
    assert_eq!(stored("", 503, "Cache-Control: no-store"), Ok((3, false)));
    assert_eq!(stored("", 500, "Cache-Control: no-store"), Err("no-store"));
    assert_eq!(stored("", 200, "Set-Cookie: a=b"), Err("set-cookie"));
    assert_eq!(stored("", 200, "Vary: *"), Err("vary"));
    assert_eq!(stored("", 206, ""), Err("status"));
    assert_eq!(
        stored("", 200, "Content-Type: text/event-stream"),
        Err("stream")
    );
    assert_eq!(
        stored("Authorization: x", 200, "Cache-Control: public"),
        Err("authorization")
    );
    assert_eq!(
        stored("Cache-Control: no-store", 200, ""),
        Err("request-no-store")
    );
}

#[test]
fn a_route_may_require_explicit_permission() {
    let rules = CacheRules {
        ttl: Some(secs(30)),
        heuristic: Some(0.1),
        explicit_only: true,
        ..CacheRules::default()
    };
    for (response, expected) in [
        ("", Err("not-explicit")),
        ("Cache-Control: public", Err("not-explicit")),
        ("Expires: @60\nDate: @0", Err("not-explicit")),
        ("Last-Modified: @-1000", Err("not-explicit")),
        ("Cache-Control: max-age=0\nETag: \"a\"", Err("not-explicit")),
        ("Cache-Control: max-age=x\nETag: \"a\"", Err("not-explicit")),
        ("Cache-Control: no-cache\nETag: \"a\"", Err("not-explicit")),
        ("Cache-Control: s-maxage=60", Ok(60)),
        ("Cache-Control: max-age=5", Ok(5)),
        ("CDN-Cache-Control: max-age=5", Ok(5)),
        ("Cache-Control: private, max-age=5", Err("private")),
    ] {
        let found = stored_with(&rules, "", 200, response).map(|l| l.fresh_for.as_secs());
        assert_eq!(found, expected, "{response}");
    }
}
