//! `edgeway reload`: has the running gateway read its configuration anew.

use std::process::ExitCode;

use serde_json::json;

use super::{
    admin::{AdminOption, Form},
    out,
};
use crate::status::{actions::Reloaded, client::ACTION};

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    admin: AdminOption,
    /// Print what came of it as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: &Options) -> ExitCode {
    let form = Form::json_if(options.json);
    let asked = options.admin.ask(form, async |client| {
        client.post("/v1/reload", &json!({}), ACTION).await
    });
    match asked {
        Ok(reloaded) => {
            print(&reloaded, form);
            ExitCode::SUCCESS
        }
        Err(status) => status,
    }
}

/// What changed to stdout; what else there is to say to stderr.
fn print(reloaded: &Reloaded, form: Form) {
    if form == Form::Json {
        let text = serde_json::to_string_pretty(reloaded).expect("plain data");
        return out::data(&text);
    }
    for warning in &reloaded.warnings {
        out::note(warning);
    }
    out::data(&reloaded.changes.to_string());
    out::note(&format!(
        "generation {} serves, after {:.0} ms",
        reloaded.generation, reloaded.took_ms
    ));
}
