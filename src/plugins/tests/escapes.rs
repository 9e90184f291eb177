//! Ways round the limits: what grows outside of the engine's heap, and what spoils our own
//! functions.

use super::*;
use crate::base::clock::Clock;

#[test]
fn what_never_ends_loading_is_refused() {
    let doubling = "const p = Promise.resolve(); const f = () => { p.then(f); p.then(f); }; f();";
    for attack in [
        doubling,
        "export const config = { get matcher() { for (;;); } };",
    ] {
        let text = format!("export function onRequest() {{}}; {attack}");
        let clock = Clock::machine();
        let begun = clock.now();
        let loaded = load_with(&[("plugin.js", &text)], "{}");
        assert!(loaded.is_err(), "{attack}");
        assert!(clock.now() - begun < Duration::from_secs(3), "{attack}");
    }
}

#[tokio::test]
async fn what_goes_on_in_an_instance_that_was_stopped_can_still_call() {
    let text = "export async function onRequest(req) {
        if (req.headers.has('x-loop')) for (;;);
        await new Promise((keep) => setTimeout(keep, 50));
        const f = (n) => n === 0 ? 0 : f(n - 1) + 1;
        req.headers.set('x-deep', f(50));
    }";
    let loaded = load(text);
    let mut stopping = input();
    stopping.headers.insert("x-loop", "1".parse().unwrap());
    let (waited, stopped) = tokio::join!(
        biased;
        loaded.request(),
        loaded.plugin.call(Hook::Request, stopping)
    );
    assert_eq!(stopped.unwrap_err().kind, Kind::Cpu);
    assert_eq!(waited.unwrap().request.len(), 1);
}

/// The engine forgets to let go of a value that `stackTraceLimit` had, and a runtime with such
/// a value cannot be freed.
#[tokio::test]
async fn an_engine_that_is_thrown_away_is_freed_whatever_was_set_of_errors() {
    let loaded = load(
        "Error.stackTraceLimit = {};
        Error.stackTraceLimit = { valueOf() { for (;;); } };
        Error.prepareStackTrace = () => { for (;;); };
        export function onRequest() { throw new Error('why'); }",
    );
    let failure = loaded.request().await.unwrap_err();
    assert_eq!(failure.message, "Error: why");
    assert!(
        failure.stack.contains("plugins/x/plugin.js:4:"),
        "{failure:?}"
    );
    drop(loaded);
}

/// The same long string over and over: nothing in the engine's heap, and all of it outside.
#[tokio::test]
async fn lists_of_texts_are_bounded_before_they_are_copied() {
    let long = "'x'.repeat(1 << 20)";
    let lists = [
        "String(new URLSearchParams(Array.from({ length: 1000 }, (_, n) => ['a', long])))",
        "ctx.log.info('x', Object.fromEntries(Array.from({ length: 1000 }, (_, n) => [`a${n}`, long])))",
        "ctx.metrics.counter('x', Object.fromEntries(Array.from({ length: 1000 }, (_, n) => [`a${n}`, long]))).inc()",
        "await fetch('http://a.test/', { headers: Array.from({ length: 1000 }, (_, n) => ['a', long]) })",
        "flat = () => new Array(2 ** 32 - 1).fill('a', 0, 5); String(new URLSearchParams('a=b'))",
        "flat = () => new Array(100000).fill(''); String(new URLSearchParams('a=b'))",
        "flat = () => new Array(100000).fill(''); return new Response('x')",
    ];
    let limits = Limits {
        cpu: Duration::from_secs(20),
        wall: Duration::from_secs(30),
        ..Limits::default()
    };
    for list in lists {
        let text = format!(
            "const long = {long};
            const own = Array.prototype.flat;
            let flat;
            Array.prototype.flat = function () {{ const made = flat ?? own; flat = undefined; return made.call(this); }};
            export async function onRequest(req, ctx) {{
                try {{ {list}; }} catch (error) {{ return new Response(`${{error.name}}: ${{error.message}}`); }}
            }}"
        );
        let loaded = engine::load_with_powers(&text, limits, "http://a.test");
        let clock = Clock::machine();
        let begun = clock.now();
        let said = match loaded.request().await {
            Ok(output) => match output.answer {
                Answer::Response(response) => String::from_utf8_lossy(&response.body).into_owned(),
                other => panic!("{list}: {other:?}"),
            },
            Err(failure) => failure.message,
        };
        let whys = ["of texts has 65536", "string", "out of memory"];
        let is_refused = whys.iter().any(|why| said.contains(why));
        assert!(is_refused, "{list}: {said}");
        assert!(clock.now() - begun < Duration::from_secs(8), "{list}");
    }
}

#[tokio::test]
async fn our_functions_are_counted_by_what_they_are_given() {
    for attack in [
        "try { req.headers.set('a', long); } catch {}",
        "try { req.headers.set(long, 'a'); } catch {}",
        "req.headers.get(long);",
        "console.debug(long);",
        "ctx.log.debug(long);",
        "try { ctx.metrics.counter(long).inc(); } catch {}",
        "try { await ctx.kv.get(long); } catch {}",
        "try { await fetch(long); } catch {}",
        "try { await fetch('http://a.test/', { method: 'POST', body: long }); } catch {}",
        "try { String(list); } catch {}",
    ] {
        let text = format!(
            "const long = 'x'.repeat(4 << 20);
            const list = new URLSearchParams([['a', long], ['b', long], ['c', long]]);
            export async function onRequest(req, ctx) {{ for (;;) {{ {attack} }} }}"
        );
        let limits = Limits {
            memory: 64 << 20,
            load: Duration::from_secs(5),
            ..Limits::default()
        };
        let loaded = engine::load_with_powers(&text, limits, "http://a.test");
        let clock = Clock::machine();
        let begun = clock.now();
        let failure = loaded.request().await.expect_err(attack);
        assert_eq!(failure.kind, Kind::Cpu, "{attack}: {failure:?}");
        assert!(clock.now() - begun < Duration::from_secs(2), "{attack}");
    }
}

/// What belongs to hooks that are over is forgotten by functions of ours.
#[tokio::test]
async fn what_a_plugin_makes_of_maps_and_lists_is_not_what_we_forget_by() {
    let loaded = load(
        "const loop = () => { for (;;); };
        for (const kind of [Map, Set]) for (const name of ['get', 'set', 'has', 'add', 'delete']) kind.prototype[name] = loop;
        Array.prototype[Symbol.iterator] = loop;
        export function onRequest(req) { setTimeout(() => {}, 60000); }",
    );
    for _ in 0..20 {
        assert_eq!(loaded.request().await, Ok(Output::default()));
    }
    let clock = Clock::machine();
    let begun = clock.now();
    loaded.request().await.unwrap();
    assert!(clock.now() - begun < Duration::from_millis(80));
}

#[test]
fn what_is_no_file_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/zero", folder.path().join("zero.js")).unwrap();
    for file in ["zero.js", "."] {
        let path = folder.path().join(file);
        let why = source::read(&path).unwrap_err();
        assert_eq!(why.to_string(), "it is no file", "{file}");
    }
    let text = "export function onRequest() {}; await import('./' + 'x'.repeat(5000));";
    let refused = load_with(&[("plugin.js", text)], "{}").map(|_| ());
    let why = refused.unwrap_err().message;
    assert!(why.contains("its path is too long"), "{why}");
}
