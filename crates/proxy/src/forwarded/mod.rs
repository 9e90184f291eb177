//! Forwarding headers, which report the client to the origin, and headers that clients may not
//! send.
//!
//! Pure functions over request headers. They run for every request, so each makes one pass over the
//! headers, and values that depend only on the connection are built in advance.

mod internal;
mod location;
mod reserved;
#[cfg(test)]
mod tests;

use std::{net::IpAddr, sync::Arc};

use edgeway_base::http::{values, write_header_line};
use edgeway_base::net::{Hops, IpText, MAX_HOPS, TrustedProxies};
use edgeway_config::model::App;
use edgeway_core::chain::{
    Client, Scheme,
    host::{first_element, forwarded_port, public_host},
};
use edgeway_core::open_headers::OpenRequestHeaders;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use pingora::http::RequestHeader;

use self::internal::{doomed_names, strip_internal_query};
pub(super) use self::reserved::{keep_passing, strip};
pub use self::{
    internal::{is_internal_response, strip_internal_response},
    location::rewrite_location,
};
use super::hop_by_hop;
use crate::connection::{
    ClientCertificateStatus,
    header_texts::{ConnectionText, HostText},
};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Capacity for the five above, three about a certificate, and what filters usually add: an id, a
/// trace, an encoding.
const ADDED_CAPACITY: usize = 12;

/// Bytes of the five as lines, with a host of usual length.
const LINES_CAPACITY: usize = 256;

/// Result of verifying the client certificate: `SUCCESS` or `NONE`, as in nginx. The other two are
/// present if a certificate was verified.
const X_CLIENT_VERIFY: HeaderName = HeaderName::from_static("x-client-verify");
const X_CLIENT_CERT_SUBJECT: HeaderName = HeaderName::from_static("x-client-cert-subject");
const X_CLIENT_CERT_FINGERPRINT: HeaderName = HeaderName::from_static("x-client-cert-fingerprint");

const SUCCESS: HeaderValue = HeaderValue::from_static("SUCCESS");
const NONE: HeaderValue = HeaderValue::from_static("NONE");
const HTTP: HeaderValue = HeaderValue::from_static("http");
const HTTPS: HeaderValue = HeaderValue::from_static("https");
const UPGRADE: HeaderValue = HeaderValue::from_static("Upgrade");
const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");
const PORT_80: HeaderValue = HeaderValue::from_static("80");
const PORT_443: HeaderValue = HeaderValue::from_static("443");

/// Resolved address, trust and scheme of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResolvedClient {
    /// [`Client::ip`].
    pub ip: IpAddr,
    /// [`Client::is_trusted`].
    pub is_trusted: bool,
    /// [`Client::scheme`].
    pub scheme: Scheme,
}

/// Returns the client behind `peer`: the peer itself, or the client that a trusted peer reports.
///
/// A unix socket peer is given as a loopback address: a client that may open the socket is as close
/// as a process on this machine.
pub fn resolve_client(
    request: &RequestHeader,
    peer: IpAddr,
    scheme: Scheme,
    trusted: &TrustedProxies,
) -> ResolvedClient {
    if !trusted.trusts(peer) {
        return ResolvedClient {
            ip: peer.to_canonical(),
            is_trusted: false,
            scheme,
        };
    }
    ResolvedClient {
        ip: hops(request, peer, trusted).client(),
        is_trusted: true,
        scheme: forwarded_scheme(request).unwrap_or(scheme),
    }
}

fn hops(request: &RequestHeader, peer: IpAddr, trusted: &TrustedProxies) -> Hops {
    let lines = request.headers.get_all(X_FORWARDED_FOR);
    trusted.walk(peer, lines.iter().map(HeaderValue::as_bytes))
}

/// Returns the scheme as the outermost proxy saw it.
pub(super) fn forwarded_scheme(request: &RequestHeader) -> Option<Scheme> {
    let first = first_element(request, &X_FORWARDED_PROTO)?;
    if first.eq_ignore_ascii_case("https") || first.eq_ignore_ascii_case("wss") {
        Some(Scheme::Https)
    } else if first.eq_ignore_ascii_case("http") || first.eq_ignore_ascii_case("ws") {
        Some(Scheme::Http)
    } else {
        None
    }
}

/// Returns [`public_host`] and its port as header values. The host is `None` if the client sent
/// none.
fn public_and_port(
    request: &RequestHeader,
    client: &Client,
    text: &ConnectionText,
) -> (Option<HeaderValue>, HeaderValue) {
    let host = public_host(request, client);
    let port = forwarded_port(request, client).or_else(|| port_of_text(host));
    let port = match port {
        Some(digits) => text.port(digits.as_bytes()),
        None => default_port_text(client.scheme),
    };
    let named = request.headers.get(header::HOST);
    let public = match named.filter(|named| named.as_bytes() == host.as_bytes()) {
        Some(named) => Some(named.clone()),
        None => HeaderValue::from_str(host)
            .ok()
            .filter(|host| !host.is_empty()),
    };
    (public, port)
}

/// Returns what follows from the `Host` of a client that is no trusted proxy; `name` is the host as
/// routes match it. Returns `None` if the value is empty.
pub fn host_text(raw: &HeaderValue, scheme: Scheme, name: &str) -> Option<HostText> {
    // A copy, because the value may be a slice of all headers of its request.
    let raw = HeaderValue::from_bytes(raw.as_bytes()).ok()?;
    if raw.is_empty() {
        return None;
    }
    let port = match port_of(raw.as_bytes()) {
        Some(digits) => HeaderValue::from_bytes(digits).ok()?,
        None => default_port_text(scheme),
    };
    Some(HostText {
        raw,
        scheme,
        name: name.into(),
        port,
    })
}

/// Returns the port of URLs that name none, as a header value.
fn default_port_text(scheme: Scheme) -> HeaderValue {
    match scheme {
        Scheme::Http => PORT_80,
        Scheme::Https => PORT_443,
    }
}

/// Returns `host` without its port, if it has one.
pub(super) fn without_port(host: &str) -> &str {
    match port_of(host.as_bytes()) {
        Some(port) => &host[..host.len() - port.len() - 1],
        None => host.strip_suffix(':').unwrap_or(host),
    }
}

/// Returns the port of `host`, if it has one.
fn port_of(host: &[u8]) -> Option<&[u8]> {
    let colon = host.iter().rposition(|b| *b == b':')?;
    let (name, port) = (&host[..colon], &host[colon + 1..]);
    let is_port = !port.is_empty() && port.len() <= 5 && port.iter().all(u8::is_ascii_digit);
    // `::1` without brackets is an address without a port.
    (is_port && (name.ends_with(b"]") || !name.contains(&b':'))).then_some(port)
}

/// Returns the [`port_of`] a string.
fn port_of_text(host: &str) -> Option<&str> {
    port_of(host.as_bytes()).map(|port| &host[host.len() - port.len()..])
}

/// Inputs of `open_upstream` besides the request headers.
#[derive(Clone, Copy, Debug)]
pub struct Forwarding<'a> {
    pub client: &'a Client,
    pub trusted: &'a TrustedProxies,
    pub text: &'a ConnectionText,
    /// Certificate that the client presented in its handshake.
    pub shown: ClientCertificateStatus<'a>,
    pub app: App,
    /// True if the request asks for a WebSocket and may have one.
    pub is_websocket: bool,
    /// True if the backend's response may end in trailers that reach the client.
    pub takes_trailers: bool,
    /// True if [`write`] was called before, or the headers are sent as [`ready_lines`].
    pub is_written: bool,
}

/// Forwarding headers: the client and the site it requested.
struct ForwardingHeaders {
    chain: HeaderValue,
    public: Option<HeaderValue>,
    port: HeaderValue,
}

impl ForwardingHeaders {
    fn new(request: &RequestHeader, cx: &Forwarding<'_>) -> Self {
        let client = cx.client;
        let (public, port) = match cx.first_host(request) {
            Some(known) => (Some(known.raw.clone()), known.port.clone()),
            None => public_and_port(request, client, cx.text),
        };
        let chain = if client.is_trusted {
            chain_value(&hops(request, client.peer, cx.trusted))
        } else {
            cx.text.ip(client.ip)
        };
        Self {
            chain,
            public,
            port,
        }
    }

    /// Returns the headers that every client has, but perhaps for its host.
    fn usual(self, cx: &Forwarding<'_>) -> [(HeaderName, Option<HeaderValue>); 5] {
        let proto = match cx.client.scheme {
            Scheme::Http => HTTP,
            Scheme::Https => HTTPS,
        };
        [
            (X_FORWARDED_FOR, Some(self.chain)),
            (X_FORWARDED_HOST, self.public),
            (X_FORWARDED_PROTO, Some(proto)),
            (X_FORWARDED_PORT, Some(self.port)),
            (X_REAL_IP, Some(cx.text.ip(cx.client.ip))),
        ]
    }

    fn write(self, headers: &mut HeaderMap, cx: &Forwarding<'_>) {
        for (name, value) in self.usual(cx) {
            match value {
                Some(value) => headers.insert(name, value),
                None => headers.remove(name),
            };
        }
        match cx.shown {
            ClientCertificateStatus::NotAsked => {}
            ClientCertificateStatus::Nothing => {
                headers.insert(X_CLIENT_VERIFY, NONE);
            }
            ClientCertificateStatus::Verified(certificate) => {
                headers.insert(X_CLIENT_VERIFY, SUCCESS);
                headers.insert(X_CLIENT_CERT_SUBJECT, certificate.subject.clone());
                headers.insert(X_CLIENT_CERT_FINGERPRINT, certificate.fingerprint.clone());
            }
        }
    }
}

impl<'a> Forwarding<'a> {
    /// Returns the values of the request's `Host`, if they are those of the connection's first one.
    fn first_host(&self, request: &RequestHeader) -> Option<&'a HostText> {
        let client = self.client;
        let host = values(&request.headers, &header::HOST).next()?;
        let known = self.text.host(host.as_bytes())?;
        (known.scheme == client.scheme && !client.is_trusted).then_some(known)
    }
}

/// Returns the forwarding headers of `request` as lines to send behind its others, made once for all
/// requests of a connection; `None` where they go into the header map, or [`write`] has put them there.
/// [`strip`] has removed those of the client, which is no trusted proxy.
pub(super) fn ready_lines(request: &RequestHeader, cx: &Forwarding<'_>) -> Option<Arc<[u8]>> {
    let is_usual = cx.shown == ClientCertificateStatus::NotAsked;
    if !is_usual || cx.is_written || cx.first_host(request).is_none() {
        return None;
    }
    let lines = cx.text.forwarding_lines(cx.client.ip, || {
        let mut lines = Vec::with_capacity(LINES_CAPACITY);
        for (name, value) in ForwardingHeaders::new(request, cx).usual(cx) {
            if let Some(value) = value {
                write_header_line(&mut lines, name.as_str().as_bytes(), value.as_bytes());
            }
        }
        lines.into()
    })?;
    Some(Arc::clone(lines))
}

/// Writes the forwarding headers into the client's own request, for readers that see it before a
/// backend does: predicates of routes, keys, logs and plugins.
pub(super) fn write(request: &mut RequestHeader, cx: &Forwarding<'_>) {
    let forwarding = ForwardingHeaders::new(request, cx);
    let mut open = OpenRequestHeaders::take(request, ADDED_CAPACITY);
    forwarding.write(open.headers(), cx);
    open.close(request);
}

/// Opens a copy of the client's request headers and prepares it for a backend. Removes headers that
/// were only for the gateway and those that only frameworks may send, and writes the forwarding
/// headers. [`strip`] has already removed headers that no client may send.
///
/// `Host` keeps its normal form. `X-Forwarded-For` begins with the resolved client: entries
/// left of it are unverified, and an app that reads the leftmost entry would trust them.
pub(super) fn open_upstream(
    upstream: &mut RequestHeader,
    cx: &Forwarding<'_>,
) -> OpenRequestHeaders {
    let forwarding = (!cx.is_written).then(|| ForwardingHeaders::new(upstream, cx));
    let doomed = doomed_names(upstream);
    let wants_trailers = cx.takes_trailers && hop_by_hop::wants_trailers(&upstream.headers);
    if cx.app == App::Nextjs {
        strip_internal_query(upstream);
    }
    let mut open = OpenRequestHeaders::take(upstream, ADDED_CAPACITY);
    let headers = open.headers();
    for name in &doomed {
        headers.remove(name);
    }
    if let Some(forwarding) = forwarding {
        forwarding.write(headers, cx);
    }
    if wants_trailers {
        headers.insert(header::TE, TRAILERS);
    }
    if cx.is_websocket {
        headers.insert(header::CONNECTION, UPGRADE);
        headers.insert(header::UPGRADE, WEBSOCKET);
        // Without a length: a handshake has no framing (RFC 6455, 4.1).
        headers.remove(header::CONTENT_LENGTH);
    }
    open
}

/// Returns the chain of hops, the client first and the peer last.
fn chain_value(hops: &Hops) -> HeaderValue {
    let mut text = [0u8; MAX_HOPS * (IpText::MAX + 2)];
    let mut length = 0;
    for (index, hop) in hops.as_slice().iter().rev().enumerate() {
        let separator: &[u8] = if index == 0 { b"" } else { b", " };
        for piece in [separator, IpText::new(*hop).as_bytes()] {
            text[length..length + piece.len()].copy_from_slice(piece);
            length += piece.len();
        }
    }
    HeaderValue::from_bytes(&text[..length]).expect("addresses are plain text")
}
