//! The text of a new configuration, with comments for a first reader: `templates/init*.yml`.

use std::{fmt::Write as _, path::Path};

use askama::Template;
use edgeway_base::units::ByteSize;
use edgeway_config::scalar;
use edgeway_core::limits::DEFAULT_BODY_LIMIT;

use crate::project::{App, RunningApp, gateway_port};

/// Facts that the text is made from.
pub(super) struct Draft<'a> {
    /// The site itself first.
    pub apps: &'a [RunningApp],
    /// Kind of the first app, in place of what was found.
    pub kind: Option<App>,
    /// Paths of hot module replacement, if a script runs `next dev`.
    pub hmr: Vec<String>,
    /// False if no file of the project said anything.
    pub is_found: bool,
}

/// Use of an app besides the first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Everything that no other route takes.
    Site,
    /// `/api/*`.
    Api,
    /// Nothing yet: which paths it has is not known.
    Unknown,
}

impl Draft<'_> {
    /// Returns what was found, in one line.
    pub(super) fn summary(&self) -> String {
        if !self.is_found {
            return "no file says what the app is, so this is a guess: a Node app on port 3000"
                .to_owned();
        }
        let each = self.apps.iter().map(|app| {
            if let Some(site) = &app.site {
                return format!("{} in `{}`", app.framework.title(), site.folder);
            }
            let ports: Vec<String> = app.ports.iter().map(u16::to_string).collect();
            let ports = ports.join(", ");
            let source = app.source.replace(char::is_control, "?");
            let title = app.framework.title();
            let s = if app.ports.len() > 1 { "s" } else { "" };
            format!("{title} on port{s} {ports} ({source})")
        });
        each.collect::<Vec<_>>().join("; ")
    }

    /// Returns the port of the gateway.
    pub(super) fn port(&self) -> u16 {
        gateway_port(self.apps.iter().flat_map(|app| &app.ports))
    }

    pub(super) fn text(&self) -> String {
        let (mut upstreams, mut routes) = (String::new(), String::new());
        for (app, usage) in self.apps.iter().zip(self.uses()) {
            let part = self.part(app, usage);
            if app.site.is_none() {
                push(&mut upstreams, &part.as_upstream().to_string(), usage);
            }
            push(&mut routes, &part.as_route().to_string(), usage);
        }
        let file = FileText {
            title: self.apps[0].framework.title(),
            port: self.port(),
            upstreams,
            routes,
        };
        file.to_string()
    }

    fn part<'a>(&'a self, app: &'a RunningApp, usage: Use) -> AppText<'a> {
        AppText {
            app,
            name: scalar::quoted(&app.name),
            // The name of a file may contain a line break.
            source: app.source.replace(char::is_control, "?"),
            kind: self.kind(app, usage),
            usage,
            path: match usage {
                Use::Site => "/*",
                Use::Api if !self.has_own_api() => "/api/*",
                Use::Api | Use::Unknown => "/its/path/*",
            },
            hmr: &self.hmr,
        }
    }

    fn kind(&self, app: &RunningApp, usage: Use) -> App {
        match self.kind {
            Some(kind) if usage == Use::Site => kind,
            _ => app.framework.app(),
        }
    }

    /// Returns the use of each app. An upstream without a route would be a mistake.
    fn uses(&self) -> Vec<Use> {
        let mut has_api = false;
        let uses = self.apps.iter().enumerate().map(|(at, app)| {
            let is_api = ["api", "backend", "server"]
                .iter()
                .any(|word| app.name.contains(word));
            match at {
                0 => Use::Site,
                _ if is_api && !has_api => {
                    has_api = true;
                    Use::Api
                }
                _ => Use::Unknown,
            }
        });
        uses.collect()
    }

    /// Returns true if the site is a Next.js app with route handlers below `/api`.
    fn has_own_api(&self) -> bool {
        let has = |app: &RunningApp| {
            let folders = ["app/api", "src/app/api", "pages/api", "src/pages/api"];
            folders
                .iter()
                .any(|folder| app.folder.join(folder).is_dir())
        };
        self.apps.first().is_some_and(has)
    }
}

#[derive(Template)]
#[template(path = "init.yml")]
struct FileText<'a> {
    title: &'a str,
    port: u16,
    upstreams: String,
    routes: String,
}

/// The upstream and the routes of an app.
#[derive(Template)]
#[template(path = "init_app.yml", blocks = ["upstream", "route"])]
struct AppText<'a> {
    app: &'a RunningApp,
    name: String,
    source: String,
    kind: App,
    usage: Use,
    path: &'static str,
    hmr: &'a [String],
}

impl AppText<'_> {
    /// Returns true if the app may be cached: there is a build, or no page is stored until there is
    /// one.
    fn is_cached(&self) -> bool {
        self.app.has_build || self.app.can_build
    }

    fn folder(&self, below: impl AsRef<Path>) -> String {
        scalar::quoted(&self.app.folder.join(below).to_string_lossy())
    }

    fn body_limit(&self) -> Option<ByteSize> {
        let limit = self.app.body_limit;
        limit.filter(|limit| *limit > DEFAULT_BODY_LIMIT)
    }
}

/// Appends a text line by line, as comments if the use is not known.
fn push(text: &mut String, lines: &str, usage: Use) {
    for line in lines.lines() {
        let _infallible = match usage {
            Use::Unknown => writeln!(text, "  # {}", line.strip_prefix("  ").unwrap_or(line)),
            Use::Site | Use::Api => writeln!(text, "{line}"),
        };
    }
}
