//! Sources in WebP.

use super::{Layout, RawImage, Shrink, check_colours};
use crate::{Bounds, ImageError, exif::Orientation, webp};

/// Bytes for each pixel of the largest kind, and of the decoder's planes.
const BYTES_PER_PIXEL: u64 = 8;

pub(super) fn decode(bytes: &[u8], width: u32, bounds: &Bounds) -> Result<RawImage, ImageError> {
    let features = webp::features(bytes).ok_or(ImageError::Decode)?;
    let memory = u64::from(features.width) * u64::from(features.height) * BYTES_PER_PIXEL;
    bounds.check(features.width, features.height, memory)?;
    check_colours(chunk(bytes, *b"ICCP"))?;
    let exif = chunk(bytes, *b"EXIF");
    let orientation = exif.map_or_else(Orientation::default, Orientation::parse);
    let layout = Layout {
        width: features.width,
        height: features.height,
        orientation,
    };
    let shrink = Shrink::to_width(layout, width);
    let least = shrink.across.min(shrink.down);
    let size = (
        scaled(features.width, least),
        scaled(features.height, least),
    );
    Ok(RawImage {
        pixels: webp::decode(bytes, features, size)?,
        orientation,
        step: 1,
    })
}

/// Returns the length of a side after it was made smaller.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is at most the length before"
)]
fn scaled(side: u32, shrink: f64) -> u32 {
    ((f64::from(side) / shrink).round_ties_even() as u32).max(1)
}

/// Returns the content of the first chunk of this name.
fn chunk(bytes: &[u8], name: [u8; 4]) -> Option<&[u8]> {
    let mut offset = 12;
    loop {
        let (kind, rest) = bytes.get(offset..)?.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*rest.first_chunk()?) as usize;
        let content = bytes.get(offset + 8..)?;
        if *kind == name {
            return content.get(..length);
        }
        // Chunks begin at even places.
        offset = offset
            .checked_add(8)?
            .checked_add(length)?
            .checked_add(length % 2)?;
    }
}
