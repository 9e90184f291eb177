//! A cache that is full, and purged all the time. Invariant: a request that finds a response which
//! still arrives gets all of it, whether or not there is room for it in the end, with either driver
//! and over either protocol.

use std::time::Duration;

use fastrand::Rng;
use futures_util::future::join_all;
use serde_json::json;

use crate::support::{
    client::{self, get},
    front::Front,
    gateway::Gateway,
    http2,
    origins::VersionedOrigin,
    seed,
};

const PAGES: usize = 24;
const LANES: usize = 64;
const ROUNDS: usize = 60;

#[tokio::test]
async fn all_who_wait_for_a_response_get_all_of_it() {
    let seed = seed::drawn();
    let origin = VersionedOrigin::start(PAGES, Duration::from_millis(4)).await;

    let gateway = Front::to(&origin)
        .http2()
        .with("cache: { memory: 1MiB, max_object: 64KiB }")
        .route("cache: {}")
        .start()
        .await;
    let lanes = (0..LANES).map(|lane| {
        let random = Rng::with_seed(seed.wrapping_add(lane as u64));
        requests(&gateway, random)
    });
    let found = join_all(lanes).await;
    let [arriving, passed] = [
        "edgeway_cache_collapsed_total",
        "edgeway_cache_not_stored_total",
    ];
    let [arriving, passed] = [gateway.count(arriving).await, gateway.count(passed).await];
    let hits: usize = found.iter().sum();
    assert!(
        hits > LANES && arriving > 20 && passed > 20,
        "{hits} hits, {arriving} of responses that arrived, {passed} not stored"
    );
}

/// Sends requests for random pages, in random ways; returns the number of hits.
async fn requests(gateway: &Gateway, mut random: Rng) -> usize {
    let http2 = http2::Client::open(gateway.address()).await;
    let mut hits = 0;
    for _ in 0..ROUNDS {
        if random.u8(..25) == 0 {
            gateway.purge(&json!({ "all": true })).await;
        }
        // Few at a time are wanted by many.
        let page = random.usize(..PAGES).min(random.usize(..PAGES));
        let target = format!("/{page}/page");
        let is_whole = random.u8(..4) > 0;
        let (status, is_hit, body) = if random.bool() {
            let mut request = http2::request("GET", &target);
            if !is_whole {
                request = request.header("range", "bytes=0-");
            }
            let response = http2.send(request, "").await;
            let response = response.expect("HTTP/2 clients get all of it");
            let is_hit = response.header("x-cache-status") == Some("HIT");
            (response.status(), is_hit, response.text().to_owned())
        } else {
            let mut request = get(&target).header("host", "app.test");
            if !is_whole {
                request = request.header("range", "bytes=0-");
            }
            let response = client::send(gateway.address(), &request).await;
            let response = response.expect("clients get all of it");
            let is_hit = response.header("x-cache-status") == Some("HIT");
            (response.status(), is_hit, response.text())
        };
        assert!(matches!(status, 200 | 206), "{target}: {status}");
        assert!(body.ends_with("xxx"), "{target}: {} bytes", body.len());
        hits += usize::from(is_hit);
    }
    hits
}
