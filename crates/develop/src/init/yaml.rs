//! The text of a new configuration, with comments for a first reader.

use std::fmt::Write as _;

use edgeway_config::scalar::quoted;
use edgeway_filters::body_limit;

use crate::project::{App, RunningApp, Site, gateway_port};

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
        let port = self.port();
        let mut text = format!(
            "# Edgeway in front of {}, made by `edgeway init`.\n\
             # `edgeway check` finds every problem of this file, and\n\
             # `edgeway explain GET http://localhost:{port}/` shows what happens to a request.\n\
             \n\
             listeners:\n\
             \x20 # This machine only. For the internet, replace it by the commented lines, with your name:\n\
             \x20 - address: 127.0.0.1:{port}\n\
             \x20 # - {{ address: \":80\", redirect: https }}\n\
             \x20 # - {{ address: \":443\", tls: {{ acme: [www.example.com] }} }}\n\
             # acme: {{ email: you@example.com, folder: /var/lib/edgeway/acme }}\n",
            self.apps[0].framework.title(),
        );
        if self.apps.iter().any(|app| app.site.is_none()) {
            text.push_str("\nupstreams:\n");
        }
        let uses = self.uses();
        for (app, usage) in self.apps.iter().zip(&uses) {
            if app.site.is_none() {
                self.upstream(&mut text, app, *usage);
            }
        }
        text.push_str("\nroutes:\n");
        for (app, usage) in self.apps.iter().zip(&uses) {
            self.route(&mut text, app, *usage);
        }
        text
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

    fn upstream(&self, text: &mut String, app: &RunningApp, usage: Use) {
        let mut lines = vec![format!("  {}:", quoted(&app.name))];
        let mut line = |line: &str| lines.push(format!("    {line}"));
        let kind = self.kind(app, usage);
        line(&format!("app: {}", kind.key()));
        if kind == App::Nextjs {
            let build = app.folder.join(&app.dist);
            line("# The output of `next build`: which pages are guarded, and which build it is.");
            let off = if is_cached(app) { "" } else { "# " };
            let build = quoted(&build.display().to_string());
            line(&format!("{off}folder: {build}"));
        }
        if app.is_standalone() {
            let place = app.standalone();
            let place = place.display();
            line(&format!(
                "# `{place}` needs copies of `public` and `{}/static` in it.",
                app.dist.display()
            ));
        }
        // The name of a file may contain a line break.
        let source = app.source.replace(char::is_control, "?");
        line(&format!(
            "# Port from {source}; one entry for each instance."
        ));
        if let Some(origins) = app.framework.origins() {
            line(&format!("# With a public name it needs {origins}."));
        }
        if app.workers > 1 {
            line(&format!(
                "# {} processes share this port: with a port each, the gateway balances better.",
                app.workers
            ));
        }
        let backends = app.ports.iter().map(|port| format!("127.0.0.1:{port}"));
        line(&format!(
            "backends: [{}]",
            backends.collect::<Vec<_>>().join(", ")
        ));
        if app.tls {
            line("# The name in its certificate; add `ca: FILE` if that is self-signed.");
            line("tls: { name: localhost }");
        }
        if app.ports.len() > 1
            && let Some(socket) = &app.websocket
            && socket.is_socket_io()
        {
            line(&format!(
                "# A client of {} must stay with one instance.",
                socket.dependency
            ));
            line("sticky: { cookie: instance }");
        }
        if let Some(path) = &app.health {
            line(&format!("health: {{ path: {path} }}"));
        }
        push(text, &lines, usage);
    }

    fn route(&self, text: &mut String, app: &RunningApp, usage: Use) {
        let kind = self.kind(app, usage);
        let path = match usage {
            Use::Site => "/*",
            Use::Api if self.has_own_api() => "/its/path/*",
            Use::Api => "/api/*",
            Use::Unknown => "/its/path/*",
        };
        if let Some(site) = &app.site {
            push(text, &files(app, site, path), usage);
            return;
        }
        let mut lines = vec![
            format!("  - match: {{ path: {path} }}"),
            format!("    upstream: {}", quoted(&app.name)),
        ];
        if let Some(socket) = &app.websocket
            && socket.path.is_none()
        {
            lines.push(format!(
                "    # {} is among the dependencies.",
                socket.dependency
            ));
            lines.push("    websocket: true".to_owned());
        }
        if let Some(limit) = app.body_limit.filter(|limit| *limit > body_limit::DEFAULT) {
            lines.push("    # `serverActions.bodySizeLimit` of its configuration.".to_owned());
            lines.push(format!("    body_limit: {limit}"));
        }
        let cache = match (usage, kind) {
            (Use::Site, App::Nextjs) if is_cached(app) => {
                "    # Pages and files that Next.js marks as cacheable; nothing personal.\n    \
                 cache: {}"
            }
            (Use::Site, App::Nextjs) => {
                "    # Once there is a build, write this line and `folder` above:\n    # cache: {}"
            }
            (Use::Site, _) => {
                "    # Store responses that the app marks as cacheable:\n    # cache: {}"
            }
            (Use::Api | Use::Unknown, _) => "",
        };
        lines.extend(cache.lines().map(str::to_owned));
        let mut websockets = |what: &str, path: &str| {
            lines.extend([
                format!("  # {what}"),
                format!("  - match: {{ path: {path} }}"),
                format!("    upstream: {}", quoted(&app.name)),
                "    websocket: true".to_owned(),
            ]);
        };
        if let Some(socket) = &app.websocket
            && let Some(path) = socket.path
        {
            websockets(&format!("WebSockets of {}.", socket.dependency), path);
        }
        if usage == Use::Site && kind == App::Nextjs && !self.hmr.is_empty() {
            let what = "Hot module replacement of `next dev`; `next start` has no such path.";
            let paths = self.hmr.iter().map(|path| quoted(path));
            let paths = paths.collect::<Vec<_>>().join(", ");
            websockets(what, &format!("[{paths}]"));
        }
        push(text, &lines, usage);
    }
}

/// Returns the route of a site's files, which its own base path comes before.
fn files(app: &RunningApp, site: &Site, path: &str) -> Vec<String> {
    let base = site.base.as_deref();
    let path = base.map_or_else(|| path.to_owned(), |base| quoted(&format!("{base}/*")));
    let root = app.folder.join(&site.folder);
    let mut lines = vec![
        format!("  - match: {{ path: {path} }}"),
        "    files:".to_owned(),
        format!("      root: {}", quoted(&root.display().to_string())),
    ];
    if site.has_html {
        let html = r#"      try: ["{path.decoded}", "{path.decoded}.html", "{path.decoded}/"#;
        // Next.js has a folder without an index beside each page.
        let is_next = app.framework.app() == App::Nextjs;
        let index = if is_next { "index.html" } else { "" };
        lines.push(format!("{html}{index}\"]"));
    }
    lines.push(match &site.fallback {
        Some(fallback) => format!("      fallback: {}", quoted(fallback)),
        None => "      not_found: /404.html".to_owned(),
    });
    lines.push(format!("      immutable: {}", site.immutable));
    if let Some(base) = base {
        let base = quoted(base);
        lines.push(format!("    rewrite: {{ prefix: {base}, with: / }}"));
    }
    lines
}

/// Returns true if an app may be cached: there is a build, or no page is stored until there is one.
fn is_cached(app: &RunningApp) -> bool {
    app.has_build || app.can_build
}

/// Appends lines, as comments if the use is not known.
fn push(text: &mut String, lines: &[String], usage: Use) {
    for line in lines {
        let _infallible = match usage {
            Use::Unknown => writeln!(text, "  # {}", line.strip_prefix("  ").unwrap_or(line)),
            Use::Site | Use::Api => writeln!(text, "{line}"),
        };
    }
}
