//! Requests that are exported: a share, those that a parent sampled, and always the failed and the
//! slow ones.

use std::time::Duration;

use super::{Collector, PARENT, PARENT_TRACE, forwarding, front, got, parts};
use crate::support::{
    client::get,
    gateway::Gateway,
    origins::{EchoOrigin, SlowOrigin, WsOrigin},
    ports::free_port,
};

#[tokio::test]
async fn the_share_of_sampled_requests_is_the_configured_one() {
    const REQUESTS: usize = 2000;
    let collector = Collector::start().await;
    let keys = format!("{}, sample: 20%, slow: false", collector.grpc());
    let origin = EchoOrigin::start().await;
    let mut gateway = front(&keys, origin.address()).await;
    for _ in 0..4 {
        let mut connection = gateway.connect().await;
        for _ in 0..REQUESTS / 4 {
            connection.send(&get("/fixed")).await.unwrap();
        }
    }
    gateway.log_lines(REQUESTS).await;
    assert_eq!(gateway.count("edgeway_trace_spans_dropped_total").await, 0);
    gateway.terminate(Duration::from_secs(10)).await;
    let exported = collector.requests(1).await;
    // Five standard deviations around 400.
    assert!((310..=490).contains(&exported.len()), "{}", exported.len());
    let mut traces: Vec<_> = exported
        .iter()
        .map(|span| span["trace_id"].to_string())
        .collect();
    traces.sort();
    traces.dedup();
    assert_eq!(traces.len(), exported.len());
}

#[tokio::test]
async fn no_client_can_have_its_requests_sampled() {
    let collector = Collector::start().await;
    let origin = EchoOrigin::start().await;
    for trust in ["proxies", "all", "none"] {
        let keys = format!("{}, sample: 0%, trust: {trust}", collector.grpc());
        let gateway = front(&keys, origin.address()).await;
        for _ in 0..20 {
            let response = gateway.send(&get("/").header("traceparent", PARENT)).await;
            let parent = got(&response, "traceparent").unwrap();
            assert_eq!(parts(&parent)[2], "00");
        }
        drop(gateway);
    }
    // The control: a trusted proxy can.
    let keys = format!("{}, sample: 0%", collector.grpc());
    let trusted = forwarding(&keys, origin.address(), "trusted_proxies: [127.0.0.1]");
    let gateway = Gateway::start(&trusted).await;
    let response = gateway.send(&get("/").header("traceparent", PARENT)).await;
    assert_eq!(parts(&got(&response, "traceparent").unwrap())[2], "01");
    assert_eq!(collector.requests(1).await.len(), 1);
}

/// Returns the ids of the exemplars that the gateway shows.
async fn exemplars(gateway: &Gateway) -> Vec<String> {
    let request = get("/metrics").header("accept", "application/openmetrics-text");
    let text = gateway.send_admin(&request).await.text();
    let ids = text.split("trace_id=\"").skip(1);
    ids.map(|rest| rest[..32].to_owned()).collect()
}

/// Invariant: with tracing, an exemplar names a trace that is exported; without it, the trace that
/// the client named.
#[tokio::test]
async fn exemplars_name_exported_traces() {
    let collector = Collector::start().await;
    let keys = format!("{}, sample: 0%, slow: false", collector.grpc());
    let mut gateway = front(&keys, ([127, 0, 0, 1], free_port()).into()).await;
    let with_parent = |path| get(path).header("traceparent", PARENT);
    for _ in 0..5 {
        assert_eq!(gateway.send(&with_parent("/fixed")).await.status(), 200);
    }
    assert_eq!(exemplars(&gateway).await, Vec::<String>::new());
    assert_eq!(gateway.send(&with_parent("/gone")).await.status(), 502);
    gateway.log_lines(6).await;
    let shown = exemplars(&gateway).await;
    gateway.terminate(Duration::from_secs(10)).await;
    let failed = collector.requests(1).await;
    assert_eq!(shown, [failed[0]["trace_id"].as_str().unwrap()]);

    let gateway = Gateway::start("routes: [{ match: { path: /* }, respond: fixed }]").await;
    gateway.send(&with_parent("/")).await;
    gateway
        .send(&get("/").header("traceparent", &PARENT[1..]))
        .await;
    gateway.log_lines(2).await;
    assert_eq!(exemplars(&gateway).await, [PARENT_TRACE]);
}

#[tokio::test]
async fn failed_and_slow_requests_are_always_exported() {
    let collector = Collector::start().await;
    let keys = format!("{}, sample: 0%, slow: 300ms", collector.grpc());
    let slow = SlowOrigin::start(Duration::ZERO).await;
    let nobody = free_port();
    let gateway = Gateway::start(&format!(
        "
tracing: {{ {keys} }}
upstreams:
  app: {{ backends: [\"{}\"], health: false }}
  nobody: {{ backends: [\"127.0.0.1:{nobody}\"], health: false }}
routes:
  - match: {{ path: /down }}
    upstream: nobody
  - match: {{ path: /* }}
    upstream: app
",
        slow.address()
    ))
    .await;
    assert_eq!(gateway.get("/quick").await.status(), 200);
    assert_eq!(gateway.get("/down").await.status(), 502);
    slow.settings().set_delay(Duration::from_millis(400));
    assert_eq!(gateway.get("/late").await.status(), 200);
    let requests = collector.requests(2).await;
    let paths: Vec<_> = requests
        .iter()
        .map(|span| &span["attributes"]["url.path"])
        .collect();
    assert_eq!(paths, ["/down", "/late"]);
    let failed = &requests[0];
    assert_eq!(
        (&failed["status"], &failed["message"]),
        (&2.into(), &"upstream_connect".into())
    );
    assert_eq!(failed["attributes"]["error.type"], "upstream_connect");
    assert_eq!(requests[1]["status"], 0);
    // What the app was told: it records nothing of its own.
    let spans = collector.spans();
    let attempts = super::of_kind(&spans, super::collector::CLIENT);
    assert_eq!(attempts[0]["parent"], failed["span_id"]);
    assert_eq!(attempts[0]["attributes"]["error.type"], "upstream_connect");
}

#[tokio::test]
async fn failed_and_slow_requests_may_be_left_out() {
    let collector = Collector::start().await;
    let keys = format!(
        "{}, sample: 0%, slow: false, errors: false",
        collector.grpc()
    );
    let gateway = front(&keys, ([127, 0, 0, 1], free_port()).into()).await;
    assert_eq!(gateway.get("/down").await.status(), 502);
    // The control is the request of a configuration that samples.
    let keys = format!("{}, sample: 100%", collector.grpc());
    assert!(
        gateway
            .reload(&forwarding(&keys, ([127, 0, 0, 1], free_port()).into(), ""))
            .await
    );
    gateway.get("/fixed").await;
    let requests = collector.requests(1).await;
    assert_eq!(requests[0]["attributes"]["url.path"], "/fixed");
}

#[tokio::test]
async fn a_long_websocket_is_not_slow() {
    let collector = Collector::start().await;
    let origin = WsOrigin::start().await;
    let gateway = Gateway::start(&format!(
        "
tracing: {{ {}, sample: 0%, slow: 100ms }}
upstreams: {{ app: {{ backends: [\"{}\"], health: false }} }}
routes:
  - match: {{ path: /ws }}
    upstream: app
    websocket: true
  - match: {{ path: /* }}
    respond: {{ status: 503 }}
",
        collector.grpc(),
        origin.address()
    ))
    .await;
    let url = format!("ws://{}/ws", gateway.address());
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    crate::support::wait::pass(Duration::from_millis(300)).await;
    socket.close(None).await.unwrap();
    drop(socket);
    gateway.log_lines(1).await;
    gateway.get("/fails").await;
    let requests = collector.requests(1).await;
    assert_eq!(requests[0]["attributes"]["url.path"], "/fails");
}
