//! Listening sockets and live state from one process to the next: given by a process that is
//! replaced, taken by its successor or after a restart. Knows nothing of what they are for.
//!
//! A successor inherits everything as open files, named by number in one variable of the
//! environment. There is no socket that somebody else could connect to, no path in a file
//! system, and no bound on how much is handed over.

mod give;
mod take;

use std::os::fd::RawFd;

use serde::{Deserialize, Serialize};

pub(super) use self::take::name_of;
pub use self::{
    give::{Estate, HandoverError, Launch, Successor},
    take::{Inherited, Report, TakeError},
};
use crate::base::metrics::Metrics;

/// The variable that tells a successor what it inherits.
const VARIABLE: &str = "EDGEWAY_HANDOVER";

/// What [`VARIABLE`] holds, as JSON. Two builds read it: fields are added, never changed.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Letter {
    /// Where to say that we serve, or why not: one [`Answer`] in one line.
    ready: RawFd,
    /// A file in memory: what zones have exported, as one JSON object.
    state: RawFd,
    /// Pipes on which processes before us tell what they still have; each ends with its process.
    #[serde(default)]
    predecessors: Vec<RawFd>,
    /// Where process 1 of a container learns which process serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    init: Option<RawFd>,
    /// A pipe on which the process before us writes what it has cached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cache: Option<RawFd>,
    #[serde(default)]
    upgrades: Upgrades,
    sockets: Vec<LetterSocket>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct LetterSocket {
    /// The address as the configuration writes it.
    place: String,
    fd: RawFd,
}

/// How this process came to be.
#[derive(Debug)]
pub struct Birth {
    pub launch: Launch,
    pub inherited: Inherited,
}

impl Birth {
    /// Must be called once, before any file is opened.
    pub fn of_this_process() -> Result<Self, TakeError> {
        let inherited = Inherited::take()?;
        match Launch::of_this_process() {
            Ok(launch) => Ok(Self { launch, inherited }),
            Err(source) => {
                let error = TakeError::Launch(source);
                inherited
                    .report()
                    .refuses(&crate::base::error::chain(&error));
                Err(error)
            }
        }
    }
}

/// Upgrades since the first process of the line; counters that end with a process would show
/// none that succeeded.
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
                "Processes that were to take the place of the one before, since the first of them.",
                &[("outcome", outcome)],
            );
            counter.inc_by(count.saturating_sub(counter.get()));
        }
    }
}

/// What a successor says once.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Answer {
    Refused { error: String },
    Ready { ready: bool, version: String },
}
