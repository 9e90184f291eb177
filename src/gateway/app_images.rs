//! Images of a Next.js app that the gateway makes from the app's files and responses, as the app's
//! own optimizer would.

use std::{
    ffi::OsStr,
    fmt, fs,
    io::{self, Read as _},
    num::NonZeroUsize,
    os::unix::ffi::OsStrExt as _,
    path::Path,
    sync::{Arc, OnceLock},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, header};

use super::{
    AppFiles,
    compile::Compiler,
    image_source::{
        FetchPlace, FetchedSource, ImageSource, MAX_FETCHED_SIZE, SourceFetches, SourceKey, etag_of,
    },
};
use crate::{
    base::metrics::{IntCounter, Metrics},
    cache::{
        nextjs::{BuildWatch, ImageRequest, Optimizer, PathSet, Releases},
        store::Entry,
    },
    config::{
        model::{ImagesConfig, UpstreamConfig},
        tree::{Key, Spanned},
    },
    files::{Files, Found, ServedFile},
    images::{self, Bounds, ImageError, Kind, OutputFormat, Wanted, Workers},
    zones::Zone,
};

/// Images that are made at once at most, as far as there are processors.
const MAX_THREADS: usize = 4;

/// Images that wait for a thread.
const QUEUE: usize = 64;

/// Bounds of one image.
const BOUNDS: Bounds = Bounds {
    pixels: 100_000_000,
    memory: 256 << 20,
};

/// Time for one image, with its time in the queue; that of the optimizer of Next.js.
const MAX_DURATION: Duration = Duration::from_secs(7);

/// Reason why an image request goes to the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ImageFailure {
    /// The source cannot be read, or the app has no image there.
    Source,
    /// The source or the image is of a type that is not made here.
    Format,
    /// The colours of the source are not those of sRGB.
    Colour,
    Broken,
    Pixels,
    QueueFull,
    Time,
    Internal,
}

impl ImageFailure {
    const ALL: [Self; 8] = [
        Self::Source,
        Self::Format,
        Self::Colour,
        Self::Broken,
        Self::Pixels,
        Self::QueueFull,
        Self::Time,
        Self::Internal,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Format => "format",
            Self::Colour => "colour",
            Self::Broken => "broken",
            Self::Pixels => "pixels",
            Self::QueueFull => "queue_full",
            Self::Time => "time",
            Self::Internal => "internal",
        }
    }
}

impl From<ImageError> for ImageFailure {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::Unsupported => Self::Format,
            ImageError::Colour => Self::Colour,
            ImageError::Pixels => Self::Pixels,
            ImageError::Decode => Self::Broken,
            ImageError::Time => Self::Time,
            ImageError::Encode | ImageError::Internal => Self::Internal,
        }
    }
}

/// Identity of an image while it is made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ImageKey {
    upstream: Arc<str>,
    build: u128,
    source: Box<str>,
    width: u32,
    quality: u8,
    media_type: Option<Box<str>>,
}

/// An image, or a source that is sent as it is.
pub(crate) struct MadeImage {
    pub(crate) bytes: Bytes,
    kind: Kind,
    pub(crate) etag: String,
    is_original: bool,
    /// Seconds for which the source is fresh.
    source_age: u64,
    /// Stored response with this image, for the other requests that wait for it.
    pub(crate) stored: OnceLock<Arc<Entry>>,
}

/// Threads that make the images of all apps.
struct ImageWorkers {
    workers: Workers<ImageKey, Result<MadeImage, ImageFailure>>,
    fetches: SourceFetches,
}

impl Zone for ImageWorkers {}

/// Image that a request wants.
#[derive(Clone)]
pub(crate) struct WantedImage {
    request: ImageRequest,
    optimizer: Arc<Optimizer>,
    key: ImageKey,
}

/// Images of one app.
#[derive(Clone)]
pub(crate) struct AppImages {
    name: Arc<str>,
    builds: Builds,
    files: AppFiles,
    workers: Arc<ImageWorkers>,
    metrics: Arc<ImageMetrics>,
}

#[derive(Clone)]
enum Builds {
    Folder(Arc<BuildWatch>),
    Releases(Arc<Releases>),
}

struct ImageMetrics {
    made: IntCounter,
    original: IntCounter,
    left: [IntCounter; ImageFailure::ALL.len()],
}

impl ImageMetrics {
    fn new(metrics: &Metrics, upstream: &str) -> Self {
        let made = |kind| {
            metrics.counter(
                "edgeway_images_total",
                "Images made at the edge; original: sources sent as they are.",
                &[("upstream", upstream), ("kind", kind)],
            )
        };
        let left = |failure: ImageFailure| {
            metrics.counter(
                "edgeway_images_left_to_app_total",
                "Image requests that go to the app although `images: edge` is set.",
                &[("upstream", upstream), ("reason", failure.label())],
            )
        };
        Self {
            made: made("made"),
            original: made("original"),
            left: ImageFailure::ALL.map(left),
        }
    }
}

impl fmt::Debug for AppImages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppImages")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Compiler<'_> {
    /// Returns true if the images of this app are made here.
    pub(super) fn makes_images(&mut self, key: &Key, upstream: &UpstreamConfig) -> bool {
        let Some(Spanned {
            value: ImagesConfig::Edge,
            place,
        }) = upstream.images
        else {
            return false;
        };
        if upstream.folder.is_none() && upstream.releases.is_none() {
            self.error(
                "edgeway::upstream::images",
                place,
                format!("the images of `{}` cannot be found", key.name),
                "write the folder of its build: `folder: /srv/web/.next`",
            );
        }
        true
    }

    /// Returns the images of an app, if it has a build.
    pub(super) fn images(
        &self,
        name: &str,
        build: Option<&Arc<BuildWatch>>,
        releases: Option<&Arc<Releases>>,
        guarded: Option<&PathSet>,
    ) -> Option<AppImages> {
        let world = self.world;
        let clock = &world.clock;
        let guarded = guarded.cloned();
        let (builds, files) = match (releases, build) {
            (Some(releases), _) => (
                Builds::Releases(Arc::clone(releases)),
                AppFiles::of_releases(releases, true, guarded, clock),
            ),
            (None, Some(build)) => (
                Builds::Folder(Arc::clone(build)),
                AppFiles::new(build, guarded, clock),
            ),
            (None, None) => return None,
        };
        let workers = world.zones.get_or_create("images", || {
            let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
            ImageWorkers {
                workers: Workers::new(processors.min(MAX_THREADS), QUEUE),
                fetches: SourceFetches::default(),
            }
        });
        Some(AppImages {
            name: name.into(),
            builds,
            files,
            workers,
            metrics: Arc::new(ImageMetrics::new(&world.metrics, name)),
        })
    }
}

impl AppImages {
    /// Returns the image that a request to the optimizer wants; `None` if it is for the app.
    /// `release` is the one that the request goes to.
    pub(crate) fn wanted(
        &self,
        path: &[u8],
        query: Option<&[u8]>,
        headers: &HeaderMap,
        release: Option<&str>,
    ) -> Option<WantedImage> {
        let accept = headers.get_all(header::ACCEPT).into_iter();
        let accept = accept.map(http::HeaderValue::as_bytes);
        let (request, optimizer, build) = match &self.builds {
            Builds::Folder(watch) => {
                let build = watch.now();
                let (request, optimizer) = build.image(path, query, accept)?;
                (request, optimizer, build.mark())
            }
            Builds::Releases(releases) => {
                let build = releases.build(release?)?;
                let (request, optimizer) = build.image(path, query, accept)?;
                (request, optimizer, build.mark())
            }
        };
        let key = ImageKey {
            upstream: Arc::clone(&self.name),
            build,
            source: request.source.clone(),
            width: request.width,
            quality: request.quality,
            media_type: request.media_type.clone(),
        };
        Some(WantedImage {
            request,
            optimizer,
            key,
        })
    }

    /// Returns the file that the image is made of; `None` if the app has to be asked for its source.
    /// `release` is the one that the request goes to, and whether that runs.
    pub(crate) async fn file(
        &self,
        wanted: &WantedImage,
        release: Option<(&str, bool)>,
    ) -> Result<Option<Arc<ServedFile>>, ImageFailure> {
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
        let found = match files.kept(&path) {
            Some(file) => Some(file),
            None => match Files::find(files, &path).await {
                Found::File(file) => Some(file),
                _ => None,
            },
        };
        match found {
            Some(file) if (1..=wanted.optimizer.max_source).contains(&file.size()) => {
                Ok(Some(file))
            }
            Some(_) => Err(ImageFailure::Source),
            None => is_of_app(),
        }
    }

    /// Returns the source that the app sends, which `fetch` asks it for. It is asked for once for all
    /// requests that want it meanwhile.
    pub(crate) async fn fetched<F>(
        &self,
        wanted: &WantedImage,
        fetch: impl FnOnce(FetchPlace) -> F,
    ) -> Result<ImageSource, ImageFailure>
    where
        F: Future<Output = Result<FetchedSource, ImageFailure>>,
    {
        let key = SourceKey {
            upstream: Arc::clone(&wanted.key.upstream),
            build: wanted.key.build,
            source: wanted.key.source.clone(),
        };
        let fetched = self.workers.fetches.get(key, fetch).await;
        fetched.map(ImageSource::Fetched)
    }

    /// Returns the image, which is made once for all requests that want it.
    pub(crate) async fn make(
        &self,
        wanted: &WantedImage,
        source: ImageSource,
        now: Instant,
    ) -> Result<MadeOnce, ImageFailure> {
        let deadline = now + MAX_DURATION;
        let (key, wanted) = (wanted.key.clone(), wanted.clone());
        let workers = &self.workers.workers;
        let made = workers.get(key, move || make(&source, &wanted, deadline));
        let made = tokio::time::timeout(MAX_DURATION, made).await;
        let made = made.map_err(|_| ImageFailure::Time)?;
        let made = made.map_err(|_| ImageFailure::QueueFull)?;
        let made = made.ok_or(ImageFailure::Internal)?;
        if let Err(failure) = &*made {
            return Err(*failure);
        }
        Ok(MadeOnce(made))
    }

    /// Says whether a request for an image is made here, or why not; `None` if it is for something
    /// else. `release` is the one that the request goes to, and whether that runs.
    pub(crate) fn explain(
        &self,
        (path, query): (&[u8], Option<&[u8]>),
        headers: &HeaderMap,
        release: Option<(&str, bool)>,
    ) -> Option<&'static str> {
        let is_image = match &self.builds {
            Builds::Folder(watch) => watch.now().is_image_path(path),
            Builds::Releases(releases) => releases.build(release?.0)?.is_image_path(path),
        };
        if !is_image {
            return None;
        }
        let Some(wanted) = self.wanted(path, query, headers, release.map(|(name, _)| name)) else {
            return Some(
                "left to the app: it refuses the request, or the source is on another server, or its \
                 configuration has rules for the path",
            );
        };
        let source = wanted.request.path().as_bytes();
        if self.files.is_guarded(source) {
            return Some("left to the app (`source`): the source is in `guarded`");
        }
        let found = self.files.find(source, release);
        let found = found.filter(|_| !wanted.request.has_query());
        let Some((files, below)) = found else {
            return Some(if release.is_none_or(|(_, is_up)| is_up) {
                "made at the edge of what the app sends for its source, if that is a JPEG, PNG or \
                 WebP; otherwise left to the app"
            } else {
                "left to the app (`source`): the source is no file of this build"
            });
        };
        let path = Path::new(OsStr::from_bytes(&below));
        let path = path.strip_prefix("/").unwrap_or(path);
        let beginning = beginning(&files.root().join(path), wanted.optimizer.max_source);
        let Ok(Some(beginning)) = beginning else {
            return Some("left to the app (`source`): the source is empty, too large or not there");
        };
        let kind = Kind::of(&beginning);
        let is_made = kind.is_some_and(|kind| format_of(&wanted, kind).is_some());
        Some(match kind {
            Some(Kind::Jpeg | Kind::Png | Kind::WebP) if is_made => "made at the edge",
            Some(Kind::Gif | Kind::Png | Kind::WebP) => {
                "left to the app (`format`), unless it is an animation: those are sent as they are"
            }
            Some(Kind::Jpeg) => "left to the app (`format`): the client gets AVIF",
            _ => "left to the app (`format`): the source is no JPEG, PNG or WebP",
        })
    }

    /// Counts an image that was sent, or a request that goes to the app.
    pub(crate) fn count(&self, outcome: Result<&MadeImage, ImageFailure>) {
        let counter = match outcome {
            Ok(made) if made.is_original => &self.metrics.original,
            Ok(_) => &self.metrics.made,
            Err(failure) => {
                let mut all = ImageFailure::ALL.iter().zip(&self.metrics.left);
                let Some((_, counter)) = all.find(|(it, _)| **it == failure) else {
                    return;
                };
                counter
            }
        };
        counter.inc();
    }
}

/// Returns the first bytes of a file; `None` if it is empty or has more than `most` bytes.
fn beginning(path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
    let mut file = fs::File::open(path)?;
    let size = file.metadata()?.len();
    let mut bytes = vec![0; 64];
    let length = file.read(&mut bytes)?;
    bytes.truncate(length);
    Ok((1..=most).contains(&size).then_some(bytes))
}

/// Image that several requests may have waited for.
pub(crate) struct MadeOnce(Arc<Result<MadeImage, ImageFailure>>);

impl MadeOnce {
    pub(crate) fn image(&self) -> Option<&MadeImage> {
        self.0.as_ref().as_ref().ok()
    }
}

impl WantedImage {
    /// Returns the path and query of the source.
    pub(crate) fn source(&self) -> &str {
        &self.request.source
    }

    /// Returns the maximum bytes of a source that the app sends.
    pub(crate) fn longest(&self) -> usize {
        let own = usize::try_from(self.optimizer.max_source);
        own.unwrap_or(usize::MAX).min(MAX_FETCHED_SIZE)
    }

    /// Returns the headers of a response with this image, as the optimizer of the app has them.
    pub(crate) fn headers(&self, made: &MadeImage) -> Option<HeaderMap> {
        let (optimizer, request) = (&self.optimizer, &self.request);
        let disposition = optimizer.content_disposition(request, made.kind.extension());
        let mut headers = HeaderMap::with_capacity(8);
        let text = |text: &str| http::HeaderValue::from_str(text).ok();
        headers.insert(header::VARY, text("Accept")?);
        headers.insert(
            header::CACHE_CONTROL,
            text(&optimizer.cache_control(request, made.source_age))?,
        );
        headers.insert(header::ETAG, text(&made.etag)?);
        headers.insert(header::CONTENT_TYPE, text(made.kind.media_type())?);
        headers.insert(header::CONTENT_DISPOSITION, text(&disposition)?);
        headers.insert(header::CONTENT_SECURITY_POLICY, text(&optimizer.policy)?);
        headers.insert("x-nextjs-cache", text("MISS")?);
        headers.insert(
            header::CONTENT_LENGTH,
            http::HeaderValue::from(made.bytes.len()),
        );
        Some(headers)
    }
}

/// Returns the format of an image of a source of this type, if it is made here. A client that takes
/// none of the app's formats gets the type of the source, and JPEG for one that not all clients
/// know.
fn format_of(wanted: &WantedImage, source: Kind) -> Option<(OutputFormat, Kind)> {
    match (wanted.request.media_type.as_deref(), source) {
        (Some("image/webp"), _) => Some((OutputFormat::WebP, Kind::WebP)),
        (None, Kind::Jpeg | Kind::WebP) if wanted.optimizer.has_mozjpeg => {
            Some((OutputFormat::Jpeg, Kind::Jpeg))
        }
        _ => None,
    }
}

/// Makes an image. May block, and takes long.
fn make(
    source: &ImageSource,
    wanted: &WantedImage,
    deadline: Instant,
) -> Result<MadeImage, ImageFailure> {
    let bytes = source.read().ok_or(ImageFailure::Source)?;
    let kind = Kind::of(&bytes).ok_or(ImageFailure::Format)?;
    if images::is_animated(kind, &bytes) {
        return Ok(MadeImage {
            bytes,
            kind,
            etag: source.etag(),
            is_original: true,
            source_age: source.age(),
            stored: OnceLock::new(),
        });
    }
    let (format, kind_made) = format_of(wanted, kind).ok_or(ImageFailure::Format)?;
    let image = Wanted {
        width: wanted.request.width,
        quality: wanted.request.quality,
        format,
    };
    let made = images::transform(kind, &bytes, image, &BOUNDS, deadline)?;
    Ok(MadeImage {
        etag: etag_of(&made),
        bytes: made.into(),
        kind: kind_made,
        is_original: false,
        source_age: source.age(),
        stored: OnceLock::new(),
    })
}
