//! Tests of the printed output, and that it parses to the same configuration.

use std::path::{Path, PathBuf};

use edgeway_config::{diagnostic::Diagnostics, tree};
use proptest::prelude::*;

use super::*;
use crate::{World, compile, load, load_text};

/// Returns the printed form of a valid configuration, and its number of warnings.
#[track_caller]
fn print(name: &str, yaml: &str, folder: &Path) -> (String, usize) {
    let loaded = load_text(name, yaml);
    let file = loaded
        .file
        .unwrap_or_else(|| panic!("{name}: {:#?}\n{yaml}", loaded.diagnostics));
    let (gateway, diagnostics) = compile(&file, folder, &World::default());
    let gateway = gateway.unwrap_or_else(|| panic!("{name}: {diagnostics:#?}\n{yaml}"));
    (super::yaml(&file, &gateway, &[]), diagnostics.list().len())
}

#[track_caller]
fn check(upstreams: &str, route: &str) -> Value {
    let yaml = format!(
        "listeners: [{{ address: 127.0.0.1:8080 }}]\nupstreams: {upstreams}\n\
         routes:\n  - {{ match: {{ path: /* }}, {route} }}\n"
    );
    let (printed, _) = print("test.yaml", &yaml, Path::new("."));
    // Any secret works in the place of a redacted one.
    let whole = printed.replace(secret::REDACTED, SECRET);
    let again = print("printed.yaml", &whole, Path::new("."));
    assert_eq!(again.0, printed);
    read(&printed)
}

fn read(yaml: &str) -> Value {
    let mut diagnostics = Diagnostics::default();
    tree::parse(yaml, 0, &mut diagnostics)
        .and_then(|node| tree::read(&node, &mut diagnostics))
        .unwrap_or_else(|| panic!("{diagnostics:#?}\n{yaml}"))
}

fn examples(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(examples(&path));
        } else if path.extension().is_some_and(|ending| ending == "yaml") {
            found.push(path);
        }
    }
    found
}

/// Secret that every setting accepts: of a fleet, of a plugin with a schema.
const SECRET: &str = "0123456789abcdef0123456789abcdef";

#[test]
fn every_example_prints_as_what_reads_back_the_same() {
    let examples = examples(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conf"));
    assert!(examples.len() > edgeway_filters::FILTERS.len());
    let mut without_secrets = 0;
    for path in examples {
        let loaded = load(&path);
        let file = loaded.file.unwrap();
        let folder = path.parent().unwrap();
        let (gateway, diagnostics) = compile(&file, folder, &World::default());
        let printed = yaml(&file, &gateway.unwrap(), &[]);
        let name = path.display().to_string();
        let printed = if printed.contains(secret::REDACTED) {
            // The redacted value is no longer a secret, and no setting accepts it as one.
            let problems = load_text(&name, &printed).diagnostics;
            let messages = problems
                .list()
                .iter()
                .map(|problem| problem.message.as_str());
            let wanted = "this is what `check --print` shows instead of a secret";
            assert!(
                messages.clone().any(|message| message == wanted),
                "{name}\n{printed}"
            );
            without_secrets += 1;
            // Any other secret in its place works as well.
            printed.replace(secret::REDACTED, SECRET)
        } else {
            printed
        };
        let (again, warnings) = print(&name, &printed, folder);
        assert_eq!(again, printed.replace(SECRET, secret::REDACTED), "{name}");
        assert!(warnings <= diagnostics.list().len(), "{name}\n{printed}");
    }
    assert!(
        without_secrets < 8,
        "most have none in the text: {without_secrets}"
    );
}

#[test]
fn the_smallest_file_shows_what_it_comes_to() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conf/edgeway.yaml");
    let yaml = std::fs::read_to_string(&path).unwrap();
    let (printed, _) = print("edgeway.yaml", &yaml, path.parent().unwrap());
    insta::assert_snapshot!(printed);
}

#[test]
fn a_filter_that_a_route_leaves_out_is_printed_as_off() {
    let printed = check("{}", "respond: ok, compression: false, timing: true");
    let route = &printed["routes"][0];
    assert_eq!(route["compression"], false);
    assert_eq!(
        route["timing"],
        json!({ "server_timing": true, "response_time": true })
    );
    assert_eq!(route.get("cors"), None);
    assert_eq!(printed["defaults"]["compression"]["min_size"], "1KiB");
    assert_eq!(printed["defaults"].get("timing"), None);
}

#[test]
fn what_the_app_and_the_upstream_decide_is_filled_in() {
    let printed = check(
        "{ web: { backends: [127.0.0.1:3000, 127.0.0.1:3001], health: /api/health, timeouts: { stream_idle: 2h } } }",
        "upstream: web, websocket: true",
    );
    let web = &printed["upstreams"]["web"];
    assert_eq!(web["balance"], "least_conn");
    assert_eq!(web["health"]["expect"], json!(["200-399"]));
    assert_eq!(web["retry"]["on"], json!(["connect", "reset"]));
    assert_eq!(printed["routes"][0]["websocket"]["idle"], "2h");
    assert_eq!(printed["routes"][0]["name"], "/*");
    assert_eq!(printed["admin"]["address"], "127.0.0.1:9900");
}

#[test]
fn secrets_are_not_printed() {
    let printed = check(
        "{ web: { backends: [127.0.0.1:3000] } }",
        "upstream: web, headers: { request: { set: { Authorization: Bearer hunter2, X-A: b } } }",
    );
    let set = &printed["routes"][0]["headers"]["request"]["set"];
    assert_eq!(*set, json!({ "Authorization": "[redacted]", "X-A": "b" }));
}

#[test]
fn secrets_in_the_match_of_a_route_are_redacted() {
    let yaml = "listeners: [{ address: 127.0.0.1:8080 }]\n\
                routes: [{ match: { header: { X-Purge-Key: hunter2, X-A: b } }, respond: ok }]\n";
    let file = load_text("test.yaml", yaml).file.unwrap();
    let (gateway, _) = compile(&file, Path::new("."), &World::default());
    let gateway = gateway.unwrap();
    let matches = &gateway.routes[0].matches;
    assert_eq!(matches, "/* header X-A=b header X-Purge-Key=[redacted]");
    assert!(!super::yaml(&file, &gateway, &[]).contains("hunter2"));
}

#[test]
fn what_looks_like_a_variable_and_is_none_stays_so() {
    let printed = check("{}", "respond: { body: '$${HOME} $1 ${2}' }");
    assert_eq!(printed["routes"][0]["respond"]["body"], "$${HOME} $1 $${2}");
}

fn documents() -> impl Strategy<Value = Value> {
    let words = prop_oneof![
        "[ -~]{0,12}",
        "[\\PC\n\t]{0,8}",
        prop::sample::select(vec![
            "yes",
            "off",
            "null",
            "~",
            "0660",
            "1e3",
            "0x1F",
            ".5",
            ".inf",
            "a: b",
            "- a",
            "# c",
            "a #b",
            "[::1]:80",
            "{rest}",
            "*",
            "&a",
            "!t",
            "|",
            ">",
            "%",
            "@",
            "`",
            "'",
            "\"",
            "?",
            ":",
            "a:",
            " a",
            "a ",
            "\n",
            "a\n",
            "a\n\nb\n ",
            "12:30",
            "2026-01-01",
            "<<",
            "---",
            "...",
            "\u{85}",
            "\u{2028}",
            "\u{feff}",
            "=",
            "TRUE",
            "n",
            "-",
            "--",
            "+1",
            "1_000",
        ])
        .prop_map(str::to_owned),
    ];
    let keys = "[a-zA-Z_*/{][ -~]{0,8}[a-z]";
    let leaves = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        words.prop_map(Value::from),
    ];
    leaves.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((keys, inner), 0..4)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn printed_values_read_back(document in documents()) {
        let yaml = serde_saphyr::to_string(&document).unwrap();
        prop_assert_eq!(read(&yaml), document, "{}", yaml);
    }
}
