//! `edgeway plugin test DIR`, with the output format of node's test runner.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use edgeway_base::clock::Clock;
use edgeway_script::{
    Failure,
    harness::{self, Event, TestResult},
};
use log::Level;
use parking_lot::Mutex;

use super::{Outcome, millis, out, trace};

const SUFFIX: &str = ".test.js";

/// Maximum depth below a folder at which tests are found.
const MAX_DEPTH: usize = 8;

#[derive(Debug, clap::Args)]
pub(super) struct PluginTestOptions {
    /// Folders of plugins, or folders with such folders
    #[arg(required = true, value_name = "DIR")]
    folders: Vec<PathBuf>,
}

#[derive(Debug, Default)]
struct Count {
    tests: usize,
    /// File, test and failure.
    failed: Vec<(String, TestResult)>,
}

pub(super) async fn run(options: &PluginTestOptions) -> Outcome {
    let mut files = Vec::new();
    for folder in &options.folders {
        let before = files.len();
        find(folder, MAX_DEPTH, &mut files)
            .map_err(|error| format!("cannot read {}: {error}", folder.display()))?;
        if files.len() == before {
            let folder = folder.display();
            return Err(format!(
                "there is no test in {folder}: none ends with `{SUFFIX}`"
            ));
        }
    }
    let clock = Clock::machine();
    let start = clock.now();
    let count: Arc<Mutex<Count>> = Arc::default();
    for file in &files {
        run_file(file, &count).await;
    }
    let count = count.lock();
    out::data(&summary(&count, clock.now().duration_since(start)));
    Ok(count.failed.is_empty())
}

/// Finds files with tests in this folder and below, in the order of their names.
fn find(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        entries.push((name, entry.file_type()?));
    }
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (name, kind) in entries {
        let path = folder.join(&name);
        if kind.is_file() && name.ends_with(SUFFIX) {
            files.push(path);
        } else if kind.is_dir() && depth > 0 && !name.starts_with('.') && name != "node_modules" {
            find(&path, depth - 1, files)?;
        }
    }
    Ok(())
}

async fn run_file(file: &Path, count: &Arc<Mutex<Count>>) {
    let shown = file.display().to_string();
    out::data(&format!("▶ {shown}\n"));
    let folder = shown.rsplit_once('/').map_or(".", |(folder, _)| folder);
    let (tested, of) = (Arc::clone(count), shown.clone());
    let report = move |event| match event {
        Event::Line(level, text) => out::data(&format!("  {}{text}\n", prefix(level))),
        Event::Tested(test) => tested.lock().add(&of, test),
    };
    if let Err(failure) = harness::run(folder, file, Arc::new(report)).await {
        count.lock().add(
            &shown,
            TestResult {
                name: "the file is loaded".to_owned(),
                outcome: Err(failure),
                took: Duration::ZERO,
            },
        );
    }
}

/// Prefix that distinguishes a line of `console` from those of `console.log`.
fn prefix(level: Level) -> &'static str {
    match level {
        Level::Error => "error: ",
        Level::Warn => "warn: ",
        Level::Info => "",
        Level::Debug | Level::Trace => "debug: ",
    }
}

impl Count {
    fn add(&mut self, file: &str, test: TestResult) {
        self.tests += 1;
        out::data(&format!("  {}\n", line(&test)));
        self.failed
            .extend(test.outcome.is_err().then(|| (file.to_owned(), test)));
    }
}

fn line(test: &TestResult) -> String {
    let mark = if test.outcome.is_ok() { "✔" } else { "✖" };
    format!("{mark} {} ({})", test.name, millis(test.took))
}

fn summary(count: &Count, took: Duration) -> String {
    let failed = count.failed.len();
    let mut text = format!(
        "ℹ tests {}\nℹ pass {}\nℹ fail {failed}\nℹ duration_ms {:.3}\n",
        count.tests,
        count.tests - failed,
        took.as_secs_f64() * 1000.0,
    );
    if failed > 0 {
        text.push_str("\n✖ failing tests:\n");
    }
    for (file, test) in &count.failed {
        let why: String = test
            .outcome
            .as_ref()
            .err()
            .map_or_else(String::new, |failure: &Failure| trace(failure, "  "));
        // Writing to a string cannot fail.
        let _infallible = write!(text, "\n{file}\n{}\n{why}", line(test));
    }
    text
}
