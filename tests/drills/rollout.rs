//! Four instances of a Next.js app at 200 requests a second: a new build rolled out, every
//! instance killed in turn, a broken build, and the fleet scaled up and down.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    Report,
    support::{
        apps::Kind,
        client::get,
        fleet::{Fleet, Ran, states},
        gateway::Gateway,
        load::{Tally, endless_paced},
        wait::{pass, wait_for},
    },
};

const INSTANCES: u16 = 4;
const MAX_BACKENDS: u16 = 8;
const PER_SECOND: u32 = 200;

pub(crate) async fn run(report: &mut Report) {
    let fleet = Fleet::start_of(Kind::Next, MAX_BACKENDS, INSTANCES).await;
    let gateway = Gateway::start(&format!(
        "
upstreams:
  web:
    app: nextjs
    backends: {}
    health: {{ path: /api/health, interval: 1s }}
    scale: {{ unit: \"node-app@{{port}}.service\", ports: {}-{} }}
routes:
  - match: {{ path: /* }}
    upstream: web
",
        fleet.backends(INSTANCES),
        fleet.first_port,
        fleet.last_port,
    ))
    .await;
    let restart = ["--", "systemctl", "restart", "node-app@{port}"];

    let before = pids(&fleet);
    let roll = command(&fleet, &gateway, &["rollout", "web"], &restart);
    let (tally, (ran, took)) = under_load(&gateway, roll).await;
    report.check(
        ran.status == Some(0),
        format!("a good build rolled out in {took:.1?}"),
    );
    let changed = pids(&fleet).iter().zip(&before).all(|(a, b)| a != b);
    report.check(changed, "every instance is another process");
    unharmed(report, "while it was", &tally);

    let kill = async {
        let begun = Instant::now();
        for port in fleet.ports().take(INSTANCES.into()) {
            fleet.kill(port);
            pass(Duration::from_secs(1)).await;
            fleet.start_unit(port).await;
            let address = format!("127.0.0.1:{port} healthy");
            wait_for(
                "the instance is back",
                Duration::from_secs(30),
                async || {
                    states(&gateway, "web")
                        .await
                        .contains(&address)
                        .then_some(())
                },
            )
            .await;
        }
        begun.elapsed()
    };
    let (tally, took) = under_load(&gateway, kill).await;
    Report::note(format!(
        "kill -9 of each in turn took {took:.1?}; {} responses that had begun were truncated",
        tally.truncated
    ));
    report.check(
        tally.errors() == 0,
        format!(
            "0 of {} GETs failed: {:?} {:?}",
            tally.total(),
            tally.statuses,
            tally.failed
        ),
    );

    fleet.build("broken");
    let before = pids(&fleet);
    let arguments = ["rollout", "web", "--timeout", "8s"];
    let roll = command(&fleet, &gateway, &arguments, &restart);
    let (tally, (ran, took)) = under_load(&gateway, roll).await;
    report.check(
        ran.status == Some(1),
        format!(
            "a broken build is stopped after {took:.1?}: {}",
            last_line(&ran)
        ),
    );
    let untouched = pids(&fleet)
        .iter()
        .zip(&before)
        .filter(|(a, b)| a == b)
        .count();
    report.check(
        untouched == usize::from(INSTANCES) - 1,
        format!("{untouched} of {INSTANCES} instances were left alone"),
    );
    unharmed(report, "while it was", &tally);
    fleet.build("good");
    let ran = command(&fleet, &gateway, &["rollout", "web"], &restart)
        .await
        .0;
    let all = states(&gateway, "web").await;
    Report::note(format!(
        "then the good build again, exit {:?}: {all:?}",
        ran.status
    ));
    for (backend, port) in all.iter().zip(fleet.ports()) {
        if backend.ends_with("drained") {
            fleet.start_unit(port).await;
            let name = format!("web/127.0.0.1:{port}");
            fleet.edgeway(&gateway, &["undrain", &name]).await;
        }
    }

    let scale = async {
        let up = command(&fleet, &gateway, &["scale", "web", "8"], &[]).await;
        let most = states(&gateway, "web").await.len();
        pass(Duration::from_secs(2)).await;
        let down = command(&fleet, &gateway, &["scale", "web", "4"], &[]).await;
        (up, most, down)
    };
    let (tally, ((up, up_took), most, (down, down_took))) = under_load(&gateway, scale).await;
    report.check(
        up.status == Some(0) && most == usize::from(MAX_BACKENDS),
        format!("scaled to {most} in {up_took:.1?} {}", last_line(&up)),
    );
    let left = states(&gateway, "web").await.len();
    report.check(
        down.status == Some(0) && left == usize::from(INSTANCES),
        format!("and to {left} in {down_took:.1?} {}", last_line(&down)),
    );
    report.check(
        tally.served.len() > usize::from(INSTANCES),
        format!("the new ones served too: {:?}", tally.served),
    );
    unharmed(report, "while it was", &tally);
}

/// Runs a command of `edgeway`, and measures its duration.
async fn command(
    fleet: &Fleet,
    gateway: &Gateway,
    arguments: &[&str],
    more: &[&str],
) -> (Ran, Duration) {
    let begun = Instant::now();
    let ran = fleet.edgeway(gateway, &[arguments, more].concat()).await;
    (ran, begun.elapsed())
}

/// Requests pages and API calls for as long as the work takes.
async fn under_load<T>(gateway: &Gateway, work: impl Future<Output = T>) -> (Tally, T) {
    let load = endless_paced(gateway.address(), PER_SECOND, |turn| match turn % 4 {
        0 => get("/dynamic"),
        _ => get("/api/hello"),
    });
    pass(Duration::from_secs(1)).await;
    let outcome = work.await;
    pass(Duration::from_secs(1)).await;
    (load.stop().await, outcome)
}

fn unharmed(report: &mut Report, load: &str, tally: &Tally) {
    report.check(
        tally.errors() == 0 && tally.truncated == 0,
        format!(
            "{load}: {} requests, {} failed, {} truncated, 99 % within {:.1?}, slowest {:.1?} {:?}",
            tally.total(),
            tally.errors(),
            tally.truncated,
            tally.quantile(0.99),
            tally.quantile(1.0),
            tally.failed.first()
        ),
    );
}

fn pids(fleet: &Fleet) -> Vec<Option<i32>> {
    let ports = fleet.ports().take(INSTANCES.into());
    ports.map(|port| fleet.pid(port)).collect()
}

fn last_line(ran: &Ran) -> &str {
    ran.stderr.trim().lines().last().unwrap_or_default()
}
