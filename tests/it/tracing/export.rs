//! The way of spans to the collector: both protocols, TLS, collectors that fail, reload and stop.

use std::{net::SocketAddr, time::Duration};

use tokio::time::Instant;

use super::{Collector, forwarding, front};
use crate::support::{
    certificates::Ca,
    client::{self, get},
    gateway::Gateway,
    origins::{EchoOrigin, SlowOrigin},
    wait::{pass, wait_for},
};

const SOON: Duration = Duration::from_secs(15);
const EXPORTED: &str = "edgeway_trace_spans_exported_total";
const DROPPED: &str = "edgeway_trace_spans_dropped_total";
const FAILING: &str = "edgeway_trace_export_failing";

fn nobody() -> SocketAddr {
    ([127, 0, 0, 1], 9).into()
}

#[tokio::test]
async fn both_protocols_reach_the_collector_with_their_headers() {
    let collector = Collector::start().await;
    for (protocol, keys) in [("grpc", collector.grpc()), ("http", collector.http())] {
        let keys = format!(
            "{keys}, sample: 100%, service_name: shop-{protocol}, headers: {{ x-key: file:key }}, \
             resource: {{ deployment.environment.name: test }}"
        );
        let yaml = forwarding(&keys, nobody(), "");
        let key = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(key.path(), "hunter2\n").unwrap();
        let yaml = yaml.replace("file:key", &format!("file:{}", key.path().display()));
        // Of the SDK of an app in the same pod, for the collector of somebody else.
        let environment = [
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=other,x-other=1"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "x-traces=1"),
        ];
        let gateway = Gateway::start_with(&yaml, &environment).await;
        gateway.get("/fixed").await;
        let service = format!("shop-{protocol}");
        let span = wait_for("the span is there", SOON, async || {
            let spans = collector.spans();
            let found = spans
                .iter()
                .find(|span| span["resource"]["service.name"] == *service);
            found.cloned()
        })
        .await;
        assert_eq!(span["by"], protocol);
        assert_eq!(span["headers"]["x-key"], "hunter2");
        for name in ["x-other", "x-traces"] {
            assert!(span["headers"].get(name).is_none(), "{}", span["headers"]);
        }
        assert_eq!(span["resource"]["deployment.environment.name"], "test");
        assert_eq!(
            span["resource"]["service.version"],
            env!("CARGO_PKG_VERSION")
        );
        assert!(!gateway.stderr().contains("hunter2"));
    }
}

#[tokio::test]
async fn the_certificate_of_the_collector_is_verified() {
    let ca = Ca::new();
    let collector = Collector::start_with(Some(&ca.site(&["localhost"]))).await;
    let dir = tempfile::tempdir().unwrap();
    let (right, wrong) = (dir.path().join("right.pem"), dir.path().join("wrong.pem"));
    std::fs::write(&right, ca.pem()).unwrap();
    std::fs::write(&wrong, Ca::new().pem()).unwrap();
    for keys in [collector.grpc(), collector.http()] {
        let keys = keys.replace("http://127.0.0.1", "https://localhost");
        for (ca, is_right) in [(&wrong, false), (&right, true)] {
            let ca = ca.display();
            let keys = format!("{keys}, sample: 100%, timeout: 2s, tls: {{ ca: '{ca}' }}");
            let gateway = front(&keys, nobody()).await;
            gateway.get("/fixed").await;
            let counted = if is_right { EXPORTED } else { DROPPED };
            wait_for("the span was sent or dropped", SOON, async || {
                (gateway.count(counted).await > 0).then_some(())
            })
            .await;
            assert_eq!(gateway.count(FAILING).await, u64::from(!is_right));
        }
    }
}

/// Sends requests and returns the longest time that one took.
async fn slowest(gateway: &Gateway, count: usize) -> Duration {
    let mut connection = gateway.connect().await;
    let mut slowest = Duration::ZERO;
    for _ in 0..count {
        let begun = Instant::now();
        let response = connection.send(&get("/fixed")).await.unwrap();
        assert_eq!(response.status(), 200);
        slowest = slowest.max(begun.elapsed());
    }
    slowest
}

#[tokio::test]
async fn a_killed_collector_costs_spans_only_and_they_are_counted() {
    let mut collector = Collector::start().await;
    let keys = format!("{}, sample: 100%, timeout: 1s", collector.grpc());
    let gateway = front(&keys, nobody()).await;
    gateway.get("/fixed").await;
    collector.requests(1).await;
    gateway.counts(FAILING, 0).await;
    collector.kill().await;
    assert!(slowest(&gateway, 200).await < SOON);
    wait_for("every span is counted", SOON, async || {
        (gateway.count(DROPPED).await >= 200).then_some(())
    })
    .await;
    assert_eq!(gateway.count(FAILING).await, 1);
    let warned = gateway.stderr().matches("traces lost").count();
    assert_eq!(warned, 1, "{}", gateway.stderr());
    // It comes back.
    collector.start_again().await;
    wait_for("spans arrive again", SOON, async || {
        gateway.get("/fixed").await;
        (!collector.spans().is_empty()).then_some(())
    })
    .await;
    gateway.counts(FAILING, 0).await;
    assert!(gateway.stderr().contains("traces are exported again"));
}

#[tokio::test]
async fn a_hung_collector_costs_spans_only_and_a_bounded_memory() {
    let collector = Collector::start().await;
    collector.set_mode("hang");
    for keys in [collector.grpc(), collector.http()] {
        let keys = format!("{keys}, sample: 100%, timeout: 1min, queue: 10");
        let mut gateway = front(&keys, nobody()).await;
        assert!(slowest(&gateway, 1000).await < SOON);
        // One batch is on its way, ten requests wait, and the others are dropped.
        let dropped = gateway.count(DROPPED).await;
        assert!(dropped > 300, "{dropped}");
        // The process does not wait for it for long.
        let begun = Instant::now();
        gateway.terminate(Duration::from_secs(10)).await;
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
        assert!(
            gateway.stderr().contains("some traces were lost"),
            "{}",
            gateway.stderr()
        );
    }
}

#[tokio::test]
async fn a_batch_that_is_refused_is_dropped_and_one_that_may_be_repeated_is_repeated() {
    let collector = Collector::start().await;
    for keys in [collector.grpc(), collector.http()] {
        collector.set_mode("refuse");
        let keys = format!("{keys}, sample: 100%");
        let gateway = front(&keys, nobody()).await;
        gateway.get("/fixed").await;
        wait_for("the spans are dropped", SOON, async || {
            (gateway.count(DROPPED).await > 0).then_some(())
        })
        .await;
        let before = collector.spans().len();
        collector.set_mode("busy");
        gateway.get("/fixed").await;
        pass(Duration::from_millis(250)).await;
        collector.set_mode("ok");
        wait_for("the spans are sent again", SOON, async || {
            (collector.spans().len() > before).then_some(())
        })
        .await;
        gateway.counts(FAILING, 0).await;
    }
}

#[tokio::test]
async fn what_is_queued_is_sent_when_the_process_stops() {
    let collector = Collector::start().await;
    let keys = collector.grpc().replace("100ms", "1min");
    let mut gateway = front(&format!("{keys}, sample: 100%"), nobody()).await;
    gateway.get("/fixed").await;
    gateway.log_lines(1).await;
    assert!(collector.spans().is_empty());
    gateway.terminate(Duration::from_secs(10)).await;
    assert_eq!(collector.requests(1).await.len(), 1);
}

#[tokio::test]
async fn an_upgrade_loses_no_span() {
    let collector = Collector::start().await;
    let slow = SlowOrigin::start(Duration::from_millis(700)).await;
    let keys = collector.grpc().replace("100ms", "1min");
    let keys = format!("{keys}, sample: 100%");
    let mut gateway = front(&keys, slow.address()).await;
    gateway.get("/fixed").await;
    let address = gateway.address();
    let request = get("/late");
    let upgrade = async {
        wait_for("the app has the request", SOON, async || {
            (slow.counts().requests() > 0).then_some(())
        })
        .await;
        gateway.upgrade().await;
    };
    let (late, ()) = tokio::join!(client::send(address, &request), upgrade);
    late.unwrap();
    let requests = collector.requests(2).await;
    let paths: Vec<_> = requests
        .iter()
        .map(|span| &span["attributes"]["url.path"])
        .collect();
    assert_eq!(paths, ["/fixed", "/late"]);
}

#[tokio::test]
async fn a_reload_changes_the_collector_and_loses_no_span() {
    let (first, second) = (Collector::start().await, Collector::start().await);
    let keys = |collector: &Collector| {
        let keys = collector.grpc().replace("100ms", "2s");
        format!("{keys}, sample: 100%")
    };
    let gateway = front(&keys(&first), nobody()).await;
    for _ in 0..20 {
        gateway.get("/fixed").await;
    }
    assert!(
        gateway
            .reload(&forwarding(&keys(&second), nobody(), ""))
            .await
    );
    for _ in 0..20 {
        gateway.get("/fixed").await;
    }
    assert_eq!(first.requests(20).await.len(), 20);
    assert_eq!(second.requests(20).await.len(), 20);
    assert_eq!(gateway.count(DROPPED).await, 0);
    // Off: nothing more is made, and a `traceparent` is the business of apps again.
    assert!(
        gateway
            .reload("routes: [{ match: { path: /* }, respond: fixed }]\n")
            .await
    );
    gateway.get("/fixed").await;
    let line = gateway.log_lines(41).await.remove(40);
    assert!(line["trace_id"].is_null(), "{line}");
    // A section that is wrong is refused.
    assert!(
        !gateway
            .reload(&forwarding("endpoint: nowhere", nobody(), ""))
            .await
    );
}

#[tokio::test]
async fn a_configuration_that_is_only_checked_connects_to_nobody() {
    let origin = EchoOrigin::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("edgeway.yaml");
    let keys = format!("endpoint: 'http://{}'", origin.address());
    let yaml = format!(
        "listeners: [{{ address: '127.0.0.1:0' }}]{}",
        forwarding(&keys, nobody(), "")
    );
    std::fs::write(&file, yaml).unwrap();
    let checked = std::process::Command::new(env!("CARGO_BIN_EXE_edgeway"))
        .args(["check", "--print", "-c"])
        .arg(&file)
        .output()
        .unwrap();
    let text = String::from_utf8(checked.stdout).unwrap();
    assert!(
        checked.status.success(),
        "{}",
        String::from_utf8_lossy(&checked.stderr)
    );
    for line in [
        "tracing:",
        "sample: 1%",
        "slow: 1s",
        "trust: proxies",
        "queue: 1024",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert_eq!(origin.counts().requests(), 0);
}
