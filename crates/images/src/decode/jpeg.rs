//! Sources in JPEG.

use std::panic::{AssertUnwindSafe, catch_unwind};

use memchr::memmem;
use zune_jpeg::{
    JpegDecoder,
    zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions},
};

use super::{Layout, RawImage, Shrink, check_colours};
use crate::{Bounds, ImageError, Pixels, exif::Orientation};

/// Longest side that the format can tell.
const MAX_SIDE: usize = 65_535;

/// Scans of an image; each costs as much as the image, so that all have at most five times the
/// pixels of the largest one.
const MAX_SCANS: u64 = 100;
const MAX_SCANNED: u64 = 5;

/// Segments with the second and later parts of metadata (XMP). The decoder sorts them again for
/// each segment that follows.
const MAX_PARTS: usize = 64;
const PART: &[u8] = b"http://ns.adobe.com/xmp/extension/\0";

/// Begin of a colour profile.
const PROFILE: &[u8] = b"ICC_PROFILE\0";

/// Bytes of the result for each pixel.
const BYTES_PER_PIXEL: u64 = 4;

/// Bytes of frequencies for each sample, where they are kept until all scans are read.
const BYTES_PER_FREQUENCY: u64 = 2;

/// Facts about a file, before any pixel of it is decoded.
struct Header {
    width: u32,
    height: u32,
    orientation: Orientation,
    /// Bytes of memory that decoding takes.
    memory: u64,
    profile: Profile,
}

enum Profile {
    None,
    Broken,
    Found(Vec<u8>),
}

fn options(scans: u64) -> DecoderOptions {
    DecoderOptions::new_safe()
        .set_strict_mode(true)
        .set_max_width(MAX_SIDE)
        .set_max_height(MAX_SIDE)
        .jpeg_set_max_scans(usize::try_from(scans).unwrap_or(usize::MAX))
        .jpeg_set_out_colorspace(ColorSpace::RGBA)
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Self, ImageError> {
        if memmem::find_iter(bytes, PART).count() > MAX_PARTS {
            return Err(ImageError::Decode);
        }
        let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options(MAX_SCANS));
        decoder.decode_headers().map_err(|_| ImageError::Decode)?;
        let info = decoder.info().ok_or(ImageError::Decode)?;
        if !matches!(info.components, 1 | 3) {
            // Colours for print.
            return Err(ImageError::Unsupported);
        }
        let has = |text: &[u8]| memmem::find(bytes, text).is_some();
        let profile = match decoder.icc_profile() {
            Some(profile) => Profile::Found(profile),
            None if has(PROFILE) => Profile::Broken,
            None => Profile::None,
        };
        let pixels = u64::from(info.width) * u64::from(info.height);
        let samples = u64::from(info.components);
        // A scan of fewer components than the image has, wherever there seems to be one: the
        // decoder does not tell which one is its first.
        let has_more_scans = (1..=4u8)
            .filter(|count| u64::from(*count) != samples)
            .any(|count| has(&[0xda, 0, 6 + 2 * count, count]));
        let frequencies = if info.sof.is_sequential_dct() && !has_more_scans {
            0
        } else {
            samples * BYTES_PER_FREQUENCY
        };
        Ok(Self {
            width: info.width.into(),
            height: info.height.into(),
            orientation: info
                .exif_data
                .map_or_else(Orientation::default, |exif| Orientation::parse(&exif)),
            memory: pixels * (BYTES_PER_PIXEL + frequencies),
            profile,
        })
    }
}

pub(super) fn decode(bytes: &[u8], width: u32, bounds: &Bounds) -> Result<RawImage, ImageError> {
    let header = catch_unwind(|| Header::read(bytes)).map_err(|_| ImageError::Decode)??;
    bounds.check(header.width, header.height, header.memory)?;
    match header.profile {
        Profile::None => {}
        Profile::Broken => return Err(ImageError::Colour),
        Profile::Found(profile) => check_colours(Some(&profile))?,
    }
    let layout = Layout {
        width: header.width,
        height: header.height,
        orientation: header.orientation,
    };
    let mut data = vec![0; Pixels::size_of(header.width, header.height)];
    let pixels = u64::from(header.width) * u64::from(header.height);
    let scans = MAX_SCANS.min(bounds.pixels * MAX_SCANNED / pixels);
    // The decoder has checks that panic where a damaged file fails them.
    let decoded = catch_unwind(AssertUnwindSafe(|| {
        JpegDecoder::new_with_options(ZCursor::new(bytes), options(scans)).decode_into(&mut data)
    }));
    if !matches!(decoded, Ok(Ok(()))) {
        return Err(ImageError::Decode);
    }
    Ok(RawImage {
        orientation: header.orientation,
        step: step(&Shrink::to_width(layout, width)),
        pixels: Pixels {
            width: header.width,
            height: header.height,
            has_alpha: false,
            data,
        },
    })
}

/// Returns the factor by which the optimizer of Next.js has the decoder make an image smaller.
/// Pixels at the right and the bottom that are no whole step are cut off.
fn step(shrink: &Shrink) -> u32 {
    let least = shrink.across.min(shrink.down);
    let factors = [(8, 8.0), (4, 4.0), (2, 2.0)];
    let factor = factors.into_iter().find(|(_, factor)| least >= *factor);
    match factor {
        // One less where the rest would be too small for the filter.
        Some((factor, exact)) if least < exact + 1.0 => factor / 2,
        Some((factor, _)) => factor,
        None => 1,
    }
}
