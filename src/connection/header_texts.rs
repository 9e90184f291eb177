//! Header values that stay the same for a connection, so that they are created only once.

use std::{net::IpAddr, sync::OnceLock};

use http::HeaderValue;

use crate::{base::net::IpText, chain::Scheme};

/// Values derived from a `Host`. A browser sends the same one with every request of a connection.
#[derive(Clone, Debug)]
pub struct HostText {
    /// The value as the client sent it.
    pub raw: HeaderValue,
    /// The scheme that the other values were made for.
    pub scheme: Scheme,
    /// The name as used by routes.
    pub name: Box<str>,
    /// The host as shown in the address bar.
    pub public: HeaderValue,
    pub port: HeaderValue,
}

/// The peer's address, the listener's port and the first `Host`, as header values.
#[derive(Clone, Debug)]
pub struct ConnectionText {
    host: OnceLock<HostText>,
    peer: IpAddr,
    peer_text: HeaderValue,
    port_text: HeaderValue,
}

impl ConnectionText {
    pub fn new(peer: IpAddr, listener_port: u16) -> Self {
        Self {
            host: OnceLock::new(),
            peer,
            peer_text: ip_value(peer),
            port_text: HeaderValue::from(listener_port),
        }
    }

    /// Values of this `Host`, if it is the connection's first one.
    pub fn host(&self, raw: &HeaderValue) -> Option<&HostText> {
        self.host
            .get()
            .filter(|first| first.raw.as_bytes() == raw.as_bytes())
    }

    /// The connection's first `Host`, if it equals `raw`.
    pub fn host_value(&self, raw: &[u8]) -> Option<HeaderValue> {
        let first = self.host.get()?;
        (first.raw.as_bytes() == raw).then(|| first.raw.clone())
    }

    /// Stores the values of the first `Host`.
    pub fn remember_host(&self, make: impl FnOnce() -> Option<HostText>) {
        if self.host.get().is_none()
            && let Some(text) = make()
        {
            // A concurrent request may have stored an equivalent value first.
            drop(self.host.set(text));
        }
    }

    /// An address as a header value, shared if it is the peer's.
    pub fn ip(&self, address: IpAddr) -> HeaderValue {
        if address == self.peer {
            self.peer_text.clone()
        } else {
            ip_value(address)
        }
    }

    /// A port given as digits, shared if it is the listener's.
    pub fn port(&self, digits: &[u8]) -> HeaderValue {
        if digits == self.port_text.as_bytes() {
            self.port_text.clone()
        } else {
            HeaderValue::from_bytes(digits).expect("made of digits")
        }
    }
}

fn ip_value(address: IpAddr) -> HeaderValue {
    HeaderValue::from_bytes(IpText::of(address).as_bytes()).expect("an address is plain text")
}
