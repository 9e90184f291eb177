//! The image optimizer of an app, as far as its work needs no code of the app: settings of the
//! build, and requests whose source is a file.

use std::path::Path;

use fancy_regex::{Regex, RegexBuilder};
use serde::Deserialize;

use super::{
    accept::{self, FormatChoice},
    build::{self, BuildError, IMAGES},
    image::ImageSize,
};
use crate::base::query;

/// Maximum backtracking steps of a pattern for one path.
const MAX_STEPS: usize = 100_000;

/// Pixels of a source up to which the optimizer of Next.js makes a smaller one; it sends larger
/// ones as they are.
const MAX_PIXELS: f64 = 268_402_689.0;

/// Settings of the optimizer in `images-manifest.json`.
#[derive(Debug)]
pub struct Optimizer {
    /// Media types that may be made, in the order of the configuration.
    formats: Box<[Box<str>]>,
    /// Sources of the app; `None` for all.
    local: Option<Box<[Regex]>>,
    /// Seconds for which a response is fresh at least.
    pub min_ttl: u64,
    pub max_source: u64,
    /// Value of `Content-Security-Policy`.
    pub policy: Box<str>,
    /// `attachment` or `inline`.
    pub disposition: Box<str>,
    /// True if its JPEG is that of mozjpeg, as it is by default.
    pub has_mozjpeg: bool,
}

/// Image request whose source is a file of the app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRequest {
    /// Path of the source.
    pub source: Box<str>,
    pub width: u32,
    /// From 1 to 100.
    pub quality: u8,
    /// Media type of the image; `None` keeps that of the source.
    pub media_type: Option<Box<str>>,
    /// True if the source is named by its content.
    pub is_static: bool,
}

#[derive(Deserialize)]
struct Manifest {
    images: Images,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Images {
    formats: Option<Box<[Box<str>]>>,
    #[serde(rename = "minimumCacheTTL")]
    min_ttl: Option<u64>,
    /// Known since Next.js 16: the rules of earlier optimizers are others.
    maximum_response_body: Option<u64>,
    content_security_policy: Option<Box<str>>,
    content_disposition_type: Option<Box<str>>,
    local_patterns: Option<Vec<LocalPattern>>,
}

#[derive(Deserialize)]
struct LocalPattern {
    pathname: Option<String>,
    search: Option<String>,
}

/// Content of `required-server-files.json`.
#[derive(Deserialize)]
struct ServerFiles {
    config: Option<Config>,
}

#[derive(Deserialize)]
struct Config {
    experimental: Option<Experimental>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Experimental {
    img_opt_max_input_pixels: Option<serde_json::Value>,
    img_opt_mozjpeg: Option<bool>,
}

impl Optimizer {
    /// Reads the settings of the build in `folder`; `None` if its optimizer is not known well
    /// enough.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>, BuildError> {
        let manifest: Option<Manifest> = build::manifest(folder, IMAGES)?;
        let server: Option<ServerFiles> = build::manifest(folder, build::SERVER_FILES)?;
        let experimental = server.and_then(|server| server.config?.experimental);
        let experimental = experimental.unwrap_or_default();
        let pixels = experimental.img_opt_max_input_pixels;
        let has_other_limit = pixels.is_some_and(|pixels| pixels.as_f64() != Some(MAX_PIXELS));
        let has_mozjpeg = experimental.img_opt_mozjpeg.unwrap_or(true);
        let images = manifest.map(|manifest| manifest.images);
        let images = images.filter(|_| !has_other_limit);
        Ok(images.and_then(|images| Self::of(images, has_mozjpeg)))
    }

    fn of(images: Images, has_mozjpeg: bool) -> Option<Self> {
        let local = match images.local_patterns {
            Some(patterns) => {
                let patterns = patterns.iter().filter(|it| it.is_for_paths());
                let read: Result<_, _> = patterns.map(LocalPattern::read).collect();
                Some(read.ok()?)
            }
            None => None,
        };
        let disposition = images.content_disposition_type?;
        if !matches!(&*disposition, "attachment" | "inline") {
            return None;
        }
        Some(Self {
            formats: images.formats?,
            local,
            min_ttl: images.min_ttl?,
            max_source: images.maximum_response_body?,
            policy: images.content_security_policy?,
            disposition,
            has_mozjpeg,
        })
    }

    /// Returns the request with this query, whose `size` is allowed; `None` if only the app can
    /// serve it, or refuse it.
    pub(super) fn request<'a>(
        &self,
        query: &[u8],
        size: ImageSize,
        accept: impl Iterator<Item = &'a [u8]>,
        base: &str,
    ) -> Option<ImageRequest> {
        let source = query::values(query, b"url").next().map(query::decoded)?;
        let source = String::from_utf8(source.into_owned()).ok()?;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-~@+=,!()&$".contains(&byte);
        let below = source.strip_prefix(base)?;
        if !below.starts_with('/')
            || !source.bytes().all(is_plain)
            || source.split('/').any(|part| matches!(part, "." | ".."))
            || source.contains("//")
            || source.contains("/_next/image")
        {
            return None;
        }
        let mut patterns = self.local.iter().flatten();
        let is_allowed =
            self.local.is_none() || patterns.any(|it| it.is_match(&source).unwrap_or(false));
        if !is_allowed {
            return None;
        }
        let is_static = below.starts_with("/_next/static/media")
            || below.starts_with("/_next/static/immutable/media");
        Some(ImageRequest {
            width: size.width,
            quality: size.quality,
            media_type: match accept::choose(&self.formats, accept)? {
                FormatChoice::Named(media_type) => Some(media_type),
                FormatChoice::OfSource => None,
            },
            is_static,
            source: source.into(),
        })
    }

    /// Returns the value of `Cache-Control` for an image that is no error's replacement.
    pub fn cache_control(&self, request: &ImageRequest) -> String {
        if request.is_static {
            return "public, max-age=315360000, immutable".to_owned();
        }
        // Files of `public/` are fresh for no time themselves.
        format!("public, max-age={}, must-revalidate", self.min_ttl)
    }

    /// Returns the value of `Content-Disposition` for an image whose file names end in `extension`.
    pub fn content_disposition(&self, request: &ImageRequest, extension: &str) -> String {
        let last = request.source.rsplit('/').next().unwrap_or_default();
        let name = match last.split('.').next() {
            Some(name) if !last.is_empty() => format!("{name}.{extension}"),
            _ => "image.bin".to_owned(),
        };
        format!("{}; filename=\"{name}\"", self.disposition)
    }
}

impl LocalPattern {
    /// Returns true for a pattern of sources without a query; others are left to the app.
    fn is_for_paths(&self) -> bool {
        self.search.as_deref().is_none_or(str::is_empty)
    }

    fn read(&self) -> Result<Regex, Box<fancy_regex::Error>> {
        let mut builder = RegexBuilder::new(self.pathname.as_deref().unwrap_or("^"));
        builder.backtrack_limit(MAX_STEPS).build().map_err(Box::new)
    }
}
