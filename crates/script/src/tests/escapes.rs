//! Ways around the limits: memory outside the engine's heap, and overrides that break host
//! functions.

use super::*;
use crate::base::clock::Clock;

/// Each of these has native code catch the stop, most as a rejected promise, and goes on.
const STOP_CATCHERS: [&str; 12] = [
    "const f = async () => { for (;;); }; for (;;) f();",
    "const f = async () => { for (;;); }; for (;;) { try { f(); } catch {} finally { try { f(); } catch {} } }",
    "for (;;) new Promise(() => { for (;;); });",
    "for (;;) Promise.resolve({ get then() { for (;;); } });",
    "for (;;) (async function* () { for (;;); })().next();",
    "for (;;) Array.fromAsync([1, 2]);",
    "for (;;) import({ toString() { for (;;); } });",
    "const f = () => new Promise(() => { f(); for (;;); }); for (;;) f();",
    "const g = (async function* () { for (;;) yield 1; })(); for (;;) g.next();",
    "for (;;) new Promise(() => { while (true) /(a+)+$/.test('a'.repeat(40) + 'b'); });",
    "for (;;) new Promise(() => { /(a+)+$/.test('a'.repeat(40) + 'b'); });",
    "class C { constructor(f) { f(() => {}, () => {}); } } for (;;) Promise.try.call(C, () => { for (;;); });",
];

/// The heap is full to its last bytes when these are stopped.
const HEAP_FILLERS: [&str; 5] = [
    "for (;;) { try { for (;;); } catch {} }",
    "const f = async () => { for (;;); }; for (;;) { try { f(); } catch {} }",
    "const f = async () => { throw 1; }; for (;;) { try { f(); } catch {} all[--at] = 0; }",
    "const f = async () => { throw 1; }; for (;;) { try { for (;;) f(); } catch {} all[--at] = 0; }",
    "for (;;) { try { new Promise(() => { for (;;); }); } catch {} all[--at] = 0; }",
];

#[tokio::test]
async fn a_stop_that_native_code_catches_still_stops_the_hook() {
    for attack in STOP_CATCHERS {
        for asynchronous in ["", "async "] {
            let loaded = load(&format!(
                "export {asynchronous}function onRequest(req) {{ if (req.headers.has('host')) {{ {attack} }} }}"
            ));
            let clock = Clock::machine();
            let begun = clock.now();
            let failure = loaded.request().await.expect_err(attack);
            let is_stopped = matches!(failure.kind, FailureKind::Cpu | FailureKind::Memory);
            assert!(is_stopped, "{attack}: {failure:?}");
            assert!(clock.now() - begun < SOON, "{attack}");
            let quiet = Input {
                headers: HeaderMap::new(),
                ..input()
            };
            let next = loaded.plugin.call(Hook::Request, quiet).await;
            assert_eq!(next, Ok(Output::default()), "{attack}");
        }
    }
}

#[tokio::test]
async fn hooks_with_a_full_heap_are_stopped_too() {
    for attack in HEAP_FILLERS {
        for is_async in ["", "async "] {
            let text = format!(
                "let all = new Array(40000).fill(0), at = 0;
                const objects = () => {{ for (;;) all[at++] = {{}}; }};
                const texts = () => {{ for (;;) all[at++] = `${{at}}x`; }};
                export {is_async}function onRequest() {{
                    try {{ objects(); }} catch {{}}
                    try {{ texts(); }} catch {{}}
                    {attack}
                }}"
            );
            let limits = HookLimits {
                memory: 2 << 20,
                cpu: Duration::from_millis(100),
                ..HookLimits::default()
            };
            let loaded = engine::load_with_powers(&text, limits, "http://a.test");
            let failure = loaded.request().await.expect_err(attack);
            let is_stopped = matches!(failure.kind, FailureKind::Cpu | FailureKind::Memory);
            assert!(is_stopped, "{attack}: {failure:?}");
        }
    }
}

/// Wherever the heap runs out, the engine goes on, and can be freed.
#[tokio::test]
async fn the_heap_may_become_full_at_any_point() {
    let text = r#"const stored = new Map();
        class Own extends Map { #a = [1]; get a() { return this.#a; } static { this.b = {}; } }
        function* numbers() { for (let n = 0; n < 5; n++) yield { n }; }
        async function* later() { for (let n = 0; n < 5; n++) yield await { n }; }
        const broken = async (one) => { await one; throw new Error('x'); };
        export async function onRequest(req, ctx) {
            const own = new Own([[{}, []]]);
            const list = [...numbers()].map((one) => ({ ...one, own })).sort((a, b) => b.n - a.n);
            for await (const one of later()) list.push(one);
            await Promise.all(list.map(broken).map((one) => one.catch(() => 1)));
            await Promise.allSettled([Promise.reject(1), Promise.any([Promise.reject(2)]), new Promise((keep, no) => no())]);
            const text = JSON.stringify(JSON.parse('[1,{"a":[2,"é"]}]')) + 'a-b-c'.replace(/(b)|(?<n>c)/g, (all) => `${all}!`);
            const parts = text.split(/,/).join('|').padStart(300, 'é').toUpperCase().normalize('NFD');
            req.headers.set('x-a', new URL('http://a.test/?b=c#d').searchParams.get('b'));
            for (const [name, value] of req.headers) stored.set(name + parts.length, value);
            try { null.x; } catch (error) { ctx.log.info(error.stack); }
            const proxy = new Proxy({}, { get: (target, name) => [target, name], ownKeys: () => ['a'] });
            Reflect.ownKeys(proxy).concat(proxy.a, Object.entries(own), [new Uint8Array(64).subarray(3), 10n ** 40n, Symbol('s')]);
            label: for (const a in { b: 1, c: 2 }) { try { continue label; } finally { stored.clear(); } }
            const { a = new Date(0).toISOString(), ...rest } = Object.create({ z: 1 }, { y: { value: 1, enumerable: true } });
            Promise.resolve().then(() => rest.y);
            const made = new Function('a', 'if (a) { let b = 1; for (const c of [1]) { b += c; } return [b, { a }, `${a}`]; }');
            eval(`(${made.constructor('return class { #a = 1; get a() { return this.#a; } }')})`);
            const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', new Uint8Array(9)));
            return new Response(new TextEncoder().encode(parts + a), { headers: { 'x-c': btoa(String.fromCharCode(...digest)) } });
        }"#;
    let with = |memory| {
        let limits = HookLimits {
            memory,
            wall: Duration::from_millis(500),
            ..HookLimits::default()
        };
        engine::try_with_powers(text, limits, "http://a.test")
    };
    let whole = with(8 << 20).unwrap();
    whole.request().await.unwrap();
    let heap = usize::try_from(whole.plugin.heap()).unwrap();
    let (mut failed, mut done) = (0, 0);
    // The engine allocates memory in units of 16 bytes.
    for unit in (0..4000).step_by(33) {
        let Ok(loaded) = with(heap - (8 << 10) + 16 * unit) else {
            continue;
        };
        match loaded.request().await {
            Ok(_) => done += 1,
            Err(_) => failed += 1,
        }
    }
    assert!(
        failed > 20 && done > 20,
        "{failed} failed, {done} were done"
    );
}

#[test]
fn plugins_that_never_finish_loading_are_refused() {
    let doubling = "const p = Promise.resolve(); const f = () => { p.then(f); p.then(f); }; f();";
    for attack in STOP_CATCHERS.into_iter().chain([
        doubling,
        "export const config = { get matcher() { for (;;); } };",
    ]) {
        let text = format!("export function onRequest() {{}}; {attack}");
        let clock = Clock::machine();
        let begun = clock.now();
        let loaded = load_with(&[("plugin.js", &text)], "{}");
        assert!(loaded.is_err(), "{attack}");
        assert!(clock.now() - begun < SOON, "{attack}");
    }
}

#[tokio::test]
async fn hooks_that_wait_in_a_stopped_instance_can_still_call() {
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
    assert_eq!(stopped.unwrap_err().kind, FailureKind::Cpu);
    assert_eq!(waited.unwrap().request.len(), 1);
}

/// The engine does not release a value that `stackTraceLimit` had, and a runtime with such a value
/// cannot be freed.
#[tokio::test]
async fn a_discarded_engine_is_freed_whatever_error_properties_were_set() {
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

/// The same long string many times: little in the engine's heap, and all of it outside.
#[tokio::test]
async fn lists_of_strings_are_bounded_before_they_are_copied() {
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
    let limits = HookLimits {
        cpu: Duration::from_secs(20),
        wall: Duration::from_secs(30),
        ..HookLimits::default()
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
        let message = match loaded.request().await {
            Ok(output) => match output.result {
                HookResult::Response(response) => {
                    String::from_utf8_lossy(&response.body).into_owned()
                }
                other => panic!("{list}: {other:?}"),
            },
            Err(failure) => failure.message,
        };
        let whys = ["of texts has 65536", "string", "out of memory"];
        let is_refused = whys.iter().any(|why| message.contains(why));
        assert!(is_refused, "{list}: {message}");
        assert!(clock.now() - begun < SOON, "{list}");
    }
}

#[tokio::test]
async fn host_functions_are_counted_by_their_arguments() {
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
        let limits = HookLimits {
            memory: 64 << 20,
            load: Duration::from_secs(5),
            ..HookLimits::default()
        };
        let loaded = engine::load_with_powers(&text, limits, "http://a.test");
        let clock = Clock::machine();
        let begun = clock.now();
        let failure = loaded.request().await.expect_err(attack);
        assert_eq!(failure.kind, FailureKind::Cpu, "{attack}: {failure:?}");
        assert!(clock.now() - begun < SOON, "{attack}");
    }
}

/// Host functions drop what belongs to hooks that are over.
#[tokio::test]
async fn overridden_collections_do_not_affect_the_cleanup() {
    let loaded = load(
        "const loop = () => { for (;;); };
        for (const kind of [Map, Set]) for (const name of ['get', 'set', 'has', 'add', 'delete']) kind.prototype[name] = loop;
        Array.prototype[Symbol.iterator] = loop;
        let calls = 0;
        export function onRequest(req) { setTimeout(() => {}, 60000); req.headers.set('x-calls', String(++calls)); }",
    );
    for _ in 0..20 {
        loaded.request().await.unwrap();
    }
    // An instance that had been stopped in such a loop would have started to count again.
    let mut headers = HeaderMap::new();
    for change in loaded.request().await.unwrap().request {
        change.apply(&mut headers);
    }
    assert_eq!(headers["x-calls"], "21");
}

#[test]
fn paths_that_are_no_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/zero", folder.path().join("zero.js")).unwrap();
    for file in ["zero.js", "."] {
        let path = folder.path().join(file);
        let why = source::read(&path).unwrap_err();
        assert_eq!(why.to_string(), "it is not a file", "{file}");
    }
    let text = "export function onRequest() {}; await import('./' + 'x'.repeat(5000));";
    let refused = load_with(&[("plugin.js", text)], "{}").map(|_| ());
    let why = refused.unwrap_err().message;
    assert!(why.contains("its path is too long"), "{why}");
}
