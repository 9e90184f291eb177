//! `kill -9` of one instance of four under 200 requests a second for 30 s.

use std::time::Duration;

use crate::{
    Report,
    support::{
        apps::{ExpressApp, backends},
        client::get,
        front::Front,
        load::{lanes, paced},
        wait::{pass, until},
    },
};

pub(crate) async fn run(report: &mut Report) {
    let mut apps = ExpressApp::several(4).await;
    let gateway = Front::to_all(&format!("[{}]", backends(&apps)))
        .upstream("app: node, health: { path: /health }")
        .start()
        .await;
    let load = paced(gateway.address(), 200, Duration::from_secs(30), |turn| {
        // Some responses take half a second, so that the kill hits a few midway.
        if turn % 10 == 0 {
            get("/sse?every=25&events=20")
        } else {
            get("/api/items")
        }
    });
    let killed = apps[2].port();
    let drill = async {
        pass(Duration::from_secs(8)).await;
        apps[2].kill();
        pass(Duration::from_secs(10)).await;
        apps[2].restart().await;
        let begun = tokio::time::Instant::now();
        let limit = Duration::from_secs(10);
        let back = until(limit, &mut async || {
            let tally = lanes(gateway.address(), 1, 20, |_| get("/api/items")).await;
            (tally.served_by(killed) > 0).then_some(())
        })
        .await;
        back.map(|()| begun.elapsed())
    };
    let (tally, back) = tokio::join!(load, drill);
    Report::note(format!(
        "{} requests by instance {:?}",
        tally.total(),
        tally.served
    ));
    report.check(
        tally.truncated > 0,
        format!(
            "{} responses truncated midway, and seen as truncated by their clients",
            tally.truncated
        ),
    );
    report.check(tally.total() == 6000, "all requests were sent");
    report.check(
        tally.errors() == 0,
        format!("0 failed reads: {:?} {:?}", tally.statuses, tally.failed),
    );
    report.check(
        back.is_some(),
        format!("back in rotation within 10 s of restarting: {back:?}"),
    );
}
