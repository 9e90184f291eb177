//! `edgeway import`: makes a configuration and units from what ran the apps before.

mod pm2;

use std::process::ExitCode;

use clap::Subcommand;

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    #[command(subcommand)]
    from: From,
}

#[derive(Debug, Subcommand)]
enum From {
    /// Make systemd units, environment files and upstreams from an ecosystem file of PM2
    ///
    /// Nothing is installed, started or stopped. The report lists what was carried over, what was
    /// not, and the commands to run.
    Pm2(pm2::Options),
}

pub(super) fn run(options: &Options) -> ExitCode {
    match &options.from {
        From::Pm2(options) => pm2::run(options),
    }
}
