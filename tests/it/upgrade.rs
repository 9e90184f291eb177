//! Upgrades: a new process replaces the old one, no request is lost, and a successor that does
//! not serve changes nothing.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::process::Signal;
use tokio::{task::JoinSet, time::Instant};

use crate::support::{
    client::{Connection, get, post},
    front::Front,
    gateway::{Gateway, is_alive},
    http2,
    load::{Lanes, Tally, endless},
    origins::{EchoOrigin, Origin, SlowOrigin, WsOrigin},
    sockets,
    wait::{pass, wait_for},
};

const SOON: Duration = Duration::from_secs(10);
const DONE: &str = "edgeway_upgrades_total{outcome=\"succeeded\"}";
const FAILED: &str = "edgeway_upgrades_total{outcome=\"failed\"}";

/// Starts a gateway with HTTP/1, HTTP/2 without TLS on its own port, sockets and a unix socket.
async fn front(echo: &Origin<EchoOrigin>, sockets: &WsOrigin, more: &str) -> Gateway {
    let folder = tempfile::tempdir().expect("a folder for the socket can be made");
    let path = folder.keep().join("web.sock");
    Gateway::start(&format!(
        "
listeners:
  - {{ address: \"127.0.0.1:0\", name: web }}
  - {{ address: \"127.0.0.1:0\", name: h2, http2: {{ cleartext: true }} }}
  - {{ address: \"unix:{}\", name: local }}
{more}
upstreams:
  echo: {{ backends: [\"{}\"], health: false }}
  ws: {{ backends: [\"{}\"], health: false }}
routes:
  - {{ match: {{ path: /ws }}, upstream: ws, websocket: true }}
  - {{ match: {{ path: /* }}, upstream: echo }}
",
        path.display(),
        echo.address(),
        sockets.address(),
    ))
    .await
}

/// Starts a gateway with two backends of one upstream.
async fn front_of(one: &Origin<EchoOrigin>, two: &Origin<EchoOrigin>) -> Gateway {
    Front::to_all(&format!("['{}', '{}']", one.address(), two.address()))
        .start()
        .await
}

fn assert_lossless(tally: &Tally, load: &str) {
    assert!(tally.total() > 50, "{load}: {} requests", tally.total());
    assert_eq!(
        tally.errors(),
        0,
        "{load}: {:?} {:?}",
        tally.statuses,
        tally.failed
    );
    assert_eq!(tally.truncated, 0, "{load}");
}

/// Waits until the responding process is the outcome of `upgrades` upgrades: for a moment both
/// processes respond.
async fn done(gateway: &Gateway, upgrades: u64) {
    wait_for("the new process responds", SOON, async || {
        (gateway.count(DONE).await == upgrades).then_some(())
    })
    .await;
}

async fn gone(pid: u32, within: Duration) {
    wait_for("the old process has left", within, async || {
        (!is_alive(pid)).then_some(())
    })
    .await;
}

/// Writes a program that does not serve.
fn script(gateway: &Gateway, text: &str) -> PathBuf {
    let path = gateway.folder().join("script");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("the folder takes files");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("the file is ours");
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrades_under_load_lose_nothing_and_sockets_live_on_where_they_are() {
    let (echo, ws) = (EchoOrigin::start().await, WsOrigin::start().await);
    let mut gateway = front(&echo, &ws, "drain: { deadline: 60s }").await;
    let (web, h2) = (gateway.address(), gateway.listener("h2").parse().unwrap());
    let keep_alive = endless(web, 8, Lanes::KeepAlive, |_| get("/kept"));
    let fresh = endless(web, 4, Lanes::Fresh, |_| get("/fresh"));
    let admin = endless(gateway.admin(), 1, Lanes::Fresh, |_| get("/healthz"));
    let stop = Arc::new(AtomicBool::new(false));
    let mut streams = JoinSet::new();
    let stopped = Arc::clone(&stop);
    streams.spawn(async move { http2::endless(h2, "/h2", &stopped).await });
    let mut left = Vec::new();
    let mut open = Vec::new();
    for round in 0..3 {
        open.push(sockets::open(web).await);
        pass(Duration::from_millis(300)).await;
        left.push(gateway.upgrade().await);
        done(&gateway, round + 1).await;
        assert_eq!(sockets::alive(&mut open).await, open.len());
    }
    pass(Duration::from_millis(300)).await;
    stop.store(true, Ordering::Relaxed);
    let streams = streams.join_next().await.unwrap().unwrap();
    assert_lossless(&keep_alive.stop().await, "keep-alive connections");
    assert_lossless(&fresh.stop().await, "new connections");
    assert_lossless(&admin.stop().await, "admin");
    assert_eq!(streams.failed, [""; 0]);
    assert!(streams.succeeded > 50, "{streams:?}");
    assert!(streams.connections > 3, "{streams:?}");

    // Each old process remains only for its socket, and the newest knows of all of them.
    assert!(left.iter().all(|pid| is_alive(*pid)), "{left:?}");
    let mut oldest_first = open.into_iter();
    for pid in left {
        drop(oldest_first.next());
        gone(pid, Duration::from_secs(2)).await;
    }
    assert!(oldest_first.next().is_none());
    assert_eq!(gateway.get("/after").await.status(), 200);
    let (_, path) = gateway.listener("local").split_once(':').unwrap();
    assert!(std::os::unix::net::UnixStream::connect(path).is_ok());
    assert_eq!(gateway.count(FAILED).await, 0);
}

/// The control for the test above: a stop and a start lose requests.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_without_an_upgrade_is_seen_to_lose_requests() {
    let (echo, ws) = (EchoOrigin::start().await, WsOrigin::start().await);
    let mut gateway = front(&echo, &ws, "").await;
    let web = gateway.address();
    let fresh = endless(web, 4, Lanes::Fresh, |_| get("/fresh"));
    pass(Duration::from_millis(100)).await;
    gateway.terminate(SOON).await;
    pass(Duration::from_millis(100)).await;
    assert!(fresh.stop().await.errors() > 0);
}

#[tokio::test]
async fn a_request_in_flight_is_finished_by_the_old_process_which_then_exits() {
    let origin = SlowOrigin::start(Duration::from_millis(1500)).await;
    let mut gateway = Front::to(&origin).start().await;
    let mut busy = gateway.connect().await;
    let mut idle = gateway.connect().await;
    busy.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    wait_for("the origin has the request", SOON, async || {
        (origin.counts().requests() > 0).then_some(())
    })
    .await;
    let begun = Instant::now();
    let old = gateway.upgrade().await;
    let process = wait_for("the new process knows of the old one", SOON, async || {
        let status = gateway.status().await;
        status["predecessors"].get(0).cloned()
    })
    .await;
    assert_eq!(process["pid"], old);
    assert_eq!(process["version"], edgeway::VERSION);
    assert_eq!(process["connections"], 2);
    assert!(
        process["since"].as_str().unwrap().ends_with('Z'),
        "{process}"
    );
    // A connection without a request is closed after `idle`, not at once.
    assert!(idle.is_closed().await);
    assert!(
        begun.elapsed() >= Duration::from_millis(900),
        "{:?}",
        begun.elapsed()
    );
    let response = busy.read_headers().await.unwrap();
    assert_eq!(
        (response.status, response.header("connection")),
        (200, Some("close"))
    );
    busy.finish(response).await.unwrap();
    gone(old, Duration::from_secs(2)).await;
    wait_for("the new process knows that it has left", SOON, async || {
        let status = gateway.status().await;
        status["predecessors"]
            .as_array()
            .unwrap()
            .is_empty()
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_successor_that_does_not_serve_leaves_the_old_process_serving() {
    let (echo, ws) = (EchoOrigin::start().await, WsOrigin::start().await);
    let gateway = front(&echo, &ws, "").await;
    let pid = gateway.pid();
    for (turn, (program, expected)) in [
        (PathBuf::from("/bin/false"), "ended before it was ready"),
        (gateway.folder().join("missing"), "cannot start"),
        (script(&gateway, "exit 1"), "ended before it was ready"),
    ]
    .into_iter()
    .enumerate()
    {
        gateway.set_program(&program);
        gateway.signal(Signal::USR2);
        let count = turn as u64 + 1;
        wait_for("the upgrade has failed", SOON, async || {
            (gateway.count(FAILED).await == count).then_some(())
        })
        .await;
        let log = gateway.stderr();
        let failures: Vec<&str> = log
            .lines()
            .filter(|l| l.contains("upgrade failed"))
            .collect();
        assert_eq!(failures.len(), turn + 1);
        assert!(failures[turn].contains(expected), "{}", failures[turn]);
        assert_eq!(gateway.get("/still").await.status(), 200);
    }
    assert_eq!(gateway.count(DONE).await, 0);
    assert_eq!(gateway.status().await["pid"], pid);
}

#[tokio::test]
async fn a_stop_during_an_upgrade_stops_both_processes() {
    let (echo, ws) = (EchoOrigin::start().await, WsOrigin::start().await);
    let mut gateway = front(&echo, &ws, "").await;
    let pid_file = gateway.folder().join("successor");
    let hangs = format!("echo $$ >{}; exec sleep 600", pid_file.display());
    gateway.set_program(&script(&gateway, &hangs));
    gateway.signal(Signal::USR2);
    let successor: u32 = wait_for("the successor starts", SOON, async || {
        let text = fs::read_to_string(&pid_file).ok()?;
        text.trim().parse().ok()
    })
    .await;
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.leaves(SOON).await.code(), Some(0));
    gone(successor, SOON).await;
    let log = gateway.stderr();
    assert!(log.contains("upgrade given up"), "{log}");
    assert!(Connection::open(gateway.address()).await.is_err());
}

#[tokio::test]
async fn a_broken_configuration_is_reported_by_the_successor_and_serves_nothing() {
    let (echo, ws) = (EchoOrigin::start().await, WsOrigin::start().await);
    let mut gateway = front(&echo, &ws, "").await;
    let file = gateway.folder().join("edgeway.yaml");
    let good = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{good}nonsense: true\n")).unwrap();
    gateway.signal(Signal::USR2);
    wait_for("the upgrade has failed", SOON, async || {
        (gateway.count(FAILED).await == 1).then_some(())
    })
    .await;
    let log = gateway.stderr();
    let failure = log.lines().find(|l| l.contains("upgrade failed")).unwrap();
    assert!(failure.contains("does not serve"), "{failure}");
    assert!(log.contains("nonsense"), "{log}");
    // A process that cannot open a listener releases those that it had taken over by then.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (_, path) = gateway.listener("local").split_once(':').unwrap();
    let path = path.to_owned();
    let last = format!(
        "  - {{ address: \"{}\", name: last }}\nupstreams:",
        taken.local_addr().unwrap()
    );
    let stricter = good.replace("name: local }", "name: local, mode: \"0600\" }");
    fs::write(&file, stricter.replacen("upstreams:", &last, 1)).unwrap();
    let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o660);
    gateway.signal(Signal::USR2);
    wait_for("the upgrade has failed again", SOON, async || {
        (gateway.count(FAILED).await == 2).then_some(())
    })
    .await;
    assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
    assert_eq!(mode(), 0o660);
    // Another attempt, without the mistakes, succeeds and keeps the counts of the others.
    fs::write(&file, stricter).unwrap();
    let old = gateway.upgrade().await;
    gone(old, SOON).await;
    wait_for("the socket has the new mode", SOON, async || {
        (mode() == 0o600).then_some(())
    })
    .await;
    assert_eq!(
        (gateway.count(DONE).await, gateway.count(FAILED).await),
        (1, 2)
    );
    assert_eq!(gateway.get("/").await.status(), 200);
}

#[tokio::test]
async fn a_socket_that_somebody_else_has_bound_in_the_meantime_stays() {
    let (echo, ws) = (EchoOrigin::start().await, WsOrigin::start().await);
    let mut gateway = front(&echo, &ws, "").await;
    let (_, path) = gateway.listener("local").split_once(':').unwrap();
    let path = path.to_owned();
    fs::remove_file(&path).unwrap();
    let _anothers = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let old = gateway.upgrade().await;
    gone(old, SOON).await;
    assert!(gateway.terminate_newest(SOON).await);
    assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
}

#[tokio::test]
async fn an_upgrade_may_follow_another_that_still_finishes_and_a_stop_waits_for_both() {
    let (echo, ws) = (EchoOrigin::start().await, WsOrigin::start().await);
    let mut gateway = front(&echo, &ws, "drain: { deadline: 60s }").await;
    let mut first = sockets::open(gateway.address()).await;
    let oldest = gateway.upgrade().await;
    let mut second = sockets::open(gateway.address()).await;
    let old = gateway.upgrade().await;
    let processes = wait_for("both are known", SOON, async || {
        let status = gateway.status().await;
        let list = status["predecessors"].as_array().unwrap().clone();
        (list.len() == 2).then_some(list)
    })
    .await;
    let pids: Vec<_> = processes
        .iter()
        .map(|p| p["pid"].as_u64().unwrap())
        .collect();
    assert_eq!(pids, [u64::from(oldest), u64::from(old)]);
    let newest = gateway.pid();
    gateway.signal(Signal::TERM);
    wait_for("new connections are refused", SOON, async || {
        Connection::open(gateway.address())
            .await
            .is_err()
            .then_some(())
    })
    .await;
    assert!(sockets::echoes(&mut first, "one").await);
    assert!(sockets::echoes(&mut second, "two").await);
    assert!(is_alive(newest), "it waits for those before it");
    drop(second);
    gone(old, Duration::from_secs(2)).await;
    assert!(sockets::echoes(&mut first, "three").await);
    drop(first);
    gone(oldest, Duration::from_secs(2)).await;
    gone(newest, Duration::from_secs(2)).await;
}

fn command(gateway: &Gateway, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_edgeway"))
        .arg("upgrade")
        .args(arguments)
        .args(["--socket", gateway.admin_socket()])
        .output()
        .expect("the binary starts");
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

/// A successor takes the first report for the end of the handover. Without one it waits for the
/// predecessor's exit, and speaks for neither of them to the service manager until then.
#[tokio::test]
async fn a_predecessor_with_nothing_to_finish_reports_before_it_exits() {
    let (echo, ws) = (EchoOrigin::start().await, WsOrigin::start().await);
    let mut gateway = front(&echo, &ws, "").await;
    for upgrades in 1..=5 {
        let pid = gateway.pid();
        gateway.upgrade().await;
        let exit = wait_for("the predecessor exits", SOON, async || {
            let log = gateway.stderr();
            let exits = log
                .lines()
                .filter(|line| line.contains("previous process finished"));
            exits.map(str::to_owned).nth(upgrades - 1)
        })
        .await;
        assert!(exit.contains(&format!("pid={pid} ")), "{exit}");
    }
}

#[tokio::test]
async fn the_command_reports_the_outcome() {
    let (echo, ws) = (EchoOrigin::start().await, WsOrigin::start().await);
    let mut gateway = front(&echo, &ws, "").await;
    let (done, text) = command(&gateway, &["/bin/false"]);
    assert!(
        !done && text.contains("ended before it was ready"),
        "{text}"
    );
    let (done, text) = command(&gateway, &["/bin/missing"]);
    assert!(!done && text.contains("/bin/missing"), "{text}");
    // Over TCP without a token no client can upgrade.
    let asked = post("/v1/upgrade", "");
    assert_eq!(gateway.send_admin_tcp(&asked).await.status(), 403);

    let (done, text) = command(&gateway, &[]);
    assert!(done, "{text}");
    gateway.upgraded().await;
    let line = format!(
        "process {} serves, version {}",
        gateway.pid(),
        edgeway::VERSION
    );
    assert!(text.contains(&line), "{text}");
    let (done, text) = command(&gateway, &[env!("CARGO_BIN_EXE_edgeway"), "--json"]);
    assert!(done, "{text}");
    gateway.upgraded().await;
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["pid"], gateway.pid());
}

#[tokio::test]
async fn a_drained_backend_stays_drained_in_the_next_process() {
    let (one, two) = (EchoOrigin::start().await, EchoOrigin::start().await);
    let mut gateway = front_of(&one, &two).await;
    let path = format!("/v1/upstreams/app/backends/{}/drain", one.address());
    assert_eq!(gateway.send_admin(&post(&path, "")).await.status(), 200);
    let old = gateway.upgrade().await;
    gone(old, SOON).await;
    for _ in 0..10 {
        assert_eq!(gateway.get("/").await.status(), 200);
    }
    assert_eq!((one.counts().requests(), two.counts().requests()), (0, 10));
}

#[tokio::test]
async fn a_backend_is_not_drained_while_the_old_process_has_requests_there() {
    let (one, two) = (WsOrigin::start().await, WsOrigin::start().await);
    let mut gateway = Front::to_all(&format!("['{}', '{}']", one.address(), two.address()))
        .with("drain: { deadline: 60s }")
        .route("websocket: true")
        .start()
        .await;
    let mut open = sockets::open_many(gateway.address(), 4).await;
    gateway.upgrade().await;
    let backend = async || {
        let status = gateway.status().await;
        let backend = &status["upstreams"][0]["backends"][0];
        let state = backend["state"].as_str().unwrap().to_owned();
        (state, backend["in_flight"].as_u64().unwrap())
    };
    wait_for("the old process has reported", SOON, async || {
        (backend().await.1 == 2).then_some(())
    })
    .await;
    let path = format!("/v1/upstreams/app/backends/{}/drain", one.address());
    let response = gateway.send_admin(&post(&path, "")).await;
    assert_eq!(response.status(), 200);
    let response: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(response["backend"]["state"], "draining", "{response}");
    assert_eq!(response["backend"]["in_flight"], 2, "{response}");
    assert_eq!(backend().await, ("draining".to_owned(), 2));
    assert_eq!(sockets::alive(&mut open).await, 4);
    drop(open);
    wait_for("it is drained", SOON, async || {
        (backend().await == ("drained".to_owned(), 0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn actions_requested_during_an_upgrade_are_done_by_the_new_process() {
    let (one, two) = (EchoOrigin::start().await, EchoOrigin::start().await);
    let mut gateway = front_of(&one, &two).await;
    let go = gateway.folder().join("go");
    let started = gateway.folder().join("started");
    let waits = format!(
        ": >{}; while [ ! -e {} ]; do sleep 0.01; done; exec {} \"$@\"",
        started.display(),
        go.display(),
        env!("CARGO_BIN_EXE_edgeway")
    );
    gateway.set_program(&script(&gateway, &waits));
    gateway.signal(Signal::USR2);
    wait_for("the upgrade has begun", SOON, async || {
        started.exists().then_some(())
    })
    .await;
    gateway.signal(Signal::HUP);
    let ask = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_edgeway"))
            .args(arguments)
            .args(["--socket", gateway.admin_socket()])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts")
    };
    let backend = format!("app/{}", one.address());
    let asked = [ask(&["reload"]), ask(&["drain", &backend])];
    // They have reached the old process by then; otherwise the new one has nothing to forward.
    pass(Duration::from_millis(300)).await;
    fs::write(&go, "").unwrap();
    gateway.upgraded().await;
    for one in asked {
        let outcome = tokio::task::spawn_blocking(|| one.wait_with_output())
            .await
            .unwrap()
            .unwrap();
        let stderr = String::from_utf8_lossy(&outcome.stderr).into_owned();
        assert!(outcome.status.success(), "{stderr}");
    }
    wait_for(
        "both reloads are done by the new process",
        SOON,
        async || {
            let status = gateway.status().await;
            (status["config"]["generation"] == 3).then_some(())
        },
    )
    .await;
    let status = gateway.status().await;
    assert_eq!(status["pid"], gateway.pid());
    assert_eq!(
        status["upstreams"][0]["backends"][0]["state"], "drained",
        "{status}"
    );
}

#[tokio::test]
async fn a_successor_takes_its_configured_sockets_and_closes_others() {
    let text = |listeners: &str| {
        format!(
            "listeners: [{listeners}]\nroutes: [{{ match: {{ path: /* }}, respond: {{ status: 200, body: ok }} }}]\n"
        )
    };
    let a = "{ address: \"127.0.0.1:0\", name: a }";
    let b = "{ address: \"127.0.0.1:0\", name: b }";
    let c = "{ address: \"127.0.0.1:0\", name: c }";
    let mut gateway = Gateway::start(&text(&format!("{a}, {b}"))).await;
    let before = gateway.listeners().await;
    gateway.configure(&text(&format!("{c}, {a}")));
    let old = gateway.upgrade().await;
    gone(old, SOON).await;
    let after = gateway.listeners().await;
    assert_eq!(after["a"], before["a"]);
    assert!(!after.contains_key("b") && after.contains_key("c"));
    assert!(Connection::open(before["b"]).await.is_err());
    assert!(Connection::open(after["c"]).await.is_ok());
}
