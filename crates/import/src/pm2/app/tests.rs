//! Tests of the plan of an app.

use serde_json::json;

use super::*;

fn planned(app: &Value, taken: &mut TakenNames) -> Result<App, String> {
    let machine = Machine {
        cpus: 4,
        folder: Path::new("/srv/shop"),
        home: Some(Path::new("/home/ann")),
        is_file: &|path| {
            let files = ["lib/systemd/system/cron.service", "bin/own"];
            files.iter().any(|file| path.ends_with(file))
                || path == Path::new("/etc/systemd/system/queue@.service")
                || path == Path::new("/etc/systemd/system/mail.service")
        },
        is_binary: &|path| path.ends_with("bin/own"),
        script: &|folder, name| {
            let script =
                (folder.ends_with("site") && name == "start").then_some("next start -H ::");
            script.map(str::to_owned)
        },
        websocket: &|_| None,
        owner: &|_| Some(1000),
    };
    App::plan(app.as_object().unwrap(), "production", &machine, taken)
}

fn plan(app: &Value, taken: &mut TakenNames) -> App {
    planned(app, taken).unwrap()
}

#[test]
fn next_is_seen_behind_a_script_of_the_package() {
    for (app, is_next) in [
        (json!({ "script": "npm", "args": "start" }), true),
        (json!({ "script": "npm", "args": ["run", "start"] }), true),
        (json!({ "script": "pnpm start" }), true),
        (json!({ "script": "npm", "args": "run worker" }), false),
        (
            json!({ "script": "npm", "args": "start", "cwd": "../api" }),
            false,
        ),
    ] {
        let mut app = app;
        app["name"] = json!("web");
        app["port"] = json!(3000);
        if app["cwd"].is_null() {
            app["cwd"] = json!("../site");
        }
        let app = plan(&app, &mut TakenNames::default());
        assert_eq!(app.is_next, is_next, "{:?}", app.command);
    }
}

#[test]
fn a_cluster_becomes_one_process_for_each_port() {
    let mut taken = TakenNames::default();
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
    assert_eq!(web.restart_at, Some(400));
    let is_carried = web.carried.iter().any(|line| {
        line.contains("`restart_at: { rss: 400MiB }`")
            && line.contains("edgeway rollout my-shop --watch")
    });
    assert!(is_carried, "{:?}", web.carried);
    // A worker has no upstream.
    let worker = plan(
        &json!({ "name": "mail", "script": "a.js", "max_memory_restart": "500M", "args": "--port x" }),
        &mut taken,
    );
    assert_eq!(worker.restart_at, None);
    let is_reported = worker
        .left
        .iter()
        .any(|line| line.contains("`--port` has no number"));
    assert!(is_reported, "{:?}", worker.left);
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
    let moved = "moves from port 3002 to 3004, since `my-shop` has 3002";
    assert!(api.left.iter().any(|line| line.starts_with(moved)));
    assert_eq!((api.first, api.moved.as_deref()), (Some(3002), Some(moved)));
    // `scale` has no port between that is another app's.
    let chat = json!({ "script": "chat.js", "env": { "PORT": "3008" } });
    assert_eq!(plan(&chat, &mut taken).ports, [3008]);
    let around = json!({ "script": "b.js", "env": { "PORT": "3006" }, "instances": 3 });
    assert_eq!(plan(&around, &mut taken).ports, [3009, 3010, 3011]);
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
            &mut TakenNames::default(),
        );
        assert_eq!(app.ports.len(), count, "{written}");
    }
}

#[test]
fn commands_are_those_that_pm2_would_run() {
    for (app, command) in [
        (json!({ "script": "npm", "args": "start" }), "npm start"),
        (json!({ "script": "npm run serve" }), "npm run serve"),
        (
            json!({ "script": "java", "args": "-jar a.jar" }),
            "java -jar a.jar",
        ),
        (json!({ "script": "bin/own" }), "bin/own"),
        (
            json!({ "script": "cd web && npm start" }),
            "bash -c cd web && npm start",
        ),
        (
            json!({ "script": "a.js", "interpreter": "node@22.1.0" }),
            "node a.js",
        ),
        (
            json!({ "script": "dist/main.js", "node_args": "--max-old-space-size=512" }),
            "node --max-old-space-size=512 dist/main.js",
        ),
        (
            json!({ "script": "npm", "args": "start", "node_args": "--max-old-space-size=512" }),
            "npm start",
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
        let app = plan(&app, &mut TakenNames::default());
        assert_eq!(app.command.join(" "), command);
        let left = app.left.join("\n");
        assert!(app.ports.is_empty() && left.contains("no port is written"));
    }
}

#[test]
fn every_key_is_carried_ignored_with_a_reason_or_named() {
    let app = plan(
        &json!({
            "script": "a.js", "cwd": "../api/./x", "env": { "PORT": 1 }, "env_staging": { "B": 1 }, "env_file": ".env", "watch": true,
            "cron_restart": "0 0 * * *", "kill_timeout": 1600, "restart_delay": 20, "moon": 1, "time": false,
            "out_file": "logs/100%.log", "error": "/dev/null", "autorestart": false, "user": "web",
        }),
        &mut TakenNames::default(),
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

#[test]
fn ports_are_found_where_people_write_them() {
    for (app, command) in [
        (
            json!({ "script": "next", "args": "start -p4000" }),
            "next start -p${PORT}",
        ),
        (
            json!({ "script": "next start --port=4000" }),
            "next start --port=${PORT}",
        ),
        (
            json!({ "script": "PORT=4000 node a.js" }),
            "PORT=${PORT} node a.js",
        ),
        (
            json!({ "script": "cd web && npx next start -p 4000" }),
            "bash -c cd web && npx next start -p ${PORT}",
        ),
        (
            json!({ "script": "a.js", "env": { "PORT": " 4000 " } }),
            "node a.js",
        ),
    ] {
        let app = plan(&app, &mut TakenNames::default());
        assert_eq!(
            (&app.ports[..], app.command.join(" ").as_str()),
            (&[4000][..], command)
        );
        assert!(!app.environment.contains_key("PORT"));
    }
    // A path is no port, and is kept.
    let socket = json!({ "script": "a.js", "env": { "PORT": "/run/a.sock" } });
    let socket = plan(&socket, &mut TakenNames::default());
    assert_eq!(socket.environment["PORT"], "/run/a.sock");
    let last = json!({ "script": "a.js", "port": 65535 });
    assert_eq!(plan(&last, &mut TakenNames::default()).ports, [65535]);
    for (port, instances) in [(0, 1), (65536, 1), (65535, 2)] {
        let app = json!({ "script": "a.js", "port": port, "instances": instances });
        assert!(planned(&app, &mut TakenNames::default()).is_err(), "{port}");
    }
}

#[test]
fn no_two_apps_and_no_other_program_share_a_name() {
    let mut taken = TakenNames::default();
    let mut name = |written: &str| {
        let app = json!({ "name": written, "script": "a.js" });
        plan(&app, &mut taken).name
    };
    for (written, expected) in [
        ("Shop API", "shop-api"),
        ("shop/api", "shop-api-2"),
        ("shop_api", "shop-api-3"),
        ("\u{41c}", "app"),
        ("7", "app-7"),
        // Units of systemd, of Edgeway, and of a package.
        ("user", "app-user"),
        ("edgeway", "app-edgeway"),
        ("cron", "app-cron"),
        ("", "a"),
    ] {
        assert_eq!(name(written), expected, "{written}");
    }
}

/// The words that PM2 makes of a text, by the expression in its own code.
#[test]
fn arguments_are_split_as_pm2_splits_them() {
    const PM2: &str = r#"
        const split = (text) => text
            .split(/([\w\-]+\="[^"]*")|([\w\-]+\='[^']*')|"([^"]*)"|'([^']*)'|\s/)
            .filter((word) => word && word.trim());
        console.log(JSON.stringify(JSON.parse(process.argv[1]).map(split)));
    "#;
    let parts = ["a", "\"", "'", " ", "--x=", "=", "\t", "b c"];
    let mut random = fastrand::Rng::with_seed(7);
    let mut texts = vec!["start --title \"a b\" --name='c d' it's".to_owned()];
    texts.extend((0..300).map(|_| {
        let words = (0..random.usize(..12)).map(|_| parts[random.usize(..parts.len())]);
        words.collect::<String>()
    }));
    let ran = std::process::Command::new("node")
        .args(["-e", PM2, &json!(texts).to_string()])
        .output()
        .unwrap();
    let expected: Vec<Vec<String>> = serde_json::from_slice(&ran.stdout).unwrap();
    for (text, expected) in texts.iter().zip(expected) {
        let app = json!({ "script": "x", "interpreter": "none", "args": text });
        let app = plan(&app, &mut TakenNames::default());
        assert_eq!(app.command[1..], expected, "{text}");
    }
}

#[test]
fn instances_are_counted_in_the_variables_that_pm2_counts_in() {
    let app = json!({
        "script": "a.js", "port": 4000, "instances": 2, "instance_var": "ID",
        "increment_var": "METRICS", "env": { "METRICS": 9100 },
    });
    let app = plan(&app, &mut TakenNames::default());
    let counters = [("ID".to_owned(), 0), ("METRICS".to_owned(), 9100)];
    assert_eq!(app.counters, counters.into());
}

#[test]
fn a_unit_that_would_be_replaced_is_reported() {
    for (app, unit) in [
        (
            json!({ "name": "queue", "script": "a.js", "port": 80 }),
            Some("queue@.service"),
        ),
        (json!({ "name": "queue", "script": "a.js" }), None),
        (
            json!({ "name": "mail", "script": "a.js" }),
            Some("mail.service"),
        ),
        (
            json!({ "name": "mail", "script": "a.js", "port": 80 }),
            None,
        ),
    ] {
        let plan = plan(&app, &mut TakenNames::default());
        let line =
            unit.map(|unit| format!("/etc/systemd/system/{unit} exists: `install` replaces it"));
        let found = plan.left.iter().find(|line| line.contains("replaces"));
        assert_eq!(found, line.as_ref(), "{app}");
    }
}

#[test]
fn an_invalid_number_of_instances_names_its_app() {
    let app = json!({ "name": "shop", "script": "a.js", "port": 80, "instances": "many" });
    let why = planned(&app, &mut TakenNames::default()).unwrap_err();
    assert_eq!(
        why,
        "`shop`: invalid `instances: many`; write a number or `max`"
    );
}

#[test]
fn what_a_unit_cannot_do_is_named() {
    for (app, named) in [
        (json!({ "script": "serve" }), "a route with `files`"),
        (
            json!({ "script": "a.js", "env": { "PORT": "80" } }),
            "ports below 1024",
        ),
    ] {
        let left = plan(&app, &mut TakenNames::default()).left;
        assert!(left.iter().any(|line| line.contains(named)), "{left:?}");
    }
}
