//! Content of spans: names and attributes of the semantic conventions, steps, attempts, and nothing
//! that is secret.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Collector, collector, forwarding, got, named, of_kind, parts, traced};
use crate::support::{
    client::{get, post},
    front::Front,
    gateway::Gateway,
    http2,
    origins::{EchoOrigin, Failure, ResettingOrigin, SlowOrigin, WsOrigin},
};

/// Returns the span of the only request of `path`.
async fn request(collector: &Collector, path: &str) -> Value {
    let condition = format!("the request of {path} is there");
    crate::support::wait::wait_for(&condition, Duration::from_secs(15), async || {
        let spans = collector.spans();
        let found = spans.iter().find(|span| {
            span["kind"] == collector::SERVER && span["attributes"]["url.path"] == path
        });
        found.cloned()
    })
    .await
}

#[tokio::test]
async fn a_request_is_described_as_the_conventions_say() {
    let origin = EchoOrigin::start().await;
    let (collector, gateway) = traced(origin.address(), "").await;
    let sent = post("/a/b?page=2&token=hunter2", "hello")
        .header("user-agent", "tester/1")
        .header("host", "shop.example.com:8080");
    let response = gateway.send(&sent).await;
    let [trace, ..] = parts(&got(&response, "traceparent").unwrap()).map(str::to_owned);
    let spans = collector.trace(&trace).await;
    let request = of_kind(&spans, collector::SERVER)[0];
    assert_eq!(request["name"], "POST /*");
    assert_eq!(request["scope"], "edgeway");
    assert_eq!(request["resource"]["service.name"], "edgeway");
    let backend = origin.address();
    for (name, value) in [
        ("http.request.method", json!("POST")),
        ("url.path", json!("/a/b")),
        ("url.query", json!("page=2&token=[redacted]")),
        ("url.scheme", json!("http")),
        ("server.address", json!("shop.example.com")),
        ("server.port", json!(8080)),
        ("client.address", json!("127.0.0.1")),
        ("user_agent.original", json!("tester/1")),
        ("network.protocol.version", json!("1.1")),
        ("http.response.status_code", json!(200)),
        ("http.route", json!("/*")),
        ("http.request.body.size", json!(5)),
        ("http.response.body.size", json!(response.body.len())),
        ("edgeway.upstream", json!("app")),
        ("error.type", Value::Null),
    ] {
        assert_eq!(request["attributes"][name], value, "{name}");
    }
    let attempt = of_kind(&spans, collector::CLIENT)[0];
    assert_eq!(attempt["name"], "POST");
    for (name, value) in [
        ("http.request.method", json!("POST")),
        ("server.address", json!("127.0.0.1")),
        ("server.port", json!(backend.port())),
        ("http.response.status_code", json!(200)),
        ("http.request.resend_count", Value::Null),
    ] {
        assert_eq!(attempt["attributes"][name], value, "{name}");
    }
    let time = |span: &Value, end: &str| span[end].as_u64().unwrap();
    for span in &spans {
        assert!(time(request, "start") <= time(span, "start"), "{span}");
        assert!(time(span, "start") <= time(span, "end"), "{span}");
        assert!(time(span, "end") <= time(request, "end"), "{span}");
    }
    let all = Value::from(collector.spans()).to_string();
    assert!(!all.contains("hunter2"), "{all}");
}

#[tokio::test]
async fn each_attempt_is_a_span_and_retries_are_counted() {
    let resetting = ResettingOrigin::start(Failure::ResetBeforeResponse).await;
    let origin = EchoOrigin::start().await;
    let collector = Collector::start().await;
    let gateway = Front::to_all(&format!(
        "['{}', '{}']",
        resetting.address(),
        origin.address()
    ))
    .with(&format!(
        "tracing: {{ {}, sample: 100% }}",
        collector.grpc()
    ))
    .upstream("eject: { errors: 0 }, retry: { attempts: 2 }")
    .start()
    .await;
    // Round robin begins with either.
    let mut retried = None;
    for _ in 0..2 {
        let response = gateway.get("/").await;
        assert_eq!(response.status(), 200);
        let parent = got(&response, "traceparent").unwrap();
        let [trace, span, _] = parts(&parent).map(str::to_owned);
        let spans = collector.trace(&trace).await;
        let attempts = of_kind(&spans, collector::CLIENT);
        let last = attempts.last().unwrap();
        assert_eq!(last["span_id"], span);
        if attempts.len() == 2 {
            retried = Some(attempts.into_iter().cloned().collect::<Vec<_>>());
        }
    }
    let retried = retried.unwrap();
    assert_eq!(retried[0]["attributes"]["error.type"], "upstream_reset");
    assert_eq!(retried[0]["status"], 2);
    assert_eq!(
        retried[0]["attributes"]["server.port"],
        resetting.address().port()
    );
    assert_eq!(retried[1]["attributes"]["http.request.resend_count"], 1);
    assert_eq!(
        retried[1]["attributes"]["server.port"],
        origin.address().port()
    );
    assert_eq!(retried[1]["status"], 0);
}

#[tokio::test]
async fn steps_are_spans_below_the_request() {
    let origin = EchoOrigin::start().await;
    let collector = Collector::start().await;
    let hash = bcrypt::hash("secret", 4).unwrap();
    let gateway = Gateway::start_in(
        &format!(
            "
tracing: {{ {}, sample: 100% }}
upstreams: {{ app: {{ backends: [\"{}\"], health: false }} }}
rate_limits: {{ each: {{ rate: 2/h }} }}
cache: {{}}
routes:
  - match: {{ path: /* }}
    upstream: app
    basic_auth: {{ users: {{ ann: '{hash}' }} }}
    rate_limit: each
    plugins: [{{ file: slow.js, on_error: continue }}]
    cache: {{}}
",
            collector.grpc(),
            origin.address()
        ),
        |folder| {
            let script = "export async function onRequest() {\n\
                          await new Promise((done) => setTimeout(done, 30));\n}\n";
            std::fs::write(folder.join("slow.js"), script).unwrap();
        },
    )
    .await;
    let with_password = get("/a").header("authorization", "Basic YW5uOnNlY3JldA==");
    let response = gateway.send(&with_password).await;
    assert_eq!(response.status(), 200, "{}", gateway.stderr());
    let request = request(&collector, "/a").await;
    let spans = collector.trace(request["trace_id"].as_str().unwrap()).await;
    for name in [
        "route",
        "auth basic_auth",
        "limit rate_limit",
        "plugin",
        "cache",
    ] {
        let step = named(&spans, name);
        assert_eq!(
            (&step["kind"], &step["parent"]),
            (&collector::INTERNAL.into(), &request["span_id"])
        );
    }
    let plugin = named(&spans, "plugin");
    let took = plugin["end"].as_u64().unwrap() - plugin["start"].as_u64().unwrap();
    assert!(took > 25_000_000, "{took}");
    assert!(
        request["attributes"]["edgeway.cache"].is_string(),
        "{request}"
    );
    // A step that ends the request says so.
    assert_eq!(gateway.get("/refused").await.status(), 401);
    let refused = self::request(&collector, "/refused").await;
    assert_eq!(
        refused["status"], 0,
        "the client's mistake is no error of the server"
    );
    let spans = collector.trace(refused["trace_id"].as_str().unwrap()).await;
    let auth = named(&spans, "auth basic_auth");
    assert_eq!(auth["attributes"]["edgeway.ended_request"], true);
    assert!(of_kind(&spans, collector::CLIENT).is_empty());
}

#[tokio::test]
async fn every_way_through_the_gateway_is_traced() {
    let origin = EchoOrigin::start().await;
    let websockets = WsOrigin::start().await;
    let collector = Collector::start().await;
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ name: web, address: '127.0.0.1:0', http2: {{ cleartext: true }} }}]
tracing: {{ {}, sample: 100% }}
cache: {{}}
upstreams:
  app: {{ backends: [\"{}\"], health: false }}
  sockets: {{ backends: [\"{}\"], health: false }}
routes:
  - {{ match: {{ path: /fixed/* }}, respond: fixed }}
  - match: {{ path: /cached }}
    upstream: app
    cache: {{ ttl: 1h }}
  - {{ match: {{ path: /ws }}, upstream: sockets, websocket: true }}
  - {{ match: {{ path: /app }}, upstream: app }}
",
        collector.grpc(),
        origin.address(),
        websockets.address()
    ))
    .await;
    for path in [
        "/fixed/1", "/fixed/1", "/cached", "/cached", "/cached", "/nowhere",
    ] {
        gateway.get(path).await;
    }
    let h2 = http2::Client::open(gateway.address()).await;
    assert_eq!(h2.get("/app").await.status(), 200);
    let (socket, _) = tokio_tungstenite::connect_async(format!("ws://{}/ws", gateway.address()))
        .await
        .unwrap();
    drop(socket);
    let broken = "GET /x HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n";
    let mut connection = gateway.connect().await;
    connection.write(broken).await.unwrap();
    assert_eq!(connection.read_response().await.unwrap().status(), 400);
    let requests = collector.requests(9).await;
    let mut seen: Vec<_> = requests
        .iter()
        .map(|span| {
            let of = |name: &str| span["attributes"][name].to_string();
            let cached = of("edgeway.cache");
            let protocol = of("network.protocol.version");
            format!(
                "{} {} {cached} {protocol}",
                of("url.path"),
                of("http.response.status_code")
            )
        })
        .collect();
    seen.sort();
    let expected = [
        "\"/app\" 200 null \"2\"",
        "\"/cached\" 200 \"HIT\" \"1.1\"",
        "\"/cached\" 200 \"HIT\" \"1.1\"",
        "\"/cached\" 200 \"MISS\" \"1.1\"",
        "\"/fixed/1\" 200 null \"1.1\"",
        "\"/fixed/1\" 200 null \"1.1\"",
        "\"/nowhere\" 404 null \"1.1\"",
        "\"/ws\" 101 null \"1.1\"",
        "\"/x\" 400 null \"1.1\"",
    ];
    assert_eq!(seen, expected);
    // Each has its own trace, and its line in the log.
    let lines = gateway.log_lines(9).await;
    for span in &requests {
        let of_trace = lines
            .iter()
            .filter(|line| line["trace_id"] == span["trace_id"]);
        assert_eq!(of_trace.count(), 1, "{span}");
    }
}

#[tokio::test]
async fn a_revalidation_in_the_background_belongs_to_the_request_that_began_it() {
    let origin = EchoOrigin::start().await;
    let collector = Collector::start().await;
    let gateway = Front::to(&origin)
        .with(&format!(
            "tracing: {{ {}, sample: 100% }}",
            collector.grpc()
        ))
        .with("cache: {}")
        .route("cache: { ttl: 1s, stale_while_revalidate: 1h }")
        .start()
        .await;
    gateway.get("/a").await;
    crate::support::wait::pass(Duration::from_millis(1200)).await;
    gateway.get("/a").await;
    let condition = "the revalidation is there";
    let span = crate::support::wait::wait_for(condition, Duration::from_secs(15), async || {
        let spans = collector.spans();
        spans
            .iter()
            .find(|span| span["name"] == "revalidate")
            .cloned()
    })
    .await;
    let spans = collector.trace(span["trace_id"].as_str().unwrap()).await;
    let request = of_kind(&spans, collector::SERVER)[0];
    assert_eq!(
        (&span["parent"], &span["kind"]),
        (&request["span_id"], &1.into())
    );
    assert_eq!(request["attributes"]["edgeway.cache"], "STALE");
    let attempt = of_kind(&spans, collector::CLIENT)[0];
    assert_eq!(attempt["parent"], span["span_id"]);
}

#[tokio::test]
async fn secrets_of_the_access_log_are_none_of_the_traces() {
    let origin = EchoOrigin::start().await;
    let collector = Collector::start().await;
    let keys = format!("{}, sample: 100%", collector.grpc());
    let log = "access_log: { file: access.log, redact: [coupon] }";
    let yaml = forwarding(&keys, origin.address(), log);
    let gateway = Gateway::start(&yaml).await;
    gateway.get("/a?coupon=hunter2&password=hunter2&b=1").await;
    let request = request(&collector, "/a").await;
    let query = "coupon=[redacted]&password=[redacted]&b=1";
    assert_eq!(request["attributes"]["url.query"], query);
    // Overlong texts of clients are cut.
    let long = format!("/{}", "a".repeat(4000));
    gateway.get(&long).await;
    let spans = collector.requests(2).await;
    let longest = spans
        .iter()
        .filter_map(|span| span["attributes"]["url.path"].as_str());
    assert_eq!(longest.map(str::len).max(), Some(1024));
}

#[tokio::test]
async fn a_wait_for_a_backend_is_a_step() {
    let slow = SlowOrigin::start(Duration::from_millis(300)).await;
    let collector = Collector::start().await;
    let gateway = Front::to(&slow)
        .with(&format!(
            "tracing: {{ {}, sample: 0%, slow: 500ms }}",
            collector.grpc()
        ))
        .upstream("max_in_flight: { per_backend: 1, queue: 10, wait: 5s }")
        .start()
        .await;
    tokio::join!(gateway.get("/1"), gateway.get("/2"));
    let requests = collector.requests(1).await;
    let trace = requests[0]["trace_id"].as_str().unwrap();
    let spans = collector.trace(trace).await;
    let queue = named(&spans, "queue");
    let waited = queue["end"].as_u64().unwrap() - queue["start"].as_u64().unwrap();
    assert!(waited > 150_000_000, "{waited}");
}
