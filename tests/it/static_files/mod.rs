//! Static files: the `files` of a route, `X-Accel-Redirect`, and files of a Next.js app.
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::format_push_string,
    reason = "helpers of tests: what goes wrong here fails the test, and says so"
)]

mod accel;
mod before_upstream;
mod beside;
mod large;
mod next;
mod nginx;
mod sendfile;
mod traversal;

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use crate::support::{
    client::{Request, get},
    gateway::Gateway,
    http2,
    wait::wait_for,
};

/// Writes files below `folder`, modified at a time that has passed.
fn write_tree(folder: &Path, files: &[(&str, &[u8])]) {
    for (path, content) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        age(&path);
    }
}

fn age(path: &Path) {
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(then).unwrap();
}

/// Starts a gateway that serves `files` at every path, with more keys of the section and the route.
async fn front(keys: &str, route: &str, files: &[(&str, &[u8])]) -> Gateway {
    let yaml = format!(
        "
listeners: [{{ address: \"127.0.0.1:0\", name: web, http2: {{ cleartext: true }} }}]
defaults: {{ compression: false }}
routes:
  - name: files
    match: {{ path: /* }}
    files: {{ root: www, recheck: 0s{keys} }}
{route}"
    );
    Gateway::start_in(&yaml, |folder| {
        fs::create_dir(folder.join("www")).unwrap();
        write_tree(&folder.join("www"), files);
    })
    .await
}

#[tokio::test]
async fn files_of_a_folder_are_served() {
    let files: &[(&str, &[u8])] = &[
        ("index.html", b"<h1>home</h1>"),
        ("a/index.html", b"<h1>a</h1>"),
        ("app.js", b"let a;"),
        (".env", b"SECRET"),
        (".well-known/x", b"known"),
        ("empty", b""),
    ];
    let gateway = front("", "", files).await;
    for (path, status, body) in [
        ("/", 200, Some("<h1>home</h1>")),
        ("/a/", 200, Some("<h1>a</h1>")),
        ("/app.js?v=1", 200, Some("let a;")),
        ("/.well-known/x", 200, Some("known")),
        ("/empty", 200, Some("")),
        ("/a", 301, None),
        ("/.env", 404, None),
        ("/b", 404, None),
        ("/app.js/", 404, None),
    ] {
        let response = gateway.get(path).await;
        assert_eq!(response.status(), status, "{path}");
        if let Some(body) = body {
            assert_eq!(response.text(), body, "{path}");
            assert_eq!(response.header("accept-ranges"), Some("bytes"));
            assert!(
                response
                    .header("etag")
                    .is_some_and(|tag| tag.starts_with('"'))
            );
            let head = gateway.send(&Request::new("HEAD", path)).await;
            assert_eq!((head.status(), head.body.len()), (200, 0), "{path}");
            for name in ["content-length", "etag", "last-modified", "content-type"] {
                assert_eq!(head.header(name), response.header(name), "{path} {name}");
            }
        }
    }
    let home = gateway.get("/").await;
    assert_eq!(
        home.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert_eq!(home.header("cache-control"), None);
    let moved = gateway.get("/a?x=1").await;
    assert_eq!(moved.header("location"), Some("/a/?x=1"));
    let post = gateway
        .send(&Request::new("POST", "/app.js").body("x"))
        .await;
    assert_eq!(
        (post.status(), post.header("allow")),
        (405, Some("GET, HEAD"))
    );
    let range = gateway
        .send(&get("/app.js").header("range", "bytes=9-"))
        .await;
    assert_eq!(
        (range.status(), range.header("content-range")),
        (416, Some("bytes */6"))
    );
}

#[tokio::test]
async fn http2_gets_the_same_files() {
    let large = vec![b'x'; 300_000];
    let files: &[(&str, &[u8])] = &[("small", b"small"), ("large", &large)];
    let gateway = front("", "", files).await;
    for (path, body) in [("/small", &b"small"[..]), ("/large", &large)] {
        for _ in 0..3 {
            assert_eq!(gateway.get(path).await.body, body);
        }
        let mut connection = gateway.connect().await;
        for _ in 0..3 {
            assert_eq!(connection.send(&get(path)).await.unwrap().body, body);
        }
        let range = get(path).header("range", "bytes=1-3");
        let response = connection.send(&range).await.unwrap();
        assert_eq!((response.status(), &response.body[..]), (206, &body[1..4]));
        let other = http2::Client::open(gateway.address()).await;
        let response = other.get(path).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.body, body);
    }
}

#[tokio::test]
async fn filters_apply_to_files() {
    let page = "<p>text</p>".repeat(1000);
    let files: &[(&str, &[u8])] = &[("secret/a", b"secret"), ("page.html", page.as_bytes())];
    let route = "    compression: { encodings: [gzip] }
  - name: secret
    match: { path: /secret/* }
    files: www
    access: { deny: [127.0.0.1] }
";
    let gateway = front("", route, files).await;
    for path in [
        "/secret/a",
        "/secret%2Fa",
        "/s%65cret/a",
        "//secret//a",
        "/SECRET/a",
    ] {
        let response = gateway.get(path).await;
        assert_ne!(response.text(), "secret", "{path}");
    }
    assert_eq!(gateway.get("/secret/a").await.status(), 403);
    let gzip = get("/page.html").header("accept-encoding", "gzip");
    let response = gateway.send(&gzip).await;
    assert_eq!(response.header("content-encoding"), Some("gzip"));
    assert_eq!(response.decoded(), page.as_bytes());
    let tag = response.header("etag").unwrap();
    assert!(tag.starts_with("W/\""), "{tag}");
    let again = gateway.send(&gzip.header("if-none-match", tag)).await;
    assert_eq!(again.status(), 304);
    assert_eq!(again.header("vary"), Some("Accept-Encoding"));
    let lines = gateway.log_lines(8).await;
    let line = lines.iter().find(|line| line["status"] == 304).unwrap();
    assert_eq!(line["route"], "files");
    let compressed = "edgeway_http_files_total{route=\"files\",part=\"not_modified\"}";
    gateway.counts(compressed, 1).await;
}

#[tokio::test]
async fn two_spellings_of_one_file_have_the_same_guard() {
    let files: &[(&str, &[u8])] = &[("a+b!/x", b"secret"), ("plain", b"plain")];
    let route = "
  - name: guarded
    match: { path: '/a+b!/*' }
    files: { root: www }
    access: { deny: [127.0.0.1] }
";
    let gateway = front("", route, files).await;
    for path in [
        "/a+b!/x",
        "/a%2Bb!/x",
        "/a+b%21/x",
        "/a%2bb%21/x",
        "/./a+b!//x",
    ] {
        let response = gateway.get(path).await;
        assert_eq!(response.status(), 403, "{path}: {}", response.text());
    }
    assert_eq!(gateway.get("/plain").await.text(), "plain");
}

#[tokio::test]
async fn options_of_the_section_do_what_they_say() {
    let files: &[(&str, &[u8])] = &[
        ("index.html", b"app"),
        ("404.html", b"gone"),
        ("assets/a.js", b"plain"),
        ("assets/a.js.br", b"not really br"),
        ("notes.md", b"# notes"),
    ];
    let keys = ", fallback: /index.html, immutable: /assets/*, max_age: 1m, precompressed: true, \
                types: { md: text/markdown }, not_found: /404.html";
    let gateway = front(keys, "", files).await;
    let asset = gateway.get("/assets/a.js").await;
    let policy = asset.header("cache-control");
    assert_eq!(policy, Some("public, max-age=31536000, immutable"));
    assert_eq!(asset.header("vary"), Some("Accept-Encoding"));
    assert_eq!(asset.header("content-encoding"), None);
    let notes = gateway.get("/notes.md").await;
    assert_eq!(notes.header("content-type"), Some("text/markdown"));
    assert_eq!(notes.header("cache-control"), Some("public, max-age=60"));
    let page = gateway.get("/orders/7").await;
    assert_eq!((page.status(), page.text()), (200, "app".to_owned()));
    let missing = gateway.get("/assets/old.js").await;
    assert_eq!((missing.status(), missing.text()), (404, "gone".to_owned()));
    assert_eq!(missing.header("cache-control"), None);
}

#[tokio::test]
async fn a_rewrite_applies_before_the_lookup() {
    let yaml = "
routes:
  - match: { path: /static/* }
    files: www
    rewrite: { prefix: /static, with: / }
";
    let gateway = Gateway::start_in(yaml, |folder| {
        write_tree(
            &folder.join("www"),
            &[("a/b", b"found"), ("a/index.html", b"index")],
        );
    })
    .await;
    assert_eq!(gateway.get("/static/a/b").await.text(), "found");
    let moved = gateway.get("/static/a").await;
    assert_eq!(moved.header("location"), Some("/static/a/"));
    assert_eq!(gateway.get("/static/a/").await.text(), "index");
}

/// Invariant: the page of `fallback` or `not_found` is in place of a file only where none of the
/// paths of `try` has one.
#[tokio::test]
async fn a_page_comes_after_all_paths_of_try() {
    let files = "root: www, immutable: /assets/*, try: ['{path.decoded}', '{path.decoded}.html', '{path.decoded}/']";
    let of_next = files.replace("decoded}/'", "decoded}/index.html'");
    let yaml = format!(
        "
routes:
  - match: {{ path: /* }}
    files: {{ {files}, not_found: /404.html }}
  - match: {{ path: /next/* }}
    files: {{ {of_next}, not_found: /404.html }}
    rewrite: {{ prefix: /next, with: / }}
  - match: {{ path: /app/* }}
    files: {{ {files}, fallback: /index.html }}
    rewrite: {{ prefix: /app, with: / }}
"
    );
    let gateway = Gateway::start_in(&yaml, |folder| {
        let pages: [(&str, &[u8]); 5] = [
            ("index.html", b"home"),
            ("about.html", b"about"),
            // As an export of Next.js has it.
            ("about/__next._tree.txt", b"segment"),
            ("docs/index.html", b"docs"),
            ("404.html", b"gone"),
        ];
        write_tree(&folder.join("www"), &pages);
    })
    .await;
    for (path, status, text) in [
        ("/", 200, "home"),
        ("/about", 200, "about"),
        ("/docs/", 200, "docs"),
        ("/none", 404, "gone"),
        ("/next/", 200, "home"),
        ("/next/about", 200, "about"),
        ("/next/about/", 404, "gone"),
        ("/next/docs/", 200, "docs"),
        ("/app/about", 200, "about"),
        ("/app/docs/", 200, "docs"),
        ("/app/none", 200, "home"),
    ] {
        let response = gateway.get(path).await;
        let seen = (response.status(), response.text());
        assert_eq!(seen, (status, text.to_owned()), "{path}");
    }
    let script = gateway.get("/app/assets/old.js").await;
    assert_eq!(script.status(), 404, "a browser would keep the page");
}

/// With the default `recheck`: a file and a page in place of others that are replaced, renamed or
/// deleted are seen by requests that never cease, and so are those of a folder behind a link.
#[tokio::test]
async fn changes_on_disk_are_seen_while_requests_go_on() {
    let yaml = "
listeners: [{ address: \"127.0.0.1:0\", name: web }]
routes:
  - { match: { path: /try/* }, files: { root: www, try: [/a.txt], otherwise: { status: 404 } } }
  - { match: { path: /* }, files: www }
";
    let gateway = Gateway::start_in(yaml, |folder| {
        write_tree(folder, &[("one/a.txt", b"1"), ("two/a.txt", b"2")]);
        std::os::unix::fs::symlink("one", folder.join("www")).unwrap();
    })
    .await;
    let at = |path: &str| gateway.folder().join(path);
    let seen = async |status: u16, content: &str| {
        for path in ["/a.txt", "/try/x"] {
            wait_for(content, Duration::from_secs(2), async || {
                let response = gateway.get(path).await;
                let is_it = response.status() == status && response.text().contains(content);
                is_it.then_some(())
            })
            .await;
        }
    };
    seen(200, "1").await;
    fs::write(at("one/a.txt"), "longer").unwrap();
    seen(200, "longer").await;
    fs::write(at("one/new"), "renamed").unwrap();
    fs::rename(at("one/new"), at("one/a.txt")).unwrap();
    seen(200, "renamed").await;
    fs::remove_file(at("one/a.txt")).unwrap();
    seen(404, "").await;
    fs::write(at("one/a.txt"), "back").unwrap();
    seen(200, "back").await;
    std::os::unix::fs::symlink("two", at("link")).unwrap();
    fs::rename(at("link"), at("www")).unwrap();
    seen(200, "2").await;
}
