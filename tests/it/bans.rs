//! Bans, by rule and by hand: their causes, the clients that they affect, and their ends.

use std::{fs, net::IpAddr, time::Duration};

use serde_json::{Value, json};

use crate::{
    cli::over_socket,
    support::{
        client::{ClientError, Connection, Request, Response, get, post},
        gateway::Gateway,
        http2,
        origins::SlowOrigin,
        wait::wait_for,
    },
};

const SOON: Duration = Duration::from_secs(10);

const BASE: &str = "admin: { address: 127.0.0.1:0, socket: admin.sock }\n\
    audit_log: { file: audit.log }\n\
    routes: [{ match: { path: / }, respond: ok }]\n";

fn ip(address: &str) -> IpAddr {
    address.parse().expect("an address")
}

async fn connect(address: &str, gateway: &Gateway) -> Connection {
    let opened = Connection::open_from(ip(address), gateway.address()).await;
    opened.expect("the gateway accepts connections")
}

/// Sends one request on its own connection; `None` if the gateway closed the connection instead.
async fn ask(address: &str, gateway: &Gateway) -> Option<Response> {
    let mut connection = connect(address, gateway).await;
    let sent = connection.send(&get("/")).await;
    let is_closed = matches!(sent, Err(ClientError::NoResponse | ClientError::Io(_)));
    (!is_closed).then(|| sent.expect("a response, or a closed connection"))
}

async fn status(address: &str, gateway: &Gateway) -> Option<u16> {
    ask(address, gateway)
        .await
        .map(|response| response.status())
}

#[tokio::test]
async fn refusals_become_a_ban_that_is_seen_and_lifted() {
    let guard = "flood_guard: { requests: 2/1min, ban: { after: 3, within: 1min, for: 10min } }\n";
    let gateway = Gateway::start(&format!("{guard}{BASE}")).await;
    let mut connection = connect("127.0.0.3", &gateway).await;
    for expected in [200, 200, 429, 429] {
        assert_eq!(connection.send(&get("/")).await.unwrap().status(), expected);
    }
    let counts = gateway.status().await;
    assert_eq!(counts["bans"], json!({ "active": 0, "struck": 1 }));
    // The third refusal still has its own reason and status.
    let last = connection.send(&get("/")).await.unwrap();
    assert_eq!(last.status(), 429);
    wait_for("it is banned", SOON, async || {
        (gateway.status().await["bans"]["active"] == 1).then_some(())
    })
    .await;
    let banned = connection.send(&get("/")).await.unwrap();
    assert_eq!(
        (banned.status(), banned.header("connection")),
        (403, Some("close"))
    );
    let left: u64 = banned.header("retry-after").unwrap().parse().unwrap();
    assert!((590..=600).contains(&left), "{left}");
    assert!(connection.is_closed().await);
    assert_eq!(status("127.0.0.3", &gateway).await, None);
    assert_eq!(status("127.0.0.4", &gateway).await, Some(200));
    gateway
        .counts("edgeway_refused_total{reason=\"banned\"}", 2)
        .await;
    assert_eq!(gateway.count("edgeway_bans").await, 1);
    assert_eq!(gateway.count("edgeway_bans_total{by=\"rule\"}").await, 1);
    let lines = gateway.log_lines(7).await;
    let of = |reason: &str| -> Vec<&Value> {
        let lines = lines.iter().filter(|line| line["reason"] == reason);
        lines.map(|line| &line["id"]).collect()
    };
    assert_eq!(of("banned").len(), 1);

    let bans = gateway.admin_get("/v1/bans").await.json();
    let ban = &bans["bans"][0];
    assert_eq!(ban["address"], "127.0.0.3");
    assert_eq!(
        (&ban["reason"], &ban["strikes"], &ban["by"]),
        (&json!("flood"), &json!(3), &json!("rule"))
    );
    let listed = over_socket(&gateway, &["bans"]);
    assert!(
        listed.stdout.contains("127.0.0.3") && listed.stdout.contains("flood"),
        "{}",
        listed.stdout
    );
    let shown = over_socket(&gateway, &["status"]);
    assert!(
        shown.stdout.contains("bans       1 client banned"),
        "{}",
        shown.stdout
    );
    let line = &gateway.audited("ban").await[0];
    assert_eq!(
        (&line["who"], &line["target"]),
        (&json!("gateway"), &json!("127.0.0.3"))
    );
    assert_eq!(
        (&line["reason"], &line["outcome"]),
        (&json!("flood"), &json!("ok"))
    );
    assert_eq!(line["message"], "3 refusals, banned for 10min");
    assert!(of("flood").contains(&&line["request_id"]), "{line}");

    let lifted = over_socket(&gateway, &["unban", "127.0.0.3"]);
    assert_eq!(
        (lifted.status, lifted.stderr.as_str()),
        (0, "127.0.0.3 may pass again\n")
    );
    assert_eq!(
        status("127.0.0.3", &gateway).await,
        Some(429),
        "the flood goes on"
    );
    let line = &gateway.audited("unban").await[0];
    assert_eq!(
        (&line["who"], &line["target"]),
        (&json!("unix"), &json!("127.0.0.3"))
    );
    assert_eq!(gateway.count("edgeway_bans").await, 0);
    let none = over_socket(&gateway, &["bans"]);
    assert_eq!(
        (none.stdout.as_str(), none.stderr.as_str()),
        ("", "no client is banned\n")
    );
}

#[tokio::test]
async fn exempt_and_trusted_addresses_are_never_banned_by_rule() {
    let guard = "trusted_proxies: [127.0.0.8]\n\
        flood_guard: { requests: 1/1min, exempt: [127.0.0.9], ban: { after: 2 } }\n";
    let gateway = Gateway::start(&format!("{guard}{BASE}")).await;
    for address in ["127.0.0.8", "127.0.0.9"] {
        for _ in 0..8 {
            assert_eq!(status(address, &gateway).await, Some(200), "{address}");
        }
    }
    // One of a proxy's clients is banned, and the proxy's connection still serves the others.
    let mut proxy = connect("127.0.0.8", &gateway).await;
    let mut of = async |client: &str| {
        let request = get("/").header("x-forwarded-for", client);
        proxy.send(&request).await.expect("it stays open").status()
    };
    for expected in [200, 429, 429] {
        assert_eq!(of("203.0.113.1").await, expected);
    }
    wait_for("it is banned", SOON, async || {
        (gateway.count("edgeway_bans").await == 1).then_some(())
    })
    .await;
    assert_eq!(of("203.0.113.1").await, 403);
    assert_eq!(of("203.0.113.2").await, 200);
}

#[tokio::test]
async fn guessing_keys_is_noted_and_banned() {
    let yaml = format!(
        "flood_guard: {{ ban: {{ after: 3 }} }}\n{}",
        BASE.replace(
            "respond: ok }",
            "respond: ok }, { name: gate, match: { path: /gate }, respond: ok, api_key: { keys: [{ \
             name: acme, hash: 'sha256:7a1d0c1bd6ecd2d2f5f2c5e0a1f6a5b8e4bb6f2a9d0d7c2f0f4f1c9b8e7d6a53' }] } }",
        )
    );
    let gateway = Gateway::start(&yaml).await;
    let mut guesser = connect("127.0.0.7", &gateway).await;
    for guess in ["guess-1", "guess-2", "guess-3"] {
        let request = get("/gate").header("x-api-key", guess);
        assert_eq!(guesser.send(&request).await.unwrap().status(), 401);
    }
    wait_for("it is banned", SOON, async || {
        (gateway.count("edgeway_bans").await == 1).then_some(())
    })
    .await;
    assert_eq!(guesser.send(&get("/")).await.unwrap().status(), 403);
    // The control: requests for open paths are not guessing.
    for _ in 0..8 {
        assert_eq!(status("127.0.0.1", &gateway).await, Some(200));
    }
    let noted = gateway.audited("auth").await;
    let ids: Vec<Value> = gateway
        .log_lines(4)
        .await
        .into_iter()
        .map(|mut line| line["id"].take())
        .collect();
    for line in &noted {
        assert_eq!(
            (&line["who"], &line["outcome"]),
            (&json!("127.0.0.7"), &json!("refused"))
        );
        assert_eq!(
            (&line["reason"], &line["route"]),
            (&json!("api_key_invalid"), &json!("gate"))
        );
        assert!(ids.contains(&line["request_id"]), "{line}");
    }
    let text = fs::read_to_string(gateway.folder().join("audit.log")).unwrap();
    assert!(!text.contains("guess-"), "{text}");
    assert_eq!(gateway.audited("ban").await[0]["reason"], "api_key_invalid");
}

#[tokio::test]
async fn repeatedly_exceeding_a_rate_limit_is_banned() {
    let yaml = format!(
        "flood_guard: {{ ban: {{ after: 2 }} }}\n\
         rate_limits: {{ edge: {{ rate: 1/min, key: client.ip }} }}\n{}",
        BASE.replace("respond: ok", "respond: ok, rate_limit: [edge]")
    );
    let gateway = Gateway::start(&yaml).await;
    for expected in [200, 429, 429] {
        assert_eq!(status("127.0.0.7", &gateway).await, Some(expected));
    }
    gateway.counts("edgeway_bans", 1).await;
    assert_eq!(status("127.0.0.7", &gateway).await, None);
    assert_eq!(gateway.audited("ban").await[0]["reason"], "rate_limit");
}

#[tokio::test]
async fn a_ban_by_hand_needs_no_section_and_outlives_reload_and_upgrade() {
    let mut gateway = Gateway::start(BASE).await;
    let done = over_socket(
        &gateway,
        &["ban", "127.0.0.5", "--for", "1h", "--reason", "scraping"],
    );
    assert_eq!(done.status, 0, "{}", done.stderr);
    assert!(
        done.stderr.starts_with("127.0.0.5 is banned until 2"),
        "{}",
        done.stderr
    );
    assert_eq!(status("127.0.0.5", &gateway).await, None);
    assert_eq!(status("127.0.0.1", &gateway).await, Some(200));
    assert!(
        gateway
            .reload(&BASE.replace("respond: ok", "respond: new"))
            .await
    );
    assert_eq!(status("127.0.0.5", &gateway).await, None);
    gateway.upgrade().await;
    assert_eq!(status("127.0.0.5", &gateway).await, None);
    assert_eq!(status("127.0.0.1", &gateway).await, Some(200));
    let bans = over_socket(&gateway, &["bans", "--json"]);
    let bans: Value = serde_json::from_str(&bans.stdout).unwrap();
    let ban = &bans["bans"][0];
    assert_eq!(
        (&ban["reason"], &ban["by"], &ban["strikes"]),
        (&json!("scraping"), &json!("operator"), &json!(0))
    );
    assert_eq!(over_socket(&gateway, &["unban", "127.0.0.5"]).status, 0);
    assert_eq!(status("127.0.0.5", &gateway).await, Some(200));
    // A short ban expires by itself.
    assert_eq!(
        over_socket(&gateway, &["ban", "127.0.0.5", "--for", "1s"]).status,
        0
    );
    assert_eq!(status("127.0.0.5", &gateway).await, None);
    wait_for("the ban has ended", SOON, async || {
        status("127.0.0.5", &gateway).await
    })
    .await;
}

#[tokio::test]
async fn a_banned_client_is_closed_before_it_sends_anything() {
    let gateway = Gateway::start(BASE).await;
    let mut waiting = connect("127.0.0.6", &gateway).await;
    assert_eq!(waiting.send(&get("/")).await.unwrap().status(), 200);
    assert_eq!(over_socket(&gateway, &["ban", "127.0.0.6"]).status, 0);
    let mut silent = connect("127.0.0.6", &gateway).await;
    assert!(silent.is_closed().await);
    // On an open connection the client gets the reason, once.
    assert_eq!(waiting.send(&get("/")).await.unwrap().status(), 403);
    assert!(waiting.is_closed().await);
}

#[tokio::test]
async fn a_connection_of_http2_ends_with_its_clients_ban() {
    let origin = SlowOrigin::start(Duration::from_secs(2)).await;
    let base = BASE.replace("]\n", ", { match: { path: /slow }, upstream: app }]\n");
    let gateway = Gateway::start(&format!(
        "listeners: [{{ address: 127.0.0.1:0, http2: {{ cleartext: true }} }}]\n\
         upstreams: {{ app: {{ backends: ['{}'], health: false }} }}\n{base}",
        origin.address()
    ))
    .await;
    let mut connection = http2::Client::open(gateway.address()).await;
    let begun = connection.begin(http2::request("GET", "/slow"), true).await;
    let (slow, _stream) = begun.unwrap();
    assert_eq!(connection.get("/").await.status(), 200);
    let ban = post("/v1/bans", json!({ "address": "127.0.0.1" }).to_string());
    let ban = ban.header("content-type", "application/json");
    assert_eq!(gateway.send_admin(&ban).await.status(), 200);
    assert_eq!(connection.get("/").await.status(), 403);
    let slow = http2::read_response(slow).await;
    assert_eq!(slow.unwrap().status(), 200, "it was in flight");
    // The gateway may take a moment longer than the client to be done with it.
    let mut refused = 1;
    while let Ok(response) = connection.send(http2::request("GET", "/"), "").await {
        assert_eq!(response.status(), 403);
        refused += 1;
        assert!(refused < 50, "the connection ends");
    }
    let ended = connection.ended().await;
    assert!(
        ended.is_err_and(|error| error.is_go_away()),
        "the connection ends with GOAWAY"
    );
    wait_for("each is counted", SOON, async || {
        (gateway.refused("banned").await >= refused).then_some(())
    })
    .await;
}

#[tokio::test]
async fn refusals_that_a_client_of_http2_does_not_read_count_too() {
    let listeners = "listeners: [{ address: 127.0.0.1:0, http2: { cleartext: true } }]\n";
    let guard = "flood_guard: { requests: 2/1min, ban: { after: 3, within: 1min, for: 10min } }\n";
    let gateway = Gateway::start(&format!("{listeners}{guard}{BASE}")).await;
    let mut unread = h2::client::Builder::new();
    unread.initial_window_size(0);
    let client = http2::Client::open_with(gateway.address(), &mut unread).await;
    for expected in [200, 200, 429, 429, 429] {
        let begun = client.begin(http2::request("GET", "/"), true).await;
        let (response, _) = begun.unwrap();
        // The stream is reset when its body is dropped.
        assert_eq!(response.await.unwrap().status(), expected);
    }
    gateway.counts("edgeway_bans", 1).await;
    gateway
        .counts("edgeway_refused_total{reason=\"flood\"}", 3)
        .await;
    let begun = client.begin(http2::request("GET", "/"), true).await;
    let (response, _) = begun.unwrap();
    assert_eq!(response.await.unwrap().status(), 403);
    gateway
        .counts("edgeway_refused_total{reason=\"banned\"}", 1)
        .await;
}

#[tokio::test]
async fn invalid_bans_are_refused_with_their_reason() {
    let gateway = Gateway::start(&format!("trusted_proxies: [10.0.0.0/8]\n{BASE}")).await;
    let ban =
        |body: Value| post("/v1/bans", body.to_string()).header("content-type", "application/json");
    for (request, expected) in [
        (
            ban(json!({ "address": "example.com" })),
            (422, "bad_address"),
        ),
        (
            ban(json!({ "address": "192.0.2.0/24" })),
            (422, "bad_address"),
        ),
        (
            ban(json!({ "address": "192.0.2.1", "for": "10ms" })),
            (422, "bad_time"),
        ),
        (
            ban(json!({ "address": "192.0.2.1", "for": "ages" })),
            (400, "body"),
        ),
        (
            ban(json!({ "address": "192.0.2.1", "reason": "a\nb" })),
            (422, "bad_reason"),
        ),
        (
            ban(json!({ "address": "10.1.2.3" })),
            (409, "trusted_proxy"),
        ),
        (
            Request::new("DELETE", "/v1/bans/192.0.2.1"),
            (404, "not_banned"),
        ),
    ] {
        let response = gateway.send_admin(&request).await;
        let reason = response.json()["error"]["reason"]
            .as_str()
            .unwrap()
            .to_owned();
        assert_eq!(
            (response.status(), reason.as_str()),
            expected,
            "{request:?}"
        );
    }
    let refused = &gateway.audited("ban").await[0];
    assert_eq!(
        (&refused["outcome"], &refused["reason"]),
        (&json!("refused"), &json!("bad_address"))
    );
    // For IPv6 a whole /64 is one client.
    let done = gateway
        .send_admin(&ban(json!({ "address": "2001:db8::7" })))
        .await
        .json();
    assert_eq!(
        (&done["address"], &done["reason"]),
        (&json!("2001:db8::/64"), &json!("operator"))
    );
    let lift = Request::new("DELETE", "/v1/bans/2001:db8::%2F64");
    assert_eq!(gateway.send_admin(&lift).await.status(), 200);
    let refused = over_socket(&gateway, &["ban", "nowhere"]);
    assert_eq!(refused.status, 2);
    assert!(
        refused.stderr.contains("invalid client address"),
        "{}",
        refused.stderr
    );
}

#[tokio::test]
async fn a_ban_ends_once_its_address_is_a_trusted_proxy() {
    let gateway = Gateway::start(BASE).await;
    let outcome = over_socket(&gateway, &["ban", "127.0.0.5"]);
    assert_eq!(outcome.status, 0, "{}", outcome.stderr);
    assert_eq!(status("127.0.0.5", &gateway).await, None);
    assert!(
        gateway
            .reload(&format!("trusted_proxies: [127.0.0.5]\n{BASE}"))
            .await
    );
    assert_eq!(status("127.0.0.5", &gateway).await, Some(200));
    // The proxy's clients are other addresses.
    let mut proxied = connect("127.0.0.5", &gateway).await;
    let outcome = over_socket(&gateway, &["ban", "192.0.2.7"]);
    assert_eq!(outcome.status, 0, "{}", outcome.stderr);
    let ask = get("/").header("x-forwarded-for", "192.0.2.7");
    assert_eq!(proxied.send(&ask).await.unwrap().status(), 403);
}
