//! Limits that gateways share through Redis: the script compared with the algorithm, and real
//! gateways.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use edgeway_base::{clock::Clock, metrics::Metrics, units::Percent};
use edgeway_core::limits::{
    gcra::{Decision, Quota, Tat, decide, give_back},
    key::Key,
    lease::Leases,
    shared::{BucketDecision, CapacitySource, Demand, RedisBuckets},
};
use edgeway_net::{
    redis::{Identity, Mode, Node, Redis as Client, RedisSettings},
    tasks::Tasks,
};

use crate::support::{
    client::get,
    gateway::Gateway,
    load::{self, Lanes},
    redis::{Cluster, Redis},
    seed,
    wait::{pass, wait_for},
};

/// Longer than any slow machine needs: these tests are about the counts.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Buckets, and the supervisor of their client.
async fn shared(mode: Mode, addresses: &str) -> (RedisBuckets, Tasks) {
    let nodes = addresses
        .split(", ")
        .map(|text| Node::parse(text, 1).expect("an address"));
    let settings = RedisSettings {
        mode,
        nodes: nodes.collect(),
        identity: Identity::default(),
        database: 0,
        tls: None,
        timeout: TIMEOUT,
        connections: 2,
        prefix: "test:".to_owned(),
        signer: None,
    };
    let client = Arc::new(Client::new(
        settings,
        Clock::machine(),
        &Metrics::default(),
        None,
    ));
    let tasks = Tasks::default();
    tasks.spawn("redis", Arc::clone(&client).supervise());
    wait_for("redis is up", Duration::from_secs(30), async || {
        client.is_up().then_some(())
    })
    .await;
    (RedisBuckets::new(client), tasks)
}

fn quota(count: u32, per: Duration, burst: u32) -> Quota {
    Quota::new(count, per, burst).expect("a quota of a test is one")
}

fn now() -> Instant {
    Clock::machine().now()
}

/// Time of the decision in Redis, in microseconds.
fn time_of(response: &BucketDecision) -> u64 {
    match response.taken {
        CapacitySource::FromRedis(at) => at,
        CapacitySource::FromLease => unreachable!("no lease was asked for"),
    }
}

/// The algorithm by itself, with the times that Redis returned.
#[derive(Default)]
struct Model(HashMap<(&'static str, u128), Tat>);

impl Model {
    /// Takes all or nothing, as a request does.
    fn take(&mut self, demands: &[Demand<'static>], at: u64) -> Vec<Decision> {
        let decisions: Vec<(Decision, Tat)> = demands
            .iter()
            .map(|demand| {
                let tat = self.0.get(&(demand.limit, demand.key.0));
                let tat = tat.copied().unwrap_or_default();
                decide(tat, at * 1000, demand.quota, demand.cost, demand.max_delay)
            })
            .collect();
        if decisions.iter().all(|(decision, _)| decision.passes()) {
            for (demand, (_, after)) in demands.iter().zip(&decisions) {
                self.0.insert((demand.limit, demand.key.0), *after);
            }
        }
        decisions
            .into_iter()
            .map(|(decision, _)| decision)
            .collect()
    }

    fn give_back(&mut self, demand: &Demand<'static>, taken: u64, at: u64) {
        if let Some(tat) = self.0.get_mut(&(demand.limit, demand.key.0)) {
            *tat = give_back(*tat, taken * 1000, at * 1000, demand.quota, demand.cost);
        }
    }
}

/// Limits from a few a second to many a millisecond, with counts that have no common divisors.
fn limits() -> &'static [(&'static str, Quota)] {
    Box::leak(Box::new([
        ("slow", quota(7, Duration::from_mins(1), 3)),
        ("even", quota(10, Duration::from_secs(1), 20)),
        ("odd", quota(7, Duration::from_millis(10), 7)),
        ("prime", quota(9973, Duration::from_secs(3), 13)),
        ("fast", quota(1_000_003, Duration::from_secs(7), 2)),
        ("long", quota(1000, Duration::from_hours(24 * 365), 50_000)),
        ("fine", quota(3, Duration::from_millis(1), 1)),
    ]))
}

fn demand(random: &mut fastrand::Rng) -> Demand<'static> {
    let (limit, quota) = &limits()[random.usize(..limits().len())];
    Demand {
        limit,
        key: Key(random.u128(..3)),
        quota,
        cost: random.u32(1..=quota.burst.min(4)),
        max_delay: Duration::from_micros(random.u64(..4) * 700),
        leases: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_script_decides_as_the_rule_does_to_the_nanosecond() {
    let redis = Redis::start().await;
    let (shared, _tasks) = shared(Mode::Single, &redis.address()).await;
    let seed = crate::support::seed::drawn();
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut model, mut passed, mut refused) = (Model::default(), 0, 0);
    for step in 0..6000 {
        let mut demands: Vec<Demand<'static>> = Vec::new();
        for _ in 0..random.usize(1..=3) {
            let another = demand(&mut random);
            if demands
                .iter()
                .all(|d| (d.limit, d.key) != (another.limit, another.key))
            {
                demands.push(another);
            }
        }
        let responses = shared.take(&demands, now()).await.expect("redis responds");
        let at = time_of(&responses[0]);
        let decisions: Vec<Decision> = responses.iter().map(|response| response.decision).collect();
        assert_eq!(
            decisions,
            model.take(&demands, at),
            "step {step} of seed {seed}: {demands:?}"
        );
        if decisions.iter().all(Decision::passes) {
            passed += 1;
        } else {
            refused += 1;
        }
        if random.u8(..50) == 0 {
            pass(Duration::from_millis(random.u64(1..15))).await;
        }
    }
    assert!(
        passed > 500 && refused > 500,
        "{passed} passed, {refused} refused"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refunded_permit_is_available_again_and_only_once() {
    let redis = Redis::start().await;
    let (shared, _tasks) = shared(Mode::Single, &redis.address()).await;
    let quota: &'static Quota = Box::leak(Box::new(quota(7, Duration::from_mins(1), 10)));
    let of = |cost| Demand {
        limit: "back",
        key: Key(1),
        quota,
        cost,
        max_delay: Duration::ZERO,
        leases: None,
    };
    let mut model = Model::default();
    let first = shared.take(&[of(4)], now()).await.unwrap()[0];
    model.take(&[of(4)], time_of(&first));
    let second = shared.take(&[of(6)], now()).await.unwrap()[0];
    model.take(&[of(6)], time_of(&second));
    assert!(
        !shared.take(&[of(1)], now()).await.unwrap()[0]
            .decision
            .passes()
    );
    shared.give_back(&[(of(4), first.taken)]).await;
    // The model gives back at an unknown moment between these two.
    let third = shared.take(&[of(4)], now()).await.unwrap()[0];
    assert!(third.decision.passes(), "{third:?}");
    model.give_back(&of(4), time_of(&first), time_of(&third));
    let expected = model.take(&[of(4)], time_of(&third))[0];
    let (
        Decision::Pass { reset, .. },
        Decision::Pass {
            reset: by_model, ..
        },
    ) = (third.decision, expected)
    else {
        panic!("{third:?} {expected:?}");
    };
    assert!(reset <= by_model, "{reset:?} {by_model:?}");
    assert!(
        by_model.saturating_sub(reset) < Duration::from_secs(5),
        "{reset:?} {by_model:?}"
    );
    assert!(
        !shared.take(&[of(1)], now()).await.unwrap()[0]
            .decision
            .passes()
    );
    // A bucket that was never taken from cannot be given back to.
    let other = Demand {
        key: Key(2),
        ..of(10)
    };
    shared.give_back(&[(other, first.taken)]).await;
    assert_eq!(redis.cli(&["KEYS", "test:limit:*"]).lines().count(), 1);
}

/// Includes a value that no script has written: as far ahead as a bucket of this limit can be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_of_a_slower_limit_flows_back_as_fast_as_the_new_one() {
    let redis = Redis::start().await;
    let (shared, _tasks) = shared(Mode::Single, &redis.address()).await;
    let slow = quota(3, Duration::from_hours(1), 3);
    let fast = quota(3, Duration::from_secs(1), 3);
    let huge = "9".repeat(400);
    for (number, foreign) in [None, Some("99999999999999999"), Some(&*huge)]
        .into_iter()
        .enumerate()
    {
        let demand = |quota| Demand {
            limit: "edge",
            key: Key(number as u128),
            quota,
            cost: 3,
            max_delay: Duration::ZERO,
            leases: None,
        };
        let passes = async |quota| {
            let responses = shared.take(&[demand(quota)], now()).await;
            responses.expect("redis responds")[0].passes()
        };
        assert!(passes(&slow).await);
        if let Some(foreign) = foreign {
            let key = redis.cli(&["--scan", "--pattern", "*:limit:edge:*"]);
            let key = key.lines().next().expect("there is one").to_owned();
            redis.cli(&["SET", &key, &format!("{foreign}:0:0")]);
        }
        assert!(!passes(&fast).await, "{foreign:?}");
        wait_for("the bucket is full", Duration::from_secs(10), async || {
            passes(&fast).await.then_some(())
        })
        .await;
        redis.cli(&["FLUSHALL"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buckets_are_gone_from_redis_once_they_are_full_and_their_keys_say_nothing() {
    let redis = Redis::start().await;
    let (shared, _tasks) = shared(Mode::Single, &redis.address()).await;
    let quota = quota(10, Duration::from_millis(500), 10);
    let demands: Vec<Demand<'_>> = (0..50)
        .map(|number| Demand {
            limit: "edge",
            key: Key(number),
            quota: &quota,
            cost: 5,
            max_delay: Duration::ZERO,
            leases: None,
        })
        .collect();
    shared.take(&demands, now()).await.unwrap();
    let keys = redis.cli(&["KEYS", "*"]);
    assert_eq!(keys.lines().count(), 50);
    for key in keys.lines() {
        let hash = key
            .strip_prefix("test:limit:edge:")
            .expect("each has our prefix");
        assert_eq!(hash.len(), 22, "{key}");
        let left: i64 = redis.cli(&["PTTL", key]).parse().unwrap();
        assert!(left <= 260, "{left}");
    }
    wait_for("every bucket is gone", Duration::from_secs(5), async || {
        (redis.cli(&["DBSIZE"]) == "0").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_cluster_a_request_that_one_limit_refuses_is_charged_by_none() {
    let cluster = Cluster::start().await;
    let (shared, _tasks) = shared(Mode::Cluster, &cluster.addresses()).await;
    let (wide, narrow) = (
        quota(100, Duration::from_hours(1), 100),
        quota(1, Duration::from_hours(1), 1),
    );
    let mut passed = 0;
    for number in 0..20 {
        let of = |limit, key, quota| Demand {
            limit,
            key: Key(key),
            quota,
            cost: 1,
            max_delay: Duration::ZERO,
            leases: None,
        };
        // Every client has its own narrow limit for two requests, and one wide limit.
        let demands = [
            of("wide", 0, &wide),
            of("narrow", number / 2, &narrow),
            of("other", number, &wide),
        ];
        let responses = wait_for(
            "the cluster responds",
            Duration::from_secs(10),
            async || shared.take(&demands, now()).await.ok(),
        )
        .await;
        let all = responses.iter().all(|response| response.decision.passes());
        assert_eq!(all, number % 2 == 0, "{number}: {responses:?}");
        passed += u32::from(all);
    }
    let asked = Demand {
        limit: "wide",
        key: Key(0),
        quota: &wide,
        cost: 1,
        max_delay: Duration::ZERO,
        leases: None,
    };
    let response = shared.take(&[asked], now()).await.unwrap()[0];
    let Decision::Pass { remaining, .. } = response.decision else {
        panic!("{response:?}");
    };
    assert_eq!(remaining, 100 - passed - 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_leases_redis_is_asked_less_and_little_more_passes_than_without() {
    let redis = Redis::start().await;
    let (first, _tasks) = shared(Mode::Single, &redis.address()).await;
    let (second, _more) = shared(Mode::Single, &redis.address()).await;
    let gateways = [first, second].map(|shared| (shared, Leases::new(Percent(10.0))));
    let quota = quota(100, Duration::from_mins(1), 100);
    let evals = || {
        let info = redis.cli(&["INFO", "commandstats"]);
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
        let calls = line.and_then(|rest| rest.split(',').next()?.parse::<u32>().ok());
        calls.unwrap_or_default()
    };
    let (mut passed, mut asked, begun) = (0, 0, now());
    for number in 0..300 {
        let (shared, leases) = &gateways[number % 2];
        let demand = Demand {
            limit: "hot",
            key: Key(1),
            quota: &quota,
            cost: 1,
            max_delay: Duration::ZERO,
            leases: Some(leases),
        };
        let response = shared.take(&[demand], now()).await.expect("redis responds")[0];
        passed += u32::from(response.passes());
        if number == 99 {
            asked = evals();
        }
    }
    // The number refilled meanwhile, and the leases that two gateways may hold.
    let refilled = u32::try_from((now() - begun).as_secs() * 2 + 2).expect("a few");
    assert!((80..=120 + refilled).contains(&passed), "{passed}");
    // Five each at first, then one for eleven.
    assert!((10..45).contains(&asked), "{asked}");
}

/// Starts a gateway with a limit of 100 a minute for each value of `x-client`.
async fn gateway(redis: &str, more: &str) -> Gateway {
    Gateway::start(&format!(
        "redis: {redis}\nrate_limits: {{ user: {{ rate: 100/min, key: 'header:x-client'{more} }} }}\n\
         routes: [{{ match: {{ path: /* }}, respond: ok, rate_limit: [user] }}]\n",
    ))
    .await
}

async fn is_up(gateway: &Gateway, is_up: u64, within: Duration) {
    let condition = format!("edgeway_redis_up is {is_up}");
    wait_for(&condition, within, async || {
        (gateway.count("edgeway_redis_up").await == is_up).then_some(())
    })
    .await;
}

/// Requests that were counted in memory because Redis could not be asked.
const LOST: &str = "edgeway_rate_limit_store_errors_total";

/// Sends 130 requests of one client: 100 pass, and those that the rate allows meanwhile.
async fn alone(gateway: &Gateway) {
    let (passed, most) = passed_alone(gateway).await;
    assert!((100..=most).contains(&passed), "{passed}, at most {most}");
}

/// Sends 130 requests of one client; returns how many pass, and how many may by one count.
async fn passed_alone(gateway: &Gateway) -> (u64, u64) {
    let begun = now();
    let mut passed = 0;
    for _ in 0..130 {
        let ask = get("/").header("x-client", "alone");
        passed += u64::from(gateway.send(&ask).await.status() == 200);
    }
    (passed, 101 + (now() - begun).as_secs() * 100 / 60 + 2)
}

/// Sends 1,600 requests of 8 clients to two gateways; returns how many pass, and the duration.
async fn passed(gateways: &[Gateway; 2]) -> (u64, Duration) {
    let begun = now();
    let load = |gateway: &Gateway| {
        let request = |turn: u64| get("/").header("x-client", (turn % 8).to_string());
        load::lanes(gateway.address(), 4, 800, request)
    };
    let (a, b) = tokio::join!(load(&gateways[0]), load(&gateways[1]));
    for tally in [&a, &b] {
        assert!(tally.failed.is_empty(), "{:?}", tally.failed);
        assert_eq!(tally.status(200) + tally.status(429), 800);
    }
    (a.status(200) + b.status(200), now() - begun)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_let_as_many_pass_as_one_and_each_by_itself_twice_as_many() {
    let redis = Redis::start().await;
    // Long enough for the busiest machine: a gateway without a response from Redis counts on its
    // own.
    let patient = format!("{{ url: '{}', timeout: 1s }}", redis.url());
    for (more, most, least) in [
        (", store: redis", 800, 800),
        (", store: redis, lease: 10%", 800 + 8 * 20, 700),
        (", store: memory", 1600, 1600),
    ] {
        let gateways = [gateway(&patient, more).await, gateway(&patient, more).await];
        redis.flush();
        for gateway in &gateways {
            is_up(gateway, 1, Duration::from_secs(5)).await;
        }
        let (passed, took) = passed(&gateways).await;
        for gateway in &gateways {
            assert_eq!(gateway.count(LOST).await, 0, "{more}: Redis was there");
        }
        // The number refilled meanwhile, for each client.
        let refilled = (took.as_secs() + 1) * 100 / 60 * 8 + 8;
        assert!(
            passed <= most + refilled && passed >= least,
            "{more}: {passed} in {took:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_redis_is_killed_paused_or_flushed_and_limits_go_on() {
    let mut redis = Redis::start().await;
    let gateway = gateway(&redis.url(), ", store: redis").await;
    is_up(&gateway, 1, Duration::from_secs(5)).await;
    let load = load::endless_paced(gateway.address(), 100, |turn| {
        get("/").header("x-client", (turn % 400).to_string())
    });
    pass(Duration::from_millis(300)).await;
    redis.flush();
    pass(Duration::from_millis(300)).await;
    redis.pause();
    is_up(&gateway, 0, Duration::from_secs(5)).await;
    // By the counts in the gateway's memory.
    alone(&gateway).await;
    redis.resume();
    is_up(&gateway, 1, Duration::from_secs(5)).await;
    redis.kill();
    is_up(&gateway, 0, Duration::from_secs(5)).await;
    redis.restart().await;
    is_up(&gateway, 1, Duration::from_secs(5)).await;
    let before = redis.cli(&["DBSIZE"]);
    wait_for(
        "clients are counted in Redis again",
        Duration::from_secs(5),
        async || (redis.cli(&["DBSIZE"]) != before).then_some(()),
    )
    .await;
    let tally = load.stop().await;
    assert_eq!((tally.errors(), tally.truncated), (0, 0), "{tally:?}");
    assert!(gateway.count(LOST).await > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_a_cluster_loses_a_master_and_its_replica_takes_over() {
    let mut cluster = Cluster::start().await;
    let nodes = cluster.addresses();
    let section = format!("{{ mode: cluster, nodes: [{nodes}] }}");
    let gateway = gateway(&section, ", store: redis").await;
    is_up(&gateway, 1, Duration::from_secs(10)).await;
    let load = load::endless_paced(gateway.address(), 100, |turn| {
        get("/").header("x-client", (turn % 400).to_string())
    });
    let completed = "edgeway_redis_command_duration_seconds_count{outcome=\"ok\"}";
    let master = cluster.masters()[0];
    cluster.0[master].kill();
    is_up(&gateway, 0, Duration::from_secs(10)).await;
    // Keys on other nodes work meanwhile; the replica takes at least a second.
    let (before, before_ok) = (gateway.count(LOST).await, gateway.count(completed).await);
    wait_for(
        "some are counted here",
        Duration::from_secs(10),
        async || {
            (gateway.count(LOST).await > before && gateway.count(completed).await > before_ok)
                .then_some(())
        },
    )
    .await;
    is_up(&gateway, 1, Duration::from_secs(30)).await;
    // Some may still fail in Redis while nodes learn of the new master; another count has those.
    let before = gateway.count(LOST).await;
    let (passed, most) = passed_alone(&gateway).await;
    let most = most + gateway.count(LOST).await - before;
    assert!((100..=most).contains(&passed), "{passed}, at most {most}");
    wait_for(
        "all are counted in Redis again",
        Duration::from_secs(5),
        async || {
            let before = gateway.count(LOST).await;
            for client in 0..20 {
                let ask = get("/").header("x-client", client.to_string());
                gateway.send(&ask).await;
            }
            (gateway.count(LOST).await == before).then_some(())
        },
    )
    .await;
    let tally = load.stop().await;
    assert_eq!((tally.errors(), tally.truncated), (0, 0), "{tally:?}");
}

/// Invariant: while Redis is lost, each gateway lets its share of a limit pass, rounded up, and no
/// more: whatever the limit, the cost of a request and the number of gateways. With
/// `on_store_error: full` it is the whole limit, which is the control.
#[tokio::test]
async fn while_redis_is_lost_each_gateway_has_its_share_of_a_limit() {
    let mut random = fastrand::Rng::with_seed(seed::drawn());
    let counts: &[usize] = if seed::is_hunt() { &[1, 2, 5, 9] } else { &[3] };
    for &count in counts {
        let mut redis = Redis::start().await;
        let drawn: Vec<_> = (0..seed::cases(12, 60))
            .map(|number| {
                let cost = random.u32(1..=3);
                let burst = random.u32(cost..=40);
                let word = ["local", "full"][number % 2];
                (burst, cost, word)
            })
            .collect();
        let lines = drawn.iter().enumerate();
        let (limits, routes): (Vec<String>, Vec<String>) = lines
            .map(|(number, (burst, cost, word))| {
                let rate = format!("rate: {burst}/24h, store: redis, on_store_error: {word}");
                let uses = format!("[{{ limit: limit{number}, cost: {cost} }}]");
                let path = format!("/{number}");
                (
                    format!("  limit{number}: {{ {rate} }}\n"),
                    format!("- {{ match: {{ path: {path} }}, respond: ok, rate_limit: {uses} }}\n"),
                )
            })
            .unzip();
        let yaml = format!(
            "redis: {}\nrate_limits:\n{}routes:\n{}- {{ match: {{ path: /cached }}, respond: ok, \
             cache: {{}} }}\n",
            redis.section(", timeout: 1s"),
            limits.concat(),
            routes.concat()
        );
        let mut gateways = Vec::new();
        for _ in 0..count {
            gateways.push(Gateway::start(&yaml).await);
        }
        for gateway in &gateways {
            wait_for("it knows the others", TIMEOUT * 4, async || {
                let purges = gateway.status().await["purges"].take();
                let others = purges["others"].as_array()?.iter();
                let known = others.filter(|other| other["leased"] == true).count();
                (known + 1 == count && purges["leased"] == true).then_some(())
            })
            .await;
        }
        redis.kill();
        for gateway in &gateways {
            is_up(gateway, 0, TIMEOUT * 4).await;
            for (number, (burst, cost, word)) in drawn.iter().enumerate() {
                let share = match *word {
                    "full" => *burst,
                    _ => burst
                        .div_ceil(u32::try_from(count).expect("few"))
                        .max(*cost),
                };
                let mut passed = 0;
                while gateway.get(&format!("/{number}")).await.status() == 200 {
                    passed += 1;
                }
                let expected = share / cost;
                assert_eq!(
                    passed, expected,
                    "{burst}/24h by {cost}, {word}, {count} gateways"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_and_a_reload_serve_once_redis_is_connected() {
    let redis = Redis::start().await;
    let yaml = |timeout: &str| {
        format!(
            "redis: {}\nrate_limits:\n\
             \x20 user: {{ rate: 1000000/min, store: redis, on_store_error: deny }}\n\
             routes: [{{ match: {{ path: /* }}, respond: ok, rate_limit: [user] }}]\n",
            redis.section(&format!(", timeout: {timeout}"))
        )
    };
    let mut gateway = Gateway::start(&yaml("1s")).await;
    let load = load::endless(gateway.address(), 6, Lanes::Fresh, |_| get("/"));
    for timeout in ["900ms", "800ms"] {
        gateway.upgrade().await;
        pass(Duration::from_millis(300)).await;
        assert!(gateway.reload(&yaml(timeout)).await);
        pass(Duration::from_millis(300)).await;
    }
    let tally = load.stop().await;
    assert!(tally.failed.is_empty(), "{:?}", tally.failed);
    assert_eq!(tally.status(200), tally.total(), "{:?}", tally.statuses);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_full_is_a_problem_until_it_has_room() {
    let redis = Redis::start().await;
    let gateway = gateway(&redis.section(""), ", store: redis").await;
    is_up(&gateway, 1, TIMEOUT).await;
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    alone(&gateway).await;
    let status = gateway.status().await;
    assert_eq!(status["redis"]["up"], true, "{status}");
    let why = status["redis"]["rejection"].as_str().unwrap_or_default();
    assert!(why.contains("OOM"), "{status}");
    let began = async || {
        let log = gateway.stderr();
        log.contains("rejects commands").then_some(())
    };
    wait_for("the log names the problem", TIMEOUT * 4, began).await;
}
