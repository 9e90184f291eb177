//! The preset of the shop, whose gateways share limits in Redis.

use std::{collections::BTreeSet, time::Duration};

use serde_json::json;

use super::{
    PLAIN, effective, needed, route,
    served::{assert_body_limit, cached, page, ttl},
};
use crate::{
    cli::edgeway,
    support::{
        gateway::Gateway,
        origins::EchoOrigin,
        redis::{Redis, SECRET as FLEET},
    },
};

#[tokio::test]
async fn shop_shares_its_limits_and_is_ready_for_a_peak() {
    let redis = Redis::start().await;
    let origin = EchoOrigin::start().await;
    let address = origin.address();
    let pools = ["product", "cart", "order", "auth", "notification"];
    let upstreams: String = pools
        .iter()
        .map(|pool| format!("  {pool}: {{ backends: [\"{address}\"], balance: ~ }}\n"))
        .collect();
    let yaml = format!(
        "extends: {{ preset: shop, allow_http: true }}\nredis: {{ url: \"{}\", secret: {FLEET}, timeout: 1s }}\n\
         cache: {{ disk: {{ folder: stored }} }}\nupstreams:\n{upstreams}",
        redis.url()
    );
    let gateway = Gateway::start(&yaml).await;
    gateway.follows_purges().await;
    // The four times of resources, and half an hour for all of them at the peak.
    let resources = [
        ("products", 300),
        ("deals", 600),
        ("categories", 3600),
        ("recommendations", 600),
    ];
    for round in 0..2 {
        for (name, seconds) in resources {
            let path = format!("/api/{name}/{round}");
            assert_eq!(cached(&gateway.get(&path).await), "MISS", "{path}");
            let hit = gateway.get(&path).await;
            let expected = if round == 0 {
                seconds
            } else {
                seconds.max(1800)
            };
            let left = ttl(&hit).expect("it is stored");
            assert!((expected - 5..=expected).contains(&left), "{path}: {left}");
        }
        let switched = edgeway(&["profile", "peak", "--socket", gateway.admin_socket()]);
        assert_eq!(switched.status, 0, "{}", switched.stderr);
    }
    assert_body_limit(&gateway, "/api/products", 10 << 20).await;
    assert_body_limit(&gateway, "/api/auth/x", 1 << 20).await;
    // Two gateways and one store: 200 at once and 100 a second, together.
    let other = Gateway::start(&yaml).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let begun = std::time::Instant::now();
    let mut connections = Vec::new();
    for gateway in [&gateway, &other] {
        connections.push(gateway.connect().await);
    }
    let mut count = 0_u128;
    for turn in 0..600 {
        let response = connections[turn % 2]
            .send(&page("/ws/page").header("host", "a.test"))
            .await;
        count += u128::from(response.expect("it responds").status() != 429);
    }
    let most = 200 + begun.elapsed().as_millis() / 10 + 2;
    assert!(
        (200..=most).contains(&count),
        "{count} of 600, {most} at most"
    );
    drop(connections);
    // 20 connections for each client.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut held = Vec::new();
    let mut refused = 0;
    for _ in 0..24 {
        let mut connection = gateway.connect().await;
        match connection
            .send(&page("/api/cart/1").header("host", "a.test"))
            .await
        {
            Ok(_) => held.push(connection),
            Err(_) => refused += 1,
        }
    }
    assert!(
        held.len() <= 20 && refused >= 4,
        "{} held, {refused} refused",
        held.len()
    );
    let sent: BTreeSet<String> = origin
        .counts()
        .received()
        .iter()
        .map(|request| request.target.clone())
        .collect();
    assert!(sent.contains("/api/cart/1"), "{sent:?}");
    let all = effective(&format!(
        "extends: {{ preset: shop, allow_http: true }}\n{PLAIN}{}",
        needed("shop")
    ));
    let backends = pools.map(|pool| {
        all["upstreams"][pool]["backends"]
            .as_array()
            .map_or(0, Vec::len)
    });
    assert_eq!(backends, [4, 4, 4, 4, 2]);
    assert_eq!(route(&all, "notifications")["websocket"]["enabled"], true);
    assert_eq!(all["listeners"][0]["limits"]["connections_per_ip"], 20);
    assert_eq!(
        (&all["cache"]["memory"], &all["cache"]["disk"]["size"]),
        (&json!("512MiB"), &json!("2GiB"))
    );
}
