//! Times of streams: requests over HTTP/2 whose messages may be far apart.

use std::time::Duration;

use edgeway_base::http::begins_with;
use edgeway_config::model::TimeoutsConfig;
use http::{HeaderMap, header};
use pingora::Error;

use super::{context::Context, grpc};

/// Grace period after a gRPC timeout, in which a client that stops waiting can cancel the call
/// itself.
const GRACE: Duration = Duration::from_secs(1);

/// Returns true if the request goes to an HTTP/2 backend.
pub(super) fn is_h2(ctx: &Context) -> bool {
    let upstream = ctx.upstream.as_ref();
    upstream.is_some_and(|upstream| upstream.is_h2())
}

/// The time to the first byte of a response over HTTP/2.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FirstByte {
    pub(super) within: Duration,
    /// The time that each chunk of the request's body gives it again: none if the client has set
    /// its end.
    pub(super) after_chunk: Duration,
    /// True if the response has no end of its own.
    pub(super) is_stream: bool,
    /// True if the client waits for less time than the backend has.
    pub(super) is_clients: bool,
}

impl FirstByte {
    /// Returns the time for a request with these headers.
    pub(super) fn for_request(headers: &HeaderMap, timeouts: &TimeoutsConfig) -> Self {
        let is_call = grpc::is_call(headers);
        let is_stream = is_call || asks_for_events(headers);
        let within = if is_stream {
            timeouts.stream_idle.max(timeouts.first_byte).0
        } else {
            timeouts.first_byte.0
        };
        let stated = grpc::timeout(headers).filter(|_| is_call);
        let stated = stated.map(|stated| stated.saturating_add(GRACE));
        Self {
            within: stated.map_or(within, |stated| stated.min(within)),
            after_chunk: stated.map_or(within, |_| Duration::ZERO),
            is_stream,
            is_clients: stated.is_some_and(|stated| stated < within),
        }
    }
}

fn asks_for_events(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT);
    accept.is_some_and(|accept| begins_with(accept.as_bytes(), b"text/event-stream"))
}

/// Returns true if the backend refused the stream before it processed anything of it: by a reset
/// (RFC 9113, 8.7), or because its GOAWAY names an earlier stream as the last (6.8).
pub(super) fn is_refused(error: &Error) -> bool {
    let cause = error.root_cause().downcast_ref::<h2::Error>();
    // `h2` gives this error to no stream up to the last one.
    let is_excluded = |cause: &h2::Error| cause.is_go_away() && cause.is_remote();
    reset(error) == Some(h2::Reason::REFUSED_STREAM) || cause.is_some_and(is_excluded)
}

/// Returns the reason for which the backend ended this stream only, not its connection.
pub(super) fn reset(error: &Error) -> Option<h2::Reason> {
    let error = error.root_cause().downcast_ref::<h2::Error>()?;
    error
        .reason()
        .filter(|_| error.is_reset() && error.is_remote())
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[track_caller]
    fn check(headers: &[(&'static str, &'static str)], within: u64, after: u64, is_stream: bool) {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| {
                let name = HeaderName::from_static(name);
                (name, HeaderValue::from_static(value))
            })
            .collect();
        let timeouts = TimeoutsConfig::default();
        let expected = FirstByte {
            within: Duration::from_secs(within),
            after_chunk: Duration::from_secs(after),
            is_stream,
            is_clients: within == 6,
        };
        assert_eq!(FirstByte::for_request(&headers, &timeouts), expected);
    }

    #[test]
    fn streams_are_as_long_as_they_like() {
        let call = ("content-type", "application/grpc");
        check(&[], 60, 60, false);
        check(&[call], 3600, 3600, true);
        check(&[("accept", "text/event-stream")], 3600, 3600, true);
        check(&[call, ("grpc-timeout", "5S")], 6, 0, true);
        check(&[call, ("grpc-timeout", "9H")], 3600, 0, true);
        check(&[("grpc-timeout", "5S")], 60, 60, false);
    }
}
