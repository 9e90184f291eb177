//! An origin that is stopped: cached routes serve stale responses within their windows, and all
//! other requests get an error.

use std::{net::SocketAddr, time::Duration};

use crate::support::{
    client::Response,
    gateway::Gateway,
    origins::{NumberedOrigin, Origin},
    wait::wait_for,
};

const SOON: Duration = Duration::from_secs(10);
/// Responses that are a minute old, with the windows in which they may be served stale.
const OLD: [(&str, &str); 4] = [
    ("/revalidate", "max-age=60, stale-while-revalidate=600"),
    ("/error", "max-age=60, stale-if-error=600"),
    (
        "/late",
        "max-age=60, stale-while-revalidate=1, stale-if-error=1",
    ),
    ("/must", "max-age=60, stale-if-error=600, must-revalidate"),
];

async fn origin() -> Origin<NumberedOrigin> {
    let origin = NumberedOrigin::start().await;
    for (path, cache_control) in OLD {
        let age = if path == "/late" { "62" } else { "61" };
        let headers = [("cache-control", cache_control), ("age", age)];
        origin.settings().tell(path, 200, &headers);
    }
    let fresh = [("cache-control", "max-age=600")];
    origin.settings().tell("/fresh", 200, &fresh);
    origin.settings().tell("/plain/fresh", 200, &fresh);
    origin
}

async fn front(origin: SocketAddr, health: &str) -> Gateway {
    Gateway::start(&format!(
        "upstreams: {{ app: {{ backends: ['{origin}'], health: {health} }} }}\n\
         routes:\n\
         - {{ name: plain, match: {{ path: '/plain/*' }}, upstream: app }}\n\
         - {{ name: app, match: {{ path: '/*' }}, upstream: app, cache: {{}} }}\n"
    ))
    .await
}

fn done(response: &Response) -> (u16, Option<&str>) {
    (response.status(), response.header("x-cache-status"))
}

/// Checks that stale responses are served within their windows, and that all other requests fail.
async fn holds(gateway: &Gateway) {
    let cached = async |path: &str, cache: &str| {
        let response = gateway.get(path).await;
        assert_eq!(done(&response), (200, Some(cache)), "{path}");
        assert_eq!(response.text(), format!("{path} #1"));
    };
    for _ in 0..3 {
        cached("/fresh", "HIT").await;
        cached("/revalidate", "STALE").await;
        cached("/error", "STALE").await;
        for path in ["/late", "/must", "/new", "/plain/fresh"] {
            let response = gateway.get(path).await;
            assert_eq!(response.status(), 503, "{path}: {}", response.text());
        }
    }
}

#[tokio::test]
async fn stale_responses_are_served_within_their_window_only() {
    let mut origin = origin().await;
    let gateway = front(origin.address(), "false").await;
    let all = OLD.map(|(path, _)| path);
    for path in all.into_iter().chain(["/fresh", "/plain/fresh"]) {
        assert_eq!(gateway.get(path).await.status(), 200, "{path}");
    }
    // The control: while the origin runs, a response that is too old is fetched again.
    assert_eq!(done(&gateway.get("/late").await), (200, Some("EXPIRED")));
    origin.stop();
    holds(&gateway).await;
}

#[tokio::test]
async fn with_health_checks_everything_else_gets_503() {
    let mut origin = origin().await;
    let health = "{ path: /up, interval: 200ms, fall: 1 }";
    let gateway = front(origin.address(), health).await;
    let all = OLD.map(|(path, _)| path);
    for path in all.into_iter().chain(["/fresh", "/plain/fresh"]) {
        assert_eq!(gateway.get(path).await.status(), 200, "{path}");
    }
    origin.stop();
    wait_for("the backend is out", SOON, async || {
        (gateway.get("/plain/fresh").await.status() == 503).then_some(())
    })
    .await;
    holds(&gateway).await;
}
