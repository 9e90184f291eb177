//! A route with a cache has the same responses, requests to the origin and log lines on each side.
//!
//! Few paths get many requests, so that stored responses are found, expire, are validated, replaced
//! and invalidated. The origin has another script for each request.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use h2::Reason;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::{Barrier, Notify},
    task::JoinSet,
};

use super::{
    PATIENCE, Way, compared,
    draw::{Drawn, bytes, chunked, one_of, some_lines, split},
    message::Message,
    origin::{Backend, Script, ScriptedOrigin},
    plan,
    side::{Comparison, DRIVERS, Outcome},
    streams::{End, Frames},
};
use crate::support::wait::pass;

/// Number of paths. Each is requested again every few exchanges.
const PATHS: usize = 6;

fn yaml(origin: SocketAddr, options: &str) -> String {
    format!(
        "
listeners: [{{ address: '127.0.0.1:0', name: web, http2: {{ cleartext: true }} }}]
cache: {{ memory: 16MiB, max_object: 100KiB }}
upstreams:
  app: {{ backends: ['{origin}'], health: false, retry: {{ attempts: 1 }}, {options} }}
routes:
  - {{ name: kept, match: {{ path: '/kept/*' }}, upstream: app, cache: {{}} }}
  - {{ name: zipped, match: {{ path: '/zipped/*' }}, upstream: app, cache: {{}},
       compression: {{ min_size: 1 }} }}
"
    )
}

const REQUEST_LINES: [&str; 18] = [
    "Accept-Encoding: gzip",
    "Accept-Language: de",
    "Cookie: a=1",
    "Authorization: Basic YTpi",
    "If-None-Match: \"a\"",
    "If-None-Match: \"b\"",
    "If-Modified-Since: Thu, 01 Jan 2015 08:00:00 GMT",
    "If-Range: \"a\"",
    "Range: bytes=0-9",
    "Range: bytes=-5",
    "Range: bytes=30-",
    "Range: bytes=0-0,5-9",
    "Range: bytes=500000-",
    "Cache-Control: no-cache",
    "Cache-Control: max-age=0",
    "Cache-Control: only-if-cached",
    "Connection: close",
    "Connection: keep-alive",
];

/// Draws a request, and a response that may break off.
fn draw(dice: &mut fastrand::Rng, turn: usize, way: Way, backend: Backend<'_>) -> Drawn {
    let number = dice.usize(..PATHS);
    let place = ["kept", "zipped"][number % 2];
    let method = one_of(
        dice,
        &[
            "GET", "GET", "GET", "GET", "GET", "GET", "HEAD", "HEAD", "POST",
        ],
    );
    let version = way.version();
    let mut request = format!("{method} /{place}/n{number} HTTP/{version}\r\nHost: app.test\r\n");
    request.push_str(&format!("User-Agent: {turn}\r\n"));
    some_lines(dice, &mut request, 10, &REQUEST_LINES);
    if method == "POST" {
        request.push_str("Content-Length: 0\r\n");
    }
    request.push_str("\r\n");
    let response = Response::draw(dice, turn);
    Drawn {
        number,
        method,
        pieces: vec![request.into_bytes()],
        is_broken: response.body == Body::Broken,
        script: match backend {
            Backend::Http2 => response.frames(dice),
            Backend::Plain | Backend::Secure(_) => response.bytes(dice),
        },
    }
}

const STATUSES: [&str; 11] = [
    "200 OK",
    "200 OK",
    "200 OK",
    "200 OK",
    "204 No Content",
    "304 Not Modified",
    "304 Not Modified",
    "301 Moved",
    "404 Not Found",
    "500 Broken",
    "503 Busy",
];

const LIFETIMES: [&str; 8] = [
    "max-age=60",
    "max-age=60, stale-if-error=600",
    "max-age=0, stale-if-error=600",
    "no-cache",
    "no-store",
    "private",
    "public, s-maxage=60",
    "max-age=0, must-revalidate",
];

const RESPONSE_LINES: [&str; 10] = [
    "Content-Type: text/html",
    "ETag: \"a\"",
    "ETag: \"b\"",
    "Last-Modified: Thu, 01 Jan 2015 08:00:00 GMT",
    "Set-Cookie: s=1",
    "Vary: Accept-Language",
    "Vary: *",
    "Age: 30",
    "Location: /elsewhere",
    "Content-Language: de",
];

/// Framing of a response's body.
#[derive(Clone, Copy, PartialEq)]
enum Body {
    /// There is none.
    Bare,
    Length,
    Chunked,
    /// Up to the end of the connection.
    Closed,
    /// Not all of what was announced comes.
    Broken,
}

struct Response {
    status: &'static str,
    lines: String,
    content: Vec<u8>,
    body: Body,
    closes: bool,
    has_hints: bool,
}

impl Response {
    fn draw(dice: &mut fastrand::Rng, turn: usize) -> Self {
        let status = one_of(dice, &STATUSES);
        let mut lines = format!("X-Turn: {turn}\r\n");
        if dice.u8(..6) > 0 {
            lines.push_str(&format!("Cache-Control: {}\r\n", one_of(dice, &LIFETIMES)));
        }
        some_lines(dice, &mut lines, 6, &RESPONSE_LINES);
        let is_bare = status.starts_with("204") || status.starts_with("304");
        Self {
            status,
            lines,
            content: bytes(dice),
            body: match dice.u8(..8) {
                _ if is_bare => Body::Bare,
                0..=3 => Body::Length,
                4..=5 => Body::Chunked,
                6 => Body::Closed,
                _ => Body::Broken,
            },
            closes: dice.u8(..6) == 0,
            has_hints: dice.u8(..12) == 0,
        }
    }

    fn bytes(self, dice: &mut fastrand::Rng) -> Script {
        let mut whole = String::new();
        if self.has_hints {
            whole.push_str("HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n");
        }
        whole.push_str(&format!("HTTP/1.1 {}\r\n{}", self.status, self.lines));
        if self.closes {
            whole.push_str("Connection: close\r\n");
        }
        let length = self.content.len();
        match self.body {
            Body::Bare | Body::Closed => {}
            Body::Length => whole.push_str(&format!("Content-Length: {length}\r\n")),
            Body::Chunked => whole.push_str("Transfer-Encoding: chunked\r\n"),
            Body::Broken => whole.push_str(&format!("Content-Length: {}\r\n", length + 7)),
        }
        whole.push_str("\r\n");
        let mut whole = whole.into_bytes();
        match self.body {
            Body::Bare => {}
            Body::Chunked => whole.extend(chunked(dice, &self.content)),
            _ => whole.extend(&self.content),
        }
        Script::Bytes {
            pieces: split(dice, &whole),
            closes: self.closes || matches!(self.body, Body::Closed | Body::Broken),
            says_so: true,
        }
    }

    fn frames(self, dice: &mut fastrand::Rng) -> Script {
        let lines = self.lines.lines().filter_map(|line| line.split_once(": "));
        let mut headers: Vec<_> = lines
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        if self.body == Body::Length {
            headers.push(("content-length".to_owned(), self.content.len().to_string()));
        }
        let pieces = split(dice, &self.content);
        Script::Frames(Frames {
            interim: if self.has_hints {
                vec![103]
            } else {
                Vec::new()
            },
            status: self.status[..3].parse().expect("it begins with a number"),
            headers,
            pieces: pieces.into_iter().filter(|it| !it.is_empty()).collect(),
            end: match self.body {
                Body::Bare | Body::Length => End::Last,
                Body::Chunked => End::Empty,
                Body::Closed => End::Trailers,
                Body::Broken => one_of(dice, &[End::Closed, End::Reset(Reason::CANCEL)]),
            },
        })
    }
}

/// Takes out what the passing of a second changes, and what depends on when a body breaks off: whether
/// the client has a 502, a 304, or the part of it that it asked for.
fn settle(way: Way, case: &Drawn, outcome: &mut Outcome) {
    let is_broken = case.is_broken && !outcome.to_origin.is_empty();
    way.settle(&mut outcome.to_client);
    for message in &mut outcome.to_client {
        if is_broken && (!message.is_complete || ["206", "304", "502"].contains(&message.status()))
        {
            *message = Message::bare("broken");
        }
        message.remove("age");
        message.remove("expires");
        for (name, value) in &mut message.headers {
            if name == "cache-status" {
                let parts = value.split("; ").filter(|part| !part.starts_with("ttl="));
                *value = parts.collect::<Vec<_>>().join("; ");
            }
        }
    }
    if is_broken && outcome.to_client.is_empty() {
        outcome.to_client.push(Message::bare("broken"));
    }
    if is_broken {
        outcome.logged.clear();
    }
    super::settle(way, case, outcome);
}

#[tokio::test]
async fn all_sides_cache_alike() {
    agree(Way::Http1, Backend::Plain).await;
}

#[tokio::test]
async fn all_sides_cache_alike_over_http10() {
    agree(Way::Http10, Backend::Plain).await;
}

#[tokio::test]
async fn all_sides_cache_alike_over_http2() {
    agree(Way::Http2, Backend::Plain).await;
}

#[tokio::test]
async fn all_sides_cache_http2_alike() {
    agree(Way::Http1, Backend::Http2).await;
}

#[tokio::test]
async fn all_sides_cache_http2_alike_over_http2() {
    agree(Way::Http2, Backend::Http2).await;
}

async fn agree(way: Way, backend: Backend<'_>) {
    let comparison = Comparison {
        way,
        backend,
        yaml,
        settle,
    };
    let (ours, _) = compared(comparison, draw).await;
    let lines = || ours.iter().flat_map(|outcome| &outcome.logged);
    for expected in ["HIT", "MISS", "BYPASS"] {
        assert!(lines().any(|line| line["cache"] == expected), "{expected}");
    }
}

/// Many clients at once get one response of the origin, or one each if it cannot be stored.
#[tokio::test]
async fn all_sides_collapse_alike() {
    const CLIENTS: usize = 12;
    let (seed, count) = plan();
    let mut dice = fastrand::Rng::with_seed(seed);
    for side in DRIVERS {
        let origin = ScriptedOrigin::start(Backend::Plain).await;
        let gateway = side.start(&yaml(origin.address, "")).await;
        for number in 0..count.min(40) {
            let place = if dice.bool() { "kept" } else { "zipped" };
            let is_stored = dice.bool();
            let lifetime = if is_stored { "max-age=60" } else { "no-store" };
            // A longer one is not stored.
            let mut content = bytes(&mut dice);
            content.truncate(90_000);
            let head = format!(
                "HTTP/1.1 200 OK\r\nCache-Control: {lifetime}\r\nContent-Type: text/html\r\n"
            );
            let framed = if dice.bool() {
                let length = format!("Content-Length: {}\r\n\r\n", content.len());
                [length.into_bytes(), content.clone()].concat()
            } else {
                let begin = b"Transfer-Encoding: chunked\r\n\r\n".to_vec();
                [begin, chunked(&mut dice, &content)].concat()
            };
            let whole = [head.into_bytes(), framed].concat();
            origin.set(number, Script::of(split(&mut dice, &whole)));
            let mut clients = JoinSet::new();
            for client in 0..CLIENTS {
                let mut request = format!("GET /{place}/n{number} HTTP/1.1\r\nHost: app.test\r\n");
                if client < CLIENTS / 3 {
                    request.push_str("Accept-Encoding: gzip\r\n");
                }
                request.push_str("\r\n");
                let drawn = Drawn::plain(number, "GET", request);
                let way = [Way::Http1, Way::Http2][client % 2];
                let address = gateway.address();
                clients.spawn(async move {
                    pass(Duration::from_millis(client as u64 / 4)).await;
                    way.received(address, &drawn).await.0
                });
            }
            let deadline = tokio::time::timeout(PATIENCE, clients.join_all()).await;
            let place = format!("{side:?}, EDGEWAY_DRIVERS={seed}:{count}, {number}");
            for messages in deadline.expect("all get a response") {
                let last = messages.last().expect("there is one");
                assert!(last.is_complete, "{place}: {last:?}");
                let decoded = last.decoded();
                assert!(decoded == content, "{place}: {:?}", last.headers);
            }
            let asked = origin.seen(number).len();
            let expected = if is_stored { 1 } else { CLIENTS };
            assert_eq!(asked, expected, "{place}");
        }
    }
}

/// Requests that waited for a response which is then not stored go to the origin side by side.
#[tokio::test]
async fn nobody_waits_twice_for_a_response_that_is_too_large() {
    const CLIENTS: usize = 6;
    const LENGTH: usize = 200_000;
    for order in ["", "X-Accel-Redirect: /files/a\r\n"] {
        let origin = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback has a free port");
        let address = origin.local_addr().expect("it is bound");
        // Longer than the test.
        let yaml = yaml(address, "").replace("cache: {}", "cache: { wait: 60s }");
        let gateway = DRIVERS[0].start(&yaml).await;
        let (first, rest) = (Arc::new(Notify::new()), Arc::new(Barrier::new(CLIENTS - 1)));
        let response = format!(
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n{order}Content-Length: {LENGTH}\r\n\r\n{}",
            "x".repeat(LENGTH)
        );
        let mut tasks = JoinSet::new();
        let release = Arc::clone(&first);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            for number in 0.. {
                let Ok((mut stream, _)) = origin.accept().await else {
                    return;
                };
                let (first, rest) = (Arc::clone(&release), Arc::clone(&rest));
                let response = response.clone();
                connections.spawn(async move {
                    let mut input = Vec::new();
                    while !input.ends_with(b"\r\n\r\n") && stream.read_buf(&mut input).await? > 0 {}
                    if number == 0 {
                        first.notified().await;
                    } else {
                        rest.wait().await;
                    }
                    stream.write_all(response.as_bytes()).await
                });
            }
        });
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let address = gateway.address();
            clients.spawn(async move {
                let request = "GET /kept/n0 HTTP/1.1\r\nHost: app.test\r\n\r\n";
                let drawn = Drawn::plain(0, "GET", request);
                Way::Http1.received(address, &drawn).await.0
            });
        }
        gateway
            .counts("edgeway_http_in_flight", CLIENTS as u64)
            .await;
        first.notify_one();
        let all = tokio::time::timeout(PATIENCE, clients.join_all()).await;
        for messages in all.expect("none waits for another") {
            assert!(
                messages.iter().all(|message| message.is_complete),
                "{order}"
            );
        }
    }
}
