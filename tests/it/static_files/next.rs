//! Files of a real Next.js app, served by the gateway as the app would serve them.

use std::{fs, path::Path};

use serde_json::json;
use tempfile::TempDir;

use crate::support::{
    apps::{App, Kind, NextApp},
    client::{Request, Response, get, post},
    front::Front,
    gateway::Gateway,
    origins::{Origin, PresetOrigin},
};

async fn front(app: &App, kind: Kind, route: &str) -> Gateway {
    Front::to(app)
        .upstream(&format!(
            "app: nextjs, folder: {}, static_files: true",
            kind.build().display()
        ))
        .route(&format!("name: web, compression: false{route}"))
        .start()
        .await
}

/// Returns some paths of the build's output, and all of `public/`.
fn paths(kind: Kind) -> Vec<String> {
    let below = |folder: &str, prefix: &str| -> Vec<String> {
        let entries = fs::read_dir(kind.folder().join(folder)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let files = names.filter(|name| kind.folder().join(folder).join(name).is_file());
        files.map(|name| format!("{prefix}{name}")).collect()
    };
    let mut all = below(".next/static/chunks", "/_next/static/chunks/");
    all.truncate(12);
    all.extend(below("public", "/"));
    all
}

/// Returns the properties that must be those of the app.
fn of(response: &Response) -> Vec<Option<String>> {
    let names = [
        "cache-control",
        "content-length",
        "accept-ranges",
        "last-modified",
        "content-range",
        "location",
    ];
    let mut all: Vec<Option<String>> = names
        .iter()
        .map(|name| response.header(name).map(str::to_owned))
        .collect();
    let content_type = response.header("content-type").unwrap_or_default();
    let content_type = content_type.to_ascii_lowercase();
    // RFC 9239: both are JavaScript.
    all.push(Some(
        content_type.replace("application/javascript", "text/javascript"),
    ));
    all
}

/// Number of requests that reached the app.
async fn forwarded(gateway: &Gateway) -> u64 {
    gateway.count("edgeway_upstream_requests_total").await
}

#[tokio::test]
async fn files_are_served_as_the_app_serves_them() {
    let app = NextApp::start_without_proxy().await;
    let gateway = front(&app, Kind::NextBare, "").await;
    let mut served = 0;
    for path in paths(Kind::NextBare) {
        for request in [
            get(&path),
            get(&format!("{path}?v=1")),
            Request::new("HEAD", &path),
            get(&path).header("range", "bytes=0-9"),
        ] {
            let (own, apps) = (gateway.send(&request).await, app.send(&request).await);
            assert_eq!(own.status(), apps.status(), "{request:?}");
            assert_eq!(of(&own), of(&apps), "{request:?}");
            assert_eq!(own.body, apps.body, "{request:?}");
            served += 1;
        }
    }
    assert!(served >= 40, "{served}");
    assert_eq!(forwarded(&gateway).await, 0);
    // All of these are the app's.
    for path in [
        "/_next/static/chunks/none.js",
        "/_next/static/",
        "/_next/static/..%2f..%2fBUILD_ID",
        "/_next/BUILD_ID",
        "/old",
        "/isr",
        "/favicon.ico/",
        "/FAVICON.ICO",
        "/picture.png%00",
    ] {
        let (own, apps) = (gateway.get(path).await, app.get(path).await);
        if own.status() != 400 {
            assert_eq!(own.status(), apps.status(), "{path}");
        }
    }
    let post = Request::new("POST", "/favicon.ico").body("x");
    assert_eq!(
        gateway.send(&post).await.status(),
        app.send(&post).await.status()
    );
    assert!(forwarded(&gateway).await >= 6);
}

#[tokio::test]
async fn a_file_that_the_middleware_runs_for_is_the_apps() {
    let (gateway, origin, folder) = with_build(&json!({ "basePath": "" }), |next| {
        let matchers = json!([
            { "regexp": "^/guarded\\.txt$" },
            { "regexp": "^/_next/static/chunks(?:/.*)?$" },
        ]);
        let functions = json!({ "functions": { "/_middleware": { "matchers": matchers } } });
        let manifest = next.join("server/functions-config-manifest.json");
        fs::write(manifest, functions.to_string()).unwrap();
    })
    .await;
    for (path, is_apps) in [
        ("/guarded.txt", true),
        ("/guarded%2Etxt", true),
        ("/_next/static/chunks/a.js", true),
        ("/plain.txt", false),
    ] {
        origin.settings().tell(path, 203, Vec::new());
        origin.settings().tell("/guarded.txt", 203, Vec::new());
        let response = gateway.get(path).await;
        assert_eq!(
            response.status() == 203,
            is_apps,
            "{path}: {}",
            response.text()
        );
    }
    drop(folder);
}

#[tokio::test]
async fn a_path_that_the_operator_guards_is_the_apps() {
    let keys = ", guarded: [/guarded.txt, /docs/*]";
    let (gateway, origin, _folder) = with_build_and(&json!({ "basePath": "" }), keys, |_| ()).await;
    for (path, is_apps) in [
        ("/guarded.txt", true),
        ("/docs/own.txt", true),
        ("/docs/own%2Etxt", true),
        ("/plain.txt", false),
    ] {
        for path in [path, "/docs/own.txt", "/guarded.txt"] {
            origin.settings().tell(path, 203, Vec::new());
        }
        let response = gateway.get(path).await;
        let body = response.text();
        assert_eq!(response.status() == 203, is_apps, "{path}: {body}");
    }
}

/// Starts a gateway before an origin, with a build that has these routes.
async fn with_build(
    routes: &serde_json::Value,
    prepare: impl FnOnce(&Path),
) -> (Gateway, Origin<PresetOrigin>, TempDir) {
    with_build_and(routes, "", prepare).await
}

/// Starts the same with more keys of the upstream.
async fn with_build_and(
    routes: &serde_json::Value,
    keys: &str,
    prepare: impl FnOnce(&Path),
) -> (Gateway, Origin<PresetOrigin>, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let next = folder.path().join(".next");
    fs::create_dir_all(next.join("static/chunks")).unwrap();
    fs::create_dir_all(next.join("server")).unwrap();
    fs::create_dir_all(folder.path().join("public/docs")).unwrap();
    fs::write(next.join("BUILD_ID"), "one").unwrap();
    fs::write(next.join("static/chunks/a.js"), "static").unwrap();
    for name in [
        "plain.txt",
        "moved.txt",
        "docs/own.txt",
        "rewritten.txt",
        "a b.txt",
        "guarded.txt",
    ] {
        fs::write(folder.path().join("public").join(name), "public").unwrap();
    }
    fs::write(next.join("routes-manifest.json"), routes.to_string()).unwrap();
    prepare(&next);
    let origin = PresetOrigin::start().await;
    let gateway = Front::to(&origin)
        .upstream(&format!(
            "app: nextjs, folder: {}, static_files: true, health: false{keys}",
            next.display()
        ))
        .start()
        .await;
    (gateway, origin, folder)
}

#[tokio::test]
async fn a_rule_of_the_configuration_comes_before_the_file() {
    let routes = json!({
        "basePath": "/base",
        "headers": [{ "source": "/docs/:p*", "regex": "^/base/docs(?:/.*)?$" }],
        "redirects": [{ "source": "/moved.txt", "regex": "^/base/moved\\.txt$" }],
        "rewrites": {
            "beforeFiles": [{ "source": "/rewritten.txt", "regex": "^/base/rewritten\\.txt$" }],
            "afterFiles": [{ "source": "/plain.txt", "regex": "^/base/plain\\.txt$" }],
        },
    });
    let (gateway, origin, _folder) = with_build(&routes, |_| ()).await;
    for (path, body) in [
        ("/base/plain.txt", Some("public")),
        ("/base/a%20b.txt", Some("public")),
        ("/base/_next/static/chunks/a.js", Some("static")),
        ("/base/docs/own.txt", None),
        ("/base/DOCS/own.txt", None),
        ("/base/moved.txt", None),
        ("/base/MOVED.txt", None),
        ("/base/rewritten.txt", None),
        ("/plain.txt", None),
        ("/_next/static/chunks/a.js", None),
        ("/base/none.txt", None),
    ] {
        origin.settings().tell(path, 203, Vec::new());
        let response = gateway.get(path).await;
        match body {
            Some(body) => assert_eq!(
                (response.status(), &*response.text()),
                (200, body),
                "{path}"
            ),
            None => assert_eq!(response.status(), 203, "{path}: {}", response.text()),
        }
        let url = format!("http://{}{path}", gateway.address());
        let asked = post(
            "/v1/explain",
            json!({ "method": "GET", "url": url }).to_string(),
        );
        let asked = asked.header("content-type", "application/json");
        let explained = gateway.send_admin(&asked).await.text();
        assert_eq!(
            explained.contains("\"action\":\"file "),
            body.is_some(),
            "{path}: {explained}"
        );
    }
}
