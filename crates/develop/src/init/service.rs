//! The drop-in that makes systemd's `node-app@.service` run the app of a project:
//! `templates/drop_ins.txt`.

use std::path::{Path, PathBuf};

use askama::Template;

use crate::project::{Framework, Project, RunningApp};

#[derive(Template)]
#[template(path = "drop_ins.txt")]
struct DropIns<'a> {
    drop_ins: Vec<DropIn<'a>>,
}

/// The drop-in of an app.
struct DropIn<'a> {
    app: &'a RunningApp,
    command: String,
    /// Folder that the units run it in.
    place: PathBuf,
    /// True if the project is elsewhere, in a folder that units do not see.
    is_copied: bool,
}

/// Returns the drop-ins of the site and of apps in folders of their own, with the commands that
/// start them.
pub(super) fn drop_ins(folder: &Path, project: &Project, apps: &[RunningApp]) -> String {
    let (site, others) = apps.split_at(1);
    let others = others
        .iter()
        .filter(|app| !app.folder.as_os_str().is_empty());
    // Containers have a manager of their own.
    let is_shown = |app: &&RunningApp| app.site.is_none() && !app.source.contains("compose");
    let shown = site.iter().chain(others).filter(is_shown);
    let drop_ins = shown.filter_map(|app| {
        let folder = folder.join(&app.folder);
        let (place, is_copied) = place(&folder.canonicalize().unwrap_or(folder));
        Some(DropIn {
            app,
            command: command(&project.app_project(app), app)?,
            place,
            is_copied,
        })
    });
    let drop_ins: Vec<DropIn<'_>> = drop_ins.collect();
    if drop_ins.is_empty() {
        return String::new();
    }
    DropIns { drop_ins }.to_string()
}

impl DropIn<'_> {
    /// Returns the folder that the app writes to, as a word of a unit. The template of the units has
    /// that of its own app only.
    fn written(&self) -> Option<String> {
        let Framework::Next { .. } = self.app.framework else {
            return None;
        };
        let path = self.place.join(&self.app.dist);
        let path = path.to_string_lossy().replace('\\', "\\\\");
        Some(path.replace('"', "\\\"").replace('%', "%%"))
    }
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
