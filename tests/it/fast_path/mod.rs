//! Requests that probably need no backend are tried without the proxy. Those that need one after
//! all lose nothing by that, and nothing is done twice.

mod exits;
mod stored;

use std::time::{Duration, SystemTime};

use serde_json::Value;
use tokio::net::TcpSocket;

use crate::support::{
    client::{Connection, Request, Response, get},
    gateway::Gateway,
    origins::NumberedOrigin,
    wait::wait_for,
};

const MISSED: &str = "edgeway_http_fast_path_misses_total";
const SOON: Duration = Duration::from_secs(10);

/// Starts a gateway without the relay: with it, every request takes the fast path, whatever similar
/// requests needed before.
async fn front(origin: std::net::SocketAddr) -> Gateway {
    let yaml = format!(
        "
cache: {{ purge: {{ allow: [127.0.0.0/8] }} }}
upstreams: {{ app: {{ backends: ['{origin}'], health: false }} }}
rate_limits: {{ all: {{ rate: 100/d, key: client.ip }} }}
routes:
  - {{ name: app, match: {{ path: '/*' }}, upstream: app, cache: {{}}, rate_limit: [all] }}
  - {{ name: old, match: {{ path: /old }}, redirect: {{ to: /new }} }}
"
    );
    Gateway::start_with(&yaml, &[("EDGEWAY_RELAY", "off")]).await
}

#[track_caller]
fn outcome(response: &Response) -> (Option<&str>, String) {
    (response.header("x-cache-status"), response.text())
}

fn left(response: &Response) -> u32 {
    let left = response.header("ratelimit").expect("a limit is in force");
    let left = left.split("r=").nth(1).expect("it says what is left");
    let digits: String = left.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("a number")
}

#[tokio::test]
async fn a_request_that_needs_the_origin_after_all_is_processed_once() {
    let origin = NumberedOrigin::start().await;
    let stored = [("cache-control", "max-age=600")];
    origin.settings().tell("/a", 200, &stored);
    let gateway = front(origin.address()).await;
    let mut client = gateway.connect().await;
    let mut limits = Vec::new();
    for expected in [("MISS", "/a #1"), ("HIT", "/a #1"), ("HIT", "/a #1")] {
        let response = client.send(&get("/a")).await.unwrap();
        assert_eq!(
            outcome(&response),
            (Some(expected.0), expected.1.to_owned())
        );
        limits.push(left(&response));
    }
    assert_eq!(gateway.count(MISSED).await, 0);
    // Responses of another route, and a purge, come from the gateway as well.
    let purged = gateway.send(&Request::new("PURGE", "/a")).await;
    assert_eq!(purged.status(), 200, "{}", purged.text());
    // A request with the same line and host was a hit, and this one is a miss.
    let response = client.send(&get("/a").header("x-mine", "1")).await.unwrap();
    assert_eq!(outcome(&response), (Some("MISS"), "/a #2".to_owned()));
    assert_eq!(gateway.count(MISSED).await, 1);
    limits.push(left(&response));
    // It is known as a miss by now, and then as a hit again.
    for _ in 0..2 {
        let response = client.send(&get("/a")).await.unwrap();
        assert_eq!(outcome(&response), (Some("HIT"), "/a #2".to_owned()));
        limits.push(left(&response));
    }
    assert_eq!(gateway.count(MISSED).await, 1);
    assert_eq!(
        limits,
        [99, 98, 97, 95, 94, 93],
        "the purge was one as well"
    );
    let lines = gateway.log_lines(7).await;
    let of_a = |line: &&Value| line["path"] == "/a" && line["method"] == "GET";
    assert_eq!(lines.iter().filter(of_a).count(), 6, "{lines:#?}");
    let idle = async || (gateway.count("edgeway_http_in_flight").await == 0).then_some(());
    wait_for("no request in flight", SOON, idle).await;
}

#[tokio::test]
async fn pipelined_requests_wait_and_the_target_stays_as_received() {
    let origin = NumberedOrigin::start().await;
    let stored = [("cache-control", "max-age=600")];
    origin.settings().tell("/a", 200, &stored);
    let gateway = front(origin.address()).await;
    let mut client = gateway.connect().await;
    let odd = get("/b/../a");
    for expected in ["MISS", "HIT"] {
        let response = client.send(&odd).await.unwrap();
        assert_eq!(outcome(&response), (Some(expected), "/a #1".to_owned()));
    }
    gateway.send(&Request::new("PURGE", "/a")).await;
    let request = |target: &str| {
        format!(
            "GET {target} HTTP/1.1\r\nhost: {}\r\n\r\n",
            gateway.address()
        )
    };
    let three = [request("/b/../a"), request("/old"), request("/b/../a")].concat();
    client.write(three).await.unwrap();
    for expected in [(200, "/a #2"), (307, ""), (200, "/a #2")] {
        let head = client.read_headers().await.unwrap();
        let response = client.finish(head).await.unwrap();
        assert_eq!(response.status(), expected.0);
        if expected.0 == 200 {
            assert_eq!(response.text(), expected.1);
        }
    }
    assert_eq!(gateway.count(MISSED).await, 1);
}

#[tokio::test]
async fn a_hit_with_connection_close_closes_the_connection() {
    let origin = NumberedOrigin::start().await;
    let stored = [("cache-control", "max-age=600")];
    origin.settings().tell("/a", 200, &stored);
    let gateway = front(origin.address()).await;
    for expected in ["MISS", "HIT", "HIT"] {
        let mut client = gateway.connect().await;
        let last = get("/a").header("connection", "close");
        let response = client.send(&last).await.unwrap();
        assert_eq!(outcome(&response), (Some(expected), "/a #1".to_owned()));
        assert!(client.is_closed().await);
    }
    // Redirects are likely to repeat, too.
    let mut client = gateway.connect().await;
    for _ in 0..3 {
        let response = client.send(&get("/old")).await.unwrap();
        assert_eq!(response.header("location"), Some("/new"));
    }
    assert_eq!(gateway.count(MISSED).await, 0);
}

/// Headers of a response without those that change with time or with the request.
fn stable_headers(response: &Response) -> Vec<(String, String)> {
    let changing = [
        "age",
        "x-request-id",
        "ratelimit",
        "x-cache-status",
        "cache-status",
    ];
    let mut headers: Vec<_> = response
        .headers
        .fields
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
        .filter(|(name, _)| !changing.contains(&name.as_str()))
        .collect();
    headers.sort();
    headers
}

#[tokio::test]
async fn a_hit_is_the_same_on_the_fast_path_and_through_the_proxy() {
    let origin = NumberedOrigin::start().await;
    let stored = ("cache-control", "max-age=600");
    let html = ("content-type", "text/html; charset=utf-8");
    let set = |path: &str, status, headers: &[(&str, &str)], pad| {
        origin.settings().tell(path, status, headers);
        origin.settings().pad(path, pad);
    };
    set("/small", 200, &[stored], 0);
    set("/compressible", 200, &[stored, html], 20_000);
    set("/long", 200, &[stored], 3_000_000);
    set("/tagged", 200, &[stored, ("etag", "\"a\"")], 0);
    set("/none", 204, &[stored], 0);
    set("/lost", 404, &[stored], 0);
    let now = SystemTime::UNIX_EPOCH.elapsed().expect("it is after 1970");
    let before = SystemTime::UNIX_EPOCH + now - Duration::from_secs(100);
    let date = httpdate::fmt_http_date(before);
    set("/dated", 200, &[stored, ("date", &date)], 0);
    let gateway = front(origin.address()).await;
    let cases = [
        ("/small", None, 200),
        ("/compressible", Some(("accept-encoding", "gzip")), 200),
        ("/long", None, 200),
        ("/tagged", Some(("if-none-match", "\"a\"")), 304),
        ("/none", None, 204),
        ("/lost", None, 404),
        ("/dated", None, 200),
    ];
    for (path, header, status) in cases {
        let mut request = get(path);
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        gateway.get(path).await;
        // First through the proxy, then without it, several times.
        let first = gateway.send(&request).await;
        let mut client = gateway.connect().await;
        for _ in 0..4 {
            let again = client.send(&request).await.unwrap();
            assert_eq!(again.status(), status, "{path}");
            assert_eq!(again.header("x-cache-status"), Some("HIT"), "{path}");
            if path == "/compressible" {
                // It is compressed in flight at first, and stored compressed later: the bytes may
                // differ.
                assert_eq!(again.header("content-encoding"), Some("gzip"));
                assert!(again.body.starts_with(&[0x1f, 0x8b]), "{path}");
                continue;
            }
            assert_eq!(stable_headers(&again), stable_headers(&first), "{path}");
            assert!(again.body == first.body, "{path}");
        }
        assert_eq!(origin.settings().requests(path), 1, "{path}");
    }
    assert_eq!(gateway.count(MISSED).await, 0);
    let lines = gateway.log_lines(6 * cases.len()).await;
    let long = lines.iter().filter(|line| line["path"] == "/long");
    let bytes: Vec<_> = long.map(|line| line["bytes_out"].as_u64()).collect();
    assert_eq!(bytes, [Some(3_000_008); 6], "{lines:#?}");
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_a_hit_is_logged() {
    let origin = NumberedOrigin::start().await;
    let stored = [("cache-control", "max-age=600")];
    origin.settings().tell("/long", 200, &stored);
    origin.settings().pad("/long", 15_000_000);
    let gateway = Gateway::start(&format!(
        "
cache: {{ max_object: 32MiB }}
upstreams: {{ app: {{ backends: ['{}'], health: false }} }}
routes: [{{ match: {{ path: '/*' }}, upstream: app, cache: {{}} }}]
",
        origin.address()
    ))
    .await;
    for _ in 0..2 {
        gateway.get("/long").await;
    }
    // The kernel's buffer for a client may grow until the whole response fits.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    let stream = socket.connect(gateway.address()).await.unwrap();
    let mut client = Connection::over(stream, gateway.address().to_string());
    let head = client.start(&get("/long")).await.unwrap();
    assert_eq!(head.status, 200);
    client.leave("leaving is the subject");
    // In the order of their ends, which is not that of the requests.
    let lines = gateway.log_lines(3).await;
    let last = lines.iter().find(|line| !line["reason"].is_null());
    let last = last.expect("one of them ended early");
    assert_eq!(last["status"], 200, "{last:#}");
    assert_eq!(last["reason"], "client_gone", "{last:#}");
    assert!(last["bytes_out"].as_u64().unwrap() < 15_000_000, "{last:#}");
    let idle = async || (gateway.count("edgeway_http_in_flight").await == 0).then_some(());
    wait_for("no request in flight", SOON, idle).await;
}
