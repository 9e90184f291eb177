//! Requests for one image in many spellings, and for images that are not there.

use super::{REFUSED, WEBP, compare::Pairs, drawn_images, front, headers, image, made};
use crate::support::{
    apps::NextApp,
    client::{Request, get},
    seed,
};

/// Draws a spelling of a text in a query.
fn spelled(draw: &mut fastrand::Rng, text: &str) -> String {
    text.chars()
        .map(|letter| match (letter, draw.u8(..6)) {
            (' ', 0..=2) => "+".to_owned(),
            ('/' | '.' | '(' | '-', 0..=2) => letter.to_string(),
            (letter, 0..=3) if letter.is_ascii_alphanumeric() => letter.to_string(),
            (letter, turn) if turn % 2 == 0 => format!("%{:02X}", u32::from(letter)),
            (letter, _) => format!("%{:02x}", u32::from(letter)),
        })
        .collect()
}

/// Draws a request for an image, which the app takes for the same as all others.
fn drawn(draw: &mut fastrand::Rng, source: &str, width: u32) -> Request {
    let zeros = |draw: &mut fastrand::Rng| "0".repeat(draw.usize(..3));
    let mut parts = vec![
        format!("url={}", spelled(draw, source)),
        format!("w={}{width}", zeros(draw)),
        format!("{}={}75", ["q", "%71"][draw.usize(..2)], zeros(draw)),
    ];
    for _ in 0..draw.usize(..3) {
        let more = ["x=", "utm_source=", "dpl=", "v", "URL=", "", "_rsc="];
        let more = more[draw.usize(..more.len())];
        parts.push(format!("{more}{}", draw.u16(..)));
    }
    draw.shuffle(&mut parts);
    get(&format!("/_next/image?{}", parts.join("&"))).header("accept", WEBP)
}

/// Invariant: an image is made once, however a request for it is spelled and whatever else is in its
/// query, and each request gets what the app has for it.
#[tokio::test]
async fn an_image_is_made_once_for_all_spellings_of_its_request() {
    let mut draw = fastrand::Rng::with_seed(seed::drawn());
    let folder = tempfile::tempdir().unwrap();
    let drawn_folder = drawn_images().0.path();
    // `+` is a space in a query, which the app looks for.
    for (from, to) in [
        ("grey.jpg", "a+b.jpg"),
        ("scene-0.jpg", "a b.jpg"),
        ("scene-1.jpg", "plain.jpg"),
    ] {
        std::fs::copy(drawn_folder.join(from), folder.path().join(to)).unwrap();
    }
    let app = NextApp::start_with_images("spellings", folder.path()).await;
    let gateway = front(&app, "images: edge").await;
    let mut first = std::collections::HashMap::new();
    let mut pairs = Pairs::new();
    for turn in 0..120 {
        let source = ["/plain.jpg", "/a+b.jpg", "/a b.jpg"][draw.usize(..3)];
        let width = [64, 128][draw.usize(..2)];
        let request = drawn(&mut draw, source, width);
        let theirs = app.send(&request).await;
        let ours = gateway.send(&request).await;
        assert_eq!(theirs.status(), 200, "{request:?}");
        let what = format!("{request:?}");
        let file = (folder.path().join(&source[1..]), width);
        pairs.add(Some(file), &what, [&ours.body, &theirs.body]);
        assert_eq!(headers(&ours), headers(&theirs), "{request:?}");
        let expected = if first.insert((source, width), turn).is_some() {
            "HIT"
        } else {
            "MISS"
        };
        let status = ours.header("x-cache-status");
        assert_eq!(status, Some(expected), "{request:?}");
    }
    pairs.check();
    assert_eq!(first.len(), 6);
    // One source has a name that is left to the app.
    assert_eq!(made(&gateway).await, 4);
    // Control: a query that the app refuses is no spelling of another one.
    for query in [
        "url=%2Fplain.jpg&url=%2Fplain.jpg&w=64&q=75",
        "url=%2Fplain.jpg&w=64&q=75&q=75",
        "url=%2Fplain.jpg&w=64&q=+75",
        "url=%2Fplain.jpg&w=64%20&q=75",
        "url=%2FPLAIN.jpg&w=64&q=75",
        "url=%2Fplain.jpg%00&w=64&q=75",
        "url=%2Fplain.jpg%23&w=64&q=75",
        "url=%2F.%2Fplain.jpg&w=64&q=75",
    ] {
        let request = get(&format!("/_next/image?{query}")).header("accept", WEBP);
        let (ours, theirs) = (gateway.send(&request).await, app.send(&request).await);
        assert_eq!(ours.status(), theirs.status(), "{query}");
        assert_eq!(ours.body, theirs.body, "{query}");
    }
}

/// Invariant: a source that is not there is asked for once, and the client gets what the app has to
/// say.
#[tokio::test]
async fn a_source_that_is_not_there_costs_the_app_one_request() {
    let folder = drawn_images().0.path();
    let app = NextApp::start_with_images("missing", folder).await;
    let gateway = front(&app, "images: edge").await;
    let count = async || -> u32 {
        let count = app.get("/api/picture/count/x").await.text();
        count.parse().unwrap()
    };
    let before = count().await;
    for (turn, status) in (1..).zip([400, 401, 403, 404, 410, 418, 429]) {
        let target = format!("api/picture/status={status}/grey.jpg");
        let request = image(&target, 64, 75, WEBP);
        let ours = gateway.send(&request).await;
        assert_eq!(count().await, before + 2 * turn - 1, "{status}");
        let theirs = app.send(&request).await;
        assert_eq!((ours.status(), theirs.status()), (status, status));
        assert_eq!(ours.body, theirs.body, "{status}");
        assert_eq!(gateway.count(REFUSED).await, u64::from(turn));
    }
    assert_eq!(gateway.count("edgeway_upstream_requests_total").await, 7);
    let refused = r#"edgeway_refused_total{reason="image_source"}"#;
    gateway.counts(refused, 7).await;
}
