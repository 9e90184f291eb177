//! Purges, and responses on their way to Redis, while clients write as fast as possible: they wait
//! for no write. The link to Redis is slow, so that some write is always unsent.
#![allow(
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    reason = "the code of tests: counts are small, and what is spawned is waited for"
)]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::task::JoinSet;

use crate::support::{
    client::{Connection, Request, Response, get, post},
    gateway::Gateway,
    origins::{NumberedOrigin, Origin},
    redis::{Redis, SECRET},
    relay::{Relay, Wire},
    wait::{until, wait_for},
};

const SOON: Duration = Duration::from_mins(1);
const HOUR: &[(&str, &str)] = &[("cache-control", "max-age=3600")];
const IN_REDIS: &str = "edgeway_cache_level2_writes_total{outcome=\"stored\"}";
const FAR: Duration = Duration::from_millis(30);
/// Maximum number of writes of one flood: it must last longer than the tested operation.
const MAX_WRITES: usize = 20_000;
const LANES: usize = 8;
/// Number of pages without a write.
const STORED: usize = 40;

/// Two gateways, the first of which has a slow link to Redis.
struct Fleet {
    redis: Redis,
    wire: Relay,
    origin: Origin<NumberedOrigin>,
    gateways: [Gateway; 2],
}

impl Fleet {
    async fn start() -> Self {
        let redis = Redis::start().await;
        let origin = NumberedOrigin::start().await;
        let to = redis.address().parse().expect("an address");
        let wire = Relay::far(to, FAR).await;
        let near: SocketAddr = to;
        let gateways = [
            front(origin.address(), wire.address()).await,
            front(origin.address(), near).await,
        ];
        for gateway in &gateways {
            wait_for("the gateways know one another", SOON, async || {
                let status = gateway.status().await;
                let others = status["purges"]["others"].as_array()?.len();
                (others == 1).then_some(())
            })
            .await;
        }
        let fleet = Self {
            redis,
            wire,
            origin,
            gateways,
        };
        let mut number = 0;
        wait_for("level 2 can be written", SOON, async || {
            let before = fleet.gateways[0].metric(IN_REDIS).await;
            number += 1;
            let path = format!("/first{number}");
            fleet.origin.settings().tell(&path, 200, HOUR);
            ask(&fleet.gateways[0], &path).await;
            stored(&fleet.gateways[0], before + 1.0).await
        })
        .await;
        fleet
    }

    /// Waits until each gateway serves the page from the cache.
    async fn filled(&self, path: &str) {
        self.origin.settings().tell(path, 200, HOUR);
        for gateway in &self.gateways {
            wait_for("the page is in the cache", SOON, async || {
                is_hit(&ask(gateway, path).await).then_some(())
            })
            .await;
        }
    }
}

/// Waits for ten delays of the link until at least `least` responses were stored in Redis.
async fn stored(gateway: &Gateway, least: f64) -> Option<()> {
    until(FAR * 10, &mut async || {
        (gateway.metric(IN_REDIS).await >= least).then_some(())
    })
    .await
}

async fn front(origin: SocketAddr, redis: SocketAddr) -> Gateway {
    let gateway = Gateway::start(&format!(
        "redis: {{ url: 'redis://{redis}', secret: '{SECRET}', timeout: 1s }}\n\
         cache: {{ shared: redis }}\n\
         upstreams: {{ app: {{ backends: ['{origin}'], health: false }} }}\n\
         routes:\n\
         - {{ name: plain, match: {{ path: '/plain/*' }}, upstream: app, cache: {{}} }}\n\
         - {{ name: app, match: {{ path: '/*' }}, upstream: app, \
              cache: {{ purge_on_write: true }} }}\n"
    ))
    .await;
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

/// Writes without a pause, until it is dropped or has sent [`MAX_WRITES`].
struct Flood {
    sent: Arc<AtomicUsize>,
    most: usize,
    lanes: JoinSet<()>,
}

impl Flood {
    fn start(
        to: SocketAddr,
        most: usize,
        request: impl Fn(usize) -> Request + Send + Sync + 'static,
    ) -> Self {
        let (sent, request) = (Arc::new(AtomicUsize::new(0)), Arc::new(request));
        let mut lanes = JoinSet::new();
        for _ in 0..LANES {
            let (sent, request) = (Arc::clone(&sent), Arc::clone(&request));
            lanes.spawn(async move {
                let mut connection = Connection::open(to).await.expect("it is open");
                loop {
                    let number = sent.fetch_add(1, Ordering::Relaxed);
                    if number >= most {
                        return;
                    }
                    let response = connection.send(&request(number)).await;
                    let status = response.expect("a response").status();
                    assert!(status < 300, "{status}");
                }
            });
        }
        Self { sent, most, lanes }
    }

    fn goes_on(&self) -> bool {
        self.sent.load(Ordering::Relaxed) < self.most
    }

    async fn has_begun(&self) {
        wait_for("the flood has begun", SOON, async || {
            (self.sent.load(Ordering::Relaxed) > 300).then_some(())
        })
        .await;
    }

    async fn end(mut self) {
        while let Some(lane) = self.lanes.join_next().await {
            lane.expect("the lane is at its end");
        }
    }
}

/// Invariant: however many writes there are, and wherever, a purge of an operator waits for none of
/// them.
#[tokio::test(flavor = "multi_thread")]
async fn a_purge_completes_during_a_flood_of_writes() {
    let fleet = Fleet::start().await;
    let [far, near] = &fleet.gateways;
    for (asked, flooded, folder) in [
        (far, far, "/plain"),
        (far, far, "/w"),
        (near, far, "/plain"),
        (near, far, "/w"),
    ] {
        let page = format!("{folder}/page{}", fastrand::u64(..));
        fleet.filled(&page).await;
        let mut before = Vec::new();
        for gateway in &fleet.gateways {
            before.push(ask(gateway, &page).await.text());
        }
        let run = format!("{folder}/{}", fastrand::u64(..));
        let flood = Flood::start(flooded.address(), MAX_WRITES, move |number| {
            post(&format!("{run}/{number}/x"), "x").header("host", "flooded")
        });
        flood.has_begun().await;
        let order = json!({ "url": format!("http://shop{page}") });
        let receipt = wait_for("the purge is done", SOON, async || {
            let (status, receipt) = asked.purge(&order).await;
            (status == 200).then_some(receipt)
        })
        .await;
        assert!(flood.goes_on(), "it has waited for writes: {receipt}");
        assert_eq!(receipt["applied"].as_array().map(Vec::len), Some(2));
        for (gateway, before) in fleet.gateways.iter().zip(&before) {
            let now = ask(gateway, &page).await.text();
            assert!(!before.contains(&now), "{now}: {receipt}");
        }
        assert!(flood.goes_on(), "it was too short");
    }
}

/// Invariant: however many writes there are, new responses get to Redis.
#[tokio::test(flavor = "multi_thread")]
async fn new_pages_reach_redis_during_a_flood_of_writes() {
    let fleet = Fleet::start().await;
    let [far, near] = &fleet.gateways;
    for folder in ["/plain", "/w"] {
        let run = format!("{folder}/{}", fastrand::u64(..));
        let flood = Flood::start(far.address(), MAX_WRITES, move |number| {
            post(&format!("{run}/{number}/x"), "x").header("host", "flooded")
        });
        flood.has_begun().await;
        let before = far.metric(IN_REDIS).await;
        let pages = (0..20).map(|number| format!("{folder}/new{number}"));
        let pages: Vec<String> = pages.collect();
        let mut bodies = Vec::new();
        for page in &pages {
            fleet.origin.settings().tell(page, 200, HOUR);
            bodies.push(ask(far, page).await.text());
        }
        wait_for("the pages are in Redis", SOON, async || {
            stored(far, before + pages.len() as f64).await
        })
        .await;
        assert!(flood.goes_on(), "they have waited for writes");
        drop(flood);
        for (page, body) in pages.iter().zip(&bodies) {
            let response = ask(near, page).await;
            assert!(is_hit(&response), "{page}: {response:?}");
            assert_eq!(response.text(), *body);
        }
    }
}

/// Invariant: whatever clients write to, the other gateways learn of all of it soon, and lose
/// nothing else because of it.
#[tokio::test(flavor = "multi_thread")]
async fn writes_to_long_urls_of_any_host_cost_the_others_nothing() {
    const WRITES: usize = 1500;
    let fleet = Fleet::start().await;
    let [far, near] = &fleet.gateways;
    let tail = "x".repeat(7000);
    let long = |number: usize| format!("/long/{number}/{tail}");
    let pages: Vec<String> = (0..STORED)
        .map(|number| match number % 4 {
            0 => long(number),
            1 => format!("/long/{number}"),
            _ => format!("/kept/{number}"),
        })
        .collect();
    let mut before = Vec::new();
    for page in &pages {
        fleet.filled(page).await;
        before.push(ask(near, page).await.text());
    }
    let log_length = || -> usize {
        let len = fleet.redis.cli(&["XLEN", "edgeway:{purge}:log"]);
        len.parse().expect("a number")
    };
    let entries = log_length();
    // All of it waits for Redis.
    fleet.wire.set(Wire::Stalled);
    wait_for("redis is lost", SOON, async || {
        (far.metric("edgeway_redis_up").await < 1.0).then_some(())
    })
    .await;
    let long_tail = tail.clone();
    let flood = Flood::start(far.address(), WRITES, move |number| {
        let request = post(&format!("/w/{number}/{long_tail}"), "x");
        match number % 6 {
            0 => request.header("host", format!("host{number}")),
            _ => of_shop(request),
        }
    });
    flood.end().await;
    // The item, and the list that contains it.
    for page in [0, 1] {
        let response = far.send(&of_shop(post(&long(page * 4), "x"))).await;
        assert_eq!(response.status(), 200);
    }
    let response = far.send(&of_shop(post("/kept/2", "x"))).await;
    assert_eq!(response.status(), 200);
    let response = far.send(&of_shop(post("/long/5/any", "x"))).await;
    assert_eq!(response.status(), 200);
    fleet.wire.set(Wire::Open);
    let written = [0, 4, 2, 5];
    for page in written {
        wait_for("the other gateway has heard of it", SOON, async || {
            let now = ask(near, &pages[page]).await.text();
            (now != before[page]).then_some(())
        })
        .await;
    }
    wait_for("the other gateway has heard of all", SOON, async || {
        (far.status().await["purges"]["unsent"] == 0).then_some(())
    })
    .await;
    let entries = log_length() - entries;
    assert!(entries < WRITES / 20, "{entries} entries of the log");
    for (number, page) in pages.iter().enumerate() {
        if !written.contains(&number) {
            let response = ask(near, page).await;
            assert!(is_hit(&response), "{number} is gone");
            assert_eq!(response.text(), before[number]);
        }
    }
    let log = far.stderr();
    assert!(!log.contains("too many"), "{log}");
}
