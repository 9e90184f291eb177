//! Pages whose upstream gets the client's own request.

use super::*;
use crate::support::client::find;

/// Responds as [`pages`], without the content of a response to `HEAD`.
fn pages_by_method(got: &Got) -> Vec<u8> {
    let mut response = pages(got);
    if got.method == "HEAD"
        && let Some(end) = find(&response, b"\r\n\r\n")
    {
        response.truncate(end + 4);
    }
    response
}

/// Route of a request that a page's upstream gets as it was sent.
const ROUTES_AS_SENT: [(&str, u16, Option<&str>); 6] = [
    // Its name, the status of its error, and the path of its page.
    ("named", 404, None),
    ("path", 404, Some("/page/404")),
    ("dead", 502, None),
    ("gone", 410, Some("/page/410")),
    ("closed", 403, Some("/page/403")),
    ("small", 413, Some("/page/413")),
];

/// The upstream of such a page gets the client's request, byte for byte, but for one that was refused
/// or that cannot be sent again; and never twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_upstream_of_a_page_gets_the_request_as_it_was_sent() {
    let seed = seed::drawn();
    let mut random = Rng::with_seed(seed);
    let origin = Recorder::start(app).await;
    let source = Recorder::start(pages_by_method).await;
    let (mut as_sent, mut built_in) = (0, 0);
    let (h1, h2) = (free_port(), free_port());
    let yaml = format!(
        "
listeners:
  - {{ address: '127.0.0.1:{h1}', name: web }}
  - {{ address: '127.0.0.1:{h2}', name: h2, http2: {{ cleartext: true }} }}
upstreams:
  app: {{ backends: ['{}'], health: false, eject: {{ errors: 0 }}, retry: {{ attempts: 1 }} }}
  dead: {{ backends: ['127.0.0.1:9'], health: false, eject: {{ errors: 0 }}, retry: {{ attempts: 1 }} }}
  pages: {{ backends: ['{}'], health: false, eject: {{ errors: 0 }} }}
defaults:
  csrf: false
  headers: {{ request: {{ set: {{ X-Secret: of the app }}, remove: [X-Forged] }} }}
routes:
- {{ match: {{ path: /named/* }}, upstream: app, error_pages: {{ intercept: true, pages: {{
     404: {{ upstream: pages, as_sent: true, own_status: true }} }} }} }}
- {{ match: {{ path: /path/* }}, upstream: app, error_pages: {{ intercept: true, pages: {{
     404: {{ upstream: pages, path: /page/404, as_sent: true }} }} }} }}
- {{ match: {{ path: /dead/* }}, upstream: dead, error_pages: {{ pages: {{
     502: {{ upstream: pages, as_sent: true, own_status: true }} }} }} }}
- {{ match: {{ path: /gone/* }}, respond: 410, error_pages: {{ pages: {{
     410: {{ upstream: pages, path: /page/410, as_sent: true }} }} }} }}
- {{ match: {{ path: /closed/* }}, upstream: app, access: {{ allow: [192.0.2.1] }}, error_pages: {{ pages: {{
     403: {{ upstream: pages, path: /page/403, as_sent: true }} }} }} }}
- {{ match: {{ path: /small/* }}, upstream: app, body_limit: 10B, error_pages: {{ pages: {{
     413: {{ upstream: pages, path: /page/413, as_sent: true }} }} }} }}
",
        origin.address, source.address
    );
    let gateway = Gateway::start(&yaml).await;
    let streams = http2::Client::open(([127, 0, 0, 1], h2).into()).await;
    let mut kept: Option<Connection> = None;
    for case in 0..CASES {
        let (route, error, path_of) = one(&ROUTES_AS_SENT, &mut random);
        let method = one(&["GET", "HEAD", "POST", "PUT", "DELETE"], &mut random);
        let size = if matches!(method, "POST" | "PUT") {
            // Half of them cannot be sent again, or too few would be drawn.
            one(&[0, 1, 5_000, 100_000, 100_000, 100_000], &mut random)
        } else {
            0
        };
        let body = "b".repeat(if route == "small" { size.max(11) } else { size });
        if route == "small" && size == 0 {
            // Nothing is too large.
            continue;
        }
        let number = case.to_string();
        let path = format!("/{route}/404/{number}");
        let is_h2 = random.u8(..3) == 0;
        let shown = format!("seed {seed}, {method} {path}, {size} bytes, h2 {is_h2}");
        let (got, text, headers) = if is_h2 {
            by_http2(&streams, method, (&path, &number), &body).await
        } else {
            by_http1(&gateway, &mut kept, method, (&path, &number), &body).await
        };
        let asked = source.take(&number);
        let reached = origin.take(&number).len();
        assert!(reached <= 1, "{shown}");
        let is_lost = reached == 1 && body.len() > 64 << 10;
        if is_lost && path_of.is_none() {
            // A `GET` would be another request.
            assert_eq!((got, asked.len()), (error, 0), "{shown}");
            built_in += 1;
            continue;
        }
        let [request] = &asked[..] else {
            unreachable!("{shown}: {} requests for the page", asked.len());
        };
        let is_refused = matches!(route, "closed" | "small");
        let is_whole = !is_refused && !is_lost;
        let expected = match (method, path_of) {
            ("HEAD", _) => "HEAD",
            (method, None) => method,
            _ => "GET",
        };
        assert_eq!(request.method, expected, "{shown}");
        assert_eq!(request.target, path_of.unwrap_or(&path), "{shown}");
        let sent = if is_whole { body.as_bytes() } else { b"" };
        assert!(
            request.body == sent,
            "{shown}: {} bytes",
            request.body.len()
        );
        assert_eq!(request.header("transfer-encoding"), None, "{shown}");
        for (name, value) in SENT {
            let is_own = matches!(name, "x-secret" | "x-forged");
            let is_condition = matches!(name, "if-none-match" | "range");
            let is_there = !is_own && (is_whole || is_lost || !is_condition);
            let value = is_there.then_some(value);
            assert_eq!(request.header(name), value, "{shown}: {name}");
        }
        let page_path = path_of.unwrap_or(&path);
        let content = if method == "HEAD" {
            String::new()
        } else {
            page(page_path)
        };
        let own = if path_of.is_none() { 200 } else { error };
        assert_eq!((got, text), (own, content), "{shown}");
        let [etag, cookie, mark, cache] = headers;
        assert_eq!(
            (cookie.is_some(), mark.as_deref()),
            (true, Some("yes")),
            "{shown}"
        );
        // Of the client's own request it is the response as it is.
        let validator = path_of.is_none().then_some("\"p\"");
        assert_eq!(etag.as_deref(), validator, "{shown}");
        let own = if path_of.is_none() {
            "max-age=60"
        } else {
            "no-store"
        };
        assert_eq!(cache.as_deref(), Some(own), "{shown}");
        as_sent += usize::from(is_whole);
    }
    assert!(
        as_sent > 80 && built_in > 1,
        "{as_sent} and {built_in} say nothing"
    );
}
