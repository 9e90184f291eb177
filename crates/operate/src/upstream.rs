//! `edgeway upstream add` and `edgeway upstream remove`: adds and removes backends without a change
//! of the configuration.

use clap::Subcommand;

use super::{
    Failure,
    admin::AdminOption,
    backends::{Gateway, Name},
    client, out,
};

#[derive(Debug, clap::Args)]
pub struct UpstreamOptions {
    #[command(subcommand)]
    command: UpstreamCommand,
}

#[derive(Debug, Subcommand)]
enum UpstreamCommand {
    /// Add a backend, until it is removed again
    Add(AddOptions),
    /// Remove a backend that was added at run time
    Remove(RemoveOptions),
}

#[derive(Debug, clap::Args)]
struct AddOptions {
    /// The upstream to add the backend to
    upstream: String,
    /// The backend's address: IP:PORT or unix:PATH
    #[arg(value_name = "ADDRESS")]
    address: String,
    /// The backend's weight, relative to those of the others
    #[arg(long, value_name = "N", default_value_t = 1)]
    weight: u16,
    /// Send it no requests before `edgeway undrain`
    #[arg(long)]
    drained: bool,
    #[command(flatten)]
    admin: AdminOption,
}

#[derive(Debug, clap::Args)]
struct RemoveOptions {
    /// The upstream of the backend
    upstream: String,
    /// The backend's address
    #[arg(value_name = "ADDRESS")]
    address: String,
    /// Remove it even if it is in use; requests in flight are finished
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    admin: AdminOption,
}

pub fn run(options: &UpstreamOptions) -> Result<(), Failure> {
    match &options.command {
        UpstreamCommand::Add(options) => add(options),
        UpstreamCommand::Remove(options) => remove(options),
    }
}

fn add(options: &AddOptions) -> Result<(), Failure> {
    let name = Name::new(&options.upstream, &options.address);
    client::ask(&options.admin, async |gateway| {
        let (weight, drained) = (options.weight, options.drained);
        gateway.add(&name, weight, drained, None).await?;
        out::note(&if options.drained {
            format!("{name} is added; then: `edgeway undrain {name}`")
        } else {
            format!("{name} is added")
        });
        Ok(())
    })
}

fn remove(options: &RemoveOptions) -> Result<(), Failure> {
    let name = Name::new(&options.upstream, &options.address);
    client::ask(&options.admin, async |gateway| {
        gateway.remove(&name, options.force).await?;
        out::note(&format!("{name} is removed"));
        Ok(())
    })
}
