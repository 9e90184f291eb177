//! `edgeway status`: asks the running gateway through its admin listener.

use std::process::ExitCode;

use super::{
    admin::{AdminOption, Form},
    out,
};
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
    let form = Form::json_if(options.json);
    let asked = options
        .admin
        .ask(form, async |client| client.snapshot().await);
    let snapshot = match asked {
        Ok(snapshot) => snapshot,
        Err(status) => return status,
    };
    out::data(&match form {
        Form::Json => serde_json::to_string_pretty(&snapshot).expect("plain data"),
        Form::Text => table::render_text(&snapshot),
    });
    ExitCode::SUCCESS
}
