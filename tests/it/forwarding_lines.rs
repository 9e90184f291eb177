//! Forwarding headers that are lines made once for a connection. Invariant: whatever a route does and
//! whatever a client sends before on its connection, a backend gets the forwarding headers that it
//! gets where they are written into the header map of each request.

use std::fs;

use fastrand::Rng;
use serde_json::Value;

use crate::support::{
    client::{Connection, Request, get, post},
    gateway::Gateway,
    http2,
    origins::{EchoOrigin, Origin, echoed},
    ports::free_port,
    seed,
};

/// Features of a route: changes in `headers.request`, and other keys.
const FEATURES: [(&str, &str); 19] = [
    ("", ""),
    ("set: { X-Forwarded-For: 192.0.2.1 }", ""),
    ("add: { X-Forwarded-Host: more.test }", ""),
    ("set: { X-Seen: '{header.x-forwarded-for}' }", ""),
    ("set: { X-Seen: '{client.ip}' }", ""),
    ("set: { X-Real-Ip: '{header.x-real-ip}, more' }", ""),
    ("", "cache: {}"),
    ("", "plugins: [{ file: reads.js, on_error: refuse }]"),
    ("", "plugins: [{ file: writes.js, on_error: refuse }]"),
    ("", "host_header: own.test"),
    ("", "host_header: '{header.x-wanted}.test'"),
    (
        "",
        "conditions: [{ if: '{header.x-wanted}', is: refuse, status: 403 }]",
    ),
    (
        "",
        "rules: [{ if: '{header.x-real-ip}', is: 192.0.2.5, status: 403 }]",
    ),
    (
        "",
        "forward_auth: { url: 'http://127.0.0.1:DEAD/', on_error: allow }",
    ),
    ("", "host_header: '{header.x-real-ip}.test'"),
    ("", "rules: [{ route: by-name }]"),
    ("", "site: reads"),
    (
        "",
        "rules: [{ regex: '^(.*)$', with: '/reading{group.1}', then: reroute }]",
    ),
    ("", "error_pages: { built_in: html, intercept: true }"),
];

/// A change that changes nothing, and has the forwarding headers written into the map: no client has
/// such a header.
const MAPPED: &str = "remove: [X-Client-Verify]";

const READS: &str = "export function onRequest(request) {
  request.headers.set('x-seen', String(request.headers.get('x-forwarded-proto')));
}";
const WRITES: &str = "export function onRequest(request) {
  request.headers.set('x-real-ip', '192.0.2.2');
}";

/// Headers that clients send, and hosts that they ask for.
const SENT: [(&str, &str); 8] = [
    ("x-forwarded-for", "192.0.2.3"),
    ("x-forwarded-for", "192.0.2.4, 127.0.0.1"),
    ("x-forwarded-host", "forged.test"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-port", "1"),
    ("x-real-ip", "192.0.2.5"),
    ("x_real_ip", "192.0.2.6"),
    ("forwarded", "for=192.0.2.7"),
];
const HOSTS: [&str; 5] = [
    "shop.test",
    "Shop.Test",
    "shop.test:80",
    "shop.test:8443",
    "[::1]",
];

/// Returns a configuration that has each feature twice: as it is at `/ready/`, beside [`MAPPED`] at
/// `/mapped/`.
fn config(app: &Origin<EchoOrigin>, is_trusted: bool, has_reader: bool) -> String {
    let mut yaml = format!(
        "listeners: [{{ address: 127.0.0.1:0, http2: {{ cleartext: true }} }}]
sites: {{ reads: {{ rules: [{{ if: '{{header.x-real-ip}}', is: 127.0.0.1, status: 403 }}] }} }}
upstreams: {{ app: {{ backends: ['127.0.0.1:{}', '{}'], health: false, eject: {{ errors: 0 }} }} }}
routes:
- {{ name: reading, match: {{ path: '/reading/*' }}, upstream: app, plugins: [{{ file: reads.js, on_error: refuse }}] }}
- {{ name: by-name, match: {{ named: true }}, upstream: app, plugins: [{{ file: reads.js, on_error: refuse }}] }}
",
        free_port(),
        app.address()
    );
    if is_trusted {
        yaml.insert_str(0, "trusted_proxies: [127.0.0.1]\n");
    }
    if has_reader {
        yaml.push_str(
            "- { name: reader, match: { path: /reader/, header: { x-forwarded-proto: https } }, \
             respond: read }\n",
        );
    }
    for (index, (headers, others)) in FEATURES.iter().enumerate() {
        for (way, change) in [("ready", ""), ("mapped", MAPPED)] {
            let changes: Vec<&str> = [change, headers]
                .into_iter()
                .filter(|it| !it.is_empty())
                .collect();
            let mut keys = String::new();
            if !changes.is_empty() {
                keys = format!(", headers: {{ request: {{ {} }} }}", changes.join(", "));
            }
            if !others.is_empty() {
                keys = format!("{keys}, {others}");
            }
            let route = format!(
                "- {{ name: {way}-{index}, match: {{ path: '/{way}/{index}/*' }}, upstream: app{keys} }}\n"
            );
            yaml.push_str(&route);
        }
    }
    yaml.replace("DEAD", &free_port().to_string())
}

/// Headers of a request as the app got them: the forwarding headers in an order of their own, and
/// where the first of them stood.
fn forwarding_headers(text: &str) -> (Vec<(String, String)>, Option<usize>) {
    let seen: Value = serde_json::from_str(text).expect("the app sends JSON");
    let headers = seen["headers"].as_array().expect("a list").iter();
    let text = |pair: &Value, index: usize| pair[index].as_str().unwrap_or_default().to_owned();
    let headers: Vec<_> = headers
        .map(|pair| (text(pair, 0).to_lowercase(), text(pair, 1)))
        .collect();
    let is_one = |(name, _): &(String, String)| {
        let name = name.replace('_', "-");
        [
            "x-forwarded",
            "x-real-ip",
            "x-client",
            "x-seen",
            "forwarded",
            "host",
        ]
        .iter()
        .any(|known| name.starts_with(known))
    };
    let place = headers
        .iter()
        .position(|(name, _)| name.starts_with("x-forwarded-for"));
    let mut theirs: Vec<_> = headers.into_iter().filter(is_one).collect();
    theirs.sort();
    (theirs, place)
}

/// A request without its path.
struct Drawn {
    host: Option<&'static str>,
    headers: Vec<(&'static str, &'static str)>,
    has_body: bool,
}

impl Drawn {
    fn new(random: &mut Rng, host: &'static str) -> Self {
        let count = random.usize(..3);
        Self {
            host: match random.u8(..10) {
                0 => None,
                1 | 2 => random.choice(HOSTS),
                _ => Some(host),
            },
            headers: random.choose_multiple(SENT, count),
            has_body: random.bool(),
        }
    }

    fn http1(&self, target: &str) -> Request {
        let mut request = if self.has_body {
            post(target, "body")
        } else {
            get(target)
        };
        request = match self.host {
            Some(host) => request.header("host", host),
            None => request.http10().header("connection", "keep-alive"),
        };
        let headers = self.headers.iter();
        headers
            .fold(request, |request, (name, value)| {
                request.header(name, *value)
            })
            .header("x-wanted", "wanted")
    }

    fn http2(&self, target: &str) -> http::request::Builder {
        let method = if self.has_body { "POST" } else { "GET" };
        let uri = format!("http://{}{target}", self.host.unwrap_or("shop.test"));
        let request = http2::request(method, target).uri(uri);
        let headers = self.headers.iter();
        headers
            .fold(request, |request, (name, value)| {
                request.header(*name, *value)
            })
            .header("x-wanted", "wanted")
    }
}

#[tokio::test]
async fn backends_get_the_forwarding_headers_of_the_header_map() {
    let mut random = Rng::with_seed(seed::drawn());
    let app = EchoOrigin::start().await;
    let (mut passed, mut ready) = (0, 0);
    for (is_trusted, has_reader) in [(false, false), (true, false), (false, true)] {
        let yaml = config(&app, is_trusted, has_reader);
        let gateway = Gateway::start_in(&yaml, |folder| {
            fs::write(folder.join("reads.js"), READS).expect("it takes files");
            fs::write(folder.join("writes.js"), WRITES).expect("it takes files");
        })
        .await;
        for round in 0..seed::cases(4, 100) {
            let mut one = Connection::open(gateway.address())
                .await
                .expect("it listens");
            let two = http2::Client::open(gateway.address()).await;
            let is_http2 = random.bool();
            let host = random.choice(HOSTS).expect("there are some");
            for case in 0..40 {
                let (feature, drawn) = (
                    random.usize(..FEATURES.len()),
                    Drawn::new(&mut random, host),
                );
                let mut ways = ["ready", "mapped"];
                random.shuffle(&mut ways);
                let mut seen = Vec::new();
                for way in ways {
                    let target = format!("/{way}/{feature}/{round}-{case}");
                    let (status, text) = if is_http2 {
                        let body = if drawn.has_body { "body" } else { "" };
                        let response = two
                            .send(drawn.http2(&target), body)
                            .await
                            .expect("it is sent");
                        (response.status(), response.text().to_owned())
                    } else {
                        let response = one.send(&drawn.http1(&target)).await.expect("it is sent");
                        (response.status(), response.text())
                    };
                    let headers = match status {
                        200 => forwarding_headers(&text),
                        _ => (vec![(status.to_string(), String::new())], None),
                    };
                    seen.push((way, headers));
                }
                seen.sort_by_key(|(way, _)| *way);
                let [(_, mapped), (_, as_lines)] = &seen[..] else {
                    unreachable!("two ways");
                };
                assert_eq!(
                    mapped.0, as_lines.0,
                    "{:?} of {:?} {:?}, trusted: {is_trusted}",
                    FEATURES[feature], drawn.host, drawn.headers
                );
                passed += usize::from(mapped.1.is_some());
                ready += usize::from(mapped.1 < as_lines.1);
            }
        }
    }
    println!("{ready} of {passed} requests had ready lines");
    assert!(
        ready > 0,
        "control: ready lines stand behind the other headers"
    );
}

#[tokio::test]
async fn a_route_passes_the_headers_that_it_lists_wherever_requests_come_from() {
    let app = EchoOrigin::start().await;
    let gateway = Gateway::start(&format!(
        "
upstreams: {{ app: {{ backends: ['{}'], health: false }} }}
routes:
- {{ match: {{ path: /passes/* }}, upstream: app, pass_headers: [X-HTTP-Method-Override] }}
- {{ match: {{ path: /leads/* }}, upstream: app, pass_headers: [X-HTTP-Method-Override], rules: [{{ route: drops }}] }}
- {{ match: {{ path: /moves/* }}, upstream: app, pass_headers: [X-HTTP-Method-Override],
    rules: [{{ regex: '^(.*)$', with: '/dropping{{group.1}}', then: reroute }}] }}
- {{ name: drops, match: {{ named: true }}, upstream: app }}
- {{ match: {{ path: /dropping/* }}, upstream: app }}
",
        app.address()
    ))
    .await;
    for (target, passes) in [("/passes/", true), ("/leads/", false), ("/moves/", false)] {
        let request = get(target).header("x-http-method-override", "DELETE");
        let seen = gateway.send(&request).await.json();
        assert_eq!(
            echoed(&seen, "x-http-method-override").is_some(),
            passes,
            "{target}"
        );
    }
}
