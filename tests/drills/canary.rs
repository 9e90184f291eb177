//! Forty trials of releases at the same time, each at 100 requests a second: half of the releases
//! fail six times as often as the current one, the others as often. How many verdicts are wrong, and
//! how long those on bad releases take.

use std::{fmt::Write as _, path::Path, time::Duration};

use futures_util::future::join_all;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::{
    Report,
    support::{
        client::get,
        fleet::edgeway,
        gateway::Gateway,
        load::endless_paced,
        ports::free_ports,
        releases::{Behaviour, end_processes, tried_app},
        wait::{pass, wait_for},
    },
};

/// Trials at the same time: more take more memory and CPU than two cores have.
const AT_ONCE: u16 = 10;
const ROUNDS: usize = 4;
const PER_SECOND: u32 = 100;
/// Error ratio of the releases that are as good as the current one, and of the bad ones.
const GOOD: f64 = 0.005;
const BAD: f64 = 0.03;
const LIMIT: Duration = Duration::from_mins(1);

pub(crate) async fn run(report: &mut Report) {
    let (mut wrong, mut late, mut slowest) = (Vec::new(), 0, Duration::ZERO);
    for round in 0..ROUNDS {
        let errors = if round % 2 == 0 { BAD } else { GOOD };
        for (verdict, took) in trials(errors).await {
            let expected = if errors > GOOD {
                "rolled_back"
            } else {
                "promoted"
            };
            if verdict["outcome"] != expected {
                wrong.push(verdict.to_string());
            } else if errors > GOOD {
                late += usize::from(took > LIMIT);
                slowest = slowest.max(took);
            }
        }
    }
    let each = usize::from(AT_ONCE) * ROUNDS / 2;
    report.check(
        wrong.len() <= 1,
        format!(
            "{} of {} verdicts are wrong ({each} releases with {BAD} errors, {each} with {GOOD} \
             as the current one) {wrong:?}",
            wrong.len(),
            2 * each,
        ),
    );
    report.check(
        late == 0,
        format!("the slowest rollback took {slowest:.1?}, {late} took more than {LIMIT:?}"),
    );
}

/// Returns the verdicts on releases with this error ratio, and the duration of each trial.
async fn trials(errors: f64) -> Vec<(Value, Duration)> {
    let folders: Vec<TempDir> = (0..AT_ONCE)
        .map(|_| tempfile::tempdir().expect("a folder can be made"))
        .collect();
    let gateway = Gateway::start(&configuration(&folders)).await;
    let app = |errors| {
        tried_app(Behaviour {
            errors,
            ..Behaviour::default()
        })
    };
    let (current, tried) = (app(GOOD), app(errors));
    let deploy = async |index: u16, folder: &Path, more: &[&str]| {
        let upstream = format!("web{index}");
        let folder = folder.to_str().expect("the path is text");
        let deploy = ["deploy", &upstream, folder];
        edgeway(&gateway, &[&deploy[..], more].concat()).await
    };
    for index in 0..AT_ONCE {
        let ran = deploy(index, current.path(), &["--name", "one"]).await;
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    }
    let loads: Vec<_> = (0..AT_ONCE)
        .map(|index| {
            let path = format!("/{index}/");
            endless_paced(gateway.address(), PER_SECOND, move |_| get(&path))
        })
        .collect();
    let verdicts = join_all((0..AT_ONCE).map(async |index| {
        // One after the other: starting an app takes CPU that the others' requests would miss.
        pass(Duration::from_secs(2) * u32::from(index)).await;
        let more = ["--name", "two", "--canary", "10%"];
        let (_ran, took) = tokio::join!(
            deploy(index, tried.path(), &more),
            trial_duration(&gateway, index)
        );
        (
            upstream(&gateway, index).await["canary_verdict"].clone(),
            took,
        )
    }))
    .await;
    for load in loads {
        load.stop().await;
    }
    for folder in &folders {
        end_processes(folder.path());
    }
    verdicts
}

fn configuration(folders: &[TempDir]) -> String {
    let mut yaml = "upstreams:\n".to_owned();
    for (index, folder) in folders.iter().enumerate() {
        let first = free_ports(4);
        let (folder, last) = (folder.path().display(), first + 3);
        let _written = write!(
            yaml,
            "
  web{index}:
    app: nextjs
    health: {{ path: /health, interval: 1s, interval_down: 100ms }}
    releases:
      folder: {folder}
      ports: {first}-{last}
      instances: 1
      start: [node, server.js]
      canary: {{ steps: [10%, 30%, 50%], step: 20s, requests: 200, by: request }}
"
        );
    }
    yaml += "routes:\n";
    for index in 0..folders.len() {
        let _written = writeln!(
            yaml,
            "  - {{ match: {{ path: /{index}/* }}, upstream: web{index} }}"
        );
    }
    yaml
}

async fn upstream(gateway: &Gateway, index: u16) -> Value {
    let status = gateway.status().await;
    let upstreams = status["upstreams"].as_array().expect("a list").iter();
    let name = format!("web{index}");
    let mut found = upstreams.filter(|upstream| upstream["name"] == *name);
    found.next().cloned().expect("it is configured")
}

/// Waits for the begin and the end of a trial; returns the time between.
async fn trial_duration(gateway: &Gateway, index: u16) -> Duration {
    let long = Duration::from_mins(5);
    wait_for("the trial begins", long, async || {
        let upstream = upstream(gateway, index).await;
        (upstream["canary"].is_object() || upstream["canary_verdict"].is_object()).then_some(())
    })
    .await;
    let begun = Instant::now();
    wait_for("the trial ends", long, async || {
        let upstream = upstream(gateway, index).await;
        upstream["canary_verdict"].is_object().then_some(())
    })
    .await;
    begun.elapsed()
}
