//! Header lines (RFC 9112, 5), and the body framing in them (RFC 9112, 6).

use std::{borrow::Cow, ops::Range};

use edgeway_base::host::normal_authority;
use edgeway_config::model::UnderscoresConfig;
use edgeway_routes::host_of;

use super::{
    BodyFraming, HeadLimits,
    byte_search::{PIECE, letters},
    line::RequestLine,
    problem::HeadError,
};

/// Length limit of names; longer ones are not in use.
const MAX_NAME_LEN: usize = 256;
/// Limit on digits of a length, so that it fits a signed 64-bit number.
const MAX_DIGITS: usize = 18;

/// Result of the header lines so far.
#[derive(Debug, Default)]
pub(super) struct Fields {
    count: usize,
    host: Option<Range<usize>>,
    length: Option<u64>,
    is_chunked: bool,
    /// Bits of the [`SingletonHeader`] headers that were present.
    singles: u8,
    /// Lines to remove.
    pub(super) dropped: Vec<Range<usize>>,
}

/// Headers that must not be repeated, besides those of framing. Programs differ in which of two
/// they use: for the client, its origin, the type of the body, or the requested range.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
enum SingletonHeader {
    ContentType = 1,
    Authorization = 2,
    Origin = 4,
    Referer = 8,
    Expect = 16,
    Upgrade = 32,
    Range = 64,
}

const BAD: u8 = 0;
const GOOD: u8 = 1;
const UNDERSCORE: u8 = 2;

/// Bytes of a header name (RFC 9110, 5.6.2).
const NAME: [u8; 256] = {
    let mut kind = [BAD; 256];
    let mut byte = 0u8;
    while byte < 0x80 {
        kind[byte as usize] = match byte {
            b'_' => UNDERSCORE,
            b'"' | b'(' | b')' | b',' | b'/' | b':'..=b'@' | b'['..=b']' | b'{' | b'}' => BAD,
            b'!'..=b'~' => GOOD,
            _ => BAD,
        };
        byte += 1;
    }
    kind
};

/// Returns true if a header name may contain the byte.
pub(in crate::edge) fn is_name_byte(byte: u8) -> bool {
    NAME[usize::from(byte)] != BAD
}

/// Returns the length of the name at the start of the line, if a colon follows it and it contains
/// nothing unusual.
#[inline]
fn name_length(input: &[u8], line: &Range<usize>) -> Option<usize> {
    let mut from = line.start;
    while let Some(piece) = input[from..].first_chunk::<PIECE>() {
        let more = letters(piece);
        if more == PIECE {
            from += PIECE;
            continue;
        }
        // The end of the line is not a letter, so the mark is within the line.
        if piece[more] == b':' {
            return Some(from + more - line.start).filter(|length| *length > 0);
        }
        break;
    }
    let line = &input[line.clone()];
    let length = line
        .iter()
        .position(|byte| NAME[usize::from(*byte)] != GOOD)?;
    (length > 0 && line[length] == b':').then_some(length)
}

impl Fields {
    /// Reads one header line. It is known to contain no control bytes other than tabs.
    #[inline]
    pub(super) fn read(
        &mut self,
        input: &[u8],
        line: Range<usize>,
        limits: &HeadLimits,
    ) -> Result<(), HeadError> {
        self.count += 1;
        if self.count > limits.header_count {
            return Err(HeadError::ManyHeaders);
        }
        let Some(length) = name_length(input, &line) else {
            return self.odd_name(&input[line.clone()], line, limits);
        };
        let colon = line.start + length;
        let (name, value) = (&input[line.start..colon], &input[colon + 1..line.end]);
        // A head has a dozen names, and hardly any of them matters here.
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        match (length, name[0] | 0x20) {
            (4, b'h') if is(b"host") => self.host(value, line.end),
            (5, b'r') if is(b"range") => self.single(SingletonHeader::Range),
            (6, b'o') if is(b"origin") => self.single(SingletonHeader::Origin),
            (6, b'e') if is(b"expect") => self.expect(value),
            (7, b'r') if is(b"referer") => self.single(SingletonHeader::Referer),
            (7, b'u') if is(b"upgrade") => self.single(SingletonHeader::Upgrade),
            (12, b'c') if is(b"content-type") => self.single(SingletonHeader::ContentType),
            (13, b'a') if is(b"authorization") => self.single(SingletonHeader::Authorization),
            (14, b'c') if is(b"content-length") => self.length(value),
            (17, b't') if is(b"transfer-encoding") => self.coding(value),
            _ if length > MAX_NAME_LEN => Err(HeadError::Name),
            _ => Ok(()),
        }
    }

    /// Handles a line whose name does not end at a colon, or contains an underscore.
    #[cold]
    fn odd_name(
        &mut self,
        line: &[u8],
        at: Range<usize>,
        limits: &HeadLimits,
    ) -> Result<(), HeadError> {
        let length = line
            .iter()
            .position(|byte| !is_name_byte(*byte))
            .unwrap_or(line.len());
        match line.get(length) {
            Some(b':') if length > MAX_NAME_LEN || length == 0 => Err(HeadError::Name),
            Some(b':') => match limits.underscores {
                UnderscoresConfig::Allow => Ok(()),
                UnderscoresConfig::Refuse => Err(HeadError::Underscore),
                UnderscoresConfig::Drop => {
                    self.dropped.push(at.start..at.end + 2);
                    Ok(())
                }
            },
            Some(b' ' | b'\t') if length == 0 => Err(HeadError::Fold),
            Some(b' ' | b'\t') => Err(HeadError::SpaceAfterName),
            _ => Err(HeadError::Name),
        }
    }

    fn single(&mut self, which: SingletonHeader) -> Result<(), HeadError> {
        let bit = which as u8;
        if self.singles & bit != 0 {
            return Err(HeadError::Twice);
        }
        self.singles |= bit;
        Ok(())
    }

    /// Records the `Host` header (RFC 9112, 3.2); `end` is the end of the line.
    fn host(&mut self, value: &[u8], end: usize) -> Result<(), HeadError> {
        if self.host.is_some() {
            return Err(HeadError::TwoHosts);
        }
        let before = value.len() - value.trim_ascii_start().len();
        let host = value.trim_ascii();
        let from = end - value.len() + before;
        self.host = Some(from..from + host.len());
        Ok(())
    }

    /// Parses `Content-Length` (RFC 9112, 6.2). A list of equal lengths could be accepted as one,
    /// but no legitimate client sends it.
    fn length(&mut self, value: &[u8]) -> Result<(), HeadError> {
        let digits = value.trim_ascii();
        if self.length.is_some() {
            return Err(HeadError::TwoLengths);
        }
        if digits.contains(&b',') {
            return Err(HeadError::TwoLengths);
        }
        // Some programs parse a number with a leading zero as octal.
        let is_number = matches!(digits, [b'0'] | [b'1'..=b'9', ..])
            && digits.len() <= MAX_DIGITS
            && digits.iter().all(u8::is_ascii_digit);
        if !is_number {
            return Err(HeadError::Length);
        }
        let number = digits
            .iter()
            .fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
        self.length = Some(number);
        Ok(())
    }

    /// Parses `Transfer-Encoding` (RFC 9112, 6.1). If odd spaces or letters hide a coding, one
    /// program sees a chunked body and another does not.
    fn coding(&mut self, value: &[u8]) -> Result<(), HeadError> {
        let coding = value.strip_prefix(b" ").unwrap_or(value);
        if self.is_chunked {
            return Err(HeadError::Coding);
        }
        if !coding.eq_ignore_ascii_case(b"chunked") {
            return Err(unknown_coding(coding));
        }
        self.is_chunked = true;
        Ok(())
    }

    /// Parses `Expect`. RFC 9110, 10.1.1, defines one expectation.
    fn expect(&mut self, value: &[u8]) -> Result<(), HeadError> {
        self.single(SingletonHeader::Expect)?;
        if value.trim_ascii().eq_ignore_ascii_case(b"100-continue") {
            Ok(())
        } else {
            Err(HeadError::Expectation)
        }
    }

    /// Evaluates the headers once all lines were read.
    pub(super) fn end(
        &self,
        input: &[u8],
        request: &RequestLine,
        known_host: &mut Vec<u8>,
    ) -> Result<BodyFraming, HeadError> {
        if let Some(host) = &self.host {
            check_host(&input[host.clone()], known_host)?;
        }
        match (&self.host, &request.authority) {
            (None, _) if request.is_http_11 => return Err(HeadError::NoHost),
            // RFC 9112, 3.2.2, gives the target precedence, but a program that reads only `Host`
            // would see another site.
            (Some(host), Some(authority))
                if normal(&input[host.clone()]) != normal(&input[authority.clone()]) =>
            {
                return Err(HeadError::OtherHost);
            }
            _ => {}
        }
        let body = match (self.is_chunked, self.length) {
            (true, Some(_)) => return Err(HeadError::LengthAndCoding),
            (true, None) if !request.is_http_11 => return Err(HeadError::OldCoding),
            (true, None) => BodyFraming::Chunked,
            (false, None | Some(0)) => BodyFraming::None,
            (false, Some(length)) => BodyFraming::Length(length),
        };
        Ok(body)
    }
}

/// Returns the normal form of an authority of `http:`.
fn normal(authority: &[u8]) -> Cow<'_, [u8]> {
    normal_authority(authority, 80).map_or(Cow::Borrowed(authority), Cow::Owned)
}

/// Checks a `Host`: one that is empty or invalid is refused (RFC 9112, 3.2).
#[inline]
fn check_host(host: &[u8], known: &mut Vec<u8>) -> Result<(), HeadError> {
    if host == known && !host.is_empty() {
        return Ok(());
    }
    match host_of(host) {
        Ok(name) if !name.is_empty() => {
            known.clear();
            known.extend_from_slice(host);
            Ok(())
        }
        _ => Err(HeadError::Host),
    }
}

/// Returns the problem of an unsupported transfer coding. RFC 9112, 6.1: a coding that exists but
/// is not implemented is 501.
#[cold]
fn unknown_coding(value: &[u8]) -> HeadError {
    let is_known = |coding: &[u8]| {
        ["gzip", "x-gzip", "deflate", "compress", "x-compress"]
            .iter()
            .any(|known| known.as_bytes().eq_ignore_ascii_case(coding))
    };
    let mut codings: Vec<&[u8]> = value.split(|byte| *byte == b',').collect();
    for coding in codings.iter_mut().skip(1) {
        *coding = coding.strip_prefix(b" ").unwrap_or(coding);
    }
    if codings
        .last()
        .is_some_and(|last| last.eq_ignore_ascii_case(b"chunked"))
    {
        codings.pop();
    }
    if !codings.is_empty() && codings.iter().all(|coding| is_known(coding)) {
        HeadError::CodingNotImplemented
    } else {
        HeadError::Coding
    }
}
