//! Request line (RFC 9112, 3).

use edgeway_routes::host_of;

use super::{
    byte_search::{PIECE, is_plain_target},
    problem::HeadError,
};

/// No registered method has more than 17 letters.
const MAX_METHOD_LEN: usize = 32;

/// Parts of a request line that matter for the rest of the head.
#[derive(Debug)]
pub(super) struct RequestLine {
    pub(super) is_http_11: bool,
    /// Range of the authority in the line, if the target is in absolute form.
    pub(super) authority: Option<std::ops::Range<usize>>,
}

const BAD: u8 = 0;
const GOOD: u8 = 1;
const MARK: u8 = 2;
const IN_QUERY: u8 = 3;

/// Bytes of a target. In addition to RFC 3986 they include those that browsers leave unencoded: `[
/// ] | ^ { } \` and, in the query, the grave accent; and those that other clients do in a query: `"
/// < >`, which are encoded when the request is read. Any other byte would be encoded or refused on
/// the way, so the target would differ from the one that was scanned.
const TARGET: [u8; 256] = {
    let mut kind = [BAD; 256];
    let mut byte = b'!';
    while byte < 0x7f {
        kind[byte as usize] = match byte {
            b'#' => BAD,
            b'"' | b'<' | b'>' | b'`' => IN_QUERY,
            b'?' => MARK,
            _ => GOOD,
        };
        byte += 1;
    }
    kind
};

impl RequestLine {
    /// Reads `METHOD SP target SP HTTP/1.x`, which begins the head.
    pub(super) fn read(line: &[u8], longest: usize) -> Result<Self, HeadError> {
        if line.len() > longest {
            return Err(HeadError::LongLine);
        }
        if line.is_empty() {
            return Err(HeadError::EmptyLine);
        }
        let is_method_byte = |byte: &u8| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_');
        let method = line
            .iter()
            .position(|byte| !is_method_byte(byte))
            .unwrap_or(line.len());
        if method == 0 || method > MAX_METHOD_LEN || line.get(method) != Some(&b' ') {
            return Err(HeadError::Method);
        }
        let (method, rest) = (&line[..method], &line[method + 1..]);
        let (target, is_http_11) = match rest.split_last_chunk::<9>() {
            Some((target, b" HTTP/1.1")) => (target, true),
            Some((target, b" HTTP/1.0")) => (target, false),
            _ => return Err(version_problem(rest)),
        };
        if matches!(method, b"TRACE" | b"CONNECT") {
            return Err(HeadError::MethodNotAllowed);
        }
        check_bytes(target)?;
        let from = method.len() + 1;
        let authority = match target {
            [b'/', ..] => None,
            b"*" if method == b"OPTIONS" => None,
            _ => {
                let range = authority(target).ok_or(HeadError::TargetForm)?;
                Some(from + range.start..from + range.end)
            }
        };
        Ok(Self {
            is_http_11,
            authority,
        })
    }
}

/// Returns the problem of a line that does not end with a supported version.
#[cold]
fn version_problem(rest: &[u8]) -> HeadError {
    if rest == b"* HTTP/2.0" {
        return HeadError::Http2;
    }
    match rest.rsplit(|byte| *byte == b' ').next() {
        Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor])
            if major.is_ascii_digit()
                && minor.is_ascii_digit()
                && rest.len() > b" HTTP/1.1".len()
                && !matches!((major, minor), (b'1', b'0' | b'1')) =>
        {
            HeadError::Version
        }
        _ => HeadError::RequestLine,
    }
}

#[inline]
fn check_bytes(target: &[u8]) -> Result<(), HeadError> {
    let (pieces, rest) = target.as_chunks::<PIECE>();
    // The remaining bytes are checked together with some that were already checked.
    let is_plain = pieces.iter().all(is_plain_target)
        && match target.last_chunk::<PIECE>() {
            Some(last) => is_plain_target(last),
            None => rest.iter().all(|byte| TARGET[usize::from(*byte)] == GOOD),
        };
    if is_plain {
        return Ok(());
    }
    check_one_by_one(target)
}

fn check_one_by_one(target: &[u8]) -> Result<(), HeadError> {
    let mut path = target.iter();
    let is_path_done = path.find(|byte| TARGET[usize::from(**byte)] != GOOD);
    match is_path_done.map(|byte| TARGET[usize::from(*byte)]) {
        None => Ok(()),
        Some(MARK) if path.all(|byte| TARGET[usize::from(*byte)] != BAD) => Ok(()),
        Some(_) if target.contains(&b' ') => Err(HeadError::RequestLine),
        Some(_) => Err(HeadError::TargetByte),
    }
}

/// Returns the range of the authority in `http://host/path`, or `None` for another form of target.
#[cold]
fn authority(target: &[u8]) -> Option<std::ops::Range<usize>> {
    let from = ["http://", "https://"].iter().find_map(|scheme| {
        let start = target.get(..scheme.len())?;
        start
            .eq_ignore_ascii_case(scheme.as_bytes())
            .then_some(scheme.len())
    })?;
    let rest = &target[from..];
    let length = rest
        .iter()
        .position(|byte| matches!(byte, b'/' | b'?'))
        .unwrap_or(rest.len());
    let host = host_of(&rest[..length]).ok()?;
    (!host.is_empty()).then_some(from..from + length)
}
