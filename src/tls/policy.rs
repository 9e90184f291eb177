//! What we agree to in a handshake: versions, ciphers, sessions, protocols, client
//! certificates.

use std::sync::{Arc, LazyLock};

use rustls::{
    Error as TlsError, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring, ring::cipher_suite as suite},
    server::{
        ProducesTickets, ResolvesServerCert, ServerSessionMemoryCache, VerifierBuilderError,
        WebPkiClientVerifier, danger::ClientCertVerifier,
    },
    version::{TLS12, TLS13},
};
use rustls_pki_types::CertificateDer;

use super::{certificates::ACME_TLS, pair::PairError};
use crate::config::model::{ClientCertificateConfig, MinVersionConfig};

/// Sessions kept for clients of TLS 1.2 that take no tickets; the oldest goes first.
const SESSIONS: usize = 1024;
/// A ticket opens one session, and one of them gets the next. A second one costs 5 % of a
/// handshake and is of use to browsers only that open several connections at once, which
/// with HTTP/2 none does.
const TICKETS: usize = 1;

/// Ephemeral keys and authenticated encryption only, so that a stolen key opens nothing of
/// the past (RFC 9325, 4.2). The client's order counts among them: it knows whether it has
/// hardware for AES, and none of them is weak.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            suite::TLS13_AES_128_GCM_SHA256,
            suite::TLS13_AES_256_GCM_SHA384,
            suite::TLS13_CHACHA20_POLY1305_SHA256,
            suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![
            ring::kx_group::X25519,
            ring::kx_group::SECP256R1,
            ring::kx_group::SECP384R1,
        ],
        ..ring::default_provider()
    })
});

pub(super) fn provider() -> &'static Arc<CryptoProvider> {
    &PROVIDER
}

/// What a listener's configuration comes to, whatever the certificates.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub(super) min_version: MinVersionConfig,
    pub(super) http2: bool,
    pub(super) certificates: Arc<dyn ResolvesServerCert>,
}

impl Policy {
    /// For clients. They are asked for certificates if there is a `verifier`.
    pub(super) fn server(
        &self,
        tickets: Arc<dyn ProducesTickets>,
        verifier: Option<Arc<dyn ClientCertVerifier>>,
    ) -> Result<Arc<ServerConfig>, TlsError> {
        let versions = match self.min_version {
            MinVersionConfig::Tls12 => &[&TLS13, &TLS12][..],
            MinVersionConfig::Tls13 => &[&TLS13],
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(provider()))
            .with_protocol_versions(versions)?;
        let builder = match verifier {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut server = builder.with_cert_resolver(Arc::clone(&self.certificates));
        if self.http2 {
            server.alpn_protocols.push(b"h2".to_vec());
        }
        server.alpn_protocols.push(b"http/1.1".to_vec());
        server.ticketer = tickets;
        server.session_storage = ServerSessionMemoryCache::new(SESSIONS);
        server.send_tls13_tickets = TICKETS;
        Ok(Arc::new(server))
    }
}

/// For authorities that look for the answer to a challenge; they show no certificates.
pub(super) fn challenge(
    certificates: Arc<dyn ResolvesServerCert>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut server = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    server.alpn_protocols.push(ACME_TLS.to_vec());
    server.send_tls13_tickets = 0;
    Ok(Arc::new(server))
}

/// Why client certificates cannot be verified.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientCaError {
    #[error(transparent)]
    File(#[from] PairError),
    #[error("a certificate in the file is no authority's: {0}")]
    Unusable(TlsError),
    #[error("client certificates cannot be verified: {0}")]
    Verifier(#[from] VerifierBuilderError),
}

impl ClientCaError {
    /// What to do about it.
    pub(super) fn help(&self) -> String {
        match self {
            Self::File(error) => error.help(),
            Self::Unusable(_) | Self::Verifier(_) => {
                "write the certificates of the authorities that sign clients' certificates, in PEM, one after the other"
                    .to_owned()
            }
        }
    }
}

/// Verifies clients by these authorities.
pub(super) fn verifier(
    authorities: &[CertificateDer<'static>],
    mode: ClientCertificateConfig,
) -> Result<Arc<dyn ClientCertVerifier>, ClientCaError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots
            .add(authority.clone())
            .map_err(ClientCaError::Unusable)?;
    }
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider()));
    let builder = match mode {
        ClientCertificateConfig::Required => builder,
        ClientCertificateConfig::Optional => builder.allow_unauthenticated(),
    };
    Ok(builder.build()?)
}
