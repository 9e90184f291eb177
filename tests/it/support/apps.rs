//! The real apps of `tests/apps` as processes: tests can kill them and restart them on the same
//! port.

use std::{
    fs::{self, File},
    io,
    net::{Ipv4Addr, SocketAddr},
    os::unix::{fs::symlink, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::{
    client::{self, Request, Response, get},
    files::tail,
    gateway::{cpu_of, rss_of},
    ports::free_port,
    wait::until,
};

const READY_WITHIN: Duration = Duration::from_mins(1);

/// Next.js app.
pub(crate) struct NextApp;

impl NextApp {
    pub(crate) async fn start() -> App {
        Self::start_with(&[]).await
    }

    pub(crate) async fn start_with(environment: &[(&str, &str)]) -> App {
        App::start(Kind::Next, environment).await
    }

    /// Returns the instance for all tests that do not change it.
    pub(crate) async fn shared() -> &'static App {
        static SHARED: OnceCell<App> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    pub(crate) async fn several(count: usize) -> Vec<App> {
        let mut apps = Vec::with_capacity(count);
        for _ in 0..count {
            apps.push(Self::start().await);
        }
        apps
    }

    /// Starts the same build, as if it had no `proxy.js`.
    pub(crate) async fn start_without_proxy() -> App {
        // Several tests share the folder, at the same time.
        static LAID_OUT: OnceLock<()> = OnceLock::new();
        LAID_OUT.get_or_init(|| {
            lay_out(Kind::NextBare, &json!({})).expect("the target folder is ours");
        });
        App::start(Kind::NextBare, &[]).await
    }

    /// Starts the same build, as if its `proxy.js` had these matchers. For one test.
    pub(crate) async fn start_with_matchers(matchers: &Value) -> App {
        let functions = json!({ "/_middleware": { "runtime": "nodejs", "matchers": matchers } });
        lay_out(Kind::NextMatching, &functions).expect("the target folder is ours");
        App::start(Kind::NextMatching, &[]).await
    }

    /// Starts the same build, as if it had no `proxy.js`, with more qualities of images and with
    /// the files of `images` as its `public/`. For one test.
    pub(crate) async fn start_with_images(test: &'static str, images: &Path) -> App {
        Self::start_with_images_behind(test, images, &json!({})).await
    }

    /// Starts the same app, with these functions as its proxy.
    pub(crate) async fn start_with_images_behind(
        test: &'static str,
        images: &Path,
        functions: &Value,
    ) -> App {
        let kind = Kind::NextImages(test);
        lay_out_images(kind, images, functions, &json!({}), &json!({}));
        App::start(kind, &[]).await
    }

    /// Starts the same app with further `settings` of images. `written` are those that
    /// `next build` writes in another way.
    pub(crate) async fn start_with_image_settings(
        test: &'static str,
        images: &Path,
        (settings, written): (&Value, &Value),
        environment: &[(&str, &str)],
    ) -> App {
        let kind = Kind::NextImages(test);
        lay_out_images(kind, images, &json!({}), settings, written);
        App::start(kind, environment).await
    }

    /// Lays the same app out, and returns its kind, for a test that starts it.
    pub(crate) fn lay_out_with_image_settings(
        test: &'static str,
        images: &Path,
        (settings, written): (&Value, &Value),
    ) -> Kind {
        let kind = Kind::NextImages(test);
        lay_out_images(kind, images, &json!({}), settings, written);
        kind.require_build();
        kind
    }
}

/// Lays the app out with the files of `images` as its `public/`.
fn lay_out_images(kind: Kind, images: &Path, functions: &Value, settings: &Value, written: &Value) {
    lay_out(kind, functions).expect("the target folder is ours");
    let folder = kind.folder();
    let unlinked = [
        "public",
        "next.config.js",
        ".next/cache",
        ".next/images-manifest.json",
    ];
    for name in unlinked {
        fs::remove_file(folder.join(name)).expect("it is a link");
    }
    for name in ["public", ".next/cache"] {
        fs::create_dir(folder.join(name)).expect("its place is free");
    }
    for entry in fs::read_dir(images).expect("they are drawn") {
        let entry = entry.expect("a file");
        let public = folder.join("public");
        fs::copy(entry.path(), public.join(entry.file_name())).expect("the folder is ours");
        // The proxy of the app lets these pass.
        let passed = public.join("edge/init");
        fs::create_dir_all(&passed).expect("the folder is ours");
        fs::hard_link(
            public.join(entry.file_name()),
            passed.join(entry.file_name()),
        )
        .expect("the folder is ours");
    }
    let app = Kind::Next.folder();
    let config = fs::read_to_string(app.join("next.config.js")).expect("the app has one");
    let more = format!(
        "images: {{ qualities: [40, 75, 90], \
         localPatterns: [{{ pathname: '/**', search: '' }}, {{ pathname: '/**', search: '?v=1' }}], \
         ...{settings},"
    );
    let config = config.replace("images: {", &more);
    fs::write(folder.join("next.config.js"), config).expect("the folder is ours");
    let manifest = fs::read(app.join(".next/images-manifest.json")).expect("it is built");
    let mut manifest: Value = serde_json::from_slice(&manifest).expect("it is JSON");
    manifest["images"]["qualities"] = json!([40, 75, 90]);
    let patterns = manifest["images"]["localPatterns"].as_array_mut();
    let patterns = patterns.expect("the default has one");
    let mut with_query = patterns[0].clone();
    with_query["search"] = "?v=1".into();
    patterns.push(with_query);
    for (name, value) in [settings, written]
        .iter()
        .flat_map(|it| it.as_object().expect("a mapping"))
    {
        manifest["images"][name] = value.clone();
    }
    fs::write(
        folder.join(".next/images-manifest.json"),
        manifest.to_string(),
    )
    .expect("the folder is ours");
}

/// Links all of the app except the manifest with the matchers of its proxy.
fn lay_out(kind: Kind, functions: &Value) -> io::Result<()> {
    const MANIFEST: &str = "functions-config-manifest.json";
    let (app, folder) = (Kind::Next.folder(), kind.folder());
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    for (below, but) in [
        ("", ".next"),
        (".next", "server"),
        (".next/server", MANIFEST),
    ] {
        fs::create_dir_all(folder.join(below))?;
        for entry in fs::read_dir(app.join(below))? {
            let entry = entry?;
            if entry.file_name() != but {
                symlink(entry.path(), folder.join(below).join(entry.file_name()))?;
            }
        }
    }
    fs::write(
        folder.join(".next/server").join(MANIFEST),
        json!({ "version": 1, "functions": functions }).to_string(),
    )
}

/// Pages Router app whose languages, redirects, rewrites and headers depend on the visitor.
pub(crate) struct LanguagesApp;

impl LanguagesApp {
    /// Starts the app, below `/site` or at the root of its hosts.
    pub(crate) async fn start(base: &'static str) -> App {
        App::start(Kind::Languages(base), &[("BASE", base)]).await
    }
}

/// Small apps of older versions: `/isr`, and `/secret` behind a middleware.
pub(crate) struct OldNextApp;

impl OldNextApp {
    /// Starts the app on Next.js 15.2.2.
    pub(crate) async fn start_15() -> App {
        App::start(Kind::Next15, &[]).await
    }

    /// Starts the app on Next.js 14.2.24.
    pub(crate) async fn start_14() -> App {
        App::start(Kind::Next14, &[]).await
    }
}

/// Express app.
pub(crate) struct ExpressApp;

impl ExpressApp {
    pub(crate) async fn start() -> App {
        App::start(Kind::Express, &[]).await
    }

    /// Starts the app with environment variables such as `("LATENCY_MS", "2000")`.
    pub(crate) async fn start_with(environment: &[(&str, &str)]) -> App {
        App::start(Kind::Express, environment).await
    }

    pub(crate) async fn several(count: usize) -> Vec<App> {
        let mut apps = Vec::with_capacity(count);
        for _ in 0..count {
            apps.push(Self::start().await);
        }
        apps
    }
}

/// App with a few handlers in one of many frameworks: `tests/apps/frameworks/server.js`.
pub(crate) struct FrameworkApp;

impl FrameworkApp {
    pub(crate) const ALL: [&str; 8] = [
        "express4",
        "express5",
        "fastify",
        "fastify_loose",
        "hono",
        "koa",
        "nest",
        "url",
    ];

    pub(crate) async fn start(name: &'static str) -> App {
        App::start(Kind::Framework(name), &[]).await
    }
}

/// Kind of app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Next,
    /// Next.js app without its `proxy.js`.
    NextBare,
    /// Next.js app with other matchers for its `proxy.js`.
    NextMatching,
    /// Next.js app with images, for the test of this name.
    NextImages(&'static str),
    /// Next.js app with languages, below this path.
    Languages(&'static str),
    Next15,
    Next14,
    Express,
    Framework(&'static str),
}

fn apps() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/apps")
}

/// Returns a folder of the tests, another one with each driver: both may run at the same time.
pub(crate) fn made(name: &str) -> PathBuf {
    let driver = std::env::var("EDGEWAY_TEST_DRIVER").unwrap_or_default();
    Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(driver)
        .join(name)
}

impl Kind {
    pub(crate) fn folder(self) -> PathBuf {
        let name = match self {
            Self::NextBare => return made("next-without-proxy"),
            Self::NextMatching => return made("next-with-matchers"),
            Self::NextImages(test) => return made(&format!("next-with-images-{test}")),
            Self::Next => "next",
            Self::Languages(_) => "next/languages",
            Self::Next15 => "next15",
            Self::Next14 => "next14",
            Self::Express => "express",
            Self::Framework(_) => "frameworks",
        };
        apps().join(name)
    }

    /// Output folder of `next build`.
    pub(crate) fn build(self) -> PathBuf {
        let name = match self {
            Self::Languages("") => ".next/plain",
            Self::Languages(_) => ".next/based",
            _ => ".next",
        };
        self.folder().join(name)
    }

    pub(crate) fn health(self) -> &'static str {
        match self {
            Self::Next | Self::NextBare | Self::NextMatching | Self::NextImages(_) => "/api/health",
            Self::Languages("") => "/other",
            Self::Languages(_) => "/site/other",
            Self::Next15 | Self::Next14 => "/login",
            Self::Express | Self::Framework(_) => "/health",
        }
    }

    pub(crate) fn require_build(self) {
        let built = match self {
            Self::Next
            | Self::NextBare
            | Self::NextMatching
            | Self::NextImages(_)
            | Self::Languages(_)
            | Self::Next15
            | Self::Next14 => self.build().join("BUILD_ID"),
            Self::Express => self.folder().join("node_modules/express"),
            Self::Framework(_) => self.folder().join("node_modules/.stamp"),
        };
        assert!(
            built.exists(),
            "the app in {} is not built: run `make test`, or tests/apps/build.sh",
            self.folder().display()
        );
    }

    fn command(self, port: u16) -> Command {
        let mut command = Command::new("node");
        command
            .arg("--import")
            .arg(apps().join("end-with-parent.js"));
        let next = match self {
            Self::Languages(_) => "../node_modules/next/dist/bin/next",
            _ => "node_modules/next/dist/bin/next",
        };
        // By its address, Next.js sends itself what its proxy rewrites: its handlers see the new path,
        // as they do behind a proxy at the edge. By name they see the path of the client.
        let host = match self {
            Self::Next => "127.0.0.1",
            _ => "localhost",
        };
        match self {
            Self::Next
            | Self::NextBare
            | Self::NextMatching
            | Self::NextImages(_)
            | Self::Languages(_)
            | Self::Next15
            | Self::Next14 => command
                .arg(next)
                .args(["start", "-H", host, "-p"])
                .arg(port.to_string())
                .env("NODE_OPTIONS", "--dns-result-order=ipv4first"),
            Self::Express => command.arg("server.js").env("PORT", port.to_string()),
            Self::Framework(name) => command
                .arg("server.js")
                .arg(name)
                .env("PORT", port.to_string()),
        };
        command
            .current_dir(self.folder())
            .env("NODE_ENV", "production")
            .env("NEXT_TELEMETRY_DISABLED", "1");
        command
    }
}

/// Process of an app; killed when dropped.
#[derive(Debug)]
pub(crate) struct App {
    kind: Kind,
    port: u16,
    environment: Vec<(String, String)>,
    child: Child,
    dir: TempDir,
}

impl App {
    async fn start(kind: Kind, environment: &[(&str, &str)]) -> Self {
        kind.require_build();
        let environment: Vec<(String, String)> = environment
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let mut output = String::new();
        // Another process on this machine may take the port before the app binds it.
        for _ in 0..5 {
            let port = free_port();
            let dir = tempfile::tempdir().expect("a folder for the test can be made");
            let child = spawn(kind, port, &environment, &dir);
            let mut app = Self {
                kind,
                port,
                environment: environment.clone(),
                child,
                dir,
            };
            if app.is_ready().await {
                return app;
            }
            output = tail(&app.dir.path().join("output"));
        }
        panic!("the {kind:?} app did not start:\n{output}");
    }

    /// Returns true once the health check succeeds, false if the process exits before.
    async fn is_ready(&mut self) -> bool {
        let (address, health) = (self.address(), self.kind.health());
        let child = &mut self.child;
        let ready = until(READY_WITHIN, &mut async || {
            if child.try_wait().is_ok_and(|ended| ended.is_some()) {
                return Some(false);
            }
            let response = client::send(address, &get(health)).await.ok()?;
            (response.status() == 200).then_some(true)
        })
        .await;
        ready.unwrap_or(false)
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    pub(crate) async fn send(&self, request: &Request) -> Response {
        let sent = client::send(self.address(), request).await;
        sent.expect("the app responds")
    }

    pub(crate) async fn get(&self, target: &str) -> Response {
        self.send(&get(target)).await
    }

    /// Returns the counters of the Express app.
    pub(crate) async fn stats(&self) -> Value {
        self.get("/stats").await.json()
    }

    /// Returns the number of event streams that clients closed before their end.
    pub(crate) async fn cancelled_feeds(&self) -> u64 {
        let (stats, name) = match self.kind {
            Kind::Next
            | Kind::NextBare
            | Kind::NextMatching
            | Kind::NextImages(_)
            | Kind::Languages(_)
            | Kind::Next15
            | Kind::Next14 => (self.get("/api/sse?stats").await.json(), "cancelled"),
            Kind::Express | Kind::Framework(_) => (self.stats().await, "cancelledFeeds"),
        };
        stats[name].as_u64().expect("the app counts its feeds")
    }

    pub(crate) fn rss(&self) -> u64 {
        rss_of(self.child.id())
    }

    /// CPU time since the start.
    pub(crate) fn cpu(&self) -> Duration {
        cpu_of(self.child.id())
    }

    /// Runs `kill -9`: sockets break, nothing is finished.
    pub(crate) fn kill(&mut self) {
        // Once it was waited for, another process may have its id.
        if matches!(self.child.try_wait(), Ok(None)) {
            kill_process_group(Pid::from_child(&self.child), Signal::KILL)
                .expect("a process that was not waited for keeps its id");
            self.child
                .wait()
                .expect("a child of ours can be waited for");
        }
    }

    /// Asks the app to exit, as a deploy does.
    pub(crate) fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("the app runs");
    }

    /// Returns true once the process has exited.
    pub(crate) fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Starts a killed app again on the same port.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        self.child = spawn(self.kind, self.port, &self.environment, &self.dir);
        assert!(
            self.is_ready().await,
            "{:?} app did not come back on port {}",
            self.kind,
            self.port
        );
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let output = tail(&self.dir.path().join("output"));
            eprintln!(
                "--- the {:?} app on {} logged:\n{output}",
                self.kind, self.port
            );
        }
    }
}

fn spawn(kind: Kind, port: u16, environment: &[(String, String)], dir: &TempDir) -> Child {
    let output = File::options()
        .create(true)
        .append(true)
        .open(dir.path().join("output"))
        .expect("the folder takes files");
    let mut command = kind.command(port);
    for (name, value) in environment {
        command.env(name, value);
    }
    command
        .process_group(0)
        // The test holds it open: when the test ends for any reason, the app exits too.
        .stdin(Stdio::piped())
        .stdout(output.try_clone().expect("a file can be shared"))
        .stderr(output)
        .spawn()
        .expect("node is installed")
}

/// Returns `host:port` of each app, as a YAML list.
pub(crate) fn backends(apps: &[App]) -> String {
    let list: Vec<String> = apps.iter().map(|app| app.address().to_string()).collect();
    list.join(", ")
}
