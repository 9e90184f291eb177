//! Stored bodies that the kernel sends from files in memory. Invariant: a response has the body that
//! its own headers are about, however often it is sent, in whatever way it is read, and also while
//! it is replaced, purged or evicted. The files go with the responses.

use std::{sync::Arc, time::Duration};

use fastrand::Rng;
use futures_util::future::join_all;
use serde_json::json;

use crate::support::{
    client::{Connection, Request, get, narrow},
    front::Front,
    gateway::Gateway,
    http2,
    origins::planned::{Framing, Hints, Plan, PlannedOrigin, Plans},
    seed,
    wait::{pass, wait_for},
};

const PATHS: usize = 10;
const LANES: usize = 12;
const ROUNDS: usize = 90;
/// Sizes at which something changes: no file, a file, more than one segment of the store, a segment
/// that shares no packet with the headers, the longest body with a file, none again.
const EDGES: [usize; 6] = [49_152, 65_536, 131_072, 262_144, 1_000_000, 1_048_576];

fn plan(random: &mut Rng) -> Plan {
    let edge = EDGES[random.usize(..EDGES.len())];
    let size = match random.u8(..4) {
        0 => random.usize(..1_200_000),
        1 => edge,
        _ => edge - 2 + random.usize(..5),
    };
    Plan {
        status: 200,
        size,
        seed: random.u64(..),
        is_text: random.bool(),
        content_type: "text/javascript",
        framing: [Framing::Length, Framing::Chunked][random.usize(..2)],
        coding: None,
        has_trailers: false,
        hints: Hints::None,
        piece: 200_000,
        pause: None,
        cache_control: "max-age=600",
        has_tag: true,
        has_ranges: true,
    }
}

/// Returns the number of files in memory that hold responses.
fn files(gateway: &Gateway) -> usize {
    let open = std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).expect("it runs");
    let targets = open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let is_response =
        |target: &std::path::PathBuf| target.to_string_lossy().contains("edgeway-response");
    targets.filter(is_response).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_bodies_are_whole_however_they_are_sent() {
    let seed = seed::drawn();
    for memory in ["96MiB", "12MiB"] {
        let mut random = Rng::with_seed(seed);
        let plans = Arc::new(Plans::default());
        for path in 0..PATHS {
            plans.set(&format!("/{path}"), plan(&mut random));
        }
        let origin = PlannedOrigin::start(&plans).await;

        let gateway = Front::to(&origin)
            .http2()
            .with(&format!("cache: {{ memory: {memory}, max_object: 2MiB }}"))
            .route("cache: {}")
            .start()
            .await;
        let lanes = (0..LANES).map(|lane| {
            let random = Rng::with_seed(seed.wrapping_add(lane as u64));
            requests(&gateway, &plans, random)
        });
        let most = join_all(lanes).await.into_iter().max();
        assert!(most > Some(2), "{memory}: {most:?} files");
        assert_eq!(gateway.purge(&json!({ "all": true })).await.0, 200);
        wait_for("no file is left", Duration::from_secs(10), async || {
            (files(&gateway) == 0).then_some(())
        })
        .await;
    }
}

/// Sends requests for random pages in random ways, and returns the most files that there were.
async fn requests(gateway: &Gateway, plans: &Plans, mut random: Rng) -> usize {
    let address = gateway.address();
    let mut kept = Connection::open(address).await.expect("it listens");
    let stream = http2::Client::open(address).await;
    let mut most = 0;
    for _ in 0..ROUNDS {
        // Few are wanted by many.
        let path = random.usize(..PATHS).min(random.usize(..PATHS));
        let target = format!("/{path}");
        let request = get(&target).header("host", "app.test");
        match random.u8(..24) {
            0 => {
                plans.set(&target, plan(&mut random));
                let about = json!({ "url": format!("http://app.test{target}") });
                assert_eq!(gateway.purge(&about).await.0, 200);
            }
            1 => {
                let response = stream.send(http2::request("GET", &target), "").await;
                response.expect("streams get all of it");
            }
            2 => {
                let request = Request::new("HEAD", &target).header("host", "app.test");
                let response = kept.send(&request).await.expect("it has no body");
                assert_eq!(response.body.len(), 0);
            }
            3 => {
                let from = random.usize(..50_000);
                let range = format!("bytes={from}-{}", from + random.usize(..100_000));
                let part = kept.send(&request.header("range", range)).await;
                part.expect("ranges are whole");
            }
            4 => {
                let old = request.http10();
                let mut once = Connection::open(address).await.expect("it listens");
                let response = once.send(&old).await.expect("old clients get all of it");
                assert_eq!(response.status(), 200);
            }
            5 => {
                let mut slow = Connection::over(narrow(address).await, "app.test".to_owned());
                let headers = slow.start(&request).await.expect("it responds");
                pass(Duration::from_millis(random.u64(..40))).await;
                slow.finish(headers).await.expect("slow clients get all");
            }
            6 => {
                let mut gone = Connection::over(narrow(address).await, "app.test".to_owned());
                gone.start(&request).await.expect("it responds");
                drop(gone.leave("a client that leaves is the subject"));
            }
            7 => {
                let text = request.text();
                kept.write(text.repeat(3)).await.expect("it reads");
                for _ in 0..3 {
                    let response = kept.read_response().await;
                    response.expect("all are whole, in their order");
                }
            }
            _ => {
                let response = kept.send(&request).await.expect("clients get all of it");
                assert_eq!(response.status(), 200);
                let again = request.header("if-none-match", response.header("etag").unwrap_or(""));
                if random.u8(..8) == 0 {
                    kept.send(&again).await.expect("so do those that know it");
                }
            }
        }
        most = most.max(files(gateway));
    }
    most
}

#[tokio::test]
async fn hits_from_a_file_are_logged_and_counted_as_others() {
    let mut random = Rng::with_seed(1);
    let plans = Arc::new(Plans::default());
    let size = 70_000;
    plans.set(
        "/a",
        Plan {
            size,
            ..plan(&mut random)
        },
    );
    let origin = PlannedOrigin::start(&plans).await;

    let gateway = Front::to(&origin)
        .with("cache: { memory: 32MiB }")
        .route("cache: {}")
        .start()
        .await;
    let mut client = gateway.connect().await;
    let request = get("/a").header("host", "app.test");
    let mut requests = 0;
    while files(&gateway) == 0 {
        client.send(&request).await.expect("it responds");
        requests += 1;
        assert!(requests < 1000, "no file is made");
    }
    for _ in 0..4 {
        client.send(&request).await.expect("it responds");
        requests += 1;
    }
    let lines = gateway.log_lines(requests).await;
    for line in &lines[1..] {
        assert_eq!(line["bytes_out"], size, "{line:#}");
        assert_eq!(line["status"], 200, "{line:#}");
        assert_eq!(line["cache"], "HIT", "{line:#}");
    }
    assert_eq!(plans.asked("/a"), 1);
}
