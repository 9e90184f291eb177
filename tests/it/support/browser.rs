//! A real browser, run by the scripts in `tests/browser`.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde::Deserialize;
use serde_json::Value;
use tokio::{process::Command, time::timeout};

/// Path of the browser in Debian's package.
const BROWSER: &str = "/usr/bin/chromium-headless-shell";
/// Several times as long as a busy machine needs.
const LIMIT: Duration = Duration::from_mins(10);

/// Output of a script.
#[derive(Debug, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) passed: Vec<String>,
    pub(crate) failed: Vec<Failure>,
    /// Figures of the checks.
    #[serde(default)]
    pub(crate) figures: Value,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Failure {
    check: String,
    why: String,
    /// Lines of the browser's console.
    console: Vec<String>,
}

/// Runs the checks of a script in `tests/browser` against gateways with these addresses.
pub(crate) async fn look(script: &str, places: &Value) -> Outcome {
    look_within(LIMIT, script, places).await
}

/// Runs them as [`look`] does, with a limit of its own.
pub(crate) async fn look_within(limit: Duration, script: &str, places: &Value) -> Outcome {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/browser");
    assert!(
        Path::new(BROWSER).exists(),
        "{BROWSER} is missing: run `make test`, or `scripts/setup chromium-headless-shell`"
    );
    assert!(
        folder.join("node_modules/playwright-core").exists(),
        "tests/browser is not installed: run `make test`, or tests/apps/build.sh"
    );
    // Contains the browser's profile, which is removed with it.
    let scratch = tempfile::tempdir().expect("a folder for the test can be made");
    let mut run = Command::new("node")
        .args(["--import", "../apps/end-with-parent.js", script])
        .arg(places.to_string())
        .current_dir(&folder)
        .env("BROWSER", BROWSER)
        .env("TMPDIR", scratch.path())
        .env("HOME", scratch.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("node is installed");
    // Stays open until the run is done: the child exits when this process ends for any reason.
    let stdin = run.stdin.take();
    let output = timeout(limit, run.wait_with_output())
        .await
        .expect("the browser is done in time")
        .expect("a child of ours can be waited for");
    drop(stdin);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the looks ended early:\n{stderr}");
    serde_json::from_slice(&output.stdout).expect("the script prints JSON")
}

pub(crate) fn describe(failure: &Failure) -> String {
    let console = failure.console.join("\n  ");
    format!(
        "--- {}\n{}\nthe browser's console:\n  {console}",
        failure.check, failure.why
    )
}
