//! Decoders and sample data for tests.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failure here fails the test that uses it"
)]

use std::io::Read;

use super::Encoding;

/// Decodes as much as possible from the beginning of a stream, complete or not.
pub fn decoded(encoding: Encoding, mut encoded: &[u8]) -> Vec<u8> {
    let mut reader: Box<dyn Read + '_> = match encoding {
        Encoding::Gzip => Box::new(flate2::bufread::GzDecoder::new(&mut encoded)),
        Encoding::Br => Box::new(brotli::Decompressor::new(&mut encoded, 4096)),
        Encoding::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(&mut encoded).unwrap()),
    };
    let (mut out, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(length @ 1..) = reader.read(&mut buffer) {
        out.extend_from_slice(&buffer[..length]);
    }
    out
}

/// Returns true if a stream is complete to its last byte.
pub fn is_complete(encoding: Encoding, mut encoded: &[u8]) -> bool {
    let mut sink = Vec::new();
    match encoding {
        Encoding::Gzip => flate2::bufread::GzDecoder::new(&mut encoded).read_to_end(&mut sink),
        Encoding::Br => brotli::Decompressor::new(&mut encoded, 4096).read_to_end(&mut sink),
        Encoding::Zstd => zstd::stream::read::Decoder::with_buffer(&mut encoded)
            .unwrap()
            .read_to_end(&mut sink),
    }
    .is_ok()
}

/// Text that compresses badly, so that the output buffer fills up.
pub fn noise(length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    std::iter::repeat_with(|| random.alphanumeric() as u8)
        .take(length)
        .collect()
}
