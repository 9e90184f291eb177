//! Buckets in Redis, shared by all gateways: the algorithm of [`super::gcra`] as a script, by the
//! clock of Redis.
//!
//! A bucket is one key, which expires when the bucket is full again. On a single Redis, one script
//! checks all buckets of a request and takes from all of them or from none. In a cluster the keys
//! are on different nodes: all are queried at the same time, and what was taken is given back if
//! one bucket refuses.

mod leased;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use edgeway_base::units::whole_nanos;
use edgeway_net::redis::{FromRedisValue, ParsingError, Redis, Script, Unavailable, Value};
use futures_util::future::join_all;

use super::{
    gcra::{self, Decision, Quota, Tat},
    key::Key,
    lease::Leases,
};

/// Maximum delay of a request; it also keeps sums exact in Redis.
const MAX_DELAY: Duration = Duration::from_hours(1);

/// The buckets in one Redis.
pub struct RedisBuckets {
    pub redis: Arc<Redis>,
    take: Script,
    give_back: Script,
}

/// Demand of a request on one bucket.
#[derive(Clone, Copy, Debug)]
pub struct Demand<'a> {
    /// Name of the limit, in clear in the bucket's key.
    pub limit: &'a str,
    /// Key made with [`super::key::Hashing::Shared`], including the tier if the limit has tiers:
    /// all that separates the buckets of a limit.
    pub key: Key,
    pub quota: &'a Quota,
    pub cost: u32,
    pub max_delay: Duration,
    /// Leases of this gateway, if the limit allows them.
    pub leases: Option<&'a Leases>,
}

/// Decision of one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketDecision {
    pub decision: Decision,
    /// Source of the capacity, for giving it back.
    pub taken: CapacitySource,
}

/// Source of taken capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapacitySource {
    /// Redis, at this time in microseconds since 1970 by its clock.
    FromRedis(u64),
    FromLease,
}

impl BucketDecision {
    pub fn passes(&self) -> bool {
        self.decision.passes()
    }
}

impl RedisBuckets {
    pub fn new(redis: Arc<Redis>) -> Self {
        Self {
            redis,
            take: Script::new(include_str!("take.lua")),
            give_back: Script::new(include_str!("give_back.lua")),
        }
    }

    /// Takes all of `demands` if every bucket lets them pass, otherwise nothing. The results are in
    /// the order of the demands.
    ///
    /// An error means that Redis did not respond in time: the demands may still have been taken,
    /// but never more.
    pub async fn take(
        &self,
        demands: &[Demand<'_>],
        now: Instant,
    ) -> Result<Vec<BucketDecision>, Unavailable> {
        if demands.iter().all(|demand| demand.leases.is_none()) {
            self.take_together(demands).await
        } else {
            self.take_ahead(demands, now).await
        }
    }

    /// Takes all demands from Redis.
    async fn take_together(
        &self,
        demands: &[Demand<'_>],
    ) -> Result<Vec<BucketDecision>, Unavailable> {
        if demands.is_empty() {
            return Ok(Vec::new());
        }
        if demands.len() < 2 || !self.redis.is_cluster() {
            return self.take_at_once(demands).await;
        }
        let single = demands.iter().map(std::slice::from_ref);
        let outcomes = join_all(single.map(|demand| self.take_at_once(demand))).await;
        let is_refused = |outcome: &Result<Vec<BucketDecision>, _>| {
            let has_passed =
                |outcomes: &Vec<BucketDecision>| outcomes.iter().all(BucketDecision::passes);
            !outcome.as_ref().is_ok_and(has_passed)
        };
        if outcomes.iter().any(is_refused) {
            let taken = demands.iter().zip(&outcomes);
            let taken = taken.filter(|(_, outcome)| !is_refused(outcome));
            let taken: Vec<_> = taken
                .filter_map(|(demand, outcome)| {
                    Some((*demand, outcome.as_ref().ok()?.first()?.taken))
                })
                .collect();
            self.give_back(&taken).await;
        }
        let outcomes: Result<Vec<Vec<BucketDecision>>, Unavailable> =
            outcomes.into_iter().collect();
        Ok(outcomes?.concat())
    }

    /// Gives capacity back to the source beside it, for a request that was refused elsewhere.
    /// Capacity that cannot be given back refills in time.
    pub async fn give_back(&self, taken: &[(Demand<'_>, CapacitySource)]) {
        let returned = taken.iter().filter_map(|(demand, taken)| match taken {
            CapacitySource::FromRedis(at) => Some((demand, *at)),
            CapacitySource::FromLease => {
                if let Some(leases) = demand.leases {
                    leases.put_back(demand.key, demand.cost);
                }
                None
            }
        });
        let returned = returned.map(|(demand, at)| async move {
            let (price, price_sub) = pair(demand.quota.price(demand.cost), demand.quota);
            let key = self.text(demand);
            let args = [u64::from(demand.quota.count), price, price_sub, at];
            let keys = [key.as_bytes()];
            self.redis.eval::<i64>(&self.give_back, &keys, &args).await
        });
        for outcome in join_all(returned).await {
            if let Err(error) = outcome {
                log::debug!(error:%; "tokens of a refused request not given back to a limit");
            }
        }
    }

    /// Takes from buckets on one node.
    async fn take_at_once(
        &self,
        demands: &[Demand<'_>],
    ) -> Result<Vec<BucketDecision>, Unavailable> {
        let texts: Vec<String> = demands.iter().map(|demand| self.text(demand)).collect();
        let keys: Vec<&[u8]> = texts.iter().map(String::as_bytes).collect();
        let mut args = Vec::with_capacity(demands.len() * 7);
        for demand in demands {
            let (quota, cost) = (demand.quota, demand.cost);
            // A cost above the burst never passes, whatever the delay.
            let delay = if cost <= quota.burst {
                demand.max_delay
            } else {
                Duration::ZERO
            };
            let (price, price_sub) = pair(quota.price(cost), quota);
            let (full, full_sub) = pair(quota.full(), quota);
            let room = quota.full() + quota.at(whole_nanos(delay.min(MAX_DELAY)));
            let (room, room_sub) = pair(room, quota);
            args.extend([
                u64::from(quota.count),
                price,
                price_sub,
                full,
                full_sub,
                room,
                room_sub,
            ]);
        }
        let result: ScriptResult = self.redis.eval(&self.take, &keys, &args).await?;
        if result.states.len() != demands.len() {
            return Err(Unavailable::Response);
        }
        let now = result.now;
        let outcomes = demands.iter().zip(result.states).map(|(demand, state)| {
            let (quota, max_delay) = (demand.quota, demand.max_delay.min(MAX_DELAY));
            let (decision, _) = gcra::decide(state, now * 1000, quota, demand.cost, max_delay);
            BucketDecision {
                decision,
                taken: CapacitySource::FromRedis(now),
            }
        });
        let outcomes: Vec<BucketDecision> = outcomes.collect();
        // The script and the algorithm agree, unless another program has written to the keys.
        if result.has_passed != outcomes.iter().all(BucketDecision::passes) {
            return Err(Unavailable::Response);
        }
        Ok(outcomes)
    }

    fn text(&self, demand: &Demand<'_>) -> String {
        let prefix = self.redis.prefix();
        let mut text = String::with_capacity(prefix.len() + demand.limit.len() + 32);
        text.push_str(prefix);
        text.push_str("limit:");
        text.push_str(demand.limit);
        text.push(':');
        URL_SAFE_NO_PAD.encode_string(demand.key.0.to_be_bytes(), &mut text);
        text
    }
}

/// Result of the script.
struct ScriptResult {
    has_passed: bool,
    /// Time in microseconds since 1970.
    now: u64,
    /// States of the buckets before the demands.
    states: Vec<Tat>,
}

impl FromRedisValue for ScriptResult {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let mut values = Vec::<Value>::from_redis_value(value)?.into_iter();
        let mut number = || u64::from_redis_value(values.next().unwrap_or(Value::Nil));
        let has_passed = number()? == 1;
        let (seconds, micros) = (number()?, number()?);
        let now = seconds
            .checked_mul(1_000_000)
            .and_then(|total| total.checked_add(micros))
            .filter(|now| now.checked_mul(1000).is_some())
            .ok_or_else(|| ParsingError::from("the time of redis is out of range".to_owned()))?;
        let states = values.map(|value| String::from_redis_value(value).map(|text| read(&text)));
        Ok(Self {
            has_passed,
            now,
            states: states.collect::<Result<_, _>>()?,
        })
    }
}

/// Parses a bucket as the scripts write it; any other format counts as full.
fn read(state: &str) -> Tat {
    let mut numbers = state.split(':').map(|number| {
        // Any larger number counts as the maximum, as in the scripts.
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| number.parse::<u64>().unwrap_or(u64::MAX))
    });
    let mut number = || numbers.next().flatten();
    let mut read = || {
        let (micros, nanos, fraction) = (number()?, number()?, number()?);
        Some(Tat {
            nanos: micros.saturating_mul(1000).saturating_add(nanos),
            fraction: fraction.try_into().unwrap_or(u32::MAX),
        })
    };
    read().unwrap_or_default()
}

/// Splits a time in Nths of a nanosecond as the scripts do: whole microseconds, and the rest.
fn pair(time: u128, quota: &Quota) -> (u64, u64) {
    let micro = quota.scale() * 1000;
    let saturated = |number: u128| u64::try_from(number).unwrap_or(u64::MAX);
    (saturated(time / micro), saturated(time % micro))
}

edgeway_base::opaque_debug!(RedisBuckets);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_reads_as_the_scripts_write_it() {
        let tat = |nanos, fraction| Tat { nanos, fraction };
        assert_eq!(
            read("1700000000000001:999:6"),
            tat(1_700_000_000_000_001_999, 6)
        );
        for other in ["", "x", "1:2", "1:-2:3", "1:2:+3"] {
            assert_eq!(read(other), Tat::default(), "{other}");
        }
        let far = tat(u64::MAX, 0);
        assert_eq!(read("99999999999999999:0:0"), far);
        assert_eq!(read(&format!("{}:0:0", "9".repeat(400))), far);
        assert_eq!(read("1:2:99999999999"), tat(1002, u32::MAX));
    }

    #[test]
    fn times_are_microseconds_and_a_remainder() {
        // 7 in 10 ms: one is 1,428,571 ns and 3/7.
        let quota = Quota::new(7, Duration::from_millis(10), 7).unwrap();
        assert_eq!(pair(quota.price(1), &quota), (1428, 571 * 7 + 3));
        assert_eq!(pair(quota.full(), &quota), (10_000, 0));
    }
}
