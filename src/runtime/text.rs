//! Header values that stay the same for a connection, so that they are made only once.

use std::net::IpAddr;

use http::HeaderValue;

use crate::base::net::IpText;

/// The peer's address and the listener's port, as header values.
#[derive(Clone, Debug)]
pub struct ConnectionText {
    peer: IpAddr,
    peer_text: HeaderValue,
    port: u16,
    port_text: HeaderValue,
}

impl ConnectionText {
    pub fn new(peer: IpAddr, listener_port: u16) -> Self {
        Self {
            peer,
            peer_text: ip_value(peer),
            port: listener_port,
            port_text: HeaderValue::from(listener_port),
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
    pub fn port(&self, digits: &str) -> HeaderValue {
        if digits.parse() == Ok(self.port) {
            self.port_text.clone()
        } else {
            HeaderValue::from_str(digits).expect("made of digits")
        }
    }
}

fn ip_value(address: IpAddr) -> HeaderValue {
    HeaderValue::from_bytes(IpText::of(address).as_bytes()).expect("an address is plain text")
}
