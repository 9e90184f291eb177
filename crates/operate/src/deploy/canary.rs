//! Trial of a new release: `edgeway deploy --canary`. The gateway compares and decides, also after
//! this command has ended.

use std::time::Duration;

use edgeway_base::units::Percent;
use edgeway_status::snapshot::UpstreamStatus;
use edgeway_upstreams::CanaryOutcome;
use tokio::time::{Instant, sleep};

use super::{Deploy, retire, settings};
use crate::Failure;

pub(super) const EVERY: Duration = Duration::from_secs(1);
/// Time for which the gateway may not respond: it may be upgraded meanwhile.
pub(super) const PATIENCE: Duration = Duration::from_mins(1);

impl Deploy<'_> {
    /// Checks that no release is on trial, and that one can be compared for `canary`.
    pub(super) async fn check_no_trial(&self, canary: Option<Percent>) -> Result<(), Failure> {
        if canary.is_some_and(|share| !(share.0 > 0.0 && share.0 < 100.0)) {
            let why = "`--canary` must be between 0% and 100%, such as `5%`; without it all \
                       visitors get the release at once";
            return Err(why.into());
        }
        let (status, _) = settings(self.gateway, &self.upstream).await?;
        if let Some(canary) = &status.canary {
            return Err(format!(
                "{canary}; wait for the verdict, or end the trial with `edgeway rollback {}`",
                self.upstream
            )
            .into());
        }
        if canary.is_some() && status.current_release.is_none() {
            return Err(format!(
                "upstream `{}` has no current release to compare this one with: deploy the first \
                 release without `--canary`",
                self.upstream
            )
            .into());
        }
        Ok(())
    }

    /// Starts the instances of a release, and sends it a part of the visitors.
    pub(super) async fn try_out(&mut self, release: &str, share: Percent) -> Result<(), Failure> {
        let began = self.with_instances(release, async |deploy| {
            deploy.ready(release).await?;
            deploy.folder.trial_began(release)?;
            let upstream = &deploy.upstream;
            let asked = deploy.gateway.begin_canary(upstream, release, share).await;
            let is_tried = |now: &UpstreamStatus| {
                let canary = now.canary.as_ref();
                canary.is_some_and(|canary| canary.release == release)
            };
            deploy.decided(asked, is_tried).await
        });
        if let Err(error) = began.await {
            if !self.may_serve {
                self.folder.forget(release)?;
            }
            return Err(error);
        }
        self.progress.step_done();
        self.progress.pause();
        self.progress.say(&format!(
            "release `{release}` gets {share} of the visitors of upstream `{}`; `edgeway deploys \
             {0}` shows the trial, `edgeway rollback {0}` ends it",
            self.upstream
        ));
        retire::begin(&self.upstream, &self.common.admin)?;
        Ok(())
    }

    /// Waits for the verdict on a release, and says each step.
    pub(super) async fn follow_trial(&mut self, release: &str) -> Result<(), Failure> {
        // Another command may end the trial.
        self.alone = None;
        let (mut share, mut seen) = (None, Instant::now());
        loop {
            if *self.interrupt.borrow() {
                self.progress
                    .say("the trial continues without this command");
                return Err(Failure::INTERRUPTED);
            }
            match settings(self.gateway, &self.upstream).await {
                Ok((status, _)) => {
                    seen = Instant::now();
                    if let Some(ended) = self.followed(&status, release, &mut share) {
                        return ended;
                    }
                }
                Err(why) if seen.elapsed() > PATIENCE => return Err(why.into()),
                Err(_) => {}
            }
            sleep(EVERY).await;
        }
    }

    /// Says what is new; `None` as long as the trial continues.
    fn followed(
        &self,
        status: &UpstreamStatus,
        release: &str,
        share: &mut Option<f64>,
    ) -> Option<Result<(), Failure>> {
        let canary = status.canary.as_ref();
        if let Some(canary) = canary.filter(|canary| canary.release == release) {
            if share.is_some_and(|before| before < canary.share) {
                self.progress.say(&canary.to_string());
            }
            *share = Some(canary.share);
            return None;
        }
        let verdict = status.canary_verdict.as_ref();
        let Some(verdict) = verdict.filter(|verdict| verdict.release == release) else {
            let why = format!("the trial of release `{release}` was ended by another deploy");
            return Some(Err(why.into()));
        };
        if verdict.outcome == CanaryOutcome::Promoted {
            self.progress.say(&verdict.to_string());
            return Some(Ok(()));
        }
        Some(Err(verdict.into()))
    }

    /// Ends the trial of a release, if there is one.
    pub(super) async fn end_trial(&mut self) -> Result<bool, Failure> {
        let (status, _) = settings(self.gateway, &self.upstream).await?;
        if status.canary.is_none() {
            return Ok(false);
        }
        let verdict = self.gateway.end_canary(&self.upstream).await?;
        self.progress.say(&verdict.to_string());
        Ok(true)
    }
}
