//! The TLS handshake: identifies the kind of client and selects its configuration.

use std::{io, time::Duration};

use rustls::{ServerConnection, server::Acceptor};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::{StartHandshake, server::TlsStream};

use super::{Protocol, Server, TlsFacts, certificates::is_challenge, client};

/// Buffer size that takes a usual `ClientHello` in one read.
const HELLO: usize = 2048;
/// `fatal`, `unrecognized_name` (RFC 6066, 3), as a record of its own.
const UNRECOGNIZED_NAME: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 112];
/// Response to clients that send plain HTTP to a TLS port.
const PLAIN_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
content-type: text/plain; charset=utf-8\r\n\
content-length: 72\r\n\
connection: close\r\n\r\n\
This port speaks HTTPS, the request was plain HTTP: write https:// here\n";

/// Time in which a client of plain HTTP may finish its request.
const LINGER: Duration = Duration::from_secs(1);

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error("the handshake failed: {0}")]
    Handshake(#[from] io::Error),
    #[error("plain HTTP on a TLS port")]
    PlainHttp,
    #[error("no certificate for the requested server name")]
    UnknownName,
    #[error("the client's certificate is invalid or expired")]
    ClientCertificate,
}

impl HandshakeError {
    /// The fixed reason for log and metric.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Handshake(_) | Self::ClientCertificate => "tls_handshake",
            Self::PlainHttp => "plain_http",
            Self::UnknownName => "tls_unknown_name",
        }
    }
}

impl Server {
    /// Performs the handshake with a client. It takes as long as the client does, so the caller
    /// sets the deadline. Returns `None` for a client that leaves without a byte, such as a balancer
    /// that checks the port.
    pub async fn accept<S>(
        &self,
        mut socket: S,
    ) -> Result<Option<(TlsStream<S>, TlsFacts)>, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut acceptor = Acceptor::default();
        // On the heap and not in the future, which lives as long as the connection.
        let mut buffer = Vec::with_capacity(HELLO);
        let mut is_first = true;
        let accepted = loop {
            buffer.clear();
            let count = socket.read_buf(&mut buffer).await;
            if is_first && !matches!(count, Ok(1..)) {
                return Ok(None);
            }
            if count? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            let mut came = &buffer[..];
            // Every HTTP method begins with a capital letter, and no TLS record does.
            if is_first && came[0].is_ascii_uppercase() {
                goodbye(&mut socket, PLAIN_HTTP).await;
                // Unread bytes would reset the connection, and the client might lose the response.
                let mut nowhere = tokio::io::sink();
                let rest = tokio::io::copy(&mut socket, &mut nowhere);
                let _over = tokio::time::timeout(LINGER, rest).await;
                return Err(HandshakeError::PlainHttp);
            }
            is_first = false;
            while !came.is_empty() {
                acceptor.read_tls(&mut came)?;
            }
            match acceptor.accept() {
                Ok(Some(accepted)) => break accepted,
                Ok(None) => {}
                Err((error, mut alert)) => {
                    let mut bytes = Vec::new();
                    alert.write_all(&mut bytes)?;
                    goodbye(&mut socket, &bytes).await;
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error).into());
                }
            }
        };
        let client_rules = self.client_rules();
        let hello = accepted.client_hello();
        let config = match self.challenge.clone() {
            Some(challenge) if is_challenge(&hello) => challenge,
            _ if self.certificates.refuses(hello.server_name()) => {
                goodbye(&mut socket, &UNRECOGNIZED_NAME).await;
                return Err(HandshakeError::UnknownName);
            }
            _ => self.configs.load().choose(&hello),
        };
        let stream = StartHandshake::from_parts(accepted, socket)
            .into_stream(config)
            .await?;
        let connection = stream.get_ref().1;
        let facts = self.facts(connection, client_rules)?;
        self.handshakes.complete(connection);
        Ok(Some((stream, facts)))
    }

    /// Facts about `connection`, whose handshake is complete.
    fn facts(
        &self,
        connection: &ServerConnection,
        client_rules: u64,
    ) -> Result<TlsFacts, HandshakeError> {
        let client = match connection.peer_certificates() {
            // A resumed session carries the certificate of the first one, which may have expired
            // since.
            Some([leaf, ..]) => {
                let client = client::read(leaf, client_rules >> 1, self.now());
                Some(client.ok_or(HandshakeError::ClientCertificate)?.into())
            }
            _ => None,
        };
        Ok(TlsFacts {
            version: version(connection),
            cipher: connection
                .negotiated_cipher_suite()
                .and_then(|suite| suite.suite().as_str())
                .unwrap_or_default(),
            name: connection.server_name().map(Into::into),
            alpn: match connection.alpn_protocol() {
                Some(b"h2") => Some("h2"),
                Some(b"http/1.1") => Some("http/1.1"),
                Some(b"http/1.0") => Some("http/1.0"),
                _ => None,
            },
            protocol: match connection.alpn_protocol() {
                Some(b"h2") => Protocol::Http2,
                Some(b"acme-tls/1") => Protocol::AcmeChallenge,
                _ => Protocol::Http1,
            },
            client,
            client_rules,
        })
    }
}

/// Version of a complete handshake.
pub(super) fn version(connection: &ServerConnection) -> &'static str {
    match connection.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "",
    }
}

/// Sends the last bytes to a client, if it takes them.
async fn goodbye<S: AsyncWrite + Unpin>(socket: &mut S, bytes: &[u8]) {
    let sent = async {
        socket.write_all(bytes).await?;
        socket.shutdown().await
    };
    if let Err(error) = sent.await {
        log::debug!(error:%; "client left before the error was sent");
    }
}
