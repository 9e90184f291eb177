//! Files beside other features: plugins, identity, lifetimes, rewrites, pages in place of files.

use std::fs;

use super::write_tree;
use crate::support::{
    gateway::Gateway,
};

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

