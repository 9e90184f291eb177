//! `edgeway man`: manual pages, one for each command, made from the arguments.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use super::Failure;

/// Sections that only the page of the program has.
const FILES: [(&str, &str); 6] = [
    (
        "/etc/edgeway/edgeway.yaml",
        "The configuration of the systemd unit. Other commands read edgeway.yaml in the current folder, unless --config or EDGEWAY_CONFIG names another file.",
    ),
    (
        "/run/edgeway/admin.sock",
        "The admin socket of the running gateway, open to root, to the gateway's user and to the group edgeway.",
    ),
    (
        "/var/lib/edgeway",
        "State: certificates of ACME, and the last configuration that served.",
    ),
    (
        "/etc/edgeway/healthcheck.env",
        "The probes of edgeway-healthcheck.timer.",
    ),
    (
        "/var/lib/edgeway-healthcheck",
        "The log of its checks, which edgeway uptime reads, and the restarts of units.",
    ),
    (
        "/var/log/edgeway",
        "Access logs, where the configuration names them.",
    ),
];
const EXIT_STATUS: [(&str, &str); 4] = [
    ("0", "Success."),
    ("1", "The command failed; the message says why."),
    ("2", "Unknown command or option."),
    ("78", "The configuration has errors."),
];
const SIGNALS: [(&str, &str); 4] = [
    (
        "SIGTERM, SIGINT",
        "Finish the requests in flight, then exit.",
    ),
    ("SIGHUP", "Read the configuration again."),
    ("SIGUSR1", "Open the log files again."),
    ("SIGUSR2", "Replace the process with a new one."),
];

#[derive(Debug, clap::Args)]
pub struct Options {
    /// The folder, which is created if it does not exist
    folder: PathBuf,
}

pub fn run(options: &Options, command: clap::Command) -> Result<(), Failure> {
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
    let mut found = Vec::new();
    for below in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        found.extend(pages(below)?);
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
    let mut roff = Roff::default();
    if command.get_name() == program {
        table(&mut roff, "FILES", &FILES);
        table(&mut roff, "SIGNALS", &SIGNALS);
    }
    table(&mut roff, "EXIT STATUS", &EXIT_STATUS);
    roff.control("SH", ["VERSION"]);
    let version = command.get_version().unwrap_or_default();
    roff.text([roman(format!("{program} {version}"))]);
    roff.to_writer(&mut text)?;
    found.push((man.get_filename(), text));
    Ok(found)
}

fn page_of(command: &clap::Command) -> Man {
    Man::new(command.clone())
        .source(format!("edgeway {}", edgeway_base::VERSION))
        .manual("Edgeway")
}

fn table(roff: &mut Roff, heading: &str, rows: &[(&str, &str)]) {
    roff.control("SH", [heading]);
    for (term, text) in rows {
        roff.control("TP", []);
        roff.text([bold(*term)]);
        roff.text([roman(*text)]);
    }
}
