//! Real Redis servers on their own ports, which tests stop, pause and bring back: one server, a
//! cluster of six, or one with sentinels.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{
    files::tail,
    ports::free_ports,
    wait::{until, wait_for},
};

const READY_WITHIN: Duration = Duration::from_secs(20);

/// Secret of every fleet in the tests, so that gateways accept each other's data.
pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Running server; killed when dropped.
#[derive(Debug)]
pub(crate) struct Redis {
    child: Option<Child>,
    port: u16,
    arguments: Vec<String>,
    /// Credentials for `redis-cli`.
    credentials: Vec<String>,
    folder: TempDir,
}

impl Redis {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[], &[]).await
    }

    /// Starts a server with these arguments, and with these credentials for `redis-cli`.
    pub(crate) async fn start_with(arguments: &[&str], credentials: &[&str]) -> Self {
        Self::start_at(free_ports(1), arguments, credentials).await
    }

    /// Starts a server on a given port.
    pub(crate) async fn start_at(port: u16, arguments: &[&str], credentials: &[&str]) -> Self {
        let redis = Self::begin(port, arguments, credentials);
        redis.ready().await;
        redis
    }

    fn begin(port: u16, arguments: &[&str], credentials: &[&str]) -> Self {
        let owned = |list: &[&str]| list.iter().map(|item| (*item).to_owned()).collect();
        let mut redis = Self {
            child: None,
            port,
            arguments: owned(arguments),
            credentials: owned(credentials),
            folder: tempfile::tempdir().expect("a folder for the test can be made"),
        };
        redis.spawn();
        redis
    }

    /// Returns true for a sentinel, which is started with a file instead of options.
    fn is_sentinel(&self) -> bool {
        let first = self.arguments.first();
        first.is_some_and(|argument| !argument.starts_with("--"))
    }

    fn spawn(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_file())
            .expect("the folder takes files");
        let port = self.port.to_string();
        let mut command = Command::new("redis-server");
        if self.is_sentinel() {
            command.arg(&self.arguments[0]).arg("--sentinel");
        } else {
            command.args(["--save", "", "--appendonly", "no"]);
            if !self.arguments.iter().any(|a| a == "--tls-port") {
                command.args(["--port", &port]);
            }
            command.args(&self.arguments);
        }
        let child = command
            .args(["--bind", "127.0.0.1"])
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file has another handle"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("redis-server: {error}; run `make setup-tests`"));
        self.child = Some(child);
    }

    async fn ready(&self) {
        let mut ask = async || (self.try_cli(&["PING"])? == "PONG").then_some(());
        if until(READY_WITHIN, &mut ask).await.is_none() {
            let pong = self.run_cli(&["PING"]);
            panic!(
                "redis-server is not ready: {pong:?} {}",
                tail(&self.log_file())
            );
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Returns the contents of a section `redis` for gateways that share a cache.
    pub(crate) fn section(&self, more: &str) -> String {
        format!("{{ url: '{}', secret: '{SECRET}'{more} }}", self.url())
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the output of `redis-cli`.
    pub(crate) fn cli(&self, arguments: &[&str]) -> String {
        self.try_cli(arguments)
            .unwrap_or_else(|| panic!("redis-cli {arguments:?} on {} fails", self.port))
    }

    /// Returns the output of `redis-cli`, if it succeeds.
    pub(crate) fn try_cli(&self, arguments: &[&str]) -> Option<String> {
        let output = self.run_cli(arguments);
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(text)
    }

    fn run_cli(&self, arguments: &[&str]) -> Output {
        Command::new("timeout")
            .args(["5", "redis-cli", "-p", &self.port.to_string()])
            .args(&self.credentials)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|error| panic!("redis-cli: {error}; run `make setup-tests`"))
    }

    /// Kills it, as a crash does; all of its data is lost.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("a child of ours can be killed");
            child.wait().expect("a child of ours can be waited for");
        }
    }

    /// Starts it again on the same port.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        self.spawn();
        self.ready().await;
    }

    /// Pauses it: it accepts connections and does not respond.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).expect("a child of ours takes signals");
    }

    /// Returns true for a server that takes writes.
    pub(crate) fn is_master(&self) -> bool {
        let role = self.try_cli(&["ROLE"]).unwrap_or_default();
        role.starts_with("master")
    }

    /// Sets if this server, as a replica, may follow its master.
    pub(crate) fn may_follow(&self, may_follow: bool) {
        let password = if may_follow { "" } else { "refused" };
        self.cli(&["CONFIG", "SET", "masterauth", password]);
    }

    /// Removes every key and every script.
    pub(crate) fn flush(&self) {
        assert_eq!(self.cli(&["FLUSHALL"]), "OK");
        assert_eq!(self.cli(&["SCRIPT", "FLUSH"]), "OK");
    }

    /// Returns the ids of client connections other than the caller's.
    pub(crate) fn clients(&self) -> Vec<String> {
        let list = self.cli(&["CLIENT", "LIST"]);
        let others = list.lines().filter(|line| !line.contains("cmd=client"));
        let mut ids: Vec<String> = others
            .filter_map(|line| Some(line.split(' ').next()?.to_owned()))
            .collect();
        ids.sort();
        ids
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("redis.log")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!(
                "--- redis on {} logged:\n{}",
                self.port,
                tail(&self.log_file())
            );
        }
    }
}

/// Cluster of three masters, each with a replica that takes over soon.
#[derive(Debug)]
pub(crate) struct Cluster(pub(crate) Vec<Redis>);

impl Cluster {
    pub(crate) async fn start() -> Self {
        let first = free_ports(12);
        let mut nodes = Vec::new();
        for index in 0..6 {
            let bus = (first + 6 + index).to_string();
            let arguments = [
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                &bus,
                "--cluster-node-timeout",
                "1000",
                "--cluster-require-full-coverage",
                "no",
                "--repl-diskless-sync-delay",
                "0",
            ];
            nodes.push(Redis::begin(first + index, &arguments, &[]));
        }
        for node in &nodes {
            node.ready().await;
        }
        let addresses: Vec<String> = nodes.iter().map(Redis::address).collect();
        let mut arguments = vec!["--cluster", "create"];
        arguments.extend(addresses.iter().map(String::as_str));
        arguments.extend(["--cluster-replicas", "1", "--cluster-yes"]);
        let made = Command::new("redis-cli")
            .args(&arguments)
            .stdin(Stdio::null())
            .output()
            .expect("redis-cli is there");
        assert!(
            made.status.success(),
            "{}{}",
            String::from_utf8_lossy(&made.stdout),
            String::from_utf8_lossy(&made.stderr)
        );
        let cluster = Self(nodes);
        wait_for("replicas follow their masters", READY_WITHIN, async || {
            let is_settled = |node: &Redis| {
                let info = node.cli(&["INFO", "replication"]);
                let is_linked =
                    info.contains("master_link_status:up") || info.contains("connected_slaves:1");
                is_linked && node.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
            };
            cluster.0.iter().all(is_settled).then_some(())
        })
        .await;
        cluster
    }

    pub(crate) fn addresses(&self) -> String {
        let addresses: Vec<String> = self.0.iter().map(Redis::address).collect();
        addresses.join(", ")
    }

    /// Moves the slot of `key` to another master, key by key.
    pub(crate) fn move_slot(&self, key: &str) {
        let slot = self.0[0].cli(&["CLUSTER", "KEYSLOT", key]);
        let ask = |node: &Redis, words: &str| {
            let words = words.replace("SLOT ", &format!("SLOT {slot} "));
            node.cli(&words.split(' ').collect::<Vec<_>>())
        };
        let masters = self.masters().into_iter().map(|index| &self.0[index]);
        let (from, to): (Vec<_>, Vec<_>) =
            masters.partition(|node| node.cli(&["CLUSTER", "COUNTKEYSINSLOT", &slot]) != "0");
        let ([from], [to, ..]) = (&from[..], &to[..]) else {
            panic!("one master has the slot, and there are others");
        };
        let id = |node: &Redis| node.cli(&["CLUSTER", "MYID"]);
        ask(to, &format!("CLUSTER SETSLOT IMPORTING {}", id(from)));
        ask(from, &format!("CLUSTER SETSLOT MIGRATING {}", id(to)));
        let port = to.port().to_string();
        loop {
            let keys = ask(from, "CLUSTER GETKEYSINSLOT 1");
            if keys.is_empty() {
                break;
            }
            from.cli(&["MIGRATE", "127.0.0.1", &port, &keys, "0", "5000"]);
        }
        for node in [to, from] {
            ask(node, &format!("CLUSTER SETSLOT NODE {}", id(to)));
        }
    }

    /// Returns the indices of the servers that take writes now.
    pub(crate) fn masters(&self) -> Vec<usize> {
        (0..self.0.len())
            .filter(|index| self.0[*index].is_master())
            .collect()
    }
}

/// Master, replica and three sentinels that soon agree.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) nodes: [Redis; 2],
    pub(crate) sentinels: Vec<Redis>,
    /// Folder that the sentinels write to until they end.
    folder: TempDir,
}

impl Watched {
    pub(crate) async fn start() -> Self {
        let master = Redis::start().await;
        let port = master.port().to_string();
        let replica = Redis::start_with(
            &[
                "--replicaof",
                "127.0.0.1",
                &port,
                "--repl-diskless-sync-delay",
                "0",
            ],
            &[],
        )
        .await;
        wait_for("the replica follows", READY_WITHIN, async || {
            let info = replica.cli(&["INFO", "replication"]);
            info.contains("master_link_status:up").then_some(())
        })
        .await;
        let folder = tempfile::tempdir().expect("a folder for the test can be made");
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            sentinels.push(sentinel(&folder, &port, "").await);
        }
        let watched = Self {
            nodes: [master, replica],
            sentinels,
            folder,
        };
        wait_for("the sentinels know one another", READY_WITHIN, async || {
            let knows_all = |sentinel: &Redis| {
                let reply = sentinel.cli(&["SENTINEL", "MASTER", "main"]);
                let reply: Vec<&str> = reply.lines().collect();
                let has = |name: &str, value: &str| {
                    reply
                        .windows(2)
                        .any(|pair| pair[0] == name && pair[1] == value)
                };
                has("num-other-sentinels", "2") && has("num-slaves", "1")
            };
            watched.sentinels.iter().all(knows_all).then_some(())
        })
        .await;
        watched
    }

    /// Starts a sentinel that neither knows the others nor is known to them.
    pub(crate) async fn cut_off(&self) -> Redis {
        let [master, _] = &self.nodes;
        for rules in [
            "alone on >alone ~* &* +@all -info -publish",
            "default -publish",
        ] {
            let rules = format!("ACL SETUSER {rules}");
            master.cli(&rules.split(' ').collect::<Vec<_>>());
        }
        let user = "sentinel auth-user main alone\nsentinel auth-pass main alone\n";
        sentinel(&self.folder, &master.port().to_string(), user).await
    }
}

async fn sentinel(folder: &TempDir, master: &str, more: &str) -> Redis {
    let own = free_ports(1);
    let file = folder.path().join(format!("{own}.conf"));
    let text = format!(
        "port {own}\nsentinel monitor main 127.0.0.1 {master} 2\n\
         sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n{more}"
    );
    fs::write(&file, text).expect("the folder takes files");
    let file = file.display().to_string();
    let sentinel = Redis::begin(own, &[&file], &[]);
    sentinel.ready().await;
    sentinel
}
