//! `edgeway top`: what it prints once against load that a client counts itself, and the screen in a
//! pseudo terminal of another program.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    cli::edgeway,
    support::{
        client::get,
        gateway::Gateway,
        load,
        origins::{EchoOrigin, Origin},
        wait::{pass, wait_for},
    },
};

const SOON: Duration = Duration::from_secs(15);

/// Requests per second of the load.
const RATE: u32 = 40;

async fn front(origins: &[&Origin<EchoOrigin>]) -> Gateway {
    let backends: Vec<String> = origins
        .iter()
        .map(|origin| format!("\"{}\"", origin.address()))
        .collect();
    let yaml = format!(
        "
upstreams: {{ app: {{ backends: [{}], health: false }} }}
routes:
  - match: {{ path: /bad }}
    name: bad
    respond: {{ status: 503, body: bad }}
  - match: {{ path: /* }}
    name: the-app
    upstream: app
",
        backends.join(", ")
    );
    Gateway::start(&yaml).await
}

/// Runs `edgeway top --once --json` with a short interval.
fn report(gateway: &Gateway) -> Value {
    let socket = gateway.admin_socket();
    let ran = edgeway(&[
        "top",
        "--once",
        "--json",
        "--interval",
        "500ms",
        "--socket",
        socket,
    ]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    serde_json::from_str(&ran.stdout).expect("it prints JSON")
}

fn is_near(value: &Value, expected: f64, share: f64) -> bool {
    let value = value.as_f64().unwrap_or(f64::NAN);
    (value - expected).abs() <= share * expected
}

// With threads: the load goes on while the program runs.
#[tokio::test(flavor = "multi_thread")]
async fn rates_match_the_load_that_was_sent() {
    let (one, two) = (EchoOrigin::start().await, EchoOrigin::start().await);
    let gateway = front(&[&one, &two]).await;
    let begun = Instant::now();
    // Each fourth request is a 503.
    let load = load::endless_paced(gateway.address(), RATE, |turn| {
        get(if turn % 4 == 0 { "/bad" } else { "/app" })
    });
    let served = 0.75 * f64::from(RATE);
    let seen = wait_for("the rates are those of the load", SOON * 3, async || {
        let report = report(&gateway);
        let rates = &report["rates"];
        let backends = report["upstreams"][0]["backends"].as_array()?;
        let each = backends
            .iter()
            .filter_map(|backend| backend["rate"].as_f64());
        let is_right = is_near(&rates["requests"], f64::from(RATE), 0.15)
            && is_near(&rates["server_errors"], 0.25 * f64::from(RATE), 0.25)
            && is_near(&rates["attempts"], served, 0.15)
            && is_near(&each.sum::<f64>().into(), served, 0.3);
        is_right.then_some(report)
    })
    .await;
    let tally = load.stop().await;
    let total = u32::try_from(tally.total()).expect("the load is short");
    let sent = f64::from(total) / begun.elapsed().as_secs_f64();
    assert!(
        (sent - f64::from(RATE)).abs() < 0.15 * f64::from(RATE),
        "{sent}"
    );
    assert!(tally.failed.is_empty(), "{:?}", tally.failed);

    assert_eq!(seen["gateway"]["pid"], gateway.pid());
    assert_eq!(seen["gateway"]["state"], "serving");
    let alarm = seen["alarms"][0]["text"].as_str().expect("there is one");
    assert!(
        alarm.starts_with("route bad: 100% of the requests failed, most of them 503"),
        "{alarm}"
    );

    let socket = gateway.admin_socket();
    // Without --once as well: stdout is no terminal.
    for more in [&["--once"][..], &[]] {
        let options = ["top", "--interval", "100ms", "--socket", socket];
        let ran = edgeway(&[&options[..], more].concat());
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        assert!(!ran.stdout.contains('\u{1b}'), "{}", ran.stdout);
        let text = &ran.stdout;
        for part in [
            "serving",
            "the-app",
            &one.address().to_string(),
            "no client is banned",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}

#[tokio::test]
async fn no_gateway_is_reported_as_by_other_commands() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("none.sock");
    let ran = edgeway(&["top", "--once", "--socket", socket.to_str().unwrap()]);
    assert_eq!(ran.status, 1);
    assert!(
        ran.stderr.contains("cannot reach a gateway"),
        "{}",
        ran.stderr
    );
    let wrong = edgeway(&["top", "--interval", "10ms"]);
    assert!(
        wrong.stderr.contains("the shortest interval is 100ms"),
        "{}",
        wrong.stderr
    );
}

/// Writes a systemctl that shows one instance of an app.
fn write_systemctl(folder: &Path) {
    let program = folder.join("systemctl");
    let text = "#!/bin/sh
echo \"$@\" >> \"${0%/*}/asked\"
cat <<'END'
MainPID=77
NRestarts=3
ActiveEnterTimestampMonotonic=1
MemoryCurrent=104857600
MemoryMax=infinity
CPUUsageNSec=1000000000
Id=node-app@3000.service
LoadState=loaded
ActiveState=active
SubState=running
END
";
    fs::write(&program, text).expect("the folder takes files");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");
}

#[tokio::test]
async fn units_are_shown_where_systemd_runs() {
    let origin = EchoOrigin::start().await;
    let gateway = front(&[&origin]).await;
    let units = tempfile::tempdir().unwrap();
    write_systemctl(units.path());
    // The shell of the fake one is found by its path.
    let path = format!("{}:/usr/bin:/bin", units.path().display());
    let ran = Command::new(env!("CARGO_BIN_EXE_edgeway"))
        .args(["top", "--once", "--json", "--interval", "200ms"])
        .args([
            "--unit",
            "shop@*.service",
            "--socket",
            gateway.admin_socket(),
        ])
        .env("PATH", path)
        .output()
        .expect("the program runs");
    let report: Value = serde_json::from_slice(&ran.stdout).expect("it prints JSON");
    assert_eq!(report["instances_problem"], Value::Null);
    let instance = &report["instances"][0];
    assert_eq!(instance["unit"], "node-app@3000.service", "{report}");
    assert_eq!(instance["restarts"], 3);
    assert_eq!(instance["memory_bytes"], 100 << 20);
    assert_eq!(instance["memory_limit_bytes"], Value::Null);
    assert_eq!(instance["cpu"], 0.0, "its time did not change");
    let asked = fs::read_to_string(units.path().join("asked")).expect("it was asked");
    assert!(
        asked.contains("-- node-app@*.service shop@*.service"),
        "{asked}"
    );
}

/// A command in a pseudo terminal of `script`, of 80 by 24.
struct Session {
    child: Child,
    keys: ChildStdin,
    folder: tempfile::TempDir,
}

impl Session {
    fn start(gateway: &Gateway) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the test can be made");
        let program = env!("CARGO_BIN_EXE_edgeway");
        let socket = gateway.admin_socket();
        let line = format!(
            "stty rows 24 cols 80; stty -a > before; \
             sh -c 'echo $$ > pid; exec {program} top --interval 100ms --socket {socket}'; \
             echo $? > status; stty -a > after"
        );
        let mut child = Command::new("script")
            .args(["-qefc", &line, "typescript"])
            .current_dir(folder.path())
            .env("TERM", "xterm-256color")
            .env("NO_COLOR", "1")
            .stdin(Stdio::piped())
            .stdout(File::create(folder.path().join("stdout")).expect("it takes files"))
            .stderr(Stdio::inherit())
            .spawn()
            .expect("util-linux has `script`");
        let keys = child.stdin.take().expect("it has an input");
        Self {
            child,
            keys,
            folder,
        }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("it reads keys");
        self.keys.flush().expect("it reads keys");
    }

    fn read(&self, file: &str) -> String {
        let read = fs::read(self.folder.path().join(file)).unwrap_or_default();
        String::from_utf8_lossy(&read).into_owned()
    }

    /// Waits until the screen, drawn again, has this text.
    async fn shows(&mut self, text: &str) {
        let condition = format!("the screen shows `{text}`");
        let start = Instant::now();
        loop {
            let before = self.read("typescript").len();
            // Ctrl-L: otherwise only the cells that changed are written.
            self.press("\u{c}");
            pass(Duration::from_millis(200)).await;
            let all = self.read("typescript");
            let drawn = words(all.get(before..).unwrap_or_default());
            if drawn.contains(text) {
                return;
            }
            assert!(start.elapsed() < SOON, "{condition}: {drawn}");
        }
    }

    /// Waits for the end, and returns the exit status of `edgeway top`.
    async fn ends(mut self) -> String {
        wait_for("the session ends", SOON, async || {
            self.child.try_wait().expect("it is ours")
        })
        .await;
        assert_eq!(
            self.read("before"),
            self.read("after"),
            "modes of the terminal"
        );
        let typescript = self.read("typescript");
        let (enters, leaves) = (
            typescript.rfind("\u{1b}[?1049h"),
            typescript.rfind("\u{1b}[?1049l"),
        );
        assert!(enters.is_some() && enters < leaves, "{typescript:?}");
        self.read("status").trim().to_owned()
    }
}

/// Returns the words of terminal output, without escape sequences.
fn words(output: &str) -> String {
    let mut text = String::new();
    let mut rest = output.chars();
    while let Some(c) = rest.next() {
        if c == '\u{1b}' {
            text.push(' ');
            // CSI: parameters, and a letter at the end.
            if rest.next() == Some('[') {
                rest.by_ref().find(char::is_ascii_alphabetic);
            }
        } else {
            text.push(c);
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn the_screen_drains_survives_an_upgrade_and_leaves_the_terminal_as_it_was() {
    let (one, two) = (EchoOrigin::start().await, EchoOrigin::start().await);
    let mut gateway = front(&[&one, &two]).await;
    let mut session = Session::start(&gateway);
    session.shows("serving").await;
    session.press("3\u{1b}[B");
    session.press("d");
    let question = format!(
        "Drain app/{}, with 0 requests in flight? (y/n)",
        one.address()
    );
    session.shows(&question).await;
    session.press("y");
    wait_for("the backend is drained", SOON, async || {
        let status = gateway.status().await;
        (status["upstreams"][0]["backends"][0]["state"] == "drained").then_some(())
    })
    .await;
    session.press("1");
    gateway.upgrade().await;
    let successor = format!("pid {}", gateway.pid());
    session.shows(&successor).await;
    gateway.terminate(SOON).await;
    session.shows("no gateway since").await;
    session.press("q");
    assert_eq!(session.ends().await, "0");
}

#[tokio::test]
async fn a_signal_leaves_the_terminal_as_it_was() {
    let origin = EchoOrigin::start().await;
    let gateway = front(&[&origin]).await;
    let mut session = Session::start(&gateway);
    session.shows("serving").await;
    let pid = session
        .read("pid")
        .trim()
        .parse()
        .ok()
        .and_then(Pid::from_raw);
    kill_process(pid.expect("the shell wrote it"), Signal::TERM).expect("it runs");
    assert_eq!(session.ends().await, "143");
}
