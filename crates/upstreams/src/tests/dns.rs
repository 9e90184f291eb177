//! Backends by DNS name: resolved, kept, and waited for.

use std::{collections::HashMap, sync::Arc, time::Duration};

use edgeway_net::tasks::Tasks;
use parking_lot::Mutex;

use super::{Bench, acquire, acquire_beside, settle};
use crate::{DnsError, Resolve, Resolved, Unavailable, Upstream, chain::BoxFuture, supervise_with};

/// DNS with results that a test sets.
#[derive(Default)]
struct FakeDns(Mutex<HashMap<String, Result<Resolved, DnsError>>>);

impl FakeDns {
    fn set(&self, name: &str, addresses: &[&str], ttl: u64) {
        let ips = addresses.iter().map(|a| a.parse().unwrap());
        let resolved = Resolved::new(ips, Duration::from_secs(ttl));
        self.0.lock().insert(name.into(), Ok(resolved));
    }

    fn fail(&self, name: &str) {
        self.0.lock().insert(name.into(), Err(DnsError::NoSuchHost));
    }
}

impl Resolve for FakeDns {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Resolved, DnsError>> {
        let result = self.0.lock().get(name).cloned();
        Box::pin(async move { result.unwrap_or(Err(DnsError::NoSuchHost)) })
    }
}

/// Advances both clocks, and runs what becomes due.
async fn pass(bench: &Bench, span: Duration) {
    let step = Duration::from_millis(100);
    let mut left = span;
    while !left.is_zero() {
        bench.clock.advance(step.min(left));
        tokio::time::sleep(step.min(left)).await;
        left = left.saturating_sub(step);
    }
    settle().await;
}

fn addresses(upstream: &Upstream) -> Vec<String> {
    let backends = upstream.backends();
    backends.iter().map(|b| b.address().to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn names_are_looked_up_again_when_their_time_is_over() {
    let bench = Bench::new();
    let dns = Arc::new(FakeDns::default());
    dns.set("api.internal", &["10.0.0.2", "10.0.0.1"], 30);
    let upstream = bench.upstream("{ backends: [{ dns: 'api.internal:5000' }, 10.0.0.9:80] }");
    assert_eq!(addresses(&upstream), ["10.0.0.9:80"]);
    let work = Tasks::default();
    work.spawn("supervise", supervise_with(upstream.clone(), dns.clone()));
    settle().await;
    assert_eq!(
        addresses(&upstream),
        ["10.0.0.1:5000", "10.0.0.2:5000", "10.0.0.9:80"]
    );

    let unchanged = upstream.backends().remove(1);
    dns.set("api.internal", &["10.0.0.2", "10.0.0.3"], 30);
    pass(&bench, Duration::from_secs(29)).await;
    assert_eq!(addresses(&upstream).len(), 3, "it holds for 30 s");
    pass(&bench, Duration::from_secs(2)).await;
    assert_eq!(
        addresses(&upstream),
        ["10.0.0.2:5000", "10.0.0.3:5000", "10.0.0.9:80"]
    );
    assert!(
        Arc::ptr_eq(&unchanged, &upstream.backends()[0]),
        "who stays is the same"
    );

    dns.fail("api.internal");
    pass(&bench, Duration::from_mins(5)).await;
    assert_eq!(addresses(&upstream).len(), 3, "old addresses are kept");

    // A reload starts with the known addresses.
    let new = bench.upstream("{ backends: [{ dns: 'api.internal:5000' }] }");
    assert_eq!(addresses(&new), ["10.0.0.2:5000", "10.0.0.3:5000"]);
    work.stop();
}

#[tokio::test(start_paused = true)]
async fn the_first_requests_wait_for_dns_and_later_ones_do_not() {
    let bench = Bench::new();
    let dns = Arc::new(FakeDns::default());
    let upstream = bench.upstream("{ backends: [{ dns: 'api.internal:5000' }] }");
    let mut early = acquire_beside(&upstream);
    settle().await;
    assert!(early.try_join_next().is_none());
    dns.set("api.internal", &["10.0.0.1"], 30);
    let work = Tasks::default();
    work.spawn("supervise", supervise_with(upstream.clone(), dns.clone()));
    assert_eq!(
        early.join_next().await.unwrap().unwrap().unwrap(),
        "10.0.0.1:5000"
    );
    work.stop();

    let nowhere = Bench::new();
    let upstream = nowhere.upstream("{ backends: [{ dns: 'nowhere.internal:5000' }] }");
    let work = Tasks::default();
    work.spawn("supervise", supervise_with(upstream.clone(), dns));
    settle().await;
    let before = tokio::time::Instant::now();
    assert_eq!(
        acquire(&upstream).await.unwrap_err(),
        Unavailable::NoBackend
    );
    assert_eq!(
        before.elapsed(),
        Duration::ZERO,
        "it is known that there is none"
    );
    work.stop();
}
