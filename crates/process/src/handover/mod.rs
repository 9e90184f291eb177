//! Handover of listening sockets and live state: given by a process that is replaced, taken by its
//! successor or after a restart. This module does not know their purpose.
//!
//! A successor inherits everything as open files, named by number in one environment variable.
//! There is no socket that another process could connect to, no path in a file system, and no bound
//! on the size of the handover.

mod hand_over;
mod inherit;

use std::os::fd::RawFd;

use edgeway_base::metrics::Metrics;
use serde::{Deserialize, Serialize};

pub(super) use self::inherit::name_of;
pub use self::{
    hand_over::{HandoverError, Launch, Successor},
    inherit::{InheritedState, TakeError},
};

/// Environment variable that lists what a successor inherits.
const VARIABLE: &str = "EDGEWAY_HANDOVER";

/// Contents of [`VARIABLE`], as JSON. Two builds read it, so fields are added, never changed.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct HandoverManifest {
    /// Pipe for the report that we serve, or why not: one [`SuccessorReport`] in one line.
    ready: RawFd,
    /// File in memory with the exported zones, as one JSON object.
    state: RawFd,
    /// Pipes with the reports of draining predecessors. Each closes with its process.
    #[serde(default)]
    predecessors: Vec<RawFd>,
    /// Pipe on which process 1 of a container learns which process serves.
    init: Option<RawFd>,
    /// Pipe on which the predecessor writes its cache.
    cache: Option<RawFd>,
    #[serde(default)]
    upgrades: Upgrades,
    sockets: Vec<ManifestSocket>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ManifestSocket {
    /// The address as the configuration writes it.
    place: String,
    fd: RawFd,
}

/// Launch parameters and inherited files of this process.
#[derive(Debug)]
pub struct LaunchState {
    pub launch: Launch,
    pub inherited: InheritedState,
}

impl LaunchState {
    /// Must be called once, before any file is opened.
    pub fn of_this_process() -> Result<Self, TakeError> {
        let inherited = InheritedState::take()?;
        match Launch::of_this_process() {
            Ok(launch) => Ok(Self { launch, inherited }),
            Err(source) => {
                let error = TakeError::Launch(source);
                inherited
                    .report()
                    .refuses(&edgeway_base::error::chain(&error));
                Err(error)
            }
        }
    }
}

/// Upgrades since the first process of the line. Counters that end with a process would never show
/// a successful one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Upgrades {
    pub succeeded: u64,
    pub failed: u64,
}

impl Upgrades {
    pub fn publish(&self, metrics: &Metrics) {
        for (outcome, count) in [("succeeded", self.succeeded), ("failed", self.failed)] {
            let counter = metrics.counter(
                "edgeway_upgrades_total",
                "Processes started to replace their predecessor, by outcome, since the first process.",
                &[("outcome", outcome)],
            );
            counter.inc_by(count.saturating_sub(counter.get()));
        }
    }
}

/// Report that a successor sends once.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum SuccessorReport {
    Refused { error: String },
    Ready { ready: bool, version: String },
}
