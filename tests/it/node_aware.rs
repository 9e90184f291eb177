//! Node apps that report their load with the module `edgeway-node`.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
};

use crate::support::{
    client::{self, Request, get},
    fleet,
    gateway::Gateway,
    load::{Tally, paced},
    ports::free_port,
    wait::{pass, until, wait_for},
};

/// An app whose event loop can be blocked for a while. It names itself in `x-instance`.
const APP: &str = r"
const http = require('node:http');
const block = (ms) => { const end = Date.now() + ms; while (Date.now() < end); };
http.createServer((request, response) => {
  const url = new URL(request.url, 'http://app');
  const ms = Number(url.searchParams.get('ms') ?? 0);
  if (url.pathname === '/cookies') {
    // A list of headers: Node itself would keep one cookie if another header was set before.
    return response.writeHead(200, ['set-cookie', 'a=1', 'set-cookie', 'b=2']).end('ok');
  }
  response.setHeader('x-instance', process.env.PORT);
  if (url.pathname === '/block') setTimeout(block, 10, ms);
  if (url.pathname === '/says') response.setHeader('x-edgeway-node', url.searchParams.get('text'));
  response.end('ok');
}).listen(process.env.PORT, '127.0.0.1');
";

const LONG: Duration = Duration::from_secs(20);

/// Process of an app; killed when dropped.
struct NodeApp {
    port: u16,
    child: Child,
    _dir: TempDir,
}

impl NodeApp {
    /// Starts the app, with the module loaded by `option` if that is given.
    async fn start(option: Option<&str>) -> Self {
        let mut started = None;
        // Another process on this machine may take the port before the app binds it.
        for _ in 0..5 {
            started = Self::try_start(option).await;
            if started.is_some() {
                break;
            }
        }
        started.expect("the app starts")
    }

    async fn try_start(option: Option<&str>) -> Option<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let dir = tempfile::tempdir().expect("a folder for the test can be made");
        let file = dir.path().join("app.js");
        fs::write(&file, APP).expect("the folder takes files");
        let port = free_port();
        let mut command = Command::new("node");
        let with_parent = root.join("tests/apps/end-with-parent.js");
        command.arg("--import").arg(with_parent);
        if let Some(option) = option {
            let module = root.join("packaging/npm/edgeway-node/index.js");
            command.arg(option).arg(module);
        }
        let child = command
            .arg(&file)
            .env("PORT", port.to_string())
            .stdin(Stdio::piped())
            .spawn();
        let mut app = Self {
            port,
            child: child.expect("node is installed"),
            _dir: dir,
        };
        let address = app.address();
        let mut is_up = async || {
            if app.child.try_wait().is_ok_and(|ended| ended.is_some()) {
                return Some(false);
            }
            let response = client::send(address, &get("/")).await.ok()?;
            let name = port.to_string();
            (response.header("x-instance") == Some(name.as_str())).then_some(true)
        };
        let is_up = until(LONG, &mut is_up).await;
        (is_up == Some(true)).then_some(app)
    }

    async fn four() -> Vec<Self> {
        let mut apps = Vec::new();
        for _ in 0..4 {
            apps.push(Self::start(Some("--import")).await);
        }
        apps
    }

    fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Sends a request to the app itself.
    async fn tell(&self, target: &str) {
        let response = client::send(self.address(), &get(target)).await;
        assert_eq!(response.expect("the app responds").status(), 200);
    }
}

impl Drop for NodeApp {
    fn drop(&mut self) {
        // It may have exited by itself.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

async fn front(apps: &[NodeApp], balance: &str) -> Gateway {
    let list: Vec<String> = apps.iter().map(|app| app.address().to_string()).collect();
    let list = list.join("\", \"");
    Gateway::start(&format!(
        "
upstreams:
  web:
    app: node
    balance: {balance}
    backends: [\"{list}\"]
routes:
  - match: {{ path: /* }}
    upstream: web
"
    ))
    .await
}

fn request(_: u64) -> Request {
    get("/")
}

async fn load(gateway: &Gateway, seconds: u64) -> Tally {
    let tally = paced(
        gateway.address(),
        200,
        Duration::from_secs(seconds),
        request,
    )
    .await;
    assert_eq!((tally.errors(), tally.truncated), (0, 0), "{tally:?}");
    tally
}

/// Percentage of the responses that the app sent.
fn share(tally: &Tally, app: &NodeApp) -> u64 {
    tally.served_by(app.port) * 100 / tally.total()
}

/// Blocks the event loop of the first app for some seconds; returns the percentage of the requests
/// that it gets from two seconds after the beginning.
async fn share_of_blocked(gateway: &Gateway, app: &NodeApp) -> u64 {
    app.tell("/block?ms=8000").await;
    let two = Duration::from_secs(2);
    let early = paced(gateway.address(), 200, two, request);
    let (early, tally) = tokio::join!(early, async {
        pass(two).await;
        load(gateway, 2).await
    });
    assert_eq!((early.errors(), early.truncated), (0, 0), "{early:?}");
    share(&tally, app)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocked_event_loop_of_four_loses_its_share_within_two_seconds_and_gets_it_back() {
    let apps = NodeApp::four().await;
    let gateway = front(&apps, "node").await;
    let quiet = load(&gateway, 2).await;
    let before = share(&quiet, &apps[0]);
    assert!(before >= 12, "of four equal ones it served {before} %");
    let during = share_of_blocked(&gateway, &apps[0]).await;
    assert!(during < 5, "{during} % went to the blocked one");
    wait_for("the app has its share again", LONG, async || {
        (share(&load(&gateway, 1).await, &apps[0]) >= 12).then_some(())
    })
    .await;
    // The control: a method that reads no reports.
    let gateway = front(&apps, "round_robin").await;
    let during = share_of_blocked(&gateway, &apps[0]).await;
    assert!(during >= 20, "{during} %");
}

async fn reports(gateway: &Gateway) -> Vec<Value> {
    let backends = fleet::backends(gateway, "web").await;
    backends.into_iter().map(|mut b| b["node"].take()).collect()
}

#[tokio::test]
async fn reports_are_shown_and_reach_no_client() {
    for option in ["--import", "--require"] {
        let silent = NodeApp::start(None).await;
        let apps = [NodeApp::start(Some(option)).await, silent];
        let gateway = front(&apps, "node").await;
        wait_for("the app has reported", LONG, async || {
            let response = gateway.send(&get("/")).await;
            assert_eq!(response.header("x-edgeway-node"), None);
            let cookies = gateway.send(&get("/cookies")).await;
            assert_eq!(cookies.headers.get_all("set-cookie").count(), 2);
            (!reports(&gateway).await[0].is_null()).then_some(())
        })
        .await;
        let shown = reports(&gateway).await;
        assert!(shown[1].is_null(), "{shown:?}");
        let of = |name: &str| shown[0][name].as_f64().expect("a number");
        assert!((0.0..=1.0).contains(&of("utilisation")), "{shown:?}");
        assert!(of("heap_bytes") > 1e6 && of("rss_bytes") > of("heap_bytes"));
        let series =
            |port: u16| format!("edgeway_backend_node_rss_bytes{{backend=\"127.0.0.1:{port}\"}}");
        assert!(gateway.count(&series(apps[0].port)).await > 1 << 20);
        assert_eq!(gateway.count(&series(apps[1].port)).await, 0);
    }
}

#[tokio::test]
async fn an_invalid_report_is_ignored_and_removed() {
    let apps = [NodeApp::start(None).await];
    let gateway = front(&apps, "node").await;
    for text in [
        "1%200",
        "1%201001%200%200%200",
        "2%200%200%200%200",
        "x",
        "%20",
    ] {
        let response = gateway.send(&get(&format!("/says?text={text}"))).await;
        assert_eq!(response.status(), 200, "{text}");
        assert_eq!(response.header("x-edgeway-node"), None, "{text}");
        assert!(reports(&gateway).await[0].is_null(), "{text}");
    }
    // The control: the same way, a valid one.
    let valid = gateway
        .send(&get("/says?text=1%20500%207%204096%208192"))
        .await;
    assert_eq!(valid.header("x-edgeway-node"), None);
    assert_eq!(reports(&gateway).await[0]["rss_bytes"], 8192);
}

/// Sends a request to an app from one of this machine's addresses; returns true if the response has
/// a report.
async fn has_report(app: &NodeApp, from: Ipv4Addr) -> bool {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket
        .bind((from, 0).into())
        .expect("all of 127.0.0.0/8 is this machine");
    let mut stream = socket
        .connect(app.address())
        .await
        .expect("the app listens");
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: app\r\nconnection: close\r\n\r\n")
        .await
        .expect("the app reads");
    let mut response = String::new();
    stream
        .read_to_string(&mut response)
        .await
        .expect("the app responds");
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    response.to_lowercase().contains("\r\nx-edgeway-node: 1 ")
}

/// Invariant: what an app reports to one gateway takes no report from another one.
#[tokio::test]
async fn each_of_two_gateways_gets_its_reports() {
    let app = NodeApp::start(Some("--import")).await;
    let (busy, quiet) = (Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2));
    // The first response to each begins the measurement.
    for from in [busy, quiet] {
        has_report(&app, from).await;
    }
    for round in 0..5 {
        // Between two reports is the time after which the other one gets its next, too.
        for _ in 0..2 {
            wait_for("the busy one has a report", LONG, async || {
                has_report(&app, busy).await.then_some(())
            })
            .await;
        }
        assert!(has_report(&app, quiet).await, "round {round}");
    }
}
