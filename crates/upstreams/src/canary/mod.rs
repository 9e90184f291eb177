//! Canary releases: a new release gets a part of the visitors, and becomes the current one or is
//! rolled back, by what happens to their requests.

mod judge;
mod latency;
mod progress;
mod settings;
mod status;
mod trial;

use std::{sync::Arc, time::Duration};

use http::HeaderMap;
use serde::Serialize;

use self::progress::{Decision, Progress};
use super::{Upstream, eject::nanos, operate::MemberError, upstream_zone::UpstreamZone};
use crate::base::{clock::Clock, units::Percent};

pub(super) use self::{
    progress::Progress as CanaryProgress, settings::compile, trial::Metrics as CanaryMetrics,
    trial::Trial,
};
pub use self::{
    settings::CanarySettings,
    status::{ArmStatus, CanaryReason, CanaryStatus, CanaryVerdict, Outcome as CanaryOutcome},
    trial::{TrialRequest, trial_name, visitor_position},
};

/// Interval at which requests are weighed.
const EVERY: Duration = Duration::from_secs(1);

/// Decision to try a release, as it is kept for the next process.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct CanaryDecision {
    pub(super) release: Arc<str>,
    /// Part of the visitors that it gets.
    pub(super) share: Percent,
}

impl UpstreamZone {
    /// Returns the trial of a decision: the one in progress, if it is of the same release and
    /// share.
    pub(super) fn trial(
        &self,
        decision: Option<&CanaryDecision>,
        settings: Option<&CanarySettings>,
        metrics: &CanaryMetrics,
    ) -> Option<Arc<Trial>> {
        let mut progress = self.canary.lock();
        let Some(decision) = decision else {
            *progress = None;
            return None;
        };
        let (settings, now) = (settings?, self.now());
        if progress
            .as_ref()
            .is_some_and(|known| known.trial.release != decision.release)
        {
            *progress = None;
        }
        let begin = || Progress::new(Trial::new(decision, metrics), settings, now);
        let progress = progress.get_or_insert_with(begin);
        progress.follow(decision, metrics, now);
        Some(Arc::clone(&progress.trial))
    }
}

impl Upstream {
    /// Returns the release that a request gets unless it belongs to another one, and how its
    /// outcome counts if a release is on trial.
    pub fn release_for(
        &self,
        client: std::net::IpAddr,
        headers: &HeaderMap,
    ) -> (Option<Arc<str>>, Option<TrialRequest>) {
        let members = self.members.load();
        let current = members.current.clone();
        let (Some(trial), Some(own)) = (&members.trial, &current) else {
            return (current, None);
        };
        let now = self.shared.now();
        if !members.has_up(Some(&trial.release), now) {
            return (current, None);
        }
        let by = self.releases.as_ref().map(|releases| releases.canary.by);
        let (release, place) = trial.place(own, by.unwrap_or_default(), client, headers);
        // Of a current release that is down, another one serves the requests.
        let place = Some(place).filter(|it| it.is_new || members.has_up(Some(own), now));
        (Some(release), place)
    }

    /// Begins to send a part of the visitors to `release`; the first step if `share` is absent.
    ///
    /// # Errors
    /// When the release cannot be tried, or another one is on trial.
    pub fn begin_canary(
        &self,
        release: &str,
        share: Option<Percent>,
    ) -> Result<CanaryStatus, MemberError> {
        self.check_release(Some(release))?;
        let settings = self.releases.as_ref().map(|releases| &releases.canary);
        let first = settings.and_then(|settings| settings.steps.first().copied());
        let share = share.or(first).unwrap_or(Percent(5.0));
        if !(share.0 > 0.0 && share.0 < 100.0) {
            return Err(MemberError::BadShare { share: share.0 });
        }
        let mut decisions = self.shared.live.decisions();
        let upstream = || self.name.to_string();
        match &decisions.current {
            None => {
                return Err(MemberError::NoCurrentRelease(upstream()));
            }
            Some(current) if **current == *release => {
                return Err(MemberError::IsCurrent(release.to_owned()));
            }
            Some(_) => {}
        }
        if let Some(canary) = &decisions.canary {
            return Err(MemberError::CanaryRuns {
                upstream: upstream(),
                release: canary.release.to_string(),
            });
        }
        self.check_up(release)?;
        decisions.canary = Some(CanaryDecision {
            release: release.into(),
            share,
        });
        decisions.verdict = None;
        self.keep(&decisions);
        log::info!(
            upstream = &*self.name, release, share:% = share;
            "canary began"
        );
        self.apply(decisions);
        Ok(self.canary_status().unwrap_or_default())
    }

    /// Ends the trial of a release: all visitors get the current one.
    ///
    /// # Errors
    /// When no release is on trial.
    pub fn end_canary(&self) -> Result<CanaryVerdict, MemberError> {
        let ended = self.conclude(CanaryOutcome::Ended, CanaryReason::Operator, None);
        ended.ok_or_else(|| MemberError::NoCanary(self.name.to_string()))
    }

    /// Returns the state of the trial, if there is one.
    pub(super) fn canary_status(&self) -> Option<CanaryStatus> {
        let progress = self.shared.live.canary.lock();
        let settings = &self.releases.as_ref()?.canary;
        Some(progress.as_ref()?.status(settings, self.shared.now()))
    }

    /// Returns the verdict on the last trial.
    pub(super) fn canary_verdict(&self) -> Option<CanaryVerdict> {
        self.shared.live.decisions().verdict.clone()
    }

    /// Weighs the requests of the last second, and acts on the outcome.
    pub(super) fn judge_canary(&self, now: u64) {
        let Some(settings) = self.releases.as_ref().map(|releases| &releases.canary) else {
            return;
        };
        let decided = {
            let mut progress = self.shared.live.canary.lock();
            let Some(progress) = progress.as_mut() else {
                return;
            };
            if now < progress.due() {
                return;
            }
            let is_up = self.is_release_up(&progress.trial.release);
            let current = self.current_release();
            let is_alone = !current.is_some_and(|current| self.is_release_up(&current));
            progress.judge.is_alone = is_alone;
            let decision = progress.judge(settings, is_up, now);
            let release = Arc::clone(&progress.trial.release);
            decision.map(|decision| (decision, release))
        };
        match decided {
            Some((Decision::Step(share), release)) => self.step(&release, share),
            Some((Decision::Promote, release)) => {
                self.conclude(
                    CanaryOutcome::Promoted,
                    CanaryReason::Passed,
                    Some(&release),
                );
            }
            Some((Decision::RollBack(reason), release)) => {
                self.conclude(CanaryOutcome::RolledBack, reason, Some(&release));
            }
            None => {}
        }
    }

    /// Returns the time of the next look at the trial, if there is one.
    pub(super) fn canary_due(&self) -> Option<u64> {
        self.releases.as_ref()?;
        self.shared.live.canary.lock().as_ref().map(Progress::due)
    }

    fn step(&self, release: &Arc<str>, share: Percent) {
        let mut decisions = self.shared.live.decisions();
        let Some(canary) = decisions.canary.as_mut() else {
            return;
        };
        if canary.release != *release {
            return;
        }
        canary.share = share;
        self.keep(&decisions);
        log::info!(
            upstream = &*self.name, release = &**release, share:% = share;
            "canary gets more visitors"
        );
        self.apply(decisions);
    }

    /// Ends the trial. `only` names the release that the outcome is about.
    fn conclude(
        &self,
        outcome: CanaryOutcome,
        reason: CanaryReason,
        only: Option<&str>,
    ) -> Option<CanaryVerdict> {
        let status = self.canary_status().unwrap_or_default();
        let mut decisions = self.shared.live.decisions();
        let canary = decisions
            .canary
            .take_if(|canary| only.is_none_or(|only| *canary.release == *only))?;
        let time = Clock::machine()
            .wall()
            .duration_since(std::time::UNIX_EPOCH);
        let verdict = CanaryVerdict {
            release: canary.release.to_string(),
            outcome,
            reason,
            at: time.map_or(0, |time| time.as_secs()),
            share: canary.share.0,
            new: status.new,
            current: status.current,
        };
        if outcome == CanaryOutcome::Promoted {
            decisions.before = decisions.current.replace(Arc::clone(&canary.release));
        }
        decisions.verdict = Some(verdict.clone());
        self.keep(&decisions);
        self.shared.canary.count(outcome);
        let text = verdict.to_string();
        if outcome == CanaryOutcome::RolledBack {
            log::warn!(upstream = &*self.name, release = &*canary.release; "canary: {text}");
        } else {
            log::info!(upstream = &*self.name, release = &*canary.release; "canary: {text}");
        }
        self.apply(decisions);
        Some(verdict)
    }
}

fn after(now: u64, span: Duration) -> u64 {
    now.saturating_add(nanos(span))
}
