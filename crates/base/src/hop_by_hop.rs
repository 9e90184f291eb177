//! Hop-by-hop headers of requests (RFC 9110, 7.6.1).

use http::{HeaderMap, HeaderName, header};

use crate::http::{is_token_byte, list_of};

/// Number of names in `Connection` from which the header is refused, as an attempt to cause work.
const MAX_NOMINATED: usize = 10;

/// `Connection` header that cannot be followed: not a list of names, too long, or it would remove
/// headers that identify the client or the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadConnection;

/// Returns true if the header, named in lower case, is hop-by-hop.
pub fn is_hop_by_hop(name: &[u8]) -> bool {
    match name.first() {
        Some(b'c') => name == b"connection",
        Some(b'h') => name == b"http2-settings",
        Some(b'k') => name == b"keep-alive",
        Some(b'p') => matches!(
            name,
            b"proxy-authenticate" | b"proxy-authorization" | b"proxy-connection"
        ),
        Some(b't') => matches!(name, b"te" | b"trailer" | b"transfer-encoding"),
        Some(b'u') => name == b"upgrade",
        _ => false,
    }
}

/// Adds to `doomed` the headers that `Connection` nominates as hop-by-hop, except those that always
/// are: they are still to be read here.
///
/// # Errors
///
/// If `Connection` cannot be followed.
pub fn nominated(headers: &HeaderMap, doomed: &mut Vec<HeaderName>) -> Result<(), BadConnection> {
    let mut lines = headers.get_all(header::CONNECTION).iter();
    if let (Some(line), None) = (lines.next(), lines.next()) {
        // The value of nearly all requests.
        let is = |word: &[u8]| line.as_bytes().eq_ignore_ascii_case(word);
        if is(b"keep-alive") || is(b"close") || is(b"upgrade") {
            return Ok(());
        }
    }
    for (count, token) in list_of(headers, &header::CONNECTION).enumerate() {
        if count + 1 >= MAX_NOMINATED || !token.iter().all(|b| is_token_byte(*b)) {
            return Err(BadConnection);
        }
        match token.to_ascii_lowercase().as_slice() {
            b"close" => {}
            name if is_hop_by_hop(name) => {}
            b"host" | b"content-length" | b"x-forwarded-for" | b"x-forwarded-host"
            | b"x-forwarded-proto" => {
                return Err(BadConnection);
            }
            name => doomed.push(HeaderName::from_bytes(name).map_err(|_| BadConnection)?),
        }
    }
    Ok(())
}
