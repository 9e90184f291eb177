//! Clients and apps that are not ours, each with each other. Invariant: what an app sends reaches
//! the client whole, what a client sends reaches the app whole, and a client reads the status of a
//! request that the gateway refuses, also while an instance of its app stops.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests: what goes wrong here fails them, and says so"
)]

use std::{fmt::Write as _, path::Path, process::Stdio, time::Duration};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, Command},
    time::timeout,
};

use crate::support::{
    apps::{App, FrameworkApp, LanguagesApp, NextApp, OldNextApp, backends},
    browser::{describe, look},
    gateway::Gateway,
    scope,
    wait::wait_for,
};

const APPS: [&str; 6] = ["express4", "express5", "fastify", "hono", "koa", "nest"];
/// Programs of `tests/apps/peers`, with the client that each is.
const CLIENTS: [(&str, &str); 5] = [
    ("matrix.py", "httpx"),
    ("matrix.py", "aiohttp"),
    ("matrix.js", "undici"),
    ("matrix.js", "undici-h2"),
    ("matrix.js", "fetch"),
];
/// Further ones in a run of all tests; they need Go.
const MORE_CLIENTS: [(&str, &str); 2] = [("matrix.go", "go"), ("matrix.go", "go-h1")];
/// Lengths of bodies; the longest takes half of the CPU of the clients.
fn lengths() -> [u64; 3] {
    [0, 70_000, if scope::is_all() { 3 << 20 } else { 3 << 19 }]
}

/// Path below an app, length of a body, and the status of a POST there.
const REFUSALS: [(&str, u64, u16); 5] = [
    ("/denied", 1000, 403),
    ("/denied", 3 << 20, 403),
    ("/short", 3 << 20, 413),
    ("/limited", 1000, 429),
    ("/limited", 3 << 20, 429),
];
/// Reasons for which a client of HTTP/2 is closed that sends too many frames.
const FLOODS: [&str; 9] = [
    "h2_calm",
    "h2_continuations",
    "h2_empty_data",
    "h2_pings",
    "h2_priorities",
    "h2_resets",
    "h2_settings",
    "h2_unknown_frames",
    "h2_window_updates",
];
const PATIENCE: Duration = Duration::from_mins(2);
/// Time of an app that closes each connection once its requests are over.
const SOON: Duration = Duration::from_secs(8);

/// Starts a gateway with TLS in front of all apps, each below its name.
async fn front(apps: &[(&str, String)]) -> Gateway {
    let mut upstreams = String::new();
    let mut routes = String::from(
        "- { match: { path: /page }, respond: { body: '<p>', content_type: text/html } }\n",
    );
    for (name, backends) in apps {
        let _infallible = writeln!(
            upstreams,
            "  {name}: {{ backends: [{backends}], health: false }}"
        );
        let to = format!("upstream: {name}");
        let _infallible = write!(
            routes,
            "- {{ match: {{ path: /{name}/* }}, {to}, rewrite: {{ prefix: /{name}/, with: / }}, websocket: true }}
- {{ match: {{ path: /{name}/denied }}, {to}, access: {{ deny: [127.0.0.1] }} }}
- {{ match: {{ path: /{name}/short }}, {to}, body_limit: 512KiB }}
- {{ match: {{ path: /{name}/limited }}, {to}, rate_limit: none }}
"
        );
    }
    let yaml = format!(
        "
listeners:
- {{ address: '127.0.0.1:0', tls: {{ certificates: {{ cert: a.pem, key: a.key }} }} }}
rate_limits: {{ none: {{ rate: 1/h, key: route }} }}
defaults: {{ csrf: false, body_limit: 16MiB }}
upstreams:\n{upstreams}routes:\n{routes}"
    );
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    Gateway::start_in(&yaml, |folder| {
        std::fs::write(folder.join("a.pem"), cert).unwrap();
        std::fs::write(folder.join("a.key"), key).unwrap();
    })
    .await
}

/// A client of `tests/apps/peers` that tries everything, and then asks from one word to the next.
struct Peer {
    name: &'static str,
    child: Child,
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

impl Peer {
    async fn start((file, name): (&'static str, &'static str), plan: &Value) -> Self {
        let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/apps/peers");
        let mut command = match file {
            "matrix.py" => Command::new(peers.join(".venv/bin/python")),
            "matrix.go" => Command::new("go"),
            _ => Command::new("node"),
        };
        if file == "matrix.go" {
            command.arg("run");
        }
        let mut child = command
            .args([&*peers.join(file).to_string_lossy(), name])
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("run `make test`, or tests/apps/build.sh");
        let input = child.stdin.as_mut().expect("it is a pipe");
        input
            .write_all(format!("{plan}\n").as_bytes())
            .await
            .expect("it reads its plan");
        let output = child.stdout.take().expect("it is a pipe");
        let lines = BufReader::new(output).lines();
        Self { name, child, lines }
    }

    /// Returns what went wrong until it has tried everything, or until its end.
    async fn wrong(&mut self) -> Vec<String> {
        let mut wrong = Vec::new();
        let name = self.name;
        loop {
            let line = timeout(PATIENCE, self.lines.next_line()).await;
            let line = line.unwrap_or_else(|_| panic!("{name} hangs after {wrong:?}"));
            match line.expect("it writes text") {
                Some(line) if line == "ready" => return wrong,
                Some(line) => wrong.push(line),
                None => {
                    let status = self.child.wait().await.expect("it ends");
                    if !status.success() {
                        wrong.push(format!("{name}: {status}"));
                    }
                    return wrong;
                }
            }
        }
    }

    /// Begins its last phase, in which it asks all apps without a pause.
    async fn ask(&mut self) -> Vec<String> {
        let input = self.child.stdin.as_mut().expect("it is a pipe");
        input.write_all(b"ask\n").await.expect("it reads its input");
        self.wrong().await
    }

    /// Ends its last phase, and returns what went wrong in it.
    async fn end(mut self) -> Vec<String> {
        drop(self.child.stdin.take());
        self.wrong().await
    }
}

/// Runs curl for one scenario; returns what it prints.
async fn curl(arguments: &[String]) -> String {
    let output = Command::new("curl")
        .args(["-sSk", "--max-time", "60", "-H"])
        .arg("content-type: application/octet-stream")
        .args(arguments)
        .output()
        .await
        .expect("curl is installed");
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// Tries everything with curl, over both versions of HTTP.
async fn curls(plan: &Value, folder: &Path) -> Vec<String> {
    let mut wrong = Vec::new();
    let base = plan["base"].as_str().expect("it has one").to_owned();
    for length in lengths()
        .into_iter()
        .chain(REFUSALS.map(|(_, length, _)| length))
    {
        let content = b"edgeway ".repeat(usize::try_from(length / 8 + 1).unwrap());
        let content = &content[..usize::try_from(length).unwrap()];
        std::fs::write(folder.join(length.to_string()), content).expect("it is written");
    }
    let body = |length: u64| format!("@{}", folder.join(length.to_string()).display());
    for version in ["--http2", "--http1.1"] {
        for app in plan["apps"].as_array().expect("a list") {
            let name = app["name"].as_str().expect("a name");
            let path = |key: &str| app[key].as_str().map(|path| format!("{base}{path}"));
            for length in lengths() {
                let upload = path("upload").expect("each has one");
                let sent = ["--data-binary".to_owned(), body(length), upload];
                let came = curl(&[&[version.to_owned()][..], &sent].concat()).await;
                if !came.contains(&format!("\"bytes\":{length}")) {
                    wrong.push(format!("curl {version} {name} upload {length}: {came}"));
                }
                let Some(download) = path("download") else {
                    continue;
                };
                let download = download.replace("BYTES", &length.to_string());
                let came = curl(&[version.to_owned(), download]).await;
                let content = std::fs::read_to_string(folder.join(length.to_string()));
                if came != content.expect("it was written") {
                    wrong.push(format!(
                        "curl {version} {name} download {length}: {}",
                        came.len()
                    ));
                }
            }
            for (at, length, expected) in REFUSALS {
                let target = format!("{base}/{name}{at}");
                let written = ["-o", "/dev/null", "-w", "%{http_code} %{exitcode}"];
                let sent = ["--data-binary".to_owned(), body(length), target];
                let arguments = written.map(str::to_owned);
                let came = curl(&[&[version.to_owned()][..], &arguments, &sent].concat()).await;
                if came != format!("{expected} 0") {
                    wrong.push(format!("curl {version} {name} {at} {length}: {came}"));
                }
            }
            let stream = path("stream").expect("each has one");
            let came = curl(&[version.to_owned(), "-N".to_owned(), stream]).await;
            if came.matches("data:").count() != 4 {
                wrong.push(format!("curl {version} {name} stream: {came}"));
            }
        }
    }
    wrong
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_client_reads_what_every_app_sends() {
    let names = APPS.into_iter().flat_map(|name| [name, name]);
    let mut running: Vec<App> = join_all(names.map(FrameworkApp::start)).await;
    let pages = LanguagesApp::start("").await;
    let older = if scope::is_all() {
        Some(OldNextApp::start_15().await)
    } else {
        None
    };
    let mut next = vec![("next", NextApp::shared().await), ("pages", &pages)];
    next.extend(older.as_ref().map(|app| ("next15", app)));
    let mut clients = CLIENTS.to_vec();
    if scope::is_all() {
        clients.extend(MORE_CLIENTS);
    }
    let mut sites: Vec<_> = APPS
        .into_iter()
        .zip(running.chunks(2).map(backends))
        .collect();
    for (name, app) in &next {
        sites.push((name, format!("'{}'", app.address())));
    }
    let gateway = front(&sites).await;
    let base = format!("https://{}", gateway.address());
    // Time of a request in milliseconds: peers send one after the other while instances stop.
    let busy = if scope::is_all() { 30 } else { 60 };
    let mut apps: Vec<Value> = APPS
        .iter()
        .map(|name| {
            json!({
                "name": name, "at": format!("/{name}"), "upload": format!("/{name}/upload"),
                "download": format!("/{name}/download/BYTES"), "stream": format!("/{name}/stream"),
                "ws": format!("/{name}/ws"), "wait": format!("/{name}/wait/{busy}"),
            })
        })
        .collect();
    apps.extend(next.iter().map(|(name, _)| {
        let api = format!("/{name}/api");
        json!({
            "name": name, "at": format!("/{name}"), "upload": format!("{api}/upload"),
            "stream": format!("{api}/sse?events=4"), "wait": format!("{api}/slow?ms={busy}"),
        })
    }));
    for (name, _) in &sites {
        // The only request that the limit lets pass.
        let limited = curl(&[format!("{base}/{name}/limited")]).await;
        assert!(!limited.contains("429"), "{limited}");
    }
    let plan = json!({ "base": base, "apps": apps, "lengths": lengths(), "refusals": REFUSALS });
    let folder = tempfile::tempdir().expect("a folder");
    let mut in_browser = plan.clone();
    for app in in_browser["apps"].as_array_mut().expect("a list") {
        if let Some(path) = app["ws"].as_str() {
            app["ws"] = format!("{}{path}", base.replace("https", "wss")).into();
        }
    }
    in_browser["page"] = format!("{base}/page").into();
    let mut peers = Vec::new();
    for &client in &clients {
        peers.push(Peer::start(client, &plan).await);
    }
    let by_peers = async {
        let mut wrong = Vec::new();
        for peer in &mut peers {
            wrong.extend(peer.wrong().await);
        }
        wrong
    };
    let by_curl = curls(&plan, folder.path());
    let (mut wrong, by_curl, in_browser) =
        tokio::join!(by_peers, by_curl, look("matrix.js", &in_browser));
    wrong.extend(by_curl);
    assert_eq!(in_browser.passed.len(), sites.len());
    wrong.extend(in_browser.failed.iter().map(describe));
    // All peers ask without a pause: an instance of each app stops.
    for peer in &mut peers {
        wrong.extend(peer.ask().await);
    }
    for app in running.iter().step_by(2) {
        app.terminate();
    }
    wait_for("all have ended", SOON, async || {
        let mut stopping = running.iter_mut().step_by(2);
        stopping.all(App::has_ended).then_some(())
    })
    .await;
    for peer in peers {
        wrong.extend(peer.end().await);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for flood in FLOODS {
        assert_eq!(gateway.refused(flood).await, 0, "{flood}");
    }
    // The control: a client that expects what does not come says so.
    let mut expecting = plan;
    expecting["lengths"] = json!([]);
    expecting["refusals"] = json!([["/denied", 10, 404]]);
    for client in clients {
        let mut peer = Peer::start(client, &expecting).await;
        let wrong = peer.wrong().await;
        assert_eq!(wrong.len(), sites.len(), "{wrong:#?}");
    }
}

/// Starts `sessions.js`, and returns its port.
async fn sessions(folder: &Path) -> (Child, u16) {
    let mut child = peer_program("serve", &folder.display().to_string())
        .spawn()
        .expect("node is installed");
    let output = child.stdout.take().expect("it is a pipe");
    let line = BufReader::new(output).lines().next_line().await;
    let port = line.expect("it can be read").expect("it prints its port");
    (child, port.parse().expect("a number"))
}

fn peer_program(what: &str, to: &str) -> Command {
    let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/apps/peers");
    let mut command = Command::new("node");
    command
        .args([&*peers.join("sessions.js").to_string_lossy(), what, to])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Socket.IO and tus need several requests for one thing, which two instances share.
#[tokio::test]
async fn sessions_of_several_requests_reach_an_instance_that_knows_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_one, first) = sessions(folder.path()).await;
    let (_two, second) = sessions(folder.path()).await;
    for (sticky, works) in [(", sticky: { cookie: instance }", true), ("", false)] {
        let gateway = Gateway::start(&format!(
            "
defaults: {{ csrf: false }}
upstreams:
  app: {{ backends: ['127.0.0.1:{first}', '127.0.0.1:{second}'], balance: round_robin, health: false{sticky} }}
routes:
- {{ match: {{ path: /socket.io/* }}, upstream: app, websocket: true }}
- {{ match: {{ path: /files }}, upstream: app }}
- {{ match: {{ path: /files/* }}, upstream: app }}
"
        ))
        .await;
        let url = format!("http://{}", gateway.address());
        let output = timeout(PATIENCE, peer_program("ask", &url).output()).await;
        let output = output.expect("it ends").expect("node is installed");
        let wrong: Vec<String> = serde_json::from_slice(&output.stdout).expect("it is a list");
        let (sockets, files): (Vec<_>, Vec<_>) =
            wrong.iter().partition(|line| line.starts_with("socket.io"));
        assert!(files.is_empty(), "{files:?}");
        // Without `sticky`, the next request goes to the other instance: the control.
        assert_eq!(sockets.is_empty(), works, "{sockets:?}");
    }
}
