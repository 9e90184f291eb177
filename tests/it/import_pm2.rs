//! `edgeway import pm2`: apps of real ecosystem files run from the units that it makes.

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::{
    cli::{Ran, edgeway},
    support::{
        apps::Kind,
        client::{self, get},
        gateway::Gateway,
        ports::free_ports,
        wait::wait_for,
    },
};

/// Serves its port, the variables that it was asked for, and its arguments.
const APP: &str = r"
const http = require('node:http');
const names = ['NODE_ENV', 'NODE_APP_INSTANCE', 'HOSTNAME', 'HOST', 'SECRET'];
http.createServer((_, response) => {
  const env = Object.fromEntries(names.map((name) => [name, process.env[name]]));
  response.setHeader('content-type', 'application/json');
  response.end(JSON.stringify({ port: process.env.PORT, env, args: process.argv.slice(2), cwd: process.cwd() }));
}).listen(process.env.PORT, '127.0.0.1');
";

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // npm has a process of its own between the test and the app.
        let group = Pid::from_child(&self.0);
        let _gone = kill_process_group(group, Signal::KILL);
        let _gone = self.0.wait();
    }
}

/// Imports `file` of `folder`; the files are in `folder/out`.
async fn import(folder: &Path, file: &str) -> Ran {
    let file = folder.join(file).display().to_string();
    let out = folder.join("out").display().to_string();
    let ran =
        tokio::task::spawn_blocking(move || edgeway(&["import", "pm2", &file, "--out", &out]));
    ran.await.expect("it ends")
}

/// Splits a line of a unit or of an environment file into words, as systemd does for what this
/// import writes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut is_quoted = false;
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => {
                is_quoted = !is_quoted;
                word.get_or_insert_default();
            }
            '\\' => word.get_or_insert_default().extend(letters.next()),
            ' ' if !is_quoted => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}

/// Starts an instance of a unit as systemd would: its variables, folder and command.
fn start(out: &Path, unit: &str, port: u16) -> Running {
    let text = fs::read_to_string(out.join("systemd").join(unit)).expect("the unit is there");
    let text = text.replace("%i", &port.to_string()).replace("%%", "%");
    let mut variables = BTreeMap::new();
    let mut command = Vec::new();
    let mut folder = String::new();
    for line in text.lines() {
        let Some((key, value)) = line.split_once('=') else {
            continue;
        };
        let mut set = |text: &str| {
            for word in words(text) {
                let (name, value) = word.split_once('=').expect("a variable");
                variables.insert(name.to_owned(), value.to_owned());
            }
        };
        match key {
            "Environment" => set(value),
            "EnvironmentFile" => {
                let name = value.rsplit('/').next().expect("a file");
                let file =
                    fs::read_to_string(out.join("apps").join(name)).expect("the file is there");
                file.lines().for_each(set);
            }
            "WorkingDirectory" => value.clone_into(&mut folder),
            "ExecStart" => {
                let port = variables.get("PORT").cloned().unwrap_or_default();
                let all = words(&value.replace("${PORT}", &port));
                command = all
                    .into_iter()
                    .map(|word| word.replace("$$", "$"))
                    .collect();
            }
            _ => (),
        }
    }
    let child = Command::new(&command[0])
        .args(&command[1..])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").expect("there is one"))
        .envs(variables)
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("it starts");
    Running(child)
}

/// Serves the imported configuration, with the listener on a free port.
async fn gateway(out: &Path) -> Gateway {
    let yaml = fs::read_to_string(out.join("edgeway.yaml")).expect("it is there");
    assert!(yaml.contains("127.0.0.1:8080"), "{yaml}");
    Gateway::start(&yaml.replace("127.0.0.1:8080", "127.0.0.1:0")).await
}

#[tokio::test]
async fn a_cluster_with_secrets_runs_on_one_port_for_each_process() {
    let first = free_ports(3);
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("app dir")).expect("a folder");
    fs::write(folder.path().join("app dir/server.js"), APP).expect("it is written");
    let file = format!(
        "const path = require('path');
module.exports = {{
  apps: [{{
    name: 'Shop Front',
    cwd: path.join(__dirname, 'app dir'),
    script: './server.js',
    args: ['--title', 'a b'],
    instances: 3,
    exec_mode: 'cluster',
    max_memory_restart: '512M',
    watch: false,
    env: {{ NODE_ENV: 'development', PORT: {first}, SECRET: 'a \"$x\" `y` \\\\ 100%' }},
    env_production: {{ NODE_ENV: 'production' }},
    cron_restart: '0 3 * * *',
  }}],
  deploy: {{ production: {{ user: 'node' }} }},
}};"
    );
    fs::write(folder.path().join("ecosystem.config.js"), file).expect("it is written");
    let ran = import(folder.path(), "ecosystem.config.js").await;
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(
        ran.stdout.contains("`cron_restart`: make a systemd timer"),
        "{}",
        ran.stdout
    );
    let out = folder.path().join("out");
    let secrets = fs::metadata(out.join("apps/shop-front.env")).expect("it is there");
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&secrets.permissions()) & 0o777,
        0o600
    );
    let ports = [first, first + 1, first + 2];
    let _running = ports.map(|port| start(&out, "shop-front@.service", port));
    let gateway = gateway(&out).await;
    for (number, port) in ports.iter().enumerate() {
        // Each backend gets its share.
        let port = port.to_string();
        let shown = wait_for("it responds", Duration::from_secs(20), async || {
            let response = gateway.get("/x").await;
            let is_it = response.status() == 200 && response.json()["port"].as_str() == Some(&port);
            is_it.then(|| response.json())
        })
        .await;
        assert_eq!(shown["env"]["NODE_ENV"], "production");
        assert_eq!(shown["env"]["HOST"], "localhost");
        assert_eq!(shown["env"]["NODE_APP_INSTANCE"], number.to_string());
        assert_eq!(shown["env"]["SECRET"], "a \"$x\" `y` \\ 100%");
        assert_eq!(shown["args"], serde_json::json!(["--title", "a b"]));
        assert!(
            shown["cwd"]
                .as_str()
                .is_some_and(|cwd| cwd.ends_with("/app dir"))
        );
    }
    let again = import(folder.path(), "ecosystem.config.js").await;
    assert_eq!(again.status, 1);
    assert!(again.stderr.contains("--out DIR"), "{}", again.stderr);
}

#[tokio::test]
async fn an_app_of_npm_scripts_is_an_upstream_and_a_worker_is_none() {
    let port = free_ports(1);
    let folder = tempfile::tempdir().expect("a folder");
    let package = r#"{ "name": "api", "scripts": { "start": "node index.js" } }"#;
    fs::write(folder.path().join("package.json"), package).expect("it is written");
    fs::write(folder.path().join("index.js"), APP).expect("it is written");
    let file = format!(
        r#"{{ "apps": [
  {{ "name": "api", "script": "npm", "args": "start", "instances": 1, "env": {{ "PORT": {port} }},
    "out_file": "./logs/out.log", "log_date_format": "YYYY", "merge_logs": true }},
  {{ "name": "mailer", "script": "worker.js", "instances": 1 }}
] }}"#
    );
    fs::write(folder.path().join("pm2.json"), file).expect("it is written");
    let ran = import(folder.path(), "pm2.json").await;
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(
        ran.stdout.contains("systemctl enable --now"),
        "{}",
        ran.stdout
    );
    assert!(
        ran.stdout
            .contains("- no port is written, so it is no upstream"),
        "{}",
        ran.stdout
    );
    let out = folder.path().join("out");
    let worker = fs::read_to_string(out.join("systemd/mailer.service")).expect("it is there");
    assert!(
        worker.contains("ExecStart=/usr/bin/env node worker.js\n"),
        "{worker}"
    );
    // `app.target` alone is enabled by nobody, and exists only where packages installed it.
    for unit in ["mailer.service", "api@.service"] {
        let unit = fs::read_to_string(out.join("systemd").join(unit)).expect("it is there");
        assert!(
            unit.ends_with("[Install]\nWantedBy=multi-user.target app.target\n"),
            "{unit}"
        );
    }
    let _running = start(&out, "api@.service", port);
    let gateway = gateway(&out).await;
    let port = port.to_string();
    wait_for("it responds", Duration::from_secs(30), async || {
        let response = gateway.get("/").await;
        (response.status() == 200 && response.json()["port"].as_str() == Some(&port)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_invalid_ecosystem_file_is_named_with_the_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text, why) in [
        ("a.config.js", "module.exports = {", "SyntaxError"),
        (
            "b.config.js",
            "module.exports = { apps: [] }",
            "no apps in it",
        ),
        (
            "c.json",
            "{ \"apps\": [{ \"name\": \"x\" }] }",
            "no `script`",
        ),
        (
            "d.yaml",
            "apps: [{ script: a.js, instances: many }]",
            "write a number or `max`",
        ),
        ("e.toml", "", "unknown ending"),
    ] {
        fs::write(folder.path().join(name), text).expect("it is written");
        let ran = import(folder.path(), name).await;
        assert_eq!(ran.status, 78, "{name}: {}", ran.stderr);
        assert!(
            ran.stderr.contains(why) && ran.stderr.contains(name),
            "{}",
            ran.stderr
        );
        assert!(!folder.path().join("out").exists());
    }
}

/// Invariant: no text of an ecosystem file reaches the terminal as something that it obeys.
#[tokio::test]
async fn an_error_shows_escape_sequences_of_the_file_as_text() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in [
        (
            "a.config.js",
            "console.error('\\u001b[2Jfrom node\\u202e'); process.exit(1);",
        ),
        ("b.config.js", "throw new Error('\\u001b]0;title\\u0007');"),
        (
            "c.json",
            r#"[{ "name": "x", "script": "a.js", "instances": "\u001b[2J\u202e" }]"#,
        ),
        ("d.yaml", r#"apps: [{ script: a.js, instances: "\e[2J" }]"#),
    ] {
        fs::write(folder.path().join(name), text).expect("it is written");
        let ran = import(folder.path(), name).await;
        assert_eq!(ran.status, 78, "{name}: {}", ran.stderr);
        let is_obeyed = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
        assert!(!ran.stderr.contains(is_obeyed), "{:?}", ran.stderr);
        assert!(ran.stderr.contains("\\u{1b}"), "{:?}", ran.stderr);
    }
}

/// Behind TLS, Next.js sends a rewrite to its own path over TLS to itself if it listens on
/// `127.0.0.1`: the units that we write let it listen on the same address by name.
#[tokio::test]
async fn next_rewrites_behind_tls_as_our_units_start_it() {
    let app = Kind::Next;
    app.require_build();
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    let place = app.folder().display().to_string();
    let file = format!(
        r#"{{ "apps": [{{ "name": "shop", "cwd": "{place}", "instances": 1,
  "script": "node_modules/next/dist/bin/next", "args": "start -H localhost", "port": 3000 }}] }}"#
    );
    fs::write(folder.path().join("pm2.json"), file).expect("it is written");
    let ran = import(folder.path(), "pm2.json").await;
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let own = fs::read_to_string(root.join("node-app@.service")).expect("it is there");
    let command = |text: &str| {
        let mut lines = text.lines();
        let command = lines.find_map(|line| line.split("APP_COMMAND=").nth(1));
        let command = command.expect("it has one").trim_matches('"');
        command.to_owned()
    };
    let next = command(&own);
    // `edgeway init` writes the same command.
    let package = r#"{ "dependencies": { "next": "16" }, "scripts": { "start": "next start" } }"#;
    fs::write(folder.path().join("package.json"), package).expect("it is written");
    let project = folder.path().display().to_string();
    let ran = tokio::task::spawn_blocking(move || edgeway(&["init", &project])).await;
    let ran = ran.expect("it ends");
    let shown = format!("{}{}", ran.stdout, ran.stderr);
    assert_eq!(command(&shown), next);
    let own = own
        .replace("/srv/app", &place)
        .replace("$APP_COMMAND", &next);
    for (unit, text) in [
        ("next@.service", own.clone()),
        ("wrong@.service", own.replace("localhost", "127.0.0.1")),
    ] {
        fs::write(out.join("systemd").join(unit), text).expect("it is written");
    }
    let ports = free_ports(3);
    for name in ["node-app".to_owned()]
        .into_iter()
        .chain((0..3).map(|n| format!("node-app@{}", ports + n)))
        .chain((0..3).map(|n| format!("shop@{}", ports + n)))
    {
        let file = out.join("apps").join(format!("{name}.env"));
        fs::write(file, "").expect("it is written");
    }
    let units = ["shop@.service", "next@.service", "wrong@.service"];
    let mut statuses = Vec::new();
    for (unit, port) in units.into_iter().zip(ports..) {
        let _running = start(&out, unit, port);
        let request = get("/edge/rewrite/a")
            .header("host", "shop.test")
            .header("x-forwarded-proto", "https");
        let response = wait_for("it responds", Duration::from_secs(40), async || {
            let to = (Ipv4Addr::LOCALHOST, port).into();
            client::send(to, &request).await.ok()
        })
        .await;
        statuses.push((unit, response.status()));
    }
    // The last one is the control.
    let [shop, next, wrong] = units;
    assert_eq!(statuses, [(shop, 200), (next, 200), (wrong, 500)]);
}
