//! Headers and parameters that frameworks use internally: no client may send them, and none gets them.

use edgeway_upstreams::NODE_REPORT_HEADER;
use http::HeaderName;
use pingora::http::{RequestHeader, ResponseHeader};

use crate::hop_by_hop;

/// Returns the headers of this request that must not reach a backend. Usually there are none, and
/// then this allocates nothing.
pub(super) fn doomed_names(request: &RequestHeader) -> Vec<HeaderName> {
    let mut doomed = Vec::new();
    for name in request.headers.keys() {
        let text = name.as_str().as_bytes();
        let is_doomed = match text[0] {
            b'x' => text.starts_with(b"x-") && is_internal_x(&text[2..], request),
            b'n' => text == b"next-resume",
            b'c' | b'h' | b'k' | b'p' | b't' | b'u' => hop_by_hop::is_hop_by_hop(text),
            _ => false,
        };
        doomed.extend(is_doomed.then(|| name.clone()));
    }
    doomed
}

/// Checks for headers that frameworks use internally; `name` comes without its `x-`.
fn is_internal_x(name: &[u8], request: &RequestHeader) -> bool {
    // The router sends these two.
    if matches!(name, b"middleware-prefetch" | b"nextjs-data") {
        return !asks_for_data(request.raw_path());
    }
    match name.first() {
        Some(b'm') => name.starts_with(b"middleware-") || name == b"matched-path",
        Some(b'i') => name.starts_with(b"invoke-"),
        Some(b'n') => {
            name == b"now-route-matches"
                || name.starts_with(b"nextjs-rewritten-")
                || name.starts_with(b"next-revalidate")
                || name.starts_with(b"next-resume-")
        }
        Some(b'p') => name.starts_with(b"prerender-revalidate"),
        Some(b'v') => name.starts_with(b"vercel-"),
        _ => false,
    }
}

/// Returns true below `/_next/data/` (perhaps under a base path), where the router asks for the
/// data of pages.
fn asks_for_data(target: &[u8]) -> bool {
    let path = target.split(|b| *b == b'?').next().unwrap_or(target);
    path.windows(b"/_next/data/".len())
        .any(|part| part == b"/_next/data/")
}

/// Removes Next.js's internal parameters from the query. The rest stays byte for byte.
pub(super) fn strip_internal_query(request: &mut RequestHeader) {
    let target = request.raw_path();
    let Some(mark) = target.iter().position(|b| *b == b'?') else {
        return;
    };
    let (path, query) = (&target[..mark], &target[mark + 1..]);
    if !query.split(|b| *b == b'&').any(is_internal_parameter) {
        return;
    }
    let mut remaining = path.to_vec();
    for parameter in query
        .split(|b| *b == b'&')
        .filter(|parameter| !is_internal_parameter(parameter))
    {
        remaining.push(if remaining.len() == path.len() {
            b'?'
        } else {
            b'&'
        });
        remaining.extend_from_slice(parameter);
    }
    let set = request.set_raw_path(&remaining);
    debug_assert!(set.is_ok(), "a shorter query is as good as the whole one");
}

/// Returns true if a parameter's name, once decoded, is `nxtP…`, `nxtI…` or `__nextDataReq`.
fn is_internal_parameter(parameter: &[u8]) -> bool {
    const MAX_MARK_LEN: usize = b"__nextDataReq=".len();
    // A name with another first byte belongs to some app; `%` may hide either first byte.
    if !matches!(parameter.first(), Some(b'n' | b'_' | b'%')) {
        return false;
    }
    let mut name = [0u8; MAX_MARK_LEN];
    let mut length = 0;
    let mut rest = parameter;
    while length < MAX_MARK_LEN {
        let (byte, used) = match rest {
            [] | [b'=', ..] => break,
            [b'%', high, low, ..] => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, 3),
                _ => (b'%', 1),
            },
            [byte, ..] => (*byte, 1),
        };
        name[length] = byte;
        length += 1;
        rest = &rest[used..];
    }
    let name = &name[..length];
    name.starts_with(b"nxtP") || name.starts_with(b"nxtI") || name == b"__nextDataReq"
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Removes headers that a framework's middleware sends to its own server, and those that an app
/// sends to the gateway. Those stay that the router in the browser reads: `x-nextjs-*`,
/// `x-action-*`, `x-middleware-skip` and `x-middleware-cache`.
pub fn strip_internal_response(response: &mut ResponseHeader) {
    let is_doomed = |name: &&HeaderName| is_internal_response(name);
    let doomed: Vec<HeaderName> = response.headers.keys().filter(is_doomed).cloned().collect();
    for name in doomed {
        response.remove_header(&name);
    }
}

/// Returns true if [`strip_internal_response`] removes the header.
pub fn is_internal_response(name: &HeaderName) -> bool {
    // Most names of most responses are ruled out by their first two bytes.
    let Some(rest) = name.as_str().strip_prefix("x-") else {
        return false;
    };
    let is_routers = matches!(rest, "middleware-skip" | "middleware-cache");
    rest.starts_with("middleware-") && !is_routers || *name == NODE_REPORT_HEADER
}
