//! Header section of a backend's response (RFC 9112, 4 to 6), and the framing of its body.

use std::mem::MaybeUninit;

use bytes::{Buf as _, Bytes, BytesMut};
use edgeway_base::http::{decimal, has, list, list_of, values};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use httparse::{ParserConfig, Status};
use pingora::{
    Error, ErrorType, Result,
    http::{ResponseHeader, header_value_from_raw},
};

use super::name;

/// Limit on headers of a response, the same as Pingora's.
const MAX_FIELDS: usize = 256;
/// Limit on the length of a header section, the same as Pingora's.
const MAX_LENGTH: usize = 1_048_575;
/// Limit on the length of a name in the log; a longer one is cut off.
const MAX_NAME: usize = 64;
/// Names that the gateway adds to a usual response.
const MORE_FIELDS: usize = 12;

/// Framing of a response's body (RFC 9112, 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is no body, whatever the headers say.
    None,
    Length(u64),
    Chunked,
    /// The body ends with the connection.
    UntilClose,
}

/// Memory of a response's header values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ValueMemory {
    /// The buffer that was read into, for headers that are written at once.
    Input,
    /// Memory of its own for each, for headers of which some stay, and would keep all of the buffer.
    Own,
}

/// Takes a header section out of `input`; `None` if it is not complete yet.
pub(crate) fn parse(input: &mut BytesMut, memory: ValueMemory) -> Result<Option<ResponseHeader>> {
    let empty_lines = input
        .iter()
        .take_while(|byte| matches!(byte, b'\r' | b'\n'));
    let empty_lines = empty_lines.count();
    input.advance(empty_lines);
    // RFC 9110, 2.5: a later minor version is read as the latest that is known.
    let minor = input.get(7).filter(|_| input.starts_with(b"HTTP/1."));
    if minor.is_some_and(|minor| (b'2'..=b'9').contains(minor)) {
        input[7] = b'1';
    }
    let mut room = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut read = httparse::Response::new(&mut []);
    let mut config = ParserConfig::default();
    config.allow_spaces_after_header_name_in_responses(true);
    config.allow_obsolete_multiline_headers_in_responses(true);
    let Some(length) = section_length(input) else {
        if input.len() > MAX_LENGTH {
            return Err(invalid("longer than 1 MiB"));
        }
        // A backend that speaks another protocol is found out before its deadline.
        return match config.parse_response_with_uninit_headers(&mut read, input, &mut room) {
            Ok(_) => Ok(None),
            Err(error) => Err(unreadable(input, error)),
        };
    };
    let section = input.split_to(length).freeze();
    match config.parse_response_with_uninit_headers(&mut read, &section, &mut room) {
        Ok(Status::Complete(_)) => {}
        Ok(Status::Partial) => return Err(invalid("incomplete")),
        Err(error) => return Err(unreadable(&section, error)),
    }
    let (mut parts, ()) = http::Response::new(()).into_parts();
    let status = read.code.and_then(|code| StatusCode::from_u16(code).ok());
    parts.status = status.ok_or_else(|| invalid("no status"))?;
    parts.version = match read.version {
        Some(1) => Version::HTTP_11,
        _ => Version::HTTP_10,
    };
    parts.headers.reserve(read.headers.len() + MORE_FIELDS);
    for field in read.headers.iter().filter(|field| !field.name.is_empty()) {
        let name = name::read(field.name.as_bytes());
        let name = name.ok_or_else(|| invalid("a name is invalid"))?;
        if name == header::CONNECTION && field.value == b"keep-alive" && read.version == Some(1) {
            // Says what HTTP/1.1 means without it (RFC 9112, 9.3).
            continue;
        }
        let value = match memory {
            ValueMemory::Input => HeaderValue::from_maybe_shared(section.slice_ref(field.value)),
            ValueMemory::Own => HeaderValue::from_bytes(field.value),
        };
        // A value on several lines (RFC 9112, 5.2).
        let several = |_| header_value_from_raw(Bytes::copy_from_slice(field.value));
        let value = value.unwrap_or_else(several);
        parts.headers.append(name, value);
    }
    let usual = parts.status.canonical_reason();
    let mut response = ResponseHeader::from(parts);
    if read.reason != usual {
        response.set_reason_phrase(read.reason)?;
    }
    Ok(Some(response))
}

/// Returns the length of the header section with the empty line that ends it.
fn section_length(input: &[u8]) -> Option<usize> {
    memchr::memchr_iter(b'\n', input).find_map(|end| match input.get(end + 1..)? {
        [b'\n', ..] => Some(end + 2),
        [b'\r', b'\n', ..] => Some(end + 3),
        _ => None,
    })
}

/// Creates the error of a message that is not valid HTTP, of a backend unless its reader says
/// otherwise.
#[cold]
pub(crate) fn invalid(why: &'static str) -> Box<Error> {
    Error::explain(ErrorType::InvalidHTTPHeader, why).into_up()
}

#[cold]
fn unreadable(section: &[u8], error: httparse::Error) -> Box<Error> {
    let name = faulty_name(section).map(|name| format!(", header `{name}`"));
    let length = section.len();
    let why = format!("{error} in {length} bytes{}", name.unwrap_or_default());
    Error::because(ErrorType::InvalidHTTPHeader, "reading a response", why).into_up()
}

/// Returns the name of the first header whose value has a byte that no value can have. Nothing else
/// of the section may be logged.
fn faulty_name(section: &[u8]) -> Option<HeaderName> {
    let is_control = |byte: &u8| byte.is_ascii_control() && !matches!(byte, b'\t' | b'\r');
    let mut lines = section.split(|byte| *byte == b'\n').skip(1);
    let faulty = lines.find(|line| line.iter().any(is_control))?;
    let end = memchr::memchr(b':', faulty)?;
    HeaderName::from_bytes(&faulty[..end.min(MAX_NAME)]).ok()
}

impl Framing {
    /// Finds the framing of the `response` to a request with this `method`. A length beside a
    /// transfer coding is removed (RFC 9112, 6.3).
    pub(crate) fn for_response(method: &Method, response: &mut ResponseHeader) -> Result<Self> {
        let mut has_coding = has(&response.headers, &header::TRANSFER_ENCODING);
        if has_coding && is_coding(&response.headers, b"identity") {
            // It was no coding (RFC 2616, 3.6), and nginx ignores it.
            response.remove_header(&header::TRANSFER_ENCODING);
            has_coding = false;
        }
        if has_coding {
            response.remove_header(&header::CONTENT_LENGTH);
            // The trailers that it announces are dropped with the chunks.
            response.remove_header(&header::TRAILER);
        }
        let stated = stated_length(response)?;
        let has_no_body = *method == Method::HEAD
            || response.status.is_informational()
            || matches!(
                response.status,
                StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
            );
        if has_no_body {
            // The coding is that of this hop, and the client's may have another one or none.
            response.remove_header(&header::TRANSFER_ENCODING);
            return Ok(Self::None);
        }
        if has_coding {
            // No request says that it takes another one (`TE`), which the cache and HTTP/2 clients
            // would get undecoded.
            if !is_coding(&response.headers, b"chunked") {
                return Err(invalid("Transfer-Encoding has more than `chunked`"));
            }
            let lines = values(&response.headers, &header::TRANSFER_ENCODING);
            if lines.map(HeaderValue::as_bytes).ne([b"chunked"]) {
                // Not every client understands `, chunked`.
                response.insert_header(header::TRANSFER_ENCODING, "chunked")?;
            }
            return Ok(Self::Chunked);
        }
        Ok(stated.map_or(Self::UntilClose, Self::Length))
    }
}

/// Returns true if this is the only transfer coding (RFC 9112, 6.1), once.
fn is_coding(headers: &HeaderMap, only: &[u8]) -> bool {
    let mut codings = list_of(headers, &header::TRANSFER_ENCODING);
    codings
        .next()
        .is_some_and(|coding| coding.eq_ignore_ascii_case(only))
        && codings.next().is_none()
}

/// Returns the length that all of `Content-Length` states (RFC 9110, 8.6), which is then written once,
/// as a plain number: not every client understands several, or zeros in front.
pub(crate) fn stated_length(response: &mut ResponseHeader) -> Result<Option<u64>> {
    if let Some(length) = plain_length(&response.headers) {
        return Ok(Some(length));
    }
    let mut stated: Option<(u64, bool)> = None;
    let lines = values(&response.headers, &header::CONTENT_LENGTH);
    for text in lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')) {
        match (decimal(text.trim_ascii()), stated) {
            (Some(length), None) => stated = Some((length, text.len() == 1 || text[0] != b'0')),
            (Some(length), Some((before, _))) if length == before => stated = Some((length, false)),
            _ => return Err(invalid("invalid Content-Length")),
        }
    }
    if let Some((length, false)) = stated {
        response.insert_header(header::CONTENT_LENGTH, length)?;
    }
    Ok(stated.map(|(length, _)| length))
}

/// Returns the length that one `Content-Length` states as a plain number.
fn plain_length(headers: &HeaderMap) -> Option<u64> {
    let mut lines = values(headers, &header::CONTENT_LENGTH).map(HeaderValue::as_bytes);
    let (Some(only), None) = (lines.next(), lines.next()) else {
        return None;
    };
    decimal(only).filter(|_| only.len() == 1 || only[0] != b'0')
}

/// Returns true if the backend keeps the connection after `response`.
pub(crate) fn is_kept_alive(response: &ResponseHeader) -> bool {
    let is_option = |option: &[u8]| {
        let mut lines = values(&response.headers, &header::CONNECTION);
        lines.any(|line| list(line.as_bytes()).any(|it| it.eq_ignore_ascii_case(option)))
    };
    if response.status == StatusCode::NO_CONTENT
        && (response.headers.contains_key(header::TRANSFER_ENCODING)
            || response
                .headers
                .get(header::CONTENT_LENGTH)
                .is_some_and(|it| it != "0"))
    {
        // What follows would be read as the beginning of the next response.
        return false;
    }
    if response.version == Version::HTTP_11 {
        return !is_option(b"close");
    }
    // RFC 9112, 6.1 and 9.3.
    is_option(b"keep-alive")
        && !is_option(b"close")
        && !response.headers.contains_key(header::TRANSFER_ENCODING)
}
