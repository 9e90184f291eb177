//! Gateway whose upstream has releases, and the commands that put them there.

use std::{
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{
    client::find, files::read_text, fleet::edgeway, gateway::Gateway, ports::free_ports,
    redis::Redis, wait::wait_for,
};

const SOON: Duration = Duration::from_secs(20);

/// Line of the section that starts an instance.
const START_NEXT: &str =
    "      start: [node, node_modules/next/dist/bin/next, start, -H, 127.0.0.1]";

/// Folder of a release that `tests/apps/build.sh` has built.
pub(crate) fn built(name: &str) -> PathBuf {
    let builds = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/apps/next/releases/builds");
    let build = builds.join(name);
    let is_there = build.join(".next/BUILD_ID").exists();
    assert!(is_there, "`{name}` is not built: run tests/apps/build.sh");
    build
}

/// A gateway with releases in a folder of its own.
pub(crate) struct Site {
    pub(crate) gateway: Gateway,
    pub(crate) folder: tempfile::TempDir,
}

impl Site {
    /// Starts the gateway for Next.js; `more` are further lines of `releases`.
    pub(crate) async fn start(more: &str) -> Self {
        Self::start_app("/shop", &format!("{START_NEXT}\n{more}")).await
    }

    /// Starts one of several gateways for Next.js that share what they store in Redis.
    pub(crate) async fn start_sharing(redis: &Redis, more: &str) -> Self {
        let shared = format!(
            "redis: {}\ncache: {{ shared: redis }}",
            redis.section(", timeout: 1s")
        );
        Self::start_with(&shared, "/shop", &format!("{START_NEXT}\n{more}")).await
    }

    /// Starts the gateway for an app with this path for checks; `releases` are lines of the section,
    /// `start` among them. A release has one instance unless they say another number.
    pub(crate) async fn start_app(health: &str, releases: &str) -> Self {
        Self::start_with("", health, releases).await
    }

    async fn start_with(sections: &str, health: &str, releases: &str) -> Self {
        Self::start_in(sections, health, releases, |_| ()).await
    }

    /// Starts the gateway for an app as [`Site::start_app`] does, with further sections and with the
    /// files that `prepare` writes into its folder.
    pub(crate) async fn start_in(
        sections: &str,
        health: &str,
        releases: &str,
        prepare: impl FnOnce(&Path),
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the test can be made");
        let first = free_ports(8);
        let last = first + 7;
        let instances = if releases.contains("instances:") {
            ""
        } else {
            "\n      instances: 1"
        };
        let yaml = format!(
            "
{sections}
access_log: {{ file: access.log, fields: [path, query, status, release, cache_why] }}
upstreams:
  web:
    app: nextjs
    health: {{ path: {health}, interval: 1s, interval_down: 100ms }}
    releases:
      folder: {}
      ports: {first}-{last}{instances}
{releases}
routes:
  - match: {{ path: /* }}
    upstream: web
    cache: {{}}
",
            folder.path().display()
        );
        Self {
            gateway: Gateway::start_in(&yaml, prepare).await,
            folder,
        }
    }

    pub(crate) async fn run(&self, arguments: &[&str]) -> String {
        let ran = edgeway(&self.gateway, arguments).await;
        assert_eq!(ran.status, Some(0), "{arguments:?}: {}", ran.stderr);
        ran.stdout
    }

    pub(crate) async fn deploy(&self, build: &str) {
        let folder = built(build);
        let folder = folder.to_str().expect("the path is text");
        self.run(&["deploy", "web", folder, "--name", build]).await;
    }

    /// Command line of a command of ours, for a script.
    pub(crate) fn command(&self, arguments: &[&str]) -> Value {
        let socket = format!("EDGEWAY_ADMIN_SOCKET={}", self.gateway.admin_socket());
        let before = ["env", &socket, env!("CARGO_BIN_EXE_edgeway")];
        json!([&before[..], arguments].concat())
    }

    pub(crate) fn deploying(&self, build: &str) -> Value {
        let folder = built(build);
        let folder = folder.to_str().expect("the path is text");
        self.command(&["deploy", "web", folder, "--name", build])
    }

    pub(crate) async fn releases(&self) -> Vec<Value> {
        let list = self.run(&["deploys", "web", "--json"]).await;
        let list: Value = serde_json::from_str(&list).expect("it prints JSON");
        let list = list["releases"].as_array().expect("a list");
        list.clone()
    }

    /// Ends the instances of a release, and their supervisors.
    pub(crate) async fn end_instances(&self, release: &str) {
        let folder = self.folder.path();
        let links = fs::read_dir(folder.join("instances")).expect("it is there");
        for link in links {
            let link = link.expect("it can be read").path();
            let to = fs::read_link(&link).expect("it is a link");
            if to.file_name().is_some_and(|name| name == release) {
                let port = link.file_name().expect("it has a name").to_string_lossy();
                let pid = folder.join(format!(".state/instance-{port}.pid"));
                let id = read_text(pid).expect("it is there");
                let id = id.trim().parse().ok().and_then(Pid::from_raw);
                kill_process(id.expect("an id"), Signal::TERM).expect("it runs");
                let address = format!("127.0.0.1:{port}");
                wait_for("the instance accepts no connection", SOON, async || {
                    tokio::net::TcpStream::connect(&address).await.err()
                })
                .await;
            }
        }
    }

    pub(crate) async fn state(&self, release: &str) -> String {
        let releases = self.releases().await;
        let own = releases.iter().find(|listed| listed["name"] == release);
        own.map_or("none".to_owned(), |own| {
            own["state"].as_str().expect("a word").to_owned()
        })
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        end_retiring(self.gateway.admin_socket());
        end_processes(self.folder.path());
    }
}

/// Kills the processes that end replaced releases, also those that wait for the lock of another
/// one: they are no children of the gateway, and would wait for it to come back.
pub(crate) fn end_retiring(socket: &str) {
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(command) = read_text(process.path().join("cmdline")) else {
            continue;
        };
        let mut arguments = command.split('\0');
        if arguments.clone().any(|it| it == "retire-releases") && arguments.any(|it| it == socket) {
            let id = process.file_name();
            let id = id.to_str().and_then(|id| id.parse().ok());
            if let Some(id) = id.and_then(Pid::from_raw) {
                // It may have ended by itself.
                let _sent = kill_process(id, Signal::KILL);
            }
        }
    }
}

/// Returns the processes that run in a folder of releases: its apps.
pub(crate) fn processes(folder: &Path) -> Vec<String> {
    let folder = folder.canonicalize().unwrap();
    let all = fs::read_dir("/proc").expect("Linux has it").flatten();
    let folders = all.filter_map(|entry| fs::read_link(entry.path().join("cwd")).ok());
    let below =
        folders.filter_map(|cwd| Some(cwd.strip_prefix(&folder).ok()?.display().to_string()));
    below.collect()
}

/// Returns all processes of a folder of releases: the apps, which run in it, their supervisors, whose
/// arguments name it, and the one that ends releases, which has a lock there.
pub(crate) fn all_processes(folder: &Path) -> Vec<Pid> {
    let number = |text: &str| text.trim().parse().ok().and_then(Pid::from_raw);
    let is_below = |path: &Path| {
        let cwd = fs::read_link(path.join("cwd"));
        let arguments = fs::read(path.join("cmdline")).unwrap_or_default();
        cwd.is_ok_and(|cwd| cwd.starts_with(folder))
            || find(&arguments, folder.as_os_str().as_bytes()).is_some()
    };
    let all = fs::read_dir("/proc").expect("Linux has it").flatten();
    let mut ids: Vec<Pid> = all
        .filter(|entry| is_below(&entry.path()))
        .filter_map(|entry| number(entry.file_name().to_str()?))
        .collect();
    let lock = folder.join(".state/retire.lock");
    if fs::File::open(&lock).is_ok_and(|file| file.try_lock().is_err()) {
        ids.extend(number(&read_text(&lock).unwrap_or_default()));
    }
    ids
}

/// Ends the instances in a folder of releases: they are no children of the gateway.
pub(crate) fn end_processes(folder: &Path) {
    for entry in fs::read_dir(folder.join(".state"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let path = entry.path();
        let names_one = path
            .extension()
            .is_some_and(|it| it == "pid" || it == "lock");
        let Ok(text) = read_text(&path) else {
            continue;
        };
        let is_running = fs::File::open(&path).is_ok_and(|file| file.try_lock().is_err());
        let id = text.trim().parse().ok().and_then(Pid::from_raw);
        if let (true, true, Some(id)) = (names_one, is_running, id) {
            // It may end by itself.
            let _sent = kill_process(id, Signal::TERM);
        }
    }
}

/// An app without Next.js whose releases behave as `behaviour.json` of their folder says. Each
/// response names its release.
const TRIED_APP: &str = r"
const http = require('node:http');
const { errors, cuts, delay } = require('./behaviour.json');
http.createServer((request, response) => {
  if (request.url === '/health') return response.end('ok');
  response.setHeader('x-release', process.env.EDGEWAY_RELEASE);
  if (Math.random() < errors) response.statusCode = 500;
  if (Math.random() < cuts) {
    response.setHeader('content-length', 10);
    response.write('ok');
    return setTimeout(() => response.destroy(), 20);
  }
  setTimeout(() => response.end('ok'), delay);
}).listen(process.env.PORT, process.env.HOST ?? 'unknown');
";

/// Behaviour of an app that is tried.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Behaviour {
    /// Probability that a request fails.
    pub(crate) errors: f64,
    /// Probability that a response breaks off.
    pub(crate) cuts: f64,
    /// Time that a response takes.
    pub(crate) delay: Duration,
}

/// Makes a release.
pub(crate) fn tried_app(behaviour: Behaviour) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder for the test can be made");
    let write = |name: &str, text: &str| {
        fs::write(folder.path().join(name), text).expect("the folder takes files");
    };
    fs::create_dir_all(folder.path().join(".next/server")).expect("it can be made");
    write(".next/BUILD_ID", &format!("build-{behaviour:?}"));
    write("server.js", TRIED_APP);
    let Behaviour {
        errors,
        cuts,
        delay,
    } = behaviour;
    let delay = delay.as_millis() as u64;
    let behaviour = json!({ "errors": errors, "cuts": cuts, "delay": delay });
    write("behaviour.json", &behaviour.to_string());
    folder
}
