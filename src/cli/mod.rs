//! The command line. Reads arguments, calls what does the work, prints what came of it.

mod admin;
mod backends;
mod ban;
mod check;
mod client;
mod demo;
mod drain;
mod explain;
mod hash;
pub(crate) mod out;
mod plugin;
mod profile;
mod program;
mod progress;
mod purge;
mod reload;
mod rollout;
mod run;
mod scale;
mod schema;
mod status;
mod upgrade;
mod upstream;
mod warm;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::filters::{self, own::Own};

/// Exit status of a refused configuration (`EX_CONFIG` of sysexits.h): systemd's
/// `RestartPreventExitStatus` keeps it from being tried for ever.
pub const EX_CONFIG: u8 = 78;

/// A programmable edge gateway for Node and Next.js apps.
#[derive(Debug, Parser)]
#[command(
    name = "edgeway",
    version = crate::VERSION,
    propagate_version = true,
    max_term_width = 100
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve what the configuration says
    Run(run::Options),
    /// Find every problem of a configuration
    Check(check::Options),
    /// Say which route, filters and upstream a request would meet, and why
    Explain(explain::Options),
    /// Print the JSON Schema of the configuration, for editors
    Schema,
    /// Hash a password or make an API key, for files that hold no secret
    Hash(hash::Options),
    /// Serve a small demonstration with built-in apps behind it; needs no configuration
    Demo(demo::Options),
    /// Show what the running gateway does
    Status(status::Options),
    /// Have the running gateway read its configuration anew
    ///
    /// What is wrong with it is told as by `check`, and then nothing has changed: the exit
    /// status is 78 for a configuration with errors, and 1 for any other reason.
    Reload(reload::Options),
    /// Send a backend no new requests, and wait for those under way
    Drain(drain::Options),
    /// Send a drained backend requests again
    Undrain(drain::UndrainOptions),
    /// Restart the apps behind an upstream, one after the other
    ///
    /// Each one is drained, the command is run for it, and once its checks are good it gets
    /// requests again. The first that does not come back ends the rollout; it stays drained.
    Rollout(rollout::Options),
    /// Start or stop apps until an upstream has so many
    ///
    /// A unit of systemd is started for each one that is missing, and it gets requests once
    /// its checks are good. The last ones are drained, removed and stopped.
    Scale(scale::Options),
    /// Add and remove backends of the running gateway
    Upstream(upstream::Options),
    /// List the profiles of the running gateway, or switch one on or off
    Profile(profile::Options),
    /// List the clients that are banned
    Bans(ban::ListOptions),
    /// Refuse a client whatever it asks for, for some time
    Ban(ban::Options),
    /// Let a banned client pass again
    Unban(ban::LiftOptions),
    /// Take stored answers out of the cache, at every gateway
    ///
    /// The exit status is 0 once every gateway that holds a lease and every instance of the
    /// app is done with it.
    Purge(purge::Options),
    /// Fetch what a file lists, so that the cache has it before clients ask
    ///
    /// Each URL is fetched plain and as browsers ask for it. The exit status is 1 if one of
    /// them failed.
    Warm(warm::Options),
    /// Make, test and try plugins
    Plugin(plugin::Options),
    /// Put a new process in the place of the running gateway, without losing a request
    ///
    /// The new one takes over the listening sockets; the old one finishes what it has. If the
    /// new one does not serve, the old one goes on and the exit status is 1.
    Upgrade(upgrade::Options),
}

/// Where the configuration is.
#[derive(Clone, Debug, clap::Args)]
struct ConfigOption {
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

/// As [`main`], for a program with filters of its own beside the built-in ones.
pub fn main_with(own: impl IntoIterator<Item = Own>) -> ExitCode {
    if let Err(error) = filters::own::register(own) {
        out::note(&format!("edgeway: {error}"));
        return ExitCode::FAILURE;
    }
    main()
}

/// Runs the program with the process's own arguments.
pub fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(options) => run::run(&options),
        Command::Check(options) => check::run(&options),
        Command::Explain(options) => explain::run(&options),
        Command::Schema => schema::run(),
        Command::Hash(options) => hash::run(&options),
        Command::Demo(options) => demo::run(&options),
        Command::Status(options) => status::run(&options),
        Command::Reload(options) => reload::run(&options),
        Command::Drain(options) => drain::run(&options),
        Command::Undrain(options) => drain::run_undrain(&options),
        Command::Rollout(options) => rollout::run(&options),
        Command::Scale(options) => scale::run(&options),
        Command::Upstream(options) => upstream::run(&options),
        Command::Profile(options) => profile::run(&options),
        Command::Bans(options) => ban::run_list(&options),
        Command::Ban(options) => ban::run(&options),
        Command::Unban(options) => ban::run_lift(&options),
        Command::Purge(options) => purge::run(&options),
        Command::Warm(options) => warm::run(&options),
        Command::Plugin(options) => plugin::run(&options),
        Command::Upgrade(options) => upgrade::run(&options),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_fit_together() {
        Arguments::command().debug_assert();
    }
}
