//! Releases on a machine with the memory for one instance more: `overlap: one`.
//!
//! Invariant: whatever replaces what, never more than one instance above the configured number runs,
//! and no request fails.

use std::{fs, path::Path, time::Duration};

use serde_json::Value;

use crate::support::{
    client::get,
    fleet::edgeway,
    load::{Lanes, Tally, endless},
    releases::{Behaviour, Site, tried_app},
    wait::{pass, wait_for},
};

const SOON: Duration = Duration::from_secs(20);
/// Interval of the counts, shorter than any app takes to start.
const EVERY: Duration = Duration::from_millis(10);
const LANES: usize = 8;

async fn site(instances: usize, more: &str) -> Site {
    let start = "      start: [node, server.js]\n      linger: 1h";
    let section = format!("{start}\n      instances: {instances}\n{more}");
    Site::start_app("/health", &section).await
}

/// Returns the number of processes that run in a folder of releases: its apps.
fn processes(folder: &Path) -> usize {
    let all = fs::read_dir("/proc").expect("Linux has it").flatten();
    let folders = all.filter_map(|entry| fs::read_link(entry.path().join("cwd")).ok());
    folders.filter(|cwd| cwd.starts_with(folder)).count()
}

/// Runs a command under load. Returns its exit status and output, the most processes that ran at the
/// same time, and the outcome of the load.
async fn under_load(site: &Site, arguments: &[&str]) -> (Option<i32>, String, usize, Tally) {
    let load = endless(site.gateway.address(), LANES, Lanes::KeepAlive, |_| {
        get("/")
    });
    let folder = site.folder.path().canonicalize().expect("it is there");
    let mut most = 0;
    let counting = async {
        loop {
            most = most.max(processes(&folder));
            pass(EVERY).await;
        }
    };
    let ran = tokio::select! {
        ran = edgeway(&site.gateway, arguments) => ran,
        () = counting => unreachable!("it counts for ever"),
    };
    (ran.status, ran.stderr, most, load.stop().await)
}

fn release(delay: u64) -> tempfile::TempDir {
    tried_app(Behaviour {
        delay: Duration::from_millis(delay),
        ..Behaviour::default()
    })
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the path is text")
}

async fn deploy(site: &Site, folder: &Path, name: &str) -> (Option<i32>, String, usize, Tally) {
    under_load(site, &["deploy", "web", text(folder), "--name", name]).await
}

async fn instances(site: &Site, name: &str) -> Value {
    let releases = site.releases().await;
    let own = releases.iter().find(|listed| listed["name"] == name);
    own.map_or(Value::Null, |own| own["instances"].clone())
}

#[track_caller]
fn assert_whole(step: &str, tally: &Tally) {
    assert_eq!(tally.errors() + tally.truncated, 0, "{step}: {tally:?}");
    assert!(tally.total() > 100, "{step}: {} requests", tally.total());
}

async fn replaced(wanted: usize) {
    let site = site(wanted, "      overlap: one").await;
    let (one, two, three) = (release(20), release(20), release(20));
    let name = ["--name", "one"];
    let first = [&["deploy", "web", text(one.path())][..], &name].concat();
    site.run(&first).await;
    for (step, folder) in [("two", &two), ("three", &three)] {
        let (status, errors, most, tally) = deploy(&site, folder.path(), step).await;
        assert_eq!(status, Some(0), "{errors}");
        assert_whole(step, &tally);
        assert_eq!(most, wanted + 1, "{step}");
        assert_eq!(instances(&site, step).await, wanted);
    }
    // One instance of the release before lingers, and none of the one before that.
    assert_eq!(instances(&site, "two").await, 1);
    assert_eq!(instances(&site, "one").await, 0);
    let (status, errors, most, tally) = under_load(&site, &["rollback", "web"]).await;
    assert_eq!(status, Some(0), "{errors}");
    assert_whole("rollback", &tally);
    assert_eq!(most, wanted + 1, "rollback");
    assert_eq!(site.state("two").await, "current");
    assert_eq!(instances(&site, "two").await, wanted);
    assert_eq!(instances(&site, "three").await, 1);
}

#[tokio::test]
async fn one_instance_more_runs_and_no_request_fails() {
    replaced(2).await;
}

#[tokio::test]
async fn three_instances_are_replaced_one_by_one() {
    replaced(3).await;
}

/// Control: without `overlap` the instances of both run at the same time.
#[tokio::test]
async fn all_instances_of_both_run_unless_asked() {
    let site = site(2, "").await;
    let (one, two) = (release(20), release(20));
    site.run(&["deploy", "web", text(one.path()), "--name", "one"])
        .await;
    let (status, errors, most, tally) = deploy(&site, two.path(), "two").await;
    assert_eq!(status, Some(0), "{errors}");
    assert_whole("two", &tally);
    assert_eq!(most, 4);
}

/// A release whose second instance never gets healthy: the first one serves for a moment, and then
/// everything is as before.
#[tokio::test]
async fn a_release_that_fails_halfway_leaves_the_old_one_whole() {
    let site = site(2, "      overlap: one").await;
    let (one, two) = (release(20), release(20));
    site.run(&["deploy", "web", text(one.path()), "--name", "one"])
        .await;
    // Started a second time, the app of this release ends at once.
    let server = two.path().join("server.js");
    let app = fs::read_to_string(&server).expect("it is there");
    let once = "require('node:fs').mkdirSync('started');\n";
    fs::write(&server, format!("{once}{app}")).expect("the folder takes files");
    let arguments = ["deploy", "web", text(two.path()), "--name", "two"];
    let more = ["--timeout", "3s"];
    let (status, errors, most, tally) = under_load(&site, &[&arguments[..], &more].concat()).await;
    assert_eq!(status, Some(1), "{errors}");
    assert!(errors.contains("is not healthy after 3s"), "{errors}");
    assert_whole("two", &tally);
    assert!(most <= 3, "{most} processes");
    assert_eq!(site.state("one").await, "current");
    assert_eq!(instances(&site, "one").await, 2);
    wait_for("nothing of it is left", SOON, async || {
        (site.state("two").await == "none").then_some(())
    })
    .await;
    let response = site.gateway.get("/").await;
    assert_eq!(response.header("x-release"), Some("one"));
}

/// While the current release is down, the one before serves until a fix does.
#[tokio::test]
async fn a_fix_replaces_a_release_that_is_down() {
    let site = site(2, "      overlap: one").await;
    let (one, two, three) = (release(20), release(20), release(20));
    for (name, folder) in [("one", &one), ("two", &two)] {
        site.run(&["deploy", "web", text(folder.path()), "--name", name])
            .await;
    }
    site.end_instances("two").await;
    wait_for("the release before serves", SOON, async || {
        let response = site.gateway.get("/").await;
        (response.header("x-release") == Some("one")).then_some(())
    })
    .await;
    let (status, errors, most, tally) = deploy(&site, three.path(), "three").await;
    assert_eq!(status, Some(0), "{errors}");
    assert_whole("three", &tally);
    assert!(most <= 3, "{most} processes");
    assert_eq!(instances(&site, "three").await, 2);
    assert_eq!(instances(&site, "two").await, 0);
    let response = site.gateway.get("/").await;
    assert_eq!(response.header("x-release"), Some("three"));
    // What stands in ends by command all the same.
    site.end_instances("three").await;
    assert_eq!(instances(&site, "one").await, 1);
    site.run(&["deploys", "web", "--stop"]).await;
    let folder = site.folder.path().canonicalize().expect("it is there");
    assert_eq!(processes(&folder), 0);
}

#[tokio::test]
async fn a_canary_needs_both_releases_whole() {
    let site = site(2, "      overlap: one").await;
    let (one, two) = (release(0), release(0));
    site.run(&["deploy", "web", text(one.path()), "--name", "one"])
        .await;
    let canary = ["deploy", "web", text(two.path()), "--canary", "5%"];
    let ran = edgeway(&site.gateway, &canary).await;
    assert_eq!(ran.status, Some(1));
    assert!(ran.stderr.contains("`overlap: one`"), "{}", ran.stderr);
    assert_eq!(site.releases().await.len(), 1);
}
