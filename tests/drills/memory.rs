//! Memory of idle connections, of routes, and of configurations that replace one another.

use std::{fs, net::SocketAddr, sync::Arc, time::Duration};

use rustix::process::Signal;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{
    Report,
    support::{
        certificates::Ca,
        client::{Connection, get},
        gateway::Gateway,
        http2,
        origins::{EchoOrigin, SseOrigin, WsOrigin},
        sockets,
        wait::{pass, wait_for},
    },
};

const CONNECTIONS: usize = 1000;
const KIB: u64 = 1024;
/// Number of requests after which none needs memory to be remembered: more than the gateway keeps.
const LAST_REQUESTS: usize = 10_000;
const ON_A_CONNECTION: usize = 500;
const SITE: &str = "idle.test";
/// Kinds of connections, and the maximum memory of an idle one in KiB, after one request.
const KINDS: [(Kind, u64); 6] = [
    (Kind::Plain, 4),
    (Kind::Tls, 14),
    (Kind::Http2, 12),
    (Kind::TlsHttp2, 20),
    (Kind::WebSocket, 14),
    (Kind::Events, 12),
];

/// Debug builds compile ten thousand for minutes.
const ROUTES: usize = if cfg!(debug_assertions) {
    2_000
} else {
    10_000
};
/// Maximum memory of a route that is never requested, with the filters that are on by default.
const ROUTE_KIB: u64 = 8;
const RELOADS: usize = 10;
/// Maximum memory while configurations replace one another, compared with one of them.
const RELOAD_RATIO: f64 = 2.0;

#[derive(Clone, Copy, Debug)]
enum Kind {
    Plain,
    Tls,
    Http2,
    TlsHttp2,
    WebSocket,
    /// An event stream after its first event.
    Events,
}

/// Open connection after its first request.
#[expect(dead_code, reason = "held, and never looked at")]
enum Held {
    Plain(Box<Connection>),
    Tls(Box<Connection<tokio_rustls::client::TlsStream<tokio::net::TcpStream>>>),
    Http2(http2::Client),
    WebSocket(Box<sockets::Socket>),
    Events(TcpStream),
}

pub(crate) async fn run(report: &mut Report) {
    connections(report).await;
    routes(report).await;
}

async fn connections(report: &mut Report) {
    let (echo, ws) = (EchoOrigin::start().await, WsOrigin::start().await);
    let events = SseOrigin::start(Duration::from_mins(10)).await;
    let ca = Ca::new();
    let trust = Arc::new(ca.trust());
    for (kind, most) in KINDS {
        let gateway = Gateway::start_in(
            &format!(
                "
access_log: false
listeners:
  - {{ address: \"127.0.0.1:0\", name: web, http2: {{ cleartext: true }}, limits: {{ connections_per_ip: 5000, idle_timeout: 600s }} }}
  - {{ address: \"127.0.0.1:0\", name: tls, tls: {{ certificates: {{ cert: site.pem, key: site.key }} }}, limits: {{ connections_per_ip: 5000, idle_timeout: 600s }} }}
upstreams:
  app: {{ backends: [\"{}\"], health: false }}
  ws: {{ backends: [\"{}\"], health: false }}
  events: {{ backends: [\"{}\"], health: false }}
routes:
  - {{ match: {{ path: /ws }}, upstream: ws, websocket: true }}
  - {{ match: {{ path: /events }}, upstream: events }}
  - {{ match: {{ path: /* }}, upstream: app }}
",
                echo.address(),
                ws.address(),
                events.address(),
            ),
            |folder| ca.site(&[SITE]).write(folder, "site"),
        )
        .await;
        // What the first ones need stays for all of them.
        for _ in 0..50 {
            drop(open(&gateway, kind, &trust).await);
        }
        // So does the memory of the last requests, once that many have ended.
        for _ in 0..LAST_REQUESTS / ON_A_CONNECTION {
            let mut client = gateway.connect().await;
            for _ in 0..ON_A_CONNECTION {
                client.send(&get("/")).await.expect("it responds");
            }
        }
        let before = gateway.rss();
        let mut held = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            held.push(open(&gateway, kind, &trust).await);
        }
        pass(Duration::from_secs(1)).await;
        let each = gateway.rss().saturating_sub(before) as f64 / (CONNECTIONS as u64 * KIB) as f64;
        report.check(
            each <= most as f64,
            format!("{kind:?}: {each:.1} KiB for an idle connection (at most {most})"),
        );
        drop(held);
    }
}

async fn open(gateway: &Gateway, kind: Kind, trust: &Arc<ClientConfig>) -> Held {
    let request = get("/");
    match kind {
        Kind::Plain => {
            let mut connection = gateway.connect().await;
            let response = connection.send(&request).await.expect("it responds");
            assert_eq!(response.status(), 200);
            Held::Plain(Box::new(connection))
        }
        Kind::Tls => {
            let to: SocketAddr = gateway.listener("tls").parse().expect("an address");
            let connection = Connection::open_tls(to, SITE, trust).await;
            let mut connection = connection.expect("it listens");
            let response = connection.send(&request).await.expect("it responds");
            assert_eq!(response.status(), 200);
            Held::Tls(Box::new(connection))
        }
        Kind::TlsHttp2 => {
            let mut trust = ClientConfig::clone(trust);
            trust.alpn_protocols = vec![b"h2".to_vec()];
            let to = gateway.listener("tls");
            let socket = TcpStream::connect(to).await.expect("it listens");
            let name = SITE.try_into().expect("it is a name");
            let stream = TlsConnector::from(Arc::new(trust)).connect(name, socket);
            let stream = stream.await.expect("the certificate is valid");
            let client = http2::Client::over(stream, &mut h2::client::Builder::new()).await;
            assert_eq!(client.get("/").await.status(), 200);
            Held::Http2(client)
        }
        Kind::Http2 => {
            let client = http2::Client::open(gateway.address()).await;
            assert_eq!(client.get("/").await.status(), 200);
            Held::Http2(client)
        }
        Kind::Events => {
            let mut connection = gateway.connect().await;
            let response = connection.start(&get("/events")).await;
            assert_eq!(response.expect("it responds").status, 200);
            let event = connection.piece().await.expect("it goes on");
            assert!(event.is_some());
            Held::Events(connection.leave("its events have no end"))
        }
        Kind::WebSocket => {
            let mut socket = sockets::open(gateway.address()).await;
            assert!(sockets::echoes(&mut socket, "hello").await);
            Held::WebSocket(Box::new(socket))
        }
    }
}

/// Returns a configuration with many routes; the names depend on `turn`.
fn yaml(routes: usize, turn: usize) -> String {
    let route = |route: usize| {
        let name = format!("r{route}-{turn}");
        format!("  - {{ name: {name}, match: {{ path: /r{route}/* }}, upstream: app }}")
    };
    let list: Vec<String> = (0..routes).map(route).collect();
    let list = list.join("\n");
    format!(
        "
listeners: [{{ address: \"127.0.0.1:0\", name: web }}]
upstreams: {{ app: {{ backends: [\"127.0.0.1:9\"], health: false }} }}
routes:
{list}
  - {{ match: {{ path: /* }}, respond: {{ status: 204 }} }}
"
    )
}

async fn routes(report: &mut Report) {
    let small = Gateway::start(&yaml(1, 0)).await.rss();
    let gateway = Gateway::start(&yaml(ROUTES, 0)).await;
    pass(Duration::from_secs(2)).await;
    let before = gateway.rss();
    let each = before.saturating_sub(small) as f64 / (ROUTES as u64 * KIB) as f64;
    report.check(
        each <= ROUTE_KIB as f64,
        format!("{each:.1} KiB for a route (at most {ROUTE_KIB})"),
    );
    let metrics = gateway.admin_get("/metrics").await.text();
    report.check(
        !metrics.contains("route=\"r7-0\"") && metrics.len() < 200_000,
        format!("{} bytes of metrics for {ROUTES} routes", metrics.len()),
    );

    forget_peak(gateway.pid());
    for turn in 1..=RELOADS {
        gateway.configure(&yaml(ROUTES, turn));
        gateway.signal(Signal::HUP);
        pass(Duration::from_millis(200)).await;
    }
    let series = "edgeway_config_generation";
    let mut last = 0;
    wait_for("the reloads are over", Duration::from_mins(5), async || {
        let generation = gateway.count(series).await;
        let is_over = generation > 1 && generation == last;
        last = generation;
        pass(Duration::from_secs(5)).await;
        is_over.then_some(())
    })
    .await;
    let ratio = peak(gateway.pid()) as f64 / before as f64;
    report.check(
        ratio <= RELOAD_RATIO,
        format!("{last} configurations: memory at most {ratio:.2} × that of one"),
    );
}

/// Makes the greatest resident memory of a process that of now.
fn forget_peak(pid: u32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("the process runs");
}

/// Returns the greatest resident memory of a process in bytes.
fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.expect("a process has a peak") * KIB
}
