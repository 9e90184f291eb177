//! A real browser in front of the real apps: behaviour of responses that only a browser shows.
//!
//! The checks themselves, each with its control, are in `tests/browser/check.js`.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{process::Command, time::timeout};

use crate::support::{
    apps::{ExpressApp, NextApp},
    gateway::Gateway,
};

/// Path of the browser in Debian's package.
const BROWSER: &str = "/usr/bin/chromium";
/// About three times as long as a busy machine needs.
const LIMIT: Duration = Duration::from_mins(4);

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

/// Output of a script.
#[derive(Debug, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) passed: Vec<String>,
    pub(crate) failed: Vec<Failure>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Failure {
    check: String,
    why: String,
    /// Lines of the browser's console.
    console: Vec<String>,
}

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

/// Runs the checks of a script in `tests/browser` against gateways with these addresses.
pub(crate) async fn look(script: &str, places: &Value) -> Outcome {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/browser");
    assert!(
        Path::new(BROWSER).exists(),
        "{BROWSER} is missing: run `make test`, or `scripts/setup chromium`"
    );
    assert!(
        folder.join("node_modules/playwright-core").exists(),
        "tests/browser is not installed: run `make test`, or tests/apps/build.sh"
    );
    // Contains the browser's profile, which is removed with it.
    let scratch = tempfile::tempdir().expect("a folder for the test can be made");
    let mut run = Command::new("node")
        .args(["--import", "../apps/end-with-parent.js", script])
        .arg(places.to_string())
        .current_dir(&folder)
        .env("BROWSER", BROWSER)
        .env("TMPDIR", scratch.path())
        .env("HOME", scratch.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("node is installed");
    // Stays open until the run is done: the child exits when this process ends for any reason.
    let stdin = run.stdin.take();
    let output = timeout(LIMIT, run.wait_with_output())
        .await
        .expect("the browser is done in time")
        .expect("a child of ours can be waited for");
    drop(stdin);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the looks ended early:\n{stderr}");
    serde_json::from_slice(&output.stdout).expect("the script prints JSON")
}

pub(crate) fn describe(failure: &Failure) -> String {
    let console = failure.console.join("\n  ");
    format!(
        "--- {}\n{}\nthe browser's console:\n  {console}",
        failure.check, failure.why
    )
}
