//! A route with a cache has the same responses, requests to the origin and log lines whichever
//! driver moves the bytes.
//!
//! Few paths get many requests, so that stored responses are found, expire, are validated, replaced
//! and invalidated. The origin has another script for each request.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::{Barrier, Notify},
    task::JoinSet,
};

use super::{
    Drawn, Message, PATIENCE, Script, ScriptedOrigin, WITH, WITHOUT, Way, bytes, chunked,
    is_compressed, one_of, plan, shown, split,
};
use crate::support::{gateway::Gateway, wait::pass};

/// Number of paths. Each is requested again every few exchanges.
const PATHS: usize = 6;

fn yaml(origin: SocketAddr) -> String {
    format!(
        "
listeners: [{{ address: '127.0.0.1:0', name: web, http2: {{ cleartext: true }} }}]
cache: {{ memory: 16MiB, max_object: 100KiB }}
upstreams: {{ app: {{ backends: ['{origin}'], health: false, retry: {{ attempts: 1 }} }} }}
routes:
  - {{ name: kept, match: {{ path: '/kept/*' }}, upstream: app, cache: {{}} }}
  - {{ name: zipped, match: {{ path: '/zipped/*' }}, upstream: app, cache: {{}},
       compression: {{ min_size: 1 }} }}
"
    )
}

/// Draws a request, and a response that may break off. Returns true with one that does.
fn draw(dice: &mut fastrand::Rng, turn: usize, way: Way) -> (Drawn, bool) {
    let number = dice.usize(..PATHS);
    let place = ["kept", "zipped"][number % 2];
    let method = one_of(
        dice,
        &["GET", "GET", "GET", "GET", "GET", "GET", "HEAD", "POST"],
    );
    let version = if way == Way::Http10 { "1.0" } else { "1.1" };
    let mut request = format!("{method} /{place}/n{number} HTTP/{version}\r\nHost: app.test\r\n");
    request.push_str(&format!("User-Agent: {turn}\r\n"));
    for line in [
        "Accept-Encoding: gzip",
        "Accept-Language: de",
        "Cookie: a=1",
        "Authorization: Basic YTpi",
        "If-None-Match: \"a\"",
        "If-None-Match: \"b\"",
        "If-Modified-Since: Thu, 01 Jan 2015 08:00:00 GMT",
        "Range: bytes=0-9",
        "Cache-Control: no-cache",
        "Cache-Control: max-age=0",
        "Cache-Control: only-if-cached",
        "Connection: close",
        "Connection: keep-alive",
    ] {
        if dice.u8(..9) == 0 {
            request.push_str(line);
            request.push_str("\r\n");
        }
    }
    if method == "POST" {
        request.push_str("Content-Length: 0\r\n");
    }
    request.push_str("\r\n");
    let (script, is_broken) = script(dice, method == "HEAD", turn);
    let drawn = Drawn {
        number,
        method,
        pieces: vec![request.into_bytes()],
        script,
    };
    (drawn, is_broken)
}

fn script(dice: &mut fastrand::Rng, is_head: bool, turn: usize) -> (Script, bool) {
    let status = one_of(
        dice,
        &[
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
        ],
    );
    let mut whole = format!("HTTP/1.1 {status}\r\nX-Turn: {turn}\r\n").into_bytes();
    let lifetime = one_of(
        dice,
        &[
            "max-age=60",
            "max-age=60, stale-if-error=600",
            "max-age=0, stale-if-error=600",
            "no-cache",
            "no-store",
            "private",
            "public, s-maxage=60",
            "max-age=0, must-revalidate",
        ],
    );
    if dice.u8(..6) > 0 {
        whole.extend(format!("Cache-Control: {lifetime}\r\n").into_bytes());
    }
    for line in [
        "Content-Type: text/html",
        "ETag: \"a\"",
        "ETag: \"b\"",
        "Last-Modified: Thu, 01 Jan 2015 08:00:00 GMT",
        "Set-Cookie: s=1",
        "Vary: Accept-Language",
        "Vary: *",
        "Age: 30",
        "Location: /elsewhere",
        "Connection: close",
        "Content-Language: de",
    ] {
        if dice.u8(..6) == 0 {
            whole.extend(line.as_bytes());
            whole.extend(b"\r\n");
        }
    }
    let content = bytes(dice);
    let mut closes = whole.windows(17).any(|line| line == b"Connection: close");
    let mut is_broken = false;
    let is_bare = status.starts_with("204") || status.starts_with("304");
    match dice.u8(..8) {
        // The gateway may ask with GET in place of HEAD.
        _ if is_head && !is_bare => whole.extend(b"Content-Length: 0\r\n\r\n"),
        _ if is_bare => whole.extend(b"\r\n"),
        0..=3 => {
            whole.extend(format!("Content-Length: {}\r\n\r\n", content.len()).into_bytes());
            whole.extend(&content);
        }
        4..=5 => {
            whole.extend(b"Transfer-Encoding: chunked\r\n\r\n");
            whole.extend(chunked(dice, &content));
        }
        6 => {
            whole.extend(b"\r\n");
            whole.extend(&content);
            closes = true;
        }
        _ => {
            // Broken off: not all of what was announced comes.
            whole.extend(format!("Content-Length: {}\r\n\r\n", content.len() + 7).into_bytes());
            whole.extend(&content);
            closes = true;
            is_broken = true;
        }
    }
    let pieces = split(dice, &whole);
    (
        Script {
            pieces,
            closes,
            says_so: true,
        },
        is_broken,
    )
}

/// Messages without what the passing of a second changes, and without what differs: Pingora's phases
/// add `Accept-Ranges`, and leave `Content-Language` in a 304. Whether a response that breaks off is
/// a 502 or a 304 depends on how much of it came when. Of a 304 after which the response may no
/// longer be stored, Pingora's phases take only some headers (RFC 9111, 3.2 says all).
fn timeless(messages: Vec<Message>, is_broken: bool) -> Vec<Message> {
    let timeless = |mut message: Message| {
        let may_differ =
            ["304", "502"].contains(&message.start.split(' ').nth(1).unwrap_or_default());
        if is_broken && (!message.is_complete || may_differ) {
            return without_content("broken");
        }
        let is_refused = |(name, value): &(String, String)| {
            name == "cache-status" && value.contains("fwd-status=304; detail=")
        };
        if message.headers.iter().any(is_refused) {
            return without_content("confirmed");
        }
        let mut differs = vec!["age", "expires", "accept-ranges"];
        if message.start.contains(" 304 ") {
            differs.push("content-language");
        }
        message
            .headers
            .retain(|(name, _)| !differs.contains(&name.as_str()));
        for (name, value) in &mut message.headers {
            if name == "cache-status" {
                let parts = value.split("; ").filter(|part| !part.starts_with("ttl="));
                *value = parts.collect::<Vec<_>>().join("; ");
            }
        }
        message
    };
    if is_broken && messages.is_empty() {
        return vec![without_content("broken")];
    }
    messages.into_iter().map(timeless).collect()
}

/// Returns true if one client had the part of a body that it asked for before the body broke off, and
/// the other had no whole response: that depends on when the body breaks off.
fn is_early_part(one: &[Message], other: &[Message]) -> bool {
    let has_part = |messages: &[Message]| {
        let mut parts = messages.iter().filter(|message| message.is_complete);
        parts
            .next()
            .is_some_and(|part| part.start.contains(" 206 "))
    };
    let has_none = |messages: &[Message]| messages.iter().all(|message| !message.is_complete);
    has_part(one) && has_none(other) || has_none(one) && has_part(other)
}

fn without_content(start: &str) -> Message {
    Message {
        start: start.to_owned(),
        headers: Vec::new(),
        content: Vec::new(),
        is_complete: false,
    }
}

fn logged(line: &Value) -> String {
    let mut fields = vec![
        "path",
        "method",
        "route",
        "upstream_status",
        "cache",
        "cache_why",
    ];
    // Pingora's phases call a client gone that got a 304 while the rest is too large to be stored, or
    // a stale response while the rest of an error comes.
    if line["cache"] != "REVALIDATED" || line["cache_why"].is_null() {
        fields.push("status");
        if line["status"] != 304 && line["cache_why"] != "origin-failed" {
            fields.push("reason");
        }
    }
    let turn = line["user_agent"].as_str().unwrap_or_default();
    let fields = fields.iter().map(|name| format!(" {name}={}", line[*name]));
    format!("{turn:0>6}{}", fields.collect::<String>())
}

#[tokio::test]
async fn both_drivers_cache_alike() {
    agree(Way::Http1).await;
}

#[tokio::test]
async fn both_drivers_cache_alike_over_http10() {
    agree(Way::Http10).await;
}

#[tokio::test]
async fn both_drivers_cache_alike_over_http2() {
    agree(Way::Http2).await;
}

async fn agree(way: Way) {
    let (seed, count) = plan();
    let mut dice = fastrand::Rng::with_seed(seed);
    let (one, other) = (ScriptedOrigin::start().await, ScriptedOrigin::start().await);
    let relay = Gateway::start_with(&yaml(one.address), &[WITH]).await;
    let pingora = Gateway::start_with(&yaml(other.address), &[WITHOUT]).await;
    let mut history = Vec::new();
    let mut broken = HashSet::new();
    for turn in 0..count {
        let (case, is_broken) = draw(&mut dice, turn, way);
        if is_broken {
            broken.insert(turn);
        }
        let text = case.pieces.concat().escape_ascii().to_string();
        let response = case.script.pieces.concat();
        let response = &response[..response.len().min(400)];
        history.push(format!("{turn}: {text}\n   {}", response.escape_ascii()));
        let path = case.number.to_string();
        for origin in [&one, &other] {
            origin
                .scripts
                .lock()
                .insert(path.clone(), case.script.clone());
        }
        let both =
            async { tokio::join!(way.received(&relay, &case), way.received(&pingora, &case)) };
        let (by_relay, by_pingora) = both.await;
        let recent = || {
            let same = format!("/n{path} ");
            let of_path = history.iter().filter(|line| line.contains(&same));
            let of_path: Vec<_> = of_path.cloned().collect();
            of_path[of_path.len().saturating_sub(6)..].join("\n")
        };
        let [by_relay, by_pingora] =
            [by_relay, by_pingora].map(|messages| timeless(messages, is_broken));
        if !is_broken || !is_early_part(&by_relay, &by_pingora) {
            assert_eq!(
                way.shown(&by_relay),
                way.shown(&by_pingora),
                "to the client, EDGEWAY_DRIVERS={seed}:{count}\n{}",
                recent()
            );
        }
        let [by_relay, by_pingora] = [&one, &other].map(|origin| {
            let seen = origin.seen.lock();
            seen.get(&path).cloned().unwrap_or_default()
        });
        assert_eq!(
            shown(&by_relay),
            shown(&by_pingora),
            "to the origin, EDGEWAY_DRIVERS={seed}:{count}\n{}",
            recent()
        );
        for origin in [&one, &other] {
            origin.seen.lock().clear();
        }
    }
    let lines = [relay.log_lines(count).await, pingora.log_lines(count).await];
    let [by_relay, by_pingora] = lines.map(|lines| {
        let mut lines: Vec<_> = lines.iter().map(logged).collect();
        lines.sort_unstable();
        lines
    });
    for (turn, (by_relay, by_pingora)) in by_relay.iter().zip(&by_pingora).enumerate() {
        assert!(
            by_relay == by_pingora || broken.contains(&turn),
            "in the log: {}\n{by_relay}\n{by_pingora}",
            history[turn]
        );
    }
    let relayed = relay.count("edgeway_http_relayed_total").await;
    assert!(relayed > count as u64 / 4, "{relayed} of {count}");
    let outcomes: HashMap<_, usize> = by_relay.iter().fold(HashMap::new(), |mut counts, line| {
        let outcome = line.split("cache=").nth(1).unwrap_or_default();
        let outcome = outcome.split(' ').next().unwrap_or_default().to_owned();
        *counts.entry(outcome).or_default() += 1;
        counts
    });
    for outcome in ["HIT", "MISS", "BYPASS"] {
        let outcome = format!("{outcome:?}");
        assert!(outcomes.contains_key(&outcome), "{outcome}: {outcomes:?}");
    }
}

/// Many clients at once get one response of the origin, or one each if it cannot be stored.
#[tokio::test]
async fn both_drivers_collapse_alike() {
    const CLIENTS: usize = 12;
    let (seed, count) = plan();
    let mut dice = fastrand::Rng::with_seed(seed);
    for environment in [WITH, WITHOUT] {
        let origin = ScriptedOrigin::start().await;
        let gateway = Gateway::start_with(&yaml(origin.address), &[environment]).await;
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
            let pieces = split(&mut dice, &whole);
            let closes = false;
            let script = Script {
                pieces,
                closes,
                says_so: true,
            };
            origin.scripts.lock().insert(number.to_string(), script);
            let mut clients = JoinSet::new();
            for client in 0..CLIENTS {
                let mut request = format!("GET /{place}/n{number} HTTP/1.1\r\nHost: app.test\r\n");
                if client < CLIENTS / 3 {
                    request.push_str("Accept-Encoding: gzip\r\n");
                }
                request.push_str("\r\n");
                let drawn = Drawn {
                    number,
                    method: "GET",
                    pieces: vec![request.into_bytes()],
                    script: Script {
                        pieces: Vec::new(),
                        closes,
                        says_so: true,
                    },
                };
                let way = [Way::Http1, Way::Http2][client % 2];
                let address = gateway.address();
                clients.spawn(async move {
                    pass(Duration::from_millis(client as u64 / 4)).await;
                    way.received_at(address, &drawn).await
                });
            }
            let deadline = tokio::time::timeout(PATIENCE, clients.join_all()).await;
            let place = format!("{environment:?}, EDGEWAY_DRIVERS={seed}:{count}, {number}");
            for messages in deadline.expect("all get a response") {
                let last = messages.last().expect("there is one");
                assert!(last.is_complete, "{place}: {last:?}");
                let decoded = if is_compressed(last) {
                    super::decoded(last)
                } else {
                    last.content.clone()
                };
                assert!(decoded == content, "{place}: {:?}", last.headers);
            }
            let asked = origin
                .seen
                .lock()
                .get(&number.to_string())
                .map_or(0, Vec::len);
            let expected = if is_stored { 1 } else { CLIENTS };
            // Pingora may look just before a response is stored, and then get the lock.
            let is_late = environment == WITHOUT && is_stored;
            let expected = if is_late {
                1..=CLIENTS
            } else {
                expected..=expected
            };
            assert!(expected.contains(&asked), "{asked}, {place}");
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
        let yaml = yaml(address).replace("cache: {}", "cache: { wait: 60s }");
        let gateway = Gateway::start_with(&yaml, &[WITH]).await;
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
                let drawn = Drawn {
                    number: 0,
                    method: "GET",
                    pieces: vec![b"GET /kept/n0 HTTP/1.1\r\nHost: app.test\r\n\r\n".to_vec()],
                    script: Script {
                        pieces: Vec::new(),
                        closes: false,
                        says_so: true,
                    },
                };
                Way::Http1.received_at(address, &drawn).await
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
