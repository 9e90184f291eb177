//! What we agree to in a handshake: versions, ciphers, sessions, protocols, client
//! certificates.

use std::sync::{Arc, LazyLock};

use rustls::{
    CipherSuite, Error as TlsError, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring, ring::cipher_suite as suite},
    server::{
        ClientHello, ResolvesServerCert, VerifierBuilderError, WebPkiClientVerifier,
        danger::ClientCertVerifier,
    },
    version::{TLS12, TLS13},
};
use rustls_pki_types::CertificateDer;

use super::{certificates::ACME_TLS, pair::PairError, sessions::Sessions};
use crate::config::model::{ClientCertificateConfig, MinVersionConfig};

/// A ticket opens one session, in which the client gets the next one. A second would cost
/// a derived key, an encryption and a record with each handshake, for browsers only that
/// come back with several connections at once, which with HTTP/2 none does.
const TICKETS: usize = 1;

/// Ephemeral keys and authenticated encryption only, so that a stolen key opens nothing of
/// the past (RFC 9325, 4.2); AES-128, the cheapest with hardware for AES, first.
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

/// The same with `ChaCha20` first.
static CHACHA_FIRST: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut provider = CryptoProvider::clone(&PROVIDER);
    // The sort is stable.
    provider
        .cipher_suites
        .sort_by_key(|suite| !is_chacha(suite.suite()));
    Arc::new(provider)
});

fn is_chacha(suite: CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
    )
}

pub(super) fn provider() -> &'static Arc<CryptoProvider> {
    &PROVIDER
}

/// What handshakes go by.
#[derive(Clone, Debug)]
pub(super) struct Configs {
    usual: Arc<ServerConfig>,
    chacha_first: Arc<ServerConfig>,
}

impl Configs {
    /// Our order of ciphers counts, but a client that would have `ChaCha20` before all
    /// others has no hardware for AES, and its battery is its own.
    pub(super) fn choose(&self, hello: &ClientHello<'_>) -> Arc<ServerConfig> {
        let known = &PROVIDER.cipher_suites;
        let mut offered = hello.cipher_suites().iter();
        let first = offered.find(|suite| known.iter().any(|known| known.suite() == **suite));
        Arc::clone(if first.is_some_and(|first| is_chacha(*first)) {
            &self.chacha_first
        } else {
            &self.usual
        })
    }
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
    pub(super) fn configs(
        &self,
        sessions: &Sessions,
        verifier: Option<&Arc<dyn ClientCertVerifier>>,
    ) -> Result<Configs, TlsError> {
        let make = |provider: &Arc<CryptoProvider>| {
            let mut config = self.config(provider, verifier)?;
            config.ticketer = sessions.tickets();
            config.session_storage = sessions.memory();
            Ok::<_, TlsError>(Arc::new(config))
        };
        Ok(Configs {
            usual: make(&PROVIDER)?,
            chacha_first: make(&CHACHA_FIRST)?,
        })
    }

    fn config(
        &self,
        provider: &Arc<CryptoProvider>,
        verifier: Option<&Arc<dyn ClientCertVerifier>>,
    ) -> Result<ServerConfig, TlsError> {
        let versions = match self.min_version {
            MinVersionConfig::Tls12 => &[&TLS13, &TLS12][..],
            MinVersionConfig::Tls13 => &[&TLS13],
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
            .with_protocol_versions(versions)?;
        let builder = match verifier {
            Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::clone(&self.certificates));
        if self.http2 {
            config.alpn_protocols.push(b"h2".to_vec());
        }
        config.alpn_protocols.push(b"http/1.1".to_vec());
        config.ignore_client_order = true;
        config.send_tls13_tickets = TICKETS;
        Ok(config)
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
