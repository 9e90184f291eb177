//! Every backend dies, and comes back: clients get a clear error at once, and are served again
//! within seconds.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    Report,
    support::{
        apps::{ExpressApp, backends},
        client::get,
        gateway::Gateway,
        load::{lanes, paced},
        wait::{pass, until},
    },
};

pub(crate) async fn run(report: &mut Report) {
    let mut apps = ExpressApp::several(2).await;
    let gateway = Gateway::start(&format!(
        "
upstreams:
  api:
    app: node
    backends: [{}]
    health: {{ path: /health }}
routes:
  - match: {{ path: /* }}
    upstream: api
  - match: {{ path: /static }}
    respond: {{ body: still here }}
",
        backends(&apps)
    ))
    .await;
    let others = paced(gateway.address(), 50, Duration::from_secs(14), |_| {
        get("/static")
    });
    let drill = async {
        pass(Duration::from_secs(1)).await;
        for app in &mut apps {
            app.kill();
        }
        let down = paced(gateway.address(), 100, Duration::from_secs(5), |_| {
            get("/api/items")
        });
        let down = down.await;
        for app in &mut apps {
            app.restart().await;
        }
        let begun = Instant::now();
        let limit = Duration::from_secs(10);
        let back = until(limit, &mut async || {
            let response = gateway.get("/api/items").await;
            (response.status() == 200).then(|| begun.elapsed())
        })
        .await;
        (down, back)
    };
    let (others, (down, back)) = tokio::join!(others, drill);
    let refused = down.status(502) + down.status(503);
    report.check(
        refused == down.total() && down.failed.is_empty() && down.truncated == 0,
        format!(
            "while all are down each of {} requests gets 503: {:?}",
            down.total(),
            down.statuses
        ),
    );
    report.check(
        down.quantile(0.99) < Duration::from_millis(500),
        format!("99 % within {:.1?}", down.quantile(0.99)),
    );
    report.check(
        back.is_some(),
        format!("served again {back:.1?} after the restart"),
    );
    let after = lanes(gateway.address(), 4, 400, |_| get("/api/items")).await;
    report.check(after.errors() == 0, format!("then {:?}", after.statuses));
    report.check(
        others.errors() == 0 && others.truncated == 0,
        format!(
            "what needs no backend was served throughout: {:?}",
            others.statuses
        ),
    );
}
