//! The client that leaves early: it has the same status in every log and metric, and the one that
//! nginx would log.
#![allow(
    clippy::unwrap_used,
    reason = "tests: what goes wrong here fails them, and says so"
)]

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use edgeway_base::clock::Clock;

use crate::support::{
    client::{Connection, get},
    gateway::Gateway,
    http2,
    nginx::Nginx,
    origins::{DripOrigin, Origin, SlowOrigin},
    wait::{pass, wait_for},
};

const SOON: Duration = Duration::from_secs(10);

/// Starts nginx in front of the same origins.
async fn nginx(home: &Path, slow: SocketAddr, drip: SocketAddr) -> Nginx {
    let at = home.display();
    Nginx::start(home, |address| {
        format!(
            "  access_log {at}/nginx.log combined; proxy_buffering off;
  server {{
    listen {address};
    location /slow {{ proxy_pass http://{slow}; }}
    location /drip {{ proxy_pass http://{drip}; }}
  }}"
        )
    })
    .await
}

/// Leaves before the response of `/slow` has begun.
async fn leave_before(to: SocketAddr, path: &str, slow: &Origin<SlowOrigin>) {
    let before = slow.counts().requests();
    let mut leaving = Connection::open(to).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
    leaving.write(request).await.unwrap();
    wait_for("the origin has the request", SOON, async || {
        (slow.counts().requests() > before).then_some(())
    })
    .await;
    leaving.leave("leaving is what is tested");
}

/// Leaves in the middle of the response of `/drip`.
async fn leave_within(to: SocketAddr, path: &str) {
    let mut leaving = Connection::open(to).await.unwrap();
    let request = get(path).header("host", "a");
    leaving.start(&request).await.unwrap();
    leaving.piece().await.unwrap().expect("there is more");
    leaving.leave("leaving is what is tested");
}

/// Returns the statuses of the lines of a `combined` log for this path.
fn statuses(log: &Path, path: &str) -> Vec<String> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines = text
        .lines()
        .filter(|line| line.contains(&format!("\"GET {path}")));
    let status = |line: &str| {
        line.split("\" ")
            .nth(1)?
            .split(' ')
            .next()
            .map(str::to_owned)
    };
    lines.filter_map(status).collect()
}

#[tokio::test]
async fn a_client_that_leaves_early_has_the_status_of_nginx_everywhere() {
    let slow = SlowOrigin::start(Duration::from_secs(3)).await;
    let drip = DripOrigin::start(Duration::from_millis(100)).await;
    let yaml = format!(
        "listeners:
  - {{ address: \"127.0.0.1:0\", name: web }}
  - {{ address: \"127.0.0.1:0\", name: h2, http2: {{ cleartext: true }} }}
cache: {{ memory: 8MiB }}
upstreams:
  slow: {{ backends: [\"{}\"], health: false }}
  drip: {{ backends: [\"{}\"], health: false }}
routes:
  - {{ name: slow, match: {{ path: /slow }}, upstream: slow }}
  - {{ name: cached, match: {{ path: /slow/cached }}, upstream: slow, cache: {{ ttl: 1m }} }}
  - {{ name: drip, match: {{ path: /drip }}, upstream: drip }}
  - {{ name: slow-compat, match: {{ path: /slow/compat }}, upstream: slow, access_log: {{ file: compat.log, format: compat }} }}
  - {{ name: drip-compat, match: {{ path: /drip/compat }}, upstream: drip, access_log: {{ file: compat.log, format: compat }} }}
",
        slow.address(),
        drip.address()
    );
    let gateway = Gateway::start(&yaml).await;
    let compat = gateway.folder().join("compat.log");
    let folder = tempfile::tempdir().unwrap();
    let nginx = nginx(folder.path(), slow.address(), drip.address()).await;
    let nginx_log = folder.path().join("nginx.log");

    leave_before(nginx.address, "/slow", &slow).await;
    leave_within(nginx.address, "/drip?pieces=50").await;
    let (before, within) = wait_for("nginx has logged both", SOON, async || {
        let statuses = |path| statuses(&nginx_log, path).first().cloned();
        Some((statuses("/slow")?, statuses("/drip")?))
    })
    .await;
    assert_eq!((before.as_str(), within.as_str()), ("499", "200"));

    let web = gateway.address();
    for path in ["/slow", "/slow/cached", "/slow/compat"] {
        leave_before(web, path, &slow).await;
    }
    for path in ["/drip?pieces=50", "/drip/compat?pieces=50"] {
        leave_within(web, path).await;
    }
    // A stream that its client resets, over HTTP/2.
    let client = http2::Client::open(gateway.listener("h2").parse().unwrap()).await;
    let requests = slow.counts().requests();
    let begun = client.begin(http2::request("GET", "/slow"), true).await;
    let (_response, mut stream) = begun.unwrap();
    wait_for("the origin has the request", SOON, async || {
        (slow.counts().requests() > requests).then_some(())
    })
    .await;
    stream.send_reset(h2::Reason::CANCEL);
    let lines = gateway.log_lines(4).await;
    for (path, status, count) in [
        ("/slow", &before, 2),
        ("/slow/cached", &before, 1),
        ("/drip", &within, 1),
    ] {
        let of_path: Vec<_> = lines.iter().filter(|line| line["path"] == path).collect();
        assert_eq!(of_path.len(), count, "{path} {lines:#?}");
        for line in of_path {
            assert_eq!(line["status"].to_string(), **status, "{line:#}");
            assert_eq!(line["reason"], "client_gone", "{line:#}");
        }
    }
    for (path, status) in [("/slow/compat", &before), ("/drip/compat", &within)] {
        wait_for("the compat line is written", SOON, async || {
            (!statuses(&compat, path).is_empty()).then_some(())
        })
        .await;
        assert_eq!(statuses(&compat, path), [(*status).clone()]);
    }
    pass(Duration::from_millis(50)).await;
    for (route, status, count) in [
        ("slow", &before, 2),
        ("cached", &before, 1),
        ("slow-compat", &before, 1),
        ("drip", &within, 1),
        ("drip-compat", &within, 1),
    ] {
        let total = format!("edgeway_http_requests_total{{route=\"{route}\"");
        assert_eq!(
            gateway
                .count(&format!("{total},status=\"{status}\"}}"))
                .await,
            count
        );
        assert_eq!(gateway.count(&format!("{total}}}")).await, count, "{route}");
        let reason = format!("edgeway_refused_total{{route=\"{route}\",reason=\"client_gone\"}}");
        assert_eq!(gateway.count(&reason).await, count, "{route}");
    }
}

/// Nobody waits for what the filters ask, and the route's one place is free at once.
#[tokio::test]
async fn a_client_that_leaves_while_filters_wait_keeps_no_place() {
    let slow = SlowOrigin::start(Duration::from_secs(8)).await;
    let yaml = format!(
        "listeners:
  - {{ address: \"127.0.0.1:0\", name: web }}
  - {{ address: \"127.0.0.1:0\", name: h2, http2: {{ cleartext: true }} }}
routes:
  - {{ name: auth, match: {{ path: /auth }}, respond: ok, in_flight: 1, forward_auth: {{ url: \"http://{slow}/\", timeout: 10s }} }}
  - {{ name: plugin, match: {{ path: /plugin }}, respond: ok, in_flight: 1, plugins: [{{ file: wait.js, on_error: refuse, limits: {{ wall: 9s }}, fetch: {{ origins: ['http://{slow}'], deadline: 9s }} }}] }}
"
    );
    let gateway = Gateway::start_in(&yaml, |folder| {
        let code =
            format!("export async function onRequest() {{ await fetch('http://{slow}/'); }}");
        fs::write(folder.join("wait.js"), code).unwrap();
    })
    .await;
    let client = http2::Client::open(gateway.listener("h2").parse().unwrap()).await;
    let began = Clock::machine().now();
    for path in ["/auth", "/plugin"] {
        for _ in 0..2 {
            leave_before(gateway.address(), path, &slow).await;
            let asked = slow.counts().requests();
            gateway.counts("edgeway_in_flight_requests", 0).await;
            let begun = client.begin(http2::request("GET", path), true).await;
            let (_response, mut stream) = begun.unwrap();
            wait_for("it is asked", SOON, async || {
                (slow.counts().requests() > asked).then_some(())
            })
            .await;
            stream.send_reset(h2::Reason::CANCEL);
            gateway.counts("edgeway_in_flight_requests", 0).await;
        }
    }
    let lines = gateway.log_lines(8).await;
    let took = Clock::machine().now() - began;
    assert!(took < Duration::from_secs(8), "given up at once: {took:?}");
    for line in lines {
        assert_eq!(line["status"], 499, "{line:#}");
        assert_eq!(line["reason"], "client_gone", "{line:#}");
    }
}

/// Nobody waits for these: no app gets them, and they keep no place.
#[tokio::test]
async fn a_client_that_leaves_while_its_request_waits_reaches_no_app() {
    let slow = SlowOrigin::start(Duration::from_secs(3)).await;
    let yaml = format!(
        "cache: {{ memory: 8MiB }}
upstreams: {{ slow: {{ backends: [\"{}\"], health: false, max_in_flight: {{ per_backend: 1, wait: 30s }} }} }}
rate_limits: {{ late: {{ rate: 1/s, burst: 1, delay: 5s }} }}
routes:
  - {{ match: {{ path: /queue }}, upstream: slow }}
  - {{ match: {{ path: /cached }}, upstream: slow, cache: {{ ttl: 1m }} }}
  - {{ match: {{ path: /late }}, upstream: slow, rate_limit: late }}
",
        slow.address()
    );
    let gateway = Gateway::start(&yaml).await;
    let begin = async |path: &str| {
        let mut connection = gateway.connect().await;
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
        connection.write(request).await.unwrap();
        connection
    };
    // The first has the place, and those after it wait in the queue, for the first of them, and for
    // their limit.
    let mut first = begin("/cached").await;
    wait_for("the origin has the request", SOON, async || {
        (slow.counts().requests() == 1).then_some(())
    })
    .await;
    let late = begin("/late").await;
    pass(Duration::from_millis(100)).await;
    let paths = ["/late", "/queue", "/cached"];
    let mut leaving = vec![late];
    for path in paths {
        leaving.push(begin(path).await);
    }
    pass(Duration::from_millis(200)).await;
    for connection in leaving {
        connection.leave("leaving is what is tested");
    }
    assert_eq!(first.read_response().await.unwrap().status(), 200);
    let lines = gateway.log_lines(5).await;
    let left = lines.iter().filter(|line| line["reason"] == "client_gone");
    assert_eq!(left.count(), 4, "{lines:#?}");
    assert_eq!(slow.counts().requests(), 1);
}
