//! Encoders: each encodes one body, flushes at each chunk, and uses bounded memory.

use brotli::enc::{
    StandardAlloc,
    encode::{
        BrotliEncoderDestroyInstance, BrotliEncoderOperation, BrotliEncoderParameter,
        BrotliEncoderStateStruct,
    },
};
use flate2::{Compress, FlushCompress, Status};
use zstd::zstd_safe::{
    CCtx, CParameter, InBuffer, OutBuffer, zstd_sys::ZSTD_EndDirective as Directive,
};

use super::{Encoding, pool};

/// Encoder failure; the output so far cannot be completed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot encode with {}: {why}", encoding.name())]
pub struct EncodeError {
    encoding: Encoding,
    why: String,
}

/// An encoder for one body.
///
/// Its memory is bounded, whatever the body's length. Measured for bodies of unknown length: gzip
/// 0.35 MiB at every level; br 1.1 MiB at level 4, 1.9 at 5, 2.9 at 6, but 9, 17 and 33 at 7, 8 and
/// 9; zstd 1.1 MiB at level 1, 1.8 at 3, 3.5 at 9, 4.8 at 19. With a known length of 2 KiB, zstd
/// needs 0.06 MiB.
///
/// A gzip body that comes in one piece is compressed by libdeflate, which knows no streams, and is
/// faster and no larger at the same level: `tests::a_whole_body_is_no_larger_than_a_stream`.
#[derive(derive_more::Debug)]
#[debug("Encoder({:?})", self.encoding())]
pub struct Encoder(CodecState);

enum CodecState {
    /// Before the first piece, which may be the whole body.
    GzipUnbegun {
        level: u8,
    },
    Gzip {
        level: u8,
        state: Compress,
    },
    Br(Box<Brotli>),
    Zstd(CCtx<'static>),
    /// After the end of the body.
    Over(Encoding),
}

/// The state of one brotli stream; its custom allocator requires an explicit destroy call.
struct Brotli(BrotliEncoderStateStruct<StandardAlloc>);

impl Drop for Brotli {
    fn drop(&mut self) {
        BrotliEncoderDestroyInstance(&mut self.0);
    }
}

/// Goal of one encoding step.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FlushGoal {
    /// All input so far can be decoded from the output.
    Flushed,
    /// The stream is complete.
    Ended,
}

/// Largest window: 256 KiB. Pages gain little from more, and the window makes up most of the memory
/// that a stream costs us and its client.
const MAX_WINDOW_BITS: u32 = 18;

/// Smallest window that all codings here support.
const MIN_WINDOW_BITS: u32 = 10;

/// Smallest window for brotli. With a smaller one this encoder picks a hasher of 32 MiB from level
/// 5 on.
const BROTLI_MIN_WINDOW_BITS: u32 = 17;

/// Space added to the output at a time when a step runs out of it.
const OUTPUT_STEP: usize = 4 * 1024;

/// Returns the window for a body of this length: no larger than the body can fill.
fn window_bits(length: Option<u64>) -> u32 {
    length
        .and_then(u64::checked_next_power_of_two)
        .map_or(MAX_WINDOW_BITS, u64::trailing_zeros)
        .clamp(MIN_WINDOW_BITS, MAX_WINDOW_BITS)
}

/// Returns the sizes (base-2 logarithm of the entries) of zstd's chain and hash tables: the level's
/// own, but no larger than the window can use. By default, zstd sizes them for bodies of any
/// length: 11 MiB at level 9, 84 MiB at level 19.
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
    /// Creates an encoder for a body of `length`, if that is known: short bodies need less memory.
    /// A level outside of [`Encoding::levels`] is clamped to the nearest.
    pub fn new(encoding: Encoding, level: u8, length: Option<u64>) -> Result<Self, EncodeError> {
        let level = level.clamp(*encoding.levels().start(), *encoding.levels().end());
        let window = window_bits(length);
        Ok(Self(match encoding {
            Encoding::Gzip => CodecState::GzipUnbegun { level },
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
                CodecState::Br(Box::new(Brotli(state)))
            }
            Encoding::Zstd => {
                let mut context = pool::zstd().ok_or_else(|| EncodeError {
                    encoding,
                    why: "out of memory".into(),
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
                CodecState::Zstd(context)
            }
        }))
    }

    /// Encodes `input` and flushes: all of it can be decoded from the output so far.
    pub fn push(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.step(input, FlushGoal::Flushed, out)
    }

    /// Encodes the last `input`, which may be empty, and ends the stream.
    pub fn finish(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.step(input, FlushGoal::Ended, out)
    }

    fn step(
        &mut self,
        input: &[u8],
        until: FlushGoal,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        if let CodecState::GzipUnbegun { level } = self.0 {
            if until == FlushGoal::Ended && pool::gzip_whole(level, input, out).is_some() {
                self.0 = CodecState::Over(Encoding::Gzip);
                return Ok(());
            }
            let state = pool::gzip(level);
            self.0 = CodecState::Gzip { level, state };
        }
        // Text shrinks to a third or less; the rest is for the format's header and tiny chunks.
        out.reserve(input.len() / 3 + 128);
        match &mut self.0 {
            CodecState::Gzip { state, .. } => gzip_step(state, input, until, out),
            CodecState::Br(state) => brotli_step(&mut state.0, input, until, out),
            CodecState::Zstd(context) => zstd_step(context, input, until, out),
            CodecState::GzipUnbegun { .. } | CodecState::Over(_) => Err(EncodeError {
                encoding: self.encoding(),
                why: "the body has ended".into(),
            }),
        }
    }

    fn encoding(&self) -> Encoding {
        match self.0 {
            CodecState::GzipUnbegun { .. } | CodecState::Gzip { .. } => Encoding::Gzip,
            CodecState::Br(_) => Encoding::Br,
            CodecState::Zstd(_) => Encoding::Zstd,
            CodecState::Over(encoding) => encoding,
        }
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        let over = CodecState::Over(self.encoding());
        match std::mem::replace(&mut self.0, over) {
            CodecState::Gzip { level, state } => pool::keep_gzip(level, state),
            CodecState::Zstd(context) => pool::keep_zstd(context),
            CodecState::GzipUnbegun { .. } | CodecState::Br(_) | CodecState::Over(_) => {}
        }
    }
}

/// Encodes a whole body.
pub fn encode(encoding: Encoding, level: u8, bytes: &[u8]) -> Result<Vec<u8>, EncodeError> {
    let mut out = Vec::new();
    Encoder::new(encoding, level, Some(bytes.len() as u64))?.finish(bytes, &mut out)?;
    Ok(out)
}

fn gzip_step(
    deflate: &mut Compress,
    mut input: &[u8],
    until: FlushGoal,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let broken = |why: &str| EncodeError {
        encoding: Encoding::Gzip,
        why: why.into(),
    };
    let flush = match until {
        FlushGoal::Flushed => FlushCompress::Sync,
        FlushGoal::Ended => FlushCompress::Finish,
    };
    loop {
        let before = deflate.total_in();
        let status = deflate
            .compress_vec(input, out, flush)
            .map_err(|error| broken(&error.to_string()))?;
        let consumed = usize::try_from(deflate.total_in() - before).unwrap_or(usize::MAX);
        input = input.get(consumed..).unwrap_or_default();
        match status {
            Status::StreamEnd => return Ok(()),
            // zlib: a flush is complete when the output has space left.
            Status::Ok | Status::BufError if out.len() < out.capacity() => {
                if until == FlushGoal::Flushed && input.is_empty() {
                    return Ok(());
                }
                if status == Status::BufError {
                    return Err(broken("no progress"));
                }
            }
            Status::Ok | Status::BufError => {}
        }
        out.reserve(OUTPUT_STEP);
    }
}

fn brotli_step(
    state: &mut BrotliEncoderStateStruct<StandardAlloc>,
    input: &[u8],
    until: FlushGoal,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let operation = match until {
        FlushGoal::Flushed => BrotliEncoderOperation::BROTLI_OPERATION_FLUSH,
        FlushGoal::Ended => BrotliEncoderOperation::BROTLI_OPERATION_FINISH,
    };
    let (mut left, mut offset) = (input.len(), 0);
    loop {
        // The encoder gets no output buffer: its own is read through `take_output`.
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
                why: "the encoder rejected its input".into(),
            });
        }
        if !state.has_more_output() && left == 0 {
            return Ok(());
        }
        // The operation stays incomplete while output is pending, so it is called again after this.
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
    until: FlushGoal,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let directive = match until {
        FlushGoal::Flushed => Directive::ZSTD_e_flush,
        FlushGoal::Ended => Directive::ZSTD_e_end,
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
        out.reserve(left.max(OUTPUT_STEP));
    }
}

fn zstd_error(code: usize) -> EncodeError {
    EncodeError {
        encoding: Encoding::Zstd,
        why: zstd::zstd_safe::get_error_name(code).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testkit::noise, *};

    impl Encoder {
        /// Takes `input` of a stream in, without a flush after it.
        pub(in crate::encoding) fn push_quietly(&mut self, input: &[u8], out: &mut Vec<u8>) {
            let CodecState::GzipUnbegun { level } = self.0 else {
                return;
            };
            let mut state = pool::gzip(level);
            out.reserve(OUTPUT_STEP);
            let taken = state.compress_vec(input, out, FlushCompress::None);
            taken.expect("there is room");
            self.0 = CodecState::Gzip { level, state };
        }
    }

    #[test]
    fn zstd_stays_small_at_every_level() {
        for level in Encoding::Zstd.levels() {
            let mut encoder = Encoder::new(Encoding::Zstd, level, None).unwrap();
            encoder.push(&noise(300_000), &mut Vec::new()).unwrap();
            let CodecState::Zstd(context) = &encoder.0 else {
                panic!("not zstd");
            };
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
}
