//! PM2's `ecosystem.config.js`: the apps that listen on a port.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{Declared, port_in_command};
use crate::plugins::common_js;

const NAMES: [&str; 6] = [
    "ecosystem.config.js",
    "ecosystem.config.cjs",
    "ecosystem.config.mjs",
    "ecosystem.json",
    "pm2.config.js",
    "pm2.json",
];

/// Instances of `max` and of negative numbers, which mean the cores of the machine.
const CORES: u32 = 2;

pub(super) fn apps(folder: &Path, problems: &mut Vec<String>) -> Vec<Declared> {
    let found = NAMES.iter().find_map(|name| {
        let text = fs::read_to_string(folder.join(name)).ok()?;
        Some((*name, text))
    });
    let Some((name, text)) = found else {
        return Vec::new();
    };
    let is_json = Path::new(name)
        .extension()
        .is_some_and(|kind| kind == "json");
    let read = if is_json {
        serde_json::from_str(&text).map_err(|error| error.to_string())
    } else {
        common_js::exports(&text)
    };
    let file = match read {
        Ok(file) => file,
        Err(why) => {
            problems.push(format!("cannot read {name}: {why}"));
            return Vec::new();
        }
    };
    let apps = match file.get("apps").unwrap_or(&file) {
        Value::Array(apps) => apps.clone(),
        one @ Value::Object(_) => vec![one.clone()],
        _ => Vec::new(),
    };
    let declared: Vec<Declared> = apps.iter().filter_map(|app| declared(app, name)).collect();
    if declared.is_empty() {
        problems.push(format!("no app in {name} names a port"));
    }
    declared
}

/// Returns an app that names a port; others are workers, or listen where the code says.
fn declared(app: &Value, file: &str) -> Option<Declared> {
    let text = |key: &str| app.get(key).and_then(Value::as_str);
    let env = ["env_production", "env"];
    let env = |name: &str| {
        env.iter()
            .find_map(|env| app.get(env)?.get(name))
            .and_then(number)
    };
    let arguments = match app.get("args") {
        Some(Value::String(line)) => line.clone(),
        Some(Value::Array(words)) => words.iter().map(plain).collect::<Vec<_>>().join(" "),
        _ => String::new(),
    };
    let first = port_in_command(&arguments).or_else(|| env("PORT"))?;
    let count = match app.get("instances") {
        Some(Value::Number(count)) => count.as_u64().and_then(|n| u32::try_from(n).ok()),
        Some(Value::String(text)) => text.parse().ok(),
        Some(_) | None => Some(1),
    };
    // `max`, 0 and negative numbers depend on the machine.
    let count = count.filter(|count| *count > 0).unwrap_or(CORES).min(64);
    let has_own_ports = text("increment_var") == Some("PORT");
    let ports = if has_own_ports {
        (0..count)
            .filter_map(|more| first.checked_add(u16::try_from(more).ok()?))
            .collect()
    } else {
        vec![first]
    };
    Some(Declared {
        name: name_of(text("name").unwrap_or("web")),
        ports,
        source: file.to_owned(),
        workers: if has_own_ports { 1 } else { count },
        command: text("script").map(|script| format!("{script} {arguments}")),
        folder: PathBuf::from(text("cwd").unwrap_or_default().trim_start_matches("./")),
    })
}

fn number(value: &Value) -> Option<u16> {
    plain(value).parse().ok().filter(|port| *port != 0)
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Makes a name of an upstream from any text.
pub(super) fn name_of(text: &str) -> String {
    let mut name: String = text
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    while name.contains("--") {
        name = name.replace("--", "-");
    }
    let name = name.trim_matches('-');
    let begins_right = name.starts_with(|c: char| c.is_ascii_alphabetic());
    if begins_right {
        name.to_owned()
    } else {
        format!("app-{name}").trim_matches('-').to_owned()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ports_and_instances_are_those_that_pm2_starts() {
        let ports = |app: Value| declared(&app, "x").map(|app| (app.ports, app.workers));
        let env = json!({ "PORT": "3000" });
        assert_eq!(ports(json!({ "env": env })), Some((vec![3000], 1)));
        assert_eq!(
            ports(json!({ "env": env, "instances": 4 })),
            Some((vec![3000], 4))
        );
        assert_eq!(
            ports(json!({ "env": env, "instances": "3", "increment_var": "PORT" })),
            Some((vec![3000, 3001, 3002], 1))
        );
        assert_eq!(
            ports(json!({ "env": env, "instances": "max", "increment_var": "PORT" })),
            Some((vec![3000, 3001], 1))
        );
        assert_eq!(
            ports(json!({ "env": env, "args": "start -p 4000" })),
            Some((vec![4000], 1))
        );
        assert_eq!(
            ports(json!({ "args": ["start", "-p", 4000] })),
            Some((vec![4000], 1))
        );
        let production = json!({ "env": env, "env_production": { "PORT": 8000 } });
        assert_eq!(ports(production), Some((vec![8000], 1)));
        assert_eq!(ports(json!({ "script": "worker.js" })), None);
    }

    #[test]
    fn any_text_becomes_the_name_of_an_upstream() {
        for (text, name) in [
            ("Web App", "web-app"),
            ("@a/b_c", "a-b-c"),
            ("1", "app-1"),
            ("", "app"),
        ] {
            assert_eq!(name_of(text), name);
        }
    }
}
