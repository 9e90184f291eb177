//! Protocols to an upstream's backends: TLS or plain text, and the HTTP version.
//!
//! Pingora skips all certificate verification if a peer's name is empty. Here TLS requires a
//! [`ServerName`], which is never empty.

use std::{fmt, sync::Arc, time::Duration};

use pingora::{
    protocols::tls::CaType,
    upstreams::peer::{ALPN, HttpPeer, HttpUpstreamRequestPolicy},
    utils::tls::CertKey,
};
use rustls::ClientConfig;

use super::{
    backend::BackendState,
    balance::hash64,
    client_tls::{BackendTls, TlsIdentity},
    target::Target,
};

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
    /// CA certificates to trust; the system's if absent.
    pub(super) cas: Option<Arc<CaType>>,
    pub(super) client: Option<Arc<CertKey>>,
    /// The same for the connections of requests.
    pub(super) config: Arc<ClientConfig>,
    /// Name of the backends, and a digest of all that the others hold, byte for byte.
    pub(super) identity: TlsIdentity,
}

impl Trust {
    pub(super) fn name(&self) -> &str {
        self.identity.name()
    }
}

/// DNS name that a certificate can be for: never empty, no address, no wildcard.
#[derive(Clone, Debug, PartialEq, Eq)]
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
        // RFC 1123, 2.1. DNS allows an underscore, a certificate does not.
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        let is_name = name.len() <= 253 && name.split('.').all(is_label);
        let is_number = name
            .rsplit('.')
            .next()
            .is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
        (is_name && !is_number).then(|| Self(name.into()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Wire {
    /// Returns the peer that checks of `target` connect to, without timeouts; `None` if a unix socket's path is longer than
    /// the system allows.
    ///
    /// `group` and all else that distinguishes two upstreams separate their connections: no
    /// connection is ever used under another trust than that under which it was made.
    pub(super) fn peer(&self, target: &Target, group: &str) -> Option<HttpPeer> {
        let name = self.tls.as_ref().map(Trust::name);
        let (is_tls, name) = (name.is_some(), name.unwrap_or_default().to_owned());
        let mut peer = match target {
            Target::Inet(address) => HttpPeer::new(*address, is_tls, name),
            Target::Unix(path) => HttpPeer::new_uds(path.to_str()?, is_tls, name).ok()?,
        };
        peer.group_key = self.group(group);
        let options = &mut peer.options;
        // Hop-by-hop headers are removed by `proxy::forwarded`, in the same pass as the rest.
        options.http_upstream_request_policy = HttpUpstreamRequestPolicy::preserve();
        match self.protocol {
            Protocol::Http1 => options.alpn = ALPN::H1,
            Protocol::H2 => {
                options.alpn = ALPN::H2;
                options.max_h2_streams = STREAMS as usize;
                options.h2_stream_window_size = Some(STREAM_WINDOW);
                options.h2_connection_window_size = Some(CONNECTION_WINDOW);
                options.h2_ping_interval = Some(PING);
            }
        }
        if let Some(trust) = &self.tls {
            options.ca.clone_from(&trust.cas);
            peer.client_cert_key.clone_from(&trust.client);
        }
        Some(peer)
    }

    /// Returns the TLS settings for requests to the backend with this `state`; `None` without TLS.
    pub(super) fn backend_tls(&self, state: &BackendState) -> Option<BackendTls> {
        let trust = self.tls.as_ref()?;
        let identity = trust.identity.clone();
        BackendTls::new(&trust.config, identity, self.protocol, state.sessions())
    }

    /// Returns a number that no other upstream has, and no other trust or protocol of this one.
    fn group(&self, upstream: &str) -> u64 {
        let mut text = upstream.as_bytes().to_vec();
        // A byte that no name contains ends it.
        text.push(0);
        text.push(match self.protocol {
            Protocol::Http1 => 1,
            Protocol::H2 => 2,
        });
        if let Some(trust) = &self.tls {
            text.extend(trust.identity.trust());
            text.extend(trust.name().as_bytes());
        }
        hash64(&text)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use pingora::upstreams::peer::Peer;

    use super::{super::client_tls::client_config, *};

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

    fn trust(name: &str, contents: u8) -> Trust {
        let roots = Arc::new(rustls::RootCertStore::empty());
        Trust {
            cas: None,
            client: None,
            config: Arc::new(client_config(roots, None).unwrap()),
            identity: TlsIdentity::new(ServerName::parse(name).unwrap(), [contents; 32]),
        }
    }

    #[test]
    fn pools_differ_where_anything_of_the_trust_does() {
        let target = Target::Inet("127.0.0.1:443".parse().unwrap());
        let wires = [
            (Protocol::Http1, None),
            (Protocol::H2, None),
            (Protocol::Http1, Some(trust("a", 0))),
            (Protocol::H2, Some(trust("a", 0))),
            (Protocol::Http1, Some(trust("b", 0))),
            (Protocol::Http1, Some(trust("a", 1))),
        ];
        let pool = |(protocol, tls), upstream: &str| {
            let wire = Wire { protocol, tls };
            wire.peer(&target, upstream).unwrap().reuse_hash()
        };
        let mut pools = HashSet::new();
        for wire in &wires {
            for upstream in ["web", "api"] {
                assert!(pools.insert(pool(wire.clone(), upstream)), "{wire:?}");
            }
            assert!(!pools.insert(pool(wire.clone(), "web")), "the same again");
        }
    }

    #[test]
    fn verification_is_on_and_the_name_is_sent() {
        let target = Target::Inet("127.0.0.1:443".parse().unwrap());
        let wire = Wire {
            protocol: Protocol::Http1,
            tls: Some(trust("api.internal", 0)),
        };
        let peer = wire.peer(&target, "web").unwrap();
        assert!(peer.is_tls() && peer.verify_cert() && peer.verify_hostname());
        assert_eq!(peer.sni(), "api.internal");
        assert_eq!(peer.alternative_cn(), None);
    }
}
