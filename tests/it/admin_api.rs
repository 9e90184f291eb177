//! The admin API as operators use it and as others attack it: with the real program, and every
//! action in the audit log.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::Command,
    time::Duration,
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    cli::{EX_CONFIG, edgeway, over_socket},
    support::{
        client::{self, Request, get, post, post_json},
        gateway::Gateway,
        origins::EchoOrigin,
        wait::wait_for,
    },
};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const SOON: Duration = Duration::from_secs(5);

/// Configuration with a socket, an audit log and two backends of `web`.
const WITH_ALL: &str = "admin: { address: 127.0.0.1:0, socket: admin.sock }\n\
    audit_log: { file: audit.log }\n\
    upstreams: { web: { backends: [127.0.0.1:1, 127.0.0.1:2] } }\n\
    routes: [{ match: {}, upstream: web }]\n";

/// The same with a token.
fn with_token() -> String {
    let admin = "socket: admin.sock }";
    assert!(WITH_ALL.contains(admin));
    WITH_ALL.replace(admin, "socket: admin.sock, token: file:token }")
}

async fn start(yaml: &str) -> Gateway {
    Gateway::start_in(yaml, |folder| {
        fs::write(folder.join("token"), format!("{TOKEN}\n")).expect("it takes files");
    })
    .await
}

fn bearer(request: Request, token: &str) -> Request {
    request.header("authorization", format!("Bearer {token}"))
}

#[tokio::test]
async fn a_reload_by_command_reports_its_changes_and_is_audited() {
    let gateway = start(WITH_ALL).await;
    let same = over_socket(&gateway, &["reload"]);
    assert_eq!(
        (same.status, same.stdout.as_str()),
        (0, "nothing changed\n")
    );
    assert!(
        same.stderr.contains("generation 2 serves"),
        "{}",
        same.stderr
    );

    let other = WITH_ALL
        .replace(
            "routes: [",
            "routes: [{ name: new, match: { path: /new }, respond: ok }, ",
        )
        .replace("127.0.0.1:2]", "127.0.0.1:3]");
    gateway.configure(&other);
    let changed = over_socket(&gateway, &["reload"]);
    assert_eq!(changed.status, 0, "{}", changed.stderr);
    assert_eq!(changed.stdout, "+ route new\n~ upstream web\n");
    assert_eq!(gateway.get("/new").await.text(), "ok");

    // With the configuration file alone: the socket comes first; the output is JSON.
    let file = gateway.folder().join("edgeway.yaml");
    let file = file.to_str().unwrap();
    let asked = edgeway(&["reload", "--json", "-c", file]);
    let outcome: Value = serde_json::from_str(&asked.stdout).unwrap();
    assert_eq!((asked.status, &outcome["generation"]), (0, &json!(4)));

    gateway.signal(Signal::HUP);
    let lines = gateway.audit_log(4, |_| true).await;
    let uid = rustix::process::getuid().as_raw();
    for (line, generation) in lines[..3].iter().zip(2..) {
        assert_eq!(line["action"], "reload", "{line}");
        assert_eq!((&line["who"], &line["uid"]), (&json!("unix"), &json!(uid)));
        assert!(line["pid"].as_u64().is_some_and(|pid| pid > 0), "{line}");
        assert_eq!(line["outcome"], "ok");
        assert_eq!(line["generation"], generation);
        assert!(line["duration_ms"].as_f64().is_some_and(|ms| ms > 0.0));
        assert!(line["target"].as_str().unwrap().ends_with("edgeway.yaml"));
        let time = line["time"].as_str().unwrap();
        assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
    }
    assert_eq!(lines[3]["who"], "signal");
    assert_eq!(lines[3]["generation"], 5);
}

#[tokio::test]
async fn a_refused_reload_reports_what_check_reports() {
    let gateway = start(WITH_ALL).await;
    gateway.configure(&WITH_ALL.replace("upstream: web", "upstrem: web"));
    let file = gateway.folder().join("edgeway.yaml");
    let file = file.to_str().unwrap();
    let checked = edgeway(&["check", "-c", file]);
    let refused = over_socket(&gateway, &["reload"]);
    assert_eq!(refused.status, EX_CONFIG);
    assert_eq!(
        (refused.stdout.as_str(), &refused.stderr),
        ("", &checked.stderr)
    );
    assert!(checked.stderr.contains("did you mean `upstream`?"));

    let response = gateway.send_admin(&post("/v1/reload", "")).await;
    assert_eq!(response.status(), 422);
    let error = &response.json()["error"];
    assert_eq!(error["reason"], "config");
    let problem = &error["problems"][0];
    assert_eq!(problem["code"], "edgeway::config::unknown_key");
    assert!(problem["line"].as_u64().is_some_and(|line| line > 1));

    let lines = gateway.audit_log(2, |_| true).await;
    assert_eq!(lines[0]["outcome"], "refused");
    assert_eq!(lines[0]["reason"], "config");
    assert!(lines[0]["message"].as_str().unwrap().contains("upstrem"));
    assert_eq!(lines[1]["who"], "unix");
    assert_eq!(lines[1]["generation"], 1);

    // A mistake in the file does not hide the gateway from the commands.
    assert_eq!(edgeway(&["status", "-c", file]).status, 0);
    // One that serves another file than the named one is not meant.
    let other = tempfile::tempdir().expect("a folder");
    let other = other.path().join("edgeway.yaml").display().to_string();
    let refused = over_socket(&gateway, &["reload", "-c", &other]);
    assert_eq!(refused.status, 1);
    assert!(
        refused.stderr.contains("no gateway of")
            && refused.stderr.contains("for the one here, add `--socket "),
        "{}",
        refused.stderr
    );
    for arguments in [
        &["ban", "192.0.2.7", "--for", "0s"][..],
        &["purge", "--url", "x"],
        &["explain", "--live", "GET", "nourl"],
    ] {
        let refused = over_socket(&gateway, arguments);
        assert_eq!(refused.status, 2, "{arguments:?}: {}", refused.stderr);
    }
    assert_eq!(edgeway(&["healthcheck"]).status, 2);
    let gone = edgeway(&["undrain", "web/127.0.0.1:1", "--admin", "127.0.0.1:1"]);
    assert_eq!(gone.status, 1);
    assert!(
        gone.stderr.contains("cannot reach a gateway; tried:"),
        "{}",
        gone.stderr
    );
    let gone = edgeway(&["reload", "--admin", "127.0.0.1:1"]);
    assert_eq!(gone.status, 1);
    assert!(
        gone.stderr.contains("cannot reach a gateway"),
        "{}",
        gone.stderr
    );
}

#[tokio::test]
async fn backends_are_drained_added_and_removed() {
    let (one, two) = (EchoOrigin::start().await, EchoOrigin::start().await);
    let yaml = WITH_ALL.replace("127.0.0.1:1, 127.0.0.1:2", &one.address().to_string());
    let gateway = start(&yaml).await;
    let backends = "/v1/upstreams/web/backends";
    let (first, second) = (
        format!("{backends}/{}", one.address()),
        format!("{backends}/{}", two.address()),
    );
    let drain = |path: &str, body: Value| post_json(&format!("{path}/drain"), &body);
    let send = async |request: Request, status: u16| {
        let response = gateway.send_admin(&request).await;
        assert_eq!(response.status(), status, "{}", response.text());
        response.json()
    };

    let last = send(drain(&first, json!({})), 409).await;
    assert_eq!(last["error"]["reason"], "last_backend");
    let added = json!({ "address": two.address().to_string(), "weight": 2 });
    let added = send(post_json(backends, &added), 200).await;
    assert_eq!(added["backend"]["weight"], 2);
    let again = json!({ "address": two.address().to_string() });
    let again = send(post_json(backends, &again), 409).await;
    assert_eq!(again["error"]["reason"], "backend_exists");
    let drained = send(drain(&first, json!({ "force": false })), 200).await;
    assert_eq!(drained["backend"]["state"], "drained");
    assert_eq!(gateway.get("/").await.status(), 200);

    let upstreams = send(get("/v1/upstreams"), 200).await;
    let backends = upstreams["upstreams"][0]["backends"]
        .as_array()
        .unwrap()
        .clone();
    assert_eq!(backends.len(), 2);
    assert_eq!(backends[0]["state"], "drained");
    let written = send(Request::new("DELETE", &first), 409).await;
    assert_eq!(written["error"]["reason"], "backend_written");
    let undrained = send(post(&format!("{first}/undrain"), ""), 200).await;
    assert_ne!(undrained["backend"]["state"], "drained");
    let busy = send(Request::new("DELETE", &second), 409).await;
    assert_eq!(busy["error"]["reason"], "not_drained");
    let gone = format!("{second}?force=true");
    send(Request::new("DELETE", &gone), 200).await;
    let unknown = send(drain(&second, json!({})), 404).await;
    assert_eq!(unknown["error"]["reason"], "no_such_backend");
    let nowhere = post("/v1/upstreams/nowhere/backends/127.0.0.1:1/undrain", "");
    let nowhere = send(nowhere, 404).await;
    assert_eq!(nowhere["error"]["reason"], "no_such_upstream");

    let lines = gateway.audit_log(10, |_| true).await;
    let entries: Vec<_> = lines
        .iter()
        .map(|line| {
            let text = |key: &str| line[key].as_str().unwrap_or("").to_owned();
            format!("{} {}", text("action"), text("outcome"))
        })
        .collect();
    assert_eq!(
        entries,
        [
            "drain refused",
            "add_backend ok",
            "add_backend refused",
            "drain ok",
            "remove_backend refused",
            "undrain ok",
            "remove_backend refused",
            "remove_backend ok",
            "drain refused",
            "undrain refused",
        ]
    );
    let target = format!("web/{}", one.address());
    assert_eq!(lines[0]["target"], target.as_str());
}

#[tokio::test]
async fn a_token_opens_the_address_and_the_socket_needs_none() {
    let gateway = start(&with_token()).await;
    for path in ["/status", "/metrics", "/v1/status", "/nothing"] {
        let response = gateway.send_admin_tcp(&get(path)).await;
        assert_eq!(response.status(), 401, "{path}");
        assert_eq!(response.header("www-authenticate"), Some("Bearer"));
        assert!(!response.text().contains("127.0.0.1:1"));
        let right = gateway.send_admin_tcp(&bearer(get(path), TOKEN)).await;
        assert_ne!(right.status(), 401, "{path}");
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(
            gateway.send_admin_tcp(&get(path)).await.status(),
            200,
            "{path}"
        );
    }
    let wrong = bearer(post("/v1/reload", ""), &TOKEN.replace('0', "1"));
    let wrong = gateway.send_admin_tcp(&wrong).await;
    assert_eq!(wrong.json()["error"]["reason"], "token_wrong");

    // The commands find the token as they find the gateway.
    let admin = gateway.admin().to_string();
    let without = edgeway(&["status", "--admin", &admin]);
    assert_eq!(without.status, 1);
    assert!(
        without.stderr.contains("Authorization"),
        "{}",
        without.stderr
    );
    let token = gateway.folder().join("token");
    let token = token.to_str().unwrap();
    let with = edgeway(&["status", "--admin", &admin, "--token-file", token]);
    assert_eq!(with.status, 0, "{}", with.stderr);
    let socket = over_socket(&gateway, &["status"]);
    assert_eq!(socket.status, 0, "{}", socket.stderr);

    let metrics = gateway
        .send_admin_tcp(&bearer(get("/metrics"), TOKEN))
        .await;
    let metrics = metrics.text();
    for counted in [
        "edgeway_admin_refused_total{reason=\"token_missing\"} 5",
        "edgeway_admin_refused_total{reason=\"token_wrong\"} 1",
    ] {
        assert!(metrics.contains(counted), "{metrics}");
    }
    let first = &gateway.audit_log(1, |_| true).await[0];
    assert_eq!(first["action"], "enter");
    assert_eq!(first["reason"], "token_missing");
    assert_eq!(first["target"], "/status");

    // No output of the gateway contains the token.
    let file = gateway.folder().join("edgeway.yaml");
    let printed = edgeway(&["check", "--print", "-c", file.to_str().unwrap()]);
    assert!(
        printed.stdout.contains("token: file:/"),
        "{}",
        printed.stdout
    );
    let audit = fs::read_to_string(gateway.folder().join("audit.log")).unwrap();
    for text in [
        printed.stdout,
        printed.stderr,
        gateway.stderr(),
        audit,
        metrics,
    ] {
        assert!(!text.contains(TOKEN), "{text}");
    }
}

/// By default: the configuration has no admin section except a port for this test.
#[tokio::test]
async fn local_processes_see_health_and_counts_and_change_nothing() {
    let gateway = Gateway::start(
        "upstreams: { web: { backends: [127.0.0.1:1, 127.0.0.1:2] } }\n\
         routes: [{ match: {}, upstream: web }]\n",
    )
    .await;
    let fill = |path: &str| {
        path.replace("{upstream}", "web")
            .replace("{address}", "127.0.0.1:1")
    };
    let mut closed = 0;
    for (method, path) in edgeway::testkit::paths() {
        let path = fill(path);
        let mut request = Request::new(method, &path);
        if method == "POST" {
            request = post_json(&path, &json!({ "address": "127.0.0.1:3" }));
        }
        let response = gateway.send_admin_tcp(&request).await;
        if is_of_the_page(&path) {
            // The login and its files tell nothing; all else leads there or is refused.
            let is_public = method == "GET" && (path == "/login" || path.contains('.'));
            assert_eq!(response.status() == 200, is_public, "{method} {path}");
            closed += u64::from(response.text().contains("socket_only"));
            continue;
        }
        let open = ["/metrics", "/healthz", "/readyz", "/readyz/upstreams/web"];
        if open.contains(&&*path) {
            assert_ne!(response.status(), 403, "{path}");
            continue;
        }
        assert_eq!(response.status(), 403, "{method} {path}");
        let error = response.json()["error"].clone();
        assert_eq!(error["reason"], "socket_only", "{method} {path}");
        closed += 1;
    }
    let refused = "edgeway_admin_refused_total{reason=\"socket_only\"}";
    assert_eq!(gateway.count(refused).await, closed);
    // Nothing was drained, added or reloaded. The control: a user of the socket can do all of it.
    let backends = async || {
        let status = gateway.status().await;
        let all = status["upstreams"][0]["backends"]
            .as_array()
            .unwrap()
            .clone();
        all.into_iter()
            .map(|backend| backend["state"].clone())
            .collect::<Vec<_>>()
    };
    let before = backends().await;
    assert!(
        before.len() == 2 && !before.contains(&json!("drained")),
        "{before:?}"
    );
    assert_eq!(gateway.count("edgeway_config_generation").await, 1);
    let drain = post_json("/v1/upstreams/web/backends/127.0.0.1:1/drain", &json!({}));
    assert_eq!(gateway.send_admin(&drain).await.status(), 200);
    assert_eq!(backends().await[0], json!("drained"));

    // The commands find the socket as the gateway does.
    let folder = gateway.folder().join("run");
    let status = Command::new(env!("CARGO_BIN_EXE_edgeway"))
        .args(["status", "--json"])
        .current_dir(&folder)
        .env("RUNTIME_DIRECTORY", &folder)
        .output()
        .expect("the binary starts");
    assert!(status.status.success(), "{status:?}");
}

/// Tries to open the socket as another user; the folders above it are accessible.
#[tokio::test]
async fn a_user_without_rights_cannot_open_the_socket() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("only root can become somebody else");
        return;
    }
    let gateway = start(WITH_ALL).await;
    let socket = gateway.admin_socket();
    let everybody = fs::Permissions::from_mode(0o755);
    fs::set_permissions(gateway.folder(), everybody).unwrap();
    let tries = |uid: u32| {
        let asks = ["-sS", "-o", "/dev/null", "-w", "%{http_code}", "-X", "POST"];
        let ran = Command::new("curl")
            .args(asks)
            .args(["--unix-socket", socket, "http://localhost/v1/reload"])
            .uid(uid)
            .gid(uid)
            .current_dir("/")
            .output()
            .expect("curl is there");
        String::from_utf8_lossy(&ran.stdout).into_owned()
    };
    // The user `nobody`.
    assert_eq!(tries(65534), "000");
    assert_eq!(gateway.count("edgeway_config_generation").await, 1);
    assert_eq!(tries(0), "200", "the control");
    // The control for the permissions: the same user, once the socket's mode admits it.
    fs::set_permissions(socket, fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(tries(65534), "200", "the control");
}

#[tokio::test]
async fn a_changed_token_holds_from_the_reload_on() {
    let gateway = start(&with_token()).await;
    let other = TOKEN.replace('0', "x");
    fs::write(gateway.folder().join("token"), &other).unwrap();
    let before = gateway
        .send_admin_tcp(&bearer(get("/status"), &other))
        .await;
    assert_eq!(before.status(), 401);
    assert_eq!(over_socket(&gateway, &["reload"]).status, 0);
    let after = gateway
        .send_admin_tcp(&bearer(get("/status"), &other))
        .await;
    assert_eq!(after.status(), 200);
    let old = gateway.send_admin_tcp(&bearer(get("/status"), TOKEN)).await;
    assert_eq!(old.status(), 401);
}

#[tokio::test]
async fn a_network_address_requires_the_token_and_accepts_any_host() {
    let gateway = start(&with_token().replace("127.0.0.1:0", "0.0.0.0:0")).await;
    let mut address = gateway.admin();
    address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    let named = get("/status").header("host", "gateway.internal");
    let refused = client::send(address, &named).await.unwrap();
    assert_eq!(refused.status(), 401);
    let accepted = client::send(address, &bearer(named, TOKEN)).await.unwrap();
    assert_eq!(accepted.status(), 200);
}

#[tokio::test]
async fn pages_of_other_sites_and_rebound_names_do_nothing() {
    let gateway = start(&with_token()).await;
    let reload = || bearer(post("/v1/reload", ""), TOKEN);
    for (name, value, status) in [
        ("origin", "https://evil.test", 403),
        ("sec-fetch-site", "cross-site", 403),
        ("host", "evil.test:9900", 421),
        ("content-type", "text/plain", 415),
    ] {
        let response = gateway.send_admin_tcp(&reload().header(name, value)).await;
        assert_eq!(response.status(), status, "{name}");
    }
    let looked = bearer(get("/v1/reload"), TOKEN);
    assert_eq!(gateway.send_admin_tcp(&looked).await.status(), 405);
    assert_eq!(gateway.count("edgeway_config_generation").await, 1);
    assert_eq!(gateway.count("edgeway_admin_refused_total").await, 3);
    assert_eq!(gateway.send_admin_tcp(&reload()).await.status(), 200);
    assert_eq!(gateway.count("edgeway_config_generation").await, 2);
}

#[tokio::test]
async fn a_full_disk_under_the_audit_log_blocks_no_action() {
    let gateway = start(&WITH_ALL.replace("audit.log", "/dev/full")).await;
    for generation in 2..6 {
        let response = gateway.send_admin(&post("/v1/reload", "")).await;
        assert_eq!(response.json()["generation"], generation);
    }
    wait_for("the failure is counted", SOON, async || {
        (gateway.count("edgeway_audit_failing").await == 1).then_some(())
    })
    .await;
    assert_eq!(gateway.count("edgeway_audit_lines_total").await, 0);
    let log = gateway.stderr();
    assert!(log.contains("cannot write the audit log"), "{log}");
}

#[tokio::test]
async fn without_an_audit_log_actions_are_in_the_process_log() {
    let yaml = WITH_ALL.replace("audit_log: { file: audit.log }\n", "");
    let gateway = start(&yaml).await;
    assert_eq!(over_socket(&gateway, &["reload"]).status, 0);
    let log = gateway.stderr();
    let line = log.lines().find(|line| line.contains("edgeway::audit"));
    let line = line.expect("it is reported");
    for part in [
        "action=reload",
        "who=unix uid",
        "outcome=ok",
        "generation=2",
    ] {
        assert!(line.contains(part), "{line}");
    }
}

#[tokio::test]
async fn a_moved_audit_log_is_followed_by_a_new_one() {
    let gateway = start(WITH_ALL).await;
    over_socket(&gateway, &["reload"]);
    gateway.audit_log(1, |_| true).await;
    let file = gateway.folder().join("audit.log");
    fs::rename(&file, gateway.folder().join("audit.log.1")).unwrap();
    gateway.signal(Signal::USR1);
    wait_for("there is a new file", SOON, async || {
        file.exists().then_some(())
    })
    .await;
    over_socket(&gateway, &["reload"]);
    assert_eq!(gateway.audit_log(1, |_| true).await[0]["generation"], 3);
}

fn repository(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("the file is there")
}

/// Returns true for what only the status page uses, and no program.
fn is_of_the_page(path: &str) -> bool {
    let within = path
        .strip_prefix("/status/")
        .is_some_and(|rest| rest != "stream");
    within || matches!(path, "/" | "/login" | "/logout")
}

#[test]
fn each_path_is_documented_and_each_documented_path_is_there() {
    let page = repository("docs/admin.md");
    let documented: BTreeSet<(String, String)> = page
        .lines()
        .filter_map(|line| {
            let (method, path) = line
                .strip_prefix("### `")?
                .strip_suffix('`')?
                .split_once(' ')?;
            Some((method.to_owned(), path.to_owned()))
        })
        .collect();
    let there: BTreeSet<_> = edgeway::testkit::paths()
        .into_iter()
        .filter(|(_, path)| !is_of_the_page(path))
        .map(|(method, path)| (method.to_owned(), path.to_owned()))
        .collect();
    assert_eq!(documented, there);
    // The page also lists every reason for which the listener refuses a request.
    for reason in edgeway::testkit::RejectionReason::ALL {
        let row = format!("| `{}` |", reason.word());
        assert!(page.contains(&row), "{row}");
    }
}

#[test]
fn the_example_is_right_with_its_token_too() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("admin.token"), TOKEN).unwrap();
    let example = repository("conf/examples/admin.yaml");
    let commented = "# token: file:admin.token";
    assert!(example.contains(commented));
    let open = example
        .replace(commented, "token: file:admin.token")
        .replace("127.0.0.1:9900", "0.0.0.0:9900");
    let file = folder.path().join("edgeway.yaml");
    fs::write(&file, open).unwrap();
    let checked = edgeway(&["check", "-c", file.to_str().unwrap()]);
    assert_eq!(checked.status, 0, "{}", checked.stderr);
    assert!(checked.stderr.contains("well formed"), "{}", checked.stderr);
}
