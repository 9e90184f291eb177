//! Simulation of gateways, their caches and a Redis in one thread, with thousands of schedules.
//! Invariant: whatever is lost, late, restarted or forgotten, a receipt claims nothing that is not
//! true.
//!
//! Commands run before, between or after all other steps, or never, and responses get lost. Redis
//! is flushed, trims its log, drops one of its keys, and returns without the last writes, after a
//! failover or from a snapshot. Gateways restart with their state on disk.

mod model;

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use edgeway_net::redis::{Identity, Mode};
use fastrand::Rng;

use self::model::{Data, Model, ModelConnection};
use super::{
    super::{
        PurgeEffect, PurgeTarget,
        log::{EntryContent, Generation, Id, LogContinuity, LogQuery, PublishResponse, draw},
    },
    *,
};

const KEYS: usize = 3;
const GATEWAYS: usize = 3;
const STEPS: usize = 400;

/// Yields, so that other steps can run.
async fn meanwhile() {
    let mut is_first = true;
    std::future::poll_fn(|_| {
        if std::mem::take(&mut is_first) {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    })
    .await;
}

/// A version of a key, and the time when the origin generated it.
#[derive(Clone, Copy, Debug)]
struct Stored {
    version: u64,
    made: SystemTime,
}

/// A model of the store: fills have marks, and a purge wins over a fill that began before.
#[derive(Default)]
struct ModelStore(Mutex<ModelStoreState>);

#[derive(Clone, Default)]
struct ModelStoreState {
    stored: HashMap<usize, Stored>,
    /// Fills in flight: key and content.
    fills: Vec<(usize, Stored)>,
}

impl ModelStoreState {
    fn drop_all_of(&mut self, purge: &Purge) {
        let is_meant = |key: usize| key_of(purge).is_none_or(|meant| meant == key);
        self.fills.retain(|(key, _)| !is_meant(*key));
        self.stored.retain(|key, _| !is_meant(*key));
    }
}

fn key_of(purge: &Purge) -> Option<usize> {
    match &purge.target {
        PurgeTarget::Url(url) => url[1..].parse().ok(),
        _ => None,
    }
}

impl Caches for ModelStore {
    fn apply<'a>(&'a self, purges: &'a [Purge]) -> BoxFuture<'a, Vec<u64>> {
        Box::pin(async move {
            meanwhile().await;
            for purge in purges {
                self.0.lock().drop_all_of(purge);
            }
            meanwhile().await;
            vec![1; purges.len()]
        })
    }

    fn settle(&self, _awaited: WaitScope) -> BoxFuture<'_, bool> {
        Box::pin(async {
            meanwhile().await;
            true
        })
    }

    fn forget(&self) -> BoxFuture<'_, u64> {
        Box::pin(async move {
            meanwhile().await;
            *self.0.lock() = ModelStoreState::default();
            1
        })
    }
}

type Running = Pin<Box<dyn Future<Output = ()>>>;
type ReportedPurges = Arc<Mutex<Option<StartedPurge>>>;

struct Gateway {
    link: Arc<PurgeLink>,
    toy: Arc<ModelStore>,
    round: Option<Running>,
    disk: Option<(ModelStoreState, Position)>,
}

struct PendingPurge {
    by: usize,
    key: usize,
    version: u64,
    running: Option<Running>,
    begun: ReportedPurges,
}

struct World {
    rng: Rng,
    clock: Clock,
    model: Arc<Model>,
    origin: [u64; KEYS],
    gateways: Vec<Gateway>,
    pending: Vec<PendingPurge>,
    /// Claims of receipts: the lowest version that this gateway (by name), or any, may have.
    applied: HashMap<(String, usize), u64>,
    over: [u64; KEYS],
    overs: usize,
    gaps: u64,
    replayed: u64,
}

fn settings() -> RedisSettings {
    RedisSettings {
        mode: Mode::Single,
        nodes: Vec::new(),
        identity: Identity::default(),
        database: 0,
        tls: None,
        timeout: Duration::from_millis(20),
        connections: 1,
        prefix: "edgeway:".to_owned(),
        signer: None,
    }
}

fn poll(running: &mut Running) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    running.as_mut().poll(&mut cx).is_ready()
}

impl World {
    fn new(seed: u64) -> Self {
        fastrand::seed(seed);
        let clock = Clock::test();
        let model = Arc::new(Model::new(&clock, seed));
        let mut world = Self {
            rng: Rng::with_seed(seed),
            clock,
            model,
            origin: [0; KEYS],
            gateways: Vec::new(),
            pending: Vec::new(),
            applied: HashMap::new(),
            over: [0; KEYS],
            overs: 0,
            gaps: 0,
            replayed: 0,
        };
        for number in 0..GATEWAYS {
            let gateway = world.gateway(number);
            world.gateways.push(gateway);
        }
        world
    }

    fn gateway(&mut self, number: usize) -> Gateway {
        let toy = Arc::new(ModelStore::default());
        let caches = Arc::clone(&toy) as Arc<dyn Caches>;
        let name = format!("g{number}");
        let link = PurgeLink::new(&name, caches, &self.clock, &Metrics::default());
        link.attach(Some(&settings()));
        Gateway {
            link: Arc::new(link),
            toy,
            round: None,
            disk: None,
        }
    }

    fn restart(&mut self, number: usize) {
        let new = self.gateway(number);
        let old = std::mem::replace(&mut self.gateways[number], new);
        let status = old.link.status();
        self.gaps += status.gaps;
        self.replayed += status.replayed;
        self.pending.retain(|pending| pending.by != number);
        if let Some((saved, position)) = old.disk
            && self.rng.bool()
        {
            let new = &self.gateways[number];
            new.link.resume(position);
            new.toy.0.lock().stored = saved.stored;
        }
    }

    fn go(&mut self, number: usize) {
        let gateway = &mut self.gateways[number];
        let round = gateway.round.get_or_insert_with(|| {
            let (link, way) = (
                Arc::clone(&gateway.link),
                ModelConnection(Arc::clone(&self.model), number),
            );
            Box::pin(async move {
                link.round(&way).await;
            })
        });
        if poll(round) {
            gateway.round = None;
        }
    }

    fn issue_purge(&mut self, by: usize) {
        let key = self.rng.usize(..KEYS);
        self.origin[key] += 1;
        let begun = ReportedPurges::default();
        let (link, into) = (Arc::clone(&self.gateways[by].link), Arc::clone(&begun));
        let purge = Purge {
            target: PurgeTarget::Url(format!("/{key}")),
            effect: PurgeEffect::Hard,
        };
        let running: Running = Box::pin(async move {
            let begun = link.begin(vec![purge], PurgeSource::Admin).await;
            *into.lock() = Some(begun);
        });
        self.pending.push(PendingPurge {
            by,
            key,
            version: self.origin[key],
            running: Some(running),
            begun,
        });
    }

    /// Reads the receipt of a purge, over or not.
    fn read(&mut self, at: usize) {
        let pending = &mut self.pending[at];
        if let Some(running) = &mut pending.running {
            if poll(running) {
                pending.running = None;
            }
            return;
        }
        let guard = pending.begun.lock();
        let begun = guard.as_ref().expect("it has ended");
        let mut receipt = begun.receipt.clone();
        let ticket = begun.ticket.as_ref().expect("gateways share");
        ticket.tell(&mut receipt);
        drop(guard);
        let (issuer, key, version) = (pending.by, pending.key, pending.version);
        for AppliedGateway { gateway, .. } in &receipt.applied {
            let floor = self.applied.entry((gateway.clone(), key)).or_default();
            *floor = version.max(*floor);
        }
        if receipt.is_over() {
            self.assert_nobody_serves_older(issuer, key, version, &receipt.lapsed);
            self.overs += 1;
            self.over[key] = version.max(self.over[key]);
            self.pending.swap_remove(at);
        }
    }

    /// Invariant: once a purge is over, no gateway that the purging one knew recently serves an
    /// older response, with or without a lease, unless the receipt names it as cut off.
    #[track_caller]
    fn assert_nobody_serves_older(&self, by: usize, key: usize, version: u64, lapsed: &[String]) {
        let state = self.gateways[by].link.state.lock();
        let peers: Vec<String> = state.peers.0.keys().cloned().collect();
        drop(state);
        for gateway in &self.gateways {
            let link = &gateway.link;
            // One that has never had a lease was not known when the purge ended.
            let is_new = link.trusted_until.load(Ordering::Acquire) == 0;
            if !peers.contains(&link.name) || lapsed.contains(&link.name) || is_new {
                continue;
            }
            let toy = gateway.toy.0.lock();
            let stored = toy.stored.get(&key);
            assert!(
                stored.is_none_or(|stored| stored.version >= version),
                "{} serves {stored:?} of {key} by a purge of {version} that is over, {:?}",
                link.name,
                link.trust()
            );
        }
    }

    fn fill(&mut self, number: usize) {
        let key = self.rng.usize(..KEYS);
        let stored = Stored {
            version: self.origin[key],
            made: self.clock.wall(),
        };
        let mut toy = self.gateways[number].toy.0.lock();
        if !toy.fills.is_empty() && self.rng.bool() {
            let (key, stored) = toy.fills.swap_remove(0);
            toy.stored.insert(key, stored);
        } else {
            toy.fills.push((key, stored));
        }
    }

    fn disturb(&mut self) {
        let number = self.rng.usize(..GATEWAYS);
        match self.rng.u32(..16) {
            0..4 => {
                let mut partitioned = self.model.is_partitioned.lock();
                partitioned[number] = !partitioned[number];
            }
            4 => {
                *self.model.data.lock() = Data::default();
                *self.model.put_back.lock() += self.rng.u64(..500);
            }
            5 => self.model.data.lock().log.clear(),
            6 => self.model.data.lock().generation = None,
            7 => self.restart(number),
            8 => self.model.roll_back(),
            9..11 => {
                let data = self.model.data.lock().clone();
                *self.model.replica.lock() = data;
            }
            11..14 => {
                let gateway = &mut self.gateways[number];
                if let Some(position) = gateway.link.position() {
                    let saved = gateway.toy.0.lock().clone();
                    gateway.disk = Some((saved, position));
                }
            }
            _ => self.clock.advance(Duration::from_secs(3)),
        }
    }

    fn step(&mut self) {
        let number = self.rng.usize(..GATEWAYS);
        match self.rng.u32(..100) {
            0..45 => self.go(number),
            45..60 => self.fill(number),
            60..64 => self.issue_purge(number),
            64..80 if !self.pending.is_empty() => {
                let at = self.rng.usize(..self.pending.len());
                self.read(at);
            }
            80..94 => {
                let by = Duration::from_millis(self.rng.u64(1..120));
                self.clock.advance(by);
            }
            94..97 => {
                let delayed = self.model.delayed.lock().pop();
                if let Some(command) = delayed {
                    self.model.run_delayed(&command);
                }
            }
            97.. if self.rng.bool() => self.disturb(),
            _ => {}
        }
    }

    #[track_caller]
    fn check(&self, seed: u64, step: usize) {
        for gateway in &self.gateways {
            let trust = gateway.link.trust();
            let toy = gateway.toy.0.lock();
            for (key, stored) in &toy.stored {
                let claimed = self.applied.get(&(gateway.link.name.clone(), *key));
                assert!(
                    claimed.is_none_or(|claimed| stored.version >= *claimed),
                    "seed {seed}, step {step}: {} serves {stored:?} of {key}, a receipt claims {claimed:?}",
                    gateway.link.name
                );
                let is_trusted = match trust {
                    Trust::All => true,
                    // Responses generated since then count; purges since are known to be missing.
                    Trust::OnlyAfter(_) => false,
                };
                assert!(
                    !is_trusted || stored.version >= self.over[*key],
                    "seed {seed}, step {step}: {} trusts {stored:?} of {key}, which is over at {:?}",
                    gateway.link.name,
                    self.over
                );
                if let Trust::OnlyAfter(lost) = trust {
                    assert!(lost <= self.clock.wall() && stored.made <= self.clock.wall());
                }
            }
        }
    }
}

fn run(seed: u64) -> World {
    let mut world = World::new(seed);
    for step in 0..STEPS {
        world.step();
        world.check(seed, step);
    }
    world
}

/// Runs all these schedules, and checks that something happened in them.
fn run_all(seeds: std::ops::Range<u64>) {
    let (mut overs, mut gaps, mut replayed) = (0, 0, 0);
    for seed in seeds.clone() {
        let world = run(seed);
        overs += world.overs;
        gaps += world.gaps;
        replayed += world.replayed;
        for gateway in &world.gateways {
            let status = gateway.link.status();
            gaps += status.gaps;
            replayed += status.replayed;
        }
    }
    let least = seeds.end - seeds.start;
    assert!(overs as u64 > least / 2, "only {overs} purges were over");
    assert!(gaps > least / 4, "only {gaps} gaps");
    assert!(
        replayed > least / 4,
        "only {replayed} entries were replayed"
    );
    println!("{overs} purges were over, {gaps} gaps, {replayed} entries replayed");
}

#[test]
fn a_receipt_claims_nothing_untrue() {
    run_all(0..edgeway_testkit::cases(300, 3000));
}

/// Killed before, this gateway would be the only one that knows of the write.
#[tokio::test]
async fn a_write_waits_until_redis_has_it() {
    let mut world = World::new(1);
    let link = Arc::clone(&world.gateways[0].link);
    let writer = Arc::clone(&link);
    let mut running: Running = Box::pin(async move {
        let purge = Purge {
            target: PurgeTarget::Written("http://shop/a".into()),
            effect: PurgeEffect::Hard,
        };
        drop(writer.begin(vec![purge], PurgeSource::Write).await);
    });
    for _ in 0..100 {
        assert!(!poll(&mut running), "nobody has sent it");
    }
    while !poll(&mut running) {
        world.go(0);
    }
    let data = world.model.data.lock();
    let mut entries = data.log.iter();
    let is_sent = entries.any(|entry| matches!(entry.content, EntryContent::Purges(_)));
    assert!(is_sent || link.is_unreachable());
}

/// The response to the publication is late, so the purge is published again.
#[test]
fn a_purge_that_is_in_the_log_twice_has_the_count_of_the_first() {
    let mut state = State::default();
    assert_eq!(state.count_entry("a", 3), 3);
    assert_eq!(state.count_entry("b", 0), 0);
    assert_eq!(state.count_entry("a", 0), 3);
    for number in 0..MAX_COUNTED {
        state.count_entry(&number.to_string(), 1);
    }
    assert_eq!(state.counted.len(), MAX_COUNTED);
    assert_eq!(state.count_entry("a", 0), 0);
}

/// Redis that loses the log after each query, as one that evicts does.
struct Forgetful;

impl PurgeLogStore for Forgetful {
    async fn sync(&self, _question: &LogQuery) -> Result<LogResponse, Unavailable> {
        let drawn = draw();
        Ok(LogResponse {
            generation: Generation {
                name: drawn.clone(),
                age: LEASE,
            },
            leased: None,
            follows: LogContinuity::Gap(Position {
                id: Id(1, 0),
                drawn,
            }),
            leases: None,
            is_there: Vec::new(),
        })
    }

    async fn publish(&self, _: &str, _: &[Purge]) -> Result<PublishResponse, Unavailable> {
        Err(Unavailable::Open)
    }
}

#[test]
fn a_log_that_is_lost_again_and_again_is_queried_no_faster() {
    let caches = Arc::new(ModelStore::default());
    let link = PurgeLink::new("a", caches, &Clock::test(), &Metrics::default());
    let pauses = [(); 3].map(|()| {
        let mut round = Box::pin(link.round(&Forgetful));
        loop {
            let context = &mut Context::from_waker(Waker::noop());
            if let Poll::Ready(pause) = round.as_mut().poll(context) {
                break pause;
            }
        }
    });
    assert_eq!(pauses, [None, Some(POLL), Some(POLL)]);
}
