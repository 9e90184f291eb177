//! Images that the gateway makes in place of a real Next.js app: the same responses, and images
//! that look the same.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of tests: what goes wrong here fails the test, and says so"
)]

mod accepts;
mod beside;
mod compare;
mod purged;
mod purges;
mod remote;
mod remote_rules;
mod sources;
mod spellings;

use std::{
    collections::BTreeMap, fs, path::Path, process::Command, sync::OnceLock, time::Duration,
};

use tempfile::TempDir;
use tokio::sync::OnceCell;

use self::compare::{Comparison, MOST_BYTES_OF_ALL};
use crate::support::{
    apps::{App, Kind, NextApp},
    client::{Request, Response, get},
    front::Front,
    gateway::{Gateway, cpu_of},
    seed,
};

const LEFT: &str = "edgeway_images_left_to_app_total";
const REFUSED: &str = "edgeway_images_refused_total";

const WEBP: &str = "image/webp,*/*";
const WIDTHS: [u32; 4] = [64, 128, 640, 1080];
const QUALITIES: [u32; 3] = [40, 75, 90];

fn script(name: &str) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/it/images")
        .join(name);
    let mut command = Command::new("node");
    command.arg(script).current_dir(Kind::Next.folder());
    command
}

/// Returns the folder of the drawn images, and their names.
fn drawn_images() -> &'static (TempDir, Vec<String>) {
    static DRAWN: OnceLock<(TempDir, Vec<String>)> = OnceLock::new();
    DRAWN.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let seed = std::env::var("EDGEWAY_IMAGES_SEED").ok();
        let seed = seed.unwrap_or_else(|| seed::drawn().to_string());
        eprintln!("EDGEWAY_IMAGES_SEED={seed}");
        let mut draw = script("draw.mjs");
        draw.arg(folder.path()).arg(&seed);
        if let Ok(count) = std::env::var("EDGEWAY_IMAGES_COUNT") {
            draw.arg(count);
        }
        let drawn = draw.output().unwrap();
        let errors = String::from_utf8_lossy(&drawn.stderr);
        assert!(drawn.status.success(), "{errors}");
        let names = String::from_utf8(drawn.stdout).unwrap();
        (folder, names.lines().map(str::to_owned).collect())
    })
}

/// Returns the app with drawn images for all tests that do not count what it does, and their names.
async fn app() -> (&'static App, &'static [String]) {
    static SHARED: OnceCell<App> = OnceCell::const_new();
    let app = SHARED.get_or_init(async || own_app("shared").await.0).await;
    (app, &drawn_images().1)
}

/// Starts the app of one test with drawn images. Returns it with their names.
async fn own_app(test: &'static str) -> (App, &'static [String]) {
    let (folder, names) = drawn_images();
    let app = NextApp::start_with_images(test, folder.path()).await;
    (app, names)
}

async fn front(app: &App, more: &str) -> Gateway {
    front_with(app, more, &[]).await
}

async fn front_with(app: &App, more: &str, environment: &[(&str, &str)]) -> Gateway {
    let yaml = Front::to(app)
        .with("cache: { memory: 64MiB }")
        .upstream(&format!(
            "app: nextjs, folder: {}, {more}",
            app.kind().build().display()
        ))
        .route("name: web, cache: {}, compression: false")
        .yaml();
    Gateway::start_with(&yaml, environment).await
}

fn image(name: &str, width: u32, quality: u32, accept: &str) -> Request {
    let target = format!("/_next/image?url=%2F{name}&w={width}&q={quality}");
    get(&target).header("accept", accept)
}

/// Returns the headers that matter.
fn headers(response: &Response) -> BTreeMap<&'static str, Option<String>> {
    [
        "content-type",
        "cache-control",
        "vary",
        "content-disposition",
        "content-security-policy",
    ]
    .into_iter()
    .map(|name| (name, response.header(name).map(str::to_owned)))
    .collect()
}

async fn made(gateway: &Gateway) -> u64 {
    gateway.count("edgeway_images_total").await
}

/// Returns the widths that are compared of an image: all in a hunt, otherwise every fourth one.
fn widths(number: usize) -> impl Iterator<Item = (usize, u32)> {
    let step = seed::cases(4, 1);
    let all = WIDTHS.into_iter().enumerate();
    all.skip(number % step).step_by(step)
}

/// Invariant: the client gets the status, the headers that matter and an image that looks the same
/// and is no larger, as from the app's own optimizer.
#[tokio::test]
async fn images_are_those_of_the_app() {
    let (app, names) = app().await;
    let mut comparison = Comparison::of(app).await;
    for (number, name) in names.iter().enumerate() {
        for (at, width) in widths(number) {
            let quality = QUALITIES[(comparison.asked + at) % QUALITIES.len()];
            comparison.ask(name, width, quality, WEBP).await;
        }
    }
    let (made, bytes) = comparison.finish().await;
    assert!(made > seed::cases(30, 120), "{made}");
    assert!(bytes <= MOST_BYTES_OF_ALL, "{bytes}");
}

/// Invariant: as above, for clients that do not take WebP: they get JPEG of the sources that have
/// it, and of WebP.
#[tokio::test]
async fn images_without_webp_are_those_of_the_app() {
    let (app, names) = app().await;
    let mut comparison = Comparison::of(app).await;
    for (number, name) in names.iter().enumerate() {
        let count = if is_png(name) { 1 } else { WIDTHS.len() };
        for (at, width) in widths(number).take(count) {
            let quality = QUALITIES[(comparison.asked + at) % QUALITIES.len()];
            comparison.ask(name, width, quality, "*/*").await;
        }
    }
    let (made, bytes) = comparison.finish().await;
    assert!(made > seed::cases(18, 70), "{made}");
    assert!(bytes <= MOST_BYTES_OF_ALL, "{bytes}");
}

/// Images that are made at the edge for clients that take WebP.
fn is_made(name: &str) -> bool {
    let left = ["cut", "damaged", "bomb", "wide-gamut", "print"];
    let is_left = left.iter().any(|prefix| name.starts_with(prefix));
    let is_known = [".jpg", ".png", ".webp"]
        .iter()
        .any(|end| name.ends_with(end));
    is_known && !is_left && !matches!(name, "sixteen.png" | "text.png" | "empty.png")
}

fn is_png(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|end| end == "png")
}

/// Sends the requests, some at once, and returns the responses.
async fn storm(gateway: &Gateway, requests: &[Request]) -> Vec<Response> {
    let mut responses = Vec::new();
    for some in requests.chunks(24) {
        let sent = some.iter().map(|request| gateway.send(request));
        responses.extend(futures_util::future::join_all(sent).await);
    }
    responses
}

/// Invariant: a storm of image requests costs the app nothing, and each image is made once. The
/// control is the same storm without `images: edge`.
#[tokio::test]
async fn a_storm_leaves_the_app_alone() {
    let (app, names) = own_app("storm").await;
    // Those that are drawn besides may be of any kind.
    let names = names.iter().filter(|name| !name.starts_with("more"));
    let names: Vec<&String> = names.filter(|name| is_made(name)).collect();
    assert!(names.len() > 25, "{names:?}");
    storm_of(&app, &names, WEBP).await;
    // The app sends an animation in WebP to all clients, but no cache keeps it for these.
    let has_jpeg = |name: &&&String| !is_png(name) && name.as_str() != "film.webp";
    let names: Vec<&String> = names.iter().filter(has_jpeg).copied().collect();
    assert!(names.len() > 15, "{names:?}");
    storm_of(&app, &names, "*/*").await;
}

async fn storm_of(app: &App, names: &[&String], accept: &str) {
    // Every sixth image but in a hunt: what a storm costs does not depend on the kind.
    let each: Vec<Request> = names
        .iter()
        .step_by(seed::cases(6, 1))
        .flat_map(|name| WIDTHS.map(|width| image(name, width, 75, accept)))
        .collect();
    let twice: Vec<Request> = each
        .iter()
        .flat_map(|it| [it.clone(), it.clone().header("cookie", "session=a")])
        .collect();
    let gateway = front(app, "images: edge").await;
    let before = (app.cpu(), app.rss());
    let mut responses = Vec::new();
    // Beside other tests more would wait so long that the app gets one of them.
    for some in twice.chunks(seed::cases(4, 24)) {
        responses.extend(storm(&gateway, some).await);
    }
    assert!(responses.iter().all(|response| response.status() == 200));
    let again = storm(&gateway, &each).await;
    for (response, first) in again.iter().zip(responses.iter().step_by(2)) {
        assert_eq!(response.header("etag"), first.header("etag"));
        assert_eq!(response.header("x-cache-status"), Some("HIT"));
    }
    let conditional = each[0]
        .clone()
        .header("if-none-match", again[0].header("etag").unwrap());
    assert_eq!(gateway.send(&conditional).await.status(), 304);
    assert_eq!(gateway.count("edgeway_upstream_requests_total").await, 0);
    assert_eq!(gateway.count("edgeway_images_left_to_app_total").await, 0);
    let edge = cpu_of(gateway.pid());
    let idle = app.cpu().saturating_sub(before.0);
    assert!(idle < Duration::from_millis(500), "{idle:?}");
    let grown = app.rss().saturating_sub(before.1);
    assert!(grown < 16 << 20, "{grown}");

    let control = front(app, "images: app").await;
    let responses = storm(&control, &each).await;
    assert!(responses.iter().all(|response| response.status() == 200));
    assert_eq!(made(&control).await, 0);
    assert!(control.count("edgeway_upstream_requests_total").await > 0);
    let sharp = app.cpu().saturating_sub(before.0 + idle);
    eprintln!(
        "{} images for `{accept}`: {edge:?} at the edge, {sharp:?} in the app, whose memory grew by \
         {} KiB before",
        each.len(),
        grown >> 10
    );
    assert!(sharp > idle, "{sharp:?}");
}

/// Invariant: neither ranges nor the cookie of clients that have changed something cost an image that
/// is stored, and the range of one that is not stored yet has it stored.
#[tokio::test]
async fn a_stored_image_is_made_once_for_all_its_parts() {
    let (app, _) = app().await;
    for images in ["edge", "app"] {
        let gateway = front(app, &format!("images: {images}")).await;
        let whole = image("restarts.jpg", 640, 75, WEBP);
        let first = whole.clone().header("range", "bytes=0-9");
        let first = gateway.send(&first).await;
        assert!(matches!(first.status(), 200 | 206), "{images}");
        let stored = gateway.send(&whole).await;
        assert_eq!(stored.header("x-cache-status"), Some("HIT"), "{images}");
        for (name, value, status, length) in [
            ("range", "bytes=0-9", 206, 10),
            ("range", "bytes=-7", 206, 7),
            ("range", "bytes=99999999-", 416, 0),
            (
                "cookie",
                "edgeway-changed=9999999999999",
                200,
                stored.body.len(),
            ),
        ] {
            let part = gateway.send(&whole.clone().header(name, value)).await;
            assert_eq!(part.status(), status, "{images}: {value}");
            assert_eq!(
                part.header("x-cache-status"),
                Some("HIT"),
                "{images}: {value}"
            );
            assert!(
                status == 416 || part.body.len() == length,
                "{images}: {value}"
            );
        }
        assert_eq!(made(&gateway).await, u64::from(images == "edge"));
        let asked = gateway.count("edgeway_upstream_requests_total").await;
        assert_eq!(asked, u64::from(images == "app"));
    }
}

/// Invariant: what is not made here goes to the app, as before, and is counted with its reason.
#[tokio::test]
async fn what_is_not_made_is_left_to_the_app_and_counted() {
    let (app, _) = app().await;
    let gateway = front(app, "images: edge").await;
    for (name, accept, reason) in [
        ("restarts.jpg", "image/avif,image/webp", "format"),
        ("alpha.png", "*/*", "format"),
        ("still.avif", WEBP, "format"),
        ("print.jpg", WEBP, "format"),
        ("drawing.svg", WEBP, "format"),
        ("text.png", WEBP, "format"),
        ("wide-gamut.jpg", WEBP, "colour"),
        ("cut.jpg", WEBP, "broken"),
        ("bomb.png", WEBP, "pixels"),
        ("api/picture/status=500/grey.jpg", WEBP, "source"),
    ] {
        let series = format!("edgeway_images_left_to_app_total{{reason=\"{reason}\"");
        let before = gateway.count(&series).await;
        let request = image(name, 64, 75, accept);
        let (ours, theirs) = (gateway.send(&request).await, app.send(&request).await);
        assert_eq!(ours.status(), theirs.status(), "{name}");
        assert_eq!(ours.body, theirs.body, "{name}");
        if ours.status() == 200 {
            assert_eq!(headers(&ours), headers(&theirs), "{name}");
        }
        assert_eq!(gateway.count(&series).await, before + 1, "{name}: {reason}");
    }
    // Other methods, other preferences and sources elsewhere are the app's without a count.
    let left = gateway.count("edgeway_images_left_to_app_total").await;
    let target = "/_next/image?url=%2Frestarts.jpg&w=64&q=75";
    for request in [
        Request::new("HEAD", target).header("accept", WEBP),
        Request::new("POST", target).header("accept", WEBP),
        get(target).header("accept", "image/webp;v=1"),
        get("/_next/image?url=%2F%2Fevil.test%2Fa.png&w=64&q=75").header("accept", WEBP),
        get("/_next/image?url=https%3A%2F%2Fevil.test%2Fa.png&w=64&q=75").header("accept", WEBP),
        get("/_next/image?url=%2Frestarts.jpg%3Fa%3D1&w=64&q=75").header("accept", WEBP),
        get("/_next/image?url=%2F..%2Frestarts.jpg&w=64&q=75").header("accept", WEBP),
        get("/_next/image?url=%2F_next%2Fimage%3Furl%3Da&w=64&q=75").header("accept", WEBP),
        get("/_next/image?url=%2Fapi%2Fhello&w=65&q=75").header("accept", WEBP),
    ] {
        let (ours, theirs) = (gateway.send(&request).await, app.send(&request).await);
        assert_eq!(ours.status(), theirs.status(), "{request:?}");
        assert_eq!(ours.body, theirs.body, "{request:?}");
    }
    assert_eq!(
        gateway.count("edgeway_images_left_to_app_total").await,
        left
    );
    assert_eq!(made(&gateway).await, 0);
}

/// Invariant: the optimizer fetches a source past the routes, so an image passes the guards of its
/// source's route.
#[tokio::test]
async fn an_image_leads_around_no_guard_of_its_source() {
    const GUARDED: &str = "name: web, cache: {} }, { match: { path: /restarts.jpg }, name: own, \
         upstream: app, access: { deny: [127.0.0.0/8] }";
    let (app, _) = app().await;
    for images in ["app", "edge"] {
        let build = app.kind().build();
        let settings = format!("app: nextjs, folder: {}, images: {images}", build.display());
        let front = Front::to(app).upstream(&settings).route(GUARDED);
        let gateway = front.with("cache: { memory: 64MiB }").start().await;
        for (name, status) in [("restarts.jpg", 403), ("alpha.png", 200)] {
            for request in [get(&format!("/{name}")), image(name, 64, 75, WEBP)] {
                let response = gateway.send(&request).await;
                assert_eq!(response.status(), status, "{images}: {request:?}");
            }
        }
    }
}

/// Invariant: nothing that an image says of itself makes the gateway use more than its bounds.
#[tokio::test]
async fn bombs_take_no_memory() {
    let (app, names) = app().await;
    let gateway = front(app, "images: edge").await;
    let small = image("grey.jpg", 64, 75, WEBP);
    assert_eq!(gateway.send(&small).await.status(), 200);
    let before = peak_of(gateway.pid());
    let mut bombs = 0;
    for name in names.iter().filter(|name| name.starts_with("bomb")) {
        for width in WIDTHS.into_iter().step_by(seed::cases(3, 1)) {
            let requests = [40, 90].map(|quality| image(name, width, quality, WEBP));
            bombs += storm(&gateway, &requests).await.len();
        }
    }
    let more = peak_of(gateway.pid()) - before;
    eprintln!(
        "{bombs} requests for bombs: the peak of memory rose by {} KiB",
        more >> 10
    );
    assert!(bombs >= seed::cases(20, 40) && more < 64 << 20, "{more}");
}

fn peak_of(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.split_whitespace()
        .next()
        .unwrap()
        .parse::<u64>()
        .unwrap()
        << 10
}
