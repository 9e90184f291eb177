//! `edgeway demo`: a gateway in front of built-in apps.

use std::{net::SocketAddr, process::ExitCode};

use super::out;
use crate::{
    base::error,
    process::{demo, handover::LaunchState, log},
};

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The address to listen on
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8080")]
    address: SocketAddr,
    /// The address of the admin listener
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9900")]
    admin: SocketAddr,
}

pub(super) fn run(options: &Options) -> ExitCode {
    log::init();
    let birth = match LaunchState::of_this_process() {
        Ok(birth) => birth,
        Err(error) => {
            out::note(&format!("edgeway: {}", error::chain(&error)));
            return ExitCode::FAILURE;
        }
    };
    let report = birth.inherited.report();
    match demo::serve(birth, options.address, options.admin) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            let message = error::chain(&error);
            report.refuses(&message);
            out::note(&format!("edgeway: {message}"));
            ExitCode::FAILURE
        }
    }
}
