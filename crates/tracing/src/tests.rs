//! Sampling and spans, without a collector.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Method};
use opentelemetry::{
    SpanId, TraceId, Value,
    trace::{SpanKind, Status},
};
use opentelemetry_sdk::trace::SpanData;
use pingora::http::RequestHeader;

use super::{
    ExportSettings, Exporters, FinishedRequest, ParentTrust, SamplingRules, Tracing, Transport,
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

fn spans(
    head: &RequestHeader,
    trace: &RequestTrace,
    facts: &RequestFacts,
    clock: &Clock,
) -> Vec<SpanData> {
    let request = FinishedRequest {
        head,
        facts,
        trace,
        route: Some("/a/*"),
        redact: &|query| [query, b"!"].concat(),
        is_background: false,
    };
    assert!(request.count() >= request.spans(clock.now(), clock.wall()).len());
    request.spans(clock.now(), clock.wall())
}

fn attribute(span: &SpanData, name: &str) -> Option<String> {
    let found = span
        .attributes
        .iter()
        .find(|pair| pair.key.as_str() == name);
    found.map(|pair| match &pair.value {
        Value::String(text) => text.as_str().to_owned(),
        other => other.as_str().into_owned(),
    })
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
            let millis = |at: std::time::SystemTime| at.duration_since(begun).unwrap().as_millis();
            (&*span.name, millis(span.start_time), millis(span.end_time))
        })
        .collect();
    let expected = [
        ("GET /a/*", 0, 65),
        ("auth jwt", 5, 15),
        ("GET", 15, 35),
        ("GET", 35, 65),
    ];
    assert_eq!(times, expected);
    assert_eq!(spans[0].status, Status::error("upstream_reset"));
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
    assert_eq!(spans[0].parent_span_id, SpanId::INVALID);
    for span in &spans[1..] {
        assert_eq!(span.parent_span_id, spans[0].span_context.span_id());
        assert_eq!(span.span_context.trace_id(), TraceId::from(trace.trace_id));
    }
    assert_eq!(spans[0].span_kind, SpanKind::Server);
    assert_eq!(spans[3].span_kind, SpanKind::Client);
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
    let linked = spans[0].links[0].span_context.trace_id();
    assert_eq!(linked.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert!(!format!("{spans:?}").contains("hunter2"), "{spans:?}");
}

#[test]
fn a_full_queue_drops_and_counts() {
    let clock = Clock::test();
    let metrics = Metrics::default();
    let settings = tracing(rules(1.0, ParentTrust::All), &clock)
        .exporter()
        .settings()
        .clone();
    let exporters = Exporters::default();
    let exporter = exporters.get_or_create(settings.clone(), &metrics);
    let mut made = 0;
    for _ in 0..5 {
        exporter.push(3, || {
            made += 1;
            Vec::new()
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
