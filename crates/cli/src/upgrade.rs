//! `edgeway upgrade`: replaces the running gateway with a new process.

use std::{path::PathBuf, process::ExitCode};

use edgeway_status::{actions::UpgradeResult, client::ACTION};
use serde_json::json;

use super::{admin::AdminOption, out};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// The program to start; the file that the gateway was started from if absent
    binary: Option<PathBuf>,
    #[command(flatten)]
    admin: AdminOption,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(options: &Options) -> ExitCode {
    // The gateway's working directory may differ from ours.
    let binary = match options.binary.as_deref().map(std::path::absolute) {
        None => None,
        Some(Ok(path)) => Some(path),
        Some(Err(error)) => {
            out::note(&format!("edgeway: no path to a program: {error}"));
            return ExitCode::FAILURE;
        }
    };
    options.admin.print(
        options.json,
        async |client| {
            let question = json!({ "binary": binary });
            client.post("/v1/upgrade", &question, ACTION).await
        },
        print,
    )
}

fn print(upgraded: &UpgradeResult) {
    out::data(&format!(
        "process {} serves, version {}",
        upgraded.pid, upgraded.version
    ));
    out::note(&format!(
        "after {:.0} ms; the previous process finishes its requests",
        upgraded.took_ms
    ));
}
