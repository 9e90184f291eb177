//! Body of a request or response, taken out of its framing (RFC 9112, 6 and 7).

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use httparse::Status;
use pingora::{Error, ErrorType, Result};

use super::response::{Framing, invalid};

/// Longest wish for a read.
const MAX_ROOM: usize = 64 * 1024;
/// Limit on the length of a line with a chunk's size, and of a line of the trailer section.
const MAX_LINE: usize = 16 * 1024;

/// Body that is being received.
#[derive(Debug)]
pub(crate) struct MessageBody {
    state: State,
    /// Trailers so far; `None` if nobody wants them.
    trailers: Option<HeaderMap>,
    /// Bytes that the lines of further trailers may have.
    trailers_left: usize,
}

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

impl Piece {
    /// End of a body without bytes.
    pub(crate) const END: Self = Self {
        bytes: None,
        is_last: true,
    };
}

impl MessageBody {
    pub(crate) fn new(framing: Framing) -> Self {
        Self {
            state: match framing {
                Framing::None | Framing::Length(0) => State::Complete,
                Framing::Length(length) => State::Length(length),
                Framing::Chunked => State::ChunkSize,
                Framing::UntilClose => State::UntilClose,
            },
            trailers: None,
            trailers_left: MAX_LINE,
        }
    }

    /// Keeps the trailers, for [`Self::take_trailers`].
    pub(crate) fn with_trailers(mut self) -> Self {
        self.trailers = Some(HeaderMap::new());
        self
    }

    /// Takes the trailers of a body that has ended; `None` if it has none.
    pub(crate) fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take().filter(|trailers| !trailers.is_empty())
    }

    /// Keeps a trailer, unless it is about the framing or is no field. Others are optional to forward
    /// (RFC 9110, 6.5.1).
    fn add_trailer(&mut self, line: &[u8]) {
        let Some(trailers) = &mut self.trailers else {
            return;
        };
        let Some(left) = self.trailers_left.checked_sub(line.len()) else {
            return;
        };
        self.trailers_left = left;
        let Some(colon) = memchr::memchr(b':', line) else {
            return;
        };
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(&line[..colon]), value)
            && name != header::CONTENT_LENGTH
        {
            trailers.append(name, value);
        }
    }

    /// Returns the number of bytes that are left, if that is known and no more than one read takes.
    pub(crate) fn short_length(&self) -> Option<usize> {
        match self.state {
            State::Length(left) => usize::try_from(left).ok().filter(|left| *left <= MAX_ROOM),
            _ => None,
        }
    }

    /// Returns how many bytes the next read should have room for.
    pub(crate) fn room(&self) -> usize {
        match self.state {
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
        let left = match self.state {
            State::Complete => return Ok(Some(Piece::END)),
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
        self.state = match (self.state, left) {
            (State::Length(_), 0) => State::Complete,
            (State::Length(_), left) => State::Length(left),
            (State::Chunk(_), 0) => State::ChunkEnd,
            (State::Chunk(_), left) => State::Chunk(left),
            (state, _) => state,
        };
        // The end may be there already: then this piece is the last.
        self.skip_framing(input)?;
        let is_last = self.state == State::Complete;
        Ok(Some(Piece { bytes, is_last }))
    }

    /// Records that all of the body came without framing of its own.
    pub(crate) fn complete(&mut self) {
        self.state = State::Complete;
    }

    /// Returns true if all of the body was taken.
    pub(crate) fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    /// Returns the last piece after the sender has closed the connection.
    pub(crate) fn close(&mut self) -> Result<Piece> {
        if self.state != State::UntilClose {
            let why = "the connection was closed before the end of the body";
            return Err(Error::explain(ErrorType::ConnectionClosed, why).into_up());
        }
        self.state = State::Complete;
        Ok(Piece::END)
    }

    /// Skips the bytes of `input` that are not content.
    fn skip_framing(&mut self, input: &mut BytesMut) -> Result<()> {
        loop {
            self.state = match self.state {
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
                        let line = input.split_to(end + 1);
                        if matches!(line[..end], [] | [b'\r']) {
                            State::Complete
                        } else {
                            self.add_trailer(&line);
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
