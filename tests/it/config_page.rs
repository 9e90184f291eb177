//! Checks that the reference of the configuration agrees with its schema.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use edgeway_config::{diagnostic::Diagnostics, tree};
use serde_json::{Map, Value, json};

/// Sections in the order of the page; the others follow in the order of the schema.
const FIRST: [&str; 4] = ["listeners", "upstreams", "routes", "defaults"];
/// Lines of an example at most.
const MAX_EXAMPLE: usize = 16;

const INTRODUCTION: &str = "\
# Configuration reference

Every key of the configuration, generated from its [schema](../conf/schema.json).
Do not edit: run `make config-page`.

[Configuration files](configuration.md) explains how a file is read: variables, secrets, `include` and `defaults`.
`edgeway check --print` prints your own file with every effective value.

**Required** keys have no default. *None* as a default means that the feature is off or has no limit.
Wherever a value is expected, `${NAME}` or `${NAME:-default}` from the environment may stand.
";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A mapping of the configuration, with its own keys.
struct Section {
    /// Keys on the way to it: `routes[]`, `cache`.
    path: Vec<String>,
    description: String,
    schema: Value,
}

struct Page {
    definitions: Map<String, Value>,
    examples: Vec<(PathBuf, Value)>,
    /// Titles of the definitions that have a section.
    titles: BTreeMap<String, String>,
    /// Named values in use, such as durations.
    values: BTreeSet<String>,
    pending: VecDeque<Section>,
    text: String,
}

#[test]
fn the_page_of_the_configuration_is_fresh() {
    let path = root().join("docs/configuration-reference.md");
    let made = Page::new().render();
    if std::env::var_os("WRITE_CONFIG_PAGE").is_some() {
        fs::write(&path, &made).expect("docs can be written");
    }
    let on_disk = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        on_disk == made,
        "docs/configuration-reference.md is stale: run `make config-page`"
    );
}

#[test]
fn every_key_of_the_configuration_is_described() {
    let mut missing = Vec::new();
    let page = Page::new();
    for (name, definition) in &page.definitions {
        page.undescribed(name, definition, &mut missing);
    }
    assert!(
        missing.is_empty(),
        "keys without a description: {missing:?}"
    );
}

impl Page {
    fn new() -> Self {
        let text = fs::read_to_string(root().join("conf/schema.json")).expect("it is there");
        let mut schema: Value = serde_json::from_str(&text).expect("it is JSON");
        let definitions = schema["$defs"].take();
        let mut page = Self {
            definitions: definitions.as_object().expect("a mapping").clone(),
            examples: examples(),
            titles: BTreeMap::new(),
            values: BTreeSet::new(),
            pending: VecDeque::new(),
            text: INTRODUCTION.to_owned(),
        };
        let mut properties = schema["properties"].take();
        let all = properties.as_object_mut().expect("a mapping");
        let ordered = FIRST
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), all.shift_remove(*name)?)));
        let ordered: Vec<_> = ordered.collect();
        let rest = std::mem::take(all);
        let properties: Map<String, Value> = ordered.into_iter().chain(rest).collect();
        page.pending.push_back(Section {
            path: Vec::new(),
            description: "Keys of the file itself.".to_owned(),
            schema: json!({ "properties": properties, "required": schema["required"] }),
        });
        page
    }

    fn render(mut self) -> String {
        while let Some(section) = self.pending.pop_front() {
            self.section(&section);
        }
        self.text
            .push_str("\n## Values\n\n| value | is |\n|---|---|\n");
        for name in std::mem::take(&mut self.values) {
            let definition = self.definitions[&name].clone();
            let is = description(&definition).unwrap_or_else(|| self.types(&definition, &[]));
            writeln!(self.text, "| {} | {is} |", words(&name)).expect("text");
        }
        self.text
    }

    fn section(&mut self, section: &Section) {
        let title = title(&section.path);
        let level = "#".repeat(section.path.len().clamp(1, 2) + 1);
        write!(self.text, "\n{level} {title}\n\n{}\n", section.description).expect("text");
        if let Some(example) = self.example(&section.path) {
            write!(self.text, "\n```yaml\n{example}```\n").expect("text");
        }
        self.text
            .push_str("\n| key | type | default | |\n|---|---|---|---|\n");
        let required = section.schema["required"].as_array().cloned();
        let required = required.unwrap_or_default();
        // Sections of deeper mappings follow this one, before those of its siblings.
        let siblings = std::mem::take(&mut self.pending);
        for (key, schema) in section.schema["properties"].as_object().expect("keys") {
            let path = [&section.path[..], std::slice::from_ref(key)].concat();
            let types = self.types(schema, &path);
            let default = match schema.get("default") {
                _ if required.iter().any(|name| name == key) => "**required**".to_owned(),
                None => String::new(),
                Some(Value::Null) => "none".to_owned(),
                // Its section has the defaults of its keys.
                Some(Value::Object(keys)) if !keys.is_empty() => "see there".to_owned(),
                Some(Value::String(text)) => format!("`{}`", plain(text)),
                Some(other) => format!("`{}`", plain(&other.to_string())),
            };
            let about = self.about(schema).unwrap_or_default();
            writeln!(self.text, "| `{key}` | {types} | {default} | {about} |").expect("text");
        }
        self.pending.extend(siblings);
    }

    /// Returns the description of a key, or else that of its type.
    fn about(&self, schema: &Value) -> Option<String> {
        description(schema).or_else(|| {
            let references = alternatives(schema).into_iter().filter_map(reference);
            let mut referenced = references.filter(|name| *name != "Variable");
            description(&self.definitions[referenced.next()?])
        })
    }

    /// Returns the types that a value may have, and queues the sections of mappings among them.
    fn types(&mut self, schema: &Value, path: &[String]) -> String {
        let mut types: Vec<String> = Vec::new();
        for alternative in alternatives(schema) {
            let Some(found) = self.one_type(alternative, path) else {
                continue;
            };
            if !types.contains(&found) {
                types.push(found);
            }
        }
        types.join(" or ")
    }

    fn one_type(&mut self, schema: &Value, path: &[String]) -> Option<String> {
        if let Some(name) = reference(schema) {
            if name == "Variable" {
                return None;
            }
            let definition = self.definitions[name].clone();
            if !self.has_keys(&definition, 0) {
                if description(&definition).is_none() {
                    return Some(self.types(&definition, path));
                }
                self.values.insert(name.to_owned());
                return Some(format!("[{}](#values)", words(name)));
            }
            if let Some(known) = self.titles.get(name) {
                return Some(format!("[like `{known}`](#{})", anchor(known)));
            }
            self.titles.insert(name.to_owned(), title(path));
            let shared = description(&definition).unwrap_or_default();
            return Some(self.types_described(&definition, path, &shared));
        }
        self.types_of_one(schema, path, "")
    }

    fn types_described(&mut self, schema: &Value, path: &[String], about: &str) -> String {
        let mut types = Vec::new();
        for alternative in alternatives(schema) {
            let found = match reference(alternative) {
                Some(_) => self.one_type(alternative, path),
                None => self.types_of_one(alternative, path, about),
            };
            types.extend(found.filter(|found| !types.contains(found)));
        }
        types.join(" or ")
    }

    fn types_of_one(&mut self, schema: &Value, path: &[String], about: &str) -> Option<String> {
        if let Some(value) = schema.get("const") {
            return Some(format!("`{}`", bare(value)));
        }
        if let Some(values) = schema["enum"].as_array() {
            let values: Vec<String> = values
                .iter()
                .filter(|value| !value.is_null())
                .map(bare)
                .collect();
            return Some(format!("`{}`", values.join("`, `")));
        }
        let kinds = match &schema["type"] {
            Value::String(kind) => vec![kind.as_str()],
            Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
            _ => vec!["any"],
        };
        let described = kinds
            .into_iter()
            .filter(|kind| *kind != "null")
            .map(|kind| match kind {
                "boolean" => "`true`, `false`".to_owned(),
                "string" => "text".to_owned(),
                "integer" | "number" => number(schema, kind),
                "array" => {
                    let mut path = path.to_vec();
                    if let Some(last) = path.last_mut() {
                        last.push_str("[]");
                    }
                    format!("list of {}", self.types(&schema["items"], &path))
                }
                "object" if schema.get("properties").is_some() => {
                    let about = description(schema).unwrap_or_else(|| about.to_owned());
                    self.pending.push_back(Section {
                        path: path.to_vec(),
                        description: about,
                        schema: schema.clone(),
                    });
                    let title = title(path);
                    format!("[`{title}`](#{})", anchor(&title))
                }
                "object" => {
                    let path = [path, &["NAME".to_owned()]].concat();
                    format!(
                        "map of {}",
                        self.types(&schema["additionalProperties"], &path)
                    )
                }
                _ => "any value".to_owned(),
            });
        let described: Vec<String> = described.collect();
        (!described.is_empty()).then(|| described.join(" or "))
    }

    /// Returns true if the value can be a mapping with keys of its own.
    fn has_keys(&self, schema: &Value, depth: usize) -> bool {
        depth < 4
            && alternatives(schema).into_iter().any(|alternative| {
                let referenced = reference(alternative).map(|name| &self.definitions[name]);
                alternative.get("properties").is_some()
                    || referenced.is_some_and(|schema| self.has_keys(schema, depth + 1))
                    || ["items", "additionalProperties"].iter().any(|inner| {
                        alternative[*inner].is_object()
                            && self.has_keys(&alternative[*inner], depth + 1)
                    })
            })
    }

    /// Returns the largest example of the path that fits, from the example configurations.
    fn example(&self, path: &[String]) -> Option<String> {
        let last = path.last()?.trim_end_matches("[]").to_owned();
        let mut best: Option<String> = None;
        for (_, example) in &self.examples {
            let mut found = Vec::new();
            find(example, path, &mut found);
            for value in found {
                let value = if path.last()?.ends_with("[]") {
                    json!([value])
                } else {
                    value.clone()
                };
                let whole = Value::Object(Map::from_iter([(last.clone(), value)]));
                let text = serde_saphyr::to_string(&whole).expect("plain data");
                let lines = text.lines().count();
                let is_more = best
                    .as_ref()
                    .is_none_or(|best| best.lines().count() < lines);
                if lines <= MAX_EXAMPLE && is_more {
                    best = Some(text);
                }
            }
        }
        best.map(|text| text.trim_end().to_owned() + "\n")
    }

    fn undescribed(&self, path: &str, schema: &Value, missing: &mut Vec<String>) {
        match schema {
            Value::Object(map) => {
                let properties = map.get("properties").and_then(Value::as_object);
                for (key, schema) in properties.into_iter().flatten() {
                    if self.about(schema).is_none() {
                        missing.push(format!("{path}.{key}"));
                    }
                }
                for (name, inner) in map {
                    self.undescribed(&format!("{path}.{name}"), inner, missing);
                }
            }
            Value::Array(list) => {
                for inner in list {
                    self.undescribed(path, inner, missing);
                }
            }
            _ => (),
        }
    }
}

/// Returns the alternatives of a schema, or the schema itself.
fn alternatives(schema: &Value) -> Vec<&Value> {
    match schema["anyOf"].as_array().or(schema["oneOf"].as_array()) {
        Some(all) => all.iter().flat_map(alternatives).collect(),
        None => vec![schema],
    }
}

fn reference(schema: &Value) -> Option<&str> {
    schema["$ref"].as_str()?.strip_prefix("#/$defs/")
}

fn description(schema: &Value) -> Option<String> {
    Some(plain(schema["description"].as_str()?))
}

/// Formats text for a cell of a table.
fn plain(text: &str) -> String {
    text.replace('\n', " ").replace('|', "\\|")
}

fn bare(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

fn number(schema: &Value, kind: &str) -> String {
    let minimum = schema.get("minimum").map(|least| format!(" ≥ {least}"));
    let maximum = schema.get("maximum").map(|most| format!(" ≤ {most}"));
    format!(
        "{kind}{}{}",
        minimum.unwrap_or_default(),
        maximum.unwrap_or_default()
    )
}

/// Returns the name of a type in words: `ByteSize` is `byte size`.
fn words(name: &str) -> String {
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let name = name.strip_suffix("Config").unwrap_or(name);
    let mut text = String::new();
    for (at, letter) in name.char_indices() {
        if letter.is_uppercase() && at > 0 {
            text.push(' ');
        }
        text.extend(letter.to_lowercase());
    }
    text
}

fn title(path: &[String]) -> String {
    if path.is_empty() {
        return "The file".to_owned();
    }
    path.join(".")
}

/// Returns the anchor that readers of Markdown give a title.
fn anchor(title: &str) -> String {
    let kept = title
        .chars()
        .filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// Reads the example configurations.
fn examples() -> Vec<(PathBuf, Value)> {
    let folder = fs::read_dir(root().join("conf/examples")).expect("conf/examples is there");
    let files = folder.map(|entry| entry.expect("it can be read").path());
    let mut files: Vec<PathBuf> = files
        .filter(|path| path.extension().is_some_and(|ending| ending == "yaml"))
        .collect();
    files.sort();
    let read = files.into_iter().map(|path| {
        let text = fs::read_to_string(&path).expect("it can be read");
        let mut diagnostics = Diagnostics::default();
        let node =
            tree::parse(&text, 0, &mut diagnostics).expect("another test says what is wrong");
        let example = tree::read(&node, &mut diagnostics);
        (path, example.expect("any YAML is a value"))
    });
    read.collect()
}

/// Collects the mappings at a path.
fn find<'a>(value: &'a Value, path: &[String], found: &mut Vec<&'a Value>) {
    let Some((first, rest)) = path.split_first() else {
        if value.is_object() {
            found.push(value);
        }
        return;
    };
    let (name, is_list) = match first.strip_suffix("[]") {
        Some(name) => (name, true),
        None => (first.as_str(), false),
    };
    let Some(map) = value.as_object() else {
        return;
    };
    let children: Vec<&Value> = match name {
        "NAME" => map.values().collect(),
        _ => map.get(name).into_iter().collect(),
    };
    for child in children {
        match child.as_array() {
            Some(items) if is_list => items.iter().for_each(|item| find(item, rest, found)),
            _ => find(child, rest, found),
        }
    }
}
