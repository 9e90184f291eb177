//! Trials of configurations, `edgeway reload --canary`: the one in progress and the last verdict.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use arc_swap::ArcSwapOption;
use derive_more::Display;
use edgeway_base::{metrics::Metrics, units::Percent};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::split::TrialSplit;

/// Trial of the configuration that serves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConfigTrial {
    pub generation: u64,
    pub until: SystemTime,
    /// Share of the clients that get it.
    pub share: Percent,
}

edgeway_base::enum_table! {
    /// End of a trial.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Display)]
    #[serde(rename_all = "snake_case")]
    pub enum TrialOutcome => as_str {
        /// The configuration stays.
        #[display("stays")]
        Kept = "kept",
        /// The one before it serves again.
        #[display("was taken back, the previous one serves again")]
        TakenBack = "taken_back",
        /// Another one came to serve meanwhile.
        #[default]
        #[display("was replaced by another one during its trial")]
        Superseded = "superseded",
    }
}

/// Verdict on a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Display)]
#[display("configuration {generation} {outcome}{}{text}", if text.is_empty() { "" } else { ": " })]
pub struct ConfigVerdict {
    pub generation: u64,
    pub outcome: TrialOutcome,
    pub at: SystemTime,
    /// Sentence with the figures.
    pub text: String,
}

/// Trials of a process.
#[derive(Debug)]
pub struct ConfigTrials {
    state: Mutex<TrialState>,
    /// Set while there is a split. Requests read it first.
    is_split: AtomicBool,
    split: ArcSwapOption<TrialSplit>,
    verdicts: VerdictCounters,
}

edgeway_base::metric_handles! {
    #[derive(Debug)]
    struct VerdictCounters() {
        by_outcome: [IntCounter; verdict: TrialOutcome::as_str] =
            "edgeway_config_canary_verdicts_total",
            "Trials of configurations by their end: `kept`, `taken_back`, or `superseded` by \
             another configuration.";
    }
}

/// The trial in progress and the last verdict.
#[derive(Clone, Debug, Default)]
pub struct TrialState {
    pub trial: Option<ConfigTrial>,
    pub verdict: Option<ConfigVerdict>,
}

impl ConfigTrials {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self {
            state: Mutex::default(),
            is_split: AtomicBool::new(false),
            split: ArcSwapOption::empty(),
            verdicts: VerdictCounters::new(metrics),
        }
    }

    pub fn state(&self) -> TrialState {
        self.state.lock().clone()
    }

    /// Returns true during a trial.
    #[inline]
    pub fn is_split(&self) -> bool {
        self.is_split.load(Ordering::Acquire)
    }

    /// Returns the configurations that requests are split between, during a trial.
    #[inline]
    pub fn split(&self) -> Option<Arc<TrialSplit>> {
        if !self.is_split() {
            return None;
        }
        self.split.load_full()
    }

    /// Begins to split requests, or ends it.
    pub(super) fn set_split(&self, split: Option<Arc<TrialSplit>>) {
        let is_split = split.is_some();
        self.split.store(split);
        self.is_split.store(is_split, Ordering::Release);
    }

    pub fn begin(&self, trial: ConfigTrial) {
        self.state.lock().trial = Some(trial);
    }

    pub fn end(&self, verdict: ConfigVerdict) {
        self.verdicts.by_outcome[verdict.outcome].inc();
        let mut state = self.state.lock();
        // A later trial has taken its place.
        let is_last = |trial: &mut ConfigTrial| trial.generation == verdict.generation;
        state.trial.take_if(is_last);
        state.verdict = Some(verdict);
    }
}
