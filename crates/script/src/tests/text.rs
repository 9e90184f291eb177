//! Text that leaves the engine: half a surrogate pair is replaced everywhere, and lengths are
//! limited.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{engine::load_with_powers, *};

async fn run(text: &str, hook: Hook) -> Result<Output, Failure> {
    let input = Input {
        entry: Some("{}".to_owned()),
        ..input()
    };
    load(text).plugin.call(hook, input).await
}

async fn response_of(text: &str) -> Response {
    match run(text, Hook::Request).await.unwrap().result {
        HookResult::Response(response) => *response,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_unpaired_surrogate_is_sent_as_one_character() {
    let body = async |make: &str| {
        let text = format!("export const onRequest = () => new Response({make});");
        response_of(&text).await.body
    };
    assert_eq!(body("'a\\ud800b\\ud83d\\ude00'").await, "a\u{fffd}b😀");
    assert_eq!(body("'é\\udc00'").await, "é\u{fffd}");
    let key = "export const onCacheKey = () => 'a\\ud800';";
    let key = run(key, Hook::CacheKey).await.unwrap().result;
    assert_eq!(key, HookResult::Text("a\u{fffd}".to_owned()));
    let fields = "export const onLog = () => ({ a: 'b\\ud800' });";
    let fields = run(fields, Hook::Log).await.unwrap().result;
    assert_eq!(fields, HookResult::Json("{\"a\":\"b\u{fffd}\"}".to_owned()));
    let rewrite = "import { NextResponse } from 'next/server';
        export const proxy = () => NextResponse.rewrite('https://a.test/\\ud800');";
    let rewrite = run(rewrite, Hook::Request).await.unwrap().result;
    let to = "https://a.test/%EF%BF%BD";
    assert_eq!(rewrite, HookResult::Rewrite(to.to_owned()));
}

#[tokio::test]
async fn an_unpaired_surrogate_is_no_header_value() {
    for wrong in [
        "req.headers.set('x-a', '\\ud800')",
        "req.headers.append('\\ud800', 'a')",
        "new Headers({ 'x-a': '\\ud800' })",
        "new Response(null, { headers: { 'x-a': 'ā' } })",
    ] {
        let text = format!("export function onRequest(req) {{ {wrong}; }}");
        let failure = run(&text, Hook::Request).await.expect_err(wrong);
        assert!(failure.message.starts_with("TypeError: "), "{failure:?}");
        assert!(failure.message.contains("invalid header"), "{failure:?}");
    }
}

#[tokio::test]
async fn an_unpaired_surrogate_hides_no_error_and_no_log_line() {
    for thrown in ["new Error('no\\ud800')", "'no\\ud800'"] {
        let text = format!("export function onRequest() {{ throw {thrown}; }}");
        let failure = run(&text, Hook::Request).await.expect_err(thrown);
        assert!(failure.message.ends_with("no\u{fffd}"), "{failure:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    let text = "export function onRequest(req, ctx) {
        console.warn('a\\ud800');
        ctx.log.info('b\\ud800', { c: 'd\\ud800' });
    }";
    fs::write(folder.path().join("plugin.js"), text).unwrap();
    let source = source::Source::read("x", &folder.path().join("plugin.js")).unwrap();
    let trial = ManualPlugin::load(source, "{}".to_owned(), "{}".to_owned()).unwrap();
    let ran = trial.run(Hook::Request, input()).await;
    assert_eq!(ran.outcome, Ok(Output::default()));
    let lines: Vec<_> = ran.lines.iter().map(|line| line.text.as_str()).collect();
    assert_eq!(lines, ["a\u{fffd}", "b\u{fffd} c=\"d\u{fffd}\""]);
}

#[tokio::test]
async fn an_unpaired_surrogate_is_replaced_in_fetches_and_the_kv() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let text = "export async function onRequest(req, ctx) {
        await ctx.kv.put('k\\ud800', 'a\\ud800');
        const stored = await ctx.kv.get('k\\ud800');
        const response = await fetch('ORIGIN/', { method: 'POST', body: 'a\\ud800b' });
        return new Response(`${stored === 'a\\ud800'} ${await response.text()}`);
    }";
    let limits = HookLimits {
        wall: Duration::from_secs(5),
        ..HookLimits::default()
    };
    let loaded = load_with_powers(&text.replace("ORIGIN", &origin), limits, &origin);
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"b") {
            assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0);
        }
        let response = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        stream.write_all(response).await.unwrap();
        String::from_utf8(seen).unwrap()
    };
    let (output, seen) = tokio::join!(loaded.request(), serve);
    assert!(seen.contains("content-length: 5\r\n"), "{seen}");
    assert!(seen.ends_with("\r\n\r\na\u{fffd}b"), "{seen}");
    let result = output.unwrap().result;
    assert!(
        matches!(&result, HookResult::Response(response) if response.body == "true ok"),
        "{result:?}"
    );
}

#[tokio::test]
async fn the_body_of_an_own_response_is_bounded() {
    const MAX_LEN: usize = 1 << 20;
    for (body, most) in [
        ("'x'.repeat(N)", MAX_LEN),
        ("'é'.repeat(N)", MAX_LEN / 2),
        ("new Uint8Array(N)", MAX_LEN),
        ("new Uint16Array(N)", MAX_LEN / 2),
    ] {
        let text = |count: usize| {
            let body = body.replace('N', &count.to_string());
            format!("export const onRequest = async () => new Response({body});")
        };
        assert_eq!(response_of(&text(most)).await.body.len(), MAX_LEN, "{body}");
        let failure = run(&text(most + 1), Hook::Request).await.expect_err(body);
        let why = "RangeError: the body of a plugin's response can have at most 1048576 bytes";
        assert_eq!(failure.message, why, "{body}");
    }
}

#[tokio::test]
async fn the_text_that_a_hook_returns_is_bounded() {
    let rewrite = "import { NextResponse } from 'next/server';
        export const proxy = () => NextResponse.rewrite('https://a.test/?' + 'x'.repeat(8192));";
    let failure = run(rewrite, Hook::Request).await.unwrap_err();
    let why = "RangeError: the URL of a rewrite can have at most 8192 bytes";
    assert_eq!(failure.message, why);
    for (name, hook) in [("onCacheKey", Hook::CacheKey), ("onRoute", Hook::Route)] {
        let text = |count| format!("export const {name} = () => 'é'.repeat({count});");
        let output = run(&text(4096), hook).await.unwrap();
        assert!(matches!(output.result, HookResult::Text(text) if text.len() == 8192));
        let failure = run(&text(4097), hook).await.unwrap_err();
        let why = "RangeError: the return value of a hook can have at most 8192 bytes";
        assert_eq!(failure.message, why);
    }
}

#[tokio::test]
async fn what_has_no_effect_is_an_error() {
    let rewrite = "NextResponse.rewrite('https://a.test/')";
    for outcome in ["NextResponse.next()", rewrite] {
        let text = format!("export const onError = () => {outcome};");
        let failure = run(&text, Hook::Error).await.unwrap_err();
        let why =
            "TypeError: onError can respond, not continue or rewrite: return a Response or nothing";
        assert_eq!(failure.message, why);
    }
    let text = "export const onRequest = () => {
        new TextDecoder().decode(new Uint8Array([195]), { stream: true });
    };";
    let failure = run(text, Hook::Request).await.unwrap_err();
    assert!(failure.message.contains("(`stream`)"), "{failure}");
}
