//! `edgeway run`: loads, checks and serves a configuration.

use std::{path::Path, process::ExitCode};

use super::{ConfigOption, EX_CONFIG, check, foreground, out};
use crate::{
    base::error,
    config::source::{SourceTexts, Sources},
    gateway::{self, Loaded},
    process::{boot, handover::LaunchState, last_good, log},
};

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    config: ConfigOption,
    /// Worker threads; one for each core if absent
    #[arg(long, value_name = "N", env = "EDGEWAY_THREADS")]
    threads: Option<usize>,
    /// Format of the process's own log on stderr
    #[arg(
        long,
        value_name = "FORMAT",
        value_enum,
        env = "EDGEWAY_LOG_FORMAT",
        default_value_t = log::LogFormat::Text
    )]
    log_format: log::LogFormat,
    /// Start from the configuration that served last, not from the files
    #[arg(long)]
    last_good: bool,
}

pub(super) fn run(options: &Options) -> ExitCode {
    log::init_with(options.log_format);
    let birth = match LaunchState::of_this_process() {
        Ok(birth) => birth,
        Err(error) => {
            out::note(&format!("edgeway: {}", error::chain(&error)));
            return ExitCode::FAILURE;
        }
    };
    // The predecessor receives the same error message as the terminal.
    let report = birth.inherited.report();
    let refuse = |message: &str| {
        report.refuses(message);
        out::note(message);
    };
    let path = &options.config.config;
    let (mut loaded, hello) = match load(options) {
        Ok(loaded) => loaded,
        Err(error) => {
            refuse(&format!(
                "edgeway: no last good configuration of `{}`: {}",
                path.display(),
                error::chain(&error)
            ));
            return ExitCode::from(EX_CONFIG);
        }
    };
    loaded.find_rest(path.parent().unwrap_or(Path::new("")));
    if !loaded.diagnostics.list().is_empty() {
        out::note(&check::report(&loaded));
    }
    let Some(file) = loaded.file else {
        report.refuses(&check::report(&loaded));
        return refused(options, &loaded.sources);
    };
    let setup = boot::BootOptions {
        birth,
        file,
        path: Some(path.clone()),
        threads: options.threads,
        hello,
        // The stored copy stays as it is, with its time.
        sources: (!options.last_good).then(|| loaded.sources.clone()),
        overlay: None,
        warn: Box::new({
            let sources = loaded.sources.clone();
            move |diagnostics| out::note(&check::render(&sources, diagnostics))
        }),
        hangup: boot::Hangup::Reload,
    };
    match boot::serve(setup) {
        Ok(status) => ExitCode::from(status),
        Err(boot::BootError::Config { diagnostics }) => {
            refuse(&check::render(&loaded.sources, &diagnostics));
            refused(options, &loaded.sources)
        }
        Err(error) => {
            refuse(&foreground::failure_of_file(&error));
            ExitCode::FAILURE
        }
    }
}

/// Loads the configuration, with the notes to print once it serves.
fn load(options: &Options) -> Result<(Loaded, Vec<String>), last_good::LastGoodError> {
    let path = &options.config.config;
    if !options.last_good {
        return Ok((gateway::load(path), Vec::new()));
    }
    let found = last_good::find(path)?;
    let shown = path.display();
    let since = found.since();
    ::log::warn!(since:%, file:? = path; "starting from the last good configuration");
    let hello = format!(
        "edgeway: this is the last good configuration of `{shown}`, which began to serve at {since}\n\
         help: repair the file and reload"
    );
    Ok((gateway::load_stored(path, &found.kept), vec![hello]))
}

/// Prints the available fallback.
fn refused(options: &Options, sources: &Sources) -> ExitCode {
    let path = options.config.config.display();
    if options.last_good {
        out::note(
            "edgeway: the last good configuration is refused: what it names has changed since it served\n\
             help: only the configuration's own texts are kept; put back the file or the value that is shown above",
        );
    } else if let Ok(found) = last_good::find(&options.config.config) {
        let since = found.since();
        // A hint to start from the same refused texts would be useless.
        let note = if found.kept == SourceTexts::new(sources) {
            format!(
                "edgeway: the configuration is refused, and its texts are those of the last good one, of {since}: what they name has changed since\n\
                 help: put back the file or the value that is shown above; `--last-good` would be refused as well"
            )
        } else {
            format!(
                "edgeway: the configuration is refused; the last good one, of {since}, is kept\n\
                 help: repair the file, or start from what is kept: `edgeway run --config {path} --last-good`"
            )
        };
        out::note(&note);
    }
    ExitCode::from(EX_CONFIG)
}
