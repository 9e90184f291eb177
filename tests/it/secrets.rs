//! No output shows a secret of a configuration: not `check`, whatever mistake is beside it, not
//! `check --print`, and not a running gateway.
#![allow(clippy::print_stdout, reason = "a seed is to be found in the output")]

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use edgeway::testkit::gateway::{self, World};
use edgeway_config::diagnostic::Style;
use serde_json::Value;

use crate::support::{
    client::{get, post},
    gateway::Gateway,
    origins::{EchoOrigin, echoed},
    seed,
};

/// Places of secrets in the schema: keys from the top, `*` for any name.
fn places(schema: &Value) -> BTreeSet<Vec<String>> {
    fn walk(
        (all, schema): (&Value, &Value),
        at: &mut Vec<String>,
        seen: &mut Vec<String>,
        found: &mut BTreeSet<Vec<String>>,
    ) {
        if let Some(reference) = schema["$ref"].as_str() {
            if reference.ends_with("/Secret") {
                found.insert(at.clone());
            } else if !seen.iter().any(|other| other == reference) {
                seen.push(reference.to_owned());
                let inner = all.pointer(&reference[1..]).expect("it is there");
                walk((all, inner), at, seen, found);
                seen.pop();
            }
        }
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            at.push(name.clone());
            walk((all, inner), at, seen, found);
            at.pop();
        }
        if schema["additionalProperties"].is_object() {
            at.push("*".to_owned());
            walk((all, &schema["additionalProperties"]), at, seen, found);
            at.pop();
        }
        let choices = ["anyOf", "oneOf", "allOf"];
        let lists = choices.iter().filter_map(|key| schema[*key].as_array());
        for inner in lists.flatten().chain(schema.get("items")) {
            walk((all, inner), at, seen, found);
        }
    }
    let mut found = BTreeSet::new();
    walk(
        (schema, schema),
        &mut Vec::new(),
        &mut Vec::new(),
        &mut found,
    );
    found
}

/// Places where the names of keys indicate secrets.
const NAMED: [&[&str]; 14] = [
    &["routes", "headers", "request", "set", "Authorization"],
    &["routes", "headers", "request", "set", "X-Api-Key"],
    &["routes", "match", "header", "X-Purge-Token"],
    &["routes", "plugins", "config", "apiKey"],
    &["routes", "plugins", "config", "inner", "password"],
    &["routes", "plugins", "config", "salt"],
    &["routes", "plugins", "config", "inner", "salt"],
    &["routes", "plugins", "config", "smtp_pass"],
    &["routes", "plugins", "config", "dbpassword"],
    &["routes", "headers", "request", "set", "X-Weird"],
    &["routes", "forward_auth", "url"],
    &["routes", "jwt", "keys"],
    &["routes", "jwt", "keys", "key"],
    &["redis", "url"],
];

/// Returns the lines of a mapping down to the secret, and the secret's depth.
fn lines(at: &[String], value: &str) -> (Vec<String>, usize) {
    let is_route = at[0] == "routes";
    let mut lines = vec!["listeners: [{ address: 127.0.0.1:8080 }]".to_owned()];
    let mut depth = 0;
    for (index, key) in at.iter().enumerate() {
        let key = if key == "*" { "ann" } else { key };
        let is_last = index + 1 == at.len();
        let value = if is_last {
            format!(" {value}")
        } else {
            String::new()
        };
        if key == "match" {
            // The route has one already: a second one is a mistake as well.
            lines.push(format!("{}match:", " ".repeat(depth)));
        } else {
            lines.push(format!("{}{key}:{value}", " ".repeat(depth)));
        }
        depth += 2;
        if index == 0 && is_route {
            lines.push("  - respond: ok".to_owned());
            if at[1] != "match" {
                lines.push("    match: { path: /* }".to_owned());
            }
            depth = 4;
        }
    }
    if !is_route {
        lines.push("routes: [{ match: {}, respond: ok }]".to_owned());
    }
    (lines, depth - 2)
}

/// Returns a text with a random mistake beside the secret, or in it.
fn drawn(at: &[String], secret: &str, random: &mut fastrand::Rng) -> String {
    let digits = secret.bytes().all(|byte| byte.is_ascii_digit());
    let value = match random.u8(..10) {
        0 => format!("\"{secret}\""),
        1 => format!("'{secret}'"),
        2 => format!("[{secret}]"),
        3 => format!("\"{secret}"),
        4 => format!("{secret} # {secret}"),
        5 => format!("[a, {secret}]"),
        _ if at == ["redis", "url"] => format!("redis://u:{secret}@127.0.0.1:6379"),
        _ if at.last().is_some_and(|key| key == "Authorization") && !digits => {
            format!("Bearer {secret}")
        }
        _ => secret.to_owned(),
    };
    let value = match value {
        value if at == ["redis", "url"] && !value.starts_with("redis:") => {
            format!("redis://u:{secret}@127.0.0.1:6379")
        }
        // Recognisable by its format alone.
        _ if at.last().is_some_and(|key| key == "X-Weird") => format!("Bearer {secret}"),
        _ if at == ["routes", "forward_auth", "url"] => {
            format!("http://127.0.0.1:9/verify?a=b&api_key={secret}")
        }
        value => value,
    };
    let (mut lines, depth) = lines(at, &value);
    let of_secret = lines
        .iter()
        .rposition(|line| line.contains(secret))
        .expect("it is there");
    let mistakes = [
        "bogus: 1",
        "bogus: [a, b",
        "bogus: {a: b",
        "\tbogus: 1",
        "- bogus",
        "bogus",
        "timeout: soon",
        "realm: [1]",
        "\"bogus: 1",
        "bogus: *anchor",
    ];
    let mistake = mistakes[random.usize(..mistakes.len())];
    let indentation = depth + [0, 0, 0, 1, 2][random.usize(..5)];
    let mistake = format!("{}{mistake}", " ".repeat(indentation));
    match random.u8(..6) {
        0 | 1 => lines.insert(of_secret, mistake),
        2 | 3 => lines.insert(of_secret + 1, mistake),
        4 => {
            // A typing mistake in the key itself.
            let line = lines[of_secret].clone();
            let key = at.last().expect("it has keys");
            // Where any name is allowed, a different name no longer indicates a secret.
            let is_free = at
                .iter()
                .any(|key| matches!(&**key, "set" | "header" | "config"));
            if key.len() > 6 && !is_free {
                let at = random.usize(1..key.len() - 1);
                let mut slip = key.clone();
                slip.remove(at);
                lines[of_secret] = line.replacen(key.as_str(), &slip, 1);
            }
        }
        _ => {}
    }
    lines.join("\n") + "\n"
}

/// Returns the whole output of a check of `text`, in every style, and of printing if it is well
/// formed.
fn shown(text: &str) -> (String, bool) {
    let loaded = gateway::load_text("edgeway.yaml", text);
    let mut diagnostics = loaded.diagnostics;
    let mut out = String::new();
    if let Some(file) = &loaded.file {
        let (gateway, found) = gateway::compile(file, Path::new("."), &World::default());
        diagnostics.extend(found);
        if let Some(gateway) = &gateway {
            out.push_str(&gateway::printed(file, gateway, &[]));
        }
    }
    let is_printed = !out.is_empty();
    for style in [
        Style::Graphical { colour: false },
        Style::Lines,
        Style::Json,
    ] {
        out.push_str(&diagnostics.render(&loaded.sources, style));
    }
    for one in diagnostics.sorted() {
        out.push_str(&one.line(&loaded.sources));
    }
    (out, is_printed)
}

#[test]
fn no_mistake_beside_a_secret_shows_it() {
    let cases = seed::cases(350, 2000);
    let seed = std::env::var("EDGEWAY_SECRETS_SEED");
    let seed = seed.map_or_else(|_| seed::drawn(), |seed| seed.parse().expect("a number"));
    println!("EDGEWAY_SECRETS_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut places: Vec<Vec<String>> = places(&gateway::schema()).into_iter().collect();
    assert!(places.len() >= 6, "{places:?}");
    let named = NAMED
        .iter()
        .map(|at| at.iter().map(|key| (*key).to_owned()).collect());
    places.extend(named);
    let (mut printed, mut without) = (0, 0);
    for case in 0..cases {
        let at = &places[case % places.len()];
        let secret: String = if random.u8(..4) == 0 {
            (0..12)
                .map(|_| char::from(random.u8(b'1'..=b'9')))
                .collect()
        } else {
            (0..40).map(|_| random.alphanumeric()).collect()
        };
        let text = drawn(at, &secret, &mut random);
        let (out, is_printed) = shown(&text);
        assert!(
            !out.contains(&secret),
            "seed {seed}, case {case}:\n{text}\n{out}"
        );
        printed += usize::from(is_printed);
        // The control: the same values under ordinary names are shown.
        let plain = text.replace(at.last().expect("it has keys").as_str(), "colour");
        let plain = plain.replace("plugins:", "colours:");
        without += usize::from(shown(&plain).0.contains(&secret));
    }
    assert!(
        printed > cases / 50,
        "only {printed} of {cases} were well formed"
    );
    assert!(
        without > cases / 4,
        "the control shows only {without} of {cases}"
    );
}

#[test]
fn plugins_hide_values_that_their_schema_or_the_environment_marks_as_secret() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text);
    let yaml = "listeners: [{ address: 127.0.0.1:8080 }]
routes:
  - match: { path: /* }
    respond: ok
    plugins:
      - file: plugin.js
        on_error: continue
        config: { salt: marker-1, pepper: 'marker-2', colour: red, from: '${MARKER}', inner: { apiKey: marker-4 } }
";
    let plugin = "export const onRequest = () => {};";
    let schema = r#"{ "properties": { "salt": { "writeOnly": true }, "pepper": { "format": "password" } } }"#;
    for (name, text) in [
        ("edgeway.yaml", yaml),
        ("plugin.js", plugin),
        ("config.schema.json", schema),
    ] {
        write(name, text).expect("it takes files");
    }
    let file = folder.path().join("edgeway.yaml");
    let ran = Command::new(env!("CARGO_BIN_EXE_edgeway"))
        .args(["check", "--print", "--config"])
        .arg(file)
        .env("MARKER", "marker-3")
        .output()
        .expect("the program runs");
    let printed = String::from_utf8_lossy(&ran.stdout);
    let noted = String::from_utf8_lossy(&ran.stderr);
    assert!(
        ran.status.success() && printed.contains("red"),
        "{printed}{noted}"
    );
    assert!(
        !printed.contains("marker") && !noted.contains("marker"),
        "{printed}{noted}"
    );
}

/// Starts a gateway with a secret of each kind, and returns these secrets.
async fn with_all_secrets(backend: impl ToString) -> (Gateway, String, Vec<String>) {
    let marker = |number: u32| format!("marker{number:02}").repeat(5);
    let hash = bcrypt::hash(marker(1), 4).expect("it is hashed");
    let yaml = format!(
        "
admin: {{ address: 127.0.0.1:0, socket: admin.sock, token: {} }}
audit_log: {{ file: audit.log }}
redis: {{ url: 'redis://u:{}@127.0.0.1:1/0', secret: {} }}
upstreams: {{ web: {{ backends: ['{}'], health: false }} }}
rate_limits: {{ all: {{ rate: 100/s, key: client.ip }} }}
routes:
  - match: {{ path: /* }}
    upstream: web
    rate_limit: [all]
    headers: {{ request: {{ set: {{ Authorization: Bearer {}, X-Backend-Key: {}, X-Weird: Bearer {} }} }} }}
  - match: {{ path: /token, header: {{ X-Purge-Token: {} }} }}
    respond: ok
  - match: {{ path: /jwt }}
    upstream: web
    jwt: {{ keys: {} }}
  - match: {{ path: /basic }}
    upstream: web
    basic_auth: {{ users: {{ ann: '{hash}' }} }}
  - match: {{ path: /asked }}
    upstream: web
    forward_auth: 'http://127.0.0.1:1/verify?api_key={}'
  - match: {{ path: /keys }}
    upstream: web
    jwt: {{ jwks: 'http://127.0.0.1:1/keys?api_key={}' }}
  - match: {{ path: /moved }}
    redirect: {{ to: 'https://u:{}@a.test/' }}
  - match: {{ path: /plugin }}
    upstream: web
    plugins:
      - file: plugin.js
        role: auth
        config: {{ apiKey: {}, smtp_pass: {}, endpoint: 'https://u:{}@a.test/', from: '${{MARKER}}' }}
",
        marker(2),
        marker(3),
        marker(4),
        backend.to_string(),
        marker(5),
        marker(6),
        marker(7),
        marker(8),
        marker(9),
        marker(10),
        marker(11),
        marker(12),
        marker(13),
        marker(14),
        marker(15),
    );
    let gateway = Gateway::start_prepared(&yaml, &[("MARKER", &marker(16))], |folder| {
        let plugin =
            "export function onRequest(request, ctx) { throw new Error(Object.keys(ctx.config)); }";
        fs::write(folder.join("plugin.js"), plugin).expect("it takes files");
    })
    .await;
    let secrets = (1..=16).map(marker).chain([hash]).collect();
    (gateway, yaml, secrets)
}

#[tokio::test]
async fn a_gateway_that_runs_shows_no_secret_of_its_configuration() {
    let origin = EchoOrigin::start().await;
    let (gateway, yaml, secrets) = with_all_secrets(origin.address()).await;
    let seen = gateway.get("/a?token=marker99").await.json();
    // The control: the app gets it.
    assert_eq!(echoed(&seen, "x-backend-key"), Some(&*secrets[5]));
    let purge = get("/token").header("X-Purge-Token", secrets[7].as_str());
    assert_eq!(gateway.send(&purge).await.text(), "ok");
    // All failures, and their output.
    let wrong = format!("Basic {}", STANDARD.encode("ann:wrong"));
    for path in ["/jwt", "/basic", "/asked", "/keys", "/plugin"] {
        let request = get(path).header("authorization", wrong.as_str());
        let status = gateway.send(&request).await.status();
        assert!(status >= 400, "{path}: {status}");
    }
    let mut outputs = String::new();
    for path in [
        "/",
        "/status",
        "/metrics",
        "/healthz",
        "/readyz",
        "/v1/status",
        "/v1/upstreams",
        "/v1/bans",
        "/v1/profiles",
        "/v1/requests",
        "/v1/nothing",
    ] {
        outputs.push_str(&gateway.admin_get(path).await.text());
    }
    for path in [
        "/a", "/token", "/jwt", "/basic", "/asked", "/keys", "/moved", "/plugin",
    ] {
        let question = format!("{{\"method\":\"GET\",\"url\":\"http://localhost{path}\"}}");
        let explained = post("/v1/explain", question).header("content-type", "application/json");
        let explained = gateway.send_admin(&explained).await;
        assert_eq!(explained.status(), 200, "{path}");
        outputs.push_str(&explained.text());
    }
    let bad = yaml.replace("rate: 100/s", "rate: many, bogus: 1");
    let bad = bad.replace("X-Backend-Key:", "X Backend Key:");
    assert!(!gateway.reload(&bad).await);
    let refused = gateway.send_admin(&post("/v1/reload", "")).await;
    outputs.push_str(&refused.text());
    outputs.push_str(&gateway.stderr());
    let lines = gateway.log_lines(7).await;
    outputs.push_str(&Value::from(lines).to_string());
    let audit = gateway.folder().join("audit.log");
    outputs.push_str(&fs::read_to_string(audit).expect("refusals are in it"));
    let file = gateway.folder().join("edgeway.yaml");
    let file = file.to_str().expect("a plain path");
    let command = |arguments: &[&str]| {
        let ran = Command::new(env!("CARGO_BIN_EXE_edgeway"))
            .args(arguments)
            .args(["--config", file])
            .env("MARKER", &secrets[15])
            .output()
            .expect("the program runs");
        [ran.stdout, ran.stderr].map(|out| String::from_utf8_lossy(&out).into_owned())
    };
    outputs.extend(command(&["check"]));
    gateway.configure(&yaml);
    for arguments in [
        &["check", "--print"][..],
        &["explain", "GET", "/token"],
        &["explain", "GET", "/asked"],
        &["explain", "GET", "/keys"],
        &["explain", "GET", "/moved"],
    ] {
        outputs.extend(command(arguments));
    }
    for part in ["edgeway_", "forward_auth_unavailable", "[redacted]"] {
        assert!(outputs.contains(part), "{part} is not in {outputs}");
    }
    for (secret, number) in secrets.iter().zip(1..) {
        assert!(
            !outputs.contains(secret.as_str()),
            "secret {number} is in {outputs}"
        );
    }
    assert!(!outputs.contains("marker"), "{outputs}");
}
