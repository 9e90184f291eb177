//! Hundreds of clients that request 7 MB each and hardly read: the gateway's memory for each of
//! them, on every path of a response.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustls::ClientConfig;
use tokio::{io::AsyncWriteExt, net::TcpSocket};

use crate::{
    Report,
    support::{
        certificates::Ca,
        client::{Connection, get},
        gateway::Gateway,
        http2,
        origins::BigOrigin,
        wait::pass,
    },
};

const CLIENTS: usize = 300;
/// More than the kernel buffers for a connection, and not too large to be stored.
const BYTES: usize = 7_000_000;
const KIB: u64 = 1024;
/// Kernel buffer of a client, which does not count here.
const RECEIVED: u32 = 64 << 10;
const SITE: &str = "slow.test";

/// Paths of a response, and the maximum memory of a client on each in KiB.
const WAYS: [(&str, &str, Client, u64); 7] = [
    ("a hit", "/kept?bytes=7000000", Client::Plain, 32),
    ("a hit by TLS", "/kept?bytes=7000000", Client::Tls, 96),
    ("a hit by HTTP/2", "/kept?bytes=7000000", Client::Http2, 128),
    ("proxied", "/big?bytes=7000000", Client::Plain, 128),
    (
        "proxied, in chunks",
        "/big?bytes=7000000&chunked=1",
        Client::Plain,
        128,
    ),
    ("proxied by TLS", "/big?bytes=7000000", Client::Tls, 128),
    (
        "proxied by HTTP/2",
        "/big?bytes=7000000",
        Client::Http2,
        128,
    ),
];

#[derive(Clone, Copy, Debug)]
enum Client {
    Plain,
    Tls,
    Http2,
}

/// Open connection with an unread response.
#[expect(dead_code, reason = "held, and never looked at")]
enum Held {
    Plain(tokio::net::TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<tokio::net::TcpStream>>),
}

pub(crate) async fn run(report: &mut Report) {
    let origin = BigOrigin::start().await;
    let ca = Ca::new();
    for (name, target, client, most) in WAYS {
        let gateway = Gateway::start_in(
            &format!(
                "
listeners:
  - {{ address: \"127.0.0.1:0\", name: web, http2: {{ cleartext: true }}, limits: {{ connections_per_ip: 1000, send_timeout: 60s }} }}
  - {{ address: \"127.0.0.1:0\", name: tls, tls: {{ certificates: {{ cert: site.pem, key: site.key }} }}, limits: {{ connections_per_ip: 1000, send_timeout: 60s }} }}
upstreams: {{ app: {{ backends: [\"{}\"], health: false }} }}
routes:
  - {{ match: {{ path: /kept }}, upstream: app, cache: {{ ttl: 1h, force: true }} }}
  - {{ match: {{ path: /* }}, upstream: app }}
",
                origin.address()
            ),
            |folder| ca.site(&[SITE]).write(folder, "site"),
        )
        .await;
        let trust = Arc::new(ca.trust());
        // The response is stored at each place, and each thread has been busy once.
        for turn in 0..20 {
            let (status, length) = read_response(&gateway, client, target, &trust).await;
            assert_eq!(length, BYTES);
            let is_hit = status.as_deref() == Some("HIT");
            assert_eq!(is_hit, turn > 0 && target.starts_with("/kept"), "{name}");
        }
        let before = gateway.rss();
        let mut held = Vec::new();
        for _ in 0..CLIENTS {
            held.push(begin(&gateway, client, target, &trust).await);
        }
        pass(Duration::from_secs(2)).await;
        let each = gateway.rss().saturating_sub(before) / CLIENTS as u64 / KIB;
        report.check(
            each <= most,
            format!("{name}: {each} KiB for each of {CLIENTS} clients (at most {most})"),
        );
        drop(held);
    }
}

/// Returns `X-Cache-Status` for such a client, and the length of the body that it reads.
async fn read_response(
    gateway: &Gateway,
    client: Client,
    target: &str,
    trust: &Arc<ClientConfig>,
) -> (Option<String>, usize) {
    const STATUS: &str = "x-cache-status";
    let response = match client {
        Client::Plain => {
            let stream = connect(gateway.address()).await;
            let mut connection = Connection::over(stream, SITE.to_owned());
            connection.send(&get(target)).await
        }
        Client::Tls => {
            let to = gateway.listener("tls").parse().expect("an address");
            let connection = Connection::open_tls(to, SITE, trust).await;
            connection.expect("it listens").send(&get(target)).await
        }
        Client::Http2 => {
            let client = http2::Client::open(gateway.address()).await;
            let response = client.get(target).await;
            let status = response.header(STATUS).map(str::to_owned);
            return (status, response.body.len());
        }
    };
    let response = response.expect("it responds");
    let status = response.header(STATUS).map(str::to_owned);
    (status, response.body.len())
}

async fn begin(gateway: &Gateway, client: Client, target: &str, trust: &Arc<ClientConfig>) -> Held {
    const WHY: &str = "a client that does not read is what is measured";
    match client {
        Client::Plain => {
            let stream = connect(gateway.address()).await;
            let mut connection = Connection::over(stream, SITE.to_owned());
            let headers = connection.start(&get(target)).await.expect("it responds");
            assert_way(target, headers.header("x-cache-status"));
            Held::Plain(connection.leave(WHY))
        }
        Client::Tls => {
            let to = gateway.listener("tls").parse().expect("an address");
            let stream = connect(to).await;
            let name = SITE.try_into().expect("a name");
            let stream = tokio_rustls::TlsConnector::from(Arc::clone(trust))
                .connect(name, stream)
                .await
                .expect("the certificate holds");
            let mut connection = Connection::over(stream, SITE.to_owned());
            let headers = connection.start(&get(target)).await.expect("it responds");
            assert_way(target, headers.header("x-cache-status"));
            Held::Tls(Box::new(connection.leave(WHY)))
        }
        Client::Http2 => {
            // The largest possible windows, and no reads: hand-written frames.
            let mut stream = connect(gateway.address()).await;
            let room: u32 = 16 << 20;
            let window = [&[0, 4][..], &room.to_be_bytes()].concat();
            let begin = [
                http2::PREFACE.to_vec(),
                http2::frame(http2::SETTINGS, 0, 0, &window),
                http2::frame(http2::WINDOW_UPDATE, 0, 0, &room.to_be_bytes()),
                http2::frame(
                    http2::HEADERS,
                    http2::END_HEADERS | http2::END_STREAM,
                    1,
                    &http2::block("GET", target),
                ),
            ];
            let sent = stream.write_all(&begin.concat()).await;
            sent.expect("it takes it");
            Held::Plain(stream)
        }
    }
}

#[track_caller]
fn assert_way(target: &str, status: Option<&str>) {
    let expected = target.starts_with("/kept").then_some("HIT");
    assert_eq!(status.filter(|status| *status == "HIT"), expected);
}

async fn connect(to: SocketAddr) -> tokio::net::TcpStream {
    let socket = TcpSocket::new_v4().expect("sockets are to be had");
    socket
        .set_recv_buffer_size(RECEIVED)
        .expect("an option of any socket");
    socket.connect(to).await.expect("it listens")
}
