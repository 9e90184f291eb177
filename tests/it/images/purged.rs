//! Images whose sources are replaced while they are made.
//!
//! Invariant: a client that asks after a purge gets the image of what the source was after it, and so
//! do all who get the stored one, also if other clients had asked for the old image before.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::Semaphore,
    time::Duration,
};

use super::{LEFT, WEBP, drawn_images, image};
use crate::support::{
    apps::Kind, client::find, front::Front, gateway::Gateway, seed, server::Server, wait::wait_for,
};

const SOON: Duration = Duration::from_secs(20);
const SOURCE: &str = "hero.jpg";

/// App that sends one source as it is when it is asked for, the first time with a delay.
#[derive(Clone)]
struct SlowApp {
    source: Arc<Mutex<Bytes>>,
    asked: Arc<AtomicUsize>,
    first: Arc<Semaphore>,
}

impl SlowApp {
    async fn serve(self, mut stream: tokio::net::TcpStream) -> Option<()> {
        let mut head = Vec::new();
        while find(&head, b"\r\n\r\n").is_none() {
            if stream.read_buf(&mut head).await.ok()? == 0 {
                return None;
            }
        }
        let is_source = head.starts_with(format!("GET /{SOURCE} ").as_bytes());
        let body = if is_source {
            self.source.lock().clone()
        } else {
            Bytes::new()
        };
        if is_source && self.asked.fetch_add(1, Ordering::SeqCst) == 0 {
            drop(self.first.acquire().await);
        }
        let status = if is_source { "200 OK" } else { "404 Not Found" };
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: image/jpeg\r\ncache-control: max-age=600\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.ok()?;
        stream.write_all(&body).await.ok()
    }
}

/// A gateway before such an app, and the folder with its build.
struct Replaced {
    app: SlowApp,
    folder: tempfile::TempDir,
    gateway: Gateway,
    _server: Server,
}

impl Replaced {
    /// Starts both; `files` are those of `public/`.
    async fn start(source: Bytes, files: &[(&str, &Bytes)]) -> Self {
        let app = SlowApp {
            source: Arc::new(Mutex::new(source)),
            asked: Arc::default(),
            first: Arc::new(Semaphore::new(0)),
        };
        let server = {
            let app = app.clone();
            Server::start(move |stream| app.clone().serve(stream)).await
        };
        let folder = tempfile::tempdir().unwrap();
        let build = folder.path().join(".next");
        fs::create_dir_all(&build).unwrap();
        let public = folder.path().join("public");
        fs::create_dir(&public).unwrap();
        for (name, content) in files {
            fs::write(public.join(name), content).unwrap();
        }
        for entry in fs::read_dir(Kind::Next.folder().join(".next")).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), build.join(entry.file_name())).unwrap();
            }
        }
        let front = Front::to(server.address())
            .with("cache: { memory: 64MiB }")
            .upstream(&format!(
                "app: nextjs, images: edge, folder: {}",
                build.display()
            ))
            .route("cache: {}");
        Self {
            app,
            folder,
            gateway: front.start().await,
            _server: server,
        }
    }

    /// Puts a file into place, as a whole.
    fn put(&self, name: &str, content: &[u8]) {
        let public = self.folder.path().join("public");
        fs::write(public.join("new"), content).unwrap();
        fs::rename(public.join("new"), public.join(name)).unwrap();
    }

    fn has_open(&self, name: &str) -> bool {
        let all = fs::read_dir(format!("/proc/{}/fd", self.gateway.pid())).unwrap();
        let all = all.flatten();
        all.filter_map(|fd| fs::read_link(fd.path()).ok())
            .any(|path| path.ends_with(Path::new("public").join(name)))
    }

    async fn purge(&self, draw: &mut fastrand::Rng) {
        let orders = [json!({ "all": true }), json!({ "prefix": "/_next/image" })];
        let (status, receipt) = self.gateway.purge(&orders[draw.usize(..2)]).await;
        assert_eq!(status, 200, "{receipt}");
    }

    async fn image(&self, width: u32) -> (Option<String>, Bytes) {
        let request = image(SOURCE, width, 75, WEBP);
        let response = self.gateway.send(&request).await;
        assert_eq!(response.status(), 200, "{request:?}");
        assert_eq!(response.header("content-type"), Some("image/webp"));
        let status = response.header("x-cache-status").map(str::to_owned);
        (status, response.body.clone())
    }

    /// Checks that an image is that of the control, which nobody has asked for before.
    async fn is_control(&self, image: &Bytes, width: u32) {
        let control = super::image("control.jpg", width, 75, WEBP).header("cookie", "x=1");
        let control = self.gateway.send(&control).await;
        assert_eq!(control.status(), 200);
        assert!(*image == control.body, "the image is of the old source");
    }
}

/// Returns sources that look different.
fn sources() -> [Bytes; 2] {
    let (folder, _) = drawn_images();
    ["turned-1.jpg", "grey.jpg"].map(|name| fs::read(folder.path().join(name)).unwrap().into())
}

/// A response of the app that was asked for before a purge is no source of later images.
#[tokio::test]
async fn a_purge_wins_over_an_image_whose_source_is_awaited() {
    let mut draw = fastrand::Rng::with_seed(seed::drawn());
    let [old, new] = sources();
    let site = Replaced::start(old, &[("control.jpg", &new)]).await;
    let before = site.image(64);
    let after = async {
        let asked = || site.app.asked.load(Ordering::SeqCst);
        wait_for("the source is asked for", SOON, async || {
            (asked() == 1).then_some(())
        })
        .await;
        *site.app.source.lock() = new;
        site.purge(&mut draw).await;
        // The old source has not come yet.
        let (_, replaced) = site.image(64).await;
        site.app.first.add_permits(1);
        replaced
    };
    let (_, replaced) = tokio::join!(before, after);
    let (status, stored) = site.image(64).await;
    assert_eq!(status.as_deref(), Some("HIT"));
    assert!(stored == replaced, "the old image is stored");
    site.is_control(&replaced, 64).await;
    assert_eq!(site.gateway.count(LEFT).await, 0);
}

/// A file that was opened before a purge is no source of later images, whether its image is made at
/// that moment, or it was looked at just before.
#[tokio::test]
async fn a_purge_wins_over_an_image_that_is_being_made() {
    let mut draw = fastrand::Rng::with_seed(seed::drawn());
    let sources = sources();
    let files = [SOURCE, "control.jpg"].map(|name| (name, &sources[0]));
    let site = Replaced::start(Bytes::new(), &files).await;
    for round in 0..seed::cases(2, 12) {
        let new = &sources[(round + 1) % 2];
        let width = [64, 128][draw.usize(..2)];
        site.put("control.jpg", new);
        let is_made = draw.bool() || round == 0;
        let before = site.image(width);
        let after = async {
            wait_for("the file is open", SOON, async || {
                site.has_open(SOURCE).then_some(())
            })
            .await;
            site.put(SOURCE, new);
            site.purge(&mut draw).await;
            site.image(width).await.1
        };
        let replaced = if is_made {
            tokio::join!(before, after).1
        } else {
            before.await;
            after.await
        };
        let (status, stored) = site.image(width).await;
        assert_eq!(status.as_deref(), Some("HIT"));
        assert!(stored == replaced, "round {round}: another image is stored");
        site.is_control(&replaced, width).await;
    }
}
