//! A crawler requests 1,500 pages at once, stale within their window and beyond it: the app never
//! renders more of them at once than its budget, and other visitors do not notice.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use tokio::task::JoinSet;

use crate::{
    Report,
    support::{
        client::{self, Connection, Request, get},
        front::Front,
        load::paced,
        ports::free_port,
        wait::{pass, wait_for},
    },
};

const PAGES: usize = 1500;
const BUDGET: u64 = 4;
/// Time that the app takes for a page.
const BUSY: Duration = Duration::from_millis(2);
/// Time for which a stale page is served.
const WINDOW: Duration = Duration::from_secs(20);
const PAIRS: usize = 5;
const PEOPLE: u32 = 20;
const LENGTH: Duration = Duration::from_secs(4);
const CRAWLER: &str = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)";

struct App {
    child: Child,
    address: SocketAddr,
}

impl Drop for App {
    fn drop(&mut self) {
        // It may have exited by itself, which the drill has noticed then.
        let _gone = self.child.kill();
        let _code = self.child.wait();
    }
}

impl App {
    async fn start() -> Self {
        let port = free_port();
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/drills/pages_origin.js");
        let child = Command::new("node")
            .arg(file)
            .env("PORT", port.to_string())
            .env("BUSY", BUSY.as_millis().to_string())
            .stdin(Stdio::piped())
            .spawn()
            .expect("node is installed");
        let address = (std::net::Ipv4Addr::LOCALHOST, port).into();
        let app = Self { child, address };
        wait_for("the app responds", Duration::from_secs(10), async || {
            app.counts().await
        })
        .await;
        app
    }

    /// Returns counts by kind of page; the maximum in flight is since the last call.
    async fn counts(&self) -> Option<Value> {
        let response = client::send(self.address, &get("/counts")).await.ok()?;
        Some(response.json())
    }

    async fn most(&self, kind: &str) -> u64 {
        let counts = self.counts().await.expect("the app still responds");
        counts[kind]["most"].as_u64().unwrap_or(0)
    }
}

/// Requests every page as `user_agent`, `at_once` at a time; returns the number of responses by
/// status.
async fn ask(gateway: SocketAddr, user_agent: &'static str, at_once: usize) -> [u64; 3] {
    let mut asking = JoinSet::new();
    for worker in 0..at_once {
        asking.spawn(async move {
            let mut seen = [0; 3];
            let mut connection = None;
            for page in (worker..PAGES).step_by(at_once) {
                let request = page_of(page).header("user-agent", user_agent);
                let status = match send(&mut connection, gateway, &request).await {
                    Some(200) => 0,
                    Some(503) => 1,
                    _ => 2,
                };
                seen[status] += 1;
            }
            seen
        });
    }
    asking
        .join_all()
        .await
        .into_iter()
        .fold([0; 3], |all, one| {
            [all[0] + one[0], all[1] + one[1], all[2] + one[2]]
        })
}

async fn send(
    connection: &mut Option<Connection>,
    to: SocketAddr,
    request: &Request,
) -> Option<u16> {
    let mut open = match connection.take() {
        Some(open) => open,
        None => Connection::open(to).await.ok()?,
    };
    let response = open.send(request).await.ok()?;
    if response.header("connection") != Some("close") {
        *connection = Some(open);
    }
    Some(response.status())
}

fn page_of(page: usize) -> Request {
    get(&format!("/crawled/{page}"))
}

pub(crate) async fn run(report: &mut Report) {
    let app = App::start().await;
    let gateway = Front::to(app.address)
        .listener("limits: { connections_per_ip: 10000 }")
        .upstream(&format!(
            "app: nextjs, guarded: [], revalidations: {BUDGET}"
        ))
        .route(&format!(
            "cache: {{ stale_while_revalidate: {}s }}",
            WINDOW.as_secs()
        ))
        .start()
        .await;
    let to = gateway.address();

    ask(to, "a person", 60).await;
    pass(Duration::from_millis(1100)).await;
    app.counts().await;
    let within = ask(to, CRAWLER, 300).await;
    let most = app.most("crawled").await;
    Report::note(format!(
        "stale within the window: {within:?} (200, 503, other), at most {most} made at once"
    ));
    report.check(
        within[1] + within[2] == 0,
        "within the window all get a response at once",
    );
    report.check(
        most <= BUDGET,
        format!("never more than {BUDGET} are made at once"),
    );
    pass(WINDOW + Duration::from_secs(2)).await;
    app.counts().await;
    let beyond = ask(to, CRAWLER, 300).await;
    let most = app.most("crawled").await;
    Report::note(format!(
        "beyond it: {beyond:?} (200, 503, other), at most {most} made at once"
    ));
    report.check(beyond[2] == 0, "beyond it: 200, or 503 with a reason");
    report.check(
        most <= BUDGET,
        format!("never more than {BUDGET} are made at once"),
    );

    people(report, &app, to).await;
}

/// Measures response times of other visitors, with and without a crawl.
async fn people(report: &mut Report, app: &App, to: SocketAddr) {
    let mut ratios = Vec::new();
    for pair in 0..PAIRS {
        let mut p90 = [Duration::ZERO; 2];
        for (index, is_crawled) in [(0, false), (1, true)] {
            let crawl = async {
                if !is_crawled {
                    return;
                }
                let crawl = async {
                    loop {
                        ask(to, CRAWLER, 300).await;
                    }
                };
                // It ends with the visits, at whatever page it is.
                let _cut: Result<(), _> = tokio::time::timeout(LENGTH, crawl).await;
            };
            let visits = paced(to, PEOPLE, LENGTH, move |visit| {
                get(&format!("/visited/{pair}-{index}-{visit}"))
            });
            let (tally, ()) = tokio::join!(visits, crawl);
            report.check(tally.errors() == 0, "people all get responses");
            p90[index] = tally.quantile_of(200, 0.9);
        }
        let ratio = p90[1].as_secs_f64() / p90[0].as_secs_f64();
        Report::note(format!(
            "people's p90 {:?} in quiet, {:?} beside a crawl: {ratio:.2} ×",
            p90[0], p90[1]
        ));
        ratios.push(ratio);
    }
    let most = app.most("crawled").await;
    report.check(
        most <= BUDGET,
        format!("never more than {BUDGET} are made at once, but {most}"),
    );
    ratios.sort_by(f64::total_cmp);
    let middle = ratios[PAIRS / 2];
    report.check(
        middle <= 1.2,
        format!("people's p90 within 1.2 × of quiet: {middle:.2}, middle of {PAIRS} pairs"),
    );
}
