//! Requests that wait for the response to another one, which may be of no use to them.

use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;

use crate::support::{
    client::{self, Request, Response, get},
    front::Front,
    gateway::Gateway,
    origins::{BreakingOrigin, NumberedOrigin},
    wait::wait_for,
};

const SOON: Duration = Duration::from_secs(10);

/// Sends all requests at once.
async fn all(gateway: &Gateway, requests: impl IntoIterator<Item = Request>) -> Vec<Response> {
    let mut asked = JoinSet::new();
    for request in requests {
        let to = gateway.address();
        asked.spawn(async move { client::send(to, &request).await.expect("a response") });
    }
    asked.join_all().await
}

#[tokio::test]
async fn variants_are_fetched_side_by_side() {
    let origin = NumberedOrigin::start().await;
    let headers = [("cache-control", "max-age=60"), ("vary", "x-kind")];
    origin.settings().tell("/a", 200, &headers);
    origin.settings().slow("/a", Duration::from_millis(300));
    let gateway = Front::to(&origin)
        .route("name: app, cache: {}")
        .start()
        .await;
    let of_kind = |kind: usize| get("/a").header("x-kind", (kind % 16).to_string());
    let responses = all(&gateway, (0..32).map(of_kind)).await;
    let mut texts: Vec<String> = responses.iter().map(Response::text).collect();
    texts.sort_unstable();
    texts.dedup();
    // One response for each variant, and all but the first at once.
    assert_eq!((texts.len(), origin.settings().requests("/a")), (16, 16));
    assert!(
        origin.settings().most("/a") >= 12,
        "{}",
        origin.settings().most("/a")
    );
}

#[tokio::test]
async fn responses_that_are_always_validated_are_validated_side_by_side() {
    for control in ["max-age=0", "max-age=60, no-cache"] {
        let origin = NumberedOrigin::start().await;
        let headers = [("cache-control", control), ("etag", "\"a\"")];
        origin.settings().tell("/a", 200, &headers);
        origin.settings().slow("/a", Duration::from_millis(300));
        let gateway = Front::to(&origin)
            .route("name: app, cache: {}")
            .start()
            .await;
        for response in all(&gateway, (0..16).map(|_| get("/a"))).await {
            assert_eq!(&*response.text(), "/a #1", "{control}");
        }
        let most = origin.settings().most("/a");
        assert!(most >= 12, "{control}: {most}");
    }
}

#[tokio::test]
async fn clients_that_wait_keep_the_stale_response() {
    let origin = NumberedOrigin::start().await;
    let headers = [("cache-control", "max-age=60, stale-if-error=600")];
    origin.settings().tell("/a", 200, &headers);
    let route = "name: app, cache: { wait: 100ms }";
    let gateway = Front::to(&origin).route(route).start().await;
    gateway.get("/a").await.assert_cached("MISS", "/a #1");
    let (status, _) = gateway.purge(&json!({ "prefix": "/", "soft": true })).await;
    assert_eq!(status, 200);
    origin.settings().tell("/a", 500, &[]);
    origin.settings().slow("/a", Duration::from_millis(400));
    for response in all(&gateway, [(); 4].map(|()| get("/a"))).await {
        response.assert_cached("STALE", "/a #1");
    }
    assert!(origin.settings().most("/a") > 1, "some waited too long");
}

#[tokio::test]
async fn a_confirmed_response_that_is_gone_is_fetched_whole() {
    let origin = BreakingOrigin::start().await;
    let gateway = Front::to(&origin)
        // The second request has the place of the one before.
        .upstream("max_in_flight: { per_backend: 1, wait: 30s }")
        .route("name: app, cache: {}")
        .start()
        .await;
    let mut first = gateway.connect().await;
    let headers = first.start(&get("/gone")).await.expect("headers");
    let to = gateway.address();
    let mut second = JoinSet::new();
    second.spawn(async move { client::send(to, &get("/gone")).await.expect("a response") });
    wait_for("the second request waits", SOON, async || {
        let queued = gateway
            .count("edgeway_upstream_queue{upstream=\"app\"}")
            .await;
        (queued == 1).then_some(())
    })
    .await;
    origin.settings().break_off();
    first.finish(headers).await.expect_err("half a response");
    let responses = second.join_all().await;
    assert_eq!(
        (responses[0].status(), &*responses[0].text()),
        (200, "whole")
    );
    assert_eq!(origin.counts().requests(), 3);
}

#[tokio::test]
async fn a_body_that_breaks_off_at_once_is_replaced_by_the_stale_one() {
    let origin = BreakingOrigin::start().await;
    let gateway = Front::to(&origin)
        .route("name: app, cache: {}")
        .start()
        .await;
    gateway
        .get("/malformed")
        .await
        .assert_cached("MISS", "whole");
    gateway
        .get("/malformed")
        .await
        .assert_cached("STALE", "whole");
    assert_eq!(origin.counts().requests(), 2);
}
