//! Link of a gateway to the log of purges, run beside requests.
//!
//! The log is polled every tenth of a second over the shared connections, rather than read with
//! `BLOCK` over a dedicated one: one script reads the next entries, renews the lease and lists the
//! other leases in one step, every wait has the usual deadline, and the existing circuit breaker
//! detects a Redis that hangs.

mod incoming;
mod outgoing;
mod resume;
mod status;
#[cfg(test)]
mod tests;
mod tickets;
mod writes;

use std::{
    collections::VecDeque,
    future::pending,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use ::log::{info, warn};
use edgeway_net::redis::{Redis, RedisSettings, Unavailable};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::timeout};

pub use self::status::{OtherGateway, PurgeLinkStatus};
use self::{
    outgoing::is_written,
    tickets::{Ticket, Tickets},
    writes::WriteBatch,
};
use super::{
    Purge, Trust,
    follower::{Follower, FollowerAction},
    log::{LEASE, Lease, LogResponse, Position, PurgeLogStore, RedisPurgeLog},
    metrics::{LinkMetrics, PurgeCounters, PurgeSource},
    receipt::{AppliedGateway, DEFAULT_WAIT, PeerStates, Peers, Receipt},
    successor_purges::SuccessorPurges,
};
use crate::base::{
    clock::Clock,
    metrics::Metrics,
    units::{millis, whole_millis},
};

/// Time between two queries.
const POLL: Duration = Duration::from_millis(100);
/// Time between two queries while a caller waits for a receipt.
const FAST_POLL: Duration = Duration::from_millis(20);
/// Longest time between two queries for the leases of others, for the status.
const LEASE_POLL: Duration = Duration::from_secs(1);
/// Minimum time between log lines about unsigned purges.
const LOG_INTERVAL: Duration = Duration::from_mins(1);
/// Number of own purges that are recognized in the log. More than can wait for Redis.
const MAX_OWN_PURGES: usize = 1024;
/// Number of applied entries whose counts are kept, in case the log has one twice.
const MAX_COUNTED: usize = 64;
/// `trusted_until` of a gateway that shares with no other.
const ALWAYS: u64 = u64::MAX;

/// Scope of the wait after a purge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitScope {
    /// Storage of this gateway only: the gateway that reported a write takes care of shared
    /// storage.
    Own,
    /// Also purges of operators in shared storage, however many writes wait.
    Purges,
    /// Also purges caused by writes.
    Writes,
}

impl WaitScope {
    /// Returns the scope for the gateway that received the purges.
    fn new(purges: &[Purge]) -> Self {
        if purges.iter().all(is_written) {
            Self::Writes
        } else {
            Self::Purges
        }
    }
}

/// Storage that purges are applied to: everything that this gateway stores.
pub trait Caches: Send + Sync {
    /// Drops the responses that `purges` affect, or marks them as stale, including those on their
    /// way into the cache. Returns the number for each purge. After that no older response is
    /// served from here, and none is written to shared storage, where it could be read.
    fn apply<'a>(&'a self, purges: &'a [Purge]) -> BoxFuture<'a, Vec<u64>>;

    /// Waits, about a second at most, until persistent and shared storage know the applied purges.
    /// Returns `false` if shared storage does not know them in time.
    fn settle(&self, awaited: WaitScope) -> BoxFuture<'_, bool>;

    /// Drops everything that this gateway stores by itself, in memory and on disk, and responses on
    /// their way there. Returns the number. Shared storage stays.
    fn forget(&self) -> BoxFuture<'_, u64>;
}

type ApplyInPredecessors = dyn Fn(Vec<Purge>) -> BoxFuture<'static, ()> + Send + Sync;

/// The link of one gateway. It outlives configurations.
pub struct PurgeLink {
    name: String,
    caches: Arc<dyn Caches>,
    clock: Clock,
    metrics: LinkMetrics,
    purges: PurgeCounters,
    began: Instant,
    /// Milliseconds since `began` until which every purge that is over is applied here, according
    /// to the follower; [`ALWAYS`] for a gateway that shares with no other. Read by requests.
    trusted_until: AtomicU64,
    state: Mutex<State>,
    wake: Notify,
    /// Notified when Redis has taken a purge, or rejected it.
    sent: Notify,
    /// Purges for the successor of this process.
    pub notes: SuccessorPurges,
    /// Applies purges in predecessors that still drain.
    pub draining: OnceLock<Box<ApplyInPredecessors>>,
    /// Set once the lease is given up for good.
    has_left: AtomicBool,
    /// Held by the supervisor: one at a time.
    running: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    /// Settings of the Redis that is followed; `None` for a gateway that shares with no other.
    settings: Option<RedisSettings>,
    follower: Follower,
    /// Position to continue from at the next query, set by [`PurgeLink::resume`].
    resume: Option<Position>,
    /// Position to continue from after that: the later one of another store of this gateway. It may
    /// belong to another log.
    then: Option<Position>,
    /// True if all entries after the position were applied.
    has_caught_up: bool,
    tickets: Tickets,
    unsent: VecDeque<UnsentPurges>,
    /// Purges caused by writes that are not in `unsent` yet.
    writes: WriteBatch,
    /// Time when writes were last published.
    wrote: Option<Instant>,
    loss_logged: Option<Instant>,
    /// Purges that began here: their nonces and the number of dropped responses.
    own: VecDeque<(String, u64)>,
    /// Last applied entries: their nonces and the number of dropped responses.
    counted: VecDeque<(String, u64)>,
    others: Vec<Lease>,
    /// Gateways seen recently, whatever happened to the log since.
    peers: Peers,
    looked: Option<Instant>,
    /// Until then there may be gateways that rely on leases which the log has lost.
    doubt_until: Option<Instant>,
    lost_since: Option<SystemTime>,
    last_error: Option<Unavailable>,
    /// Time of the last log line about unsigned purges.
    unsigned_logged: Option<Instant>,
    losses: u64,
    gaps: u64,
    replayed: u64,
}

impl State {
    /// Remembers a purge that began here.
    fn remember(&mut self, drawn: &str, objects: u64) {
        self.own.push_back((drawn.to_owned(), objects));
        if self.own.len() > MAX_OWN_PURGES {
            self.own.pop_front();
        }
    }

    /// Returns the number of responses that an entry dropped. The log has an entry twice if the
    /// response to its publication was late: a receipt waits for the second one, and it is the
    /// first one that dropped something.
    fn count_entry(&mut self, drawn: &str, objects: u64) -> u64 {
        let mut counted = self.counted.iter();
        if let Some((_, earlier)) = counted.find(|(known, _)| known == drawn) {
            return objects.max(*earlier);
        }
        self.counted.push_back((drawn.to_owned(), objects));
        if self.counted.len() > MAX_COUNTED {
            self.counted.pop_front();
        }
        objects
    }

    /// Starts a period of doubt if the log is not the one that was followed.
    fn compare(&mut self, generation: &str, now: Instant) {
        let current = self.follower.generation();
        if current.is_some_and(|current| current != generation) {
            self.doubt_until = Some(now + LEASE);
            self.unsent.extend(self.tickets.take_recent(now));
        }
    }
}

#[derive(Clone)]
struct UnsentPurges {
    drawn: String,
    purges: Arc<[Purge]>,
}

/// Purges that are applied here and sent to the other gateways.
pub struct StartedPurge {
    /// Receipt with the results so far.
    pub receipt: Receipt,
    /// `None` if there are no other gateways.
    ticket: Option<Arc<Ticket>>,
    /// True once shared storage knows the purges.
    is_settled: bool,
    at: Instant,
}

impl PurgeLink {
    /// Creates the link. `host` is the name of this machine. Until the link runs, stored
    /// responses that are older than the link are not trusted.
    pub fn new(host: &str, caches: Arc<dyn Caches>, clock: &Clock, metrics: &Metrics) -> Self {
        // Spaces and control characters would disturb logs and scripts.
        let host: String = host.chars().filter(char::is_ascii_graphic).collect();
        Self {
            // Two processes on one machine are two gateways, for example during an upgrade.
            name: format!("{host}/{:08x}", fastrand::u32(..)),
            caches,
            metrics: LinkMetrics::new(metrics),
            purges: PurgeCounters::new(metrics),
            began: clock.now(),
            trusted_until: AtomicU64::new(0),
            state: Mutex::default(),
            wake: Notify::new(),
            sent: Notify::new(),
            notes: SuccessorPurges::default(),
            draining: OnceLock::new(),
            has_left: AtomicBool::new(false),
            running: tokio::sync::Mutex::default(),
            clock: clock.clone(),
        }
    }

    /// Returns this gateway's name in receipts.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the trust in stored responses. Called for each use of one: reads one atomic and the
    /// clock.
    #[inline]
    pub fn trust(&self) -> Trust {
        let until = self.trusted_until.load(Ordering::Acquire);
        if until == ALWAYS {
            return Trust::All;
        }
        let now = whole_millis(self.clock.now() - self.began);
        match now.checked_sub(until) {
            None => Trust::All,
            Some(since) => {
                let since = Duration::from_millis(since);
                let lost = self.clock.wall().checked_sub(since);
                Trust::OnlyAfter(lost.unwrap_or(SystemTime::UNIX_EPOCH))
            }
        }
    }

    /// Applies `purges` here at once, and waits for the other gateways, for five seconds at most.
    pub async fn purge(&self, purges: Vec<Purge>, source: PurgeSource) -> Receipt {
        let started = self.begin(purges, source).await;
        self.finish(started).await
    }

    /// Waits for the other gateways, for five seconds at most.
    pub async fn finish(&self, started: StartedPurge) -> Receipt {
        let StartedPurge {
            mut receipt,
            ticket,
            mut is_settled,
            at,
        } = started;
        if let Some(ticket) = ticket {
            let settled = async {
                while !is_settled {
                    tokio::time::sleep(POLL).await;
                    is_settled = self.caches.settle(WaitScope::new(&receipt.purges)).await;
                }
            };
            // In time or not, the ticket has the state.
            let both = async { tokio::join!(ticket.over(), settled) };
            let _in_time = timeout(DEFAULT_WAIT, both).await;
            ticket.tell(&mut receipt);
            if !is_settled && matches!(receipt.others, PeerStates::Reached | PeerStates::Linked) {
                // A gateway that starts now would read older responses there.
                receipt.others = PeerStates::Waiting;
            }
        }
        let took = self.clock.now().saturating_duration_since(at);
        if receipt.is_over() {
            self.metrics.seconds.observe(took.as_secs_f64());
        }
        receipt.took_ms = millis(took);
        receipt
    }

    /// Applies `purges` here. The other gateways receive them from then on, even if no caller
    /// waits.
    pub async fn begin(&self, purges: Vec<Purge>, source: PurgeSource) -> StartedPurge {
        let now = self.clock.now();
        let objects = self.apply(&purges, source).await.iter().sum();
        self.notes.purged(&purges);
        let receipt = Receipt {
            purges,
            gateway: self.name.clone(),
            applied: vec![AppliedGateway {
                gateway: self.name.clone(),
                objects: Some(objects),
            }],
            ..Receipt::default()
        };
        // The other gateways receive them whatever happens to the tiers here.
        let ticket = self.enqueue(&receipt.purges, objects);
        let settled = self.caches.settle(WaitScope::new(&receipt.purges));
        let (is_settled, ()) = tokio::join!(settled, async {
            if source == PurgeSource::Write {
                self.until_sent(&receipt.purges).await;
            }
        });
        StartedPurge {
            receipt,
            ticket,
            is_settled,
            at: now,
        }
    }

    /// Applies purges in this process and those that still drain, and counts them. Returns the number
    /// of responses affected here for each.
    pub async fn apply(&self, purges: &[Purge], source: PurgeSource) -> Vec<u64> {
        let dropped = self.caches.apply(purges).await;
        for (purge, dropped) in purges.iter().zip(&dropped) {
            self.purges.count(purge, source);
            self.metrics.objects[source].inc_by(*dropped);
        }
        if let Some(apply) = self.draining.get() {
            apply(purges.to_vec()).await;
        }
        dropped
    }

    /// Follows the log in `redis` for as long as the future is polled. Without Redis the gateway
    /// shares with no other.
    pub async fn supervise(self: Arc<Self>, redis: Option<Arc<Redis>>) {
        let alone = self.running.lock().await;
        self.attach(redis.as_ref().map(|redis| &redis.settings));
        let Some(redis) = redis else {
            return pending().await;
        };
        let log = RedisPurgeLog::new(Arc::clone(&redis));
        // Another query would take the lease again.
        while !self.has_left.load(Ordering::Acquire) {
            let pause = self.round(&log).await;
            redis.set_gateways(self.count_gateways());
            if let Some(pause) = pause {
                let _woken = timeout(pause, self.wake.notified()).await;
            }
        }
        drop(alone);
        pending::<()>().await;
    }

    /// Returns the number of gateways that had a lease when the log was last read.
    fn count_gateways(&self) -> usize {
        let state = self.state.lock();
        1 + state.others.iter().filter(|lease| lease.left > 0).count()
    }

    /// Gives up the lease: this process no longer serves, and no purge has to wait for the gateway.
    pub async fn leave(&self, redis: Arc<Redis>) {
        self.has_left.store(true, Ordering::Release);
        self.wake.notify_one();
        // A query in flight would take the lease again.
        let _alone = self.running.lock().await;
        if let Err(error) = RedisPurgeLog::new(redis).leave(&self.name).await {
            ::log::debug!(error:%; "lease of purges not released, it expires by itself");
        }
    }

    fn attach(&self, settings: Option<&RedisSettings>) {
        let mut state = self.state.lock();
        if settings.is_none() {
            state.unsent.clear();
            state.writes.clear();
            state.others.clear();
            state.lost_since = None;
            self.trusted_until.store(ALWAYS, Ordering::Release);
            self.metrics.up.set(1);
        } else if state.settings.as_ref() != settings {
            // The gateways that share this log do not know this gateway.
            state.follower.release(self.clock.now());
            self.publish_trust(&state);
            state.lost_since = Some(self.clock.wall());
            self.metrics.up.set(0);
        }
        state.settings = settings.cloned();
        self.count_unsent(&state);
    }

    /// Sends one query and acts on the response. Returns the pause before the next query; `None`
    /// for no pause.
    async fn round(&self, log: &impl PurgeLogStore) -> Option<Duration> {
        let reply = match self.send(log).await {
            Ok(()) => self.poll_log(log).await,
            Err(error) => self.poll_log(log).await.and(Err(error)),
        };
        let pause = match reply {
            Ok(FollowerAction::Rest(_)) => Some(()),
            Ok(FollowerAction::Apply(entries)) => {
                let since = self.clock.now();
                let mut entries = VecDeque::from(entries);
                while !entries.is_empty() {
                    self.take_some(&mut entries).await;
                    // The next query renews the lease, and returns the remaining entries again.
                    if self.clock.now().saturating_duration_since(since) >= LEASE / 3 {
                        break;
                    }
                }
                None
            }
            // A Redis that evicts the log would lose it again at once.
            Ok(FollowerAction::Forget(end)) => self.forget(end).await.then_some(()),
            Err(error) => {
                self.state.lock().last_error = Some(error);
                self.sent.notify_waiters();
                Some(())
            }
        };
        self.judge();
        let is_waited_for = self.state.lock().tickets.are_waited_for(self.clock.now());
        let has_more = self.state.lock().writes.len() > 0;
        let is_soon = is_waited_for || has_more;
        pause.map(|()| if is_soon { FAST_POLL } else { POLL })
    }

    async fn poll_log(&self, log: &impl PurgeLogStore) -> Result<FollowerAction, Unavailable> {
        let sent = self.clock.now();
        let question = {
            let mut state = self.state.lock();
            if state.has_caught_up && state.resume.is_none() {
                state.resume = state.then.take();
            }
            if let Some(position) = state.resume.take() {
                state.follower.resume(position);
                state.has_caught_up = false;
                // A resumed store may be older than purges that began here.
                state.own.clear();
            }
            let expected = state.tickets.expected(sent);
            let is_due = state
                .looked
                .is_none_or(|looked| sent >= looked + LEASE_POLL);
            let mut question = state.follower.question(&self.name);
            question.wants_leases = is_due || !expected.is_empty();
            question.expected = expected;
            question
        };
        let reply = log.sync(&question).await?;
        Ok(self.follow(sent, question.expected.as_slice(), &reply))
    }

    fn follow(&self, sent: Instant, expected: &[Position], reply: &LogResponse) -> FollowerAction {
        let now = self.clock.now();
        let mut state = self.state.lock();
        state.last_error = None;
        state.compare(&reply.generation.name, now);
        let had_place = state.follower.position().is_some();
        let step = state.follower.next(sent, now, reply);
        if had_place && matches!(step, FollowerAction::Forget(_)) {
            state.doubt_until = Some(now + LEASE);
        }
        state.has_caught_up = matches!(step, FollowerAction::Rest(_));
        self.publish_trust(&state);
        if let Some(leases) = &reply.leases {
            let state = &mut *state;
            let (peers, doubt_until) = (&mut state.peers, state.doubt_until);
            peers.see(&self.name, &reply.generation.name, leases, now);
            let tickets = &mut state.tickets;
            let lost = tickets.observe(expected, reply, leases, peers, doubt_until, now);
            for lost in lost {
                if state.unsent.iter().all(|unsent| unsent.drawn != lost.drawn) {
                    state.unsent.push_back(lost);
                }
            }
            self.count_unsent(state);
            let others = leases.iter().filter(|lease| lease.gateway != self.name);
            state.others = others.cloned().collect();
            state.looked = Some(now);
        }
        step
    }

    /// Drops everything after the log has lost this gateway's position, or never had one: stored
    /// responses are older than purges that are no longer known. Returns true if the log had one.
    async fn forget(&self, end: Position) -> bool {
        if self.state.lock().resume.is_some() {
            // Storage has a position of its own by now.
            return false;
        }
        let objects = self.caches.forget().await;
        let mut state = self.state.lock();
        let is_loss = state.follower.position().is_some();
        state.follower.forgot(end);
        drop(state);
        if is_loss {
            self.count_gap();
            warn!(objects; "log of purges lost, whole cache dropped");
        }
        is_loss
    }

    fn count_gap(&self) {
        self.state.lock().gaps += 1;
        self.metrics.gaps.inc();
    }

    fn publish_trust(&self, state: &State) {
        let until = state.follower.held_until;
        let until = until.map_or(0, |until| {
            whole_millis(until.saturating_duration_since(self.began))
        });
        self.trusted_until.store(until, Ordering::Release);
    }

    /// Logs the loss of a lease, and its return.
    fn judge(&self) {
        let trust = self.trust();
        let mut state = self.state.lock();
        let since = match trust {
            Trust::All => None,
            Trust::OnlyAfter(since) => Some(state.lost_since.unwrap_or(since)),
        };
        let was = std::mem::replace(&mut state.lost_since, since);
        match (was, since) {
            (None, Some(_)) => {
                state.losses += 1;
                let error = state.last_error;
                drop(state);
                self.metrics.losses.inc();
                self.metrics.up.set(0);
                let error = error.map_or_else(|| "late".to_owned(), |error| error.to_string());
                warn!(error; "link of purges lost, other gateways no longer wait for this one");
            }
            (_, None) => {
                drop(state);
                self.metrics.up.set(1);
                if was.is_some() {
                    info!(gateway = self.name; "link of purges established");
                }
            }
            (Some(_), Some(_)) => {}
        }
    }
}

edgeway_base::opaque_debug!(PurgeLink, name);
