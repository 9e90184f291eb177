//! Mistakes of a first configuration: each is reported with what to write, or is none.

use std::{fs, path::Path, time::Duration};

use edgeway::testing::gateway::{self, World};
use edgeway_config::{
    diagnostic::{Diagnostics, Severity, Style},
    source::Sources,
};

use crate::{
    cli::{BROKEN, EX_CONFIG, edgeway},
    support::{
        certificates::files_of_examples, client::get, gateway::Gateway, mmdb::loopback_in_munich,
        origins::EchoOrigin,
    },
};

/// Returns the problems of a text, as `edgeway check` finds them.
pub(crate) fn problems_of(yaml: &str) -> (Sources, Diagnostics) {
    let loaded = gateway::load_text("edgeway.yaml", yaml);
    let mut diagnostics = loaded.diagnostics;
    if let Some(file) = &loaded.file {
        let (_, found) = gateway::compile(file, files_of_examples(), &World::default());
        diagnostics.extend(found);
    }
    (loaded.sources, diagnostics)
}

pub(crate) fn lines(yaml: &str) -> Vec<String> {
    let (sources, diagnostics) = problems_of(yaml);
    let lines = diagnostics.render(&sources, Style::Lines);
    lines.lines().map(str::to_owned).collect()
}

#[track_caller]
fn assert_reported(yaml: &str, severity: Severity, code: &str) {
    let (sources, diagnostics) = problems_of(yaml);
    let found: Vec<_> = diagnostics
        .list()
        .iter()
        .map(|d| (d.severity, d.code))
        .collect();
    let report = diagnostics.render(&sources, Style::Lines);
    assert_eq!(found, [(severity, code)], "{report}\n{yaml}");
}

#[track_caller]
fn assert_clean(yaml: &str) {
    assert_eq!(lines(yaml), [""; 0], "{yaml}");
}

fn routed(routes: &str) -> String {
    format!(
        "listeners: [{{ address: \"127.0.0.1:8080\" }}]\n\
         upstreams: {{ web: {{ backends: [\"127.0.0.1:3000\"] }} }}\nroutes: {routes}\n"
    )
}

#[test]
fn statuses_need_no_quotes() {
    let with = |status: &str| {
        routed(&format!(
            "[{{ match: {{ path: /* }}, upstream: web, cache: {{ by_status: {{ {status}: 10s, 410: 1h }} }} }}]"
        ))
    };
    assert_clean(&with("404"));
    assert_clean(&with("\"404\""));
    assert_reported(&with("206"), Severity::Error, "edgeway::cache::status");
    assert_reported(&with("true"), Severity::Error, "edgeway::yaml::key");
}

/// A variable in quotes, which flow collections need, has the type that is expected.
#[test]
fn a_variable_in_quotes_may_be_a_number_or_a_text() {
    let with = |route: &str| routed(&format!("[{{ match: {{ path: /* }}, {route} }}]"));
    let number = "\"${NOBODY_SETS_THIS:-201}\"";
    let flag = "\"${NOBODY_SETS_THIS:-true}\"";
    for route in [
        format!("respond: {{ status: {number}, body: {number} }}"),
        format!("respond: {{ body: {flag} }}"),
        format!("upstream: web, cache: {{ purge_on_write: {flag}, tags: [{number}] }}"),
    ] {
        let yaml = with(&route);
        let problems = lines(&yaml);
        let problems = problems
            .iter()
            .filter(|line| !line.contains("no route uses"));
        assert_eq!(problems.count(), 0, "{yaml}: {:?}", lines(&yaml));
    }
    // A text that looks like a number stays a text.
    let quoted = with("respond: { status: \"201\" }");
    assert!(
        lines(&quoted).join("").contains("remove the quotes"),
        "{:?}",
        lines(&quoted)
    );
}
