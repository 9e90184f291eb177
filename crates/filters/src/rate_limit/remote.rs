//! Limits in Redis, queried in one batch per round once the limits in memory have let a request
//! pass; and the fallback while Redis is unavailable.

use std::{ops::Range, time::Duration};

use edgeway_core::{
    chain::{Exchange, Verdict},
    limits::{
        config::OnStoreError,
        gcra::Decision,
        key::Key,
        limit::Limit,
        shared::{Demand, RedisBuckets},
    },
};

use super::{Charge, LimitDecision, Outcome, RateLimit, Store, reply};

/// Query of one limit.
struct LimitQuery {
    charge: usize,
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
            self.count(ex);
        }
        match outcome {
            Outcome::Pass(wait) if wait.is_zero() => Verdict::Next,
            Outcome::Pass(wait) => {
                tokio::time::sleep(wait).await;
                Verdict::Next
            }
            Outcome::Refuse(reply, elsewhere) => {
                self.give_back(&elsewhere).await;
                Verdict::Reply(reply)
            }
        }
    }

    async fn ask(&self, round: Range<usize>, wait: Duration, ex: &mut Exchange<'_>) -> Outcome {
        let questions = self.questions(round, ex);
        let Some(shared) = questions
            .first()
            .and_then(|first| self.shared(first.charge))
        else {
            return Outcome::Pass(wait);
        };
        let demands: Vec<Demand<'_>> = questions
            .iter()
            .map(|question| self.demand(question.charge, question.tier, question.key))
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
    fn questions(&self, round: Range<usize>, ex: &Exchange<'_>) -> Vec<LimitQuery> {
        let charges = round.filter(|index| self.charges[*index].limit.remote.is_some());
        charges
            .filter_map(|charge| {
                let tier = self.tier_of(charge, ex)?;
                let limit = &self.charges[charge].limit;
                let key = limit.shared_key(ex, limit.tier(tier));
                Some(LimitQuery { charge, tier, key })
            })
            .collect()
    }

    /// Applies each limit according to its `on_store_error`.
    fn without_redis(
        &self,
        questions: &[LimitQuery],
        wait: Duration,
        ex: &mut Exchange<'_>,
    ) -> Outcome {
        let now = self.clock.now();
        let (mut longest, mut denying) = (wait, None);
        for LimitQuery { charge, tier, .. } in questions {
            let Some(remote) = &self.charges[*charge].limit.remote else {
                continue;
            };
            remote.lost.inc();
            let gateways = match remote.on_error {
                OnStoreError::Allow => continue,
                OnStoreError::Deny => {
                    denying = denying.or(Some((*charge, *tier)));
                    continue;
                }
                OnStoreError::Local => remote.shared.redis.gateways(),
                OnStoreError::Full => 1,
            };
            match self.take(*charge, *tier, gateways, (now, ex)) {
                Outcome::Pass(wait) => longest = longest.max(wait),
                refusal @ Outcome::Refuse(..) => return refusal,
            }
        }
        let Some((charge, tier)) = denying else {
            return Outcome::Pass(longest);
        };
        let limit = &self.charges[charge].limit;
        limit.counts.refused.inc();
        let nothing = Decision::Refuse {
            remaining: 0,
            reset: Duration::from_secs(1),
            retry_after: Duration::from_secs(1),
        };
        let take = LimitDecision::new(charge, tier, Key(0), Store::None, &nothing);
        self.refuse(ex, take, reply::unavailable())
    }

    async fn give_back(&self, takes: &[LimitDecision]) {
        let Some(shared) = takes.first().and_then(|first| self.shared(first.charge)) else {
            return;
        };
        let taken: Vec<_> = takes
            .iter()
            .filter_map(|take| match take.store {
                Store::Redis(from) => Some((self.demand(take.charge, take.tier, take.key), from)),
                Store::Memory(..) | Store::None => None,
            })
            .collect();
        shared.give_back(&taken).await;
    }

    fn shared(&self, charge: usize) -> Option<&RedisBuckets> {
        let remote = self.charges[charge].limit.remote.as_ref()?;
        Some(&remote.shared)
    }

    fn demand(&self, charge: usize, tier: usize, key: Key) -> Demand<'_> {
        let Charge { limit, cost } = &self.charges[charge];
        let limit: &Limit = limit;
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
