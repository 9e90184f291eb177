//! A real Prometheus and a real Alertmanager on their own ports.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use super::{
    client::{self, get},
    files::tail,
    ports::free_port,
    wait::until,
};

const READY_WITHIN: Duration = Duration::from_secs(20);

/// Running server; killed when dropped.
#[derive(Debug)]
struct Server {
    child: Child,
    port: u16,
    folder: TempDir,
}

impl Server {
    /// Starts `program` in a folder with these files, and waits until it is ready.
    async fn start(program: &str, files: &[(&str, &str)], arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the test can be made");
        for (name, text) in files {
            fs::write(folder.path().join(name), text).expect("the folder takes files");
        }
        let port = free_port();
        let log = File::create(folder.path().join("log")).expect("the folder takes files");
        let child = Command::new(program)
            .args(arguments)
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file has another handle"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}; run `make setup-tests`"));
        let server = Self {
            child,
            port,
            folder,
        };
        let mut ask = async || {
            let response = client::send(server.address(), &get("/-/ready")).await;
            (response.ok()?.status() == 200).then_some(())
        };
        let ready = until(READY_WITHIN, &mut ask).await;
        assert!(ready.is_some(), "{program} is not ready: {}", server.log());
        server
    }

    fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    fn log(&self) -> String {
        tail(&self.folder.path().join("log"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, which is fine.
        self.child.kill().ok();
        drop(self.child.wait());
        if std::thread::panicking() {
            eprintln!(
                "--- {} logged:\n{}",
                self.folder.path().display(),
                self.log()
            );
        }
    }
}

/// Running Prometheus.
#[derive(Debug)]
pub(crate) struct Prometheus(Server);

impl Prometheus {
    /// Starts it with this configuration, beside which there are `files`.
    pub(crate) async fn start(config: &str, files: &[(&str, &str)]) -> Self {
        let mut all = vec![("prometheus.yml", config)];
        all.extend(files);
        let arguments = [
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            "--enable-feature=exemplar-storage",
            "--log.level=warn",
        ];
        Self(Server::start("prometheus", &all, &arguments).await)
    }

    /// Returns the data of a request to the API; fails the test if it refuses the request.
    pub(crate) async fn api(&self, target: &str) -> Value {
        let response = client::send(self.0.address(), &get(target)).await;
        let mut response = response.expect("Prometheus responds").json();
        assert_eq!(response["status"], "success", "{target}: {response}");
        response["data"].take()
    }

    /// Returns the series that an expression yields now.
    pub(crate) async fn query(&self, expression: &str) -> Vec<Value> {
        let target = format!("/api/v1/query?query={}", encoded(expression));
        let mut data = self.api(&target).await;
        match data["result"].take() {
            Value::Array(series) => series,
            other => vec![other],
        }
    }
}

/// Encodes a value of a query.
pub(crate) fn encoded(text: &str) -> String {
    let bytes = text.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    });
    bytes.collect()
}

/// Running Alertmanager.
#[derive(Debug)]
pub(crate) struct Alertmanager(Server);

impl Alertmanager {
    pub(crate) async fn start(config: &str) -> Self {
        let arguments = [
            "--config.file=alertmanager.yml",
            "--storage.path=data",
            "--cluster.listen-address=",
            "--log.level=warn",
        ];
        let files = [("alertmanager.yml", config)];
        Self(Server::start("prometheus-alertmanager", &files, &arguments).await)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.address()
    }
}
