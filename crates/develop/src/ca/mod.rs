//! `edgeway ca`: a CA of this user for names that only this machine and its network have, and its
//! place in the stores that browsers and programs trust.

mod local_ca;
mod names;
mod store;

use std::{thread, time::Duration};

pub use self::local_ca::{LeafFiles, LocalCa};
use super::{Failure, out};

/// Interval of checks whether the certificate of a running gateway is due.
const RENEWAL: Duration = Duration::from_hours(1);

#[derive(Debug, clap::Args)]
pub struct CaOptions {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make browsers and programs of this machine trust the CA
    ///
    /// Makes the CA if there is none. Only this command changes the system's store; it asks for
    /// the password of root through sudo if need be.
    Trust,
    /// Remove the CA from the stores of this machine
    Untrust,
    /// Show where the CA is and what it may sign
    Show,
}

pub fn run(options: &CaOptions) -> Result<(), Failure> {
    Ok(match options.command {
        Command::Trust => trust(),
        Command::Untrust => untrust(),
        Command::Show => show(),
    }?)
}

fn trust() -> Result<(), String> {
    let by_sudo = std::env::var("SUDO_USER")
        .ok()
        .filter(|user| user != "root");
    if let (Some(user), None) = (by_sudo, LocalCa::open()?) {
        return Err(format!(
            "this would make a CA for root, but gateways of `{user}` use another one\n\
             help: run `edgeway ca trust` without sudo: it asks for the password itself"
        ));
    }
    let authority = LocalCa::open_or_make()?;
    for line in store::trust(&authority)? {
        out::note(&line);
    }
    out::note(&format!(
        "Node reads no store of the system: NODE_EXTRA_CA_CERTS={}",
        authority.certificate().display()
    ));
    Ok(())
}

fn untrust() -> Result<(), String> {
    let Some(authority) = LocalCa::open()? else {
        let folder = local_ca::folder()?;
        out::note(&format!(
            "there is no CA in {}: nothing to do",
            folder.display()
        ));
        return Ok(());
    };
    for line in store::untrust(&authority)? {
        out::note(&line);
    }
    out::note(&format!(
        "its key is still in {}; remove the folder to make another CA next time",
        authority.folder.display()
    ));
    Ok(())
}

fn show() -> Result<(), String> {
    let Some(authority) = LocalCa::open()? else {
        let folder = local_ca::folder()?;
        out::note(&format!(
            "there is no CA in {}; `edgeway proxy --https` or `edgeway ca trust` makes one",
            folder.display()
        ));
        return Ok(());
    };
    out::data(&format!(
        "name         {}\n\
         certificate  {}\n\
         valid until  {}\n\
         signs for    {}\n\
         trusted by   {}\n",
        authority.name(),
        authority.certificate().display(),
        authority.expiry(),
        names::summary(),
        match store::trusting(&authority).as_slice() {
            [] => out::hints("no store of this machine (`edgeway ca trust`)").into_owned(),
            some => some.join(", "),
        },
    ));
    Ok(())
}

/// Renews the certificate for these names until the process ends: a gateway may run for longer than
/// its certificate, and reads a changed file by itself.
pub fn keep_fresh(authority: LocalCa, names: Vec<String>) {
    thread::spawn(move || {
        loop {
            thread::park_timeout(RENEWAL);
            if let Err(error) = authority.leaf(&names) {
                log::warn!("cannot renew the local certificate: {error}");
            }
        }
    });
}
