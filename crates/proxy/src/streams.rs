//! Times of streams: requests over HTTP/2 whose messages may be far apart.

use std::time::Duration;

use edgeway_base::http::begins_with;
use edgeway_upstreams::Timeouts;
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

/// Returns the time to the first byte of the response to a request with these `headers` over
/// HTTP/2, and true if that has no end of its own.
pub(super) fn first_byte(headers: &HeaderMap, timeouts: &Timeouts) -> (Duration, bool) {
    let is_call = grpc::is_call(headers);
    if !is_call && !asks_for_events(headers) {
        return (timeouts.first_byte, false);
    }
    let longest = timeouts.stream_idle.max(timeouts.first_byte);
    let stated = grpc::timeout(headers).filter(|_| is_call);
    let stated = stated.map(|stated| stated.saturating_add(GRACE));
    (stated.map_or(longest, |stated| stated.min(longest)), true)
}

fn asks_for_events(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT);
    accept.is_some_and(|accept| begins_with(accept.as_bytes(), b"text/event-stream"))
}

/// Returns true if the backend ended this stream only, not its connection.
pub(super) fn is_own_end(error: &Error) -> bool {
    error
        .root_cause()
        .downcast_ref::<h2::Error>()
        .is_some_and(|error| error.is_reset() && error.is_remote())
}

#[cfg(test)]
mod tests {
    use edgeway_config::model::TimeoutsConfig;
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[track_caller]
    fn check(headers: &[(&'static str, &'static str)], seconds: u64, is_stream: bool) {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| {
                let name = HeaderName::from_static(name);
                (name, HeaderValue::from_static(value))
            })
            .collect();
        let timeouts = Timeouts::from(&TimeoutsConfig::default());
        let expected = (Duration::from_secs(seconds), is_stream);
        assert_eq!(first_byte(&headers, &timeouts), expected);
    }

    #[test]
    fn streams_are_as_long_as_they_like() {
        let call = ("content-type", "application/grpc");
        check(&[], 30, false);
        check(&[call], 3600, true);
        check(&[("accept", "text/event-stream")], 3600, true);
        check(&[call, ("grpc-timeout", "5S")], 6, true);
        check(&[call, ("grpc-timeout", "9H")], 3600, true);
        check(&[("grpc-timeout", "5S")], 30, false);
    }
}
