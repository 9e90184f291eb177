//! One request as filters see it: heads, client, route, facts for the log, typed slots.

use std::{
    any::Any,
    fmt,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use http::{HeaderName, HeaderValue};
use pingora::http::RequestHeader;

use super::{Body, CacheFacts, ClientCertificate, Identity, Noted, Reply};

/// A request on its way through the gateway.
pub struct Exchange<'a> {
    /// The request head as the client sent it.
    pub head: &'a RequestHeader,
    pub facts: &'a mut Facts,
}

/// All that is known of one request; becomes its log line.
#[derive(Debug)]
pub struct Facts {
    pub client: Client,
    pub request_id: RequestId,
    /// The route's name, or `None` while none has matched.
    pub route: Option<Arc<str>>,
    pub class: Class,
    /// Who the client has proven to be; `None` while it has proven nothing.
    pub identity: Option<Box<Identity>>,
    /// The rate limit that refused or delayed the request.
    pub limit: Option<Arc<str>>,
    /// What is to stand in the audit log besides; written when the request is over.
    pub noted: Option<Box<Noted>>,
    pub started: Instant,
    /// From the first byte of the request's head to the first byte of the answer.
    pub first_byte: Option<Duration>,
    /// From the first byte of the request's head to the end of the answer; zero until then.
    pub total: Duration,
    pub upstream: UpstreamFacts,
    /// Status sent to the client; 0 while none was, and for ever if the client left first.
    pub status: u16,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// The request's body, as far as a filter wanted it.
    pub body: Body,
    /// Why the request was refused or failed: a fixed word.
    pub reason: Option<&'static str>,
    /// Why it was let pass with less than was meant for it: a fixed word, for the log.
    pub degraded: Option<&'static str>,
    /// The reply that ends it before anything of it goes to a backend, as a filter decided in
    /// the upstream phase.
    pub refused: Option<Box<Reply>>,
    /// What the cache did; `None` on a route without one.
    pub cache: Option<CacheFacts>,
    /// The answer comes in the coding that this client gets, or in none for good: it is not
    /// to be looked at again.
    pub is_coding_settled: bool,
    /// Path and query that go to the backend instead of the client's own, as a filter said.
    pub rewritten: Option<Box<[u8]>>,
    /// What a filter has said of the request that goes on, for requests of ours as well that
    /// fetch the same answer anew.
    pub carried: Option<Arc<dyn Any + Send + Sync>>,
    /// Header lines of the answer that are ready to be written.
    pub lines: ReadyLines,
    slots: Vec<Box<dyn Any + Send + Sync>>,
}

/// Header lines of an answer that go out as they are, beside the head's own.
///
/// A dozen headers that never change cost a hundred instructions each to put into a map, to
/// take out and to write, and next to nothing as one piece of text.
#[derive(Clone, Debug, Default)]
pub enum ReadyLines {
    /// Headers go into the head, where every filter and HTTP/2 find them.
    #[default]
    NotTaken,
    /// The head goes out as HTTP/1, and no filter still to come asks for every header.
    Taken,
    /// To be written. Each line ends with CRLF, and its name is in the head nowhere.
    Given(Arc<[u8]>),
}

/// What a request met upstream.
#[derive(Debug, Default)]
pub struct UpstreamFacts {
    pub name: Option<Arc<str>>,
    /// The backend of the last try.
    pub backend: Option<Arc<str>>,
    pub tries: u32,
    /// Status the backend gave; 0 if it gave none.
    pub status: u16,
    /// From the request's start to the last try's start.
    pub started: Option<Duration>,
    /// From the last try's start to the head of its answer.
    pub first_byte: Option<Duration>,
    /// The backend's connection came from the pool.
    pub reused: bool,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// The client's address: the peer's, or the one that a trusted proxy names.
    pub ip: IpAddr,
    /// The peer's own address.
    pub peer: IpAddr,
    pub port: u16,
    /// The peer is one of `trusted_proxies`.
    pub is_trusted: bool,
    /// The scheme the client used, as far as we know: ours, or a trusted proxy's word.
    pub scheme: Scheme,
    pub protocol: Protocol,
    /// Name of the listener.
    pub listener: Arc<str>,
    /// Port of the listener, 0 for a unix socket.
    pub listener_port: u16,
    pub certificate: Certificate,
}

/// The client's certificate, as far as one was asked for in the handshake.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Certificate {
    /// The listener asks nobody for one.
    #[default]
    NotAsked,
    /// It was asked and has shown none.
    Absent,
    /// One that was verified there.
    Verified(Arc<ClientCertificate>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http10,
    Http11,
    Http2,
}

/// The request's class, fixed once by the route match: what limits, cache and metrics go by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Class {
    /// Files that a build produced: `/_next/static/*`, and file endings of scripts, styles, fonts.
    Static,
    /// Pictures: `/_next/image` and image file endings.
    Image,
    /// A router's prefetch.
    Prefetch,
    /// A navigation: HTML, or the RSC form of one.
    #[default]
    Page,
    /// A server action.
    Action,
    /// Everything below `/api/`, and whatever is neither of the others.
    Api,
}

impl Class {
    pub const ALL: [Self; 6] = [
        Self::Static,
        Self::Image,
        Self::Prefetch,
        Self::Page,
        Self::Action,
        Self::Api,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Image => "image",
            Self::Prefetch => "prefetch",
            Self::Page => "page",
            Self::Action => "action",
            Self::Api => "api",
        }
    }
}

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl Protocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// Every request's facts begin with it, so it is made once.
static NO_NAME: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from(""));

impl Default for Client {
    /// Nobody in particular, for tests and for `explain`.
    fn default() -> Self {
        Self {
            ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 0,
            is_trusted: false,
            scheme: Scheme::Http,
            protocol: Protocol::Http11,
            listener: Arc::clone(&NO_NAME),
            listener_port: 0,
            certificate: Certificate::NotAsked,
        }
    }
}

/// A request id: 32 hexadecimal digits of ours, or a trusted proxy's own, up to 64 bytes.
///
/// Kept as the header value that it becomes, on the way in and on the way back.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    pub const MAX: usize = 64;

    pub const fn empty() -> Self {
        Self(HeaderValue::from_static(""))
    }

    /// A fresh one from 128 random bits.
    pub fn random(high: u64, low: u64) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 32];
        for (word, half) in [high, low].into_iter().zip(text.chunks_exact_mut(16)) {
            for (byte, pair) in word.to_be_bytes().into_iter().zip(half.chunks_exact_mut(2)) {
                pair[0] = DIGITS[usize::from(byte >> 4)];
                pair[1] = DIGITS[usize::from(byte & 15)];
            }
        }
        Self(HeaderValue::from_bytes(&text).expect("made of digits"))
    }

    /// An id that somebody else chose; `None` if it is empty, too long or has bytes
    /// outside `[A-Za-z0-9._:=+/@-]`.
    pub fn foreign(bytes: &[u8]) -> Option<Self> {
        let plain = |b: &u8| b.is_ascii_alphanumeric() || b"._:=+/@-".contains(b);
        if bytes.is_empty() || bytes.len() > Self::MAX || !bytes.iter().all(plain) {
            return None;
        }
        HeaderValue::from_bytes(bytes).ok().map(Self)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    /// Its bytes, all of them visible ASCII that needs no quoting anywhere.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    pub fn header_value(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Facts {
    /// The fixed word for what was not as it should be, if anything was.
    pub fn why(&self) -> Option<&'static str> {
        self.reason.or(self.degraded)
    }

    /// Where identity filters write down what the client has proven.
    pub fn identity_mut(&mut self) -> &mut Identity {
        self.identity.get_or_insert_default()
    }

    pub fn new(started: Instant) -> Self {
        Self {
            client: Client::default(),
            request_id: RequestId::empty(),
            route: None,
            class: Class::default(),
            identity: None,
            limit: None,
            noted: None,
            degraded: None,
            refused: None,
            cache: None,
            is_coding_settled: false,
            rewritten: None,
            carried: None,
            started,
            first_byte: None,
            total: Duration::ZERO,
            upstream: UpstreamFacts::default(),
            status: 0,
            bytes_sent: 0,
            bytes_received: 0,
            body: Body::NotRead,
            reason: None,
            lines: ReadyLines::NotTaken,
            slots: Vec::new(),
        }
    }

    /// This filter's own state, if it has put one. `T` is private to the filter's folder,
    /// so nobody else can reach it.
    pub fn slot<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.slots.iter().find_map(|slot| slot.downcast_ref())
    }

    pub fn slot_mut<T: Any + Send + Sync>(&mut self) -> Option<&mut T> {
        self.slots.iter_mut().find_map(|slot| slot.downcast_mut())
    }

    /// Puts, or replaces, this filter's own state.
    pub fn put<T: Any + Send + Sync>(&mut self, value: T) {
        match self.slot_mut::<T>() {
            Some(slot) => *slot = value,
            None => self.slots.push(Box::new(value)),
        }
    }

    /// Takes this filter's own state out.
    pub fn take<T: Any + Send + Sync>(&mut self) -> Option<T> {
        let index = self.slots.iter().position(|slot| slot.is::<T>())?;
        let slot = self.slots.swap_remove(index);
        slot.downcast().ok().map(|boxed| *boxed)
    }
}

impl Exchange<'_> {
    /// The first value of a request header.
    pub fn header(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.head.headers.get(name)
    }

    /// The first value of a request header as text; `None` if absent or not visible ASCII.
    pub fn header_str(&self, name: &HeaderName) -> Option<&str> {
        self.header(name)?.to_str().ok()
    }

    /// The `Host` the client named, with its port if it had one.
    pub fn host(&self) -> &str {
        self.head
            .uri
            .authority()
            .map(http::uri::Authority::as_str)
            .or_else(|| self.header_str(&http::header::HOST))
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_id_is_32_hex_digits() {
        let id = RequestId::random(0x0123_4567_89ab_cdef, u64::MAX);
        assert_eq!(id.as_str(), "0123456789abcdefffffffffffffffff");
    }

    #[test]
    fn a_foreign_id_is_short_and_plain() {
        assert_eq!(RequestId::foreign(b"abc-1").unwrap().as_str(), "abc-1");
        assert_eq!(RequestId::foreign(b""), None);
        assert_eq!(RequestId::foreign(b"a b"), None);
        assert_eq!(RequestId::foreign(b"a\r\nx: y"), None);
        assert_eq!(RequestId::foreign(&[b'a'; 65]), None);
    }

    #[test]
    fn slots_are_told_apart_by_type() {
        let mut facts = Facts::new(crate::base::clock::Clock::test().now());
        facts.put(1u8);
        facts.put("text");
        facts.put(2u8);
        assert_eq!(facts.slot::<u8>(), Some(&2));
        assert_eq!(facts.take::<&str>(), Some("text"));
        assert_eq!(facts.slot::<&str>(), None);
    }
}
