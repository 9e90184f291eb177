//! A plugin that runs on each of a million requests: its memory stays as it was after the first
//! tenth of them, in the engine and outside.

use std::time::Duration;

use crate::{
    Report,
    support::{
        client::get,
        gateway::{Gateway, rss_of},
        load::{Tally, lanes},
        wait::pass,
    },
};

/// Number of requests, unless `EDGEWAY_SOAK_CALLS` says otherwise.
const CALLS: u64 = 1_000_000;
const LANES: usize = 8;
/// Time between two checks: the gateway measures heaps every 10 s.
const LOOK: Duration = Duration::from_secs(11);
/// Number of checks: between two collections a heap grows by half, so the maximum of several checks
/// counts, with requests between them.
const LOOKS: usize = 4;
/// Allowed growth, since that is not the same each time. One byte left by each request would double
/// it.
const FLAT: f64 = 1.25;
const BETWEEN: u64 = 700;
const MIB: f64 = 1_048_576.0;

/// Uses headers, cookies, URLs, a promise, kv, an exception and a response of its own.
const PLUGIN: &str = "
export async function onRequest(request, ctx) {
  const url = new URL(request.url);
  request.headers.set('x-page', url.searchParams.get('page') ?? 'none');
  request.headers.set('x-user', request.cookies.get('user')?.value ?? 'nobody');
  await ctx.kv.put('last', { page: url.pathname, at: url.search });
  const count = await ctx.kv.increment('count');
  try { decodeURIComponent('%'); } catch (error) { request.headers.set('x-error', error.message); }
  if (count % 2 === 0) return Response.json({ count, last: await ctx.kv.get('last') });
}
export function onResponse(response, ctx) {
  response.headers.append('x-request', ctx.requestId);
  response.cookies.set('seen', ctx.request.headers.get('host'));
}
";

async fn front(isolation: &str) -> Gateway {
    let yaml = format!(
        "
listeners: [{{ address: 127.0.0.1:0, limits: {{ connections_per_ip: 10000 }} }}]
routes:
- match: {{ path: /* }}
  respond: {{ body: went on }}
  plugins: [{{ file: plugins/soak/plugin.js, kv: memory, on_error: refuse, isolation: {isolation} }}]
"
    );
    Gateway::start_in(&yaml, |folder| {
        let folder = folder.join("plugins/soak");
        std::fs::create_dir_all(&folder).expect("the folder is ours");
        std::fs::write(folder.join("plugin.js"), PLUGIN).expect("the folder is ours");
    })
    .await
}

pub(crate) async fn run(report: &mut Report) {
    let calls = std::env::var("EDGEWAY_SOAK_CALLS")
        .map_or(CALLS, |calls| calls.parse().expect("a number of requests"));
    for isolation in ["worker", "thread"] {
        soak(report, isolation, calls).await;
    }
}

async fn soak(report: &mut Report, isolation: &str, calls: u64) {
    let gateway = front(isolation).await;
    let load = |count: u64| {
        lanes(gateway.address(), LANES, count, |n| {
            get(&format!("/x/{n}?page={n}")).header("cookie", "user=ann")
        })
    };
    let tenth = load(calls / 10).await;
    let before = measured(&gateway, load).await;
    let rest = load(calls - calls / 10).await;
    let after = measured(&gateway, load).await;
    report.check(
        tenth.errors() + rest.errors() == 0 && tenth.total() + rest.total() == calls,
        format_args!("{calls} requests on `{isolation}`, all answered"),
    );
    if tenth.errors() + rest.errors() > 0 {
        for tally in [&tenth, &rest] {
            Report::note(format_args!("{:?} {:?}", tally.statuses, tally.failed));
        }
        Report::note(gateway.stderr());
    }
    let shown = |before: f64, after: f64| {
        format!(
            "{:.2} MiB after a tenth, {:.2} MiB after all",
            before / MIB,
            after / MIB
        )
    };
    report.check(
        after.heap <= before.heap * FLAT,
        format_args!("heap: {}", shown(before.heap, after.heap)),
    );
    report.check(
        after.resident <= before.resident + 4.0 * MIB,
        format_args!("resident: {}", shown(before.resident, after.resident)),
    );
}

struct Measured {
    heap: f64,
    resident: f64,
}

async fn measured<L: Future<Output = Tally>>(
    gateway: &Gateway,
    load: impl Fn(u64) -> L,
) -> Measured {
    let mut heap = 0.0_f64;
    for _ in 0..LOOKS {
        load(BETWEEN).await;
        pass(LOOK).await;
        heap = heap.max(gateway.metric("edgeway_plugin_heap_bytes").await);
    }
    assert!(heap > 0.0, "the gateway has looked at it");
    Measured {
        heap,
        resident: rss_of(gateway.pid()) as f64,
    }
}
