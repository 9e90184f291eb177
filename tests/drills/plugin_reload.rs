//! A plugin that is rewritten a hundred times under load, with four hooks that report their
//! version: no request fails, and none sees two versions.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinSet;

use crate::{
    Report,
    support::{
        client::{Connection, get},
        front::Front,
        gateway::Gateway,
        origins::{EchoOrigin, echoed},
        wait::wait_for,
    },
};

const RELOADS: u64 = 100;
const BROKEN: u64 = 10;
const LANES: usize = 16;
const SOON: Duration = Duration::from_secs(15);
const TAKEN: &str = "edgeway_config_reloads_total{outcome=\"ok\"}";
const REFUSED: &str = "edgeway_config_reloads_total{outcome=\"refused\"}";

/// Writes a plugin of two modules, which a reload could mix as well; it waits, so that many
/// requests are in flight when a new version arrives.
fn write(folder: &Path, version: u64) {
    let main = format!(
        "import {{ version }} from './version.js';
const both = `{version}/${{version}}`;
export async function onRequest(req) {{
  await new Promise((done) => setTimeout(done, 5));
  req.headers.set('x-request', both);
}}
export const onUpstreamRequest = (req) => req.headers.set('x-upstream', both);
export const onUpstreamResponse = (res) => res.headers.set('x-upstream-response', both);
export const onResponse = (res) => res.headers.set('x-response', both);
"
    );
    // Replaces the old files at once, as a deployment does.
    let beside = folder.join(format!("plugins/x-{version}"));
    fs::create_dir_all(&beside).expect("the folder is ours");
    let module = format!("export const version = {version};\n");
    fs::write(beside.join("version.js"), module).expect("the folder is ours");
    fs::write(beside.join("plugin.js"), main).expect("the folder is ours");
    let link = folder.join("plugins/link");
    std::os::unix::fs::symlink(format!("x-{version}"), &link).expect("it takes links");
    fs::rename(link, folder.join("plugins/x")).expect("a link is replaced");
}

/// Versions that requests have seen.
#[derive(Default)]
struct Seen {
    versions: BTreeMap<String, u64>,
    mixed: Vec<String>,
    failed: Vec<String>,
}

async fn lane(to: SocketAddr, stop: Arc<AtomicBool>) -> Seen {
    let mut seen = Seen::default();
    let mut connection = None;
    while !stop.load(Ordering::Relaxed) {
        let mut open = match connection.take() {
            Some(open) => open,
            None => match Connection::open(to).await {
                Ok(open) => open,
                Err(error) => {
                    seen.failed.push(error.to_string());
                    continue;
                }
            },
        };
        let response = match open.send(&get("/")).await {
            Ok(response) => response,
            Err(error) => {
                seen.failed.push(error.to_string());
                continue;
            }
        };
        connection = Some(open);
        if response.status() != 200 {
            seen.failed.push(response.status().to_string());
            continue;
        }
        let body = response.json();
        let versions = [
            echoed(&body, "x-request"),
            echoed(&body, "x-upstream"),
            response.header("x-upstream-response"),
            response.header("x-response"),
        ]
        .map(|version| version.unwrap_or("none"));
        let halves = versions[0].split_once('/');
        let is_one = versions.iter().all(|version| *version == versions[0]);
        match halves {
            Some((main, module)) if is_one && main == module => {
                *seen.versions.entry(main.to_owned()).or_default() += 1;
            }
            _ => seen.mixed.push(versions.join(" ")),
        }
    }
    seen
}

pub(crate) async fn run(report: &mut Report) {
    let origin = EchoOrigin::start().await;
    let yaml = Front::to(&origin)
        .listener("limits: { connections_per_ip: 1000 }")
        .with("watch: { debounce: 20ms }")
        .route("plugins: [{ file: plugins/x/plugin.js, on_error: refuse }]")
        .yaml();
    let gateway = Gateway::start_in(&yaml, |folder| {
        fs::create_dir(folder.join("plugins")).expect("the folder is ours");
        write(folder, 0);
    })
    .await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut lanes = JoinSet::new();
    for _ in 0..LANES {
        lanes.spawn(lane(gateway.address(), Arc::clone(&stop)));
    }
    let mut before = 0;
    for version in 1..=RELOADS {
        write(gateway.folder(), version);
        counted(&gateway, TAKEN, version).await;
        served(&gateway, version).await;
        if version == RELOADS / 5 {
            before = gateway.rss();
        }
    }
    let after = gateway.rss();
    let main = gateway.folder().join("plugins/x/plugin.js");
    let good = fs::read_to_string(&main).expect("it was written");
    for broken in 1..=BROKEN {
        fs::write(&main, format!("{good}\nexport const broken{broken} = ;"))
            .expect("the folder is ours");
        counted(&gateway, REFUSED, broken).await;
        served(&gateway, RELOADS).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut all = Seen::default();
    for seen in lanes.join_all().await {
        for (version, count) in seen.versions {
            *all.versions.entry(version).or_default() += count;
        }
        all.mixed.extend(seen.mixed);
        all.failed.extend(seen.failed);
    }
    let requests: u64 = all.versions.values().sum();
    report.check(
        all.failed.is_empty() && requests > 1000,
        format_args!(
            "{requests} requests, {} failed {}",
            all.failed.len(),
            all.failed.first().map_or("", String::as_str)
        ),
    );
    report.check(
        all.versions.len() as u64 == RELOADS + 1,
        format_args!("{} of {} versions seen", all.versions.len(), RELOADS + 1),
    );
    report.check(
        all.mixed.is_empty(),
        format_args!(
            "{} requests met two versions {}",
            all.mixed.len(),
            all.mixed.first().map_or("", String::as_str)
        ),
    );
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    report.check(
        after < before + (8 << 20),
        format_args!(
            "resident memory {:.1} MiB after a fifth of the reloads, {:.1} MiB after all",
            mib(before),
            mib(after)
        ),
    );
    let error = gateway.status().await["config"]["last_error"].to_string();
    report.check(
        error.contains("plugins/x/plugin.js:"),
        format_args!("{BROKEN} broken versions changed nothing, and status says why"),
    );
}

async fn counted(gateway: &Gateway, series: &str, times: u64) {
    let what = format!("{series} is {times}");
    wait_for(&what, SOON, async || {
        (gateway.count(series).await >= times).then_some(())
    })
    .await;
}

/// Waits until new requests see this version.
async fn served(gateway: &Gateway, version: u64) {
    let is_new = format!("{version}/{version}");
    wait_for(&format!("version {version} answers"), SOON, async || {
        let response = gateway.get("/").await;
        (response.header("x-response") == Some(&is_new)).then_some(())
    })
    .await;
}
