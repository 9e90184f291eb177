//! Finds the end of a chunked body (RFC 9112, 7.1) from its bytes as they pass.
//!
//! Parsers differ in what they accept: an empty size as zero, a line feed in an extension as an
//! ordinary byte. A proxy in front may end such a body elsewhere than the session, which takes out
//! the content after this module, so here they end the request.

use smart_default::SmartDefault;

use super::head::is_name_byte;

/// Length limit of a line with a size: no recipient uses extensions, and they cost the same as
/// data.
pub(super) const MAX_SIZE_LINE: u32 = 1024;
/// Length limit of the trailer section, all of its lines together.
pub(super) const MAX_TRAILERS_LEN: u32 = 16 * 1024;
/// Limit on digits of a size: one more could overflow a signed 64-bit number.
pub(super) const MAX_DIGITS: u8 = 15;

/// Parser state of one chunked body.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Chunks {
    state: State,
    /// Length so far of the line with a size, or of the trailer section.
    length: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, SmartDefault)]
enum State {
    /// In the size, after this many digits.
    #[default]
    Size {
        digits: u8,
        size: u64,
    },
    /// After the semicolon.
    Extension(u64),
    /// Before the LF after a size.
    SizeEnd(u64),
    /// In the data, with this many bytes left.
    Data(u64),
    DataCr,
    DataLf,
    /// At the start of a trailer line, or of the empty line that ends the body.
    Line,
    Name,
    Value,
    LineEnd,
    LastLf,
    Whole,
    Broken,
}

impl Chunks {
    /// Returns how many of the next `bytes` belong to the body and are valid.
    pub(super) fn take(&mut self, bytes: &[u8]) -> usize {
        let mut index = 0;
        while let Some(&byte) = bytes.get(index) {
            if let State::Data(left) = self.state {
                let here = usize::try_from(left)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len() - index);
                index += here;
                self.state = match left - here as u64 {
                    0 => State::DataCr,
                    left => State::Data(left),
                };
                continue;
            }
            if matches!(self.state, State::Whole | State::Broken) {
                return index;
            }
            self.state = self.after(byte);
            if self.state == State::Broken {
                return index;
            }
            index += 1;
        }
        index
    }

    /// Returns true if the body has ended.
    pub(super) fn are_complete(&self) -> bool {
        self.state == State::Whole
    }

    /// Returns true if the bytes are not a valid chunk.
    pub(super) fn are_broken(&self) -> bool {
        self.state == State::Broken
    }

    fn after(&mut self, byte: u8) -> State {
        self.length += 1;
        let longest = match self.state {
            State::Size { .. } | State::Extension(_) | State::SizeEnd(_) => MAX_SIZE_LINE,
            _ => MAX_TRAILERS_LEN,
        };
        if self.length > longest {
            return State::Broken;
        }
        let is_text = byte == b'\t' || (byte >= b' ' && byte != 0x7f);
        match (self.state, byte) {
            (State::Size { digits, size }, _)
                if let Some(digit) = char::from(byte).to_digit(16) =>
            {
                if digits == MAX_DIGITS {
                    return State::Broken;
                }
                State::Size {
                    digits: digits + 1,
                    size: size << 4 | u64::from(digit),
                }
            }
            (State::Size { digits: 1.., size } | State::Extension(size), b'\r') => {
                State::SizeEnd(size)
            }
            (State::Size { digits: 1.., size }, b';') => State::Extension(size),
            (State::Extension(_), _) if is_text => self.state,
            (State::SizeEnd(size), b'\n') => {
                self.length = 0;
                match size {
                    0 => State::Line,
                    size => State::Data(size),
                }
            }
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => {
                self.length = 0;
                State::default()
            }
            (State::Line, b'\r') => State::LastLf,
            (State::Line | State::Name, _) if is_name_byte(byte) => State::Name,
            (State::Name, b':') => State::Value,
            (State::Value, b'\r') => State::LineEnd,
            (State::Value, _) if is_text => State::Value,
            (State::LineEnd, b'\n') => State::Line,
            (State::LastLf, b'\n') => State::Whole,
            _ => State::Broken,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::edge::testkit::{chunks as check, end_of};

    #[track_caller]
    fn ends(body: &str, at: Option<usize>) {
        let mut chunks = Chunks::default();
        let taken = chunks.take(body.as_bytes());
        assert_eq!(chunks.are_complete().then_some(taken), at, "{body:?}");
        for split in 0..=body.len() {
            let prefix = u8::try_from(split).unwrap();
            check(&[&[prefix], body.as_bytes()].concat());
        }
    }

    #[test]
    fn a_body_ends_after_its_last_chunk() {
        ends("0\r\n\r\n", Some(5));
        ends("5\r\nhello\r\n0\r\n\r\nGET /", Some(15));
        ends("00a;x=\"y z\";w\r\n0123456789\r\n0;last\r\n\r\n", Some(37));
        ends("0\r\nX-Sum: 1\r\nEmpty:\r\n\r\n", Some(23));
        ends("5\r\nhel", None);
        ends("0\r\n", None);
    }

    #[test]
    fn an_ambiguous_chunk_is_refused() {
        for body in [
            "\r\n\r\n",
            ";x\r\n\r\n",
            " 0\r\n\r\n",
            "0 \r\n\r\n",
            "0\n\r\n",
            "0\r\n\n",
            "0\r\r\n\r\n",
            "0x0\r\n\r\n",
            "-0\r\n\r\n",
            "+0\r\n\r\n",
            "0_0\r\n\r\n",
            "0;a\nb\r\n\r\n",
            "0;a\0\r\n\r\n",
            "1\r\nab\r\n0\r\n\r\n",
            "1\r\na\n0\r\n\r\n",
            "1\r\na0\r\n\r\n",
            "0000000000000000\r\n\r\n",
            "ffffffffffffffff\r\n",
            "0\r\n X: y\r\n\r\n",
            "0\r\nX : y\r\n\r\n",
            "0\r\nX\r\n\r\n",
            "0\r\n: y\r\n\r\n",
            "0\r\nX: y\n\r\n",
            "0\r\nX: \0\r\n\r\n",
        ] {
            let mut chunks = Chunks::default();
            chunks.take(body.as_bytes());
            assert!(chunks.are_broken(), "{body:?}");
            ends(body, None);
        }
    }

    #[test]
    fn long_lines_end_it() {
        for body in [
            format!("0;{}\r\n\r\n", "x".repeat(MAX_SIZE_LINE as usize)),
            format!("0\r\nX: {}\r\n\r\n", "x".repeat(MAX_TRAILERS_LEN as usize)),
        ] {
            let mut chunks = Chunks::default();
            chunks.take(body.as_bytes());
            assert!(chunks.are_broken());
        }
    }

    proptest! {
        #[test]
        fn a_body_ends_where_a_simple_parser_finds_its_end(
            bytes in proptest::collection::vec(
                prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b'3'), Just(b';'),
                    Just(b':'), Just(b'a'), any::<u8>()],
                0..40,
            ),
        ) {
            check(&bytes);
        }

        #[test]
        fn sound_bodies_end_at_their_end(
            pieces in proptest::collection::vec("[a-z\r\n]{1,20}", 0..6),
            split in any::<u8>(),
        ) {
            let mut body: Vec<u8> = vec![split];
            for piece in &pieces {
                body.extend_from_slice(format!("{:x};e=1\r\n{piece}\r\n", piece.len()).as_bytes());
            }
            body.extend_from_slice(b"0\r\nA: b\r\n\r\n");
            check(&body);
            prop_assert_eq!(end_of(&body[1..]), Some(body.len() - 1));
        }
    }
}
