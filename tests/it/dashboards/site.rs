//! A site with everything that the dashboard shows, parts of it to be broken, and its visitors.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinSet;

use super::SOON;
use crate::support::{
    certificates::Ca,
    client::{self, Connection, get},
    gateway::Gateway,
    origins::{FixedOrigin, Origin, SlowOrigin},
    redis::{Redis, SECRET},
    wait::{pass, wait_for},
};

/// Faulty parts of a site, and the gateway in front.
pub(super) struct Site {
    pub(super) gateway: Gateway,
    pub(super) redis: Redis,
    pub(super) app: Origin<FixedOrigin>,
    pub(super) required: Origin<FixedOrigin>,
    pub(super) sick: Origin<FixedOrigin>,
    _origins: Vec<Origin<SlowOrigin>>,
    _broken: Origin<FixedOrigin>,
    pub(super) ca: Ca,
    pub(super) yaml: String,
}

impl Site {
    pub(super) async fn start() -> Self {
        let redis = Redis::start().await;
        let cached = [
            ("cache-control", "max-age=600"),
            ("server-timing", "db;dur=12.5"),
            ("x-edgeway-node", "1 100 1 4096 8192"),
        ];
        let app = FixedOrigin::start(200, &cached, &"x".repeat(2000)).await;
        let healthy = || FixedOrigin::start(200, &[], r#"{"status":"ok"}"#);
        let (required, sick) = (healthy().await, healthy().await);
        let broken = FixedOrigin::start(500, &[], "").await;
        let slow = SlowOrigin::start(Duration::from_millis(400)).await;
        let endless = SlowOrigin::start(Duration::from_mins(10)).await;
        let check = "path: /health, interval: 200ms, interval_down: 200ms, fall: 1, rise: 1";
        let yaml = format!(
            "
listeners:
  - {{ address: \"127.0.0.1:0\", name: web }}
  - {{ address: \"127.0.0.1:0\", name: tls, tls: {{ certificates: {{ cert: site.pem, key: site.key }} }} }}
redis: {{ url: '{redis}', secret: '{SECRET}', timeout: 1s }}
cache: {{ memory: 16MiB, disk: {{ folder: kept, size: 64MiB }}, shared: redis }}
rate_limits: {{ tight: {{ rate: 5/s, burst: 5, store: redis }} }}
drain: {{ deadline: 120s }}
upstreams:
  app:
    backends: [\"{app}\"]
    health: false
    restart_at: {{ rss: 1GiB }}
    metrics: {{ backends: true, server_timing: [db], sessions: {{ cookie: sid, window: 1m }} }}
  required: {{ backends: [\"{required}\"], required: true, health: {{ {check} }} }}
  sick: {{ backends: [\"{sick}\"], health: {{ {check}, json: true }} }}
  broken: {{ backends: [\"{broken}\"], health: false }}
  slow: {{ backends: [\"{slow}\"], health: false, max_in_flight: {{ per_backend: 30 }} }}
  stuck: {{ backends: [\"{endless}\"], health: false, timeouts: {{ first_byte: 100s }} }}
  endless: {{ backends: [\"{endless}\"], health: false, max_in_flight: {{ per_backend: 1, queue: 0 }}, timeouts: {{ first_byte: 100s }} }}
routes:
  - {{ name: page, match: {{ path: /* }}, upstream: app, cache: {{}} }}
  - {{ name: limited, match: {{ path: /limited }}, upstream: app, rate_limit: [tight] }}
  - {{ name: script, match: {{ path: /script }}, upstream: app, plugins: [{{ file: plugin.js, on_error: continue }}] }}
  - {{ name: broken, match: {{ path: /broken }}, upstream: broken }}
  - {{ name: slow, match: {{ path: /slow }}, upstream: slow }}
  - {{ name: endless, match: {{ path: /endless }}, upstream: endless }}
  - {{ name: stuck, match: {{ path: /stuck }}, upstream: stuck }}
  - {{ name: required, match: {{ path: /required }}, upstream: required }}
  - {{ name: sick, match: {{ path: /sick }}, upstream: sick }}
",
            redis = redis.url(),
            app = app.address(),
            required = required.address(),
            sick = sick.address(),
            broken = broken.address(),
            slow = slow.address(),
            endless = endless.address(),
        );
        let ca = Ca::new();
        let gateway = Gateway::start_in(&yaml, |folder| {
            ca.site(&["site.test"]).write(folder, "site");
            let plugin = "export function onRequest(request) { if (request.nextUrl.searchParams.has('fail')) throw new Error('asked to'); }";
            fs::write(folder.join("plugin.js"), plugin).expect("the folder takes files");
        })
        .await;
        for upstream in ["app", "required", "sick"] {
            wait_for("the upstream is ready", SOON, async || {
                let path = format!("/readyz/upstreams/{upstream}");
                (gateway.admin_get(&path).await.status() == 200).then_some(())
            })
            .await;
        }
        Self {
            gateway,
            redis,
            app,
            required,
            sick,
            _origins: vec![slow, endless],
            _broken: broken,
            ca,
            yaml,
        }
    }

    /// Returns the configuration of a Prometheus that scrapes this gateway.
    pub(super) fn scraped(&self, more: &str) -> String {
        format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 500ms }}\n\
             rule_files: [alerts.yaml]\n\
             scrape_configs:\n  - {{ job_name: edgeway, static_configs: [{{ targets: ['{}'] }}] }}\n{more}",
            self.gateway.admin(),
        )
    }
}

/// Visitors of a site, until they are dropped.
pub(super) struct Visitors {
    _tasks: JoinSet<()>,
    /// Set to visit what is broken as well.
    pub(super) meet_faults: Arc<AtomicBool>,
}

impl Visitors {
    pub(super) fn of(site: &Site) -> Self {
        let meet_faults = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        let (web, tls) = (
            site.gateway.address(),
            site.gateway.listener("tls").parse().expect("an address"),
        );
        let trust = Arc::new(site.ca.trust());
        let faults = Arc::clone(&meet_faults);
        tasks.spawn(async move {
            for turn in 0_u64.. {
                let mut targets = vec![
                    "/page".to_owned(),
                    "/limited".to_owned(),
                    "/script".to_owned(),
                ];
                if faults.load(Ordering::Relaxed) {
                    targets.extend(["/broken", "/script?fail=1"].map(str::to_owned));
                    targets.extend((0..4).map(|n| format!("/missed/{turn}/{n}")));
                } else {
                    targets.push(format!("/missed/{}", turn % 200));
                    targets.extend(["/page", "/page"].map(str::to_owned));
                }
                for target in targets {
                    let trace = format!("00-{:032x}-00f067aa0ba902b7-01", turn + 1);
                    let mut request = get(&target)
                        .header("host", "site.test")
                        .header("traceparent", trace);
                    if target == "/limited" {
                        // The cache has nothing for clients with unknown cookies.
                        request = request.header("cookie", format!("sid={}", turn % 7));
                    }
                    // While the gateway is replaced or gone, some get no response.
                    drop(client::send(web, &request).await);
                }
                pass(Duration::from_millis(30)).await;
            }
        });
        tasks.spawn(async move {
            loop {
                if let Ok(connection) = Connection::open_tls(tls, "site.test", &trust).await {
                    connection.leave("it has sent nothing");
                }
                pass(Duration::from_millis(300)).await;
            }
        });
        let faults = Arc::clone(&meet_faults);
        tasks.spawn(async move {
            loop {
                if faults.load(Ordering::Relaxed) {
                    let mut slow = JoinSet::new();
                    for _ in 0..10 {
                        slow.spawn(async move { drop(client::send(web, &get("/slow")).await) });
                    }
                    slow.join_all().await;
                    // One of these has the only place, and the other one finds none.
                    let mut leaving = Vec::new();
                    for path in ["/slow", "/endless", "/endless"] {
                        if let Ok(mut connection) = Connection::open(web).await {
                            let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
                            drop(connection.write(request).await);
                            leaving.push(connection);
                        }
                    }
                    pass(Duration::from_millis(100)).await;
                    for connection in leaving {
                        connection.leave("it does not wait for the response");
                    }
                } else {
                    pass(Duration::from_millis(50)).await;
                }
            }
        });
        Self {
            _tasks: tasks,
            meet_faults,
        }
    }
}
