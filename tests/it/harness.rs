//! The harness without a gateway: the client reports of an origin exactly what the origin did. The
//! end-to-end tests rely on each of these.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::{client_async, tungstenite::Message};

use crate::support::{
    apps::{ExpressApp, NextApp},
    client::{self, Connection, Request, get, post},
    origins::{
        BigOrigin, ClosingOrigin, DripOrigin, EchoOrigin, Failure, FlappingOrigin, MARK,
        ResettingOrigin, SlowOrigin, SseOrigin, WsOrigin,
    },
    wait::{pass, wait_for},
};

const SOON: Duration = Duration::from_secs(5);

#[tokio::test]
async fn an_echo_reports_what_was_sent() {
    let origin = EchoOrigin::start().await;
    let mut connection = Connection::open(origin.address()).await.unwrap();
    for turn in 0..3 {
        let request = post("/a?b=c", "12345")
            .header("X-One", "1")
            .header(MARK, "m");
        let echo = connection.send(&request).await.unwrap().json();
        assert_eq!(echo["method"], "POST");
        assert_eq!(echo["target"], "/a?b=c");
        assert_eq!(echo["length"], 5);
        assert_eq!(echo["headers"][1], serde_json::json!(["X-One", "1"]));
        assert_eq!(origin.counts().times("m"), turn + 1);
    }
    let chunked = Request::new("PUT", "/").chunks(["123", "4567"]);
    assert_eq!(connection.send(&chunked).await.unwrap().json()["length"], 7);
    let head_response = connection.send(&Request::new("HEAD", "/")).await.unwrap();
    assert_eq!((head_response.status(), head_response.body.len()), (200, 0));
    assert_eq!(origin.counts().connections(), 1);
    assert_eq!(origin.counts().requests(), 5);
}

#[tokio::test]
async fn pieces_of_a_body_carry_the_moment_they_came() {
    let origin = DripOrigin::start(Duration::from_millis(100)).await;
    let response = client::send(origin.address(), &get("/")).await.unwrap();
    let times: Vec<Duration> = ["piece-0", "piece-1", "piece-2"]
        .map(|piece| response.arrival_of(piece).unwrap())
        .into();
    assert!(
        times[1].saturating_sub(times[0]) >= Duration::from_millis(60),
        "{times:?}"
    );
    assert!(
        times[2].saturating_sub(times[1]) >= Duration::from_millis(60),
        "{times:?}"
    );
    assert_eq!(response.arrival_of("piece-3"), None);
}

#[tokio::test]
async fn large_bodies_are_counted_both_ways() {
    let origin = BigOrigin::start().await;
    let mut connection = Connection::open(origin.address()).await.unwrap();
    for target in ["/?bytes=3000000", "/?bytes=3000000&chunked=1"] {
        let response = connection.send(&get(target)).await.unwrap();
        assert_eq!(response.body.len(), 3_000_000);
    }
    for upload in [
        post("/", "").filler(3_000_000),
        post("/", "").filler_chunked(3_000_000),
    ] {
        let response = connection.send(&upload).await.unwrap();
        assert_eq!(response.json()["bytes"], 3_000_000);
    }
}

#[tokio::test]
async fn each_failure_is_distinguished() {
    let fails = async |failure| {
        let origin = ResettingOrigin::start(failure).await;
        assert_eq!(
            client::send(origin.address(), &get("/health"))
                .await
                .unwrap()
                .status(),
            200
        );
        client::send(origin.address(), &get("/")).await
    };
    let reset = fails(Failure::ResetBeforeResponse).await.unwrap_err();
    assert!(!reset.is_truncated(), "{reset}");
    let in_body = fails(Failure::ResetInBody).await.unwrap_err();
    assert!(in_body.is_truncated(), "{in_body}");
    let in_chunks = fails(Failure::EndInChunks).await.unwrap_err();
    assert!(in_chunks.is_truncated(), "{in_chunks}");
    assert_eq!(fails(Failure::Status(503)).await.unwrap().status(), 503);
}

#[tokio::test]
async fn a_flapping_origin_fails_on_demand() {
    let origin = FlappingOrigin::start().await;
    let ask = async || client::send(origin.address(), &get("/")).await;
    assert_eq!(ask().await.unwrap().status(), 200);
    origin.settings().fail(Failure::ResetBeforeResponse);
    assert!(ask().await.is_err());
    origin.settings().recover();
    assert_eq!(ask().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_stopped_origin_refuses_and_comes_back_on_its_port() {
    let mut origin = SlowOrigin::start(Duration::ZERO).await;
    let mut open = Connection::open(origin.address()).await.unwrap();
    assert_eq!(open.send(&get("/")).await.unwrap().status(), 200);
    origin.stop();
    assert!(open.is_closed().await);
    wait_for("connections are refused", SOON, async || {
        Connection::open(origin.address()).await.err()
    })
    .await;
    origin.resume().await;
    let response = client::send(origin.address(), &get("/")).await.unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn idle_connections_are_closed_and_counted() {
    let origin = ClosingOrigin::start(Duration::from_millis(200)).await;
    let mut connection = Connection::open(origin.address()).await.unwrap();
    for _ in 0..3 {
        connection.send(&get("/")).await.unwrap();
        pass(Duration::from_millis(50)).await;
    }
    assert_eq!(origin.settings().closed(), 0);
    assert!(connection.is_closed().await);
    assert_eq!(origin.settings().closed(), 1);
}

#[tokio::test]
async fn a_feed_that_is_left_is_counted() {
    let origin = SseOrigin::start(Duration::from_millis(50)).await;
    let mut connection = Connection::open(origin.address()).await.unwrap();
    connection.start(&get("/")).await.unwrap();
    connection.piece().await.unwrap().unwrap();
    assert_eq!(origin.counts().cancelled(), 0);
    connection.leave("leaving is what is tested");
    wait_for("the origin noticed", SOON, async || {
        (origin.counts().cancelled() == 1).then_some(())
    })
    .await;
    let ended = client::send(origin.address(), &get("/?events=2"))
        .await
        .unwrap();
    assert!(ended.text().ends_with("data: event-1\n\n"));
    assert_eq!(origin.counts().cancelled(), 1);
}

#[tokio::test]
async fn websocket_messages_come_back() {
    let origin = WsOrigin::start().await;
    let connection = Connection::open(origin.address()).await.unwrap();
    let (mut socket, _) = client_async("ws://test/ws", connection.into_stream())
        .await
        .unwrap();
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(
        socket.next().await.unwrap().unwrap(),
        Message::text("hello")
    );
    assert_eq!((origin.opened(), origin.closed()), (1, 0));
    drop(socket);
    wait_for("the origin noticed", SOON, async || {
        (origin.closed() == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn apps_come_back_on_their_port_after_a_kill() {
    let mut app = ExpressApp::start().await;
    let before = app.stats().await["pid"].clone();
    app.kill();
    assert!(client::send(app.address(), &get("/")).await.is_err());
    app.restart().await;
    assert_ne!(app.stats().await["pid"], before);

    let next = NextApp::shared().await;
    let hello = next.get("/api/hello").await;
    assert_eq!(hello.json()["instance"]["port"], next.port());
}
