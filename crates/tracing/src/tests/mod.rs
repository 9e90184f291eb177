//! Sampling and spans, without a collector.

mod sdk;

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Method};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::any_value::Value,
    trace::v1::{ScopeSpans, Span, span::SpanKind},
};
use pingora::http::RequestHeader;
use proptest::prelude::*;
use prost::Message as _;

use self::sdk::SdkSpans;
use super::{
    ExportSettings, Exporters, FinishedRequest, ParentTrust, SamplingRules, Tracing, Transport,
    wire::EncodedSpans,
};
use crate::{
    base::{clock::Clock, metrics::Metrics},
    chain::{RequestFacts, RequestTrace},
};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn tracing(rules: SamplingRules, clock: &Clock) -> Tracing {
    let settings = ExportSettings {
        endpoint: "http://127.0.0.1:1".to_owned(),
        transport: Transport::Grpc,
        headers: HeaderMap::new(),
        ca: None,
        service_name: "test".to_owned(),
        version: "0",
        resource: Vec::new(),
        timeout: Duration::from_secs(1),
        interval: Duration::from_secs(1),
        queue: 2,
    };
    let exporter = Exporters::default().get_or_create(settings, &Metrics::default());
    Tracing::new(rules, exporter, clock)
}

fn rules(ratio: f64, trust: ParentTrust) -> SamplingRules {
    SamplingRules {
        ratio,
        slow: Some(Duration::from_secs(1)),
        errors: true,
        trust,
    }
}

fn head(target: &str, headers: &[(&'static str, &str)]) -> RequestHeader {
    let mut head = RequestHeader::build(Method::GET, target.as_bytes(), None).unwrap();
    for (name, value) in headers {
        head.append_header(*name, *value).unwrap();
    }
    head
}

fn begin(tracing: &Tracing, parent: &str, is_trusted: bool, clock: &Clock) -> RequestTrace {
    let mut facts = RequestFacts::new(clock.now());
    facts.client.is_trusted = is_trusted;
    let head = head("/", &[("traceparent", parent)]);
    tracing.begin(&head.headers, &facts.client)
}

#[test]
fn trust_decides_about_the_trace_and_a_trusted_proxy_about_sampling() {
    let clock = Clock::test();
    let unsampled = PARENT.replace("-01", "-00");
    for (trust, ratio, parent, is_trusted, is_continued, is_sampled) in [
        (ParentTrust::Proxies, 0.0, PARENT, true, true, true),
        (ParentTrust::Proxies, 1.0, &*unsampled, true, true, false),
        (ParentTrust::Proxies, 0.0, PARENT, false, false, false),
        (ParentTrust::Proxies, 1.0, &*unsampled, false, false, true),
        (ParentTrust::All, 0.0, PARENT, false, true, false),
        (ParentTrust::All, 1.0, PARENT, false, true, true),
        (ParentTrust::All, 1.0, &*unsampled, false, true, false),
        (ParentTrust::All, 0.0, PARENT, true, true, true),
        (ParentTrust::Nobody, 0.0, PARENT, true, false, false),
        (ParentTrust::Nobody, 1.0, &*unsampled, true, false, true),
    ] {
        let tracing = tracing(rules(ratio, trust), &clock);
        let trace = begin(&tracing, parent, is_trusted, &clock);
        let found = (trace.parent.is_some(), trace.is_sampled);
        assert_eq!(
            found,
            (is_continued, is_sampled),
            "{trust:?} {ratio} {is_trusted}"
        );
    }
}

#[test]
fn failed_and_slow_requests_are_wanted() {
    let clock = Clock::test();
    let tracing = tracing(rules(0.0, ParentTrust::Proxies), &clock);
    let mut trace = begin(&tracing, "", false, &clock);
    let mut facts = RequestFacts::new(clock.now());
    let mut check = |trace: &RequestTrace, status, reason, total, first_byte, expected| {
        facts.status = status;
        facts.reason = reason;
        facts.total = Duration::from_millis(total);
        facts.first_byte = Some(Duration::from_millis(first_byte));
        let wanted = tracing.is_wanted(trace, &facts);
        assert_eq!(wanted, expected, "{status} {reason:?} {total} {first_byte}");
    };
    check(&trace, 200, None, 999, 10, false);
    check(&trace, 200, None, 1000, 10, true);
    check(&trace, 429, Some("rate_limit"), 1, 1, false);
    check(&trace, 499, Some("client_gone"), 1, 1, false);
    check(&trace, 500, None, 1, 1, true);
    check(&trace, 503, Some("overload"), 1, 1, true);
    // The status was sent before the backend failed.
    check(&trace, 200, Some("upstream_reset"), 1, 1, true);
    trace.is_stream = true;
    check(&trace, 101, None, 1_000_000, 10, false);
    check(&trace, 200, None, 1_000_000, 1000, true);
}

/// Returns the request's spans, as a collector reads them.
fn spans(
    head: &RequestHeader,
    trace: &RequestTrace,
    facts: &RequestFacts,
    clock: &Clock,
) -> Vec<Span> {
    let request = FinishedRequest {
        head,
        facts,
        trace,
        route: Some("/a/*"),
        redact: &|query| [query, b"!"].concat(),
        is_background: false,
    };
    let encoded = request.spans(clock.now(), clock.wall());
    let spans = ScopeSpans::decode(&*encoded.bytes).unwrap().spans;
    assert_eq!(spans.len(), encoded.count);
    assert!(request.count() >= encoded.count);
    spans
}

fn attribute(span: &Span, name: &str) -> Option<String> {
    let found = span.attributes.iter().find(|pair| pair.key == name)?;
    match found.value.clone()?.value? {
        Value::StringValue(text) => Some(text),
        Value::IntValue(number) => Some(number.to_string()),
        other => Some(format!("{other:?}")),
    }
}

#[test]
fn times_of_spans_are_those_of_the_wall_clock() {
    let clock = Clock::test();
    let begun = clock.wall();
    let mut trace = RequestTrace::new(None, true, &clock);
    let mut facts = RequestFacts::new(clock.now());
    clock.advance(Duration::from_millis(5));
    let started = trace.begin_step(false).unwrap();
    clock.advance(Duration::from_millis(10));
    trace.end_step("jwt", started, true);
    let started = trace.begin_step(false).unwrap();
    trace.end_step("headers", started, false);
    trace.begin_attempt(&Arc::from("[::1]:3000"), clock.now());
    clock.advance(Duration::from_millis(20));
    trace.end_attempt(Some("upstream_reset"));
    trace.begin_attempt(&Arc::from("unix:/run/a.sock"), clock.now());
    clock.advance(Duration::from_millis(30));
    facts.status = 502;
    facts.reason = Some("upstream_reset");
    let spans = spans(&head("/a/b?c=d", &[]), &trace, &facts, &clock);
    let times: Vec<_> = spans
        .iter()
        .map(|span| {
            let begun = begun
                .duration_since(std::time::SystemTime::UNIX_EPOCH)
                .unwrap();
            let millis = |at: u64| Duration::from_nanos(at).abs_diff(begun).as_millis();
            let (started, ended) = (span.start_time_unix_nano, span.end_time_unix_nano);
            (&*span.name, millis(started), millis(ended))
        })
        .collect();
    let expected = [
        ("GET /a/*", 0, 65),
        ("auth jwt", 5, 15),
        ("GET", 15, 35),
        ("GET", 35, 65),
    ];
    assert_eq!(times, expected);
    let status = spans[0].status.clone().unwrap();
    assert_eq!((&*status.message, status.code), ("upstream_reset", 2));
    assert_eq!(attribute(&spans[0], "url.query").as_deref(), Some("c=d!"));
    assert_eq!(
        attribute(&spans[2], "server.address").as_deref(),
        Some("::1")
    );
    assert_eq!(attribute(&spans[2], "server.port").as_deref(), Some("3000"));
    assert_eq!(
        attribute(&spans[3], "server.address").as_deref(),
        Some("unix:/run/a.sock")
    );
    assert_eq!(
        attribute(&spans[3], "http.request.resend_count").as_deref(),
        Some("1")
    );
    assert!(spans[0].parent_span_id.is_empty());
    for span in &spans[1..] {
        assert_eq!(span.parent_span_id, spans[0].span_id);
        assert_eq!(span.trace_id, trace.trace_id.to_be_bytes());
    }
    assert_eq!(spans[0].kind(), SpanKind::Server);
    assert_eq!(spans[3].kind(), SpanKind::Client);
}

#[test]
fn an_unknown_method_and_a_foreign_context_are_named_as_the_conventions_say() {
    let clock = Clock::test();
    let trace = RequestTrace::new(None, true, &clock);
    let facts = RequestFacts::new(clock.now());
    let mut sent = head(
        "http://u:hunter2@a.test/x",
        &[("traceparent", PARENT), ("host", "b.test")],
    );
    sent.set_method(Method::from_bytes(b"BREW").unwrap());
    let spans = spans(&sent, &trace, &facts, &clock);
    assert_eq!(spans[0].name, "HTTP /a/*");
    assert_eq!(
        attribute(&spans[0], "http.request.method").as_deref(),
        Some("_OTHER")
    );
    assert_eq!(
        attribute(&spans[0], "http.request.method_original").as_deref(),
        Some("BREW")
    );
    assert_eq!(spans[0].links.len(), 1);
    let linked = u128::from_str_radix("4bf92f3577b34da6a3ce929d0e0e4736", 16).unwrap();
    assert_eq!(spans[0].links[0].trace_id, linked.to_be_bytes());
    assert!(!format!("{spans:?}").contains("hunter2"), "{spans:?}");
}

#[test]
fn a_full_queue_drops_and_counts() {
    let clock = Clock::test();
    let metrics = Metrics::default();
    let settings = tracing(rules(1.0, ParentTrust::All), &clock)
        .exporter
        .settings
        .clone();
    let exporters = Exporters::default();
    let exporter = exporters.get_or_create(settings.clone(), &metrics);
    let mut made = 0;
    for _ in 0..5 {
        exporter.push(3, || {
            made += 1;
            EncodedSpans::default()
        });
    }
    assert_eq!(made, 2, "spans that nobody takes are not made");
    let page = String::from_utf8(metrics.text()).unwrap();
    assert!(
        page.contains("edgeway_trace_spans_dropped_total 9"),
        "{page}"
    );
    assert!(Arc::ptr_eq(
        &exporter,
        &exporters.get_or_create(settings, &metrics)
    ));
}

/// Facts of a drawn request.
#[derive(Clone, Debug)]
struct Drawn {
    method: &'static str,
    target: String,
    headers: Vec<(&'static str, String)>,
    route: Option<&'static str>,
    status: u16,
    reason: Option<&'static str>,
    bytes: (u64, u64),
    steps: Vec<(&'static str, u64, bool)>,
    attempts: Vec<(&'static str, u16, u64, Option<&'static str>)>,
    parent: bool,
    is_background: bool,
    has_peer: bool,
    seed: u64,
}

fn drawn() -> impl Strategy<Value = Drawn> {
    const HEADERS: [&str; 5] = ["host", "user-agent", "traceparent", "tracestate", "x-other"];
    let value = prop_oneof![
        "[ -~]{0,40}",
        "[a-z]{1,8}=[a-z0-9]{1,8}(,[a-z]{1,8}=[!-+./-9:;<>-~]{1,20}){0,3}",
        Just(PARENT.to_owned()),
        Just("é".repeat(700)),
        Just("a.test:8443".to_owned()),
    ];
    let headers = prop::collection::vec((prop::sample::select(&HEADERS[..]), value), 0..5);
    let target = prop_oneof![
        "/[!-~é]{0,30}",
        "/[a-z]{0,8}\\?[!-~]{0,20}",
        Just("http://u:p@a.test/x?y".to_owned()),
        Just("*".to_owned()),
    ];
    let names = prop::sample::select(&["jwt", "route", "headers", "cache", "plugins", "cors"][..]);
    let steps = prop::collection::vec((names, 0..2000_u64, any::<bool>()), 0..5);
    let backends = ["127.0.0.1:3000", "[::1]:3000", "unix:/run/a.sock"];
    let attempt = (
        prop::sample::select(backends.to_vec()),
        prop::sample::select(&[0_u16, 200, 404, 502][..]),
        0..5_000_000_u64,
        prop::sample::select(&[None, Some("upstream_reset")][..]),
    );
    let attempts = prop::collection::vec(attempt, 0..4);
    let reasons = &[
        None,
        Some("overload"),
        Some("upstream_reset"),
        Some("internal"),
    ][..];
    let bytes = (any::<u64>(), any::<u64>());
    let request = (
        prop::sample::select(&["GET", "POST", "BREW", "HEAD"][..]),
        target,
        headers,
        prop::sample::select(&[None, Some("/a/*"), Some("")][..]),
    );
    let response = (
        prop::sample::select(&[0_u16, 200, 404, 500, 503][..]),
        prop::sample::select(reasons),
        bytes,
    );
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<u64>());
    (request, response, steps, attempts, flags).prop_map(
        |((method, target, headers, route), (status, reason, bytes), steps, attempts, flags)| {
            let (parent, is_background, has_peer, seed) = flags;
            Drawn {
                method,
                target,
                headers,
                route,
                status,
                reason,
                bytes,
                steps,
                attempts,
                parent,
                is_background,
                has_peer,
                seed,
            }
        },
    )
}

/// Invariant: a collector gets the same bytes as from OpenTelemetry's own conversion.
fn check_bytes(drawn: &Drawn) {
    let clock = Clock::test();
    let mut sent = RequestHeader::build(drawn.method, b"/", None).unwrap();
    // Some targets that browsers never send are refused.
    let _is_set = sent.set_raw_path(drawn.target.as_bytes());
    for (name, value) in &drawn.headers {
        sent.append_header(*name, value.as_bytes()).unwrap();
    }
    let own = head("/", &[("traceparent", PARENT)]);
    let parent = crate::base::trace_context::TraceContext::read(&own.headers);
    let mut trace = RequestTrace::new(parent.filter(|_| drawn.parent), true, &clock);
    let mut facts = RequestFacts::new(clock.now());
    facts.status = drawn.status;
    facts.reason = drawn.reason;
    (facts.bytes_received, facts.bytes_sent) = drawn.bytes;
    facts.route = drawn.route.map(Arc::from);
    if drawn.has_peer {
        facts.client.peer = [192, 0, 2, 7].into();
    }
    for (name, micros, is_last) in &drawn.steps {
        let started = clock.now();
        clock.advance(Duration::from_micros(*micros));
        trace.end_step(name, started, *is_last);
    }
    for (backend, status, nanos, error) in &drawn.attempts {
        trace.begin_attempt(&Arc::from(*backend), clock.now());
        clock.advance(Duration::from_nanos(*nanos));
        let attempt = trace.attempt().unwrap();
        attempt.status = *status;
        attempt.responded = (*status != 0).then(|| clock.now());
        if error.is_some() {
            trace.end_attempt(*error);
        }
    }
    let request = FinishedRequest {
        head: &sent,
        facts: &facts,
        trace: &trace,
        route: drawn.route,
        redact: &|query| query.to_vec(),
        is_background: drawn.is_background,
    };
    // Both draw the ids of steps.
    fastrand::seed(drawn.seed);
    let ours = request.spans(clock.now(), clock.wall());
    fastrand::seed(drawn.seed);
    let theirs = SdkSpans(&request).spans(clock.now(), clock.wall());
    let theirs = ScopeSpans {
        spans: theirs.into_iter().map(Into::into).collect(),
        ..ScopeSpans::default()
    };
    assert_eq!(ours.count, theirs.spans.len());
    let decoded = ScopeSpans::decode(&*ours.bytes).unwrap();
    assert_eq!(decoded.spans, theirs.spans);
    assert_eq!(ours.bytes, theirs.encode_to_vec());
}

proptest! {
    #[test]
    fn spans_are_encoded_as_by_the_sdk(drawn in drawn()) {
        check_bytes(&drawn);
    }
}

#[test]
fn a_batch_names_its_resource_once() {
    let clock = Clock::test();
    let tracing = tracing(rules(1.0, ParentTrust::All), &clock);
    let settings = ExportSettings {
        resource: vec![
            ("deployment.environment".to_owned(), "test".to_owned()),
            ("service.version".to_owned(), "given".to_owned()),
            ("service.name".to_owned(), "not this".to_owned()),
        ],
        ..tracing.exporter.settings.clone()
    };
    let trace = RequestTrace::new(None, true, &clock);
    let facts = RequestFacts::new(clock.now());
    let sent = head("/", &[]);
    let request = FinishedRequest {
        head: &sent,
        facts: &facts,
        trace: &trace,
        route: None,
        redact: &|query| query.to_vec(),
        is_background: false,
    };
    let mut batch = EncodedSpans::default();
    for _ in 0..3 {
        batch.append(&request.spans(clock.now(), clock.wall()));
    }
    let bytes = settings.envelope().around(&batch.bytes);
    let decoded = ExportTraceServiceRequest::decode(&*bytes).unwrap();
    assert_eq!(decoded.encode_to_vec(), bytes);
    let [resource_spans] = decoded.resource_spans.as_slice() else {
        panic!("{decoded:?}");
    };
    let attributes = &resource_spans.resource.as_ref().unwrap().attributes;
    let found: Vec<(&str, Value)> = attributes
        .iter()
        .map(|pair| (&*pair.key, pair.value.clone().unwrap().value.unwrap()))
        .collect();
    let text = |text: &str| Value::StringValue(text.to_owned());
    let expected = [
        ("deployment.environment", text("test")),
        ("service.name", text("test")),
        ("service.version", text("given")),
        ("telemetry.sdk.language", text("rust")),
        ("telemetry.sdk.name", text("opentelemetry")),
    ];
    assert_eq!(found, expected);
    let [scope_spans] = resource_spans.scope_spans.as_slice() else {
        panic!("{decoded:?}");
    };
    assert_eq!(scope_spans.scope.as_ref().unwrap().name, "edgeway");
    assert_eq!((scope_spans.spans.len(), batch.count), (3, 3));
}
