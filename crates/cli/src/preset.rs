//! `edgeway preset`: lists the presets, or prints the text of one.

use std::fmt::Write as _;

use edgeway_config::{
    diagnostic::suggest,
    presets::{self, PRESETS},
};

use super::{Failure, out};

#[derive(Debug, clap::Args)]
pub struct PresetOptions {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print the text of a preset
    Show {
        /// The preset's name, such as `small`
        name: String,
    },
}

pub fn run(options: &PresetOptions) -> Result<(), Failure> {
    let Some(Command::Show { name }) = &options.command else {
        out::data(list().trim_end());
        out::note("`edgeway preset show NAME` prints one; `extends: preset:NAME` uses it");
        return Ok(());
    };
    let name = name.strip_prefix("preset:").unwrap_or(name);
    if let Some(preset) = presets::find(name) {
        out::data(preset.text.trim_end());
        return Ok(());
    }
    let names = PRESETS.iter().map(|preset| preset.name);
    let help = suggest(name, names, "the presets are");
    Err(format!("unknown preset `{name}`; {help}").into())
}

fn list() -> String {
    let mut text = String::new();
    for preset in PRESETS {
        // Writing to a string cannot fail.
        let _infallible = writeln!(text, "{:<11}{}", preset.name, preset.about);
    }
    text
}
