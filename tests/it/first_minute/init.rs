//! `edgeway init`: a configuration from what a project's files say, for the usual kinds of project.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::Home;
use crate::{
    cli::snapshot,
    support::{
        apps::{ExpressApp, FrameworkApp, NextApp},
        client::{self, get},
        ports::free_port,
        sockets,
        wait::wait_for,
    },
};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("folders can be made");
    for entry in fs::read_dir(from).expect("the fixture is there") {
        let entry = entry.expect("it can be read");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("the folder takes files");
        }
    }
}

fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new("tests/it/first_minute/projects");
    let entries = fs::read_dir(folder).expect("the fixtures are there");
    let mut all: Vec<PathBuf> = entries
        .map(|entry| entry.expect("it can be read").path())
        .collect();
    all.sort();
    all
}

/// Invariant: for each kind of project, the written file has no findings.
#[test]
fn eight_kinds_of_project_get_a_configuration_without_findings() {
    let mut pages = String::new();
    let all = fixtures();
    assert!(all.len() >= 8, "{all:?}");
    for fixture in all {
        let home = Home::new();
        let name = fixture
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        copy(&fixture, &home.project());
        if name == "next" {
            super::write(&home.project(), &[(".next/BUILD_ID", "x")]);
        }
        let (status, stdout, printed) = home.run(&["init"]);
        assert_eq!((status, stdout.as_str()), (0, ""), "{name}: {printed}");
        assert!(!printed.contains("warning"), "{name}: {printed}");
        let (status, _, findings) = home.run(&["check"]);
        assert_eq!(status, 0, "{name}: {findings}");
        assert!(findings.contains("well formed"), "{name}: {findings}");
        let yaml = fs::read_to_string(home.project().join("edgeway.yaml")).expect("it is written");
        let printed = printed.replace(&*home.project().to_string_lossy(), "/srv/project");
        let _infallible = writeln!(pages, "==== {name}\n{yaml}\n---- printed\n{printed}");

        let (status, _, refused) = home.run(&["init"]);
        assert_eq!(status, 1, "{name}");
        assert!(refused.contains("--force"), "{refused}");
        assert_eq!(home.run(&["init", "--force"]).0, 0, "{name}");
    }
    snapshot!("init", pages);
}

/// Serves a project in front of an app of its kind, which listens on another port than its files
/// say; returns the port of the gateway.
pub(super) async fn serve(home: &Home, app_port: u16) -> (super::Foreground, std::net::SocketAddr) {
    let folder = home.project();
    let package = fs::read_to_string(folder.join("package.json")).expect("it is there");
    let start = format!("\"start\": \"PORT={app_port} node server.js\"");
    let package = if package.contains("\"start\"") {
        package.replace("\"next start\"", &format!("\"next start -p {app_port}\""))
    } else {
        package.replacen('{', &format!("{{\n \"scripts\": {{ {start} }},"), 1)
    };
    fs::write(folder.join("package.json"), package).expect("the folder takes files");
    let (status, _, stderr) = home.run(&["init"]);
    assert_eq!(status, 0, "{stderr}");
    let path = folder.join("edgeway.yaml");
    let yaml = fs::read_to_string(&path).expect("it is written");
    assert!(
        yaml.contains(&format!("backends: [127.0.0.1:{app_port}]")),
        "{yaml}"
    );
    let port = free_port();
    let yaml = yaml.replace(
        "address: 127.0.0.1:8080",
        &format!("address: 127.0.0.1:{port}"),
    );
    fs::write(&path, format!("{yaml}admin: {{ address: off }}\n")).expect("the folder takes files");
    let address = format!("127.0.0.1:{port}").parse().expect("an address");
    (home.start(&["run"]).await, address)
}

#[tokio::test]
async fn a_real_next_app_is_served_with_what_init_writes() {
    let next = NextApp::shared().await;
    let home = Home::new();
    let folder = next.kind().folder();
    for name in ["package.json", "next.config.js"] {
        fs::copy(folder.join(name), home.project().join(name)).expect("the folder takes files");
    }
    for name in [".next", "app", "proxy.js"] {
        symlink(folder.join(name), home.project().join(name)).expect("the folder takes links");
    }
    let (_gateway, address) = serve(&home, next.port()).await;
    let ask = async |path: &str| {
        let response = client::send(address, &get(path))
            .await
            .expect("it responds");
        let cache = response.header("x-cache-status").unwrap_or_default();
        (response.status(), cache.to_owned())
    };
    wait_for("a page is stored", Duration::from_secs(20), async || {
        (ask("/isr").await == (200, "HIT".to_owned())).then_some(())
    })
    .await;
    assert_eq!(ask("/secret").await, (307, "BYPASS".to_owned()));
}

#[tokio::test]
async fn a_real_express_app_with_websockets_is_served_with_what_init_writes() {
    let express = ExpressApp::start().await;
    let home = Home::new();
    let folder = express.kind().folder();
    for name in ["package.json", "server.js"] {
        fs::copy(folder.join(name), home.project().join(name)).expect("the folder takes files");
    }
    let (_gateway, address) = serve(&home, express.port()).await;
    let response = client::send(address, &get("/health"))
        .await
        .expect("it responds");
    assert_eq!(response.status(), 200);
    let yaml = fs::read_to_string(home.project().join("edgeway.yaml")).expect("it is there");
    assert!(yaml.contains("health: { path: /health }"), "{yaml}");
    assert!(sockets::echoes(&mut sockets::open(address).await, "hello").await);
}

#[tokio::test]
async fn apps_of_other_frameworks_are_served_with_what_init_writes() {
    for (framework, dependency, title) in [
        ("fastify", "fastify", "Fastify"),
        ("hono", "hono", "Hono"),
        ("nest", "@nestjs/core", "NestJS"),
    ] {
        let app = FrameworkApp::start(framework).await;
        let home = Home::new();
        let package = format!("{{ \"dependencies\": {{ \"{dependency}\": \"*\" }} }}");
        super::write(&home.project(), &[("package.json", &package)]);
        let (_gateway, address) = serve(&home, app.port()).await;
        let yaml = fs::read_to_string(home.project().join("edgeway.yaml")).expect("it is there");
        assert!(yaml.contains(&format!("in front of {title}")), "{yaml}");
        let response = client::send(address, &get("/open"))
            .await
            .expect("it responds");
        assert_eq!(response.header("x-handler"), Some("open"), "{framework}");
    }
}

/// Invariant: no file is named that is not there.
#[test]
fn a_program_without_a_package_is_found_by_its_name() {
    for (file, start) in [
        ("app.mjs", "node app.mjs"),
        ("server.cjs", "node server.cjs"),
        ("tool.js", "start your app"),
    ] {
        let home = Home::new();
        let code = "createServer(reply).listen(process.env.PORT ?? 23700, '127.0.0.1');";
        super::write(&home.project(), &[(file, code)]);
        let (status, _, printed) = home.run(&["init"]);
        assert_eq!(status, 0, "{printed}");
        assert!(printed.contains(start), "{file}: {printed}");
        let is_found = start.starts_with("node ");
        assert_eq!(printed.contains("23700"), is_found, "{file}: {printed}");
        assert!(!printed.contains("node server.js"), "{file}: {printed}");
    }
}

#[test]
fn a_file_that_cannot_be_written_leaves_what_was_there() {
    let home = Home::new();
    let path = home.project().join("edgeway.yaml");
    let nginx = home.project().with_file_name("nginx.conf");
    fs::write(&nginx, "http { server { return 200 hi; } }").expect("the folder takes files");
    let init = "init --force";
    let import = "import nginx ../nginx.conf --out edgeway.yaml --force";
    for (command, old) in [(init, None), (init, Some("old")), (import, Some("old"))] {
        if let Some(old) = old {
            fs::write(&path, old).expect("the folder takes files");
        }
        // As on a full disk, but for this program alone.
        let mut init = Command::new("sh");
        let script = format!("trap '' XFSZ; ulimit -f 0; exec \"$0\" {command}");
        init.args(["-c", &script]);
        init.arg(env!("CARGO_BIN_EXE_edgeway"));
        let ended = init.current_dir(home.project()).output();
        let ended = ended.expect("a shell is there");
        assert!(!ended.status.success(), "{ended:?}");
        assert_eq!(fs::read_to_string(&path).ok().as_deref(), old);
        assert_eq!(
            fs::read_dir(home.project()).unwrap().count(),
            usize::from(old.is_some())
        );
    }
}
