//! Visitors whom a Next.js app tells apart without a word to caches. Invariant: whatever the app's
//! configuration looks at (a language, cookies, headers, hosts, below a path or not), each visitor
//! gets what the app itself would send.
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

const PATHS: [&str; 12] = [
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
];

/// Headers of visitors, each with the values that it may have.
const HEADERS: [(&str, &[&str]); 6] = [
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
];

fn drawn(random: &mut Rng, base: &str) -> Request {
    let path = PATHS[random.usize(..PATHS.len())];
    // Next.js redirects `/site/` to `/site`.
    let target = match (base, path) {
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
    request
}

/// Returns what a visitor sees of a response.
fn seen(response: &Response) -> (u16, Vec<Option<String>>, String) {
    let own = ["location", "x-marked", "content-type"];
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
    let (mut stored, mut wrong) = (0, Vec::new());
    for _ in 0..count {
        let request = drawn(&mut random, base);
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
    let count = seed::cases(150, 1500);
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
            stored > count / 10,
            "{stored} stored responses show nothing"
        );
        // The control: without the build, nothing tells them apart.
        let blind = front(&app, "guarded: []").await;
        let (_, wrong) = compare(&app, &blind, base, count / 4).await;
        assert!(!wrong.is_empty(), "the comparison finds nothing");
    }
}
