//! Ways in which one client's response has reached another, each now prevented by a rule.

use std::{fs, path::Path, sync::Arc};

use jsonwebtoken::{EncodingKey, Header, encode};
use rcgen::DnType;
use serde_json::json;

use super::{CACHE_CONTROL, PROXY, VARY};
use crate::support::{
    certificates::{Ca, Wanted},
    client::{Connection, Request, Response, get},
    front::Front,
    gateway::Gateway,
    origins::{NumberedOrigin, Origin, PresetOrigin, ReflectingOrigin, echoed},
};

const SECRET: &str = "thirty-two bytes that nobody else knows";

/// Returns the last path segment that selects these headers.
fn selecting(cache_control: &str, vary: &str) -> String {
    let of = |all: &[&str], one: &str| all.iter().position(|it| *it == one).expect("it is one");
    format!("{}-{}", of(&CACHE_CONTROL, cache_control), of(&VARY, vary))
}

async fn reflecting() -> Origin<ReflectingOrigin> {
    ReflectingOrigin::start("one", &CACHE_CONTROL, &VARY).await
}

/// Starts a gateway with these routes to `app`; `top` is inserted before them.
async fn front(origin: &Origin<ReflectingOrigin>, top: &str, routes: &str) -> Gateway {
    let address = origin.address();
    Gateway::start(&format!(
        "{top}\nupstreams: {{ app: {{ backends: ['{address}'], health: false }} }}\nroutes:\n{routes}"
    ))
    .await
}

/// Returns the target that the origin received for this response.
fn target(response: &Response) -> String {
    let body = response.json();
    body["target"].as_str().expect("a text").to_owned()
}

fn token(claims: &serde_json::Value) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let token = encode(&Header::default(), claims, &key).expect("it can sign");
    format!("Bearer {token}")
}

#[tokio::test]
async fn routes_that_ask_for_something_else_share_nothing() {
    let origin = reflecting().await;
    let gateway = front(
        &origin,
        "",
        "  - { name: beta, match: { path: '/*', header: { X-Beta: '1' } }, upstream: app, rewrite: { prefix: /, with: /beta/ }, cache: {} }
  - { name: gamma, match: { path: '/*', header: { X-Gamma: '1' } }, upstream: app, headers: { response: { set: { X-A: b } } }, cache: {} }
  - { name: app, match: { path: '/*' }, upstream: app, cache: {} }
",
    )
    .await;
    let path = format!("/{}", selecting("max-age=600", ""));
    let beta = gateway.send(&get(&path).header("x-beta", "1")).await;
    assert_eq!(
        (beta.cache_status(), target(&beta)),
        ("MISS", format!("/beta{path}"))
    );
    let plain = gateway.get(&path).await;
    assert_eq!(
        (plain.cache_status(), target(&plain)),
        ("MISS", path.clone())
    );
    // Changes to responses on their way to clients do not separate entries.
    let gamma = gateway.send(&get(&path).header("x-gamma", "1")).await;
    assert_eq!((gamma.cache_status(), target(&gamma)), ("HIT", path));
}

#[tokio::test]
async fn vary_on_a_header_of_the_gateway_uses_the_forwarded_value() {
    let origin = reflecting().await;
    let gateway = front(
        &origin,
        &format!("trusted_proxies: [{PROXY}/32]"),
        &format!(
            "  - {{ name: app, match: {{ path: '/*' }}, upstream: app, jwt: {{ keys: '{SECRET}', optional: true, forward: {{ sub: X-User-Id }} }}, cache: {{}} }}\n"
        ),
    )
    .await;
    let by_user = format!("/{}", selecting("public, max-age=600", "X-User-Id"));
    let user = |sub: &str| {
        let token = token(&json!({ "sub": sub, "exp": 4_000_000_000_u64 }));
        get(&by_user).header("authorization", token)
    };
    let seen = async |request: &Request| {
        let response = gateway.send(request).await;
        let user = echoed(&response.json(), "x-user-id").map(str::to_owned);
        (response.cache_status().to_owned(), user)
    };
    let outcome = |status: &str, user: Option<&str>| (status.to_owned(), user.map(str::to_owned));
    assert_eq!(seen(&user("ann")).await, outcome("MISS", Some("ann")));
    assert_eq!(seen(&user("ann")).await, outcome("HIT", Some("ann")));
    assert_eq!(seen(&user("bob")).await, outcome("MISS", Some("bob")));
    // The client's own value does not count.
    let forged = get(&by_user).header("x-user-id", "ann");
    assert_eq!(seen(&forged).await, outcome("MISS", None));
    assert_eq!(seen(&get(&by_user)).await, outcome("HIT", None));

    let by_address = format!("/{}", selecting("max-age=600", "X-Real-IP"));
    let from = async |address: &str| {
        let proxy = PROXY.parse().expect("an address");
        let mut proxy = Connection::open_from(proxy, gateway.address())
            .await
            .expect("it listens");
        let request = get(&by_address).header("x-forwarded-for", address);
        let response = proxy.send(&request).await.expect("a response");
        let seen = echoed(&response.json(), "x-real-ip").map(str::to_owned);
        (response.cache_status().to_owned(), seen)
    };
    assert_eq!(from("10.0.0.1").await, outcome("MISS", Some("10.0.0.1")));
    assert_eq!(from("10.0.0.2").await, outcome("MISS", Some("10.0.0.2")));
    assert_eq!(from("10.0.0.1").await, outcome("HIT", Some("10.0.0.1")));
}

#[tokio::test]
async fn parameters_out_of_the_key_do_not_reach_the_origin() {
    let origin = reflecting().await;
    let gateway = front(
        &origin,
        "",
        "  - { name: passing, match: { path: '/pass/*' }, upstream: app, cache: { key: { ignore_query: ['utm_*'], pass_unkeyed: true } } }
  - { name: app, match: { path: '/*' }, upstream: app, cache: { key: { ignore_query: ['utm_*'] } } }
",
    )
    .await;
    let path = format!("/{}", selecting("max-age=600", ""));
    for (query, expected) in [
        ("?utm_source=evil&page=1", "MISS"),
        ("?%75tm_source=evil&page=1", "HIT"),
        ("?page=1", "HIT"),
        ("?page=1&utm_x", "HIT"),
    ] {
        let response = gateway.get(&format!("{path}{query}")).await;
        let got = (response.cache_status(), target(&response));
        assert_eq!(got, (expected, format!("{path}?page=1")), "{query}");
    }
    // A request that bypasses the store is sent unchanged.
    let written = Request::new("POST", &format!("{path}?utm_source=1"));
    assert_eq!(
        target(&gateway.send(&written).await),
        format!("{path}?utm_source=1")
    );
    let passed = gateway.get(&format!("/pass{path}?utm_source=1")).await;
    assert_eq!(target(&passed), format!("/pass{path}?utm_source=1"));
    assert_eq!(
        gateway.get(&format!("/pass{path}")).await.cache_status(),
        "HIT"
    );
}

#[tokio::test]
async fn an_ambiguous_part_of_the_key_bypasses_the_cache() {
    let origin = reflecting().await;
    let gateway = front(
        &origin,
        "",
        "  - name: app
    match: { path: '/*' }
    upstream: app
    cache: { key: { by: ['cookie:lang', 'header:X-Tenant'] }, anonymous_cookies: ['*'], bypass: ['cookie:preview', 'header:X-Fresh'] }
",
    )
    .await;
    let path = format!("/{}", selecting("max-age=600", ""));
    let long = "x".repeat(5000);
    let bypassing: [&[(&str, &str)]; 9] = [
        &[("cookie", "lang=de; lang=en")],
        &[("cookie", "lang=de"), ("cookie", "lang=en")],
        &[("cookie", "lang=de; lang =en")],
        &[("x-tenant", "a"), ("x-tenant", "b")],
        &[("x-tenant", &long)],
        &[("cookie", "preview=; preview=1")],
        &[("cookie", "preview =1")],
        &[("x-fresh", ""), ("x-fresh", "1")],
        &[("x-fresh", &long)],
    ];
    for headers in bypassing {
        for _ in 0..2 {
            let request = headers
                .iter()
                .fold(get(&path), |it, (name, value)| it.header(name, *value));
            let response = gateway.send(&request).await;
            assert_eq!(response.cache_status(), "BYPASS", "{headers:?}");
        }
    }
    // Backends differ in how they read quotes: each spelling has its own entry.
    for value in ["lang=de", "lang=\"de\"", "lang=%64e"] {
        let request = get(&path).header("cookie", value);
        assert_eq!(
            gateway.send(&request).await.cache_status(),
            "MISS",
            "{value}"
        );
        assert_eq!(
            gateway.send(&request).await.cache_status(),
            "HIT",
            "{value}"
        );
    }
}

#[tokio::test]
async fn two_issuers_of_one_name_name_two_people() {
    let origin = reflecting().await;
    let gateway = front(
        &origin,
        "",
        &format!(
            "  - {{ name: app, match: {{ path: '/*' }}, upstream: app, jwt: {{ keys: '{SECRET}' }}, cache: {{ key: {{ by: [jwt.sub] }} }} }}\n"
        ),
    )
    .await;
    let path = format!("/{}", selecting("max-age=600", ""));
    let of = |issuer: &str| {
        let claims = json!({ "sub": "ann", "iss": issuer, "exp": 4_000_000_000_u64 });
        get(&path).header("authorization", token(&claims))
    };
    for (issuer, expected) in [
        ("one", "MISS"),
        ("two", "MISS"),
        ("one", "HIT"),
        ("two", "HIT"),
    ] {
        assert_eq!(
            gateway.send(&of(issuer)).await.cache_status(),
            expected,
            "{issuer}"
        );
    }
    // A list is not comparable with a single value.
    let several = token(&json!({ "sub": ["a", "b"], "exp": 4_000_000_000_u64 }));
    let request = get(&path).header("authorization", several);
    for _ in 0..2 {
        assert_eq!(gateway.send(&request).await.cache_status(), "BYPASS");
    }
}

#[tokio::test]
async fn behind_a_trusted_proxy_both_hosts_and_the_port_count() {
    let origin = reflecting().await;
    let routes = "  - { name: app, match: { path: '/*' }, upstream: app, cache: {} }\n";
    let gateway = front(&origin, "trusted_proxies: [127.0.0.0/8]", routes).await;
    let path = format!("/{}", selecting("max-age=600", ""));
    let asked = async |host: &str, public: &str, port: &str| {
        let request = get(&path)
            .header("host", host)
            .header("x-forwarded-host", public)
            .header("x-forwarded-port", port);
        let response = gateway.send(&request).await;
        let seen = response.json();
        assert_eq!(echoed(&seen, "host"), Some(host));
        assert_eq!(echoed(&seen, "x-forwarded-host"), Some(public));
        assert_eq!(echoed(&seen, "x-forwarded-port"), Some(port));
        response.cache_status().to_owned()
    };
    assert_eq!(asked("inside.test", "shop.test", "80").await, "MISS");
    assert_eq!(asked("other.test", "shop.test", "80").await, "MISS");
    assert_eq!(asked("inside.test", "shop.test", "8080").await, "MISS");
    assert_eq!(asked("inside.test", "shop.test", "80").await, "HIT");
}

#[tokio::test]
async fn a_response_to_a_client_certificate_is_personal() {
    let ca = Ca::new();
    let origin = reflecting().await;
    let client = |name| ca.issue(&Wanted::client(&[(DnType::CommonName, name)]));
    let (ann, bob) = (client("ann"), client("bob"));
    let prepare = |folder: &Path| {
        fs::create_dir(folder.join("sites")).expect("a folder");
        let site = ca.site(&["a.test"]);
        site.write(&folder.join("sites"), "site");
        fs::write(folder.join("ca.pem"), ca.pem()).expect("a file");
    };
    let yaml = format!(
        "listeners:
  - {{ address: '127.0.0.1:0', name: tls, tls: {{ certificates: {{ dir: sites }} }} }}
  - {{ address: '127.0.0.1:0', name: asking, tls: {{ certificates: {{ dir: sites }}, client_ca: ca.pem, client_certificate: optional }} }}
upstreams: {{ app: {{ backends: ['{}'], health: false }} }}
routes:
  - {{ name: own, match: {{ path: '/own/*' }}, upstream: app, cache: {{ key: {{ by: [client.certificate] }} }} }}
  - {{ name: app, match: {{ path: '/*' }}, upstream: app, cache: {{}} }}
",
        origin.address()
    );
    let gateway = Gateway::start_in(&yaml, prepare).await;
    let ask = async |listener: &str, own, path: &str| {
        let address = gateway.listener(listener).parse().expect("an address");
        let config = Arc::new(ca.trust_with(own));
        let connection = Connection::open_tls(address, "a.test", &config).await;
        let response = connection.expect("it listens").send(&get(path)).await;
        let response = response.expect("a response");
        let holder = echoed(&response.json(), "x-client-cert-subject").map(str::to_owned);
        (response.cache_status().to_owned(), holder)
    };
    let outcome =
        |status: &str, holder: Option<&str>| (status.to_owned(), holder.map(str::to_owned));
    let (ann, bob) = (Some(&ann), Some(&bob));
    let path = format!("/{}", selecting("max-age=600", ""));
    for (own, name) in [(ann, "CN=ann"), (bob, "CN=bob"), (ann, "CN=ann")] {
        assert_eq!(ask("asking", own, &path).await, outcome("MISS", Some(name)));
    }
    assert_eq!(ask("asking", None, &path).await, outcome("MISS", None));
    assert_eq!(ask("tls", None, &path).await, outcome("MISS", None));
    assert_eq!(ask("asking", None, &path).await, outcome("HIT", None));
    // A holder does not get responses for strangers either, unless the origin says so.
    assert_eq!(
        ask("asking", ann, &path).await,
        outcome("MISS", Some("CN=ann"))
    );
    let public = format!("/{}", selecting("public, max-age=600", ""));
    assert_eq!(
        ask("asking", ann, &public).await,
        outcome("MISS", Some("CN=ann"))
    );
    assert_eq!(
        ask("asking", bob, &public).await,
        outcome("HIT", Some("CN=ann"))
    );
    assert_eq!(ask("asking", None, &public).await, outcome("MISS", None));
    let by_subject = format!(
        "/{}",
        selecting("public, max-age=600", "X-Client-Cert-Subject")
    );
    assert_eq!(
        ask("asking", ann, &by_subject).await,
        outcome("MISS", Some("CN=ann"))
    );
    assert_eq!(
        ask("asking", bob, &by_subject).await,
        outcome("MISS", Some("CN=bob"))
    );
    assert_eq!(
        ask("asking", ann, &by_subject).await,
        outcome("HIT", Some("CN=ann"))
    );
    // The key names the holder: a copy for each.
    let own = format!("/own{path}");
    for (holder, name, expected) in [
        (ann, "CN=ann", "MISS"),
        (bob, "CN=bob", "MISS"),
        (ann, "CN=ann", "HIT"),
    ] {
        assert_eq!(
            ask("asking", holder, &own).await,
            outcome(expected, Some(name))
        );
    }
}

#[tokio::test]
async fn a_failure_does_not_end_collapsing() {
    let origin = PresetOrigin::start().await;
    let settings = origin.settings();
    let fresh = || vec![("cache-control".to_owned(), "max-age=60".to_owned())];
    let gateway = Front::to(&origin).route("cache: {}").start().await;
    for status in [401, 403, 404, 429, 500, 503] {
        let path = format!("/{status}");
        settings.tell(&path, status, Vec::new());
        assert_eq!(gateway.get(&path).await.status(), status);
        settings.tell(&path, 200, fresh());
        settings.hold(&path);
        let mut first = gateway.connect().await;
        let headers = first.start(&get(&path)).await.expect("headers");
        let mut second = gateway.connect().await;
        let other = second.start(&get(&path)).await.expect("headers");
        settings.release(&path);
        first.finish(headers).await.expect("a body");
        let other = second.finish(other).await.expect("a body");
        assert_eq!(other.cache_status(), "HIT", "{status}");
        assert_eq!(settings.asked(&path).len(), 2, "{status}");
    }
}

#[tokio::test]
async fn no_client_can_force_requests_to_the_origin() {
    let origin = NumberedOrigin::start().await;
    let fresh = [("cache-control", "max-age=600"), ("etag", "\"a\"")];
    origin.settings().tell("/a", 200, &fresh);
    let front = async |cache: &str| {
        Front::to(&origin)
            .route(&format!("cache: {cache}"))
            .start()
            .await
    };
    let gateway = front("{}").await;
    gateway.get("/a").await;
    for (name, value) in [
        ("cache-control", "no-cache"),
        ("cache-control", "max-age=0"),
        ("cache-control", "min-fresh=999999"),
        ("cache-control", "no-store"),
        ("pragma", "no-cache"),
    ] {
        let response = gateway.send(&get("/a").header(name, value)).await;
        assert_eq!(response.cache_status(), "HIT", "{name}: {value}");
    }
    // Directives that spare the origin count.
    let only = get("/b").header("cache-control", "only-if-cached");
    assert_eq!(gateway.send(&only).await.status(), 504);

    let gateway = front("{ client_directives: { per_address: 2/h } }").await;
    gateway.get("/a").await;
    let reload = get("/a").header("cache-control", "no-cache");
    for expected in ["REVALIDATED", "REVALIDATED", "HIT", "HIT"] {
        assert_eq!(gateway.send(&reload).await.cache_status(), expected);
    }
    let other = "127.0.0.9".parse().expect("an address");
    let mut other = Connection::open_from(other, gateway.address())
        .await
        .expect("it listens");
    let response = other.send(&reload).await.expect("a response");
    assert_eq!(
        response.cache_status(),
        "REVALIDATED",
        "each address has its own"
    );
}

/// The cookie of a client that has changed something, with the time of a forger.
#[tokio::test]
async fn a_forged_time_of_a_change_reaches_the_origin_within_its_limit() {
    let origin = NumberedOrigin::start().await;
    let fresh = [("cache-control", "max-age=600"), ("etag", "\"a\"")];
    origin.settings().tell("/a", 200, &fresh);
    let gateway = Front::to(&origin)
        .upstream("app: nextjs")
        .route("cache: {}")
        .start()
        .await;
    gateway.get("/a").await;
    let forged = get("/a").header("cookie", "edgeway-changed=99999999999999");
    let mut validated = 0;
    for _ in 0..300 {
        let status = gateway.send(&forged).await.cache_status().to_owned();
        validated += usize::from(status == "REVALIDATED");
        assert!(matches!(&*status, "REVALIDATED" | "HIT"), "{status}");
    }
    // 120 a minute, and those that come back while the test runs.
    assert!((120..200).contains(&validated), "{validated} of 300");
    let other = "127.0.0.9".parse().expect("an address");
    let mut other = Connection::open_from(other, gateway.address())
        .await
        .expect("it listens");
    let response = other.send(&forged).await.expect("a response");
    assert_eq!(response.cache_status(), "REVALIDATED");
}
