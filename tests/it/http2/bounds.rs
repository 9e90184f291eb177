//! Limits on the cost of an HTTP/2 connection: time without requests, stalled headers and
//! responses, endless frames.

use std::time::Duration;

use bytes::Bytes;
use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::Instant,
};

use super::{CLEARTEXT, MIB, SOON, gateway, until_refused, yaml};
use crate::support::{
    gateway::Gateway,
    http2::{
        CONTINUATION, Client, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, Frames, GOAWAY,
        HEADERS, NO_ERROR, PING, PREFACE, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE, block,
        field, frame, read_response, request, upload,
    },
    origins::{BigOrigin, EchoOrigin, Failure, ResettingOrigin, SlowOrigin, SseOrigin},
    wait::{pass, wait_for},
};

/// A field of 38 bytes, in the table of every connection (RFC 7541, appendix A).
const ACCEPT: [u8; 1] = [0x93];

#[tokio::test]
async fn an_idle_connection_gets_goaway() {
    let origin = SlowOrigin::start(Duration::from_millis(1500)).await;
    let listener = format!("{CLEARTEXT}, limits: {{ idle_timeout: 500ms }}");
    let gateway = gateway(&listener, origin.address(), "").await;
    let mut frames = Frames::open(gateway.address()).await;
    let started = Instant::now();
    // PINGs are not requests: they do not keep a connection open.
    frames.write(&frame(PING, 0, 0, b"12345678")).await.unwrap();
    assert_eq!(frames.goaways().await, [NO_ERROR]);
    let took = started.elapsed();
    assert!((450..9000).contains(&took.as_millis()), "{took:?}");
    until_refused(&gateway, "idle_timeout").await;
    // The control: a stream that waits for its response is not idle.
    let client = Client::open(gateway.address()).await;
    assert_eq!(client.get("/").await.status(), 200);
}

#[tokio::test]
async fn a_connection_and_each_header_section_have_a_deadline() {
    let origin = SseOrigin::start(Duration::from_millis(50)).await;
    let listener = format!("{CLEARTEXT}, limits: {{ header_timeout: 500ms }}");
    let gateway = gateway(&listener, origin.address(), "").await;
    let whole = END_HEADERS | END_STREAM;
    let get = frame(HEADERS, whole, 1, &block("GET", "/"));
    let begun = [PREFACE, &frame(SETTINGS, 0, 0, b"")].concat();
    let partial = frame(HEADERS, END_STREAM, 3, &block("GET", "/"));
    let half = partial[..15].to_vec();
    let busy = [&begun[..], &get].concat();
    for sent in [
        PREFACE.to_vec(),
        [&begun[..], &half].concat(),
        [&begun[..], &partial].concat(),
        // However busy the connection is otherwise.
        [&busy[..], &partial].concat(),
    ] {
        let mut frames = Frames::connect(gateway.address()).await;
        let started = Instant::now();
        frames.write(&sent).await.unwrap();
        drop(frames.goaways().await);
        let took = started.elapsed();
        assert!((450..9000).contains(&took.as_millis()), "{took:?}");
    }
    wait_for("all four are counted", SOON, async || {
        (gateway.refused("header_timeout").await == 4).then_some(())
    })
    .await;
    // The control: once the headers are complete, their stream may last.
    let mut frames = Frames::connect(gateway.address()).await;
    let started = Instant::now();
    frames.write(&busy).await.unwrap();
    while started.elapsed() < Duration::from_millis(1200) {
        let frame = frames.next().await.expect("the connection stays");
        assert_ne!(frame.kind, GOAWAY);
    }
}

#[tokio::test]
async fn a_slow_body_ends_its_stream_and_no_other() {
    const LIMITS: &str = "limits: { body_rate: 16KiB, body_grace: 300ms }";
    let origin = EchoOrigin::start().await;
    let listener = format!("{CLEARTEXT}, {LIMITS}");
    let gateway = self::gateway(&listener, origin.address(), "").await;
    let client = Client::open(gateway.address()).await;
    let asked = request("POST", "/large").header("content-length", "100000");
    let (response, mut stream) = client.begin(asked, false).await.unwrap();
    let mut response = std::pin::pin!(read_response(response));
    let started = Instant::now();
    let mut steps = tokio::time::interval(Duration::from_millis(50));
    let response = loop {
        tokio::select! {
            response = &mut response => break response.unwrap(),
            _ = steps.tick() => {
                // Once the response has been sent, the stream accepts no more data.
                drop(stream.send_data(Bytes::from_static(b"a"), false));
                assert_eq!(client.get("/fixed").await.status(), 200);
            }
        }
    };
    assert_eq!(response.status(), 408);
    let took = started.elapsed();
    assert!((1200..9000).contains(&took.as_millis()), "{took:?}");
    until_refused(&gateway, "body_timeout").await;
    assert_eq!(client.get("/").await.status(), 200);

    // The control: a client that has sent everything may wait for the backend.
    let slow = SlowOrigin::start(Duration::from_millis(2500)).await;
    let gateway = self::gateway(&listener, slow.address(), "").await;
    let client = Client::open(gateway.address()).await;
    let (get, post) = tokio::join!(
        client.send(request("GET", "/"), ""),
        client.send(request("POST", "/large"), "all of it")
    );
    assert_eq!((get.unwrap().status(), post.unwrap().status()), (200, 200));
}

#[tokio::test]
async fn an_old_connection_ends_when_its_streams_have() {
    let origin = SlowOrigin::start(Duration::from_millis(1500)).await;
    let listener = "http2: { cleartext: true, max_age: 500ms }";
    let young = gateway(listener, origin.address(), "").await;
    let listener = "http2: { cleartext: true, streams: 1 }";
    let few = gateway(listener, origin.address(), "").await;
    for gateway in [young, few] {
        let mut frames = Frames::open(gateway.address()).await;
        let whole = END_HEADERS | END_STREAM;
        let get = frame(HEADERS, whole, 1, &block("GET", "/"));
        frames.write(&get).await.unwrap();
        let goaway = frames.until(GOAWAY).await.unwrap();
        assert_eq!(goaway.payload[..4], [0x7f, 0xff, 0xff, 0xff]);
        // As any client does: the second GOAWAY then names the last stream.
        let ping = frames.until(PING).await.unwrap();
        frames
            .write(&frame(PING, 1, 0, &ping.payload))
            .await
            .unwrap();
        assert_eq!(frames.until(HEADERS).await.unwrap().stream, 1);
        let data = frames.until(DATA).await.unwrap();
        assert_eq!(data.stream, 1);
        while let Some(frame) = frames.next().await {
            assert!(matches!(frame.kind, DATA | GOAWAY), "{frame:?}");
        }
    }
    // The control.
    let patient = gateway(CLEARTEXT, origin.address(), "").await;
    let client = Client::open(patient.address()).await;
    for _ in 0..3 {
        assert_eq!(client.get("/fixed").await.status(), 200);
    }
}

#[tokio::test]
async fn a_client_that_does_not_acknowledge_a_goaway_gets_no_more_streams() {
    let origin = EchoOrigin::start().await;
    let listener = "http2: { cleartext: true, streams: 1, concurrent_streams: 1 }, \
        limits: { idle_timeout: 2s }";
    let gateway = gateway(listener, origin.address(), "").await;
    let mut frames = Frames::open(gateway.address()).await;
    let get = |stream| {
        let whole = END_HEADERS | END_STREAM;
        frame(HEADERS, whole, stream, &block("GET", "/fixed"))
    };
    frames.write(&get(1)).await.unwrap();
    frames.until(GOAWAY).await.unwrap();
    assert_eq!(frames.until(DATA).await.unwrap().stream, 1);
    pass(Duration::from_millis(1200)).await;
    // As many as a client may have sent that has not read it yet.
    frames.write(&get(3)).await.unwrap();
    assert_eq!(frames.until(DATA).await.unwrap().stream, 3);
    frames.write(&get(5)).await.unwrap();
    let refused = frames.until(RST_STREAM).await.unwrap();
    // REFUSED_STREAM
    assert_eq!((refused.stream, &*refused.payload), (5, &[0, 0, 0, 7][..]));
    // Refused streams do not keep the connection.
    frames.until(GOAWAY).await.unwrap();
    while let Some(frame) = frames.next().await {
        assert_eq!(frame.kind, GOAWAY, "{frame:?}");
    }
}

#[tokio::test]
async fn a_stream_whose_client_opens_no_window_ends_alone() {
    let origin = BigOrigin::start().await;
    let listener = format!("{CLEARTEXT}, limits: {{ send_timeout: 700ms }}");
    let gateway = gateway(&listener, origin.address(), "").await;
    let mut builder = h2::client::Builder::new();
    // Leaves room for other streams on the connection when this one's window is used up.
    builder.initial_connection_window_size(1024 * 1024);
    let client = Client::open_with(gateway.address(), &mut builder).await;
    let asked = request("GET", &format!("/large?bytes={}", 4 * MIB));
    let (response, _stream) = client.begin(asked, true).await.unwrap();
    let mut body = response.await.unwrap().into_body();
    let started = Instant::now();
    // All data is kept, and no window is returned.
    let mut held = Vec::new();
    let error = loop {
        match body.data().await {
            Some(Ok(piece)) => held.push(piece),
            Some(Err(error)) => break error,
            None => panic!("an aborted response never looks complete"),
        }
        // Another stream meanwhile.
        assert_eq!(client.get("/health").await.status(), 200);
    };
    assert!(error.is_reset(), "{error}");
    let took = started.elapsed();
    assert!((600..9000).contains(&took.as_millis()), "{took:?}");
    let slow = wait_for("it is in the log", SOON, async || {
        let log = gateway.log_lines(1).await;
        log.into_iter().find(|line| line["path"] == "/large")
    })
    .await;
    assert_eq!(slow["reason"], "send_timeout");
    assert_eq!(client.get("/fixed").await.status(), 200);
}

#[tokio::test]
async fn bodies_that_nobody_reads_hold_up_no_other_stream() {
    let origin = EchoOrigin::start().await;
    let busy = ResettingOrigin::start(Failure::Hang).await;
    let busy = format!(
        "  busy: {{ backends: ['{}'], health: false, max_in_flight: {{ per_backend: 1, wait: 1min }} }}",
        busy.address()
    );
    let yaml = yaml(CLEARTEXT, origin.address(), &busy);
    let route = "  - { match: { path: /busy }, upstream: busy, body_limit: false }";
    let gateway = Gateway::start(&format!("{yaml}{route}\n")).await;
    let client = Client::open(gateway.address()).await;
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let (response, mut stream) = client.begin(request("POST", "/busy"), false).await.unwrap();
        // As much as the window of one stream.
        let body = Bytes::from(vec![b'b'; 256 * 1024]);
        let sent = upload(&mut stream, body, false);
        let sent = tokio::time::timeout(SOON, sent).await;
        sent.expect("each has its own window").unwrap();
        waiting.push((response, stream));
    }
    let body = vec![b'b'; 32 * 1024];
    let sent = client.send(request("POST", "/small"), body);
    let response = tokio::time::timeout(SOON, sent).await.unwrap();
    assert_eq!(response.unwrap().status(), 200);
}

#[tokio::test]
async fn requests_that_are_reset_at_once_never_reach_the_origin() {
    let origin = EchoOrigin::start().await;
    let gateway = gateway(CLEARTEXT, origin.address(), "").await;
    let mut frames = Frames::open(gateway.address()).await;
    frames.until(SETTINGS).await.unwrap();
    let whole = END_HEADERS | END_STREAM;
    let get = block("GET", "/");
    let mut sent = Vec::new();
    for n in 0..100 {
        let stream = 2 * n + 1;
        sent.extend(frame(HEADERS, whole, stream, &get));
        sent.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
    }
    // The control: a request that is not reset.
    sent.extend(frame(HEADERS, whole, 1001, &get));
    frames.write(&sent).await.unwrap();
    assert_eq!(frames.until(HEADERS).await.unwrap().stream, 1001);
    // The last request of a read may be processed before its reset is read.
    let requests = origin.counts().requests();
    assert!((1..10).contains(&requests), "{requests}");
    wait_for("the resets are counted", SOON, async || {
        (gateway.refused("client_gone").await > 90).then_some(())
    })
    .await;
}

/// Bytes of the nth step of a flood.
type Flood<'a> = Box<dyn Fn(u32) -> Vec<u8> + 'a>;

#[tokio::test]
async fn each_flood_ends_its_connection_and_has_a_name() {
    let origin = EchoOrigin::start().await;
    let listener = "http2: { cleartext: true, resets: 20, pings: 20, settings: 20 }";
    let gateway = gateway(listener, origin.address(), "").await;
    let get = block("GET", "/");
    let request = |n: u32, flags| frame(HEADERS, flags, 2 * n + 1, &get);
    let reset = |n: u32| frame(RST_STREAM, 0, 2 * n + 1, &[0, 0, 0, 8]);
    let whole = END_HEADERS | END_STREAM;
    // Longer than what is read of a request: each has a 431.
    let long = [&get[..], &ACCEPT.repeat(3000)].concat();
    let floods: [(&str, u32, Flood<'_>); 9] = [
        (
            "h2_calm",
            15,
            Box::new(|n| frame(HEADERS, whole, 2 * n + 1, &long)),
        ),
        (
            "h2_resets",
            15,
            Box::new(|n| [request(n, whole), reset(n)].concat()),
        ),
        ("h2_pings", 15, Box::new(|_| frame(PING, 0, 0, &[0; 8]))),
        ("h2_settings", 15, Box::new(|_| frame(SETTINGS, 0, 0, b""))),
        (
            "h2_continuations",
            5,
            Box::new(|n| match n {
                0 => request(0, END_STREAM),
                _ => frame(CONTINUATION, 0, 1, b""),
            }),
        ),
        (
            "h2_empty_data",
            90,
            Box::new(|n| match n {
                0 => frame(HEADERS, END_HEADERS, 1, &block("POST", "/")),
                _ => frame(DATA, 0, 1, b""),
            }),
        ),
        (
            "h2_priorities",
            150,
            Box::new(|_| frame(PRIORITY, 0, 1, &[0; 5])),
        ),
        (
            "h2_window_updates",
            150,
            Box::new(|_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ),
        (
            "h2_unknown_frames",
            150,
            Box::new(|_| frame(0xfa, 0, 0, b"any")),
        ),
    ];
    for (reason, few, flood) in &floods {
        // The control: a few of them do no harm.
        let mut frames = Frames::open(gateway.address()).await;
        for n in 0..*few {
            frames.write(&flood(n)).await.unwrap();
        }
        if *reason != "h2_continuations" {
            let last = request(5000, whole);
            frames.write(&last).await.unwrap();
            let response = loop {
                let frame = frames.until(HEADERS).await.expect(reason);
                if frame.stream == 10_001 {
                    break frame;
                }
            };
            assert_eq!(response.kind, HEADERS);
        }
        assert_eq!(gateway.refused(reason).await, 0, "{reason}");

        let mut frames = Frames::open(gateway.address()).await;
        for n in 0..3000 {
            // The connection may be closed meanwhile.
            if frames.write(&flood(n)).await.is_err() {
                break;
            }
        }
        // A client that continues to send may be reset before it reads the GOAWAY.
        for code in frames.goaways().await {
            assert_eq!(code, ENHANCE_YOUR_CALM, "{reason}");
        }
        until_refused(&gateway, reason).await;
    }
    // A client that stops in time reads the GOAWAY.
    let mut frames = Frames::open(gateway.address()).await;
    let pings = frame(PING, 0, 0, &[0; 8]).repeat(21);
    frames.write(&pings).await.unwrap();
    assert_eq!(frames.goaways().await, [ENHANCE_YOUR_CALM]);
    let log = gateway.stderr();
    assert!(log.contains("reason=h2_pings"), "{log}");
    assert!(!log.contains("panicked"), "{log}");
}

#[tokio::test]
async fn malformed_requests_end_the_connection_when_they_are_many() {
    let origin = EchoOrigin::start().await;
    let gateway = gateway(CLEARTEXT, origin.address(), "").await;
    let mut frames = Frames::open(gateway.address()).await;
    let whole = END_HEADERS | END_STREAM;
    for n in 0..40 {
        let bad = [block("GET", "/"), field("host", "other.test")].concat();
        let bad = frame(HEADERS, whole, 2 * n + 1, &bad);
        if frames.write(&bad).await.is_err() {
            break;
        }
    }
    for code in frames.goaways().await {
        assert_eq!(code, ENHANCE_YOUR_CALM);
    }
    until_refused(&gateway, "h2_malformed").await;
    // No more fields of a malformed one are decoded than of any other.
    let mut frames = Frames::open(gateway.address()).await;
    let get = block("GET", "/");
    let bad = [&ACCEPT[..], &get, &ACCEPT.repeat(10_000)].concat();
    frames.write(&frame(HEADERS, whole, 1, &bad)).await.unwrap();
    assert_eq!(frames.goaways().await, [ENHANCE_YOUR_CALM]);
    until_refused(&gateway, "h2_calm").await;
    assert_eq!(origin.counts().requests(), 0);
}

#[tokio::test]
async fn streams_in_flight_finish_when_the_gateway_stops() {
    let origin = SlowOrigin::start(Duration::from_millis(1500)).await;
    let mut gateway = gateway(CLEARTEXT, origin.address(), "").await;
    let mut busy = Client::open(gateway.address()).await;
    let mut idle = Frames::open(gateway.address()).await;
    let (response, stream) = busy.begin(request("GET", "/"), true).await.unwrap();
    wait_for("the request is under way", SOON, async || {
        (origin.counts().requests() == 1).then_some(())
    })
    .await;
    gateway.signal(Signal::TERM);
    assert_eq!(idle.goaways().await.first(), Some(&NO_ERROR));
    assert_eq!(read_response(response).await.unwrap().status(), 200);
    drop(stream);
    assert!(busy.ended().await.is_ok());
    let status = gateway.terminate(Duration::from_secs(10)).await;
    assert!(status.success(), "{status}");
}

/// Responds to each request with another value of a header.
async fn number(socket: TcpStream) -> std::io::Result<()> {
    let mut socket = BufReader::new(socket);
    for number in 0_u64.. {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.read_u8().await?);
        }
        let line = format!("x-number: {number:030}");
        let response = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n{line}\r\n\r\nok");
        socket.write_all(response.as_bytes()).await?;
    }
    Ok(())
}

/// Opens a connection and uses it for 50 requests.
async fn used(gateway: &Gateway) -> Client {
    let client = Client::open(gateway.address()).await;
    for _ in 0..50 {
        let response = client.get("/").await;
        assert_eq!(response.header("x-number").map(str::len), Some(30));
    }
    client
}

/// A table of headers holds their values, and not the buffers that they were read into.
#[tokio::test]
async fn an_idle_connection_holds_no_buffers_of_its_responses() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = listener.local_addr().unwrap();
    let mut backend = JoinSet::new();
    backend.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((socket, _)) = listener.accept().await {
            connections.spawn(number(socket));
        }
    });
    let gateway = gateway(CLEARTEXT, origin, "").await;
    drop(used(&gateway).await);
    let before = gateway.rss();
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(used(&gateway).await);
    }
    let grown = gateway.rss().saturating_sub(before);
    assert!(grown <= 3 * MIB, "{} KiB", grown / 1024);
    drop(clients);
}
