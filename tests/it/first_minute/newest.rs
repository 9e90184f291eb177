//! The app that the newest `create-next-app` makes, built by the steps of docs/guides/nextjs.md
//! (tests/apps/newest/build.mjs), behind the gateway with the configuration that `init` writes.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::process::{Child, Command};

use super::{Home, init::serve};
use crate::support::{
    client::{self, Request, Response, get, post},
    ports::free_port,
    wait::wait_for,
};

const SOON: Duration = Duration::from_secs(20);
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/apps/newest/app");
    let server = folder.join(".next/standalone/server.js");
    assert!(server.exists(), "run `make test`, or tests/apps/build.sh");
    folder
}

/// Starts the app by the command that `init` prints, on another port.
fn start(home: &Home, port: u16) -> Child {
    let (status, _, printed) = home.run(&["init"]);
    assert_eq!(status, 0, "{printed}");
    fs::remove_file(home.project().join("edgeway.yaml")).expect("it is written");
    let line = printed.lines().find(|line| line.contains("server.js  "));
    let (line, _) = line.and_then(|line| line.split_once('#')).expect(&printed);
    let line = line.replace("PORT=3000", &format!("PORT={port}"));
    Command::new("sh")
        .args(["-c", &format!("exec env {line}")])
        .current_dir(home.project())
        .env("EDGEWAY_FAN_OUT_TOKEN", TOKEN)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("node starts")
}

async fn ask(to: SocketAddr, request: &Request) -> Response {
    client::send(to, request).await.expect("it responds")
}

fn cache_of(response: &Response) -> &str {
    response.header("x-cache-status").unwrap_or_default()
}

/// Checks the guide's claim about a page that may be stored: MISS, then HIT.
async fn is_stored(gateway: SocketAddr, path: &str) -> String {
    let first = ask(gateway, &get(path)).await;
    assert_eq!(first.status(), 200, "{path}: {}", first.text());
    assert_eq!(cache_of(&first), "MISS", "{path}");
    let second = wait_for("the page is stored", SOON, async || {
        let response = ask(gateway, &get(path)).await;
        (cache_of(&response) == "HIT").then_some(response)
    });
    second.await.text()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_app_works_by_the_guide() {
    let package = folder().join("package.json");
    let package = fs::read_to_string(package).expect("it is there");
    let version = package.lines().find(|line| line.contains("\"next\":"));
    eprintln!("generated app with {}", version.unwrap_or_default().trim());
    let home = Home::new();
    for name in ["package.json", "next.config.ts"] {
        fs::copy(folder().join(name), home.project().join(name)).expect("the folder takes files");
    }
    for name in [".next", "app"] {
        symlink(folder().join(name), home.project().join(name)).expect("the folder takes links");
    }
    let port = free_port();
    let _app = start(&home, port);
    let app = SocketAddr::from(([127, 0, 0, 1], port));
    wait_for("the app responds", SOON, async || {
        client::send(app, &get("/api/health")).await.ok()
    })
    .await;
    let (_gateway, gateway) = serve(&home, port).await;
    let path = home.project().join("edgeway.yaml");
    let yaml = fs::read_to_string(path).expect("it is written");
    assert!(yaml.contains("health: { path: /api/health }"), "{yaml}");

    let home_page = is_stored(gateway, "/").await;
    let news = is_stored(gateway, "/news").await;
    assert!(news.contains("<main>20"), "{news}");
    let (_, rest) = home_page.split_once("/_next/static/").expect("a chunk");
    let chunk: String = rest.chars().take_while(|it| *it != '"').collect();
    is_stored(gateway, &format!("/_next/static/{chunk}")).await;
    for _ in 0..2 {
        let health = ask(gateway, &get("/api/health")).await;
        assert_eq!(
            (health.status(), &*health.text()),
            (200, r#"{"status":"ok"}"#)
        );
        assert_ne!(cache_of(&health), "HIT");
    }
    for (token, status) in [(TOKEN, 200), ("wrong", 401)] {
        let purge = post(
            "/api/edgeway/revalidate",
            r#"{"paths":["/news"],"tags":["posts"]}"#,
        )
        .header("authorization", format!("Bearer {token}"));
        assert_eq!(ask(app, &purge).await.status(), status, "{token}");
    }
}
