//! The tiers below the memory of the cache: gateways that share responses in a real Redis.

use std::{net::SocketAddr, time::Duration};

use rustix::process::Signal;
use tokio::task::JoinSet;

use crate::support::{
    client::{self, Request, Response, get, post},
    front::Front,
    gateway::Gateway,
    load::{Lanes, endless},
    origins::{NumberedOrigin, Origin},
    redis::{Cluster, Redis, SECRET},
    wait::{pass, wait_for},
};

const SOON: Duration = Duration::from_secs(20);
const MINUTE: &[(&str, &str)] = &[("cache-control", "max-age=60"), ("etag", "\"a\"")];
const WRITTEN: &str = "edgeway_cache_level2_writes_total{outcome=\"stored\"}";
const FOUND: &str = "edgeway_cache_level2_lookup_duration_seconds_count{result=\"hit\"}";
const ASKED: &str = "edgeway_cache_level2_lookup_duration_seconds_count";

fn yaml(origin: SocketAddr, redis: &str, cache: &str) -> String {
    Front::to(origin)
        .with(&format!("redis: {redis}"))
        .with(&format!("cache: {cache}"))
        .route("name: app, cache: { purge_on_write: true }")
        .yaml()
}

/// Section with a longer timeout, for tests of the contents of Redis.
fn patient(redis: &Redis) -> String {
    redis.section(", timeout: 1s")
}

/// Starts a gateway that shares responses.
async fn front(origin: &Origin<NumberedOrigin>, redis: &str) -> Gateway {
    front_of(&yaml(origin.address(), redis, "{ shared: redis }")).await
}

async fn front_of(yaml: &str) -> Gateway {
    let gateway = Gateway::start(yaml).await;
    // Until it knows its position in the log of purges, it drops its stored responses.
    gateway.follows_purges().await;
    // Its first positions are known soon after.
    wait_for("level 2 can be written", SOON, async || {
        let before = gateway.metric(WRITTEN).await;
        gateway.get("/first").await;
        pass(Duration::from_millis(50)).await;
        (gateway.metric(WRITTEN).await > before).then_some(())
    })
    .await;
    gateway
}

async fn origin(paths: &[&str]) -> Origin<NumberedOrigin> {
    let origin = NumberedOrigin::start().await;
    let short = [("cache-control", "max-age=1")];
    origin.settings().tell("/first", 200, &short);
    for path in paths {
        origin.settings().tell(path, 200, MINUTE);
    }
    origin
}

/// All gateways are one site.
fn page(path: &str) -> Request {
    get(path).header("host", "shop")
}

async fn ask(gateway: &Gateway, path: &str) -> Response {
    gateway.send(&page(path)).await
}

async fn written(gateway: &Gateway, path: &str) {
    let before = gateway.metric(WRITTEN).await;
    let response = ask(gateway, path).await;
    assert_eq!(response.cache_status(), "MISS");
    wait_for("it is in level 2", SOON, async || {
        (gateway.metric(WRITTEN).await > before).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_response_that_one_gateway_stored_serves_all() {
    let redis = Redis::start().await;
    let origin = origin(&["/a"]).await;
    let first = front(&origin, &patient(&redis)).await;
    let second = front(&origin, &patient(&redis)).await;
    written(&first, "/a").await;
    pass(Duration::from_millis(1100)).await;
    let found = second.count(FOUND).await;
    let response = ask(&second, "/a").await;
    response.assert_cached("HIT", "/a #1");
    assert_eq!(response.header("etag"), Some("\"a\""));
    let age: u64 = response.header("age").unwrap().parse().unwrap();
    assert!((1..60).contains(&age), "{age}");
    assert_eq!(second.count(FOUND).await, found + 1);
    let of_route = format!("{ASKED}{{route=\"app\",result=\"hit\"}}");
    assert_eq!(second.count(&of_route).await, found + 1);
    // From now on it has the response in memory.
    ask(&second, "/a").await.assert_cached("HIT", "/a #1");
    assert_eq!(second.count(FOUND).await, found + 1);
    assert_eq!(origin.settings().requests("/a"), 1);
}

#[tokio::test]
async fn concurrent_misses_are_one_lookup_in_redis() {
    let redis = Redis::start().await;
    let origin = origin(&["/a"]).await;
    let first = front(&origin, &patient(&redis)).await;
    let second = front(&origin, &patient(&redis)).await;
    written(&first, "/a").await;
    let asked = second.count(ASKED).await;
    let mut set = JoinSet::new();
    for _ in 0..100 {
        let to = second.address();
        set.spawn(async move { client::send(to, &page("/a")).await.expect("a response") });
    }
    for response in set.join_all().await {
        response.assert_cached("HIT", "/a #1");
    }
    assert_eq!(origin.settings().requests("/a"), 1);
    // Requests that arrived during the first lookup waited for it; later ones found it in memory.
    assert!(second.count(ASKED).await <= asked + 2);
}

#[tokio::test]
async fn purged_responses_are_not_read_by_a_gateway_that_joins_later() {
    let redis = Redis::start().await;
    let origin = origin(&["/a/1", "/b"]).await;
    let first = front(&origin, &patient(&redis)).await;
    written(&first, "/a/1").await;
    written(&first, "/a/1?x=1").await;
    written(&first, "/b").await;
    assert_eq!(
        first
            .send(&post("/a/1", "").header("host", "shop"))
            .await
            .status(),
        200
    );
    let later = front(&origin, &patient(&redis)).await;
    // The second response went to the write; this is the path's third request.
    ask(&later, "/a/1").await.assert_cached("MISS", "/a/1 #4");
    ask(&later, "/a/1?x=1")
        .await
        .assert_cached("MISS", "/a/1 #5");
    ask(&later, "/b").await.assert_cached("HIT", "/b #1");
    // A response that was requested after it is stored again.
    let last = front(&origin, &patient(&redis)).await;
    wait_for("the new response is shared", SOON, async || {
        let response = ask(&last, "/a/1").await;
        (response.text() == "/a/1 #4").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_write_that_a_client_saw_succeed_outlives_the_gateway() {
    let redis = Redis::start().await;
    let origin = origin(&["/a"]).await;
    let plain = Front::to(&origin)
        .with(&format!("redis: {}", patient(&redis)))
        .with("cache: { shared: redis }")
        .route("cache: {}");
    let first = front_of(&plain.yaml()).await;
    written(&first, "/a").await;
    // Scripts wait for less than the timeout.
    redis.cli(&["CLIENT", "PAUSE", "300", "ALL"]);
    let wrote = first.send(&post("/a", "").header("host", "shop")).await;
    assert_eq!(wrote.status(), 200);
    first.signal(Signal::KILL);
    let later = front_of(&plain.yaml()).await;
    ask(&later, "/a").await.assert_cached("MISS", "/a #3");
}

#[tokio::test]
async fn large_responses_stay_in_memory() {
    let redis = Redis::start().await;
    let origin = origin(&["/large", "/small"]).await;
    origin.settings().pad("/large", 20_000);
    let yaml = yaml(
        origin.address(),
        &patient(&redis),
        "{ shared: { max_object: 16KiB } }",
    );
    let first = Gateway::start(&yaml).await;
    let second = front(&origin, &patient(&redis)).await;
    wait_for("the small one is written", SOON, async || {
        ask(&first, "/large").await;
        ask(&first, "/small?x").await;
        pass(Duration::from_millis(50)).await;
        let is_written = first.metric(WRITTEN).await > 0.0;
        is_written.then_some(())
    })
    .await;
    assert_eq!(ask(&second, "/large").await.cache_status(), "MISS");
}

#[tokio::test]
async fn damaged_entries_are_dropped_and_counted() {
    let redis = Redis::start().await;
    let origin = origin(&["/a"]).await;
    let first = front(&origin, &patient(&redis)).await;
    let second = front(&origin, &patient(&redis)).await;
    written(&first, "/a").await;
    for key in redis.cli(&["KEYS", "edgeway:cache:*"]).lines() {
        if redis.cli(&["TYPE", key]) == "hash" {
            let script = "for _, f in ipairs(redis.call('HKEYS', KEYS[1])) do \
                if string.sub(f, 1, 1) == 'b' then \
                local b = redis.call('HGET', KEYS[1], f) \
                redis.call('HSET', KEYS[1], f, string.sub(b, 1, -2) .. '!') end end return 1";
            assert_eq!(redis.cli(&["EVAL", script, "1", key]), "1");
        }
    }
    ask(&second, "/a").await.assert_cached("MISS", "/a #2");
    assert_eq!(second.count("edgeway_cache_level2_damaged_total").await, 1);
}

/// Runs a script over each variant of each entry: `key`, its field of the body `f`, the body `b`.
fn forge(redis: &Redis, script: &str) {
    let script = format!(
        "for _, f in ipairs(redis.call('HKEYS', KEYS[1])) do if string.sub(f, 1, 1) == 'b' then \
         local key, b = KEYS[1], redis.call('HGET', KEYS[1], f) {script} end end return 1"
    );
    for key in redis.cli(&["KEYS", "edgeway:cache:*"]).lines() {
        if redis.cli(&["TYPE", key]) == "hash" {
            assert_eq!(redis.cli(&["EVAL", &script, "1", key]), "1");
        }
    }
}

async fn refused(gateway: &Gateway, reason: &str) -> u64 {
    let name = format!("edgeway_cache_level2_damaged_total{{reason=\"{reason}\"}}");
    gateway.count(&name).await
}

/// A process that can write to Redis without the secret of the fleet cannot put a page into a
/// cache.
#[tokio::test]
async fn unsigned_entries_are_never_served() {
    let redis = Redis::start().await;
    let origin = origin(&["/a", "/b"]).await;
    let first = front(&origin, &patient(&redis)).await;
    written(&first, "/a").await;
    let foreign = patient(&redis).replace("0123", "another secret ");
    for (number, (reason, script, section)) in [
        ("version", r"redis.call('HSET', key, f, '\1' .. string.sub(b, 34))", patient(&redis)),
        ("signature", "redis.call('HSET', key, f, string.sub(b, 1, 33) .. string.gsub(string.sub(b, 34), '/a', '/x'))", patient(&redis)),
        ("signature", r"redis.call('HSET', key, f, '\2' .. string.rep('x', 32) .. string.sub(b, 34))", patient(&redis)),
        ("signature", "redis.call('HSET', key, f, b)", foreign),
        ("damaged", r"redis.call('HSET', key, f, '\2')", patient(&redis)),
        ("bounds", "redis.call('HSET', key, f, string.rep(b, 30000))", patient(&redis)),
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/a?{number}");
        written(&first, &path).await;
        forge(&redis, script);
        let other = front(&origin, &section).await;
        wait_for("level 2 is asked", SOON, async || {
            let response = ask(&other, &path).await;
            assert_ne!(response.cache_status(), "STALE");
            (refused(&other, reason).await > 0).then_some(())
        })
        .await;
        redis.flush();
        drop(other);
        wait_for("level 2 can be written", SOON, async || {
            let before = first.metric(WRITTEN).await;
            ask(&first, &format!("/first?{number}")).await;
            pass(Duration::from_millis(50)).await;
            (first.metric(WRITTEN).await > before).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn an_entry_that_is_copied_to_another_key_is_refused() {
    let redis = Redis::start().await;
    let origin = origin(&["/a", "/b"]).await;
    let first = front(&origin, &patient(&redis)).await;
    written(&first, "/a").await;
    let before = redis.cli(&["KEYS", "edgeway:cache:*"]);
    written(&first, "/b").await;
    let after = redis.cli(&["KEYS", "edgeway:cache:*"]);
    let own = after
        .lines()
        .find(|key| !before.contains(key) && redis.cli(&["TYPE", key]) == "hash")
        .expect("the key of /b");
    let page = before
        .lines()
        .filter(|key| redis.cli(&["TYPE", key]) == "hash");
    let copied = page.map(|key| {
        let script = "local own \
             for _, f in ipairs(redis.call('HKEYS', KEYS[2])) do \
             if string.sub(f, 1, 1) == 'v' then own = string.sub(f, 2) end end \
             for _, f in ipairs(redis.call('HKEYS', KEYS[1])) do \
             if string.sub(f, 1, 1) == 'b' then \
             redis.call('HSET', KEYS[2], 'b' .. own .. string.sub(f, 18), redis.call('HGET', KEYS[1], f)) \
             end end return 1";
        redis.cli(&["EVAL", script, "2", key, own])
    });
    assert!(copied.count() > 0);
    let second = front(&origin, &patient(&redis)).await;
    ask(&second, "/b").await.assert_cached("MISS", "/b #2");
    assert_eq!(refused(&second, "key").await, 1);
}

#[tokio::test]
async fn a_redis_that_is_paused_flushed_or_killed_fails_no_request() {
    let mut redis = Redis::start().await;
    let origin = origin(&["/a"]).await;
    let first = front(&origin, &redis.section("")).await;
    // Each of them is a miss, in memory and below.
    let load = endless(first.address(), 4, Lanes::KeepAlive, |turn| {
        page(&format!("/a?{turn}"))
    });
    let some_time = Duration::from_millis(700);
    pass(some_time).await;
    redis.pause();
    pass(some_time).await;
    redis.resume();
    pass(some_time).await;
    redis.flush();
    pass(some_time).await;
    redis.kill();
    pass(some_time).await;
    redis.restart().await;
    pass(some_time).await;
    let tally = load.stop().await;
    assert_eq!(tally.errors(), 0, "{:?} {:?}", tally.failed, tally.statuses);
    assert_eq!(tally.status(200), tally.total());
    // The deadline is 20 ms. Timers of a debug build beside other tests are later than that, so
    // this checks only that waits are bounded, and that nearly all are short.
    let all = first.count(ASKED).await;
    let within = async |bound: &str| {
        let series =
            format!("edgeway_cache_level2_lookup_duration_seconds_bucket{{le=\"{bound}\"}}");
        first.count(&series).await
    };
    let (short, bounded) = (within("0.025").await, within("0.5").await);
    assert!(all > 0 && bounded == all, "{bounded} of {all}");
    assert!(short * 100 >= all * 90, "{short} of {all}");
    // Redis is used again.
    let second = front(&origin, &redis.section("")).await;
    wait_for("responses are shared again", SOON, async || {
        let at = format!("/a?{}", fastrand::u64(..));
        ask(&first, &at).await;
        pass(Duration::from_millis(50)).await;
        (ask(&second, &at).await.cache_status() == "HIT").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_cluster_keeps_entries_on_all_its_machines() {
    let cluster = Cluster::start().await;
    let redis = format!(
        "{{ mode: cluster, nodes: [{}], secret: '{SECRET}', timeout: 1s }}",
        cluster.addresses()
    );
    let origin = origin(&["/a"]).await;
    let first = front(&origin, &redis).await;
    let second = front(&origin, &redis).await;
    let paths: Vec<_> = (0..30).map(|n| format!("/a?{n}")).collect();
    for path in &paths {
        written(&first, path).await;
    }
    for path in &paths {
        assert_eq!(ask(&second, path).await.cache_status(), "HIT", "{path}");
    }
    let used = cluster.masters().into_iter().filter(|node| {
        let keys = cluster.0[*node].cli(&["KEYS", "edgeway:cache:*"]);
        keys.lines().any(|key| !key.ends_with("stamps"))
    });
    assert_eq!(used.count(), 3);
    // Whatever the query: a write applies to all of them.
    assert_eq!(
        first
            .send(&post("/a", "").header("host", "shop"))
            .await
            .status(),
        200
    );
    let later = front(&origin, &redis).await;
    for path in &paths {
        assert_eq!(ask(&later, path).await.cache_status(), "MISS", "{path}");
    }
}

#[tokio::test]
async fn a_level_2_needs_a_redis() {
    let origin = origin(&[]).await;
    let redis = Redis::start().await;
    let good = yaml(origin.address(), &patient(&redis), "{ shared: redis }");
    let gateway = Gateway::start(&good).await;
    let bad = good.lines().filter(|line| !line.starts_with("redis:"));
    let bad: Vec<_> = bad.collect();
    assert!(!gateway.reload(&bad.join("\n")).await);
    assert!(gateway.reload(&good).await);
    assert_eq!(gateway.get("/x").await.status(), 200);
}
