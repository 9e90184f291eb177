//! Plugins that loop, exhaust memory, recurse or never end, while other requests are served: the
//! offending request gets the configured response, the others hardly notice, and nothing stays
//! behind.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    Report,
    support::{
        client::{Request, get},
        gateway::{Gateway, rss_of},
        load::paced,
        wait::{pass, wait_for},
    },
};

const ATTACKS: [(&str, &str); 9] = [
    ("loop", "for (;;);"),
    ("caught", "for (;;) { try { for (;;); } catch {} }"),
    ("awaited", "await 0; for (;;);"),
    ("microtasks", "for (;;) await 0;"),
    ("behind", "Promise.resolve().then(() => { for (;;); });"),
    ("regex", "/(a+)+$/.test('a'.repeat(40) + 'b');"),
    (
        "memory",
        "const all = []; for (;;) all.push(new Uint8Array(1 << 16));",
    ),
    ("recursion", "const f = () => f() + 1; f();"),
    ("never", "await new Promise(() => {});"),
];
/// Wall limit of a plugin; the next constant is the extra time on a busy machine.
const WALL: Duration = Duration::from_millis(250);
const SLACK: Duration = Duration::from_millis(250);
const RATE: u32 = 200;
/// Attacks in a second: each occupies a worker for its 5 ms.
const ATTACKERS: u32 = 10;
const LENGTH: Duration = Duration::from_secs(3);
const PAIRS: usize = 5;
const KILLS: usize = 10_000;
/// Attacks on a plugin with its own threads: a loop of slow steps, and one step that takes seconds.
const NATIVE: &str = "const text = 'y'.repeat(200000); for (;;) text.indexOf('yx');";
const ONE_CALL: &str =
    "'y'.repeat(100000).indexOf('y'.repeat(50000) + 'x'); return new Response('none');";
const NATIVE_KILLS: usize = 20;

/// Returns a plugin whose path selects the attack.
fn plugin() -> String {
    let cases = ATTACKS
        .iter()
        .map(|(name, code)| format!("    case '{name}': {{ {code} break; }}\n"));
    format!(
        "export async function onRequest(req) {{\n  switch (req.nextUrl.pathname.split('/')[2]) {{\n{}  }}\n}}\n",
        cases.collect::<String>()
    )
}

const QUIET: &str = "export function onRequest(req) {
  if (req.headers.get('x-none')) return new Response('no', { status: 403 });
  req.headers.set('x-seen', req.headers.get('host'));
}
";

async fn front() -> Gateway {
    let yaml = "
listeners: [{ address: 127.0.0.1:0, limits: { connections_per_ip: 10000 } }]
routes:
- match: { path: /attack/* }
  respond: { body: went on }
  plugins:
  - { file: plugins/attack/plugin.js, on_error: refuse }
- match: { path: /native }
  respond: { body: went on }
  plugins:
  - file: plugins/native/plugin.js
    on_error: refuse
    isolation: thread
- match: { path: /call }
  respond: { body: went on }
  plugins:
  - file: plugins/call/plugin.js
    on_error: refuse
    isolation: thread
- match: { path: /quiet }
  respond: { body: quiet }
  plugins: [{ file: plugins/quiet/plugin.js, on_error: refuse }]
";
    Gateway::start_in(yaml, |folder| {
        let on_request = |code: &str| format!("export function onRequest() {{ {code} }}");
        for (name, text) in [
            ("attack", plugin()),
            ("native", on_request(NATIVE)),
            ("call", on_request(ONE_CALL)),
            ("quiet", QUIET.to_owned()),
        ] {
            let folder = folder.join("plugins").join(name);
            std::fs::create_dir_all(&folder).expect("the folder is ours");
            std::fs::write(folder.join("plugin.js"), text).expect("the folder is ours");
        }
    })
    .await
}

pub(crate) async fn run(report: &mut Report) {
    let gateway = front().await;
    for (kind, _) in ATTACKS {
        let begun = Instant::now();
        let response = gateway.get(&format!("/attack/{kind}")).await;
        let took = begun.elapsed();
        report.check(
            response.status() == 503 && took <= WALL + SLACK,
            format_args!("{kind}: {} after {took:?}", response.status()),
        );
    }
    beside_others(report, &gateway, |n| {
        let kind = ATTACKS[usize::try_from(n).unwrap_or(0) % ATTACKS.len()].0;
        get(&format!("/attack/{kind}"))
    })
    .await;
    many(report, &gateway).await;
    native(report, &gateway, "/native").await;
    native(report, &gateway, "/call").await;
}

/// Measures the effect of attacks on other requests.
async fn beside_others(
    report: &mut Report,
    gateway: &Gateway,
    attack: impl Fn(u64) -> Request + Copy + Send + Sync + 'static,
) {
    let to = gateway.address();
    let mut ratios = Vec::new();
    for _ in 0..PAIRS {
        // Remaining work of the previous pair would disturb the quiet phase.
        none_stuck(gateway).await;
        let quiet = paced(to, RATE, LENGTH, |_| get("/quiet")).await;
        report.check(quiet.errors() == 0, "others are all answered");
        let attacks = paced(to, ATTACKERS, LENGTH, attack);
        let others = paced(to, RATE, LENGTH, |_| get("/quiet"));
        let (beside, attacks) = tokio::join!(others, attacks);
        report.check(
            beside.errors() == 0,
            "others are all answered beside attacks",
        );
        report.check(
            attacks.status(503) == attacks.total(),
            format_args!("{} attacks get what was configured", attacks.total()),
        );
        let (most, slowest) = (quiet.quantile(1.0), beside.quantile(1.0));
        report.check(
            slowest <= most + Duration::from_millis(250),
            format_args!("others' slowest {slowest:?}, {most:?} in quiet"),
        );
        let (p90, beside) = (quiet.quantile(0.9), beside.quantile(0.9));
        let ratio = beside.as_secs_f64() / p90.as_secs_f64();
        Report::note(format_args!(
            "others' p90 {p90:?} in quiet, {beside:?} beside attacks: {ratio:.2} ×"
        ));
        ratios.push(ratio);
    }
    ratios.sort_by(f64::total_cmp);
    let middle = ratios[PAIRS / 2];
    report.check(
        middle <= 1.3,
        format_args!("the middle of {PAIRS} pairs is {middle:.2} ×, at most 1.3"),
    );
}

/// Runs many attacks, one after the other.
async fn many(report: &mut Report, gateway: &Gateway) {
    let mut before = 0;
    for kill in 0..KILLS {
        if kill == KILLS / 10 {
            before = rss_of(gateway.pid());
        }
        let kind = ["loop", "memory", "recursion"][kill % 3];
        let response = gateway.get(&format!("/attack/{kind}")).await;
        if response.status() != 503 {
            report.check(false, format_args!("{kind}: {}", response.status()));
            return;
        }
    }
    let after = rss_of(gateway.pid());
    report.check(
        after < before + (8 << 20),
        format_args!(
            "{KILLS} kills: resident memory {:.1} MiB after a tenth of them, {:.1} MiB after all",
            mib(before),
            mib(after)
        ),
    );
}

/// Attacks with a plugin on its own threads that the engine cannot stop for seconds.
async fn native(report: &mut Report, gateway: &Gateway, path: &'static str) {
    let begun = Instant::now();
    let response = gateway.get(path).await;
    let took = begun.elapsed();
    report.check(
        response.status() == 503 && took <= WALL + SLACK,
        format_args!("{path}: {} after {took:?}", response.status()),
    );
    beside_others(report, gateway, |_| get(path)).await;
    none_stuck(gateway).await;
    let before = rss_of(gateway.pid());
    let begun = Instant::now();
    let (mut kills, mut stuck, mut slowest) = (0, 0, Duration::ZERO);
    while kills < NATIVE_KILLS {
        let begun = Instant::now();
        let response = gateway.get(path).await;
        let took = begun.elapsed();
        if response.status() != 503 {
            report.check(false, format_args!("{path}: {}", response.status()));
            return;
        }
        // No hook ran for requests with an immediate response: the maximum number of threads is
        // stuck.
        if took < Duration::from_millis(3) {
            pass(WALL).await;
            continue;
        }
        slowest = slowest.max(took);
        stuck += usize::from(took >= WALL);
        kills += 1;
    }
    none_stuck(gateway).await;
    report.check(
        slowest <= WALL + SLACK,
        format_args!("the slowest of {kills} answers after {slowest:?}"),
    );
    let after = rss_of(gateway.pid());
    report.check(
        after < before + (8 << 20),
        format_args!(
            "{kills} kills, {stuck} of them threads that were stuck, in {:?}: resident memory {:.1} MiB before, {:.1} MiB after",
            begun.elapsed(),
            mib(before),
            mib(after)
        ),
    );
}

/// Waits until no thread is stuck; the gateway checks every 10 s.
async fn none_stuck(gateway: &Gateway) {
    pass(Duration::from_secs(11)).await;
    let is_none = async || {
        let stuck = gateway.metric("edgeway_plugin_stuck_threads").await;
        (stuck == 0.0).then_some(())
    };
    wait_for("threads come back", Duration::from_mins(2), is_none).await;
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
