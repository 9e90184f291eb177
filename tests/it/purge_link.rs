//! The link of purges with a real Redis: lost, paused, flushed, restarted. No gateway that a
//! receipt lists as done serves a response older than its purge.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use edgeway_base::{clock::Clock, metrics::Metrics, secret::Secret};
use edgeway_cache::purge::{
    Caches, PeerStates, Purge, PurgeEffect, PurgeLink, PurgeSource, PurgeTarget, Receipt, Trust,
    WaitScope,
};
use edgeway_net::{
    redis::{Identity, Mode, Node, Redis as Client, RedisSettings, Signer},
    tasks::Tasks,
};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::support::{
    redis::{Cluster, Redis, SECRET},
    wait::{pass, wait_for},
};

const PATIENCE: Duration = Duration::from_secs(30);
const LEASE: Duration = Duration::from_secs(3);

fn tcp(redis: &Redis) -> Node {
    Node::Tcp {
        host: "127.0.0.1".to_owned(),
        port: redis.port(),
    }
}

fn settings(redis: &Redis) -> RedisSettings {
    RedisSettings {
        mode: Mode::Single,
        nodes: vec![tcp(redis)],
        identity: Identity::default(),
        database: 0,
        tls: None,
        timeout: Duration::from_millis(200),
        connections: 1,
        prefix: "test:".to_owned(),
        signer: Signer::new(&[Secret::new(SECRET)]),
    }
}

/// Versions of keys; a fill that began before a purge is not stored.
#[derive(Default)]
struct Toy {
    stored: Mutex<HashMap<String, u64>>,
    purges: AtomicU64,
    /// Set while the shared cache does not know of purges.
    is_behind: AtomicBool,
}

impl Toy {
    fn mark(&self) -> u64 {
        self.purges.load(Ordering::SeqCst)
    }

    fn fill(&self, key: &str, version: u64, mark: u64) {
        let mut stored = self.stored.lock();
        if self.purges.load(Ordering::SeqCst) == mark {
            stored.insert(key.to_owned(), version);
        }
    }

    fn get(&self, key: &str) -> Option<u64> {
        self.stored.lock().get(key).copied()
    }

    fn drop_all(&self, is_meant: impl Fn(&str) -> bool) -> u64 {
        let mut stored = self.stored.lock();
        self.purges.fetch_add(1, Ordering::SeqCst);
        let before = stored.len();
        stored.retain(|key, _| !is_meant(key));
        u64::try_from(before - stored.len()).expect("few")
    }
}

/// The caches belong to the link, and the test inspects them.
struct Shared(Arc<Toy>);

impl Caches for Shared {
    fn apply<'a>(&'a self, purges: &'a [Purge]) -> BoxFuture<'a, Vec<u64>> {
        let apply = |purge: &Purge| match &purge.target {
            PurgeTarget::Url(url) => self.0.drop_all(|key| key == url),
            PurgeTarget::Prefix(prefix) => self.0.drop_all(|key| key.starts_with(prefix)),
            PurgeTarget::Tag(_) | PurgeTarget::Written(_) | PurgeTarget::All => {
                self.0.drop_all(|_| true)
            }
        };
        Box::pin(async move { purges.iter().map(apply).collect() })
    }

    fn settle(&self, _awaited: WaitScope) -> BoxFuture<'_, bool> {
        Box::pin(async { !self.0.is_behind.load(Ordering::SeqCst) })
    }

    fn forget(&self) -> BoxFuture<'_, u64> {
        Box::pin(async move { self.0.drop_all(|_| true) })
    }
}

/// The parts of a gateway that purges need.
struct Gateway {
    link: Arc<PurgeLink>,
    toy: Arc<Toy>,
    client: Arc<Client>,
    tasks: Tasks,
}

impl Gateway {
    fn start(name: &str, settings: RedisSettings) -> Self {
        let metrics = Metrics::default();
        let clock = Clock::machine();
        let client = Arc::new(Client::new(settings, clock.clone(), &metrics, None));
        let toy = Arc::new(Toy::default());
        let caches = Arc::new(Shared(Arc::clone(&toy)));
        let link = Arc::new(PurgeLink::new(name, caches, &clock, &metrics));
        let tasks = Tasks::default();
        tasks.spawn("redis", Arc::clone(&client).supervise());
        let redis = Some(Arc::clone(&client));
        tasks.spawn("purges", Arc::clone(&link).supervise(redis));
        Self {
            link,
            toy,
            client,
            tasks,
        }
    }

    async fn up(name: &str, settings: RedisSettings) -> Self {
        let gateway = Self::start(name, settings);
        gateway.leased(true).await;
        gateway
    }

    async fn leased(&self, is_leased: bool) {
        let condition = format!("{} has a lease: {is_leased}", self.link.name());
        wait_for(&condition, PATIENCE, async || {
            (self.link.status().leased == is_leased).then_some(())
        })
        .await;
    }

    async fn purge(&self, url: &str) -> Receipt {
        self.link.purge(vec![purge(url)], PurgeSource::Admin).await
    }

    fn fill(&self, key: &str, version: u64) {
        self.toy.fill(key, version, self.toy.mark());
    }
}

fn purge(url: &str) -> Purge {
    Purge {
        target: PurgeTarget::Url(url.to_owned()),
        effect: PurgeEffect::Hard,
    }
}

fn names(receipt: &Receipt) -> Vec<&str> {
    let mut names: Vec<&str> = receipt.applied.iter().map(|a| a.gateway.as_str()).collect();
    names.sort_unstable();
    names
}

async fn three(redis: &Redis) -> [Gateway; 3] {
    let [a, b, c] = ["a", "b", "c"].map(|name| Gateway::start(name, settings(redis)));
    for gateway in [&a, &b, &c] {
        gateway.leased(true).await;
    }
    // After that, no gateway can hold a lease in an earlier log.
    pass(LEASE).await;
    [a, b, c]
}

#[tokio::test]
async fn a_purge_reaches_every_gateway_and_the_receipt_counts_what_each_dropped() {
    let redis = Redis::start().await;
    let [a, b, c] = three(&redis).await;
    for gateway in [&a, &b] {
        gateway.fill("/x", 1);
        gateway.fill("/y", 1);
    }
    let receipt = a.purge("/x").await;
    assert!(receipt.is_over(), "{receipt:?}");
    assert_eq!(
        names(&receipt),
        [a.link.name(), b.link.name(), c.link.name()]
    );
    let dropped: Vec<_> = receipt.applied.iter().map(|a| a.objects).collect();
    assert_eq!(dropped.iter().flatten().sum::<u64>(), 2);
    assert!(receipt.took_ms < 1000.0, "{receipt:?}");
    assert_eq!((a.toy.get("/x"), b.toy.get("/x")), (None, None));
    assert_eq!((a.toy.get("/y"), b.toy.get("/y")), (Some(1), Some(1)));
    let status = c.link.status();
    assert_eq!(status.applied, receipt.id.map(|id| id.to_string()));
    assert_eq!((status.others.len(), status.gaps, status.losses), (2, 0, 0));
}

#[tokio::test]
async fn a_silent_gateway_is_waited_for_until_its_lease_expires() {
    let redis = Redis::start().await;
    let [a, b, c] = three(&redis).await;
    b.fill("/x", 1);
    b.tasks.stop();
    c.link.leave(Arc::clone(&c.client)).await;
    c.tasks.stop();
    let receipt = a.purge("/x").await;
    assert!(receipt.is_over(), "{receipt:?}");
    assert_eq!(names(&receipt), [a.link.name()]);
    assert!(
        receipt.lapsed.contains(&b.link.name().to_owned()),
        "{receipt:?}"
    );
    // It knows by its own clock, and earlier.
    assert!(matches!(b.link.trust(), Trust::OnlyAfter(_)));
    assert_eq!(b.toy.get("/x"), Some(1));
    // Back again, it applies the purges that it missed before it holds a lease.
    let redis_of_b = Some(Arc::clone(&b.client));
    b.tasks.spawn("redis", Arc::clone(&b.client).supervise());
    b.tasks
        .spawn("purges", Arc::clone(&b.link).supervise(redis_of_b));
    b.leased(true).await;
    assert_eq!(b.toy.get("/x"), None);
    let status = b.link.status();
    assert_eq!((status.gaps, status.replayed), (0, 1));
}

#[tokio::test]
async fn without_redis_the_receipt_reports_it_and_the_purge_is_sent_on_reconnect() {
    let mut redis = Redis::start().await;
    let [a, b, _c] = three(&redis).await;
    b.fill("/x", 1);
    b.fill("/y", 1);
    redis.pause();
    a.leased(false).await;
    b.leased(false).await;
    assert_eq!(b.toy.get("/x"), Some(1));
    let start = Instant::now();
    let receipt = a.purge("/x").await;
    assert!(start.elapsed() < Duration::from_secs(6));
    assert_eq!(receipt.others, PeerStates::Unreached);
    assert!(!receipt.is_over() && receipt.id.is_none(), "{receipt:?}");
    assert_eq!(names(&receipt), [a.link.name()]);
    assert_eq!(a.link.status().unsent, 1);
    redis.resume();
    wait_for("the others are notified", PATIENCE, async || {
        b.toy.get("/x").is_none().then_some(())
    })
    .await;
    assert_eq!(b.toy.get("/y"), Some(1));
    assert_eq!(a.link.status().unsent, 0);
    a.leased(true).await;
    b.leased(true).await;
    assert!(a.purge("/y").await.is_over());
    // Restarted without its data: the missed purges are unknown.
    b.fill("/z", 1);
    redis.restart().await;
    wait_for("everything is dropped", PATIENCE, async || {
        (b.link.status().gaps == 1).then_some(())
    })
    .await;
    assert_eq!(b.toy.get("/z"), None);
    b.leased(true).await;
    let receipt = a.purge("/z").await;
    assert!(receipt.is_over(), "{receipt:?}");
    assert!(names(&receipt).contains(&b.link.name()), "{receipt:?}");
}

#[tokio::test]
async fn a_gateway_that_continues_from_a_position_keeps_entries_not_purged_since() {
    let redis = Redis::start().await;
    let [a, b, _c] = three(&redis).await;
    let position = b.link.position().expect("it follows");
    b.tasks.stop();
    assert!(a.purge("/x").await.is_over());
    let d = Gateway::start("d", settings(&redis));
    d.tasks.stop();
    let e = {
        let clock = Clock::machine();
        let metrics = Metrics::default();
        let toy = Arc::new(Toy::default());
        let caches = Arc::new(Shared(Arc::clone(&toy)));
        let link = Arc::new(PurgeLink::new("e", caches, &clock, &metrics));
        link.resume(position);
        Gateway {
            link,
            toy,
            client: Arc::clone(&d.client),
            tasks: Tasks::default(),
        }
    };
    e.fill("/x", 1);
    e.fill("/y", 1);
    let client = Some(Arc::clone(&e.client));
    e.tasks.spawn("redis", Arc::clone(&e.client).supervise());
    e.tasks
        .spawn("purges", Arc::clone(&e.link).supervise(client));
    e.leased(true).await;
    assert_eq!((e.toy.get("/x"), e.toy.get("/y")), (None, Some(1)));
}

#[tokio::test]
async fn in_a_cluster_the_log_lies_on_one_machine() {
    let cluster = Cluster::start().await;
    let nodes = cluster.0.iter();
    let nodes = nodes.map(tcp);
    let settings = RedisSettings {
        mode: Mode::Cluster,
        nodes: nodes.collect(),
        ..settings(&cluster.0[0])
    };
    let a = Gateway::up("a", settings.clone()).await;
    let b = Gateway::up("b", settings).await;
    b.fill("/x", 1);
    let receipt = a.purge("/x").await;
    assert!(receipt.is_over(), "{receipt:?}");
    assert_eq!(names(&receipt), [a.link.name(), b.link.name()]);
    assert_eq!(b.toy.get("/x"), None);
}

/// Otherwise a gateway that starts now would read an older response from the shared cache.
#[tokio::test]
async fn a_purge_is_not_over_before_the_shared_store_applied_it() {
    let redis = Redis::start().await;
    let [a, b, _c] = three(&redis).await;
    b.fill("/x", 1);
    a.toy.is_behind.store(true, Ordering::SeqCst);
    let receipt = a.purge("/x").await;
    assert_eq!(receipt.others, PeerStates::Waiting, "{receipt:?}");
    assert_eq!((receipt.applied.len(), b.toy.get("/x")), (3, None));
    let catching_up = async {
        pass(Duration::from_millis(300)).await;
        a.toy.is_behind.store(false, Ordering::SeqCst);
    };
    let (receipt, ()) = tokio::join!(a.purge("/x"), catching_up);
    assert!(receipt.is_over(), "{receipt:?}");
    assert!(receipt.took_ms >= 300.0, "{receipt:?}");
}

/// With `on_purge_link_lost: serve` it continues to serve: other gateways cannot know otherwise.
#[tokio::test]
async fn a_gateway_without_a_lease_is_named_until_it_has_applied_the_purge() {
    let redis = Redis::start().await;
    let [a, b, c] = three(&redis).await;
    b.fill("/x", 1);
    b.tasks.stop();
    c.link.leave(Arc::clone(&c.client)).await;
    c.tasks.stop();
    let receipt = a.purge("/x").await;
    assert_eq!(receipt.others, PeerStates::Linked, "{receipt:?}");
    assert_eq!(receipt.lapsed, [b.link.name()], "{receipt:?}");
    // It was waited for until its lease had ended, and no later purge waits for it.
    let receipt = a.purge("/y").await;
    assert!(receipt.took_ms < 1000.0, "{receipt:?}");
    assert_eq!(receipt.lapsed, [b.link.name()], "{receipt:?}");
    assert_eq!(b.toy.get("/x"), Some(1));
    let redis_of_b = Some(Arc::clone(&b.client));
    b.tasks.spawn("redis", Arc::clone(&b.client).supervise());
    b.tasks
        .spawn("purges", Arc::clone(&b.link).supervise(redis_of_b));
    b.leased(true).await;
    let receipt = a.purge("/x").await;
    assert!(receipt.is_over(), "{receipt:?}");
    assert_eq!(b.toy.get("/x"), None);
}

/// All times that Redis has stored are then ahead of it.
#[tokio::test]
async fn a_clock_of_redis_that_is_set_back_holds_up_no_purge() {
    const AHEAD: &str = "for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do \
         local at = name == '#' and '%d+$' or '^%d+' \
         local ahead = function(time) return string.format('%.0f', time + 3600000) end \
         local value = string.gsub(redis.call('HGET', KEYS[1], name), at, ahead) \
         redis.call('HSET', KEYS[1], name, value) end return redis.call('HLEN', KEYS[1])";
    let redis = Redis::start().await;
    let [a, b, c] = three(&redis).await;
    c.tasks.stop();
    b.fill("/x", 1);
    let eval = ["EVAL", AHEAD, "1", "test:{purge}:gateways"];
    assert_eq!(redis.cli(&eval), "4");
    let receipt = wait_for("a purge is over", PATIENCE, async || {
        let receipt = a.purge("/x").await;
        receipt.is_over().then_some(receipt)
    })
    .await;
    assert_eq!(receipt.lapsed, [c.link.name()], "{receipt:?}");
    assert_eq!(b.toy.get("/x"), None);
}

/// Redis returns without its data: the gateways that were there before are known all the same.
#[tokio::test]
async fn after_a_flush_earlier_gateways_are_waited_for_and_named() {
    let redis = Redis::start().await;
    let [a, b, c] = three(&redis).await;
    c.link.leave(Arc::clone(&c.client)).await;
    c.tasks.stop();
    wait_for("who has left is not known any more", PATIENCE, async || {
        (a.link.status().others.len() == 1).then_some(())
    })
    .await;
    b.fill("/x", 1);
    b.tasks.stop();
    redis.flush();
    let receipt = a.purge("/x").await;
    assert_eq!(receipt.others, PeerStates::Linked, "{receipt:?}");
    assert!(receipt.took_ms > 2500.0, "{receipt:?}");
    assert_eq!(receipt.lapsed, [b.link.name()], "{receipt:?}");
    assert_eq!(b.toy.get("/x"), Some(1));
    let redis_of_b = Some(Arc::clone(&b.client));
    b.tasks.spawn("redis", Arc::clone(&b.client).supervise());
    b.tasks
        .spawn("purges", Arc::clone(&b.link).supervise(redis_of_b));
    b.leased(true).await;
    assert_eq!(b.toy.get("/x"), None);
    let receipt = a.purge("/x").await;
    assert!(receipt.is_over(), "{receipt:?}");
}

/// Invariant: a receipt names the gateways that were cut off within the last hour, and of many the
/// last ones, so that a gateway that crashes in a loop does not make purges slow.
#[tokio::test]
async fn gateways_that_were_cut_off_are_named_for_an_hour() {
    let redis = Redis::start().await;
    let [a, _b, _c] = three(&redis).await;
    let cut_off = |name: &str, minutes: u32| {
        let script = "local time = redis.call('TIME') \
             local ends = time[1] * 1000 - ARGV[2] * 60000 \
             return redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f 1-0 ~x', ends))";
        let minutes = minutes.to_string();
        let added = redis.cli(&["EVAL", script, "1", "test:{purge}:gateways", name, &minutes]);
        assert_eq!(added, "1", "{name}");
    };
    cut_off("hour", 61);
    cut_off("minute", 1);
    cut_off("most", 59);
    let receipt = a.purge("/x").await;
    assert_eq!(receipt.others, PeerStates::Linked, "{receipt:?}");
    assert_eq!(receipt.lapsed, ["minute", "most"], "{receipt:?}");
    assert!(receipt.took_ms < 2000.0, "{receipt:?}");
    for number in 0..70 {
        cut_off(&format!("loop-{number}"), 2);
    }
    let receipt = a.purge("/x").await;
    assert!((50..=64).contains(&receipt.lapsed.len()), "{receipt:?}");
    assert!(receipt.lapsed.contains(&"minute".to_owned()), "{receipt:?}");
    assert!(!receipt.lapsed.contains(&"most".to_owned()), "{receipt:?}");
    assert_eq!(receipt.applied.len(), 3, "{receipt:?}");
}
