//! A request has the same outcome whichever driver moves its bytes: the relay, or Pingora's proxy.
//!
//! Two gateways with the same configuration, of which one has no relay, get the same random
//! requests. Their origin gives the same random responses, whole and broken. What the client gets,
//! what the origin sees and what the access log says must not differ.
#![allow(
    clippy::format_push_string,
    reason = "tests: what goes wrong here fails them, and says so"
)]

mod cached;
mod http2;
mod secure;
mod tunnels;

use std::{
    collections::{HashMap, HashSet},
    io::Read as _,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use self::secure::Secure;
use crate::support::{gateway::Gateway, seed, wait::pass};

/// Environment of a gateway with the relay, also in a run of all tests without it.
const WITH: (&str, &str) = ("EDGEWAY_RELAY", "on");
/// Environment of a gateway without the relay.
const WITHOUT: (&str, &str) = ("EDGEWAY_RELAY", "off");
/// Time for one exchange, far more than any takes.
const PATIENCE: Duration = Duration::from_secs(20);
/// Number of exchanges in a hunt, and in every other run; `EDGEWAY_DRIVERS=SEED:EXCHANGES` changes
/// seed and number.
const EXCHANGES: [usize; 2] = [250, 120];

/// Response of the origin, byte for byte.
#[derive(Clone, Debug)]
struct Script {
    pieces: Vec<Vec<u8>>,
    /// True if the connection ends after it, as planned or not.
    closes: bool,
    /// True if TLS ends before the connection.
    says_so: bool,
}

/// Message taken out of its framing.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Message {
    start: String,
    /// In order, names in lower case, without those that differ from request to request.
    headers: Vec<(String, String)>,
    content: Vec<u8>,
    is_complete: bool,
}

type Scripts = Arc<Mutex<HashMap<String, Script>>>;
type Seen = Arc<Mutex<HashMap<String, Vec<Message>>>>;

/// Origin that plays scripts by the number in the path.
struct ScriptedOrigin {
    address: SocketAddr,
    scripts: Scripts,
    seen: Seen,
    _tasks: JoinSet<()>,
}

impl ScriptedOrigin {
    async fn start() -> Self {
        Self::start_with(None).await
    }

    /// Starts an origin, with TLS if there is something for it.
    async fn start_with(secure: Option<&Secure>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let acceptor = secure.map(Secure::acceptor);
        let (scripts, seen) = (Scripts::default(), Seen::default());
        let mut tasks = JoinSet::new();
        let (own_scripts, own_seen) = (Arc::clone(&scripts), Arc::clone(&seen));
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (scripts, seen) = (Arc::clone(&own_scripts), Arc::clone(&own_seen));
                let acceptor = acceptor.clone();
                connections.spawn(async move {
                    match acceptor {
                        None => play(stream, scripts, seen).await,
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                play(stream, scripts, seen).await;
                            }
                        }
                    }
                });
            }
        });
        Self {
            address,
            scripts,
            seen,
            _tasks: tasks,
        }
    }
}

async fn play(mut stream: impl AsyncRead + AsyncWrite + Unpin, scripts: Scripts, seen: Seen) {
    let mut input = Vec::new();
    loop {
        let request = loop {
            if let Some((request, length)) = message(&input, Reader::Origin) {
                input.drain(..length);
                break request;
            }
            match stream.read_buf(&mut input).await {
                Ok(1..) => {}
                _ => return,
            }
        };
        let case = case_of(&request.start);
        seen.lock().entry(case.clone()).or_default().push(request);
        let script = scripts.lock().get(&case).cloned();
        let script = script.unwrap_or_else(|| Script {
            pieces: vec![b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec()],
            closes: false,
            says_so: true,
        });
        for (number, piece) in script.pieces.iter().enumerate() {
            if number > 0 {
                pass(Duration::from_millis(3)).await;
            }
            if stream.write_all(piece).await.is_err() || stream.flush().await.is_err() {
                return;
            }
        }
        if script.closes {
            if script.says_so {
                // The gateway may have closed it before.
                drop(stream.shutdown().await);
            }
            return;
        }
    }
}

fn case_of(start: &str) -> String {
    let path = start.split(' ').nth(1).unwrap_or_default();
    let number = path.rsplit("/n").next().unwrap_or_default();
    number.chars().take_while(char::is_ascii_digit).collect()
}

#[derive(Clone, Copy, PartialEq)]
enum Reader {
    Origin,
    /// Client of a request with this method.
    Client {
        is_head: bool,
        end: End,
    },
}

/// End of a client's connection, as far as it has been seen.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Open,
    Closed,
    Reset,
}

/// Takes the first message out of `input`; `None` if it is not complete. A client that has seen the
/// end of the connection takes what there is.
fn message(input: &[u8], reader: Reader) -> Option<(Message, usize)> {
    let end = input.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&input[..end]).into_owned();
    let mut lines = text.trim_end().split("\r\n");
    let start = lines.next().unwrap_or_default().to_owned();
    let all: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let value = |name: &str| {
        let found = all.iter().find(|(given, _)| given == name);
        found.map(|(_, value)| value.as_str())
    };
    let (has_no_body, end_seen) = match reader {
        Reader::Origin => (false, End::Open),
        Reader::Client {
            is_head,
            end: end_seen,
        } => {
            let status = start.split(' ').nth(1).unwrap_or_default();
            let is_bare = status.starts_with('1') || status == "204" || status == "304";
            (is_head || is_bare, end_seen)
        }
    };
    let rest = &input[end..];
    let (content, used, is_complete) = if has_no_body {
        (Vec::new(), 0, true)
    } else if value("transfer-encoding").is_some() {
        unchunk(rest)
    } else if let Some(length) = value("content-length") {
        let length: usize = length.parse().expect("the gateway sends valid lengths");
        let used = length.min(rest.len());
        (rest[..used].to_vec(), used, used == length)
    } else if reader == Reader::Origin {
        (Vec::new(), 0, true)
    } else {
        (rest.to_vec(), rest.len(), end_seen == End::Closed)
    };
    if !is_complete && end_seen == End::Open {
        return None;
    }
    let message = Message {
        start,
        headers: without_changes(all),
        content,
        is_complete,
    };
    Some((message, end + used))
}

/// Returns the headers without those that differ from request to request, by name: the order of
/// different names is not significant (RFC 9110, 5.3).
fn without_changes(mut headers: Vec<(String, String)>) -> Vec<(String, String)> {
    let changes = ["date", "traceparent", "x-request-id"];
    headers.retain(|(name, _)| !changes.contains(&name.as_str()));
    headers.sort_by(|a, b| a.0.cmp(&b.0));
    headers
}

fn unchunk(body: &[u8]) -> (Vec<u8>, usize, bool) {
    let mut content = Vec::new();
    let mut at = 0;
    loop {
        let Some(line) = body[at..].windows(2).position(|two| two == b"\r\n") else {
            return (content, body.len(), false);
        };
        let size = String::from_utf8_lossy(&body[at..at + line]).into_owned();
        let size = size.split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(size, 16).expect("the gateway sends valid sizes");
        at += line + 2;
        if size == 0 {
            let is_over = body[at..].starts_with(b"\r\n");
            return (content, at + if is_over { 2 } else { 0 }, is_over);
        }
        let here = size.min(body.len() - at);
        content.extend_from_slice(&body[at..at + here]);
        at += here;
        if here < size || !body[at..].starts_with(b"\r\n") {
            return (content, body.len(), false);
        }
        at += 2;
    }
}

/// Exchange that is the same for both gateways.
#[derive(Debug)]
struct Drawn {
    number: usize,
    method: &'static str,
    /// The request in pieces, of which the client sends one after the other.
    pieces: Vec<Vec<u8>>,
    script: Script,
}

fn one_of<T: Copy>(dice: &mut fastrand::Rng, choices: &[T]) -> T {
    choices[dice.usize(..choices.len())]
}

fn bytes(dice: &mut fastrand::Rng) -> Vec<u8> {
    let length = match dice.u8(..8) {
        0 => 0,
        1..=5 => dice.usize(1..200),
        6 => dice.usize(200..20_000),
        _ => dice.usize(20_000..200_000),
    };
    (0..length).map(|_| dice.alphanumeric() as u8).collect()
}

/// Cuts bytes into pieces that arrive one after the other.
fn split(dice: &mut fastrand::Rng, whole: &[u8]) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    let mut rest = whole;
    while dice.u8(..3) == 0 && rest.len() > 1 && pieces.len() < 4 {
        let (piece, after) = rest.split_at(dice.usize(1..rest.len()));
        pieces.push(piece.to_vec());
        rest = after;
    }
    pieces.push(rest.to_vec());
    pieces
}

fn chunked(dice: &mut fastrand::Rng, content: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    let mut rest = content;
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(dice.usize(1..=rest.len()));
        let extension = one_of(dice, &["", "", ";a=b"]);
        body.extend(format!("{:x}{extension}\r\n", chunk.len()).into_bytes());
        body.extend(chunk);
        body.extend(b"\r\n");
        rest = after;
    }
    body.extend(b"0\r\n\r\n");
    body
}

fn draw(dice: &mut fastrand::Rng, number: usize, way: Way) -> Drawn {
    let version = if way == Way::Http10 { "1.0" } else { "1.1" };
    let method = one_of(
        dice,
        &[
            "GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS",
        ],
    );
    let place = one_of(dice, &["", "/small", "/changed", "/zipped"]);
    let mut request = format!(
        "{method} {place}/n{number}?q={} HTTP/{version}\r\nHost: app.test\r\n",
        dice.u8(..9)
    );
    for line in [
        "Accept-Encoding: gzip",
        "Accept: text/html",
        "Cookie: a=1; b=2",
        "X-Forwarded-For: 1.2.3.4",
        "TE: trailers",
        "Connection: close",
        // Pingora closes a connection of HTTP/1.0 that lists more than `keep-alive`.
        if version == "1.1" {
            "Connection: keep-alive, x-gone"
        } else {
            "Connection: keep-alive"
        },
        "X-Gone: 1",
        "If-None-Match: \"a\"",
        "Expect: 100-continue",
        "Connection: upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
        "Range: bytes=0-9",
    ] {
        if dice.u8(..5) == 0 {
            request.push_str(line);
            request.push_str("\r\n");
        }
    }
    let mut request = request.into_bytes();
    let content = bytes(dice);
    match (method, dice.u8(..3)) {
        ("POST" | "PUT", 0) | ("GET" | "DELETE", 2)
            if version == "1.1" && (dice.bool() || method == "POST") =>
        {
            request.extend(b"Transfer-Encoding: chunked\r\n\r\n");
            request.extend(chunked(dice, &content));
        }
        ("POST" | "PUT", _) => {
            request.extend(format!("Content-Length: {}\r\n\r\n", content.len()).into_bytes());
            request.extend(&content);
        }
        _ => request.extend(b"\r\n"),
    }
    let pieces = split(dice, &request);
    Drawn {
        number,
        method,
        pieces,
        script: script(dice, method == "HEAD"),
    }
}

fn script(dice: &mut fastrand::Rng, is_head: bool) -> Script {
    let version = one_of(dice, &["1.1", "1.1", "1.1", "1.0"]);
    let status = one_of(
        dice,
        &[
            "200 OK",
            "200 OK",
            "200 Fine",
            "201 Created",
            "204 No Content",
            "301 Moved",
            "304 Not Modified",
            "404 Not Found",
            "500 Broken",
            "503 Busy",
            "206 Part",
        ],
    );
    let mut whole = Vec::new();
    if version == "1.1" && dice.u8(..12) == 0 {
        whole.extend(b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n");
    }
    if version == "1.1" && dice.u8(..12) == 0 {
        whole.extend(b"HTTP/1.1 100 Continue\r\n\r\n");
    }
    let start = whole.len();
    whole.extend(format!("HTTP/{version} {status}\r\n").into_bytes());
    for line in [
        "Content-Type: text/html",
        "Content-Type: text/event-stream",
        "Set-Cookie: s=1",
        "Set-Cookie: t=2; Path=/",
        "Cache-Control: no-store",
        "X-Powered-By: Test",
        "Location: /elsewhere",
        "Connection: keep-alive",
        "Connection: close",
        "Keep-Alive: timeout=5",
        "Vary: Accept",
        "Content-Encoding: x-odd",
        "X-Folded: a\r\n b",
        "Date: Thu, 01 Jan 2015 08:00:00 GMT",
        "Upgrade: h2c",
    ] {
        if dice.u8(..6) == 0 {
            whole.extend(line.as_bytes());
            whole.extend(b"\r\n");
        }
    }
    let content = bytes(dice);
    let mut closes = dice.u8(..6) == 0 || version == "1.0";
    match dice.u8(..8) {
        0..=2 => {
            whole.extend(format!("Content-Length: {}\r\n\r\n", content.len()).into_bytes());
            whole.extend(&content);
        }
        3..=5 if version == "1.1" => {
            whole.extend(b"Transfer-Encoding: chunked\r\n\r\n");
            whole.extend(chunked(dice, &content));
        }
        6 => {
            // Broken off: not all of what was announced comes.
            whole.extend(format!("Content-Length: {}\r\n\r\n", content.len() + 7).into_bytes());
            whole.extend(&content);
            closes = true;
        }
        _ => {
            whole.extend(b"\r\n");
            whole.extend(&content);
            closes = true;
        }
    }
    if dice.u8(..15) == 0 {
        whole.truncate(dice.usize(..whole.len()));
        closes = true;
    } else if dice.u8(..40) == 0 {
        whole = b"this is not HTTP\r\n\r\n".to_vec();
        closes = true;
    }
    // Content that no response of this kind can have would be read as the beginning of the next
    // one, or not, as time will have it.
    if (is_head || status.starts_with("204") || status.starts_with("304"))
        && let Some(after) = whole.get(start..)
        && let Some(end) = after.windows(4).position(|end| end == b"\r\n\r\n")
    {
        whole.truncate(start + end + 4);
    }
    Script {
        pieces: split(dice, &whole),
        closes,
        says_so: dice.u8(..3) > 0,
    }
}

/// Sends the request on a connection of its own, and returns the messages that come back.
async fn received(gateway: SocketAddr, drawn: &Drawn) -> Vec<Message> {
    let mut stream = TcpStream::connect(gateway)
        .await
        .expect("the gateway listens");
    for (number, piece) in drawn.pieces.iter().enumerate() {
        if number > 0 {
            pass(Duration::from_millis(3)).await;
        }
        if stream.write_all(piece).await.is_err() {
            break;
        }
    }
    let mut input = Vec::new();
    let mut messages = Vec::new();
    let mut end = End::Open;
    let is_head = drawn.method == "HEAD";
    loop {
        let reader = Reader::Client { is_head, end };
        if let Some((message, length)) = message(&input, reader) {
            input.drain(..length);
            let is_interim = message.start.starts_with("HTTP/1.1 1");
            // Pingora sends it again if the backend fails after it.
            if !messages.contains(&message) {
                messages.push(message);
            }
            if !is_interim {
                break;
            }
        } else if end != End::Open {
            break;
        }
        let read = timeout(PATIENCE, stream.read_buf(&mut input)).await;
        end = match read.expect("the gateway responds in time") {
            Ok(1..) => End::Open,
            Ok(0) => End::Closed,
            Err(_) => End::Reset,
        };
    }
    messages
}

/// Fields of the log that both gateways must agree on.
fn logged(line: &Value, is_inexact: bool) -> Vec<String> {
    let fields = [
        "method",
        "status",
        "bytes_in",
        "bytes_out",
        "route",
        "attempts",
        "upstream_status",
        "reason",
        "cache",
        "protocol",
    ];
    fields
        .iter()
        .filter(|name| **name != "bytes_out" || !is_inexact)
        // Of a refused body over HTTP/2, the rest is read while the client reads the response: more
        // or less of it has come when the line is written.
        .filter(|name| {
            let is_refused = line["reason"] == "body_limit" && line["protocol"] == "HTTP/2";
            **name != "bytes_in" || !is_refused
        })
        // A connection that breaks when it is used again is replaced, and which one it is differs.
        .filter(|name| **name != "attempts" || line["reason"] != "upstream_reset")
        .map(|name| format!("{name}={}", line[*name]))
        .collect()
}

fn yaml(origin: SocketAddr) -> String {
    yaml_with(origin, "")
}

/// Returns the configuration of a gateway; `tls` is how it connects to the origin.
fn yaml_with(origin: SocketAddr, tls: &str) -> String {
    format!(
        "
listeners: [{{ address: '127.0.0.1:0', name: web, http2: {{ cleartext: true }} }}]
upstreams: {{ app: {{ backends: ['{origin}'], health: false, retry: {{ attempts: 1 }}, {tls} }} }}
routes:
  - {{ name: small, match: {{ path: '/small/*' }}, upstream: app, body_limit: 100 }}
  - name: changed
    match: {{ path: '/changed/*' }}
    upstream: app
    rewrite: {{ prefix: /changed, with: /new }}
    headers:
      request: {{ set: {{ X-Set: '{{client.ip}}' }}, remove: [Cookie] }}
      response: {{ set: {{ X-Added: 'yes' }}, remove: [X-Powered-By] }}
  - {{ name: zipped, match: {{ path: '/zipped/*' }}, upstream: app, compression: {{ min_size: 1 }} }}
  - {{ name: all, match: {{ path: '/*' }}, upstream: app }}
"
    )
}

/// Protocol of the client.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Http1,
    Http10,
    Http2,
}

impl Way {
    /// Returns the messages as far as they must be the same. A reset discards what the client has
    /// not read yet: on HTTP/1.0, where it stands for an end that would look like that of the body,
    /// it may be all.
    fn shown(self, messages: &[Message]) -> Vec<String> {
        let mut messages = messages.to_vec();
        match self {
            Self::Http1 => {}
            Self::Http10 => messages.retain(|message| message.is_complete),
            Self::Http2 => {
                for message in messages.iter_mut().filter(|message| !message.is_complete) {
                    message.content.clear();
                }
            }
        }
        shown(&messages)
    }

    async fn received(self, gateway: &Gateway, drawn: &Drawn) -> Vec<Message> {
        self.received_at(gateway.address(), drawn).await
    }

    async fn received_at(self, gateway: SocketAddr, drawn: &Drawn) -> Vec<Message> {
        match self {
            Self::Http1 | Self::Http10 => received(gateway, drawn).await,
            Self::Http2 => http2::received(gateway, drawn).await,
        }
    }
}

#[tokio::test]
async fn both_drivers_give_the_same_responses_requests_and_log_lines() {
    both_drivers_agree(Way::Http1, None).await;
}

#[tokio::test]
async fn both_drivers_serve_http10_alike() {
    both_drivers_agree(Way::Http10, None).await;
}

/// Returns the seed and the number of exchanges of this run.
#[expect(clippy::print_stdout, reason = "a failure is repeated with its seed")]
fn plan() -> (u64, usize) {
    let plan = std::env::var("EDGEWAY_DRIVERS").ok();
    let plan = plan.as_deref().and_then(|plan| plan.split_once(':'));
    let (seed, count) = match plan {
        Some((seed, count)) => (
            seed.parse().expect("a seed is a number"),
            count.parse().expect("a count is a number"),
        ),
        None => (seed::drawn(), seed::cases(EXCHANGES[1], EXCHANGES[0])),
    };
    println!("EDGEWAY_DRIVERS={seed}:{count}");
    (seed, count)
}

async fn both_drivers_agree(way: Way, secure: Option<&Secure>) {
    let (seed, count) = plan();
    let mut dice = fastrand::Rng::with_seed(seed);
    let one = ScriptedOrigin::start_with(secure).await;
    let other = ScriptedOrigin::start_with(secure).await;
    let tls = secure.map(Secure::option).unwrap_or_default();
    let relay = Gateway::start_with(&yaml_with(one.address, &tls), &[WITH]).await;
    let pingora = Gateway::start_with(&yaml_with(other.address, &tls), &[WITHOUT]).await;
    let mut drawn = Vec::new();
    let mut inexact = HashSet::new();
    for number in 0..count {
        let case = draw(&mut dice, number, way);
        for origin in [&one, &other] {
            let mut scripts = origin.scripts.lock();
            scripts.insert(number.to_string(), case.script.clone());
        }
        let (by_relay, mut by_pingora) =
            tokio::join!(way.received(&relay, &case), way.received(&pingora, &case));
        forgive_close(&by_relay, &mut by_pingora);
        assert_eq!(
            way.shown(&by_relay),
            way.shown(&by_pingora),
            "to the client: {}",
            explained(&case)
        );
        if by_relay
            .iter()
            .any(|it| is_compressed(it) || !it.is_complete)
        {
            inexact.insert(case.number);
        }
        drawn.push(case);
    }
    let lines = [relay.log_lines(count).await, pingora.log_lines(count).await];
    let relayed = relay.count("edgeway_http_relayed_total").await;
    assert!(relayed > count as u64 / 2, "{relayed} of {count}");
    assert_eq!(pingora.count("edgeway_http_relayed_total").await, 0);
    for case in &drawn {
        let number = case.number.to_string();
        let [by_relay, by_pingora] = [&one, &other].map(|origin| {
            let seen = origin.seen.lock();
            let mut seen = seen.get(&number).cloned().unwrap_or_default();
            // Whether a connection that breaks was used before, and is replaced, differs.
            seen.truncate(1);
            seen
        });
        assert_eq!(
            shown(&by_relay),
            shown(&by_pingora),
            "to the origin: {}",
            explained(case)
        );
        let [by_relay, by_pingora] = lines.each_ref().map(|lines| {
            let of_case = |line: &&Value| {
                let path = line["path"].as_str().unwrap_or_default();
                case_of(&format!(" {path}")) == number
            };
            let of_case = lines.iter().filter(of_case);
            let of_case = of_case.map(|line| logged(line, inexact.contains(&case.number)));
            of_case.collect::<Vec<_>>()
        });
        assert_eq!(by_relay, by_pingora, "in the log: {}", explained(case));
    }
}

/// A backend may accept a request at once and want its body all the same.
#[tokio::test]
async fn an_early_response_does_not_cut_the_upload_off() {
    const LENGTH: usize = 300_000;
    for environment in [WITH, WITHOUT] {
        let origin = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback has a free port");
        let address = origin.local_addr().expect("it is bound");
        let mut origins = JoinSet::new();
        origins.spawn(async move {
            let (mut stream, _) = origin.accept().await?;
            let mut input = Vec::new();
            let end = loop {
                stream.read_buf(&mut input).await?;
                if let Some(end) = input.windows(4).position(|four| four == b"\r\n\r\n") {
                    break end + 4;
                }
            };
            let accepted = b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(accepted).await?;
            while input.len() < end + LENGTH {
                if stream.read_buf(&mut input).await? == 0 {
                    break;
                }
            }
            std::io::Result::Ok(input.len() - end)
        });
        let gateway = Gateway::start_with(&yaml(address), &[environment]).await;
        let mut client = TcpStream::connect(gateway.address())
            .await
            .expect("the gateway listens");
        let head =
            format!("POST /n1 HTTP/1.1\r\nhost: app.test\r\ncontent-length: {LENGTH}\r\n\r\n");
        let body = vec![b'x'; LENGTH];
        client.write_all(head.as_bytes()).await.expect("it reads");
        client.write_all(&body[..1000]).await.expect("it reads");
        let mut response = Vec::new();
        while !response.ends_with(b"\r\n\r\n") {
            let read = timeout(PATIENCE, client.read_buf(&mut response)).await;
            let read = read.expect("the response is early").expect("it is open");
            assert_ne!(read, 0, "{environment:?}");
        }
        assert!(response.starts_with(b"HTTP/1.1 202 "), "{environment:?}");
        client.write_all(&body[1000..]).await.expect("it reads");
        let stored = timeout(PATIENCE, origins.join_next()).await;
        let stored = stored.expect("the body arrives").expect("it was spawned");
        let stored = stored
            .expect("the origin does not panic")
            .expect("it reads");
        assert_eq!(stored, LENGTH, "{environment:?}");
    }
}

/// Takes out the difference that Pingora closes the connection after it failed to forward a request,
/// and says so in the gateway's own response.
fn forgive_close(by_relay: &[Message], by_pingora: &mut [Message]) {
    let named = |value: &str| ("connection".to_owned(), value.to_owned());
    let no_store = ("cache-control".to_owned(), "no-store".to_owned());
    for (relayed, message) in by_relay.iter().zip(by_pingora) {
        let is_error = ["HTTP/1.1 4", "HTTP/1.1 5"]
            .iter()
            .any(|it| message.start.starts_with(it));
        let is_kept = relayed.headers.contains(&named("keep-alive"));
        if is_error && is_kept && message.headers.contains(&no_store) {
            for header in &mut message.headers {
                if *header == named("close") {
                    *header = named("keep-alive");
                }
            }
        }
    }
}

/// Messages as text, with a digest of long content.
fn shown(messages: &[Message]) -> Vec<String> {
    messages
        .iter()
        .map(|message| {
            let content = without_id(&decoded(message));
            let text = String::from_utf8_lossy(&content[..content.len().min(60)]).into_owned();
            let sum: u64 = content
                .iter()
                .enumerate()
                .map(|(at, byte)| (at as u64 + 1) * u64::from(*byte))
                .sum();
            format!(
                "{} {:?} {} bytes {sum} {text:?} complete: {}",
                message.start,
                message.headers,
                content.len(),
                message.is_complete
            )
        })
        .collect()
}

/// Decodes content as far as it came. The same content is compressed to other bytes if it arrives
/// in other pieces.
fn decoded(message: &Message) -> Vec<u8> {
    if message.content.is_empty() || !is_compressed(message) {
        return message.content.clone();
    }
    let mut content = Vec::new();
    let mut decoder = flate2::read::GzDecoder::new(&*message.content);
    let whole = decoder.read_to_end(&mut content);
    assert_eq!(whole.is_ok(), message.is_complete, "{:?}", message.headers);
    if !message.is_complete {
        // How much of it is out already is a matter of the compressor.
        content.clear();
    }
    content
}

fn is_compressed(message: &Message) -> bool {
    let gzip = ("content-encoding".to_owned(), "gzip".to_owned());
    message.headers.contains(&gzip)
}

/// Replaces the request's id in a page of the gateway.
fn without_id(content: &[u8]) -> Vec<u8> {
    const ID: usize = 32;
    let is_id = |place: &[u8]| place.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let mut content = content.to_vec();
    if content.len() < 2000
        && let Some(at) = content.windows(ID).position(is_id)
    {
        content[at..at + ID].fill(b'0');
    }
    content
}

fn explained(case: &Drawn) -> String {
    let lossy = |pieces: &[Vec<u8>]| {
        let shown: Vec<_> = pieces
            .iter()
            .map(|piece| String::from_utf8_lossy(&piece[..piece.len().min(600)]).into_owned())
            .collect();
        format!("{shown:#?}")
    };
    format!(
        "\nrequest {}\nresponse {} closes: {}",
        lossy(&case.pieces),
        lossy(&case.script.pieces),
        case.script.closes
    )
}

/// Origin that closes a connection when it has read the second request on it.
async fn forgetful(listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        connections.spawn(async move {
            let mut input = Vec::new();
            for has_response in [true, false] {
                let length = loop {
                    if let Some((_, length)) = message(&input, Reader::Origin) {
                        break length;
                    }
                    if !matches!(stream.read_buf(&mut input).await, Ok(1..)) {
                        return;
                    }
                };
                input.drain(..length);
                let accepted = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                if has_response && stream.write_all(accepted).await.is_err() {
                    return;
                }
            }
        });
    }
}

#[tokio::test]
async fn a_body_that_is_sent_again_counts_once() {
    for environment in [WITH, WITHOUT] {
        let origin = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback has a free port");
        let address = origin.local_addr().expect("it is bound");
        let mut origins = JoinSet::new();
        origins.spawn(forgetful(origin));
        let gateway = Gateway::start_with(&yaml(address), &[environment]).await;
        for number in 0..6 {
            let head = "host: app.test\r\ntransfer-encoding: chunked\r\n\r\n";
            let body = format!("46\r\n{}\r\n0\r\n\r\n", "x".repeat(0x46));
            let request = format!("PUT /small/n{number} HTTP/1.1\r\n{head}{body}");
            let case = Drawn {
                number,
                method: "PUT",
                pieces: vec![request.into_bytes()],
                script: Script {
                    pieces: Vec::new(),
                    closes: false,
                    says_so: true,
                },
            };
            let messages = received(gateway.address(), &case).await;
            assert_eq!(messages[0].start, "HTTP/1.1 200 OK", "request {number}");
        }
        let lines = gateway.log_lines(6).await;
        // The control: some were sent again.
        assert!(lines.iter().any(|line| line["attempts"] == 2), "{lines:?}");
    }
}

/// A client that offered a body and got a response may not send it. What it sends next would be
/// taken for the body.
#[tokio::test]
async fn a_response_in_place_of_continue_ends_the_connection() {
    let origin = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("loopback has a free port");
    let address = origin.local_addr().expect("it is bound");
    let gateway = Gateway::start_with(&yaml(address), &[WITH]).await;
    let refuse = async {
        let (mut stream, _) = origin.accept().await.expect("the gateway connects");
        let mut input = Vec::new();
        while !input.ends_with(b"\r\n\r\n") {
            stream.read_buf(&mut input).await.expect("headers come");
        }
        let refusal = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\nno";
        stream.write_all(refusal).await.expect("it reads");
        stream
    };
    let offer = async {
        let mut client = TcpStream::connect(gateway.address())
            .await
            .expect("the gateway listens");
        let head = "PUT /n1 HTTP/1.1\r\nhost: app.test\r\ncontent-length: 40\r\n\
            expect: 100-continue\r\n\r\n";
        client.write_all(head.as_bytes()).await.expect("it reads");
        let mut seen = String::new();
        let read = client.read_to_string(&mut seen);
        let read = timeout(PATIENCE, read).await.expect("it ends in time");
        read.expect("it ends in order");
        seen.to_ascii_lowercase()
    };
    let (_stream, seen) = tokio::join!(refuse, offer);
    assert!(seen.starts_with("http/1.1 401 "), "{seen}");
    assert!(seen.contains("\r\nconnection: close\r\n"), "{seen}");
    assert!(seen.ends_with("\r\n\r\nno"), "{seen}");
}
