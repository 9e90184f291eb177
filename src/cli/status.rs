//! `edgeway status`: prints the state of the running gateway from its admin listener.

use std::process::ExitCode;

use super::{admin::AdminOption, out};
use crate::status::table;

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    admin: AdminOption,
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: &Options) -> ExitCode {
    options.admin.print(
        options.json,
        async |client| client.snapshot().await,
        |snapshot| out::data(&table::render_text(snapshot)),
    )
}
