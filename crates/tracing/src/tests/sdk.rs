//! Spans as structs of OpenTelemetry's SDK, whose own conversion to OTLP is the counterpart of
//! ours.

use std::{
    borrow::Cow,
    sync::LazyLock,
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, HeaderValue, Method, header};
use opentelemetry::{
    InstrumentationScope, Key, KeyValue, SpanId, TraceFlags, TraceId, Value,
    trace::{Link, SpanContext, SpanKind, Status, TraceState},
};
use opentelemetry_sdk::trace::{SpanData, SpanLinks};
use pingora::http::RequestHeader;

use crate::{
    FinishedRequest,
    base::trace_context::{TRACESTATE, TraceContext, is_tracestate},
    chain::{Protocol, TraceAttempt, TraceStep, host::public_host, span_id},
};

/// Converter of a request's facts to structs of the SDK.
pub(super) struct SdkSpans<'a>(pub(super) &'a FinishedRequest<'a>);

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

static SCOPE: LazyLock<InstrumentationScope> =
    LazyLock::new(|| InstrumentationScope::builder("edgeway").build());

/// Conversion of the request's times to wall clock time.
struct WallTime {
    now: Instant,
    wall: SystemTime,
}

impl WallTime {
    fn at(&self, instant: Instant) -> SystemTime {
        self.wall - self.now.saturating_duration_since(instant)
    }
}

impl SdkSpans<'_> {
    /// Makes the spans of the request, which ends `now`.
    pub(super) fn spans(&self, now: Instant, wall: SystemTime) -> Vec<SpanData> {
        let time = WallTime { now, wall };
        let state = self.state();
        let mut spans = Vec::new();
        spans.push(self.request_span(&time, &state));
        let steps = self.0.trace.steps().iter();
        spans.extend(steps.filter_map(|step| self.step_span(step, &time, &state)));
        for (index, attempt) in self.0.trace.attempts().iter().enumerate() {
            spans.push(self.attempt_span(index, attempt, &time, &state));
        }
        spans
    }

    fn request_span(&self, time: &WallTime, state: &TraceState) -> SpanData {
        let (facts, trace) = (self.0.facts, self.0.trace);
        let method = HttpMethod::new(&self.0.head.method);
        let span = SpanData {
            parent_span_id: trace
                .parent
                .map_or(SpanId::INVALID, |parent| SpanId::from(parent.span_id)),
            parent_span_is_remote: trace.parent.is_some() && !self.0.is_background,
            span_kind: if self.0.is_background {
                SpanKind::Internal
            } else {
                SpanKind::Server
            },
            name: self.name(method),
            attributes: self.attributes(method),
            links: self.links(),
            ..self.span(trace.span_id, facts.started, time.now, time, state)
        };
        if !facts.is_failed() {
            return span;
        }
        SpanData {
            status: Status::error(facts.reason.unwrap_or_default()),
            ..span
        }
    }

    fn name(&self, method: HttpMethod<'_>) -> Cow<'static, str> {
        if self.0.is_background {
            return "revalidate".into();
        }
        match self.0.route {
            Some(route) => format!("{} {route}", method.in_name()).into(),
            None => method.in_name().to_owned().into(),
        }
    }

    fn attributes(&self, method: HttpMethod<'_>) -> Vec<KeyValue> {
        let (head, facts) = (self.0.head, self.0.facts);
        let client = &facts.client;
        let mut list = Attributes::default();
        list.method(method);
        list.target(head, self.0.redact);
        list.put("url.scheme", client.scheme.as_str());
        list.address(public_host(head, client));
        list.put("client.address", client.ip.to_string());
        if client.peer != client.ip {
            list.put("network.peer.address", client.peer.to_string());
        }
        list.put("network.protocol.version", version(client.protocol));
        if let Some(agent) = head.headers.get(header::USER_AGENT) {
            list.put("user_agent.original", text(agent.as_bytes()));
        }
        if facts.status != 0 {
            list.put("http.response.status_code", i64::from(facts.status));
        }
        list.optional("http.route", self.0.route.map(ToOwned::to_owned));
        if facts.bytes_received > 0 {
            list.put("http.request.body.size", bytes(facts.bytes_received));
        }
        list.put("http.response.body.size", bytes(facts.bytes_sent));
        if facts.is_failed() {
            let status = || facts.status.to_string();
            list.put(
                "error.type",
                facts.reason.map_or_else(status, ToOwned::to_owned),
            );
        }
        list.optional("edgeway.route", facts.route.clone());
        list.put("edgeway.class", facts.class.name());
        list.put("edgeway.request_id", facts.request_id.as_str().to_owned());
        list.optional("edgeway.reason", facts.why());
        list.optional("edgeway.limit", facts.limit.clone());
        list.optional("edgeway.upstream", facts.upstream.name.clone());
        if let Some(cached) = facts.cache {
            list.put("edgeway.cache", cached.outcome.name());
            list.optional("edgeway.cache.why", cached.why);
        }
        list.0
    }

    /// Links the trace of a sender that is not trusted to continue its own.
    fn links(&self) -> SpanLinks {
        let mut links = SpanLinks::default();
        if self.0.trace.parent.is_none()
            && let Some(sender) = TraceContext::read(&self.0.head.headers)
        {
            let context = SpanContext::new(
                TraceId::from(sender.trace_id),
                SpanId::from(sender.span_id),
                TraceFlags::new(sender.flags.bits()),
                true,
                TraceState::NONE,
            );
            links.links.push(Link::with_context(context));
        }
        links
    }

    fn step_span(&self, step: &TraceStep, time: &WallTime, state: &TraceState) -> Option<SpanData> {
        let filter = FILTERS.iter().find(|(name, _)| *name == step.name);
        let is_part = PARTS.contains(&step.name);
        let is_long = step.ended.saturating_duration_since(step.started) >= LONG;
        if filter.is_none() && !is_part && !step.is_last && !is_long {
            return None;
        }
        let mut list = Attributes::default();
        if !is_part {
            list.put("edgeway.filter", step.name);
        }
        if step.is_last {
            list.put("edgeway.ended_request", true);
            list.optional("edgeway.reason", self.0.facts.reason);
        }
        Some(SpanData {
            name: filter.map_or(step.name, |(_, name)| name).into(),
            attributes: list.0,
            ..self.span(span_id(), step.started, step.ended, time, state)
        })
    }

    fn attempt_span(
        &self,
        index: usize,
        attempt: &TraceAttempt,
        time: &WallTime,
        state: &TraceState,
    ) -> SpanData {
        let method = HttpMethod::new(&self.0.head.method);
        let mut list = Attributes::default();
        list.method(method);
        list.address(&attempt.backend);
        list.optional("edgeway.upstream", self.0.facts.upstream.name.clone());
        list.put("edgeway.connection_reused", attempt.is_reused);
        if index > 0 {
            list.put("http.request.resend_count", bytes(index as u64));
        }
        if attempt.status != 0 {
            list.put("http.response.status_code", i64::from(attempt.status));
        }
        if let Some(responded) = attempt.responded {
            let first_byte = responded.saturating_duration_since(attempt.started);
            list.put("edgeway.first_byte_ms", first_byte.as_secs_f64() * 1e3);
        }
        // The conventions for clients count every status from 400 as an error.
        let status = (attempt.status >= 400).then(|| attempt.status.to_string());
        let error = attempt.error.map(ToOwned::to_owned).or(status);
        list.optional("error.type", error.clone());
        SpanData {
            span_kind: SpanKind::Client,
            name: method.in_name().to_owned().into(),
            attributes: list.0,
            status: error.map_or(Status::Unset, |_| {
                Status::error(attempt.error.unwrap_or_default())
            }),
            ..self.span(
                attempt.span_id,
                attempt.started,
                attempt.ended.unwrap_or(time.now),
                time,
                state,
            )
        }
    }

    /// Returns a span below that of the request.
    fn span(
        &self,
        id: u64,
        started: Instant,
        ended: Instant,
        time: &WallTime,
        state: &TraceState,
    ) -> SpanData {
        let trace = self.0.trace;
        SpanData {
            span_context: SpanContext::new(
                TraceId::from(trace.trace_id),
                SpanId::from(id),
                // An exported span is a sampled one, also if that was decided at its end.
                TraceFlags::new(trace.flags().with_sampled(true).bits()),
                false,
                state.clone(),
            ),
            parent_span_id: SpanId::from(trace.span_id),
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: Cow::Borrowed(""),
            start_time: time.at(started),
            end_time: time.at(ended),
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: opentelemetry_sdk::trace::SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: SCOPE.clone(),
        }
    }

    /// Returns the state that came with the parent.
    fn state(&self) -> TraceState {
        if self.0.trace.parent.is_none() || self.0.is_background {
            return TraceState::NONE;
        }
        tracestate(&self.0.head.headers)
    }
}

/// Maximum length of a state that spans repeat: as much as everyone must pass on (W3C Trace
/// Context, 3.3.1.5). Each span has a copy.
const MAX_STATE: usize = 512;

/// Returns the state that the sender of a trusted context added.
fn tracestate(headers: &HeaderMap) -> TraceState {
    let lines = headers.get_all(TRACESTATE);
    let length: usize = lines.iter().map(HeaderValue::len).sum();
    if length > MAX_STATE || !is_tracestate(lines.iter()) {
        return TraceState::NONE;
    }
    let entries = lines.iter().filter_map(|line| line.to_str().ok());
    let entries = entries
        .flat_map(|line| line.split(','))
        .filter_map(|entry| entry.trim().split_once('='));
    TraceState::from_key_value(entries).unwrap_or_default()
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

/// Attributes of a span.
#[derive(Default)]
struct Attributes(Vec<KeyValue>);

impl Attributes {
    fn put(&mut self, key: &'static str, value: impl Into<Value>) {
        self.0.push(KeyValue::new(Key::from_static_str(key), value));
    }

    fn optional(&mut self, key: &'static str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.put(key, value);
        }
    }

    fn method(&mut self, method: HttpMethod<'_>) {
        match method {
            HttpMethod::Known(name) => self.put("http.request.method", name.to_owned()),
            HttpMethod::Other(name) => {
                self.put("http.request.method", "_OTHER");
                self.put("http.request.method_original", text(name.as_bytes()));
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
        self.put("url.path", text(path));
        self.optional("url.query", query.map(|query| text(&redact(query))));
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
            self.put("server.address", text(host.as_bytes()));
        }
        self.optional("server.port", port.map(i64::from));
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
fn text(bytes: &[u8]) -> String {
    let bytes = &bytes[..bytes.len().min(LONGEST)];
    String::from_utf8_lossy(bytes).into_owned()
}
