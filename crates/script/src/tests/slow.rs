//! Loops of native calls that take long: to the engine each is one step.

use super::{log_line::bench_in, *};

/// Counts iterations, since their time depends on the machine.
const LOOP: &str = "const text = 'y'.repeat(30000);
    export function onRequest(req, ctx) {
        if (!req.headers.has('x-loop')) return new Response('quiet');
        const turns = ctx.metrics.counter('turns');
        for (;;) { turns.inc(); text.indexOf('yx'); }
    }";

/// Steps between two interrupts of the engine.
const STEPS: u64 = 10_000;

#[tokio::test]
async fn a_loop_of_slow_calls_ends_at_the_first_interrupt() {
    let bench = bench_in(LOOP, Duration::from_secs(5), Isolation::Worker);
    let mut before = 0;
    for _ in 0..3 {
        let failure = bench.with("x-loop").await.expect_err("it does not end");
        assert_eq!(failure.kind, FailureKind::Cpu, "{failure:?}");
        let all = bench.count("edgeway_plugin_user_turns_total{plugin=\"x\"}");
        // Each iteration has two calls, beside the step of the loop.
        assert!(all - before <= STEPS / 3, "{before} → {all}");
        before = all;
        bench.with("x-quiet").await.unwrap();
    }
}

#[tokio::test]
async fn on_threads_a_loop_of_slow_calls_holds_only_its_thread() {
    let bench = bench_in(LOOP, Duration::from_secs(5), Isolation::Thread);
    for _ in 0..3 {
        let failure = bench.with("x-loop").await.expect_err("it does not end");
        let is_stopped = matches!(failure.kind, FailureKind::Stuck | FailureKind::Cpu);
        assert!(is_stopped, "{failure:?}");
        // Hooks that wait for the replacement thread may time out.
        let quiet = async { while bench.with("x-quiet").await.is_err() {} };
        let quiet = tokio::time::timeout(Duration::from_mins(1), quiet).await;
        quiet.expect("a thread takes its place");
    }
}

#[tokio::test]
async fn cpu_time_adds_up_over_waits() {
    let text = "const text = 'y'.repeat(800000);
        export async function onRequest(req, ctx) {
            for (let turn = 0; turn < 1000; turn++) {
                const begun = Date.now();
                while (Date.now() - begun < 15) text.indexOf('yx');
                await ctx.kv.get('a');
            }
        }";
    let limits = HookLimits {
        cpu: Duration::from_millis(40),
        wall: Duration::from_secs(20),
        load: Duration::from_secs(5),
        ..HookLimits::default()
    };
    let capabilities = capabilities::Capabilities {
        kv: Some(kv::Kv::memory(Arc::new(kv::Memory::new(&Clock::machine())))),
        ..capabilities::Capabilities::default()
    };
    let loaded = load_within(&[("plugin.js", text)], "{}", limits, capabilities).unwrap();
    // A busy machine gives each iteration less of its CPU: there are enough of them anyway.
    let failure = loaded.request().await.expect_err("its time adds up");
    assert_eq!(failure.kind, FailureKind::Cpu, "{failure:?}");
}
