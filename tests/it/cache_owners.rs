//! A stored response belongs to the clients that may get it: the effect of one client's request on
//! a response reaches no other client.

use std::{
    net::SocketAddr,
    time::{Duration, UNIX_EPOCH},
};

use edgeway_base::clock::Clock;

use crate::support::{
    client::{Request, get},
    gateway::Gateway,
    origins::{Origin, PresetOrigin},
    wait::wait_for,
};

const SOON: Duration = Duration::from_secs(10);

/// Stale on arrival, after a minute of freshness.
const STALE: &str = "public, max-age=60, stale-while-revalidate=600";

async fn front(origin: SocketAddr, routes: &str) -> Gateway {
    Gateway::start(&format!(
        "upstreams: {{ app: {{ backends: ['{origin}'], health: false }} }}\nroutes:\n{routes}"
    ))
    .await
}

async fn plain_front(origin: SocketAddr) -> Gateway {
    front(
        origin,
        "- { match: { path: '/*' }, upstream: app, cache: {} }\n",
    )
    .await
}

fn set_response(origin: &Origin<PresetOrigin>, path: &str, status: u16, headers: &[(&str, &str)]) {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let headers = headers.iter().map(owned).collect();
    origin.settings().tell(path, status, headers);
}

fn asked(origin: &Origin<PresetOrigin>, path: &str) -> usize {
    origin.settings().asked(path).len()
}

fn with_cookie(path: &str, cookie: &str) -> Request {
    get(path).header("cookie", cookie)
}

/// Sends a request for a stale page until a background revalidation of it is over: then the page is
/// fresh, or the next revalidation begins.
async fn refresh(gateway: &Gateway, origin: &Origin<PresetOrigin>, path: &str, request: &Request) {
    let before = asked(origin, path);
    wait_for("a refresh is over", SOON, async || {
        let response = gateway.send(request).await;
        (response.cache_status() != "STALE" || asked(origin, path) > before + 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_refresh_with_cookies_is_stored_only_if_it_is_public() {
    let origin = PresetOrigin::start().await;
    let gateway = plain_front(origin.address()).await;
    for (path, next, is_stored) in [
        ("/own", "max-age=600", false),
        ("/all", "public, max-age=600", true),
        ("/shared", "s-maxage=600", true),
    ] {
        let first = [("cache-control", STALE), ("age", "61"), ("vary", "Cookie")];
        set_response(&origin, path, 200, &first);
        let alice = with_cookie(path, "sid=alice");
        assert_eq!(gateway.send(&alice).await.cache_status(), "MISS");
        set_response(&origin, path, 200, &[("cache-control", next)]);
        refresh(&gateway, &origin, path, &alice).await;
        for other in [get(path), with_cookie(path, "sid=bob")] {
            let response = gateway.send(&other).await;
            let is_alices = response.text() == format!("{path} #2");
            assert_eq!(is_alices, is_stored, "{path}: {other:?}");
        }
    }
}

#[tokio::test]
async fn a_refusal_for_cookies_removes_no_stored_response() {
    let origin = PresetOrigin::start().await;
    let gateway = plain_front(origin.address()).await;
    let first = [("cache-control", STALE), ("age", "61"), ("vary", "Cookie")];
    set_response(&origin, "/a", 200, &first);
    let alice = with_cookie("/a", "sid=alice");
    assert_eq!(gateway.send(&alice).await.cache_status(), "MISS");
    set_response(&origin, "/a", 200, &[("cache-control", "max-age=600")]);
    refresh(&gateway, &origin, "/a", &alice).await;
    let response = gateway.send(&alice).await;
    response.assert_cached("STALE", "/a #1");
}

#[tokio::test]
async fn a_refresh_takes_the_cookies_of_the_key_along() {
    let origin = PresetOrigin::start().await;
    let gateway = front(
        origin.address(),
        "- { match: { path: '/*' }, upstream: app, cache: { key: { by: ['cookie:lang'] } } }\n",
    )
    .await;
    set_response(
        &origin,
        "/a",
        200,
        &[("cache-control", STALE), ("age", "61")],
    );
    let german = with_cookie("/a", "sid=1; lang=de; plan=2");
    assert_eq!(gateway.send(&german).await.cache_status(), "MISS");
    assert_eq!(gateway.send(&german).await.cache_status(), "STALE");
    let refreshed = wait_for("the page is refreshed", SOON, async || {
        origin.settings().asked("/a").get(1).cloned()
    })
    .await;
    assert_eq!(refreshed.header("cookie"), Some("lang=de"));
}

#[tokio::test]
async fn a_page_that_a_visitor_has_changed_is_new_for_all() {
    let origin = PresetOrigin::start().await;
    let gateway = plain_front(origin.address()).await;
    set_response(&origin, "/a", 200, &[("cache-control", "max-age=600")]);
    gateway.get("/a").await.assert_cached("MISS", "/a #1");
    let since = Clock::machine().wall().duration_since(UNIX_EPOCH);
    let since = since.expect("it is after 1970").as_millis() + 1;
    let visitor = with_cookie("/a", &format!("sid=1; edgeway-changed={since}"));
    // His own page is for him alone.
    assert_eq!(gateway.send(&visitor).await.text(), "/a #2");
    wait_for("the page is replaced", SOON, async || {
        (gateway.get("/a").await.text() == "/a #3").then_some(())
    })
    .await;
    gateway.send(&visitor).await.assert_cached("HIT", "/a #3");
}

#[tokio::test]
async fn a_header_that_one_route_lets_pass_reaches_no_stored_response() {
    let origin = PresetOrigin::start().await;
    let gateway = front(
        origin.address(),
        "- { name: passing, match: { path: /po/*, header: { X-Int: '1' } }, upstream: app, pass_headers: [X-Original-URL], cache: {} }
- { name: keyed, match: { path: /po/*, header: { X-Int: '2' } }, upstream: app, pass_headers: [X-Original-URL], cache: { key: { by: ['header:X-Original-URL'] } } }
- { name: same, match: { path: /po/*, header: { X-Int: '3' } }, upstream: app, cache: { key: { by: ['header:X-Original-URL'] } } }
- { name: plain, match: { path: /po/* }, upstream: app, cache: {} }
",
    )
    .await;
    set_response(&origin, "/po/a", 200, &[("cache-control", "max-age=600")]);
    let by = |kind: &str, url: &str| {
        let request = get("/po/a").header("x-int", kind);
        match url {
            "" => request,
            url => request.header("x-original-url", url),
        }
    };
    // Otherwise every client would get the response that one client caused.
    for _ in 0..2 {
        let response = gateway.send(&by("1", "/admin")).await;
        assert_eq!(response.cache_status(), "BYPASS");
    }
    for (request, expected) in [
        (by("1", ""), "MISS"),
        (by("1", ""), "HIT"),
        (get("/po/a"), "MISS"),
        (get("/po/a"), "HIT"),
        // The key names the header: each value has its own entry.
        (by("2", "/admin"), "MISS"),
        (by("2", "/admin"), "HIT"),
        (by("2", "/other"), "MISS"),
        (by("2", ""), "MISS"),
        // The key is the same, but the origin does not get the header.
        (by("3", "/admin"), "MISS"),
    ] {
        let response = gateway.send(&request).await;
        assert_eq!(response.cache_status(), expected, "{request:?}");
    }
}

#[tokio::test]
async fn a_304_takes_nothing_out_of_vary() {
    let origin = PresetOrigin::start().await;
    let gateway = plain_front(origin.address()).await;
    for (path, vary) in [
        ("/narrower", "Accept-Encoding"),
        ("/other", "Accept-Language"),
        ("/everything", "*"),
    ] {
        let first = [
            ("cache-control", "public, max-age=60"),
            ("age", "61"),
            ("vary", "Cookie"),
            ("etag", "\"a\""),
        ];
        set_response(&origin, path, 200, &first);
        let (alice, bob) = (with_cookie(path, "sid=a"), with_cookie(path, "sid=b"));
        assert_eq!(gateway.send(&alice).await.cache_status(), "MISS");
        let next = [
            ("cache-control", "public, max-age=600"),
            ("vary", vary),
            ("etag", "\"a\""),
        ];
        set_response(&origin, path, 304, &next);
        let validated = gateway.send(&alice).await;
        assert_eq!(validated.cache_status(), "REVALIDATED");
        assert_eq!(validated.text(), format!("{path} #1"));
        set_response(&origin, path, 200, &next);
        for other in [&bob, &get(path)] {
            let response = gateway.send(other).await;
            assert_ne!(response.text(), format!("{path} #1"), "{other:?}");
        }
    }
}

#[tokio::test]
async fn ambiguous_cookies_bypass_a_cache_keyed_by_cookies() {
    let origin = PresetOrigin::start().await;
    let gateway = front(
        origin.address(),
        "- { match: { path: /bypass/* }, upstream: app, cache: { anonymous_cookies: [theme], bypass: ['cookie:sid'] } }
- { match: { path: /key/* }, upstream: app, cache: { key: { by: ['cookie:sid'] } } }
- { match: { path: /anonymous/* }, upstream: app, cache: { anonymous_cookies: ['theme*'] } }
- { match: { path: /all/* }, upstream: app, cache: { anonymous_cookies: ['*'] } }
- { match: { path: /* }, upstream: app, cache: {} }
",
    )
    .await;
    let public = [("cache-control", "public, max-age=600")];
    for path in ["/bypass/a", "/key/a", "/anonymous/a", "/a"] {
        set_response(&origin, path, 200, &public);
        let goes_by_cookies = matches!(path, "/bypass/a" | "/key/a");
        gateway.get(path).await;
        for line in [
            "theme=a sid=x",
            "theme=a\tsid=x",
            "theme=a; \u{a0}sid=x",
            "theme=\"a; sid=x; b=\"",
            "theme =a",
            "$theme=a",
        ] {
            let response = gateway.send(&with_cookie(path, line)).await;
            let expected = if goes_by_cookies { "BYPASS" } else { "HIT" };
            assert_eq!(response.cache_status(), expected, "{path} {line:?}");
        }
        for line in ["theme=a", " theme=a;  dark=1,2;", "theme=\"a b\""] {
            let response = gateway.send(&with_cookie(path, line)).await;
            assert_eq!(response.cache_status(), "HIT", "{path} {line:?}");
        }
    }
    // A client that may have other cookies than clients without any stores nothing for others.
    for (path, line, expected) in [
        ("/anonymous/b", "theme=a sid=x", "MISS"),
        ("/anonymous/c", "theme=a; theme_b=c", "HIT"),
        ("/all/a", "theme=a sid=x", "HIT"),
    ] {
        set_response(&origin, path, 200, &[("cache-control", "max-age=600")]);
        let request = with_cookie(path, line);
        assert_eq!(
            gateway.send(&request).await.cache_status(),
            "MISS",
            "{path}"
        );
        assert_eq!(gateway.get(path).await.cache_status(), expected, "{path}");
    }
}

#[tokio::test]
async fn a_response_with_too_many_tags_is_not_stored() {
    let origin = PresetOrigin::start().await;
    let gateway = front(
        origin.address(),
        "- { name: app, match: { path: '/*' }, upstream: app, cache: { tags: [own] } }\n",
    )
    .await;
    let list = |count: usize| -> String {
        let tags: Vec<String> = (0..count).map(|number| format!("t{number}")).collect();
        tags.join(",")
    };
    for (path, name, tags, is_stored) in [
        ("/most", "cache-tag", list(256), true),
        ("/more", "cache-tag", list(257), false),
        (
            "/spaces",
            "surrogate-key",
            list(257).replace(',', " "),
            false,
        ),
        ("/longest", "cache-tag", "x".repeat(256), true),
        ("/longer", "cache-tag", "x".repeat(257), false),
        ("/empty", "cache-tag", ",".repeat(300), true),
        ("/same", "cache-tag", "a,".repeat(300), true),
    ] {
        let headers = [("cache-control", "max-age=600"), (name, tags.as_str())];
        set_response(&origin, path, 200, &headers);
        let first = gateway.get(path).await;
        let status = first.header("cache-status").unwrap_or_default();
        assert_eq!(status.contains("tags"), !is_stored, "{path}: {status}");
        assert_eq!(status.contains("stored"), is_stored, "{path}: {status}");
        let second = gateway.get(path).await;
        let expected = if is_stored { "HIT" } else { "MISS" };
        assert_eq!(second.cache_status(), expected, "{path}");
    }
}

#[tokio::test]
async fn a_clients_own_header_removes_no_stored_response() {
    let origin = PresetOrigin::start().await;
    let gateway = plain_front(origin.address()).await;
    let stale = [("cache-control", STALE), ("age", "61")];
    set_response(&origin, "/a", 200, &stale);
    gateway.get("/a").await;
    // The origin responds like this to a request with a header that is in no key.
    set_response(&origin, "/a", 200, &[("cache-control", "no-store")]);
    let evil = get("/a").header("x-evil", "1");
    refresh(&gateway, &origin, "/a", &evil).await;
    set_response(&origin, "/a", 200, &stale);
    assert_eq!(gateway.get("/a").await.cache_status(), "STALE");

    set_response(&origin, "/b", 200, &[("cache-control", "no-store")]);
    gateway.send(&get("/b").header("x-evil", "1")).await;
    set_response(&origin, "/b", 200, &[("cache-control", "max-age=600")]);
    origin.settings().hold("/b");
    let mut readers = Vec::new();
    for expected in ["MISS", "HIT", "HIT"] {
        let mut connection = gateway.connect().await;
        let headers = connection.start(&get("/b")).await.expect("headers");
        assert_eq!(headers.header("x-cache-status"), Some(expected));
        readers.push((connection, headers));
    }
    origin.settings().release("/b");
    for (mut connection, headers) in readers {
        connection.finish(headers).await.expect("a body");
    }
    assert_eq!(asked(&origin, "/b"), 2);
}

#[tokio::test]
async fn a_write_on_a_route_without_a_cache_invalidates_responses_of_another_route() {
    let origin = PresetOrigin::start().await;
    let gateway = front(
        origin.address(),
        "- { match: { path: /m/*, method: [GET, HEAD] }, upstream: app, cache: { key: { ignore_query: ['utm_*'] } } }
- { match: { path: /m/* }, upstream: app }
",
    )
    .await;
    let fresh = [("cache-control", "max-age=600")];
    set_response(&origin, "/m/a", 200, &fresh);
    for method in ["POST", "PUT", "DELETE", "PATCH", "PURGE-IT"] {
        gateway.get("/m/a").await;
        assert_eq!(gateway.get("/m/a").await.cache_status(), "HIT");
        gateway.get("/m/a?page=1").await;
        let written = gateway.send(&Request::new(method, "/m/a?page=1")).await;
        assert_eq!(written.status(), 200);
        assert_eq!(
            gateway.get("/m/a?page=1").await.cache_status(),
            "MISS",
            "{method}"
        );
        assert_eq!(gateway.get("/m/a").await.cache_status(), "HIT", "{method}");
        gateway.send(&Request::new(method, "/m/a")).await;
        assert_eq!(gateway.get("/m/a").await.cache_status(), "MISS", "{method}");
    }
    // Safe methods and failed requests invalidate nothing.
    let other = Request::new("OPTIONS", "/m/a");
    gateway.send(&other).await;
    assert_eq!(gateway.get("/m/a").await.cache_status(), "HIT");
    set_response(&origin, "/m/a", 500, &fresh);
    gateway.send(&Request::new("POST", "/m/a")).await;
    assert_eq!(gateway.get("/m/a").await.cache_status(), "HIT");
}
