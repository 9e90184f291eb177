//! Tests of whole files, valid and invalid, and of each shorthand.

use std::fmt::Debug;

use proptest::prelude::*;
use schemars::{JsonSchema, schema_for};
use serde::de::DeserializeOwned;

use super::*;
use crate::{
    diagnostic::{Diagnostics, Place, Style},
    source::load_text,
    tree::{parse, read},
};

const FILTERS: &[&str] = &["access", "methods", "body_limit", "compression"];

fn messages(text: &str, diagnostics: &Diagnostics) -> Vec<String> {
    diagnostics
        .list()
        .iter()
        .map(|d| {
            let covered = &text[d.place.start as usize..d.place.end as usize];
            let help = d.help.as_deref().unwrap_or_default();
            format!("<{covered}>: {}; {help}", d.message)
        })
        .collect()
}

fn file(text: &str) -> Result<File, Vec<String>> {
    let mut diagnostics = Diagnostics::default();
    let node = parse(text, 0, &mut diagnostics).expect("it is YAML");
    let file = File::read(&node, FILTERS, &mut diagnostics);
    assert_eq!(file.is_none(), diagnostics.has_errors());
    file.ok_or_else(|| messages(text, &diagnostics))
}

fn value<T: DeserializeOwned>(text: &str) -> Result<T, Vec<String>> {
    let mut diagnostics = Diagnostics::default();
    let node = parse(text, 0, &mut diagnostics).expect("it is YAML");
    read(&node, &mut diagnostics).ok_or_else(|| messages(text, &diagnostics))
}

#[track_caller]
fn refused<T: DeserializeOwned + Debug>(text: &str, expected: &str) {
    assert_eq!(value::<T>(text).unwrap_err(), [expected], "{text}");
}

#[test]
fn one_time_stands_for_all_steps_to_a_backend() {
    let timeouts = value::<TimeoutsConfig>("1min").unwrap();
    let all = [
        timeouts.connect,
        timeouts.first_byte,
        timeouts.idle,
        timeouts.stream_idle,
    ];
    assert_eq!(all, [Span::secs(60); 4]);
    assert_eq!(timeouts.total, None);
    let message = &value::<TimeoutsConfig>("5 parsecs").unwrap_err()[0];
    assert!(message.contains("invalid duration"), "{message}");
}

const WHOLE: &str = r#"
listeners:
  - address: 127.0.0.1:8080
    name: front
  - { address: "unix:/run/edgeway/http.sock", mode: 0660 }
admin: { address: 127.0.0.1:9900, socket: /run/edgeway/admin.sock }
trusted_proxies: [127.0.0.0/8, "::1/128"]
access_log: { file: /var/log/edgeway/access.log, format: json }
upstreams:
  web:
    app: nextjs
    backends: [127.0.0.1:3000, 127.0.0.1:3001]
    balance: least_conn
    health: { path: /api/health, interval: 5s, timeout: 2s, rise: 2, fall: 3, expect: [200, 204-299] }
  api:
    app: node
    backends: [{ address: 127.0.0.1:5005, weight: 2 }, 127.0.0.1:5006, { dns: "api.internal:5000" }]
    timeouts: { connect: 1s, first_byte: 30s, idle: 60s, total: 60s }
    retry: { attempts: 2, on: [connect, reset, 502, 503], budget: 10% }
    eject: { errors: 5, for: 10s }
    max_in_flight: { per_backend: 100, queue: 200, wait: 2s }
    sticky: { cookie: lane }
    slow_start: 10s
    pool: { idle: 4s }
defaults:
  compression: { min_size: 1KiB }
  body_limit: 1MiB
routes:
  - match: { path: /api/auth/login, method: POST }
    upstream: api
    body_limit: 64KiB
  - match: { path: [/ws/*, /live/*], header: { x-kind: "*" } }
    upstream: api
    websocket: true
    access: { allow: [10.0.0.0/8] }
  - match: { path: /old/* }
    redirect: { to: "/new/{rest}", status: 301 }
  - match: { path: /status-page }
    respond: { status: 200, body: "ok" }
  - name: rest
    match: { host: "*.example.com", path: /* }
    rewrite: { prefix: /a, with: /b }
    upstream: web
"#;

#[test]
fn a_complete_file_is_read_with_its_filters_raw() {
    let file = file(WHOLE).unwrap();
    assert_eq!(file.listeners[1].mode.as_ref().unwrap().value, "0660");
    assert_eq!(file.admin.address.unwrap().value, "127.0.0.1:9900");
    let names: Vec<_> = file
        .upstreams
        .iter()
        .map(|(k, _)| k.name.as_str())
        .collect();
    assert_eq!(names, ["web", "api"]);
    let api = &file.upstreams[1].1;
    assert_eq!(api.backends[0].weight, 2);
    assert_eq!(
        api.backends[2].target,
        BackendTarget::Dns("api.internal:5000".to_owned())
    );
    assert_eq!(
        api.retry.on,
        [
            RetryOn::Connect,
            RetryOn::Reset,
            RetryOn::Status502,
            RetryOn::Status503
        ]
    );
    let expect = file.upstreams[0].1.health.as_ref().unwrap().expect.as_ref();
    assert_eq!(expect.unwrap().0, [(200, 200), (204, 299)]);
    let defaults: Vec<_> = file.defaults.iter().map(|(k, _)| k.name.as_str()).collect();
    assert_eq!(defaults, ["compression", "body_limit"]);
    let ws = &file.routes[1];
    assert_eq!(ws.filters[0].0.name, "access");
    assert_eq!(ws.config.matches.path.0.len(), 2);
    let redirect = file.routes[2].config.redirect.as_ref().unwrap();
    assert_eq!(
        (redirect.to.as_str(), redirect.status),
        ("/new/{rest}", 301)
    );
    let login = &file.routes[0];
    let at = |place: Place| &WHOLE[place.start as usize..place.end as usize];
    assert!(at(login.place).starts_with("match: { path: /api/auth/login"));
    assert!(at(login.place).ends_with("body_limit: 64KiB"));
    assert_eq!(at(login.config.upstream.as_ref().unwrap().place), "api");
    assert!(file.access_log.is_some());
}

#[test]
fn names_of_routes_differ() {
    let match_of = |text: &str| format!("  - {{ match: {{ {text} }}, respond: ok }}\n");
    let routes = [
        "listener: http",
        "listener: https",
        "path: /a",
        "path: [/a, /b], header: { authorization: x }",
        "path: [/c, /d]",
        "path: [/c, /e]",
    ];
    let routes: String = routes.into_iter().map(match_of).collect();
    let written = "  - { name: /c, match: { path: /x }, respond: ok }\n";
    let head = "listeners: [{ address: \":80\" }]\nroutes:\n";
    let read = file(&format!("{head}{routes}{written}")).unwrap();
    let names: Vec<_> = read.routes.iter().map(|route| &*route.name).collect();
    assert_eq!(
        names,
        [
            "/* (listener http)",
            "/* (listener https)",
            "/a",
            "/a (header authorization=[redacted])",
            "/c (2)",
            "/c (3)",
            "/c",
        ]
    );
    let text = format!("{head}{written}{written}");
    let mut diagnostics = Diagnostics::default();
    let node = parse(&text, 0, &mut diagnostics).unwrap();
    assert!(File::read(&node, FILTERS, &mut diagnostics).is_some());
    assert_eq!(
        messages(&text, &diagnostics),
        [
            "</c>: another route has the name `/c`: metrics and logs do not tell them apart; \
             write different names"
        ]
    );
}

#[test]
fn mistakes_of_all_sections_are_reported_at_once() {
    let text = r"
listners: []
listeners:
  - { adress: 127.0.0.1:80 }
  - { address: 80 }
upstreams:
  api:
    backends: [127.0.0.1:1, 5000]
    balanse: p2c
defaults:
  compresion: {}
routes:
  - mach: { path: /a, methd: GET }
    upstream: api
    body_limt: 1MiB
  - upstream: api
  - nothing
";
    assert_eq!(
        file(text).unwrap_err(),
        [
            "<listners>: unknown key `listners`; the keys left to use here are `admin`, `trusted_proxies`, `access_log`, `audit_log`, `flood_guard`, `geo`, `acme`, `redis`, `tracing`, `rate_limits`, `maps`, `media_types`, `sites`, `cache`, `profiles`, `drain`, `watch`, `merge_slashes`, `driver`, `extends`, `include`",
            "<adress>: unknown key `adress`; did you mean `address`?",
            "<80>: expected text, found the number 80; put quotes round it: `\"80\"`",
            "<5000>: a backend is an address, found the number 5000; write `127.0.0.1:5000`",
            "<balanse>: unknown key `balanse`; did you mean `balance`?",
            "<compresion>: unknown key `compresion`; did you mean `compression`?",
            "<mach>: unknown key `mach`; did you mean `match`?",
            "<body_limt>: unknown key `body_limt`; did you mean `body_limit`?",
            "<methd>: unknown key `methd`; did you mean `method`?",
            "<upstream: api>: `match` is missing here; add `match: …`",
            "<nothing>: expected a mapping, found the text `nothing`; ",
        ]
    );
}

#[test]
fn listeners_and_routes_are_needed() {
    assert_eq!(
        file("admin: {}").unwrap_err(),
        [
            "<a>: `listeners` is missing: a listener is needed; add `listeners: [{ address: \"127.0.0.1:8080\" }]`",
            "<a>: `routes` is missing: a route is needed; add `routes: [{ match: { path: /* }, upstream: NAME }]`",
        ]
    );
    assert_eq!(
        file("listeners: []\nroutes:\n").unwrap_err(),
        [
            "<listeners>: `listeners` is empty: a listener is needed; add `listeners: [{ address: \"127.0.0.1:8080\" }]`",
            "<routes>: `routes` is empty: a route is needed; add `routes: [{ match: { path: /* }, upstream: NAME }]`",
        ]
    );
    assert_eq!(file("").unwrap_err().len(), 1);
    assert_eq!(file("listeners: x\nroutes: { a: 1 }").unwrap_err().len(), 2);
}

#[test]
fn sections_that_are_all_comments_are_as_absent() {
    let text = "listeners: [{ address: \":80\" }]\nroutes: [{ match: {}, respond: ok }]\n\
                admin:\ntrusted_proxies:\nupstreams:\ndefaults:\n";
    let file = file(text).unwrap();
    assert!(file.upstreams.is_empty() && file.defaults.is_empty());
    assert!(file.admin.address.is_none());
}

#[test]
fn backends_have_one_address_and_a_weight() {
    let backend: BackendConfig = value("unix:/run/app.sock").unwrap();
    assert_eq!(
        backend.target,
        BackendTarget::Address("unix:/run/app.sock".to_owned())
    );
    assert_eq!(backend.weight, 1);
    refused::<BackendConfig>(
        "{ address: a, dns: b }",
        "<{ address: a, dns: b }>: a backend has `address` or `dns`, not both; make it two backends",
    );
    refused::<BackendConfig>(
        "{ weight: 2 }",
        "<{ weight: 2 }>: this backend has no address; add `address: 127.0.0.1:3000` or `dns: \"name:3000\"`",
    );
    refused::<BackendConfig>(
        "{ address: a, weight: 0 }",
        "<{ address: a, weight: 0 }>: a backend's weight must be at least 1; remove the backend to send it nothing",
    );
    refused::<BackendConfig>(
        "{ adress: a }",
        "<adress>: unknown key `adress`; did you mean `address`?",
    );
    for (written, help) in [
        ("3000", "write `127.0.0.1:3000`"),
        ("70000", "write `IP:PORT`, such as `127.0.0.1:3000`"),
        ("0", "write `IP:PORT`, such as `127.0.0.1:3000`"),
    ] {
        refused::<BackendConfig>(
            written,
            &format!("<{written}>: a backend is an address, found the number {written}; {help}"),
        );
    }
    refused::<BackendConfig>(
        "[a]",
        "<[a]>: expected a backend such as `127.0.0.1:3000`, or a mapping, found a list; ",
    );
}

#[test]
fn statuses_are_single_ones_and_ranges() {
    for (text, ranges) in [
        ("200", vec![(200, 200)]),
        ("\"200\"", vec![(200, 200)]),
        ("200-399", vec![(200, 399)]),
        ("[200, 300-399]", vec![(200, 200), (300, 399)]),
    ] {
        let statuses: StatusSet = value(text).unwrap();
        assert_eq!(statuses.0, ranges, "{text}");
        assert!(statuses.contains(200) && !statuses.contains(400));
    }
    refused::<StatusSet>(
        "399-200",
        "<399-200>: invalid range `399-200`: it is reversed; write `200-399`",
    );
    refused::<StatusSet>(
        "[200, 99]",
        "<99>: invalid status `99`; write a status from 100 to 599, or a range such as `200-399`",
    );
    refused::<StatusSet>(
        "[]",
        "<[]>: this list is empty; write at least one value, or remove the key",
    );
    refused::<StatusSet>(
        "2xx",
        "<2xx>: invalid status `2xx`; write a status from 100 to 599, or a range such as `200-399`",
    );
}

#[test]
fn health_may_be_a_path_or_off() {
    assert!(!value::<HealthConfig>("false").unwrap().enabled);
    assert!(value::<HealthConfig>("true").unwrap().enabled);
    let health: HealthConfig = value("/health").unwrap();
    assert_eq!(health.path.unwrap().value, "/health");
    refused::<HealthConfig>(
        "off",
        "<off>: expected a mapping such as `{ path: /api/health }`, a path, or `false` for no checks, found the text `off`; ",
    );
    refused::<HealthConfig>("{ rise: 0 }", "<0>: must be at least 1, found 0; ");
    refused::<HealthConfig>(
        "{ intervall: 5s }",
        "<intervall>: unknown key `intervall`; did you mean `interval`?",
    );
}

#[test]
fn other_frameworks_are_apps_of_node() {
    for (word, meant) in [
        ("nest", "node"),
        ("nestjs", "node"),
        ("nuxt", "node"),
        ("next", "nextjs"),
        ("nextj", "nextjs"),
        ("nod", "node"),
    ] {
        let text = format!("upstreams: {{ web: {{ app: {word}, backends: ['127.0.0.1:1'] }} }}");
        let problems = file(&text).unwrap_err().concat();
        let help = format!("did you mean `{meant}`? Allowed are `none`, `node`, `nextjs`");
        assert!(problems.contains(&help), "{problems}");
    }
}

#[test]
fn the_other_shorthands() {
    assert_eq!(value::<InFlightConfig>("7").unwrap().per_backend, 7);
    assert_eq!(value::<InFlightConfig>("{ queue: 0 }").unwrap().queue, 0);
    assert!(value::<InFlightConfig>("0").is_err());
    assert!(value::<WebsocketConfig>("true").unwrap().enabled);
    assert!(!value::<WebsocketConfig>("false").unwrap().enabled);
    let ignored: WebsocketConfig = value("ignore").unwrap();
    assert!(!ignored.enabled && !ignored.refuse);
    let websocket: WebsocketConfig = value("{ idle: 1h }").unwrap();
    assert_eq!(
        (websocket.enabled, websocket.idle),
        (true, Some(Span::secs(3600)))
    );
    refused::<WebsocketConfig>(
        "on",
        "<on>: expected `true`, `false`, `ignore` or a mapping such as `{ idle: 1h }`, found the text `on`; write `true`",
    );
    assert_eq!(value::<RespondConfig>("503").unwrap().status, Some(503));
    assert_eq!(value::<RespondConfig>("hi").unwrap().body.unwrap(), "hi");
    refused::<RespondConfig>(
        "{ status: 99 }",
        "<99>: the status of a reply must be from 200 to 599, found 99; ",
    );
    for (text, status) in [
        ("https", 308),
        ("/new", 307),
        ("{ to: /new, status: 302 }", 302),
        ("{ to: https }", 308),
    ] {
        assert_eq!(
            value::<RedirectConfig>(text).unwrap().status,
            status,
            "{text}"
        );
    }
    refused::<RedirectConfig>(
        "{ to: /new, status: 200 }",
        "<200>: invalid redirect status 200; write 301 or 308 (for good), 302 or 307 (for now), or 303 (look there with GET)",
    );
    let hosts: OneOrMany<Spanned<String>> = value("[a, b]").unwrap();
    assert_eq!(hosts.0[1].place.start, 4);
    let host: OneOrMany<Spanned<String>> = value(" a").unwrap();
    assert_eq!((host.0.len(), host.0[0].place.start), (1, 1));
}

/// Checks that values survive writing and reading: `edgeway check --print` relies on it.
#[track_caller]
fn survives<T: DeserializeOwned + Serialize>(text: &str) {
    let first = serde_json::to_value(value::<T>(text).unwrap()).unwrap();
    let again = serde_json::to_value(value::<T>(&first.to_string()).unwrap()).unwrap();
    assert_eq!(first, again);
}

#[test]
fn printed_text_can_be_read() {
    survives::<BackendConfig>("127.0.0.1:1");
    survives::<BackendConfig>("{ dns: \"a:1\", weight: 3 }");
    survives::<StatusSet>("[200, 300-399]");
    survives::<RedirectConfig>("https");
    survives::<HealthConfig>("false");
    survives::<WebsocketConfig>("{ idle: 1h }");
    survives::<RespondConfig>("503");
    for (_, upstream) in file(WHOLE).unwrap().upstreams {
        survives::<UpstreamConfig>(&serde_json::to_string(&upstream).unwrap());
    }
    for route in file(WHOLE).unwrap().routes {
        survives::<RouteConfig>(&serde_json::to_string(&route.config).unwrap());
    }
}

fn schema<T: JsonSchema>() -> serde_json::Value {
    serde_json::to_value(schema_for!(T)).unwrap()
}

#[test]
fn the_schema_knows_the_shorthands_and_every_key_of_a_route() {
    let route = schema::<RouteConfig>();
    let keys: Vec<_> = route["properties"].as_object().unwrap().keys().collect();
    let mut known: Vec<_> = ROUTE_KEYS.to_vec();
    known.sort_unstable();
    let mut keys: Vec<_> = keys.into_iter().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, known);
    for (schema, types) in [
        (
            schema::<HealthConfig>(),
            vec!["object", "string", "boolean"],
        ),
        (schema::<InFlightConfig>(), vec!["object", "integer"]),
        (
            schema::<WebsocketConfig>(),
            vec!["object", "boolean", "string"],
        ),
        (
            schema::<RespondConfig>(),
            vec!["object", "integer", "string"],
        ),
        (schema::<BackendConfig>(), vec!["object", "string"]),
        (schema::<RedirectConfig>(), vec!["object", "string"]),
    ] {
        let forms = schema["anyOf"].as_array().expect("several forms");
        let found: Vec<_> = forms
            .iter()
            .map(|form| form["type"].as_str().unwrap())
            .collect();
        assert_eq!(found, types);
        assert_eq!(forms[0]["additionalProperties"], false);
        assert!(schema["description"].is_string());
    }
}

/// Reads a damaged file and renders its problems in every style.
fn survive(text: &str) {
    let (sources, tree, mut diagnostics) = load_text("damaged", text);
    let file = tree.and_then(|tree| File::read(&tree, FILTERS, &mut diagnostics));
    assert!(file.is_some() || diagnostics.has_errors(), "{text}");
    for problem in diagnostics.list() {
        let Place { start, end, .. } = problem.place;
        assert!(
            text.get(start as usize..end as usize).is_some(),
            "{problem:?}"
        );
    }
    for style in [
        Style::Graphical { colour: false },
        Style::Lines,
        Style::Json,
    ] {
        let rendered = diagnostics.render(&sources, style);
        assert_eq!(
            diagnostics.list().is_empty(),
            rendered.is_empty() || rendered == "[]\n"
        );
    }
}

proptest! {
    #[test]
    fn no_damage_to_a_file_goes_untold_or_panics(
        cuts in proptest::collection::vec((0..WHOLE.len(), 0usize..12), 0..4),
        patches in proptest::collection::vec((0..WHOLE.len(), proptest::sample::select(vec![
            "- ", ": ", "\n", "\n  ", "\t", "[", "]", "{", "}", "'", "\"", "&a ", "*a", "${", "${A:-b}", "#", "!", "|\n",
            "ü", "0", "null", "---\n", ",", "x", "include: [x*, 1]\n", "<<: ", "file:", "$${", "? ", "\r\n",
        ])), 0..6),
    ) {
        let mut text = WHOLE.to_owned();
        for (at, len) in cuts {
            let at = at.min(text.len());
            text.replace_range(at..(at + len).min(text.len()), "");
        }
        for (at, patch) in patches {
            let mut at = at.min(text.len());
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            text.insert_str(at, patch);
        }
        survive(&text);
    }
}
