//! `edgeway run`: load, check, serve.

use std::process::ExitCode;

use super::{ConfigOption, EX_CONFIG, check, out};
use crate::{
    base::error,
    gateway,
    process::{boot, log},
};

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    config: ConfigOption,
    /// Worker threads; one for each core if absent
    #[arg(long, value_name = "N", env = "EDGEWAY_THREADS")]
    threads: Option<usize>,
}

pub(super) fn run(options: &Options) -> ExitCode {
    log::init();
    let loaded = gateway::load(&options.config.config);
    if !loaded.diagnostics.list().is_empty() {
        out::note(&check::report(&loaded));
    }
    let Some(file) = loaded.file else {
        return ExitCode::from(EX_CONFIG);
    };
    let setup = boot::Setup {
        file,
        path: Some(options.config.config.clone()),
        threads: options.threads,
        hello: Vec::new(),
        warn: Box::new({
            let sources = loaded.sources.clone();
            move |diagnostics| out::note(&check::render(&sources, diagnostics))
        }),
    };
    match boot::serve(setup) {
        Ok(()) => ExitCode::SUCCESS,
        Err(boot::BootError::Config { diagnostics }) => {
            out::note(&check::render(&loaded.sources, &diagnostics));
            ExitCode::from(EX_CONFIG)
        }
        Err(error) => {
            out::note(&format!("edgeway: {}", error::chain(&error)));
            ExitCode::FAILURE
        }
    }
}
