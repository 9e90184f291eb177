//! `edgeway init`: writes a configuration for the project in a folder, from what its files say.

mod service;
mod yaml;

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use self::yaml::Draft;
use super::{
    check, out,
    program::shown,
    project::{App, Framework, Project, RunningApp},
};

/// Name of the file, which commands look for in the current folder.
const FILE: &str = "edgeway.yaml";

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The folder of the app
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// The kind of app, in place of what package.json says
    #[arg(long, value_enum)]
    app: Option<App>,
    /// Replace an edgeway.yaml that is there
    #[arg(long)]
    force: bool,
}

pub(super) fn run(options: &Options) -> ExitCode {
    match init(options) {
        Ok(status) => status,
        Err(message) => {
            out::note(&format!("edgeway: {message}"));
            ExitCode::FAILURE
        }
    }
}

fn init(options: &Options) -> Result<ExitCode, String> {
    let folder = &options.folder;
    if !folder.is_dir() {
        return Err(format!("`{}` is not a folder", folder.display()));
    }
    let mut project = Project::read(folder);
    let apps = project.apps();
    let draft = Draft {
        apps: &apps,
        kind: options.app,
        hmr: if project.has_next_dev() {
            project.hmr_paths()
        } else {
            Vec::new()
        },
        is_found: project.has_package() || apps[0].source != "the default of Node",
    };
    let path = folder.join(FILE);
    write(&path, &draft.text(), options.force)?;
    for problem in &project.problems {
        out::note(&format!("warning: {problem}"));
    }
    out::note(&format!("wrote {}: {}", path.display(), draft.summary()));
    let checked = check::load(&path);
    let report = checked.report();
    if checked.gateway.is_none() {
        out::note(&report);
        return Ok(ExitCode::FAILURE);
    }
    if checked.has_findings() {
        out::note(&report);
    }
    out::note("");
    out::note(&next_commands(folder, &project, &apps[0]));
    out::note("");
    out::note(&service::drop_in(folder, &project, &apps[0]));
    Ok(ExitCode::SUCCESS)
}

fn write(path: &Path, text: &str, force: bool) -> Result<(), String> {
    let mut open = OpenOptions::new();
    open.write(true);
    if force {
        open.create(true).truncate(true);
    } else {
        open.create_new(true);
    }
    let written = open
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => format!(
            "`{}` exists, and is left as it is\n\
             help: `edgeway check --config {0}` finds its problems; `edgeway init --force` \
             replaces it",
            path.display()
        ),
        _ => format!("cannot write `{}`: {error}", path.display()),
    })
}

fn next_commands(folder: &Path, project: &Project, app: &RunningApp) -> String {
    let (framework, source) = (app.framework, &app.source);
    let is_here = folder == Path::new(".");
    let there = (!is_here).then_some(folder);
    let path = folder.join(FILE);
    let config = if is_here {
        String::new()
    } else {
        format!(" --config {}", shown(&[path.display().to_string()]))
    };
    // The script of which the port was read, or the usual one.
    let start = match project.started() {
        Some(started) => started.name,
        None if framework == Framework::VitePreview => "preview".to_owned(),
        None => "start".to_owned(),
    };
    let start = if source.starts_with("ecosystem") || source.starts_with("pm2") {
        format!(
            "pm2 start {}",
            shown(&[folder.join(source).display().to_string()])
        )
    } else if source.contains("compose") {
        let file = folder.join(source);
        format!(
            "docker compose --file {} up -d",
            shown(&[file.display().to_string()])
        )
    } else if project.script(&start).is_some() {
        project.manager().run(there, &start)
    } else if let Some(file) = project.entry() {
        let path = if is_here {
            PathBuf::from(file)
        } else {
            folder.join(file)
        };
        format!("node {}", shown(&[path.display().to_string()]))
    } else {
        "start your app".to_owned()
    };
    let check = format!("edgeway check{config}");
    let run = format!("edgeway run{config}");
    let width = [&check, &start, &run]
        .map(String::len)
        .into_iter()
        .max()
        .unwrap_or(0);
    format!(
        "Next:\n  \
         {check:width$}   # finds every problem of the file\n  \
         {start:width$}   # your app, as before\n  \
         {run:width$}   # then open http://localhost:8080\n"
    )
}

#[cfg(test)]
mod tests;
