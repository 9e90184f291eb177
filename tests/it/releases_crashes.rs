//! Deploys that are killed, refused and repeated, as teams do it.
//!
//! Invariant: whatever was tried before, the current release serves, what did not become one leaves
//! neither processes nor files behind once the next command has run, and a good deploy succeeds.
#![allow(
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "helpers of tests: what goes wrong here fails the test, and says so"
)]

use std::{collections::BTreeSet, fs, path::Path, pin::pin, time::Duration};

use rustix::process::{Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    client::{self, get},
    fleet::{Running, begin, edgeway},
    gateway::Gateway,
    releases::{Behaviour, Site, all_processes, end_retiring, processes, tried_app},
    seed,
    wait::{pass, wait_for},
};

const SOON: Duration = Duration::from_secs(30);
const INSTANCES: usize = 2;

/// Number of things that a team does.
fn actions() -> usize {
    let given = std::env::var("EDGEWAY_DEPLOYS_COUNT").ok();
    given.map_or(6, |count| count.parse().unwrap())
}

async fn site(more: &str) -> Site {
    let start = "      start: [node, server.js]\n      keep: 2";
    Site::start_in(
        "profiles: { peak: { cache: { stale_while_revalidate: 30min } } }",
        "/health",
        &format!("{start}\n      instances: {INSTANCES}\n{more}"),
        |_| (),
    )
    .await
}

fn release() -> TempDir {
    tried_app(Behaviour::default())
}

/// Makes a release whose app ends at once.
fn broken() -> TempDir {
    let broken = release();
    fs::write(broken.path().join("server.js"), "process.exit(1);\n").unwrap();
    broken
}

/// Makes a release whose app never listens, so that its deploy does not end.
fn hanging() -> TempDir {
    let hanging = release();
    fs::write(
        hanging.path().join("server.js"),
        "setInterval(() => {}, 1000);\n",
    )
    .unwrap();
    hanging
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the path is text")
}

/// Returns the folders of releases, also of unfinished copies.
fn folders(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    names
        .filter(|name| !matches!(name.as_str(), "instances" | ".state"))
        .collect()
}

async fn serving(gateway: &Gateway) -> Option<String> {
    let response = client::send(gateway.address(), &get("/")).await.ok()?;
    let release = response.header("x-release")?.to_owned();
    (response.status() == 200).then_some(release)
}

/// A team with a site, which does one thing after the other.
struct Team {
    site: Site,
    draw: fastrand::Rng,
    next: u32,
    /// Releases that were current ones, the latest last.
    current: Vec<String>,
}

impl Team {
    fn name(&mut self) -> String {
        self.next += 1;
        format!("r{}", self.next)
    }

    async fn deploy(&mut self, folder: &TempDir, more: &[&str]) -> (String, Option<i32>, String) {
        let name = self.name();
        let arguments = ["deploy", "web", text(folder.path()), "--name", &name];
        let ran = edgeway(&self.site.gateway, &[&arguments[..], more].concat()).await;
        (name, ran.status, ran.stderr)
    }

    async fn deploy_well(&mut self) {
        let (name, status, errors) = self.deploy(&release(), &[]).await;
        assert_eq!(status, Some(0), "{name}: {errors}");
        self.current.push(name);
    }

    /// Kills a deploy at a drawn moment. It may have come to its end.
    async fn kill_a_deploy(&mut self, more: &[&str]) {
        let (name, _folder, running) = self.begin(more);
        pass(Duration::from_millis(self.draw.u64(..2500))).await;
        drop(running);
        pass(Duration::from_millis(200)).await;
        if self.current_of_gateway().await == name {
            self.current.push(name);
        }
    }

    /// Starts a deploy that does not fail by itself.
    fn begin(&mut self, more: &[&str]) -> (String, TempDir, Running) {
        let (folder, name) = (release(), self.name());
        let arguments = ["deploy", "web", text(folder.path()), "--name", &name];
        let running = begin(&self.site.gateway, &[&arguments[..], more].concat());
        (name, folder, running)
    }

    async fn current_of_gateway(&self) -> String {
        let status = self.site.gateway.status().await;
        let current = status["upstreams"][0]["current_release"].as_str();
        current.unwrap().to_owned()
    }

    async fn fail(&mut self, folder: &TempDir, more: &[&str]) {
        let (name, status, errors) = self.deploy(folder, more).await;
        assert_eq!(status, Some(1), "{name}: {errors}");
    }

    async fn deploy_twice(&mut self) {
        let (one, _one, first) = self.begin(&[]);
        let (two, _two, second) = self.begin(&[]);
        let (first, second) = tokio::join!(first.end(), second.end());
        let errors = format!("{} {}", first.stderr, second.stderr);
        match (first.status, second.status) {
            (Some(0), Some(1)) => self.current.push(one),
            (Some(1), Some(0)) => self.current.push(two),
            _ => panic!("{errors}"),
        }
        assert!(
            errors.contains("another deploy of this upstream"),
            "{errors}"
        );
    }

    async fn roll_back(&mut self) {
        let ran = edgeway(&self.site.gateway, &["rollback", "web"]).await;
        let now = self.current_of_gateway().await;
        if ran.status == Some(0) && self.current.last() != Some(&now) {
            self.current.push(now);
        }
    }

    /// Removes the folder of a release that is not the current one.
    fn remove_a_folder(&mut self) {
        let all = folders(self.site.folder.path());
        let now = self.current.last().unwrap();
        if let Some(other) = all.iter().find(|name| *name != now) {
            fs::remove_dir_all(self.site.folder.path().join(other)).unwrap();
        }
    }

    async fn upgrade_meanwhile(&mut self) {
        let (name, _folder, running) = self.begin(&[]);
        pass(Duration::from_millis(self.draw.u64(..1500))).await;
        self.site.gateway.upgrade().await;
        let ran = running.end().await;
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        self.current.push(name);
    }

    /// Replaces the configuration at drawn moments while a release is deployed.
    async fn reconfigure_meanwhile(&mut self) {
        let (name, _folder, running) = self.begin(&[]);
        let mut end = pin!(running.end());
        let ran = loop {
            let mut other = pin!(self.reconfigure());
            tokio::select! {
                ran = &mut end => {
                    other.await;
                    break ran;
                }
                () = &mut other => (),
            }
        };
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        self.current.push(name);
    }

    async fn reconfigure(&mut self) {
        pass(Duration::from_millis(self.draw.u64(..300))).await;
        let lines: [&[&str]; 3] = [&["profile", "peak"], &["profile", "--off"], &["reload"]];
        self.site.run(lines[self.draw.usize(..3)]).await;
    }

    /// Replaces the configuration while a release is on trial, which continues.
    async fn reconfigure_in_a_trial(&mut self) {
        let (name, _folder, running) = self.begin(&["--canary", "20%"]);
        wait_for("the trial begins", SOON, async || {
            self.is_on_trial(&name).await.then_some(())
        })
        .await;
        for _ in 0..5 {
            self.reconfigure().await;
            assert!(self.is_on_trial(&name).await);
        }
        self.end_the_trial(&name, running).await;
    }

    /// Ends a trial, and waits until the release has gone.
    async fn end_the_trial(&self, name: &str, deploy: Running) {
        self.site.run(&["rollback", "web"]).await;
        assert_eq!(deploy.end().await.status, Some(1));
        let folder = self.site.folder.path();
        wait_for(
            &format!("the instances of `{name}` have ended"),
            SOON,
            async || (!processes(folder).iter().any(|it| it == name)).then_some(()),
        )
        .await;
    }

    async fn is_on_trial(&self, name: &str) -> bool {
        self.site.gateway.status().await["upstreams"][0]["canary"]["release"] == name
    }

    /// Kills the gateway while a release is deployed.
    async fn kill_the_gateway(&mut self) {
        let (name, _folder, running) = self.begin(&[]);
        pass(Duration::from_millis(self.draw.u64(..1500))).await;
        self.site.gateway.start_again(&[], &[]).await;
        let ran = running.end().await;
        let is_current = self.current_of_gateway().await == name;
        assert_eq!(ran.status == Some(0), is_current, "{}", ran.stderr);
        if is_current {
            self.current.push(name);
        }
    }

    /// Deploys while a release is on trial, and ends the trial.
    async fn deploy_during_a_trial(&mut self) {
        let (name, _folder, running) = self.begin(&["--canary", "20%"]);
        wait_for("the trial begins", SOON, async || {
            self.is_on_trial(&name).await.then_some(())
        })
        .await;
        let (_, status, errors) = self.deploy(&release(), &[]).await;
        assert_eq!(status, Some(1), "a deploy during a trial: {errors}");
        assert!(errors.contains("rollback web"), "{errors}");
        self.end_the_trial(&name, running).await;
    }

    /// Kills the gateway while a release is on trial, which continues.
    async fn kill_the_gateway_in_a_trial(&mut self) {
        let (name, _folder, running) = self.begin(&["--canary", "20%"]);
        wait_for("the trial begins", SOON, async || {
            self.is_on_trial(&name).await.then_some(())
        })
        .await;
        self.site.gateway.start_again(&[], &[]).await;
        wait_for("the trial continues", SOON, async || {
            self.is_on_trial(&name).await.then_some(())
        })
        .await;
        self.end_the_trial(&name, running).await;
    }

    /// Deploys a build that the gateway cannot read.
    async fn break_the_build(&mut self) {
        let folder = release();
        fs::write(folder.path().join(".next/routes-manifest.json"), "{").unwrap();
        let (name, status, errors) = self.deploy(&folder, &[]).await;
        assert_eq!(status, Some(1), "{name}: {errors}");
        assert!(errors.contains("has not read release"), "{errors}");
    }

    /// Deploys what cannot be written to its end, as on a disk that is full.
    async fn fill_the_disk(&mut self) {
        let (folder, name) = (release(), self.name());
        fs::write(folder.path().join("large"), vec![0; 1 << 20]).unwrap();
        let script = "ulimit -f 64; trap '' XFSZ; exec \"$@\"";
        let program = env!("CARGO_BIN_EXE_edgeway");
        let ran = tokio::process::Command::new("sh")
            .args(["-c", script, "sh", program, "deploy", "web"])
            .arg(folder.path())
            .args(["--name", &name])
            .env("EDGEWAY_ADMIN_SOCKET", self.site.gateway.admin_socket())
            .output()
            .await
            .unwrap();
        let errors = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(1), "{errors}");
        assert!(errors.contains("cannot copy"), "{errors}");
    }

    /// Waits until the releases that were replaced do not run any more: they need ports.
    async fn settle(&self) {
        let folder = self.site.folder.path();
        wait_for("replaced releases have ended", SOON, async || {
            let releases = self.site.releases().await;
            let lingers = releases
                .iter()
                .any(|it| it["state"] == "lingers" && !it["until"].is_null());
            (!lingers && processes(folder).len() <= 2 * INSTANCES).then_some(())
        })
        .await;
    }

    async fn act(&mut self) -> &'static str {
        const ALL: [&str; 18] = [
            "good",
            "broken",
            "killed",
            "killed",
            "killed",
            "killed canary",
            "no build",
            "twice",
            "rollback",
            "folder removed",
            "upgrade",
            "reconfigured",
            "reconfigured in a trial",
            "canary",
            "gateway killed",
            "gateway killed in a trial",
            "build unreadable",
            "disk full",
        ];
        self.settle().await;
        let what = ALL[self.draw.usize(..ALL.len())];
        eprintln!("{what}");
        match what {
            "good" => self.deploy_well().await,
            "broken" => self.fail(&broken(), &["--timeout", "2s"]).await,
            "killed" => self.kill_a_deploy(&[]).await,
            "killed canary" => self.kill_a_deploy(&["--canary", "20%"]).await,
            "no build" => self.fail(&tempfile::tempdir().unwrap(), &[]).await,
            "twice" => self.deploy_twice().await,
            "rollback" => self.roll_back().await,
            "folder removed" => self.remove_a_folder(),
            "upgrade" => self.upgrade_meanwhile().await,
            "reconfigured" => self.reconfigure_meanwhile().await,
            "reconfigured in a trial" => self.reconfigure_in_a_trial().await,
            "canary" => self.deploy_during_a_trial().await,
            "gateway killed" => self.kill_the_gateway().await,
            "gateway killed in a trial" => self.kill_the_gateway_in_a_trial().await,
            "build unreadable" => self.break_the_build().await,
            _ => self.fill_the_disk().await,
        }
        // A trial that was left behind keeps others from deploying, as it says.
        let status = self.site.gateway.status().await;
        if status["upstreams"][0]["canary"].is_object() {
            self.site.run(&["rollback", "web"]).await;
        }
        what
    }
}

#[tokio::test]
async fn deploys_that_fail_in_any_way_leave_nothing_behind() {
    let seed = seed::drawn();
    let site = site("      linger: 1s").await;
    let mut team = Team {
        site,
        draw: fastrand::Rng::with_seed(seed),
        next: 0,
        current: Vec::new(),
    };
    team.deploy_well().await;
    let mut done = Vec::new();
    for _ in 0..actions() {
        done.push(team.act().await);
        let now = team.current.last().unwrap().clone();
        wait_for(
            &format!("`{now}` serves after {done:?}"),
            SOON,
            async || (serving(&team.site.gateway).await? == now).then_some(()),
        )
        .await;
    }
    team.deploy_well().await;
    let now = team.current.last().unwrap().clone();
    let folder = team.site.folder.path();
    wait_for(
        &format!("one release runs after {done:?}"),
        SOON,
        async || {
            let running = processes(folder);
            let is_current = running.iter().all(|own| *own == now);
            (is_current && running.len() == INSTANCES).then_some(())
        },
    )
    .await;
    wait_for(
        &format!("all folders are recorded after {done:?}"),
        SOON,
        async || {
            let text = fs::read_to_string(folder.join(".state/releases.json")).unwrap();
            let state: Value = serde_json::from_str(&text).unwrap();
            let known = state["releases"].as_object().unwrap().keys();
            known.eq(&folders(folder)).then_some(())
        },
    )
    .await;
    let listed = team.site.releases().await;
    assert_eq!(listed.len(), folders(folder).len(), "{listed:?}");
}

/// Invariant: the releases in a folder are those of one gateway; another one changes nothing of them.
#[tokio::test]
async fn a_folder_of_releases_belongs_to_one_gateway() {
    let site = site("      linger: 1h").await;
    let [one, two] = [release(), release()];
    site.run(&["deploy", "web", text(one.path()), "--name", "one"])
        .await;
    let first = crate::support::ports::free_ports(8);
    let other = Gateway::start(&format!(
        "
upstreams:
  web:
    app: nextjs
    health: {{ path: /health }}
    releases:
      folder: {}
      ports: {first}-{}
      start: [node, server.js]
routes: [{{ match: {{ path: /* }}, upstream: web }}]
",
        site.folder.path().display(),
        first + 7
    ))
    .await;
    for arguments in [
        &["deploy", "web", text(two.path()), "--name", "two"][..],
        &["switch", "web", "one"],
        &["rollback", "web"],
        &["resume", "web"],
        &["deploys", "web", "--stop"],
    ] {
        let ran = edgeway(&other, arguments).await;
        assert_eq!(ran.status, Some(1), "{arguments:?}");
        let why = "belong to the gateway that serves";
        assert!(ran.stderr.contains(why), "{}", ran.stderr);
    }
    assert_eq!(folders(site.folder.path()), ["one".to_owned()].into());
    assert_eq!(processes(site.folder.path()).len(), INSTANCES);
    // Control: the gateway itself goes on, also as another process.
    let mut site = site;
    site.gateway.upgrade().await;
    site.run(&["deploy", "web", text(two.path()), "--name", "two"])
        .await;
}

/// Invariant: after a reboot, `resume` brings back what served before, and what lingers; without it
/// nothing does.
#[tokio::test]
async fn instances_that_ended_with_the_machine_are_resumed() {
    let mut site = site("      linger: 1h").await;
    let [one, two, killed] = [release(), release(), hanging()];
    for (name, folder) in [("one", &one), ("two", &two)] {
        site.run(&["deploy", "web", text(folder.path()), "--name", name])
            .await;
    }
    let running = begin(
        &site.gateway,
        &["deploy", "web", text(killed.path()), "--name", "killed"],
    );
    let folder = site.folder.path().canonicalize().unwrap();
    wait_for("an instance of it runs", SOON, async || {
        processes(&folder)
            .contains(&"killed".to_owned())
            .then_some(())
    })
    .await;
    drop(running);
    wait_for("all processes have ended", SOON, async || {
        let left = all_processes(&folder);
        for id in &left {
            let _may_have_ended = kill_process(*id, Signal::KILL);
        }
        left.is_empty().then_some(())
    })
    .await;
    site.gateway.start_again(&[], &[]).await;
    let gone = client::send(site.gateway.address(), &get("/"))
        .await
        .unwrap();
    assert!(gone.status() >= 502, "{}", gone.status());
    assert_eq!(processes(&folder).len(), 0);
    let ran = edgeway(&site.gateway, &["resume", "web"]).await;
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert_eq!(serving(&site.gateway).await.as_deref(), Some("two"));
    let mut running = processes(&folder);
    running.sort_unstable();
    assert_eq!(running, ["one", "one", "two", "two"]);
    assert_eq!(site.state("one").await, "lingers");
    // What a killed deploy has drained or stopped comes back too, and what runs can be gone back to.
    let links = fs::read_dir(folder.join("instances")).unwrap().flatten();
    let links = links.filter(|link| fs::read_link(link.path()).unwrap().ends_with("two"));
    let ports: Vec<String> = links
        .map(|link| link.file_name().into_string().unwrap())
        .collect();
    let drained = format!("web/127.0.0.1:{}", ports[0]);
    site.run(&["drain", &drained]).await;
    fs::remove_file(folder.join("instances").join(&ports[1])).unwrap();
    let ran = edgeway(&site.gateway, &["resume", "web"]).await;
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert_eq!(processes(&folder).len(), 5);
    let two = site
        .releases()
        .await
        .into_iter()
        .find(|it| it["name"] == "two");
    assert_eq!(two.unwrap()["instances"], 3);
    site.run(&["rollback", "web"]).await;
    assert_eq!(serving(&site.gateway).await.as_deref(), Some("one"));
}

/// Runs a program while it holds a lock, as scripts do; fails if another one has it.
async fn alone(lock: &Path, gateway: &Gateway, line: &[&str]) -> bool {
    let ran = tokio::process::Command::new("flock")
        .args(["--nonblock", "--conflict-exit-code", "99"])
        .arg(lock)
        .args(line)
        .env("EDGEWAY_ADMIN_SOCKET", gateway.admin_socket())
        .output()
        .await
        .unwrap();
    let errors = String::from_utf8_lossy(&ran.stderr);
    assert!(matches!(ran.status.code(), Some(0 | 99)), "{errors}");
    ran.status.success()
}

/// Invariant: what a deploy leaves behind holds no file of its caller, such as the lock of a script.
#[tokio::test]
async fn scripts_that_deploy_under_a_lock_get_it_again() {
    let site = site("      linger: 1h").await;
    let folder = tempfile::tempdir().unwrap();
    let lock = folder.path().join("deploy.lock");
    let (one, two) = (release(), release());
    for (name, build) in [("one", &one), ("two", &two)] {
        let program = env!("CARGO_BIN_EXE_edgeway");
        let build = text(build.path());
        let line = [program, "deploy", "web", build, "--name", name];
        assert!(alone(&lock, &site.gateway, &line).await, "{name}");
    }
    assert_eq!(processes(site.folder.path()).len(), 2 * INSTANCES);
    assert!(alone(&lock, &site.gateway, &["true"]).await);
    // Control: any other process that is left behind keeps the lock.
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let mut holder = std::process::Command::new("flock")
        .arg(&lock)
        .args(["sh", "-c", "exec 9<&0; cat <&9 >&2 &"])
        .stdin(read)
        .spawn()
        .unwrap();
    holder.wait().unwrap();
    let is_free = alone(&lock, &site.gateway, &["true"]).await;
    drop(write);
    assert!(!is_free);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deploy_that_loses_its_gateway_keeps_no_port() {
    let mut site = site("").await;
    let deploy = |name| {
        let folder = release();
        let arguments = ["deploy", "web", text(folder.path()), "--name", name];
        let arguments = arguments.map(str::to_owned);
        (folder, arguments)
    };
    let backends = async |gateway: &Gateway| -> Vec<String> {
        let status = gateway.status().await;
        let all = status["upstreams"][0]["backends"].as_array().unwrap();
        let releases = all.iter().map(|backend| backend["release"].to_string());
        releases.collect()
    };
    let (_one, arguments) = deploy("one");
    site.run(&arguments.each_ref().map(|word| &**word)).await;
    let (_two, arguments) = deploy("two");
    let running = begin(&site.gateway, &arguments.each_ref().map(|word| &**word));
    wait_for("an instance is added", SOON, async || {
        let all = backends(&site.gateway).await;
        all.iter()
            .any(|release| release.contains("two"))
            .then_some(())
    })
    .await;
    site.gateway.signal(Signal::KILL);
    let ran = running.end().await;
    assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    site.gateway.start_again(&[], &[]).await;
    let (_three, arguments) = deploy("three");
    site.run(&arguments.each_ref().map(|word| &**word)).await;
    let all = backends(&site.gateway).await;
    assert!(
        !all.iter().any(|release| release.contains("two")),
        "{all:?}"
    );
}

/// Makes a release whose app takes the place of the state of the releases with a folder.
fn saboteur() -> TempDir {
    let saboteur = release();
    let server = saboteur.path().join("server.js");
    let app = fs::read_to_string(&server).unwrap();
    let act = "const state = '../.state/releases.json';\n\
               const { existsSync, mkdirSync, renameSync } = require('node:fs');\n\
               if (!existsSync(`${state}.was`)) { renameSync(state, `${state}.was`); mkdirSync(state); }\n";
    fs::write(&server, format!("{act}{app}")).unwrap();
    saboteur
}

/// Invariant: a release that the gateway has switched to stays, whatever fails afterwards.
#[tokio::test]
async fn a_deploy_whose_state_cannot_be_written_keeps_what_is_current() {
    let site = site("      linger: 1h").await;
    let [one, two, three] = [release(), saboteur(), release()];
    site.run(&["deploy", "web", text(one.path()), "--name", "one"])
        .await;
    let arguments = ["deploy", "web", text(two.path()), "--name", "two"];
    let ran = edgeway(&site.gateway, &arguments).await;
    assert!(ran.stderr.contains("releases.json"), "{}", ran.stderr);
    let state = site.folder.path().join(".state/releases.json");
    fs::remove_dir(&state).unwrap();
    fs::rename(state.with_extension("json.was"), &state).unwrap();
    assert_eq!(serving(&site.gateway).await.as_deref(), Some("two"));
    assert_eq!(processes(site.folder.path()).len(), 2 * INSTANCES);
    assert_eq!(site.state("two").await, "current");
    site.run(&["deploy", "web", text(three.path()), "--name", "three"])
        .await;
    assert_eq!(site.state("two").await, "lingers");
}

/// Invariant: while the current release is down, the one before serves, whatever its time is.
#[tokio::test]
async fn a_replaced_release_stays_until_the_current_one_serves() {
    let site = site("      linger: 1s").await;
    let [one, two] = [release(), release()];
    site.run(&["deploy", "web", text(one.path()), "--name", "one"])
        .await;
    site.run(&["deploy", "web", text(two.path()), "--name", "two"])
        .await;
    site.end_instances("two").await;
    end_retiring(site.gateway.admin_socket());
    wait_for("the release before serves", SOON, async || {
        (serving(&site.gateway).await? == "one").then_some(())
    })
    .await;
    wait_for("its time is over", SOON, async || {
        let list = site.run(&["deploys", "web"]).await;
        list.contains(", until the current one serves")
            .then_some(())
    })
    .await;
    // Each round of the process empties it.
    let removed = site.folder.path().join(".state/removed");
    fs::create_dir_all(removed.join("mark")).unwrap();
    let ending = begin(&site.gateway, &["retire-releases", "web"]);
    wait_for("the process has looked", SOON, async || {
        (!removed.exists()).then_some(())
    })
    .await;
    assert_eq!(serving(&site.gateway).await.as_deref(), Some("one"));
    site.run(&["resume", "web"]).await;
    wait_for("the replaced release has ended", SOON, async || {
        let running = processes(site.folder.path());
        running.iter().all(|own| own == "two").then_some(())
    })
    .await;
    drop(ending);
}
