//! Clients that may send unsafe requests.

use edgeway_core::chain::{
    Scheme,
    testkit::{FilterCheck, check, refused},
};

use super::Csrf;

const HOST: (&str, &str) = ("Host", "shop.test");

#[track_caller]
fn post(yaml: &str, headers: &[(&str, &str)]) -> u16 {
    let mut all = vec![HOST];
    all.extend_from_slice(headers);
    https(check::<Csrf>(yaml))
        .send("POST", "/", &all, &[])
        .last()
        .status
}

fn https(check: FilterCheck) -> FilterCheck {
    check.client(|client| client.scheme = Scheme::Https)
}

#[test]
fn the_sec_fetch_site_of_a_browser_decides() {
    for (site, status) in [
        ("same-origin", 200),
        ("none", 200),
        ("same-site", 403),
        ("cross-site", 403),
        ("Same-Origin", 403),
        ("", 403),
    ] {
        assert_eq!(post("true", &[("Sec-Fetch-Site", site)]), status, "{site}");
    }
    let yaml = "{ allow_same_site: true }";
    assert_eq!(post(yaml, &[("Sec-Fetch-Site", "same-site")]), 200);
    assert_eq!(post(yaml, &[("Sec-Fetch-Site", "cross-site")]), 403);
}

#[test]
fn a_second_word_makes_the_first_doubtful() {
    let twice = [
        ("Sec-Fetch-Site", "same-origin"),
        ("Sec-Fetch-Site", "cross-site"),
    ];
    assert_eq!(post("true", &twice), 403);
    let twice = [
        ("Origin", "https://shop.test"),
        ("Origin", "https://evil.test"),
    ];
    assert_eq!(post("true", &twice), 403);
}

#[test]
fn without_it_the_origin_must_be_the_host() {
    for (origin, status) in [
        ("https://shop.test", 200),
        ("https://SHOP.test:443", 200),
        ("http://shop.test", 403),
        ("https://shop.test:8443", 403),
        ("https://evil.test", 403),
        ("https://shop.test.evil.test", 403),
        ("https://a.shop.test", 403),
        ("null", 403),
        ("", 403),
    ] {
        assert_eq!(post("true", &[("Origin", origin)]), status, "{origin}");
    }
}

#[test]
fn the_port_of_the_host_counts() {
    let check = check::<Csrf>("true");
    let host = ("Host", "localhost:8080");
    check
        .send(
            "POST",
            "/",
            &[host, ("Origin", "http://localhost:8080")],
            &[],
        )
        .send(
            "POST",
            "/",
            &[host, ("Origin", "http://localhost:3000")],
            &[],
        )
        .send("POST", "/", &[host, ("Origin", "http://localhost")], &[])
        .expect([200, 403, 403]);
}

#[test]
fn behind_a_trusted_proxy_its_word_on_the_host_counts() {
    let headers = [
        ("Host", "internal:8080"),
        ("X-Forwarded-Host", "shop.test"),
        ("Origin", "https://shop.test"),
    ];
    let send = |is_trusted| {
        https(check::<Csrf>("true"))
            .client(move |client| client.is_trusted = is_trusted)
            .send("POST", "/", &headers, &[])
            .last()
            .status
    };
    assert_eq!(send(true), 200);
    assert_eq!(send(false), 403);
}

#[test]
fn a_client_that_is_no_browser_passes() {
    assert_eq!(post("true", &[]), 200);
    assert_eq!(post("true", &[("Cookie", "session=1")]), 200);
}

#[test]
fn listed_origins_pass_whatever_the_site() {
    let yaml = "{ origins: [https://pay.test, 'https://*.friends.test'] }";
    for (origin, status) in [
        ("https://pay.test", 200),
        ("https://a.friends.test", 200),
        ("https://friends.test", 403),
        ("https://evil.test", 403),
        ("null", 403),
    ] {
        let headers = [("Origin", origin), ("Sec-Fetch-Site", "cross-site")];
        assert_eq!(post(yaml, &headers), status, "{origin}");
    }
}

#[test]
fn only_unsafe_methods_are_checked() {
    let cross = [HOST, ("Sec-Fetch-Site", "cross-site")];
    let mut check = check::<Csrf>("true");
    for method in [
        "GET", "HEAD", "OPTIONS", "TRACE", "POST", "PUT", "PATCH", "DELETE", "BREW",
    ] {
        check = check.send(method, "/", &cross, &[]);
    }
    check.expect([200, 200, 200, 200, 403, 403, 403, 403, 403]);
}

#[test]
fn a_websocket_of_another_sites_page_is_refused() {
    let key = ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    https(check::<Csrf>("true"))
        .send(
            "GET",
            "/ws",
            &[HOST, key, ("Origin", "https://evil.test")],
            &[],
        )
        .send(
            "GET",
            "/ws",
            &[HOST, key, ("Origin", "https://shop.test")],
            &[],
        )
        .send("GET", "/ws", &[HOST, key], &[])
        .expect([403, 200, 200]);
}

#[test]
fn a_refusal_has_its_reason_and_reaches_no_backend() {
    let check =
        check::<Csrf>("true").send("POST", "/", &[HOST, ("Sec-Fetch-Site", "cross-site")], &[]);
    assert_eq!(check.last().reason, Some("csrf"));
    assert!(check.last().upstream.is_none());
}

#[test]
fn mistakes_are_reported_with_a_remedy() {
    assert_eq!(
        refused::<Csrf>("{ origins: [shop.test, 'https://shop.test/'] }"),
        [
            "the origin `shop.test` has no scheme; help: write `https://shop.test`",
            "the origin `https://shop.test/` has more than a scheme and a host; help: an origin has no path, not even `/`: write `https://shop.test`",
        ]
    );
    assert_eq!(refused::<Csrf>("{ origins: ['*'] }").len(), 1);
    assert_eq!(refused::<Csrf>("{ origins: ['null'] }").len(), 1);
    assert_eq!(refused::<Csrf>("{ origin: [] }").len(), 1);
}
