//! The end of what releases have started: instances, and the process that ends replaced ones.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: what goes wrong here fails the test"
)]

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::releases::{end_retiring, processes};
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

/// Waits for the end of all supervisors: one that has given its lock back still has to exit.
async fn supervisors_end(folder: &Path) {
    wait_for("no supervisor runs", SOON, async || {
        supervisors(folder).is_empty().then_some(())
    })
    .await;
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
    assert!(top.contains("release two"), "{top}");
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
    supervisors_end(site.folder.path()).await;
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
    supervisors_end(site.folder.path()).await;
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
    // Another one may wait for its place.
    end_retiring(site.gateway.admin_socket());
    let child = std::process::Command::new(env!("CARGO_BIN_EXE_edgeway"))
        .args(["retire-releases", "web", "--patience", "1s"])
        .args(["--socket", site.gateway.admin_socket()])
        .stdin(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let process = child.id();
    // The status may name the one that was killed for a moment.
    wait_for("the new process ends releases", SOON, async || {
        (retiring(site).await == process).then_some(())
    })
    .await;
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

/// Deploys a release whose app begins with `more`.
async fn deploy(site: &Site, name: &str, more: &str, behaviour: Behaviour) {
    let release = tried_app(behaviour);
    let app = release.path().join("server.js");
    let serves = fs::read_to_string(&app).unwrap();
    fs::write(&app, format!("{more}\n{serves}")).unwrap();
    let folder = release.path().to_str().unwrap();
    site.run(&["deploy", "web", folder, "--name", name]).await;
}

/// Returns the states of the backends of a release.
async fn states(site: &Site, release: &str) -> Vec<String> {
    let status = site.gateway.status().await;
    let backends = status["upstreams"][0]["backends"].as_array().unwrap();
    let own = backends.iter().filter(|it| it["release"] == release);
    let states = own.map(|it| it["state"].as_str().unwrap().to_owned());
    states.collect()
}

/// Invariant: the process that ends releases ends no instance whose release is the current one again,
/// though it has begun with that.
#[tokio::test]
async fn an_instance_that_is_being_ended_is_kept_by_a_rollback() {
    let more = "      start: [node, server.js]\n      linger: 1s\n      instances: 2";
    let site = Site::start_app("/health", more).await;
    let slow = Behaviour {
        delay: Duration::from_secs(12),
        ..Behaviour::default()
    };
    deploy(&site, "one", "", slow).await;
    let request = get("/");
    let in_flight = client::send(site.gateway.address(), &request);
    let rolled_back = async {
        wait_for("the request is in flight", SOON, async || {
            let status = site.gateway.status().await;
            let mut backends = status["upstreams"][0]["backends"].as_array()?.iter();
            backends.any(|it| it["in_flight"] == 1).then_some(())
        })
        .await;
        deploy(&site, "two", "", Behaviour::default()).await;
        wait_for("an instance of it is drained", SOON, async || {
            let states = states(&site, "one").await;
            states.iter().any(|state| state == "draining").then_some(())
        })
        .await;
        site.run(&["rollback", "web"]).await;
        assert_eq!(states(&site, "one").await, ["healthy", "healthy"]);
    };
    let (response, ()) = tokio::join!(in_flight, rolled_back);
    assert_eq!(response.unwrap().header("x-release"), Some("one"));
    wait_for("the other one has ended", SOON, async || {
        (site.state("two").await == "stopped").then_some(())
    })
    .await;
    assert_eq!(states(&site, "one").await, ["healthy", "healthy"]);
    assert_eq!(serving(&site.gateway).await.as_deref(), Some("one"));
    let mut running = processes(site.folder.path());
    running.sort_unstable();
    assert_eq!(running, ["one", "one"]);
}

/// Invariant: a release that was stopped can be gone back to, though its start takes longer than the
/// process that ends releases waits between two looks.
#[tokio::test]
async fn a_rollback_to_a_stopped_release_is_not_undone() {
    let more = "      start: [node, server.js]\n      linger: 3s\n      keep: 4";
    let site = Site::start_app("/health", more).await;
    let slow_later = "
const listen = require('node:http').Server.prototype.listen;
let wait = 0;
try { require('node:fs').mkdirSync('started'); } catch { wait = 7000; }
require('node:http').Server.prototype.listen = function (...given) {
  setTimeout(() => listen.apply(this, given), wait);
};";
    deploy(&site, "one", slow_later, Behaviour::default()).await;
    deploy(&site, "two", "", Behaviour::default()).await;
    wait_for("it has ended", SOON, async || {
        (site.state("one").await == "stopped").then_some(())
    })
    .await;
    deploy(&site, "three", "", Behaviour::default()).await;
    site.run(&["rollback", "web", "one"]).await;
    assert_eq!(serving(&site.gateway).await.as_deref(), Some("one"));
    assert_eq!(states(&site, "one").await, ["healthy"]);
}

/// Invariant: a deploy takes no port of an instance that is still being stopped.
#[tokio::test]
async fn a_deploy_leaves_the_port_of_an_instance_that_is_being_stopped() {
    let more = "      start: [node, server.js]\n      linger: 0s";
    let site = Site::start_app("/health", more).await;
    let ends_late = "process.on('SIGTERM', () => setTimeout(() => process.exit(), 6000));
const listen = require('node:http').Server.prototype.listen;
require('node:http').Server.prototype.listen = function (...given) {
  process.on('SIGTERM', () => this.close());
  return listen.apply(this, given);
};";
    deploy(&site, "one", ends_late, Behaviour::default()).await;
    deploy(&site, "two", "", Behaviour::default()).await;
    wait_for("its backend is removed", SOON, async || {
        states(&site, "one").await.is_empty().then_some(())
    })
    .await;
    assert_eq!(site.state("one").await, "lingers");
    deploy(&site, "three", "", Behaviour::default()).await;
    assert_eq!(serving(&site.gateway).await.as_deref(), Some("three"));
}

/// Invariant: what was started under an earlier configuration is listed and ends, and a reload says
/// what no command reaches any more.
#[tokio::test]
async fn instances_of_an_earlier_configuration_are_ended() {
    let more = "      start: [node, server.js]\n      linger: 3s";
    let site = Site::start_app("/health", more).await;
    let file = site.gateway.folder().join("edgeway.yaml");
    let written = fs::read_to_string(&file).unwrap();
    let reload = async |from: &str, to: &str| {
        fs::write(&file, written.replace(from, to)).unwrap();
        let ran = edgeway(&site.gateway, &["reload"]).await;
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        ran.stderr
    };
    let folder = site.folder.path().to_str().unwrap();
    let lost = format!("upstream `web` has 1 instance of releases in `{folder}`");
    deploy(&site, "one", "", Behaviour::default()).await;
    let first = crate::support::ports::free_ports(8);
    let others = format!("ports: {first}-{} #", first + 7);
    let message = reload("ports: ", &others).await;
    assert!(!message.contains(&lost), "{message}");
    deploy(&site, "two", "", Behaviour::default()).await;
    wait_for("it has ended", SOON, async || {
        (site.state("one").await == "stopped").then_some(())
    })
    .await;
    assert_eq!(processes(site.folder.path()), ["two"]);
    let elsewhere = tempfile::tempdir().unwrap();
    let message = reload(folder, elsewhere.path().to_str().unwrap()).await;
    assert!(message.contains(&lost), "{message}");
    reload("", "").await;
    site.run(&["deploys", "web", "--stop"]).await;
    assert_eq!(processes(site.folder.path()), [""; 0]);
}

/// Invariant: a deploy whose program is replaced meanwhile ends well, with all of its processes.
#[tokio::test]
async fn a_deploy_outlives_the_file_of_its_program() {
    let more = "      start: [node, server.js]\n      linger: 1h\n      instances: 2";
    let site = Site::start_app("/health", more).await;
    deploy(&site, "one", "", Behaviour::default()).await;
    let program = Path::new(env!("CARGO_BIN_EXE_edgeway")).with_extension("replaced");
    drop(fs::remove_file(&program));
    fs::hard_link(env!("CARGO_BIN_EXE_edgeway"), &program).unwrap();
    let release = tried_app(Behaviour::default());
    let running = tokio::process::Command::new(&program)
        .args(["deploy", "web", "--name", "two"])
        .arg(release.path())
        .env("EDGEWAY_ADMIN_SOCKET", site.gateway.admin_socket())
        .stdin(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("an instance of it runs", SOON, async || {
        let running = processes(site.folder.path());
        running.contains(&"two".to_owned()).then_some(())
    })
    .await;
    fs::remove_file(&program).unwrap();
    let ran = running.wait_with_output().await.unwrap();
    let errors = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{errors}");
    assert_eq!(states(&site, "two").await, ["healthy", "healthy"]);
    retiring(&site).await;
}

/// Replacement for `systemctl`, whose units cannot be stopped while there is a file `denied`.
const SYSTEMCTL: &str = "#!/bin/sh
port=${4#web@}
port=${port%.service}
cd -P FOLDER/instances/$port
case $2 in
start)
  export PORT=$port HOST=127.0.0.1 EDGEWAY_RELEASE=$(basename $PWD)
  setsid timeout 120 node server.js >/dev/null 2>&1 </dev/null &
  echo $! >FOLDER/.state/$port
  ;;
stop)
  [ -e FOLDER/.state/denied ] && { echo 'Access denied' >&2; exit 4; }
  kill $(cat FOLDER/.state/$port)
  ;;
esac
";

/// Invariant: a release whose instances cannot be stopped is listed as such, and no instance keeps
/// another one from its end.
#[tokio::test]
async fn an_instance_that_cannot_be_stopped_is_listed_and_tried_again() {
    let more = "      unit: web@{port}.service\n      linger: 0s";
    let site = Site::start_app("/health", more).await;
    let folder = site.folder.path();
    let tools = tempfile::tempdir().unwrap();
    let systemctl = tools.path().join("systemctl");
    let script = SYSTEMCTL.replace("FOLDER", folder.to_str().unwrap());
    fs::write(&systemctl, script).unwrap();
    fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", tools.path().display());
    let run = async |arguments: &[&str]| {
        let ran = tokio::process::Command::new(env!("CARGO_BIN_EXE_edgeway"))
            .args(arguments)
            .env("EDGEWAY_ADMIN_SOCKET", site.gateway.admin_socket())
            .env("PATH", &path)
            .output()
            .await;
        let ran = ran.unwrap();
        (ran.status.code(), String::from_utf8(ran.stderr).unwrap())
    };
    let release = tried_app(Behaviour::default());
    let release = release.path().to_str().unwrap();
    let (status, errors) = run(&["deploy", "web", release, "--name", "one"]).await;
    assert_eq!(status, Some(0), "{errors}");
    let denied = folder.join(".state/denied");
    fs::write(&denied, "").unwrap();
    let (status, errors) = run(&["deploy", "web", release, "--name", "two"]).await;
    assert_eq!(status, Some(0), "{errors}");
    wait_for("its backend is removed", SOON, async || {
        states(&site, "one").await.is_empty().then_some(())
    })
    .await;
    let list = site.run(&["deploys", "web"]).await;
    assert!(list.contains("one  lingers, being stopped"), "{list}");
    let (status, errors) = run(&["deploys", "web", "--stop"]).await;
    assert_eq!(status, Some(1));
    assert_eq!(errors.matches("Access denied").count(), 2, "{errors}");
    let (status, errors) = run(&["switch", "web", "two"]).await;
    assert_eq!(status, Some(0), "{errors}");
    fs::remove_file(&denied).unwrap();
    wait_for("it has ended", SOON, async || {
        (site.state("one").await == "stopped").then_some(())
    })
    .await;
    let (status, errors) = run(&["deploys", "web", "--stop"]).await;
    assert_eq!(status, Some(0), "{errors}");
    wait_for("nothing is left", SOON, async || {
        processes(folder).is_empty().then_some(())
    })
    .await;
}
