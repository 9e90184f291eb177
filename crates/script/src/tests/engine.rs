//! State that hooks leave behind in an instance, and hooks that never release it.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};

use super::*;

/// Returns capabilities with a kv, and with `fetch` from this origin.
fn capabilities(origin: &str) -> capabilities::Capabilities {
    let (second, longest) = (Duration::from_secs(1), 1 << 10);
    let reach = capabilities::FetchOrigins::new(&[origin.to_owned()], second, longest);
    capabilities::Capabilities {
        env: String::new(),
        kv: Some(kv::Kv::memory(Arc::new(kv::Memory::new(&Clock::machine())))),
        fetch: Some(reach.unwrap()),
        ..capabilities::Capabilities::default()
    }
}

pub(super) fn load_with_powers(text: &str, limits: HookLimits, origin: &str) -> Loaded {
    try_with_powers(text, limits, origin).unwrap_or_else(|failure| panic!("{failure:?}"))
}

pub(super) fn try_with_powers(
    text: &str,
    limits: HookLimits,
    origin: &str,
) -> Result<Loaded, Failure> {
    load_within(&[("plugin.js", text)], "{}", limits, capabilities(origin))
}

#[tokio::test]
async fn later_imports_get_the_loaded_version_or_fail() {
    let text = "import './a.js';
        export async function onRequest(req) {
            req.headers.set('x-a', (await import('./a.js')).version);
            try { await import('./b.js'); } catch (error) { req.headers.set('x-b', error.message); }
        }";
    let version = "export const version = '1';";
    let files = [("plugin.js", text), ("a.js", version), ("b.js", version)];
    let loaded = load_with(&files, "{}").unwrap();
    fs::write(
        loaded.folder.path().join("a.js"),
        "export const version = '2';",
    )
    .unwrap();
    let mut headers = HeaderMap::new();
    for change in loaded.request().await.unwrap().request {
        change.apply(&mut headers);
    }
    assert_eq!(headers["x-a"], "1");
    let why = headers["x-b"].to_str().unwrap();
    assert!(why.contains("plugins/x/b.js: not imported when"), "{why}");
}

const LOOPS: [&str; 2] = [
    "for (;;) await ctx.kv.get('a');",
    "for (;;) { try { await fetch('http://other.test/'); } catch {} }",
];

#[tokio::test]
async fn loops_over_ready_operations_are_stopped_by_both_limits() {
    let patient = HookLimits {
        cpu: Duration::from_mins(1),
        ..HookLimits::default()
    };
    let busy = HookLimits {
        wall: Duration::from_mins(1),
        ..HookLimits::default()
    };
    for attack in LOOPS {
        for (limits, kind) in [(busy, FailureKind::Cpu), (patient, FailureKind::Wall)] {
            let loaded = load_with_powers(&attacking(attack), limits, "http://a.test");
            let failure = loaded.is_stopped(attack).await;
            assert_eq!(failure.kind, kind, "{attack}: {failure:?}");
            loaded.serves_the_next(attack).await;
        }
    }
}

#[tokio::test]
async fn a_loop_over_ready_operations_lets_other_tasks_run() {
    let limits = HookLimits {
        cpu: Duration::from_mins(1),
        ..HookLimits::default()
    };
    let text = format!(
        "export async function onRequest(req, ctx) {{ {} }}",
        LOOPS[0]
    );
    let loaded = load_with_powers(&text, limits, "http://a.test");
    let other = async {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        ended = loaded.request() => panic!("it ended first: {ended:?}"),
        () = other => {}
    }
}

#[tokio::test]
async fn operations_that_a_hook_did_not_await_leave_nothing_behind() {
    let loaded = load(
        "let ran = 0;
        export async function onRequest(req) {
            if (req.headers.get('x-count')) return new Response(String(ran));
            const big = new Uint8Array(2000);
            for (let n = 0; n < 8; n++) setTimeout(() => (ran += big.length), 60000);
            clearTimeout(setTimeout(() => {}, 60000));
            if (req.headers.get('x-given-up')) await new Promise(() => {});
        }",
    );
    let given_up = || {
        let mut input = input();
        input.headers.insert("x-given-up", "1".parse().unwrap());
        input
    };
    let round = async |times: usize| {
        for _ in 0..times {
            loaded.request().await.unwrap();
            // As if the client had disconnected.
            let call = loaded.plugin.call(Hook::Request, given_up());
            tokio::select! {
                biased;
                ended = call => panic!("{ended:?}"),
                () = tokio::task::yield_now() => {}
            }
        }
        loaded.request().await.unwrap();
        loaded.plugin.heap()
    };
    let before = round(20).await;
    let after = round(500).await;
    assert!(after < before + before / 10, "{before} → {after}");
    let mut asks = input();
    asks.headers.insert("x-count", "1".parse().unwrap());
    let output = loaded.plugin.call(Hook::Request, asks).await.unwrap();
    assert!(matches!(output.result, HookResult::Response(response) if response.body == "0"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_hook_begins_in_an_instance_that_was_stopped() {
    let loaded = Arc::new(load(
        "let isSpoilt = false;
        export function onRequest(req) {
            if (req.headers.has('x-spoil')) { isSpoilt = true; for (;;); }
            if (isSpoilt) throw new Error('spoilt');
        }",
    ));
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..60 {
        let loaded = Arc::clone(&loaded);
        calls.spawn(async move {
            let mut input = input();
            if n % 6 == 0 {
                input.headers.insert("x-spoil", "1".parse().unwrap());
            }
            loaded.plugin.call(Hook::Request, input).await.map(drop)
        });
    }
    let mut stopped = 0;
    for ended in calls.join_all().await {
        if let Err(failure) = ended {
            assert_eq!(failure.kind, FailureKind::Cpu, "{failure:?}");
            stopped += 1;
        }
    }
    assert_eq!(stopped, 10);
}

#[tokio::test]
async fn fetch_controls_how_a_request_is_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let text = "export async function onRequest(req, ctx) {
        for (const method of ['CONNECT', 'trace', 'TRACK']) {
            try {
                await fetch(ORIGIN, { method });
                return new Response(method);
            } catch (error) {
                if (!(error instanceof TypeError) || !error.message.includes('invalid method')) throw error;
            }
        }
        const headers = {
            host: 'evil.test', 'Content-Length': '3', 'transfer-encoding': 'chunked',
            connection: 'x-a', upgrade: 'x', 'x-a': 'b', cookie: 'c=d',
        };
        const response = await fetch(ORIGIN, { method: 'POST', headers, body: 'four' });
        return new Response(await response.text());
    }";
    let origin = format!("http://{address}");
    let text = text.replace("ORIGIN", &format!("'{origin}/'"));
    let limits = HookLimits {
        wall: Duration::from_secs(5),
        ..HookLimits::default()
    };
    let loaded = load_with_powers(&text, limits, &origin);
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"four") {
            assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0);
        }
        let response = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        stream.write_all(response).await.unwrap();
        String::from_utf8(seen).unwrap().to_ascii_lowercase()
    };
    let both = async { tokio::join!(loaded.request(), serve) };
    let (output, seen) = timeout(Duration::from_secs(20), both)
        .await
        .expect("the hook fetched");
    let result = output.unwrap().result;
    assert!(
        matches!(&result, HookResult::Response(response) if response.body == "ok"),
        "{result:?}"
    );
    for there in [
        "x-a: b",
        "cookie: c=d",
        "content-length: 4",
        &format!("host: {address}"),
    ] {
        assert!(seen.contains(&format!("{there}\r\n")), "{there}: {seen}");
    }
    for absent in [
        "evil",
        "chunked",
        "upgrade",
        "connection: x-a",
        "content-length: 3",
    ] {
        assert!(!seen.contains(absent), "{absent}: {seen}");
    }
}

#[tokio::test]
async fn native_functions_are_counted_by_their_data() {
    for attack in [
        "const all = []; for (;;) all.push(new TextEncoder().encode(text));",
        "const bytes = new TextEncoder().encode(text); for (;;) crypto.subtle.digest('SHA-256', bytes);",
        "const bytes = new TextEncoder().encode(text); for (;;) { try { new TextDecoder().decode(bytes); } catch {} }",
        "for (;;) { try { btoa(text); } catch {} }",
        "for (;;) new URL(text, 'http://a.test');",
    ] {
        let text = format!(
            "export async function onRequest() {{ const text = 'x'.repeat(1 << 20); {attack} }}"
        );
        let failure = load(&text).is_stopped(attack).await;
        let is_stopped = matches!(failure.kind, FailureKind::Cpu | FailureKind::Memory);
        assert!(is_stopped, "{attack}: {failure:?}");
    }
}

#[tokio::test]
async fn long_arguments_are_refused_before_they_are_copied() {
    let text = "const why = async (what) => { try { await what(); } catch (error) { return `${error.name}: ${error.message}`; } };
    const MAX_BODY = 256 << 10;
    const bodies = ['x'.repeat(MAX_BODY + 1), 'é'.repeat(MAX_BODY / 2 + 1), new Uint8Array(MAX_BODY + 1), new ArrayBuffer(MAX_BODY + 1)];
    const spoofed = Object.defineProperty(new Uint8Array(MAX_BODY + 1), 'length', { value: 1 });
    export async function onRequest(req, ctx) {
        const lines = [];
        for (const body of [...bodies, spoofed]) lines.push(await why(() => fetch('ORIGIN/', { method: 'POST', body })));
        lines.push(await why(() => fetch('ORIGIN/' + 'x'.repeat(8192))));
        lines.push(await why(() => fetch('ORIGIN/', { headers: { a: 'x'.repeat(8193) } })));
        lines.push(await why(() => ctx.kv.put('k', 'x'.repeat(64 << 10))));
        lines.push(await why(() => ctx.kv.get('k'.repeat((64 << 10) + 1))));
        lines.push(await why(() => fetch('ORIGIN/', { method: 'POST', body: 'x'.repeat(MAX_BODY) })));
        lines.push(await why(() => ctx.kv.put('k', 'x'.repeat((64 << 10) - 3))));
        return new Response(lines.join('\\n'));
    }";
    // No listener there.
    let origin = "http://127.0.0.1:1";
    let limits = HookLimits {
        cpu: Duration::from_secs(5),
        wall: Duration::from_secs(10),
        load: Duration::from_secs(5),
        ..HookLimits::default()
    };
    let loaded = load_with_powers(&text.replace("ORIGIN", origin), limits, origin);
    let HookResult::Response(response) = loaded.request().await.unwrap().result else {
        panic!("no response");
    };
    let lines = String::from_utf8(response.body.to_vec()).unwrap();
    let lines: Vec<&str> = lines.split('\n').collect();
    assert_eq!(lines.len(), 11, "{lines:?}");
    for line in &lines[..5] {
        assert_eq!(
            *line,
            "TypeError: a body to fetch with can have at most 262144 bytes"
        );
    }
    assert_eq!(
        lines[5],
        "TypeError: a URL to fetch can have at most 8192 bytes"
    );
    assert_eq!(lines[6], "TypeError: invalid header value");
    for line in &lines[7..9] {
        assert_eq!(
            *line,
            "Error: a key and its value can have at most 65536 bytes"
        );
    }
    assert!(
        lines[9].starts_with("TypeError: fetch failed: "),
        "{lines:?}"
    );
    assert_eq!(lines[10], "");
}

#[tokio::test]
async fn an_overridden_length_has_no_effect() {
    let loaded = load(
        "export async function onRequest() {
            const bytes = Object.defineProperty(new Uint8Array(3), 'length', { value: 'x' });
            await crypto.subtle.digest('SHA-256', bytes);
        }",
    );
    assert_eq!(loaded.request().await, Ok(Output::default()));
}
