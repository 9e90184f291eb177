//! RFC 9111, 3.

use super::*;

#[test]
fn directives_of_the_origin_forbid() {
    for (answer, expected) in [
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
        assert_eq!(fresh_for(answer), expected, "{answer}");
    }
}

#[test]
fn answers_that_must_be_validated_are_kept_if_they_can_be() {
    for (answer, always) in [
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
        let answer = format!("{answer}\nETag: \"a\"");
        let lifetime = kept(&answer).unwrap();
        assert_eq!(lifetime.always_validate, always, "{answer}");
        let verdict = judge(&lifetime, &RequestDirectives::default(), at(0));
        assert_eq!(verdict == Usability::Validate, always, "{answer}");
    }
}

#[test]
fn final_statuses_are_kept_with_explicit_freshness_only() {
    for status in [
        200, 201, 203, 204, 299, 300, 301, 302, 303, 307, 308, 400, 403, 404, 410, 451, 499, 500,
        502, 503, 504, 599,
    ] {
        let kept = |answer| kept_with(&CacheRules::default(), "", status, answer).map(drop);
        assert_eq!(kept("Cache-Control: max-age=60"), Ok(()), "{status}");
        assert_eq!(kept("ETag: \"a\""), Err("no-lifetime"), "{status}");
        // A validator alone is enough for a heuristically cacheable response.
        let no_cache = kept("ETag: \"a\"\nCache-Control: no-cache");
        let is_plain = [200, 203, 204, 300, 301, 308, 404, 410].contains(&status);
        assert_eq!(no_cache.is_ok(), is_plain, "{status}");
    }
    for status in [100, 101, 103, 206, 304] {
        let kept = kept_with(
            &CacheRules::default(),
            "",
            status,
            "Cache-Control: max-age=60",
        );
        assert_eq!(kept.map(drop), Err("status"), "{status}");
    }
}

#[test]
fn must_understand_overrules_no_store_for_statuses_that_are_understood() {
    let answer = "Cache-Control: must-understand, no-store, max-age=60";
    let kept = |status, answer| kept_with(&CacheRules::default(), "", status, answer).map(drop);
    assert_eq!(kept(200, answer), Ok(()));
    assert_eq!(kept(404, answer), Ok(()));
    assert_eq!(kept(299, answer), Err("not-understood"));
    assert_eq!(
        kept(299, "Cache-Control: must-understand, max-age=60"),
        Err("not-understood")
    );
    assert_eq!(
        kept(200, "Cache-Control: must-understand, private, max-age=60"),
        Err("private")
    );
}

#[test]
fn only_get_is_kept() {
    for (method, expected) in [
        (Method::GET, Ok(())),
        (Method::HEAD, Err(NotStorable::Method)),
        (Method::POST, Err(NotStorable::Method)),
        (Method::OPTIONS, Err(NotStorable::Method)),
    ] {
        let asked = OriginRequest {
            method: &method,
            headers: &HeaderMap::new(),
            is_named: false,
        };
        let headers = head("Cache-Control: max-age=60");
        let found = store(
            asked,
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
    let kept = |request, answer| {
        let answer = format!("Cache-Control: {answer}");
        kept_with(&CacheRules::default(), request, 200, &answer).map(drop)
    };
    assert_eq!(
        kept("Cache-Control: no-store", "max-age=60"),
        Err("request-no-store")
    );
    assert_eq!(kept("Cache-Control: no-cache", "max-age=60"), Ok(()));
    assert_eq!(kept("Cookie: a=b", "max-age=60"), Ok(()));
    // RFC 9111, 3.5.
    for (answer, expected) in [
        ("max-age=60", Err("authorization")),
        ("max-age=60, proxy-revalidate", Err("authorization")),
        ("max-age=60, public", Ok(())),
        ("max-age=60, must-revalidate", Ok(())),
        ("s-maxage=60", Ok(())),
        ("public, private, max-age=60", Err("private")),
    ] {
        assert_eq!(
            kept("Authorization: Basic eDp5", answer),
            expected,
            "{answer}"
        );
    }
    let named = OriginRequest {
        method: &Method::GET,
        headers: &head("Authorization: x"),
        is_named: true,
    };
    let answer = head("Cache-Control: max-age=60");
    let found = store(
        named,
        StatusCode::OK,
        &answer,
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
    let kept = |request: &str, status, answer: &str| {
        let found = kept_with(&rules, request, status, answer);
        found.map(|lifetime| {
            (
                lifetime.fresh_left(at(0)).as_secs(),
                lifetime.always_validate,
            )
        })
    };
    for answer in [
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
        assert_eq!(kept("", 200, answer), Ok((30, false)), "{answer}");
    }
    assert_eq!(kept("", 503, "Cache-Control: no-store"), Ok((3, false)));
    assert_eq!(kept("", 500, "Cache-Control: no-store"), Err("no-store"));
    assert_eq!(kept("", 200, "Set-Cookie: a=b"), Err("set-cookie"));
    assert_eq!(kept("", 200, "Vary: *"), Err("vary"));
    assert_eq!(kept("", 206, ""), Err("status"));
    assert_eq!(
        kept("", 200, "Content-Type: text/event-stream"),
        Err("stream")
    );
    assert_eq!(
        kept("Authorization: x", 200, "Cache-Control: public"),
        Err("authorization")
    );
    assert_eq!(
        kept("Cache-Control: no-store", 200, ""),
        Err("request-no-store")
    );
}

#[test]
fn a_route_may_ask_for_explicit_permission() {
    let rules = CacheRules {
        ttl: Some(secs(30)),
        heuristic: Some(0.1),
        explicit_only: true,
        ..CacheRules::default()
    };
    for (answer, expected) in [
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
        let found = kept_with(&rules, "", 200, answer).map(|l| l.fresh_for.as_secs());
        assert_eq!(found, expected, "{answer}");
    }
}
