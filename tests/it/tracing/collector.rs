//! Collector of traces in Python, with OpenTelemetry's own messages and gRPC.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::support::{
    certificates::{Issued, replace},
    files::tail,
    ports::free_port,
    wait::{until, wait_for},
};

const READY_WITHIN: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_secs(15);

/// Running collector; killed when dropped.
pub(super) struct Collector {
    grpc: u16,
    http: u16,
    child: Child,
    dir: TempDir,
}

pub(super) fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/apps/peers")
}

impl Collector {
    pub(super) async fn start() -> Self {
        Self::start_with(None).await
    }

    /// Starts a collector with TLS, if it has a certificate.
    pub(super) async fn start_with(certificate: Option<&Issued>) -> Self {
        let dir = tempfile::tempdir().expect("a folder for the test can be made");
        if let Some(certificate) = certificate {
            certificate.write(dir.path(), "collector");
        }
        let (grpc, http) = (free_port(), free_port());
        let child = spawn(grpc, http, dir.path());
        let collector = Self {
            grpc,
            http,
            child,
            dir,
        };
        collector.is_ready().await;
        collector
    }

    /// Starts it again on the same ports, after it was killed.
    pub(super) async fn start_again(&mut self) {
        fs::remove_file(self.output()).expect("it has run");
        self.child = spawn(self.grpc, self.http, self.dir.path());
        self.is_ready().await;
    }

    async fn is_ready(&self) {
        let mut is_ready = async || {
            let lines = self.lines();
            let first = lines.first()?;
            (first["ready"] == true).then_some(())
        };
        let ready = until(READY_WITHIN, &mut is_ready);
        assert!(
            ready.await.is_some(),
            "{}",
            tail(&self.dir.path().join("errors"))
        );
    }

    pub(super) async fn kill(&mut self) {
        self.child.kill().await.expect("it runs");
    }

    /// Decides about further batches: `ok`, `hang`, `refuse` or `busy`.
    pub(super) fn set_mode(&self, mode: &str) {
        replace(&self.dir.path().join("mode"), mode);
    }

    /// Returns the keys of the section that export over gRPC.
    pub(super) fn grpc(&self) -> String {
        format!(
            "endpoint: 'http://127.0.0.1:{}', interval: 100ms",
            self.grpc
        )
    }

    /// Returns the keys of the section that export over HTTP.
    pub(super) fn http(&self) -> String {
        format!(
            "endpoint: 'http://127.0.0.1:{}', protocol: http, interval: 100ms",
            self.http
        )
    }

    fn output(&self) -> PathBuf {
        self.dir.path().join("output")
    }

    fn lines(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.output()).unwrap_or_default();
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        let lines = complete.lines();
        lines
            .map(|line| serde_json::from_str(line).expect("each line is JSON"))
            .collect()
    }

    /// Returns the spans so far, of batches that are there as a whole: a trace is within one.
    pub(super) fn spans(&self) -> Vec<Value> {
        let mut lines = self.lines();
        let is_end = |line: &Value| line["complete"] == true;
        lines.truncate(lines.iter().rposition(is_end).unwrap_or_default());
        lines.retain(|line| line["ready"].is_null() && !is_end(line));
        lines
    }

    /// Waits for the spans of one trace.
    pub(super) async fn trace(&self, trace_id: &str) -> Vec<Value> {
        let condition = format!("the spans of {trace_id} are there");
        wait_for(&condition, SOON, async || {
            let mut spans = self.spans();
            spans.retain(|span| span["trace_id"] == trace_id);
            (!spans.is_empty()).then_some(spans)
        })
        .await
    }

    /// Waits until there are this many spans of requests, and returns them.
    pub(super) async fn requests(&self, at_least: usize) -> Vec<Value> {
        let condition = format!("{at_least} requests are there");
        wait_for(&condition, SOON, async || {
            let mut spans = self.spans();
            spans.retain(|span| span["kind"] == SERVER);
            (spans.len() >= at_least).then_some(spans)
        })
        .await
    }
}

/// Kinds of spans, by their numbers in the protocol.
pub(super) const INTERNAL: u64 = 1;
pub(super) const SERVER: u64 = 2;
pub(super) const CLIENT: u64 = 3;

fn spawn(grpc: u16, http: u16, dir: &Path) -> Child {
    let file = |name: &str| fs::File::create(dir.join(name)).expect("the folder is ours");
    let python = peers().join(".venv/bin/python");
    assert!(python.exists(), "run `make test`, or tests/apps/build.sh");
    Command::new(python)
        .arg(peers().join("collector.py"))
        .args([grpc.to_string(), http.to_string()])
        .current_dir(dir)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .stdout(file("output"))
        .stderr(file("errors"))
        .kill_on_drop(true)
        .spawn()
        .expect("python starts")
}
