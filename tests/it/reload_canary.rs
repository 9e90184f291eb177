//! `edgeway reload --canary`: a share of the clients gets a configuration first. One that makes a
//! route slower or fail goes back by itself.
//!
//! Invariant: during a trial no client outside of the share gets the new configuration, and each
//! keeps its own; after the end serves the configuration whose routes did not get worse, and no
//! request fails because of the change back.

use std::{fs, net::SocketAddr, time::Duration};

use crate::support::{
    client::{self, Request, get, post_json},
    fleet::{begin as begin_command, edgeway},
    gateway::Gateway,
    load::{Endless, endless_paced},
    origins::SlowOrigin,
    ports::free_port,
    seed,
    wait::{pass, wait_for},
};

/// Time of traffic before the change.
const BEFORE: Duration = Duration::from_secs(1);
/// Number of clients of a load.
const CLIENTS: u64 = 200;

fn served_by(origin: SocketAddr) -> String {
    format!(
        "
upstreams:
  web: {{ backends: [\"{origin}\"] }}
routes:
  - match: {{ path: /* }}
    upstream: web
"
    )
}

/// Request of one of many clients.
fn from(path: &str, client: u64) -> Request {
    get(path).header("user-agent", format!("client {client}"))
}

/// Starts the traffic of many clients.
fn visit(gateway: &Gateway, path: &'static str) -> Endless {
    endless_paced(gateway.address(), 50, move |turn| {
        from(path, turn % CLIENTS)
    })
}

/// Starts a gateway and its traffic.
async fn begin(origin: SocketAddr) -> (Gateway, Endless) {
    let gateway = Gateway::start(&served_by(origin)).await;
    let load = visit(&gateway, "/");
    pass(BEFORE).await;
    (gateway, load)
}

async fn is_on_trial(gateway: &Gateway) {
    wait_for("it is on trial", Duration::from_secs(20), async || {
        let trial = gateway.status().await["config"]["canary"].take();
        trial.is_object().then_some(())
    })
    .await;
}

/// Returns the texts that `run --last-good` would start with.
fn last_good(gateway: &Gateway) -> String {
    let pattern = gateway.folder().join("state/edgeway/*/last-good/*.json");
    let stored = glob::glob(pattern.to_str().expect("UTF-8")).expect("a pattern");
    let texts = stored.map(|path| fs::read_to_string(path.expect("the folder can be read")));
    texts.map(|text| text.expect("a text")).collect()
}

/// Two gateways with the same configuration on trial.
#[tokio::test]
async fn a_share_of_the_clients_gets_the_configuration_on_trial() {
    let mut random = fastrand::Rng::with_seed(seed::drawn());
    let origin = SlowOrigin::start(Duration::ZERO).await;
    // The clients are chosen by the text of the files.
    let proxied = "access_log: { file: access.log, format: json }\n\
         trusted_proxies: [127.0.0.1]\n";
    let yaml = proxied.to_owned() + &served_by(origin.address());
    let gateways = [Gateway::start(&yaml).await, Gateway::start(&yaml).await];
    for round in 0..seed::cases(2, 20) {
        let percent = random.u32(5..=60);
        let share = format!("{percent}%");
        let new = format!("    headers: {{ response: {{ set: {{ x-new: \"{round}\" }} }} }}\n");
        let mut commands = Vec::new();
        for gateway in &gateways {
            gateway.configure(&(yaml.clone() + &new));
            let reload = ["reload", "--canary", "10min", "--share", &share];
            commands.push(begin_command(gateway, &reload));
            wait_for("it is on trial", Duration::from_secs(20), async || {
                let trial = gateway.status().await["config"]["canary"].take();
                (trial["share"] == f64::from(percent)).then_some(())
            })
            .await;
        }
        let mut count = 0;
        for number in 0..300 {
            let address = match number % 3 {
                0 => format!("2001:db8:{:x}::1", random.u16(..)),
                _ => format!("{}.{}.7.1", random.u8(1..223), random.u8(..)),
            };
            let request = get("/")
                .header("x-forwarded-for", address)
                .header("user-agent", format!("agent {}", number % 5));
            let mut is_new = Vec::new();
            for gateway in [&gateways[0], &gateways[1], &gateways[0]] {
                let response = gateway.send(&request).await;
                is_new.push(response.header("x-new") == Some(&*round.to_string()));
            }
            assert!(
                is_new[0] == is_new[1] && is_new[1] == is_new[2],
                "{is_new:?}"
            );
            count += u32::from(is_new[0]);
        }
        // Five times the standard deviation.
        let expected = 3 * percent;
        assert!(count.abs_diff(expected) < 43, "{count} of 300, {share}");
        // The next reload ends the trial: all clients get what it brings.
        for gateway in &gateways {
            assert!(gateway.reload(&yaml).await);
            for client in 0..20 {
                let response = gateway.send(&from("/", client)).await;
                assert_eq!(response.header("x-new"), None);
            }
        }
    }
}

/// A trial must not lift the limits of the clients that are not part of it.
#[tokio::test]
async fn buckets_of_other_clients_are_as_full_as_before_a_trial() {
    let yaml = |rate: &str| {
        format!(
            "admin: {{ address: 127.0.0.1:0, socket: admin.sock }}
trusted_proxies: [127.0.0.1]
rate_limits: {{ few: {rate} }}
routes: [{{ match: {{ path: /* }}, respond: ok, rate_limit: few }}]
"
        )
    };
    let gateway = Gateway::start(&yaml("1/h")).await;
    let statuses = async || {
        let mut statuses = Vec::new();
        for client in 1..=20 {
            let request = get("/").header("x-forwarded-for", format!("192.0.2.{client}"));
            statuses.push(gateway.send(&request).await.status());
        }
        statuses
    };
    assert_eq!(statuses().await, [200; 20]);
    gateway.configure(&yaml("1/s"));
    let reload = ["reload", "--canary", "10min", "--share", "1%"];
    let _command = begin_command(&gateway, &reload);
    is_on_trial(&gateway).await;
    pass(Duration::from_millis(1500)).await;
    assert_eq!(statuses().await, [429; 20]);
    // The control: without a trial the new rate holds for all.
    assert!(gateway.reload(&yaml("1/s")).await);
    pass(Duration::from_millis(1500)).await;
    assert_eq!(statuses().await, [200; 20]);
}

#[tokio::test]
async fn a_configuration_that_doubles_latency_goes_back_by_itself() {
    let fast = SlowOrigin::start(Duration::from_millis(40)).await;
    let slow = SlowOrigin::start(Duration::from_millis(90)).await;
    let (gateway, load) = begin(fast.address()).await;
    gateway.configure(&served_by(slow.address()));
    let ran = edgeway(&gateway, &["reload", "--canary", "5min", "--share", "50%"]).await;
    let tally = load.stop().await;
    assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    assert!(
        ran.stderr
            .contains("configuration 2 was taken back, the previous one serves again"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains("route `/*` is slower"),
        "{}",
        ran.stderr
    );
    assert_eq!(tally.errors(), 0, "{:?}", tally.failed);
    let port = gateway.get("/").await.json()["port"].as_u64();
    assert_eq!(port, Some(u64::from(fast.address().port())));

    // The file is not the one that serves, which is said as of any refused one.
    assert_eq!(gateway.count("edgeway_config_last_reload_success").await, 0);
    let verdicts = r#"edgeway_config_canary_verdicts_total{verdict="taken_back"}"#;
    assert_eq!(gateway.count(verdicts).await, 1);
    let status = edgeway(&gateway, &["status"]).await.stdout;
    assert!(
        status.contains("configuration 2 was taken back"),
        "{status}"
    );
    // And it is not loaded again by itself, but on demand.
    let again = edgeway(&gateway, &["reload"]).await;
    assert_eq!(again.status, Some(0), "{}", again.stderr);
    let port = gateway.get("/").await.json()["port"].as_u64();
    assert_eq!(port, Some(u64::from(slow.address().port())));
}

#[tokio::test]
async fn a_configuration_whose_requests_fail_goes_back_by_itself() {
    let origin = SlowOrigin::start(Duration::from_millis(5)).await;
    let (gateway, load) = begin(origin.address()).await;
    gateway.configure("routes: [{ match: { path: /* }, respond: 503 }]\n");
    let ran = edgeway(&gateway, &["reload", "--canary", "5min", "--json"]).await;
    let tally = load.stop().await;
    // It took five failures and more to be certain, and nine of ten clients saw none.
    assert!(
        tally.errors() >= 5 && tally.errors() * 3 < tally.total(),
        "{:?}",
        tally.statuses
    );
    assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    let reloaded: serde_json::Value = serde_json::from_str(&ran.stdout).expect("it prints JSON");
    assert_eq!(reloaded["verdict"]["outcome"], "taken_back", "{reloaded}");
    let text = reloaded["verdict"]["text"].as_str().expect("a text");
    let share = text.split_once("route `/*` has more errors: ");
    let share = share.and_then(|(_, rest)| rest.split_once(" % of")?.0.parse::<f64>().ok());
    // A request that was in flight when the configuration changed did not fail.
    assert!(share.is_some_and(|share| share > 90.0), "{text}");
    assert_eq!(gateway.get("/").await.status(), 200);
}

/// Files that it names are gone or have other contents by then, and nobody else has its listener's
/// name and its limit.
#[tokio::test]
async fn the_configuration_that_comes_back_is_as_it_was() {
    let (port, other) = (free_port(), free_port());
    let yaml = |listeners: &str, rest: &str| {
        format!(
            "listeners: [{{ address: \"127.0.0.1:{port}\", name: {listeners} }}]
trusted_proxies: [127.0.0.1]
{rest}"
        )
    };
    let before = yaml(
        &format!("front }}, {{ address: \"127.0.0.1:{other}\", name: other"),
        "rate_limits: { few: 1/h }
routes:
  - { match: { path: /* }, respond: ok }
  - { match: { path: /page, listener: front }, respond: { file: page.txt } }
  - { match: { path: /other }, respond: { file: other.txt } }
  - { match: { path: /few }, respond: ok, rate_limit: few }
",
    );
    let gateway = Gateway::start_in(&before, |folder| {
        fs::write(folder.join("page.txt"), "a page").expect("the folder takes files");
        fs::write(folder.join("other.txt"), "first").expect("the folder takes files");
    })
    .await;
    let few = async || {
        let request = get("/few").header("x-forwarded-for", "192.0.2.1");
        gateway.send(&request).await.status()
    };
    assert_eq!(few().await, 200);
    let load = visit(&gateway, "/");
    pass(BEFORE).await;
    fs::remove_file(gateway.folder().join("page.txt")).unwrap();
    fs::write(gateway.folder().join("other.txt"), "second").unwrap();
    gateway.configure(&yaml(
        "door",
        "routes: [{ match: { path: /* }, respond: 503 }]\n",
    ));
    let command = begin_command(&gateway, &["reload", "--canary", "5min"]);
    is_on_trial(&gateway).await;
    // A listener that the configuration on trial lacks serves on.
    let other = SocketAddr::from(([127, 0, 0, 1], other));
    client::send(other, &get("/")).await.expect("a response");
    let mut pages = 0;
    for client in 0..20 {
        let page = gateway.send(&from("/page", client)).await;
        match page.status() {
            200 => assert_eq!(page.text(), "a page"),
            status => assert_eq!(status, 503),
        }
        pages += u32::from(page.status() == 200);
    }
    assert!(pages > 0, "nobody has the previous configuration");
    let ran = command.end().await;
    load.stop().await;
    assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("was taken back"), "{}", ran.stderr);
    assert_eq!(gateway.get("/page").await.text(), "a page");
    assert_eq!(gateway.get("/other").await.text(), "first");
    assert_eq!(few().await, 429);
    assert_eq!(
        gateway.listeners().await.keys().collect::<Vec<_>>(),
        ["front", "other"]
    );
    // It goes on from there: the next reload reads the files.
    fs::write(gateway.folder().join("page.txt"), "a page").unwrap();
    assert!(gateway.reload(&before).await);
    assert_eq!(gateway.get("/other").await.text(), "second");
    assert_eq!(few().await, 429);
}

#[tokio::test]
async fn a_purge_during_a_trial_reaches_the_configuration_that_has_a_cache() {
    let origin = SlowOrigin::start(Duration::ZERO).await;
    let yaml = served_by(origin.address());
    let gateway = Gateway::start(&(yaml.clone() + "    cache: { ttl: 1h }\n")).await;
    let fetched = async || {
        assert_eq!(gateway.get("/").await.status(), 200);
        origin.counts().requests()
    };
    assert_eq!(fetched().await, 1);
    gateway.configure(&yaml);
    let reload = ["reload", "--canary", "10min", "--share", "0.01%"];
    let _command = begin_command(&gateway, &reload);
    is_on_trial(&gateway).await;
    assert_eq!(fetched().await, 1);
    let (status, receipt) = gateway.purge(&serde_json::json!({ "all": true })).await;
    assert_eq!(status, 200, "{receipt}");
    assert_eq!(fetched().await, 2);
    assert_eq!(fetched().await, 2);
    // Until its end there is no other trial.
    gateway.configure(&(yaml + "    body_limit: 1MiB\n"));
    let second = edgeway(&gateway, &reload).await;
    assert_eq!(second.status, Some(1), "{}", second.stderr);
    assert!(
        second.stderr.contains("another configuration is on trial"),
        "{}",
        second.stderr
    );
}

#[tokio::test]
async fn a_configuration_that_harms_nothing_stays() {
    let origin = SlowOrigin::start(Duration::from_millis(5)).await;
    let (gateway, load) = begin(origin.address()).await;
    let changed =
        served_by(origin.address()) + "    headers: { response: { set: { x-new: \"1\" } } }\n";
    wait_for("the first one is stored", BEFORE * 10, async || {
        (!last_good(&gateway).is_empty()).then_some(())
    })
    .await;
    gateway.configure(&changed);
    let command = begin_command(&gateway, &["reload", "--canary", "12s"]);
    is_on_trial(&gateway).await;
    pass(BEFORE).await;
    assert!(!last_good(&gateway).contains("x-new"), "it is on trial");
    let ran = command.end().await;
    load.stop().await;
    wait_for("it is stored", BEFORE * 10, async || {
        last_good(&gateway).contains("x-new").then_some(())
    })
    .await;
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("configuration 2 stays"),
        "{}",
        ran.stderr
    );
    assert_eq!(gateway.get("/").await.header("x-new"), Some("1"));

    let nothing = edgeway(&gateway, &["reload", "--canary", "12s"]).await;
    assert!(
        nothing.stderr.contains("nothing changed"),
        "{}",
        nothing.stderr
    );
    let short = edgeway(&gateway, &["reload", "--canary", "1s"]).await;
    assert_eq!(short.status, Some(2));
    assert!(
        short.stderr.contains("between 10s and 1h"),
        "{}",
        short.stderr
    );
}

/// A route that had no requests before has nothing to be compared with.
#[tokio::test]
async fn a_new_route_whose_requests_fail_goes_back_by_itself() {
    let origin = SlowOrigin::start(Duration::from_millis(5)).await;
    let yaml = served_by(origin.address());
    let gateway = Gateway::start(&yaml).await;
    let new = "  - { match: { path: /new }, name: new, respond: 503 }\n";
    gateway.configure(&(yaml + new));
    let load = visit(&gateway, "/new");
    let ran = edgeway(&gateway, &["reload", "--canary", "20s"]).await;
    load.stop().await;
    assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("route `new` has more errors"),
        "{}",
        ran.stderr
    );
}

#[tokio::test]
async fn a_trial_without_requests_says_so() {
    let origin = SlowOrigin::start(Duration::from_millis(5)).await;
    let yaml = served_by(origin.address());
    let gateway = Gateway::start(&yaml).await;
    let new = "  - { match: { path: /new }, name: new, respond: 503 }\n";
    gateway.configure(&(yaml + new));
    let ran = edgeway(&gateway, &["reload", "--canary", "10s"]).await;
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("without a verdict"), "{}", ran.stderr);
}

/// A single client has all the traffic, as a probe or a proxy in front has, outside of the share.
#[tokio::test]
async fn a_configuration_that_nobody_tried_is_not_kept() {
    let origin = SlowOrigin::start(Duration::from_millis(5)).await;
    let gateway = Gateway::start(&served_by(origin.address())).await;
    gateway.configure("routes: [{ match: { path: /* }, respond: 503 }]\n");
    let load = endless_paced(gateway.address(), 20, |_| from("/", 1));
    let reload = ["reload", "--canary", "10s", "--share", "0.01%"];
    let ran = edgeway(&gateway, &reload).await;
    let tally = load.stop().await;
    assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("came from its share of the clients"),
        "{}",
        ran.stderr
    );
    assert_eq!(tally.errors(), 0, "{:?}", tally.statuses);
    let order = serde_json::json!({ "share": "5%" });
    let alone = gateway.send_admin(&post_json("/v1/reload", &order)).await;
    assert_eq!(alone.status(), 422, "{}", alone.text());
}
