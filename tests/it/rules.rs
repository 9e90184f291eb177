//! Rules of routes. Invariant: random lists of conditions, rewrites and responses lead a request
//! where nginx leads it with the directives that they stand for, over either protocol, with either
//! driver, and whether or not a plugin, a cache and a profile stand beside them. Besides, what rules,
//! pages of routes and tries of files have beyond that: bounds, and responses of any length.

use std::{fmt::Write as _, fs, time::Duration};

use fastrand::Rng;
use serde_json::Value;

use crate::support::{
    client::{self, Request, Response, get, post},
    gateway::Gateway,
    http2,
    nginx::Nginx,
    origins::{BigOrigin, EchoOrigin, echoed},
    seed,
    wait::wait_for,
};

const HOSTS: usize = 60;
const SEGMENTS: [&str; 7] = ["a", "b", "x", "a%20b", "caf%E9", "1", "22"];

fn one<'a>(list: &[&'a str], random: &mut Rng) -> &'a str {
    list[random.usize(..list.len())]
}

/// Condition in nginx's words, and the keys of a rule.
fn condition(random: &mut Rng) -> (String, String) {
    let (theirs, own) = [
        ("$http_x", "{header.x}"),
        ("$arg_k", "{arg.k}"),
        ("$cookie_c", "{cookie.c}"),
        ("$request_method", "{method}"),
        ("$uri", "{path.decoded}"),
    ][random.usize(..5)];
    let value = one(&["1", "2", "POST", "/a/x"], random);
    match random.u8(..5) {
        0 => (theirs.to_owned(), format!("if: '{own}'")),
        1 => (
            format!("{theirs} != {value}"),
            format!("if: '{own}', is: '{value}', not: true"),
        ),
        2 => (
            format!("{theirs} ~* ^/?[12p]"),
            format!("if: '{own}', is: '~*^/?[12p]'"),
        ),
        3 => (
            format!("{theirs} !~ (?!x)[a2]"),
            format!("if: '{own}', is: '~(?!x)[a2]', not: true"),
        ),
        _ => (
            format!("{theirs} = {value}"),
            format!("if: '{own}', is: '{value}'"),
        ),
    }
}

/// Directive, and the keys of its rule.
fn action(random: &mut Rng) -> (String, String) {
    let regex = one(
        &["^/a/(.*)$", "^/a/(?<id>\\d+)$", "^/(a)/x", "/(b)$"],
        random,
    );
    let id = if regex.contains("id") { "id" } else { "1" };
    let to = one(&["/b/G", "/a/y-G", "/b/z?q=1", "/b/G?q=G?"], random);
    let theirs = to.replace('G', &format!("${id}"));
    let own = to.replace('G', &format!("{{group.{id}}}"));
    match random.u8(..9) {
        0 => ("return 403;".to_owned(), "status: 403".to_owned()),
        1 => (
            "return 302 /moved$request_uri;".to_owned(),
            "status: 302, to: '/moved{uri}'".to_owned(),
        ),
        2 => ("break;".to_owned(), "then: stop".to_owned()),
        3 | 4 => (
            format!("rewrite {regex} {theirs} break;"),
            format!("regex: '{regex}', with: '{own}', then: stop"),
        ),
        5 | 6 => (
            format!("rewrite {regex} {theirs} last;"),
            format!("regex: '{regex}', with: '{own}', then: reroute"),
        ),
        _ => (
            format!("rewrite {regex} {theirs};"),
            format!("regex: '{regex}', with: '{own}', then: later"),
        ),
    }
}

/// Directives of a location, and its rules.
fn rules(random: &mut Rng) -> (String, String) {
    let (mut theirs, mut own) = (String::new(), String::new());
    for _ in 0..random.usize(1..5) {
        let (directive, keys) = action(random);
        let (line, rule) = if directive.starts_with("rewrite") && random.bool() {
            (directive, keys)
        } else {
            let (holds, condition) = condition(random);
            (
                format!("if ({holds}) {{ {directive} }}"),
                format!("{condition}, {keys}"),
            )
        };
        writeln!(theirs, "{line}").expect("a string takes text");
        writeln!(own, "  - {{ {rule} }}").expect("a string takes text");
    }
    (theirs, own)
}

fn drawn(host: &str, random: &mut Rng) -> Request {
    let method = one(&["GET", "GET", "POST"], random);
    let query = one(&["", "", "?k=1", "?k=2&z", "?k="], random);
    let folder = one(&["a", "a", "a", "b"], random);
    let path = format!("/{folder}/{}{query}", one(&SEGMENTS, random));
    let mut request = Request::new(method, &path).header("host", host);
    for (name, value) in [("x", ""), ("cookie", "c=")] {
        let text = one(&["", "1", "2", "p"], random);
        if !text.is_empty() {
            request = request.header(name, format!("{value}{text}"));
        }
    }
    request
}

/// Status, `Location`, and where the request came to.
type Seen = (u16, Option<String>, Option<(Value, String)>);

fn seen(response: &Response) -> Seen {
    let echo = (response.status() == 200).then(|| response.json());
    outcome(response.status(), response.header("location"), echo)
}

fn outcome(status: u16, location: Option<&str>, echo: Option<Value>) -> Seen {
    let came = echo.map(|echo| {
        let by = echoed(&echo, "x-by").unwrap_or_default().to_owned();
        (echo["target"].clone(), by)
    });
    (status, location.map(str::to_owned), came)
}

/// Sends the same request over HTTP/2.
async fn seen_over_http2(client: &http2::Client, host: &str, request: &Request) -> Seen {
    let (method, target, headers) = request.parts();
    let target = format!("http://{host}{target}");
    let mut sent = http::Request::builder().method(method).uri(target);
    for (name, value) in headers.iter().filter(|(name, _)| *name != "host") {
        sent = sent.header(name, value);
    }
    let response = client.send(sent, "").await.expect("the gateway responds");
    let echo = (response.status() == 200).then(|| response.json());
    outcome(response.status(), response.header("location"), echo)
}

/// Keys beside the rules of a gateway: a plugin that changes nothing, a cache, and a profile.
const BESIDE: &str = "
defaults: { plugins: [{ file: nothing.js, on_error: continue }], cache: { ttl: 1min } }
profiles: { peak: { cache: { ttl: 2min } } }
";

#[tokio::test]
async fn requests_go_where_nginx_leads_them() {
    let seed = seed::drawn();
    let mut random = Rng::with_seed(seed);
    let echo = EchoOrigin::start().await;
    let origin = echo.address();
    let (mut servers, mut routes) = (String::new(), String::new());
    let mut shown = Vec::new();
    let pass = |by: &str| format!("proxy_pass http://{origin}; proxy_set_header X-By {by};");
    let route =
        |by: &str| format!("upstream: app, headers: {{ request: {{ set: {{ X-By: {by} }} }} }}");
    for host in 0..HOSTS {
        let (theirs, own) = rules(&mut random);
        writeln!(
            servers,
            "server {{ listen ADDRESS; server_name s{host}.test; absolute_redirect off;
location / {{ return 404; }} location /b/ {{ {} }}
location /a/ {{ {theirs} {} }} }}",
            pass("b"),
            pass("a")
        )
        .expect("a string takes text");
        for (name, rules) in [
            (format!("s{host}.test"), &*own),
            (format!("p{host}.test"), ""),
        ] {
            let rules = match rules {
                "" => String::new(),
                rules => format!("  rules:\n{rules}"),
            };
            let lines = [("/", "respond: 404".to_owned()), ("/b/", route("b"))];
            for (location, keys) in lines {
                writeln!(
                    routes,
                    "- {{ match: {{ host: {name}, location: {location} }}, {keys} }}"
                )
                .expect("a string takes text");
            }
            writeln!(
                routes,
                "- match: {{ host: {name}, location: /a/ }}\n  {}\n{rules}",
                route("a").replacen(", headers", "\n  headers", 1)
            )
            .expect("a string takes text");
        }
        shown.push(format!("{theirs}\n{own}"));
    }
    let folder = tempfile::tempdir().expect("a folder for the test can be made");
    let nginx = Nginx::start(folder.path(), |address| {
        servers.replace("ADDRESS", &address.to_string())
    })
    .await;
    let yaml = format!(
        "listeners: [{{ address: 127.0.0.1:0, http2: {{ cleartext: true }} }}]
upstreams: {{ app: {{ backends: ['{origin}'], health: false }} }}
routes:\n{routes}"
    );
    let gateway = Gateway::start(&yaml).await;
    let beside = Gateway::start_in(&format!("{BESIDE}{yaml}"), |folder| {
        let nothing = "export const onRequest = () => {};\nexport const onResponse = () => {};\n";
        fs::write(folder.join("nothing.js"), nothing).expect("it takes files");
    })
    .await;
    let over_http2 = [
        http2::Client::open(gateway.address()).await,
        http2::Client::open(beside.address()).await,
    ];
    let mut moved = 0;
    let requests = seed::cases(6, 40);
    for (host, shown) in shown.iter().enumerate() {
        for _ in 0..requests {
            let mut same = random.clone();
            let request = drawn(&format!("s{host}.test"), &mut random);
            let theirs = client::send(nginx.address, &request).await;
            let theirs = seen(&theirs.expect("nginx responds"));
            let own = seen(&gateway.send(&request).await);
            assert_eq!(own, theirs, "{}\n{shown}", request.text());
            let own = seen(&beside.send(&request).await);
            assert_eq!(own, theirs, "beside others: {}\n{shown}", request.text());
            for (client, with) in over_http2.iter().zip(["alone", "beside others"]) {
                let own = seen_over_http2(client, &format!("s{host}.test"), &request).await;
                assert_eq!(own, theirs, "HTTP/2, {with}: {}\n{shown}", request.text());
            }
            // The control: without its rules, a route does something else.
            let plain = drawn(&format!("p{host}.test"), &mut same);
            moved += usize::from(seen(&gateway.send(&plain).await) != theirs);
        }
    }
    // Some came from the cache: it tells apart what rules tell apart.
    let all = HOSTS * requests;
    let lines = beside.log_lines(2 * all).await;
    let hits = lines.iter().filter(|line| line["cache"] == "HIT").count();
    assert!(hits > all / 10, "{hits} of {}", lines.len());
    assert!(moved > all / 5, "{moved} of {all} say nothing");
}

#[tokio::test]
async fn another_app_has_what_the_first_one_lacks_at_any_length() {
    let seed = seed::drawn();
    let mut random = Rng::with_seed(seed);
    let new = EchoOrigin::start().await;
    let old = BigOrigin::start().await;
    let yaml = format!(
        "
upstreams:
  new: {{ backends: ['{}'], health: false }}
  old: {{ backends: ['{}'], health: false }}
routes:
- match: {{ location: / }}
  upstream: new
- match: {{ location: /none/ }}
  respond: 404
  error_pages: {{ pages: {{ 404: {{ route: old, own_status: true }} }} }}
- {{ match: {{ named: true }}, name: old, upstream: old }}
",
        new.address(),
        old.address()
    );
    let gateway = Gateway::start(&yaml).await;
    for length in [0, 1, 1 << 20, (1 << 20) + 1, random.u64(1 << 21..1 << 24)] {
        for more in ["", "&chunked=1"] {
            let response = gateway.get(&format!("/none/x?bytes={length}{more}")).await;
            assert_eq!(response.status(), 200, "{length}{more}");
            let got = response.decoded().len() as u64;
            assert_eq!(got, length, "{length}{more}");
        }
    }
    // The body of a request that nothing has refused comes along.
    let response = gateway.send(&post("/none/x", vec![b'x'; 3_000])).await;
    assert_eq!(response.status(), 200);
    let control = gateway.get("/x?bytes=5").await;
    assert_eq!(control.json()["target"], "/x?bytes=5", "the first app");
}

/// The index of a folder chooses the route again with the query of the request, as with nginx.
#[tokio::test]
async fn the_index_of_a_folder_keeps_the_query() {
    let app = EchoOrigin::start().await;
    let yaml = format!(
        "
upstreams: {{ app: {{ backends: ['{}'], health: false }} }}
routes:
- match: {{ location: /plain/ }}
  files: {{ root: site, reroute_index: true }}
- match: {{ location: /tried/ }}
  files:
    {{ root: site, reroute_index: true, try: ['{{path.decoded}}', '{{path.decoded}}/'], otherwise: {{ status: 404 }} }}
- {{ match: {{ location: '~ [.]html$' }}, upstream: app }}
",
        app.address()
    );
    let gateway = Gateway::start_in(&yaml, |folder| {
        for name in ["plain", "tried"] {
            let folder = folder.join("site").join(name);
            fs::create_dir_all(&folder).expect("it takes folders");
            fs::write(folder.join("index.html"), "").expect("it takes files");
        }
    })
    .await;
    for folder in ["plain", "tried"] {
        for query in ["", "?a=1&b", "?a=%2F?"] {
            let response = gateway.get(&format!("/{folder}/{query}")).await;
            let target = format!("/{folder}/index.html{query}");
            assert_eq!(response.json()["target"], target, "{folder} {query}");
        }
    }
}

#[tokio::test]
async fn pages_are_of_paths_that_clients_cannot_ask_for() {
    let gateway = Gateway::start_in(
        "
maps: { closed: { from: closed, exists: '1' } }
routes:
- match: { location: / }
  files: { root: site, try: ['{path.decoded}', '{path.decoded}.html', '{path.decoded}/'], otherwise: { status: 404 } }
  rules: [{ if: '{map.closed}', status: 503 }]
  error_pages: { pages: { 404: { reroute: /errors/404.html }, 503: { reroute: /errors/503.txt } } }
- match: { location: /errors/, internal: true }
  files: { root: site, reroute_index: true }
- match: { location: /loop/ }
  files: { root: site, try: [/none], otherwise: { reroute: /loop/x } }
- match: { location: /out/ }
  files: { root: site }
  rules: [{ regex: '^/out/x(.*)$', with: '/b/{group.1}', then: stop }]
",
        |folder| {
            for (name, text) in [
                ("errors/404.html", "none"),
                ("errors/503.txt", "closed"),
                ("a.html", "a"),
                ("b/index.html", "b"),
                ("b/c", "c"),
            ] {
                let path = folder.join("site").join(name);
                fs::create_dir_all(path.parent().expect("it has one")).expect("it takes folders");
                fs::write(path, text).expect("it takes files");
            }
        },
    )
    .await;
    for (path, status, text) in [
        ("/a", 200, "a"),
        ("/a.html", 200, "a"),
        ("/b/c", 200, "c"),
        ("/b/", 200, "b"),
        ("/none", 404, "none"),
        ("/out/xc", 200, "c"),
    ] {
        let response = gateway.get(path).await;
        let got = (response.status(), response.text());
        assert_eq!(got, (status, text.to_owned()), "{path}");
    }
    let folder = gateway.get("/b?q").await;
    assert_eq!(folder.status(), 301);
    assert_eq!(folder.header("location"), Some("/b/?q"));
    for (path, status) in [
        ("/errors/404.html", 404),
        ("/loop/x", 500),
        // No value leads out of the path that is written.
        ("/out/x../a.html", 400),
    ] {
        assert_eq!(gateway.get(path).await.status(), status, "{path}");
    }
    let line = gateway.log_lines(9).await.into_iter();
    let mut line = { line }.filter(|line| line["path"] == "/loop/x");
    assert_eq!(line.next().expect("one line")["reason"], "route_loop");
    // The file that closes the site is looked at once a second.
    fs::write(gateway.folder().join("closed"), "").expect("it takes files");
    wait_for("the site is closed", Duration::from_secs(20), async || {
        let response = gateway.get("/a").await;
        (response.status() == 503 && response.text() == "closed").then_some(())
    })
    .await;
}

#[tokio::test]
async fn rules_see_the_cookies_of_all_lines() {
    let gateway = Gateway::start(
        "
routes:
- match: { path: /* }
  rules: [{ if: '{header.cookie}', is: '~(^|; )banned=1', status: 403 }]
  respond: ok
",
    )
    .await;
    for (lines, expected) in [
        (&["a=1"][..], 200),
        (&["banned=1"], 403),
        (&["a=1", "banned=1"], 403),
        (&["a=1", "b=2", "banned=10"], 403),
        (&["a=1", "b=banned=1"], 200),
    ] {
        let with = |request: Request, line: &&str| request.header("cookie", *line);
        let request = lines.iter().fold(get("/"), with);
        let response = gateway.send(&request).await;
        assert_eq!(response.status(), expected, "{lines:?}");
    }
}

/// A refusal by a rule has the headers of the route that the rule names, in each spelling of its path.
#[tokio::test]
async fn a_refusal_is_of_the_route_that_its_rule_names() {
    let gateway = Gateway::start(
        "
sites: { shut: { rules: [{ regex: ^/shut/, status: 403, route: named }] } }
routes:
- { match: { path: /* }, site: shut, respond: ok, headers: { response: { set: { X-Of: location } } } }
- { match: { named: true }, name: named, respond: ok, headers: { response: { set: { X-Of: named } } } }
",
    )
    .await;
    for path in ["/shut/x", "/SHUT/x", "/shut%2fx", "/shut;a/x"] {
        let response = gateway.get(path).await;
        assert_eq!(response.status(), 403, "{path}");
        assert_eq!(response.header("x-of"), Some("named"), "{path}");
    }
    assert_eq!(gateway.get("/open").await.header("x-of"), Some("location"));
}

/// Invariant: the rules of a route run whichever way leads to it, as in a location with `@` of nginx.
#[tokio::test]
async fn the_rules_of_a_route_by_name_run_where_a_rule_leads_to_it() {
    let gateway = Gateway::start(
        "
routes:
- { match: { path: /a/* }, respond: first, rules: [{ if: '{query.n}', route: one }] }
- { match: { named: true }, name: one, respond: one,
    rules: [{ if: '{query.n}', is: '2', route: two }, { if: '{query.n}', is: '3', status: 403 }] }
- { match: { named: true }, name: two, respond: two, rules: [{ if: '{query.back}', route: one }] }
",
    )
    .await;
    for (target, status, body) in [
        ("/a/", 200, "first"),
        ("/a/?n=1", 200, "one"),
        ("/a/?n=2", 200, "two"),
        ("/a/?n=3", 403, ""),
        ("/a/?n=2&back=1", 500, ""),
    ] {
        let response = gateway.send(&get(target)).await;
        assert_eq!(response.status(), status, "{target}");
        assert!(
            response.text().starts_with(body),
            "{target}: {}",
            response.text()
        );
    }
    // Lines of two workers may change places.
    let lines = gateway.log_lines(5).await;
    let circles = lines.iter().filter(|line| line["reason"] == "route_loop");
    assert_eq!(circles.count(), 1, "{lines:?}");
}

#[tokio::test]
async fn a_circle_of_rules_ends_without_the_page_of_its_error() {
    let gateway = Gateway::start(
        "
defaults:
  error_pages: { pages: { 404: { reroute: /page }, 500: { reroute: /page } } }
routes:
- { match: { path: /page }, respond: { body: the page } }
- match: { path: /loop/* }
  rules: [{ regex: ^/loop/, with: /loop/again, then: reroute }]
  respond: 404
- { match: { path: /* }, respond: 404 }
",
    )
    .await;
    for _ in 0..2 {
        let response = gateway.get("/loop/x").await;
        assert_eq!(response.status(), 500);
        assert!(!response.text().contains("the page"), "{}", response.text());
    }
    // The control: the same page of another error.
    assert_eq!(gateway.get("/none").await.text(), "the page");
    let lines = gateway.log_lines(3).await;
    let circles = lines.iter().filter(|line| line["reason"] == "route_loop");
    assert_eq!(circles.count(), 2);
}

#[tokio::test]
async fn pages_by_rules_keep_the_status_of_their_error() {
    let gateway = Gateway::start(
        "
routes:
- match: { location: / }
  respond: 404
  error_pages: { pages: { 404: { route: page }, 410: { route: page, status: 200 } } }
- { match: { location: = /gone }, respond: 410, error_pages: { pages: { 410: { route: page, status: 200 } } } }
- { match: { location: = /ok }, respond: 404, rules: [{ status: 200, body: fine }] }
- { match: { named: true }, name: page, respond: 404, rules: [{ status: 200, body: 'page of {status}' }] }
",
    )
    .await;
    for (path, condition, status) in [
        ("/none", "", 404),
        // Nobody has the page of an error.
        ("/none", "*", 404),
        ("/gone", "", 200),
        ("/gone", "*", 304),
        ("/ok", "", 200),
        ("/ok", "*", 304),
    ] {
        let mut request = Request::new("GET", path);
        if !condition.is_empty() {
            request = request.header("if-none-match", condition);
        }
        let response = gateway.send(&request).await;
        assert_eq!(response.status(), status, "{path} {condition}");
    }
}

#[tokio::test]
async fn a_location_that_redirects_by_a_rule_guards_no_other_spelling() {
    let echo = EchoOrigin::start().await;
    let gateway = Gateway::start(&format!(
        "
upstreams: {{ app: {{ backends: ['{}'], health: false }} }}
routes:
- {{ match: {{ location: = /admin }}, respond: 404, body_limit: 1KiB, rules: [{{ status: 301, to: /admin/ }}] }}
- {{ match: {{ location: = /closed }}, respond: 404, rules: [{{ status: 403 }}] }}
- {{ match: {{ location: / }}, upstream: app }}
",
        echo.address()
    ))
    .await;
    for (path, status) in [
        ("/admin", 301),
        ("/admin/", 200),
        ("/ADMIN", 200),
        ("/closed", 403),
        ("/closed/", 403),
        ("/CLOSED", 403),
        ("/other", 200),
    ] {
        assert_eq!(gateway.get(path).await.status(), status, "{path}");
    }
}

/// A script in a page, a second parameter of a query, another host: a value is none of them.
#[tokio::test]
async fn no_value_of_a_client_ends_what_stands_around_it() {
    let origin = EchoOrigin::start().await;
    let gateway = Gateway::start(&format!(
        "
upstreams: {{ app: {{ backends: ['{}'], health: false }} }}
routes:
- match: {{ location: /page/ }}
  respond: 404
  rules:
  - {{ if: '{{path.decoded}}', is: '~^/page/(.*)$', status: 200,
      body: '<p>{{group.1}} {{query.a}} {{header.x-b}}</p>', content_type: text/html }}
- match: {{ location: /json }}
  respond: 404
  rules: [{{ status: 200, body: '{{\"id\":\"{{query.a}}\"}}', content_type: application/json }}]
- match: {{ location: /text }}
  respond: 404
  rules: [{{ status: 200, body: '{{query.a}}' }}]
- match: {{ location: /typed }}
  respond: 404
  rules: [{{ status: 200, body: text, content_type: '*' }}]
- match: {{ location: /item }}
  upstream: app
  rules: [{{ regex: '^/item', with: '/show?role=user&id={{query.id}}?', then: stop }}]
- match: {{ location: /go }}
  respond: 404
  rules: [{{ status: 302, to: '/{{query.next}}' }}]
- match: {{ location: /error }}
  respond: 404
  error_pages: {{ pages: {{ 404: {{ body: '<p>{{query.a}}</p>', content_type: 'text/html' }} }} }}
",
        origin.address()
    ))
    .await;
    let read = async |target: &str| {
        let asked = client::get(target)
            .header("x-b", "<b>")
            .header("accept", "text/html");
        gateway.send(&asked).await
    };
    let page = read("/page/%3Cscript%3E?a=%22%26").await.text();
    assert_eq!(page, "<p>&lt;script&gt; &quot;&amp; &lt;b&gt;</p>");
    let page = read("/error?a=%3Ci%3E").await.text();
    assert_eq!(page, "<p>&lt;i&gt;</p>");
    let json = read("/json?a=%22,%22role%22:%22admin%5C").await.json();
    assert_eq!(json, serde_json::json!({ "id": "\",\"role\":\"admin\\" }));
    let shown = read("/item?id=5%26role=admin%2B").await.json();
    assert_eq!(shown["target"], "/show?role=user&id=5%26role%3Dadmin%2B");
    for next in ["%5Cevil.test", "/evil.test", "%5C/evil.test", "evil.test"] {
        let response = read(&format!("/go?next={next}")).await;
        let location = response.header("location").unwrap_or_default();
        let base = url::Url::parse("http://shop.test/go").expect("a URL");
        let led = base.join(location).expect("a URL");
        assert_eq!(led.host_str(), Some("shop.test"), "{next}: {location}");
    }
    for (target, expected) in [
        ("/typed/a.CSS?x=.html", "text/css"),
        ("/typed.json/a", "application/octet-stream"),
    ] {
        let response = read(target).await;
        let kind = response.header("content-type").unwrap_or_default();
        assert_eq!(kind.split(';').next(), Some(expected), "{target}");
    }
    // The control: a text without markup has the value as it is.
    assert_eq!(read("/text?a=%3Ci%3E").await.text(), "<i>");
}
