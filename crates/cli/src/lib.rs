//! The commands that talk to a gateway or read its configuration: they call the code that does the
//! work, and print the result.

pub mod admin;
pub mod ban;
pub mod check;
pub mod completions;
pub mod explain;
pub mod foreground;
pub mod hash;
pub mod logs;
pub mod man;
pub mod page;
pub mod path;
pub mod preset;
pub mod profile;
pub mod purge;
pub mod reload;
pub mod run;
pub mod schema;
pub mod status;
pub mod upgrade;

use std::path::PathBuf;

use edgeway_base::out::{self, Failure};

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
