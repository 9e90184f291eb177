//! `edgeway dev`: the project's own script behind the gateway, from the first line to the last
//! process.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{Foreground, Home, output};
use crate::support::{
    apps::{Kind, made},
    client::{self, get},
    gateway::{Gateway, is_alive},
    ports::free_port,
    wait::wait_for,
};

const BROWSER: &str = "/usr/bin/chromium-headless-shell";

/// A server that any Node has, with one WebSocket-free page.
const SERVER: &str = "
const server = require('node:http').createServer((request, response) => {
  if (request.url === '/end') process.exit(3);
  response.end(`pid ${process.pid}`);
});
server.listen(process.env.PORT, '127.0.0.1');
process.on('SIGTERM', () => process.exit(0));
";

const PACKAGE: &str = "{ \"name\": \"small\", \"scripts\": { \"dev\": \"node server.js\" } }";

/// Returns the port of the app, which the gateway prints.
fn app_port(gateway: &Foreground) -> u16 {
    let text = gateway.text();
    let port = text
        .split("` on port ")
        .nth(1)
        .and_then(|rest| rest.lines().next());
    port.and_then(|port| port.trim().parse().ok())
        .unwrap_or_else(|| panic!("no port: {text}"))
}

async fn page(address: SocketAddr) -> String {
    wait_for("the app responds", Duration::from_mins(4), async || {
        // An app that compiles the page now may take longer than a client waits.
        let response = client::send(address, &get("/")).await.ok()?;
        (response.status() == 200).then(|| response.text())
    })
    .await
}

/// Invariant: no process of the script outlives the gateway, however that ends.
#[tokio::test]
async fn the_script_ends_with_the_gateway_however_that_ends() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::KILL] {
        let home = Home::new();
        super::write(
            &home.project(),
            &[("server.js", SERVER), ("package.json", PACKAGE)],
        );
        let listen = free_port();
        let mut gateway = home.start(&["dev", "--listen", &listen.to_string()]).await;
        let pid = page(([127, 0, 0, 1], listen).into()).await;
        let pid: u32 = pid
            .trim_start_matches("pid ")
            .parse()
            .expect("the app says its pid");
        gateway
            .prints(&format!("open http://localhost:{listen}"))
            .await;
        let port = app_port(&gateway);
        gateway.signal(signal);
        let status = gateway.ends(Duration::from_secs(15)).await;
        if signal != Signal::KILL {
            assert_eq!(status.code(), Some(0), "{signal:?}");
        }
        wait_for("the app has ended", Duration::from_secs(10), async || {
            (!is_alive(pid)).then_some(())
        })
        .await;
        // The threads of a process may outlive its first one for a moment.
        wait_for("nothing listens", Duration::from_secs(10), async || {
            let refused = TcpStream::connect(("127.0.0.1", port)).is_err();
            refused.then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn the_gateway_ends_with_a_script_that_fails() {
    let home = Home::new();
    super::write(
        &home.project(),
        &[("server.js", SERVER), ("package.json", PACKAGE)],
    );
    let listen = free_port();
    let mut gateway = home.start(&["dev", "--listen", &listen.to_string()]).await;
    let address: SocketAddr = ([127, 0, 0, 1], listen).into();
    page(address).await;
    // It may be retried, and the second attempt finds no app.
    drop(client::send(address, &get("/end")).await);
    let status = gateway.ends(Duration::from_secs(15)).await;
    assert_eq!(status.code(), Some(1));
    assert!(gateway.text().contains("has ended"), "{}", gateway.text());
}

#[tokio::test]
async fn an_app_with_a_port_of_its_own_is_reported() {
    let home = Home::new();
    let server = format!(
        "require('node:http').createServer().listen({}, '127.0.0.1');",
        free_port()
    );
    super::write(
        &home.project(),
        &[("server.js", &*server), ("package.json", PACKAGE)],
    );
    let listen = free_port();
    let gateway = home.start(&["dev", "--listen", &listen.to_string()]).await;
    wait_for("the message", Duration::from_secs(30), async || {
        let text = gateway.text();
        (text.contains("nothing listens on port") && text.contains("process.env.PORT"))
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn each_app_of_a_workspace_needs_a_port_which_is_reported() {
    let home = Home::new();
    let root =
        r#"{ "workspaces": ["apps/*"], "scripts": { "dev": "npm --prefix apps/web run dev" } }"#;
    let server = format!(
        "require('node:http').createServer().listen({}, '127.0.0.1');",
        free_port()
    );
    super::write(
        &home.project(),
        &[
            ("package.json", root),
            ("apps/web/package.json", PACKAGE),
            ("apps/web/server.js", &*server),
        ],
    );
    let listen = free_port();
    let gateway = home.start(&["dev", "--listen", &listen.to_string()]).await;
    wait_for("the message", Duration::from_secs(30), async || {
        let text = gateway.text();
        text.contains("run it in the folder of one app, such as `apps/web`")
            .then_some(())
    })
    .await;
}

#[test]
fn a_folder_without_a_script_is_refused_with_what_to_do() {
    let home = Home::new();
    let (status, _, stderr) = home.run(&["dev"]);
    assert_eq!(status, 1);
    assert!(
        stderr.contains("no package.json") && stderr.contains("edgeway proxy"),
        "{stderr}"
    );
    super::write(&home.project(), &[("package.json", "{}")]);
    let (_, _, stderr) = home.run(&["dev", "--script", "watch"]);
    assert!(stderr.contains("no script `watch`"), "{stderr}");
    let broken = [
        ("package.json", PACKAGE),
        ("edgeway.yaml", "listeners: [{ adress: 1 }]\n"),
    ];
    super::write(&home.project(), &broken);
    let (status, _, stderr) = home.run(&["dev"]);
    assert_eq!(status, 78, "{stderr}");
    assert!(stderr.contains("edgeway.yaml:1:"), "{stderr}");
}

/// The project's file is for production: another listener, other backends, TLS to them.
#[tokio::test]
async fn the_projects_own_routes_serve_and_are_watched() {
    let home = Home::new();
    let yaml = "
listeners: [{ address: \":80\" }, { address: \":443\", tls: { acme: [shop.example.com] } }]
acme: { email: a@example.com, folder: /nowhere/acme }
upstreams: { web: { app: node, backends: [10.0.0.7:3000], health: { path: /health } } }
routes:
  - match: { path: /* }
    upstream: web
    headers: { response: { set: { X-Own: first } } }
";
    let files = [
        ("server.js", SERVER),
        ("package.json", PACKAGE),
        ("edgeway.yaml", yaml),
    ];
    super::write(&home.project(), &files);
    let listen = free_port();
    let gateway = home.start(&["dev", "--listen", &listen.to_string()]).await;
    let address: SocketAddr = ([127, 0, 0, 1], listen).into();
    page(address).await;
    let own = async || {
        let response = client::send(address, &get("/")).await.expect("it responds");
        response.header("x-own").map(str::to_owned)
    };
    assert_eq!(own().await.as_deref(), Some("first"));
    let path = home.project().join("edgeway.yaml");
    // A mistake is reported, and the last configuration serves on.
    fs::write(&path, yaml.replace("X-Own: first", "X-Own: [")).expect("the file can be written");
    gateway.prints("new configuration rejected").await;
    assert_eq!(own().await.as_deref(), Some("first"));
    fs::write(&path, yaml.replace("first", "second")).expect("the file can be written");
    wait_for(
        "the changed file serves",
        Duration::from_secs(10),
        async || (own().await.as_deref() == Some("second")).then_some(()),
    )
    .await;
    assert_eq!(page(address).await.split(' ').next(), Some("pid"));
}

/// Invariant: where every route names a host, the site's routes serve this machine as well, and
/// those of other hosts do not.
#[tokio::test]
async fn a_site_with_hosts_is_served_on_this_machine() {
    let home = Home::new();
    let yaml = "
listeners: [{ address: \":80\" }]
upstreams: { web: { app: node, backends: [10.0.0.7:3000] } }
routes:
  - match: { host: api.example.com, path: /* }
    respond: { status: 418 }
  - match: { host: [shop.example.com, www.example.com], path: /* }
    upstream: web
    headers: { response: { set: { X-Own: shop } } }
";
    let files = [
        ("server.js", SERVER),
        ("package.json", PACKAGE),
        ("edgeway.yaml", yaml),
    ];
    super::write(&home.project(), &files);
    let listen = free_port();
    let gateway = home.start(&["dev", "--port", &listen.to_string()]).await;
    gateway.prints("shop.example.com take localhost").await;
    let address: SocketAddr = ([127, 0, 0, 1], listen).into();
    page(address).await;
    let ask = async |host: &str| {
        let request = get("/").header("host", host);
        let response = client::send(address, &request).await.expect("it responds");
        (response.status(), response.header("x-own").is_some())
    };
    for host in [
        &*format!("localhost:{listen}"),
        "shop.localhost",
        "shop.example.com",
    ] {
        assert_eq!(ask(host).await, (200, true), "{host}");
    }
    assert_eq!(ask("api.example.com").await, (418, false));
    assert_eq!(ask("other.example.com").await, (421, false));
}

/// Copies the test app, whose packages are links to the same files.
fn project(home: &Home) -> PathBuf {
    Kind::Next.require_build();
    let from = Kind::Next.folder();
    let to = made("dev-project");
    drop(fs::remove_dir_all(&to));
    fs::create_dir_all(&to).expect("the target folder is ours");
    for name in ["app", "lib", "public", "proxy.js", "next.config.js"] {
        let (status, _, stderr) =
            output(Command::new("cp").arg("-a").arg(from.join(name)).arg(&to));
        assert_eq!(status, 0, "{stderr}");
    }
    let packages = from.join("node_modules");
    let (status, _, stderr) = output(Command::new("cp").arg("-al").arg(packages).arg(&to));
    assert_eq!(status, 0, "{stderr}");
    let package = fs::read_to_string(from.join("package.json")).expect("it is there");
    let package = package.replace("\"build\":", "\"dev\": \"next dev\",\n    \"build\":");
    super::write(&to, &[("package.json", &package)]);
    let (status, _, stderr) = output(home.edgeway(&["init"]).current_dir(&to));
    assert_eq!(status, 0, "{stderr}");
    to
}

/// Edits a page while a browser shows it.
fn edited(home: &Home, at: SocketAddr, folder: &Path, to: &str, patience: u32) -> Value {
    let order = json!({
        "url": format!("http://localhost:{}/", at.port()),
        "file": folder.join("app/page.js"),
        "from": "A static page",
        "to": to,
        "patience": patience,
    });
    let browser = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser");
    assert!(
        Path::new(BROWSER).exists(),
        "{BROWSER} is missing: run `scripts/setup chromium-headless-shell`"
    );
    let mut command = home.command("node");
    command
        .args(["hmr.js", &order.to_string()])
        .current_dir(browser)
        .env("BROWSER", BROWSER);
    let (status, stdout, stderr) = output(&mut command);
    assert_eq!(status, 0, "{stderr}");
    serde_json::from_str(&stdout).expect("hmr.js prints JSON")
}

/// Invariant: an edit appears in an open page without a reload, as without a gateway.
#[tokio::test(flavor = "multi_thread")]
async fn an_edit_appears_in_a_browser_through_the_gateway_without_a_reload() {
    let home = Home::new();
    let folder = project(&home);
    let listen = free_port();
    let gateway = home
        .start_in(&folder, &["dev", "--listen", &listen.to_string()])
        .await;
    gateway.prints("the app listens").await;
    let port = app_port(&gateway);
    let address: SocketAddr = ([127, 0, 0, 1], listen).into();
    page(address).await;

    let seen = edited(&home, address, &folder, "Edited while it runs", 60_000);
    assert_eq!(
        (&seen["isAlive"], &seen["isChanged"]),
        (&json!(true), &json!(true)),
        "{seen}"
    );
    assert_eq!(
        (&seen["isSame"], &seen["clicks"]),
        (&json!(true), &json!("clicks:1")),
        "{seen}"
    );
    let sockets = seen["sockets"].as_array().expect("a list");
    let is_ours = |socket: &Value| {
        let socket = socket.as_str().unwrap_or_default();
        socket.starts_with(&format!("ws://localhost:{listen}/_next/"))
    };
    assert!(sockets.iter().any(is_ours), "{seen}");

    // The control: a gateway in front of the same app that lets no WebSocket pass.
    let page = folder.join("app/page.js");
    let text = fs::read_to_string(&page).expect("it is there");
    fs::write(&page, text.replace("Edited while it runs", "A static page")).expect("it is ours");
    let closed = format!(
        "upstreams: {{ web: {{ app: nextjs, backends: [\"127.0.0.1:{port}\"], \
         timeouts: {{ first_byte: 1min }} }} }}\n\
         routes: [{{ match: {{ path: /* }}, upstream: web }}]\n"
    );
    let closed = Gateway::start(&closed).await;
    let seen = edited(
        &home,
        closed.address(),
        &folder,
        "Edited behind a closed door",
        6_000,
    );
    // Next.js waits for it before the page comes alive.
    assert_eq!(
        (&seen["isAlive"], &seen["isChanged"]),
        (&json!(false), &json!(false)),
        "{seen}"
    );
}
