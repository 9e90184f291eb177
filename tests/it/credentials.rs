//! Credentials that clients send: a page made for one is for nobody else, and one that the gateway
//! checks itself reaches no backend, whichever route takes the request in the end.

use std::{fmt::Write as _, fs, path::Path};

use chrono::Utc;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::{
    cli::edgeway_fed,
    support::{
        client::{Request, get},
        gateway::Gateway,
        origins::{EchoOrigin, FixedOrigin, echoed},
        ports::free_port,
    },
};

const SECRET: &str = "thirty-two bytes that nobody else knows";
const KEY: &str = "ek_0123456789abcdefghijklmnopqrstuvwxyz";
/// alice:a long password
const PASSWORD: &str = "Basic YWxpY2U6YSBsb25nIHBhc3N3b3Jk";
fn files(folder: &Path) {
    let key = edgeway_fed(&["hash", "api-key", "--stdin", "acme"], KEY).stdout;
    let user = edgeway_fed(&["hash", "password", "--user", "alice"], "a long password").stdout;
    for (name, text) in [("keys", &*key), ("users", &*user), ("secret", SECRET)] {
        fs::write(folder.join(name), text).expect("it takes files");
    }
    fs::create_dir(folder.join("site")).expect("it takes folders");
}

fn token(user: &str, lifetime: i64) -> String {
    let claims = json!({ "sub": user, "exp": Utc::now().timestamp() + lifetime });
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    encode(&Header::default(), &claims, &key).expect("it can sign")
}

#[tokio::test]
async fn a_page_made_for_a_credential_is_for_nobody_else() {
    let origin = EchoOrigin::start().await;
    let yaml = format!(
        "
upstreams: {{ app: {{ backends: ['{}'], health: false }} }}
routes:
- match: {{ path: /failing/* }}
  upstream: app
  cache: {{ ttl: 1min }}
  forward_auth: {{ url: 'http://127.0.0.1:{}/', headers: [X-Session], on_error: allow }}
- match: {{ path: /any/* }}
  upstream: app
  cache: {{ ttl: 1min }}
  satisfy: any
  access: {{ allow: [127.0.0.0/8] }}
  api_key: {{ file: keys, strip: false }}
- match: {{ path: /optional/* }}
  upstream: app
  cache: {{ ttl: 1min, anonymous_cookies: [session] }}
  jwt: {{ keys: file:secret, optional: true, token: [{{ header: X-Token }}, {{ cookie: session }}] }}
- match: {{ path: /led/* }}
  jwt: {{ keys: file:secret, optional: true, token: {{ header: X-Token }} }}
  files: {{ root: site, otherwise: {{ route: led }} }}
- {{ name: led, match: {{ named: true }}, upstream: app, cache: {{ ttl: 1min }} }}
",
        origin.address(),
        free_port()
    );
    let gateway = Gateway::start_in(&yaml, files).await;
    let expired = token("u1", -600);
    for (path, name, value) in [
        ("/failing/1", "X-Session", "s1"),
        ("/any/1", "X-API-Key", KEY),
        ("/optional/1", "X-Token", &expired),
        ("/optional/2", "Cookie", &format!("session={expired}")),
        ("/led/1", "X-Token", &expired),
    ] {
        let first = gateway.send(&get(path).header(name, value)).await;
        assert_eq!(first.status(), 200, "{path} with {name}");
        for status in ["MISS", "HIT"] {
            let response = gateway.get(path).await;
            assert_eq!(response.cache_status(), status, "{path} after {name}");
        }
    }
}

/// Returns what an [`EchoOrigin`] has got of the credentials of a request.
fn leaked(seen: &Value) -> Vec<String> {
    let names = ["authorization", "x-api-key", "x-token", "cookie"];
    let headers = names
        .iter()
        .filter_map(|name| echoed(seen, name).map(str::to_owned));
    let target = seen["target"].as_str().unwrap_or_default();
    headers
        .chain(target.contains("tok=").then(|| target.to_owned()))
        .collect()
}

#[tokio::test]
async fn no_backend_gets_what_an_earlier_route_checks() {
    let (old, failing) = (
        EchoOrigin::start().await,
        FixedOrigin::start(404, &[], "").await,
    );
    let mut yaml = format!(
        "
upstreams:
  app: {{ backends: ['{}'], health: false }}
  old: {{ backends: ['{}'], health: false }}
routes:
- {{ name: old, match: {{ named: true }}, upstream: old, cache: {{ ttl: 1min }} }}
- {{ name: own, match: {{ named: true }}, upstream: old, api_key: {{ file: keys, strip: false }} }}
- {{ match: {{ path: /* }}, upstream: old }}
- {{ match: {{ path: /api/* }}, upstream: app, api_key: {{ file: keys }} }}
- match: {{ path: /own/* }}
  api_key: {{ file: keys }}
  files: {{ root: site, otherwise: {{ route: own }} }}
",
        failing.address(),
        old.address(),
    );
    let jwt = "jwt: { keys: file:secret, strip: true, \
               token: [{ query: tok }, { header: X-Token }, { cookie: session }] }";
    for (name, filter) in [
        ("password", "basic_auth: { file: users }"),
        ("key", "api_key: { file: keys }"),
        ("token", jwt),
    ] {
        write!(
            yaml,
            "- match: {{ path: /{name}/files/* }}
  {filter}
  files: {{ root: site, otherwise: {{ route: old }} }}
- match: {{ path: /{name}/page/* }}
  upstream: app
  {filter}
  error_pages: {{ intercept: true, pages: {{ 404: {{ route: old, own_status: true }} }} }}
- match: {{ path: /{name}/same/* }}
  upstream: app
  {filter}
  error_pages: {{ intercept: true, pages: {{ 404: {{ upstream: old, as_sent: true, own_status: true }} }} }}
"
        )
        .expect("it takes text");
    }
    let gateway = Gateway::start_in(&yaml, files).await;
    let token = token("u1", 600);
    let with = |path: &str, name: &str, value: &str| get(path).header(name, value);
    for way in ["files", "page", "same"] {
        let requests: [Request; 5] = [
            with(&format!("/password/{way}/1"), "Authorization", PASSWORD),
            with(&format!("/key/{way}/1"), "X-API-Key", KEY),
            with(&format!("/token/{way}/1?a=1"), "X-Token", &token),
            get(&format!("/token/{way}/1?tok={token}&a=1")),
            with(
                &format!("/token/{way}/1?a=2"),
                "Cookie",
                &format!("session={token}"),
            ),
        ];
        for request in requests {
            let response = gateway.send(&request).await;
            assert_eq!(response.status(), 200, "{request:?}");
            let leaked = leaked(&response.json());
            assert!(leaked.is_empty(), "{request:?}: {leaked:?}");
        }
    }
    let other = format!("session={token}; theme=dark");
    let kept = gateway.send(&with("/token/same/1", "Cookie", &other)).await;
    assert_eq!(leaked(&kept.json()), ["theme=dark"], "the others stay");
    let guarded = gateway.send(&with("/API/x", "X-API-Key", KEY)).await;
    assert_eq!(guarded.status(), 200);
    assert!(
        leaked(&guarded.json()).is_empty(),
        "of a guard of another route"
    );
    let own = gateway.send(&with("/own/x", "X-API-Key", KEY)).await;
    assert_eq!(
        leaked(&own.json()),
        [KEY],
        "the last route reads and keeps it"
    );
}

/// A user who is known and refused is counted by name.
#[tokio::test]
async fn limits_by_user_count_every_refusal_of_an_identity_filter() {
    let login = FixedOrigin::start(302, &[("Location", "/login")], "").await;
    let yaml = format!(
        "
upstreams: {{ app: {{ backends: ['{}'], health: false }} }}
rate_limits:
  users: {{ key: [user, client.ip], rate: 2/h }}
  visitors: {{ key: [user], rate: 2/h }}
routes:
- match: {{ path: /admin/* }}
  upstream: app
  rate_limit: [users]
  jwt: {{ keys: file:secret, require: {{ role: admin }} }}
- match: {{ path: /login/* }}
  upstream: app
  rate_limit: [visitors]
  forward_auth: {{ url: 'http://{0}/verify' }}
",
        login.address()
    );
    let gateway = Gateway::start_in(&yaml, files).await;
    let ask = |user: &str| {
        let bearer = format!("Bearer {}", token(user, 600));
        get("/admin/x").header("authorization", bearer)
    };
    for (request, refused) in [(ask("ann"), 403), (ask("bob"), 403), (get("/login/x"), 302)] {
        for status in [refused, refused, 429] {
            assert_eq!(gateway.send(&request).await.status(), status, "{request:?}");
        }
    }
    let lines = gateway.log_lines(9).await;
    let users = ["ann", "bob"].map(|user| lines.iter().filter(|line| line["user"] == user).count());
    assert_eq!(users, [3, 3]);
}
