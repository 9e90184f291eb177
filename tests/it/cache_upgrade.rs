//! The cache across an upgrade: the new process continues with the stored responses.

use std::{net::SocketAddr, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::task::JoinSet;

use crate::support::{
    client::{self, Response, get, post},
    gateway::{Gateway, is_alive},
    load::{Lanes, endless},
    origins::{NumberedOrigin, Origin},
    redis::Redis,
    wait::{pass, wait_for},
};

const SOON: Duration = Duration::from_secs(20);
const DONE: &str = "edgeway_upgrades_total{outcome=\"succeeded\"}";
/// Log line of the successor at the end of the transfer.
const TAKEN: &str = "cache taken over";

fn yaml(origin: SocketAddr, more: &str) -> String {
    format!(
        "listeners: [{{ address: 127.0.0.1:0 }}]\n\
         {more}\n\
         upstreams: {{ app: {{ backends: ['{origin}'], health: false }} }}\n\
         routes:\n\
         - {{ name: app, match: {{ path: '/*' }}, upstream: app, \
              cache: {{ purge_on_write: true }}, compression: {{ min_size: 10B }} }}\n\
         - {{ name: other, match: {{ path: '/other/*' }}, upstream: app, cache: {{}} }}\n"
    )
}

/// Starts an origin with responses of age 30 s, each with its own tag and a common one.
async fn origin(paths: &[String]) -> Origin<NumberedOrigin> {
    let origin = NumberedOrigin::start().await;
    for path in paths {
        let tags = format!("all tag{}", path.replace('/', "-"));
        let headers = [
            ("cache-control", "max-age=600"),
            ("age", "30"),
            ("content-type", "text/plain"),
            ("surrogate-key", &tags),
        ];
        origin.settings().tell(path, 200, &headers);
    }
    origin
}

fn paths(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("/page/{n}")).collect()
}

fn age(response: &Response) -> u64 {
    let age = response
        .header("age")
        .expect("a stored response has an age");
    age.parse().expect("an age is a number")
}

async fn fill(gateway: &Gateway, paths: &[String]) {
    for path in paths {
        assert_eq!(gateway.get(path).await.cache_status(), "MISS", "{path}");
    }
    let first = paths.first().expect("there are some");
    assert_eq!(gateway.get(first).await.cache_status(), "HIT");
}

/// Waits until the new process has taken over the cache, `times` upgrades from the first on.
async fn taken(gateway: &Gateway, times: usize) {
    wait_for("the cache is taken over", SOON, async || {
        (gateway.stderr().matches(TAKEN).count() >= times).then_some(())
    })
    .await;
}

fn kill(pid: u32) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("no process is number 0");
    kill_process(pid, Signal::KILL).expect("it still runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_responses_survive_an_upgrade_and_not_a_restart() {
    let mut paths = paths(40);
    paths.push("/other/x".to_owned());
    let origin = origin(&paths).await;
    let varies = [
        ("cache-control", "max-age=600"),
        ("vary", "accept-language"),
    ];
    origin.settings().tell("/page/varies", 200, &varies);
    let mut gateway = Gateway::start(&yaml(origin.address(), "")).await;
    fill(&gateway, &paths).await;
    let in_german = get("/page/varies").header("accept-language", "de");
    let in_french = get("/page/varies").header("accept-language", "fr");
    gateway.send(&in_german).await;
    gateway.send(&in_french).await;

    for round in 1..=2 {
        gateway.upgrade().await;
        taken(&gateway, round).await;
        assert_eq!(gateway.count("edgeway_cache_objects").await, 43);
        for path in &paths {
            let response = gateway.get(path).await;
            assert_eq!(
                (response.cache_status(), response.status()),
                ("HIT", 200),
                "{path}"
            );
            assert_eq!(response.text(), format!("{path} #1"));
            assert!((30..60).contains(&age(&response)), "{}", age(&response));
            assert_eq!(origin.settings().requests(path), 1, "{path}");
        }
        for (request, body) in [(&in_german, "#1"), (&in_french, "#2")] {
            let response = gateway.send(request).await;
            assert_eq!(response.cache_status(), "HIT");
            assert!(response.text().ends_with(body), "{}", response.text());
        }
        let accepting_gzip = get("/page/1").header("accept-encoding", "gzip");
        assert_eq!(gateway.send(&accepting_gzip).await.cache_status(), "HIT");
    }
    // By its tag, which was transferred with it.
    assert_eq!(gateway.purge(&json!({ "tag": "tag-page-7" })).await.0, 200);
    assert_eq!(gateway.get("/page/7").await.cache_status(), "MISS");
    assert_eq!(gateway.get("/page/8").await.cache_status(), "HIT");

    assert!(gateway.terminate_newest(SOON).await);
    gateway.start_again(&[], &[]).await;
    assert_eq!(gateway.get("/page/8").await.cache_status(), "MISS");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_without_a_cache_takes_no_stored_response_over() {
    let paths = ["/page/1".to_owned(), "/other/x".to_owned()];
    let origin = origin(&paths).await;
    let text = yaml(origin.address(), "");
    let mut gateway = Gateway::start(&text).await;
    fill(&gateway, &paths).await;
    gateway.configure(&text.replace("upstream: app, cache: {} }", "upstream: app }"));
    gateway.upgrade().await;
    taken(&gateway, 1).await;
    assert_eq!(gateway.get("/page/1").await.cache_status(), "HIT");
    assert_eq!(gateway.count("edgeway_cache_objects").await, 1);
    assert_eq!(gateway.get("/other/x").await.cache_status(), "nothing");
}

/// Starts a gateway with enough responses that the transfer takes a while.
async fn large(more: &str) -> (Origin<NumberedOrigin>, Gateway, Vec<String>) {
    let paths = paths(60);
    let origin = origin(&paths).await;
    for path in &paths {
        origin.settings().pad(path, 500_000);
    }
    let gateway = Gateway::start(&yaml(origin.address(), more)).await;
    fill(&gateway, &paths).await;
    (origin, gateway, paths)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_wins_while_the_cache_is_handed_over_and_after() {
    let (_origin, mut gateway, paths) = large("").await;
    gateway.upgrade().await;
    assert_eq!(
        gateway
            .purge(&json!({ "purges": [{ "tag": "tag-page-3" }, { "url": "/page/59" }] }))
            .await
            .0,
        200
    );
    taken(&gateway, 1).await;
    assert_eq!(gateway.purge(&json!({ "tag": "tag-page-4" })).await.0, 200);
    for path in &paths {
        let expected = match path.as_str() {
            "/page/3" | "/page/4" | "/page/59" => "MISS",
            _ => "HIT",
        };
        assert_eq!(gateway.get(path).await.cache_status(), expected, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_through_the_old_process_invalidate_in_the_new_one() {
    let paths = [
        "/page".to_owned(),
        "/page/1".to_owned(),
        "/page/2".to_owned(),
    ];
    let origin = origin(&paths).await;
    let mut gateway = Gateway::start(&yaml(origin.address(), "drain: { deadline: 60s }")).await;
    fill(&gateway, &paths).await;
    origin.settings().slow("/page/1", Duration::from_secs(4));
    let mut writes = JoinSet::new();
    let address = gateway.address();
    writes.spawn(async move { client::send(address, &post("/page/1", "x")).await });
    wait_for("the write is in flight", SOON, async || {
        (origin.settings().requests("/page/1") == 2).then_some(())
    })
    .await;
    let old = gateway.upgrade().await;
    taken(&gateway, 1).await;
    for path in &paths {
        assert_eq!(gateway.get(path).await.cache_status(), "HIT", "{path}");
    }
    let written = writes.join_next().await.expect("there is one");
    let written = written.expect("it does not panic");
    assert_eq!(written.expect("the old process finishes it").status(), 200);
    origin.settings().slow("/page/1", Duration::ZERO);
    wait_for("the new process has heard of it", SOON, async || {
        (gateway.get("/page/1").await.cache_status() == "MISS").then_some(())
    })
    .await;
    wait_for("and of the list that it is in", SOON, async || {
        (gateway.get("/page").await.cache_status() == "MISS").then_some(())
    })
    .await;
    assert_eq!(gateway.get("/page/2").await.cache_status(), "HIT");
    wait_for("the old process has left", SOON, async || {
        (!is_alive(old)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_process_that_dies_during_the_takeover_loses_nothing() {
    let (origin, mut gateway, paths) = large("").await;
    // Without it, the old process might have exited by itself.
    origin.settings().slow("/slow", Duration::from_mins(1));
    let mut busy = gateway.connect().await;
    let request = "GET /slow HTTP/1.1\r\nhost: a\r\n\r\n";
    busy.write(request).await.expect("it is sent");
    wait_for("it is in flight", SOON, async || {
        (origin.settings().requests("/slow") == 1).then_some(())
    })
    .await;
    let load = endless(gateway.address(), 4, Lanes::Fresh, |n| {
        get(format!("/page/{}", n % 60).as_str())
    });
    let old = gateway.upgrade().await;
    kill(old);
    taken(&gateway, 1).await;
    pass(Duration::from_millis(200)).await;
    let tally = load.stop().await;
    assert!(tally.total() > 20, "{}", tally.total());
    // Requests in flight at the killed process: there were four lanes.
    assert!(
        tally.errors() <= 4,
        "{:?} {:?}",
        tally.statuses,
        tally.failed
    );
    for path in &paths {
        assert_eq!(gateway.get(path).await.status(), 200, "{path}");
        assert_eq!(gateway.get(path).await.cache_status(), "HIT", "{path}");
    }
    assert_eq!(gateway.count(DONE).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_redis_the_new_process_continues_at_its_position_in_the_purge_log() {
    let redis = Redis::start().await;
    let paths = paths(10);
    let origin = origin(&paths).await;
    let text = yaml(
        origin.address(),
        &format!("redis: {}", redis.section(", timeout: 1s")),
    );
    let (mut gateway, other) = (Gateway::start(&text).await, Gateway::start(&text).await);
    for one in [&gateway, &other] {
        one.follows_purges().await;
    }
    fill(&gateway, &paths).await;
    gateway.upgrade().await;
    taken(&gateway, 1).await;
    gateway.follows_purges().await;
    for path in &paths {
        assert_eq!(gateway.get(path).await.cache_status(), "HIT", "{path}");
    }
    assert_eq!(other.purge(&json!({ "tag": "tag-page-3" })).await.0, 200);
    assert_eq!(gateway.get("/page/3").await.cache_status(), "MISS");
    assert_eq!(gateway.get("/page/4").await.cache_status(), "HIT");
}
