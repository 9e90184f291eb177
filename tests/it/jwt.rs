//! Tokens that clients send to a running gateway.

use std::{fs, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::Utc;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PublicKeyData as _};
use serde_json::{Value, json};

use crate::support::{
    client::{Request, get},
    gateway::Gateway,
    origins::{EchoOrigin, FixedOrigin, Origin, echoed},
    wait::wait_for,
};

const SECRET: &str = "thirty-two bytes that nobody else knows";

/// Longer than the pause between two fetches of a key set.
const ROTATED: Duration = Duration::from_secs(20);

/// Token issuer with a P-256 key.
struct Issuer {
    pair: KeyPair,
    kid: &'static str,
}

impl Issuer {
    fn new(kid: &'static str) -> Self {
        let pair = KeyPair::generate().expect("there is randomness");
        Self { pair, kid }
    }

    fn issue(&self, claims: &Value) -> String {
        let key = EncodingKey::from_ec_pem(self.pair.serialize_pem().as_bytes());
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.kid.to_owned());
        encode(&header, claims, &key.expect("it is a key")).expect("it can sign")
    }

    fn set(&self) -> String {
        let point = self.pair.der_bytes();
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let key = json!({
            "kty": "EC", "crv": "P-256", "kid": self.kid,
            "x": part(&point[1..33]), "y": part(&point[33..]),
        });
        json!({ "keys": [key] }).to_string()
    }
}

fn by_secret(claims: &Value) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    encode(&Header::default(), claims, &key).expect("it can sign")
}

fn now() -> i64 {
    Utc::now().timestamp()
}

fn shown(target: &str, token: &str) -> Request {
    get(target).header("authorization", format!("Bearer {token}"))
}

fn yaml(origin: &Origin<EchoOrigin>, route: &str) -> String {
    format!(
        "upstreams: {{ app: {{ backends: [\"{}\"] }} }}\nroutes:\n  - {{ match: {{ path: /* }}, upstream: app, name: app, {route} }}\n",
        origin.address()
    )
}

/// Returns the reasons of these log lines in alphabetical order: a line is written once a response
/// is sent, so the next request's line may be first.
fn reasons(lines: &[Value]) -> Vec<Option<&str>> {
    let mut reasons: Vec<_> = lines.iter().map(|line| line["reason"].as_str()).collect();
    reasons.sort_unstable();
    reasons
}

#[tokio::test]
async fn administrators_pass_users_are_forbidden_and_strangers_unknown() {
    let origin = EchoOrigin::start().await;
    let issuer = Issuer::new("main");
    let config = format!(
        "audit_log: {{ file: audit.log }}\n{}",
        yaml(
            &origin,
            "jwt: { keys: file:jwt.pub, require: { role: admin }, forward: { sub: X-User-Id } }"
        )
    );
    let key = issuer.pair.public_key_pem();
    let gateway = Gateway::start_in(&config, |folder| {
        fs::write(folder.join("jwt.pub"), &key).expect("it takes files");
    })
    .await;
    let claims = |role: &str| json!({ "sub": "u-7", "role": role, "exp": now() + 60 });
    let nobody = gateway.get("/admin").await;
    assert_eq!(nobody.status(), 401);
    let asks = nobody.header("www-authenticate");
    assert_eq!(asks, Some("Bearer realm=\"restricted\""));
    let user = gateway
        .send(&shown("/admin", &issuer.issue(&claims("user"))))
        .await;
    assert_eq!(user.status(), 403);
    let admin = shown("/admin", &issuer.issue(&claims("admin")))
        .header("X-User-Id", "root")
        .header("x_user_id", "root");
    let admin = gateway.send(&admin).await;
    assert_eq!(admin.status(), 200);
    let seen = admin.json();
    assert_eq!(echoed(&seen, "x-user-id"), Some("u-7"));
    assert_eq!(echoed(&seen, "x_user_id"), None);
    // The public key as a secret, and no signature at all.
    let forged = encode(
        &Header::default(),
        &claims("admin"),
        &EncodingKey::from_secret(key.as_bytes()),
    );
    let none = URL_SAFE_NO_PAD.encode("{\"alg\":\"none\"}");
    let payload = URL_SAFE_NO_PAD.encode(claims("admin").to_string());
    for token in [forged.expect("it can sign"), format!("{none}.{payload}.")] {
        let response = gateway.send(&shown("/admin", &token)).await;
        assert_eq!(response.status(), 401);
        let challenge = response.header("www-authenticate").unwrap_or_default();
        assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
    }
    assert_eq!(origin.counts().requests(), 1);
    let algorithm = Some("jwt_algorithm");
    let lines = gateway.log_lines(5).await;
    assert_eq!(
        reasons(&lines),
        [
            None,
            algorithm,
            algorithm,
            Some("jwt_claims"),
            Some("jwt_missing")
        ]
    );
    for (outcome, count) in [("passed", 1), ("missing", 1), ("denied", 1), ("invalid", 2)] {
        let series =
            format!("edgeway_auth_total{{filter=\"jwt\",outcome=\"{outcome}\",route=\"app\"}}");
        assert_eq!(gateway.count(&series).await, count, "{outcome}");
    }
    gateway.refuses("jwt_claims", 1).await;
    let noted = gateway.audit_log(4, |line| line["action"] == "auth").await;
    let denied = noted
        .iter()
        .find(|line| line.to_string().contains("jwt_claims"));
    assert!(denied.expect("it is there").to_string().contains("u-7"));
}

#[tokio::test]
async fn a_playback_token_passes_until_it_expires_and_is_not_forwarded() {
    let origin = EchoOrigin::start().await;
    let config = yaml(
        &origin,
        "jwt: { keys: \"${PLAYBACK}\", max_ttl: 90s, leeway: 5s, token: { query: ticket } }",
    );
    let gateway = Gateway::start_with(&config, &[("PLAYBACK", SECRET)]).await;
    let aged = |age: i64| by_secret(&json!({ "iat": now() - age, "exp": now() - age + 90 }));
    let (good, expired) = (aged(89), aged(96));
    let ask = |token: &str| get(&format!("/api/player/manifest?v=1&ticket={token}&x=2"));
    let passed = gateway.send(&ask(&good)).await;
    assert_eq!(passed.status(), 200);
    assert_eq!(passed.json()["target"], "/api/player/manifest?v=1&x=2");
    // Percent-encoded, which an app would decode.
    let encoded = good.replace('.', "%2E");
    let response = gateway.send(&get(&format!("/a?tick%65t={encoded}"))).await;
    assert_eq!(
        (response.status(), response.json()["target"].as_str()),
        (200, Some("/a"))
    );
    assert_eq!(gateway.send(&ask(&expired)).await.status(), 401);
    let long = by_secret(&json!({ "iat": now(), "exp": now() + 91 }));
    assert_eq!(gateway.send(&ask(&long)).await.status(), 401);
    let lines = gateway.log_lines(4).await;
    assert_eq!(
        reasons(&lines),
        [None, None, Some("jwt_expired"), Some("jwt_lifetime")]
    );
    let query = "v=1&ticket=[redacted]&x=2";
    assert!(lines.iter().any(|line| line["query"] == query));
    let log = fs::read_to_string(gateway.folder().join("access.log")).expect("it is there");
    let everything = format!("{log}{}{}", gateway.stderr(), gateway.status().await);
    for token in [&good, &expired, &long] {
        for part in token.split('.') {
            assert!(!everything.contains(part), "{everything}");
        }
    }
}

#[tokio::test]
async fn a_token_in_the_query_is_not_logged_for_requests_that_miss_its_route() {
    let origin = EchoOrigin::start().await;
    let config = format!(
        "{}  - {{ match: {{ path: /video }}, upstream: app, jwt: {{ keys: \"${{KEY}}\", token: {{ query: ticket }} }} }}\n",
        yaml(&origin, "")
    );
    let gateway = Gateway::start_with(&config, &[("KEY", SECRET)]).await;
    let token = by_secret(&json!({ "sub": "u1", "exp": now() + 60 }));
    for (path, status) in [("/vidoe", 200), ("/video/%zz", 400), ("/video", 200)] {
        let response = gateway.get(&format!("{path}?ticket={token}")).await;
        assert_eq!(response.status(), status, "{path}");
    }
    for line in gateway.log_lines(3).await {
        assert_eq!(line["query"], "ticket=[redacted]", "{line}");
    }
    for _ in 0..3 {
        let response = gateway.get(&format!("/video?ticket={token}x")).await;
        assert_eq!(response.status(), 401);
    }
    assert!(!gateway.stderr().contains(&token));
}

#[tokio::test]
async fn a_preflight_needs_no_token_and_an_optional_one_identifies_users() {
    let origin = EchoOrigin::start().await;
    let config = yaml(
        &origin,
        "cors: { origins: [\"https://a.test\"] }, jwt: { keys: \"${KEY}\", optional: true, forward: { sub: X-User } }",
    );
    let required = config.replace("optional: true, ", "");
    let gateway = Gateway::start_with(&config, &[("KEY", SECRET)]).await;
    let token = by_secret(&json!({ "sub": "ann", "exp": now() + 60 }));
    for (request, user) in [
        (get("/"), None),
        (shown("/", "forged.token.x"), None),
        (shown("/", &token), Some("ann")),
    ] {
        let response = gateway.send(&request.header("X-User", "root")).await;
        assert_eq!(response.status(), 200);
        assert_eq!(echoed(&response.json(), "x-user"), user);
    }
    assert!(gateway.reload(&required).await);
    assert_eq!(gateway.get("/").await.status(), 401);
    let preflight = Request::new("OPTIONS", "/")
        .header("origin", "https://a.test")
        .header("access-control-request-method", "GET");
    let response = gateway.send(&preflight).await;
    assert_eq!(response.status(), 204);
    // The page that sent the request can read a 401.
    let refused = gateway
        .send(&get("/").header("origin", "https://a.test"))
        .await;
    let allowed = refused.header("access-control-allow-origin");
    assert_eq!((refused.status(), allowed), (401, Some("https://a.test")));
}

#[tokio::test]
async fn keys_of_a_url_change_under_load_and_outlive_its_failure() {
    let origin = EchoOrigin::start().await;
    let (first, second) = (Issuer::new("first"), Issuer::new("second"));
    let mut keys = FixedOrigin::start(200, &[], &first.set()).await;
    let config = yaml(
        &origin,
        &format!("jwt: {{ jwks: \"http://{}/keys\" }}", keys.address()),
    );
    let mut gateway = Gateway::start(&config).await;
    let claims = json!({ "sub": "u1", "exp": now() + 600 });
    let (old, new) = (first.issue(&claims), second.issue(&claims));
    // The first request waits for the keys, if they are not there yet.
    assert_eq!(gateway.send(&shown("/", &old)).await.status(), 200);
    assert_eq!(gateway.count("edgeway_jwks_up").await, 1);
    keys.settings().set(200, &[], second.set());
    wait_for("the new key is known", ROTATED, async || {
        let response = gateway.send(&shown("/", &new)).await;
        assert!(
            [200, 401].contains(&response.status()),
            "{}",
            response.status()
        );
        (response.status() == 200).then_some(())
    })
    .await;
    assert_eq!(gateway.send(&shown("/", &old)).await.status(), 401);
    let asked = keys.counts().requests();
    assert!(asked <= 3, "{asked}");
    // Without the URL: known keys stay known, across a reload and an upgrade too.
    keys.stop();
    let changed = config.replace("/keys\"", "/keys\", leeway: 1s");
    assert!(gateway.reload(&changed).await);
    assert_eq!(gateway.send(&shown("/", &new)).await.status(), 200);
    gateway.upgrade().await;
    for _ in 0..5 {
        assert_eq!(gateway.send(&shown("/", &new)).await.status(), 200);
    }
    assert_eq!(gateway.send(&shown("/", &old)).await.status(), 503);
    wait_for("the failure shows", ROTATED, async || {
        (gateway.count("edgeway_jwks_up").await == 0).then_some(())
    })
    .await;
    let failed = gateway
        .count("edgeway_jwks_fetches_total{outcome=\"failed\"}")
        .await;
    assert!(failed > 0);
    assert!(gateway.stderr().contains("still using the old keys"));
}

#[tokio::test]
async fn a_reload_loads_a_changed_key_and_drops_tokens_verified_by_the_old_one() {
    let origin = EchoOrigin::start().await;
    let (first, second) = (Issuer::new("a"), Issuer::new("a"));
    let config = yaml(&origin, "jwt: { keys: file:jwt.pub }");
    let gateway = Gateway::start_in(&config, |folder| {
        fs::write(folder.join("jwt.pub"), first.pair.public_key_pem()).expect("it takes files");
    })
    .await;
    let claims = json!({ "exp": now() + 600 });
    let (old, new) = (first.issue(&claims), second.issue(&claims));
    assert_eq!(gateway.send(&shown("/", &old)).await.status(), 200);
    let file = gateway.folder().join("jwt.pub");
    fs::write(&file, second.pair.public_key_pem()).expect("it takes files");
    assert!(gateway.reload(&config).await);
    assert_eq!(gateway.send(&shown("/", &old)).await.status(), 401);
    assert_eq!(gateway.send(&shown("/", &new)).await.status(), 200);
    // An invalid key is refused, and the current one stays in use.
    fs::write(&file, "short").expect("it takes files");
    assert!(!gateway.reload(&config).await);
    assert_eq!(gateway.send(&shown("/", &new)).await.status(), 200);
}
