//! A verification service beside the gateway, until it dies.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::task::JoinSet;

use crate::support::{
    certificates::{Ca, Wanted},
    client::{self, Request, Response, get, post},
    front::Front,
    gateway::Gateway,
    origins::{EchoOrigin, FixedOrigin, SecureOrigin, echoed},
    ports::free_port,
    wait::wait_for,
};

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn the_service_decides_and_its_death_denies_at_once() {
    let origin = EchoOrigin::start().await;
    let mut service = FixedOrigin::start(200, &[("X-User", "ann")], "").await;
    let yaml = format!(
        "trusted_proxies: [127.0.0.1]
upstreams: {{ app: {{ backends: [\"{}\"] }} }}
routes:
  - match: {{ path: /* }}
    upstream: app
    name: app
    forward_auth: {{ url: \"http://{}/verify\", copy: [X-User], user: X-User }}
  - match: {{ path: /open/* }}
    upstream: app
    forward_auth: {{ url: \"http://{1}/verify\", copy: [X-User], on_error: allow }}
",
        origin.address(),
        service.address()
    );
    let gateway = Gateway::start(&yaml).await;
    let ask = post("/cart?id=7", "three")
        .header("host", "shop.example.com")
        .header("cookie", "sid=1")
        .header("x-user", "root")
        .header("x-forwarded-for", "203.0.113.9")
        .header("x-forwarded-uri", "/open/");
    let passed = gateway.send(&ask).await;
    assert_eq!(passed.status(), 200);
    let seen = passed.json();
    assert_eq!(echoed(&seen, "x-user"), Some("ann"));
    assert_eq!(seen["length"], 5, "the body goes on");
    let asked = service.counts().received();
    let asked = asked.last().expect("it was asked");
    assert_eq!(
        (asked.method.as_str(), asked.target.as_str()),
        ("GET", "/verify")
    );
    for (name, value) in [
        ("x-forwarded-method", "POST"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "shop.example.com"),
        ("x-forwarded-uri", "/cart?id=7"),
        ("x-forwarded-for", "203.0.113.9"),
        ("cookie", "sid=1"),
    ] {
        assert_eq!(asked.header(name), Some(value), "{name}");
    }

    let login = [
        ("Location", "https://login.test/"),
        ("Set-Cookie", "state=1"),
    ];
    service.settings().set(302, &login, "this way");
    let sent_away = gateway.get("/").await;
    assert_eq!(sent_away.status(), 302);
    assert_eq!(sent_away.header("location"), Some("https://login.test/"));
    assert_eq!(sent_away.header("set-cookie"), Some("state=1"));
    assert_eq!(sent_away.text(), "this way");
    service.settings().set(403, &[], "no");
    assert_eq!(gateway.get("/").await.status(), 403);
    // Its connection is reused.
    assert_eq!(service.counts().connections(), 1);

    service.stop();
    let before = origin.counts().requests();
    for number in 0..20 {
        let refused = gateway.send(&from(&format!("192.0.2.{number}"), "")).await;
        assert_eq!(refused.status(), 503);
        assert!(refused.header("retry-after").is_some());
    }
    assert_eq!(origin.counts().requests(), before);
    let open = gateway.send(&get("/open/a").header("x-user", "root")).await;
    assert_eq!(open.status(), 200);
    assert_eq!(echoed(&open.json(), "x-user"), None);
    assert!(gateway.stderr().contains("authorization service failed"));
    // The request that passed without a verdict is logged, and does not count as refused.
    let lines = gateway.log_lines(24).await;
    let unjudged = lines
        .iter()
        .filter(|line| line["status"] == 200 && line["reason"] == "forward_auth_unavailable");
    assert_eq!(unjudged.count(), 1);
    gateway.refuses("forward_auth_unavailable", 20).await;

    service.settings().set(200, &[("X-User", "bob")], "");
    service.resume().await;
    wait_for("the service is asked again", SOON, async || {
        (gateway.get("/").await.status() == 200).then_some(())
    })
    .await;
    let reasons: Vec<_> = gateway
        .log_lines(24)
        .await
        .iter()
        .filter_map(|line| line["reason"].as_str().map(str::to_owned))
        .collect();
    let denied = reasons
        .iter()
        .filter(|reason| *reason == "forward_auth_denied");
    assert_eq!(denied.count(), 2);
    assert!(
        reasons
            .iter()
            .any(|reason| reason == "forward_auth_unavailable")
    );
}

#[tokio::test]
async fn a_slow_service_costs_its_timeout_and_no_more() {
    let origin = EchoOrigin::start().await;
    // No response ever arrives on a connection that is never accepted.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();

    let gateway = Front::to(&origin)
        .route(&format!(
            "forward_auth: {{ url: 'http://{}/', timeout: 100ms }}",
            silent.local_addr().unwrap()
        ))
        .start()
        .await;
    assert_eq!(gateway.get("/").await.status(), 503);
    let line = &gateway.log_lines(1).await[0];
    assert_eq!(line["reason"], "forward_auth_unavailable");
    let total = line["total_ms"].as_f64().unwrap();
    assert!(total >= 99.0, "{total}");
    assert_eq!(origin.counts().requests(), 0);
}

#[tokio::test]
async fn a_service_over_tls_needs_a_certificate_of_the_ca() {
    let origin = EchoOrigin::start().await;
    let (ours, theirs) = (Ca::new(), Ca::new());
    let service = SecureOrigin::start_http1(&ours.issue(&Wanted::site(&["localhost"]))).await;
    let yaml = format!(
        "upstreams: {{ app: {{ backends: [\"{}\"] }} }}
routes:
  - match: {{ path: /* }}
    upstream: app
    forward_auth: {{ url: \"https://localhost:{}/\", ca: ours.pem }}
  - match: {{ path: /theirs/* }}
    upstream: app
    forward_auth: {{ url: \"https://localhost:{1}/\", ca: theirs.pem }}
",
        origin.address(),
        service.address().port()
    );
    let gateway = Gateway::start_in(&yaml, |folder| {
        fs::write(folder.join("ours.pem"), ours.pem()).unwrap();
        fs::write(folder.join("theirs.pem"), theirs.pem()).unwrap();
    })
    .await;
    assert_eq!(gateway.get("/").await.status(), 200);
    assert_eq!(gateway.get("/theirs/").await.status(), 503);
}

/// Verification service in Node, with at most 16 KiB of headers: it admits requests with the cookie
/// `ok`, and never responds to a request that asks for that.
struct Verifier {
    child: Child,
    port: u16,
}

impl Drop for Verifier {
    fn drop(&mut self) {
        // It may have exited by itself; the test says why.
        let _gone = self.child.kill();
        let _code = self.child.wait();
    }
}

impl Verifier {
    async fn start() -> Self {
        let port = free_port();
        let program = format!(
            "require('node:http').createServer((req, res) => {{
  const cookie = req.headers.cookie ?? '';
  if (cookie.startsWith('hang')) return;
  res.statusCode = cookie.startsWith('ok') ? 204 : 401;
  res.end();
}}).listen({port}, '127.0.0.1');
process.stdin.on('end', () => process.exit()).resume();
"
        );
        let child = Command::new("node")
            .args(["-e", &program])
            .stdin(Stdio::piped())
            .spawn()
            .expect("node is installed");
        let service = Self { child, port };
        let address = (std::net::Ipv4Addr::LOCALHOST, port).into();
        wait_for("the service responds", SOON, async || {
            client::send(address, &get("/")).await.ok()
        })
        .await;
        service
    }
}

/// Starts a gateway in front of `backend` that uses this service, and trusts the forwarded
/// addresses of its clients.
async fn asking(service: &Verifier, backend: impl std::fmt::Display, more: &str) -> Gateway {
    Front::to(backend)
        .with("trusted_proxies: [127.0.0.1]")
        .route(&format!(
            "forward_auth: {{ url: 'http://127.0.0.1:{}/', {more} }}",
            service.port
        ))
        .start()
        .await
}

fn from(address: &str, cookie: &str) -> Request {
    get("/")
        .header("x-forwarded-for", address)
        .header("cookie", cookie)
}

#[tokio::test]
async fn a_request_that_the_service_rejects_as_malformed_is_refused_alone() {
    let (origin, service) = (EchoOrigin::start().await, Verifier::start().await);
    let large = format!("x={}", "a".repeat(17_000));
    for on_error in ["deny", "allow"] {
        let more = format!("on_error: {on_error}");
        let gateway = asking(&service, origin.address(), &more).await;
        let before = origin.counts().requests();
        for _ in 0..20 {
            let refused = gateway.send(&from("192.0.2.1", &large)).await;
            assert_eq!(refused.status(), 431, "{on_error}");
        }
        // The service remains in use: no request passes without a verdict, and no client is locked
        // out.
        let stranger = gateway.send(&from("198.51.100.1", "no")).await;
        assert_eq!(stranger.status(), 401, "{on_error}");
        assert_eq!(origin.counts().requests(), before);
        let user = gateway.send(&from("198.51.100.1", "ok")).await;
        assert_eq!(user.status(), 200, "{on_error}");
        let lines = gateway.log_lines(22).await;
        let denied = lines
            .iter()
            .filter(|line| line["reason"] == "forward_auth_denied");
        assert_eq!(denied.count(), 21);
    }
}

#[tokio::test]
async fn one_client_that_holds_all_permits_blocks_no_other() {
    let (origin, service) = (EchoOrigin::start().await, Verifier::start().await);
    for on_error in ["deny", "allow"] {
        let more = format!("max_in_flight: 2, timeout: 1s, on_error: {on_error}");
        let gateway = asking(&service, origin.address(), &more).await;
        let to = gateway.address();
        let mut flood: JoinSet<Response> = (0..40)
            .map(|_| async move {
                let sent = client::send(to, &from("192.0.2.1", "hang")).await;
                sent.expect("it gets a response")
            })
            .collect();
        // Two requests are at the service and eight wait; none of the others passes.
        for _ in 0..30 {
            let refused = flood.join_next().await.unwrap().unwrap();
            assert_eq!(refused.status(), 503, "{on_error}");
            assert!(refused.header("retry-after").is_some());
        }
        let user = gateway.send(&from("198.51.100.1", "ok")).await;
        assert_eq!(user.status(), 200, "{on_error}");
        assert!(!flood.is_empty(), "they still wait");
        let lines = gateway.log_lines(31).await;
        let busy = lines
            .iter()
            .filter(|line| line["reason"] == "forward_auth_busy");
        assert!(busy.count() >= 30, "{lines:?}");
        let _ended = flood.join_all().await;
    }
}
