//! gRPC through the gateway, by a real client to a real server: every kind of call, trailers,
//! deadlines, cancellation, and the statuses of calls that the gateway itself refuses.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: what goes wrong here fails the test, and says so"
)]

use std::{net::SocketAddr, time::Duration};

use futures_util::{StreamExt, stream};
use tokio::time::timeout;
use tonic::{
    Code, Request,
    metadata::MetadataValue,
    transport::{Certificate, ClientTlsConfig, Endpoint},
};

use crate::support::{
    certificates::{Ca, replace},
    client::post,
    gateway::Gateway,
    grpc::{DETAILS, TalkClient, TalkRequest, TalkServer, message},
    origins::ScriptedOrigin,
    ports::free_port,
    wait::wait_for,
};

const WITHIN: Duration = Duration::from_secs(10);

/// Starts a gateway that accepts HTTP/2 without TLS, in front of this backend.
async fn gateway(backend: SocketAddr, settings: &str) -> Gateway {
    gateway_with(backend, settings, "body_limit: false").await
}

async fn gateway_with(backend: SocketAddr, settings: &str, filters: &str) -> Gateway {
    Gateway::start(&yaml(backend, settings, filters)).await
}

fn yaml(backend: SocketAddr, settings: &str, filters: &str) -> String {
    format!(
        "listeners:
  - {{ name: web, address: '127.0.0.1:0', http2: {{ cleartext: true }} }}
upstreams:
  talk:
    backends: ['{backend}']
    protocol: h2
    health: false
    {settings}
routes:
  - match: {{ path: /test.Talk/* }}
    upstream: talk
    {filters}
  - match: {{ path: /other/* }}
    respond: {{ status: 200, body: other }}
"
    )
}

async fn pair() -> (TalkServer, Gateway, TalkClient) {
    let server = TalkServer::start().await;
    let gateway = gateway(server.address(), "").await;
    let client = TalkClient::connect(gateway.address()).await;
    (server, gateway, client)
}

/// `times` responses, `pause` milliseconds apart.
fn repeat(text: &str, times: u32, pause: u32) -> TalkRequest {
    TalkRequest {
        text: text.to_owned(),
        times,
        pause,
    }
}

#[tokio::test]
async fn a_call_passes_with_its_metadata_both_ways() {
    let (server, gateway, mut client) = pair().await;
    let mut request = Request::new(message("hello"));
    request
        .metadata_mut()
        .insert("x-mark", MetadataValue::from_static("twice"));
    let binary = MetadataValue::from_bytes(DETAILS);
    request.metadata_mut().insert_bin("x-raw-bin", binary);
    let response = client.echo(request).await.unwrap();
    assert_eq!(response.metadata().get("x-heard").unwrap(), "twice");
    assert_eq!(response.get_ref().text, "hello");

    let (uri, headers) = server.counts().newest();
    let authority = gateway.address();
    assert_eq!(uri, format!("http://{authority}/test.Talk/Echo"));
    assert_eq!(headers["te"], "trailers", "servers insist on it");
    assert_eq!(headers["content-type"], "application/grpc");
    assert_eq!(headers["x-forwarded-proto"], "http");
    assert!(headers.contains_key("x-raw-bin"));
    let line = gateway.log_lines(1).await.remove(0);
    assert_eq!(line["status"], 200, "{line}");
}

/// Invariant: the status of a call reaches its client over HTTP/1.1 as well, as with `HAProxy` and Caddy:
/// servers such as Connect speak gRPC there, in chunks with trailers.
#[tokio::test]
async fn an_app_of_http_1_ends_calls_with_its_trailers() {
    // A message is five bytes and Protocol Buffers, all of which are ASCII here.
    let response = |trailers: &str| {
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\
             Trailer: grpc-status\r\n\r\nb\r\n\0\0\0\0\u{6}\n\u{2}hi\u{10}\u{1}\r\n0\r\n{trailers}\r\n"
        )
    };
    let long = format!("x-long: {}\r\n", "x".repeat(9000));
    for (trailers, code) in [
        (
            "grpc-status: 0\r\nx-mark: a\r\nX-Mark:b \r\n".to_owned(),
            Code::Ok,
        ),
        (
            "Grpc-Status:5\r\ngrpc-message: not%20here\r\n".to_owned(),
            Code::NotFound,
        ),
        // None of these end the connection to the client.
        (
            "connection: close\r\ncontent-length: 3\r\n: x\r\nnone\r\ngrpc-status: 0\r\n"
                .to_owned(),
            Code::Ok,
        ),
        (format!("grpc-status: 0\r\n{}", long.repeat(9)), Code::Ok),
        // A call without a status is the client's to judge.
        (String::new(), Code::Unknown),
    ] {
        let text = response(&trailers);
        let origin = ScriptedOrigin::start(&[("/test.Talk/Echo", &text)]).await;
        let yaml = yaml(origin.address(), "", "").replace("protocol: h2", "protocol: http1");
        let gateway = Gateway::start(&yaml).await;
        let mut client = TalkClient::connect(gateway.address()).await;
        match client.echo(Request::new(message("hello"))).await {
            Ok(response) => {
                assert_eq!((code, response.get_ref().text.as_str()), (Code::Ok, "hi"));
                let marks = response.metadata().get_all("x-mark").iter().count();
                assert_eq!(marks, trailers.to_lowercase().matches("x-mark").count());
            }
            Err(status) => {
                assert_eq!(status.code(), code, "{trailers:?} {status}");
                assert_eq!(status.message() == "not here", code == Code::NotFound);
            }
        }
    }
}

#[tokio::test]
async fn calls_of_every_kind_pass() {
    let (server, _gateway, mut client) = pair().await;
    let responses = client.repeat(repeat("again", 100, 0)).await.unwrap();
    let responses: Vec<_> = responses
        .map(|response| response.unwrap().number)
        .collect()
        .await;
    assert_eq!(responses, (0..100).collect::<Vec<_>>());

    let requests = stream::iter(["a", "b", "c"].map(message));
    let response = client.collect(requests).await.unwrap();
    assert_eq!((response.text.as_str(), response.number), ("abc", 3));

    // Each message gets its response before the next one is sent: nothing waits for the end of a
    // stream.
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let requests = stream::unfold(receiver, |mut receiver| async {
        Some((receiver.recv().await?, receiver))
    });
    sender.send(message("0")).await.unwrap();
    let mut responses = client.chat(requests).await.unwrap();
    for number in 0..20 {
        let response = timeout(WITHIN, responses.message()).await.unwrap();
        assert_eq!(response.unwrap().unwrap().text, number.to_string());
        sender
            .send(message(&(number + 1).to_string()))
            .await
            .unwrap();
    }
    drop(sender);
    assert_eq!(responses.message().await.unwrap().unwrap().number, 20);
    assert!(responses.message().await.unwrap().is_none());
    assert_eq!(server.counts().cancelled(), 0);
}

#[tokio::test]
async fn a_failure_arrives_with_its_details() {
    let (_server, _gateway, mut client) = pair().await;
    let check = |status: tonic::Status| {
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(status.message(), "not now: 100 % sure");
        assert_eq!(status.details(), DETAILS);
        assert_eq!(status.metadata().get("x-why").unwrap(), "because");
    };
    // A response that ends with its headers.
    check(client.echo(message("fail")).await.unwrap_err());
    // Trailers after messages.
    let mut responses = client.repeat(repeat("break", 3, 0)).await.unwrap();
    for number in 0..3 {
        assert_eq!(responses.message().await.unwrap().unwrap().number, number);
    }
    check(responses.message().await.unwrap_err());
    // Before the client has sent all of its messages.
    let requests = stream::iter([message("a"), message("fail")]).chain(stream::pending());
    let early = timeout(WITHIN, client.collect(requests)).await.unwrap();
    check(early.unwrap_err());
}

#[tokio::test]
async fn large_messages_pass_both_ways() {
    let (_server, _gateway, mut client) = pair().await;
    // More than any window on the path, and more than may be kept for a retry.
    let text = "0123456789abcdef".repeat(12 * 1024 * 1024 / 16);
    let response = client.echo(message(&text)).await.unwrap();
    assert_eq!(response.get_ref().text.len(), text.len());
    assert!(response.get_ref().text == text);
}

#[tokio::test]
async fn a_deadline_ends_the_call_and_the_servers_work() {
    let (server, _gateway, mut client) = pair().await;
    let mut request = Request::new(repeat("slow", 0, 60_000));
    request.set_timeout(Duration::from_millis(300));
    let status = timeout(WITHIN, client.echo(request)).await.unwrap();
    let status = status.unwrap_err();
    // Client and server race to notice the deadline first.
    let codes = [Code::Cancelled, Code::DeadlineExceeded];
    assert!(codes.contains(&status.code()), "{status:?}");
    assert!(server.counts().newest().1.contains_key("grpc-timeout"));
    wait_for("the server gave it up", WITHIN, async || {
        (server.counts().cancelled() == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_call_and_no_other() {
    let (server, gateway, mut client) = pair().await;
    let mut responses = client.repeat(repeat("on", 1_000_000, 10)).await.unwrap();
    responses.message().await.unwrap().unwrap();
    let mut others = client.repeat(repeat("on", 1_000_000, 10)).await.unwrap();
    drop(responses);
    wait_for("the server is notified", WITHIN, async || {
        (server.counts().cancelled() == 1).then_some(())
    })
    .await;
    for _ in 0..20 {
        others.message().await.unwrap().unwrap();
    }
    assert_eq!(server.counts().cancelled(), 1);
    drop(others);
    let line = gateway.log_lines(1).await.remove(0);
    assert_eq!(line["reason"], "client_gone", "{line}");
}

#[tokio::test]
async fn calls_share_a_connection() {
    let (server, gateway, client) = pair().await;
    let mut warm = client.clone();
    warm.echo(message("first")).await.unwrap();
    // All of them are in flight at once.
    let mut open = Vec::new();
    for _ in 0..40 {
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let requests = stream::unfold(receiver, |mut receiver| async {
            Some((receiver.recv().await?, receiver))
        });
        sender.send(message("x")).await.unwrap();
        let mut responses = client.clone().chat(requests).await.unwrap();
        responses.message().await.unwrap().unwrap();
        open.push((sender, responses));
    }
    assert_eq!(server.counts().connections(), 1);
    let series = "edgeway_backend_in_flight{upstream=\"talk\"}";
    assert_eq!(gateway.count(series).await, 40);
}

#[tokio::test]
async fn a_silent_call_ends_alone() {
    let server = TalkServer::start().await;
    let timeouts = "timeouts: { stream_idle: 700ms, first_byte: 100ms }";
    let gateway = gateway(server.address(), timeouts).await;
    let mut client = TalkClient::connect(gateway.address()).await;
    client.echo(message("first")).await.unwrap();
    // A call waits for its response longer than another request does.
    client.echo(repeat("late", 0, 300)).await.unwrap();
    // The gaps between its messages are shorter than the timeout, and the call lasts longer.
    let mut lively = client.repeat(repeat("on", 1_000_000, 50)).await.unwrap();
    lively.message().await.unwrap().unwrap();
    let status = client.echo(repeat("wait", 0, 60_000)).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert!(status.message().starts_with("upstream_timeout"));
    assert_eq!(server.counts().connections(), 1);
    for _ in 0..20 {
        lively.message().await.unwrap().unwrap();
    }
    wait_for("the server is notified", WITHIN, async || {
        (server.counts().cancelled() == 1).then_some(())
    })
    .await;
    // A stream that falls silent is ended.
    let mut silent = client
        .repeat(repeat("on", 1_000_000, 60_000))
        .await
        .unwrap();
    let status = silent.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Internal, "{status:?}");
    let lines = gateway.log_lines(4).await;
    let reasons: Vec<_> = lines.iter().map(|line| line["reason"].clone()).collect();
    assert!(reasons.contains(&"upstream_idle".into()), "{reasons:?}");
    assert!(lively.message().await.unwrap().is_some());
}

#[tokio::test]
async fn refusals_of_the_gateway_are_grpc_statuses() {
    let nobody = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let down = gateway(nobody, "").await;
    let mut client = TalkClient::connect(down.address()).await;
    let status = client.echo(message("hello")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(
        status.message().starts_with("upstream_connect: "),
        "{status:?}"
    );
    // Operators still find the reason in the log.
    let line = down.log_lines(1).await.remove(0);
    assert_eq!(line["reason"], "upstream_connect");

    // A page changes neither the status of a call nor its headers.
    let page = "error_pages: { pages: { 5xx: { redirect: /x } } }";
    let with_page = gateway_with(nobody, "", page).await;
    let mut client = TalkClient::connect(with_page.address()).await;
    let status = client.echo(message("hello")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.metadata().get("location").is_none(), "{status:?}");

    let server = TalkServer::start().await;
    let small = gateway_with(server.address(), "", "body_limit: 1KiB").await;
    let mut client = TalkClient::connect(small.address()).await;
    let status = client.echo(message(&"x".repeat(4096))).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");

    // The control: for other requests a failure keeps its HTTP status.
    let plain = post("/test.Talk/Echo", "x").header("content-type", "application/json");
    let status = down.send(&plain).await.status();
    assert!((502..=503).contains(&status), "{status}");
}

#[tokio::test]
async fn responses_with_trailers_are_not_compressed_and_filters_see_their_end() {
    let server = TalkServer::start().await;
    let filters = "body_limit: false\n    compression: { min_size: 0B, types: ['application/*'] }";
    let gateway = gateway_with(server.address(), "", filters).await;
    let mut client = TalkClient::connect(gateway.address()).await;
    let mut request = Request::new(message(&"compress me ".repeat(1000)));
    let accept = MetadataValue::from_static("gzip, br");
    request.metadata_mut().insert("accept-encoding", accept);
    let response = client.echo(request).await.unwrap();
    assert!(response.metadata().get("content-encoding").is_none());
}

#[tokio::test]
async fn tls_on_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::new();
    let (ca_file, dir) = (folder.path().join("ca.pem"), folder.path().display());
    replace(&ca_file, ca.pem());
    ca.site(&["edge.test"]).write(folder.path(), "edge");
    let server = TalkServer::start_tls(&ca.site(&["talk.test"])).await;
    let gateway = Gateway::start(&format!(
        "listeners:
  - name: web
    address: '127.0.0.1:0'
    tls: {{ certificates: [{{ cert: '{dir}/edge.pem', key: '{dir}/edge.key' }}] }}
upstreams:
  talk:
    backends: ['{}']
    protocol: h2
    tls: {{ name: talk.test, ca: '{}' }}
    health: false
routes:
  - match: {{ path: /test.Talk/* }}
    upstream: talk
",
        server.address(),
        ca_file.display()
    ))
    .await;
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(ca.pem()))
        .domain_name("edge.test");
    let endpoint = Endpoint::from_shared(format!("https://{}", gateway.address())).unwrap();
    let mut client = TalkClient::to(endpoint.tls_config(tls).unwrap()).await;
    assert_eq!(
        client.echo(message("hello")).await.unwrap().get_ref().text,
        "hello"
    );
    let (uri, headers) = server.counts().newest();
    assert!(uri.starts_with("https://"), "{uri}");
    assert_eq!(headers["x-forwarded-proto"], "https");
    let requests = stream::iter(["a", "b"].map(message));
    let responses = client.chat(requests).await.unwrap();
    assert_eq!(responses.count().await, 2);
    assert_eq!(
        client.echo(message("fail")).await.unwrap_err().details(),
        DETAILS
    );
}
