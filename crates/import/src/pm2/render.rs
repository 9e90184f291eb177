//! The files of an import: units, environment files, the configuration, and the report. Their texts
//! are `templates/pm2*`.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use askama::Template;
use edgeway_base::{node_app, out, shell::shown};
use edgeway_config::scalar;
use edgeway_project::{WebSocket, gateway_port};
use serde_json::{Value, json};

use super::{
    Output,
    app::{App, PORT, specifiers},
};

pub(super) fn outputs(apps: &[App]) -> Vec<Output> {
    let output = |path, text, is_private| Output {
        path,
        text,
        is_private,
    };
    let mut outputs = vec![output(
        "edgeway.yaml".to_owned(),
        configuration(apps),
        false,
    )];
    for app in apps {
        let (path, own) = (format!("systemd/{}", app.unit_file()), &app.environment);
        outputs.push(output(path, unit(app), false));
        outputs.push(output(
            format!("apps/{}.env", app.name),
            environment(own),
            true,
        ));
        for (number, port) in app.ports.iter().enumerate() {
            let counters = app.counters.iter();
            let lines = counters.map(|(name, first)| {
                let value = first.saturating_add(u64::try_from(number).unwrap_or_default());
                (name.clone(), value.to_string())
            });
            let path = format!("apps/{}@{port}.env", app.name);
            outputs.push(output(path, environment(&lines.collect()), true));
        }
    }
    outputs
}

#[derive(Template)]
#[template(path = "pm2.service", escape = "none")]
struct Unit<'a> {
    app: &'a App,
    folder: String,
    command: String,
}

fn unit(app: &App) -> String {
    let command: Vec<String> = app.command.iter().map(|word| argument(word)).collect();
    let unit = Unit {
        app,
        folder: specifiers(&app.folder.to_string_lossy()),
        command: command.join(" "),
    };
    unit.to_string()
}

/// Quotes a word for `ExecStart=` (systemd.service(5)). `${PORT}` stays a variable.
fn argument(word: &str) -> String {
    const PLAIN: &str = "-_./=:,@+";
    let is_plain = |c: char| c.is_ascii_alphanumeric() || PLAIN.contains(c);
    let parts = word.split(PORT).map(escaped);
    let text = parts.collect::<Vec<_>>().join(PORT);
    if word.replace(PORT, "").chars().all(is_plain) && !word.is_empty() {
        text
    } else {
        format!("\"{text}\"")
    }
}

/// Escapes what has a meaning in a quoted word. A line of a unit ends at a carriage return too.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in specifiers(text).chars() {
        match letter {
            '\\' | '"' => out.extend(['\\', letter]),
            '$' => out.push_str("$$"),
            control if control.is_ascii_control() => {
                let _infallible = write!(out, "\\x{:02x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out
}

/// Writes variables for `EnvironmentFile=` (systemd.exec(5)).
fn environment(variables: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    for (name, value) in variables {
        let mut quoted = String::with_capacity(value.len() + 2);
        for letter in value.chars() {
            if matches!(letter, '"' | '\\' | '$' | '`') {
                quoted.push('\\');
            }
            quoted.push(letter);
        }
        let _infallible = writeln!(text, "{name}=\"{quoted}\"");
    }
    text
}

/// The configuration. Only apps that listen have a route.
#[derive(Template)]
#[template(path = "pm2.yml")]
struct Configuration<'a> {
    sections: String,
    apps: Vec<&'a App>,
}

fn configuration(apps: &[App]) -> String {
    let address = format!("127.0.0.1:{}", port(apps));
    let mut file = json!({ "listeners": [{ "address": address }] });
    let mut listening = Vec::new();
    for app in apps {
        if let Some(upstream) = upstream(app, apps) {
            file["upstreams"][&app.name] = upstream;
            listening.push(app);
        }
    }
    let configuration = Configuration {
        sections: serde_saphyr::to_string(&file).unwrap_or_default(),
        apps: listening,
    };
    configuration.to_string()
}

/// Returns the upstream of an app; `None` for one that listens nowhere.
pub(super) fn upstream(app: &App, apps: &[App]) -> Option<Value> {
    let (first, last) = (*app.ports.first()?, *app.ports.last()?);
    // Room for 32, unless another app or the gateway is among them.
    let others = apps.iter().filter_map(|other| other.ports.first().copied());
    let next = others.chain([port(apps)]).filter(|port| *port > last).min();
    let most = first.saturating_add(31).min(next.unwrap_or(u16::MAX) - 1);
    let last = most.max(last);
    let backends = app.ports.iter().map(|port| format!("127.0.0.1:{port}"));
    let backends: Vec<String> = backends.collect();
    let kind = if app.is_next { "nextjs" } else { "node" };
    let unit = format!("{}@{{port}}.service", app.name);
    let mut upstream = json!({
        "app": kind,
        "backends": backends,
        "scale": { "unit": unit, "ports": format!("{first}-{last}") },
    });
    let is_socket_io = app.websocket.as_ref().is_some_and(WebSocket::is_socket_io);
    if is_socket_io && app.ports.len() > 1 {
        upstream["sticky"] = json!({ "cookie": format!("instance-{}", app.name) });
    }
    if let Some(mebibytes) = app.restart_at {
        upstream["restart_at"] = json!({ "rss": format!("{mebibytes}MiB") });
    }
    Some(upstream)
}

/// Returns the port of the gateway.
fn port(apps: &[App]) -> u16 {
    gateway_port(apps.iter().flat_map(|app| &app.ports))
}

/// The outcome for each app, and the commands to run.
#[derive(Template)]
#[template(path = "pm2.txt")]
struct Report<'a> {
    apps: &'a [App],
    folder: String,
    /// Units that listen, which start beside the processes of PM2.
    units: String,
    /// Other units: two processes of such an app would do its work twice.
    rest: String,
    program: &'static str,
    port: u16,
    /// True if apps have the ports that they had with PM2.
    has_their_ports: bool,
}

/// Renders what was carried over, what was not, and the commands to run, for an import whose ports
/// are higher by `shift`.
pub(super) fn report(apps: &[App], folder: &Path, shift: u16) -> String {
    let units = apps.iter().flat_map(|app| {
        let ports = app.ports.iter();
        ports.map(|port| format!("{}@{port}", app.name))
    });
    let rest = apps.iter().filter(|app| app.ports.is_empty());
    let rest: Vec<&str> = rest.map(|app| app.name.as_str()).collect();
    let report = Report {
        apps,
        folder: shown(&[folder.display().to_string()]),
        units: units.collect::<Vec<_>>().join(" "),
        rest: rest.join(" "),
        program: out::program(),
        port: port(apps),
        has_their_ports: shift == 0,
    };
    report.to_string()
}

#[cfg(test)]
mod tests {
    use super::{
        super::app::{Machine, TakenNames},
        *,
    };

    #[test]
    fn words_of_a_command_survive_systemd() {
        for (word, expected) in [
            ("server.js", "server.js"),
            ("-p", "-p"),
            ("${PORT}", "${PORT}"),
            ("--port=${PORT}", "--port=${PORT}"),
            ("a b", "\"a b\""),
            ("100%", "\"100%%\""),
            ("$HOME", "\"$$HOME\""),
            ("say \"x\\\"", "\"say \\\"x\\\\\\\"\""),
            ("", "\"\""),
            ("a\r\nUser=root", "\"a\\x0d\\x0aUser=root\""),
            (";", "\";\""),
        ] {
            assert_eq!(argument(word), expected);
        }
    }

    #[test]
    fn values_of_variables_are_quoted() {
        let variables = [("A", "x y"), ("B", "p$s`w\"\\"), ("C", "")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let text = environment(&variables.into());
        assert_eq!(text, "A=\"x y\"\nB=\"p\\$s\\`w\\\"\\\\\"\nC=\"\"\n");
    }

    /// Texts that would be more than a value, if they were written as they are.
    const PARTS: [&str; 18] = [
        "\nUser=root",
        "\r",
        "\n[Service]\n",
        "%i",
        "%",
        "$",
        "${HOME}",
        "\"",
        "'",
        "\\",
        "\\\n",
        " ",
        "a",
        ";",
        "=",
        "#",
        "\u{1b}[2J",
        "\u{e9}",
    ];

    /// Reads a file of variables as systemd does for text in double quotes.
    fn read(text: &str) -> BTreeMap<String, String> {
        let mut variables = BTreeMap::new();
        let mut letters = text.chars();
        loop {
            let name: String = letters.by_ref().take_while(|c| *c != '=').collect();
            if name.is_empty() {
                return variables;
            }
            assert_eq!(letters.next(), Some('"'), "{text:?}");
            let mut value = String::new();
            while let Some(letter) = letters.next().filter(|letter| *letter != '"') {
                match letter {
                    '\\' => value.extend(letters.next()),
                    other => value.push(other),
                }
            }
            assert_eq!(letters.next(), Some('\n'), "{text:?}");
            variables.insert(name, value);
        }
    }

    /// Invariant: whatever an ecosystem file has, it is refused, or each of its texts stays the
    /// value of its own setting.
    #[test]
    fn no_text_of_an_ecosystem_file_becomes_a_setting_of_its_own() {
        let mut random = fastrand::Rng::with_seed(11);
        let mut planned = 0;
        for _ in 0..2000 {
            let mut text = || {
                let parts = (0..random.usize(..4)).map(|_| PARTS[random.usize(..PARTS.len())]);
                parts.collect::<String>()
            };
            let app = json!({
                "name": text(), "script": format!("a{}", text()), "args": [text(), text()],
                "cwd": text(), "user": "web", "out_file": text(), "interpreter": "x",
                "env": { (text()): "n", "VALUE": text(), "PORT": 4000 }, (text()): true,
            });
            let machine = Machine {
                cpus: 2,
                folder: Path::new("/srv"),
                home: None,
                is_file: &|path| path.extension().is_none(),
                is_binary: &|_| false,
                script: &|_, _| None,
                websocket: &|_| None,
                owner: &|_| None,
            };
            let map = app.as_object().unwrap();
            let Ok(plan) = App::plan(map, "production", &machine, &mut TakenNames::default())
            else {
                continue;
            };
            planned += 1;
            let unit = unit(&plan);
            let plain = App::plan(
                json!({ "script": "a", "port": 1, "out_file": "x" })
                    .as_object()
                    .unwrap(),
                "production",
                &machine,
                &mut TakenNames::default(),
            );
            let keys = |unit: &str| -> Vec<String> {
                let lines = unit.split(['\n', '\r', '\0']);
                let keys =
                    lines.map(|line| line.split_once('=').map_or(line, |(key, _)| key).to_owned());
                keys.filter(|key| key != "StandardOutput").collect()
            };
            assert_eq!(keys(&unit), keys(&self::unit(&plain.unwrap())), "{app}");
            assert!(unit.lines().all(|line| !line.ends_with('\\')), "{unit}");
            let file = environment(&plan.environment);
            assert_eq!(read(&file), plan.environment, "{file:?}");
            let report = report(&[plan], Path::new("/a b"), 0);
            assert!(
                !report.contains('\u{1b}') && report.contains("'/a b'/apps"),
                "{report}"
            );
        }
        assert!(planned > 200, "{planned}");
    }

    #[test]
    fn any_names_give_a_configuration_without_findings() {
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..100 {
            let mut taken = TakenNames::default();
            let names = [
                "true", "null", "On", "7", "a b", "a/b", "", "-", "1e3", "%i", "y",
            ];
            let limits = [
                "0",
                "1",
                "1M",
                "2M",
                "500M",
                "1G",
                "1000000000M",
                "16777215G",
            ];
            let apps = (0..random.usize(1..5)).map(|_| {
                let app = json!({
                    "name": names[random.usize(..names.len())], "script": "a.js", "port": 4000,
                    "max_memory_restart": limits[random.usize(..limits.len())],
                    "instances": random.usize(1..3),
                });
                let machine = Machine {
                    cpus: 2,
                    folder: Path::new("/srv"),
                    home: None,
                    is_file: &|_| false,
                    is_binary: &|_| false,
                    script: &|_, _| None,
                    websocket: &|_| {
                        Some(WebSocket {
                            dependency: "socket.io".to_owned(),
                            path: Some("/socket.io/*"),
                        })
                    },
                    owner: &|_| None,
                };
                App::plan(app.as_object().unwrap(), "production", &machine, &mut taken).unwrap()
            });
            let apps: Vec<App> = apps.collect();
            let text = configuration(&apps);
            let watched = apps.iter().filter(|app| app.restart_at.is_some()).count();
            assert_eq!(text.matches("restart_at").count(), watched, "{text}");
            let several = apps.iter().filter(|app| app.ports.len() > 1).count();
            assert_eq!(text.matches("sticky").count(), several, "{text}");
            assert_eq!(
                text.matches("websocket: true").count(),
                apps.len(),
                "{text}"
            );
            edgeway_filters::register();
            let loaded = edgeway_gateway::load_text("t", &text);
            let file = loaded.file.unwrap();
            assert!(loaded.diagnostics.list().is_empty(), "{text}");
            assert_eq!(file.upstreams.len(), apps.len(), "{text}");
            let (gateway, found) =
                edgeway_gateway::compile(&file, Path::new(""), &edgeway_gateway::World::default());
            assert!(gateway.is_some() && found.list().is_empty(), "{text}");
            let paths = outputs(&apps).into_iter().map(|output| output.path);
            let paths: Vec<String> = paths.collect();
            let unique: std::collections::BTreeSet<&String> = paths.iter().collect();
            assert_eq!(unique.len(), paths.len(), "{paths:?}");
        }
    }
}
