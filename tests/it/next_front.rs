//! The gateway in front of the real Next.js app.
//!
//! Each test has its control: the same request to the app itself, or with the feature off, has the
//! other outcome.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;

use crate::support::{
    apps::{App, LanguagesApp, NextApp},
    client::{self, Connection, Request, get, post},
    gateway::Gateway,
    origins::EchoOrigin,
};

/// Host that visitors of the gateway use.
const SHOP: &str = "shop.test";

async fn front(app: &App) -> Gateway {
    front_with(app, "").await
}

/// Starts a gateway with more sections, or with more keys of the route if they are indented.
async fn front_with(app: &App, more: &str) -> Gateway {
    Gateway::start(&config(&app.address().to_string(), more)).await
}

pub(crate) fn config(backend: &str, more: &str) -> String {
    format!(
        "
upstreams:
  web:
    app: nextjs
    backends: [\"{backend}\"]
    health: {{ path: /api/health }}
routes:
  - match: {{ path: /* }}
    upstream: web
{more}"
    )
}

pub(crate) fn visit(target: &str) -> Request {
    get(target).header("host", SHOP)
}

#[tokio::test]
async fn pages_and_files_arrive_as_the_app_sends_them() {
    let app = NextApp::shared().await;
    let gateway = front(app).await;
    for target in [
        "/",
        "/isr",
        "/secret",
        "/nowhere",
        "/old",
        "/notes.txt",
        "/picture",
    ] {
        let own = app.send(&visit(target)).await;
        let response = gateway.send(&visit(target)).await;
        assert_eq!(response.status(), own.status(), "{target}");
        assert_eq!(response.body, own.body, "{target}");
        for name in [
            "content-type",
            "cache-control",
            "etag",
            "location",
            "last-modified",
        ] {
            assert_eq!(
                response.header(name),
                own.header(name),
                "{name} of {target}"
            );
        }
        for member in ["rsc", "next-router-state-tree"] {
            let varies = |vary: Option<&str>| vary.is_some_and(|v| v.contains(member));
            assert_eq!(
                varies(response.header("vary")),
                varies(own.header("vary")),
                "Vary of {target}"
            );
        }
    }
    // The control: a path that no route takes does not reach the app.
    let elsewhere = format!(
        "upstreams: {{ web: {{ backends: [\"{}\"] }} }}\nroutes: [{{ match: {{ path: /isr }}, upstream: web }}]\n",
        app.address()
    );
    let narrow = Gateway::start(&elsewhere).await;
    assert_eq!(narrow.get("/isr").await.status(), 200);
    assert_eq!(narrow.get("/notes.txt").await.status(), 404);
    assert_eq!(app.get("/notes.txt").await.status(), 200);
}

#[tokio::test]
async fn an_isr_page_is_made_again_after_its_time() {
    let app = NextApp::shared().await;
    let gateway = front(app).await;
    let made = async || {
        let page = gateway.get("/isr-quick").await;
        assert_eq!(
            page.header("cache-control"),
            Some("s-maxage=2, stale-while-revalidate=31535998")
        );
        made_at(&page.text())
    };
    let first = made().await;
    let limit = Duration::from_secs(8);
    crate::support::wait::wait_for("the page was made again", limit, async || {
        (made().await != first).then_some(())
    })
    .await;
    // The control: a page with a lifetime of a minute stays the same meanwhile.
    let long = made_at(&gateway.get("/isr").await.text());
    assert_eq!(made_at(&gateway.get("/isr").await.text()), long);
}

fn made_at(page: &str) -> String {
    let (_, rest) = page
        .split_once("made:")
        .expect("the page says when it was made");
    rest.chars().take_while(char::is_ascii_digit).collect()
}

#[tokio::test]
async fn a_dynamic_page_sees_each_visitor_and_the_public_host() {
    let app = NextApp::shared().await;
    let gateway = front(app).await;
    let page = |user: &str| visit("/dynamic").header("cookie", format!("user={user}"));
    for user in ["alice", "bob"] {
        let text = gateway.send(&page(user)).await.text();
        assert!(text.contains(&format!("user:{user}")), "{text}");
        assert!(text.contains(&format!("host={SHOP}")), "{text}");
        assert!(text.contains(&format!("x-forwarded-host={SHOP}")), "{text}");
        assert!(text.contains("x-forwarded-proto=http"), "{text}");
    }
    assert!(
        gateway
            .send(&visit("/dynamic"))
            .await
            .text()
            .contains("user:nobody")
    );
}

#[tokio::test]
async fn forwarding_headers_of_a_client_are_replaced_unless_it_is_trusted() {
    let app = NextApp::shared().await;
    let forged = visit("/api/echo")
        .header("x-forwarded-for", "203.0.113.9")
        .header("x-forwarded-host", "evil.test")
        .header("x-forwarded-proto", "https")
        .header("x-real-ip", "203.0.113.9")
        .header("forwarded", "for=203.0.113.9;host=evil.test");
    let seen = async |more: &str| -> Value {
        let gateway = front_with(app, more).await;
        gateway.send(&forged).await.json()["headers"].take()
    };

    let headers = seen("").await;
    assert_eq!(headers["x-forwarded-host"], SHOP);
    assert_eq!(headers["x-forwarded-proto"], "http");
    assert_eq!(headers["x-real-ip"], "127.0.0.1");
    assert_eq!(headers["forwarded"], Value::Null);
    assert!(
        !headers["x-forwarded-for"]
            .to_string()
            .contains("203.0.113.9"),
        "{headers}"
    );

    // The control: the same client is trusted as a trusted proxy.
    let headers = seen("trusted_proxies: [127.0.0.1/32]\n").await;
    assert_eq!(headers["x-forwarded-host"], "evil.test");
    assert_eq!(headers["x-forwarded-proto"], "https");
    assert_eq!(headers["x-real-ip"], "203.0.113.9");
}

/// Builds a call of the server action, as the router in a browser sends it.
async fn action(app: &App, origin: &str, forwarded_host: &str) -> Request {
    let page = app.get("/action").await.text();
    let (_, rest) = page
        .split_once("$ACTION_ID_")
        .expect("the form carries the action's id");
    let id: String = rest.chars().take_while(char::is_ascii_hexdigit).collect();
    post("/action", "[\"Ada\"]")
        .header("host", SHOP)
        .header("origin", origin)
        .header("x-forwarded-host", forwarded_host)
        .header("next-action", id)
        .header("accept", "text/x-component")
        .header("content-type", "text/plain;charset=UTF-8")
}

#[tokio::test]
async fn a_server_action_works_whatever_forwarded_host_a_client_forges() {
    let app = NextApp::shared().await;
    let gateway = front(app).await;
    let call = action(app, "http://shop.test", "evil.test").await;
    let response = gateway.send(&call).await;
    assert_eq!(response.status(), 200, "{}", response.text());
    assert!(
        response.text().contains("greeted:Ada"),
        "{}",
        response.text()
    );
    assert_eq!(response.header("content-type"), Some("text/x-component"));
    // The control: the app by itself trusts the forged host and refuses its own form.
    assert_eq!(app.send(&call).await.status(), 500);
}

#[tokio::test]
async fn a_foreign_form_cannot_pose_as_the_apps_own() {
    let app = NextApp::shared().await;
    let gateway = front(app).await;
    let call = action(app, "https://evil.test", "evil.test").await;
    let response = gateway.send(&call).await;
    assert_eq!(response.status(), 500);
    assert!(!response.text().contains("greeted"), "{}", response.text());
    // The control: the app by itself lets the same call through.
    let own = app.send(&call).await;
    assert_eq!(own.status(), 200);
    assert!(own.text().contains("greeted:Ada"));
}

/// Invariant: Next.js runs an action at any path, so a call passes the guards of a page that has it,
/// unless an open page has it too.
#[tokio::test]
async fn a_server_action_leads_around_no_guard_of_its_page() {
    let app = NextApp::shared().await;
    let build = app.kind().build();
    let manifest = build.join("server/server-reference-manifest.json");
    let manifest = std::fs::read(manifest).expect("the build has it");
    let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    let actions = manifest["node"].as_object().expect("the actions");
    let call = |path: &str, name: &str, arguments: &'static str| {
        let mut all = actions.iter();
        let found = all.find(|(_, action)| action["exportedName"] == name);
        post(path, arguments)
            .header("host", SHOP)
            .header("next-action", found.expect("an action").0.as_str())
            .header("content-type", "text/plain;charset=UTF-8")
    };
    let guarded = "  - { match: { path: [/action, /action/*] }, upstream: web, \
        access: { deny: [127.0.0.0/8] } }\n";
    let open = config(&app.address().to_string(), guarded);
    let folder = format!("app: nextjs\n    folder: {}", build.display());
    let known = open.replace("app: nextjs", &folder);
    let (open, known) = tokio::join!(Gateway::start(&open), Gateway::start(&known));
    for path in ["/", "/isr", "/nowhere"] {
        let greet = call(path, "greet", "[\"Ada\"]");
        assert_eq!(known.send(&greet).await.status(), 403, "{path}");
        // The control: Next.js runs it there.
        let response = open.send(&greet).await;
        assert!(response.text().contains("greeted:Ada"), "{path}");
    }
    // `/form` has this one as well.
    for path in ["/form", "/"] {
        let again = call(path, "greetAgain", "[null, \"Ada\"]");
        let response = known.send(&again).await;
        assert!(response.text().contains("greeted:Ada"), "{path}");
    }
    let response = known
        .send(&call("/action", "greetAgain", "[null, 1]"))
        .await;
    assert_eq!(response.status(), 403, "the page itself");
    let response = known.send(&call("/", "change", "[\"/nowhere\"]")).await;
    assert_eq!(response.status(), 200, "an open page has it");
}

/// Invariant: a page passes its guards in each language that the app has it in.
#[tokio::test]
async fn no_language_leads_around_a_guard_of_its_page() {
    for base in ["", "/site"] {
        let app = LanguagesApp::start(base).await;
        let build = app.kind().build();
        let id = std::fs::read_to_string(build.join("BUILD_ID")).expect("the build has one");
        let guarded = format!(
            "  - {{ match: {{ path: [{base}/now, {base}/de/other] }}, upstream: web, \
             access: {{ deny: [127.0.0.0/8] }} }}\n"
        );
        let open = config(&app.address().to_string(), &guarded);
        let open = open.replace("health: { path: /api/health }", "health: false");
        let folder = format!("app: nextjs\n    folder: {}", build.display());
        let known = open.replace("app: nextjs", &folder);
        let (open, known) = tokio::join!(Gateway::start(&open), Gateway::start(&known));
        let data = format!("/_next/data/{}", id.trim());
        for (host, path, is_guarded) in [
            (SHOP, "/de/now".to_owned(), true),
            (SHOP, "/EN/now".to_owned(), true),
            (SHOP, format!("{data}/de/now.json"), true),
            ("laden.test", "/other".to_owned(), true),
            (SHOP, "/ended/now".to_owned(), true),
            (SHOP, "/DE/Begun/now".to_owned(), true),
            (SHOP, format!("{data}/de/begun/now.json"), true),
            (SHOP, "/other".to_owned(), false),
            (SHOP, "/begun/other".to_owned(), false),
            (SHOP, "/fr/other".to_owned(), false),
        ] {
            let visit = get(&format!("{base}{path}")).header("host", host);
            let status = if is_guarded { 403 } else { 200 };
            assert_eq!(known.send(&visit).await.status(), status, "{base}{path}");
            // The control: the app has it there.
            assert_eq!(open.send(&visit).await.status(), 200, "{base}{path}");
        }
    }
}

/// Invariant: a page within another one passes the guards of that one too: the app runs the layout.
#[tokio::test]
async fn no_page_within_another_one_leads_around_the_guard_of_that() {
    let app = NextApp::shared().await;
    let guarded =
        "  - { match: { path: /feed }, upstream: web, access: { deny: [127.0.0.0/8] } }\n";
    let open = config(&app.address().to_string(), guarded);
    let folder = format!("app: nextjs\n    folder: {}", app.kind().build().display());
    let known = open.replace("app: nextjs", &folder);
    let (open, known) = tokio::join!(Gateway::start(&open), Gateway::start(&known));
    for (from, is_within) in [
        ("", false),
        ("/", false),
        ("/feed", true),
        ("/feed/any", true),
    ] {
        let visit = visit("/shot/1").header("next-url", from);
        let (own, response) = (open.send(&visit).await, known.send(&visit).await);
        // The control: the app runs the layout.
        assert_eq!(own.text().contains("layout:feed"), is_within, "{from}");
        let status = if is_within { 403 } else { 200 };
        assert_eq!(response.status(), status, "{from}");
    }
}

#[tokio::test]
async fn an_action_body_over_a_megabyte_is_refused_before_the_app() {
    let origin = EchoOrigin::start().await;
    let backend = origin.address().to_string();
    let call = |bytes| {
        post("/action", "")
            .filler(bytes)
            .header("host", SHOP)
            .header("next-action", "00")
    };
    let no_health = config(&backend, "").replace("health: { path: /api/health }", "health: false");
    let gateway = Gateway::start(&no_health).await;
    assert_eq!(gateway.send(&call(2 << 20)).await.status(), 413);
    assert_eq!(origin.counts().requests(), 0);
    // The control: a body below the limit arrives complete.
    assert_eq!(gateway.send(&call(900_000)).await.json()["length"], 900_000);
    assert_eq!(origin.counts().requests(), 1);
}

#[tokio::test]
async fn images_come_in_the_format_that_was_asked_for() {
    let app = NextApp::shared().await;
    let gateway = front(app).await;
    let image = "/_next/image?url=%2Fpicture.png&w=64&q=75";
    for (accept, kind) in [("image/webp", "image/webp"), ("image/png", "image/png")] {
        let request = visit(image).header("accept", accept);
        let own = app.send(&request).await;
        let response = gateway.send(&request).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.header("content-type"), Some(kind));
        assert_eq!(response.body, own.body);
        assert_eq!(response.header("etag"), own.header("etag"));
        assert_eq!(response.header("content-encoding"), None);
        assert_eq!(
            response.header("content-disposition"),
            own.header("content-disposition")
        );
    }
    // A width that the app does not list is refused.
    let unlisted = gateway
        .get("/_next/image?url=%2Fpicture.png&w=65&q=75")
        .await;
    assert_eq!(unlisted.status(), 400);
}

#[tokio::test]
async fn redirects_to_the_apps_own_authority_lead_to_the_public_one() {
    let app = NextApp::shared().await;
    let gateway = front(app).await;
    let location = async |to: &str| {
        let response = gateway
            .send(&visit(&format!("/api/redirect?to={to}")))
            .await;
        assert_eq!(response.status(), 307);
        response.header("location").map(str::to_owned)
    };
    let public = format!("http://{SHOP}/login?from=redirect");
    assert_eq!(location("localhost").await.as_ref(), Some(&public));
    assert_eq!(location("loopback").await.as_ref(), Some(&public));
    assert_eq!(
        location("relative").await.as_deref(),
        Some("/login?from=redirect")
    );
    let foreign = format!("http://accounts.test:{}/login", app.port());
    assert_eq!(location("foreign").await, Some(foreign));

    // The control: the app by itself sends visitors to its own port.
    let own = app.send(&visit("/api/redirect?to=localhost")).await;
    let port = format!("http://localhost:{}/login?from=redirect", app.port());
    assert_eq!(own.header("location"), Some(port.as_str()));

    // And a guard's redirect ends on the public host, whether it names it or not.
    let guarded = gateway.send(&visit("/secret")).await;
    assert_eq!(guarded.status(), 307);
    let to = guarded.header("location").unwrap();
    assert!(
        to == "/login" || to == format!("http://{SHOP}/login"),
        "{to}"
    );
}

/// Headers that Next.js uses internally. From a client they are forged.
const INTERNAL: [&str; 14] = [
    "x-middleware-subrequest",
    "x-middleware-rewrite",
    "x-middleware-prefetch",
    "x-middleware-anything",
    "x-invoke-path",
    "x-invoke-status",
    "x-matched-path",
    "x-now-route-matches",
    "x-nextjs-rewritten-path",
    "x-prerender-revalidate",
    "x-next-revalidated-tags",
    "next-resume",
    "x-vercel-id",
    "x-nextjs-data",
];

/// Headers by which the router in a browser talks to Next.js.
const ROUTER: [&str; 6] = [
    "rsc",
    "next-router-state-tree",
    "next-router-prefetch",
    "next-url",
    "next-action",
    "x-deployment-id",
];

#[tokio::test]
async fn internal_headers_never_reach_an_origin_and_router_headers_do() {
    let origin = EchoOrigin::start().await;
    let config = config(&origin.address().to_string(), "")
        .replace("health: { path: /api/health }", "health: false");
    let mut request = visit("/page?nxtPslug=1&a=1&nxtIslug=2&b=2&__nextDataReq=1");
    for name in INTERNAL.iter().chain(&ROUTER) {
        request = request.header(name, "middleware:middleware");
    }
    let arrived = async |address: SocketAddr| {
        let echo = client::send(address, &request).await.unwrap().json();
        let names: Vec<String> = echo["headers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|pair| pair[0].as_str().unwrap().to_ascii_lowercase())
            .collect();
        (names, echo["target"].as_str().unwrap().to_owned())
    };

    let gateway = Gateway::start(&config).await;
    let (names, target) = arrived(gateway.address()).await;
    for name in INTERNAL {
        assert!(
            !names.iter().any(|n| n == name),
            "{name} reached the origin"
        );
    }
    for name in ROUTER {
        assert!(names.iter().any(|n| n == name), "{name} was lost");
    }
    assert_eq!(target, "/page?a=1&b=2");

    // The control: sent directly to the origin, all of them arrive.
    let (names, target) = arrived(origin.address()).await;
    for name in INTERNAL {
        assert!(names.iter().any(|n| n == name), "{name}");
    }
    assert!(target.contains("nxtPslug=1"), "{target}");
}

#[tokio::test]
async fn the_app_never_sees_a_forged_subrequest() {
    let app = NextApp::shared().await;
    let gateway = front(app).await;
    let forged = visit("/api/echo").header("x-middleware-subrequest", "middleware:middleware");
    let seen = gateway.send(&forged).await.json();
    assert_eq!(seen["headers"]["x-middleware-subrequest"], Value::Null);
    // The control: sent directly to the app, it arrives.
    let own = app.send(&forged).await.json();
    assert_eq!(
        own["headers"]["x-middleware-subrequest"],
        "middleware:middleware"
    );
}

#[tokio::test]
async fn responses_do_not_reveal_the_framework() {
    let app = NextApp::shared().await;
    let gateway = front(app).await;
    let response = gateway.get("/isr").await;
    assert_eq!(response.header("x-powered-by"), None);
    // The browser's router reads such headers.
    assert!(response.header("x-nextjs-cache").is_some());
    // The control.
    assert_eq!(
        app.get("/isr").await.header("x-powered-by"),
        Some("Next.js")
    );
}

#[tokio::test]
async fn long_headers_pass_up_to_the_limit_of_the_app() {
    let app = NextApp::shared().await;
    let gateway = front(app).await;
    let with_cookies =
        |bytes: usize| visit("/api/hello").header("cookie", format!("a={}", "x".repeat(bytes)));
    assert_eq!(gateway.send(&with_cookies(14_000)).await.status(), 200);

    // A request that the app would refuse gets the right status from the gateway and from the app.
    assert_eq!(gateway.send(&with_cookies(17_000)).await.status(), 431);
    assert_eq!(app.send(&with_cookies(17_000)).await.status(), 431);

    let response = gateway.get("/api/headers?bytes=60000").await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.header("x-long-14").map(str::len), Some(4000));
}

#[tokio::test]
async fn an_upgrade_on_a_page_is_refused_before_the_app() {
    let origin = EchoOrigin::start().await;
    let config = config(&origin.address().to_string(), "")
        .replace("health: { path: /api/health }", "health: false");
    let gateway = Gateway::start(&config).await;
    let upgrade = visit("/dynamic")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    let response = gateway.send(&upgrade).await;
    assert!(
        [400, 403, 426].contains(&response.status()),
        "{}",
        response.status()
    );
    assert_eq!(origin.counts().requests(), 0);
    // The control: without the upgrade the same request arrives.
    assert_eq!(gateway.send(&visit("/dynamic")).await.status(), 200);
    assert_eq!(origin.counts().requests(), 1);
}

#[tokio::test]
async fn a_keep_alive_connection_serves_page_after_page() {
    let app = NextApp::shared().await;
    let gateway = front(app).await;
    let mut connection = Connection::open(gateway.address()).await.unwrap();
    for turn in 0..20 {
        let target = ["/", "/api/hello", "/isr", "/dynamic"][turn % 4];
        assert_eq!(connection.send(&visit(target)).await.unwrap().status(), 200);
    }
    assert_eq!(gateway.log_lines(20).await.len(), 20);
    let counted = gateway
        .count("edgeway_http_requests_total{status=\"200\"}")
        .await;
    assert_eq!(counted, 20);
    // The control: a gateway without an app behind it reports that, in its log and metrics too.
    let port = crate::support::ports::free_port();
    let alone = Gateway::start(&config_without_health(port)).await;
    let refused = client::send(alone.address(), &visit("/")).await.unwrap();
    assert!(
        [502, 503].contains(&refused.status()),
        "{}",
        refused.status()
    );
    assert_eq!(
        alone
            .count("edgeway_http_requests_total{status=\"200\"}")
            .await,
        0
    );
}

fn config_without_health(port: u16) -> String {
    config(&format!("127.0.0.1:{port}"), "")
        .replace("health: { path: /api/health }", "health: false")
}
