//! Collector of traces: receives `ExportTraceServiceRequest` over gRPC or HTTP.
//!
//! Only headers of the configuration are sent, beside those of the content: variables such as
//! `OTEL_EXPORTER_OTLP_HEADERS` are meant for another collector.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use bytes::{BufMut as _, Bytes};
use edgeway_net::fetch::{Fetch, Versions};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, header, uri::PathAndQuery};
use memchr::memmem;
use percent_encoding::{PercentDecode, percent_decode};

use super::exporter::{ExportSettings, Transport};

/// Longest response that is read. A collector sends a few bytes.
const LONGEST: usize = 64 * 1024;

/// Repetitions of a request that the collector could not take, within the timeout of the whole.
const REPEATS: usize = 3;
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_millis(1600);

const EXPORT: PathAndQuery =
    PathAndQuery::from_static("/opentelemetry.proto.collector.trace.v1.TraceService/Export");

/// Client of a collector.
pub(super) struct Collector {
    client: Fetch,
    transport: Transport,
    url: Uri,
    headers: HeaderMap,
    timeout: Duration,
}

impl Collector {
    pub(super) fn new(settings: &ExportSettings) -> Result<Self, String> {
        let invalid = |error: http::Error| error.to_string();
        let mut url = Uri::try_from(&settings.endpoint).map_err(|error| invalid(error.into()))?;
        let mut headers = settings.headers.clone();
        let (content_type, versions) = match settings.transport {
            Transport::Grpc => ("application/grpc", Versions::Http2),
            Transport::Http => ("application/x-protobuf", Versions::Negotiated),
        };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        if settings.transport == Transport::Grpc {
            let mut parts = url.into_parts();
            parts.path_and_query = Some(EXPORT);
            url = Uri::from_parts(parts).map_err(|error| invalid(error.into()))?;
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
            let timeout = HeaderValue::try_from(format!("{}m", settings.timeout.as_millis()));
            headers.insert("grpc-timeout", timeout.expect("digits are valid"));
        }
        Ok(Self {
            client: Fetch::with_ca(&url, settings.ca.as_deref(), versions)?,
            transport: settings.transport,
            url,
            headers,
            timeout: settings.timeout,
        })
    }

    /// Sends a request, and again if the collector asks for that.
    pub(super) async fn send(&self, message: Bytes) -> Result<(), String> {
        let message = match self.transport {
            Transport::Grpc => framed(&message),
            Transport::Http => message,
        };
        let mut delays = ExponentialBuilder::default()
            .with_min_delay(FIRST_DELAY)
            .with_max_delay(LONGEST_DELAY)
            .with_max_times(REPEATS)
            .with_jitter()
            .build();
        loop {
            let refusal = match self.attempt(message.clone()).await {
                Ok(()) => return Ok(()),
                Err(refusal) => refusal,
            };
            let delay = delays.next().filter(|_| refusal.may_be_repeated);
            let Some(delay) = delay else {
                return Err(refusal.why);
            };
            tokio::time::sleep(delay.max(refusal.not_before)).await;
        }
    }

    async fn attempt(&self, message: Bytes) -> Result<(), Refusal> {
        let mut request = Request::new(message);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.url.clone();
        *request.headers_mut() = self.headers.clone();
        let sent = self
            .client
            .send_for_trailers(request, self.timeout, LONGEST);
        let response = sent.await.map_err(|error| Refusal {
            may_be_repeated: true,
            not_before: Duration::ZERO,
            why: error.to_string(),
        })?;
        match self.transport {
            Transport::Grpc => Refusal::of_call(&response),
            Transport::Http if response.status().is_success() => Ok(()),
            Transport::Http => Err(Refusal::of_response(&response)),
        }
    }
}

/// Returns a message as gRPC sends it: not compressed, with its length in front.
fn framed(message: &[u8]) -> Bytes {
    let mut framed = Vec::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    framed.into()
}

/// Refusal of a request.
struct Refusal {
    may_be_repeated: bool,
    /// Time that the collector asked for.
    not_before: Duration,
    why: String,
}

impl Refusal {
    /// OTLP, "Failures" of OTLP/gRPC. A response without a body has its status in the headers.
    fn of_call(response: &Response<HeaderMap>) -> Result<(), Self> {
        let field = |name| {
            let trailer = response.body().get(name);
            trailer.or_else(|| response.headers().get(name))
        };
        let status = field("grpc-status").and_then(|value| value.to_str().ok()?.parse::<u8>().ok());
        let may_be_repeated = match status {
            Some(0) => return Ok(()),
            // Canceled, deadline exceeded, aborted, out of range, unavailable, data loss.
            Some(1 | 4 | 10 | 11 | 14 | 15) => true,
            // Resource exhausted: only if the collector says when.
            Some(8) => field("grpc-status-details-bin").is_some_and(|details| {
                let text = details.to_str().unwrap_or_default().trim_end_matches('=');
                let details = BASE64_STANDARD_NO_PAD.decode(text).unwrap_or_default();
                memmem::find(&details, b"google.rpc.RetryInfo").is_some()
            }),
            Some(_) => false,
            None => return Err(Self::of_response(response)),
        };
        let message = field("grpc-message").map(|text| percent_decode(text.as_bytes()));
        let message = message
            .map(PercentDecode::decode_utf8_lossy)
            .unwrap_or_default();
        Err(Self {
            may_be_repeated,
            not_before: Duration::ZERO,
            why: format!(
                "response with gRPC status {}: {message}",
                status.unwrap_or_default()
            ),
        })
    }

    /// OTLP, "Failures" of OTLP/HTTP.
    fn of_response<T>(response: &Response<T>) -> Self {
        let status = response.status().as_u16();
        let after = response.headers().get(header::RETRY_AFTER);
        let seconds = after.and_then(|value| value.to_str().ok()?.parse().ok());
        Self {
            may_be_repeated: matches!(status, 429 | 502 | 503 | 504),
            not_before: Duration::from_secs(seconds.unwrap_or_default()),
            why: format!("response with status {}", response.status()),
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::prelude::BASE64_STANDARD;

    use super::*;

    /// Returns the reason why a call failed, and true if it may be repeated.
    #[track_caller]
    fn refusal(
        status: u16,
        headers: &[(&'static str, &str)],
        trailers: &[(&'static str, &str)],
    ) -> (String, bool) {
        let map = |fields: &[(&'static str, &str)]| -> HeaderMap {
            let fields = fields.iter();
            fields
                .map(|(name, value)| {
                    (
                        header::HeaderName::from_static(name),
                        value.parse().unwrap(),
                    )
                })
                .collect()
        };
        let mut response = Response::new(map(trailers));
        *response.status_mut() = status.try_into().unwrap();
        *response.headers_mut() = map(headers);
        match Refusal::of_call(&response) {
            Ok(()) => ("accepted".to_owned(), false),
            Err(refusal) => (refusal.why, refusal.may_be_repeated),
        }
    }

    #[test]
    fn the_status_of_a_call_is_in_trailers_or_in_headers() {
        assert_eq!(refusal(200, &[], &[("grpc-status", "0")]).0, "accepted");
        let fields = [("grpc-status", "14"), ("grpc-message", "come%20later")];
        let expected = ("response with gRPC status 14: come later".to_owned(), true);
        assert_eq!(refusal(200, &[], &fields), expected);
        assert_eq!(refusal(200, &fields, &[]), expected);
        assert!(!refusal(200, &[], &[("grpc-status", "3")]).1);
    }

    #[test]
    fn without_a_status_of_the_call_that_of_the_response_decides() {
        assert!(refusal(503, &[], &[]).1);
        assert!(!refusal(404, &[], &[]).1);
        assert_eq!(
            refusal(200, &[], &[]),
            ("response with status 200 OK".to_owned(), false)
        );
    }

    #[test]
    fn an_exhausted_collector_gets_a_batch_again_only_if_it_says_when() {
        assert!(!refusal(200, &[], &[("grpc-status", "8")]).1);
        let info = b"\x08\x08\x1a\x2c\x0a\x28type.googleapis.com/google.rpc.RetryInfo\x12\x00";
        for details in [
            BASE64_STANDARD.encode(info),
            BASE64_STANDARD_NO_PAD.encode(info),
        ] {
            let fields = [("grpc-status", "8"), ("grpc-status-details-bin", &*details)];
            assert!(refusal(200, &[], &fields).1, "{details}");
        }
    }
}
