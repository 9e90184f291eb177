//! Strict scanner for each raw HTTP/1 head before it is parsed (RFC 9112).
//!
//! Many parsers accept bare line feeds, two equal lengths, and transfer codings before `chunked`.
//! Another program may parse those differently, and then the two disagree about where a request
//! ends. Such a head is refused here, so every forwarded head is unambiguous.
//!
//! The scan reads each byte once, in pieces of any size, and reports an exceeded limit or an error
//! as soon as it is visible, not at the end of the head.

mod byte_search;
mod field;
mod line;
mod problem;
#[cfg(test)]
mod tests;

use std::ops::Range;

use edgeway_base::units::ByteSize;
use edgeway_config::model::UnderscoresConfig;
use edgeway_gateway::Listener;

use self::{
    byte_search::{BLOCK, unprinted},
    field::Fields,
    line::RequestLine,
    problem::HeadError,
};
pub(super) use self::{
    field::is_name_byte,
    problem::{timeout, unreadable},
};
use crate::connection::refusal::Refusal;

/// Longest head, regardless of the configuration.
const MAX_HEAD_LEN: usize = 1_000_000;
/// Number of headers that the parser has room for, with those that the gateway adds.
const MAX_HEADERS: usize = 200;

/// Limits on the size and content of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeadLimits {
    request_line: usize,
    headers: usize,
    header_count: usize,
    underscores: UnderscoresConfig,
}

impl HeadLimits {
    pub(super) fn new(
        request_line: usize,
        headers: usize,
        header_count: usize,
        underscores: UnderscoresConfig,
    ) -> Self {
        Self {
            request_line,
            headers: headers.min(MAX_HEAD_LEN),
            header_count: header_count.min(MAX_HEADERS),
            underscores,
        }
    }
}

impl From<&Listener> for HeadLimits {
    fn from(listener: &Listener) -> Self {
        let limits = &listener.limits;
        let bytes = |size: ByteSize| usize::try_from(size.0).unwrap_or(usize::MAX);
        Self::new(
            bytes(limits.request_line()),
            bytes(limits.headers()),
            limits.header_count as usize,
            listener.underscores,
        )
    }
}

/// Request head that is unambiguous.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Length including the empty line.
    pub(super) length: usize,
    pub(super) body: BodyFraming,
    /// Lines to remove before the head is parsed, in their order; usually none.
    pub(super) dropped: Vec<Range<usize>>,
}

/// Framing of the body after a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyFraming {
    None,
    Length(u64),
    Chunked,
}

/// Result of scanning the bytes so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ScanResult {
    Partial,
    Head(Head),
    Refused(Refusal),
}

/// Scans the bytes of one head as they arrive.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    /// Start of the current line.
    line: usize,
    /// End of the bytes that were scanned and are valid.
    seen: usize,
    request: Option<RequestLine>,
    fields: Fields,
    /// Last valid `Host`: the requests of a connection usually name the same one.
    known_host: Vec<u8>,
}

const CR: u8 = b'\r';

impl Scanner {
    /// Prepares for the next head.
    pub(super) fn restart(&mut self) {
        self.line = 0;
        self.seen = 0;
        self.request = None;
        self.fields = Fields::default();
    }

    /// Scans `input`, which begins with the head and holds the bytes received so far.
    pub(super) fn scan(&mut self, input: &[u8], limits: &HeadLimits) -> ScanResult {
        match self.lines(input, limits) {
            Ok(Some(head)) => ScanResult::Head(head),
            Ok(None) => ScanResult::Partial,
            Err(problem) => ScanResult::Refused(problem.refused(input)),
        }
    }

    /// Continues at `seen`, line by line, to the end of the head or of the input.
    fn lines(&mut self, input: &[u8], limits: &HeadLimits) -> Result<Option<Head>, HeadError> {
        let mut index = self.seen;
        while index < input.len() {
            let (mut left, mut next) = special(input, index);
            while left != 0 {
                let mark = index + left.trailing_zeros() as usize;
                left &= left - 1;
                if !input[mark..].starts_with(b"\r\n") {
                    match input[mark..] {
                        [b'\t' | 0x80.., ..] => continue,
                        [CR] => {
                            next = mark;
                            break;
                        }
                        _ => return Err(self.stray(input, input[mark])),
                    }
                }
                // Its LF is the next mark, in this block or at the beginning of the next.
                left &= left.wrapping_sub(1);
                let line = self.line..mark;
                self.line = mark + 2;
                if self.request.is_none() {
                    self.request = Some(RequestLine::read(&input[line], limits.request_line)?);
                } else if line.is_empty() {
                    return self.end(input, limits).map(Some);
                } else {
                    self.fields.read(input, line, limits)?;
                }
            }
            index = next.max(self.line);
            if index + 1 == input.len() && input[index] == CR {
                break;
            }
        }
        self.seen = index;
        self.check_length(input, limits)?;
        Ok(None)
    }

    /// Evaluates the lines of the head once the empty line has arrived.
    fn end(&mut self, input: &[u8], limits: &HeadLimits) -> Result<Head, HeadError> {
        let length = self.line;
        if length > limits.headers {
            return Err(HeadError::LongHead);
        }
        let request = self
            .request
            .as_ref()
            .expect("it was read before the fields");
        let body = self.fields.end(input, request, &mut self.known_host)?;
        Ok(Head {
            length,
            body,
            dropped: std::mem::take(&mut self.fields.dropped),
        })
    }

    /// Checks the limits early: a head that is already too long need not be complete.
    fn check_length(&self, input: &[u8], limits: &HeadLimits) -> Result<(), HeadError> {
        // The CR of a line that is just short enough may be present already.
        if self.request.is_none() && input.len() > limits.request_line + 1 {
            return Err(HeadError::LongLine);
        }
        if input.len() > limits.headers {
            return Err(HeadError::LongHead);
        }
        Ok(())
    }

    /// Returns the problem of a control byte that does not end a line.
    #[cold]
    fn stray(&self, input: &[u8], byte: u8) -> HeadError {
        match byte {
            // RFC 8446, 5.1: a handshake record begins with 22 and the version's 3.
            0x16 if self.request.is_none() && input[0] == byte => HeadError::Tls,
            CR | b'\n' => HeadError::BareLineEnd,
            _ => HeadError::Control,
        }
    }
}

/// Returns the special bytes from `at` on, as bits from the lowest, and the end of the checked
/// range.
#[inline]
fn special(input: &[u8], at: usize) -> (u64, usize) {
    if let Some(block) = input[at..].first_chunk::<BLOCK>() {
        return (unprinted(block), at + BLOCK);
    }
    if let Some(last) = input.last_chunk::<BLOCK>() {
        let known = at - (input.len() - BLOCK);
        return (unprinted(last) >> known, input.len());
    }
    let mut block = [b' '; BLOCK];
    block[..input.len() - at].copy_from_slice(&input[at..]);
    (unprinted(&block), input.len())
}
