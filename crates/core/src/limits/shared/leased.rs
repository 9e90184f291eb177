//! Requests served from leases; leases that are taken and given back.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use edgeway_net::redis::Unavailable;
use tokio::time::sleep;

use super::{BucketDecision, CapacitySource, Demand, RedisBuckets};
use crate::{
    base::units::Percent,
    chain::CompileContext,
    limits::{
        gcra::Decision,
        lease::{Leases, Plan, UnspentLease},
    },
};

/// Interval in which leases are checked for unspent capacity.
const SWEEP: Duration = Duration::from_millis(100);
/// Number of leases given back at once, so that requests get through in between.
const RETURN_BATCH: usize = 64;

impl RedisBuckets {
    /// Returns the leases of a limit, which outlive reloads; unspent capacity is given back beside
    /// requests.
    pub fn leases(
        self: &Arc<Self>,
        limit: &str,
        share: Percent,
        cx: &mut CompileContext<'_>,
    ) -> Arc<Leases> {
        let zone = format!("leases of {share} of the rate limit {limit}");
        let leases = cx.zones.get_or_create(&zone, || Leases::new(share));
        let (shared, held) = (Arc::clone(self), Arc::clone(&leases));
        let (limit, clock): (Arc<str>, _) = (limit.into(), cx.clock.clone());
        cx.work.add_about(zone, &leases, move || {
            let (shared, held) = (Arc::clone(&shared), Arc::clone(&held));
            let (limit, clock) = (Arc::clone(&limit), clock.clone());
            async move {
                loop {
                    sleep(SWEEP).await;
                    shared.return_unspent(&limit, held.sweep(clock.now())).await;
                }
            }
        });
        leases
    }

    /// Takes from Redis the demands that no lease covers, and new leases.
    pub(super) async fn take_ahead(
        &self,
        demands: &[Demand<'_>],
        now: Instant,
    ) -> Result<Vec<BucketDecision>, Unavailable> {
        let plans: Vec<Plan> = demands.iter().map(|demand| demand.plan(now)).collect();
        let outcome = self.ask_ahead(demands, &plans, now).await;
        let has_passed =
            |outcomes: &Vec<BucketDecision>| outcomes.iter().all(BucketDecision::passes);
        if !outcome.as_ref().is_ok_and(has_passed) {
            for (demand, plan) in demands.iter().zip(&plans) {
                if let (Plan::Spent(_), Some(leases)) = (plan, demand.leases) {
                    leases.put_back(demand.key, demand.cost);
                }
            }
        }
        outcome
    }

    async fn ask_ahead(
        &self,
        demands: &[Demand<'_>],
        plans: &[Plan],
        now: Instant,
    ) -> Result<Vec<BucketDecision>, Unavailable> {
        let planned: Vec<(&Demand<'_>, u32)> = demands
            .iter()
            .zip(plans)
            .filter_map(|(demand, plan)| match plan {
                Plan::Spent(_) => None,
                Plan::Ask { ahead } => Some((demand, *ahead)),
            })
            .collect();
        let more: Vec<Demand<'_>> = planned.iter().map(|(demand, n)| demand.and(*n)).collect();
        let mut outcomes = self.take_together(&more).await?;
        let has_passed = outcomes.iter().all(BucketDecision::passes);
        for ((demand, ahead), outcome) in planned.iter().zip(&mut outcomes) {
            let (1.., Some(leases)) = (*ahead, demand.leases) else {
                continue;
            };
            if has_passed {
                self.keep(demand, *ahead, leases, outcome, now).await;
            } else {
                leases.is_short(demand.key, now);
            }
        }
        if !has_passed && planned.iter().any(|(_, ahead)| *ahead > 0) {
            // The lease alone may be the reason for the refusal.
            let plain: Vec<Demand<'_>> = planned.iter().map(|(demand, _)| **demand).collect();
            outcomes = self.take_together(&plain).await?;
        }
        let mut outcomes = outcomes.into_iter();
        let all = plans.iter().filter_map(|plan| match plan {
            Plan::Spent(decision) => Some(BucketDecision {
                decision: *decision,
                taken: CapacitySource::FromLease,
            }),
            Plan::Ask { .. } => outcomes.next(),
        });
        Ok(all.collect())
    }

    /// Stores a new lease, and reports the rest to the client as if it had not been taken.
    async fn keep(
        &self,
        demand: &Demand<'_>,
        ahead: u32,
        leases: &Leases,
        outcome: &mut BucketDecision,
        now: Instant,
    ) {
        let CapacitySource::FromRedis(at) = outcome.taken else {
            return;
        };
        let unspent = leases.keep(demand.key, demand.quota, ahead, (outcome.decision, at), now);
        self.return_unspent(demand.limit, unspent).await;
        if let Decision::Pass { remaining, .. } = &mut outcome.decision {
            *remaining = remaining.saturating_add(ahead);
        }
    }

    async fn return_unspent(&self, limit: &str, unspent: impl IntoIterator<Item = UnspentLease>) {
        let unspent: Vec<UnspentLease> = unspent.into_iter().collect();
        for some in unspent.chunks(RETURN_BATCH) {
            let returned = some.iter().map(|unspent| {
                let demand = Demand {
                    limit,
                    key: unspent.key,
                    quota: &unspent.quota,
                    cost: unspent.tokens,
                    max_delay: Duration::ZERO,
                    leases: None,
                };
                (demand, CapacitySource::FromRedis(unspent.taken))
            });
            self.give_back(&returned.collect::<Vec<_>>()).await;
        }
    }
}

impl Demand<'_> {
    fn plan(&self, now: Instant) -> Plan {
        match self.leases {
            Some(leases) => leases.plan(self.key, self.quota, self.cost, now),
            None => Plan::Ask { ahead: 0 },
        }
    }

    /// Adds `ahead` to the cost, without any delay.
    fn and(&self, ahead: u32) -> Self {
        if ahead == 0 {
            return *self;
        }
        Self {
            cost: self.cost.saturating_add(ahead),
            max_delay: Duration::ZERO,
            ..*self
        }
    }
}
