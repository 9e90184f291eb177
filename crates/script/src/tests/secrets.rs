//! Secrets that plugins log. Invariant: no credential of a request and no configured secret is in a
//! line, a field or a failure, wherever the plugin puts it. The control: its responses have each.

use base64::Engine as _;
use serde_json::json;

use super::*;

/// Expressions of JavaScript for each secret.
const PLACES: [&str; 12] = [
    "request.headers.get('authorization').slice(7)",
    "atob(request.headers.get('proxy-authorization').slice(6)).split(':')[1]",
    "request.headers.get('x-api-key')",
    "/session=([^;]*)/.exec(request.headers.get('cookie'))[1]",
    "new URL(request.url).searchParams.get('token')",
    "new URL(request.url).searchParams.get('user[password]')",
    "/token=([^&]*)/.exec(request.url)[1]",
    "ctx.config.apiKey",
    "ctx.config.inner.passwords[0]",
    "ctx.config.salt",
    "String(ctx.config.pin.password)",
    "ctx.env.UPSTREAM",
];

/// Statements that show the secret `s`; the last ones leave the hook.
const WAYS: [&str; 20] = [
    "ctx.log.warn(`m ${s}`);",
    "ctx.log.info(`${'x'.repeat(4080)}${s}`);",
    "ctx.log.info('m', { note: s });",
    "ctx.log.info('m', { note: [s] });",
    "ctx.log.info('m', { note: { a: { b: `x${s}y` } } });",
    "ctx.log.info('m', Object.fromEntries(request.headers));",
    "console.log('m', s);",
    "console.error({ a: [s] });",
    "console.log(request.url, JSON.stringify([...request.headers]));",
    "for (const [name] of [...request.headers]) request.headers.set(name, 'changed'); ctx.log.info(s);",
    "for (const [name] of [...request.headers]) request.headers.delete(name); ctx.log.info(s);",
    "ctx.waitUntil(Promise.reject(new Error(s)));",
    "throw new Error(s);",
    "throw new Error(`${'x'.repeat(4080)}${s}`);",
    "throw s;",
    "throw { message: s, stack: `at ${s}` };",
    "{ const e = new TypeError('m'); e.name = s; throw e; }",
    "{ const e = new Error('m'); e.stack = `    at ${s} (plugin.js:1:1)`; throw e; }",
    "await Promise.reject(new RangeError(s));",
    "return NextResponse.rewrite(`https://b.test/x?q=${s}`);",
];

fn plugin(
    text: &str,
    config: &serde_json::Value,
    env: &serde_json::Value,
) -> (TempDir, ManualPlugin) {
    let folder = tempfile::tempdir().unwrap();
    let schema = r#"{ "properties": { "salt": { "writeOnly": true } } }"#;
    for (name, text) in [("plugin.js", text), (schema::FILE, schema)] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let source = source::Source::read("plugins/x", &folder.path().join("plugin.js")).unwrap();
    let plugin = ManualPlugin::load(source, config.to_string(), env.to_string()).unwrap();
    (folder, plugin)
}

/// Secrets of one request, in the order of the places.
fn drawn(random: &mut fastrand::Rng) -> Vec<String> {
    let mut secret = |place: usize| {
        let marks = if place == 3 { "-._~" } else { "-._~+/ %" };
        let marks: Vec<char> = marks.chars().collect();
        let letters = std::iter::repeat_with(|| match random.u8(..6) {
            0 => marks[random.usize(..marks.len())],
            _ => random.alphanumeric(),
        });
        format!("k{}z", letters.take(18).collect::<String>())
    };
    let mut secrets: Vec<String> = (0..PLACES.len()).map(&mut secret).collect();
    secrets[0] = secrets[0].replace(' ', "_");
    secrets[6] = form_urlencoded::byte_serialize(secrets[4].as_bytes()).collect();
    secrets[10] = random.u32(100_000..).to_string();
    secrets
}

fn input_with(secrets: &[String]) -> Input {
    let mut input = input();
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("ann:{}", secrets[1]));
    for (name, value) in [
        ("authorization", format!("Bearer {}", secrets[0])),
        ("proxy-authorization", format!("Basic {basic}")),
        ("x-api-key", secrets[2].clone()),
        ("cookie", format!("theme=dark; session={}; a=b", secrets[3])),
    ] {
        input.headers.insert(name, value.parse().unwrap());
    }
    let password: String = form_urlencoded::byte_serialize(secrets[5].as_bytes()).collect();
    input.url = format!(
        "https://a.test/x?token={}&user%5Bpassword%5D={password}",
        secrets[6]
    );
    input
}

#[tokio::test]
async fn no_line_and_no_failure_has_a_secret() {
    let mut random = fastrand::Rng::with_seed(edgeway_testkit::drawn());
    for case in 0..edgeway_testkit::cases(60, 600) {
        let secrets = drawn(&mut random);
        let pin: u32 = secrets[10].parse().unwrap();
        let config = json!({
            "apiKey": secrets[7], "inner": { "passwords": [secrets[8]] }, "salt": secrets[9],
            "pin": { "password": pin }, "colour": "red",
        });
        let env = json!({ "UPSTREAM": secrets[11] });
        let place = case % PLACES.len();
        let expression = PLACES[place];
        let way = WAYS[random.usize(..WAYS.len())];
        let text = format!(
            "import {{ NextResponse }} from 'next/server';
             export async function onRequest(request, ctx) {{
               const s = {expression}; ctx.log.info(ctx.config.colour);
               {way}
               return new Response(s);
             }}
             export const onLog = (entry, ctx) => {{
               const request = ctx.request;
               const s = {expression};
               return {{ note: `a ${{s}} b`, own: s, pin: Number(s) || 1 }};
             }}"
        );
        let (_folder, plugin) = plugin(&text, &config, &env);
        let ran = plugin.run(Hook::Request, input_with(&secrets)).await;
        let entry = Input {
            entry: Some("{}".to_owned()),
            ..input_with(&secrets)
        };
        let logged = plugin.run(Hook::Log, entry).await;
        let mut shown = format!("{:?} {:?}", ran.lines, logged.outcome);
        assert!(shown.contains("\"red\""), "{shown}");
        match &ran.outcome {
            Ok(output) => match &output.result {
                HookResult::Response(response) => {
                    assert_eq!(response.body, secrets[place], "{way}");
                }
                other => panic!("{way}: {other:?}"),
            },
            Err(failure) => shown = format!("{shown} {failure:?} {failure}"),
        }
        for secret in &secrets {
            // Not even the beginning of it.
            let begin = &secret[..secret.len().min(8)];
            assert!(
                !shown.contains(begin),
                "{expression} {way} {secret}: {shown}"
            );
        }
    }
}

/// Names in which filters read credentials are secret as well, whatever they are.
#[tokio::test]
async fn names_of_filters_are_secret_too() {
    let capabilities = capabilities::Capabilities {
        secret_names: vec!["X-Partner".to_owned()],
        ..capabilities::Capabilities::default()
    };
    let text = "export const onRequest = (request) => { throw request.headers.get('x-partner'); };";
    let limits = HookLimits::default();
    let loaded = load_within(&[("plugin.js", text)], "{}", limits, capabilities).unwrap();
    let mut input = input();
    input
        .headers
        .insert("x-partner", "of a partner".parse().unwrap());
    let failure = loaded.plugin.call(Hook::Request, input).await.unwrap_err();
    assert_eq!(failure.message, "it threw [redacted]");
}
