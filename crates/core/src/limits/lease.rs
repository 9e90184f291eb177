//! Leases: capacity that a gateway takes in advance from a bucket in Redis, for clients with
//! frequent requests, and spends by itself.
//!
//! A lease is charged in Redis when it is taken, so no capacity is given twice. It may be spent a
//! little later than it was taken: in any span t at most burst + N·t/T + G·L requests pass, where G
//! gateways hold leases of L each; `tests` checks it over random schedules. Capacity that is not
//! spent within [`LEASE_DURATION`] is given back.
//!
//! Pure: time and the results of Redis come as arguments.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    gcra::{Decision, Quota},
    key::Key,
};
use crate::{base::units::Percent, zones::Zone};

/// Time for which a lease is held.
pub const LEASE_DURATION: Duration = Duration::from_secs(1);
/// Requests within a second above which a client gets leases.
const LEASE_THRESHOLD: u32 = 5;
const SECOND: Duration = Duration::from_secs(1);
const SHARDS: usize = 16;
/// Maximum of watched clients in each shard; requests of further clients always go to Redis.
const MAX_WATCHED: usize = 4096;

/// The leases of one limit in one gateway.
pub struct Leases {
    share: Percent,
    shards: [Mutex<HashMap<Key, RecentClient>>; SHARDS],
}

/// A client with recent requests.
#[derive(Clone, Copy, Debug)]
struct RecentClient {
    /// Number of requests since `since`.
    requests: u32,
    since: Instant,
    /// End of the time in which nothing is taken in advance, since the bucket had too little left.
    short_until: Option<Instant>,
    lease: Option<Lease>,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    tokens: u32,
    /// Time by the gateway's clock; `taken` is the same by that of Redis, in microseconds.
    at: Instant,
    taken: u64,
    quota: Quota,
    /// Rest of the bucket at that time, in Redis; `reset` likewise.
    remaining: u32,
    reset: Duration,
}

/// Decision on how to serve a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// The request passes with capacity from a lease.
    Spent(Decision),
    /// Redis decides; request `ahead` more than the cost.
    Ask { ahead: u32 },
}

/// Rest of a lease that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnspentLease {
    pub key: Key,
    pub quota: Quota,
    pub tokens: u32,
    /// Time at which the lease was taken, in microseconds by the clock of Redis.
    pub taken: u64,
}

impl Leases {
    /// Creates leases of this share of a bucket each, but at least for one request.
    pub fn new(share: Percent) -> Self {
        Self {
            share,
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }

    /// Returns the maximum capacity of one lease: L in the bound.
    pub fn size(&self, quota: &Quota) -> u32 {
        let size = f64::from(quota.burst) * self.share.0 / 100.0;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a u32, rounded down"
        )]
        let size = size as u32;
        size.clamp(1, quota.burst)
    }

    /// Spends from a lease, or returns what to request from Redis.
    pub fn plan(&self, key: Key, quota: &Quota, cost: u32, now: Instant) -> Plan {
        let mut shard = self.shard(key).lock();
        if shard.len() >= MAX_WATCHED && !shard.contains_key(&key) {
            return Plan::Ask { ahead: 0 };
        }
        let watched = shard.entry(key).or_insert(RecentClient {
            requests: 0,
            since: now,
            short_until: None,
            lease: None,
        });
        watched.count(now);
        if let Some(lease) = &mut watched.lease
            && lease.quota == *quota
            && lease.tokens >= cost
            && lease.age(now) < LEASE_DURATION
        {
            lease.tokens -= cost;
            return Plan::Spent(Decision::Pass {
                remaining: lease.remaining.saturating_add(lease.tokens),
                reset: lease.reset.saturating_sub(lease.age(now)),
                wait: Duration::ZERO,
            });
        }
        let is_short = watched.short_until.is_some_and(|until| now < until);
        // One lease at a time: the rest of this one is given back first.
        let ahead = if watched.requests > LEASE_THRESHOLD && !is_short && watched.lease.is_none() {
            self.size(quota)
        } else {
            0
        };
        Plan::Ask { ahead }
    }

    /// Stores `ahead` that Redis granted at `taken` with this decision. Returns it if it cannot be
    /// held because another request of this client was faster.
    pub fn keep(
        &self,
        key: Key,
        quota: &Quota,
        ahead: u32,
        (decision, taken): (Decision, u64),
        now: Instant,
    ) -> Option<UnspentLease> {
        let mut shard = self.shard(key).lock();
        let unspent = UnspentLease {
            key,
            quota: *quota,
            tokens: ahead,
            taken,
        };
        let Decision::Pass {
            remaining, reset, ..
        } = decision
        else {
            return None;
        };
        match shard.get_mut(&key) {
            Some(watched) if watched.lease.is_none() => {
                watched.lease = Some(Lease {
                    tokens: ahead,
                    at: now,
                    taken,
                    quota: *quota,
                    remaining,
                    reset,
                });
                None
            }
            _ => Some(unspent),
        }
    }

    /// Records that Redis could not grant that much: for a while nothing is taken in advance.
    pub fn is_short(&self, key: Key, now: Instant) {
        if let Some(watched) = self.shard(key).lock().get_mut(&key) {
            watched.short_until = Some(now + LEASE_DURATION);
        }
    }

    /// Returns `cost` to the lease, since another limit refused the request. If the lease is gone,
    /// the capacity is lost to the client until it refills.
    pub fn put_back(&self, key: Key, cost: u32) {
        if let Some(watched) = self.shard(key).lock().get_mut(&key)
            && let Some(lease) = &mut watched.lease
        {
            lease.tokens += cost;
        }
    }

    /// Ends leases that were held long enough and returns the rest of them. Forgets clients without
    /// recent requests.
    pub fn sweep(&self, now: Instant) -> Vec<UnspentLease> {
        let mut unspent = Vec::new();
        for shard in &self.shards {
            shard.lock().retain(|key, watched| {
                if let Some(lease) = watched.lease
                    && (lease.age(now) >= LEASE_DURATION || lease.tokens == 0)
                {
                    watched.lease = None;
                    unspent.extend((lease.tokens > 0).then_some(UnspentLease {
                        key: *key,
                        quota: lease.quota,
                        tokens: lease.tokens,
                        taken: lease.taken,
                    }));
                }
                let is_idle = now.saturating_duration_since(watched.since) > 2 * SECOND;
                watched.lease.is_some() || !is_idle
            });
        }
        unspent
    }

    fn shard(&self, key: Key) -> &Mutex<HashMap<Key, RecentClient>> {
        // The low bits of a hash.
        &self.shards[key.0 as usize % SHARDS]
    }
}

impl Zone for Leases {}

impl RecentClient {
    /// Counts requests of the last second and half of those before.
    fn count(&mut self, now: Instant) {
        if now.saturating_duration_since(self.since) > SECOND {
            self.requests /= 2;
            self.since = now;
        }
        self.requests = (self.requests + 1).min(4 * LEASE_THRESHOLD);
        if self.lease.is_some_and(|lease| lease.tokens == 0) {
            self.lease = None;
        }
    }
}

impl Lease {
    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.at)
    }
}

edgeway_base::opaque_debug!(Leases, share);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        base::clock::Clock,
        limits::gcra::{Tat, decide, give_back},
    };

    const KEY: Key = Key(7);

    /// A bucket in Redis, as the scripts store it.
    #[derive(Default)]
    struct Bucket(Tat);

    impl Bucket {
        fn take(&mut self, quota: &Quota, cost: u32, micros: u64) -> Decision {
            let (decision, after) = decide(self.0, micros * 1000, quota, cost, Duration::ZERO);
            if decision.passes() {
                self.0 = after;
            }
            decision
        }

        fn give_back(&mut self, unspent: &UnspentLease, micros: u64) {
            let UnspentLease {
                quota,
                tokens,
                taken,
                ..
            } = unspent;
            self.0 = give_back(self.0, taken * 1000, micros * 1000, quota, *tokens);
        }
    }

    /// Sends a request to a gateway: through a lease, or as `Shared::take` does.
    fn ask(leases: &Leases, bucket: &mut Bucket, quota: &Quota, now: Instant, micros: u64) -> bool {
        let ahead = match leases.plan(KEY, quota, 1, now) {
            Plan::Spent(_) => return true,
            Plan::Ask { ahead } => ahead,
        };
        if ahead > 0 {
            let decision = bucket.take(quota, 1 + ahead, micros);
            if decision.passes() {
                if let Some(unspent) = leases.keep(KEY, quota, ahead, (decision, micros), now) {
                    bucket.give_back(&unspent, micros);
                }
                return true;
            }
            leases.is_short(KEY, now);
        }
        bucket.take(quota, 1, micros).passes()
    }

    /// Returns the largest excess over burst + N·t/T in any span that begins and ends with a pass.
    fn overshoot(passes: &[u64], quota: &Quota) -> f64 {
        let per_micro = f64::from(quota.count) / quota.per().as_secs_f64() / 1e6;
        let mut most = f64::MIN;
        for (first, begin) in passes.iter().enumerate() {
            for (last, end) in passes.iter().enumerate().skip(first) {
                #[expect(clippy::cast_precision_loss, reason = "small numbers")]
                let (count, span) = ((last - first + 1) as f64, (end - begin) as f64);
                most = most.max(count - f64::from(quota.burst) - span * per_micro);
            }
        }
        most
    }

    #[derive(Clone, Debug)]
    struct Step {
        gateway: usize,
        wait: u64,
        /// True if the gateways' supervisors run before the step.
        sweeps: bool,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let wait = prop_oneof![
            8 => 0..20_000_u64,
            2 => 0..300_000_u64,
            1 => 0..3_000_000_u64,
        ];
        let step = (0..3_usize, wait, any::<bool>());
        let step = step.prop_map(|(gateway, wait, sweeps)| Step {
            gateway,
            wait,
            sweeps,
        });
        prop::collection::vec(step, 1..300)
    }

    proptest! {
        #[test]
        fn no_schedule_lets_more_pass_than_the_bound_allows(
            steps in steps(),
            (count, burst) in (1..200_u32, 1..60_u32),
            share in 1..=100_u32,
        ) {
            let quota = Quota::new(count, Duration::from_secs(10), burst).unwrap();
            let clock = Clock::test();
            let gateways: Vec<Leases> =
                (0..3).map(|_| Leases::new(Percent(share.into()))).collect();
            let mut bucket = Bucket::default();
            let (mut passes, mut micros) = (Vec::new(), 1_700_000_000_000_000);
            for Step { gateway, wait, sweeps } in steps {
                clock.advance(Duration::from_micros(wait));
                micros += wait;
                let now = clock.now();
                if sweeps {
                    for leases in &gateways {
                        for unspent in leases.sweep(now) {
                            bucket.give_back(&unspent, micros);
                        }
                    }
                }
                if ask(&gateways[gateway], &mut bucket, &quota, now, micros) {
                    passes.push(micros);
                }
            }
            let bound = 3 * gateways[0].size(&quota);
            let most = overshoot(&passes, &quota);
            prop_assert!(most <= f64::from(bound) + 1e-6, "{most} beyond, {bound} allowed");
        }
    }

    #[test]
    fn a_frequent_client_is_served_by_a_lease_and_a_rare_one_is_not() {
        let quota = Quota::new(1000, Duration::from_mins(1), 1000).unwrap();
        let (clock, leases, mut bucket) =
            (Clock::test(), Leases::new(Percent(10.0)), Bucket::default());
        let mut calls = 0;
        for number in 0..400 {
            clock.advance(Duration::from_millis(2));
            let before = bucket.0;
            assert!(ask(
                &leases,
                &mut bucket,
                &quota,
                clock.now(),
                1_000_000 + 2000 * number
            ));
            calls += u32::from(bucket.0 != before);
        }
        // Five single ones, then one call for each hundred.
        assert!((6..=10).contains(&calls), "{calls}");
        for number in 0..20 {
            clock.advance(Duration::from_millis(700));
            leases.sweep(clock.now());
            let now = 10_000_000 + 700_000 * number;
            let before = bucket.0;
            assert!(ask(&leases, &mut bucket, &quota, clock.now(), now));
            assert!(number < 8 || bucket.0 != before, "{number}");
        }
    }

    #[test]
    fn unspent_tokens_are_given_back() {
        let quota = Quota::new(10, Duration::from_hours(1), 100).unwrap();
        let (clock, leases, mut bucket) =
            (Clock::test(), Leases::new(Percent(50.0)), Bucket::default());
        for _ in 0..8 {
            assert!(ask(&leases, &mut bucket, &quota, clock.now(), 1_000_000));
        }
        // Six calls, the last with fifty in advance, of which two are spent.
        assert!(!bucket.take(&quota, 45, 1_000_000).passes());
        clock.advance(LEASE_DURATION);
        let unspent = leases.sweep(clock.now());
        assert_eq!(unspent.len(), 1);
        assert_eq!(unspent[0].tokens, 48);
        bucket.give_back(&unspent[0], 2_000_000);
        assert!(bucket.take(&quota, 92, 2_000_000).passes());
        assert_eq!(leases.sweep(clock.now()), []);
    }

    #[test]
    fn a_lease_is_a_share_of_the_bucket_and_never_nothing() {
        let size = |share, burst| {
            let quota = Quota::new(1, Duration::from_secs(1), burst).unwrap();
            Leases::new(Percent(share)).size(&quota)
        };
        assert_eq!(size(10.0, 100), 10);
        assert_eq!(size(10.0, 5), 1);
        assert_eq!(size(100.0, 5), 5);
    }
}
