//! Apps of ecosystem files, run from the units that `edgeway import pm2` makes of them.

use std::{fs, path::Path, process::Command};

use super::{
    Machine, SOON,
    support::{
        client::{self, get},
        ports::free_ports,
        wait::until,
    },
    systemctl,
};

/// An ecosystem file with the apps that it must make run.
struct Ecosystem {
    file: &'static str,
    text: String,
    /// Units and the ports that they serve.
    units: Vec<(String, u16)>,
}

/// Ecosystem files in the forms that projects have: a cluster of Next.js with the port as argument,
/// an Express app with environments, and JSON with npm scripts and a worker.
fn ecosystems(apps: &Path) -> [Ecosystem; 3] {
    let apps = apps.display();
    let [next, express, npm] = [free_ports(2), free_ports(1), free_ports(1)];
    [
        Ecosystem {
            file: "ecosystem.config.js",
            text: format!(
                "module.exports = {{
  apps: [{{
    name: 'next-site',
    cwd: '{apps}/next',
    script: './node_modules/next/dist/bin/next',
    args: 'start -p {next}',
    instances: 2,
    exec_mode: 'cluster',
    max_memory_restart: '1G',
    env: {{ NODE_ENV: 'production' }},
    error_file: __dirname + '/next-error.log',
  }}],
}};"
            ),
            units: vec![
                (format!("next-site@{next}"), next),
                (format!("next-site@{}", next + 1), next + 1),
            ],
        },
        Ecosystem {
            file: "ecosystem.config.cjs",
            text: format!(
                "const path = require('node:path');
module.exports = {{
  apps: [{{
    name: 'Express API',
    script: 'server.js',
    cwd: path.join('{apps}', 'express'),
    node_args: ['--max-old-space-size=256'],
    kill_timeout: 5000,
    env: {{ NODE_ENV: 'development' }},
    env_production: {{ NODE_ENV: 'production', PORT: {express} }},
  }}],
}};"
            ),
            units: vec![(format!("express-api@{express}"), express)],
        },
        Ecosystem {
            file: "pm2.json",
            text: format!(
                r#"{{ "apps": [
  {{ "name": "npm", "cwd": "npm", "script": "npm", "args": "run serve", "env": {{ "PORT": "{npm}" }} }},
  {{ "name": "tick", "cwd": "npm", "script": "tick.js", "instances": 1, "out_file": "tick.log" }}
] }}"#
            ),
            units: vec![(format!("npm@{npm}"), npm)],
        },
    ]
}

/// Writes an app that npm starts, and a worker.
fn npm_app(folder: &Path) {
    let folder = folder.join("npm");
    fs::create_dir(&folder).unwrap();
    let package = r#"{ "scripts": { "serve": "node serve.js" } }"#;
    fs::write(folder.join("package.json"), package).unwrap();
    let serve = "require('node:http').createServer((_, r) => r.end('ok')).listen(process.env.PORT)";
    fs::write(folder.join("serve.js"), serve).unwrap();
    let tick = "setInterval(() => console.log('tick'), 100)";
    fs::write(folder.join("tick.js"), tick).unwrap();
}

/// Installs a unit without the settings that only the system manager supports.
fn install(unit: &Path, out: &Path, user: &Path) {
    let text = fs::read_to_string(unit).unwrap();
    let is_for_users = |line: &&str| {
        let system = ["User=", "ProtectSystem=", "PrivateTmp=", "MemoryMax="];
        !system.iter().any(|setting| line.starts_with(setting))
    };
    let lines: Vec<&str> = text.lines().filter(is_for_users).collect();
    let apps = out.join("apps").display().to_string();
    let text = lines.join("\n").replace("/etc/edgeway/apps", &apps);
    fs::write(user.join(unit.file_name().unwrap()), text).unwrap();
}

/// Checks that an enabled unit starts with a machine, in the folder of a system that does not run.
fn check_start_of_machine(machine: &mut Machine, file: &Path) {
    let root = tempfile::tempdir().unwrap();
    let units = root.path().join("etc/systemd/system");
    fs::create_dir_all(&units).unwrap();
    let name = file.file_name().unwrap().to_str().unwrap();
    fs::copy(file, units.join(name)).unwrap();
    let unit = name.replace("@.", "@3000.");
    let enabled = Command::new("systemctl")
        .arg(format!("--root={}", root.path().display()))
        .args(["enable", &unit])
        .output()
        .unwrap();
    let link = units.join("multi-user.target.wants").join(&unit);
    machine.check(
        enabled.status.success() && link.is_symlink(),
        format!(
            "{unit} starts with the machine once it is enabled {}",
            String::from_utf8_lossy(&enabled.stderr)
        ),
    );
}

pub(super) async fn run(machine: &mut Machine, work: &Path) {
    println!("apps from ecosystem files of PM2");
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/node-app@.service");
    check_start_of_machine(machine, &own);
    let apps = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/apps");
    let user = work.join("config/systemd/user");
    for ecosystem in ecosystems(&apps) {
        let folder = tempfile::tempdir_in(work).unwrap();
        npm_app(folder.path());
        let file = folder.path().join(ecosystem.file);
        fs::write(&file, &ecosystem.text).unwrap();
        let out = folder.path().join("out");
        let ran = Command::new(env!("CARGO_BIN_EXE_edgeway"))
            .args(["import", "pm2"])
            .arg(&file)
            .arg("--out")
            .arg(&out)
            .output()
            .unwrap();
        let report = String::from_utf8_lossy(&ran.stdout).into_owned();
        let why = String::from_utf8_lossy(&ran.stderr).into_owned();
        machine.check(
            ran.status.success(),
            format!("{}: imported {why}", ecosystem.file),
        );
        for unit in fs::read_dir(out.join("systemd")).unwrap() {
            let unit = unit.unwrap().path();
            check_start_of_machine(machine, &unit);
            install(&unit, &out, &user);
        }
        systemctl(&["daemon-reload"]);
        for (unit, port) in &ecosystem.units {
            machine.check(report.contains(unit), format!("the report names {unit}"));
            let (started, text) = systemctl(&["start", unit]);
            let address = ([127, 0, 0, 1], *port).into();
            let ask = &mut async || {
                let response = client::send(address, &get("/")).await.ok()?;
                (response.status() < 500).then_some(())
            };
            let serves = until(SOON, ask).await.is_some();
            machine.check(started && serves, format!("{unit} serves on {port} {text}"));
            if !serves {
                println!("{}", systemctl(&["status", "--no-pager", unit]).1);
            }
        }
        if ecosystem.file == "pm2.json" {
            let log = folder.path().join("npm/tick.log");
            let (started, text) = systemctl(&["start", "tick"]);
            let ask = &mut async || {
                fs::read_to_string(&log)
                    .is_ok_and(|log| log.contains("tick"))
                    .then_some(())
            };
            let ticks = until(SOON, ask).await.is_some();
            machine.check(
                started && ticks,
                format!("the worker writes its log {text}"),
            );
            systemctl(&["stop", "tick"]);
        }
        for (unit, _) in &ecosystem.units {
            let (stopped, text) = systemctl(&["stop", unit]);
            machine.check(stopped, format!("{unit} stops {text}"));
        }
    }
}
