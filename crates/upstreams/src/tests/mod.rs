//! Whole upstreams from their YAML: choice of backends, ejection, waiting.

mod backups;
mod compile;
mod dns;
mod handover;
mod operate;
mod storm;
mod streams;

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use pingora::http::RequestHeader;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::{
    AttemptFailure, BackendId, DecisionStore, Lease, LeaseRequest, Outcome, Unavailable, Upstream,
};
use crate::{
    base::{clock::Clock, metrics::Metrics},
    chain::CompileContext,
    config::{
        diagnostic::{Diagnostics, Place},
        model::UpstreamConfig,
        tree::{self, Key, Spanned},
    },
    zones::Zones,
};

const FOUR: &str = "[10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80, 10.0.0.4:80]";

/// State that upstreams are compiled with; several share it for a reload.
#[derive(Default)]
pub(super) struct Bench {
    pub(super) zones: Zones,
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
    pub(super) keeper: Arc<DecisionStore>,
    /// Base folder of the paths in configurations.
    pub(super) folder: PathBuf,
}

/// Creates a folder with `ca.pem`, `client.pem` and its `client.key`, `other.key`, and `text`,
/// which is none of these.
pub(super) fn folder_of_certificates() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["gateway.test".to_owned()]).unwrap();
    let client = params.self_signed(&key).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).unwrap();
    for (name, text) in [
        ("ca.pem", ca.pem()),
        ("client.pem", client.pem()),
        ("client.key", key.serialize_pem()),
        ("other.key", KeyPair::generate().unwrap().serialize_pem()),
        ("text", "no PEM".to_owned()),
    ] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

impl Bench {
    pub(super) fn new() -> Self {
        Self {
            clock: Clock::test(),
            ..Self::default()
        }
    }

    pub(super) fn try_compile(&self, yaml: &str) -> (Option<Arc<Upstream>>, Diagnostics) {
        let mut diagnostics = Diagnostics::default();
        let node = tree::parse(yaml, 0, &mut diagnostics).expect("YAML");
        let config: Option<Spanned<UpstreamConfig>> = tree::read(&node, &mut diagnostics);
        let Some(config) = config else {
            return (None, diagnostics);
        };
        let (upstream, problems) = self.compile(&config);
        diagnostics.extend(problems);
        (upstream, diagnostics)
    }

    pub(super) fn compile(
        &self,
        config: &Spanned<UpstreamConfig>,
    ) -> (Option<Arc<Upstream>>, Diagnostics) {
        let mut diagnostics = Diagnostics::default();
        let mut cx = CompileContext {
            place: Place::default(),
            route: "",
            folder: &self.folder,
            upstreams: &[],
            secret_names: &[],
            clock: &self.clock,
            metrics: &self.metrics,
            zones: &crate::zones::Zones::default(),
            shared: &crate::chain::Shared::default(),
            work: &mut crate::chain::BackgroundWork::default(),
            referenced: &mut crate::config::source::ReferencedFiles::default(),
            diagnostics: &mut diagnostics,
        };
        let key = Key {
            name: "web".into(),
            place: Place::default(),
        };
        let upstream = Upstream::compile(&key, config, &self.zones, &self.keeper, &mut cx);
        (upstream, diagnostics)
    }

    #[track_caller]
    pub(super) fn upstream(&self, yaml: &str) -> Arc<Upstream> {
        let (upstream, diagnostics) = self.try_compile(yaml);
        upstream.unwrap_or_else(|| panic!("refused: {diagnostics:#?}"))
    }
}

pub(super) fn head(path: &str) -> RequestHeader {
    RequestHeader::build("GET", path.as_bytes(), None).unwrap()
}

pub(super) const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// Takes a lease without waiting; `None` if it would have to wait.
pub(super) fn take(upstream: &Upstream, tried: &[BackendId]) -> Option<Lease> {
    let head = head("/");
    let ask = LeaseRequest {
        head: &head,
        client: CLIENT,
        at: upstream.shared.clock.now(),
        tried,
        is_upgrade: false,
        release: None,
    };
    upstream.try_acquire(&ask, upstream.shared.now()).ok()
}

async fn acquire(upstream: &Upstream) -> Result<Lease, Unavailable> {
    let head = head("/");
    let ask = LeaseRequest {
        head: &head,
        client: CLIENT,
        at: upstream.shared.clock.now(),
        tried: &[],
        is_upgrade: false,
        release: None,
    };
    upstream.acquire(&ask).await
}

fn address(lease: &Lease) -> String {
    lease.backend.address().to_string()
}

const FINE: Outcome = Outcome::Ok {
    first_byte: Duration::from_millis(5),
};

/// Sends `count` requests one after the other; returns the requests of each backend.
fn serve(
    upstream: &Upstream,
    count: u32,
    outcome: impl Fn(&str) -> Outcome,
) -> HashMap<String, u32> {
    let mut served = HashMap::new();
    for _ in 0..count {
        let lease = take(upstream, &[]).expect("places are free");
        let address = address(&lease);
        lease.finish(outcome(&address));
        *served.entry(address).or_default() += 1;
    }
    served
}

/// Succeeds at all backends but one, which refuses.
fn refusing(dead: &str) -> impl Fn(&str) -> Outcome {
    move |address| {
        if address == dead {
            Outcome::ConnectFailed
        } else {
            FINE
        }
    }
}

/// Sends a request that may have to wait, concurrently with the test.
fn acquire_beside(upstream: &Arc<Upstream>) -> JoinSet<Result<String, Unavailable>> {
    let mut set = JoinSet::new();
    let upstream = upstream.clone();
    set.spawn(async move { acquire(&upstream).await.map(|lease| address(&lease)) });
    set
}

/// Runs spawned tasks as far as they go while time stands still.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn leases_count_requests_in_flight() {
    let bench = Bench::new();
    let upstream = bench.upstream("{ backends: [10.0.0.1:80] }");
    let backend = upstream.backends().remove(0);
    let first = take(&upstream, &[]).unwrap();
    let second = take(&upstream, &[]).unwrap();
    assert_eq!(backend.in_flight(), 2);
    first.finish(FINE);
    assert_eq!(backend.in_flight(), 1);
    drop(second);
    assert_eq!(backend.in_flight(), 0);
}

#[test]
fn a_dead_backend_of_four_leaves_after_three_refusals_and_no_get_fails() {
    let bench = Bench::new();
    // The worst balancer for it: a backend that fails at once always has the fewest requests.
    let upstream = bench.upstream(&format!("{{ balance: least_conn, backends: {FOUR} }}"));
    let dead = "10.0.0.3:80";
    let mut refused = 0;
    // 200 requests a second for 30 s, eight in flight at any time.
    let mut in_flight: Vec<Lease> = Vec::new();
    for tick in 0..6000 {
        bench.clock.advance(Duration::from_millis(5));
        if in_flight.len() == 8 {
            in_flight.remove(tick % 8).finish(FINE);
        }
        upstream.shared.live.budget.request(upstream.shared.now());
        let mut lease = take(&upstream, &[]).unwrap();
        if address(&lease) == dead {
            refused += 1;
            let tried = [lease.backend.id()];
            lease.finish(Outcome::ConnectFailed);
            assert!(
                upstream.retry(1, AttemptFailure::Connect, true, true),
                "tick {tick}"
            );
            lease = take(&upstream, &tried).unwrap();
            assert_ne!(address(&lease), dead);
        }
        in_flight.push(lease);
    }
    // Out for 10 s, then for 20: no supervisor runs here.
    assert!(
        (3..=9).contains(&refused),
        "{refused} tries met the dead one"
    );
}

#[test]
fn a_retry_goes_elsewhere_and_back_only_if_there_is_no_other() {
    let bench = Bench::new();
    let upstream = bench.upstream("{ backends: [10.0.0.1:80, 10.0.0.2:80] }");
    for _ in 0..20 {
        let first = take(&upstream, &[]).unwrap();
        let second = take(&upstream, &[first.backend.id()]).unwrap();
        assert_ne!(first.backend.id(), second.backend.id());
        let both = [first.backend.id(), second.backend.id()];
        assert!(take(&upstream, &both).is_some());
    }
    let single = bench.upstream("{ backends: [10.0.0.1:80] }");
    let lease = take(&single, &[]).unwrap();
    assert!(take(&single, &[lease.backend.id()]).is_some());
}

#[test]
fn a_backend_that_is_out_gets_the_retry_if_all_in_rotation_refuse() {
    for (failure, retried) in [
        (Outcome::ConnectFailed, "10.0.0.1:80"),
        (Outcome::Reset, "10.0.0.2:80"),
    ] {
        let bench = Bench::new();
        let upstream = bench.upstream("{ backends: [10.0.0.1:80, 10.0.0.2:80] }");
        serve(&upstream, 20, refusing("10.0.0.1:80"));
        let first = take(&upstream, &[]).unwrap();
        assert_eq!(address(&first), "10.0.0.2:80");
        let tried = [first.backend.id()];
        first.finish(failure);
        assert_eq!(address(&take(&upstream, &tried).unwrap()), retried);
        assert!(!upstream.snapshot().panic);
    }
}

#[test]
fn errors_eject_half_at_most() {
    let bench = Bench::new();
    let upstream = bench.upstream(&format!("{{ balance: round_robin, backends: {FOUR} }}"));
    serve(&upstream, 400, |_| Outcome::Status(503));
    let states: Vec<_> = upstream
        .snapshot()
        .backends
        .iter()
        .map(|b| b.state.clone())
        .collect();
    assert_eq!(
        states.iter().filter(|s| **s == "ejected").count(),
        2,
        "{states:?}"
    );
    assert!(!upstream.snapshot().panic);
    let served = serve(&upstream, 100, |_| FINE);
    assert_eq!(served.len(), 2);
}

#[test]
fn when_all_refuse_all_are_used_and_that_is_logged() {
    let bench = Bench::new();
    let upstream = bench.upstream("{ backends: [10.0.0.1:80, 10.0.0.2:80] }");
    serve(&upstream, 20, |_| Outcome::ConnectFailed);
    assert!(upstream.snapshot().panic);
    upstream.publish();
    let text = String::from_utf8(bench.metrics.text()).unwrap();
    assert!(
        text.contains(r#"edgeway_upstream_panic{upstream="web"} 1"#),
        "{text}"
    );
    let served = serve(&upstream, 100, |_| FINE);
    assert_eq!(served.len(), 2, "{served:?}");
    bench.clock.advance(Duration::from_secs(11));
    serve(&upstream, 2, |_| FINE);
    assert!(!upstream.snapshot().panic, "their time is over");
}

#[test]
fn a_client_that_leaves_is_no_failure() {
    let bench = Bench::new();
    let upstream = bench.upstream("{ backends: [10.0.0.1:80, 10.0.0.2:80] }");
    serve(&upstream, 50, |_| Outcome::ClientGone);
    serve(&upstream, 50, |_| Outcome::Stale);
    assert!(
        upstream
            .snapshot()
            .backends
            .iter()
            .all(|b| b.state == "healthy")
    );
    let snapshot = upstream.snapshot();
    assert_eq!(
        snapshot.backends.iter().map(|b| b.requests).sum::<u64>(),
        100
    );
    assert_eq!(snapshot.backends.iter().map(|b| b.failures).sum::<u64>(), 0);
}

#[test]
fn a_backend_that_comes_back_gets_its_share_slowly() {
    let bench = Bench::new();
    let upstream = bench.upstream(&format!(
        "{{ balance: round_robin, slow_start: 10s, backends: {FOUR} }}"
    ));
    let back = "10.0.0.2:80";
    serve(&upstream, 40, refusing(back));
    assert_eq!(upstream.snapshot().backends[1].state, "ejected");
    bench.clock.advance(Duration::from_secs(11));
    fastrand::seed(7);
    let share = |seconds| {
        bench.clock.advance(Duration::from_secs(seconds));
        serve(&upstream, 4000, |_| FINE)[back]
    };
    let (first, middle, end) = (share(0), share(5), share(5));
    assert!((60..200).contains(&first), "a tenth of a quarter: {first}");
    assert!((400..700).contains(&middle), "half of a quarter: {middle}");
    assert_eq!(end, 1000);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_gets_no_permit_waits_for_one() {
    let bench = Bench::new();
    let upstream = bench.upstream(
        "{ backends: [10.0.0.1:80, 10.0.0.2:80], max_in_flight: { per_backend: 1, queue: 1, wait: 1s } }",
    );
    let first = acquire(&upstream).await.unwrap();
    let _second = acquire(&upstream).await.unwrap();
    let mut waiter = acquire_beside(&upstream);
    settle().await;
    assert_eq!(upstream.snapshot().queue, 1);
    assert_eq!(
        acquire(&upstream).await.unwrap_err(),
        Unavailable::QueueFull
    );
    let freed = address(&first);
    drop(first);
    assert_eq!(waiter.join_next().await.unwrap().unwrap().unwrap(), freed);
    assert_eq!(upstream.snapshot().queue, 0);
}

#[tokio::test(start_paused = true)]
async fn waiting_has_an_end() {
    let bench = Bench::new();
    let upstream = bench.upstream(
        "{ backends: [10.0.0.1:80], max_in_flight: { per_backend: 1, queue: 8, wait: 250ms } }",
    );
    let _held = acquire(&upstream).await.unwrap();
    let before = tokio::time::Instant::now();
    assert_eq!(
        acquire(&upstream).await.unwrap_err(),
        Unavailable::QueueTimeout
    );
    assert_eq!(before.elapsed(), Duration::from_millis(250));
}

#[tokio::test(start_paused = true)]
async fn a_thousand_waiters_share_two_places_and_none_is_lost() {
    let bench = Bench::new();
    let upstream = bench.upstream(
        "{ backends: [10.0.0.1:80, 10.0.0.2:80], max_in_flight: { per_backend: 1, queue: 2000, wait: 600s } }",
    );
    let mut set = JoinSet::new();
    for _ in 0..1000 {
        let upstream = upstream.clone();
        set.spawn(async move {
            let lease = acquire(&upstream).await.unwrap();
            assert!(lease.backend.in_flight() <= 1);
            tokio::time::sleep(Duration::from_millis(10)).await;
            lease.finish(FINE);
        });
    }
    assert_eq!(set.join_all().await.len(), 1000);
    assert_eq!(upstream.snapshot().queue, 0);
    assert!(upstream.backends().iter().all(|b| b.in_flight() == 0));
}

/// Invariant: a configuration that never serves takes no series from the one that does.
#[test]
fn a_refused_configuration_leaves_the_latency_of_a_backend() {
    let bench = Bench::new();
    let series = || {
        let text = String::from_utf8(bench.metrics.text()).unwrap();
        let lines = text.lines();
        lines
            .filter(|line| line.starts_with("edgeway_backend_latency_seconds{"))
            .count()
    };
    let serving = bench.upstream(&format!("{{ backends: {FOUR} }}"));
    serving.publish();
    assert_eq!(series(), 0, "nothing is known yet");
    serve(&serving, 60, |_| FINE);
    serving.publish();
    assert_eq!(series(), 4);
    drop(bench.upstream(&format!("{{ backends: {FOUR} }}")));
    serving.publish();
    assert_eq!(series(), 4);
}

#[test]
fn counts_and_ejections_outlive_a_reload() {
    let bench = Bench::new();
    let old = bench.upstream(&format!("{{ backends: {FOUR} }}"));
    let held = take(&old, &[]).unwrap();
    let held_at = address(&held);
    let dead = "10.0.0.4:80";
    serve(&old, 60, refusing(dead));
    let new = bench.upstream("{ backends: [10.0.0.1:80, 10.0.0.2:80, 10.0.0.4:80, 10.0.0.9:80] }");
    let snapshot = new.snapshot();
    let by_address = |address: &str| {
        let mut all = snapshot.backends.iter();
        all.find(|backend| backend.address == address)
    };
    assert_eq!(by_address(dead).unwrap().state, "ejected");
    if let Some(backend) = by_address(&held_at) {
        assert_eq!(backend.in_flight, 1);
    }
    drop(old);
    held.finish(FINE);
    assert!(
        new.backends()
            .iter()
            .all(|backend| backend.in_flight() == 0)
    );
    let text = String::from_utf8(bench.metrics.text()).unwrap();
    assert!(!text.contains("10.0.0.3:80"), "its series are gone: {text}");
    assert!(text.contains("10.0.0.9:80"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn permits_stay_bounded_under_threads_and_no_waiter_is_forgotten() {
    const LANES: u32 = 32;
    const EACH: u32 = 500;
    // With a slow first byte, other load on the machine does not count as an overload, which would
    // cut waits short.
    const SLOW: Outcome = Outcome::Ok {
        first_byte: Duration::from_mins(1),
    };
    let bench = Bench::new();
    let upstream = bench.upstream(
        "{ backends: [10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80], max_in_flight: { per_backend: 2, queue: 64, wait: 60s } }",
    );
    let mut lanes = JoinSet::new();
    for _ in 0..LANES {
        let upstream = upstream.clone();
        lanes.spawn(async move {
            for turn in 0..EACH {
                let lease = acquire(&upstream).await.expect("a minute is enough");
                assert!(lease.backend.in_flight() <= 2, "never above per_backend");
                // Places are returned from other threads than they were taken on.
                if turn % 3 == 0 {
                    tokio::task::yield_now().await;
                }
                lease.finish(SLOW);
            }
        });
    }
    while let Some(lane) = lanes.join_next().await {
        lane.unwrap();
    }
    let snapshot = upstream.snapshot();
    assert_eq!(snapshot.queue, 0);
    let served: u64 = snapshot.backends.iter().map(|b| b.requests).sum();
    assert_eq!(served, u64::from(LANES * EACH));
    assert!(snapshot.backends.iter().all(|b| b.in_flight == 0));
}

#[test]
fn the_examples_of_the_documentation_hold() {
    const PAGE: &str = include_str!("../../../../docs/upstreams.md");
    let examples: Vec<&str> = PAGE
        .split("```yaml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert!(examples.len() >= 3);
    let folder = folder_of_certificates();
    let tls = folder.path().join("tls");
    std::fs::create_dir(&tls).unwrap();
    for (from, to) in [
        ("ca.pem", "ca.pem"),
        ("client.pem", "gateway.pem"),
        ("client.key", "gateway.key"),
    ] {
        std::fs::rename(folder.path().join(from), tls.join(to)).unwrap();
    }
    for example in examples {
        let mut diagnostics = Diagnostics::default();
        let node = tree::parse(example, 0, &mut diagnostics).expect("YAML");
        for (name, upstream) in node.get("upstreams").expect("upstreams").entries() {
            let config: Option<Spanned<UpstreamConfig>> = tree::read(upstream, &mut diagnostics);
            let config = config.unwrap_or_else(|| panic!("{}: {diagnostics:#?}", name.name));
            let bench = Bench {
                folder: folder.path().to_owned(),
                ..Bench::new()
            };
            let (upstream, problems) = bench.compile(&config);
            assert!(upstream.is_some(), "{}: {problems:#?}", name.name);
            // This warning depends on the machine.
            let is_of_machine = |code| code == "edgeway::upstream::tls_no_ca_certificates";
            let others: Vec<_> = problems
                .list()
                .iter()
                .filter(|d| !is_of_machine(d.code))
                .collect();
            assert!(others.is_empty(), "{}: {others:#?}", name.name);
        }
        assert_eq!(diagnostics.list(), []);
    }
}
