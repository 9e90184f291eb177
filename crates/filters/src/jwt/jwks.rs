//! Keys from a URL: fetched in the background, kept over reloads, fetched again when a token names
//! an unknown key, and used for a while when the URL fails.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use edgeway_base::{
    clock::Clock,
    error::InvalidValue,
    http::{decimal, list_of},
    metrics::Metrics,
};
use edgeway_core::zones::Zone;
use edgeway_net::fetch::{Fetch, FetchError};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header};
use log::{error, info, warn};
use serde_json::{Value, json};
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::{sleep, timeout},
};

use super::keys::{self, Key, SecretKeys};

/// Maximum size of a JWK set, which usually has a few KiB.
const MAX_SET_LEN: usize = 256 * 1024;
/// Minimum time between two fetches, whatever keys tokens name.
const MIN_FETCH_INTERVAL: Duration = Duration::from_secs(5);
/// Maximum time that a request waits for keys being fetched.
const MAX_WAIT: Duration = Duration::from_secs(1);
/// Maximum number of waiting requests.
const MAX_WAITING: usize = 256;
/// Delay after a failure, doubled with each further one.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// Minimum TTL of a response, also if its `max-age` is shorter.
const MIN_AGE: Duration = Duration::from_secs(10);

const ACCEPT: HeaderValue =
    HeaderValue::from_static("application/jwk-set+json, application/json;q=0.9");

edgeway_base::metric_handles! {
    #[derive(Debug)]
    struct FetchMetrics(jwks) {
        up: IntGauge = "edgeway_jwks_up", "1 if the last fetch of a JWK set succeeded.";
        ok { outcome: "ok" },
        failed { outcome: "failed" }: IntCounter = "edgeway_jwks_fetches_total",
            "Fetches of JWK sets by outcome: `ok` or `failed`.";
    }
}

/// Fetch settings of one configuration.
#[derive(Debug)]
pub(super) struct JwksSource {
    pub(super) url: Uri,
    pub(super) fetch: Fetch,
    /// Maximum time between two fetches.
    pub(super) refresh: Duration,
    pub(super) deadline: Duration,
    /// Time for which keys stay valid beyond that if the URL fails.
    pub(super) stale: Duration,
}

/// Keys of one fetch.
#[derive(Debug)]
pub(super) struct KeySet {
    pub(super) keys: Box<[Key]>,
    /// Number that changes with the keys.
    pub(super) generation: u64,
    /// The document, for the successor process.
    document: Bytes,
}

/// State of the keys.
#[derive(Clone, Debug, Default)]
struct State {
    /// Keys of the last successful fetch.
    known: Option<FetchedKeys>,
    /// Time of the next fetch; at once if `None`.
    due: Option<Instant>,
    failures: u32,
}

#[derive(Clone, Debug)]
struct FetchedKeys {
    keys: Arc<KeySet>,
    /// Time at which the keys should be replaced.
    fresh_until: Instant,
    /// The same as wall-clock time, for another process.
    fresh_until_wall: SystemTime,
}

/// Keys behind one URL.
#[derive(Debug)]
pub(super) struct Jwks {
    /// Name in logs and metrics: the URL without its query.
    name: Box<str>,
    clock: Clock,
    state: ArcSwap<State>,
    /// Notified when a request misses a key.
    wanted: Notify,
    /// Number of finished fetches.
    over: watch::Sender<u64>,
    is_asking: AtomicBool,
    /// Time of the last fetch's end, in milliseconds since `born`, plus one.
    last: AtomicU64,
    born: Instant,
    waiting: Semaphore,
    metrics: Metrics,
    fetches: FetchMetrics,
}

/// Result of a request for newer keys.
#[derive(Debug)]
pub(super) enum RefreshOutcome {
    /// There are other keys.
    Changed,
    /// The keys were fetched recently, and there are no others.
    Same,
    /// The current keys cannot be fetched.
    Unknown,
}

impl Jwks {
    pub(super) fn new(name: &str, clock: &Clock, metrics: &Metrics) -> Self {
        Self {
            name: name.into(),
            clock: clock.clone(),
            state: ArcSwap::default(),
            wanted: Notify::new(),
            over: watch::Sender::default(),
            is_asking: AtomicBool::new(false),
            last: AtomicU64::new(0),
            born: clock.now(),
            waiting: Semaphore::new(MAX_WAITING),
            metrics: metrics.clone(),
            fetches: FetchMetrics::new(metrics, name),
        }
    }

    /// Returns the keys, unless they have been stale for longer than `stale`.
    pub(super) fn keys(&self, stale: Duration) -> Option<Arc<KeySet>> {
        let state = self.state.load();
        let known = state.known.as_ref()?;
        let end = known.fresh_until.checked_add(stale);
        let is_good = end.is_none_or(|end| self.clock.now() < end);
        is_good.then(|| Arc::clone(&known.keys))
    }

    /// Requests other keys than those of `generation` and waits a moment for them. All waiting
    /// requests share one fetch, and no fetch follows shortly after another. Keys that have been stale
    /// for longer than `stale` are none.
    pub(super) async fn newer(&self, generation: Option<u64>, stale: Duration) -> RefreshOutcome {
        let mut over = self.over.subscribe();
        let may_wait =
            self.is_asking.load(Ordering::Acquire) || self.since_last() >= Some(MIN_FETCH_INTERVAL);
        // A fetch may have finished since the caller looked.
        let is_other = |keys: &KeySet| Some(keys.generation) != generation;
        if self.keys(stale).is_some_and(|keys| is_other(&keys)) {
            return RefreshOutcome::Changed;
        }
        // Even if this request does not wait: the next one with this key may find it.
        self.wanted.notify_one();
        let failures = self.state.load().failures;
        if !may_wait && self.since_last().is_some() {
            return if failures == 0 {
                RefreshOutcome::Same
            } else {
                RefreshOutcome::Unknown
            };
        }
        let Ok(_waits) = self.waiting.try_acquire() else {
            return RefreshOutcome::Unknown;
        };
        if !matches!(timeout(MAX_WAIT, over.changed()).await, Ok(Ok(()))) {
            return RefreshOutcome::Unknown;
        }
        match self.keys(stale) {
            Some(keys) if is_other(&keys) => RefreshOutcome::Changed,
            Some(_) if self.state.load().failures == 0 => RefreshOutcome::Same,
            Some(_) | None => RefreshOutcome::Unknown,
        }
    }

    /// Returns the time since the end of the last fetch; `None` if there was none.
    fn since_last(&self) -> Option<Duration> {
        let last = self.last.load(Ordering::Acquire).checked_sub(1)?;
        let now = self.clock.now().duration_since(self.born);
        Some(now.saturating_sub(Duration::from_millis(last)))
    }

    /// Fetches the keys repeatedly, without end.
    pub(super) async fn supervise(self: Arc<Self>, source: Arc<JwksSource>) {
        loop {
            let due = self.state.load().due;
            let rest = due.map_or(Duration::ZERO, |due| {
                due.saturating_duration_since(self.clock.now())
            });
            if !rest.is_zero() {
                tokio::select! {
                    () = sleep(rest) => {}
                    () = self.wanted.notified() => {
                        let since = self.since_last().unwrap_or(MIN_FETCH_INTERVAL);
                        sleep(MIN_FETCH_INTERVAL.saturating_sub(since).min(rest)).await;
                    }
                }
            }
            self.ask(&source).await;
        }
    }

    /// Fetches the keys once.
    pub(super) async fn ask(&self, source: &JwksSource) {
        let asking = FetchInFlight::begin(self);
        let fetched = self.fetch(source).await;
        let now = self.clock.now();
        let before = self.state.load_full();
        let state = match fetched {
            Ok((keys, age)) => {
                self.fetches.ok.inc();
                self.fetches.up.set(1);
                if before.known.is_none() || before.failures > 0 {
                    info!(jwks = &*self.name, keys = keys.keys.len(); "JWK set fetched");
                }
                State {
                    known: Some(FetchedKeys {
                        keys,
                        fresh_until: now + age,
                        fresh_until_wall: self.clock.wall() + age,
                    }),
                    due: Some(now + age),
                    failures: 0,
                }
            }
            Err(problem) => {
                self.fetches.failed.inc();
                self.fetches.up.set(0);
                let retry = FIRST_RETRY.saturating_mul(1 << before.failures.min(5));
                let failed = State {
                    known: before.known.clone(),
                    due: Some(now + retry.min(LAST_RETRY).min(source.refresh)),
                    failures: before.failures.saturating_add(1),
                };
                self.report(&problem, &failed, source);
                failed
            }
        };
        self.state.store(Arc::new(state));
        let since = now.duration_since(self.born).as_millis();
        let since = u64::try_from(since).unwrap_or(u64::MAX - 1);
        self.last.store(since + 1, Ordering::Release);
        drop(asking);
        self.over.send_modify(|count| *count += 1);
    }

    fn report(&self, problem: &FetchFailure, state: &State, source: &JwksSource) {
        let known = state.known.as_ref();
        let until = known.and_then(|known| known.fresh_until.checked_add(source.stale));
        if until.is_some_and(|until| self.clock.now() < until) {
            warn!(jwks = &*self.name, error:% = problem; "JWK set not fetched, still using the old keys");
        } else {
            error!(jwks = &*self.name, error:% = problem; "JWK set not fetched, no token can be verified");
        }
    }

    async fn fetch(&self, source: &JwksSource) -> Result<(Arc<KeySet>, Duration), FetchFailure> {
        let mut request = Request::new(());
        *request.uri_mut() = source.url.clone();
        request.headers_mut().insert(header::ACCEPT, ACCEPT);
        let response = source
            .fetch
            .send(request, source.deadline, MAX_SET_LEN)
            .await?;
        if response.status() != StatusCode::OK {
            return Err(FetchFailure::Status(response.status()));
        }
        let age = max_age(response.headers())
            .map_or(source.refresh, |age| age.max(MIN_AGE).min(source.refresh));
        Ok((self.read(response.into_body())?, age))
    }

    /// Parses a document; returns the current set if the document is unchanged.
    fn read(&self, document: Bytes) -> Result<Arc<KeySet>, FetchFailure> {
        let before = self.state.load();
        if let Some(known) = &before.known
            && known.keys.document == document
        {
            return Ok(Arc::clone(&known.keys));
        }
        let keys = keys::set(&document, SecretKeys::Refused, |kid, why| {
            info!(jwks = &*self.name, kid, reason = why; "key of the JWK set left out");
        })?;
        if keys.is_empty() {
            return Err(FetchFailure::NoKey);
        }
        let generation = before
            .known
            .as_ref()
            .map_or(0, |known| known.keys.generation + 1);
        Ok(Arc::new(KeySet {
            keys: keys.into(),
            generation,
            document,
        }))
    }
}

impl Drop for Jwks {
    fn drop(&mut self) {
        FetchMetrics::forget(&self.metrics, &self.name);
    }
}

impl Zone for Jwks {
    /// Exports the keys, so that the successor verifies tokens from its first request.
    fn export(&self) -> Option<Value> {
        let state = self.state.load();
        let known = state.known.as_ref()?;
        let until = known.fresh_until_wall.duration_since(UNIX_EPOCH).ok()?;
        Some(json!({
            "document": std::str::from_utf8(&known.keys.document).ok()?,
            "fresh_until": until.as_secs(),
        }))
    }

    fn import(&self, exported: &Value) {
        let (Some(document), Some(until)) = (
            exported.get("document").and_then(Value::as_str),
            exported.get("fresh_until").and_then(Value::as_u64),
        ) else {
            return;
        };
        let Some(until) = UNIX_EPOCH.checked_add(Duration::from_secs(until)) else {
            return;
        };
        // Expired keys are stale from now on.
        let rest = until.duration_since(self.clock.wall()).unwrap_or_default();
        let now = self.clock.now();
        if let Ok(keys) = self.read(Bytes::copy_from_slice(document.as_bytes())) {
            self.state.store(Arc::new(State {
                known: Some(FetchedKeys {
                    keys,
                    fresh_until: now + rest,
                    fresh_until_wall: until,
                }),
                due: None,
                failures: 0,
            }));
        }
    }
}

/// A fetch in flight; ends also if the fetch is cancelled.
struct FetchInFlight<'a>(&'a Jwks);

impl<'a> FetchInFlight<'a> {
    fn begin(jwks: &'a Jwks) -> Self {
        jwks.is_asking.store(true, Ordering::Release);
        Self(jwks)
    }
}

impl Drop for FetchInFlight<'_> {
    fn drop(&mut self) {
        self.0.is_asking.store(false, Ordering::Release);
    }
}

/// Reason why a fetch returned no keys.
#[derive(Debug, thiserror::Error)]
enum FetchFailure {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("the response status is {0}")]
    Status(StatusCode),
    #[error("{0}")]
    Document(#[from] InvalidValue),
    #[error("no key in the response can be used")]
    NoKey,
}

/// Returns the `max-age` of a response (RFC 9111, 5.2.2.1). Names of directives ignore case, and
/// an argument may be quoted (RFC 9111, 5.2).
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    list_of(headers, &header::CACHE_CONTROL).find_map(|member| {
        let (name, value) = member.split_at_checked("max-age=".len())?;
        if !name.eq_ignore_ascii_case(b"max-age=") {
            return None;
        }
        let digits = match value {
            [b'"', inner @ .., b'"'] => inner,
            value => value,
        };
        decimal(digits).map(Duration::from_secs)
    })
}
