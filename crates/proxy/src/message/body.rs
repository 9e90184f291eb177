//! Body of a request or response, taken out of its framing (RFC 9112, 6 and 7).

use bytes::{Buf as _, Bytes, BytesMut};
use httparse::Status;
use pingora::{Error, ErrorType, Result};

use super::response::{Framing, invalid};

/// Longest wish for a read.
const MAX_ROOM: usize = 64 * 1024;
/// Limit on the length of a line with a chunk's size, and of a line of the trailer section.
const MAX_LINE: usize = 16 * 1024;

/// Body that is being received.
#[derive(Debug)]
pub(crate) struct MessageBody(State);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A known number of bytes is left.
    Length(u64),
    /// Before the line with the size of a chunk.
    ChunkSize,
    /// Inside a chunk, with this many bytes left.
    Chunk(u64),
    /// Before the line end after a chunk's data.
    ChunkEnd,
    Trailers,
    UntilClose,
    Complete,
}

/// Piece of a body.
#[derive(Debug)]
pub(crate) struct Piece {
    pub bytes: Option<Bytes>,
    pub is_last: bool,
}

impl MessageBody {
    pub(crate) fn new(framing: Framing) -> Self {
        Self(match framing {
            Framing::None | Framing::Length(0) => State::Complete,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::ChunkSize,
            Framing::UntilClose => State::UntilClose,
        })
    }

    /// Returns the number of bytes that are left, if that is known and no more than one read takes.
    pub(crate) fn short_length(&self) -> Option<usize> {
        match self.0 {
            State::Length(left) => usize::try_from(left).ok().filter(|left| *left <= MAX_ROOM),
            _ => None,
        }
    }

    /// Returns how many bytes the next read should have room for.
    pub(crate) fn room(&self) -> usize {
        match self.0 {
            State::Length(left) | State::Chunk(left) => {
                usize::try_from(left).unwrap_or(MAX_ROOM).min(MAX_ROOM)
            }
            State::UntilClose => MAX_ROOM,
            _ => MAX_LINE,
        }
    }

    /// Takes the next piece out of `input`; `None` if more must be read.
    pub(crate) fn take(&mut self, input: &mut BytesMut) -> Result<Option<Piece>> {
        self.skip_framing(input)?;
        let left = match self.0 {
            State::Complete => {
                return Ok(Some(Piece {
                    bytes: None,
                    is_last: true,
                }));
            }
            State::Length(left) | State::Chunk(left) => left,
            State::UntilClose => u64::MAX,
            State::ChunkSize | State::ChunkEnd | State::Trailers => return Ok(None),
        };
        if input.is_empty() {
            return Ok(None);
        }
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
        let bytes = Some(input.split_to(count).freeze());
        let left = left - count as u64;
        self.0 = match (self.0, left) {
            (State::Length(_), 0) => State::Complete,
            (State::Length(_), left) => State::Length(left),
            (State::Chunk(_), 0) => State::ChunkEnd,
            (State::Chunk(_), left) => State::Chunk(left),
            (state, _) => state,
        };
        // The end may be there already: then this piece is the last.
        self.skip_framing(input)?;
        let is_last = self.0 == State::Complete;
        Ok(Some(Piece { bytes, is_last }))
    }

    /// Records that all of the body came without framing of its own.
    pub(crate) fn complete(&mut self) {
        self.0 = State::Complete;
    }

    /// Returns true if all of the body was taken.
    pub(crate) fn is_complete(&self) -> bool {
        self.0 == State::Complete
    }

    /// Returns the last piece after the sender has closed the connection.
    pub(crate) fn close(&mut self) -> Result<Piece> {
        if self.0 != State::UntilClose {
            let why = "the connection was closed before the end of the body";
            return Err(Error::explain(ErrorType::ConnectionClosed, why).into_up());
        }
        self.0 = State::Complete;
        Ok(Piece {
            bytes: None,
            is_last: true,
        })
    }

    /// Skips the bytes of `input` that are not content.
    fn skip_framing(&mut self, input: &mut BytesMut) -> Result<()> {
        loop {
            self.0 = match self.0 {
                // The parser takes a line without digits for a zero, and so for the end.
                State::ChunkSize if input.first().is_some_and(|byte| !byte.is_ascii_hexdigit()) => {
                    return Err(invalid("invalid chunk size"));
                }
                State::ChunkSize => {
                    // A size may have any number of leading zeros (RFC 9112, 7.1), and the parser
                    // takes 16 digits.
                    let zeros = input.iter().take_while(|byte| **byte == b'0').count();
                    let spare = zeros.saturating_sub(1);
                    match httparse::parse_chunk_size(&input[spare..]) {
                        Ok(Status::Complete((length, size))) => {
                            input.advance(spare + length);
                            match size {
                                0 => State::Trailers,
                                size => State::Chunk(size),
                            }
                        }
                        Ok(Status::Partial) if input.len() <= MAX_LINE => return Ok(()),
                        Ok(Status::Partial) | Err(_) => return Err(invalid("invalid chunk size")),
                    }
                }
                State::ChunkEnd => match input.get(..2) {
                    Some(b"\r\n") => {
                        input.advance(2);
                        State::ChunkSize
                    }
                    Some(_) => return Err(invalid("no line end after a chunk")),
                    None => return Ok(()),
                },
                State::Trailers => match memchr::memchr(b'\n', input) {
                    Some(end) => {
                        // Trailers are optional to forward (RFC 9110, 6.5.1).
                        let is_empty = matches!(input[..end], [] | [b'\r']);
                        input.advance(end + 1);
                        if is_empty {
                            State::Complete
                        } else {
                            State::Trailers
                        }
                    }
                    None if input.len() <= MAX_LINE => return Ok(()),
                    None => return Err(invalid("a trailer is too long")),
                },
                State::Length(_) | State::Chunk(_) | State::UntilClose | State::Complete => {
                    return Ok(());
                }
            };
        }
    }
}
