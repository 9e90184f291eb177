//! HTTP/2 to backends below gRPC: deadlines of one stream among others, retries, ends of responses,
//! and backends that speak another protocol.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: what goes wrong here fails the test, and says so"
)]

use std::{io, net::SocketAddr, time::Duration};

use http::HeaderMap;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::support::{
    certificates::{Ca, replace},
    client::{get, post},
    front::Front,
    gateway::Gateway,
    http2::{Client, request},
    origins::{EchoOrigin, Http2Origin, SecureOrigin},
    verify::decoded,
    wait::wait_for,
};

const WITHIN: Duration = Duration::from_secs(10);

async fn gateway(backend: SocketAddr, settings: &str) -> Gateway {
    Front::to(backend)
        .http2()
        .upstream(&format!("protocol: h2, {settings}"))
        .start()
        .await
}

/// Response; the body ended properly if there is no `error`.
struct Response {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
    error: Option<h2::Error>,
}

async fn get_from(client: &Client, path: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = request("GET", path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (response, _) = client.begin(request, true).await.unwrap();
    let (head, mut stream) = response.await.unwrap().into_parts();
    let (mut body, mut error) = (Vec::new(), None);
    while let Some(piece) = stream.data().await {
        match piece {
            Ok(piece) => {
                stream.flow_control().release_capacity(piece.len()).unwrap();
                body.extend_from_slice(&piece);
            }
            Err(broken) => {
                error = Some(broken);
                break;
            }
        }
    }
    let trailers = match &error {
        None => stream.trailers().await.unwrap(),
        Some(_) => None,
    };
    Response {
        status: head.status.as_u16(),
        headers: head.headers,
        body,
        trailers,
        error,
    }
}

/// Checks that a stream ends for `reason` while another on the same connection continues.
async fn ends_alone(settings: &str, path: &str, status: u16, reason: &str) {
    let origin = Http2Origin::start().await;
    let gateway = gateway(origin.address(), settings).await;
    let client = Client::open(gateway.address()).await;
    assert_eq!(get_from(&client, "/first", &[]).await.status, 200);
    // It is logged once its connection is back in the pool, where the next request finds it.
    gateway.log_lines(1).await;
    let mut sibling = gateway.connect().await;
    let lively = get("/drip").header("accept", "text/event-stream");
    sibling.start(&lively).await.unwrap();

    let ended = tokio::time::timeout(WITHIN, get_from(&client, path, &[])).await;
    let ended = ended.expect("long before");
    assert_eq!(ended.status, status);
    assert_eq!(ended.error.is_some(), status == 200, "{:?}", ended.error);
    let lines = gateway.log_lines(2).await;
    assert_eq!(lines[1]["reason"], reason, "{lines:?}");
    assert_eq!(origin.counts().connections(), 1, "all on one connection");
    wait_for("the backend is notified", WITHIN, async || {
        (origin.counts().cancelled() == 1).then_some(())
    })
    .await;
    for _ in 0..20 {
        let piece = tokio::time::timeout(WITHIN, sibling.piece()).await;
        assert!(piece.expect("it goes on").unwrap().is_some());
    }
    sibling.leave("a feed has no end");
}

#[tokio::test]
async fn a_response_that_does_not_begin_ends_alone() {
    let settings = "timeouts: { first_byte: 400ms, idle: 400ms }";
    ends_alone(settings, "/silent", 504, "upstream_timeout").await;
}

#[tokio::test]
async fn a_response_that_stops_ends_alone() {
    let settings = "timeouts: { first_byte: 400ms, idle: 400ms }";
    ends_alone(settings, "/gap", 200, "upstream_idle").await;
}

#[tokio::test]
async fn a_request_beyond_its_total_timeout_ends_alone() {
    let settings = "timeouts: { total: 400ms }";
    ends_alone(settings, "/silent", 504, "upstream_total_timeout").await;
    // Also while data flows.
    ends_alone(settings, "/drip", 200, "upstream_total_timeout").await;
}

#[tokio::test]
async fn a_time_that_the_client_sets_is_no_fault_of_the_backend() {
    let origin = Http2Origin::start().await;
    let gateway = gateway(origin.address(), "").await;
    let client = Client::open(gateway.address()).await;
    let call = [("content-type", "application/grpc"), ("grpc-timeout", "1m")];
    let ended = get_from(&client, "/silent", &call).await;
    assert_eq!(ended.headers["grpc-status"], "4");
    gateway.log_lines(1).await;
    let attempts = "edgeway_upstream_requests_total{outcome=";
    let outcome = async |word: &str| gateway.count(&format!("{attempts}\"{word}\"}}")).await;
    assert_eq!(
        (outcome("client_gone").await, outcome("timeout").await),
        (1, 0)
    );
}

#[tokio::test]
async fn clients_of_http1_reach_it_as_well() {
    let origin = Http2Origin::start().await;
    let gateway = gateway(origin.address(), "").await;
    let request = post("/x", "body")
        .header("te", "trailers, gzip")
        .header("connection", "te");
    assert_eq!(gateway.send(&request).await.text(), "1");
    let seen = origin.counts().newest();
    assert_eq!(seen["te"], "trailers", "nothing else may stand there");
    assert!(!seen.contains_key("connection"));
    assert_eq!(seen["x-forwarded-host"], gateway.address().to_string());
    assert_eq!(gateway.get("/x").await.text(), "1");
    assert!(!origin.counts().newest().contains_key("te"));
}

#[tokio::test]
async fn only_idempotent_and_refused_requests_are_retried() {
    for (path, is_refused) in [("/refuse", true), ("/goaway", false), ("/reset", false)] {
        let origin = Http2Origin::start().await;
        let first = gateway(origin.address(), "").await;
        assert_eq!(first.get(path).await.status(), 200, "{path}");
        assert_eq!(origin.counts().requests(), 2, "{path}");

        let origin = Http2Origin::start().await;
        let second = gateway(origin.address(), "").await;
        let response = second.send(&post(path, "x")).await;
        if is_refused {
            // RFC 9113, section 8.7: nothing of it was processed.
            assert_eq!((response.status(), origin.counts().requests()), (200, 2));
        } else {
            assert_eq!(
                (response.status(), origin.counts().requests()),
                (502, 1),
                "{path}"
            );
            let line = second.log_lines(1).await.remove(0);
            assert_eq!(line["reason"], "upstream_reset", "{path}");
        }
    }
}

/// Serves a connection of HTTP/2 by hand: a GOAWAY that excludes its first request, or a response.
async fn serve_frames(mut socket: TcpStream, excludes: bool) -> io::Result<()> {
    let mut preface = [0; 24];
    socket.read_exact(&mut preface).await?;
    socket.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await?;
    loop {
        let mut head = [0; 9];
        socket.read_exact(&mut head).await?;
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        socket.read_exact(&mut payload).await?;
        let [.., kind, flags, a, b, c, d] = head;
        match (kind, flags) {
            // RFC 9113, 6.8: the last stream that was processed is none.
            (1, _) if excludes => {
                let goaway = [&[0, 0, 8, 7, 0, 0, 0, 0, 0][..], &[0; 8]].concat();
                socket.write_all(&goaway).await?;
            }
            (1, _) => {
                // `:status: 200`, and `content-length: 0` twice (RFC 7541, 6.2.2).
                let length = [0x0f, 0x0d, 1, b'0'];
                let response = [&[0, 0, 9, 1, 5, a, b, c, d, 0x88][..], &length, &length];
                socket.write_all(&response.concat()).await?;
            }
            (4, 0) => socket.write_all(&[0, 0, 0, 4, 1, 0, 0, 0, 0]).await?,
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_write_that_a_goaway_excludes_is_sent_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut backend = JoinSet::new();
    backend.spawn(async move {
        let mut connections = JoinSet::new();
        for number in 0.. {
            let (socket, _) = listener.accept().await.unwrap();
            connections.spawn(serve_frames(socket, number == 0));
        }
    });
    let gateway = gateway(address, "").await;
    let response = gateway.send(&post("/", "x")).await;
    assert_eq!(response.status(), 200);
    assert!(response.headers.get_all("content-length").eq(["0"]));
}

#[tokio::test]
async fn trailers_reach_clients_that_can_receive_them() {
    let origin = Http2Origin::start().await;
    let gateway = gateway(origin.address(), "").await;
    let client = Client::open(gateway.address()).await;
    let response = get_from(&client, "/trailers", &[]).await;
    assert!(response.error.is_none());
    assert_eq!(response.trailers.unwrap()["x-sum"], "42");
    // HTTP/1.1 has trailers, but Pingora does not write them: a complete body without them.
    let mut connection = gateway.connect().await;
    for _ in 0..2 {
        let plain = connection.send(&get("/trailers")).await.unwrap();
        assert_eq!(plain.body.len(), response.body.len());
        assert_eq!(plain.header("transfer-encoding"), Some("chunked"));
    }
}

/// However a response ends, the encoder writes its end.
#[tokio::test]
async fn an_encoded_response_is_complete_however_it_ends() {
    let origin = Http2Origin::start().await;
    let gateway = gateway(origin.address(), "").await;
    let client = Client::open(gateway.address()).await;
    for path in ["/trailers", "/late-end"] {
        let plain = get_from(&client, path, &[]).await.body;
        assert!(plain.len() > 4000);
        let encoded = get_from(&client, path, &[("accept-encoding", "gzip")]).await;
        assert_eq!(encoded.headers["content-encoding"], "gzip");
        assert!(encoded.error.is_none());
        assert_eq!(decoded("gzip", &encoded.body).unwrap(), plain, "{path}");
        let http1 = gateway
            .send(&get(path).header("accept-encoding", "gzip"))
            .await;
        assert_eq!(http1.header("content-encoding"), Some("gzip"));
        assert_eq!(http1.decoded(), plain, "{path}");
    }
}

#[tokio::test]
async fn backends_that_speak_http1_only_are_reported() {
    let plain = EchoOrigin::start().await;
    let clear = gateway(plain.address(), "").await;
    assert_eq!(clear.get("/").await.status(), 502);
    let line = clear.log_lines(1).await.remove(0);
    assert_eq!(line["reason"], "upstream_bad_answer", "{line}");

    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::new();
    let ca_file = folder.path().join("ca.pem");
    replace(&ca_file, ca.pem());
    let tls = format!("tls: {{ name: api.test, ca: '{}' }}", ca_file.display());
    let secure = SecureOrigin::start_http1(&ca.site(&["api.test"])).await;
    let tls = gateway(secure.address(), &tls).await;
    assert_eq!(tls.get("/").await.status(), 502);
    let line = tls.log_lines(1).await.remove(0);
    // The backend either refuses the ALPN protocols or ignores them.
    let reasons = ["upstream_bad_answer", "upstream_tls"];
    assert!(
        reasons.contains(&line["reason"].as_str().unwrap()),
        "{line}"
    );
}

#[tokio::test]
async fn health_checks_use_http2() {
    let origin = Http2Origin::start().await;
    let down = EchoOrigin::start().await;
    let gateway = Front::to_all(&format!("['{}', '{}']", origin.address(), down.address()))
        .upstream("protocol: h2, health: { path: /health, interval: 50ms, fall: 1 }")
        .start()
        .await;
    let backend = async |index: usize| {
        let status = gateway.admin_get("/status").await.json();
        status["upstreams"][0]["backends"][index].clone()
    };
    wait_for("HTTP/1.1 alone is found out", WITHIN, async || {
        (backend(1).await["state"] == "down").then_some(())
    })
    .await;
    assert_eq!(backend(1).await["probe"]["text"], "no HTTP/2");
    wait_for("the other passes", WITHIN, async || {
        (backend(0).await["probe"]["passed"] == true).then_some(())
    })
    .await;
}
