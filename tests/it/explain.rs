//! `edgeway explain`, over the example of routes.

use std::{fs, path::Path};

use serde_json::Value;

use crate::{
    cli::{BROKEN, EX_CONFIG, ROUTES, edgeway, snapshot},
    support::{
        client::{Request, get, post},
        fleet,
        front::Front,
        gateway::Gateway,
        origins::NumberedOrigin,
        seed,
    },
};

/// Returns the output of `explain` for each request.
fn explained(format: &str) -> String {
    let mut all = Vec::new();
    for request in [
        "GET http://shop.example.com/",
        "GET http://shop.example.com/products/42",
        "GET http://shop.example.com/api/v1/health",
        "PUT http://shop.example.com/api/carts/7?full=1",
        "GET http://shop.example.com/2024/./x/../may?page=2",
        "GET http://a.b.preview.example.com/_next/static/app.js",
        "GET http://www.example.com/a%20b?c=d",
        "POST http://shop.example.com/checkout/pay",
        "GET http://shop.example.com/checkout/pay -H Cookie:beta=1",
        "GET http://shop.example.com/search?format=json",
        "GET http://shop.example.com/wallet/",
        "GET /nobody",
    ] {
        let mut arguments = vec!["explain", "-c", ROUTES, "--format", format];
        arguments.extend(request.split(' '));
        let ran = edgeway(&arguments);
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{request}");
        all.push(format!("$ edgeway explain {request}\n{}\n", ran.stdout));
    }
    all.concat()
}

#[test]
fn explain_names_the_route_and_the_reason() {
    // The filters are the same each time: once is enough.
    let all = explained("text");
    let mut seen = false;
    let mut is_filter = false;
    let lines = all.lines().filter(|line| {
        if !line.starts_with(' ') {
            is_filter = line.starts_with("filters ");
        }
        let is_shown = !is_filter || !seen;
        seen |= line.starts_with("considered ");
        is_shown
    });
    snapshot!("explain", lines.collect::<Vec<_>>().join("\n"));
}

#[test]
fn explain_runs_the_rules_of_the_listener_that_the_url_reaches() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("edgeway.yaml");
    let text = "listeners:
- { address: 127.0.0.1:8080, name: plain }
- { address: 127.0.0.1:8081, name: other }
sites:
  www: { rules: [{ regex: ^/moved/(.*)$, with: '/{group.1}' }] }
routes:
- { match: { path: /site/* }, name: of-site, site: www, respond: ok }
- { match: { path: /moved/* }, name: of-moved, site: www, respond: ok }
- { match: { path: /*, listener: other }, name: of-other, respond: ok }
- match: { path: /* }
  name: of-plain
  rules:
  - { if: '{path}', is: '~^/old/(.*)$', to: '/new/{group.1}', status: 301 }
  - { regex: ^/p/(.*)$, with: '/products/{group.1}', then: stop }
  - { regex: ^/again/(.*)$, with: '/{group.1}', then: reroute }
  - { if: '{query.a}', is: '~evil', status: 403 }
  respond: ok
";
    std::fs::write(&file, text).expect("it takes files");
    let file = file.display().to_string();
    for (url, route, action) in [
        ("/x", "of-plain", "no rule applies: respond 200"),
        ("http://a.test:8080/x", "of-plain", "no rule applies"),
        ("http://a.test:8081/old/x", "of-other", "respond 200"),
        (
            "http://a.test/old/x",
            "of-plain",
            "a rule redirects: 301 to",
        ),
        ("/old/x", "of-plain", "/new/x"),
        (
            "/p/12",
            "of-plain",
            "a rule makes it /products/12: respond 200",
        ),
        ("/again/b", "of-plain", "a rule makes it /b, which chooses"),
        ("/x?a=evil", "of-plain", "a rule responds 403"),
        ("/site/a", "of-site", "no rule applies: respond 200"),
        ("/moved/a", "of-moved", "a rule makes it /a, which chooses"),
    ] {
        let ran = edgeway(&["explain", "-c", &file, "GET", url]);
        assert_eq!((ran.status, &*ran.stderr), (0, ""), "{url}");
        let is_named = ran.stdout.contains(route) && ran.stdout.contains(action);
        assert!(is_named, "{url}: {route}, {action}\n{}", ran.stdout);
    }
}

#[test]
fn explain_prints_the_same_as_json() {
    let all = explained("json");
    for response in all.split("$ edgeway explain ").skip(1) {
        let (request, json) = response.split_once('\n').expect("the response follows");
        let response: Value = serde_json::from_str(json).expect("it is JSON");
        assert!(response["route"].is_string(), "{request}: {response}");
        let considered = response["considered"].as_array().expect("it is a list");
        assert_eq!(considered.len(), 17, "{request}: every route is judged");
    }
    let first = all.split("\n\n").next().expect("there is a first");
    snapshot!("explain_json", first);
}

#[test]
fn requests_that_cannot_be_explained_are_reported_on_stderr() {
    for (request, why) in [
        (
            ["GET", "ftp://x/"],
            "`ftp://x/` is neither a path nor an http URL",
        ),
        (["GET", "/a%00"], "this request gets 400"),
        (["G T", "/"], "invalid method `G T`"),
    ] {
        let [method, url] = request;
        let ran = edgeway(&["explain", "-c", ROUTES, method, url]);
        assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{request:?}");
        assert!(ran.stderr.contains(why), "{}", ran.stderr);
    }
    let ran = edgeway(&["explain", "-c", ROUTES, "--listener", "none", "GET", "/"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (2, ""));
    assert!(ran.stderr.contains("no listener `none`"), "{}", ran.stderr);
    let ran = edgeway(&["explain", "-c", BROKEN, "GET", "/"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (EX_CONFIG, ""));
    assert!(ran.stderr.contains("3 errors"), "{}", ran.stderr);
}

/// The checks are those of the edge, on the request as it would be sent.
#[test]
fn a_request_that_the_edge_refuses_names_its_check() {
    let long = format!("x-long: {}", "a".repeat(40_000));
    let address = format!("/{}", "a".repeat(9_000));
    for (url, headers, refusal) in [
        (
            "/",
            &["Host: a b"][..],
            "400 `bad_host`: The Host header is",
        ),
        (
            "/",
            &["host: a.test", "Host: b.test"],
            "400 `bad_host`: There is more",
        ),
        ("http://a_b@c/", &[], "400 `bad_host`"),
        ("/a\"b", &[], "400 `bad_path`: The address has a character"),
        (
            "/",
            &["content-length: 1", "transfer-encoding: chunked"],
            "400 `bad_framing`: There is both",
        ),
        (
            "/",
            &["content-length: 1", "content-length: 1"],
            "400 `bad_framing`",
        ),
        ("/", &["transfer-encoding: gzip"], "501 `bad_framing`"),
        ("/", &["x-a : b"], "400 `bad_header`: There is a space"),
        ("/", &["expect: tea"], "417 `expectation`"),
        ("/", &[&*long], "431 `long_head`"),
        (&*address, &[], "414 `long_line`"),
    ] {
        let mut arguments = vec!["explain", "-c", ROUTES, "POST", url];
        arguments.extend(headers.iter().flat_map(|header| ["-H", header]));
        let ran = edgeway(&arguments);
        assert_eq!((ran.status, &*ran.stdout), (2, ""), "{refusal}");
        let expected = format!("this request gets {refusal}");
        assert!(ran.stderr.contains(&expected), "{refusal}: {}", ran.stderr);
    }
    // The control: odd, and sound.
    let odd = ["-H", "content-length: 1", "-H", "expect: 100-continue"];
    let ran = edgeway(&[&["explain", "-c", ROUTES, "POST", "/"][..], &odd].concat());
    assert_eq!(ran.status, 0, "{}", ran.stderr);
}

#[test]
fn explain_distinguishes_a_path_without_a_route_from_a_host_without_one() {
    let dir = tempfile::tempdir().expect("a folder for the test can be made");
    let file = dir.path().join("edgeway.yaml");
    let yaml = "listeners: [{ address: '127.0.0.1:0' }]\nroutes:\n  - match: { host: a.test, path: /here }\n    respond: ok\n";
    std::fs::write(&file, yaml).expect("the folder takes files");
    let file = file.to_str().expect("the folder's name is text");
    for (url, line) in [
        ("http://a.test/elsewhere", "none: 404"),
        ("http://b.test/here", "none: 421, no route is for this host"),
    ] {
        let ran = edgeway(&["explain", "-c", file, "GET", url]);
        let found = ran
            .stdout
            .lines()
            .find_map(|text| text.strip_prefix("route"));
        assert_eq!(
            found.map(str::trim),
            Some(line),
            "{url}\n{}{}",
            ran.stdout,
            ran.stderr
        );
    }
}

const CACHED: &str = "\
listeners: [{ address: '127.0.0.1:0' }]
upstreams:
  web: { backends: ['127.0.0.1:3000'], app: nextjs }
  api: { backends: ['127.0.0.1:5000'] }
routes:
  - { name: pages, match: { path: /* }, upstream: web, cache: {} }
  - name: products
    match: { path: '/products/{id}' }
    upstream: api
    cache:
      ttl: 5min
      stale_if_error: 1h
      browser_ttl: 10s
      tags: [products, 'product:{id}']
      key: { ignore_query: [utm_*], by: ['cookie:lang'] }
      bypass: ['cookie:session']
  - match: { path: '/o/*' }
    upstream: api
    cache: {}
    rules: [{ regex: '^/o/old(.*)$', with: '/o/new{group.1}' }]
  - { match: { path: /me }, upstream: api, cache: {}, forward_auth: { url: 'http://127.0.0.1:9000/' } }
";

#[test]
fn explain_shows_the_cache_key() {
    let dir = tempfile::tempdir().expect("a folder for the test can be made");
    let file = dir.path().join("edgeway.yaml");
    std::fs::write(&file, CACHED).expect("the folder takes files");
    let file = file.to_str().expect("the folder's name is text");
    let mut all = Vec::new();
    for request in [
        "GET https://a.test/products/7?utm_source=x&b=1",
        "GET https://a.test/products/7 -H Cookie:lang=de",
        "GET https://a.test/products/7 -H Cookie:session=1",
        "POST https://a.test/products/7",
        "GET https://a.test/ -H RSC:1",
        "GET https://a.test/ -H Cookie:__prerender_bypass=1",
        "GET https://a.test/ -H Cookie:id=1",
        "GET https://a.test/_next/static/a.js -H If-Match:*",
        "GET https://a.test/o/old1",
        "GET https://a.test/me",
    ] {
        let mut arguments = vec!["explain", "-c", file];
        arguments.extend(request.split(' '));
        let ran = edgeway(&arguments);
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{request}");
        let lines = ran.stdout.lines();
        let lines = lines.skip_while(|line| !line.starts_with("cache "));
        let lines = lines.take_while(|line| !line.starts_with("considered "));
        let lines: Vec<_> = lines.map(str::to_owned).collect();
        let printed = lines.join("\n");
        all.push(format!("$ edgeway explain {request}\n{printed}\n\n"));
    }
    snapshot!("explain_cache", all.concat());
}

#[tokio::test]
async fn explain_shows_what_the_running_gateway_has_stored() {
    let origin = NumberedOrigin::start().await;
    let response_headers = [("cache-control", "max-age=60"), ("vary", "x-kind")];
    origin.settings().tell("/a", 200, &response_headers);
    let gateway = Front::to(&origin)
        .route("name: app, cache: { tags: [all] }")
        .start()
        .await;
    let url = format!("http://{}/a", gateway.address());
    let explain = async |headers: &[&str]| {
        let question = serde_json::json!({ "method": "GET", "url": url, "headers": headers });
        let asked =
            post("/v1/explain", question.to_string()).header("content-type", "application/json");
        let response = gateway.send_admin(&asked).await;
        assert_eq!(response.status(), 200, "{}", response.text());
        let response: Value = serde_json::from_str(&response.text()).expect("it is JSON");
        response["cache"]["now"].clone()
    };
    let now = explain(&[]).await;
    assert_eq!(
        (&now["outcome"], &now["entry"]),
        (&"MISS".into(), &Value::Null)
    );
    gateway.get("/a").await;
    gateway.send(&get("/a").header("x-kind", "b")).await;
    gateway.get("/a").await;
    let now = explain(&[]).await;
    assert_eq!(
        (&now["outcome"], &now["variants"]),
        (&"HIT".into(), &2.into())
    );
    let entry = &now["entry"];
    // The query does not count as a hit.
    assert_eq!(entry["hits"], explain(&[]).await["entry"]["hits"]);
    assert_eq!(entry["status"], 200);
    assert_eq!(entry["bytes"], 5);
    assert_eq!(entry["vary"], serde_json::json!(["x-kind"]));
    assert_eq!(entry["tags"], serde_json::json!(["all"]));
    assert!(
        entry["ttl"]
            .as_i64()
            .is_some_and(|ttl| (50..=60).contains(&ttl))
    );
    let now = explain(&["X-Kind: c"]).await;
    let why = now["why"].as_str().unwrap_or_default();
    assert!(why.starts_with("vary-miss"), "{now}");
    // The client's directives are ignored.
    let now = explain(&["Cache-Control: no-cache"]).await;
    assert_eq!(now["outcome"], "HIT");

    let admin = gateway.admin_socket().to_owned();
    let url = url.clone();
    let ran = tokio::task::spawn_blocking(move || {
        edgeway(&["explain", "--live", "--socket", &admin, "GET", &url])
    });
    let ran = ran.await.expect("it ends");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let has = |line: &str| ran.stdout.lines().any(|it| it.starts_with(line));
    assert!(has("now         HIT"), "{}", ran.stdout);
    assert!(has("entry       200, "), "{}", ran.stdout);
    assert!(ran.stdout.contains(", 1 hit, "), "{}", ran.stdout);
}

#[test]
fn explain_has_what_the_gateway_refuses_or_redirects() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("edgeway.yaml");
    let text = "listeners:
- { address: 127.0.0.1:8080, name: plain, redirect: https }
- { address: 127.0.0.1:8443, name: other }
routes:
- { match: { path: /*, header: { X-A: b } }, name: by-header, respond: ok }
- { match: { path: /access }, name: access, access: { allow: [192.0.2.0/24] }, respond: ok }
- { match: { path: /methods }, name: methods, methods: [GET], respond: ok }
- { match: { path: /csrf }, name: csrf, csrf: {}, respond: ok }
- { match: { path: /cors }, name: cors, cors: { origins: ['https://a.test'] }, respond: ok }
- { match: { path: /limit }, name: limit, body_limit: 1KB, respond: ok }
- { match: { path: /* }, name: rest, respond: ok }
";
    std::fs::write(&file, text).expect("it takes files");
    let file = file.display().to_string();
    for (request, expected) in [
        ("GET /rest", "refuses"),
        (
            "GET http://a.test:8080/rest",
            "action      redirect 308 to HTTPS",
        ),
        ("GET /rest -H X-A:b", "route       by-header"),
        ("GET /rest -H X-A:b -H Connection:x-a", "route       rest"),
        ("GET /access", "refuses this request: 403 access"),
        ("PUT /methods", "refuses this request: 405 method"),
        (
            "POST /csrf -H Sec-Fetch-Site:cross-site",
            "refuses this request: 403 csrf",
        ),
        (
            "OPTIONS /cors -H Origin:https://a.test -H Access-Control-Request-Method:PUT",
            "responds to this request: 204",
        ),
        (
            "POST /limit -H Content-Length:9000",
            "refuses this request: 413 body_limit",
        ),
    ] {
        let other = ["--listener", "other"];
        let listener = if request.contains("8080") {
            &[][..]
        } else {
            &other[..]
        };
        let words: Vec<&str> = request.split(' ').collect();
        let ran = edgeway(&[&["explain", "-c", &file], listener, &words].concat());
        assert_eq!((ran.status, &*ran.stderr), (0, ""), "{request}");
        let is_there = ran.stdout.contains(expected);
        assert_eq!(is_there, expected != "refuses", "{request}\n{}", ran.stdout);
    }
}

#[tokio::test]
async fn explain_agrees_with_the_cache_and_the_bans_of_the_running_gateway() {
    let origin = NumberedOrigin::start().await;
    origin
        .settings()
        .tell("/a", 200, &[("cache-control", "max-age=60")]);
    let cache = "cache: { bypass_if: ['{header.x-new}'] }";
    let gateway = Front::to(&origin).route(cache).start().await;
    gateway.get("/a").await;
    let url = |path: &str| format!("http://{}{path}", gateway.address());
    let explain = async |method: &str, path: &str, headers: &[&str], client: &str| {
        let question = serde_json::json!({
            "method": method, "url": url(path), "headers": headers, "client": client,
        });
        let asked =
            post("/v1/explain", question.to_string()).header("content-type", "application/json");
        gateway.send_admin(&asked).await.json()
    };
    for (method, path, header, served) in [
        ("GET", "/a", "x-none: 1", "HIT"),
        ("GET", "/a", "x-new: 1", "BYPASS"),
        ("HEAD", "/b", "x-none: 1", "BYPASS"),
        ("GET", "/c", "range: bytes=0-1", "BYPASS"),
        ("GET", "/d", "cache-control: only-if-cached", "MISS"),
    ] {
        let explained = explain(method, path, &[header], "127.0.0.1").await;
        let now = &explained["cache"]["now"];
        assert_eq!(now["outcome"], served, "{method} {path} {header}: {now}");
        let (name, value) = header.split_once(": ").expect("it has both");
        let request = Request::new(method, path).header(name, value);
        let response = gateway.send(&request).await;
        assert_eq!(
            response.header("x-cache-status"),
            Some(served),
            "{method} {path} {header}"
        );
    }
    let banned = edgeway(&["ban", "192.0.2.7", "--socket", gateway.admin_socket()]);
    assert_eq!(banned.status, 0, "{}", banned.stderr);
    for (client, is_banned) in [("192.0.2.7", true), ("192.0.2.8", false)] {
        let action = explain("GET", "/a", &[], client).await["action"].to_string();
        assert_eq!(
            action.contains("403 banned"),
            is_banned,
            "{client}: {action}"
        );
    }
}

#[tokio::test]
async fn explain_has_what_other_routes_refuse_that_guard_the_request() {
    let origin = NumberedOrigin::start().await;
    let own = "name: app }, { match: { path: /own/* }, name: own, respond: ok, access: { deny: [127.0.0.0/8] }";
    let gateway = Front::to(&origin).route(own).start().await;
    for (path, status, note) in [
        ("/OWN/a", 403, "refuses this request: 403 access"),
        ("/other", 200, ""),
    ] {
        let arguments = ["explain", "--live", "GET", path];
        let explained = fleet::edgeway(&gateway, &arguments).await.stdout;
        let refusal = explained.find("refuses this request");
        let found = refusal.map_or("", |at| &explained[at..at + note.len()]);
        assert_eq!(found, note, "{explained}");
        assert_eq!(gateway.get(path).await.status(), status, "{path}");
    }
}

/// Invariant: an explanation has no credential of the request that it explains, as a text, as JSON and
/// from the running gateway. The control: the rest of the URL is in it.
#[tokio::test]
async fn no_explanation_has_a_credential() {
    let yaml = "
listeners: [{ address: 127.0.0.1:0 }]
upstreams: { web: { backends: ['127.0.0.1:1'], health: false } }
rate_limits: { a: { rate: 5/s, key: 'query:token' }, b: { rate: 5/s, key: 'header:x-api-key' } }
routes:
  - { match: { path: /moved/* }, redirect: { to: '/new{path}?{query}' } }
  - match: { path: /rewritten/* }
    upstream: web
    rewrite: { prefix: /rewritten, with: / }
  - { match: { path: /partner }, respond: ok, jwt: { keys: file:own.key, token: { query: partner } } }
  - match: { path: /* }
    upstream: web
    rate_limit: [a, b]
    access_log: { redact: [token, '=own_word', signature, access_key, password] }
    cache:
      ttl: 1min
      key: { by: [cookie:session, header:x-api-key], values: ['{cookie.session}', '{arg.token}'] }
";
    let key = "thirty-two bytes, or some more of them";
    let prepare = |folder: &Path| fs::write(folder.join("own.key"), key).expect("it takes files");
    let gateway = Gateway::start_in(yaml, prepare).await;
    let file = gateway.folder().join("edgeway.yaml");
    let file = file.to_str().expect("it is text");
    let live = [
        "--live",
        "--socket",
        gateway.admin_socket(),
        "--format=text",
    ];
    let mut draw = fastrand::Rng::with_seed(seed::drawn());
    for _ in 0..seed::cases(20, 200) {
        let secret: String = std::iter::repeat_with(|| draw.alphanumeric())
            .take(12)
            .collect();
        let names = [
            "token",
            "signature",
            "own_word",
            "user[password]",
            "X-Amz-Signature",
            "access%5fkey",
        ];
        let (name, page) = (names[draw.usize(..names.len())], draw.u16(..));
        let query = format!("page={page}&{name}={secret}&to=https%3A%2F%2Fu%3A{secret}%40h%2F");
        let url = match draw.u8(..6) {
            0 => format!("/a?{query}"),
            1 => format!("http://a.test/b/../a?{query}"),
            2 => format!("/rewritten/a?token={secret}&page={page}"),
            3 => format!("/moved/a?page={page}&password={secret}"),
            4 => format!("/partner?page={page}&partner={secret}"),
            _ => format!("ftp://page={page}/?{query}"),
        };
        let headers = [
            "Cookie: theme=dark; session=",
            "X-Api-Key: ",
            "Authorization: Bearer ",
        ];
        let headers = headers.map(|start| format!("{start}{secret}"));
        let mut shown = String::new();
        for more in [
            ["-c", file, "--format", "text"],
            ["-c", file, "--format", "json"],
            live,
        ] {
            let mut arguments = vec!["explain", "GET", &url];
            arguments.extend(headers.iter().flat_map(|header| ["-H", header]));
            arguments.extend(more);
            let ran = edgeway(&arguments);
            shown.push_str(&(ran.stdout + &ran.stderr));
        }
        assert!(!shown.contains(&secret), "{url}: {shown}");
        assert!(
            shown.matches(&format!("page={page}")).count() >= 3,
            "{url}: {shown}"
        );
    }
}
