//! TLS settings for connections to the backends of an upstream, and the sessions that later
//! handshakes resume.
//!
//! All of it is made when the configuration is compiled, so that a handshake neither parses nor
//! builds anything.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    client::{ClientSessionMemoryCache, ClientSessionStore, Resumption},
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::wire::{Protocol, ServerName};

/// Sessions that are kept for one backend.
const MAX_SESSIONS: usize = 8;

/// SHA-256 of the trusted CAs, the client certificate and its key.
pub(super) type TrustDigest = [u8; 32];

/// Everything that makes a TLS connection differ from another one to the same address: a request
/// uses only connections that were made under its own settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TlsIdentity {
    pub(super) name: ServerName,
    pub(super) trust: TrustDigest,
}

impl TlsIdentity {
    /// Returns the name that the backend's certificate is for.
    pub(super) fn name(&self) -> &str {
        self.name.as_str()
    }
}

/// TLS settings for one backend.
#[derive(Clone, Debug)]
pub(super) struct BackendTls {
    pub(super) config: Arc<ClientConfig>,
    pub(super) name: rustls_pki_types::ServerName<'static>,
    pub(super) identity: TlsIdentity,
}

impl BackendTls {
    /// Creates the settings for a backend that is to speak `protocol`, with `sessions` of its own:
    /// another backend could not resume them. rustls resumes none that was begun under another
    /// `config`.
    pub(super) fn new(
        config: &ClientConfig,
        identity: TlsIdentity,
        protocol: Protocol,
        sessions: Arc<dyn ClientSessionStore>,
    ) -> Option<Self> {
        let mut config = config.clone();
        config.alpn_protocols = vec![protocol.alpn().to_vec()];
        config.resumption = Resumption::store(sessions);
        Some(Self {
            config: Arc::new(config),
            name: identity.name().to_owned().try_into().ok()?,
            identity,
        })
    }

    /// Returns the same settings for checks, each of which verifies the certificate again, and uses
    /// up no session of the requests.
    pub(super) fn for_checks(&self) -> Self {
        let mut config = ClientConfig::clone(&self.config);
        config.resumption = Resumption::disabled();
        Self {
            config: Arc::new(config),
            ..self.clone()
        }
    }
}

/// Creates the memory for the sessions of one backend.
pub(super) fn new_sessions() -> Arc<dyn ClientSessionStore> {
    Arc::new(ClientSessionMemoryCache::new(MAX_SESSIONS))
}

/// Returns the settings for connections that trust `roots` and present `client`. They offer no
/// protocol, and resume nothing.
pub(super) fn client_config(
    roots: Arc<RootCertStore>,
    client: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> std::result::Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_root_certificates(roots);
    let mut config = match client {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}
