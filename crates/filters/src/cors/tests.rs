//! Permissions to read, and to send requests that need a preflight.

use edgeway_core::chain::testkit::{FilterCheck, TestResponse, check, refused};

use super::Cors;

const SHOP: &str = "{ origins: [https://shop.test, 'http://localhost:3000'] }";

fn get(check: FilterCheck, origin: &str) -> FilterCheck {
    check.send("GET", "/", &[("Origin", origin)], &[])
}

fn preflight(check: FilterCheck, origin: &str, more: &[(&str, &str)]) -> FilterCheck {
    let mut headers = vec![("Origin", origin), ("Access-Control-Request-Method", "PUT")];
    headers.extend_from_slice(more);
    check.send("OPTIONS", "/", &headers, &[])
}

fn all<'a>(response: &'a TestResponse, name: &str) -> Vec<&'a str> {
    response
        .headers
        .get_all(name)
        .iter()
        .map(|value| value.to_str().unwrap())
        .collect()
}

fn allowed(response: &TestResponse) -> Vec<&str> {
    all(response, "access-control-allow-origin")
}

#[test]
fn listed_origins_may_read_and_others_not() {
    for (origin, is_listed) in [
        ("https://shop.test", true),
        ("http://localhost:3000", true),
        ("http://shop.test", false),
        ("https://shop.test:8443", false),
        ("https://a.shop.test", false),
        ("https://shop.test.evil.test", false),
        ("null", false),
        ("", false),
    ] {
        let check = get(check::<Cors>(SHOP), origin);
        let response = check.last();
        assert_eq!(response.status, 200);
        assert_eq!(allowed(response), [origin][..usize::from(is_listed)]);
        assert_eq!(all(response, "vary"), ["Origin"]);
    }
}

#[test]
fn a_response_without_an_origin_varies_too() {
    let check = check::<Cors>(SHOP).get("/");
    assert!(allowed(check.last()).is_empty());
    assert_eq!(all(check.last(), "vary"), ["Origin"]);
}

#[test]
fn two_origins_are_none() {
    let twice = [
        ("Origin", "https://shop.test"),
        ("Origin", "https://evil.test"),
    ];
    let check = check::<Cors>(SHOP).send("GET", "/", &twice, &[]);
    assert!(allowed(check.last()).is_empty());
}

#[test]
fn the_apps_own_permission_is_replaced() {
    let app = [
        ("Access-Control-Allow-Origin", "*"),
        ("Access-Control-Allow-Credentials", "true"),
        ("Access-Control-Expose-Headers", "X-Total"),
        ("Vary", "Accept-Encoding, origin"),
    ];
    let check = get(
        check::<Cors>(SHOP).backend(200, &app, &[]),
        "https://shop.test",
    );
    assert_eq!(allowed(check.last()), ["https://shop.test"]);
    assert!(all(check.last(), "access-control-allow-credentials").is_empty());
    assert_eq!(
        all(check.last(), "access-control-expose-headers"),
        ["X-Total"]
    );
    assert_eq!(all(check.last(), "vary"), ["Accept-Encoding, origin"]);

    let check = get(check, "https://evil.test");
    assert!(allowed(check.last()).is_empty());
}

#[test]
fn a_preflight_of_a_listed_origin_gets_its_response_here() {
    let check = preflight(
        check::<Cors>(SHOP),
        "https://shop.test",
        &[("Access-Control-Request-Headers", "authorization,x-one")],
    );
    let response = check.last();
    assert_eq!(response.status, 204);
    assert!(response.upstream.is_none());
    assert_eq!(response.reason, None);
    assert_eq!(allowed(response), ["https://shop.test"]);
    assert_eq!(
        all(response, "access-control-allow-methods"),
        ["GET, HEAD, POST, PUT, PATCH, DELETE"]
    );
    assert_eq!(
        all(response, "access-control-allow-headers"),
        ["authorization,x-one"]
    );
    assert_eq!(all(response, "access-control-max-age"), ["600"]);
    assert_eq!(
        all(response, "vary"),
        [
            "Access-Control-Request-Method, Access-Control-Request-Headers",
            "Origin"
        ]
    );
}

#[test]
fn a_preflight_of_another_origin_is_refused() {
    let check = preflight(check::<Cors>(SHOP), "https://evil.test", &[]);
    let response = check.last();
    assert_eq!(response.status, 403);
    assert_eq!(response.reason, Some("cors"));
    assert!(response.upstream.is_none());
    assert!(allowed(response).is_empty());
    assert!(all(response, "access-control-allow-methods").is_empty());
    assert!(all(response, "vary").contains(&"Origin"));
}

#[test]
fn other_options_requests_are_the_apps() {
    let method = ("Access-Control-Request-Method", "PUT");
    let check = check::<Cors>(SHOP)
        .request("OPTIONS", "/")
        .send("OPTIONS", "/", &[method], &[])
        .send("OPTIONS", "/", &[("Origin", "https://shop.test")], &[]);
    assert_eq!(allowed(check.last()), ["https://shop.test"]);
    check.expect([200, 200, 200]);
}

#[test]
fn exactly_the_configured_values_are_allowed() {
    let yaml = "{ origins: [https://shop.test], methods: [GET, PUT], headers: [X-One, X-Two],
                  expose: [X-Total, ETag], credentials: true, max_age: 1h }";
    let check = preflight(
        check::<Cors>(yaml),
        "https://shop.test",
        &[("Access-Control-Request-Headers", "x-three")],
    );
    let response = check.last();
    assert_eq!(all(response, "access-control-allow-methods"), ["GET, PUT"]);
    assert_eq!(
        all(response, "access-control-allow-headers"),
        ["X-One, X-Two"]
    );
    assert_eq!(all(response, "access-control-allow-credentials"), ["true"]);
    assert_eq!(all(response, "access-control-max-age"), ["3600"]);
    assert!(all(response, "access-control-expose-headers").is_empty());

    let check = get(check, "https://shop.test");
    let response = check.last();
    assert_eq!(
        all(response, "access-control-expose-headers"),
        ["X-Total, ETag"]
    );
    assert_eq!(all(response, "access-control-allow-credentials"), ["true"]);
    assert!(all(response, "access-control-allow-methods").is_empty());

    let check = get(check, "https://evil.test");
    assert!(all(check.last(), "access-control-allow-credentials").is_empty());
    assert!(all(check.last(), "access-control-expose-headers").is_empty());
}

#[test]
fn any_origin_is_a_star_that_varies_by_nothing() {
    let check = get(check::<Cors>("{ origins: ['*'] }"), "https://any.test");
    assert_eq!(allowed(check.last()), ["*"]);
    assert!(all(check.last(), "vary").is_empty());
    let check = preflight(check, "null", &[]);
    assert_eq!(check.last().status, 204);
    assert_eq!(allowed(check.last()), ["*"]);
}

#[test]
fn a_wildcard_lets_in_what_is_below_it() {
    let yaml = "{ origins: ['https://*.shop.test'] }";
    let check = get(check::<Cors>(yaml), "https://a.shop.test");
    assert_eq!(allowed(check.last()), ["https://a.shop.test"]);
    let check = get(check, "https://shop.test");
    assert!(allowed(check.last()).is_empty());
    let check = get(check, "https://evilshop.test");
    assert!(allowed(check.last()).is_empty());
}

#[test]
fn null_is_an_origin_where_it_is_listed() {
    let check = get(check::<Cors>("{ origins: ['null'] }"), "null");
    assert_eq!(allowed(check.last()), ["null"]);
}

#[test]
fn mistakes_are_reported_with_a_remedy() {
    for (yaml, message) in [
        (
            "{ origins: ['https://shop.test/app'] }",
            "the origin `https://shop.test/app` has more than a scheme and a host; help: an origin has no path, not even `/`: write `https://shop.test`",
        ),
        (
            "{ origins: [shop.test] }",
            "the origin `shop.test` has no scheme; help: write `https://shop.test`",
        ),
        (
            "{ origins: [] }",
            "`cors` lists no origin; help: list the origins allowed to read, such as `https://shop.example.com`, or remove `cors`",
        ),
        (
            "{ origins: ['*'], credentials: true }",
            "`credentials` cannot go with the origin `*`: any page could read in a user's name; help: list the origins that you trust, or remove `credentials`",
        ),
        (
            "{ origins: ['*', 'https://shop.test'] }",
            "the origin `*` allows all, so the others have no effect; help: keep `*` alone, or remove it",
        ),
        (
            "{ origins: ['null'], credentials: true }",
            "with `credentials`, the origin `null` would let any page read in a user's name, from a sandboxed frame; help: remove `credentials`, or the origin `null`",
        ),
        (
            "{ origins: [https://a.test], methods: [get] }",
            "invalid method `get`; help: write it in upper case, such as `GET` or `POST`",
        ),
        (
            "{ origins: [https://a.test], headers: ['*'] }",
            "invalid header name `*`; help: list the names, or remove the key",
        ),
        (
            "{ origins: [https://a.test], expose: ['X One'] }",
            "invalid header name `X One`; help: write a name such as `X-Request-Id`",
        ),
    ] {
        assert_eq!(refused::<Cors>(yaml), [message], "{yaml}");
    }
    assert_eq!(refused::<Cors>("{}").len(), 1);
    assert_eq!(
        refused::<Cors>("{ origins: [a, b], methods: [x y], headers: ['*'] }").len(),
        4
    );
}
