//! Own pages in place of the built-in one.

use std::{fs, path::Path};

use super::ErrorPages;
use crate::chain::testkit::{FilterCheck, check, refused};

const BROWSER: &[(&str, &str)] = &[("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")];
const JSON: &[(&str, &str)] = &[("Accept", "application/json")];

fn pages(folder: &Path, more: &str) -> FilterCheck {
    for name in ["404", "4xx", "5xx"] {
        fs::write(folder.join(format!("{name}.html")), format!("<p>{name}")).unwrap();
    }
    let at = folder.display();
    check::<ErrorPages>(&format!(
        "pages: {{ 404: {at}/404.html, 4xx: {at}/4xx.html, 5xx: {at}/5xx.html }}\n{more}"
    ))
}

#[test]
fn a_refusal_has_the_page_of_its_status() {
    let folder = tempfile::tempdir().unwrap();
    let mut check = pages(folder.path(), "");
    for (status, page) in [(404, "<p>404"), (429, "<p>4xx"), (503, "<p>5xx")] {
        for accept in [BROWSER, &[], &[("Accept", "*/*")]] {
            check = check.refused_behind(status).send("GET", "/", accept, &[]);
            let last = check.last();
            assert_eq!(last.status, status);
            assert_eq!(String::from_utf8_lossy(&last.body), page);
            assert_eq!(last.headers["content-type"], "text/html; charset=utf-8");
            assert_eq!(last.headers["cache-control"], "no-store");
            assert_eq!(last.reason, Some("behind"));
        }
    }
    // Programs get the built-in page, which they can read.
    let check = check.send("GET", "/", JSON, &[]);
    assert_eq!(check.last().reason, Some("behind"));
    assert!(check.last().body.is_empty());
}

#[test]
fn responses_of_backends_stay_unless_they_are_intercepted() {
    let folder = tempfile::tempdir().unwrap();
    let headers = [
        ("content-type", "text/plain"),
        ("content-length", "6"),
        ("etag", "\"a\""),
        ("set-cookie", "a=1"),
        ("retry-after", "3"),
    ];
    let body: &[&[u8]] = &[b"own", b"own"];
    let stays = pages(folder.path(), "").backend(404, &headers, body);
    let stays = stays.send("GET", "/", BROWSER, &[]);
    assert_eq!(stays.last().body, b"ownown");
    let check = pages(folder.path(), "intercept: true").backend(404, &headers, body);
    let check = check.send("GET", "/", BROWSER, &[]);
    let last = check.last();
    assert_eq!(last.status, 404);
    assert_eq!(last.body, b"<p>404");
    assert_eq!(last.headers["content-length"], "6");
    assert!(!last.headers.contains_key("etag"));
    assert!(!last.headers.contains_key("set-cookie"));
    assert_eq!(last.headers["retry-after"], "3");
    assert_eq!(last.headers["cache-control"], "no-store");
    // Nothing of the backend's body is sent before the page.
    assert_eq!(last.flushed, [0, 6]);
    let check = check.send("GET", "/", JSON, &[]);
    assert_eq!(check.last().body, b"ownown");
    let check = check
        .backend(200, &headers, body)
        .send("GET", "/", BROWSER, &[]);
    assert_eq!(check.last().body, b"ownown");
    let check = check
        .backend(500, &headers, &[b""])
        .send("HEAD", "/", BROWSER, &[]);
    assert_eq!(check.last().headers["content-length"], "6");
    assert!(check.last().body.is_empty());
}

#[test]
fn bad_pages_are_reported_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().display();
    fs::write(folder.path().join("a.html"), "<p>").unwrap();
    fs::write(folder.path().join("a.txt"), "a").unwrap();
    fs::write(folder.path().join("long.html"), vec![b'a'; (1 << 20) + 1]).unwrap();
    let file = "write the path of an HTML file, relative to this one";
    for (pages, problem) in [
        (
            format!("200: {at}/a.html"),
            "`200` is no status of an error; help: write one from 400 to 599, or `4xx` or `5xx`"
                .to_owned(),
        ),
        (
            format!("404: {at}/a.txt"),
            format!(
                "`{at}/a.txt` cannot be used as a page: its name does not end in `.html`; help: {file}"
            ),
        ),
        (
            format!("404: {at}/none.html"),
            format!(
                "`{at}/none.html` cannot be used as a page: No such file or directory (os error 2); \
                 help: {file}"
            ),
        ),
        (
            format!("404: {at}/long.html"),
            format!(
                "`{at}/long.html` cannot be used as a page: it has 1048577 bytes, and 1 MiB is the \
                 most; help: {file}"
            ),
        ),
        (
            String::new(),
            "`error_pages` names no page; help: write `pages: { 404: errors/404.html, 5xx: \
             errors/50x.html }`"
                .to_owned(),
        ),
    ] {
        assert_eq!(
            refused::<ErrorPages>(&format!("pages: {{ {pages} }}")),
            [problem]
        );
    }
}
