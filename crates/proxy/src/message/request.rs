//! Header section of a request: a client's is read, and one for a backend is written.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use edgeway_base::http::{has, has_token};
use http::{HeaderValue, Method, Uri, Version, header, uri::PathAndQuery};
use pingora::{Error, ErrorType, Result, http::RequestHeader};

use super::name;

/// Limit on headers of a request, the same as Pingora's.
const MAX_FIELDS: usize = 256;
/// Capacity that fits most header sections.
const SECTION: usize = 1024;

/// Parses a header section that the edge has scanned. Returns `None` if it is not one: the scan
/// lets none pass that this refuses, but for their number.
pub(crate) fn parse(section: &Bytes) -> Option<RequestHeader> {
    let mut room = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut read = httparse::Request::new(&mut []);
    read.parse_with_uninit_headers(section, &mut room).ok()?;
    let version = match read.version? {
        1 => Version::HTTP_11,
        _ => Version::HTTP_10,
    };
    let fields = read.headers.iter().map(|field| {
        let name = name::read(field.name.as_bytes())?;
        let value = HeaderValue::from_maybe_shared(section.slice_ref(field.value)).ok()?;
        Some((name, value))
    });
    let (method, target) = (read.method?, read.path?.as_bytes());
    if !target.starts_with(b"/") || !target.is_ascii() {
        // The form of requests to proxies (RFC 9112, 3.2.2), and `*`.
        let mut request =
            RequestHeader::build_no_case(method, &encoded(target), Some(fields.len())).ok()?;
        request.set_version(version);
        for field in fields {
            let (name, value) = field?;
            request.append_header(name, value).ok()?;
        }
        return Some(request);
    }
    // The URI keeps the target byte for byte, but for what it cannot hold.
    let kept = PathAndQuery::from_maybe_shared(section.slice_ref(target));
    let target = kept
        .or_else(|_| PathAndQuery::try_from(encoded(target)))
        .ok()?;
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = Method::from_bytes(method.as_bytes()).ok()?;
    parts.uri = Uri::from(target);
    parts.version = version;
    parts.headers.reserve(fields.len());
    for field in fields {
        let (name, value) = field?;
        parts.headers.append(name, value);
    }
    Some(RequestHeader::from(parts))
}

/// Percent-encodes quotes and angle brackets in the query of a target, as browsers do it.
#[cold]
fn encoded(target: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(target.len() + 16);
    for byte in target {
        match byte {
            b'"' => encoded.extend_from_slice(b"%22"),
            b'<' => encoded.extend_from_slice(b"%3C"),
            b'>' => encoded.extend_from_slice(b"%3E"),
            other => encoded.push(*other),
        }
    }
    encoded
}

/// Returns true if the client wants to keep its connection after the response (RFC 9112, 9.3).
pub(crate) fn is_kept(request: &RequestHeader) -> bool {
    let is_http11 = request.version == Version::HTTP_11;
    let headers = &request.headers;
    // Most clients say nothing, and one pass over the names costs less than a lookup.
    if !has(headers, &header::CONNECTION) {
        return is_http11;
    }
    !has_token(headers, &header::CONNECTION, "close")
        && (is_http11 || has_token(headers, &header::CONNECTION, "keep-alive"))
}

/// Writes the header section of `request` with `lines` at its end, as HTTP/1.1 whatever its client
/// speaks. Names have the spelling that Pingora gives them.
pub(crate) fn write_section(
    request: &RequestHeader,
    lines: &[u8],
    out: &mut BytesMut,
) -> Result<()> {
    let path = request.raw_path();
    // RFC 9112, 3: these would end the target or the line.
    if path
        .iter()
        .any(|byte| matches!(byte, b'\0' | b'\n' | b'\r' | b' '))
    {
        let why = "the target has bytes that no request line can have";
        return Err(Error::explain(ErrorType::InvalidHTTPHeader, why));
    }
    out.reserve(SECTION);
    out.extend_from_slice(request.method.as_str().as_bytes());
    out.extend_from_slice(b" ");
    out.extend_from_slice(path);
    out.extend_from_slice(b" HTTP/1.1\r\n");
    request.header_to_h1_wire(out);
    out.extend_from_slice(lines);
    out.extend_from_slice(b"\r\n");
    Ok(())
}
