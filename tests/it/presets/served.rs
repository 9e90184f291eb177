//! Each preset with its own figures, in a gateway that serves.

use std::{fs, sync::Arc, time::Duration};

use chrono::Utc;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::{
    cli::edgeway,
    support::{
        certificates::Ca,
        client::{Connection, Request, Response, get},
        gateway::Gateway,
        origins::{NumberedOrigin, Origin},
        wait::wait_for,
    },
};

const SECRET: &str = "thirty-two bytes that nobody else knows";

/// Sends the same request so many times, and counts each status.
async fn statuses(gateway: &Gateway, request: &Request, count: usize) -> Vec<u16> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(gateway.send(request).await.status());
    }
    all
}

fn passed(statuses: &[u16], as_status: u16) -> usize {
    assert!(
        statuses.iter().all(|it| *it == as_status || *it == 429),
        "{statuses:?}"
    );
    statuses.iter().filter(|it| **it == as_status).count()
}

pub(super) fn page(path: &str) -> Request {
    get(path)
        .header("accept", "text/html")
        .header("sec-fetch-mode", "navigate")
        .header("sec-fetch-dest", "document")
}

pub(super) fn ttl(response: &Response) -> Option<u64> {
    let status = response.header("cache-status")?;
    let (_, rest) = status.split_once("ttl=")?;
    rest.split(';').next()?.trim().parse().ok()
}

pub(super) fn cached(response: &Response) -> &str {
    response.header("x-cache-status").unwrap_or("-")
}

fn token(claims: &Value) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    encode(&Header::default(), claims, &key).expect("it can sign")
}

fn bearer(request: Request, claims: &Value) -> Request {
    request.header("authorization", format!("Bearer {}", token(claims)))
}

fn until() -> i64 {
    Utc::now().timestamp() + 600
}

/// Checks a limit on bodies at its last byte.
pub(super) async fn assert_body_limit(gateway: &Gateway, path: &str, most: u64) {
    for (bytes, status) in [(most, 200), (most + 1, 413)] {
        let request = Request::new("POST", path).filler(bytes);
        let response = gateway.send(&request).await;
        assert_eq!(response.status(), status, "{path}: {bytes}");
    }
}

fn hashed_forever(origin: &NumberedOrigin) {
    let forever = [("cache-control", "public, max-age=31536000, immutable")];
    origin.tell("/_next/static/a.js", 200, &forever);
    origin.tell(
        "/_next/static/gone.js",
        404,
        &[("cache-control", "public, max-age=31536000")],
    );
}

async fn assert_static(gateway: &Gateway) {
    let there = gateway.get("/_next/static/a.js").await;
    assert_eq!(
        there.header("cache-control"),
        Some("public, max-age=31536000, immutable")
    );
    for _ in 0..2 {
        let gone = gateway.get("/_next/static/gone.js").await;
        assert_eq!(
            (gone.status(), gone.header("cache-control")),
            (404, Some("no-store"))
        );
        assert_ne!(cached(&gone), "HIT");
    }
}

async fn origins<const N: usize>() -> [Origin<NumberedOrigin>; N] {
    let mut all = Vec::new();
    for _ in 0..N {
        all.push(NumberedOrigin::start().await);
    }
    all.try_into()
        .unwrap_or_else(|_| unreachable!("as many as were pushed"))
}

#[tokio::test]
async fn small_has_the_figures_of_one_machine() {
    let [web, api] = origins().await;
    hashed_forever(web.settings());
    let gateway = Gateway::start(&format!(
        "extends: preset:small\nupstreams:\n  web: {{ backends: [\"{}\"] }}\n  api: {{ backends: [\"{}\"] }}\n",
        web.address(),
        api.address()
    ))
    .await;
    // 10 a second for each client, 20 at once; pages are not counted.
    let begun = std::time::Instant::now();
    let all = statuses(&gateway, &get("/api/list"), 60).await;
    let refill = usize::try_from(begun.elapsed().as_millis() / 100 + 1).expect("it is small");
    let count = passed(&all, 200);
    assert!(
        (20..=20 + refill).contains(&count),
        "{count} of 60, {refill} refilled"
    );
    let refused = gateway.get("/api/list").await;
    assert!(refused.status() == 200 || refused.header("retry-after").is_some());
    assert_eq!(passed(&statuses(&gateway, &page("/"), 60).await, 200), 60);
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Responses of the API are fresh for 5 minutes, and what it says itself comes first.
    api.settings()
        .tell("/api/own", 200, &[("cache-control", "private")]);
    api.settings().tell("/api/gone", 404, &[]);
    assert_eq!(cached(&gateway.get("/api/new").await), "MISS");
    let again = gateway.get("/api/new").await;
    assert_eq!(cached(&again), "HIT");
    assert!(
        (295..=300).contains(&ttl(&again).expect("it is stored")),
        "{:?}",
        ttl(&again)
    );
    for _ in 0..2 {
        assert_ne!(cached(&gateway.get("/api/own").await), "HIT");
    }
    gateway.get("/api/gone").await;
    let gone = gateway.get("/api/gone").await;
    assert!(
        ttl(&gone).is_some_and(|ttl| ttl <= 10),
        "{:?}",
        gone.header("cache-status")
    );
    assert_static(&gateway).await;
    assert_body_limit(&gateway, "/upload", 512_000).await;
    assert!(web.settings().requests("/") > 0 && api.settings().requests("/health") > 0);
    let printed = edgeway(&[
        "check",
        "--print",
        "-c",
        &gateway.folder().join("edgeway.yaml").to_string_lossy(),
    ]);
    assert!(
        printed.stdout.contains("memory: 256MiB"),
        "{}",
        printed.stdout
    );
}

#[tokio::test]
async fn api_counts_and_caches_by_user() {
    let [auth, tasks] = origins().await;
    let yaml = format!(
        "extends: {{ preset: api, allow_http: true }}\nupstreams:\n  auth: {{ backends: [\"{}\"] }}\n  tasks: {{ backends: [\"{}\"] }}\n\
         routes:\n- {{ name: auth, jwt: {{ keys: file:jwt.key }} }}\n- {{ name: tasks, jwt: {{ keys: file:jwt.key }} }}\n",
        auth.address(),
        tasks.address()
    );
    let gateway = Gateway::start_in(&yaml, |folder| {
        fs::write(folder.join("jwt.key"), SECRET).expect("the folder takes files");
    })
    .await;
    let user = |name: &str, role: &str| json!({ "sub": name, "role": role, "exp": until() });
    let ask = |name: &str, role: &str, path: &str| bearer(get(path), &user(name, role));
    // A copy for each user, for 300 s, until that user writes.
    let list = "/api/v1/tasks";
    let one = gateway.send(&ask("ann", "user", list)).await;
    let two = gateway.send(&ask("bob", "user", list)).await;
    assert_eq!((cached(&one), cached(&two)), ("MISS", "MISS"));
    assert_ne!(one.text(), two.text());
    let again = gateway.send(&ask("ann", "user", list)).await;
    assert_eq!((cached(&again), again.text()), ("HIT", one.text()));
    assert!((295..=300).contains(&ttl(&again).expect("it is stored")));
    let write = bearer(Request::new("PUT", "/api/v1/tasks/7"), &user("ann", "user"));
    assert_eq!(gateway.send(&write).await.status(), 200);
    assert_eq!(
        cached(&gateway.send(&ask("ann", "user", list)).await),
        "MISS"
    );
    // 100 in 15 minutes for a user, 1000 for an administrator, apart from one another.
    for (name, role, most) in [
        ("carl", "user", 100),
        ("dora", "user", 100),
        ("root", "admin", 1000),
    ] {
        let begun = std::time::Instant::now();
        let all = statuses(&gateway, &ask(name, role, "/api/v1/tasks/1"), most + 40).await;
        let refill =
            begun.elapsed().as_secs_f64() * f64::from(u32::try_from(most).expect("small")) / 900.0;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a few"
        )]
        let refill = refill as usize + 1;
        let count = passed(&all, 200);
        assert!((most..=most + refill).contains(&count), "{name}: {count}");
    }
    // A forged token counts by address, as none does.
    let forged = get("/api/v1/auth/x").header("authorization", "Bearer a.b.c");
    let count = passed(&statuses(&gateway, &forged, 110).await, 200);
    assert!((100..=101).contains(&count), "{count}");
    assert_eq!(gateway.get("/api/v1/auth/x").await.status(), 429);
    assert_eq!(
        gateway
            .send(&get(list).header("authorization", "Bearer a.b.c"))
            .await
            .status(),
        429
    );
    assert_eq!(gateway.send(&ask("ann", "user", list)).await.status(), 200);
    let large =
        |bytes| bearer(Request::new("POST", "/api/v1/tasks"), &user("ann", "user")).filler(bytes);
    assert_eq!(gateway.send(&large(1 << 20)).await.status(), 200);
    assert_eq!(gateway.send(&large((1 << 20) + 1)).await.status(), 413);
    let seen = tasks.counts().received();
    assert!(
        seen.iter()
            .any(|request| request.header("x-auth-sub") == Some("ann"))
    );
}

#[tokio::test]
async fn portal_protects_videos_and_feeds_a_cdn() {
    let [web] = origins().await;
    hashed_forever(web.settings());
    let ca = Ca::new();
    let yaml = format!(
        "extends: preset:portal\n\
         listeners:\n- {{ address: \"127.0.0.1:0\", name: web, tls: {{ certificates: [{{ cert: site.pem, key: site.key }}] }} }}\n\
         - {{ address: \"127.0.0.1:0\", name: plain, redirect: https }}\n\
         upstreams: {{ web: {{ backends: [\"{}\"], guarded: [] }} }}\n\
         routes:\n- {{ name: admin, jwt: {{ keys: file:jwt.key }} }}\n- {{ name: manifest, jwt: {{ keys: file:jwt.key }} }}\n",
        web.address()
    );
    let gateway = Gateway::start_in(&yaml, |folder| {
        fs::write(folder.join("jwt.key"), SECRET).expect("the folder takes files");
        ca.site(&["shop.test"]).write(folder, "site");
    })
    .await;
    let trust = Arc::new(ca.trust());
    let send = async |request: Request| {
        let connection = Connection::open_tls(gateway.address(), "shop.test", &trust).await;
        let mut connection = connection.expect("it listens");
        connection.send(&request).await.expect("it responds")
    };
    let home = send(page("/")).await;
    assert!(home.header("strict-transport-security").is_some());
    let plain = gateway.listener("plain").parse().expect("an address");
    let redirected = crate::support::client::send(plain, &get("/a?b=1"))
        .await
        .expect("it responds");
    assert_eq!(redirected.status(), 308);
    // Browsers keep hashed files for a year, the CDN for a day; images for an hour and a day.
    let chunk = send(get("/_next/static/a.js")).await;
    assert_eq!(
        chunk.header("cache-control"),
        Some("public, max-age=31536000, immutable")
    );
    assert_eq!(chunk.header("cdn-cache-control"), Some("max-age=86400"));
    let image = send(get("/logo.png")).await;
    assert_eq!(
        image.header("cache-control"),
        Some("public, max-age=3600, s-maxage=86400")
    );
    let private = send(get("/logo.png").header("cookie", "session=1")).await;
    assert_eq!(
        private.header("cache-control"),
        Some("private, max-age=3600")
    );
    let gone = send(get("/_next/static/gone.js")).await;
    assert_eq!(gone.header("cache-control"), Some("no-store"));
    // A token of at most 90 seconds, in the query or a header, and in no log.
    let now = Utc::now().timestamp();
    let lasting = |seconds: i64| token(&json!({ "sub": "v", "iat": now, "exp": now + seconds }));
    let manifest = "/api/player/manifest";
    let good = lasting(90);
    for (status, request) in [
        (200, get(&format!("{manifest}?token={good}"))),
        (
            200,
            get(manifest).header("authorization", format!("Bearer {good}")),
        ),
        (401, get(manifest)),
        (401, get(&format!("{manifest}?token={}", lasting(91)))),
        (
            401,
            get(&format!(
                "{manifest}?token={}",
                token(&json!({ "sub": "v", "iat": now - 96, "exp": now - 6 }))
            )),
        ),
    ] {
        assert_eq!(send(request.clone()).await.status(), status, "{request:?}");
    }
    let log = gateway.log_lines(10).await;
    assert!(
        log.iter().all(|line| !line.to_string().contains(&good)),
        "{log:?}"
    );
    // Roles of the administration.
    for (status, role) in [(200, "admin"), (403, "user")] {
        let claims = json!({ "sub": "a", "role": role, "exp": until() });
        assert_eq!(
            send(bearer(get("/api/admin/x"), &claims)).await.status(),
            status
        );
    }
    assert_eq!(send(get("/api/admin/x")).await.status(), 401);
    assert_eq!(
        send(Request::new("POST", "/api/courses").filler((1 << 20) + 1))
            .await
            .status(),
        413
    );
    // 10 a second on the API, and pages are not counted.
    let mut connection = Connection::open_tls(gateway.address(), "shop.test", &trust)
        .await
        .expect("it listens");
    let mut limited = 0;
    for _ in 0..80 {
        let response = connection
            .send(&get("/api/courses/1").header("host", "shop.test"))
            .await
            .expect("it responds");
        limited += usize::from(response.status() == 429);
    }
    assert!(limited >= 20, "{limited}");
    assert_eq!(send(page("/courses")).await.status(), 200);
}

#[tokio::test]
async fn regulated_limits_logins_and_records_who_was_refused() {
    let backends = origins::<4>().await;
    let addresses: Vec<_> = backends
        .iter()
        .map(|it| format!("\"{}\"", it.address()))
        .collect();
    for backend in &backends {
        hashed_forever(backend.settings());
    }
    let gateway = Gateway::start(&format!(
        "extends: {{ preset: regulated, allow_http: true }}\nupstreams: {{ app: {{ backends: [{}] }} }}\n\
         routes: [{{ name: admin, access: {{ allow: [10.0.0.0/8] }} }}]\n",
        addresses.join(", ")
    ))
    .await;
    let login = Request::new("POST", "/api/auth/login");
    assert_eq!(
        statuses(&gateway, &login, 6).await,
        [200, 200, 200, 200, 200, 429]
    );
    // Pages spread over the four, and none of them is stored.
    for _ in 0..200 {
        assert_ne!(cached(&gateway.send(&page("/record")).await), "HIT");
    }
    for backend in &backends {
        let share = backend.settings().requests("/record");
        assert!((40..=60).contains(&share), "{share} of 200");
    }
    gateway.get("/_next/static/a.js").await;
    let stored = gateway.get("/_next/static/a.js").await;
    assert_eq!(cached(&stored), "HIT");
    assert_static(&gateway).await;
    assert_body_limit(&gateway, "/upload", 1 << 20).await;
    let foreign = Request::new("POST", "/profile").header("sec-fetch-site", "cross-site");
    assert_eq!(gateway.send(&foreign).await.status(), 403);
    // The 5 logins that passed count here too, and three requests above; what `login` refuses costs
    // nothing.
    let begun = std::time::Instant::now();
    let count = passed(&statuses(&gateway, &get("/api/x"), 120).await, 200);
    let refill = usize::try_from(begun.elapsed().as_secs() * 2 + 8).expect("it is small");
    assert!((90..=95 + refill).contains(&count), "{count}");
    assert_eq!(gateway.get("/admin/users").await.status(), 403);
    let reloaded = edgeway(&["reload", "--socket", gateway.admin_socket()]);
    assert_eq!(reloaded.status, 0, "{}", reloaded.stderr);
    let audit = gateway.folder().join("audit.log");
    wait_for(
        "the audit log has a line",
        Duration::from_secs(10),
        async || {
            fs::read_to_string(&audit)
                .ok()
                .filter(|text| !text.is_empty())
        },
    )
    .await;
}

#[tokio::test]
async fn nextjs_exempts_files_and_prefetches_from_its_limit() {
    let [web] = origins().await;
    hashed_forever(web.settings());
    web.settings().tell(
        "/isr",
        200,
        &[
            (
                "cache-control",
                "s-maxage=60, stale-while-revalidate=31535940",
            ),
            ("content-type", "text/html"),
        ],
    );
    let gateway = Gateway::start(&format!(
        "extends: {{ preset: nextjs, allow_http: true }}\nupstreams: {{ web: {{ backends: [\"{}\"], guarded: [] }} }}\n",
        web.address()
    ))
    .await;
    assert_body_limit(&gateway, "/upload", 1 << 20).await;
    let prefetch = get("/courses?_rsc=1")
        .header("rsc", "1")
        .header("next-router-prefetch", "1");
    for free in [get("/_next/static/a.js"), prefetch, page("/")] {
        assert_eq!(
            passed(&statuses(&gateway, &free, 60).await, 200),
            60,
            "{free:?}"
        );
    }
    let count = passed(&statuses(&gateway, &get("/api/x"), 80).await, 200);
    // The two uploads may have counted.
    assert!((18..60).contains(&count), "{count}");
    assert_static(&gateway).await;
    assert_eq!(cached(&gateway.send(&page("/isr")).await), "MISS");
    assert_eq!(cached(&gateway.send(&page("/isr")).await), "HIT");
}

/// A gateway that fell back to the last good configuration still has its preset.
#[tokio::test]
async fn a_preset_survives_a_reload_and_a_file_that_breaks() {
    let [web, api] = origins().await;
    let yaml = |more: &str| {
        format!(
            "extends: preset:small\nupstreams:\n  web: {{ backends: [\"{}\"] }}\n  api: {{ backends: [\"{}\"] }}\n{more}",
            web.address(),
            api.address()
        )
    };
    let gateway = Gateway::start(&yaml("")).await;
    assert!(
        !gateway
            .reload(&yaml("routes: [{ name: api, upstream: nobody }]\n"))
            .await
    );
    assert_body_limit(&gateway, "/upload", 512_000).await;
    assert!(
        gateway
            .reload(&yaml("defaults: { body_limit: 1KiB }\n"))
            .await
    );
    assert_body_limit(&gateway, "/upload", 1024).await;
}
