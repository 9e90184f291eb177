//! Releases whose instances are units: `overlap: one` replaces them one by one.
//!
//! Invariant: whatever replaces what, never more than one unit above the configured number runs, no
//! request fails, what stopped is inactive to systemd, and what runs starts with the machine.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    Machine,
    support::{
        client::get,
        fleet::edgeway,
        load::{Lanes, Tally, endless},
        releases::{Behaviour, Site, tried_app},
        wait::{pass, until},
    },
    systemctl,
};

/// Interval of the counts, shorter than any app takes to start.
const EVERY: Duration = Duration::from_millis(10);
const INSTANCES: usize = 2;
const SOON: Duration = Duration::from_secs(20);
/// Requests of a load that says something.
const LEAST: u64 = 100;

/// Target that stands for the start of the machine.
const BOOT: &str = "boot-of-the-test.target";
const INSTALL: &str = "[Install]\nWantedBy=boot-of-the-test.target\n";

/// A command under load.
struct Ran {
    status: Option<i32>,
    errors: String,
    /// Most processes of apps that ran at the same time.
    most: usize,
    tally: Tally,
}

pub(super) async fn run(machine: &mut Machine, work: &Path) {
    println!("releases with units, one by one");
    let most = replaced(machine, work, "one", "      overlap: one", INSTALL).await;
    let message = format!("{most} processes at most, for {INSTANCES} instances");
    machine.check(most == INSTANCES + 1, message);
    println!("control: releases with units, all at once");
    let most = replaced(machine, work, "all", "", "").await;
    let message = format!("{most} processes at most, for {INSTANCES} instances");
    machine.check(most >= 2 * INSTANCES, message);
}

/// Deploys, fails to deploy, deploys again and rolls back. Returns the most processes that ran at the
/// same time.
async fn replaced(
    machine: &mut Machine,
    work: &Path,
    unit: &str,
    more: &str,
    install: &str,
) -> usize {
    let section = format!(
        "      unit: rel-{unit}@{{port}}.service\n      manager: user\n      linger: 1h\n      \
         instances: {INSTANCES}\n{more}"
    );
    let site = Site::start_app("/health", &section).await;
    let folder = site.folder.path().canonicalize().expect("it is there");
    write_unit(work, unit, &folder, install);
    let [one, two, three] = [(); 3].map(|()| release());
    let broken = release();
    fs::write(broken.path().join("server.js"), "process.exit(1);\n").expect("it takes files");
    let paths = [&one, &two, &broken, &three].map(|it| it.path().display().to_string());
    let [one, two, broken, three] = &paths;
    let first = edgeway(&site.gateway, &["deploy", "web", one, "--name", "one"]).await;
    machine.check(first.status == Some(0), format!("one: {}", first.stderr));
    let mut most = 0;
    for (step, arguments, expected) in [
        ("two", &["deploy", "web", two, "--name", "two"][..], Some(0)),
        (
            "one that ends at once",
            &[
                "deploy",
                "web",
                broken,
                "--name",
                "broken",
                "--timeout",
                "4s",
            ],
            Some(1),
        ),
        (
            "three",
            &["deploy", "web", three, "--name", "three"],
            Some(0),
        ),
        ("rollback", &["rollback", "web"], Some(0)),
    ] {
        let ran = under_load(&site, &folder, arguments).await;
        most = most.max(ran.most);
        let lost = ran.tally.errors() + ran.tally.truncated;
        machine.check(
            ran.status == expected && lost == 0 && ran.tally.total() > LEAST,
            format!(
                "{step}: {} requests, {lost} lost, {} processes at most",
                ran.tally.total(),
                ran.most
            ),
        );
        if ran.status != expected || lost > 0 {
            println!("{}\n{:?}", ran.errors, ran.tally.failed);
        }
        let current = if step == "three" { "three" } else { "two" };
        let state = site.state(current).await;
        machine.check(
            state == "current",
            format!("{step}: `{current}` is {state}"),
        );
        let running = active(unit);
        let processes = processes(&folder);
        machine.check(
            running == processes,
            format!("{step}: {running} units are active, and {processes} processes run"),
        );
    }
    let before = active(unit);
    let stop = || {
        let (_, text) = systemctl(&["stop", BOOT, &format!("rel-{unit}@*.service")]);
        print!("{text}");
    };
    stop();
    let (_, text) = systemctl(&["start", BOOT]);
    print!("{text}");
    let after = active(unit);
    let expected = if install.is_empty() { 0 } else { before };
    machine.check(
        after == expected,
        format!("started with the machine: {after} units of {before}"),
    );
    if after > 0 {
        let serves = &mut async || {
            let response = site.gateway.get("/").await;
            (response.status() == 200).then_some(())
        };
        let served = until(SOON, serves).await;
        machine.check(served.is_some(), "and they serve again");
    }
    stop();
    most
}

/// Writes a unit as docs/releases.md has it, which starts an app that ended again.
fn write_unit(work: &Path, name: &str, folder: &Path, install: &str) {
    let path = std::env::var("PATH").expect("there is one");
    let unit = format!(
        "[Service]
WorkingDirectory={folder}/instances/%i
Environment=PORT=%i HOST=127.0.0.1 NODE_ENV=production EDGEWAY_RELEASE=unit \"PATH={path}\"
ExecStart=/usr/bin/env node server.js
Restart=always
RestartSec=100ms
{install}",
        folder = folder.display()
    );
    let units = work.join("config/systemd/user");
    fs::write(units.join(BOOT), "[Unit]\nDescription=boot\n").expect("the folder is ours");
    fs::write(units.join(format!("rel-{name}@.service")), unit).expect("the folder is ours");
    let (_, text) = systemctl(&["daemon-reload"]);
    print!("{text}");
}

fn release() -> tempfile::TempDir {
    tried_app(Behaviour {
        delay: Duration::from_millis(20),
        ..Behaviour::default()
    })
}

/// Returns the number of processes that run in a folder of releases.
fn processes(folder: &Path) -> usize {
    let all = fs::read_dir("/proc").expect("Linux has it").flatten();
    let folders = all.filter_map(|entry| fs::read_link(entry.path().join("cwd")).ok());
    folders.filter(|cwd| cwd.starts_with(folder)).count()
}

/// Returns the number of active units.
fn active(name: &str) -> usize {
    let pattern = format!("rel-{name}@*.service");
    let listed = [
        "list-units",
        "--plain",
        "--no-legend",
        "--state=active",
        &pattern,
    ];
    let (_, text) = systemctl(&listed);
    text.lines().filter(|line| line.contains("rel-")).count()
}

async fn under_load(site: &Site, folder: &Path, arguments: &[&str]) -> Ran {
    let begun = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&begun);
    let load = endless(site.gateway.address(), 8, Lanes::KeepAlive, move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        get("/")
    });
    let mut most = 0;
    let counting = async {
        loop {
            most = most.max(processes(folder));
            pass(EVERY).await;
        }
    };
    let ran = tokio::select! {
        ran = edgeway(&site.gateway, arguments) => ran,
        () = counting => unreachable!("it counts for ever"),
    };
    // A rollback may be over after ten requests: those that follow must not fail either.
    let wanted = begun.load(Ordering::Relaxed) + LEAST;
    let mut goes_on = async || (begun.load(Ordering::Relaxed) > wanted).then_some(());
    until(SOON, &mut goes_on).await;
    Ran {
        status: ran.status,
        errors: ran.stderr,
        most,
        tally: load.stop().await,
    }
}
