//! Redis that returns with older data: from a snapshot, or through a failover to a replica that
//! lags. No purge that a receipt confirmed comes undone, in memory, on disk or in level 2.
//!
//! A hunt (`EDGEWAY_HUNT`) runs 2,000 purges of each kind, `EDGEWAY_PURGES` sets their number.

#![allow(clippy::print_stdout, reason = "the counts of a drill")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use futures_util::future::join_all;
use serde_json::json;
use tokio::task::JoinSet;

use crate::support::{
    client::{Connection, Response, get},
    front::Front,
    gateway::Gateway,
    origins::{Origin, Version, VersionedOrigin},
    redis::{Cluster, Redis, SECRET, Watched},
    seed,
    wait::{pass, wait_for},
};

const PATIENCE: Duration = Duration::from_mins(1);
const STORED: &str = "edgeway_cache_level2_writes_total{outcome=\"stored\"}";

/// Redis that loses what was written since [`Store::diverge`].
enum Store {
    Single(Redis),
    Sentinels(Watched),
    Cluster(Cluster),
}

impl Store {
    async fn sentinels() -> Self {
        let watched = Watched::start().await;
        for sentinel in &watched.sentinels {
            // A replica whose link is down for ten times as long is not promoted.
            sentinel.cli(&["SENTINEL", "SET", "main", "down-after-milliseconds", "3000"]);
        }
        Self::Sentinels(watched)
    }

    fn section(&self) -> String {
        let place = match self {
            Self::Single(redis) => format!("url: '{}'", redis.url()),
            Self::Sentinels(watched) => {
                let nodes: Vec<String> = watched.sentinels.iter().map(Redis::address).collect();
                let nodes = nodes.join(", ");
                format!("sentinel: {{ master: main, nodes: [{nodes}] }}")
            }
            Self::Cluster(cluster) => format!("mode: cluster, nodes: [{}]", cluster.addresses()),
        };
        format!("{{ {place}, secret: '{SECRET}', timeout: 500ms }}")
    }

    fn nodes(&self) -> &[Redis] {
        match self {
            Self::Single(redis) => std::slice::from_ref(redis),
            Self::Sentinels(watched) => &watched.nodes,
            Self::Cluster(cluster) => &cluster.0,
        }
    }

    /// Takes the snapshot that comes back, or ends replication.
    async fn diverge(&self) {
        if let Self::Single(redis) = self {
            assert_eq!(redis.cli(&["SAVE"]), "OK");
            return;
        }
        let (masters, replicas): (Vec<_>, Vec<_>) =
            self.nodes().iter().partition(|node| node.is_master());
        for replica in &replicas {
            replica.may_follow(false);
        }
        for master in masters {
            wait_for("no replica follows", PATIENCE, async || {
                master.cli(&["CLIENT", "KILL", "TYPE", "replica"]);
                let info = master.cli(&["INFO", "replication"]);
                info.contains("connected_slaves:0").then_some(())
            })
            .await;
        }
    }

    /// Begins what brings older data back.
    async fn fail(&mut self, random: &mut Rng) {
        match self {
            Self::Single(redis) => redis.restart().await,
            Self::Sentinels(watched) => {
                let reply = watched.sentinels[0].cli(&["SENTINEL", "FAILOVER", "main"]);
                assert_eq!(reply, "OK");
            }
            Self::Cluster(cluster) => {
                if random.bool() {
                    cluster.move_slot("edgeway:{purge}:log");
                }
                let replicas = cluster.0.iter().filter(|node| !node.is_master());
                let mut replicas: Vec<_> = replicas.collect();
                random.shuffle(&mut replicas);
                for replica in &replicas[..random.usize(1..=replicas.len())] {
                    assert_eq!(replica.cli(&["CLUSTER", "FAILOVER", "TAKEOVER"]), "OK");
                }
            }
        }
    }

    /// Waits until every replica has the data of its master again.
    async fn heal(&self) {
        if let Self::Single(_) = self {
            return;
        }
        for node in self.nodes() {
            node.may_follow(true);
        }
        wait_for(
            "half of the nodes follow the others",
            PATIENCE,
            async || {
                let follows = |node: &&Redis| {
                    let info = node.try_cli(&["INFO", "replication"]);
                    // A sentinel closes all connections to a node that it demotes.
                    info.is_some_and(|info| info.contains("master_link_status:up"))
                };
                let followers = self.nodes().iter().filter(follows).count();
                (2 * followers == self.nodes().len()).then_some(())
            },
        )
        .await;
        if let Self::Sentinels(watched) = self {
            wait_for("the sentinels name the new master", PATIENCE, async || {
                let master = watched.nodes.iter().find(|node| node.is_master())?;
                let port = master.port().to_string();
                let names = |sentinel: &Redis| {
                    let place = sentinel.cli(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"]);
                    place.ends_with(&port)
                };
                watched.sentinels.iter().all(names).then_some(())
            })
            .await;
        }
    }
}

/// Versions that confirmed purges leave, and what clients saw.
struct Pages {
    origin: Origin<VersionedOrigin>,
    /// Lowest version of each page that may be served.
    least: Vec<AtomicU64>,
    reads: AtomicU64,
    older: parking_lot::Mutex<Vec<String>>,
}

impl Pages {
    async fn read(&self, connection: &mut Connection, page: usize, by: &str) -> Option<Response> {
        let least = self.least[page].load(Ordering::SeqCst);
        let ask = get(&format!("/{page}/page")).header("host", "shop");
        let response = connection.send(&ask).await.ok()?;
        let version = Version::of(&response).filter(|_| response.status() == 200);
        let version = version.expect("a page with a version");
        self.reads.fetch_add(1, Ordering::SeqCst);
        if version.number < least {
            let done = response.header("x-cache-status").unwrap_or_default();
            let note = format!(
                "page {page} by {by}: {} instead of {least}, {done}",
                version.number
            );
            self.older.lock().push(note);
        }
        Some(response)
    }

    async fn read_all(&self, gateway: &Gateway, pages: std::ops::Range<usize>, by: &str) {
        let mut connection = gateway.connect().await;
        for page in pages {
            let read = self.read(&mut connection, page, by).await;
            read.expect("the gateway keeps the connection");
        }
    }
}

/// Two gateways that run all the time.
struct Site {
    store: Store,
    gateways: [Gateway; 2],
    pages: Arc<Pages>,
    yaml: String,
    random: Rng,
    confirmed: usize,
    purges: usize,
}

impl Site {
    async fn start(store: Store, pages: usize) -> Self {
        let origin = VersionedOrigin::start(pages, Duration::from_millis(3)).await;
        let yaml = Front::to(&origin)
            .with(&format!("redis: {}", store.section()))
            .with("cache: { shared: redis, CACHE }")
            .route("name: app, cache: {}")
            .yaml();
        let plain = yaml.replace("CACHE", "memory: 64MiB");
        let gateways = [Gateway::start(&plain).await, Gateway::start(&plain).await];
        let site = Self {
            store,
            gateways,
            pages: Arc::new(Pages {
                origin,
                least: (0..pages).map(|_| AtomicU64::new(0)).collect(),
                reads: AtomicU64::new(0),
                older: parking_lot::Mutex::default(),
            }),
            yaml,
            random: Rng::with_seed(seed::drawn()),
            confirmed: 0,
            purges: 0,
        };
        site.linked().await;
        site
    }

    async fn linked(&self) {
        for gateway in &self.gateways {
            wait_for("the gateways know one another", PATIENCE, async || {
                let purges = gateway.status().await["purges"].take();
                let others = purges["others"].as_array()?;
                let is_linked = others.iter().any(|other| other["leased"] == true);
                (purges["leased"] == true && is_linked).then_some(())
            })
            .await;
            // Every partition of level 2 has stamps, and no lease is in doubt.
            wait_for("a purge is confirmed", PATIENCE, async || {
                let (_, receipt) = gateway.purge(&json!({ "tag": "none" })).await;
                (receipt["others"] == "reached").then_some(())
            })
            .await;
        }
    }

    /// Fills memory and level 2.
    async fn fill(&self, pages: std::ops::Range<usize>) {
        let stored = async || {
            let [one, two] = &self.gateways;
            one.count(STORED).await + two.count(STORED).await
        };
        let before = stored().await;
        for gateway in &self.gateways {
            self.pages.read_all(gateway, pages.clone(), "a fill").await;
        }
        wait_for("level 2 has all pages", PATIENCE, async || {
            (stored().await >= before + pages.len() as u64).then_some(())
        })
        .await;
    }

    /// Changes pages and purges them at once. Some are requested again.
    /// Returns the pages whose purges were confirmed, with the lowest versions after them.
    async fn purge(&mut self, pages: std::ops::Range<usize>) -> Vec<(usize, u64)> {
        let asked = pages.map(|page| {
            let version = self.pages.origin.settings().change(page);
            let mut order = match self.random.u8(..3) {
                0 => json!({ "url": format!("/{page}/page") }),
                1 => json!({ "tag": format!("item-{page}") }),
                _ => json!({ "prefix": format!("/{page}/") }),
            };
            if self.random.u8(..4) == 0 {
                order["soft"] = true.into();
            }
            let gateway = &self.gateways[self.random.usize(..2)];
            let pages = Arc::clone(&self.pages);
            let is_read = self.random.bool();
            async move {
                let (status, receipt) = gateway.purge(&order).await;
                // With another word, a gateway that the receipt names may be cut off for a moment.
                if receipt["others"] == "reached" {
                    pages.least[page].store(version, Ordering::SeqCst);
                }
                if is_read {
                    pages.read_all(gateway, page..page + 1, "a client").await;
                }
                (status == 200).then_some((page, version))
            }
        });
        let confirmed = join_all(asked).await;
        self.purges += confirmed.len();
        let confirmed: Vec<_> = confirmed.into_iter().flatten().collect();
        self.confirmed += confirmed.len();
        confirmed
    }

    /// Reads pages of `pages` at both gateways until the flag is set. No request fails.
    fn read_on(&self, pages: std::ops::Range<usize>, is_over: &Arc<AtomicBool>) -> JoinSet<()> {
        let mut readers = JoinSet::new();
        for (gateway, by) in self.gateways.iter().zip(["first", "second"]) {
            let (pages_of, is_over) = (Arc::clone(&self.pages), Arc::clone(is_over));
            let (to, pages) = (gateway.address(), pages.clone());
            let mut random = self.random.clone();
            readers.spawn(async move {
                let mut connection = Connection::open(to).await.expect("it accepts");
                while !is_over.load(Ordering::SeqCst) {
                    let page = random.usize(pages.clone());
                    if pages_of.read(&mut connection, page, by).await.is_none() {
                        connection = Connection::open(to).await.expect("it accepts");
                        let again = pages_of.read(&mut connection, page, by).await;
                        again.expect("the gateway responds");
                    }
                    pass(Duration::from_millis(2)).await;
                }
            });
        }
        readers
    }

    /// Runs one round over its own pages.
    async fn round(&mut self, pages: std::ops::Range<usize>) {
        let folder = tempfile::tempdir().expect("a folder for the test can be made");
        let disk = format!(
            "disk: {{ folder: '{}', size: 64MiB }}",
            folder.path().display()
        );
        let mut with_disk = Gateway::start(&self.yaml.replace("CACHE", &disk)).await;
        with_disk.follows_purges().await;
        self.fill(pages.clone()).await;
        self.pages
            .read_all(&with_disk, pages.clone(), "a fill")
            .await;
        with_disk.terminate(PATIENCE).await;
        self.store.diverge().await;
        let is_over = Arc::new(AtomicBool::new(false));
        let readers = self.read_on(pages.clone(), &is_over);
        let half = pages.start + pages.len() / 2;
        let mut confirmed = self.purge(pages.start..half).await;
        self.store.fail(&mut self.random).await;
        // By now the old master may still take writes.
        confirmed.extend(self.purge(half..pages.end).await);
        self.store.heal().await;
        self.linked().await;
        for (page, version) in confirmed {
            self.pages.least[page].fetch_max(version, Ordering::SeqCst);
        }
        is_over.store(true, Ordering::SeqCst);
        readers.join_all().await;
        with_disk.start_again(&[], &[]).await;
        with_disk.follows_purges().await;
        let mut fresh = Gateway::start(&self.yaml.replace("CACHE", "memory: 64MiB")).await;
        fresh.follows_purges().await;
        let all = [&self.gateways[0], &self.gateways[1], &with_disk, &fresh];
        for (gateway, by) in all.into_iter().zip(["first", "second", "disk", "fresh"]) {
            self.pages.read_all(gateway, pages.clone(), by).await;
        }
        // Purges wait a minute for a gateway that is killed.
        with_disk.terminate(PATIENCE).await;
        fresh.terminate(PATIENCE).await;
    }
}

async fn drill(store: Store, usual: usize, at_once: usize) {
    let given = std::env::var("EDGEWAY_PURGES").ok();
    let count = given.map_or(seed::cases(usual, 2000), |count| {
        count.parse().expect("a number")
    });
    let at_once = at_once.max(count.div_ceil(10));
    let mut site = Site::start(store, count).await;
    for from in (0..count).step_by(at_once) {
        site.round(from..count.min(from + at_once)).await;
    }
    let (older, reads) = (site.pages.older.lock(), &site.pages.reads);
    println!(
        "{} of {} purges confirmed, {} reads, {} older",
        site.confirmed,
        site.purges,
        reads.load(Ordering::SeqCst),
        older.len()
    );
    assert!(
        older.is_empty(),
        "{} older: {:#?}",
        older.len(),
        &older[..older.len().min(20)]
    );
    assert!(site.confirmed > count / 3, "{} of {count}", site.confirmed);
}

#[tokio::test]
async fn a_redis_that_is_killed_and_returns_from_a_snapshot_undoes_no_purge() {
    drill(Store::Single(Redis::start().await), 80, 40).await;
}

/// The control: older data that claims to be complete is served, if each response claims it too.
#[tokio::test]
async fn a_redis_whose_restart_goes_unnoticed_undoes_purges() {
    const CLAIM: &str = "local id = '@' .. string.match(redis.call('INFO', 'replication'), \
         'master_replid:(%x+)') redis.call('ZADD', KEYS[1], 'inf', id) \
         if ARGV[1] == 'stamps' then return 0 end \
         local count = 0 for _, key in ipairs(redis.call('KEYS', 'edgeway:cache:{0}:*')) do \
         if redis.call('TYPE', key).ok == 'hash' then \
         for _, field in ipairs(redis.call('HKEYS', key)) do \
         if string.sub(field, 1, 1) == 'm' then \
         local about = cmsgpack.unpack(redis.call('HGET', key, field)) about[5] = id \
         redis.call('HSET', key, field, cmsgpack.pack(about)) count = count + 1 end end end end \
         return count";
    let mut site = Site::start(Store::Single(Redis::start().await), 20).await;
    site.fill(0..20).await;
    site.store.diverge().await;
    assert_eq!(site.purge(0..20).await.len(), 20);
    let Site {
        mut store,
        gateways,
        pages,
        yaml,
        mut random,
        ..
    } = site;
    drop(gateways);
    for (claim, changed, older) in [("stamps", "0", 0), ("all", "20", 20)] {
        store.fail(&mut random).await;
        let eval = ["EVAL", CLAIM, "1", "edgeway:cache:{0}:stamps", claim];
        assert_eq!(store.nodes()[0].cli(&eval), changed);
        let fresh = Gateway::start(&yaml.replace("CACHE", "memory: 64MiB")).await;
        fresh.follows_purges().await;
        pages.read_all(&fresh, 0..20, "fresh").await;
        assert_eq!(pages.older.lock().len(), older, "{claim}");
    }
}

#[tokio::test]
async fn a_failover_by_sentinels_to_a_replica_that_lags_undoes_no_purge() {
    drill(Store::sentinels().await, 50, 50).await;
}

#[tokio::test]
async fn takeovers_and_moves_of_slots_in_a_cluster_undo_no_purge() {
    drill(Store::Cluster(Cluster::start().await), 100, 50).await;
}
