//! `edgeway run`: loads, checks and serves a configuration.

use std::{
    io::{self, IsTerminal as _},
    num::NonZeroU8,
    path::Path,
};

use edgeway_base::error;
use edgeway_config::{
    model::{File, ListenerConfig},
    source::{SourceTexts, Sources},
};
use edgeway_gateway::{self as gateway, Loaded};
use edgeway_process::{boot, last_good, log};

use super::{ConfigOption, Failure, check, foreground, out};

#[derive(Debug, clap::Args)]
pub struct RunOptions {
    #[command(flatten)]
    config: ConfigOption,
    /// Worker threads, at most 255; one for each core if absent
    #[arg(long, value_name = "N", env = "EDGEWAY_THREADS")]
    threads: Option<NonZeroU8>,
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

pub fn run(options: &RunOptions) -> Result<(), Failure> {
    log::init_with(options.log_format, log::DEFAULT);
    let birth = foreground::launched()?;
    // The predecessor receives the same error message as the terminal.
    let report = birth.inherited.report();
    let refuse = |message: &str| {
        report.refuses(message);
        out::note(message);
    };
    let path = &options.config.config;
    let (mut loaded, mut hello) = match load(options) {
        Ok(loaded) => loaded,
        Err(error) => {
            refuse(&format!(
                "edgeway: no last good configuration of `{}`: {}",
                path.display(),
                error::chain(&error)
            ));
            return Err(Failure::CONFIG);
        }
    };
    loaded.find_rest(path.parent().unwrap_or(Path::new("")));
    if !loaded.diagnostics.list().is_empty() {
        out::note(&check::report(&loaded));
    }
    let Some(file) = loaded.file else {
        report.refuses(&check::report(&loaded));
        return Err(refused(options, &loaded.sources));
    };
    if io::stderr().is_terminal() {
        hello.extend(summary(&file, path));
    }
    let setup = boot::BootOptions {
        birth,
        file,
        path: Some(path.clone()),
        threads: options.threads.map(|threads| threads.get().into()),
        hello,
        // The stored copy stays as it is, with its time.
        sources: (!options.last_good).then(|| loaded.sources.clone()),
        is_outdated: options.last_good,
        overlay: None,
        warn: check::note_of(&loaded.sources),
        hangup: boot::Hangup::Reload,
        is_foreground: io::stderr().is_terminal(),
    };
    match boot::serve(setup) {
        Ok(status) => Failure::of_status(status),
        Err(boot::BootError::Config { diagnostics }) => {
            refuse(&check::render(&loaded.sources, &diagnostics));
            Err(refused(options, &loaded.sources))
        }
        Err(error) => {
            refuse(&foreground::failure_of_file(&error));
            Err(Failure::FAILED)
        }
    }
}

/// Loads the configuration, with the notes to print once it serves.
fn load(options: &RunOptions) -> Result<(Loaded, Vec<String>), last_good::LastGoodError> {
    let path = &options.config.config;
    if !options.last_good {
        return Ok((gateway::load(path), Vec::new()));
    }
    let stored = last_good::find(path)?;
    let shown = path.display();
    let since = stored.since();
    ::log::warn!(since:%, file:? = path; "starting from the last good configuration");
    let hello = format!(
        "edgeway: this is the last good configuration of `{shown}`, which began to serve at {since}\n\
         help: repair the file and reload"
    );
    Ok((gateway::load_stored(path, &stored.kept), vec![hello]))
}

/// Returns what is served, for the person who started it in a terminal.
fn summary(file: &File, path: &Path) -> Vec<String> {
    let listeners = file.listeners.iter().map(|listener| shown(&listener.value));
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    vec![
        format!(
            "edgeway: serving {}",
            listeners.collect::<Vec<_>>().join(", ")
        ),
        format!(
            "  {} and {} of {}",
            out::counted(file.routes.len(), "route"),
            out::counted(file.upstreams.len(), "upstream"),
            path.display()
        ),
        "Ctrl-C ends it; in another terminal, `edgeway status` shows what it does.".to_owned(),
    ]
}

/// Returns a listener as a URL, as far as it has one.
fn shown(listener: &ListenerConfig) -> String {
    let scheme = if listener.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let address = listener.address.value.as_str();
    if address.starts_with("unix:") {
        return address.to_owned();
    }
    let port = address.rsplit(':').next().unwrap_or_default();
    let is_here = [":", "0.0.0.0:", "[::]:", "127.0.0.1:", "[::1]:"]
        .iter()
        .any(|host| address.strip_prefix(host) == Some(port));
    if is_here {
        format!("{scheme}://localhost:{port}")
    } else {
        format!("{scheme}://{address}")
    }
}

/// Prints the available fallback.
fn refused(options: &RunOptions, sources: &Sources) -> Failure {
    let path = options.config.config.display();
    if options.last_good {
        out::note(
            "edgeway: the last good configuration is refused: something that it names has changed \
             since it served\n\
             help: only the configuration's own text is kept; restore the file or the value that \
             is shown above",
        );
    } else if let Ok(stored) = last_good::find(&options.config.config) {
        let since = stored.since();
        // A hint to start from the same refused texts would be useless.
        let note = if stored.kept == SourceTexts::new(sources) {
            format!(
                "edgeway: the configuration is refused, but its text is the same as that of the \
                 last good one, of {since}: something that it names has changed since\n\
                 help: restore the file or the value that is shown above; `--last-good` would be \
                 refused as well"
            )
        } else {
            format!(
                "edgeway: the configuration is refused; the last good one, of {since}, is kept\n\
                 help: repair the file, or start from the kept one: `edgeway run --config {path} \
                 --last-good`"
            )
        };
        out::note(&note);
    }
    Failure::CONFIG
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(yaml: &str) -> Vec<String> {
        edgeway_core::chain::testkit::without_filters();
        let file = gateway::load_text("t", yaml).file.unwrap();
        summary(&file, Path::new("/srv/edgeway.yaml"))
    }

    #[test]
    fn a_summary_names_addresses_routes_and_the_file() {
        let found = lines(
            "listeners:\n  - address: \":80\"\n    redirect: https\n  \
             - { address: 10.0.0.7:443, tls: { acme: [a.test] } }\n  \
             - address: unix:/run/a.sock\n\
             acme: { email: a@a.test, folder: /x }\n\
             admin: { address: off, socket: a.sock }\n\
             routes: [{ match: { path: /* }, respond: ok }]\n",
        );
        assert_eq!(
            found[..2],
            [
                "edgeway: serving http://localhost:80, https://10.0.0.7:443, unix:/run/a.sock",
                "  1 route and 0 upstreams of /srv/edgeway.yaml",
            ]
        );
    }
}
