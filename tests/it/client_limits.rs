//! What one client may cost: connections, time for heads and bodies, answers left unread.

use std::{collections::HashSet, net::IpAddr, sync::Arc, time::Duration};

use futures_util::{SinkExt, StreamExt};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    time::Instant,
};
use tokio_tungstenite::{client_async, tungstenite::Message};

use crate::support::{
    certificates::Authority,
    client::{ClientError, Connection, get, post},
    gateway::{Gateway, cpu_of},
    http2::{self, Client, upload, whole},
    origins::{BigOrigin, EchoOrigin, SlowOrigin, SseOrigin, WsOrigin},
    wait::{pass, wait_for},
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

async fn from(address: &str, gateway: &Gateway) -> Connection {
    let address: IpAddr = address.parse().expect("an address");
    let opened = Connection::open_from(address, gateway.address()).await;
    opened.expect("the kernel accepts")
}

/// Whether a request on this connection is answered with 200.
async fn is_served(connection: &mut Connection) -> bool {
    let answer = connection.send(&get("/")).await;
    answer.is_ok_and(|answer| answer.status() == 200)
}

async fn refused(gateway: &Gateway, reason: &str) -> u64 {
    let series = format!("edgeway_refused_total{{reason=\"{reason}\"}}");
    gateway.count(&series).await
}

#[tokio::test]
async fn the_21st_connection_of_an_address_is_refused_and_others_are_served() {
    let gateway = Gateway::start(&hello("{ connections_per_ip: 20 }")).await;
    let mut inside = Vec::new();
    for _ in 0..20 {
        let mut connection = from("127.0.0.1", &gateway).await;
        assert!(is_served(&mut connection).await);
        inside.push(connection);
    }
    let mut refused_one = from("127.0.0.1", &gateway).await;
    assert!(refused_one.is_closed().await);
    assert_eq!(refused(&gateway, "connections_per_ip").await, 1);
    assert!(is_served(&mut from("127.0.0.2", &gateway).await).await);
    // One leaves, the next one comes in.
    drop(inside.pop());
    wait_for("a place is free", Duration::from_secs(5), async || {
        let mut next = from("127.0.0.1", &gateway).await;
        is_served(&mut next).await.then(|| inside.push(next))
    })
    .await;
    assert!(from("127.0.0.1", &gateway).await.is_closed().await);
    let told = gateway.stderr();
    assert!(told.contains("a connection was turned away"), "{told}");
    assert!(told.contains("connections_per_ip"), "{told}");
}

#[tokio::test]
async fn connections_are_bounded_by_network_and_in_all() {
    let gateway = Gateway::start(&hello(
        "{ connections: 5, connections_per_ip: 2, connections_per_network: 3 }",
    ))
    .await;
    let mut inside = Vec::new();
    for (address, expected) in [
        ("127.0.0.1", true),
        ("127.0.0.1", true),
        ("127.0.0.1", false),
        ("127.0.0.2", true),
        ("127.0.0.3", false),
        ("127.0.1.1", true),
        ("127.0.1.2", true),
        // The control for the last limit: the same address got in when there was room.
        ("127.0.2.1", false),
    ] {
        let mut connection = from(address, &gateway).await;
        assert_eq!(is_served(&mut connection).await, expected, "{address}");
        if expected {
            inside.push(connection);
        }
    }
    for reason in [
        "connections_per_ip",
        "connections_per_network",
        "connections",
    ] {
        assert_eq!(refused(&gateway, reason).await, 1, "{reason}");
    }
    inside.clear();
    wait_for("there is room", Duration::from_secs(5), async || {
        is_served(&mut from("127.0.2.1", &gateway).await)
            .await
            .then_some(())
    })
    .await;
}

/// Sends `bytes` one at a time until the other side has had enough; says what it answered and
/// when.
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
    let mut answer = Vec::new();
    tokio::select! {
        () = dripping => {}
        // A reset after the answer is an end too.
        _end = reading.read_to_end(&mut answer) => {}
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    (answer, started.elapsed())
}

/// Whether an answer says that its connection ends.
fn closes(answer: &str) -> bool {
    answer
        .to_ascii_lowercase()
        .contains("\r\nconnection: close\r\n")
}

#[track_caller]
fn about(took: Duration, expected: Duration) {
    let late = Duration::from_millis(900);
    assert!(
        took + Duration::from_millis(150) >= expected && took <= expected + late,
        "{took:?} is not about {expected:?}"
    );
}

const SECOND: Duration = Duration::from_secs(1);
const GAP: Duration = Duration::from_millis(100);
const HEAD: &[u8] =
    b"GET / HTTP/1.1\r\nhost: a.example\r\nx-long: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

#[tokio::test]
async fn a_head_has_its_time_however_it_drips() {
    let gateway = Gateway::start(&hello("{ header_timeout: 1s, idle_timeout: 60s }")).await;
    // Not a byte: closed without a word.
    let silent = drip(gateway.connect().await, b"", GAP);
    let dripping = drip(gateway.connect().await, HEAD, GAP);
    let mut second = gateway.connect().await;
    let second = async {
        assert!(is_served(&mut second).await);
        // Waiting between requests is not what the head's time is for.
        pass(Duration::from_millis(1500)).await;
        drip(second, HEAD, GAP).await
    };
    let (silent, dripping, second) = tokio::join!(silent, dripping, second);
    assert_eq!(silent.0, "");
    about(silent.1, SECOND);
    for (answer, took) in [dripping, second] {
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(closes(&answer), "{answer}");
        about(took, SECOND);
    }
    assert_eq!(refused(&gateway, "header_timeout").await, 3);
    let lines = gateway.log_lines(3).await;
    let late = lines.iter().filter(|line| line["status"] == 408);
    let reasons: Vec<_> = late.map(|line| &line["reason"]).collect();
    assert_eq!(reasons, ["header_timeout", "header_timeout"], "{lines:?}");

    // The control: with time enough the same drip is answered.
    let patient = Gateway::start(&hello("{ header_timeout: 30s }")).await;
    let whole = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let (answer, _) = drip(patient.connect().await, whole, GAP / 4).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn a_head_has_its_time_inside_tls_too() {
    let authority = Authority::new();
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
    let answer = open().await.send(&get("/")).await.unwrap();
    assert_eq!(answer.text(), "hello");
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_time_without_a_word() {
    let gateway = Gateway::start(&hello("{ idle_timeout: 1s }")).await;
    let mut connection = gateway.connect().await;
    for _ in 0..3 {
        assert!(is_served(&mut connection).await);
        pass(Duration::from_millis(600)).await;
    }
    assert!(is_served(&mut connection).await);
    let (answer, took) = drip(connection, b"", GAP).await;
    assert_eq!(answer, "");
    about(took, SECOND);
    assert_eq!(refused(&gateway, "idle_timeout").await, 1);
}

#[tokio::test]
async fn the_last_request_of_a_connection_is_told_so() {
    let gateway = Gateway::start(&hello("{ requests_per_connection: 3 }")).await;
    let mut connection = gateway.connect().await;
    for turn in 1..=3 {
        let answer = connection.send(&get("/")).await.unwrap();
        assert_eq!(answer.status(), 200);
        let closes = answer.header("connection") == Some("close");
        assert_eq!(closes, turn == 3, "{turn}: {:?}", answer.head);
    }
    assert!(connection.is_closed().await);
}

const POST: &str = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n";

#[tokio::test]
async fn a_body_that_drips_is_ended_with_408_and_the_backend_is_not_blamed() {
    let origin = EchoOrigin::start().await;
    let limits = "{ body_rate: 1KiB, body_grace: 1s }";
    let eject = ", eject: { errors: 1, for: 60s }";
    let gateway = Gateway::start(&proxied(limits, origin.address(), eject)).await;
    let dripping = async |head: &str| {
        let mut connection = gateway.connect().await;
        connection.write(head).await.unwrap();
        drip(connection, &[b'x'; 100], GAP).await
    };
    let chunked = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nffff\r\n";
    let drips = tokio::join!(dripping(POST), dripping(chunked));
    for (answer, took) in [drips.0, drips.1] {
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(closes(&answer), "{answer}");
        about(took, SECOND);
    }
    assert_eq!(refused(&gateway, "body_timeout").await, 2);
    let lines = gateway.log_lines(2).await;
    assert_eq!(lines[0]["reason"], "body_timeout", "{lines:?}");
    // The control: one that comes fast enough, over longer than the grace.
    let mut connection = gateway.connect().await;
    connection
        .write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10000\r\n\r\n")
        .await
        .unwrap();
    for _ in 0..10 {
        connection.write([b'x'; 1000]).await.unwrap();
        pass(Duration::from_millis(250)).await;
    }
    assert_eq!(connection.read_head().await.unwrap().status, 200);
}

#[tokio::test]
async fn a_slow_backend_is_not_held_against_a_body() {
    let limits = "{ body_rate: 100MiB, body_grace: 500ms }";
    // It answers late, long after the body was whole.
    let late = SlowOrigin::start(Duration::from_millis(1500)).await;
    let gateway = Gateway::start(&proxied(limits, late.address(), "")).await;
    for request in [post("/", "x"), post("/", "").chunks(["a", "b"])] {
        assert_eq!(gateway.send(&request).await.status(), 200);
    }
    // It takes nothing at all, so the body stands still: its deadline is what ends it.
    let deaf = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let deadline = ", timeouts: { first_byte: 2s }, retry: { attempts: 1 }";
    let backend = deaf.local_addr().unwrap();
    let gateway = Gateway::start(&proxied(limits, backend, deadline)).await;
    let answer = gateway.send(&post("/", "").filler(64 << 20)).await;
    assert_eq!(answer.status(), 504, "{}", answer.text());
    assert_eq!(refused(&gateway, "body_timeout").await, 0);
}

#[tokio::test]
async fn an_answer_left_unread_is_cut_and_a_slow_reader_is_not() {
    let origin = BigOrigin::start().await;
    let limits = "{ send_timeout: 1s }";
    let gateway = Gateway::start(&proxied(limits, origin.address(), "")).await;
    let request = get("/?bytes=67108864");
    let mut unread = gateway.connect().await;
    unread.start(&request).await.unwrap();
    let stalled = Instant::now();
    wait_for("the answer is cut", Duration::from_secs(10), async || {
        (refused(&gateway, "send_timeout").await == 1).then_some(())
    })
    .await;
    about(stalled.elapsed(), SECOND + Duration::from_millis(200));
    let lines = gateway.log_lines(1).await;
    assert_eq!(lines[0]["reason"], "send_timeout", "{lines:?}");
    assert_eq!(lines[0]["status"], 200, "{lines:?}");
    // What was in flight is gone with it.
    let mut got = 0;
    let outcome = loop {
        match unread.piece().await {
            Ok(Some(piece)) => got += piece.len(),
            other => break other,
        }
    };
    assert!(
        outcome.as_ref().is_err_and(ClientError::is_cut),
        "{outcome:?} after {got}"
    );

    // The control: one that reads a little at a time, for far longer.
    let mut slow = gateway.connect().await;
    slow.start(&request).await.unwrap();
    let mut stream = slow.into_stream();
    let mut piece = vec![0; 256 * 1024];
    for _ in 0..8 {
        stream.read_exact(&mut piece).await.unwrap();
        pass(Duration::from_millis(500)).await;
    }
    assert_eq!(refused(&gateway, "send_timeout").await, 1);
}

#[tokio::test]
async fn feeds_and_websockets_are_bound_by_none_of_it() {
    let short = "{ header_timeout: 1s, idle_timeout: 300ms, send_timeout: 300ms, body_rate: 1MiB, body_grace: 300ms }";
    let feed = SseOrigin::start(Duration::from_millis(700)).await;
    let gateway = Gateway::start(&proxied(short, feed.address(), "")).await;
    let answer = gateway.get("/?events=3").await;
    assert!(answer.text().contains("event-2"), "{}", answer.text());

    let echo = WsOrigin::start().await;
    let gateway = Gateway::start(&proxied(short, echo.address(), "")).await;
    let stream = gateway.connect().await.into_stream();
    let (mut socket, _) = client_async("ws://a/ws", stream).await.unwrap();
    for text in ["one", "two"] {
        pass(Duration::from_millis(1200)).await;
        socket.send(Message::text(text)).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(text));
    }
    // The control: the same listener's bounds hold for those who ask nothing.
    let (_, took) = drip(gateway.connect().await, b"", GAP).await;
    about(took, SECOND);
}

#[tokio::test]
async fn a_stream_of_http_2_that_drips_its_body_is_ended_and_the_others_go_on() {
    let origin = EchoOrigin::start().await;
    let gateway = Gateway::start(&format!(
        "
listeners:
  - address: 127.0.0.1:0
    name: web
    http2: {{ cleartext: true }}
    limits: {{ body_rate: 64KiB, body_grace: 1s }}
upstreams: {{ app: {{ backends: [\"{}\"], health: false, eject: {{ errors: 1, for: 60s }} }} }}
routes:
  - match: {{ path: /* }}
    upstream: app
",
        origin.address()
    ))
    .await;
    let client = Client::open(gateway.address()).await;
    let started = Instant::now();
    let (slow, mut body) = client
        .begin(http2::request("POST", "/slow"), false)
        .await
        .unwrap();
    let dripping = async {
        while upload(&mut body, "x".into(), false).await.is_ok() {
            pass(GAP).await;
        }
        std::future::pending::<()>().await;
    };
    // Fast enough, on the same connection and for longer than the grace.
    let (well, mut good) = client
        .begin(http2::request("POST", "/well"), false)
        .await
        .unwrap();
    let good = async {
        for turn in 1..=10 {
            upload(&mut good, vec![b'x'; 20_000].into(), turn == 10)
                .await
                .unwrap();
            pass(Duration::from_millis(200)).await;
        }
        whole(well).await.unwrap()
    };
    let slow = async {
        let answer = tokio::select! {
            () = dripping => unreachable!("it pends"),
            answer = whole(slow) => answer.unwrap(),
        };
        (answer, started.elapsed())
    };
    let ((answer, took), well) = tokio::join!(slow, good);
    assert_eq!(answer.status(), 408, "{}", answer.text());
    about(took, SECOND);
    assert_eq!(well.status(), 200, "{}", well.text());
    assert_eq!(well.json()["length"], 200_000);
    assert_eq!(refused(&gateway, "body_timeout").await, 1);
    assert_eq!(client.get("/").await.status(), 200);
}

#[tokio::test]
async fn a_slow_backend_is_not_held_against_a_stream_of_http_2() {
    let deaf = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let limits = "{ body_rate: 100MiB, body_grace: 500ms }, http2: { cleartext: true }";
    let deadline = ", timeouts: { first_byte: 2s }, retry: { attempts: 1 }";
    let backend = deaf.local_addr().unwrap();
    let gateway = Gateway::start(&proxied(limits, backend, deadline)).await;
    let client = Client::open(gateway.address()).await;
    let body = vec![b'x'; 32 << 20];
    let answer = client
        .send(http2::request("POST", "/"), body)
        .await
        .unwrap();
    assert_eq!(answer.status(), 504, "{}", answer.text());
    assert_eq!(refused(&gateway, "body_timeout").await, 0);
}

#[tokio::test]
async fn without_files_to_open_the_gateway_waits_and_answers_and_does_not_spin() {
    let origin = EchoOrigin::start().await;
    let yaml = proxied("{ connections: 1000 }", origin.address(), "");
    let gateway = Gateway::start(&format!(
        "{yaml}  - match: {{ path: /here }}\n    respond: here\n"
    ))
    .await;
    let mut inside = gateway.connect().await;
    assert_eq!(inside.send(&get("/here")).await.unwrap().status(), 200);
    let pid = i32::try_from(gateway.pid()).ok().and_then(Pid::from_raw);
    let limit = |most: u64| {
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(4096),
        };
        prlimit(pid, Resource::Nofile, limit).expect("it is ours");
    };
    // The next file would get the lowest number that is free: no number so high. One that
    // was open for a moment only may yet make room.
    let lowest = || {
        let files = std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap();
        let names = files.map(|file| file.unwrap().file_name());
        let taken: HashSet<u64> = names.filter_map(|n| n.to_str()?.parse().ok()).collect();
        (0..4096).find(|number| !taken.contains(number)).unwrap()
    };
    let soon = Duration::from_secs(5);
    wait_for("no file can be opened", soon, async || {
        let free = lowest();
        limit(free);
        pass(GAP).await;
        (lowest() == free).then_some(())
    })
    .await;

    // The way to a backend needs a file: no hang, an answer.
    let started = Instant::now();
    let answer = inside.send(&get("/app")).await.unwrap();
    assert!([502, 503].contains(&answer.status()), "{}", answer.text());
    assert!(started.elapsed() < Duration::from_secs(3));

    // So does a client, who waits.
    let mut waiting = gateway.connect().await;
    wait_for("the gateway says so", soon, async || {
        let told = gateway.stderr();
        told.contains("cannot accept connections").then_some(())
    })
    .await;
    let spent = cpu_of(gateway.pid());
    pass(Duration::from_secs(1)).await;
    let spent = cpu_of(gateway.pid()).saturating_sub(spent);
    assert!(spent < Duration::from_millis(300), "{spent:?}");
    limit(4096);
    assert_eq!(waiting.send(&get("/here")).await.unwrap().status(), 200);
    assert_eq!(gateway.get("/app").await.status(), 200);
    assert_eq!(refused(&gateway, "cannot_accept").await, 1);
    let told = gateway.stderr();
    assert_eq!(
        told.matches("cannot accept connections").count(),
        1,
        "{told}"
    );
    assert!(told.contains("accepting connections again"), "{told}");
}

#[tokio::test]
async fn a_flood_is_counted_whole_and_logged_in_part() {
    let mut gateway = Gateway::start(&hello("{ connections_per_ip: 1 }")).await;
    let mut inside = gateway.connect().await;
    assert!(is_served(&mut inside).await);
    for _ in 0..100 {
        assert!(gateway.connect().await.is_closed().await);
    }
    assert_eq!(refused(&gateway, "connections_per_ip").await, 100);
    drop(inside);
    gateway.terminate(Duration::from_secs(10)).await;
    let told = gateway.stderr();
    let lines = told
        .lines()
        .filter(|line| line.contains("a connection was turned away"));
    let (sums, lines): (Vec<_>, Vec<_>) = lines.partition(|line| line.contains("left out"));
    assert_eq!(lines.len(), 20, "{told}");
    let [sum] = sums[..] else {
        panic!("one line for those that were left out\n{told}");
    };
    assert!(sum.ends_with("80 similar lines left out"), "{told}");
}

#[tokio::test]
async fn idle_connections_are_told_from_busy_ones() {
    let slow = SlowOrigin::start(Duration::from_secs(30)).await;
    let gateway = Gateway::start(&proxied("{}", slow.address(), "")).await;
    let mut inside = Vec::new();
    for _ in 0..3 {
        let mut connection = gateway.connect().await;
        assert_eq!(
            connection.send(&get("/health")).await.unwrap().status(),
            200
        );
        inside.push(connection);
    }
    inside[0]
        .write("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    wait_for("one is busy", Duration::from_secs(5), async || {
        let idle = gateway.count("edgeway_connections{state=\"idle\"}").await;
        (idle == 2).then_some(())
    })
    .await;
    assert_eq!(
        gateway.count("edgeway_connections{state=\"open\"}").await,
        3
    );
}
