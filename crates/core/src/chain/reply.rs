//! Replies: responses that a filter or a route action makes in place of a backend.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};

use crate::base::units::whole_seconds;

/// A response that the gateway makes itself.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: StatusCode,
    /// Headers beyond `Content-Type`, `Content-Length` and `Date`, which the writer sets.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: ReplyBody,
    /// Reason word in log, metric and status page, or `None` for a reply that refuses nothing (a
    /// redirect, a preflight).
    pub reason: Option<&'static str>,
    /// True if the client connection is closed after this reply.
    pub close: bool,
}

/// The body of a [`Reply`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyBody {
    Empty,
    /// Built-in page that explains the status, as HTML, JSON or text according to the client's
    /// `Accept`; `detail` is one sentence for the reader.
    Page {
        detail: Option<&'static str>,
    },
    Bytes {
        content_type: Option<HeaderValue>,
        body: Bytes,
    },
}

impl Reply {
    /// Makes a refusal or failure with the built-in page.
    pub fn refuse(status: StatusCode, reason: &'static str) -> Self {
        Self {
            reason: Some(reason),
            ..Self::with(status, ReplyBody::Page { detail: None })
        }
    }

    /// Makes a reply without a body, such as a redirect or a preflight.
    pub fn empty(status: StatusCode) -> Self {
        Self::with(status, ReplyBody::Empty)
    }

    /// Makes a reply with a fixed body.
    pub fn bytes(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Self {
        let content_type = Some(content_type);
        let body = body.into();
        Self::with(status, ReplyBody::Bytes { content_type, body })
    }

    fn with(status: StatusCode, body: ReplyBody) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body,
            reason: None,
            close: false,
        }
    }

    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Adds one sentence for the reader of the built-in page.
    #[must_use]
    pub fn detail(mut self, detail: &'static str) -> Self {
        if let ReplyBody::Page { detail: slot } = &mut self.body {
            *slot = Some(detail);
        }
        self
    }

    /// Adds `Retry-After` in whole seconds, rounded up: an earlier retry would be refused again.
    #[must_use]
    pub fn retry_after(self, wait: Duration) -> Self {
        let seconds = whole_seconds(wait).max(1);
        self.header(header::RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// Returns true if the client gets no response at all: its connection is closed, or its stream
    /// of HTTP/2 reset (status 444 of nginx).
    pub fn is_silent(&self) -> bool {
        self.status.as_u16() == 444
    }

    /// Closes the client connection after this reply.
    #[must_use]
    pub fn closing(mut self) -> Self {
        self.close = true;
        self
    }
}

impl From<Reply> for super::Verdict {
    fn from(reply: Reply) -> Self {
        Self::Reply(Box::new(reply))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_whole_seconds_and_never_none() {
        for (millis, shown) in [
            (0, "1"),
            (1, "1"),
            (1000, "1"),
            (1001, "2"),
            (600_000, "600"),
        ] {
            let reply = Reply::refuse(StatusCode::TOO_MANY_REQUESTS, "rate_limit")
                .retry_after(Duration::from_millis(millis));
            assert_eq!(reply.headers[0].1, shown, "{millis}");
        }
    }
}
