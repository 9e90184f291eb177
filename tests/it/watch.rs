//! `watch: true`: files that change are taken in by themselves, and broken ones change nothing.

use std::{fs, time::Duration};

use crate::support::{gateway::Gateway, wait::wait_for};

const SOON: Duration = Duration::from_secs(15);

fn says(body: &str) -> String {
    format!(
        "watch: {{ debounce: 50ms }}\n\
         routes: [{{ match: {{ path: / }}, respond: {{ body: \"{body}\" }} }}]\n"
    )
}

async fn until_it_says(gateway: &Gateway, body: &str) {
    wait_for(&format!("it says `{body}`"), SOON, async || {
        (gateway.get("/").await.text() == body).then_some(())
    })
    .await;
}

#[tokio::test]
async fn changed_files_are_taken_in_and_broken_ones_change_nothing() {
    let gateway = Gateway::start(&says("one")).await;
    gateway.configure(&says("two"));
    until_it_says(&gateway, "two").await;
    gateway.configure(&says("three"));
    until_it_says(&gateway, "three").await;
    gateway.configure(&says("four").replace("respond", "repond"));
    let refused = "edgeway_config_reloads_total{outcome=\"refused\"}";
    wait_for("the broken file is refused", SOON, async || {
        (gateway.count(refused).await == 1).then_some(())
    })
    .await;
    assert_eq!(gateway.get("/").await.text(), "three");
    assert!(gateway.stderr().contains("unknown key `repond`"));
    gateway.configure(&says("five"));
    until_it_says(&gateway, "five").await;
    assert_eq!(gateway.count(refused).await, 1);
    // Each once, however many events there were.
    let taken = "edgeway_config_reloads_total{outcome=\"ok\"}";
    assert_eq!(gateway.count(taken).await, 3);
    // Some write into the file itself.
    let file = gateway.folder().join("edgeway.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("five", "six")).unwrap();
    until_it_says(&gateway, "six").await;
}

#[tokio::test]
async fn a_configuration_may_end_the_watch_and_begin_it_again() {
    let gateway = Gateway::start(&says("one")).await;
    let off = says("two").replace("{ debounce: 50ms }", "false");
    gateway.configure(&off);
    until_it_says(&gateway, "two").await;
    let told = "the configuration is not watched any more";
    wait_for("the watch ends", SOON, async || {
        gateway.stderr().contains(told).then_some(())
    })
    .await;
    // Only because it is told to.
    assert!(gateway.reload(&says("three")).await);
    assert_eq!(gateway.get("/").await.text(), "three");
    gateway.configure(&says("four"));
    until_it_says(&gateway, "four").await;
    let taken = "edgeway_config_reloads_total{outcome=\"ok\"}";
    assert_eq!(gateway.count(taken).await, 3);
}
