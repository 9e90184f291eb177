//! TLS towards clients: selection of the certificate, versions, ciphers and tickets, and the facts
//! about the client that a handshake yields.

mod accept;
pub mod acme;
mod certificates;
mod client;
mod expiry;
mod files;
mod handshakes;
mod pair;
mod policy;
mod server;
mod sessions;
#[cfg(test)]
mod testkit;
mod tickets;
mod watch;

use std::sync::Arc;

use edgeway_base as base;
use edgeway_config as config;
use edgeway_core::{chain, zones};

pub use self::{accept::HandshakeError, certificates::Certificates, server::Server};
use crate::chain::ClientCertificate;

/// Negotiated parameters of a TLS connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFacts {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite, by its standard name.
    pub cipher: &'static str,
    /// The server name (SNI) that the client requested, in lower case.
    pub name: Option<Arc<str>>,
    /// Name of the protocol chosen by ALPN, if any was.
    pub alpn: Option<&'static str>,
    /// Protocol that is spoken after the handshake.
    pub protocol: Protocol,
    /// The client's certificate, verified.
    pub client: Option<Arc<ClientCertificate>>,
    /// Value of [`Server::client_rules`] by which the client was let in.
    pub client_rules: u64,
}

impl TlsFacts {
    /// Returns true if a request for `host`, without port and in lower case, matches the server
    /// name of the handshake. Clients send no name when they connect to an address (RFC 6066, 3).
    pub fn is_for(&self, host: &str) -> bool {
        if let Some(name) = &self.name {
            return name.trim_end_matches('.') == host.trim_end_matches('.');
        }
        let address = host.trim_start_matches('[').trim_end_matches(']');
        address.parse::<std::net::IpAddr>().is_ok()
    }
}

/// Protocol negotiated by ALPN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    #[default]
    Http1,
    Http2,
    /// `acme-tls/1` (RFC 8737): nothing follows the handshake.
    AcmeChallenge,
}

/// Installs our cryptography as the default of the process.
pub fn install_provider() {
    // An earlier default is the same one: this build contains only `ring`.
    drop(rustls::crypto::ring::default_provider().install_default());
}
