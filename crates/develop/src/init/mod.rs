//! `edgeway init`: writes a configuration for the project in a folder, from what its files say.

mod service;
mod yaml;

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use edgeway_base::{
    node_app::{IPV4_FIRST, LOCALHOST},
    private_file,
    shell::shown,
};

use self::yaml::Draft;
use super::{
    Failure, check, out,
    project::{App, Framework, GUESS, Project, RunningApp},
};

/// Name of the file, which commands look for in the current folder.
const FILE: &str = "edgeway.yaml";

#[derive(Debug, clap::Args)]
pub struct InitOptions {
    /// The folder of the app
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// The kind of app, in place of what package.json says
    #[arg(long, value_enum)]
    app: Option<App>,
    /// Replace an existing edgeway.yaml
    #[arg(long)]
    force: bool,
}

pub fn run(options: &InitOptions) -> Result<(), Failure> {
    let folder = &options.folder;
    if !folder.is_dir() {
        return Err(format!("`{}` is not a folder", folder.display()).into());
    }
    let mut project = Project::read(folder);
    let mut apps = project.apps();
    if options.app.is_some() {
        apps[0].set_server();
    }
    let site = project.app_project(&apps[0]);
    let draft = Draft {
        apps: &apps,
        kind: options.app,
        hmr: if site.has_next_dev() {
            site.hmr_paths()
        } else {
            Vec::new()
        },
        is_found: project.has_package() || apps[0].source != GUESS,
    };
    let path = folder.join(FILE);
    write(&path, &draft.text(), options.force)?;
    for problem in project.problems.iter().chain(&unread(folder, &apps)) {
        out::note(&format!("warning: {problem}"));
    }
    out::note(&format!("wrote {}: {}", path.display(), draft.summary()));
    let checked = check::load(&path);
    let report = checked.report();
    if checked.gateway.is_none() {
        out::note(&report);
        return Err(Failure::FAILED);
    }
    // A build that is missing is among the next steps.
    let unbuilt = apps.iter().filter(|app| needs_build(app)).count();
    if checked.problems().1 > unbuilt {
        out::note(&report);
    }
    out::note("");
    out::note(&next_commands(folder, &project, &apps, draft.port()));
    out::note("");
    out::note(&service::drop_ins(folder, &project, &apps));
    Ok(())
}

/// Returns warnings of the files in which Vercel has headers and redirects of the apps.
fn unread(folder: &Path, apps: &[RunningApp]) -> BTreeSet<String> {
    let files = apps.iter().map(|app| app.folder.join("vercel.json"));
    let files = files.filter(|file| folder.join(file).is_file());
    let warning = |file: PathBuf| {
        format!(
            "`{}` is not read: docs/guides/from-vercel.md says where each of its keys goes",
            file.display()
        )
    };
    files.map(warning).collect()
}

fn write(path: &Path, text: &str, force: bool) -> Result<(), String> {
    if !force && path.exists() {
        return Err(format!(
            "`{}` exists, and is left as it is\n\
             help: `edgeway check --config {0}` finds its problems; `edgeway init --force` \
             replaces it",
            path.display()
        ));
    }
    private_file::write_with_mode(path, text.as_bytes(), 0o644)
        .map_err(|error| format!("cannot write `{}`: {error}", path.display()))
}

fn next_commands(folder: &Path, project: &Project, apps: &[RunningApp], port: u16) -> String {
    let is_here = folder == Path::new(".");
    let path = folder.join(FILE);
    let config = if is_here {
        String::new()
    } else {
        format!(" --config {}", shown(&[path.display().to_string()]))
    };
    let mut commands = vec![(
        format!("{} check{config}", out::program()),
        "finds every problem of the file".to_owned(),
    )];
    let site = &apps[0];
    if needs_build(site) {
        let below = below(folder, site);
        let there = Some(&*below).filter(|below| !below.as_os_str().is_empty());
        let what = if site.site.is_some() {
            "the files that the gateway serves"
        } else {
            "the build; without one nothing is cached"
        };
        let build = project.app_project(site).manager().run(there, "build");
        commands.push((build, what.to_owned()));
    }
    if site.is_standalone() {
        let copies = copies(&below(folder, site), site).into_iter();
        commands.extend(copies.map(|copy| (copy, "which the build leaves out".to_owned())));
    }
    for start in starts(folder, project, apps) {
        commands.push((start, "your app, as before".to_owned()));
    }
    commands.push((
        format!("{} run{config}", out::program()),
        format!("then open http://localhost:{port}"),
    ));
    // A long command must not move the comments of all others out of the window.
    let widths = commands.iter().map(|(command, _)| command.len());
    let width = widths.filter(|width| *width <= 48).max().unwrap_or(0);
    let mut text = "Next:\n".to_owned();
    for (command, comment) in commands {
        let _infallible = writeln!(text, "  {command:width$}   # {comment}");
    }
    text
}

/// Returns the commands that copy what a build with a server of its own leaves out.
fn copies(below: &Path, app: &RunningApp) -> Vec<String> {
    let server = below.join(app.standalone());
    let copies = [
        (app.dist.join("static"), server.join(&app.dist)),
        (PathBuf::from("public"), server),
    ];
    let is_there = |from: &Path| from.starts_with(&app.dist) || below.join(from).is_dir();
    let copies = copies.into_iter().filter(|(from, _)| is_there(from));
    let command = |(from, to): (PathBuf, PathBuf)| {
        let words = [below.join(from), to].map(|path| path.display().to_string());
        format!("cp -r {}/", shown(&words))
    };
    copies.map(command).collect()
}

/// Returns the folder of an app; empty if it is the current one.
fn below(folder: &Path, app: &RunningApp) -> PathBuf {
    let below = folder.join(&app.folder);
    below.strip_prefix(".").map(Path::to_owned).unwrap_or(below)
}

/// Returns true for an app whose pages are cached, or whose files are served, once it is built.
fn needs_build(app: &RunningApp) -> bool {
    let is_needed = app.framework.app() == App::Nextjs || app.site.is_some();
    is_needed && app.can_build && !app.has_build
}

/// Returns the commands that start the apps: one for all of them where the project has one.
fn starts(folder: &Path, project: &Project, apps: &[RunningApp]) -> Vec<String> {
    let source = &apps[0].source;
    let is_here = folder == Path::new(".");
    let file = |name: &str| {
        let path = if is_here {
            PathBuf::from(name)
        } else {
            folder.join(name)
        };
        shown(&[path.display().to_string()])
    };
    if source.starts_with("ecosystem") || source.starts_with("pm2") {
        return vec![format!("pm2 start {}", file(source))];
    }
    if source.contains("compose") {
        return vec![format!("docker compose --file {} up -d", file(source))];
    }
    let there = (!is_here).then_some(folder);
    if apps.iter().any(|app| !app.folder.as_os_str().is_empty()) {
        if project.script("start").is_some() {
            return vec![project.manager().run(there, "start")];
        }
        let each = apps.iter().filter(|app| app.site.is_none());
        return each
            .map(|app| start(Some(&below(folder, app)), &project.app_project(app), app))
            .collect();
    }
    let app = apps.iter().find(|app| app.site.is_none());
    app.map(|app| start(there, project, app))
        .into_iter()
        .collect()
}

/// Returns the command that starts the app of a project; `folder` is the project's, unless it is the
/// current one.
fn start(folder: Option<&Path>, project: &Project, app: &RunningApp) -> String {
    // The script of which the port was read, or the usual one.
    let script = match project.started() {
        Some(started) => started.name,
        None if app.framework == Framework::VitePreview => "preview".to_owned(),
        None => "start".to_owned(),
    };
    // `next start` does not serve such a build. The name of the address is that of the units.
    let is_by_tool = project.started().is_none_or(|it| it.node.is_none());
    if app.is_standalone() && is_by_tool {
        let server = app.standalone().join("server.js");
        let server = folder.map_or_else(|| server.clone(), |folder| folder.join(&server));
        return format!(
            "PORT={} HOSTNAME={LOCALHOST} NODE_OPTIONS={IPV4_FIRST} node {}",
            app.ports[0],
            shown(&[server.display().to_string()])
        );
    }
    let variables = app.framework.environment();
    let variables = variables.map_or_else(String::new, |variables| format!("{variables} "));
    let has_server = project.has_adapter() && is_by_tool;
    if project.script(&script).is_some() && !has_server {
        return format!("{variables}{}", project.manager().run(folder, &script));
    }
    let Some(file) = project.entry() else {
        return "start your app".to_owned();
    };
    let path = folder.map_or_else(|| PathBuf::from(&file), |folder| folder.join(&file));
    format!("{variables}node {}", shown(&[path.display().to_string()]))
}

#[cfg(test)]
mod tests;
