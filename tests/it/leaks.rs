//! Node apps that leak memory until they are killed, with and without `edgeway rollout --watch`.

use std::time::Duration;

use crate::support::{
    client::{self, Request, get, post},
    fleet::{Fleet, backends, edgeway, states},
    gateway::Gateway,
    load::endless_paced,
    wait::{until, wait_for},
};

/// An app that leaks what a request asks for, and that is killed at a resident memory of 320 MiB, as
/// by `MemoryMax=`. It names itself in `x-instance`.
const APP: &str = r"
const http = require('node:http');
const fs = require('node:fs');
const leaked = [];
http.createServer((request, response) => {
  const kib = Number(new URL(request.url, 'http://app').searchParams.get('kib') ?? 0);
  if (kib > 0) leaked.push(Buffer.alloc(kib * 1024, 1));
  if (process.memoryUsage().rss > 320 * 1024 * 1024) {
    fs.unlinkSync(`${__dirname}/${process.env.PORT}.pid`);
    process.kill(process.pid, 'SIGKILL');
  }
  response.setHeader('x-instance', process.env.PORT);
  request.resume().on('end', () => response.end('ok'));
}).listen(process.env.PORT, '127.0.0.1');
";

/// Requests per second of the load.
const RATE: u32 = 40;
const LONG: Duration = Duration::from_mins(1);

/// Starts two apps that have leaked 40 MiB, which is about half of the way to the limit.
async fn fleet() -> Fleet {
    let fleet = Fleet::start_script(APP, 2).await;
    for port in fleet.ports() {
        let response = client::send(([127, 0, 0, 1], port).into(), &get("/?kib=40960")).await;
        assert_eq!(response.expect("the app responds").status(), 200);
    }
    fleet
}

async fn front(fleet: &Fleet) -> Gateway {
    Gateway::start(&format!(
        "
upstreams:
  web:
    app: node
    backends: {}
    restart_at: {{ rss: 128MiB }}
    health: {{ path: /, interval: 1s, interval_down: 100ms, timeout: 1s }}
routes:
  - match: {{ path: /* }}
    upstream: web
",
        fleet.backends(2)
    ))
    .await
}

/// GET and POST in turn. A POST is never sent again.
fn request(turn: u64, kib: u32) -> Request {
    let target = format!("/?kib={kib}");
    if turn.is_multiple_of(2) {
        get(&target)
    } else {
        post(&target, "a=1")
    }
}

/// Each of the two apps leaks 5 MiB a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaking_apps_are_restarted_before_they_are_killed_and_no_request_fails() {
    let fleet = fleet().await;
    let gateway = front(&fleet).await;
    let before: Vec<_> = fleet.ports().map(|port| fleet.pid(port)).collect();
    let watch = fleet.begin(
        &gateway,
        &[
            "rollout",
            "web",
            "--watch",
            "--",
            "systemctl",
            "restart",
            "node-app@{port}",
        ],
    );
    let load = endless_paced(gateway.address(), RATE, |turn| request(turn, 256));
    let mut both_are_new = async || {
        let now = fleet.ports().map(|port| fleet.pid(port)).zip(&before);
        let are_new = now
            .into_iter()
            .all(|(now, old)| now.is_some() && now != *old);
        let states = states(&gateway, "web").await;
        let are_in = states.iter().all(|state| state.ends_with(" healthy"));
        (are_new && are_in).then_some(())
    };
    let restarted = until(LONG, &mut both_are_new).await;
    let tally = load.stop().await;
    let watch = watch.terminate().await;
    assert!(restarted.is_some(), "{watch:?}: {tally:?}");
    assert_eq!(
        (tally.errors(), tally.truncated),
        (0, 0),
        "{tally:?}\n{watch:?}"
    );
    assert!(tally.total() > 100, "{tally:?}");
    assert_eq!(watch.status, Some(0), "{watch:?}");
    for index in 0..2 {
        let name = format!("web/{}", fleet.address(index));
        let reached = format!("{name}: `restart_at` reached: rss ");
        let count = watch.stderr.matches(&reached).count();
        assert!(count >= 1, "{name}: {}", watch.stderr);
        let back = format!("{name}: back in rotation");
        assert_eq!(watch.stderr.matches(&back).count(), 1, "{}", watch.stderr);
    }
    let restarts = fleet.log();
    let restarts = restarts.iter().filter(|line| line.starts_with("restart"));
    assert_eq!(restarts.count(), 2, "{}", watch.stderr);
}

/// The control: without the watch the excess is only shown, the app is killed, and requests fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_watch_the_excess_is_shown_and_the_app_is_killed() {
    let fleet = fleet().await;
    let gateway = front(&fleet).await;
    let load = endless_paced(gateway.address(), RATE, |turn| request(turn, 1024));
    let over = wait_for("an app has reached the limit", LONG, async || {
        let series = "edgeway_backend_node_over_limit";
        (gateway.count(series).await > 0).then_some(())
    });
    over.await;
    let note = "`restart_at` reached: rss ";
    for command in [&["status"][..], &["top", "--once", "--interval", "100ms"]] {
        let ran = edgeway(&gateway, command).await;
        assert!(ran.stdout.contains(note), "{}", ran.stdout);
    }
    wait_for("an app is killed", LONG, async || {
        fleet
            .ports()
            .any(|port| fleet.pid(port).is_none())
            .then_some(())
    })
    .await;
    let tally = load.stop().await;
    assert!(tally.errors() > 0, "{tally:?}");
    let reports = backends(&gateway, "web").await;
    assert!(
        reports
            .iter()
            .all(|backend| backend["node"]["rss_bytes"].is_u64())
    );
}

#[tokio::test]
async fn a_watch_needs_limits() {
    let fleet = Fleet::start_script(APP, 2).await;
    let gateway = Gateway::start(&format!(
        "
upstreams: {{ web: {{ backends: {} }} }}
routes: [{{ match: {{ path: /* }}, upstream: web }}]
",
        fleet.backends(2)
    ))
    .await;
    for (upstream, why) in [
        ("web", "upstream `web` has no `restart_at`: write such as"),
        ("app", "unknown upstream `app`; there is `web`"),
    ] {
        let ran = fleet
            .edgeway(&gateway, &["rollout", upstream, "--watch", "--", "true"])
            .await;
        assert_eq!(ran.status, Some(1), "{ran:?}");
        assert!(ran.stderr.contains(why), "{}", ran.stderr);
    }
    assert_eq!(
        fleet
            .log()
            .iter()
            .filter(|line| !line.starts_with("start"))
            .count(),
        0
    );
}
