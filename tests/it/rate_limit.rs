//! The number of requests that limits admit, in real time: the model gets the time between the
//! first and the last of them.

use std::time::Duration;

use chrono::Utc;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;
use tokio::time::Instant;

use crate::{
    cli::edgeway,
    support::{
        client::{Connection, Request, Response, get},
        gateway::Gateway,
        redis::Redis,
        wait::{pass, wait_for},
    },
};

/// Limits of the example in the design that need no identity.
const LIMITS: &str = "
rate_limits:
  edge: { rate: 10/s, burst: 20, key: client.ip, classes: [api, action] }
  login: 5/min
  day: 30/d
routes:
  - { match: { path: /* }, respond: { body: page }, rate_limit: [edge] }
  - { match: { path: /login }, respond: { body: login }, rate_limit: [login] }
  - { match: { path: /day }, respond: { body: day }, rate_limit: day }
";

/// Responses to requests that were sent one after another.
struct Sent {
    responses: Vec<Response>,
    /// Upper bound of the time between the first decision and the last.
    longest: Duration,
}

impl Sent {
    async fn to(gateway: &Gateway, requests: impl IntoIterator<Item = Request>) -> Self {
        let mut connection = gateway.connect().await;
        let begun = Instant::now();
        let mut responses = Vec::new();
        for request in requests {
            responses.push(connection.send(&request).await.expect("a response"));
        }
        Self {
            responses,
            longest: begun.elapsed(),
        }
    }

    fn passed(&self) -> usize {
        let passed = self
            .responses
            .iter()
            .filter(|response| response.status() == 200);
        passed.count()
    }
}

/// Number of requests that were refilled in this time, at `rate` a second.
fn refilled(rate: f64, time: Duration) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "small"
    )]
    let tokens = (rate * time.as_secs_f64()).floor() as usize;
    tokens
}

fn retry_after(response: &Response) -> u64 {
    let value = response
        .header("retry-after")
        .expect("it says when to come again");
    value.parse().expect("whole seconds")
}

/// Returns `r` and `t` of the only item in `RateLimit`.
fn state(response: &Response) -> (u64, u64) {
    let value = response
        .header("ratelimit")
        .expect("it says where the client stands");
    let mut parameters = value.split(';').skip(1).map(|parameter| {
        let (_, number) = parameter.split_once('=').expect("a parameter");
        number.parse().expect("a number")
    });
    let mut next = || parameters.next().expect("two parameters");
    (next(), next())
}

#[tokio::test]
async fn sixty_requests_in_an_instant_pass_as_the_model_predicts_and_waiting_helps() {
    let gateway = Gateway::start(LIMITS).await;
    let sent = Sent::to(&gateway, (0..60).map(|_| get("/api/x"))).await;
    let (passed, more) = (sent.passed(), refilled(10.0, sent.longest));
    assert!(
        (20..=20 + more + 1).contains(&passed),
        "{passed} in {:?}",
        sent.longest
    );
    if sent.longest < Duration::from_millis(900) {
        // The bucket that refuses is empty.
        let last = sent.responses.last().expect("sixty responses");
        assert!(passed < 30, "{passed}");
        let refused = sent
            .responses
            .iter()
            .find(|response| response.status() == 429);
        let refused = refused.expect("more than thirty were refused");
        assert_eq!(retry_after(refused), 1);
        assert_eq!(state(refused).0, 0);
        assert_eq!(
            last.header("ratelimit-policy"),
            Some("\"edge\";q=10;w=1;burst=20")
        );
        pass(Duration::from_secs(retry_after(refused))).await;
        assert_eq!(gateway.get("/api/x").await.status(), 200);
    }
}

#[tokio::test]
async fn a_client_that_waits_for_the_retry_after_passes() {
    let gateway = Gateway::start(LIMITS).await;
    let sent = Sent::to(&gateway, (0..6).map(|_| get("/login"))).await;
    assert_eq!(sent.passed(), 5);
    let refused = &sent.responses[5];
    // Twelve seconds, less the time since the first of them.
    let least = 12 - sent.longest.as_secs().min(11);
    assert!(
        (least..=12).contains(&retry_after(refused)),
        "{}",
        retry_after(refused)
    );
    // With a faster limit the test can wait for the whole time, once too short and once in full.
    let quick = LIMITS.replace("5/min", "{ rate: 1/2s, burst: 1 }");
    assert!(gateway.reload(&quick).await);
    // The bucket was empty, and is empty at the new rate.
    for _ in 0..3 {
        let refused = gateway.get("/login").await;
        assert_eq!(refused.status(), 429);
        let seconds = retry_after(&refused);
        assert!((1..=2).contains(&seconds), "{seconds}");
        pass(Duration::from_secs(seconds)).await;
        assert_eq!(gateway.get("/login").await.status(), 200);
    }
}

#[tokio::test]
async fn a_page_load_meets_no_limit_and_the_api_does() {
    let gateway = Gateway::start(LIMITS).await;
    let prefetch = |n| {
        get(&format!("/p/{n}?_rsc=1"))
            .header("rsc", "1")
            .header("next-router-prefetch", "1")
    };
    let chunk = |n| get(&format!("/_next/static/chunks/{n}.js"));
    let document = get("/")
        .header("accept", "text/html")
        .header("sec-fetch-dest", "document");
    let load = [document]
        .into_iter()
        .chain((0..8).map(chunk))
        .chain((0..30).map(prefetch));
    let sent = Sent::to(&gateway, load).await;
    assert_eq!(sent.passed(), 39);
    assert!(
        sent.responses
            .iter()
            .all(|response| response.header("ratelimit").is_none())
    );
    let sent = Sent::to(&gateway, (0..40).map(|_| get("/api/x"))).await;
    let first = sent
        .responses
        .iter()
        .position(|response| response.status() == 429);
    let first = first.unwrap_or(40);
    // The 21st, unless a tenth of a second has passed by then.
    let more = refilled(10.0, sent.longest);
    assert!(
        (20..=20 + more).contains(&first),
        "{first} in {:?}",
        sent.longest
    );
}

#[tokio::test]
async fn a_refusal_has_its_reason_in_the_response_the_log_and_the_metrics() {
    let yaml = "
rate_limits: { few: 2/h }
defaults: { rate_limit: few }
routes: [{ match: { path: /* }, respond: { body: ok } }]
";
    let gateway = Gateway::start(yaml).await;
    let prefetch = get("/p")
        .header("rsc", "1")
        .header("next-router-prefetch", "1");
    let json = get("/api/x").header("accept", "application/json");
    let sent = Sent::to(&gateway, [get("/"), get("/"), json, prefetch]).await;
    assert_eq!(sent.passed(), 2);
    let refused = &sent.responses[2];
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.json()["error"]["reason"], "rate_limit");
    assert_eq!(
        refused.header("ratelimit-policy"),
        Some("\"few\";q=2;w=3600")
    );
    assert!((1799..=1800).contains(&retry_after(refused)));
    assert!(refused.header("x-request-id").is_some());
    for refused in &sent.responses[2..] {
        assert_eq!(refused.header("cache-control"), Some("no-store"));
    }
    let lines = gateway.log_lines(4).await;
    let of = |status: u16| lines.iter().find(|line| line["status"] == status);
    let (passed, refused) = (of(200).expect("passed"), of(429).expect("refused"));
    assert_eq!(
        (&passed["reason"], &passed["limit"]),
        (&().into(), &().into())
    );
    assert_eq!(
        (&refused["reason"], &refused["limit"]),
        (&"rate_limit".into(), &"few".into())
    );
    for (series, count) in [
        ("edgeway_refused_total{reason=\"rate_limit\"}", 2),
        (
            "edgeway_rate_limit_total{limit=\"few\",action=\"passed\"}",
            2,
        ),
        (
            "edgeway_rate_limit_total{limit=\"few\",action=\"refused\"}",
            2,
        ),
    ] {
        gateway.counts(series, count).await;
    }
}

#[tokio::test]
async fn counts_go_on_over_twenty_reloads_and_three_upgrades() {
    let mut gateway = Gateway::start(LIMITS).await;
    let mut left = 30;
    let ask = async |gateway: &Gateway| {
        let response = gateway.get("/day").await;
        assert_eq!(response.status(), 200);
        state(&response).0
    };
    for round in 0..20 {
        left -= 1;
        assert_eq!(ask(&gateway).await, left, "before reload {round}");
        let other = LIMITS.replace("body: page", &format!("body: page{round}"));
        assert!(gateway.reload(&other).await);
    }
    for round in 0..3 {
        left -= 1;
        assert_eq!(ask(&gateway).await, left, "before upgrade {round}");
        gateway.upgrade().await;
    }
    for left in (0..left).rev() {
        assert_eq!(ask(&gateway).await, left);
    }
    assert_eq!(gateway.get("/day").await.status(), 429);
    // The control: another process starts with full buckets.
    let other = Gateway::start(LIMITS).await;
    assert_eq!(ask(&other).await, 29);
}

#[tokio::test]
async fn a_refused_configuration_moves_no_counter() {
    let gateway = Gateway::start(LIMITS).await;
    for _ in 0..30 {
        assert_eq!(gateway.get("/day").await.status(), 200);
    }
    let wrong = LIMITS
        .replace("[login]", "[logn]")
        .replace("30/d", "{ rate: 30/d, max_keys: 1000 }");
    assert!(!gateway.reload(&wrong).await);
    assert_eq!(gateway.get("/day").await.status(), 429);
    // A larger bucket keeps its share: an empty one is empty.
    assert!(
        gateway
            .reload(&LIMITS.replace("30/d", "{ rate: 60/d, max_keys: 1000 }"))
            .await
    );
    assert_eq!(gateway.get("/day").await.status(), 429);
}

#[tokio::test]
async fn many_connections_together_take_no_more_than_one() {
    let gateway = Gateway::start(LIMITS).await;
    let connections: Vec<Connection> = {
        let mut connections = Vec::new();
        for _ in 0..8 {
            connections.push(gateway.connect().await);
        }
        connections
    };
    let mut tasks = tokio::task::JoinSet::new();
    for mut connection in connections {
        tasks.spawn(async move {
            let mut passed = 0;
            for _ in 0..20 {
                let response = connection.send(&get("/day")).await.expect("a response");
                passed += usize::from(response.status() == 200);
            }
            passed
        });
    }
    let passed: usize = tasks.join_all().await.into_iter().sum();
    assert_eq!(passed, 30);
}

#[test]
fn explain_shows_the_limits_of_a_request() {
    let explain = |arguments: &[&str]| {
        let mut all = vec![
            "explain",
            "-c",
            "conf/examples/rate_limit.yaml",
            "--client",
            "10.1.2.3",
        ];
        all.extend(arguments);
        let ran = edgeway(&all);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        ran.stdout
    };
    for (arguments, lines) in [
        (
            &["GET", "/api/search"][..],
            &[
                "edge: 10/s by client.ip, burst 20",
                "search: 10.1.2.3 is exempt",
            ][..],
        ),
        (&["GET", "/"], &["edge: does not count the class page"]),
        (
            &["POST", "/api/auth/login"],
            &["login: 5/min by client.ip, burst 5"],
        ),
        (
            &["GET", "/api/reports/1", "-H", "X-Partner: trial"],
            &[
                "partner: 10/h by header:x-partner+route, burst 2, for header:x-partner=trial, at a cost of 2",
            ],
        ),
        (
            &["GET", "/api/reports/1"],
            &["partner: 1000/h by client.network, burst 1000, at a cost of 2"],
        ),
    ] {
        let output = explain(arguments);
        for line in lines {
            assert!(output.contains(line), "{arguments:?}\n{output}");
        }
    }
}

/// Section for all limits in Redis.
fn in_redis(url: &str) -> String {
    format!(
        "
redis: {{ url: \"{url}\", timeout: 1s }}
rate_limits:
  shared: {{ rate: 10/h, store: redis }}
  own: 10/h
  wide: {{ rate: 100/h, store: redis }}
  local: {{ rate: 2/h, store: redis, on_store_error: local }}
  allow: {{ rate: 2/h, store: redis, on_store_error: allow }}
  deny: {{ rate: 2/h, store: redis, on_store_error: deny }}
routes:
  - {{ match: {{ path: /shared }}, respond: {{ body: ok }}, rate_limit: [shared, own, wide] }}
  - {{ match: {{ path: /wide }}, respond: {{ body: ok }}, rate_limit: wide }}
  - {{ match: {{ path: /own }}, respond: {{ body: ok }}, rate_limit: own }}
  - {{ match: {{ path: /local }}, respond: {{ body: ok }}, rate_limit: local }}
  - {{ match: {{ path: /allow }}, respond: {{ body: ok }}, rate_limit: allow }}
  - {{ match: {{ path: /deny }}, respond: {{ body: ok }}, rate_limit: deny }}
"
    )
}

async fn redis_is_up(gateway: &Gateway, is_up: u64) {
    wait_for(
        "Redis is as it should be",
        Duration::from_secs(20),
        async || (gateway.count("edgeway_redis_up").await == is_up).then_some(()),
    )
    .await;
}

#[tokio::test]
async fn gateways_share_only_the_limits_in_redis() {
    let redis = Redis::start().await;
    let one = Gateway::start(&in_redis(&redis.url())).await;
    let two = Gateway::start(&in_redis(&redis.url())).await;
    redis_is_up(&one, 1).await;
    redis_is_up(&two, 1).await;
    let mut passed = 0;
    for _ in 0..8 {
        for gateway in [&one, &two] {
            passed += usize::from(gateway.get("/shared").await.status() == 200);
        }
    }
    assert_eq!(passed, 10);
    // A request that one limit refused is charged to none, in Redis as in memory.
    let response = two.get("/wide").await;
    assert_eq!(state(&response).0, 89);
    let own = one.get("/own").await;
    assert_eq!(state(&own).0, 4);
    let refused = one.get("/shared").await;
    assert_eq!(
        refused.header("ratelimit-policy"),
        Some("\"shared\";q=10;w=3600")
    );
    assert!(
        (359..=360).contains(&retry_after(&refused)),
        "{}",
        retry_after(&refused)
    );
}

#[tokio::test]
async fn without_redis_each_limit_uses_its_fallback() {
    let mut redis = Redis::start().await;
    let gateway = Gateway::start(&in_redis(&redis.url())).await;
    redis_is_up(&gateway, 1).await;
    redis.kill();
    redis_is_up(&gateway, 0).await;
    for (path, statuses) in [
        ("/local", [200, 200, 429, 429]),
        ("/allow", [200, 200, 200, 200]),
        ("/deny", [503, 503, 503, 503]),
    ] {
        for status in statuses {
            assert_eq!(gateway.get(path).await.status(), status, "{path}");
        }
    }
    let denied = gateway
        .send(&get("/deny").header("accept", "application/json"))
        .await;
    assert_eq!(denied.json()["error"]["reason"], "rate_limit_store");
    assert_eq!(retry_after(&denied), 1);
    for (limit, lost) in [("local", 4), ("allow", 4), ("deny", 5)] {
        let series = format!("edgeway_rate_limit_store_errors_total{{limit=\"{limit}\"}}");
        assert_eq!(gateway.count(&series).await, lost, "{limit}");
    }
}

const SECRET: &str = "thirty-two bytes that nobody else knows";

fn token(algorithm: Algorithm, secret: &str, sub: &str, role: &str) -> String {
    let claims = json!({ "sub": sub, "role": role, "exp": Utc::now().timestamp() + 300 });
    let key = EncodingKey::from_secret(secret.as_bytes());
    encode(&Header::new(algorithm), &claims, &key).expect("it can sign")
}

#[tokio::test]
async fn users_and_admins_have_buckets_of_their_own_and_guesses_count_by_address() {
    let yaml = "
rate_limits:
  user: { key: [jwt.sub, client.ip], rate: 10/h, tiers: { jwt.role: { admin: 30/h } } }
routes:
  - match: { path: /* }
    respond: { body: ok }
    jwt: { keys: \"${KEY}\" }
    rate_limit: user
";
    let gateway = Gateway::start_with(yaml, &[("KEY", SECRET)]).await;
    let shown = |token: &str| get("/api/x").header("authorization", format!("Bearer {token}"));
    for (sub, role, passes) in [("u1", "user", 10), ("a1", "admin", 30), ("u2", "user", 10)] {
        let token = token(Algorithm::HS256, SECRET, sub, role);
        let sent = Sent::to(&gateway, (0..40).map(|_| shown(&token))).await;
        assert_eq!(sent.passed(), passes, "{sub}");
        assert_eq!(sent.responses[39].status(), 429);
    }
    // None of that was charged to the address: ten guesses of any kind are allowed, and no more.
    let none = format!(
        "eyJhbGciOiJub25lIn0.{}.",
        "eyJzdWIiOiJhMSIsInJvbGUiOiJhZG1pbiJ9"
    );
    let forged = token(
        Algorithm::HS256,
        "another secret of thirty-two bytes",
        "a1",
        "admin",
    );
    let guesses = (0..15).map(|guess| shown(if guess % 2 == 0 { &none } else { &forged }));
    let sent = Sent::to(&gateway, guesses).await;
    let statuses: Vec<u16> = sent.responses.iter().map(Response::status).collect();
    assert_eq!(statuses[..10], [401; 10]);
    assert_eq!(statuses[10..], [429; 5]);
    assert!(retry_after(&sent.responses[10]) > 300);
    let refused = "edgeway_refused_total{reason=\"rate_limit\"}";
    gateway.counts(refused, 30 + 10 + 30 + 5).await;
}

#[tokio::test]
async fn a_page_in_place_of_a_401_lifts_no_limit() {
    let yaml = "
rate_limits: { user: { key: [jwt.sub, client.ip], rate: 3/h } }
routes:
  - match: { path: /* }
    respond: { body: ok }
    jwt: { keys: \"${KEY}\" }
    rate_limit: user
    error_pages: { pages: { 401: { redirect: /login } } }
";
    let gateway = Gateway::start_with(yaml, &[("KEY", SECRET)]).await;
    let guess = get("/").header("authorization", "Bearer guess");
    let sent = Sent::to(&gateway, (0..5).map(|_| guess.clone())).await;
    let statuses: Vec<u16> = sent.responses.iter().map(Response::status).collect();
    assert_eq!(statuses, [302, 302, 302, 429, 429]);
}

/// Requests that go on to another route, which has the same limit, or that another route guards with it.
#[tokio::test]
async fn a_request_counts_once_however_many_routes_it_passes() {
    let yaml = "
rate_limits:
  all: { rate: 1/d, burst: 6, by: \"{header.x-shape}\" }
  twice: { rate: 1/d, burst: 100, key: client.ip }
upstreams: { away: { backends: ['127.0.0.1:1'], eject: { errors: 0 }, retry: { attempts: 1 } } }
defaults: { rate_limit: [all] }
routes:
  - { match: { path: /files/* }, files: { root: www, otherwise: { route: app } } }
  - { match: { path: /chain/* }, files: { root: www, otherwise: { route: more } } }
  - { match: { path: /rules/* }, respond: 404, rules: [{ if: '{method}', route: app }] }
  - { match: { path: /broken/* }, upstream: away, error_pages: { pages: { 5xx: { route: app } } } }
  - { match: { path: /paged/* }, respond: app, error_pages: { pages: { 429: { route: busy } } } }
  - { match: { named: true }, name: busy, respond: busy }
  - { match: { named: true }, name: more, files: { root: www, otherwise: { route: app } } }
  - { match: { named: true }, name: app, respond: app }
  - { match: { path: '/guarded/*' }, respond: app, rate_limit: [all, twice] }
  - { match: { path: '/Guarded/*' }, upstream: away, error_pages: { pages: { 5xx: { route: app } } } }
";
    let gateway = Gateway::start_in(yaml, |folder| {
        std::fs::create_dir(folder.join("www")).expect("it can be made");
    })
    .await;
    let mut connection = gateway.connect().await;
    let shapes = [
        "files", "chain", "rules", "broken", "paged", "guarded", "Guarded",
    ];
    for shape in shapes {
        let mut passed = 0;
        let mut left = Vec::new();
        for _ in 0..9 {
            let request = get(&format!("/{shape}/x")).header("x-shape", shape);
            let response = connection.send(&request).await.expect("a response");
            if response.text() == "app" {
                passed += 1;
                let header = response.header("ratelimit").unwrap_or_default();
                left.push(header.split(';').nth(1).unwrap_or_default().to_owned());
            } else if shape == "paged" {
                assert_eq!(
                    (response.status(), response.text()),
                    (429, "busy".to_owned())
                );
            }
        }
        assert_eq!(passed, 6, "{shape}");
        assert_eq!(left, ["r=5", "r=4", "r=3", "r=2", "r=1", "r=0"], "{shape}");
    }
}
