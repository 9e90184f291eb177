//! Tests that the index finds what a comparison of each route with each other one finds, with work
//! in proportion to the number of routes.

use std::{fmt::Write as _, path::Path};

use edgeway_config::{
    diagnostic::{Diagnostic, Place},
    model::{OneOrMany, RouteNode, ThenConfig},
    tree::Spanned,
};
use edgeway_routes::{RouteProtection, work};
use proptest::prelude::*;

use crate::{
    World, compile,
    guards::{behind_rewrite, beside_host, beside_regex, needless, ways_around},
    load_text,
};

type Guarded<'a> = (&'a RouteNode, &'a RouteProtection);

/// Returns true if `other` lets requests reach an app without a guard of `guarded`.
fn leads_past((_, other): &Guarded<'_>, (_, guarded): &Guarded<'_>) -> bool {
    other.upstream.is_some() && !guarded.guards.is_subset(&other.guards)
}

/// Returns the first rewrite of `other` that can produce a path of `guarded`.
fn leads_into(other: &RouteNode, guarded: &RouteNode) -> Option<Place> {
    let key = other.config.rewrite.as_ref().map(|rewrite| {
        let own = &rewrite.value;
        (own.with.value.as_str(), own.prefix.is_some(), rewrite.place)
    });
    let rules = other.config.rules.iter().filter_map(|rule| {
        let stays = matches!(rule.value.then, None | Some(ThenConfig::Stop));
        let with = rule.value.with.as_ref().filter(|_| stays)?;
        Some((with.value.as_str(), false, rule.place))
    });
    let files = other.config.files.iter();
    let files = files.flat_map(|files| files.value.candidates.iter().chain(&files.value.fallback));
    let files = files.filter(|path| !path.value.starts_with("{path}"));
    let files = files.map(|path| (path.value.as_str(), false, path.place));
    let mut all = key.into_iter().chain(rules).chain(files);
    let found = all.find(|(with, is_open, _)| produces(with, *is_open, guarded))?;
    Some(found.2)
}

/// Returns the root of `other` if that is `/a` below the one of `guarded`, and has files of it at
/// other paths.
fn root_below((other, own): &Guarded<'_>, (guarded, theirs): &Guarded<'_>) -> Option<Place> {
    let is_below = own.upstream.as_deref() == Some("files www/a")
        && theirs.upstream.as_deref() == Some("files www");
    let mut paths = other.config.matches.value.path.0.iter();
    let is_moved = !paths.any(|path| path.value.starts_with("/a"));
    let files = other.config.files.as_ref()?;
    (is_below && is_moved && produces("/a", true, guarded)).then_some(files.place)
}

fn produces(with: &str, is_open: bool, guarded: &RouteNode) -> bool {
    let with = with.split('?').next().unwrap_or_default();
    let fixed = with.split(['{', '$']).next().unwrap_or_default();
    let is_open = is_open || fixed.len() < with.len();
    let fixed = fixed.trim_end_matches('/');
    let mut paths = guarded.config.matches.value.path.0.iter();
    paths.any(|path| {
        let own = path.value.split(['{', '*']).next().unwrap_or_default();
        let is_pattern = own.len() < path.value.len();
        let own = own.trim_end_matches('/');
        own == fixed || is_open && own.starts_with(fixed) || is_pattern && is_below(fixed, own)
    })
}

fn is_below(path: &str, other: &str) -> bool {
    let rest = path.strip_prefix(other);
    rest.is_some_and(|rest| rest.starts_with('/'))
}

/// Returns true if `other` takes the paths of `guarded` for hosts that `guarded` does not name.
fn takes_other_hosts(other: &RouteNode, guarded: &RouteNode) -> bool {
    let (open, own) = (&other.config.matches.value, &guarded.config.matches.value);
    if own.host.0.is_empty() || !open.host.0.is_empty() || other.config.rewrite.is_some() {
        return false;
    }
    let covers = |path: &str| {
        let paths = open.path.0.iter();
        let mut wide = paths.filter_map(|path| path.value.strip_suffix("/*"));
        open.path.0.is_empty() && open.path_regex.is_none()
            || wide.any(|wide| wide.is_empty() || wide == path || is_below(path, wide))
    };
    let mut paths = own.path.0.iter().map(|path| path.value.as_str());
    paths.any(|path| path != "/*" && covers(path))
}

/// Returns true if `other` may take requests of the listeners and hosts of `guarded`.
fn has_requests_of(other: &RouteNode, guarded: &RouteNode) -> bool {
    let [open, own] = [other, guarded].map(|node| &node.config.matches.value);
    [(&open.host, &own.host), (&open.listener, &own.listener)]
        .iter()
        .all(|(open, own)| {
            let is_wide = |list: &OneOrMany<Spanned<String>>| {
                list.is_empty() || list.0.iter().any(|one| one.value.starts_with('*'))
            };
            let mut values = own.0.iter();
            is_wide(open)
                || is_wide(own)
                || values.any(|one| open.0.iter().any(|other| other.value == one.value))
        })
}

/// Returns the warnings that a comparison of each route with each other one finds.
fn compared(all: &[Guarded<'_>]) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for guarded in all {
        let (node, protection) = guarded;
        let lacking: Vec<&Guarded<'_>> = all.iter().filter(|o| leads_past(o, guarded)).collect();
        let beside = lacking
            .iter()
            .filter(|o| o.1.upstream == protection.upstream);
        let open: Vec<&RouteNode> = beside.map(|other| other.0).collect();
        if let Some(spelling) = &node.config.spelling
            && lacking.is_empty()
        {
            found.push(needless(spelling.place));
        }
        if protection.guards.is_empty() || protection.is_exact {
            continue;
        }
        if let Some(regex) = &node.config.matches.value.path_regex {
            let all: Vec<&RouteNode> = match protection.upstream {
                Some(_) => open.clone(),
                None => lacking.iter().map(|other| other.0).collect(),
            };
            let mut all = all.into_iter();
            let other =
                all.find(|other| other.config.upstream.is_some() && has_requests_of(other, node));
            found.extend(other.map(|other| beside_regex(regex.place, other)));
        }
        let other = open.iter().find(|other| takes_other_hosts(other, node));
        found.extend(other.map(|other| beside_host(other, node)));
        if protection.rewrites && node.config.upstream.is_none() {
            continue;
        }
        let mut open = open.iter();
        let place = open.find_map(|other| leads_into(other, node));
        let mut roots = lacking.iter();
        let place = place.or_else(|| roots.find_map(|other| root_below(other, guarded)));
        found.extend(place.map(|place| behind_rewrite(place, node)));
    }
    found
}

/// A route as written, its guards, and whether it leads to an app.
fn route() -> impl Strategy<Value = (String, RouteProtection)> {
    let path = prop::sample::select(vec![
        "path: /*",
        "path: /a/*",
        "path: [/a, /b/*]",
        "path: '/a/{id}'",
        "path: /a/b/c",
        "path: /a/b/*",
        "path: '/é/{x}/*'",
        "path_regex: '^/a/[0-9]+$'",
        "method: POST",
    ]);
    let host = prop::sample::select(vec![
        "",
        "host: x.example, ",
        "host: [y.example], ",
        "host: ['*.example', y.example], ",
        "listener: a, ",
        "host: y.example, listener: [a, b], ",
        "listener: b, ",
    ]);
    let rewrite = prop::sample::select(vec![
        "",
        ", rewrite: { prefix: /a, with: /b }",
        ", rewrite: { with: /a/b }",
        ", rewrite: { with: '/a{path}' }",
        ", rewrite: { with: '/é/x/' }",
        ", rewrite: { with: / }",
        ", rules: [{ regex: ^/x, with: /a/b }]",
        ", rules: [{ regex: '^/(.*)$', with: '/a/{group.1}', then: stop }, { with: /b, if: '{path}' }]",
        ", rules: [{ regex: ^/x, with: /a/b, then: reroute }, { with: '{path}/b?x' }]",
    ]);
    let action = prop::sample::select(vec![
        ("upstream: web", "web"),
        ("upstream: api", "api"),
        ("files: www", "files www"),
        ("files: { root: www, fallback: /a/b }", "files www"),
        (
            "files: { root: www, try: ['{path}.html', '/{query.f}'] }",
            "files www",
        ),
        (
            "files: { root: www, try: ['{path}', '/a{path}'] }",
            "files www",
        ),
        ("files: www/a", "files www/a"),
    ]);
    let spelling = prop::sample::select(vec!["", ", spelling: exact"]);
    let guards = prop::collection::btree_set(0..4_u32, 0..4);
    (host, path, action, rewrite, spelling, guards).prop_map(
        |(host, path, (action, app), rewrite, spelling, guards)| {
            let upstream = Some(app.into());
            let protection = RouteProtection {
                guards,
                upstream,
                rewrites: rewrite.contains("rewrite"),
                is_exact: !spelling.is_empty(),
                ..RouteProtection::default()
            };
            let text = format!("- {{ match: {{ {host}{path} }}, {action}{rewrite}{spelling} }}\n");
            (text, protection)
        },
    )
}

proptest! {
    #[test]
    fn the_index_finds_what_comparing_all_routes_finds(
        routes in prop::collection::vec((route(), prop::bool::weighted(0.9)), 1..9),
    ) {
        let mut yaml = "listeners: [{ address: 127.0.0.1:8080 }]\nroutes:\n".to_owned();
        let mut protections = Vec::new();
        for ((text, mut protection), leads_to_app) in routes {
            yaml.push_str(&text);
            if !leads_to_app {
                protection.upstream = None;
            }
            protections.push(protection);
        }
        let file = load_text("t.yaml", &yaml).file.expect("every shape is valid");
        let all: Vec<Guarded<'_>> = file.routes.iter().zip(&protections).collect();
        let ways = ways_around(&all, &[]);
        prop_assert_eq!(ways.list(), &compared(&all)[..]);
    }
}

#[test]
fn ways_past_the_guard_of_files_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    std::fs::create_dir(root.join("admin")).unwrap();
    for (route, is_reported) in [
        (
            "path: /v2/*",
            "files: ROOT, rewrite: { prefix: /v2, with: / }",
            true,
        ),
        (
            "path: /try/*",
            "files: { root: ROOT, try: ['/{query.f}'] }",
            true,
        ),
        (
            "path: /fb/*",
            "files: { root: ROOT, fallback: /admin/s.html }",
            true,
        ),
        ("path: /parent/*", "files: ROOT/admin", true),
        (
            "path: /moved/*",
            "files: ROOT/admin, rewrite: { prefix: /moved, with: / }",
            true,
        ),
        // Controls: these have the files at paths that the guarded route does not have, or has itself.
        (
            "path: /v2/*",
            "files: ROOT, rewrite: { prefix: /v2, with: /open }",
            false,
        ),
        (
            "path: /try/*",
            "files: { root: ROOT, try: ['{path}', '{path}.html'] }",
            false,
        ),
        (
            "path: /fb/*",
            "files: { root: ROOT, fallback: /index.html }",
            false,
        ),
        (
            "path: /admin/open/*",
            "files: ROOT/admin, rewrite: { prefix: /admin, with: / }",
            false,
        ),
    ]
    .map(|(path, action, is_reported)| {
        (
            format!("- {{ match: {{ {path} }}, {action} }}\n"),
            is_reported,
        )
    }) {
        let yaml = "listeners: [{ address: 127.0.0.1:8080 }]\nroutes:\n\
                    - { match: { path: /* }, files: ROOT }\n\
                    - { match: { path: /admin/* }, files: ROOT, access: { allow: [10.0.0.1] } }\n";
        let yaml = (yaml.to_owned() + &route).replace("ROOT", root.to_str().unwrap());
        let file = load_text("t.yaml", &yaml)
            .file
            .expect("every shape is valid");
        let (_, problems) = compile(&file, Path::new("/"), &World::default());
        let codes: Vec<&str> = problems.list().iter().map(|one| one.code).collect();
        let expected = ["edgeway::route::rewritten_past_guard"];
        assert_eq!(codes, &expected[..usize::from(is_reported)], "{route}");
    }
}

/// Counts the comparisons of guards when `count` routes are compiled.
fn work_of(count: usize, route: impl Fn(usize) -> String) -> u64 {
    let mut yaml = "listeners: [{ address: 127.0.0.1:8080 }]\n\
                    upstreams: { web: { backends: [127.0.0.1:3000] } }\nroutes:\n"
        .to_owned();
    for number in 0..count {
        writeln!(yaml, "- {{ {}, upstream: web }}", route(number)).expect("a string takes it");
    }
    let file = load_text("t.yaml", &yaml).file.expect("it is valid");
    let ((gateway, problems), work) =
        work::measure(|| compile(&file, Path::new("."), &World::default()));
    assert!(gateway.is_some(), "{problems:?}");
    work
}

#[test]
fn work_grows_with_the_number_of_routes_and_not_with_its_square() {
    type Shape = fn(usize) -> String;
    let shapes: [Shape; 5] = [
        // The defaults guard these alike.
        |n| format!("match: {{ path: /p{n}/* }}"),
        |n| {
            format!(
                "match: {{ path: /p{n}/* }}, access: {{ allow: [10.0.{}.{}/32] }}",
                n / 250,
                n % 250
            )
        },
        |n| {
            format!(
                "match: {{ host: h{n}.example, path: /a/* }}, in_flight: {}",
                n + 1
            )
        },
        |n| {
            format!(
                "match: {{ path: /p{n}/* }}, body_limit: {{ max: {} }}, rewrite: {{ prefix: /p{n}, with: /q{n} }}",
                n + 1
            )
        },
        |n| {
            format!(
                "match: {{ path: /p{n}/* }}{}",
                if n == 0 {
                    ", access: { allow: [10.0.0.1] }"
                } else {
                    ""
                }
            )
        },
    ];
    for (number, shape) in shapes.into_iter().enumerate() {
        let (few, many) = (work_of(50, shape), work_of(400, shape));
        assert!(few > 0, "shape {number} compares nothing");
        assert!(
            many <= few * 9,
            "shape {number}: {few} for 50 routes, {many} for 400"
        );
    }
}
