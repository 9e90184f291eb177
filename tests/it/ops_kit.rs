//! `edgeway healthcheck`, `monitor` and `uptime`, and the probe from outside: by real failures, and
//! against the system's own tools.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};

use crate::{
    cli::edgeway,
    support::{
        front::Front, gateway::Gateway, origins::EchoOrigin, ports::free_port, redis::Redis,
        wait::wait_for,
    },
};

const SYSTEMCTL: &str = r#"#!/bin/sh
case " $* " in
  *" show "*) cat "${0%/*}/shown" ;;
  *) echo "$@" >>"${0%/*}/asked" ;;
esac
"#;

/// Folder with a systemctl that notes its arguments, and with the files of the commands.
struct Kit(tempfile::TempDir);

impl Kit {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder for the test can be made");
        let program = folder.path().join("systemctl");
        fs::write(&program, SYSTEMCTL).expect("the folder takes files");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");
        Self(folder)
    }

    fn path(&self, file: &str) -> String {
        self.0.path().join(file).display().to_string()
    }

    /// Calls of systemctl that change units.
    fn asked(&self) -> String {
        fs::read_to_string(self.0.path().join("asked")).unwrap_or_default()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let path = format!("{}:/usr/bin:/bin", self.0.path().display());
        Command::new(env!("CARGO_BIN_EXE_edgeway"))
            .args(arguments)
            .env("PATH", path)
            .output()
            .expect("the program runs")
    }

    /// Runs a health check of a gateway and more; returns its exit status and its line.
    fn check(&self, socket: &str, probes: &[&str]) -> (i32, Value) {
        let (state, log) = (self.path("restarts.json"), self.path("checks.log"));
        let common = [
            "healthcheck",
            "--attempts",
            "2",
            "--delay",
            "200ms",
            "--timeout",
            "3s",
            "--socket",
            socket,
            "--gateway",
            "--state",
            &state,
            "--log",
            &log,
        ];
        let ran = self.run(&[&common[..], probes].concat());
        let text = String::from_utf8(ran.stdout).expect("it prints UTF-8");
        let stderr = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(text.lines().count(), 1, "{text}{stderr}");
        let line = serde_json::from_str(&text).expect("the line is JSON");
        (ran.status.code().expect("it was not killed"), line)
    }
}

/// Returns the names of the probes that failed.
fn failed(line: &Value) -> Vec<&str> {
    let probes = line["probes"].as_array().expect("there are probes");
    let failed = probes.iter().filter(|probe| probe["ok"] == false);
    failed.filter_map(|probe| probe["name"].as_str()).collect()
}

/// Responds to `ping` as MongoDB does: `{ ok: 1 }`, or with an error. Ends when it is dropped.
async fn mongodb(ok: f64) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port is free");
    let address = listener.local_addr().expect("it listens").to_string();
    let mut server = JoinSet::new();
    server.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut question = [0; 51];
            if stream.read_exact(&mut question).await.is_err() {
                continue;
            }
            // OP_MSG, as the documentation of the wire protocol has it.
            assert_eq!(question[12..16], 2013_u32.to_le_bytes());
            assert_eq!(&question[26..31], b"ping\0");
            let mut document = b"\x01ok\0".to_vec();
            document.extend(ok.to_le_bytes());
            document.push(0);
            let size = u32::try_from(document.len() + 4).expect("it is small");
            let mut reply = Vec::new();
            for word in [16 + 5 + size, 7, 1, 2013, 0] {
                reply.extend(word.to_le_bytes());
            }
            reply.push(0);
            reply.extend(size.to_le_bytes());
            reply.extend(document);
            stream.write_all(&reply).await.expect("it reads");
        }
    });
    (address, server)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stops_is_reported_and_only_its_own_unit_is_restarted() {
    let (front, mut redis) = (EchoOrigin::start().await, Redis::start().await);
    let api = EchoOrigin::start().await;
    let address = front.address();

    let gateway = Front::to(address)
        .with(&format!("redis: {}", redis.section("")))
        .start()
        .await;
    let kit = Kit::new();
    let (front_url, api_url) = (
        format!("front=http://{}/", gateway.address()),
        format!("api=http://{}/health", api.address()),
    );
    let redis_url = format!("redis={}", redis.url());
    let (mongo, _mongo) = mongodb(1.0).await;
    let mongo = format!("mongodb={mongo}");
    let probes = [
        "--http",
        &front_url,
        "--http",
        &api_url,
        "--redis",
        &redis_url,
        "--mongodb",
        &mongo,
        "--restart",
        "api=node-app@3000.service",
        "--restart",
        "gateway=edgeway.service",
    ];
    let socket = gateway.admin_socket();
    let (status, line) = kit.check(socket, &probes);
    assert_eq!((status, &line["ok"]), (0, &Value::Bool(true)), "{line}");
    assert_eq!(line["probes"].as_array().map(Vec::len), Some(5));
    assert_eq!(kit.asked(), "");

    // The origin stops: its unit is restarted, once in its pause.
    drop(api);
    let (status, line) = kit.check(socket, &probes);
    assert_eq!((status, failed(&line)), (1, vec!["api"]), "{line}");
    assert_eq!(line["restarts"][0]["outcome"], "restarted");
    let (_, line) = kit.check(socket, &probes);
    assert_eq!(line["restarts"][0]["outcome"], "pausing");
    assert_eq!(kit.asked(), "restart -- node-app@3000.service\n");

    // Redis stops: it is reported, and nothing else happens; the gateway serves.
    redis.kill();
    let (status, line) = kit.check(socket, &probes);
    assert_eq!((status, failed(&line)), (1, vec!["api", "redis"]), "{line}");
    assert_eq!(kit.asked().lines().count(), 1);
    assert_eq!(gateway.get("/").await.status(), 200);
    assert_eq!(gateway.status().await["pid"], gateway.pid());

    let (broken, _broken) = mongodb(0.0).await;
    let broken = format!("mongodb={broken}");
    let closed = format!("gone=127.0.0.1:{}", free_port());
    let (_, line) = kit.check(socket, &["--mongodb", &broken, "--tcp", &closed]);
    assert_eq!(failed(&line), ["mongodb", "gone"]);

    // Five lines, of which one is good.
    let log = kit.path("checks.log");
    let ran = edgeway(&["uptime", "--json", &log]);
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    let report: Value = serde_json::from_str(&ran.stdout).expect("it prints JSON");
    assert_eq!(
        (&report["checks"], &report["passed"]),
        (&5.into(), &1.into())
    );
    assert_eq!(report["availability"], 20.0);
    let ran = edgeway(&["uptime", "--target", "20%", &log]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(
        ran.stdout.contains("1 of 5 checks passed"),
        "{}",
        ran.stdout
    );
    let ran = edgeway(&["uptime", "--probe", "front", &log]);
    assert_eq!(ran.status, 0, "{}{}", ran.stdout, ran.stderr);
    let ran = edgeway(&["uptime", "--window", "1ms", &log]);
    assert_eq!(ran.status, 1);
    assert!(
        ran.stderr.contains("no checks of the last 1ms"),
        "{}",
        ran.stderr
    );
}

#[tokio::test]
async fn a_gateway_that_is_gone_is_a_failed_probe() {
    let kit = Kit::new();
    let socket = kit.path("none.sock");
    let restart = ["--restart", "gateway=edgeway.service"];
    let (status, line) = kit.check(&socket, &[&restart[..], &["--dry-run"]].concat());
    assert_eq!((status, failed(&line)), (1, vec!["gateway"]), "{line}");
    assert_eq!(line["restarts"][0]["outcome"], "dry_run");
    assert_eq!(kit.asked(), "");
    assert!(!Path::new(&kit.path("restarts.json")).exists());
    let (_, line) = kit.check(&socket, &restart);
    assert_eq!(line["restarts"][0]["outcome"], "restarted");
    assert_eq!(kit.asked(), "restart -- edgeway.service\n");
}

#[tokio::test]
async fn a_gateway_that_waits_for_its_apps_is_not_restarted() {
    let gateway = Front::to(format!("127.0.0.1:{}", free_port()))
        .upstream("required: true, health: { path: /, interval: 100ms, fall: 1 }")
        .start()
        .await;
    let kit = Kit::new();
    let restart = ["--restart", "gateway=edgeway.service"];
    let soon = Duration::from_secs(20);
    let line = wait_for("a gateway that is not ready", soon, async || {
        let (status, line) = kit.check(gateway.admin_socket(), &restart);
        (status == 1).then_some(line)
    })
    .await;
    let error = line["probes"][0]["error"].as_str().expect("it failed");
    assert!(error.contains("required upstream"), "{line}");
    assert_eq!(line["restarts"][0]["outcome"], "not_needed");
    assert_eq!(kit.asked(), "");
}

#[tokio::test]
async fn the_password_of_redis_comes_from_a_file() {
    let redis = Redis::start_with(&["--requirepass", "sesame"], &["-a", "sesame"]).await;
    let kit = Kit::new();
    fs::write(kit.path("password"), "sesame\n").expect("the folder takes files");
    let probe = ["healthcheck", "--attempts", "1", "--redis"];
    let url = format!("redis={}", redis.url());
    let without = kit.run(&[&probe[..], &[&url]].concat());
    assert_eq!(without.status.code(), Some(1));
    let line = String::from_utf8(without.stdout).expect("it prints UTF-8");
    assert!(line.contains("NOAUTH"), "{line}");
    let file = kit.path("password");
    let password = ["--redis-password-file", &file];
    let with = kit.run(&[&probe[..], &[&url], &password].concat());
    let line = String::from_utf8_lossy(&with.stdout).into_owned();
    assert_eq!(with.status.code(), Some(0), "{line}");
    assert!(!line.contains("sesame"), "{line}");
}

/// Runs the probe from outside, twice at most.
fn outside(url: &str, log: &str) -> (i32, String, String) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/outside-probe");
    let ran = Command::new(script)
        .args([url, log])
        .envs([("ATTEMPTS", "2"), ("DELAY", "0"), ("TIMEOUT", "5")])
        .output()
        .expect("the script runs");
    let text = |bytes| String::from_utf8(bytes).expect("it prints UTF-8");
    let status = ran.status.code().expect("it was not killed");
    (status, text(ran.stdout), text(ran.stderr))
}

#[tokio::test]
async fn the_probe_from_outside_writes_a_log_for_uptime() {
    let yaml = "routes:\n  - { match: { path: / }, respond: { status: 200 } }\n\
                \x20 - { match: { path: /broken }, respond: { status: 500 } }\n";
    let gateway = Gateway::start(yaml).await;
    let folder = tempfile::tempdir().expect("a folder for the test can be made");
    let log = folder.path().join("site.log").display().to_string();
    let url = format!("http://{}", gateway.address());
    let (status, line, stderr) = outside(&format!("{url}/"), &log);
    assert_eq!((status, stderr.as_str()), (0, ""), "{line}");
    let line: Value = serde_json::from_str(&line).expect("it prints JSON");
    assert_eq!(
        (&line["ok"], &line["probes"][0]["attempts"]),
        (&true.into(), &1.into())
    );
    // A bad status, and then a site that is gone.
    let (status, line, stderr) = outside(&format!("{url}/broken"), &log);
    assert_eq!(status, 1, "{line}");
    assert!(stderr.contains("500"), "{stderr}");
    drop(gateway);
    let (status, line, stderr) = outside(&format!("{url}/"), &log);
    assert_eq!(status, 1, "{line}");
    assert!(stderr.contains("does not respond"), "{stderr}");
    let line: Value = serde_json::from_str(&line).expect("it prints JSON");
    assert_eq!(line["probes"][0]["attempts"], 2);
    let ran = edgeway(&["uptime", "--probe", "outside", &log]);
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    assert!(
        ran.stdout.contains("availability 33.3333%"),
        "{}",
        ran.stdout
    );
}

fn output(program: &str, arguments: &[&str]) -> String {
    let ran = Command::new(program).args(arguments).output();
    let ran = ran.expect("the tool of the system is there");
    String::from_utf8(ran.stdout).expect("it prints UTF-8")
}

/// Runs `edgeway monitor` once.
fn monitor(kit: &Kit) -> Value {
    let ran = kit.run(&["monitor", "--interval", "500ms"]);
    let text = String::from_utf8(ran.stdout).expect("it prints UTF-8");
    assert_eq!((ran.status.code(), text.lines().count()), (Some(0), 1));
    serde_json::from_str(&text).expect("it prints JSON")
}

#[test]
fn the_machine_is_measured_as_its_own_tools_do() {
    let line = monitor(&Kit::new());
    for section in ["cpu", "mem", "disk", "net", "procs"] {
        assert!(line[section].is_object(), "{section}: {line}");
    }
    // `/proc/stat` has those that are online, whatever this process may use.
    let cores = output("getconf", &["_NPROCESSORS_ONLN"]);
    assert_eq!(line["cpu"]["cores"].to_string(), cores.trim());

    let memory = output("free", &["-b"]);
    let mut words = memory
        .lines()
        .nth(1)
        .expect("it has a line")
        .split_whitespace();
    let total = words.nth(1).expect("it has a total");
    assert_eq!(line["mem"]["total_bytes"].to_string(), total);
    let available: f64 = words.last().unwrap().parse().expect("it is a number");
    let own = line["mem"]["available_bytes"].as_f64().unwrap();
    // Other tests allocate meanwhile.
    let total: f64 = total.parse().unwrap();
    assert!((own - available).abs() < 0.25 * total, "{own} {available}");

    let df = output("df", &["-B1", "--output=size,pcent", "/"]);
    let root: Vec<&str> = df.lines().last().unwrap().split_whitespace().collect();
    let mounts = line["disk"]["mounts"].as_array().expect("there are some");
    let own = mounts.iter().find(|mount| mount["path"] == "/");
    let own = own.expect("there is a root");
    assert_eq!(own["total_bytes"].to_string(), root[0]);
    let used = 100.0 * own["used"].as_f64().expect("it is a number");
    let expected: f64 = root[1].trim_end_matches('%').parse().unwrap();
    // `df` rounds up.
    assert!((used - expected).abs() <= 1.1, "{used} {expected}");

    let processes = output("ps", &["-e", "--no-headers"]).lines().count();
    #[expect(clippy::cast_precision_loss, reason = "they are few")]
    let processes = processes as f64;
    let own = line["procs"]["total"].as_f64().expect("it is a number");
    // Other tests start and end some.
    let slack = 10.0 + 0.3 * processes;
    assert!((own - processes).abs() < slack, "{own} {processes}");
}

/// A process that uses a processor; killed when dropped.
struct Busy(Child);

impl Busy {
    fn start() -> Self {
        let child = Command::new("sh")
            .args(["-c", "while :; do :; done"])
            .stdin(Stdio::null())
            .spawn();
        Self(child.expect("sh is there"))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[tokio::test]
async fn a_busy_process_is_listed_until_it_ends() {
    let kit = Kit::new();
    let busy = Busy::start();
    let pid = busy.0.id();
    let of = |line: &Value| {
        let list = line["procs"]["busiest"].as_array().expect("there are some");
        let found = list.iter().find(|process| process["pid"] == pid)?;
        found["cpu"].as_f64()
    };
    // Compilers of other tests may be busier for a while.
    wait_for("the busy process", Duration::from_mins(1), async || {
        of(&monitor(&kit)).filter(|cpu| (0.1..=1.1).contains(cpu))
    })
    .await;
    drop(busy);
    assert_eq!(of(&monitor(&kit)), None);
}

#[test]
fn restarts_of_units_are_counted_where_systemd_is() {
    let kit = Kit::new();
    let shown = |restarts: u32| {
        let text = format!(
            "MainPID=1\nNRestarts={restarts}\nControlGroup=\nMemoryCurrent=1024\n\
             Id=node-app@3000.service\nLoadState=loaded\nActiveState=active\nSubState=running\n"
        );
        fs::write(kit.path("shown"), text).expect("the folder takes files");
    };
    for restarts in [0, 1] {
        shown(restarts);
        let line = monitor(&kit);
        let unit = &line["units"][0];
        assert_eq!(unit["unit"], "node-app@3000.service", "{line}");
        assert_eq!(unit["restarts"], restarts);
        assert_eq!(unit["memory_bytes"], 1024);
    }
    let script = "#!/bin/sh\necho 'System has not been booted with systemd' >&2\nexit 1\n";
    fs::write(kit.path("systemctl"), script).expect("the folder takes files");
    let line = monitor(&kit);
    assert_eq!(line["units"], Value::Array(Vec::new()));
    let problem = line["units_problem"].as_str().expect("there is one");
    assert!(problem.contains("systemd does not run"), "{problem}");
}

#[test]
fn a_watched_machine_is_a_line_for_each_interval_until_nobody_reads() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_edgeway"))
        .args(["monitor", "--watch", "--interval", "100ms"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let stdout = child.stdout.take().expect("it has an output");
    let lines = std::io::BufRead::lines(std::io::BufReader::new(stdout));
    let lines: Vec<String> = lines.take(3).map(|line| line.unwrap()).collect();
    for line in &lines {
        let line: Value = serde_json::from_str(line).expect("each line is JSON");
        assert!(line["cpu"].is_object());
    }
    // Its next line meets a closed pipe, which is a good end.
    assert!(child.wait().expect("it ends").success());
}
