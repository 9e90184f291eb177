//! The one form of a request target and of a host, before a route is chosen.
//!
//! Only literal dot segments are resolved. Whatever a backend could read as another path
//! than we do is refused, and everything else is left as it came, byte for byte.

use std::{borrow::Cow, net::Ipv6Addr};

/// What routes are matched against. Path and query are in normal form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// As [`host_of`] gives it; empty if the client named none.
    pub host: &'a str,
    /// Begins with `/`, or is `*`.
    pub path: &'a [u8],
    /// Without the `?`; `None` if there was no `?`.
    pub query: Option<&'a [u8]>,
    /// The name of the listener that the request came by; empty where no route asks for it.
    pub listener: &'a str,
}

/// A request target in normal form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Normalised<'a> {
    pub path: Cow<'a, [u8]>,
    pub query: Option<&'a [u8]>,
    /// Of an absolute-form target. RFC 9112, 3.2.2: it counts, and not `Host`.
    pub authority: Option<&'a [u8]>,
}

/// Why a request is answered with 400 before a route is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    #[error("the request target is neither a path, nor an http URL, nor `*`")]
    Form,
    #[error("the request target has a control byte, a space or a `#`")]
    Byte,
    #[error("the path has a backslash, plain or coded")]
    Backslash,
    #[error("the path has a `%` without two hexadecimal digits")]
    Percent,
    #[error("the path has a coded NUL")]
    Nul,
    #[error("the path has a coded dot segment")]
    CodedDots,
    #[error("the host is not a name or an address")]
    Host,
}

impl BadTarget {
    /// The word for log, metric and status page.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Host => "bad_host",
            Self::Form
            | Self::Byte
            | Self::Backslash
            | Self::Percent
            | Self::Nul
            | Self::CodedDots => "bad_path",
        }
    }
}

impl<'a> Target<'a> {
    /// Splits a target that is in normal form already.
    pub fn new(host: &'a str, normal: &'a [u8]) -> Self {
        match normal.iter().position(|&b| b == b'?') {
            Some(at) => Self {
                host,
                path: &normal[..at],
                query: Some(&normal[at + 1..]),
                listener: "",
            },
            None => Self {
                host,
                path: normal,
                query: None,
                listener: "",
            },
        }
    }
}

impl Normalised<'_> {
    /// The target to send on and to match, or `None` if the one that came is in normal
    /// form already.
    pub fn rewritten(&self) -> Option<Vec<u8>> {
        if self.authority.is_none() && matches!(self.path, Cow::Borrowed(_)) {
            return None;
        }
        Some(join(&self.path, self.query))
    }
}

/// Path and query as one target.
pub(super) fn join(path: &[u8], query: Option<&[u8]>) -> Vec<u8> {
    let mut target = Vec::with_capacity(path.len() + 1 + query.map_or(0, <[u8]>::len));
    target.extend_from_slice(path);
    if let Some(query) = query {
        target.push(b'?');
        target.extend_from_slice(query);
    }
    target
}

/// Brings a request target into normal form: origin form, literal dot segments resolved.
///
/// One pass over the bytes; allocates only if dot segments are to be resolved.
///
/// # Errors
/// If the target could be read in two ways: see [`BadTarget`].
pub fn normalise(raw: &[u8]) -> Result<Normalised<'_>, BadTarget> {
    let (authority, rest) = match raw {
        [b'/', ..] => (None, raw),
        [b'*'] => {
            return Ok(Normalised {
                path: Cow::Borrowed(raw),
                query: None,
                authority: None,
            });
        }
        _ => {
            let (authority, rest) = split_absolute(raw)?;
            (Some(authority), rest)
        }
    };
    let Scanned { end, has_dots } = scan(rest)?;
    let query = rest.get(end + 1..);
    if query.is_some_and(has_bad_byte) {
        return Err(BadTarget::Byte);
    }
    let path = match &rest[..end] {
        [] => Cow::Borrowed(b"/".as_slice()),
        path if has_dots => Cow::Owned(resolve_dots(path)),
        path => Cow::Borrowed(path),
    };
    Ok(Normalised {
        path,
        query,
        authority,
    })
}

/// `http://host/path?query` into `host` and `/path?query`; the path may be missing.
fn split_absolute(raw: &[u8]) -> Result<(&[u8], &[u8]), BadTarget> {
    let starts = |scheme: &str| {
        raw.get(..scheme.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(scheme.as_bytes()))
    };
    let from = ["http://", "https://"]
        .into_iter()
        .find(|scheme| starts(scheme))
        .ok_or(BadTarget::Form)?
        .len();
    let rest = &raw[from..];
    let end = rest
        .iter()
        .position(|b| matches!(b, b'/' | b'?' | b'\\' | b'#'))
        .unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    if authority.is_empty() || matches!(rest, [b'\\' | b'#', ..]) {
        return Err(BadTarget::Form);
    }
    Ok((authority, rest))
}

struct Scanned {
    /// Where the path ends: at the `?`, or at the end.
    end: usize,
    has_dots: bool,
}

const PLAIN: u8 = 0;
const DOT: u8 = 1;
const PERCENT: u8 = 2;
const QUESTION: u8 = 3;
const BACKSLASH: u8 = 4;
const BAD: u8 = 5;

/// What each byte of a path calls for.
const KIND: [u8; 256] = {
    let mut kind = [PLAIN; 256];
    let mut byte = 0;
    while byte <= 0x20 {
        kind[byte] = BAD;
        byte += 1;
    }
    kind[0x7f] = BAD;
    kind[b'#' as usize] = BAD;
    kind[b'.' as usize] = DOT;
    kind[b'%' as usize] = PERCENT;
    kind[b'?' as usize] = QUESTION;
    kind[b'\\' as usize] = BACKSLASH;
    kind
};

const UPPER: u8 = 6;
const COLON: u8 = 7;

/// What each byte of a host and its port calls for.
const HOST: [u8; 256] = {
    let mut kind = [BAD; 256];
    let mut byte = 0u8;
    while byte < 0x80 {
        kind[byte as usize] = match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' => PLAIN,
            b'A'..=b'Z' => UPPER,
            b':' => COLON,
            _ => BAD,
        };
        byte += 1;
    }
    kind
};

fn scan(path: &[u8]) -> Result<Scanned, BadTarget> {
    let mut has_dots = false;
    let mut at = 0;
    while let Some(&byte) = path.get(at) {
        let step = match KIND[usize::from(byte)] {
            PLAIN => 1,
            DOT => {
                has_dots |= is_dot_segment(path, at)?;
                1
            }
            PERCENT => {
                match coded(path, at).ok_or(BadTarget::Percent)? {
                    0 => return Err(BadTarget::Nul),
                    b'\\' => return Err(BadTarget::Backslash),
                    b'.' => has_dots |= is_dot_segment(path, at)?,
                    _ => {}
                }
                3
            }
            QUESTION => break,
            BACKSLASH => return Err(BadTarget::Backslash),
            _ => return Err(BadTarget::Byte),
        };
        at += step;
    }
    Ok(Scanned { end: at, has_dots })
}

/// Whether a dot segment begins with the (plain or coded) dot at `at`.
///
/// A backend may decode before it splits, so `%2f` ends a segment here too: `..%2f` is
/// as bad as `%2e%2e/`.
fn is_dot_segment(path: &[u8], at: usize) -> Result<bool, BadTarget> {
    let before = &path[..at];
    let after_coded_slash = at >= 3 && coded(path, at - 3) == Some(b'/') && before[at - 3] == b'%';
    if !after_coded_slash && before.last().is_some_and(|&b| b != b'/') {
        return Ok(false);
    }
    let mut is_coded = after_coded_slash;
    let mut next = at;
    for _ in 0..2 {
        match path.get(next) {
            Some(b'.') => next += 1,
            Some(b'%') if coded(path, next) == Some(b'.') => {
                next += 3;
                is_coded = true;
            }
            _ => break,
        }
    }
    match path.get(next) {
        None | Some(b'/' | b'?') => {}
        Some(b'%') if coded(path, next) == Some(b'/') => is_coded = true,
        Some(_) => return Ok(false),
    }
    if is_coded {
        Err(BadTarget::CodedDots)
    } else {
        Ok(true)
    }
}

/// The byte that `%xx` at `at` stands for.
fn coded(path: &[u8], at: usize) -> Option<u8> {
    let hex = |byte: u8| char::from(byte).to_digit(16);
    let (high, low) = (hex(*path.get(at + 1)?)?, hex(*path.get(at + 2)?)?);
    u8::try_from(high << 4 | low).ok()
}

fn has_bad_byte(query: &[u8]) -> bool {
    query.iter().any(|&b| KIND[usize::from(b)] == BAD)
}

/// RFC 3986, 5.2.4.
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

/// The host that an authority (a `Host` header) names: lower case, without port and
/// without the trailing dot; an IPv6 address in brackets, in its short form.
///
/// # Errors
/// If it is neither empty nor a name nor an address.
pub fn host_of(authority: &[u8]) -> Result<Cow<'_, str>, BadTarget> {
    if let Some(rest) = authority.strip_prefix(b"[") {
        let rest = std::str::from_utf8(rest).map_err(|_| BadTarget::Host)?;
        let (address, port) = rest.split_once(']').ok_or(BadTarget::Host)?;
        let address: Ipv6Addr = address.parse().map_err(|_| BadTarget::Host)?;
        return match port.strip_prefix(':') {
            Some(port) if is_port(port.as_bytes()) => Ok(Cow::Owned(format!("[{address}]"))),
            None if port.is_empty() => Ok(Cow::Owned(format!("[{address}]"))),
            _ => Err(BadTarget::Host),
        };
    }
    let mut end = authority.len();
    let mut has_upper = false;
    for (at, byte) in authority.iter().enumerate() {
        match HOST[usize::from(*byte)] {
            PLAIN => {}
            UPPER => has_upper = true,
            COLON if at > 0 && is_port(&authority[at + 1..]) => {
                end = at;
                break;
            }
            _ => return Err(BadTarget::Host),
        }
    }
    let host = &authority[..end];
    let name = host.strip_suffix(b".").unwrap_or(host);
    // One dot at the end is the root's; of two, others might leave one, or both.
    if name.is_empty() != host.is_empty() || name.ends_with(b".") || name.len() > 253 {
        return Err(BadTarget::Host);
    }
    let name = std::str::from_utf8(name).map_err(|_| BadTarget::Host)?;
    if has_upper {
        return Ok(Cow::Owned(name.to_ascii_lowercase()));
    }
    Ok(Cow::Borrowed(name))
}

fn is_port(text: &[u8]) -> bool {
    text.len() <= 5 && text.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(raw: &str) -> Result<String, BadTarget> {
        let normalised = normalise(raw.as_bytes())?;
        let target = normalised
            .rewritten()
            .unwrap_or_else(|| raw.as_bytes().to_vec());
        Ok(String::from_utf8(target).unwrap())
    }

    #[test]
    fn literal_dot_segments_are_resolved() {
        for (raw, normal) in [
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/..", "/"),
            ("/.", "/"),
            ("/../../x", "/x"),
            ("/a//../b", "/a/b"),
            ("/_next/static/../../dynamic", "/dynamic"),
            ("/a/../b?x=/../y", "/b?x=/../y"),
        ] {
            assert_eq!(path(raw).as_deref(), Ok(normal), "{raw}");
        }
    }

    #[test]
    fn the_rest_stays_byte_for_byte_and_costs_nothing() {
        for raw in [
            "/",
            "/a",
            "/a//b/",
            "//evil.test/x",
            "/%69sr",
            "/a%2Fb",
            "/A/%c3%A9",
            "/.well-known/x",
            "/a...b/..c/...",
            "/a/..%20",
            "/%252e%252e/",
            "/?a=1&b=%2e%2e/../%zz\\",
            "/x?",
            "*",
        ] {
            assert_eq!(path(raw).as_deref(), Ok(raw));
            assert_eq!(normalise(raw.as_bytes()).unwrap().rewritten(), None);
        }
        assert!(normalise(b"/caf\xe9").unwrap().rewritten().is_none());
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for (raw, why) in [
            ("/%2e%2e/x", BadTarget::CodedDots),
            ("/a/.%2E", BadTarget::CodedDots),
            ("/a/%2e?x", BadTarget::CodedDots),
            ("/a/..%2fb", BadTarget::CodedDots),
            ("/a%2F../b", BadTarget::CodedDots),
            ("/a%2f%2e%2e", BadTarget::CodedDots),
            ("/a%00", BadTarget::Nul),
            ("/a%5cb", BadTarget::Backslash),
            ("/a%5Cb", BadTarget::Backslash),
            ("/a\\b", BadTarget::Backslash),
            ("/%zz", BadTarget::Percent),
            ("/a%4", BadTarget::Percent),
            ("/a%", BadTarget::Percent),
            ("/a b", BadTarget::Byte),
            ("/a\tb", BadTarget::Byte),
            ("/a\u{7f}", BadTarget::Byte),
            ("/a#b", BadTarget::Byte),
            ("/a?b#c", BadTarget::Byte),
            ("/a?b\r\nc", BadTarget::Byte),
            ("", BadTarget::Form),
            ("a/b", BadTarget::Form),
            ("?x", BadTarget::Form),
            ("ftp://x/", BadTarget::Form),
            ("http:///x", BadTarget::Form),
            ("http://host\\x/", BadTarget::Form),
            ("example.com:443", BadTarget::Form),
        ] {
            assert_eq!(path(raw), Err(why), "{raw:?}");
        }
    }

    #[test]
    fn absolute_targets_give_path_and_authority() {
        for (raw, authority, normal) in [
            ("http://a.test/x?y", "a.test", "/x?y"),
            ("HTTPS://A.test:81", "A.test:81", "/"),
            ("http://a.test?y", "a.test", "/?y"),
            ("http://a.test/b/../c", "a.test", "/c"),
        ] {
            let normalised = normalise(raw.as_bytes()).unwrap();
            assert_eq!(normalised.authority, Some(authority.as_bytes()));
            assert_eq!(normalised.rewritten().unwrap(), normal.as_bytes());
        }
    }

    #[test]
    fn hosts_lose_case_port_and_trailing_dot() {
        for (authority, host) in [
            ("Example.COM", "example.com"),
            ("example.com:8080", "example.com"),
            ("example.com.", "example.com"),
            ("example.com.:80", "example.com"),
            ("example.com:", "example.com"),
            ("my_app", "my_app"),
            ("127.0.0.1:3000", "127.0.0.1"),
            ("[::1]:3000", "[::1]"),
            ("[0:0:0:0:0:0:0:1]", "[::1]"),
            ("", ""),
        ] {
            assert_eq!(host_of(authority.as_bytes()).as_deref(), Ok(host));
        }
        for authority in [
            "a b", "a/b", "a@b", "::1", "[::1", "[x]", "[::1]x", ":80", ".", "..", "a.test..",
            "a:b", "é", "a,b", "a:999999", "a%2e",
        ] {
            assert_eq!(
                host_of(authority.as_bytes()),
                Err(BadTarget::Host),
                "{authority}"
            );
        }
    }

    /// Bytes that make trouble more often than any bytes would.
    fn troublesome() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"/".to_vec()),
            Just(b".".to_vec()),
            Just(b"..".to_vec()),
            Just(b"%2e".to_vec()),
            Just(b"%2E".to_vec()),
            Just(b"%2f".to_vec()),
            Just(b"%2".to_vec()),
            Just(b"%".to_vec()),
            Just(b"?".to_vec()),
            Just(b"a".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..3),
        ];
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| {
            let mut raw = b"/".to_vec();
            raw.extend(pieces.concat());
            raw
        })
    }

    proptest! {
        #[test]
        fn no_bytes_panic(raw in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _unused = (normalise(&raw).is_ok(), host_of(&raw).is_ok());
        }

        #[test]
        fn the_normal_form_is_stable_and_has_no_dot_segment(raw in troublesome()) {
            if let Ok(normalised) = normalise(&raw) {
                let target = normalised.rewritten().unwrap_or_else(|| raw.clone());
                let again = normalise(&target).unwrap();
                prop_assert_eq!(again.rewritten(), None);
                prop_assert_eq!(&again.path, &normalised.path);
                prop_assert_eq!(again.query, normalised.query);
                let decoded = decode(&again.path);
                prop_assert!(decoded.split(|&b| b == b'/').all(|s| s != b"." && s != b".."));
                prop_assert_eq!(again.path.first(), Some(&b'/'));
            }
        }
    }

    /// What a backend sees that decodes before it splits.
    fn decode(path: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut at = 0;
        while at < path.len() {
            match coded(path, at) {
                Some(byte) if path[at] == b'%' => {
                    out.push(byte);
                    at += 3;
                }
                _ => {
                    out.push(path[at]);
                    at += 1;
                }
            }
        }
        out
    }
}
