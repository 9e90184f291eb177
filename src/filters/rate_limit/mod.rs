//! Lets as many requests pass as the route's limits allow, and tells clients where they
//! stand. The rule and the buckets are those of `limits`.
//!
//! Limits that go by who asks are applied once identity filters have found that out. A
//! request that one of those refuses for want of an identity is counted under what else is
//! known of it, so that guessing tokens is no way round a limit.

mod answer;
mod config;
#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{StatusCode, response};

use crate::{
    base::clock::Clock,
    chain::{BoxFuture, CompileCx, Exchange, Filter, FilterKind, Phases, Reply, Verdict},
    limits::{
        gcra::Decision,
        key::Key,
        limit::{Applies, Limit},
    },
};

/// The fixed word of its refusals.
const REASON: &str = "rate_limit";

/// The compiled filter.
#[derive(Debug)]
pub struct RateLimit {
    /// All of the route's.
    charges: Box<[Charge]>,
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
    at: Instant,
    remaining: u32,
    reset: Duration,
    wait: Duration,
}

/// All limits let the request pass, or one does not.
enum Outcome {
    /// After this time; zero if nobody is held back.
    Pass(Duration),
    Refuse(Box<Reply>),
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
        let round = |phase: Phases, charges: &[Charge]| {
            if charges.is_empty() {
                Phases::NONE
            } else if charges
                .iter()
                .any(|charge| !charge.limit.max_delay.is_zero())
            {
                phase.asynchronous()
            } else {
                phase
            }
        };
        let (early, late) = self.charges.split_at(self.early);
        let mut phases = round(Phases::REQUEST, early)
            | round(Phases::AUTHORIZED, late)
            | round(Phases::ERROR, late);
        if self.tells() {
            phases = phases | Phases::RESPONSE;
        }
        phases
    }

    fn on_request(&self, ex: &mut Exchange<'_>) -> Verdict {
        self.apply(0..self.early, ex).into()
    }

    fn on_request_async<'a>(&'a self, ex: &'a mut Exchange<'_>) -> BoxFuture<'a, Verdict> {
        let outcome = self.apply(0..self.early, ex);
        Box::pin(outcome.held_back())
    }

    fn on_authorized(&self, ex: &mut Exchange<'_>) -> Verdict {
        self.apply_late(ex).into()
    }

    fn on_authorized_async<'a>(&'a self, ex: &'a mut Exchange<'_>) -> BoxFuture<'a, Verdict> {
        let outcome = self.apply_late(ex);
        Box::pin(outcome.held_back())
    }

    fn on_error(&self, ex: &mut Exchange<'_>, reply: &mut Reply) {
        if let Outcome::Refuse(refusal) = self.apply_to_error(ex, reply) {
            *reply = *refusal;
        }
    }

    fn on_error_async<'a>(
        &'a self,
        ex: &'a mut Exchange<'_>,
        reply: &'a mut Reply,
    ) -> BoxFuture<'a, ()> {
        let outcome = self.apply_to_error(ex, reply);
        Box::pin(async move {
            if let Verdict::Reply(refusal) = outcome.held_back().await {
                *reply = *refusal;
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

    fn apply_late(&self, ex: &mut Exchange<'_>) -> Outcome {
        let outcome = self.apply(self.early..self.charges.len(), ex);
        match ex.facts.slot_mut::<Taken>() {
            Some(taken) => taken.is_authorized = true,
            None => ex.facts.put(Taken {
                list: Vec::new(),
                is_authorized: true,
            }),
        }
        outcome
    }

    /// Counts a request that an identity filter refuses before anybody knew who asks.
    fn apply_to_error(&self, ex: &mut Exchange<'_>, reply: &Reply) -> Outcome {
        let is_early = ex
            .facts
            .slot::<Taken>()
            .is_none_or(|taken| !taken.is_authorized);
        if reply.status != StatusCode::UNAUTHORIZED || !is_early {
            return Outcome::Pass(Duration::ZERO);
        }
        let mut outcome = self.apply_late(ex);
        if let Outcome::Refuse(refusal) = &mut outcome {
            // It was told before this filter was asked.
            ex.facts.reason = refusal.reason;
            refusal.close |= reply.close;
        }
        outcome
    }

    /// Asks some of the limits, and takes from all of them or from none.
    fn apply(&self, charges: std::ops::Range<usize>, ex: &mut Exchange<'_>) -> Outcome {
        let now = self.clock.now();
        let mut list = Vec::with_capacity(self.charges.len());
        let (mut longest, mut slowest) = (Duration::ZERO, None);
        for index in charges {
            let charge = &self.charges[index];
            let limit = &charge.limit;
            match limit.applies(ex) {
                Applies::Yes => {}
                Applies::OtherClass => continue,
                Applies::Exempt => {
                    limit.counts.exempt.inc();
                    continue;
                }
            }
            let number = limit.tier_of(ex);
            let tier = limit.tier(number);
            let key = limit.key(ex, tier);
            let decision = limit
                .table
                .take(key, &tier.quota, charge.cost, limit.max_delay, now);
            let take = |remaining, reset, wait| Take {
                charge: index,
                tier: number,
                key,
                at: now,
                remaining,
                reset,
                wait,
            };
            match decision {
                Decision::Pass {
                    remaining,
                    reset,
                    wait,
                } => {
                    if wait > longest {
                        (longest, slowest) = (wait, Some(limit));
                    }
                    list.push(take(remaining, reset, wait));
                }
                Decision::Refuse {
                    remaining,
                    reset,
                    retry_after,
                } => {
                    self.give_back(&list, now);
                    return self.refuse(ex, take(remaining, reset, Duration::ZERO), retry_after);
                }
            }
        }
        for take in &list {
            let counts = &self.charges[take.charge].limit.counts;
            if take.wait.is_zero() {
                counts.passed.inc();
            } else {
                counts.delayed.inc();
            }
        }
        if let Some(limit) = slowest {
            ex.facts.limit = Some(Arc::clone(&limit.name));
        }
        if list.is_empty() {
            return Outcome::Pass(Duration::ZERO);
        }
        match ex.facts.slot_mut::<Taken>() {
            Some(taken) => taken.list.extend(list),
            None => ex.facts.put(Taken {
                list,
                is_authorized: false,
            }),
        }
        Outcome::Pass(longest)
    }

    fn refuse(&self, ex: &mut Exchange<'_>, take: Take, retry_after: Duration) -> Outcome {
        let limit = &self.charges[take.charge].limit;
        limit.counts.refused.inc();
        ex.facts.limit = Some(Arc::clone(&limit.name));
        // A request that is refused by one is charged by none.
        let before = ex.facts.take::<Taken>().unwrap_or_default();
        self.give_back(&before.list, take.at);
        ex.facts.put(Taken {
            list: vec![take],
            is_authorized: before.is_authorized,
        });
        Outcome::Refuse(Box::new(answer::refusal(retry_after)))
    }

    fn give_back(&self, list: &[Take], now: Instant) {
        for take in list {
            let Charge { limit, cost } = &self.charges[take.charge];
            let quota = &limit.tier(take.tier).quota;
            limit.table.give_back(take.key, quota, *cost, take.at, now);
        }
    }
}

impl Outcome {
    /// The verdict, once the request has waited for as long as it must.
    async fn held_back(self) -> Verdict {
        if let Self::Pass(wait) = &self
            && !wait.is_zero()
        {
            tokio::time::sleep(*wait).await;
        }
        self.into()
    }
}

impl From<Outcome> for Verdict {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Pass(_) => Self::Next,
            Outcome::Refuse(reply) => Self::Reply(reply),
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
        if !is_early {
            text.push_str(", once it is known who asks");
        }
        text
    }
}
