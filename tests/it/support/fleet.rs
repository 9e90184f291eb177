//! Apps that a fake `systemctl` of the test starts and stops, one unit for each port.
//!
//! The gateway's commands start programs of their own; those must end with the test, however it
//! ends.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use super::{
    apps::Kind,
    client::{self, get},
    files::read_text,
    gateway::Gateway,
    ports::free_ports,
    wait::wait_for,
};

/// Time for a command, far more than any takes; it is killed then.
const LIMIT: Duration = Duration::from_mins(5);

/// Replacement for `systemctl` with the behaviour of systemd: a start returns at once, a stop when
/// the process has exited, and `show` tells of the apps that run. `build` selects the code that is started: `good` listens, any other
/// exits at once.
const SYSTEMCTL: &str = r#"#!/bin/sh
dir=$(dirname "$0")
# The CPU time of each app, of the kernel: ticks of 10 ms in user mode and in the system.
show() {
  for file in "$dir"/*.pid; do
    pid=$(cat "$file" 2>/dev/null) && ticks=$(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null | awk '{ print $12 + $13 }')
    [ -n "$ticks" ] || continue
    port=$(basename "$file" .pid)
    printf 'Id=node-app@%s.service\nLoadState=loaded\nActiveState=active\nSubState=running\n' "$port"
    printf 'MainPID=%s\nNRestarts=0\nControlGroup=\nCPUUsageNSec=%s0000000\n\n' "$pid" "$ticks"
  done
}
case " $* " in *" show "*) show; exit ;; esac
echo "$*" >> "$dir/log"
while [ "$1" = --user ] || [ "$1" = -- ]; do shift; done
verb=$1; shift
[ "$1" = -- ] && shift
port=${1#node-app@}; port=${port%.service}
left() { [ ! -d "/proc/$1" ] || grep -q '^State:.*Z' "/proc/$1/status"; }
stop() {
  [ -f "$dir/$port.pid" ] || return 0
  pid=$(cat "$dir/$port.pid")
  kill -TERM "$pid" 2>/dev/null
  tries=0
  until left "$pid"; do
    tries=$((tries + 1)); [ $tries -gt 200 ] && kill -KILL "$pid"
    sleep 0.02
  done
  rm "$dir/$port.pid"
}
start() {
  [ "$(cat "$dir/build")" = good ] || return 0
  cd FOLDER
  PORT=$port NODE_ENV=production NEXT_TELEMETRY_DISABLED=1 node --import PRELOAD PROGRAM \
    < "$dir/alive" >> "$dir/$port.out" 2>&1 &
  echo $! > "$dir/$port.pid"
}
case $verb in
  start) [ -f "$dir/$port.pid" ] || start ;;
  stop) stop ;;
  restart) stop; start ;;
esac
"#;

/// Apps on a range of ports.
pub(crate) struct Fleet {
    dir: TempDir,
    pub(crate) first_port: u16,
    pub(crate) last_port: u16,
    /// Standard input of the apps: they exit when it closes.
    _alive: File,
}

impl Fleet {
    /// Starts a fleet with `room` ports, of which the first `running` have an app.
    pub(crate) async fn start(room: u16, running: u16) -> Self {
        Self::start_of(Kind::Express, room, running).await
    }

    pub(crate) async fn start_of(kind: Kind, room: u16, running: u16) -> Self {
        kind.require_build();
        let program = match kind {
            Kind::Express | Kind::Framework(_) => "server.js",
            Kind::Next
            | Kind::NextBare
            | Kind::NextMatching
            | Kind::NextImages(_)
            | Kind::Next15
            | Kind::Next14 => "node_modules/next/dist/bin/next start -H localhost -p $port",
            Kind::Languages(_) => "../node_modules/next/dist/bin/next start -H localhost -p $port",
        };
        let dir = tempfile::tempdir().expect("a folder for the test can be made");
        Self::start_in(dir, &kind.folder(), program, kind.health(), (room, running)).await
    }

    /// Starts a fleet of a script that reports its load with the module `edgeway-node`. The file
    /// `PORT.pid` in its folder is the process.
    pub(crate) async fn start_script(script: &str, count: u16) -> Self {
        let dir = tempfile::tempdir().expect("a folder for the test can be made");
        fs::write(dir.path().join("app.js"), script).expect("the folder takes files");
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let module = root.join("packaging/npm/edgeway-node/index.js");
        let program = format!("--import {} app.js", module.display());
        let folder = dir.path().to_owned();
        Self::start_in(dir, &folder, &program, "/", (count, count)).await
    }

    async fn start_in(
        dir: TempDir,
        folder: &Path,
        program: &str,
        health: &str,
        (room, running): (u16, u16),
    ) -> Self {
        let first_port = free_ports(room);
        let script = dir.path().join("systemctl");
        let preload = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/apps/end-with-parent.js");
        let text = SYSTEMCTL
            .replace("FOLDER", folder.to_str().expect("a path in UTF-8"))
            .replace("PRELOAD", preload.to_str().expect("a path in UTF-8"))
            .replace("PROGRAM", program);
        fs::write(&script, text).expect("the folder takes files");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("it is ours");
        fs::write(dir.path().join("build"), "good").expect("the folder takes files");
        let alive = dir.path().join("alive");
        let made = std::process::Command::new("mkfifo").arg(&alive).status();
        assert!(made.expect("mkfifo is there").success());
        let fleet = Self {
            // For reading and writing: opening it for one alone would block.
            _alive: OpenOptions::new()
                .read(true)
                .write(true)
                .open(&alive)
                .expect("it was just made"),
            first_port,
            last_port: first_port + room - 1,
            dir,
        };
        for port in fleet.ports().take(running.into()) {
            let unit = format!("node-app@{port}.service");
            let started = Command::new(&script).args(["start", &unit]).status().await;
            assert!(started.expect("it is a script").success());
        }
        for port in fleet.ports().take(running.into()) {
            wait_for(
                "an app of the fleet is up",
                std::time::Duration::from_secs(20),
                async || {
                    let address = ([127, 0, 0, 1], port).into();
                    let response = client::send(address, &get(health)).await;
                    response.is_ok().then_some(())
                },
            )
            .await;
        }
        fleet
    }

    pub(crate) fn ports(&self) -> impl Iterator<Item = u16> + use<> {
        self.first_port..=self.last_port
    }

    /// Returns `127.0.0.1:PORT` of the app at `index`.
    pub(crate) fn address(&self, index: u16) -> String {
        format!("127.0.0.1:{}", self.first_port + index)
    }

    /// Returns the first `count` apps as a YAML list.
    pub(crate) fn backends(&self, count: u16) -> String {
        let list: Vec<String> = (0..count)
            .map(|index| format!("\"{}\"", self.address(index)))
            .collect();
        format!("[{}]", list.join(", "))
    }

    /// Kills the process of a port.
    pub(crate) fn kill(&self, port: u16) {
        let pid = self.pid(port).and_then(Pid::from_raw);
        kill_process(pid.expect("it runs"), Signal::KILL).expect("it is ours");
        fs::remove_file(self.dir.path().join(format!("{port}.pid"))).expect("it ran");
    }

    /// Starts a unit, as a service manager does that finds it dead.
    pub(crate) async fn start_unit(&self, port: u16) {
        let unit = format!("node-app@{port}.service");
        let started = Command::new(self.systemctl())
            .args(["start", &unit])
            .status()
            .await;
        assert!(started.expect("it is a script").success());
    }

    /// Selects the code that is started from now on.
    pub(crate) fn build(&self, name: &str) {
        fs::write(self.dir.path().join("build"), name).expect("the folder takes files");
    }

    pub(crate) fn folder(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn systemctl(&self) -> PathBuf {
        self.dir.path().join("systemctl")
    }

    /// Returns the process that serves a port.
    pub(crate) fn pid(&self, port: u16) -> Option<i32> {
        let text = read_text(self.dir.path().join(format!("{port}.pid"))).ok()?;
        text.trim().parse().ok()
    }

    /// Returns the calls of `systemctl`.
    pub(crate) fn log(&self) -> Vec<String> {
        let text = read_text(self.dir.path().join("log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Runs a command against the gateway, with this `systemctl` before the machine's in `PATH`.
    pub(crate) async fn edgeway(&self, gateway: &Gateway, arguments: &[&str]) -> Ran {
        ran(self.command(gateway, arguments).output()).await
    }

    /// Starts a command that [`Self::edgeway`] would run to its end.
    pub(crate) fn begin(&self, gateway: &Gateway, arguments: &[&str]) -> Running {
        let mut command = self.command(gateway, arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Running(command.spawn().expect("the program runs"))
    }

    fn command(&self, gateway: &Gateway, arguments: &[&str]) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let with_ours = format!("{}:{path}", self.dir.path().display());
        let mut command = command(gateway, arguments);
        command.env("PATH", &with_ours);
        command
    }
}

/// A command that runs; killed when dropped.
pub(crate) struct Running(Child);

impl Running {
    /// Sends SIGTERM, and returns the outcome.
    pub(crate) async fn terminate(self) -> Ran {
        let pid = self.0.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        kill_process(pid.expect("it runs"), Signal::TERM).expect("it is ours");
        self.end().await
    }

    /// Waits for the end, and returns the outcome.
    pub(crate) async fn end(self) -> Ran {
        ran(self.0.wait_with_output()).await
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for port in self.ports() {
            if let Some(pid) = self.pid(port).and_then(Pid::from_raw) {
                // It may have exited by itself.
                let _gone = kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// Outcome of a command.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command against a gateway.
pub(crate) async fn edgeway(gateway: &Gateway, arguments: &[&str]) -> Ran {
    ran(command(gateway, arguments).output()).await
}

/// Starts a command against a gateway.
pub(crate) fn begin(gateway: &Gateway, arguments: &[&str]) -> Running {
    let mut command = command(gateway, arguments);
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    Running(piped.spawn().expect("the program runs"))
}

fn command(gateway: &Gateway, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edgeway"));
    command
        .args(arguments)
        .env("EDGEWAY_ADMIN_SOCKET", gateway.admin_socket())
        .current_dir(gateway.folder())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

async fn ran(output: impl Future<Output = io::Result<Output>>) -> Ran {
    let output = timeout(LIMIT, output).await.expect("the command ends");
    let Output {
        status,
        stdout,
        stderr,
    } = output.expect("the program runs");
    Ran {
        status: status.code(),
        stdout: String::from_utf8(stdout).expect("it prints UTF-8"),
        stderr: String::from_utf8(stderr).expect("it prints UTF-8"),
    }
}

/// Returns the backends of an upstream from the status.
pub(crate) async fn backends(gateway: &Gateway, upstream: &str) -> Vec<Value> {
    let status = gateway.status().await;
    let upstreams = status["upstreams"].as_array().expect("a list");
    let found = upstreams.iter().find(|u| u["name"] == upstream);
    let backends = found.expect("the upstream is there")["backends"].as_array();
    backends.expect("a list").clone()
}

/// Returns `ADDRESS STATE` of each backend.
pub(crate) async fn states(gateway: &Gateway, upstream: &str) -> Vec<String> {
    let backends = backends(gateway, upstream).await;
    let word = |value: &Value| value.as_str().expect("a text").to_owned();
    backends
        .iter()
        .map(|b| format!("{} {}", word(&b["address"]), word(&b["state"])))
        .collect()
}
