//! Purges by operators and applications: by the admin API, the command and the method `PURGE`, over
//! gateways that share a Redis.

use std::{net::SocketAddr, time::Duration};

use futures_util::future::join;
use serde_json::{Value, json};

use crate::support::{
    client::{Request, Response, get, post},
    fleet::{Ran, edgeway},
    gateway::Gateway,
    origins::{NumberedOrigin, Origin},
    redis::{Redis, SECRET},
    relay::{Relay, Wire},
    wait::{pass, wait_for},
};

const SOON: Duration = Duration::from_secs(10);
const HEADERS: &[(&str, &str)] = &[("cache-control", "max-age=600"), ("cache-tag", "posts")];

async fn origin(paths: &[&str]) -> Origin<NumberedOrigin> {
    let origin = NumberedOrigin::start().await;
    for path in paths {
        origin.settings().tell(path, 200, HEADERS);
    }
    origin
}

async fn front(origin: SocketAddr, redis: &str, more: &str, route: &str) -> Gateway {
    let gateway = Gateway::start(&format!(
        "{redis}{more}\n\
         audit_log: {{ file: audit.log }}\n\
         upstreams: {{ app: {{ backends: ['{origin}'], health: false }} }}\n\
         routes:\n\
         - {{ name: plain, match: {{ path: '/plain/*' }}, upstream: app }}\n\
         - {{ name: app, match: {{ path: '/*' }}, upstream: app, cache: {route} }}\n"
    ))
    .await;
    if !redis.is_empty() {
        gateway.follows_purges().await;
    }
    gateway
}

/// Starts two gateways of one site, with one Redis.
async fn two(origin: SocketAddr, redis: &Redis, route: &str) -> [Gateway; 2] {
    // A new log of purges does not know the gateways for 3 s; everything before that waits.
    let redis = format!("redis: {}\n", redis.section(", timeout: 1s"));
    let both = [
        front(origin, &redis, "", route).await,
        front(origin, &redis, "", route).await,
    ];
    for gateway in &both {
        wait_for("the gateways know one another", SOON, async || {
            let status = gateway.status().await;
            let others = status["purges"]["others"].as_array()?.len();
            (others == 1).then_some(())
        })
        .await;
    }
    both
}

fn of_shop(request: Request) -> Request {
    request.header("host", "shop.test")
}

async fn read(gateway: &Gateway, path: &str) -> (String, String) {
    let response = gateway.send(&of_shop(get(path))).await;
    let cache = response.header("x-cache-status").unwrap_or("-").to_owned();
    (cache, response.text())
}

#[tokio::test]
async fn a_purge_reaches_every_gateway_and_the_receipt_names_them() {
    let redis = Redis::start().await;
    let origin = origin(&["/a", "/b"]).await;
    let [one, two] = two(origin.address(), &redis, "{}").await;
    for gateway in [&one, &two] {
        read(gateway, "/a").await;
        read(gateway, "/b").await;
        // The client may have a response before it is stored.
        wait_for("both are stored", SOON, async || {
            let objects = gateway.count("edgeway_cache_objects").await;
            let fills = gateway.count("edgeway_cache_fills").await;
            ((objects, fills) == (2, 0)).then_some(())
        })
        .await;
    }
    let (status, receipt) = one.purge(&json!({ "url": "http://shop.test/a" })).await;
    assert_eq!(
        (status, &receipt["others"]),
        (200, &json!("reached")),
        "{receipt}"
    );
    let applied = receipt["applied"].as_array().unwrap();
    let objects: Vec<&Value> = applied.iter().map(|it| &it["objects"]).collect();
    assert_eq!(objects, [1, 1], "{receipt}");
    assert_eq!(receipt["gateway"], applied[0]["gateway"]);
    for gateway in [&one, &two] {
        let (cache, body) = read(gateway, "/a").await;
        assert_eq!(cache, "MISS");
        assert!(["/a #3", "/a #4"].contains(&&*body), "{body}");
        assert_eq!(read(gateway, "/b").await.0, "HIT");
    }
    let line = &one.audited("purge").await[0];
    assert_eq!(
        (&line["action"], &line["target"], &line["outcome"]),
        (
            &json!("purge"),
            &json!("url http://shop.test/a"),
            &json!("ok")
        )
    );
    // The same by command; by tag, and soft.
    let Ran { status, stdout, .. } = edgeway(&two, &["purge", "--tag", "posts", "--soft"]).await;
    assert_eq!(status, Some(0), "{stdout}");
    assert!(
        stdout.starts_with("purged    tag posts (soft)\n"),
        "{stdout}"
    );
    assert_eq!(stdout.matches("(asked, 2 objects)").count(), 1, "{stdout}");
    assert_eq!(stdout.matches("(2 objects)").count(), 1, "{stdout}");
    for gateway in [&one, &two] {
        assert_eq!(read(gateway, "/b").await.0, "EXPIRED");
    }
    // Each shows itself and the other.
    let Ran { stdout, .. } = edgeway(&one, &["status"]).await;
    assert_eq!(stdout.matches("  leased  ").count(), 2, "{stdout}");
    let page = one
        .send_admin(&get("/status").header("accept", "text/html"))
        .await;
    assert!(page.text().contains("Gateways that share purges"));
}

#[tokio::test]
async fn without_redis_a_purge_covers_this_gateway_only() {
    let origin = origin(&["/a"]).await;
    let gateway = front(origin.address(), "", "", "{}").await;
    gateway.get("/a").await;
    let Ran { status, stdout, .. } = edgeway(&gateway, &["purge", "--all", "--json"]).await;
    let receipt: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((status, &receipt["others"]), (Some(0), &json!("alone")));
    assert_eq!(receipt["applied"][0]["objects"], 1);
    let (status, error) = gateway.purge(&json!({ "urls": ["/a"] })).await;
    assert_eq!(
        (status, &error["error"]["reason"]),
        (422, &json!("bad_purge"))
    );
}

#[tokio::test]
async fn where_nothing_is_cached_nothing_can_be_purged() {
    let gateway = Gateway::start("routes: [{ match: {}, respond: ok }]\n").await;
    let (status, error) = gateway.purge(&json!({ "all": true })).await;
    assert_eq!(
        (status, &error["error"]["reason"]),
        (409, &json!("no_cache"))
    );
    let Ran { status, stderr, .. } = edgeway(&gateway, &["purge", "--all"]).await;
    assert_eq!(status, Some(1));
    assert!(stderr.contains("no route has a cache"), "{stderr}");
}

#[tokio::test]
async fn a_gateway_that_lost_its_redis_purges_itself_and_reports_it() {
    let mut redis = Redis::start().await;
    let origin = origin(&["/a"]).await;
    let [one, two] = two(origin.address(), &redis, "{}").await;
    for gateway in [&one, &two] {
        read(gateway, "/a").await;
    }
    redis.kill();
    let (status, receipt) = one.purge(&json!({ "url": "/a" })).await;
    assert_eq!(
        (status, &receipt["others"]),
        (503, &json!("unreached")),
        "{receipt}"
    );
    assert_eq!(receipt["applied"][0]["objects"], 1);
    assert_eq!(read(&one, "/a").await.0, "MISS");
    assert_eq!(read(&two, "/a").await.0, "HIT");
    let line = &one.audited("purge").await[0];
    assert_eq!(
        (&line["outcome"], &line["reason"]),
        (&json!("ok"), &json!("unreached"))
    );
    let Ran { status, stdout, .. } = edgeway(&one, &["purge", "--url", "/a"]).await;
    assert_eq!(status, Some(1));
    assert!(stdout.contains("not reached: Redis is lost"), "{stdout}");
    assert_eq!(one.status().await["purges"]["unsent"], 2);
    redis.restart().await;
    wait_for("the other one has heard of it", SOON, async || {
        (read(&two, "/a").await.0 == "MISS").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_write_purges_its_family_and_no_more_on_the_other_gateway_too() {
    let redis = Redis::start().await;
    let origin = origin(&["/tasks", "/tasks/7", "/tasks/8"]).await;
    let [one, two] = two(origin.address(), &redis, "{ purge_on_write: true }").await;
    for gateway in [&one, &two] {
        for path in ["/tasks", "/tasks/7", "/tasks/8"] {
            read(gateway, path).await;
        }
    }
    let wrote = one.send(&of_shop(Request::new("DELETE", "/tasks/7"))).await;
    assert_eq!(wrote.status(), 200);
    assert_eq!(read(&one, "/tasks").await.0, "MISS");
    wait_for("the other one has heard of it", SOON, async || {
        let by = "edgeway_cache_purged_objects_total{source=\"gateway\"}";
        (two.count(by).await == 2).then_some(())
    })
    .await;
    for gateway in [&one, &two] {
        assert_eq!(read(gateway, "/tasks/8").await.0, "HIT");
    }
    assert_eq!(read(&two, "/tasks").await.0, "MISS");
    assert_eq!(read(&two, "/tasks/7").await.0, "MISS");
}

fn method(path: &str) -> Request {
    of_shop(Request::new("PURGE", path))
}

#[tokio::test]
async fn allowed_clients_purge_by_method() {
    let origin = origin(&["/a", "/plain/a"]).await;
    let allow = "trusted_proxies: [127.0.0.1]\ncache: { purge: { allow: [192.0.2.0/24] } }";
    let gateway = front(origin.address(), "", allow, "{}").await;
    let from = |request: Request, client: &str| request.header("x-forwarded-for", client);
    read(&gateway, "/a").await;
    let secret = method("/a?token=hunter2&page=2");
    let denied = gateway.send(&from(secret.clone(), "198.51.100.7")).await;
    assert_eq!(denied.status(), 403);
    assert_eq!(read(&gateway, "/a").await.0, "HIT");
    let done = gateway.send(&from(method("/a"), "192.0.2.7")).await;
    let summary = done.json();
    assert_eq!(
        (done.status(), &summary["objects"]),
        (200, &json!(1)),
        "{summary}"
    );
    assert_eq!(done.header("cache-control"), Some("no-store"));
    assert_eq!(read(&gateway, "/a").await.0, "MISS");
    let soft = from(method("/a"), "192.0.2.7").header("x-purge-soft", "1");
    let summary = gateway.send(&soft).await.json();
    assert_eq!(
        summary["purges"],
        json!([{ "url": "http://shop.test/a", "soft": true }])
    );
    assert_eq!(read(&gateway, "/a").await.0, "EXPIRED");
    assert_eq!(origin.settings().requests("/a"), 3);
    gateway.send(&from(secret, "192.0.2.7")).await;
    let target = "/a?token=hunter2";
    let ran = edgeway(&gateway, &["purge", "--url", target]).await;
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let lines = gateway.audit_log(5, |line| line["action"] == "purge").await;
    let refused = lines.iter().filter(|line| line["outcome"] == "refused");
    let refused: Vec<_> = refused
        .map(|line| (&line["reason"], &line["who"]))
        .collect();
    assert_eq!(refused, [(&json!("purge_denied"), &json!("198.51.100.7"))]);
    let has = |end: &str| {
        let targets = lines.iter().filter_map(|line| line["target"].as_str());
        targets.filter(|target| target.ends_with(end)).count() == 1
    };
    assert!(has("/a?token=[redacted]&page=2"), "{lines:?}");
    assert!(has("url /a?token=[redacted]"), "{lines:?}");
    assert!(!gateway.stderr().contains("hunter2"));
    let mut by_client = lines.iter().filter(|line| line["who"] == "192.0.2.7");
    let line = by_client.next().expect("there are some");
    assert_eq!(
        (&line["action"], &line["who"], &line["route"]),
        (&json!("purge"), &json!("192.0.2.7"), &json!("app"))
    );
    // Without a cache it is a method like any other.
    let passed = gateway.send(&from(method("/plain/a"), "192.0.2.7")).await;
    assert_eq!(passed.text(), "/plain/a #1");
}

#[tokio::test]
async fn where_no_client_may_purge_by_method_it_is_forwarded() {
    let origin = origin(&["/a"]).await;
    let gateway = front(origin.address(), "", "", "{}").await;
    let passed: Response = gateway.send(&method("/a")).await;
    assert_eq!((passed.status(), &*passed.text()), (200, "/a #1"));
}

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn fan_out(more: &str) -> String {
    format!("cache: {{ fan_out: {{ upstream: app, path: /notify, token: {TOKEN} }}{more} }}")
}

#[tokio::test]
async fn instances_are_purged_before_gateways_and_named() {
    let origin = origin(&["/a", "/notify"]).await;
    let gateway = front(origin.address(), "", &fan_out(""), "{}").await;
    gateway.get("/a").await;
    let (status, receipt) = gateway.purge(&json!({ "url": "/a" })).await;
    let expected = json!([{ "address": origin.address().to_string(), "status": 200 }]);
    assert_eq!(
        (status, &receipt["instances"]),
        (200, &expected),
        "{receipt}"
    );
    assert_eq!(origin.settings().requests("/notify"), 1);
    let (_, receipt) = gateway
        .purge(&json!({ "url": "/a", "fan_out": false }))
        .await;
    assert_eq!(receipt["instances"], Value::Null);
    assert_eq!(origin.settings().requests("/notify"), 1);
}

#[tokio::test]
async fn an_instance_that_refuses_or_is_gone_is_reported_and_the_gateway_still_purges() {
    let mut origin = origin(&["/a"]).await;
    origin.settings().tell("/notify", 401, &[]);
    let more = fan_out(", purge: { allow: [127.0.0.1] }");
    let gateway = front(origin.address(), "", &more, "{}").await;
    gateway.get("/a").await;
    let (status, receipt) = gateway.purge(&json!({ "url": "/a" })).await;
    assert_eq!(
        (status, &receipt["instances"][0]["status"]),
        (502, &json!(401))
    );
    assert_eq!(receipt["applied"][0]["objects"], 1);
    assert_eq!(gateway.audited("purge").await[0]["reason"], "instances");
    let by_method = gateway.send(&Request::new("PURGE", "/a")).await;
    assert_eq!(
        (by_method.status(), &by_method.json()["failed"]),
        (502, &json!(1))
    );
    origin.stop();
    let Ran { status, stdout, .. } = edgeway(&gateway, &["purge", "--url", "/a"]).await;
    assert_eq!(status, Some(1));
    assert!(stdout.contains("failed"), "{stdout}");
    assert!(stdout.contains("cannot connect: "), "{stdout}");
    assert!(!gateway.stderr().contains(TOKEN));
}

#[tokio::test]
async fn no_purge_waits_for_a_gateway_that_was_stopped() {
    let redis = Redis::start().await;
    let origin = origin(&["/a"]).await;
    let [one, mut two] = two(origin.address(), &redis, "{}").await;
    // A log that was just created does not know the gateways for sure, so this purge waits.
    wait_for("every gateway is known", SOON, async || {
        let (status, _) = one.purge(&json!({ "url": "/a" })).await;
        (status == 200).then_some(())
    })
    .await;
    two.terminate(SOON).await;
    let (status, receipt) = one.purge(&json!({ "url": "/a" })).await;
    assert_eq!(status, 200, "{receipt}");
    // It released its lease when it stopped: otherwise it would be waited for, and listed here.
    assert_eq!(receipt["lapsed"], json!([]), "{receipt}");
    assert_eq!(receipt["pending"], json!([]), "{receipt}");
}

/// Invariant: no gateway that was known within the last hour serves an older response unless the
/// receipt names it. No purge waits for one that is cut off.
#[tokio::test]
async fn a_receipt_names_gateways_that_may_serve_older_responses() {
    for (lost, is_served) in [("serve", true), ("revalidate", false)] {
        let redis = Redis::start().await;
        let to: SocketAddr = redis.address().parse().expect("an address");
        let relay = Relay::start(to).await;
        let origin = origin(&["/a", "/b"]).await;
        let section = |address: &str| {
            let url = format!("redis://{address}");
            let secret = format!("secret: '{SECRET}'");
            format!("redis: {{ url: '{url}', {secret}, timeout: 200ms }}\n")
        };
        let more = format!("cache: {{ on_purge_link_lost: {lost} }}");
        let one = front(origin.address(), &section(&redis.address()), &more, "{}").await;
        let through = section(&relay.address().to_string());
        let two = front(origin.address(), &through, &more, "{}").await;
        let name = two.status().await["purges"]["gateway"].clone();
        wait_for("the gateways know one another", SOON, async || {
            let (status, _) = one.purge(&json!({ "url": "/other" })).await;
            let others = one.status().await["purges"]["others"].take();
            (status == 200 && others.as_array()?.len() == 1).then_some(())
        })
        .await;
        for path in ["/a", "/b"] {
            read(&two, path).await;
        }
        // The link is cut for longer than its lease lasts.
        relay.set(Wire::Closed);
        wait_for("it has no lease", SOON, async || {
            let leased = two.status().await["purges"]["leased"].take();
            (leased == false).then_some(())
        })
        .await;
        pass(Duration::from_millis(300)).await;
        for flushed in [false, true] {
            if flushed {
                // Redis loses all of its data while the other gateway is disconnected.
                redis.flush();
            }
            let path = if flushed { "/b" } else { "/a" };
            let (status, receipt) = one.purge(&json!({ "url": path })).await;
            let found = (status, &receipt["others"], &receipt["lapsed"]);
            assert_eq!(found, (200, &json!("linked"), &json!([name])), "{receipt}");
            let took = receipt["took_ms"].as_f64().expect("a number");
            assert!(flushed || took < 2500.0, "{lost}: {receipt}");
            // With `revalidate` it serves only what it fetched since.
            let (cache, _) = read(&two, path).await;
            assert_eq!(cache == "HIT", is_served, "{lost}: {cache}");
        }
        // The way of an application: it waits neither.
        let Ran { status, stdout, .. } = edgeway(&one, &["purge", "--url", "/b"]).await;
        assert_eq!(status, Some(0), "{stdout}");
        assert!(stdout.contains("cut off"), "{stdout}");
        relay.set(Wire::Open);
        wait_for("all is well again", SOON, async || {
            let (status, receipt) = one.purge(&json!({ "url": "/b" })).await;
            (status == 200 && receipt["others"] == "reached").then_some(())
        })
        .await;
        assert_ne!(read(&two, "/b").await.0, "HIT");
    }
}

/// Invariant: no receipt is 200 while a gateway serves an older response, even if a process writes
/// to Redis without the secret: a purge that was made unreadable drops everything.
#[tokio::test]
async fn a_corrupt_purge_in_redis_does_not_count_as_applied() {
    for spoilt in ["x", "", "[]"] {
        let redis = Redis::start().await;
        let to: SocketAddr = redis.address().parse().expect("an address");
        let relay = Relay::start(to).await;
        let origin = origin(&["/a", "/b"]).await;
        let section = |address: &str| {
            let url = format!("redis://{address}");
            format!("redis: {{ url: '{url}', secret: '{SECRET}', timeout: 1s }}\n")
        };
        let one = front(origin.address(), &section(&redis.address()), "", "{}").await;
        let through = section(&relay.address().to_string());
        let two = front(origin.address(), &through, "", "{}").await;
        wait_for("the gateways know one another", SOON, async || {
            let (status, _) = one.purge(&json!({ "url": "/other" })).await;
            let others = one.status().await["purges"]["others"].take();
            (status == 200 && others.as_array()?.len() == 1).then_some(())
        })
        .await;
        let old = read(&two, "/a").await.1;
        assert_eq!(read(&two, "/a").await, ("HIT".to_owned(), old.clone()));
        // It reads the purge only after the entry was replaced.
        relay.set(Wire::Stalled);
        let last = redis.cli(&["XLEN", "edgeway:{purge}:log"]);
        let spoil = async {
            wait_for("the purge is in the log", SOON, async || {
                (redis.cli(&["XLEN", "edgeway:{purge}:log"]) != last).then_some(())
            })
            .await;
            let script = "local all = redis.call('XRANGE', KEYS[1], '-', '+') \
                 redis.call('DEL', KEYS[1]) \
                 for i, e in ipairs(all) do \
                 if i == #all then redis.call('XADD', KEYS[1], e[1], 'n', e[2][2], 'p', ARGV[1]) \
                 else redis.call('XADD', KEYS[1], e[1], unpack(e[2])) end end return #all";
            redis.cli(&["EVAL", script, "1", "edgeway:{purge}:log", spoilt]);
            relay.set(Wire::Open);
        };
        let order = json!({ "url": "/a" });
        let ((status, receipt), ()) = join(one.purge(&order), spoil).await;
        assert_eq!(status, 200, "{receipt}");
        let now = read(&two, "/a").await.1;
        assert_ne!(now, old, "{spoilt:?}: {receipt}");
        assert_eq!(two.count("edgeway_cache_purges_unsigned_total").await, 1);
    }
}

/// Invariant: a purge and a write of the URL that clients use find what is stored for it, whatever
/// the key leaves out of it and the rules make of it.
#[tokio::test]
async fn a_url_is_purged_as_clients_write_it() {
    let origin = NumberedOrigin::start().await;
    let gateway = Gateway::start(&format!(
        "upstreams: {{ app: {{ backends: ['{}'], health: false }} }}
routes:
- {{ match: {{ path: /x/* }}, upstream: app, cache: {{ ttl: 1h, key: {{ ignore_query: ['utm_*'] }} }} }}
- {{ match: {{ path: /x/*, method: POST }}, upstream: app }}
- match: {{ path: /r/* }}
  upstream: app
  rules: [{{ regex: '^/r/(.*)$', with: '/show?id={{group.1}}', then: stop }}]
  cache: {{ ttl: 1h }}
",
        origin.address()
    ))
    .await;
    for url in [
        "/x/1",
        "/x/1?utm_a=1",
        "/x/1?a=b&utm_a=1",
        "/r/7",
        "/r/7?a=b",
    ] {
        let expect = async |expected: &str, when: &str| {
            let response = gateway.get(url).await;
            let status = response.header("x-cache-status");
            assert_eq!(status, Some(expected), "{url} {when}");
        };
        expect("MISS", "at first").await;
        expect("HIT", "then").await;
        let (status, receipt) = gateway.purge(&json!({ "url": url })).await;
        assert_eq!(status, 200, "{url}: {receipt}");
        expect("MISS", "after its purge").await;
        let (status, _) = gateway.purge(&json!({ "url": "/x/2?utm_a=1" })).await;
        assert_eq!(status, 200);
        expect("HIT", "after the purge of another one").await;
        assert_eq!(gateway.send(&post(url, "")).await.status(), 200, "{url}");
        expect("MISS", "after a write").await;
        gateway.purge(&json!({ "url": url })).await;
    }
}
