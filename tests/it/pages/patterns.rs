//! Requests to the patterns of `docs/patterns.md`, each served as it is on the page, with backends of
//! the test. Another test loads them all.

use std::{collections::BTreeMap, fs};

use serde_json::Value;

use super::read;
use crate::support::{
    client::{Response, get, post},
    gateway::Gateway,
    origins::{EchoOrigin, Origin, echoed},
};

/// Backends as the page writes them, and the origins of the test.
type Origins = BTreeMap<&'static str, Origin<EchoOrigin>>;

/// Returns the YAML below a heading of the page.
fn pattern(heading: &str) -> String {
    let page = read("docs/patterns.md");
    let below = page.split(&format!("\n## {heading}\n")).nth(1);
    let below = below.unwrap_or_else(|| panic!("no pattern `{heading}`"));
    let yaml = below
        .split("```yaml\n")
        .nth(1)
        .and_then(|it| it.split("```").next());
    yaml.expect("it has a configuration").to_owned()
}

/// Serves a pattern, with `files` below its root, and changes for this machine.
async fn served(
    heading: &str,
    files: &[(&str, &str)],
    changes: &[(&str, &str)],
) -> (Gateway, Origins) {
    let mut yaml = pattern(heading);
    let mut origins = Origins::new();
    for written in [
        "127.0.0.1:3000",
        "127.0.0.1:3100",
        "127.0.0.1:5000",
        "127.0.0.1:5001",
    ] {
        let origin = EchoOrigin::start().await;
        yaml = yaml.replace(written, &origin.address().to_string());
        origins.insert(written, origin);
    }
    for (from, to) in changes {
        assert!(yaml.contains(from), "{heading}: `{from}`");
        yaml = yaml.replace(from, to);
    }
    let gateway = Gateway::start_in(&yaml, |folder| {
        for (name, text) in files {
            let file = folder.join(name);
            fs::create_dir_all(file.parent().expect("it is in a folder")).expect("it can be made");
            fs::write(file, text).expect("the folder takes files");
        }
    })
    .await;
    (gateway, origins)
}

/// Returns the target that a backend got, and its port.
fn seen(response: &Response) -> (String, Value) {
    assert_eq!(response.status(), 200, "{}", response.text());
    let seen = response.json();
    (seen["target"].as_str().unwrap_or_default().to_owned(), seen)
}

/// Returns true if the response is of the backend that the page writes so.
fn is_of(seen: &Value, origins: &Origins, written: &str) -> bool {
    seen["port"].as_u64() == Some(origins[written].address().port().into())
}

#[tokio::test]
async fn a_single_page_app_has_its_start_page_everywhere() {
    let files = [
        ("dist/index.html", "start"),
        ("dist/assets/app.3f9a.js", "script"),
    ];
    let root = [("/srv/shop/dist", "dist")];
    let (gateway, origins) = served("A single-page app", &files, &root).await;
    let page = gateway.send(&get("/account/settings")).await;
    assert_eq!((page.status(), page.text().as_str()), (200, "start"));
    assert_eq!(page.header("cache-control"), Some("no-cache"));
    let script = gateway.send(&get("/assets/app.3f9a.js")).await;
    let cached = script.header("cache-control").unwrap_or_default();
    assert!(cached.contains("immutable"), "{cached}");
    assert_eq!(gateway.send(&get("/assets/gone.js")).await.status(), 404);
    let (target, api) = seen(&gateway.send(&get("/api/products")).await);
    assert_eq!(target, "/api/products");
    assert!(is_of(&api, &origins, "127.0.0.1:5000"));
}

#[tokio::test]
async fn a_browser_stays_on_its_instance_of_an_express_app() {
    // The origins of the test have no health page.
    let changes = [("    health: { path: /health }\n", "")];
    let (gateway, _origins) = served("Express with Socket.IO", &[], &changes).await;
    let first = gateway.send(&get("/socket.io/?transport=polling")).await;
    let cookie = first.header("set-cookie").expect("it sets a cookie");
    let cookie = cookie.split(';').next().unwrap_or_default().to_owned();
    let port = seen(&first).1["port"].clone();
    for _ in 0..6 {
        let again = get("/socket.io/?transport=polling").header("cookie", &cookie);
        assert_eq!(seen(&gateway.send(&again).await).1["port"], port);
    }
    let mut statuses = Vec::new();
    for _ in 0..6 {
        statuses.push(gateway.send(&post("/login", "")).await.status());
    }
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429]);
}

#[tokio::test]
async fn only_one_route_takes_uploads() {
    let (gateway, _origins) = served("Uploads", &[], &[]).await;
    let body = vec![b'a'; 2 << 20];
    let taken = gateway.send(&post("/api/upload", body.clone())).await;
    assert_eq!(seen(&taken).1["length"].as_u64(), Some(2 << 20));
    assert_eq!(gateway.send(&post("/api/other", body)).await.status(), 413);
}

#[tokio::test]
async fn the_name_of_a_tenant_is_that_of_its_host() {
    let (gateway, _origins) = served("A tenant for each host", &[], &[]).await;
    let request = get("/a").header("host", "blue.example.com");
    let forged = request.header("x-tenant", "red");
    let (_, app) = seen(&gateway.send(&forged).await);
    assert_eq!(echoed(&app, "x-tenant"), Some("blue"));
    let other = get("/a").header("host", "example.com");
    assert_eq!(gateway.send(&other).await.status(), 421);
}

#[tokio::test]
async fn a_tester_gets_the_canary() {
    let (gateway, origins) = served("A canary", &[], &[]).await;
    let tester = get("/").header("cookie", "tester=yes");
    let (_, next) = seen(&gateway.send(&tester).await);
    assert!(is_of(&next, &origins, "127.0.0.1:3100"));
    // One client always gets the same version.
    let port = seen(&gateway.send(&get("/")).await).1["port"].clone();
    for _ in 0..5 {
        assert_eq!(seen(&gateway.send(&get("/")).await).1["port"], port);
    }
}

#[tokio::test]
async fn two_apps_share_a_host() {
    let (gateway, origins) = served("Two apps under one host", &[], &[]).await;
    for (path, written, target) in [
        ("/cart", "127.0.0.1:3000", "/cart"),
        ("/admin/users", "127.0.0.1:3100", "/admin/users"),
        ("/api/v1?a", "127.0.0.1:5000", "/v1?a"),
        ("/apis", "127.0.0.1:3000", "/apis"),
    ] {
        let (got, app) = seen(&gateway.send(&get(path)).await);
        assert_eq!(got, target);
        assert!(is_of(&app, &origins, written), "{path}");
    }
    let changes = [("127.0.0.0/8, ", "")];
    let (elsewhere, _origins) = served("Two apps under one host", &[], &changes).await;
    for path in ["/admin/users", "/Admin/users", "/admin"] {
        assert_eq!(elsewhere.send(&get(path)).await.status(), 403, "{path}");
    }
}

#[tokio::test]
async fn the_client_behind_a_cdn_is_known() {
    let changes = [("10.0.0.0/8", "127.0.0.0/8")];
    let (gateway, _origins) = served("Behind a CDN", &[], &changes).await;
    let page = get("/").header("accept", "text/html");
    let response = gateway
        .send(&page.header("x-forwarded-for", "192.0.2.7"))
        .await;
    assert_eq!(response.header("cdn-cache-control"), Some("max-age=60"));
    let (_, app) = seen(&response);
    assert_eq!(echoed(&app, "x-real-ip"), Some("192.0.2.7"));
    assert_eq!(gateway.send(&get("/up")).await.text(), "ok");
}
