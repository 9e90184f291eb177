//! Own pages in place of the built-in one.

use std::{fs, path::Path};

use edgeway_core::chain::testkit::{FilterCheck, check, refused};

use super::ErrorPages;

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

/// Status and content of a response.
type Expected = (u16, &'static str);

#[test]
fn a_file_that_is_a_success_is_a_response_like_any_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty.gif");
    fs::write(&path, "0123456789").unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
    file.set_modified(time).unwrap();
    let page = |status: &str| {
        check::<ErrorPages>(&format!(
            "intercept: true\npages: {{ 404: {{ file: {}, content_type: image/gif{status} }} }}",
            path.display()
        ))
    };
    let tag = "\"6553f100-a\"";
    let date = "Tue, 14 Nov 2023 22:13:20 GMT";
    // Method, header, and what a refusal and an intercepted response are.
    let cases: [(&str, (&str, &str), [Expected; 2]); 9] = [
        ("GET", ("Accept", "*/*"), [(200, "0123456789"); 2]),
        ("HEAD", ("Range", "bytes=2-4"), [(200, "0123456789"); 2]),
        (
            "GET",
            ("If-None-Match", tag),
            [(304, ""), (200, "0123456789")],
        ),
        (
            "GET",
            ("If-Modified-Since", date),
            [(304, ""), (200, "0123456789")],
        ),
        ("POST", ("If-None-Match", tag), [(200, "0123456789"); 2]),
        ("GET", ("If-None-Match", "\"x\""), [(200, "0123456789"); 2]),
        ("GET", ("Range", "bytes=2-4"), [(206, "234"); 2]),
        ("GET", ("Range", "bytes=99-"), [(200, "0123456789"); 2]),
        ("POST", ("Range", "bytes=2-4"), [(200, "0123456789"); 2]),
    ];
    for (method, header, expected) in cases {
        let refused = page(", status: 200").refused_behind(404);
        let intercepted = page(", status: 200").backend(404, &[("etag", "\"a\"")], &[b"own"]);
        for (check, (status, content)) in [refused, intercepted].into_iter().zip(expected) {
            let check = check.send(method, "/", &[header], &[]);
            let last = check.last();
            assert_eq!(last.status, status, "{method} {header:?}");
            // Those who send it leave out the content of a response to `HEAD`.
            if method != "HEAD" {
                let body = String::from_utf8_lossy(&last.body);
                assert_eq!(body, content, "{method} {header:?}");
            }
            let value = |name: &str| last.headers.get(name).map(|value| value.to_str().unwrap());
            assert_eq!(
                (value("etag"), value("last-modified")),
                (Some(tag), Some(date))
            );
            assert_eq!(value("cache-control"), None);
            let range = (status == 206).then_some("bytes 2-4/10");
            assert_eq!(value("content-range"), range, "{method} {header:?}");
            assert_eq!(
                value("accept-ranges").is_some(),
                status == 200,
                "{method} {header:?}"
            );
        }
    }
    // An error is about this request alone.
    let check = page("")
        .refused_behind(404)
        .send("GET", "/", &[("If-None-Match", tag)], &[]);
    assert_eq!(check.last().status, 404);
    assert_eq!(check.last().headers["cache-control"], "no-store");
    assert_eq!(check.last().headers.get("etag"), None);
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
fn other_contents_are_for_every_client() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().display();
    fs::write(folder.path().join("a.gif"), "GIF").unwrap();
    let yaml = format!(
        "pages: {{ 401: {{ redirect: '/login?next={{uri}}&on={{status}}' }}, 503: {{ body: later }}, \
         404: {{ file: {at}/a.gif, content_type: image/gif, status: 200 }}, \
         410: {{ body: gone, clients: html }} }}\nintercept: true"
    );
    let ask = |status: u16, accept: &[(&str, &str)]| {
        let check = check::<ErrorPages>(&yaml);
        check
            .refused_behind(status)
            .send("GET", "/a?b=c", accept, &[])
    };
    let check_401 = ask(401, JSON);
    let last = check_401.last();
    assert_eq!((last.status, last.reason), (302, Some("behind")));
    assert_eq!(last.headers["location"], "/login?next=/a?b%3Dc&on=401");
    assert!(last.body.is_empty());
    let check_503 = ask(503, JSON);
    let last = check_503.last();
    assert_eq!((last.status, &last.body[..]), (503, &b"later"[..]));
    assert_eq!(last.headers["content-type"], "text/plain; charset=utf-8");
    let check_404 = ask(404, BROWSER);
    let last = check_404.last();
    assert_eq!((last.status, &last.body[..]), (200, &b"GIF"[..]));
    assert_eq!(last.headers["content-type"], "image/gif");
    assert!(ask(410, JSON).last().body.is_empty());
    assert_eq!(ask(410, BROWSER).last().body, b"gone");
    let theirs = [("content-type", "text/plain"), ("content-length", "3")];
    for (status, expected, body) in [(404, 200, "GIF"), (401, 302, ""), (500, 500, "own")] {
        let check = check::<ErrorPages>(&yaml).backend(status, &theirs, &[b"own"]);
        let check = check.send("GET", "//a", JSON, &[]);
        let last = check.last();
        assert_eq!((last.status, &*last.body), (expected, body.as_bytes()));
        let length = body.len().to_string();
        assert_eq!(last.headers["content-length"], *length);
    }
}

#[test]
fn bad_pages_are_reported_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().display();
    fs::write(folder.path().join("a.html"), "<p>").unwrap();
    fs::write(folder.path().join("a.txt"), "a").unwrap();
    fs::write(folder.path().join("long.html"), vec![b'a'; (1 << 20) + 1]).unwrap();
    let file = "write the path of an HTML file, relative to this one, or `file` and `content_type`";
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
            "404: { status: 200 }".to_owned(),
            "a page needs one content; help: write one of `file`, `body`, `redirect` \
             and `upstream`"
                .to_owned(),
        ),
        (
            "401: { redirect: /login, status: 200 }".to_owned(),
            "status 200 does not fit the page; help: write one from 200 to 599 that has a body, for a \
             redirect 301, 302, 303, 307 or 308"
                .to_owned(),
        ),
        (
            "404: { upstream: other }".to_owned(),
            "unknown upstream `other`; help: add it: `upstreams: { other: … }`".to_owned(),
        ),
        (
            "404: { body: a, own_status: true }".to_owned(),
            "`path`, `credentials`, `as_sent` and `own_status` are for pages of an upstream; help: \
             write the `upstream` that has the page, or leave them out"
                .to_owned(),
        ),
        (
            "404: { upstream: web, body: a }".to_owned(),
            "a page needs one content; help: write one of `file`, `body`, `redirect` \
             and `upstream`, and `content_type` beside `file` or `body` alone"
                .to_owned(),
        ),
        (
            "404: { upstream: web, own_status: true, status: 200 }".to_owned(),
            "the page has two statuses; help: leave one of them out".to_owned(),
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
