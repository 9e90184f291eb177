//! `edgeway completions`: scripts that complete commands and options in a shell.

use clap_complete::Shell;

use super::{Failure, out};

#[derive(Debug, clap::Args)]
pub struct CompletionsOptions {
    /// The shell
    shell: Shell,
}

pub fn run(options: &CompletionsOptions, mut command: clap::Command) -> Result<(), Failure> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut command, name, &mut script);
    out::data(&String::from_utf8_lossy(&script));
    Ok(())
}
