//! The end of what releases have started: instances, and the process that ends replaced ones.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: what goes wrong here fails the test"
)]

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::releases::processes;
use crate::support::{
    client::{self, get},
    fleet::edgeway,
    gateway::{Gateway, is_alive},
    releases::{Behaviour, Site, tried_app},
    wait::wait_for,
};

const SOON: Duration = Duration::from_secs(20);

/// Starts a site with two releases, of which the first lingers.
async fn site() -> Site {
    let more = "      start: [node, server.js]\n      linger: 1h";
    let site = Site::start_app("/health", more).await;
    for name in ["one", "two"] {
        let release = tried_app(Behaviour::default());
        let folder = release.path().to_str().unwrap();
        site.run(&["deploy", "web", folder, "--name", name]).await;
    }
    site
}

/// Returns the process that ends releases, once it runs.
async fn retiring(site: &Site) -> u32 {
    wait_for("a process ends releases", SOON, async || {
        let status = site.gateway.status().await;
        status["upstreams"][0]["retiring"].as_u64()?.try_into().ok()
    })
    .await
}

async fn ends(process: u32) {
    wait_for("the process has ended", SOON, async || {
        (!is_alive(process)).then_some(())
    })
    .await;
}

/// Returns the ids of the supervisors that run.
fn supervisors(folder: &Path) -> Vec<u32> {
    let entries = fs::read_dir(folder.join(".state")).unwrap().flatten();
    let files = entries.map(|entry| entry.path());
    let files = files.filter(|path| path.extension().is_some_and(|it| it == "pid"));
    let ids = files.filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
    ids.filter(|id| is_alive(*id)).collect()
}

fn signal(process: u32, signal: Signal) {
    let id = Pid::from_raw(process.cast_signed()).unwrap();
    kill_process(id, signal).unwrap();
}

async fn serving(gateway: &Gateway) -> Option<String> {
    let response = client::send(gateway.address(), &get("/")).await.unwrap();
    response.header("x-release").map(str::to_owned)
}

/// Invariant: `--stop` leaves no process of the releases behind, with the gateway and without it, and
/// a release that was stopped can be started again.
#[tokio::test]
async fn what_releases_have_started_is_stopped() {
    let mut site = site().await;
    let process = retiring(&site).await;
    // It is seen with the release that it ends.
    let status = site.run(&["status"]).await;
    assert!(
        status.contains(&format!("web       one       process {process}\n")),
        "{status}"
    );
    assert!(status.contains("release two"), "{status}");
    let top = site.run(&["top", "--once"]).await;
    let line = top
        .lines()
        .find(|line| line.contains("ends releases of web: one"));
    assert!(
        line.is_some_and(|line| line.contains(&process.to_string())),
        "{top}"
    );
    assert_eq!(supervisors(site.folder.path()).len(), 2);

    let ran = edgeway(&site.gateway, &["deploys", "web", "--stop"]).await;
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("`edgeway switch web two`"),
        "{}",
        ran.stderr
    );
    ends(process).await;
    assert_eq!(supervisors(site.folder.path()), [0; 0]);
    let status = site.gateway.status().await;
    assert_eq!(
        status["upstreams"][0]["backends"].as_array().unwrap().len(),
        0
    );
    assert_eq!(serving(&site.gateway).await, None);
    let list = site.run(&["deploys", "web"]).await;
    assert!(
        list.contains("two  current") && list.contains("one  stopped"),
        "{list}"
    );

    site.run(&["switch", "web", "two"]).await;
    assert_eq!(serving(&site.gateway).await.as_deref(), Some("two"));
    assert_eq!(supervisors(site.folder.path()).len(), 1);
    // The gateway ends, and its instances go on.
    site.gateway.terminate(SOON).await;
    assert_eq!(supervisors(site.folder.path()).len(), 1);
    let stop = ["deploys", "web", "--stop", "--config", "edgeway.yaml"];
    let ran = edgeway(&site.gateway, &stop).await;
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert_eq!(supervisors(site.folder.path()), [0; 0]);
    let other = ["deploys", "other", "--stop", "--config", "edgeway.yaml"];
    let ran = edgeway(&site.gateway, &other).await;
    assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("no upstream `other` with `releases`"),
        "{}",
        ran.stderr
    );
}

/// Begins a process that ends releases in the place of the one that runs, with less patience.
async fn begin_again(site: &Site) -> (u32, std::process::Child) {
    let before = retiring(site).await;
    signal(before, Signal::TERM);
    ends(before).await;
    let child = std::process::Command::new(env!("CARGO_BIN_EXE_edgeway"))
        .args(["retire-releases", "web", "--patience", "1s"])
        .args(["--socket", site.gateway.admin_socket()])
        .stdin(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let process = retiring(site).await;
    assert_eq!(process, child.id());
    (process, child)
}

/// Invariant: the process goes on while there are a gateway and a folder, and ends without either.
#[tokio::test]
async fn the_process_that_ends_releases_ends_without_its_gateway_or_its_folder() {
    let mut without_gateway = site().await;
    let without_folder = site().await;
    let (_, mut first) = begin_again(&without_gateway).await;
    let (_, mut second) = begin_again(&without_folder).await;
    // An upgrade takes less than its patience.
    without_gateway.gateway.upgrade().await;
    let is_over = |child: &mut std::process::Child| child.try_wait().unwrap();
    crate::support::wait::pass(Duration::from_secs(2)).await;
    assert_eq!((is_over(&mut first), is_over(&mut second)), (None, None));
    without_gateway.gateway.terminate(SOON).await;
    let moved = without_folder.folder.path().with_extension("moved");
    fs::rename(without_folder.folder.path(), &moved).unwrap();
    for child in [&mut first, &mut second] {
        wait_for("it has ended", SOON, async || is_over(child)).await;
    }
    assert!(
        !without_folder.folder.path().exists(),
        "it made the folder again"
    );
    fs::rename(&moved, without_folder.folder.path()).unwrap();
}

/// Invariant: the process outlives a gateway that runs as a service, and ends with one in a terminal.
#[tokio::test]
async fn the_process_that_ends_releases_ends_with_a_gateway_in_a_terminal() {
    let mut site = site().await;
    let process = retiring(&site).await;
    site.gateway.terminate(SOON).await;
    assert!(is_alive(process));
    let in_terminal = site.gateway.folder().join("in-terminal");
    let program = env!("CARGO_BIN_EXE_edgeway");
    let script = format!("#!/bin/sh\nexec script -qec \"{program} $*\" /dev/null\n");
    fs::write(&in_terminal, script).unwrap();
    fs::set_permissions(&in_terminal, fs::Permissions::from_mode(0o755)).unwrap();
    site.gateway.set_program(&in_terminal);
    site.gateway.start_again(&[], &[]).await;
    assert_eq!(retiring(&site).await, process);
    site.gateway.terminate(SOON).await;
    ends(process).await;
}

/// Invariant: an app behind a program that ends before it, as `npm` does, has its time to end, and
/// ends before another one is started: after a stop, without that program, and without supervisor.
#[tokio::test]
async fn an_app_that_outlives_its_first_process_has_its_time_to_end() {
    let site = Site::start_app("/health", "      start: [sh, start.sh]").await;
    let release = tried_app(Behaviour::default());
    let app = release.path().join("server.js");
    let serves = fs::read_to_string(&app).unwrap();
    let ends = "process.on('SIGTERM', () => setTimeout(() => {
  require('node:fs').writeFileSync('flushed', '');
  process.exit();
}, 1500));
require('node:fs').writeFileSync('app.pid', String(process.pid));";
    fs::write(&app, format!("{ends}{serves}")).unwrap();
    let first = "echo $$ > first.pid\nnode server.js &\nwait\n";
    fs::write(release.path().join("start.sh"), first).unwrap();
    let folder = release.path().to_str().unwrap();
    site.run(&["deploy", "web", folder, "--name", "one"]).await;
    let file = |name: &str| site.folder.path().join("one").join(name);
    let id = |name| -> u32 {
        fs::read_to_string(file(name))
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    };

    let before = id("app.pid");
    signal(id("first.pid"), Signal::KILL);
    wait_for("another app serves", SOON, async || {
        let serves = serving(&site.gateway).await.is_some();
        (serves && id("app.pid") != before).then_some(())
    })
    .await;
    fs::remove_file(file("flushed")).expect("it had its time");
    assert!(!is_alive(before));

    signal(supervisors(site.folder.path())[0], Signal::KILL);
    wait_for("nothing is left", SOON, async || {
        processes(site.folder.path()).is_empty().then_some(())
    })
    .await;
    fs::remove_file(file("flushed")).expect("it had its time");

    site.run(&["resume", "web"]).await;
    assert_eq!(serving(&site.gateway).await.as_deref(), Some("one"));
    site.run(&["deploys", "web", "--stop"]).await;
    assert_eq!(processes(site.folder.path()), [""; 0]);
    fs::remove_file(file("flushed")).expect("it had its time");
}

/// Invariant: instances whose backends the gateway has lost are listed, and end in their time.
#[tokio::test]
async fn instances_that_the_gateway_has_lost_are_ended() {
    let site = Site::start_app(
        "/health",
        "      start: [node, server.js]\n      linger: 6s",
    )
    .await;
    let release = tried_app(Behaviour::default());
    let folder = release.path().to_str().unwrap();
    site.run(&["deploy", "web", folder, "--name", "one"]).await;
    let status = site.gateway.status().await;
    let address = status["upstreams"][0]["backends"][0]["address"].as_str();
    let address = address.unwrap().to_owned();
    site.run(&["deploy", "web", folder, "--name", "two"]).await;
    site.run(&["upstream", "remove", "web", &address, "--force"])
        .await;
    assert_eq!(site.state("one").await, "lingers");
    wait_for("it has ended", SOON, async || {
        (site.state("one").await == "stopped").then_some(())
    })
    .await;
    assert_eq!(supervisors(site.folder.path()).len(), 1);
}
