//! Limits on the cost of one client: connections, time for headers and bodies, unread responses.

mod bodies;
mod connections;

use std::{sync::Arc, time::Duration};

use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::Instant,
};
use tokio_tungstenite::{client_async, tungstenite::Message};

use crate::support::{
    certificates::Ca,
    client::{Connection, get},
    gateway::Gateway,
    origins::{SseOrigin, WsOrigin},
    wait::pass,
};

const HELLO: &str = "
upstreams: { none: { backends: [\"127.0.0.1:1\"], health: false } }
routes:
  - match: { path: /* }
    respond: hello
";

fn hello(limits: &str) -> String {
    format!("listeners: [{{ address: \"127.0.0.1:0\", name: web, limits: {limits} }}]{HELLO}")
}

fn proxied(limits: &str, backend: impl std::fmt::Display, settings: &str) -> String {
    format!(
        "
listeners: [{{ address: \"127.0.0.1:0\", name: web, limits: {limits} }}]
defaults: {{ body_limit: 1GiB }}
upstreams: {{ app: {{ backends: [\"{backend}\"], health: false{settings} }} }}
routes:
  - match: {{ path: /* }}
    upstream: app
    websocket: true
"
    )
}

/// Returns true if a request on this connection gets 200.
async fn is_served(connection: &mut Connection) -> bool {
    let response = connection.send(&get("/")).await;
    response.is_ok_and(|response| response.status() == 200)
}

/// Sends `bytes` one at a time until the peer closes or responds; returns the response and the
/// elapsed time.
async fn drip<S>(connection: Connection<S>, bytes: &[u8], gap: Duration) -> (String, Duration)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let started = Instant::now();
    let (mut reading, mut writing) = tokio::io::split(connection.into_stream());
    let dripping = async {
        for byte in bytes {
            if writing.write_all(&[*byte]).await.is_err() {
                break;
            }
            pass(gap).await;
        }
        std::future::pending::<()>().await;
    };
    let mut response = Vec::new();
    tokio::select! {
        () = dripping => {}
        // A reset after the response is an end too.
        _end = reading.read_to_end(&mut response) => {}
    }
    let response = String::from_utf8_lossy(&response).into_owned();
    (response, started.elapsed())
}

/// Returns true if a response announces the end of its connection.
fn closes(response: &str) -> bool {
    response
        .to_ascii_lowercase()
        .contains("\r\nconnection: close\r\n")
}

#[track_caller]
fn about(took: Duration, expected: Duration) {
    // A machine that runs many tests at once is late; `drills slow-clients` measures. The default
    // of each limit is 10 s or more.
    let tolerance = Duration::from_secs(8);
    assert!(
        took + Duration::from_millis(150) >= expected && took <= expected + tolerance,
        "{took:?} is not about {expected:?}"
    );
}

const SECOND: Duration = Duration::from_secs(1);
const GAP: Duration = Duration::from_millis(100);
const HEAD: &[u8] =
    b"GET / HTTP/1.1\r\nhost: a.example\r\nx-long: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

#[tokio::test]
async fn a_slow_header_section_has_a_deadline() {
    let gateway = Gateway::start(&hello("{ header_timeout: 1s, idle_timeout: 60s }")).await;
    // Not a byte: closed silently.
    let silent = drip(gateway.connect().await, b"", GAP);
    let dripping = drip(gateway.connect().await, HEAD, GAP);
    let mut second = gateway.connect().await;
    let second = async {
        assert!(is_served(&mut second).await);
        // Waiting between requests does not count towards the header timeout.
        pass(Duration::from_millis(1500)).await;
        drip(second, HEAD, GAP).await
    };
    let (silent, dripping, second) = tokio::join!(silent, dripping, second);
    assert_eq!(silent.0, "");
    about(silent.1, SECOND);
    for (response, took) in [dripping, second] {
        assert!(response.starts_with("HTTP/1.1 408 "), "{response}");
        assert!(closes(&response), "{response}");
        about(took, SECOND);
    }
    gateway.refuses("header_timeout", 3).await;
    let lines = gateway.log_lines(3).await;
    let timeouts = lines.iter().filter(|line| line["status"] == 408);
    let reasons: Vec<_> = timeouts.map(|line| &line["reason"]).collect();
    assert_eq!(reasons, ["header_timeout", "header_timeout"], "{lines:?}");

    // The control: with enough time the same slow request is served.
    let patient = Gateway::start(&hello("{ header_timeout: 30s }")).await;
    let whole = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let (response, _) = drip(patient.connect().await, whole, GAP / 4).await;
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
}

#[tokio::test]
async fn a_slow_header_section_has_a_deadline_inside_tls_too() {
    let authority = Ca::new();
    let limits =
        "limits: { header_timeout: 1s }, tls: { certificates: { cert: site.pem, key: site.key } }";
    let yaml = format!("listeners: [{{ address: \"127.0.0.1:0\", name: web, {limits} }}]{HELLO}");
    let gateway = Gateway::start_in(&yaml, |folder| {
        authority.site(&["a.example"]).write(folder, "site");
    })
    .await;
    let trust = Arc::new(authority.trust());
    let open = async || {
        let opened = Connection::open_tls(gateway.address(), "a.example", &trust).await;
        opened.expect("the handshake succeeds")
    };
    let silent = drip(open().await, b"", GAP);
    let dripping = drip(open().await, HEAD, GAP);
    let (silent, dripping) = tokio::join!(silent, dripping);
    assert_eq!(silent.0, "");
    about(silent.1, SECOND);
    assert!(dripping.0.starts_with("HTTP/1.1 408 "), "{}", dripping.0);
    about(dripping.1, SECOND);
    // The control.
    let response = open().await.send(&get("/")).await.unwrap();
    assert_eq!(response.text(), "hello");
}

#[tokio::test]
async fn an_idle_connection_is_closed_at_its_timeout_without_a_response() {
    let gateway = Gateway::start(&hello("{ idle_timeout: 1s }")).await;
    let mut connection = gateway.connect().await;
    for _ in 0..3 {
        assert!(is_served(&mut connection).await);
        pass(Duration::from_millis(600)).await;
    }
    assert!(is_served(&mut connection).await);
    let (response, took) = drip(connection, b"", GAP).await;
    assert_eq!(response, "");
    about(took, SECOND);
    gateway.refuses("idle_timeout", 1).await;
}

#[tokio::test]
async fn the_last_response_of_a_connection_announces_its_close() {
    let gateway = Gateway::start(&hello("{ requests_per_connection: 3 }")).await;
    let mut connection = gateway.connect().await;
    for turn in 1..=3 {
        let response = connection.send(&get("/")).await.unwrap();
        assert_eq!(response.status(), 200);
        let closes = response.header("connection") == Some("close");
        assert_eq!(closes, turn == 3, "{turn}: {:?}", response.headers);
    }
    assert!(connection.is_closed().await);
}

#[tokio::test]
async fn event_streams_and_websockets_are_exempt_from_these_limits() {
    let short = "{ header_timeout: 1s, idle_timeout: 300ms, send_timeout: 300ms, body_rate: 1MiB, body_grace: 300ms }";
    let feed = SseOrigin::start(Duration::from_millis(700)).await;
    let gateway = Gateway::start(&proxied(short, feed.address(), "")).await;
    let response = gateway.get("/?events=3").await;
    assert!(response.text().contains("event-2"), "{}", response.text());

    let echo = WsOrigin::start().await;
    let gateway = Gateway::start(&proxied(short, echo.address(), "")).await;
    let stream = gateway.connect().await.into_stream();
    let (mut socket, _) = client_async("ws://a/ws", stream).await.unwrap();
    for text in ["one", "two"] {
        pass(Duration::from_millis(1200)).await;
        socket.send(Message::text(text)).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(text));
    }
    // The control: the same listener's limits apply to idle clients.
    let (_, took) = drip(gateway.connect().await, b"", GAP).await;
    about(took, SECOND);
}
