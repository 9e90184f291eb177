//! The drop-in that makes systemd's `node-app@.service` run the app of a project.

use std::path::{Path, PathBuf};

use crate::project::{Framework, Project, RunningApp};

/// Returns the drop-ins of the site and of apps in folders of their own, with the commands that
/// start them.
pub(super) fn drop_ins(folder: &Path, project: &Project, apps: &[RunningApp]) -> String {
    let (site, others) = apps.split_at(1);
    let others = others
        .iter()
        .filter(|app| !app.folder.as_os_str().is_empty());
    // Containers have a manager of their own.
    let is_shown = |app: &&RunningApp| app.site.is_none() && !app.source.contains("compose");
    let shown: Vec<(&RunningApp, String)> = site
        .iter()
        .chain(others)
        .filter(is_shown)
        .filter_map(|app| Some((app, command(&project.of(app), app)?)))
        .collect();
    if shown.is_empty() {
        return String::new();
    }
    let is_only = shown.len() == 1;
    let (what, save) = if is_only {
        ("app", "this")
    } else {
        ("apps", "these")
    };
    let mut lines = vec![format!(
        "To run the {what} under systemd (systemd/README.md), save {save} as"
    )];
    for (app, command) in &shown {
        lines.extend(drop_in(folder, app, command, is_only));
    }
    let ports = shown.iter().flat_map(|(app, _)| &app.ports);
    let units: Vec<String> = ports.map(|port| format!("node-app@{port}")).collect();
    lines.push(format!(
        "  systemctl daemon-reload && systemctl enable --now {}",
        units.join(" ")
    ));
    lines.push(String::new());
    lines.join("\n")
}

/// Returns the drop-in of an app: of all units, or of its own ones if it is not the only app.
fn drop_in(folder: &Path, app: &RunningApp, command: &str, is_only: bool) -> Vec<String> {
    let folder = folder.join(&app.folder);
    let folder = folder.canonicalize().unwrap_or(folder);
    let (place, is_copied) = place(&folder);
    let name = place
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let shown = place.display();
    let files: Vec<String> = if is_only {
        vec![format!("node-app@.service.d/{name}.conf")]
    } else {
        let own = app.ports.iter();
        own.map(|port| format!("node-app@{port}.service.d/{name}.conf"))
            .collect()
    };
    let mut lines: Vec<String> = files
        .iter()
        .map(|file| format!("/etc/systemd/system/{file}:"))
        .collect();
    lines.extend([
        String::new(),
        "  [Service]".to_owned(),
        format!(
            "  WorkingDirectory={}",
            shown.to_string().replace('%', "%%")
        ),
        format!("  Environment=\"APP_COMMAND={command}\""),
    ]);
    let variables = app.framework.environment();
    lines.extend(variables.map(|variables| format!("  Environment={variables}")));
    if matches!(app.framework, Framework::Next { .. }) {
        // The template writes to the folder of its own app only.
        let path = place.join(&app.dist).display().to_string();
        let path = path
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('%', "%%");
        lines.push(format!("  ReadWritePaths=-\"{path}\""));
    }
    lines.push(String::new());
    if is_copied {
        lines.push(format!(
            "  # Units do not see home folders: copy the built app to {shown}."
        ));
    }
    lines
}

/// Returns the folder that a unit can see: homes are hidden from it.
fn place(folder: &Path) -> (PathBuf, bool) {
    let is_hidden = ["/home", "/root", "/run/user"]
        .iter()
        .any(|home| folder.starts_with(home));
    if !is_hidden {
        return (folder.to_owned(), false);
    }
    let name = folder.file_name().unwrap_or(std::ffi::OsStr::new("app"));
    (Path::new("/srv").join(name), true)
}

/// Returns the arguments of `node` that start the app, if its files say them.
fn command(project: &Project, app: &RunningApp) -> Option<String> {
    Some(match app.framework {
        Framework::Next { standalone: true } => {
            let server = app.standalone().join("server.js");
            server.display().to_string()
        }
        Framework::Next { standalone: false } => {
            "node_modules/next/dist/bin/next start -H localhost".to_owned()
        }
        // Vite does not read PORT; `%i` is the instance, which is the port.
        Framework::VitePreview => {
            "node_modules/vite/bin/vite.js preview --host 127.0.0.1 --port %i".to_owned()
        }
        _ => {
            let plain = |word: &String| {
                let is_plain = |c: char| c.is_ascii_alphanumeric() || "./_-=:@".contains(c);
                word.chars().all(is_plain)
            };
            let started = project.started().and_then(|started| started.node);
            let words = started.filter(|words| words.iter().all(plain));
            match words {
                Some(words) => words.join(" "),
                None => project.entry()?,
            }
        }
    })
}
