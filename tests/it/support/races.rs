//! Fills race purges: two gateways with one Redis, each over its own link that fails at random, and
//! an origin whose content changes before each purge.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use futures_util::future::{join, join_all};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    client::{self, Connection, Request, Response, get, post, post_json},
    front::Front,
    gateway::Gateway,
    origins::{Origin, Version, VersionedOrigin},
    redis::{Redis, SECRET},
    relay::{Relay, Wire},
    wait::{pass, wait_for},
};

const PATIENCE: Duration = Duration::from_secs(30);
/// Maximum time for which a gateway without its link counts.
const LEASE: Duration = Duration::from_secs(3);
/// Maximum delay of the origin: fills overlap purges.
const SLOWEST: Duration = Duration::from_millis(25);

/// Two gateways of one site.
pub(crate) struct Course {
    redis: Redis,
    relays: [Relay; 2],
    gateways: [Gateway; 2],
    /// Names of the gateways in receipts.
    names: [String; 2],
    origin: Origin<VersionedOrigin>,
    items: usize,
}

/// Outcome of the rounds.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) rounds: u64,
    /// Reads through a gateway that the receipt lists as done.
    pub(crate) named: u64,
    /// Reads among them with a version older than the current one at the time of the purge.
    pub(crate) older: Vec<String>,
    /// Reads through gateways that the receipt does not list as done.
    pub(crate) unnamed: u64,
    pub(crate) older_unnamed: u64,
    /// Purges that found a stored response at both gateways.
    pub(crate) filled: u64,
    /// Receipts by their value of `others`, with what those wait for that are not over.
    pub(crate) others: BTreeMap<String, u64>,
    pub(crate) faults: BTreeMap<&'static str, u64>,
    pub(crate) failed: Vec<String>,
    pub(crate) took: Duration,
}

/// Responses that a gateway without its link served.
#[derive(Debug, Default)]
pub(crate) struct Lost {
    /// Reads soon after the loss with a version from before it.
    pub(crate) early: u64,
    /// Reads three seconds after the loss or later; the next field counts versions from before it.
    pub(crate) reads: u64,
    pub(crate) overdue: Vec<String>,
}

/// Client of both gateways.
#[derive(Default)]
struct Client([Option<Connection>; 2]);

/// Result of one read.
struct Seen {
    version: Version,
    is_hit: bool,
}

impl Course {
    /// Starts a course; `cache` is the section, and each of `items` has a page.
    pub(crate) async fn start(items: usize, cache: &str) -> Self {
        let redis = Redis::start().await;
        let origin = VersionedOrigin::start(items, SLOWEST).await;
        let to: SocketAddr = redis.address().parse().expect("an address");
        let relays = [Relay::start(to).await, Relay::start(to).await];
        let yaml = |relay: &Relay| {
            Front::to(&origin)
                .with(&format!(
                    "redis: {{ url: 'redis://{}', secret: '{SECRET}', timeout: 100ms }}",
                    relay.address()
                ))
                .with(&format!("cache: {cache}"))
                .route("name: app, cache: {}")
                .yaml()
        };
        let gateways = [
            Gateway::start(&yaml(&relays[0])).await,
            Gateway::start(&yaml(&relays[1])).await,
        ];
        let mut names = [String::new(), String::new()];
        for (gateway, name) in gateways.iter().zip(&mut names) {
            let status = gateway.status().await;
            let name_of = status["purges"]["gateway"].as_str();
            name.push_str(name_of.expect("a gateway has a name"));
        }
        let course = Self {
            redis,
            relays,
            gateways,
            names,
            origin,
            items,
        };
        course.linked().await;
        // After that, no gateway can hold a lease in an earlier log.
        pass(LEASE).await;
        course
    }

    pub(crate) async fn level2_hits(&self) -> u64 {
        let mut hits = 0;
        for gateway in &self.gateways {
            let found = "edgeway_cache_level2_lookup_duration_seconds_count{result=\"hit\"}";
            hits += gateway.count(found).await;
        }
        hits
    }

    /// Waits until both gateways know of each other.
    async fn linked(&self) {
        for gateway in &self.gateways {
            wait_for("the gateways know one another", PATIENCE, async || {
                let purges = gateway.status().await["purges"].take();
                let others = purges["others"].as_array()?;
                let is_linked = others.iter().any(|other| other["leased"] == true);
                (purges["leased"] == true && is_linked).then_some(())
            })
            .await;
        }
    }

    /// Runs `rounds` rounds, with each item in one round at a time. `disturbed`: links and Redis
    /// fail.
    pub(crate) async fn race(&self, rounds: u64, disturbed: bool) -> Outcome {
        let begun = Instant::now();
        let (counter, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
        let lanes = async {
            let lanes = (0..self.items).map(|item| self.lane(item, rounds, &counter));
            let lanes = join_all(lanes).await;
            is_over.store(true, Ordering::SeqCst);
            lanes
        };
        let faults = async {
            let mut faults = BTreeMap::new();
            while disturbed && !is_over.load(Ordering::SeqCst) {
                let fault = self.disturb().await;
                *faults.entry(fault).or_default() += 1;
            }
            faults
        };
        let (lanes, faults) = join(lanes, faults).await;
        self.linked().await;
        let mut all = Outcome {
            faults,
            took: begun.elapsed(),
            ..Outcome::default()
        };
        for lane in lanes {
            all.add(lane);
        }
        all
    }

    async fn lane(&self, item: usize, rounds: u64, counter: &AtomicU64) -> Outcome {
        let mut outcome = Outcome::default();
        let mut client = Client::default();
        while counter.fetch_add(1, Ordering::Relaxed) < rounds {
            if let Err(problem) = self.round(item, &mut client, &mut outcome).await {
                outcome.failed.push(problem);
            }
            outcome.rounds += 1;
        }
        outcome
    }

    async fn round(
        &self,
        item: usize,
        client: &mut Client,
        outcome: &mut Outcome,
    ) -> Result<(), String> {
        let mut hits = 0;
        for at in [0, 1] {
            hits += u64::from(self.read(client, at, item).await?.is_hit);
        }
        outcome.filled += u64::from(hits == 2);
        let fills = (0..fastrand::usize(1..5)).map(|_| async {
            up_to(12).await;
            let at = fastrand::usize(..2);
            self.read(&mut Client::default(), at, item).await
        });
        let purge = async {
            up_to(8).await;
            let current = self.origin.settings().change(item);
            let receipt = self.purge(item).await?;
            self.look(client, item, current, &receipt, outcome).await?;
            Ok::<_, String>((current, receipt))
        };
        let (fills, purged) = join(join_all(fills), purge).await;
        for fill in fills {
            fill?;
        }
        let (current, receipt) = purged?;
        // By now every fill that was in flight is over.
        self.look(client, item, current, &receipt, outcome).await?;
        *outcome.others.entry(kind_of(&receipt)).or_default() += 1;
        Ok(())
    }

    /// Purges an item, by any kind of purge, at any gateway.
    async fn purge(&self, item: usize) -> Result<Value, String> {
        let mut order = match fastrand::u8(..3) {
            0 => json!({ "url": format!("/{item}/page") }),
            1 => json!({ "tag": format!("item-{item}") }),
            _ => json!({ "prefix": format!("/{item}/") }),
        };
        if fastrand::u8(..4) == 0 {
            order["soft"] = true.into();
        }
        let gateway = &self.gateways[fastrand::usize(..2)];
        let response = gateway.send_admin(&post_json("/v1/purge", &order)).await;
        serde_json::from_slice(&response.body).map_err(|error| format!("{order}: {error}"))
    }

    /// Checks the response of each gateway after a purge.
    async fn look(
        &self,
        client: &mut Client,
        item: usize,
        current: u64,
        receipt: &Value,
        outcome: &mut Outcome,
    ) -> Result<(), String> {
        for (at, name) in self.names.iter().enumerate() {
            let applied = receipt["applied"].as_array();
            let is_named = applied.is_some_and(|all| all.iter().any(|it| it["gateway"] == **name));
            let seen = self.read(client, at, item).await?;
            let is_older = seen.version.number < current;
            if !is_named {
                outcome.unnamed += 1;
                outcome.older_unnamed += u64::from(is_older);
                continue;
            }
            outcome.named += 1;
            if is_older {
                let number = seen.version.number;
                outcome.older.push(format!(
                    "item {item} at {name}: version {number} instead of {current} after {receipt}"
                ));
            }
        }
        Ok(())
    }

    async fn read(&self, client: &mut Client, at: usize, item: usize) -> Result<Seen, String> {
        let ask = get(&format!("/{item}/page")).header("host", "shop");
        let response = client.send(at, self.gateways[at].address(), &ask).await;
        let response = response.map_err(|error| format!("{}: {error}", self.names[at]))?;
        let (status, version) = (response.status(), Version::of(&response));
        match version {
            Some(version) if status == 200 => Ok(Seen {
                version,
                is_hit: response.header("x-cache-status") == Some("HIT"),
            }),
            _ => Err(format!("{}: {status} {}", self.names[at], response.text())),
        }
    }

    /// Causes one failure for a while, and ends it.
    async fn disturb(&self) -> &'static str {
        between(100, 800).await;
        let relay = &self.relays[fastrand::usize(..2)];
        match fastrand::u8(..20) {
            0..5 => {
                relay.set(Wire::Closed);
                between(50, 1500).await;
                relay.set(Wire::Open);
                "wire closed for a moment"
            }
            5..8 => {
                relay.set(Wire::Closed);
                between(3200, 4500).await;
                relay.set(Wire::Open);
                "wire closed until the lease is lost"
            }
            8..12 => {
                relay.set(Wire::Stalled);
                between(50, 1500).await;
                relay.set(Wire::Open);
                "wire stalled for a moment"
            }
            12..14 => {
                relay.set(Wire::Stalled);
                between(3200, 4500).await;
                relay.set(Wire::Open);
                "wire stalled until the lease is lost"
            }
            14..17 => {
                self.redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
                "connections killed"
            }
            17..19 => {
                self.redis.pause();
                between(50, 1500).await;
                self.redis.resume();
                "redis paused"
            }
            _ => {
                self.redis.flush();
                "redis flushed"
            }
        }
    }

    /// Cuts or stalls the link of one gateway `times` times, changes and purges everything through
    /// the other one, and checks the responses of the first one meanwhile.
    pub(crate) async fn lose(&self, times: u32) -> Lost {
        let mut lost = Lost::default();
        let origin = self.origin.settings();
        for turn in 0..times {
            let mut client = Client::default();
            for item in 0..self.items {
                self.read(&mut client, 1, item).await.expect("a response");
            }
            let wire = [Wire::Closed, Wire::Stalled][turn as usize % 2];
            self.relays[1].set(wire);
            let at = origin.now();
            for item in 0..self.items {
                origin.change(item);
            }
            let purges = async {
                let purges = (0..self.items.min(8)).map(|item| self.purge(item));
                for receipt in join_all(purges).await {
                    receipt.expect("a receipt");
                }
            };
            let reads = async {
                while origin.now() < at + LEASE + Duration::from_secs(2) {
                    let item = fastrand::usize(..self.items);
                    let is_overdue = origin.now() >= at + LEASE;
                    let seen = self.read(&mut client, 1, item).await.expect("a response");
                    let is_older = seen.version.read_at < at;
                    lost.reads += u64::from(is_overdue);
                    lost.early += u64::from(is_older && !is_overdue);
                    if is_older && is_overdue {
                        let version = seen.version;
                        let passed = origin.now().saturating_sub(at);
                        lost.overdue
                            .push(format!("item {item}: {version:?}, {passed:?} after {at:?}"));
                    }
                    up_to(5).await;
                }
            };
            join(purges, reads).await;
            self.relays[1].set(Wire::Open);
            self.linked().await;
        }
        lost
    }
}

impl Client {
    async fn send(
        &mut self,
        at: usize,
        to: SocketAddr,
        request: &Request,
    ) -> client::Result<Response> {
        if let Some(connection) = &mut self.0[at]
            && let Ok(response) = connection.send(request).await
        {
            return Ok(response);
        }
        // No connection yet, or one that has ended.
        let connection = self.0[at].insert(Connection::open(to).await?);
        connection.send(request).await
    }
}

impl Outcome {
    fn add(&mut self, other: Self) {
        self.rounds += other.rounds;
        self.named += other.named;
        self.older.extend(other.older);
        self.unnamed += other.unnamed;
        self.older_unnamed += other.older_unnamed;
        self.filled += other.filled;
        for (others, count) in other.others {
            *self.others.entry(others).or_default() += count;
        }
        self.failed.extend(other.failed);
    }
}

/// Returns the value of `others`, and what the purge waits for.
fn kind_of(receipt: &Value) -> String {
    let others = receipt["others"].as_str().unwrap_or("nothing");
    if others != "waiting" {
        return others.to_owned();
    }
    let has = |list: &str| receipt[list].as_array().is_some_and(|all| !all.is_empty());
    let reason = match (has("pending"), has("lapsed")) {
        (true, _) => "pending",
        (false, true) => "lapsed",
        // Leases that the log lost, or level 2.
        (false, false) => "unknown",
    };
    format!("waiting, {reason}")
}

async fn up_to(milliseconds: u64) {
    between(0, milliseconds).await;
}

async fn between(from: u64, to: u64) {
    pass(Duration::from_millis(fastrand::u64(from..to))).await;
}
