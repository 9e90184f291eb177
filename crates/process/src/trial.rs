//! Trial of a configuration, `edgeway reload --canary`: the one before it comes back if a route gets
//! worse.

use std::{sync::Arc, time::Duration};

use edgeway_base::{error::chain, units::Span};
use edgeway_config::source::ReferencedFiles;
use edgeway_gateway::Gateway;
use edgeway_proxy::live::{
    SwitchReason,
    reload::{self, Candidate},
    traffic::Comparison,
    trial::{ConfigTrial, ConfigVerdict, TrialOutcome},
};
use edgeway_status::actions::{ActionError, NewConfigTrial};
use log::{info, warn};

use super::control::Control;

/// Interval of looks at the traffic.
const EVERY: Duration = Duration::from_secs(2);
/// Bounds of a trial: in a shorter one nothing can be found, and a longer one compares with a
/// different time of day.
pub(super) const SHORTEST: Duration = Duration::from_secs(10);
pub(super) const LONGEST: Duration = Duration::from_hours(1);

/// Configuration that serves until another one has passed its trial.
pub(super) struct BeforeTrial {
    pub(super) earlier: Candidate,
    pub(super) comparison: Comparison,
}

/// Checks the duration and the share of a trial.
pub(super) fn check(NewConfigTrial { length, share }: NewConfigTrial) -> Result<(), ActionError> {
    if share.0 <= 0.0 {
        let message = "a trial without clients is not possible; write a share such as `10%`";
        return Err(ActionError::new(422, "bad_share", message));
    }
    if (SHORTEST..=LONGEST).contains(&length.0) {
        return Ok(());
    }
    let message = format!(
        "a trial of {length} is not possible; write a time between {} and {}, such as `10min`",
        Span(SHORTEST),
        Span(LONGEST)
    );
    Err(ActionError::new(422, "bad_time", message))
}

impl Control {
    /// Watches the configuration that has just begun to serve.
    pub(super) fn begin_trial(
        self: &Arc<Self>,
        generation: u64,
        NewConfigTrial { length, share }: NewConfigTrial,
        before: BeforeTrial,
    ) {
        let clock = &self.live.world.clock;
        self.live.trials.begin(ConfigTrial {
            generation,
            until: clock.wall() + length.0,
            share,
        });
        info!(generation, length:%, share:%; "configuration on trial");
        let control = Arc::clone(self);
        let watching = Box::pin(control.watch_trial(generation, length, before));
        self.tasks().spawn("configuration trial", watching);
    }

    async fn watch_trial(self: Arc<Self>, generation: u64, length: Span, mut before: BeforeTrial) {
        let clock = self.live.world.clock.clone();
        let end = clock.now() + length.0;
        loop {
            tokio::time::sleep(EVERY).await;
            if self.is_stopping() || self.line.is_ours().is_err() {
                return;
            }
            if self.live.loaded().generation != generation {
                self.end_trial(generation, TrialOutcome::Superseded, String::new());
                return;
            }
            if let Some(worse) = before.comparison.look() {
                Box::pin(self.take_back(generation, before.earlier, worse.to_string())).await;
                return;
            }
            if clock.now() >= end {
                let text = match before.comparison.requests() {
                    [0, 0] => format!("without a verdict, because no request arrived in {length}"),
                    [0, others] => {
                        let why = format!(
                            "none of the {others} requests in {length} came from its share of the \
                             clients; try a larger `--share`"
                        );
                        Box::pin(self.take_back(generation, before.earlier, why)).await;
                        return;
                    }
                    [own, _] => format!("no route got worse in {length}, with {own} requests"),
                };
                self.keep(generation, text, before.earlier.gateway).await;
                return;
            }
        }
    }

    /// Serves the configuration on trial to all clients.
    async fn keep(self: &Arc<Self>, generation: u64, text: String, before: Arc<Gateway>) {
        let serving = self.turn.lock().await;
        if self.live.loaded().generation == generation {
            let keep = || reload::keep(&self.live, &self.supervisor);
            // All of its listeners are open: it only closes those of the one before.
            match self.prepare(&serving.gateway, &mut |_| None) {
                Ok(prepared) => self.apply(&serving.gateway, prepared, keep).await,
                Err(error) => {
                    warn!(error:% = chain(&error); "listeners of the configuration before stay open until the next reload");
                    keep();
                }
            }
            self.settle(vec![before], &serving).await;
        }
        drop(serving);
        self.end_trial(generation, TrialOutcome::Kept, text);
    }

    /// Serves the configuration before the trial again, as it was: nothing is read or compiled. A port
    /// that it needs may have been taken, so it tries until it can.
    async fn take_back(self: &Arc<Self>, generation: u64, earlier: Candidate, why: String) {
        let mut is_reported = false;
        let (mut serving, refused) = loop {
            let serving = self.turn.lock().await;
            if self.live.loaded().generation != generation || self.is_stopping() {
                drop(serving);
                self.end_trial(generation, TrialOutcome::Superseded, String::new());
                return;
            }
            let refused = self.live.gateway();
            let switched = self.take(&earlier, SwitchReason::TakenBack, None).await;
            let Err(error) = switched else {
                break (serving, refused);
            };
            drop(serving);
            if !std::mem::replace(&mut is_reported, true) {
                let text = format!(
                    "configuration {generation} got worse, but the previous one cannot serve, which \
                     is tried again: {}: {why}",
                    error.message
                );
                warn!("{text}");
                self.live.refused(text);
            }
            tokio::time::sleep(EVERY).await;
        };
        // Its texts are refused, whatever becomes of the other files that it names.
        self.sources.send_if_modified(|read| {
            let is_read = Arc::ptr_eq(read, &serving.sources);
            if is_read {
                Arc::make_mut(read).referenced = ReferencedFiles::default();
            }
            is_read
        });
        *serving = earlier;
        self.reset_lifetimes(refused, &serving.gateway).await;
        drop(serving);
        self.end_trial(generation, TrialOutcome::TakenBack, why);
    }

    fn end_trial(&self, generation: u64, outcome: TrialOutcome, text: String) {
        let verdict = ConfigVerdict {
            generation,
            outcome,
            at: self.live.world.clock.wall(),
            text,
        };
        let sentence = verdict.to_string();
        if outcome == TrialOutcome::TakenBack {
            warn!("{sentence}");
            // The file on disk is not the one that serves, as after a refusal.
            self.live.refused(sentence);
        } else {
            info!("{sentence}");
        }
        self.live.trials.end(verdict);
    }
}
