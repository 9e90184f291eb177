//! Checks against real sockets on loopback: passes, failures, and the time until a restarted
//! backend is back.

use std::{net::SocketAddr, time::Duration};

use edgeway_net::tasks::Tasks;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::Prober;
use crate::{
    BackendStatus, Outcome, Protocol, Upstream,
    base::clock::Clock,
    supervise,
    tests::{Bench, take},
};

/// Responds on each connection with `parts`, with a pause between two of them.
async fn origin(tasks: &Tasks, parts: &'static [&'static str], pause: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = tasks.clone();
    tasks.spawn("origin", async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            connections.spawn("connection", async move {
                let mut request = [0; 1024];
                let read = socket.read(&mut request).await.unwrap_or(0);
                if read == 0 {
                    return;
                }
                for part in parts {
                    if socket.write_all(part.as_bytes()).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(pause).await;
                }
            });
        }
    });
    address
}

async fn probe(health: &str, address: SocketAddr) -> (bool, String) {
    let bench = Bench::new();
    let upstream = bench.upstream(&format!("{{ backends: ['{address}'], health: {health} }}"));
    let plan = upstream.probing.plan();
    let backend = upstream.backends().remove(0);
    let prober = Prober::new(plan, Protocol::Http1, &backend).unwrap();
    prober.probe().await
}

#[tokio::test]
async fn http_checks_go_by_the_status() {
    let tasks = Tasks::default();
    let ok = origin(
        &tasks,
        &["HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"],
        Duration::ZERO,
    )
    .await;
    let bad = origin(
        &tasks,
        &["HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n"],
        Duration::ZERO,
    )
    .await;
    assert_eq!(probe("{ path: /health }", ok).await, (true, "ok".into()));
    assert_eq!(
        probe("{ path: /health }", bad).await,
        (false, "status 500".into())
    );
    assert_eq!(
        probe("{ path: /health, expect: 500 }", bad).await,
        (true, "ok".into())
    );
    assert_eq!(
        probe("{}", bad).await,
        (true, "ok".into()),
        "TCP asks for no more"
    );
}

#[tokio::test]
async fn json_checks_go_by_the_word() {
    const WORDS: [(&[&str], bool, &str); 5] = [
        (
            &[
                "HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n",
                r#"{"status":"ok"}"#,
            ],
            true,
            "ok",
        ),
        (
            &[
                "HTTP/1.1 200 OK\r\ncontent-length: 21\r\n\r\n",
                r#"{"status":"degraded"}"#,
            ],
            true,
            "degraded",
        ),
        (
            &[
                "HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n",
                r#"{"status":"down"}"#,
            ],
            false,
            "health body: status is `down`",
        ),
        (
            &["HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n", "fine"],
            false,
            "health body: it is not JSON",
        ),
        (
            &["HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", "{}"],
            false,
            "health body: it has no `status`",
        ),
    ];
    let tasks = Tasks::default();
    for (parts, passed, text) in WORDS {
        let address = origin(&tasks, parts, Duration::ZERO).await;
        let found = probe("{ path: /health, json: true }", address).await;
        assert_eq!(found, (passed, text.to_owned()));
    }
}

#[tokio::test]
async fn a_response_that_drips_is_bounded_in_total() {
    // Each part comes well within the timeout, the whole does not.
    const DRIP: &[&str] = &[
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n",
        "a",
        "b",
        "c",
        "d",
        "e",
    ];
    let tasks = Tasks::default();
    let address = origin(&tasks, DRIP, Duration::from_millis(120)).await;
    for json in ["false", "true"] {
        let health = format!("{{ path: /, timeout: 300ms, json: {json} }}");
        let (passed, text) = probe(&health, address).await;
        assert!(!passed);
        assert_eq!(text, "no complete response within 300ms");
    }
}

#[tokio::test]
async fn a_closed_port_is_connection_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    for health in ["{}", "{ path: / }", "{ path: /, json: true }"] {
        let found = probe(health, address).await;
        assert_eq!(found, (false, "connection refused".into()), "{health}");
    }
}

/// Waits until the first backend is in `state`; gives up after ten seconds.
async fn until(upstream: &Upstream, state: &str) -> Duration {
    until_backend(upstream, |found| found.state == state).await
}

/// Waits until the status of the first backend is as expected; gives up after ten seconds.
async fn until_backend(
    upstream: &Upstream,
    is_expected: impl Fn(&BackendStatus) -> bool,
) -> Duration {
    let clock = Clock::machine();
    let start = clock.now();
    loop {
        let found = upstream.snapshot().backends.remove(0);
        let elapsed = clock.now() - start;
        if is_expected(&found) {
            return elapsed;
        }
        assert!(elapsed < Duration::from_secs(10), "still {found:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Uses the clock of the machine: these tests wait for real sockets.
fn bench() -> Bench {
    Bench {
        clock: Clock::machine(),
        ..Bench::default()
    }
}

#[tokio::test]
async fn a_killed_backend_is_back_within_seconds_of_its_restart() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let bench = bench();
    let upstream = bench.upstream(&format!(
        "{{ backends: ['{address}', '10.0.0.9:80'], eject: {{ for: 60s }} }}"
    ));
    let tasks = Tasks::default();
    tasks.spawn("supervise", supervise(upstream.clone()));
    while upstream.snapshot().backends[0].state != "ejected" {
        let lease = take(&upstream, &[]).unwrap();
        let is_dead = *lease.backend.target() == crate::Target::Inet(address);
        lease.finish(if is_dead {
            Outcome::ConnectFailed
        } else {
            Outcome::Status(200)
        });
    }
    let snapshot = upstream.snapshot();
    assert_eq!(snapshot.backends[0].ejected_because, Some("refused".into()));
    let listener = TcpListener::bind(address).await.unwrap();
    let back = until(&upstream, "healthy").await;
    assert!(back < Duration::from_secs(4), "{back:?} of 60 s");
    drop(listener);
}

#[tokio::test]
async fn active_checks_take_a_backend_out_and_back() {
    let tasks = Tasks::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let bench = bench();
    let upstream = bench.upstream(&format!(
        "{{ backends: ['{address}', '127.0.0.1:1'], \
            health: {{ interval: 50ms, interval_down: 20ms, rise: 2, fall: 3, start_down: true }} }}"
    ));
    assert_eq!(
        upstream.snapshot().backends[0].state,
        "down",
        "until a check passed"
    );
    tasks.spawn("supervise", supervise(upstream.clone()));
    until(&upstream, "healthy").await;
    drop(listener);
    until(&upstream, "down").await;
    let probe = upstream.snapshot().backends.remove(0).probe.unwrap();
    assert_eq!(probe.text, "connection refused");
    let listener = TcpListener::bind(address).await.unwrap();
    until(&upstream, "healthy").await;
    drop(listener);

    // A reload without checks must not leave a backend down for ever.
    until(&upstream, "down").await;
    let unchecked = bench.upstream(&format!("{{ backends: ['{address}'], health: false }}"));
    tasks.stop();
    drop(upstream);
    assert_eq!(
        unchecked.snapshot().backends[0].state,
        "down",
        "it is the same state"
    );
    let tasks = Tasks::default();
    tasks.spawn("supervise", supervise(unchecked.clone()));
    until(&unchecked, "healthy").await;
}

#[tokio::test]
async fn a_check_learns_that_an_app_reports_and_that_it_no_longer_does() {
    const PLAIN: &[&str] = &["HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"];
    const BROKEN: &[&str] =
        &["HTTP/1.1 200 OK\r\nx-edgeway-node: 1 0\r\ncontent-length: 0\r\n\r\n"];
    const REPORT: &[&str] =
        &["HTTP/1.1 200 OK\r\nx-edgeway-node: 1 250 12 4096 8192\r\ncontent-length: 0\r\n\r\n"];
    let tasks = Tasks::default();
    for (parts, health, age, expected) in [
        (PLAIN, "{ path: /, interval: 50ms }", 6, None),
        // The app reports ten times a second, and not with each response.
        (PLAIN, "{ path: /, interval: 50ms }", 2, Some(4096)),
        (BROKEN, "{ path: /, interval: 50ms }", 6, Some(4096)),
        // A connection is no response.
        (PLAIN, "{ interval: 50ms }", 6, Some(4096)),
        (REPORT, "{ path: /, interval: 50ms }", 6, Some(8192)),
    ] {
        let address = origin(&tasks, parts, Duration::ZERO).await;
        let bench = bench();
        let upstream = bench.upstream(&format!("{{ backends: ['{address}'], health: {health} }}"));
        let reported = http::HeaderValue::from_static("1 250 12 4096 4096");
        let at = bench
            .clock
            .now()
            .checked_sub(Duration::from_secs(age))
            .unwrap();
        upstream.backends()[0].learn_node_report(Some(&reported), at);
        let checks = Tasks::default();
        checks.spawn("supervise", supervise(upstream.clone()));
        until_backend(&upstream, |found| found.probe.is_some()).await;
        checks.stop();
        let node = upstream.snapshot().backends.remove(0).node;
        let found = node.map(|node| node.rss_bytes);
        assert_eq!(found, expected, "{parts:?}, {health}, {age} s");
    }
}
