//! A real browser in front of the real apps: behaviour of responses that only a browser shows.
//!
//! The checks themselves, each with its control, are in `tests/browser/check.js`.

mod status_page;

use std::path::Path;

use serde_json::json;

pub(crate) use crate::support::browser::{Outcome, describe, look};
use crate::support::{
    apps::{ExpressApp, NextApp},
    gateway::Gateway,
};

const CHECKS: &[&str] = &[
    "a page comes alive",
    "a link changes the page in place",
    "a server action responds to a script",
    "a server action responds to a form without scripts",
    "an image is shown",
    "a streamed page shows what it has",
    "events come as they happen",
    "a WebSocket echoes",
    "over TLS a page comes alive by HTTP/2, and a WebSocket beside it",
    "pages of listed origins read an API",
    "our error page is readable",
];

#[tokio::test]
async fn a_browser_finds_pages_and_apis_unchanged() {
    let next = NextApp::shared().await;
    let express = ExpressApp::start().await;
    let upstreams = format!(
        "
upstreams:
  web: {{ app: nextjs, backends: [\"{}\"], health: {{ path: /api/health }} }}
  sockets: {{ app: node, backends: [\"{}\"] }}
",
        next.address(),
        express.address()
    );
    let serve = async |routes: &str| Gateway::start(&format!("{upstreams}{routes}")).await;

    let all_routes = "
routes:
  - match: { path: /* }
    upstream: web
  - match: { path: /ws }
    upstream: sockets
    websocket: true
";
    let front = serve(all_routes).await;
    let folder = tempfile::tempdir().expect("a folder for the test can be made");
    let secure = serve(&format!("{}{all_routes}", tls(folder.path(), true))).await;
    let old = serve(&format!("{}{all_routes}", tls(folder.path(), false))).await;
    let api = serve(&format!(
        "
routes:
  - match: {{ path: /api/echo }}
    upstream: web
    cors: {{ origins: [\"http://{}\"] }}
  - match: {{ path: /api/echo/closed }}
    upstream: web
    rewrite: {{ with: /api/echo }}
",
        front.address()
    ))
    .await;
    let strict = serve(
        "
defaults:
  security_headers: { csp: \"script-src 'self'; style-src 'self'; img-src 'none'\" }
routes:
  - match: { path: / }
    upstream: web
  - match: { path: /picture }
    upstream: web
  - match: { path: /_next/* }
    upstream: web
  - match: { path: /ws }
    upstream: sockets
",
    )
    .await;
    let odd = serve(
        "
defaults:
  security_headers: { referrer_policy: no-referrer }
  headers: { request: { remove: [RSC, \"Next-Router-*\"] } }
routes:
  - match: { path: /* }
    upstream: web
",
    )
    .await;

    let outcome = look(
        "check.js",
        &json!({
            "front": url(&front.address().to_string()),
            "api": url(&api.address().to_string()),
            "strict": url(&strict.address().to_string()),
            "odd": url(&odd.address().to_string()),
            "secure": format!("https://{}", secure.address()),
            "secureOld": format!("https://{}", old.address()),
        }),
    )
    .await;
    let failures: Vec<String> = outcome.failed.iter().map(describe).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(outcome.passed, CHECKS);

    // The browser sent preflights first: one allowed, one refused, one passed to the app.
    let log = api.log_lines(3).await;
    let preflights: Vec<_> = log
        .iter()
        .filter(|line| line["method"] == "OPTIONS")
        .map(|line| &line["status"])
        .collect();
    assert_eq!(preflights, [204, 403, 204], "{log:#?}");
    let puts = log.iter().filter(|line| line["method"] == "PUT").count();
    assert_eq!(puts, 1, "{log:#?}");
}

/// Listener with a self-signed certificate, stored in `folder`.
fn tls(folder: &Path, http2: bool) -> String {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]);
    let made = made.expect("a certificate can be made");
    let file = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("the folder takes files");
        path.display().to_string()
    };
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    format!(
        "
listeners:
  - address: \"127.0.0.1:0\"
    tls: {{ certificates: {{ cert: {}, key: {} }} }}
    http2: {{ enabled: {http2} }}
",
        file(&format!("{http2}.pem"), cert),
        file(&format!("{http2}.key"), key)
    )
}

fn url(address: &str) -> String {
    format!("http://{address}")
}
