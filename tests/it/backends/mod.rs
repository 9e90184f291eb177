//! Every kind of third-party backend, in every use of a backend: plain responses, streams, uploads,
//! kept and closed connections, sockets, failures. The WebSocket clients are third-party programs
//! as well; the messages that they send are random.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests: what goes wrong here fails the test, and says so"
)]

mod peers;

use std::{collections::HashSet, net::SocketAddr, process::Output, time::Duration};

use ring::digest::{SHA256, digest};
use tokio::process::Command;

use self::peers::{Kind, Peer, folder, python};
use crate::support::{
    apps::NextApp,
    client::{ClientError, Request, get},
    gateway::Gateway,
    seed,
    wait::pass,
};

const PATIENCE: Duration = Duration::from_mins(2);

async fn front(backend: SocketAddr) -> Gateway {
    Gateway::start(&format!(
        "
listeners: [{{ address: \"127.0.0.1:0\", name: web, http2: {{ cleartext: true }} }}]
upstreams:
  app: {{ backends: [\"{backend}\"], health: false, eject: {{ errors: 0 }} }}
routes:
  - match: {{ path: /ws }}
    upstream: app
    websocket: true
  - match: {{ path: /* }}
    upstream: app
    body_limit: false
"
    ))
    .await
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Number of sockets of each client.
fn sockets() -> usize {
    let given = std::env::var("EDGEWAY_SOCKETS").ok();
    given.map_or(8, |count| count.parse().expect("a number"))
}

/// Runs every check of an origin, with or without a proxy between the gateway and the origin.
async fn check(mut peer: Peer, origin: Option<Peer>) {
    let gateway = front(peer.address()).await;
    let mut random = fastrand::Rng::with_seed(seed::drawn());
    plain(&gateway).await;
    streams(&gateway, "/stream?pieces=5&every=100").await;
    uploads(&gateway, &mut random).await;
    keep_alive_and_close(&gateway).await;
    failures(&gateway, peer.kind()).await;
    websockets(&gateway, &mut random).await;
    curl(&gateway).await;
    peer.kill().await;
    for _ in 0..3 {
        let refused = gateway.get("/plain").await;
        assert!(
            matches!(refused.status(), 502 | 503),
            "{}",
            refused.status()
        );
    }
    drop(origin);
}

async fn plain(gateway: &Gateway) {
    let mut connection = gateway.connect().await;
    for _ in 0..5 {
        let response = connection.send(&get("/plain")).await.unwrap();
        assert_eq!(
            (response.status(), response.text().as_str()),
            (200, "plain")
        );
        let head_response = connection
            .send(&Request::new("HEAD", "/plain"))
            .await
            .unwrap();
        assert_eq!((head_response.status(), head_response.body.len()), (200, 0));
    }
}

/// Checks that pieces arrive as they are sent: the first one well before the last.
async fn streams(gateway: &Gateway, target: &str) {
    let response = gateway.get(target).await;
    assert_eq!(response.status(), 200);
    let text = "piece 0\npiece 1\npiece 2\npiece 3\npiece 4\n";
    assert_eq!(response.text(), text);
    let (first, last) = (
        response.arrival_of("piece 0"),
        response.arrival_of("piece 4"),
    );
    let apart = last
        .expect("it came")
        .saturating_sub(first.expect("it came"));
    assert!(apart > Duration::from_millis(250), "{apart:?}");
}

async fn uploads(gateway: &Gateway, random: &mut fastrand::Rng) {
    let mut connection = gateway.connect().await;
    for case in 0..10 {
        let length = *random
            .choice(&[0, 1, 1000, 65_535, 65_536, 65_537, 1_000_000, 3_000_000])
            .expect("some");
        let body: Vec<u8> = std::iter::repeat_with(|| random.u8(..))
            .take(length)
            .collect();
        let asked = Request::new("POST", "/upload");
        let asked = if case % 2 == 0 {
            asked.body(body.clone())
        } else {
            let piece = random.usize(1..100_000);
            asked.chunks(body.chunks(piece).map(<[u8]>::to_vec))
        };
        let response = connection.send(&asked).await.unwrap();
        assert_eq!(response.status(), 200);
        let received = response.json();
        assert_eq!(received["length"], length, "case {case}");
        assert_eq!(
            received["sha256"],
            hex(digest(&SHA256, &body).as_ref()),
            "case {case}"
        );
    }
}

/// Checks that connections are reused, and that a connection that the backend has closed meanwhile
/// fails no request.
async fn keep_alive_and_close(gateway: &Gateway) {
    for round in 0..3 {
        for _ in 0..8 {
            assert_eq!(gateway.get("/plain").await.status(), 200, "round {round}");
        }
        // The backend closes connections that idle for a second; some requests hit that very
        // moment.
        pass(Duration::from_millis(985 + round * 10)).await;
        let together = futures_util::future::join_all((0..4).map(|_| gateway.get("/plain")));
        assert!(
            together
                .await
                .iter()
                .all(|response| response.status() == 200),
            "round {round}"
        );
        pass(Duration::from_millis(1300)).await;
        let posted = gateway
            .send(&Request::new("POST", "/upload").body("late"))
            .await;
        assert_eq!(posted.status(), 200, "round {round}");
    }
    // Retries leave no line in the log.
    let log = gateway.stderr();
    assert!(!log.contains("ERROR") && !log.contains("retrying"), "{log}");
}

/// Checks that error responses of the backend arrive unchanged, and truncated ones truncated.
async fn failures(gateway: &Gateway, kind: Kind) {
    let response = gateway.get("/fails").await;
    assert_eq!(
        (response.status(), response.text().as_str()),
        (500, "it failed")
    );
    assert_eq!(response.header("x-kept"), Some("1"));
    for framing in ["length", "chunks"] {
        let mut connection = gateway.connect().await;
        let truncated = connection
            .send(&get(&format!("/die?framing={framing}")))
            .await;
        match truncated {
            Err(ClientError::Truncated { .. }) => {}
            // Caddy 2.6 ends a chunked body as if it were complete: no client behind it can tell.
            Ok(response) if kind == Kind::Caddy && framing == "chunks" => {
                assert_eq!(response.text(), "the first of it");
            }
            other => panic!("{framing}: {other:?}"),
        }
    }
    assert_eq!(gateway.get("/plain").await.status(), 200);
}

/// Runs clients by `ws` and by Python's `websockets`, with random messages, fragments and ends.
async fn websockets(gateway: &Gateway, random: &mut fastrand::Rng) {
    let url = format!("ws://{}/ws", gateway.address());
    let count = sockets().to_string();
    let mut node = Command::new("node");
    node.current_dir(folder()).arg("client.js");
    let mut python = python();
    python.arg("client.py");
    for mut client in [node, python] {
        let seed = random.u32(..).to_string();
        client.args([&url, &seed, &count]);
        let ran = run(&mut client).await;
        let stdout = String::from_utf8_lossy(&ran.stdout);
        assert!(
            ran.status.success() && stdout.contains("sockets"),
            "{client:?}: {ran:?}"
        );
    }
}

async fn run(command: &mut Command) -> Output {
    let ran = tokio::time::timeout(PATIENCE, command.kill_on_drop(true).output()).await;
    ran.unwrap_or_else(|_| panic!("{command:?} hangs"))
        .expect("it is installed")
}

/// Runs curl, a client that most people have.
async fn curl(gateway: &Gateway) {
    let url = |path: &str| format!("http://{}{path}", gateway.address());
    for how in [
        &["--http1.1"][..],
        &["--http2"],
        &["--http2-prior-knowledge"],
        &["--http1.0"],
    ] {
        let mut command = Command::new("curl");
        let shown = run(command
            .args(["-sS", "-m", "20"])
            .args(how)
            .arg(url("/plain")))
        .await;
        assert_eq!(
            String::from_utf8_lossy(&shown.stdout),
            "plain",
            "{how:?}: {shown:?}"
        );
    }
    let mut command = Command::new("curl");
    let body = [
        "-sS",
        "-m",
        "20",
        "-H",
        "transfer-encoding: chunked",
        "--data-binary",
        "four",
    ];
    let sent = run(command.args(body).arg(url("/upload"))).await;
    assert!(
        String::from_utf8_lossy(&sent.stdout).contains("\"length\""),
        "{sent:?}"
    );
}

#[tokio::test]
async fn node_http_and_ws() {
    let peer = Peer::start(Kind::Node).await;
    let gateway = front(peer.address()).await;
    // Sequential requests share connections. A client may send the next request just before the
    // connection of the last one is idle again.
    let mut connections = HashSet::new();
    for _ in 0..30 {
        connections.insert(gateway.get("/connection").await.text());
    }
    assert!(connections.len() < 10, "{connections:?}");
    drop(gateway);
    check(peer, None).await;
}

#[tokio::test]
async fn uvicorn() {
    check(Peer::start(Kind::Uvicorn).await, None).await;
}

async fn check_before_node(kind: Kind) {
    let origin = Peer::start(Kind::Node).await;
    let peer = Peer::start_before(kind, Some(&origin)).await;
    check(peer, Some(origin)).await;
}

#[tokio::test]
async fn nginx() {
    check_before_node(Kind::Nginx).await;
}

#[tokio::test]
async fn haproxy() {
    check_before_node(Kind::Haproxy).await;
}

#[tokio::test]
async fn caddy() {
    check_before_node(Kind::Caddy).await;
}

#[tokio::test]
async fn python_websockets() {
    let mut peer = Peer::start(Kind::Websockets).await;
    let gateway = front(peer.address()).await;
    let mut random = fastrand::Rng::with_seed(seed::drawn());
    websockets(&gateway, &mut random).await;
    // The backend speaks nothing but WebSocket, and responds accordingly.
    assert_eq!(gateway.get("/ws").await.status(), 426);
    peer.kill().await;
    assert!(matches!(gateway.get("/ws").await.status(), 502 | 503));
}

/// Next.js has no WebSocket of its own, and truncates no response.
#[tokio::test]
async fn next_js() {
    let mut app = NextApp::start().await;
    let gateway = front(app.address()).await;
    let mut connection = gateway.connect().await;
    for _ in 0..5 {
        let response = connection.send(&get("/api/hello")).await.unwrap();
        assert_eq!(response.json()["hello"], "world");
    }
    let pieces = gateway.get("/api/chunked").await;
    let (first, last) = (pieces.arrival_of("first"), pieces.arrival_of("last"));
    let (first, last) = (first.expect("it came"), last.expect("it came"));
    assert!(last > first + Duration::from_millis(500));
    let mut random = fastrand::Rng::with_seed(seed::drawn());
    for case in 0..6 {
        let body = "x".repeat(random.usize(..300_000));
        let asked = Request::new("POST", "/api/echo");
        let asked = if case % 2 == 0 {
            asked.body(body.clone())
        } else {
            asked.chunks(body.as_bytes().chunks(10_000).map(<[u8]>::to_vec))
        };
        assert_eq!(
            connection.send(&asked).await.unwrap().json()["length"],
            body.len()
        );
    }
    let missing = gateway.get("/api/none").await;
    assert_eq!(missing.status(), 404);
    // Longer than Node keeps a connection: a connection closed meanwhile fails no request.
    pass(Duration::from_millis(5200)).await;
    assert_eq!(
        gateway
            .send(&Request::new("POST", "/api/echo").body("late"))
            .await
            .status(),
        200
    );
    let again = connection.send(&get("/api/hello")).await.unwrap();
    assert_eq!(again.status(), 200);
    app.kill();
    assert!(matches!(
        gateway.get("/api/hello").await.status(),
        502 | 503
    ));
    assert!(
        !gateway.stderr().contains("ERROR pingora"),
        "{}",
        gateway.stderr()
    );
}
