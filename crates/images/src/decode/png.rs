//! Sources in PNG.

use std::io::Cursor;

use png::{BitDepth, ColorType, Decoder, Limits, Transformations};

use super::{Decoded, check_colours};
use crate::{Bounds, Channels, ImageError, Pixels, exif::Orientation};

/// Bytes for each pixel of the largest kind, and for a copy of it.
const BYTES_PER_PIXEL: u64 = 8;

/// Memory for chunks beside the image, such as profiles.
const MAX_CHUNKS: usize = 16 * 1024 * 1024;

pub(super) fn decode(bytes: &[u8], bounds: &Bounds) -> Result<Decoded, ImageError> {
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
    let channels = match reader.output_color_type().0 {
        ColorType::Grayscale => Channels::Grey,
        ColorType::GrayscaleAlpha => Channels::GreyAlpha,
        ColorType::Rgb => Channels::Rgb,
        ColorType::Rgba => Channels::Rgba,
        ColorType::Indexed => return Err(ImageError::Unsupported),
    };
    let size = width as usize * height as usize * channels.count();
    if reader.output_buffer_size() != Some(size) {
        return Err(ImageError::Unsupported);
    }
    let mut data = vec![0; size];
    reader
        .next_frame(&mut data)
        .map_err(|_| ImageError::Decode)?;
    // What is behind the image belongs to it, and must be whole.
    reader.finish().map_err(|_| ImageError::Decode)?;
    let info = reader.info();
    let exif = info.exif_metadata.as_deref();
    Ok(Decoded {
        orientation: exif.map_or_else(Orientation::default, Orientation::of),
        pixels: Pixels {
            width,
            height,
            channels,
            data,
        },
    })
}
