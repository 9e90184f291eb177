//! A change in the app is visible everywhere: two gateways and two instances with one Redis, and
//! the snippets of `examples/nextjs`.

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, UNIX_EPOCH},
};

use edgeway_base::clock::Clock;
use serde_json::Value;
use tokio::process::Command;

use super::{folder, made_at, router, status_of};
use crate::support::{
    apps::{App, Kind, NextApp, backends},
    client::{Request, get},
    gateway::Gateway,
    redis::Redis,
    wait::wait_for,
};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const SOON: Duration = Duration::from_secs(10);

async fn front(apps: &[App], redis: &Redis) -> Gateway {
    let gateway = Gateway::start(&format!(
        "
redis: {}
admin: {{ address: 127.0.0.1:0, token: {TOKEN} }}
cache:
  fan_out: {{ upstream: web, path: /api/edgeway/revalidate, token: {TOKEN} }}
upstreams:
  web:
    app: nextjs
    folder: {}
    backends: [{}]
routes:
  - match: {{ path: /* }}
    upstream: web
    cache: {{}}
",
        redis.section(", timeout: 1s"),
        folder(Kind::Next),
        backends(apps),
    ))
    .await;
    gateway.follows_purges().await;
    gateway
}

fn now() -> u64 {
    let since = Clock::machine().wall().duration_since(UNIX_EPOCH);
    u64::try_from(since.expect("it is after 1970").as_millis()).expect("not so late")
}

/// Revalidates as a server action of the app does, with the module that apps copy.
async fn revalidate(gateway: &Gateway, paths: &str) -> Value {
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/nextjs/edgeway.js");
    let script = format!(
        "const {{ revalidate }} = await import('{}');\n\
         console.log(JSON.stringify(await revalidate({{ paths: {paths} }})));",
        module.display()
    );
    let ran = Command::new("node")
        .args(["--input-type=module", "--eval", &script])
        .env("EDGEWAY_ADMIN_URL", format!("http://{}", gateway.admin()))
        .env("EDGEWAY_ADMIN_TOKEN", TOKEN)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("node is there");
    let errors = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{errors}");
    serde_json::from_slice(&ran.stdout).expect("it prints the receipt")
}

/// Requests a page until it is in the cache.
async fn fill(gateway: &Gateway, request: &Request) {
    wait_for("the page is in the cache", SOON, async || {
        let response = gateway.send(request).await;
        (status_of(&response) == "HIT").then_some(())
    })
    .await;
}

#[tokio::test]
async fn after_revalidate_every_read_anywhere_is_newer_than_the_call() {
    let redis = Redis::start().await;
    let apps = [
        NextApp::start_with(&[("EDGEWAY_FAN_OUT_TOKEN", TOKEN)]).await,
        NextApp::start_with(&[("EDGEWAY_FAN_OUT_TOKEN", TOKEN)]).await,
    ];
    let gateways = [front(&apps, &redis).await, front(&apps, &redis).await];
    let page = |request: Request| request.header("host", "shop.test");
    let reads = [page(get("/isr")), page(router("/isr?_rsc"))];
    for _round in 0..2 {
        for gateway in &gateways {
            for read in &reads {
                fill(gateway, read).await;
            }
        }
        let called = now();
        let receipt = revalidate(&gateways[0], "['/isr']").await;
        assert_eq!(receipt["others"], "reached", "{receipt}");
        let instances = receipt["instances"].as_array().expect("they are named");
        assert!(instances.iter().all(|it| it["status"] == 200), "{receipt}");
        assert_eq!(instances.len(), 2, "{receipt}");
        let applied = receipt["applied"].as_array().expect("they are named");
        assert_eq!(applied.len(), 2, "{receipt}");
        for at in 0..100 {
            let read = &reads[at / 2 % 2];
            let response = gateways[at % 2].send(read).await;
            let made = made_at(&response);
            let cache = status_of(&response);
            assert!(made > called, "read {at}: {cache}, {made} against {called}");
        }
    }
}

#[tokio::test]
async fn strangers_do_not_revalidate() {
    let app = NextApp::start_with(&[("EDGEWAY_FAN_OUT_TOKEN", TOKEN)]).await;
    let unset = NextApp::shared().await;
    for (app, shown, status) in [
        (&app, TOKEN, 200),
        (&app, "wrong", 401),
        (unset, "undefined", 401),
        (unset, "", 401),
    ] {
        let request = crate::support::client::post("/api/edgeway/revalidate", "{}")
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {shown}"));
        assert_eq!(app.send(&request).await.status(), status, "{shown}");
    }
    let bare = crate::support::client::post("/api/edgeway/revalidate", "{}");
    assert_eq!(app.send(&bare).await.status(), 401);
    // The tested module is the one that apps copy.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = |folder: &str| {
        let path = root
            .join(folder)
            .join("app/api/edgeway/revalidate/route.js");
        std::fs::read_to_string(path).expect("it is there")
    };
    assert_eq!(text("tests/apps/next"), text("examples/nextjs"));
}
