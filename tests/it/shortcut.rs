//! Requests that are likely to need no backend are tried without the proxy. Those that need
//! one after all lose nothing by it, and nothing is done twice.

use std::time::Duration;

use serde_json::Value;

use crate::support::{
    client::{Request, Response, get},
    gateway::Gateway,
    origins::NumberedOrigin,
    wait::wait_for,
};

const MISSED: &str = "edgeway_http_shortcuts_missed_total";
const SOON: Duration = Duration::from_secs(10);

async fn front(origin: std::net::SocketAddr) -> Gateway {
    Gateway::start(&format!(
        "
cache: {{ purge: {{ allow: [127.0.0.0/8] }} }}
upstreams: {{ app: {{ backends: ['{origin}'], health: false }} }}
rate_limits: {{ all: {{ rate: 100/d, key: client.ip }} }}
routes:
  - {{ name: app, match: {{ path: '/*' }}, upstream: app, cache: {{}}, rate_limit: [all] }}
  - {{ name: old, match: {{ path: /old }}, redirect: {{ to: /new }} }}
"
    ))
    .await
}

#[track_caller]
fn told(answer: &Response) -> (Option<&str>, String) {
    (answer.header("x-cache-status"), answer.text())
}

fn left(answer: &Response) -> u32 {
    let left = answer.header("ratelimit").expect("a limit is in force");
    let left = left.split("r=").nth(1).expect("it says what is left");
    let digits: String = left.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("a number")
}

#[tokio::test]
async fn a_request_that_needs_the_origin_after_all_is_done_once() {
    let origin = NumberedOrigin::start().await;
    let kept = [("cache-control", "max-age=600")];
    origin.settings().tell("/a", 200, &kept);
    let gateway = front(origin.address()).await;
    let mut client = gateway.connect().await;
    let mut limits = Vec::new();
    for expected in [("MISS", "/a #1"), ("HIT", "/a #1"), ("HIT", "/a #1")] {
        let answer = client.send(&get("/a")).await.unwrap();
        assert_eq!(told(&answer), (Some(expected.0), expected.1.to_owned()));
        limits.push(left(&answer));
    }
    assert_eq!(gateway.count(MISSED).await, 0);
    // Another route's answers, and a purge, are the gateway's own as well.
    let purged = gateway.send(&Request::new("PURGE", "/a")).await;
    assert_eq!(purged.status(), 200, "{}", purged.text());
    // The like of it was a hit, and now it is none.
    let answer = client.send(&get("/a").header("x-mine", "1")).await.unwrap();
    assert_eq!(told(&answer), (Some("MISS"), "/a #2".to_owned()));
    assert_eq!(gateway.count(MISSED).await, 1);
    limits.push(left(&answer));
    // It is known by now not to be one, and then to be one again.
    for _ in 0..2 {
        let answer = client.send(&get("/a")).await.unwrap();
        assert_eq!(told(&answer), (Some("HIT"), "/a #2".to_owned()));
        limits.push(left(&answer));
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
    wait_for("no request under way", SOON, idle).await;
}

#[tokio::test]
async fn what_comes_behind_it_waits_and_its_target_stays_as_it_was_read() {
    let origin = NumberedOrigin::start().await;
    let kept = [("cache-control", "max-age=600")];
    origin.settings().tell("/a", 200, &kept);
    let gateway = front(origin.address()).await;
    let mut client = gateway.connect().await;
    let odd = get("/b/../a");
    for expected in ["MISS", "HIT"] {
        let answer = client.send(&odd).await.unwrap();
        assert_eq!(told(&answer), (Some(expected), "/a #1".to_owned()));
    }
    gateway.send(&Request::new("PURGE", "/a")).await;
    let head = |target: &str| {
        format!(
            "GET {target} HTTP/1.1\r\nhost: {}\r\n\r\n",
            gateway.address()
        )
    };
    let three = [head("/b/../a"), head("/old"), head("/b/../a")].concat();
    client.write(three).await.unwrap();
    for expected in [(200, "/a #2"), (307, ""), (200, "/a #2")] {
        let head = client.read_head().await.unwrap();
        let answer = client.finish(head).await.unwrap();
        assert_eq!(answer.status(), expected.0);
        if expected.0 == 200 {
            assert_eq!(answer.text(), expected.1);
        }
    }
    assert_eq!(gateway.count(MISSED).await, 1);
}

#[tokio::test]
async fn a_client_that_ends_its_connection_with_a_hit_has_it_ended() {
    let origin = NumberedOrigin::start().await;
    let kept = [("cache-control", "max-age=600")];
    origin.settings().tell("/a", 200, &kept);
    let gateway = front(origin.address()).await;
    for expected in ["MISS", "HIT", "HIT"] {
        let mut client = gateway.connect().await;
        let last = get("/a").header("connection", "close");
        let answer = client.send(&last).await.unwrap();
        assert_eq!(told(&answer), (Some(expected), "/a #1".to_owned()));
        assert!(client.is_closed().await);
    }
    // Redirects are as likely to come again.
    let mut client = gateway.connect().await;
    for _ in 0..3 {
        let answer = client.send(&get("/old")).await.unwrap();
        assert_eq!(answer.header("location"), Some("/new"));
    }
    assert_eq!(gateway.count(MISSED).await, 0);
}
