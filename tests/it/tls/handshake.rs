//! Handshakes: versions, resumed sessions, deadlines, and the sizes of response records.

use std::{
    io,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use parking_lot::Mutex;
use rustix::process::Signal;
use rustls::{HandshakeKind, ProtocolVersion, crypto::CryptoProvider, version};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::Instant,
};
use tokio_rustls::TlsConnector;

use super::{SOON, Site};
use crate::support::{
    certificates::Ca,
    client::{self, Connection, get},
};

const PLAIN: &str = "{ certificates: { cert: a.pem, key: a.key } }";

fn prepare(ca: &Ca, folder: &Path) {
    ca.site(&["a.test"]).write(folder, "a");
}

fn versions(
    site: &Site,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Arc<rustls::ClientConfig> {
    let provider = rustls::crypto::ring::default_provider();
    Arc::new(site.ca.trust_through(provider, versions, None))
}

#[tokio::test]
async fn old_versions_are_refused_where_configured() {
    let strict = Site::start(
        "{ certificates: { cert: a.pem, key: a.key }, min_version: \"1.3\" }",
        prepare,
    )
    .await;
    let old = versions(&strict, &[&version::TLS12]);
    let error = strict.connect("a.test", &old).await.unwrap_err();
    assert!(error.to_string().contains("ProtocolVersion"), "{error}");
    let open = strict.connect("a.test", &strict.trust()).await.unwrap();
    assert_eq!(
        open.tls().protocol_version(),
        Some(ProtocolVersion::TLSv1_3)
    );
    strict.refuses("tls_handshake", 1).await;
    // The control: 1.2 is the default.
    let lax = Site::start(PLAIN, prepare).await;
    let old = versions(&lax, &[&version::TLS12]);
    let open = lax.connect("a.test", &old).await.unwrap();
    assert_eq!(
        open.tls().protocol_version(),
        Some(ProtocolVersion::TLSv1_2)
    );
}

#[tokio::test]
async fn our_order_of_ciphers_counts_unless_the_client_has_no_hardware_for_aes() {
    let site = Site::start(PLAIN, prepare).await;
    let defaults = rustls::crypto::ring::default_provider();
    for (version, offered, expected) in [
        (&version::TLS13, [1, 0, 2], "TLS13_AES_128_GCM_SHA256"),
        (&version::TLS13, [0, 2, 1], "TLS13_AES_128_GCM_SHA256"),
        (&version::TLS13, [2, 0, 1], "TLS13_CHACHA20_POLY1305_SHA256"),
        (
            &version::TLS12,
            [3, 4, 5],
            "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        ),
        (
            &version::TLS12,
            [3, 5, 4],
            "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        ),
        (
            &version::TLS12,
            [5, 3, 4],
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        ),
    ] {
        let provider = CryptoProvider {
            cipher_suites: offered.map(|index| defaults.cipher_suites[index]).to_vec(),
            ..defaults.clone()
        };
        let config = site.ca.trust_through(provider, &[version], None);
        let config = Arc::new(config);
        // A resumed session keeps its cipher.
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut open = site.connect("a.test", &config).await.unwrap();
            let suite = open.tls().negotiated_cipher_suite().unwrap().suite();
            assert_eq!(suite.as_str(), Some(expected), "{offered:?}");
            assert_eq!(open.tls().handshake_kind(), Some(kind), "{offered:?}");
            open.send(&get("/")).await.unwrap();
        }
    }
}

#[tokio::test]
async fn sessions_go_on_in_both_versions() {
    let site = Site::start(PLAIN, prepare).await;
    for version in [&version::TLS12, &version::TLS13] {
        let config = versions(&site, &[version]);
        let mut kinds = Vec::new();
        for _ in 0..4 {
            let mut open = site.connect("a.test", &config).await.unwrap();
            // The ticket of TLS 1.3 arrives with the response.
            assert_eq!(open.send(&get("/")).await.unwrap().status(), 200);
            kinds.push(open.tls().handshake_kind().unwrap());
        }
        let expected = [
            HandshakeKind::Full,
            HandshakeKind::Resumed,
            HandshakeKind::Resumed,
            HandshakeKind::Resumed,
        ];
        assert_eq!(kinds, expected, "{version:?}");
        // The control: a client without stored sessions does a full handshake.
        let forgetful = versions(&site, &[version]);
        let open = site.connect("a.test", &forgetful).await.unwrap();
        assert_eq!(open.tls().handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[tokio::test]
async fn a_handshake_has_a_deadline() {
    let site = Site::start(
        "{ certificates: { cert: a.pem, key: a.key }, handshake_timeout: 300ms }",
        prepare,
    )
    .await;
    // A client that sends nothing, and one that has begun.
    for begun in [&b""[..], &[0x16, 3, 1, 1, 0, 1]] {
        let mut socket = TcpStream::connect(site.gateway.address()).await.unwrap();
        let began = Instant::now();
        socket.write_all(begun).await.unwrap();
        let mut remaining = Vec::new();
        // The connection is closed, or reset if received data was not read.
        drop(socket.read_to_end(&mut remaining).await);
        let took = began.elapsed();
        assert_eq!(remaining, b"");
        assert!(
            took >= Duration::from_millis(250) && took < SOON,
            "{took:?}"
        );
    }
    site.refuses("tls_timeout", 2).await;
    // The control: after a handshake in time the connection stays open.
    let mut open = site.connect("a.test", &site.trust()).await.unwrap();
    crate::support::wait::pass(Duration::from_millis(500)).await;
    assert_eq!(open.send(&get("/")).await.unwrap().status(), 200);
    site.refuses("tls_timeout", 2).await;
}

#[tokio::test]
async fn an_idle_connection_ends_with_a_close_notify() {
    let limited = "{ certificates: { cert: a.pem, key: a.key } }, limits: { idle_timeout: 200ms }";
    for (settings, is_stopped) in [(limited, false), (PLAIN, true)] {
        let site = Site::start(settings, prepare).await;
        let socket = TcpStream::connect(site.gateway.address()).await.unwrap();
        let name = ServerName::try_from("a.test").unwrap();
        let stream = TlsConnector::from(site.trust()).connect(name, socket);
        let mut stream = stream.await.unwrap();
        let request = b"HEAD / HTTP/1.1\r\nhost: a.test\r\n\r\n";
        stream.write_all(request).await.unwrap();
        site.gateway.log_lines(1).await;
        if is_stopped {
            site.gateway.signal(Signal::QUIT);
        }
        // Without it, rustls returns an error.
        stream.read_to_end(&mut Vec::new()).await.unwrap();
    }
}

#[tokio::test]
async fn plain_http_on_a_tls_port_gets_a_400_that_names_https() {
    let site = Site::start(PLAIN, prepare).await;
    let response = client::send(site.gateway.address(), &get("/"))
        .await
        .unwrap();
    assert_eq!(response.status(), 400);
    assert!(response.text().contains("https://"), "{}", response.text());
    assert_eq!(response.header("connection"), Some("close"));
    site.refuses("plain_http", 1).await;
    // A client that is still sending gets all of it too, as from nginx.
    let mut socket = TcpStream::connect(site.gateway.address()).await.unwrap();
    let start = b"POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 1000000\r\n\r\n";
    socket.write_all(start).await.unwrap();
    let mut whole = vec![socket.read_u8().await.unwrap()];
    for _ in 0..10 {
        socket.write_all(&vec![b'x'; 100_000]).await.unwrap();
    }
    socket.shutdown().await.unwrap();
    socket.read_to_end(&mut whole).await.unwrap();
    assert!(whole.ends_with(response.text().as_bytes()), "{whole:?}");
    // The control: bytes that are neither get an alert.
    let mut socket = TcpStream::connect(site.gateway.address()).await.unwrap();
    socket.write_all(&[0; 64]).await.unwrap();
    let mut remaining = Vec::new();
    drop(socket.read_to_end(&mut remaining).await);
    assert_eq!(remaining.first(), Some(&0x15), "{remaining:?}");
    site.refuses("tls_handshake", 1).await;
    site.refuses("plain_http", 2).await;
}

#[tokio::test]
async fn headers_and_body_of_a_response_come_in_one_record() {
    let site = Site::start(PLAIN, prepare).await;
    for version in [&version::TLS12, &version::TLS13] {
        let config = versions(&site, &[version]);
        let socket = TcpStream::connect(site.gateway.address()).await.unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let spy = Spy {
            socket,
            seen: Arc::clone(&seen),
        };
        let name = ServerName::try_from("a.test").unwrap();
        let stream = TlsConnector::from(config).connect(name, spy).await.unwrap();
        let mut open = Connection::over(stream, "a.test".to_owned());
        // Tickets arrive as records of the same type, with the first response at the latest.
        open.send(&get("/")).await.unwrap();
        for _ in 0..3 {
            seen.lock().clear();
            let response = open
                .send(&get("/").header("x-filler", "y".repeat(700)))
                .await;
            assert!(response.unwrap().body.len() > 700);
            assert_eq!(records(&seen.lock()), [APPLICATION_DATA], "{version:?}");
        }
        // The control: a longer response takes more than one record.
        seen.lock().clear();
        let long = ["x-1", "x-2", "x-3"]
            .into_iter()
            .fold(get("/"), |request, name| {
                request.header(name, "y".repeat(7000))
            });
        open.send(&long).await.unwrap();
        assert!(records(&seen.lock()).len() > 1, "{version:?}");
    }
}

const APPLICATION_DATA: u8 = 23;

/// Returns the types of the records in `bytes`, which holds complete records only.
fn records(mut bytes: &[u8]) -> Vec<u8> {
    let mut types = Vec::new();
    while let [kind, _, _, high, low, rest @ ..] = bytes {
        types.push(*kind);
        bytes = &rest[usize::from(u16::from_be_bytes([*high, *low]))..];
    }
    assert_eq!(bytes, b"", "half a record");
    types
}

/// Socket that records what was read from it.
#[derive(Debug)]
struct Spy {
    socket: TcpStream,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Spy {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, buf))?;
        self.seen.lock().extend_from_slice(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Spy {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
