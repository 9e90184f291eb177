//! Images at the edge beside the other features of a route.

use std::collections::BTreeMap;

use super::{
    WEBP, app,
    compare::{Pairs, source_of},
    made,
};
use crate::support::{
    apps::App,
    client::{Request, Response, get},
    front::Front,
    gateway::Gateway,
};

/// Features of a route, and what its configuration needs besides.
const FEATURES: [(&str, &str); 14] = [
    (
        "error_pages: { pages: { 4xx: page.html, 5xx: page.html } }",
        "",
    ),
    (
        "error_pages: { pages: { 4xx: page.html, 5xx: page.html }, intercept: true }",
        "",
    ),
    (
        "error_pages: { pages: { 404: { redirect: /login } }, intercept: true }",
        "",
    ),
    (
        "headers: { response: { set: { X-Own: '1' }, by_status: [{ status: [404], set: { X-Gone: '1' } }] } }",
        "",
    ),
    ("basic_auth: { realm: x, file: users }", ""),
    ("access: { allow: [10.0.0.0/8] }", ""),
    ("methods: [GET, HEAD]", ""),
    (
        "cache_control: [{ class: image, browser: 1h, shared: 24h }, { status: 400-599, no_store: true }]",
        "",
    ),
    ("security_headers: helmet", ""),
    ("compression: [gzip, br]", ""),
    ("plugins: [{ file: plugin.js, on_error: continue }]", ""),
    (
        "rate_limit: [edge]",
        "rate_limits: { edge: { rate: 1000/s, key: client.ip } }",
    ),
    ("cors: { origins: ['https://a.test'] }", ""),
    (
        "response_rewrite: { cookies: { flags: [{ name: '*', secure: true }] } }",
        "",
    ),
];

const PLUGIN: &str = "
export function onRequest(request) {
  if (new URL(request.url).searchParams.has('stop')) return new Response('stopped', { status: 403 });
}
export function onResponse(response) { response.headers.set('x-plugin', String(response.status)); }
export function onUpstreamResponse(response) { response.headers.set('x-app', String(response.status)); }
";

async fn front(app: &App, images: &str, (feature, sections): (&str, &str)) -> Gateway {
    let yaml = Front::to(app)
        .with(sections)
        .upstream(&format!(
            "app: nextjs, folder: {}, images: {images}",
            app.kind().build().display()
        ))
        .route(&format!("cache: {{ pages: all }}, {feature}"))
        .yaml();
    Gateway::start_in(&yaml, |folder| {
        let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
        write("page.html", "our page");
        write("plugin.js", PLUGIN);
        // The password is `secret`.
        write("users", "ann:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n");
    })
    .await
}

/// Returns the body, without the id of the request.
fn body(response: &Response) -> Vec<u8> {
    match String::from_utf8(response.body.to_vec()) {
        Ok(text) if response.status() >= 400 => {
            let text = text.split("Request id: ").next();
            text.unwrap_or_default().as_bytes().to_vec()
        }
        _ => response.body.to_vec(),
    }
}

/// Returns the headers, but those that differ with each response.
fn headers(response: &Response) -> BTreeMap<String, String> {
    const DIFFER: [&str; 10] = [
        "date",
        "age",
        "x-request-id",
        "x-nextjs-cache",
        "x-cache-status",
        "cache-status",
        "connection",
        "keep-alive",
        "transfer-encoding",
        "ratelimit",
    ];
    // In minutes: the time of a browser is longer by the age, of which both differ on a busy machine.
    let in_minutes = |directive: &str| match directive.trim().strip_prefix("max-age=") {
        Some(seconds) => {
            let seconds: u64 = seconds.parse().expect("a number");
            format!("max-age={}", (seconds + 30) / 60)
        }
        None => directive.trim().to_owned(),
    };
    let all = response.headers.fields.iter();
    all.map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
        .filter(|(name, _)| !DIFFER.contains(&name.as_str()))
        .map(|(name, value)| match &*name {
            "cache-control" => {
                let directives: Vec<String> = value.split(',').map(in_minutes).collect();
                (name, directives.join(", "))
            }
            _ => (name, value),
        })
        .collect()
}

/// Invariant: whatever else a route does, a client gets of images at the edge what it gets of the
/// app's.
#[tokio::test]
async fn other_features_see_images_at_the_edge_as_those_of_the_app() {
    let (app, _) = app().await;
    let mut pairs = Pairs::new();
    for feature in FEATURES {
        let edge = front(app, "edge", feature).await;
        let control = front(app, "app", feature).await;
        let image = |name: &str, more: &str| -> Request {
            let target = format!("/_next/image?url=%2F{name}&w=64&q=75{more}");
            get(&target).header("accept", WEBP)
        };
        let mut requests = vec![
            image("grey.jpg", ""),
            image("grey.jpg", "&x=1"),
            image("grey.jpg", "&stop=1"),
            image("api/picture/control=1,tag=0/grey.jpg", ""),
            image("missing.png", ""),
            image("api/picture/status=401/grey.jpg", ""),
            image("api/picture/status=403/grey.jpg", ""),
            image("api/picture/status=500/grey.jpg", ""),
            image("grey.jpg", "&q=1"),
        ];
        let more: Vec<Request> = requests
            .iter()
            .flat_map(|request| {
                [
                    request
                        .clone()
                        .header("authorization", "Basic YW5uOnNlY3JldA=="),
                    request.clone().header("cookie", "session=a; seen=1"),
                    request.clone().header("origin", "https://a.test"),
                    request.clone().header("accept-encoding", "gzip, br"),
                ]
            })
            .collect();
        requests.extend(more);
        for request in &requests {
            let theirs = control.send(request).await;
            let ours = edge.send(request).await;
            let what = format!("{}: {request:?}", feature.0);
            assert_eq!(ours.status(), theirs.status(), "{what}");
            let is_image = theirs.header("content-type") == Some("image/webp");
            if is_image {
                pairs.add(source_of(request), &what, [&ours.body, &theirs.body]);
            } else {
                assert_eq!(body(&ours), body(&theirs), "{what}");
            }
            let (mut ours, mut theirs) = (headers(&ours), headers(&theirs));
            if is_image {
                // It is named by its content.
                assert!(ours.remove("etag").is_some() && theirs.remove("etag").is_some());
            }
            // The app sends its refusals without a type.
            if !theirs.contains_key("content-type") {
                ours.remove("content-type");
            }
            if !theirs.contains_key("content-length") {
                ours.remove("content-length");
            }
            theirs
                .remove("content-length")
                .map(|_| ours.remove("content-length"));
            assert_eq!(ours, theirs, "{what}");
        }
        assert!(
            feature.0.starts_with("access") || made(&edge).await >= 2,
            "{feature:?}"
        );
    }
    pairs.check();
}
