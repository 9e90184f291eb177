//! Files laid over presets: each value of each preset overridden, removed and mistyped, with the
//! places of the problems.

use std::fmt::Write as _;

use edgeway_config::{diagnostic::Diagnostics, presets::PRESETS, tree};
use serde_json::{Map, Value, json};

use super::{PLAIN, assert_codes, effective, effective_with_codes, needed, problems};
use crate::support::seed;

/// Returns a text as a tree without places.
fn parsed(yaml: &str) -> Value {
    let node = tree::parse(yaml, 0, &mut Diagnostics::default()).expect("it is YAML");
    tree::read(&node, &mut Diagnostics::default()).expect("it is plain")
}

/// Returns what a file must have beside a preset, as a tree.
fn base(preset: &str) -> Value {
    let extends = format!("extends: {{ preset: {preset}, allow_http: true }}\n");
    parsed(&format!("{extends}{PLAIN}{}", needed(preset)))
}

/// A value of a preset, and the way to it: keys, and the names of routes.
type Leaf = (Vec<String>, Value);

fn leaves(way: &mut Vec<String>, value: &Value, found: &mut Vec<Leaf>) {
    match value {
        Value::Object(entries) if !entries.is_empty() => {
            for (key, value) in entries {
                way.push(key.clone());
                leaves(way, value, found);
                way.pop();
            }
        }
        Value::Array(routes) if way.as_slice() == ["routes"] => {
            for route in routes {
                way.push(route["name"].as_str().expect("each has a name").to_owned());
                leaves(way, route, found);
                way.pop();
            }
        }
        value => found.push((way.clone(), value.clone())),
    }
}

/// Returns every value of a preset that a file can override by itself.
fn leaves_of(preset: &str) -> Vec<Leaf> {
    let text = edgeway_config::presets::find(preset)
        .expect("it exists")
        .text;
    let mut found = Vec::new();
    leaves(&mut Vec::new(), &parsed(text), &mut found);
    found.retain(|(way, _)| !(way[0] == "routes" && way[2] == "name"));
    found
}

/// Sets a value in a file, below the listener or route that it is for.
fn set(file: &mut Value, way: &[String], value: Value) {
    let (mut node, rest) = match way[0].as_str() {
        // Only the first listener, which has no TLS.
        "listener" => (&mut file["listeners"][0], &way[1..]),
        "routes" if way.len() > 1 => {
            let routes = file
                .as_object_mut()
                .expect("a mapping")
                .entry("routes")
                .or_insert(json!([]));
            let routes = routes.as_array_mut().expect("a list");
            let at = routes.iter().position(|route| route["name"] == way[1]);
            let at = at.unwrap_or_else(|| {
                routes.push(json!({ "name": way[1] }));
                routes.len() - 1
            });
            (&mut routes[at], &way[2..])
        }
        _ => (file, way),
    };
    for key in rest {
        if !node.is_object() {
            *node = Value::Object(Map::new());
        }
        let entries = node.as_object_mut().expect("it is one");
        node = entries.entry(key).or_insert(Value::Null);
    }
    *node = value;
}

fn text(file: &Value) -> String {
    serde_json::to_string_pretty(file).expect("JSON, which is YAML")
}

fn is_of_tls(way: &[String]) -> bool {
    way[..2.min(way.len())] == ["listener", "tls"]
}

/// The preset's own value, written once more or as the default of a variable, changes nothing. Every
/// second value is written in one of the two ways, and each in both in a hunt.
#[test]
fn a_file_with_the_preset_s_own_value_is_the_preset() {
    let step = seed::cases(2, 1);
    for (turn, preset) in PRESETS.iter().enumerate() {
        let before = effective(&text(&base(preset.name)));
        let leaves = leaves_of(preset.name).into_iter().skip(turn % step);
        for (number, (way, value)) in leaves.step_by(step).enumerate() {
            if is_of_tls(&way) {
                continue;
            }
            let mut written = vec![value.clone()];
            // A key that has a short form takes `true` without quotes only.
            if !value.is_object() && !value.is_array() && value != true {
                let plain = value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned);
                written.push(format!("${{EDGEWAY_TEST_NOT_SET:-{plain}}}").into());
            }
            if !seed::is_hunt() {
                written = vec![written.swap_remove(number % written.len())];
            }
            for value in written {
                let mut file = base(preset.name);
                set(&mut file, &way, value);
                let file = text(&file);
                let (all, codes) = effective_with_codes(&file);
                assert_eq!(codes, [""; 0], "{file}");
                assert_eq!(sorted(all), sorted(before.clone()), "{file}");
            }
        }
    }
}

/// Puts the routes, whose order has no meaning, in the order of their names.
fn sorted(mut all: Value) -> Value {
    let routes = all["routes"].as_array_mut().expect("a list");
    routes.sort_by_key(|route| route["name"].to_string());
    all
}

/// A wrong value is reported where the file has it, whatever the preset has there.
#[test]
fn a_wrong_value_is_reported_in_the_file() {
    const WRONG: &str = "zzz-wrong";
    let mut failed = String::new();
    for preset in PRESETS {
        for (way, _) in leaves_of(preset.name) {
            if is_of_tls(&way) {
                continue;
            }
            let mut file = base(preset.name);
            set(&mut file, &way, json!([{ WRONG: 1 }]));
            let file = text(&file);
            let at = file.lines().position(|line| line.contains(WRONG)).unwrap() + 1;
            let (sources, diagnostics) = problems(&file);
            // The list begins two lines before.
            let is_there = diagnostics.list().iter().any(|problem| {
                let found = sources.locate(problem.place);
                found.file == "edgeway.yaml" && (at - 2..=at).contains(&found.line)
            });
            if !is_there {
                let lines = diagnostics.render(&sources, edgeway_config::diagnostic::Style::Lines);
                let _infallible = writeln!(failed, "{}: {way:?}: {lines}", preset.name);
            }
        }
    }
    assert_eq!(failed, "");
}

/// Names of a preset's routes and upstreams.
fn names(preset: &str) -> (Vec<String>, Vec<String>) {
    let all = parsed(
        edgeway_config::presets::find(preset)
            .expect("it exists")
            .text,
    );
    let routes = all["routes"].as_array().expect("a list").iter();
    let routes = routes.map(|route| route["name"].as_str().expect("each has one").to_owned());
    let upstreams = all["upstreams"].as_object().expect("a mapping").keys();
    (routes.collect(), upstreams.cloned().collect())
}

/// Problems that the file can mend, although they are shown in the preset.
const OF_THE_FILE: [&str; 2] = [
    "edgeway::extends::needs",
    "edgeway::upstream::build_unknown",
];

/// Whatever a file takes away from a preset, nothing of the rest is a problem that the user would
/// have to mend in the preset.
#[test]
fn what_a_file_takes_away_leaves_no_problem_in_the_preset() {
    let changes = [
        ("respond", json!({ "status": 404 })),
        ("redirect", json!({ "to": "https://www.example.com" })),
        ("files", json!({ "root": "conf/examples/files/app" })),
        ("cache", json!(false)),
        ("cache", json!({ "ttl": "30min", "stale_if_error": "1min" })),
        ("rate_limit", json!(false)),
    ];
    for preset in PRESETS {
        let (routes, upstreams) = names(preset.name);
        for (key, value) in &changes {
            // Each route by itself, and all of them.
            let mut sets: Vec<&[String]> = routes.chunks(1).collect();
            sets.push(&routes);
            for routes in sets {
                let mut file = base(preset.name);
                for route in routes {
                    let way = ["routes".to_owned(), route.clone(), (*key).to_owned()];
                    set(&mut file, &way, value.clone());
                }
                nothing_in_the_preset(&text(&file));
            }
        }
        for upstream in upstreams.iter().filter(|_| upstreams.len() > 1) {
            let mut file = base(preset.name);
            set(
                &mut file,
                &["upstreams".to_owned(), upstream.clone()],
                json!(false),
            );
            // What the file itself has for a route that is gone is its own problem.
            let all = parsed(preset.text);
            let routes = all["routes"].as_array().expect("a list").iter();
            let gone = routes.filter(|route| route["upstream"] == **upstream);
            let gone: Vec<&Value> = gone.map(|route| &route["name"]).collect();
            if let Some(own) = file["routes"].as_array_mut() {
                own.retain(|route| !gone.contains(&&route["name"]));
            }
            nothing_in_the_preset(&text(&file));
        }
        let mut file = base(preset.name);
        set(
            &mut file,
            &["defaults".into(), "rate_limit".into()],
            json!(false),
        );
        nothing_in_the_preset(&text(&file));
    }
}

#[test]
fn another_kind_of_path_replaces_the_preset_s() {
    let mut file = base("small");
    let routes = json!([{ "name": "api", "match": { "path_regex": "^/v[0-9]+/" } }]);
    set(&mut file, &["routes".to_owned()], routes);
    assert_codes(&text(&file), &[]);
    let all = effective(&text(&file));
    let api = &super::route(&all, "api")["match"];
    assert_eq!(
        (&api["path_regex"], &api["path"]),
        (&json!("^/v[0-9]+/"), &Value::Null)
    );
}

#[track_caller]
fn nothing_in_the_preset(file: &str) {
    let (sources, diagnostics) = problems(file);
    for problem in diagnostics.list() {
        let at = sources.locate(problem.place);
        assert!(
            !at.file.starts_with("preset:") || OF_THE_FILE.contains(&problem.code),
            "{}:{}: {}\n{file}",
            at.file,
            at.line,
            problem.message
        );
    }
}
