//! Apps that are drained, restarted, added and removed while users send requests.

use std::{fs, path::Path, time::Duration};

use crate::support::{
    apps::{ExpressApp, backends as addresses},
    client::{Request, get},
    fleet::{Fleet, backends, begin, edgeway, states},
    gateway::Gateway,
    load::{Lanes, Tally, endless, lanes, paced},
    sockets,
    wait::{pass, wait_for},
};

const HEALTH: &str =
    "    app: node\n    health: { path: /health, interval: 1s, interval_down: 100ms, timeout: 1s }";
const SOON: Duration = Duration::from_secs(10);

fn yaml(backends: &str, settings: &str) -> String {
    format!(
        "
upstreams:
  web:
    backends: {backends}
{settings}
routes:
  - match: {{ path: /* }}
    upstream: web
    websocket: true
"
    )
}

async fn front(backends: &str, settings: &str) -> Gateway {
    Gateway::start(&yaml(backends, settings)).await
}

fn request(_: u64) -> Request {
    get("/api/items")
}

/// Sends `count` requests one after the other; returns the ports that responded.
async fn served_by(gateway: &Gateway, count: u64) -> Vec<u16> {
    let tally = lanes(gateway.address(), 1, count, request).await;
    assert_eq!(tally.errors(), 0, "{tally:?}");
    tally.served.keys().copied().collect()
}

#[track_caller]
fn assert_lossless(tally: &Tally, at_least: u64) {
    assert_eq!((tally.errors(), tally.truncated), (0, 0), "{tally:?}");
    assert!(tally.total() >= at_least, "only {} requests", tally.total());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_backend_gets_nothing_new_while_requests_and_sockets_finish() {
    let apps = ExpressApp::several(2).await;
    let gateway = front(&format!("[{}]", addresses(&apps)), HEALTH).await;
    let mut socket = sockets::open(gateway.address()).await;
    assert!(sockets::echoes(&mut socket, "before").await);
    let held = backends(&gateway, "web").await;
    let held = held
        .iter()
        .find(|b| b["in_flight"] == 1)
        .expect("the socket is open");
    let address = held["address"].as_str().unwrap().to_owned();
    let (drained, other) = if addresses(&apps[..1]) == address {
        (&apps[0], &apps[1])
    } else {
        (&apps[1], &apps[0])
    };
    // A request in flight, at either backend.
    let slow = paced(gateway.address(), 20, Duration::from_millis(500), request);

    let name = format!("web/{address}");
    let soon = ["drain", &name, "--wait", "300ms"];
    let drain = edgeway(&gateway, &soon);
    let (tally, ran) = tokio::join!(slow, drain);
    assert_lossless(&tally, 10);
    assert_eq!(ran.status, Some(1), "{ran:?}");
    assert!(
        ran.stderr.contains("1 request still in flight"),
        "{}",
        ran.stderr
    );
    let now = states(&gateway, "web").await;
    assert!(now.contains(&format!("{address} draining")), "{now:?}");
    assert_eq!(served_by(&gateway, 40).await, [other.port()]);
    assert!(sockets::echoes(&mut socket, "meanwhile").await);

    let last = edgeway(&gateway, &["drain", &format!("web/{}", other.address())]).await;
    assert_eq!(last.status, Some(1), "{last:?}");
    assert!(
        last.stderr.contains("is the last backend in rotation"),
        "{}",
        last.stderr
    );
    let unknown = edgeway(&gateway, &["drain", "web/127.0.0.1:9"]).await;
    assert_eq!(unknown.status, Some(1));
    assert!(
        unknown.stderr.contains(&address),
        "it names those there are: {}",
        unknown.stderr
    );

    drop(socket);
    let ran = edgeway(&gateway, &["drain", &name]).await;
    assert_eq!(ran.status, Some(0), "{ran:?}");
    let now = states(&gateway, "web").await;
    assert!(now.contains(&format!("{address} drained")), "{now:?}");
    let series = format!("edgeway_backend_draining{{backend=\"{address}\"}}");
    assert_eq!(gateway.count(&series).await, 1);

    let ran = edgeway(&gateway, &["undrain", &name]).await;
    assert_eq!(ran.status, Some(0), "{ran:?}");
    let both = served_by(&gateway, 40).await;
    assert!(
        both.contains(&drained.port()) && both.len() == 2,
        "{both:?}"
    );
}

#[tokio::test]
async fn a_drained_backend_is_checked_even_where_no_checks_are_written() {
    let apps = ExpressApp::several(2).await;
    let gateway = front(&format!("[{}]", addresses(&apps)), "    health: false").await;
    let name = format!("web/{}", apps[0].address());
    edgeway(&gateway, &["drain", &name]).await;
    wait_for("checks of the drained one", SOON, async || {
        let all = backends(&gateway, "web").await;
        let good = all[0]["probe"]["passed_in_a_row"].as_u64()?;
        (good >= 2).then_some(())
    })
    .await;
    let all = backends(&gateway, "web").await;
    assert!(all[1]["probe"].is_null(), "{all:?}");
}

#[tokio::test]
async fn members_and_drains_outlive_a_reload_and_a_crash() {
    let apps = ExpressApp::several(3).await;
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();
    let start = async || {
        let two = format!("[{}]", addresses(&apps[..2]));
        Gateway::start_with(&yaml(&two, HEALTH), &[("STATE_DIRECTORY", state)]).await
    };
    let gateway = start().await;
    let [first, second, third] = [0, 1, 2].map(|index| apps[index].address().to_string());
    let ran = edgeway(&gateway, &["upstream", "add", "web", &third]).await;
    assert_eq!(ran.status, Some(0), "{ran:?}");
    assert_eq!(served_by(&gateway, 60).await.len(), 3);
    let again = edgeway(&gateway, &["upstream", "add", "web", &third]).await;
    assert_eq!(again.status, Some(1), "{again:?}");
    edgeway(&gateway, &["drain", &format!("web/{second}")]).await;
    let expected = [
        format!("{first} healthy"),
        format!("{second} drained"),
        format!("{third} healthy"),
    ];
    assert_eq!(states(&gateway, "web").await, expected);

    let two = format!("[{}]", addresses(&apps[..2]));
    let changed = yaml(&two, &format!("{HEALTH}\n    balance: round_robin"));
    assert!(gateway.reload(&changed).await);
    assert_eq!(states(&gateway, "web").await, expected);

    // `kill -9`, and another process with the same folder.
    drop(gateway);
    let gateway = start().await;
    assert_eq!(states(&gateway, "web").await, expected);

    let written = edgeway(&gateway, &["upstream", "remove", "web", &first, "--force"]).await;
    assert!(
        written.stderr.contains("is written in the configuration"),
        "{written:?}"
    );
    let busy = edgeway(&gateway, &["upstream", "remove", "web", &third]).await;
    assert!(busy.stderr.contains("drain it first"), "{busy:?}");
    edgeway(&gateway, &["drain", &format!("web/{third}"), "--force"]).await;
    let ran = edgeway(&gateway, &["upstream", "remove", "web", &third]).await;
    assert_eq!(ran.status, Some(0), "{ran:?}");
    assert_eq!(states(&gateway, "web").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_that_cannot_be_saved_says_so_and_is_saved_later() {
    let apps = ExpressApp::several(2).await;
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();
    let file = folder.path().join("backends.json");
    // What is there cannot be replaced.
    fs::create_dir_all(file.join("x")).unwrap();
    let yaml = yaml(&format!("[{}]", addresses(&apps)), HEALTH);
    let start = async || Gateway::start_with(&yaml, &[("STATE_DIRECTORY", state)]).await;
    let gateway = start().await;
    let second = format!("web/{}", apps[1].address());
    let ran = edgeway(&gateway, &["drain", &second]).await;
    assert_eq!(ran.status, Some(0), "{ran:?}");
    assert!(ran.stderr.contains("not saved"), "{ran:?}");
    let unsaved = async || gateway.status().await["unsaved_decisions"].is_string();
    assert!(unsaved().await);
    fs::remove_dir_all(&file).unwrap();
    wait_for("it is saved", SOON, async || {
        (!unsaved().await).then_some(())
    })
    .await;
    drop(gateway);
    let gateway = start().await;
    assert!(states(&gateway, "web").await[1].ends_with(" drained"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_of_four_apps_costs_no_request() {
    let fleet = Fleet::start(4, 4).await;
    let gateway = front(&fleet.backends(4), HEALTH).await;
    let before: Vec<_> = fleet.ports().map(|port| fleet.pid(port)).collect();
    let load = endless(gateway.address(), 4, Lanes::KeepAlive, request);
    let fresh = endless(gateway.address(), 2, Lanes::Fresh, request);
    let ran = fleet
        .edgeway(
            &gateway,
            &[
                "rollout",
                "web",
                "--",
                "systemctl",
                "restart",
                "node-app@{port}",
            ],
        )
        .await;
    assert_eq!(ran.status, Some(0), "{ran:?}");
    assert_lossless(&load.stop().await, 200);
    assert_lossless(&fresh.stop().await, 50);
    for (port, old) in fleet.ports().zip(before) {
        assert_ne!(fleet.pid(port), old, "{port} is a new process");
    }
    assert!(
        ran.stderr.contains("4 backends restarted"),
        "{}",
        ran.stderr
    );
    let now = states(&gateway, "web").await;
    assert!(
        now.iter().all(|state| state.ends_with(" healthy")),
        "{now:?}"
    );
    assert_eq!(served_by(&gateway, 80).await.len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_restarts_without_a_drain_are_felt() {
    let fleet = Fleet::start(2, 2).await;
    let gateway = front(
        &fleet.backends(2),
        "    app: node\n    health: false\n    retry: { attempts: 1 }\n    eject: { errors: 0 }",
    )
    .await;
    let load = endless(gateway.address(), 4, Lanes::Fresh, request);
    for port in fleet.ports() {
        let unit = format!("node-app@{port}.service");
        let restarted = tokio::process::Command::new(fleet.systemctl())
            .args(["restart", &unit])
            .status()
            .await;
        assert!(restarted.unwrap().success());
        pass(Duration::from_millis(300)).await;
    }
    let tally = load.stop().await;
    assert!(tally.errors() > 0, "{tally:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_build_stops_at_the_first_and_no_user_meets_it() {
    let fleet = Fleet::start(3, 3).await;
    let gateway = front(&fleet.backends(3), HEALTH).await;
    let load = endless(gateway.address(), 4, Lanes::KeepAlive, request);
    fleet.build("broken");
    let rollout = ["rollout", "web", "--timeout", "5s"];
    let command = ["--", "systemctl", "restart", "node-app@{port}"];
    let ran = fleet
        .edgeway(&gateway, &[&rollout[..], &command].concat())
        .await;
    assert_eq!(ran.status, Some(1), "{ran:?}");
    let first = fleet.address(0);
    for expected in [
        format!("web/{first}: did not come back within 5s"),
        "connection refused".to_owned(),
        format!("`edgeway undrain web/{first}`"),
        format!("not restarted: {}, {}", fleet.address(1), fleet.address(2)),
    ] {
        assert!(
            ran.stderr.contains(&expected),
            "{expected}\n---\n{}",
            ran.stderr
        );
    }
    let now = states(&gateway, "web").await;
    assert_eq!(now[0], format!("{first} drained"));
    assert_eq!(
        now.iter()
            .filter(|state| state.ends_with(" healthy"))
            .count(),
        2
    );
    assert_eq!(
        fleet
            .log()
            .iter()
            .filter(|line| line.starts_with("restart"))
            .count(),
        1
    );

    // The first backend is repaired by hand; the next rollout fails at the next one, and repairs it
    // itself.
    fleet.build("good");
    fleet
        .edgeway(&gateway, &["undrain", &format!("web/{first}")])
        .await;
    let port = fleet.first_port.to_string();
    tokio::process::Command::new(fleet.systemctl())
        .args(["start", &format!("node-app@{port}.service")])
        .status()
        .await
        .unwrap();
    wait_for("the mended one serves", SOON, async || {
        let now = states(&gateway, "web").await;
        now[0].ends_with(" healthy").then_some(())
    })
    .await;
    fleet.build("broken");
    let folder = fleet.folder().to_str().unwrap();
    let mend = format!("echo good > {folder}/build && systemctl restart node-app@{{port}}");
    let with_mend = [&rollout[..], &["--on-fail", &mend], &command].concat();
    let ran = fleet.edgeway(&gateway, &with_mend).await;
    assert_eq!(ran.status, Some(1), "a failure all the same: {ran:?}");
    let expected = format!("web/{first}: back in rotation after `--on-fail`");
    assert!(ran.stderr.contains(&expected), "{}", ran.stderr);
    assert_lossless(&load.stop().await, 200);
    assert_eq!(served_by(&gateway, 60).await.len(), 3);
}

/// A rollout waits for another one of the same upstream, and for none of another gateway.
#[tokio::test]
async fn gateways_with_an_upstream_of_one_name_roll_out_side_by_side() {
    let apps = ExpressApp::several(2).await;
    let both = format!("[{}]", addresses(&apps));
    let (one, other) = (front(&both, HEALTH).await, front(&both, HEALTH).await);
    let slow = ["rollout", "web", "--", "sleep", "30"];
    let held = begin(&one, &slow);
    wait_for("the first one runs", SOON, async || {
        let states = states(&one, "web").await;
        states
            .iter()
            .any(|state| state.ends_with("drained"))
            .then_some(())
    })
    .await;
    let ran =
        tokio::time::timeout(3 * SOON, edgeway(&other, &["rollout", "web", "--", "true"])).await;
    let ran = ran.expect("it waits for nothing of the first gateway");
    assert_eq!(ran.status, Some(0), "{ran:?}");
    held.terminate().await;
}

#[tokio::test]
async fn a_rollout_of_the_only_backend_needs_force_and_a_dry_run_touches_nothing() {
    let fleet = Fleet::start(2, 2).await;
    let gateway = front(&fleet.backends(2), HEALTH).await;
    let command = ["--", "systemctl", "restart", "node-app@{port}"];
    let dry = [&["rollout", "web", "--dry-run"][..], &command].concat();
    let log = fleet.log();
    let ran = fleet.edgeway(&gateway, &dry).await;
    assert_eq!((ran.status, fleet.log()), (Some(0), log), "{ran:?}");
    let line = format!("  run: systemctl restart node-app@{}\n", fleet.last_port);
    assert!(ran.stdout.contains(&line), "{}", ran.stdout);

    let name = format!("web/{}", fleet.address(1));
    fleet.edgeway(&gateway, &["drain", &name]).await;
    let one = [&["rollout", "web"][..], &command].concat();
    let ran = fleet.edgeway(&gateway, &one).await;
    assert_eq!(ran.status, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("users get 503"), "{}", ran.stderr);
    let forced = [&["rollout", "web", "--force"][..], &command].concat();
    let ran = fleet.edgeway(&gateway, &forced).await;
    assert_eq!(ran.status, Some(0), "{ran:?}");
    let note = format!("{name}: skipped, it is drained");
    assert!(ran.stderr.contains(&note), "{}", ran.stderr);
}

/// Starts a gateway with two apps of a fleet in its configuration, and room for the others.
async fn scaled(fleet: &Fleet) -> Gateway {
    let scale = format!(
        "{HEALTH}\n    scale: {{ unit: \"node-app@{{port}}.service\", ports: {}-{}, manager: user }}",
        fleet.first_port, fleet.last_port
    );
    front(&fleet.backends(2), &scale).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scaling_up_and_down_costs_no_request() {
    let fleet = Fleet::start(4, 2).await;
    let gateway = scaled(&fleet).await;
    let load = endless(gateway.address(), 4, Lanes::KeepAlive, request);
    let started = fleet.log().len();

    let ran = fleet.edgeway(&gateway, &["scale", "web", "4"]).await;
    assert_eq!(ran.status, Some(0), "{ran:?}");
    assert_eq!(served_by(&gateway, 80).await.len(), 4);
    let ran = fleet.edgeway(&gateway, &["scale", "web", "2"]).await;
    assert_eq!(ran.status, Some(0), "{ran:?}");
    assert_eq!(served_by(&gateway, 40).await.len(), 2);
    let (third, fourth) = (fleet.first_port + 2, fleet.first_port + 3);
    assert_eq!(
        fleet.log()[started..],
        [
            format!("--user start -- node-app@{third}.service"),
            format!("--user start -- node-app@{fourth}.service"),
            format!("--user stop -- node-app@{fourth}.service"),
            format!("--user stop -- node-app@{third}.service"),
        ]
    );
    assert_eq!((fleet.pid(third), fleet.pid(fourth)), (None, None));

    // The second run sees what the first one has done.
    let state = fleet.folder().join("by-hand.json");
    let twice = ["scale", "web", "4", "--state", state.to_str().unwrap()];
    let (one, two) = tokio::join!(
        fleet.edgeway(&gateway, &twice),
        fleet.edgeway(&gateway, &twice)
    );
    assert_eq!(
        (one.status, two.status),
        (Some(0), Some(0)),
        "{one:?} {two:?}"
    );
    let both = one.stderr + &two.stderr;
    assert!(both.contains("has 4 backends already"), "{both}");
    let ran = fleet.edgeway(&gateway, &["scale", "web", "2"]).await;
    assert_eq!(ran.status, Some(0), "{ran:?}");

    let ran = fleet.edgeway(&gateway, &["scale", "web", "1"]).await;
    assert_eq!(ran.status, Some(1), "{ran:?}");
    assert!(
        ran.stderr.contains("are written in the configuration"),
        "{}",
        ran.stderr
    );

    // A build that does not start leaves nothing behind.
    fleet.build("broken");
    let ran = fleet
        .edgeway(&gateway, &["scale", "web", "3", "--timeout", "1s"])
        .await;
    assert_eq!(ran.status, Some(1), "{ran:?}");
    assert_eq!(states(&gateway, "web").await.len(), 2);
    assert_lossless(&load.stop().await, 200);
}

/// Invariant: whatever ended apps or a run, the next run has the number of apps that it says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scaled_apps_that_ended_are_started_again() {
    let fleet = Fleet::start(4, 2).await;
    let gateway = scaled(&fleet).await;
    let added = fleet.first_port + 2;
    let state = fleet.folder().join("web.json");
    let auto = ["scale", "web", "--auto", "--interval", "1s", "--state"];
    let auto = [&auto[..], &[state.to_str().unwrap()]].concat();
    for command in [&["scale", "web", "3"][..], &auto] {
        fleet.edgeway(&gateway, &["scale", "web", "3"]).await;
        assert_eq!(served_by(&gateway, 60).await.len(), 3);
        // As a reboot does it: units that nobody enabled do not run.
        fleet.kill(added);
        wait_for("the app is down", SOON, async || {
            states(&gateway, "web").await[2]
                .ends_with(" down")
                .then_some(())
        })
        .await;
        let ran = fleet.edgeway(&gateway, command).await;
        assert_eq!(ran.status, Some(0), "{ran:?}");
        let line = "started again and in rotation";
        assert!(ran.stderr.contains(line), "{command:?} {ran:?}");
        assert_eq!(served_by(&gateway, 60).await.len(), 3);
    }

    // A run that was killed while it stopped an app.
    let name = format!("web/{}", fleet.address(2));
    fs::write(&state, format!(r#"{{"begun":["{}"]}}"#, fleet.address(2))).unwrap();
    edgeway(&gateway, &["drain", &name]).await;
    let ran = fleet.edgeway(&gateway, &auto).await;
    assert_eq!(ran.status, Some(0), "{ran:?}");
    assert_eq!(states(&gateway, "web").await.len(), 2);
    assert_eq!(fleet.pid(added), None);
    let text = fs::read_to_string(&state).unwrap();
    assert!(text.contains("\"begun\":[]"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_load_scales_the_apps_within_their_bounds() {
    let fleet = Fleet::start(4, 2).await;
    let gateway = scaled(&fleet).await;
    let state = fleet.folder().join("web.json");
    let state = state.to_str().unwrap();
    let auto = async |more: &[&str]| {
        let common = [
            "scale",
            "web",
            "--auto",
            "--interval",
            "1s",
            "--state",
            state,
        ];
        let ran = fleet.edgeway(&gateway, &[&common[..], more].concat()).await;
        assert_eq!(ran.status, Some(0), "{ran:?}");
        ran.stdout
    };
    let load = endless(gateway.address(), 4, Lanes::KeepAlive, request);
    let started = fleet.log().len();
    // A share that any load is above.
    let busy = ["--target-cpu", "1%"];
    let shown = auto(&[&busy[..], &["--dry-run"]].concat()).await;
    assert!(shown.contains("web: 2 backends, CPU "), "{shown}");
    assert!(shown.contains("target 1%: +2\nstart node-app@"), "{shown}");
    assert_eq!(fleet.log().len(), started, "a dry run starts nothing");
    assert!(!Path::new(state).exists());

    // The most is two, and nothing is started; then all the ports that there are.
    let shown = auto(&[&busy[..], &["--max", "2"]].concat()).await;
    assert!(shown.ends_with("unchanged, at the most\n"), "{shown}");
    assert_eq!(states(&gateway, "web").await.len(), 2);
    auto(&busy).await;
    assert_eq!(served_by(&gateway, 80).await.len(), 4);
    let shown = auto(&busy).await;
    assert!(shown.ends_with("unchanged, at the most\n"), "{shown}");
    assert_lossless(&load.stop().await, 100);

    // No load: one less a run, but not before its calm time, and never below the least.
    let calm = ["--target-cpu", "90%", "--calm"];
    let shown = auto(&[&calm[..], &["1h"]].concat()).await;
    assert!(shown.contains("unchanged, calm for 0"), "{shown}");
    assert_eq!(states(&gateway, "web").await.len(), 4);
    let shown = auto(&[&calm[..], &["0s", "--min", "3"]].concat()).await;
    assert!(shown.ends_with(": -1\n"), "{shown}");
    assert_eq!(states(&gateway, "web").await.len(), 3);
    let shown = auto(&[&calm[..], &["0s", "--min", "3"]].concat()).await;
    assert!(shown.ends_with(": unchanged\n"), "{shown}");

    // A rollout, or an operator, has a backend drained: hands off.
    let name = format!("web/{}", fleet.address(2));
    edgeway(&gateway, &["drain", &name]).await;
    let shown = auto(&[&calm[..], &["0s"]].concat()).await;
    assert!(shown.starts_with("web: unchanged, since "), "{shown}");
    assert_eq!(states(&gateway, "web").await.len(), 3);
    edgeway(&gateway, &["undrain", &name]).await;
    let shown = auto(&[&calm[..], &["0s"]].concat()).await;
    assert!(shown.ends_with(": -1\n"), "{shown}");

    let both = fleet
        .edgeway(&gateway, &["scale", "web", "3", "--auto"])
        .await;
    assert_eq!(both.status, Some(2), "{both:?}");
    let none = fleet.edgeway(&gateway, &["scale", "web"]).await;
    assert_eq!(none.status, Some(2), "{none:?}");
    let shown = fleet
        .edgeway(&gateway, &["scale", "web", "3", "--dry-run"])
        .await;
    let third = fleet.first_port + 2;
    assert_eq!(shown.stdout, format!("start node-app@{third}.service\n"));
}

/// Runs the configuration of the page, and compares each command with its output there.
#[tokio::test]
async fn the_example_in_the_docs_does_what_it_shows() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/rollout.md");
    let page = fs::read_to_string(page).unwrap();
    let blocks = |kind: &str| -> Vec<String> {
        let open = format!("```{kind}\n");
        let rest = page.split(&open).skip(1);
        rest.map(|rest| rest.split("```").next().unwrap().to_owned())
            .collect()
    };
    let yaml = blocks("yaml");
    assert_eq!(yaml.len(), 1);
    let gateway = Gateway::start(&yaml[0]).await;
    let shown = blocks("console");
    assert!(shown.len() >= 2, "{shown:?}");
    for shown in shown {
        let (line, output) = shown.split_once('\n').unwrap();
        let line = line.strip_prefix("$ edgeway ").expect("a command of ours");
        let arguments: Vec<&str> = line.split(' ').collect();
        let ran = edgeway(&gateway, &arguments).await;
        assert_eq!(format!("{}{}", ran.stdout, ran.stderr), output, "{line}");
    }
}
