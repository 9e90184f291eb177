//! Spans of a finished request, with the names of OpenTelemetry's semantic conventions for HTTP.

use std::{
    borrow::Cow,
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, HeaderValue, Method, header};
use pingora::http::RequestHeader;

use super::wire::{EncodedSpans, Message};
use crate::{
    base::trace_context::{TRACESTATE, TraceContext, is_tracestate},
    chain::{
        Protocol, RequestFacts, RequestTrace, TraceAttempt, TraceStep, host::public_host, span_id,
    },
};

/// Longest text of a client that becomes an attribute. A client could fill the collector with
/// longer ones.
const LONGEST: usize = 1024;

/// Filters with a span of their own, and its name. The other ones take no time worth one, and have
/// a span if they ended the request.
const FILTERS: [(&str, &str); 10] = [
    ("access", "access"),
    ("api_key", "auth api_key"),
    ("basic_auth", "auth basic_auth"),
    ("client_cert", "auth client_cert"),
    ("csrf", "csrf"),
    ("forward_auth", "auth forward_auth"),
    ("in_flight", "limit in_flight"),
    ("jwt", "auth jwt"),
    ("plugins", "plugin"),
    ("rate_limit", "limit rate_limit"),
];

/// Parts of the gateway that are no filters.
const PARTS: [&str; 3] = ["route", "cache", "queue"];

/// Duration from which any filter has a span.
const LONG: Duration = Duration::from_millis(1);

/// Fields of `Span`, `Link` and `Status`.
mod field {
    pub(super) const SPANS: u32 = 2;
    pub(super) const TRACE_ID: u32 = 1;
    pub(super) const SPAN_ID: u32 = 2;
    pub(super) const TRACE_STATE: u32 = 3;
    pub(super) const PARENT: u32 = 4;
    pub(super) const NAME: u32 = 5;
    pub(super) const KIND: u32 = 6;
    pub(super) const STARTED: u32 = 7;
    pub(super) const ENDED: u32 = 8;
    pub(super) const ATTRIBUTES: u32 = 9;
    pub(super) const LINKS: u32 = 13;
    pub(super) const STATUS: u32 = 15;
    pub(super) const FLAGS: u32 = 16;
    pub(super) const LINK_FLAGS: u32 = 6;
    pub(super) const STATUS_MESSAGE: u32 = 2;
    pub(super) const STATUS_CODE: u32 = 3;
}

/// `SPAN_KIND_…`.
#[derive(Clone, Copy)]
enum SpanKind {
    Internal = 1,
    Server = 2,
    Client = 3,
}

/// `STATUS_CODE_ERROR`.
const ERROR: u64 = 2;
/// Flags that tell whether the parent of a span is in another process.
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// Room for a usual span.
const SPAN_ROOM: usize = 1024;

/// A request that is over.
pub struct FinishedRequest<'a> {
    /// Request headers as the client sent them.
    pub head: &'a RequestHeader,
    pub facts: &'a RequestFacts,
    pub trace: &'a RequestTrace,
    /// Path of the route as written, or its name if it has more than one.
    pub route: Option<&'a str>,
    /// Redacts the secrets of a query.
    pub redact: &'a dyn Fn(&[u8]) -> Vec<u8>,
    /// True if the request is one of the gateway itself, which revalidates a stored response.
    pub is_background: bool,
}

/// Conversion of the request's times to wall clock time.
struct WallTime {
    now: Instant,
    wall: SystemTime,
}

impl WallTime {
    /// Returns nanoseconds since 1970.
    fn at(&self, instant: Instant) -> u64 {
        let time = self.wall - self.now.saturating_duration_since(instant);
        let since = time.duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0, |since| {
            u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
        })
    }
}

/// Begin of a span: what comes before its attributes.
struct SpanStart<'a> {
    id: u64,
    parent: Option<u64>,
    kind: SpanKind,
    /// Parts of the name.
    name: &'a [&'a str],
    started: Instant,
    ended: Instant,
}

/// Writer of the spans of one request.
struct Spans<'a> {
    trace: &'a RequestTrace,
    time: WallTime,
    state: String,
    encoded: Message,
    count: usize,
    /// The span that is written.
    span: Message,
}

impl Spans<'_> {
    fn begin(&mut self, start: &SpanStart<'_>) -> Attributes<'_> {
        let span = &mut self.span;
        span.clear();
        span.bytes(field::TRACE_ID, &self.trace.trace_id.to_be_bytes());
        span.bytes(field::SPAN_ID, &start.id.to_be_bytes());
        span.bytes(field::TRACE_STATE, self.state.as_bytes());
        if let Some(parent) = start.parent {
            span.bytes(field::PARENT, &parent.to_be_bytes());
        }
        span.text(field::NAME, start.name);
        span.number(field::KIND, start.kind as u64);
        span.fixed64(field::STARTED, self.time.at(start.started));
        span.fixed64(field::ENDED, self.time.at(start.ended));
        Attributes(span)
    }

    /// Completes the span that was begun. `error` is the description of its status, if it failed.
    fn end(&mut self, is_parent_remote: bool, error: Option<&str>) {
        let span = &mut self.span;
        let mut status = Message::default();
        if let Some(description) = error {
            status.bytes(field::STATUS_MESSAGE, description.as_bytes());
            status.number(field::STATUS_CODE, ERROR);
        }
        span.message(field::STATUS, status.as_bytes());
        // An exported span is a sampled one, also if that was decided at its end.
        let flags = self.trace.flags().with_sampled(true).bits();
        let remote = if is_parent_remote { IS_REMOTE } else { 0 };
        span.fixed32(field::FLAGS, u32::from(flags) | HAS_IS_REMOTE | remote);
        self.encoded.message(field::SPANS, span.as_bytes());
        self.count += 1;
    }
}

impl FinishedRequest<'_> {
    /// Returns about how many spans the request has.
    pub(crate) fn count(&self) -> usize {
        1 + self.trace.steps().len() + self.trace.attempts().len()
    }

    /// Makes the spans of the request, which ends `now`.
    pub(crate) fn spans(&self, now: Instant, wall: SystemTime) -> EncodedSpans {
        let mut spans = Spans {
            trace: self.trace,
            time: WallTime { now, wall },
            state: self.state(),
            encoded: Message::with_capacity(self.count() * SPAN_ROOM),
            count: 0,
            span: Message::with_capacity(SPAN_ROOM),
        };
        self.request_span(&mut spans);
        for step in self.trace.steps() {
            self.step_span(step, &mut spans);
        }
        for (index, attempt) in self.trace.attempts().iter().enumerate() {
            self.attempt_span(index, attempt, &mut spans);
        }
        EncodedSpans {
            count: spans.count,
            bytes: spans.encoded.into_bytes(),
        }
    }

    fn request_span(&self, spans: &mut Spans<'_>) {
        let (facts, trace) = (self.facts, self.trace);
        let method = HttpMethod::new(&self.head.method);
        let is_parent_remote = trace.parent.is_some() && !self.is_background;
        let (kind, name) = match self.route {
            _ if self.is_background => (SpanKind::Internal, ["revalidate", "", ""]),
            Some(route) => (SpanKind::Server, [method.in_name(), " ", route]),
            None => (SpanKind::Server, [method.in_name(), "", ""]),
        };
        let ended = spans.time.now;
        let mut list = spans.begin(&SpanStart {
            id: trace.span_id,
            parent: trace
                .parent
                .map(|parent| parent.span_id)
                .filter(|id| *id != 0),
            kind,
            name: &name,
            started: facts.started,
            ended,
        });
        self.attributes(method, &mut list);
        self.link(&mut spans.span);
        let error = facts.is_failed().then(|| facts.reason.unwrap_or_default());
        spans.end(is_parent_remote, error);
    }

    fn attributes(&self, method: HttpMethod<'_>, list: &mut Attributes<'_>) {
        let (head, facts) = (self.head, self.facts);
        let client = &facts.client;
        list.method(method);
        list.target(head, self.redact);
        list.text("url.scheme", client.scheme.as_str());
        list.address(public_host(head, client));
        list.text("client.address", &client.ip.to_string());
        if client.peer != client.ip {
            list.text("network.peer.address", &client.peer.to_string());
        }
        list.text("network.protocol.version", version(client.protocol));
        if let Some(agent) = head.headers.get(header::USER_AGENT) {
            list.bytes("user_agent.original", agent.as_bytes());
        }
        if facts.status != 0 {
            list.int("http.response.status_code", facts.status);
        }
        list.optional("http.route", self.route);
        if facts.bytes_received > 0 {
            list.int("http.request.body.size", bytes(facts.bytes_received));
        }
        list.int("http.response.body.size", bytes(facts.bytes_sent));
        if facts.is_failed() {
            match facts.reason {
                Some(reason) => list.text("error.type", reason),
                None => list.text("error.type", &facts.status.to_string()),
            }
        }
        list.optional("edgeway.route", facts.route.as_deref());
        list.text("edgeway.class", facts.class.name());
        list.text("edgeway.request_id", facts.request_id.as_str());
        list.optional("edgeway.reason", facts.why());
        list.optional("edgeway.limit", facts.limit.as_deref());
        list.optional("edgeway.upstream", facts.upstream.name.as_deref());
        if let Some(cached) = facts.cache {
            list.text("edgeway.cache", cached.outcome.name());
            list.optional("edgeway.cache.why", cached.why);
        }
    }

    /// Links the trace of a sender that is not trusted to continue its own.
    fn link(&self, span: &mut Message) {
        if self.trace.parent.is_some() {
            return;
        }
        if let Some(sender) = TraceContext::read(&self.head.headers) {
            let mut link = Message::default();
            link.bytes(field::TRACE_ID, &sender.trace_id.to_be_bytes());
            link.bytes(field::SPAN_ID, &sender.span_id.to_be_bytes());
            let flags = u32::from(sender.flags.bits()) | HAS_IS_REMOTE | IS_REMOTE;
            link.fixed32(field::LINK_FLAGS, flags);
            span.message(field::LINKS, link.as_bytes());
        }
    }

    fn step_span(&self, step: &TraceStep, spans: &mut Spans<'_>) {
        let filter = FILTERS.iter().find(|(name, _)| *name == step.name);
        let is_part = PARTS.contains(&step.name);
        let is_long = step.ended.saturating_duration_since(step.started) >= LONG;
        if filter.is_none() && !is_part && !step.is_last && !is_long {
            return;
        }
        let mut list = spans.begin(&SpanStart {
            id: span_id(),
            parent: Some(self.trace.span_id),
            kind: SpanKind::Internal,
            name: &[filter.map_or(step.name, |(_, name)| name)],
            started: step.started,
            ended: step.ended,
        });
        if !is_part {
            list.text("edgeway.filter", step.name);
        }
        if step.is_last {
            list.bool("edgeway.ended_request", true);
            list.optional("edgeway.reason", self.facts.reason);
        }
        spans.end(false, None);
    }

    fn attempt_span(&self, index: usize, attempt: &TraceAttempt, spans: &mut Spans<'_>) {
        let method = HttpMethod::new(&self.head.method);
        let ended = attempt.ended.unwrap_or(spans.time.now);
        let mut list = spans.begin(&SpanStart {
            id: attempt.span_id,
            parent: Some(self.trace.span_id),
            kind: SpanKind::Client,
            name: &[method.in_name()],
            started: attempt.started,
            ended,
        });
        list.method(method);
        list.address(&attempt.backend);
        list.optional("edgeway.upstream", self.facts.upstream.name.as_deref());
        list.bool("edgeway.connection_reused", attempt.is_reused);
        if index > 0 {
            list.int("http.request.resend_count", bytes(index as u64));
        }
        if attempt.status != 0 {
            list.int("http.response.status_code", attempt.status);
        }
        if let Some(responded) = attempt.responded {
            let first_byte = responded.saturating_duration_since(attempt.started);
            list.double("edgeway.first_byte_ms", first_byte.as_secs_f64() * 1e3);
        }
        // The conventions for clients count every status from 400 as an error.
        let status = (attempt.status >= 400).then(|| attempt.status.to_string());
        let error = attempt.error.or(status.as_deref());
        list.optional("error.type", error);
        spans.end(false, error.map(|_| attempt.error.unwrap_or_default()));
    }

    /// Returns the state that came with the parent.
    fn state(&self) -> String {
        if self.trace.parent.is_none() || self.is_background {
            return String::new();
        }
        tracestate(&self.head.headers)
    }
}

/// Maximum length of a state that spans repeat: as much as everyone must pass on (W3C Trace
/// Context, 3.3.1.5). Each span has a copy.
const MAX_STATE: usize = 512;

/// Returns the state that the sender of a trusted context added.
fn tracestate(headers: &HeaderMap) -> String {
    let lines = headers.get_all(TRACESTATE);
    let length: usize = lines.iter().map(HeaderValue::len).sum();
    if length > MAX_STATE || !is_tracestate(lines.iter()) {
        return String::new();
    }
    let entries = lines.iter().filter_map(|line| line.to_str().ok());
    let entries: Vec<&str> = entries
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .collect();
    entries.join(",")
}

/// Method of a request, as the conventions name it.
#[derive(Clone, Copy)]
enum HttpMethod<'a> {
    Known(&'a str),
    Other(&'a str),
}

impl<'a> HttpMethod<'a> {
    fn new(method: &'a Method) -> Self {
        match *method {
            Method::GET
            | Method::HEAD
            | Method::POST
            | Method::PUT
            | Method::DELETE
            | Method::OPTIONS
            | Method::PATCH
            | Method::CONNECT
            | Method::TRACE => Self::Known(method.as_str()),
            _ => Self::Other(method.as_str()),
        }
    }

    fn in_name(self) -> &'a str {
        match self {
            Self::Known(name) => name,
            Self::Other(_) => "HTTP",
        }
    }
}

/// Attributes of the span that is written.
struct Attributes<'a>(&'a mut Message);

impl Attributes<'_> {
    fn text(&mut self, key: &str, value: &str) {
        self.0.text_attribute(field::ATTRIBUTES, key, value);
    }

    /// Adds bytes of a client as text of limited length.
    fn bytes(&mut self, key: &str, value: &[u8]) {
        self.text(key, &text(value));
    }

    fn optional(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    fn int(&mut self, key: &str, value: impl Into<i64>) {
        self.0.int_attribute(field::ATTRIBUTES, key, value.into());
    }

    fn bool(&mut self, key: &str, value: bool) {
        self.0.bool_attribute(field::ATTRIBUTES, key, value);
    }

    fn double(&mut self, key: &str, value: f64) {
        self.0.double_attribute(field::ATTRIBUTES, key, value);
    }

    fn method(&mut self, method: HttpMethod<'_>) {
        match method {
            HttpMethod::Known(name) => self.text("http.request.method", name),
            HttpMethod::Other(name) => {
                self.text("http.request.method", "_OTHER");
                self.bytes("http.request.method_original", name.as_bytes());
            }
        }
    }

    /// Adds path and query as the client sent them, without secrets and without an authority, which
    /// may hold a password.
    fn target(&mut self, head: &RequestHeader, redact: &dyn Fn(&[u8]) -> Vec<u8>) {
        let raw = head.raw_path();
        let (path, query) = if raw.first() == Some(&b'/') {
            match raw.iter().position(|byte| *byte == b'?') {
                Some(at) => (&raw[..at], Some(&raw[at + 1..])),
                None => (raw, None),
            }
        } else {
            let uri = &head.uri;
            (uri.path().as_bytes(), uri.query().map(str::as_bytes))
        };
        self.bytes("url.path", path);
        if let Some(query) = query {
            self.bytes("url.query", &redact(query));
        }
    }

    /// Adds the server's address and port of `authority`, or the path of a unix socket.
    fn address(&mut self, authority: &str) {
        // Drops a user and password before the host.
        let authority = authority.rsplit('@').next().unwrap_or(authority);
        let port = authority
            .rsplit_once(':')
            .and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
        let (host, port) = port.map_or((authority, None), |(host, port)| (host, Some(port)));
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if !host.is_empty() {
            self.bytes("server.address", host.as_bytes());
        }
        if let Some(port) = port {
            self.int("server.port", port);
        }
    }
}

fn version(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http10 => "1.0",
        Protocol::Http11 => "1.1",
        Protocol::Http2 => "2",
    }
}

fn bytes(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Returns bytes of a client as text of limited length.
fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST)])
}
