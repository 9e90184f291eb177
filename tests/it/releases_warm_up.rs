//! Warm-up of a release before its visitors come: `warm` of `releases`.
//!
//! Invariant: after a deploy, the first request for each of the responses that were wanted most is
//! served with the new release's own response from the cache. No client can choose a release.

use std::{fs, path::Path, time::Duration};

use serde_json::{Value, json};

use crate::support::{
    client::{Request, Response, get, post},
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

async fn site(more: &str) -> Site {
    let start = "      start: [node, server.js]\n      linger: 1h";
    Site::start_app("/health", &format!("{start}\n{more}")).await
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

/// Lets visitors request 40 different things of the release `one`, each one a different number of
/// times. Returns them, the most requested first.
async fn visit(site: &Site, draw: &mut fastrand::Rng) -> Vec<Request> {
    let mut wanted: Vec<Request> = (0..40).map(|number| drawn(draw, number)).collect();
    draw.shuffle(&mut wanted);
    let mut visits: Vec<&Request> = Vec::new();
    for (rank, request) in wanted.iter().enumerate() {
        visits.extend(vec![request; 42 - rank]);
    }
    draw.shuffle(&mut visits);
    for request in visits {
        let response = site.gateway.send(request).await;
        assert_eq!(response.status(), 200);
        assert!(response.text().starts_with("one "), "{}", response.text());
    }
    wanted
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

#[tokio::test]
async fn first_requests_after_a_deploy_are_hits_of_the_new_release() {
    let seed = seed::drawn();
    let mut draw = fastrand::Rng::with_seed(seed);
    let most = draw.usize(5..35);
    let site = site(&format!("      warm: {most}")).await;
    let (one, two) = (app("one", ""), app("two", ""));
    deploy(&site, one.path(), "one").await;
    let wanted = visit(&site, &mut draw).await;
    for _ in 0..3 {
        site.gateway.get("/private").await;
    }
    let ran = deploy(&site, two.path(), "two").await;
    let line = format!("two: {most} of {most} responses warmed\n");
    assert!(ran.stderr.contains(&line), "{}", ran.stderr);
    let (warmed, others) = wanted.split_at(most);
    let found = first_requests(&site, warmed).await;
    assert!(found.iter().all(|status| status == "HIT"), "{found:?}");
    // What is beyond the number was not fetched.
    let found = first_requests(&site, others).await;
    assert!(found.iter().all(|status| status == "MISS"), "{found:?}");
    for release in ["one", "two"] {
        for request in requests_of(&site, release) {
            assert!(request["headers"].get(HEADER).is_none(), "{request}");
            assert_ne!((release, &request["url"]), ("two", &json!("/private")));
        }
    }
    let log = fs::read_to_string(site.gateway.folder().join("access.log")).expect("it is there");
    assert!(!log.contains("warm-up"), "{log}");
}

/// Control: without `warm` the first requests are misses.
#[tokio::test]
async fn first_requests_are_misses_unless_the_release_is_warmed() {
    let mut draw = fastrand::Rng::with_seed(1);
    let site = site("").await;
    let (one, two) = (app("one", ""), app("two", ""));
    deploy(&site, one.path(), "one").await;
    let wanted = visit(&site, &mut draw).await;
    deploy(&site, two.path(), "two").await;
    let found = first_requests(&site, &wanted).await;
    assert!(found.iter().all(|status| status == "MISS"), "{found:?}");
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
