//! Loads every example of a configuration in the pages. A part of a file is completed first, so
//! that it is compiled as well.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use edgeway::testkit::gateway::{self, World};
use regex::Regex;
use serde_json::Value;

use super::{files, read, root};
use crate::support::certificates::{Ca, files_of_examples};

/// Begins the comment above an example that is not loaded; the rest is the reason.
const NOT_LOADED: &str = "<!-- not loaded: ";

/// Example of a page.
struct Example {
    /// Page and line.
    place: String,
    text: String,
    /// Reason why it is not loaded.
    not_loaded: Option<String>,
}

/// Part of a configuration that a fragment belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    File,
    Route,
    Listener,
}

/// Page whose examples are parts of `conf/examples`, which another test loads.
const GENERATED: &str = "docs/configuration-reference.md";

fn pages() -> Vec<String> {
    let mut pages = files("docs", ".md");
    pages.retain(|page| page != GENERATED);
    pages.extend(["README.md", "SECURITY.md", "systemd/README.md"].map(str::to_owned));
    pages.extend(files("plugins", "README.md"));
    pages.extend(files("examples", "README.md"));
    pages
}

/// Returns the blocks of YAML in a page.
fn examples(page: &str, text: &str) -> Vec<Example> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at];
        at += 1;
        if !matches!(line.trim_start(), "```yaml" | "```yml") {
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        let start = at;
        while at < lines.len() && lines[at].trim() != "```" {
            at += 1;
        }
        let block: Vec<&str> = lines[start..at]
            .iter()
            .map(|line| line.get(indent..).unwrap_or_default())
            .collect();
        let above = lines[..start - 1].iter().rev().find(|it| !it.is_empty());
        let not_loaded = above
            .and_then(|line| line.trim().strip_prefix(NOT_LOADED))
            .map(|reason| reason.trim_end_matches("-->").trim().to_owned());
        found.push(Example {
            place: format!("{page}:{start}"),
            text: dedented(&block),
            not_loaded,
        });
    }
    found
}

/// Removes the indentation that all lines share.
fn dedented(lines: &[&str]) -> String {
    let written = lines.iter().filter(|line| !line.trim().is_empty());
    let indents = written.map(|line| line.len() - line.trim_start().len());
    let shared = indents.min().unwrap_or_default();
    let lines = lines.iter().map(|line| line.get(shared..).unwrap_or(""));
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

/// Splits a text at its top-level keys; comments belong to the key below them.
fn sections(text: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    let mut above = String::new();
    for line in text.lines() {
        let key = line.split_once(':').map(|(key, _)| key);
        let begins = |first: char| first.is_ascii_alphabetic() || first == '_';
        match key {
            Some(key) if key.starts_with(begins) => {
                found.push((key.to_owned(), format!("{above}{line}\n")));
                above.clear();
            }
            _ if line.starts_with('#') => {
                above.push_str(line);
                above.push('\n');
            }
            _ => {
                if let Some((_, section)) = found.last_mut() {
                    section.push_str(line);
                    section.push('\n');
                }
            }
        }
    }
    found
}

/// Returns the texts of one block: alternatives, such as three forms of one filter, repeat a key.
fn alternatives(text: &str) -> Vec<String> {
    let sections = sections(text);
    let keys: BTreeSet<&String> = sections.iter().map(|(key, _)| key).collect();
    if keys.len() == sections.len() {
        return vec![text.to_owned()];
    }
    sections.into_iter().map(|(_, section)| section).collect()
}

/// Top-level keys of a configuration, of a route and of a listener.
fn keys_of(part: Part) -> BTreeSet<String> {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    let schema = SCHEMA.get_or_init(gateway::schema);
    let properties = match part {
        Part::File => &schema["properties"],
        Part::Route => &schema["properties"]["routes"]["items"]["properties"],
        Part::Listener => &schema["$defs"]["ListenerConfig"]["properties"],
    };
    let keys: BTreeSet<String> = properties
        .as_object()
        .map(|it| it.keys().cloned().collect())
        .unwrap_or_default();
    assert!(!keys.is_empty(), "the schema has no keys of {part:?}");
    keys
}

/// Returns the parts that have all keys of an example, the likely one first.
fn parts(place: &str, text: &str) -> Vec<Part> {
    let sections = sections(text);
    let order = if place.starts_with("docs/filters/") {
        [Part::Route, Part::File, Part::Listener]
    } else {
        [Part::File, Part::Route, Part::Listener]
    };
    let has = |part: &Part| {
        let keys = keys_of(*part);
        sections.iter().all(|(key, _)| keys.contains(key))
    };
    order.into_iter().filter(has).collect()
}

/// Returns the names that a text gives for a key, such as `upstream: web` or `upstream: [a, b]`.
fn named(text: &str, key: &str) -> BTreeSet<String> {
    let value = Regex::new(&format!(r"(?m)\b{key}: *(?:\[([^\]]*)\]|([A-Za-z][\w-]*))"));
    let mut found = BTreeSet::new();
    for value in value.expect("it is valid").captures_iter(text) {
        let names = value.get(1).or(value.get(2)).map_or("", |it| it.as_str());
        let names = names.split(',').map(str::trim);
        let is_name = |name: &&str| name.starts_with(|c: char| c.is_ascii_alphabetic());
        found.extend(names.filter(is_name).map(str::to_owned));
    }
    found
}

fn indented(text: &str, by: usize) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let _written = writeln!(out, "{}{line}", " ".repeat(by));
    }
    out
}

/// Completes an example to a file that can be served.
fn completed(text: &str, part: Part) -> String {
    let mut whole = match part {
        Part::File => text.to_owned(),
        Part::Listener => format!(
            "listeners:\n  - address: 127.0.0.1:0\n{}",
            indented(text, 4)
        ),
        Part::Route => {
            let has = |name: &str| sections(text).iter().any(|(key, _)| key == name);
            let path = match (has("match"), text.contains("{id}")) {
                (true, _) => "",
                (false, true) => "    match: { path: \"/example/{id}\" }\n",
                (false, false) => "    match: { path: /* }\n",
            };
            let acts = ["upstream", "redirect", "respond"].into_iter().any(has);
            let action = if acts { "" } else { "    upstream: web\n" };
            format!(
                "routes:\n  - name: example\n{path}{action}{}",
                indented(text, 4)
            )
        }
    };
    let present: BTreeSet<String> = sections(&whole).into_iter().map(|(key, _)| key).collect();
    let lacks = |key: &str| !present.contains(key);
    if lacks("listeners") {
        whole.push_str("listeners:\n  - address: 127.0.0.1:0\n");
        if text.contains("client_cert:") {
            whole.push_str("    tls: { certificates: [{ cert: site.pem, key: site.key }], ");
            whole.push_str("client_ca: tls/ca.pem }\n");
        }
    }
    let mut upstreams = named(text, "upstream");
    upstreams.insert("web".to_owned());
    if lacks("upstreams") {
        whole.push_str("upstreams:\n");
        for name in &upstreams {
            let _written = writeln!(whole, "  {name}: {{ backends: [127.0.0.1:3000] }}");
        }
    }
    if lacks("rate_limits") {
        let limits = named(text, "rate_limit");
        if !limits.is_empty() {
            whole.push_str("rate_limits:\n");
        }
        for name in limits {
            let _written = writeln!(whole, "  {name}: 10/s");
        }
    }
    // The limits of that preset are in Redis.
    let shares = Regex::new(r"\b(store|shared|kv): *redis|preset: shop").expect("it is valid");
    if lacks("redis") && shares.is_match(text) {
        whole.push_str("redis: { url: redis://127.0.0.1:6379, secret: file:redis-secret }\n");
    }
    if lacks("routes") {
        let first = sections(&whole)
            .into_iter()
            .find(|(key, _)| key == "upstreams");
        let first = first.and_then(|(_, section)| {
            let name = Regex::new(r"(?m)^  ([\w-]+):").expect("it is valid");
            name.captures(&section).map(|found| found[1].to_owned())
        });
        let first = first.unwrap_or_else(|| "web".to_owned());
        let _written = writeln!(
            whole,
            "routes: [{{ match: {{ path: /* }}, upstream: {first} }}]"
        );
    }
    whole
}

/// Returns a folder with the files that the examples of the pages name.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder for the test can be made");
        let path = folder.path().to_owned();
        let write = |name: &str, text: &str| {
            let file = path.join(name);
            fs::create_dir_all(file.parent().expect("it is in a folder")).expect("it can be made");
            fs::write(file, text).expect("it takes files");
        };
        let link = |from: &Path, name: &str| {
            symlink(from, path.join(name)).expect("the folder takes links");
        };
        let given = files_of_examples();
        link(&given.join("users.htpasswd"), "users.htpasswd");
        for name in ["GeoLite2-City.mmdb", "GeoLite2-ASN.mmdb"] {
            link(&given.join("GeoLite2-City.mmdb"), name);
        }
        write("plugins/hello/plugin.js", &hello());
        for plugin in fs::read_dir(root().join("plugins")).expect("the folder is there") {
            let plugin = plugin.expect("it can be read").path();
            let name = plugin.file_name().expect("it has one").to_string_lossy();
            link(&plugin, &format!("plugins/{name}"));
        }
        let ca = Ca::new();
        fs::create_dir_all(path.join("tls")).expect("the folder takes folders");
        for (place, name) in [("tls", "site"), ("tls", "gateway"), ("", "site")] {
            ca.site(&["shop.example.com"])
                .write(&path.join(place), name);
        }
        // As certbot leaves them.
        let issued = ca.site(&["shop.example.com"]);
        write("live/shop.example.com/fullchain.pem", &issued.cert);
        write("live/shop.example.com/privkey.pem", &issued.key);
        for name in [
            "tls/ca.pem",
            "tls/partners-ca.pem",
            "login-ca.pem",
            "redis-ca.pem",
        ] {
            write(name, ca.pem());
        }
        let secret = "0123456789abcdef0123456789abcdef0123456789abcdef\n";
        for name in [
            "admin.token",
            "challenge.key",
            "fan_out.token",
            "redis-secret",
            "redis-password",
        ] {
            write(name, secret);
        }
        let key = fs::read_to_string(root().join("conf/examples/jwt.pub"));
        write("jwt.pub", &key.expect("it is there"));
        write("partners.keys", "");
        write("errors/404.html", "<p>none");
        write("errors/50x.html", "<p>down");
        (folder, path)
    });
    path
}

/// Returns the plugin that `docs/plugins.md` begins with.
fn hello() -> String {
    let page = read("docs/plugins.md");
    let (_, code) = page
        .split_once("```js\n// plugins/hello/plugin.js\n")
        .expect("the page begins with a plugin");
    code.split("```").next().unwrap_or_default().to_owned()
}

/// Returns the problems of a configuration, as `edgeway check` prints them.
fn problems(place: &str, text: &str) -> Option<String> {
    let folder = folder();
    let here = format!("{}/", folder.display());
    // Places of an installation.
    let text = text
        .replace("/etc/edgeway/", &here)
        .replace("/etc/letsencrypt/", &here);
    // Secrets are looked for beside the file.
    let name = format!("{here}{}", place.replace('/', "-"));
    let loaded = gateway::load_text(&name, &text);
    let mut diagnostics = loaded.diagnostics;
    if let Some(file) = &loaded.file {
        let (_, found) = gateway::compile(file, folder, &World::default());
        diagnostics.extend(found);
    }
    let style = edgeway_config::diagnostic::Style::Lines;
    diagnostics
        .has_errors()
        .then(|| diagnostics.render(&loaded.sources, style))
}

/// Loads an example, and returns why it is wrong.
fn wrong(place: &str, text: &str) -> Option<String> {
    let parts = parts(place, text);
    let mut first = None;
    for part in parts {
        let whole = completed(text, part);
        let problems = problems(place, &whole)?;
        first.get_or_insert(format!("{place} ({part:?}):\n{problems}\n{whole}"));
    }
    let keys: Vec<String> = sections(text).into_iter().map(|(key, _)| key).collect();
    Some(first.unwrap_or_else(|| format!("{place}: the keys {keys:?} belong to nothing")))
}

#[test]
fn every_example_of_the_pages_is_well_formed() {
    let mut report = String::new();
    let mut count = 0;
    for page in pages() {
        for example in examples(&page, &read(&page)) {
            match example.not_loaded {
                Some(reason) => assert!(reason.len() > 10, "{}: no reason", example.place),
                None => {
                    for text in alternatives(&example.text) {
                        count += 1;
                        report.extend(wrong(&example.place, &text));
                    }
                }
            }
        }
    }
    assert!(report.is_empty(), "{report}");
    assert!(count > 60, "only {count} examples were found");
}

#[test]
fn examples_are_found_completed_and_checked() {
    let page = "# A\n\n```yaml\nmethods: [GET]\n```\n\n1. b\n\n   ```yaml\n   listeners: []\n   ```\n\n\
        <!-- not loaded: for Kubernetes -->\n```yaml\nkind: Pod\n```\n\n```sh\nls\n```\n";
    let found = examples("docs/a.md", page);
    let texts: Vec<&str> = found.iter().map(|it| it.text.as_str()).collect();
    assert_eq!(
        texts,
        ["methods: [GET]\n", "listeners: []\n", "kind: Pod\n"]
    );
    assert_eq!(found[1].place, "docs/a.md:9");
    assert_eq!(found[2].not_loaded.as_deref(), Some("for Kubernetes"));
    assert!(found[0].not_loaded.is_none());

    assert_eq!(wrong("docs/a.md:3", "methods: [GET]\n"), None);
    assert!(wrong("docs/a.md:3", "methods: [got]\n").is_some());
    assert!(wrong("docs/a.md:3", "kind: Pod\n").is_some());
    assert!(wrong("docs/a.md:3", "tls: { acme: [a.example.com] }\n").is_some());
    let both = alternatives("cache: {}\ncache:\n  ttl: 5min\n");
    assert_eq!(both, ["cache: {}\n", "cache:\n  ttl: 5min\n"]);
    assert_eq!(wrong("docs/a.md:3", &both[1]), None);
    let more = "upstreams:\n  api: { backends: [127.0.0.1:1] }\n";
    assert_eq!(wrong("docs/a.md:3", more), None);
    assert!(wrong("docs/a.md:3", &more.replace("backends", "servers")).is_some());
}
