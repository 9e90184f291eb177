//! A filter that may refuse is a guard. Invariants: each kind of filter that can refuse a request before the
//! app is asked refuses every spelling of its paths, and whichever way leads to a guarded path, its
//! guards run or `check` warns about the way.
//!
//! Real frameworks decide which spellings they accept; `EDGEWAY_SEED` draws others.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path};

use fastrand::Rng;

use crate::{
    cli::edgeway_fed,
    support::{
        apps::{App, FrameworkApp},
        client::{Request, Response, get, post},
        gateway::Gateway,
        seed,
    },
};

/// Effect of the filters of a kind on a request without credentials: the keys of a route with which
/// they refuse it, or the reason why none is guarded by them.
enum Kind {
    Refuses(&'static str),
    Open(&'static str),
}

use Kind::{Open, Refuses};

/// All kinds of filters.
const KINDS: [(&str, Kind); 25] = [
    ("access", Refuses("access: { allow: [10.0.0.1] }")),
    ("access_log", Open("refuses nothing")),
    ("api_key", Refuses("api_key: { file: friends.keys }")),
    ("basic_auth", Refuses("basic_auth: { file: users }")),
    ("body_limit", Refuses("body_limit: 4B")),
    ("cache", Open("refuses nothing as a filter")),
    ("cache_control", Open("refuses nothing")),
    ("client_cert", Refuses("client_cert: {}")),
    ("compression", Open("refuses nothing")),
    (
        "conditions",
        Refuses("conditions: [{ if: '{header.x-key}', is: '', status: 401 }]"),
    ),
    ("cors", Open("refuses preflights, which ask for nothing")),
    ("csrf", Refuses("csrf: {}")),
    ("error_pages", Open("refuses nothing")),
    ("forward_auth", Refuses("forward_auth: 'http://SERVICE/'")),
    ("headers", Open("refuses nothing")),
    (
        "in_flight",
        Open("a limit, of which a request alone shows nothing"),
    ),
    (
        "jwt",
        Refuses("jwt: { keys: 'thirty-two bytes that nobody else knows' }"),
    ),
    ("methods", Refuses("methods: [PUT]")),
    (
        "plugins",
        Refuses("plugins: [{ file: guard/index.js, role: auth }]"),
    ),
    ("rate_limit", Refuses("rate_limit: [once]")),
    ("request_id", Open("refuses nothing")),
    ("response_rewrite", Open("refuses nothing")),
    ("security_headers", Open("refuses nothing")),
    ("timing", Open("refuses nothing")),
    ("upstream_by", Open("refuses nothing")),
];

/// The same of one route for all paths: plugins say themselves which are theirs.
const WIDE: [(&str, &str); 4] = [
    (
        "path",
        "plugins: [{ file: guard/index.js, on_error: refuse, match: { path: '/api/*' } }]",
    ),
    (
        "matcher",
        "plugins: [{ file: matcher/index.js, on_error: refuse }]",
    ),
    (
        "negative",
        "plugins: [{ file: negative/index.js, role: auth }]",
    ),
    ("counted", "rate_limit: [login]"),
];

const GUARD: &str = "export function onRequest(request) {
  if (!request.headers.has('x-key')) return new Response('who?', { status: 401 });
}";

const HANDLERS: [&str; 3] = ["admin", "item", "nested"];
const PATHS: [&str; 3] = ["/api/admin", "/api/items/7", "/api/nested/deep/thing"];

/// Spells a path as an attacker would who looks for one that the app takes.
fn spelled(path: &str, random: &mut Rng) -> String {
    let mut out = String::new();
    for byte in path.bytes() {
        let letter = char::from(byte);
        match random.u8(..24) {
            0..3 => out.push(letter.to_ascii_uppercase()),
            3 => write!(out, "%{byte:02x}").expect("a string takes it"),
            4 => write!(out, "%25{byte:02x}").expect("a string takes it"),
            5 if byte == b'/' => out.push_str("//"),
            5 if byte == b'/' => out.push_str("/./"),
            6 if byte == b'/' => out.push_str("/x/../"),
            6 => write!(out, "{letter};a=b").expect("a string takes it"),
            _ => out.push(letter),
        }
    }
    out.push_str(["", "", "/", ";a", "%2f", ".rsc"][random.usize(..6)]);
    out
}

fn handler(response: &Response) -> Option<&str> {
    response.header("x-handler")
}

fn is_guarded(response: &Response) -> bool {
    handler(response).is_some_and(|handler| HANDLERS.contains(&handler))
}

/// A request that each kind refuses: it has a body and comes from a page of another site.
fn request(host: &str, target: &str) -> Request {
    post(target, r#"{"a":1}"#)
        .header("content-type", "application/json")
        .header("host", host)
        .header("sec-fetch-site", "cross-site")
        .header("origin", "https://evil.test")
}

fn prepare(folder: &Path, keys: &str) {
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("it can be made");
        fs::write(path, text).expect("it takes files");
    };
    write("friends.keys", keys);
    write("users", "ann:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n");
    write("guard/index.js", GUARD);
    let matcher =
        |sources: &str| format!("export const config = {{ matcher: [{sources}] }};\n{GUARD}");
    write("matcher/index.js", &matcher("'/api/:path*'"));
    write("negative/index.js", &matcher("'/((?!open|health).*)'"));
    write(
        "rewrites/index.js",
        "export function onRequest(request) {
  return NextResponse.rewrite(new URL('/api/admin', request.url));
}
import { NextResponse } from 'next/server';",
    );
}

fn api_keys() -> String {
    edgeway_fed(&["hash", "api-key", "friend"], "").stdout
}

#[test]
fn each_kind_of_filter_is_in_the_list() {
    let pages = fs::read_dir("docs/filters").expect("the pages are there");
    let pages = pages.map(|page| page.expect("a file").file_name());
    let pages = pages.filter_map(|page| Some(page.to_str()?.strip_suffix(".md")?.to_owned()));
    for (name, does) in &KINDS {
        let (Refuses(text) | Open(text)) = does;
        assert!(!text.is_empty(), "{name}");
    }
    let listed = KINDS.iter().map(|(name, _)| (*name).to_owned());
    assert_eq!(listed.collect::<BTreeSet<_>>(), pages.collect());
}

async fn guarding(apps: &[(&'static str, App)], service: &str) -> Gateway {
    let mut yaml = String::from(
        "rate_limits: { once: 1/h, login: { rate: 1/h, by: '{map.counted}' } }
maps: { counted: { from: '{path}', values: { '~^/api(/|$)': '{client.ip}' } } }
upstreams:\n",
    );
    let mut routes = String::from("routes:\n");
    for (name, app) in apps {
        let upstream = format!(
            "  {name}: {{ backends: ['{}'], health: false }}",
            app.address()
        );
        writeln!(yaml, "{upstream}").expect("a string takes it");
        for (kind, keys) in KINDS.iter().filter_map(|(kind, does)| match does {
            Refuses(keys) if *kind != "client_cert" => Some((kind, keys)),
            Refuses(_) | Open(_) => None,
        }) {
            writeln!(
                routes,
                "- {{ match: {{ host: {kind}.{name} }}, upstream: {name} }}
- {{ match: {{ host: {kind}.{name}, path: '/api/*' }}, upstream: {name}, {} }}",
                keys.replace("SERVICE", service)
            )
            .expect("a string takes it");
        }
        for (kind, keys) in WIDE {
            let route = format!("match: {{ host: {kind}.{name} }}, upstream: {name}, {keys}");
            writeln!(routes, "- {{ {route} }}").expect("a string takes it");
        }
    }
    let keys = api_keys();
    Gateway::start_in(&format!("{yaml}{routes}"), |folder| prepare(folder, &keys)).await
}

#[tokio::test]
async fn no_spelling_gets_past_any_kind_of_filter_that_refuses() {
    let mut apps = Vec::new();
    for name in ["express5", "fastify_loose", "koa"] {
        apps.push((name, FrameworkApp::start(name).await));
    }
    let service = Gateway::start("routes: [{ match: {}, respond: 403 }]").await;
    let gateway = guarding(&apps, &service.address().to_string()).await;
    let kinds: Vec<&str> = { KINDS.iter() }
        .filter(|(kind, does)| matches!(does, Refuses(_)) && *kind != "client_cert")
        .map(|(kind, _)| *kind)
        .chain(WIDE.map(|(kind, _)| kind))
        .collect();
    // The first request of each takes what the limits allow.
    for (name, _) in &apps {
        for kind in &kinds {
            let host = format!("{kind}.{name}");
            gateway.send(&request(&host, "/api/admin")).await;
            let response = gateway.send(&request(&host, "/api/admin")).await;
            let status = response.status();
            assert!((400..500).contains(&status), "{host}: {response:?}");
            let open = gateway.send(&request(&host, "/open")).await;
            assert_eq!(handler(&open), Some("open"), "{host}: {open:?}");
        }
    }
    let mut random = Rng::with_seed(seed::drawn());
    let (mut refused, mut accepted) = (0, 0);
    for _ in 0..seed::cases(40, 1000) {
        let target = spelled(PATHS[random.usize(..PATHS.len())], &mut random);
        let (name, app) = &apps[random.usize(..apps.len())];
        // The control: the app takes some of these spellings.
        accepted += usize::from(is_guarded(&app.send(&request(name, &target)).await));
        for kind in &kinds {
            let host = format!("{kind}.{name}");
            let response = gateway.send(&request(&host, &target)).await;
            assert!(!is_guarded(&response), "{host} {target}: {response:?}");
            refused += 1;
        }
    }
    println!("{refused} refused, of which the app takes {accepted} spellings");
    assert!(accepted > 3, "{accepted}: the spellings show nothing");
}

/// Ways to a guarded path by another one: the target that takes it, the keys of its route, and
/// whether the guards run (or else `check` warns).
const WAYS: [(&str, &str, bool); 12] = [
    (
        "/old/admin",
        "match: { path: '/old/*' }, upstream: app, rewrite: { prefix: /old, with: /api }",
        false,
    ),
    (
        "/old/admin",
        "match: { path: '/old/*' }, upstream: app, rules: [{ regex: '^/old(.*)$', with: '/api{group.1}', then: stop }]",
        false,
    ),
    (
        "/old/admin",
        "match: { path: '/old/*' }, respond: ok, rules: [{ regex: '^/old(.*)$', with: '/api{group.1}' }, { route: named }]",
        false,
    ),
    (
        "/old/admin",
        "match: { path: '/old/*' }, upstream: app, rules: [{ regex: '^/old(.*)$', with: '/api{group.1}', then: reroute }]",
        true,
    ),
    (
        "/old/admin",
        "match: { path: '/old/*' }, upstream: app, site: moves",
        true,
    ),
    (
        "/old/admin",
        "match: { path: '/old/*' }, upstream: app, plugins: [{ file: rewrites/index.js, on_error: continue }]",
        true,
    ),
    (
        "/old/admin",
        "match: { path: '/old/*' }, files: { root: none, otherwise: { reroute: /api/admin } }",
        true,
    ),
    (
        "/old/admin",
        "match: { path: '/old/*' }, respond: 404, error_pages: { pages: { 404: { reroute: /api/admin } } }",
        true,
    ),
    // A filter chooses the app.
    (
        "/old/admin",
        "match: { path: '/old/*' }, upstream: spare, upstream_by: '{map.app}', rewrite: { prefix: /old, with: /api }",
        false,
    ),
    (
        "/old/admin",
        "match: { path: '/old/*' }, upstream: spare, upstream_by: '{map.app}', plugins: [{ file: rewrites/index.js, on_error: continue }]",
        true,
    ),
    // The path stays, and another route would have had it in the app's reading.
    (
        "/API/admin",
        "match: { path: '/*' }, respond: ok, rules: [{ route: named }]",
        true,
    ),
    (
        "/API/admin",
        "match: { path: '/*' }, respond: 404, error_pages: { pages: { 404: { route: named, own_status: true } } }",
        true,
    ),
];

#[tokio::test]
async fn whichever_way_leads_to_a_guarded_path_meets_its_guards_or_a_warning() {
    let app = FrameworkApp::start("express4").await;
    let keys = api_keys();
    for (target, route, is_held) in WAYS {
        for guard in [
            "api_key: { file: friends.keys }",
            "rules: [{ status: 403 }]",
        ] {
            let yaml = format!(
                "sites: {{ moves: {{ rules: [{{ regex: '^/old(.*)$', with: '/api{{group.1}}' }}] }} }}
maps: {{ app: {{ from: '{{method}}', values: {{ GET: app }} }} }}
upstreams:
  app: {{ backends: ['{}'], health: false }}
  spare: {{ backends: ['127.0.0.1:9'], health: false }}
routes:
- {{ match: {{ named: true }}, name: named, upstream: app }}
- {{ match: {{ path: '/api/*' }}, upstream: app, {guard} }}
- {{ {route} }}
",
                app.address()
            );
            let gateway = Gateway::start_in(&yaml, |folder| {
                prepare(folder, &keys);
                fs::create_dir(folder.join("none")).expect("it can be made");
            })
            .await;
            let response = gateway.send(&get(target)).await;
            let place = format!("{route}\n{guard}: {response:?}");
            assert_eq!(is_guarded(&response), !is_held, "{place}");
            let is_warned = gateway.stderr().contains("without its filters");
            assert_eq!(is_warned, !is_held, "{place}\n{}", gateway.stderr());
        }
    }
}

/// Rules run before the filters of their route: where one leads to the same app without these, `check`
/// says so.
#[test]
fn a_rule_that_leads_past_the_filters_of_its_route_is_named() {
    for (guard, is_warned) in [("", true), (", access: { allow: [10.0.0.1] }", false)] {
        let yaml = format!(
            "listeners: [{{ address: 127.0.0.1:8080 }}]
upstreams: {{ app: {{ backends: [127.0.0.1:3000] }} }}
routes:
- match: {{ path: '/*' }}
  upstream: app
  access: {{ allow: [10.0.0.1] }}
  rules: [{{ if: '{{cookie.beta}}', is: '1', route: beta }}]
- {{ name: beta, match: {{ named: true }}, upstream: app{guard} }}
"
        );
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("edgeway.yaml");
        fs::write(&file, yaml).expect("it takes files");
        let checked = edgeway_fed(&["check", "-c", &file.display().to_string()], "");
        let output = checked.stdout + &checked.stderr;
        let expected = "before the filters of";
        assert_eq!(output.contains(expected), is_warned, "{guard}: {output}");
    }
}

/// A plugin that says that it is no guard is named where other spellings of its paths go without it.
#[tokio::test]
async fn a_plugin_that_guards_nothing_is_named() {
    let app = FrameworkApp::start("express4").await;
    for (more, is_warned) in [
        ("", true),
        (", spelling: exact", false),
        ("role", false),
        ("wide", false),
    ] {
        let plugin = match more {
            "role" => "plugins: [{ file: guard/index.js, role: auth }]",
            _ => "plugins: [{ file: guard/index.js, on_error: continue }]",
        };
        let wide = if more == "wide" {
            &format!(", {plugin}")
        } else {
            ""
        };
        let more = more.strip_prefix(',').map_or("", |_| ", spelling: exact");
        let yaml = format!(
            "upstreams: {{ app: {{ backends: ['{}'], health: false }} }}
routes:
- {{ match: {{ path: /* }}, upstream: app{wide} }}
- {{ match: {{ path: '/api/*' }}, upstream: app, {plugin}{more} }}
",
            app.address()
        );
        let gateway = Gateway::start_in(&yaml, |folder| prepare(folder, "")).await;
        let log = gateway.stderr();
        assert_eq!(
            log.contains("but guard nothing"),
            is_warned,
            "{more}{wide}: {log}"
        );
    }
}
