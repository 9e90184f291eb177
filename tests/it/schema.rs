//! The schema of the YAML, as editors use it: it accepts what the gateway accepts, and points out
//! obvious mistakes.
#![allow(
    clippy::panic,
    reason = "helpers of tests: what goes wrong here fails the test, and says so"
)]

use std::{
    fs,
    path::{Path, PathBuf},
};

use boon::{Compiler, SchemaIndex, Schemas};
use edgeway::testkit::gateway::{self, World};
use edgeway_config::{diagnostic::Diagnostics, tree};
use serde_json::Value;

use crate::support::certificates::files_of_examples;

struct Editor {
    schemas: Schemas,
    index: SchemaIndex,
}

impl Editor {
    fn new() -> Self {
        let text =
            fs::read_to_string(root().join("conf/schema.json")).expect("conf/schema.json is there");
        let schema = serde_json::from_str(&text).expect("it is JSON");
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        compiler
            .add_resource("edgeway.json", schema)
            .expect("it has a name");
        let index = compiler
            .compile("edgeway.json", &mut schemas)
            .unwrap_or_else(|error| panic!("the schema is no schema: {error:#}"));
        Self { schemas, index }
    }

    /// Validates this text as an editor does, without expansion or includes.
    fn judge(&self, yaml: &str) -> Result<(), String> {
        let mut diagnostics = Diagnostics::default();
        let value: Value = tree::parse(yaml, 0, &mut diagnostics)
            .and_then(|node| tree::read(&node, &mut diagnostics))
            .unwrap_or_else(|| panic!("{diagnostics:#?}"));
        self.schemas
            .validate(&value, self.index)
            .map_err(|error| format!("{error:#}"))
    }

    #[track_caller]
    fn accepts(&self, name: &Path, yaml: &str) {
        if let Err(error) = self.judge(yaml) {
            panic!("{}: {error}\n{yaml}", name.display());
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Lists the YAML files of a folder and its subfolders.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml") {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn editors_accept_every_example_and_every_part_of_one() {
    let editor = Editor::new();
    let files = files(&root().join("conf"));
    assert!(files.len() > 15, "{files:?}");
    for path in files {
        editor.accepts(&path, &fs::read_to_string(&path).expect("it can be read"));
    }
}

#[test]
fn editors_accept_every_effective_value() {
    let editor = Editor::new();
    for path in files(&root().join("conf")) {
        if path.extension().is_some_and(|ending| ending == "yml") {
            continue;
        }
        let file = gateway::load(&path).file.expect("it is well formed");
        let (gateway, _) = gateway::compile(&file, files_of_examples(), &World::default());
        let gateway = gateway.expect("it is well formed");
        editor.accepts(&path, &gateway::printed(&file, &gateway, &[]));
    }
}

/// Returns a configuration with these keys on its route, and these on its upstream.
fn with(route: &str, upstream: &str) -> String {
    format!(
        "listeners: [{{ address: 127.0.0.1:8080 }}]\n\
         upstreams: {{ web: {{ backends: [127.0.0.1:3000] {upstream} }} }}\n\
         routes: [{{ match: {{ path: /* }} {route} }}]\n"
    )
}

/// Every notation of a value that the reference has.
const ROUTES: &[&str] = &[
    "respond: ok",
    "respond: 410",
    "respond: { status: 204 }",
    "respond: { maintenance: {} }",
    "redirect: https",
    "redirect: { to: /new, status: 303 }",
    "upstream: web, websocket: true",
    "upstream: web, websocket: { idle: 1h }",
    "upstream: web, rewrite: { with: /index.html }",
    "respond: ok, body_limit: 1024",
    "respond: ok, body_limit: 1.5MiB",
    "respond: ok, body_limit: { max: 10MB }",
    "respond: ok, body_limit: off",
    "respond: ok, compression: [br, gzip]",
    "respond: ok, compression: true",
    "respond: ok, compression: { levels: { gzip: 9 } }",
    "respond: ok, csrf: true",
    "respond: ok, csrf: { allow_same_site: true }",
    "respond: ok, methods: [GET, POST]",
    "respond: ok, request_id: { header: X-Trace }",
    "respond: ok, request_id: ~",
    "respond: ok, security_headers: helmet",
    "respond: ok, security_headers: { csp: false, hsts: false, xss_protection: 0, frame_options: true }",
    "respond: ok, security_headers: { hsts: { max_age: 30d }, powered_by: keep, policy: override }",
    "respond: ok, timing: true",
    "respond: ok, access_log: false",
    "respond: ok, access_log: { file: a.log, rotate: { size: 1GB, keep: 3 } }",
    "respond: ok, access_log: { file: a.log, rotate: false, redact: [] }",
    "respond: ok, access: { allow: [10.0.0.0/8] }",
    "respond: ok, cors: { origins: ['*'], max_age: 1h }",
    "respond: ok, headers: { response: { remove: [X-A], set: { X-B: b } } }",
];

const UPSTREAMS: &[&str] = &[
    "app: nextjs",
    "balance: 'hash:header:X-User'",
    "sticky: { cookie: web, max_age: 1d }",
    "health: false",
    "health: true",
    "health: /api/health",
    "health: { enabled: false }",
    "health: { path: /, expect: 200 }",
    "health: { path: /, expect: 200-399 }",
    "health: { path: /, expect: [200, 300-302, '404'] }",
    "retry: { attempts: 3, on: [connect, 502, '503'], budget: 0.5% }",
    "retry: { on: [] }",
    "eject: { errors: 0 }",
    "max_in_flight: 100",
    "max_in_flight: { queue: 0, wait: 1s500ms }",
    "slow_start: 0",
    "timeouts: { total: 90s }",
    "pool: { idle: 2s }",
];

const MATCHES: &[&str] = &[
    "host: [a.example, '*.b.example'], path: [/a, /b/*], method: GET",
    "path_regex: '^/a', method: [GET, POST]",
    "header: { x-a: '*' }, query: { b: '1' }, cookie: { c: ~d }",
];

#[test]
fn editors_and_the_gateway_accept_every_way_to_write_a_value() {
    let editor = Editor::new();
    let mut all: Vec<String> = Vec::new();
    all.extend(ROUTES.iter().map(|route| with(&format!(", {route}"), "")));
    all.extend(
        UPSTREAMS
            .iter()
            .map(|upstream| with(", upstream: web", &format!(", {upstream}"))),
    );
    all.extend(MATCHES.iter().map(|matches| {
        format!(
            "listeners: [{{ address: 127.0.0.1:8080 }}]\nroutes: [{{ match: {{ {matches} }}, respond: ok }}]\n"
        )
    }));
    for yaml in all {
        let loaded = gateway::load_text("written.yaml", &yaml);
        let file = loaded
            .file
            .unwrap_or_else(|| panic!("{:#?}\n{yaml}", loaded.diagnostics));
        let (gateway, diagnostics) = gateway::compile(&file, root(), &World::default());
        assert!(gateway.is_some(), "{diagnostics:#?}\n{yaml}");
        editor.accepts(Path::new("written.yaml"), &yaml);
    }
}

#[test]
fn a_variable_may_stand_for_any_single_value() {
    let yaml = r#"
listeners: [{ address: "127.0.0.1:${EDGEWAY_TEST_UNSET:-8080}" }]
upstreams:
  web:
    app: ${EDGEWAY_TEST_UNSET:-node}
    backends:
      - 127.0.0.1:3000
      - address: 127.0.0.1:3001
        weight: ${EDGEWAY_TEST_UNSET:-2}
    health:
      path: /
      rise: ${EDGEWAY_TEST_UNSET:-3}
      json: ${EDGEWAY_TEST_UNSET:-true}
      timeout: ${EDGEWAY_TEST_UNSET:-1s}
    timeouts: { connect: "${EDGEWAY_TEST_UNSET:-1}s" }
    max_in_flight: ${EDGEWAY_TEST_UNSET:-100}
    retry:
      budget: ${EDGEWAY_TEST_UNSET:-5%}
      on:
        - ${EDGEWAY_TEST_UNSET:-502}
defaults:
  compression: ${EDGEWAY_TEST_UNSET:-true}
  body_limit: ${EDGEWAY_TEST_UNSET:-1MiB}
  security_headers: ${EDGEWAY_TEST_UNSET:-helmet}
admin:
routes:
  - match: { path: /* }
    upstream: web
    websocket: ${EDGEWAY_TEST_UNSET:-false}
    request_id:
"#;
    let loaded = gateway::load_text("variables.yaml", yaml);
    assert!(loaded.file.is_some(), "{:#?}", loaded.diagnostics);
    Editor::new().accepts(Path::new("variables.yaml"), yaml);
}

#[test]
fn editors_point_out_obvious_mistakes() {
    let editor = Editor::new();
    for wrong in [
        with(", respond: ok, compresion: true", ""),
        with(", respond: ok, compression: { min_sise: 1KiB }", ""),
        with(", respond: ok, compression: { encodings: [brotli] }", ""),
        with(", respond: { status: 99 }", ""),
        with(", redirect: { to: /a, status: 200 }", ""),
        with(", respond: ok, body_limit: 5 parsecs", ""),
        with(", respond: ok, security_headers: hemlet", ""),
        with(", upstream: web", ", app: nextsj"),
        with(", upstream: web", ", timeouts: { connect: 5 }"),
        with(", upstream: web", ", retry: { on: [404] }"),
        with(", upstream: web", ", health: { rise: 0 }"),
        "listeners: { address: 127.0.0.1:8080 }\n".to_owned(),
        "listener: [{ address: 127.0.0.1:8080 }]\n".to_owned(),
    ] {
        assert!(editor.judge(&wrong).is_err(), "accepted: {wrong}");
    }
    for name in ["three_mistakes", "unknown_key", "units"] {
        let path = root().join(format!("tests/it/config/bad/{name}.yaml"));
        let yaml = fs::read_to_string(path).expect("it can be read");
        assert!(editor.judge(&yaml).is_err(), "accepted: {name}");
    }
}
