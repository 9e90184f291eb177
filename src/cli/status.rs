//! `edgeway status`: asks the running gateway through its admin listener.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use super::out;
use crate::{
    edge::worker,
    status::{client, table},
};

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The admin listener's address
    #[arg(
        long,
        value_name = "IP:PORT",
        default_value = "127.0.0.1:9900",
        env = "EDGEWAY_ADMIN"
    )]
    admin: SocketAddr,
    /// The admin listener's unix socket, instead of its address
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: &Options) -> ExitCode {
    let target = match &options.socket {
        Some(path) => client::Target::Socket(path.clone()),
        None => client::Target::Address(options.admin),
    };
    let asked = worker::runtime(Some(1)).map(|runtime| runtime.block_on(client::snapshot(&target)));
    match asked {
        Ok(Ok(snapshot)) => {
            if options.json {
                let text = serde_json::to_string_pretty(&snapshot).expect("plain data");
                out::data(&text);
            } else {
                out::data(&table::render_text(&snapshot));
            }
            ExitCode::SUCCESS
        }
        Ok(Err(error)) => {
            out::note(&format!("edgeway: {error}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            out::note(&format!("edgeway: cannot start the runtime: {error}"));
            ExitCode::FAILURE
        }
    }
}
