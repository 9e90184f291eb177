//! Signed requests reach the backend as their client sent them: those of botocore, a client of S3,
//! before a store that checks each signature with botocore.

use std::{path::Path, process::Stdio};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use crate::support::{gateway::Gateway, seed};

const REQUESTS: usize = 300;

fn s3(arguments: &[String]) -> Command {
    let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/apps/peers");
    let python = peers.join(".venv/bin/python");
    assert!(python.exists(), "run `make test`, or tests/apps/build.sh");
    let mut command = Command::new(python);
    command
        .arg(peers.join("s3.py"))
        .args(arguments)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Starts the store, and returns its port.
async fn store() -> (Child, u16) {
    let mut child = s3(&["serve".to_owned()]).spawn().expect("python starts");
    let output = child.stdout.take().expect("it is a pipe");
    let mut lines = BufReader::new(output).lines();
    let line = lines.next_line().await.expect("it can be read");
    let port = line.expect("it prints its port");
    (child, port.parse().expect("a number"))
}

/// Returns the output of drawn requests, and true if none went wrong.
async fn ask(port: u16, seed: u64) -> (String, bool) {
    let arguments = ["ask".to_owned(), port.to_string(), seed.to_string()];
    let ran = s3(&arguments).arg(REQUESTS.to_string()).output().await;
    let ran = ran.expect("python starts");
    let printed = String::from_utf8_lossy(&ran.stdout).into_owned();
    (printed, ran.status.success())
}

#[tokio::test(flavor = "multi_thread")]
async fn signed_headers_reach_the_store_as_the_client_sent_them() {
    let (_store, port) = store().await;
    let gateway = Gateway::start(&format!(
        "
merge_slashes: false
upstreams: {{ s3: {{ backends: ['127.0.0.1:{port}'], health: false }} }}
routes:
  - {{ match: {{ path: '/*' }}, upstream: s3 }}
  - {{ match: {{ path: '/cached/*' }}, upstream: s3, cache: {{}} }}
"
    ))
    .await;
    let (printed, is_right) = ask(gateway.address().port(), seed::drawn()).await;
    assert!(is_right, "{printed}");
    let summary = printed.lines().last().expect("it ends with a summary");
    let counts: serde_json::Value = serde_json::from_str(summary).expect("it is JSON");
    // Controls: the store notices a changed header and a merged slash, and what is not signed is compressed here.
    for of in ["signed", "tampered", "merged", "compressed"] {
        assert!(counts[of].as_u64() > Some(10), "{summary}");
    }
}
