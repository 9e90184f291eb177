//! Interfaces for operators: the access log, metrics, the admin listener, and the shutdown.

use std::{fs, time::Duration};

use rustix::process::Signal;

use crate::support::{
    client::{self, Connection, Request, get},
    gateway::Gateway,
    origins::{EchoOrigin, SlowOrigin},
    wait::wait_for,
};

const SOON: Duration = Duration::from_secs(5);

async fn front(backend: std::net::SocketAddr, more: &str) -> Gateway {
    let yaml = format!(
        "
upstreams: {{ app: {{ backends: [\"{backend}\"], health: false }} }}
routes:
  - match: {{ path: /app/* }}
    name: the-app
    upstream: app
{more}"
    );
    Gateway::start(&yaml).await
}

#[tokio::test]
async fn each_request_is_one_line_that_names_it() {
    let origin = EchoOrigin::start().await;
    let gateway = front(origin.address(), "").await;
    let response = gateway.get("/app/a?b=c&token=hunter2").await;
    // The client has its response before the line is written, maybe after that of a later request.
    gateway.log_lines(1).await;
    gateway.get("/nowhere").await;
    let lines = gateway.log_lines(2).await;
    let (served, refused) = (&lines[0], &lines[1]);
    assert_eq!(served["id"], response.header("x-request-id").unwrap());
    // The origin got the same request id.
    let headers = response.json()["headers"].to_string();
    assert!(
        headers.contains(served["id"].as_str().unwrap()),
        "{headers}"
    );
    assert_eq!(served["method"], "GET");
    assert_eq!(served["path"], "/app/a");
    assert_eq!(served["status"], 200);
    assert_eq!(served["route"], "the-app");
    assert_eq!(served["bytes_out"], response.body.len());
    assert!(!served.to_string().contains("hunter2"), "{served}");
    assert!(
        served.to_string().contains(&origin.address().to_string()),
        "{served}"
    );
    assert_eq!(served.get("reason").and_then(|r| r.as_str()), None);
    // The control: a refusal has its reason.
    assert_eq!(refused["status"], 404);
    assert_eq!(refused["reason"], "no_route");
}

#[tokio::test]
async fn a_log_that_was_moved_away_is_reopened() {
    let origin = EchoOrigin::start().await;
    let gateway = front(origin.address(), "").await;
    gateway.get("/app/before").await;
    gateway.log_lines(1).await;
    let log = gateway.folder().join("access.log");
    let moved = gateway.folder().join("moved.log");
    fs::rename(&log, &moved).unwrap();
    gateway.signal(Signal::USR1);
    // The signal takes effect a moment later; the next line opens the file.
    wait_for("there is a new file", SOON, async || {
        gateway.get("/app/meanwhile").await;
        log.exists().then_some(())
    })
    .await;
    gateway.get("/app/after").await;
    wait_for("the line is in the new file", SOON, async || {
        let lines = gateway.log_lines(1).await;
        lines
            .iter()
            .any(|line| line["path"] == "/app/after")
            .then_some(())
    })
    .await;
    let old = fs::read_to_string(&moved).unwrap();
    assert!(
        old.contains("/app/before") && !old.contains("/app/after"),
        "{old}"
    );
}

#[tokio::test]
async fn metrics_count_by_route_and_never_by_values_of_clients() {
    let origin = EchoOrigin::start().await;
    let gateway = front(origin.address(), "").await;
    for _ in 0..3 {
        gateway.get("/app/a").await;
    }
    gateway.send(&Request::new("BREW", "/app/a")).await;
    gateway.get("/nowhere").await;
    gateway.counts("edgeway_http_in_flight", 0).await;
    let total = "edgeway_http_requests_total";
    let served = format!("{total}{{route=\"the-app\",method=\"GET\",status=\"200\"}}");
    assert_eq!(gateway.count(&served).await, 3);
    assert_eq!(
        gateway.count(&format!("{total}{{method=\"other\"}}")).await,
        1
    );
    assert_eq!(
        gateway.count(&format!("{total}{{status=\"404\"}}")).await,
        1
    );
    gateway.refuses("no_route", 1).await;
    assert_eq!(
        gateway
            .count("edgeway_http_request_duration_seconds_count{route=\"the-app\"}")
            .await,
        4
    );
    let text = gateway.admin_get("/metrics").await.text();
    assert!(
        !text.contains("BREW") && !text.contains("nowhere"),
        "{text}"
    );
}

#[tokio::test]
async fn requests_in_flight_are_counted_as_such() {
    let origin = SlowOrigin::start(Duration::from_secs(30)).await;
    let gateway = front(origin.address(), "").await;
    let mut waiting = Connection::open(gateway.address()).await.unwrap();
    waiting
        .write("GET /app/a HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    let in_flight = async |wanted| {
        wait_for("the request is counted", SOON, async || {
            (gateway.count("edgeway_http_in_flight").await == wanted).then_some(())
        })
        .await;
    };
    in_flight(1).await;
    drop(waiting);
    in_flight(0).await;
}

#[tokio::test]
async fn the_admin_listener_serves_only_reads_and_only_this_machine() {
    let origin = EchoOrigin::start().await;
    let gateway = front(origin.address(), "").await;
    for (target, wanted, over_tcp) in [
        ("/healthz", 200, 200),
        ("/readyz", 200, 200),
        ("/metrics", 200, 200),
        ("/status", 200, 403),
        ("/no", 404, 403),
    ] {
        assert_eq!(gateway.admin_get(target).await.status(), wanted, "{target}");
        let over = gateway.send_admin_tcp(&get(target)).await;
        assert_eq!(over.status(), over_tcp, "{target}");
    }
    let status = gateway
        .send_admin(&get("/status").header("accept", "application/json"))
        .await
        .json();
    assert_eq!(status["pid"], gateway.pid());
    assert_eq!(status["listeners"][0]["name"], "web");
    let rebound = get("/status").header("host", "evil.test");
    assert_eq!(gateway.send_admin(&rebound).await.status(), 421);
    assert_eq!(gateway.send_admin_tcp(&rebound).await.status(), 421);
    assert_eq!(
        gateway
            .send_admin(&Request::new("POST", "/status"))
            .await
            .status(),
        405
    );
    // The control: visitors cannot reach any of it.
    assert_eq!(gateway.get("/metrics").await.status(), 404);
}

#[tokio::test]
async fn several_addresses_and_a_unix_socket_serve_the_same() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let origin = EchoOrigin::start().await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("http.sock");
    let gateway = front(
        origin.address(),
        &format!(
            "listeners:
  - {{ address: \"127.0.0.1:0\", name: one }}
  - {{ address: \"127.0.0.1:0\", name: two }}
  - {{ address: \"unix:{}\", name: three, mode: \"0600\" }}
",
            socket.display()
        ),
    )
    .await;
    for name in ["one", "two"] {
        let address = gateway.listener(name).parse().unwrap();
        let response = client::send(address, &get("/app/a")).await.unwrap();
        assert_eq!(response.status(), 200, "{name}");
    }
    let mut stream = tokio::net::UnixStream::connect(&socket).await.unwrap();
    stream
        .write_all(b"GET /app/a HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    let lines = gateway.log_lines(3).await;
    let mut listeners: Vec<&str> = lines
        .iter()
        .map(|l| l["listener"].as_str().unwrap())
        .collect();
    // Each worker writes its own lines, so their order may vary.
    listeners.sort_unstable();
    assert_eq!(listeners, ["one", "three", "two"]);
}
