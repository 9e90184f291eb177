//! HTTP/2 to clients: the same requests and responses as over HTTP/1.

mod bounds;
mod clients;
mod refusals;

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::{
    client::get,
    gateway::Gateway,
    http2::{
        Client, DATA, END_HEADERS, END_STREAM, Frames, HEADERS, PREFACE, RST_STREAM, Response,
        SETTINGS, block, field, frame, next, read_response, request, upload,
    },
    origins::{
        BigOrigin, DripOrigin, EchoOrigin, Failure, ResettingOrigin, ScriptedOrigin, SseOrigin,
    },
    wait::{pass, wait_for},
};

const SOON: Duration = Duration::from_secs(5);
const MIB: u64 = 1024 * 1024;

/// Starts a gateway that accepts HTTP/2 without TLS. `listener`: more of its keys.
async fn gateway(listener: &str, origin: SocketAddr, more: &str) -> Gateway {
    Gateway::start(&yaml(listener, origin, more)).await
}

fn yaml(listener: &str, origin: SocketAddr, more: &str) -> String {
    format!(
        "
listeners: [{{ address: \"127.0.0.1:0\", name: web, {listener} }}]
upstreams:
  app:
    backends: [\"{origin}\"]
    health: false
{more}
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
    )
}

const CLEARTEXT: &str = "http2: { cleartext: true }";

async fn until_refused(gateway: &Gateway, reason: &str) {
    wait_for(&format!("`{reason}` is counted"), SOON, async || {
        (gateway.refused(reason).await > 0).then_some(())
    })
    .await;
}

/// Returns the first log line with this value. Streams end in any order.
#[track_caller]
fn line<'l>(log: &'l [Value], key: &str, value: &str) -> &'l Value {
    let found = log.iter().find(|line| line[key] == value);
    assert!(found.is_some(), "no line with {key} {value}: {log:#?}");
    found.expect("it was found")
}

#[tokio::test]
async fn both_versions_are_served_on_one_port_and_http_2_only_where_it_is_wanted() {
    let origin = EchoOrigin::start().await;
    let both = gateway(CLEARTEXT, origin.address(), "").await;
    let client = Client::open(both.address()).await;
    assert_eq!(client.get("/fixed").await.text(), "fixed");
    assert_eq!(both.get("/fixed").await.text(), "fixed");
    let log = both.log_lines(2).await;
    line(&log, "protocol", "HTTP/2");
    line(&log, "protocol", "HTTP/1.1");

    // The control: a listener without `http2`.
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
    let response = client.send(asked, "four").await.unwrap();
    let seen = response.json();
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

    // Routes match the authority.
    let tenant = http::Request::get("http://tenant.test/fixed");
    assert_eq!(client.send(tenant, "").await.unwrap().text(), "tenant");
    assert_eq!(client.get("/fixed").await.text(), "fixed");

    let log = gateway.log_lines(3).await;
    let posted = line(&log, "method", "POST");
    assert_eq!(posted["host"], "app.test");
    assert_eq!(posted["bytes_in"], 4);
    assert_eq!(posted["bytes_out"], response.body.len());
    line(&log, "host", "tenant.test");
    assert!(log.iter().all(|line| line["protocol"] == "HTTP/2"));
}

#[tokio::test]
async fn a_refused_stream_ends_no_other_stream() {
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
    let response = client.send(request("HEAD", "/a%00b"), "").await.unwrap();
    assert_eq!((response.status(), response.body.len()), (400, 0));
    // A hop-by-hop header: the stream is reset (RFC 9113, 8.2.2).
    let between = request("GET", "/").header("connection", "x-a");
    assert!(client.begin(between, true).await.is_err());
    assert_eq!(origin.counts().requests(), 0);

    // The control: the connection still works.
    assert_eq!(client.get("/").await.status(), 200);
    let log = gateway.log_lines(9).await;
    let malformed = line(&log, "reason", "h2_malformed");
    assert_eq!(
        (&malformed["status"], &malformed["path"]),
        (&json!(400), &json!("/"))
    );
    let mut reasons: Vec<_> = log.iter().filter_map(|l| l["reason"].as_str()).collect();
    reasons.sort_unstable();
    let expected = [
        "bad_header",
        "bad_path",
        "bad_path",
        "expectation",
        "h2_malformed",
        "long_head",
        "long_line",
        "method",
    ];
    assert_eq!(reasons, expected);
    gateway.refuses("h2_malformed", 1).await;
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

/// RFC 9113, 8.2.1: a value that one program trims and another does not is two values.
#[tokio::test]
async fn space_around_a_value_resets_the_stream() {
    let origin = EchoOrigin::start().await;
    let gateway = gateway(CLEARTEXT, origin.address(), "").await;
    let mut frames = Frames::open(gateway.address()).await;
    let whole = END_HEADERS | END_STREAM;
    let mut stream = 1;
    for value in [" a", "a ", "\ta", "a\t", " ", "\t", "a b \t"] {
        for name in ["x-user", "cookie", "accept"] {
            let bad = [block("GET", "/"), field(name, value)].concat();
            frames
                .write(&frame(HEADERS, whole, stream, &bad))
                .await
                .unwrap();
            let reset = frames.until(RST_STREAM).await.unwrap();
            assert_eq!(
                (reset.stream, &reset.payload[..]),
                (stream, &[0, 0, 0, 1][..]),
                "{name}: {value:?}"
            );
            stream += 2;
        }
    }
    assert_eq!(origin.counts().requests(), 0);
    // The control: space within.
    let good = [
        block("GET", "/"),
        field("x-user", "a b"),
        field("x-none", ""),
    ]
    .concat();
    frames
        .write(&frame(HEADERS, whole, stream, &good))
        .await
        .unwrap();
    assert_eq!(frames.until(HEADERS).await.unwrap().stream, stream);
    assert_eq!(origin.counts().requests(), 1);
    let log = gateway.log_lines(22).await;
    let is_refused = |line: &&Value| line["status"] == 444 && line["reason"] == "h2_malformed";
    assert_eq!(log.iter().filter(is_refused).count(), 21, "{log:#?}");
}

/// RFC 9110, 8.6: over HTTP/1.1 a backend could read another length than the gateway did.
#[tokio::test]
async fn a_length_that_is_not_one_plain_number_reaches_no_backend() {
    let origin = EchoOrigin::start().await;
    let gateway = gateway(CLEARTEXT, origin.address(), "").await;
    let mut frames = Frames::open(gateway.address()).await;
    let mut stream = 1;
    let mut send = async |lengths: &[&str], body: &[u8]| {
        let lengths = lengths.iter().map(|it| field("content-length", it));
        let head = [
            block("POST", "/small"),
            lengths.collect::<Vec<_>>().concat(),
        ]
        .concat();
        let sent = [
            frame(HEADERS, END_HEADERS, stream, &head),
            frame(DATA, END_STREAM, stream, body),
        ];
        frames.write(&sent.concat()).await.unwrap();
        let got = loop {
            let got = frames.next().await.unwrap();
            if got.stream == stream && matches!(got.kind, HEADERS | RST_STREAM) {
                break got;
            }
        };
        stream += 2;
        // The status is in the static table (RFC 7541, Appendix A).
        match (got.kind, got.payload.first()) {
            (HEADERS, Some(0x8c)) => 400,
            (HEADERS, Some(0x88)) => 200,
            _ => 0,
        }
    };
    for bad in [&["4", "4"][..], &["04"], &["004"]] {
        assert_eq!(send(bad, b"body").await, 400, "{bad:?}");
    }
    for wrong in [&["0"][..], &["+4"], &["4, 4"], &["4", "5"]] {
        assert_ne!(send(wrong, b"body").await, 200, "{wrong:?}");
    }
    assert_eq!(origin.counts().requests(), 0);
    // These reach it in part, and are broken off.
    for wrong in ["3", "5"] {
        assert_ne!(send(&[wrong], b"body").await, 200, "{wrong:?}");
    }
    // The control.
    for (length, body) in [("4", &b"body"[..]), ("0", b"")] {
        assert_eq!(send(&[length], body).await, 200, "{length}");
    }
    assert_eq!(send(&[], b"body").await, 200);
}

/// The `h2` crate drops both before any other code sees them, so rule, key and backend agree.
/// curl and Go send JSON in a query as it is written: Go repeats a request whose stream is reset
/// until its time is up.
#[tokio::test]
async fn quotes_and_brackets_in_a_query_arrive_as_browsers_write_them() {
    let origin = EchoOrigin::start().await;
    let gateway = gateway(CLEARTEXT, origin.address(), "").await;
    let mut frames = Frames::open(gateway.address()).await;
    for (stream, target) in [
        (1, "/small/a?filter={\"a\":1}"),
        (3, "/small/b?a=<b>"),
        (5, "/small/<c>`"),
        (7, "/small/d\"e"),
    ] {
        let whole = END_HEADERS | END_STREAM;
        let asked = frame(HEADERS, whole, stream, &block("GET", target));
        frames.write(&asked).await.unwrap();
        assert_eq!(frames.until(HEADERS).await.unwrap().stream, stream);
    }
    let log = gateway.log_lines(4).await;
    for (key, value) in [
        ("query", "filter={%22a%22:1}"),
        ("query", "a=%3Cb%3E"),
        ("path", "/small/%3Cc%3E%60"),
    ] {
        assert_eq!(line(&log, key, value)["status"], 200);
    }
    assert_eq!(line(&log, "reason", "bad_path")["status"], 400);
}

#[tokio::test]
async fn fragments_and_pseudo_headers_in_trailers_are_removed() {
    let origin = EchoOrigin::start().await;
    let gateway = gateway(CLEARTEXT, origin.address(), "").await;
    let mut frames = Frames::open(gateway.address()).await;
    let whole = END_HEADERS | END_STREAM;
    let asked = block("GET", "/small/x#/fixed");
    frames
        .write(&frame(HEADERS, whole, 1, &asked))
        .await
        .unwrap();
    assert_eq!(frames.until(HEADERS).await.unwrap().stream, 1);
    let posted = block("POST", "/small/y");
    let trailers = [field(":path", "/fixed"), field("x-last", "1")].concat();
    for piece in [
        frame(HEADERS, END_HEADERS, 3, &posted),
        frame(DATA, 0, 3, b"body"),
        frame(HEADERS, whole, 3, &trailers),
    ] {
        frames.write(&piece).await.unwrap();
    }
    assert_eq!(frames.until(HEADERS).await.unwrap().stream, 3);
    let log = gateway.log_lines(2).await;
    assert!(log.iter().all(|line| line["path"] != "/fixed"), "{log:#?}");
    line(&log, "path", "/small/x");
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
    let (response, _) = client.begin(asked, true).await.unwrap();
    let mut body = response.await.unwrap().into_body();
    let mut came = 0;
    while let Some(piece) = next(&mut body).await.unwrap() {
        came += piece.len() as u64;
    }
    assert_eq!(came, SIZE);

    let (response, mut stream) = client
        .begin(request("POST", "/large"), false)
        .await
        .unwrap();
    let piece = Bytes::from(vec![b'a'; 1024 * 1024]);
    for n in 1..=64 {
        upload(&mut stream, piece.clone(), n == 64).await.unwrap();
    }
    assert_eq!(read_response(response).await.unwrap().json()["bytes"], SIZE);
    let grown = gateway.rss().saturating_sub(before);
    assert!(grown < 16 * MIB, "{grown} bytes more than before");

    let log = gateway.log_lines(3).await;
    for way in ["bytes_out", "bytes_in"] {
        assert!(log.iter().any(|line| line[way] == SIZE), "{way}: {log:#?}");
    }
}

#[tokio::test]
async fn a_body_that_is_too_long_is_refused_while_it_arrives() {
    let origin = BigOrigin::start().await;
    let gateway = gateway(CLEARTEXT, origin.address(), "").await;
    let client = Client::open(gateway.address()).await;
    // Once by its declared length, and once while it arrives.
    let announced = request("POST", "/small").header("content-length", 10 * MIB);
    let silent = request("POST", "/small");
    for asked in [announced, silent] {
        let (response, mut stream) = client.begin(asked, false).await.unwrap();
        let piece = Bytes::from(vec![b'a'; 64 * 1024]);
        // The client never ends it: the response has to arrive before.
        upload(&mut stream, piece.clone(), false).await.unwrap();
        drop(upload(&mut stream, piece, false).await);
        let response = read_response(response).await.unwrap();
        assert_eq!(response.status(), 413);
        assert!(response.header("x-request-id").is_some());
    }
    // The control: another request on the same connection.
    let fits = client.send(request("POST", "/small"), "fits").await;
    assert_eq!(fits.unwrap().json()["bytes"], 4);
}

#[tokio::test]
async fn an_overload_refuses_a_stream_and_not_the_connection() {
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
    let (response, stream) = client.begin(request("GET", "/events"), true).await.unwrap();
    let mut body = response.await.unwrap().into_body();
    assert!(next(&mut body).await.unwrap().is_some());
    assert_eq!(origin.counts().cancelled(), 0);
    drop((body, stream));
    wait_for("the origin has noticed", SOON, async || {
        (origin.counts().cancelled() == 1).then_some(())
    })
    .await;
    let log = gateway.log_lines(1).await;
    assert_eq!(log[0]["reason"], "client_gone");
    // The control: other streams continue.
    assert_eq!(client.get("/fixed").await.status(), 200);
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
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{errors}");
            String::from_utf8(output.stdout).unwrap()
        };
        let expected = |body: &str, code: u16| format!("{body}\n{version} {code}");
        assert_eq!(curl(&[], "/fixed").await, expected("fixed", 200));
        let echoed = curl(&["-H", "expect: 100-continue", "-d", "body"], "/a").await;
        assert!(echoed.ends_with(&format!("{version} 200")), "{echoed}");
        assert!(echoed.contains("\"length\":4"), "{echoed}");
        let headers = curl(&["-I"], "/fixed").await;
        assert!(
            headers.to_ascii_lowercase().contains("content-length: 5"),
            "{headers}"
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

#[tokio::test]
async fn a_response_without_a_body_ends_with_its_headers() {
    let origin = EchoOrigin::start().await;
    let gateway = gateway(CLEARTEXT, origin.address(), "").await;
    let client = Client::open(gateway.address()).await;
    let response: Response = client.send(request("HEAD", "/"), "").await.unwrap();
    assert_eq!((response.status(), response.body.len()), (200, 0));
    assert!(response.header("content-length").is_some());
    // The control: the same over HTTP/1.
    let same = gateway.send(&get("/")).await;
    assert!(same.header("content-length").is_some());
}

#[tokio::test]
async fn headers_that_http_2_does_not_have_are_removed() {
    let interim = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n";
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nkeep-alive: timeout=9\r\n\r\n\
                   2\r\nok\r\n0\r\nx-trailer: 1\r\nkeep-alive: 1\r\n\r\n";
    let origin = ScriptedOrigin::start(&[
        ("/hints", &format!("{interim}{chunked}")),
        ("/none", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("/same", "HTTP/1.1 304 Not Modified\r\netag: \"a\"\r\n\r\n"),
    ])
    .await;
    let gateway = gateway(CLEARTEXT, origin.address(), "").await;
    let client = Client::open(gateway.address()).await;
    let response = client.get("/hints").await;
    assert_eq!((response.status(), response.text()), (200, "ok"));
    for name in ["transfer-encoding", "keep-alive", "connection", "link"] {
        assert_eq!(response.header(name), None, "{name}");
    }
    let trailers = response.trailers.expect("those of HTTP/1.1 are carried");
    assert_eq!(
        (trailers.len(), trailers["x-trailer"].as_bytes()),
        (1, &b"1"[..])
    );
    for (target, status) in [("/none", 204), ("/same", 304)] {
        let response = client.get(target).await;
        assert_eq!((response.status(), response.body.len()), (status, 0));
    }
    // The control: a truncated response is not complete.
    let origin =
        ScriptedOrigin::start(&[("/", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")]).await;
    let gateway = self::gateway(CLEARTEXT, origin.address(), "").await;
    let client = Client::open(gateway.address()).await;
    let sent = client.send(request("GET", "/"), "").await;
    let reset = sent.unwrap_err();
    assert_eq!(reset.reason(), Some(h2::Reason::INTERNAL_ERROR));
    // What had come of it arrives before the reset.
    let (response, _stream) = client.begin(request("GET", "/"), true).await.unwrap();
    let mut body = response.await.unwrap().into_body();
    assert_eq!(next(&mut body).await.unwrap().unwrap(), "half");
    assert!(next(&mut body).await.is_err_and(|error| error.is_reset()));
}

#[tokio::test]
async fn a_client_that_pauses_is_not_taken_for_a_silent_backend() {
    const SIZE: u64 = 16 * MIB;
    let origin = BigOrigin::start().await;
    let idle = "    timeouts: { idle: 300ms }\n";
    let gateway = gateway(CLEARTEXT, origin.address(), idle).await;
    let client = Client::open(gateway.address()).await;
    let asked = request("GET", &format!("/large?bytes={SIZE}"));
    let (response, _stream) = client.begin(asked, true).await.unwrap();
    let mut body = response.await.unwrap().into_body();
    pass(Duration::from_millis(1200)).await;
    let mut came = 0;
    while let Some(piece) = next(&mut body).await.unwrap() {
        came += piece.len() as u64;
    }
    assert_eq!(came, SIZE);
    // The control: the gateway does not wait for a backend that pauses.
    let slow = DripOrigin::start(Duration::from_millis(1200)).await;
    let gateway = self::gateway(CLEARTEXT, slow.address(), idle).await;
    let client = Client::open(gateway.address()).await;
    assert!(client.send(request("GET", "/"), "").await.is_err());
    assert_eq!(gateway.log_lines(1).await[0]["reason"], "upstream_idle");
}
