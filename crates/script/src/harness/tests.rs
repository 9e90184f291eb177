//! Reports that plugin tests get, and limits that they cannot break.

use std::{fs, sync::Arc};

use parking_lot::Mutex;
use tempfile::TempDir;

use super::*;

const PLUGIN: &str = "export function onRequest(req, ctx) {
    if (req.headers.get('x-fail')) throw new Error('on purpose');
    if (req.method === 'POST') return Response.json({ ip: ctx.ip, text: ctx.config.text }, { status: 403 });
    req.headers.set('x-seen', new URL(req.url).pathname);
    console.warn('seen', ctx.route);
}
export function onResponse(res, ctx) { res.headers.set('x-of', ctx.request.url); res.status = 203; }
export function onError(failed) { return new Response(`${failed.status} ${failed.reason}`, { status: 502 }); }
export const onCacheKey = (req) => req.headers.get('accept');";

const STORING: &str = "export async function onRequest(req, ctx) {
    req.headers.set('x-kept', `${ctx.env.REGION} ${await ctx.kv.increment('n')}`);
}";

struct TestRun {
    events: Vec<Event>,
    loaded: Result<(), Failure>,
    _folder: TempDir,
}

async fn tested(text: &str) -> TestRun {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("plugin.js"), PLUGIN).unwrap();
    fs::write(folder.path().join("kept.js"), STORING).unwrap();
    let file = folder.path().join("plugin.test.js");
    fs::write(
        &file,
        format!("import {{ assert, plugin, test }} from 'edgeway:test';\n{text}"),
    )
    .unwrap();
    let events: Arc<Mutex<Vec<Event>>> = Arc::default();
    let all = Arc::clone(&events);
    let loaded = run(
        "plugins/x",
        &file,
        Arc::new(move |event| all.lock().push(event)),
    )
    .await;
    let events = std::mem::take(&mut *events.lock());
    TestRun {
        events,
        loaded,
        _folder: folder,
    }
}

impl TestRun {
    fn tests(&self) -> Vec<&TestResult> {
        let mut all = Vec::new();
        for event in &self.events {
            if let Event::Tested(tested) = event {
                all.push(tested);
            }
        }
        all
    }

    #[track_caller]
    fn failure(&self, name: &str) -> &Failure {
        let tests = self.tests();
        let found = tests.iter().find(|tested| tested.name == name);
        let found = found.unwrap_or_else(|| panic!("{:?} {:?}", self.events, self.loaded));
        found.outcome.as_ref().expect_err(name)
    }

    #[track_caller]
    fn passes(&self, count: usize) {
        let tests = self.tests();
        assert_eq!(tests.len(), count, "{:?}", self.loaded);
        for tested in tests {
            assert!(tested.outcome.is_ok(), "{tested:?}");
        }
    }
}

#[tokio::test]
async fn a_test_calls_hooks_and_reads_what_they_did() {
    let tested_file = tested(
        "const p = plugin({ config: { text: 'hello' } });
        test('a request goes on', async () => {
            const done = await p.onRequest(new Request('https://a.test/x?y', { headers: { a: '1' } }), { route: 'shop' });
            assert.equal(done.response, undefined);
            assert.equal(done.request.headers.get('x-seen'), '/x');
            assert.equal(done.request.headers.get('host'), 'a.test');
            assert.deepEqual(done.console, [{ level: 'warn', text: 'seen shop' }]);
            assert.ok(done.wall >= 0 && done.cpu >= 0);
        });
        test('it responds', async () => {
            const { response } = await p.onRequest(new Request('https://a.test/', { method: 'POST' }), { ip: '192.0.2.9' });
            assert.equal(response.status, 403);
            assert.match(response.headers.get('content-type'), /json/);
            assert.deepEqual(await response.json(), { ip: '192.0.2.9', text: 'hello' });
        });
        test('a response is changed', async () => {
            const done = await p.onResponse(new Response('', { headers: { b: '2' } }), { request: 'https://a.test/z' });
            assert.equal(done.status, 203);
            assert.deepEqual(done.headers, new Headers({ b: '2', 'content-type': 'text/plain;charset=UTF-8', 'x-of': 'https://a.test/z' }));
        });
        test('an error has a page', async () => {
            const { response } = await p.onError({ status: 504, reason: 'late' });
            assert.equal(await response.text(), '504 late');
        });
        test('a key', async () => {
            assert.equal((await p.onCacheKey(new Request('https://a.test/', { headers: { accept: '*/*' } }))).value, '*/*');
            assert.throws(() => p.onRoute('https://a.test/'), /no onRoute/);
            assert.deepEqual(p.hooks, ['onRequest', 'onCacheKey', 'onResponse', 'onError']);
        });
        test('a failure is a rejection with its own trace', async () => {
            const failing = p.onRequest(new Request('https://a.test/', { headers: { 'x-fail': '1' } }));
            await assert.rejects(failing, { kind: 'script', message: /on purpose/, stack: /x\\/plugin.js:2:/ });
        });
        test('what it keeps and finds in the environment', async () => {
            const kept = plugin({ file: './kept.js', env: { REGION: 'eu' } });
            assert.equal((await kept.onRequest('https://a.test/')).request.headers.get('x-kept'), 'eu 1');
            assert.equal((await kept.onRequest('https://a.test/')).request.headers.get('x-kept'), 'eu 2');
        });
        test('it waits', () => new Promise((keep) => setTimeout(keep, 1)));",
    )
    .await;
    tested_file.passes(8);
}

#[tokio::test]
async fn failures_have_messages_and_positions() {
    let tested_file = tested(
        "test('equal', () => {
            assert.equal(1, 2);
        });
        test('plugin', () => plugin().onRequest(new Request('https://a.test/', { headers: { 'x-fail': '1' } })));
        test('thrown', () => { throw 'a text'; });
        test('load', () => { plugin({ file: './gone.js' }); });
        test('nested', () => { test('inner', () => {}); });
        test('good', () => console.log('a line'));",
    )
    .await;
    let equal = tested_file.failure("equal");
    assert_eq!(equal.message, "AssertionError: expected 2, got 1");
    assert!(
        equal.stack.contains("(plugins/x/plugin.test.js:3:"),
        "{equal:?}"
    );
    assert!(!equal.stack.contains("edgeway/"), "{equal:?}");
    let thrown = tested_file.failure("plugin");
    assert!(thrown.message.contains("on purpose"), "{thrown:?}");
    assert!(
        thrown.stack.contains("(plugins/x/plugin.js:2:"),
        "{thrown:?}"
    );
    assert_eq!(tested_file.failure("thrown").message, "it threw \"a text\"");
    assert!(
        tested_file
            .failure("load")
            .message
            .contains("plugins/x/gone.js")
    );
    assert!(
        tested_file
            .failure("nested")
            .message
            .contains("within a test")
    );
    assert!(tested_file.tests()[5].outcome.is_ok());
    let is_line =
        |event: &Event| matches!(event, Event::Line(Level::Info, text) if text == "a line");
    assert!(
        tested_file.events.iter().any(is_line),
        "{:?}",
        tested_file.events
    );
}

#[tokio::test]
async fn assertions_hold_for_true_claims_only() {
    let tested_file = tested(
        "const holds = [
            () => assert(1), () => assert.ok('a'), () => assert.equal(NaN, NaN), () => assert.notEqual(0, -0),
            () => assert.deepEqual({ a: [1, { b: new Map([['c', new Set([1])]]) }] }, { a: [1, { b: new Map([['c', new Set([1])]]) }] }),
            () => assert.deepEqual(new Uint8Array([1]), new Uint8Array([1])), () => assert.match('abc', /b/),
            () => assert.throws(() => null.a, TypeError), () => assert.throws(() => { throw new Error('x'); }, { message: 'x' }),
            () => assert.throws(() => { throw new Error('x'); }, (error) => error.message === 'x'),
        ];
        const holdsNot = [
            () => assert(0), () => assert.ok(''), () => assert.equal(1, '1'), () => assert.notEqual(1, 1),
            () => assert.deepEqual({ a: 1 }, { a: 1, b: undefined }), () => assert.deepEqual([1], { 0: 1 }),
            () => assert.deepEqual(new Map([[1, 2]]), new Map([[1, 3]])), () => assert.deepEqual(new Date(1), new Date(2)),
            () => assert.match('abc', /d/), () => assert.match(undefined, /u/), () => assert.throws(() => {}),
            () => assert.throws(() => { throw new Error('x'); }, TypeError), () => assert.throws(() => { throw new Error('x'); }, /y/),
            () => assert.throws(() => { throw new Error('x'); }, () => false),
        ];
        for (const what of holds) test(String(what), what);
        for (const what of holdsNot) test(String(what), () => assert.throws(what, assert.AssertionError));
        test('rejects', async () => {
            await assert.rejects(async () => { throw new Error('x'); }, /x/);
            await assert.rejects(assert.rejects(Promise.resolve()), assert.AssertionError);
        });",
    )
    .await;
    tested_file.passes(25);
}

#[tokio::test]
async fn a_test_that_does_not_end_fails_and_so_do_later_ones() {
    let tested_file = tested(
        "test('first', () => {});
        test('never', () => new Promise(() => {}));
        test('behind', () => {});",
    )
    .await;
    assert!(tested_file.tests()[0].outcome.is_ok());
    assert!(
        tested_file
            .failure("never")
            .message
            .contains("never settles")
    );
    assert!(tested_file.failure("behind").message.contains("not run"));
}

#[tokio::test]
async fn a_plugin_under_test_has_the_limits_of_a_route() {
    let folder = tempfile::tempdir().unwrap();
    let text = "export function onRequest() { for (;;); }";
    fs::write(folder.path().join("plugin.js"), text).unwrap();
    let file = folder.path().join("a.test.js");
    let text = "import { assert, plugin, test } from 'edgeway:test';
        const p = plugin();
        test('it is stopped', () => assert.rejects(p.onRequest('https://a.test/'), { kind: 'cpu' }));
        test('and again', () => assert.rejects(p.onRequest('https://a.test/'), { kind: 'cpu' }));";
    fs::write(&file, text).unwrap();
    let passed = Arc::new(Mutex::new(0));
    let count = Arc::clone(&passed);
    let report = move |event| {
        if let Event::Tested(tested) = event {
            tested.outcome.unwrap();
            *count.lock() += 1;
        }
    };
    run("x", &file, Arc::new(report)).await.unwrap();
    assert_eq!(*passed.lock(), 2);
}

#[tokio::test]
async fn only_tests_can_import_the_test_module() {
    let folder = tempfile::tempdir().unwrap();
    let text = "import 'edgeway:test'; export function onRequest() {}";
    fs::write(folder.path().join("plugin.js"), text).unwrap();
    let source = Source::read("x", &folder.path().join("plugin.js")).unwrap();
    let refused = crate::ManualPlugin::load(source, "{}".to_owned(), "{}".to_owned());
    let failure = refused.map(|_| ()).unwrap_err();
    assert!(failure.message.contains("its own folder"), "{failure:?}");
    for text in [
        "import t from 'node:test';",
        "import { describe } from 'edgeway:test';",
    ] {
        let failure = tested(text).await.loaded.unwrap_err();
        assert!(
            failure.message.contains("`test`, `plugin` and `assert`"),
            "{failure:?}"
        );
    }
    let tested_file = tested("nothing();").await;
    assert!(tested_file.loaded.unwrap_err().message.contains("nothing"));
}
