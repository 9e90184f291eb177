//! Sources in PNG.

use std::io::Cursor;

use png::{BitDepth, ColorType, Decoder, Limits, Transformations};

use super::{RawImage, check_colours};
use crate::{Bounds, ImageError, Pixels, exif::Orientation};

/// Bytes for each pixel of the largest kind, and for a copy of it.
const BYTES_PER_PIXEL: u64 = 8;

/// Memory for chunks beside the image, such as profiles.
const MAX_CHUNKS: usize = 16 * 1024 * 1024;

pub(super) fn decode(bytes: &[u8], bounds: &Bounds) -> Result<RawImage, ImageError> {
    let limits = Limits { bytes: MAX_CHUNKS };
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), limits);
    decoder.set_transformations(Transformations::EXPAND);
    let header = decoder.read_header_info().map_err(|_| ImageError::Decode)?;
    let (width, height) = (header.width, header.height);
    if header.bit_depth == BitDepth::Sixteen {
        // The optimizer of Next.js scales these with all their bits.
        return Err(ImageError::Unsupported);
    }
    let memory = u64::from(width) * u64::from(height) * BYTES_PER_PIXEL;
    bounds.check(width, height, memory)?;
    let mut reader = decoder.read_info().map_err(|_| ImageError::Decode)?;
    check_colours(reader.info().icc_profile.as_deref())?;
    let samples = reader.output_color_type().0.samples();
    let size = width as usize * height as usize * samples;
    if reader.output_buffer_size() != Some(size) {
        return Err(ImageError::Unsupported);
    }
    let mut data = vec![0; size];
    reader
        .next_frame(&mut data)
        .map_err(|_| ImageError::Decode)?;
    // What is behind the image belongs to it, and must be whole.
    reader.finish().map_err(|_| ImageError::Decode)?;
    let (has_alpha, data) = match reader.output_color_type().0 {
        ColorType::Grayscale => (false, rgba_of(&data, |[grey]| [grey, grey, grey, 255])),
        ColorType::GrayscaleAlpha => {
            let rgba = rgba_of(&data, |[grey, alpha]| [grey, grey, grey, alpha]);
            (true, rgba)
        }
        ColorType::Rgb => (false, rgba_of(&data, |[r, g, b]| [r, g, b, 255])),
        ColorType::Rgba => (true, data),
        ColorType::Indexed => return Err(ImageError::Unsupported),
    };
    let exif = reader.info().exif_metadata.as_deref();
    Ok(RawImage {
        orientation: exif.map_or_else(Orientation::default, Orientation::parse),
        step: 1,
        pixels: Pixels {
            width,
            height,
            has_alpha,
            data,
        },
    })
}

/// Returns RGBA for pixels of `N` samples.
fn rgba_of<const N: usize>(data: &[u8], rgba: fn([u8; N]) -> [u8; 4]) -> Vec<u8> {
    let (all, _) = data.as_chunks::<N>();
    let mut out = Vec::with_capacity(all.len() * 4);
    for pixel in all {
        out.extend(rgba(*pixel));
    }
    out
}
