//! Progress of a trial through its steps.

use std::{sync::Arc, time::Duration};

use super::{
    ArmStatus, CanaryDecision, CanaryReason, CanarySettings, CanaryStatus, EVERY, after,
    judge::{Fault, Judge, Tolerance},
    trial::{Metrics, Trial},
};
use crate::base::units::Percent;

/// Time without a backend in rotation after which a release is rolled back.
const MAX_DOWN: Duration = Duration::from_secs(10);
/// Multiple of a step's duration for which a doubt holds it.
const MAX_HOLD: u32 = 3;

/// Trial in progress.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) trial: Arc<Trial>,
    pub(super) judge: Judge,
    /// Times in nanoseconds of the zone's epoch.
    judged_at: u64,
    step_began: u64,
    down_since: Option<u64>,
    /// Requests of the new release in this step.
    step_requests: u64,
}

/// Outcome of a look at the trial.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Decision {
    /// The next step begins.
    Step(Percent),
    Promote,
    RollBack(CanaryReason),
}

impl Progress {
    pub(super) fn new(trial: Arc<Trial>, settings: &CanarySettings, now: u64) -> Self {
        let tolerance = Tolerance {
            errors: settings.errors,
            p95: settings.p95,
        };
        Self {
            trial,
            judge: Judge::new(tolerance, settings.step),
            judged_at: now,
            step_began: now,
            down_since: None,
            step_requests: 0,
        }
    }

    /// Follows a change of the share. What was seen so far still counts.
    pub(super) fn follow(&mut self, decision: &CanaryDecision, metrics: &Metrics, now: u64) {
        if self.trial.share == decision.share {
            return;
        }
        // Requests of the last moment are not lost.
        self.weigh(now);
        self.trial = Trial::new(decision, metrics);
        self.step_began = now;
        self.step_requests = 0;
    }

    /// Returns the time of the next look.
    pub(super) fn due(&self) -> u64 {
        after(self.judged_at, EVERY)
    }

    fn weigh(&mut self, now: u64) {
        let seen = self.trial.take();
        self.step_requests += seen.new.requests;
        let took = Duration::from_nanos(now.saturating_sub(self.judged_at));
        self.judge.weigh(&seen, took);
        self.judged_at = now;
    }

    /// Weighs what happened since the last look. `is_up` is true if a backend of the release is in
    /// rotation.
    pub(super) fn judge(
        &mut self,
        settings: &CanarySettings,
        is_up: bool,
        now: u64,
    ) -> Option<Decision> {
        self.weigh(now);
        if is_up {
            self.down_since = None;
        } else {
            let since = *self.down_since.get_or_insert(now);
            if now >= after(since, MAX_DOWN) {
                return Some(Decision::RollBack(CanaryReason::Down));
            }
        }
        match self.judge.fault() {
            Some(Fault::Errors) => return Some(Decision::RollBack(CanaryReason::Errors)),
            Some(Fault::Latency) => return Some(Decision::RollBack(CanaryReason::Latency)),
            None => {}
        }
        if self.waits_for(settings, now).is_some() || !is_up {
            return None;
        }
        let next = settings.next(self.trial.share);
        Some(next.map_or(Decision::Promote, Decision::Step))
    }

    /// Returns what the step waits for.
    fn waits_for(&self, settings: &CanarySettings, now: u64) -> Option<&'static str> {
        let end = after(self.step_began, settings.step);
        let held = after(self.step_began, settings.step * MAX_HOLD);
        if self.step_requests < settings.requests.max(1) {
            Some("requests")
        } else if now < end {
            Some("time")
        } else if now < held && self.judge.is_in_doubt() {
            Some("certainty")
        } else if self.judge.fails_too_often() {
            Some("errors")
        } else {
            None
        }
    }

    pub(super) fn status(&self, settings: &CanarySettings, now: u64) -> CanaryStatus {
        let total = &self.judge.total;
        let of_step = |step: &&Percent| step.0 <= self.trial.share.0;
        let spent = Duration::from_nanos(now.saturating_sub(self.step_began));
        CanaryStatus {
            release: self.trial.release.to_string(),
            share: self.trial.share.0,
            step: settings.steps.iter().filter(of_step).count().max(1),
            steps: settings.steps.len(),
            step_seconds: spent.as_secs(),
            step_requests: self.step_requests,
            waits_for: self.waits_for(settings, now).map(Into::into),
            new: ArmStatus::from_counts(&total.new),
            current: ArmStatus::from_counts(&total.current),
        }
    }
}
