//! Faults beside traffic, each on a route and upstream of its own. Invariant: within ten seconds of a
//! fault, the status, `edgeway top`, the status page, the log and the metrics each name it, on the
//! route or backend where it happened, and the line ends with what to look at. Before it, and on the
//! routes beside it, none of them names anything.
#![allow(
    clippy::print_stderr,
    reason = "the table of seconds and words is what the test shows"
)]

use std::{collections::BTreeMap, fmt::Write as _, fs, os::unix::fs::symlink, time::Duration};

use fastrand::Rng;
use rustix::process::Signal;
use serde_json::Value;
use tokio::{net::TcpStream, process::Child, task::spawn_blocking, time::Instant};

use crate::{
    cli::edgeway,
    support::{
        client::get,
        gateway::Gateway,
        load::{self, Endless},
        origins::{Failure, FlappingOrigin, Origin},
        ports::free_port,
        redis::Redis,
        seed,
        wait::{pass, wait_for},
    },
};

/// Requests per second of each route, and those of each before the faults.
const RATE: u32 = 15;
const BEFORE: u64 = 90;
/// Time in which each tool names each fault, and what it may take more beside other tests.
const BOUND: Duration = Duration::from_secs(10);
const BUSY: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_secs(40);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// A backend that ended, and is never ejected.
    Dead,
    /// A backend that ended, and is ejected.
    Ejected,
    /// A backend that accepts requests and says nothing.
    Hang,
    /// A backend that is slower than the other.
    SlowOne,
    /// All backends, since something behind them is slow.
    SlowAll,
    /// Errors of the app.
    Errors,
    /// Errors of the app whose pages another route has.
    Page,
    /// Connections that are broken, of a backend that is never ejected.
    Resets,
    /// The disk of the access log is full.
    Log,
    Plugin,
    Redis,
    /// An app without a report of its memory, above its limit.
    Leak,
    /// A file with a mistake.
    Reload,
}

const ALL: [Fault; 13] = [
    Fault::Dead,
    Fault::Ejected,
    Fault::Hang,
    Fault::SlowOne,
    Fault::SlowAll,
    Fault::Errors,
    Fault::Page,
    Fault::Resets,
    Fault::Log,
    Fault::Plugin,
    Fault::Redis,
    Fault::Leak,
    Fault::Reload,
];

/// Words of the line that names a fault: its kind and subject in the metric, and its cause.
struct Expected {
    kind: &'static str,
    subject: String,
    says: &'static str,
}

/// Gateway with a route for each fault, and what is behind it.
struct Site {
    gateway: Gateway,
    backends: BTreeMap<&'static str, [Origin<FlappingOrigin>; 2]>,
    redis: Redis,
    leaking: (u16, Child),
    yaml: String,
}

impl Fault {
    /// Name of its route and of its upstream.
    fn name(self) -> &'static str {
        match self {
            Self::Dead => "dead",
            Self::Ejected => "ejected",
            Self::Hang => "hang",
            Self::SlowOne => "slow-one",
            Self::SlowAll => "slow-all",
            Self::Errors => "errors",
            Self::Page => "page",
            Self::Resets => "resets",
            Self::Plugin => "plugin",
            Self::Leak => "leak",
            Self::Log | Self::Redis | Self::Reload => "calm",
        }
    }

    /// Keys of its route and of its upstream.
    fn keys(self) -> (&'static str, &'static str) {
        match self {
            Self::Dead | Self::Resets => ("", ", eject: { errors: 0 }"),
            Self::Page => (
                ", error_pages: { pages: { 500: { reroute: /sorry/ } }, intercept: true }",
                "",
            ),
            Self::Plugin => (
                ", plugins: [{ file: plugins/fails.js, on_error: continue }]",
                "",
            ),
            Self::Leak => ("", ", restart_at: { rss: 150MiB }"),
            Self::Ejected
            | Self::Hang
            | Self::SlowOne
            | Self::SlowAll
            | Self::Errors
            | Self::Log
            | Self::Redis
            | Self::Reload => ("", ""),
        }
    }

    fn begin(self, site: &mut Site, random: &mut Rng) {
        // Three slow responses are evidence against a backend, which may have one request at a time.
        let late = Failure::Late(Duration::from_millis(random.u64(1000..3000)));
        let Some([one, two]) = site.backends.get_mut(self.name()) else {
            return;
        };
        match self {
            Self::Dead | Self::Ejected => two.stop(),
            Self::Hang => two.settings().fail(Failure::Hang),
            Self::SlowOne => two.settings().fail(late),
            Self::SlowAll => {
                for origin in [one, two] {
                    origin.settings().fail(late);
                }
            }
            Self::Errors | Self::Page => {
                for origin in [one, two] {
                    origin.settings().fail(Failure::Status(500));
                }
            }
            Self::Resets => two.settings().fail(Failure::ResetBeforeResponse),
            Self::Log => {
                let log = site.gateway.folder().join("access.log");
                fs::rename(&log, log.with_extension("before")).expect("it is there");
                symlink("/dev/full", &log).expect("the folder takes links");
                site.gateway.signal(Signal::USR1);
            }
            // Their requests bring it about.
            Self::Plugin | Self::Leak => {}
            Self::Redis => site.redis.kill(),
            Self::Reload => {
                site.gateway
                    .configure(&site.yaml.replace("routes:", "routs:"));
                site.gateway.signal(Signal::HUP);
            }
        }
    }

    /// Target of its requests.
    fn target(self, has_begun: bool) -> String {
        match self {
            Self::Plugin | Self::Leak if has_begun => format!("/{}/?now", self.name()),
            _ => format!("/{}/", self.name()),
        }
    }

    fn expected(self, site: &Site) -> Expected {
        let backend = || {
            let address = match self {
                Self::Leak => format!("127.0.0.1:{}", site.leaking.0),
                _ => site.backends[self.name()][1].address().to_string(),
            };
            format!("{}/{address}", self.name())
        };
        let log = || site.gateway.folder().join("access.log");
        let (kind, subject, says) = match self {
            Self::Dead => ("backend_failing", backend(), "connections were refused"),
            Self::Ejected => ("backend_ejected", backend(), "connection refused"),
            Self::Hang => ("backend_silent", backend(), "no response for"),
            Self::SlowOne => ("backend_slow", backend(), "the others"),
            Self::SlowAll => ("route_slow", "slow-all".to_owned(), "p95 of the first byte"),
            Self::Errors => ("route_failing", "errors".to_owned(), "most of them 500"),
            Self::Page => ("route_failing", "page".to_owned(), "failed"),
            Self::Resets => ("backend_failing", backend(), "requests failed"),
            Self::Log => ("log_failing", log().display().to_string(), "No space left"),
            Self::Plugin => ("plugin_failing", "fails on plugin".to_owned(), "broken now"),
            Self::Redis => ("redis_down", site.redis.address(), "is down"),
            Self::Leak => ("backend_memory", backend(), "rss"),
            Self::Reload => (
                "reload_refused",
                String::new(),
                "the last reload was refused",
            ),
        };
        Expected {
            kind,
            subject,
            says,
        }
    }
}

/// An app whose memory grows by a request with a query.
const LEAKING: &str = "const kept = [];
require('http').createServer((request, response) => {
  if (request.url.includes('?') && kept.length === 0) kept.push(Buffer.alloc(300 << 20, 1));
  response.end('ok');
}).listen(Number(process.argv[1]), '127.0.0.1');";

const PLUGIN: &str = "export function onRequest(request) {
  if (request.nextUrl.search !== '') throw new Error('broken now');
}";

impl Site {
    async fn start(faults: &[Fault]) -> Self {
        let mut backends = BTreeMap::new();
        for fault in faults.iter().chain([&Fault::Log]) {
            let pair = [FlappingOrigin::start().await, FlappingOrigin::start().await];
            backends.insert(fault.name(), pair);
        }
        let port = free_port();
        let leaking = tokio::process::Command::new("node")
            .args(["--eval", LEAKING, "--", &port.to_string()])
            .kill_on_drop(true)
            .spawn()
            .expect("node is there");
        wait_for("the app listens", LIMIT, async || {
            TcpStream::connect(("127.0.0.1", port)).await.ok()
        })
        .await;
        let redis = Redis::start().await;
        let mut yaml = format!("redis: {}\nupstreams:\n", redis.section(""));
        let mut routes = "routes:\n- { name: sorry, match: { path: /sorry/, internal: true }, \
                          respond: sorry }\n"
            .to_owned();
        for (name, [one, two]) in &backends {
            let fault = faults.iter().find(|fault| fault.name() == *name);
            // The calm route keeps the connection to Redis in use.
            let (of_route, of_upstream) = fault.map_or((", cache: {}", ""), |fault| fault.keys());
            let list = match fault {
                Some(Fault::Leak) => format!("'127.0.0.1:{port}'"),
                _ => format!("'{}', '{}'", one.address(), two.address()),
            };
            writeln!(
                yaml,
                "  {name}: {{ backends: [{list}], health: false{of_upstream} }}"
            )
            .expect("a string takes text");
            writeln!(
                routes,
                "- {{ name: {name}, match: {{ path: '/{name}/*' }}, upstream: {name}\
                 {of_route} }}"
            )
            .expect("a string takes text");
        }
        yaml.push_str(&routes);
        let prepare = |folder: &std::path::Path| {
            fs::create_dir(folder.join("plugins")).expect("the folder takes folders");
            let file = folder.join("plugins/fails.js");
            fs::write(file, PLUGIN).expect("the folder takes files");
        };
        Self {
            gateway: Gateway::start_in(&yaml, prepare).await,
            backends,
            redis,
            leaking: (port, leaking),
            yaml,
        }
    }

    fn load(&self, faults: &[Fault], has_begun: bool) -> Vec<Endless> {
        let faults = faults.iter().chain([&Fault::Log]);
        let load = |fault: &Fault| {
            let target = fault.target(has_begun);
            load::endless_paced(self.gateway.address(), RATE, move |_| get(&target))
        };
        faults.map(load).collect()
    }

    /// Waits until each route has a history.
    async fn has_history(&self) {
        wait_for("each route has a history", LIMIT, async || {
            let status = self.gateway.status().await;
            let routes = status["routes"].as_array()?;
            let mut routes = routes.iter().filter(|route| route["name"] != "sorry");
            let has = |route: &Value| route["traffic"]["requests"].as_u64() >= Some(BEFORE);
            routes.all(has).then_some(())
        })
        .await;
    }

    /// Returns the lines of each tool that are about problems.
    async fn look(&self) -> [Vec<String>; 5] {
        let socket = self.gateway.admin_socket().to_owned();
        let ran = spawn_blocking(move || {
            let status = edgeway(&["status", "--socket", &socket]);
            let top = ["top", "--once", "--json", "--interval", "100ms"];
            let top = edgeway(&[&top[..], &["--socket", &socket]].concat());
            (status, top)
        });
        let (status, top) = ran.await.expect("they run");
        let is_problem = |line: &&str| line.starts_with("error ") || line.starts_with("warning ");
        let status = status.stdout.lines().filter(is_problem);
        let top: Value = serde_json::from_str(&top.stdout).expect("it prints JSON");
        let alarms = top["alarms"].as_array().cloned().unwrap_or_default();
        let alarms = alarms.iter().filter_map(|alarm| alarm["text"].as_str());
        let page = get("/status").header("accept", "text/html");
        let page = self.gateway.send_admin(&page).await.text();
        let list = page.split_once("<ul class=\"problems\">");
        let list = list.and_then(|(_, rest)| rest.split_once("</ul>"));
        let list = list.map_or_else(String::new, |(list, _)| list.replace("&#39;", "'"));
        let log = self.gateway.stderr();
        let metrics = self.gateway.admin_get("/metrics").await.text();
        let series = metrics
            .lines()
            .filter(|line| line.starts_with("edgeway_problem{"));
        [
            status.map(str::to_owned).collect(),
            alarms.map(str::to_owned).collect(),
            list.split("</li>")
                .filter(|line| line.contains("<li"))
                .map(str::to_owned)
                .collect(),
            log.lines()
                .filter(|line| line.contains("problem began"))
                .map(str::to_owned)
                .collect(),
            series.map(str::to_owned).collect(),
        ]
    }
}

const TOOLS: [&str; 5] = ["status", "top", "page", "log", "metric"];

impl Expected {
    fn is_named(&self, tool: usize, line: &str) -> bool {
        if TOOLS[tool] == "metric" {
            return line.contains(&format!("problem=\"{}\"", self.kind))
                && line.contains(&format!("subject=\"{}", self.subject));
        }
        let subject = self.subject.split(" on ").next().unwrap_or_default();
        line.contains(subject) && line.contains(self.says) && line.contains("; look at ")
    }
}

/// Lets faults begin at once, and prints the table of the seconds that each tool took.
async fn names_faults(faults: &[Fault], random: &mut Rng) {
    let mut site = Site::start(faults).await;
    let before = site.load(faults, false);
    site.has_history().await;
    // The control: nothing is named while all is well.
    for (tool, lines) in site.look().await.iter().enumerate() {
        let lines: Vec<_> = lines.iter().filter(|line| !is_of_machine(line)).collect();
        assert!(lines.is_empty(), "{}: {lines:?}", TOOLS[tool]);
    }
    let begun = Instant::now();
    for fault in faults {
        fault.begin(&mut site, random);
    }
    let during = site.load(faults, true);
    let expected: Vec<_> = faults.iter().map(|fault| fault.expected(&site)).collect();
    let mut found = vec![[None; 5]; faults.len()];
    let mut words = vec![String::new(); faults.len()];
    let mut seen = Default::default();
    while begun.elapsed() < LIMIT && found.as_flattened().contains(&None) {
        seen = site.look().await;
        let now = begun.elapsed();
        for ((expected, found), words) in expected.iter().zip(&mut found).zip(&mut words) {
            for (tool, lines) in seen.iter().enumerate() {
                let line = lines.iter().find(|line| expected.is_named(tool, line));
                if let Some(line) = line.filter(|_| found[tool].is_none()) {
                    found[tool] = Some(now);
                    if tool == 0 {
                        words.clone_from(line);
                    }
                }
            }
        }
        pass(Duration::from_millis(100)).await;
    }
    let mut table = String::new();
    for ((fault, found), words) in faults.iter().zip(&found).zip(&words) {
        write!(table, "{:8}", format!("{fault:?}")).expect("a string takes text");
        for (tool, found) in TOOLS.iter().zip(found) {
            let found = found.map_or_else(
                || "never".to_owned(),
                |it| format!("{:.1}", it.as_secs_f64()),
            );
            write!(table, " {tool} {found:>5}").expect("a string takes text");
        }
        writeln!(table, "  {words}").expect("a string takes text");
    }
    eprintln!("{table}");
    let is_late = |found: &Option<Duration>| found.is_none_or(|found| found > BOUND + BUSY);
    assert!(
        !found.as_flattened().iter().any(is_late),
        "{table}\n{seen:#?}"
    );
    // Nothing beside the faults is named.
    let calm = seen.iter().flatten().filter(|line| line.contains("calm"));
    let calm: Vec<_> = calm.filter(|line| !is_of_machine(line)).collect();
    assert!(calm.is_empty(), "{calm:?}");
    drop((before, during));
}

/// Returns true for a line about latency, which other tests on the machine may cause.
fn is_of_machine(line: &str) -> bool {
    let mut words = ["p95 of the first byte", "is slow:", "_slow"].iter();
    words.any(|words| line.contains(words))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_tool_names_each_fault_within_ten_seconds() {
    let mut random = Rng::with_seed(seed::drawn());
    for _ in 0..seed::cases(1, 5) {
        let count = seed::cases(6, 10);
        let faults = random.choose_multiple(ALL, count);
        names_faults(&faults, &mut random).await;
    }
}
