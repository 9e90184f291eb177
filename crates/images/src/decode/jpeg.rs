//! Sources in JPEG.

use super::{Decoded, Layout, Shrink, check_colours};
use crate::{Bounds, ImageError, jpeg::Jpeg};

pub(super) fn decode(bytes: &[u8], width: u32, bounds: &Bounds) -> Result<Decoded, ImageError> {
    let mut jpeg = Jpeg::read(bytes).map_err(|_| ImageError::Decode)?;
    if jpeg.is_for_print() {
        return Err(ImageError::Unsupported);
    }
    let (columns, rows) = jpeg.size();
    let orientation = jpeg.orientation();
    let layout = Layout {
        width: columns,
        height: rows,
        orientation,
    };
    let shrink = on_load(&Shrink::to_width(layout, width));
    check_colours(jpeg.take_profile().as_deref())?;
    bounds.check(columns, rows, jpeg.memory(shrink))?;
    Ok(Decoded {
        orientation,
        pixels: jpeg.decode(shrink).map_err(|_| ImageError::Decode)?,
    })
}

/// Returns the factor by which the optimizer of Next.js lets the decoder shrink an image.
fn on_load(shrink: &Shrink) -> usize {
    let least = shrink.across.min(shrink.down);
    let factors = [(8, 8.0), (4, 4.0), (2, 2.0)];
    let found = factors.into_iter().find(|(_, factor)| least >= *factor);
    match found {
        // One less where the rest would be too small for the filter.
        Some((factor, exact)) if least < exact + 1.0 => factor / 2,
        Some((factor, _)) => factor,
        None => 1,
    }
}
