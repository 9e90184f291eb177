//! Header values that stay the same for a connection, so that they are created only once.

use std::{
    cell::RefCell,
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use edgeway_base::net::IpText;
use edgeway_core::chain::Scheme;
use http::HeaderValue;

/// Number of hosts whose values a thread keeps for its next connections.
const RECENT: usize = 8;

thread_local! {
    static HOSTS: RefCell<RecentHosts> = RefCell::default();
}

/// Values that follow from a `Host` and a scheme, and from nothing else. A browser sends the same
/// one with every request of a connection, and most clients send one of a few.
#[derive(Debug, PartialEq, Eq)]
pub struct HostText {
    /// The value in its normal form, which is also the host as shown in the address bar.
    pub raw: HeaderValue,
    /// The scheme that the other values were made for.
    pub scheme: Scheme,
    /// The name as used by routes.
    pub name: Box<str>,
    pub port: HeaderValue,
}

/// The hosts that connections of a thread named last.
#[derive(Default)]
struct RecentHosts {
    texts: [Option<Arc<HostText>>; RECENT],
    next: usize,
}

impl RecentHosts {
    fn find(&self, raw: &HeaderValue, scheme: Scheme) -> Option<Arc<HostText>> {
        let mut texts = self.texts.iter().flatten();
        let same =
            |text: &&Arc<HostText>| text.scheme == scheme && text.raw.as_bytes() == raw.as_bytes();
        texts.find(same).map(Arc::clone)
    }

    /// Stores a text in place of the oldest.
    fn push(&mut self, text: Arc<HostText>) {
        self.texts[self.next] = Some(text);
        self.next = (self.next + 1) % RECENT;
    }
}

/// The peer's address, the listener's port and the first `Host`, as header values.
#[derive(Clone, Debug)]
pub struct ConnectionText {
    host: OnceLock<Arc<HostText>>,
    /// Forwarding headers of requests for this host.
    forwarding: OnceLock<Arc<[u8]>>,
    peer: IpAddr,
    peer_text: HeaderValue,
    port_text: HeaderValue,
}

impl ConnectionText {
    /// Creates the values of a connection. `listener_port` is the listener's port in digits.
    pub fn new(peer: IpAddr, listener_port: &HeaderValue) -> Self {
        Self {
            host: OnceLock::new(),
            forwarding: OnceLock::new(),
            peer,
            peer_text: ip_value(peer),
            port_text: listener_port.clone(),
        }
    }

    /// Values of this `Host`, if it is the connection's first one.
    pub fn host(&self, raw: &[u8]) -> Option<&HostText> {
        let first = self.host.get()?;
        (first.raw.as_bytes() == raw).then_some(first)
    }

    /// Takes the values of this `Host` from an earlier connection, if this one has none yet. The
    /// client must be no trusted proxy, which may have reported another host.
    pub fn recall_host(&self, raw: &HeaderValue, scheme: Scheme) -> Option<&HostText> {
        if self.host.get().is_some() {
            return None;
        }
        let text = HOSTS.with_borrow(|hosts| hosts.find(raw, scheme))?;
        drop(self.host.set(text));
        // A concurrent request may have stored that of another host first.
        self.host(raw.as_bytes())
    }

    /// Stores the values of the first `Host`, for the next connections of this thread too.
    pub fn remember_host(&self, make: impl FnOnce() -> Option<HostText>) {
        if self.host.get().is_none()
            && let Some(text) = make()
        {
            let text = Arc::new(text);
            HOSTS.with_borrow_mut(|hosts| hosts.push(Arc::clone(&text)));
            // A concurrent request may have stored that of another host first.
            drop(self.host.set(text));
        }
    }

    /// Header lines that report the peer and the connection's first `Host` to backends, from the
    /// first call on. `None` if `client` is not the peer.
    pub fn forwarding_lines(
        &self,
        client: IpAddr,
        make: impl FnOnce() -> Arc<[u8]>,
    ) -> Option<&Arc<[u8]>> {
        (client == self.peer).then(|| self.forwarding.get_or_init(make))
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
    HeaderValue::from_bytes(IpText::new(address).as_bytes()).expect("an address is plain text")
}
