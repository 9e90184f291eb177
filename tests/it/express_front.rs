//! The gateway in front of the real Express app: an API, bodies both ways, upgrades.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};

use crate::support::{
    apps::{App, ExpressApp},
    client::{Connection, Request, get, post},
    front::Front,
    gateway::Gateway,
    origins::WsOrigin,
    wait::wait_for,
};

const SOON: Duration = Duration::from_secs(5);
const MIB: u64 = 1 << 20;

async fn front(app: &App, route: &str) -> Gateway {
    let yaml = format!(
        "
upstreams:
  api:
    app: node
    backends: [\"{}\"]
    health: {{ path: /health }}
routes:
  - match: {{ path: /* }}
    upstream: api
    body_limit: 64MiB
{route}",
        app.address()
    );
    Gateway::start(&yaml).await
}

#[tokio::test]
async fn an_api_is_read_and_written_through_the_gateway() {
    let app = ExpressApp::start().await;
    let gateway = front(&app, "").await;
    let write = |method: &str, target: &str, name: &str| {
        Request::new(method, target)
            .header("content-type", "application/json")
            .body(json!({ "name": name }).to_string())
    };
    let made = gateway.send(&write("POST", "/api/items", "cup")).await;
    assert_eq!(made.status(), 201);
    assert_eq!(made.header("location"), Some("/api/items/1"));
    let changed = gateway.send(&write("PUT", "/api/items/1", "mug")).await;
    assert_eq!(changed.json(), json!({ "name": "mug", "id": 1 }));
    assert_eq!(gateway.get("/api/items/1").await.json()["name"], "mug");
    let list = gateway.get("/api/items").await;
    assert_eq!(list.header("cache-control"), Some("public, max-age=5"));

    // A copy that is still valid is not sent again.
    let tag = list
        .header("etag")
        .expect("the app tags its lists")
        .to_owned();
    let again = gateway
        .send(&get("/api/items").header("if-none-match", tag))
        .await;
    assert_eq!(again.status(), 304);

    let gone = gateway.send(&Request::new("DELETE", "/api/items/1")).await;
    assert_eq!((gone.status(), gone.body.len()), (204, 0));
    let missing = gateway.get("/api/items/1").await;
    assert_eq!(missing.status(), 404);
    assert_eq!(missing.json(), json!({ "error": "no such item" }));
    let head_response = gateway.send(&Request::new("HEAD", "/api/items")).await;
    assert_eq!((head_response.status(), head_response.body.len()), (200, 0));
    // Each write arrived once.
    assert_eq!(app.stats().await["writes"], 3);
}

#[tokio::test]
async fn targets_and_headers_reach_the_app_byte_for_byte() {
    let app = ExpressApp::start().await;
    let gateway = front(&app, "").await;
    for target in ["/echo?a=1&b=%20x&a=2", "/echo?q=%C3%A9+%2F", "/echo?"] {
        let request = get(target)
            .header("host", "shop.test")
            .header("X-Odd", "a, b;c=\"d\"");
        let seen = gateway.send(&request).await.json();
        assert_eq!(seen["url"], target);
        assert_eq!(seen["headers"]["host"], "shop.test");
        assert_eq!(seen["headers"]["x-odd"], "a, b;c=\"d\"");
        assert_eq!(seen["headers"]["x-forwarded-for"], "127.0.0.1");
    }
}

#[tokio::test]
async fn uploads_arrive_complete_with_a_length_and_in_chunks() {
    let app = ExpressApp::start().await;
    let gateway = front(&app, "").await;
    let sized = gateway.send(&post("/upload", "").filler(20 * MIB)).await;
    assert_eq!(sized.json()["bytes"], 20 * MIB);
    assert_eq!(sized.json()["chunked"], false);
    let chunked = gateway
        .send(&post("/upload", "").filler_chunked(20 * MIB))
        .await;
    assert_eq!(chunked.json()["bytes"], 20 * MIB);
    assert_eq!(chunked.json()["chunked"], true);
    // The control: beyond the route's limit neither kind is accepted, and neither ends as if
    // complete.
    let before = app.stats().await["uploadedBytes"].as_u64().unwrap();
    let sized = gateway.send(&post("/upload", "").filler(65 * MIB)).await;
    assert_eq!(sized.status(), 413);
    assert_eq!(app.stats().await["uploadedBytes"], before);
    let chunked = gateway
        .send(&post("/upload", "").filler_chunked(65 * MIB))
        .await;
    assert_eq!(chunked.status(), 413);
}

#[tokio::test]
async fn an_upload_passes_while_it_is_being_sent() {
    let app = ExpressApp::start().await;
    let gateway = front(&app, "").await;
    let mut client = Connection::open(gateway.address()).await.unwrap();
    client
        .write("POST /upload HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        .await
        .unwrap();
    for sent in 1..=3_u64 {
        client.write_chunk(&[b'x'; 1000]).await.unwrap();
        wait_for("the app has the piece", SOON, async || {
            (app.stats().await["uploadedBytes"] == 1000 * sent).then_some(())
        })
        .await;
    }
    client.write("0\r\n\r\n").await.unwrap();
    let headers = client.read_headers().await.unwrap();
    assert_eq!(client.finish(headers).await.unwrap().json()["bytes"], 3000);

    // The control: a client that disconnects midway does not count as finished.
    let mut client = Connection::open(gateway.address()).await.unwrap();
    client
        .write("POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 5000\r\n\r\nonly this")
        .await
        .unwrap();
    wait_for("the app has the piece", SOON, async || {
        (app.stats().await["uploadedBytes"] == 3009).then_some(())
    })
    .await;
    drop(client);
    wait_for("the app's upload was truncated", SOON, async || {
        (app.stats().await["cutUploads"] == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_gets_it() {
    let app = ExpressApp::start().await;
    let gateway = front(&app, "").await;
    let head = |length: u64| {
        format!(
            "POST /upload HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
        )
    };
    let mut client = Connection::open(gateway.address()).await.unwrap();
    client.write(head(5)).await.unwrap();
    assert_eq!(client.read_interim().await.unwrap(), 100);
    client.write("12345").await.unwrap();
    let response = client.read_headers().await.unwrap();
    assert_eq!(response.status, 200);
    assert_eq!(client.finish(response).await.unwrap().json()["bytes"], 5);

    // The control: a body that is too long is refused before a byte of it is sent.
    let mut client = Connection::open(gateway.address()).await.unwrap();
    client.write(head(65 * MIB)).await.unwrap();
    assert_eq!(client.read_response().await.unwrap().status(), 413);
}

#[tokio::test]
async fn an_upload_that_grows_too_long_after_its_100_continue_gets_413() {
    let app = ExpressApp::start().await;
    let refused = async |limit: &str| {
        let gateway = Front::to(&app)
            .upstream("app: node")
            .route(&format!("body_limit: {limit}"))
            .start()
            .await;
        let mut client = Connection::open(gateway.address()).await.unwrap();
        let head = "POST /upload HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ntransfer-encoding: chunked\r\n\r\n";
        client.write(head).await.unwrap();
        assert_eq!(client.read_interim().await.unwrap(), 100);
        client.write_chunk(&[b'x'; 2000]).await.unwrap();
        client.write_chunk(b"").await.unwrap();
        client.read_response().await.unwrap().status()
    };
    assert_eq!(refused("1000B").await, 413);
    // The control: below the limit it arrives.
    assert_eq!(refused("1MiB").await, 200);
}

const SOCKETS: &str = "    websocket: true\n";

async fn socket(gateway: &Gateway) -> WebSocketStream<tokio::net::TcpStream> {
    let largest = Some(64 << 20);
    let config = WebSocketConfig::default()
        .max_message_size(largest)
        .max_frame_size(largest);
    let stream = gateway.connect().await.into_stream();
    let (socket, _) = client_async_with_config("ws://shop.test/ws", stream, Some(config))
        .await
        .expect("the gateway passes the upgrade");
    socket
}

async fn echo(socket: &mut WebSocketStream<tokio::net::TcpStream>, message: Message) {
    let length = message.len();
    let sent = socket.send(message.clone()).await;
    sent.expect("the socket takes a message");
    let back = tokio::time::timeout(Duration::from_secs(20), socket.next()).await;
    let back = back
        .expect("an echo comes")
        .expect("the socket is open")
        .expect("the frame is complete");
    assert!(back == message, "{length} bytes came back changed");
}

#[tokio::test]
async fn websocket_messages_pass_both_ways_however_large() {
    let app = ExpressApp::start().await;
    let gateway = front(&app, SOCKETS).await;
    let mut socket = socket(&gateway).await;
    echo(&mut socket, Message::text("hello")).await;
    echo(&mut socket, Message::binary(vec![7; 200_000])).await;
    echo(&mut socket, Message::binary(vec![9; 16 << 20])).await;
    echo(&mut socket, Message::text("and on")).await;
    assert_eq!(app.stats().await["openSockets"], 1);

    // Whichever side closes it, both sides learn of it.
    socket.close(None).await.unwrap();
    wait_for("the app's socket has ended", SOON, async || {
        (app.stats().await["closedSockets"] == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_end_of_one_websocket_peer_reaches_the_other() {
    let mut app = ExpressApp::start().await;
    let gateway = front(&app, SOCKETS).await;
    let mut left = socket(&gateway).await;
    echo(&mut left, Message::text("a")).await;
    drop(left);
    wait_for("the app's socket has ended", SOON, async || {
        (app.stats().await["closedSockets"] == 1).then_some(())
    })
    .await;

    let mut stays = socket(&gateway).await;
    echo(&mut stays, Message::text("b")).await;
    app.kill();
    let end = tokio::time::timeout(SOON, stays.next())
        .await
        .expect("the end is passed on");
    assert!(
        !matches!(end, Some(Ok(Message::Text(_) | Message::Binary(_)))),
        "{end:?}"
    );
}

#[tokio::test]
async fn upgrades_pass_only_where_a_route_allows_them() {
    let origin = WsOrigin::start().await;
    let yaml = |websocket: bool| {
        Front::to(&origin)
            .route(&format!("websocket: {websocket}"))
            .yaml()
    };
    let closed = Gateway::start(&yaml(false)).await;
    let stream = closed.connect().await.into_stream();
    assert!(
        client_async_with_config("ws://a/ws", stream, None)
            .await
            .is_err()
    );
    assert_eq!((origin.tried(), origin.opened()), (0, 0));
    // The control.
    let open = Gateway::start(&yaml(true)).await;
    let mut socket = socket(&open).await;
    echo(&mut socket, Message::text("x")).await;
    assert_eq!(origin.opened(), 1);
}
