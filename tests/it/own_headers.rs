//! Security headers of an app. Invariant: wherever a response of the app goes out, each security
//! header that the app has set is there once, with the app's value, and each other one once, with the
//! gateway's; with `policy: override` the gateway's is there.

use std::fmt::Write as _;

use fastrand::Rng;

use crate::support::{
    client::{Request, Response, get},
    gateway::Gateway,
    origins::FixedOrigin,
    seed,
};

/// Headers of the gateway over plain HTTP, and a value of an app.
const HEADERS: [(&str, &str); 11] = [
    (
        "content-security-policy",
        "script-src 'nonce-k3y' 'strict-dynamic'",
    ),
    ("cross-origin-opener-policy", "unsafe-none"),
    ("cross-origin-resource-policy", "cross-origin"),
    ("origin-agent-cluster", "?0"),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff, own"),
    ("x-dns-prefetch-control", "on"),
    ("x-download-options", "own"),
    ("x-frame-options", "DENY"),
    ("x-permitted-cross-domain-policies", "all"),
    ("x-xss-protection", "1"),
];

const PLUGIN: &str = "import { NextResponse } from 'next/server';
export function onRequest(request) {
  const { pathname } = request.nextUrl;
  if (pathname === '/plugin-rewrite') return NextResponse.rewrite(new URL('/plain', request.url));
  const response = NextResponse.next();
  response.headers.set('x-plugin', '1');
  return response;
}
export function onResponse(response) {
  response.headers.set('x-after', '1');
}";

/// Places of the app's response: the target, and the keys of its route.
const PLACES: [(&str, &str); 11] = [
    ("/plain", ""),
    (
        "/rewritten",
        ", rewrite: { prefix: /rewritten, with: /plain }",
    ),
    (
        "/by-rules",
        ", rules: [{ regex: ^/by, with: /plain, then: later }]",
    ),
    ("/stored", ", cache: { ttl: 1h }"),
    (
        "/plugin",
        ", plugins: [{ file: passes.js, on_error: continue }]",
    ),
    (
        "/plugin-rewrite",
        ", plugins: [{ file: passes.js, on_error: continue }]",
    ),
    ("/compressed", ", compression: { min_size: 1 }"),
    (
        "/changed",
        ", headers: { response: { set: { X-Own: a }, by_status: [{ status: [200, 404], add: { X-B: b } }] } }",
    ),
    ("/failed", ", upstream: failing"),
    (
        "/page",
        ", upstream: failing, error_pages: { pages: { 404: { upstream: app, path: /page } }, intercept: true }",
    ),
    (
        "/page-route",
        ", upstream: failing, error_pages: { pages: { 404: { reroute: /plain } }, intercept: true }",
    ),
];

async fn front(app: &str, failing: &str, policy: &str) -> Gateway {
    let mut yaml = format!(
        "listeners: [{{ address: '127.0.0.1:0', name: web }}]
defaults: {{ security_headers: {{ policy: {policy} }} }}
upstreams:
  app: {{ backends: ['{app}'], health: false }}
  failing: {{ backends: ['{failing}'], health: false }}
routes:
"
    );
    for (target, keys) in PLACES {
        let upstream = if keys.contains("upstream: failing") {
            ""
        } else {
            ", upstream: app"
        };
        writeln!(yaml, "- {{ match: {{ path: {target} }}{upstream}{keys} }}")
            .expect("a string takes text");
    }
    Gateway::start_in(&yaml, |folder| {
        std::fs::write(folder.join("passes.js"), PLUGIN).expect("the folder takes files");
    })
    .await
}

/// Returns a request for each place, some of them twice.
fn requests(random: &mut Rng) -> Vec<(&'static str, Request)> {
    let mut requests = Vec::new();
    for (target, _) in PLACES {
        for _ in 0..2 {
            let method = if random.u8(..4) == 0 { "HEAD" } else { "GET" };
            let mut request = Request::new(method, target);
            if random.bool() {
                request = request.header("accept-encoding", "gzip");
            }
            requests.push((target, request));
        }
    }
    requests
}

fn values<'a>(response: &'a Response, name: &'a str) -> Vec<&'a str> {
    response.headers.get_all(name).collect()
}

#[tokio::test]
async fn the_headers_of_an_app_win_wherever_its_responses_go_out() {
    let mut random = Rng::with_seed(seed::drawn());
    for case in 0..seed::cases(4, 60) {
        let own: Vec<(&str, &str)> = HEADERS
            .into_iter()
            .filter(|_| case == 0 || random.bool())
            .collect();
        let app = FixedOrigin::start(200, &own, "<p>the app's own page</p>").await;
        let failing = FixedOrigin::start(404, &own, "<p>the app's own error</p>").await;
        let (app, failing) = (app.address().to_string(), failing.address().to_string());
        // The control: where the configuration says so, the gateway's win.
        for policy in ["set_if_absent", "override"] {
            let gateway = front(&app, &failing, policy).await;
            for (place, request) in requests(&mut random) {
                let response = gateway.send(&request).await;
                let status = response.status();
                assert!(status == 200 || status == 404, "{place}: {status}");
                for (name, value) in HEADERS {
                    let is_own = own.iter().any(|(own, _)| *own == name);
                    let is_kept = policy == "set_if_absent" && is_own;
                    let found = values(&response, name);
                    let is_right = found.len() == 1 && (found[0] == value) == is_kept;
                    assert!(is_right, "{policy}, {place}: {name}: {found:?}; {own:?}");
                }
            }
        }
    }
    // The headers are those of the gateway.
    let gateway = Gateway::start("routes: [{ match: {}, respond: ok }]\n").await;
    let response = gateway.send(&get("/")).await;
    for (name, _) in HEADERS {
        assert_eq!(values(&response, name).len(), 1, "{name}");
    }
}
