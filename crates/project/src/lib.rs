//! A developer's project folder: its framework, its ports, its WebSockets, as far as its files say
//! so. Nothing is run but configuration files, in an engine without files or network.

mod code;
mod command_line;
mod compose;
mod framework;
mod manager;
mod package;
pub mod pm2;
mod running_app;
mod script;
mod site;
mod workspace;

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use self::{
    code::FoundPort,
    command_line::{is_next_server, port_of, relative, runs},
    framework::SERVERS,
    package::Package,
    script::{Program, Started},
};
pub use self::{
    code::GUESS,
    command_line::port_in_command,
    framework::Framework,
    manager::PackageManager,
    running_app::{RunningApp, WebSocket},
    site::{Generator, Site},
};

/// Bundlers of pages, each with the path of its WebSocket for hot module replacement.
const BUNDLERS: [(&str, &str); 6] = [
    ("@docusaurus/core", "/ws"),
    ("@rsbuild/core", "/rsbuild-hmr"),
    ("@rspack/cli", "/ws"),
    ("@vue/cli-service", "/ws"),
    ("react-scripts", "/ws"),
    ("webpack-dev-server", "/ws"),
];

/// Paths of Next.js' WebSocket for hot module replacement, of newer and older versions.
const HMR: [&str; 2] = ["/_next/hmr", "/_next/webpack-hmr"];

edgeway_base::enum_table! {
    /// Kind of app as the configuration names it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
    pub enum App => key {
        Nextjs = "nextjs",
        Node = "node",
        None = "none",
    }
}

/// A project folder.
#[derive(Debug, Default)]
pub struct Project {
    folder: PathBuf,
    package: Option<Package>,
    /// Files that could not be read, and why.
    pub problems: Vec<String>,
}

impl Project {
    pub fn read(folder: &Path) -> Self {
        let mut problems = Vec::new();
        let package = Package::read(folder).unwrap_or_else(|problem| {
            problems.push(problem);
            None
        });
        Self {
            folder: folder.to_owned(),
            package,
            problems,
        }
    }

    /// Returns the project's framework: that of the program which its scripts start, or else the
    /// one among its dependencies.
    pub fn framework(&self) -> Framework {
        let by_package = self.framework_of_package();
        let Some(started) = self.started() else {
            return by_package;
        };
        match (started.program, by_package) {
            (_, Framework::Angular) => Framework::Angular,
            (Program::Next, _) => self.next(),
            // The adapter makes a server for production.
            (Program::VitePreview, known @ (Framework::SvelteKit | Framework::Static(_))) => known,
            (Program::VitePreview, _) => self.vite(),
            (Program::Nest, _) => Framework::Nest,
            (Program::FastifyCli, _) => Framework::Fastify,
            (Program::ReactRouter, _) => Framework::ReactRouter,
            (Program::Remix, _) => Framework::Remix,
            (Program::Module(Some(file)), by_package) => {
                match code::framework(&self.folder, &file) {
                    Some(Framework::Next { .. }) => self.next(),
                    Some(framework) => framework,
                    // It is a server of its own, beside a site that Vite builds.
                    None if matches!(by_package, Framework::VitePreview | Framework::Static(_)) => {
                        Framework::Node
                    }
                    None => by_package,
                }
            }
            (Program::Module(None) | Program::Other, by_package) => by_package,
        }
    }

    fn next(&self) -> Framework {
        if code::has_output(&self.folder, "export") {
            return Framework::Static(Generator::Next);
        }
        Framework::Next {
            standalone: code::has_output(&self.folder, "standalone"),
        }
    }

    /// Returns the framework of a project with Vite: one with a page of its own is built to files.
    fn vite(&self) -> Framework {
        if self.folder.join("index.html").is_file() {
            return Framework::Static(Generator::Vite);
        }
        Framework::VitePreview
    }

    fn framework_of_package(&self) -> Framework {
        let Some(package) = &self.package else {
            return Framework::Node;
        };
        if package.has("next") {
            return self.next();
        }
        // It comes with Express.
        if package.has("@angular/ssr") {
            return Framework::Angular;
        }
        let sites = [
            ("@react-router/serve", Framework::ReactRouter),
            ("@remix-run/serve", Framework::Remix),
            ("@sveltejs/adapter-node", Framework::SvelteKit),
            (
                "@sveltejs/adapter-static",
                Framework::Static(Generator::SvelteKit),
            ),
            ("nuxt", Framework::Nuxt),
            ("@astrojs/node", Framework::Astro),
            ("astro", Framework::Static(Generator::Astro)),
            ("vitepress", Framework::Static(Generator::VitePress)),
            ("@docusaurus/core", Framework::Static(Generator::Docusaurus)),
            ("react-scripts", Framework::Static(Generator::ReactScripts)),
        ];
        let mut known = SERVERS.into_iter().chain(sites);
        let is_it = |name: &str| {
            package.has(name) && (name != "vitepress" || package.builds_vitepress(&self.folder))
        };
        match known.find(|(name, _)| is_it(name)) {
            Some((_, framework)) => framework,
            None if package.has("vite") => self.vite(),
            None => Framework::Node,
        }
    }

    pub fn app(&self) -> App {
        self.framework().app()
    }

    /// Returns the file or folder that `node` would start, if it has a usual name.
    pub fn entry(&self) -> Option<String> {
        let adapted = code::adapted(&self.folder, self.framework_of_package());
        // In `src` a bundler has the code of a page.
        let is_server = |file: &&str| self.bundler().is_none() || !file.contains('/');
        let entry = code::entry(&self.folder).filter(is_server);
        adapted.or_else(|| entry.map(str::to_owned))
    }

    /// Returns the path of the bundler's WebSocket, if the project has a bundler.
    fn bundler(&self) -> Option<&'static str> {
        let package = self.package.as_ref()?;
        let known = BUNDLERS.iter().find(|(name, _)| package.has(name));
        known.map(|(_, path)| *path)
    }

    /// Returns true if an adapter makes the server, whatever the scripts start.
    pub fn has_adapter(&self) -> bool {
        code::adapted(&self.folder, self.framework_of_package()).is_some()
    }

    /// Returns true if the folder has a package.json.
    pub fn has_package(&self) -> bool {
        self.package.is_some()
    }

    /// Returns the script of this name in package.json.
    pub fn script(&self, name: &str) -> Option<&str> {
        self.package.as_ref()?.script(name)
    }

    /// Returns what the scripts of package.json start.
    pub fn started(&self) -> Option<Started> {
        script::started(self.package.as_ref()?)
    }

    /// Returns the module that the scripts start, if they start one.
    fn module(&self) -> Option<String> {
        match self.started()?.program {
            Program::Module(file) => file,
            _ => None,
        }
    }

    pub fn manager(&self) -> PackageManager {
        PackageManager::detect(&self.folder, self.package.as_ref())
    }

    /// Returns the paths of hot module replacement; those of Next.js are below its `basePath`.
    pub fn hmr_paths(&self) -> Vec<String> {
        if let Some(path) = self.bundler().filter(|_| self.app() != App::Nextjs) {
            return vec![path.to_owned()];
        }
        let base = code::base_path(&self.folder).unwrap_or_default();
        HMR.map(|path| format!("{base}{path}")).into()
    }

    /// Returns true if a script runs `next dev`.
    pub fn has_next_dev(&self) -> bool {
        let package = self.package.as_ref();
        package.is_some_and(|package| {
            package
                .scripts()
                .any(|(_, script)| runs(script, "next", "dev"))
        })
    }

    /// Returns the build folder of a Next.js app below its own.
    fn dist(&self) -> String {
        code::dist(&self.folder).unwrap_or_else(|| ".next".to_owned())
    }

    /// Returns the absolute build folder of a Next.js app that was built.
    pub fn build(&self) -> Option<String> {
        let build = std::path::absolute(self.folder.join(self.dist())).ok()?;
        build
            .join("BUILD_ID")
            .exists()
            .then(|| build.display().to_string())
    }

    fn has_build(&self, site: Option<&Site>) -> bool {
        let files = site.map(|site| self.folder.join(&site.folder).is_dir());
        files.unwrap_or_else(|| self.build().is_some())
    }

    /// Returns the apps that the project runs, the site itself first. Files that could not be used
    /// are added to `problems`.
    pub fn apps(&mut self) -> Vec<RunningApp> {
        let mut problems = Vec::new();
        let mut apps = pm2::apps(&self.folder, &mut problems);
        if apps.is_empty() {
            apps = compose::apps(&self.folder, &mut problems);
        }
        if apps.is_empty() && !self.is_server() {
            apps = workspace::apps(self, &mut problems);
        }
        let mut names = Vec::new();
        let mut running_apps: Vec<RunningApp> = apps
            .into_iter()
            .map(|mut app| {
                app.name = pm2::unique(&app.name, &names);
                names.push(app.name.clone());
                let below = Self::read(&self.folder.join(&app.folder));
                // A folder without a package.json of its own is part of this project.
                let project = if below.has_package() { &below } else { &*self };
                let mut running = project.running(app);
                // The file may name a folder of another machine.
                running.has_build = below.has_build(running.site.as_ref());
                running.can_build &= below.script("build").is_some();
                running.nested = manager::within_workspace(&below.folder);
                running
            })
            .collect();
        if running_apps.is_empty() {
            let FoundPort { port, source } = self.port();
            running_apps.push(self.running(Declared {
                name: "web".to_owned(),
                ports: vec![port],
                source,
                workers: 1,
                folder: PathBuf::new(),
                command: None,
            }));
        }
        // The site comes first: a Next.js app, or else files, or else the first in the file.
        let is_next = |app: &RunningApp| matches!(app.framework, Framework::Next { .. });
        let site = running_apps.iter().position(is_next);
        let site = site.or_else(|| running_apps.iter().position(|app| app.site.is_some()));
        let site = running_apps.remove(site.unwrap_or(0));
        running_apps.insert(0, site);
        for other in &mut running_apps[1..] {
            if other.folder.as_os_str().is_empty() {
                // The dependencies are those of the site.
                other.websocket = None;
            }
        }
        self.problems.extend(problems);
        running_apps
    }

    /// Returns the project of an app, which may lie in a folder of this one.
    #[must_use]
    pub fn app_project(&self, app: &RunningApp) -> Self {
        let folder = self.folder.join(&app.folder);
        let below = Self::read(&folder);
        if below.has_package() {
            return below;
        }
        Self::read(&self.folder)
    }

    /// Returns the folder of the first app if this is a workspace of apps, and no app itself.
    pub fn app_of_workspace(&self) -> Option<PathBuf> {
        let apps = if self.is_server() {
            Vec::new()
        } else {
            workspace::apps(self, &mut Vec::new())
        };
        apps.into_iter().next().map(|app| app.folder)
    }

    /// Returns true if the folder itself has a program that could be a server.
    fn is_server(&self) -> bool {
        self.started().is_some()
            || self.framework_of_package() != Framework::Node
            || self.entry().is_some()
    }

    fn running(&self, declared: Declared) -> RunningApp {
        let (source, command) = (declared.source, declared.command);
        let is_container = source.contains("compose");
        let framework = match self.framework() {
            // A server for the files.
            Framework::Static(_) if is_container || command.is_some() => Framework::Node,
            // Another program of the same project, such as one that sends mail.
            Framework::Next { .. } if command.is_some_and(|command| !is_next_server(&command)) => {
                Framework::Node
            }
            framework => framework,
        };
        let site = match framework {
            Framework::Static(generator) => {
                Some(generator.site(&self.folder, self.package.as_ref()))
            }
            _ => None,
        };
        let is_next = matches!(framework, Framework::Next { .. });
        RunningApp {
            name: declared.name,
            framework,
            body_limit: is_next.then(|| code::body_limit(&self.folder)).flatten(),
            nested: manager::within_workspace(&self.folder),
            dist: self.dist().into(),
            has_build: self.has_build(site.as_ref()),
            can_build: self.script("build").is_some() && !is_container,
            ports: declared
                .ports
                .into_iter()
                .filter(|_| site.is_none())
                .collect(),
            source,
            workers: declared.workers,
            folder: declared.folder,
            tls: code::speaks_tls(
                &self.folder,
                self.package.as_ref(),
                self.module().as_deref(),
            ),
            site,
            websocket: self.websocket(),
            health: code::health_path(
                &self.folder,
                self.package.as_ref(),
                self.module().as_deref(),
            ),
        }
    }

    /// Returns the first dependency that serves WebSockets.
    pub fn websocket(&self) -> Option<WebSocket> {
        let package = self.package.as_ref()?;
        let library = |dependency: &str, path| WebSocket {
            dependency: dependency.to_owned(),
            path,
        };
        let first = |names: &[&'static str]| {
            let mut names = names.iter().copied();
            names.find(|name| package.depends_on(name))
        };
        let other = first(&[
            "ws",
            "@nestjs/websockets",
            "@fastify/websocket",
            "@hono/node-ws",
            "express-ws",
            "koa-websocket",
            "uWebSockets.js",
            "graphql-ws",
            "websocket",
            "websocket-stream",
            "aedes-server-factory",
            "engine.io",
            "sockjs",
            "@hocuspocus/server",
        ]);
        if let Some(io) = first(&["socket.io", "@nestjs/platform-socket.io"]) {
            // What another package serves beside it has a path of its own.
            return Some(library(io, other.is_none().then_some("/socket.io/*")));
        }
        other.map(|name| library(name, None))
    }

    /// Returns the port of the only app: from the scripts, the code, or the framework's default.
    fn port(&self) -> FoundPort {
        let framework = self.framework();
        let package = self.package.as_ref();
        let started = self.started();
        let module = self.module();
        let is_fixed = module
            .as_ref()
            .is_some_and(|module| code::has_fixed_port(&self.folder, module));
        let in_scripts = started.and_then(|started| {
            let variable = started.variable.filter(|_| !is_fixed);
            started.argument.or(variable)
        });
        let in_scripts = in_scripts.map(|(port, name)| FoundPort {
            port,
            source: format!("the script `{name}` in package.json"),
        });
        let is_next = matches!(framework, Framework::Next { .. });
        let in_code = || {
            if is_next {
                // It reads no port from such files, but a server of its own does.
                return code::port_of_module(&self.folder, &module?);
            }
            code::port(&self.folder, package, module.as_deref(), framework)
        };
        in_scripts.or_else(in_code).unwrap_or_else(|| FoundPort {
            port: framework.default_port(),
            source: match framework {
                Framework::Next { .. }
                | Framework::ReactRouter
                | Framework::Remix
                | Framework::Hono
                | Framework::SvelteKit
                | Framework::Nuxt
                | Framework::Astro
                | Framework::VitePreview => format!("the default of {}", framework.name()),
                _ => GUESS.to_owned(),
            },
        })
    }
}

/// An app as a process manager's file declares it.
struct Declared {
    name: String,
    ports: Vec<u16>,
    source: String,
    workers: u32,
    folder: PathBuf,
    /// The command line, if the file has it.
    command: Option<String>,
}

/// Returns the port of a gateway in front of apps on these ports.
pub fn gateway_port<'a>(taken: impl Iterator<Item = &'a u16>) -> u16 {
    const FIRST: u16 = 8080;
    let taken: HashSet<u16> = taken.copied().collect();
    let port = (FIRST..=u16::MAX).find(|port| !taken.contains(port));
    port.unwrap_or(FIRST)
}
