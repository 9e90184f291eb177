//! Protocols to an upstream's backends: TLS or plain text, and the HTTP version.

use std::{sync::Arc, time::Duration};

use derive_more::Display;
use rustls::ClientConfig;

use super::{
    backend_state::BackendState,
    client_tls::{BackendTls, TlsIdentity},
};
use crate::base::host::is_host_name;

edgeway_base::enum_table! {
    /// HTTP version used with backends.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Protocol => as_str {
        /// HTTP/1.1.
        Http1 = "http1",
        /// HTTP/2 only.
        H2 = "h2",
    }
}

impl Protocol {
    /// Returns the name that is offered in the TLS handshake (RFC 7301).
    pub(super) const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::H2 => b"h2",
        }
    }
}

/// Protocol and trust of one upstream.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    pub(super) protocol: Protocol,
    pub(super) tls: Option<Trust>,
}

/// Verification of backends, and the client certificate.
#[derive(Clone, Debug)]
pub(super) struct Trust {
    pub(super) config: Arc<ClientConfig>,
    /// Name of the backends, and a digest of the certificates and the key, byte for byte.
    pub(super) identity: TlsIdentity,
}

/// DNS name that a certificate can be for: never empty, no address, no wildcard.
#[derive(Clone, Debug, PartialEq, Eq, Display)]
pub(super) struct ServerName(Arc<str>);

/// Streams at once on one connection. Many backends allow no more (nginx 128, Go 250).
pub(super) const STREAMS: u32 = 100;
/// Flow-control window of one stream.
pub(super) const STREAM_WINDOW: u32 = 256 * 1024;
/// Flow-control window for all streams: clients that do not read hold up their own streams only.
pub(super) const CONNECTION_WINDOW: u32 = STREAMS * STREAM_WINDOW;
/// Interval of pings. gRPC servers close connections with pings more often than every five minutes;
/// TCP detects an unreachable machine much earlier.
pub(super) const PING: Duration = Duration::from_secs(330);

impl ServerName {
    /// Parses a name; `None` if `text` is invalid.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        is_host_name(&name).then(|| Self(name.into()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Wire {
    /// Returns the TLS settings for requests to the backend with this `state`; `None` without TLS.
    pub(super) fn backend_tls(&self, state: &BackendState) -> Option<BackendTls> {
        let trust = self.tls.as_ref()?;
        let identity = trust.identity.clone();
        BackendTls::new(&trust.config, identity, self.protocol, state.sessions())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_a_certificate_can_have() {
        for name in ["api.internal", "localhost", "API.Internal.", "a-1.b", "1.b"] {
            let parsed = ServerName::parse(name).expect(name);
            assert!(!parsed.as_str().is_empty());
            assert!(!parsed.as_str().ends_with('.'));
        }
        for name in [
            "",
            ".",
            "a..b",
            "-a.b",
            "a-.b",
            "*.example.com",
            "my_app",
            "10.0.0.1",
            "::1",
            "a b",
            "a:443",
            "https://a",
            &"a".repeat(64),
        ] {
            assert_eq!(ServerName::parse(name), None, "{name}");
        }
    }
}
