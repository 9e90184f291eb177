//! Profiles, switched while the gateway serves.

use std::fs;

use serde_json::{Value, json};

use crate::{
    cli::{Ran, edgeway},
    support::{
        client::{Response, post},
        gateway::Gateway,
        origins::{NumberedOrigin, Origin},
    },
};

fn yaml(origin: &Origin<NumberedOrigin>, profiles: &str) -> String {
    format!(
        "listeners: [{{ address: 127.0.0.1:0 }}]\n\
         upstreams: {{ app: {{ backends: ['{}'], health: false }} }}\n\
         {profiles}\
         routes:\n\
         - {{ name: products, match: {{ path: '/*' }}, upstream: app, cache: {{ ttl: 5min }} }}\n",
        origin.address()
    )
}

const PEAK: &str = "profiles: { peak: { cache: { ttl: 30min } } }\n";

async fn start() -> (Gateway, Origin<NumberedOrigin>) {
    let origin = NumberedOrigin::start().await;
    origin.settings().tell("/silent", 200, &[]);
    let headers = [("cache-control", "max-age=60")];
    origin.settings().tell("/preset", 200, &headers);
    let gateway = Gateway::start(&yaml(&origin, PEAK)).await;
    (gateway, origin)
}

async fn switch(gateway: &Gateway, to: Value) -> Response {
    let body = json!({ "name": to }).to_string();
    let asked = post("/v1/profile", body).header("content-type", "application/json");
    gateway.send_admin(&asked).await
}

async fn active(gateway: &Gateway) -> Value {
    gateway.status().await["config"]["profile"].clone()
}

/// Returns the seconds for which a response stays fresh, as clients see them.
async fn ttl(gateway: &Gateway, path: &str) -> u64 {
    let response = gateway.get(path).await;
    assert_eq!(response.header("x-cache-status"), Some("HIT"), "{path}");
    let status = response.header("cache-status").expect("it is there");
    let ttl = status.split("ttl=").nth(1).expect("a ttl");
    ttl.parse().expect("it is a number")
}

#[tokio::test]
async fn the_time_that_clients_see_changes_without_a_restart() {
    let (gateway, origin) = start().await;
    gateway.get("/silent").await;
    gateway.get("/preset").await;
    assert!((290..=300).contains(&ttl(&gateway, "/silent").await));
    let response = switch(&gateway, json!("peak")).await;
    assert_eq!(response.status(), 200, "{}", response.text());
    let response = response.json();
    assert_eq!(
        (&response["active"], &response["reset"]),
        (&json!("peak"), &json!(1))
    );
    assert!((1790..=1800).contains(&ttl(&gateway, "/silent").await));
    // Times of the origin stay.
    assert!((50..=60).contains(&ttl(&gateway, "/preset").await));
    gateway.get("/silent?new").await;
    assert!((1790..=1800).contains(&ttl(&gateway, "/silent?new").await));
    assert_eq!(
        gateway
            .count("edgeway_profile_active{profile=\"peak\"}")
            .await,
        1
    );
    assert_eq!(active(&gateway).await, "peak");
    let response = switch(&gateway, Value::Null).await.json();
    assert_eq!(
        (&response["active"], &response["reset"]),
        (&Value::Null, &json!(2))
    );
    assert!((290..=300).contains(&ttl(&gateway, "/silent").await));
    assert_eq!(
        gateway
            .count("edgeway_profile_active{profile=\"peak\"}")
            .await,
        0
    );
    assert_eq!(origin.settings().requests("/silent"), 2);
    // No file was read again.
    let reloads = "edgeway_config_reloads_total{outcome=\"ok\"}";
    assert_eq!(gateway.count(reloads).await, 0);
}

#[tokio::test]
async fn profiles_that_cannot_be_switched_are_reported() {
    let (gateway, _origin) = start().await;
    let response = switch(&gateway, json!("paek")).await;
    assert_eq!(response.status(), 404);
    let error = &response.json()["error"];
    assert_eq!(error["reason"], "no_such_profile");
    assert_eq!(error["message"], "unknown profile `paek`; there is `peak`");
    assert_eq!(active(&gateway).await, Value::Null);
}

#[tokio::test]
async fn the_profile_survives_reloads_and_upgrades_until_it_is_removed() {
    let (mut gateway, origin) = start().await;
    let page = gateway.folder().join("page.txt");
    let file = "- { match: { path: /page }, respond: { file: page.txt } }\n";
    let with_page = yaml(&origin, PEAK) + file;
    fs::write(&page, "first").expect("the folder takes files");
    assert!(gateway.reload(&with_page).await);
    fs::write(&page, "second").expect("the folder takes files");
    switch(&gateway, json!("peak")).await;
    // The switch has read the file: there is nothing new for the next reload.
    assert_eq!(gateway.get("/page").await.text(), "second");
    assert!(gateway.reload(&with_page).await);
    let stderr = gateway.stderr();
    assert!(stderr.contains("reloaded: nothing changed"), "{stderr}");
    assert!(gateway.reload(&yaml(&origin, PEAK)).await);
    assert_eq!(active(&gateway).await, "peak");
    gateway.upgrade().await;
    assert_eq!(active(&gateway).await, "peak");
    gateway.get("/silent").await;
    assert!((1790..=1800).contains(&ttl(&gateway, "/silent").await));
    let other = "profiles: { calm: { cache: { ttl: 1min } } }\n";
    assert!(gateway.reload(&yaml(&origin, other)).await);
    assert_eq!(active(&gateway).await, Value::Null);
    assert!(ttl(&gateway, "/silent").await <= 300);
    let stderr = gateway.stderr();
    assert!(
        stderr.contains("the active profile `peak` was removed"),
        "{stderr}"
    );
    assert!(gateway.reload(&yaml(&origin, PEAK)).await);
    assert_eq!(active(&gateway).await, Value::Null, "it was switched off");
}

/// Invariant: a time that a profile gives ends with it, also where the route has none of its own.
#[tokio::test]
async fn a_time_of_a_profile_ends_with_it() {
    let origin = NumberedOrigin::start().await;
    origin.settings().tell("/deals", 200, &[("etag", "\"a\"")]);
    let yaml = yaml(
        &origin,
        "profiles: { peak: { routes: { products: { cache: { ttl: 1h } } } } }\n",
    );
    let gateway = Gateway::start(&yaml.replace("cache: { ttl: 5min }", "cache: {}")).await;
    switch(&gateway, json!("peak")).await;
    gateway.get("/deals").await;
    assert!(ttl(&gateway, "/deals").await > 3500);
    switch(&gateway, Value::Null).await;
    let response = gateway.get("/deals").await;
    assert_ne!(response.header("x-cache-status"), Some("HIT"));
}

#[tokio::test]
async fn the_command_lists_and_switches() {
    let (gateway, _origin) = start().await;
    let admin = gateway.admin_socket().to_owned();
    let run = async |arguments: &[&str]| -> Ran {
        let mut all: Vec<String> = vec!["profile".into(), "--socket".into(), admin.clone()];
        all.extend(arguments.iter().map(|it| (*it).to_owned()));
        let ran = tokio::task::spawn_blocking(move || {
            edgeway(&all.iter().map(String::as_str).collect::<Vec<_>>())
        });
        ran.await.expect("it ends")
    };
    assert_eq!(run(&[]).await.stdout, "  peak\n");
    let ran = run(&["peak"]).await;
    assert_eq!(
        (ran.status, ran.stderr.as_str()),
        (0, "`peak` is switched on\n")
    );
    assert_eq!(run(&[]).await.stdout, "* peak\n");
    let ran = run(&["--off", "--json"]).await;
    let done: Value = serde_json::from_str(&ran.stdout).expect("it is JSON");
    assert_eq!(done["active"], Value::Null);
    assert_eq!(run(&["other"]).await.status, 1);
}
