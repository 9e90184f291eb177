//! Twenty browser sessions, half of them without scripts, through a balancer, two gateways that share
//! a Redis and four instances, while a release is deployed on both: no request may fail, and no page
//! may get anything of another build. The same with an upgrade of a gateway in the middle, and for
//! apps with and without `deploymentId`.
//!
//! Controls: the same sessions while the old instances behind two gateways are replaced by the new
//! ones; and while four instances behind nginx are restarted one after the other, each with the new
//! build.

use std::{net::SocketAddr, process::Stdio, time::Duration};

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
        nginx::Nginx,
        ports::free_ports,
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
    for builds in [NAMED, UNNAMED] {
        let outcome = restarted_behind_nginx(builds).await;
        report.check(
            !outcome.failed.is_empty(),
            format!(
                "control, {} to {} restarted behind nginx: {}",
                builds[0],
                builds[1],
                figures(&outcome.figures)
            ),
        );
    }
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
    let addresses = gateways.iter().map(|gateway| gateway.address());
    let addresses: Vec<SocketAddr> = addresses.collect();
    look_through(&addresses, builds, steps).await
}

async fn look_through(gateways: &[SocketAddr], builds: [&str; 2], steps: &[Value]) -> Outcome {
    let addresses: Vec<String> = gateways.iter().map(ToString::to_string).collect();
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
    let port = free_ports(1);
    let app = instance_at(build, port).await;
    (app, format!("127.0.0.1:{port}"))
}

/// Starts an instance of a build on a port.
async fn instance_at(build: &str, port: u16) -> Child {
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
    app
}

/// Ends an instance at its port, starts one of the other build there, and waits until that serves:
/// `sh -c RESTART restart PORT FOLDER`. What it starts ends with this process.
const RESTART: &str = r#"
kill "$(cat "$2/.pid-$1")"
while curl -s -o /dev/null "http://127.0.0.1:$1/shop"; do sleep 0.1; done
cd "$3"
PORT=$1 NODE_ENV=production node --import "$4" node_modules/next/dist/bin/next start -H 127.0.0.1 <"$2/alive" >/dev/null 2>&1 &
until curl -sf -o /dev/null "http://127.0.0.1:$1/shop"; do sleep 0.1; done
"#;

/// Restarts four instances behind two nginx one after the other, as rolling deploys do it by the
/// book: nginx passes a request to another instance if the first one refuses the connection or fails.
async fn restarted_behind_nginx(builds: [&str; 2]) -> Outcome {
    let folder = tempfile::tempdir().expect("a folder for the test can be made");
    let [old, latest] = builds;
    let first = free_ports(4);
    let ports = [first, first + 1, first + 2, first + 3];
    let mut apps = Vec::new();
    for port in ports {
        let app = instance_at(old, port).await;
        let id = app.id().expect("it runs").to_string();
        let file = folder.path().join(format!(".pid-{port}"));
        std::fs::write(file, id).expect("the folder takes files");
        apps.push(app);
    }
    // An app that was started again reads from it, and ends when nobody writes to it any more.
    let alive = folder.path().join("alive");
    let made = Command::new("mkfifo").arg(&alive).status().await;
    assert!(made.is_ok_and(|made| made.success()), "a pipe can be made");
    let _alive = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&alive)
        .expect("it was made");
    let servers = ports.map(|port| format!("server 127.0.0.1:{port} max_fails=1 fail_timeout=2s;"));
    let servers = servers.join(" ");
    let (mut homes, mut fronts) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let home = tempfile::tempdir().expect("a folder for the test can be made");
        let front = Nginx::start(home.path(), |address| {
            format!(
                "  upstream web {{ {servers} keepalive 32; }}
  server {{
    listen {address};
    location / {{
      proxy_pass http://web;
      proxy_http_version 1.1;
      proxy_set_header Connection '';
      proxy_set_header Host $http_host;
      proxy_next_upstream error timeout http_502 http_503 http_504;
    }}
  }}"
            )
        });
        fronts.push(front.await);
        homes.push(home);
    }
    let own = folder.path().to_str().expect("the path is text");
    let build = built(latest);
    let build = build.to_str().expect("the path is text");
    let guard = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/apps/end-with-parent.js");
    let steps: Vec<Value> = ports
        .iter()
        .flat_map(|port| {
            let port = port.to_string();
            [
                json!(["sh", "-c", RESTART, "restart", port, own, build, guard]),
                json!(REST),
            ]
        })
        .collect();
    let addresses: Vec<SocketAddr> = fronts.iter().map(|front| front.address).collect();
    look_through(&addresses, builds, &steps).await
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
