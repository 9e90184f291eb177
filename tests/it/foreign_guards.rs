//! Guards of another route decide if a request passes, and nothing else. Invariant: what an app gets of
//! a request that another route guards as well is what it gets from a gateway without that route, and
//! each limit counts the request until it is over, whichever route takes it.

use std::{fs, path::Path, sync::OnceLock, time::Duration};

use chrono::Utc;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    cli::edgeway_fed,
    support::{
        client::{Connection, Request, Response, get, post},
        gateway::Gateway,
        http2,
        origins::{EchoOrigin, FixedOrigin, SlowOrigin},
        ports::free_port,
    },
};

const OWN_SECRET: &str = "thirty-two bytes of the first route";
const OTHER_SECRET: &str = "thirty-two bytes of the other route";
const OWN_KEY: &str = "ek_0123456789abcdefghijklmnopqrstuvwxyz";
const OTHER_KEY: &str = "ek_abcdefghijklmnopqrstuvwxyz0123456789";

/// Filters of the request's own route: none of them refuses a client without credentials.
const OWN: [&str; 6] = [
    "",
    "jwt: { keys: file:own.key, optional: true, token: { cookie: session }, \
     forward: { sub: X-User-Id, role: X-Role } }",
    "api_key: { file: own.keys, header: X-Own-Key, optional: true, forward: X-Partner }",
    "satisfy: any, access: { allow: [127.0.0.0/8] }, \
     basic_auth: { file: own.users, forward: X-Admin }",
    "forward_auth: { url: 'http://DEAD/', copy: [X-User, X-Role], on_error: allow }",
    "plugins: [{ file: note.js, on_error: continue }]",
];

/// Guards of the other route, and the credentials that they accept.
const OTHER: [(&str, &str); 5] = [
    (
        "jwt: { keys: file:other.key, forward: { nickname: X-Nick, sub: X-Sub } }",
        "token",
    ),
    (
        "api_key: { file: other.keys, forward: X-Partner-Of-Other }",
        "key",
    ),
    (
        "basic_auth: { file: other.users, forward: X-Remote-User }",
        "password",
    ),
    (
        "forward_auth: { url: 'http://SERVICE/', copy: [X-Group, X-Account], user: X-Account }",
        "none",
    ),
    ("plugins: [{ file: secret.js, role: auth }]", "none"),
];

const NOTE: &str = "export function onRequest(request) { request.headers.set('x-note', 'n'); }";
const SECRET: &str = "export function onRequest(request) {
  request.headers.set('x-internal-token', 'secret of the other app');
}";

fn token(secret: &str, claims: &Value) -> String {
    let mut claims = claims.clone();
    claims["exp"] = json!(Utc::now().timestamp() + 600);
    let key = EncodingKey::from_secret(secret.as_bytes());
    encode(&Header::default(), &claims, &key).expect("it can sign")
}

fn users(user: &str) -> String {
    edgeway_fed(&["hash", "password", "--user", user], "a long password").stdout
}

fn keys(name: &str, key: &str) -> String {
    edgeway_fed(&["hash", "api-key", "--stdin", name], key).stdout
}

/// Writes the files of a gateway: hashes are made once.
fn files(folder: &Path) {
    static HASHED: OnceLock<[(&str, String); 4]> = OnceLock::new();
    let hashed = HASHED.get_or_init(|| {
        [
            ("own.keys", keys("own.keys", OWN_KEY)),
            ("other.keys", keys("other.keys", OTHER_KEY)),
            ("own.users", users("ann")),
            ("other.users", users("bob")),
        ]
    });
    let hashed = hashed.iter().map(|(name, text)| (*name, text.as_str()));
    for (name, text) in hashed.chain([
        ("own.key", OWN_SECRET),
        ("other.key", OTHER_SECRET),
        ("note.js", NOTE),
        ("secret.js", SECRET),
    ]) {
        fs::write(folder.join(name), text).expect("it takes files");
    }
}

fn with_credentials(request: Request, kind: &str) -> Request {
    let claims = json!({ "sub": "mallory", "nickname": "admin", "role": "user" });
    match kind {
        "token" => request.header(
            "authorization",
            format!("Bearer {}", token(OTHER_SECRET, &claims)),
        ),
        "key" => request.header("x-api-key", OTHER_KEY),
        // bob:a long password
        "password" => request.header("authorization", "Basic Ym9iOmEgbG9uZyBwYXNzd29yZA=="),
        _ => request,
    }
}

/// Returns the headers that tell an app who its client is.
fn identity_headers(response: &Response) -> Vec<(String, String)> {
    assert_eq!(response.status(), 200, "{}", response.text());
    let seen = response.json();
    let headers = seen["headers"].as_array().expect("a list").iter();
    let pairs = headers.map(|pair| {
        let text = |at: usize| pair[at].as_str().unwrap_or_default().to_owned();
        (text(0).to_lowercase(), text(1))
    });
    let is_theirs = |(name, _): &(String, String)| {
        let is_theirs = name.starts_with("x-") && !name.starts_with("x-forwarded-");
        // A key that the guards check reaches no backend.
        is_theirs && name != "x-request-id" && name != "x-api-key"
    };
    let mut theirs: Vec<_> = pairs.filter(is_theirs).collect();
    // Lines that are ready stand behind the other headers.
    theirs.sort();
    theirs
}

#[tokio::test]
async fn guards_of_another_route_tell_an_app_nothing() {
    let (app, other) = (EchoOrigin::start().await, EchoOrigin::start().await);
    let service = FixedOrigin::start(200, &[("X-Group", "g"), ("X-Account", "u1")], "").await;
    let mut proven = 0;
    for own in OWN {
        let yaml = |more: &str| {
            format!(
                "
upstreams:
  web: {{ backends: ['{}'], health: false }}
  api: {{ backends: ['{}'], health: false }}
defaults: {{ headers: {{ request: {{ set: {{ X-Seen: '{{user}}' }} }} }} }}
routes:
- {{ name: site, match: {{ path: /* }}, upstream: web, {own} }}
{more}",
                app.address(),
                other.address()
            )
            .replace("DEAD", &format!("127.0.0.1:{}", free_port()))
            .replace("SERVICE", &service.address().to_string())
            .replace(", }", " }")
        };
        let alone = Gateway::start_in(&yaml(""), files).await;
        for (guard, credentials) in OTHER {
            let route =
                format!("- {{ name: api, match: {{ path: /api/* }}, upstream: api, {guard} }}\n");
            let guarded = Gateway::start_in(&yaml(&route), files).await;
            let ask = |target: &str| {
                with_credentials(get(target).header("host", "shop.test"), credentials)
            };
            if credentials != "none" {
                let stranger = guarded
                    .send(&get("/API/x").header("host", "shop.test"))
                    .await;
                assert_eq!(stranger.status(), 401, "{guard}");
                assert!(
                    stranger
                        .header("x-request-id")
                        .is_some_and(|id| !id.is_empty())
                );
            }
            let of_own = token(OWN_SECRET, &json!({ "sub": "ann", "role": "staff" }));
            for cookie in ["", &format!("session={of_own}")] {
                let ask = |target: &str| match cookie {
                    "" => ask(target),
                    cookie => ask(target).header("cookie", cookie),
                };
                let here = identity_headers(&guarded.send(&ask("/API/x")).await);
                assert_eq!(
                    here,
                    identity_headers(&alone.send(&ask("/API/x")).await),
                    "{own} beside {guard}"
                );
                proven += usize::from(here.iter().any(|(_, value)| value == "ann"));
            }
        }
    }
    assert!(
        proven > 0,
        "control: a client of the route's own filter is known"
    );
}

/// A stored page is for the user whom the route's own filter has proven.
#[tokio::test]
async fn a_page_of_a_user_is_not_for_a_namesake_of_another_issuer() {
    let (app, other) = (EchoOrigin::start().await, EchoOrigin::start().await);
    let yaml = format!(
        "
upstreams:
  web: {{ backends: ['{}'], health: false }}
  api: {{ backends: ['{}'], health: false }}
routes:
- name: site
  match: {{ path: /* }}
  upstream: web
  cache: {{ ttl: 5min, key: {{ by: [jwt.sub] }} }}
  jwt: {{ keys: file:own.key, optional: true, token: {{ cookie: session }} }}
- {{ name: api, match: {{ path: /api/* }}, upstream: api, jwt: {{ keys: file:other.key }} }}
",
        app.address(),
        other.address()
    );
    let gateway = Gateway::start_in(&yaml, files).await;
    let alice = json!({ "sub": "alice" });
    let bearer = |claims| format!("Bearer {}", token(OTHER_SECRET, &claims));
    let first = get("/API/c")
        .header("cookie", format!("session={}", token(OWN_SECRET, &alice)))
        .header("authorization", bearer(json!({ "sub": "service" })));
    let stored = gateway.send(&first).await;
    assert_eq!(stored.cache_status(), "MISS");
    assert_eq!(gateway.send(&first).await.cache_status(), "HIT", "control");
    let namesake = get("/API/c").header("authorization", bearer(alice));
    assert_ne!(gateway.send(&namesake).await.cache_status(), "HIT");
}

/// A request that a route leads to another one meets the limits, places and plugins of both.
#[tokio::test]
async fn a_request_that_is_led_on_meets_the_filters_of_both_routes() {
    let (slow, app) = (
        SlowOrigin::start(Duration::from_secs(2)).await,
        EchoOrigin::start().await,
    );
    let yaml = format!(
        "
listeners: [{{ address: 127.0.0.1:0, http2: {{ cleartext: true }} }}]
upstreams:
  slow: {{ backends: ['{}'], health: false }}
  app: {{ backends: ['{}'], health: false }}
rate_limits: {{ edge: {{ rate: 1000/s }}, login: {{ rate: 2/h, burst: 2 }} }}
defaults: {{ rate_limit: [edge] }}
routes:
- match: {{ path: /limited/* }}
  rate_limit: [edge, login]
  files: {{ root: site, otherwise: {{ route: app }} }}
- match: {{ path: /places/* }}
  in_flight: {{ max: 1 }}
  files: {{ root: site, otherwise: {{ route: slow }} }}
- match: {{ path: /read/* }}
  files: {{ root: site, otherwise: {{ route: read }} }}
- {{ name: app, match: {{ named: true }}, upstream: app }}
- {{ name: slow, match: {{ named: true }}, upstream: slow, in_flight: 100 }}
- {{ name: read, match: {{ named: true }}, upstream: app, plugins: [{{ file: read.js, body: {{}}, on_error: continue }}] }}
",
        slow.address(),
        app.address()
    );
    let read = "export async function onRequest(request) {
      request.headers.set('x-length', String((await request.json()).length));
    }";
    let gateway = Gateway::start_in(&yaml, |folder| {
        fs::create_dir(folder.join("site")).expect("it takes folders");
        fs::write(folder.join("read.js"), read).expect("it takes files");
    })
    .await;
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(gateway.get("/limited/x").await.status());
    }
    assert_eq!(statuses, [200, 200, 429, 429]);

    let mut waiting = JoinSet::new();
    for _ in 0..4 {
        let to = gateway.address();
        waiting.spawn(async move {
            let mut connection = Connection::open(to).await.expect("it accepts");
            connection
                .send(&get("/places/x"))
                .await
                .expect("a response")
                .status()
        });
    }
    let mut statuses = waiting.join_all().await;
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 503, 503, 503]);

    let body = post("/read/x", r#"["a","b","c"]"#).header("content-type", "application/json");
    let response = gateway.send(&body).await;
    assert_eq!(response.status(), 200, "{}", response.text());
    assert_eq!(response.json()["length"], 13, "the app gets the body");
    let headers = response.json()["headers"].to_string();
    assert!(headers.contains(r#"["x-length","3"]"#), "{headers}");
}

/// A limit of bodies that runs beside another route counts none: it needs their lengths, over HTTP/2 as
/// well.
#[tokio::test]
async fn a_body_without_a_length_passes_no_limit_of_another_route() {
    let app = EchoOrigin::start().await;
    let yaml = format!(
        "
listeners: [{{ address: 127.0.0.1:0, http2: {{ cleartext: true }} }}]
upstreams:
  web: {{ backends: ['{0}'], health: false }}
  api: {{ backends: ['{0}'], health: false }}
routes:
- {{ match: {{ path: /* }}, upstream: web, body_limit: false }}
- {{ match: {{ path: /up/* }}, upstream: api, body_limit: 1KiB }}
",
        app.address()
    );
    let gateway = Gateway::start(&yaml).await;
    let client = http2::Client::open(gateway.address()).await;
    for method in ["GET", "DELETE", "POST"] {
        let bare = http2::request(method, "/UP/x");
        let bare = client.send(bare, "").await.expect("a response").status();
        assert_eq!(bare, 200, "{method} over HTTP/2 without a body");
        let long = http2::request(method, "/UP/x");
        let long = client.send(long, vec![0; 32 << 10]).await;
        assert_eq!(
            long.expect("a response").status(),
            411,
            "{method} over HTTP/2"
        );
        let long = Request::new(method, "/UP/x").chunks(vec![vec![0_u8; 4096]; 8]);
        assert_eq!(gateway.send(&long).await.status(), 411, "{method}");
    }
}
