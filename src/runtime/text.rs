//! Header values that stay the same for a connection, so that they are made only once.

use std::{net::IpAddr, sync::OnceLock};

use http::HeaderValue;

use crate::{base::net::IpText, chain::Scheme};

/// What a `Host` comes to. A browser sends the same one with every request of a connection.
#[derive(Clone, Debug)]
pub struct HostText {
    /// As the client sent it.
    pub raw: HeaderValue,
    /// The scheme that the rest was made for.
    pub scheme: Scheme,
    /// As routes know it.
    pub name: Box<str>,
    /// As it stands in the address bar.
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

    /// What this `Host` comes to, if it is the connection's first one.
    pub fn host(&self, raw: &HeaderValue) -> Option<&HostText> {
        self.host
            .get()
            .filter(|known| known.raw.as_bytes() == raw.as_bytes())
    }

    /// The connection's first `Host`, if it is this one.
    pub fn host_value(&self, raw: &[u8]) -> Option<HeaderValue> {
        let known = self.host.get()?;
        (known.raw.as_bytes() == raw).then(|| known.raw.clone())
    }

    /// Keeps what the first `Host` comes to.
    pub fn remember_host(&self, make: impl FnOnce() -> Option<HostText>) {
        if self.host.get().is_none()
            && let Some(text) = make()
        {
            // Another request may have been faster, with one as good.
            drop(self.host.set(text));
        }
    }

    /// An address, ready-made if it is the peer's.
    pub fn ip(&self, address: IpAddr) -> HeaderValue {
        if address == self.peer {
            self.peer_text.clone()
        } else {
            ip_value(address)
        }
    }

    /// A port given as digits, ready-made if it is the listener's.
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
