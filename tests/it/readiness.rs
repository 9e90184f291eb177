//! Readiness: of the gateway for balancers in front of it, and of each upstream for probes from
//! outside.

use std::time::Duration;

use rustix::process::Signal;

use crate::support::{
    client::get,
    gateway::Gateway,
    origins::{FixedOrigin, Origin, SlowOrigin},
    wait::wait_for,
};

const SOON: Duration = Duration::from_secs(10);
const CHECK: &str = "{ path: /health, interval: 100ms, interval_down: 100ms, fall: 1, rise: 1 }";
const TOKEN: &str = "0123456789abcdef";

struct Site {
    gateway: Gateway,
    web: Origin<FixedOrigin>,
    extra: Origin<FixedOrigin>,
}

impl Site {
    /// Starts a gateway with an upstream that it requires and one that it does not.
    async fn start() -> Self {
        let web = FixedOrigin::start(200, &[], "web").await;
        let extra = FixedOrigin::start(200, &[], "extra").await;
        let yaml = format!(
            "
admin: {{ address: \"127.0.0.1:0\", token: '{TOKEN}' }}
upstreams:
  web: {{ backends: [\"{}\"], required: true, health: {CHECK} }}
  extra: {{ backends: [\"{}\"], health: {CHECK} }}
routes:
  - {{ match: {{ path: /* }}, upstream: web }}
  - {{ match: {{ path: /extra }}, upstream: extra }}
",
            web.address(),
            extra.address()
        );
        let gateway = Gateway::start(&yaml).await;
        let site = Self {
            gateway,
            web,
            extra,
        };
        site.becomes("/readyz", 200).await;
        site.becomes("/readyz/upstreams/extra", 200).await;
        site
    }

    /// Waits until a path has this status for a balancer, which has no token.
    async fn becomes(&self, path: &str, status: u16) {
        wait_for(&format!("{path} is {status}"), SOON, async || {
            (self.status(path).await == status).then_some(())
        })
        .await;
    }

    async fn status(&self, path: &str) -> u16 {
        self.gateway.send_admin_tcp(&get(path)).await.status()
    }
}

#[tokio::test]
async fn only_a_required_upstream_takes_the_gateway_out_of_a_balancer() {
    let mut site = Site::start().await;
    assert_eq!(site.status("/readyz/upstreams/web").await, 200);
    site.extra.stop();
    site.becomes("/readyz/upstreams/extra", 503).await;
    assert_eq!(site.status("/readyz").await, 200);
    assert_eq!(site.status("/readyz/upstreams/web").await, 200);
    site.web.stop();
    site.becomes("/readyz", 503).await;
    let refused = site.gateway.send_admin_tcp(&get("/readyz")).await.text();
    let reason = "no backend of a required upstream is in rotation";
    assert_eq!(
        refused,
        format!("{{\"ready\":false,\"reasons\":[\"{reason}\"]}}")
    );
    // Operators see which.
    let status = site.gateway.status().await;
    assert_eq!(
        status["not_ready"][0],
        "no backend of the required upstream `web` is in rotation"
    );
    assert_eq!(site.gateway.count("edgeway_ready").await, 0);
    let ready = "edgeway_upstream_ready{upstream=\"web\"}";
    assert_eq!(site.gateway.count(ready).await, 0);
    // The process lives, and a restart would not help.
    assert_eq!(site.status("/healthz").await, 200);
    site.web.resume().await;
    site.becomes("/readyz", 200).await;
    assert_eq!(site.gateway.count(ready).await, 1);
    assert_eq!(site.gateway.count("edgeway_ready").await, 1);
}

#[tokio::test]
async fn a_probe_learns_nothing_but_whether_an_upstream_is_ready() {
    let site = Site::start().await;
    let response = site
        .gateway
        .send_admin_tcp(&get("/readyz/upstreams/web"))
        .await;
    assert_eq!(response.text(), r#"{"ready":true,"reasons":[]}"#);
    let unknown = site
        .gateway
        .send_admin_tcp(&get("/readyz/upstreams/api"))
        .await;
    assert_eq!(unknown.status(), 404);
    assert_eq!(unknown.json()["error"]["reason"], "no_such_upstream");
    assert!(!unknown.text().contains("web"), "{}", unknown.text());
    // The control: anything else needs the token.
    for path in ["/status", "/metrics", "/readyz/upstreams", "/v1/upstreams"] {
        assert_eq!(site.status(path).await, 401, "{path}");
    }
}

/// A gateway that starts behind a balancer gets no visitors before its app has been seen.
#[tokio::test]
async fn a_gateway_whose_app_does_not_run_yet_is_not_ready() {
    let mut web = FixedOrigin::start(200, &[], "web").await;
    web.stop();
    // Its backend stays in rotation for now: it has not failed often enough.
    let check = CHECK.replace("fall: 1", "fall: 1000000");
    let yaml = format!(
        "upstreams: {{ web: {{ backends: [\"{}\"], required: true, health: {check} }} }}\n\
         routes: [{{ match: {{ path: /* }}, upstream: web }}]\n",
        web.address()
    );
    let gateway = Gateway::start(&yaml).await;
    wait_for("checks have failed", SOON, async || {
        let status = gateway.status().await;
        let probe = &status["upstreams"][0]["backends"][0]["probe"];
        assert_eq!(gateway.admin_get("/readyz").await.status(), 503);
        (probe["count"].as_u64()? > 2).then_some(())
    })
    .await;
    web.resume().await;
    let becomes = async |status: u16| {
        wait_for(&format!("/readyz is {status}"), SOON, async || {
            (gateway.admin_get("/readyz").await.status() == status).then_some(())
        })
        .await;
    };
    becomes(200).await;
    // A single failed check afterwards changes nothing, as for its requests.
    web.stop();
    wait_for("a check has failed", SOON, async || {
        let status = gateway.status().await;
        let probe = &status["upstreams"][0]["backends"][0]["probe"];
        (probe["passed"] == false).then_some(())
    })
    .await;
    assert_eq!(gateway.admin_get("/readyz").await.status(), 200);
}

#[tokio::test]
async fn a_gateway_that_stops_is_ready_for_nothing() {
    let slow = SlowOrigin::start(Duration::from_secs(3)).await;
    let yaml = format!(
        "drain: {{ announce: 2s }}\n\
         upstreams: {{ web: {{ backends: [\"{}\"], health: false }} }}\n\
         routes: [{{ match: {{ path: /* }}, upstream: web }}]\n",
        slow.address()
    );
    let gateway = Gateway::start(&yaml).await;
    let paths = ["/readyz", "/readyz/upstreams/web"];
    for path in paths {
        assert_eq!(gateway.admin_get(path).await.status(), 200, "{path}");
    }
    gateway.signal(Signal::TERM);
    for path in paths {
        wait_for("it is not ready any more", SOON, async || {
            (gateway.admin_get(path).await.status() == 503).then_some(())
        })
        .await;
    }
    assert_eq!(gateway.admin_get("/healthz").await.status(), 200);
}
