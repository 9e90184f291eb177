//! Output of plugins in a running gateway: the log, their own metrics, and work that continues
//! after the response.

use std::{fs, time::Duration};

use rustix::process::Signal;
use serde_json::json;

use crate::support::{
    client::get,
    front::Front,
    gateway::Gateway,
    origins::{EchoOrigin, Origin},
    wait::wait_for,
};

const SOON: Duration = Duration::from_secs(10);

/// Starts a gateway in front of an origin, with a plugin of this text that may fetch from the
/// origin.
async fn with(text: &str, more: &str) -> (Origin<EchoOrigin>, Gateway) {
    let origin = EchoOrigin::start().await;
    let (text, address) = (text.to_owned(), origin.address());
    let yaml = format!(
        "upstreams: {{ app: {{ backends: ['{address}'], health: false }} }}
routes:
- name: app
  match: {{ path: '/*' }}
  upstream: app
  plugins: [{{ file: x/plugin.js, on_error: continue, config: {{ origin: 'http://{address}' }}, fetch: {{ origins: ['http://{address}'], deadline: 5s }}{more} }}]
"
    );
    let gateway = Gateway::start_in(&yaml, |folder| {
        fs::create_dir(folder.join("x")).expect("the folder is ours");
        fs::write(folder.join("x/plugin.js"), text).expect("the folder is ours");
    });
    (origin, gateway.await)
}

const LATE: &str = "export function onRequest(request, ctx) {
    const work = async () => {
        await new Promise((keep) => setTimeout(keep, 700));
        const response = await fetch(`${ctx.config.origin}/noted`, { headers: { 'x-of': ctx.requestId } });
        ctx.log.info('noted', { status: response.status });
    };
    ctx.waitUntil(work());
}";

#[tokio::test]
async fn the_log_and_the_metrics_have_the_output_of_plugins() {
    let (_origin, gateway) = with(
        "export function onRequest(request, ctx) {
            ctx.log.warn('seen', { path: request.nextUrl.pathname, user: 'a b' });
            ctx.metrics.counter('seen', { route: ctx.route }).inc();
            ctx.metrics.histogram('took').observe(0.003);
        }",
        "",
    )
    .await;
    let request = get("/p").header("x-request-id", "not-ours");
    let response = gateway.send(&request).await;
    let id = response
        .header("x-request-id")
        .expect("each has one")
        .to_owned();
    let line = format!("seen plugin=x request_id={id} path=/p user=\"a b\"");
    wait_for("the line", SOON, async || {
        gateway.stderr().contains(&line).then_some(())
    })
    .await;
    gateway.get("/q").await;
    let seen = "edgeway_plugin_user_seen_total{plugin=\"x\",route=\"app\"}";
    gateway.counts(seen, 2).await;
    let took = gateway
        .metric("edgeway_plugin_user_took_count{plugin=\"x\"}")
        .await;
    assert!((took - 2.0).abs() < f64::EPSILON, "{took}");
}

#[tokio::test]
async fn a_line_of_console_is_one_line_of_the_log() {
    let text = "export function onRequest(request) {
        console.warn('seen', decodeURIComponent(request.nextUrl.search));
    }";
    let (_origin, gateway) = with(text, "").await;
    gateway.get("/?a%0AERROR%20b%0D%1B[2Kc").await;
    let line = "WARN  edgeway::plugin] seen ?a\\nERROR b\\r\\u{1b}[2Kc plugin=x\n";
    wait_for("the line", SOON, async || {
        gateway.stderr().contains(line).then_some(())
    })
    .await;
}

#[tokio::test]
async fn work_is_done_after_the_response() {
    let (origin, gateway) = with(LATE, "").await;
    let response = gateway.get("/").await;
    let id = response.header("x-request-id").expect("each has one");
    assert_eq!(origin.counts().requests(), 1, "only the request itself");
    let done = "edgeway_plugin_wait_until_total{outcome=\"done\",plugin=\"x\"}";
    gateway.counts(done, 1).await;
    assert_eq!(origin.counts().requests(), 2);
    let line = format!("noted plugin=x request_id={id} status=200");
    assert!(gateway.stderr().contains(&line), "{}", gateway.stderr());
}

#[tokio::test]
async fn a_stopping_gateway_finishes_background_work_and_waits_no_longer() {
    let (origin, mut gateway) = with(LATE, "").await;
    gateway.get("/").await;
    gateway.signal(Signal::TERM);
    assert!(gateway.leaves(SOON).await.success());
    assert_eq!(origin.counts().requests(), 2);
    // Work that exceeds its limit is not waited for.
    let text = "export const onRequest = (request, ctx) => ctx.waitUntil(new Promise(() => {}));";
    let (_origin, mut gateway) = with(text, ", limits: { wait_until: 200ms }").await;
    gateway.get("/").await;
    gateway.signal(Signal::TERM);
    assert!(gateway.leaves(SOON).await.success());
    let log = gateway.stderr();
    assert!(log.contains("did not end within 200ms"), "{log}");
}

const TELLS: &str = "export async function onLog(entry, ctx) {
    if (entry.path === '/throws') throw new Error('no');
    if (entry.path === '/slow') await new Promise((keep) => setTimeout(keep, 150));
    if (entry.path === '/stuck') await new Promise(() => {});
    const { status, route, upstream, bytes_out } = entry;
    return { status, route, upstream, long: bytes_out > 10, agent: ctx.request.headers.get('user-agent') };
}";

#[tokio::test]
async fn access_log_lines_have_fields_of_plugins_and_no_request_waits() {
    let (_origin, gateway) = with(TELLS, "").await;
    let mut connection = gateway.connect().await;
    // One connection: each request gets its response while `onLog` of the previous one still runs.
    for path in ["/slow", "/throws", "/stuck", "/"] {
        let request = get(path).header("user-agent", "a \"b\"");
        let response = connection.send(&request).await.expect("a response");
        assert_eq!(response.status(), 200);
    }
    let lines = gateway.log_lines(4).await;
    let of = |path: &str| {
        let line = lines.iter().find(|line| line["path"] == path);
        line.expect("each request has its line").clone()
    };
    for path in ["/", "/slow"] {
        let fields = &of(path)["plugins"]["x"];
        let expected = json!({
            "status": 200, "route": "app", "upstream": "app", "long": true, "agent": "a \"b\"",
        });
        assert_eq!(*fields, expected, "{path}");
    }
    for (path, kind) in [("/throws", "script"), ("/stuck", "wall")] {
        assert!(of(path).get("plugins").is_none(), "{path}");
        assert_eq!(of(path)["reason"], json!(null), "the request is as it was");
        let series =
            format!("edgeway_plugin_failures_total{{kind=\"{kind}\",plugin=\"x\",route=\"app\"}}");
        gateway.counts(&series, 1).await;
    }
    let total = of("/stuck")["total_ms"].as_f64().expect("a number");
    assert!(total < 200.0, "{total}");
}

#[tokio::test]
async fn the_compat_format_has_the_fields_too_and_a_stop_loses_no_line() {
    let origin = EchoOrigin::start().await;
    let yaml = Front::to(&origin)
        .with("access_log: { file: compat.log, format: compat }")
        .route("plugins: [{ file: x/plugin.js }]")
        .yaml();
    let mut gateway = Gateway::start_in(&yaml, |folder| {
        fs::create_dir(folder.join("x")).expect("the folder is ours");
        let text = "export const onLog = async (entry, ctx) => {
            await new Promise((keep) => setTimeout(keep, 100));
            return { path: entry.path + ' \"', tries: entry.attempts };
        };";
        fs::write(folder.join("x/plugin.js"), text).expect("the folder is ours");
    })
    .await;
    for _ in 0..20 {
        gateway.get("/p").await;
    }
    gateway.signal(Signal::TERM);
    assert!(gateway.leaves(SOON).await.success());
    let log = fs::read_to_string(gateway.folder().join("compat.log")).expect("it was written");
    let expected = " limit=- plugin.x.path=\"/p \\x22\" plugin.x.tries=1";
    assert_eq!(log.lines().count(), 20, "{log}");
    assert!(log.lines().all(|line| line.ends_with(expected)), "{log}");
}

#[tokio::test]
async fn the_status_lists_each_plugin_and_its_version() {
    let text = "export function onRequest(request) { if (request.nextUrl.pathname === '/no') throw new Error('no'); }";
    let (origin, gateway) = with(text, ", breaker: { failures: 2, clients: 1 }").await;
    gateway.get("/").await;
    let status = gateway.status().await;
    let plugin = status["plugins"][0].clone();
    assert_eq!(
        (&plugin["name"], &plugin["file"]),
        (&json!("x"), &json!("x/plugin.js"))
    );
    let route = json!({
        "route": "app", "calls": 1, "failures": {}, "recent_failures": 0, "left_out": false,
        "last_failure": null,
    });
    assert_eq!(plugin["routes"], json!([route]));
    assert!(plugin["isolates"].as_u64() > Some(0), "{plugin}");
    wait_for("the heap was looked at", SOON, async || {
        let status = gateway.status().await;
        (status["plugins"][0]["heap_bytes"].as_u64() > Some(10_000)).then_some(())
    })
    .await;
    for _ in 0..3 {
        gateway.get("/no").await;
    }
    let status = gateway.status().await;
    let route = json!({
        "route": "app", "calls": 3, "failures": { "script": 2, "breaker": 1 }, "left_out": true,
        "recent_failures": 2, "last_failure": "Error: no at onRequest (x/plugin.js:1:88)",
    });
    assert_eq!(status["plugins"][0]["routes"], json!([route]));
    // Another version replaces this one, in the metrics too.
    let version = |plugin: &serde_json::Value| {
        let version = plugin["version"].as_str().expect("it has one").to_owned();
        let series =
            format!("edgeway_plugin_info{{plugin=\"x\",route=\"app\",version=\"{version}\"}}");
        (version, series)
    };
    let (before, old) = version(&plugin);
    gateway.counts(&old, 1).await;
    fs::write(gateway.folder().join("x/plugin.js"), format!("{text}\n")).expect("it is ours");
    let yaml = fs::read_to_string(gateway.folder().join("edgeway.yaml")).expect("it was written");
    assert!(gateway.reload(&yaml).await);
    let status = gateway.status().await;
    assert_eq!(status["plugins"].as_array().map(Vec::len), Some(1));
    let (after, new) = version(&status["plugins"][0]);
    assert_ne!(before, after);
    gateway.counts(&new, 1).await;
    gateway.counts(&old, 0).await;
    drop(origin);
}
