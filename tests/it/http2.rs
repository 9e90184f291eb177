//! HTTP/2 to clients: what a request is, whatever brought it, and what a connection may cost.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use rustix::process::Signal;
use tokio::{process::Command, time::Instant};

use crate::support::{
    client::get,
    gateway::Gateway,
    http2::{
        Answer, CONTINUATION, Client, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, Frames,
        GOAWAY, HEADERS, NO_ERROR, PING, PREFACE, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE,
        block, field, frame, next, request, upload, whole,
    },
    origins::{BigOrigin, EchoOrigin, Failure, ResettingOrigin, SlowOrigin, SseOrigin},
    wait::wait_for,
};

const SOON: Duration = Duration::from_secs(5);
const MIB: u64 = 1024 * 1024;

/// A gateway that takes HTTP/2 without TLS. `listener`: more of its keys.
async fn gateway(listener: &str, origin: SocketAddr, rest: &str) -> Gateway {
    Gateway::start(&format!(
        "
listeners: [{{ address: \"127.0.0.1:0\", name: web, {listener} }}]
upstreams:
  app:
    backends: [\"{origin}\"]
    health: false
{rest}
routes:
  - match: {{ path: /* }}
    upstream: app
  - match: {{ path: /fixed }}
    respond: fixed
  - match: {{ path: /small }}
    upstream: app
    body_limit: 64KiB
  - match: {{ path: /large }}
    upstream: app
    body_limit: 256MiB
  - match: {{ host: tenant.test, path: /fixed }}
    respond: tenant
"
    ))
    .await
}

const CLEARTEXT: &str = "http2: { cleartext: true }";

async fn refused(gateway: &Gateway, reason: &str) -> u64 {
    gateway
        .count(&format!("edgeway_refused_total{{reason=\"{reason}\"}}"))
        .await
}

async fn until_refused(gateway: &Gateway, reason: &str) {
    wait_for(&format!("`{reason}` is counted"), SOON, async || {
        (refused(gateway, reason).await > 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn both_versions_are_served_on_one_port_and_http_2_only_where_it_is_wanted() {
    let origin = EchoOrigin::start().await;
    let both = gateway(CLEARTEXT, origin.address(), "").await;
    let client = Client::open(both.address()).await;
    assert_eq!(client.get("/fixed").await.text(), "fixed");
    assert_eq!(both.get("/fixed").await.text(), "fixed");
    let log = both.log_lines(2).await;
    let protocols: Vec<_> = log.iter().map(|line| &line["protocol"]).collect();
    assert_eq!(protocols, ["HTTP/2", "HTTP/1.1"]);

    // The control: a listener that was not asked for it.
    let old = gateway("", origin.address(), "").await;
    let mut frames = Frames::connect(old.address()).await;
    frames.write(PREFACE).await.unwrap();
    frames.write(&frame(SETTINGS, 0, 0, b"")).await.unwrap();
    assert!(frames.until(SETTINGS).await.is_none());
    assert_eq!(old.get("/fixed").await.text(), "fixed");
}

#[tokio::test]
async fn a_request_reaches_the_origin_as_http_1_would_have_brought_it() {
    let origin = EchoOrigin::start().await;
    let gateway = gateway(CLEARTEXT, origin.address(), "").await;
    let client = Client::open(gateway.address()).await;
    let asked = request("POST", "/a/../b%2Fc?d=e")
        .header("cookie", "a=1")
        .header("x-first", "1")
        .header("cookie", "b=2; c=3")
        .header("x_user", "root")
        .header("te", "trailers");
    let answer = client.send(asked, "four").await.unwrap();
    let seen = answer.json();
    assert_eq!(seen["method"], "POST");
    assert_eq!(seen["target"], "/b%2Fc?d=e");
    assert_eq!(seen["length"], 4);
    let headers: Vec<(String, String)> = serde_json::from_value(seen["headers"].clone()).unwrap();
    let all = |name: &str| -> Vec<&str> {
        let named = headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    };
    assert_eq!(all("host"), ["app.test"]);
    assert_eq!(all("cookie"), ["a=1; b=2; c=3"]);
    assert_eq!(all("x-forwarded-host"), ["app.test"]);
    assert_eq!(all("x-first"), ["1"]);
    for gone in ["x_user", "te"] {
        assert_eq!(all(gone), [""; 0], "{gone}");
    }

    // Routes go by the authority.
    let tenant = http::Request::get("http://tenant.test/fixed");
    assert_eq!(client.send(tenant, "").await.unwrap().text(), "tenant");
    assert_eq!(client.get("/fixed").await.text(), "fixed");

    let log = gateway.log_lines(3).await;
    assert_eq!(log[0]["host"], "app.test");
    assert_eq!(log[0]["bytes_in"], 4);
    assert_eq!(log[0]["bytes_out"], answer.body.len());
    assert_eq!(log[1]["host"], "tenant.test");
    assert!(log.iter().all(|line| line["protocol"] == "HTTP/2"));
}

#[tokio::test]
async fn what_is_refused_takes_no_other_stream_along() {
    let origin = EchoOrigin::start().await;
    let gateway = gateway(CLEARTEXT, origin.address(), "").await;
    let client = Client::open(gateway.address()).await;
    let status = async |asked: http::request::Builder| -> u16 {
        client.send(asked, "").await.unwrap().status()
    };
    let long = "a".repeat(9000);
    let large = "a".repeat(40_000);
    assert_eq!(status(request("TRACE", "/")).await, 405);
    assert_eq!(status(request("GET", &format!("/{long}"))).await, 414);
    assert_eq!(status(request("GET", "/").header("x-a", large)).await, 431);
    assert_eq!(status(request("GET", "/a%00b")).await, 400);
    let two = request("GET", "/")
        .header("range", "a")
        .header("range", "b");
    assert_eq!(status(two).await, 400);
    assert_eq!(status(request("GET", "/").header("expect", "b")).await, 417);
    let other = request("GET", "/").header("host", "other.test");
    assert_eq!(status(other).await, 400);
    let head = client.send(request("HEAD", "/a%00b"), "").await.unwrap();
    assert_eq!((head.status(), head.body.len()), (400, 0));
    // Between two neighbours: the stream is reset (RFC 9113, 8.2.2).
    let between = request("GET", "/").header("connection", "x-a");
    assert!(client.begin(between, true).await.is_err());
    assert_eq!(origin.counts().requests(), 0);

    // The control: the connection is as good as new.
    assert_eq!(client.get("/").await.status(), 200);
    let log = gateway.log_lines(8).await;
    let reasons: Vec<_> = log.iter().map(|line| &line["reason"]).collect();
    let expected = serde_json::json!([
        "method",
        "long_line",
        "long_head",
        "bad_path",
        "bad_header",
        "expectation",
        "bad_path",
        null
    ]);
    assert_eq!(serde_json::json!(reasons), expected);
    assert_eq!(refused(&gateway, "h2_malformed").await, 1);
}

#[tokio::test]
async fn headers_between_neighbours_reset_the_stream() {
    let origin = EchoOrigin::start().await;
    let gateway = gateway(CLEARTEXT, origin.address(), "").await;
    let mut frames = Frames::open(gateway.address()).await;
    let bad = [block("GET", "/"), field("connection", "close")].concat();
    let whole = END_HEADERS | END_STREAM;
    frames.write(&frame(HEADERS, whole, 1, &bad)).await.unwrap();
    let reset = frames.until(RST_STREAM).await.unwrap();
    assert_eq!((reset.stream, &reset.payload[..]), (1, &[0, 0, 0, 1][..]));
    assert_eq!(origin.counts().requests(), 0);
    // The control: the same without that header, on the same connection.
    let good = block("GET", "/");
    frames
        .write(&frame(HEADERS, whole, 3, &good))
        .await
        .unwrap();
    assert_eq!(frames.until(HEADERS).await.unwrap().stream, 3);
    assert_eq!(origin.counts().requests(), 1);
}

#[tokio::test]
async fn large_bodies_pass_both_ways_and_memory_stays() {
    const SIZE: u64 = 64 * MIB;
    let origin = BigOrigin::start().await;
    let gateway = gateway(CLEARTEXT, origin.address(), "").await;
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(4 * 1024 * 1024)
        .initial_connection_window_size(8 * 1024 * 1024);
    let client = Client::open_with(gateway.address(), &mut builder).await;
    assert_eq!(client.get("/fixed").await.status(), 200);
    let before = gateway.rss();

    let asked = request("GET", &format!("/large?bytes={SIZE}"));
    let (answer, _) = client.begin(asked, true).await.unwrap();
    let mut body = answer.await.unwrap().into_body();
    let mut came = 0;
    while let Some(piece) = next(&mut body).await.unwrap() {
        came += piece.len() as u64;
    }
    assert_eq!(came, SIZE);

    let (answer, mut stream) = client
        .begin(request("POST", "/large"), false)
        .await
        .unwrap();
    let piece = Bytes::from(vec![b'a'; 1024 * 1024]);
    for n in 1..=64 {
        upload(&mut stream, piece.clone(), n == 64).await.unwrap();
    }
    assert_eq!(whole(answer).await.unwrap().json()["bytes"], SIZE);
    let grown = gateway.rss().saturating_sub(before);
    assert!(grown < 16 * MIB, "{grown} bytes more than before");

    let log = gateway.log_lines(3).await;
    assert_eq!(log[1]["bytes_out"], SIZE);
    assert_eq!(log[2]["bytes_in"], SIZE);
}

#[tokio::test]
async fn a_body_that_is_too_long_is_answered_while_it_still_comes() {
    let origin = BigOrigin::start().await;
    let gateway = gateway(CLEARTEXT, origin.address(), "").await;
    let client = Client::open(gateway.address()).await;
    // Known by its length, and found out on the way.
    let told = request("POST", "/small").header("content-length", 10 * MIB);
    let silent = request("POST", "/small");
    for asked in [told, silent] {
        let (answer, mut stream) = client.begin(asked, false).await.unwrap();
        let piece = Bytes::from(vec![b'a'; 64 * 1024]);
        // Never ended by the client: the answer has to come before.
        upload(&mut stream, piece.clone(), false).await.unwrap();
        drop(upload(&mut stream, piece, false).await);
        let answer = whole(answer).await.unwrap();
        assert_eq!(answer.status(), 413);
        assert!(answer.header("x-request-id").is_some());
    }
    // The control: another request on the same connection.
    let fits = client.send(request("POST", "/small"), "fits").await;
    assert_eq!(fits.unwrap().json()["bytes"], 4);
}

#[tokio::test]
async fn an_overload_is_one_streams_and_not_the_connections() {
    let origin = ResettingOrigin::start(Failure::Hang).await;
    let bound = "    max_in_flight: { per_backend: 1, queue: 0, wait: 1s }\n";
    let gateway = gateway(CLEARTEXT, origin.address(), bound).await;
    let client = Client::open(gateway.address()).await;
    let (hangs, stream) = client.begin(request("GET", "/"), true).await.unwrap();
    wait_for("the backend is busy", SOON, async || {
        (origin.counts().requests() == 1).then_some(())
    })
    .await;
    let full = client.get("/health").await;
    assert_eq!(full.status(), 503);
    assert!(full.header("retry-after").is_some());
    drop((hangs, stream));
    wait_for("the place is free", SOON, async || {
        (client.get("/health").await.status() == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_client_that_resets_its_stream_ends_the_backends_work() {
    let origin = SseOrigin::start(Duration::from_millis(10)).await;
    let gateway = gateway(CLEARTEXT, origin.address(), "").await;
    let client = Client::open(gateway.address()).await;
    let (answer, stream) = client.begin(request("GET", "/events"), true).await.unwrap();
    let mut body = answer.await.unwrap().into_body();
    assert!(next(&mut body).await.unwrap().is_some());
    assert_eq!(origin.counts().cancelled(), 0);
    drop((body, stream));
    wait_for("the origin has noticed", SOON, async || {
        (origin.counts().cancelled() == 1).then_some(())
    })
    .await;
    let log = gateway.log_lines(1).await;
    assert_eq!(log[0]["reason"], "client_gone");
    // The control: other streams go on.
    assert_eq!(client.get("/fixed").await.status(), 200);
}

#[tokio::test]
async fn an_idle_connection_is_told_to_go() {
    let origin = SlowOrigin::start(Duration::from_millis(1500)).await;
    let listener = format!("{CLEARTEXT}, limits: {{ idle_timeout: 500ms }}");
    let gateway = gateway(&listener, origin.address(), "").await;
    let mut frames = Frames::open(gateway.address()).await;
    let started = Instant::now();
    // PINGs are no requests: they keep nobody.
    frames.write(&frame(PING, 0, 0, b"12345678")).await.unwrap();
    assert_eq!(frames.goaways().await, [NO_ERROR]);
    let took = started.elapsed();
    assert!((450..1500).contains(&took.as_millis()), "{took:?}");
    until_refused(&gateway, "idle_timeout").await;
    // The control: a stream that waits for its answer is not idle.
    let client = Client::open(gateway.address()).await;
    assert_eq!(client.get("/").await.status(), 200);
}

#[tokio::test]
async fn a_connection_has_to_begin_and_a_head_to_end_in_time() {
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
        assert!((450..2000).contains(&took.as_millis()), "{took:?}");
    }
    wait_for("all four are counted", SOON, async || {
        (refused(&gateway, "header_timeout").await == 4).then_some(())
    })
    .await;
    // The control: once the head is whole its stream may last.
    let mut frames = Frames::connect(gateway.address()).await;
    let started = Instant::now();
    frames.write(&busy).await.unwrap();
    while started.elapsed() < Duration::from_millis(1200) {
        let frame = frames.next().await.expect("the connection stays");
        assert_ne!(frame.kind, GOAWAY);
    }
}

#[tokio::test]
async fn an_old_connection_ends_when_its_streams_have() {
    let origin = SlowOrigin::start(Duration::from_millis(1500)).await;
    let listener = "http2: { cleartext: true, max_age: 500ms }";
    let young = gateway(listener, origin.address(), "").await;
    let listener = format!("{CLEARTEXT}, limits: {{ requests_per_connection: 1 }}");
    let few = gateway(&listener, origin.address(), "").await;
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
async fn a_stream_whose_client_opens_no_window_ends_alone() {
    let origin = BigOrigin::start().await;
    let listener = format!("{CLEARTEXT}, limits: {{ send_timeout: 700ms }}");
    let gateway = gateway(&listener, origin.address(), "").await;
    let mut builder = h2::client::Builder::new();
    // Room for other streams on the connection, when this one's is used up.
    builder.initial_connection_window_size(1024 * 1024);
    let client = Client::open_with(gateway.address(), &mut builder).await;
    let asked = request("GET", &format!("/large?bytes={}", 4 * MIB));
    let (answer, _stream) = client.begin(asked, true).await.unwrap();
    let mut body = answer.await.unwrap().into_body();
    let started = Instant::now();
    // Whatever comes is kept, and no room given back.
    let mut held = Vec::new();
    let error = loop {
        match body.data().await {
            Some(Ok(piece)) => held.push(piece),
            Some(Err(error)) => break error,
            None => panic!("an answer that is cut never looks whole"),
        }
        // Another stream meanwhile.
        assert_eq!(client.get("/health").await.status(), 200);
    };
    assert!(error.is_reset(), "{error}");
    let took = started.elapsed();
    assert!((600..4000).contains(&took.as_millis()), "{took:?}");
    let slow = wait_for("it is in the log", SOON, async || {
        let log = gateway.log_lines(1).await;
        log.into_iter().find(|line| line["path"] == "/large")
    })
    .await;
    assert_eq!(slow["reason"], "send_timeout");
    assert_eq!(client.get("/fixed").await.status(), 200);
}

/// The bytes of its nth step.
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
    let floods: [(&str, u32, Flood<'_>); 8] = [
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
            900,
            Box::new(|_| frame(PRIORITY, 0, 1, &[0; 5])),
        ),
        (
            "h2_window_updates",
            900,
            Box::new(|_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ),
        (
            "h2_unknown_frames",
            900,
            Box::new(|_| frame(0xfa, 0, 0, b"any")),
        ),
    ];
    for (reason, few, flood) in &floods {
        // The control: some of them harm nobody.
        let mut frames = Frames::open(gateway.address()).await;
        for n in 0..*few {
            frames.write(&flood(n)).await.unwrap();
        }
        if *reason != "h2_continuations" {
            let last = request(5000, whole);
            frames.write(&last).await.unwrap();
            let answer = loop {
                let frame = frames.until(HEADERS).await.expect(reason);
                if frame.stream == 10_001 {
                    break frame;
                }
            };
            assert_eq!(answer.kind, HEADERS);
        }
        assert_eq!(refused(&gateway, reason).await, 0, "{reason}");

        let mut frames = Frames::open(gateway.address()).await;
        for n in 0..3000 {
            // It may be closed meanwhile.
            if frames.write(&flood(n)).await.is_err() {
                break;
            }
        }
        // A client that goes on sending may be reset before it reads the GOAWAY.
        for code in frames.goaways().await {
            assert_eq!(code, ENHANCE_YOUR_CALM, "{reason}");
        }
        until_refused(&gateway, reason).await;
    }
    // One of each that stops in time to read, and is told.
    let mut frames = Frames::open(gateway.address()).await;
    let pings = frame(PING, 0, 0, &[0; 8]).repeat(21);
    frames.write(&pings).await.unwrap();
    assert_eq!(frames.goaways().await, [ENHANCE_YOUR_CALM]);
    let log = gateway.stderr();
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
    assert_eq!(origin.counts().requests(), 0);
}

#[tokio::test]
async fn streams_under_way_finish_when_the_gateway_leaves() {
    let origin = SlowOrigin::start(Duration::from_millis(1500)).await;
    let mut gateway = gateway(CLEARTEXT, origin.address(), "").await;
    let mut busy = Client::open(gateway.address()).await;
    let mut idle = Frames::open(gateway.address()).await;
    let (answer, stream) = busy.begin(request("GET", "/"), true).await.unwrap();
    wait_for("the request is under way", SOON, async || {
        (origin.counts().requests() == 1).then_some(())
    })
    .await;
    gateway.signal(Signal::TERM);
    assert_eq!(idle.goaways().await.first(), Some(&NO_ERROR));
    assert_eq!(whole(answer).await.unwrap().status(), 200);
    drop(stream);
    assert!(busy.ended().await.is_ok());
    let status = gateway.terminate(Duration::from_secs(10)).await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn curl_finds_http_2_by_alpn() {
    let origin = EchoOrigin::start().await;
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["app.test".to_owned()]).unwrap();
    let (cert, key) = (folder.path().join("a.pem"), folder.path().join("a.key"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    for (http2, version) in [("true", "2"), ("false", "1.1")] {
        let listener = format!(
            "tls: {{ certificates: {{ cert: {}, key: {} }} }}, http2: {{ enabled: {http2} }}",
            cert.display(),
            key.display()
        );
        let gateway = gateway(&listener, origin.address(), "").await;
        let port = gateway.address().port();
        let curl = async |extra: &[&str], target: &str| {
            let output = Command::new("curl")
                .args(["-sS", "--http2", "--cacert"])
                .arg(&cert)
                .args(["--resolve", &format!("app.test:{port}:127.0.0.1")])
                .args(["-w", "\n%{http_version} %{http_code}"])
                .args(extra)
                .arg(format!("https://app.test:{port}{target}"))
                .output()
                .await
                .expect("curl is installed");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{said}");
            String::from_utf8(output.stdout).unwrap()
        };
        let expected = |body: &str, code: u16| format!("{body}\n{version} {code}");
        assert_eq!(curl(&[], "/fixed").await, expected("fixed", 200));
        let echoed = curl(&["-H", "expect: 100-continue", "-d", "body"], "/a").await;
        assert!(echoed.ends_with(&format!("{version} 200")), "{echoed}");
        assert!(echoed.contains("\"length\":4"), "{echoed}");
        let head = curl(&["-I"], "/fixed").await;
        assert!(
            head.to_ascii_lowercase().contains("content-length: 5"),
            "{head}"
        );
        let log = gateway.log_lines(3).await;
        assert!(
            log.iter()
                .all(|line| line["protocol"] == format!("HTTP/{version}")
                    && line["scheme"] == "https"),
            "{log:?}"
        );
    }
}

/// Kept here so that its use is seen: an answer's trailers are none on the way from HTTP/1.
#[tokio::test]
async fn an_answer_without_a_body_ends_with_its_head() {
    let origin = EchoOrigin::start().await;
    let gateway = gateway(CLEARTEXT, origin.address(), "").await;
    let client = Client::open(gateway.address()).await;
    let head: Answer = client.send(request("HEAD", "/"), "").await.unwrap();
    assert_eq!((head.status(), head.body.len()), (200, 0));
    assert!(head.header("content-length").is_some());
    assert!(head.trailers.is_none());
    // The control: over HTTP/1 it says the same.
    let same = gateway.send(&get("/")).await;
    assert!(same.header("content-length").is_some());
}
