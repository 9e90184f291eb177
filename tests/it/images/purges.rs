//! Images of sources that are purged. Next.js keeps such images until they expire, whatever its
//! `revalidatePath` and `revalidateTag` are called for; a purge of the gateway names what is old.

use std::{fs, sync::atomic::Ordering, time::Duration};

use serde_json::{Value, json};

use super::{WEBP, app, drawn_images, image, made};
use crate::support::{
    client::{Request, Response},
    front::Front,
    gateway::Gateway,
    origins::{FixedOrigin, Origin},
    seed,
    wait::wait_for,
};

const SOON: Duration = Duration::from_secs(10);

/// A gateway that makes images, and the origin of their sources.
struct Site {
    gateway: Gateway,
    origin: Origin<FixedOrigin>,
    sources: [Vec<u8>; 2],
}

impl Site {
    async fn start() -> Self {
        let (app, _) = app().await;
        let folder = drawn_images().0.path();
        let sources = ["grey.jpg", "scene-0.jpg"].map(|name| fs::read(folder.join(name)).unwrap());
        let origin = FixedOrigin::start(200, &[], "").await;
        let build = app.kind().build();
        let upstream = format!("app: nextjs, folder: {}, images: edge", build.display());
        let yaml = Front::to(origin.address())
            .with("cache: { memory: 64MiB }")
            .upstream(&upstream)
            .route("name: web, cache: {}, compression: false")
            .yaml();
        Self {
            gateway: Gateway::start(&yaml).await,
            origin,
            sources,
        }
    }

    /// Sets the source of all images: the first or the second one.
    fn set(&self, number: usize, tag: &str) {
        let headers = [("cache-control", "max-age=20000"), ("cache-tag", tag)];
        let settings = self.origin.settings();
        settings.set(200, &headers, &self.sources[number]);
    }

    async fn is_stored(&self, request: &Request) -> (bool, Response) {
        let response = self.gateway.send(request).await;
        (response.header("x-cache-status") == Some("HIT"), response)
    }

    async fn purge(&self, order: &Value) {
        let (status, receipt) = self.gateway.purge(order).await;
        assert_eq!(status, 200, "{receipt}");
    }
}

/// Invariant: after a purge of a source, no image made of the old one is served, and a purge of
/// another source takes none away.
#[tokio::test]
async fn a_purge_of_a_source_reaches_its_images() {
    let site = Site::start().await;
    let mut draw = fastrand::Rng::with_seed(seed::drawn());
    let mut expected = 0;
    for number in 0..seed::cases(20, 100) {
        // The path of a source, and the parameter that names it.
        let (path, name) = [
            ("/shop/N.jpg", "shop%2FN.jpg"),
            ("/shop/N.jpg?v=1&x", "shop%2FN.jpg%3Fv%3D1%26x"),
            ("/a%20b/N.jpg", "a%2520b%2FN.jpg"),
            ("/%C3%A9/N.jpg", "%25C3%25A9/N.jpg"),
        ][draw.usize(..4)];
        let [path, name] = [path, name].map(|text| text.replace('N', &format!("{number}.")));
        expected += if name.starts_with("shop") && !name.contains("%3F") {
            2
        } else {
            0
        };
        let tag = format!("shot-{number}");
        let end = path.rfind('.').unwrap_or_default();
        let order = match draw.u8(..5) {
            0 | 1 => json!({ "url": path }),
            2 => json!({ "url": format!("https://shop.test{path}") }),
            3 => json!({ "prefix": path[..end] }),
            _ => json!({ "tag": tag }),
        };
        let request = image(&name, 64, 75, WEBP);
        site.set(0, &tag);
        let old = site.gateway.send(&request).await;
        assert_eq!(old.status(), 200, "{path}");
        assert!(old.header("cache-tag").is_none());
        site.set(1, &tag);
        // The control: without a purge of this source the old image stays.
        site.purge(&json!({ "url": format!("{path}x") })).await;
        site.purge(&json!({ "tag": "shot" })).await;
        let (is_stored, stays) = site.is_stored(&request).await;
        assert!(is_stored && stays.body == old.body, "{path}");
        site.purge(&order).await;
        let (is_stored, new) = site.is_stored(&request).await;
        assert!(!is_stored && new.body != old.body, "{order} {request:?}");
    }
    // The build allows no others; those are the app's, and stored here as well.
    assert!(expected > 0);
    assert_eq!(made(&site.gateway).await, expected);
}

/// Invariant: a request after a purge gets no image of a source that was fetched before it, though
/// another request still waits for that.
#[tokio::test]
async fn an_image_is_made_of_no_source_from_before_a_purge() {
    let site = Site::start().await;
    let request = image("held%2F1.jpg", 64, 75, WEBP);
    site.set(0, "held");
    let closed = site.origin.settings().gate.write().await;
    let first = site.gateway.send(&request);
    let later = async {
        wait_for("the source is asked for", SOON, async || {
            (site.origin.settings().taken.load(Ordering::SeqCst) == 1).then_some(())
        })
        .await;
        site.set(1, "held");
        site.purge(&json!({ "url": "/held/1.jpg" })).await;
        let open = async {
            site.gateway.counts("edgeway_http_in_flight", 2).await;
            drop(closed);
        };
        tokio::join!(site.gateway.send(&request), open).0
    };
    let (old, new) = tokio::join!(first, later);
    assert_eq!((old.status(), new.status()), (200, 200));
    assert_ne!(old.body, new.body);
    let (is_stored, stored) = site.is_stored(&request).await;
    assert!(is_stored && stored.body == new.body);
}
