//! An origin that closes idle sockets at 5 s: 20 lanes, 10 rounds near that moment.

use std::time::Duration;

use crate::{
    Report,
    support::{
        gateway::Gateway,
        load::race,
        origins::{ClosingOrigin, Origin},
    },
};

const IDLE: Duration = Duration::from_secs(5);
const ROUNDS: u64 = 10;

pub(crate) async fn run(report: &mut Report) {
    // Concurrently: each waits for 45 s and does little else.
    let (usual, forced) = tokio::join!(defaults(), long_pool());

    let (reads, writes, origin) = usual;
    let bad = |seen: &[(String, u16)]| seen.iter().filter(|(_, status)| *status != 200).count();
    let twice = |seen: &[(String, u16)], origin: &Origin<ClosingOrigin>| {
        seen.iter()
            .filter(|(mark, _)| origin.counts().times(mark) > 1)
            .count()
    };
    Report::note(format!(
        "defaults: the origin closed {} sockets",
        origin.settings().closed()
    ));
    report.check(
        bad(&reads) == 0,
        format!("defaults: {} reads, {} failed", reads.len(), bad(&reads)),
    );
    report.check(
        bad(&writes) == 0,
        format!("defaults: {} writes, {} failed", writes.len(), bad(&writes)),
    );

    let (reads, writes, origin) = forced;
    let closed = origin.settings().closed();
    report.check(
        closed > 0,
        format!("pool idle 60 s: the origin closed {closed} sockets first"),
    );
    report.check(
        bad(&reads) == 0,
        format!(
            "pool idle 60 s: {} reads, {} failed",
            reads.len(),
            bad(&reads)
        ),
    );
    let twice = twice(&writes, &origin);
    report.check(
        twice == 0,
        format!(
            "pool idle 60 s: {} writes, {} failed, {twice} came twice",
            writes.len(),
            bad(&writes)
        ),
    );
}

type Outcome = (
    Vec<(String, u16)>,
    Vec<(String, u16)>,
    Origin<ClosingOrigin>,
);

async fn defaults() -> Outcome {
    run_with(ClosingOrigin::start(IDLE).await, "").await
}

async fn long_pool() -> Outcome {
    let settings =
        "    pool: { idle: 60s }\n    eject: { errors: 0 }\n    retry: { budget: 100% }\n";
    run_with(ClosingOrigin::start_silent(IDLE).await, settings).await
}

async fn run_with(origin: Origin<ClosingOrigin>, settings: &str) -> Outcome {
    let gateway = Gateway::start(&format!(
        "
upstreams:
  api:
    app: node
    backends: [\"{}\"]
    health: false
{settings}
routes:
  - match: {{ path: /* }}
    upstream: api
",
        origin.address()
    ))
    .await;
    let reads = race(gateway.address(), ROUNDS, IDLE, "GET").await;
    let writes = race(gateway.address(), ROUNDS, IDLE, "POST").await;
    (reads, writes, origin)
}
