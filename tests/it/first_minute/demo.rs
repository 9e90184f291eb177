//! `edgeway demo`: every line that its page lists does what the page says, every button too, and
//! nobody else's page presses one.
//!
//! The checks in the browser are in `tests/browser/demo.js`.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use rustix::process::Signal;
use serde_json::json;
use tokio::net::TcpStream;

use super::{Foreground, Home, output};
use crate::{
    browser::{describe, look},
    support::{
        client::{self, Request, get, post},
        ports::free_port,
        wait::wait_for,
    },
};

const BROWSER_CHECKS: &[&str] = &[
    "every link leads to a page, and nothing on the page fails",
    "every button does what its tile says",
    "each request is seen on its way to where it ends, and without motion too",
    "every line is copied",
    "the status page below it is whole: style, script, icon, events and forms",
    "without script there are all texts, lines, settings and links",
    "both pages are accessible, light and dark, wide and narrow",
    "what these checks refuse is seen",
];

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Starts the demonstration, and returns the curl lines of its page by name.
async fn start(home: &Home) -> (Foreground, u16, BTreeMap<String, String>) {
    let port = free_port();
    let demo = home.start(&["demo", "--listen", &port.to_string()]).await;
    let page = client::send(local(port), &get("/"))
        .await
        .expect("it responds");
    assert_eq!(page.status(), 200);
    let text = page.text();
    let lines = text.split("data-curl=\"").skip(1).map(|rest| {
        let (name, rest) = rest.split_once("\">").expect("it is HTML");
        let (line, _) = rest.split_once("</pre>").expect("it is HTML");
        (name.to_owned(), line.to_owned())
    });
    let lines = lines.collect();
    assert!(
        !text.contains("{base}") && !text.contains("{socket}"),
        "{text}"
    );
    (demo, port, lines)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_of_the_page_does_what_the_page_says() {
    let home = Home::alone();
    let (_demo, _, lines) = start(&home).await;
    let run = |name: &str| {
        let line = lines
            .get(name)
            .unwrap_or_else(|| panic!("no line `{name}`: {lines:?}"));
        let (_, stdout, stderr) = output(home.command("sh").args(["-c", line]));
        assert_eq!(stderr, "", "{name}: {line}");
        stdout.to_lowercase()
    };
    let expected = [
        "body", "cache", "echo", "explain", "headers", "limit", "metrics", "print", "redirect",
        "split", "status", "stop",
    ];
    assert_eq!(lines.keys().collect::<Vec<_>>(), expected);

    assert!(run("cache").contains("x-cache-status: miss"));
    assert!(run("cache").contains("x-cache-status: hit"));

    let limited = run("limit");
    let statuses: Vec<&str> = limited
        .lines()
        .filter(|line| line.starts_with("http/"))
        .collect();
    assert_eq!(statuses.len(), 4, "{limited}");
    assert!(
        statuses[..3].iter().all(|line| line.contains(" 200")),
        "{limited}"
    );
    assert!(statuses[3].contains(" 429"), "{limited}");
    let wait = limited
        .lines()
        .find_map(|line| line.strip_prefix("retry-after: "));
    let wait: u32 = wait.expect("it says when").trim().parse().expect("seconds");
    assert!((1..=6).contains(&wait), "{limited}");

    // Each curl is a new visitor; that twenty-four are all alike happens once in 8 million runs.
    let variants: Vec<String> = (0..3).map(|_| run("split")).collect();
    let variants = variants.concat();
    assert!(
        variants.contains("variant a\n") && variants.contains("variant b\n"),
        "{variants}"
    );
    assert!(!variants.contains("none"), "{variants}");

    // Refused connections go to the other one, before the gateway knows and afterwards.
    let stock = run("stop");
    assert!(stock.starts_with("shop-2 refuses"), "{stock}");
    let served: Vec<&str> = stock.lines().skip(1).collect();
    assert_eq!(served, ["7 teapots, says shop-1"; 6], "{stock}");

    let headers = run("headers");
    for name in [
        "content-security-policy: ",
        "x-frame-options: ",
        "referrer-policy: ",
    ] {
        assert!(headers.contains(name), "{name}: {headers}");
    }
    let explained = run("explain");
    for words in ["route       /product", "upstream pages", "hit"] {
        assert!(explained.contains(words), "{words}: {explained}");
    }
    assert!(run("print").contains("path: /product"));

    let status = run("status");
    for words in ["shop", "/product", "1 of 2 in rotation"] {
        assert!(status.contains(words), "{words}: {status}");
    }
    assert!(run("metrics").contains("edgeway_cache_bytes"));
    let echo = run("echo");
    assert!(
        echo.contains("x-forwarded-for") && !echo.contains("6.6.6.6"),
        "{echo}"
    );
    assert_eq!(run("body").trim(), "413");
    assert!(run("redirect").contains("hello from the edge"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stopped_backend_refuses_connections_and_returns() {
    let home = Home::new();
    let (_demo, port, _) = start(&home).await;
    let address = local(port);
    let stock = async || {
        let response = client::send(address, &get("/stock")).await;
        let response = response.expect("it responds");
        assert_eq!(response.status(), 200);
        response.text().contains("shop-2").then_some(())
    };
    wait_for("shop-2 is in rotation", Duration::from_secs(40), stock).await;
    let page = get("/").header("accept", "text/html");
    let page = client::send(address, &page).await.expect("it responds");
    let backend = page.text();
    let backend = backend.split_once("backends: [").expect("it shows them").1;
    let backend = backend.split("&#34;").nth(3).expect("there are two");
    let backend: SocketAddr = backend.parse().expect("an address");
    assert!(TcpStream::connect(backend).await.is_ok());
    let stopped = client::send(address, &post("/stop", "")).await;
    assert_eq!(stopped.expect("it responds").status(), 200);
    wait_for("its port refuses", Duration::from_secs(5), async || {
        TcpStream::connect(backend).await.is_err().then_some(())
    })
    .await;
    // None fails, while it is away and when it returns.
    for _ in 0..20 {
        assert_eq!(stock().await, None);
    }
    wait_for("shop-2 is back", Duration::from_secs(40), stock).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_page_below_it_is_for_this_machine_and_its_own_pages() {
    let home = Home::new();
    let port = free_port();
    let _demo = home.start(&["demo", "--listen", &format!(":{port}")]).await;
    let status = async |address: SocketAddr, request: Request| {
        let response = client::send(address, &request).await;
        response.expect("it responds").status()
    };
    let here = local(port);
    for path in [
        "/status",
        "/status/page.css",
        "/status/page.js",
        "/status/icon.svg",
    ] {
        assert_eq!(status(here, get(path)).await, 200, "{path}");
    }
    let question = r#"{ "method": "GET", "url": "/product" }"#;
    let explain = || post("/v1/explain", question).header("content-type", "application/json");
    assert_eq!(status(here, explain()).await, 200);
    assert_eq!(status(here, post("/stop", "")).await, 200);
    // A form without the value that the page has for it.
    let form = || {
        post("/status/act/purge", "kind=all")
            .header("content-type", "application/x-www-form-urlencoded")
    };
    assert_eq!(status(here, form()).await, 403);

    // The rest of the admin API stays behind its socket.
    for path in [
        "/v1/status",
        "/v1/upstreams",
        "/metrics",
        "/login",
        "/status/../v1/status",
        "/status/act/../../v1/status",
        "/v1/explain/../status",
    ] {
        assert_eq!(status(here, get(path)).await, 404, "{path}");
    }
    for path in [
        "/v1/reload",
        "/v1/page-link",
        "/v1/purge",
        "/status/v1/reload",
    ] {
        assert_ne!(status(here, post(path, "{}")).await / 100, 2, "{path}");
    }

    // A page of another site, and one whose name leads here.
    for other in ["http://127.0.0.1:3000", "https://evil.test", "null"] {
        for request in [explain(), form(), post("/stop", "")] {
            let request = request.header("origin", other);
            assert_eq!(status(here, request).await, 403, "{other}");
        }
    }
    let rebound = |request: Request| {
        request
            .header("host", format!("evil.test:{port}"))
            .header("origin", format!("http://evil.test:{port}"))
            .header("sec-fetch-site", "same-origin")
    };
    assert_eq!(status(here, rebound(post("/stop", ""))).await, 404);
    for request in [get("/status"), get("/v1/requests"), explain(), form()] {
        assert_eq!(status(here, rebound(request)).await, 421);
    }

    // Another machine: this one by an address that others have for it, with any name.
    let probe = UdpSocket::bind("0.0.0.0:0").expect("a port is free");
    // Sends nothing.
    let outside = probe
        .connect("192.0.2.1:9")
        .and_then(|()| probe.local_addr());
    let outside = outside.map(|found| SocketAddr::new(found.ip(), port));
    if let Ok(outside) = outside
        && !outside.ip().is_loopback()
    {
        assert_eq!(status(outside, get("/")).await, 200);
        for request in [get("/status"), get("/status/stream"), explain(), form()] {
            let request = request.header("host", format!("localhost:{port}"));
            assert_eq!(status(outside, request).await, 403);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_finds_the_page_and_the_status_page_whole() {
    let home = Home::new();
    let (_demo, port, _) = start(&home).await;
    let outcome = look(
        "demo.js",
        &json!({ "demo": format!("http://127.0.0.1:{port}") }),
    )
    .await;
    let failures: Vec<String> = outcome.failed.iter().map(describe).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(outcome.passed, BROWSER_CHECKS);
}

#[tokio::test]
async fn it_says_where_it_is_before_anything_else_and_ends_with_its_apps() {
    let home = Home::new();
    let (mut demo, port, _) = start(&home).await;
    demo.prints("Ctrl-C ends it").await;
    let text = demo.text();
    let first = text.lines().find(|line| !line.is_empty());
    let expected = format!("Edgeway serves a demonstration at http://127.0.0.1:{port}/");
    assert_eq!(first, Some(&*expected), "{text}");
    let lines = text.lines().count();
    demo.signal(Signal::INT);
    assert_eq!(demo.ends(Duration::from_secs(15)).await.code(), Some(0));
    assert_eq!(demo.text().lines().count(), lines, "{}", demo.text());
    assert!(TcpStream::connect(local(port)).await.is_err());
}

#[tokio::test]
async fn it_runs_beside_another_gateway_and_leaves_nothing_behind() {
    let home = Home::new();
    let temporary = home.path().join("temporary");
    std::fs::create_dir(&temporary).expect("the folder takes folders");
    let (_first, first, _) = start(&home).await;
    // The address of the first is taken, and the message names one that the command takes.
    let (status, _, stderr) = home.run(&["demo", "--listen", &first.to_string()]);
    assert_eq!(status, 1);
    let free = stderr.split("`--listen ").nth(1).expect("it names one");
    let free = free.split('`').next().expect("it ends");
    let arguments = ["demo", "--listen", free];
    let mut second = home
        .start_with(&arguments, &[("TMPDIR", temporary.as_path())])
        .await;
    let left = || std::fs::read_dir(&temporary).expect("it is there").count();
    assert_eq!(left(), 1);
    second.signal(Signal::TERM);
    assert_eq!(second.ends(Duration::from_secs(15)).await.code(), Some(0));
    assert_eq!(left(), 0);
}

#[test]
fn its_configuration_is_printed_wherever_it_is_installed() {
    let home = Home::new();
    let (status, yaml, stderr) = home.run(&["demo", "--print"]);
    assert_eq!((status, stderr.as_str()), (0, ""));
    for words in ["upstreams:", "rate_limits:", "plugins/ab-split"] {
        assert!(yaml.contains(words), "{words}: {yaml}");
    }
}
