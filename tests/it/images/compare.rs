//! Comparison of the gateway's images with those of the app: status, headers, looks and bytes.

use std::{
    collections::BTreeMap, fmt::Write as _, fs, io::Write as _, path::PathBuf, process::Stdio,
};

use serde_json::Value;
use tempfile::TempDir;

use super::{QUALITIES, WEBP, app, drawn_images, front, headers, image, made, script};
use crate::support::{apps::App, client::Request, gateway::Gateway};

/// Least similarity to the image of the app's own optimizer.
const SIMILAR: f64 = 0.98;
/// Most by which an image may be less like its source than that of the app. WebP of low quality
/// differs by more than `SIMILAR` allows if one sample in twenty was another one by the least step.
const MOST_LOSS: f64 = 0.01;
/// Most bytes for each byte of the app's image: of one, which may have few hundred, and of all.
const MOST_BYTES: f64 = 1.1;
pub(super) const MOST_BYTES_OF_ALL: f64 = 1.02;

/// Drawn image that another one is made of, and the width that is wanted.
pub(super) type Source = (PathBuf, u32);

/// Returns the source of the image of a request; `None` if it is not one that was drawn.
pub(super) fn source_of(request: &Request) -> Option<Source> {
    let (_, query) = request.parts().1.split_once('?')?;
    let parameters = url::form_urlencoded::parse(query.as_bytes());
    let parameters: BTreeMap<_, _> = parameters.collect();
    let width = parameters.get("w")?.parse().ok()?;
    let path = parameters.get("url")?.split('?').next()?;
    let file = drawn_images().0.path().join(path.rsplit('/').next()?);
    file.is_file().then_some((file, width))
}

/// Pairs of images, written to files so that they can be compared.
pub(super) struct Pairs {
    folder: TempDir,
    list: Vec<Pair>,
}

pub(super) struct Pair {
    what: String,
    ours: PathBuf,
    theirs: PathBuf,
    source: Option<Source>,
    /// Bytes of both.
    sizes: [usize; 2],
}

/// Result of a comparison.
pub(super) struct Compared<'p> {
    pair: &'p Pair,
    similarity: f64,
    /// Part of the likeness to the source that ours lacks and theirs has; 0 if it does not matter.
    loss: f64,
}

impl Compared<'_> {
    pub(super) fn is_like(&self) -> bool {
        self.similarity >= SIMILAR || self.loss <= MOST_LOSS
    }
}

#[expect(clippy::cast_precision_loss, reason = "lengths of images")]
fn ratio([ours, theirs]: [usize; 2]) -> f64 {
    ours as f64 / theirs as f64
}

impl Pairs {
    pub(super) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            list: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, source: Option<Source>, what: &str, [ours, theirs]: [&[u8]; 2]) {
        let number = self.list.len();
        let file = |whose: &str, bytes: &[u8]| {
            let path = self.folder.path().join(format!("{number}-{whose}"));
            fs::write(&path, bytes).unwrap();
            path
        };
        self.list.push(Pair {
            what: what.to_owned(),
            sizes: [ours.len(), theirs.len()],
            ours: file("ours", ours),
            theirs: file("theirs", theirs),
            source,
        });
    }

    pub(super) fn compare(&self) -> Vec<Compared<'_>> {
        let mut lines = String::new();
        for pair in &self.list {
            let (ours, theirs) = (pair.ours.display(), pair.theirs.display());
            match &pair.source {
                Some((source, width)) => {
                    writeln!(lines, "{ours} {theirs} {width} {}", source.display()).unwrap();
                }
                None => writeln!(lines, "{ours} {theirs} 0 -").unwrap(),
            }
        }
        let mut compare = script("compare.mjs")
            .arg(SIMILAR.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = compare.stdin.take().unwrap();
        let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
        let output = compare.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        assert!(output.status.success());
        let lines = String::from_utf8(output.stdout).unwrap();
        let results = self.list.iter().zip(lines.lines()).map(|(pair, line)| {
            let result: Value = serde_json::from_str(line).unwrap();
            Compared {
                pair,
                similarity: result["similarity"].as_f64().unwrap(),
                loss: result["loss"].as_f64().unwrap(),
            }
        });
        let results: Vec<Compared<'_>> = results.collect();
        assert_eq!(results.len(), self.list.len());
        results
    }

    /// Fails if an image of ours does not look like that of the app, or is larger. Returns the bytes
    /// of all of ours, for each byte of the app's.
    pub(super) fn check(&self) -> f64 {
        let compared = self.compare();
        let sizes = |at: usize| self.list.iter().map(|pair| pair.sizes[at]).sum();
        let all = if compared.is_empty() {
            1.0
        } else {
            ratio([sizes(0), sizes(1)])
        };
        let least = compared.iter().map(|it| it.similarity).fold(1.0, f64::min);
        let loss = compared.iter().map(|it| it.loss).fold(0.0, f64::max);
        let largest = compared.iter().map(|it| ratio(it.pair.sizes));
        eprintln!(
            "{} compared: similarity {least:.4} at least, {loss:.4} less like the source at most, \
             {:.3} of the bytes at most and {all:.3} of all",
            compared.len(),
            largest.fold(0.0, f64::max)
        );
        let bad = compared
            .iter()
            .filter(|it| !it.is_like() || ratio(it.pair.sizes) > MOST_BYTES);
        let bad: Vec<String> = bad
            .map(|it| {
                let (what, ratio) = (&it.pair.what, ratio(it.pair.sizes));
                format!(
                    "{what}: similarity {:.4}, loss {:.4}, {ratio:.3} of the bytes",
                    it.similarity, it.loss
                )
            })
            .collect();
        assert!(bad.is_empty(), "{} differ: {bad:#?}", bad.len());
        all
    }
}

/// Returns true for an entity tag as the optimizer has it: without quotes.
fn is_bare_tag(tag: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    !tag.is_empty() && tag.bytes().all(is_allowed)
}

/// Responses of the gateway beside those of the app.
pub(super) struct Comparison<'a> {
    app: &'a App,
    gateway: Gateway,
    pairs: Pairs,
    pub(super) asked: usize,
    /// Images that are the same to the byte.
    exact: usize,
    /// Images that were made of a damaged source, which the app sends as it is.
    damaged: usize,
}

impl<'a> Comparison<'a> {
    pub(super) async fn of(app: &'a App) -> Self {
        let gateway = front(app, "images: edge").await;
        Self::between(app, gateway)
    }

    pub(super) fn between(app: &'a App, gateway: Gateway) -> Self {
        Self {
            gateway,
            app,
            pairs: Pairs::new(),
            asked: 0,
            exact: 0,
            damaged: 0,
        }
    }

    pub(super) async fn ask(&mut self, name: &str, width: u32, quality: u32, accept: &str) {
        let request = image(name, width, quality, accept);
        let what = format!("{name} w={width} q={quality}");
        self.send(&request, &what).await;
    }

    pub(super) async fn send(&mut self, request: &Request, what: &str) {
        let theirs = self.app.send(request).await;
        let ours = self.gateway.send(request).await;
        self.asked += 1;
        assert_eq!(ours.status(), theirs.status(), "{what}");
        if ours.status() != 200 {
            assert_eq!(ours.body, theirs.body, "{what}");
            return;
        }
        // The app's decoder refuses more of what is damaged than that of the gateway.
        let source = source_of(request).map(|(file, _)| fs::read(file).unwrap());
        let is_passed_on = source.is_some_and(|source| source == theirs.body);
        if is_passed_on && what.contains("damaged") && ours.body != theirs.body {
            self.damaged += 1;
            return;
        }
        assert_eq!(headers(&ours), headers(&theirs), "{what}");
        // What is left to the app it has made a moment before.
        let cached = ours.header("x-nextjs-cache");
        assert!(matches!(cached, Some("MISS" | "HIT")), "{what}: {cached:?}");
        let tag = ours.header("etag").unwrap();
        assert!(is_bare_tag(tag), "{what}: {tag}");
        if ours.body == theirs.body {
            self.exact += 1;
            assert_eq!(ours.header("etag"), theirs.header("etag"), "{what}");
            return;
        }
        let source = source_of(request);
        self.pairs.add(source, what, [&ours.body, &theirs.body]);
    }

    /// Compares the images. Returns the number of those that were made at the edge, and the bytes of
    /// those that were compared, for each byte of the app's.
    pub(super) async fn finish(self) -> (u64, f64) {
        let made = made(&self.gateway).await;
        eprintln!(
            "{} images, {made} made at the edge, {} to the byte, {} of a damaged source",
            self.asked, self.exact, self.damaged
        );
        (made, self.pairs.check())
    }
}

/// Invariant: a comparison fails for an image that does not look like the app's, or is larger than
/// it. The app's own images are taken for ours: of a low quality for a high one, and the reverse.
#[tokio::test]
async fn comparisons_tell_images_apart() {
    let (app, _) = app().await;
    let mut bodies = Vec::new();
    for quality in QUALITIES {
        let request = image("scene-0.jpg", 128, quality, WEBP);
        bodies.push(app.send(&request).await.body);
    }
    let other = app.send(&image("grey.jpg", 128, 75, WEBP)).await.body;
    let request = image("scene-0.jpg", 128, 90, WEBP);
    let compared = |ours: &[u8]| {
        let mut pairs = Pairs::new();
        pairs.add(source_of(&request), "one", [ours, &bodies[2]]);
        let all = pairs.compare();
        (all[0].is_like(), ratio(all[0].pair.sizes) <= MOST_BYTES)
    };
    assert_eq!(compared(&bodies[2]), (true, true));
    assert_eq!(compared(&bodies[0]), (false, true), "of low quality");
    assert!(!compared(&other).0, "another image");
    let mut pairs = Pairs::new();
    pairs.add(None, "large", [&bodies[2], &bodies[0]]);
    assert!(ratio(pairs.list[0].sizes) > MOST_BYTES);
}
