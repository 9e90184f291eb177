//! Hanging upstream under load: requests to another one keep their response times.

use std::time::Duration;

use crate::{
    Report,
    support::{
        client::get,
        gateway::Gateway,
        load::{lanes, paced},
        origins::{EchoOrigin, Failure, ResettingOrigin},
    },
};

const PAIRS: usize = 5;
/// Five of them make a minute of attack.
const LENGTH: Duration = Duration::from_secs(12);

pub(crate) async fn run(report: &mut Report) {
    let well = EchoOrigin::start().await;
    let hangs = ResettingOrigin::start(Failure::Hang).await;
    let gateway = Gateway::start(&format!(
        "
upstreams:
  well:
    backends: [\"{}\"]
    health: false
  hangs:
    backends: [\"{}\"]
    health: {{ path: /health }}
    timeouts: {{ first_byte: 60s }}
routes:
  - match: {{ path: /well }}
    upstream: well
  - match: {{ path: /hangs }}
    upstream: hangs
",
        well.address(),
        hangs.address()
    ))
    .await;
    let address = gateway.address();
    // The first seconds of any process are slower.
    lanes(address, 4, 500, |_| get("/well")).await;

    let mut ratios = Vec::new();
    for _ in 0..PAIRS {
        let quiet = paced(address, 200, LENGTH, |_| get("/well")).await;
        // The attack ends with the pair: its lanes are dropped, their sockets with them.
        let attack = lanes(address, 100, u64::MAX, |_| get("/hangs"));
        let measured = paced(address, 200, LENGTH, |_| get("/well"));
        let attacked = tokio::select! {
            _ = attack => unreachable!("a hanging upstream never sends so many responses"),
            tally = measured => tally,
        };
        let (before, during) = (quiet.quantile(0.9), attacked.quantile(0.9));
        Report::note(format!(
            "p90 {before:.2?} quiet, {during:.2?} attacked, {} + {} errors",
            quiet.errors(),
            attacked.errors()
        ));
        report.check(
            quiet.errors() + attacked.errors() == 0,
            "no request to the other failed",
        );
        ratios.push(during.as_secs_f64() / before.as_secs_f64());
    }
    ratios.sort_by(f64::total_cmp);
    let median = ratios[PAIRS / 2];
    report.check(
        median < 1.2,
        format!("p90 under attack is {median:.2} × of quiet (median of {PAIRS})"),
    );
    let hanging = hangs.counts().requests();
    report.check(hanging >= 100, format!("{hanging} requests hung meanwhile"));
}
