//! The filter `in_flight` for clients: how many requests may be in flight, and that every place is
//! returned.

use std::{pin::pin, time::Duration};

use tokio::task::JoinSet;

use crate::support::{
    client::{self, Connection, Response, get},
    gateway::Gateway,
    http2, load,
    origins::{Origin, SlowOrigin, WsOrigin},
    wait::wait_for,
};

const SOON: Duration = Duration::from_secs(10);
const GAUGE: &str = "edgeway_in_flight_requests{route=\"slow\"}";

fn yaml(origin: std::net::SocketAddr, filter: &str, upstream: &str) -> String {
    format!(
        "listeners: [{{ address: 127.0.0.1:0, http2: {{ cleartext: true }} }}]\n\
         upstreams: {{ app: {{ backends: ['{origin}'], health: false{upstream} }} }}\n\
         routes:\n\
         - {{ name: slow, match: {{ path: /slow }}, upstream: app, websocket: true, in_flight: {filter} }}\n\
         - {{ match: {{ path: / }}, respond: ok }}\n"
    )
}

/// Starts an origin that responds after the test has ended.
async fn never() -> Origin<SlowOrigin> {
    SlowOrigin::start(Duration::from_mins(1)).await
}

/// Requests that wait for their responses until the set is dropped.
type Waiting = JoinSet<()>;

/// Begins a request from this address, and waits until the gateway has `then` requests in flight.
async fn begin(waiting: &mut Waiting, from: &str, gateway: &Gateway, then: u64) {
    let (from, to) = (from.parse().expect("an address"), gateway.address());
    waiting.spawn(async move {
        let mut connection = Connection::open_from(from, to).await.expect("it accepts");
        // The test does not wait for a response.
        drop(connection.send(&get("/slow")).await);
    });
    counted(gateway, then).await;
}

async fn counted(gateway: &Gateway, requests: u64) {
    wait_for(&format!("{requests} are in flight"), SOON, async || {
        (gateway.count(GAUGE).await == requests).then_some(())
    })
    .await;
}

async fn ask(from: &str, gateway: &Gateway) -> Response {
    let from = from.parse().expect("an address");
    let mut connection = Connection::open_from(from, gateway.address())
        .await
        .expect("the gateway accepts connections");
    let request = get("/slow").header("accept", "application/json");
    connection.send(&request).await.expect("a response")
}

#[track_caller]
fn assert_refused(response: &Response, reason: &str) {
    assert_eq!(response.status(), 503);
    assert_eq!(response.header("retry-after"), Some("1"));
    let body = response.text();
    assert!(body.contains(&format!("\"{reason}\"")), "{body}");
}

#[tokio::test]
async fn requests_in_flight_are_limited_per_route_and_per_client() {
    let origin = never().await;
    let gateway = Gateway::start(&yaml(origin.address(), "{ max: 3, per_key: 2 }", "")).await;
    let mut waiting = Waiting::new();
    begin(&mut waiting, "127.0.0.1", &gateway, 1).await;
    begin(&mut waiting, "127.0.0.1", &gateway, 2).await;
    assert_refused(&ask("127.0.0.1", &gateway).await, "in_flight_key");
    begin(&mut waiting, "127.0.0.2", &gateway, 3).await;
    assert_refused(&ask("127.0.0.3", &gateway).await, "in_flight");
    assert_eq!(
        gateway.get("/").await.status(),
        200,
        "other routes are free"
    );
    for reason in ["in_flight", "in_flight_key"] {
        let series = format!("edgeway_refused_total{{reason=\"{reason}\"}}");
        gateway.counts(&series, 1).await;
    }
    // Clients that disconnect return their places, and the origin got no more requests than
    // allowed.
    drop(waiting);
    counted(&gateway, 0).await;
    assert_eq!(origin.counts().requests(), 3);
    origin.settings().set_delay(Duration::ZERO);
    for _ in 0..5 {
        assert_eq!(ask("127.0.0.1", &gateway).await.status(), 200);
    }
    counted(&gateway, 0).await;
}

#[tokio::test]
async fn a_reload_in_the_middle_keeps_the_counts_right() {
    let origin = never().await;
    let written = |max| yaml(origin.address(), max, "");
    let gateway = Gateway::start(&written("2")).await;
    let mut waiting = Waiting::new();
    begin(&mut waiting, "127.0.0.1", &gateway, 1).await;
    begin(&mut waiting, "127.0.0.1", &gateway, 2).await;
    assert!(gateway.reload(&written("3")).await);
    begin(&mut waiting, "127.0.0.1", &gateway, 3).await;
    assert_refused(&ask("127.0.0.1", &gateway).await, "in_flight");
    assert!(gateway.reload(&written("1")).await);
    assert_refused(&ask("127.0.0.1", &gateway).await, "in_flight");
    drop(waiting);
    counted(&gateway, 0).await;
    let mut waiting = Waiting::new();
    begin(&mut waiting, "127.0.0.1", &gateway, 1).await;
    assert_refused(&ask("127.0.0.1", &gateway).await, "in_flight");
}

#[tokio::test]
async fn a_websocket_holds_its_permit_until_it_ends() {
    let origin = WsOrigin::start().await;
    let gateway = Gateway::start(&yaml(origin.address(), "1", "")).await;
    let upgrade = get("/slow")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA==");
    let mut connection = gateway.connect().await;
    let headers = connection.start(&upgrade).await.expect("it is upgraded");
    assert_eq!(headers.status, 101);
    assert_refused(&ask("127.0.0.1", &gateway).await, "in_flight");
    drop(connection);
    counted(&gateway, 0).await;
}

#[tokio::test]
async fn a_reset_stream_releases_its_permit() {
    let origin = never().await;
    let gateway = Gateway::start(&yaml(origin.address(), "1", "")).await;
    let client = http2::Client::open(gateway.address()).await;
    let begun = client.begin(http2::request("GET", "/slow"), true).await;
    let (response, stream) = begun.expect("it is sent");
    counted(&gateway, 1).await;
    assert_eq!(client.get("/slow").await.status(), 503);
    // A client that loses interest resets the stream.
    drop((response, stream));
    counted(&gateway, 0).await;
}

/// Invariant: a request that has its response is over for the route, the log and the metrics, also
/// while its client still sends a body that nobody reads.
#[tokio::test]
async fn an_upload_that_was_refused_is_over_before_its_client_has_sent_it() {
    let yaml = "listeners: [{ address: 127.0.0.1:0, http2: { cleartext: true } }]
routes: [{ name: slow, match: { path: /slow }, in_flight: 1, respond: { status: 403, body: no } }]
";
    let gateway = Gateway::start(yaml).await;
    let counted_as = "edgeway_http_requests_total{method=\"POST\",route=\"slow\",status=\"403\"}";
    let over = async |requests: u64| {
        counted(&gateway, 0).await;
        gateway.counts(counted_as, requests).await;
        let log = gateway.log_lines(usize::try_from(requests).unwrap()).await;
        let took = log[log.len() - 1]["total_ms"].as_f64().expect("a number");
        assert!(took < 2_000.0, "{took}");
    };
    let mut steps = tokio::time::interval(Duration::from_millis(100));

    let mut connection = gateway.connect().await;
    let begun = "POST /slow HTTP/1.1\r\nhost: a.test\r\ncontent-length: 1000000\r\n\r\n";
    connection.write(begun).await.unwrap();
    assert_eq!(connection.read_headers().await.unwrap().status, 403);
    let mut is_over = pin!(over(1));
    loop {
        tokio::select! {
            () = &mut is_over => break,
            // The gateway reads for 30 s.
            _ = steps.tick() => connection.write("a").await.unwrap(),
        }
    }
    connection.leave("its request never ends");

    let client = http2::Client::open(gateway.address()).await;
    let asked = http2::request("POST", "/slow").header("content-length", "1000000");
    let (response, mut stream) = client.begin(asked, false).await.unwrap();
    assert_eq!(response.await.unwrap().status(), 403);
    let mut is_over = pin!(over(2));
    loop {
        tokio::select! {
            () = &mut is_over => break,
            _ = steps.tick() => stream.send_data("a".into(), false).expect("the stream is open"),
        }
    }
}

#[tokio::test]
async fn requests_in_an_upstreams_queue_count_as_in_flight() {
    let origin = never().await;
    let bounds = ", max_in_flight: { per_backend: 1, queue: 1, wait: 60s }";
    let gateway = Gateway::start(&yaml(origin.address(), "3", bounds)).await;
    let mut waiting = Waiting::new();
    begin(&mut waiting, "127.0.0.1", &gateway, 1).await;
    begin(&mut waiting, "127.0.0.1", &gateway, 2).await;
    // The filter has a place for it, and the upstream has none.
    assert_refused(&ask("127.0.0.1", &gateway).await, "overload");
    counted(&gateway, 2).await;
    assert_eq!(origin.counts().requests(), 1);
}

#[tokio::test]
async fn under_overload_there_is_200_and_503_and_nothing_else() {
    let origin = SlowOrigin::start(Duration::from_millis(10)).await;
    let bounds = ", max_in_flight: { per_backend: 4, queue: 2, wait: 100ms }";
    let gateway = Gateway::start(&yaml(origin.address(), "5", bounds)).await;
    let tally = load::lanes(gateway.address(), 24, 1_000, |_| get("/slow")).await;
    assert_eq!(tally.status(200) + tally.status(503), 1_000, "{tally:?}");
    assert!(tally.status(200) > 0 && tally.status(503) > 0, "{tally:?}");
    counted(&gateway, 0).await;
    gateway.counts("edgeway_http_in_flight", 0).await;
    let refused = gateway.refused("in_flight").await + gateway.refused("overload").await;
    assert_eq!(refused, tally.status(503));
    assert_eq!(origin.counts().requests(), tally.status(200));
    // The control: without a limit no request is refused.
    let free = Gateway::start(&yaml(origin.address(), "false", "")).await;
    let tally = load::lanes(free.address(), 24, 200, |_| get("/slow")).await;
    assert_eq!(tally.status(200), 200);
    assert!(client::send(free.address(), &get("/")).await.is_ok());
}
