//! In-memory model of Redis and its scripts, with connections that delay and lose commands, or run
//! them after their callers have gone.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use edgeway_net::redis::Unavailable;
use fastrand::Rng;
use parking_lot::Mutex;

use super::{
    super::super::{
        Id, Position, Purge,
        log::{
            Entry, EntryContent, Generation, Lease, LogContinuity, LogQuery, LogResponse,
            PublishResponse, PurgeLogStore, draw,
        },
    },
    GATEWAYS, meanwhile,
};
use crate::base::{clock::Clock, units::whole_millis};

/// Number of entries that the log keeps here.
const LOG_KEPT: usize = 6;
/// Maximum number of entries in one response.
const BATCH: usize = 3;

#[derive(Clone, Debug)]
pub(super) enum Command {
    Sync(LogQuery),
    Publish(String, Vec<Purge>),
}

/// Data of the scripts, in memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Data {
    /// The name, the history of Redis, and the time since which both are valid.
    pub(super) generation: Option<(String, u64, u64)>,
    pub(super) log: Vec<Entry>,
    last: Id,
    gateways: BTreeMap<String, LeaseRecord>,
}

/// The end of a lease, the last applied entry, and the numbers of dropped responses.
type LeaseRecord = (u64, Id, Vec<(Id, u64)>);

impl Data {
    fn ensure(&mut self, Moment { now, history }: Moment) -> Generation {
        if self.log.is_empty() || self.generation.is_none() {
            *self = Self::default();
        }
        let of = self.generation.take();
        let of = of.filter(|(_, of, _)| *of == history);
        let (name, history, born) = of.unwrap_or_else(|| {
            let name = draw();
            self.append(now, name.clone(), EntryContent::Restarted);
            (name, history, now)
        });
        self.generation = Some((name.clone(), history, born));
        Generation {
            name,
            age: Duration::from_millis(now.saturating_sub(born)),
        }
    }

    fn append(&mut self, now: u64, drawn: String, content: EntryContent) -> Id {
        let next = Id(self.last.0, self.last.1 + 1);
        self.last = next.max(Id(now, 0));
        let position = Position {
            id: self.last,
            drawn,
        };
        self.log.push(Entry { position, content });
        let over = self.log.len().saturating_sub(LOG_KEPT);
        self.log.drain(..over);
        self.last
    }

    fn leases(&mut self, now: u64) -> Vec<Lease> {
        self.gateways
            .retain(|_, (ends, ..)| now < *ends + 3_600_000);
        let leases = self.gateways.iter();
        leases
            .map(|(gateway, (ends, applied, done))| Lease {
                gateway: gateway.clone(),
                left: i64::try_from(*ends).unwrap() - i64::try_from(now).unwrap(),
                applied: *applied,
                done: done.clone(),
            })
            .collect()
    }

    fn sync(&mut self, question: &LogQuery, at: Moment) -> LogResponse {
        let generation = self.ensure(at);
        let now = at.now;
        let is_there = |position: &Position| self.log.iter().any(|e| e.position == *position);
        let place = question.position.as_ref().filter(|place| is_there(place));
        let is_there = question.expected.iter().map(is_there).collect();
        let Some(place) = place else {
            let end = self.log.last().expect("never empty").position.clone();
            return LogResponse {
                generation,
                leased: None,
                follows: LogContinuity::Gap(end),
                leases: Some(self.leases(now)),
                is_there,
            };
        };
        let behind = self.log.iter().filter(|e| e.position.id > place.id);
        let entries: Vec<Entry> = behind.take(BATCH).cloned().collect();
        let are_all = entries.len() < BATCH;
        let stored = self.gateways.get(&question.gateway);
        let mut left = stored.map_or(0, |(ends, ..)| ends.saturating_sub(now));
        if left > 0 || are_all {
            let is_same = stored.is_some_and(|(_, id, _)| *id == place.id);
            if !(2000..=3000).contains(&left) || !is_same {
                left = 3000;
                let done = question.done.iter().copied().collect();
                let lease = (now + left, place.id, done);
                self.gateways.insert(question.gateway.clone(), lease);
            }
        } else {
            left = 0;
        }
        LogResponse {
            generation,
            leased: (left > 0).then(|| Duration::from_millis(left)),
            follows: LogContinuity::Entries { entries, are_all },
            leases: Some(self.leases(now)),
            is_there,
        }
    }

    fn publish(&mut self, drawn: &str, purges: &[Purge], at: Moment) -> PublishResponse {
        let generation = self.ensure(at);
        let content = EntryContent::Purges(purges.to_vec());
        let id = self.append(at.now, drawn.to_owned(), content);
        PublishResponse {
            position: Position {
                id,
                drawn: drawn.to_owned(),
            },
            generation,
            leases: self.leases(at.now),
        }
    }
}

/// State of a server that scripts see beside the data.
#[derive(Clone, Copy)]
struct Moment {
    now: u64,
    /// Another number after each failover.
    history: u64,
}

/// A Redis, with delayed commands.
pub(super) struct Model {
    clock: Clock,
    rng: Mutex<Rng>,
    pub(super) data: Mutex<Data>,
    pub(super) replica: Mutex<Data>,
    history: Mutex<u64>,
    pub(super) delayed: Mutex<Vec<Command>>,
    pub(super) put_back: Mutex<u64>,
    /// By gateway.
    pub(super) is_partitioned: Mutex<[bool; GATEWAYS]>,
}

impl Model {
    pub(super) fn new(clock: &Clock, seed: u64) -> Self {
        Self {
            clock: clock.clone(),
            rng: Mutex::new(Rng::with_seed(seed ^ 1)),
            data: Mutex::default(),
            replica: Mutex::default(),
            history: Mutex::default(),
            delayed: Mutex::default(),
            put_back: Mutex::default(),
            is_partitioned: Mutex::default(),
        }
    }

    /// Returns the state of the server. Its clock may be set back.
    fn now(&self) -> Moment {
        let since = self.clock.wall().duration_since(SystemTime::UNIX_EPOCH);
        Moment {
            now: whole_millis(since.unwrap()) - *self.put_back.lock(),
            history: *self.history.lock(),
        }
    }

    /// Fails over to the replica, or restarts from a snapshot.
    pub(super) fn roll_back(&self) {
        let replica = self.replica.lock().clone();
        *self.data.lock() = replica;
        *self.history.lock() += 1;
    }

    fn chance(&self, percent: u32) -> bool {
        self.rng.lock().u32(..100) < percent
    }

    /// Runs a command whose caller has gone.
    pub(super) fn run_delayed(&self, command: &Command) {
        let mut data = self.data.lock();
        match command {
            Command::Sync(question) => drop(data.sync(question, self.now())),
            Command::Publish(drawn, purges) => drop(data.publish(drawn, purges, self.now())),
        }
    }

    async fn send<T>(
        &self,
        number: usize,
        command: Command,
        run: impl FnOnce(&mut Data, Moment) -> T,
    ) -> Result<T, Unavailable> {
        meanwhile().await;
        if self.is_partitioned.lock()[number] {
            return Err(Unavailable::Open);
        }
        if self.chance(5) {
            self.delayed.lock().push(command);
            return Err(Unavailable::Timeout);
        }
        if self.chance(3) {
            return Err(Unavailable::Connection);
        }
        let response = run(&mut self.data.lock(), self.now());
        meanwhile().await;
        if self.chance(5) {
            return Err(Unavailable::Timeout);
        }
        Ok(response)
    }
}

/// The connection of one gateway to the Redis.
pub(super) struct ModelConnection(pub(super) Arc<Model>, pub(super) usize);

impl PurgeLogStore for ModelConnection {
    async fn sync(&self, question: &LogQuery) -> Result<LogResponse, Unavailable> {
        let command = Command::Sync(question.clone());
        self.0
            .send(self.1, command, |data, at| data.sync(question, at))
            .await
    }

    async fn publish(&self, drawn: &str, purges: &[Purge]) -> Result<PublishResponse, Unavailable> {
        let command = Command::Publish(drawn.to_owned(), purges.to_vec());
        self.0
            .send(self.1, command, |data, at| data.publish(drawn, purges, at))
            .await
    }
}
