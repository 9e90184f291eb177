//! Tests of the plan of an app.

use serde_json::json;

use super::*;

fn plan(app: &Value, taken: &mut Vec<u16>) -> App {
    let machine = Machine {
        cpus: 4,
        folder: Path::new("/srv/shop"),
        is_file: &|_| false,
        owner: &|_| Some(1000),
    };
    App::plan(app.as_object().unwrap(), "production", &machine, taken).unwrap()
}

#[test]
fn a_cluster_becomes_one_process_for_each_port() {
    let mut taken = Vec::new();
    let web = plan(
        &json!({
            "name": "my shop", "script": "node_modules/next/dist/bin/next", "args": "start -p 3000",
            "instances": "max", "exec_mode": "cluster", "max_memory_restart": "500M",
            "env": { "NODE_ENV": "development", "A": 1 }, "env_production": { "NODE_ENV": "production" },
        }),
        &mut taken,
    );
    assert_eq!(web.name, "my-shop");
    assert_eq!(web.ports, [3000, 3001, 3002, 3003]);
    let command = [
        "node",
        "node_modules/next/dist/bin/next",
        "start",
        "-p",
        PORT,
    ];
    assert_eq!(web.command, command);
    assert_eq!(web.environment["NODE_ENV"], "production");
    assert!(web.is_next && web.settings.contains(&"MemoryMax=524288000".to_owned()));
    // Another app with a port in between moves on.
    let api = plan(
        &json!({ "script": "./api.js", "env": { "PORT": "3002" }, "instances": 2 }),
        &mut taken,
    );
    assert_eq!(
        (api.name.as_str(), &api.ports[..]),
        ("api", &[3004, 3005][..])
    );
    assert!(!api.environment.contains_key("PORT"));
}

#[test]
fn instances_count_as_in_pm2() {
    for (written, count) in [
        (json!("max"), 4),
        (json!(0), 4),
        (json!(-1), 3),
        (json!("2"), 2),
        (json!(-9), 1),
        (json!(null), 1),
    ] {
        let app = plan(
            &json!({ "script": "a.js", "port": 80, "instances": written }),
            &mut Vec::new(),
        );
        assert_eq!(app.ports.len(), count, "{written}");
    }
}

#[test]
fn commands_are_those_that_pm2_would_run() {
    for (app, command) in [
        (json!({ "script": "npm", "args": "start" }), "npm start"),
        (
            json!({ "script": "dist/main.js", "node_args": "--max-old-space-size=512" }),
            "node --max-old-space-size=512 dist/main.js",
        ),
        (json!({ "script": "worker.py" }), "python3 worker.py"),
        (
            json!({ "script": "./run", "interpreter": "none", "args": ["a b", 1] }),
            "./run a b 1",
        ),
        (
            json!({ "script": "a.ts", "interpreter": "tsx" }),
            "tsx a.ts",
        ),
    ] {
        let app = plan(&app, &mut Vec::new());
        assert_eq!(app.command.join(" "), command);
        assert!(app.ports.is_empty() && app.left[0].contains("no port is written"));
    }
}

#[test]
fn every_key_is_carried_ignored_with_a_reason_or_named() {
    let app = plan(
        &json!({
            "script": "a.js", "cwd": "../api/./x", "env": { "PORT": 1 }, "env_staging": { "B": 1 }, "watch": true,
            "cron_restart": "0 0 * * *", "kill_timeout": 1600, "restart_delay": 20, "moon": 1, "time": false,
            "out_file": "logs/100%.log", "error": "/dev/null", "autorestart": false, "user": "web",
        }),
        &mut Vec::new(),
    );
    assert_eq!(app.folder, Path::new("/srv/api/x"));
    assert_eq!(app.user, "web");
    assert_eq!(
        app.settings,
        [
            "TimeoutStopSec=2s",
            "RestartSec=20ms",
            "Restart=no",
            "StandardOutput=append:/srv/api/x/logs/100%%.log",
            "StandardError=null",
        ]
    );
    let left = app.left.join("\n");
    for key in [
        "`watch`",
        "`cron_restart`",
        "`moon`: unknown",
        "`env_staging`",
    ] {
        assert!(left.contains(key), "{left}");
    }
    assert!(!left.contains("`time`"), "{left}");
}

#[test]
fn sizes_are_read_as_pm2_reads_them() {
    assert_eq!(bytes("500M"), Some(500 << 20));
    assert_eq!(bytes("1G"), Some(1 << 30));
    assert_eq!(bytes("300k"), Some(300 << 10));
    assert_eq!(bytes("1024"), Some(1024));
    assert_eq!(bytes("much"), None);
}
