//! Images of a Next.js app that the gateway makes from the app's files, as the app's own optimizer
//! would.

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

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, header};
use ring::digest::{SHA256, digest};

use super::{AppFiles, compile::Compiler};
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
    /// The source is no file of the app, or cannot be read.
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
    /// Stored response with this image, for the other requests that wait for it.
    pub(crate) stored: OnceLock<Arc<Entry>>,
}

/// Threads that make the images of all apps.
struct ImageWorkers(Workers<ImageKey, Result<MadeImage, ImageFailure>>);

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
            ImageWorkers(Workers::new(processors.min(MAX_THREADS), QUEUE))
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

    /// Returns the image, which is made once for all requests that want it. `release` is the one
    /// that the request goes to, and whether that runs.
    pub(crate) async fn make(
        &self,
        wanted: &WantedImage,
        release: Option<(&str, bool)>,
        now: Instant,
    ) -> Result<MadeOnce, ImageFailure> {
        let file = self.source(wanted, release).await?;
        if file.size() == 0 || file.size() > wanted.optimizer.max_source {
            return Err(ImageFailure::Source);
        }
        let deadline = now + MAX_DURATION;
        let (key, wanted) = (wanted.key.clone(), wanted.clone());
        let made = self
            .workers
            .0
            .get(key, move || make(&file, &wanted, deadline));
        let made = tokio::time::timeout(MAX_DURATION, made).await;
        let made = made.map_err(|_| ImageFailure::Time)?;
        let made = made.map_err(|_| ImageFailure::QueueFull)?;
        let made = made.ok_or(ImageFailure::Internal)?;
        if let Err(failure) = &*made {
            return Err(*failure);
        }
        Ok(MadeOnce(made))
    }

    async fn source(
        &self,
        wanted: &WantedImage,
        release: Option<(&str, bool)>,
    ) -> Result<Arc<ServedFile>, ImageFailure> {
        let found = self.files.find(wanted.request.source.as_bytes(), release);
        let (files, path) = found.ok_or(ImageFailure::Source)?;
        if let Some(file) = files.kept(&path) {
            return Ok(file);
        }
        match Files::find(files, &path).await {
            Found::File(file) => Ok(file),
            _ => Err(ImageFailure::Source),
        }
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
                "left to the app: it refuses the request, or the source is on another server or \
                 has a query, or its configuration has rules for the path",
            );
        };
        let source = wanted.request.source.as_bytes();
        let Some((files, below)) = self.files.find(source, release) else {
            return Some("left to the app (`source`): the source is no file of this build");
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
    /// Returns the headers of a response with this image, as the optimizer of the app has them.
    pub(crate) fn headers(&self, made: &MadeImage) -> Option<HeaderMap> {
        let (optimizer, request) = (&self.optimizer, &self.request);
        let disposition = optimizer.content_disposition(request, made.kind.extension());
        let mut headers = HeaderMap::with_capacity(8);
        let text = |text: &str| http::HeaderValue::from_str(text).ok();
        headers.insert(header::VARY, text("Accept")?);
        headers.insert(
            header::CACHE_CONTROL,
            text(&optimizer.cache_control(request))?,
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
    file: &ServedFile,
    wanted: &WantedImage,
    deadline: Instant,
) -> Result<MadeImage, ImageFailure> {
    let source = file.read().map_err(|_| ImageFailure::Source)?;
    let kind = Kind::of(&source).ok_or(ImageFailure::Format)?;
    if images::is_animated(kind, &source) {
        let tag = format!("W/\"{:x}-{:x}\"", file.size(), file.modified_millis());
        return Ok(MadeImage {
            bytes: source,
            kind,
            etag: URL_SAFE_NO_PAD.encode(tag),
            is_original: true,
            stored: OnceLock::new(),
        });
    }
    let (format, kind_made) = format_of(wanted, kind).ok_or(ImageFailure::Format)?;
    let image = Wanted {
        width: wanted.request.width,
        quality: wanted.request.quality,
        format,
    };
    let bytes = images::transform(kind, &source, image, &BOUNDS, deadline)?;
    Ok(MadeImage {
        etag: URL_SAFE_NO_PAD.encode(digest(&SHA256, &bytes)),
        bytes: bytes.into(),
        kind: kind_made,
        is_original: false,
        stored: OnceLock::new(),
    })
}
