//! `edgeway man`: manual pages, one for each command, made from the arguments.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap_mangen::{
    Man,
    roff::{Roff, roman},
};

use super::Failure;

/// Sections that only the page of the program has.
const OF_PROGRAM: &[u8] = include_bytes!("man_program.roff");
/// Section that every page has.
const EXIT_STATUS: &[u8] = include_bytes!("man_exit.roff");

#[derive(Debug, clap::Args)]
pub struct ManOptions {
    /// The folder, which is created if it does not exist
    folder: PathBuf,
}

pub fn run(options: &ManOptions, command: clap::Command) -> Result<(), Failure> {
    write(&options.folder, command).map_err(|error| {
        let folder = options.folder.display();
        format!("cannot write manual pages to `{folder}`: {error}").into()
    })
}

fn write(folder: &Path, command: clap::Command) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    // The pages of commands say what `edgeway help COMMAND` would.
    let mut command = command.disable_help_subcommand(true);
    command.build();
    for (name, page) in pages(&command)? {
        fs::write(folder.join(name), page)?;
    }
    Ok(())
}

/// Returns the pages of a command and of all commands below it, with their names.
fn pages(command: &clap::Command) -> io::Result<Vec<(String, Vec<u8>)>> {
    let program = "edgeway";
    let mut list = Vec::new();
    for below in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        list.extend(pages(below)?);
    }
    let man = page_of(command);
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut text)?;
    }
    // The text of an apostrophe, which the sections use.
    Roff::default().to_writer(&mut text)?;
    if command.get_name() == program {
        text.extend(OF_PROGRAM);
    }
    text.extend(EXIT_STATUS);
    let version = command.get_version().unwrap_or_default();
    let version = [roman(format!("{program} {version}"))];
    let version = Roff::default()
        .control("SH", ["VERSION"])
        .text(version)
        .to_roff();
    text.extend(version.into_bytes());
    list.push((man.get_filename(), text));
    Ok(list)
}

fn page_of(command: &clap::Command) -> Man {
    Man::new(command.clone())
        .source(format!("edgeway {}", edgeway_base::VERSION))
        .manual("Edgeway")
}
