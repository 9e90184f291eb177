//! `edgeway plugin`: tools for plugin authors. None of them needs a running gateway.

mod from;
mod new;
mod printed;
mod run;
mod test;

use std::{fmt::Write as _, future::Future};

use clap::Subcommand;
use edgeway_script::Failure;

use super::out;

#[derive(Debug, clap::Args)]
pub struct PluginOptions {
    #[command(subcommand)]
    command: PluginCommand,
}

#[derive(Debug, Subcommand)]
enum PluginCommand {
    /// Write the folder of a new plugin: a module, its tests, the schema of its config, a README
    New(new::PluginNewOptions),
    /// Run the tests of plugins: each `*.test.js` below a folder
    ///
    /// They run in the engine of the gateway, and a plugin under test has the limits that it
    /// has on a route. The exit status is 1 if one of them failed.
    Test(test::PluginTestOptions),
    /// Run a plugin on one request, and say what each hook did and how long it took
    ///
    /// Hooks run in the order of the gateway. The exit status is 1 if one of them failed.
    Run(Box<run::PluginRunOptions>),
}

pub fn run(options: &PluginOptions) -> Result<(), out::Failure> {
    let is_ok = match &options.command {
        PluginCommand::New(options) => new::run(options),
        PluginCommand::Test(options) => block_on(test::run(options)),
        PluginCommand::Run(options) => block_on(run::run(options)),
    }?;
    out::Failure::unless(is_ok)
}

/// True if everything succeeded, or why it could not be run.
type Outcome = Result<bool, String>;

fn block_on(work: impl Future<Output = Outcome>) -> Outcome {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start: {error}"))?;
    runtime.block_on(work)
}

/// Formats a failure with its trace, each line after `indent`, without frames of our own.
fn trace(failure: &Failure, indent: &str) -> String {
    let both = failure.message.lines().chain(failure.stack.lines());
    let mut text = String::new();
    for line in both.filter(|line| !line.contains("(edgeway/")) {
        let line = line.trim();
        let deeper = if line.starts_with("at ") { "    " } else { "" };
        // Writing to a string cannot fail.
        let _infallible = writeln!(text, "{indent}{deeper}{line}");
    }
    text
}

/// Milliseconds, as node prints them.
fn millis(time: std::time::Duration) -> String {
    format!("{:.3}ms", time.as_secs_f64() * 1000.0)
}
