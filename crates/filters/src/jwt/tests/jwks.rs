//! Keys from a URL, over a real socket, with the time moved by hand.

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{Response, header},
    routing::get,
};
use edgeway_base::{clock::Clock, metrics::Metrics};
use edgeway_core::{
    chain::testkit::{FilterCheck, check_with},
    zones::Zone as _,
};
use edgeway_net::{
    fetch::{Fetch, Trust},
    tasks::Tasks,
};
use jsonwebtoken::Algorithm;
use parking_lot::Mutex;
use rcgen::PKCS_ECDSA_P256_SHA256;
use serde_json::{Value, json};
use tokio::{net::TcpListener, runtime::Runtime, sync::Notify};

use super::{NOW, SECRET, Signer, Tokens};
use crate::jwt::{
    Jwt,
    jwks::{Jwks, JwksSource},
    keys::{self, SecretKeys},
};

/// Response of the server from now on.
struct Script {
    status: u16,
    body: String,
    cache: Option<&'static str>,
    /// Delays the response until it is notified.
    hold: Option<Arc<Notify>>,
}

#[derive(Clone)]
struct Shared {
    script: Arc<Mutex<Script>>,
    requests: Arc<AtomicUsize>,
}

/// A server of keys on loopback, and the gateway's side of it.
struct World {
    runtime: Runtime,
    tasks: Tasks,
    shared: Shared,
    url: String,
}

impl World {
    fn new(keys: &Value) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let shared = Shared {
            script: Arc::new(Mutex::new(Script {
                status: 200,
                body: keys.to_string(),
                cache: None,
                hold: None,
            })),
            requests: Arc::default(),
        };
        let (tasks, state) = (Tasks::default(), shared.clone());
        let address = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let app = Router::new().route("/keys", get(respond)).with_state(state);
            tasks.spawn(
                "keys",
                async move { axum::serve(listener, app).await.unwrap() },
            );
            address
        });
        Self {
            runtime,
            tasks,
            shared,
            url: format!("http://{address}/keys"),
        }
    }

    fn set(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.shared.script.lock());
    }

    fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    fn source(&self) -> Arc<JwksSource> {
        Arc::new(JwksSource {
            url: self.url.parse().unwrap(),
            fetch: Fetch::new(&Trust::Plain).unwrap(),
            refresh: Duration::from_mins(5),
            deadline: Duration::from_secs(20),
            stale: Duration::from_hours(1),
        })
    }

    /// Returns a filter that fetches here, and the keys that it uses.
    fn filter(&self, stale: &str) -> (FilterCheck, Arc<Jwks>) {
        let mut compiled = None;
        let zone = format!("jwks {}", self.url);
        let yaml = format!("{{ jwks: {{ url: '{}', stale: {stale} }} }}", self.url);
        let check = check_with::<Jwt>(&yaml, |cx, _| {
            let (clock, metrics) = (cx.clock, cx.metrics);
            compiled = Some(
                cx.zones
                    .get_or_create(&zone, || Jwks::new("keys", clock, metrics)),
            );
        });
        (check, compiled.unwrap())
    }

    fn fetch(&self, jwks: &Jwks) {
        self.runtime.block_on(jwks.ask(&self.source()));
    }

    fn supervise(&self, jwks: &Arc<Jwks>) {
        let work = Arc::clone(jwks).supervise(self.source());
        let _entered = self.runtime.enter();
        self.tasks.spawn("jwks", work);
    }
}

async fn respond(State(shared): State<Shared>) -> Response<Body> {
    shared.requests.fetch_add(1, Ordering::SeqCst);
    let hold = shared.script.lock().hold.clone();
    if let Some(hold) = hold {
        hold.notified().await;
    }
    let script = shared.script.lock();
    let mut response = Response::builder().status(script.status);
    if let Some(cache) = script.cache {
        response = response.header(header::CACHE_CONTROL, cache);
    }
    response.body(Body::from(script.body.clone())).unwrap()
}

fn signer() -> Signer {
    Signer::new(&PKCS_ECDSA_P256_SHA256)
}

fn set(keys: &[(&Signer, &str)]) -> Value {
    let keys: Vec<Value> = keys.iter().map(|(signer, kid)| signer.jwk(kid)).collect();
    json!({ "keys": keys })
}

fn long_lived(signer: &Signer, kid: &str) -> String {
    let claims = json!({ "sub": "u1", "exp": NOW + 100_000 });
    signer.sign(Algorithm::ES256, Some(kid), &claims)
}

fn up(metrics: &Metrics) -> bool {
    let text = String::from_utf8(metrics.text()).unwrap();
    text.contains("edgeway_jwks_up{jwks=\"keys\"} 1")
}

#[test]
fn before_the_first_fetch_tokens_cannot_be_judged_and_then_they_can() {
    let a = signer();
    let world = World::new(&set(&[(&a, "a")]));
    let (check, jwks) = world.filter("1h");
    let token = long_lived(&a, "a");
    let check = check.bearer(&token);
    assert_eq!(check.last().headers["retry-after"], "2");
    let check = check.expect_refused(503, "jwt_unavailable");
    // A token that no key could make valid needs no keys.
    let check = check
        .bearer("x")
        .expect_refused(401, "jwt_malformed")
        .get("/")
        .expect([401]);
    assert!(!up(&check.metrics));
    world.fetch(&jwks);
    assert!(up(&check.metrics));
    let _ = check.bearer(&token).expect([200]);
    assert_eq!(world.requests(), 1);
}

#[test]
fn a_request_waits_for_the_first_keys_a_moment() {
    let a = signer();
    let world = World::new(&set(&[(&a, "a")]));
    let (check, jwks) = world.filter("1h");
    world.supervise(&jwks);
    let _ = check.bearer(&long_lived(&a, "a")).expect([200]);
}

#[test]
fn an_unknown_key_is_fetched_once_and_forged_names_cost_nothing() {
    let (a, b) = (signer(), signer());
    let world = World::new(&set(&[(&a, "a")]));
    let (mut check, jwks) = world.filter("1h");
    world.fetch(&jwks);
    world.set(|script| script.body = set(&[(&b, "b")]).to_string());
    // The keys were fetched recently: no request waits, and no fetch starts.
    let fresh = long_lived(&b, "b");
    for _ in 0..20 {
        check = check
            .bearer(&long_lived(&b, "forged"))
            .expect_refused(401, "jwt_key");
    }
    assert_eq!(world.requests(), 1);
    // Later one request brings the new keys for all, and the old keys are dropped together with the
    // tokens they have verified.
    check = check.bearer(&long_lived(&a, "a")).expect([200]);
    check = check.advance("6s");
    world.supervise(&jwks);
    check = check.bearer(&fresh).expect([200]);
    world.tasks.stop();
    assert_eq!(world.requests(), 2);
    for _ in 0..20 {
        check = check
            .bearer(&long_lived(&b, "forged"))
            .expect_refused(401, "jwt_key");
    }
    check = check
        .bearer(&long_lived(&a, "a"))
        .expect_refused(401, "jwt_key");
    let _ = check.bearer(&fresh).expect([200]);
    assert_eq!(world.requests(), 2);
}

#[test]
fn old_keys_are_used_for_a_while_when_the_issuer_is_unreachable() {
    let a = signer();
    let world = World::new(&set(&[(&a, "a")]));
    let (check, jwks) = world.filter("1h");
    world.fetch(&jwks);
    let token = long_lived(&a, "a");
    world.set(|script| script.status = 500);
    world.fetch(&jwks);
    assert!(!up(&check.metrics));
    // Five minutes fresh, an hour stale.
    let check = check
        .bearer(&token)
        .advance("64min")
        .bearer(&token)
        .expect([200, 200]);
    let check = check
        .advance("61s")
        .bearer(&token)
        .expect_refused(503, "jwt_unavailable");
    world.set(|script| script.status = 200);
    world.fetch(&jwks);
    let _ = check.bearer(&token).expect([200]);
}

#[test]
fn a_token_starts_a_fetch_when_all_keys_are_too_old() {
    let a = signer();
    let world = World::new(&set(&[(&a, "a")]));
    let (check, jwks) = world.filter("1h");
    world.fetch(&jwks);
    world.set(|script| script.status = 500);
    for _ in 0..6 {
        world.fetch(&jwks);
    }
    // The next fetch is due in half a minute, and the time stands still.
    let check = check.advance("66min");
    world.set(|script| script.status = 200);
    world.supervise(&jwks);
    let _ = check.bearer(&long_lived(&a, "a")).expect([200]);
}

#[test]
fn an_invalid_key_set_changes_nothing() {
    let a = signer();
    let world = World::new(&set(&[(&a, "a")]));
    let (mut check, jwks) = world.filter("1h");
    world.fetch(&jwks);
    let token = long_lived(&a, "a");
    let secret = json!({ "keys": [{ "kty": "oct", "k": SECRET, "alg": "HS256" }] });
    let long = format!("{{\"keys\": [], \"x\": \"{}\"}}", "x".repeat(300 * 1024));
    for body in [
        "",
        "<html>",
        "{}",
        "{\"keys\": []}",
        &secret.to_string(),
        &long,
    ] {
        world.set(|script| script.body = body.to_owned());
        world.fetch(&jwks);
        assert!(!up(&check.metrics), "{body:.40}");
        check = check.bearer(&token).expect([200]);
    }
    world.set(|script| {
        script.body = set(&[(&a, "a")]).to_string();
        script.status = 302;
    });
    world.fetch(&jwks);
    assert!(!up(&check.metrics));
}

#[test]
fn a_slow_server_holds_up_requests_for_a_moment_only() {
    let a = signer();
    let world = World::new(&set(&[(&a, "a")]));
    let hold = Arc::new(Notify::new());
    world.set(|script| script.hold = Some(Arc::clone(&hold)));
    let (check, jwks) = world.filter("1h");
    world.supervise(&jwks);
    let token = long_lived(&a, "a");
    let check = check.bearer(&token).expect_refused(503, "jwt_unavailable");
    assert_eq!(world.requests(), 1);
    world.set(|script| script.hold = None);
    hold.notify_one();
    let _ = check.bearer(&token).expect([200]);
}

#[test]
fn a_response_sets_its_lifetime_within_bounds() {
    let a = signer();
    let world = World::new(&set(&[(&a, "a")]));
    let (check, jwks) = world.filter("0s");
    let token = long_lived(&a, "a");
    for (cache, good, over) in [
        (Some("public, max-age=60"), "59s", "2s"),
        (Some("Max-Age=60"), "59s", "2s"),
        (Some("max-age=\"60\""), "59s", "2s"),
        (Some("max-age=0"), "9s", "2s"),
        (Some("max-age=999999"), "299s", "2s"),
        (None, "299s", "2s"),
    ] {
        world.set(|script| script.cache = cache);
        world.fetch(&jwks);
        check
            .clock
            .advance(good.parse::<edgeway_base::units::Span>().unwrap().0);
        assert!(jwks.keys(Duration::ZERO).is_some(), "{cache:?}");
        check
            .clock
            .advance(over.parse::<edgeway_base::units::Span>().unwrap().0);
        assert!(jwks.keys(Duration::ZERO).is_none(), "{cache:?}");
    }
    let _ = check.bearer(&token).expect_refused(503, "jwt_unavailable");
}

#[test]
fn a_successor_knows_the_keys_and_fetches_at_once() {
    let a = signer();
    let world = World::new(&set(&[(&a, "a")]));
    let (_, jwks) = world.filter("1h");
    assert_eq!(jwks.export(), None);
    world.fetch(&jwks);
    let exported = jwks.export().unwrap();
    let (check, successor) = world.filter("1h");
    successor.import(&exported);
    let check = check.bearer(&long_lived(&a, "a")).expect([200]);
    // An invalid export is ignored.
    for odd in [
        json!(null),
        json!({ "document": 1 }),
        json!({ "document": "{}", "fresh_until": 1 }),
    ] {
        successor.import(&odd);
    }
    let _ = check.bearer(&long_lived(&a, "a")).expect([200]);
    let clock = Clock::test();
    let late = Jwks::new("keys", &clock, &Metrics::default());
    clock.advance(Duration::from_hours(24));
    late.import(&exported);
    assert!(late.keys(Duration::ZERO).is_none());
    assert!(late.keys(Duration::from_hours(1)).is_some());
}

#[test]
fn each_key_that_is_left_out_has_a_reason() {
    let document = json!({ "keys": [
        { "kid": "a", "kty": "RSA", "use": "enc" },
        { "kid": "b", "kty": "EC", "crv": "P-521" },
        { "kid": "c", "kty": "OKP", "crv": "Ed25519", "x": "AAAA" },
        { "kid": "d", "kty": "oct", "k": "AAAA" },
        { "n": "AAAA" },
    ] });
    let left_out = RefCell::new(Vec::new());
    let keys = keys::set(
        document.to_string().as_bytes(),
        SecretKeys::Refused,
        |kid, why| {
            left_out.borrow_mut().push(format!("{kid}: {why}"));
        },
    );
    assert!(keys.unwrap().is_empty());
    assert_eq!(
        left_out.into_inner(),
        [
            "a: it is not for signatures",
            "b: its type or curve is not supported",
            "c: the key is not an uncompressed point on its curve",
            "d: its type or curve is not supported",
            ": missing field `kty`",
        ]
    );
}
