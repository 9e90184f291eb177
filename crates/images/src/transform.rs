//! An image from another one: the steps from the bytes of a source to those of the result.

use std::time::Instant;

use crate::{Kind, decode, jpeg, scale, webp};

/// Bounds of one image, checked before anything is decoded.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Pixels of a source.
    pub pixels: u64,
    /// Bytes of memory for a decoded source.
    pub memory: u64,
}

impl Bounds {
    /// Checks a source of this size, which takes `memory` bytes to decode.
    pub(crate) fn check(&self, width: u32, height: u32, memory: u64) -> Result<(), ImageError> {
        let pixels = u64::from(width) * u64::from(height);
        if width == 0 || height == 0 {
            return Err(ImageError::Decode);
        }
        if pixels > self.pixels || memory > self.memory {
            return Err(ImageError::Pixels);
        }
        Ok(())
    }
}

/// Format of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutputFormat {
    WebP,
    Jpeg,
}

/// Image that is wanted of a source.
#[derive(Clone, Copy, Debug)]
pub struct TargetImage {
    /// The width; a narrower source keeps its own.
    pub width: u32,
    /// From 1 to 100.
    pub quality: u8,
    pub format: OutputFormat,
}

/// Reason why an image is not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    #[error("no decoder or encoder for this image")]
    Unsupported,
    #[error("the image is larger than its bounds")]
    Pixels,
    #[error("the image is broken")]
    Decode,
    #[error("the colours of the image are not those of sRGB")]
    Colour,
    #[error("the image cannot be encoded")]
    Encode,
    #[error("the time is over")]
    Time,
    #[error("the image's size and its data do not fit")]
    Internal,
}

/// Makes the image that is wanted of the source `bytes`, which are of this `kind`.
pub fn transform(
    kind: Kind,
    bytes: &[u8],
    wanted: TargetImage,
    bounds: &Bounds,
    deadline: Instant,
) -> Result<Vec<u8>, ImageError> {
    let in_time = || {
        if webp::now() < deadline {
            Ok(())
        } else {
            Err(ImageError::Time)
        }
    };
    in_time()?;
    let decoded = decode::decode(kind, bytes, wanted.width, bounds)?;
    in_time()?;
    let scaling = decoded.scaling(wanted.width);
    let pixels = scale::scale(decoded.pixels, scaling)?;
    let pixels = decoded.orientation.apply(pixels);
    in_time()?;
    match wanted.format {
        OutputFormat::WebP => webp::encode(&pixels, wanted.quality, deadline),
        OutputFormat::Jpeg => jpeg::encode(pixels, wanted.quality, deadline),
    }
}
