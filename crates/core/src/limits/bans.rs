//! Bans of clients by address, each with a reason and an end, set by a rule or by an operator; and
//! the refusals that lead to a ban.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, UNIX_EPOCH},
};

use ahash::RandomState;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Address,
    strikes::{StrikeRule, Strikes},
};
use crate::{
    base::{clock::Clock, metrics::Metrics, units::whole_millis},
    zones::Zone,
};

/// Name of the zone. There is one for each process, whatever its configuration.
const NAME: &str = "bans";
/// Time that a handover takes at most, in milliseconds. A longer one is a change of the wall clock.
const HANDOVER: u64 = 300_000;

/// Maximum number of bans. Beyond it the ban that ends first is dropped.
const MAX_BANS: usize = 100_000;

/// Minimum and maximum duration of a ban: a longer one would be forgotten by its operator.
pub const MIN_DURATION: Duration = Duration::from_secs(1);
pub const MAX_DURATION: Duration = Duration::from_hours(366 * 24);

/// Number of shards, so that requests rarely contend for a lock while some clients are banned.
const SHARDS: usize = 64;

/// Origin of a ban.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BanOrigin {
    /// The rule of `flood_guard`.
    Rule,
    Operator,
}

/// A banned client. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    pub address: Address,
    /// Fixed reason of the last refusal, or the text of the operator.
    pub reason: String,
    pub by: BanOrigin,
    pub since: u64,
    pub until: u64,
    /// Number of refusals that led to the ban; zero if an operator set it.
    pub strikes: u32,
}

type Shard = RwLock<HashMap<Address, Arc<Ban>, RandomState>>;

/// All bans of the process, and the refusals that may lead to more.
pub struct Bans {
    clock: Clock,
    /// Start of the time in which ends are compared, unaffected by changes of the wall clock:
    /// milliseconds of the wall clock when this was created, plus the time passed since.
    began: Instant,
    began_at: u64,
    hash: RandomState,
    /// Invariant: the number of bans in all shards. A request reads nothing else while there is
    /// none.
    len: AtomicUsize,
    shards: [Shard; SHARDS],
    /// Ends of all bans, the earliest first. Locked by every change of a shard.
    ends: Mutex<BTreeSet<(u64, Address)>>,
    strikes: Strikes,
    metrics: BanMetrics,
}

edgeway_base::metric_handles! {
    struct BanMetrics() {
        now: IntGauge = "edgeway_bans", "Clients that are banned now.";
        by_rule { by: "rule" },
        by_operator { by: "operator" }: IntCounter = "edgeway_bans_total",
            "Bans that were set, by source: `rule` (the flood guard) or `operator`.";
    }
}

impl Bans {
    /// Returns the bans of the process.
    pub fn get(zones: &crate::zones::Zones, clock: &Clock, metrics: &Metrics) -> Arc<Self> {
        zones.get_or_create(NAME, || Self::new(clock, metrics))
    }

    pub(super) fn new(clock: &Clock, metrics: &Metrics) -> Self {
        let since = clock.wall().duration_since(UNIX_EPOCH);
        Self {
            clock: clock.clone(),
            began: clock.now(),
            began_at: whole_millis(since.unwrap_or_default()),
            hash: RandomState::new(),
            len: AtomicUsize::new(0),
            shards: std::array::from_fn(|_| Shard::default()),
            ends: Mutex::default(),
            strikes: Strikes::default(),
            metrics: BanMetrics::new(metrics),
        }
    }

    /// Returns the time left of a client's ban; `None` if the client is not banned.
    #[inline]
    pub fn left(&self, client: IpAddr) -> Option<Duration> {
        if self.len.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let address = client.into();
        let until = self.shard(address).read().get(&address)?.until;
        let left = until.checked_sub(self.now())?;
        (left > 0).then(|| Duration::from_millis(left))
    }

    /// Bans a client from now on. An operator's ban replaces an existing one; the rule does not
    /// shorten one.
    pub fn ban(
        &self,
        address: Address,
        reason: String,
        by: BanOrigin,
        lasts: Duration,
        strikes: u32,
    ) -> Arc<Ban> {
        let now = self.now();
        let mut ends = self.ends.lock();
        let mut until = now.saturating_add(whole_millis(lasts));
        if by == BanOrigin::Rule
            && let Some(known) = self.shard(address).read().get(&address)
        {
            until = until.max(known.until);
        }
        let ban = Arc::new(Ban {
            address,
            reason,
            by,
            since: now,
            until,
            strikes,
        });
        self.put(&mut ends, Arc::clone(&ban));
        self.forget_expired(&mut ends, now);
        drop(ends);
        self.strikes.forget(address);
        match by {
            BanOrigin::Rule => self.metrics.by_rule.inc(),
            BanOrigin::Operator => self.metrics.by_operator.inc(),
        }
        ban
    }

    /// Lifts the ban of a client and returns it, if there was one. Also forgets the client's
    /// refusals so far.
    pub fn lift(&self, address: Address) -> Option<Arc<Ban>> {
        self.strikes.forget(address);
        let now = self.now();
        let mut ends = self.ends.lock();
        let ban = self.take(&mut ends, address);
        self.forget_expired(&mut ends, now);
        drop(ends);
        ban.filter(|ban| ban.until > now)
    }

    /// Counts a refusal of a client. Returns the ban, if the refusal led to one.
    pub fn strike(&self, client: IpAddr, reason: &str, rule: &StrikeRule) -> Option<Arc<Ban>> {
        // Requests in flight of a banned client are not counted.
        if self.left(client).is_some() {
            return None;
        }
        let address = client.into();
        let strikes = self.strikes.add(address, self.now(), rule)?;
        Some(self.ban(
            address,
            reason.to_owned(),
            BanOrigin::Rule,
            rule.lasts,
            strikes,
        ))
    }

    /// Returns all bans, the one that ends first at the front.
    pub fn list(&self) -> Vec<Arc<Ban>> {
        let now = self.now();
        let ends = self.ends.lock();
        let bans = ends.iter().filter(|(until, _)| *until > now);
        bans.filter_map(|(_, address)| self.shard(*address).read().get(address).cloned())
            .collect()
    }

    /// Forgets what has expired. Returns the number of banned clients, and of clients with
    /// refusals.
    pub fn counts(&self) -> (usize, usize) {
        let now = self.now();
        self.forget_expired(&mut self.ends.lock(), now);
        self.strikes.tidy(now);
        (self.len.load(Ordering::Relaxed), self.strikes.len())
    }

    fn now(&self) -> u64 {
        self.began_at + whole_millis(self.clock.now() - self.began)
    }

    fn shard(&self, address: Address) -> &Shard {
        let hash = self.hash.hash_one(address);
        &self.shards[usize::try_from(hash % SHARDS as u64).unwrap_or(0)]
    }

    fn put(&self, ends: &mut BTreeSet<(u64, Address)>, ban: Arc<Ban>) {
        let (address, until) = (ban.address, ban.until);
        let known = self.shard(address).write().insert(address, ban);
        if let Some(known) = known {
            ends.remove(&(known.until, address));
        }
        ends.insert((until, address));
        if ends.len() > MAX_BANS
            && let Some((_, first)) = ends.first().copied()
        {
            self.take(ends, first);
        }
        self.count(ends);
    }

    fn take(&self, ends: &mut BTreeSet<(u64, Address)>, address: Address) -> Option<Arc<Ban>> {
        let ban = self.shard(address).write().remove(&address)?;
        ends.remove(&(ban.until, address));
        self.count(ends);
        Some(ban)
    }

    fn forget_expired(&self, ends: &mut BTreeSet<(u64, Address)>, now: u64) {
        while let Some((until, address)) = ends.first().copied()
            && until <= now
        {
            self.take(ends, address);
        }
    }

    fn count(&self, ends: &BTreeSet<(u64, Address)>) {
        self.len.store(ends.len(), Ordering::Relaxed);
        self.metrics
            .now
            .set(i64::try_from(ends.len()).unwrap_or(i64::MAX));
    }
}

impl Zone for Bans {
    fn export(&self) -> Option<Value> {
        let bans = self.list();
        if bans.is_empty() {
            return None;
        }
        let bans = bans.iter().map(|ban| serde_json::to_value(&**ban));
        let bans = bans.collect::<Result<Vec<_>, _>>().ok()?;
        Some(json!({ "now": self.now(), "bans": bans }))
    }

    fn import(&self, exported: &Value) {
        let now = self.now();
        let mut ends = self.ends.lock();
        // The wall clock may have been set since the other process began. The time of a handover
        // counts.
        let then = exported.get("now").and_then(Value::as_u64).unwrap_or(now);
        let passed = now.checked_sub(then).filter(|passed| *passed < HANDOVER);
        let shifted = |at: u64| (at + now).saturating_sub(then + passed.unwrap_or_default());
        let bans = exported.get("bans").unwrap_or(exported).as_array();
        for ban in bans.into_iter().flatten() {
            if let Ok(mut ban) = Ban::deserialize(ban)
                && shifted(ban.until) > now
            {
                (ban.since, ban.until) = (shifted(ban.since), shifted(ban.until));
                self.put(&mut ends, Arc::new(ban));
            }
        }
    }
}

impl fmt::Debug for Bans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.list()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);
    const RULE: StrikeRule = StrikeRule {
        after: 2,
        within: MINUTE,
        lasts: MINUTE,
    };

    fn bans() -> (Bans, Clock) {
        let clock = Clock::test();
        (Bans::new(&clock, &Metrics::default()), clock)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn by_hand(bans: &Bans, text: &str, lasts: Duration) -> Arc<Ban> {
        bans.ban(
            ip(text).into(),
            "seen".to_owned(),
            BanOrigin::Operator,
            lasts,
            0,
        )
    }

    #[test]
    fn a_ban_ends_by_itself() {
        let (bans, clock) = bans();
        assert_eq!(bans.left(ip("192.0.2.1")), None);
        by_hand(&bans, "192.0.2.1", MINUTE);
        assert_eq!(bans.left(ip("192.0.2.1")), Some(MINUTE));
        assert_eq!(bans.left(ip("::ffff:192.0.2.1")), Some(MINUTE));
        assert_eq!(bans.left(ip("192.0.2.2")), None);
        clock.advance(Duration::from_secs(59));
        assert_eq!(bans.left(ip("192.0.2.1")), Some(Duration::from_secs(1)));
        clock.advance(Duration::from_secs(1));
        assert_eq!(bans.left(ip("192.0.2.1")), None);
        assert_eq!(bans.list(), []);
        assert_eq!(bans.counts(), (0, 0));
    }

    #[test]
    fn a_client_of_ipv6_cannot_move_within_its_network() {
        let (bans, _) = bans();
        by_hand(&bans, "2001:db8::1", MINUTE);
        assert_eq!(bans.left(ip("2001:db8::ffff:1")), Some(MINUTE));
        assert_eq!(bans.left(ip("2001:db8:0:1::1")), None);
    }

    #[test]
    fn refusals_become_a_ban_and_lifting_it_forgets_them() {
        let (bans, _) = bans();
        let client = ip("192.0.2.1");
        assert_eq!(bans.strike(client, "jwt", &RULE), None);
        assert_eq!(bans.counts(), (0, 1));
        let ban = bans.strike(client, "flood", &RULE).unwrap();
        assert_eq!(
            (ban.reason.as_str(), ban.strikes, ban.by),
            ("flood", 2, BanOrigin::Rule)
        );
        assert_eq!(bans.counts(), (1, 0));
        assert_eq!(bans.strike(client, "flood", &RULE), None);
        assert_eq!(bans.lift(client.into()), Some(ban));
        assert_eq!(bans.lift(client.into()), None);
        assert_eq!(bans.strike(client, "flood", &RULE), None);
        assert_eq!(bans.left(client), None);
    }

    #[test]
    fn an_operator_may_shorten_and_the_rule_may_not() {
        let (bans, _) = bans();
        by_hand(&bans, "192.0.2.1", 3 * MINUTE);
        let address = ip("192.0.2.1").into();
        bans.ban(address, "flood".to_owned(), BanOrigin::Rule, MINUTE, 2);
        assert_eq!(bans.left(address.ip()), Some(3 * MINUTE));
        by_hand(&bans, "192.0.2.1", MINUTE);
        assert_eq!(bans.left(address.ip()), Some(MINUTE));
        assert_eq!(bans.list().len(), 1);
    }

    #[test]
    fn the_ban_that_ends_first_makes_room() {
        let (bans, _) = bans();
        by_hand(&bans, "198.51.100.1", MINUTE);
        for number in 0..u32::try_from(MAX_BANS).unwrap() {
            let client = IpAddr::V4(number.into());
            bans.ban(
                client.into(),
                String::new(),
                BanOrigin::Operator,
                2 * MINUTE,
                0,
            );
        }
        assert_eq!(bans.counts().0, MAX_BANS);
        assert_eq!(bans.left(ip("198.51.100.1")), None);
        assert!(bans.left(ip("0.0.0.1")).is_some());
    }

    #[test]
    fn a_successor_bans_the_same_for_as_long() {
        let (old, clock) = bans();
        by_hand(&old, "192.0.2.1", MINUTE);
        by_hand(&old, "2001:db8::1", 2 * MINUTE);
        let mut exported = old.export().unwrap();
        let list = exported["bans"].as_array_mut().unwrap();
        list.push(json!({ "address": 1 }));
        clock.advance(MINUTE);
        let new = Bans::new(&clock, &Metrics::default());
        new.import(&exported);
        assert_eq!(new.left(ip("192.0.2.1")), None);
        assert_eq!(new.left(ip("2001:db8::7")), Some(MINUTE));
        assert_eq!(new.list(), old.list());
        // The wall clock was set by an hour.
        let hour = 3_600_000;
        for then in [new.now() + hour, new.now() - hour] {
            exported["now"] = json!(then);
            exported["bans"][1]["until"] = json!(then + 60_000);
            let other = Bans::new(&clock, &Metrics::default());
            other.import(&exported);
            assert_eq!(other.left(ip("2001:db8::7")), Some(MINUTE));
        }
        assert_eq!(Bans::new(&clock, &Metrics::default()).export(), None);
    }
}
