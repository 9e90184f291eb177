//! Tests of single steps. Whole results are compared with those of Next.js end to end.
#![allow(
    clippy::cast_possible_truncation,
    clippy::panic,
    reason = "small numbers of tests, and a decoder that fails"
)]

use std::time::{Duration, Instant};

use proptest::prelude::*;

use crate::{
    Bounds, Channels, ImageError, Kind, OutputFormat, Pixels, QueueFull, Wanted, Workers, colour,
    exif::Orientation, is_animated, jpeg::Jpeg, mozjpeg, scale, transform, webp,
};

const PLAIN: &[u8] = include_bytes!("plain.jpg");
const PROGRESSIVE: &[u8] = include_bytes!("progressive.jpg");
const TURNED: &[u8] = include_bytes!("turned.jpg");

const BOUNDS: Bounds = Bounds {
    pixels: 1_000_000,
    memory: 16 << 20,
};

fn wanted(width: u32) -> Wanted {
    Wanted {
        width,
        quality: 75,
        format: OutputFormat::WebP,
    }
}

fn soon() -> Instant {
    webp::now() + Duration::from_mins(1)
}

fn make(bytes: &[u8], width: u32) -> Result<Vec<u8>, ImageError> {
    let kind = Kind::of(bytes).expect("a known type");
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

/// The expected pixels are those of libjpeg.
#[test]
fn jpeg_is_decoded_as_libjpeg_does() {
    for (bytes, expected) in [
        (PLAIN, &include_bytes!("plain.rgb")[..]),
        (PROGRESSIVE, include_bytes!("progressive.rgb")),
    ] {
        let jpeg = Jpeg::read(bytes).expect("a whole file");
        assert_eq!(jpeg.size(), (37, 21));
        let pixels = jpeg.decode(1).expect("a whole file");
        assert!(pixels.data == expected);
    }
    for (shrink, size) in [(2, (18, 10)), (4, (9, 5)), (8, (4, 2))] {
        let jpeg = Jpeg::read(PLAIN).expect("a whole file");
        let pixels = jpeg.decode(shrink).expect("a whole file");
        assert_eq!((pixels.width, pixels.height), size);
        assert_eq!(pixels.data.len(), pixels.stride() * size.1 as usize);
    }
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
        Kind::of(&make(PLAIN, 9).expect("an image")),
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

/// The expected files are those of mozjpeg, by the optimizer of Next.js.
#[test]
fn jpeg_is_encoded_as_mozjpeg_does() {
    let plain = Pixels {
        width: 37,
        height: 21,
        channels: Channels::Rgb,
        data: include_bytes!("plain.rgb").to_vec(),
    };
    let white = (0..37 * 21).flat_map(|at| {
        let is_white = (at % 37) * (at / 37) % 7 < 3;
        [if is_white { 255 } else { 40 }; 3]
    });
    let white = Pixels {
        data: white.collect(),
        ..plain.clone()
    };
    for (pixels, quality, expected) in [
        (&plain, 40, &include_bytes!("encoded-40.jpg")[..]),
        (&plain, 92, include_bytes!("encoded-92.jpg")),
        (&white, 75, include_bytes!("encoded-white.jpg")),
    ] {
        let made = mozjpeg::encode(pixels.clone(), quality, soon()).expect("an image");
        assert!(made == expected, "{quality}");
    }
    let made = mozjpeg::encode(white, 92, soon()).expect("an image");
    assert!(made != include_bytes!("encoded-92.jpg"));
    let late = mozjpeg::encode(plain, 92, webp::now());
    assert_eq!(late, Err(ImageError::Time));
}

#[test]
fn jpeg_is_made_of_jpeg_within_bounds() {
    let wanted = Wanted {
        format: OutputFormat::Jpeg,
        ..wanted(20)
    };
    let made = transform(Kind::Jpeg, PLAIN, wanted, &BOUNDS, soon()).expect("an image");
    let jpeg = Jpeg::read(&made).expect("a whole file");
    assert_eq!(jpeg.size(), (20, 11));
    assert_eq!(made[2..4], [0xff, 0xdb], "no segment before the tables");
    let large = Pixels {
        width: 4_000,
        height: 4_001,
        channels: Channels::Rgb,
        data: Vec::new(),
    };
    assert_eq!(
        mozjpeg::encode(large, 75, soon()),
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
        assert_eq!(Kind::of(bytes), kind, "{bytes:?}");
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
    assert_eq!(Orientation::of(little), Orientation::Clockwise);
    assert_eq!(Orientation::of(big), Orientation::Clockwise);
    assert_eq!(Orientation::of(&big[..20]), Orientation::Upright);
    assert_eq!(
        Orientation::of(b"II*\0\xff\xff\xff\xff"),
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
        if let Some(kind) = Kind::of(&bytes) {
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
        let pixels = Pixels {
            width,
            height,
            channels: Channels::Rgba,
            data: colour.repeat(width as usize * height as usize),
        };
        let made = mozjpeg::encode(pixels, quality, soon()).expect("an image");
        let jpeg = Jpeg::read(&made).expect("a whole file");
        prop_assert_eq!(jpeg.size(), (width, height));
        let decoded = jpeg.decode(1).expect("a whole file");
        let [expected @ .., alpha] = colour.map(u32::from);
        let (all, _) = decoded.data.as_chunks::<3>();
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
        across in 1.0..40.0f64,
        down in 1.0..40.0f64,
        colour in any::<[u8; 3]>(),
    ) {
        let count = width as usize * height as usize;
        let pixels = Pixels {
            width,
            height,
            channels: Channels::Rgb,
            data: colour.repeat(count),
        };
        let (across, down) = (across.min(f64::from(width)), down.min(f64::from(height)));
        let small = scale::shrink(pixels, across, down);
        prop_assert!(small.width <= width && small.height <= height);
        let (all, _) = small.data.as_chunks::<3>();
        prop_assert_eq!(all.len(), small.width as usize * small.height as usize);
        for pixel in all {
            for (found, expected) in pixel.iter().zip(colour) {
                prop_assert!(found.abs_diff(expected) <= 2);
            }
        }
    }
}
