//! gRPC as far as a proxy must know it: recognises calls, reads their timeouts, and turns failures
//! of the gateway into a gRPC status.

use std::time::Duration;

pub(super) use edgeway_base::http::is_call;
use edgeway_core::chain::{Reply, ReplyBody};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");

/// Returns the time that the client waits for the call at most, if the client states it.
pub(super) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    // The gRPC specification allows at most eight digits, so no product overflows.
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// Turns `reply`, a refusal or a failure, into a response that gRPC clients understand: a
/// trailers-only response with the status of the call in its headers.
pub(super) fn translate(reply: &mut Reply) {
    let status = call_status(reply.status);
    let detail = match &reply.body {
        ReplyBody::Page { detail } => *detail,
        ReplyBody::Empty | ReplyBody::Bytes { .. } => None,
    };
    let mut message = reply.reason.unwrap_or_default().to_owned();
    if let Some(detail) = detail {
        message.push_str(": ");
        message.push_str(detail);
    }
    reply.status = StatusCode::OK;
    reply.body = ReplyBody::Empty;
    let headers = [
        (header::CONTENT_TYPE, CONTENT_TYPE),
        (GRPC_STATUS, HeaderValue::from(status)),
        (GRPC_MESSAGE, percent_encoded(&message)),
    ];
    reply
        .headers
        .retain(|(name, _)| headers.iter().all(|(known, _)| name != known));
    reply.headers.extend(headers);
}

/// Maps HTTP statuses as gRPC's own table does (`http-grpc-status-mapping`). Three statuses are
/// missing there or are known in more detail here.
fn call_status(status: StatusCode) -> u16 {
    match status.as_u16() {
        // INTERNAL
        400 | 500 => 13,
        // UNAUTHENTICATED
        401 => 16,
        // PERMISSION_DENIED
        403 => 7,
        // UNIMPLEMENTED
        404 | 405 | 415 => 12,
        // RESOURCE_EXHAUSTED: the request is too large.
        413 | 414 | 431 => 8,
        // DEADLINE_EXCEEDED: the backend received the call, so it is not UNAVAILABLE, which clients
        // retry.
        408 | 504 => 4,
        // UNAVAILABLE
        421 | 429 | 502 | 503 => 14,
        // UNKNOWN
        _ => 2,
    }
}

/// Encodes `text` as gRPC's `Percent-Encoded`: printable ASCII except `%` stays.
fn percent_encoded(text: &str) -> HeaderValue {
    const ENCODED: &AsciiSet = &CONTROLS.add(b'%');
    let out = utf8_percent_encode(text, ENCODED).to_string();
    HeaderValue::try_from(out).expect("printable ASCII is a value")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn timeout_of(text: &str) -> Option<Duration> {
        let value = HeaderValue::from_str(text).ok()?;
        timeout(&HeaderMap::from_iter([(GRPC_TIMEOUT, value)]))
    }

    #[test]
    fn deadlines_are_read_as_grpc_writes_them() {
        for (text, expected) in [
            ("1H", Some(Duration::from_hours(1))),
            ("2M", Some(Duration::from_mins(2))),
            ("3S", Some(Duration::from_secs(3))),
            ("250m", Some(Duration::from_millis(250))),
            ("5u", Some(Duration::from_micros(5))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("99999999H", Some(Duration::from_hours(99_999_999))),
            ("123456789S", None),
            ("S", None),
            ("", None),
            ("5", None),
            ("5s", None),
            ("-5S", None),
            ("+5S", None),
            ("1.5S", None),
        ] {
            assert_eq!(timeout_of(text), expected, "{text}");
        }
    }

    #[test]
    fn a_refusal_becomes_the_status_of_the_call() {
        let mut reply = Reply::refuse(StatusCode::BAD_GATEWAY, "upstream_connect")
            .detail("Not reached, 100 % sure.")
            .header(header::RETRY_AFTER, HeaderValue::from_static("1"));
        translate(&mut reply);
        assert_eq!(reply.status, StatusCode::OK);
        assert_eq!(reply.body, ReplyBody::Empty);
        let header = |name| {
            let found = reply.headers.iter().find(|(own, _)| own == name);
            found.map(|(_, value)| value.to_str().unwrap())
        };
        assert_eq!(header("grpc-status"), Some("14"));
        assert_eq!(
            header("grpc-message"),
            Some("upstream_connect: Not reached, 100 %25 sure.")
        );
        assert_eq!(header("content-type"), Some("application/grpc"));
        assert_eq!(header("retry-after"), Some("1"));
    }

    proptest! {
        #[test]
        fn no_deadline_panics(text in ".{0,12}") {
            let _any = timeout_of(&text);
        }

        #[test]
        fn any_message_is_a_header(text in ".{0,40}") {
            percent_encoded(&text).to_str().unwrap();
        }
    }
}
