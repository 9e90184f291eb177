//! Plugins that read request bodies, which reach the backend unchanged.

use std::{fs, net::SocketAddr};

use axum::{Router, body::Bytes, extract::DefaultBodyLimit, http::HeaderMap};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

use crate::{
    cli::edgeway,
    support::{
        apps::ExpressApp,
        client::{Connection, Request, Response, post},
        front::Front,
        gateway::Gateway,
        http2,
    },
};

/// Plugin that reports what it sees of a body, in a header that the backend echoes.
const SHOWS: &str = "export async function onRequest(request) {
    const seen = { body: request.body?.length ?? null };
    try {
        const text = await request.text();
        seen.length = text.length;
        seen.used = request.bodyUsed;
    } catch (error) {
        seen.error = error.message;
    }
    request.headers.set('x-seen', JSON.stringify(seen));
}";

/// Starts a backend that echoes each body, with the plugin's report.
async fn mirror(tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("there is a port");
    let address = listener.local_addr().expect("it is bound");
    let app = Router::new()
        .fallback(async |headers: HeaderMap, body: Bytes| {
            let kept = ["x-seen", "expect", "transfer-encoding", "content-length"];
            let kept = kept.map(|name| {
                headers
                    .get(name)
                    .map(|value| (format!("x-was-{name}"), value.clone()))
            });
            let kept: HeaderMap = kept
                .into_iter()
                .flatten()
                .map(|(name, value)| (name.parse().expect("it is a name"), value))
                .collect();
            (kept, body)
        })
        .layer(DefaultBodyLimit::disable());
    tasks.spawn(async move {
        axum::serve(listener, app).await.expect("it serves");
    });
    address
}

async fn start(backend: impl std::fmt::Display, plugins: &str, files: &[(&str, &str)]) -> Gateway {
    let yaml = Front::to(backend)
        .http2()
        .route(&format!("plugins: [{plugins}]"))
        .yaml();
    Gateway::start_in(&yaml, |folder| {
        for (name, text) in files {
            fs::create_dir(folder.join(name)).expect("the folder is ours");
            fs::write(folder.join(name).join("plugin.js"), text).expect("the folder is ours");
        }
    })
    .await
}

fn seen(response: &Response) -> Value {
    let seen = response.header("x-was-x-seen").expect("the plugin has run");
    serde_json::from_str(seen).expect("it is JSON")
}

fn json_of(bytes: usize) -> String {
    // All parts differ, so that a changed order is visible.
    let mut text: String = (0..).map(|n| format!("{n},")).take(bytes).collect();
    text.truncate(bytes);
    text
}

const LIMITS: &str = "limits: { cpu: 100ms, wall: 2s }";
const SLOW: &str = "limits: { cpu: 100ms, wall: 2s }, on_error: continue";

#[tokio::test]
async fn a_response_of_a_plugin_has_its_own_type_or_none() {
    let text = "export function onRequest(request) {
        if (request.url.endsWith('/empty')) return new Response('', { headers: { 'content-type': 'text/css' } });
        return new Response(new Uint8Array([104, 105]));
    }";
    let mut tasks = JoinSet::new();
    let backend = mirror(&mut tasks).await;
    let gateway = start(
        backend,
        "{ file: x/plugin.js, on_error: refuse }",
        &[("x", text)],
    )
    .await;
    let empty = gateway.get("/empty").await;
    assert_eq!(
        (empty.header("content-type"), &*empty.text()),
        (Some("text/css"), "")
    );
    let bytes = gateway.get("/bytes").await;
    assert_eq!((bytes.header("content-type"), &*bytes.text()), (None, "hi"));
}

#[tokio::test]
async fn a_body_is_read_and_forwarded_unchanged() {
    let mut tasks = JoinSet::new();
    let backend = mirror(&mut tasks).await;
    let plugin = format!("{{ file: x/plugin.js, body: {{}}, {SLOW} }}");
    let gateway = start(backend, &plugin, &[("x", SHOWS)]).await;
    let as_json =
        |request: Request| request.header("content-type", "application/json; charset=utf-8");
    for bytes in [1, 1000, 20_000, 65_536] {
        let text = json_of(bytes);
        let response = gateway.send(&as_json(post("/", text.clone()))).await;
        assert_eq!(response.text(), text, "{bytes}");
        let whole = json!({ "body": bytes, "length": bytes, "used": true });
        assert_eq!(seen(&response), whole);
        assert_eq!(
            response.header("x-was-content-length"),
            Some(&*bytes.to_string())
        );
    }
    // In chunks, without a length.
    for (pieces, each) in [(1, 10), (3, 1000), (40, 1000)] {
        let text = json_of(pieces * each);
        let chunks = text.as_bytes().chunks(each).map(<[u8]>::to_vec);
        let response = gateway
            .send(&as_json(Request::new("POST", "/").chunks(chunks)))
            .await;
        assert_eq!(response.text(), text, "{pieces}");
        assert_eq!(seen(&response)["length"], text.len());
    }
    // An empty body, with a length and in chunks.
    for empty in [post("/", ""), Request::new("POST", "/").chunks::<&str>([])] {
        let response = gateway.send(&as_json(empty)).await;
        assert_eq!((response.status(), response.text()), (200, String::new()));
        assert_eq!(
            seen(&response),
            json!({ "body": null, "length": 0, "used": false })
        );
    }
}

#[tokio::test]
async fn long_bodies_and_other_types_are_unavailable_and_forwarded_unchanged() {
    let mut tasks = JoinSet::new();
    let backend = mirror(&mut tasks).await;
    let plugin = format!("{{ file: x/plugin.js, body: {{ max: 4KiB }}, {SLOW} }}");
    let gateway = start(backend, &plugin, &[("x", SHOWS)]).await;
    let send = async |kind: &str, request: Request| {
        let response = gateway.send(&request.header("content-type", kind)).await;
        assert_eq!(response.status(), 200);
        response
    };
    for bytes in [4097, 70_000, 1_000_000] {
        let text = json_of(bytes);
        let response = send("application/json", post("/", text.clone())).await;
        assert_eq!(response.text(), text);
        let seen = seen(&response);
        assert_eq!(seen["body"], json!(null));
        assert!(
            seen["error"]
                .as_str()
                .unwrap()
                .contains("longer than `body.max`"),
            "{seen}"
        );
        // In chunks of many sizes: with one of them, Pingora's buffer for retries is full.
        for each in [1000, 30_000, 65_000, 200_000] {
            let chunks = text.as_bytes().chunks(each).map(<[u8]>::to_vec);
            let response = send("application/json", Request::new("POST", "/").chunks(chunks)).await;
            assert!(response.text() == text, "{bytes} in pieces of {each}");
            assert!(
                response
                    .header("x-was-x-seen")
                    .unwrap()
                    .contains("longer than")
            );
        }
    }
    // The last ones are streams of messages.
    for kind in [
        "image/png",
        "application/connect+json",
        "application/grpc+json",
        "application/grpc-web+json",
    ] {
        let other = send(kind, post("/", "abc")).await;
        assert_eq!(other.text(), "abc");
        let error = seen(&other)["error"].to_string();
        assert!(
            error.contains("neither JSON nor a URL-encoded form"),
            "{kind}: {error}"
        );
    }
    // The control: one byte less.
    let fits = send("application/vnd.api+json", post("/", json_of(4096))).await;
    assert_eq!(seen(&fits)["length"], 4096);
}

#[tokio::test]
async fn a_client_that_expects_100_continue_gets_it() {
    let mut tasks = JoinSet::new();
    let backend = mirror(&mut tasks).await;
    let plugin = format!("{{ file: x/plugin.js, body: {{}}, {SLOW} }}");
    let gateway = start(backend, &plugin, &[("x", SHOWS)]).await;
    let mut client = Connection::open(gateway.address())
        .await
        .expect("it listens");
    let head = "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-type: application/json\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n";
    client.write(head).await.expect("it takes it");
    assert_eq!(client.read_interim().await.expect("leave"), 100);
    client.write("true").await.expect("it takes it");
    let head = client.read_headers().await.expect("a response");
    let response = client.finish(head).await.expect("a response");
    assert_eq!(response.text(), "true");
    assert_eq!(response.header("x-was-expect"), None);
}

#[tokio::test]
async fn bodies_come_by_http2_too() {
    let mut tasks = JoinSet::new();
    let backend = mirror(&mut tasks).await;
    let plugin = format!("{{ file: x/plugin.js, body: {{}}, {SLOW} }}");
    let gateway = start(backend, &plugin, &[("x", SHOWS)]).await;
    let client = http2::Client::open(gateway.address()).await;
    for (bytes, is_seen) in [
        (2, true),
        (40_000, true),
        (48 << 10, true),
        (60_000, false),
        (200_000, false),
    ] {
        let text = json_of(bytes);
        let request = http2::request("POST", "/").header("content-type", "application/json");
        let response = client
            .send(request, text.clone())
            .await
            .expect("a response");
        assert!(response.text() == text, "{bytes}");
        let seen = response.header("x-was-x-seen").unwrap();
        assert_eq!(seen.contains("longer than"), !is_seen, "{bytes}: {seen}");
    }
    let none = client.get("/").await;
    assert_eq!(
        none.header("x-was-x-seen"),
        Some(r#"{"body":null,"length":0,"used":false}"#)
    );
}

#[tokio::test]
async fn a_plugin_responds_by_the_body_in_front_of_an_app() {
    let app = ExpressApp::start().await;
    let text = "export async function onRequest(request) {
        if (request.method !== 'POST') return;
        if (request.headers.get('content-type').startsWith('application/json')) {
            const { name } = await request.json();
            if (name === 'evil') return Response.json({ error: 'refused' }, { status: 422 });
            return;
        }
        const form = await request.formData();
        return Response.json({ all: [...form], a: form.get('a'), two: form.getAll('b') });
    }
    export async function onUpstreamRequest(request) {
        if (request.method === 'POST') request.headers.set('x-name', (await request.json()).name);
    }";
    // A plugin before it with a smaller `max`, and one without `body`: neither takes anything away.
    let plugins = format!(
        "{{ file: y/plugin.js, body: {{ max: 5B }}, {SLOW}, run: first }}, {{ file: x/plugin.js, body: {{ max: 1KiB }}, on_error: refuse, {LIMITS} }}, {{ file: z/plugin.js, {SLOW} }}"
    );
    let gateway = start(app.address(), &plugins, &[("x", text), ("y", SHOWS), ("z", "export const onRequest = (request) => request.headers.set('x-z', 'seen') ?? undefined;")]).await;
    let ask = |path: &str, kind: &str, body: &str| {
        post(path, body.to_owned()).header("content-type", kind)
    };
    let evil = gateway
        .send(&ask("/api/items", "application/json", r#"{"name":"evil"}"#))
        .await;
    assert_eq!(evil.status(), 422);
    let cup = gateway
        .send(&ask("/api/items", "application/json", r#"{"name":"cup"}"#))
        .await;
    assert_eq!((cup.status(), &cup.json()["name"]), (201, &json!("cup")));
    let echo = gateway
        .send(&ask("/echo", "application/json", r#"{"name":"cup"}"#))
        .await
        .json();
    assert_eq!(
        (&echo["length"], &echo["headers"]["x-name"]),
        (&json!(14), &json!("cup"))
    );
    assert!(
        echo["headers"]["x-seen"]
            .as_str()
            .unwrap()
            .contains("longer than"),
        "{echo}"
    );
    let form = gateway
        .send(&ask(
            "/",
            "application/x-www-form-urlencoded",
            "a=1+2&b=%C3%BC&b=",
        ))
        .await;
    assert_eq!(
        form.json(),
        json!({ "all": [["a", "1 2"], ["b", "ü"], ["b", ""]], "a": "1 2", "two": ["ü", ""] })
    );
    // A body that a guard cannot read does not pass it.
    let padded = format!("{{\"name\":\"evil\",\"x\":\"{}\"}}", "x".repeat(2000));
    let long = gateway
        .send(&ask("/api/items", "application/json", &padded))
        .await;
    assert_eq!(long.status(), 503);
    assert!(
        gateway.stderr().contains("longer than `body.max`"),
        "{}",
        gateway.stderr()
    );
}

#[tokio::test]
async fn no_body_is_read_before_authentication() {
    let mut tasks = JoinSet::new();
    let backend = mirror(&mut tasks).await;
    // Every method but GET is refused before the plugin runs.
    let plugin = format!("{{ file: x/plugin.js, body: {{}}, {SLOW} }}], methods: [GET");
    let gateway = start(backend, &plugin, &[("x", SHOWS)]).await;
    let mut client = Connection::open(gateway.address())
        .await
        .expect("it listens");
    // Its body never arrives, and the response is sent all the same.
    let head = "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-type: application/json\r\ncontent-length: 4\r\n\r\n";
    client.write(head).await.expect("it takes it");
    let response = client.read_response().await.expect("a response");
    assert_eq!(response.status(), 405);
}

#[test]
fn check_reports_the_bounds_of_a_body() {
    let folder = tempfile::tempdir().expect("there is room");
    fs::write(folder.path().join("plugin.js"), SHOWS).expect("it is ours");
    let config = folder.path().join("edgeway.yaml");
    let check = |body: &str| {
        let yaml = format!(
            "listeners: [{{ address: 127.0.0.1:8080 }}]\nroutes:\n  - {{ match: {{ path: /* }}, respond: ok, plugins: [{{ file: plugin.js, on_error: continue, body: {body} }}] }}\n"
        );
        fs::write(&config, yaml).expect("it is ours");
        edgeway(&["check", "-c", &config.display().to_string()])
    };
    for good in ["{}", "{ max: 64KiB }", "{ max: 1B }"] {
        let right = check(good);
        assert_eq!(right.status, 0, "{}", right.stderr);
    }
    for bad in ["{ max: 65KiB }", "{ max: 0B }"] {
        let wrong = check(bad);
        assert_eq!(wrong.status, 78, "{bad}");
        assert!(wrong.stderr.contains("is out of range"), "{}", wrong.stderr);
    }
    let file = folder.path().join("plugin.js").display().to_string();
    let ran = edgeway(&["plugin", "run", &file, "POST", "/", "--data", "{}"]);
    assert!(
        ran.stdout.contains(r#"{"body":2,"length":2,"used":true}"#),
        "{}",
        ran.stdout
    );
}
