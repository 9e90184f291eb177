//! The handshake of a WebSocket: a backend gets the bytes that RFC 6455 shows without body framing,
//! and a client gets the tunnel that it requested, or an HTTP response.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests: what goes wrong here fails the test, and says so"
)]

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use parking_lot::Mutex;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    process::Command,
    time::timeout,
};

use crate::support::{
    certificates::{Ca, Issued},
    client::{Request, find, get},
    gateway::Gateway,
    http2,
    origins::{EchoOrigin, ScriptedOrigin},
    seed,
    server::{Server, bridge},
};

const PATIENCE: Duration = Duration::from_secs(10);
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\n";

/// RFC 6455, 4.2.2.
fn accept(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

/// Request with which every WebSocket library begins.
fn handshake() -> Request {
    get("/ws")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", KEY)
}

async fn front(backend: SocketAddr) -> Gateway {
    front_with(&format!("{backend}"), "").await
}

/// Starts a gateway; `more` configures the connection to the backend.
async fn front_with(backend: &str, more: &str) -> Gateway {
    Gateway::start(&format!(
        "
listeners: [{{ address: \"127.0.0.1:0\", name: web, http2: {{ cleartext: true }} }}]
upstreams: {{ app: {{ backends: [\"{backend}\"], health: false, {more} }} }}
routes:
  - match: {{ path: /ws }}
    upstream: app
    websocket: true
  - match: {{ path: /* }}
    upstream: app
"
    ))
    .await
}

/// Origin that writes `response` before or after it has read a request head, and then echoes. It
/// records the heads, and the bytes that arrived with them.
struct RawOrigin {
    server: Server,
    script: Arc<Mutex<Script>>,
    heads: Arc<Mutex<Vec<Vec<u8>>>>,
}

#[derive(Clone, Debug, Default)]
struct Script {
    response: Vec<u8>,
    is_hasty: bool,
    /// Number of pieces in which `response` is written.
    pieces: usize,
}

impl RawOrigin {
    async fn start() -> Self {
        Self::listen(async |stream| Ok(stream)).await
    }

    /// Starts the origin with TLS.
    async fn start_secure(identity: &Issued) -> Self {
        let acceptor = identity.acceptor(&[], None);
        Self::listen(move |stream| acceptor.accept(stream)).await
    }

    async fn listen<S, F>(enter: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + Unpin,
        F: Future<Output = io::Result<S>> + Send + 'static,
    {
        let script = Arc::<Mutex<Script>>::default();
        let heads = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let (own, all) = (Arc::clone(&script), Arc::clone(&heads));
        let server = Server::start(move |stream| {
            let (entered, script, heads) = (enter(stream), own.lock().clone(), Arc::clone(&all));
            async move { serve(entered.await?, script, heads).await }
        })
        .await;
        Self {
            server,
            script,
            heads,
        }
    }

    fn set_script(&self, script: Script) {
        *self.script.lock() = script;
    }

    /// Returns the request head since the last call, in lower case.
    fn head(&self) -> String {
        let mut heads = self.heads.lock();
        assert_eq!(heads.len(), 1, "one request");
        let head = heads.pop().expect("it is there");
        String::from_utf8(head).expect("it is text").to_lowercase()
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    script: Script,
    heads: Arc<Mutex<Vec<Vec<u8>>>>,
) -> io::Result<()> {
    if script.is_hasty {
        write(&mut stream, &script).await?;
    }
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    heads.lock().push(head);
    if !script.is_hasty {
        write(&mut stream, &script).await?;
    }
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..count]).await?;
        stream.flush().await?;
    }
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), script: &Script) -> io::Result<()> {
    let size = script.response.len().div_ceil(script.pieces.max(1)).max(1);
    for piece in script.response.chunks(size) {
        stream.write_all(piece).await?;
        stream.flush().await?;
        tokio::task::yield_now().await;
    }
    Ok(())
}

fn cases(variable: &str, usual: usize) -> usize {
    std::env::var(variable).map_or(usual, |count| count.parse().expect("a number of cases"))
}

/// Returns the header lines of a head in lower case, in order.
fn fields(head: &str) -> Vec<&str> {
    head.trim_end().split("\r\n").skip(1).collect()
}

/// Whatever a client's handshake looks like and however soon its backend responds: the backend gets
/// a GET that requests a WebSocket without body framing, and then exactly the bytes that the client
/// sends; the client gets the backend's bytes behind one 101.
#[tokio::test]
async fn a_backend_gets_a_plain_handshake_and_then_the_bytes_of_the_client() {
    let origin = RawOrigin::start().await;
    let gateway = front(origin.server.address()).await;
    exchanges(&gateway, &origin, cases("EDGEWAY_HANDSHAKES", 150), true).await;
}

#[tokio::test]
async fn a_backend_behind_tls_or_a_unix_socket_gets_a_plain_handshake_too() {
    let folder = tempfile::tempdir().expect("a folder for the test can be made");
    let ca = Ca::new();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, ca.pem()).expect("the folder is ours");
    let secure = RawOrigin::start_secure(&ca.site(&["api.test"])).await;
    let tls = format!("tls: {{ name: api.test, ca: {} }}", ca_file.display());
    let gateway = front_with(&secure.server.address().to_string(), &tls).await;
    // Over TLS, bytes before the request cannot be distinguished from the rest of the TLS
    // handshake.
    exchanges(&gateway, &secure, cases("EDGEWAY_HANDSHAKES", 40), false).await;

    let path = folder.path().join("socket");
    let unix = RawOrigin::start().await;
    let _bridge = bridge(&path, unix.server.address());
    let gateway = front_with(&format!("unix:{}", path.display()), "").await;
    exchanges(&gateway, &unix, cases("EDGEWAY_HANDSHAKES", 40), true).await;
}

#[allow(
    clippy::too_many_lines,
    reason = "one exchange, from what is drawn to what came of it"
)]
async fn exchanges(gateway: &Gateway, origin: &RawOrigin, cases: usize, is_hasty_too: bool) {
    let seed = seed::drawn();
    let mut random = fastrand::Rng::with_seed(seed);
    for case in 0..cases {
        let key = STANDARD.encode(std::array::from_fn::<u8, 16, _>(|_| random.u8(..)));
        let first: Vec<u8> = (0..random.usize(..3) * random.usize(..5000))
            .map(|_| random.u8(..))
            .collect();
        let response = format!(
            "{SWITCH}{}\r\n{}\r\nSec-WebSocket-Accept: {}\r\n{}\r\n",
            random
                .choice(["Connection: Upgrade", "connection: keep-alive, upgrade"])
                .expect("some"),
            random
                .choice(["Upgrade: websocket", "UPGRADE: WebSocket"])
                .expect("some"),
            accept(&key),
            random
                .choice([
                    "",
                    "Keep-Alive: timeout=5\r\n",
                    "Sec-WebSocket-Protocol: chat\r\n"
                ])
                .expect("some"),
        );
        origin.set_script(Script {
            response: [response.as_bytes(), &first].concat(),
            is_hasty: is_hasty_too && random.bool(),
            pieces: random.usize(1..4),
        });
        let mut lines = vec![
            "Host: shop.test".to_owned(),
            (*random
                .choice(["Connection: Upgrade", "connection: keep-alive, Upgrade"])
                .expect("some"))
            .to_owned(),
            (*random
                .choice([
                    "Upgrade: websocket",
                    "upgrade: WebSocket",
                    "Upgrade: h2c, websocket",
                ])
                .expect("some"))
            .to_owned(),
            "Sec-WebSocket-Version: 13".to_owned(),
            format!("Sec-WebSocket-Key: {key}"),
        ];
        for more in [
            "Content-Length: 0",
            "Origin: http://shop.test",
            "Keep-Alive: 5",
            "Sec-WebSocket-Protocol: chat",
        ] {
            if random.u8(..4) == 0 {
                lines.push(more.to_owned());
            }
        }
        random.shuffle(&mut lines);
        let sent: Vec<u8> = (0..random.usize(1..3) * random.usize(1..30_000))
            .map(|_| random.u8(..))
            .collect();
        // Bytes that arrive with the handshake wait for the tunnel.
        let early = if random.bool() {
            random.usize(..=sent.len())
        } else {
            0
        };
        let head = format!("GET /ws?{case} HTTP/1.1\r\n{}\r\n\r\n", lines.join("\r\n"));
        let context = format!("seed {seed}, case {case}: {lines:?}");

        let mut client = TcpStream::connect(gateway.address())
            .await
            .expect("it listens");
        client
            .write_all(&[head.as_bytes(), &sent[..early]].concat())
            .await
            .expect("it takes it");
        let (mut read, mut write) = client.split();
        let expected = [&first[..], &sent].concat();
        let exchange = async {
            let mut seen = Vec::new();
            let mut body = None;
            while body.is_none_or(|body| seen.len() < body + expected.len()) {
                let more = read.read_buf(&mut seen).await.expect("it is open");
                assert!(
                    more > 0,
                    "{context}: it ended after {}",
                    seen.escape_ascii()
                );
                if body.is_none() {
                    body = find(&seen, b"\r\n\r\n").map(|end| end + 4);
                }
            }
            let body = body.expect("the loop ends behind it");
            (
                String::from_utf8_lossy(&seen[..body]).to_lowercase(),
                seen[body..].to_vec(),
            )
        };
        let remaining = async { write.write_all(&sent[early..]).await.expect("it takes it") };
        let both = timeout(PATIENCE, async { tokio::join!(exchange, remaining) }).await;
        let ((reply, echoed), ()) = both.unwrap_or_else(|_| panic!("{context}: it hangs"));

        let asked = origin.head();
        assert!(
            asked.starts_with(&format!("get /ws?{case} http/1.1\r\n")),
            "{context}: {asked}"
        );
        let of = |head: &str, name: &str| -> Vec<String> {
            let found = fields(head)
                .into_iter()
                .filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            found.map(str::to_owned).collect()
        };
        assert_eq!(of(&asked, "connection"), ["upgrade"], "{context}");
        assert_eq!(of(&asked, "upgrade"), ["websocket"], "{context}");
        assert_eq!(
            of(&asked, "sec-websocket-key"),
            [key.to_lowercase()],
            "{context}"
        );
        for name in ["content-length", "transfer-encoding", "keep-alive"] {
            assert_eq!(of(&asked, name), [""; 0], "{context}");
        }
        assert!(reply.starts_with("http/1.1 101 "), "{context}: {reply}");
        assert_eq!(of(&reply, "connection"), ["upgrade"], "{context}");
        assert_eq!(of(&reply, "upgrade"), ["websocket"], "{context}");
        for name in ["keep-alive", "transfer-encoding", "content-length"] {
            assert_eq!(of(&reply, name), [""; 0], "{context}");
        }
        assert!(echoed == expected, "{context}: other bytes than were sent");
    }
}

#[tokio::test]
async fn malformed_handshakes_are_refused_at_the_edge() {
    let origin = RawOrigin::start().await;
    let gateway = front(origin.server.address()).await;
    let with = |change: &[(&str, Option<&str>)]| {
        let mut request = Request::new("GET", "/ws");
        for (name, value) in [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", KEY),
        ] {
            let changed = change.iter().find(|(changed, _)| *changed == name);
            if let Some(value) = changed.map_or(Some(value), |(_, value)| *value) {
                request = request.header(name, value);
            }
        }
        request
    };
    let version = "sec-websocket-version";
    let key = "sec-websocket-key";
    let requests = [
        (426, "websocket_version", with(&[(version, None)])),
        (426, "websocket_version", with(&[(version, Some("8"))])),
        (400, "websocket_handshake", with(&[(key, None)])),
        (400, "websocket_handshake", with(&[(key, Some("c2hvcnQ="))])),
        (
            400,
            "websocket_handshake",
            with(&[(key, Some("dGhlIHNhbXBsZSBub25jZQ=="))]).header(key, KEY),
        ),
        (400, "websocket_handshake", handshake().body("body")),
        (400, "websocket_handshake", handshake().chunks(["body"])),
    ];
    let count = requests.len();
    for (status, reason, request) in requests {
        let response = gateway.send(&request).await;
        assert_eq!(response.status(), status, "{reason}: {request:?}");
        let supported = response.header(version);
        assert_eq!(supported, (status == 426).then_some("13"), "{request:?}");
    }
    let post = "POST /ws HTTP/1.1\r\nhost: a.test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut connection = gateway.connect().await;
    connection.write(post).await.unwrap();
    let headers = connection.read_headers().await.unwrap();
    assert_eq!(connection.finish(headers).await.unwrap().status(), 400);
    assert!(
        origin.heads.lock().is_empty(),
        "none of them reached the backend"
    );
    let log = gateway.log_lines(count + 1).await;
    let of = |reason: &str| log.iter().filter(|line| line["reason"] == reason).count();
    assert_eq!(
        (of("websocket_version"), of("websocket_handshake")),
        (2, count - 1)
    );
}

/// A request with `Upgrade: websocket`, and no `Connection: Upgrade` with it.
#[tokio::test]
async fn a_protocol_that_the_connection_does_not_go_with_is_a_plain_request() {
    let origin = EchoOrigin::start().await;
    let gateway = front(origin.address()).await;
    for request in [
        get("/ws").header("upgrade", "websocket"),
        get("/ws")
            .header("upgrade", "websocket")
            .header("connection", "keep-alive"),
        get("/ws")
            .header("upgrade", "h2c")
            .header("connection", "Upgrade, HTTP2-Settings")
            .header("http2-settings", "AAMAAABk"),
        get("/page")
            .header("upgrade", "TLS/1.0, foo")
            .header("connection", "Upgrade"),
        Request::new("POST", "/ws")
            .header("upgrade", "websocket")
            .body("four"),
    ] {
        let response = gateway.send(&request).await;
        assert_eq!(response.status(), 200, "{request:?}");
        let seen = response.text().to_lowercase();
        assert!(
            !seen.contains("\"upgrade\"") && !seen.contains("http2-settings"),
            "{seen}"
        );
    }
    // curl sends the `h2c` upgrade, which HTTP/2 no longer has (RFC 9113, 3.1).
    let url = format!("http://{}/page", gateway.address());
    let curl = Command::new("curl")
        .args([
            "-sS",
            "--http2",
            "-w",
            "%{http_version} %{http_code}",
            "-o",
            "/dev/null",
            &url,
        ])
        .output();
    let curl = curl.await.expect("curl is installed");
    assert_eq!(String::from_utf8_lossy(&curl.stdout), "1.1 200", "{curl:?}");
    let log = gateway.log_lines(6).await;
    assert!(log.iter().all(|line| line["status"] == 200), "{log:#?}");
}

/// A 101 that the client did not request is 502 at once, over any protocol.
#[tokio::test]
async fn a_backend_cannot_switch_to_an_unrequested_protocol() {
    let right = format!(
        "Upgrade: websocket\r\nSec-WebSocket-Accept: {}\r\n",
        accept(KEY)
    );
    let head = |lines: &str| format!("{SWITCH}{lines}\r\n");
    let plain = head(&format!("Connection: Upgrade\r\n{right}"));
    let responses = [
        ("/plain", plain.as_str()),
        ("/bare", &head("")),
        (
            "/ws",
            &head(&format!(
                "Connection: Upgrade\r\nContent-Length: 5\r\n{right}"
            )),
        ),
    ];
    let origin = ScriptedOrigin::start(&responses).await;
    let gateway = front(origin.address()).await;
    let client = http2::Client::open(gateway.address()).await;
    for path in ["/plain", "/bare", "/ws"] {
        for asked in [
            get(path),
            get(path).header("upgrade", "websocket"),
            get(path)
                .header("connection", "upgrade")
                .header("upgrade", "h2c"),
        ] {
            let began = tokio::time::Instant::now();
            assert_eq!(gateway.send(&asked).await.status(), 502, "{asked:?}");
            assert!(began.elapsed() < PATIENCE, "{asked:?}");
        }
        let began = tokio::time::Instant::now();
        assert_eq!(client.get(path).await.status(), 502, "{path} by HTTP/2");
        assert!(began.elapsed() < PATIENCE, "{path}");
    }
    let log = gateway.log_lines(12).await;
    assert!(
        log.iter()
            .all(|line| line["reason"] == "upstream_bad_answer"),
        "{log:#?}"
    );
    // Such a response does not mean that the backend is down.
    assert_eq!(gateway.count("edgeway_upstream_ejections_total").await, 0);
}

#[tokio::test]
async fn a_refusal_of_the_backend_is_forwarded_and_the_connection_continues() {
    let refuse = "HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno";
    let origin = RawOrigin::start().await;
    origin.set_script(Script {
        response: refuse.into(),
        is_hasty: true,
        pieces: 1,
    });
    let gateway = front(origin.server.address()).await;
    let mut client = gateway.connect().await;
    for _ in 0..10 {
        let response = client.send(&handshake()).await.unwrap();
        assert_eq!((response.status(), response.text().as_str()), (403, "no"));
    }
}

#[tokio::test]
async fn a_101_has_to_match_the_handshake() {
    let origin = RawOrigin::start().await;
    let gateway = front(origin.server.address()).await;
    let accept = format!("Sec-WebSocket-Accept: {}\r\n", accept(KEY));
    let other = format!(
        "Sec-WebSocket-Accept: {}\r\n",
        self::accept("AAAAAAAAAAAAAAAAAAAAAA==")
    );
    let (connection, upgrade) = ("Connection: Upgrade\r\n", "Upgrade: websocket\r\n");
    for (lines, status) in [
        ([connection, upgrade, &accept], 101),
        ([connection, upgrade, ""], 502),
        ([connection, upgrade, &other], 502),
        ([connection, "", &accept], 502),
        ([connection, "Upgrade: h2c\r\n", &accept], 502),
        (["", upgrade, &accept], 502),
    ] {
        for is_hasty in [false, true] {
            origin.set_script(Script {
                response: format!("{SWITCH}{}\r\n", lines.concat()).into_bytes(),
                is_hasty,
                pieces: 1,
            });
            let mut client = gateway.connect().await;
            let began = tokio::time::Instant::now();
            let headers = client.start(&handshake()).await.expect("a response");
            assert_eq!(headers.status, status, "{lines:?}");
            if status != 101 {
                client.finish(headers).await.expect("its page");
            }
            assert!(began.elapsed() < PATIENCE, "{lines:?}");
        }
    }
}
