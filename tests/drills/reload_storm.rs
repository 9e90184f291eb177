//! A hundred reloads in twenty seconds, then broken files between good ones, under kept and new
//! connections, wrk, and WebSockets.

use std::{net::SocketAddr, time::Duration};

use tokio::time::Instant;

use crate::{
    Report,
    support::{
        client::get,
        gateway::Gateway,
        load::{Lanes, Tally, flat_out},
        origins::{EchoOrigin, WsOrigin},
        sockets,
        wait::turn_of,
    },
    wrk::Wrk,
};

const SOCKETS: usize = 100;
const EVERY: Duration = Duration::from_millis(200);
const RELOADS: u32 = 100;
const BROKEN: u32 = 50;

/// Returns configurations that differ in a route, an upstream and a listener's limit.
fn yaml(echo: SocketAddr, ws: SocketAddr, turn: u32) -> String {
    format!(
        "
listeners: [{{ address: \"127.0.0.1:0\", name: web, limits: {{ requests_per_connection: {} }} }}]
upstreams:
  app: {{ backends: [\"{echo}\"], health: {{ path: /health, interval: {}s }} }}
  ws: {{ backends: [\"{ws}\"], health: false }}
routes:
  - match: {{ path: /ws }}
    upstream: ws
    websocket: true
  - match: {{ path: /* }}
    upstream: app
    headers: {{ response: {{ set: {{ X-Turn: \"{turn}\" }} }} }}
  - match: {{ path: /extra-{turn}/* }}
    respond: {{ status: 200, body: extra }}
",
        1_000_000 + turn,
        1 + turn % 5,
    )
}

pub(crate) async fn run(report: &mut Report) {
    let (echo, ws) = (EchoOrigin::start().await, WsOrigin::start().await);
    let yaml = |turn| yaml(echo.address(), ws.address(), turn);
    let gateway = Gateway::start(&yaml(0)).await;
    let to = gateway.address();
    let mut open = sockets::open_many(to, SOCKETS).await;
    // The first seconds grow every pool to its size.
    Wrk::start(to, 16, Duration::from_secs(3)).end().await;
    for turn in 1..=5 {
        gateway.reload(&yaml(turn)).await;
    }
    let before = gateway.rss();

    let wrk = Wrk::start(to, 16, EVERY * RELOADS + Duration::from_secs(2));
    let keep_alive = flat_out(to, 4, Lanes::KeepAlive, |_| get("/kept"));
    let fresh = flat_out(to, 4, Lanes::Fresh, |_| get("/fresh"));
    let start = Instant::now();
    let mut taken = 0;
    for turn in 0..RELOADS {
        turn_of(start + EVERY * turn).await;
        taken += u32::from(gateway.reload(&yaml(turn)).await);
    }
    let took = start.elapsed();
    let wrk = wrk.end().await;
    report.check(
        taken == RELOADS && took < EVERY * (RELOADS + 10),
        format!("{taken} reloads taken in {took:.1?}"),
    );
    report.check(
        wrk.failed == 0 && wrk.requests > 1000,
        format!("wrk: {} requests, {} failed", wrk.requests, wrk.failed),
    );
    unharmed(report, "keep-alive connections", &keep_alive.stop().await);
    unharmed(report, "new connections", &fresh.stop().await);
    let alive = sockets::alive(&mut open).await;
    report.check(
        alive == SOCKETS && ws.opened() == SOCKETS as u64,
        format!("{alive} of {SOCKETS} WebSockets echo on"),
    );
    let after = gateway.rss();
    let ratio = after as f64 / before as f64;
    report.check(
        ratio < 1.10,
        format!(
            "resident memory {:.1} MiB, before {:.1} ({ratio:.3} ×)",
            after as f64 / 1_048_576.0,
            before as f64 / 1_048_576.0
        ),
    );

    let keep_alive = flat_out(to, 4, Lanes::KeepAlive, |_| get("/kept"));
    let mut wrong = 0;
    for turn in 0..BROKEN {
        let broken = "routes: [{ match: { path: /* }, upstrem: app }]\n";
        wrong += u32::from(gateway.reload(broken).await);
        let status = gateway.status().await;
        let error = status["config"]["last_error"].as_str().unwrap_or_default();
        let is_reported = error.contains("upstrem")
            && gateway.count("edgeway_config_last_reload_success").await == 0;
        wrong += u32::from(!is_reported);
        wrong += u32::from(!gateway.reload(&yaml(turn)).await);
        wrong += u32::from(gateway.count("edgeway_config_last_reload_success").await != 1);
    }
    report.check(
        wrong == 0,
        format!("{BROKEN} broken files between good ones: refused, reported, and without effect"),
    );
    unharmed(
        report,
        "keep-alive connections meanwhile",
        &keep_alive.stop().await,
    );
    let alive = sockets::alive(&mut open).await;
    report.check(alive == SOCKETS, format!("{alive} WebSockets echo on"));
}

pub(crate) fn unharmed(report: &mut Report, load: &str, tally: &Tally) {
    let failed = tally.errors() + tally.truncated;
    report.check(
        failed == 0 && tally.total() > 1000,
        format!(
            "{load}: {} requests, {failed} failed, slowest {:.1?} {}",
            tally.total(),
            tally.times.iter().max().copied().unwrap_or_default(),
            tally.failed.first().map_or("", String::as_str)
        ),
    );
}
