//! Files before an upstream, against `try_files $uri @app` of nginx. Invariant: a request gets the
//! file at its path if there is one, and everything else reaches the app as it came.

use std::fs;

use super::write_tree;
use crate::support::{
    client::{Request, send},
    front::Front,
    gateway::Gateway,
    nginx::Nginx,
    origins::LetteredOrigin,
};

const REQUESTS: usize = 300;

const FILES: [(&str, &[u8]); 6] = [
    ("index.html", b"start"),
    ("app.js", b"script"),
    ("img/logo.svg", b"<svg/>"),
    ("img/index.html", b"images"),
    ("a b", b"blank"),
    (".well-known/x", b"known"),
];

const PATHS: [&str; 16] = [
    "/",
    "/index.html",
    "/app.js",
    "/app.js/",
    "/app.jsx",
    "/img",
    "/img/",
    "/img/logo.svg",
    "/img/none.svg",
    "/a%20b",
    "/a+b",
    "/.well-known/x",
    "/api/users?x=1",
    "/img/../app.js",
    "/IMG/logo.svg",
    "/%61pp.js",
];

#[tokio::test]
async fn what_is_no_file_goes_to_the_upstream_as_with_nginx() {
    let seed = crate::support::seed::drawn();
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let home = tempfile::tempdir().unwrap();
    let www = home.path().join("www");
    fs::create_dir(&www).unwrap();
    write_tree(&www, &FILES);
    for (tries, index) in [("$uri", "[]"), ("$uri $uri/", "[index.html]")] {
        let origins = [LetteredOrigin::start().await, LetteredOrigin::start().await];
        let folder = tempfile::tempdir().unwrap();
        let nginx = Nginx::start(folder.path(), |address| {
            format!(
                "  include /etc/nginx/mime.types; access_log off;
  server {{
    listen {address}; root {};
    location / {{ try_files {tries} @app; }}
    location @app {{ proxy_pass http://{}; }}
  }}",
                www.display(),
                origins[0].address()
            )
        })
        .await;
        let gateway = Front::to(&origins[1])
            .route(&format!(
                "files: {{ root: {}, index: {index} }}",
                www.display()
            ))
            .start()
            .await;
        let (mut files, mut asked) = (0, 0);
        for _ in 0..REQUESTS {
            let path = *random.choice(&PATHS).unwrap();
            let method = *random
                .choice(&["GET", "GET", "GET", "HEAD", "POST", "PUT"])
                .unwrap();
            // nginx serves the index of a folder without its slash.
            if path == "/img" && tries != "$uri" {
                continue;
            }
            let request = Request::new(method, path);
            let mut seen = Vec::new();
            for (to, origin) in [nginx.address, gateway.address()].into_iter().zip(&origins) {
                let before = origin.counts().requests();
                let response = send(to, &request).await.unwrap();
                let is_asked = origin.counts().requests() > before;
                let text = if is_asked {
                    String::new()
                } else {
                    response.text()
                };
                seen.push((response.status(), is_asked, text));
            }
            if seen[0].0 >= 400 {
                // Pages of errors are each one's own.
                for (.., text) in &mut seen {
                    text.clear();
                }
            }
            assert_eq!(seen[1], seen[0], "{method} {path} {tries}");
            files += usize::from(!seen[0].1);
            asked += usize::from(seen[0].1);
        }
        assert!(
            files > 50 && asked > 50,
            "{files} files, {asked} of the app"
        );
    }
}

#[tokio::test]
async fn the_filters_of_the_route_hold_for_both() {
    let origin = LetteredOrigin::start().await;
    let gateway = Gateway::start_in(
        &Front::to(&origin)
            .route("files: { root: www }, access: { deny: [0.0.0.0/0] }")
            .yaml(),
        |folder| {
            fs::create_dir(folder.join("www")).unwrap();
            write_tree(&folder.join("www"), &FILES);
        },
    )
    .await;
    for path in ["/app.js", "/none", "/APP.js", "/app.js/"] {
        let response = gateway.send(&Request::new("GET", path)).await;
        assert_eq!(response.status(), 403, "{path}");
    }
    assert_eq!(origin.counts().requests(), 0);
}
