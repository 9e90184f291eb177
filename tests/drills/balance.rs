//! 400 requests over four equal Next.js instances, one at a time and eight at once.

use crate::{
    Report,
    support::{
        apps::{NextApp, backends},
        client::get,
        gateway::Gateway,
        load::lanes,
    },
};

pub(crate) async fn run(report: &mut Report) {
    let apps = NextApp::several(4).await;
    for app in &apps {
        // Instances are equal once each has compiled the pages that it serves.
        lanes(app.address(), 4, 300, |_| get("/api/hello")).await;
    }
    for balance in ["least_conn", "round_robin"] {
        let gateway = Gateway::start(&format!(
            "
upstreams:
  web:
    app: nextjs
    balance: {balance}
    backends: [{}]
    health: {{ path: /api/health }}
routes:
  - match: {{ path: /* }}
    upstream: web
",
            backends(&apps)
        ))
        .await;
        for at_once in [1, 8] {
            let tally = lanes(gateway.address(), at_once, 400, |_| get("/api/hello")).await;
            let shares: Vec<u64> = apps.iter().map(|app| tally.served_by(app.port())).collect();
            let is_even = shares.iter().all(|share| (80..=120).contains(share));
            report.check(
                is_even && tally.status(200) == 400,
                format!("{balance}, {at_once} at once: {shares:?}"),
            );
        }
    }
}
