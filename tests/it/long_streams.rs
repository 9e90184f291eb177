//! Streams that have begun hold no place of `max_in_flight`: sockets and event streams block no
//! page request, and have a limit of their own.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests: what goes wrong here fails the test, and says so"
)]

use std::{collections::HashMap, time::Duration};

use futures_util::StreamExt;
use tokio::net::TcpStream;
use tokio_tungstenite::{client_async, tungstenite};

use crate::support::{
    apps::{App, ExpressApp},
    client::{Connection, get},
    front::Front,
    gateway::Gateway,
    grpc::{TalkClient, TalkServer, message},
    sockets::{self, Socket},
    wait::wait_for,
};

const SOON: Duration = Duration::from_secs(10);

async fn front(app: &App, bounds: &str) -> Gateway {
    Gateway::start(&format!(
        "
upstreams:
  app: {{ backends: [\"{}\"], health: false, {bounds} }}
routes:
  - match: {{ path: /ws }}
    upstream: app
    websocket: true
  - match: {{ path: /* }}
    upstream: app
",
        app.address()
    ))
    .await
}

/// Returns the leases of the single backend, and how many of them are streams.
async fn leases(gateway: &Gateway) -> (u64, u64) {
    (
        gateway.count("edgeway_backend_in_flight").await,
        gateway.count("edgeway_backend_streams").await,
    )
}

async fn until_leases(gateway: &Gateway, expected: (u64, u64)) {
    wait_for(
        &format!("there are {expected:?} leases"),
        SOON,
        async || (leases(gateway).await == expected).then_some(()),
    )
    .await;
}

/// Returns the status that a handshake gets instead of a socket.
async fn refused(gateway: &Gateway) -> u16 {
    let stream = TcpStream::connect(gateway.address())
        .await
        .expect("it listens");
    match client_async("ws://shop.test/ws", stream).await {
        Err(tungstenite::Error::Http(response)) => response.status().as_u16(),
        other => panic!("it was not refused: {:?}", other.map(|_| ())),
    }
}

#[tokio::test]
async fn three_hundred_websockets_delay_no_page() {
    let app = ExpressApp::start().await;
    let gateway = front(&app, "max_in_flight: { per_backend: 2, queue: 0 }").await;
    let mut open = sockets::open_many(gateway.address(), 300).await;
    // Event streams as well.
    let mut feeds = Vec::new();
    for _ in 0..20 {
        let mut feed = gateway.connect().await;
        assert_eq!(feed.start(&get("/sse")).await.unwrap().status, 200);
        feeds.push(feed.leave("a feed has no end"));
    }
    until_leases(&gateway, (320, 320)).await;
    for _ in 0..10 {
        assert_eq!(gateway.get("/health").await.status(), 200);
    }
    assert_eq!(sockets::alive(&mut open).await, 300);
    // The control: plain requests do hold places.
    let mut slow: Vec<Connection> = Vec::new();
    for _ in 0..2 {
        let mut connection = gateway.connect().await;
        connection
            .write("GET /slow?ms=3000 HTTP/1.1\r\nhost: a.test\r\n\r\n")
            .await
            .unwrap();
        slow.push(connection);
    }
    until_leases(&gateway, (322, 320)).await;
    assert_eq!(gateway.get("/health").await.status(), 503);
    assert_eq!(refused(&gateway).await, 503, "it begins as a request");
    drop((open, feeds, slow));
    until_leases(&gateway, (0, 0)).await;
}

#[tokio::test]
async fn streams_have_a_bound_of_their_own() {
    let app = ExpressApp::start().await;
    let gateway = front(
        &app,
        "max_streams: 3, max_in_flight: { per_backend: 4, queue: 8, wait: 30s }",
    )
    .await;
    let mut open = sockets::open_many(gateway.address(), 2).await;
    let mut feed = gateway.connect().await;
    assert_eq!(feed.start(&get("/sse")).await.unwrap().status, 200);
    let feed = feed.leave("a feed has no end");
    until_leases(&gateway, (3, 3)).await;
    // Refused at once, and not queued: the queue would make it wait for half a minute.
    let began = tokio::time::Instant::now();
    assert_eq!(refused(&gateway).await, 503);
    let asked = get("/sse").header("accept", "text/event-stream");
    assert_eq!(gateway.send(&asked).await.status(), 503);
    // A request that does not announce a stream is recognised by its response.
    assert_eq!(gateway.get("/sse").await.status(), 503);
    assert!(began.elapsed() < SOON);
    assert_eq!(gateway.get("/health").await.status(), 200);
    until_leases(&gateway, (3, 3)).await;
    let log = gateway.log_lines(4).await;
    let overload = log.iter().filter(|line| line["reason"] == "overload");
    assert_eq!(overload.count(), 3, "{log:#?}");
    // As soon as one ends, another may begin.
    drop(open.pop());
    until_leases(&gateway, (2, 2)).await;
    open.push(sockets::open(gateway.address()).await);
    assert_eq!(sockets::alive(&mut open).await, 2);
    drop(feed);
}

#[tokio::test]
async fn grpc_calls_that_have_begun_are_streams() {
    let server = TalkServer::start().await;
    let gateway = Front::to(&server)
        .http2()
        .upstream("protocol: h2, max_in_flight: { per_backend: 1, queue: 0 }")
        .start()
        .await;
    let mut client = TalkClient::connect(gateway.address()).await;
    let mut open = Vec::new();
    for count in 1..=8 {
        let mut request = message("on");
        (request.times, request.pause) = (1_000_000, 50);
        let mut stream = client.repeat(request).await.expect("there is a place");
        let first = stream.message().await.expect("it goes on");
        assert!(first.is_some());
        open.push(stream);
        until_leases(&gateway, (count, count)).await;
    }
    drop(open);
    until_leases(&gateway, (0, 0)).await;
}

enum Client {
    Socket(Box<Socket>),
    Other(Box<Connection>),
}

/// Whatever clients do, each lease is counted once and returned: sockets, event streams and pages
/// begin, end, and are abandoned midway.
#[tokio::test]
async fn no_lease_is_lost_whatever_clients_do() {
    let app = ExpressApp::start().await;
    let gateway = front(
        &app,
        "max_streams: 6, max_in_flight: { per_backend: 4, queue: 4, wait: 100ms }",
    )
    .await;
    let seed = crate::support::seed::drawn();
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut open: HashMap<u32, Client> = HashMap::new();
    for step in 0..120 {
        match random.u8(..6) {
            0 | 1 => {
                let stream = TcpStream::connect(gateway.address()).await.unwrap();
                if let Ok((socket, _)) = client_async("ws://shop.test/ws", stream).await {
                    open.insert(step, Client::Socket(Box::new(socket)));
                }
            }
            2 | 3 => {
                let target =
                    random.choice(["/sse?events=3&every=20", "/sse", "/slow?ms=150", "/health"]);
                let head = format!(
                    "GET {} HTTP/1.1\r\nhost: a.test\r\n\r\n",
                    target.expect("some")
                );
                let mut connection = gateway.connect().await;
                connection.write(head).await.unwrap();
                open.insert(step, Client::Other(Box::new(connection)));
            }
            4 => {
                let key = open.keys().copied().min_by_key(|_| random.u32(..));
                match key.and_then(|key| open.remove(&key)) {
                    Some(Client::Socket(mut socket)) if random.bool() => {
                        // A clean close; the test does not depend on its arrival.
                        drop(socket.close(None).await);
                        drop(tokio::time::timeout(SOON, socket.next()).await);
                    }
                    Some(Client::Other(connection)) => drop(connection),
                    Some(Client::Socket(socket)) => drop(socket),
                    None => {}
                }
            }
            _ => tokio::time::sleep(Duration::from_millis(random.u64(..30))).await,
        }
        let (all, streams) = leases(&gateway).await;
        assert!(
            streams <= 6 && all <= 6 + 4,
            "seed {seed}, step {step}: {all}, {streams}"
        );
    }
    drop(open);
    until_leases(&gateway, (0, 0)).await;
    assert_eq!(gateway.get("/health").await.status(), 200);
}
