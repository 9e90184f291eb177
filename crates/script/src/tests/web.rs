//! Web API: a script sees the same in Node.js and in a plugin.

use std::{fs, process::Command};

use serde_json::Value;

use super::*;

const SCRIPT: &str = include_str!("web.js");

/// Results of the script, by name.
fn pairs(json: &[u8]) -> Vec<(String, Value)> {
    serde_json::from_slice(json).expect("the script gives pairs")
}

fn in_node() -> Vec<(String, Value)> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("web.mjs"), SCRIPT).unwrap();
    let main = "import { later } from './web.mjs'; console.log(JSON.stringify(await later()));";
    fs::write(folder.path().join("main.mjs"), main).unwrap();
    let ran = Command::new("node")
        .arg("main.mjs")
        .current_dir(folder.path())
        .output()
        .expect("node is there");
    assert!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    pairs(&ran.stdout)
}

async fn in_a_plugin() -> Vec<(String, Value)> {
    let plugin = "import { later } from './web.js';
        export async function onRequest() { return Response.json(await later()); }";
    let files = [("plugin.js", plugin), ("web.js", SCRIPT)];
    let loaded = load_slow(&files);
    let output = loaded.request().await.unwrap();
    let HookResult::Response(response) = output.result else {
        panic!("{output:?}");
    };
    pairs(&response.body)
}

#[tokio::test]
async fn web_apis_behave_as_in_node() {
    let (ours, nodes) = (in_a_plugin().await, in_node());
    assert!(nodes.len() > 80, "{}", nodes.len());
    let names =
        |all: &[(String, Value)]| all.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&ours), names(&nodes));
    let differ = ours
        .iter()
        .zip(&nodes)
        .filter(|(ours, nodes)| ours != nodes);
    let differ: Vec<_> = differ.collect();
    assert!(differ.is_empty(), "{differ:#?}");
}
