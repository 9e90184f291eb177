//! Images whose source the app sends: what its route handlers respond, and files behind its proxy.

use std::time::Duration;

use serde_json::json;

use super::{
    LEFT, WEBP, WIDTHS, app,
    compare::{Comparison, Pairs, source_of},
    drawn_images, front, headers, image, made, own_app, storm,
};
use crate::support::{
    apps::NextApp,
    client::{Request, get},
    seed,
    wait::wait_for,
};

const SOON: Duration = Duration::from_secs(5);

/// Draws how a route handler responds with a file: `/api/picture/<how>/<file>`.
fn drawn(draw: &mut fastrand::Rng, names: &[String]) -> String {
    let mut how = Vec::new();
    let mut maybe = |odds: u8, way: &str, values: u16| {
        if draw.u8(..100) < odds {
            how.push(format!("{way}={}", draw.u16(..values)));
        }
    };
    maybe(70, "control", 14);
    maybe(40, "tag", 3);
    maybe(40, "type", 4);
    maybe(30, "delay", 100);
    maybe(25, "length", 1);
    maybe(25, "pieces", 1);
    maybe(15, "cookie", 1);
    maybe(10, "vary", 1);
    maybe(5, "gzip", 1);
    maybe(4, "empty", 1);
    maybe(4, "redirect", 1);
    maybe(4, "cut", 1);
    if draw.u8(..100) < 15 {
        let statuses = [
            201, 203, 204, 206, 301, 304, 400, 401, 403, 404, 410, 500, 502, 503,
        ];
        how.push(format!("status={}", statuses[draw.usize(..statuses.len())]));
    }
    how.push("n=1".to_owned());
    let name = &names[draw.usize(..names.len())];
    format!("api/picture/{}/{name}", how.join(","))
}

/// Invariant: an image whose source the app sends has the status, the headers that matter and the
/// pixels that the app's own optimizer gives to a client that asks it.
#[tokio::test]
async fn images_of_responses_are_those_of_the_app() {
    let mut draw = fastrand::Rng::with_seed(seed::drawn());
    let (app, names) = app().await;
    let mut comparison = Comparison::of(app).await;
    for _ in 0..seed::cases(60, 150) {
        let source = drawn(&mut draw, names);
        let quality = [40, 75, 90][draw.usize(..3)];
        let accept = if draw.u8(..4) == 0 { "*/*" } else { WEBP };
        let width = WIDTHS[draw.usize(..4)];
        comparison.ask(&source, width, quality, accept).await;
    }
    for name in [
        "grey.jpg?v=1",
        "api/picture/tag=0,control=1/film.gif?v=1",
        "grey.jpg?v=2",
    ] {
        comparison.ask(name, 64, 75, WEBP).await;
    }
    let (made, _) = comparison.finish().await;
    assert!(made > seed::cases(10, 25), "{made}");
}

/// Invariant: the source of an image is asked for without a header of the visitor, so that an image
/// never has what only one of them may see. The control is the same request to the source itself.
#[tokio::test]
async fn a_source_gets_no_header_of_a_visitor() {
    let (app, _) = app().await;
    let gateway = front(app, "images: edge").await;
    let whose = |visitor: usize| {
        let request = |target: &str| {
            let request = get(target).header("accept", WEBP);
            match visitor {
                0 => request,
                1 => request.header("cookie", "session=secret"),
                2 => request.header("cookie", "_ga=GA1.1.1"),
                3 => request.header("authorization", "Basic YTpi"),
                4 => request
                    .header("user-agent", "Mozilla/5.0")
                    .header("accept-language", "de"),
                _ => request
                    .header("x-visitor", "1")
                    .header("referer", "https://a.test/"),
            }
        };
        (
            request(&format!(
                "/_next/image?url=/api/picture/who/{visitor}.jpg&w=64&q=75"
            )),
            request(&format!("/api/picture/who/{visitor}.jpg")),
        )
    };
    // The file that all of these get.
    let grey = image("grey.jpg", 64, 75, WEBP);
    let anonymous = app.send(&grey).await;
    let mut pairs = Pairs::new();
    let other = app.send(&image("scene-0.jpg", 64, 75, WEBP)).await;
    assert_ne!(anonymous.body, other.body);
    // The app sees `Accept` of the request for the source itself.
    let source = gateway.send(&whose(0).1).await;
    for visitor in [1, 2, 3, 4, 5, 0] {
        let (image, itself) = whose(visitor);
        for _ in 0..2 {
            let response = gateway.send(&image).await;
            let what = format!("{image:?}");
            let source = source_of(&grey);
            pairs.add(source, &what, [&response.body, &anonymous.body]);
        }
        assert_eq!(gateway.send(&itself).await.body, source.body);
    }
    pairs.check();
    let mut control = Pairs::new();
    control.add(source_of(&grey), "another", [&other.body, &anonymous.body]);
    assert!(!control.compare()[0].is_like());
    assert_eq!(made(&gateway).await, 6);
}

/// Invariant: what cannot be made of the response goes to the app, within a bounded time, and
/// counts with its reason; the backend stays in rotation.
#[tokio::test]
async fn sources_that_do_not_come_are_left_to_the_app() {
    let (app, _) = app().await;
    let gateway = front(app, "images: edge").await;
    for (how, reason) in [
        ("status=500", "source"),
        ("status=503", "source"),
        ("status=204", "source"),
        ("redirect", "source"),
        ("empty", "source"),
        ("cut", "source"),
        ("more=17", "source"),
        ("more=17,length", "source"),
        ("gzip", "format"),
        ("delay=6000", "time"),
    ] {
        let series = format!("{LEFT}{{reason=\"{reason}\"");
        let before = gateway.count(&series).await;
        let request = image(&format!("api/picture/{how}/grey.jpg"), 64, 75, WEBP);
        let ours = gateway.send(&request).await;
        let theirs = app.send(&request).await;
        assert_eq!(ours.status(), theirs.status(), "{how}");
        assert_eq!(ours.body, theirs.body, "{how}");
        if ours.status() == 200 {
            assert_eq!(headers(&ours), headers(&theirs), "{how}");
        }
        assert_eq!(gateway.count(&series).await, before + 1, "{how}: {reason}");
    }
    assert_eq!(made(&gateway).await, 0);
    let good = image("api/picture/n/grey.jpg", 64, 75, WEBP);
    assert_eq!(gateway.send(&good).await.status(), 200);
    assert_eq!(made(&gateway).await, 1);
}

/// Invariant: at most 16 sources are asked for at once, and none of the requests fails for it.
#[tokio::test]
async fn sources_that_are_asked_for_at_once_are_bounded() {
    let (app, _) = app().await;
    let gateway = front(app, "images: edge").await;
    let requests: Vec<Request> = (0..24)
        .map(|number| {
            image(
                &format!("api/picture/delay=1500,n={number}/grey.jpg"),
                64,
                75,
                WEBP,
            )
        })
        .collect();
    let responses = storm(&gateway, &requests).await;
    assert!(responses.iter().all(|response| response.status() == 200));
    let full = format!("{LEFT}{{reason=\"queue_full\"");
    assert_eq!(gateway.count(&full).await, 8);
    // A busy machine takes longer for some than they may wait: those are the app's as well.
    let left = gateway.count(LEFT).await;
    assert_eq!(made(&gateway).await + left, 24);
}

/// Invariant: an image is stored for as long as its source is fresh, and its source is asked for
/// once.
#[tokio::test]
async fn images_of_responses_are_stored() {
    let (app, _) = own_app("kept").await;
    let gateway = front(&app, "images: edge").await;
    let request = image("api/picture/control=1,delay=300/grey.jpg", 64, 75, WEBP);
    let count = async || app.get("/api/picture/count/grey.jpg").await.text();
    let responses = storm(&gateway, &vec![request.clone(); 20]).await;
    for response in &responses {
        let control = response.header("cache-control");
        assert_eq!(control, Some("public, max-age=30000, must-revalidate"));
    }
    let again = gateway.send(&request).await;
    assert_eq!(again.header("x-cache-status"), Some("HIT"));
    let conditional = request.header("if-none-match", again.header("etag").unwrap());
    assert_eq!(gateway.send(&conditional).await.status(), 304);
    assert_eq!(count().await, "1");
    assert_eq!(gateway.count(LEFT).await, 0);
}

/// Invariant: the proxy of the app decides about a source behind it, as in the app's own optimizer.
#[tokio::test]
async fn sources_behind_the_proxy_are_asked_for() {
    let (folder, _) = drawn_images();
    let matchers = ["/edge/:path*", "/api/picture/n=2/:path*"].map(|path| {
        let regexp = format!("^{}/.*$", path.trim_end_matches("/:path*"));
        json!({ "regexp": regexp, "originalSource": path })
    });
    let functions = json!({ "/_middleware": { "runtime": "nodejs", "matchers": matchers } });
    let app = NextApp::start_with_images_behind("behind", folder.path(), &functions).await;
    let gateway = front(&app, "images: edge").await;
    let mut pairs = Pairs::new();
    for (name, expected, is_made) in [
        // A file that the proxy lets pass, with headers of its own.
        ("edge/init/grey.jpg", 200, 1),
        ("edge/init/film.webp", 200, 1),
        // It redirects visitors without a cookie, which is an error to the optimizer.
        ("api/picture/n=2/grey.jpg", 500, 0),
        ("api/picture/n=3/grey.jpg", 200, 1),
    ] {
        let before = made(&gateway).await;
        // A visitor with the cookie does not unlock it for the optimizer.
        let request = image(name, 64, 75, WEBP).header("cookie", "auth=ok");
        let ours = gateway.send(&request).await;
        let theirs = app.send(&request).await;
        assert_eq!(
            (ours.status(), theirs.status()),
            (expected, expected),
            "{name}"
        );
        if expected == 200 {
            let source = source_of(&request);
            pairs.add(source, name, [&ours.body, &theirs.body]);
            assert_eq!(headers(&ours), headers(&theirs), "{name}");
        } else {
            assert_eq!(ours.body, theirs.body, "{name}");
        }
        wait_for("it is counted", SOON, async || {
            (made(&gateway).await == before + is_made).then_some(())
        })
        .await;
    }
    pairs.check();
}
