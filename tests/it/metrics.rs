//! Metrics against a count of their own: what the client sent and received, and what the origin
//! saw.
#![allow(clippy::print_stdout, reason = "the seed of a failed run")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::io::AsyncWriteExt;

use crate::support::{
    certificates::Ca,
    client::{Connection, Request, get, post},
    front::Front,
    gateway::Gateway,
    origins::{EchoOrigin, FixedOrigin, NumberedOrigin},
    wait::wait_for,
};

const SOON: Duration = Duration::from_secs(5);

/// Requests of random methods, paths and body sizes. The seed is printed for a failed run.
struct Random(fastrand::Rng);

impl Random {
    fn new() -> Self {
        let seed = crate::support::seed::drawn();
        println!("seed {seed}");
        Self(fastrand::Rng::with_seed(seed))
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.0.usize(..from.len())]
    }
}

#[tokio::test]
async fn metrics_match_a_run_exactly() {
    let mut random = Random::new();
    let echo = EchoOrigin::start().await;
    let pages = NumberedOrigin::start().await;
    pages.settings().tell("/pages/missing", 404, &[]);
    pages.settings().tell("/pages/odd", 799, &[]);
    let gateway = Gateway::start(&format!(
        "
upstreams:
  echo: {{ backends: [\"{}\"], health: false }}
  pages: {{ backends: [\"{}\"], health: false }}
routes:
  - {{ name: echo, match: {{ path: /echo/* }}, upstream: echo, body_limit: 3000 }}
  - {{ name: pages, match: {{ path: /pages/* }}, upstream: pages }}
  - {{ name: fixed, match: {{ path: /fixed }}, respond: {{ status: 200, body: 0123456789 }} }}
",
        echo.address(),
        pages.address()
    ))
    .await;
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    // Bytes of refused bodies, of which the gateway may have read any part.
    let mut refused = 0;
    for _ in 0..300 {
        let path = random.pick(&[
            "/echo/a",
            "/pages/x",
            "/pages/missing",
            "/pages/odd",
            "/fixed",
            "/no",
        ]);
        let route = path.split('/').nth(1).expect("a path has a first part");
        let route = if route == "no" { "(none)" } else { route };
        // Beyond the limit of the route `echo` at times.
        let length = if route == "echo" {
            random.0.usize(..4000)
        } else {
            0
        };
        let method = if length > 0 {
            "POST"
        } else {
            random.pick(&["GET", "BREW"])
        };
        let request = Request::new(method, path);
        let request = if length > 0 {
            request.body(vec![b'x'; length])
        } else {
            request
        };
        let response = gateway.send(&request).await;
        let status = match response.status() {
            status @ 600.. => {
                assert_eq!(status, 799);
                "other".to_owned()
            }
            status => status.to_string(),
        };
        let method = if method == "BREW" { "other" } else { method };
        let mut add = |series: String, count: usize| {
            *expected.entry(series).or_default() += count as u64;
        };
        add(
            format!(
                "edgeway_http_requests_total{{route=\"{route}\",method=\"{method}\",status=\"{status}\"}}"
            ),
            1,
        );
        add(
            format!("edgeway_http_request_duration_seconds_count{{route=\"{route}\"}}"),
            1,
        );
        add(
            format!("edgeway_http_bytes_total{{route=\"{route}\",direction=\"sent\"}}"),
            response.body.len(),
        );
        if status == "413" {
            add(
                format!("edgeway_refused_total{{route=\"{route}\",reason=\"body_limit\"}}"),
                1,
            );
            refused += length as u64;
            continue;
        }
        if route == "(none)" {
            add(
                format!("edgeway_refused_total{{route=\"{route}\",reason=\"no_route\"}}"),
                1,
            );
        }
        if ["echo", "pages"].contains(&route) {
            add(
                format!("edgeway_upstream_bytes_total{{upstream=\"{route}\",direction=\"sent\"}}"),
                length,
            );
            add(
                format!(
                    "edgeway_upstream_bytes_total{{upstream=\"{route}\",direction=\"received\"}}"
                ),
                response.body.len(),
            );
            add(
                format!("edgeway_upstream_first_byte_seconds_count{{upstream=\"{route}\"}}"),
                1,
            );
            add(
                format!("edgeway_http_bytes_total{{route=\"{route}\",direction=\"received\"}}"),
                length,
            );
        }
    }
    gateway.counts("edgeway_http_in_flight", 0).await;
    let mut wrong = Vec::new();
    for (series, count) in expected {
        let found = gateway.count(&series).await;
        let is_received =
            series.contains("edgeway_http_bytes_total{route=\"echo\",direction=\"rec");
        let most = if is_received { count + refused } else { count };
        if !(count..=most).contains(&found) {
            wrong.push(format!("{series} is {found}, not {count}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn metrics_to_ask_for_come_and_go_with_a_reload() {
    let timing = [(
        "server-timing",
        "db;dur=100, cache;dur=3, db;dur=50, evil-1;dur=7",
    )];
    let app = FixedOrigin::start(200, &timing, "app").await;
    let yaml = |metrics: &str| {
        Front::to(&app)
            .upstream(&format!("health: false{metrics}"))
            .yaml()
    };
    let with = yaml(
        ", metrics: { backends: true, server_timing: [db, render], sessions: { cookie: sid, window: 1m } }",
    );
    let gateway = Gateway::start(&yaml("")).await;
    let visit = async || {
        for user in 0..20 {
            for _ in 0..2 {
                let request = get("/").header("cookie", format!("sid=user-{user}"));
                assert_eq!(gateway.send(&request).await.status(), 200);
            }
        }
        gateway.counts("edgeway_http_in_flight", 0).await;
    };
    let families = [
        "edgeway_backend_first_byte_seconds",
        "edgeway_upstream_server_timing_seconds",
        "edgeway_upstream_sessions",
    ];
    visit().await;
    let text = gateway.admin_get("/metrics").await.text();
    assert!(
        families.iter().all(|family| !text.contains(family)),
        "{text}"
    );
    assert!(gateway.reload(&with).await);
    visit().await;
    let timing = "edgeway_upstream_server_timing_seconds";
    assert_eq!(
        gateway
            .count(&format!("{timing}_count{{metric=\"db\"}}"))
            .await,
        40
    );
    let sum = gateway
        .metric(&format!("{timing}_sum{{metric=\"db\"}}"))
        .await;
    assert!((sum - 40.0 * 0.15).abs() < 1e-6, "{sum}");
    let backend = format!(
        "edgeway_backend_first_byte_seconds_count{{upstream=\"app\",backend=\"{}\"}}",
        app.address()
    );
    assert_eq!(gateway.count(&backend).await, 40);
    assert_eq!(
        gateway
            .count("edgeway_upstream_sessions{upstream=\"app\"}")
            .await,
        20
    );
    let text = gateway.admin_get("/metrics").await.text();
    assert!(
        !text.contains("evil") && !text.contains("user-") && !text.contains("\"cache\""),
        "{text}"
    );
    // A reload that keeps them keeps their counts.
    assert!(gateway.reload(&with.replace("routes:", "routes: ")).await);
    assert_eq!(gateway.count("edgeway_upstream_sessions").await, 20);
    assert_eq!(gateway.count(&backend).await, 40);
    assert!(gateway.reload(&yaml("")).await);
    visit().await;
    let text = gateway.admin_get("/metrics").await.text();
    assert!(
        families.iter().all(|family| !text.contains(family)),
        "{text}"
    );
}

#[tokio::test]
async fn handshakes_are_counted_by_version_and_outcome() {
    let app = EchoOrigin::start().await;
    let ca = Ca::new();
    let yaml = format!(
        "listeners: [{{ address: \"127.0.0.1:0\", name: web, tls: {{ certificates: {{ cert: site.pem, key: site.key }}, unknown_names: refuse, handshake_timeout: 300ms }} }}]\n\
         upstreams: {{ app: {{ backends: [\"{}\"], health: false }} }}\n\
         routes: [{{ match: {{ path: /* }}, upstream: app }}]\n",
        app.address()
    );
    let gateway = Gateway::start_in(&yaml, |folder| {
        ca.site(&["site.test"]).write(folder, "site");
    })
    .await;
    let to = gateway.address();
    let trust = Arc::new(ca.trust());
    for _ in 0..3 {
        let mut connection = Connection::open_tls(to, "site.test", &trust).await.unwrap();
        // Tickets arrive with the first response.
        assert_eq!(connection.send(&get("/")).await.unwrap().status(), 200);
    }
    assert!(
        Connection::open_tls(to, "other.test", &trust)
            .await
            .is_err()
    );
    for bytes in [
        &b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..],
        b"\x16\x03\x01\x00\x05hello",
        b"",
    ] {
        let mut stream = tokio::net::TcpStream::connect(to).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        // The last one says nothing until the deadline.
        let mut rest = Vec::new();
        drop(tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest).await);
    }
    let total = "edgeway_tls_handshakes_total";
    for (labels, count) in [
        ("outcome=\"full\",version=\"TLSv1.3\"", 1),
        ("outcome=\"resumed\",version=\"TLSv1.3\"", 2),
        ("outcome=\"unknown_name\",version=\"none\"", 1),
        ("outcome=\"plain_http\",version=\"none\"", 1),
        ("outcome=\"failed\",version=\"none\"", 1),
        ("outcome=\"timeout\",version=\"none\"", 1),
    ] {
        gateway
            .counts(&format!("{total}{{listener=\"web\",{labels}}}"), count)
            .await;
    }
    assert_eq!(gateway.count(total).await, 7);
    // Without TLS there are none, and the series of another time end.
    let (start, rest) = yaml.split_once(", tls: {").expect("there is TLS");
    let (_, rest) = rest.split_once("300ms }").expect("it ends");
    let plain = format!("{start}{rest}");
    assert!(gateway.reload(&plain).await);
    wait_for("the series have ended", SOON, async || {
        let text = gateway.admin_get("/metrics").await.text();
        (!text.contains(total)).then_some(())
    })
    .await;
}

/// Returns the series and the bytes of a scrape of a gateway with this many routes, each of which
/// has served a request.
async fn scrape_of(routes: usize) -> (usize, usize) {
    let route = |number| {
        format!("  - {{ name: route-{number:04}, match: {{ path: /{number}/* }}, respond: ok }}\n")
    };
    let all: String = (0..routes).map(route).collect();
    let gateway = Gateway::start(&format!("routes:\n{all}")).await;
    for number in 0..routes {
        assert_eq!(gateway.get(&format!("/{number}/")).await.status(), 200);
    }
    let text = gateway.admin_get("/metrics").await.text();
    let series = text.lines().filter(|line| !line.starts_with('#'));
    (series.count(), text.len())
}

/// Invariant: each route adds a bounded number of series and bytes to a scrape, so that one of 500
/// routes stays cheap.
#[tokio::test]
async fn a_scrape_grows_little_with_each_route() {
    let (few, many) = (scrape_of(20).await, scrape_of(120).await);
    let series = (many.0 - few.0) / 100;
    let bytes = (many.1 - few.1) / 100;
    assert!((1..=40).contains(&series), "{series} series");
    assert!((1..=3000).contains(&bytes), "{bytes} bytes");
}

#[tokio::test]
async fn bytes_that_a_filter_refuses_are_not_sent_to_a_backend() {
    let origin = EchoOrigin::start().await;
    let gateway = Front::to(&origin).route("body_limit: 1KB").start().await;
    let sent = "edgeway_upstream_bytes_total{upstream=\"app\",direction=\"sent\"}";
    let long = post("/", "").chunks([vec![b'a'; 9000]]);
    assert_eq!(gateway.send(&long).await.status(), 413);
    assert_eq!(gateway.count(sent).await, 0);
    let short = post("/", "").chunks([vec![b'a'; 900]]);
    assert_eq!(gateway.send(&short).await.status(), 200);
    gateway.counts(sent, 900).await;
}
