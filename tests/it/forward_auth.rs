//! A service beside the gateway that says who may pass, until it dies.

use std::{fs, time::Duration};

use crate::support::{
    certificates::{Authority, Wanted},
    client::{get, post},
    gateway::Gateway,
    origins::{AnsweringOrigin, EchoOrigin, SecureOrigin, echoed},
    wait::wait_for,
};

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn the_service_decides_and_its_death_denies_at_once() {
    let origin = EchoOrigin::start().await;
    let mut service = AnsweringOrigin::start(200, &[("X-User", "ann")], "").await;
    let yaml = format!(
        "upstreams: {{ app: {{ backends: [\"{}\"] }} }}
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
        .header("x-forwarded-for", "6.6.6.6")
        .header("x-forwarded-uri", "/open/");
    let passed = gateway.send(&ask).await;
    assert_eq!(passed.status(), 200);
    let seen = passed.json();
    assert_eq!(echoed(&seen, "x-user"), Some("ann"));
    assert_eq!(seen["length"], 5, "the body goes on");
    let asked = service.counts().heads();
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
        ("x-forwarded-for", "127.0.0.1"),
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
    // Its connection is used again and again.
    assert_eq!(service.counts().connections(), 1);

    service.stop();
    let before = origin.counts().requests();
    for _ in 0..20 {
        let refused = gateway.get("/").await;
        assert_eq!(refused.status(), 503);
        assert!(refused.header("retry-after").is_some());
    }
    assert_eq!(origin.counts().requests(), before);
    let open = gateway.send(&get("/open/a").header("x-user", "root")).await;
    assert_eq!(open.status(), 200);
    assert_eq!(echoed(&open.json(), "x-user"), None);
    assert!(gateway.stderr().contains("is of no use"));
    // What passed unjudged is told, and was not refused.
    let lines = gateway.log_lines(24).await;
    let unjudged = lines
        .iter()
        .filter(|line| line["status"] == 200 && line["reason"] == "forward_auth_unavailable");
    assert_eq!(unjudged.count(), 1);
    let series = "edgeway_refused_total{reason=\"forward_auth_unavailable\"}";
    assert_eq!(gateway.count(series).await, 20);

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
    // Nobody answers on a connection that nobody accepts.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let yaml = format!(
        "upstreams: {{ app: {{ backends: [\"{}\"] }} }}\nroutes: [{{ match: {{}}, upstream: app, forward_auth: {{ url: \"http://{}/\", timeout: 100ms }} }}]\n",
        origin.address(),
        silent.local_addr().unwrap()
    );
    let gateway = Gateway::start(&yaml).await;
    assert_eq!(gateway.get("/").await.status(), 503);
    let line = &gateway.log_lines(1).await[0];
    assert_eq!(line["reason"], "forward_auth_unavailable");
    let total = line["total_ms"].as_f64().unwrap();
    assert!(total >= 99.0, "{total}");
    assert_eq!(origin.counts().requests(), 0);
}

#[tokio::test]
async fn a_service_over_tls_is_who_the_authority_says() {
    let origin = EchoOrigin::start().await;
    let (ours, theirs) = (Authority::new(), Authority::new());
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
