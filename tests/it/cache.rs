//! The cache as clients and origins see it.

use std::{net::SocketAddr, time::Duration};

use tokio::task::JoinSet;

use crate::support::{
    client::{self, Connection, Request, get, post},
    front::Front,
    gateway::Gateway,
    http2,
    origins::{FixedOrigin, HaltingOrigin, NumberedOrigin, Origin},
    seed,
    wait::{pass, wait_for},
};

const SOON: Duration = Duration::from_secs(10);

async fn front(origin: SocketAddr, cache: &str) -> Gateway {
    front_with(origin, cache, "").await
}

async fn front_with(origin: SocketAddr, cache: &str, more: &str) -> Gateway {
    Front::to(origin)
        .http2()
        .route(&format!("name: app, cache: {cache}{more}"))
        .start()
        .await
}

async fn origin(path: &str, headers: &[(&str, &str)]) -> Origin<NumberedOrigin> {
    let origin = NumberedOrigin::start().await;
    origin.settings().tell(path, 200, headers);
    origin
}

const MINUTE: &[(&str, &str)] = &[("cache-control", "max-age=60"), ("etag", "\"a\"")];

#[tokio::test]
async fn a_response_is_stored_as_the_origin_allows_and_served_with_its_age() {
    let origin = origin("/a", MINUTE).await;
    let gateway = front(origin.address(), "{}").await;
    let first = gateway.get("/a").await;
    first.assert_cached("MISS", "/a #1");
    assert_eq!(
        first.header("cache-status"),
        Some("Edgeway; fwd=uri-miss; fwd-status=200; stored")
    );
    let second = gateway.get("/a").await;
    second.assert_cached("HIT", "/a #1");
    assert!(second.header("age").is_some());
    assert_eq!(second.header("etag"), Some("\"a\""));
    assert_eq!(second.header("content-length"), Some("5"));
    let status = second.header("cache-status").unwrap();
    assert!(status.starts_with("Edgeway; hit; ttl="), "{status}");
    // Another target is another stored response.
    gateway.get("/a?x=1").await.assert_cached("MISS", "/a #2");
    assert_eq!(origin.settings().requests("/a"), 2);
    gateway
        .counts(
            "edgeway_cache_requests_total{route=\"app\",result=\"hit\"}",
            1,
        )
        .await;
    gateway
        .counts(
            "edgeway_cache_requests_total{route=\"app\",result=\"miss\"}",
            2,
        )
        .await;
}

#[tokio::test]
async fn head_and_conditional_requests_are_served_from_a_stored_get() {
    let origin = origin("/a", MINUTE).await;
    let gateway = front(origin.address(), "{}").await;
    gateway.get("/a").await;
    let response = gateway.send(&Request::new("HEAD", "/a")).await;
    assert_eq!((response.cache_status(), response.status()), ("HIT", 200));
    assert_eq!(
        (response.header("content-length"), &*response.text()),
        (Some("5"), "")
    );
    let conditional = get("/a").header("if-none-match", "\"a\"");
    let response = gateway.send(&conditional).await;
    assert_eq!((response.cache_status(), response.status()), ("HIT", 304));
    assert_eq!(
        (response.header("etag"), &*response.text()),
        (Some("\"a\""), "")
    );
    assert_eq!(response.header("content-length"), None);
    let other = get("/a").header("if-none-match", "\"b\"");
    gateway.send(&other).await.assert_cached("HIT", "/a #1");
    assert_eq!(origin.settings().requests("/a"), 1);
}

#[tokio::test]
async fn a_get_with_a_body_does_not_fill_the_store() {
    let origin = origin("/a", MINUTE).await;
    let gateway = front(origin.address(), "{}").await;
    let with_body = get("/a").body("q=poison");
    gateway
        .send(&with_body)
        .await
        .assert_cached("BYPASS", "/a #1");
    let in_chunks = get("/a").chunks(["q=poison"]);
    gateway
        .send(&in_chunks)
        .await
        .assert_cached("BYPASS", "/a #2");
    let client = http2::Client::open(gateway.address()).await;
    let sent = client.send(http2::request("GET", "/a"), "q=poison").await;
    let response = sent.expect("a response");
    assert_eq!(response.header("x-cache-status"), Some("BYPASS"));
    gateway.get("/a").await.assert_cached("MISS", "/a #4");
    // The response to a clean request is not poisoned.
    gateway.send(&with_body).await.assert_cached("HIT", "/a #4");
}

#[tokio::test]
async fn within_its_window_a_stale_response_is_served_while_one_request_revalidates_it() {
    let headers = [
        ("cache-control", "max-age=60, stale-while-revalidate=600"),
        ("age", "61"),
    ];
    let origin = origin("/a", &headers).await;
    let gateway = front(origin.address(), "{}").await;
    gateway.get("/a").await;
    origin.settings().tell("/a", 200, MINUTE);
    origin.settings().slow("/a", Duration::from_millis(300));
    let mut asked = JoinSet::new();
    for _ in 0..20 {
        let to = gateway.address();
        asked.spawn(async move { client::send(to, &get("/a")).await.expect("a response") });
    }
    for response in asked.join_all().await {
        response.assert_cached("STALE", "/a #1");
    }
    wait_for("the new response is there", SOON, async || {
        (gateway.get("/a").await.cache_status() == "HIT").then_some(())
    })
    .await;
    gateway.get("/a").await.assert_cached("HIT", "/a #2");
    assert_eq!(origin.settings().requests("/a"), 2);
    gateway
        .counts(
            "edgeway_cache_revalidations_total{route=\"app\",outcome=\"begun\"}",
            1,
        )
        .await;
}

/// Also: the body of the new response may pause for as long as that of any other one.
#[tokio::test]
async fn a_stale_response_is_served_until_the_new_one_is_complete() {
    for path in ["/pauses", "/breaks"] {
        let origin = HaltingOrigin::start(Duration::from_secs(2)).await;
        let gateway = Front::to(&origin)
            .upstream("timeouts: { first_byte: 500ms, idle: 20s }, eject: { errors: 1, for: 1h }")
            .route("name: app, cache: {}")
            .start()
            .await;
        gateway.get(path).await.assert_cached("MISS", "first half");
        gateway.get(path).await.assert_cached("STALE", "first half");
        wait_for("the new response has begun", SOON, async || {
            (origin.counts().requests() == 2).then_some(())
        })
        .await;
        for request in [get(path), get(path), Request::new("HEAD", path)] {
            pass(Duration::from_millis(300)).await;
            let response = gateway.send(&request).await;
            assert_eq!((response.cache_status(), response.status()), ("STALE", 200));
            assert_eq!(response.header("content-length"), Some("10"));
        }
        gateway.get(path).await.assert_cached("STALE", "first half");
        if path == "/breaks" {
            pass(Duration::from_secs(3)).await;
            gateway.get(path).await.assert_cached("STALE", "first half");
            continue;
        }
        wait_for("the new response is there", SOON, async || {
            (gateway.get(path).await.cache_status() == "HIT").then_some(())
        })
        .await;
        gateway.get(path).await.assert_cached("HIT", "later half");
        assert_eq!(origin.counts().requests(), 2);
    }
}

#[tokio::test]
async fn a_hundred_concurrent_misses_are_one_request_to_the_origin() {
    let origin = origin("/a", MINUTE).await;
    origin.settings().slow("/a", Duration::from_millis(200));
    let gateway = front(origin.address(), "{}").await;
    let mut asked = JoinSet::new();
    for _ in 0..100 {
        let to = gateway.address();
        asked.spawn(async move { client::send(to, &get("/a")).await.expect("a response") });
    }
    let responses = asked.join_all().await;
    assert!(responses.iter().all(|response| response.text() == "/a #1"));
    assert_eq!(
        responses
            .iter()
            .filter(|response| response.cache_status() == "MISS")
            .count(),
        1
    );
    assert_eq!(origin.settings().requests("/a"), 1);
    // Without a cache every request goes to the origin.
    let without = front(origin.address(), "false").await;
    for _ in 0..3 {
        without.get("/a").await;
    }
    assert_eq!(origin.settings().requests("/a"), 4);
}

#[tokio::test]
async fn uncacheable_responses_do_not_make_others_wait() {
    let origin = origin("/a", &[("cache-control", "no-store")]).await;
    origin.settings().slow("/a", Duration::from_millis(300));
    let gateway = front(origin.address(), "{}").await;
    gateway.get("/a").await.assert_cached("MISS", "/a #1");
    let mut asked = JoinSet::new();
    for _ in 0..10 {
        let to = gateway.address();
        asked.spawn(async move { client::send(to, &get("/a")).await.expect("a response") });
    }
    asked.join_all().await;
    assert_eq!(origin.settings().requests("/a"), 11);
    assert_eq!(origin.settings().most("/a"), 10);
}

#[tokio::test]
async fn a_write_invalidates_the_stored_responses_of_its_target() {
    let origin = origin("/tasks/7", MINUTE).await;
    origin.settings().tell("/tasks", 200, MINUTE);
    let gateway = front(origin.address(), "{ purge_on_write: true }").await;
    for target in ["/tasks/7", "/tasks", "/tasks?page=2", "/tasks/7?full"] {
        assert_eq!(gateway.get(target).await.cache_status(), "MISS", "{target}");
        assert_eq!(gateway.get(target).await.cache_status(), "HIT", "{target}");
    }
    origin.settings().tell("/tasks/7", 422, &[]);
    assert_eq!(gateway.send(&post("/tasks/7", "x")).await.status(), 422);
    assert_eq!(gateway.get("/tasks").await.cache_status(), "HIT");
    origin.settings().tell("/tasks/7", 200, MINUTE);
    assert_eq!(
        gateway.send(&post("/tasks/7", "x")).await.cache_status(),
        "BYPASS"
    );
    for target in ["/tasks/7", "/tasks", "/tasks?page=2", "/tasks/7?full"] {
        assert_eq!(gateway.get(target).await.cache_status(), "MISS", "{target}");
    }
}

#[tokio::test]
async fn ranges_come_from_stored_responses_or_else_from_the_origin() {
    let origin = origin("/a", MINUTE).await;
    let gateway = front(origin.address(), "{}").await;
    let part = get("/a").header("range", "bytes=1-2");
    assert_eq!(gateway.send(&part).await.cache_status(), "BYPASS");
    gateway.get("/a").await;
    let response = gateway.send(&part).await;
    assert_eq!(
        (
            response.status(),
            response.cache_status(),
            &*response.text()
        ),
        (206, "HIT", "a ")
    );
    assert_eq!(response.header("content-range"), Some("bytes 1-2/5"));
}

/// Invariant: a body has the length that its headers announce, whatever range is asked for, and the
/// next response on the connection follows it.
#[tokio::test]
async fn a_range_has_the_length_that_it_announces() {
    let headers = [("cache-control", "max-age=600")];
    let origin = FixedOrigin::start(200, &headers, "0123456789abcdefg").await;
    let gateway = front(origin.address(), "{}").await;
    gateway.get("/a").await;
    let mut connection = Connection::open(gateway.address())
        .await
        .expect("it accepts");
    let mut random = fastrand::Rng::with_seed(seed::drawn());
    let mut drawn = vec!["bytes=-0".to_owned(), "bytes=0-0,-0".to_owned()];
    for _ in 0..300 {
        let ranges = (0..random.usize(1..4)).map(|_| match random.u8(..4) {
            0 => format!("-{}", random.u8(..3)),
            1 => format!("{}-", random.u8(..20)),
            _ => format!("{}-{}", random.u8(..20), random.u8(..20)),
        });
        drawn.push(format!("bytes={}", ranges.collect::<Vec<_>>().join(", ")));
    }
    let mut statuses = std::collections::BTreeMap::new();
    for range in drawn {
        let part = get("/a").header("range", range.clone());
        let response = connection.send(&part).await.expect("a whole response");
        assert_eq!(response.cache_status(), "HIT", "{range}");
        let length = response.header("content-length").map(str::parse);
        assert_eq!(
            length,
            Some(Ok(response.body.len())),
            "{range}: {response:?}"
        );
        if !range.contains(',') && response.status() == 206 {
            let content = response.header("content-range").unwrap_or_default();
            let (first, last) = content[6..].split_once('-').expect("a range");
            let last = last.split('/').next().unwrap_or_default();
            let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
            assert_eq!(response.body, b"0123456789abcdefg"[first..=last], "{range}");
        }
        *statuses.entry(response.status()).or_insert(0) += 1;
        let head = Request::new("HEAD", "/a").header("range", range.clone());
        let head = connection.send(&head).await.expect("headers");
        assert_eq!(
            (head.status(), head.header("content-length")),
            (200, Some("17")),
            "{range}"
        );
    }
    assert!(
        [206, 416].iter().all(|it| statuses.contains_key(it)),
        "{statuses:?}"
    );
}

/// Invariant: what a 304 says holds for the client of its request, for the browser, and for purges.
#[tokio::test]
async fn a_304_has_its_cookies_its_times_and_its_tags() {
    const ASK: (&str, &str) = ("cache-control", "no-cache");
    const TAG: (&str, &str) = ("etag", "\"a\"");
    let origin = origin("/a", &[ASK, TAG]).await;
    let gateway = front(origin.address(), "{ browser_ttl: 10min }").await;
    gateway.get("/a").await;
    let cookie = ("set-cookie", "sid=new");
    origin.settings().tell("/a", 200, &[ASK, TAG, cookie]);
    for request in [get("/a"), get("/a").header("if-none-match", TAG.1)] {
        let response = gateway.send(&request.header("cookie", "sid=old")).await;
        assert_eq!(response.cache_status(), "REVALIDATED");
        assert_eq!(
            response.header("set-cookie"),
            Some("sid=new"),
            "{response:?}"
        );
    }
    origin.settings().tell("/a", 200, &[ASK, TAG]);
    assert_eq!(gateway.get("/a").await.header("set-cookie"), None);

    origin.settings().tell("/b", 200, MINUTE);
    gateway.get("/b").await;
    let response = gateway
        .send(&get("/b").header("if-none-match", TAG.1))
        .await;
    assert_eq!((response.status(), response.cache_status()), (304, "HIT"));
    let control = response.header("cache-control").unwrap_or_default();
    let seconds = control.trim_start_matches("max-age=").split(',').next();
    let seconds: u64 = seconds.unwrap_or_default().parse().expect("a number");
    assert!(seconds >= 600, "{control}");

    origin.settings().tell("/c", 200, &[ASK, TAG]);
    gateway.get("/c").await;
    let fresh = ("cache-control", "max-age=100");
    origin
        .settings()
        .tell("/c", 200, &[fresh, TAG, ("cache-tag", "new")]);
    assert_eq!(gateway.get("/c").await.cache_status(), "REVALIDATED");
    assert_eq!(gateway.get("/c").await.cache_status(), "MISS");
    assert_eq!(gateway.get("/c").await.cache_status(), "HIT");
    let (_, receipt) = gateway.purge(&serde_json::json!({ "tag": "new" })).await;
    assert_eq!(gateway.get("/c").await.cache_status(), "MISS", "{receipt}");
}

/// RFC 9110, 13.1.5: a weak tag does not say that the bytes are the same.
#[tokio::test]
async fn a_weak_tag_in_if_range_gives_the_whole_response() {
    for (tag, if_range, status) in [
        ("\"a\"", "\"a\"", 206),
        ("\"a\"", "\"b\"", 200),
        ("W/\"a\"", "W/\"a\"", 200),
        ("W/\"a\"", "\"a\"", 200),
        ("\"a\"", "W/\"a\"", 200),
    ] {
        let headers = [("cache-control", "max-age=60"), ("etag", tag)];
        let origin = FixedOrigin::start(200, &headers, "abcde").await;
        let gateway = front(origin.address(), "{}").await;
        gateway.get("/a").await;
        let part = get("/a").header("range", "bytes=1-2");
        let response = gateway.send(&part.header("if-range", if_range)).await;
        let got = (response.status(), response.cache_status());
        assert_eq!(got, (status, "HIT"), "{tag} {if_range}");
    }
}

/// An empty body has no range that a 206 could name.
#[tokio::test]
async fn a_range_of_an_empty_stored_body_is_the_whole_of_it() {
    let headers = [("cache-control", "max-age=60"), ("etag", "\"a\"")];
    let origin = FixedOrigin::start(200, &headers, "").await;
    let gateway = front(origin.address(), "{}").await;
    gateway.get("/a").await;
    for range in [
        "bytes=-1",
        "bytes=-5",
        "bytes=0-0",
        "bytes=0-",
        "bytes=-1,0-1",
        "bytes=-0",
    ] {
        let part = get("/a").header("range", range);
        for request in [part.clone(), part.header("if-range", "\"a\"")] {
            let response = gateway.send(&request).await;
            assert_eq!(
                (response.status(), response.cache_status()),
                (200, "HIT"),
                "{range}"
            );
            assert_eq!(response.text(), "", "{range}");
            assert_eq!(response.header("content-range"), None, "{range}");
        }
    }
}

#[tokio::test]
async fn personal_responses_reach_no_other_client() {
    let headers = [("cache-control", "max-age=60")];
    let origin = origin("/a", &headers).await;
    origin.settings().tell(
        "/cookie",
        200,
        &[
            ("cache-control", "public, max-age=60"),
            ("set-cookie", "sid=1"),
        ],
    );
    origin
        .settings()
        .tell("/public", 200, &[("cache-control", "public, max-age=60")]);
    let gateway = front(origin.address(), "{ anonymous_cookies: [_ga] }").await;
    for (name, value) in [("authorization", "Bearer x"), ("cookie", "sid=1")] {
        let personal = get("/a").header(name, value);
        assert_eq!(
            gateway.send(&personal).await.cache_status(),
            "MISS",
            "{name}"
        );
        let personal = get("/a").header(name, value);
        assert_eq!(
            gateway.send(&personal).await.cache_status(),
            "MISS",
            "{name}"
        );
    }
    for target in ["/cookie", "/cookie"] {
        assert_eq!(gateway.get(target).await.cache_status(), "MISS");
    }
    let logged_in = get("/public").header("cookie", "sid=1");
    assert_eq!(gateway.send(&logged_in).await.cache_status(), "MISS");
    assert_eq!(gateway.get("/public").await.cache_status(), "HIT");
    assert_eq!(
        gateway
            .send(&get("/a?2").header("cookie", "_ga=1"))
            .await
            .cache_status(),
        "MISS"
    );
    assert_eq!(gateway.get("/a?2").await.cache_status(), "HIT");
}

#[tokio::test]
async fn a_client_that_forward_auth_accepted_is_personal_without_a_name_too() {
    let origin = origin("/a", &[("cache-control", "max-age=60")]).await;
    let public = [("cache-control", "public, max-age=60")];
    origin.settings().tell("/public", 200, &public);
    let service = FixedOrigin::start(200, &[], "").await;
    let asks = format!(", forward_auth: 'http://{}/verify'", service.address());
    let gateway = front_with(origin.address(), "{}", &asks).await;
    for _ in 0..2 {
        assert_eq!(gateway.get("/a").await.cache_status(), "MISS");
    }
    for expected in ["MISS", "HIT"] {
        assert_eq!(gateway.get("/public").await.cache_status(), expected);
    }
}

#[tokio::test]
async fn variants_are_selected_by_the_fields_in_vary() {
    let origin = origin(
        "/a",
        &[("cache-control", "max-age=60"), ("vary", "accept-language")],
    )
    .await;
    let gateway = front(origin.address(), "{}").await;
    let of = |language: &str| get("/a").header("accept-language", language);
    gateway.send(&of("de")).await.assert_cached("MISS", "/a #1");
    let english = gateway.send(&of("en")).await;
    english.assert_cached("MISS", "/a #2");
    assert!(
        english
            .header("cache-status")
            .unwrap()
            .contains("fwd=vary-miss")
    );
    gateway.send(&of("de")).await.assert_cached("HIT", "/a #1");
    gateway.send(&of("en")).await.assert_cached("HIT", "/a #2");
}

#[tokio::test]
async fn a_client_that_leaves_does_not_stop_the_fill() {
    let origin = origin("/a", MINUTE).await;
    origin.settings().slow("/a", Duration::from_millis(200));
    let gateway = front(origin.address(), "{}").await;
    let mut connection = gateway.connect().await;
    connection
        .write("GET /a HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    wait_for("the origin is asked", SOON, async || {
        (origin.settings().requests("/a") == 1).then_some(())
    })
    .await;
    drop(connection);
    pass(Duration::from_millis(400)).await;
    let after = gateway.send(&get("/a").header("host", "a")).await;
    assert!(["HIT", "MISS"].contains(&after.cache_status()));
}

#[tokio::test]
async fn a_response_is_encoded_once_and_stored_in_each_encoding() {
    let headers = [
        ("cache-control", "max-age=60"),
        ("content-type", "text/plain"),
        ("vary", "accept-encoding"),
        ("etag", "\"a\""),
    ];
    let origin = origin("/a", &headers).await;
    origin.settings().pad("/a", 20_000);
    let compression = ", compression: { encodings: [gzip] }";
    let gateway = front_with(origin.address(), "{}", compression).await;
    let plain = gateway.get("/a").await;
    assert_eq!(plain.cache_status(), "MISS");
    let accepting = |accepted: &str| get("/a").header("accept-encoding", accepted);
    // Whatever the client accepts, it is one response of the origin.
    for accepted in ["gzip", "gzip, deflate, br", "br;q=0.1, gzip"] {
        let response = gateway.send(&accepting(accepted)).await;
        assert_eq!(
            (response.cache_status(), response.header("content-encoding")),
            ("HIT", Some("gzip"))
        );
    }
    // Once it is stored with this encoding, its length is known.
    let encoded = wait_for("it is stored as gzip", SOON, async || {
        let response = gateway.send(&accepting("gzip")).await;
        response
            .header("content-length")
            .is_some()
            .then_some(response)
    })
    .await;
    assert_eq!(encoded.header("etag"), Some("W/\"a\""));
    assert_eq!(
        encoded
            .header("vary")
            .map(str::to_ascii_lowercase)
            .as_deref(),
        Some("accept-encoding")
    );
    assert_eq!(encoded.decoded(), plain.body);
    let still = gateway.get("/a").await;
    assert_eq!(
        (still.cache_status(), still.header("content-encoding")),
        ("HIT", None)
    );
    assert_eq!(still.text(), plain.text());
    let not_modified = gateway
        .send(&accepting("gzip").header("if-none-match", "W/\"a\""))
        .await;
    assert_eq!(not_modified.status(), 304);
    assert_eq!(origin.settings().requests("/a"), 1);
}

#[tokio::test]
async fn a_hit_for_a_request_with_a_body_is_complete() {
    let origin = origin("/a", MINUTE).await;
    let gateway = front(origin.address(), "{}").await;
    gateway.get("/a").await;
    let mut connection = gateway.connect().await;
    for _ in 0..3 {
        // A GET may have a body, which is read after the response: the next request begins behind it.
        let request = get("/a").body("GET /b HTTP/1.1\r\nhost: a.test\r\n\r\n");
        let response = connection.send(&request).await.unwrap();
        response.assert_cached("HIT", "/a #1");
    }
    assert_eq!(origin.settings().requests("/b"), 0, "no body is a request");
}

#[tokio::test]
async fn a_stored_response_keeps_its_date() {
    const LONG_AGO: &str = "Thu, 01 Jan 2015 08:00:00 GMT";
    let headers = [
        ("cache-control", "max-age=999999999"),
        ("date", LONG_AGO),
        ("etag", "\"a\""),
    ];
    let origin = origin("/a", &headers).await;
    let gateway = front(origin.address(), "{}").await;
    gateway.get("/a").await;
    let hit = gateway.get("/a").await;
    assert_eq!(
        (hit.cache_status(), hit.header("date")),
        ("HIT", Some(LONG_AGO))
    );
    let not_modified = gateway
        .send(&get("/a").header("if-none-match", "\"a\""))
        .await;
    assert_eq!(
        (not_modified.status(), not_modified.header("date")),
        (304, Some(LONG_AGO))
    );
    let part = gateway.send(&get("/a").header("range", "bytes=0-0")).await;
    assert_eq!((part.status(), part.header("date")), (206, Some(LONG_AGO)));
    // A response of the gateway itself is created now.
    let ours = gateway.get("/b").await;
    assert_ne!(ours.header("date"), Some(LONG_AGO));
}

#[tokio::test]
async fn a_304_about_another_response_changes_nothing() {
    let headers = [
        ("cache-control", "max-age=60"),
        ("etag", "\"a\""),
        ("age", "61"),
    ];
    let origin = origin("/a", &headers).await;
    let gateway = front(origin.address(), "{}").await;
    gateway.get("/a").await;
    let new_headers = [
        ("cache-control", "max-age=60"),
        ("etag", "\"b\""),
        ("x-new", "yes"),
    ];
    origin.settings().tell("/a", 304, &new_headers);
    for _ in 0..2 {
        let response = gateway.get("/a").await;
        response.assert_cached("REVALIDATED", "/a #1");
        assert_eq!(response.header("etag"), Some("\"a\""));
        assert_eq!(response.header("x-new"), None);
    }
}

#[tokio::test]
async fn a_client_that_got_a_stale_response_of_a_dead_origin_may_retry() {
    let headers = [
        ("cache-control", "max-age=60, stale-if-error=600"),
        ("age", "61"),
    ];
    let mut origin = origin("/a", &headers).await;
    let gateway = front(origin.address(), "{}").await;
    let mut connection = gateway.connect().await;
    connection.send(&get("/a")).await.unwrap();
    origin.stop();
    let stale = connection.send(&get("/a")).await.unwrap();
    stale.assert_cached("STALE", "/a #1");
    // The client learns if this connection ends.
    if stale.header("connection") != Some("close") {
        let again = connection.send(&get("/a")).await.unwrap();
        again.assert_cached("STALE", "/a #1");
    }
}

#[tokio::test]
async fn responses_that_the_origin_withdrew_are_not_served_stale() {
    let headers = [
        ("cache-control", "max-age=60, stale-while-revalidate=600"),
        ("age", "61"),
    ];
    let origin = origin("/a", &headers).await;
    let gateway = front(origin.address(), "{ client_directives: true }").await;
    gateway.get("/a").await;
    // A response that is private to one client does not remove the entry of the others.
    origin
        .settings()
        .tell("/a", 200, &[("cache-control", "private")]);
    let mine = get("/a").header("cache-control", "no-cache, no-store");
    assert_eq!(gateway.send(&mine).await.cache_status(), "EXPIRED");
    gateway.get("/a").await.assert_cached("STALE", "/a #1");
    wait_for("the private response is known", SOON, async || {
        (gateway.get("/a").await.cache_status() == "MISS").then_some(())
    })
    .await;
}

#[tokio::test]
async fn over_http2_responses_to_head_have_no_body() {
    let headers = [("cache-control", "no-store"), ("etag", "\"a\"")];
    let origin = origin("/a", &headers).await;
    let gateway = front(origin.address(), "{}").await;
    let client = http2::Client::open(gateway.address()).await;
    // Pingora removes the condition before the origin sees it; the gateway evaluates it.
    let request = |method| {
        http::Request::builder()
            .method(method)
            .uri("http://app.test/a")
    };
    let conditional = request("GET").header("if-none-match", "\"a\"");
    let response = client.send(conditional, "").await.expect("a response");
    assert_eq!((response.status(), response.text()), (304, ""));
    let response = client.send(request("HEAD"), "").await.expect("a response");
    assert_eq!((response.status(), response.text()), (200, ""));
    assert_eq!(client.get("/a").await.text(), "/a #3");
}

#[tokio::test]
async fn a_response_without_content_may_declare_a_length_and_is_stored() {
    let origin = origin("/a", MINUTE).await;
    origin.settings().tell("/a", 204, MINUTE);
    let gateway = front(origin.address(), "{}").await;
    for expected in ["MISS", "HIT", "HIT"] {
        let response = gateway.get("/a").await;
        response.assert_cached(expected, "");
        assert_eq!(response.status(), 204);
        assert_eq!(response.header("content-length"), None);
    }
}
