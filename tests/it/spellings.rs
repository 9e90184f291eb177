//! Rules and apps see the same path: no spelling of a path bypasses a guarded route.
//!
//! Real frameworks decide which spellings they accept for the paths of their handlers.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests: what goes wrong here fails the test, and says so"
)]

use std::fmt::Write;

use edgeway_base::target::{Slashes, normalise};
use tokio::sync::OnceCell;

use crate::{
    cli::edgeway_fed,
    support::{
        apps::{App, FrameworkApp, NextApp},
        client::{Request, Response, get},
        gateway::Gateway,
    },
};

const GUARDED: [&str; 3] = ["admin", "item", "nested"];

/// Paths of guarded handlers, and of others.
const PATHS: [&str; 7] = [
    "/api/admin",
    "/api/items/7",
    "/api/items/a%2Fb",
    "/api/nested/deep/thing",
    "/api/items/",
    "/api",
    "/open",
];

/// Number of cases; the environment variable sets it for long runs by hand.
fn cases() -> usize {
    let cases = std::env::var("SPELLING_CASES");
    cases.map_or(60, |cases| cases.parse().expect("a number"))
}

fn random(variable: &str) -> fastrand::Rng {
    let seed = std::env::var("SPELLING_SEED");
    let seed = seed.map_or_else(
        |_| crate::support::seed::drawn(),
        |seed| seed.parse().expect("a number"),
    );
    println!("{variable}: SPELLING_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

fn encoded(byte: u8, random: &mut fastrand::Rng) -> String {
    if random.bool() {
        format!("%{byte:02X}")
    } else {
        format!("%{byte:02x}")
    }
}

/// Spells a path at random, as an attacker would who looks for a bypass.
fn spelled(path: &str, random: &mut fastrand::Rng) -> String {
    const PIECES: [&str; 24] = [
        "/",
        "//",
        "/./",
        ";x=y",
        ";",
        "%2f",
        "%2F",
        "%252f",
        "%5c",
        "\\",
        "%00",
        "..;/",
        "/../",
        "/%2e%2e/",
        "%252e%252e%252f",
        "%3f",
        "%23",
        "+",
        "%20",
        "%09",
        "%c0%af",
        "%c3%a9",
        "%zz",
        ".",
    ];
    let mut out = String::new();
    let rate = random.f64() / 3.0;
    for byte in path.bytes() {
        let letter = char::from(byte);
        if random.f64() > rate {
            out.push(letter);
            continue;
        }
        match random.u8(..7) {
            0 | 1 => out.push(letter.to_ascii_uppercase()),
            2 => out.push_str(&encoded(byte, random)),
            3 => {
                let code = encoded(byte, random);
                write!(out, "%25{}", &code[1..]).expect("a String takes all");
            }
            4 if byte == b'/' => out.push_str("//"),
            5 if byte == b'/' => out.push_str("/./"),
            _ => {
                out.push(letter);
                out.push_str(PIECES[random.usize(..PIECES.len())]);
            }
        }
    }
    match random.u8(..9) {
        0 => out.push('/'),
        1 => out.push_str(";a=b"),
        2 => out.push_str("%2f"),
        3 => out.insert_str(0, "/x/.."),
        4 => out.insert(0, '/'),
        5 => out.push_str("?a=/api/admin"),
        6 => out.insert_str(0, "//x"),
        _ => {}
    }
    if !out.starts_with('/') {
        out.insert(0, '/');
    }
    out
}

/// Starts a gateway in front of apps, each with three hosts: `NAME.test` guards all of `/api/*`,
/// `one.NAME.test` each handler alone, and `exact.NAME.test` guards no spelling.
async fn front(apps: &[(&str, &App)], slashes: Slashes) -> (Gateway, String) {
    let made = edgeway_fed(&["hash", "api-key", "friend"], "");
    let key = made.stderr.trim().rsplit(' ').next().unwrap().to_owned();
    let merges = slashes == Slashes::Merge;
    let mut upstreams = format!("merge_slashes: {merges}\nupstreams:\n");
    let mut routes = String::from("routes:\n");
    for (name, app) in apps {
        let address = app.address();
        let guard = format!("upstream: {name}, api_key: {{ file: friends.keys }}");
        writeln!(
            upstreams,
            "  {name}: {{ backends: [\"{address}\"], health: false }}"
        )
        .unwrap();
        writeln!(
            routes,
            "
  - {{ match: {{ host: [{name}.test, one.{name}.test, exact.{name}.test] }}, upstream: {name} }}
  - {{ match: {{ host: {name}.test, path: /api/* }}, {guard} }}
  - {{ match: {{ host: exact.{name}.test, path: /api/* }}, {guard}, spelling: exact }}
  - {{ match: {{ host: one.{name}.test, path: [/api/admin, \"/api/items/{{id}}\", /api/nested/deep/*] }}, {guard} }}"
        )
        .unwrap();
    }
    let gateway = Gateway::start_in(&format!("{upstreams}{routes}"), |folder| {
        std::fs::write(folder.join("friends.keys"), &made.stdout).unwrap();
    })
    .await;
    (gateway, key)
}

fn on(host: &str, target: &str) -> Request {
    get(target).header("host", host.to_owned())
}

fn handler(response: &Response) -> Option<&str> {
    response.header("x-handler")
}

fn is_guarded(response: &Response) -> bool {
    handler(response).is_some_and(|handler| GUARDED.contains(&handler))
}

/// Returns an app of each framework, for all tests: none of them changes one.
async fn all_apps() -> &'static [(&'static str, App)] {
    static SHARED: OnceCell<Vec<(&str, App)>> = OnceCell::const_new();
    let all = SHARED.get_or_init(async || {
        let mut apps = Vec::new();
        for name in FrameworkApp::ALL {
            apps.push((name, FrameworkApp::start(name).await));
        }
        apps
    });
    all.await
}

/// A client may name any header: with one of signatures its path is no other one.
fn drawn_on(host: &str, target: &str, random: &mut fastrand::Rng) -> Request {
    let request = on(host, target);
    match random.u8(..4) {
        0 => request.header("signature-input", "sig=(\"@path\")"),
        1 => request.header("authorization", "AWS4-HMAC-SHA256 SignedHeaders=host"),
        _ => request,
    }
}

#[tokio::test]
async fn no_spelling_reaches_a_guarded_handler_without_its_key() {
    spell(Slashes::Merge).await;
}

#[tokio::test]
async fn no_spelling_with_repeated_slashes_reaches_a_guarded_handler_without_its_key() {
    spell(Slashes::Keep).await;
}

async fn spell(slashes: Slashes) {
    let apps = all_apps().await;
    let named: Vec<(&str, &App)> = apps.iter().map(|(name, app)| (*name, app)).collect();
    let (gateway, key) = front(&named, slashes).await;
    let mut random = random("spellings of paths");
    let (mut reached, mut stepped_around) = (0, 0);
    for case in 0..cases() {
        // Some of the apps accept the first spellings, so that the control always has a case.
        let target = match case {
            0 => "/API/admin".to_owned(),
            1 => "//x/api/admin".to_owned(),
            _ => spelled(random.choice(PATHS).unwrap(), &mut random),
        };
        let normal = normalise(target.as_bytes(), slashes);
        let normal = normal.map(|normal| {
            let target = normal.rewritten().unwrap_or_else(|| target.clone().into());
            String::from_utf8(target).expect("it is ASCII")
        });
        for (name, app) in apps {
            for host in [format!("{name}.test"), format!("one.{name}.test")] {
                let request = drawn_on(&host, &target, &mut random);
                let response = gateway.send(&request).await;
                assert!(!is_guarded(&response), "{host} {target}: {response:?}");
                if normal.is_err() {
                    assert_eq!(response.status(), 400, "{host} {target}");
                }
            }
            let Ok(normal) = &normal else { continue };
            // With the key, the app gets the normal form, and nothing else changes.
            let request = on(&format!("{name}.test"), &target).header("x-api-key", key.clone());
            let response = gateway.send(&request).await;
            let own = app.send(&on(&format!("{name}.test"), normal)).await;
            let of =
                |response: &Response| (response.status(), handler(response).map(str::to_owned));
            assert_eq!(of(&response), of(&own), "{name} {target} as {normal}");
            reached += usize::from(is_guarded(&response));
            // The control: without folding, some spelling bypasses the guard.
            let exact = gateway
                .send(&on(&format!("exact.{name}.test"), &target))
                .await;
            stepped_around += usize::from(is_guarded(&exact));
        }
    }
    println!("{reached} reached a guarded handler, {stepped_around} would without a key");
    assert!(reached > 0 && stepped_around > 0);
}

#[tokio::test]
async fn known_spellings_are_guarded() {
    let apps = all_apps().await;
    let named: Vec<(&str, &App)> = apps.iter().map(|(name, app)| (*name, app)).collect();
    let (gateway, key) = front(&named, Slashes::Merge).await;
    for (name, _) in apps {
        for target in [
            "/api/admin",
            "/API/admin",
            "/%61pi/admin",
            "/api/admin/",
            "//api/admin",
            "/api;a=b/admin",
            "/api/admin;x",
            "/api%2fadmin",
            "/%2561pi/admin",
            "/x/%252e%252e/api/admin",
        ] {
            let of = async |host: String, key: Option<&str>| {
                let request = on(&host, target);
                let request = match key {
                    Some(key) => request.header("x-api-key", key.to_owned()),
                    None => request,
                };
                gateway.send(&request).await.status()
            };
            for host in [format!("{name}.test"), format!("one.{name}.test")] {
                assert_eq!(of(host.clone(), None).await, 401, "{host} {target}");
                assert_ne!(of(host.clone(), Some(&key)).await, 401, "{host} {target}");
            }
        }
        let refused = gateway
            .send(&on(&format!("{name}.test"), "/x/..;/api/admin"))
            .await;
        assert_eq!(refused.status(), 400);
        let open = gateway.send(&on(&format!("{name}.test"), "/open")).await;
        assert_eq!(handler(&open), Some("open"));
        // A name with an encoded slash is one segment to an app that reads it so.
        let item = on(&format!("one.{name}.test"), "/api/items/%40scope%2fpackage");
        let item = gateway.send(&item.header("x-api-key", key.clone())).await;
        assert_eq!(handler(&item), Some("item"), "{name}");
    }
    // The control: without folding, these apps respond without a key.
    for (name, target) in [
        ("express4", "/API/admin"),
        ("express5", "/API/admin"),
        ("koa", "/API/admin"),
        ("nest", "/API/admin/"),
        ("fastify_loose", "/API/admin;x"),
    ] {
        let host = format!("exact.{name}.test");
        let around = gateway.send(&on(&host, target)).await;
        assert_eq!(handler(&around), Some("admin"), "{name} {target}");
    }
}

#[tokio::test]
async fn no_spelling_of_a_next_js_path_leads_around_a_guard() {
    let app = NextApp::shared().await;
    let (gateway, key) = front(&[("next", app)], Slashes::Merge).await;
    let mut random = random("spellings for Next.js");
    let is_hello =
        |response: &Response| response.status() == 200 && response.text().contains("world");
    let mut reached = 0;
    for _ in 0..cases() {
        let target = spelled("/api/hello", &mut random);
        let response = gateway.send(&on("next.test", &target)).await;
        assert!(!is_hello(&response), "{target}: {response:?}");
        let with_key = on("next.test", &target).header("x-api-key", key.clone());
        reached += usize::from(is_hello(&gateway.send(&with_key).await));
    }
    let plain = on("next.test", "/api/hello").header("x-api-key", key.clone());
    assert!(is_hello(&gateway.send(&plain).await));
    println!("{reached} reached the handler");
    // Next.js still redirects a path with a trailing slash.
    let slash = on("next.test", "/api/hello/").header("x-api-key", key);
    let moved = gateway.send(&slash).await;
    assert_eq!(
        (moved.status(), moved.header("location")),
        (308, Some("/api/hello"))
    );
    // A page requested with percent-encoded letters is the same page for every client.
    let page = gateway.send(&on("next.test", "/%69sr")).await;
    assert_eq!(page.status(), 200);
}

#[tokio::test]
async fn limits_count_every_spelling_that_reaches_the_handler() {
    let app = FrameworkApp::start("express4").await;
    let config = |more: &str| {
        format!(
            "
upstreams: {{ app: {{ backends: [\"{}\"], health: false }} }}
rate_limits: {{ login: {{ rate: 3/h, burst: 3 }}, wide: 1000/s }}
defaults: {{ rate_limit: [wide] }}
routes:
  - {{ match: {{ path: /* }}, upstream: app }}
  - {{ match: {{ path: /api/admin }}, upstream: app, rate_limit: [login]{more} }}
",
            app.address()
        )
    };
    let statuses = async |config: String| {
        let gateway = Gateway::start(&config).await;
        let mut statuses = Vec::new();
        for target in [
            "/api/admin",
            "/API/admin",
            "/api/admin/",
            "/Api/%61dmin",
            "/api/Admin/",
        ] {
            statuses.push(gateway.get(target).await.status());
        }
        statuses
    };
    assert_eq!(statuses(config("")).await, [200, 200, 200, 429, 429]);
    // The control.
    assert_eq!(statuses(config(", spelling: exact")).await, [200; 5]);
}

#[tokio::test]
async fn a_route_that_refuses_refuses_every_spelling() {
    let app = FrameworkApp::start("express5").await;
    let gateway = Gateway::start(&format!(
        "
upstreams: {{ app: {{ backends: [\"{}\"], health: false }} }}
routes:
  - {{ match: {{ path: /* }}, upstream: app }}
  - {{ match: {{ path: /api/* }}, respond: 403 }}
",
        app.address()
    ))
    .await;
    for target in ["/api/admin", "/API/admin", "/API/admin/", "/api%2Fadmin"] {
        assert_eq!(gateway.get(target).await.status(), 403, "{target}");
    }
    assert_eq!(handler(&gateway.get("/OPEN").await), Some("open"));
}

/// Refusals of `/api/*`: each with the keys of a narrow route, if it has one, and those of the wide
/// one.
const REFUSALS: [(&str, &str, &str); 12] = [
    ("internal", "match: { MATCH, internal: true }", ""),
    ("respond", "respond: 403", ""),
    ("rules-all", "rules: [{ status: 403 }]", ""),
    (
        "rules-if",
        "rules: [{ if: '{header.x-key}', is: '', status: 401 }]",
        "",
    ),
    ("rules-path", "", "rules: [{ regex: ^/api/, status: 403 }]"),
    (
        "rules-list",
        "",
        "rules: [{ regex: '^/(open|API/Free)', then: stop }, { regex: '^/API/', status: 403 }]",
    ),
    (
        "rules-rewrite",
        "",
        "rules: [{ regex: '^/v1(/.*)$', with: '{group.1}' }, { regex: ^/api/, status: 403 }]",
    ),
    (
        "rules-value",
        "",
        "rules: [{ if: '{path.decoded}', is: '~^/api/', status: 403 }]",
    ),
    ("site", "", "site: shut"),
    (
        "conditions",
        "conditions: [{ if: '{header.x-key}', is: '', status: 401 }]",
        "",
    ),
    (
        "conditions-path",
        "",
        "conditions: [{ if: '{map.shut}', status: 403 }]",
    ),
    ("methods", "methods: [POST]", ""),
];

/// Starts a gateway in front of apps, with a host for each kind of refusal: `KIND.NAME.test`.
async fn refusing(apps: &[(&'static str, App)]) -> Gateway {
    let mut yaml = String::from(
        "sites: { shut: { rules: [{ regex: ^/api/, status: 403 }] } }
maps: { shut: { from: '{path}', values: { '~^/api/': '1' } } }
upstreams:\n",
    );
    let mut routes = String::new();
    for (name, app) in apps {
        let address = app.address();
        let upstream = format!("  {name}: {{ backends: [\"{address}\"], health: false }}");
        writeln!(yaml, "{upstream}").unwrap();
        for (kind, narrow, wide) in REFUSALS {
            let host = format!("host: {kind}.{name}.test");
            let comma = |keys: &str| {
                if keys.is_empty() {
                    String::new()
                } else {
                    format!(", {keys}")
                }
            };
            let wide = comma(wide);
            writeln!(
                routes,
                "  - {{ match: {{ {host} }}, upstream: {name}{wide} }}"
            )
            .unwrap();
            let matched = format!("{host}, path: /api/*");
            let narrow = match narrow {
                "" => continue,
                own if own.contains("MATCH") => own.replace("MATCH", &matched),
                own => format!("match: {{ {matched} }}, {own}"),
            };
            let action = if narrow.contains("respond") {
                ""
            } else {
                &format!(", upstream: {name}")
            };
            writeln!(routes, "  - {{ {narrow}{action} }}").unwrap();
        }
    }
    Gateway::start(&format!("{yaml}routes:\n{routes}")).await
}

/// Invariant: whatever refuses a path before the app is asked refuses each of its spellings, and no
/// path of another handler.
#[tokio::test]
async fn no_spelling_reaches_a_handler_that_anything_refuses() {
    let apps = all_apps().await;
    let gateway = refusing(apps).await;
    // The same cases in each run, unless a seed is given.
    let mut random = match std::env::var("SPELLING_SEED") {
        Ok(_) => random("spellings and refusals"),
        Err(_) => fastrand::Rng::with_seed(48),
    };
    let (mut refused, mut passed) = (0, 0);
    for case in 0..cases() {
        let is_open = case % 4 == 3;
        let target = match case {
            0 => "/API/admin".to_owned(),
            1 => "/api;a=b/admin".to_owned(),
            2 => "/api%2fadmin".to_owned(),
            _ if is_open => spelled("/open", &mut random),
            _ => spelled(random.choice(PATHS).unwrap(), &mut random),
        };
        let Ok(normal) = normalise(target.as_bytes(), Slashes::Merge) else {
            continue;
        };
        let normal = normal.rewritten().unwrap_or_else(|| target.clone().into());
        let normal = String::from_utf8(normal).expect("it is ASCII");
        let (name, app) = random.choice(apps).unwrap();
        let own = app.send(&on(name, &normal)).await;
        for (kind, ..) in REFUSALS {
            let host = format!("{kind}.{name}.test");
            let response = gateway.send(&on(&host, &target)).await;
            assert!(!is_guarded(&response), "{host} {target}: {response:?}");
            if is_guarded(&own) {
                let status = response.status();
                assert!(
                    (400..500).contains(&status),
                    "{host} {target}: {response:?}"
                );
                refused += 1;
            } else if is_open {
                // The control: no more than those spellings.
                assert_eq!(response.status(), own.status(), "{host} {target}");
                passed += usize::from(handler(&response) == Some("open"));
            }
        }
    }
    for (name, _) in apps {
        for (kind, ..) in REFUSALS {
            let host = format!("{kind}.{name}.test");
            let open = gateway.send(&on(&host, "/open")).await;
            assert_eq!(handler(&open), Some("open"), "{host}");
            let status = gateway.send(&on(&host, "/api/admin")).await.status();
            assert!((400..500).contains(&status), "{host}");
        }
    }
    println!("{refused} refused, {passed} passed");
    assert!(refused > 0 && passed > 0);
}

#[tokio::test]
async fn a_plugin_that_guards_is_asked_for_every_spelling() {
    let app = FrameworkApp::start("express4").await;
    let config = |role: &str| {
        format!(
            "
upstreams: {{ app: {{ backends: [\"{}\"], health: false }} }}
routes:
  - match: {{ path: /* }}
    upstream: app
    plugins: [{{ file: guard/index.js, {role}, match: {{ path: /api/* }} }}]
",
            app.address()
        )
    };
    let guard = |folder: &std::path::Path| {
        let folder = folder.join("guard");
        std::fs::create_dir(&folder).unwrap();
        let code = "export function onRequest(request) {
  if (!request.headers.has('x-key')) return new Response('who?', { status: 401 });
}";
        std::fs::write(folder.join("index.js"), code).unwrap();
    };
    for role in ["on_error: refuse", "role: auth"] {
        let gateway = Gateway::start_in(&config(role), guard).await;
        for target in ["/api/admin", "/API/admin", "/Api/admin/", "/api%2Fadmin"] {
            assert_eq!(gateway.get(target).await.status(), 401, "{role} {target}");
        }
    }
    let gateway = Gateway::start_in(&config("role: auth"), guard).await;
    let response = gateway.send(&get("/API/admin").header("x-key", "1")).await;
    assert_eq!(handler(&response), Some("admin"));
    assert_eq!(handler(&gateway.get("/OPEN").await), Some("open"));
    // The control: a plugin that is not a guard applies to its own paths only.
    let gateway = Gateway::start_in(&config("on_error: continue"), guard).await;
    assert_eq!(handler(&gateway.get("/API/admin").await), Some("admin"));
}
