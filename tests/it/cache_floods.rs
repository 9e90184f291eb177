//! Thousands of writes, which any client can send: they remove only the responses that they apply
//! to, in every tier and at every gateway.
#![allow(
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    reason = "the code of tests: counts are small, and what is spawned is waited for"
)]

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    time::Duration,
};

use rustix::process::Signal;
use tokio::task::JoinSet;

use crate::support::{
    client::{Connection, Request, Response, get, post},
    front::Front,
    gateway::Gateway,
    origins::{NumberedOrigin, Origin},
    redis::Redis,
    seed,
    wait::{pass, wait_for},
};

const SOON: Duration = Duration::from_secs(30);
const HOUR: &[(&str, &str)] = &[("cache-control", "max-age=3600")];
const IN_REDIS: &str = "edgeway_cache_level2_writes_total{outcome=\"stored\"}";
const ON_DISK: &str = "edgeway_cache_disk_writes_total{outcome=\"stored\"}";
const STORED: usize = 40;
const LANES: usize = 8;

/// Number of writes; `FLOOD_WRITES` makes a run longer.
fn writes() -> usize {
    let asked = std::env::var("FLOOD_WRITES").ok();
    let asked = asked.and_then(|text| text.parse().ok());
    asked.unwrap_or_else(|| seed::cases(1500, 4000))
}

fn yaml(origin: SocketAddr, redis: &Redis, cache: &str) -> String {
    Front::to(origin)
        .with(&format!("redis: {}", redis.section(", timeout: 1s")))
        .with(&format!("cache: {cache}"))
        .route("name: app, cache: { purge_on_write: true }")
        .yaml()
}

async fn front(yaml: &str) -> Gateway {
    let gateway = Gateway::start(yaml).await;
    gateway.follows_purges().await;
    gateway
}

fn of_shop(request: Request) -> Request {
    request.header("host", "shop")
}

async fn ask(gateway: &Gateway, path: &str) -> Response {
    gateway.send(&of_shop(get(path))).await
}

fn is_hit(response: &Response) -> bool {
    response.header("x-cache-status") == Some("HIT")
}

/// Returns the body of each page, and whether it came from the cache.
async fn pages(gateway: &Gateway) -> Vec<(bool, String)> {
    let mut pages = Vec::new();
    for page in 0..STORED {
        let response = ask(gateway, &format!("/kept/{page}")).await;
        pages.push((is_hit(&response), response.text()));
    }
    pages
}

async fn filled(gateway: &Gateway, metric: &str) {
    let mut number = 0;
    wait_for("the tier can be written", SOON, async || {
        let before = gateway.metric(metric).await;
        number += 1;
        ask(gateway, &format!("/first{number}")).await;
        pass(Duration::from_millis(100)).await;
        (gateway.metric(metric).await > before).then_some(())
    })
    .await;
}

/// Sends writes to random paths, and returns the pages that were written to.
async fn flood(gateway: &Gateway, origin: &Origin<NumberedOrigin>, seed: u64) -> BTreeSet<usize> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut written = BTreeSet::new();
    let mut lanes: Vec<Vec<Request>> = (0..LANES).map(|_| Vec::new()).collect();
    let some: Vec<usize> = (0..STORED / 4).map(|_| random.usize(..STORED)).collect();
    let (every, mut next) = ((writes() / some.len()).max(1), some.iter());
    for number in 0..writes() {
        let path = format!("/w{number}/x");
        // Its `Location` headers name paths of the same host that no gateway has stored.
        let location = format!("/nobody/{}", random.u32(..));
        let other = format!("/nobody/{}?{}", random.u32(..), random.u32(..));
        origin.settings().tell(
            &path,
            201,
            &[("location", &location), ("content-location", &other)],
        );
        let host = match random.u8(..4) {
            0 => format!("host{}", random.u32(..)),
            _ => "shop".to_owned(),
        };
        let mut request = post(&path, "x").header("host", host);
        if number % every == 0
            && let Some(page) = next.next()
        {
            written.insert(*page);
            let mut method = Request::new("DELETE", &format!("/kept/{page}"));
            if random.bool() {
                method = post(&format!("/kept/{page}?any=1"), "x");
            }
            request = of_shop(method);
        }
        lanes[number % LANES].push(request);
    }
    let mut running = JoinSet::new();
    for lane in lanes {
        let to = gateway.address();
        running.spawn(async move {
            let mut connection = Connection::open(to).await.expect("it is open");
            for request in lane {
                let response = connection.send(&request).await.expect("a response");
                assert!(response.status() < 300, "{}", response.status());
            }
        });
    }
    while let Some(lane) = running.join_next().await {
        lane.expect("the lane is at its end");
    }
    written
}

/// Invariant: whatever clients write to, and however often, stored responses for other paths are
/// still served, and those that were written to are not.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_writes_invalidates_its_targets_and_nothing_else() {
    let seed = seed::drawn();
    println!("seed {seed}");
    let redis = Redis::start().await;
    let origin = NumberedOrigin::start().await;
    for page in 0..STORED {
        origin.settings().tell(&format!("/kept/{page}"), 200, HOUR);
    }
    for number in 0..200 {
        origin
            .settings()
            .tell(&format!("/first{number}"), 200, HOUR);
    }
    let disk = "{ shared: redis, disk: { folder: kept, size: 64MiB } }";
    let disk = yaml(origin.address(), &redis, disk);
    let memory = yaml(origin.address(), &redis, "{ shared: redis }");
    let mut one = front(&disk).await;
    let two = front(&memory).await;
    filled(&one, IN_REDIS).await;
    filled(&one, ON_DISK).await;
    let before = [one.metric(IN_REDIS).await, one.metric(ON_DISK).await];
    pages(&one).await;
    wait_for("all is below", SOON, async || {
        let now = [one.metric(IN_REDIS).await, one.metric(ON_DISK).await];
        let all = now
            .iter()
            .zip(before)
            .all(|(now, before)| now - before >= STORED as f64);
        all.then_some(())
    })
    .await;
    let first = pages(&two).await;
    assert!(pages(&one).await.iter().all(|(is_hit, _)| *is_hit));
    assert!(pages(&two).await.iter().all(|(is_hit, _)| *is_hit));

    let written = flood(&one, &origin, seed).await;
    assert!(!written.is_empty());
    wait_for("the other one has heard of all", SOON, async || {
        (one.status().await["purges"]["unsent"] == 0).then_some(())
    })
    .await;
    pass(Duration::from_millis(500)).await;
    // A new gateway has nothing in memory: it serves from Redis.
    let three = front(&memory).await;
    let assert_right = |moment: &str, pages: &[(bool, String)]| {
        for (page, (is_hit, text)) in pages.iter().enumerate() {
            if written.contains(&page) {
                assert_ne!(
                    *text, first[page].1,
                    "seed {seed}: {moment}: {page} is stale"
                );
            } else {
                let same = (*is_hit, text.as_str()) == (true, first[page].1.as_str());
                assert!(
                    same,
                    "seed {seed}: {moment}: {page} is gone: {is_hit} {text}"
                );
            }
        }
    };
    assert_right("redis", &pages(&three).await);
    assert_right("memory", &pages(&one).await);
    assert_right("the other gateway", &pages(&two).await);
    for gateway in [&one, &two] {
        let all = "edgeway_cache_purges_total{how=\"hard\",kind=\"all\",source=\"gateway\"}";
        assert_eq!(gateway.count(all).await, 0);
        assert_eq!(
            gateway.count("edgeway_cache_purge_link_gaps_total").await,
            0
        );
    }
    // And from disk alone.
    // It is gone before Redis is empty: a gateway that sees its log of purges lost drops all that
    // it has, from disk too.
    one.signal(Signal::KILL);
    one.leaves(SOON).await;
    redis.flush();
    let alone = disk.lines().filter(|line| !line.starts_with("redis:"));
    let alone: Vec<_> = alone.collect();
    let alone = alone.join("\n").replace("shared: redis, ", "");
    one.configure(&alone);
    one.start_again(&[], &[]).await;
    wait_for("the disk is used", SOON, async || {
        (one.metric("edgeway_cache_disk_up").await > 0.0).then_some(())
    })
    .await;
    // A response that the disk does not return in time is fetched, and the machine may be busy:
    // nearly all of the pages without a write are there.
    let on_disk = pages(&one).await;
    let (mut there, mut untouched) = (0, 0);
    for (page, (is_hit, text)) in on_disk.iter().enumerate() {
        if written.contains(&page) {
            assert_ne!(*text, first[page].1, "seed {seed}: disk: {page} is stale");
        } else {
            untouched += 1;
            there += usize::from(*is_hit && *text == first[page].1);
        }
    }
    assert!(
        there * 10 >= untouched * 9,
        "seed {seed}: {there} of {untouched}"
    );
    let found = one
        .count("edgeway_cache_disk_lookup_duration_seconds_count{result=\"hit\"}")
        .await;
    assert!(found >= there as u64, "{found} from disk");
}

/// A response that was in flight during a write to its path is not served to the client that has
/// written, from any tier.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_reads_its_own_writes_whatever_fills_are_in_flight() {
    let redis = Redis::start().await;
    let origin = NumberedOrigin::start().await;
    let mut slow = HashMap::new();
    for page in 0..10 {
        let path = format!("/slow/{page}");
        origin.settings().tell(&path, 200, HOUR);
        slow.insert(page, path);
    }
    for number in 0..200 {
        origin
            .settings()
            .tell(&format!("/first{number}"), 200, HOUR);
    }
    let memory = yaml(origin.address(), &redis, "{ shared: redis }");
    let (one, two) = (front(&memory).await, front(&memory).await);
    filled(&one, IN_REDIS).await;
    filled(&two, IN_REDIS).await;
    for path in slow.values() {
        origin.settings().slow(path, Duration::from_millis(400));
        let (to, request) = (two.address(), of_shop(get(path)));
        let fill = tokio::spawn(async move {
            let mut connection = Connection::open(to).await.expect("it is open");
            connection.send(&request).await.expect("a response").text()
        });
        pass(Duration::from_millis(150)).await;
        origin.settings().slow(path, Duration::ZERO);
        let wrote = one.send(&of_shop(post(path, "x"))).await;
        assert_eq!(wrote.status(), 200);
        let old = fill.await.expect("it ends");
        pass(Duration::from_millis(100)).await;
        for gateway in [&one, &two] {
            let now = ask(gateway, path).await.text();
            assert_ne!(now, old, "{path}");
        }
    }
}
