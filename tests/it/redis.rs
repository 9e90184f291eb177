//! The Redis client with real servers: lost, paused, flushed, moved; and its metrics and log lines.

use std::{collections::BTreeMap, fs, sync::Arc, time::Duration};

use edgeway_base::{clock::Clock, metrics::Metrics, secret::Secret};
use edgeway_net::{
    redis::{Identity, Mode, Node, Redis as Client, RedisSettings, Script, Unavailable, cmd},
    tasks::Tasks,
};
use rcgen::DnType;
use tokio::{task::JoinSet, time::Instant};

use crate::support::{
    certificates::{Ca, Wanted},
    client::get,
    gateway::{Gateway, sum_of},
    redis::{Cluster, Redis, Watched},
    wait::{pass, wait_for},
};

/// Maximum time until a Redis that is back is used again.
const BACK_WITHIN: Duration = Duration::from_secs(5);
/// Maximum time of failovers, and on slow machines.
const PATIENCE: Duration = Duration::from_secs(30);

/// Client with its supervisor, which ends with it.
struct Supervised {
    client: Arc<Client>,
    metrics: Metrics,
    _tasks: Tasks,
}

impl Supervised {
    fn start(settings: RedisSettings) -> Self {
        let metrics = Metrics::default();
        let client = Arc::new(Client::new(settings, Clock::machine(), &metrics, None));
        let tasks = Tasks::default();
        tasks.spawn("redis", Arc::clone(&client).supervise());
        Self {
            client,
            metrics,
            _tasks: tasks,
        }
    }

    async fn up(settings: RedisSettings) -> Self {
        let supervised = Self::start(settings);
        supervised.is_up(true, PATIENCE).await;
        supervised
    }

    async fn is_up(&self, is_up: bool, within: Duration) {
        let condition = format!("redis is up: {is_up}");
        wait_for(&condition, within, async || {
            (self.client.is_up() == is_up).then_some(())
        })
        .await;
    }

    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole things are counted"
    )]
    fn metric(&self, series: &str) -> u64 {
        sum_of(&String::from_utf8_lossy(&self.metrics.text()), series) as u64
    }

    async fn set(&self, key: &str, value: &str) -> Result<(), Unavailable> {
        let mut set = cmd("SET");
        set.arg(key).arg(value);
        self.client.run(key.as_bytes(), &set).await
    }
}

/// Settings whose commands have the deadline of a request's.
fn settings(mode: Mode, addresses: &str) -> RedisSettings {
    let nodes = addresses
        .split(", ")
        .map(|text| Node::parse(text, 1).expect("an address"));
    RedisSettings {
        mode,
        nodes: nodes.collect(),
        identity: Identity::default(),
        database: 0,
        tls: None,
        timeout: Duration::from_millis(20),
        connections: 2,
        prefix: "test:".to_owned(),
        signer: None,
    }
}

/// Settings whose commands are not late, also on a slow machine.
fn patient(mode: Mode, addresses: &str) -> RedisSettings {
    RedisSettings {
        timeout: PATIENCE,
        ..settings(mode, addresses)
    }
}

fn single(redis: &Redis) -> RedisSettings {
    patient(Mode::Single, &redis.address())
}

/// Calls a script once; returns the argument of the call.
async fn echo(client: &Client, script: &Script, number: i64) -> Result<i64, Unavailable> {
    client.eval(script, &[b"test:x"], &[number]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_is_loaded_again_after_redis_was_flushed_or_restarted() {
    let mut redis = Redis::start().await;
    let supervised = Supervised::up(single(&redis)).await;
    let script = Script::new("return tonumber(ARGV[1])");
    assert_eq!(echo(&supervised.client, &script, 1).await, Ok(1));
    redis.flush();
    assert_eq!(echo(&supervised.client, &script, 2).await, Ok(2));
    redis.restart().await;
    let response = wait_for("commands pass again", BACK_WITHIN, async || {
        echo(&supervised.client, &script, 3).await.ok()
    })
    .await;
    assert_eq!(response, 3);
    // The script is known by its hash: no second call for each.
    let before = redis.cli(&["INFO", "commandstats"]);
    for number in 0..10 {
        assert_eq!(echo(&supervised.client, &script, number).await, Ok(number));
    }
    let after = redis.cli(&["INFO", "commandstats"]);
    let calls = |info: &str, name: &str| -> u64 {
        let line = info
            .lines()
            .find_map(|l| l.strip_prefix(&format!("cmdstat_{name}:calls=")));
        line.map_or(0, |rest| rest.split(',').next().unwrap().parse().unwrap())
    };
    assert_eq!(calls(&after, "evalsha") - calls(&before, "evalsha"), 10);
    assert_eq!(calls(&after, "eval"), calls(&before, "eval"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_hangs_costs_a_few_commands_their_deadline_and_others_nothing() {
    let redis = Redis::start().await;
    let supervised = Supervised::up(settings(Mode::Single, &redis.address())).await;
    wait_for("a command passes", BACK_WITHIN, async || {
        supervised.set("test:a", "1").await.ok()
    })
    .await;
    redis.pause();
    let mut outcomes: BTreeMap<String, u32> = BTreeMap::new();
    let mut waits = Vec::new();
    for _ in 0..200 {
        let begun = Instant::now();
        let outcome = supervised.set("test:a", "2").await.unwrap_err();
        waits.push(begun.elapsed());
        *outcomes.entry(format!("{outcome:?}")).or_default() += 1;
    }
    assert!(outcomes["Timeout"] <= 3, "{outcomes:?}");
    assert!(outcomes["Open"] >= 197, "{outcomes:?}");
    waits.sort();
    // A request that sends no query does not wait, not even for the deadline of 20 ms.
    assert!(waits[150] < Duration::from_millis(15), "{waits:?}");
    assert_eq!(supervised.metric("edgeway_redis_up"), 0);
    let status = supervised.client.status();
    assert_eq!(
        status.last_error.as_deref(),
        Some("no response within 20ms")
    );
    redis.resume();
    wait_for("commands pass again", BACK_WITHIN, async || {
        supervised.set("test:a", "3").await.ok()
    })
    .await;
    assert_eq!(redis.cli(&["GET", "test:a"]), "3");
    supervised.is_up(true, BACK_WITHIN).await;
    assert_eq!(supervised.metric("edgeway_redis_up"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_redis_is_detected_before_any_command_and_found_again() {
    let mut redis = Redis::start().await;
    let supervised = Supervised::up(single(&redis)).await;
    for _ in 0..2 {
        redis.kill();
        supervised.is_up(false, PATIENCE).await;
        // `Timeout` would mean that it was sent.
        assert_eq!(supervised.set("test:a", "1").await, Err(Unavailable::Open));
        redis.restart().await;
        supervised.is_up(true, BACK_WITHIN).await;
        assert_eq!(supervised.set("test:a", "1").await, Ok(()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_command_does_not_mark_redis_as_lost() {
    let redis = Redis::start().await;
    let supervised = Supervised::up(single(&redis)).await;
    redis.cli(&["RPUSH", "test:list", "x"]);
    let mut incr = cmd("INCR");
    incr.arg("test:list");
    for _ in 0..10 {
        let refused = supervised.client.run::<i64>(b"test:list", &incr).await;
        assert_eq!(refused, Err(Unavailable::Response));
    }
    assert!(supervised.client.is_up());
    assert_eq!(
        supervised.metric("edgeway_redis_errors_total{kind=\"response\"}"),
        10
    );
    let reason = supervised.client.status().last_error.unwrap();
    assert!(reason.contains("WRONGTYPE"), "{reason}");
    assert_eq!(supervised.client.status().rejection, Some(reason));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_redis_that_became_a_replica_rejects_writes_and_stays_up() {
    let redis = Redis::start().await;
    let supervised = Supervised::up(single(&redis)).await;
    let since = supervised.client.status().since;
    redis.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    wait_for("writes are rejected", PATIENCE, async || {
        let refused = supervised.set("test:a", "1").await.expect_err("a replica");
        // The client connects again now and then: the name may lead to another instance.
        assert!(
            matches!(refused, Unavailable::Response | Unavailable::Open),
            "{refused:?}"
        );
        let status = supervised.client.status();
        assert!(status.up && status.since == since, "{status:?}");
        let why = status.rejection?;
        assert!(why.contains("ReadOnly"), "{why}");
        (supervised.metric("edgeway_redis_errors_total{kind=\"response\"}") > 20).then_some(())
    })
    .await;
    redis.cli(&["REPLICAOF", "NO", "ONE"]);
    wait_for("it takes writes again", BACK_WITHIN, async || {
        supervised.set("test:a", "1").await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_share_connections_and_each_gets_its_own_reply() {
    let redis = Redis::start().await;
    let supervised = Supervised::up(single(&redis)).await;
    let script = Arc::new(Script::new("return tonumber(ARGV[1])"));
    let mut asking = JoinSet::new();
    for number in 0..500 {
        let (client, script) = (Arc::clone(&supervised.client), Arc::clone(&script));
        asking.spawn(async move { (number, echo(&client, &script, number).await) });
    }
    while let Some(response) = asking.join_next().await {
        let (number, response) = response.unwrap();
        assert_eq!(response, Ok(number));
    }
    assert_eq!(redis.clients().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_keeps_its_keys_apart_and_survives_the_loss_of_a_master() {
    let mut cluster = Cluster::start().await;
    let supervised = Supervised::up(settings(Mode::Cluster, &cluster.addresses())).await;
    let script = Script::new("redis.call('SET', KEYS[1], ARGV[1]) return tonumber(ARGV[1])");
    let keys: Vec<String> = (0..60).map(|number| format!("test:{number}")).collect();
    let put = async |key: &String, number: i64| {
        let (keys, args) = ([key.as_bytes()], [number]);
        supervised.client.eval::<i64>(&script, &keys, &args).await
    };
    for key in &keys {
        wait_for("each key can be written", BACK_WITHIN, async || {
            put(key, 1).await.ok()
        })
        .await;
    }
    let masters = cluster.masters();
    assert_eq!(masters.len(), 3);
    for master in &masters {
        let size: u64 = cluster.0[*master].cli(&["DBSIZE"]).parse().unwrap();
        assert!(size > 5, "{size}");
    }
    cluster.0[masters[1]].kill();
    // Keys on other nodes remain available; keys of the lost node fail fast.
    let (mut passed, mut failed) = (0, 0);
    for key in &keys {
        match put(key, 2).await {
            Ok(_) => passed += 1,
            Err(_) => failed += 1,
        }
    }
    assert!(
        passed > 10 && failed > 5,
        "{passed} passed, {failed} failed"
    );
    for key in &keys {
        wait_for("each key can be written again", PATIENCE, async || {
            put(key, 3).await.ok()
        })
        .await;
    }
    supervised.is_up(true, PATIENCE).await;
    assert_eq!(supervised.client.status().mode, "cluster");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_loses_a_part_when_a_master_hangs_and_finds_the_one_that_follows() {
    let cluster = Cluster::start().await;
    let supervised = Supervised::up(settings(Mode::Cluster, &cluster.addresses())).await;
    let keys: Vec<String> = (0..30).map(|number| format!("test:{number}")).collect();
    for key in &keys {
        wait_for("each key can be written", BACK_WITHIN, async || {
            supervised.set(key, "1").await.ok()
        })
        .await;
    }
    let hung = cluster.masters()[0];
    cluster.0[hung].pause();
    supervised.is_up(false, PATIENCE).await;
    for key in &keys {
        wait_for("each key can be written again", PATIENCE, async || {
            supervised.set(key, "2").await.ok()
        })
        .await;
    }
    supervised.is_up(true, PATIENCE).await;
    cluster.0[hung].resume();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_node_of_a_cluster_has_the_whole_time_of_a_command() {
    let cluster = Cluster::start().await;
    let supervised = Supervised::up(patient(Mode::Cluster, &cluster.addresses())).await;
    for master in cluster.masters() {
        cluster.0[master].cli(&["CLIENT", "PAUSE", "1000"]);
    }
    assert_eq!(supervised.set("test:a", "1").await, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_say_where_the_master_is_and_where_it_goes() {
    let mut watched = Watched::start().await;
    let addresses: Vec<String> = watched.sentinels.iter().map(Redis::address).collect();
    let mode = Mode::Sentinel {
        master: "main".to_owned(),
        identity: Identity::default(),
    };
    let supervised = Supervised::up(patient(mode, &addresses.join(", "))).await;
    assert_eq!(supervised.set("test:a", "1").await, Ok(()));
    assert_eq!(watched.nodes[0].cli(&["GET", "test:a"]), "1");
    watched.nodes[0].kill();
    wait_for("the replica takes over", PATIENCE, async || {
        supervised.set("test:a", "2").await.ok()
    })
    .await;
    assert_eq!(watched.nodes[1].cli(&["GET", "test:a"]), "2");
    assert_eq!(
        watched.nodes[1].cli(&["ROLE"]).lines().next(),
        Some("master")
    );
}

/// The old master takes writes as long as no sentinel reaches it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_master_is_left_though_one_sentinel_names_it_and_another_hangs() {
    let watched = Watched::start().await;
    let [old, new] = &watched.nodes;
    let alone = watched.cut_off().await;
    old.cli(&["ACL", "SETUSER", "default", "-replicaof", "-slaveof"]);
    let nodes = [&alone, &watched.sentinels[0], &watched.sentinels[1]];
    let nodes = nodes.map(Redis::address).join(", ");
    let nodes = format!("{nodes}, {}", watched.sentinels[2].address());
    let mode = Mode::Sentinel {
        master: "main".to_owned(),
        identity: Identity::default(),
    };
    let supervised = Supervised::up(patient(mode.clone(), &nodes)).await;
    watched.sentinels[0].pause();
    let failover = ["SENTINEL", "FAILOVER", "main"];
    assert_eq!(watched.sentinels[2].cli(&failover), "OK");
    wait_for("the new master is used", PATIENCE, async || {
        supervised.set("test:a", "2").await.ok()?;
        (new.is_master() && new.cli(&["GET", "test:a"]) == "2").then_some(())
    })
    .await;
    assert!(old.is_master());
    let named = alone.cli(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"]);
    assert!(named.ends_with(&old.port().to_string()), "{named}");
    // Of two that disagree, none outvotes the other: the master that is used stays.
    let two = [&alone, &watched.sentinels[2]]
        .map(Redis::address)
        .join(", ");
    let torn = Supervised::up(patient(mode, &two)).await;
    torn.set("test:b", "0").await.expect("it is up");
    let has = |node: &Redis, n: &str| node.cli(&["GET", "test:b"]) == n;
    let is_old = has(old, "0");
    for n in 1..8 {
        // The sentinels are asked each second.
        pass(Duration::from_secs(1)).await;
        let n = n.to_string();
        wait_for("it takes commands", PATIENCE, async || {
            torn.set("test:b", &n).await.ok()
        })
        .await;
        assert_eq!((has(old, &n), has(new, &n)), (is_old, !is_old), "{n}");
    }
    watched.sentinels[0].resume();
}

fn yaml(section: &str) -> String {
    format!("redis: {section}\nroutes: [{{ match: {{ path: /* }}, respond: ok }}]\n")
}

async fn gateway_is_up(gateway: &Gateway, is_up: bool, within: Duration) {
    let condition = format!("edgeway_redis_up is {is_up}");
    wait_for(&condition, within, async || {
        (gateway.count("edgeway_redis_up").await == u64::from(is_up)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_starts_without_redis_and_logs_once_when_it_comes_and_goes() {
    let mut redis = Redis::start().await;
    redis.kill();
    let gateway = Gateway::start(&yaml(&redis.url())).await;
    assert_eq!(gateway.get("/").await.status(), 200);
    gateway_is_up(&gateway, false, PATIENCE).await;
    wait_for("the loss is reported", PATIENCE, async || {
        gateway.stderr().contains("redis lost").then_some(())
    })
    .await;
    let status = gateway.status().await;
    assert_eq!(status["redis"]["up"], false);
    assert_eq!(status["redis"]["address"], redis.address());
    assert!(
        status["redis"]["last_error"]
            .as_str()
            .unwrap()
            .contains("refused"),
        "{status}"
    );
    redis.restart().await;
    gateway_is_up(&gateway, true, BACK_WITHIN).await;
    assert_eq!(gateway.status().await["redis"]["up"], true);
    redis.kill();
    gateway_is_up(&gateway, false, PATIENCE).await;
    // Attempts that change nothing are not logged.
    wait_for("several attempts have failed", PATIENCE, async || {
        pass(Duration::from_millis(700)).await;
        Some(())
    })
    .await;
    let log = gateway.stderr();
    assert_eq!(log.matches("redis lost").count(), 2, "{log}");
    assert_eq!(log.matches("redis connected").count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_connections_outlive_reloads_that_leave_the_section_alone() {
    let redis = Redis::start().await;
    let gateway = Gateway::start(&yaml(&redis.url())).await;
    gateway_is_up(&gateway, true, BACK_WITHIN).await;
    let before = redis.clients();
    assert_eq!(before.len(), 2);
    for number in 0..5 {
        let text = yaml(&redis.url()).replace("respond: ok", &format!("respond: 'n{number}'"));
        assert!(gateway.reload(&text).await);
    }
    assert_eq!(redis.clients(), before);
    gateway_is_up(&gateway, true, BACK_WITHIN).await;
    // Another setting is another client; the first one ends with its configuration.
    let other = format!("{{ url: '{}', connections: 3 }}", redis.url());
    assert!(gateway.reload(&yaml(&other)).await);
    wait_for("three others are there", PATIENCE, async || {
        let now = redis.clients();
        (now.len() == 3 && before.iter().all(|id| !now.contains(id))).then_some(())
    })
    .await;
    gateway_is_up(&gateway, true, BACK_WITHIN).await;
    // Without the section there are no such metrics.
    assert!(gateway.reload(&yaml("")).await);
    wait_for("the connections are closed", PATIENCE, async || {
        redis.clients().is_empty().then_some(())
    })
    .await;
    let metrics = gateway.admin_get("/metrics").await.text();
    assert!(!metrics.contains("edgeway_redis_"), "{metrics}");
    assert!(gateway.status().await["redis"].is_null());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_with_a_password_comes_in_over_tls_and_the_password_shows_nowhere() {
    const PASSWORD: &str = "correct-horse-battery";
    let ca = Ca::new();
    let folder = tempfile::tempdir().unwrap();
    ca.site(&["127.0.0.1"]).write(folder.path(), "redis");
    ca.issue(&Wanted::client(&[(DnType::CommonName, "edgeway")]))
        .write(folder.path(), "client");
    fs::write(folder.path().join("ca.pem"), ca.pem()).unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let port = crate::support::ports::free_port();
    let password = format!(">{PASSWORD}");
    let (ca_file, cert, key) = (at("ca.pem"), at("redis.pem"), at("redis.key"));
    let (own, own_key) = (at("client.pem"), at("client.key"));
    let arguments = [
        "--tls-port",
        &port.to_string(),
        "--port",
        "0",
        "--tls-ca-cert-file",
        &ca_file,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--user",
        "edgeway",
        "on",
        &password,
        "~edgeway:*",
        "resetchannels",
        "+@connection",
        "+eval",
        "+evalsha",
        "+ping",
        "+exists",
        "+get",
        "+set",
        "+del",
        "+time",
        "+cluster|slots",
    ];
    let credentials = [
        "--tls", "--cacert", &ca_file, "--cert", &own, "--key", &own_key,
    ];
    let redis = Redis::start_at(port, &arguments, &credentials).await;
    let section = |password: &str, tls: &str| {
        format!(
            "{{ url: 'rediss://edgeway:{password}@127.0.0.1:{}', tls: {{ ca: '{ca_file}'{tls} }} }}",
            redis.port()
        )
    };
    let certificate = format!(", cert: '{own}', key: '{own_key}'");
    let gateway = Gateway::start(&yaml(&section(PASSWORD, &certificate))).await;
    gateway_is_up(&gateway, true, BACK_WITHIN).await;
    assert!(redis.cli(&["CLIENT", "LIST"]).contains("user=edgeway"));
    // Wrong in one way after the other: reported, without the password.
    for (text, why) in [
        (section("wrong-horse-battery", &certificate), "WRONGPASS"),
        (section(PASSWORD, ""), ""),
        (
            section(PASSWORD, &certificate).replace("127.0.0.1", "localhost"),
            "certificate",
        ),
    ] {
        assert!(gateway.reload(&yaml(&text)).await);
        let reason = wait_for("the reason is reported", PATIENCE, async || {
            let status = gateway.status().await;
            status["redis"]["last_error"].as_str().map(str::to_owned)
        })
        .await;
        assert!(reason.contains(why), "{why}: {reason}");
        assert_eq!(gateway.count("edgeway_redis_up").await, 0);
        assert_eq!(gateway.send(&get("/")).await.status(), 200);
    }
    let shown = [
        gateway.stderr(),
        gateway.status().await.to_string(),
        gateway.admin_get("/metrics").await.text(),
    ];
    for text in shown {
        assert!(!text.contains("horse"), "{text}");
    }
}

#[test]
fn a_secret_of_the_settings_is_not_printed() {
    let mut settings = settings(Mode::Single, "a:1");
    settings.identity.password = Some(Secret::new("hunter2"));
    let client = Client::new(settings, Clock::test(), &Metrics::default(), None);
    assert!(!format!("{client:?} {:?}", client.status()).contains("hunter2"));
}
