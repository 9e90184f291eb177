//! Each exit of a request for a stored response writes one line of the access log and counts the request once.

use std::{net::SocketAddr, time::Duration};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{
    client::{Connection, Request, get, narrow},
    gateway::Gateway,
    origins::{NumberedOrigin, Origin},
    wait::{pass, wait_for},
};

const SOON: Duration = Duration::from_secs(10);
/// More than the kernel and the gateway hold for a client that does not read.
const LARGE: usize = 15_000_000;
const WHY: &str = "a response that is not read to its end is the subject";
const HOST: &str = "app.test";

struct Bench {
    gateway: Gateway,
    _origin: Origin<NumberedOrigin>,
    /// Requests so far.
    requests: usize,
}

impl Bench {
    async fn start(more: &str) -> Self {
        let origin = NumberedOrigin::start().await;
        let stored = ("cache-control", "max-age=600");
        let settings = origin.settings();
        settings.tell("/a", 200, &[stored]);
        settings.tell("/large", 200, &[stored]);
        settings.pad("/large", LARGE);
        let yaml = format!(
            "
listeners:
  - {{ address: '127.0.0.1:0', name: web, limits: {{ send_timeout: 1s }} }}
  - {{ address: '127.0.0.1:0', name: single, limits: {{ requests_per_connection: 1 }} }}
cache: {{ max_object: 32MiB }}
upstreams: {{ app: {{ backends: ['{origin}'], health: false }} }}
{more}
routes: [{{ match: {{ path: '/*' }}, upstream: app, cache: {{}} }}]
"
        );
        Self {
            gateway: Gateway::start(&yaml).await,
            _origin: origin,
            requests: 0,
        }
    }

    fn address(&self, listener: &str) -> SocketAddr {
        let address = self.gateway.listener(listener);
        address.parse().expect("it listens on an IP address")
    }

    /// Waits for the line of one more request, and returns it. An earlier request that was logged
    /// or counted twice fails here.
    async fn logged(&mut self, name: &str) -> Value {
        self.requests += 1;
        let expected = self.requests;
        let lines = self.gateway.log_lines(expected).await;
        assert_eq!(lines.len(), expected, "{name}: {lines:#?}");
        self.gateway.counts("edgeway_http_in_flight", 0).await;
        for counted in [
            "edgeway_http_requests_total",
            "edgeway_http_request_duration_seconds_count",
        ] {
            let count = self.gateway.count(counted).await;
            assert_eq!(count, expected as u64, "{name}: {counted}");
        }
        lines.into_iter().last().expect("there is one")
    }

    /// Requests a path until it is stored.
    async fn prime(&mut self, request: &Request) {
        for _ in 0..2 {
            self.gateway.send(request).await;
            self.logged("priming").await;
        }
    }
}

fn plain(path: &str) -> Request {
    get(path).header("host", HOST)
}

#[tokio::test]
async fn a_pipelined_hit_is_logged_and_counted_once() {
    let mut bench = Bench::start("").await;
    bench.prime(&plain("/a")).await;
    let mut client = Connection::open(bench.address("web")).await.unwrap();
    let one = format!("GET /a HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    client.write(one.repeat(3)).await.unwrap();
    for _ in 0..3 {
        assert_eq!(client.read_response().await.unwrap().status(), 200);
    }
    bench.requests += 2;
    bench.logged("pipelined").await;
}

#[tokio::test]
async fn a_hit_that_does_not_reach_its_client_is_logged_and_counted_once() {
    let mut bench = Bench::start("").await;
    bench.prime(&plain("/a")).await;
    for (reason, name) in [
        ("client_gone", "gone in the body"),
        ("send_timeout", "not reading"),
    ] {
        bench.prime(&plain("/large")).await;
        let before = bench.gateway.refused(reason).await;
        let stream = narrow(bench.address("web")).await;
        let mut client = Connection::over(stream, HOST.to_owned());
        let head = client.start(&plain("/large")).await.unwrap();
        assert_eq!(head.status, 200);
        let stream = client.leave(WHY);
        let stream = (reason == "send_timeout").then_some(stream);
        let line = bench.logged(name).await;
        drop(stream);
        assert_eq!(line["reason"], reason, "{name}: {line:#}");
        assert_eq!(line["status"], 200, "{name}: {line:#}");
        let bytes = line["bytes_out"].as_u64().unwrap();
        assert!(bytes < LARGE as u64, "{name}: {line:#}");
        let after = bench.gateway.refused(reason).await;
        assert_eq!(after, before + 1, "{name}");
    }
    // A client that resets its connection before it can read anything.
    let client = Connection::open(bench.address("web")).await.unwrap();
    let mut stream = client.leave(WHY);
    stream.set_zero_linger().unwrap();
    let request = format!("GET /a HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes())
        .await
        .unwrap();
    drop(stream);
    bench.logged("gone before the headers").await;
}

#[tokio::test]
async fn a_hit_on_a_listener_that_is_removed_is_logged_and_counted_once() {
    let mut bench = Bench::start("drain: { idle: 8s, deadline: 8s }").await;
    bench.prime(&plain("/a")).await;
    let mut client = Connection::open(bench.address("single")).await.unwrap();
    let yaml = std::fs::read_to_string(bench.gateway.folder().join("edgeway.yaml")).unwrap();
    let lines = yaml.lines().filter(|line| !line.contains("name: single"));
    let yaml = lines.collect::<Vec<_>>().join("\n");
    assert!(
        bench.gateway.reload(&yaml).await,
        "{}",
        bench.gateway.stderr()
    );
    let response = client.send(&plain("/a")).await.unwrap();
    assert_eq!(response.header("connection"), Some("close"));
    assert!(client.is_closed().await);
    bench.logged("removed").await;
}

#[tokio::test]
async fn a_hit_while_the_gateway_stops_is_logged_and_counted_once() {
    let drain = "drain: { announce: 1500ms, idle: 5s, deadline: 8s }";
    let mut bench = Bench::start(drain).await;
    bench.prime(&plain("/a")).await;
    let mut client = Connection::open(bench.address("web")).await.unwrap();
    let mut later = Connection::open(bench.address("web")).await.unwrap();
    client.send(&plain("/a")).await.unwrap();
    later.send(&plain("/a")).await.unwrap();
    bench.requests += 1;
    bench.logged("before the stop").await;
    let address = bench.address("web");
    bench.gateway.signal(Signal::TERM);
    wait_for("new connections are refused", SOON, async || {
        Connection::open(address).await.is_err().then_some(())
    })
    .await;
    let last = client.send(&plain("/a")).await.unwrap();
    assert_eq!(last.status(), 200);
    assert_eq!(last.header("connection"), Some("close"));
    assert!(client.is_closed().await);
    let line = bench.logged("while it stops").await;
    assert_eq!(line["status"], 200, "{line:#}");
    drop(later);
    assert!(bench.gateway.leaves(SOON).await.success());
    let lines = bench.gateway.log_lines(0).await;
    assert_eq!(lines.len(), bench.requests, "{lines:#?}");
}

#[tokio::test]
async fn a_hit_that_is_closed_at_the_deadline_of_a_stop_is_logged_once() {
    let mut bench = Bench::start("drain: { idle: 100ms, deadline: 500ms }").await;
    bench.prime(&plain("/large")).await;
    let stream = narrow(bench.address("single")).await;
    let mut client = Connection::over(stream, HOST.to_owned());
    let head = client.start(&plain("/large")).await.unwrap();
    assert_eq!(head.header("connection"), Some("close"));
    assert!(bench.gateway.terminate(SOON).await.success());
    drop(client.leave(WHY));
    // The log is complete once the process has exited.
    pass(Duration::ZERO).await;
    let lines = bench.gateway.log_lines(0).await;
    assert_eq!(lines.len(), bench.requests + 1, "{lines:#?}");
    let line = lines.last().expect("there is one");
    assert_eq!(line["path"], "/large", "{line:#}");
    assert_eq!(line["status"], 200, "{line:#}");
    assert!(
        line["bytes_out"].as_u64().unwrap() < LARGE as u64,
        "{line:#}"
    );
    assert!(line["reason"].is_string(), "{line:#}");
}
