//! Twenty browser sessions, half of them without scripts, through a balancer, two gateways that share
//! a Redis and four instances, while a release is deployed on both: no request may fail, and no page
//! may get anything of another build. The same with an upgrade of a gateway in the middle, and for
//! apps with and without `deploymentId`.
//!
//! Control: the same sessions while the old instances are replaced by the new ones.

use std::{process::Stdio, time::Duration};

use serde_json::{Value, json};
use tokio::{
    process::{Child, Command},
    time::Instant,
};

use crate::{
    Report,
    support::{
        browser::{Outcome, describe, look_within},
        gateway::Gateway,
        ports::free_port,
        redis::Redis,
        releases::{Site, built},
        wait::wait_for,
    },
};

const SCRIPTED: usize = 10;
const PLAIN: usize = 10;
/// Actions of each session after the deploy.
const LEAST: usize = 5;
const LIMIT: Duration = Duration::from_mins(10);
const SOON: Duration = Duration::from_secs(30);
/// Time in which sessions use the site between two steps of a deploy.
const REST: [&str; 2] = ["sleep", "3"];

const NAMED: [&str; 2] = ["named-one", "named-two"];
const UNNAMED: [&str; 2] = ["plain-one", "plain-two"];

pub(crate) async fn run(report: &mut Report) {
    for builds in [NAMED, UNNAMED] {
        for upgrades in [false, true] {
            let begun = Instant::now();
            let outcome = deployed(builds, upgrades).await;
            let failures: Vec<String> = outcome.failed.iter().map(describe).collect();
            report.check(
                failures.is_empty(),
                format!(
                    "{} to {}{}: {}, after {:.0?} {}",
                    builds[0],
                    builds[1],
                    if upgrades { " with an upgrade" } else { "" },
                    figures(&outcome.figures),
                    begun.elapsed(),
                    failures.join("\n"),
                ),
            );
        }
    }
    let outcome = replaced(NAMED).await;
    report.check(
        !outcome.failed.is_empty(),
        format!("control, instances replaced: {}", figures(&outcome.figures)),
    );
}

fn figures(figures: &Value) -> String {
    let total: u64 = figures["actions"]
        .as_object()
        .into_iter()
        .flat_map(|kinds| kinds.values())
        .filter_map(Value::as_u64)
        .sum();
    format!(
        "{} of {} sessions broke, {total} actions ({} while deploying, {} after), {figures}",
        figures["broken"],
        SCRIPTED + PLAIN,
        figures["whileDeploying"],
        figures["afterwards"],
    )
}

async fn look(gateways: &[&Gateway], builds: [&str; 2], steps: &[Value]) -> Outcome {
    let addresses = gateways.iter().map(|gateway| gateway.address().to_string());
    let addresses: Vec<String> = addresses.collect();
    let places = json!({
        "gateways": addresses,
        "scripted": SCRIPTED,
        "plain": PLAIN,
        "seed": fastrand::u32(..),
        "builds": builds,
        "isNamed": builds == NAMED,
        "steps": steps,
        "least": LEAST,
    });
    look_within(LIMIT, "release_sessions.js", &places).await
}

/// Deploys a release on two gateways behind the sessions.
async fn deployed(builds: [&str; 2], upgrades: bool) -> Outcome {
    let redis = Redis::start().await;
    let more = "      linger: 1h\n      instances: 2\n      warm: 50";
    let (one, two) = tokio::join!(
        Site::start_sharing(&redis, more),
        Site::start_sharing(&redis, more)
    );
    let [old, latest] = builds;
    for site in [&one, &two] {
        site.deploy(old).await;
    }
    let folder = built(latest);
    let folder = folder.to_str().expect("the path is text");
    let hold = ["deploy", "web", folder, "--name", latest, "--hold"];
    let switch = ["switch", "web", latest];
    let mut steps = vec![
        one.command(&hold),
        two.command(&hold),
        json!(REST),
        one.command(&switch),
        json!(REST),
    ];
    if upgrades {
        steps.extend([one.command(&["upgrade"]), json!(REST)]);
    }
    steps.extend([two.command(&switch), json!(REST)]);
    look(&[&one.gateway, &two.gateway], builds, &steps).await
}

/// Starts an instance of a build, and returns its address.
async fn instance(build: &str) -> (Child, String) {
    let port = free_port();
    let program = "node_modules/next/dist/bin/next";
    let app = Command::new("node")
        .args([program, "start", "-H", "127.0.0.1"])
        .current_dir(built(build))
        .env("PORT", port.to_string())
        .env("NODE_ENV", "production")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("node is installed");
    wait_for("the app listens", SOON, async || {
        let connected = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
        connected.ok().map(drop)
    })
    .await;
    (app, format!("127.0.0.1:{port}"))
}

/// Replaces the instances behind two gateways, as rollouts do.
async fn replaced(builds: [&str; 2]) -> Outcome {
    let [old, latest] = builds;
    let (_apps, old): (Vec<Child>, Vec<String>) = [instance(old).await, instance(old).await]
        .into_iter()
        .unzip();
    let (_others, latest): (Vec<Child>, Vec<String>) =
        [instance(latest).await, instance(latest).await]
            .into_iter()
            .unzip();
    let yaml = format!(
        "
upstreams:
  web: {{ app: nextjs, backends: {old:?}, health: {{ path: /shop }} }}
routes:
  - match: {{ path: /* }}
    upstream: web
    cache: {{}}
"
    );
    let (one, two) = tokio::join!(Gateway::start(&yaml), Gateway::start(&yaml));
    let mut steps = Vec::new();
    for gateway in [&one, &two] {
        let socket = format!("EDGEWAY_ADMIN_SOCKET={}", gateway.admin_socket());
        let command = |words: &[&str]| {
            let before = ["env", &socket, env!("CARGO_BIN_EXE_edgeway")];
            json!([&before[..], words].concat())
        };
        for (old, latest) in old.iter().zip(&latest) {
            steps.push(command(&["upstream", "add", "web", latest]));
            steps.push(command(&["drain", &format!("web/{old}")]));
            steps.push(json!(REST));
        }
    }
    look(&[&one, &two], builds, &steps).await
}
