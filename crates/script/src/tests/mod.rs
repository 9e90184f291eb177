//! Plugins as the gateway calls them, and their limits.

mod engine;
mod escapes;
mod log_line;
mod patterns;
mod secrets;
mod slow;
mod text;
mod threads;
mod web;

use std::{fs, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use tempfile::TempDir;

use super::*;
use crate::base::clock::Clock;

/// Time within which a plugin is stopped, also on a busy machine. What is not stopped takes for ever.
const SOON: Duration = Duration::from_secs(20);

struct Loaded {
    plugin: Arc<Plugin>,
    folder: TempDir,
}

/// Loads with the default limits, except that hooks may wait for a busy machine.
fn load_with(files: &[(&str, &str)], config: &str) -> Result<Loaded, Failure> {
    let limits = HookLimits {
        wall: SOON / 2,
        ..HookLimits::default()
    };
    load_within(files, config, limits, capabilities::Capabilities::default())
}

/// Loads with limits that are wide enough for a debug build.
fn load_slow(files: &[(&str, &str)]) -> Loaded {
    let limits = HookLimits {
        cpu: Duration::from_secs(5),
        wall: Duration::from_secs(10),
        load: Duration::from_secs(5),
        ..HookLimits::default()
    };
    load_within(files, "{}", limits, capabilities::Capabilities::default())
        .unwrap_or_else(|failure| panic!("{failure:?}"))
}

fn load_within(
    files: &[(&str, &str)],
    config: &str,
    limits: HookLimits,
    capabilities: capabilities::Capabilities,
) -> Result<Loaded, Failure> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let source = source::Source::read("plugins/x", &folder.path().join("plugin.js"))?;
    let plugin = Plugin::load("x", source, config.to_owned(), limits, capabilities, 1)?;
    let plugin = Arc::new(plugin);
    Ok(Loaded { plugin, folder })
}

#[track_caller]
fn load(text: &str) -> Loaded {
    load_with(&[("plugin.js", text)], "{}").unwrap_or_else(|failure| panic!("{failure:?}"))
}

fn input() -> Input {
    let mut headers = HeaderMap::new();
    headers.insert("host", "a.test".parse().unwrap());
    headers.append("accept", "text/html".parse().unwrap());
    headers.append("accept", "*/*".parse().unwrap());
    Input {
        method: Method::GET,
        url: "https://a.test/x?y=1".to_owned(),
        headers,
        body: Body::None,
        ip: Some("192.0.2.1".parse().unwrap()),
        request_id: "id".to_owned(),
        route: "app".to_owned(),
        known: ContextFacts::default(),
        response: None,
        reason: None,
        entry: None,
        trace: None,
    }
}

/// Returns a plugin that runs `attack` for requests with a `host`, and nothing for others.
fn attacking(attack: &str) -> String {
    format!(
        "export async function onRequest(req, ctx) {{ if (req.headers.has('host')) {{ {attack} }} }}"
    )
}

impl Loaded {
    async fn request(&self) -> Result<Output, Failure> {
        self.plugin.call(Hook::Request, input()).await
    }

    /// Returns the failure of a request, which came soon.
    async fn is_stopped(&self, attack: &str) -> Failure {
        let stopped = tokio::time::timeout(SOON, self.request()).await;
        stopped.expect(attack).expect_err(attack)
    }

    async fn serves_the_next(&self, attack: &str) {
        let quiet = Input {
            headers: HeaderMap::new(),
            ..input()
        };
        let next = self.plugin.call(Hook::Request, quiet).await;
        assert_eq!(next, Ok(Output::default()), "{attack}");
    }
}

#[tokio::test]
async fn a_hook_reads_a_request_and_changes_it() {
    let loaded = load(
        "export function onRequest(req, ctx) {
            const seen = [req.method, req.url, req.headers.get('Accept'), req.headers.get('none')];
            req.headers.set('X-Seen', seen.join('|'));
            req.headers.append('x-more', ctx.ip);
            req.headers.set('x-space', '\\t\\u00a0b\\r\\n');
            for (const type of ['text/a', 'text/b']) req.headers.append('Content-Type', type);
            req.headers.delete('accept');
            if (req.headers.has('accept')) throw new Error('it is still there');
        }",
    );
    let output = loaded.request().await.unwrap();
    assert_eq!(output.result, HookResult::Nothing);
    let mut headers = input().headers;
    for change in output.request {
        change.apply(&mut headers);
    }
    let seen = "GET|https://a.test/x?y=1|text/html, */*|";
    assert_eq!(headers.get("x-seen").unwrap(), seen);
    assert_eq!(headers.get("x-more").unwrap(), "192.0.2.1");
    assert_eq!(headers.get("x-space").unwrap(), &b"\xa0b"[..]);
    assert!(headers.get_all("content-type").iter().eq(["text/b"]));
    assert!(!headers.contains_key("accept"));
}

#[tokio::test]
async fn a_hook_responds_at_once_or_later() {
    let response = "Response.json({ error: 'no' }, { status: 401, headers: { 'x-a': '1' } })";
    let later = "new Promise((keep) => setTimeout(keep, 5))";
    for text in [
        format!("export const onRequest = () => {response};"),
        format!("export async function onRequest() {{ await {later}; return {response}; }}"),
        format!("export const proxy = () => {later}.then(() => {response});"),
    ] {
        let output = load(&text).request().await.unwrap();
        let HookResult::Response(response) = output.result else {
            panic!("{output:?}");
        };
        assert_eq!(response.status, StatusCode::UNAUTHORIZED);
        assert_eq!(response.headers["content-type"], "application/json");
        assert_eq!(response.headers["x-a"], "1");
        assert_eq!(response.body, r#"{"error":"no"}"#);
    }
}

#[tokio::test]
async fn a_response_is_read_and_changed() {
    let loaded = load(
        "export function onResponse(res, ctx) {
            res.headers.set('x-was', `${res.status} ${res.headers.get('server')}`);
            res.headers.delete('server');
            res.status = 203;
        }",
    );
    let mut headers = HeaderMap::new();
    headers.insert("server", "a".parse().unwrap());
    let input = Input {
        response: Some((StatusCode::OK, headers)),
        ..input()
    };
    let output = loaded.plugin.call(Hook::Response, input).await.unwrap();
    assert_eq!(
        output.status,
        Some(StatusCode::NON_AUTHORITATIVE_INFORMATION)
    );
    assert_eq!(output.response.len(), 2);
    assert_eq!(output.request, []);
}

#[tokio::test]
async fn errors_have_positions() {
    let loaded = load("export function onRequest() {\n  const a = null;\n  return a.b;\n}");
    let failure = loaded.request().await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Script);
    assert!(failure.message.contains("TypeError"), "{failure:?}");
    assert!(
        failure.stack.contains("plugins/x/plugin.js:3:"),
        "{failure:?}"
    );
    let wrong = load_with(&[("plugin.js", "export function onRequest( {")], "{}");
    let failure = wrong.map(|_| ()).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Load);
    assert!(
        failure.to_string().contains("plugins/x/plugin.js:1:"),
        "{failure}"
    );
}

#[tokio::test]
async fn modules_come_from_the_plugins_own_folder() {
    let files = [
        (
            "plugin.js",
            "import { a } from './lib/a.js'; export const onRequest = () => new Response(a);",
        ),
        (
            "lib/a.js",
            "import b from '../b.js'; export const a = 'a' + b;",
        ),
        ("b.js", "export default 'b';"),
    ];
    let output = load_with(&files, "{}").unwrap().request().await.unwrap();
    assert!(matches!(output.result, HookResult::Response(response) if response.body == "ab"));
    for (import, why) in [
        ("fs", "its own folder"),
        ("../../etc/passwd", "outside"),
        ("/etc/passwd", "its own folder"),
        ("./gone.js", "No such file"),
    ] {
        let text = format!("import '{import}'; export const onRequest = () => {{}};");
        let failure = load_with(&[("plugin.js", &text)], "{}")
            .map(|_| ())
            .unwrap_err();
        assert!(failure.message.contains(why), "{import}: {failure:?}");
    }
}

/// Returns in one line why a plugin of these files is not loaded.
#[track_caller]
fn refused(files: &[(&str, &str)]) -> String {
    let refused = load_with(files, "{}").map(|_| ());
    refused.unwrap_err().to_string()
}

#[test]
fn an_impossible_import_is_reported_at_its_position() {
    for (import, why) in [
        ("node:fs", "Node.js modules are not available"),
        ("fs", "Node.js modules are not available"),
        ("jose", "bundle packages"),
        ("./b", "did you mean `./b.js`?"),
        ("./data.json", "JSON cannot be imported"),
        ("./c.ts", "esbuild"),
    ] {
        let text = format!("// é\n  import '{import}';\nexport const onRequest = () => {{}};");
        let reported = refused(&[
            ("plugin.js", &text),
            ("b.js", ""),
            ("data.json", "{}"),
            ("c.ts", ""),
        ]);
        let whole = format!("`{import}` cannot be imported: ");
        assert!(
            reported.contains(&whole) && reported.contains(why),
            "{reported}"
        );
        assert!(
            reported.ends_with("at plugins/x/plugin.js:2:10"),
            "{reported}"
        );
    }
}

#[tokio::test]
async fn code_can_be_compiled_from_text() {
    let loaded = load(
        "export function onRequest(req) {
            const kinds = [() => {}, async () => {}, function* () {}, async function* () {}];
            const made = kinds.map((kind) => kind.constructor('a', 'return a + 1'));
            const same = made.every((one, at) => Object.getPrototypeOf(one) === Object.getPrototypeOf(kinds[at]));
            class Own extends Function {}
            const own = new Own('return 3');
            const is = own instanceof Own && own instanceof Function && kinds[0] instanceof Function;
            let why;
            try { new Function('('); } catch (error) { why = error.name; }
            req.headers.set('x-made', [same, is, made[0](1), Function('return 2')(), own(), eval('4'), why].join());
        }",
    );
    let output = loaded.request().await.unwrap();
    let value = HeaderValue::from_static("true,true,2,2,3,4,SyntaxError");
    let name = HeaderName::from_static("x-made");
    assert_eq!(output.request, [HeaderChange::Set(name, value)]);
}

#[test]
fn an_export_that_nothing_would_call_is_refused() {
    let hook = "export function onRequest() {}";
    for (text, why) in [
        (
            "export function onReqeust() {}",
            "did you mean `onRequest`?",
        ),
        (
            "export function onrequest() {}",
            "did you mean `onRequest`?",
        ),
        ("export function Proxy() {}", "did you mean `proxy`?"),
        ("export function onStart() {}", "unknown hook `onStart`"),
        ("export const onLog = 'x';", "`onLog` is not a function"),
        ("export default { fetch() {} };", "an object with `fetch`"),
        ("export default { onLog() {} };", "an object with `onLog`"),
        (
            "export const config = { matchers: '/x' };",
            "`config.matchers`",
        ),
        (
            "export const config = { matcher: () => true };",
            "must be a path",
        ),
        ("export const config = { matcher: [] };", "no request"),
    ] {
        let reported = refused(&[("plugin.js", &format!("{text} {hook}"))]);
        assert!(reported.contains(why), "{text}: {reported}");
    }
    for text in [
        "export function once() {} export function on() {} export const onTime = 5;",
        "export function one() {} export function helper() {} export function nonce() {}",
        "export function sendResponse() {} export function parseRequest() {}",
        "export function log() {} export function error() {} export function route() {} export function request() {}",
        "export const config = { runtime: 'nodejs', matcher: '/x' };",
        "export default { a: 1 };",
        "export const config = undefined;",
    ] {
        load(&format!("{text} {hook}"));
    }
}

#[tokio::test]
async fn apis_of_other_runtimes_get_a_hint_and_a_position() {
    for (text, why) in [
        ("process.env.A", "`ctx.env`"),
        ("Buffer.from('a')", "Uint8Array"),
        ("require('a')", "ES module"),
        ("new ReadableStream()", "streams are not available"),
        ("request instanceof Request", "`NextRequest`"),
        (
            "new NextRequest('https://a.test/')",
            "NextRequest cannot be created",
        ),
        ("request.clone()", "new Headers"),
        ("JSON.parse('{')", "SyntaxError"),
        ("new Headers(3)", "an object or pairs"),
        ("new Response({ a: 1 })", "`Response.json(…)`"),
        (
            "crypto.subtle.importKey('jwk', {})",
            "unsupported key format: use `raw`",
        ),
    ] {
        let text = format!("export async function onRequest(request) {{\n  await {text};\n}}");
        let failure = load(&text).request().await.unwrap_err();
        let reported = failure.to_string();
        assert!(reported.contains(why), "{reported}");
        assert!(reported.contains("plugins/x/plugin.js:2:"), "{failure:?}");
    }
    let text = "import { userAgent } from 'next/server'; export function onRequest() {}";
    let reported = refused(&[("plugin.js", text)]);
    assert!(reported.contains("`import type`"), "{reported}");
}

#[tokio::test]
async fn a_body_has_the_text_of_its_source_or_is_an_error() {
    let loaded = load(
        "export async function onRequest() {
            const of = async (body) => { const made = new Response(body); return [await made.text(), made.headers.get('content-type')]; };
            const text = 'text/plain;charset=UTF-8';
            return Response.json([
                await of(42), await of(true), await of(new URLSearchParams({ a: 'b c' })),
                await of(new Uint16Array([97, 98])), await of(new DataView(new Uint8Array([99]).buffer)), await of(undefined),
            ]);
        }",
    );
    let HookResult::Response(response) = loaded.request().await.unwrap().result else {
        panic!("no response");
    };
    let reported: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
    let text = "text/plain;charset=UTF-8";
    let form = "application/x-www-form-urlencoded;charset=UTF-8";
    assert_eq!(
        reported,
        serde_json::json!([
            ["42", text],
            ["true", text],
            ["a=b+c", form],
            ["a\0b\0", null],
            ["c", null],
            ["", null]
        ])
    );
}

#[tokio::test]
async fn hooks_that_do_not_end_are_stopped_and_the_next_is_served() {
    for (attack, kind) in [
        ("for (;;);", FailureKind::Cpu),
        ("for (;;) { try { for (;;); } catch {} }", FailureKind::Cpu),
        ("await 0; for (;;);", FailureKind::Cpu),
        ("for (;;) await 0;", FailureKind::Cpu),
        (
            "Promise.resolve().then(() => { for (;;); });",
            FailureKind::Cpu,
        ),
        ("/(a+)+$/.test('a'.repeat(40) + 'b');", FailureKind::Cpu),
        (
            "const a = []; for (;;) a.push(new Uint8Array(1 << 16));",
            FailureKind::Memory,
        ),
        ("const f = () => f() + 1; f();", FailureKind::Script),
        ("await new Promise(() => {});", FailureKind::Wall),
        (
            "await new Promise((keep) => setTimeout(keep, 60000));",
            FailureKind::Wall,
        ),
    ] {
        let text = attacking(attack);
        let loaded = if kind == FailureKind::Wall {
            engine::load_with_powers(&text, HookLimits::default(), "http://a.test")
        } else {
            load(&text)
        };
        let failure = loaded.is_stopped(attack).await;
        assert_eq!(failure.kind, kind, "{attack}: {failure:?}");
        loaded.serves_the_next(attack).await;
    }
}

#[tokio::test]
async fn a_stored_request_is_unusable_in_later_hooks() {
    let loaded = load(
        "let stored;
        export function onRequest(req) {
            if (stored) return new Response(stored.headers.get('host'));
            stored = req;
        }",
    );
    assert_eq!(loaded.request().await, Ok(Output::default()));
    let failure = loaded.request().await.unwrap_err();
    assert!(
        failure.message.contains("this request has ended"),
        "{failure:?}"
    );
}

#[tokio::test]
async fn many_calls_leave_the_heap_as_it_was() {
    let loaded = load(
        "export async function onRequest(req) {
            await new Promise((keep) => setTimeout(keep, 0));
            req.headers.set('x', String(req.headers.get('accept')).repeat(100));
        }",
    );
    for _ in 0..100 {
        loaded.request().await.unwrap();
    }
    let before = loaded.plugin.heap();
    for _ in 0..1000 {
        loaded.request().await.unwrap();
    }
    let after = loaded.plugin.heap();
    assert!(after < before + before / 50, "{before} → {after}");
}

#[tokio::test]
async fn a_proxy_of_next_continues_rewrites_and_redirects() {
    let loaded = load(
        "import { NextResponse } from 'next/server';
        export function proxy(request) {
            const { pathname, searchParams } = request.nextUrl;
            if (pathname === '/old') return NextResponse.redirect(new URL('/new', request.url));
            if (pathname === '/rewrite') {
                const url = request.nextUrl.clone();
                url.pathname = '/to';
                return NextResponse.rewrite(url);
            }
            const headers = new Headers(request.headers);
            headers.set('x-user', request.cookies.get('user')?.value ?? 'nobody');
            headers.delete('accept');
            const response = NextResponse.next({ request: { headers }, headers: { 'x-a': searchParams.get('y') } });
            response.cookies.set('seen', 'a b', { httpOnly: true, maxAge: 5 });
            response.cookies.set('gone', '');
            response.cookies.delete('gone');
            return response;
        }",
    );
    let at = |path: &str| Input {
        url: format!("https://a.test{path}"),
        ..input()
    };
    let run = async |path: &str| loaded.plugin.call(Hook::Request, at(path)).await.unwrap();
    let HookResult::Response(redirect) = run("/old").await.result else {
        panic!("no response");
    };
    assert_eq!(redirect.status, StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(redirect.headers["location"], "https://a.test/new");
    let rewritten = run("/rewrite?y=1").await;
    assert_eq!(
        rewritten.result,
        HookResult::Rewrite("https://a.test/to?y=1".to_owned())
    );
    let mut with_cookie = at("/?y=1");
    let cookie = "a=1; user=%C3%BC".parse().unwrap();
    with_cookie.headers.insert("cookie", cookie);
    let output = loaded
        .plugin
        .call(Hook::Request, with_cookie)
        .await
        .unwrap();
    let mut headers = input().headers;
    for change in output.request {
        change.apply(&mut headers);
    }
    assert_eq!(
        headers["x-user"].as_bytes(),
        b"\xfc",
        "as Fetch has it: a byte is a letter"
    );
    assert!(!headers.contains_key("accept"));
    let mut response = HeaderMap::new();
    for change in output.response {
        change.apply(&mut response);
    }
    assert_eq!(response["x-a"], "1");
    let cookies = response.get_all("set-cookie").iter();
    let cookies: Vec<_> = cookies.map(|value| value.to_str().unwrap()).collect();
    let gone = "gone=; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT";
    assert_eq!(cookies[1..], [gone]);
    // Both attributes of its expiry, as Next.js writes them.
    let (before, end) = cookies[0].split_once(" GMT; ").unwrap();
    assert!(
        before.starts_with("seen=a%20b; Path=/; Expires="),
        "{before}"
    );
    assert_eq!(end, "Max-Age=5; HttpOnly");
}

#[tokio::test]
async fn kv_and_env_exist_if_they_were_granted() {
    let text = "export async function onRequest(req, ctx) {
        const before = await ctx.kv.get('a');
        await ctx.kv.put('a', { n: 1 }, { ttl: 60 });
        const [after, count] = await Promise.all([ctx.kv.get('a'), ctx.kv.increment('n', 2)]);
        await ctx.kv.delete('a');
        return Response.json([before ?? null, after, count, await ctx.kv.increment('n'), ctx.env]);
    }";
    let clock = Clock::machine();
    let capabilities = capabilities::Capabilities {
        env: r#"{"A":"b"}"#.to_owned(),
        kv: Some(kv::Kv::memory(Arc::new(kv::Memory::new(&clock)))),
        ..capabilities::Capabilities::default()
    };
    let files = [("plugin.js", text)];
    let loaded = load_within(&files, "{}", HookLimits::default(), capabilities).unwrap();
    let HookResult::Response(response) = loaded.request().await.unwrap().result else {
        panic!("no response");
    };
    assert_eq!(response.body, r#"[null,{"n":1},2,3,{"A":"b"}]"#);
    let without = load(text).request().await.unwrap_err();
    assert!(without.message.contains("has no kv"), "{without:?}");
    let fetches = load("export async function onRequest() { await fetch('http://a.test/'); }");
    let failure = fetches.request().await.unwrap_err();
    assert!(failure.message.contains("may not fetch"), "{failure:?}");
}

#[tokio::test]
async fn thrown_errors_are_reported_in_one_bounded_line() {
    for thrown in [
        "new Error('a\\nINFO b\\u001b\\u202e Bearer of-a-client ' + 'é'.repeat(9000))",
        "'a\\nINFO b\\u001b' + 'é'.repeat(9000)",
        "Object.assign(new Error('x'), { stack: 'at a\\u001b' + 'é'.repeat(9000) })",
    ] {
        let loaded = load(&format!(
            "export function onRequest() {{ throw {thrown}; }}"
        ));
        let failure = loaded.request().await.unwrap_err();
        assert!(failure.message.len() <= 4096 && failure.stack.len() <= 4096);
        let line = failure.to_string();
        assert!(!line.contains(crate::base::out::is_obeyed), "{line}");
        assert!(line.contains("\\u{1b}"), "{line}");
        assert!(!line.contains("of-a-client"), "{line}");
    }
}
