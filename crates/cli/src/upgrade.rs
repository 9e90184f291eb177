//! `edgeway upgrade`: replaces the running gateway with a new process.

use std::path::PathBuf;

use edgeway_status::{actions::UpgradeResult, client::ACTION};
use serde_json::json;

use super::{Failure, admin::AdminOption, out};

#[derive(Debug, clap::Args)]
pub struct UpgradeOptions {
    /// The program to start; the file that the gateway was started from if absent
    binary: Option<PathBuf>,
    #[command(flatten)]
    admin: AdminOption,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(options: &UpgradeOptions) -> Result<(), Failure> {
    // The gateway's working directory may differ from ours.
    let binary = options.binary.as_deref().map(std::path::absolute);
    let binary = binary.transpose();
    let binary = binary.map_err(|error| format!("no path to a program: {error}"))?;
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
