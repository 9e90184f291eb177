//! `edgeway reload --canary`: a configuration that makes a route slower or fail goes back by itself.
//!
//! Invariant: after the end of a trial serves the configuration whose routes did not get worse, and
//! no request fails because of the change back.

use std::{net::SocketAddr, time::Duration};

use crate::support::{
    client::get,
    fleet::edgeway,
    gateway::Gateway,
    load::{Endless, endless_paced},
    origins::SlowOrigin,
    wait::pass,
};

/// Time of traffic before the change, with which the one after it is compared.
const BEFORE: Duration = Duration::from_secs(8);

fn served_by(origin: SocketAddr) -> String {
    format!(
        "
upstreams:
  web: {{ backends: [\"{origin}\"] }}
routes:
  - match: {{ path: /* }}
    upstream: web
"
    )
}

/// Starts a gateway and its traffic.
async fn begin(origin: SocketAddr) -> (Gateway, Endless) {
    let gateway = Gateway::start(&served_by(origin)).await;
    let load = endless_paced(gateway.address(), 50, |_| get("/"));
    pass(BEFORE).await;
    (gateway, load)
}

#[tokio::test]
async fn a_configuration_that_doubles_latency_goes_back_by_itself() {
    let fast = SlowOrigin::start(Duration::from_millis(40)).await;
    let slow = SlowOrigin::start(Duration::from_millis(90)).await;
    let (gateway, load) = begin(fast.address()).await;
    gateway.configure(&served_by(slow.address()));
    let ran = edgeway(&gateway, &["reload", "--canary", "5min"]).await;
    let tally = load.stop().await;
    assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    assert!(
        ran.stderr
            .contains("configuration 2 was taken back, the previous one serves again"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains("route `/*` is slower"),
        "{}",
        ran.stderr
    );
    assert_eq!(tally.errors(), 0, "{:?}", tally.failed);
    let port = gateway.get("/").await.json()["port"].as_u64();
    assert_eq!(port, Some(u64::from(fast.address().port())));

    // The file is not the one that serves, which is said as of any refused one.
    assert_eq!(gateway.count("edgeway_config_last_reload_success").await, 0);
    let verdicts = r#"edgeway_config_canary_verdicts_total{verdict="taken_back"}"#;
    assert_eq!(gateway.count(verdicts).await, 1);
    let status = edgeway(&gateway, &["status"]).await.stdout;
    assert!(
        status.contains("configuration 2 was taken back"),
        "{status}"
    );
    // And it is not loaded again by itself, but on demand.
    let again = edgeway(&gateway, &["reload"]).await;
    assert_eq!(again.status, Some(0), "{}", again.stderr);
    let port = gateway.get("/").await.json()["port"].as_u64();
    assert_eq!(port, Some(u64::from(slow.address().port())));
}

#[tokio::test]
async fn a_configuration_whose_requests_fail_goes_back_by_itself() {
    let origin = SlowOrigin::start(Duration::from_millis(5)).await;
    let (gateway, load) = begin(origin.address()).await;
    gateway.configure("routes: [{ match: { path: /* }, respond: 503 }]\n");
    let ran = edgeway(&gateway, &["reload", "--canary", "5min", "--json"]).await;
    load.stop().await;
    assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    let reloaded: serde_json::Value = serde_json::from_str(&ran.stdout).expect("it prints JSON");
    assert_eq!(reloaded["verdict"]["outcome"], "taken_back", "{reloaded}");
    let text = reloaded["verdict"]["text"].as_str().expect("a text");
    let share = text.split_once("route `/*` has more errors: ");
    let share = share.and_then(|(_, rest)| rest.split_once(" % of")?.0.parse::<f64>().ok());
    // A request that was in flight when the configuration changed did not fail.
    assert!(share.is_some_and(|share| share > 90.0), "{text}");
    assert_eq!(gateway.get("/").await.status(), 200);
}

#[tokio::test]
async fn a_configuration_that_harms_nothing_stays() {
    let origin = SlowOrigin::start(Duration::from_millis(5)).await;
    let (gateway, load) = begin(origin.address()).await;
    let changed =
        served_by(origin.address()) + "    headers: { response: { set: { x-new: \"1\" } } }\n";
    gateway.configure(&changed);
    let ran = edgeway(&gateway, &["reload", "--canary", "12s"]).await;
    load.stop().await;
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("configuration 2 stays"),
        "{}",
        ran.stderr
    );
    assert_eq!(gateway.get("/").await.header("x-new"), Some("1"));

    let nothing = edgeway(&gateway, &["reload", "--canary", "12s"]).await;
    assert!(
        nothing.stderr.contains("nothing changed"),
        "{}",
        nothing.stderr
    );
    let short = edgeway(&gateway, &["reload", "--canary", "1s"]).await;
    assert_eq!(short.status, Some(1));
    assert!(
        short.stderr.contains("between 10s and 1h"),
        "{}",
        short.stderr
    );
}

/// A route that had no requests before has nothing to be compared with.
#[tokio::test]
async fn a_new_route_whose_requests_fail_goes_back_by_itself() {
    let origin = SlowOrigin::start(Duration::from_millis(5)).await;
    let yaml = served_by(origin.address());
    let gateway = Gateway::start(&yaml).await;
    let new = "  - { match: { path: /new }, name: new, respond: 503 }\n";
    gateway.configure(&(yaml + new));
    let load = endless_paced(gateway.address(), 50, |_| get("/new"));
    let ran = edgeway(&gateway, &["reload", "--canary", "20s"]).await;
    load.stop().await;
    assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("route `new` has more errors"),
        "{}",
        ran.stderr
    );
}

#[tokio::test]
async fn a_trial_without_requests_says_so() {
    let origin = SlowOrigin::start(Duration::from_millis(5)).await;
    let yaml = served_by(origin.address());
    let gateway = Gateway::start(&yaml).await;
    let new = "  - { match: { path: /new }, name: new, respond: 503 }\n";
    gateway.configure(&(yaml + new));
    let ran = edgeway(&gateway, &["reload", "--canary", "10s"]).await;
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("without a verdict"), "{}", ran.stderr);
}
