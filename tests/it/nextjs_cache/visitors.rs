//! Visitors whom a Next.js app tells apart without a word to caches. Invariant: whatever the app's
//! configuration or proxy looks at (a language, cookies, headers, hosts, below a path or not), each
//! visitor gets what the app itself would send.
//!
//! `EDGEWAY_SEED` draws other visitors.

use fastrand::Rng;

use super::{folder, status_of};
use crate::support::{
    apps::{App, LanguagesApp},
    client::{Request, Response, get},
    front::Front,
    gateway::Gateway,
    seed,
};

/// `BUILD` stands for the identity of the build.
const PATHS: [&str; 19] = [
    "/",
    "/",
    "/index",
    "/de",
    "/fr",
    "/plain",
    "/de/plain",
    "/tried",
    "/fr/tried",
    "/left",
    "/other",
    "/beta",
    // Behind the app's proxy, with a language or without.
    "/account",
    "/de/account",
    "/_next/data/BUILD/account.json",
    "/_next/data/BUILD/en/account.json",
    "/_next/data/BUILD/de/plain.json",
    "/_next/data/BUILD/en/now.json",
    "/_next/static/BUILD/_ssgManifest.js",
];

/// Headers of visitors, each with the values that it may have.
const HEADERS: [(&str, &[&str]); 8] = [
    ("host", &["shop.test", "laden.test", "other.test"]),
    ("accept-language", &["de", "fr-CH, fr;q=0.9", "en", "*"]),
    (
        "cookie",
        &[
            "NEXT_LOCALE=de",
            "NEXT_LOCALE=fr; beta=1",
            "beta=",
            "moved=yes",
            "moved=no",
            "a=1; moved=%79es",
            "beta=1; \"x",
        ],
    ),
    ("x-kind", &["small", "large"]),
    ("x-old", &["1"]),
    ("x-mark", &["1"]),
    ("x-key", &["ok"]),
    ("origin", &["http://one.test", "http://two.test"]),
];

/// Headers of the router when it loads data, and when it does so before a click.
const OF_ROUTER: [(&str, &str); 2] = [("x-nextjs-data", "1"), ("x-middleware-prefetch", "1")];

fn drawn(random: &mut Rng, base: &str, build: &str) -> Request {
    let path = PATHS[random.usize(..PATHS.len())].replace("BUILD", build);
    // Next.js redirects `/site/` to `/site`.
    let target = match (base, &*path) {
        ("", path) => path.to_owned(),
        (base, "/") => base.to_owned(),
        (base, path) => format!("{base}{path}"),
    };
    let mut request = get(&target);
    for (number, (name, values)) in HEADERS.into_iter().enumerate() {
        if number == 0 || random.u8(..3) == 0 {
            request = request.header(name, values[random.usize(..values.len())]);
        }
    }
    if path.contains("/_next/data/") {
        for (name, value) in OF_ROUTER.into_iter().take(random.usize(..3)) {
            request = request.header(name, value);
        }
    }
    request
}

/// Returns what a visitor sees of a response.
fn seen(response: &Response) -> (u16, Vec<Option<String>>, String) {
    let own = [
        "access-control-allow-origin",
        "location",
        "x-marked",
        "content-type",
        "x-middleware-skip",
        "x-nextjs-redirect",
    ];
    let own = own.map(|name| response.header(name).map(str::to_owned));
    let text = response.text();
    let page = text.split_once("<p>").map_or(&*text, |(_, rest)| rest);
    let page = page.split("</p>").next().unwrap_or_default();
    (response.status(), own.to_vec(), page.to_owned())
}

async fn front(app: &App, more: &str) -> Gateway {
    Front::to(app)
        .upstream(&format!("app: nextjs, {more}"))
        .route("cache: { anonymous_cookies: [NEXT_LOCALE, beta, moved, a] }")
        .start()
        .await
}

/// Sends drawn requests; returns the numbers of stored responses and of those that the app itself
/// would not have sent, with the first of these.
async fn compare(app: &App, gateway: &Gateway, base: &str, count: usize) -> (usize, Vec<String>) {
    let mut random = Rng::with_seed(seed::drawn());
    let build = std::fs::read_to_string(app.kind().build().join("BUILD_ID")).expect("a build");
    let (mut stored, mut wrong) = (0, Vec::new());
    for _ in 0..count {
        let request = drawn(&mut random, base, &build);
        let response = gateway.send(&request).await;
        let own = app.send(&request).await;
        stored += usize::from(["HIT", "STALE"].contains(&status_of(&response)));
        if seen(&response) != seen(&own) {
            let (got, own) = (seen(&response), seen(&own));
            wrong.push(format!("{request:?}\ngot {got:?}\nits own is {own:?}"));
        }
    }
    (stored, wrong)
}

#[tokio::test]
async fn each_visitor_gets_what_the_app_has_for_it() {
    let count = seed::cases(300, 1500);
    for base in ["", "/site"] {
        let app = LanguagesApp::start(base).await;
        let gateway = front(&app, &format!("folder: {}", folder(app.kind()))).await;
        let (stored, wrong) = compare(&app, &gateway, base, count).await;
        println!(
            "`{base}`: {stored} of {count} were stored, {} wrong",
            wrong.len()
        );
        assert!(wrong.is_empty(), "{} of {count}: {}", wrong.len(), wrong[0]);
        assert!(
            stored > count / 20,
            "{stored} stored responses show nothing"
        );
        // The control: without the build, nothing tells them apart.
        let blind = front(&app, "guarded: []").await;
        let (_, wrong) = compare(&app, &blind, base, count / 4).await;
        assert!(!wrong.is_empty(), "the comparison finds nothing");
    }
}
