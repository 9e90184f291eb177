//! Files beside other features: plugins, identity, lifetimes, rewrites, pages in place of files.

use std::fs;

use super::{front, write_tree};
use crate::support::{
    client::{Request, get},
    gateway::Gateway,
};

/// Hash of the key `secret`.
const HASH: &str = "sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

#[tokio::test]
async fn a_rewrite_of_a_plugin_selects_the_file() {
    let yaml = "
routes:
  - match: { path: /* }
    files: www
    rewrite: { prefix: /app, with: / }
    plugins: [{ file: x/plugin.js, on_error: refuse }]
";
    let gateway = Gateway::start_in(yaml, |folder| {
        write_tree(
            &folder.join("www"),
            &[
                ("members/a.html", b"for members"),
                ("login.html", b"login"),
                ("app/b", b"never"),
                ("b", b"rewritten by the route"),
            ],
        );
        let text = "export const proxy = (req) => {
            if (!req.nextUrl.pathname.startsWith('/members')) return NextResponse.next();
            return NextResponse.rewrite(new URL('/login.html', req.url));
        };";
        fs::create_dir(folder.join("x")).unwrap();
        fs::write(folder.join("x/plugin.js"), text).unwrap();
    })
    .await;
    for _ in 0..3 {
        let guarded = gateway.get("/members/a.html").await;
        assert_eq!(
            (guarded.status(), guarded.text()),
            (200, "login".to_owned())
        );
        assert_eq!(gateway.get("/app/b").await.text(), "rewritten by the route");
    }
}

#[tokio::test]
async fn what_needs_credentials_is_for_no_shared_cache() {
    let route = format!(
        "    api_key: {{ keys: [{{ name: acme, hash: \"{HASH}\" }}], optional: true }}
  - name: images
    match: {{ path: /images/* }}
    files: www
    api_key: {{ keys: [{{ name: acme, hash: \"{HASH}\" }}], optional: true }}
    cache_control: [{{ path: /images/*, browser: 1h, shared: 1d }}]
"
    );
    let files: &[(&str, &[u8])] = &[("a", b"a"), ("assets/b", b"b"), ("images/c", b"c")];
    let gateway = front(", max_age: 1m, immutable: /assets/*", &route, files).await;
    for (path, public, private) in [
        ("/a", "public, max-age=60", "private, max-age=60"),
        (
            "/assets/b",
            "public, max-age=31536000, immutable",
            "private, max-age=31536000, immutable",
        ),
        (
            "/images/c",
            "public, max-age=3600, s-maxage=86400",
            "private, max-age=3600",
        ),
    ] {
        for _ in 0..2 {
            let response = gateway.get(path).await;
            assert_eq!(response.header("cache-control"), Some(public), "{path}");
            for (name, value) in [("x-api-key", "secret"), ("authorization", "Basic eA==")] {
                let response = gateway.send(&get(path).header(name, value)).await;
                assert_eq!(response.status(), 200);
                let policy = response.header("cache-control");
                assert_eq!(policy, Some(private), "{path} {name}");
            }
        }
    }
}

/// A page in place of missing files is open under another path than that of the request.
#[tokio::test]
async fn a_page_that_is_written_in_place_is_sent_as_it_is_now() {
    for (key, status) in [("not_found", 404), ("fallback", 200)] {
        let yaml = format!(
            "routes: [{{ match: {{ path: /* }}, files: {{ root: www, recheck: 1h, {key}: /page.html }} }}]"
        );
        let old = vec![b'a'; 40_000];
        let gateway = Gateway::start_in(&yaml, |folder| {
            write_tree(&folder.join("www"), &[("page.html", &old)]);
        })
        .await;
        let first = gateway.get("/none").await;
        assert_eq!((first.status(), &first.body[..]), (status, &old[..]));
        let new = vec![b'b'; 50_000];
        fs::write(gateway.folder().join("www/page.html"), &new).unwrap();
        for path in ["/none", "/other"] {
            let next = gateway.get(path).await;
            assert_eq!(next.status(), status, "{key} {path}");
            assert!(next.body == new, "{key} {path}");
        }
    }
}

#[tokio::test]
async fn a_rewrite_to_a_folder_redirects_at_most_once() {
    let yaml = "
routes:
  - match: { path: /manual/* }
    files: www
    rewrite: { with: /docs }
  - match: { path: /book/* }
    files: www
    rewrite: { prefix: /book, with: /docs }
";
    let gateway = Gateway::start_in(yaml, |folder| {
        write_tree(&folder.join("www"), &[("docs/index.html", b"docs")]);
    })
    .await;
    assert_eq!(gateway.get("/manual/").await.status(), 404);
    let moved = gateway.get("/book?x=1").await;
    assert_eq!(moved.header("location"), Some("/book/?x=1"));
    assert_eq!(gateway.get("/book/").await.text(), "docs");
}

#[tokio::test]
async fn old_clients_and_odd_requests_get_whole_files() {
    let page = "<p>text</p>".repeat(5000);
    let files: &[(&str, &[u8])] = &[("page.html", page.as_bytes()), ("empty.html", b"")];
    let gateway = front(
        "",
        "    compression: { encodings: [gzip], min_size: 0 }\n",
        files,
    )
    .await;
    for _ in 0..2 {
        let gzip = |path| get(path).header("accept-encoding", "gzip");
        let old = gateway.send(&gzip("/page.html").http10()).await;
        assert_eq!(old.header("content-length"), Some("55000"));
        assert!(old.text() == page);
        let empty = gateway.send(&gzip("/empty.html")).await;
        assert_eq!((empty.status(), empty.body.len()), (200, 0));
        let range = gateway
            .send(&gzip("/page.html").header("range", "bytes=3-6"))
            .await;
        assert_eq!((range.status(), range.text()), (206, "text".to_owned()));
        assert_eq!(range.header("content-encoding"), None);
        let head = gateway
            .send(&Request::new("HEAD", "/page.html").header("accept-encoding", "gzip"))
            .await;
        assert_eq!((head.status(), head.body.len()), (200, 0));
        for method in ["OPTIONS", "DELETE", "PATCH"] {
            let refused = gateway.send(&Request::new(method, "/page.html")).await;
            assert_eq!(refused.status(), 405, "{method}");
        }
    }
}
