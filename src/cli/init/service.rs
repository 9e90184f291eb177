//! The drop-in that makes systemd's `node-app@.service` run the app of a project.

use std::path::{Path, PathBuf};

use crate::cli::project::{Framework, Project, RunningApp};

/// Returns the drop-in, with the commands that install and start it.
pub(super) fn drop_in(folder: &Path, project: &Project, app: &RunningApp) -> String {
    let folder = folder.join(&app.folder);
    let folder = folder.canonicalize().unwrap_or(folder);
    let (place, is_copied) = place(&folder);
    let name = place
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let shown = place.display();
    let command = command(project, app.framework);
    let ports: Vec<String> = app
        .ports
        .iter()
        .map(|port| format!("node-app@{port}"))
        .collect();
    let mut lines = vec![
        "To run the app under systemd (systemd/README.md), save this as".to_owned(),
        format!("/etc/systemd/system/node-app@.service.d/{name}.conf:"),
        String::new(),
        "  [Service]".to_owned(),
        format!(
            "  WorkingDirectory={}",
            shown.to_string().replace('%', "%%")
        ),
        format!("  Environment=\"APP_COMMAND={command}\""),
    ];
    if matches!(app.framework, Framework::Next { .. }) {
        // The template writes to the folder of its own app only.
        let path = place.join(".next").display().to_string();
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
    lines.push(format!(
        "  systemctl daemon-reload && systemctl enable --now {}",
        ports.join(" ")
    ));
    lines.push(String::new());
    lines.join("\n")
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

/// Returns the arguments of `node` that start the app.
fn command(project: &Project, framework: Framework) -> String {
    match framework {
        Framework::Next { standalone: true } => ".next/standalone/server.js".to_owned(),
        Framework::Next { standalone: false } => {
            "node_modules/next/dist/bin/next start -H 127.0.0.1".to_owned()
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
            words.map_or_else(
                || project.entry().unwrap_or("server.js").to_owned(),
                |words| words.join(" "),
            )
        }
    }
}
