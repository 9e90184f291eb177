//! Settings of a handshake: versions, ciphers, sessions, protocols, client certificates.

use std::sync::{Arc, LazyLock};

use rustls::{
    CipherSuite, Error as TlsError, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring, ring::cipher_suite as suite},
    server::{
        ClientHello, NoServerSessionStorage, ResolvesServerCert, VerifierBuilderError,
        WebPkiClientVerifier, danger::ClientCertVerifier,
    },
    version::{TLS12, TLS13},
};
use rustls_pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, x509::X509Version};

use super::{
    certificates::ACME_TLS,
    pair::{self, PairError},
    sessions::Sessions,
};
use crate::config::model::{ClientCertificateConfig, MinVersionConfig};

/// Tickets issued per handshake. A ticket resumes one session, in which the client gets the next
/// ticket. A second would cost a derived key, an encryption and a record per handshake. Only
/// browsers that return with several connections at once would use it, and with HTTP/2 none does.
const TICKETS: usize = 1;

/// Provider with ephemeral keys and authenticated encryption only, so that a stolen key decrypts no
/// past traffic (RFC 9325, 4.2). AES-128 comes first, as the cheapest with AES hardware.
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

/// The same provider with `ChaCha20` first.
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

/// Server configurations of a listener.
#[derive(Clone, Debug)]
pub(super) struct Configs {
    usual: Arc<ServerConfig>,
    chacha_first: Arc<ServerConfig>,
}

impl Configs {
    /// Selects a configuration. Our cipher order applies, except that a client which prefers
    /// `ChaCha20` to all others has no AES hardware, and gets it to save battery.
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

/// Compiled settings of a listener, independent of its certificates.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub(super) min_version: MinVersionConfig,
    pub(super) http2: bool,
    pub(super) certificates: Arc<dyn ResolvesServerCert>,
}

impl Policy {
    /// Configurations for clients. A `verifier` makes them ask for a client certificate with each
    /// connection, so that none resumes a session.
    pub(super) fn configs(
        &self,
        sessions: &Sessions,
        verifier: Option<&Arc<dyn ClientCertVerifier>>,
    ) -> Result<Configs, TlsError> {
        let make = |provider: &Arc<CryptoProvider>| {
            let mut config = self.config(provider, verifier)?;
            if verifier.is_some() {
                config.send_tls13_tickets = 0;
                config.session_storage = Arc::new(NoServerSessionStorage {});
            } else {
                config.ticketer = sessions.tickets();
                config.session_storage = sessions.memory();
            }
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
        // Clients of HTTP/1.0 may offer nothing else.
        let plain = [&b"http/1.1"[..], b"http/1.0"];
        config.alpn_protocols.extend(plain.map(<[u8]>::to_vec));
        config.ignore_client_order = true;
        config.send_tls13_tickets = TICKETS;
        Ok(config)
    }
}

/// Creates the configuration for CAs that validate a challenge. It asks for no client certificate.
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
    #[error("a certificate in the file is not a CA certificate: {0}")]
    Unusable(TlsError),
    #[error("certificate {0} of the file may not sign others: it is not that of a CA")]
    NotCa(usize),
    #[error("client certificates cannot be verified: {0}")]
    Verifier(#[from] VerifierBuilderError),
}

impl ClientCaError {
    /// Advice on how to fix the problem.
    pub(super) fn help(&self) -> String {
        match self {
            Self::File(error) => error.help(),
            Self::Unusable(_) | Self::Verifier(_) => {
                "write the CA certificates that sign clients' certificates, in PEM, one after the other"
                    .to_owned()
            }
            Self::NotCa(_) => "the holder of its key could sign certificates for any name: write \
                               the CA that signed it, and the client's subject or fingerprint in \
                               `client_cert`"
                .to_owned(),
        }
    }
}

/// Returns true for a certificate whose key may sign others (RFC 5280, 4.2.1.3 and 4.2.1.9), which
/// an anchor of trust does not say itself. Version 1 has no extensions; those that sign themselves
/// are taken for CAs, as by OpenSSL.
fn may_sign(certificate: &X509Certificate<'_>) -> bool {
    if certificate.version() != X509Version::V3 {
        return certificate.issuer() == certificate.subject();
    }
    let basic = certificate.basic_constraints().ok().flatten();
    let usage = certificate.key_usage();
    basic.is_some_and(|basic| basic.value.ca)
        && usage.is_ok_and(|usage| usage.is_none_or(|usage| usage.value.key_cert_sign()))
}

/// Creates a verifier that trusts these CA certificates.
pub(super) fn verifier(
    cas: &[CertificateDer<'static>],
    mode: ClientCertificateConfig,
) -> Result<Arc<dyn ClientCertVerifier>, ClientCaError> {
    let mut roots = RootCertStore::empty();
    for (index, ca) in cas.iter().enumerate() {
        if !pair::parse(ca).is_some_and(|certificate| may_sign(&certificate)) {
            return Err(ClientCaError::NotCa(index + 1));
        }
        roots.add(ca.clone()).map_err(ClientCaError::Unusable)?;
    }
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider()));
    let builder = match mode {
        ClientCertificateConfig::Required => builder,
        ClientCertificateConfig::Optional => builder.allow_unauthenticated(),
    };
    Ok(builder.build()?)
}
