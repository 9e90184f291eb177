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
/// Header fields of a request with many.
const MANY_FIELDS: usize = 90;

struct Bench {
    gateway: Gateway,
    origin: Origin<NumberedOrigin>,
    /// Requests so far.
    requests: usize,
}

/// Request, and the record that it should leave.
struct Exit {
    name: &'static str,
    request: Request,
    status: u16,
    bytes: Option<u64>,
    is_closed: bool,
}

impl Exit {
    /// A `GET` for this path.
    fn new(name: &'static str, path: &str) -> Self {
        Self {
            name,
            request: plain(path),
            status: 200,
            bytes: None,
            is_closed: false,
        }
    }

    fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    /// Replaces the request by another.
    fn request(self, request: Request) -> Self {
        Self { request, ..self }
    }

    fn status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    fn bytes(self, bytes: u64) -> Self {
        let bytes = Some(bytes);
        Self { bytes, ..self }
    }

    fn closed(self) -> Self {
        let is_closed = true;
        Self { is_closed, ..self }
    }
}

/// Counts of requests in the metrics.
#[derive(Debug, PartialEq, Eq)]
struct Counts {
    requests: u64,
    durations: u64,
    first_bytes: u64,
    cache: u64,
}

impl Bench {
    async fn start(more: &str) -> Self {
        let origin = NumberedOrigin::start().await;
        let stored = ("cache-control", "max-age=600");
        let settings = origin.settings();
        for path in ["/a", "/b", "/purged", "/short"] {
            settings.tell(path, 200, &[stored]);
        }
        settings.tell("/tagged", 200, &[stored, ("etag", "\"a\"")]);
        settings.tell("/none", 204, &[stored]);
        settings.tell("/lost", 404, &[stored]);
        settings.tell("/html", 200, &[stored, ("content-type", "text/html")]);
        settings.pad("/html", 20_000);
        let stale = ("cache-control", "max-age=0, stale-while-revalidate=600");
        settings.tell("/stale", 200, &[stale]);
        settings.tell("/large", 200, &[stored]);
        settings.pad("/large", LARGE);
        let yaml = format!(
            "
listeners:
  - {{ address: '127.0.0.1:0', name: web, limits: {{ send_timeout: 1s }} }}
  - {{ address: '127.0.0.1:0', name: single, limits: {{ requests_per_connection: 1 }} }}
cache: {{ max_object: 32MiB, purge: {{ allow: [127.0.0.0/8] }} }}
upstreams: {{ app: {{ backends: ['{}'], health: false }} }}
rate_limits: {{ few: {{ rate: 3/d, key: client.ip }} }}
{more}
routes:
  - {{ name: few, match: {{ path: /short }}, upstream: app, cache: {{}}, rate_limit: [few] }}
  - {{ name: old, match: {{ path: /old }}, redirect: {{ to: /new }} }}
  - {{ name: app, match: {{ path: '/*' }}, upstream: app, cache: {{}} }}
",
            origin.address()
        );
        Self {
            gateway: Gateway::start(&yaml).await,
            origin,
            requests: 0,
        }
    }

    fn address(&self, listener: &str) -> SocketAddr {
        let address = self.gateway.listener(listener);
        address.parse().expect("it listens on an IP address")
    }

    async fn counts(&self) -> Counts {
        let gateway = &self.gateway;
        Counts {
            requests: gateway.count("edgeway_http_requests_total").await,
            durations: gateway
                .count("edgeway_http_request_duration_seconds_count")
                .await,
            first_bytes: gateway.count("edgeway_http_first_byte_seconds_count").await,
            cache: gateway.count("edgeway_cache_requests_total").await,
        }
    }

    /// Waits for the line of one more request, and returns it. An earlier request that was logged
    /// or counted twice fails here.
    async fn logged(&mut self, name: &str) -> Value {
        self.requests += 1;
        let expected = self.requests;
        let lines = self.gateway.log_lines(expected).await;
        assert_eq!(lines.len(), expected, "{name}: {lines:#?}");
        self.gateway.counts("edgeway_http_in_flight", 0).await;
        let counts = self.counts().await;
        assert_eq!(counts.requests, expected as u64, "{name}: {counts:?}");
        assert_eq!(counts.durations, expected as u64, "{name}: {counts:?}");
        lines.into_iter().last().expect("there is one")
    }

    /// Requests a path until it is stored.
    async fn prime(&mut self, request: &Request) {
        for _ in 0..2 {
            self.gateway.send(request).await;
            self.logged("priming").await;
        }
    }

    /// Sends the request and checks its record.
    async fn check(&mut self, listener: &str, exit: Exit) {
        let name = exit.name;
        let counts = self.counts().await;
        let opened = Connection::open(self.address(listener)).await;
        let mut client = opened.expect("it listens");
        let sent = client.send(&exit.request).await;
        let response = sent.expect("it responds");
        assert_eq!(response.status(), exit.status, "{name}");
        let line = self.logged(name).await;
        assert_eq!(line["status"], exit.status, "{name}: {line:#}");
        assert_eq!(line["bytes_out"], response.body.len(), "{name}: {line:#}");
        if let Some(bytes) = exit.bytes {
            assert_eq!(line["bytes_out"], bytes, "{name}: {line:#}");
        }
        let after = self.counts().await;
        assert!(
            after.first_bytes - counts.first_bytes <= 1,
            "{name}: {after:?}"
        );
        assert!(after.cache - counts.cache <= 1, "{name}: {after:?}");
        let connection = response.header("connection");
        if exit.is_closed {
            assert_eq!(connection, Some("close"), "{name}");
            assert!(client.is_closed().await, "{name}");
        } else {
            assert_eq!(connection, Some("keep-alive"), "{name}");
            // The connection serves another request.
            let sent = client.send(&plain("/b")).await;
            let next = sent.expect("it responds");
            assert_eq!(next.status(), 200, "{name}");
            self.logged(name).await;
        }
    }
}

fn plain(path: &str) -> Request {
    get(path).header("host", HOST)
}

#[tokio::test]
async fn each_complete_hit_is_logged_and_counted_once() {
    let mut bench = Bench::start("").await;
    for path in ["/a", "/b", "/tagged", "/none", "/lost", "/html", "/large"] {
        bench.prime(&plain(path)).await;
    }
    for exit in [
        Exit::new("a hit", "/a").bytes(5),
        Exit::new("the last one", "/a")
            .header("connection", "close")
            .closed(),
        Exit::new("another option", "/a").header("connection", "keep-alive, x-a"),
        Exit::new("not modified", "/tagged")
            .header("if-none-match", "\"a\"")
            .status(304)
            .bytes(0),
        Exit::new("no content", "/none").status(204).bytes(0),
        Exit::new("not found", "/lost").status(404),
        Exit::new("compressed", "/html").header("accept-encoding", "gzip"),
        Exit::new("stored compressed", "/html").header("accept-encoding", "gzip"),
        Exit::new("a large hit", "/large").bytes(LARGE as u64 + 9),
    ] {
        bench.check("web", exit).await;
    }
    let single = Exit::new("the only request", "/a").closed();
    bench.check("single", single).await;
    let old = plain("/a").http10();
    bench.prime(&old).await;
    let old = Exit::new("HTTP/1.0", "/a").request(old);
    bench.check("web", old.closed()).await;
}

#[tokio::test]
async fn each_unusual_hit_is_logged_and_counted_once() {
    let mut bench = Bench::start("").await;
    for path in ["/a", "/b"] {
        bench.prime(&plain(path)).await;
    }
    let head = Request::new("HEAD", "/a").header("host", HOST);
    let absolute = get("http://app.test/a").header("host", HOST);
    let many = (0..MANY_FIELDS).fold(plain("/a"), |request, at| {
        request.header(&format!("x-{at}"), "1")
    });
    for exit in [
        Exit::new("HEAD", "/a").request(head).bytes(0),
        Exit::new("a range", "/a")
            .header("range", "bytes=0-1")
            .status(206)
            .bytes(2),
        Exit::new("after a range", "/a"),
        Exit::new("a hit again", "/a"),
        Exit::new("absolute form", "/a").request(absolute.clone()),
        Exit::new("absolute form again", "/a").request(absolute),
        Exit::new("many fields", "/a").request(many),
    ] {
        bench.check("web", exit).await;
    }
}

#[tokio::test]
async fn each_reply_of_the_gateway_is_logged_and_counted_once() {
    let mut bench = Bench::start("").await;
    for path in ["/b", "/old", "/short"] {
        bench.prime(&plain(path)).await;
    }
    // A request that may not go to the origin is refused.
    let only = || {
        Exit::new("only if cached", "/unknown")
            .header("cache-control", "only-if-cached")
            .status(504)
    };
    for exit in [
        Exit::new("a redirect", "/old").status(307).bytes(0),
        Exit::new("within the limit", "/short"),
        Exit::new("limited", "/short").status(429),
        only(),
        only(),
    ] {
        bench.check("web", exit).await;
    }
    bench.prime(&plain("/purged")).await;
    let purge = Request::new("PURGE", "/purged").header("host", HOST);
    assert_eq!(bench.gateway.send(&purge).await.status(), 200);
    bench.logged("a purge").await;
    let miss = Exit::new("a miss", "/purged").bytes(10);
    bench.check("web", miss).await;
}

#[tokio::test]
async fn a_stale_response_that_is_revalidated_is_logged_and_counted_once() {
    let mut bench = Bench::start("").await;
    bench.prime(&plain("/b")).await;
    bench.prime(&plain("/stale")).await;
    for _ in 0..2 {
        let fetched = bench.origin.settings().requests("/stale");
        let stale = Exit::new("stale", "/stale");
        bench.check("web", stale).await;
        wait_for("it is revalidated", SOON, async || {
            (bench.origin.settings().requests("/stale") > fetched).then_some(())
        })
        .await;
    }
    // Revalidations in the background have no line.
    let again = Exit::new("a hit", "/b");
    bench.check("web", again).await;
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
        let refused = format!("edgeway_refused_total{{reason=\"{reason}\"}}");
        let before = bench.gateway.count(&refused).await;
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
        let after = bench.gateway.count(&refused).await;
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
