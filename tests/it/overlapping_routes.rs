//! Guards of routes that a request to another route may belong to: by another spelling of its path,
//! or by another one of several values.

use serde_json::Value;

use crate::support::{
    client::{Request, get, post},
    gateway::Gateway,
    origins::EchoOrigin,
};

/// Guard that admits no client of these tests.
const CLOSED: &str = "access: { allow: [10.0.0.0/8] }";

async fn front(upstreams: &[(&str, std::net::SocketAddr)], routes: &str) -> Gateway {
    let upstreams: Vec<String> = upstreams
        .iter()
        .map(|(name, address)| {
            format!("  {name}: {{ backends: [\"{address}\"], health: false }}\n")
        })
        .collect();
    let upstreams = upstreams.concat();
    Gateway::start(&format!(
        "listeners: [{{ address: 127.0.0.1:0 }}]\n\
         rate_limits: {{ few: {{ rate: 2/h, burst: 2 }} }}\nupstreams:\n{upstreams}routes:\n{routes}"
    ))
    .await
}

/// Returns the status, and the target that the app received, if any.
async fn ask(gateway: &Gateway, request: &Request) -> (u16, Option<String>) {
    let response = gateway.send(request).await;
    let got = (response.status() == 200).then(|| {
        let echo: Value = response.json();
        echo["target"].as_str().unwrap_or_default().to_owned()
    });
    (response.status(), got)
}

#[tokio::test]
async fn another_value_bypasses_no_guard() {
    let app = EchoOrigin::start().await;
    let gateway = front(
        &[("app", app.address())],
        &format!(
            "- {{ match: {{ path: /doc, query: {{ view: public }} }}, upstream: app }}
- {{ match: {{ path: /doc }}, upstream: app, {CLOSED} }}
- {{ match: {{ path: /plan, cookie: {{ plan: free }} }}, upstream: app }}
- {{ match: {{ path: /plan }}, upstream: app, {CLOSED} }}
"
        ),
    )
    .await;
    for (path, cookie, status) in [
        ("/doc?view=public", "", 200),
        ("/doc?view=secret", "", 403),
        ("/doc?view=public&view=secret", "", 403),
        ("/doc?view=secret&view=public", "", 403),
        ("/plan", "plan=free", 200),
        ("/plan", "plan=gold", 403),
        ("/plan", "plan=free; plan=gold", 403),
    ] {
        let mut request = get(path);
        if !cookie.is_empty() {
            request = request.header("cookie", cookie);
        }
        let (got, _) = ask(&gateway, &request).await;
        assert_eq!(got, status, "{path} {cookie}");
    }
}

/// Invariant: what a route got for the clients that it admits is for no other route.
#[tokio::test]
async fn no_stored_response_leads_around_a_guard() {
    let app = EchoOrigin::start().await;
    let admits = "access: { deny: [10.0.0.0/8] }, cache: { ttl: 1min }";
    let gateway = front(
        &[("app", app.address())],
        &format!(
            "- {{ match: {{ path: /plan, header: {{ X-Kind: gold }} }}, upstream: app, {admits} }}
- {{ match: {{ path: /plan }}, upstream: app, cache: {{ ttl: 1min }} }}
- {{ match: {{ path: /draft, header: {{ X-Open: '1' }} }}, upstream: app, cache: {{ ttl: 1min }} }}
- {{ match: {{ path: /draft }}, upstream: app, {admits} }}
"
        ),
    )
    .await;
    for (path, name, value) in [("/plan", "x-kind", "gold"), ("/draft", "x-open", "1")] {
        let other = get(path).header(name, value);
        for expected in ["MISS", "HIT"] {
            for request in [&other, &get(path)] {
                let response = gateway.send(request).await;
                assert_eq!(response.cache_status(), expected, "{request:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_redirect_on_an_overlapping_route_hides_no_guard() {
    let app = EchoOrigin::start().await;
    let gateway = front(
        &[("app", app.address())],
        &format!(
            "- {{ match: {{ path: /* }}, upstream: app }}
- {{ match: {{ path: /docs/* }}, upstream: app, {CLOSED} }}
- {{ match: {{ path: /docs }}, redirect: {{ to: /docs/ }} }}
"
        ),
    )
    .await;
    for path in ["/docs/", "/DOCS/", "/DOCS", "/docs;x/", "/doc%2573/"] {
        assert_eq!(ask(&gateway, &get(path)).await.0, 403, "{path}");
    }
    assert_eq!(gateway.get("/docs").await.status(), 307);
    assert_eq!(ask(&gateway, &get("/Docs2")).await.0, 200);
}

#[tokio::test]
async fn no_spelling_reaches_an_upstream_that_its_path_does_not_lead_to() {
    let (web, internal) = (EchoOrigin::start().await, EchoOrigin::start().await);
    let gateway = front(
        &[("web", web.address()), ("internal", internal.address())],
        "- { match: { path: /* }, upstream: web, headers: { response: { set: { X-From: web } } } }
- { match: { path: /api/* }, upstream: internal, in_flight: 10, rewrite: { prefix: /api, with: /public }, headers: { response: { set: { X-From: internal } } } }
",
    )
    .await;
    for (path, from, seen) in [
        ("/api/x", "internal", "/public/x"),
        ("/API/x", "web", "/API/x"),
        ("/a/%252e%252e/api/x", "web", "/a/%252e%252e/api/x"),
    ] {
        let response = gateway.get(path).await;
        assert_eq!(response.header("x-from"), Some(from), "{path}");
        let echo: Value = response.json();
        assert_eq!(echo["target"], seen, "{path}");
    }
}

#[tokio::test]
async fn limits_of_the_received_path_and_of_its_interpretations_count() {
    let app = EchoOrigin::start().await;
    let gateway = front(
        &[("app", app.address())],
        "- { match: { path: /* }, upstream: app, body_limit: 1kB }
- { match: { path: /upload/* }, upstream: app, body_limit: 10MB }
- { match: { path: /few/* }, upstream: app, rate_limit: few }
- { match: { path: /own/* }, upstream: app, body_limit: 1kB, in_flight: 3 }
- { match: { path: /beside/* }, upstream: app, body_limit: 1kB, in_flight: 3, rewrite: { with: /x } }
",
    )
    .await;
    let large = "x".repeat(100_000);
    for (path, status) in [
        ("/profile/x", 413),
        ("/upload/x", 200),
        ("/UPLOAD/x", 413),
        ("/profile/%252e%252e/upload", 413),
    ] {
        let response = gateway.send(&post(path, large.clone())).await;
        assert_eq!(response.status(), status, "{path}");
    }
    let chunked = Request::new("POST", "/UPLOAD/x").chunks(["hello"]);
    assert_eq!(gateway.send(&chunked).await.status(), 411);
    // Requests that a limit beside the route's own has counted.
    let statuses = ["/few/a", "/FEW/a", "/FEW/b", "/Few/c", "/few/b"];
    let mut seen = Vec::new();
    for path in statuses {
        seen.push(gateway.get(path).await.status());
    }
    assert_eq!(seen, [200, 200, 429, 429, 429]);
    // A place is returned when its request is over.
    for path in ["/OWN/x", "/BESIDE/x"] {
        for _ in 0..10 {
            assert_eq!(gateway.get(path).await.status(), 200, "{path}");
        }
    }
}
