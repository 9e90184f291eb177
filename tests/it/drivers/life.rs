//! Books of a gateway: each request that was sent has one line of the log and counts once, whatever
//! becomes of it, and nothing else has a line. Each line is of a request that has passed the first
//! and the last hook once.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use futures_util::future::join_all;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{
    PATIENCE, Way,
    draw::{self, Drawn, one_of},
    message::Message,
    origin::{Backend, ScriptedOrigin},
    plan,
    side::{DRIVERS, number_of},
};
use crate::support::{
    gateway::{Gateway, sum_of},
    wait::{pass, wait_for},
};

/// Requests that are in flight at a time.
const LANES: usize = 4;
/// Lets the hooks tell of each request.
const HOOKS_TELL: [(&str, &str); 1] = [("EDGEWAY_LOG", "warn,edgeway_proxy::hooks=trace")];
const COUNTED: &str = "edgeway_http_requests_total";

fn yaml(plain: SocketAddr, http2: SocketAddr) -> String {
    format!(
        "
listeners: [{{ address: '127.0.0.1:0', name: web, http2: {{ cleartext: true }} }}]
cache: {{ memory: 16MiB, max_object: 100KiB }}
defaults: {{ csrf: false }}
rate_limits: {{ few: {{ rate: 5/d, key: client.ip }} }}
upstreams:
  app: {{ backends: ['{plain}'], health: false }}
  h2: {{ backends: ['{http2}'], health: false, protocol: h2 }}
  away: {{ backends: ['127.0.0.1:9'], health: false, eject: {{ errors: 0 }} }}
routes:
  - {{ match: {{ path: '/app/*' }}, upstream: app, body_limit: 50KiB }}
  - {{ match: {{ path: '/kept/*' }}, upstream: app, cache: {{}}, compression: {{ min_size: 1 }} }}
  - {{ match: {{ path: '/streams/*' }}, upstream: h2 }}
  - {{ match: {{ path: '/kept-streams/*' }}, upstream: h2, cache: {{}} }}
  - {{ match: {{ path: '/ws/*' }}, upstream: app, websocket: true }}
  - match: {{ path: '/read/*' }}
    upstream: app
    plugins: [{{ file: read.js, body: {{}}, limits: {{ cpu: 1s, wall: 20s }}, on_error: continue }}]
  - {{ match: {{ path: '/away/*' }}, upstream: away }}
  - {{ match: {{ path: '/few/*' }}, upstream: app, rate_limit: [few] }}
  - {{ match: {{ path: '/moved/*' }}, redirect: /here }}
  - {{ match: {{ path: '/closed/*' }}, respond: 444 }}
  - {{ match: {{ path: '/fixed/*' }}, respond: hello }}
  - {{ match: {{ path: '/files/*' }}, files: public }}
"
    )
}

const PLACES: [&str; 14] = [
    "app",
    "app",
    "kept",
    "streams",
    "kept-streams",
    "ws",
    "read",
    "away",
    "few",
    "moved",
    "closed",
    "fixed",
    "files",
    "none",
];

/// Behaviour of a client.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Client {
    /// Reads the response.
    Waits,
    /// Leaves after this time, with the request sent as far as it got.
    Leaves(Duration),
    /// Sends half of the request's body, and then nothing more.
    Stops,
}

/// Draws a request for the exchange of this number.
fn request(dice: &mut fastrand::Rng, number: usize, way: Way) -> (Drawn, Client) {
    let place = one_of(dice, &PLACES);
    let backend = if place.ends_with("streams") {
        Backend::Http2
    } else {
        Backend::Plain
    };
    let mut drawn = draw::exchange(dice, number, way, backend);
    let whole = String::from_utf8(drawn.pieces.concat()).expect("what is drawn is text");
    let (line, rest) = whole.split_once("\r\n").expect("there is a request line");
    let mut line = line.split(' ');
    let method = line.next().unwrap_or_default();
    // Few are stored under the same name.
    let query = number % 5;
    let is_bad = way != Way::Http2 && dice.u8(..20) == 0;
    let target = match place {
        "kept" | "kept-streams" if !is_bad => format!("/{place}/{query}"),
        "files" if !is_bad => "/files/a.txt".to_owned(),
        _ => format!("/{place}/n{number}?q={query}"),
    };
    // What one handshake asks for twice is refused.
    let rest = rest.replace("Upgrade: h2c\r\n", "");
    let bad = if is_bad { "Bad Name: 1\r\n" } else { "" };
    let asks = if place == "ws" && way != Way::Http2 {
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    } else {
        ""
    };
    let version = way.version();
    drawn.pieces =
        vec![format!("{method} {target} HTTP/{version}\r\n{bad}{asks}{rest}").into_bytes()];
    let client = match dice.u8(..6) {
        0 => Client::Leaves(Duration::from_millis(one_of(dice, &[0, 1, 3, 10]))),
        1 if !rest.ends_with("\r\n\r\n") => Client::Stops,
        _ => Client::Waits,
    };
    (drawn, client)
}

/// Sends the request, and returns the ids of the messages that came back.
async fn send(gateway: SocketAddr, way: Way, drawn: &Drawn, client: Client) -> Vec<Message> {
    match client {
        Client::Waits => way.received(gateway, drawn).await.0,
        Client::Leaves(after) => {
            let left = timeout(after, way.received(gateway, drawn)).await;
            left.unwrap_or_default().0
        }
        Client::Stops => {
            let whole = drawn.pieces.concat();
            let end = whole.windows(4).position(|four| four == b"\r\n\r\n");
            let end = end.expect("a request has headers") + 4;
            let mut stream = TcpStream::connect(gateway).await.expect("it listens");
            let half = &whole[..end + (whole.len() - end) / 2];
            // It may be refused before all of it was sent.
            drop(stream.write_all(half).await);
            pass(Duration::from_millis(5)).await;
            drop(stream.shutdown().await);
            drop(timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await);
            Vec::new()
        }
    }
}

/// Records of the same requests by those who sent, counted and logged them.
#[derive(Clone, Debug, Default)]
struct Books {
    /// Numbers of the requests whose headers the gateway has.
    sent: BTreeSet<usize>,
    /// Numbers of those of which the gateway may have only a part.
    begun: BTreeSet<usize>,
    lines: Vec<Value>,
    /// Requests by status.
    counted: BTreeMap<String, f64>,
    /// Counts of the first and the last hook, by the ids of requests, as the hooks themselves tell.
    passed: Vec<(String, u8, u8)>,
}

impl Books {
    /// Returns what does not agree.
    fn audit(&self) -> Result<(), String> {
        let mut ids = BTreeSet::new();
        let mut logged = BTreeSet::new();
        let mut by_status = BTreeMap::<String, f64>::new();
        for line in &self.lines {
            let number = number_of(line).ok_or_else(|| format!("a line of nothing: {line}"))?;
            if !self.sent.contains(&number) && !self.begun.contains(&number) {
                return Err(format!("a line of no request: {line}"));
            }
            if !logged.insert(number) {
                return Err(format!("a second line: {line}"));
            }
            if !ids.insert(line["id"].to_string()) || line["id"].is_null() {
                return Err(format!("an id that is not its own: {line}"));
            }
            *by_status.entry(line["status"].to_string()).or_default() += 1.0;
        }
        if let Some(number) = self.sent.difference(&logged).next() {
            return Err(format!("no line of request {number}"));
        }
        for (id, first, last) in &self.passed {
            if !ids.remove(&format!("\"{id}\"")) {
                return Err(format!("hooks of no line: {id}"));
            }
            if (*first, *last) != (1, 1) {
                return Err(format!("hooks passed {first} and {last} times: {id}"));
            }
        }
        if let Some(id) = ids.first() {
            return Err(format!("a line without hooks: {id}"));
        }
        if by_status != self.counted {
            return Err(format!("logged {by_status:?}, counted {:?}", self.counted));
        }
        Ok(())
    }
}

/// Returns what the hooks tell of each request.
fn passed(gateway: &Gateway) -> Vec<(String, u8, u8)> {
    let stderr = gateway.stderr();
    let noted = stderr
        .lines()
        .filter(|line| line.contains("request logged"));
    let read = |line: &str| {
        let field = |name: &str| {
            let (_, rest) = line.split_once(&format!(" {name}="))?;
            rest.split_whitespace().next()
        };
        let count = |name| field(name)?.parse().ok();
        let id = field("request_id")?.to_owned();
        Some((id, count("early_request_filter")?, count("logging")?))
    };
    noted
        .map(|line| read(line).expect("both hooks are counted"))
        .collect()
}

/// Returns the counts of requests by status.
async fn counted(gateway: &Gateway) -> BTreeMap<String, f64> {
    let metrics = gateway.admin_get("/metrics").await.text();
    let mut counts = BTreeMap::new();
    for status in 100..600 {
        let count = sum_of(&metrics, &format!("{COUNTED}{{status=\"{status}\"}}"));
        if count > 0.0 {
            counts.insert(status.to_string(), count);
        }
    }
    counts
}

#[tokio::test]
async fn each_request_is_logged_and_counted_once() {
    let (seed, count) = plan();
    for side in DRIVERS {
        let mut dice = fastrand::Rng::with_seed(seed);
        let plain = ScriptedOrigin::start(Backend::Plain).await;
        let http2 = ScriptedOrigin::start(Backend::Http2).await;
        let gateway = side
            .start_with(&yaml(plain.address, http2.address), &HOOKS_TELL)
            .await;
        let mut cases = Vec::new();
        for number in 0..count * 2 {
            let way = one_of(&mut dice, &[Way::Http1, Way::Http10, Way::Http2]);
            let (drawn, client) = request(&mut dice, number, way);
            for origin in [&plain, &http2] {
                origin.set(number, drawn.script.clone());
            }
            cases.push((way, drawn, client));
        }
        let mut books = Books::default();
        for some in cases.chunks(LANES) {
            let sent = some.iter().map(|(way, drawn, client)| {
                let address = gateway.address();
                async move { send(address, *way, drawn, *client).await }
            });
            for ((_, drawn, client), messages) in some.iter().zip(join_all(sent).await) {
                let is_late = messages.contains(&Message::late());
                assert!(!is_late, "{side:?} {client:?}: {}", drawn.explained());
                match client {
                    Client::Leaves(_) if messages.is_empty() => books.begun.insert(drawn.number),
                    _ => books.sent.insert(drawn.number),
                };
            }
        }
        let idle = async || (gateway.count("edgeway_http_in_flight").await == 0).then_some(());
        wait_for("no request in flight", PATIENCE, idle).await;
        let total = usize::try_from(gateway.count(COUNTED).await);
        books.lines = gateway.log_lines(total.expect("it is a few")).await;
        books.counted = counted(&gateway).await;
        books.passed = passed(&gateway);
        let place = format!("{side:?}, EDGEWAY_DRIVERS={seed}:{count}");
        books.audit().unwrap_or_else(|why| panic!("{place}: {why}"));
        let statuses = books.counted.len();
        assert!(statuses > 8, "{:?} say little", books.counted);
        falsify(&books);
    }
}

/// The control: books that were changed do not agree.
#[track_caller]
fn falsify(books: &Books) {
    type Falsified = (&'static str, fn(&mut Books));
    let falsified: [Falsified; 9] = [
        ("no line of request", |books| {
            let is_sent =
                |line: &Value| number_of(line).is_some_and(|number| books.sent.contains(&number));
            let at = books.lines.iter().position(is_sent);
            books.lines.remove(at.expect("one was sent"));
        }),
        ("a second line", |books| {
            books.lines.push(books.lines[0].clone());
        }),
        ("a line of no request", |books| {
            books.lines[0]["user_agent"] = "1000000".into();
        }),
        ("a line of nothing", |books| {
            books.lines[0]["user_agent"] = Value::Null;
            books.lines[0]["path"] = "/".into();
        }),
        ("an id that is not its own", |books| {
            books.lines[0]["id"] = books.lines[1]["id"].clone();
        }),
        ("a line without hooks", |books| {
            books.passed.pop();
        }),
        ("hooks passed 0 and 1 times", |books| {
            books.passed[0].1 = 0;
        }),
        ("hooks of no line", |books| {
            books.passed.push(books.passed[0].clone());
        }),
        ("logged {", |books| {
            *books.counted.entry("200".to_owned()).or_default() += 1.0;
        }),
    ];
    for (why, falsify) in falsified {
        let mut books = books.clone();
        falsify(&mut books);
        let found = books.audit().expect_err(why);
        assert!(found.starts_with(why), "{found}");
    }
}
