//! `edgeway doctor`: checks the machine, the configuration, its surroundings and the running
//! gateway, and says what to do about each problem.

mod configuration;
mod host;
mod next;
mod running;
mod space;
mod surroundings;

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use edgeway_status::Snapshot;
use serde::Serialize;

use super::{Failure, admin::AdminOption, check, out, runtime};

#[derive(Debug, clap::Args)]
pub struct DoctorOptions {
    #[command(flatten)]
    admin: AdminOption,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

/// Severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    /// Not checked, for the reason given.
    Skipped,
    Warning,
    Error,
}

/// Result of one check.
#[derive(Debug, Serialize)]
struct Finding {
    /// The thing that was checked, in a word or two.
    check: &'static str,
    level: Level,
    message: String,
    /// Next step, if there is one.
    remedy: Option<String>,
}

/// All findings so far.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, check: &'static str, message: impl Into<String>) {
        self.push(check, Level::Ok, message.into(), None);
    }

    fn skipped(&mut self, check: &'static str, message: impl Into<String>) {
        self.push(check, Level::Skipped, message.into(), None);
    }

    fn warning(
        &mut self,
        check: &'static str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.push(check, Level::Warning, message.into(), Some(remedy.into()));
    }

    fn error(
        &mut self,
        check: &'static str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.push(check, Level::Error, message.into(), Some(remedy.into()));
    }

    fn push(&mut self, check: &'static str, level: Level, message: String, remedy: Option<String>) {
        self.0.push(Finding {
            check,
            level,
            message,
            remedy,
        });
    }

    fn worst(&self) -> Level {
        let levels = self.0.iter().map(|finding| finding.level);
        levels.max().unwrap_or(Level::Ok)
    }

    /// Renders the findings for a terminal, one a line, each with its remedy below it.
    fn text(&self) -> String {
        let width = self.0.iter().map(|finding| finding.check.len()).max();
        let width = width.unwrap_or(0);
        let mut text = String::new();
        for finding in &self.0 {
            let level = match finding.level {
                Level::Ok => "ok",
                Level::Skipped => "-",
                Level::Warning => "warning",
                Level::Error => "ERROR",
            };
            let (check, message) = (finding.check, &finding.message);
            let _infallible = writeln!(text, "{check:width$}  {level:7}  {message}");
            if let Some(remedy) = &finding.remedy {
                let _infallible = writeln!(text, "{:width$}           {remedy}", "");
            }
        }
        let count = |level| self.0.iter().filter(|f| f.level == level).count();
        let (errors, warnings) = (count(Level::Error), count(Level::Warning));
        let _infallible = writeln!(text, "\nerrors: {errors}, warnings: {warnings}");
        text
    }
}

/// Returns the file to check: the one that is named, or that of the running gateway where there is
/// none of that name.
fn configuration_of(named: &Path, snapshot: Option<&Snapshot>) -> PathBuf {
    let running = snapshot.map(|snapshot| Path::new(&snapshot.config.file));
    match running.filter(|running| !named.exists() && running.is_absolute() && running.exists()) {
        Some(running) => running.to_owned(),
        None => named.to_owned(),
    }
}

pub fn run(options: &DoctorOptions) -> Result<(), Failure> {
    let runtime = runtime()?;
    let mut findings = Findings::default();
    let snapshot = runtime.block_on(running::snapshot(&options.admin));
    host::check(&mut findings, snapshot.as_ref().ok());
    let path = &configuration_of(options.admin.configuration(), snapshot.as_ref().ok());
    let checked = check::load(path);
    let is_readable = configuration::check(&mut findings, path, &checked);
    if let (Some(file), Some(gateway)) = (checked.file(), &checked.gateway) {
        let running = snapshot.as_ref().ok().map(|snapshot| snapshot.pid);
        configuration::look(&mut findings, file, gateway, running);
        runtime.block_on(surroundings::check(&mut findings, path, file, gateway));
        next::check(&mut findings, path, file);
        space::check(&mut findings, path, file);
    }
    running::check(&mut findings, snapshot);
    // A lookup of a name may still wait for a server of DNS.
    runtime.shutdown_background();
    if options.json {
        out::json(&findings.0);
    } else {
        out::data(&out::hints(&findings.text()));
    }
    match findings.worst() {
        _ if !is_readable => Err(Failure::CONFIG),
        Level::Error => Err(Failure::FAILED),
        Level::Ok | Level::Skipped | Level::Warning => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_aligned_with_their_remedies_below() {
        let mut findings = Findings::default();
        findings.ok("clock", "in step");
        findings.warning("open files", "1024", "raise the limit");
        assert_eq!(findings.worst(), Level::Warning);
        assert_eq!(
            findings.text(),
            "clock       ok       in step\n\
             open files  warning  1024\n\
             \x20                    raise the limit\n\
             \nerrors: 0, warnings: 1\n"
        );
    }
}
