//! Encoder of JPEG: mozjpeg, with the settings that the optimizer of Next.js has.

use std::time::Instant;

use mozjpeg::{ColorSpace, Compress, qtable::NRobidoux};

use crate::{ImageError, Pixels, webp};

/// Pixels of an image at most. The last step of the encoder cannot be stopped, and takes up to a
/// second for each million where an image is noise.
const MAX_PIXELS: u64 = 8_000_000;

/// Longest side that the format can tell.
const MAX_SIDE: u32 = 65_500;

/// Rows between two looks at the clock.
const ROWS: usize = 64;

/// Begin of a file with a segment of JFIF, and the length of that.
const JFIF: &[u8] = b"\xff\xd8\xff\xe0\x00\x10JFIF\0";
const JFIF_SIZE: usize = 18;

/// Encodes an image, on black where it is not opaque, at `quality`, which is from 1 to 100.
pub(crate) fn encode(
    mut pixels: Pixels,
    quality: u8,
    deadline: Instant,
) -> Result<Vec<u8>, ImageError> {
    let (width, height) = (pixels.width, pixels.height);
    if u64::from(width) * u64::from(height) > MAX_PIXELS || width.max(height) > MAX_SIDE {
        return Err(ImageError::Pixels);
    }
    if pixels.has_alpha {
        put_on_black(&mut pixels);
    }
    // The library reports errors as panics, which end here.
    let encode = || encode_opaque(&pixels, quality, deadline);
    let encoded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(encode));
    encoded.unwrap_or(Err(ImageError::Encode))
}

fn encode_opaque(pixels: &Pixels, quality: u8, deadline: Instant) -> Result<Vec<u8>, ImageError> {
    let mut encoder = Compress::new(ColorSpace::JCS_EXT_RGBX);
    encoder.set_size(pixels.width as usize, pixels.height as usize);
    // The table of the library's default, in numbers of one byte as all decoders take them.
    let table = NRobidoux.scaled(f32::from(quality), f32::from(quality));
    encoder.set_luma_qtable(&table);
    encoder.set_chroma_qtable(&table);
    let mut encoder = encoder
        .start_compress(Vec::new())
        .map_err(|_| ImageError::Encode)?;
    for rows in pixels.data.chunks(pixels.stride() * ROWS) {
        if webp::now() >= deadline {
            return Err(ImageError::Time);
        }
        encoder
            .write_scanlines(rows)
            .map_err(|_| ImageError::Encode)?;
    }
    let mut bytes = encoder.finish().map_err(|_| ImageError::Encode)?;
    if bytes.starts_with(JFIF) {
        // It tells a decoder nothing new, and the optimizer of Next.js leaves it out.
        bytes.drain(2..2 + JFIF_SIZE);
    }
    Ok(bytes)
}

fn put_on_black(pixels: &mut Pixels) {
    let (all, _) = pixels.data.as_chunks_mut::<4>();
    for [colours @ .., alpha] in all {
        for sample in colours {
            *sample = scaled(*sample, *alpha);
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "it is at most a byte")]
fn scaled(sample: u8, alpha: u8) -> u8 {
    (u16::from(sample) * u16::from(alpha) / 255) as u8
}
