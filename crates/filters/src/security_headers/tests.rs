//! Headers that browsers get, and headers that are hidden from attackers.

use edgeway_core::chain::{
    Scheme,
    testkit::{FilterCheck, TestResponse, check, refused},
};

use super::SecurityHeaders;

const HELMET: [&str; 11] = [
    "content-security-policy",
    "cross-origin-opener-policy",
    "cross-origin-resource-policy",
    "origin-agent-cluster",
    "referrer-policy",
    "strict-transport-security",
    "x-content-type-options",
    "x-dns-prefetch-control",
    "x-download-options",
    "x-frame-options",
    "x-permitted-cross-domain-policies",
];

fn over_tls(check: FilterCheck) -> FilterCheck {
    check.client(|client| client.scheme = Scheme::Https)
}

#[track_caller]
fn value<'a>(response: &'a TestResponse, name: &str) -> &'a str {
    let mut values = response.headers.get_all(name).iter();
    let value = values.next().map_or("(absent)", |v| v.to_str().unwrap());
    assert!(values.next().is_none(), "`{name}` stands there twice");
    value
}

#[test]
fn the_eleven_headers_of_helmet_are_on_every_response_over_tls() {
    for yaml in ["{}", "helmet"] {
        let check = over_tls(check::<SecurityHeaders>(yaml)).get("/");
        for name in HELMET {
            assert_ne!(value(check.last(), name), "(absent)", "{name}");
        }
        assert_eq!(value(check.last(), "x-xss-protection"), "0");
        assert_eq!(value(check.last(), "content-type"), "text/plain");
    }
}

#[test]
fn none_adds_no_header_and_hides_the_server_alone() {
    let check = over_tls(check::<SecurityHeaders>("none"))
        .backend(200, &[("Server", "app/1"), ("X-Powered-By", "app")], &[])
        .get("/");
    for name in HELMET.iter().chain(&["x-xss-protection", "server"]) {
        assert_eq!(value(check.last(), name), "(absent)", "{name}");
    }
    assert_eq!(value(check.last(), "x-powered-by"), "app");
}

#[test]
fn values_are_helmets_but_for_the_content_policy() {
    let check = over_tls(check::<SecurityHeaders>("helmet")).get("/");
    let seen: Vec<_> = HELMET.map(|name| value(check.last(), name)).into();
    assert_eq!(
        seen,
        [
            "base-uri 'self'; frame-ancestors 'self'; object-src 'none'; upgrade-insecure-requests",
            "same-origin",
            "same-origin",
            "?1",
            "same-origin",
            "max-age=31536000; includeSubDomains",
            "nosniff",
            "off",
            "noopen",
            "SAMEORIGIN",
            "none",
        ]
    );
}

#[test]
fn plain_http_gets_no_hsts() {
    let check = check::<SecurityHeaders>("helmet").get("/");
    assert_eq!(value(check.last(), "strict-transport-security"), "(absent)");
    assert_eq!(
        value(check.last(), "content-security-policy"),
        "base-uri 'self'; frame-ancestors 'self'; object-src 'none'"
    );
    for name in HELMET.iter().filter(|n| **n != "strict-transport-security") {
        assert_ne!(value(check.last(), name), "(absent)", "{name}");
    }
}

#[test]
fn an_origins_own_headers_win_unless_overridden() {
    let origin = [
        ("Content-Security-Policy", "default-src 'self'"),
        ("Strict-Transport-Security", "max-age=60"),
    ];
    let request = |yaml| over_tls(check::<SecurityHeaders>(yaml)).backend(200, &origin, &[]);
    let check = request("helmet").get("/");
    assert_eq!(
        value(check.last(), "content-security-policy"),
        "default-src 'self'"
    );
    assert_eq!(
        value(check.last(), "strict-transport-security"),
        "max-age=60"
    );
    let check = request("{ policy: override, csp: false }").get("/");
    assert_eq!(
        value(check.last(), "content-security-policy"),
        "default-src 'self'"
    );
    assert_eq!(
        value(check.last(), "strict-transport-security"),
        "max-age=31536000; includeSubDomains"
    );
}

#[test]
fn all_lines_of_an_origins_header_stay() {
    let origin = [
        ("Set-Cookie", "a=1"),
        ("Set-Cookie", "b=2"),
        ("Content-Security-Policy", "object-src 'none'"),
        ("Content-Security-Policy", "base-uri 'none'"),
        ("Set-Cookie", "c=3"),
    ];
    let check = check::<SecurityHeaders>("helmet")
        .backend(200, &origin, &[])
        .get("/");
    let all = |name| -> Vec<_> { check.last().headers.get_all(name).iter().collect() };
    assert_eq!(all("set-cookie"), ["a=1", "b=2", "c=3"]);
    assert_eq!(
        all("content-security-policy"),
        ["object-src 'none'", "base-uri 'none'"]
    );
}

#[test]
fn the_software_behind_the_gateway_is_hidden() {
    let origin = [("Server", "nginx/1.0"), ("X-Powered-By", "Next.js")];
    let request = |yaml| {
        check::<SecurityHeaders>(yaml)
            .backend(200, &origin, &[])
            .get("/")
    };
    let check = request("helmet");
    assert_eq!(value(check.last(), "server"), "(absent)");
    assert_eq!(value(check.last(), "x-powered-by"), "(absent)");
    let check = request("{ server: keep, powered_by: keep }");
    assert_eq!(value(check.last(), "server"), "nginx/1.0");
    assert_eq!(value(check.last(), "x-powered-by"), "Next.js");
    let check = request("{ server: shop }");
    assert_eq!(value(check.last(), "server"), "shop");
}

#[test]
fn each_header_may_be_another_or_none() {
    let check = over_tls(check::<SecurityHeaders>(
        "{ csp: \"default-src 'self'\", frame_options: DENY, opener_policy: false, \
           xss_protection: 1, hsts: { max_age: 730d, preload: true } }",
    ))
    .get("/");
    assert_eq!(
        value(check.last(), "content-security-policy"),
        "default-src 'self'"
    );
    assert_eq!(value(check.last(), "x-frame-options"), "DENY");
    assert_eq!(
        value(check.last(), "cross-origin-opener-policy"),
        "(absent)"
    );
    assert_eq!(value(check.last(), "x-xss-protection"), "1");
    assert_eq!(
        value(check.last(), "strict-transport-security"),
        "max-age=63072000; includeSubDomains; preload"
    );
    let check = over_tls(self::check::<SecurityHeaders>("{ hsts: false }")).get("/");
    assert_eq!(value(check.last(), "strict-transport-security"), "(absent)");
}

#[test]
fn a_policy_of_nothing_but_upgrading_is_absent_over_plain_http() {
    let yaml = "{ csp: Upgrade-Insecure-Requests }";
    let check = check::<SecurityHeaders>(yaml).get("/");
    assert_eq!(value(check.last(), "content-security-policy"), "(absent)");
    let check = over_tls(self::check::<SecurityHeaders>(yaml)).get("/");
    assert_eq!(
        value(check.last(), "content-security-policy"),
        "Upgrade-Insecure-Requests"
    );
}

#[test]
fn invalid_values_are_reported_with_a_remedy() {
    assert_eq!(
        refused::<SecurityHeaders>("shield"),
        ["unknown set of security headers `shield`; help: write `helmet` or `none`"]
    );
    assert_eq!(
        refused::<SecurityHeaders>("{ csp: \"a\\nb\", frame_options: '' }"),
        [
            "invalid value `a\\nb` of `content-security-policy`; help: write plain text on one \
             line, or `false` for no such header",
            "invalid value `` of `x-frame-options`; help: write plain text on one line, or \
             `false` for no such header",
        ]
    );
    assert!(refused::<SecurityHeaders>("{ frame_option: DENY }")[0].contains("frame_option"));
}
