//! Warm-up of a release before its visitors come: `warm` of `releases`.
//!
//! Invariant: after a deploy, the first request for each of the responses that were wanted most is
//! served with the new release's own response from the cache, whatever listener, scheme, host and
//! proxy it comes by, and the first one for any other response is not. No client can choose a
//! release.

use std::{fs, net::IpAddr, path::Path, sync::Arc, time::Duration};

use rustls::ClientConfig;
use serde_json::{Value, json};

use crate::support::{
    certificates::Ca,
    client::{Connection, Request, Response, get, post},
    fleet::{Ran, edgeway},
    releases::{Site, built},
    seed,
    wait::wait_for,
};

const SOON: Duration = Duration::from_secs(20);
/// Header of the secret, which no app may ever see.
const HEADER: &str = "x-edgeway-warm-up";

/// An app whose responses name their release, with the caching headers of Next.js. It keeps the
/// headers of each request. `mode` of its folder changes it: `broken` fails, `late` sends the first
/// copy of each page as one that is too old to be stored.
const APP: &str = r"
const http = require('node:http');
const fs = require('node:fs');
const release = process.env.EDGEWAY_RELEASE;
const mode = fs.existsSync('mode') ? fs.readFileSync('mode', 'utf8') : '';
const seen = new Set();
http.createServer((request, response) => {
  const { url, headers } = request;
  if (url === '/health') return response.end('ok');
  fs.appendFileSync('requests.jsonl', JSON.stringify({ url, headers }) + '\n');
  if (mode === 'broken') response.statusCode = 500;
  const isPrivate = url.startsWith('/private');
  response.setHeader('cache-control', isPrivate ? 'private, no-store' : 's-maxage=600');
  response.setHeader('x-release', release);
  let kind = 'text/html';
  if (url.startsWith('/_next/image')) {
    const accept = headers.accept ?? '';
    kind = ['image/avif', 'image/webp'].find((form) => accept.includes(form)) ?? 'image/png';
    response.setHeader('vary', 'Accept');
  } else {
    if (headers.rsc === '1') kind = 'text/x-component';
    response.setHeader('x-nextjs-prerender', '1');
    response.setHeader('vary', 'rsc, next-router-state-tree, next-router-prefetch, next-router-segment-prefetch, Accept-Encoding');
  }
  if (mode === 'late' && !seen.has(url)) response.setHeader('x-nextjs-cache', 'STALE');
  seen.add(url);
  response.setHeader('content-type', kind);
  response.end(`${release} ${url} ${kind}`);
}).listen(process.env.PORT, '127.0.0.1');
";

fn app(name: &str, mode: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder for the test can be made");
    let write = |file: &str, text: &str| {
        fs::write(folder.path().join(file), text).expect("the folder takes files");
    };
    fs::create_dir_all(folder.path().join(".next/server")).expect("it can be made");
    write(".next/BUILD_ID", &format!("build-{name}"));
    write("server.js", APP);
    write("mode", mode);
    folder
}

/// Lines of the section that start an instance.
const START: &str = "      start: [node, server.js]\n      linger: 1h";

async fn site(more: &str) -> Site {
    Site::start_app("/health", &format!("{START}\n{more}")).await
}

async fn deploy(site: &Site, folder: &Path, name: &str) -> Ran {
    let folder = folder.to_str().expect("the path is text");
    let deploy = ["deploy", "web", folder, "--name", name];
    let ran = edgeway(&site.gateway, &deploy).await;
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    ran
}

/// Returns the requests that a release got.
fn requests_of(site: &Site, release: &str) -> Vec<Value> {
    let file = site.folder.path().join(release).join("requests.jsonl");
    let text = fs::read_to_string(file).unwrap_or_default();
    let lines = text.lines().map(serde_json::from_str);
    lines.map(|line| line.expect("it is JSON")).collect()
}

fn cache_status(response: &Response) -> String {
    response
        .header("x-cache-status")
        .unwrap_or("none")
        .to_owned()
}

/// Returns a request of the kind that browsers send: a page with or without a query, a payload, a
/// prefetch, an image.
fn drawn(draw: &mut fastrand::Rng, number: usize) -> Request {
    let encodings = ["gzip, deflate, br, zstd", "gzip, deflate, br"];
    let accepted = ["image/avif,image/webp,*/*", "image/webp", "*/*"];
    let page = match draw.u8(0..4) {
        0 => format!("/p{number}"),
        1 => format!("/p{number}/deep%20er"),
        _ => format!("/p{number}?b={number}&a=%2F"),
    };
    let join = |page: &str, more: &str| {
        let mark = if page.contains('?') { '&' } else { '?' };
        get(&format!("{page}{mark}{more}"))
    };
    let request = match draw.u8(0..6) {
        0 => join(&page, "_rsc=abc").header("rsc", "1"),
        1 => join(&page, "_rsc=def")
            .header("rsc", "1")
            .header("next-router-prefetch", "1")
            .header("next-router-segment-prefetch", "/_tree"),
        2 => get(&format!("/_next/image?url=%2Fi{number}.png&w=64&q=75"))
            .header("accept", accepted[draw.usize(..3)]),
        _ => get(&page),
    };
    match encodings.get(draw.usize(..3)) {
        Some(encoding) => request.header("accept-encoding", *encoding),
        None => request,
    }
}

/// Address of a proxy before the gateway, and that of the visitors who come without one.
const PROXY: &str = "127.0.0.2";
const DIRECT: &str = "127.0.0.1";

/// Names in the certificate of the listener with TLS.
const NAMES: [&str; 3] = ["shop.test", "inner.test", "plain.test"];

/// Way from a visitor's browser to the gateway.
#[derive(Clone, Copy, Debug)]
struct Way {
    listener: &'static str,
    from: &'static str,
    /// `None` for the address of the listener.
    host: Option<&'static str>,
    headers: &'static [(&'static str, &'static str)],
}

/// Each of these ways makes other keys of the same request.
const WAYS: [Way; 10] = [
    Way::direct("web", None),
    Way::direct("web", Some("shop.test")),
    Way::direct("tls", Some("shop.test")),
    Way::direct("tls", Some("shop.test:8443")),
    // The proxy has taken TLS off.
    Way::proxied("web", "lb.test", &[("x-forwarded-proto", "https")]),
    Way::proxied(
        "web",
        "inner.test:3000",
        &[
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "shop.test:9443"),
        ],
    ),
    Way::proxied(
        "web",
        "shop.test",
        &[("x-forwarded-proto", "https"), ("x-forwarded-port", "444")],
    ),
    Way::proxied("web", "other.test:443", &[("x-forwarded-proto", "https")]),
    Way::proxied("moved", "moved.test", &[("x-forwarded-proto", "https")]),
    // The proxy has put TLS on.
    Way::proxied(
        "tls",
        "inner.test",
        &[
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "plain.test"),
        ],
    ),
];

impl Way {
    const fn direct(listener: &'static str, host: Option<&'static str>) -> Self {
        Self {
            listener,
            from: DIRECT,
            host,
            headers: &[],
        }
    }

    const fn proxied(
        listener: &'static str,
        host: &'static str,
        headers: &'static [(&'static str, &'static str)],
    ) -> Self {
        Self {
            listener,
            from: PROXY,
            host: Some(host),
            headers,
        }
    }
}

/// Request of a visitor.
#[derive(Clone, Debug)]
struct Visit {
    way: Way,
    request: Request,
}

/// A site with listeners of each kind.
struct Listening {
    site: Site,
    trust: Arc<ClientConfig>,
}

impl Listening {
    /// Starts a site that trusts these proxies.
    async fn start(trusted: &str, more: &str) -> Self {
        let ca = Ca::new();
        let sections = format!(
            "
trusted_proxies: ['{trusted}']
listeners:
  - {{ address: '127.0.0.1:0', name: web }}
  - {{ address: '127.0.0.1:0', name: moved, redirect: https }}
  - {{ address: '127.0.0.1:0', name: tls, tls: {{ certificates: {{ cert: a.pem, key: a.key }} }} }}"
        );
        let releases = format!("{START}\n{more}");
        let prepare = |folder: &Path| ca.site(&NAMES).write(folder, "a");
        Self {
            site: Site::start_in(&sections, "/health", &releases, prepare).await,
            trust: Arc::new(ca.trust()),
        }
    }

    async fn send(&self, visit: &Visit) -> Response {
        let Visit { way, request } = visit;
        let mut request = request.clone();
        for (name, value) in way.headers {
            request = request.header(name, *value);
        }
        if way.from == PROXY {
            request = request.header("x-forwarded-for", "203.0.113.7");
        }
        if let Some(host) = way.host {
            request = request.header("host", host);
        }
        let listener = self.site.gateway.listener(way.listener);
        let to = listener.parse().expect("an address");
        let from: IpAddr = way.from.parse().expect("an address");
        let sent = if way.listener == "tls" {
            let host = way.host.expect("a certificate has names");
            let name = host.split(':').next().unwrap_or(host);
            let open = Connection::open_tls_from(from, to, name, &self.trust).await;
            open.expect("the certificate is good").send(&request).await
        } else {
            let open = Connection::open_from(from, to).await;
            let mut open = open.expect("the gateway accepts connections");
            open.send(&request).await
        };
        sent.expect("the gateway responds")
    }

    /// Returns the cache's status of the first requests to the release `two`.
    async fn first_requests(&self, wanted: &[Visit]) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for visit in wanted {
            let response = self.send(visit).await;
            assert!(response.text().starts_with("two "), "{}", response.text());
            let way = format!("{:?} {}", visit.way, visit.request.text());
            found.push((cache_status(&response), way));
        }
        found
    }
}

/// Draws 40 different things to request of the release `one`: each page is requested in several
/// ways.
fn wishes(draw: &mut fastrand::Rng) -> Vec<Visit> {
    let mut wanted = Vec::new();
    while wanted.len() < 40 {
        let request = drawn(draw, wanted.len());
        let mut ways = WAYS;
        draw.shuffle(&mut ways);
        for way in &ways[..draw.usize(1..4)] {
            let (way, request) = (*way, request.clone());
            wanted.push(Visit { way, request });
        }
    }
    wanted.truncate(40);
    draw.shuffle(&mut wanted);
    wanted
}

/// Lets visitors request each of these of the release `one`, the first one most often.
async fn visit(site: &Listening, wanted: &[Visit], draw: &mut fastrand::Rng) {
    let mut visits: Vec<&Visit> = Vec::new();
    for (rank, visit) in wanted.iter().enumerate() {
        visits.extend(vec![visit; wanted.len() + 2 - rank]);
    }
    draw.shuffle(&mut visits);
    for visit in visits {
        let response = site.send(visit).await;
        assert_eq!(response.status(), 200);
        assert!(response.text().starts_with("one "), "{}", response.text());
    }
}

async fn first_requests(site: &Site, wanted: &[Request]) -> Vec<String> {
    let mut found = Vec::new();
    for request in wanted {
        let response = site.gateway.send(request).await;
        assert!(response.text().starts_with("two "), "{}", response.text());
        found.push(cache_status(&response));
    }
    found
}

#[track_caller]
fn all_are(status: &str, found: &[(String, String)]) {
    let others: Vec<_> = found.iter().filter(|(it, _)| it != status).collect();
    assert!(others.is_empty(), "not {status}: {others:#?}");
}

#[tokio::test]
async fn first_requests_after_a_deploy_are_hits_of_the_new_release() {
    // The deploy itself does not come from an address of the second.
    for trusted in ["127.0.0.0/8", PROXY] {
        let seed = seed::drawn();
        let mut draw = fastrand::Rng::with_seed(seed);
        let most = draw.usize(5..35);
        let site = Listening::start(trusted, &format!("      warm: {most}")).await;
        let (one, two) = (app("one", ""), app("two", ""));
        deploy(&site.site, one.path(), "one").await;
        let wanted = wishes(&mut draw);
        visit(&site, &wanted, &mut draw).await;
        for _ in 0..3 {
            site.site.gateway.get("/private").await;
        }
        let ran = deploy(&site.site, two.path(), "two").await;
        let line = format!("two: {most} of {most} responses warmed\n");
        assert!(ran.stderr.contains(&line), "{}", ran.stderr);
        let (warmed, others) = wanted.split_at(most);
        all_are("HIT", &site.first_requests(warmed).await);
        // What is beyond the number was not fetched.
        all_are("MISS", &site.first_requests(others).await);
        for release in ["one", "two"] {
            for request in requests_of(&site.site, release) {
                assert!(request["headers"].get(HEADER).is_none(), "{request}");
                assert_ne!((release, &request["url"]), ("two", &json!("/private")));
            }
        }
        let log = site.site.gateway.folder().join("access.log");
        let log = fs::read_to_string(log).expect("it is there");
        assert!(!log.contains("warm-up"), "{log}");
    }
}

/// Control: without `warm` the first requests are misses.
#[tokio::test]
async fn first_requests_are_misses_unless_the_release_is_warmed() {
    let mut draw = fastrand::Rng::with_seed(1);
    let site = Listening::start(PROXY, "").await;
    let (one, two) = (app("one", ""), app("two", ""));
    deploy(&site.site, one.path(), "one").await;
    let wanted = wishes(&mut draw);
    visit(&site, &wanted, &mut draw).await;
    deploy(&site.site, two.path(), "two").await;
    all_are("MISS", &site.first_requests(&wanted).await);
}

/// An app that finds its own copy too old when it is asked first: nobody stores that.
#[tokio::test]
async fn pages_that_the_app_renders_again_are_warmed_too() {
    let site = site("      warm: 10").await;
    let (one, two) = (app("one", ""), app("two", "late"));
    deploy(&site, one.path(), "one").await;
    let pages = ["/a", "/b", "/c"].map(get);
    for page in &pages {
        site.gateway.send(page).await;
    }
    let ran = deploy(&site, two.path(), "two").await;
    assert!(
        ran.stderr.contains("two: 3 of 3 responses warmed"),
        "{}",
        ran.stderr
    );
    assert_eq!(first_requests(&site, &pages).await, ["HIT", "HIT", "HIT"]);
}

#[tokio::test]
async fn a_failing_warm_up_is_reported_and_the_deploy_goes_on() {
    let site = site("      warm: 10").await;
    let (one, two) = (app("one", ""), app("two", "broken"));
    deploy(&site, one.path(), "one").await;
    for page in ["/a", "/b"] {
        site.gateway.get(page).await;
    }
    let ran = deploy(&site, two.path(), "two").await;
    let line = "two: 0 of 2 responses warmed, 2 failed (status 500)";
    assert!(ran.stderr.contains(line), "{}", ran.stderr);
    assert_eq!(site.state("two").await, "current");
}

/// Invariant: only who has the secret of the warm-up in progress reaches its release.
#[tokio::test]
async fn no_client_chooses_a_release() {
    let site = site("").await;
    let gateway = &site.gateway;
    let (one, two) = (app("one", ""), app("two", ""));
    deploy(&site, one.path(), "one").await;
    let visitors = ["/a", "/b?x=1"].map(get);
    for visitor in &visitors {
        gateway.send(visitor).await;
    }
    deploy(&site, two.path(), "two").await;
    site.run(&["rollback", "web"]).await;
    let begin = async |release: &str| {
        let body = json!({ "release": release, "responses": 5 }).to_string();
        let request =
            post("/v1/upstreams/web/warm-up", body).header("content-type", "application/json");
        gateway.send_admin(&request).await
    };
    let release_of = async |request: Request| {
        let response = gateway.send(&request).await;
        response.header("x-release").unwrap_or("none").to_owned()
    };
    // Each path is new, so that the cache has nothing to do with it.
    let mut number = 0;
    let mut page = || {
        number += 1;
        format!("/private/{number}")
    };
    let refused = begin("three").await;
    assert_eq!(refused.status(), 409, "{}", refused.text());
    assert_eq!(release_of(get(&page()).header(HEADER, "two")).await, "one");

    let plan = begin("two").await.json();
    assert_eq!(plan["header"], HEADER);
    let urls: Vec<&Value> = plan["requests"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|request| &request["url"])
        .collect();
    let address = gateway.address();
    assert_eq!(urls.len(), 2, "{urls:?}");
    for path in ["/a", "/b?x=1"] {
        assert!(
            urls.contains(&&json!(format!("http://{address}{path}"))),
            "{urls:?}"
        );
    }
    let secret = plan["secret"].as_str().expect("text").to_owned();
    assert!(secret.len() >= 64, "{secret}");
    let mut other = secret.clone().into_bytes();
    other[10] = if other[10] == b'0' { b'1' } else { b'0' };
    let other = String::from_utf8(other).expect("it is text");
    for wrong in ["", "two", "1", &secret[1..], &secret.to_uppercase(), &other] {
        assert_eq!(release_of(get(&page()).header(HEADER, wrong)).await, "one");
    }
    // Only the header is read, by its whole name.
    for name in [
        "edgeway-warm-up",
        "x-edgeway-warm",
        "x_edgeway_warm_up",
        "cookie",
        "x-release",
    ] {
        assert_eq!(
            release_of(get(&page()).header(name, &*secret)).await,
            "one",
            "{name}"
        );
    }
    assert_eq!(
        release_of(get(&format!("{}?{HEADER}={secret}", page()))).await,
        "one"
    );
    assert_eq!(
        release_of(get(&page()).header(HEADER, &*secret)).await,
        "two"
    );
    let form = post(&page(), "--b\r\n--b--\r\n")
        .header("content-type", "multipart/form-data; boundary=b")
        .header(HEADER, &*secret);
    assert_eq!(release_of(form).await, "two");

    let ended = gateway
        .send_admin(&Request::new("DELETE", "/v1/upstreams/web/warm-up"))
        .await
        .json();
    assert_eq!(ended["requests"], 2);
    assert_eq!(
        release_of(get(&page()).header(HEADER, &*secret)).await,
        "one"
    );
    for release in ["one", "two"] {
        for request in requests_of(&site, release) {
            let headers = request["headers"].as_object().expect("a map");
            let names: Vec<&String> = headers.keys().collect();
            let is_it = |name: &&String| name.replace('_', "-") == HEADER;
            assert!(!names.iter().copied().any(|name| is_it(&name)), "{request}");
        }
    }
}

/// Invariant: only who has the secret of the warm-up in progress counts as a trusted proxy.
#[tokio::test]
async fn no_client_poses_as_a_trusted_proxy() {
    let site = site("").await;
    let gateway = &site.gateway;
    let one = app("one", "");
    deploy(&site, one.path(), "one").await;
    let body = json!({ "release": "one", "responses": 1 }).to_string();
    let begin = post("/v1/upstreams/web/warm-up", body).header("content-type", "application/json");
    let plan = gateway.send_admin(&begin).await.json();
    let secret = plan["secret"].as_str().expect("text");
    let mut number = 0;
    let mut forwarded = async |secret: &str| {
        number += 1;
        let path = format!("/private/{number}");
        let request = get(&path)
            .header("x-forwarded-proto", "https")
            .header("x-forwarded-host", "shop.test")
            .header(HEADER, secret);
        gateway.send(&request).await;
        let requests = requests_of(&site, "one");
        let found = requests.iter().find(|request| request["url"] == *path);
        let headers = &found.expect("the app got it")["headers"];
        ["proto", "host", "for"].map(|name| headers[format!("x-forwarded-{name}")].clone())
    };
    let host = gateway.address().to_string();
    for wrong in ["", "one", &secret[1..], &secret.to_uppercase()] {
        assert_eq!(forwarded(wrong).await, ["http", &*host, DIRECT], "{wrong}");
    }
    assert_eq!(forwarded(secret).await, ["https", "shop.test", DIRECT]);
}

/// A page of a real Next.js app that is rendered again every second: after the deploy, its first
/// request is a hit of the new release.
#[tokio::test]
async fn a_page_of_a_real_app_is_warmed() {
    let site = Site::start("      linger: 1h\n      warm: 10").await;
    site.deploy("named-one").await;
    let payload = || {
        get("/news?_rsc")
            .header("rsc", "1")
            .header("x-deployment-id", "dpl-one")
    };
    wait_for("the page is stored", SOON, async || {
        let page = site.gateway.get("/news").await;
        assert_eq!(page.status(), 200);
        (cache_status(&page) == "HIT").then_some(())
    })
    .await;
    wait_for("its payload is stored", SOON, async || {
        let status = cache_status(&site.gateway.send(&payload()).await);
        (status == "HIT" || status == "STALE").then_some(())
    })
    .await;
    let folder = built("named-two");
    let ran = deploy(&site, &folder, "named-two").await;
    assert!(
        ran.stderr.contains("named-two: 2 of 2 responses warmed"),
        "{}",
        ran.stderr
    );
    let page = site.gateway.get("/news").await;
    assert!(page.text().contains("news of named-two"), "{}", page.text());
    assert!(
        ["HIT", "STALE"].contains(&&*cache_status(&page)),
        "{}",
        cache_status(&page)
    );
    // The old release has its own copy.
    let old = site.gateway.send(&payload()).await;
    assert!(old.text().contains("news of named-one"), "{}", old.text());
}
