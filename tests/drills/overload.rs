//! Three times the load that a Node app can take: it never has more requests at once than allowed,
//! admitted requests keep their times, and the rest is refused with a reason.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::{
    Report,
    support::{
        client::{self, get},
        gateway::Gateway,
        load::{Tally, paced},
        ports::free_port,
        wait::wait_for,
    },
};

/// Time that the app takes for a request; the next constant is its maximum number at once.
const TIME: Duration = Duration::from_millis(50);
const PLACES: u32 = 10;
const CAPACITY: u32 = 200;
const LENGTH: Duration = Duration::from_secs(10);

struct App {
    child: Child,
    port: u16,
}

impl Drop for App {
    fn drop(&mut self) {
        // It may have exited by itself, which the drill has noticed then.
        let _gone = self.child.kill();
        let _code = self.child.wait();
    }
}

impl App {
    async fn start() -> Self {
        let port = free_port();
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/drills/slow_origin.js");
        let child = Command::new("node")
            .arg(file)
            .env("PORT", port.to_string())
            .env("TIME", TIME.as_millis().to_string())
            .stdin(Stdio::piped())
            .spawn()
            .expect("node is installed");
        let app = Self { child, port };
        wait_for("the app responds", Duration::from_secs(10), async || {
            app.most().await
        })
        .await;
        app
    }

    /// Returns the maximum number of requests in flight since the last call.
    async fn most(&self) -> Option<u64> {
        let address = (std::net::Ipv4Addr::LOCALHOST, self.port).into();
        let response = client::send(address, &get("/most")).await.ok()?;
        response.json()["most"].as_u64()
    }
}

async fn load(app: &App, bounds: &str, filter: &str, per_second: u32) -> (Tally, u64) {
    let gateway = Gateway::start(&format!(
        "upstreams: {{ app: {{ backends: ['127.0.0.1:{}'], health: false, \
         retry: {{ attempts: 1 }}, max_in_flight: {bounds} }} }}\n\
         routes: [{{ match: {{}}, upstream: app{filter} }}]\n",
        app.port
    ))
    .await;
    app.most().await;
    let tally = paced(gateway.address(), per_second, LENGTH, |_| get("/work")).await;
    let most = app.most().await.expect("the app still responds");
    gateway.counts("edgeway_http_in_flight", 0).await;
    let refused = gateway.count("edgeway_refused_total").await;
    assert_eq!(refused, tally.status(503), "each refusal has a reason");
    (tally, most)
}

pub(crate) async fn run(report: &mut Report) {
    let app = App::start().await;
    let places = format!("per_backend: {PLACES}");
    let plain = format!("{{ {places} }}");
    let (unloaded, _) = load(&app, &plain, "", CAPACITY / 4).await;
    let usual = unloaded.quantile_of(200, 0.9);
    Report::note(format!("a quarter of its capacity: p90 {usual:?}"));
    report.check(unloaded.errors() == 0, "without load nobody is refused");

    let wait = TIME.as_millis() / 2;
    let short = format!("{{ {places}, queue: {}, wait: {wait}ms }}", PLACES / 2);
    let long = format!("{{ {places}, wait: {wait}ms }}");
    let none = format!("{{ {places}, queue: 0 }}");
    let filter = format!(", in_flight: {}", PLACES + PLACES / 2);
    for (name, bounds, filter) in [
        ("the default queue", plain.as_str(), ""),
        ("a short queue", &short, ""),
        ("no queue", &none, ""),
        ("the filter in_flight", &long, filter.as_str()),
    ] {
        let (tally, most) = load(&app, bounds, filter, CAPACITY * 3).await;
        let p90 = tally.quantile_of(200, 0.9);
        let refused = tally.quantile_of(503, 0.99);
        Report::note(format!(
            "{name}: {:?}, at most {most} at once, p90 of admitted {p90:?}, p99 of refused {refused:?}",
            tally.statuses
        ));
        report.check(
            most <= u64::from(PLACES),
            format!("{name}: never more than {PLACES} at once"),
        );
        let accounted = tally.status(200) + tally.status(503);
        report.check(
            accounted == tally.total(),
            format!("{name}: 200 or 503, and nothing else"),
        );
        let served = u64::from(CAPACITY) * LENGTH.as_secs();
        report.check(
            tally.status(200) * 10 > served * 8,
            format!("{name}: the app does at least 80 % of what it can"),
        );
        let bound = usual * 2;
        report.check(
            p90 < bound,
            format!("{name}: p90 of admitted below {bound:?}"),
        );
    }
}
