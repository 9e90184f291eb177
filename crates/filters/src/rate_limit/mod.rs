//! Lets as many requests pass as the route's limits allow, and reports the state of the limits to
//! clients. The algorithm and the buckets are in `limits`.
//!
//! Limits keyed by identity are applied after the identity filters. A request that such a filter
//! refuses for lack of an identity is counted under its other keys, so that guessing tokens does
//! not bypass a limit.

mod config;
mod guard;
mod remote;
mod reply;
#[cfg(test)]
mod tests;

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use edgeway_base::clock::Clock;
use edgeway_core::{
    chain::{
        AsyncFilter, AuditNote, BoxFuture, Exchange, Filter, Guard, Phases, Reply, Traits, Verdict,
    },
    limits::{
        gcra::{Decision, Quota},
        key::Key,
        limit::{Limit, LimitMatch},
        shared,
    },
};
use http::{StatusCode, response};

use self::guard::GuardLimits;

/// Reason of this filter's refusals.
const REASON: &str = "rate_limit";

/// The compiled filter.
#[derive(Debug)]
pub struct RateLimit {
    /// All limits of the route, those without an identity first.
    charges: Arc<[Charge]>,
    /// Number of limits at the start of the list that need no identity.
    early: usize,
    clock: Clock,
}

/// A limit, and the cost of a request of this route.
#[derive(Clone, Debug)]
struct Charge {
    limit: Arc<Limit>,
    cost: u32,
}

impl Charge {
    /// Returns true if the limit may delay a request, or is in Redis.
    fn waits(&self) -> bool {
        !self.limit.max_delay.is_zero() || self.limit.remote.is_some()
    }
}

/// Units that one request has taken so far.
#[derive(Default)]
struct TakenUnits {
    list: Vec<LimitDecision>,
    /// True once the limits keyed by identity have been applied.
    is_authorized: bool,
    /// True once an identity filter has refused the request.
    is_guess: bool,
}

/// Decision of one limit.
#[derive(Clone)]
struct LimitDecision {
    charge: Charge,
    tier: usize,
    key: Key,
    store: Store,
    remaining: u32,
    reset: Duration,
    wait: Duration,
    /// True once the metrics include it.
    is_counted: bool,
}

/// Store from which units were taken.
#[derive(Clone, Copy)]
enum Store {
    /// The time, and the quota of the bucket.
    Memory(Instant, Quota),
    Redis(shared::CapacitySource),
    /// Nothing was taken.
    None,
}

/// Result of a round: all limits let the request pass, or one does not.
enum Outcome {
    /// Pass after this delay; zero if there is none.
    Pass(Duration),
    /// Refuse; the takes must still be returned to Redis.
    Refuse(Box<Reply>, Vec<LimitDecision>),
}

filter_kind!(RateLimit: config::RateLimitConfig = "rate_limit");

impl Filter for RateLimit {
    fn traits(self: Arc<Self>) -> Traits {
        let waits = Charge::waits;
        let (early, late) = self.charges.split_at(self.early);
        let round_one = Phases::REQUEST.when(!early.is_empty());
        let round_two = (Phases::AUTHORIZED | Phases::ERROR).when(!late.is_empty());
        let early_waits = early.iter().any(waits);
        // Units taken in the first round may have to be returned to Redis in the second.
        let late_waits = early_waits || late.iter().any(waits);
        let waiting = round_one.when(early_waits) | round_two.when(late_waits);
        let headers = Phases::RESPONSE.when(self.writes_headers());
        Traits {
            guard_alone: Some(Arc::new(GuardLimits(Arc::clone(&self)))),
            ..Traits::new(round_one | round_two | headers, Guard::Limit)
        }
        .waiting(waiting, self)
    }

    fn on_request(&self, ex: &mut Exchange<'_>) -> Verdict {
        self.apply_at_once(self.round_one(), ex).into()
    }

    fn on_authorized(&self, ex: &mut Exchange<'_>) -> Verdict {
        let outcome = self.apply_at_once(self.round_two(), ex);
        TakenUnits::get_or_insert(ex).is_authorized = true;
        outcome.into()
    }

    fn on_error(&self, ex: &mut Exchange<'_>, reply: &mut Reply) {
        if is_unknown(ex, reply)
            && let Outcome::Refuse(refusal, _) = self.apply_at_once(self.round_two(), ex)
        {
            replace(reply, *refusal, ex);
        }
    }

    fn on_response(&self, ex: &mut Exchange<'_>, head: &mut response::Parts) {
        if let Some(units) = ex.facts.slot::<TakenUnits>() {
            self.write_headers(&units.list, &mut head.headers);
        }
    }

    fn explain(&self, ex: &Exchange<'_>) -> Vec<String> {
        let charges = self.charges.iter().enumerate();
        charges
            .map(|(index, charge)| charge.explain(ex, index < self.early))
            .collect()
    }
}

impl AsyncFilter for RateLimit {
    fn on_request_async<'a>(&'a self, ex: &'a mut Exchange<'_>) -> BoxFuture<'a, Verdict> {
        Box::pin(self.apply_waiting(self.round_one(), ex))
    }

    fn on_authorized_async<'a>(&'a self, ex: &'a mut Exchange<'_>) -> BoxFuture<'a, Verdict> {
        Box::pin(async move {
            let verdict = self.apply_waiting(self.round_two(), ex).await;
            TakenUnits::get_or_insert(ex).is_authorized = true;
            verdict
        })
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

    /// Returns the limits that need no identity.
    fn round_one(&self) -> Range<usize> {
        0..self.early
    }

    /// Returns the limits keyed by identity.
    fn round_two(&self) -> Range<usize> {
        self.early..self.charges.len()
    }

    /// Applies the limits of a round, none of which is in Redis.
    fn apply_at_once(&self, round: Range<usize>, ex: &mut Exchange<'_>) -> Outcome {
        let outcome = self.apply(round, ex);
        if let Outcome::Pass(_) = outcome {
            Self::count(ex);
        }
        outcome
    }

    /// Counts the takes once all limits of a round have let the request pass: returned takes have
    /// not passed.
    fn count(ex: &mut Exchange<'_>) {
        let Some(units) = ex.facts.slot_mut::<TakenUnits>() else {
            return;
        };
        for take in units.list.iter_mut().filter(|take| !take.is_counted) {
            let counts = &take.charge.limit.counts;
            if take.wait.is_zero() {
                counts.passed.inc();
            } else {
                counts.delayed.inc();
            }
            take.is_counted = true;
        }
    }

    /// Applies the limits that are in memory; takes from all of them or from none.
    fn apply(&self, charges: Range<usize>, ex: &mut Exchange<'_>) -> Outcome {
        let now = self.clock.now();
        let mut longest = Duration::ZERO;
        for charge in &self.charges[charges] {
            if charge.limit.remote.is_some() {
                continue;
            }
            let Some(tier) = charge.tier_of(ex) else {
                continue;
            };
            match self.take(charge, tier, 1, (now, ex)) {
                Outcome::Pass(wait) => longest = longest.max(wait),
                refusal @ Outcome::Refuse(..) => return refusal,
            }
        }
        Outcome::Pass(longest)
    }

    /// Takes from a bucket in memory, which has the share of one of `gateways`.
    fn take(
        &self,
        charge: &Charge,
        number: usize,
        gateways: u32,
        (now, ex): (Instant, &mut Exchange<'_>),
    ) -> Outcome {
        let Charge { limit, cost } = charge;
        let tier = limit.tier(number);
        let key = limit.key(ex, tier);
        if charge.has_decided(key, ex) {
            return Outcome::Pass(Duration::ZERO);
        }
        let quota = match gateways {
            1 => tier.quota,
            _ => tier.quota.share(gateways, *cost),
        };
        let decision = limit.table.take(key, &quota, *cost, limit.max_delay, now);
        let take = LimitDecision::new(charge, number, key, Store::Memory(now, quota), &decision);
        self.settle(take, decision, ex)
    }

    /// Records a decision, and returns its effect on the request.
    fn settle(&self, take: LimitDecision, decision: Decision, ex: &mut Exchange<'_>) -> Outcome {
        let limit = Arc::clone(&take.charge.limit);
        let wait = match decision {
            Decision::Refuse { retry_after, .. } => {
                limit.counts.refused.inc();
                return self.refuse(ex, take, reply::refusal(limit.status, retry_after));
            }
            Decision::Pass { wait, .. } => wait,
        };
        if !wait.is_zero() {
            ex.facts.limit = Some(Arc::clone(&limit.name));
        }
        TakenUnits::get_or_insert(ex).list.push(take);
        Outcome::Pass(wait)
    }

    /// Refuses a request, and returns its takes: a request refused by one limit is charged by none.
    /// A guess stays charged, or this refusal would lift the limits that are to stop the next one.
    fn refuse(&self, ex: &mut Exchange<'_>, refusing: LimitDecision, reply: Reply) -> Outcome {
        ex.facts.limit = Some(Arc::clone(&refusing.charge.limit.name));
        let units = TakenUnits::get_or_insert(ex);
        let taken = std::mem::replace(&mut units.list, vec![refusing]);
        let returned = if units.is_guess { Vec::new() } else { taken };
        let now = self.clock.now();
        let mut elsewhere = Vec::new();
        for take in returned {
            let Charge { limit, cost } = &take.charge;
            match take.store {
                Store::Memory(at, quota) => {
                    limit.table.give_back(take.key, &quota, *cost, at, now);
                }
                Store::Redis(_) => elsewhere.push(take),
                Store::None => {}
            }
        }
        Outcome::Refuse(Box::new(reply), elsewhere)
    }
}

impl TakenUnits {
    fn get_or_insert<'f>(ex: &'f mut Exchange<'_>) -> &'f mut Self {
        if ex.facts.slot::<Self>().is_none() {
            ex.facts.put(Self::default());
        }
        ex.facts.slot_mut().expect("it was put just now")
    }
}

impl LimitDecision {
    fn new(charge: &Charge, tier: usize, key: Key, store: Store, decision: &Decision) -> Self {
        let (Decision::Pass {
            remaining, reset, ..
        }
        | Decision::Refuse {
            remaining, reset, ..
        }) = *decision;
        Self {
            charge: charge.clone(),
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

/// Returns true if an identity filter refuses, before the limits keyed by identity were applied.
fn is_unknown(ex: &mut Exchange<'_>, reply: &Reply) -> bool {
    let is_refused = reply.status == StatusCode::UNAUTHORIZED && reply.reason.is_some();
    let noted = ex.facts.noted.as_deref();
    let is_refused = is_refused || noted.is_some_and(AuditNote::is_of_identity);
    let units = TakenUnits::get_or_insert(ex);
    units.is_guess = is_refused && !units.is_authorized;
    units.is_guess
}

/// Replaces the reply of another filter, which is logged already, with a refusal of this filter.
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
    /// Returns the tier of a request that the limit counts; `None` if it does not count the request.
    fn tier_of(&self, ex: &Exchange<'_>) -> Option<usize> {
        let limit = &self.limit;
        match limit.applies(ex) {
            LimitMatch::Yes => Some(limit.tier_of(ex)),
            LimitMatch::OtherClass => None,
            LimitMatch::Exempt | LimitMatch::NoText => {
                limit.counts.exempt.inc();
                None
            }
        }
    }

    /// Returns true if the limit has decided about the request on another route, which led it here
    /// or guards it too: it counts once, and a refusal is over with its page.
    fn has_decided(&self, key: Key, ex: &mut Exchange<'_>) -> bool {
        let all = ex.facts.slots_of_all_routes::<TakenUnits>();
        let decision = all.flat_map(|units| &units.list).find(|take| {
            let Self { limit, cost } = &take.charge;
            Arc::ptr_eq(limit, &self.limit) && take.key == key && *cost >= self.cost
        });
        let Some(decision) = decision.cloned() else {
            return false;
        };
        TakenUnits::get_or_insert(ex).list.push(LimitDecision {
            // Only where it was taken is it given back.
            store: Store::None,
            is_counted: true,
            ..decision
        });
        true
    }

    fn explain(&self, ex: &Exchange<'_>, is_early: bool) -> String {
        let limit = &self.limit;
        let tier = limit.tier(limit.tier_of(ex));
        let name = &limit.name;
        match limit.applies(ex) {
            LimitMatch::Yes => {}
            LimitMatch::OtherClass => {
                return format!("{name}: does not count the class {}", ex.facts.class.name());
            }
            LimitMatch::Exempt => return format!("{name}: {} is exempt", ex.facts.client.ip),
            LimitMatch::NoText => return format!("{name}: does not count an empty `by`"),
        }
        let by = match (limit.text(ex), limit.keys.chosen(ex)) {
            (Some(text), _) => format!("`{text}`"),
            (None, Some(item)) => item.to_string(),
            (None, None) => format!("client.ip, in the absence of {}", limit.keys),
        };
        let mut text = format!("{name}: {} by {by}, burst {}", tier.rate, tier.quota.burst);
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
            text.push_str(", after authentication");
        }
        text
    }
}
