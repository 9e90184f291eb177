//! The commands of `edgeway`: they call the code that does the work, and print the result.

mod admin;
mod backends;
pub mod ban;
pub mod ca;
pub mod check;
mod client;
pub mod completions;
pub mod demo;
pub mod deploy;
pub mod dev;
pub mod doctor;
pub mod drain;
pub mod explain;
mod foreground;
pub mod hash;
pub mod healthcheck;
pub mod import;
pub mod init;
pub mod logs;
pub mod man;
pub mod monitor;
pub mod page;
pub mod plugin;
pub mod preset;
pub mod profile;
mod program;
mod progress;
mod project;
pub mod proxy;
pub mod purge;
pub mod reload;
pub mod rollout;
pub mod run;
pub mod scale;
pub mod schema;
mod state_file;
pub mod status;
pub mod top;
mod units;
pub mod upgrade;
pub mod upstream;
pub mod uptime;
pub mod warm;

use std::path::PathBuf;

use edgeway_base::out;

/// Exit status of a refused configuration (`EX_CONFIG` of sysexits.h): systemd's
/// `RestartPreventExitStatus` keeps it from restarting for ever.
pub const EX_CONFIG: u8 = 78;

/// Path of the configuration.
#[derive(Clone, Debug, clap::Args)]
pub struct ConfigOption {
    /// The configuration file
    #[arg(
        short,
        long,
        value_name = "FILE",
        env = "EDGEWAY_CONFIG",
        default_value = "edgeway.yaml"
    )]
    config: PathBuf,
}
