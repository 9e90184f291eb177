//! `traceparent` and `tracestate` between clients, the gateway and apps.

use std::{io::Write as _, net::SocketAddr, path::Path, process::Stdio};

use edgeway::testkit::TraceContext;
use tokio::{io::AsyncWriteExt, process::Command};

use super::{PARENT, PARENT_SPAN, PARENT_TRACE, collector::peers, front, got, parts, traced};
use crate::support::{apps::ExpressApp, client::get, gateway::Gateway, origins::EchoOrigin};

const TRUSTED: &str = "trusted_proxies: [127.0.0.1]";

#[tokio::test]
async fn the_ids_link_gateway_app_and_log() {
    let app = ExpressApp::start().await;
    let (collector, gateway) = traced(app.address(), "").await;
    let response = gateway.get("/echo?a=1").await;
    let parent = got(&response, "traceparent").unwrap();
    let [trace, span, flags] = parts(&parent);
    assert_eq!(flags, "01");
    // One id to search for: that of the request is that of its trace.
    assert_eq!(response.header("x-request-id"), Some(trace));
    let line = gateway.log_lines(1).await.remove(0);
    assert_eq!(
        (&line["trace_id"], &line["id"]),
        (&trace.into(), &trace.into())
    );
    let spans = collector.trace(trace).await;
    let request = super::of_kind(&spans, super::collector::SERVER)[0];
    assert_eq!(
        (&request["span_id"], &request["parent"]),
        (&line["span_id"], &"".into())
    );
    let attempt = super::of_kind(&spans, super::collector::CLIENT)[0];
    assert_eq!(attempt["span_id"], span);
    assert_eq!(attempt["parent"], request["span_id"]);
}

#[tokio::test]
async fn an_unsampled_request_names_the_span_of_its_log_line() {
    let origin = EchoOrigin::start().await;
    let gateway = front(
        "endpoint: 'http://127.0.0.1:1', sample: 0%",
        origin.address(),
    )
    .await;
    let response = gateway.get("/").await;
    let parent = got(&response, "traceparent").unwrap();
    let line = gateway.log_lines(1).await.remove(0);
    let expected = [&line["trace_id"], &line["span_id"], &"00".into()];
    assert_eq!(
        parts(&parent).map(serde_json::Value::from).each_ref(),
        expected
    );
}

#[tokio::test]
async fn the_trace_of_a_trusted_proxy_is_continued() {
    let origin = EchoOrigin::start().await;
    let (collector, gateway) = traced(origin.address(), TRUSTED).await;
    let request = get("/")
        .header("traceparent", PARENT)
        .header("tracestate", "a=1, b=2");
    let response = gateway.send(&request).await;
    let parent = got(&response, "traceparent").unwrap();
    let [trace, span, flags] = parts(&parent);
    assert_eq!((trace, flags), (PARENT_TRACE, "01"));
    assert_ne!(span, PARENT_SPAN);
    assert_eq!(got(&response, "tracestate").as_deref(), Some("a=1, b=2"));
    let spans = collector.trace(PARENT_TRACE).await;
    let request = super::of_kind(&spans, super::collector::SERVER)[0];
    assert_eq!(request["parent"], PARENT_SPAN);
    assert_eq!(request["state"], "a=1,b=2");
    assert_ne!(response.header("x-request-id"), Some(PARENT_TRACE));
    // Its decision against recording is followed, too, although every request is sampled here.
    let unsampled = PARENT.replace("-01", "-00");
    let response = gateway
        .send(&get("/").header("traceparent", &*unsampled))
        .await;
    let parent = got(&response, "traceparent").unwrap();
    assert_eq!(parts(&parent)[2], "00");
}

#[tokio::test]
async fn the_trace_of_any_other_client_is_linked() {
    let origin = EchoOrigin::start().await;
    let (collector, gateway) = traced(origin.address(), "").await;
    let request = get("/")
        .header("traceparent", PARENT)
        .header("tracestate", "a=1");
    let response = gateway.send(&request).await;
    let parent = got(&response, "traceparent").unwrap();
    let [trace, ..] = parts(&parent);
    assert_ne!(trace, PARENT_TRACE);
    assert_eq!(got(&response, "tracestate"), None);
    let spans = collector.trace(trace).await;
    let request = super::of_kind(&spans, super::collector::SERVER)[0];
    assert_eq!(request["parent"], "");
    let link = serde_json::json!({ "trace_id": PARENT_TRACE, "span_id": PARENT_SPAN });
    assert_eq!(request["links"], serde_json::json!([link]));
}

#[tokio::test]
async fn an_invalid_context_begins_a_trace() {
    let origin = EchoOrigin::start().await;
    let keys = "endpoint: 'http://127.0.0.1:1', trust: all, sample: 100%";
    let gateway = front(keys, origin.address()).await;
    let zero = format!("00-{}-{PARENT_SPAN}-01", "0".repeat(32));
    for (context, state) in [
        (&["nonsense"][..], None),
        (&[PARENT, PARENT], None),
        (&[&*zero], None),
        (&[], None),
        (&[PARENT], Some("a=1")),
    ] {
        let mut request = get("/").header("tracestate", "a=1");
        for value in context {
            request = request.header("traceparent", *value);
        }
        let response = gateway.send(&request).await;
        let parent = got(&response, "traceparent").unwrap();
        let is_continued = parts(&parent)[0] == PARENT_TRACE;
        assert_eq!(is_continued, state.is_some(), "{context:?}");
        assert_eq!(
            got(&response, "tracestate").as_deref(),
            state,
            "{context:?}"
        );
    }
    // A state that is not well-formed is dropped without its trace.
    let request = get("/")
        .header("traceparent", PARENT)
        .header("tracestate", "a=1,B");
    let response = gateway.send(&request).await;
    assert_eq!(
        parts(&got(&response, "traceparent").unwrap())[0],
        PARENT_TRACE
    );
    assert_eq!(got(&response, "tracestate"), None);
}

#[tokio::test]
async fn a_route_may_leave_the_headers_alone() {
    let origin = EchoOrigin::start().await;
    let gateway = Gateway::start(&format!(
        "
tracing: {{ endpoint: 'http://127.0.0.1:1', sample: 100% }}
upstreams: {{ app: {{ backends: [\"{}\"], health: false }} }}
routes:
  - match: {{ path: /left/* }}
    upstream: app
    request_id: {{ traceparent: false }}
  - match: {{ path: /* }}
    upstream: app
    request_id: false
",
        origin.address()
    ))
    .await;
    let left = gateway
        .send(&get("/left/a").header("traceparent", PARENT))
        .await;
    assert_eq!(got(&left, "traceparent").as_deref(), Some(PARENT));
    let left = gateway.get("/left/a").await;
    assert_eq!(got(&left, "traceparent"), None);
    // Without the filter of ids, the gateway still writes its own context.
    let written = gateway.send(&get("/").header("traceparent", PARENT)).await;
    let parent = got(&written, "traceparent").unwrap();
    assert_ne!(parts(&parent)[0], PARENT_TRACE);
}

/// Contexts that are nearly right.
fn drawn(count: usize, random: &mut fastrand::Rng) -> Vec<String> {
    let digits = |count: usize, random: &mut fastrand::Rng| -> String {
        let set: &[u8] = match random.u8(..12) {
            0 => b"0",
            1 => b"0123456789ABCDEF",
            2 => b"0123456789abcdefg",
            _ => b"0123456789abcdef",
        };
        let count = match random.u8(..16) {
            0 => count - 1,
            1 => count + 1,
            _ => count,
        };
        (0..count)
            .map(|_| char::from(set[random.usize(..set.len())]))
            .collect()
    };
    (0..count)
        .map(|_| {
            let version = ["00", "00", "00", "01", "cc", "ff", "0", "0G"][random.usize(..8)];
            let rest = ["", "", "", "", "-", "-more", ".", "-a-b", "x"][random.usize(..9)];
            let dash = ["-", "-", "-", "-", "-", "-", "_", ""][random.usize(..8)];
            let (trace, span) = (digits(32, random), digits(16, random));
            let flags = digits(2, random);
            format!("{version}{dash}{trace}-{span}-{flags}{rest}")
        })
        .collect()
}

#[tokio::test]
async fn contexts_are_read_as_opentelemetry_reads_them() {
    let seed = std::env::var("EDGEWAY_SEED").ok();
    let seed = seed.map_or_else(crate::support::seed::drawn, |seed| seed.parse().unwrap());
    let mut err = std::io::stderr();
    writeln!(err, "seed {seed}").unwrap();
    let mut contexts = drawn(3000, &mut fastrand::Rng::with_seed(seed));
    contexts.extend([PARENT.to_owned(), String::new(), format!("{PARENT}-")]);
    let theirs = read_by_opentelemetry(&peers(), &contexts).await;
    let mut valid = 0;
    for (context, theirs) in contexts.iter().zip(theirs) {
        let ours = TraceContext::parse(context.as_bytes());
        let ours = ours.map_or(serde_json::Value::Null, |ours| {
            valid += 1;
            let (trace, span) = (
                format!("{:032x}", ours.trace_id),
                format!("{:016x}", ours.span_id),
            );
            serde_json::json!([trace, span, ours.flags.is_sampled()])
        });
        assert_eq!(ours, theirs, "{context}");
    }
    assert!((100..2900).contains(&valid), "{valid}");
}

async fn read_by_opentelemetry(folder: &Path, contexts: &[String]) -> Vec<serde_json::Value> {
    let mut node = Command::new("node")
        .arg("trace_context.js")
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut input = node.stdin.take().unwrap();
    let lines: String = contexts
        .iter()
        .map(|context| serde_json::json!(context).to_string() + "\n")
        .collect();
    let writing = async {
        input.write_all(lines.as_bytes()).await.unwrap();
        drop(input);
    };
    let ((), output) = tokio::join!(writing, node.wait_with_output());
    let output = String::from_utf8(output.unwrap().stdout).unwrap();
    let read: Vec<_> = output
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(read.len(), contexts.len());
    read
}

/// Starts a gateway whose plugin copies the client's headers into a request to `flags`, and returns
/// what was received there.
async fn fetching(flags: SocketAddr, tracing: &str, on_route: &str) -> Gateway {
    let yaml = format!(
        "
{tracing}
routes:
  - match: {{ path: /* }}
    respond: fixed
    {on_route}
    plugins: [{{ file: p.js, on_error: refuse, limits: {{ wall: 10s }}, config: {{ origin: 'http://{flags}' }}, fetch: {{ origins: ['http://{flags}'], deadline: 10s }} }}]
"
    );
    let plugin = "export async function onRequest(request, ctx) {
        const seen = await fetch(`${ctx.config.origin}/`, { headers: request.headers });
        return new Response(await seen.text());
    }";
    let write = |folder: &Path| std::fs::write(folder.join("p.js"), plugin).unwrap();
    Gateway::start_in(&yaml, write).await
}

#[tokio::test]
async fn a_fetch_of_a_plugin_belongs_to_the_request() {
    let flags = EchoOrigin::start().await;
    let request = || {
        get("/")
            .header("traceparent", PARENT)
            .header("tracestate", "a=1")
    };
    for (sample, sampled) in [("100%", "01"), ("0%", "00")] {
        let tracing = format!("tracing: {{ endpoint: 'http://127.0.0.1:1', sample: {sample} }}");
        let gateway = fetching(flags.address(), &tracing, "").await;
        let response = gateway.send(&request()).await;
        let line = gateway.log_lines(1).await.remove(0);
        let parent = got(&response, "traceparent").unwrap();
        let expected = [&line["trace_id"], &line["span_id"], &sampled.into()];
        assert_eq!(
            parts(&parent).map(serde_json::Value::from).each_ref(),
            expected
        );
        assert_eq!(got(&response, "tracestate"), None);
    }
    let off = "tracing: { endpoint: 'http://127.0.0.1:1' }";
    for (tracing, on_route) in [("", ""), (off, "request_id: { traceparent: false }")] {
        let gateway = fetching(flags.address(), tracing, on_route).await;
        let response = gateway.send(&request()).await;
        assert_eq!(got(&response, "traceparent").as_deref(), Some(PARENT));
        assert_eq!(got(&response, "tracestate").as_deref(), Some("a=1"));
    }
}
