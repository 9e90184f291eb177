//! One strict scan of each raw HTTP/1 head before Pingora reads it.

use http::StatusCode;

/// How long a head may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeadLimits {
    pub(super) request_line: usize,
    pub(super) headers: usize,
    pub(super) header_count: usize,
}

/// A head that can be read in one way only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Up to and with the empty line.
    pub(super) length: usize,
    pub(super) body: Body,
}

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    None,
    Length(u64),
    Chunked,
}

/// Why a head is refused, and what of it can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) reason: &'static str,
    pub(super) detail: &'static str,
    pub(super) method: Option<String>,
    pub(super) target: Option<String>,
}

impl Refused {
    /// A head that took too long.
    pub(super) fn timeout(_input: &[u8]) -> Self {
        Self {
            status: StatusCode::REQUEST_TIMEOUT,
            reason: "header_timeout",
            detail: "The request took too long to arrive.",
            method: None,
            target: None,
        }
    }
}

/// What the bytes so far come to.
#[derive(Debug)]
pub(super) enum Scanned {
    Partial,
    Head(Head),
    Refused(Refused),
}

/// Goes over the bytes of one head as they come.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    /// Where the search for the end goes on.
    searched: usize,
}

impl Scanner {
    /// The next head begins.
    pub(super) fn restart(&mut self) {
        self.searched = 0;
    }

    /// Scans `input`, which begins with the head and holds what has come of it so far.
    pub(super) fn scan(&mut self, input: &[u8], limits: &HeadLimits) -> Scanned {
        let from = self.searched.saturating_sub(3);
        let Some(end) = memchr::memmem::find(&input[from..], b"\r\n\r\n") else {
            self.searched = input.len();
            if input.len() > limits.headers {
                return Scanned::Refused(Refused {
                    status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                    reason: "long_head",
                    detail: "The request's headers, cookies among them, are too long.",
                    method: None,
                    target: None,
                });
            }
            return Scanned::Partial;
        };
        let end = from + end;
        let text = String::from_utf8_lossy(&input[..end]).to_ascii_lowercase();
        let mut body = Body::None;
        for line in text.split("\r\n").skip(1) {
            if let Some(length) = line.strip_prefix("content-length:") {
                body = length.trim().parse().map_or(Body::None, Body::Length);
            } else if line.starts_with("transfer-encoding:") {
                body = Body::Chunked;
                break;
            }
        }
        Scanned::Head(Head {
            length: end + 4,
            body,
        })
    }
}
