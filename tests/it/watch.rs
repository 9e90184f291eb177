//! `watch: true`: changed files are loaded automatically, and broken ones change nothing.

use std::{fs, time::Duration};

use crate::support::{gateway::Gateway, wait::wait_for};

const SOON: Duration = Duration::from_secs(15);

fn responding(body: &str) -> String {
    format!(
        "watch: {{ debounce: 50ms }}\n\
         routes: [{{ match: {{ path: / }}, respond: {{ body: \"{body}\" }} }}]\n"
    )
}

async fn until_response_is(gateway: &Gateway, body: &str) {
    wait_for(&format!("it says `{body}`"), SOON, async || {
        (gateway.get("/").await.text() == body).then_some(())
    })
    .await;
}

#[tokio::test]
async fn changed_files_are_loaded_and_broken_ones_change_nothing() {
    let gateway = Gateway::start(&responding("one")).await;
    gateway.configure(&responding("two"));
    until_response_is(&gateway, "two").await;
    gateway.configure(&responding("three"));
    until_response_is(&gateway, "three").await;
    gateway.configure(&responding("four").replace("respond", "repond"));
    let refused = "edgeway_config_reloads_total{outcome=\"refused\"}";
    wait_for("the broken file is refused", SOON, async || {
        (gateway.count(refused).await == 1).then_some(())
    })
    .await;
    assert_eq!(gateway.get("/").await.text(), "three");
    wait_for("the log says why", SOON, async || {
        let log = gateway.stderr();
        log.contains("unknown key `repond`").then_some(())
    })
    .await;
    gateway.configure(&responding("five"));
    until_response_is(&gateway, "five").await;
    assert_eq!(gateway.count(refused).await, 1);
    // Each change once, however many events there were.
    let taken = "edgeway_config_reloads_total{outcome=\"ok\"}";
    assert_eq!(gateway.count(taken).await, 3);
    // Some editors write into the file itself.
    let file = gateway.folder().join("edgeway.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("five", "six")).unwrap();
    until_response_is(&gateway, "six").await;
}

#[tokio::test]
async fn a_configuration_may_end_the_watch_and_begin_it_again() {
    let gateway = Gateway::start(&responding("one")).await;
    let off = responding("two").replace("{ debounce: 50ms }", "false");
    gateway.configure(&off);
    until_response_is(&gateway, "two").await;
    let message = "configuration no longer watched";
    wait_for("the watch ends", SOON, async || {
        gateway.stderr().contains(message).then_some(())
    })
    .await;
    // Only because a reload was requested.
    assert!(gateway.reload(&responding("three")).await);
    assert_eq!(gateway.get("/").await.text(), "three");
    gateway.configure(&responding("four"));
    until_response_is(&gateway, "four").await;
    let taken = "edgeway_config_reloads_total{outcome=\"ok\"}";
    assert_eq!(gateway.count(taken).await, 3);
}

fn plugins(names: &[&str]) -> String {
    let list = names
        .iter()
        .map(|name| format!("{{ file: plugins/{name}/plugin.js, on_error: continue }}"));
    let list: Vec<_> = list.collect();
    format!(
        "watch: {{ debounce: 50ms }}\n\
         routes: [{{ match: {{ path: / }}, respond: none, plugins: [{}] }}]\n",
        list.join(", ")
    )
}

/// Starts a gateway with a plugin that responds with a text from another of its modules.
async fn with_plugin(text: &str) -> Gateway {
    Gateway::start_in(&plugins(&["x"]), |folder| {
        let plugin = folder.join("plugins/x");
        fs::create_dir_all(plugin.join("lib")).expect("the folder is ours");
        let main = "import { text } from './lib/text.js';
            export const onRequest = () => new Response(text);";
        fs::write(plugin.join("plugin.js"), main).expect("the folder is ours");
        fs::write(plugin.join("lib/text.js"), module_text(text)).expect("the folder is ours");
        fs::write(plugin.join("lib/unused.js"), "never read").expect("the folder is ours");
    })
    .await
}

fn module_text(text: &str) -> String {
    format!("export const text = '{text}';")
}

#[tokio::test]
async fn files_of_plugins_are_watched_and_one_that_does_not_load_leaves_the_one_before() {
    let gateway = with_plugin("one").await;
    let plugin = gateway.folder().join("plugins/x");
    until_response_is(&gateway, "one").await;
    // A module that the first one imports.
    fs::write(plugin.join("lib/text.js"), module_text("two")).unwrap();
    until_response_is(&gateway, "two").await;
    wait_for("the log says what", SOON, async || {
        let log = gateway.stderr();
        log.contains("configuration reloaded: ~ plugin x")
            .then_some(())
    })
    .await;
    let broken = "export const text = ;";
    fs::write(plugin.join("lib/text.js"), broken).unwrap();
    let refused = "edgeway_config_reloads_total{outcome=\"refused\"}";
    gateway.counts(refused, 1).await;
    let why = "plugins/x/lib/text.js:1:";
    // It is counted before it is logged.
    wait_for("the log says where", SOON, async || {
        gateway.stderr().contains(why).then_some(())
    })
    .await;
    let status = gateway.status().await;
    let error = status["config"]["last_error"].as_str().unwrap_or_default();
    assert!(error.contains(why), "{error}");
    assert_eq!(gateway.count("edgeway_config_last_reload_success").await, 0);
    assert_eq!(gateway.get("/").await.text(), "two");
    // It is repaired, and then replaced by a rename, as editors do it.
    fs::write(plugin.join("lib/text.js"), module_text("three")).unwrap();
    until_response_is(&gateway, "three").await;
    fs::write(plugin.join("lib/new"), module_text("four")).unwrap();
    fs::rename(plugin.join("lib/new"), plugin.join("lib/text.js")).unwrap();
    until_response_is(&gateway, "four").await;
    // Files that no module imports do not count.
    let taken = "edgeway_config_reloads_total{outcome=\"ok\"}";
    let before = gateway.count(taken).await;
    fs::write(plugin.join("lib/unused.js"), "still never read").unwrap();
    fs::write(plugin.join("lib/text.js"), module_text("five")).unwrap();
    until_response_is(&gateway, "five").await;
    assert_eq!(gateway.count(taken).await, before + 1);
    assert_eq!(gateway.count(refused).await, 1);
}

#[tokio::test]
async fn a_missing_module_is_watched_for() {
    let gateway = with_plugin("one").await;
    let lib = gateway.folder().join("plugins/x/lib/text.js");
    fs::remove_file(&lib).unwrap();
    let refused = "edgeway_config_reloads_total{outcome=\"refused\"}";
    gateway.counts(refused, 1).await;
    assert_eq!(gateway.get("/").await.text(), "one");
    fs::write(&lib, module_text("two")).unwrap();
    until_response_is(&gateway, "two").await;
    // A missing plugin is waited for as well.
    gateway.configure(&plugins(&["y", "x"]));
    gateway.counts(refused, 2).await;
    assert_eq!(gateway.get("/").await.text(), "two");
    let folder = gateway.folder().join("plugins/y");
    fs::create_dir(gateway.folder().join("plugins/new")).unwrap();
    let text = "export const onRequest = () => new Response('three');";
    fs::write(gateway.folder().join("plugins/new/plugin.js"), text).unwrap();
    fs::rename(gateway.folder().join("plugins/new"), folder).unwrap();
    until_response_is(&gateway, "three").await;
}
