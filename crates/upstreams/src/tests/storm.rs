//! Continuous reloads: checks and lookups keep their intervals.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use edgeway_net::tasks::Tasks;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::Bench;
use crate::{
    DnsError, Force, Resolve, Resolved, Upstream, chain::BoxFuture, supervise, supervise_with,
};

/// App that takes `pause` for each response, and counts the requests.
async fn app(tasks: &Tasks, pause: Duration) -> (String, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let checks = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&checks);
    let connections = Tasks::default();
    tasks.spawn("app", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            connections.spawn("answer", async move {
                let mut head = [0; 1024];
                if stream.read(&mut head).await.is_ok_and(|read| read > 0) {
                    count.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(pause).await;
                    // The check may have been given up.
                    let _sent = stream
                        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                        .await;
                }
            });
        }
    });
    (address, checks)
}

fn count(upstream: &Upstream) -> u64 {
    let snapshot = upstream.snapshot();
    snapshot.backends[0]
        .probe
        .as_ref()
        .map_or(0, |probe| probe.count)
}

/// Compiles `yaml` again every 50 ms for two seconds; each configuration is supervised for as long
/// as it serves. Returns the last.
async fn reload_for_two_seconds(bench: &Bench, yaml: &str) -> Arc<Upstream> {
    let mut last = bench.upstream(yaml);
    let mut work = Tasks::default();
    work.spawn("supervise", supervise(last.clone()));
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let new = bench.upstream(yaml);
        // Like a reload: the old one ends, in its own time, and the new one begins.
        let old = std::mem::take(&mut work);
        work.spawn("supervise", supervise(new.clone()));
        old.stop();
        last = new;
    }
    work.stop();
    last
}

/// Uses the clock of the machine: connections are real.
fn bench() -> Bench {
    Bench::default()
}

#[tokio::test]
async fn reloads_make_no_checks() {
    let tasks = Tasks::default();
    let (address, checks) = app(&tasks, Duration::ZERO).await;
    let yaml = format!("{{ backends: ['{address}'], health: {{ path: /, interval: 1s }} }}");
    let upstream = reload_for_two_seconds(&bench(), &yaml).await;
    let checks = checks.load(Ordering::Relaxed);
    assert!((2..=4).contains(&checks), "{checks} checks in 2 s");
    assert!(count(&upstream) >= 2);
}

#[tokio::test]
async fn reloads_starve_no_check() {
    let tasks = Tasks::default();
    // No configuration lasts for as long as a check of this app.
    let (address, checks) = app(&tasks, Duration::from_millis(300)).await;
    let yaml = format!("{{ backends: ['{address}'], health: {{ path: /, interval: 100ms }} }}");
    let upstream = reload_for_two_seconds(&bench(), &yaml).await;
    let (checks, ended) = (checks.load(Ordering::Relaxed), count(&upstream));
    assert!(ended >= 3, "{ended} checks ended");
    assert!(
        u64::from(checks) <= ended + 1,
        "{checks} began, {ended} ended: none is given up"
    );
}

#[tokio::test]
async fn reloads_hurry_no_look_at_what_is_out_or_drained() {
    let tasks = Tasks::default();
    let (address, _) = app(&tasks, Duration::ZERO).await;
    for health in ["", ", health: false"] {
        let bench = bench();
        let yaml = format!("{{ backends: ['{address}', '127.0.0.1:9']{health} }}");
        let upstream = bench.upstream(&yaml);
        upstream.drain(&address, Force::No).unwrap();
        let upstream = reload_for_two_seconds(&bench, &yaml).await;
        let ended = count(&upstream);
        assert!((2..=4).contains(&ended), "{ended} looks in 2 s");
        let probe = upstream.snapshot().backends[0].probe.clone().unwrap();
        assert!(probe.passed && probe.passed_in_a_row == ended, "{probe:?}");
        assert_eq!(upstream.snapshot().backends[1].probe, None, "it serves");
    }
}

#[tokio::test]
async fn an_interval_made_shorter_counts_at_once() {
    let tasks = Tasks::default();
    let (address, _) = app(&tasks, Duration::ZERO).await;
    let bench = bench();
    let yaml = |interval| {
        format!("{{ backends: ['{address}'], health: {{ path: /, interval: {interval} }} }}")
    };
    let slow = bench.upstream(&yaml("10min"));
    let work = Tasks::default();
    work.spawn("supervise", supervise(slow.clone()));
    until(|| count(&slow) == 1).await;
    work.stop();
    let quick = bench.upstream(&yaml("50ms"));
    work.spawn("supervise", supervise(quick.clone()));
    until(|| count(&quick) >= 3).await;
    work.stop();
}

#[tokio::test]
async fn a_supervised_task_ends_with_its_last_holder() {
    let tasks = Tasks::default();
    let (address, checks) = app(&tasks, Duration::from_millis(200)).await;
    let bench = bench();
    let yaml = format!("{{ backends: ['{address}'], health: {{ path: / }} }}");
    let upstream = bench.upstream(&yaml);
    let live = Arc::downgrade(&upstream.shared.live);
    let work = Tasks::default();
    work.spawn("supervise", supervise(upstream.clone()));
    until(|| checks.load(Ordering::Relaxed) == 1).await;
    // A check is running when the upstream is removed from the configuration.
    work.stop();
    drop(upstream);
    bench.zones.begin();
    bench.zones.settle();
    until(|| live.strong_count() == 0).await;
}

/// Waits up to ten seconds until a condition holds.
async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait)
        .await
        .expect("it comes to pass");
}

/// DNS that takes a while, and counts the lookups.
struct SlowDns(AtomicU32);

impl Resolve for SlowDns {
    fn resolve<'a>(&'a self, _name: &'a str) -> BoxFuture<'a, Result<Resolved, DnsError>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            Ok(Resolved::new(
                ["10.0.0.1".parse().unwrap()],
                Duration::from_mins(1),
            ))
        })
    }
}

#[tokio::test(start_paused = true)]
async fn reloads_neither_make_nor_end_look_ups() {
    let bench = Bench::new();
    let dns = Arc::new(SlowDns(AtomicU32::new(0)));
    let yaml = "{ backends: [{ dns: 'api.internal:5000' }] }";
    let mut upstream = bench.upstream(yaml);
    for _ in 0..40 {
        let work = Tasks::default();
        work.spawn("supervise", supervise_with(upstream.clone(), dns.clone()));
        bench.clock.advance(Duration::from_millis(50));
        tokio::time::sleep(Duration::from_millis(50)).await;
        upstream = bench.upstream(yaml);
        work.stop();
    }
    assert_eq!(dns.0.load(Ordering::Relaxed), 1);
    assert_eq!(&**upstream.backends()[0].address(), "10.0.0.1:5000");
    bench.clock.advance(Duration::from_mins(1));
    let work = Tasks::default();
    work.spawn("supervise", supervise_with(upstream, dns.clone()));
    super::settle().await;
    assert_eq!(dns.0.load(Ordering::Relaxed), 2, "its time is over");
    work.stop();
}

#[test]
fn reloads_do_not_fill_the_budget_of_retries() {
    let bench = Bench::new();
    let yaml = "{ backends: [10.0.0.1:80, 10.0.0.2:80] }";
    let taken = (0..100)
        .filter(|_| bench.upstream(yaml).retry_allowed())
        .count();
    assert_eq!(taken, 3);
}
