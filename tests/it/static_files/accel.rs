//! `X-Accel-Redirect`: an app lets the gateway send a file, and only those that it may.

use std::time::Duration;

use futures_util::future::join_all;

use super::write_tree;
use crate::support::{
    client::{Connection, Request, get, post},
    front::Front,
    gateway::Gateway,
    http2,
    origins::{NumberedOrigin, PresetOrigin, ScriptedOrigin},
};

async fn front(origin: std::net::SocketAddr, cache: &str) -> Gateway {
    let yaml = format!(
        "
listeners: [{{ address: \"127.0.0.1:0\", name: web, http2: {{ cleartext: true }} }}]
upstreams:
  api: {{ backends: ['{origin}'], health: false }}
  other: {{ backends: ['{origin}'], health: false }}
routes:
  - {{ name: api, match: {{ path: /* }}, upstream: api{cache} }}
  - {{ name: other, match: {{ path: /other/* }}, upstream: other }}
  - name: private
    match: {{ path: /private/* }}
    files: {{ root: files, internal: api, recheck: 0s }}
    rewrite: {{ prefix: /private, with: / }}
  - {{ name: public, match: {{ path: /public/* }}, files: files }}
"
    );
    Gateway::start_in(&yaml, |folder| {
        let large = vec![b'x'; 200_000];
        write_tree(
            &folder.join("files"),
            &[
                ("report.pdf", b"the report"),
                ("a b/\u{e4}.txt", b"odd name"),
                ("large", &large),
            ],
        );
    })
    .await
}

fn to(path: &str) -> Vec<(String, String)> {
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    vec![
        header("x-accel-redirect", path),
        header("content-disposition", "attachment; filename=\"report.pdf\""),
        header("set-cookie", "seen=1"),
        header("set-cookie", "again=2"),
        header("x-internal", "detail"),
        header("etag", "\"the-app\""),
        header("cache-control", "private, max-age=5"),
    ]
}

#[tokio::test]
async fn an_app_sends_a_file_in_place_of_its_response() {
    let origin = PresetOrigin::start().await;
    let gateway = front(origin.address(), "").await;
    for status in [200, 403, 404] {
        origin
            .settings()
            .tell("/a", status, to("/private/report.pdf"));
        for request in [get("/a"), post("/a", "body")] {
            let response = gateway.send(&request).await;
            assert_eq!(
                (response.status(), response.text()),
                (200, "the report".to_owned())
            );
            assert_eq!(response.header("x-accel-redirect"), None);
            assert_eq!(response.header("x-internal"), None);
            assert_eq!(response.header("content-length"), Some("10"));
            assert_eq!(response.header("cache-control"), Some("private, max-age=5"));
            assert_eq!(response.headers.get_all("set-cookie").count(), 2);
            assert_eq!(response.headers.get_all("etag").count(), 1);
            assert_ne!(response.header("etag"), Some("\"the-app\""));
            let disposition = response.header("content-disposition");
            assert_eq!(disposition, Some("attachment; filename=\"report.pdf\""));
        }
    }
    let head = gateway.send(&Request::new("HEAD", "/a")).await;
    assert_eq!(
        (head.status(), head.header("content-length")),
        (200, Some("10"))
    );
    let range = gateway.send(&get("/a").header("range", "bytes=4-5")).await;
    assert_eq!((range.status(), range.text()), (206, "re".to_owned()));
    let tag = head.header("etag").unwrap();
    let known = gateway.send(&get("/a").header("if-none-match", tag)).await;
    assert_eq!((known.status(), known.body.len()), (304, 0));
    for path in ["/private/a%20b/%C3%A4.txt", "/private/a b/%c3%a4.txt"] {
        origin.settings().tell("/b", 200, to(path));
        assert_eq!(gateway.get("/b").await.text(), "odd name", "{path}");
    }
    origin.settings().tell("/c", 200, to("/private/large"));
    assert_eq!(gateway.get("/c").await.body.len(), 200_000);
    let http2 = http2::Client::open(gateway.address()).await;
    for _ in 0..3 {
        assert_eq!(http2.get("/c").await.body.len(), 200_000);
        assert_eq!(http2.get("/a").await.text(), "the report");
    }
}

#[tokio::test]
async fn a_connection_is_kept_after_a_redirected_file() {
    let origin = PresetOrigin::start().await;
    let gateway = front(origin.address(), "").await;
    origin.settings().tell("/a", 200, to("/private/report.pdf"));
    origin.settings().tell("/large", 200, to("/private/large"));
    origin.settings().tell("/none", 200, to("/private/none"));
    origin.settings().tell("/plain", 200, Vec::new());
    let mut connection = gateway.connect().await;
    for _ in 0..3 {
        for (request, status, length) in [
            (get("/a"), 200, Some(10)),
            (post("/a", "body"), 200, Some(10)),
            (Request::new("HEAD", "/a"), 200, Some(0)),
            (get("/large"), 200, Some(200_000)),
            (
                get("/large").header("range", "bytes=9-100008"),
                206,
                Some(100_000),
            ),
            (get("/none"), 404, None),
            (get("/plain"), 200, None),
        ] {
            let response = connection.send(&request).await.unwrap();
            assert_eq!(response.status(), status, "{request:?}");
            assert_ne!(response.header("connection"), Some("close"), "{request:?}");
            if let Some(length) = length {
                assert_eq!(response.body.len(), length, "{request:?}");
            }
        }
    }
    // The client's wish counts.
    let last = get("/a").header("connection", "close");
    assert_eq!(connection.send(&last).await.unwrap().text(), "the report");
    assert!(connection.is_closed().await);
}

#[tokio::test]
async fn nothing_else_is_sent_and_the_header_never_reaches_a_client() {
    let origin = PresetOrigin::start().await;
    let gateway = front(origin.address(), "").await;
    for to_where in [
        "/private/none",
        "/private/../../edgeway.yaml",
        "/private/..%2f..%2fedgeway.yaml",
        "/private/",
        "/private/a%20b",
        "/public/report.pdf",
        "/a",
        "/other/a",
        "/",
        "",
        "private/report.pdf",
        "http://127.0.0.1/private/report.pdf",
        "//private/report.pdf/x",
        "@named",
    ] {
        origin.settings().tell("/a", 200, to(to_where));
        let response = gateway.get("/a").await;
        let status = response.status();
        assert!(
            matches!(status, 403 | 404),
            "{to_where}: {status} {}",
            response.text()
        );
        assert_eq!(response.header("x-accel-redirect"), None, "{to_where}");
        assert_eq!(response.header("location"), None, "{to_where}");
    }
    // Another upstream is not named.
    origin
        .settings()
        .tell("/other/a", 200, to("/private/report.pdf"));
    let response = gateway.get("/other/a").await;
    assert_eq!(
        (response.status(), response.text()),
        (200, "/other/a #1".to_owned())
    );
    assert_eq!(response.header("x-accel-redirect"), None);
    // A client gets none of the files by itself.
    for path in ["/private/report.pdf", "/private/", "/%70rivate/report.pdf"] {
        let request = get(path).header("x-accel-redirect", "/private/report.pdf");
        assert_eq!(gateway.send(&request).await.status(), 404, "{path}");
    }
    assert_eq!(gateway.get("/public/files/report.pdf").await.status(), 404);
}

#[tokio::test]
async fn a_route_with_a_cache_stores_no_redirected_file() {
    let origin = PresetOrigin::start().await;
    let gateway = front(origin.address(), ", cache: { ttl: 1h, force: true }").await;
    origin.settings().tell("/a", 200, to("/private/report.pdf"));
    for asked in 1..4 {
        assert_eq!(gateway.get("/a").await.text(), "the report");
        assert_eq!(origin.settings().asked("/a").len(), asked);
    }
}

#[tokio::test]
async fn requests_for_a_redirected_file_do_not_wait_for_one_another() {
    let origin = NumberedOrigin::start().await;
    let gateway = front(origin.address(), ", cache: {}").await;
    let order = [
        ("x-accel-redirect", "/private/report.pdf"),
        ("cache-control", "max-age=60"),
    ];
    origin.settings().tell("/a", 200, &order);
    assert_eq!(gateway.get("/a").await.text(), "the report");
    origin.settings().slow("/a", Duration::from_millis(200));
    let all = join_all((0..6).map(|_| gateway.get("/a"))).await;
    assert!(all.iter().all(|response| response.text() == "the report"));
    assert!(origin.settings().most("/a") >= 3);
}

#[tokio::test]
async fn a_write_that_is_responded_to_with_a_file_empties_the_cache() {
    let origin = PresetOrigin::start().await;
    let gateway = front(origin.address(), ", cache: {}").await;
    let stored = vec![("cache-control".to_owned(), "max-age=60".to_owned())];
    origin.settings().tell("/a", 200, stored.clone());
    for _ in 0..2 {
        assert_eq!(gateway.get("/a").await.text(), "/a #1");
    }
    origin.settings().tell("/a", 200, to("/private/report.pdf"));
    let written = gateway.send(&post("/a", "new")).await;
    assert_eq!(written.text(), "the report");
    origin.settings().tell("/a", 200, stored);
    assert_eq!(gateway.get("/a").await.text(), "/a #3");
}

#[tokio::test]
async fn a_response_without_the_file_has_the_cookies_and_nothing_else_of_the_app() {
    let origin = PresetOrigin::start().await;
    let gateway = Gateway::start_in(
        &format!(
            "
upstreams: {{ api: {{ backends: ['{}'], health: false }} }}
routes:
  - {{ match: {{ path: /* }}, upstream: api }}
  - match: {{ path: /private/* }}
    files: {{ root: files, internal: api, not_found: /404.html, max_age: 1h }}
    rewrite: {{ prefix: /private, with: / }}
",
            origin.address()
        ),
        |folder| {
            let files: &[(&str, &[u8])] = &[("404.html", b"gone"), ("a", b"content")];
            write_tree(&folder.join("files"), files);
        },
    )
    .await;
    let mut order = to("/private/none");
    order.push(("content-type".to_owned(), "application/pdf".to_owned()));
    origin.settings().tell("/page", 200, order);
    origin.settings().tell("/a", 200, to("/private/a"));
    origin.settings().tell("/refused", 200, to("/elsewhere"));
    for (request, status) in [
        (get("/page"), 404),
        (get("/refused"), 404),
        (get("/a").header("range", "bytes=99-"), 416),
        (get("/a").header("if-match", "\"x\""), 412),
    ] {
        let response = gateway.send(&request).await;
        assert_eq!(response.status(), status, "{request:?}");
        let cookies: Vec<&str> = response.headers.get_all("set-cookie").collect();
        assert_eq!(cookies, ["seen=1", "again=2"], "{request:?}");
        assert_eq!(response.header("content-disposition"), None);
        assert_ne!(response.header("cache-control"), Some("private, max-age=5"));
        assert_ne!(response.header("content-type"), Some("application/pdf"));
    }
    // The app decides who gets the file, so that its own lifetime is for this client alone.
    let order = vec![("x-accel-redirect".to_owned(), "/private/a".to_owned())];
    origin.settings().tell("/a", 200, order);
    let response = gateway.get("/a").await;
    assert_eq!(
        response.header("cache-control"),
        Some("private, max-age=3600")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_download_occupies_no_place_on_the_backend() {
    let origin = PresetOrigin::start().await;
    let gateway = Gateway::start_in(
        &format!(
            "
upstreams:
  api:
    backends: ['{}']
    health: false
    max_in_flight: {{ per_backend: 1, queue: 0 }}
routes:
  - {{ match: {{ path: /* }}, upstream: api }}
  - {{ match: {{ path: /private/* }}, files: {{ root: files, internal: api }} }}
",
            origin.address()
        ),
        |folder| {
            let large = vec![b'x'; 64 << 20];
            write_tree(&folder.join("files"), &[("private/large", &large)]);
        },
    )
    .await;
    origin.settings().tell("/a", 200, to("/private/large"));
    origin.settings().tell("/b", 200, Vec::new());
    let mut slow = Connection::open(gateway.address()).await.unwrap();
    let head = slow.start(&get("/a")).await.unwrap();
    assert_eq!(head.header("content-length"), Some("67108864"));
    assert_eq!(gateway.get("/b").await.status(), 200);
    slow.leave("a client that does not read is the subject");
}

#[tokio::test]
async fn an_interim_response_does_not_show_the_header() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let script = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nX-Accel-Redirect: /private/a\r\n\r\n\
                  HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let origin = ScriptedOrigin::start(&[("/a", script)]).await;
    let gateway = front(origin.address(), "").await;
    let mut stream = tokio::net::TcpStream::connect(gateway.address())
        .await
        .unwrap();
    let head = b"GET /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).await.unwrap();
    assert!(all.starts_with("HTTP/1.1 103"), "{all}");
    assert!(all.ends_with("ok"), "{all}");
    assert!(!all.to_ascii_lowercase().contains("x-accel"), "{all}");
}

#[tokio::test]
async fn without_internal_files_the_header_is_any_other() {
    let origin = PresetOrigin::start().await;
    let gateway = Front::to(&origin).start().await;
    origin.settings().tell("/a", 200, to("/private/report.pdf"));
    let response = gateway.get("/a").await;
    assert_eq!(
        response.header("x-accel-redirect"),
        Some("/private/report.pdf")
    );
}
