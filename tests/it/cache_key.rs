//! The cache key: it holds whatever the gateway itself writes into a request for the origin, and a
//! host has one normal form, in the key and on the wire.
//!
//! `EDGEWAY_SEED` draws other cases.
#![allow(
    clippy::format_push_string,
    clippy::panic,
    reason = "tests: what goes wrong here fails them, and says so"
)]

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
};

use fastrand::Rng;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::support::{
    certificates::Ca,
    client::{ClientError, Connection, Response, get, post},
    gateway::Gateway,
    http2,
    origins::{CanonicalOrigin, EchoOrigin, NumberedOrigin, Origin, ReflectingOrigin, echoed},
    seed,
};

const SECRET: &str = "thirty-two bytes that nobody else knows";

/// Placeholders whose values differ between clients that ask for the same URL.
const VARIABLES: [(&str, &str); 10] = [
    ("cookie", "{cookie.t}"),
    ("header", "{header.X-T}"),
    ("table", "{map.table}"),
    ("address", "{client.ip}"),
    ("user", "{user}"),
    ("query", "{query.t}"),
    ("argument", "{arg.t}"),
    ("protocol", "{protocol}"),
    ("uri", "{uri}"),
    // The same for both clients; a response is renewed by a request with the same one.
    ("route", "{route}"),
];

/// Places where a route writes such a value, with `VALUE` for the placeholder.
const PLACES: [(&str, &str); 7] = [
    ("host", "host_header: 'VALUE.internal'"),
    (
        "set",
        "headers: { request: { set: { X-Set: 'a VALUE b' } } }",
    ),
    ("add", "headers: { request: { add: { X-Set: 'VALUE' } } }"),
    (
        "rules",
        "rules: [{ regex: '^(.*)$', with: '{group.1}?v=VALUE', then: stop }]",
    ),
    (
        "moved",
        "rules: [{ regex: '^(.*)$', with: '{group.1}', then: stop }], headers: { request: { set: { \
         X-Set: 'VALUE' } } }",
    ),
    ("upstream", "upstream_by: '{map.by_VARIABLE}'"),
    // The header that `jwt` writes is the only difference here.
    ("forward", ""),
];

/// Values of `Cache-Control`: fresh, and stale within the time in which it is renewed meanwhile.
const CACHE_CONTROL: [&str; 2] = [
    "public, max-age=600",
    "public, max-age=60, stale-while-revalidate=600\r\nage: 61",
];

/// Headers of the origin's request that the client wrote, or that differ for each request.
const NOT_WRITTEN: [&str; 9] = [
    "authorization",
    "cookie",
    "traceparent",
    "x-forwarded-for",
    "x-free",
    "x-real-ip",
    "x-request-id",
    "x-t",
    "user-agent",
];

/// Returns the configuration of a gateway with a route for each variable in each place.
fn yaml(origins: [SocketAddr; 2], keeps: bool) -> String {
    let mut yaml = format!(
        "listeners: [{{ address: '127.0.0.1:0', name: main, http2: {{ cleartext: true }} }}]
upstreams:
  one: {{ backends: ['{}'], health: false }}
  two: {{ backends: ['{}'], health: false }}
maps:
  table: {{ from: '{{cookie.t}}', values: {{ a: first, b: second }} }}
",
        origins[0], origins[1]
    );
    for (name, variable) in VARIABLES {
        yaml.push_str(&format!(
            "  by_{name}: {{ from: '{variable}', default: one, values: {{ b: two, second: two, \
             127.0.0.3: two, 'HTTP/2': two }} }}\n"
        ));
    }
    yaml.push_str("routes:\n");
    let size = if keeps { "" } else { ", max_object: 1B" };
    for (name, variable) in VARIABLES {
        for (place, keys) in PLACES {
            // `check` refuses it there: logins come later.
            let is_refused = (name, place) == ("user", "rules");
            let variable = if is_refused { "" } else { variable };
            let keys = keys.replace("VALUE", variable).replace("VARIABLE", name);
            let keys = match keys.as_str() {
                "" => String::new(),
                keys => format!(", {keys}"),
            };
            for (cookies, anonymous) in [("known", "[t]"), ("unknown", "[]")] {
                yaml.push_str(&format!(
                    "- {{ name: {name}-{place}-{cookies}, match: {{ path: '/{name}/{place}/{cookies}/*' }}, upstream: one, jwt: {{ \
                     keys: '{SECRET}', optional: true, forward: {{ sub: X-User-Id }} }}, cache: {{ \
                     anonymous_cookies: {anonymous}, key: {{ ignore_query: [t] }}{size} }}{keys} }}\n"
                ));
            }
        }
    }
    yaml
}

fn token(sub: &str) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let claims = json!({ "sub": sub, "exp": 4_000_000_000_u64 });
    let token = encode(&Header::default(), &claims, &key).expect("it can sign");
    format!("Bearer {token}")
}

/// Request of one of two clients.
#[derive(Debug)]
struct Drawn {
    target: String,
    headers: Vec<(&'static str, String)>,
    from: IpAddr,
    is_http2: bool,
}

impl Drawn {
    fn draw(random: &mut Rng) -> Self {
        let (variable, _) = VARIABLES[random.usize(..VARIABLES.len())];
        let (place, _) = PLACES[random.usize(..PLACES.len())];
        let cookies = ["known", "unknown"][random.usize(..2)];
        let mut drawn = Self {
            target: format!("/{variable}/{place}/{cookies}/{}-0", random.usize(..2)),
            headers: vec![("x-free", random.u8(..2).to_string())],
            from: "127.0.0.1".parse().expect("an address"),
            is_http2: false,
        };
        let client = ["a", "b"][random.usize(..2)];
        match variable {
            "cookie" | "table" => drawn.headers.push(("cookie", format!("t={client}"))),
            "header" => drawn.headers.push(("x-t", client.to_owned())),
            "address" if client == "b" => drawn.from = "127.0.0.3".parse().expect("an address"),
            "user" => drawn.headers.push(("authorization", token(client))),
            "query" | "argument" | "uri" => drawn.target.push_str(&format!("?t={client}")),
            "protocol" => drawn.is_http2 = client == "b",
            _ => {}
        }
        drawn
    }

    /// Sends the request; returns the outcome of the cache, and the request that the origin
    /// received.
    async fn send(&self, gateway: &Gateway) -> (String, Value) {
        let to = gateway.address();
        if self.is_http2 {
            let mut request = http2::request("GET", &self.target);
            for (name, value) in &self.headers {
                request = request.header(*name, value);
            }
            let response = http2::Client::open(to).await.send(request, "").await;
            let response = response.expect("a response");
            let outcome = response.header("x-cache-status").unwrap_or_default();
            return (outcome.to_owned(), response.json());
        }
        let mut request = get(&self.target).header("host", "app.test");
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let connection = Connection::open_from(self.from, to).await;
        let response = connection.expect("it listens").send(&request).await;
        let response = response.unwrap_or_else(|error| panic!("{self:?}: {error}"));
        let outcome = response.header("x-cache-status").unwrap_or_default();
        (outcome.to_owned(), response.json())
    }
}

/// Returns what the gateway wrote into a request that the origin received.
fn written(received: &Value) -> BTreeMap<String, Vec<String>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut parts = BTreeMap::new();
    parts.insert("origin".to_owned(), vec![text(&received["origin"])]);
    parts.insert("target".to_owned(), vec![text(&received["target"])]);
    for pair in received["headers"].as_array().expect("a list") {
        let name = text(&pair[0]).to_ascii_lowercase();
        if !NOT_WRITTEN.contains(&&*name) {
            let values: &mut Vec<String> = parts.entry(name).or_default();
            values.push(text(&pair[1]));
        }
    }
    parts
}

#[tokio::test]
async fn a_stored_response_is_one_to_what_the_gateway_would_write() {
    let origins = [
        ReflectingOrigin::start("one", &CACHE_CONTROL, &[""]).await,
        ReflectingOrigin::start("two", &CACHE_CONTROL, &[""]).await,
    ];
    let addresses = origins.each_ref().map(Origin::address);
    let storing = Gateway::start(&yaml(addresses, true)).await;
    let asking = Gateway::start(&yaml(addresses, false)).await;
    let mut random = Rng::with_seed(seed::drawn());
    let (mut stored, mut wrong, mut shared) = (0, Vec::new(), 0);
    let count = seed::cases(350, 1500);
    for _ in 0..count {
        let drawn = Drawn::draw(&mut random);
        let (outcome, got) = drawn.send(&storing).await;
        if !matches!(&*outcome, "HIT" | "STALE") {
            continue;
        }
        stored += 1;
        let (_, own) = drawn.send(&asking).await;
        if written(&got) != written(&own) {
            wrong.push(format!(
                "{outcome} for {drawn:?}\ngot {got}\nits own is {own}"
            ));
        }
        // The control: without `Vary`, what the client wrote is the same to the cache.
        shared += usize::from(echoed(&got, "x-free") != echoed(&own, "x-free"));
    }
    println!(
        "{stored} stored responses, {} wrong, {shared} shared",
        wrong.len()
    );
    assert!(
        wrong.is_empty(),
        "{} of {stored}: {}",
        wrong.len(),
        wrong[0]
    );
    assert!(stored > count / 5, "{stored} stored responses show nothing");
    assert!(
        shared > count / 30,
        "{shared}: the comparison finds nothing"
    );
}

#[tokio::test]
async fn explain_shows_what_is_written() {
    let origin = EchoOrigin::start().await;
    let gateway = Gateway::start(&format!(
        "upstreams: {{ app: {{ backends: ['{}'] }} }}\nroutes:\n- {{ match: {{ path: /* }}, upstream: \
         app, cache: {{}}, host_header: '{{header.X-T}}.internal', headers: {{ request: {{ set: {{ \
         X-Set: '{{client.ip}}', X-Url: '{{scheme}}://{{host}}{{path}}', X-Start: '{{now}}' }} }} }} }}\n",
        origin.address()
    ))
    .await;
    let request = json!({ "method": "GET", "url": "http://Shop.Test:80/a", "headers": ["X-T: a"], "client": "10.0.0.1" });
    let request =
        post("/v1/explain", request.to_string()).header("content-type", "application/json");
    let explained = gateway.send_admin(&request).await.json();
    assert_eq!(explained["cache"]["key"]["url"], "http://shop.test/a");
    let parts = explained["cache"]["key"]["and"].as_array().expect("a list");
    let parts: Vec<&str> = parts.iter().filter_map(Value::as_str).collect();
    let written: Vec<&&str> = parts
        .iter()
        .filter(|part| part.starts_with("written"))
        .collect();
    assert_eq!(
        written,
        [&"written x-set: 10.0.0.1", &"written host: a.internal"]
    );
}

#[tokio::test]
async fn a_request_that_a_plugin_may_change_later_passes_the_cache() {
    let origin = EchoOrigin::start().await;
    let plugin = "export function onUpstreamRequest(request) { request.headers.set('x-set', \
                  request.headers.get('x-t') ?? ''); }\n";
    let saying = format!(
        "{plugin}export function onCacheKey(request) {{ return request.headers.get('x-t'); }}\n"
    );
    let yaml = format!(
        "upstreams: {{ app: {{ backends: ['{}'] }} }}\nroutes:\n\
         - {{ match: {{ path: /later }}, upstream: app, cache: {{ ttl: 1h }}, plugins: [{{ file: later.js }}] }}\n\
         - {{ match: {{ path: /keyed }}, upstream: app, cache: {{ ttl: 1h }}, plugins: [{{ file: keyed.js }}] }}\n",
        origin.address()
    );
    let gateway = Gateway::start_in(&yaml, |folder| {
        fs::write(folder.join("later.js"), plugin).expect("a file");
        fs::write(folder.join("keyed.js"), saying).expect("a file");
    })
    .await;
    for (path, value, expected) in [
        ("/later", "a", "BYPASS"),
        ("/later", "a", "BYPASS"),
        ("/later", "b", "BYPASS"),
        ("/keyed", "a", "MISS"),
        ("/keyed", "a", "HIT"),
        ("/keyed", "b", "MISS"),
    ] {
        let response = gateway.send(&get(path).header("x-t", value)).await;
        assert_eq!(
            response.header("x-cache-status"),
            Some(expected),
            "{path} {value}"
        );
        assert_eq!(echoed(&response.json(), "x-set"), Some(value));
    }
}

/// Way in which a request arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Http1,
    Http2,
    Absolute,
    Tls,
    /// A trusted proxy that ends TLS.
    Proxy,
}

/// Gateway in front of a site with a canonical host.
struct Site {
    gateway: Gateway,
    ca: Ca,
    _origin: Origin<CanonicalOrigin>,
}

impl Site {
    async fn start() -> Self {
        let origin = CanonicalOrigin::start("shop.test").await;
        let ca = Ca::new();
        let yaml = format!(
            "trusted_proxies: [127.0.0.2/32]
listeners:
- {{ address: '127.0.0.1:0', name: plain, http2: {{ cleartext: true }} }}
- {{ address: '127.0.0.1:0', name: tls, tls: {{ certificates: {{ dir: sites }} }} }}
upstreams: {{ app: {{ backends: ['{}'], health: false }} }}
routes: [{{ match: {{ path: /* }}, upstream: app, cache: {{}} }}]
",
            origin.address()
        );
        let prepare = |folder: &Path| {
            fs::create_dir(folder.join("sites")).expect("a folder");
            ca.site(&["shop.test"]).write(&folder.join("sites"), "site");
        };
        let gateway = Gateway::start_in(&yaml, prepare).await;
        Self {
            gateway,
            ca,
            _origin: origin,
        }
    }

    /// Returns the status of the response to a request for this host.
    async fn status(&self, by: By, host: &str, path: &str) -> u16 {
        let listener = if by == By::Tls { "tls" } else { "plain" };
        let to: SocketAddr = self.gateway.listener(listener).parse().expect("an address");
        let status = |sent: Result<Response, ClientError>| match sent {
            Ok(response) => response.status(),
            Err(error) => panic!("{by:?} {host}: {error}"),
        };
        match by {
            By::Http2 => {
                let uri = format!("http://{host}{path}");
                let request = http::Request::get(uri);
                let response = http2::Client::open(to).await.send(request, "").await;
                response.expect("a response").status()
            }
            By::Tls => {
                let config = Arc::new(self.ca.trust());
                let connection = Connection::open_tls(to, "shop.test", &config).await;
                let request = get(path).header("host", host);
                status(connection.expect("it listens").send(&request).await)
            }
            By::Http1 | By::Absolute | By::Proxy => {
                let (from, request) = match by {
                    By::Absolute => {
                        let target = format!("http://{host}{path}");
                        ("127.0.0.1", get(&target).header("host", host))
                    }
                    By::Proxy => {
                        let request = get(path).header("host", host);
                        let request = request.header("x-forwarded-host", format!("{host}, x.test"));
                        ("127.0.0.2", request.header("x-forwarded-proto", "https"))
                    }
                    _ => ("127.0.0.1", get(path).header("host", host)),
                };
                let from = from.parse().expect("an address");
                let connection = Connection::open_from(from, to).await;
                status(connection.expect("it listens").send(&request).await)
            }
        }
    }
}

#[tokio::test]
async fn no_spelling_of_a_host_makes_an_app_redirect_to_its_own_name() {
    let mut random = Rng::with_seed(seed::drawn());
    let site = Site::start().await;
    let (mut own, mut others) = (0, 0);
    for number in 0..600 {
        let ways = [
            By::Http1,
            By::Http1,
            By::Http2,
            By::Absolute,
            By::Tls,
            By::Proxy,
        ];
        let by = ways[random.usize(..ways.len())];
        let is_secure = matches!(by, By::Tls | By::Proxy);
        let port = if is_secure { 443 } else { 80 };
        let ports = [
            String::new(),
            format!(":{port}"),
            ":".into(),
            format!(":0{port}"),
        ];
        let mut port = ports[random.usize(..ports.len())].clone();
        // `:` and `:080` are none that the client's own library sends.
        if by == By::Http2 && matches!(&*port, ":" | ":080") {
            port.clear();
        }
        let mut name: String = "shop.test".into();
        for at in 0..name.len() {
            if random.u8(..4) == 0 {
                name[at..=at].make_ascii_uppercase();
            }
        }
        let is_other = random.u8(..8) == 0;
        if is_other {
            port = if is_secure {
                ":80".into()
            } else {
                ":443".into()
            };
        }
        let path = format!("/{}", number / 20);
        let status = site.status(by, &format!("{name}{port}"), &path).await;
        let place = format!("{number}: {by:?} {name}{port}");
        // The control: the app does redirect from hosts that are not its own.
        assert_eq!(status, if is_other { 301 } else { 200 }, "{place}");
        *(if is_other { &mut others } else { &mut own }) += 1;
    }
    println!("{own} requests for the host, {others} for others");
    assert!(own > 400 && others > 40, "{own} {others}");
}

/// Query settings of a key, and the parameters of clients that they leave out of it.
const QUERIES: [(&str, &[&str]); 4] = [
    ("{}", &[]),
    ("{ query: [page] }", &["utm_a", "x", "id"]),
    (
        "{ query: [], pass_unkeyed: true }",
        &["utm_a", "x", "id", "page"],
    ),
    ("{ ignore_query: ['utm_*'] }", &["utm_a"]),
];

/// Ways in which a route changes the target, with a parameter `id` that the gateway writes.
const WAYS: [&str; 8] = [
    "",
    "rules: [{ regex: '^/(.*)$', with: '/show?id={cookie.t}', then: stop }]",
    "rules: [{ regex: '^/(.*)$', with: '/show?id={cookie.t}?', then: stop }]",
    "rules: [{ regex: '^/(.*)$', with: '/{group.1}?id={cookie.t}' }, { regex: '^/(.*)$', with: '/again/{group.1}?more=1', then: stop }]",
    "rules: [{ regex: '^/i/(.*)$', with: '/show?id={group.1}', then: stop }]",
    "rewrite: { regex: '^/i/(.*)$', with: '/show?id=$1' }",
    "rewrite: { regex: '^/i/(.*)$', with: '/show?id=$1&more=1?' }",
    "rewrite: { prefix: /i, with: /j }",
];

/// Returns the path and the parameters of a target.
fn parts(target: &str) -> (&str, Vec<&str>) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    (path, query.split('&').filter(|it| !it.is_empty()).collect())
}

/// Invariant: a parameter that the gateway writes into the query is one of the key and of the request
/// to the origin, whatever clients send of the same name. The counterpart is the same route without a
/// cache.
#[tokio::test]
async fn parameters_that_the_gateway_writes_are_counted() {
    let origin = EchoOrigin::start().await;
    let mut yaml = format!(
        "upstreams: {{ app: {{ backends: ['{}'], health: false }} }}\nroutes:\n",
        origin.address()
    );
    let ways: Vec<(&str, usize)> = WAYS
        .iter()
        .flat_map(|way| (0..QUERIES.len()).map(move |query| (*way, query)))
        .collect();
    for (number, (way, query)) in ways.iter().enumerate() {
        let key = QUERIES[*query].0;
        let separator = if way.is_empty() { "" } else { ", " };
        yaml.push_str(&format!(
            "  - {{ match: {{ host: c{number}.test }}, upstream: app, cache: {{ ttl: 1h, \
             anonymous_cookies: ['*'], key: {key} }}{separator}{way} }}\n  - {{ match: {{ host: \
             p{number}.test }}, upstream: app{separator}{way} }}\n"
        ));
    }
    let gateway = Gateway::start(&yaml).await;
    let mut random = Rng::with_seed(seed::drawn());
    let mut hits = 0;
    for _ in 0..seed::cases(800, 8000) {
        let number = random.usize(..ways.len());
        let left_out = QUERIES[ways[number].1].1;
        let mut sent: Vec<String> = Vec::new();
        for name in ["utm_a", "x", "id", "page"] {
            if random.u8(..3) == 0 {
                sent.push(format!("{name}={}", random.u8(..2)));
            }
        }
        random.shuffle(&mut sent);
        let sent = sent.join("&");
        let path = *random.choice(&["/i/0", "/i/1", "/a"]).expect("some");
        let target = if sent.is_empty() {
            path.to_owned()
        } else {
            format!("{path}?{sent}")
        };
        let cookie = format!("t={}", random.u8(..2));
        let ask = async |kind: char| {
            let request = get(&target).header("host", format!("{kind}{number}.test"));
            gateway
                .send(&request.header("cookie", cookie.clone()))
                .await
        };
        let (cached, plain) = (ask('c').await, ask('p').await);
        hits += usize::from(cached.header("x-cache-status") == Some("HIT"));
        let target_of = |response: &Response| response.json()["target"].as_str().map(str::to_owned);
        let (cached, plain) = (target_of(&cached), target_of(&plain));
        let (cached, plain) = (cached.expect("a target"), plain.expect("a target"));
        let ((path, got), (as_without, written)) = (parts(&cached), parts(&plain));
        let way = ways[number].0;
        let applies = way.starts_with("rules") || target.starts_with("/i/");
        let drops = applies && way.contains("?'");
        let sent = if drops { Vec::new() } else { parts(&target).1 };
        // What the gateway writes comes first.
        let written = &written[..written.len() - sent.len()];
        let what = format!(
            "{way} {}: {target} {cookie}: {cached}",
            QUERIES[ways[number].1].0
        );
        assert_eq!(path, as_without, "{what}");
        assert!(got.starts_with(written), "{what}, not {plain}");
        let counts = |it: &&&str| {
            !left_out
                .iter()
                .any(|name| it.split('=').next() == Some(name))
        };
        let own: Vec<&&str> = got[written.len()..].iter().filter(counts).collect();
        assert_eq!(
            own,
            sent.iter().filter(counts).collect::<Vec<_>>(),
            "{what}"
        );
    }
    assert!(hits > 100, "{hits}");
}

/// Invariant: a page that is the same for all URLs that lead to it is stored once, and purged by its
/// own URL.
#[tokio::test]
async fn the_page_of_an_error_is_stored_once() {
    let origin = NumberedOrigin::start().await;
    for path in ["/a", "/b", "/c"] {
        origin.settings().tell(path, 404, &[]);
    }
    let gateway = Gateway::start(&format!(
        "upstreams: {{ app: {{ backends: ['{}'], health: false }} }}
routes:
- match: {{ path: /* }}
  upstream: app
  error_pages: {{ pages: {{ 404: {{ reroute: '/page?of={{cookie.t}}' }} }}, intercept: true }}
- match: {{ path: /page }}
  upstream: app
  cache: {{ ttl: 1h, anonymous_cookies: ['*'], key: {{ query: [] }} }}
",
        origin.address()
    ))
    .await;
    let page = async |path: &str, cookie: &str| {
        let response = gateway
            .send(&get(path).header("cookie", cookie.to_owned()))
            .await;
        assert_eq!(response.status(), 404);
        response.text()
    };
    let first = page("/a", "t=1").await;
    assert!(first.starts_with("/page #"), "{first}");
    assert_eq!(page("/b?x=1", "t=1").await, first);
    // What the gateway writes into its query is counted, whatever the key leaves out of a client's.
    assert_ne!(page("/c", "t=2").await, first);
    assert_eq!(page("/c", "t=1").await, first);
    let (status, receipt) = gateway.purge(&json!({ "url": "/page?of=1" })).await;
    assert_eq!(status, 200, "{receipt}");
    assert_ne!(page("/a", "t=1").await, first);
}
