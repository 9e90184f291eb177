//! The files of an import: units, environment files, the configuration, and the report.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use serde_json::{Value, json};

use super::{
    Output,
    app::{App, specifiers},
};

pub(super) fn outputs(apps: &[App]) -> Vec<Output> {
    let mut outputs = vec![Output {
        path: "edgeway.yaml".to_owned(),
        text: configuration(apps),
        is_private: false,
    }];
    for app in apps {
        outputs.push(Output {
            path: format!("systemd/{}", unit_file(app)),
            text: unit(app),
            is_private: false,
        });
        outputs.push(Output {
            path: format!("apps/{}.env", app.name),
            text: environment(&app.environment),
            is_private: true,
        });
        for (number, port) in app.ports.iter().enumerate() {
            let own = [("NODE_APP_INSTANCE".to_owned(), number.to_string())];
            outputs.push(Output {
                path: format!("apps/{}@{port}.env", app.name),
                text: environment(&own.into()),
                is_private: true,
            });
        }
    }
    outputs
}

/// File of the unit: a template with the port as instance, if the app has one.
fn unit_file(app: &App) -> String {
    let at = if app.ports.is_empty() { "" } else { "@" };
    format!("{}{at}.service", app.name)
}

fn unit(app: &App) -> String {
    let App { name, user, .. } = app;
    let (title, port) = if app.ports.is_empty() {
        (name.clone(), String::new())
    } else {
        let files =
            format!("Environment=PORT=%i\nEnvironmentFile=-/etc/edgeway/apps/{name}@%i.env\n");
        (format!("{name} on port %i"), files)
    };
    let settings = app.settings.join("\n");
    let folder = specifiers(&app.folder.to_string_lossy());
    let command: Vec<String> = app.command.iter().map(|word| argument(word)).collect();
    let command = command.join(" ");
    format!(
        "[Unit]
Description={title}
After=network.target
PartOf=app.target
StartLimitIntervalSec=0

[Service]
Type=exec
# An app that reads HOSTNAME, as Next.js does, is reachable through the gateway only.
Environment=NODE_ENV=production HOSTNAME=127.0.0.1
EnvironmentFile=-/etc/edgeway/apps/{name}.env
{port}WorkingDirectory={folder}
ExecStart=/usr/bin/env {command}
User={user}
# npm and shells do not forward signals, so all processes of the instance get them.
KillMode=control-group
SuccessExitStatus=143
{settings}
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=full

[Install]
WantedBy=app.target
"
    )
}

/// Quotes a word for `ExecStart=` (systemd.service(5)). `${PORT}` stays a variable.
fn argument(word: &str) -> String {
    const PLAIN: &str = "-_./=:,@+";
    let parts: Vec<String> = word
        .split(super::app::PORT)
        .map(|part| {
            specifiers(
                &part
                    .replace('\\', "\\\\")
                    .replace('"', "\\\"")
                    .replace('$', "$$"),
            )
        })
        .collect();
    let text = parts.join(super::app::PORT);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || PLAIN.contains(c);
    if word.replace(super::app::PORT, "").chars().all(is_plain) && !word.is_empty() {
        text
    } else {
        format!("\"{}\"", text.replace('\n', "\\n"))
    }
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

fn configuration(apps: &[App]) -> String {
    let mut upstreams = serde_json::Map::new();
    for app in apps.iter().filter(|app| !app.ports.is_empty()) {
        let backends = app.ports.iter().map(|port| format!("127.0.0.1:{port}"));
        let backends: Vec<String> = backends.collect();
        let (first, last) = (app.ports[0], app.ports[app.ports.len() - 1]);
        let kind = if app.is_next { "nextjs" } else { "node" };
        let unit = format!("{}@{{port}}.service", app.name);
        let upstream = json!({
            "app": kind,
            "backends": backends,
            "scale": { "unit": unit, "ports": format!("{first}-{last}") },
        });
        upstreams.insert(app.name.clone(), upstream);
    }
    let mut text = String::from(
        "# From an ecosystem file of PM2. Each app is an upstream, with one backend for each process.\n",
    );
    let mut routes = String::from("\nroutes:\n");
    for (number, name) in upstreams.keys().enumerate() {
        let route = match number {
            0 => format!("  - match: {{ path: /* }}\n    upstream: {name}\n"),
            // The ecosystem file does not say which requests are whose.
            _ => format!(
                "  # The requests of `{name}`: mend the path, or match a host instead.\n  \
                 - match: {{ path: /{name}/* }}\n    upstream: {name}\n"
            ),
        };
        routes.push_str(&route);
    }
    if upstreams.is_empty() {
        routes.push_str(
            "  - match: { path: /* }\n    respond: { status: 503, body: no app has a port }\n",
        );
    }
    let mut file = json!({ "listeners": [{ "address": "127.0.0.1:8080" }] });
    if !upstreams.is_empty() {
        file["upstreams"] = Value::Object(upstreams);
    }
    text.push_str(&serde_saphyr::to_string(&file).unwrap_or_default());
    text + &routes
}

/// Renders what was carried over, what was not, and the commands to run.
pub(super) fn report(apps: &[App], folder: &Path) -> String {
    let folder = folder.display();
    let mut text = String::new();
    for app in apps {
        let file = unit_file(app);
        let _infallible = writeln!(text, "{}: systemd/{file}", app.name);
        for line in &app.carried {
            let _infallible = writeln!(text, "  + {line}");
        }
        for line in &app.left {
            let _infallible = writeln!(text, "  - {line}");
        }
    }
    let units = apps.iter().flat_map(|app| match &app.ports[..] {
        [] => vec![app.name.clone()],
        ports => ports
            .iter()
            .map(|port| format!("{}@{port}", app.name))
            .collect(),
    });
    let units: Vec<String> = units.collect();
    let units = units.join(" ");
    let _infallible = write!(
        text,
        "
+ carried over, - not carried over. The files are in {folder}. Then, as root:

install -d /etc/edgeway/apps
install -m 600 {folder}/apps/*.env /etc/edgeway/apps/
install -m 644 {folder}/systemd/*.service /etc/systemd/system/
pm2 delete all                                 # frees the ports
systemctl daemon-reload
systemctl enable --now {units}
edgeway check -c {folder}/edgeway.yaml
edgeway run -c {folder}/edgeway.yaml           # http://127.0.0.1:8080
"
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
