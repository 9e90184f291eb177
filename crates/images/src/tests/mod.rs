//! Tests of single steps. Whole results are compared with those of Next.js end to end.
#![allow(
    clippy::cast_possible_truncation,
    clippy::panic,
    reason = "small numbers of tests, and a decoder that fails"
)]

use std::time::{Duration, Instant};

use proptest::prelude::*;

use crate::{
    Bounds, ImageError, Kind, OutputFormat, Pixels, QueueFull, TargetImage, Workers, colour,
    decode::decode,
    exif::Orientation,
    is_animated, jpeg,
    scale::{Scaling, scale},
    transform, webp,
};

const PLAIN: &[u8] = include_bytes!("plain.jpg");
const PROGRESSIVE: &[u8] = include_bytes!("progressive.jpg");
const TURNED: &[u8] = include_bytes!("turned.jpg");
const SCENE: &[u8] = include_bytes!("scene.jpg");

/// Least similarity to the pixels of another library.
const SIMILAR: f64 = 0.98;

const BOUNDS: Bounds = Bounds {
    pixels: 1_000_000,
    memory: 16 << 20,
};

fn wanted(width: u32) -> TargetImage {
    TargetImage {
        width,
        quality: 75,
        format: OutputFormat::WebP,
    }
}

fn soon() -> Instant {
    webp::now() + Duration::from_mins(1)
}

fn make(bytes: &[u8], width: u32) -> Result<Vec<u8>, ImageError> {
    let kind = Kind::detect(bytes).expect("a known type");
    transform(kind, bytes, wanted(width), &BOUNDS, soon())
}

fn size(webp: &[u8]) -> (u32, u32) {
    let features = webp::features(webp).expect("it was encoded");
    (features.width, features.height)
}

fn png(width: u32, height: u32, pixels: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgba);
    let mut writer = encoder.write_header().expect("a valid header");
    writer.write_image_data(pixels).expect("as many pixels");
    drop(writer);
    bytes
}

/// Decodes an image without making it smaller.
fn pixels(bytes: &[u8]) -> Pixels {
    let kind = Kind::detect(bytes).expect("a known type");
    let decoded = decode(kind, bytes, u32::MAX, &BOUNDS);
    decoded.expect("a whole file").pixels
}

fn rgb(width: u32, height: u32, data: &[u8]) -> Pixels {
    let (all, _) = data.as_chunks::<3>();
    let data = all.iter().flat_map(|[r, g, b]| [*r, *g, *b, 255]);
    Pixels {
        width,
        height,
        has_alpha: false,
        data: data.collect(),
    }
}

/// Returns the structural similarity of the brightness: the mean over blocks of 8 × 8 pixels.
fn similarity(one: &Pixels, other: &Pixels) -> f64 {
    assert_eq!((one.width, one.height), (other.width, other.height));
    let (width, height) = (one.width as usize, one.height as usize);
    let brightness = |pixels: &Pixels, at: usize| {
        let [r, g, b] = [0, 1, 2].map(|sample| f64::from(pixels.data[at * 4 + sample]));
        0.299 * r + 0.587 * g + 0.114 * b
    };
    let side = 8.min(width).min(height);
    let count = (0..side * side).map(|_| 1.0).sum::<f64>();
    let (mut sum, mut blocks) = (0.0, 0.0);
    for top in (0..=height - side).step_by(4) {
        for left in (0..=width - side).step_by(4) {
            let (mut x, mut y, mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0, 0.0, 0.0);
            for row in top..top + side {
                for column in left..left + side {
                    let at = row * width + column;
                    let (p, q) = (brightness(one, at), brightness(other, at));
                    x += p / count;
                    y += q / count;
                    xx += p * p / count;
                    yy += q * q / count;
                    xy += p * q / count;
                }
            }
            let (spread, common) = (xx - x * x + yy - y * y, xy - x * y);
            sum += (2.0 * x * y + 6.5025) * (2.0 * common + 58.5225)
                / ((x * x + y * y + 6.5025) * (spread + 58.5225));
            blocks += 1.0;
        }
    }
    sum / blocks
}

/// Invariant: decoded pixels look like those of libjpeg. The control is the image upside down.
#[test]
fn jpeg_is_decoded_as_libjpeg_does() {
    let expected = [
        &include_bytes!("plain.rgb")[..],
        include_bytes!("progressive.rgb"),
    ];
    let expected = expected.map(|data| rgb(37, 21, data));
    let found = [PLAIN, PROGRESSIVE].map(pixels);
    for (found, expected) in found.iter().zip(&expected) {
        let similarity = similarity(found, expected);
        assert!(similarity > SIMILAR, "{similarity}");
    }
    let turned = Orientation::HalfTurn.apply(found[0].clone());
    assert!(similarity(&turned, &expected[0]) < SIMILAR);
}

/// Invariant: smaller images look like those of sharp. The control takes each pixel of the smaller
/// image from one place of the larger one.
#[test]
fn images_are_scaled_as_sharp_does() {
    for (width, expected) in [
        (70, &include_bytes!("scene-70.png")[..]),
        (25, include_bytes!("scene-25.png")),
    ] {
        let expected = pixels(expected);
        let decoded = decode(Kind::Jpeg, SCENE, width, &BOUNDS).expect("a whole file");
        let scaling = decoded.scaling(width);
        assert_eq!(scaling.to, (expected.width, expected.height));
        let large = decoded.pixels.clone();
        let small = scale(decoded.pixels, scaling).expect("an image");
        let found = similarity(&small, &expected);
        assert!(found > SIMILAR, "{width}: {found}");
        let mut coarse = small;
        let (all, _) = large.data.as_chunks::<4>();
        let (to, _) = coarse.data.as_chunks_mut::<4>();
        for (at, to) in (0..).zip(to) {
            let (x, y) = (at % coarse.width, at / coarse.width);
            let (x, y) = (x * large.width / width, y * large.width / width);
            *to = all[(y * large.width + x) as usize];
        }
        assert!(similarity(&coarse, &expected) < SIMILAR, "{width}");
    }
}

/// Invariant: sizes are those of sharp, which rounds them after its decoder has made an image
/// smaller by whole pixels.
#[test]
fn sizes_are_rounded_after_whole_steps() {
    let size = |width: u32, height: u32, step: u32, wanted: u32| {
        let decoded = crate::decode::RawImage {
            orientation: Orientation::Upright,
            step,
            pixels: Pixels {
                width,
                height,
                has_alpha: false,
                data: Vec::new(),
            },
        };
        let scaling = decoded.scaling(wanted);
        (scaling.from, scaling.to)
    };
    assert_eq!(size(1000, 509, 1, 100), ((1000, 509), (100, 51)));
    // 63 steps of 8 pixels are 504.
    assert_eq!(size(1000, 509, 8, 100), ((1000, 504), (100, 50)));
    assert_eq!(size(1000, 5, 8, 100), ((1000, 5), (100, 1)));
    assert_eq!(size(30, 20, 1, 100), ((30, 20), (30, 20)));
}

#[test]
fn images_become_smaller_and_upright_but_never_larger() {
    for (bytes, width, expected) in [
        (PLAIN, 64, (37, 21)),
        (PLAIN, 37, (37, 21)),
        (PLAIN, 20, (20, 11)),
        (PLAIN, 1, (1, 1)),
        (TURNED, 64, (21, 37)),
        (TURNED, 10, (10, 18)),
    ] {
        let made = make(bytes, width).expect("an image");
        assert_eq!(size(&made), expected, "{width}");
        // A WebP file is a source too.
        assert!(make(&made, 3).is_ok());
    }
    assert_eq!(
        Kind::detect(&make(PLAIN, 9).expect("an image")),
        Some(Kind::WebP)
    );
}

#[test]
fn a_bomb_is_refused_by_its_header() {
    let small = png(3, 2, &[9; 24]);
    assert!(make(&small, 3).is_ok());
    let mut bomb = small;
    bomb[16..24].copy_from_slice(&[0x3f; 8]);
    // The checksum of the header comes before its content is believed.
    assert_eq!(make(&bomb, 3), Err(ImageError::Decode));
    let mut bomb = PLAIN.to_vec();
    let frame = bomb
        .windows(2)
        .position(|it| it == [0xff, 0xc0])
        .expect("a frame");
    bomb[frame + 5..frame + 9].fill(0xff);
    assert_eq!(make(&bomb, 3), Err(ImageError::Pixels));
    let tight = Bounds {
        memory: 1000,
        ..BOUNDS
    };
    let made = transform(Kind::Jpeg, PLAIN, wanted(9), &tight, soon());
    assert_eq!(made, Err(ImageError::Pixels));
    let made = transform(Kind::Jpeg, PLAIN, wanted(9), &BOUNDS, webp::now());
    assert_eq!(made, Err(ImageError::Time));
}

/// Invariant: a file counts with all that its decoder keeps, before any of it is decoded.
#[test]
fn frequencies_that_are_kept_count_as_memory() {
    let area = 37 * 21;
    for (bytes, least) in [(PLAIN, 4 * area), (PROGRESSIVE, 10 * area)] {
        for (memory, expected) in [(least, None), (least - 1, Some(ImageError::Pixels))] {
            let bounds = Bounds { memory, ..BOUNDS };
            let made = transform(Kind::Jpeg, bytes, wanted(9), &bounds, soon());
            assert_eq!(made.err(), expected);
        }
    }
    // The first scan has one of three components: the others come later.
    let mut parts = PLAIN.to_vec();
    let scan = parts.windows(2).position(|it| it == [0xff, 0xda]);
    let scan = scan.expect("a scan");
    parts[scan + 3] = 8;
    parts[scan + 4] = 1;
    parts.drain(scan + 7..scan + 11);
    let bounds = Bounds {
        memory: 4 * area,
        ..BOUNDS
    };
    let made = transform(Kind::Jpeg, &parts, wanted(9), &bounds, soon());
    assert_eq!(made, Err(ImageError::Pixels));
}

/// Invariant: an image that is larger is read in fewer scans; those of each cost as much as it.
#[test]
fn scans_are_bounded_by_the_size_of_the_image() {
    let last = memchr::memmem::rfind(PROGRESSIVE, b"\xff\xda").expect("a scan");
    let end = PROGRESSIVE.len() - 2;
    let mut bytes = PROGRESSIVE[..end].to_vec();
    bytes.extend(PROGRESSIVE[last..end].repeat(4));
    bytes.extend(&PROGRESSIVE[end..]);
    for (times, expected) in [(2, None), (1, Some(ImageError::Decode))] {
        let pixels = 37 * 21 * times;
        let bounds = Bounds { pixels, ..BOUNDS };
        let made = transform(Kind::Jpeg, &bytes, wanted(9), &bounds, soon());
        assert_eq!(made.err(), expected);
    }
}

/// Invariant: no file has tables that take more memory than the largest image. Each area of 4 × 4
/// pixels names tables of its own, of 9 KiB.
#[test]
fn tables_of_a_lossless_image_are_bounded() {
    let made = |tables: u64| {
        let (mut bits, mut bytes, mut used) = (0, Vec::new(), 0);
        let mut put = |value: u64, count: u32| {
            bits |= value << used;
            used += count;
            while used >= 8 {
                bytes.push(bits as u8);
                bits >>= 8;
                used -= 8;
            }
        };
        put(0x2f | 999 << 8 | 999 << 22, 40);
        // No transforms and no cache of colours; tables for each area, whose numbers follow.
        put(0b100, 7);
        for symbols in [280, 256] {
            // Of the lengths, 0 and 8 have codes of one bit: 256 symbols have 8 bits.
            put(8 << 1 | 1 << 11 | 1 << 38, 42);
            (0..symbols).for_each(|symbol| put(u64::from(symbol < 256), 1));
        }
        put(0x111, 12);
        for area in 0..250 * 250 {
            put(area % tables, 16);
        }
        put(0, 64);
        let mut file = b"RIFF\0\0\0\0WEBPVP8L".to_vec();
        file.extend((bytes.len() as u32).to_le_bytes());
        file.extend(bytes);
        let size = file.len() as u32 - 8;
        file[4..8].copy_from_slice(&size.to_le_bytes());
        make(&file, 9)
    };
    assert_eq!(made(1000), Err(ImageError::Decode));
    assert_eq!(made(250 * 250), Err(ImageError::Pixels));
}

/// Invariant: no file keeps the decoder busy with parts of metadata.
#[test]
fn parts_of_metadata_are_bounded() {
    let with = |parts: usize| {
        let mut part = b"\xff\xe1\0\x4d".to_vec();
        part.extend(b"http://ns.adobe.com/xmp/extension/\0");
        part.extend([7; 40]);
        let mut bytes = PLAIN[..2].to_vec();
        bytes.extend(part.repeat(parts));
        bytes.extend(&PLAIN[2..]);
        make(&bytes, 9)
    };
    assert!(with(64).is_ok());
    assert_eq!(with(65), Err(ImageError::Decode));
}

/// Invariant: files look like those of mozjpeg by the optimizer of Next.js, and are not larger. The
/// control has a lower quality.
#[test]
fn jpeg_is_encoded_as_mozjpeg_does() {
    let plain = rgb(37, 21, include_bytes!("plain.rgb"));
    let white = (0..37 * 21).flat_map(|at| {
        let is_white = (at % 37) * (at / 37) % 7 < 3;
        [if is_white { 255 } else { 40 }; 3]
    });
    let white = rgb(37, 21, &white.collect::<Vec<u8>>());
    for (image, quality, expected) in [
        (&plain, 40, &include_bytes!("encoded-40.jpg")[..]),
        (&plain, 92, include_bytes!("encoded-92.jpg")),
        (&white, 75, include_bytes!("encoded-white.jpg")),
    ] {
        let made = jpeg::encode(image.clone(), quality, soon()).expect("an image");
        let found = similarity(&pixels(&made), &pixels(expected));
        assert!(found > SIMILAR, "{quality}: {found}");
        let (length, most) = (made.len(), expected.len() * 102 / 100);
        assert!(length <= most, "{quality}: {length} of {most} bytes");
        let low = jpeg::encode(image.clone(), 10, soon()).expect("an image");
        assert!(similarity(&pixels(&low), &pixels(expected)) < SIMILAR);
    }
    let late = jpeg::encode(plain, 92, webp::now());
    assert_eq!(late, Err(ImageError::Time));
}

#[test]
fn jpeg_is_made_of_jpeg_within_bounds() {
    let wanted = TargetImage {
        format: OutputFormat::Jpeg,
        ..wanted(20)
    };
    let made = transform(Kind::Jpeg, PLAIN, wanted, &BOUNDS, soon()).expect("an image");
    let small = pixels(&made);
    assert_eq!((small.width, small.height), (20, 11));
    assert_eq!(made[2..4], [0xff, 0xdb], "no segment before the tables");
    let large = Pixels {
        width: 4_000,
        height: 2_001,
        has_alpha: false,
        data: Vec::new(),
    };
    assert_eq!(
        jpeg::encode(large, 75, soon()),
        Err(ImageError::Pixels),
        "before a pixel is read"
    );
}

#[test]
fn types_are_recognised_by_their_first_bytes() {
    for (bytes, kind) in [
        (PLAIN, Some(Kind::Jpeg)),
        (b"GIF89a", Some(Kind::Gif)),
        (b"RIFF1234WEBPVP8 ", Some(Kind::WebP)),
        (b"RIFF1234WAVE", None),
        (b"<?xml version", Some(Kind::Svg)),
        (b"<!doctype html>", None),
        (b"\0\0\0\x10ftypavif\0\0\0\0", Some(Kind::Avif)),
        (b"\0\0\0\x90ftypavif\0\0\0\0", None),
        (b"", None),
    ] {
        assert_eq!(Kind::detect(bytes), kind, "{bytes:?}");
    }
    assert!(is_animated(Kind::WebP, b"RIFF....WEBPVP8X....ANIM"));
    assert!(!is_animated(Kind::Png, &png(1, 1, &[0; 4])));
    let frame = b",\0\0\0\0\x01\0\x01\0\0\x02\x01\x44\0";
    let head = b"GIF89a\x01\0\x01\0\0\0\0";
    let one = [&head[..], frame, b";"].concat();
    let two = [&head[..], frame, frame, b";"].concat();
    assert!(!is_animated(Kind::Gif, &one) && is_animated(Kind::Gif, &two));
}

/// Builds a profile of three primaries with one curve.
fn profile(primaries: [[f64; 3]; 3], gamma: f64) -> Vec<u8> {
    let fixed = |number: f64| ((number * 65536.0).round() as i32).to_be_bytes();
    let mut curve = b"para\0\0\0\0\0\x03\0\0".to_vec();
    for number in [gamma, 1.0 / 1.055, 0.055 / 1.055, 1.0 / 12.92, 0.04045] {
        curve.extend(fixed(number));
    }
    let mut tags: Vec<(&[u8], Vec<u8>)> = Vec::new();
    for (name, primary) in [b"rXYZ", b"gXYZ", b"bXYZ"].into_iter().zip(primaries) {
        let numbers = primary.iter().flat_map(|number| fixed(*number));
        tags.push((
            name,
            b"XYZ \0\0\0\0".iter().copied().chain(numbers).collect(),
        ));
    }
    for name in [b"rTRC", b"gTRC", b"bTRC"] {
        tags.push((name, curve.clone()));
    }
    let mut bytes = vec![0; 128];
    bytes[16..24].copy_from_slice(b"RGB XYZ ");
    bytes.extend(6u32.to_be_bytes());
    let mut at = 132 + 6 * 12;
    for (name, content) in &tags {
        bytes.extend_from_slice(name);
        bytes.extend((at as u32).to_be_bytes());
        bytes.extend((content.len() as u32).to_be_bytes());
        at += content.len();
    }
    bytes.extend(tags.into_iter().flat_map(|(_, content)| content));
    bytes
}

#[test]
fn only_srgb_keeps_its_values() {
    let srgb = [
        [0.4361, 0.2225, 0.0139],
        [0.3851, 0.7169, 0.0971],
        [0.1431, 0.0606, 0.7141],
    ];
    let p3 = [
        [0.5151, 0.2412, -0.0011],
        [0.2920, 0.6922, 0.0419],
        [0.1571, 0.0666, 0.7841],
    ];
    assert!(colour::is_srgb(&profile(srgb, 2.4)));
    assert!(!colour::is_srgb(&profile(p3, 2.4)));
    assert!(!colour::is_srgb(&profile(srgb, 1.8)));
    assert!(!colour::is_srgb(b"no profile"));
}

#[test]
fn an_orientation_is_read_in_both_orders_of_bytes() {
    let little = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0";
    let big = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0";
    assert_eq!(Orientation::parse(little), Orientation::Clockwise);
    assert_eq!(Orientation::parse(big), Orientation::Clockwise);
    assert_eq!(Orientation::parse(&big[..20]), Orientation::Upright);
    assert_eq!(
        Orientation::parse(b"II*\0\xff\xff\xff\xff"),
        Orientation::Upright
    );
}

#[tokio::test]
async fn an_image_is_made_once_for_all_who_wait() {
    let workers = Workers::<u8, u32>::new(1, 1);
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let mut first = workers
        .begin(1, move || wait.recv().map_or(0, |()| 7))
        .expect("room");
    // The only thread takes the first one; then there is room for one that waits.
    let mut second = loop {
        match workers.begin(2, || 9) {
            Ok(second) => break second,
            Err(QueueFull) => std::thread::yield_now(),
        }
    };
    assert_eq!(workers.get(3, || 0).await, Err(QueueFull));
    // Before the first one is made: a call of `get` begins when it is awaited.
    let mut same = workers.begin(1, || 8).expect("it is no new one");
    go.send(()).expect("the worker waits");
    let made = same.wait_for(Option::is_some).await.expect("it was made");
    assert_eq!(made.as_deref(), Some(&7), "not made again");
    drop(made);
    assert!(first.wait_for(Option::is_some).await.is_ok());
    assert!(second.wait_for(Option::is_some).await.is_ok());
    let broken = workers.get(4, || panic!("a decoder fails")).await;
    assert_eq!(broken, Ok(None), "and the thread goes on:");
    let after = workers.get(5, || 5).await.expect("room").expect("made");
    assert_eq!(*after, 5);
}

proptest! {
    /// Invariant: whatever bytes a file has, decoding ends without a panic.
    #[test]
    fn damaged_files_are_errors(
        which in 0..4usize,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
        width in 1..50u32,
    ) {
        let png = png(5, 4, &[77; 80]);
        let mut bytes = [PLAIN, PROGRESSIVE, TURNED, &png][which].to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Some(kind) = Kind::detect(&bytes) {
            let _result = transform(kind, &bytes, wanted(width), &BOUNDS, soon());
            is_animated(kind, &bytes);
        }
    }

    /// Invariant: JPEG of any size has that size, and the colours, on black where they are not
    /// opaque.
    #[test]
    fn jpeg_has_the_colours_on_black(
        width in 1..70u32,
        height in 1..70u32,
        quality in 50..=100u8,
        colour in any::<[u8; 4]>(),
    ) {
        let image = Pixels {
            width,
            height,
            has_alpha: true,
            data: colour.repeat(width as usize * height as usize),
        };
        let made = jpeg::encode(image, quality, soon()).expect("an image");
        let decoded = pixels(&made);
        prop_assert_eq!((decoded.width, decoded.height), (width, height));
        let [expected @ .., alpha] = colour.map(u32::from);
        let (all, _) = decoded.data.as_chunks::<4>();
        for pixel in all {
            for (found, expected) in pixel.iter().zip(expected) {
                prop_assert!(u32::from(*found).abs_diff(expected * alpha / 255) <= 10);
            }
        }
    }

    /// Invariant: an image of one colour keeps it, at any size.
    #[test]
    fn one_colour_stays_one_colour(
        width in 1..90u32,
        height in 1..90u32,
        to in (1..90u32, 1..90u32),
        colour in any::<[u8; 4]>(),
    ) {
        let count = width as usize * height as usize;
        let to = (to.0.min(width), to.1.min(height));
        let image = Pixels {
            width,
            height,
            has_alpha: true,
            data: colour.repeat(count),
        };
        let scaling = Scaling { from: (width, height), to };
        let small = scale(image, scaling).expect("an image");
        prop_assert_eq!((small.width, small.height), to);
        let (all, _) = small.data.as_chunks::<4>();
        prop_assert_eq!(all.len(), to.0 as usize * to.1 as usize);
        let alpha = colour[3];
        for [samples @ .., found] in all {
            prop_assert!(found.abs_diff(alpha) <= 1);
            // The less of a colour is seen, the less of it is kept.
            let most = 255u8.checked_div(alpha).map_or(255, |it| it.saturating_add(2));
            for (found, expected) in samples.iter().zip(colour) {
                prop_assert!(found.abs_diff(expected) <= most);
            }
        }
    }
}
