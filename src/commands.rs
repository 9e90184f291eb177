//! The command line: parses the arguments of the process, and calls the command.

use std::{env, ffi::OsStr, process::ExitCode};

use clap::{
    CommandFactory as _, FromArgMatches as _, Parser, Subcommand,
    error::{ContextKind, ContextValue},
};
use edgeway_base::{out, system};
use edgeway_cli::{
    ban, check, completions, explain, hash, logs, man, page, preset, profile, purge, reload, run,
    schema, status, upgrade,
};
use edgeway_core::registry::{self, CustomFilter};
use edgeway_develop::{ca, demo, dev, init, plugin, proxy};
use edgeway_filters::FILTERS;
use edgeway_import as import;
use edgeway_operate::{
    deploy, doctor, drain, healthcheck, monitor, rollout, scale, upstream, uptime, warm,
};
use edgeway_top as top;

/// A programmable edge gateway for Node and Next.js apps.
#[derive(Debug, Parser)]
#[command(
    name = "edgeway",
    version = crate::LONG_VERSION,
    propagate_version = true,
    max_term_width = 100
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the configuration
    Run(run::RunOptions),
    /// Find every problem of a configuration
    Check(check::CheckOptions),
    /// Say which route, filters and upstream a request would meet, and why
    Explain(explain::ExplainOptions),
    /// Print the JSON Schema of the configuration, for editors
    Schema,
    /// Hash a password or make an API key, for files that hold no secret
    Hash(hash::HashOptions),
    /// Serve an app with no configuration file
    Proxy(proxy::ProxyOptions),
    /// Write an edgeway.yaml for the app in a folder
    ///
    /// The framework, the ports and the WebSockets are read from package.json, an ecosystem file of
    /// PM2, a compose file and the code.
    Init(init::InitOptions),
    /// Run the `dev` script of an app behind the gateway
    ///
    /// The script gets a free port and ends with the gateway. The routes are those of edgeway.yaml,
    /// which is watched.
    Dev(dev::DevOptions),
    /// Make and trust a CA of this machine, for HTTPS while you develop
    Ca(ca::CaOptions),
    /// Serve a small demonstration with built-in apps behind it; needs no configuration
    Demo(demo::DemoOptions),
    /// Check this machine, the configuration, backends, Redis and the running gateway
    ///
    /// Each problem comes with what to do about it. The exit status is 0 without errors, 78 for a
    /// configuration with errors, and 1 for any other error.
    Doctor(doctor::DoctorOptions),
    /// Convert the setup of nginx or PM2 into a configuration and units
    Import(import::ImportOptions),
    /// Show what the running gateway does
    Status(status::StatusOptions),
    /// Print the latest requests of the running gateway, and follow them
    ///
    /// They come from the gateway's memory, also where there is no access log. Errors and refusals
    /// are kept apart, so that traffic does not push them out.
    Logs(Box<logs::LogsOptions>),
    /// Watch the running gateway in the terminal: rates, routes, backends, units, limits
    ///
    /// The key `?` shows the other keys. Without a terminal, and with --once, everything is printed
    /// once as text.
    Top(top::TopOptions),
    /// Print a link that opens the status page of the running gateway in a browser
    ///
    /// The link works once, within a minute. Without the admin token it is the only way to the page
    /// over TCP.
    Page(page::PageOptions),
    /// Make the running gateway read its configuration again
    ///
    /// If it has errors, they are printed as by `check`, nothing changes, and the exit status is
    /// 78. Any other failure has 1.
    Reload(reload::ReloadOptions),
    /// Send a backend no new requests, and wait for those in flight
    Drain(drain::DrainOptions),
    /// Send a drained backend requests again
    Undrain(drain::UndrainOptions),
    /// Restart the apps behind an upstream, one after the other
    ///
    /// Each one is drained, the command is run for it, and once its checks are good it gets
    /// requests again. If one does not come back, the rollout ends, and that backend stays drained.
    ///
    /// With --watch the command runs until SIGTERM, and restarts each app whose memory reaches
    /// `restart_at` of the upstream, one at a time.
    Rollout(rollout::RolloutOptions),
    /// Put a release of an app beside the running one, and switch to it once it is healthy
    ///
    /// The folder is copied into `releases.folder` of the upstream, its instances are started, and
    /// requests go to it when their checks are good. The replaced release stays for `linger`, for
    /// browsers that have its pages. If the new one never gets healthy, nothing has changed.
    Deploy(Box<deploy::DeployOptions>),
    /// List the releases of an app
    Deploys(deploy::ListOptions),
    /// Go back to an earlier release of an app
    Rollback(Box<deploy::RollbackOptions>),
    /// Make a release of an app the current one
    ///
    /// Switches to one that `edgeway deploy --hold` has started, or to any other that is still whole.
    Switch(Box<deploy::SwitchOptions>),
    /// Start the instances of an app's releases after a restart of the machine
    ///
    /// Instances that systemd does not run end with the machine or the container. This starts those
    /// that no command has stopped, on their ports, and waits for their checks.
    Resume(deploy::ResumeOptions),
    /// Run an instance of a release, and start it again when it ends
    #[command(hide = true)]
    SuperviseInstance(deploy::SuperviseOptions),
    /// Stop replaced releases when their time is over
    #[command(hide = true)]
    RetireReleases(deploy::RetireOptions),
    /// Start or stop apps until an upstream has N backends, or as many as its load needs
    ///
    /// For each missing backend a systemd unit is started, and it gets requests once its checks are
    /// good. If there are too many, the last ones are drained, removed and stopped.
    Scale(Box<scale::ScaleOptions>),
    /// Add and remove backends of the running gateway
    Upstream(upstream::UpstreamOptions),
    /// List the profiles of the running gateway, or switch one on or off
    Profile(profile::ProfileOptions),
    /// List the presets, or print one
    Preset(preset::PresetOptions),
    /// List the clients that are banned
    Bans(ban::ListOptions),
    /// Ban a client for some time: refuse all of its requests
    Ban(ban::BanOptions),
    /// Lift a client's ban
    Unban(ban::LiftOptions),
    /// Purge stored responses from the cache, on every gateway
    ///
    /// The exit status is 0 once every gateway that holds a lease and every instance of the app has
    /// completed it.
    Purge(purge::PurgeOptions),
    /// Fetch the URLs in a file, so that the cache has them before clients send requests
    ///
    /// Each URL is fetched plain and as browsers request it. The exit status is 1 if one of them
    /// failed.
    Warm(warm::WarmOptions),
    /// Probe the gateway, apps, Redis and MongoDB, and restart units that fail
    ///
    /// The result is one line of JSON. The exit status is 1 if a probe failed. A timer runs this
    /// each five minutes; the pauses between restarts of a unit grow.
    Healthcheck(Box<healthcheck::HealthcheckOptions>),
    /// Print CPU, memory, disks, network and processes of this machine as one line of JSON
    Monitor(monitor::MonitorOptions),
    /// Print the availability of a site, from the log of `healthcheck`
    ///
    /// The exit status is 1 if it is below the target.
    Uptime(uptime::UptimeOptions),
    /// Create, test and run plugins
    Plugin(plugin::PluginOptions),
    /// Replace the running gateway with a new process, without losing a request
    ///
    /// The new one takes over the listening sockets; the old one finishes what it has. If the
    /// new one does not serve, the old one goes on and the exit status is 1.
    Upgrade(upgrade::UpgradeOptions),
    /// Print the completions of a shell
    ///
    /// Packages install them. For bash: edgeway completions bash >
    /// ~/.local/share/bash-completion/completions/edgeway
    Completions(completions::CompletionsOptions),
    /// Write the manual pages to a folder
    ///
    /// Packages install them; man -l FOLDER/edgeway.1 shows one.
    Man(man::ManOptions),
}

/// Commands that read `/proc` or need handles of processes, systemd or control groups.
const NEED_LINUX: &str = "rollout deploy rollback switch resume supervise-instance \
    retire-releases scale healthcheck monitor upgrade";

/// Words of other programs, and what to write in their place.
const WORDS_OF_OTHERS: &str = "\
start serve: to serve a configuration, write 'edgeway run'
test validate: to find its problems, write 'edgeway check'
restart: write 'edgeway reload' for a changed file, 'edgeway upgrade' for a new program
stop: Ctrl-C or 'systemctl stop edgeway' ends a gateway; 'edgeway status' has its process id
version: write 'edgeway --version'";

/// Adds to the error of `edgeway check FILE` how a configuration is given, and to that of
/// `edgeway start` the command that does it.
fn with_tip(mut error: clap::Error, first: &OsStr) -> clap::Error {
    if let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) {
        // `edgeway plugin start` means something else.
        let is_first = *first == **word;
        let mut known = WORDS_OF_OTHERS.lines().filter_map(|it| it.split_once(": "));
        let known = known.find(|(words, _)| is_first && words.split(' ').any(|one| one == word));
        // The names that look alike would mislead, and one of them may be hidden.
        if let Some((_, tip)) = known {
            let tip = tip.replace("'edgeway ", &format!("'{} ", out::program()));
            let tip = ContextValue::StyledStrs(vec![tip.into()]);
            error.remove(ContextKind::SuggestedSubcommand);
            error.insert(ContextKind::Suggested, tip);
        }
        return error;
    }
    if let Some(ContextValue::String(file)) = error.get(ContextKind::InvalidArg)
        && let Some("yaml" | "yml") = file.rsplit_once('.').map(|(_, ending)| ending)
        && let Some(command) = Arguments::command().find_subcommand(first)
        && command
            .get_arguments()
            .any(|it| it.get_short() == Some('c'))
    {
        let tip = format!("to use it as the configuration, write '-c {file}'");
        let tip = ContextValue::StyledStrs(vec![tip.into()]);
        error.insert(ContextKind::Suggested, tip);
    }
    error
}

/// Runs the program with the process's own arguments.
pub fn main() -> ExitCode {
    main_with([])
}

/// Same as [`main`], for a program with filters of its own beside the built-in ones.
pub fn main_with(filters: impl IntoIterator<Item = CustomFilter>) -> ExitCode {
    if let Err(error) = registry::register(FILTERS, filters) {
        out::note(&format!("edgeway: {error}"));
        return ExitCode::FAILURE;
    }
    // Usage lines begin with the command as its user types it.
    let command = Arguments::command().bin_name(out::program());
    let matches = command.try_get_matches();
    let first = env::args_os().nth(1).unwrap_or_default();
    let mut matches = matches.unwrap_or_else(|error| with_tip(error, &first).exit());
    let name = matches.subcommand_name().unwrap_or_default();
    if NEED_LINUX.split(' ').any(|one| one == name)
        && let Err(error) = system::requires_linux(format!("`edgeway {name}`"))
    {
        out::note(&format!("edgeway: {error}"));
        return ExitCode::FAILURE;
    }
    let arguments = Arguments::from_arg_matches_mut(&mut matches);
    let arguments = arguments.unwrap_or_else(|error| error.exit());
    let outcome = match arguments.command {
        Command::Run(options) => run::run(&options),
        Command::Check(options) => check::run(&options),
        Command::Explain(options) => explain::run(&options),
        Command::Schema => schema::run(),
        Command::Hash(options) => hash::run(&options),
        Command::Proxy(options) => proxy::run(&options),
        Command::Init(options) => init::run(&options),
        Command::Dev(options) => dev::run(&options),
        Command::Ca(options) => ca::run(&options),
        Command::Demo(options) => demo::run(&options),
        Command::Doctor(options) => doctor::run(&options),
        Command::Import(options) => import::run(&options),
        Command::Status(options) => status::run(&options),
        Command::Logs(options) => logs::run(&options),
        Command::Top(options) => top::run(&options),
        Command::Page(options) => page::run(&options),
        Command::Reload(options) => reload::run(&options),
        Command::Drain(options) => drain::run(&options),
        Command::Undrain(options) => drain::run_undrain(&options),
        Command::Rollout(options) => rollout::run(&options),
        Command::Deploy(options) => deploy::run(&options),
        Command::Deploys(options) => deploy::run_list(&options),
        Command::Rollback(options) => deploy::run_rollback(&options),
        Command::Switch(options) => deploy::run_switch(&options),
        Command::Resume(options) => deploy::run_resume(&options),
        Command::SuperviseInstance(options) => deploy::run_supervise(&options),
        Command::RetireReleases(options) => deploy::run_retire(&options),
        Command::Scale(options) => scale::run(&options),
        Command::Upstream(options) => upstream::run(&options),
        Command::Profile(options) => profile::run(&options),
        Command::Preset(options) => preset::run(&options),
        Command::Bans(options) => ban::run_list(&options),
        Command::Ban(options) => ban::run(&options),
        Command::Unban(options) => ban::run_lift(&options),
        Command::Purge(options) => purge::run(&options),
        Command::Warm(options) => warm::run(&options),
        Command::Healthcheck(options) => healthcheck::run(&options),
        Command::Monitor(options) => monitor::run(&options),
        Command::Uptime(options) => uptime::run(&options),
        Command::Plugin(options) => plugin::run(&options),
        Command::Upgrade(options) => upgrade::run(&options),
        Command::Completions(options) => completions::run(&options, Arguments::command()),
        Command::Man(options) => man::run(&options, Arguments::command()),
    };
    out::exit_code(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_fit_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_file_is_taken_for_the_configuration_where_there_is_one() {
        let has_tip = |name: &str| {
            let words = ["edgeway", name, "c.yaml"];
            let error = Arguments::command().try_get_matches_from(words);
            error.is_err_and(|error| {
                with_tip(error, name.as_ref())
                    .to_string()
                    .contains("-c c.yaml")
            })
        };
        assert!(has_tip("check") && has_tip("reload"));
        assert!(!has_tip("schema") && !has_tip("man"));
    }

    #[test]
    fn commands_that_need_linux_exist() {
        let command = Arguments::command();
        for name in NEED_LINUX.split(' ') {
            assert!(command.find_subcommand(name).is_some(), "{name}");
        }
    }
}
