//! `edgeway import`: makes a configuration and units from what ran the apps before.

mod nginx;
mod pm2;

use clap::Subcommand;
use edgeway_base::out::{self, Failure};

#[derive(Debug, clap::Args)]
pub struct ImportOptions {
    #[command(subcommand)]
    from: ImportSource,
}

#[derive(Debug, Subcommand)]
enum ImportSource {
    /// Make systemd units, environment files and upstreams from an ecosystem file of PM2
    ///
    /// Nothing is installed, started or stopped. The report lists what was carried over, what was
    /// not, and the commands to run.
    Pm2(pm2::Pm2Options),
    /// Make a configuration from one of nginx, with a report of each directive
    ///
    /// nginx is neither read by the gateway later nor changed. The report has four headings:
    /// Security, Behaviour that differs, Not carried over, Look at these. The exit status is 0
    /// although not all is carried over; --strict makes it 1.
    Nginx(Box<nginx::NginxOptions>),
}

pub fn run(options: &ImportOptions) -> Result<(), Failure> {
    match &options.from {
        ImportSource::Pm2(options) => pm2::run(options),
        ImportSource::Nginx(options) => nginx::run(options),
    }
}

/// Reads a number that is added to ports.
fn added(text: &str) -> Result<u16, String> {
    let number = text.strip_prefix('+').unwrap_or(text).parse();
    number.map_err(|_| "write a number such as `+1000`".to_owned())
}

/// Returns a port with a number added to it.
fn shifted(port: u16, number: u16) -> Result<u16, String> {
    port.checked_add(number).ok_or_else(|| {
        format!("there is no port {port} + {number}: write a smaller number at `--ports`")
    })
}

/// Prints why a file cannot be imported. The terminal would act on escape sequences in it.
fn unusable(why: &str) -> Failure {
    out::note(&format!("edgeway: {}", out::printable_lines(why)));
    Failure::CONFIG
}
