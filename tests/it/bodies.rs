//! Every body arrives complete: whatever path a response takes, a strict client decodes the
//! origin's body to its end.
//!
//! Cases are random: `EDGEWAY_BODIES_SEED` repeats a run, `EDGEWAY_BODIES_CASES` makes it longer.
//! The clients of the harness verify bodies in every other test, too.

use std::{
    collections::BTreeMap, fs, net::SocketAddr, path::Path, process::Stdio, sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use rustls::ClientConfig;
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream, process::Command, sync::Semaphore, task::JoinSet};
use tokio_rustls::TlsConnector;

use crate::support::{
    certificates::Ca,
    client::{ClientError, Connection, Request, get},
    gateway::Gateway,
    http2,
    origins::{
        Origin, ScriptedOrigin, SseOrigin,
        planned::{Framing, Hints, Plan, PlannedHttp2, PlannedOrigin, Plans},
    },
    seed, verify,
    wait::{pass, wait_for},
};

/// Cases in a hunt, and in every other run.
const CASES: [u64; 2] = [160, 90];
/// Number of concurrent cases: some wait for a response to turn stale.
const AT_ONCE: usize = 12;
const SOON: Duration = Duration::from_secs(10);
const SITE: &str = "bodies.test";

const SIZES: [usize; 24] = [
    0,
    1,
    2,
    19,
    100,
    1023,
    1024,
    4095,
    4096,
    4097,
    16_383,
    16_384,
    16_385,
    20_000,
    32_768,
    65_535,
    65_536,
    65_537,
    100_000,
    131_072,
    262_145,
    500_000,
    1 << 20,
    3 << 20,
];

/// Routes, by the first segment of their paths, and whether they store responses.
const ROUTES: [(&str, bool); 7] = [
    ("kept", true),
    ("kept-plain", true),
    ("kept-script", true),
    ("passed", false),
    ("passed-plain", false),
    ("kept-h2", true),
    ("passed-h2", false),
];

const ACCEPTED: [&str; 8] = [
    "",
    "gzip",
    "br",
    "zstd",
    "gzip, deflate, br, zstd",
    "identity",
    "gzip;q=1.0, *;q=0",
    "br;q=0.5, gzip;q=0.9",
];

struct Site {
    gateway: Gateway,
    trust: ClientConfig,
    plans: Arc<Plans>,
    _origin: Origin<PlannedOrigin>,
    _http2: PlannedHttp2,
}

impl Site {
    async fn start() -> Self {
        let plans = Arc::<Plans>::default();
        let origin = PlannedOrigin::start(&plans).await;
        let http2 = PlannedHttp2::start(&plans).await;
        let ca = Ca::new();
        let yaml = format!(
            "
listeners:
  - {{ address: \"127.0.0.1:0\", name: web, http2: {{ cleartext: true }} }}
  - {{ address: \"127.0.0.1:0\", name: tls, tls: {{ certificates: {{ cert: site.pem, key: site.key }} }} }}
cache: {{ purge: {{ allow: [127.0.0.0/8] }} }}
upstreams:
  web: {{ backends: [\"{}\"], health: false, retry: {{ attempts: 1 }} }}
  h2: {{ backends: [\"{}\"], health: false, protocol: h2, retry: {{ attempts: 1 }} }}
  down: {{ backends: [\"127.0.0.1:1\"], health: false, retry: {{ attempts: 1 }} }}
routes:
  - {{ match: {{ path: /kept/* }}, upstream: web, cache: {{}}, compression: {{ min_size: 1 }} }}
  - {{ match: {{ path: /kept-plain/* }}, upstream: web, cache: {{}}, compression: false }}
  - {{ match: {{ path: /kept-script/* }}, upstream: web, cache: {{}}, plugins: [{{ file: x/plugin.js }}] }}
  - {{ match: {{ path: /passed/* }}, upstream: web, compression: {{ min_size: 1 }} }}
  - {{ match: {{ path: /passed-plain/* }}, upstream: web, compression: false }}
  - {{ match: {{ path: /kept-h2/* }}, upstream: h2, cache: {{}} }}
  - {{ match: {{ path: /passed-h2/* }}, upstream: h2 }}
  - {{ match: {{ path: /down }}, upstream: down }}
  - {{ match: {{ path: /down-kept }}, upstream: down, cache: {{}}, compression: {{ min_size: 1 }} }}
  - {{ match: {{ path: /hello }}, respond: hello, compression: {{ min_size: 1 }} }}
",
            origin.address(),
            http2.address(),
        );
        let gateway = Gateway::start_in(&yaml, |folder: &Path| {
            let text = "export const onResponse = (response) => { response.headers.set('x-script', '1'); };";
            fs::create_dir(folder.join("x")).expect("the folder is ours");
            fs::write(folder.join("x/plugin.js"), text).expect("the folder is ours");
            ca.site(&[SITE]).write(folder, "site");
        })
        .await;
        Self {
            gateway,
            trust: ca.trust(),
            plans,
            _origin: origin,
            _http2: http2,
        }
    }

    fn tls(&self) -> SocketAddr {
        let address = self.gateway.listener("tls");
        address.parse().expect("it is on an address")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http10,
    Http11,
    Http2,
    Tls,
    TlsHttp2,
}

/// Request of one client.
#[derive(Clone, Debug)]
struct Ask {
    protocol: Protocol,
    method: &'static str,
    accepts: &'static str,
    range: Option<String>,
    if_none_match: Option<String>,
    /// Set if the request bypasses the cache.
    is_bypass: bool,
}

/// Response that a client got, decoded.
#[derive(Debug)]
struct Got {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
    interim: Vec<u16>,
}

impl Ask {
    fn draw(random: &mut fastrand::Rng) -> Self {
        let protocols = [
            Protocol::Http10,
            Protocol::Http11,
            Protocol::Http11,
            Protocol::Http2,
            Protocol::Tls,
            Protocol::TlsHttp2,
        ];
        Self {
            protocol: *random.choice(&protocols).expect("there are some"),
            method: "GET",
            accepts: random.choice(ACCEPTED).expect("there are some"),
            range: None,
            if_none_match: None,
            is_bypass: false,
        }
    }

    /// Turns the request into a range request, a `HEAD`, or a conditional request at random.
    fn draw_part(&mut self, plan: &Plan, random: &mut fastrand::Rng) {
        let last = plan.size.saturating_sub(1).max(1);
        let (a, b) = (random.usize(..last), random.usize(..last));
        let (a, b) = (a.min(b), a.max(b));
        match random.u8(..7) {
            0 => self.method = "HEAD",
            1 => self.if_none_match = Some(plan.tag()),
            2 => self.range = Some(format!("bytes={a}-")),
            3 => self.range = Some(format!("bytes=-{}", b + 1)),
            4 => self.range = Some(format!("bytes=0-0,{b}-{b}")),
            _ => self.range = Some(format!("bytes={a}-{b}")),
        }
    }

    fn is_tls(&self) -> bool {
        matches!(self.protocol, Protocol::Tls | Protocol::TlsHttp2)
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        let mut fields = Vec::new();
        if !self.accepts.is_empty() {
            fields.push(("accept-encoding", self.accepts.to_owned()));
        }
        if let Some(range) = &self.range {
            fields.push(("range", range.clone()));
        }
        if let Some(tag) = &self.if_none_match {
            fields.push(("if-none-match", tag.clone()));
        }
        if self.is_bypass {
            fields.push(("cache-control", "no-store".to_owned()));
        }
        fields
    }

    async fn send(&self, site: &Site, path: &str) -> Result<Got, String> {
        match self.protocol {
            Protocol::Http10 | Protocol::Http11 | Protocol::Tls => {
                let mut request = Request::new(self.method, path).header("host", SITE);
                for (name, value) in self.fields() {
                    request = request.header(name, value);
                }
                if self.protocol == Protocol::Http10 {
                    request = request.http10();
                }
                let sent = if self.protocol == Protocol::Tls {
                    let trust = Arc::new(site.trust.clone());
                    let opened = Connection::open_tls(site.tls(), SITE, &trust).await;
                    opened.expect("it listens").send(&request).await
                } else {
                    site.gateway.connect().await.send(&request).await
                };
                let got = sent.map_err(|error| error.to_string())?;
                let headers = got.headers.fields.iter();
                Ok(Got {
                    status: got.status(),
                    body: if got.status() == 206 {
                        got.body.to_vec()
                    } else {
                        got.decoded()
                    },
                    interim: got.headers.interim.clone(),
                    headers: headers
                        .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
                        .collect(),
                })
            }
            Protocol::Http2 | Protocol::TlsHttp2 => {
                let client = if self.protocol == Protocol::Http2 {
                    http2::Client::open(site.gateway.address()).await
                } else {
                    let mut trust = site.trust.clone();
                    trust.alpn_protocols = vec![b"h2".to_vec()];
                    let socket = TcpStream::connect(site.tls()).await.expect("it listens");
                    let name = SITE.try_into().expect("it is a name");
                    let stream = TlsConnector::from(Arc::new(trust)).connect(name, socket);
                    let stream = stream.await.expect("the certificate holds");
                    http2::Client::over(stream, &mut h2::client::Builder::new()).await
                };
                let mut request = http::Request::builder()
                    .method(self.method)
                    .uri(format!("http://{SITE}{path}"));
                for (name, value) in self.fields() {
                    request = request.header(name, value);
                }
                let got = client.send(request, "").await;
                let got = got.map_err(|error| error.to_string())?;
                let coding = got.header("content-encoding").unwrap_or_default();
                let body = if got.body.is_empty() || got.status() == 206 {
                    got.body.to_vec()
                } else {
                    verify::decoded(coding, &got.body)?
                };
                let headers = got.parts.headers.iter();
                Ok(Got {
                    status: got.status(),
                    body,
                    interim: Vec::new(),
                    headers: headers
                        .map(|(name, value)| {
                            let value = value.to_str().expect("headers are text");
                            (name.to_string(), value.to_owned())
                        })
                        .collect(),
                })
            }
        }
    }

    /// Returns an error if the response is wrong. `may_fail`: the origin fails, and nothing needs
    /// to be stored.
    fn judge(&self, plan: &Plan, got: &Got, may_fail: bool) -> Result<(), String> {
        let header = |name: &str| got.headers.get(name).map(String::as_str);
        let is_http2 = matches!(self.protocol, Protocol::Http2 | Protocol::TlsHttp2);
        if (self.protocol == Protocol::Http10 || is_http2) && header("transfer-encoding").is_some()
        {
            return Err("chunks where there are none".to_owned());
        }
        if got.status == 503 && may_fail {
            return Ok(());
        }
        if self.method == "HEAD" || got.status == 304 {
            let is_asked = self.method == "HEAD" || self.if_none_match.is_some();
            return if got.body.is_empty() && is_asked {
                Ok(())
            } else {
                Err(format!("{} with {} bytes", got.status, got.body.len()))
            };
        }
        let coding = header("content-encoding");
        if let Some(coding) = coding
            && plan.coding != Some(coding)
            && (!self.accepts.contains(coding) || plan.coding.is_some())
        {
            return Err(format!("in {coding}, which nobody asked for"));
        }
        match got.status {
            206 => judge_part(plan, got),
            // The encoded body may end before the range begins.
            416 if self.range.is_some() && (plan.size == 0 || plan.coding.is_some()) => Ok(()),
            status if status == plan.status => {
                let content = plan.content();
                if got.body == content {
                    return Ok(());
                }
                let same = got.body.iter().zip(&content).take_while(|(a, b)| a == b);
                let (got, same) = (got.body.len(), same.count());
                Err(format!(
                    "{got} bytes of {}, of which {same} are the origin's ({coding:?})",
                    content.len(),
                ))
            }
            status => Err(format!("status {status}")),
        }
    }
}

fn judge_part(plan: &Plan, got: &Got) -> Result<(), String> {
    let full = plan.body();
    let kind = got.headers.get("content-type").map_or("", String::as_str);
    if let Some(boundary) = kind.strip_prefix("multipart/byteranges; boundary=") {
        let end = format!("\r\n--{boundary}--\r\n");
        return if got.body.ends_with(end.as_bytes()) {
            Ok(())
        } else {
            Err("the last part has no end".to_owned())
        };
    }
    let content_range = got.headers.get("content-range").map_or("", String::as_str);
    let parsed = content_range.strip_prefix("bytes ").and_then(|value| {
        let (span, total) = value.split_once('/')?;
        let (from, to) = span.split_once('-')?;
        Some((
            from.parse::<usize>().ok()?,
            to.parse::<usize>().ok()?,
            total.parse::<usize>().ok()?,
        ))
    });
    let Some((from, to, total)) = parsed else {
        return Err(format!("content-range {content_range:?}"));
    };
    if total != full.len() || full.get(from..=to) != Some(&got.body) {
        return Err(format!("{} bytes of {content_range}", got.body.len()));
    }
    Ok(())
}

fn plan(random: &mut fastrand::Rng, cache_control: &'static str) -> Plan {
    let size = *random.choice(&SIZES).expect("there are some");
    let framings = [
        Framing::Length,
        Framing::Chunked,
        Framing::Chunked,
        Framing::Close,
    ];
    let hints = [Hints::None, Hints::None, Hints::Together, Hints::Apart];
    let types = [
        "text/html; charset=utf-8",
        "application/json",
        "text/css",
        "image/png",
    ];
    let pieces = [size.max(1), 1000, 4096, 16_384, 50_000];
    let piece = (*random.choice(&pieces).expect("there are some")).max(size / 40 + 1);
    let is_slow = random.u8(..4) == 0;
    let codings = [None, None, None, Some("gzip"), Some("br"), Some("zstd")];
    Plan {
        status: if random.u8(..8) == 0 { 404 } else { 200 },
        size,
        seed: random.u64(..),
        is_text: random.bool(),
        content_type: random.choice(types).expect("there are some"),
        framing: *random.choice(&framings).expect("there are some"),
        coding: *random.choice(&codings).expect("there are some"),
        has_trailers: random.u8(..4) == 0,
        hints: *random.choice(&hints).expect("there are some"),
        piece,
        pause: is_slow.then(|| Duration::from_millis(random.u64(1..4))),
        cache_control,
        has_tag: random.bool(),
        has_ranges: random.bool(),
    }
}

/// Ways that the second request for a response takes.
const WAYS: [&str; 9] = [
    "hit",
    "along",
    "validated",
    "expired",
    "stale on error",
    "stale while fetched",
    "purged",
    "parts",
    "bypass",
];

/// Runs one random case; returns the number of bodies that were read.
async fn case(site: &Site, number: u64, seed: u64) -> Result<usize, String> {
    let mut random = fastrand::Rng::with_seed(seed ^ (number.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    let random = &mut random;
    let way = *random.choice(&WAYS).expect("there are some");
    let (route, is_cached) = *random.choice(&ROUTES).expect("there are some");
    let cache_control = match way {
        "validated" => "no-cache",
        "expired" => "max-age=1",
        "stale on error" => "max-age=1, stale-if-error=600",
        "stale while fetched" => "max-age=1, stale-while-revalidate=600",
        _ => "max-age=600",
    };
    let plan = plan(random, cache_control);
    let path = format!("/{route}/{number}");
    site.plans.set(&path, plan.clone());
    let mut bodies = 0;
    let mut check = async |ask: &Ask, may_fail: bool| {
        let got = ask.send(site, &path).await;
        let got = got.map_err(|why| format!("{ask:?}: {why}"))?;
        let held = ask.judge(&plan, &got, may_fail);
        held.map_err(|why| format!("{ask:?}: {} {why}: {:?}", got.status, got.headers))?;
        bodies += 1;
        Ok::<_, String>(got)
    };
    let outcome = async {
        if way == "along" {
            let readers: Vec<_> = (0..3).map(|_| Ask::draw(random)).collect();
            let read = readers.iter().map(async |ask| {
                let got = ask.send(site, &path).await;
                let got = got.map_err(|why| format!("{ask:?}: {why}"))?;
                let held = ask.judge(&plan, &got, false);
                held.map_err(|why| format!("{ask:?}: {why}: {:?}", got.headers))
            });
            return join_all(read).await.into_iter().collect();
        }
        let first = Ask::draw(random);
        let got = check(&first, false).await?;
        if plan.hints != Hints::None && !route.ends_with("-h2") {
            let expected: &[u16] = match first.protocol {
                Protocol::Http11 | Protocol::Tls => &[103],
                _ => &[],
            };
            if got.interim != expected {
                let hints = plan.hints;
                return Err(format!("{first:?}: {:?} for hints {hints:?}", got.interim));
            }
        }
        let mut may_fail = false;
        // A stored response belongs to one scheme.
        let may_fail_elsewhere = way == "stale on error";
        match way {
            "expired" | "stale while fetched" => pass(Duration::from_millis(1100)).await,
            "stale on error" => {
                pass(Duration::from_millis(1100)).await;
                site.plans.fail(&path);
                // A variant that was not requested yet is not stored.
                may_fail = !is_cached || plan.status != 200 || plan.coding.is_some();
            }
            "purged" => {
                let purge = Request::new("PURGE", &path).header("host", SITE);
                site.gateway.send(&purge).await;
            }
            _ => {}
        }
        for _ in 0..3 {
            let mut ask = Ask::draw(random);
            while may_fail_elsewhere && ask.is_tls() != first.is_tls() {
                ask = Ask::draw(random);
            }
            match way {
                "parts" => ask.draw_part(&plan, random),
                "bypass" => ask.is_bypass = true,
                _ => {}
            }
            check(&ask, may_fail).await?;
        }
        Ok(())
    }
    .await;
    match outcome {
        Ok(()) => Ok(bodies),
        Err(why) => Err(format!("case {number} ({way}, {path}): {why}\n  {plan:?}")),
    }
}

#[tokio::test]
async fn responses_of_the_gateway_itself_arrive_complete() {
    let site = Site::start().await;
    let protocols = [
        Protocol::Http10,
        Protocol::Http11,
        Protocol::Http2,
        Protocol::Tls,
        Protocol::TlsHttp2,
    ];
    for protocol in protocols {
        for accepts in ACCEPTED {
            for (path, status) in [
                ("/hello", 200),
                ("/down", 502),
                ("/down-kept", 502),
                ("/nowhere", 404),
            ] {
                let ask = Ask {
                    protocol,
                    method: "GET",
                    accepts,
                    range: None,
                    if_none_match: None,
                    is_bypass: false,
                };
                let got = ask.send(&site, path).await;
                let got = got.unwrap_or_else(|why| panic!("{path}: {ask:?}: {why}"));
                // After some failures the backend is out of rotation, and the status changes.
                let is_right = got.status == status || (status, got.status) == (502, 503);
                assert!(is_right, "{path}: {ask:?}: {}", got.status);
                assert!(!got.body.is_empty(), "{path}: {ask:?}");
                let is_chunked = got.headers.contains_key("transfer-encoding");
                assert!(
                    !is_chunked || protocol != Protocol::Http10,
                    "{path}: {ask:?}"
                );
            }
        }
    }
}

fn setting(name: &str, otherwise: u64) -> u64 {
    let set = std::env::var(name).ok();
    set.map_or(otherwise, |set| set.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_body_arrives_complete_over_every_protocol() {
    let seed = setting("EDGEWAY_BODIES_SEED", seed::drawn());
    let cases = setting("EDGEWAY_BODIES_CASES", CASES[usize::from(!seed::is_hunt())]);
    println!("EDGEWAY_BODIES_SEED={seed} EDGEWAY_BODIES_CASES={cases}");
    let site = Arc::new(Site::start().await);
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    for number in 0..cases {
        let (site, turns) = (Arc::clone(&site), Arc::clone(&turns));
        running.spawn(async move {
            let _turn = turns.acquire_owned().await;
            case(&site, number, seed).await
        });
    }
    let (mut bodies, mut failed) = (0, Vec::new());
    while let Some(outcome) = running.join_next().await {
        match outcome {
            Ok(Ok(count)) => bodies += count,
            Ok(Err(why)) => failed.push(why),
            Err(error) => failed.push(error.to_string()),
        }
    }
    println!("{bodies} bodies");
    assert!(
        failed.is_empty(),
        "seed {seed}: {} of {cases} cases failed\n{}",
        failed.len(),
        failed.join("\n")
    );
}

/// Strict third-party HTTP/1 client.
const PYTHON: &str = r#"
import base64, hashlib, http.client, json, sys, zlib
for line in sys.stdin:
    ask = json.loads(line)
    connection = http.client.HTTPConnection("127.0.0.1", ask["port"], timeout=20)
    connection.request("GET", ask["path"], headers={"Host": ask["host"], "Accept-Encoding": "gzip"})
    response = connection.getresponse()
    body = response.read()
    if response.getheader("content-encoding") == "gzip":
        decoder = zlib.decompressobj(31)
        body = decoder.decompress(body) + decoder.flush()
        assert decoder.eof, f"{ask['path']}: gzip has no end"
        assert not decoder.unused_data, f"{ask['path']}: bytes after the end"
    sum = "sha-256=:" + base64.b64encode(hashlib.sha256(body).digest()).decode() + ":"
    assert sum == ask["sum"], f"{ask['path']}: {len(body)} bytes"
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn third_party_clients_read_the_same_bodies() {
    let site = Site::start().await;
    let seed = setting("EDGEWAY_BODIES_SEED", seed::drawn());
    println!("EDGEWAY_BODIES_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let port = site.gateway.address().port();
    let mut asks = Vec::new();
    for number in 0..24 {
        let mut plan = plan(&mut random, "max-age=600");
        plan.status = 200;
        plan.coding = None;
        // Python takes a 103 for the final response.
        plan.hints = Hints::None;
        let (route, _) = random.choice(ROUTES).expect("there are some");
        let path = format!("/{route}/foreign-{number}");
        site.plans.set(&path, plan.clone());
        let sum = verify::digest(&plan.content());
        // Twice: while it is stored, and from the store.
        for _ in 0..2 {
            let ask = json!({ "port": port, "host": SITE, "path": path, "sum": sum });
            asks.push(ask.to_string());
        }
        let version = ["--http1.0", "--http1.1", "--http2-prior-knowledge"];
        let version = random.choice(version).expect("there are some");
        let url = format!("http://127.0.0.1:{port}{path}");
        for turn in 0..2 {
            let ran = Command::new("curl")
                .args([
                    "--silent",
                    "--show-error",
                    "--fail",
                    "--compressed",
                    version,
                ])
                .args(["--header", "host: curl.test", &url])
                .output()
                .await
                .expect("curl is installed");
            let stderr = String::from_utf8_lossy(&ran.stderr);
            assert!(
                ran.status.success(),
                "{version} {url} {turn}: {stderr} {plan:?}"
            );
            assert!(
                ran.stdout == plan.content(),
                "{version} {url} {turn}: {plan:?}"
            );
        }
    }
    let mut python = Command::new("python3")
        .args(["-c", PYTHON])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python3 is installed");
    let mut input = python.stdin.take().expect("it was asked for");
    let asks = asks.join("\n");
    input.write_all(asks.as_bytes()).await.expect("it reads");
    drop(input);
    let ran = python.wait_with_output().await.expect("it runs");
    assert!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
}

/// The control: each of these is truncated or wrong in one way, and the harness detects it.
#[tokio::test]
async fn the_harness_rejects_every_corrupt_body() {
    let gzip = {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder
            .write_all(&[b'x'; 3000])
            .expect("a buffer takes all");
        encoder.finish().expect("a buffer takes all")
    };
    let br = {
        let mut out = Vec::new();
        let params = brotli::enc::BrotliEncoderParams::default();
        let text = [b'x'; 3000];
        brotli::BrotliCompress(&mut &text[..], &mut out, &params).expect("a buffer takes all");
        out
    };
    let zstd = zstd::encode_all(&[b'x'; 3000][..], 1).expect("a buffer takes all");
    for (coding, encoded) in [("gzip", gzip), ("br", br), ("zstd", zstd)] {
        assert_eq!(
            verify::decoded(coding, &encoded).map(|all| all.len()),
            Ok(3000)
        );
        for length in 0..encoded.len() {
            assert!(
                verify::decoded(coding, &encoded[..length]).is_err(),
                "{coding} {length}"
            );
        }
        let more = [&encoded[..], b"x"].concat();
        assert!(verify::decoded(coding, &more).is_err(), "{coding} and more");
    }
    let digest = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\nrepr-digest: {}\r\n\r\nabd",
        verify::digest(b"abc")
    );
    let bad = [
        ("/digest", &*digest),
        (
            "/both",
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        ),
        (
            "/two",
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        ),
        ("/more", "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcd"),
        ("/short", "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nabc"),
        (
            "/chunk",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcde0\r\n\r\n",
        ),
        (
            "/size",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n +3\r\nabc\r\n0\r\n\r\n",
        ),
        (
            "/no-end",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        ),
        (
            "/after",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nx",
        ),
    ];
    let origin = ScriptedOrigin::start(&bad).await;
    for (path, _) in bad {
        let sent = crate::support::client::send(origin.address(), &get(path)).await;
        assert!(sent.is_err(), "{path}: {sent:?}");
    }
}

#[tokio::test]
#[should_panic(expected = "was not read to its end")]
async fn the_harness_rejects_bodies_left_unread() {
    let good = [("/", "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc")];
    let origin = ScriptedOrigin::start(&good).await;
    let mut connection = Connection::open(origin.address())
        .await
        .expect("it listens");
    connection.start(&get("/")).await.expect("it responds");
    drop(connection);
}

#[tokio::test]
async fn a_client_that_leaves_while_a_response_is_stored_is_logged_as_such() {
    let site = Site::start().await;
    for (number, (route, _)) in ROUTES.iter().take(2).enumerate() {
        let path = format!("/{route}/left");
        let mut random = fastrand::Rng::with_seed(1);
        site.plans.set(
            &path,
            Plan {
                status: 200,
                size: 3 << 20,
                is_text: false,
                framing: Framing::Chunked,
                coding: None,
                piece: 1 << 16,
                pause: Some(Duration::from_millis(10)),
                ..plan(&mut random, "max-age=600")
            },
        );
        let mut leaving = site.gateway.connect().await;
        let request = get(&path)
            .header("host", SITE)
            .header("accept-encoding", "gzip");
        leaving.start(&request).await.expect("it responds");
        leaving
            .piece()
            .await
            .expect("it goes on")
            .expect("there is more");
        leaving.leave("leaving is what is tested");
        let lines = site.gateway.log_lines(number + 1).await;
        let line = &lines[number];
        assert_eq!(line["reason"], "client_gone", "{line:#}");
        assert_eq!(line["status"], 200, "{line:#}");
    }
    let counted = r#"edgeway_refused_total{reason="client_gone"}"#;
    wait_for("both are counted", SOON, async || {
        (site.gateway.count(counted).await == 2).then_some(())
    })
    .await;
}

/// A stream that is cut off, at the drain's deadline or by the origin, is visibly truncated: by a
/// missing last chunk, by TLS, by a stream without its end, by a reset.
#[tokio::test]
async fn truncated_responses_are_seen_as_truncated() {
    for by_drain in [true, false] {
        let mut origin = SseOrigin::start(Duration::from_millis(20)).await;
        let ca = Ca::new();
        let mut gateway = Gateway::start_in(
            &format!(
                "
listeners:
  - {{ address: \"127.0.0.1:0\", name: web, http2: {{ cleartext: true }} }}
  - {{ address: \"127.0.0.1:0\", name: tls, tls: {{ certificates: {{ cert: site.pem, key: site.key }} }} }}
drain: {{ idle: 100ms, deadline: 700ms }}
upstreams: {{ web: {{ backends: [\"{}\"], health: false }} }}
routes: [{{ match: {{ path: /* }}, upstream: web }}]
",
                origin.address()
            ),
            |folder| ca.site(&[SITE]).write(folder, "site"),
        )
        .await;
        let request = get("/").header("host", SITE);
        let mut old = gateway.connect().await;
        let old_headers = old
            .start(&request.clone().http10())
            .await
            .expect("it is fed");
        let mut new = gateway.connect().await;
        let new_headers = new.start(&request).await.expect("it is fed");
        let tls = gateway
            .listener("tls")
            .parse()
            .expect("it is on an address");
        let trust = Arc::new(ca.trust());
        let tls = Connection::open_tls(tls, SITE, &trust).await;
        let mut tls = tls.expect("it listens");
        let tls_headers = tls.start(&request).await.expect("it is fed");
        let http2 = http2::Client::open(gateway.address()).await;
        let http2 = http2.send(http2::request("GET", "/"), "");
        let interruption = async {
            pass(Duration::from_millis(300)).await;
            if by_drain {
                gateway.terminate(SOON).await;
            } else {
                origin.stop();
            }
        };
        let (old, new, tls, http2, ()) = tokio::join!(
            old.finish(old_headers),
            new.finish(new_headers),
            tls.finish(tls_headers),
            http2,
            interruption,
        );
        for (name, outcome) in [("1.0", old), ("1.1", new), ("tls", tls)] {
            let is_truncated = outcome.as_ref().is_err_and(ClientError::is_truncated);
            assert!(
                is_truncated,
                "{name}, by the drain: {by_drain}: {outcome:?}"
            );
        }
        assert!(http2.is_err(), "by the drain: {by_drain}: {http2:?}");
    }
}
