//! Single table of problems of a head: status, reason word, a sentence.

use std::fmt::Write as _;

use http::StatusCode;

use crate::connection::refusal::Refusal;

/// Length limit of a target in the log.
const LOGGED_TARGET: usize = 1024;
const LOGGED_METHOD: usize = 32;

/// Problem of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeadError {
    Tls,
    Http2,
    Control,
    BareLineEnd,
    EmptyLine,
    RequestLine,
    LongLine,
    Version,
    Method,
    MethodNotAllowed,
    TargetByte,
    TargetForm,
    LongHead,
    ManyHeaders,
    Name,
    Underscore,
    Fold,
    SpaceAfterName,
    Twice,
    Host,
    NoHost,
    TwoHosts,
    OtherHost,
    Length,
    TwoLengths,
    LengthAndCoding,
    Coding,
    CodingNotImplemented,
    OldCoding,
    Expectation,
    Timeout,
}

impl HeadError {
    /// Returns the status, and the reason word for log, metric and status page.
    fn response(self) -> (StatusCode, &'static str) {
        let bad = StatusCode::BAD_REQUEST;
        match self {
            Self::Tls
            | Self::Http2
            | Self::Control
            | Self::BareLineEnd
            | Self::EmptyLine
            | Self::RequestLine => (bad, "bad_request"),
            Self::LongLine => (StatusCode::URI_TOO_LONG, "long_line"),
            Self::Version => (StatusCode::HTTP_VERSION_NOT_SUPPORTED, "version"),
            Self::Method => (bad, "method"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method"),
            Self::TargetByte | Self::TargetForm => (bad, "bad_path"),
            Self::LongHead | Self::ManyHeaders => {
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "long_head")
            }
            Self::Name | Self::Underscore | Self::Fold | Self::SpaceAfterName | Self::Twice => {
                (bad, "bad_header")
            }
            Self::Host | Self::NoHost | Self::TwoHosts | Self::OtherHost => (bad, "bad_host"),
            Self::Length
            | Self::TwoLengths
            | Self::LengthAndCoding
            | Self::Coding
            | Self::OldCoding => (bad, "bad_framing"),
            Self::CodingNotImplemented => (StatusCode::NOT_IMPLEMENTED, "bad_framing"),
            Self::Expectation => (StatusCode::EXPECTATION_FAILED, "expectation"),
            Self::Timeout => (StatusCode::REQUEST_TIMEOUT, "header_timeout"),
        }
    }

    fn detail(self) -> &'static str {
        match self {
            Self::Tls => "This port speaks plain HTTP, and the client began with TLS.",
            Self::Http2 => "This port does not support HTTP/2, and the client began with it.",
            Self::Control => "The request has a control character.",
            Self::BareLineEnd => "A line of the request does not end with CR and LF.",
            Self::EmptyLine => "The request begins with too many empty lines.",
            Self::RequestLine => {
                "The first line is not a method, a target and a version with one space between."
            }
            Self::LongLine => "The address of the request is too long.",
            Self::Version => "This port supports HTTP/1.1 and HTTP/1.0.",
            Self::Method => "The request does not begin with a method in capital letters.",
            Self::MethodNotAllowed => "The methods TRACE and CONNECT are not supported.",
            Self::TargetByte => "The address has a character that must be percent-encoded.",
            Self::TargetForm => "The address is neither a path nor an http URL.",
            Self::LongHead => "The request's headers, including cookies, are too long.",
            Self::ManyHeaders => "The request has too many headers.",
            Self::Name => "A header has an invalid name.",
            Self::Underscore => "A header's name has an underscore.",
            Self::Fold => "A header line begins with a space.",
            Self::SpaceAfterName => "There is a space between a header's name and its colon.",
            Self::Twice => "A header that may occur once occurs twice.",
            Self::Host => "The Host header is invalid.",
            Self::NoHost => "There is no Host header.",
            Self::TwoHosts => "There is more than one Host header.",
            Self::OtherHost => "The address and the Host header name two hosts.",
            Self::Length => "The Content-Length is invalid.",
            Self::TwoLengths => "There is more than one Content-Length.",
            Self::LengthAndCoding => "There is both a Content-Length and a Transfer-Encoding.",
            Self::Coding => "The Transfer-Encoding is not `chunked`.",
            Self::CodingNotImplemented => "Only the Transfer-Encoding `chunked` is supported.",
            Self::OldCoding => "There is a Transfer-Encoding, which HTTP/1.0 does not have.",
            Self::Expectation => "Only the expectation `100-continue` is supported.",
            Self::Timeout => "The request took too long to arrive.",
        }
    }

    /// Returns the refusal of a head that begins with `input`.
    #[cold]
    pub(super) fn refused(self, input: &[u8]) -> Refusal {
        let (status, reason) = self.response();
        let (method, target) = first_words(input);
        Refusal {
            status,
            reason,
            detail: self.detail(),
            method,
            target,
        }
    }
}

/// Returns the refusal of a head that took too long; `input` is the part that arrived.
pub(in crate::edge) fn timeout(input: &[u8]) -> Refusal {
    HeadError::Timeout.refused(input)
}

/// Returns method and target as far as they can be read, for the log.
fn first_words(input: &[u8]) -> (Option<String>, Option<String>) {
    let is_line_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
    let end = input.iter().position(is_line_end).unwrap_or(input.len());
    let line = &input[..end];
    let Some(space) = line.iter().position(|byte| *byte == b' ') else {
        return (None, None);
    };
    let (method, rest) = (&line[..space], &line[space + 1..]);
    let is_method = !method.is_empty()
        && method.len() <= LOGGED_METHOD
        && method
            .iter()
            .all(|byte| byte.is_ascii_alphabetic() || matches!(byte, b'-' | b'_'));
    if !is_method {
        return (None, None);
    }
    let version = rest.windows(6).rposition(|piece| piece == b" HTTP/");
    let target = &rest[..version.unwrap_or(rest.len())];
    let mut text = String::new();
    for byte in &target[..target.len().min(LOGGED_TARGET)] {
        // A byte that is not allowed in a target is shown percent-encoded.
        match byte {
            b'!'..=b'~' if !matches!(byte, b'"' | b'<' | b'>' | b'`' | b'#') => {
                text.push(char::from(*byte));
            }
            // Writing to a string cannot fail.
            _ => drop(write!(text, "%{byte:02X}")),
        }
    }
    let method = String::from_utf8_lossy(method).into_owned();
    (Some(method), Some(text).filter(|text| !text.is_empty()))
}
