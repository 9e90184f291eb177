//! Deadlines of HTTP/2 streams to backends. Many streams share one connection, which must not be
//! closed for one of them, so Pingora's own timeouts are used: one bound for each read of a stream,
//! chosen so that no stream ends before its time is up.

use std::time::{Duration, Instant};

use edgeway_base::http::begins_with;
use edgeway_gateway::Limits;
use edgeway_upstreams::{Protocol, Timeouts};
use http::{HeaderMap, StatusCode, Version, header};
use pingora::{
    Error, ErrorSource, ErrorType, Result,
    http::{RequestHeader, ResponseHeader},
};

use super::{context::Context, grpc};
use crate::connection::deadline::Expired;

/// Grace period after a gRPC timeout, in which a client that stops waiting can cancel the call
/// itself.
const GRACE: Duration = Duration::from_secs(1);

/// Time limits of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StreamBounds {
    /// Longest silence of the backend, before and during its response.
    pub(super) silence: Duration,
    /// Deadline of the whole request.
    pub(super) due: Option<Instant>,
}

/// Returns true if the request goes to an HTTP/2 backend.
pub(super) fn is_h2(ctx: &Context) -> bool {
    ctx.upstream
        .as_ref()
        .is_some_and(|upstream| upstream.protocol() == Protocol::H2)
}

/// Returns the bounds of the attempt that begins at `now`.
pub(super) fn bounds(
    request: &StreamRequest<'_>,
    timeouts: &Timeouts,
    now: Instant,
) -> StreamBounds {
    let Some(silence) = silence(request, timeouts) else {
        // A stream: its messages may be far apart, and its end is not known.
        let longest = timeouts.stream_idle.max(timeouts.first_byte);
        let stated = grpc::timeout(request.headers).filter(|_| grpc::is_call(request.headers));
        let stated = stated.map(|stated| stated.saturating_add(GRACE));
        return StreamBounds {
            silence: stated.map_or(longest, |stated| stated.min(longest)),
            due: None,
        };
    };
    let due = timeouts.total.map(|total| request.started + total);
    let left = due.map(|due| due.saturating_duration_since(now));
    StreamBounds {
        // Pingora treats zero as no timeout at all.
        silence: left.map_or(silence, |left| {
            silence.min(left.max(Duration::from_millis(1)))
        }),
        due,
    }
}

/// Properties of the request that determine its bounds.
pub(super) struct StreamRequest<'a> {
    pub(super) headers: &'a HeaderMap,
    pub(super) started: Instant,
    /// True once the whole request body has arrived.
    pub(super) is_complete: bool,
    pub(super) limits: &'a Limits,
}

/// Returns the longest silence, or `None` for a stream. The backend's silence begins with the
/// request headers, so it includes the client's time for the body.
fn silence(request: &StreamRequest<'_>, timeouts: &Timeouts) -> Option<Duration> {
    if grpc::is_call(request.headers) || asks_for_events(request.headers) {
        return None;
    }
    let silence = timeouts.first_byte.max(timeouts.idle);
    if request.is_complete {
        return Some(silence);
    }
    let length: u64 = request
        .headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()?;
    // At the slowest rate that a client may have.
    let seconds = length.checked_div(request.limits.body_rate)?;
    let upload = request.limits.body_grace + Duration::from_secs(seconds);
    Some(silence.saturating_add(upload))
}

fn asks_for_events(headers: &HeaderMap) -> bool {
    headers
        .get(header::ACCEPT)
        .is_some_and(|accept| begins_with(accept.as_bytes(), b"text/event-stream"))
}

/// Returns the bound of a stream that `error` reports as exceeded, if any.
pub(super) fn expired(error: &Error, ctx: &Context) -> Option<Expired> {
    let is_timeout = *error.esource() == ErrorSource::Upstream
        && matches!(error.etype(), ErrorType::ReadTimedout);
    if !is_timeout || !is_h2(ctx) {
        return None;
    }
    let now = ctx.live().world.clock.now();
    Some(if ctx.due.is_some_and(|due| now >= due) {
        Expired::Total
    } else if ctx.responded_at.is_some() {
        Expired::Idle
    } else {
        Expired::FirstByte
    })
}

/// Returns an error if the deadline of the whole request has passed.
pub(super) fn check_due(ctx: &Context) -> Result<()> {
    match ctx.due {
        Some(due) if ctx.live().world.clock.now() >= due => {
            Err(Error::new_up(ErrorType::ReadTimedout))
        }
        _ => Ok(()),
    }
}

/// Returns an error if TLS negotiated another protocol than the upstream is configured for: Pingora
/// would continue in HTTP/1.1, where gRPC loses its trailers.
pub(super) fn check_protocol(request: &RequestHeader, ctx: &Context) -> Result<()> {
    if is_h2(ctx) && request.version != Version::HTTP_2 {
        return Err(
            Error::explain(ErrorType::H2Downgrade, "the backend did not accept HTTP/2").into_up(),
        );
    }
    Ok(())
}

/// Returns true if the backend ended this stream only, not its connection.
pub(super) fn is_own_end(error: &Error) -> bool {
    error
        .root_cause()
        .downcast_ref::<h2::Error>()
        .is_some_and(|error| error.is_reset() && error.is_remote())
}

/// Returns true for `100 Continue` and `103 Early Hints`, which are forwarded unchanged. `101`
/// starts a tunnel.
pub(super) fn is_interim(response: &ResponseHeader) -> bool {
    response.status.is_informational() && response.status != StatusCode::SWITCHING_PROTOCOLS
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;
    use edgeway_config::model::{LimitsConfig, TimeoutsConfig};

    fn timeouts(total: Option<Duration>) -> Timeouts {
        Timeouts {
            total,
            ..Timeouts::from(&TimeoutsConfig::default())
        }
    }

    #[track_caller]
    fn check(
        headers: &[(&'static str, &'static str)],
        is_complete: bool,
        total: Option<u64>,
        seconds: u64,
    ) {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| {
                let name = HeaderName::from_static(name);
                (name, HeaderValue::from_static(value))
            })
            .collect();
        let clock = edgeway_base::clock::Clock::test();
        let request = StreamRequest {
            headers: &headers,
            started: clock.now(),
            is_complete,
            limits: &Limits::new(&LimitsConfig::default()),
        };
        let timeouts = timeouts(total.map(Duration::from_secs));
        let bounds = bounds(&request, &timeouts, clock.now());
        assert_eq!(bounds.silence, Duration::from_secs(seconds));
    }

    #[test]
    fn questions_have_the_longer_of_both_bounds() {
        check(&[], true, None, 60);
        check(&[], true, Some(20), 20);
        check(&[], true, Some(100), 60);
    }

    #[test]
    fn a_body_has_the_time_that_its_client_may_take() {
        check(&[("content-length", "10240")], false, None, 60 + 10 + 10);
        check(&[("content-length", "10240")], true, None, 60);
        check(&[], false, None, 3600);
    }

    #[test]
    fn streams_are_as_long_as_they_like() {
        let call = ("content-type", "application/grpc");
        check(&[call], false, Some(20), 3600);
        check(&[("accept", "text/event-stream")], true, Some(20), 3600);
        check(&[call, ("grpc-timeout", "5S")], false, None, 6);
        check(&[call, ("grpc-timeout", "9H")], false, None, 3600);
        check(&[("grpc-timeout", "5S")], true, None, 60);
    }
}
