//! Properties that every filter must have.

use std::path::Path;

use edgeway_base::{clock::Clock, metrics::Metrics};
use edgeway_config::{
    diagnostic::{Diagnostics, Place},
    tree,
};
use schemars::SchemaGenerator;
use serde_json::Value;

use super::*;

/// Compiles a filter from its YAML; returns true if it compiled, and the diagnostics.
fn compile(entry: &Entry, yaml: &str) -> (bool, Diagnostics) {
    let mut diagnostics = Diagnostics::default();
    let node = tree::parse(yaml, 0, &mut diagnostics).expect("the test's YAML is well formed");
    let mut cx = CompileContext {
        place: Place::default(),
        route: "test",
        folder: Path::new("."),
        upstreams: &[],
        secret_names: &[],
        clock: &Clock::test(),
        metrics: &Metrics::default(),
        zones: &edgeway_core::zones::Zones::default(),
        shared: &edgeway_core::chain::Shared::default(),
        work: &mut edgeway_core::chain::BackgroundWork::default(),
        referenced: &mut edgeway_config::source::ReferencedFiles::default(),
        diagnostics: &mut diagnostics,
    };
    ((entry.compile)(&node, &mut cx).is_some(), diagnostics)
}

/// Returns the schema of a filter's mapping and its keys with their schemas; `None` if it has no
/// mapping.
fn mapping(entry: &Entry) -> Option<(Value, Vec<(String, Value)>)> {
    let mut generator = SchemaGenerator::default();
    let schema = (entry.schema)(&mut generator).to_value();
    keys_of(&schema, &Value::Object(generator.take_definitions(true)))
}

/// Returns the same for the items of a filter that is a list.
fn item(entry: &Entry) -> Option<(Value, Vec<(String, Value)>)> {
    let mut generator = SchemaGenerator::default();
    let schema = (entry.schema)(&mut generator).to_value();
    let definitions = Value::Object(generator.take_definitions(true));
    let forms = forms(&schema, &definitions);
    let list = forms.into_iter().find(|form| form["type"] == "array")?;
    keys_of(&list["items"], &definitions)
}

fn keys_of(schema: &Value, definitions: &Value) -> Option<(Value, Vec<(String, Value)>)> {
    let forms = forms(schema, definitions);
    let full = forms.into_iter().find(|form| form["type"] == "object")?;
    let properties = full["properties"].as_object()?.clone();
    let properties = properties
        .into_iter()
        .map(|(key, schema)| {
            let mut property = resolved(&schema, definitions);
            // The description of the property replaces the description of its type.
            if let Some(description) = schema.get("description") {
                property["description"] = description.clone();
            }
            (key, property)
        })
        .collect();
    Some((full, properties))
}

/// Returns the forms in which a value may be written, without those of a list's items.
fn forms(schema: &Value, definitions: &Value) -> Vec<Value> {
    let schema = resolved(schema, definitions);
    match &schema["anyOf"] {
        Value::Array(inner) => inner
            .iter()
            .flat_map(|form| forms(form, definitions))
            .collect(),
        _ => vec![schema],
    }
}

fn resolved(schema: &Value, definitions: &Value) -> Value {
    match schema["$ref"].as_str().and_then(|at| at.rsplit('/').next()) {
        Some(name) => resolved(&definitions[name], definitions),
        None => schema.clone(),
    }
}

#[test]
fn what_is_on_by_default_needs_no_word_of_configuration() {
    for entry in FILTERS.iter().filter(|entry| entry.on_by_default) {
        let (compiled, diagnostics) = compile(entry, "{}");
        assert!(compiled, "{}: {diagnostics:#?}", entry.name);
        assert!(
            diagnostics.list().is_empty(),
            "{}: {diagnostics:#?}",
            entry.name
        );
    }
}

#[test]
fn what_is_printed_of_a_default_reads_back_as_the_same() {
    for entry in FILTERS.iter().filter(|entry| entry.on_by_default) {
        let print = |yaml: &str| {
            let node = tree::parse(yaml, 0, &mut Diagnostics::default()).expect("it is YAML");
            (entry.print)(&node).expect("it can be read")
        };
        let printed = print("{}");
        assert_ne!(printed, serde_json::json!({}), "{}", entry.name);
        // JSON is YAML.
        let again = print(&printed.to_string());
        assert_eq!(again, printed, "{}", entry.name);
        let (compiled, diagnostics) = compile(entry, &printed.to_string());
        assert!(compiled, "{}: {diagnostics:#?}", entry.name);
    }
}

#[test]
fn a_misspelt_key_is_reported_with_the_right_one() {
    for entry in FILTERS {
        let written = |key: &str| match mapping(entry) {
            Some(_) => format!("{{ {key}x: 1 }}"),
            None => format!("[{{ {key}x: 1 }}]"),
        };
        let Some((_, keys)) = mapping(entry).or_else(|| item(entry)) else {
            continue;
        };
        for (key, _) in keys {
            let (compiled, diagnostics) = compile(entry, &written(&key));
            assert!(!compiled, "{}.{key}x was accepted", entry.name);
            let is_guessed = diagnostics.list().iter().any(|problem| {
                problem.message.contains(&format!("`{key}x`"))
                    && problem
                        .help
                        .as_deref()
                        .is_some_and(|help| help.contains(&format!("did you mean `{key}`?")))
            });
            assert!(is_guessed, "{}.{key}x: {diagnostics:#?}", entry.name);
        }
    }
}

#[test]
fn a_filter_without_keys_refuses_a_mapping() {
    let without = |entry: &&Entry| mapping(entry).is_none() && item(entry).is_none();
    for entry in FILTERS.iter().filter(without) {
        let mut generator = SchemaGenerator::default();
        let schema = (entry.schema)(&mut generator).to_value().to_string();
        let all = format!("{schema}{:?}", generator.take_definitions(true));
        assert!(!all.contains("properties"), "{}: {all}", entry.name);
        let (compiled, diagnostics) = compile(entry, "{ a: 1 }");
        assert!(!compiled, "{}", entry.name);
        assert!(diagnostics.has_errors(), "{}", entry.name);
    }
}

#[test]
fn the_schema_describes_each_key() {
    for entry in FILTERS {
        let Some((full, keys)) = mapping(entry).or_else(|| item(entry)) else {
            continue;
        };
        assert_eq!(full["additionalProperties"], false, "{}", entry.name);
        assert!(!keys.is_empty(), "{}", entry.name);
        for (key, schema) in keys {
            let description = schema["description"].as_str().unwrap_or_default();
            assert!(
                !description.is_empty(),
                "{}.{key} has no description",
                entry.name
            );
        }
    }
}

#[test]
fn each_page_of_the_docs_names_every_key_or_links_to_the_reference() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/filters");
    let reference = std::fs::read_to_string(docs.join("../configuration-reference.md"))
        .expect("the reference is there");
    for entry in FILTERS {
        let path = docs.join(format!("{}.md", entry.name));
        let page = std::fs::read_to_string(&path).unwrap_or_else(|error| {
            let step = "write the page: step 7 of docs/adding-a-filter.md";
            panic!("{}: {error}; {step}", path.display())
        });
        let has_link = page.contains("](../configuration-reference.md#");
        let keys = mapping(entry).or_else(|| item(entry));
        for (key, _) in keys.map_or_else(Vec::new, |(_, keys)| keys) {
            let named = format!("`{key}`");
            assert!(
                page.contains(&named) || (has_link && reference.contains(&named)),
                "{}: nothing about `{key}`",
                path.display()
            );
        }
        let example = format!("conf/examples/{}.yaml", entry.name);
        assert!(page.contains(&example), "{}: no example", path.display());
    }
}

/// Routes with the same settings share a filter of such a kind, which knows the first one only.
#[test]
fn what_routes_share_knows_no_route() {
    fn check(entry: &Entry, folder: &Path) {
        for file in std::fs::read_dir(folder).expect("the folder is there") {
            let path = file.expect("it can be read").path();
            if path.is_dir() {
                check(entry, &path);
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("a source is UTF-8");
            for of_one_route in ["cx.route", "cx.zones"] {
                let shown = path.display();
                let name = entry.name;
                assert!(
                    !text.contains(of_one_route),
                    "{shown} uses `{of_one_route}`: remove `.shareable()` of `{name}` in `FILTERS`"
                );
            }
        }
    }
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folders = ["filters/src", "core-filters/src"].map(|folder| crates.join(folder));
    for entry in FILTERS.iter().filter(|entry| entry.is_shareable) {
        let mut own = folders.iter().map(|folder| folder.join(entry.name));
        check(
            entry,
            &own.find(|folder| folder.is_dir()).expect("a folder"),
        );
    }
}
