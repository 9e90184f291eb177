//! Lifetimes as browsers and CDNs see them.

use edgeway_core::chain::{
    Class,
    testkit::{check, refused},
};

use super::CacheControl;

const RULES: &str = "
- { path: /_next/static/*, status: 200, browser: 365d, immutable: true }
- { hashed: true, browser: 365d, immutable: true, cdn: 24h }
- { class: static, status: 400-599, no_store: true }
- { class: image, browser: 1h, shared: 24h }
- { path: [/about, /docs/*], browser: 1min }
";

fn header(status: u16, path: &str, origin: &[(&str, &str)], request: &[(&str, &str)]) -> String {
    let class = match path.rsplit('.').next() {
        Some("png") => Class::Image,
        _ if path.contains(".js") => Class::Static,
        _ => Class::Page,
    };
    let check = check::<CacheControl>(RULES)
        .backend(status, origin, &[b"x"])
        .class(class)
        .send("GET", path, request, &[]);
    let text = |name: &str| {
        let value = check.last().headers.get(name);
        value.map_or("-".to_owned(), |value| value.to_str().unwrap().to_owned())
    };
    format!("{} | {}", text("cache-control"), text("cdn-cache-control"))
}

#[test]
fn the_first_rule_that_takes_a_response_applies() {
    for (status, path, expected) in [
        (
            200,
            "/_next/static/chunks/a.js",
            "public, max-age=31536000, immutable | -",
        ),
        (
            304,
            "/_next/static/chunks/a.js?v=1",
            "public, max-age=31536000, immutable | -",
        ),
        (404, "/_next/static/chunks/a.js", "no-store | -"),
        (500, "/_next/static/chunks/a.js", "no-store | -"),
        (
            200,
            "/assets/main.8e3f2a1b.js",
            "public, max-age=31536000, immutable | max-age=86400",
        ),
        (200, "/assets/main.js", "- | -"),
        (200, "/logo.png", "public, max-age=3600, s-maxage=86400 | -"),
        (200, "/about", "public, max-age=60 | -"),
        (200, "/about/us", "- | -"),
        (200, "/docs", "public, max-age=60 | -"),
        (200, "/docs/a/b", "public, max-age=60 | -"),
        (200, "/docsets", "- | -"),
        (302, "/docs/a/b", "- | -"),
    ] {
        assert_eq!(header(status, path, &[], &[]), expected, "{status} {path}");
    }
}

#[test]
fn a_404_is_not_stored_whatever_the_origin_sends() {
    let origin = [
        ("Cache-Control", "public, max-age=31536000, immutable"),
        ("CDN-Cache-Control", "max-age=99"),
        ("Expires", "Thu, 01 Jan 2099 00:00:00 GMT"),
    ];
    assert_eq!(
        header(404, "/_next/static/a.js", &origin, &[]),
        "no-store | -"
    );
}

#[test]
fn personal_responses_reach_no_shared_cache() {
    for request in [("Cookie", "session=1"), ("Authorization", "Bearer x")] {
        assert_eq!(
            header(200, "/logo.png", &[], &[request]),
            "private, max-age=3600 | -"
        );
        assert_eq!(
            header(200, "/logo.png", &[("Cache-Control", "public")], &[request]),
            "public, max-age=3600, s-maxage=86400 | -"
        );
    }
    let cookie = [("Set-Cookie", "a=1")];
    assert_eq!(header(200, "/logo.png", &cookie, &[]), "- | -");
}

#[test]
fn only_reads_get_a_lifetime() {
    let check = check::<CacheControl>(RULES);
    let posted = check.request("POST", "/about");
    assert!(!posted.last().headers.contains_key("cache-control"));
    let headed = posted.request("HEAD", "/about");
    assert_eq!(headed.last().headers["cache-control"], "public, max-age=60");
}

#[test]
fn a_rule_without_an_effect_is_refused() {
    for (rules, expected) in [
        ("[{ class: page }]", "this rule sets no lifetime"),
        ("[{ no_store: true, browser: 1s }]", "`no_store` keeps"),
        ("[{ immutable: true, shared: 1h }]", "`immutable` is for"),
        ("[{ path: docs, browser: 1h }]", "invalid path `docs`"),
        ("[{ path: '/a*', browser: 1h }]", "invalid path `/a*`"),
    ] {
        let problems = refused::<CacheControl>(rules);
        assert!(problems[0].starts_with(expected), "{rules}: {problems:?}");
    }
}
