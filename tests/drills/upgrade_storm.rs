//! Twenty upgrades, back and forth between two builds, under kept and new connections, wrk, HTTP/2
//! and WebSockets. `EDGEWAY_OTHER_BUILD` names the other build; without it both are the same
//! program.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{task::JoinSet, time::Instant};

use crate::{
    Report,
    reload_storm::unharmed,
    support::{
        client::get,
        gateway::{Gateway, is_alive},
        http2,
        load::{Lanes, flat_out},
        origins::{EchoOrigin, WsOrigin},
        sockets,
        wait::{turn_of, until},
    },
    wrk::Wrk,
};

const UPGRADES: u32 = 20;
const EVERY: Duration = Duration::from_millis(1500);
/// Number of WebSockets that are opened before each upgrade.
const SOCKETS: usize = 5;

pub(crate) async fn run(report: &mut Report) {
    let (echo, ws) = (EchoOrigin::start().await, WsOrigin::start().await);
    let mut gateway = Gateway::start(&format!(
        "
listeners:
  - {{ address: \"127.0.0.1:0\", name: web }}
  - {{ address: \"127.0.0.1:0\", name: h2, http2: {{ cleartext: true }} }}
drain: {{ deadline: 120s }}
upstreams:
  app: {{ backends: [\"{}\"], health: {{ path: /health }} }}
  ws: {{ backends: [\"{}\"], health: false }}
routes:
  - match: {{ path: /ws }}
    upstream: ws
    websocket: true
  - match: {{ path: /* }}
    upstream: app
",
        echo.address(),
        ws.address()
    ))
    .await;
    let own = PathBuf::from(env!("CARGO_BIN_EXE_edgeway"));
    let other = std::env::var_os("EDGEWAY_OTHER_BUILD").map_or(own.clone(), PathBuf::from);
    let h2 = gateway.listener("h2").parse().expect("an address");
    let to = gateway.address();
    let wrk = Wrk::start(to, 16, EVERY * UPGRADES + Duration::from_secs(3));
    let keep_alive = flat_out(to, 4, Lanes::KeepAlive, |_| get("/kept"));
    let fresh = flat_out(to, 4, Lanes::Fresh, |_| get("/fresh"));
    let stop = Arc::new(AtomicBool::new(false));
    let mut streams = JoinSet::new();
    let stopped = Arc::clone(&stop);
    streams.spawn(async move { http2::endless(h2, "/h2", &stopped).await });

    let (mut open, mut old, mut versions) = (Vec::new(), Vec::new(), Vec::new());
    let start = Instant::now();
    for turn in 0..UPGRADES {
        turn_of(start + EVERY * turn).await;
        open.push(sockets::open_many(to, SOCKETS).await);
        gateway.set_program(if turn % 2 == 0 { &other } else { &own });
        old.push(gateway.upgrade().await);
        let version = gateway.status().await["version"]
            .as_str()
            .map(str::to_owned);
        versions.push(version.unwrap_or_default());
    }
    let took = start.elapsed();
    let wrk = wrk.end().await;
    stop.store(true, Ordering::Relaxed);
    let streams = streams.join_next().await;
    let streams = streams
        .expect("it was started")
        .expect("a client does not panic");
    report.check(
        versions.len() == UPGRADES as usize,
        format!("{UPGRADES} upgrades in {took:.1?}"),
    );
    let (first, second) = (&versions[0], &versions[1]);
    report.check(
        versions
            .chunks(2)
            .all(|pair| pair[0] == *first && pair[1] == *second)
            && (first != second || other == own),
        format!("served by {first} and {second} in turn"),
    );
    report.check(
        wrk.failed == 0 && wrk.requests > 1000,
        format!("wrk: {} requests, {} failed", wrk.requests, wrk.failed),
    );
    unharmed(report, "keep-alive connections", &keep_alive.stop().await);
    unharmed(report, "new connections", &fresh.stop().await);
    report.check(
        streams.failed.is_empty() && streams.connections > u64::from(UPGRADES),
        format!(
            "HTTP/2: {} requests on {} connections, {} failed",
            streams.succeeded,
            streams.connections,
            streams.failed.len()
        ),
    );
    let mut alive = 0;
    for sockets in &mut open {
        alive += sockets::alive(sockets).await;
    }
    let all = SOCKETS * UPGRADES as usize;
    let processes = old.iter().filter(|pid| is_alive(**pid)).count();
    report.check(
        alive == all && processes == old.len(),
        format!("{alive} of {all} sockets echo, each on its own of {processes} old processes"),
    );
    let mut slowest = Duration::ZERO;
    for (sockets, pid) in open.into_iter().zip(old) {
        drop(sockets);
        let begun = Instant::now();
        let gone = &mut async || (!is_alive(pid)).then_some(());
        if until(Duration::from_secs(10), gone).await.is_none() {
            report.check(false, format!("process {pid} is empty and still there"));
        }
        slowest = slowest.max(begun.elapsed());
    }
    report.check(
        slowest < Duration::from_secs(2),
        format!("an old process is gone {slowest:.1?} after its last socket at most"),
    );
}
