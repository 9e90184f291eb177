//! No header that a rule, a filter, a log, a limit or a backend takes for the gateway's own comes
//! from a client.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests: what goes wrong here fails them, and says so"
)]

use std::{collections::BTreeMap, fmt::Write as _, fs, net::IpAddr, sync::Arc};

use rcgen::DnType;
use rustls::ClientConfig;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    cli::edgeway_fed,
    support::{
        certificates::{Ca, Wanted},
        client::{Connection, Response, get},
        gateway::Gateway,
        http2,
        origins::{EchoOrigin, Origin},
    },
};

/// Number of configurations, and of requests to each; `EDGEWAY_IDENTITY_ROUNDS` for longer runs.
const ROUNDS: usize = 5;
const REQUESTS: usize = 80;

const FORGED: &str = "forged";
const KEY: &str = "ek_0123456789abcdefghijklmnopqrstuvwxyz";
const PEER: &str = "127.0.0.1";
const TRUSTED: &str = "127.0.0.2";

/// Headers that no client can send; the header in which the key is forwarded is added to them.
const CLAIMS: [&str; 22] = [
    "cf-connecting-ip",
    "client-ip",
    "fastly-client-ip",
    "forwarded",
    "proxy",
    "true-client-ip",
    "x-client-cert",
    "x-client-cert-fingerprint",
    "x-client-cert-subject",
    "x-client-ip",
    "x-client-verify",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "x-forwarded-client-cert",
    "x-forwarded-prefix",
    "x-forwarded-user",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
];
/// Headers that the gateway writes, and that trusted proxies may send.
const FROM_PROXIES: [&str; 4] = [
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
];
/// Headers that belong to the client.
const PLAIN: [&str; 4] = ["x-version", "x-user-idx", "x-clients", "x-requested-with"];

struct Site {
    gateway: Gateway,
    origin: Origin<EchoOrigin>,
    forward: &'static str,
    has_plugin: bool,
    has_predicates: bool,
    nobody: Arc<ClientConfig>,
    ann: Arc<ClientConfig>,
}

impl Site {
    async fn start(random: &mut fastrand::Rng) -> Self {
        let origin = EchoOrigin::start().await;
        let forward = ["X-User-Id", "Remote-User", "X-Auth-Name", "X-Tenant"][random.usize(..4)];
        let (has_plugin, has_predicates) = (random.bool(), random.bool());
        let mut yaml = format!(
            "
listeners:
  - {{ address: '127.0.0.1:0', name: plain, underscores: allow, http2: {{ cleartext: true }} }}
  - address: '127.0.0.1:0'
    name: tls
    underscores: allow
    tls: {{ certificates: {{ cert: a.pem, key: a.key }}, client_ca: ca.pem, client_certificate: optional }}
trusted_proxies: [{TRUSTED}]
upstreams: {{ app: {{ backends: ['{}'], health: false }} }}
defaults: {{ headers: {{ response: {{ set: {{ X-Route: '{{route}}' }} }} }} }}
routes:
  - {{ name: open, match: {{ path: '/*' }}, upstream: app }}
  - {{ name: api, match: {{ path: '/api/*' }}, upstream: app, api_key: {{ file: keys, forward: {forward} }} }}
  - {{ name: cert, match: {{ path: '/cert/*' }}, upstream: app, client_cert: true }}
  - {{ name: bound, match: {{ path: '/bound/*', listener: tls }}, upstream: app }}
  - {{ name: pass, match: {{ path: '/pass/*' }}, upstream: app, pass_headers: X-HTTP-Method-Override }}
",
            origin.address()
        );
        if has_predicates {
            yaml.push_str(
                "  - { name: verified, match: { path: '/verify/*', header: { X-Client-Verify: SUCCESS } }, upstream: app }
  - { name: secure, match: { path: '/secure/*', header: { X-Forwarded-Proto: https } }, upstream: app }
",
            );
        }
        if has_plugin {
            yaml.push_str(
                "  - { name: plugin, match: { path: '/plugin/*' }, upstream: app, plugins: [{ file: show.js, on_error: continue }] }\n",
            );
        }
        let ca = Ca::new();
        let own = Wanted::client(&[(DnType::CommonName, "ann")]);
        let own = ca.issue(&own);
        let line = edgeway_fed(&["hash", "api-key", "--stdin", "ann"], KEY);
        let gateway = Gateway::start_in(&yaml, |folder| {
            ca.site(&["a.test"]).write(folder, "a");
            fs::write(folder.join("ca.pem"), ca.pem()).unwrap();
            fs::write(folder.join("keys"), &line.stdout).unwrap();
            let show = "export const onRequest = (request) =>
                Response.json({ headers: [...request.headers] });";
            fs::write(folder.join("show.js"), show).unwrap();
        })
        .await;
        Self {
            gateway,
            origin,
            forward,
            has_plugin,
            has_predicates,
            nobody: Arc::new(ca.trust()),
            ann: Arc::new(ca.trust_with(Some(&own))),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Plain,
    Trusted,
    Tls { has_certificate: bool },
    Http2,
}

/// Random request.
#[derive(Debug)]
struct Drawn {
    way: Way,
    path: &'static str,
    has_key: bool,
    /// Headers as they are written, in their order.
    headers: Vec<(String, String)>,
    /// Whitespace before and after values.
    space: (&'static str, &'static str),
    nominated: Option<String>,
    has_trailers: bool,
}

impl Drawn {
    fn of(site: &Site, random: &mut fastrand::Rng) -> Self {
        let way = match random.u8(..5) {
            0 => Way::Plain,
            1 => Way::Trusted,
            2 => Way::Tls {
                has_certificate: true,
            },
            3 => Way::Tls {
                has_certificate: false,
            },
            _ => Way::Http2,
        };
        let mut paths = vec!["/open/x", "/api/x", "/cert/x", "/bound/x", "/pass/x"];
        if site.has_predicates {
            paths.extend(["/verify/x", "/secure/x"]);
        }
        if site.has_plugin {
            paths.push("/plugin/x");
        }
        let mut headers = Vec::new();
        for _ in 0..random.usize(..8) {
            let own = [site.forward];
            let names: Vec<&str> = CLAIMS
                .iter()
                .chain(&FROM_PROXIES)
                .chain(&own)
                .copied()
                .collect();
            let name = names[random.usize(..names.len())];
            let value = match name {
                "x-client-verify" if random.bool() => "SUCCESS",
                "x-forwarded-proto" if random.bool() => "https",
                "x-forwarded-for" if random.bool() => "203.0.113.9",
                _ => FORGED,
            };
            let name = spelt(name, random);
            for _ in 0..random.usize(1..3) {
                headers.push((name.clone(), value.to_owned()));
            }
        }
        for name in PLAIN {
            if random.bool() {
                headers.push((name.to_owned(), format!("kept-{}", random.u8(..))));
            }
        }
        random.shuffle(&mut headers);
        let nominated = ["X-Real-IP", site.forward, "x-client-verify", "x-version"];
        let spaces = [("", ""), (" ", ""), ("\t ", "  "), (" ", "\t")];
        Self {
            way,
            path: paths[random.usize(..paths.len())],
            has_key: random.bool(),
            headers,
            space: spaces[random.usize(..spaces.len())],
            nominated: (random.u8(..3) == 0)
                .then(|| nominated[random.usize(..nominated.len())].to_owned()),
            has_trailers: random.u8(..4) == 0,
        }
    }

    async fn send(&self, site: &Site) -> Response {
        let gateway = &site.gateway;
        let listeners = gateway.listeners().await;
        match self.way {
            Way::Plain | Way::Trusted => {
                let from = if self.way == Way::Plain {
                    PEER
                } else {
                    TRUSTED
                };
                let from: IpAddr = from.parse().unwrap();
                let open = Connection::open_from(from, listeners["plain"]).await;
                self.exchange(open.unwrap(), "a.test").await
            }
            Way::Tls { has_certificate } => {
                let config = if has_certificate {
                    &site.ann
                } else {
                    &site.nobody
                };
                let open = Connection::open_tls(listeners["tls"], "a.test", config).await;
                self.exchange(open.unwrap(), "a.test").await
            }
            Way::Http2 => panic!("it is sent by another client"),
        }
    }

    async fn exchange<S>(&self, mut connection: Connection<S>, host: &str) -> Response
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        connection.write(self.raw(host)).await.unwrap();
        let headers = connection.read_headers().await.unwrap();
        connection.finish(headers).await.unwrap()
    }

    /// Returns the request in HTTP/1 syntax.
    fn raw(&self, host: &str) -> String {
        let method = if self.has_trailers { "POST" } else { "GET" };
        let mut raw = format!("{method} {} HTTP/1.1\r\nHost: {host}\r\n", self.path);
        let (before, behind) = self.space;
        for (name, value) in &self.headers {
            write!(raw, "{name}:{before}{value}{behind}\r\n").unwrap();
        }
        if self.has_key {
            write!(raw, "X-API-Key: {KEY}\r\n").unwrap();
        }
        if let Some(name) = &self.nominated {
            write!(raw, "Connection: keep-alive, {name}\r\n").unwrap();
        }
        if self.has_trailers {
            raw.push_str("Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n");
            for (name, _) in &self.headers {
                write!(raw, "{name}: {FORGED}\r\n").unwrap();
            }
        }
        raw.push_str("\r\n");
        raw
    }

    async fn send_http2(&self, site: &Site) -> http2::Response {
        let address = site.gateway.listeners().await["plain"];
        let client = http2::Client::open(address).await;
        let mut request = http2::request("GET", self.path);
        for (name, value) in &self.headers {
            request = request.header(name.to_ascii_lowercase(), value);
        }
        if self.has_key {
            request = request.header("x-api-key", KEY);
        }
        client.send(request, "").await.unwrap()
    }

    fn is_certified(&self) -> bool {
        let certified = Way::Tls {
            has_certificate: true,
        };
        self.way == certified
    }

    /// Returns the first value sent under exactly this name, ignoring case.
    fn sent(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter();
        found
            .find(|(sent, _)| sent.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Returns the last value sent under this name, which the nearest proxy wrote.
    fn sent_last(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().rev();
        found
            .find(|(sent, _)| sent.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Returns the expected status and route of the request.
    fn expected(&self) -> (u16, &'static str) {
        let is_tls = matches!(self.way, Way::Tls { .. });
        match self.path {
            "/api/x" if !self.has_key => (401, "api"),
            "/api/x" => (200, "api"),
            "/cert/x" if !self.is_certified() => (403, "cert"),
            "/cert/x" => (200, "cert"),
            "/bound/x" if is_tls => (200, "bound"),
            "/pass/x" => (200, "pass"),
            "/verify/x" if self.is_certified() => (200, "verified"),
            "/secure/x" => {
                let claims_https = self.sent("x-forwarded-proto") == Some("https");
                let is_secure = is_tls || (self.way == Way::Trusted && claims_https);
                (200, if is_secure { "secure" } else { "open" })
            }
            "/plugin/x" => (200, "plugin"),
            _ => (200, "open"),
        }
    }

    /// Checks the headers that some code or app behind the gateway saw; returns what is wrong.
    fn wrong(&self, seen: &[(String, String)], site: &Site) -> Option<String> {
        let mut by_name = BTreeMap::<String, Vec<&str>>::new();
        for (name, value) in seen {
            by_name
                .entry(name.to_ascii_lowercase())
                .or_default()
                .push(value);
            if !value.contains(FORGED) {
                continue;
            }
            let is_theirs = (self.way == Way::Trusted
                && name.eq_ignore_ascii_case("x-forwarded-host"))
                || (self.path == "/pass/x" && name.eq_ignore_ascii_case("x-http-method-override"));
            if !is_theirs {
                return Some(format!("`{name}: {value}` got through"));
            }
        }
        let of = |name: &str| by_name.get(name).cloned().unwrap_or_default();
        let verify: &[&str] = match self.way {
            Way::Tls {
                has_certificate: true,
            } => &["SUCCESS"],
            Way::Tls { .. } => &["NONE"],
            _ => &[],
        };
        let user: &[&str] = if self.path == "/api/x" { &["ann"] } else { &[] };
        let client = match self.way {
            Way::Trusted if self.sent_last("x-forwarded-for") == Some("203.0.113.9") => {
                "203.0.113.9"
            }
            Way::Trusted => TRUSTED,
            _ => PEER,
        };
        let forward = site.forward.to_ascii_lowercase();
        for (name, expected) in [
            ("x-client-verify", verify),
            (&forward, user),
            ("x-real-ip", &[client]),
        ] {
            if of(name) != expected {
                return Some(format!("`{name}` is {:?}, not {expected:?}", of(name)));
            }
        }
        for (name, value) in self
            .headers
            .iter()
            .filter(|(name, _)| PLAIN.contains(&&**name))
        {
            let is_nominated = self.way != Way::Http2 && self.nominated.as_ref() == Some(name);
            if of(name).contains(&&**value) == is_nominated {
                return Some(format!("the client's own `{name}` is {:?}", of(name)));
            }
        }
        None
    }
}

/// Spells a name in random case, and with characters that backends take for a hyphen.
fn spelt(name: &str, random: &mut fastrand::Rng) -> String {
    let separator = ["-", "-", "-", "_", ".", "!"][random.usize(..6)];
    let is_upper = random.bool();
    name.replace('-', separator)
        .chars()
        .map(|c| {
            if is_upper && random.bool() {
                c.to_ascii_uppercase()
            } else {
                c
            }
        })
        .collect()
}

fn headers_of(seen: &Value) -> Vec<(String, String)> {
    let pairs = seen["headers"].as_array().expect("pairs");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    pairs
        .iter()
        .map(|pair| (text(&pair[0]), text(&pair[1])))
        .collect()
}

#[tokio::test]
async fn forged_identity_headers_never_reach_an_origin() {
    let rounds = std::env::var("EDGEWAY_IDENTITY_ROUNDS");
    let rounds = rounds.map_or(ROUNDS, |rounds| rounds.parse().expect("a number"));
    let seed = std::env::var("EDGEWAY_IDENTITY_SEED");
    let seed = seed.map_or_else(
        |_| crate::support::seed::drawn(),
        |seed| seed.parse().expect("a number"),
    );
    println!("EDGEWAY_IDENTITY_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut forging, mut found_without) = (0, 0);
    for _ in 0..rounds {
        let site = Site::start(&mut random).await;
        for _ in 0..REQUESTS {
            let drawn = Drawn::of(&site, &mut random);
            let (status, route, seen) = if drawn.way == Way::Http2 {
                let response = drawn.send_http2(&site).await;
                let seen = (response.status() == 200).then(|| headers_of(&response.json()));
                let route = response.header("x-route").unwrap_or_default().to_owned();
                (response.status(), route, seen)
            } else {
                let response = drawn.send(&site).await;
                let seen = (response.status() == 200).then(|| headers_of(&response.json()));
                let route = response.header("x-route").unwrap_or_default().to_owned();
                (response.status(), route, seen)
            };
            let came = (status, route.as_str());
            assert_eq!(came, drawn.expected(), "seed {seed}: {drawn:#?}");
            if let Some(seen) = seen {
                let wrong = drawn.wrong(&seen, &site);
                assert_eq!(wrong, None, "seed {seed}: {drawn:#?}");
            }
            // The control: the app itself, without a gateway in front of it.
            if drawn.way == Way::Plain && drawn.headers.iter().any(|(_, v)| v == FORGED) {
                let open = Connection::open(site.origin.address()).await.unwrap();
                let direct = headers_of(&drawn.exchange(open, "a.test").await.json());
                forging += 1;
                found_without += usize::from(drawn.wrong(&direct, &site).is_some());
            }
        }
        let log = site.gateway.log_lines(REQUESTS).await;
        let log = Value::from(log).to_string();
        assert!(!log.contains(FORGED), "seed {seed}: {log}");
    }
    assert!(
        forging > 0 && found_without == forging,
        "the control found {found_without} of {forging}"
    );
}

#[tokio::test]
async fn no_limit_is_dodged_by_claims() {
    let origin = EchoOrigin::start().await;
    let gateway = Gateway::start(&format!(
        "
upstreams: {{ app: {{ backends: ['{}'], health: false }} }}
rate_limits:
  address: {{ rate: 3/d, key: [header:X-Real-IP] }}
  user: {{ rate: 3/d, key: [header:X-User-Id] }}
  version: {{ rate: 3/d, key: [header:X-Version] }}
routes:
  - {{ match: {{ path: /address }}, upstream: app, rate_limit: [address] }}
  - {{ match: {{ path: /user }}, upstream: app, rate_limit: [user] }}
  - {{ match: {{ path: /version }}, upstream: app, rate_limit: [version] }}
  - match: {{ path: /login }}
    upstream: app
    api_key: {{ forward: X-User-Id, keys: [{{ name: ann, hash: 'sha256:{}' }}] }}
",
        origin.address(),
        "0".repeat(64)
    ))
    .await;
    let passed = async |path: &str| {
        let mut passed = 0;
        for at in 0..10 {
            let request = ["X-Real-IP", "x-user-id", "X-Version", "X-Client-IP"]
                .into_iter()
                .fold(get(path), |request, name| {
                    request.header(name, format!("192.0.2.{at}"))
                });
            passed += u32::from(gateway.send(&request).await.status() == 200);
        }
        passed
    };
    assert_eq!(passed("/address").await, 3);
    assert_eq!(passed("/user").await, 3);
    // The control: a header of the client's own distinguishes clients.
    assert_eq!(passed("/version").await, 10);
}

#[tokio::test]
async fn plugins_see_the_address_of_a_client_where_no_route_is() {
    let yaml = "
defaults: { plugins: [{ file: saw.js, on_error: continue }] }
routes:
  - { match: { path: /here }, respond: here }
  - { match: { path: /plain }, respond: plain, plugins: false }
";
    let gateway = Gateway::start_in(yaml, |folder| {
        let text = "export function onResponse(response, ctx) {
  response.headers.set('x-saw', ctx.request.headers.get('x-real-ip') ?? 'nothing');
}";
        std::fs::write(folder.join("saw.js"), text).expect("the folder is ours");
    })
    .await;
    for (path, status, saw) in [
        ("/here", 200, Some("127.0.0.1")),
        ("/nowhere", 404, Some("127.0.0.1")),
        ("/plain", 200, None),
    ] {
        for claim in [None, Some("192.0.2.7")] {
            let request = claim.map_or_else(|| get(path), |ip| get(path).header("X-Real-IP", ip));
            let response = gateway.send(&request).await;
            assert_eq!(response.status(), status, "{path}");
            assert_eq!(response.header("x-saw"), saw, "{path} {claim:?}");
        }
    }
}

#[tokio::test]
async fn fields_named_in_connection_match_no_rule() {
    let origin = EchoOrigin::start().await;
    let gateway = Gateway::start(&format!(
        "
upstreams: {{ app: {{ backends: ['{}'], health: false }} }}
routes:
  - {{ match: {{ path: '/*' }}, upstream: app }}
  - {{ match: {{ path: '/*', header: {{ X-Beta: '*' }} }}, respond: beta }}
",
        origin.address()
    ))
    .await;
    let beta = get("/").header("X-Beta", "1");
    assert_eq!(gateway.send(&beta).await.text(), "beta");
    let hidden = beta.clone().header("Connection", "X-Beta");
    assert_eq!(gateway.send(&hidden).await.json()["target"], "/");
    for name in ["Content-Length", "Host", "X-Forwarded-For"] {
        let bad = get("/").header("Connection", name);
        assert_eq!(gateway.send(&bad).await.status(), 400, "{name}");
    }
}
