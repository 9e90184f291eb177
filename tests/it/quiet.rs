//! A gateway whose clients are silent does not wake up: it costs no power, and no time of the apps
//! beside it.

use std::{collections::HashMap, fs, time::Duration};

use crate::support::{
    certificates::Ca,
    client::get,
    front::Front,
    gateway::Gateway,
    origins::{EchoOrigin, Failure, FlappingOrigin},
    wait::{pass, wait_for},
};

/// Time for what a first request begins, and for the allocator to return memory.
const SETTLE: Duration = Duration::from_secs(15);
const WATCHED: Duration = Duration::from_secs(10);

/// Returns how often each thread of a process has given up the CPU to wait, with its name.
fn waits(pid: u32) -> HashMap<String, u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    let of_thread = |task: fs::DirEntry| {
        // A thread may end meanwhile.
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.trim_start_matches(':').trim().to_owned())
        };
        let name = format!("{} {}", field("Name")?, task.file_name().to_string_lossy());
        Some((name, field("voluntary_ctxt_switches")?.parse().ok()?))
    };
    tasks.flatten().filter_map(of_thread).collect()
}

/// Returns the number of waits since `before`, and the threads that had some.
fn since(before: &HashMap<String, u64>, pid: u32) -> (u64, Vec<(String, u64)>) {
    let now = waits(pid).into_iter();
    let grown: Vec<_> = now
        .map(|(name, count)| {
            let earlier = before.get(&name).copied().unwrap_or(0);
            (name, count - earlier)
        })
        .filter(|(_, count)| *count > 0)
        .collect();
    (grown.iter().map(|(_, count)| count).sum(), grown)
}

#[tokio::test]
async fn a_gateway_without_requests_wakes_up_less_than_once_a_second() {
    let origin = EchoOrigin::start().await;
    let ca = Ca::new();
    let gateway = Gateway::start_in(
        &format!(
            "
listeners:
  - {{ address: \"127.0.0.1:0\", name: web }}
  - {{ address: \"127.0.0.1:0\", name: tls, tls: {{ certificates: {{ cert: site.pem, key: site.key }} }} }}
upstreams: {{ app: {{ backends: ['{}'], health: false }} }}
routes: [{{ match: {{ path: /* }}, upstream: app }}]
",
            origin.address()
        ),
        |folder| ca.site(&["site.test"]).write(folder, "site"),
    )
    .await;
    // It stays open, as browsers keep theirs, and so does the connection to the backend.
    let mut client = gateway.connect().await;
    let response = client.send(&get("/")).await.expect("it responds");
    assert_eq!(response.status(), 200);
    pass(SETTLE).await;

    let mut watched = Vec::new();
    for _ in 0..4 {
        let before = waits(gateway.pid());
        pass(WATCHED).await;
        watched.push(since(&before, gateway.pid()));
        if watched
            .last()
            .is_some_and(|(count, _)| *count <= WATCHED.as_secs())
        {
            break;
        }
    }
    // A busy machine makes threads wait for one another.
    let fewest = watched.iter().map(|(count, _)| *count).min();
    assert!(
        fewest <= Some(WATCHED.as_secs()),
        "in 10 s each: {watched:?}"
    );

    // The control: requests are noticed, and so is the work that watches them.
    let before = waits(gateway.pid());
    for _ in 0..20 {
        let response = client.send(&get("/")).await.expect("it responds");
        assert_eq!(response.status(), 200);
        pass(Duration::from_millis(100)).await;
    }
    let (count, threads) = since(&before, gateway.pid());
    assert!(count >= 40, "{count}: {threads:?}");
    let lag = "edgeway_event_loop_lag_seconds_count{runtime=\"workers\"}";
    assert!(gateway.count(lag).await >= 4);
}

#[tokio::test]
async fn problems_begin_and_end_without_requests() {
    let origin = FlappingOrigin::start().await;
    let health = "health: { path: /health, interval: 500ms, timeout: 300ms }";
    let gateway = Front::to(&origin).upstream(health).start().await;
    assert_eq!(gateway.get("/").await.status(), 200);
    // Until nothing watches the traffic.
    pass(SETTLE).await;
    let logged = async |text: &str| {
        let log = async || gateway.stderr().contains(text).then_some(());
        wait_for(text, WATCHED, log).await;
    };
    origin.settings().fail(Failure::Status(500));
    logged("problem began: backend app/").await;
    let open = "edgeway_problems{severity=\"error\"}";
    assert!(gateway.metric(open).await >= 1.0);
    origin.settings().recover();
    logged("problem ended after").await;
    gateway.counts(open, 0).await;
}
