//! The gateway's unit under a real systemd user manager, under load. `scripts/test-systemd` starts
//! it with a manager of its own.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a drill reports to the terminal, and what goes wrong in it fails it"
)]

mod imported;
mod releases;
#[path = "../it/support/mod.rs"]
mod support;

use std::{
    fmt::Display,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use support::{
    client::{self, get},
    load::{Lanes, Tally, endless},
    origins::{DripOrigin, EchoOrigin, Origin},
    ports::free_port,
    wait::{pass, until, wait_for},
};

const UNIT: &str = "edgeway.service";
const GATEWAY_LOG: &str = "gateway.log";
const SOON: Duration = Duration::from_secs(15);

/// Machine as the unit sees it.
struct Machine {
    config: PathBuf,
    good: String,
    address: SocketAddr,
    /// Maximum time that a client may wait during a restart.
    patience: Duration,
    broken: usize,
}

impl Machine {
    fn check(&mut self, holds: bool, message: impl Display) {
        let mark = if holds { "ok    " } else { "BROKEN" };
        println!("  {mark} {message}");
        self.broken += usize::from(!holds);
    }

    /// Checks that no request failed except, at most, `at_most` that were in flight.
    fn check_load(&mut self, tally: &Tally, at_most: u64, message: &str) {
        let refused = tally.failed.iter().filter(|f| f.contains("connect to"));
        let refused = refused.count();
        let lost = tally.errors() + tally.truncated;
        let longest = tally.times.iter().max().copied().unwrap_or_default();
        self.check(
            refused == 0 && lost <= at_most && tally.status(200) > 100,
            format!(
                "{message}: {} requests, {refused} refused, {lost} lost {:?}",
                tally.total(),
                tally.failed
            ),
        );
        self.check(
            longest < self.patience,
            format!("{message}: nobody waited longer than {longest:?}"),
        );
    }
}

fn systemctl(arguments: &[&str]) -> (bool, String) {
    let output = Command::new("systemctl")
        .arg("--user")
        .args(arguments)
        .output()
        .expect("systemctl is there");
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

/// Runs [`systemctl`] without blocking a load of this process.
async fn ask(arguments: &'static [&'static str]) -> (bool, String) {
    let asked = tokio::task::spawn_blocking(|| systemctl(arguments));
    asked.await.expect("it does not panic")
}

fn property(name: &str) -> String {
    let (_, text) = systemctl(&["show", UNIT, "--value", "-p", name]);
    text.trim().to_owned()
}

fn main_pid() -> i32 {
    property("MainPID").parse().unwrap_or(0)
}

fn kill(pid: i32, signal: Signal) {
    let pid = Pid::from_raw(pid).expect("a main process");
    kill_process(pid, signal).expect("it runs");
}

async fn serves(address: SocketAddr) -> Option<()> {
    let response = client::send(address, &get("/echo")).await.ok()?;
    (response.status() == 200).then_some(())
}

/// Waits until another process than `before` is the main one and the unit is active.
async fn followed(before: i32) -> bool {
    let ask = &mut async || {
        let pid = main_pid();
        (pid != before && pid != 0 && property("ActiveState") == "active").then_some(())
    };
    until(SOON, ask).await.is_some()
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let Some(work) = std::env::var_os("EDGEWAY_WORK").map(PathBuf::from) else {
        println!("run scripts/test-systemd: it starts the manager that this needs");
        return ExitCode::FAILURE;
    };
    let echo = EchoOrigin::start().await;
    let drip = DripOrigin::start(Duration::from_millis(100)).await;
    let mut machine = prepare(&work, &echo, &drip);
    lifecycle(&mut machine).await;
    restarts(&mut machine).await;
    upgrades(&mut machine).await;
    stops_after_an_upgrade(&mut machine, &work).await;
    watchdog(&mut machine).await;
    broken_configuration(&mut machine).await;
    imported::run(&mut machine, &work).await;
    releases::run(&mut machine, &work).await;
    let (_, log) = systemctl(&["stop", UNIT]);
    print!("{log}");
    if machine.broken > 0 {
        println!("{} checks broken", machine.broken);
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Returns the installed unit without the settings that only the system manager supports.
fn prepare(work: &Path, echo: &Origin<EchoOrigin>, drip: &Origin<DripOrigin>) -> Machine {
    let units = PathBuf::from(std::env::var_os("EDGEWAY_UNITS").expect("the script says it"));
    let user = work.join("config/systemd/user");
    fs::copy(units.join(UNIT), user.join(UNIT)).expect("the unit is installed");
    let config = work.join("edgeway.yaml");
    let binary = env!("CARGO_BIN_EXE_edgeway");
    let drop_in = user.join(format!("{UNIT}.d"));
    fs::create_dir(&drop_in).unwrap();
    // A user manager supports no other user, no capabilities and no system folders.
    let adapted = format!(
        "[Service]
User=
Group=
AmbientCapabilities=
ExecStart=
ExecStart={binary} run -c {config}
ExecReload=
ExecReload={binary} reload -c {config}
WorkingDirectory={work}
ReadWritePaths={work}
StandardError=append:{work}/{GATEWAY_LOG}
ConfigurationDirectory=
WatchdogSec=2s
ProtectHome=no
PrivateTmp=no
",
        config = config.display(),
        work = work.display(),
    );
    fs::write(drop_in.join("here.conf"), adapted).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let good = format!(
        "
listeners: [{{ address: \"{address}\" }}]
admin: {{ address: off, socket: /run/user/0/edgeway/admin.sock }}
upstreams:
  echo: {{ backends: [\"{}\"], health: false }}
  drip: {{ backends: [\"{}\"], health: false }}
routes:
  - {{ match: {{ path: /echo }}, upstream: echo }}
  - {{ match: {{ path: /drip }}, upstream: drip }}
",
        echo.address(),
        drip.address()
    );
    fs::write(&config, &good).unwrap();
    let (_, text) = systemctl(&["daemon-reload"]);
    print!("{text}");
    Machine {
        config,
        good,
        address,
        // On a machine with other work, a wait of a second does not indicate a fault of the
        // gateway.
        patience: match std::env::var_os("EDGEWAY_BUSY_MACHINE") {
            Some(_) => Duration::from_secs(5),
            None => Duration::from_secs(1),
        },
        broken: 0,
    }
}

async fn lifecycle(machine: &mut Machine) {
    println!("start and reload");
    let (started, text) = ask(&["start", UNIT]).await;
    machine.check(started, format!("start {text}"));
    if !started {
        let (_, status) = systemctl(&["status", "--no-pager", UNIT]);
        println!("{status}");
    }
    let served = serves(machine.address).await.is_some();
    machine.check(
        served,
        "it serves as soon as systemd says that it is started",
    );
    let status = property("StatusText");
    machine.check(status.contains("serving on"), format!("status: {status}"));
    let stored = property("NFileDescriptorStore");
    machine.check(stored == "2", format!("{stored} sockets are stored"));
    let pid = main_pid();
    let (reloaded, text) = ask(&["reload", UNIT]).await;
    machine.check(reloaded && main_pid() == pid, format!("reload {text}"));
    fs::write(&machine.config, "nonsense: 1\n").unwrap();
    let (reloaded, _) = ask(&["reload", UNIT]).await;
    let state = property("ActiveState");
    machine.check(
        !reloaded && state == "active" && main_pid() == pid,
        format!("a broken configuration fails the reload and nothing else: {state}"),
    );
    fs::write(&machine.config, &machine.good).unwrap();
}

async fn restarts(machine: &mut Machine) {
    println!("restarts and crashes under new connections");
    let load = endless(machine.address, 4, Lanes::Fresh, |_| get("/echo"));
    for _ in 0..3 {
        pass(Duration::from_millis(300)).await;
        let (restarted, text) = ask(&["restart", UNIT]).await;
        machine.check(restarted, format!("restart {text}"));
    }
    pass(Duration::from_millis(300)).await;
    machine.check_load(&load.stop().await, 0, "3 restarts");

    let load = endless(machine.address, 4, Lanes::Fresh, |_| get("/echo"));
    for _ in 0..3 {
        pass(Duration::from_millis(300)).await;
        let pid = main_pid();
        kill(pid, Signal::KILL);
        let back = followed(pid).await;
        machine.check(back, "started again after kill -9");
    }
    pass(Duration::from_millis(300)).await;
    // One request on each lane is in flight at each kill.
    machine.check_load(&load.stop().await, 12, "3 times kill -9");
}

async fn upgrades(machine: &mut Machine) {
    println!("upgrades");
    ask(&["restart", UNIT]).await;
    let restarts = property("NRestarts");
    let fresh = endless(machine.address, 2, Lanes::Fresh, |_| get("/echo"));
    let keep_alive = endless(machine.address, 2, Lanes::KeepAlive, |_| get("/echo"));
    for _ in 0..5 {
        pass(Duration::from_millis(300)).await;
        let pid = main_pid();
        kill(pid, Signal::USR2);
        machine.check(followed(pid).await, "MainPID is the new process's");
    }
    pass(Duration::from_millis(300)).await;
    machine.check_load(&fresh.stop().await, 0, "5 upgrades, new connections");
    machine.check_load(
        &keep_alive.stop().await,
        0,
        "5 upgrades, keep-alive connections",
    );
    let after = property("NRestarts");
    machine.check(after == restarts, format!("NRestarts={after} as before"));
    let stored = property("NFileDescriptorStore");
    machine.check(stored == "2", format!("{stored} sockets are still stored"));
}

async fn stops_after_an_upgrade(machine: &mut Machine, work: &Path) {
    println!("stop after an upgrade, with a download of 3 s on the process before");
    let mut unfinished = Vec::new();
    for _ in 0..8 {
        ask(&["start", UNIT]).await;
        let address = machine.address;
        let download = async move {
            match client::send(address, &get("/drip?pieces=30")).await {
                Ok(response) if response.text().contains("piece-29") => Ok(()),
                Ok(response) => Err(format!("ended after {:?}", response.text())),
                Err(error) => Err(format!("failed: {error}")),
            }
        };
        let stop = async {
            pass(Duration::from_millis(300)).await;
            let pid = main_pid();
            kill(pid, Signal::USR2);
            let has_followed = followed(pid).await;
            ask(&["stop", UNIT]).await;
            (has_followed, property("Result"))
        };
        let (downloaded, (has_followed, result)) = tokio::join!(download, stop);
        if downloaded.is_err() || !has_followed || result != "success" {
            unfinished.push(format!(
                "{downloaded:?}, upgraded: {has_followed}, result: {result}"
            ));
        }
    }
    machine.check(
        unfinished.is_empty(),
        format!("8 downloads are finished, except: {unfinished:?}"),
    );
    if !unfinished.is_empty() {
        for log in ["manager.log", GATEWAY_LOG] {
            println!("{}", fs::read_to_string(work.join(log)).unwrap_or_default());
        }
    }
}

async fn watchdog(machine: &mut Machine) {
    println!("watchdog");
    ask(&["start", UNIT]).await;
    let pid = main_pid();
    // Longer than the watchdog's time: an idle gateway is not considered dead.
    pass(Duration::from_secs(3)).await;
    machine.check(main_pid() == pid, "a gateway that works is left alone");
    kill(pid, Signal::STOP);
    let back = followed(pid).await;
    machine.check(back, "a gateway that hangs is started again");
    let served = until(SOON, &mut async || serves(machine.address).await).await;
    machine.check(served.is_some(), "and serves");
}

async fn broken_configuration(machine: &mut Machine) {
    println!("a configuration that is broken at the start");
    ask(&["stop", UNIT]).await;
    fs::write(&machine.config, "nonsense: 1\n").unwrap();
    ask(&["start", UNIT]).await;
    let (status, restarts) = (property("ExecMainStatus"), property("NRestarts"));
    machine.check(status == "78", format!("it exits with {status}"));
    // Twice the time after which it would have been restarted.
    pass(Duration::from_secs(1)).await;
    let state = property("ActiveState");
    machine.check(
        state == "failed" && property("NRestarts") == restarts,
        format!("and is not tried again: {state}"),
    );
    fs::write(&machine.config, &machine.good).unwrap();
    let (started, _) = ask(&["start", UNIT]).await;
    machine.check(started, "put right, it starts");
    wait_for("it serves", SOON, async || serves(machine.address).await).await;
}
