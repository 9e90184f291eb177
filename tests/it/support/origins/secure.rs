//! Origin that speaks TLS, and reports what it saw of its client.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::BytesMut;
use rustls::RootCertStore;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::support::{certificates::Issued, client::find, server::Server};

/// Counts of the origin.
#[derive(Debug, Default)]
pub(crate) struct SecureCounts {
    /// Connections with a completed handshake.
    handshakes: AtomicU64,
    /// Handshakes among them that resumed an earlier session.
    resumed: AtomicU64,
    /// Connections that ended before that.
    refused: AtomicU64,
}

impl SecureCounts {
    pub(crate) fn handshakes(&self) -> u64 {
        self.handshakes.load(Ordering::SeqCst)
    }

    pub(crate) fn resumed(&self) -> u64 {
        self.resumed.load(Ordering::SeqCst)
    }

    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::SeqCst)
    }
}

/// Sends a JSON object for each request: `sni`, `alpn`, `tls`, `client` (true if a certificate was
/// presented), `connection` (a number), and the request's `host` and `proto`. `/health` gets `ok`,
/// `/elsewhere` a redirect to its own name.
pub(crate) struct SecureOrigin {
    server: Server,
    counts: Arc<SecureCounts>,
}

impl SecureOrigin {
    pub(crate) async fn start(identity: &Issued) -> Self {
        Self::listen(identity, None, &["h2", "http/1.1"]).await
    }

    /// Requests client certificates that the CAs in `clients` have signed.
    pub(crate) async fn start_with(identity: &Issued, clients: Option<RootCertStore>) -> Self {
        Self::listen(identity, clients, &["h2", "http/1.1"]).await
    }

    /// Offers no ALPN protocols.
    pub(crate) async fn start_http1(identity: &Issued) -> Self {
        Self::listen(identity, None, &[]).await
    }

    async fn listen(identity: &Issued, clients: Option<RootCertStore>, protocols: &[&str]) -> Self {
        let acceptor = identity.acceptor(protocols, clients);
        let counts = Arc::<SecureCounts>::default();
        let counted = Arc::clone(&counts);
        let server = Server::start(move |socket| {
            let (acceptor, counts) = (acceptor.clone(), Arc::clone(&counted));
            async move {
                let Ok(stream) = acceptor.accept(socket).await else {
                    counts.refused.fetch_add(1, Ordering::SeqCst);
                    return;
                };
                let number = counts.handshakes.fetch_add(1, Ordering::SeqCst) + 1;
                let tls = stream.get_ref().1;
                if tls.handshake_kind() == Some(rustls::HandshakeKind::Resumed) {
                    counts.resumed.fetch_add(1, Ordering::SeqCst);
                }
                let seen = json!({
                    "sni": tls.server_name(),
                    "alpn": tls.alpn_protocol().map(String::from_utf8_lossy),
                    "tls": tls.protocol_version().and_then(|v| v.as_str()),
                    "client": tls.peer_certificates().is_some(),
                    "connection": number,
                });
                // The peer may disconnect at any moment.
                drop(response(stream, seen).await);
            }
        });
        Self {
            server: server.await,
            counts,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    pub(crate) fn port(&self) -> u16 {
        self.address().port()
    }

    pub(crate) fn counts(&self) -> &SecureCounts {
        &self.counts
    }
}

async fn response(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    mut seen: serde_json::Value,
) -> std::io::Result<()> {
    let mut input = BytesMut::new();
    loop {
        let end = loop {
            if let Some(end) = find(&input, b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut input).await? == 0 {
                return Ok(());
            }
        };
        let head = String::from_utf8_lossy(&input.split_to(end)).to_ascii_lowercase();
        let header = |name: &str| {
            head.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                .map(str::to_owned)
        };
        seen["host"] = json!(header("host"));
        seen["proto"] = json!(header("x-forwarded-proto"));
        let (status, extra, body) = if head.starts_with("get /health ") {
            ("200 OK", String::new(), "ok".to_owned())
        } else if head.starts_with("get /elsewhere ") {
            let sni = seen["sni"].as_str().unwrap_or_default();
            let port = header("x-test-port").unwrap_or_default();
            let location = format!("location: https://{sni}:{port}/there\r\n");
            ("302 Found", location, String::new())
        } else {
            ("200 OK", String::new(), seen.to_string())
        };
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{extra}content-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        stream.flush().await?;
    }
}
