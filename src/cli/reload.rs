//! `edgeway reload`: makes the running gateway read its configuration again.

use std::process::ExitCode;

use serde_json::json;

use super::{admin::AdminOption, out};
use crate::status::{actions::ReloadResult, client::ACTION};

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    admin: AdminOption,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: &Options) -> ExitCode {
    options.admin.print(
        options.json,
        async |client| client.post("/v1/reload", &json!({}), ACTION).await,
        print,
    )
}

/// Prints the changes to stdout, and everything else to stderr.
fn print(reloaded: &ReloadResult) {
    for warning in &reloaded.warnings {
        out::note(warning);
    }
    out::data(&reloaded.changes.to_string());
    out::note(&format!(
        "generation {} serves, after {:.0} ms",
        reloaded.generation, reloaded.took_ms
    ));
}
