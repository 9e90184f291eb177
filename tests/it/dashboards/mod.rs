//! The dashboard, the alerts and the metrics under them, in a real Prometheus: every query yields
//! data, every alert fires, and no metric is one that Prometheus' own linter objects to.

mod site;

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::Ordering,
    time::Duration,
};

use regex::{Captures, Regex};
use rustix::process::Signal;
use serde_json::{Value, json};

use self::site::{Site, Visitors};
use crate::support::{
    certificates::Wanted,
    client::{self, get, post},
    origins::FixedOrigin,
    prometheus::{Alertmanager, Prometheus},
    wait::{pass, until, wait_for},
};

const SOON: Duration = Duration::from_secs(40);

/// Alerts whose faults need more than some seconds, or a machine of their own: the tests of the
/// rules cover them.
const NOT_DRILLED: [&str; 8] = [
    "AppMemoryHigh",
    "CertificateNotIssued",
    "ConnectionsRefused",
    "EventLoopLags",
    "FilesNearlyExhausted",
    "LogLinesLost",
    "MemoryHigh",
    "TracesLost",
];

/// Alerts whose faults may be there at the same time.
const AT_ONCE: [&str; 13] = [
    "NoHealthyBackend",
    "EdgewayNotReady",
    "BackendOut",
    "HealthDegraded",
    "CertificateExpires",
    "CertificateAboutToExpire",
    "ErrorBudgetBurnsFast",
    "ErrorBudgetBurnsSlowly",
    "ErrorRatioHigh",
    "ResponsesSlow",
    "PluginFails",
    "CacheHitRatioLow",
    "QueueOverflows",
];

/// Alerts that a busy machine may cause.
const BY_LOAD: [&str; 5] = [
    "EdgewayDown",
    "EventLoopLags",
    "PurgesDoNotArrive",
    "RedisLost",
    "ResponsesSlow",
];

fn dashboards() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards")
}

fn text(name: &str) -> String {
    fs::read_to_string(dashboards().join(name)).expect("the file is there")
}

/// Returns the expressions of the dashboard, each with the title of its panel.
fn queries() -> Vec<(String, String)> {
    let board: Value = serde_json::from_str(&text("edgeway.json")).expect("it is JSON");
    let panels = board["panels"].as_array().expect("a list").iter();
    let queries = panels.flat_map(|panel| {
        let title = panel["title"].as_str().expect("a title").to_owned();
        let targets = panel["targets"].as_array().into_iter().flatten();
        let expressions =
            targets.map(|target| target["expr"].as_str().expect("a query").to_owned());
        expressions
            .map(move |expression| (title.clone(), expression))
            .collect::<Vec<_>>()
    });
    queries.collect()
}

/// Fills in the variables as Grafana does with everything selected.
fn selected(expression: &str) -> String {
    let names = Regex::new(r"\$(instance|route|upstream)\b").expect("it is valid");
    let filled = names.replace_all(expression, ".*");
    filled.replace("$__rate_interval", "8s")
}

/// Makes the alerts fire within seconds: ranges and offsets of 8 s, and no `for`. The thresholds
/// and everything else stay.
fn hurried(rules: &str) -> String {
    let ranges = Regex::new(r"\[\d+[smhd]\]").expect("it is valid");
    let offsets = Regex::new(r"offset \d+[smhd]").expect("it is valid");
    let waits = Regex::new(r"(?m)^ *for: .*\n").expect("it is valid");
    let short = ranges.replace_all(rules, "[8s]");
    let short = offsets.replace_all(&short, "offset 8s");
    waits.replace_all(&short, "").into_owned()
}

fn alerts() -> BTreeSet<String> {
    let names = Regex::new(r"(?m)^ *- alert: (\w+)$").expect("it is valid");
    let rules = text("alerts.yaml");
    let found = names.captures_iter(&rules);
    found.map(|name: Captures<'_>| name[1].to_owned()).collect()
}

fn promtool(arguments: &[&str], input: &str) -> (bool, String) {
    let mut child = Command::new("promtool")
        .args(arguments)
        .current_dir(dashboards())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool runs; run `make setup-tests`");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin
        .write_all(input.as_bytes())
        .expect("it reads its input");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

#[test]
fn each_alert_fires_on_its_input_and_not_on_another() {
    let (passed, output) = promtool(&["test", "rules", "alerts_test.yaml"], "");
    assert!(passed, "{output}");
    // Each alert twice: once it fires, once it does not.
    let tests = text("alerts_test.yaml");
    for alert in alerts() {
        for name in [
            format!("{alert} fires\n"),
            format!("{alert} does not fire\n"),
        ] {
            assert!(tests.contains(&name), "{name}");
        }
    }
}

#[test]
fn the_sample_for_alertmanager_is_valid() {
    let output = Command::new("amtool")
        .args(["check-config", "alertmanager.yaml"])
        .current_dir(dashboards())
        .output()
        .expect("amtool runs; run `make setup-tests`");
    assert!(output.status.success(), "{output:?}");
    // Alerts that it names exist.
    let names = Regex::new(r#"alertname[!=~]+"([\w|]+)""#).expect("it is valid");
    let sample = text("alertmanager.yaml");
    for found in names.captures_iter(&sample) {
        for name in found[1].split('|') {
            assert!(alerts().contains(name), "{name}");
        }
    }
}

/// Invariant: an alert is held back only while another one is sent that it follows from, of the
/// same gateway, and of the same upstream or certificate.
#[tokio::test]
async fn only_an_alert_that_follows_from_another_one_is_held_back() {
    let manager = Alertmanager::start(&text("alertmanager.yaml")).await;
    let upstream = "upstream";
    let sent = [
        // Gateway `a`: no backend of `web` is left.
        ("NoHealthyBackend", "a", upstream, "web", false),
        ("BackendOut", "a", upstream, "web", true),
        // Another upstream with a backend out, and whatever else the gateway reports, are news.
        ("BackendOut", "a", upstream, "api", false),
        ("EdgewayNotReady", "a", "", "", false),
        ("CertificateAboutToExpire", "a", "name", "one", false),
        ("CertificateExpires", "a", "name", "one", true),
        ("CertificateExpires", "a", "name", "other", false),
        ("BackendOut", "b", upstream, "web", false),
        ("EdgewayDown", "c", "", "", false),
        ("BackendOut", "c", upstream, "web", true),
    ];
    let labels = |(name, instance, key, value, _): &(&str, &str, &str, &str, bool)| {
        let mut labels = json!({ "alertname": name, "instance": instance, "job": "edgeway" });
        if !key.is_empty() {
            labels[*key] = json!(value);
        }
        labels
    };
    let alerts: Vec<Value> = sent
        .iter()
        .map(|alert| json!({ "labels": labels(alert) }))
        .collect();
    let question = post("/api/v2/alerts", json!(alerts).to_string())
        .header("content-type", "application/json");
    let taken = client::send(manager.address(), &question).await;
    assert_eq!(taken.expect("it responds").status(), 200);
    let expected = |alert: &Value| {
        let is_it = |wanted: &&(&str, &str, &str, &str, bool)| labels(wanted) == alert["labels"];
        sent.iter().find(is_it).expect("it was sent").4
    };
    let mut last = Vec::new();
    let mut look = async || {
        let listed = client::send(manager.address(), &get("/api/v2/alerts"))
            .await
            .ok()?;
        let listed = listed.json();
        last = listed.as_array()?.clone();
        let is_held = |alert: &Value| alert["status"]["inhibitedBy"] != json!([]);
        let is_right = last.iter().all(|alert| is_held(alert) == expected(alert));
        (last.len() == sent.len() && is_right).then_some(())
    };
    let found = until(SOON, &mut look).await;
    assert!(found.is_some(), "{last:#?}");
}

/// A metric that was renamed leaves a panel empty, and nobody sees an alert that cannot fire.
#[test]
fn each_metric_of_dashboard_and_alerts_exists() {
    let page = fs::read_to_string(dashboards().join("../docs/metrics.md")).expect("it is there");
    let names = Regex::new(r"\b(?:edgeway|process)_\w+").expect("it is valid");
    let all = [
        text("edgeway.json"),
        text("alerts.yaml"),
        text("alerts_test.yaml"),
    ]
    .join("\n");
    for found in names.find_iter(&all) {
        let name = found.as_str();
        let histogram = ["_bucket", "_count", "_sum"]
            .iter()
            .find_map(|end| name.strip_suffix(end));
        let row = |name: &str| page.contains(&format!("| `{name}` |"));
        assert!(row(name) || histogram.is_some_and(row), "{name}");
    }
}

/// A label that a metric does not have makes one series of all.
#[test]
fn queries_group_by_labels_that_exist() {
    let page = fs::read_to_string(dashboards().join("../docs/metrics.md")).expect("it is there");
    let series = Regex::new(r"edgeway_\w+").expect("it is valid");
    let by = Regex::new(r"by \(([^)]*)\)").expect("it is valid");
    for (title, expression) in queries() {
        let Some(named) = series.find(&expression) else {
            continue;
        };
        let family = named.as_str().trim_end_matches("_bucket");
        let row = page
            .lines()
            .find(|line| line.starts_with(&format!("| `{family}` |")));
        let labels = row
            .expect(family)
            .split(" | ")
            .nth(2)
            .expect("a row has labels");
        for list in by.captures_iter(&expression) {
            let of_metric = |label: &&str| !["le", "instance"].contains(label);
            for label in list[1].split(", ").filter(of_metric) {
                assert!(
                    labels.contains(&format!("`{label}`")),
                    "{title}: {expression}"
                );
            }
        }
    }
}

/// Returns the alerts that have fired so far.
async fn fired(prometheus: &Prometheus) -> BTreeSet<String> {
    let ever = "count by (alertname) (last_over_time(ALERTS{alertstate=\"firing\"}[10m]))";
    let series = prometheus.query(ever).await;
    let names = series
        .iter()
        .filter_map(|one| one["metric"]["alertname"].as_str());
    names.map(str::to_owned).collect()
}

async fn all_fire(prometheus: &Prometheus, alerts: &[&str]) {
    for alert in alerts {
        wait_for(&format!("{alert} fires"), SOON, async || {
            fired(prometheus).await.contains(*alert).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn every_query_yields_data_and_every_fault_raises_its_alert() {
    let mut site = Site::start().await;
    let webhook = FixedOrigin::start(200, &[], "").await;
    let waits = Regex::new(r"group_wait: \w+").expect("it is valid");
    let sample = text("alertmanager.yaml");
    let sample = waits.replace_all(&sample, "group_wait: 0s");
    let url = format!("http://{}/alerts", webhook.address());
    let manager = Alertmanager::start(&sample.replace("http://127.0.0.1:9099/alerts", &url)).await;
    let alerting = format!(
        "alerting: {{ alertmanagers: [{{ static_configs: [{{ targets: ['{}'] }}] }}] }}\n",
        manager.address()
    );
    let config = site.scraped(&alerting);
    let rules = hurried(&text("alerts.yaml"));
    let prometheus = Prometheus::start(&config, &[("alerts.yaml", &rules)]).await;
    let visitors = Visitors::of(&site);

    // The control: a site without a fault raises no alert.
    wait_for("there are rates", SOON, async || {
        let hits = prometheus
            .query("rate(edgeway_cache_requests_total{result='hit'}[8s]) > 5")
            .await;
        (!hits.is_empty()).then_some(())
    })
    .await;
    pass(Duration::from_secs(5)).await;
    let early = fired(&prometheus).await;
    let early: Vec<_> = early
        .iter()
        .filter(|name| !BY_LOAD.contains(&name.as_str()))
        .collect();
    assert!(early.is_empty(), "{early:?}");
    let calls = webhook.counts().requests();

    // Everything at once breaks that may break at the same time.
    visitors.meet_faults.store(true, Ordering::Relaxed);
    site.required.stop();
    site.sick
        .settings()
        .set(200, &[], r#"{"status":"degraded"}"#);
    let folder = site.gateway.folder().to_owned();
    let about_to_expire = Wanted::site(&["site.test"]).days(-2, 2);
    site.ca.issue(&about_to_expire).write(&folder, "site");
    assert!(site.gateway.reload(&site.yaml).await);
    // On a busy machine the link to Redis may be lost for a moment.
    wait_for("all is purged", SOON, async || {
        let (status, _) = site.gateway.purge(&json!({ "all": true })).await;
        (status == 200).then_some(())
    })
    .await;
    all_fire(&prometheus, &AT_ONCE).await;
    wait_for("the webhook is called", SOON, async || {
        (webhook.counts().requests() > calls).then_some(())
    })
    .await;

    // A configuration that is refused, by a reload and by an upgrade.
    fs::write(folder.join("site.key"), "no key").unwrap();
    assert!(
        !site
            .gateway
            .reload("routes: [{ match: { path: no } }]")
            .await
    );
    site.gateway.signal(Signal::USR2);
    all_fire(
        &prometheus,
        &[
            "ConfigurationRefused",
            "UpgradeFailed",
            "CertificateNotLoaded",
        ],
    )
    .await;

    // An older process that does not end: a request is in flight there for ten minutes.
    site.ca.issue(&about_to_expire).write(&folder, "site");
    site.gateway.configure(&site.yaml);
    let mut waiting = site.gateway.connect().await;
    waiting
        .write("GET /stuck HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    site.gateway.upgrade().await;
    all_fire(&prometheus, &["UpgradeStuck"]).await;

    yields_data(&prometheus, &mut site).await;
    all_fire(&prometheus, &["RedisLost", "PurgesDoNotArrive"]).await;

    // What is left: the gateway itself.
    waiting.leave("the gateway is killed");
    drop(site.app);
    drop(site.gateway);
    all_fire(&prometheus, &["EdgewayDown"]).await;
    let missing: Vec<String> = alerts()
        .difference(&fired(&prometheus).await)
        .cloned()
        .collect();
    let missing: Vec<&str> = missing.iter().map(String::as_str).collect();
    let unexpected: Vec<_> = missing
        .iter()
        .filter(|name| !NOT_DRILLED.contains(*name))
        .collect();
    assert!(unexpected.is_empty(), "{unexpected:?}");
}

/// Waits until each query of the dashboard has yielded data. Redis ends on the way: its errors are
/// on the dashboard too.
async fn yields_data(prometheus: &Prometheus, site: &mut Site) {
    let mut left = queries();
    let count = left.len();
    let mut is_redis_gone = false;
    for _ in 0..60 {
        let mut empty = Vec::new();
        for (title, expression) in left {
            if prometheus.query(&selected(&expression)).await.is_empty() {
                empty.push((title, expression));
            }
        }
        left = empty;
        if left.len() < count / 10 && !is_redis_gone {
            site.redis.kill();
            is_redis_gone = true;
        }
        if left.is_empty() {
            break;
        }
        pass(Duration::from_millis(500)).await;
    }
    assert!(left.is_empty(), "no data: {left:#?}");
}

#[tokio::test]
async fn metrics_are_as_prometheus_wants_them_and_exemplars_arrive() {
    let site = Site::start().await;
    let prometheus = Prometheus::start(&site.scraped(""), &[("alerts.yaml", "")]).await;
    let _visitors = Visitors::of(&site);
    let of_routes = "edgeway_http_request_duration_seconds_bucket";
    wait_for("Prometheus has exemplars", SOON, async || {
        let target = format!("/api/v1/query_exemplars?query={of_routes}&start=0&end=9999999999");
        let data = prometheus.api(&target).await;
        let first = data.as_array()?.first()?["exemplars"]
            .as_array()?
            .first()?
            .clone();
        assert_eq!(first["labels"]["trace_id"].as_str().unwrap().len(), 32);
        Some(())
    })
    .await;
    // Prometheus asks for OpenMetrics, and understands all of it.
    // The exemplars of a scrape are visible a moment before its samples.
    let up = wait_for("Prometheus has samples", SOON, async || {
        let up = prometheus.query("up").await;
        (!up.is_empty()).then_some(up)
    })
    .await;
    assert_eq!(up[0]["value"][1], "1", "{up:?}");
    let limits = prometheus
        .query("edgeway_http_request_duration_seconds_bucket{le='1.0'}")
        .await;
    assert!(!limits.is_empty());
    let old = site.gateway.admin_get("/metrics").await.text();
    let (passed, output) = promtool(&["check", "metrics"], &old);
    assert!(passed && output.is_empty(), "{output}");
    for family in [
        "process_cpu_seconds_total ",
        "process_resident_memory_bytes ",
        "process_open_fds ",
        "process_start_time_seconds ",
    ] {
        assert!(old.contains(&format!("\n{family}")), "{family}");
    }
}
