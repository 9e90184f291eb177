//! Slow responses pass through piece by piece, compressed or not; the origin learns at once when a
//! client disconnects.

use std::{
    io::{self, Write},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy, sink},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use crate::support::{
    apps::{ExpressApp, NextApp},
    client::{self, Connection, Request, Response, get},
    front::Front,
    gateway::Gateway,
    http2,
    origins::{DripOrigin, SseOrigin},
    server::Server,
    wait::{until, wait_for},
};

/// Maximum delay that the gateway may add to the first byte.
const ADDED: Duration = Duration::from_millis(50);

/// Rounds of a comparison: one slow moment of the machine spoils one round only.
const ROUNDS: usize = 10;

async fn front(backend: std::net::SocketAddr, app: &str, filters: &str) -> Gateway {
    let yaml = format!(
        "
upstreams:
  web:
    app: {app}
    backends: [\"{backend}\"]
routes:
  - match: {{ path: /* }}
    upstream: web
{filters}"
    );
    Gateway::start(&yaml).await
}

const COMPRESSED: &str = "    compression: { encodings: [gzip] }\n";

fn gzipped(target: &str) -> Request {
    get(target).header("accept-encoding", "gzip")
}

/// Returns the arrival time of the text, after decoding the pieces up to then.
fn arrival(response: &Response, text: &str) -> Option<Duration> {
    if response.header("content-encoding").is_none() {
        return response.arrival_of(text);
    }
    let mut decoder = flate2::write::GzDecoder::new(Vec::new());
    response.pieces.iter().find_map(|(at, piece)| {
        decoder.write_all(piece).expect("the body is gzip");
        decoder.flush().expect("a buffer takes all");
        let so_far = decoder.get_ref();
        client::find(so_far, text.as_bytes()).map(|_| *at)
    })
}

/// Returns the delay of each text through the gateway, in the best of a few rounds.
async fn added(
    direct: std::net::SocketAddr,
    gateway: &Gateway,
    request: &Request,
    texts: &[&str],
) -> Vec<Duration> {
    let mut best = vec![Duration::MAX; texts.len()];
    for _ in 0..ROUNDS {
        let own = client::send(direct, request)
            .await
            .expect("the origin responds");
        let response = gateway.send(request).await;
        for (best, text) in best.iter_mut().zip(texts) {
            let there = arrival(&own, text).expect("the origin sends it");
            let here = arrival(&response, text).expect("the gateway sends it");
            *best = (*best).min(here.saturating_sub(there));
        }
        if best.iter().all(|added| *added <= ADDED) {
            break;
        }
    }
    best
}

#[tokio::test]
async fn a_suspense_page_streams_through_compression() {
    let app = NextApp::shared().await;
    let gateway = front(app.address(), "nextjs", COMPRESSED).await;
    let texts = ["shell-piece", "first-piece", "second-piece"];
    let added = added(app.address(), &gateway, &gzipped("/stream"), &texts).await;
    assert!(added.iter().all(|added| *added <= ADDED), "{added:?}");

    let response = gateway.send(&gzipped("/stream")).await;
    assert_eq!(response.header("content-encoding"), Some("gzip"));
    let times = texts.map(|text| arrival(&response, text).unwrap());
    assert!(is_streamed(&times), "{times:?}");

    // The control: the same page from a buffering gateway fails the check.
    let mut lump = response.clone();
    let at = lump.pieces.last().unwrap().0;
    lump.pieces = vec![(
        at,
        response
            .pieces
            .iter()
            .flat_map(|(_, p)| p.clone())
            .collect(),
    )];
    assert!(!is_streamed(
        &texts.map(|text| arrival(&lump, text).unwrap())
    ));
}

/// Returns true if the pieces of the Suspense page arrived about when they were rendered.
fn is_streamed(times: &[Duration; 3]) -> bool {
    let gaps = [
        times[1].saturating_sub(times[0]),
        times[2].saturating_sub(times[1]),
    ];
    gaps[0] >= Duration::from_millis(300) && gaps[1] >= Duration::from_millis(700)
}

#[tokio::test]
async fn a_dripping_page_is_flushed_at_each_piece_in_every_encoding() {
    let origin = DripOrigin::start(Duration::from_millis(250)).await;
    let gateway = front(origin.address(), "none", COMPRESSED).await;
    let texts = ["piece-0", "piece-1", "piece-2"];
    let delays = added(origin.address(), &gateway, &gzipped("/"), &texts).await;
    assert!(delays.iter().all(|added| *added <= ADDED), "{delays:?}");
    let delays = added(origin.address(), &gateway, &get("/"), &texts).await;
    assert!(delays.iter().all(|added| *added <= ADDED), "{delays:?}");
    assert_eq!(
        gateway.send(&gzipped("/")).await.header("content-encoding"),
        Some("gzip")
    );
    // The control: with compression off, the response to the same request is not compressed.
    let off = front(origin.address(), "none", "    compression: off\n").await;
    assert_eq!(
        off.send(&gzipped("/")).await.header("content-encoding"),
        None
    );
}

#[tokio::test]
async fn a_long_response_of_our_own_is_encoded_in_one_piece() {
    let body = "the edge answers itself; ".repeat(200);
    let gateway = Gateway::start(&format!(
        "
routes:
  - match: {{ path: /encoded }}
    respond: {{ body: \"{body}\" }}
{COMPRESSED}
  - match: {{ path: /plain }}
    respond: {{ body: \"{body}\" }}
    compression: off
"
    ))
    .await;
    let mut connection = gateway.connect().await;
    let response = connection.send(&gzipped("/encoded")).await.unwrap();
    assert_eq!(response.header("content-encoding"), Some("gzip"));
    assert!(
        response.body.len() < body.len() / 10,
        "{}",
        response.body.len()
    );
    assert_eq!(response.decoded(), body.as_bytes());

    // HEAD has the same headers and no body: the connection stays in sync.
    let head = Request::new("HEAD", "/encoded").header("accept-encoding", "gzip");
    let head_response = connection.send(&head).await.unwrap();
    assert_eq!(head_response.header("content-encoding"), Some("gzip"));
    assert!(head_response.body.is_empty());

    // The control: with compression off, the same body is sent unchanged.
    let plain = connection.send(&gzipped("/plain")).await.unwrap();
    assert_eq!(plain.header("content-encoding"), None);
    assert_eq!(plain.text(), body);
}

#[tokio::test]
async fn a_feed_passes_event_by_event_and_unencoded() {
    let app = NextApp::shared().await;
    let gateway = front(app.address(), "nextjs", COMPRESSED).await;
    let texts = ["\"event\":0", "\"event\":1", "\"event\":2"];
    let feed = gzipped("/api/sse?events=3").header("accept", "text/event-stream");
    let response = gateway.send(&feed).await;
    assert_eq!(response.header("content-encoding"), None);
    assert_eq!(response.header("content-type"), Some("text/event-stream"));
    // Compared with the app without its own gzip, as the gateway requests it.
    let added = added(app.address(), &gateway, &get("/api/sse?events=3"), &texts).await;
    assert!(added.iter().all(|added| *added <= ADDED), "{added:?}");
}

#[tokio::test]
async fn a_client_that_leaves_a_feed_ends_it_at_the_origin() {
    let origin = SseOrigin::start(Duration::from_millis(100)).await;
    let gateway = front(origin.address(), "none", COMPRESSED).await;
    let mut client = Connection::open(gateway.address()).await.unwrap();
    client.start(&gzipped("/")).await.unwrap();
    client.piece().await.unwrap().unwrap();

    // The control: while the client is connected, the stream continues.
    let stays = Duration::from_millis(300);
    let left = until(stays, &mut async || {
        (origin.counts().cancelled() > 0).then_some(())
    })
    .await;
    assert_eq!(left, None);

    client.leave("a feed has no end");
    wait_for(
        "the origin's feed has ended",
        Duration::from_secs(1),
        async || (origin.counts().cancelled() == 1).then_some(()),
    )
    .await;
}

#[tokio::test]
async fn the_real_apps_see_clients_disconnect() {
    let next = NextApp::start().await;
    let express = ExpressApp::start().await;
    for (app, kind, target) in [
        (&next, "nextjs", "/api/sse?events=100"),
        (&express, "node", "/sse"),
    ] {
        let gateway = front(app.address(), kind, "").await;
        let mut client = Connection::open(gateway.address()).await.unwrap();
        client.start(&get(target)).await.unwrap();
        client.piece().await.unwrap().unwrap();
        assert_eq!(app.cancelled_feeds().await, 0);
        client.leave("a feed has no end");
        wait_for(
            "the app's feed has ended",
            Duration::from_secs(1),
            async || (app.cancelled_feeds().await == 1).then_some(()),
        )
        .await;
    }
}

#[tokio::test]
async fn a_silent_feed_outlives_the_gap_that_ends_other_responses() {
    let origin = SseOrigin::start(Duration::from_millis(900)).await;
    let short = |stream: &str| {
        Front::to(&origin)
            .upstream(&format!(
                "timeouts: {{ idle: 300ms, stream_idle: {stream} }}"
            ))
            .yaml()
    };
    let patient = Gateway::start(&short("10s")).await;
    let response = patient.send(&get("/?events=2")).await;
    assert!(response.text().contains("event-1"), "{}", response.text());
    // The control: with a short timeout for streams too, the stream is cut off, and its client
    // knows.
    let hasty = Gateway::start(&short("300ms")).await;
    let truncated = client::send(hasty.address(), &get("/?events=2")).await;
    assert!(
        truncated
            .as_ref()
            .is_err_and(client::ClientError::is_truncated),
        "{truncated:?}"
    );
}

/// Reads a request head, and then: begins a feed without events, switches to a WebSocket that breaks
/// with its first byte, or breaks a response.
async fn silence(mut socket: TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await?);
    }
    let response: &[u8] = match &head[..6] {
        b"GET /f" => b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n",
        b"GET /w" => {
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
              sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        }
        _ => return Ok(()),
    };
    socket.write_all(response).await?;
    socket.read_u8().await?;
    socket.set_zero_linger()
}

/// Invariant: neither the silence of a stream nor the break of a WebSocket counts against a backend.
#[tokio::test]
async fn silent_feeds_eject_no_backend() {
    let [one, two] = [Server::start(silence).await, Server::start(silence).await];
    let backends = format!("['{}', '{}']", one.address(), two.address());
    let upstream = "eject: { errors: 2 }, timeouts: { stream_idle: 100ms }";
    let front = Front::to_all(&backends)
        .upstream(upstream)
        .route("websocket: true");
    let gateway = front.start().await;
    for _ in 0..6 {
        let feed = client::send(gateway.address(), &get("/feed")).await;
        assert!(feed.is_err_and(|error| error.is_truncated()));
        let mut socket = Connection::open(gateway.address()).await.unwrap();
        let request = get("/ws")
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(socket.start(&request).await.unwrap().status, 101);
        socket.write("x").await.unwrap();
        assert!(socket.is_closed().await);
    }
    let ejections = "edgeway_upstream_ejections_total";
    assert_eq!(gateway.count(ejections).await, 0);
    // Control: other responses that break do.
    for _ in 0..4 {
        assert_eq!(gateway.get("/").await.status(), 502);
    }
    assert_eq!(gateway.count(ejections).await, 1);
}

/// Length of either body of an exchange in both directions: more than any buffer on the way.
const BOTH: u64 = 24 << 20;

/// Reads a body of this length while it sends one.
async fn exchange(mut socket: TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await?);
    }
    let (reads, mut writes) = socket.split();
    let response = async {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {BOTH}\r\n\r\n");
        writes.write_all(head.as_bytes()).await?;
        copy(&mut tokio::io::repeat(b'r').take(BOTH), &mut writes).await
    };
    let (mut body, mut nowhere) = (reads.take(BOTH), sink());
    tokio::try_join!(response, copy(&mut body, &mut nowhere))?;
    Ok(())
}

#[tokio::test]
async fn an_upload_goes_on_while_its_client_does_not_read_the_response() {
    const WITHIN: Duration = Duration::from_secs(20);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut origin = JoinSet::new();
    origin.spawn(async move {
        let mut exchanges = JoinSet::new();
        loop {
            exchanges.spawn(exchange(listener.accept().await.unwrap().0));
        }
    });
    let gateway = Front::to(address)
        .http2()
        .route("body_limit: false")
        .start()
        .await;
    let mut socket = TcpStream::connect(gateway.address()).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {BOTH}\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut body = tokio::io::repeat(b'b').take(BOTH);
    let sent = timeout(WITHIN, copy(&mut body, &mut socket)).await;
    assert_eq!(sent.expect("the backend takes all of it").unwrap(), BOTH);
    let mut response = socket.take(BOTH);
    let read = timeout(WITHIN, copy(&mut response, &mut sink())).await;
    assert_eq!(read.expect("the response follows").unwrap(), BOTH);

    let client = http2::Client::open(gateway.address()).await;
    let request = http2::request("POST", "/").header("content-length", BOTH);
    let begun = client.begin(request, false).await;
    let (response, mut stream) = begun.unwrap();
    for left in (0..BOTH >> 20).rev() {
        let body = Bytes::from(vec![b'b'; 1 << 20]);
        let sent = timeout(WITHIN, http2::upload(&mut stream, body, left == 0)).await;
        sent.expect("the backend takes all of it").unwrap();
    }
    let mut body = response.await.unwrap().into_body();
    let mut read = 0;
    while let Some(piece) = http2::next(&mut body).await.unwrap() {
        read += piece.len() as u64;
    }
    assert_eq!(read, BOTH);
}
