//! A request as filters see it: headers, client, route, facts for the log, typed slots.

use std::{
    any::{Any, TypeId},
    fmt, mem,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, LazyLock},
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderName, HeaderValue, StatusCode, response};
use pingora::http::RequestHeader;
use smart_default::SmartDefault;

use super::{
    AuditNote, Body, CacheFacts, Chain, ClientCertificate, Identity, Reply, RequestTrace,
    RerouteFacts, failed_request::is_failed,
};
use crate::base::{shared_copy::shared_copy, trace_context::write_hex};

/// A request on its way through the gateway.
pub struct Exchange<'a> {
    /// Request line and headers as the client sent them, except that the target is in normal form,
    /// without an authority, and that headers which clients may not send are removed.
    pub head: &'a RequestHeader,
    pub facts: &'a mut RequestFacts,
}

/// Everything known about one request; becomes its log line.
#[derive(Debug)]
pub struct RequestFacts {
    pub client: Client,
    pub request_id: RequestId,
    /// Ids and times of the request for its trace; `None` without `tracing`.
    pub trace: Option<RequestTrace>,
    /// Name of the route, or `None` before a route has matched.
    pub route: Option<Arc<str>>,
    pub class: Class,
    /// Proven identity of the client; empty if it has shown something that proves nothing, and `None`
    /// if it has shown nothing.
    pub identity: Option<Box<Identity>>,
    /// Name of the rate limit that refused or delayed the request.
    pub limit: Option<Arc<str>>,
    /// Entry for the audit log; written when the request is over.
    pub noted: Option<Box<AuditNote>>,
    pub started: Instant,
    /// Time from the first byte of the request to the first byte of the response.
    pub first_byte: Option<Duration>,
    /// Time from the first byte of the request to the end of the response; zero until then.
    pub total: Duration,
    /// Time of the wall clock at the end of the response, as logs show it; 1970 until then.
    pub ended: SystemTime,
    pub upstream: UpstreamFacts,
    /// Release of the app that the request is for, if its upstream has releases.
    pub release: Option<Arc<str>>,
    /// Status sent to the client; 0 until one is sent, and if the client disconnects first.
    pub status: u16,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// Request body, as far as a filter wanted it.
    pub body: Body,
    /// Reason for the refusal or failure of the request: a fixed word.
    pub reason: Option<&'static str>,
    /// Reason, for the log, why the request passed with less than its full checks or service: a
    /// fixed word.
    pub degraded: Option<&'static str>,
    /// Reply that ends the request before anything of it is sent to a backend; set by a filter in
    /// the upstream phase.
    pub refused: Option<Box<Reply>>,
    /// Result of the cache; `None` on a route without a cache.
    pub cache: Option<CacheFacts>,
    /// Set once the response has the content coding that this client gets, or will never have one:
    /// filters must not negotiate it again.
    pub is_coding_settled: bool,
    /// Path and query that a filter set for the backend in place of the client's own.
    pub rewritten: Option<Box<[u8]>>,
    /// Set once another route or path took the place of the request's own.
    pub rerouted: Option<Box<RerouteFacts>>,
    /// Changes that a filter made to the request sent on; also used for background requests that
    /// fetch the same response again.
    pub carried: Option<Arc<dyn Any + Send + Sync>>,
    /// Header lines that are ready to be written: of the request to a backend, then of the response.
    pub lines: ReadyLines,
    scope: Scope,
    slots: Vec<(Scope, Box<dyn Any + Send + Sync>)>,
}

/// Chain of filters that a request passes: that of its route, of a route that takes its place, or the
/// guards of another route. Filters see what those of their own chain keep, and nothing else: what
/// one route's `jwt` has proven says nothing to another's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Scope {
    /// Number of routes before this one.
    routes: u32,
    /// Number of the route with the guards, from 1 on; 0 for a route's own chain.
    guards: u32,
}

/// State that the guards of another route keep of a request, apart from its own route.
#[derive(Debug)]
pub struct KeptApart {
    scope: Scope,
    identity: Option<Box<Identity>>,
    rewritten: Option<Box<[u8]>>,
    carried: Option<Arc<dyn Any + Send + Sync>>,
}

/// Header lines that are written as they are, besides those in the header map.
///
/// A dozen headers that never change cost a hundred instructions each to insert into a map, take
/// out and write. As one piece of text they cost next to nothing.
#[derive(Clone, Debug, Default)]
pub enum ReadyLines {
    /// Headers go into the header map, where every filter finds them.
    #[default]
    NotTaken,
    /// The response is written without the header map, and no later filter needs every header.
    Taken,
    /// Lines to write. Each line ends with CRLF, and its name is not in the header map.
    Given(Arc<[u8]>),
}

impl ReadyLines {
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Given(lines) => lines,
            Self::Taken | Self::NotTaken => &[],
        }
    }
}

/// Facts about the request at the upstream.
#[derive(Debug, Default)]
pub struct UpstreamFacts {
    pub name: Option<Arc<str>>,
    /// Backend of the last attempt.
    pub backend: Option<Arc<str>>,
    /// Backend of the first attempt that failed and was followed by another one; the reason is in
    /// [`RequestFacts::degraded`].
    pub failed: Option<Arc<str>>,
    pub attempts: u32,
    /// Status of the backend's response; 0 if there was none.
    pub status: u16,
    /// Time from the start of the request to the start of the last attempt.
    pub started: Option<Duration>,
    /// Time from the start of the last attempt to its response headers.
    pub first_byte: Option<Duration>,
    /// True if the backend connection came from the pool.
    pub reused: bool,
}

/// The client of a request. The default is a placeholder for tests and for `explain`.
#[derive(Clone, Debug, PartialEq, Eq, SmartDefault)]
pub struct Client {
    /// Address of the client: the peer's own, or the one reported by a trusted proxy.
    #[default(Ipv4Addr::LOCALHOST.into())]
    pub ip: IpAddr,
    /// Address of the peer.
    #[default(Ipv4Addr::LOCALHOST.into())]
    pub peer: IpAddr,
    pub port: u16,
    /// True if the peer is listed in `trusted_proxies`.
    pub is_trusted: bool,
    /// Scheme the client used, as far as known: the listener's, or the one reported by a trusted
    /// proxy.
    pub scheme: Scheme,
    pub protocol: Protocol,
    /// Name of the listener.
    #[default(Arc::clone(&NO_NAME))]
    pub listener: Arc<str>,
    /// Port of the listener, 0 for a unix socket.
    pub listener_port: u16,
    pub certificate: Certificate,
    /// True once the request's own headers report the client, as a backend gets them.
    pub is_reported: bool,
    /// Parameters of the connection's TLS; `None` without TLS.
    pub tls: Option<TlsParameters>,
}

/// Parameters of TLS, by their standard names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsParameters {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    pub cipher: &'static str,
    /// Protocol chosen by ALPN, if any was.
    pub alpn: Option<&'static str>,
    /// Server name (SNI) that the client requested.
    pub server_name: Option<Arc<str>>,
}

/// Client certificate, if the handshake requested one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Certificate {
    /// The listener requests no certificates.
    #[default]
    NotAsked,
    /// The listener requested a certificate and the client sent none.
    Absent,
    /// The certificate was verified in the handshake.
    Verified(Arc<ClientCertificate>),
}

edgeway_base::enum_table! {
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub enum Scheme => as_str {
        #[default]
        Http = "http",
        Https = "https",
    }
}

edgeway_base::enum_table! {
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub enum Protocol => as_str {
        Http10 = "HTTP/1.0",
        #[default]
        Http11 = "HTTP/1.1",
        Http2 = "HTTP/2",
    }
}

edgeway_base::enum_table! {
    /// Class of a request, set once by the route match; limits, cache and metrics use it.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub enum Class => name {
        /// Build output: `/_next/static/*`, and file extensions of scripts, styles, fonts.
        Static = "static",
        /// Images: `/_next/image` and file extensions of images.
        Image = "image",
        /// A prefetch of a router.
        Prefetch = "prefetch",
        /// A navigation: HTML, or its RSC form.
        #[default]
        Page = "page",
        /// A server action.
        Action = "action",
        /// Everything below `/api/`, and everything in no other class.
        Api = "api",
    }
}

/// Shared empty name: every `RequestFacts` starts with it, so it is allocated once.
static NO_NAME: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from(""));

/// A request id: 32 hexadecimal digits generated here, or up to 64 bytes from a trusted proxy.
///
/// Stored as the header value that both the request and the response carry.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    pub const MAX: usize = 64;

    pub const fn empty() -> Self {
        Self(HeaderValue::from_static(""))
    }

    /// Makes a new id from 128 random bits.
    pub fn random(high: u64, low: u64) -> Self {
        let mut text = [0; 32];
        write_hex(&mut text[..16], &high.to_be_bytes());
        write_hex(&mut text[16..], &low.to_be_bytes());
        Self(HeaderValue::from_maybe_shared(shared_copy(&text)).expect("made of digits"))
    }

    /// Accepts an id from outside; `None` if it is empty, too long or has bytes outside
    /// `[A-Za-z0-9._:=+/@-]`.
    pub fn foreign(bytes: &[u8]) -> Option<Self> {
        let plain = |b: &u8| b.is_ascii_alphanumeric() || b"._:=+/@-".contains(b);
        if bytes.is_empty() || bytes.len() > Self::MAX || !bytes.iter().all(plain) {
            return None;
        }
        HeaderValue::from_maybe_shared(shared_copy(bytes))
            .ok()
            .map(Self)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    /// Returns the bytes of the id: visible ASCII that needs no quoting anywhere.
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

impl RequestFacts {
    /// Returns the status of the response in place of its own, if it is the page of an error.
    pub fn page_status(&self) -> Option<StatusCode> {
        self.rerouted.as_ref()?.page?.status
    }

    /// Gives a response what it has of the error whose page it is. Most are none.
    pub fn make_page(&self, head: &mut response::Parts) {
        if let Some(rerouted) = &self.rerouted {
            rerouted.make_page(head);
        }
    }

    /// Returns true if the response is the page of an error, which has no page itself.
    pub fn is_page(&self) -> bool {
        let rerouted = self.rerouted.as_ref();
        rerouted.is_some_and(|rerouted| rerouted.page.is_some())
    }

    /// Returns the reason word of the refusal, failure or degradation, if any.
    pub fn why(&self) -> Option<&'static str> {
        self.reason.or(self.degraded)
    }

    /// Returns the time until the first byte of the response, or until the end of a request without
    /// one: its client left, or was refused.
    pub fn waited(&self) -> Duration {
        self.first_byte.unwrap_or(self.total)
    }

    /// Returns true if the gateway or a backend failed the request.
    pub fn is_failed(&self) -> bool {
        is_failed(self.status, self.reason)
    }

    /// Returns the identity, which identity filters fill in; creates an empty one if there is none.
    pub fn identity_mut(&mut self) -> &mut Identity {
        self.identity.get_or_insert_default()
    }

    /// Returns an id for a request that has none: that of its trace if the trace began here, so that
    /// there is one to search for.
    pub fn new_request_id(&self) -> RequestId {
        let trace = self.trace.as_ref().filter(|trace| trace.parent.is_none());
        let random = || (fastrand::u64(..), fastrand::u64(..));
        let (high, low) = trace.map_or_else(random, RequestTrace::halves);
        RequestId::random(high, low)
    }

    pub fn new(started: Instant) -> Self {
        Self {
            client: Client::default(),
            request_id: RequestId::empty(),
            trace: None,
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
            rerouted: None,
            carried: None,
            started,
            first_byte: None,
            total: Duration::ZERO,
            ended: SystemTime::UNIX_EPOCH,
            upstream: UpstreamFacts::default(),
            release: None,
            status: 0,
            bytes_sent: 0,
            bytes_received: 0,
            body: Body::NotRead,
            reason: None,
            lines: ReadyLines::NotTaken,
            scope: Scope::default(),
            slots: Vec::new(),
        }
    }

    /// Returns this filter's own state, if it has put any. `T` is private to the filter's folder,
    /// so no other filter can reach it; nor can one of another route.
    pub fn slot<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.own_slots().find_map(|slot| slot.downcast_ref())
    }

    /// Returns what this filter keeps of the request on all routes, those that guard it included.
    pub fn slots_of_all_routes<T: Any + Send + Sync>(&self) -> impl Iterator<Item = &T> {
        let slots = self.slots.iter();
        slots.filter_map(|(_, slot)| slot.downcast_ref())
    }

    /// Returns true if some filter has put a value of this type.
    pub(super) fn has_slot(&self, of: TypeId) -> bool {
        self.own_slots().any(|slot| slot.as_ref().type_id() == of)
    }

    fn own_slots(&self) -> impl Iterator<Item = &Box<dyn Any + Send + Sync>> {
        let slots = self.slots.iter();
        slots.filter_map(|(scope, slot)| (*scope == self.scope).then_some(slot))
    }

    pub fn slot_mut<T: Any + Send + Sync>(&mut self) -> Option<&mut T> {
        let mut slots = self.slots.iter_mut();
        slots.find_map(|(scope, slot)| {
            let slot = (*scope == self.scope).then_some(slot)?;
            slot.downcast_mut()
        })
    }

    /// Stores or replaces this filter's own state.
    pub fn put<T: Any + Send + Sync>(&mut self, value: T) {
        match self.slot_mut::<T>() {
            Some(slot) => *slot = value,
            None => self.slots.push((self.scope, Box::new(value))),
        }
    }

    /// Takes this filter's own state out.
    pub fn take<T: Any + Send + Sync>(&mut self) -> Option<T> {
        let mut slots = self.slots.iter();
        let index = slots.position(|(scope, slot)| *scope == self.scope && slot.is::<T>())?;
        let (_, slot) = self.slots.swap_remove(index);
        slot.downcast().ok().map(|boxed| *boxed)
    }

    /// Returns what the guards of the route at `index` begin with: nothing that other filters kept,
    /// and an identity only if they prove none themselves. `before` is of the guards before them.
    pub fn apart(&self, index: usize, guards: &Chain, before: Option<KeptApart>) -> KeptApart {
        let before = before.and_then(|kept| kept.identity);
        let identity = self.identity.as_ref().or(before.as_ref());
        KeptApart {
            scope: Scope {
                routes: self.scope.routes,
                guards: u32::try_from(index + 1).unwrap_or(u32::MAX),
            },
            identity: identity.filter(|_| !guards.proves_identity()).cloned(),
            rewritten: self.rewritten.clone(),
            carried: None,
        }
    }

    /// Exchanges what the request's own chain and other guards keep: before and after these run.
    pub fn swap(&mut self, apart: &mut KeptApart) {
        mem::swap(&mut self.scope, &mut apart.scope);
        mem::swap(&mut self.identity, &mut apart.identity);
        mem::swap(&mut self.rewritten, &mut apart.rewritten);
        mem::swap(&mut self.carried, &mut apart.carried);
    }

    /// Ends the time of guards of another route, which have let the request pass. The response may be
    /// for the client whose identity they have proven, which says nothing to other filters.
    pub fn pass(&mut self, guards: &KeptApart) {
        if guards.identity.is_some() {
            self.identity_mut();
        }
    }

    /// Prepares the request for the chain of another route. What the filters before it keep, such as
    /// places of limits, stays until the request is over, and is not seen by others.
    pub fn leave_route(&mut self) {
        self.scope.routes += 1;
        self.rewritten = None;
        self.carried = None;
    }

    /// Removes an identity that another route's filters have proven, if these prove one themselves.
    pub fn meet(&mut self, chain: &Chain) {
        if chain.proves_identity()
            && let Some(identity) = &mut self.identity
        {
            **identity = Identity::default();
        }
    }
}

impl RequestFacts {
    /// Returns path and query that the client sent, in normal form, of the request with this `head`.
    pub fn sent_target<'t>(&'t self, head: &'t RequestHeader) -> &'t [u8] {
        match &self.rerouted {
            Some(rerouted) => &rerouted.original,
            None => head.raw_path(),
        }
    }
}

impl<'a> Exchange<'a> {
    pub fn new(head: &'a RequestHeader, facts: &'a mut RequestFacts) -> Self {
        Self { head, facts }
    }
}

impl Exchange<'_> {
    /// Returns path and query that the client sent, in normal form.
    pub fn sent_target(&self) -> &[u8] {
        self.facts.sent_target(self.head)
    }

    /// Returns what the gateway wrote of a target that it changed: all but the client's own query.
    pub fn written_target(&self) -> Option<&[u8]> {
        let rerouted = self.facts.rerouted.as_ref()?;
        let target = self.head.raw_path();
        let end = target.len().saturating_sub(rerouted.own_query?);
        (*rerouted.original != *target).then(|| &target[..end])
    }

    /// Returns the first value of a request header.
    pub fn header(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.head.headers.get(name)
    }

    /// Returns the first value of a request header as text; `None` if absent or not visible ASCII.
    pub fn header_str(&self, name: &HeaderName) -> Option<&str> {
        self.header(name)?.to_str().ok()
    }

    /// Returns the host that the client sent, with its port if it has one.
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
    fn slots_are_distinguished_by_type() {
        let mut facts = RequestFacts::new(crate::base::clock::Clock::test().now());
        facts.put(1u8);
        facts.put("text");
        facts.put(2u8);
        assert_eq!(facts.slot::<u8>(), Some(&2));
        assert_eq!(facts.take::<&str>(), Some("text"));
        assert_eq!(facts.slot::<&str>(), None);
    }
}
