//! The plugins of the repository: their own tests, and the route of each README in a running
//! gateway.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command, time::Duration};

use serde_json::json;

use crate::{
    cli::edgeway,
    support::{
        apps::ExpressApp,
        client::{Connection, Request, Response, get},
        front::Front,
        gateway::Gateway,
        mmdb::loopback_in_munich,
        origins::{EchoOrigin, NumberedOrigin, echoed},
        wait::wait_for,
    },
};

const SOON: Duration = Duration::from_secs(10);

const BROWSER: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn names() -> Vec<String> {
    let entries = fs::read_dir(folder().join("plugins")).expect("the folder is there");
    let names = entries.map(|entry| {
        let name = entry.expect("it can be read").file_name();
        name.to_string_lossy().into_owned()
    });
    names.filter(|name| name != "types").collect()
}

/// Returns the route that a plugin's README shows.
pub(crate) fn route_of(name: &str) -> String {
    let path = folder().join("plugins").join(name).join("README.md");
    let text = fs::read_to_string(path).expect("each has a README");
    let (_, rest) = text.split_once("```yaml\n").expect("it shows a route");
    let (yaml, _) = rest.split_once("```").expect("the block ends");
    yaml.to_owned()
}

/// Starts a gateway with that route; `edit` may change its values.
pub(crate) async fn with(
    name: &str,
    backend: impl ToString,
    edit: impl FnOnce(String) -> String,
) -> Gateway {
    let yaml = format!(
        "upstreams: {{ app: {{ backends: [\"{}\"] }} }}\n{}",
        backend.to_string(),
        edit(route_of(name)),
    );
    Gateway::start_in(&yaml, |beside| {
        symlink(folder().join("plugins"), beside.join("plugins")).expect("it takes links");
        fs::write(beside.join("GeoLite2-City.mmdb"), loopback_in_munich()).expect("it is ours");
    })
    .await
}

pub(crate) async fn of(gateway: &Gateway, target: &str, headers: &[(&str, &str)]) -> Response {
    let request = headers.iter().fold(get(target), |request, (name, value)| {
        request.header(name, *value)
    });
    gateway.send(&request).await
}

#[test]
fn each_shipped_plugin_passes_its_own_tests() {
    let names = names();
    assert!(names.len() >= 8, "{names:?}");
    for name in &names {
        let folder = format!("plugins/{name}");
        let ran = edgeway(&["plugin", "test", &folder]);
        assert_eq!(ran.status, 0, "{}{}", ran.stdout, ran.stderr);
        assert!(ran.stdout.contains("ℹ fail 0"), "{}", ran.stdout);
        let readme = fs::read_to_string(
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join(&folder)
                .join("README.md"),
        );
        assert!(
            readme
                .unwrap()
                .contains(&format!("edgeway plugin test {folder}"))
        );
    }
}

#[tokio::test]
async fn ab_split_gives_a_visitor_one_variant_and_the_cache_a_response_for_each() {
    let origin = NumberedOrigin::start().await;
    let gateway = with("ab-split", origin.address(), |yaml| yaml).await;
    let first = of(&gateway, "/", &[]).await;
    let cookie = first.header("set-cookie").expect("a new visitor gets it");
    let variant = cookie.split(';').next().unwrap().to_owned();
    assert!(variant == "ab=a" || variant == "ab=b", "{cookie}");
    assert_eq!(first.header("vary"), Some("Cookie"));
    // From now on the variant stays the same, and no other cookie is set.
    let again = of(&gateway, "/", &[("cookie", &variant)]).await;
    assert_eq!(again.header("set-cookie"), None);
    assert_eq!(again.header("x-cache-status"), Some("HIT"));
    assert_eq!(again.text(), first.text());
    let other = if variant == "ab=a" { "ab=b" } else { "ab=a" };
    let other = of(&gateway, "/", &[("cookie", other)]).await;
    assert_eq!(other.header("x-cache-status"), Some("MISS"));
    assert_eq!(origin.settings().requests("/"), 2);
}

#[tokio::test]
async fn ab_split_names_the_variant_to_the_backend_and_clients_cannot() {
    let origin = EchoOrigin::start().await;
    let gateway = with("ab-split", origin.address(), |yaml| yaml).await;
    let headers = [("cookie", "ab=b"), ("x-variant", "z")];
    let seen = of(&gateway, "/", &headers).await.json();
    assert_eq!(echoed(&seen, "x-variant"), Some("b"));
}

#[tokio::test]
async fn bot_filter_refuses_declared_bots() {
    let origin = EchoOrigin::start().await;
    let gateway = with("bot-filter", origin.address(), |yaml| yaml).await;
    let refused = of(&gateway, "/", &[("user-agent", "sqlmap/1.8")]).await;
    assert_eq!(refused.status(), 403);
    assert_eq!(origin.counts().requests(), 0);
    for agent in [BROWSER, "our-monitor/1 (SemrushBot)"] {
        let passed = of(&gateway, "/", &[("user-agent", agent)]).await;
        assert_eq!(passed.status(), 200, "{agent}");
    }
    assert_eq!(origin.counts().requests(), 2);
}

#[tokio::test]
async fn maintenance_closes_the_site_to_all_but_those_who_work_on_it() {
    let origin = EchoOrigin::start().await;
    let gateway = with("maintenance", origin.address(), |yaml| yaml).await;
    let page = of(&gateway, "/", &[("accept", "text/html")]).await;
    assert_eq!(page.status(), 503);
    assert_eq!(page.header("retry-after"), Some("600"));
    assert!(
        page.text().contains("<h1>Back soon</h1>"),
        "{}",
        page.text()
    );
    let json = of(&gateway, "/", &[]).await;
    assert_eq!(
        (json.status(), &json.json()["error"]),
        (503, &json!("maintenance"))
    );
    assert_eq!(of(&gateway, "/health", &[]).await.status(), 200);
    // Addresses in `bypass` pass, and all clients do once it is over; both by a reload.
    let base = format!(
        "upstreams: {{ app: {{ backends: [\"{}\"] }} }}\n",
        origin.address()
    );
    let route = route_of("maintenance");
    for (from, to) in [("10.0.0.0/8", "127.0.0.0/8"), ("on: true", "on: false")] {
        assert!(route.contains(from));
        let open = gateway
            .reload(&format!("{base}{}", route.replace(from, to)))
            .await;
        assert!(open, "{}", gateway.stderr());
        assert_eq!(of(&gateway, "/", &[]).await.status(), 200, "{to}");
        assert!(gateway.reload(&format!("{base}{route}")).await);
        assert_eq!(of(&gateway, "/", &[]).await.status(), 503);
    }
}

const SECRET: &str = "replace this by 32 random characters, or more";

/// Returns a token created by Node, with the file that the README names.
fn signed_in_node(prefix: &str, seconds: i64, ago: u64) -> String {
    let main = "const { sign } = await import(process.argv[1]);
        const [secret, prefix, seconds, ago] = process.argv.slice(2);
        console.log(await sign(secret, prefix, Number(seconds), Date.now() - Number(ago) * 1000));";
    let module = folder().join("plugins/signed-url/token.js");
    let ran = Command::new("node")
        .args(["--input-type=module", "-e", main])
        .arg(module)
        .args([SECRET, prefix, &seconds.to_string(), &ago.to_string()])
        .output()
        .expect("node is there");
    assert!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    let token = String::from_utf8(ran.stdout).expect("tokens are ASCII");
    token.trim().to_owned()
}

/// S-78: a token of 90 seconds, for the playlist and the segments of one folder.
#[tokio::test]
async fn signed_url_opens_one_folder_for_ninety_seconds() {
    let origin = EchoOrigin::start().await;
    let gateway = with("signed-url", origin.address(), |yaml| yaml).await;
    assert_eq!(
        of(&gateway, "/watch/42/index.m3u8", &[]).await.status(),
        401
    );
    let token = signed_in_node("/watch/42/", 90, 0);
    let playlist = of(
        &gateway,
        &format!("/watch/42/index.m3u8?token={token}&q=1"),
        &[],
    )
    .await;
    assert_eq!(playlist.status(), 200);
    assert_eq!(playlist.json()["target"], "/watch/42/index.m3u8?q=1");
    // Segments: by the cookie, and by the token in the path.
    let cookie = playlist.header("set-cookie").expect("segments need it");
    assert!(
        cookie.contains("; Path=/watch/42/; Expires=") && cookie.contains(" GMT; Max-Age="),
        "{cookie}"
    );
    let cookie = cookie.split(';').next().unwrap();
    let segment = of(&gateway, "/watch/42/720p/1.ts", &[("cookie", cookie)]).await;
    assert_eq!(segment.status(), 200);
    let segment = of(&gateway, &format!("/watch/42/~{token}/720p/1.ts"), &[]).await;
    assert_eq!(segment.json()["target"], "/watch/42/720p/1.ts");
    // Another folder, and later.
    let other = of(
        &gateway,
        &format!("/watch/43/index.m3u8?token={token}"),
        &[],
    )
    .await;
    assert_eq!(
        (other.status(), &other.json()["error"]),
        (401, &json!("token_invalid"))
    );
    let at = async |ago| {
        let token = signed_in_node("/watch/42/", 90, ago);
        of(&gateway, &format!("/watch/42/a?token={token}"), &[]).await
    };
    assert_eq!(at(80).await.status(), 200);
    let late = at(96).await;
    assert_eq!(
        (late.status(), &late.json()["error"]),
        (401, &json!("token_expired"))
    );
    assert_eq!(origin.counts().requests(), 4);
    // A token in a parameter is in no log.
    let lines = gateway.log_lines(7).await;
    let lines = lines
        .iter()
        .filter(|line| !line["path"].as_str().unwrap().contains('~'));
    let lines: Vec<String> = lines.map(ToString::to_string).collect();
    let signature = token.rsplit('.').next().unwrap();
    assert!(!lines.concat().contains(signature), "{lines:#?}");
}

#[tokio::test]
async fn signed_url_shares_stored_responses_as_its_readme_says() {
    let origin = NumberedOrigin::start().await;
    let cached = "upstream: app\n    cache: { ttl: 1min, key: { ignore_query: [token] }, anonymous_cookies: [playback] }";
    let gateway = with("signed-url", origin.address(), |yaml| {
        yaml.replace("upstream: app", cached)
    })
    .await;
    let tokens = [60, 90].map(|seconds| signed_in_node("/watch/42/", seconds, 0));
    for (token, outcome) in tokens.iter().zip(["MISS", "HIT"]) {
        let playlist = of(&gateway, &format!("/watch/42/a.m3u8?token={token}"), &[]).await;
        assert_eq!(playlist.header("x-cache-status"), Some(outcome));
        assert!(
            playlist
                .header("set-cookie")
                .expect("each has its own")
                .contains(token)
        );
    }
    for (token, outcome) in tokens.iter().zip(["MISS", "HIT"]) {
        let cookie = format!("playback={token}");
        let segment = of(&gateway, "/watch/42/1.ts", &[("cookie", &cookie)]).await;
        assert_eq!(segment.header("x-cache-status"), Some(outcome));
    }
    // Stored responses are not served without a token.
    assert_eq!(of(&gateway, "/watch/42/1.ts", &[]).await.status(), 401);
}

#[tokio::test]
async fn api_key_guards_an_express_app() {
    let app = ExpressApp::start().await;
    let gateway = with("api-key", app.address(), |yaml| {
        // The app's `/echo` shows the request that reaches it.
        yaml.replace("/api/*", "/*")
    })
    .await;
    let nobody = of(&gateway, "/api/items", &[("x-client", "acme")]).await;
    assert_eq!(
        (nobody.status(), &nobody.json()["error"]),
        (401, &json!("api_key_missing"))
    );
    let wrong = of(&gateway, "/api/items", &[("x-api-key", "ek_acme")]).await;
    assert_eq!(wrong.json()["error"], "api_key_invalid");
    let key = ("x-api-key", "ek_acme_example");
    let write = |key: &str| {
        Request::new("POST", "/api/items")
            .header("x-api-key", key)
            .header("content-type", "application/json")
            .body(json!({ "name": "cup" }).to_string())
    };
    assert_eq!(gateway.send(&write("ek_acme_example")).await.status(), 201);
    assert_eq!(
        gateway.send(&write("ek_globex_example")).await.status(),
        403
    );
    let list = of(&gateway, "/api/items", &[key]).await;
    assert_eq!(list.json()[0]["name"], "cup");
    let seen = of(&gateway, "/echo", &[key, ("x-client", "root")])
        .await
        .json();
    assert_eq!(seen["headers"]["x-client"], "acme");
    assert_eq!(seen["headers"]["x-plan"], "gold");
    assert_eq!(seen["headers"]["x-api-key"], json!(null));
    assert_eq!(app.stats().await["writes"], 1);
    // The command line creates the same hashes.
    let made = crate::cli::edgeway_fed(
        &["hash", "api-key", "--stdin", "acme"],
        "ek_acme_example_of_twenty",
    );
    assert!(made.stdout.starts_with("acme sha256:"), "{}", made.stdout);
}

#[tokio::test]
async fn a_guard_that_fails_lets_nobody_pass() {
    let origin = EchoOrigin::start().await;
    // Its schema accepts this, and the plugin fails when it runs.
    let none = |yaml: String| yaml.replace(&format!("\"{SECRET}\""), "");
    let gateway = with("signed-url", origin.address(), none).await;
    let token = signed_in_node("/watch/42/", 90, 0);
    let failed = of(&gateway, &format!("/watch/42/a?token={token}"), &[]).await;
    assert_eq!(failed.status(), 503);
    assert_eq!(origin.counts().requests(), 0);
    assert!(
        gateway.stderr().contains("32 characters"),
        "{}",
        gateway.stderr()
    );
}

#[tokio::test]
async fn a_guard_that_fails_on_the_way_to_a_backend_sends_nothing_there() {
    let origin = EchoOrigin::start().await;
    let yaml = Front::to(&origin)
        .route("cache: {}, plugins: [{ file: guard.js, role: auth }]")
        .yaml();
    // It fails because of this client's request, before it removes a header that no client may
    // send.
    let gateway = Gateway::start_in(&yaml, |folder| {
        let guard = "export function onRequest() {}
export function onUpstreamRequest(request) {
  decodeURIComponent(request.headers.get('x-bad') ?? '');
  request.headers.delete('x-role');
}
";
        fs::write(folder.join("guard.js"), guard).unwrap();
    })
    .await;
    let forged = [("x-role", "admin"), ("x-bad", "%ff")];
    for _ in 0..20 {
        let refused = of(&gateway, "/", &forged).await;
        assert_eq!(refused.status(), 503);
    }
    assert_eq!(origin.counts().requests(), 0);
    let lines = gateway.log_lines(20).await;
    let is_reported = |line: &serde_json::Value| line["reason"] == "plugin_failed";
    assert!(lines.iter().all(is_reported), "{lines:?}");
    let passed = of(&gateway, "/", &forged[..1]).await;
    assert_eq!(echoed(&passed.json(), "x-role"), None);
}

/// Only a client that made a condition has what a 304 stands for, and only one that began a handshake
/// knows its key.
#[tokio::test]
async fn a_plugin_makes_no_condition_and_no_handshake_of_its_own() {
    let origin = EchoOrigin::start().await;
    let route = "plugins: [{ file: own.js, on_error: continue }]";
    let gateway = Gateway::start_in(&Front::to(&origin).route(route).yaml(), |folder| {
        let text = "export function onRequest(request) {
  request.headers.set('if-none-match', '\"own\"');
  request.headers.set('sec-websocket-key', 'own');
}
";
        fs::write(folder.join("own.js"), text).unwrap();
    })
    .await;
    for (sent, condition) in [
        (&[][..], None),
        (&[("if-none-match", "\"a\"")], Some("\"own\"")),
    ] {
        let seen = of(&gateway, "/", sent).await.json();
        assert_eq!(echoed(&seen, "if-none-match"), condition);
        assert_eq!(echoed(&seen, "sec-websocket-key"), None);
    }
}

#[tokio::test]
async fn identity_headers_of_a_plugin_are_forged_on_no_route() {
    let origin = EchoOrigin::start().await;
    for (reserved, forged) in [
        (", identity_headers: [X-User-Id]", None),
        ("", Some("root")),
    ] {
        let yaml = format!(
            "upstreams: {{ app: {{ backends: [\"{}\"] }} }}
routes:
  - match: {{ path: /account/* }}
    upstream: app
    plugins: [{{ file: guard.js, role: auth{reserved} }}]
  - match: {{ path: /* }}
    upstream: app
",
            origin.address()
        );
        let gateway = Gateway::start_in(&yaml, |folder| {
            let guard =
                "export function onRequest(request) { request.headers.set('x-user-id', 'ann'); }";
            fs::write(folder.join("guard.js"), guard).unwrap();
        })
        .await;
        for name in ["X-User-Id", "X_User_Id", "x-user_id"] {
            let headers = [(name, "root")];
            let known = of(&gateway, "/account/", &headers).await.json();
            assert_eq!(echoed(&known, "x-user-id"), Some("ann"));
            let open = of(&gateway, "/", &headers).await.json();
            // A name with an underscore never passes.
            let forged = forged.filter(|_| !name.contains('_'));
            assert_eq!(echoed(&open, name), forged, "{name}");
        }
    }
}

#[test]
fn check_shows_where_a_plugin_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let made = new_plugin(folder.path());
    let yaml = "listeners: [{ address: 127.0.0.1:8080 }]
routes:
  - match: { path: /* }
    respond: ok
    plugins: [{ file: plugins/hello/plugin.js, on_error: continue }]
";
    let config = folder.path().join("edgeway.yaml");
    fs::write(&config, yaml).unwrap();
    let config = config.display().to_string();
    let right = edgeway(&["check", "-c", &config]);
    assert_eq!(right.status, 0, "{}", right.stderr);
    let text = "// a comment\nexport function onRequest(request {}\n";
    fs::write(Path::new(&made).join("plugin.js"), text).unwrap();
    let wrong = edgeway(&["check", "-c", &config]);
    assert_eq!(wrong.status, 78);
    for part in [
        "edgeway.yaml:5:23: error: plugin `hello` cannot be loaded",
        "plugins/hello/plugin.js:2:",
    ] {
        assert!(wrong.stderr.contains(part), "{part}: {}", wrong.stderr);
    }
}

#[test]
fn an_upstream_that_only_a_plugin_chooses_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = "listeners: [{ address: 127.0.0.1:8080 }]
upstreams: { a: { backends: [127.0.0.1:1] }, b: { backends: [127.0.0.1:2] } }
routes:
  - match: { path: /* }
    upstream: a
    plugins: [{ file: plugins/x.js, on_error: continue }]
";
    let config = folder.path().join("edgeway.yaml");
    fs::write(&config, yaml).unwrap();
    fs::create_dir(folder.path().join("plugins")).unwrap();
    for (hook, is_reported) in [("onRequest", true), ("onRoute", false)] {
        let text = format!("export const {hook} = () => {{}};");
        fs::write(folder.path().join("plugins/x.js"), text).unwrap();
        let checked = edgeway(&["check", "-c", &config.display().to_string()]);
        let is_unused = checked.stderr.contains("no route uses the upstream `b`");
        assert_eq!(is_unused, is_reported, "{}", checked.stderr);
    }
}

#[test]
fn a_config_that_a_plugins_schema_refuses_is_shown_at_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let made = new_plugin(folder.path());
    let check = |config: &str| {
        let yaml = format!(
            "listeners: [{{ address: 127.0.0.1:0 }}]\nroutes:\n- match: {{ path: /* }}\n  respond: {{ body: hi }}\n  plugins:\n  - file: plugins/hello/plugin.js\n    on_error: continue\n    config: {config}\n"
        );
        let path = folder.path().join("edgeway.yaml");
        fs::write(&path, yaml).unwrap();
        edgeway(&["check", "-c", &path.display().to_string()])
    };
    assert_eq!(check("{ greeting: hi }").status, 0);
    let refused = check("{ greeting: 5 }");
    assert_eq!(refused.status, 78);
    let why = "edgeway.yaml:8:25: error: `config.greeting` is number, not string";
    assert!(refused.stderr.contains(why), "{}", refused.stderr);
    let file = format!("{made}/plugin.js");
    let config = r#"{ "greting": "hi" }"#;
    let run = edgeway(&["plugin", "run", &file, "GET", "/hello", "--config", config]);
    assert_eq!(run.status, 1);
    let why = "`config.greting` is an unknown key (by its config.schema.json)";
    assert!(run.stdout.contains(why), "{}", run.stdout);
}

#[tokio::test]
async fn a_plugin_that_the_engine_cannot_stop_blocks_no_request_with_threads() {
    let yaml = "
routes:
- match: { path: /* }
  respond: { body: went on }
  plugins:
  - file: plugins/x/plugin.js
    on_error: refuse
    isolation: thread
";
    // One call that takes many seconds.
    let text = "const [text, part] = ['y'.repeat(60000), 'y'.repeat(30000) + 'x'];
        export function onRequest(request) {
            if (request.nextUrl.pathname === '/stuck') text.indexOf(part);
        }";
    let gateway = Gateway::start_in(yaml, |folder| {
        fs::create_dir_all(folder.join("plugins/x")).unwrap();
        fs::write(folder.join("plugins/x/plugin.js"), text).unwrap();
    })
    .await;
    assert_eq!(gateway.get("/").await.text(), "went on");
    let begun = tokio::time::Instant::now();
    assert_eq!(gateway.get("/stuck").await.status(), 503);
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    let failures = "edgeway_plugin_failures_total{kind=\"stuck\"}";
    gateway.counts(failures, 1).await;
    assert_eq!(gateway.count("edgeway_plugin_stuck_threads").await, 1);
    assert_eq!(gateway.get("/").await.text(), "went on");
    // One client holds as many as it may: no hook starts for it until one of them returns, and
    // others are served.
    let is_full = async || {
        assert_eq!(gateway.get("/stuck").await.status(), 503);
        (gateway.get("/").await.status() == 503).then_some(())
    };
    wait_for("it holds two", SOON, is_full).await;
    let other = std::net::IpAddr::from([127, 0, 0, 2]);
    let other = Connection::open_from(other, gateway.address()).await;
    let response = other.expect("it is open").send(&get("/")).await;
    assert_eq!(response.expect("a response").status(), 200);
    let is_served = async || (gateway.get("/").await.status() == 200).then_some(());
    // The stuck threads run with low priority, and get the CPU time that other work leaves.
    wait_for("a thread comes back", SOON * 18, is_served).await;
    assert_eq!(gateway.count("edgeway_plugin_breaker_open").await, 0);
}

fn new_plugin(within: &Path) -> String {
    let plugins = within.join("plugins").display().to_string();
    let made = edgeway(&["plugin", "new", "hello", "--in", &plugins]);
    assert_eq!(made.status, 0, "{}", made.stderr);
    format!("{plugins}/hello")
}

#[test]
fn a_new_plugin_passes_its_tests_and_is_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let made = new_plugin(folder.path());
    let ran = edgeway(&["plugin", "test", &made]);
    assert_eq!(ran.status, 0, "{}{}", ran.stdout, ran.stderr);
    assert!(
        ran.stdout.contains("ℹ tests 3\nℹ pass 3\nℹ fail 0\n"),
        "{}",
        ran.stdout
    );
    let plugin = Path::new(&made).join("plugin.js");
    fs::write(&plugin, "// mine").unwrap();
    let plugins = folder.path().join("plugins").display().to_string();
    let again = edgeway(&["plugin", "new", "hello", "--in", &plugins]);
    assert_eq!(again.status, 1);
    assert!(again.stderr.contains("exists already"), "{}", again.stderr);
    assert_eq!(fs::read_to_string(&plugin).unwrap(), "// mine");
    for name in ["", "../x", "a/b", "a b", ".x"] {
        let refused = edgeway(&["plugin", "new", name, "--in", &plugins]);
        assert_eq!(refused.status, 1, "{name}");
        assert!(
            refused.stderr.contains("invalid plugin name"),
            "{}",
            refused.stderr
        );
    }
}

#[test]
fn a_run_shows_what_a_plugin_did_and_where_it_failed() {
    let folder = tempfile::tempdir().unwrap();
    let made = new_plugin(folder.path());
    let file = format!("{made}/plugin.js");
    let run = |more: &[&str]| edgeway(&[&["plugin", "run", &file, "GET"], more].concat());
    let responded = run(&[
        "/hello",
        "--config",
        "{\"greeting\":\"hi\"}",
        "--client",
        "192.0.2.7",
    ]);
    assert_eq!(responded.status, 0, "{}", responded.stderr);
    assert!(
        responded
            .stdout
            .starts_with("onRequest           responds 200 OK  ("),
        "{}",
        responded.stdout
    );
    assert!(
        responded.stdout.contains("  body      hi, 192.0.2.7\n"),
        "{}",
        responded.stdout
    );
    let on = run(&["https://shop.test/", "--status", "404"]);
    assert!(
        on.stdout.contains("  request   set x-plugin: hello\n"),
        "{}",
        on.stdout
    );
    assert!(
        on.stdout.contains("  response  set x-plugin: hello\n"),
        "{}",
        on.stdout
    );

    let text = "export function onRequest(request) {\n  console.warn('here');\n  const a = null;\n  return a.b;\n}\n";
    fs::write(&file, text).unwrap();
    let failed = run(&["/"]);
    assert_eq!(failed.status, 1);
    for part in [
        "failed (script)",
        "TypeError",
        &format!("({file}:4:"),
        "console   warn  here",
    ] {
        assert!(failed.stdout.contains(part), "{part}: {}", failed.stdout);
    }
    fs::write(&file, "export function onRequest( {").unwrap();
    let broken = run(&["/"]);
    assert_eq!(broken.status, 1);
    assert!(
        broken.stdout.contains(&format!("{file}:1:")),
        "{}",
        broken.stdout
    );
    for wrong in [
        vec!["no"],
        vec!["/", "--config", "[]"],
        vec!["/", "-H", "x"],
    ] {
        let refused = run(&wrong);
        assert_eq!((refused.status, &*refused.stdout), (1, ""), "{wrong:?}");
        assert!(
            refused.stderr.starts_with("edgeway: ") && refused.stderr.contains('`'),
            "{}",
            refused.stderr
        );
    }
}

#[test]
fn failed_tests_are_reported_with_positions() {
    let folder = tempfile::tempdir().unwrap();
    let made = new_plugin(folder.path());
    let test = format!("{made}/more.test.js");
    let text = "import { assert, test } from 'edgeway:test';\ntest('one', () => {});\ntest('two', () => {\n  assert.equal(1, 2);\n});\n";
    fs::write(&test, text).unwrap();
    let ran = edgeway(&["plugin", "test", &made]);
    assert_eq!(ran.status, 1);
    assert!(
        ran.stdout.contains("ℹ tests 5\nℹ pass 4\nℹ fail 1\n"),
        "{}",
        ran.stdout
    );
    let end = ran
        .stdout
        .split("✖ failing tests:")
        .nth(1)
        .expect("it names them");
    assert!(end.contains("AssertionError: expected 2, got 1"), "{end}");
    assert!(end.contains(&format!("({test}:4:")), "{end}");
    assert!(!end.contains("edgeway/"), "{end}");
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let none = edgeway(&["plugin", "test", &empty.display().to_string()]);
    assert_eq!(none.status, 1);
    assert!(none.stderr.contains("no test in"), "{}", none.stderr);
}

#[tokio::test]
async fn a_revalidation_sends_the_request_as_the_plugin_changed_it() {
    let origin = NumberedOrigin::start().await;
    let stale = [
        ("cache-control", "max-age=60, stale-while-revalidate=600"),
        ("age", "61"),
        ("vary", "x-none"),
    ];
    origin.settings().tell("/b", 200, &stale);
    origin
        .settings()
        .tell("/a", 200, &[("cache-control", "max-age=60")]);
    let yaml = Front::to(&origin)
        .route("cache: {}, plugins: [{ file: x/plugin.js, on_error: continue }]")
        .yaml();
    let gateway = Gateway::start_in(&yaml, |folder| {
        let text = "export const proxy = (req) => NextResponse.rewrite(new URL('/b', req.url));";
        fs::create_dir(folder.join("x")).expect("the folder is ours");
        fs::write(folder.join("x/plugin.js"), text).expect("the folder is ours");
    })
    .await;
    let cached = |response: &Response| response.header("x-cache-status").unwrap_or("").to_owned();
    assert_eq!(gateway.get("/a").await.text(), "/b #1");
    origin
        .settings()
        .tell("/b", 200, &[("cache-control", "max-age=60")]);
    let response = gateway.get("/a").await;
    assert_eq!(
        (cached(&response), response.text()),
        ("STALE".to_owned(), "/b #1".to_owned())
    );
    let fresh = wait_for("the new response is there", SOON, async || {
        let response = gateway.get("/a").await;
        (cached(&response) == "HIT").then_some(response)
    });
    assert_eq!(fresh.await.text(), "/b #2");
    assert_eq!(origin.settings().requests("/a"), 0);
}
