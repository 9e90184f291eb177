//! A compiled limit: the requests that it counts, their buckets, and their quotas.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{HeaderValue, StatusCode};

use super::{
    config::{HeadersConfig, LimitConfig, OnStoreError, StoreConfig, TierConfig},
    gcra::Quota,
    key::{CountedText, Hashing, Key, KeyList, Source},
    lease::Leases,
    memory::{BucketTable, MAX_CONFIGURED_KEYS, MIN_KEYS},
    shared::RedisBuckets,
};
use crate::{
    base::{
        metrics::IntCounter,
        net::CidrSet,
        units::{Rate, Span},
    },
    chain::{Class, CompileContext, Exchange},
    config::{
        diagnostic::{Place, Reporter},
        tree::{Key as Name, Spanned},
    },
};

/// The limits of a configuration by their names, and the names of those with problems.
#[derive(Debug, Default)]
pub struct Limits(pub HashMap<String, Arc<Limit>>, pub Vec<String>);

/// A compiled limit.
#[derive(Debug)]
pub struct Limit {
    pub name: Arc<str>,
    pub keys: KeyList,
    /// Text that requests are counted by in place of the keys.
    by: Option<Box<dyn CountedText>>,
    /// All tiers; the first is for requests that match no other.
    tiers: Vec<Tier>,
    /// Tier by value of a part of the request: the first part with a listed value decides.
    members: Vec<(Source, ByValue)>,
    /// Bit set of the classes that are counted.
    classes: u8,
    exempt: CidrSet,
    /// Maximum time for which a request may be delayed.
    pub max_delay: Duration,
    pub headers: HeadersConfig,
    /// Status of refusals.
    pub status: StatusCode,
    /// Buckets of this process; for a limit in Redis, used while Redis is unavailable.
    pub table: Arc<BucketTable>,
    /// Buckets in Redis, if the limit uses them.
    pub remote: Option<SharedBuckets>,
    pub counts: LimitCounts,
    is_used: AtomicBool,
}

type ByValue = HashMap<Box<[u8]>, usize>;

/// A quota, and the value that separates its buckets from those of other tiers.
#[derive(Clone, Debug)]
pub struct Tier {
    pub quota: Quota,
    /// Rate as configured, for humans to read.
    pub rate: Rate,
    /// Condition for the tier, such as `jwt.role=admin`; `None` for the default tier.
    pub who: Option<Box<str>>,
    /// Item of `RateLimit-Policy`.
    pub policy: HeaderValue,
}

/// Buckets that gateways share.
#[derive(Debug)]
pub struct SharedBuckets {
    pub shared: Arc<RedisBuckets>,
    /// Leases, if capacity is taken in advance.
    pub leases: Option<Arc<Leases>>,
    pub on_error: OnStoreError,
    /// Requests for which Redis was unavailable.
    pub lost: IntCounter,
}

/// Result of the check if a limit counts a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitMatch {
    Yes,
    /// The client's address is exempt.
    Exempt,
    /// The text that the limit counts by is empty.
    NoText,
    /// The request's class is not counted.
    OtherClass,
}

edgeway_base::metric_handles! {
    /// Counts of requests by outcome.
    #[derive(Debug)]
    pub struct LimitCounts(limit) {
        pub passed { action: "passed" },
        pub delayed { action: "delayed" },
        pub refused { action: "refused" },
        pub exempt { action: "exempt" }: IntCounter = "edgeway_rate_limit_total",
            "Requests that a rate limit counted, delayed or refused, or that are exempt.";
    }
}

/// Maximum delay: beyond it a client does better to retry.
const MAX_DELAY: Duration = Duration::from_mins(1);

impl Limit {
    /// Checks if this request is counted.
    pub fn applies(&self, ex: &Exchange<'_>) -> LimitMatch {
        if self.classes & bit(ex.facts.class) == 0 {
            return LimitMatch::OtherClass;
        }
        if !self.exempt.is_empty() && self.exempt.contains(ex.facts.client.ip) {
            return LimitMatch::Exempt;
        }
        match self.text(ex) {
            Some(text) if text.is_empty() => LimitMatch::NoText,
            Some(_) | None => LimitMatch::Yes,
        }
    }

    /// Returns the index of the request's tier.
    pub fn tier_of(&self, ex: &Exchange<'_>) -> usize {
        self.members
            .iter()
            .find_map(|(source, tiers)| tiers.get(&*source.value(ex)?))
            .copied()
            .unwrap_or_default()
    }

    /// Returns a tier by the index from [`Self::tier_of`].
    pub fn tier(&self, index: usize) -> &Tier {
        &self.tiers[index]
    }

    /// Returns the key of the request's bucket in this process. Each tier has its own buckets.
    pub fn key(&self, ex: &Exchange<'_>, tier: &Tier) -> Key {
        self.key_by(self.table.hashing(), ex, tier)
    }

    /// Returns the key of the request's bucket in Redis.
    pub fn shared_key(&self, ex: &Exchange<'_>, tier: &Tier) -> Key {
        self.key_by(Hashing::Shared, ex, tier)
    }

    fn key_by(&self, hashing: Hashing, ex: &Exchange<'_>, tier: &Tier) -> Key {
        let mut hasher = hashing.begin();
        if let Some(who) = &tier.who {
            hasher.part(b't', who.as_bytes());
        }
        if let Some(text) = self.text(ex) {
            hasher.part(b'v', text.as_bytes());
            return hasher.finish();
        }
        self.keys.resolve_after(hasher, ex)
    }

    /// Returns the text that a request is counted by in place of the keys.
    pub fn text(&self, ex: &Exchange<'_>) -> Option<String> {
        let mut text = String::new();
        self.by.as_ref()?.write(ex, &mut text);
        Some(text)
    }

    /// Returns true if the limit depends on the client's identity.
    pub fn needs_identity(&self) -> bool {
        let mut sources = self.members.iter().map(|(source, _)| source);
        self.keys.needs_identity()
            || sources.any(Source::needs_identity)
            || self.by.as_ref().is_some_and(|by| by.needs_identity())
    }

    /// Returns the smallest burst of all tiers: no request may cost more.
    pub fn smallest_burst(&self) -> u32 {
        let bursts = self.tiers.iter().map(|tier| tier.quota.burst);
        bursts.fold(u32::MAX, u32::min)
    }

    /// Records that a route uses the limit.
    pub fn mark_used(&self) {
        self.is_used.store(true, Ordering::Relaxed);
    }

    pub fn is_used(&self) -> bool {
        self.is_used.load(Ordering::Relaxed)
    }
}

fn bit(class: Class) -> u8 {
    1 << class as u8
}

impl LimitConfig {
    /// Checks and compiles the limit; `None` means that a problem was reported. `has_redis` is true
    /// if there is a section `redis`, even an invalid one, and `has_open_route` if a route takes any
    /// host.
    pub fn compile(
        self,
        name: &Name,
        by: Option<Box<dyn CountedText>>,
        (has_redis, has_open_route): (bool, bool),
        cx: &mut CompileContext<'_>,
    ) -> Option<Limit> {
        let mut check = LimitCheck {
            name: &name.name,
            has_open_route,
            is_good: true,
            cx,
        };
        check.name(name.place);
        check.key_beside(&self);
        check.delay(&self.delay);
        check.max_keys(&self.max_keys);
        check.store(&self, has_redis);
        let default_tier = TierConfig {
            rate: self.rate.value,
            burst: self.burst.as_ref().map(|burst| burst.value),
        };
        let place = self.burst.as_ref().map_or(self.rate.place, |b| b.place);
        let mut all: Vec<_> = check.tier(default_tier, None, place).into_iter().collect();
        let mut members = Vec::new();
        for (source, tiers) in self.tiers.0 {
            check.has_texts(&source);
            let mut by_value = ByValue::new();
            for (value, config) in tiers.0 {
                let who = Some((&source, value.as_str()));
                if let Some(tier) = check.tier(config, who, self.rate.place) {
                    if let Some(base) = all.first() {
                        check.raises(&source, &value, base, &tier);
                    }
                    // Hosts are compared in lower case.
                    let value = if matches!(source, Source::Host) {
                        value.to_ascii_lowercase()
                    } else {
                        value
                    };
                    by_value.insert(value.into_bytes().into(), all.len());
                    all.push(tier);
                }
            }
            members.push((source, by_value));
        }
        if !check.is_good {
            return None;
        }
        let metrics = cx.metrics;
        let forgotten = metrics.counter(
            "edgeway_rate_limit_evictions_total",
            "Buckets that were reused for other keys before they were full again.",
            &[("limit", &name.name)],
        );
        let zone = format!("rate limit {}", name.name);
        let max_keys = self.max_keys.value;
        let make = || BucketTable::new(max_keys, cx.clock).counting(forgotten);
        let table = cx.zones.get_or_create(&zone, make);
        let serving = Arc::clone(&table);
        let fills = all.iter().map(|tier| tier.quota.fill());
        let longest = fills.max().unwrap_or_default() + self.delay.value.0;
        cx.work.add_alone(move || serving.resize(max_keys, longest));
        let remote = match self.store.value {
            StoreConfig::Memory => None,
            // Without a client the section `redis` has a problem, which is reported there.
            StoreConfig::Redis => {
                let shared = cx.shared.get::<RedisBuckets>()?;
                let lease = self.lease.as_ref();
                Some(SharedBuckets {
                    leases: lease.map(|lease| shared.leases(&name.name, lease.value, cx)),
                    shared,
                    on_error: self.on_store_error.map(|e| e.value).unwrap_or_default(),
                    lost: metrics.counter(
                        "edgeway_rate_limit_store_errors_total",
                        "Requests to which `on_store_error` applied because Redis did not respond.",
                        &[("limit", &name.name)],
                    ),
                })
            }
        };
        let classes = self.classes.0.iter().map(|class| bit(class.class()));
        Some(Limit {
            keys: self.key,
            by,
            tiers: all,
            members,
            classes: classes.reduce(|a, b| a | b).unwrap_or(u8::MAX),
            exempt: self.exempt.into_iter().collect(),
            max_delay: self.delay.value.0,
            headers: self.headers,
            status: StatusCode::from_u16(self.status).unwrap_or(StatusCode::TOO_MANY_REQUESTS),
            table,
            remote,
            counts: LimitCounts::new(metrics, &name.name),
            is_used: AtomicBool::new(false),
            name: name.name.as_str().into(),
        })
    }
}

/// A limit during its check.
struct LimitCheck<'a, 'c> {
    name: &'a str,
    has_open_route: bool,
    is_good: bool,
    cx: &'a mut CompileContext<'c>,
}

impl LimitCheck<'_, '_> {
    /// Returns what reports a problem. A value in a short form has no place of its own.
    fn at(&mut self, place: Place, code: &'static str) -> Reporter<'_> {
        self.is_good = false;
        let is_short = place == Place::default();
        self.cx
            .at(if is_short { self.cx.place } else { place }, code)
    }

    /// Checks the name, which appears in headers, metrics and keys of Redis.
    fn name(&mut self, place: Place) {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
        let name = self.name;
        if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
            self.at(place, "edgeway::rate_limits::name").error(
                format!("invalid limit name `{}`", name.escape_debug()),
                "write up to 64 letters, digits, `_`, `-` and `.`, such as `login`",
            );
        }
    }

    /// Refuses a key that has no effect.
    fn key_beside(&mut self, config: &LimitConfig) {
        if let Some(by) = &config.by
            && config.key != KeyList::default()
        {
            self.at(by.place, "edgeway::rate_limits::key").error(
                "`by` replaces `key`, and both are there",
                "write one of them; a second limit may count by the other",
            );
        }
    }

    fn delay(&mut self, delay: &Spanned<Span>) {
        if delay.value.0 > MAX_DELAY {
            self.at(delay.place, "edgeway::rate_limits::delay").error(
                format!("`delay: {}` holds requests back for too long", delay.value),
                "write `1min` or less: refused clients can retry after `Retry-After`",
            );
        }
    }

    fn max_keys(&mut self, max_keys: &Spanned<usize>) {
        if !(MIN_KEYS..=MAX_CONFIGURED_KEYS).contains(&max_keys.value) {
            self.at(max_keys.place, "edgeway::rate_limits::max_keys")
                .error(
                    format!(
                        "`max_keys: {}` is not between {MIN_KEYS} and {MAX_CONFIGURED_KEYS}",
                        max_keys.value
                    ),
                    "a million keys take 27 MiB; remove it unless you count more clients",
                );
        }
    }

    fn store(&mut self, config: &LimitConfig, has_redis: bool) {
        const STORE: &str = "edgeway::rate_limits::store";
        if let Some(lease) = &config.lease
            && !(lease.value.0 > 0.0 && lease.value.0 <= 50.0)
        {
            self.at(lease.place, "edgeway::rate_limits::lease").error(
                format!("invalid share of a bucket `lease: {}`", lease.value),
                "write a share up to `50%`, such as `10%`; remove it for none",
            );
        }
        let name = self.name;
        if config.store.value == StoreConfig::Redis {
            if !has_redis {
                self.at(config.store.place, STORE).error(
                    format!("`{name}` is kept in Redis, which needs a `redis` section"),
                    "add `redis: { url: \"redis://127.0.0.1:6379\" }` to the file, or remove \
                     `store`",
                );
            }
            return;
        }
        let of_redis = [
            config
                .on_store_error
                .as_ref()
                .map(|e| ("on_store_error", e.place)),
            config.lease.as_ref().map(|lease| ("lease", lease.place)),
        ];
        for (key, place) in of_redis.into_iter().flatten() {
            self.at(place, STORE).error(
                format!("`{key}` is for limits in Redis, but `{name}` is kept in memory"),
                "add `store: redis`, or remove it",
            );
        }
    }

    fn tier(
        &mut self,
        config: TierConfig,
        who: Option<(&Source, &str)>,
        place: Place,
    ) -> Option<Tier> {
        let Rate { count, per } = config.rate;
        let burst = config.burst.unwrap_or(count);
        if burst == 0 {
            return self.at(place, "edgeway::rate_limits::burst").refuse(
                "with `burst: 0` no request would ever pass",
                "write how many may come at once, 1 at least; remove it to use the rate's count",
            );
        }
        let Some(quota) = Quota::new(count, per, burst) else {
            return self.at(place, "edgeway::rate_limits::rate").refuse(
                format!(
                    "at `{}` a bucket of {burst} takes more than a hundred years to fill",
                    config.rate
                ),
                "write a faster rate, or a smaller `burst`",
            );
        };
        Some(Tier {
            // An invalid name may have any characters.
            policy: HeaderValue::try_from(policy(self.name, &quota)).ok()?,
            quota,
            rate: config.rate,
            who: who.map(|(source, value)| format!("{source}={value}").into()),
        })
    }

    /// Refuses addresses as tiers: they are not compared by text.
    fn has_texts(&mut self, source: &Source) {
        if let Source::ClientIp | Source::ClientNetwork = source {
            let message = format!("`{source}` of `{}` cannot have tiers", self.name);
            self.at(Place::default(), "edgeway::rate_limits::tiers").error(
                message,
                "write `exempt` for networks that are not counted, or a separate limit for a route \
                 that only they can reach",
            );
        }
    }

    /// Warns if a client can choose the value that gives it a higher rate.
    fn raises(&mut self, source: &Source, value: &str, base: &Tier, tier: &Tier) {
        if source.is_claimed_by_client(self.has_open_route)
            && tier.quota.allows_more_than(&base.quota)
        {
            self.cx.here("edgeway::rate_limits::open_tier").warn(
                format!(
                    "any client can send `{value}` as `{source}` and get {} instead of {}",
                    tier.rate, base.rate
                ),
                if matches!(source, Source::Host) {
                    "write `match: { host }` on every route, so that each value is a site of yours"
                } else {
                    "use a verified value, such as `jwt.role` or `api_key`; or have a proxy in \
                     front remove the client's value"
                },
            );
        }
    }
}

/// Formats a quota for clients, as in `draft-ietf-httpapi-ratelimit-headers-10`.
fn policy(name: &str, quota: &Quota) -> String {
    let (count, seconds) = quota.window();
    let policy = format!("\"{name}\";q={count};w={seconds}");
    if quota.burst == quota.count {
        policy
    } else {
        format!("{policy};burst={}", quota.burst)
    }
}
