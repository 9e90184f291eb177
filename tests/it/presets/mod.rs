//! Presets: what they set, how a file is laid over one, and each with its own figures in a gateway
//! that serves.

#![allow(
    clippy::disallowed_methods,
    clippy::format_collect,
    clippy::panic,
    clippy::too_many_lines,
    reason = "tests: what goes wrong here fails them, and limits refill in real time"
)]

mod overrides;
mod served;
mod shop;

use std::{fs, path::Path};

use edgeway::testkit::gateway::{self, World, printed};
use edgeway_config::{
    diagnostic::{Diagnostics, Severity, Style},
    presets::PRESETS,
    source::Sources,
    tree,
};
use serde_json::{Value, json};

use crate::cli::{EX_CONFIG, edgeway};

const PLAIN: &str = "listeners: [{ address: \"127.0.0.1:8080\" }]\n";

/// Returns what a file must have beside a preset.
fn needed(preset: &str) -> &'static str {
    match preset {
        "api" => {
            "routes:\n- { name: auth, jwt: { keys: file:conf/examples/jwt.pub } }\n\
             - { name: tasks, jwt: { keys: file:conf/examples/jwt.pub } }\n"
        }
        "portal" => {
            "upstreams: { web: { guarded: [] } }\n\
             routes:\n- { name: admin, jwt: { keys: file:conf/examples/jwt.pub } }\n\
             - { name: manifest, jwt: { keys: file:conf/examples/jwt.pub } }\n"
        }
        "shop" => {
            "redis: { url: \"redis://127.0.0.1:6379\", secret: 0123456789abcdef0123456789abcdef }\n"
        }
        "nextjs" => "upstreams: { web: { guarded: [] } }\n",
        _ => "",
    }
}

fn problems(yaml: &str) -> (Sources, Diagnostics) {
    let mut loaded = gateway::load_text("edgeway.yaml", yaml);
    loaded.find_rest(Path::new("."));
    if let Some(file) = &loaded.file {
        let (_, found) = gateway::compile(file, Path::new("."), &World::default());
        loaded.diagnostics.extend(found);
    }
    (loaded.sources, loaded.diagnostics)
}

#[track_caller]
fn assert_codes(yaml: &str, expected: &[&str]) -> String {
    let (sources, diagnostics) = problems(yaml);
    let report = diagnostics.render(&sources, Style::Graphical { colour: false });
    let codes: Vec<_> = diagnostics
        .list()
        .iter()
        .map(|problem| problem.code)
        .collect();
    assert_eq!(codes, expected, "{report}\n{yaml}");
    report
}

/// Returns the effective configuration of a file.
fn effective(yaml: &str) -> Value {
    effective_with_codes(yaml).0
}

/// Returns the same, and the codes of all problems.
fn effective_with_codes(yaml: &str) -> (Value, Vec<&'static str>) {
    let mut loaded = gateway::load_text("edgeway.yaml", yaml);
    loaded.find_rest(Path::new("."));
    let lines = loaded.diagnostics.render(&loaded.sources, Style::Lines);
    let file = loaded.file.unwrap_or_else(|| panic!("{lines}\n{yaml}"));
    let (compiled, found) = gateway::compile(&file, Path::new("."), &World::default());
    let lines = found.render(&loaded.sources, Style::Lines);
    let compiled = compiled.unwrap_or_else(|| panic!("{lines}\n{yaml}"));
    let problems = loaded.diagnostics.list().iter().chain(found.list());
    let codes = problems.map(|problem| problem.code).collect();
    let text = printed(&file, &compiled, &[]);
    let mut diagnostics = Diagnostics::default();
    let node = tree::parse(&text, 0, &mut diagnostics).expect("it is YAML");
    let all = tree::read(&node, &mut diagnostics);
    let all = all.unwrap_or_else(|| panic!("{diagnostics:?}\n{text}"));
    (all, codes)
}

/// Returns a route of an effective configuration.
fn route<'v>(all: &'v Value, name: &str) -> &'v Value {
    let routes = all["routes"].as_array().expect("there are routes");
    let found = routes.iter().find(|route| route["name"] == name);
    found.unwrap_or_else(|| panic!("no route {name}: {routes:#?}"))
}

#[test]
fn every_preset_but_small_requires_tls_or_an_opt_out() {
    let tls = "tls: { certificates: [{ cert: conf/examples/tls/example.com.pem, key: conf/examples/tls/example.com.key }] }";
    for preset in PRESETS {
        let name = preset.name;
        let more = needed(name);
        let expected: &[&str] = match name {
            "small" => &[],
            _ => &["edgeway::extends::plain_http"],
        };
        let report = assert_codes(&format!("extends: preset:{name}\n{PLAIN}{more}"), expected);
        if name != "small" {
            assert!(report.contains("edgeway.yaml:2:24"), "{report}");
            assert!(report.contains("allow_http: true"), "{report}");
        }
        let opted = format!("extends: {{ preset: {name}, allow_http: true }}\n{PLAIN}{more}");
        assert_codes(&opted, &[]);
        let secure = format!(
            "extends: preset:{name}\n{more}listeners:\n- {{ address: \":8443\", {tls} }}\n\
             - {{ address: \":8080\", redirect: https }}\n"
        );
        assert_codes(&secure, &[]);
        let listeners = effective(&secure)["listeners"].clone();
        assert_eq!(listeners[0]["tls"]["min_version"], "1.2", "{name}");
        assert!(listeners[1]["tls"].is_null(), "{name}");
    }
    // A process does not start either.
    let folder = tempfile::tempdir().expect("a folder for the test can be made");
    let file = folder.path().join("edgeway.yaml");
    fs::write(&file, format!("extends: preset:regulated\n{PLAIN}")).expect("it takes files");
    let ran = edgeway(&["run", "-c", &file.to_string_lossy()]);
    assert_eq!(ran.status, EX_CONFIG, "{}", ran.stderr);
    assert!(ran.stderr.contains("requires TLS"), "{}", ran.stderr);
}

#[test]
fn what_only_the_user_can_know_is_asked_for() {
    for (preset, count) in [("api", 2), ("portal", 2), ("shop", 1)] {
        let yaml = format!(
            "extends: {{ preset: {preset}, allow_http: true }}\n{PLAIN}upstreams: {{ web: {{ guarded: [] }} }}\n"
        );
        let yaml = if preset == "portal" {
            yaml
        } else {
            yaml.replace("upstreams: { web: { guarded: [] } }\n", "")
        };
        let report = assert_codes(&yaml, &vec!["edgeway::extends::needs"; count]);
        assert!(report.contains("edgeway.yaml:1:10"), "{report}");
        assert!(report.contains(&format!("preset:{preset}")), "{report}");
    }
    // For one gateway alone, the limits of the shop need no Redis.
    let memory = "rate_limits: { burst: { store: memory }, window: { store: memory } }\n";
    let alone = format!("extends: {{ preset: shop, allow_http: true }}\n{PLAIN}{memory}");
    assert_codes(&alone, &[]);
    let limits = effective(&alone)["rate_limits"].clone();
    assert_eq!(
        (&limits["burst"]["rate"], &limits["burst"]["burst"]),
        (&json!("100/s"), &json!(200))
    );
}

#[test]
fn an_unknown_preset_is_reported_with_the_right_one() {
    let report = assert_codes(
        &format!("extends: preset:smal\n{PLAIN}routes: [{{ match: {{}}, respond: ok }}]\n"),
        &["edgeway::extends::unknown"],
    );
    assert!(report.contains("did you mean `small`?"), "{report}");
    for wrong in [
        "extends: shop\n",
        "extends: [a]\n",
        "extends: { preset: shop, tls: off }\n",
    ] {
        let (_, diagnostics) = problems(&format!(
            "{wrong}{PLAIN}routes: [{{ match: {{}}, respond: ok }}]\n"
        ));
        let errors = diagnostics
            .list()
            .iter()
            .filter(|it| it.severity == Severity::Error);
        assert_eq!(errors.count(), 1, "{wrong}: {diagnostics:#?}");
    }
}

/// Every value of a preset is in the effective configuration, unless the file has another.
#[test]
fn every_value_of_a_preset_is_printed() {
    for preset in PRESETS {
        let yaml = format!(
            "extends: {{ preset: {}, allow_http: true }}\n{PLAIN}{}",
            preset.name,
            needed(preset.name)
        );
        let all = effective(&yaml);
        let node = tree::parse(preset.text, 0, &mut Diagnostics::default()).expect("it is YAML");
        let written: Value = tree::read(&node, &mut Diagnostics::default()).expect("it is plain");
        let mut seen = 0;
        for (section, value) in written.as_object().expect("a mapping") {
            match section.as_str() {
                "listener" => {}
                "routes" => {
                    for written in value.as_array().expect("a list") {
                        let name = written["name"].as_str().expect("each has a name");
                        seen += included(written, route(&all, name), name);
                    }
                }
                _ => seen += included(value, &all[section], section),
            }
        }
        assert!(seen > 15, "{}: {seen}", preset.name);
        let shown = edgeway(&["preset", "show", preset.name]);
        assert_eq!(
            (shown.status, shown.stdout.trim_end()),
            (0, preset.text.trim_end())
        );
    }
    let listed = edgeway(&["preset"]).stdout;
    assert!(
        PRESETS.iter().all(|preset| listed.contains(preset.name)),
        "{listed}"
    );
    assert_eq!(edgeway(&["preset", "show", "shopp"]).status, 1);
}

/// Counts the scalars of `written`, all of which must be in `printed`, in its own spelling.
#[track_caller]
fn included(written: &Value, printed: &Value, at: &str) -> usize {
    match written {
        Value::Object(entries) => entries
            .iter()
            .map(|(key, value)| included(value, &printed[key], &format!("{at}.{key}")))
            .sum(),
        Value::Array(items) => {
            assert_eq!(
                printed.as_array().map(Vec::len),
                Some(items.len()),
                "{at}: {printed}"
            );
            items
                .iter()
                .enumerate()
                .map(|(index, item)| included(item, &printed[index], &format!("{at}[{index}]")))
                .sum()
        }
        scalar => {
            // Short forms are printed in full: `500KiB` as `{ max: 500KiB }`, one as a list of one.
            let text = |value: &Value| value.to_string().replace(['"', ' '], "");
            let all = text(printed);
            let is_there = all == text(scalar)
                || all == format!("[{}]", text(scalar))
                || (printed.is_object() && (all.contains(&text(scalar)) || scalar == true))
                || same_quantity(&text(scalar), &all);
            assert!(is_there, "{at}: {scalar} is not in {printed}");
            1
        }
    }
}

/// Compares times and sizes that are written in different units.
fn same_quantity(one: &str, other: &str) -> bool {
    use edgeway_base::units::{ByteSize, Span};
    let span = |text: &str| text.parse::<Span>().ok().map(|span| span.0);
    let size = |text: &str| text.parse::<ByteSize>().ok().map(|size| size.0);
    (span(one).is_some() && span(one) == span(other))
        || (size(one).is_some() && size(one) == size(other))
}

#[test]
fn a_file_is_laid_over_its_preset() {
    let over = |more: &str| {
        let listeners = "listeners: [{ address: \"127.0.0.1:8080\" }]\n";
        format!("extends: preset:small\n{listeners}{more}")
    };
    // Mappings join, and the file's values count.
    let all = effective(&over(
        "upstreams: { api: { backends: [127.0.0.1:4000], balance: round_robin } }\n\
         rate_limits: { edge: { rate: 50/s } }\ncache: { max_object: 1MiB }\n",
    ));
    assert_eq!(
        all["upstreams"]["api"]["backends"][0]["address"],
        "127.0.0.1:4000"
    );
    assert_eq!(all["upstreams"]["api"]["health"]["path"], "/health");
    assert_eq!(
        all["upstreams"]["web"]["backends"][0]["address"],
        "127.0.0.1:3000"
    );
    assert_eq!(
        (
            &all["rate_limits"]["edge"]["rate"],
            &all["rate_limits"]["edge"]["burst"]
        ),
        (&json!("50/s"), &json!(20))
    );
    assert_eq!(
        (&all["cache"]["memory"], &all["cache"]["max_object"]),
        (&json!("256MiB"), &json!("1MiB"))
    );
    // Routes join by name, or by what they match; others are added.
    let all = effective(&over(
        "routes:\n- { name: api, cache: { ttl: 10min } }\n\
         - { match: { path: /* }, respond: closed }\n\
         - { match: { path: /status }, respond: ok, rate_limit: false }\n",
    ));
    assert_eq!(all["routes"].as_array().map(Vec::len), Some(3));
    assert_eq!(route(&all, "api")["cache"]["ttl"], "10min");
    assert_eq!(route(&all, "api")["cache"]["by_status"]["404"], "10s");
    assert_eq!(route(&all, "web")["respond"]["body"], "closed");
    assert!(route(&all, "web")["upstream"].is_null());
    // Nothing uses the preset's `web` any more, which is no fault of the file.
    assert!(all["upstreams"]["web"].is_null());
    assert_codes(
        &over("routes: [{ match: { path: /* }, respond: closed }]\n"),
        &[],
    );
    // An upstream that does not exist is removed with its routes.
    let all = effective(&over("upstreams: { api: false }\n"));
    assert_eq!(all["routes"].as_array().map(Vec::len), Some(1));
    // Filters of the preset can be switched off.
    let all = effective(&over("defaults: { rate_limit: false, body_limit: 2MiB }\n"));
    assert!(all["defaults"]["rate_limit"].is_null());
    assert!(all["rate_limits"].is_null());
    // Sections that are empty count as absent.
    assert_codes(&over("upstreams:\nroutes:\ndefaults:\n"), &[]);
}

/// Invariant: a route of the file that takes requests of a preset's guarded route in whole is that
/// route, by its name or by the same `match`; otherwise it is refused, and never replaces the guard.
#[test]
fn a_part_of_a_guarded_route_s_paths_does_not_take_them_from_it() {
    let file = |routes: &str| {
        format!(
            "extends: {{ preset: portal, allow_http: true }}\n{PLAIN}{}{routes}",
            needed("portal")
        )
    };
    for paths in [
        "/admin/*",
        "[/admin/*]",
        "/api/admin/*",
        "[/admin/*, /other/*]",
        // Another order is another value.
        "[/api/admin/*, /admin/*]",
    ] {
        let route = format!("- {{ match: {{ path: {paths} }}, upstream: web }}\n");
        let report = assert_codes(&file(&route), &["edgeway::route::conflict"]);
        assert!(report.contains("preset:portal"), "{report}");
    }
    // The same list is the preset's route.
    let routes = "routes:\n- { match: { path: [/admin/*, /api/admin/*] }, upstream: web, \
                  jwt: { keys: file:conf/examples/jwt.pub } }\n\
                  - { name: manifest, jwt: { keys: file:conf/examples/jwt.pub } }\n";
    let all = effective(&format!(
        "extends: {{ preset: portal, allow_http: true }}\n{PLAIN}\
         upstreams: {{ web: {{ guarded: [] }} }}\n{routes}"
    ));
    let role = &route(&all, "admin")["jwt"]["require"]["role"];
    assert_eq!(*role, json!(["admin"]));
}

#[test]
fn problems_are_shown_in_the_file_and_in_the_preset() {
    // In the file: its own value.
    let own = format!(
        "extends: preset:small\n{PLAIN}routes: [{{ name: api, cache: {{ ttl: soon }} }}]\n"
    );
    let report = assert_codes(&own, &["edgeway::config::bad_value"]);
    assert!(report.contains("edgeway.yaml:3:"), "{report}");
    // In both: the file's upstream lacks what a value of the preset needs.
    let both = format!(
        "extends: preset:small\n{PLAIN}upstreams: {{ web: {{ app: node, crawlers: [x] }} }}\n"
    );
    let report = assert_codes(&both, &["edgeway::upstream::nextjs"]);
    assert!(report.contains("edgeway.yaml:3:"), "{report}");
    // In the preset: its limit is missing once the file has replaced them.
    let inner = format!("extends: preset:small\n{PLAIN}rate_limits: {{ edge: 10 }}\n");
    let (sources, diagnostics) = problems(&inner);
    assert!(
        diagnostics.has_errors(),
        "{}",
        diagnostics.render(&sources, Style::Lines)
    );
    let preset = format!(
        "extends: preset:small\n{PLAIN}cache: {{ memory: 1MiB }}\nroutes: [{{ name: api, upstream: nobody }}]\n"
    );
    let report = assert_codes(&preset, &["edgeway::route::unknown_upstream"]);
    assert!(report.contains("edgeway.yaml:4:"), "{report}");
    // A route with the same paths as the preset's under another name is ambiguous: both are named.
    let twice = format!(
        "extends: preset:small\n{PLAIN}routes: [{{ name: mine, match: {{ path: /api/* }}, respond: ok }}]\n"
    );
    let (sources, diagnostics) = problems(&twice);
    let report = diagnostics.render(&sources, Style::Graphical { colour: false });
    assert!(
        report.contains("edgeway.yaml:3:") && report.contains("preset:small:"),
        "{report}"
    );
    assert!(report.contains("this preset is extended here"), "{report}");
}
