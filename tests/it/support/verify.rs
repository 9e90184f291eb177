//! Verifies bodies as a strict client does: the content coding to its proper end without extra
//! bytes, and the digests in the headers (RFC 9530).

use std::io;

use base64::{Engine, engine::general_purpose::STANDARD};
use brotli::{BrotliDecompressStream, BrotliResult, BrotliState, HeapAlloc, HuffmanCode};
use flate2::{Decompress, FlushDecompress, Status};
use ring::digest::{Context, SHA256};
use zstd::stream::raw::{Decoder as Zstd, InBuffer, Operation, OutBuffer};

const BUFFER: usize = 64 * 1024;

/// Expectations for a body, and the progress of reading it.
pub(crate) struct Verifier {
    decoder: Option<Decoder>,
    sum: Context,
    /// Names and values of the digests of the body as sent.
    digests: Vec<(String, Vec<u8>)>,
}

/// Headers of a response, over any protocol.
pub(crate) type Headers<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Verifier {
    /// Creates a verifier for the body of a response that has one.
    pub(crate) fn of(status: u16, header: Headers<'_>) -> Self {
        let is_part = status == 206;
        let coding = header("content-encoding").filter(|_| !is_part);
        let named = ["content-digest", "repr-digest"];
        // For a partial response, the second digest is that of the complete content.
        let named = if is_part { &named[..1] } else { &named[..] };
        let digests = named.iter().filter_map(|name| {
            let value = header(name)?;
            let (_, rest) = value.split_once("sha-256=:")?;
            let (text, _) = rest.split_once(':')?;
            let digest = STANDARD.decode(text).expect("a digest is base64");
            Some(((*name).to_owned(), digest))
        });
        Self {
            decoder: coding.and_then(|coding| Decoder::of(&coding)),
            sum: Context::new(&SHA256),
            digests: digests.collect(),
        }
    }

    pub(crate) fn take(&mut self, piece: &[u8]) -> Result<(), String> {
        self.sum.update(piece);
        match &mut self.decoder {
            Some(decoder) => decoder.take(piece, &mut |_| ()),
            None => Ok(()),
        }
    }

    pub(crate) fn end(self) -> Result<(), String> {
        if let Some(decoder) = &self.decoder {
            decoder.end()?;
        }
        let sum = self.sum.finish();
        for (name, digest) in self.digests {
            if digest != sum.as_ref() {
                return Err(format!("{name} is that of another body"));
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

/// Decodes `bytes` with this content coding, as a strict client does.
pub(crate) fn decoded(coding: &str, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let Some(mut decoder) = Decoder::of(coding) else {
        return Ok(bytes.to_vec());
    };
    let mut all = Vec::new();
    decoder.take(bytes, &mut |piece| all.extend_from_slice(piece))?;
    decoder.end()?;
    Ok(all)
}

/// Returns the value of a digest header for these bytes.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let sum = ring::digest::digest(&SHA256, bytes);
    format!("sha-256=:{}:", STANDARD.encode(sum.as_ref()))
}

/// Decoder of one content coding, piece by piece.
struct Decoder {
    inner: Inner,
    has_ended: bool,
}

enum Inner {
    /// zlib itself, which checks the trailer of gzip and deflate.
    Zlib(Decompress),
    Brotli(Box<BrotliState<HeapAlloc<u8>, HeapAlloc<u32>, HeapAlloc<HuffmanCode>>>),
    Zstd(Zstd<'static>),
}

/// Progress of one step.
struct Step {
    read: usize,
    written: usize,
    has_ended: bool,
}

impl Decoder {
    /// Returns the decoder, `None` if the coding is identity or unknown here.
    fn of(coding: &str) -> Option<Self> {
        let inner = match coding.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Inner::Zlib(Decompress::new_gzip(15)),
            "deflate" => Inner::Zlib(Decompress::new(true)),
            "br" => Inner::Brotli(Box::new(BrotliState::new(
                HeapAlloc::new(0),
                HeapAlloc::new(0),
                HeapAlloc::new(HuffmanCode::default()),
            ))),
            "zstd" => Inner::Zstd(Zstd::new().expect("there is memory")),
            _ => return None,
        };
        Some(Self {
            inner,
            has_ended: false,
        })
    }

    fn take(&mut self, mut piece: &[u8], sink: &mut dyn FnMut(&[u8])) -> Result<(), String> {
        let mut out = vec![0; BUFFER];
        loop {
            if self.has_ended {
                return if piece.is_empty() {
                    Ok(())
                } else {
                    Err(format!(
                        "{} bytes follow the end of the coding",
                        piece.len()
                    ))
                };
            }
            let step = self.inner.step(piece, &mut out)?;
            sink(&out[..step.written]);
            piece = &piece[step.read..];
            self.has_ended = step.has_ended;
            if !step.has_ended && piece.is_empty() && step.written < out.len() {
                return Ok(());
            }
            if !step.has_ended && step.read == 0 && step.written == 0 {
                return Err("the coding does not go on".to_owned());
            }
        }
    }

    fn end(&self) -> Result<(), String> {
        if self.has_ended {
            Ok(())
        } else {
            Err("the body ended before its coding did".to_owned())
        }
    }
}

impl Inner {
    fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<Step, String> {
        match self {
            Self::Zlib(zlib) => {
                let before = (zlib.total_in(), zlib.total_out());
                let status = zlib.decompress(input, out, FlushDecompress::None);
                let status = status.map_err(|error| format!("not deflated: {error}"))?;
                Ok(Step {
                    read: usize::try_from(zlib.total_in() - before.0).unwrap(),
                    written: usize::try_from(zlib.total_out() - before.1).unwrap(),
                    has_ended: status == Status::StreamEnd,
                })
            }
            Self::Brotli(state) => {
                let (mut left, mut read) = (input.len(), 0);
                let (mut room, mut written, mut total) = (out.len(), 0, 0);
                let result = BrotliDecompressStream(
                    &mut left,
                    &mut read,
                    input,
                    &mut room,
                    &mut written,
                    out,
                    &mut total,
                    state,
                );
                if let BrotliResult::ResultFailure = result {
                    return Err("not Brotli".to_owned());
                }
                Ok(Step {
                    read,
                    written,
                    has_ended: matches!(result, BrotliResult::ResultSuccess),
                })
            }
            Self::Zstd(zstd) => {
                let mut from = InBuffer::around(input);
                let mut to = OutBuffer::around(out);
                let hint = zstd.run(&mut from, &mut to);
                let hint = hint.map_err(|error: io::Error| format!("not zstd: {error}"))?;
                Ok(Step {
                    read: from.pos(),
                    written: to.pos(),
                    // RFC 8878, 3: several frames may follow one another; senders use one.
                    has_ended: hint == 0,
                })
            }
        }
    }
}
