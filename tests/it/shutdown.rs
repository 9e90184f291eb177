//! Shutdown: requests in flight are finished, and the process exits as soon as no connection is
//! left.

use std::time::Duration;

use futures_util::StreamExt;
use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    client::Connection,
    front::Front,
    gateway::Gateway,
    origins::{Origin, SlowOrigin, WsOrigin},
    sockets,
    wait::{pass, wait_for},
};

const SOON: Duration = Duration::from_secs(15);

async fn slow_front(delay: Duration, more: &str) -> (Origin<SlowOrigin>, Gateway) {
    let origin = SlowOrigin::start(delay).await;
    let gateway = Front::to(&origin).with(more).start().await;
    (origin, gateway)
}

/// Opens a connection whose request has reached the origin.
async fn busy(gateway: &Gateway, origin: &Origin<SlowOrigin>) -> Connection {
    let mut connection = gateway.connect().await;
    connection
        .write("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .expect("the connection is open");
    wait_for("the origin has the request", SOON, async || {
        (origin.counts().requests() > 0).then_some(())
    })
    .await;
    connection
}

#[tokio::test]
async fn a_request_in_flight_is_finished_and_the_process_then_exits_at_once() {
    let (origin, mut gateway) = slow_front(Duration::from_millis(2500), "").await;
    let mut busy = busy(&gateway, &origin).await;
    let mut idle = gateway.connect().await;
    let begun = Instant::now();
    let address = gateway.address();
    // As nginx is stopped gracefully.
    gateway.signal(Signal::QUIT);
    wait_for("new connections are refused", SOON, async || {
        Connection::open(address).await.is_err().then_some(())
    })
    .await;
    let ready = gateway.admin_get("/readyz").await;
    assert_eq!(ready.status(), 503);
    assert!(ready.text().contains("draining"), "{}", ready.text());
    // A connection without a request is closed after `idle`.
    assert!(idle.is_closed().await);
    let response = busy.read_headers().await.unwrap();
    assert_eq!(response.status, 200);
    assert_eq!(response.header("connection"), Some("close"));
    busy.finish(response).await.unwrap();
    let status = gateway.terminate(SOON).await;
    assert!(status.success(), "{status}");
    let took = begun.elapsed();
    assert!(took < SOON, "{took:?}");
}

#[tokio::test]
async fn an_idle_gateway_exits_at_once() {
    let (_origin, mut gateway) = slow_front(Duration::ZERO, "").await;
    let begun = Instant::now();
    assert!(gateway.terminate(SOON).await.success());
    assert!(begun.elapsed() < SOON);
}

#[tokio::test]
async fn balancers_in_front_are_notified_before_any_request_is_refused() {
    let (_origin, mut gateway) = slow_front(Duration::ZERO, "drain: { announce: 5s }").await;
    let begun = Instant::now();
    gateway.signal(Signal::TERM);
    wait_for("it is not ready", SOON, async || {
        (gateway.admin_get("/readyz").await.status() == 503).then_some(())
    })
    .await;
    assert_eq!(gateway.get("/").await.status(), 200);
    assert!(
        begun.elapsed() < Duration::from_millis(4900),
        "too slow to tell"
    );
    let status = wait_for("it has left", SOON, async || gateway.ended()).await;
    assert!(status.success());
    assert!(begun.elapsed() >= Duration::from_secs(5));
}

#[tokio::test]
async fn requests_that_outlive_the_deadline_are_closed() {
    // However often connections without a request are looked for.
    for idle in ["100ms", "1us"] {
        let drain = format!("drain: {{ idle: {idle}, deadline: 700ms }}");
        let (origin, mut gateway) = slow_front(Duration::from_secs(20), &drain).await;
        let mut busy = busy(&gateway, &origin).await;
        let begun = Instant::now();
        assert!(gateway.terminate(SOON).await.success());
        assert!(begun.elapsed() >= Duration::from_millis(700));
        assert!(busy.read_headers().await.is_err());
    }
}

/// The gateway's own end of a connection is not a client's that sends no more and still reads.
#[tokio::test]
async fn a_stream_that_says_nothing_ends_at_the_deadline_and_is_logged() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let backend = listener.local_addr().expect("an address");
    let yaml = Front::to(backend)
        .with("drain: { idle: 100ms, deadline: 700ms }")
        .yaml();
    let mut gateway = Gateway::start(&yaml).await;
    let mut client = gateway.connect().await;
    let request = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    client.write(request).await.expect("the connection is open");
    let (mut app, _) = listener.accept().await.expect("the gateway connects");
    let start = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
        transfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n";
    app.write_all(start).await.expect("the gateway reads");
    let response = client.read_headers().await.unwrap();
    assert_eq!(response.status, 200);
    assert!(gateway.terminate(SOON).await.success());
    assert!(client.finish(response).await.is_err());
    let lines = gateway.log_lines(1).await;
    assert_eq!(lines[0]["reason"], "going_away", "{lines:?}");
    let messages = gateway.stderr();
    assert!(!messages.contains("connections abandoned"), "{messages}");
}

#[tokio::test]
async fn a_second_signal_ends_the_drain() {
    let (origin, mut gateway) = slow_front(Duration::from_secs(20), "").await;
    let _busy = busy(&gateway, &origin).await;
    gateway.signal(Signal::TERM);
    // The control: the first signal alone waits for the request.
    pass(Duration::from_millis(1500)).await;
    assert!(gateway.ended().is_none());
    let begun = Instant::now();
    assert!(gateway.terminate(SOON).await.success());
    assert!(begun.elapsed() < SOON);
}

const WEBSOCKET: &str = "GET /ws HTTP/1.1\r\nhost: shop.test\r\nconnection: upgrade\r\n\
    upgrade: websocket\r\nsec-websocket-version: 13\r\n\
    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

fn websocket_front(backend: std::net::SocketAddr) -> String {
    Front::to(backend)
        .with("drain: { idle: 200ms, deadline: 1s }")
        .route("websocket: true")
        .yaml()
}

#[tokio::test]
async fn websockets_get_a_close_frame_at_the_deadline() {
    let origin = WsOrigin::start().await;
    let mut gateway = Gateway::start(&websocket_front(origin.address())).await;
    let mut open = sockets::open_many(gateway.address(), 8).await;
    assert_eq!(sockets::alive(&mut open).await, 8);
    let begun = Instant::now();
    gateway.signal(Signal::TERM);
    for socket in &mut open {
        let message = socket
            .next()
            .await
            .expect("it is reported")
            .expect("a frame");
        let Message::Close(Some(close)) = message else {
            panic!("no close frame: {message:?}");
        };
        assert_eq!(u16::from(close.code), 1001);
        // It was alive until then.
        assert!(begun.elapsed() > Duration::from_millis(900));
    }
    drop(open);
    // One signal only: a second one would end the drain at once.
    let status = gateway.leaves(SOON).await;
    assert!(status.success(), "{status}");
    let took = begun.elapsed();
    assert!(took < SOON, "{took:?}");
    let lines = gateway.log_lines(8).await;
    assert!(
        lines.iter().all(|line| line["reason"] == "going_away"),
        "{lines:?}"
    );
}

#[tokio::test]
async fn a_websocket_within_a_frame_is_closed_without_a_forged_frame() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut gateway = Gateway::start(&websocket_front(listener.local_addr().unwrap())).await;
    let mut client = TcpStream::connect(gateway.address()).await.unwrap();
    client.write_all(WEBSOCKET.as_bytes()).await.unwrap();
    let (mut backend, _) = listener.accept().await.unwrap();
    let mut head = [0; 4096];
    assert!(backend.read(&mut head).await.unwrap() > 0);
    let switch = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
        upgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    backend.write_all(switch).await.unwrap();
    // A frame of a mebibyte, of which only the beginning arrives.
    let frame = [&[0x82, 127, 0, 0, 0, 0, 0, 0x10, 0, 0][..], &[b'x'; 1000]].concat();
    backend.write_all(&frame).await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(&frame) {
        assert!(client.read_buf(&mut seen).await.unwrap() > 0);
    }
    let begun = seen.len();
    gateway.signal(Signal::TERM);
    // A reset ends the connection as well.
    drop(client.read_to_end(&mut seen).await);
    assert_eq!(seen.len(), begun, "{:?}", &seen[begun..]);
    assert!(gateway.leaves(SOON).await.success());
    drop(backend);
}

/// The engine cannot be stopped inside of such a call, and this one takes minutes.
#[tokio::test]
async fn a_stuck_worker_does_not_delay_the_exit() {
    let yaml = "
drain: { idle: 100ms, deadline: 500ms }
routes: [{ match: { path: /* }, plugins: [{ file: x/plugin.js, on_error: continue }], respond: ok }]
";
    let plugin = "export const onRequest = () => new Response(Array(2 ** 32 - 1).join());";
    let mut gateway = Gateway::start_in(yaml, |folder| {
        std::fs::create_dir(folder.join("x")).expect("the folder takes files");
        std::fs::write(folder.join("x/plugin.js"), plugin).expect("the folder takes files");
    })
    .await;
    let mut connection = gateway.connect().await;
    let request = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    connection
        .write(request)
        .await
        .expect("the connection is open");
    pass(Duration::from_secs(1)).await;
    assert!(gateway.terminate(SOON * 3).await.success());
}
