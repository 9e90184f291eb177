//! State of a trial and the verdict on it, as plain data for the admin API.

use std::borrow::Cow;

use derive_more::Display;
use serde::{Deserialize, Serialize};

use super::judge::ReleaseCounts;
use crate::base::units::millis;

/// Trial of a release at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Display)]
#[serde(default)]
#[display(
    "release `{release}` gets {share} % of the visitors, step {step} of {steps}: {new}; the current release: {current}"
)]
pub struct CanaryStatus {
    pub release: String,
    /// Part of the visitors that it gets, in percent.
    pub share: f64,
    /// Number of the step, from 1, and of all steps.
    pub step: usize,
    pub steps: usize,
    /// Time since the step began, in seconds.
    pub step_seconds: u64,
    /// Requests of the new release in this step.
    pub step_requests: u64,
    /// Condition that the step waits for: `requests`, `time`, `certainty`, or fewer `errors`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<Cow<'static, str>>,
    pub new: ArmStatus,
    pub current: ArmStatus,
}

/// Requests of one of the two releases since the trial began.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Display)]
#[serde(default)]
#[display("{failed} of {requests} requests failed ({error_percent} %), p95 {p95_ms:.1} ms")]
pub struct ArmStatus {
    pub requests: u64,
    /// Requests with a status of 500 and above, or whose response broke off.
    pub failed: u64,
    /// Failed requests, in percent.
    pub error_percent: f64,
    /// 95th percentile of the time to the headers of the backend's response, or until the client
    /// left without, in milliseconds.
    pub p95_ms: f64,
}

edgeway_base::enum_table! {
    /// End of a trial.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Display)]
    #[serde(rename_all = "snake_case")]
    pub enum Outcome => as_str {
        /// The release became the current one.
        #[display("is the current one now")]
        Promoted = "promoted",
        #[display("was rolled back")]
        RolledBack = "rolled_back",
        /// An operator ended it.
        #[default]
        #[display("is no longer on trial, by an operator")]
        Ended = "ended",
    }
}

/// Reason for the end of a trial.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Display)]
#[serde(rename_all = "snake_case")]
pub enum CanaryReason {
    #[display("")]
    Passed,
    #[display(" for its errors")]
    Errors,
    #[display(" for its latency")]
    Latency,
    #[display(" because no instance was in rotation")]
    Down,
    #[default]
    #[display("")]
    Operator,
}

/// Verdict on a release, with the figures that led to it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Display)]
#[serde(default)]
#[display(
    "release `{release}` {outcome}{reason}: {new}; the release it was compared with: {current}"
)]
pub struct CanaryVerdict {
    pub release: String,
    pub outcome: Outcome,
    pub reason: CanaryReason,
    /// Time, in seconds since 1970.
    pub at: u64,
    /// Part of the visitors that it had last, in percent.
    pub share: f64,
    pub new: ArmStatus,
    pub current: ArmStatus,
}

impl ArmStatus {
    pub(super) fn from_counts(counts: &ReleaseCounts) -> Self {
        let mut times = counts.latencies;
        times.add(&counts.left);
        Self {
            requests: counts.requests,
            failed: counts.failed,
            error_percent: (counts.error_ratio() * 1e4).round() / 1e2,
            p95_ms: millis(times.quantile(0.95)),
        }
    }
}
