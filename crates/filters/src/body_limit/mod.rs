//! Refuses request bodies that are too long, before or while they arrive.

mod config;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use edgeway_base::http::has;
use edgeway_core::chain::{Body, Exchange, Filter, Guard, Phases, Reply, Traits, Verdict};
use http::{StatusCode, header};

/// The compiled filter.
#[derive(Debug)]
pub struct BodyLimit {
    max: u64,
}

/// Bytes received so far of a body without a `Content-Length`.
struct ReceivedBytes {
    count: u64,
    /// Attempt at a backend that they belong to. Another attempt sends the same body again.
    attempt: u32,
}

filter_kind!(BodyLimit: config::BodyLimitConfig = "body_limit", on_by_default = true);

impl Filter for BodyLimit {
    fn traits(self: Arc<Self>) -> Traits {
        Traits {
            guard_alone: Some(Arc::new(AnnouncedLimit(Arc::clone(&self)))),
            ..Traits::new(Phases::REQUEST | Phases::REQUEST_BODY, Guard::Limit)
        }
    }

    fn on_request(&self, ex: &mut Exchange<'_>) -> Verdict {
        self.verdict(ex)
    }

    fn explain(&self, ex: &Exchange<'_>) -> Vec<String> {
        self.verdict(ex).explain()
    }

    fn on_request_body(
        &self,
        ex: &mut Exchange<'_>,
        chunk: &mut Option<Bytes>,
        _end: bool,
    ) -> Verdict {
        let Some(chunk) = chunk else {
            return Verdict::Next;
        };
        if !is_counted(ex) {
            return Verdict::Next;
        }
        let count = chunk.len() as u64;
        let attempt = ex.facts.upstream.attempts;
        let received = match ex.facts.slot_mut::<ReceivedBytes>() {
            Some(received) if received.attempt == attempt => {
                received.count += count;
                received.count
            }
            Some(received) => {
                *received = ReceivedBytes { count, attempt };
                count
            }
            None => {
                ex.facts.put(ReceivedBytes { count, attempt });
                count
            }
        };
        if received > self.max {
            return too_large();
        }
        Verdict::Next
    }
}

/// The limit for requests that another route takes. Their body is not counted, so they must declare
/// its length.
struct AnnouncedLimit(Arc<BodyLimit>);

impl Filter for AnnouncedLimit {
    fn traits(self: Arc<Self>) -> Traits {
        Traits::new(Phases::REQUEST, Guard::Limit)
    }

    fn on_request(&self, ex: &mut Exchange<'_>) -> Verdict {
        // Headers of HTTP/2 do not tell whether a body follows: the end of their stream does.
        let has_none = matches!(&ex.facts.body, Body::Whole(body) if body.is_empty());
        if is_counted(ex) && !has_none {
            return Reply::refuse(StatusCode::LENGTH_REQUIRED, "body_limit")
                .detail("A request body needs a `Content-Length` here.")
                .closing()
                .into();
        }
        self.0.on_request(ex)
    }
}

impl BodyLimit {
    fn verdict(&self, ex: &Exchange<'_>) -> Verdict {
        // The page of a refusal gets no body.
        let is_page = ex.facts.reason == Some("body_limit");
        if is_page || !has(&ex.head.headers, &header::CONTENT_LENGTH) {
            return Verdict::Next;
        }
        match ex.header(&header::CONTENT_LENGTH) {
            Some(length) if !self.allows(length.as_bytes()) => too_large(),
            _ => Verdict::Next,
        }
    }

    /// Returns true if the length is within the limit. An invalid length is left to the parser,
    /// which refuses it; a length beyond any number is too large.
    fn allows(&self, length: &[u8]) -> bool {
        let mut total = 0u64;
        for digit in length {
            if !digit.is_ascii_digit() {
                return true;
            }
            total = total
                .saturating_mul(10)
                .saturating_add(u64::from(digit - b'0'));
        }
        total <= self.max
    }
}

/// Returns true if the request has a body of undeclared length.
///
/// A declared length was checked already, and HTTP's framing ends the body there. An HTTP/1 request
/// that declares neither a length nor chunks has no body: any bytes that arrive are messages of a
/// WebSocket, which have no end.
fn is_counted(ex: &Exchange<'_>) -> bool {
    match ex.head.version {
        http::Version::HTTP_2 | http::Version::HTTP_3 => {
            !has(&ex.head.headers, &header::CONTENT_LENGTH)
        }
        _ => has(&ex.head.headers, &header::TRANSFER_ENCODING),
    }
}

/// Refuses the request and closes the connection: the rest of the body would otherwise have to be
/// read.
fn too_large() -> Verdict {
    Reply::refuse(StatusCode::PAYLOAD_TOO_LARGE, "body_limit")
        .detail("The request body is too large.")
        .closing()
        .into()
}
