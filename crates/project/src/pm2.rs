//! PM2's `ecosystem.config.js`: its apps, those that listen on a port, and names for them.

use std::{fs, path::Path};

use edgeway_script::common_js;
use serde_json::{Map, Value};

use super::{Declared, port_in_command, port_of};

const NAMES: [&str; 7] = [
    "ecosystem.config.js",
    "ecosystem.config.cjs",
    "ecosystem.config.mjs",
    "ecosystem.config.json",
    "ecosystem.json",
    "pm2.config.js",
    "pm2.json",
];

/// Instances of `max` and of negative numbers, which mean the cores of the machine.
const CORES: u32 = 2;

pub(super) fn apps(folder: &Path, problems: &mut Vec<String>) -> Vec<Declared> {
    let Some((name, text)) = first_file(folder, &NAMES) else {
        return Vec::new();
    };
    let is_json = Path::new(name)
        .extension()
        .is_some_and(|kind| kind == "json");
    let read = if is_json {
        json(&text)
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
    let apps = listed(file);
    let declared: Vec<Declared> = apps.iter().filter_map(|app| declared(app, name)).collect();
    if declared.is_empty() {
        problems.push(format!("no app in {name} names a port"));
    }
    declared
}

/// Returns the first of these files that a folder has, with its text.
pub(super) fn first_file(folder: &Path, names: &[&'static str]) -> Option<(&'static str, String)> {
    names.iter().find_map(|name| {
        let text = fs::read_to_string(folder.join(name)).ok()?;
        Some((*name, text))
    })
}

/// Reads JSON, with the comments and the plain keys that PM2 takes as well: it reads such a file as
/// an expression of JavaScript.
pub fn json(text: &str) -> Result<Value, String> {
    let text = text.trim_start_matches('\u{feff}');
    serde_json::from_str(text).or_else(|error| {
        let read = common_js::exports(&format!("module.exports = (\n{text}\n)"));
        read.map_err(|_| error.to_string())
    })
}

/// Returns the apps of `{ apps: [] }`, of a list, or of one app by itself: PM2 takes all three.
pub fn listed(file: Value) -> Vec<Map<String, Value>> {
    let is_app = |map: &Map<String, Value>| {
        let scripts = ["script", "exec", "cmd", "command"];
        scripts.iter().any(|key| map.contains_key(*key))
    };
    let list = match file {
        Value::Object(mut map) => match map.remove("apps") {
            Some(apps) => apps,
            None if is_app(&map) => Value::Object(map),
            None => Value::Null,
        },
        other => other,
    };
    let list = match list {
        Value::Array(list) => list,
        one @ Value::Object(_) => vec![one],
        _ => Vec::new(),
    };
    let apps = list.into_iter().filter_map(|app| match app {
        Value::Object(app) => Some(app),
        _ => None,
    });
    apps.collect()
}

/// Returns an app that names a port; others are workers, or listen where the code says.
fn declared(app: &Map<String, Value>, file: &str) -> Option<Declared> {
    let text = |key: &str| app.get(key).and_then(Value::as_str);
    let env = ["env_production", "env"];
    let env = |name: &str| {
        env.iter()
            .find_map(|env| app.get(*env)?.get(name))
            .and_then(|value| port_of(&plain(value)))
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
        folder: super::relative(text("cwd").unwrap_or_default()),
    })
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Length limit of a name: a unit's has 255 characters, with the instance and the ending.
const MAX_NAME: usize = 64;

/// Makes a name of an upstream or a unit from any text.
pub fn name_of(text: &str) -> String {
    let mut name: String = text
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    while name.contains("--") {
        name = name.replace("--", "-");
    }
    name.truncate(MAX_NAME);
    let name = name.trim_matches('-');
    let begins_right = name.starts_with(|c: char| c.is_ascii_alphabetic());
    if begins_right {
        name.to_owned()
    } else {
        format!("app-{name}").trim_matches('-').to_owned()
    }
}

/// Adds a number to a name that is taken.
pub fn unique(name: &str, taken: &[String]) -> String {
    let is_free = |name: &String| !taken.contains(name);
    let mut names = (2_usize..).map(|number| format!("{name}-{number}"));
    let first = Some(name.to_owned()).filter(is_free);
    let free = first.or_else(|| names.find(is_free));
    free.unwrap_or_else(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ports_and_instances_are_those_that_pm2_starts() {
        let ports = |app: Value| {
            declared(app.as_object().unwrap(), "x").map(|app| (app.ports, app.workers))
        };
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
            ("..%i\n", "i"),
            ("\u{41c}\u{430}", "app"),
        ] {
            assert_eq!(name_of(text), name);
        }
        assert_eq!(name_of(&"a".repeat(300)).len(), MAX_NAME);
    }

    #[test]
    fn json_may_have_comments_as_for_pm2() {
        let read = json("// apps\n{ apps: [{ 'script': 'a.js', }] }");
        assert_eq!(read, Ok(json!({ "apps": [{ "script": "a.js" }] })));
        let why = json("{ \"apps\": [").unwrap_err();
        assert!(why.contains("line 1"), "{why}");
    }

    #[test]
    fn apps_are_found_in_every_form_that_pm2_takes() {
        let app = json!({ "name": "a", "script": "a.js" });
        for form in [
            json!({ "apps": [app] }),
            json!({ "apps": app }),
            json!([app]),
            app.clone(),
        ] {
            let found = listed(form.clone());
            assert_eq!(found, [app.as_object().unwrap().clone()], "{form}");
        }
        for none in [json!({}), json!([]), json!(7), json!({ "apps": [] })] {
            assert!(listed(none).is_empty());
        }
    }
}
