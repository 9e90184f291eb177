//! The normal form of a request target, which is matched, stored, logged and forwarded.
//!
//! RFC 3986, 6.2.2: unreserved bytes are decoded, hexadecimal digits are capitals, dot segments are
//! resolved; repeated slashes become one. Ambiguous targets are refused. An encoded slash stays:
//! names such as `@scope%2Fpackage` depend on it.

mod path_rule;

use std::borrow::Cow;

use percent_encoding::percent_encode_byte;

pub use self::path_rule::PathRule;
use super::spelling::is_of_page;

/// The request properties that routes are matched against. Path and query are in normal form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// Host as returned by [`super::host::host_of`]; empty if the client named none.
    pub host: &'a str,
    /// Path that begins with `/`, or `*`.
    pub path: &'a [u8],
    /// Query without the `?`; `None` if there was no `?`.
    pub query: Option<&'a [u8]>,
    /// Name of the listener that accepted the request; empty if no route matches on it.
    pub listener: &'a str,
}

/// Treatment of repeated slashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Slashes {
    /// Merge them into one.
    #[default]
    Merge,
    Keep,
}

/// A request target in normal form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NormalisedTarget<'a> {
    pub path: Cow<'a, [u8]>,
    pub query: Option<&'a [u8]>,
    /// Authority of an absolute-form target. RFC 9112, 3.2.2: it replaces `Host`.
    pub authority: Option<&'a [u8]>,
    /// True if the path may have another spelling that some app treats as the same
    /// ([`super::spelling`]); false is certain.
    pub has_spellings: bool,
}

/// Reason why a request gets a 400 response before a route is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTarget {
    #[error("the request target is neither a path, nor an http URL, nor `*`")]
    Form,
    #[error("the request target has a control byte, a space or a `#`")]
    Byte,
    #[error("the path has a backslash, plain or encoded")]
    Backslash,
    #[error("the path has a `%` without two hexadecimal digits")]
    Percent,
    #[error("the path has an encoded NUL")]
    Nul,
    #[error("the path has an encoded dot segment")]
    CodedDots,
    #[error("the path has a dot segment with parameters, such as `..;`")]
    DotParameters,
    #[error("the host is not a name or an address")]
    Host,
}

impl InvalidTarget {
    /// Reason word for log, metric and status page.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Host => "bad_host",
            Self::Form
            | Self::Byte
            | Self::Backslash
            | Self::Percent
            | Self::Nul
            | Self::CodedDots
            | Self::DotParameters => "bad_path",
        }
    }
}

impl<'a> Target<'a> {
    /// Splits a target that is already in normal form.
    pub fn new(host: &'a str, normal: &'a [u8]) -> Self {
        let end = normal.iter().position(|&b| b == b'?');
        Self {
            host,
            path: &normal[..end.unwrap_or(normal.len())],
            query: end.map(|at| &normal[at + 1..]),
            listener: "",
        }
    }
}

impl NormalisedTarget<'_> {
    /// Returns the target to forward and to match, or `None` if the original is already in normal
    /// form.
    pub fn rewritten(&self) -> Option<Vec<u8>> {
        if self.authority.is_none() && matches!(self.path, Cow::Borrowed(_)) {
            return None;
        }
        Some(join(&self.path, self.query))
    }
}

/// Joins path and query into one target.
pub fn join(path: &[u8], query: Option<&[u8]>) -> Vec<u8> {
    let mut target = Vec::with_capacity(path.len() + 1 + query.map_or(0, <[u8]>::len));
    target.extend_from_slice(path);
    if let Some(query) = query {
        target.push(b'?');
        target.extend_from_slice(query);
    }
    target
}

/// Converts a request target to normal form.
///
/// Reads the bytes once, and allocates only if something must change.
///
/// # Errors
/// Fails if the target is ambiguous: see [`InvalidTarget`].
pub fn normalise(raw: &[u8], slashes: Slashes) -> Result<NormalisedTarget<'_>, InvalidTarget> {
    let (authority, rest) = match raw {
        [b'/', ..] => (None, raw),
        [b'*'] => {
            return Ok(NormalisedTarget {
                path: Cow::Borrowed(raw),
                query: None,
                authority: None,
                has_spellings: false,
            });
        }
        _ => {
            let (authority, rest) = split_absolute(raw)?;
            (Some(authority), rest)
        }
    };
    let TargetParts { end, flags } = scan(rest)?;
    let query = rest.get(end + 1..);
    if query.is_some_and(has_bad_byte) {
        return Err(InvalidTarget::Byte);
    }
    let to_change = match slashes {
        Slashes::Merge => DOTS | BYTES | SLASHES,
        Slashes::Keep => DOTS | BYTES,
    };
    let path = match &rest[..end] {
        [] => Cow::Borrowed(b"/".as_slice()),
        path if flags & to_change != 0 => Cow::Owned(rebuilt(path, flags, slashes)),
        path => Cow::Borrowed(path),
    };
    let has_spellings =
        flags & (SPELLINGS | SLASHES) != 0 || matches!(*path, [_, .., b'/']) || is_of_page(&path);
    Ok(NormalisedTarget {
        path,
        query,
        authority,
        has_spellings,
    })
}

/// Splits `http://host/path?query` into `host` and `/path?query`; the path may be missing.
fn split_absolute(raw: &[u8]) -> Result<(&[u8], &[u8]), InvalidTarget> {
    let starts = |scheme: &str| {
        raw.get(..scheme.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(scheme.as_bytes()))
    };
    let from = ["http://", "https://"]
        .into_iter()
        .find(|scheme| starts(scheme))
        .ok_or(InvalidTarget::Form)?
        .len();
    let rest = &raw[from..];
    let end = rest
        .iter()
        .position(|b| matches!(b, b'/' | b'?' | b'\\' | b'#'))
        .unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    if authority.is_empty() || matches!(rest, [b'\\' | b'#', ..]) {
        return Err(InvalidTarget::Form);
    }
    Ok((authority, rest))
}

struct TargetParts {
    /// End of the path: the `?`, or the end of the target.
    end: usize,
    /// Properties of the path: a sum of the flags below.
    flags: u8,
}

/// Has dot segments.
const DOTS: u8 = 1;
/// Has bytes that are written differently in normal form.
const BYTES: u8 = 2;
/// Has repeated slashes.
const SLASHES: u8 = 4;
/// Has bytes that apps fold: capitals, parameters, encoded bytes.
const SPELLINGS: u8 = 8;

const PLAIN: u8 = 0;
const DOT: u8 = 1;
const PERCENT: u8 = 2;
const QUESTION: u8 = 3;
const BACKSLASH: u8 = 4;
const BAD: u8 = 5;
const SLASH: u8 = 6;
const FOLDED: u8 = 7;
const HIGH: u8 = 8;

/// Class of each byte in a path.
const KIND: [u8; 256] = {
    let mut kind = [PLAIN; 256];
    let mut byte = 0;
    while byte <= 0x20 {
        kind[byte] = BAD;
        byte += 1;
    }
    let mut byte = b'A';
    while byte <= b'Z' {
        kind[byte as usize] = FOLDED;
        byte += 1;
    }
    let mut byte = 0x80;
    while byte < 256 {
        kind[byte] = HIGH;
        byte += 1;
    }
    kind[0x7f] = BAD;
    kind[b'#' as usize] = BAD;
    kind[b'.' as usize] = DOT;
    kind[b'/' as usize] = SLASH;
    kind[b';' as usize] = FOLDED;
    kind[b'%' as usize] = PERCENT;
    kind[b'?' as usize] = QUESTION;
    kind[b'\\' as usize] = BACKSLASH;
    kind
};

fn scan(path: &[u8]) -> Result<TargetParts, InvalidTarget> {
    let mut flags = 0;
    let mut index = 0;
    while let Some(&byte) = path.get(index) {
        let step = match KIND[usize::from(byte)] {
            PLAIN => 1,
            SLASH => {
                if path.get(index + 1) == Some(&b'/') {
                    flags |= SLASHES;
                }
                1
            }
            DOT => {
                if is_dot_segment(path, index)? {
                    flags |= DOTS;
                }
                1
            }
            FOLDED => {
                flags |= SPELLINGS;
                1
            }
            PERCENT => {
                flags |= scan_encoded(path, index)?;
                3
            }
            HIGH => {
                flags |= BYTES | SPELLINGS;
                1
            }
            QUESTION => break,
            BACKSLASH => return Err(InvalidTarget::Backslash),
            _ => return Err(InvalidTarget::Byte),
        };
        index += step;
    }
    Ok(TargetParts { end: index, flags })
}

/// Returns the flags for `%xx` at `at`.
fn scan_encoded(path: &[u8], at: usize) -> Result<u8, InvalidTarget> {
    let byte = encoded_byte(path, at).ok_or(InvalidTarget::Percent)?;
    match byte {
        0 => return Err(InvalidTarget::Nul),
        b'\\' => return Err(InvalidTarget::Backslash),
        b'.' if is_dot_segment(path, at)? => return Err(InvalidTarget::CodedDots),
        _ => {}
    }
    let has_small_digit = path[at + 1..at + 3].iter().any(u8::is_ascii_lowercase);
    if is_unreserved(byte) || has_small_digit {
        Ok(BYTES | SPELLINGS)
    } else {
        Ok(SPELLINGS)
    }
}

/// Returns true for unreserved bytes (RFC 3986, 2.3).
pub(super) const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Returns true if apps can fold only the case of a path in normal form.
pub fn is_plain(path: &[u8]) -> bool {
    let is_odd = |byte: &u8| match KIND[usize::from(*byte)] {
        FOLDED => *byte == b';',
        kind => matches!(kind, PERCENT | HIGH),
    };
    !path.iter().any(is_odd)
        && !path.windows(2).any(|two| two == b"//")
        && matches!(path, [b'/'] | [b'/', .., b'!'..=b'.' | b'0'..=b'~'])
        && !is_of_page(path)
}

/// Computes [`NormalisedTarget::has_spellings`] for a path in normal form.
pub fn has_spellings(path: &[u8]) -> bool {
    let is_folded = |byte: &u8| matches!(KIND[usize::from(*byte)], FOLDED | PERCENT | HIGH);
    path.iter().any(is_folded)
        || path.windows(2).any(|two| two == b"//")
        || matches!(path, [_, .., b'/'])
        || is_of_page(path)
}

/// Rebuilds the path in normal form.
fn rebuilt(path: &[u8], flags: u8, slashes: Slashes) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut index = 0;
    while let Some(&byte) = path.get(index) {
        index += 1;
        match byte {
            b'%' => {
                let byte = encoded_byte(path, index - 1).unwrap_or(byte);
                index += 2;
                put(&mut out, byte, is_unreserved(byte));
            }
            b'/' if slashes == Slashes::Merge && out.last() == Some(&b'/') => {}
            _ => put(&mut out, byte, byte.is_ascii()),
        }
    }
    if flags & DOTS == 0 {
        return out;
    }
    resolve_dots(&out)
}

fn put(out: &mut Vec<u8>, byte: u8, is_plain: bool) {
    if is_plain {
        out.push(byte);
    } else {
        out.extend_from_slice(percent_encode_byte(byte).as_bytes());
    }
}

/// Returns true if a dot segment begins with the (plain or encoded) dot at `at`.
///
/// A backend may decode before it splits, so `%2f` ends a segment here too: `..%2f` is as bad as
/// `%2e%2e/`.
fn is_dot_segment(path: &[u8], at: usize) -> Result<bool, InvalidTarget> {
    let before = &path[..at];
    let after_encoded_slash =
        at >= 3 && encoded_byte(path, at - 3) == Some(b'/') && before[at - 3] == b'%';
    if !after_encoded_slash && before.last().is_some_and(|&b| b != b'/') {
        return Ok(false);
    }
    let mut is_encoded = after_encoded_slash;
    let mut next = at;
    for _ in 0..2 {
        match path.get(next) {
            Some(b'.') => next += 1,
            Some(b'%') if encoded_byte(path, next) == Some(b'.') => {
                next += 3;
                is_encoded = true;
            }
            _ => break,
        }
    }
    match path.get(next) {
        None | Some(b'/' | b'?') => {}
        // Some backends remove parameters from a segment before they resolve it.
        Some(b';') => return Err(InvalidTarget::DotParameters),
        Some(b'%') => match encoded_byte(path, next) {
            Some(b'/') => is_encoded = true,
            Some(b';') => return Err(InvalidTarget::DotParameters),
            _ => return Ok(false),
        },
        Some(_) => return Ok(false),
    }
    if is_encoded {
        Err(InvalidTarget::CodedDots)
    } else {
        Ok(true)
    }
}

/// Returns the byte that `%xx` at `at` encodes.
pub fn encoded_byte(path: &[u8], at: usize) -> Option<u8> {
    let hex = |byte: u8| char::from(byte).to_digit(16);
    let (high, low) = (hex(*path.get(at + 1)?)?, hex(*path.get(at + 2)?)?);
    u8::try_from(high << 4 | low).ok()
}

fn has_bad_byte(query: &[u8]) -> bool {
    query.iter().any(|&b| KIND[usize::from(b)] == BAD)
}

/// Removes dot segments (RFC 3986, 5.2.4).
fn resolve_dots(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut segments = path[1..].split(|&b| b == b'/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            b"." => {}
            b".." => out.truncate(out.iter().rposition(|&b| b == b'/').unwrap_or(0)),
            _ => {
                out.push(b'/');
                out.extend_from_slice(segment);
                continue;
            }
        }
        if is_last {
            out.push(b'/');
        }
    }
    if out.is_empty() {
        out.push(b'/');
    }
    out
}

#[cfg(test)]
mod tests;
