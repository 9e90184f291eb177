//! Images of a Next.js app that the gateway makes from the app's files and responses, as the app's
//! own optimizer would.

mod explain;
mod failure;
mod made;
mod remote;
mod source;

use std::{
    num::NonZeroUsize,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use edgeway_cache::{
    nextjs::{BuildWatch, ImageRequest, Optimizer, PathSet, Releases, RemoteSource},
    store::LogMark,
};
use edgeway_config::{
    model::{ImagesAt, UpstreamConfig},
    tree::Key,
};
use edgeway_core::zones::Zone;
use edgeway_files::FileLookup;
use edgeway_images::Workers;
use http::{HeaderMap, header};

pub use self::{
    failure::{ImageFailure, Refusal, SourceFailure},
    made::MadeImage,
    remote::RemoteAccess,
    source::{FetchPlace, FetchedSource, ImageSource},
};
use self::{
    made::{MadeOnce, make},
    source::{Places, SourceFetches, SourceKey},
};
use super::{AppFiles, compile::Compiler};

/// Images that are made at once at most, as far as there are processors.
const MAX_THREADS: usize = 4;

/// Images that wait for a thread.
const QUEUE: usize = 64;

/// Time for one image, with its time in the queue; that of the optimizer of Next.js.
const MAX_DURATION: Duration = Duration::from_secs(7);

/// Identity of an image while it is made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ImageKey {
    upstream: Arc<str>,
    build: u128,
    source: Box<str>,
    width: u32,
    quality: u8,
    media_type: Option<Box<str>>,
    /// Place among purges: an image that is asked for after a purge is made again.
    mark: LogMark,
}

/// Threads that make the images of all apps.
struct ImageWorkers {
    workers: Workers<ImageKey, Result<MadeImage, ImageFailure>>,
    /// Sources that apps send.
    fetches: SourceFetches,
    /// Sources on other servers.
    remote: SourceFetches,
}

impl Zone for ImageWorkers {}

/// Image that a request wants.
#[derive(Clone)]
pub struct WantedImage {
    request: ImageRequest,
    optimizer: Arc<Optimizer>,
    key: ImageKey,
}

/// Images of one app.
#[derive(Clone)]
pub struct AppImages {
    name: Arc<str>,
    files: AppFiles,
    /// Access to other servers, if images of those are made here.
    remote: Option<RemoteAccess>,
    workers: Arc<ImageWorkers>,
    metrics: Arc<ImageMetrics>,
}

edgeway_base::metric_handles! {
    struct ImageMetrics(upstream) {
        made { kind: "made" },
        original { kind: "original" }: IntCounter = "edgeway_images_total",
            "Images made at the edge; original: sources sent as they are.";
        refused: IntCounter = "edgeway_images_refused_total",
            "Image requests that were refused at the edge, because their source is no image.";
        left: [IntCounter; reason: ImageFailure::label] = "edgeway_images_left_to_app_total",
            "Image requests that go to the app although `images: edge` is set.";
    }
}

edgeway_base::opaque_debug!(AppImages, name);

impl Compiler<'_> {
    /// Returns true if the images of this app are made here.
    pub(super) fn makes_images(&mut self, key: &Key, upstream: &UpstreamConfig) -> bool {
        let Some(images) = &upstream.images else {
            return false;
        };
        if images.value.at == ImagesAt::App {
            if images.value.remote.value {
                self.at(images.value.remote.place, "edgeway::upstream::images")
                    .error(
                        format!("the images of `{}` are made by the app", key.name),
                        "write `images: { at: edge, remote: true }`, or remove `remote`",
                    );
            }
            return false;
        }
        if upstream.folder.is_none() && upstream.releases.is_none() {
            self.at(images.place, "edgeway::upstream::images").error(
                format!("the images of `{}` cannot be found", key.name),
                "write the folder of its build: `folder: /srv/web/.next`",
            );
        }
        true
    }

    /// Returns the images of an app, if it has a build.
    pub(super) fn images(
        &mut self,
        name: &str,
        config: &UpstreamConfig,
        (build, releases): (Option<&Arc<BuildWatch>>, Option<&Arc<Releases>>),
        guarded: Option<&PathSet>,
    ) -> Option<AppImages> {
        let remote = self.remote_access(config);
        let world = self.world;
        let clock = &world.clock;
        let guarded = guarded.cloned();
        let files = match (releases, build) {
            (Some(releases), _) => AppFiles::of_releases(releases, true, guarded, clock),
            (None, Some(build)) => AppFiles::new(build, guarded, clock),
            (None, None) => return None,
        };
        let workers = world.zones.get_or_create("images", || {
            let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
            ImageWorkers {
                workers: Workers::new(processors.min(MAX_THREADS), QUEUE),
                fetches: SourceFetches::new(Places::new(0)),
                remote: SourceFetches::new(Places::new(QUEUE)),
            }
        });
        Some(AppImages {
            name: name.into(),
            files,
            remote,
            workers,
            metrics: Arc::new(ImageMetrics::new(&world.metrics, name)),
        })
    }
}

impl AppImages {
    /// Returns the image that a request to the optimizer wants; `None` if it is for the app.
    /// `release` is the one that the request goes to, and `mark` is its place among purges.
    pub fn wanted(
        &self,
        path: &[u8],
        query: Option<&[u8]>,
        headers: &HeaderMap,
        release: Option<&str>,
        mark: LogMark,
    ) -> Option<WantedImage> {
        let accept = headers.get_all(header::ACCEPT).into_iter();
        let accept = accept.map(http::HeaderValue::as_bytes);
        let wanted = self.files.with_build(release, |build| {
            Some((build.image(path, query, accept)?, build.mark))
        });
        let ((request, optimizer), build) = wanted??;
        if request.remote.is_some() && self.remote.is_none() {
            return None;
        }
        let key = ImageKey {
            upstream: Arc::clone(&self.name),
            build,
            source: request.source.clone(),
            width: request.width,
            quality: request.quality,
            media_type: request.media_type.clone(),
            mark,
        };
        Some(WantedImage {
            request,
            optimizer,
            key,
        })
    }

    /// Returns the file that the image is made of; `None` if the app has to be asked for its source.
    /// `release` is the one that the request goes to, and whether that runs.
    pub async fn file(
        &self,
        wanted: &WantedImage,
        release: Option<(&str, bool)>,
    ) -> Result<Option<ImageSource>, ImageFailure> {
        let request = &wanted.request;
        let path = request.path().as_bytes();
        let is_running = release.is_none_or(|(_, is_up)| is_up);
        let is_of_app = || {
            if is_running && !self.files.is_guarded(path) {
                Ok(None)
            } else {
                Err(ImageFailure::Source)
            }
        };
        if request.has_query() {
            return is_of_app();
        }
        let Some((files, path)) = self.files.find(path, release) else {
            return is_of_app();
        };
        let age = self.files.age_of(files);
        // As it is now: the image is stored for longer than a look at the file is valid.
        match files.find(&path).await {
            FileLookup::File(file) if (1..=wanted.optimizer.max_source).contains(&file.size()) => {
                Ok(Some(ImageSource::File(file, age)))
            }
            FileLookup::File(_) => Err(ImageFailure::Source),
            _ => is_of_app(),
        }
    }

    /// Returns the source that the app or another server sends, which `fetch` asks it for. It is
    /// asked for once for all requests that want it meanwhile.
    pub async fn fetched<F>(
        &self,
        wanted: &WantedImage,
        fetch: impl FnOnce(FetchPlace) -> F,
    ) -> Result<ImageSource, SourceFailure>
    where
        F: Future<Output = Result<FetchedSource, SourceFailure>>,
    {
        let key = SourceKey {
            upstream: Arc::clone(&wanted.key.upstream),
            build: wanted.key.build,
            source: wanted.key.source.clone(),
            mark: wanted.key.mark,
        };
        let fetches = match wanted.request.remote {
            Some(_) => &self.workers.remote,
            None => &self.workers.fetches,
        };
        let fetched = fetches.get(key, fetch).await;
        fetched.map(ImageSource::Fetched)
    }

    /// Returns the source of an image on another server, and the access to that.
    pub fn remote<'i>(
        &'i self,
        wanted: &'i WantedImage,
    ) -> Option<(&'i RemoteSource, &'i RemoteAccess)> {
        wanted.request.remote.as_ref().zip(self.remote.as_ref())
    }

    /// Returns the image, which is made once for all requests that want it.
    pub async fn make(
        &self,
        wanted: &WantedImage,
        source: ImageSource,
        now: Instant,
    ) -> Result<MadeOnce, ImageFailure> {
        let deadline = now + MAX_DURATION;
        let (key, wanted) = (wanted.key.clone(), wanted.clone());
        let workers = &self.workers.workers;
        let image = workers.get(key, move || make(&source, &wanted, deadline));
        let image = tokio::time::timeout(MAX_DURATION, image).await;
        let image = image.map_err(|_| ImageFailure::Time)?;
        let image = image.map_err(|_| ImageFailure::QueueFull)?;
        let image = image.ok_or(ImageFailure::Internal)?;
        if let Err(failure) = &*image {
            return Err(*failure);
        }
        Ok(MadeOnce(image))
    }

    /// Counts an image that was sent, or a request that goes to the app.
    pub fn count(&self, outcome: Result<&MadeImage, ImageFailure>) {
        let counter = match outcome {
            Ok(made) if made.is_original => &self.metrics.original,
            Ok(_) => &self.metrics.made,
            Err(failure) => &self.metrics.left[failure],
        };
        counter.inc();
    }

    /// Counts a request that was refused.
    pub fn count_refused(&self) {
        self.metrics.refused.inc();
    }
}
