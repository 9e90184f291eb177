//! Image that is made here, with the headers that the app's own optimizer sends.

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use bytes::Bytes;
use edgeway_cache::{nextjs::RemoteSources, store::Entry};
use edgeway_images::{self as images, Bounds, Kind, OutputFormat, TargetImage};
use http::{HeaderMap, header};

use super::{
    ImageFailure, ImageSource, WantedImage,
    source::{MAX_FETCHED_SIZE, etag_of},
};

/// Bounds of one image.
const BOUNDS: Bounds = Bounds {
    pixels: 100_000_000,
    memory: 256 << 20,
};

/// An image, or a source that is sent as it is.
pub struct MadeImage {
    pub bytes: Bytes,
    kind: Kind,
    pub etag: String,
    pub(super) is_original: bool,
    /// Seconds for which the source is fresh.
    source_age: u64,
    /// Headers with the tags of the source.
    pub tags: HeaderMap,
    /// Stored response with this image, for the other requests that wait for it.
    pub stored: OnceLock<Arc<Entry>>,
}

/// Image that several requests may have waited for.
pub struct MadeOnce(pub(super) Arc<Result<MadeImage, ImageFailure>>);

impl MadeOnce {
    pub fn image(&self) -> Option<&MadeImage> {
        self.0.as_ref().as_ref().ok()
    }
}

impl WantedImage {
    /// Returns the path and query of the source.
    pub fn source(&self) -> &str {
        &self.request.source
    }

    /// Returns the maximum bytes of a source that is no file, and true if the app refuses a larger
    /// one.
    pub fn longest(&self) -> (usize, bool) {
        let limit = usize::try_from(self.optimizer.max_source);
        let limit = limit.unwrap_or(usize::MAX);
        (limit.min(MAX_FETCHED_SIZE), limit <= MAX_FETCHED_SIZE)
    }

    /// Returns the app's rules for sources on other servers.
    pub fn remote_rules(&self) -> &RemoteSources {
        &self.optimizer.remote
    }

    /// Returns the headers of a response with this image, as the optimizer of the app has them.
    pub fn headers(&self, image: &MadeImage) -> Option<HeaderMap> {
        let (optimizer, request) = (&self.optimizer, &self.request);
        let disposition = optimizer.content_disposition(request, image.kind.extension());
        let mut headers = HeaderMap::with_capacity(8);
        let text = |text: &str| http::HeaderValue::from_str(text).ok();
        headers.insert(header::VARY, text("Accept")?);
        headers.insert(
            header::CACHE_CONTROL,
            text(&optimizer.cache_control(request, image.source_age))?,
        );
        headers.insert(header::ETAG, text(&image.etag)?);
        headers.insert(header::CONTENT_TYPE, text(image.kind.media_type())?);
        headers.insert(header::CONTENT_DISPOSITION, text(&disposition)?);
        headers.insert(header::CONTENT_SECURITY_POLICY, text(&optimizer.policy)?);
        headers.insert("x-nextjs-cache", text("MISS")?);
        headers.insert(
            header::CONTENT_LENGTH,
            http::HeaderValue::from(image.bytes.len()),
        );
        Some(headers)
    }
}

/// Returns the format of an image of a source of this type, if it is made here. A client that takes
/// none of the app's formats gets the type of the source, and JPEG for one that not all clients
/// know.
pub(super) fn format_of(wanted: &WantedImage, source: Kind) -> Option<(OutputFormat, Kind)> {
    match (wanted.request.media_type.as_deref(), source) {
        (Some("image/webp"), _) => Some((OutputFormat::WebP, Kind::WebP)),
        (None, Kind::Jpeg | Kind::WebP) if wanted.optimizer.has_mozjpeg => {
            Some((OutputFormat::Jpeg, Kind::Jpeg))
        }
        _ => None,
    }
}

/// Makes an image. May block, and takes long.
pub(super) fn make(
    source: &ImageSource,
    wanted: &WantedImage,
    deadline: Instant,
) -> Result<MadeImage, ImageFailure> {
    let bytes = source.read().ok_or(ImageFailure::Source)?;
    let kind = Kind::detect(&bytes).ok_or(ImageFailure::Format)?;
    if images::is_animated(kind, &bytes) {
        return Ok(MadeImage {
            bytes,
            kind,
            etag: source.etag(),
            is_original: true,
            source_age: source.age(),
            tags: source.tags(),
            stored: OnceLock::new(),
        });
    }
    let (format, kind_made) = format_of(wanted, kind).ok_or(ImageFailure::Format)?;
    let image = TargetImage {
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
        tags: source.tags(),
        stored: OnceLock::new(),
    })
}
