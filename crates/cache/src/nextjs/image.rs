//! Images that Next.js encodes on demand: the allowed requests, and the accepted formats.

use http::HeaderValue;
use percent_encoding::{
    AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode, utf8_percent_encode,
};
use serde::Deserialize;

use crate::{
    base::{
        http::{Weight, begins_with},
        query,
    },
    policy::number,
    purge::{PurgeTarget, split_authority},
};

/// Image formats that a client accepts, among those that not all clients accept. Requests that are
/// alike here get the same format from every app.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImageForms {
    avif: Weight,
    webp: Weight,
    /// Greatest weight of a wildcard.
    any: Weight,
    is_unclear: bool,
}

impl ImageForms {
    /// Adds the formats in `Accept`. Next.js sends AVIF or WebP only if `Accept` names it, in lower
    /// case: `image/*` is not enough.
    pub(super) fn add(&mut self, accept: &HeaderValue) {
        // A quoted comma separates nothing.
        self.is_unclear |= accept.as_bytes().contains(&b'"');
        for range in accept.as_bytes().split(|byte| *byte == b',') {
            self.add_range(range);
        }
    }

    fn add_range(&mut self, range: &[u8]) {
        let mut parts = range.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let media = parts.next().unwrap_or_default();
        let is_any = begins_with(media, b"*/") || begins_with(media, b"image/*");
        let form = match media {
            b"image/avif" => &mut self.avif,
            b"image/webp" => &mut self.webp,
            _ if is_any => &mut self.any,
            _ => {
                // Next.js takes these for the formats, but then does not find them in `Accept`.
                self.is_unclear |= media.eq_ignore_ascii_case(b"image/avif")
                    || media.eq_ignore_ascii_case(b"image/webp")
                    || media.iter().any(u8::is_ascii_whitespace);
                return;
            }
        };
        let weight = match (parts.next(), parts.next()) {
            (None, None) => Some(Weight::FULL),
            // Next.js takes more digits for another weight.
            (Some([b'q' | b'Q', b'=', value @ ..]), None) if value.len() <= 5 => {
                Weight::parse(value)
            }
            _ => None,
        };
        match weight {
            Some(weight) if is_any || !form.is_wanted() => *form = weight.max(*form),
            _ => self.is_unclear = true,
        }
    }

    /// Returns true if apps may choose a format by more than [`Self::letter`] shows: unusual
    /// spellings, or a wildcard that is preferred to a format that is named.
    pub(super) fn are_unclear(self) -> bool {
        let named = self.avif.max(self.webp);
        self.is_unclear || named.is_wanted() && self.any > named
    }

    /// Returns true if a client with these formats accepts an image of this type.
    pub(super) fn take(self, essence: &[u8]) -> bool {
        if essence.eq_ignore_ascii_case(b"image/avif") {
            self.avif.is_wanted()
        } else if essence.eq_ignore_ascii_case(b"image/webp") {
            self.webp.is_wanted()
        } else {
            true
        }
    }

    /// Returns one letter for the key.
    pub(super) fn letter(self) -> u8 {
        match (self.avif.is_wanted(), self.webp.is_wanted()) {
            (true, true) if self.webp > self.avif => b'p',
            (true, true) => b'b',
            (true, false) => b'a',
            (false, true) => b'w',
            (false, false) => b'n',
        }
    }
}

/// Reason why an image request is refused with 400, in the exact text of Next.js.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidImageRequest {
    #[error("\"url\" parameter is required")]
    NoUrl,
    #[error("\"{0}\" parameter {1}cannot be an array")]
    Twice(&'static str, &'static str),
    #[error("\"url\" parameter is too long")]
    LongUrl,
    #[error("\"url\" parameter cannot be a protocol-relative URL (//)")]
    RelativeUrl,
    #[error("\"w\" parameter (width) is required")]
    NoWidth,
    #[error("\"w\" parameter (width) must be an integer greater than 0")]
    OddWidth,
    #[error("\"w\" parameter (width) of {0} is not allowed")]
    Width(u32),
    #[error("\"q\" parameter (quality) is required")]
    NoQuality,
    #[error("\"q\" parameter (quality) must be an integer between 1 and 100")]
    OddQuality,
    #[error("\"q\" parameter (quality) of {0} is not allowed")]
    Quality(u32),
}

/// Rules of `images-manifest.json`. Patterns of hosts and of local paths are left to the app: it
/// refuses those with 400 itself, without the cost of encoding an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ImageRules {
    /// Full path of the optimizer; `/_next/image` unless the app sets another one.
    pub(super) path: Box<str>,
    widths: Box<[u32]>,
    /// Allowed qualities; `None` allows any from 1 to 100.
    qualities: Option<Box<[u32]>>,
}

/// Width and quality of a valid request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ImageSize {
    pub(super) width: u32,
    pub(super) quality: u8,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ManifestImages {
    path: Option<Box<str>>,
    device_sizes: Vec<u32>,
    image_sizes: Vec<u32>,
    qualities: Option<Box<[u32]>>,
    loader: Option<Box<str>>,
    unoptimized: bool,
}

impl ImageRules {
    /// Builds the rules; `None` if the app has no optimizer: its path responds with 404.
    pub(super) fn from_manifest(images: ManifestImages) -> Option<Self> {
        if images.unoptimized || images.loader.is_some_and(|loader| &*loader != "default") {
            return None;
        }
        let path = images.path.filter(|path| path.starts_with('/'));
        Some(Self {
            path: path.unwrap_or_else(|| Box::from(super::paths::IMAGE)),
            widths: [images.device_sizes, images.image_sizes].concat().into(),
            qualities: images.qualities,
        })
    }

    /// Checks a request in the order that Next.js uses, so that both report the same error.
    pub(super) fn allow(&self, query: &[u8]) -> Result<ImageSize, InvalidImageRequest> {
        let url = single(query, "url", "", InvalidImageRequest::NoUrl)?;
        let url = query::form_decoded(url);
        if url.len() > 3072 {
            return Err(InvalidImageRequest::LongUrl);
        }
        if url.starts_with(b"//") {
            return Err(InvalidImageRequest::RelativeUrl);
        }
        let width = single(query, "w", "(width) ", InvalidImageRequest::NoWidth)?;
        let width = digits(&query::decoded(width)).ok_or(InvalidImageRequest::OddWidth)?;
        let quality = single(query, "q", "(quality) ", InvalidImageRequest::NoQuality)?;
        let quality = digits(&query::decoded(quality)).ok_or(InvalidImageRequest::OddQuality)?;
        if width == 0 {
            return Err(InvalidImageRequest::OddWidth);
        }
        if !self.widths.contains(&width) {
            return Err(InvalidImageRequest::Width(width));
        }
        if !(1..=100).contains(&quality) {
            return Err(InvalidImageRequest::OddQuality);
        }
        match &self.qualities {
            Some(allowed) if !allowed.contains(&quality) => {
                Err(InvalidImageRequest::Quality(quality))
            }
            _ => Ok(ImageSize {
                width,
                quality: u8::try_from(quality).unwrap_or(u8::MAX),
            }),
        }
    }
}

/// Returns the query of an image as pages of the app have it: the other spellings of a query, and
/// queries with other parameters beside, are for the same image. `deployment` is that of the build.
pub(super) fn canonical(query: &[u8], size: ImageSize, deployment: Option<&str>) -> Vec<u8> {
    let first = |name: &'static [u8]| {
        let mut values = query::values(query, name).map(query::form_decoded);
        values.next().unwrap_or_default()
    };
    let url = first(b"url");
    let ImageSize { width, quality } = size;
    let url = percent_encode(&url, IN_URL);
    let mut canonical = format!("url={url}&w={width}&q={quality}");
    if let Some(id) = deployment
        && first(b"dpl") == id.as_bytes()
    {
        canonical.push_str("&dpl=");
        canonical.extend(utf8_percent_encode(id, IN_URL));
    }
    canonical.into_bytes()
}

/// Returns the targets of purges for the images that an optimizer at this path makes of what
/// `target` is about, whatever the host of their requests.
pub fn images_of(target: &PurgeTarget, optimizer: &str) -> Vec<PurgeTarget> {
    let (url, end) = match target {
        PurgeTarget::Url(url) => (url, "&"),
        PurgeTarget::Prefix(url) => (url, ""),
        PurgeTarget::Tag(_) | PurgeTarget::Written(_) | PurgeTarget::All => return Vec::new(),
    };
    let (_, own) = split_authority(url);
    // A page may name its source in either form, and one on another server by its URL.
    let decoded = percent_decode_str(own).decode_utf8_lossy();
    let mut sources = vec![own, &*decoded];
    sources.extend(url.contains("://").then_some(&**url));
    sources.dedup();
    let prefixes = sources.iter().map(|source| {
        let source = utf8_percent_encode(source, IN_URL);
        PurgeTarget::Prefix(format!("{optimizer}?url={source}{end}"))
    });
    prefixes.collect()
}

/// Bytes that the pages of an app encode in the URL of an image.
const IN_URL: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'!')
    .remove(b'~')
    .remove(b'*')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')');

fn single<'q>(
    query: &'q [u8],
    name: &'static str,
    parameter: &'static str,
    absent: InvalidImageRequest,
) -> Result<&'q [u8], InvalidImageRequest> {
    let mut values = query::values(query, name.as_bytes());
    match (values.next(), values.next()) {
        (None | Some([]), None) => Err(absent),
        (Some(value), None) => Ok(value),
        _ => Err(InvalidImageRequest::Twice(name, parameter)),
    }
}

/// Parses a number; numbers above any allowed width become the maximum.
fn digits(text: &[u8]) -> Option<u32> {
    number(text).map(|number| u32::try_from(number).unwrap_or(u32::MAX))
}
