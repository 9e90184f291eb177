//! Apps that stop while connections to them are open. Invariant: while another instance is there,
//! no GET gets the refusal of one that is stopping, and no idle connection keeps it from its end.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::{
    apps::{App, FrameworkApp, backends},
    client::{get, post},
    gateway::Gateway,
    load::{Lanes, endless, lanes},
    origins::{Origin, StoppingOrigin},
    wait::{pass, wait_for},
};

/// Time of an app that closes each connection once its requests are over.
const SOON: Duration = Duration::from_secs(5);

async fn front(backends: &str, settings: &str) -> Gateway {
    let yaml = format!(
        "
defaults: {{ csrf: false }}
upstreams:
  app: {{ backends: [{backends}], {settings} }}
routes:
- {{ match: {{ path: /* }}, upstream: app }}
"
    );
    Gateway::start(&yaml).await
}

/// Waits until the process of an app that was asked to stop at `begun` has ended. Returns the time.
async fn ended(app: &mut App, begun: Instant) -> Duration {
    wait_for("the process ends", SOON * 50, async || {
        app.has_ended().then_some(())
    })
    .await;
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fastify_app_that_stops_under_load_costs_no_request() {
    for health in ["false", "{ path: /health, interval: 1s }"] {
        let mut apps = Vec::new();
        for _ in 0..2 {
            apps.push(FrameworkApp::start("fastify").await);
        }
        let settings = format!("health: {health}");
        let gateway = front(&backends(&apps), &settings).await;
        let load = endless(gateway.address(), 12, Lanes::KeepAlive, |_| get("/wait/30"));
        pass(Duration::from_millis(500)).await;
        apps[0].terminate();
        let took = ended(&mut apps[0], Instant::now()).await;
        pass(Duration::from_millis(300)).await;
        let tally = load.stop().await;
        let shown = format!("{settings}: {took:?}, {tally:?}");
        assert!(tally.served_by(apps[0].port()) > 10, "{shown}");
        assert_eq!(tally.errors(), 0, "{shown}");
        assert!(took < SOON, "{shown}");
    }
}

/// Most connections of a burst of requests are not needed afterwards: they would be idle until they
/// expire, 71 s later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fastify_app_that_stops_after_a_burst_ends_at_once() {
    let mut apps = Vec::new();
    for _ in 0..2 {
        apps.push(FrameworkApp::start("fastify").await);
    }
    let gateway = front(&backends(&apps), "health: false").await;
    let to = gateway.address();
    let burst = || lanes(to, 12, 12, |_| get("/wait/400"));
    // From the first burst the gateway learns how long the app keeps connections.
    assert_eq!(burst().await.status(200), 12);
    let stop = async {
        pass(Duration::from_millis(150)).await;
        apps[0].terminate();
        Instant::now()
    };
    let (tally, begun) = tokio::join!(burst(), stop);
    assert_eq!(
        tally.status(200),
        12,
        "requests in flight finish: {tally:?}"
    );
    let tally = lanes(to, 1, 6, |_| get("/wait/1")).await;
    assert_eq!(tally.status(200), 6, "{tally:?}");
    let took = ended(&mut apps[0], begun).await;
    assert!(took < SOON, "{took:?}");
}

/// Settings of the upstream, a method, whether each of two instances is stopping, whether they keep
/// their connections then, and the status that the client gets.
type Case = (&'static str, &'static str, [bool; 2], bool, u16);

const CASES: [Case; 9] = [
    ("", "GET", [true, false], false, 200),
    ("retry: { on: [connect] }", "GET", [true, false], false, 200),
    ("retry: { on: ['503'] }", "GET", [true, false], false, 200),
    // The controls: what may not be repeated, and what is no end.
    ("", "POST", [true, false], false, 503),
    ("", "GET", [true, true], false, 503),
    ("", "GET", [true, false], true, 503),
    ("retry: { attempts: 1 }", "GET", [true, false], false, 503),
    ("retry: { on: [reset] }", "GET", [true, false], false, 503),
    ("retry: { on: [] }", "GET", [true, false], false, 503),
];

#[tokio::test]
async fn a_refusal_with_close_is_repeated_where_a_refused_connection_is() {
    for (settings, method, stopping, keeps, expected) in CASES {
        for is_pooled in [true, false] {
            let mut origins = Vec::new();
            for _ in 0..2 {
                origins.push(StoppingOrigin::start().await);
            }
            let [a, b] = [0, 1].map(|at: usize| origins[at].address());
            let settings = format!("health: false, {settings}");
            let gateway = front(&format!("'{a}', '{b}'"), &settings).await;
            if is_pooled {
                let tally = lanes(gateway.address(), 8, 16, |_| get("/slow")).await;
                assert_eq!(tally.status(200), 16, "{tally:?}");
            }
            let set = |origin: &Origin<StoppingOrigin>, is_stopping| {
                origin.settings().set(is_stopping, keeps);
            };
            set(&origins[0], stopping[0]);
            set(&origins[1], stopping[1]);
            // Of two in turn, one meets the first instance.
            let mut statuses = Vec::new();
            let request = match method {
                "POST" => post("/", "x"),
                _ => get("/"),
            };
            for _ in 0..2 {
                statuses.push(gateway.send(&request).await.status());
            }
            let shown = format!("{settings}, {stopping:?}, keeps {keeps}, pooled {is_pooled}");
            let worst = statuses.iter().max();
            assert_eq!(worst, Some(&expected), "{shown}: {statuses:?}");
        }
    }
}

#[tokio::test]
async fn without_another_instance_the_client_gets_the_refusal() {
    let origin = StoppingOrigin::start().await;
    let gateway = front(&format!("'{}'", origin.address()), "health: false").await;
    assert_eq!(gateway.get("/").await.status(), 200);
    origin.settings().set(true, false);
    let refused = gateway.get("/").await;
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.json()["port"], origin.address().port());
    assert_eq!(origin.counts().requests(), 2, "it was not repeated");
}
