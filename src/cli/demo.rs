//! `edgeway demo`: a gateway before built-in apps.

use std::{net::SocketAddr, process::ExitCode};

use super::out;
use crate::{
    base::error,
    process::{demo, log},
};

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Where to listen
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8080")]
    address: SocketAddr,
    /// Where operators look
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9900")]
    admin: SocketAddr,
}

pub(super) fn run(options: &Options) -> ExitCode {
    log::init();
    match demo::serve(options.address, options.admin) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            out::note(&format!("edgeway: {}", error::chain(&error)));
            ExitCode::FAILURE
        }
    }
}
