//! Settings of canary releases.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    base::units::Percent,
    chain::CompileContext,
    config::model::{CanaryConfig, CanarySplit},
};

const CODE: &str = "edgeway::upstream::bad_canary";

const STEPS: [f64; 3] = [5.0, 25.0, 50.0];
const ERRORS: f64 = 1.5;
const P95: f64 = 1.3;

/// Steps of a trial, and the limits within which the new release is as good as the current one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CanarySettings {
    /// Part of the visitors in each step, ascending.
    pub steps: Vec<Percent>,
    /// Shortest duration of a step.
    pub step: Duration,
    /// Least number of requests of the new release in each step.
    pub requests: u64,
    pub by: CanarySplit,
    /// Error ratio of the new release that is tolerated, as a multiple of the current one's.
    pub errors: f64,
    /// The same for the 95th percentile of the latency.
    pub p95: f64,
}

impl Default for CanarySettings {
    fn default() -> Self {
        Self::from_config(&CanaryConfig::default())
    }
}

impl CanarySettings {
    fn from_config(config: &CanaryConfig) -> Self {
        Self {
            steps: config
                .steps
                .as_ref()
                .map_or_else(|| STEPS.map(Percent).to_vec(), |steps| steps.value.clone()),
            step: config.step.0,
            requests: config.requests,
            by: config.by,
            errors: config.errors.as_ref().map_or(ERRORS, |errors| errors.value),
            p95: config.p95.as_ref().map_or(P95, |p95| p95.value),
        }
    }

    /// Returns the step after one with this share; `None` after the last one.
    pub(super) fn next(&self, share: Percent) -> Option<Percent> {
        self.steps.iter().copied().find(|step| step.0 > share.0)
    }
}

/// Checks and compiles the section.
pub(crate) fn compile(config: &CanaryConfig, cx: &mut CompileContext<'_>) -> CanarySettings {
    let is_share = |step: &Percent| step.0 > 0.0 && step.0 < 100.0;
    let is_ascending = |steps: &[Percent]| steps.windows(2).all(|pair| pair[0].0 < pair[1].0);
    if let Some(steps) = &config.steps
        && (steps.value.is_empty()
            || !steps.value.iter().all(is_share)
            || !is_ascending(&steps.value))
    {
        cx.at(steps.place, CODE).error(
            "`steps` must be ascending shares between 0% and 100%",
            "write such as `steps: [5%, 25%, 50%]`; after the last step all visitors get the new \
             release",
        );
    }
    for (key, tolerated) in [("errors", &config.errors), ("p95", &config.p95)] {
        if let Some(tolerated) = tolerated
            && !(1.0..=100.0).contains(&tolerated.value)
        {
            cx.at(tolerated.place, CODE).error(
                format!("`{key}` must be between 1 and 100"),
                "write how many times the current release's value is tolerated, such as `1.5`",
            );
        }
    }
    CanarySettings::from_config(config)
}
