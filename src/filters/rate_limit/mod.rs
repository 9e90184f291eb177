//! Lets as many requests pass as the route's limits allow, and tells clients where they
//! stand. The rule and the buckets are those of `limits`.
//!
//! Limits that go by who asks are applied once identity filters have found that out. A
//! request that one of those refuses for want of an identity is counted under what else is
//! known of it, so that guessing tokens is no way round a limit.

mod answer;
mod beside;
mod config;
mod remote;
#[cfg(test)]
mod tests;

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{StatusCode, response};

use self::beside::Beside;
use crate::{
    base::clock::Clock,
    chain::{BoxFuture, CompileCx, Exchange, Filter, FilterKind, Guard, Phases, Reply, Verdict},
    limits::{
        gcra::Decision,
        key::Key,
        limit::{Applies, Limit},
        shared,
    },
};

/// The fixed word of its refusals.
const REASON: &str = "rate_limit";

/// The compiled filter.
#[derive(Debug)]
pub struct RateLimit {
    /// All of the route's.
    charges: Arc<[Charge]>,
    /// So many, from the first on, need not know who asks.
    early: usize,
    clock: Clock,
}

/// A limit, and what a request of this route takes there.
#[derive(Debug)]
struct Charge {
    limit: Arc<Limit>,
    cost: u32,
}

impl Charge {
    /// It may hold a request back, or asks Redis.
    fn waits(&self) -> bool {
        !self.limit.max_delay.is_zero() || self.limit.remote.is_some()
    }
}

/// What one request has taken so far.
#[derive(Default)]
struct Taken {
    list: Vec<Take>,
    /// Limits that go by who asks have been applied.
    is_authorized: bool,
}

/// What one limit said.
struct Take {
    charge: usize,
    tier: usize,
    key: Key,
    store: Store,
    remaining: u32,
    reset: Duration,
    wait: Duration,
    /// Metrics tell of it.
    is_counted: bool,
}

/// Where something was taken, and when.
#[derive(Clone, Copy)]
enum Store {
    Memory(Instant),
    Redis(shared::Taken),
    /// Nothing was taken.
    None,
}

/// All limits let the request pass, or one does not.
enum Outcome {
    /// After this time; zero if nobody is held back.
    Pass(Duration),
    /// With what is still to be given back to Redis.
    Refuse(Box<Reply>, Vec<Take>),
}

impl FilterKind for RateLimit {
    const NAME: &'static str = "rate_limit";
    type Config = config::RateLimitConfig;
    type Filter = Self;

    fn compile(config: config::RateLimitConfig, cx: &mut CompileCx<'_>) -> Option<Self> {
        config.compile(cx)
    }
}

impl Filter for RateLimit {
    fn phases(&self) -> Phases {
        let waits = Charge::waits;
        let (early, late) = self.charges.split_at(self.early);
        let round = |phase: Phases, charges: &[Charge], waits: bool| match charges {
            [] => Phases::NONE,
            _ if waits => phase.asynchronous(),
            _ => phase,
        };
        let early_waits = early.iter().any(waits);
        // What the first round took may have to go back to Redis in the second.
        let late_waits = early_waits || late.iter().any(waits);
        let mut phases = round(Phases::REQUEST, early, early_waits)
            | round(Phases::AUTHORIZED, late, late_waits)
            | round(Phases::ERROR, late, late_waits);
        if self.tells() {
            phases = phases | Phases::RESPONSE;
        }
        phases
    }

    fn guard(&self) -> Guard {
        Guard::Limit
    }

    fn guard_alone(&self) -> Option<Arc<dyn Filter>> {
        Some(Arc::new(Beside::new(self)))
    }

    fn on_request(&self, ex: &mut Exchange<'_>) -> Verdict {
        self.apply_at_once(self.round_one(), ex).into()
    }

    fn on_request_async<'a>(&'a self, ex: &'a mut Exchange<'_>) -> BoxFuture<'a, Verdict> {
        Box::pin(self.apply_waiting(self.round_one(), ex))
    }

    fn on_authorized(&self, ex: &mut Exchange<'_>) -> Verdict {
        let outcome = self.apply_at_once(self.round_two(), ex);
        Taken::of(ex).is_authorized = true;
        outcome.into()
    }

    fn on_authorized_async<'a>(&'a self, ex: &'a mut Exchange<'_>) -> BoxFuture<'a, Verdict> {
        Box::pin(async move {
            let verdict = self.apply_waiting(self.round_two(), ex).await;
            Taken::of(ex).is_authorized = true;
            verdict
        })
    }

    fn on_error(&self, ex: &mut Exchange<'_>, reply: &mut Reply) {
        if is_unknown(ex, reply)
            && let Outcome::Refuse(refusal, _) = self.apply_at_once(self.round_two(), ex)
        {
            replace(reply, *refusal, ex);
        }
    }

    fn on_error_async<'a>(
        &'a self,
        ex: &'a mut Exchange<'_>,
        reply: &'a mut Reply,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if is_unknown(ex, reply)
                && let Verdict::Reply(refusal) = self.apply_waiting(self.round_two(), ex).await
            {
                replace(reply, *refusal, ex);
            }
        })
    }

    fn on_response(&self, ex: &mut Exchange<'_>, head: &mut response::Parts) {
        if let Some(taken) = ex.facts.slot::<Taken>() {
            self.tell(&taken.list, &mut head.headers);
        }
    }

    fn explain(&self, ex: &Exchange<'_>) -> Vec<String> {
        let charges = self.charges.iter().enumerate();
        charges
            .map(|(index, charge)| charge.explain(ex, index < self.early))
            .collect()
    }
}

impl RateLimit {
    fn new(charges: Vec<Charge>, clock: &Clock) -> Self {
        let (mut early, late): (Vec<_>, Vec<_>) = charges
            .into_iter()
            .partition(|charge| !charge.limit.needs_identity());
        let count = early.len();
        early.extend(late);
        Self {
            charges: early.into(),
            early: count,
            clock: clock.clone(),
        }
    }

    /// The limits that need not know who asks.
    fn round_one(&self) -> Range<usize> {
        0..self.early
    }

    /// The limits that go by who asks.
    fn round_two(&self) -> Range<usize> {
        self.early..self.charges.len()
    }

    /// Asks the limits of a round, none of which is in Redis.
    fn apply_at_once(&self, round: Range<usize>, ex: &mut Exchange<'_>) -> Outcome {
        let outcome = self.apply(round, ex);
        if let Outcome::Pass(_) = outcome {
            self.count(ex);
        }
        outcome
    }

    /// Counts what was taken, once all limits of a round have let the request pass: what was
    /// given back has not passed.
    fn count(&self, ex: &mut Exchange<'_>) {
        let Some(taken) = ex.facts.slot_mut::<Taken>() else {
            return;
        };
        for take in taken.list.iter_mut().filter(|take| !take.is_counted) {
            let counts = &self.charges[take.charge].limit.counts;
            if take.wait.is_zero() {
                counts.passed.inc();
            } else {
                counts.delayed.inc();
            }
            take.is_counted = true;
        }
    }

    /// Asks those of the limits that are in memory, and takes from all of them or from none.
    fn apply(&self, charges: Range<usize>, ex: &mut Exchange<'_>) -> Outcome {
        let now = self.clock.now();
        let mut longest = Duration::ZERO;
        for index in charges {
            if self.charges[index].limit.remote.is_some() {
                continue;
            }
            let Some(tier) = self.tier_of(index, ex) else {
                continue;
            };
            match self.take(index, tier, now, ex) {
                Outcome::Pass(wait) => longest = longest.max(wait),
                refusal @ Outcome::Refuse(..) => return refusal,
            }
        }
        Outcome::Pass(longest)
    }

    /// The tier of a request that a limit counts; `None` if it does not.
    fn tier_of(&self, index: usize, ex: &Exchange<'_>) -> Option<usize> {
        let limit = &self.charges[index].limit;
        match limit.applies(ex) {
            Applies::Yes => Some(limit.tier_of(ex)),
            Applies::OtherClass => None,
            Applies::Exempt => {
                limit.counts.exempt.inc();
                None
            }
        }
    }

    /// Takes from a bucket in memory.
    fn take(&self, index: usize, number: usize, now: Instant, ex: &mut Exchange<'_>) -> Outcome {
        let Charge { limit, cost } = &self.charges[index];
        let tier = limit.tier(number);
        let key = limit.key(ex, tier);
        let decision = limit
            .table
            .take(key, &tier.quota, *cost, limit.max_delay, now);
        let take = Take::new(index, number, key, Store::Memory(now), &decision);
        self.settle(take, decision, ex)
    }

    /// What a decision means for the request.
    fn settle(&self, take: Take, decision: Decision, ex: &mut Exchange<'_>) -> Outcome {
        let limit = &self.charges[take.charge].limit;
        let wait = match decision {
            Decision::Refuse { retry_after, .. } => {
                limit.counts.refused.inc();
                return self.refuse(ex, take, answer::refusal(retry_after));
            }
            Decision::Pass { wait, .. } => wait,
        };
        if !wait.is_zero() {
            ex.facts.limit = Some(Arc::clone(&limit.name));
        }
        Taken::of(ex).list.push(take);
        Outcome::Pass(wait)
    }

    /// A request that is refused by one is charged by none.
    fn refuse(&self, ex: &mut Exchange<'_>, refusing: Take, reply: Reply) -> Outcome {
        ex.facts.limit = Some(Arc::clone(&self.charges[refusing.charge].limit.name));
        let taken = std::mem::replace(&mut Taken::of(ex).list, vec![refusing]);
        let now = self.clock.now();
        let mut elsewhere = Vec::new();
        for take in taken {
            let Charge { limit, cost } = &self.charges[take.charge];
            match take.store {
                Store::Memory(at) => {
                    let quota = &limit.tier(take.tier).quota;
                    limit.table.give_back(take.key, quota, *cost, at, now);
                }
                Store::Redis(_) => elsewhere.push(take),
                Store::None => {}
            }
        }
        Outcome::Refuse(Box::new(reply), elsewhere)
    }
}

impl Taken {
    fn of<'f>(ex: &'f mut Exchange<'_>) -> &'f mut Self {
        if ex.facts.slot::<Self>().is_none() {
            ex.facts.put(Self::default());
        }
        ex.facts.slot_mut().expect("it was put just now")
    }
}

impl Take {
    fn new(charge: usize, tier: usize, key: Key, store: Store, decision: &Decision) -> Self {
        let (Decision::Pass {
            remaining, reset, ..
        }
        | Decision::Refuse {
            remaining, reset, ..
        }) = *decision;
        Self {
            charge,
            tier,
            key,
            store,
            remaining,
            reset,
            wait: match decision {
                Decision::Pass { wait, .. } => *wait,
                Decision::Refuse { .. } => Duration::ZERO,
            },
            is_counted: false,
        }
    }
}

/// An identity filter refuses, before limits that go by who asks were applied.
fn is_unknown(ex: &Exchange<'_>, reply: &Reply) -> bool {
    let taken = ex.facts.slot::<Taken>();
    reply.status == StatusCode::UNAUTHORIZED && taken.is_none_or(|taken| !taken.is_authorized)
}

/// Puts a refusal of ours in the place of another's, which was told before.
fn replace(reply: &mut Reply, mut refusal: Reply, ex: &mut Exchange<'_>) {
    ex.facts.reason = refusal.reason;
    refusal.close |= reply.close;
    *reply = refusal;
}

impl From<Outcome> for Verdict {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Pass(_) => Self::Next,
            Outcome::Refuse(reply, _) => Self::Reply(reply),
        }
    }
}

impl Charge {
    fn explain(&self, ex: &Exchange<'_>, is_early: bool) -> String {
        let limit = &self.limit;
        let tier = limit.tier(limit.tier_of(ex));
        let name = &limit.name;
        match limit.applies(ex) {
            Applies::Yes => {}
            Applies::OtherClass => {
                return format!("{name}: does not count the class {}", ex.facts.class.name());
            }
            Applies::Exempt => return format!("{name}: {} is exempt", ex.facts.client.ip),
        }
        let by = match limit.keys.chosen(ex) {
            Some(item) => item.to_string(),
            None => format!("client.ip, for want of {}", limit.keys),
        };
        let mut text = format!(
            "{name}: {} by {by}, burst {}",
            tier.rate,
            tier.quota.burst()
        );
        if let Some(who) = &tier.who {
            text = format!("{text}, for {who}");
        }
        if self.cost > 1 {
            text = format!("{text}, at a cost of {}", self.cost);
        }
        if limit.remote.is_some() {
            text.push_str(", in Redis");
        }
        if !is_early {
            text.push_str(", once it is known who asks");
        }
        text
    }
}
