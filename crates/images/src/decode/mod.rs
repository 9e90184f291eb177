//! Decoders of sources, each after its header was checked.

mod jpeg;
mod png;
mod webp;

use crate::{Bounds, ImageError, Kind, Pixels, colour, exif::Orientation, scale::Scaling};

/// Image as it is stored, and what is to be done with it.
pub(crate) struct RawImage {
    pub(crate) pixels: Pixels,
    pub(crate) orientation: Orientation,
    /// Pixels that count as one where sizes are rounded.
    pub(crate) step: u32,
}

impl RawImage {
    /// Returns the part of the image that is shown at `width`, and the size that it gets before it
    /// is turned upright.
    pub(crate) fn scaling(&self, width: u32) -> Scaling {
        let steps = |side: u32| (side / self.step).max(1);
        let layout = Layout {
            width: steps(self.pixels.width),
            height: steps(self.pixels.height),
            orientation: self.orientation,
        };
        let shrink = Shrink::to_width(layout, width);
        Scaling {
            from: (
                (layout.width * self.step).min(self.pixels.width),
                (layout.height * self.step).min(self.pixels.height),
            ),
            to: (
                rounded(layout.width, shrink.across),
                rounded(layout.height, shrink.down),
            ),
        }
    }
}

/// Returns the length of a side after it was made smaller.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is at most the length before"
)]
fn rounded(side: u32, shrink: f64) -> u32 {
    ((f64::from(side) / shrink + 0.5) as u32).max(1)
}

/// Fails for an image whose colours would have to be converted.
fn check_colours(profile: Option<&[u8]>) -> Result<(), ImageError> {
    match profile {
        Some(profile) if !colour::is_srgb(profile) => Err(ImageError::Colour),
        _ => Ok(()),
    }
}

/// Size of a source as it is stored, and whether it is turned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) orientation: Orientation,
}

/// Factor by which the width and the height become smaller.
pub(crate) struct Shrink {
    pub(crate) across: f64,
    pub(crate) down: f64,
}

impl Shrink {
    /// Returns the factors for an image of this layout at `width`: it never becomes larger, and
    /// no side less than a pixel.
    pub(crate) fn to_width(layout: Layout, width: u32) -> Self {
        let from = if layout.orientation.swaps() {
            layout.height
        } else {
            layout.width
        };
        let factor = (f64::from(from) / f64::from(width)).max(1.0);
        Self {
            across: factor.min(f64::from(layout.width)),
            down: factor.min(f64::from(layout.height)),
        }
    }
}

/// Decodes a source that is wanted at `width`. The result may be smaller than the source where its
/// decoder can do that, but not smaller than wanted.
pub(crate) fn decode(
    kind: Kind,
    bytes: &[u8],
    width: u32,
    bounds: &Bounds,
) -> Result<RawImage, ImageError> {
    match kind {
        Kind::Jpeg => jpeg::decode(bytes, width, bounds),
        Kind::Png => png::decode(bytes, bounds),
        Kind::WebP => webp::decode(bytes, width, bounds),
        _ => Err(ImageError::Unsupported),
    }
}
