//! The commands that operate apps and machines: releases, restarts and numbers of backends, probes,
//! and what timers run.

pub mod backends;
pub mod client;
pub mod deploy;
pub mod doctor;
pub mod drain;
pub mod healthcheck;
pub mod monitor;
mod program;
mod progress;
pub mod rollout;
pub mod scale;
mod state_file;
pub mod units;
pub mod upstream;
pub mod uptime;
pub mod warm;

use edgeway_base::out::{self, Failure};
use edgeway_cli::{admin, check};

/// Creates the runtime of a command.
fn runtime() -> Result<tokio::runtime::Runtime, String> {
    edgeway_proxy::edge::worker::single()
        .map_err(|error| format!("cannot start the runtime: {error}"))
}
