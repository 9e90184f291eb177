//! `edgeway doctor`: finds what is wrong around a gateway, and nothing where all is well.

use std::{fs, net::TcpListener, path::Path, process::Command, time::Duration};

use serde_json::Value;
use tokio::time::Instant;

use crate::{
    cli::{Ran, edgeway},
    support::{
        apps::ExpressApp,
        certificates::{Ca, Wanted},
        gateway::Gateway,
        origins::FixedOrigin,
        ports::free_port,
        redis::Redis,
    },
};

/// Findings of `edgeway doctor`: check, level, message and remedy.
struct Findings {
    status: i32,
    all: Vec<(String, String, String, String)>,
}

impl Findings {
    fn of(ran: &Ran) -> Self {
        let list = serde_json::from_str::<Vec<Value>>(&ran.stdout);
        assert!(list.is_ok(), "{list:?}: {}{}", ran.stdout, ran.stderr);
        let list = list.unwrap_or_default();
        let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or("").to_owned();
        let all = list.iter().map(|finding| {
            let [check, level, message, remedy] =
                ["check", "level", "message", "remedy"].map(|key| text(finding, key));
            (check, level, message, remedy)
        });
        Self {
            status: ran.status,
            all: all.collect(),
        }
    }

    /// Asserts that one finding of a check has this level, and says this.
    #[track_caller]
    fn assert(&self, check: &str, level: &str, says: &str) {
        let found = self.all.iter().any(|(found, of, message, remedy)| {
            found == check
                && of == level
                && message.contains(says)
                && (remedy.is_empty() == matches!(level, "ok" | "skipped"))
        });
        assert!(found, "{check}, {level}, {says}: {:#?}", self.all);
    }

    /// Returns the checks with this level, without those of the machine.
    fn with(&self, level: &str) -> Vec<&str> {
        const MACHINE: [&str; 4] = ["open files", "backlog", "local ports", "memory"];
        let of_level = self.all.iter().filter(|found| found.1 == level);
        let checks = of_level.map(|found| found.0.as_str());
        checks.filter(|check| !MACHINE.contains(check)).collect()
    }
}

/// Runs it for the configuration in `folder`.
async fn doctor(folder: &Path) -> Findings {
    let config = folder.join("edgeway.yaml").display().to_string();
    let socket = folder.join("run/admin.sock").display().to_string();
    let ran = tokio::task::spawn_blocking(move || {
        edgeway(&["doctor", "--json", "-c", &config, "--socket", &socket])
    });
    Findings::of(&ran.await.expect("it ends"))
}

async fn doctor_of(yaml: &str) -> Findings {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("edgeway.yaml"), yaml).expect("it is written");
    doctor(folder.path()).await
}

#[tokio::test]
async fn a_sound_gateway_with_its_app_and_redis_has_no_problem() {
    let app = ExpressApp::start().await;
    let redis = Redis::start().await;
    let yaml = format!(
        "listeners: [{{ address: 127.0.0.1:0 }}]
redis: {}
upstreams: {{ app: {{ app: node, backends: ['{}'], health: {{ path: /health }} }} }}
routes: [{{ match: {{ path: /* }}, upstream: app }}]
",
        redis.section(", timeout: 1s"),
        app.address()
    );
    let gateway = Gateway::start(&yaml).await;
    let found = doctor(gateway.folder()).await;
    assert_eq!(found.with("error"), [""; 0], "{:?}", found.all);
    assert_eq!(found.with("warning"), [""; 0], "{:?}", found.all);
    assert_eq!(found.status, 0);
    found.assert("backend", "ok", &format!("app/{}: ", app.address()));
    found.assert("redis", "ok", "version");
    // Node's own default.
    found.assert("keep-alive", "ok", "for 5 s");
    found.assert("clock", "ok", "in step with 2 others");
    found.assert("gateway", "ok", &gateway.pid().to_string());
    found.assert("rotation", "ok", "1 of 1");
    // A user who may run no script is of no use to the counters.
    redis.cli(&["ACL", "SETUSER", "default", "-eval"]);
    let refused = doctor(gateway.folder()).await;
    refused.assert("redis", "error", "rejected the command");
    redis.cli(&["ACL", "SETUSER", "default", "+eval"]);
    // The port of another program is none of the gateway, although one is running.
    let file = gateway.folder().join("edgeway.yaml");
    let text = fs::read_to_string(&file).expect("it is there");
    let other = format!("[{{ address: '{}' }}]", app.address());
    let text = text.replace("[{ address: 127.0.0.1:0 }]", &other);
    fs::write(&file, text).expect("it is written");
    let found = doctor(gateway.folder()).await;
    found.assert("listener", "error", ") listens there");
}

#[tokio::test]
async fn each_broken_part_is_named_with_its_remedy() {
    let [dead, lost] = [free_port(), free_port()];
    let other = FixedOrigin::start(200, &[("keep-alive", "timeout=5")], "ok").await;
    let ca = Ca::new();
    let folder = tempfile::tempdir().expect("a folder");
    let wanted = Wanted::site(&["old.test"]).days(-30, 3);
    ca.issue(&wanted).write(folder.path(), "a");
    let next = folder.path().join("app/node_modules/next");
    fs::create_dir_all(&next).expect("a folder");
    fs::write(next.join("package.json"), r#"{ "version": "15.1.0" }"#).expect("it is written");
    fs::create_dir_all(folder.path().join("app/.next")).expect("a folder");
    let yaml = format!(
        "listeners:
  - {{ address: '{other}' }}
  - {{ address: 127.0.0.1:0, tls: {{ certificates: {{ cert: a.pem, key: a.key }} }} }}
redis: {{ url: 'redis://:not-to-be-shown@127.0.0.1:{lost}', secret: '0123456789abcdef0123456789abcdef' }}
upstreams:
  dead: {{ backends: ['127.0.0.1:{dead}'] }}
  idle: {{ backends: ['{other}'], pool: {{ idle: 30s }} }}
  web: {{ app: nextjs, backends: ['{other}'], folder: app/.next }}
  bare: {{ app: nextjs, backends: ['{other}'] }}
routes:
  - {{ match: {{ path: /a/* }}, upstream: dead }}
  - {{ match: {{ path: /b/* }}, upstream: idle }}
  - {{ match: {{ path: /c/* }}, upstream: web }}
  - {{ match: {{ path: /d/* }}, upstream: bare, cache: {{}} }}
",
        other = other.address()
    );
    fs::write(folder.path().join("edgeway.yaml"), yaml).expect("it is written");
    let found = doctor(folder.path()).await;
    assert_eq!(found.status, 1);
    let own = format!("(process {}) listens there", std::process::id());
    found.assert("listener", "error", &own);
    found.assert("certificate", "warning", "`old.test` expires in");
    found.assert("redis", "error", &format!("127.0.0.1:{lost}"));
    found.assert(
        "backend",
        "error",
        &format!("dead/127.0.0.1:{dead}: cannot connect"),
    );
    found.assert(
        "keep-alive",
        "warning",
        "after 5 s, so `pool: { idle: 30s }` is never reached",
    );
    found.assert(
        "next.js",
        "error",
        "`web` runs Next.js 15.1.0, affected by CVE-2025-66478",
    );
    found.assert("next.js", "warning", "`bare` is cached without `folder`");
    found.assert("gateway", "skipped", "not asked");
    let all = format!("{:?}", found.all);
    assert!(!all.contains("not-to-be-shown"), "{all}");
}

#[tokio::test]
async fn a_configuration_with_errors_is_sent_to_check() {
    let found = doctor_of("listeners: [{ address: 127.0.0.1:0 }]\nrouts: []\n").await;
    assert_eq!(found.status, 78);
    found.assert("configuration", "error", "error");
    assert!(found.all.iter().all(|found| found.0 != "backend"));
}

#[tokio::test]
async fn a_backend_out_of_rotation_and_a_refused_reload_are_found() {
    let port = free_port();
    let yaml = format!(
        "listeners: [{{ address: 127.0.0.1:0 }}]
upstreams: {{ app: {{ backends: ['127.0.0.1:{port}'], health: {{ path: /, interval: 100ms, start_down: true }} }} }}
routes: [{{ match: {{ path: /* }}, upstream: app }}]
"
    );
    let gateway = Gateway::start(&yaml).await;
    assert!(!gateway.reload("listeners: 7\n").await);
    gateway.configure(&yaml);
    crate::support::wait::wait_for("the check failed", Duration::from_secs(10), async || {
        let status = gateway.status().await;
        (status["upstreams"][0]["backends"][0]["state"] == "down").then_some(())
    })
    .await;
    let found = doctor(gateway.folder()).await;
    assert_eq!(found.status, 1);
    let down = format!("backend app/127.0.0.1:{port} is down");
    found.assert("backend_down", "error", &down);
    found.assert("reload_refused", "warning", "the last reload was refused");
}

/// A dead host takes all of its time, and a configuration may have many.
#[tokio::test]
async fn silent_backends_are_waited_for_at_the_same_time() {
    let silent: Vec<TcpListener> = (0..12)
        .map(|_| TcpListener::bind("127.0.0.1:0").expect("a port is free"))
        .collect();
    let backends = silent.iter().map(|silent| {
        let address = silent.local_addr().expect("it has one");
        format!("'{address}'")
    });
    let backends = backends.collect::<Vec<_>>().join(", ");
    let start = Instant::now();
    let found = doctor_of(&format!(
        "listeners: [{{ address: 127.0.0.1:0 }}]
upstreams: {{ app: {{ backends: [{backends}] }} }}
routes: [{{ match: {{ path: /* }}, upstream: app }}]
"
    ))
    .await;
    let took = start.elapsed();
    assert_eq!(found.with("error"), ["backend"; 12], "{:?}", found.all);
    assert!(took < Duration::from_secs(20), "{took:?}");
}

/// Invariant: a backend that the gateway's own check would take out of rotation is an error.
#[tokio::test]
async fn a_health_path_is_judged_as_by_the_gateway() {
    for (status, health, level) in [
        (500, "{ path: /health }", "error"),
        (404, "{ path: /health }", "error"),
        (401, "{ path: /health, expect: 401 }", "ok"),
        (200, "{ path: /health, expect: 204 }", "error"),
        (204, "{ path: /health }", "ok"),
        // Without a path the check is a connection.
        (500, "{}", "ok"),
        (500, "{ path: /health, enabled: false }", "ok"),
    ] {
        let origin = FixedOrigin::start(status, &[], "").await;
        let found = doctor_of(&format!(
            "listeners: [{{ address: 127.0.0.1:0 }}]
upstreams: {{ app: {{ backends: ['{}'], health: {health} }} }}
routes: [{{ match: {{ path: /* }}, upstream: app }}]
",
            origin.address()
        ))
        .await;
        found.assert("backend", level, &format!(": {status} for /"));
    }
}

#[test]
fn the_package_of_next_is_found_above_the_current_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let web = folder.path().join("apps/web");
    let next = folder.path().join("node_modules/next");
    for made in [&web.join(".next"), &next] {
        fs::create_dir_all(made).expect("a folder");
    }
    fs::write(next.join("package.json"), r#"{ "version": "16.0.1" }"#).expect("it is written");
    let yaml = "listeners: [{ address: 127.0.0.1:0 }]
upstreams: { web: { app: nextjs, backends: ['127.0.0.1:1'], folder: .next } }
routes: [{ match: { path: /* }, upstream: web }]
";
    fs::write(web.join("edgeway.yaml"), yaml).expect("it is written");
    let ran = Command::new(env!("CARGO_BIN_EXE_edgeway"))
        .args(["doctor", "-c", "edgeway.yaml", "--socket", "/nowhere.sock"])
        .current_dir(&web)
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(text.contains("runs Next.js 16.0.1, affected by"), "{text}");
}

/// Invariant: a gateway that does not respond at its admin socket is no stranger at its own port.
#[tokio::test]
async fn a_gateway_that_cannot_be_asked_is_no_error() {
    let routes = "routes: [{ match: { path: /* }, respond: ok }]\n";
    let gateway = Gateway::start(routes).await;
    let yaml = format!(
        "listeners: [{{ address: '{}' }}]\n{routes}",
        gateway.address()
    );
    let findings = doctor_of(&yaml).await;
    findings.assert("listener", "warning", "cannot be reached at `admin`");
}

/// Invariant: while a plugin fails, each command about the gateway shows its error.
#[tokio::test]
async fn a_plugin_that_fails_now_and_then_is_named_with_its_error() {
    let yaml = "listeners: [{ address: 127.0.0.1:0 }]
routes: [{ match: { path: /* }, respond: ok, plugins: [{ file: greet.js, on_error: continue }] }]
";
    let plugin = "export function onRequest(request) {
  const { pathname } = request.nextUrl;
  if (pathname === '/no') missing();
}
";
    let gateway = Gateway::start_in(yaml, |folder| {
        fs::write(folder.join("greet.js"), plugin).expect("the folder takes files");
    })
    .await;
    for path in ["/", "/no", "/", "/", "/no", "/"] {
        assert_eq!(gateway.get(path).await.status(), 200);
    }
    let ran = edgeway(&["status", "--socket", gateway.admin_socket()]);
    let line = ran.stdout.lines().find(|line| line.starts_with("warning"));
    let line = line.unwrap_or_else(|| panic!("{}", ran.stdout));
    assert!(
        line.contains("(greet.js) failed 2 times on route"),
        "{line}"
    );
    assert!(line.contains("missing is not defined"), "{line}");
    assert!(line.contains("greet.js:3:"), "{line}");
    // The page and `top` have the list of the status. In another folder, the running gateway's own
    // file is checked.
    let elsewhere = tempfile::tempdir().expect("a folder for the test can be made");
    let program = std::process::Command::new(env!("CARGO_BIN_EXE_edgeway"))
        .args(["doctor", "--socket", gateway.admin_socket()])
        .current_dir(&elsewhere)
        .output()
        .expect("the program runs");
    let text = String::from_utf8(program.stdout).expect("it prints UTF-8");
    let line = text.lines().find(|line| line.starts_with("plugin"));
    let line = line.unwrap_or_else(|| panic!("{text}"));
    assert!(line.contains("failed 2 times on route"), "{line}");
    let own = gateway.folder().join("edgeway.yaml").display().to_string();
    assert!(text.contains(&own), "{text}");
}
