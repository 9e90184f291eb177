//! The real binary as a process, on its own ports.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::SocketAddr,
    os::unix::{fs::symlink, process::CommandExt},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::UnixStream;

use super::{
    client::{self, Connection, Request, Response, get, post_json},
    files::{read_text, tail},
    wait::{until, wait_for},
};

const READY_WITHIN: Duration = Duration::from_mins(1);

/// Running gateway; killed when dropped.
#[derive(Debug)]
pub(crate) struct Gateway {
    /// First process; upgrades replace it.
    child: Child,
    dir: TempDir,
    ready: Ready,
}

/// Content that `edgeway run` writes to `EDGEWAY_READY_FILE` once it serves.
#[derive(Debug, Deserialize)]
struct Ready {
    pid: u32,
    listeners: Vec<ReadyListener>,
    #[serde(default)]
    admin: Option<SocketAddr>,
    #[serde(default)]
    admin_socket: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ReadyListener {
    name: String,
    address: String,
}

impl Gateway {
    /// Starts a gateway with this configuration and waits until it serves.
    ///
    /// A listener on any port, the admin listener and an access log are added if `yaml` has no such
    /// section.
    pub(crate) async fn start(yaml: &str) -> Self {
        Self::start_with(yaml, &[]).await
    }

    /// Starts a gateway as [`Gateway::start`] does, with environment variables.
    pub(crate) async fn start_with(yaml: &str, environment: &[(&str, &str)]) -> Self {
        Self::start_prepared(yaml, environment, |_| ()).await
    }

    /// Starts a gateway as [`Gateway::start`] does, with the files that `prepare` writes into its
    /// folder.
    pub(crate) async fn start_in(yaml: &str, prepare: impl FnOnce(&Path)) -> Self {
        Self::start_prepared(yaml, &[], prepare).await
    }

    /// Starts a gateway as [`Gateway::start`] does, with both.
    pub(crate) async fn start_prepared(
        yaml: &str,
        environment: &[(&str, &str)],
        prepare: impl FnOnce(&Path),
    ) -> Self {
        let dir = tempfile::tempdir().expect("a folder for the test can be made");
        prepare(dir.path());
        let file = dir.path().join("edgeway.yaml");
        fs::write(&file, complete(yaml, dir.path())).expect("the folder takes files");
        let (child, ready) = run(dir.path(), &[], environment).await;
        Self { child, dir, ready }
    }

    /// Starts another process in the same folder, after this one has ended.
    pub(crate) async fn start_again(&mut self, arguments: &[&str], environment: &[(&str, &str)]) {
        fs::remove_file(self.dir.path().join("ready.json")).expect("it was ready");
        stop(&mut self.child);
        (self.child, self.ready) = run(self.dir.path(), arguments, environment).await;
    }

    /// Returns the address of the first listener.
    pub(crate) fn address(&self) -> SocketAddr {
        let first = self.ready.listeners.first().expect("there is a listener");
        first.address.parse().expect("it listens on an IP address")
    }

    /// Returns the address of the listener with this name.
    pub(crate) fn listener(&self, name: &str) -> &str {
        let found = self.ready.listeners.iter().find(|l| l.name == name);
        &found.expect("the listener is in the configuration").address
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        self.ready
            .admin
            .expect("the admin listener is on an address")
    }

    /// Returns the unix socket for the option `--socket` of commands.
    pub(crate) fn admin_socket(&self) -> &str {
        let socket = self.ready.admin_socket.as_deref();
        socket.expect("there is an admin socket")
    }

    pub(crate) fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the id of the process that serves.
    pub(crate) fn pid(&self) -> u32 {
        self.ready.pid
    }

    /// Replaces this process with another one; returns the id of the old one.
    pub(crate) async fn upgrade(&mut self) -> u32 {
        let before = self.pid();
        self.signal(Signal::USR2);
        self.upgraded().await;
        before
    }

    /// Sets the program that an upgrade starts from now on.
    pub(crate) fn set_program(&self, program: &Path) {
        let link = self.dir.path().join("edgeway");
        let new = self.dir.path().join("edgeway.new");
        symlink(program, &new).expect("the folder takes links");
        fs::rename(new, link).expect("a link is replaced");
    }

    /// Waits until another process serves, and follows it.
    pub(crate) async fn upgraded(&mut self) {
        let before = self.pid();
        let file = self.dir.path().join("ready.json");
        self.ready = wait_for("another process serves", READY_WITHIN, async || {
            let text = read_text(&file).ok()?;
            let ready: Ready = serde_json::from_str(&text).expect("the ready file is JSON");
            (ready.pid != before).then_some(ready)
        })
        .await;
        // For a moment both accept connections.
        let inode = socket_of(self.address());
        wait_for(
            "the old process accepts no more",
            READY_WITHIN,
            async || (!holds(before, &inode)).then_some(()),
        )
        .await;
    }

    pub(crate) async fn connect(&self) -> Connection {
        let opened = Connection::open(self.address()).await;
        opened.expect("the gateway accepts connections")
    }

    /// Sends one request on its own connection.
    pub(crate) async fn send(&self, request: &Request) -> Response {
        let sent = client::send(self.address(), request).await;
        sent.expect("the gateway responds")
    }

    pub(crate) async fn get(&self, target: &str) -> Response {
        self.send(&get(target)).await
    }

    /// Sends a request over the admin socket, as the gateway's own user.
    pub(crate) async fn send_admin(&self, request: &Request) -> Response {
        let stream = UnixStream::connect(self.admin_socket()).await;
        let stream = stream.expect("the admin socket can be opened");
        let mut connection = Connection::over(stream, "localhost".to_owned());
        let sent = connection.send(request).await;
        sent.expect("the admin listener responds")
    }

    /// Sends a request to the admin listener over TCP, as any local process can.
    pub(crate) async fn send_admin_tcp(&self, request: &Request) -> Response {
        let sent = client::send(self.admin(), request).await;
        sent.expect("the admin listener responds")
    }

    pub(crate) async fn admin_get(&self, target: &str) -> Response {
        self.send_admin(&get(target)).await
    }

    /// Returns the sum over all series of this name that have at least these labels:
    /// `edgeway_http_requests_total{status="200"}`. A missing series is 0.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        sum_of(&self.admin_get("/metrics").await.text(), series)
    }

    /// Returns a counter or gauge with an integer value.
    pub(crate) async fn count(&self, series: &str) -> u64 {
        self.metric(series).await as u64
    }

    /// Waits until the count is `expected`: a request is counted when its response has been sent.
    pub(crate) async fn counts(&self, series: &str, expected: u64) {
        let condition = format!("{series} is {expected}");
        wait_for(&condition, Duration::from_secs(5), async || {
            (self.count(series).await == expected).then_some(())
        })
        .await;
    }

    /// Returns the access log by time, once it has at least `at_least` lines.
    pub(crate) async fn log_lines(&self, at_least: usize) -> Vec<Value> {
        let file = self.dir.path().join("access.log");
        let mut found = 0;
        let mut complete = async || {
            let text = read_text(&file).unwrap_or_default();
            // A line that is being written has no end yet.
            let complete = text.rfind('\n').map_or("", |end| &text[..end]);
            found = complete.lines().count();
            let lines = (found >= at_least).then(|| complete.lines().map(serde_json::from_str));
            lines?.collect::<Result<Vec<Value>, _>>().ok()
        };
        let lines = until(Duration::from_secs(30), &mut complete).await;
        let mut lines = lines
            .unwrap_or_else(|| panic!("{found} of {at_least} lines of the access log are there"));
        // Each thread of the gateway writes those of its own requests.
        lines.sort_by(|one, other| one["time"].as_str().cmp(&other["time"].as_str()));
        lines
    }

    /// Waits until the gateway follows the purges of others. Before that it does not know which of
    /// them it missed, and drops what it stored.
    pub(crate) async fn follows_purges(&self) {
        wait_for("purges are followed", Duration::from_secs(10), async || {
            let status = self.status().await;
            (status["purges"]["leased"] == true).then_some(())
        })
        .await;
    }

    /// Returns the lines of `audit.log` with this action, once there is one.
    pub(crate) async fn audited(&self, action: &str) -> Vec<Value> {
        self.audit_log(1, |line| line["action"] == action).await
    }

    /// Returns those lines of `audit.log` that are meant, once there are at least `at_least`.
    pub(crate) async fn audit_log(
        &self,
        at_least: usize,
        is_meant: impl Fn(&Value) -> bool,
    ) -> Vec<Value> {
        let file = self.dir.path().join("audit.log");
        wait_for(
            "the audit log is written",
            Duration::from_secs(10),
            async || {
                let text = read_text(&file).unwrap_or_default();
                let complete = text.rfind('\n').map_or("", |end| &text[..end]);
                let lines = complete.lines().map(serde_json::from_str);
                let lines = lines.map(|line| line.expect("each line is JSON"));
                let lines: Vec<Value> = lines.filter(&is_meant).collect();
                (lines.len() >= at_least).then_some(lines)
            },
        )
        .await
    }

    /// Orders a purge; returns the status, and the receipt or the error.
    pub(crate) async fn purge(&self, order: &Value) -> (u16, Value) {
        let response = self.send_admin(&post_json("/v1/purge", order)).await;
        (response.status(), response.json())
    }

    /// Returns the number of requests and connections that were refused for this reason.
    pub(crate) async fn refused(&self, reason: &str) -> u64 {
        let series = format!("edgeway_refused_total{{reason=\"{reason}\"}}");
        self.count(&series).await
    }

    /// Waits until so many were refused: a refusal is counted when its response has been sent.
    pub(crate) async fn refuses(&self, reason: &str, expected: u64) {
        let series = format!("edgeway_refused_total{{reason=\"{reason}\"}}");
        self.counts(&series, expected).await;
    }

    /// Returns the complete lines that the gateway logged so far.
    pub(crate) fn stderr(&self) -> String {
        let mut text = read_text(self.dir.path().join("stderr")).unwrap_or_default();
        // A line that is being written has no end yet.
        text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
        text
    }

    /// Returns the resident memory in bytes.
    pub(crate) fn rss(&self) -> u64 {
        rss_of(self.pid())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().cast_signed()).expect("no process is number 0");
        kill_process(pid, signal).expect("the gateway runs");
    }

    /// Replaces the gateway's configuration file.
    pub(crate) fn configure(&self, yaml: &str) {
        let file = self.dir.path().join("edgeway.yaml");
        let beside = self.dir.path().join("edgeway.yaml.new");
        fs::write(&beside, complete(yaml, self.dir.path())).expect("the folder takes files");
        // A process that watches the file sees it complete.
        fs::rename(beside, file).expect("a file is replaced");
    }

    /// Reloads with this configuration; returns true if it was accepted.
    pub(crate) async fn reload(&self, yaml: &str) -> bool {
        self.configure(yaml);
        let taken = "edgeway_config_reloads_total{outcome=\"ok\"}";
        let refused = "edgeway_config_reloads_total{outcome=\"refused\"}";
        let logged = |log: &str| log.matches("new configuration rejected").count();
        let before = (self.count(taken).await, self.count(refused).await);
        let logged_before = logged(&self.stderr());
        self.signal(Signal::HUP);
        wait_for("the configuration was read", READY_WITHIN, async || {
            let metrics = self.admin_get("/metrics").await.text();
            let now = (
                sum_of(&metrics, taken) as u64,
                sum_of(&metrics, refused) as u64,
            );
            // The log tells why a configuration was refused, just after the metric.
            let is_logged = now.1 == before.1 || logged(&self.stderr()) > logged_before;
            (now != before && is_logged).then_some(now.0 > before.0)
        })
        .await
    }

    /// Returns `/status`.
    pub(crate) async fn status(&self) -> Value {
        let ask = get("/status").header("accept", "application/json");
        self.send_admin(&ask).await.json()
    }

    /// Returns the current listeners by name.
    pub(crate) async fn listeners(&self) -> BTreeMap<String, SocketAddr> {
        let status = self.status().await;
        let listeners = status["listeners"].as_array().expect("a list").iter();
        listeners
            .filter_map(|listener| {
                let address = listener["address"].as_str()?.parse().ok()?;
                Some((listener["name"].as_str()?.to_owned(), address))
            })
            .collect()
    }

    /// Returns the exit status if the process has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child
            .try_wait()
            .expect("a child of ours can be waited for")
    }

    /// Terminates a process that an upgrade has started, as [`Gateway::terminate`] does.
    pub(crate) async fn terminate_newest(&mut self, within: Duration) -> bool {
        self.signal(Signal::TERM);
        let pid = self.pid();
        let gone = &mut async || (!is_alive(pid)).then_some(());
        until(within, gone).await.is_some()
    }

    /// Asks the process to exit, and waits until it has.
    pub(crate) async fn terminate(&mut self, within: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.leaves(within).await
    }

    /// Waits until the process has exited, after an earlier request.
    pub(crate) async fn leaves(&mut self, within: Duration) -> ExitStatus {
        let child = &mut self.child;
        wait_for("the gateway has left", within, async || {
            child.try_wait().expect("a child of ours can be waited for")
        })
        .await
    }
}

/// Starts the program with the configuration in `dir`, and waits until it serves.
async fn run(dir: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> (Child, Ready) {
    let file = dir.join("edgeway.yaml");
    let ready_file = dir.join("ready.json");
    let stderr = File::create(dir.join("stderr")).expect("the folder takes files");
    // Through its own symlink, which a test may change to another program.
    let program = dir.join("edgeway");
    if !program.exists() {
        symlink(env!("CARGO_BIN_EXE_edgeway"), &program).expect("the folder takes links");
    }
    let mut child = Command::new(&program)
        .arg("run")
        .arg("-c")
        .arg(&file)
        .args(arguments)
        .env_remove("STATE_DIRECTORY")
        // The default folder of its admin socket.
        .env("RUNTIME_DIRECTORY", dir.join("run"))
        .env("XDG_STATE_HOME", dir.join("state"))
        .envs(environment.iter().copied())
        .env("EDGEWAY_READY_FILE", &ready_file)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        // A process group, so that all of its descendants can be ended.
        .process_group(0)
        .spawn()
        .expect("the gateway's binary starts");
    let ready = until(READY_WITHIN, &mut async || {
        if let Ok(text) = read_text(&ready_file) {
            return Some(Ok(
                serde_json::from_str(&text).expect("the ready file is JSON")
            ));
        }
        let ended = child
            .try_wait()
            .expect("a child of ours can be waited for")?;
        Some(Err(ended))
    })
    .await;
    let problem = match ready {
        Some(Ok(ready)) => return (child, ready),
        Some(Err(status)) => format!("the gateway ended with {status}"),
        None => format!("the gateway was not ready within {READY_WITHIN:?}"),
    };
    stop(&mut child);
    let yaml = read_text(&file).unwrap_or_default();
    panic!("{problem}\n{}\n{yaml}", tail(&dir.join("stderr")));
}

impl Drop for Gateway {
    fn drop(&mut self) {
        stop(&mut self.child);
        if std::thread::panicking() {
            let folder = self.dir.path();
            eprintln!(
                "--- the gateway logged:\n{}\n--- its access log:\n{}",
                tail(&folder.join("stderr")),
                tail(&folder.join("access.log"))
            );
        }
    }
}

/// Returns the resident memory of a process in bytes.
pub(crate) fn rss_of(pid: u32) -> u64 {
    let status = read_text(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.expect("a process has resident memory") * 1024
}

/// Returns the CPU time of a process since its start, to a hundredth of a second.
pub(crate) fn cpu_of(pid: u32) -> Duration {
    let stat = read_text(format!("/proc/{pid}/stat")).expect("the process runs");
    // The name, in parentheses, may hold spaces; user and system time are 14th and 15th.
    let (_, rest) = stat.rsplit_once(") ").expect("a name in parentheses");
    let ticks = rest.split(' ').skip(11).take(2).map(|field| {
        let ticks: Result<u64, _> = field.parse();
        ticks.expect("times are numbers")
    });
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

fn stop(child: &mut Child) {
    // The processes may have ended by themselves; both calls then fail, which is fine.
    kill_process_group(Pid::from_child(child), Signal::KILL).ok();
    drop(child.wait());
}

/// Returns the socket that listens on an address, as links in `/proc` name it.
fn socket_of(address: SocketAddr) -> String {
    let SocketAddr::V4(address) = address else {
        panic!("{address} is not IPv4");
    };
    let ip = u32::from_ne_bytes(address.ip().octets());
    let local = format!("{ip:08X}:{:04X}", address.port());
    let table = read_text("/proc/net/tcp").expect("Linux tells its sockets");
    let fields = table.lines().map(|line| line.split_whitespace().collect());
    let listening = fields
        .into_iter()
        .find(|fields: &Vec<&str>| fields.get(1) == Some(&&*local) && fields.get(3) == Some(&"0A"))
        .expect("somebody listens there");
    format!("socket:[{}]", listening[9])
}

/// Checks whether a process has this file open.
fn holds(pid: u32, file: &str) -> bool {
    let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    open.flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .any(|target| target.as_os_str() == file)
}

/// Checks whether a process exists and is not a zombie.
pub(crate) fn is_alive(pid: u32) -> bool {
    read_text(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn complete(yaml: &str, dir: &Path) -> String {
    let has = |section: &str| {
        yaml.lines().any(|line| {
            line.strip_prefix(section)
                .is_some_and(|rest| rest.starts_with(':'))
        })
    };
    let mut all = String::new();
    if !has("listeners") {
        all.push_str("listeners: [{ address: \"127.0.0.1:0\", name: web }]\n");
    }
    if !has("admin") {
        all.push_str("admin: { address: \"127.0.0.1:0\" }\n");
    }
    if !has("access_log") {
        let log = dir.join("access.log");
        let line = format!("access_log: {{ file: {}, format: json }}\n", log.display());
        all.push_str(&line);
    }
    all.push_str(yaml);
    // Another driver of the requests than the usual one, in a run of all tests.
    if let Ok(driver) = std::env::var("EDGEWAY_TEST_DRIVER")
        && !has("driver")
    {
        all.push_str(&format!("\ndriver: {driver}\n"));
    }
    all
}

pub(crate) fn sum_of(metrics: &str, series: &str) -> f64 {
    let (name, wanted) = split_series(series);
    metrics
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (found, labels) = split_series(series);
            let fits = found == name && wanted.iter().all(|label| labels.contains(label));
            fits.then(|| value.parse::<f64>().expect("a sample is a number"))
        })
        .sum()
}

/// Splits `name{a="1",b="2"}` into its name and its labels; label values here contain no comma.
fn split_series(series: &str) -> (&str, Vec<&str>) {
    match series.split_once('{') {
        Some((name, labels)) => {
            let labels = labels.trim_end_matches('}');
            (name, labels.split(',').filter(|l| !l.is_empty()).collect())
        }
        None => (series, Vec::new()),
    }
}

#[test]
fn series_are_summed_over_the_labels_that_are_not_named() {
    let text = "# HELP a\na{x=\"1\",y=\"2\"} 3\na{x=\"1\",y=\"3\"} 4\nab{x=\"1\"} 9\nb 5\n";
    let sums = ["a{x=\"1\"}", "a{y=\"3\"}", "a", "b", "c"].map(|series| sum_of(text, series));
    assert_eq!(sums, [7.0, 4.0, 7.0, 5.0, 0.0]);
}
