//! Stored responses: each request is processed once, whatever similar requests needed before, and
//! each exit has one line of the log.

mod exits;
mod stored;

use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpSocket;

use crate::support::{
    client::{Connection, Request, Response, get},
    gateway::Gateway,
    origins::NumberedOrigin,
    wait::wait_for,
};

const SOON: Duration = Duration::from_secs(10);

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
    Gateway::start(&yaml).await
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
    // Responses of another route, and a purge, come from the gateway as well.
    let purged = gateway.send(&Request::new("PURGE", "/a")).await;
    assert_eq!(purged.status(), 200, "{}", purged.text());
    // A request with the same line and host was a hit, and this one is a miss.
    let response = client.send(&get("/a").header("x-mine", "1")).await.unwrap();
    assert_eq!(outcome(&response), (Some("MISS"), "/a #2".to_owned()));
    limits.push(left(&response));
    // It is known as a miss by now, and then as a hit again.
    for _ in 0..2 {
        let response = client.send(&get("/a")).await.unwrap();
        assert_eq!(outcome(&response), (Some("HIT"), "/a #2".to_owned()));
        limits.push(left(&response));
    }
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
