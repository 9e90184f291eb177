//! The only Redis client, for every feature that shares state between gateways.
//!
//! A command never waits for a connection: if there is none, or the last commands failed, it
//! returns an error at once, and the caller goes on with local state. [`Redis::supervise`] checks
//! in the background whether Redis is back.

mod links;
mod metrics;
mod script;
mod settings;
mod signer;
mod slots;
mod supervise;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwapOption;
use edgeway_base::{
    clock::{Clock, rfc3339},
    metrics::Metrics,
    units::Span,
};
use log::{info, warn};
use parking_lot::Mutex;
pub use redis::{Cmd, FromRedisValue, ParsingError, ToRedisArgs, Value, cmd};
use redis::{ErrorKind, RedisError, ServerErrorKind};
use serde::{Deserialize, Serialize};
use tokio::{runtime::Handle, sync::Notify, time::timeout};

use self::{
    links::{Connections, MAX_FAILURES, RedisConnection},
    metrics::{Outcome, RedisMetrics},
};
pub use self::{
    script::Script,
    settings::{Identity, Mode, Node, RedisSettings, SettingsError, Tls, Url},
    signer::{MIN_SECRET_LEN, Signer, TAG},
};

/// A Redis: a single instance, a cluster, or a primary that sentinels watch.
pub struct Redis {
    pub settings: RedisSettings,
    clock: Clock,
    metrics: RedisMetrics,
    /// Runtime that serves the connections, the same as that of the requests that use them. `None`:
    /// the runtime of the supervisor.
    workers: Option<Handle>,
    /// `None` while there is no connection that commands may use.
    links: ArcSwapOption<Connections>,
    state: Mutex<State>,
    /// Wakes the supervisor after a failure.
    changed: Arc<Notify>,
    /// Number of gateways that used it when it was last reached; 1 if it is not known.
    gateways: AtomicU32,
}

/// Reason why a command has no response. In each case the caller goes on without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// Not sent: Redis is known to be unreachable.
    #[error("redis is lost")]
    Open,
    #[error("redis timed out")]
    Timeout,
    /// The connection was closed, or the instance accepts no commands now.
    #[error("connection to redis lost")]
    Connection,
    /// Refused by Redis: no permission, no memory, the wrong type.
    #[error("redis rejected the command")]
    Response,
}

/// State of the connection to Redis.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RedisStatus {
    /// `single`, `cluster` or `sentinel`.
    pub mode: String,
    /// Address without user and password.
    pub address: String,
    pub up: bool,
    /// Time of the last change of `up`; RFC 3339, UTC.
    pub since: String,
    /// The last error, kept after recovery.
    pub last_error: Option<String>,
    /// Why it rejects commands, if it has rejected several within the last minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejection: Option<String>,
}

impl RedisStatus {
    /// Returns its state in a word or two.
    pub fn state(&self) -> &'static str {
        match (self.up, &self.rejection) {
            (false, _) => "down",
            (true, Some(_)) => "rejects commands",
            (true, None) => "up",
        }
    }
}

/// Commands that Redis has rejected, such as for want of memory. Others may pass meanwhile.
#[derive(Debug)]
struct Rejections {
    count: u32,
    last: Instant,
    why: String,
}

/// Time without a rejected command after which the next one is news.
const REJECTS_FOR: Duration = Duration::from_mins(1);

#[derive(Debug)]
struct State {
    /// `None` until the first attempt has an outcome.
    is_up: Option<bool>,
    since: SystemTime,
    last_error: Option<String>,
    rejections: Option<Rejections>,
}

impl Redis {
    /// Creates a client without any I/O: [`Redis::supervise`] makes the connections. They are
    /// served by `workers`, which should be the runtime that commands are sent from.
    pub fn new(
        settings: RedisSettings,
        clock: Clock,
        metrics: &Metrics,
        workers: Option<Handle>,
    ) -> Self {
        Self {
            metrics: RedisMetrics::new(metrics),
            workers,
            links: ArcSwapOption::empty(),
            state: Mutex::new(State {
                is_up: None,
                since: clock.wall(),
                last_error: None,
                rejections: None,
            }),
            changed: Arc::default(),
            gateways: AtomicU32::new(1),
            settings,
            clock,
        }
    }

    /// Returns the prefix of every key.
    pub fn prefix(&self) -> &str {
        &self.settings.prefix
    }

    /// Returns true if keys are spread over several nodes, so that a script may use only one key.
    pub fn is_cluster(&self) -> bool {
        matches!(self.settings.mode, Mode::Cluster)
    }

    /// Returns true if all parts of Redis are reachable.
    pub fn is_up(&self) -> bool {
        let links = self.links.load();
        links.as_ref().is_some_and(|links| links.is_complete())
    }

    /// Returns true if a family of metrics belongs to this client.
    pub fn has_family(name: &str) -> bool {
        RedisMetrics::FAMILIES.contains(&name)
    }

    pub fn status(&self) -> RedisStatus {
        let state = self.state.lock();
        RedisStatus {
            mode: self.settings.mode.name().to_owned(),
            address: self.settings.address(),
            up: state.is_up == Some(true),
            since: rfc3339(state.since),
            last_error: state.last_error.clone(),
            rejection: self
                .recent(&state)
                .filter(|recent| recent.count >= MAX_FAILURES)
                .map(|recent| recent.why.clone()),
        }
    }

    /// Returns the rejections, unless the last one is long ago.
    fn recent<'a>(&self, state: &'a State) -> Option<&'a Rejections> {
        let passed = |last| self.clock.now().saturating_duration_since(last);
        let all = state.rejections.as_ref();
        all.filter(|all| passed(all.last) < REJECTS_FOR)
    }

    /// Runs `script`. In a cluster its keys must map to one slot.
    pub async fn eval<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[&[u8]],
        args: &[impl ToRedisArgs + Sync],
    ) -> Result<T, Unavailable> {
        let by_hash = script.by_hash(keys, args);
        self.send(keys.first().copied().unwrap_or_default(), async |link| {
            match link.send(&by_hash).await {
                // Redis was flushed or restarted, or this is another node: this call stores the
                // script.
                Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                    link.send(&script.by_text(keys, args)).await
                }
                reply => reply,
            }
        })
        .await
    }

    /// Runs one command. A cluster routes it by `key`, the key that it uses.
    pub async fn run<T: FromRedisValue>(&self, key: &[u8], cmd: &Cmd) -> Result<T, Unavailable> {
        self.send(key, async |link| link.send(cmd).await).await
    }

    async fn send<T: FromRedisValue>(
        &self,
        key: &[u8],
        ask: impl AsyncFnOnce(&mut RedisConnection) -> Result<Value, RedisError>,
    ) -> Result<T, Unavailable> {
        let Some(links) = self.links.load_full() else {
            self.metrics.open.inc();
            return Err(Unavailable::Open);
        };
        let part = links.part_of(key);
        if links.parts[part].is_open.load(Ordering::Relaxed) {
            self.metrics.open.inc();
            return Err(Unavailable::Open);
        }
        let mut link = links.pick();
        let start = self.clock.now();
        let reply = timeout(patience(self.settings.timeout), ask(&mut link)).await;
        let took = self.clock.now().saturating_duration_since(start);
        let took = took.as_secs_f64();
        let problem = match reply {
            Ok(Ok(value)) => {
                links.parts[part].passed();
                match T::from_redis_value(value) {
                    Ok(value) => {
                        self.metrics.seconds[Outcome::Ok].observe(took);
                        return Ok(value);
                    }
                    Err(error) => Problem::Response(error.to_string()),
                }
            }
            Ok(Err(error)) => Problem::classify(&error),
            Err(_elapsed) => Problem::Timeout,
        };
        self.metrics.seconds[problem.outcome()].observe(took);
        Err(self.failed(&links, part, problem))
    }

    /// Counts a failure, and stops using the part after too many of them.
    fn failed(&self, links: &Arc<Connections>, part: usize, problem: Problem) -> Unavailable {
        let is_read_only = matches!(problem, Problem::ReadOnly(_));
        match problem {
            Problem::Timeout => {
                self.metrics.timeouts.inc();
                if links.parts[part].struck() >= MAX_FAILURES {
                    let limit = Span(self.settings.timeout);
                    self.open(links, part, &format!("no response within {limit}"));
                }
                Unavailable::Timeout
            }
            Problem::ReadOnly(why) if !matches!(self.settings.mode, Mode::Single) => {
                // There is another master.
                self.failed(links, part, Problem::Connection(why))
            }
            Problem::Connection(why) => {
                self.metrics.connection.inc();
                // A cluster's client repairs single connections itself.
                if !self.is_cluster() || links.parts[part].struck() >= MAX_FAILURES {
                    self.open(links, part, &why);
                }
                Unavailable::Connection
            }
            Problem::ReadOnly(why) | Problem::Response(why) => {
                self.metrics.response.inc();
                links.parts[part].passed();
                let mut state = self.state.lock();
                let earlier = self.recent(&state).map_or(0, |recent| recent.count);
                let count = earlier.saturating_add(1);
                state.rejections = Some(Rejections {
                    count,
                    last: self.clock.now(),
                    why: why.clone(),
                });
                state.last_error = Some(why.clone());
                drop(state);
                if earlier == 0 {
                    warn!(address = self.settings.address(), error = why; "redis rejected a command");
                }
                // Its name may lead to another instance by now: attempts grow rare.
                if is_read_only && count.is_power_of_two() && self.give_up(links) {
                    self.changed.notify_one();
                }
                Unavailable::Response
            }
        }
    }

    /// Stops sending commands to this part, except those of the supervisor.
    fn open(&self, links: &Arc<Connections>, part: usize, why: &str) {
        if self.is_cluster() {
            if links.parts[part].is_open.swap(true, Ordering::Relaxed) {
                return;
            }
            self.went_down(why);
            self.changed.notify_one();
        } else {
            self.lose(links, why);
        }
    }

    fn lose(&self, links: &Arc<Connections>, why: &str) {
        if self.give_up(links) {
            self.went_down(why);
            self.changed.notify_one();
        }
    }

    /// Gives up these connections. Returns false if they were given up before.
    fn give_up(&self, links: &Arc<Connections>) -> bool {
        let current = self.links.compare_and_swap(links, None);
        current.as_ref().is_some_and(|c| Arc::ptr_eq(c, links))
    }

    /// Returns the number of gateways that share it, this one included; 1 if nobody counts them.
    pub fn gateways(&self) -> u32 {
        self.gateways.load(Ordering::Relaxed)
    }

    /// Records the number of gateways that share it.
    pub fn set_gateways(&self, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.gateways.store(count, Ordering::Relaxed);
    }

    fn went_down(&self, why: &str) {
        self.metrics.up.set(0);
        let mut state = self.state.lock();
        let is_news = state.is_up != Some(false);
        if is_news {
            state.is_up = Some(false);
            state.since = self.clock.wall();
        }
        state.last_error = Some(why.to_owned());
        drop(state);
        if is_news {
            warn!(
                address = self.settings.address(), mode = self.settings.mode.name(), error = why;
                "redis lost, continuing without it"
            );
        }
    }

    fn went_up(&self) {
        self.metrics.up.set(1);
        let mut state = self.state.lock();
        if state.is_up == Some(true) {
            return;
        }
        state.is_up = Some(true);
        state.since = self.clock.wall();
        state.rejections = None;
        drop(state);
        info!(
            address = self.settings.address(), mode = self.settings.mode.name();
            "redis connected"
        );
    }
}

/// Delay allowed for a busy machine to run expired timers.
const TIMER_SLACK: Duration = Duration::from_millis(10);

/// Returns the deadline of a command, shortened so that the request goes on within `timeout`:
/// timers fire late, and threads wait when every core is busy.
fn patience(timeout: Duration) -> Duration {
    timeout.saturating_sub(TIMER_SLACK.min(timeout / 2))
}

/// Reason why a command has no response.
enum Problem {
    Timeout,
    Connection(String),
    /// A replica takes no writes.
    ReadOnly(String),
    Response(String),
}

impl Problem {
    fn classify(error: &RedisError) -> Self {
        if error.is_timeout() {
            return Self::Timeout;
        }
        match error.kind() {
            ErrorKind::Io
            | ErrorKind::Parse
            | ErrorKind::AuthenticationFailed
            | ErrorKind::ClusterConnectionNotFound
            | ErrorKind::Server(
                ServerErrorKind::BusyLoading
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::TryAgain
                | ServerErrorKind::Moved
                | ServerErrorKind::Ask,
            ) => Self::Connection(error.to_string()),
            ErrorKind::Server(ServerErrorKind::ReadOnly) => Self::ReadOnly(error.to_string()),
            _ => Self::Response(error.to_string()),
        }
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::Timeout => Outcome::Timeout,
            Self::Connection(_) | Self::ReadOnly(_) | Self::Response(_) => Outcome::Error,
        }
    }
}

edgeway_base::opaque_debug!(Redis, settings);
