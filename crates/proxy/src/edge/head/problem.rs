//! Single table of problems of a head: status, reason word, a sentence.

use http::StatusCode;
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

use crate::connection::refusal::Refusal;

/// Length limit of a target in the log.
const LOGGED_TARGET: usize = 1024;
const LOGGED_METHOD: usize = 32;
/// Characters that the log shows percent-encoded, as they are not allowed in a target.
const NOT_IN_TARGETS: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'`')
    .add(b'#');

edgeway_base::enum_table! {
    /// Problem of a head, with its status, the reason word for log, metric and status page, and a
    /// sentence for the reader of the page.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum HeadError => row: (u16, &'static str, &'static str) {
        Tls = (400, "bad_request", "This port speaks plain HTTP, and the client began with TLS."),
        Http2 =
            (400, "bad_request",
            "This port does not support HTTP/2, and the client began with it."),
        Control = (400, "bad_request", "The request has a control character."),
        BareLineEnd = (400, "bad_request", "A line of the request does not end with CR and LF."),
        EmptyLine = (400, "bad_request", "The request begins with too many empty lines."),
        RequestLine =
            (400, "bad_request",
            "The first line is not a method, a target and a version with one space between."),
        LongLine = (414, "long_line", "The address of the request is too long."),
        Version = (505, "version", "This port supports HTTP/1.1 and HTTP/1.0."),
        Method = (400, "method", "The request does not begin with a method in capital letters."),
        MethodNotAllowed = (405, "method", "The methods TRACE and CONNECT are not supported."),
        TargetByte = (400, "bad_path", "The address has a character that must be percent-encoded."),
        TargetForm = (400, "bad_path", "The address is neither a path nor an http URL."),
        LongHead = (431, "long_head", "The request's headers, including cookies, are too long."),
        ManyHeaders = (431, "long_head", "The request has too many headers."),
        Name = (400, "bad_header", "A header has an invalid name."),
        Underscore = (400, "bad_header", "A header's name has an underscore."),
        Fold = (400, "bad_header", "A header line begins with a space."),
        SpaceAfterName =
            (400, "bad_header", "There is a space between a header's name and its colon."),
        Twice = (400, "bad_header", "A header that may occur once occurs twice."),
        Host = (400, "bad_host", "The Host header is invalid."),
        NoHost = (400, "bad_host", "There is no Host header."),
        TwoHosts = (400, "bad_host", "There is more than one Host header."),
        OtherHost = (400, "bad_host", "The address and the Host header name two hosts."),
        Length = (400, "bad_framing", "The Content-Length is invalid."),
        TwoLengths = (400, "bad_framing", "There is more than one Content-Length."),
        LengthAndCoding =
            (400, "bad_framing", "There is both a Content-Length and a Transfer-Encoding."),
        Coding = (400, "bad_framing", "The Transfer-Encoding is not `chunked`."),
        CodingNotImplemented =
            (501, "bad_framing", "Only the Transfer-Encoding `chunked` is supported."),
        OldCoding =
            (400, "bad_framing", "There is a Transfer-Encoding, which HTTP/1.0 does not have."),
        Expectation = (417, "expectation", "Only the expectation `100-continue` is supported."),
        Timeout = (408, "header_timeout", "The request took too long to arrive."),
    }
}

impl HeadError {
    /// Returns the refusal of a head that begins with `input`.
    #[cold]
    pub(super) fn refused(self, input: &[u8]) -> Refusal {
        let (status, reason, detail) = self.row();
        let (method, target) = first_words(input);
        Refusal {
            status: StatusCode::from_u16(status).expect("three digits"),
            reason,
            detail,
            method,
            target,
        }
    }
}

/// Returns the refusal of a head that took too long; `input` is the part that arrived.
pub(in crate::edge) fn timeout(input: &[u8]) -> Refusal {
    HeadError::Timeout.refused(input)
}

/// Returns the refusal of a request whose header section cannot be parsed after all.
pub(in crate::edge) fn unreadable() -> Refusal {
    HeadError::ManyHeaders.refused(&[])
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
    let target = &target[..target.len().min(LOGGED_TARGET)];
    let text = percent_encode(target, NOT_IN_TARGETS).to_string();
    let method = String::from_utf8_lossy(method).into_owned();
    (Some(method), Some(text).filter(|text| !text.is_empty()))
}
