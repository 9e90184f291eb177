//! Own pages for errors. Invariant: a client that takes HTML gets exactly the bytes of the page for
//! the status, whatever the backend has sent and by whichever way; every other client gets what it
//! would get without pages.
#![allow(
    clippy::panic,
    reason = "tests: what goes wrong here fails them, and says so"
)]

use std::{fs, sync::Arc, time::Duration};

use fastrand::Rng;

use crate::support::{
    client::{self, Request, Response},
    gateway::Gateway,
    http2,
    origins::planned::{Framing, Hints, Plan, PlannedOrigin, Plans},
    ports::free_port,
    seed, verify,
    wait::wait_for,
};

const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
const ACCEPTS: [&str; 6] = [
    BROWSER,
    BROWSER,
    "",
    "*/*",
    "application/json",
    "application/json, text/html;q=0.5",
];
const STATUSES: [u16; 9] = [200, 206, 301, 400, 404, 410, 500, 502, 503];

fn one<T: Copy>(list: &[T], random: &mut Rng) -> T {
    list[random.usize(..list.len())]
}

fn plan(random: &mut Rng) -> Plan {
    Plan {
        status: one(&STATUSES, random),
        size: one(&[0, 1, 300, 5_000, 200_000], random),
        seed: random.u64(..),
        is_text: true,
        content_type: one(&["text/html", "text/plain", "application/json"], random),
        framing: one(&[Framing::Length, Framing::Chunked, Framing::Close], random),
        coding: one(&[None, None, Some("gzip"), Some("br")], random),
        has_trailers: random.bool(),
        hints: Hints::None,
        piece: 40_000,
        pause: None,
        cache_control: one(&["no-store", "max-age=60"], random),
        has_tag: random.bool(),
        has_ranges: false,
    }
}

/// Returns the page that belongs to a status.
fn page(status: u16) -> Option<String> {
    match status {
        404 => Some("<p>none</p>\n".repeat(200)),
        500..600 => Some("<p>down</p>\n".to_owned()),
        _ => None,
    }
}

fn takes_html(accept: &str) -> bool {
    !accept.starts_with("application/json")
}

/// Response by either protocol: status, content without its coding, entity tag.
type Seen = (u16, Vec<u8>, Option<String>);

fn seen(response: &Response) -> Seen {
    let tag = response.header("etag").map(str::to_owned);
    (response.status(), response.decoded(), tag)
}

/// Invariant: a client gets the page or the response, whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_take_html_get_the_page_and_others_the_response() {
    let seed = seed::drawn();
    let mut random = Rng::with_seed(seed);
    let plans = Arc::new(Plans::default());
    let origin = PlannedOrigin::start(&plans).await;
    let folder = tempfile::tempdir().expect("a folder for the test can be made");
    for (name, status) in [("404", 404), ("5xx", 500)] {
        let page = page(status).expect("it has one");
        fs::write(folder.path().join(format!("{name}.html")), page).expect("it takes files");
    }
    let at = folder.path().display();
    let (h1, h2) = (free_port(), free_port());
    let pages = format!("pages: {{ 404: {at}/404.html, 5xx: {at}/5xx.html }}");
    let yaml = format!(
        "
listeners:
  - {{ address: '127.0.0.1:{h1}', name: web }}
  - {{ address: '127.0.0.1:{h2}', name: h2, http2: {{ cleartext: true }} }}
cache: {{ memory: 32MiB }}
upstreams:
  app: {{ backends: ['{}'], health: false, eject: {{ errors: 0 }} }}
routes:
- {{ match: {{ path: /own/* }}, upstream: app, error_pages: {{ {pages} }} }}
- {{ match: {{ path: /all/* }}, upstream: app, error_pages: {{ {pages}, intercept: true }} }}
- {{ match: {{ path: /cached/* }}, upstream: app, cache: {{}}, error_pages: {{ {pages}, intercept: true }} }}
- {{ match: {{ path: /body/* }}, upstream: app, body_limit: 1MB, csrf: false,
     error_pages: {{ {pages}, intercept: true }} }}
",
        origin.address()
    );
    let gateway = Gateway::start(&yaml).await;
    let streams = http2::Client::open(([127, 0, 0, 1], h2).into()).await;
    let (mut replaced, mut passed) = (0, 0);
    for case in 0..seed::cases(130, 250) {
        let route = one(&["own", "all", "cached", "body"], &mut random);
        let path = format!("/{route}/{case}");
        let planned = plan(&mut random);
        plans.set(&path, planned.clone());
        // Twice, since the second time it may come from the cache.
        for _ in 0..2 {
            let accept = one(&ACCEPTS, &mut random);
            let method = one(&["GET", "GET", "GET", "HEAD"], &mut random);
            let coding = one(&["", "gzip", "br, gzip", "identity"], &mut random);
            let mut headers = vec![("host", "a.test")];
            headers.extend((!accept.is_empty()).then_some(("accept", accept)));
            headers.extend((!coding.is_empty()).then_some(("accept-encoding", coding)));
            let is_h2 = random.u8(..3) == 0;
            let (status, content, tag) = if is_h2 {
                let mut request = http2::request(method, &path);
                for (name, value) in headers.iter().skip(1) {
                    request = request.header(*name, *value);
                }
                let response = streams.send(request, "").await;
                let response = response.unwrap_or_else(|error| {
                    panic!("{error:?}: {method} {path} {headers:?}: {planned:?}")
                });
                let tag = response.header("etag").map(str::to_owned);
                let coding = response.header("content-encoding").unwrap_or_default();
                let content = match &response.body[..] {
                    [] => Vec::new(),
                    body => verify::decoded(coding, body).expect("it is what it says"),
                };
                (response.status(), content, tag)
            } else {
                let mut request = Request::new(method, &path);
                for (name, value) in &headers {
                    request = request.header(name, *value);
                }
                match client::send(gateway.address(), &request).await {
                    Ok(response) => seen(&response),
                    Err(error) => panic!("{error:?}: {}: {planned:?}", request.text()),
                }
            };
            let shown = format!("{method} {path} {headers:?} h2 {is_h2}: {planned:?}");
            assert_eq!(status, planned.status, "{shown}");
            let own = page(status).filter(|_| route != "own" && takes_html(accept));
            let expected = match &own {
                Some(page) => page.clone().into_bytes(),
                None => planned.content(),
            };
            let expected = if method == "HEAD" {
                Vec::new()
            } else {
                expected
            };
            assert!(content == expected, "{shown}: {} bytes", content.len());
            if own.is_some() {
                replaced += 1;
                assert_eq!(tag, None, "{shown}");
            } else {
                passed += 1;
            }
        }
    }
    assert!(
        replaced > 50 && passed > 100,
        "{replaced} and {passed} say nothing"
    );
}

#[tokio::test]
async fn the_gateways_own_errors_have_pages_and_the_files_are_watched() {
    let gateway = Gateway::start_in(
        "
watch: { debounce: 100ms }
defaults: { error_pages: { pages: { 404: page.html, 5xx: page.html } } }
upstreams:
  app: { backends: ['127.0.0.1:9'], health: false }
routes:
- { match: { path: /app }, upstream: app }
- { match: { path: /plain }, upstream: app, error_pages: false }
",
        |folder| fs::write(folder.join("page.html"), "<p>one").expect("it takes files"),
    )
    .await;
    for (path, status) in [("/app", 502), ("/none", 404)] {
        let response = gateway.get(path).await;
        assert_eq!(
            (response.status(), response.text()),
            (status, "<p>one".to_owned())
        );
        assert_eq!(response.header("cache-control"), Some("no-store"));
    }
    let plain = gateway.get("/plain").await;
    assert!([502, 503].contains(&plain.status()));
    assert!(plain.text().starts_with("50"), "{}", plain.text());

    fs::write(gateway.folder().join("page.html"), "<p>two").expect("it takes files");
    wait_for(
        "the page is the new one",
        Duration::from_secs(10),
        async || (gateway.get("/none").await.text() == "<p>two").then_some(()),
    )
    .await;
}

#[tokio::test]
async fn the_built_in_page_is_html_for_all_clients_where_that_is_wanted() {
    let gateway = Gateway::start(
        "
maps: { frames: { from: '{response.content-type}', values: { '~^text/html': DENY } } }
defaults:
  headers: { response: { set: { X-Frames: '{map.frames}' } } }
routes:
- { match: { path: /html }, respond: 404, error_pages: { built_in: html } }
- { match: { path: /own }, respond: 404, error_pages: { built_in: html, pages: { 404: { body: own } } } }
- { match: { path: /any }, respond: 404 }
",
    )
    .await;
    for accept in ACCEPTS.into_iter().chain(["text/plain"]) {
        let of = async |path: &str| {
            let request = Request::new("GET", path).header("accept", accept);
            let response = gateway.send(&request).await;
            assert_eq!(response.status(), 404, "{path}");
            let kind = response.header("content-type").unwrap_or_default();
            let kind = kind.split(';').next().unwrap_or_default().to_owned();
            let frames = response.header("x-frames").map(str::to_owned);
            (kind, frames, response.text())
        };
        let (kind, frames, text) = of("/html").await;
        assert_eq!((&*kind, frames.as_deref()), ("text/html", Some("DENY")));
        assert!(text.contains("<title>404"), "{text}");
        assert_eq!(
            of("/own").await,
            ("text/plain".to_owned(), None, "own".to_owned())
        );
        // The control: without the option, `Accept` decides.
        let (kind, ..) = of("/any").await;
        assert_eq!(kind == "text/html", accept == BROWSER, "{accept}");
    }
}

#[tokio::test]
async fn the_page_of_a_body_that_is_too_long_has_no_limit_itself() {
    let gateway = Gateway::start(
        "
upstreams: { app: { backends: ['127.0.0.1:9'], health: false } }
defaults: { error_pages: { pages: { 413: { route: page } } } }
routes:
- { match: { path: /own }, upstream: app, body_limit: 10B }
- { match: { path: /usual }, upstream: app }
- { match: { path: /path }, upstream: app, error_pages: { pages: { 413: { reroute: /page } } } }
- { match: { path: /page }, respond: page, body_limit: 1B }
- { match: { named: true }, name: page, respond: page }
",
    )
    .await;
    for path in ["/own", "/usual", "/path"] {
        let request = Request::new("POST", path).body(vec![b'x'; (1 << 20) + 1]);
        let response = gateway.send(&request).await;
        assert_eq!(
            (response.status(), response.text()),
            (413, "page".to_owned()),
            "{path}"
        );
    }
    let request = Request::new("POST", "/page").body("long");
    assert_eq!(gateway.send(&request).await.status(), 413);
}
