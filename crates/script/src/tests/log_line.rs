//! Output of a plugin through `ctx`: log, metrics, and work after the hook.

use edgeway_net::tasks::Tasks;

use super::*;
use crate::base::{metrics::Metrics, user_metrics::UserMetrics};

pub(super) struct Bench {
    loaded: Loaded,
    metrics: Metrics,
    wait_until: wait_until::WaitUntil,
}

/// Loads a plugin whose `ctx.waitUntil` work may take this long.
fn bench(text: &str, wait_until: Duration) -> Bench {
    bench_in(text, wait_until, Isolation::Worker)
}

pub(super) fn bench_in(text: &str, wait_until: Duration, isolation: Isolation) -> Bench {
    let metrics = Metrics::default();
    let user = Arc::new(UserMetrics::new("x", &metrics));
    metrics.serve_too(&user);
    let work = wait_until::WaitUntil::new("x", Tasks::default(), &metrics);
    let capabilities = capabilities::Capabilities {
        kv: Some(kv::Kv::memory(Arc::new(kv::Memory::new(&Clock::machine())))),
        metrics: user,
        wait_until: work.clone(),
        ..capabilities::Capabilities::default()
    };
    let limits = HookLimits {
        wait_until,
        isolation,
        ..HookLimits::default()
    };
    let loaded = load_within(&[("plugin.js", text)], "{}", limits, capabilities);
    Bench {
        loaded: loaded.unwrap_or_else(|failure| panic!("{failure:?}")),
        metrics,
        wait_until: work,
    }
}

impl Bench {
    #[track_caller]
    fn counts(&self, line: &str) {
        let text = String::from_utf8(self.metrics.text()).unwrap();
        assert!(text.contains(&format!("{line}\n")), "{line}: {text}");
    }

    pub(super) fn count(&self, series: &str) -> u64 {
        let text = String::from_utf8(self.metrics.text()).unwrap();
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(series));
        lines.next().unwrap().trim().parse().unwrap()
    }

    fn ended(&self, outcome: &str, times: u32) {
        self.counts(&format!(
            "edgeway_plugin_wait_until_total{{outcome=\"{outcome}\",plugin=\"x\"}} {times}"
        ));
    }

    pub(super) async fn with(&self, name: &'static str) -> Result<Output, Failure> {
        let mut input = input();
        input.headers.insert(name, "1".parse().unwrap());
        self.loaded.plugin.call(Hook::Request, input).await
    }
}

const WORK: &str = "const sleep = (ms) => new Promise((keep) => setTimeout(keep, ms));
    export async function onRequest(req, ctx) {
        if (req.headers.has('x-ask')) return new Response(String(await ctx.kv.get('stored')));
        if (req.headers.has('x-loop')) for (;;);
        ctx.waitUntil((async () => {
            await sleep(2000);
            await ctx.kv.put('stored', `${ctx.requestId} ${req.headers.get('host')}`);
        })());
    }";

#[tokio::test]
async fn work_continues_after_the_response() {
    let bench = bench(WORK, Duration::from_secs(5));
    let clock = Clock::machine();
    let begun = clock.now();
    bench.loaded.request().await.unwrap();
    assert!(clock.now() - begun < Duration::from_millis(1900));
    let stored = async || match bench.with("x-ask").await.unwrap().result {
        HookResult::Response(response) => response.body,
        other => panic!("{other:?}"),
    };
    assert_eq!(stored().await, "undefined");
    bench.wait_until.join().await;
    assert_eq!(stored().await, "id a.test");
    bench.ended("done", 1);
}

#[tokio::test]
async fn work_continues_while_its_instance_is_replaced() {
    let bench = bench(WORK, Duration::from_secs(5));
    bench.loaded.request().await.unwrap();
    let stopped = bench.with("x-loop").await.unwrap_err();
    assert_eq!(stopped.kind, FailureKind::Cpu);
    bench.wait_until.join().await;
    bench.ended("done", 1);
    let stored = bench.with("x-ask").await.unwrap();
    assert!(
        matches!(stored.result, HookResult::Response(response) if response.body == "id a.test")
    );
}

#[tokio::test]
async fn work_that_does_not_end_or_fails_is_stopped_and_counted() {
    for attack in [
        "new Promise(() => {})",
        "sleep(60000)",
        "sleep(5).then(() => { for (;;); })",
        "(async () => { for (;;) await sleep(0); })()",
        "Promise.reject(new Error('no'))",
        "sleep(5).then(() => req.headers.set('a', 'b'))",
    ] {
        let text = format!(
            "const sleep = (ms) => new Promise((keep) => setTimeout(keep, ms));
            export function onRequest(req, ctx) {{ if (req.headers.has('host')) ctx.waitUntil({attack}); }}"
        );
        let bench = bench(&text, Duration::from_millis(200));
        let clock = Clock::machine();
        let begun = clock.now();
        assert_eq!(
            bench.loaded.request().await,
            Ok(Output::default()),
            "{attack}"
        );
        bench.wait_until.join().await;
        assert!(clock.now() - begun < SOON, "{attack}");
        bench.ended("failed", 1);
        let quiet = Input {
            headers: HeaderMap::new(),
            ..input()
        };
        let next = bench.loaded.plugin.call(Hook::Request, quiet).await;
        assert_eq!(next, Ok(Output::default()), "{attack}");
    }
}

#[tokio::test]
async fn work_in_flight_is_bounded() {
    let bench = bench(
        "export function onRequest(req, ctx) {
            ctx.waitUntil(new Promise((keep) => setTimeout(keep, 2000)));
            if (req.headers.has('x-many')) for (let n = 0; n < 16; n++) ctx.waitUntil(0);
        }",
        Duration::from_secs(5),
    );
    for _ in 0..260 {
        bench.loaded.request().await.unwrap();
    }
    bench.ended("dropped", 4);
    let many = bench.with("x-many").await.unwrap_err();
    assert!(many.message.contains("16 promises"), "{many:?}");
}

#[tokio::test]
async fn values_are_counted_under_names_of_the_plugin() {
    let bench = bench(
        "export function onRequest(req, ctx) {
            ctx.metrics.counter('seen', { kind: 'a', n: 1 }).inc();
            ctx.metrics.counter('seen', { n: 1, kind: 'a' }).inc(2);
            ctx.metrics.histogram('waited').observe(0.3);
            try { ctx.metrics.counter('seen').inc(); } catch (error) { return new Response(`${error}`); }
        }",
        Duration::from_secs(5),
    );
    let HookResult::Response(response) = bench.loaded.request().await.unwrap().result else {
        panic!("other labels are refused");
    };
    assert_eq!(
        response.body,
        "TypeError: `seen` has only these labels: `kind`, `n`"
    );
    bench.counts("edgeway_plugin_user_seen_total{kind=\"a\",n=\"1\",plugin=\"x\"} 3");
    bench.counts("edgeway_plugin_user_waited_sum{plugin=\"x\"} 0.3");
}

#[tokio::test]
async fn log_lines_have_fields_and_stay_single_lines() {
    let text = r"export function onRequest(req, ctx) {
        ctx.log.warn('a\nb', { user: 'ann', n: 2, text: 'x y\n', list: [1], none: undefined });
        ctx.log.debug(new Error('no').message);
        for (const name of ['', 'a b', 'plugin', 'request_id']) {
            try { ctx.log.info('x', { [name]: 1 }); } catch { continue; }
            throw new Error(name);
        }
    }";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plugin.js");
    fs::write(&path, text).unwrap();
    let source = source::Source::read("plugins/x", &path).unwrap();
    let trial = ManualPlugin::load(source, "{}".to_owned(), "{}".to_owned()).unwrap();
    let ran = trial.run(Hook::Request, input()).await;
    assert_eq!(ran.outcome, Ok(Output::default()));
    let lines: Vec<_> = ran.lines.iter().map(|l| (l.level, &*l.text)).collect();
    assert_eq!(
        lines,
        [
            (
                log::Level::Warn,
                r#"a\nb user=ann n=2 text="x y\n" list=[1]"#
            ),
            (log::Level::Debug, "no"),
        ]
    );
}

#[tokio::test]
async fn access_log_lines_get_valid_fields_only() {
    let run = async |gives: &str| {
        let text = format!("export const onLog = (entry, ctx) => {gives};");
        let loaded = load(&text);
        let input = Input {
            entry: Some(r#"{"status":404,"path":"/x"}"#.to_owned()),
            ..input()
        };
        loaded.plugin.call(Hook::Log, input).await
    };
    let returned =
        run("({ slow: entry.status > 400, where: entry.path + ctx.requestId, none: undefined })");
    let expected = HookResult::Json(r#"{"slow":true,"where":"/xid"}"#.to_owned());
    assert_eq!(returned.await.unwrap().result, expected);
    assert_eq!(run("undefined").await.unwrap().result, HookResult::Nothing);
    for wrong in [
        "'text'",
        "({ 'a b': 1 })",
        "({ '': 1 })",
        "({ a: [1] })",
        "({ a: NaN })",
        "({ a: 'x'.repeat(3000) })",
        "Object.fromEntries([...Array(17).keys()].map((n) => [`a${n}`, n]))",
        "ctx.request.headers.set('a', 'b').x",
    ] {
        let failure = run(wrong).await.expect_err(wrong);
        assert_eq!(failure.kind, FailureKind::Script, "{wrong}: {failure:?}");
    }
}

#[tokio::test]
async fn work_of_a_plugin_with_threads_continues_on_its_thread() {
    let bench = bench_in(WORK, Duration::from_secs(5), Isolation::Thread);
    bench.loaded.request().await.unwrap();
    bench.wait_until.join().await;
    bench.ended("done", 1);
    let stored = bench.with("x-ask").await.unwrap();
    assert!(
        matches!(stored.result, HookResult::Response(response) if response.body == "id a.test")
    );
    let text = "export const onRequest = (req, ctx) => ctx.waitUntil(new Promise(() => {}));";
    let bench = bench_in(text, Duration::from_millis(300), Isolation::Thread);
    bench.loaded.request().await.unwrap();
    bench.wait_until.join().await;
    bench.ended("failed", 1);
}

#[tokio::test]
async fn work_queued_for_a_thread_gets_its_time_from_its_start() {
    let text = "export function onRequest(req, ctx) {
        ctx.waitUntil(new Promise((keep) => setTimeout(keep, 100)).then(() => {
            for (const end = Date.now() + 60; Date.now() < end; );
        }));
    }";
    let metrics = Metrics::default();
    let work = wait_until::WaitUntil::new("x", Tasks::default(), &metrics);
    let capabilities = capabilities::Capabilities {
        wait_until: work.clone(),
        ..capabilities::Capabilities::default()
    };
    let limits = HookLimits {
        cpu: Duration::from_secs(5),
        wait_until: Duration::from_secs(30),
        isolation: Isolation::Thread,
        ..HookLimits::default()
    };
    let loaded = load_within(&[("plugin.js", text)], "{}", limits, capabilities)
        .unwrap_or_else(|failure| panic!("{failure:?}"));
    // One thread, which is busy with all of them for more than twice the wall limit.
    for _ in 0..10 {
        loaded.request().await.unwrap();
    }
    work.join().await;
    Bench {
        loaded,
        metrics,
        wait_until: work,
    }
    .ended("done", 10);
}
