//! Encoder of JPEG whose files are those of mozjpeg: progressive, with the coefficients that cost
//! least for what they show, and the split into scans that is smallest.

mod entropy;
mod huffman;
mod planes;
mod scans;
mod trellis;

use std::time::Instant;

use self::{entropy::Blocks, planes::Plane, trellis::Quantiser};
use crate::{Channels, ImageError, Pixels, webp};

/// Pixels of an image at most: it takes some 12 bytes for each while it is encoded.
const MAX_PIXELS: u64 = 16_000_000;

/// Longest side that the format can tell.
const MAX_SIDE: u32 = 65_500;

/// Place of each frequency in a row-by-row block, from low to high.
const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20,
    13, 6, 7, 14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59,
    52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// Place from low to high of each frequency in a row-by-row block.
const PLACES: [u8; 64] = {
    let mut places = [0; 64];
    let mut at = 0;
    while at < 64 {
        places[ZIGZAG[at as usize] as usize] = at;
        at += 1;
    }
    places
};

/// Encodes RGB, or RGBA on black, at `quality`, which is from 1 to 100.
pub(crate) fn encode(
    pixels: Pixels,
    quality: u8,
    deadline: Instant,
) -> Result<Vec<u8>, ImageError> {
    let (width, height) = (pixels.width, pixels.height);
    if u64::from(width) * u64::from(height) > MAX_PIXELS || width.max(height) > MAX_SIDE {
        return Err(ImageError::Pixels);
    }
    let in_time = || {
        if webp::now() < deadline {
            Ok(())
        } else {
            Err(ImageError::Time)
        }
    };
    let planes = planes::of(&on_black(pixels));
    let table = planes::quantisation(quality);
    let mut components = Vec::with_capacity(planes.len());
    for (index, plane) in planes.into_iter().enumerate() {
        in_time()?;
        components.push(component(&plane, &table, index, &in_time)?);
    }
    let mut out = vec![0xff, 0xd8];
    for id in [0, 1] {
        out.extend([0xff, 0xdb, 0, 67, id]);
        out.extend(table.iter().map(|step| step.to_be_bytes()[1]));
    }
    let [high, low] = [height, width].map(u32::to_be_bytes);
    out.extend([0xff, 0xc2, 0, 17, 8, high[2], high[3], low[2], low[3], 3]);
    out.extend([1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1]);
    scans::write(&components, &mut out, &in_time)?;
    out.extend([0xff, 0xd9]);
    Ok(out)
}

/// Returns the coefficients of a plane.
fn component(
    plane: &Plane,
    table: &[u16; 64],
    index: usize,
    in_time: &impl Fn() -> Result<(), ImageError>,
) -> Result<Blocks, ImageError> {
    let exact = planes::frequencies(plane, table[0]);
    let rounded = exact.iter().map(|block| trellis::rounded(block, table));
    let rounded = Blocks::new(rounded.collect(), plane);
    let quantiser = Quantiser::new(table, entropy::lengths(&rounded), index > 0);
    let rows_of_unit = if index == 0 { 2 } else { 1 };
    let mut values = rounded.values;
    let rows = values
        .chunks_mut(plane.columns)
        .zip(exact.chunks(plane.columns));
    let mut last = 0;
    for (number, (row, exact)) in rows.enumerate() {
        if number % 16 == 0 {
            in_time()?;
        }
        if number % rows_of_unit == 0 {
            last = 0;
        }
        last = quantiser.quantise(row, exact, last);
    }
    Ok(Blocks::new(values, plane))
}

/// Returns the image without alpha, as on a black page.
fn on_black(pixels: Pixels) -> Pixels {
    if pixels.channels != Channels::Rgba {
        return pixels;
    }
    let (all, _) = pixels.data.as_chunks::<4>();
    let data = all.iter().flat_map(|[red, green, blue, alpha]| {
        [red, green, blue].map(|sample| scaled(*sample, *alpha))
    });
    Pixels {
        channels: Channels::Rgb,
        data: data.collect(),
        ..pixels
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the product of two bytes, divided by the largest byte"
)]
fn scaled(sample: u8, alpha: u8) -> u8 {
    (u16::from(sample) * u16::from(alpha) / 255) as u8
}
