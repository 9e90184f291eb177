//! Content codings: which one a client wants, and the encoders, which know nothing of
//! requests. A filter streams through an [`Encoder`]; who has a whole body calls [`encode`].

use std::fmt;

use brotli::enc::{
    StandardAlloc,
    encode::{
        BrotliEncoderDestroyInstance, BrotliEncoderOperation, BrotliEncoderParameter,
        BrotliEncoderStateStruct,
    },
};
use flate2::{Compress, Compression, FlushCompress, Status};
use http::{HeaderMap, HeaderValue, header::ACCEPT_ENCODING};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zstd::zstd_safe::{
    CCtx, CParameter, InBuffer, OutBuffer, zstd_sys::ZSTD_EndDirective as Directive,
};

use super::http::{Weight, list_of, weighted};

/// A content coding that we can produce.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    Zstd,
    Br,
    Gzip,
}

impl Encoding {
    pub const ALL: [Self; 3] = [Self::Zstd, Self::Br, Self::Gzip];

    /// The coding's name in `Accept-Encoding` and `Content-Encoding`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Br => "br",
            Self::Gzip => "gzip",
        }
    }

    pub fn header_value(self) -> HeaderValue {
        HeaderValue::from_static(self.name())
    }

    /// The levels, from the fastest to the one with the smallest output.
    pub const fn levels(self) -> std::ops::RangeInclusive<u8> {
        match self {
            Self::Zstd => 1..=19,
            Self::Br => 0..=11,
            Self::Gzip => 1..=9,
        }
    }
}

/// What a client's `Accept-Encoding` says, read once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    zstd: Option<Weight>,
    br: Option<Weight>,
    gzip: Option<Weight>,
    identity: Option<Weight>,
    any: Option<Weight>,
}

impl Accepted {
    /// Reads all lines of the field. Members with a broken weight are passed over; of a
    /// coding named twice the higher weight counts.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut accepted = Self::default();
        for (name, weight) in list_of(headers, &ACCEPT_ENCODING).filter_map(weighted) {
            let is = |coding: &str| name.eq_ignore_ascii_case(coding.as_bytes());
            let slot = if is("gzip") || is("x-gzip") {
                // RFC 9110, 8.4.1.3: `x-gzip` is to be taken for `gzip`.
                &mut accepted.gzip
            } else if is("br") {
                &mut accepted.br
            } else if is("zstd") {
                &mut accepted.zstd
            } else if is("identity") {
                &mut accepted.identity
            } else if name == b"*" {
                &mut accepted.any
            } else {
                continue;
            };
            *slot = (*slot).max(Some(weight));
        }
        accepted
    }

    /// The weight of one coding: its own, or that of `*`.
    pub fn weight(&self, encoding: Encoding) -> Weight {
        let named = match encoding {
            Encoding::Zstd => self.zstd,
            Encoding::Br => self.br,
            Encoding::Gzip => self.gzip,
        };
        named.or(self.any).unwrap_or(Weight::NONE)
    }

    /// The best of `offered`: by the client's weight, and among equals the first offered.
    /// `None` for no coding at all, which is also what a client gets that refuses every
    /// coding and `identity` too.
    pub fn choose(&self, offered: impl IntoIterator<Item = Encoding>) -> Option<Encoding> {
        let mut best: Option<(Weight, Encoding)> = None;
        for encoding in offered {
            let weight = self.weight(encoding);
            if weight.is_wanted() && best.is_none_or(|(most, _)| weight > most) {
                best = Some((weight, encoding));
            }
        }
        let (weight, encoding) = best?;
        // `identity` competes only where the client gave it a weight by name.
        (self.identity <= Some(weight)).then_some(encoding)
    }
}

/// An encoder broke; what it put out so far cannot be completed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot code with {}: {why}", encoding.name())]
pub struct EncodeError {
    encoding: Encoding,
    why: String,
}

/// One body on its way through a coding.
///
/// A stream's memory is bounded, whatever the body's length. Measured for bodies of unknown
/// length: gzip 0.35 MiB at every level; br 1.1 MiB at level 4, 1.9 at 5, 2.9 at 6, but 9,
/// 17 and 33 at 7, 8 and 9; zstd 1.1 MiB at level 1, 1.8 at 3, 3.5 at 9, 4.8 at 19. A known
/// length of 2 KiB leaves zstd with 0.06 MiB.
pub struct Encoder(Coder);

enum Coder {
    Gzip(Box<Compress>),
    Br(Box<Brotli>),
    Zstd(CCtx<'static>),
}

/// The state of one brotli stream; its own allocator wants it taken down by hand.
struct Brotli(BrotliEncoderStateStruct<StandardAlloc>);

impl Drop for Brotli {
    fn drop(&mut self) {
        BrotliEncoderDestroyInstance(&mut self.0);
    }
}

/// How far a step goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// Everything that went in can be decoded from what came out.
    Flushed,
    /// The stream is complete.
    Ended,
}

/// Windows reach back 256 KiB at most: pages gain little beyond, and a window is what a
/// stream's memory, and its client's, mostly consists of.
const MAX_WINDOW_BITS: u32 = 18;

/// The smallest window that all codings here know.
const MIN_WINDOW_BITS: u32 = 10;

/// Smaller windows make this brotli encoder choose a hasher of 32 MiB from level 5 on.
const BROTLI_MIN_WINDOW_BITS: u32 = 17;

/// 32 KiB, all that deflate knows.
const GZIP_WINDOW_BITS: u8 = 15;

/// Room made in the output at a time, if a step finds too little.
const ROOM: usize = 4 * 1024;

/// The window for a body of this length: no larger than what it can fill.
fn window_bits(length: Option<u64>) -> u32 {
    length
        .and_then(|length| length.checked_next_power_of_two())
        .map_or(MAX_WINDOW_BITS, u64::trailing_zeros)
        .clamp(MIN_WINDOW_BITS, MAX_WINDOW_BITS)
}

/// The sizes (base-2 logarithm of the entries) of zstd's chain and hash tables: what the
/// level has by itself, and no larger than the window can use. Left alone, zstd sizes
/// them for bodies of any length: 11 MiB at level 9, 84 MiB at level 19.
fn zstd_tables(level: u8, window: u32) -> (u32, u32) {
    let (chain, hash) = match level {
        0 | 1 => (13, 14),
        2 => (15, 16),
        3 => (16, 17),
        4 => (18, 18),
        _ => (18, 19),
    };
    (chain.min(window), hash.min(window + 1))
}

impl Encoder {
    /// An encoder for a body of `length`, if that is known: short bodies need less memory.
    /// A level outside of [`Encoding::levels`] is taken for the nearest.
    pub fn new(encoding: Encoding, level: u8, length: Option<u64>) -> Result<Self, EncodeError> {
        let level = level.clamp(*encoding.levels().start(), *encoding.levels().end());
        let window = window_bits(length);
        Ok(Self(match encoding {
            Encoding::Gzip => Coder::Gzip(Box::new(Compress::new_gzip(
                Compression::new(u32::from(level)),
                GZIP_WINDOW_BITS,
            ))),
            Encoding::Br => {
                let mut state = BrotliEncoderStateStruct::new(StandardAlloc::default());
                for (parameter, value) in [
                    (
                        BrotliEncoderParameter::BROTLI_PARAM_QUALITY,
                        u32::from(level),
                    ),
                    (
                        BrotliEncoderParameter::BROTLI_PARAM_LGWIN,
                        window.max(BROTLI_MIN_WINDOW_BITS),
                    ),
                ] {
                    state.set_parameter(parameter, value);
                }
                Coder::Br(Box::new(Brotli(state)))
            }
            Encoding::Zstd => {
                let mut context = CCtx::try_create().ok_or_else(|| EncodeError {
                    encoding,
                    why: "no memory".into(),
                })?;
                let (chain, hash) = zstd_tables(level, window);
                for parameter in [
                    CParameter::CompressionLevel(i32::from(level)),
                    CParameter::WindowLog(window),
                    CParameter::ChainLog(chain),
                    CParameter::HashLog(hash),
                ] {
                    context.set_parameter(parameter).map_err(zstd_error)?;
                }
                Coder::Zstd(context)
            }
        }))
    }

    /// Codes `input` and flushes: all of it can be decoded from what was put out so far.
    pub fn push(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.step(input, Until::Flushed, out)
    }

    /// Codes the last `input`, which may be empty, and ends the stream.
    pub fn finish(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.step(input, Until::Ended, out)
    }

    fn step(&mut self, input: &[u8], until: Until, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        // Text shrinks to a third or less; the rest is for headers and tiny chunks.
        out.reserve(input.len() / 3 + 128);
        match &mut self.0 {
            Coder::Gzip(deflate) => gzip_step(deflate, input, until, out),
            Coder::Br(state) => brotli_step(&mut state.0, input, until, out),
            Coder::Zstd(context) => zstd_step(context, input, until, out),
        }
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encoding = match self.0 {
            Coder::Gzip(_) => Encoding::Gzip,
            Coder::Br(_) => Encoding::Br,
            Coder::Zstd(_) => Encoding::Zstd,
        };
        f.debug_tuple("Encoder").field(&encoding).finish()
    }
}

/// A whole body in a coding.
pub fn encode(encoding: Encoding, level: u8, bytes: &[u8]) -> Result<Vec<u8>, EncodeError> {
    let mut out = Vec::new();
    Encoder::new(encoding, level, Some(bytes.len() as u64))?.finish(bytes, &mut out)?;
    Ok(out)
}

fn gzip_step(
    deflate: &mut Compress,
    mut input: &[u8],
    until: Until,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let broken = |why: &str| EncodeError {
        encoding: Encoding::Gzip,
        why: why.into(),
    };
    let flush = match until {
        Until::Flushed => FlushCompress::Sync,
        Until::Ended => FlushCompress::Finish,
    };
    loop {
        let before = deflate.total_in();
        let status = deflate
            .compress_vec(input, out, flush)
            .map_err(|error| broken(&error.to_string()))?;
        let taken = usize::try_from(deflate.total_in() - before).unwrap_or(usize::MAX);
        input = input.get(taken..).unwrap_or_default();
        match status {
            Status::StreamEnd => return Ok(()),
            // zlib: a flush is complete when room is left in the output.
            Status::Ok | Status::BufError if out.len() < out.capacity() => {
                if until == Until::Flushed && input.is_empty() {
                    return Ok(());
                }
                if status == Status::BufError {
                    return Err(broken("no progress"));
                }
            }
            Status::Ok | Status::BufError => {}
        }
        out.reserve(ROOM);
    }
}

fn brotli_step(
    state: &mut BrotliEncoderStateStruct<StandardAlloc>,
    input: &[u8],
    until: Until,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let operation = match until {
        Until::Flushed => BrotliEncoderOperation::BROTLI_OPERATION_FLUSH,
        Until::Ended => BrotliEncoderOperation::BROTLI_OPERATION_FINISH,
    };
    let (mut left, mut offset) = (input.len(), 0);
    loop {
        // No output buffer is lent: the encoder's own is read through `take_output`.
        let is_sound = state.compress_stream(
            operation,
            &mut left,
            input,
            &mut offset,
            &mut 0,
            &mut [],
            &mut 0,
            &mut None,
            &mut |_, _, _, _| (),
        );
        if !is_sound {
            return Err(EncodeError {
                encoding: Encoding::Br,
                why: "the encoder refused its input".into(),
            });
        }
        if !state.has_more_output() && left == 0 {
            return Ok(());
        }
        // Output that waits holds the operation back, so it is called again after this.
        while state.has_more_output() {
            let mut size = 0;
            let output = state.take_output(&mut size);
            out.extend_from_slice(output.get(..size).unwrap_or_default());
        }
    }
}

fn zstd_step(
    context: &mut CCtx<'static>,
    input: &[u8],
    until: Until,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let directive = match until {
        Until::Flushed => Directive::ZSTD_e_flush,
        Until::Ended => Directive::ZSTD_e_end,
    };
    let mut source = InBuffer::around(input);
    loop {
        let start = out.len();
        let left = context
            .compress_stream2(
                &mut OutBuffer::around_pos(out, start),
                &mut source,
                directive,
            )
            .map_err(zstd_error)?;
        if left == 0 && source.pos() == input.len() {
            return Ok(());
        }
        out.reserve(left.max(ROOM));
    }
}

fn zstd_error(code: usize) -> EncodeError {
    EncodeError {
        encoding: Encoding::Zstd,
        why: zstd::zstd_safe::get_error_name(code).into(),
    }
}

#[cfg(test)]
pub(crate) mod testkit {
    //! The other direction, for tests.

    use std::io::Read;

    use super::Encoding;

    /// All that can be decoded from the beginning of a stream, complete or not.
    pub(crate) fn decoded(encoding: Encoding, mut coded: &[u8]) -> Vec<u8> {
        let mut reader: Box<dyn Read + '_> = match encoding {
            Encoding::Gzip => Box::new(flate2::bufread::GzDecoder::new(&mut coded)),
            Encoding::Br => Box::new(brotli::Decompressor::new(&mut coded, 4096)),
            Encoding::Zstd => {
                Box::new(zstd::stream::read::Decoder::with_buffer(&mut coded).unwrap())
            }
        };
        let (mut out, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(length @ 1..) = reader.read(&mut buffer) {
            out.extend_from_slice(&buffer[..length]);
        }
        out
    }

    /// Whether a stream is complete to its last byte.
    pub(crate) fn is_complete(encoding: Encoding, mut coded: &[u8]) -> bool {
        let mut sink = Vec::new();
        match encoding {
            Encoding::Gzip => flate2::bufread::GzDecoder::new(&mut coded).read_to_end(&mut sink),
            Encoding::Br => brotli::Decompressor::new(&mut coded, 4096).read_to_end(&mut sink),
            Encoding::Zstd => zstd::stream::read::Decoder::with_buffer(&mut coded)
                .unwrap()
                .read_to_end(&mut sink),
        }
        .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        testkit::{decoded, is_complete},
        *,
    };

    fn choice(lines: &[&str], offered: &[Encoding]) -> Option<Encoding> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(ACCEPT_ENCODING, HeaderValue::from_str(line).unwrap());
        }
        Accepted::of(&headers).choose(offered.iter().copied())
    }

    #[test]
    fn the_clients_weight_goes_first_and_our_order_second() {
        use Encoding::{Br, Gzip, Zstd};
        for (lines, expected) in [
            (&["gzip, deflate, br, zstd"][..], Some(Zstd)),
            (&["gzip, deflate, br"], Some(Br)),
            (&["gzip"], Some(Gzip)),
            (&["x-gzip"], Some(Gzip)),
            (&["GZip"], Some(Gzip)),
            (&["gzip;q=0.9, br;q=0.8, zstd;q=0.1"], Some(Gzip)),
            (&["gzip;q=1.0, br;q=1"], Some(Br)),
            (&["gzip;q=0.001"], Some(Gzip)),
            (&["gzip", "br"], Some(Br)),
            (&["br;q=0", "gzip"], Some(Gzip)),
            (&["gzip;q=0, gzip"], Some(Gzip)),
            (&["gzip;q=0"], None),
            (&["deflate"], None),
            (&[""], None),
            (&[], None),
            (&["*"], Some(Zstd)),
            (&["*, zstd;q=0"], Some(Br)),
            (&["gzip, *;q=0"], Some(Gzip)),
            (&["*;q=0"], None),
            (&["identity"], None),
            (&["identity;q=0"], None),
            (&["identity;q=0, gzip;q=0.1"], Some(Gzip)),
            (&["identity, gzip;q=0.5"], None),
            (&["identity;q=0.5, gzip;q=0.5"], Some(Gzip)),
            (&["identity;q=0.5, gzip"], Some(Gzip)),
            (&["gzip;q=high, br;q=0.2"], Some(Br)),
        ] {
            assert_eq!(choice(lines, &Encoding::ALL), expected, "{lines:?}");
        }
        assert_eq!(choice(&["gzip, br, zstd"], &[Gzip, Br]), Some(Gzip));
        assert_eq!(choice(&["zstd"], &[Gzip, Br]), None);
        assert_eq!(choice(&["zstd"], &[]), None);
    }

    #[test]
    fn a_whole_body_comes_back_at_every_level() {
        let body = "edgeway ".repeat(4000);
        for encoding in Encoding::ALL {
            for level in encoding.levels() {
                let coded = encode(encoding, level, body.as_bytes()).unwrap();
                assert!(coded.len() < body.len() / 20, "{encoding:?} {level}");
                assert_eq!(decoded(encoding, &coded), body.as_bytes());
                assert!(is_complete(encoding, &coded), "{encoding:?} {level}");
            }
        }
    }

    #[test]
    fn a_level_out_of_range_is_taken_for_the_nearest() {
        for encoding in Encoding::ALL {
            let nearest = encode(encoding, *encoding.levels().end(), b"body").unwrap();
            assert_eq!(encode(encoding, 255, b"body").unwrap(), nearest);
        }
    }

    #[test]
    fn an_empty_body_is_a_complete_stream() {
        for encoding in Encoding::ALL {
            let coded = encode(encoding, 5, b"").unwrap();
            assert!(!coded.is_empty());
            assert!(is_complete(encoding, &coded), "{encoding:?}");
        }
    }

    #[test]
    fn a_stream_that_was_not_ended_is_seen_to_be_cut() {
        for encoding in Encoding::ALL {
            let mut out = Vec::new();
            let mut encoder = Encoder::new(encoding, 5, None).unwrap();
            encoder.push(b"half of a page", &mut out).unwrap();
            assert_eq!(decoded(encoding, &out), b"half of a page");
            assert!(!is_complete(encoding, &out), "{encoding:?}");
        }
    }

    /// Text that does not shrink well, so that output has to wait for room.
    fn noise(length: usize) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(7);
        std::iter::repeat_with(|| random.alphanumeric() as u8)
            .take(length)
            .collect()
    }

    #[test]
    fn large_chunks_are_flushed_whole() {
        let chunk = noise(1 << 20);
        for encoding in Encoding::ALL {
            let mut out = Vec::new();
            let mut encoder = Encoder::new(encoding, 3, None).unwrap();
            for count in 1..=2 {
                encoder.push(&chunk, &mut out).unwrap();
                let seen = decoded(encoding, &out);
                assert_eq!(seen.len(), count * chunk.len(), "{encoding:?}");
            }
            encoder.finish(&[], &mut out).unwrap();
            assert!(is_complete(encoding, &out), "{encoding:?}");
        }
    }

    #[test]
    fn zstd_stays_small_at_every_level() {
        for level in Encoding::Zstd.levels() {
            let Coder::Zstd(mut context) = Encoder::new(Encoding::Zstd, level, None).unwrap().0
            else {
                panic!("not zstd");
            };
            zstd_step(
                &mut context,
                &noise(300_000),
                Until::Flushed,
                &mut Vec::new(),
            )
            .unwrap();
            assert!(context.sizeof() < 5 << 20, "{level}: {}", context.sizeof());
        }
    }

    #[test]
    fn windows_fit_the_body() {
        assert_eq!(window_bits(None), 18);
        assert_eq!(window_bits(Some(0)), 10);
        assert_eq!(window_bits(Some(4096)), 12);
        assert_eq!(window_bits(Some(4097)), 13);
        assert_eq!(window_bits(Some(u64::MAX)), 18);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn whatever_went_in_is_out_after_each_chunk(
            chunks in proptest::collection::vec(
                proptest::collection::vec(any::<u8>(), 1..3000), 1..6),
            encoding in proptest::sample::select(&Encoding::ALL[..]),
            level in 1u8..7,
            knows_length in any::<bool>(),
        ) {
            let whole = chunks.concat();
            let length = knows_length.then_some(whole.len() as u64);
            let mut encoder = Encoder::new(encoding, level, length).unwrap();
            let (mut out, mut sent) = (Vec::new(), 0);
            for chunk in &chunks {
                encoder.push(chunk, &mut out).unwrap();
                sent += chunk.len();
                prop_assert_eq!(&decoded(encoding, &out)[..], &whole[..sent]);
            }
            encoder.finish(&[], &mut out).unwrap();
            prop_assert!(is_complete(encoding, &out));
        }

        #[test]
        fn a_choice_is_one_that_was_offered_and_wanted(line in "[a-z*;=q0-9., -]{0,60}") {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_str(&line).unwrap());
            let accepted = Accepted::of(&headers);
            if let Some(encoding) = accepted.choose([Encoding::Br, Encoding::Gzip]) {
                prop_assert!(encoding != Encoding::Zstd);
                prop_assert!(accepted.weight(encoding).is_wanted());
            }
        }
    }
}
