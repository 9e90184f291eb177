//! TLS to clients: which certificate answers for a name, with which versions, ciphers and
//! tickets, and what a finished handshake says of the client.

mod accept;
pub mod acme;
mod certificates;
mod client;
mod expiry;
mod files;
mod pair;
mod policy;
mod server;
mod sessions;
#[cfg(test)]
pub(crate) mod testkit;
mod tickets;
mod watch;

use std::sync::Arc;

pub use self::{accept::Failed, certificates::Certificates, server::Server};
use crate::chain::ClientCertificate;

/// What a handshake settled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite as its standard names it.
    pub cipher: &'static str,
    /// The name that the client asked for, in lower case.
    pub name: Option<Arc<str>>,
    /// Protocol chosen by ALPN.
    pub protocol: Protocol,
    /// The certificate that the client showed and we verified.
    pub client: Option<Arc<ClientCertificate>>,
}

impl Facts {
    /// Whether a request for `host`, without port and in lower case, is one for the name
    /// that the client asked for. Clients ask for none where they want an address
    /// (RFC 6066, 3).
    pub fn is_for(&self, host: &str) -> bool {
        if let Some(name) = &self.name {
            return name.trim_end_matches('.') == host.trim_end_matches('.');
        }
        let address = host.trim_start_matches('[').trim_end_matches(']');
        address.parse::<std::net::IpAddr>().is_ok()
    }
}

/// What ALPN came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    #[default]
    Http1,
    Http2,
    /// `acme-tls/1` (RFC 8737): the handshake was the whole conversation.
    AcmeChallenge,
}

/// Makes our cryptography the process's default, before anybody else's.
pub fn install_provider() {
    // Whoever was first offers the same one: there is only `ring` in this build.
    drop(rustls::crypto::ring::default_provider().install_default());
}
