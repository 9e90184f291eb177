//! `edgeway check`: prints every problem of a configuration, or its effective values.

use std::path::Path;

use edgeway_config::{
    diagnostic::{Diagnostics, Severity, Style},
    model::File,
    source::Sources,
};
use edgeway_gateway::{self as gateway, Gateway, Loaded, World, print};

use super::{ConfigOption, Failure, admin::OutputFormat, out};

#[derive(Debug, clap::Args)]
pub struct CheckOptions {
    #[command(flatten)]
    config: ConfigOption,
    /// Output format of problems
    #[arg(long, value_enum, default_value = "text")]
    format: OutputFormat,
    /// Print the configuration with every effective value, secrets redacted
    #[arg(long, conflicts_with = "format")]
    print: bool,
}

/// A configuration that was read and compiled.
pub struct Checked {
    loaded: Loaded,
    pub gateway: Option<Gateway>,
}

impl Checked {
    /// The parsed file; `None` if there were errors.
    pub fn file(&self) -> Option<&File> {
        self.loaded.file.as_ref()
    }

    /// Returns the number of errors and of warnings.
    pub fn problems(&self) -> (usize, usize) {
        let all = self.loaded.diagnostics.list();
        let errors = all.iter().filter(|one| one.severity == Severity::Error);
        let errors = errors.count();
        (errors, all.len() - errors)
    }

    /// Returns the first error, or else the first warning, in one line.
    pub fn first_problem(&self) -> Option<String> {
        let lines = self
            .loaded
            .diagnostics
            .render(&self.loaded.sources, Style::Lines);
        let errors = lines.lines().find(|line| line.contains(": error: "));
        let first = errors.or_else(|| lines.lines().next());
        first.map(str::to_owned)
    }

    /// Renders every problem as text.
    pub fn report(&self) -> String {
        report(&self.loaded)
    }
}

/// Reads and compiles a configuration, without serving it.
pub fn load(path: &Path) -> Checked {
    let mut loaded = gateway::load(path);
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    loaded.find_rest(&folder);
    let mut compiled = None;
    if let Some(file) = &loaded.file {
        let (gateway, diagnostics) = gateway::compile(file, &folder, &World::default());
        loaded.diagnostics.extend(diagnostics);
        compiled = gateway;
    }
    Checked {
        loaded,
        gateway: compiled,
    }
}

/// Renders the problems of a configuration for the terminal.
pub fn report(loaded: &Loaded) -> String {
    render(&loaded.sources, &loaded.diagnostics)
}

/// Renders problems for the terminal.
pub fn render(sources: &Sources, diagnostics: &Diagnostics) -> String {
    diagnostics.render(
        sources,
        Style::Graphical {
            colour: out::colour(),
        },
    )
}

/// Returns what prints the warnings of a configuration with these texts.
pub fn note_of(sources: &Sources) -> Box<dyn Fn(&Diagnostics)> {
    let sources = sources.clone();
    Box::new(move |diagnostics| out::note(&render(&sources, diagnostics)))
}

pub fn run(options: &CheckOptions) -> Result<(), Failure> {
    let checked = load(&options.config.config);
    let (sources, diagnostics) = (&checked.loaded.sources, &checked.loaded.diagnostics);
    if options.format == OutputFormat::Json {
        out::data(&diagnostics.render(sources, Style::Json));
    } else if !diagnostics.list().is_empty() {
        out::note(&report(&checked.loaded));
    }
    let (Some(file), Some(gateway)) = (&checked.loaded.file, &checked.gateway) else {
        return Err(Failure::CONFIG);
    };
    if options.print {
        let expanded = sources.expanded.iter().map(|(place, _)| *place);
        let hidden: Vec<_> = expanded.chain(diagnostics.hidden()).collect();
        out::data(&print::yaml(file, gateway, &hidden));
    } else if options.format == OutputFormat::Text {
        let path = options.config.config.display();
        out::note(&format!("{path}: the configuration is well formed"));
    }
    Ok(())
}
