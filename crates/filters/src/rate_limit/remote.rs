//! Limits in Redis, queried in one batch per round once the limits in memory have let a request
//! pass; and the fallback while Redis is unavailable.

use std::{ops::Range, time::Duration};

use edgeway_core::{
    chain::{Exchange, Verdict},
    limits::{
        config::OnStoreError,
        gcra::Decision,
        key::Key,
        shared::{Demand, RedisBuckets},
    },
};

use super::{Charge, LimitDecision, Outcome, RateLimit, Store, reply};

/// Query of one limit.
struct LimitQuery<'c> {
    charge: &'c Charge,
    tier: usize,
    key: Key,
}

impl RateLimit {
    /// Applies the limits as [`RateLimit::apply`] does, with those in Redis; delays the request for
    /// as long as the limits require.
    pub(super) async fn apply_waiting(
        &self,
        round: Range<usize>,
        ex: &mut Exchange<'_>,
    ) -> Verdict {
        let mut outcome = self.apply(round.clone(), ex);
        if let Outcome::Pass(wait) = outcome {
            outcome = self.ask(round, wait, ex).await;
        }
        if let Outcome::Pass(_) = outcome {
            Self::count(ex);
        }
        match outcome {
            Outcome::Pass(wait) if wait.is_zero() => Verdict::Next,
            Outcome::Pass(wait) => {
                tokio::time::sleep(wait).await;
                Verdict::Next
            }
            Outcome::Refuse(reply, elsewhere) => {
                Self::give_back(&elsewhere).await;
                Verdict::Reply(reply)
            }
        }
    }

    async fn ask(&self, round: Range<usize>, wait: Duration, ex: &mut Exchange<'_>) -> Outcome {
        let questions = self.questions(round, ex);
        let Some(shared) = questions.first().and_then(|first| first.charge.shared()) else {
            return Outcome::Pass(wait);
        };
        let demands: Vec<Demand<'_>> = questions
            .iter()
            .map(|question| question.charge.demand(question.tier, question.key))
            .collect();
        let Ok(outcomes) = shared.take(&demands, self.clock.now()).await else {
            return self.without_redis(&questions, wait, ex);
        };
        let all_pass = outcomes.iter().all(|outcome| outcome.decision.passes());
        let mut longest = wait;
        for (question, outcome) in questions.iter().zip(outcomes) {
            let LimitQuery { charge, tier, key } = *question;
            // If one limit refuses, nothing was taken from the others.
            if !all_pass && outcome.decision.passes() {
                continue;
            }
            let take = LimitDecision::new(
                charge,
                tier,
                key,
                Store::Redis(outcome.taken),
                &outcome.decision,
            );
            match self.settle(take, outcome.decision, ex) {
                Outcome::Pass(wait) => longest = longest.max(wait),
                refusal @ Outcome::Refuse(..) => return refusal,
            }
        }
        Outcome::Pass(longest)
    }

    /// Returns the queries for the limits in Redis that count this request.
    fn questions(&self, round: Range<usize>, ex: &mut Exchange<'_>) -> Vec<LimitQuery<'_>> {
        let charges = self.charges[round].iter();
        charges
            .filter(|charge| charge.limit.remote.is_some())
            .filter_map(|charge| {
                let tier = charge.tier_of(ex)?;
                let key = charge.limit.shared_key(ex, charge.limit.tier(tier));
                (!charge.has_decided(key, ex)).then_some(LimitQuery { charge, tier, key })
            })
            .collect()
    }

    /// Applies each limit according to its `on_store_error`.
    fn without_redis(
        &self,
        questions: &[LimitQuery<'_>],
        wait: Duration,
        ex: &mut Exchange<'_>,
    ) -> Outcome {
        let now = self.clock.now();
        let (mut longest, mut denying) = (wait, None);
        for LimitQuery { charge, tier, .. } in questions {
            let Some(remote) = &charge.limit.remote else {
                continue;
            };
            remote.lost.inc();
            let gateways = match remote.on_error {
                OnStoreError::Allow => continue,
                OnStoreError::Deny => {
                    denying = denying.or(Some((charge, *tier)));
                    continue;
                }
                OnStoreError::Local => remote.shared.redis.gateways(),
                OnStoreError::Full => 1,
            };
            match self.take(charge, *tier, gateways, (now, ex)) {
                Outcome::Pass(wait) => longest = longest.max(wait),
                refusal @ Outcome::Refuse(..) => return refusal,
            }
        }
        let Some((charge, tier)) = denying else {
            return Outcome::Pass(longest);
        };
        charge.limit.counts.refused.inc();
        let nothing = Decision::Refuse {
            remaining: 0,
            reset: Duration::from_secs(1),
            retry_after: Duration::from_secs(1),
        };
        let take = LimitDecision::new(charge, tier, Key(0), Store::None, &nothing);
        self.refuse(ex, take, reply::unavailable())
    }

    async fn give_back(takes: &[LimitDecision]) {
        let Some(shared) = takes.first().and_then(|first| first.charge.shared()) else {
            return;
        };
        let pairs: Vec<_> = takes
            .iter()
            .filter_map(|take| match take.store {
                Store::Redis(from) => Some((take.charge.demand(take.tier, take.key), from)),
                Store::Memory(..) | Store::None => None,
            })
            .collect();
        shared.give_back(&pairs).await;
    }
}

impl Charge {
    fn shared(&self) -> Option<&RedisBuckets> {
        Some(&self.limit.remote.as_ref()?.shared)
    }

    fn demand(&self, tier: usize, key: Key) -> Demand<'_> {
        let Self { limit, cost } = self;
        Demand {
            limit: &limit.name,
            key,
            quota: &limit.tier(tier).quota,
            cost: *cost,
            max_delay: limit.max_delay,
            leases: limit
                .remote
                .as_ref()
                .and_then(|remote| remote.leases.as_deref()),
        }
    }
}
