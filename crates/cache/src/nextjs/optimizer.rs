//! The image optimizer of an app, without the app's code: settings of the build, and requests for
//! images of its own sources and of sources on other servers.

use std::path::Path;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::{
    accept::{self, FormatChoice},
    build::{self, BuildError, IMAGES, ImagesManifest, ServerFiles},
    image::ImageSize,
    remote::{RemoteSource, RemoteSources},
};
use crate::base::{expression::Expression, query};

/// Pixels of a source up to which the optimizer of Next.js makes a smaller one; it sends larger
/// ones as they are.
const MAX_PIXELS: f64 = 268_402_689.0;

/// Settings of the optimizer in `images-manifest.json`.
#[derive(Debug)]
pub struct Optimizer {
    /// Media types that may be made, in the order of the configuration.
    formats: Box<[Box<str>]>,
    /// Sources of the app; `None` for all.
    local: Option<Box<[LocalSources]>>,
    /// Sources on other servers.
    pub remote: RemoteSources,
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

/// Sources of the app that one of its patterns allows.
#[derive(Debug)]
struct LocalSources {
    path: Expression,
    /// Query with its `?`, empty for none; `None` for any.
    search: Option<Box<str>>,
}

/// Image request that the optimizer of the app accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRequest {
    /// Path of the source, with its query, or its URL on another server.
    pub source: Box<str>,
    /// The source on another server, if it is there.
    pub remote: Option<RemoteSource>,
    pub width: u32,
    /// From 1 to 100.
    pub quality: u8,
    /// Media type of the image; `None` keeps that of the source.
    pub media_type: Option<Box<str>>,
    /// True if the source is named by its content.
    pub is_static: bool,
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
    /// All other settings, those of sources on other servers among them.
    #[serde(flatten)]
    others: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct LocalPattern {
    pathname: Option<String>,
    search: Option<String>,
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
        let manifest: Option<ImagesManifest<Images>> = build::manifest(folder, IMAGES)?;
        let server: Option<ServerFiles<Config>> = build::manifest(folder, build::SERVER_FILES)?;
        let experimental = server.and_then(|server| server.config?.experimental);
        let experimental = experimental.unwrap_or_default();
        let pixels = experimental.img_opt_max_input_pixels;
        let has_other_limit = pixels.is_some_and(|pixels| pixels.as_f64() != Some(MAX_PIXELS));
        let has_mozjpeg = experimental.img_opt_mozjpeg.unwrap_or(true);
        let images = manifest.map(|manifest| manifest.images);
        let images = images.filter(|_| !has_other_limit);
        Ok(images.and_then(|images| Self::from_images(images, has_mozjpeg)))
    }

    fn from_images(images: Images, has_mozjpeg: bool) -> Option<Self> {
        let local = match images.local_patterns {
            Some(patterns) => {
                let read: Result<_, _> = patterns.into_iter().map(LocalPattern::read).collect();
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
            remote: RemoteSources::read(images.others),
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
        let source = query::values(query, b"url").next();
        let source = source.map(query::form_decoded)?;
        let source = String::from_utf8(source.into_owned()).ok()?;
        let (source, remote, is_static) = if source.starts_with('/') {
            let is_static = self.own_source(&source, base)?;
            (source, None, is_static)
        } else {
            let remote = RemoteSource::parse(&source)?;
            if !self.remote.allow(&remote) {
                return None;
            }
            (remote.as_str().to_owned(), Some(remote), false)
        };
        Some(ImageRequest {
            width: size.width,
            quality: size.quality,
            media_type: match accept::choose(&self.formats, accept)? {
                FormatChoice::Named(media_type) => Some(media_type),
                FormatChoice::OfSource => None,
            },
            is_static,
            source: source.into(),
            remote,
        })
    }

    /// Checks a source of the app itself; returns true if it is named by its content.
    fn own_source(&self, source: &str, base: &str) -> Option<bool> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-~@+=,!()&$".contains(&byte);
        let (path, search) = source.split_at(source.find('?').unwrap_or(source.len()));
        let below = path.strip_prefix(base)?;
        if !below.starts_with('/')
            || !path.bytes().all(is_plain)
            || !search.bytes().skip(1).all(is_plain)
            || search == "?"
            || path.split('/').any(|part| matches!(part, "." | ".."))
            || path.contains("//")
            || path.contains("/_next/image")
        {
            return None;
        }
        let mut patterns = self.local.iter().flatten();
        let is_allowed = self.local.is_none() || patterns.any(|it| it.allow(path, search));
        let is_static = below.starts_with("/_next/static/media")
            || below.starts_with("/_next/static/immutable/media");
        is_allowed.then_some(is_static)
    }

    /// Returns the value of `Cache-Control` for an image that is no error's replacement. `age` is
    /// the time for which its source is fresh, in seconds.
    pub fn cache_control(&self, request: &ImageRequest, age: u64) -> String {
        if request.is_static {
            return "public, max-age=315360000, immutable".to_owned();
        }
        format!("public, max-age={}, must-revalidate", self.min_ttl.max(age))
    }

    /// Returns the value of `Content-Disposition` for an image whose file names end in `extension`.
    pub fn content_disposition(&self, request: &ImageRequest, extension: &str) -> String {
        let last = request.path().rsplit('/').next().unwrap_or_default();
        let name = match last.split('.').next() {
            Some(name) if !last.is_empty() => format!("{name}.{extension}"),
            _ => "image.bin".to_owned(),
        };
        let mut value = format!("{}; filename=\"{name}\"", self.disposition);
        if has_encoded_byte(&name) {
            // RFC 6266, 4.3: in the other parameter it would be read as the byte itself.
            value.push_str("; filename*=UTF-8''");
            value.extend(utf8_percent_encode(&name, IN_NAME));
        }
        value
    }
}

impl ImageRequest {
    /// Returns the path of the source, without its query.
    pub fn path(&self) -> &str {
        self.source.split('?').next().unwrap_or_default()
    }

    /// Returns true if the source has a query, and is no file therefore.
    pub fn has_query(&self) -> bool {
        self.source.contains('?')
    }
}

/// Bytes to encode in an extended parameter (RFC 8187, 3.2.1), as the package `content-disposition`
/// does it.
const IN_NAME: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'!')
    .remove(b'~');

/// Returns true if a name has a percent sign before two hexadecimal digits.
fn has_encoded_byte(name: &str) -> bool {
    let mut parts = name.split('%').skip(1).map(str::as_bytes);
    parts.any(|part| matches!(part, [a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit()))
}

impl LocalSources {
    fn allow(&self, path: &str, search: &str) -> bool {
        let is_same = self.search.as_deref().is_none_or(|own| own == search);
        is_same && self.path.is_match(path).unwrap_or(false)
    }
}

impl LocalPattern {
    fn read(self) -> Result<LocalSources, Box<fancy_regex::Error>> {
        let path = Expression::parse(self.pathname.as_deref().unwrap_or("^"), false);
        Ok(LocalSources {
            path: path?,
            search: self.search.map(Into::into),
        })
    }
}

/// Seconds for which a source with this `Cache-Control` is fresh, as the optimizer reads it; `None`
/// for a number that it writes in another way.
pub fn max_age_of(cache_control: &str) -> Option<u64> {
    let value_of = |wanted: &str| {
        let mut max_age = "";
        for directive in cache_control.split(',') {
            let mut parts = directive.trim().split('=');
            let key = parts.next().unwrap_or_default();
            if key.eq_ignore_ascii_case(wanted) {
                max_age = parts.next().unwrap_or_default();
            }
        }
        max_age
    };
    let shared = value_of("s-maxage");
    let raw = if shared.is_empty() {
        value_of("max-age")
    } else {
        shared
    };
    let quoted = raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"'));
    let raw = quoted.unwrap_or(raw).trim_start();
    let raw = raw.strip_prefix('+').unwrap_or(raw);
    // Anything but digits ends the number, and a negative one is less than any minimum.
    let digits = raw.bytes().take_while(u8::is_ascii_digit).count();
    match &raw[..digits] {
        "" => Some(0),
        digits if digits.len() > 15 => None,
        digits => digits.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The results are those of `getMaxAge` of Next.js 16.4.5; negative ones are below any minimum.
    #[test]
    fn freshness_of_a_source_is_read_as_the_optimizer_does() {
        for (control, expected) in [
            ("", 0),
            ("public, max-age=20", 20),
            ("s-maxage=30, max-age=5", 30),
            ("max-age=\"50\"", 50),
            ("S-MaxAge=17", 17),
            ("max-age=2e9", 2),
            ("max-age=2, max-age=4", 4),
            ("max-age=-5", 0),
            ("s-maxage=, max-age=16", 16),
            ("max-age = 30", 0),
            ("max-age=15x", 15),
            ("s-maxage=\"60, max-age=1", 0),
            ("s-maxage, max-age=7", 7),
            ("max-age= 9", 9),
            ("max-age=+8", 8),
            ("max-age=1=2", 1),
            ("max-age=\"", 0),
            ("no-store", 0),
        ] {
            assert_eq!(max_age_of(control), Some(expected), "{control}");
        }
        assert_eq!(max_age_of("max-age=1000000000000000000000"), None);
    }
}
