//! Stored responses after a reload.

use std::{fs, time::Duration};

use crate::support::{client::get, front::Front, origins::NumberedOrigin, wait::wait_for};

/// Seconds for which a hit is fresh, by `Cache-Status`.
fn ttl(response: &crate::support::client::Response) -> u64 {
    let status = response.header("cache-status").unwrap_or_default();
    let (_, ttl) = status.split_once("ttl=").expect("it is a hit");
    ttl.parse().expect("it is a number")
}

/// Invariant: times that come from the route are those of the configuration that serves.
#[tokio::test]
async fn times_of_the_route_change_with_a_reload_and_those_of_the_origin_do_not() {
    let origin = NumberedOrigin::start().await;
    let tagged = [("etag", "\"a\"")];
    origin
        .settings()
        .tell("/own", 200, &[("cache-control", "max-age=900")]);
    origin.settings().tell("/route", 200, &tagged);
    let front = |ttl: &str| Front::to(&origin).route(&format!("cache: {{ ttl: {ttl} }}"));
    let gateway = front("1h").start().await;
    for path in ["/own", "/route"] {
        gateway.get(path).await;
    }
    for (written, least, most) in [("2min", 60, 120), ("2h", 7_000, 7_200)] {
        assert!(gateway.reload(&front(written).yaml()).await);
        // They change after the switch.
        wait_for("the new time", Duration::from_secs(10), async || {
            let left = ttl(&gateway.get("/route").await);
            (least..=most).contains(&left).then_some(())
        })
        .await;
        assert!((600..=900).contains(&ttl(&gateway.get("/own").await)));
    }
}

/// Invariant: `compression` of the route that sends a stored response decides, not that of the one
/// that stored it.
#[tokio::test]
async fn a_stored_response_is_compressed_as_its_route_says() {
    let origin = NumberedOrigin::start().await;
    let html = [
        ("cache-control", "max-age=900"),
        ("content-type", "text/html"),
    ];
    for path in ["/narrowed", "/widened"] {
        origin.settings().tell(path, 200, &html);
        origin.settings().pad(path, 20_000);
    }
    let front = |types: &str| {
        let gzip = format!("cache: {{}}, compression: {{ encodings: [gzip]{types} }}");
        Front::to(&origin).route(&gzip)
    };
    let json = front(", types: [application/json]");
    let gateway = json.start().await;
    let is_gzip = async |path: &str| {
        let response = gateway
            .send(&get(path).header("accept-encoding", "gzip"))
            .await;
        response.header("content-encoding").is_some()
    };
    assert!(!is_gzip("/widened").await);
    assert!(gateway.reload(&front("").yaml()).await);
    assert!(is_gzip("/widened").await);
    for _ in 0..5 {
        assert!(is_gzip("/narrowed").await);
    }
    assert!(gateway.reload(&json.yaml()).await);
    assert!(!is_gzip("/narrowed").await);
    assert!(!is_gzip("/widened").await);
    assert_eq!(origin.settings().requests("/narrowed"), 1);
    assert_eq!(origin.settings().requests("/widened"), 1);
}

/// Invariant: what a plugin stored is served only as long as its code is the same.
#[tokio::test]
async fn changed_code_of_a_plugin_stores_again() {
    let origin = NumberedOrigin::start().await;
    let minute = [("cache-control", "max-age=900")];
    origin.settings().tell("/a", 200, &minute);
    let code = |text: &str| {
        format!("export function onUpstreamResponse(r) {{ r.headers.set('x-p', '{text}') }}")
    };
    let yaml = Front::to(&origin)
        .route("cache: {}, plugins: [{ file: p.js, on_error: continue }]")
        .yaml();
    let gateway = crate::support::gateway::Gateway::start_in(&yaml, |folder| {
        fs::write(folder.join("p.js"), code("one")).expect("there is room");
    })
    .await;
    gateway.get("/a").await;
    assert!(gateway.reload(&yaml).await);
    let kept = gateway.get("/a").await;
    assert_eq!(
        (kept.cache_status(), kept.header("x-p")),
        ("HIT", Some("one"))
    );
    fs::write(gateway.folder().join("p.js"), code("two")).expect("there is room");
    assert!(gateway.reload(&yaml).await);
    let new = gateway.get("/a").await;
    assert_eq!(
        (new.cache_status(), new.header("x-p")),
        ("MISS", Some("two"))
    );
}

/// Invariant: a response that a hook failed to handle is for the client of its request alone, and
/// changes nothing that is stored.
#[tokio::test]
async fn what_a_hook_failed_to_handle_is_not_stored() {
    let origin = NumberedOrigin::start().await;
    let headers = [
        ("cache-control", "max-age=3"),
        ("etag", "\"a\""),
        ("x-internal", "secret"),
    ];
    origin.settings().tell("/a", 200, &headers);
    let code = "export function onRequest() {}
    export function onUpstreamResponse(r, ctx) {
        if (ctx.request.headers.get('x-do') === 'throw') throw new Error('x');
        if (ctx.request.headers.get('x-do') === 'loop') for (;;) {}
        r.headers.delete('x-internal');
    }";
    let yaml = Front::to(&origin)
        .route("cache: {}, plugins: [{ file: p.js, on_error: refuse }]")
        .yaml();
    let gateway = crate::support::gateway::Gateway::start_in(&yaml, |folder| {
        fs::write(folder.join("p.js"), code).expect("there is room");
    })
    .await;
    let failing = async |how: &str| {
        let response = gateway.send(&get("/a").header("x-do", how)).await;
        assert_eq!(response.header("x-internal"), Some("secret"));
        let status = response.header("cache-status").unwrap_or_default();
        assert!(status.contains("detail=plugin_failed"), "{status}");
    };
    failing("throw").await;
    failing("loop").await;
    let first = gateway.get("/a").await;
    assert_eq!(
        (first.cache_status(), first.header("x-internal")),
        ("MISS", None)
    );
    assert_eq!(gateway.get("/a").await.cache_status(), "HIT");
    // A 304 that the hook does not see renews nothing.
    wait_for(
        "the response is stale",
        Duration::from_secs(10),
        async || {
            let response = gateway
                .send(&get("/a").header("cache-control", "only-if-cached"))
                .await;
            (response.status() == 504).then_some(())
        },
    )
    .await;
    failing("throw").await;
    let next = gateway.get("/a").await;
    assert_eq!(
        (next.cache_status(), next.header("x-internal")),
        ("REVALIDATED", None)
    );
}

/// Invariant: with `vary: false`, the origin's own `Vary` stays and the cache adds none.
#[tokio::test]
async fn a_hidden_vary_takes_nothing_from_the_origin() {
    let origin = NumberedOrigin::start().await;
    let html = [
        ("cache-control", "max-age=900"),
        ("content-type", "text/html"),
    ];
    let varying = [html[0], html[1], ("vary", "Accept-Encoding")];
    origin.settings().tell("/plain", 200, &html);
    origin.settings().tell("/varies", 200, &varying);
    for path in ["/plain", "/varies"] {
        origin.settings().pad(path, 20_000);
    }
    let gateway = Front::to(&origin)
        .route("cache: {}, compression: { encodings: [gzip], vary: false }")
        .start()
        .await;
    for accepted in ["identity", "gzip", "gzip", "identity", "gzip", "gzip"] {
        for (path, vary) in [("/plain", None), ("/varies", Some("Accept-Encoding"))] {
            let request = get(path).header("accept-encoding", accepted);
            let response = gateway.send(&request).await;
            assert_eq!(response.header("vary"), vary, "{path} {accepted}");
        }
    }
}

/// Invariant: only what is stored is compared by its `Date`.
#[tokio::test]
async fn a_response_that_is_never_stored_is_sent_whole() {
    let origin = NumberedOrigin::start().await;
    let date = ("date", "Thu, 01 Jan 2015 08:00:00 GMT");
    origin
        .settings()
        .tell("/never", 200, &[("cache-control", "no-store"), date]);
    origin
        .settings()
        .tell("/dated", 200, &[("cache-control", "max-age=900"), date]);
    let gateway = Front::to(&origin).route("cache: {}").start().await;
    let since = "Thu, 01 Jan 2026 08:00:00 GMT";
    for path in ["/never", "/dated"] {
        gateway.get(path).await;
    }
    let send = async |path| {
        gateway
            .send(&get(path).header("if-modified-since", since))
            .await
    };
    assert_eq!(send("/never").await.status(), 200);
    // The control.
    assert_eq!(send("/dated").await.status(), 304);
}
