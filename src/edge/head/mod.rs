//! One strict scan of each raw HTTP/1 head before Pingora reads it (RFC 9112).
//!
//! Pingora's parser takes bare line feeds, two equal lengths and codings before `chunked`.
//! Another program may read those otherwise, and then two of them disagree about where a
//! request ends. Here such a head is refused, so what goes on can be read in one way only.
//!
//! The scan goes over each byte once however the bytes come, and tells of a limit or a
//! mistake as soon as it is there, not at the end of the head.

mod field;
mod line;
mod marks;
mod problem;
#[cfg(test)]
mod tests;

use std::{hash::Hasher, ops::Range};

use self::{
    field::Fields,
    line::RequestLine,
    marks::{BLOCK, unprinted},
    problem::Problem,
};
pub(super) use self::{field::is_name_byte, problem::timeout};
use crate::{
    config::model::UnderscoresConfig,
    runtime::{refusal::Refusal, shortcut::Fingerprint},
};

/// The longest target that Pingora's URI takes, whatever is configured.
const LONGEST_LINE: usize = 60 * 1024;
/// The longest head that Pingora takes.
const LONGEST_HEAD: usize = 1_000_000;
/// As many headers as Pingora has room for, with those that we add.
const MOST_HEADERS: usize = 200;

/// How long a head may be, and what may be in it.
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
            request_line: request_line.min(LONGEST_LINE),
            headers: headers.min(LONGEST_HEAD),
            header_count: header_count.min(MOST_HEADERS),
            underscores,
        }
    }
}

/// A head that can be read in one way only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Up to and with the empty line.
    pub(super) length: usize,
    pub(super) body: Body,
    /// Lines that are to be taken out before anybody reads the head, in their order;
    /// mostly none.
    pub(super) dropped: Vec<Range<usize>>,
    /// Of a `GET` that wants nothing else but an answer; else zero.
    pub(super) fingerprint: Fingerprint,
}

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    None,
    Length(u64),
    Chunked,
}

/// What the bytes so far come to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scanned {
    Partial,
    Head(Head),
    Refused(Refusal),
}

/// Goes over the bytes of one head as they come.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    /// Where the line under way begins.
    line: usize,
    /// What stands before this was looked at and is in order.
    seen: usize,
    request: Option<RequestLine>,
    fields: Fields,
    /// The last `Host` that was found to be one: a connection's requests mostly name one.
    known_host: Vec<u8>,
}

const CR: u8 = b'\r';

impl Scanner {
    /// The next head begins.
    pub(super) fn restart(&mut self) {
        self.line = 0;
        self.seen = 0;
        self.request = None;
        self.fields = Fields::default();
    }

    /// Scans `input`, which begins with the head and holds what has come of it so far.
    pub(super) fn scan(&mut self, input: &[u8], limits: &HeadLimits) -> Scanned {
        match self.lines(input, limits) {
            Ok(Some(head)) => Scanned::Head(head),
            Ok(None) => Scanned::Partial,
            Err(problem) => Scanned::Refused(problem.refused(input)),
        }
    }

    /// Goes on at `seen`, line by line, to the end of the head or of the input.
    fn lines(&mut self, input: &[u8], limits: &HeadLimits) -> Result<Option<Head>, Problem> {
        let mut at = self.seen;
        while at < input.len() {
            let (mut left, mut next) = special(input, at);
            while left != 0 {
                let mark = at + left.trailing_zeros() as usize;
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
            at = next.max(self.line);
            if at + 1 == input.len() && input[at] == CR {
                break;
            }
        }
        self.seen = at;
        self.check_length(input, limits)?;
        Ok(None)
    }

    /// The empty line is there: what do the lines before it come to?
    fn end(&mut self, input: &[u8], limits: &HeadLimits) -> Result<Head, Problem> {
        let length = self.line;
        if length > limits.headers {
            return Err(Problem::LongHead);
        }
        let request = self
            .request
            .as_ref()
            .expect("it was read before the fields");
        let body = self.fields.end(input, request, &mut self.known_host)?;
        let is_plain = body == Body::None && !self.fields.wants_more();
        let fingerprint = if is_plain && input.starts_with(b"GET ") {
            fingerprint(&input[..request.length], &self.known_host)
        } else {
            0
        };
        Ok(Head {
            length,
            body,
            dropped: std::mem::take(&mut self.fields.dropped),
            fingerprint,
        })
    }

    /// What is too long already need not be waited for.
    fn check_length(&self, input: &[u8], limits: &HeadLimits) -> Result<(), Problem> {
        // The CR of a line that is just short enough may be here already.
        if self.request.is_none() && input.len() > limits.request_line + 1 {
            return Err(Problem::LongLine);
        }
        if input.len() > limits.headers {
            return Err(Problem::LongHead);
        }
        Ok(())
    }

    /// A control byte that is no line's end.
    #[cold]
    fn stray(&self, input: &[u8], byte: u8) -> Problem {
        match byte {
            // RFC 8446, 5.1: a handshake record begins with 22 and the version's 3.
            0x16 if self.request.is_none() && input[0] == byte => Problem::Tls,
            CR | b'\n' => Problem::BareLineEnd,
            _ => Problem::Control,
        }
    }
}

/// By the request line and the last host that was named: what the rest of a head says
/// differs among clients more than it matters here.
fn fingerprint(line: &[u8], host: &[u8]) -> Fingerprint {
    let mut hasher = ahash::AHasher::default();
    hasher.write(line);
    hasher.write(host);
    hasher.finish()
}

/// The special bytes from `at` on, as bits from the lowest, and how far that goes.
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

/// What the fuzz target and its seeds check: a head is read alike in one piece and in two,
/// and lies within the input.
#[cfg(any(test, fuzzing))]
pub(crate) fn check(data: &[u8]) {
    let Some((&at, input)) = data.split_first() else {
        return;
    };
    let limits = HeadLimits::new(512, 2048, 32, UnderscoresConfig::Drop);
    let whole = Scanner::default().scan(input, &limits);
    let mut scanner = Scanner::default();
    let split = usize::from(at).min(input.len());
    let mut outcome = scanner.scan(&input[..split], &limits);
    if outcome == Scanned::Partial {
        outcome = scanner.scan(input, &limits);
    }
    match (&whole, &outcome) {
        // The earlier sight of it knows less of the target.
        (Scanned::Refused(_), Scanned::Refused(_)) => {}
        _ => assert_eq!(whole, outcome),
    }
    if let Scanned::Head(head) = whole {
        assert!(head.length <= input.len());
        assert!(input[..head.length].ends_with(b"\r\n\r\n"));
        for line in head.dropped {
            assert!(line.end <= head.length && input[line].ends_with(b"\r\n"));
        }
    }
}
