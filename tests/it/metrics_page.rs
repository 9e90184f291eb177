//! Checks that the reference of metrics agrees with the metrics that the code registers.

use std::{collections::BTreeSet, fs, path::Path};

use http::HeaderValue;

use edgeway::testkit::{
    FilePart, ListenerMetrics, Live, RejectionMetrics, Upgrades,
    gateway::{self, World},
    metrics_page,
};

use crate::support::certificates::files_of_examples;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// App whose images are made at the edge.
const IMAGES: &str = "
listeners: [{ address: 127.0.0.1:0 }]
upstreams: { web: { app: nextjs, folder: .next, images: edge, backends: [127.0.0.1:3000] } }
routes: [{ match: { path: /* }, upstream: web, cache: {} }]
";

/// Creates a process in which every metric was used once: every example configuration compiled, a
/// request served and one refused, a connection accepted.
fn everything() -> World {
    let world = World::default();
    // Examples have no build of an app, which this needs; one that is missing is a warning.
    let images = tempfile::tempdir().expect("a folder for the test can be made");
    let path = images.path().join("images.yaml");
    fs::write(&path, IMAGES).expect("the folder takes files");
    let file = gateway::load(&path).file.expect("it is well-formed");
    let (gateway, _) = gateway::compile(&file, images.path(), &world);
    Live::new(gateway.expect("it has no error"), world.clone());
    for entry in fs::read_dir(root().join("conf/examples")).expect("conf/examples is there") {
        let path = entry.expect("it can be read").path();
        if path.extension().is_none_or(|ending| ending != "yaml") {
            continue;
        }
        let file = gateway::load(&path)
            .file
            .expect("another test says what is wrong");
        let (gateway, _) = gateway::compile(&file, files_of_examples(), &world);
        let gateway = gateway.expect("another test says what is wrong");
        for upstream in gateway.upstreams.values() {
            for backend in upstream.backends() {
                let report = HeaderValue::from_static("1 250 3 4096 8192");
                backend.learn_node_report(Some(&report), world.clock.now());
            }
            upstream.publish();
        }
        for route in &gateway.routes {
            route.metrics.count(&http::Method::GET, 200);
            route.metrics.count_failed();
            route.metrics.count_bytes(1, 1);
            route.metrics.observe_first_byte(0.1);
            route.metrics.count_file(FilePart::Plain);
            route.metrics.refuse("body_limit");
        }
        Live::new(gateway, world.clone());
    }
    RejectionMetrics::new(&world.metrics);
    Upgrades::default().publish(&world.metrics);
    ListenerMetrics::new(&world.metrics, "public");
    world
}

#[test]
fn the_page_of_metrics_is_fresh() {
    let path = root().join("docs/metrics.md");
    let made = metrics_page(&everything().metrics);
    if std::env::var_os("WRITE_METRICS_PAGE").is_some() {
        fs::write(&path, &made).expect("docs/metrics.md can be written");
    }
    let on_disk = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        on_disk == made,
        "docs/metrics.md is stale: run `make metrics-page`"
    );
}

#[test]
fn no_metric_of_the_code_is_missing_on_the_page() {
    let listed: BTreeSet<String> = everything()
        .metrics
        .families()
        .into_iter()
        .map(|family| family.name)
        .collect();
    let mut missing = BTreeSet::new();
    for text in ["src", "crates"]
        .iter()
        .flat_map(|folder| sources(&root().join(folder)))
    {
        // Metrics that only tests use are in the test module at the end.
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or("");
        for (at, _) in code.match_indices("\"edgeway_") {
            let name: String = code[at + 1..].chars().take_while(|c| *c != '"').collect();
            if !listed.contains(&name) {
                missing.insert(name);
            }
        }
    }
    assert!(missing.is_empty(), "{missing:?}");
}

/// Returns the texts of all sources except the test files.
fn sources(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be read").path();
        if path.ends_with("tests") {
            continue;
        }
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tests.rs") {
            found.push(fs::read_to_string(&path).expect("source is UTF-8"));
        }
    }
    found
}
