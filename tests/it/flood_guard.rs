//! The flood guard under floods, with other clients and browsers beside them.

use std::{
    fs,
    net::IpAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::task::JoinSet;

use crate::support::{
    client::{self, Connection, Request, Response, get},
    gateway::Gateway,
    origins::{EchoOrigin, SlowOrigin, WsOrigin},
    ports::free_port,
    wait::{pass, wait_for},
};

const SOON: Duration = Duration::from_secs(10);

const ROUTE: &str = "routes: [{ match: { path: / }, respond: ok }]\n";

/// Sends one request on its own connection, from this address.
async fn from(address: &str, gateway: &Gateway, request: &Request) -> Response {
    let address: IpAddr = address.parse().expect("an address");
    let connection = Connection::open_from(address, gateway.address()).await;
    let mut connection = connection.expect("the gateway accepts connections");
    connection
        .send(request)
        .await
        .expect("the gateway responds")
}

async fn statuses(address: &str, gateway: &Gateway, targets: &[&str]) -> Vec<u16> {
    let mut found = Vec::new();
    for target in targets {
        found.push(from(address, gateway, &get(target)).await.status());
    }
    found
}

#[tokio::test]
async fn a_flood_is_refused_on_every_path_and_other_clients_are_not() {
    let gateway = Gateway::start(&format!(
        "flood_guard: {{ requests: 4/1min, exempt: [127.0.0.9] }}\n{ROUTE}"
    ))
    .await;
    // Scans for pages that do not exist count as well.
    let targets = ["/", "/wp-login.php", "/.env", "/", "/", "/nowhere"];
    let found = statuses("127.0.0.1", &gateway, &targets).await;
    assert_eq!(found, [200, 404, 404, 200, 429, 429]);
    let refused = from("127.0.0.1", &gateway, &get("/")).await;
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert!(refused.header("x-request-id").is_some());
    assert!(refused.header("x-content-type-options").is_some());
    assert_eq!(statuses("127.0.0.2", &gateway, &["/"]).await, [200]);
    assert_eq!(statuses("127.0.0.9", &gateway, &["/"; 12]).await, [200; 12]);
    gateway
        .counts("edgeway_refused_total{reason=\"flood\"}", 3)
        .await;
    let lines = gateway.log_lines(19).await;
    let refused: Vec<_> = lines.iter().filter(|line| line["status"] == 429).collect();
    assert!(
        refused.iter().all(|line| line["reason"] == "flood"),
        "{refused:?}"
    );

    // The control: without the section no client is counted.
    let gateway = Gateway::start(ROUTE).await;
    assert_eq!(statuses("127.0.0.1", &gateway, &["/"; 12]).await, [200; 12]);
}

#[tokio::test]
async fn the_next_request_passes_after_the_retry_after() {
    let gateway = Gateway::start(&format!("flood_guard: {{ requests: 2/1s }}\n{ROUTE}")).await;
    let refused = wait_for("the flood is refused", SOON, async || {
        let response = gateway.get("/").await;
        (response.status() == 429).then_some(response)
    })
    .await;
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert_eq!(wait, 1);
    pass(Duration::from_secs(wait)).await;
    assert_eq!(gateway.get("/").await.status(), 200);
}

#[tokio::test]
async fn counts_go_on_over_a_reload() {
    let yaml = format!("flood_guard: {{ requests: 4/1min }}\n{ROUTE}");
    let gateway = Gateway::start(&yaml).await;
    assert_eq!(statuses("127.0.0.1", &gateway, &["/"; 3]).await, [200; 3]);
    assert!(
        gateway
            .reload(&yaml.replace("respond: ok", "respond: new"))
            .await
    );
    assert_eq!(gateway.get("/").await.text(), "new");
    assert_eq!(gateway.get("/").await.status(), 429);
    // Another window is another count.
    assert!(gateway.reload(&yaml.replace("1min", "50s")).await);
    assert_eq!(gateway.get("/").await.status(), 200);
}

#[tokio::test]
async fn a_trusted_proxys_clients_are_counted_and_not_the_proxy() {
    let gateway = Gateway::start(&format!(
        "trusted_proxies: [127.0.0.1]\nflood_guard: {{ requests: 2/1min }}\n{ROUTE}"
    ))
    .await;
    let of = |client: &str| get("/").header("x-forwarded-for", client);
    for (client, expected) in [
        ("203.0.113.1", [200, 200, 429]),
        ("203.0.113.2", [200, 200, 429]),
    ] {
        for status in expected {
            assert_eq!(gateway.send(&of(client)).await.status(), status, "{client}");
        }
    }
    // All addresses of a /64 are one client.
    for (client, status) in [
        ("2001:db8::1", 200),
        ("2001:db8::2", 200),
        ("2001:db8::3", 429),
    ] {
        assert_eq!(gateway.send(&of(client)).await.status(), status, "{client}");
    }
    assert_eq!(statuses("127.0.0.1", &gateway, &["/"; 6]).await, [200; 6]);
    // Other peers cannot choose the client address of their requests.
    let liar = get("/").header("x-forwarded-for", "203.0.113.7");
    for status in [200, 200, 429] {
        assert_eq!(from("127.0.0.2", &gateway, &liar).await.status(), status);
    }
}

#[tokio::test]
async fn concurrent_requests_are_bounded_and_their_permits_come_back() {
    let origin = SlowOrigin::start(Duration::from_secs(30)).await;
    let gateway = Gateway::start(&format!(
        "flood_guard: {{ requests: 1000/s, in_flight: 2, ban: {{ after: 1 }} }}\n\
         upstreams: {{ app: {{ backends: ['{}'], health: false }} }}\n\
         routes: [{{ match: {{ path: / }}, respond: ok }}, {{ match: {{ path: /slow }}, upstream: app }}]\n",
        origin.address()
    ))
    .await;
    let mut slow = JoinSet::new();
    for _ in 0..2 {
        let to = gateway.address();
        slow.spawn(async move { client::send(to, &get("/slow")).await });
    }
    wait_for("both are in flight", SOON, async || {
        (origin.counts().requests() == 2).then_some(())
    })
    .await;
    let refused = gateway.get("/").await;
    assert_eq!(
        (refused.status(), refused.header("retry-after")),
        (503, Some("1"))
    );
    assert_eq!(statuses("127.0.0.2", &gateway, &["/"]).await, [200]);
    let counted = "edgeway_refused_total{reason=\"flood_in_flight\"}";
    gateway.counts(counted, 1).await;
    // It is not banned, and a client that disconnects returns its place.
    drop(slow);
    wait_for("the places are back", SOON, async || {
        (gateway.get("/").await.status() == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_open_websocket_holds_no_permit() {
    let origin = WsOrigin::start().await;
    let gateway = Gateway::start(&format!(
        "flood_guard: {{ in_flight: 1 }}\n\
         upstreams: {{ app: {{ backends: ['{}'], health: false }} }}\n\
         routes: [{{ match: {{ path: / }}, respond: ok }}, \
                  {{ match: {{ path: /ws }}, upstream: app, websocket: true }}]\n",
        origin.address()
    ))
    .await;
    let upgrade = get("/ws")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA==");
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut connection = gateway.connect().await;
        let headers = connection.start(&upgrade).await.expect("it is upgraded");
        assert_eq!(headers.status, 101);
        open.push(connection);
    }
    assert_eq!(gateway.get("/").await.status(), 200);
}

/// Node app that contains the snippet of the docs unchanged.
struct Clearing {
    child: Child,
    port: u16,
}

impl Drop for Clearing {
    fn drop(&mut self) {
        // It may have exited by itself; the test says why.
        let _gone = self.child.kill();
        let _code = self.child.wait();
    }
}

const KEY: &str = "0123456789abcdef0123456789abcdef";

async fn clearing(folder: &std::path::Path) -> Clearing {
    let page = include_str!("../../docs/flood-guard.md");
    let (_, rest) = page.split_once("```js\n").expect("the page has a snippet");
    let (snippet, _) = rest.split_once("```").expect("it ends");
    let port = free_port();
    let program = format!(
        "{snippet}
require('node:http').createServer((req, res) => {{
  if (req.url.startsWith('/challenge')) return clear(req, res);
  res.end('app ' + req.url);
}}).listen({port}, '127.0.0.1');
process.stdin.on('end', () => process.exit()).resume();
"
    );
    let file = folder.join("app.js");
    fs::write(&file, program).expect("the folder takes files");
    let child = Command::new("node")
        .arg(&file)
        .env("CHALLENGE_KEY", KEY)
        .stdin(Stdio::piped())
        .spawn()
        .expect("node is installed");
    let app = Clearing { child, port };
    let address = (std::net::Ipv4Addr::LOCALHOST, port).into();
    wait_for("the app responds", SOON, async || {
        client::send(address, &get("/")).await.ok()
    })
    .await;
    app
}

fn navigation(target: &str) -> Request {
    get(target).header("accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8")
}

#[tokio::test]
async fn a_browser_that_asks_too_often_passes_the_challenge_once() {
    let folder = tempfile::tempdir().unwrap();
    let app = clearing(folder.path()).await;
    let gateway = Gateway::start(&format!(
        "flood_guard:\n  requests: 60/1min\n  challenge: {{ redirect: /challenge, above: 3/1min, key: {KEY} }}\n\
         upstreams: {{ app: {{ backends: ['127.0.0.1:{}'], health: false }} }}\n\
         routes: [{{ match: {{}}, upstream: app }}]\n",
        app.port
    ))
    .await;
    for _ in 0..3 {
        assert_eq!(gateway.send(&navigation("/shop?a=1")).await.status(), 200);
    }
    let sent = gateway.send(&navigation("/shop?a=1&b=%2F")).await;
    assert_eq!(sent.status(), 302);
    assert_eq!(sent.header("cache-control"), Some("no-store"));
    let location = sent.header("location").unwrap();
    let host = gateway.address().to_string().replace(':', "%3A");
    let expected = format!("/challenge?return=http%3A%2F%2F{host}%2Fshop%3Fa%3D1%26b%3D%252F");
    assert_eq!(location, expected);
    // A script cannot show a page.
    let script = gateway.get("/api/x").await;
    assert_eq!(script.status(), 429);
    assert!(script.header("retry-after").is_some());
    let post = Request::new("POST", "/shop").header("accept", "text/html");
    assert_eq!(gateway.send(&post).await.status(), 429);
    // Another client is not challenged.
    assert_eq!(
        from("127.0.0.2", &gateway, &navigation("/")).await.status(),
        200
    );

    let cleared = gateway.send(&navigation(location)).await;
    assert_eq!(cleared.status(), 303, "the page itself is let through");
    let back = cleared.header("location").unwrap();
    assert_eq!(back, "/shop?a=1&b=%2F");
    let cookie = cleared.header("set-cookie").unwrap();
    let cookie = cookie.split(';').next().unwrap();
    for target in [back, "/api/x"] {
        let with = navigation(target).header("cookie", format!("theme=dark; {cookie}"));
        let response = gateway.send(&with).await;
        assert_eq!(
            (response.status(), response.text()),
            (200, format!("app {target}"))
        );
    }
    // The cookie is invalid for another client, and if modified.
    let stolen = navigation("/").header("cookie", cookie);
    for _ in 0..2 {
        from("127.0.0.2", &gateway, &navigation("/")).await;
    }
    assert_eq!(from("127.0.0.2", &gateway, &stolen).await.status(), 302);
    let forged = navigation("/").header("cookie", cookie.replace("=v1.", "=v1.1"));
    assert_eq!(gateway.send(&forged).await.status(), 302);
    let lines = gateway.log_lines(14).await;
    let mut sent = lines.iter().filter(|line| line["status"] == 302);
    assert!(sent.all(|line| line["reason"] == "challenge"), "{lines:?}");
    assert!(
        !fs::read_to_string(gateway.folder().join("access.log"))
            .unwrap()
            .contains(cookie)
    );
}

#[tokio::test]
async fn no_challenge_leads_to_itself_and_all_of_it_is_bounded() {
    let origin = EchoOrigin::start().await;
    let gateway = Gateway::start(&format!(
        "flood_guard:\n  requests: 12/1min\n  challenge: {{ redirect: 'https://check.test/verify', above: 1/1min, key: {KEY} }}\n\
         upstreams: {{ app: {{ backends: ['{}'], health: false }} }}\n\
         routes: [{{ match: {{}}, upstream: app }}]\n",
        origin.address()
    ))
    .await;
    let there = |target: &str| navigation(target).header("host", "check.test");
    gateway.send(&there("/")).await;
    for (target, status) in [
        ("/verify", 200),
        ("/verify?return=x", 200),
        ("/verify/app.js", 200),
        ("/verifying", 302),
        ("/", 302),
    ] {
        assert_eq!(
            gateway.send(&there(target)).await.status(),
            status,
            "{target}"
        );
    }
    // The same path on another host does not bypass the challenge.
    assert_eq!(gateway.send(&navigation("/verify")).await.status(), 302);
    let mut found = Vec::new();
    for _ in 0..8 {
        found.push(gateway.send(&there("/verify")).await.status());
    }
    assert_eq!(found, [200, 200, 200, 200, 200, 429, 429, 429]);
}
